"""Compiled loops over pixels: what a frame costs beside decoding and JPEG.

numba compiles them once on a machine, which takes some seconds, and keeps them beside this file or in the user's
cache; where it can do neither, each fork server compiles its own. To import this takes a quarter of a second, so
that only what renders does.

Resizing is in integers, so that a frame has the same bytes on every machine. Its inner step is a sum of two products
of 16 bits in lanes of 32, which every processor since SSE2 and NEON has as an instruction or two. LLVM finds it where
it is written out in its own vectors (`_dot`), not in a loop over numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import extending, int16, int32, int64, types, uint8, uint16
from numba.core import cgutils
from numba.core.datamodel import models

#: a colour's factor of 1
COLOUR_BITS = 18
#: output rows and output columns that `resize` makes at a time; its `out` has whole groups of both
ROWS, COLUMNS = 4, 8
#: columns of a plane that are weighed at a time: it may not have less
MIN_WIDTH = 16
#: bytes that a processor fetches at a time
_LINE_BYTES = 64

#: makes a function of compiled loops of one that writes LLVM's code; for mypy it is called as those call it
_intrinsic: Any = extending.intrinsic

_I8, _I16, _I32, _I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))


# ---- lanes ----------------------------------------------------------------------------------------


class Lanes(types.Type):
    """`count` values of int32 side by side, LLVM's vector: each operation is done to all of them.

    The functions below, of which numba makes part of the loops that it compiles, load, combine and store them.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        super().__init__(name=f"int32x{count}")


@extending.register_model(Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager: Any, lanes: Lanes) -> None:
        super().__init__(manager, lanes, ir.VectorType(_I32, lanes.count))


_COLUMN_LANES, _ROW_LANES = Lanes(COLUMNS), Lanes(MIN_WIDTH)


def _pointer(context: Any, builder: Any, array_type: Any, array: Any, place: Any, to: Any) -> Any:
    """The address of an element of an array, as one of values of type `to`."""
    found = context.make_array(array_type)(context, builder, array)
    offset = ir.Constant(_I64, 0)
    for index, stride in zip(place, cgutils.unpack_tuple(builder, found.strides), strict=True):
        offset = builder.add(offset, builder.mul(index, stride))
    first = builder.bitcast(found.data, _I8.as_pointer())
    return builder.bitcast(builder.gep(first, [offset]), to.as_pointer())


def _in_all_lanes(builder: Any, value: Any, count: int) -> Any:
    vector = ir.VectorType(_I32, count)
    nothing = ir.Constant(vector, ir.Undefined)
    first = builder.insert_element(nothing, value, ir.Constant(_I32, 0))
    return builder.shuffle_vector(first, nothing, ir.Constant(vector, [0] * count))


def _filled(lanes: Lanes) -> Any:
    """The function that puts an int32 in all `lanes`."""

    @_intrinsic
    def fill(typing: Any, value: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return _in_all_lanes(builder, args[0], lanes.count)

        return lanes(types.int32), generate

    return fill


_fill_rows, _fill_columns = _filled(_ROW_LANES), _filled(_COLUMN_LANES)


@_intrinsic
def _load_row_pairs(typing: Any, plane: Any, y0: Any, y1: Any, x: Any) -> Any:
    """MIN_WIDTH samples of row y0, each in the low half of a lane, and of row y1 in the high one."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        samples = ir.VectorType(context.get_data_type(plane.dtype), MIN_WIDTH)
        vector = ir.VectorType(_I32, MIN_WIDTH)
        low, high = (
            builder.zext(
                builder.load(_pointer(context, builder, plane, args[0], (y, args[3]), samples), align=1),
                vector,
            )
            for y in args[1:3]
        )
        return builder.or_(low, builder.shl(high, ir.Constant(vector, [16] * MIN_WIDTH)))

    return _ROW_LANES(plane, y0, y1, x), generate


@_intrinsic
def _load_weights(typing: Any, weights: Any, band: Any, pair: Any) -> Any:
    """weights[band, pair] of int32 [bands, pairs, COLUMNS]."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        place, vector = (*args[1:], ir.Constant(_I64, 0)), ir.VectorType(_I32, COLUMNS)
        return builder.load(_pointer(context, builder, weights, args[0], place, vector), align=4)

    return _COLUMN_LANES(weights, band, pair), generate


@_intrinsic
def _load_pair(typing: Any, samples: Any, y: Any, x: Any) -> Any:
    """samples[y, x] and samples[y, x + 1] of an int16 array, in the low and the high half of an int32."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load(_pointer(context, builder, samples, args[0], args[1:], _I32), align=2)

    return types.int32(samples, y, x), generate


@_intrinsic
def _dot(typing: Any, total: Any, lanes: Any, pair: Any) -> Any:
    """total + low half of each lane * that of `pair` + high half * that of `pair`, as int16."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        count = total.count
        halves, wide = ir.VectorType(_I16, 2 * count), ir.VectorType(_I32, 2 * count)
        a, b = (
            builder.sext(builder.bitcast(vector, halves), wide)
            for vector in (args[1], _in_all_lanes(builder, args[2], count))
        )
        products, nothing = builder.mul(a, b), ir.Constant(wide, ir.Undefined)
        low, high = (
            builder.shuffle_vector(
                products, nothing, ir.Constant(ir.VectorType(_I32, count), list(range(half, 2 * count, 2)))
            )
            for half in (0, 1)
        )
        return builder.add(args[0], builder.add(low, high))

    return total(total, lanes, pair), generate


@_intrinsic
def _store(typing: Any, out: Any, y: Any, x: Any, lanes: Any, shift: Any) -> Any:
    """out[y, x : x + count] = lanes >> shift, which is clipped to int16."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        vector = ir.VectorType(_I32, lanes.count)
        values = builder.ashr(args[3], _in_all_lanes(builder, args[4], lanes.count))
        for name, limit in (("smin", 2**15 - 1), ("smax", -(2**15))):
            function = ir.FunctionType(vector, [vector, vector])
            clip = cgutils.get_or_insert_function(builder.module, function, f"llvm.{name}.v{lanes.count}i32")
            values = builder.call(clip, [values, ir.Constant(vector, [limit] * lanes.count)])
        narrow = ir.VectorType(_I16, lanes.count)
        pointer = _pointer(context, builder, out, args[0], args[1:3], narrow)
        builder.store(builder.trunc(values, narrow), pointer, align=1)
        return context.get_dummy_value()

    return types.void(out, y, x, lanes, shift), generate


@_intrinsic
def _fetch(typing: Any, plane: Any, y: Any, x: Any) -> Any:
    """Asks the memory for what lies around plane[y, x], which is not waited for."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = _pointer(context, builder, plane, args[0], args[1:], _I8)
        function = ir.FunctionType(ir.VoidType(), [pointer.type, _I32, _I32, _I32])
        prefetch = cgutils.get_or_insert_function(builder.module, function, "llvm.prefetch.p0")
        to_read, into_all_caches, of_data = (ir.Constant(_I32, value) for value in (0, 3, 1))
        builder.call(prefetch, [pointer, to_read, into_all_caches, of_data])
        return context.get_dummy_value()

    return types.void(plane, y, x), generate


# ---- loops ----------------------------------------------------------------------------------------


def _compiled(signatures: list[Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Compiles a function now, for these argument types alone, or finds it compiled."""

    def compile_now(function: Callable[..., None]) -> Callable[..., None]:
        try:
            return numba.njit(signatures, cache=True)(function)
        except Exception:  # noqa: BLE001 - no folder to keep it in, a full disk, a damaged file: numba names none of them
            return numba.njit(signatures)(function)

    return compile_now


@numba.njit(inline="always")
def _weigh_rows(
    plane: Any, left: int, rows: Any, weights: Any, group: int, shift: int, x: int, between: Any
) -> None:
    """MIN_WIDTH columns, from x on, of the ROWS rows of `between`."""
    half = np.int32(1 << (shift - 1))
    a, b, c, d = _fill_rows(half), _fill_rows(half), _fill_rows(half), _fill_rows(half)
    for k in range(weights.shape[2]):
        samples = _load_row_pairs(plane, rows[group, 2 * k], rows[group, 2 * k + 1], left + x)
        a, b = _dot(a, samples, weights[group, 0, k]), _dot(b, samples, weights[group, 1, k])
        c, d = _dot(c, samples, weights[group, 2, k]), _dot(d, samples, weights[group, 3, k])
    _store(between, 0, x, a, shift)
    _store(between, 1, x, b, shift)
    _store(between, 2, x, c, shift)
    _store(between, 3, x, d, shift)


@numba.njit(inline="always")
def _weigh_columns(between: Any, first: Any, weights: Any, shift: int, y: int, out: Any) -> None:
    """Rows y to y + ROWS of `out`."""
    half = np.int32(1 << (shift - 1))
    for band in range(len(first)):
        a, b, c, d = _fill_columns(half), _fill_columns(half), _fill_columns(half), _fill_columns(half)
        for k in range(weights.shape[1]):
            weight, x = _load_weights(weights, band, k), first[band] + 2 * k
            a, b = _dot(a, weight, _load_pair(between, 0, x)), _dot(b, weight, _load_pair(between, 1, x))
            c, d = _dot(c, weight, _load_pair(between, 2, x)), _dot(d, weight, _load_pair(between, 3, x))
        _store(out, y, COLUMNS * band, a, shift)
        _store(out, y + 1, COLUMNS * band, b, shift)
        _store(out, y + 2, COLUMNS * band, c, shift)
        _store(out, y + 3, COLUMNS * band, d, shift)


@_compiled(
    [
        types.void(
            types.Array(dtype, 2, "A", readonly=True), int64, int64[:, ::1], int32[:, :, ::1], int32,
            int16[:, ::1], int64[::1], int32[:, :, ::1], int32, int16[:, ::1],
        )
        for dtype in (uint8, uint16, int16)
    ]
)  # fmt: skip
def resize(
    plane: np.ndarray, left: int, rows: np.ndarray, row_weights: np.ndarray, row_shift: int,
    between: np.ndarray, columns: np.ndarray, column_weights: np.ndarray, column_shift: int, out: np.ndarray,
) -> None:  # fmt: skip
    """Weighted sums of rows, then of columns: ROWS rows of `out` at a time, so that what lies between stays cached.

    Sums are of int32 and not checked, each is rounded to nearest (halves up) and clipped to int16. Nothing checks the
    bounds of the arrays either. Weights are int16, two in an int32: the first in the low half.

    Args:
      plane: uint8, uint16 or int16 [H, W], samples of 15 bits and a sign at most; a row has no gaps.
      left: the first column.
      rows: int64 [G, 2K], 0..H - 1: the rows of which ROWS rows of `out` are sums.
      row_weights: int32 [G, ROWS, K].
      row_shift: the bits that sums of rows lose.
      between: int16 [ROWS, w], to work in; w is MIN_WIDTH at least, left + w is W at most.
      columns: int64 [B], the first of the 2L columns of `between` of which COLUMNS columns of `out` are sums.
      column_weights: int32 [B, L, COLUMNS].
      column_shift: the bits that sums of columns lose.
      out: int16 [ROWS * G, COLUMNS * B].
    """
    width = between.shape[1]
    for group in range(len(rows)):
        following = min(group + 1, len(rows) - 1)
        num_seen = max(0, rows.shape[1] - (rows[following, 0] - rows[group, 0]))
        for x in range(0, width - MIN_WIDTH + 1, MIN_WIDTH):
            if x * plane.itemsize % _LINE_BYTES == 0:
                for k in range(num_seen, rows.shape[1]):
                    _fetch(plane, rows[following, k], left + x)
            _weigh_rows(plane, left, rows, row_weights, group, row_shift, x, between)
        if width % MIN_WIDTH:
            _weigh_rows(plane, left, rows, row_weights, group, row_shift, width - MIN_WIDTH, between)
        _weigh_columns(between, columns, column_weights, column_shift, ROWS * group, out)


@_compiled([types.void(int16[:, :, ::1], int32[:, ::1], int32[::1], types.Array(uint8, 3, "A"))])
def mix_colours(planes: np.ndarray, matrix: np.ndarray, offset: np.ndarray, out: np.ndarray) -> None:
    """Each pixel's three channels by an affine map, rounded to nearest and clipped to 0..255.

    Args:
      planes: int16 [3, H or more, W or more].
      matrix, offset: int32 [3, 3] and [3], of which 1 << COLOUR_BITS is 1: out = matrix @ in + offset. No sum may be
        beyond int32.
      out: uint8 [3, H, W].
    """
    for channel in range(3):
        a, b, c = matrix[channel]
        nearest = np.int32(offset[channel] + (1 << (COLOUR_BITS - 1)))
        for y in range(out.shape[1]):
            for x in range(out.shape[2]):
                # each sum is said to be int32 again: it would be int64, of which a processor adds half as many
                first = np.int32(np.int32(a * planes[0, y, x]) + np.int32(b * planes[1, y, x]))
                value = np.int32(first + np.int32(np.int32(c * planes[2, y, x]) + nearest))
                level = np.int32(value >> COLOUR_BITS)
                out[channel, y, x] = np.uint8(min(max(level, np.int32(0)), np.int32(255)))
