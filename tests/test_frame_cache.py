"""The cache of decoded frames: the pixels are those of the JPEGs, whoever fills it, breaks it or makes room in it."""

from __future__ import annotations

import errno
import hashlib
import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

from lvg_data import frame_cache as frame_cache_module
from lvg_data.cache_folder import CacheFolder, NoRoom
from lvg_data.frame_cache import CachedPart, FrameCache
from lvg_data.reader import Dataset, Reader, open_dataset
from tests.builds import make_once
from tests.test_reader import BOTH, make_dataset

PART = CachedPart("shard", "part", num_frames=5, height=8, width=16)
#: 4,096 for the table of CRCs, 5 frames of 8 x 16 x 3
PART_BYTES = 4096 + 5 * 384


@pytest.fixture(scope="session")
def root(tmp_path_factory) -> Path:
    """The dataset of `test_reader`. To be read only."""
    return make_once(tmp_path_factory, "reader", make_dataset) / "out"


@pytest.fixture(scope="session")
def plain(root: Path) -> Dataset:
    return open_dataset(root)


class Decoder:
    """Frame n of a part is full of n + 1; counts what it is asked for."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def __call__(self, number: int, out: np.ndarray) -> None:
        self.asked.append(number)
        out[:] = number + 1


def fill(cache: FrameCache, numbers: range, part: CachedPart = PART) -> list[int]:
    """Reads frames of a part; returns which of them were decoded."""
    decoder, out = Decoder(), np.zeros((len(numbers), part.height, part.width, 3), np.uint8)
    cache.fill(part, numbers, out, decoder)
    assert [frame.min() for frame in out] == [frame.max() for frame in out] == [n + 1 for n in numbers]
    return decoder.asked


def file_of(cache: FrameCache) -> Path:
    (path,) = cache.folder.glob("*.frames")
    return path


def parts(*keys: str) -> list[CachedPart]:
    return [CachedPart("shard", key, 5, 8, 16) for key in keys]


# ------------------------------------------------------------------------------------------------- what is read


def read_high(dataset: Dataset) -> list[np.ndarray]:
    return [clip.high() for clip in dataset.clips]


def test_frames_are_the_same_with_and_without_the_cache_and_decoded_once(
    root: Path, plain: Dataset, tmp_path, monkeypatch
):
    cached, later = (open_dataset(root, frame_cache=tmp_path) for _ in range(2))
    expected, first = read_high(plain), read_high(cached)
    monkeypatch.setitem(sys.modules, "simplejpeg", None)  # nothing can be decoded from here on

    for high, *found in zip(expected, first, read_high(cached), read_high(later), strict=True):
        assert all(np.array_equal(high, other) for other in found)


def test_batches_are_the_same_with_and_without_the_cache(root: Path, plain: Dataset, tmp_path):
    cached = open_dataset(root, frame_cache=tmp_path)
    with Reader(cached, BOTH, batch=3, seed=2) as far, Reader(plain, BOTH, batch=3, seed=2) as near:
        for _, a, b in zip(range(6), far, near, strict=False):
            assert np.array_equal(a.high, b.high) and np.array_equal(a.low, b.low)


def test_each_frame_of_the_clips_is_kept_once_though_parts_overlap(root: Path, plain: Dataset, tmp_path):
    cached = open_dataset(root, frame_cache=tmp_path)
    for clip in cached.clips:  # from every start, so that windows begin in either of two parts
        for start in range(clip.num_frames - 3):
            clip.high(start, start + 4)

    num_frames = sum(clip.num_frames for clip in plain.clips)
    headers = 4096 * len(list(tmp_path.glob("*.frames")))
    assert sum(path.stat().st_size for path in tmp_path.glob("*.frames")) == headers + num_frames * 128**2 * 3


def test_frames_at_a_stride_are_found_too(tmp_path):
    cache = FrameCache(tmp_path, 1 << 20)

    assert fill(cache, range(0, 5, 2)) == [0, 2, 4]
    assert fill(cache, range(5)) == [1, 3]
    assert fill(cache, range(5)) == []


def test_a_part_of_another_shard_or_size_is_never_taken_for_this_one(tmp_path):
    cache = FrameCache(tmp_path, 1 << 20)
    fill(cache, range(5))

    for other in (("changed", "part", 5, 8, 16), ("shard", "other", 5, 8, 16), ("shard", "part", 5, 16, 8)):
        assert fill(cache, range(5), CachedPart(*other)) == [0, 1, 2, 3, 4]


def test_another_decoder_does_not_find_what_this_one_made(tmp_path, monkeypatch):
    fill(FrameCache(tmp_path, 1 << 20), range(5))
    monkeypatch.setattr(frame_cache_module.importlib.metadata, "version", lambda name: "0.0")

    assert fill(FrameCache(tmp_path, 1 << 20), range(5)) == [0, 1, 2, 3, 4]


def test_a_frame_that_does_not_decode_is_not_kept(tmp_path):
    cache = FrameCache(tmp_path, 1 << 20)

    def fail(number: int, out: np.ndarray) -> None:
        out[:] = 77
        raise ValueError("damaged")

    with pytest.raises(ValueError, match="damaged"):
        cache.fill(PART, range(2), np.zeros((2, 8, 16, 3), np.uint8), fail)
    assert fill(cache, range(2)) == [0, 1]


# ------------------------------------------------------------------------------------------------------- damage


@pytest.mark.parametrize("offset", [0, 4096, 4096 + 383], ids=["crc", "first byte", "last byte"])
def test_a_damaged_frame_is_made_again_and_the_others_are_kept(tmp_path, offset: int):
    cache = FrameCache(tmp_path, 1 << 20)
    fill(cache, range(5))
    with open(file_of(cache), "r+b") as file:
        file.seek(offset)
        byte = file.read(1)
        file.seek(offset)
        file.write(bytes([byte[0] ^ 255]))

    reopened = FrameCache(tmp_path, 1 << 20)
    assert fill(reopened, range(5)) == [0]
    assert fill(reopened, range(5)) == []
    assert fill(FrameCache(tmp_path, 1 << 20), range(5)) == []


@pytest.mark.parametrize("size_bytes", [0, 100, 4096, PART_BYTES - 1, PART_BYTES + 1])
def test_a_file_of_another_length_is_made_again(tmp_path, size_bytes: int):
    cache = FrameCache(tmp_path, 1 << 20)
    fill(cache, range(5))
    os.truncate(file_of(cache), size_bytes)

    assert fill(cache, range(5)) == [0, 1, 2, 3, 4]
    assert file_of(cache).stat().st_size == PART_BYTES


#: writes frames 0 and 1 and half of frame 2, and is killed
DIE_IN_THE_MIDDLE = """
import os, pathlib, signal, sys
import numpy as np
from lvg_data.frame_cache import CachedPart, FrameCache

whole = os.pwrite
def half(file, data, offset):
    if offset != 4096 + 2 * 384:
        return whole(file, data, offset)
    whole(file, data[: len(data) // 2], offset)
    os.kill(os.getpid(), signal.SIGKILL)

os.pwrite = half
cache, part = FrameCache(pathlib.Path(sys.argv[1]), 1 << 20), CachedPart("shard", "part", 5, 8, 16)
cache.fill(part, range(5), np.zeros((5, 8, 16, 3), np.uint8), lambda number, out: out.fill(number + 1))
"""


def test_a_frame_whose_writer_was_killed_is_made_again(tmp_path):
    killed = subprocess.run([sys.executable, "-c", DIE_IN_THE_MIDDLE, tmp_path], timeout=60)
    assert killed.returncode == -signal.SIGKILL

    cache = FrameCache(tmp_path, 1 << 20)
    data = file_of(cache).read_bytes()
    assert data[4096 + 2 * 384] == 3 and data[4096 + 3 * 384 - 1] == 0  # it did die in the middle
    assert fill(cache, range(5)) == [2, 3, 4]


# ---------------------------------------------------------------------------------------------- several at once


#: reads six batches once it is told to, and prints the hash of each
READ_BATCHES = """
import hashlib, sys
from lvg_data.reader import Reader, open_dataset
from lvg_data.window import View

root, folder, seed = sys.argv[1:]
dataset = open_dataset(root, frame_cache=folder)
print("ready", flush=True)
sys.stdin.readline()
view = View(num_frames=4, context=3, roles=("low", "high"))
with Reader(dataset, view, batch=3, seed=int(seed), workers=3) as reader:
    for _ in range(6):
        print(hashlib.sha256(next(reader).high).hexdigest())
"""


def hashes(dataset: Dataset, seed: int) -> list[str]:
    with Reader(dataset, BOTH, batch=3, seed=seed) as reader:
        return [hashlib.sha256(next(reader).high).hexdigest() for _ in range(6)]


def test_processes_that_fill_it_at_once_read_the_frames_of_the_jpegs(root: Path, plain: Dataset, tmp_path):
    seeds = (1, 1, 2)
    children = [
        subprocess.Popen(
            [sys.executable, "-c", READ_BATCHES, root, tmp_path, str(seed)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in seeds
    ]
    assert [child.stdout.readline() for child in children] == ["ready\n"] * 3
    for child in children:
        child.stdin.write("go\n")
        child.stdin.flush()
    found = [child.communicate(timeout=60)[0].split() for child in children]

    assert found == [hashes(plain, seed) for seed in seeds]
    again = open_dataset(root, frame_cache=tmp_path)
    assert all(np.array_equal(a, b) for a, b in zip(read_high(again), read_high(plain), strict=True))


def test_a_file_that_makes_room_while_it_is_open_is_read_to_its_end(tmp_path):
    first, second = parts("a", "b")
    cache = FrameCache(tmp_path, PART_BYTES + 100)
    fill(cache, range(5), first)
    with cache._open(first) as file:
        assert fill(FrameCache(tmp_path, PART_BYTES + 100), range(5), second) == [0, 1, 2, 3, 4]
        assert len(list(tmp_path.glob("*.frames"))) == 1  # that of the second
        out = np.zeros((8, 16, 3), np.uint8)
        assert file.read(3, out) and (out == 4).all()
        file.write(3, out)
    with pytest.warns(RuntimeWarning, match="it is full"):  # the later one keeps what it uses
        assert fill(cache, range(5), first) == [0, 1, 2, 3, 4]


# -------------------------------------------------------------------------------------------------------- room


def test_parts_of_earlier_runs_make_room_the_least_recently_used_first(tmp_path):
    a, b, c, d = parts("a", "b", "c", "d")
    limit = 3 * PART_BYTES + 1000
    earlier = FrameCache(tmp_path, limit)
    for part in (a, b, c):
        fill(earlier, range(5), part)
    fill(FrameCache(tmp_path, limit), range(1), a)  # a run that uses the oldest again

    assert fill(FrameCache(tmp_path, limit), range(5), d) == [0, 1, 2, 3, 4]
    assert sum(path.stat().st_size for path in tmp_path.glob("*.frames")) <= limit
    later = FrameCache(tmp_path, limit)
    assert [fill(later, range(5), part) for part in (a, c, d)] == [[], [], []]


def test_what_this_run_uses_stays_and_the_rest_is_decoded_each_time_and_said_once(tmp_path):
    cache = FrameCache(tmp_path, 2 * PART_BYTES + 1000)
    a, b, c = parts("a", "b", "c")
    fill(cache, range(5), a), fill(cache, range(2), b)

    with pytest.warns(RuntimeWarning, match=r"takes no more frames \(13,032 bytes allowed\): it is full"):
        assert fill(cache, range(5), c) == [0, 1, 2, 3, 4]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fill(cache, range(5), c) == [0, 1, 2, 3, 4]
        assert fill(cache, range(5), a) == []


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_on_a_full_disk_reading_goes_on_and_says_so_once(tmp_path, monkeypatch, code: int):
    cache, whole = FrameCache(tmp_path, 1 << 20), os.pwrite
    fill(cache, range(2))

    def no_space(*args: object) -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "pwrite", no_space)
    with pytest.warns(
        RuntimeWarning, match=r"its disk is \(.*\); make space, or choose another folder"
    ) as said:
        assert fill(cache, range(5)) == [2, 3, 4]
    assert len(said) == 1
    monkeypatch.setattr(os, "pwrite", whole)
    assert fill(cache, range(5)) == [2, 3, 4]


def test_other_errors_of_the_disk_are_not_hidden(tmp_path, monkeypatch):
    cache = FrameCache(tmp_path, 1 << 20)

    def fail(*args: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "pwrite", fail)
    with pytest.raises(OSError, match="Input/output error"):
        fill(cache, range(1))
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        FrameCache(tmp_path / "file", 1 << 20)


def test_a_write_that_the_disk_takes_in_pieces_is_whole(tmp_path, monkeypatch):
    whole = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda file, data, offset: whole(file, data[:100], offset))
    assert fill(FrameCache(tmp_path, 1 << 20), range(5)) == [0, 1, 2, 3, 4]

    assert fill(FrameCache(tmp_path, 1 << 20), range(5)) == []


# ----------------------------------------------------------------------------------------- folders with a limit


def make_bytes(size_bytes: int):
    return lambda path: path.write_bytes(b"x" * size_bytes)


def test_the_bytes_of_all_processes_count(tmp_path):
    """Each object is as another process: they share nothing but the folder."""
    folders = [CacheFolder(tmp_path, 1000, ".x") for _ in range(3)]
    for number in range(30):
        folders[number % 3].get_or_make(str(number), 90, make_bytes(90))
        assert sum(path.stat().st_size for path in tmp_path.glob("*.x")) <= 1000

    assert {path.stem for path in tmp_path.glob("*.x")} >= {str(number) for number in range(21, 30)}


def test_a_file_that_is_larger_than_the_limit_drops_nothing(tmp_path):
    folder = CacheFolder(tmp_path, 1000, ".x")
    folder.get_or_make("kept", 400, make_bytes(400))

    with pytest.raises(NoRoom):
        folder.get_or_make("large", 1001, make_bytes(1001))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept.x", "lock"]
    folder.get_or_make("all", 1000, make_bytes(1000))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["all.x", "lock"]


def test_files_that_were_removed_by_hand_and_leftovers_are_noticed(tmp_path):
    CacheFolder(tmp_path, 1000, ".x").get_or_make("gone", 900, make_bytes(900))
    (tmp_path / "gone.x").unlink()
    (tmp_path / "half.0123.tmp").write_bytes(b"x" * 500)
    folder = CacheFolder(tmp_path, 1000, ".x")

    folder.get_or_make("a", 600, make_bytes(600))

    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.x", "lock"]
    (tmp_path / "a.x").unlink()
    folder.get_or_make("b", 600, make_bytes(600))
    folder.get_or_make("c", 400, make_bytes(400))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.x", "c.x", "lock"]


def test_a_maker_that_fails_leaves_nothing(tmp_path):
    folder = CacheFolder(tmp_path, 1000, ".x")

    def fail(path: Path) -> None:
        path.write_bytes(b"half")
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        folder.get_or_make("a", 600, fail)
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]
