"""Batches for training: the right values, whatever the access, the ranks, the workers and the interruptions."""

from __future__ import annotations

import itertools
import os
import shutil
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch

from lvg_data.errors import DatasetError
from lvg_data.reader import Batch, Dataset, open_dataset
from lvg_data.window import View, Window
from lvg_train import stream
from lvg_train.data import Batches, Data, DeviceBatch, normalise, place, stream_seed
from lvg_train.draws import Draws
from lvg_train.errors import TrainError
from lvg_train.stream import Shelf, Streaming, Unpacker
from tests.builds import make_once
from tests.servers import Server, file, http_server, in_turn, status
from tests.test_reader import flip_byte, make_dataset, painted

LOW = View(num_frames=6)
STRIDED = View(num_frames=3, stride=3)
BOTH = View(num_frames=2, context=1, roles=("low", "high"))
INNER = View(num_frames=2, context=1, roles=("low", "high"), high_context=False)
#: small, so that windows of several shards meet in a batch
STREAMING = Streaming(windows_per_part=2, shuffle_windows=10, downloads=2)

needs_cuda = pytest.mark.skipif(
    not torch.cuda.is_available() and os.environ.get("LVG_REQUIRE_CUDA") != "1", reason="needs a GPU"
)


@pytest.fixture(scope="session")
def root(tmp_path_factory) -> Path:
    """Clips of 61, 24 and 70 frames in 11 low-res shards, packed for windows of 8 and 4 frames. To be read only."""
    return make_once(tmp_path_factory, "reader", make_dataset) / "out"


@pytest.fixture(scope="session")
def dataset(root: Path) -> Dataset:
    return open_dataset(root)


def take(
    dataset: Dataset | Path | str, num_batches: int, view: View = LOW, start_step: int = 0, **options
) -> list[DeviceBatch]:
    """The first batches of the purpose "train"."""
    options = {"batch": 3, "seed": 5, "streaming": STREAMING, **options}
    with Data(dataset, view, **options) as data:
        return list(itertools.islice(data.batches("train", start_step), num_batches))


def windows_of(batches: list[DeviceBatch]) -> list[Window]:
    return [window for batch in batches for window in batch.windows]


def frames_of(video: torch.Tensor) -> np.ndarray:
    """uint8 [T, H, W, 3] of float [3, T, H, W]."""
    return (video.permute(1, 2, 3, 0) * 127.5 + 127.5).round().to(torch.uint8).numpy()


def assert_equal_batches(found: list[DeviceBatch], expected: list[DeviceBatch]) -> None:
    assert [batch.step for batch in found] == [batch.step for batch in expected]
    for a, b in zip(found, expected, strict=True):
        assert a.windows == b.windows
        assert torch.equal(a.flipped, b.flipped)
        assert torch.equal(a.low, b.low)
        assert (a.high is None and b.high is None) or torch.equal(a.high, b.high)


# --------------------------------------------------------------------------------------------------------- values


def test_levels_become_numbers_from_minus_one_to_one_with_channels_first():
    frames = torch.arange(2 * 1 * 2 * 2 * 3, dtype=torch.uint8).reshape(2, 1, 2, 2, 3)
    frames[0, 0, 0, 0] = torch.tensor([0, 255, 51])

    video = normalise(frames, torch.tensor([False, False]))

    assert (video.shape, video.dtype) == ((2, 3, 1, 2, 2), torch.float32)
    assert video.is_contiguous()
    assert video[0, :, 0, 0, 0].tolist() == [-1, 1, pytest.approx(-0.6)]
    assert torch.equal(video[1, 2, 0], torch.tensor([[14.0, 17.0], [20.0, 23.0]]) / 127.5 - 1)


def test_flipped_samples_are_mirrored_left_to_right_and_others_not():
    row = torch.tensor([[0, 51, 102]], dtype=torch.uint8)
    frames = row[None, None, :, :, None].expand(2, 2, 1, 3, 3)

    video = normalise(frames, torch.tensor([True, False]))

    assert video[0, 1, 1, 0].tolist() == pytest.approx([-0.2, -0.6, -1])
    assert video[1, 1, 1, 0].tolist() == pytest.approx([-1, -0.6, -0.2])


def test_both_resolutions_are_flipped_alike_and_the_readers_arrays_stay_as_they_are():
    frames = np.arange(2 * 4, dtype=np.uint8).reshape(2, 1, 1, 4, 1).repeat(3, axis=4)
    high = frames.repeat(2, axis=3).repeat(2, axis=2)
    batch = Batch(7, (), frames.copy(), high.copy())

    placed = place(batch, torch.tensor([False, True]), torch.device("cpu"))

    assert torch.equal(placed.high, placed.low.repeat_interleave(2, 3).repeat_interleave(2, 4))
    assert placed.low[1, 0, 0, 0].tolist() == (torch.tensor([7.0, 6.0, 5.0, 4.0]) / 127.5 - 1).tolist()
    assert placed.step == 7
    assert np.array_equal(batch.low, frames) and np.array_equal(batch.high, high)


@pytest.mark.parametrize("access", ["cached", "streamed"])
@pytest.mark.parametrize("view", [LOW, STRIDED, BOTH, INNER])
def test_batches_show_their_windows_mirrored_as_drawn(dataset: Dataset, view: View, access: str):
    batches = take(dataset, 8, view, access=access)

    for batch in batches:
        drawn = Draws(stream_seed(5, "train"), batch.step, "flip", range(3)).chance(0.5)
        assert torch.equal(batch.flipped, drawn)
        for number, window in enumerate(batch.windows):
            there = dataset.read_window(window, view.roles, view.frames_of("high"))
            for video, frames in ((batch.low, there.low), (batch.high, there.high)):
                if frames is not None:
                    turned = frames[:, :, ::-1] if drawn[number] else frames
                    assert np.array_equal(frames_of(video[number]), turned)
    assert {int(batch.flipped.sum()) for batch in batches} > {1}


def test_frames_are_those_that_were_painted(dataset: Dataset):
    """An answer from outside the reader: the numbers in the pictures."""
    for batch in take(dataset, 6, flip=False, access="streamed"):
        for video, window in zip(batch.low, batch.windows, strict=True):
            first = dataset[window.clip].row.start_frame
            assert painted(frames_of(video)) == [first + frame for frame in window.frames]


def test_without_flip_nothing_is_mirrored(dataset: Dataset):
    assert not any(batch.flipped.any() for batch in take(dataset, 20, flip=False))


# --------------------------------------------------------------------------------------------------------- streams


def test_the_cached_stream_is_that_of_the_dataset_under_the_seed_of_the_purpose(dataset: Dataset):
    found = windows_of(take(dataset, 4))

    assert found == [dataset.window(LOW, i, stream_seed(5, "train")).window for i in range(12)]


@pytest.mark.parametrize("access", ["cached", "streamed"])
def test_purposes_have_streams_of_their_own_that_do_not_touch_each_other(dataset: Dataset, access: str):
    alone = take(dataset, 4, access=access)
    with Data(dataset, LOW, 3, 5, access=access, streaming=STREAMING) as data:
        train, penalty = data.batches("train"), data.batches("r1")
        together = [(next(train), next(penalty) if step % 2 == 0 else None) for step in range(4)]

    assert_equal_batches([batch for batch, _ in together], alone)
    penalised = [batch for _, batch in together if batch]
    assert [batch.step for batch in penalised] == [0, 1]
    assert windows_of(penalised) != windows_of(alone[:2])


def test_the_seed_of_a_purpose_is_the_one_it_has_always_been():
    assert stream_seed(5, "train") == 3748610970522105321
    assert stream_seed(2**64 - 1, "r1") == 1624568433612844044


@pytest.mark.parametrize("view", [LOW, BOTH])
@pytest.mark.parametrize("access", ["cached", "streamed"])
def test_a_stream_goes_on_at_a_step_bit_for_bit(dataset: Dataset, view: View, access: str):
    whole = take(dataset, 14, view, access=access)

    for step in (1, 6, 11):
        assert_equal_batches(take(dataset, 3, view, start_step=step, access=access), whole[step : step + 3])


@pytest.mark.parametrize("access", ["cached", "streamed"])
def test_a_stream_knows_the_number_at_which_to_go_on(dataset: Dataset, access: str):
    with Data(dataset, LOW, 3, 5, access=access, streaming=STREAMING) as data:
        first = data.batches("train", 2)
        assert first.step == 2
        next(first), next(first)
        following = next(data.batches("train", first.step))

        assert first.step == 4
        assert_equal_batches([following], [next(first)])


@pytest.mark.parametrize("access", ["cached", "streamed"])
def test_the_number_of_workers_and_downloads_changes_nothing(dataset: Dataset, access: str):
    few = Streaming(windows_per_part=2, shuffle_windows=10, downloads=1)
    many = Streaming(windows_per_part=2, shuffle_windows=10, downloads=5)

    one = take(dataset, 9, BOTH, access=access, workers=1, streaming=few)

    assert_equal_batches(take(dataset, 9, BOTH, access=access, workers=6, streaming=many), one)


def test_ranks_together_read_what_one_reads_alone(dataset: Dataset):
    alone = take(dataset, 3, batch=6)
    ranks = [take(dataset, 3, batch=2, rank=rank, num_ranks=3) for rank in range(3)]

    for step, whole in enumerate(alone):
        shared = [batches[step] for batches in ranks]
        assert torch.equal(torch.cat([batch.low for batch in shared]), whole.low)
        assert torch.equal(torch.cat([batch.flipped for batch in shared]), whole.flipped)


def test_streaming_ranks_share_an_epoch_without_overlap(dataset: Dataset):
    """Three clips in 18 parts at two windows a part: 12 windows of each clip an epoch, on one rank or the other."""
    with Data(dataset, LOW, 1, 5, access="streamed", streaming=STREAMING) as data:
        plans = [data._shelf.plan(stream_seed(5, "train"), rank, 2, STREAMING) for rank in range(2)]
    first_epoch = [len(plan._draw_epoch(0)[0]) for plan in plans]
    in_order = Streaming(windows_per_part=2, shuffle_windows=1)
    ranks = [
        windows_of(
            take(dataset, length, batch=1, rank=rank, num_ranks=2, access="streamed", streaming=in_order)
        )
        for rank, length in enumerate(first_epoch)
    ]

    parts = [{(w.clip, part.key) for w in windows for part in _owners(dataset, w)} for windows in ranks]
    assert parts[0] and parts[1] and not parts[0] & parts[1]
    counts = Counter(window.clip for windows in ranks for window in windows)
    assert len(counts) == 3 and set(counts.values()) == {plans[0].windows_per_clip}


def _owners(dataset: Dataset, window: Window) -> list:
    """The part where a window comes first."""
    parts = dataset.parts_of(window.clip, "low").parts
    holding = [p for p in parts if p.start <= window.start and window.frames[-1] < p.stop]
    return holding[:1]


def test_a_stream_has_no_end_and_gives_whole_batches_across_epochs(dataset: Dataset):
    batches = take(dataset, 40, STRIDED, batch=5, access="streamed")

    assert [batch.low.shape for batch in batches] == [(5, 3, 3, 64, 64)] * 40
    assert {window.clip for window in windows_of(batches)} == set(dataset.windows(STRIDED).clips)


# ---------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"view": View(71)}, "spans 71 frames .* has 70"),
        ({"split": "val"}, "no clip is of the split 'val'"),
        ({"batch": 0}, "batch must be at least 1 window, got 0"),
        ({"rank": 2, "num_ranks": 2}, "rank must be 0 to 1 for 2 ranks, got 2"),
        ({"num_ranks": 4}, "4 ranks share 3 clips of 6 frames or more"),
        (
            {"view": View(9), "access": "streamed"},
            r"spans 9 frames \(9 at stride 1\), and neighbouring low-res parts of .* overlap by 7, so that windows of "
            r"up to 8 can be streamed; .* low.window_frames 9",
        ),
        (
            {"view": View(3, context=1, roles=("low", "high")), "access": "streamed"},
            "spans 5 frames .* high-res parts .* overlap by 3, so that windows of up to 4",
        ),
    ],
)
def test_what_cannot_be_read_is_refused_at_the_start(dataset: Dataset, options, message):
    with pytest.raises(TrainError, match=message):
        Data(dataset, **{"view": LOW, "batch": 2, "seed": 0, **options})


def test_fewer_shards_than_ranks_are_refused_with_the_numbers(root: Path, dataset: Dataset):
    num_shards = len(list(root.glob("low-*/train-*.tar")))

    assert Shelf.of(dataset, dataset.windows(LOW), num_shards)
    with pytest.raises(
        TrainError,
        match=rf"{num_shards + 1} ranks share {num_shards} shards.* use at most {num_shards} ranks",
    ):
        Shelf.of(dataset, dataset.windows(LOW), num_shards + 1)


def test_steps_and_streaming_below_their_least_values_are_refused(dataset: Dataset):
    with Data(dataset, LOW, 2, 0) as data, pytest.raises(TrainError, match=r"start_step .* got -1"):
        data.batches("train", -1)
    for name in ("windows_per_part", "shuffle_windows", "downloads"):
        with pytest.raises(TrainError, match=f"streaming.{name} must be at least 1, got 0"):
            Streaming(**{name: 0})


def test_missing_webdataset_is_said_clearly_and_cached_data_needs_none(dataset: Dataset, monkeypatch):
    monkeypatch.setitem(sys.modules, "webdataset.tariterators", None)

    with pytest.raises(TrainError, match="pip install webdataset"):
        take(dataset, 1, access="streamed")
    assert len(take(dataset, 1)) == 1


# ------------------------------------------------------------------------------------------------------------ remote


@pytest.fixture
def server(root: Path) -> Iterator[Server]:
    """The dataset over HTTP, below /set."""
    with http_server() as made:
        for path in root.rglob("*"):
            if path.is_file() and ".work" not in path.parts:
                made.answers[f"/set/{path.relative_to(root)}"] = file(path.read_bytes())
        yield made


def shards_asked_for(server: Server) -> list[str]:
    return [path for path in server.paths() if path.endswith(".tar")]


@pytest.mark.parametrize("view", [LOW, BOTH])
def test_streaming_over_http_gives_what_streaming_from_disk_gives(
    server: Server, dataset: Dataset, view: View
):
    far = take(server.url("/set"), 9, view, access="streamed")

    assert_equal_batches(far, take(dataset, 9, view, access="streamed"))
    assert shards_asked_for(server)


def test_going_on_fetches_no_shard_whose_windows_have_all_come(server: Server):
    small = Streaming(windows_per_part=2, shuffle_windows=2, downloads=1)
    take(server.url("/set"), 1, batch=2, start_step=10, access="streamed", streaming=small)
    resumed = shards_asked_for(server)
    server.requests.clear()
    take(server.url("/set"), 11, batch=2, access="streamed", streaming=small)

    assert len(resumed) < len(shards_asked_for(server))
    assert len(resumed) <= 6


def test_only_windows_that_have_not_come_are_unpacked(server: Server):
    far = open_dataset(server.url("/set"))
    shelf = Shelf.of(far, far.windows(LOW), 1)
    load = next(shelf.plan(0, 0, 1, STREAMING).loads())
    indices = range(load.first, load.stop)

    assert set(Unpacker(shelf, indices[:2], threading.Event()).unpack(load)) == set(indices[2:])
    assert len(shards_asked_for(server)) == 1
    assert Unpacker(shelf, indices, threading.Event()).unpack(load) == {}
    assert len(shards_asked_for(server)) == 1


@pytest.fixture
def remote(root: Path) -> Iterator[str]:
    fs = fsspec.filesystem("memory")
    fs.put(str(root), "/stream-bucket/set", recursive=True)
    yield "memory://stream-bucket/set"
    fs.rm("/stream-bucket", recursive=True)


def test_what_does_not_fit_the_cache_is_streamed_and_anything_else_cached(remote: str, dataset, tmp_path):
    small = open_dataset(remote, cache=tmp_path / "cache", cache_bytes=500_000)
    large = open_dataset(remote, cache=tmp_path / "cache")

    found = {}
    for name, opened in (("small", small), ("large", large), ("local", dataset)):
        with Data(opened, LOW, 3, 5, streaming=STREAMING) as data:
            found[name] = data.access
    assert found == {"small": "streamed", "large": "cached", "local": "cached"}
    assert_equal_batches(take(small, 5), take(dataset, 5, access="streamed"))
    assert_equal_batches(take(large, 5), take(dataset, 5))
    with pytest.raises(TrainError, match=r"the \d+ shards .* may hold 500,000"):
        Data(small, LOW, 3, 5, access="cached")


def test_a_streamed_shard_is_kept_nowhere(remote: str, tmp_path: Path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    opened = open_dataset(remote, cache=tmp_path / "cache", cache_bytes=500_000)

    assert len(take(opened, 8)) == 8
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------------------------------------ damage


def test_a_damaged_shard_is_named_and_nothing_of_it_is_trained_on(root: Path, tmp_path: Path):
    copy = shutil.copytree(root, tmp_path / "copy")
    damaged = sorted(copy.glob("low-*/*.tar"))[1]
    flip_byte(damaged, damaged.stat().st_size // 2)  # a pixel: the tar itself reads well

    with Data(copy, LOW, 1, 5, access="streamed", streaming=STREAMING) as data:
        batches = data.batches("train")
        with pytest.raises(
            DatasetError, match=f"{damaged.name} has sha256 .* the shards table says"
        ) as error:
            for _ in range(100):
                found = next(batches)
                assert np.array_equal(
                    data.dataset.read_window(found.windows[0]).low[:, :, :: -1 if found.flipped else 1],
                    frames_of(found.low[0]),
                )
        step = batches.step
        with pytest.raises(DatasetError, match=damaged.name):
            next(batches)
        assert batches.step == step
    assert "nothing of it was used" in str(error.value)


def test_a_missing_shard_is_named(remote: str, tmp_path: Path):
    fsspec.filesystem("memory").rm("/stream-bucket/set/low-064x064", recursive=True)

    with pytest.raises(DatasetError, match=r"low-064x064/train-000\d\d.tar does not exist"):
        take(remote, 1, access="streamed")


def test_a_server_that_fails_for_a_while_is_asked_again(server: Server, dataset: Dataset, monkeypatch):
    monkeypatch.setattr(stream, "_RETRY_AFTER_S", (0.01, 0.01, 0.01))
    for path, answer in list(server.answers.items()):
        if path.endswith(".tar"):
            server.answers[path] = in_turn(status(503), status(500), answer)

    assert_equal_batches(take(server.url("/set"), 3, access="streamed"), take(dataset, 3, access="streamed"))


def test_a_server_that_fails_for_good_is_named(server: Server, monkeypatch):
    monkeypatch.setattr(stream, "_RETRY_AFTER_S", (0.01,))
    for path in server.answers:
        if path.endswith(".tar"):
            server.answers[path] = status(503)

    with pytest.raises(DatasetError, match=r"train-000\d\d.tar cannot be fetched after 2 attempts .*503"):
        take(server.url("/set"), 1, access="streamed")


# --------------------------------------------------------------------------------------------------------------- ends


def lvg_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("lvg-")]


@pytest.mark.parametrize("access", ["cached", "streamed"])
def test_closed_data_has_no_threads_and_its_batches_stay_valid(dataset: Dataset, access: str):
    with Data(dataset, LOW, 3, 5, access=access, streaming=STREAMING) as data:
        train, penalty = data.batches("train"), data.batches("r1")
        batch = next(train)
        next(penalty)
        assert lvg_threads()

    assert not lvg_threads()
    assert_equal_batches([batch], take(dataset, 1, access=access))
    with pytest.raises(ValueError, match="is closed; make a new one with start_step"):
        next(train)


class SlowSource:
    """Gives an empty batch after a while."""

    def __next__(self) -> Batch:
        time.sleep(0.05)
        return Batch(0, (), np.zeros((1, 1, 2, 2, 3), np.uint8), None)

    def close(self) -> None:
        pass


def test_the_wait_for_frames_is_measured_and_nothing_else():
    batches = Batches(SlowSource(), lambda step: torch.tensor([False]), torch.device("cpu"), 0)
    for _ in range(4):
        next(batches)
        time.sleep(0.1)

    assert 0.2 <= batches.waited_s < 0.4


def test_data_adds_the_waits_of_its_purposes(dataset: Dataset):
    with Data(dataset, LOW, 3, 5) as data:
        streams = [data.batches("train"), data.batches("r1")]
        for batches in streams:
            next(batches)
        assert data.waited_s == sum(batches.waited_s for batches in streams) > 0


def test_reading_leaves_the_global_random_numbers_alone(dataset: Dataset):
    torch.manual_seed(1)
    np.random.seed(1)
    take(dataset, 2, access="streamed")
    drawn = torch.rand(1), np.random.rand()
    torch.manual_seed(1)
    np.random.seed(1)

    assert (torch.rand(1), np.random.rand()) == drawn


# ------------------------------------------------------------------------------------------------------------- CUDA


@needs_cuda
@pytest.mark.parametrize("access", ["cached", "streamed"])
@pytest.mark.parametrize("view", [LOW, BOTH])
def test_batches_on_cuda_are_those_on_the_cpu(dataset: Dataset, view: View, access: str):
    there = take(dataset, 12, view, access=access, device="cuda")

    for a, b in zip(there, take(dataset, 12, view, access=access), strict=True):
        assert a.windows == b.windows and a.low.device.type == "cuda"
        assert torch.allclose(a.low.cpu(), b.low, rtol=0, atol=1e-6)
        assert (a.high is None and b.high is None) or torch.allclose(a.high.cpu(), b.high, rtol=0, atol=1e-6)


@needs_cuda
def test_a_batch_on_cuda_is_not_written_over_while_the_caller_computes(dataset: Dataset):
    expected = [batch.low.double().sum().item() for batch in take(dataset, 12)]
    with Data(dataset, LOW, 3, 5, device="cuda") as data:
        sums = []
        for batch in itertools.islice(data.batches("train"), 12):
            torch.cuda._sleep(20_000_000)  # the sum comes long after the next batches are copied
            sums.append(batch.low.double().sum())
            del batch

    assert [value.item() for value in sums] == pytest.approx(expected, abs=1e-3)
    assert not lvg_threads()
