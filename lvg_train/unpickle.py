"""Reads the pickles of the official release as plain values, without executing anything in them.

A pickle is a program for a stack machine. Python's own machine looks up whatever a file names, calls whatever is on
its stack and hashes whatever is a key; an allow-list of names bounds only the first. So this is a machine of its
own, for the few instructions that the release's files consist of. It imports nothing that a file names, calls
nothing but `BUILDERS`, sets no attribute of anything but `StandIn`, and never unpickles a tensor by torch:

    in the file                          here
    None, numbers, text, bytes, dict,
      list, tuple, set, OrderedDict      the same (an OrderedDict is a dict)
    module, numpy array                  StandIn: its name, arguments and state
    numpy scalar                         a number
    tensor                               StoredTensor: its bytes as they are, until `load`
    everything else                      PickleError, with its name and place

Work and memory are at most in proportion to the file's size. Values may share parts or contain themselves, as those
of any pickle: whoever walks them counts the steps.
"""

from __future__ import annotations

import io
import math
import pickletools
import re
import struct
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import torch
from torch import Tensor

from lvg_train.errors import TrainError

#: instructions and elements of sets; a training pickle of the release has some 10^5
MAX_STEPS = 2_000_000
MAX_LINE_BYTES = 1_000
MAX_DIMENSIONS = 16
MAX_COUNT = 2**40  # of numbers in a tensor or storage

# how torch 0.4 to 2.x write a storage outside of zip files: torch.serialization._legacy_save
STORAGE_MAGIC = 0x1950A86A20F9469CFC6C
STORAGE_PROTOCOL = 1001
STORAGE_HEADER_BYTES = 4_096  # it has some 300
STORAGE_DTYPES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
NUMBER_DTYPE = re.compile(r"b1|[iu][1248]|f[248]")


class PickleError(TrainError):
    """A pickle that is damaged, or that asks for what no file of the release has; the text names it."""


@dataclass(frozen=True)
class Global:
    """A module's attribute that a pickle names. It is only a name here."""

    module: str
    name: str

    def __str__(self) -> str:
        return printable(f"{self.module}.{self.name}")


@dataclass(eq=False)
class StandIn:
    """An object that was not made: what it is of, what it would be made from, and what it would be filled with.

    Attributes:
      origin: its class, or the function that would make it.
      arguments: of that.
      state: None until the pickle gives it.
    """

    origin: Global
    arguments: tuple[Any, ...]
    state: Any = None


@dataclass(frozen=True)
class StoredNumbers:
    """The numbers of a torch storage, as bytes, little-endian."""

    dtype: torch.dtype
    data: memoryview

    @property
    def count(self) -> int:
        return len(self.data) // self.dtype.itemsize


@dataclass(frozen=True)
class StoredTensor:
    """A tensor within a storage: its element [i, j] is number `offset + i * strides[0] + j * strides[1]`."""

    numbers: StoredNumbers
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def load(self) -> Tensor:
        """A tensor of its own memory, contiguous, on the CPU.

        Raises:
          PickleError: it has more elements than its storage has numbers.
        """
        if self.count > self.numbers.count:
            raise PickleError(f"a tensor of shape {list(self.shape)} repeats {self.numbers.count} numbers")
        if not self.count:
            return torch.empty(self.shape, dtype=self.numbers.dtype)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that the bytes are read-only; they are copied
            flat = torch.frombuffer(self.numbers.data, dtype=self.numbers.dtype)
        return flat.as_strided(self.shape, self.strides, self.offset).clone(
            memory_format=torch.contiguous_format
        )

    @property
    def count(self) -> int:
        return math.prod(self.shape)

    def is_within_storage(self) -> bool:
        """Whether it is a tensor at all, and every element one of the storage's numbers."""
        axes = (*self.shape, *self.strides, self.offset)
        if len(self.shape) != len(self.strides) or len(self.shape) > MAX_DIMENSIONS:
            return False
        if any(type(n) is not int or not 0 <= n < MAX_COUNT for n in axes) or self.count > MAX_COUNT:
            return False
        last = self.offset + sum((n - 1) * step for n, step in zip(self.shape, self.strides, strict=True))
        return not self.count or last < self.numbers.count


def read_pickle(path: Path) -> Any:
    """What a pickle of the release holds, as plain values; nothing of it is executed.

    Raises:
      PickleError: it is damaged, or names or does something that the release's files do not.
      OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        try:
            return Machine(ALLOWED).run(Bounded(file, path.stat().st_size))
        except PickleError as err:
            raise PickleError(
                f"{path} is not read: {err}. Only checkpoints as the official release writes them are taken, "
                "and nothing in them is executed"
            ) from err


# ---- the machine


class Bounded:
    """A file that is never asked for more than it has, whatever length a pickle claims."""

    def __init__(self, file: BinaryIO, size_bytes: int):
        self._file, self._size_bytes = file, size_bytes

    def read(self, num_bytes: int) -> bytes:
        left = self._size_bytes - self._file.tell()
        if num_bytes > left:
            raise PickleError(f"{num_bytes} bytes are announced where {left} are left")
        return self._file.read(num_bytes)

    def readline(self) -> bytes:
        return self._file.readline(MAX_LINE_BYTES)

    def tell(self) -> int:
        return self._file.tell()


class Machine:
    """Runs pickles one after the other; they share one budget of steps.

    `allowed`: what may be named, and the function for what may be called; it takes the machine and the arguments.
    `find_persistent`: gives the object of a persistent id; None refuses them.
    """

    def __init__(
        self,
        allowed: Mapping[Global, Builder | None],
        find_persistent: Callable[[Any], Any] | None = None,
        max_steps: int = MAX_STEPS,
    ):
        self.allowed, self.find_persistent, self.steps_left = allowed, find_persistent, max_steps
        self.encoded: dict[int, tuple[str, bytes]] = {}
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def run(self, stream: Bounded | BinaryIO) -> Any:
        """The value of the pickle that starts here; the stream then is at its end."""
        self.stack, self.marks, self.memo = [], [], {}
        position = 0
        try:
            for instruction, argument, at in pickletools.genops(cast(BinaryIO, stream)):
                position = at or 0
                self.spend(1)
                if instruction.name == "STOP":
                    return self.pop()
                self.step(instruction.name, argument)
        except PickleError as err:
            raise PickleError(f"byte {position}: {err}") from err
        except (ValueError, IndexError, OverflowError, struct.error) as err:
            raise PickleError(f"after byte {position} it is no pickle: {printable(str(err))}") from err
        raise PickleError("it has no end")

    def step(self, name: str, argument: Any) -> None:
        if name in PUSHED_ARGUMENTS:
            self.stack.append(argument)
        elif name in PUSHED_CONSTANTS:
            self.stack.append(PUSHED_CONSTANTS[name])
        elif name in STEPS:
            STEPS[name](self, argument)
        else:
            raise PickleError(f"the instruction {name} is not allowed")

    def spend(self, steps: int) -> None:
        self.steps_left -= steps
        if self.steps_left < 0:
            raise PickleError("it takes too many steps")

    def pop(self) -> Any:
        return self.stack.pop()

    def pop_to_mark(self) -> list[Any]:
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    # ---- instructions

    def mark(self, _: object) -> None:
        self.marks.append(len(self.stack))

    def remember(self, index: int | None) -> None:
        self.memo[len(self.memo) if index is None else index] = self.stack[-1]

    def recall(self, index: int) -> None:
        if index not in self.memo:
            raise PickleError(f"it recalls number {index}, which it did not remember")
        self.stack.append(self.memo[index])

    def make_tuple(self, length: int | None) -> None:
        items = self.pop_to_mark() if length is None else [self.pop() for _ in range(length)][::-1]
        self.stack.append(tuple(items))

    def append(self, items: list[Any]) -> None:
        self.expect_top(list).extend(items)

    def set_items(self, items: list[Any]) -> None:
        keys, values = items[::2], items[1::2]
        check_keys(keys)
        self.expect_top(dict).update(zip(keys, values, strict=True))

    def add_items(self, items: list[Any]) -> None:
        check_keys(items)
        self.expect_top(set).update(items)

    def expect_top(self, kind: type) -> Any:
        target = self.stack[-1]
        if type(target) is not kind:
            raise PickleError(f"it fills a {describe(target)} as if it were a {kind.__name__}")
        return target

    def push_global(self, named: Iterable[Any]) -> None:
        module, name = named
        if type(module) is not str or type(name) is not str:
            raise PickleError("it names an attribute by something that is not text")
        found = Global(module, name)
        if found not in self.allowed:
            raise PickleError(f"{found} is not allowed")
        self.stack.append(found)

    def call(self, _: object) -> None:
        arguments, function = self.pop(), self.pop()
        build = self.allowed.get(function) if type(function) is Global else None
        if build is None or type(arguments) is not tuple:
            raise PickleError(f"it calls {describe(function)}, which is not allowed")
        self.stack.append(build(self, function, arguments))

    def make_object(self, _: object) -> None:
        arguments, kind = self.pop(), self.pop()
        if type(kind) is not Global or kind not in MODULE_CLASSES or arguments != ():
            raise PickleError(f"it makes an object of {describe(kind)}, which is not allowed")
        self.stack.append(StandIn(kind, ()))

    def give_state(self, _: object) -> None:
        state, target = self.pop(), self.stack[-1]
        if type(target) is not StandIn or target.state is not None:
            raise PickleError(f"it sets the state of {describe(target)}, which is not allowed")
        check_state(target, state)
        target.state = state

    def push_persistent(self, _: object) -> None:
        if self.find_persistent is None:
            raise PickleError("persistent ids are not allowed")
        self.stack.append(self.find_persistent(self.pop()))


Builder = Callable[[Machine, Global, tuple[Any, ...]], Any]

PUSHED_ARGUMENTS = frozenset(
    {"BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
     "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"}
)  # fmt: skip
PUSHED_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
STEPS: dict[str, Callable[[Machine, Any], None]] = {
    "PROTO": lambda machine, _: None,
    "FRAME": lambda machine, _: None,
    "MARK": Machine.mark,
    "POP": lambda machine, _: machine.stack.__delitem__(-1),
    "EMPTY_LIST": lambda machine, _: machine.stack.append([]),
    "EMPTY_DICT": lambda machine, _: machine.stack.append({}),
    "EMPTY_SET": lambda machine, _: machine.stack.append(set()),
    "APPEND": lambda machine, _: machine.append([machine.pop()]),
    "APPENDS": lambda machine, _: machine.append(machine.pop_to_mark()),
    "SETITEM": lambda machine, _: machine.set_items([machine.pop(), machine.pop()][::-1]),
    "SETITEMS": lambda machine, _: machine.set_items(machine.pop_to_mark()),
    "ADDITEMS": lambda machine, _: machine.add_items(machine.pop_to_mark()),
    "TUPLE": lambda machine, _: machine.make_tuple(None),
    "TUPLE1": lambda machine, _: machine.make_tuple(1),
    "TUPLE2": lambda machine, _: machine.make_tuple(2),
    "TUPLE3": lambda machine, _: machine.make_tuple(3),
    "MEMOIZE": Machine.remember,
    "BINPUT": Machine.remember,
    "LONG_BINPUT": Machine.remember,
    "BINGET": Machine.recall,
    "LONG_BINGET": Machine.recall,
    "GLOBAL": lambda machine, named: machine.push_global(named.split(" ", 1)),
    "STACK_GLOBAL": lambda machine, _: machine.push_global([machine.pop(), machine.pop()][::-1]),
    "REDUCE": Machine.call,
    "NEWOBJ": Machine.make_object,
    "BUILD": Machine.give_state,
    "BINPERSID": Machine.push_persistent,
}


def check_keys(keys: list[Any]) -> None:
    """Only text and small numbers: to hash a tuple of tuples can take for ever, or crash, and large numbers collide."""
    for key in keys:
        if type(key) is not str and not (type(key) is int and abs(key) < 2**32):
            raise PickleError(f"a {describe(key)} is a key, which is not allowed")


def describe(value: Any) -> str:
    """A name for errors; the value itself may be endless."""
    if type(value) is Global:
        return str(value)
    return f"stand-in for {value.origin}" if type(value) is StandIn else type(value).__name__


def printable(text: str) -> str:
    """Text of a stranger, without control characters and not long."""
    return (text if len(text) <= 200 else f"{text[:200]}...").encode("unicode_escape").decode()


# ---- what a pickle may call


def unfit(origin: Global) -> PickleError:
    return PickleError(f"{origin} has arguments or a state that it has in no file of the release")


def build_dict(machine: Machine, origin: Global, arguments: tuple[Any, ...]) -> dict[Any, Any]:
    if arguments:
        raise unfit(origin)
    return {}


def build_set(machine: Machine, origin: Global, arguments: tuple[Any, ...]) -> set[Any]:
    match arguments:
        case (list(items),):
            machine.spend(len(items))
            check_keys(items)
            return set(items)
    raise unfit(origin)


def build_bytes(machine: Machine, origin: Global, arguments: tuple[Any, ...]) -> bytes:
    """Protocol 2 writes bytes as text. The same text gives the same object, so that memory stays bounded."""
    match arguments:
        case (str(text), "latin1"):
            if id(text) not in machine.encoded:
                machine.encoded[id(text)] = (text, text.encode("latin1"))
            return machine.encoded[id(text)][1]
    raise unfit(origin)


def build_tensor(machine: Machine, origin: Global, arguments: tuple[Any, ...]) -> StoredTensor:
    """Of storage, offset, shape, strides, whether it wants a gradient, and hooks, of which there are none."""
    match arguments:
        case (
            StoredNumbers() as numbers,
            int(offset),
            tuple(shape),
            tuple(strides),
            bool(),
            {} | None as hooks,
        ):
            tensor = StoredTensor(numbers, offset, shape, strides)
            if not hooks and tensor.is_within_storage():
                return tensor
    raise unfit(origin)


def build_parameter(machine: Machine, origin: Global, arguments: tuple[Any, ...]) -> StoredTensor:
    match arguments:
        case (StoredTensor() as tensor, bool(), {} | None as hooks) if not hooks:
            return tensor
    raise unfit(origin)


def build_persistent(machine: Machine, origin: Global, arguments: tuple[Any, ...]) -> StandIn:
    match arguments:
        case (dict(),):
            return StandIn(origin, arguments)
    raise unfit(origin)


def build_dtype(machine: Machine, origin: Global, arguments: tuple[Any, ...]) -> StandIn:
    match arguments:
        case (str(code), bool(), bool()):
            if not NUMBER_DTYPE.fullmatch(code):
                raise PickleError(f"the numpy dtype {printable(code)} is not allowed")
            return StandIn(origin, (code,))
    raise unfit(origin)


def build_scalar(machine: Machine, origin: Global, arguments: tuple[Any, ...]) -> int | float | bool:
    match arguments:
        case (StandIn(origin=kind, arguments=(str(code),)), bytes(data)) if kind == NUMPY_DTYPE:
            dtype = np.dtype(f"<{code}")
            if len(data) == dtype.itemsize:
                return np.frombuffer(data, dtype)[0].item()
    raise unfit(origin)


def build_array(machine: Machine, origin: Global, arguments: tuple[Any, ...]) -> StandIn:
    """An array whose numbers come as its state, (class, (0,), b"b"), or as bytes, (bytes, dtype, shape, order)."""
    match arguments:
        case (Global() as kind, (0,), b"b") if kind == NUMPY_ARRAY:
            return StandIn(origin, arguments)
        case (bytes() | bytearray(), StandIn(origin=kind), tuple(), str()) if kind == NUMPY_DTYPE:
            return StandIn(origin, arguments)
    raise unfit(origin)


# ---- what may be given a state


def check_state(target: StandIn, state: Any) -> None:
    """Modules have a dict, numpy dtypes (version, order, None, None, None, ...), arrays of numbers their bytes."""
    match state:
        case dict() if target.origin in MODULE_CLASSES:
            return
        case (int(), "<" | "|" | "=", None, None, None, *_) if target.origin == NUMPY_DTYPE:
            return
        case (int(), tuple(), StandIn(origin=kind), bool(), bytes()):
            if target.origin in NUMPY_RECONSTRUCT and kind == NUMPY_DTYPE:
                return
    raise unfit(target.origin)


# ---- torch's storages


def build_numbers(machine: Machine, origin: Global, arguments: tuple[Any, ...]) -> StoredNumbers:
    """The numbers in the bytes that torch.storage._load_from_bytes would hand to torch.load.

    They are five pickles (magic number, protocol, system, the storage by a persistent id, the list of its key),
    the count as 8 bytes, and the numbers.
    """
    match arguments:
        case (bytes(data),):
            stream = io.BytesIO(data[:STORAGE_HEADER_BYTES])
            reader = Machine(STORAGE_CLASSES, find_storage, machine.steps_left)
            header = [reader.run(stream) for _ in range(5)]
            machine.steps_left = reader.steps_left
            return check_numbers(header, memoryview(data)[stream.tell() :])
    raise unfit(origin)


def check_numbers(header: list[Any], rest: memoryview) -> StoredNumbers:
    match header:
        case [int(magic), int(protocol), {"little_endian": True}, Announced() as storage, [str(key)]]:
            if (magic, protocol, key) == (STORAGE_MAGIC, STORAGE_PROTOCOL, storage.key):
                size_bytes = storage.count * storage.dtype.itemsize
                if rest[:8] == struct.pack("<q", storage.count) and len(rest) - 8 == size_bytes:
                    return StoredNumbers(storage.dtype, rest[8:])
                raise PickleError(
                    f"a storage announces {storage.count} numbers of {storage.dtype}; it has {len(rest)} bytes"
                )
    raise PickleError("a storage is not written as torch writes it")


@dataclass(frozen=True)
class Announced:
    """What the header of a storage says of it."""

    dtype: torch.dtype
    key: str
    count: int


def find_storage(identity: Any) -> Announced:
    """Of ("storage", class, key, device, count, view); the device does not matter."""
    match identity:
        case ("storage", Global() as kind, str(key), str(), int(count), None) if 0 <= count < MAX_COUNT:
            return Announced(STORAGE_DTYPES[kind.name], key, count)
    raise PickleError("a persistent id is none of a storage")


STORAGE_CLASSES: dict[Global, Builder | None] = {Global("torch", name): None for name in STORAGE_DTYPES}

PERSISTENT_OBJECT = Global("torch_utils.persistence", "_reconstruct_persistent_obj")
MODULE_CLASSES = (
    Global("torch.nn.modules.container", "ModuleList"),
    Global("torch.nn.modules.linear", "Identity"),
)
NUMPY_DTYPE, NUMPY_ARRAY = Global("numpy", "dtype"), Global("numpy", "ndarray")
# numpy 2 renamed core
NUMPY_RECONSTRUCT = [Global(f"numpy.{core}.multiarray", "_reconstruct") for core in ("core", "_core")]
NUMPY_SCALAR = [Global(f"numpy.{core}.multiarray", "scalar") for core in ("core", "_core")]
NUMPY_BUFFER = [Global(f"numpy.{core}.numeric", "_frombuffer") for core in ("core", "_core")]  # protocol 5

#: by what may be named, what makes its value
ALLOWED: dict[Global, Builder | None] = {
    Global("collections", "OrderedDict"): build_dict,
    Global("builtins", "set"): build_set,  # as protocol 3 writes a set
    Global("__builtin__", "set"): build_set,  # protocol 2
    Global("_codecs", "encode"): build_bytes,
    Global("torch.storage", "_load_from_bytes"): build_numbers,
    Global("torch._utils", "_rebuild_tensor_v2"): build_tensor,
    Global("torch._utils", "_rebuild_parameter"): build_parameter,
    PERSISTENT_OBJECT: build_persistent,
    NUMPY_DTYPE: build_dtype,
    NUMPY_ARRAY: None,
    **dict.fromkeys(NUMPY_SCALAR, build_scalar),
    **dict.fromkeys([*NUMPY_RECONSTRUCT, *NUMPY_BUFFER], build_array),
    **dict.fromkeys(MODULE_CLASSES),
}
