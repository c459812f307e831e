"""The reader: every frame of every window is the one asked for, whatever the ranks, workers and interruptions."""

from __future__ import annotations

import doctest
import errno
import gc
import itertools
import os
import re
import shutil
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import fsspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lvg_data
from lvg_data import reader as reader_module
from lvg_data.errors import DatasetError
from lvg_data.reader import Batch, ClipFrames, Dataset, Reader, open_dataset
from lvg_data.report import FrameSource
from lvg_data.shard_cache import ShardCache
from lvg_data.shard_file import ShardFile
from lvg_data.window import View, Window
from tests.builds import build_dataset, make_once, small_card
from tests.test_trajectories import make_dataset as make_trajectories
from tests.videos import RECIPES, read_number, write_video

LOW = View(num_frames=12)
BOTH = View(num_frames=4, context=3, roles=("low", "high"))
INNER = View(num_frames=4, context=3, roles=("low", "high"), high_context=False)
#: of each film, in seconds at 30 frames a second: the frames 0 to 60 and 75 to 98, and 0 to 69
INTERVALS = {"a.mp4": [["0", "2.02"], ["2.49", "3.29"]], "b.mp4": [["0", "2.32"]], "c.mp4": [["0.1", "0.65"]]}


def make_dataset(folder: Path) -> None:
    """Clips of 61, 24, 70 and 17 frames in parts of 16 and 10, the last at high resolution only."""
    for name, num_frames in (("a", 100), ("b", 80), ("c", 30)):
        write_video(folder / f"{name}.mp4", RECIPES["h264_bframes"], num_frames, width=192, height=108)
    card = small_card(
        sources=[{"kind": "files", "path": "*.mp4", "intervals": INTERVALS}],
        low={"min_frames": 20},
        high={"height": 128, "width": 128},
        shards={"target_bytes": 400_000},
    )
    build_dataset(card, folder, folder / "out", store=folder / "store")


@pytest.fixture(scope="session")
def root(tmp_path_factory) -> Path:
    """A dataset on disk. To be read only."""
    return make_once(tmp_path_factory, "reader", make_dataset) / "out"


@pytest.fixture(scope="session")
def dataset(root: Path) -> Dataset:
    return open_dataset(root)


@pytest.fixture
def copy(root: Path, tmp_path: Path) -> Path:
    """A copy to be damaged."""
    return shutil.copytree(root, tmp_path / "copy")


def clip_of(dataset: Dataset, num_frames: int) -> ClipFrames:
    (found,) = (clip for clip in dataset.clips if clip.num_frames == num_frames)
    return found


def painted(frames: np.ndarray) -> list[int]:
    return [read_number(frame) for frame in frames]


def expected(dataset: Dataset, window: Window) -> list[int]:
    """What was painted into the frames of a window: films start at 0 and keep their frame rate."""
    return [dataset[window.clip].row.start_frame + frame for frame in window.frames]


def assert_shows_its_windows(dataset: Dataset, batch: Batch) -> None:
    for number, window in enumerate(batch.windows):
        assert painted(batch.low[number]) == expected(dataset, window)
        if batch.high is not None:
            assert painted(batch.high[number]) == expected(dataset, window)


# ------------------------------------------------------------------------------------------------------ in a REPL


def test_the_example_in_the_docstring_works(root: Path):
    results = doctest.testmod(reader_module, globs={"DATASET": root}, report=True)

    assert results.attempted > 10
    assert results.failed == 0


def test_a_dataset_has_the_clips_of_its_table(dataset: Dataset):
    assert sorted(clip.num_frames for clip in dataset.clips) == [17, 24, 61, 70]
    assert {(clip.row.split, clip.frame_rate) for clip in dataset.clips} == {("train", 30)}
    assert dataset[dataset.clips[0].id] is dataset.clips[0]
    assert repr(dataset).endswith("4 clips>")
    assert repr(clip_of(dataset, 17)).endswith(": 17 frames, train>")


@pytest.mark.parametrize("num_frames", [17, 24, 61, 70])
def test_whole_clips_show_their_frames_in_order(dataset: Dataset, num_frames: int):
    clip = clip_of(dataset, num_frames)
    numbers = list(range(clip.row.start_frame, clip.row.stop_frame))

    assert painted(clip.low()) == numbers
    assert painted(clip.high()) == numbers
    assert clip.times() == pytest.approx(np.array(numbers) / 30)
    assert (clip.low().shape, clip.low().dtype) == ((num_frames, 64, 64, 3), np.uint8)
    assert (clip.high().shape, clip.high().dtype) == ((num_frames, 128, 128, 3), np.uint8)


def test_frames_are_the_callers_own(dataset: Dataset):
    clip = clip_of(dataset, 61)  # parts [0, 16), [9, 25), ...

    inside, across = clip.low(9, 25), clip.low(8, 25)

    assert np.array_equal(across[1:], inside)
    inside[:] = across[:] = 0
    assert clip.low(8, 25).any()


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_any_stretch_of_a_clip_is_the_same_as_cut_from_the_whole(dataset: Dataset, data: st.DataObject):
    clip = data.draw(st.sampled_from(dataset.clips))
    start = data.draw(st.integers(0, clip.num_frames))
    stop = data.draw(st.integers(start, clip.num_frames))

    assert np.array_equal(clip.low(start, stop), clip.low()[start:stop])
    assert np.array_equal(clip.times(start, stop), clip.times()[start:stop])


@pytest.mark.parametrize(("start", "stop"), [(-1, 3), (5, 4), (0, 62)])
def test_frames_that_a_clip_does_not_have_are_refused(dataset: Dataset, start: int, stop: int):
    clip = clip_of(dataset, 61)

    for read in (clip.low, clip.high, clip.times, clip.poses):
        with pytest.raises(ValueError, match=rf"has frames 0 to 60, asked for \[{start}, {stop}\)"):
            read(start, stop)
    assert clip.low(4, 4).shape == (0, 64, 64, 3)
    assert clip.high(4, 4).shape == (0, 128, 128, 3)


def test_poses_lie_beside_their_frames_across_parts(tmp_path_factory):
    """The list of `test_trajectories` gives frame n the pose n * 100, n * 100 + 1, ..."""
    folder = make_once(tmp_path_factory, "trajectories", make_trajectories) / "out"
    clip = next(clip for clip in open_dataset(folder).clips if clip.row.track == "acid/train/every")

    numbers = painted(clip.low(3, 28))
    poses, intrinsics = clip.poses(3, 28), clip.intrinsics(3, 28)

    assert poses.reshape(25, 12).tolist() == [[n * 100 + k for k in range(12)] for n in numbers]
    assert intrinsics[:, 0].argsort().tolist() == list(range(25))


def test_a_clip_without_a_track_has_no_poses(dataset: Dataset):
    assert dataset.clips[0].poses() is None
    assert dataset.clips[0].intrinsics(0, 2) is None


def test_the_package_loads_the_reader_when_it_is_asked_for():
    assert lvg_data.open is open_dataset
    with pytest.raises(AttributeError, match="module 'lvg_data' has no attribute 'opne'"):
        lvg_data.opne  # noqa: B018


# -------------------------------------------------------------------------------------------------------- windows


@pytest.mark.parametrize("view", [LOW, View(5, stride=3), BOTH, View(2, 2, 1, ("low", "high"))])
def test_every_frame_of_a_drawn_window_is_the_one_asked_for(dataset: Dataset, view: View):
    for index in range(12):
        found = dataset.window(view, index, seed=1)
        assert found.window == dataset.windows(view).draw_window(index, seed=1)
        assert painted(found.low) == expected(dataset, found.window)
        if "high" in view.roles:
            assert painted(found.high) == expected(dataset, found.window)
        else:
            assert found.high is None


def test_high_res_frames_without_context_are_those_of_the_middle(dataset: Dataset):
    for index in range(12):
        whole, inner = (dataset.window(view, index, seed=1) for view in (BOTH, INNER))
        assert np.array_equal(inner.low, whole.low)
        assert len(inner.high) == 4
        assert np.array_equal(inner.high, whole.high[3:7])


def test_windows_over_every_seam_show_the_right_frames(dataset: Dataset):
    clip = clip_of(dataset, 24)
    for start in range(clip.num_frames - 9):
        window = Window(clip.id, start, 10)
        found = dataset.read_window(window, ("low", "high"))
        assert painted(found.low) == painted(found.high) == expected(dataset, window)


def test_low_frames_are_equal_in_the_shards_of_both_resolutions(dataset: Dataset):
    window = Window(clip_of(dataset, 70).id, 20, 30)

    alone, beside = dataset.read_window(window), dataset.read_window(window, ("low", "high"))

    assert np.array_equal(alone.low, beside.low)


# -------------------------------------------------------------------------------------------------------- batches


@pytest.mark.parametrize("view", [LOW, BOTH])
def test_batches_hold_the_windows_of_their_step(dataset: Dataset, view: View):
    with Reader(dataset, view, batch=3, seed=2) as reader:
        batches = list(itertools.islice(reader, 4))

    windows = dataset.windows(view)
    assert [batch.step for batch in batches] == [0, 1, 2, 3]
    assert [list(batch.windows) for batch in batches] == [windows.windows_of(0, 1, 3, 2, s) for s in range(4)]
    for batch in batches:
        assert batch.low.shape == (3, view.length, 64, 64, 3)
        assert_shows_its_windows(dataset, batch)


def read_lows(dataset: Dataset, num_batches: int, **options: int) -> np.ndarray:
    with Reader(dataset, LOW, seed=9, **options) as reader:
        return np.concatenate([batch.low for batch in itertools.islice(reader, num_batches)])


def test_the_stream_does_not_depend_on_workers_or_prefetch(dataset: Dataset):
    first = read_lows(dataset, 5, batch=4, workers=1, prefetch=0)

    assert np.array_equal(first, read_lows(dataset, 5, batch=4, workers=5, prefetch=3))


def test_a_reader_goes_on_at_a_step(dataset: Dataset):
    with Reader(dataset, LOW, batch=4, seed=9) as reader:
        next(reader), next(reader), next(reader)
        stopped_at = reader.step

    assert stopped_at == 3
    resumed = read_lows(dataset, 2, batch=4, start_step=stopped_at)
    assert np.array_equal(resumed, read_lows(dataset, 5, batch=4)[12:])


def test_ranks_together_read_what_one_reads_alone(dataset: Dataset):
    alone = read_lows(dataset, 2, batch=6).reshape(2, 3, 2, 12, 64, 64, 3)
    for rank in range(3):
        shared = read_lows(dataset, 2, batch=2, rank=rank, num_ranks=3)
        assert np.array_equal(shared, alone[:, rank].reshape(shared.shape))


def test_batches_that_are_kept_are_not_written_over_and_others_are_used_again(dataset: Dataset):
    with Reader(dataset, LOW, batch=2, seed=4) as reader:
        kept = [next(reader).low[:, 3:] for _ in range(8)]  # slices of it keep it too
        again = read_lows(dataset, 8, batch=2)
        places = {next(reader).low.ctypes.data for _ in range(20)}

    with Reader(dataset, LOW, batch=2, seed=4) as reader:
        fresh = [next(reader).low[:, 3:].copy() for _ in range(8)]
    assert all(np.array_equal(a, b) for a, b in zip(kept, fresh, strict=True))
    assert len(again) == 16
    assert len(places) <= 5  # prefetch 2, the one handed out, the one before it, the one that is next


def test_a_closed_reader_has_no_threads_and_says_so(dataset: Dataset):
    reader = Reader(dataset, LOW, batch=2, seed=0)
    batch = next(reader)
    reader.close()
    reader.close()

    assert not [thread for thread in threading.enumerate() if thread.name.startswith("lvg-reader")]
    assert_shows_its_windows(dataset, batch)
    with pytest.raises(ValueError, match="the reader is closed"):
        next(reader)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"view": View(71)}, "spans 71 frames .* has 70"),
        ({"split": "val"}, r"no clip is of the split 'val'; clips by split: train \(4\)"),
        ({"num_ranks": 4}, "4 ranks share 3 clips of 12 frames or more"),
        ({"batch": 200}, r"a step takes 200 windows \(1 ranks x 200\), and the 3 clips .* have 122"),
        ({"rank": 1}, "rank must be 0 to 0"),
        ({"start_step": -1}, "step must be from 0"),
        ({"seed": -1}, "seed must be from 0"),
        ({"workers": 0}, "workers must be at least 1, got 0"),
        ({"prefetch": -1}, "prefetch must be at least 0, got -1"),
    ],
)
def test_what_cannot_be_read_is_refused_at_the_start(dataset: Dataset, options, message):
    with pytest.raises(ValueError, match=message):
        Reader(dataset, **{"view": LOW, "batch": 2, "seed": 0, **options})


def test_missing_simplejpeg_is_said_clearly_and_low_frames_need_none(dataset: Dataset, monkeypatch):
    monkeypatch.setitem(sys.modules, "simplejpeg", None)

    with pytest.raises(ImportError, match="pip install simplejpeg"):
        clip_of(dataset, 61).high(0, 1)
    assert len(clip_of(dataset, 61).low(0, 1)) == 1


# --------------------------------------------------------------------------------------------------------- damage


def flip_byte(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 255
    path.write_bytes(data)


def damage_shards(root: Path, role: str) -> None:
    for path in root.glob(f"{role}-*/*.tar"):
        flip_byte(path, path.stat().st_size // 2)


def test_a_part_in_a_changed_shard_is_named_again_and_again(copy: Path):
    damage_shards(copy, "low")
    damaged = open_dataset(copy)
    keys = {
        part.key
        for clip in damaged.clips
        if clip.row.in_low
        for part in damaged.parts_of(clip.id, "low").parts
    }

    with Reader(damaged, LOW, batch=2, seed=0) as reader:
        for _ in range(2):
            with pytest.raises(
                DatasetError, match=r"has sha256 .* the shards table says .*lvg-data verify"
            ) as error:
                next(reader)
            assert str(error.value).split()[1] in keys
        assert reader.step == 0
    assert len(clip_of(damaged, 61).high(0, 2)) == 2


def test_hashing_can_be_left_out_and_sizes_are_compared_all_the_same(copy: Path):
    damage_shards(copy, "low")
    assert clip_of(open_dataset(copy, check=False), 61).low().shape == (61, 64, 64, 3)

    for path in copy.glob("low-*/*.tar"):
        os.truncate(path, path.stat().st_size - 512)
    with pytest.raises(
        DatasetError, match=r"part \w+-0000 cannot be trusted: .*train-0000\d.tar has [\d,]+ bytes"
    ):
        clip_of(open_dataset(copy, check=False), 61).low()


def test_a_missing_shard_names_the_part(copy: Path):
    for path in copy.glob("high-*/*.tar"):
        path.unlink()

    with pytest.raises(DatasetError, match=r"part \w+-0000 cannot be read: .*No such file.*copy it again"):
        clip_of(open_dataset(copy), 61).high(0, 1)


def test_a_picture_that_does_not_decode_names_part_and_frame(copy: Path):
    opened = open_dataset(copy, check=False)
    clip = clip_of(opened, 61)
    part = opened.parts_of(clip.id, "high").parts[0]
    shard = next(copy.glob("high-*")) / opened._shards[part.shard].name
    flip_byte(shard, part.place("f002.jpg")[0])

    assert len(clip.high(0, 2)) == 2
    with pytest.raises(DatasetError, match=f"part {part.key}: frame 2 is no JPEG"):
        clip.high(0, 3)


def test_an_unfinished_dataset_is_refused(copy: Path):
    (copy / "dataset.json").unlink()

    with pytest.raises(DatasetError, match="one whose build has not finished"):
        lvg_data.open(copy)


def test_more_shards_than_may_be_open_are_opened_in_turn(root: Path, monkeypatch):
    monkeypatch.setattr(reader_module, "_MAX_OPEN_SHARDS", 1)
    opened = open_dataset(root)

    lows = [clip.low() for clip in opened.clips]

    assert len(opened._shards) > 3 and len(opened._open) == 1
    for clip, low in zip(opened.clips, lows, strict=True):
        assert painted(low) == list(range(clip.row.start_frame, clip.row.stop_frame))


# ---------------------------------------------------------------------------------------- damage under a reader


def replace_by_damaged(path: Path) -> None:
    damaged = path.with_suffix(".new")
    shutil.copyfile(path, damaged)
    flip_byte(damaged, damaged.stat().st_size // 2)
    os.replace(damaged, path)


def overwrite_by_zeros(path: Path) -> None:
    with open(path, "r+b") as file:
        file.write(bytes(path.stat().st_size))


def cut_off(path: Path) -> None:
    os.truncate(path, 1024)


#: what happens to a shard while a trainer has it open -> what is said of it
HARMS: dict[str, tuple[Callable[[Path], None], str]] = {
    "deleted": (Path.unlink, "cannot be read: .*No such file"),
    "replaced by a damaged one": (replace_by_damaged, "has sha256 .* the shards table says"),
    "cut off": (cut_off, "has 1,024 bytes, the shards table says"),
    "overwritten by zeros": (overwrite_by_zeros, "has sha256 .* the shards table says"),
}


@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize("view", [LOW, View(5, stride=3), BOTH])
@pytest.mark.parametrize("name", HARMS)
def test_a_shard_that_is_harmed_under_a_reader_is_named_and_never_handed_out(name, view, check, copy: Path):
    """Of mapped shards one that is cut off would end this process by SIGBUS."""
    harm, said = HARMS[name]
    opened = open_dataset(copy, check=check)
    with Reader(opened, view, batch=4, seed=0) as reader:
        for _ in range(8):  # by now all shards are open
            assert_shows_its_windows(opened, next(reader))
        for path in copy.glob(f"{view.roles[-1]}-*/*.tar"):
            harm(path)
        with pytest.raises(DatasetError, match=rf"part \w+-\d+ .*{said}") as error:
            for batch in reader:
                assert_shows_its_windows(opened, batch)
                assert batch.step < 12, "more than was read ahead"
        assert re.search(rf"{view.roles[-1]}-\d+x\d+/train-\d+\.tar", str(error.value))
        with pytest.raises(DatasetError, match=said):
            next(reader)


@pytest.fixture
def hashed(monkeypatch) -> list[str]:
    """Names of the shards that were hashed."""
    names: list[str] = []
    sha256 = ShardFile.sha256
    monkeypatch.setattr(ShardFile, "sha256", lambda shard: names.append(shard.path.name) or sha256(shard))
    return names


def test_a_shard_that_is_copied_anew_or_touched_is_hashed_again_and_read_on(copy: Path, hashed: list[str]):
    opened = open_dataset(copy)
    clip = clip_of(opened, 61)
    numbers = painted(clip.low())
    once = sorted(hashed)
    assert len(once) == len(set(once)) >= 2

    for path in copy.glob("low-*/*.tar"):
        whole = shutil.copyfile(path, path.with_suffix(".new"))
        os.replace(whole, path)
    assert painted(clip.low()) == painted(clip.low()) == numbers
    assert sorted(hashed) == sorted(once * 2)

    for path in copy.glob("low-*/*.tar"):
        os.utime(path)
    assert painted(clip.low()) == painted(clip.low()) == numbers
    assert sorted(hashed) == sorted(once * 3)


def test_a_shard_that_changed_while_it_was_closed_is_hashed_again(copy: Path, hashed: list[str], monkeypatch):
    monkeypatch.setattr(reader_module, "_MAX_OPEN_SHARDS", 1)
    opened = open_dataset(copy, check=False)
    first, other = clip_of(opened, 61), clip_of(opened, 24)
    first.high(0, 1), other.high(0, 1), first.high(0, 1)
    assert hashed == []

    other.high(0, 1)
    damage_shards(copy, "high")
    with pytest.raises(DatasetError, match="has sha256"):
        first.high(0, 1)


def test_a_shard_that_changes_at_every_reading_is_given_up(copy: Path, monkeypatch):
    opened = open_dataset(copy)
    monkeypatch.setattr(ShardFile, "has_changed", lambda shard: True)

    with pytest.raises(DatasetError, match=r"its shard .*\.tar changes while it is read"):
        clip_of(opened, 61).low(0, 1)


def test_a_disk_that_fails_names_part_and_shard(dataset: Dataset, monkeypatch):
    def fail(*_: object) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "preadv", fail)
    with pytest.raises(DatasetError, match=r"part \w+-0000 cannot be read from .*\.tar: Input/output error"):
        clip_of(dataset, 61).high(0, 1)


def test_shards_that_nobody_refers_to_are_closed(root: Path):
    def open_tars() -> int:
        links = (os.readlink(path) for path in Path("/proc/self/fd").iterdir() if path.is_symlink())
        return sum(str(root) in link for link in links)

    gc.collect()
    before = open_tars()
    opened = open_dataset(root)
    clip_of(opened, 61).low()
    assert open_tars() > before
    del opened
    gc.collect()
    assert open_tars() == before


# --------------------------------------------------------------------------------------------------------- remote


@pytest.fixture
def remote(root: Path) -> str:
    fs = fsspec.filesystem("memory")
    fs.put(str(root), "/reader-bucket/set", recursive=True)
    yield "memory://reader-bucket/set"
    fs.rm("/reader-bucket", recursive=True)


def test_a_remote_dataset_reads_as_the_local_one_and_fetches_each_shard_once(remote, dataset, tmp_path):
    opened = open_dataset(remote, cache=tmp_path / "cache")
    for view in (LOW, BOTH):
        with Reader(opened, view, batch=3, seed=2) as far, Reader(dataset, view, batch=3, seed=2) as near:
            for a, b in itertools.islice(zip(far, near, strict=True), 3):
                assert np.array_equal(a.low, b.low)
                assert (a.high is None and b.high is None) or np.array_equal(a.high, b.high)

    fsspec.filesystem("memory").rm("/reader-bucket/set/low-064x064", recursive=True)
    again = open_dataset(remote, cache=tmp_path / "cache")
    assert np.array_equal(again.window(LOW, 0, 2).low, dataset.window(LOW, 0, 2).low)


def test_single_frames_of_a_remote_dataset_are_those_of_the_local_one(remote, dataset):
    source = FrameSource(remote)
    for clip in dataset.clips:
        for frame in (0, 8, clip.num_frames - 1):
            assert np.array_equal(source.read(clip.row, frame), clip.high(frame, frame + 1)[0])


def test_decoded_frames_of_a_remote_dataset_need_no_shard(remote, dataset, tmp_path):
    first = open_dataset(remote, cache=tmp_path / "shards", frame_cache=tmp_path / "frames")
    expected = [clip.high() for clip in first.clips]
    again = open_dataset(remote, cache=tmp_path / "none", frame_cache=tmp_path / "frames")

    assert all(np.array_equal(a, clip.high()) for a, clip in zip(expected, again.clips, strict=True))
    assert not (tmp_path / "none").exists()


def test_a_view_whose_shards_do_not_fit_the_cache_is_refused_at_the_start(remote, tmp_path):
    opened = open_dataset(remote, cache=tmp_path / "cache", cache_bytes=500_000)

    with pytest.raises(
        ValueError, match=r"the \d+ shards that this view reads .* may hold 500,000; .*cache_bytes"
    ):
        Reader(opened, LOW, batch=1, seed=0)
    assert painted(opened.window(LOW, 0, 0).low)  # single windows take turns in the cache


def test_the_cache_drops_what_was_used_least_recently(remote, dataset, tmp_path):
    shards = [shard for shard in dataset._shards if shard.role == "low"][:3]
    limit = sum(shard.size_bytes for shard in shards[:2]) + shards[2].size_bytes // 2
    cache = ShardCache(tmp_path / "cache", limit)
    urls = {shard.name: f"{remote}/low-064x064/{shard.name}" for shard in shards}
    assert shards[2].size_bytes <= min(s.size_bytes for s in shards[:2]) * 2, "choose other shards"

    for age, shard in enumerate(shards[:2]):
        path = cache.fetch(urls[shard.name], shard)
        os.utime(path, ns=(10**18 + age, 10**18 + age))
    cache.fetch(urls[shards[0].name], shards[0])  # the older one is used again
    kept = cache.fetch(urls[shards[2].name], shards[2])

    there = {path.stem for path in cache.folder.glob("*.tar")}
    assert there == {shards[0].sha256, kept.stem}
    assert sum(path.stat().st_size for path in cache.folder.glob("*.tar")) <= limit


def test_a_remote_shard_that_is_damaged_missing_or_too_large_is_named(remote, dataset, tmp_path):
    fs = fsspec.filesystem("memory")
    shard = next(shard for shard in dataset._shards if shard.role == "low")
    url = f"{remote}/low-064x064/{shard.name}"
    with pytest.raises(DatasetError, match=rf"{shard.name} has [\d,]+ bytes and the cache .* may hold 1,000"):
        ShardCache(tmp_path / "small", 1000).fetch(url, shard)

    cache = ShardCache(tmp_path / "cache", 1 << 30)
    fs.pipe_file(url, b"x" * shard.size_bytes)
    with pytest.raises(DatasetError, match=f"{url} has sha256 .* the shards table says {shard.sha256}"):
        cache.fetch(url, shard)
    fs.rm_file(url)
    with pytest.raises(DatasetError, match=f"{url} does not exist"):
        cache.fetch(url, shard)
    assert [path.name for path in cache.folder.iterdir()] == ["lock"]


@pytest.mark.parametrize("name", HARMS)
def test_a_shard_that_is_harmed_in_the_cache_is_fetched_again_or_named(name, remote, dataset, tmp_path):
    """One that goes made room; one of another size is no shard; one of the same size is for a human."""
    opened = open_dataset(remote, cache=tmp_path / "cache")
    clip, numbers = clip_of(opened, 61), painted(clip_of(dataset, 61).low())
    assert painted(clip.low()) == numbers
    for path in (tmp_path / "cache").glob("*.tar"):
        HARMS[name][0](path)
    if name == "overwritten by zeros":
        with pytest.raises(DatasetError, match=r"has sha256 .* the shards table says"):
            clip.low()
    else:
        assert painted(clip.low()) == numbers


def test_readers_that_share_a_cache_hash_each_shard_once(remote, tmp_path, hashed):
    """The clock of a shard's last use, which all of them set, is not that of its last change."""
    first, second = (open_dataset(remote, cache=tmp_path / "cache") for _ in range(2))
    for opened in (first, second, first, second, first):
        opened._open.clear()
        clip_of(opened, 61).low(0, 1)
    assert len(hashed) == 2


def test_no_more_than_one_of_many_threads_fetches_a_shard(remote, dataset, tmp_path, monkeypatch):
    shard = next(shard for shard in dataset._shards if shard.role == "low")
    cache, fetched = ShardCache(tmp_path / "cache", 1 << 30), []
    get_file = type(fsspec.filesystem("memory")).get_file
    monkeypatch.setattr(
        type(fsspec.filesystem("memory")),
        "get_file",
        lambda fs, *args, **options: (fetched.append(args[0]), get_file(fs, *args, **options)),
    )
    threads = [
        threading.Thread(target=cache.fetch, args=(f"{remote}/low-064x064/{shard.name}", shard))
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(fetched) == 1
    assert len(list(cache.folder.glob("*.tar"))) == 1
