"""The low-res networks against numbers of the release's (`tests/golden/`, computed on a CPU in float32)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from lvg_train.golden import (
    compare,
    differentiate,
    distribution_of,
    golden_video,
    randn,
    relative_error,
    set_parameters,
    squared_norm,
)
from lvg_train.networks.lowres_discriminator import LowresDiscriminator
from lvg_train.networks.lowres_generator import LowresGenerator

GOLDEN = Path(__file__).parent / "golden"


def golden(name: str) -> dict:
    return json.loads((GOLDEN / f"{name}.json").read_text())


def test_the_generator_gives_the_golden_video_and_all_that_leads_to_it():
    errors = compare(golden("lres_generator_36x64x32"))

    assert set(errors) == {
        "input_length", "layer_lengths", "embedding_length",
        "embedding", "latent_first", "latent_last", "temporal_input", "video",
    }  # fmt: skip
    assert max(errors.values()) < 1e-4


@pytest.mark.slow
def test_the_discriminator_gives_the_golden_logits_gradients_and_r1():
    errors = compare(golden("lres_discriminator_36x64x128"))

    assert set(errors) == {"logits", "r1_penalty", "video_gradient"}
    assert errors["logits"] < 1e-4
    assert max(errors.values()) < 1e-3


def test_the_discriminator_gives_the_golden_logit_gradient_and_r1_of_the_first_video():
    case = golden("lres_discriminator_36x64x128")
    network = LowresDiscriminator(36, 64)
    set_parameters(network, case)
    video = golden_video(case["video_tag"], case["video_shape"])[:1]

    logits, gradient = differentiate(network, {"video": video}, by="video")

    assert relative_error(logits, case["logits"][:1]) < 1e-4
    assert relative_error(squared_norm(gradient), case["r1_penalty"][:1]) < 1e-3
    expected = {i: value for i, value in case["video_gradient"]["at"] if i < gradient.numel()}
    assert len(expected) == 16
    found = gradient.flatten()[list(expected)]
    assert relative_error(found, list(expected.values())) < 1e-3


@pytest.mark.parametrize(
    ("name", "network"),
    [("lres_generator_36x64x32", LowresGenerator), ("lres_discriminator_36x64x128", LowresDiscriminator)],
)
def test_a_file_without_a_table_means_the_same_parameters(name, network):
    with torch.device("meta"):
        shapes = dict(network(36, 64).named_parameters())
    biases = {
        row[0]: torch.full(row[1], row[2]) for row in golden(name)["parameter_table"] if "bias" in row[0]
    }

    table = [distribution_of(key, biases.get(key, shapes[key])) for key in shapes]

    assert sorted(map(list, table)) == sorted(golden(name)["parameter_table"])


def test_the_networks_have_as_many_parameters_as_the_release():
    with torch.device("meta"):
        generator, discriminator = LowresGenerator(36, 64), LowresDiscriminator(36, 64)

    assert sum(p.numel() for p in generator.parameters()) == 83_215_939
    assert sum(p.numel() for p in discriminator.parameters()) == 46_424_609


def test_an_error_is_the_largest_difference_over_the_largest_value():
    summary = {"shape": [2, 2], "mean": 1.0, "std": 2.0, "abs_max": 4.0, "at": [[0, 1.0], [3, -1.0]]}
    found = torch.tensor([[1.0, 4.0], [0.0, -1.0]])
    exact = {**summary, "std": float(found.std())}

    assert relative_error(found, exact) < 1e-7
    assert relative_error(found, {**exact, "at": [[3, 1.0]]}) == 0.5
    assert relative_error(found, {**exact, "mean": 3.0}) == 0.5
    assert relative_error(torch.tensor([1.0, 2.5]), [1.0, 2.0]) == 0.25


def test_other_shapes_parameters_and_networks_are_refused():
    case = {**golden("lres_discriminator_36x64x128"), "height": 16, "width": 16, "seq_length": 1}

    with pytest.raises(ValueError, match="46424609 parameters, the network"):
        compare(case)
    with pytest.raises(ValueError, match=r"parameters are not the network's: .*'epilogue"):
        compare({key: case[key] for key in case if key != "parameters"})
    with pytest.raises(ValueError, match=r"shape \[3\] where ours is \[2\]"):
        relative_error(torch.zeros(2), [1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match=r"is one of lres_generator.*got 'vae'"):
        compare({"network": "vae"})


def test_golden_noise_depends_on_the_tag_alone():
    assert torch.equal(randn("a", [4]), randn("a", (2, 2)).flatten())
    assert not torch.equal(randn("a", [4]), randn("b", [4]))
