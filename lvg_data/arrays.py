"""Arrays on disk as NumPy's own files, written so that a full disk is noticed."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np


def npy_bytes(array: np.ndarray) -> bytes:
    """`array` as an .npy file, format 1.0: the same bytes for the same array."""
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.ascontiguousarray(array), version=(1, 0), allow_pickle=False)
    return buffer.getvalue()


def save_array(path: Path, array: np.ndarray) -> None:
    """Writes `array` to an .npy file.

    `np.save` hands the data to C's buffered output, which may lose the end of it on a full disk without an error.

    Raises:
      OSError: no space.
    """
    path.write_bytes(npy_bytes(array))
