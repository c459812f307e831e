"""The official release's networks as ours, and the model file of them.

Parameters map by name: ours have the release's names (`lvg_train.networks`). Running averages map by name, else within
one module in the order in which they were registered. Our files hold no filters, as those follow from the sizes; a
filter of the release is compared with ours where one is alike. What is left on either side is refused by name.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from lvg_train.filters import triangle
from lvg_train.model_file import ModelFile, NetworkSpec, check_tensors, save_model
from lvg_train.networks.lowres_generator import LATENT_TAPS
from lvg_train.networks.superres_generator import conditioning_taps
from lvg_train.release import Checkpoint, ReleaseError, ReleaseNetwork, read_checkpoint

MAX_EDGE, MAX_FRAMES, MAX_CHANNEL_SCALE = 4096, 4096, 2.0
#: the last layer of the super-res generator, named after its size
LAST_LAYER = re.compile(r"SG3\.synthesis\.L14_(\d{1,4})_(\d{1,4})_3\.weight")
FILTER_FACTORS = (2, 4, 8, 16, 32)
FILTER_TOLERANCE = 1e-5
MAX_FILTER_SIZE = 2**20  # numbers; the low-pass filters of stage 1 are 640,000

BY_NAME, BY_ORDER = "by name", "by order"
DERIVED, CONSTANT = "derived, equal", "constant, not carried"

Size = tuple[int, int]  # height and width
T = TypeVar("T")


@dataclass(frozen=True)
class Asked:
    """What a checkpoint may not say of its networks.

    Attributes:
      size: height and width: of all frames in stage 1, of high-res frames in stage 2.
      low_size: of low-res frames in stage 2.
      num_frames: of the videos that stage 1's discriminator takes.
    """

    size: Size | None = None
    low_size: Size | None = None
    num_frames: int | None = None


@dataclass(frozen=True)
class Row:
    """A tensor of the release, by which rule it was taken, and its name in ours, "" where it is not carried."""

    source: str
    shape: tuple[int, ...]
    rule: str
    target: str


@dataclass(frozen=True)
class Converted:
    """One of our networks with the release's numbers."""

    spec: NetworkSpec
    network: nn.Module
    rows: tuple[Row, ...]

    @property
    def num_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.network.parameters())

    def counts(self) -> Counter[tuple[str, str]]:
        """How many ("parameters" or "buffers", rule) there are."""
        parameters = {name for name, _ in self.network.named_parameters()}
        return Counter(("parameters" if r.target in parameters else "buffers", r.rule) for r in self.rows)


@dataclass(frozen=True)
class Conversion:
    """What became of a checkpoint: networks by role, and what else it holds, which stays behind."""

    networks: Mapping[str, Converted]
    not_carried: tuple[str, ...]


NOTHING_ASKED = Asked()


def convert_checkpoint(path: Path, asked: Asked = NOTHING_ASKED) -> Conversion:
    """The networks of a release checkpoint; nothing in it is executed.

    Raises:
      PickleError: it is damaged, or asks for what no file of the release has.
      ReleaseError: it has no network, or neither it nor `asked` says a size that is needed.
      ModelError: tensors do not fit the network; the text names them.
      OSError: it cannot be read.
    """
    checkpoint = read_checkpoint(path)
    facts = Facts(checkpoint, asked)
    networks = {
        role: convert_network(f"{role} of {path}", network, facts)
        for role, network in checkpoint.networks.items()
    }
    return Conversion(networks, checkpoint.others)


def save_conversion(source: Path, conversion: Conversion, out: Path) -> None:
    """Writes the model file; the release file's name and sha256 are among its notes."""
    with source.open("rb") as file:
        notes = {"source": source.name, "source_sha256": hashlib.file_digest(file, "sha256").hexdigest()}
    specs = {role: converted.spec for role, converted in conversion.networks.items()}
    networks = {role: converted.network for role, converted in conversion.networks.items()}
    save_model(out, networks, ModelFile(specs, notes))


def convert_network(source: str, release: ReleaseNetwork, facts: Facts) -> Converted:
    """One of our networks with the release's numbers; `source` says in errors where they are from.

    It is built without memory first, so that what does not fit costs none.
    """
    spec = NetworkSpec(release.kind, ARGUMENTS[release.kind](release, facts))
    with torch.device("meta"):
        blank = spec.build()
    placed = place_tensors(release, blank)
    check_tensors(source, {row.target: outline(source, row.source, release) for row in placed}, blank)
    network = spec.build()
    network.load_state_dict({row.target: release.tensor(row.source).load() for row in placed})
    return Converted(spec, network, (*placed, *compare_constants(source, release, placed, network)))


def outline(source: str, name: str, release: ReleaseNetwork) -> Tensor:
    """A tensor's shape, as a tensor without memory."""
    tensor = release.tensor(name)
    if tensor.numbers.dtype != torch.float32:
        raise ReleaseError(f"{source}: {name} is of {tensor.numbers.dtype}; the release has float32")
    return torch.empty(tensor.shape, device="meta")


# ---- which tensor goes where


def place_tensors(release: ReleaseNetwork, network: nn.Module) -> list[Row]:
    """Rows of all that is carried, and of what has no place and is no constant either, under its own name."""
    parameters = dict(network.named_parameters())
    averages = place_averages(release, [name for name in network.state_dict() if name not in parameters])
    others = [name for name in release.buffers if name not in averages and not is_constant(release, name)]
    return [
        *(Row(name, release.tensor(name).shape, BY_NAME, name) for name in release.parameters),
        *(Row(name, release.tensor(name).shape, rule, target) for name, (target, rule) in averages.items()),
        *(Row(name, release.tensor(name).shape, BY_NAME, name) for name in others),
    ]


def place_averages(release: ReleaseNetwork, wanted: list[str]) -> dict[str, tuple[str, str]]:
    """The place of a buffer and the rule, by its name in the release.

    Within a module of ours those without a namesake take, in order, the scalars that the release has there or
    below, if there are as many.
    """
    placed = {name: (name, BY_NAME) for name in wanted if name in release.buffers}
    missing = [name for name in wanted if name not in placed]
    for module, names in itertools.groupby(missing, key=lambda name: name.rpartition(".")[0]):
        targets = list(names)
        spare = [
            name
            for name in release.buffers
            if name not in placed and name.startswith(f"{module}.") and is_average(release, name)
        ]
        if len(spare) == len(targets):
            placed |= {name: (target, BY_ORDER) for name, target in zip(spare, targets, strict=True)}
    return placed


def is_average(release: ReleaseNetwork, name: str) -> bool:
    """Whether a buffer is a single number that changes."""
    return not release.tensor(name).shape and name not in release.derived


def is_constant(release: ReleaseNetwork, name: str) -> bool:
    """Whether a buffer follows from the network's sizes: a filter, or one that a state dict leaves out."""
    tensor = release.tensor(name)
    num_axes = sum(n != 1 for n in tensor.shape)
    return name in release.derived or (tensor.numbers.dtype.is_floating_point and num_axes in (1, 2))


# ---- filters


def compare_constants(
    source: str, release: ReleaseNetwork, placed: list[Row], network: nn.Module
) -> Iterator[Row]:
    """Rows of the buffers that are not carried.

    Raises:
      ReleaseError: one has the name and shape of a filter of ours, and other values.
    """
    carried, filters = {row.source for row in placed}, known_filters(network)
    namesakes = dict(network.named_buffers())
    for name in (name for name in release.buffers if name not in carried):
        tensor = release.tensor(name)
        is_readable = tensor.count <= min(MAX_FILTER_SIZE, tensor.numbers.count)
        is_equal = is_readable and is_known(tensor.load(), filters)
        if not is_equal and name in namesakes and tensor.shape == namesakes[name].shape:
            raise ReleaseError(f"{source}: {name} is another filter than ours; this release is not supported")
        yield Row(name, tensor.shape, DERIVED if is_equal else CONSTANT, "")


def known_filters(network: nn.Module) -> list[Tensor]:
    """Filters that ours derives, each as one row or as several, of unit norm; also as a square, for both axes."""
    carried = network.state_dict()
    taps = [
        *(buffer for name, buffer in network.named_buffers() if name not in carried),
        *(torch.tensor(triangle(factor)) for factor in FILTER_FACTORS),
        *(torch.tensor(conditioning_taps(factor)) for factor in FILTER_FACTORS),
        torch.tensor(LATENT_TAPS),
    ]
    squares = [torch.outer(row, row) for row in taps if row.ndim == 1]
    return [unit_rows(filters) for filters in (*taps, *squares)]


def is_known(tensor: Tensor, filters: list[Tensor]) -> bool:
    """Whether a tensor is one of the filters, but for gain, axes of length 1, and zeros at both ends of one row."""
    tensor = tensor.squeeze()
    if tensor.ndim == 1 and tensor.any():
        used = tensor.nonzero()
        tensor = tensor[used[0] : used[-1] + 1]
    found = unit_rows(tensor)
    return any(
        found.shape == rows.shape and torch.allclose(found, rows, 0, FILTER_TOLERANCE) for rows in filters
    )


def unit_rows(filters: Tensor) -> Tensor:
    """float64, each row divided by its L2 norm."""
    return torch.nn.functional.normalize(filters.double(), dim=-1)


# ---- how a network is built


class Facts:
    """What a checkpoint says of its networks beside their tensors; what it does not say is as asked."""

    def __init__(self, checkpoint: Checkpoint, asked: Asked):
        self.networks, self.asked = list(checkpoint.networks.values()), asked

    def size(self) -> Size:
        """Of all frames in stage 1."""
        return self._size(self._pairs("height", "width"), self.asked.size, "--size")

    def high_size(self) -> Size:
        names = [name for network in self.networks for name in network.parameters]
        layers = {(int(m[2]), int(m[1])) for m in map(LAST_LAYER.fullmatch, names) if m}
        return self._size(layers or self._pairs("hr_height", "hr_width"), self.asked.size, "--size")

    def low_size(self) -> Size:
        return self._size(self._pairs("lr_height", "lr_width"), self.asked.low_size, "--low-size")

    def num_frames(self) -> int:
        """Of the videos that stage 1's discriminator takes."""
        frames = settle(self._values("seq_length"), self.asked.num_frames, "--frames")
        if not 1 <= frames <= MAX_FRAMES:
            raise ReleaseError(f"{frames} frames are none that the release has; give --frames")
        return frames

    def _size(self, found: set[Size], asked: Size | None, option: str) -> Size:
        size = settle(found, asked, option)
        if not all(1 <= n <= MAX_EDGE for n in size):
            raise ReleaseError(f"frames of {size[0]}x{size[1]} are none that the release has; give {option}")
        return size

    def _pairs(self, height: str, width: str) -> set[Size]:
        return set(itertools.product(self._values(height), self._values(width)))

    def _values(self, name: str) -> set[int]:
        return {value for network in self.networks for value in network.integers(name)}


def settle(found: set[T], asked: T | None, option: str) -> T:
    """The value that a file and an option agree on; what the file does not say is as asked.

    Raises:
      ReleaseError: there is none, or the file says something else.
    """
    if asked is not None and (not found or asked in found):
        return asked
    if len(found) == 1 and asked is None:
        return next(iter(found))
    if not found:
        raise ReleaseError(f"the file does not say all sizes of its networks; give {option}")
    said = ", ".join(sorted(map(str, found)))
    raise ReleaseError(f"the file says {said} where {option} is {'not given' if asked is None else asked}")


def lowres_generator(release: ReleaseNetwork, facts: Facts) -> dict[str, Any]:
    scale = channel_scale(release, "spatial_input", 1, 512)
    height, width = facts.size()
    return {"height": height, "width": width, "channel_scale": scale}


def lowres_discriminator(release: ReleaseNetwork, facts: Facts) -> dict[str, Any]:
    scale = channel_scale(release, "epilogue.conv1d_0.weight", 0, 1024)
    height, width = facts.size()
    return {"height": height, "width": width, "num_frames": facts.num_frames(), "channel_scale": scale}


def superres_generator(release: ReleaseNetwork, facts: Facts) -> dict[str, Any]:
    scale = channel_scale(release, "SG3.mapping.fc0.weight", 0, 512)
    return {"low_size": [*facts.low_size()], "high_size": [*facts.high_size()], "channel_scale": scale}


def superres_discriminator(release: ReleaseNetwork, facts: Facts) -> dict[str, Any]:
    high_size = facts.high_size()
    scale = channel_scale(release, "b4.out.weight", 1, 512)
    num_frames = axis(release, f"b{max(high_size)}.fromrgb.weight", 1) // (2 * 3)
    return {
        "low_size": [*facts.low_size()],
        "high_size": [*high_size],
        "num_frames": num_frames,
        "channel_scale": scale,
    }


ARGUMENTS: dict[str, Callable[[ReleaseNetwork, Facts], dict[str, Any]]] = {
    "lowres_generator": lowres_generator,
    "lowres_discriminator": lowres_discriminator,
    "superres_generator": superres_generator,
    "superres_discriminator": superres_discriminator,
}


def channel_scale(release: ReleaseNetwork, name: str, dim: int, full: int) -> float:
    """A network's width as a part of the paper's, by an axis of one parameter that has `full` there."""
    scale = axis(release, name, dim) / full
    if not 0 < scale <= MAX_CHANNEL_SCALE:
        raise ReleaseError(f"the network is {scale:g} times as wide as the paper's, which is not supported")
    return scale


def axis(release: ReleaseNetwork, name: str, dim: int) -> int:
    if name not in release.parameters:
        raise ReleaseError(f"the network has no {name}")
    shape = release.parameters[name].shape
    if len(shape) <= dim:
        raise ReleaseError(f"{name} has the shape {list(shape)}")
    return shape[dim]
