"""Compares a network with golden numbers: `python -m lvg_train.golden FILE...`.

A golden file names a network and its sizes, and holds outputs of another implementation for parameters and
inputs that both draw from their names: randn(tag) = numpy.random.RandomState(zlib.crc32(tag)). Printed are the
largest errors, each relative to the output's largest value:

    lres_generator_36x64x32.json  1.9e-06
        embedding         1.1e-06
        ...
"""

from __future__ import annotations

import argparse
import json
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lvg_train.filters import crop_axis

Case = dict[str, Any]  # a golden file
PREFIXES = {
    "lres_generator": "G_lres",
    "lres_discriminator": "D_lres",
    "sres_generator": "G_sres",
    "sres_discriminator": "D_sres",
}


def main() -> None:
    """Prints the largest relative error of each file, and of each output in it."""
    parser = argparse.ArgumentParser(prog="python -m lvg_train.golden", description=main.__doc__)
    parser.add_argument("files", metavar="FILE", nargs="+", type=Path)
    for path in parser.parse_args().files:
        errors = compare(json.loads(path.read_text()))
        print(f"{path.name}  {max(errors.values()):.1e}")
        for name, error in errors.items():
            print(f"    {name:<18}{error:.1e}", flush=True)


def compare(case: Case) -> dict[str, float]:
    """The largest relative error of every output that the golden file holds.

    Raises:
      ValueError: the file is of no known network, or its parameters or outputs are not ours.
    """
    if case.get("network") not in RUNNERS:
        raise ValueError(
            f"a golden file's network is one of {', '.join(RUNNERS)}; got {case.get('network')!r}"
        )
    found = RUNNERS[case["network"]](case)
    errors = {name: relative_error(value, case[name]) for name, value in found.items() if name in case}
    if not errors:
        raise ValueError(f"the golden file has none of the outputs {', '.join(found)}")
    return errors


def relative_error(found: Tensor, expected: Any) -> float:
    """The largest difference over the largest value; `expected` is a number, a list, or a summary of a tensor.

    A summary has the values `at` flat indices, and mean, std and largest magnitude.

    Raises:
      ValueError: the shapes differ.
    """
    found = found.detach().double()
    if not isinstance(expected, dict):
        wanted = torch.as_tensor(expected, dtype=torch.float64)
        check_shape(found, wanted.shape)
        return float((found - wanted).abs().max() / wanted.abs().max())
    check_shape(found, expected["shape"])
    indices, values = zip(*expected["at"], strict=True)
    differences = [
        *(found.flatten()[list(indices)] - torch.tensor(values, dtype=torch.float64)).tolist(),
        float(found.mean()) - expected["mean"],
        float(found.std()) - expected["std"],
        float(found.abs().max()) - expected["abs_max"],
    ]
    return max(map(abs, differences)) / expected["abs_max"]


def check_shape(found: Tensor, expected: Iterable[int]) -> None:
    if list(found.shape) != list(expected):
        raise ValueError(f"the golden file has shape {list(expected)} where ours is {list(found.shape)}")


# ---- parameters and inputs


def randn(tag: str, shape: Iterable[int]) -> Tensor:
    """Gaussian float32 numbers that depend on the tag alone."""
    random = np.random.RandomState(zlib.crc32(tag.encode()))
    return torch.from_numpy(random.standard_normal(tuple(shape)).astype(np.float32))


def golden_video(tag: str, shape: Iterable[int]) -> Tensor:
    return torch.tanh(0.5 * randn(tag, shape))


def set_parameters(network: nn.Module, case: Case) -> None:
    """Gives every parameter the values that its name stands for.

    Raises:
      ValueError: the file's names, shapes or number of parameters differ from the network's.
    """
    parameters = dict(network.named_parameters())
    num_parameters = sum(p.numel() for p in parameters.values())
    if num_parameters != case.get("parameters", num_parameters):
        raise ValueError(f"the golden file has {case['parameters']} parameters, the network {num_parameters}")
    table = case.get("parameter_table") or [distribution_of(*item) for item in parameters.items()]
    ours = {(name, tuple(parameter.shape)) for name, parameter in parameters.items()}
    if different := ours ^ {(name, tuple(shape)) for name, shape, _, _ in table}:
        raise ValueError(f"the golden file's parameters are not the network's: {sorted(different)[:4]} ...")
    with torch.no_grad():
        for name, shape, mean, std in table:
            parameters[name].copy_(mean + std * randn(f"{PREFIXES[case['network']]}.{name}", shape))


def distribution_of(name: str, parameter: nn.Parameter) -> tuple[str, list[int], float, float]:
    """A row of the parameter table for files without one: name, shape, mean, std.

    A bias varies about its value at construction; weights are N(0, 1) as stored, and 100 times that where the
    learning-rate multiplier is 0.01.
    """
    shape = list(parameter.shape)
    if "bias" in name.split(".")[-1]:
        return name, shape, float(parameter.detach().mean()), 0.1
    return name, shape, 0.0, 100.0 if "mapping." in name else 1.0


# ---- networks


def run_lowres_generator(case: Case) -> dict[str, Tensor]:
    from lvg_train.networks.lowres_generator import LowresGenerator, blur_noise, input_frames

    network = LowresGenerator(case["height"], case["width"])
    set_parameters(network, case)
    num_frames, noise = case["seq_length"], randn(case["noise_tag"], case["noise_shape"])
    with torch.no_grad():
        embedding, latents = blur_noise(noise, network.filters), network.latents_of(noise)
        lengths = [frames for frames, _, _ in network.block_shapes(num_frames)]
        return {
            "input_length": torch.tensor(input_frames(num_frames)),
            "layer_lengths": torch.tensor(lengths[: len(network.temporal_layers)]),
            "embedding_length": torch.tensor(embedding.shape[2]),
            "embedding": embedding,
            "latent_first": latents[-1],
            "latent_last": crop_axis(latents[0], 2, num_frames),
            "temporal_input": network.w_to_temp_input(latents[-1].mT).mT,
            "video": network(noise, num_frames, precision="reference"),
        }


def run_lowres_discriminator(case: Case) -> dict[str, Tensor]:
    from lvg_train.networks.lowres_discriminator import LowresDiscriminator

    network = LowresDiscriminator(case["height"], case["width"], case["seq_length"])
    set_parameters(network, case)
    video = golden_video(case["video_tag"], case["video_shape"])
    logits, gradient = differentiate(network, {"video": video}, by="video")
    return {"logits": logits, "r1_penalty": squared_norm(gradient), "video_gradient": gradient}


def run_superres_generator(case: Case) -> dict[str, Tensor]:
    from lvg_train.networks.superres_generator import SuperresGenerator

    network = SuperresGenerator(*superres_sizes(case))
    set_parameters(network, case)
    with torch.no_grad():
        low, z = golden_video(case["lr_tag"], case["lr_shape"]), randn(case["z_tag"], case["z_shape"])
        return {"video": network(low, z, precision="reference")}


def run_superres_discriminator(case: Case) -> dict[str, Tensor]:
    from lvg_train.networks.superres_discriminator import SuperresDiscriminator

    network = SuperresDiscriminator(*superres_sizes(case), case["seq_length"])
    set_parameters(network, case)
    low = golden_video(case["lr_tag"], case["lr_shape"])
    high = golden_video(case["hr_tag"], case["hr_shape"])
    logits, gradient = differentiate(network, {"low": low, "high": high}, by="high")
    return {"logits": logits, "r1_penalty": squared_norm(gradient), "hr_gradient": gradient}


def superres_sizes(case: Case) -> tuple[tuple[int, int], tuple[int, int]]:
    return (case["lr_height"], case["lr_width"]), (case["hr_height"], case["hr_width"])


def differentiate(network: nn.Module, inputs: dict[str, Tensor], by: str) -> tuple[Tensor, Tensor]:
    """Logits [N] of the inputs, and their sum's gradient with respect to the one named `by`; a sample at a time."""
    logits, gradients = [], []
    for i in range(len(inputs[by])):
        sample = {name: value[i : i + 1] for name, value in inputs.items()}
        sample[by].requires_grad_()
        logit = network(**sample, precision="reference")
        logits.append(logit.detach())
        gradients.append(torch.autograd.grad(logit.sum(), sample[by])[0])
    return torch.cat(logits), torch.cat(gradients)


def squared_norm(gradient: Tensor) -> Tensor:
    """Of each sample, in float64: the R1 penalty, Mescheder et al. 2018, eq. 9, without gamma/2."""
    return gradient.double().flatten(1).square().sum(1)


RUNNERS: dict[str, Callable[[Case], dict[str, Tensor]]] = {
    "lres_generator": run_lowres_generator,
    "lres_discriminator": run_lowres_discriminator,
    "sres_generator": run_superres_generator,
    "sres_discriminator": run_superres_discriminator,
}

if __name__ == "__main__":
    main()
