"""Homogeneous matrices [N, D+1, D+1], float64, that scale, turn and shift points of a plane or a colour space."""

from __future__ import annotations

import math

import torch
from torch import Tensor

# the direction of grey, along which brightness lies
LUMA_AXIS = torch.tensor([1.0, 1.0, 1.0, 0.0], dtype=torch.float64) / math.sqrt(3)


def scale(*factors: Tensor) -> Tensor:
    """Each axis times its factor [N]."""
    return torch.diag_embed(torch.stack([*factors, torch.ones_like(factors[0])], dim=1).double())


def translate(*distances: Tensor) -> Tensor:
    """Each axis plus its distance [N]."""
    matrix = torch.eye(len(distances) + 1, dtype=torch.float64).repeat(len(distances[0]), 1, 1)
    matrix[:, :-1, -1] = torch.stack(distances, dim=1).double()
    return matrix


def rotate(angle: Tensor) -> Tensor:
    """The plane turned by angles [N] in radians, x towards y."""
    angle = angle.double()
    cos, sin, zero, one = angle.cos(), angle.sin(), torch.zeros_like(angle), torch.ones_like(angle)
    rows = [torch.stack(row, dim=1) for row in ([cos, -sin, zero], [sin, cos, zero], [zero, zero, one])]
    return torch.stack(rows, dim=1)


def rotate_hue(angle: Tensor) -> Tensor:
    """Colour space turned about the luma axis by angles [N]: Rodrigues' rotation formula."""
    angle = angle.double()[:, None, None]
    v = LUMA_AXIS[:3]
    cross = torch.linalg.cross(v.expand(3, 3), torch.eye(3, dtype=torch.float64)).T  # cross @ x = v x x
    matrix = torch.eye(4, dtype=torch.float64).repeat(len(angle), 1, 1)
    matrix[:, :3, :3] = (
        angle.cos() * torch.eye(3) + angle.sin() * cross + (1 - angle.cos()) * torch.outer(v, v)
    )
    return matrix


def scale_luma(factor: Tensor) -> Tensor:
    """The component along the luma axis times `factor` [N]: -1 mirrors it, a Householder reflection."""
    along = torch.outer(LUMA_AXIS, LUMA_AXIS)
    return torch.eye(4) + (factor.double()[:, None, None] - 1) * along


def scale_chroma(factor: Tensor) -> Tensor:
    """The components across the luma axis times `factor` [N]."""
    across = torch.diag(torch.tensor([1.0, 1.0, 1.0, 0.0])) - torch.outer(LUMA_AXIS, LUMA_AXIS)
    return torch.eye(4) + (factor.double()[:, None, None] - 1) * across


def is_identity(matrices: Tensor) -> bool:
    return bool((matrices == torch.eye(matrices.shape[-1])).all())
