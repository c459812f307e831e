"""Networks in safetensors files: what training saves, `convert` writes and sampling reads.

    generator.to_rgb.weight   ...     each network's parameters and buffers behind its role
    discriminator.b4.out.bias ...
    metadata "lvg"                    JSON: format, {role: kind and arguments of the network}, notes

A file holds one network or several. Filters are not stored; they follow from the arguments.
"""

from __future__ import annotations

import importlib
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from lvg_train.errors import TrainError

FORMAT = "lvg-model-1"
#: kind -> module and class
KINDS = {
    "lowres_generator": ("lvg_train.networks.lowres_generator", "LowresGenerator"),
    "lowres_discriminator": ("lvg_train.networks.lowres_discriminator", "LowresDiscriminator"),
    "superres_generator": ("lvg_train.networks.superres_generator", "SuperresGenerator"),
    "superres_discriminator": ("lvg_train.networks.superres_discriminator", "SuperresDiscriminator"),
}


class ModelError(TrainError):
    """A model file that cannot be used; the text says which, why, and what to do."""


@dataclass(frozen=True)
class NetworkSpec:
    """How a network is built.

    Attributes:
      kind: a key of `KINDS`.
      arguments: of its class, as JSON values.
    """

    kind: str
    arguments: Mapping[str, Any]

    def build(self) -> nn.Module:
        """The network with fresh parameters, of torch's default generator.

        Raises:
          ModelError: there is no such kind, or it does not take these arguments.
        """
        if self.kind not in KINDS:
            raise ModelError(f"there is no network kind {self.kind!r}; there are {', '.join(KINDS)}")
        module, name = KINDS[self.kind]
        arguments = {k: tuple(v) if isinstance(v, list) else v for k, v in self.arguments.items()}
        try:
            return getattr(importlib.import_module(module), name)(**arguments)
        except (TypeError, ValueError) as err:
            raise ModelError(f"a {self.kind} cannot be built from {dict(self.arguments)}: {err}") from err


@dataclass(frozen=True)
class ModelFile:
    """What a model file says of itself.

    Attributes:
      networks: by role: "generator", "discriminator".
      notes: JSON values about where it comes from, e.g. "frame_rate" (frames per second), "step", "source".
    """

    networks: Mapping[str, NetworkSpec]
    notes: Mapping[str, Any] = field(default_factory=dict)


def save_model(path: Path, networks: Mapping[str, nn.Module], description: ModelFile) -> None:
    """Writes networks by role, whole or not at all: to a temporary name, synced, then renamed."""
    tensors = {
        f"{role}.{name}": tensor.detach().cpu().contiguous()
        for role, network in networks.items()
        for name, tensor in network.state_dict().items()
    }
    metadata = {"lvg": json.dumps({"format": FORMAT, **asdict(description)}, sort_keys=True)}
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, partial = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        save_file(tensors, partial, metadata)
        os.fsync(handle)
        os.chmod(partial, 0o644)
        os.replace(partial, path)
    except BaseException:
        os.unlink(partial)
        raise
    finally:
        os.close(handle)


def describe_model(path: Path) -> ModelFile:
    """What a file says of itself; no tensor is read.

    Raises:
      ModelError: it is no model file of ours.
    """
    try:
        with safe_open(path, framework="pt") as file:
            said = json.loads((file.metadata() or {}).get("lvg", "{}"))
        if said.get("format") != FORMAT:
            raise ModelError(
                f"{path} is no model of lvg: its format is {said.get('format')!r}, not {FORMAT!r}; "
                "a checkpoint of the official release becomes one by `lvg-train convert`"
            )
        networks = {role: NetworkSpec(**spec) for role, spec in said["networks"].items()}
        return ModelFile(networks, said["notes"])
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, AttributeError) as err:
        raise ModelError(f"{path} cannot be read as a model: {err}") from err


def load_network(path: Path, role: str, device: torch.device | str = "cpu") -> nn.Module:
    """One network of a file, with its parameters and buffers.

    Raises:
      ModelError: the file lacks it, or its tensors do not fit the network that it describes; the text names them.
    """
    description = describe_model(path)
    if role not in description.networks:
        raise ModelError(f"{path} has no {role}; it has {', '.join(description.networks) or 'nothing'}")
    network = description.networks[role].build()
    try:
        with safe_open(path, framework="pt") as file:
            names = [name for name in file.keys() if name.startswith(f"{role}.")]  # noqa: SIM118
            tensors = {name.removeprefix(f"{role}."): file.get_tensor(name) for name in names}
    except (OSError, SafetensorError) as err:
        raise ModelError(f"{path} cannot be read as a model: {err}") from err
    check_tensors(str(path), tensors, network)
    network.load_state_dict(tensors)
    return network.to(device)


def check_tensors(source: str, tensors: Mapping[str, torch.Tensor], network: nn.Module) -> None:
    """Whether tensors are those of a network, by name and shape.

    Raises:
      ModelError: some are missing, too many or of another shape.
    """
    wanted = {name: list(tensor.shape) for name, tensor in network.state_dict().items()}
    found = {name: list(tensor.shape) for name, tensor in tensors.items()}
    wrong = [
        f"{n} is {found[n]}, not {wanted[n]}" for n in sorted(wanted.keys() & found) if found[n] != wanted[n]
    ]
    wrong += [f"{n} {wanted[n]} is missing" for n in sorted(wanted.keys() - found)]
    wrong += [f"{n} {found[n]} has no place" for n in sorted(found.keys() - wanted)]
    if wrong:
        more = f" and {len(wrong) - 8} more" if len(wrong) > 8 else ""
        raise ModelError(f"{source} does not fit {type(network).__name__}: {'; '.join(wrong[:8])}{more}")
