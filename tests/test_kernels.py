"""The compiled loops against the same sums in numpy, and what happens where nothing can be kept."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lvg_data import kernels
from lvg_data.render import Affine, PlaneResizer, lanczos_weights

PACKAGE = Path(kernels.__file__).parent


def noise(shape: tuple[int, ...], dtype: type, top: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, top + 1, shape).astype(dtype)


@pytest.mark.parametrize(("dtype", "top"), [(np.uint8, 255), (np.uint16, 1023), (np.float32, 255)])
@pytest.mark.parametrize("padding", [0, 37])
def test_planes_are_resized_by_their_weights(dtype: type, top: int, padding: int):
    planes = noise((2, 90, 160 + padding), dtype, top)
    rows, columns = lanczos_weights(90, 32, 3, 87), lanczos_weights(160, 48, 10.5, 150)
    out = np.empty((2, 32, 48), np.float32)

    PlaneResizer(rows, columns, out).resize(planes)

    expected = rows.astype(float) @ planes[:, :, :160] @ columns.T.astype(float)
    np.testing.assert_allclose(out, expected, atol=2e-6 * top)


@given(
    height=st.integers(1, 40), width=st.integers(1, 40),
    out_height=st.integers(1, 40), out_width=st.integers(1, 40),
)  # fmt: skip
def test_any_size_to_any_other(height: int, width: int, out_height: int, out_width: int):
    plane = noise((height, width), np.uint8, 255)
    rows, columns = (
        lanczos_weights(height, out_height, 0, height),
        lanczos_weights(width, out_width, 0, width),
    )
    out = np.full((1, out_height, out_width), np.nan, np.float32)

    PlaneResizer(rows, columns, out).resize([plane])

    np.testing.assert_allclose(out[0], rows.astype(float) @ plane @ columns.T.astype(float), atol=1e-3)


@pytest.mark.parametrize("shape", [(89, 160), (90, 159)])
def test_a_plane_that_is_too_small_is_refused(shape: tuple[int, int]):
    weights = lanczos_weights(90, 32, 0, 90), lanczos_weights(160, 48, 0, 160)
    resizer = PlaneResizer(*weights, np.empty((1, 32, 48), np.float32))

    with pytest.raises(ValueError, match=r"\(90, 160\)"):
        resizer.resize([np.zeros(shape, np.uint8)])


def test_colours_are_mixed_rounded_and_clipped():
    planes = np.random.default_rng(0).uniform(-80, 340, (3, 9, 7)).astype(np.float32)
    affine = Affine(np.array([[1, 0, 0], [0.25, 0.5, 0.25], [0, -1, 1]]), np.array([0.0, 0.25, 128.0]))
    interleaved = np.empty((9, 7, 3), np.uint8)

    affine.write(planes, interleaved.transpose(2, 0, 1))

    exact = np.einsum("ij,jhw->hwi", affine.matrix, planes) + affine.offset
    assert np.abs(interleaved - np.clip(exact, 0, 255)).max() <= 0.5 + 1e-4
    assert interleaved[exact < 0].max() == 0 and interleaved[exact > 255].min() == 255


# ---- what was compiled is kept -------------------------------------------------------------------------


def resize_in(package: Path, **environment: str) -> str:
    """What a new process says of the import of a copy of the kernels: the sum of some weighed rows."""
    code = (
        "import numpy as np; from copied import kernels; out = np.empty((2, 3), np.float32);"
        "rows, ones = np.zeros((1, 4), np.int64), np.ones((1, 2, 4), np.float32);"
        "kernels.weigh_rows(np.ones((1, 3), np.uint8), 0, rows, ones, out); print(out.sum())"
    )
    variables = {**os.environ, "PYTHONPATH": str(package.parent), **environment}
    done = subprocess.run(
        [sys.executable, "-c", code], env=variables, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A package that holds a copy of the kernels and nothing that is compiled."""
    folder = tmp_path / "copied"
    folder.mkdir()
    (folder / "__init__.py").touch()
    shutil.copy(PACKAGE / "kernels.py", folder)
    return folder


def test_what_was_compiled_is_used_again_and_what_is_damaged_is_not(package: Path):
    assert resize_in(package) == "24.0"
    kept = sorted((package / "__pycache__").glob("*.nb[ci]"))
    assert kept
    stamps = [path.stat().st_mtime_ns for path in kept]

    assert resize_in(package) == "24.0"
    assert [path.stat().st_mtime_ns for path in kept] == stamps

    for path in kept:
        path.write_bytes(path.read_bytes()[:40])
    assert resize_in(package) == "24.0"


def test_kernels_compile_where_nothing_can_be_kept(package: Path):
    blocked = package / "__pycache__"
    blocked.touch()  # a file, below which not even root can make a folder

    assert resize_in(package, HOME=str(blocked), XDG_CACHE_HOME=str(blocked)) == "24.0"
