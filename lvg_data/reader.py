"""Clips, windows and frames of a finished dataset as numpy arrays, by random access into its shards.

    >>> import lvg_data
    >>> from lvg_data.reader import Reader
    >>> from lvg_data.window import View

    >>> dataset = lvg_data.open(DATASET)
    >>> clip = max(dataset.clips, key=lambda clip: clip.num_frames)
    >>> clip.num_frames, clip.row.split
    (70, 'train')
    >>> clip.low(10, 50).shape                                 # frames 10 to 49 of the clip, uint8, sRGB
    (40, 64, 64, 3)
    >>> clip.high(10, 14).shape
    (4, 128, 128, 3)
    >>> clip.times(0, 3).round(3).tolist()                     # seconds in the video
    [0.0, 0.033, 0.067]
    >>> clip.poses() is None                                   # no camera track was listed for it
    True

    >>> both = View(num_frames=4, context=2, roles=("low", "high"))
    >>> frames = dataset.window(both, index=0, seed=0)         # a window as training draws it
    >>> frames.low.shape, frames.high.shape
    ((8, 64, 64, 3), (8, 128, 128, 3))

    >>> with Reader(dataset, View(num_frames=16), batch=2, seed=0) as reader:
    ...     batch = next(reader)
    >>> batch.low.shape, batch.step
    ((2, 16, 64, 64, 3), 0)

The parts table says where in the shards each frame is: no tar is scanned. Shards of a remote dataset are copied to a
folder on this disk first, see `shard_cache`.

High-res frames are decoded from JPEG each time, or kept decoded where `frame_cache` names a folder, see there.

Each shard is hashed when it is first used. That costs one read and a SHA-256 of the shard in each process that reads:
`check=False` leaves it out, for who has run `lvg-data verify`. After every read its size and time of change are
compared with those that it had then, so that one which is removed, replaced, cut off or written to under a running
trainer is hashed again, and refused by name where it is not what it was.
"""

from __future__ import annotations

import functools
import itertools
import threading
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import numpy as np

from lvg_data import store
from lvg_data.errors import DatasetError
from lvg_data.finished import check_fingerprint, read_description, read_part_columns, read_table, shard_path
from lvg_data.frame_cache import CachedPart, FrameCache
from lvg_data.part_index import ClipParts, IndexedPart, PartIndex
from lvg_data.records import Clip, Shard
from lvg_data.shard_cache import DEFAULT_CACHE_BYTES, ShardCache, default_folder
from lvg_data.shard_file import FileState, ShardFile
from lvg_data.window import View, Window, Windows, find_windows, middle_of

#: each open shard holds a file descriptor, and a process has 1,024 by default
_MAX_OPEN_SHARDS = 512
#: readings of a shard that is written anew again and again before it is given up
_READINGS = 3
#: rows of the arrays that are no frames
_CAMERA_ROWS = {
    "times.npy": (np.float64, ()),
    "poses.npy": (np.float64, (3, 4)),
    "intrinsics.npy": (np.float64, (4,)),
}
#: largest height or width of a frame, in pixels, as cards have it
_MAX_SIDE = 4096

T = TypeVar("T")


@dataclass(frozen=True)
class WindowFrames:
    """One window: uint8 [T, H, W, 3], sRGB, context included unless the view has no `high_context`.

    `high` is None in a low-res view.
    """

    window: Window
    low: np.ndarray
    high: np.ndarray | None


@dataclass(frozen=True)
class Batch:
    """The windows of one rank at one step: uint8 [N, T, H, W, 3], sRGB, with context as in `WindowFrames`.

    The arrays are the caller's for as long as any array or tensor over them lives; then their memory is used again.
    """

    step: int
    windows: tuple[Window, ...]
    low: np.ndarray
    high: np.ndarray | None


# ---- a dataset ------------------------------------------------------------------------------------


def open_dataset(
    dataset: str | Path,
    check: bool = True,
    cache: str | Path | None = None,
    cache_bytes: int = DEFAULT_CACHE_BYTES,
    *,
    frame_cache: str | Path | bool = False,
    frame_cache_bytes: int = DEFAULT_CACHE_BYTES,
) -> Dataset:
    """Opens a finished dataset: a folder, or `s3://`, `gs://`, `http://` and whatever else fsspec knows.

    Args:
      check: hash each shard when it is first used.
      cache: where the shards of a remote dataset are kept; by default in the user's cache folder.
      cache_bytes: how much they may take there.
      frame_cache: keep decoded high-res frames in this folder of a local disk, or, with True, in the user's cache
        folder. All of them take frames x height x width x 3 bytes; `frame_cache` says when that pays.
      frame_cache_bytes: how much they may take there; what does not fit is decoded each time.

    Raises:
      DatasetError: it is not complete, or one of its tables is damaged.
      OSError: the folder for frames cannot be written.
      ImportError: there is no simplejpeg to fill it with.
    """
    shards = ShardCache(Path(cache) if cache is not None else default_folder("shards"), cache_bytes)
    if frame_cache is False:
        return Dataset(str(dataset), check, shards)
    _load_jpeg_decoder()
    folder = default_folder("frames") if frame_cache is True else Path(frame_cache)
    return Dataset(str(dataset), check, shards, FrameCache(folder, frame_cache_bytes))


class Dataset:
    """A finished dataset. Its methods may be called from several threads.

    Attributes:
      description: the content of dataset.json; its "fingerprint" names the content.
      clips: of all splits, in the order of the clips table.
    """

    def __init__(
        self, dataset: str, check: bool, cache: ShardCache, frame_cache: FrameCache | None = None
    ) -> None:
        self.address = dataset.rstrip("/")
        self.description = read_description(self.address)
        check_fingerprint(self.address, self.description)
        self._sizes = _frame_sizes(self.address, self.description)
        self.check, self._cache, self._frame_cache = check, cache, frame_cache
        self._shards: list[Shard] = read_table(self.address, Shard, self.description)
        self._parts = PartIndex(read_part_columns(self.address, self.description), self._shards, self.address)
        rows: list[Clip] = read_table(self.address, Clip, self.description)
        self._parts.check_clips(rows)
        self.clips = [ClipFrames(self, row) for row in rows]
        self._by_id = {clip.id: clip for clip in self.clips}
        self._lock = threading.Lock()
        self._shard_locks = [threading.Lock() for _ in self._shards]
        self._open: OrderedDict[int, ShardFile] = OrderedDict()
        self._trusted: dict[int, FileState] = {}

    def __repr__(self) -> str:
        return f"<Dataset {self.address}: {len(self.clips)} clips>"

    def __getitem__(self, clip_id: str) -> ClipFrames:
        return self._by_id[clip_id]

    def size(self, role: str) -> tuple[int, int]:
        """Height and width of the frames of one resolution."""
        return self._sizes[role]

    def row_of(self, member: str) -> tuple[type[np.generic], tuple[int, ...]]:
        """Dtype and shape of a row of an array that parts have, by the member's name."""
        return _CAMERA_ROWS.get(member, (np.uint8, (*self.size("low"), 3)))

    def windows(self, view: View, split: str = "train") -> Windows:
        """Every window of a view in one split; raises ValueError where there is none."""
        return find_windows((clip.row for clip in self.clips), view, split)

    def window(self, view: View, index: int, seed: int, split: str = "train") -> WindowFrames:
        """Window `index` of the stream of `seed`, as training draws it."""
        window = self.windows(view, split).draw_window(index, seed)
        return self.read_window(window, view.roles, view.frames_of("high"))

    def read_window(
        self, window: Window, roles: Sequence[str] = ("low",), num_high: int | None = None
    ) -> WindowFrames:
        """The frames of a window; with the role "high" those of both resolutions lie in the same parts.

        `num_high`: how many high-res frames, of the window's middle; all unless given.
        """
        counts = {"low": window.length, "high": window.length if num_high is None else num_high}
        arrays = {role: np.empty((counts[role], *self.size(role), 3), np.uint8) for role in roles}
        self.fill(window, **arrays)
        return WindowFrames(window, arrays["low"], arrays.get("high"))

    def fill(self, window: Window, low: np.ndarray, high: np.ndarray | None = None) -> None:
        """Writes a window's frames into uint8 [T, H, W, 3]; a shorter `high` gets those of the middle.

        Raises:
          DatasetError: a part of it is damaged; the text names it.
        """
        clip = self._by_id[window.clip]
        if high is None:
            clip.fill_low(window.frames, low, "low")
        else:
            clip.fill_low(window.frames, low, "high")
            clip.fill_high(middle_of(window.frames, len(high)), high)

    def parts_of(self, clip_id: str, role: str) -> ClipParts:
        """The parts of a clip at one resolution; raises KeyError where it has none."""
        return self._parts.of_clip(clip_id, role)

    def check_cache(self, windows: Windows) -> None:
        """Whether all shards that the windows lie in fit the cache at once; local ones need none.

        Raises:
          ValueError: they do not, so that training would fetch shards over and over.
        """
        if store.is_local(self.address):
            return
        role = windows.view.roles[-1]
        used = self._parts.shards_of(windows.clips, role)
        needed = sum(self._shards[number].size_bytes for number in used)
        if needed > self._cache.limit_bytes:
            raise ValueError(
                f"the {len(used)} shards that this view reads from {self.address} have {needed:,} bytes, and the "
                f"cache {self._cache.folder} may hold {self._cache.limit_bytes:,}; open the dataset with a larger "
                "cache_bytes, or stream it with webdataset"
            )

    # ---- high-res frames

    def fill_high(self, clip_id: str, frames: range, out: np.ndarray) -> None:
        """Writes high-res frames of a clip into uint8 [T, H, W, 3], decoded from JPEG or from the frame cache."""
        parts = self.parts_of(clip_id, "high")
        runs = parts.split(frames) if self._frame_cache is None else parts.split_own(frames)
        done = 0
        for part, inside in runs:
            self._fill_run(part, inside, out[done : done + len(inside)])
            done += len(inside)

    def _fill_run(self, part: IndexedPart, inside: range, out: np.ndarray) -> None:
        decode = functools.partial(self._decode_frame, part)
        if self._frame_cache is not None:
            self._frame_cache.fill(self._cached_part(part), inside, out, decode)
            return
        for number, slot in zip(inside, out, strict=True):
            decode(number, slot)

    def _cached_part(self, part: IndexedPart) -> CachedPart:
        sha256, num_frames = self._shards[part.shard].sha256, part.own_stop - part.start
        return CachedPart(sha256, part.key, num_frames, *self.size("high"))

    def _decode_frame(self, part: IndexedPart, number: int, out: np.ndarray) -> None:
        """Decodes a frame, counted from the part's first, into uint8 [H, W, 3]."""
        decode = _load_jpeg_decoder()
        try:
            place = part.place(f"f{number:03d}.jpg")
            data = self.read(part, lambda shard: shard.read(place))
            decoded = decode(data, colorspace="RGB", buffer=out)
        except (KeyError, ValueError) as err:
            raise DatasetError(f"part {part.key}: frame {number} is no JPEG ({err}). {_REPAIR}") from err
        if decoded.shape != out.shape:
            size = f"{decoded.shape[:2]}, the dataset has {out.shape[:2]}"
            raise DatasetError(f"part {part.key}: frame {number} is {size}. {_REPAIR}")

    # ---- shards

    def read(self, part: IndexedPart, take: Callable[[ShardFile], T]) -> T:
        """What `take` reads from the shard of a part, which is fetched and checked where that has not been done.

        Raises:
          DatasetError: the shard is missing, or no longer what the shards table says.
          ValueError: by `take`, of a shard that is what it was when it was opened.
        """
        for _ in range(_READINGS):
            shard = self._shard_of(part)
            try:
                found = take(shard)
            except (OSError, ValueError) as err:
                if not shard.has_changed():
                    raise _as_damage(part, shard, err) from err
            else:
                if not shard.has_changed():
                    return found
            self._forget(part.shard, shard)
        raise DatasetError(
            f"part {part.key} cannot be trusted: its shard {shard.path} changes while it is read. {_REPAIR}"
        )

    def _shard_of(self, part: IndexedPart) -> ShardFile:
        number = part.shard
        with self._shard_locks[number]:
            with self._lock:
                if number in self._open:
                    self._open.move_to_end(number)
                    return self._open[number]
            shard = self._open_shard(number, part)
            with self._lock:
                self._open[number] = shard
                while len(self._open) > _MAX_OPEN_SHARDS:
                    self._open.popitem(last=False)
            return shard

    def _forget(self, number: int, shard: ShardFile) -> None:
        """Makes the next reading open a shard again, unless another thread's has done so."""
        with self._lock:
            if self._open.get(number) is shard:
                del self._open[number]

    def _open_shard(self, number: int, part: IndexedPart) -> ShardFile:
        row = self._shards[number]
        url = f"{self.address}/{shard_path(self.description['recipe'], row)}"
        local = store.is_local(url)
        try:
            path = store.local_path(url) if local else self._cache.fetch(url, row)
            shard = ShardFile(path, may_be_removed=not local)
        except (OSError, DatasetError) as err:
            raise DatasetError(f"part {part.key} cannot be read: {err}. {_REPAIR}") from err
        if shard.state.size_bytes != row.size_bytes:
            found, promised = f"{shard.state.size_bytes:,} bytes", f"{row.size_bytes:,}"
            raise DatasetError(self._damage(part, path, found, promised))
        if self._has_to_be_hashed(number, shard):
            digest = shard.sha256()
            if digest != row.sha256:
                raise DatasetError(self._damage(part, path, f"sha256 {digest}", row.sha256))
        self._trusted[number] = shard.state
        return shard

    def _has_to_be_hashed(self, number: int, shard: ShardFile) -> bool:
        """Whether it is seen for the first time, or is another file than it was; without `check` the latter only."""
        known = self._trusted.get(number)
        return self.check if known is None else known != shard.state

    def _damage(self, part: IndexedPart, path: Path, found: str, promised: str) -> str:
        return (
            f"part {part.key} cannot be trusted: its shard {path} has {found}, the shards table says {promised}. "
            f"{_REPAIR}"
        )


def _as_damage(part: IndexedPart, shard: ShardFile, err: Exception) -> Exception:
    """An error of the disk as one of the dataset; others as they are."""
    if not isinstance(err, OSError):
        return err
    return DatasetError(f"part {part.key} cannot be read from {shard.path}: {err.strerror or err}. {_REPAIR}")


def _frame_sizes(dataset: str, description: dict[str, Any]) -> dict[str, tuple[int, int]]:
    """Height and width of the frames of each resolution; a lie would cost memory before it is found out."""
    recipe: Any = description.get("recipe")
    try:
        sizes = {role: (recipe[role]["height"], recipe[role]["width"]) for role in ("low", "high")}
    except (KeyError, TypeError):
        sizes = {}
    if not sizes or not all(
        type(side) is int and 1 <= side <= _MAX_SIDE for size in sizes.values() for side in size
    ):
        raise DatasetError(
            f"{dataset}/dataset.json names no sizes of frames of 1 to {_MAX_SIDE} pixels: {recipe!r:.200}"
        )
    return sizes


_REPAIR = (
    "`lvg-data verify` lists all damage; delete the shard and copy it again from where it is whole, or delete it "
    "and its store and run `lvg-data build` again"
)


class ClipFrames:
    """A clip and its frames. Spans [start, stop) count from the clip's first frame; by default the whole clip.

    Attributes:
      row: of the clips table.
    """

    def __init__(self, dataset: Dataset, row: Clip) -> None:
        self._dataset, self.row = dataset, row

    def __repr__(self) -> str:
        return f"<Clip {self.id}: {self.num_frames} frames, {self.row.split}>"

    @property
    def id(self) -> str:
        return self.row.clip_id

    @property
    def num_frames(self) -> int:
        return self.row.num_frames

    @property
    def frame_rate(self) -> Fraction:
        """Frames per second."""
        return Fraction(self.row.frame_rate)

    def low(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """uint8 [T, H, W, 3], sRGB."""
        return self._array(self._range(start, stop), *self._low_member)

    def high(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """uint8 [T, H, W, 3], sRGB, decoded from JPEG.

        Raises:
          ValueError: the clip has no frames at high resolution.
        """
        if not self.row.in_high:
            raise ValueError(f"clip {self.id} has no frames at high resolution; its row says in_high false")
        frames = self._range(start, stop)
        out = np.empty((len(frames), *self._dataset.size("high"), 3), np.uint8)
        self.fill_high(frames, out)
        return out

    def times(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """float64 [T]: seconds since the first frame of the video."""
        return self._array(self._range(start, stop), self._role, "times.npy")

    def poses(self, start: int = 0, stop: int | None = None) -> np.ndarray | None:
        """float64 [T, 3, 4], world to camera, NaN where a frame has none; None where the clip has no track."""
        return self._camera("poses.npy", start, stop)

    def intrinsics(self, start: int = 0, stop: int | None = None) -> np.ndarray | None:
        """float64 [T, 4]: fx, fy, cx, cy as shares of the stored width and height; see `poses`."""
        return self._camera("intrinsics.npy", start, stop)

    def fill_low(self, frames: range, out: np.ndarray, role: str) -> None:
        """Copies low-res frames into uint8 [T, H, W, 3], out of the parts of either resolution."""
        self._fill(frames, out, role, "npy" if role == "low" else "low.npy")

    def fill_high(self, frames: range, out: np.ndarray) -> None:
        """Writes high-res frames into uint8 [T, H, W, 3]."""
        self._dataset.fill_high(self.id, frames, out)

    @property
    def _role(self) -> str:
        return "low" if self.row.in_low else "high"

    @property
    def _low_member(self) -> tuple[str, str]:
        """Where the low-res frames are: a clip that is too short for the low-res shards has them in the others."""
        return (self._role, "npy" if self.row.in_low else "low.npy")

    def _range(self, start: int, stop: int | None) -> range:
        stop = self.num_frames if stop is None else stop
        if not 0 <= start <= stop <= self.num_frames:
            raise ValueError(
                f"clip {self.id} has frames 0 to {self.num_frames - 1}, asked for [{start}, {stop})"
            )
        return range(start, stop)

    def _camera(self, member: str, start: int, stop: int | None) -> np.ndarray | None:
        frames = self._range(start, stop)
        return self._array(frames, self._role, member) if self.row.has_poses else None

    def _array(self, frames: range, role: str, member: str) -> np.ndarray:
        dtype, shape = self._dataset.row_of(member)
        out = np.empty((len(frames), *shape), dtype)
        self._fill(frames, out, role, member)
        return out

    def _fill(self, frames: range, out: np.ndarray, role: str, member: str) -> None:
        """Writes a member's rows into an array, part after part."""
        done = 0
        for part, inside in self._dataset.parts_of(self.id, role).split(frames):
            self._fill_run(part, inside, out[done : done + len(inside)], member)
            done += len(inside)

    def _fill_run(self, part: IndexedPart, inside: range, out: np.ndarray, member: str) -> None:
        try:
            place, num_rows = part.place(member), part.stop - part.start
            self._dataset.read(part, lambda shard: shard.read_rows(place, num_rows, inside, out))
        except (KeyError, ValueError) as err:
            raise DatasetError(f"part {part.key}: {member} is no array ({err}). {_REPAIR}") from err


def _load_jpeg_decoder() -> Callable[..., np.ndarray]:
    try:
        from simplejpeg import decode_jpeg
    except ImportError as err:
        raise ImportError("high-res frames are read with simplejpeg: pip install simplejpeg") from err
    return decode_jpeg


# ---- batches --------------------------------------------------------------------------------------


class _Buffers:
    """Arrays of one shape whose memory comes back once nothing refers to it.

    Fresh memory of a batch's size is mapped and cleared page by page, which takes longer than to fill it.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape
        self._free: deque[np.ndarray] = deque()

    def take(self) -> np.ndarray:
        """uint8 of the pool's shape, with anything in it."""
        try:
            memory = self._free.pop()
        except IndexError:
            memory = np.empty(int(np.prod(self.shape)), np.uint8)
        # Every view of `root`, tensors too, refers to it and not to `memory`, so that its end is the end of all.
        root = np.frombuffer(memory.data, np.uint8)
        weakref.finalize(root, self._free.append, memory).atexit = False
        return root.reshape(self.shape)


class Reader:
    """The endless stream of batches of one rank, read ahead by threads.

        for batch in Reader(dataset, view, batch=8, seed=0, rank=rank, num_ranks=num_ranks, start_step=step):
            ...

    Which windows a step has, and in which order, depends on (seed, step, rank, num_ranks, batch) alone; the number
    of workers only on how fast they come. `prefetch` batches are read ahead of the one that is asked for, so that
    memory holds `prefetch` + 1 batches beside those that the caller keeps.

    Attributes:
      step: of the next batch; a new reader with `start_step` at this number goes on where this one is.
    """

    def __init__(
        self,
        dataset: Dataset | str | Path,
        view: View,
        batch: int,
        seed: int,
        rank: int = 0,
        num_ranks: int = 1,
        start_step: int = 0,
        workers: int = 2,
        *,
        split: str = "train",
        prefetch: int = 2,
    ) -> None:
        """Reads ahead from the first batch that is asked for.

        Raises:
          ValueError: the split, the view or the ranks do not fit the dataset (see `window`), or a number is off.
        """
        for name, value, least in (("workers", workers, 1), ("prefetch", prefetch, 0)):
            if value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        self.dataset = dataset if isinstance(dataset, Dataset) else open_dataset(dataset)
        self.windows = self.dataset.windows(view, split)
        self.dataset.check_cache(self.windows)
        self.step = start_step
        self._windows_of = lambda step: self.windows.windows_of(rank, num_ranks, batch, seed, step)
        self._windows_of(start_step)  # a bad rank, seed or step is refused here and not at the first batch
        self._buffers = {
            role: _Buffers((batch, view.frames_of(role), *self.dataset.size(role), 3)) for role in view.roles
        }
        self._workers, self._prefetch = workers, prefetch
        self._pool = ThreadPoolExecutor(workers, "lvg-reader")
        self._to_submit = itertools.count(start_step)
        self._pending: deque[tuple[Batch, list[Future[None]]]] = deque()
        self._closed = False

    def __iter__(self) -> Reader:
        return self

    def __next__(self) -> Batch:
        """The next batch.

        Raises:
          DatasetError: a part of it is damaged; asked again, the reader raises again.
          ValueError: the reader is closed.
        """
        if self._closed:
            raise ValueError("the reader is closed; make a new one with start_step to go on")
        while len(self._pending) <= self._prefetch:
            self._pending.append(self._submit(next(self._to_submit)))
        batch, tasks = self._pending[0]
        for task in tasks:
            task.result()
        self._pending.popleft()
        self._pending.append(self._submit(next(self._to_submit)))
        self.step = batch.step + 1
        return batch

    def close(self) -> None:
        """Ends the threads; arrays that were handed out stay valid."""
        self._closed = True
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._pending.clear()

    def __enter__(self) -> Reader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _submit(self, step: int) -> tuple[Batch, list[Future[None]]]:
        windows = tuple(self._windows_of(step))
        arrays = {role: buffers.take() for role, buffers in self._buffers.items()}
        batch = Batch(step, windows, arrays["low"], arrays.get("high"))
        # a few windows a task: enough tasks that no worker waits for another at the end of a batch
        size = max(1, len(windows) // (4 * self._workers))
        chunks = [range(i, min(i + size, len(windows))) for i in range(0, len(windows), size)]
        return batch, [self._pool.submit(self._fill, batch, chunk) for chunk in chunks]

    def _fill(self, batch: Batch, numbers: range) -> None:
        for number in numbers:
            high = None if batch.high is None else batch.high[number]
            self.dataset.fill(batch.windows[number], batch.low[number], high)
