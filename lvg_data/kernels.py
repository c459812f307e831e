"""Compiled loops over pixels, of which numpy would make several passes over memory.

numba compiles them once on a machine, which takes some seconds, and keeps them beside this file or in the user's
cache; where it can do neither, each fork server compiles its own. To import this takes a quarter of a second, so
that only what renders does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from numba import float32, int64, types, uint8, uint16

#: a product and a sum may be rounded once, as BLAS does; nothing else is reordered
_FAST_MATH = {"contract"}


def _compiled(signatures: list[Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Compiles a function now, for these argument types alone, or finds it compiled."""

    def compile_now(function: Callable[..., None]) -> Callable[..., None]:
        try:
            return numba.njit(signatures, fastmath=_FAST_MATH, cache=True)(function)
        except Exception:  # noqa: BLE001 - no folder to keep it in, a full disk, a damaged file: numba names none of them
            return numba.njit(signatures, fastmath=_FAST_MATH)(function)

    return compile_now


def _lines(dtype: Any) -> Any:
    return types.Array(dtype, 2, "C", readonly=True)


@_compiled(
    [
        types.void(_lines(dtype), int64, int64[:, ::1], float32[:, :, ::1], float32[:, ::1])
        for dtype in (uint8, uint16, float32)
    ]
)
def weigh_rows(plane: np.ndarray, left: int, rows: np.ndarray, weights: np.ndarray, out: np.ndarray) -> None:
    """Weighted sums of rows, two at a time.

    out[2p + q, x] is the sum over k of weights[p, q, k] * plane[rows[p, k], left + x]. Two neighbouring sums share
    nearly all that they read and convert. Nothing checks the bounds.

    Args:
      plane: uint8, uint16 or float32 [H, W], without gaps.
      left: the first column.
      rows: int64 [P, K], 0..H - 1; K is a multiple of 4.
      weights: float32 [P, 2, K].
      out: float32 [2P, at most W - left].
    """
    for pair in range(len(rows)):
        first, second = out[2 * pair], out[2 * pair + 1]
        for k in range(0, rows.shape[1], 4):
            row_a, row_b = plane[rows[pair, k], left:], plane[rows[pair, k + 1], left:]
            row_c, row_d = plane[rows[pair, k + 2], left:], plane[rows[pair, k + 3], left:]
            v_a, v_b, v_c, v_d = weights[pair, 0, k : k + 4]
            w_a, w_b, w_c, w_d = weights[pair, 1, k : k + 4]
            for x in range(out.shape[1]):
                a, b = np.float32(row_a[x]), np.float32(row_b[x])
                c, d = np.float32(row_c[x]), np.float32(row_d[x])
                v, w = v_a * a + v_b * b + v_c * c + v_d * d, w_a * a + w_b * b + w_c * c + w_d * d
                first[x] = v if k == 0 else first[x] + v
                second[x] = w if k == 0 else second[x] + w


@_compiled([types.void(float32[:, :, ::1], float32[:, ::1], float32[::1], types.Array(uint8, 3, "A"))])
def mix_colours(planes: np.ndarray, matrix: np.ndarray, offset: np.ndarray, out: np.ndarray) -> None:
    """Each pixel's three channels by an affine map, rounded to nearest and clipped to 0..255.

    Args:
      planes: float32 [3, H, W].
      matrix, offset: float32 [3, 3] and [3]: out = matrix @ in + offset.
      out: uint8 [3, H, W].
    """
    for channel in range(3):
        a, b, c = matrix[channel]
        nearest = offset[channel] + np.float32(0.5)
        for y in range(planes.shape[1]):
            for x in range(planes.shape[2]):
                value = a * planes[0, y, x] + b * planes[1, y, x] + c * planes[2, y, x] + nearest
                out[channel, y, x] = np.uint8(np.int32(min(max(value, np.float32(0)), np.float32(255))))
