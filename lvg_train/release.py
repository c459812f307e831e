"""The networks in a checkpoint of the official release: their tensors by name, from the plain values of `unpickle`.

-G-ema.pkl     the generator's module
-train.pkl     {"G": module, "D": module, "G_opt": ..., "D_opt": ..., ...}

module         {"type": "class", "class_name": ..., "module_src": ..., "state": its attributes}, or one of torch's
attributes     _parameters, _buffers, _modules by name, and whatever else the module has, sizes for instance
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from lvg_train.errors import TrainError
from lvg_train.unpickle import (
    MODULE_CLASSES,
    PERSISTENT_OBJECT,
    StandIn,
    StoredTensor,
    describe,
    printable,
    read_pickle,
)

T = TypeVar("T")

MAX_MODULES, MAX_DEPTH = 10_000, 32
NAME = re.compile(r"[A-Za-z0-9_]{1,100}")
#: key of a training pickle -> role in a model file
ROLES = {"G": "generator", "D": "discriminator"}
#: a parameter that one kind of network has alone -> kind
SIGNS = {
    "spatial_input": "lowres_generator",
    "epilogue.conv1d_0.weight": "lowres_discriminator",
    "SG3.mapping.fc0.weight": "superres_generator",
    "b4.out.weight": "superres_discriminator",
}


class ReleaseError(TrainError):
    """A file that is no checkpoint of the release, or does not fit our networks; the text says what of it."""


@dataclass(frozen=True)
class ReleaseNetwork:
    """A network of the release; names are dotted, from the network on.

    Attributes:
      kind: a key of `model_file.KINDS`.
      parameters: by name, as they were registered.
      buffers: by name, as they were registered.
      derived: names of the buffers that a state dict leaves out.
      attributes: everything that the network's own object has.
    """

    kind: str
    parameters: Mapping[str, StoredTensor]
    buffers: Mapping[str, StoredTensor]
    derived: frozenset[str]
    attributes: Mapping[str, Any]

    def tensor(self, name: str) -> StoredTensor:
        """A parameter or buffer."""
        return self.parameters[name] if name in self.parameters else self.buffers[name]

    def integers(self, name: str) -> set[int]:
        """Values of an attribute, or in a dict that is an attribute, as constructor arguments are."""
        tables = [self.attributes, *(value for value in self.attributes.values() if type(value) is dict)]
        return {table[name] for table in tables if type(table.get(name)) is int}


@dataclass(frozen=True)
class Checkpoint:
    """Networks by role in a model file, and the names of everything else."""

    networks: Mapping[str, ReleaseNetwork]
    others: tuple[str, ...]


def read_checkpoint(path: Path) -> Checkpoint:
    """The networks of a release checkpoint; nothing in it is executed.

    Raises:
      PickleError: it is damaged, or asks for what no file of the release has.
      ReleaseError: it holds something else.
      OSError: it cannot be read.
    """
    found = read_pickle(path)
    try:
        if is_module(found):
            network = gather_network(found)
            role = "generator_ema" if network.kind.endswith("generator") else "discriminator"
            return Checkpoint({role: network}, ())
        if type(found) is dict and all(is_module(found.get(key)) for key in ROLES):
            networks = {role: gather_network(found[key]) for key, role in ROLES.items()}
            return Checkpoint(networks, tuple(printable(str(key)) for key in found if key not in ROLES))
    except ReleaseError as err:
        raise ReleaseError(f"{path}: {err}") from err
    raise ReleaseError(
        f"{path} holds neither a network nor a dict with G and D; give a -G-ema.pkl or a -train.pkl of the release"
    )


def is_module(value: Any) -> bool:
    return type(value) is StandIn and value.origin in (PERSISTENT_OBJECT, *MODULE_CLASSES)


def gather_network(root: StandIn) -> ReleaseNetwork:
    """All tensors of a module and of those within it.

    Raises:
      ReleaseError: it is none of the four networks, or something within it is no module.
    """
    parameters: dict[str, StoredTensor] = {}
    buffers: dict[str, StoredTensor] = {}
    derived: set[str] = set()
    for prefix, state in walk_modules(root):
        parameters |= prefixed(prefix, table_in(prefix, state, "_parameters", StoredTensor))
        buffers |= prefixed(prefix, table_in(prefix, state, "_buffers", StoredTensor))
        left_out = state.get("_non_persistent_buffers_set")
        derived |= {f"{prefix}{name}" for name in left_out} if type(left_out) is set else set()
    kinds = [kind for sign, kind in SIGNS.items() if sign in parameters]
    if len(kinds) != 1:
        raise ReleaseError(
            f"a module with {len(parameters)} parameters is none of the release's four networks"
        )
    return ReleaseNetwork(kinds[0], parameters, buffers, frozenset(derived), state_of("", root))


def prefixed(prefix: str, table: Mapping[str, StoredTensor]) -> dict[str, StoredTensor]:
    return {f"{prefix}{name}": tensor for name, tensor in table.items()}


def walk_modules(root: StandIn) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(names to it with a dot after each, attributes) of a module and all within it, in order of registration.

    Raises:
      ReleaseError: something within it is no module, or there are too many, as where a module holds itself.
    """
    waiting = [("", root)]
    for _ in range(MAX_MODULES):
        if not waiting:
            return
        prefix, module = waiting.pop()
        state = state_of(prefix, module)
        yield prefix, state
        children = table_in(prefix, state, "_modules", StandIn)
        waiting += [(f"{prefix}{name}.", child) for name, child in children.items()][::-1]
        if prefix.count(".") > MAX_DEPTH:
            raise ReleaseError(f"modules are nested more than {MAX_DEPTH} deep")
    raise ReleaseError(f"there are more than {MAX_MODULES} modules")


def state_of(prefix: str, module: StandIn) -> dict[str, Any]:
    """The attributes of a module."""
    state = module.arguments[0].get("state") if module.origin == PERSISTENT_OBJECT else module.state
    if not is_module(module) or type(state) is not dict:
        raise ReleaseError(f"module {prefix or 'root'} has no attributes")
    return state


def table_in(prefix: str, state: Mapping[str, Any], table: str, kind: type[T]) -> dict[str, T]:
    """One of a module's tables, without the entries that are None.

    Raises:
      ReleaseError: it is no table of such values by name.
    """
    entries = state.get(table)
    if type(entries) is not dict:
        raise ReleaseError(f"module {prefix or 'root'} has no {table}")
    for name, value in entries.items():
        if type(name) is not str or not NAME.fullmatch(name):
            raise ReleaseError(f"{table} of module {prefix or 'root'} has the name {printable(str(name))!r}")
        if value is not None and type(value) is not kind:
            raise ReleaseError(f"{prefix}{name}, one of {table}, is a {describe(value)}")
    return {name: value for name, value in entries.items() if value is not None}
