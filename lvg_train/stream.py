"""Batches out of whole shards that fit no disk, in the order of `stream_plan`.

A shard is fetched whole, to a temporary file where it is remote, and its SHA-256 compared with the shards table; only
then is it read, through `webdataset`, which is imported here alone. So of a damaged shard no window is ever handed
out. It is kept nowhere: every epoch fetches and hashes it again.

So does every stream: those of training have orders of their own, so that what one has fetched is of no use to another
before an epoch is over. With the paper's settings the shards are fetched per epoch

    stage 1    1 + 1/16 times    for the discriminator, and for the penalty of every 16th step
    stage 2    2 + 1/16 times    for the generator too, whose low-res frames are those of other windows

and a step fetches so many times batch / `windows_per_part` parts: of stage 2, batch 32, the shards of some 16.5 parts.

Memory holds about `shuffle_windows` / 2 windows and the wanted windows of `downloads` + 1 shards, low-res frames as
they are and high-res frames as JPEG; the temporary folder `downloads` shards.

A stream that starts at a later step is bit for bit the stream that came there: what was before is planned and not
read. The shards whose windows were waiting at that step are fetched again, and only those of their windows unpacked
that have not come yet.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import tempfile
import threading
from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
import numpy as np

from lvg_data import store
from lvg_data.arrays import load_array
from lvg_data.errors import DatasetError
from lvg_data.finished import read_table, shard_path
from lvg_data.reader import Batch, Dataset
from lvg_data.records import Shard
from lvg_data.window import View, Window, Windows, middle_of
from lvg_train.errors import TrainError
from lvg_train.stream_plan import Load, Piece, StreamPlan, list_pieces, shuffled

#: seconds to wait before each further attempt to fetch a shard
_RETRY_AFTER_S = (1.0, 4.0, 16.0)
_BATCHES_AHEAD = 2


@dataclass(frozen=True)
class Streaming:
    """How shards are streamed.

    Attributes:
      windows_per_part: windows drawn from a part each time that it is read, on average over the parts. More save
        traffic; fewer give batches that differ more.
      shuffle_windows: a window moves by less than so many places in the stream.
      downloads: shards fetched and unpacked at the same time, ahead of the one that is needed.
    """

    windows_per_part: int = 4
    shuffle_windows: int = 512
    downloads: int = 2

    def __post_init__(self) -> None:
        for name in ("windows_per_part", "shuffle_windows", "downloads"):
            if getattr(self, name) < 1:
                raise TrainError(f"streaming.{name} must be at least 1, got {getattr(self, name)}")


@dataclass(frozen=True)
class Shelf:
    """What is where: every part that owns windows of a view, and the shards."""

    dataset: Dataset
    windows: Windows
    pieces: Sequence[Piece]
    shards: Sequence[Shard]

    @classmethod
    def of(cls, dataset: Dataset, windows: Windows, num_ranks: int) -> Shelf:
        """The shelf of a view.

        Raises:
          TrainError: the view spans more frames than parts were packed for, or there are fewer shards than ranks.
        """
        _check_span(dataset, windows.view)
        pieces = list_pieces(dataset, windows)
        _check_shards(len({piece.shard for piece in pieces}), num_ranks)
        return cls(dataset, windows, pieces, read_table(dataset.address, Shard))

    def plan(self, seed: int, rank: int, num_ranks: int, streaming: Streaming) -> StreamPlan:
        per_clip = round(streaming.windows_per_part * len(self.pieces) / len(self.windows.clips))
        return StreamPlan(
            self.pieces, self.windows.num_starts, seed, rank, num_ranks, per_clip, streaming.shuffle_windows
        )

    def window(self, piece: int, start: int) -> Window:
        view = self.windows.view
        return Window(self.windows.clips[self.pieces[piece].clip], start, view.length, view.stride)

    def url(self, shard: Shard) -> str:
        return f"{self.dataset.address}/{shard_path(self.dataset.description['recipe'], shard)}"

    def empty_batch(self, step: int, windows: tuple[Window, ...]) -> Batch:
        """A batch with anything in its arrays."""
        view = self.windows.view
        arrays = {
            role: np.empty((len(windows), view.frames_of(role), *self.dataset.size(role), 3), np.uint8)
            for role in view.roles
        }
        return Batch(step, windows, arrays["low"], arrays.get("high"))


def _check_span(dataset: Dataset, view: View) -> None:
    role = view.roles[-1]
    packed = dataset.description["recipe"][role]["window_frames"]
    if view.span > packed:
        raise TrainError(
            f"the view spans {view.span} frames ({view.length} at stride {view.stride}), and neighbouring {role}-res "
            f"parts of {dataset.address} overlap by {packed - 1}, so that windows of up to {packed} can be streamed; "
            f"use a shorter view, build the dataset with {role}.window_frames {view.span}, or give it a cache that "
            "holds it"
        )


def _check_shards(num_shards: int, num_ranks: int) -> None:
    if num_shards < num_ranks:
        raise TrainError(
            f"{num_ranks} ranks share {num_shards} shards, so that some would have no data to stream; use at most "
            f"{num_shards} ranks, build the dataset with a smaller shards.target_bytes, or give it a cache that "
            "holds it"
        )


class Stream:
    """The endless stream of batches of one rank; for its promises see `Reader`, for its order `stream_plan`.

        plan        load 0        load 1        load 2        load 3
        downloads   done          done          running       running       `downloads` ahead of what is needed
        batches            | step 0 | step 1 | step 2 |                     filled as their windows arrive

    Attributes:
      step: of the next batch; a new stream with `start_step` at this number goes on where this one is.
    """

    def __init__(
        self, shelf: Shelf, plan: StreamPlan, batch: int, start_step: int, workers: int, downloads: int
    ) -> None:
        """Fetches ahead from the first batch that is asked for."""
        self.step = self._next_step = start_step
        self._shelf, self._plan, self._batch, self._ahead = shelf, plan, batch, downloads
        place = start_step * batch
        self._source = plan.loads(plan.earliest(place))
        self._planned: deque[Load] = deque()
        self._came = self._came_before(place)
        self._closing = threading.Event()
        self._unpacker = Unpacker(shelf, self._came, self._closing)
        self._unpacked: dict[int, Future[dict[int, Packed]]] = {}
        self._downloads = ThreadPoolExecutor(downloads, "lvg-download")
        self._workers = ThreadPoolExecutor(workers, "lvg-unpack")
        self._pending: deque[tuple[Batch, list[Future[None]]]] = deque()

    def __iter__(self) -> Stream:
        return self

    def __next__(self) -> Batch:
        """The next batch.

        Raises:
          DatasetError: a shard is damaged or cannot be fetched; asked again, the stream raises again.
          ValueError: the stream is closed.
        """
        if self._closing.is_set():
            raise ValueError("the stream is closed; make a new one with start_step to go on")
        while len(self._pending) <= _BATCHES_AHEAD:
            self._pending.append(self._submit())
        batch, tasks = self._pending[0]
        for task in tasks:
            task.result()
        self._pending.popleft()
        self._pending.append(self._submit())
        self.step = batch.step + 1
        return batch

    def close(self) -> None:
        """Ends the threads, after the downloads that are under way; batches that were handed out stay valid."""
        self._closing.set()
        self._downloads.shutdown(wait=False, cancel_futures=True)
        self._workers.shutdown(wait=True, cancel_futures=True)
        self._downloads.shutdown(wait=True)
        self._pending.clear()
        self._unpacked.clear()

    def _came_before(self, place: int) -> frozenset[int]:
        """Those indices of the planned loads that come before a place of the order."""
        if place == 0:
            return frozenset()
        self._plan_until(self._plan.latest(place - 1))
        # all indices before the planned ones come before it, and so the first `place - first` of these
        return frozenset(self._order(range(self._planned[0].first, place)).tolist())

    def _plan_until(self, index: int) -> None:
        while not self._planned or self._planned[-1].stop <= index:
            self._planned.append(next(self._source))

    def _order(self, places: range) -> np.ndarray:
        delays = np.concatenate([load.delays for load in self._planned])
        return shuffled(delays, self._planned[0].first, places)

    def _submit(self) -> tuple[Batch, list[Future[None]]]:
        """The batch that follows those submitted before, and the tasks that fill its arrays."""
        first = self._next_step * self._batch
        self._plan_until(self._plan.latest(first + self._batch - 1))
        indices = self._order(range(first, first + self._batch)).tolist()
        self._fetch_until(max(indices))
        loads = [next(load for load in self._planned if load.first <= i < load.stop) for i in indices]
        windows = tuple(
            self._shelf.window(int(load.pieces[i - load.first]), int(load.starts[i - load.first]))
            for load, i in zip(loads, indices, strict=True)
        )
        batch = self._shelf.empty_batch(self._next_step, windows)
        tasks = [
            self._workers.submit(_fill, batch, slot, self._unpacked[load.first], i)
            for slot, (load, i) in enumerate(zip(loads, indices, strict=True))
        ]
        self._next_step += 1
        self._forget_before(self._plan.earliest(first + self._batch))
        return batch, tasks

    def _fetch_until(self, index: int) -> None:
        """Hands the loads up to an index to the downloaders, and `downloads` more."""
        wanted = sum(load.first <= index for load in self._planned) + self._ahead
        while len(self._planned) < wanted:
            self._planned.append(next(self._source))
        for load in list(self._planned)[:wanted]:
            if load.first not in self._unpacked:
                self._unpacked[load.first] = self._downloads.submit(self._unpacker.unpack, load)

    def _forget_before(self, index: int) -> None:
        while self._planned[0].stop <= index:
            self._unpacked.pop(self._planned.popleft().first)


# ---- windows out of shards ------------------------------------------------------------------------


@dataclass(frozen=True)
class Packed:
    """A window out of a shard: uint8 [T, H, W, 3], and the JPEG of each high-res frame where the view has them."""

    low: np.ndarray
    jpegs: tuple[bytes, ...]


def _fill(batch: Batch, slot: int, unpacked: Future[dict[int, Packed]], index: int) -> None:
    """Waits for a window and writes its frames into a slot of the batch."""
    packed = unpacked.result().pop(index)
    batch.low[slot] = packed.low
    if batch.high is not None:
        from simplejpeg import decode_jpeg

        for jpeg, frame in zip(packed.jpegs, batch.high[slot], strict=True):
            decode_jpeg(jpeg, colorspace="RGB", buffer=frame)


@dataclass(frozen=True)
class Unpacker:
    """Fetches shards and cuts windows out of them.

    Attributes:
      came: indices of windows that are not wanted any more.
      closing: gives up when set.
    """

    shelf: Shelf
    came: Collection[int]
    closing: threading.Event

    def unpack(self, load: Load) -> dict[int, Packed]:
        """The windows of a load by index; no shard is fetched where none is wanted.

        Raises:
          DatasetError: the shard is missing, damaged, or not what the parts table says.
        """
        wanted = self._wanted(load)
        if not wanted:
            return {}
        shard = self.shelf.shards[load.shard]
        url = self.shelf.url(shard)
        with _fetched(url, self.closing) as path, open(path, "rb") as file:
            check_hash(file, url, shard)
            return self._cut_all(file, url, shard.role, wanted)

    def _wanted(self, load: Load) -> dict[str, dict[int, range]]:
        """By key of the part and index of the window: its frames, counted from the part's first."""
        wanted: dict[str, dict[int, range]] = {}
        rows = zip(load.pieces.tolist(), load.starts.tolist(), strict=True)
        for index, (number, start) in enumerate(rows, load.first):
            if index not in self.came:
                frames, piece = self.shelf.window(number, start).frames, self.shelf.pieces[number]
                first = piece.first_frame
                inside = range(frames.start - first, frames.stop - first, frames.step)
                wanted.setdefault(piece.key, {})[index] = inside
        return wanted

    def _cut_all(
        self, file: io.BufferedReader, url: str, role: str, wanted: Mapping[str, dict[int, range]]
    ) -> dict[int, Packed]:
        num_high = self.shelf.windows.view.frames_of("high") if role == "high" else 0
        names = {name for key, places in wanted.items() for name in _members(key, places, role, num_high)}
        found: dict[int, Packed] = {}
        missing = set(wanted)
        for sample in read_samples(file, url, names):
            if self.closing.is_set():
                return found
            missing.remove(sample["__key__"])
            found.update(_cut(sample, wanted[sample["__key__"]], role, num_high))
        if missing:
            raise DatasetError(
                f"{url} lacks part {min(missing)}, which the parts table has; build the dataset again"
            )
        return found


def _members(key: str, places: Mapping[int, range], role: str, num_high: int) -> Iterator[str]:
    """Names in a tar of what the windows of a part need."""
    yield f"{key}.{_array_name(role)}"
    for frames in places.values():
        yield from (f"{key}.{_jpeg_name(frame)}" for frame in middle_of(frames, num_high))


def _array_name(role: str) -> str:
    return "npy" if role == "low" else "low.npy"


def _jpeg_name(frame: int) -> str:
    return f"f{frame:03d}.jpg"


def _cut(
    sample: Mapping[str, Any], places: Mapping[int, range], role: str, num_high: int
) -> Iterator[tuple[int, Packed]]:
    """The windows of a part. They are copies, so that the part's memory is free after it."""
    rows = load_array(io.BytesIO(sample[_array_name(role)]))
    for index, frames in places.items():
        jpegs = tuple(sample[_jpeg_name(frame)] for frame in middle_of(frames, num_high))
        yield index, Packed(rows[frames.start : frames.stop : frames.step].copy(), jpegs)


# ---- shards ---------------------------------------------------------------------------------------


@contextlib.contextmanager
def _fetched(url: str, closing: threading.Event) -> Iterator[Path]:
    """A local file with the content of a shard: itself, or a copy that is gone after the `with`."""
    if store.is_local(url):
        path = store.local_path(url)
        if not path.exists():
            raise DatasetError(f"{url} does not exist; copy it there again, or build the dataset again")
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="lvg-") as folder:
        path = Path(folder) / "shard.tar"
        _download(url, path, closing)
        yield path


def _download(url: str, path: Path, closing: threading.Event) -> None:
    """Fetches a file; what may pass is tried again, with waits that `closing` cuts short."""
    fs, remote = fsspec.url_to_fs(url)
    for wait_s in (*_RETRY_AFTER_S, None):
        try:
            fs.get_file(remote, str(path))
            return
        except FileNotFoundError as err:
            raise DatasetError(
                f"{url} does not exist; copy it there again, or build the dataset again"
            ) from err
        except Exception as err:  # each kind of store has errors of its own
            if wait_s is None or closing.wait(wait_s):
                reason = f"{type(err).__name__}: {err}"
                raise DatasetError(
                    f"{url} cannot be fetched after {len(_RETRY_AFTER_S) + 1} attempts ({reason}); start again, to "
                    "go on from the last checkpoint, when it can"
                ) from err


def check_hash(file: io.BufferedReader, url: str, shard: Shard) -> None:
    """Reads a shard to its end, and goes back to its start.

    Raises:
      DatasetError: its bytes are not those that the shards table promises.
    """
    digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != shard.sha256:
        raise DatasetError(
            f"{url} has sha256 {digest}, the shards table says {shard.sha256}; nothing of it was used. Copy it there "
            "again, or build the dataset again"
        )
    file.seek(0)


def read_samples(file: io.BufferedReader, url: str, names: Collection[str]) -> Iterator[dict[str, Any]]:
    """The parts of a shard in the order of the tar, by webdataset: "__key__", and the bytes of the members named."""
    try:
        from webdataset.tariterators import group_by_keys, tar_file_expander
    except ImportError as err:
        raise TrainError("shards are streamed with webdataset: pip install webdataset") from err
    members = tar_file_expander([{"url": url, "stream": file}], select_files=names.__contains__)
    yield from group_by_keys(members)
