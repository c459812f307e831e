"""Movies: every frame, at its time, in its colours; whole or not there."""

from __future__ import annotations

import builtins
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lvg_train.errors import TrainError
from lvg_train.movie import MovieWriter, strip

RATE = Fraction(30000, 1001)
#: corners of the RGB cube and some between
COLOURS = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (0, 255, 255), (255, 0, 255),
           (255, 255, 255), (0, 0, 0), (128, 128, 128), (30, 200, 90), (200, 100, 40), (90, 30, 160)]  # fmt: skip


def painted(num_frames: int, height: int = 48, width: int = 64) -> np.ndarray:
    """uint8 [T, H, W, 3]: one colour a frame in the upper half; the lower half as bright as the frame's number."""
    video = np.zeros((num_frames, height, width, 3), np.uint8)
    for number in range(num_frames):
        video[number, : height // 2] = COLOURS[number % len(COLOURS)]
        video[number, height // 2 :] = 20 + 2 * number
    return video


def write_movie(path: Path, video: np.ndarray, chunk: int = 5, **options) -> Path:
    with MovieWriter(path, *video.shape[1:3], RATE, **options) as movie:
        for start in range(0, len(video), chunk):
            movie.write(video[start : start + chunk])
    return path


def decoded(path: Path) -> tuple[np.ndarray, list[Fraction]]:
    """Frames by our own BT.709 conversion of the stored planes, and their times in seconds."""
    av = pytest.importorskip("av")
    with av.open(str(path)) as container:
        stored = list(container.decode(video=0))
        assert {(f.format.name, f.colorspace, f.color_range) for f in stored} == {("yuv420p", 1, 1)}
    return np.stack([rgb_of(frame) for frame in stored]), [f.pts * f.time_base for f in stored]


def rgb_of(frame) -> np.ndarray:
    """float64 [H, W, 3], 0 to 255. ITU-R BT.709, section 3, limited range."""
    planes = [np.frombuffer(p, np.uint8).reshape(p.height, p.line_size)[:, : p.width] for p in frame.planes]
    luma = (planes[0] - 16.0) / 219
    blue, red = ((plane.repeat(2, 0).repeat(2, 1) - 128.0) / 224 for plane in planes[1:])
    r, b = luma + 1.5748 * red, luma + 1.8556 * blue
    g = (luma - 0.2126 * r - 0.0722 * b) / 0.7152
    return 255 * np.stack([r, g, b], axis=-1)


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_a_movie_has_every_frame_at_its_time_in_its_colours(tmp_path, suffix):
    video = painted(100)

    frames, times = decoded(write_movie(tmp_path / f"x{suffix}", video, crf=4))

    assert len(frames) == 100
    # Matroska keeps times in milliseconds
    assert max(abs(t - i / RATE) for i, t in enumerate(times)) <= (
        Fraction(1, 1000) if suffix == ".mkv" else 0
    )
    assert np.abs(frames - video).max() < 8
    assert np.abs(frames - video).mean() < 1
    assert np.abs((frames - video).mean(axis=(0, 1, 2))).max() < 0.5


def test_a_player_that_trusts_the_tags_sees_the_colours_too(tmp_path):
    av = pytest.importorskip("av")
    video = painted(12)

    with av.open(str(write_movie(tmp_path / "x.mp4", video, crf=4))) as container:
        stream = container.streams.video[0]
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(stream)])
        context = stream.codec_context
        assert (stream.average_rate, context.color_primaries, context.color_trc) == (RATE, 1, 1)

    assert np.abs(frames.astype(int) - video).max() < 10


def test_odd_sizes_repeat_their_last_row_and_column(tmp_path):
    video = painted(10, height=35, width=63)

    frames, _ = decoded(write_movie(tmp_path / "x.mp4", video, crf=4))

    assert frames.shape == (10, 36, 64, 3)
    error = np.abs(frames[:, :35, :63] - video)
    assert error[:, :16].max() < 8
    assert error[:, 18:].max() < 8  # rows 16 and 17, of two colours, share theirs
    assert np.abs(frames[:, 35] - frames[:, 34]).max() < 6


def test_the_chunks_it_is_written_in_change_nothing(tmp_path):
    video = painted(40)

    a, b = write_movie(tmp_path / "a.mp4", video, chunk=1), write_movie(tmp_path / "b.mp4", video, chunk=40)

    assert a.read_bytes() == b.read_bytes()


def test_webp_needs_no_av_and_keeps_frames_and_times(tmp_path, without_av):
    video = painted(31)

    with Image.open(write_movie(tmp_path / "x.webp", video)) as image:
        assert image.n_frames == 31
        durations, errors = [], []
        for number in range(31):
            image.seek(number)
            image.load()
            durations.append(image.info["duration"])
            errors.append(
                np.abs(np.asarray(image.convert("RGB"))[30:] - video[number, 30:].astype(int)).max()
            )

    assert set(durations) == {33, 34}
    assert abs(sum(durations) - 31 * 1000 / RATE) < 1
    assert max(errors) <= 4


def test_png_is_a_strip_over_the_whole_movie(tmp_path, without_av):
    video = painted(100)

    with Image.open(write_movie(tmp_path / "x.png", video, strip_frames=4)) as image:
        picture = np.asarray(image)

    numbers = [(int(picture[-1, 64 * k, 0]) - 20) / 2 for k in range(4)]
    assert picture.shape == (48, 4 * 64, 3)
    assert numbers[0] == 0
    assert numbers[-1] >= 88
    assert np.diff(numbers).min() >= 24


def test_a_strip_has_the_first_and_the_last_frame():
    picture = np.asarray(strip(painted(9), 3))

    assert [int(picture[-1, 64 * k, 0]) for k in range(3)] == [20, 28, 36]
    assert strip(painted(2), 8).size == (128, 48)


@pytest.fixture
def without_av(monkeypatch):
    """The import of av fails, as where it is not installed."""
    real = builtins.__import__

    def refuse(name, *rest):
        if name.split(".")[0] == "av":
            raise ModuleNotFoundError("No module named 'av'", name="av")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", refuse)


def test_without_av_mp4_is_refused_before_a_frame_is_made(tmp_path, without_av):
    with pytest.raises(TrainError, match=r"pip install av.*\.webp"):
        MovieWriter(tmp_path / "x.mp4", 32, 32, RATE)


def test_an_unknown_extension_is_refused_with_the_known_ones(tmp_path):
    with pytest.raises(TrainError, match=r"'\.gif'; there are \.mp4, \.mov, \.mkv, \.webp, \.png"):
        MovieWriter(tmp_path / "x.gif", 32, 32, RATE)


def test_frames_of_another_size_or_type_are_refused(tmp_path):
    with MovieWriter(tmp_path / "x.png", 48, 64, RATE) as movie:
        movie.write(painted(1))
        with pytest.raises(ValueError, match=r"got uint8 \[1, 32, 64, 3\]"):
            movie.write(painted(1, height=32))
        with pytest.raises(ValueError, match="got float32"):
            movie.write(painted(1).astype(np.float32))


@pytest.mark.parametrize("suffix", [".mp4", ".webp", ".png"])
def test_a_movie_that_is_given_up_leaves_the_old_one(tmp_path, suffix):
    path = tmp_path / f"x{suffix}"
    path.write_bytes(b"the old one")

    with pytest.raises(KeyboardInterrupt), MovieWriter(path, 48, 64, RATE) as movie:
        movie.write(painted(30))
        raise KeyboardInterrupt

    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert path.read_bytes() == b"the old one"


@pytest.mark.parametrize("suffix", [".mp4", ".webp", ".png"])
def test_a_movie_without_frames_is_an_error(tmp_path, suffix):
    with pytest.raises(ValueError, match="no frame"), MovieWriter(tmp_path / f"x{suffix}", 48, 64, RATE):
        pass
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_to_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(TrainError, match=r"file/x\.mp4 cannot be written"):
        MovieWriter(tmp_path / "file" / "x.mp4", 32, 32, RATE)


FULL = """
import resource, sys
from pathlib import Path
import numpy as np
from lvg_train.errors import TrainError
from lvg_train.movie import MovieWriter
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
noise = np.random.default_rng(0).integers(0, 256, (60, 96, 96, 3), np.uint8)
try:
    with MovieWriter(Path(sys.argv[1]), 96, 96, 30, strip_frames=30) as movie:
        movie.write(noise)
except TrainError as err:
    print(err)
"""


@pytest.mark.parametrize("suffix", [".mp4", ".webp", ".png"])
def test_a_full_disk_is_named_and_leaves_nothing(tmp_path, suffix):
    path = tmp_path / f"x{suffix}"

    answer = subprocess.run(
        [sys.executable, "-c", FULL, str(path)], capture_output=True, text=True, check=True
    )

    assert answer.stdout.startswith(f"{path} cannot be written: ")
    assert not list(tmp_path.iterdir())


GROWTH = """
import resource
import sys
from pathlib import Path
import numpy as np
from lvg_train.movie import MovieWriter
frames = np.random.default_rng(0).integers(0, 256, (50, 96, 96, 3), np.uint8)
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
with MovieWriter(Path(sys.argv[1]), 96, 96, 30, crf=40) as movie:
    for _ in range(6):
        movie.write(frames)
    before = peak()
    for _ in range(40):
        movie.write(frames)
    print(peak() - before)
"""


def test_memory_does_not_grow_with_the_frames(tmp_path):
    """2,000 frames of 27 kB are 54 MB."""
    answer = subprocess.run(
        [sys.executable, "-c", GROWTH, str(tmp_path / "x.mp4")], capture_output=True, text=True, check=True
    )

    assert int(answer.stdout) < 12_000  # kB
