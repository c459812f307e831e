"""Losses of both stages: the non-saturating logistic loss and the gradient penalty on real videos.

Logits are float32 [N], larger for what the discriminator takes for real.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def generator_loss(fake: Tensor) -> Tensor:
    """Mean of -log(sigmoid(fake)): Goodfellow et al. 2014, "Generative Adversarial Nets", section 3."""
    return F.softplus(-fake).mean()


def fake_loss(fake: Tensor) -> Tensor:
    """The discriminator's share for generated videos: mean of -log(1 - sigmoid(fake))."""
    return F.softplus(fake).mean()


def real_loss(real: Tensor) -> Tensor:
    """The discriminator's share for real videos: mean of -log(sigmoid(real))."""
    return F.softplus(-real).mean()


def gradient_penalty(real: Tensor, videos: Tensor) -> Tensor:
    """Squared norm of the gradient of each logit with respect to its video [N, ...]: float32 [N].

    R1 without its factor gamma / 2: Mescheder et al. 2018, "Which Training Methods for GANs do actually
    Converge?", eq. 9. A logit must depend on no other sample's video.
    """
    (gradient,) = torch.autograd.grad(real.sum(), videos, create_graph=True)
    return gradient.float().square().flatten(1).sum(1)
