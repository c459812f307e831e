"""The super-res networks against numbers of LongVideoGAN's release, in float32 on the CPU."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from lvg_train.golden import compare, golden_video, randn, set_parameters
from lvg_train.networks.superres_generator import SuperresGenerator

GOLDEN = Path(__file__).parent / "golden"


def load(name: str) -> dict:
    return json.loads((GOLDEN / f"{name}_36x64_144x256.json").read_text())


def test_the_discriminator_gives_the_logits_gradients_and_r1_of_the_release():
    errors = compare(load("sres_discriminator"))

    assert errors.keys() == {"logits", "r1_penalty", "hr_gradient"}
    assert errors["logits"] < 1e-4
    assert max(errors.values()) < 1e-3


def test_the_generator_makes_one_frame_of_the_release():
    case = load("sres_generator")
    at = {tuple(np.unravel_index(i, case["video"]["shape"])): value for i, value in case["video"]["at"]}
    expected = {(0, colour, 0, y, x): value for (_, colour, t, y, x), value in at.items() if t == 1}
    network = SuperresGenerator((36, 64), (144, 256))
    set_parameters(network, case)
    low = golden_video(case["lr_tag"], case["lr_shape"])[:, :, 1:]  # the second of two frames

    with torch.no_grad():
        frame = network(low, randn(case["z_tag"], case["z_shape"]))

    assert len(expected) > 10
    assert [float(frame[i]) for i in expected] == pytest.approx(list(expected.values()), rel=0, abs=4e-5)


@pytest.mark.slow
def test_the_generator_makes_the_frames_of_the_release():
    assert compare(load("sres_generator"))["video"] < 1e-4
