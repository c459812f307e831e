"""The compiled loops against the same sums in numpy, and what happens where nothing can be kept."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lvg_data import kernels
from lvg_data.render import RESIZED_BITS, Affine, PlaneResizer, empty_planes, lanczos_weights

PACKAGE = Path(kernels.__file__).parent


def black_and_white(shape: tuple[int, ...], dtype: type, top: int) -> np.ndarray:
    """Nothing overshoots further."""
    return (np.random.default_rng(0).integers(0, 2, shape) * top).astype(dtype)


def resized(
    planes: np.ndarray, rows: np.ndarray, columns: np.ndarray, bits: int, largest: float | None = None
) -> np.ndarray:
    """Planes by a `PlaneResizer`, at 0..255."""
    out = empty_planes(len(planes), len(rows), len(columns))
    PlaneResizer(rows, columns, bits, out, largest).resize(planes)
    return out[:, : len(rows), : len(columns)] / (2**RESIZED_BITS / 256)


#: rounding of weights, of sums of rows and of sums of columns: the largest of 15,000 sizes up to 300 was 0.077
TOLERANCE = 0.1


@pytest.mark.parametrize(("dtype", "bits"), [(np.uint8, 8), (np.uint16, 10), (np.uint16, 15), (np.int16, 13)])
@pytest.mark.parametrize("padding", [0, 37])
def test_planes_are_resized_by_their_weights(dtype: type, bits: int, padding: int):
    planes = black_and_white((2, 90, 160 + padding), dtype, 2**bits - 1)
    if dtype is np.int16:
        planes -= 2 ** (bits - 2)  # resized samples may be negative
    rows, columns = lanczos_weights(90, 32, 3, 87), lanczos_weights(160, 48, 10.5, 150)

    found = resized(planes, rows, columns, bits)

    expected = rows.astype(float) @ (planes[:, :, :160] / 2.0 ** (bits - 8)) @ columns.T.astype(float)
    np.testing.assert_allclose(found, expected, atol=TOLERANCE)
    assert np.sqrt(np.mean((found - expected) ** 2)) < TOLERANCE / 4
    assert abs(np.mean(found - expected)) < TOLERANCE / 20


@pytest.mark.parametrize(
    ("dtype", "bits", "low", "high", "largest"),
    [(np.uint8, 8, 0, 255, None), (np.uint16, 15, 0, 2**15 - 1, None), (np.int16, 13, -20000, 20000, 20000)],
)
@pytest.mark.parametrize("sizes", [(256, 16), (256, 64), (30, 64)])
def test_the_largest_sums_that_there_can_be_do_not_overflow(
    dtype: type, bits: int, low: int, high: int, largest: float | None, sizes: tuple[int, int]
):
    """The samples that a weight makes larger are as large as can be, the others as small, for each output in turn."""
    weights = lanczos_weights(*sizes, 0, sizes[0])
    for output in range(sizes[1]):
        plane = np.repeat(np.where(weights[output] > 0, high, low).astype(dtype)[:, None], sizes[0], axis=1)
        for plane_, rows, columns in (
            (plane, weights[[output]], weights),
            (plane.T.copy(), weights, weights[[output]]),
        ):
            (found,) = resized(plane_[None], rows, columns, bits, largest)
            expected = rows.astype(float) @ (plane_ / 2.0 ** (bits - 8)) @ columns.T.astype(float)
            np.testing.assert_allclose(found, expected, atol=2 * TOLERANCE)


@given(
    height=st.integers(1, 40), width=st.integers(1, 40),
    out_height=st.integers(1, 40), out_width=st.integers(1, 40),
)  # fmt: skip
def test_any_size_to_any_other(height: int, width: int, out_height: int, out_width: int):
    plane = black_and_white((height, width), np.uint8, 255)
    rows, columns = (
        lanczos_weights(height, out_height, 0, height),
        lanczos_weights(width, out_width, 0, width),
    )

    (found,) = resized(plane[None], rows, columns, 8)

    np.testing.assert_allclose(found, rows.astype(float) @ plane @ columns.T.astype(float), atol=TOLERANCE)


@pytest.mark.parametrize(("height", "width", "size"), [(2160, 3840, 64), (1080, 4320, 16)])
def test_many_taps_are_as_exact_as_few(height: int, width: int, size: int):
    """Their weights are small, but rounded as finely as large ones."""
    plane = black_and_white((height, width), np.uint8, 255)
    plane[:, : width // 3] = 255
    rows, columns = lanczos_weights(height, size, 0, height), lanczos_weights(width, size, 0, width)

    (found,) = resized(plane[None], rows, columns, 8)

    np.testing.assert_allclose(
        found, rows.astype(float) @ plane @ columns.T.astype(float), atol=TOLERANCE / 2
    )


def test_what_is_even_stays_what_it_was():
    """However many taps there are, rounding their weights neither brightens nor darkens."""
    plane = np.full((1, 2160, 3840), 201, np.uint8)

    found = resized(plane, lanczos_weights(2160, 37, 0, 2160), lanczos_weights(3840, 61, 0.25, 3839.5), 8)

    assert (found == 201).all()


@pytest.mark.parametrize("view", [np.s_[:, ::2, :], np.s_[:, :, 1::2], np.s_[:, 1::2, ::2]])
def test_planes_may_be_part_of_others(view: tuple[slice, ...]):
    """Fields of interlaced frames, and chroma that is stored in pairs."""
    whole = black_and_white((1, 80, 120), np.uint8, 255)
    part = whole[view]
    weights = lanczos_weights(part.shape[1], 16, 0, part.shape[1]), lanczos_weights(part.shape[2], 24, 0, 50)

    assert (resized(part, *weights, 8) == resized(part.copy(), *weights, 8)).all()


@pytest.mark.parametrize("shape", [(89, 160), (90, 159)])
def test_a_plane_that_is_too_small_is_refused(shape: tuple[int, int]):
    weights = lanczos_weights(90, 32, 0, 90), lanczos_weights(160, 48, 0, 160)
    resizer = PlaneResizer(*weights, 8, empty_planes(1, 32, 48))

    with pytest.raises(ValueError, match=r"\(90, 160\)"):
        resizer.resize([np.zeros(shape, np.uint8)])


def test_colours_are_mixed_rounded_and_clipped():
    planes = np.random.default_rng(0).integers(-2600, 11000, (3, 12, 8)).astype(np.int16)
    matrix = np.array([[1, 0, 0], [0.25, 0.5, 0.25], [0, -1, 1]]) / 32
    affine = Affine(matrix, np.array([0.0, 0.25, 128.0]))
    interleaved = np.empty((9, 7, 3), np.uint8)

    affine.write(planes, interleaved.transpose(2, 0, 1))

    exact = np.einsum("ij,jhw->hwi", affine.matrix, planes[:, :9, :7]) + affine.offset
    assert np.abs(interleaved - np.clip(exact, 0, 255)).max() <= 0.5 + 1e-4
    assert interleaved[exact < 0].max() == 0 and interleaved[exact > 255].min() == 255


#: prints a hash of what a video's colours and sizes become
RENDER = """
import hashlib, numpy as np
from lvg_data import render
rng = np.random.default_rng(0)
digest = hashlib.sha256()
for bits, dtype in ((8, np.uint8), (10, np.uint16)):
    planes = rng.integers(0, 2**bits, (3, 90, 160)).astype(dtype)
    high, low = render.empty_planes(3, 50, 70), np.empty((3, 49, 66), np.uint8)
    weights = render.lanczos_weights(90, 49, 0, 90), render.lanczos_weights(160, 66, 0, 160)
    render.PlaneResizer(*weights, bits, high).resize(planes)
    to_rgb = render.stored_to_rgb("bt709", False, render.RESIZED_BITS)
    to_rgb.write(high, low)
    digest.update(low.tobytes())
print(digest.hexdigest())
"""


@pytest.mark.parametrize(
    "processor", ["generic", "x86-64"] if platform.machine() == "x86_64" else ["generic"]
)
def test_frames_have_the_same_bytes_on_every_machine(processor: str, tmp_path: Path):
    """One that has the instructions of this one, and one with the fewest that there are."""
    found = []
    for environment in ({}, {"NUMBA_CPU_NAME": processor, "NUMBA_CPU_FEATURES": ""}):
        variables = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path), **environment}
        done = subprocess.run(
            [sys.executable, "-c", RENDER], env=variables, capture_output=True, text=True, check=True
        )
        found.append(done.stdout)

    assert found[0] == found[1]


# ---- what was compiled is kept -------------------------------------------------------------------------


#: what a new process says of the kernels that it imports: the sum of a picture that they resize to 8x8
RESIZE = """
import numpy as np
from copied import kernels
out, rows = np.empty((8, 8), np.int16), np.arange(8).reshape(2, 4)
pairs = np.ones((2, 4, 4), np.int16).view(np.int32)
kernels.resize(np.ones((8, 16), np.uint8), 0, rows, pairs, 1, np.empty((4, 16), np.int16),
               np.array([3]), np.ones((1, 2, 16), np.int16).view(np.int32), 1, out)
print(out.sum())
"""
#: each sum of four rows of ones, halved, is 2; each sum of four columns of those, halved, is 4
RESIZED = str(8 * 8 * 4)


def resize_in(package: Path, **environment: str) -> str:
    """What `RESIZE` prints in a new process that imports a copy of the kernels."""
    variables = {**os.environ, "PYTHONPATH": str(package.parent), **environment}
    done = subprocess.run(
        [sys.executable, "-c", RESIZE], env=variables, capture_output=True, text=True, check=True
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
    assert resize_in(package) == RESIZED
    kept = sorted((package / "__pycache__").glob("*.nb[ci]"))
    assert kept
    stamps = [path.stat().st_mtime_ns for path in kept]

    assert resize_in(package) == RESIZED
    assert [path.stat().st_mtime_ns for path in kept] == stamps

    for path in kept:
        path.write_bytes(path.read_bytes()[:40])
    assert resize_in(package) == RESIZED


def test_kernels_compile_where_nothing_can_be_kept(package: Path):
    blocked = package / "__pycache__"
    blocked.touch()  # a file, below which not even root can make a folder

    assert resize_in(package, HOME=str(blocked), XDG_CACHE_HOME=str(blocked)) == RESIZED
