"""Batches on the training device: from shards at random access, or streamed where they fit no disk.

    with Data(dataset, View(num_frames=128), batch=8, seed=0, device="cuda") as data:
        real, penalised = data.batches("train", start_step=step), data.batches("r1", start_step=num_penalised)
        batch = next(real)
        batch.low                                    # float32 [8, 3, 128, H, W] in [-1, 1], on the device

Each purpose has a stream of its own, of the seed `stream_seed(seed, purpose)`, whose steps count from 0. A batch
depends on (seed, purpose, step, rank, num_ranks, batch) alone and not on the number of workers, so that training
resumes at a number, bit for bit. (On another device the division by 127.5 may round otherwise.)

    access      frames come from                           order
    cached      `lvg_data.reader`: shards on this disk     `lvg_data.window`: the same windows and flips however
                                                           many ranks share them
    streamed    `stream`: whole shards, fetched again      `stream_plan`: the same odds; each rank has shards of its
                every epoch                                own, so that other numbers of ranks have other orders
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from lvg_data import ids
from lvg_data.reader import Batch, Dataset, Reader, open_dataset
from lvg_data.window import View, Window, Windows
from lvg_train.draws import Draws
from lvg_train.errors import TrainError
from lvg_train.stream import Shelf, Stream, Streaming

Access = Literal["auto", "cached", "streamed"]
T = TypeVar("T")


@dataclass(frozen=True)
class DeviceBatch:
    """The windows of one rank at one step, on the device.

    Attributes:
      low, high: float32 [N, 3, T, H, W] in [-1, 1], with the context that the view has; `high` is None in a
        low-res view.
      flipped: bool [N], on the CPU: which of them are mirrored left to right.
    """

    step: int
    windows: tuple[Window, ...]
    low: Tensor
    high: Tensor | None
    flipped: Tensor


def stream_seed(seed: int, purpose: str) -> int:
    """The seed of one purpose's stream, below 2^63: a hash of both."""
    return int(ids.canonical_hash(["stream", seed, purpose])[:16], 16) >> 1


# ---- to the device --------------------------------------------------------------------------------


def normalise(frames: Tensor, flipped: Tensor) -> Tensor:
    """uint8 [N, T, H, W, 3] to float32 [N, 3, T, H, W] in [-1, 1] (x / 127.5 - 1), contiguous.

    Args:
      flipped: bool [N], on the same device: which samples are mirrored left to right.
    """
    mirrored = torch.where(flipped.view(-1, 1, 1, 1, 1), frames.flip(3), frames)
    video = mirrored.permute(0, 4, 1, 2, 3).to(torch.float32, memory_format=torch.contiguous_format)
    return video.div_(127.5).sub_(1)


def place(batch: Batch, flipped: Tensor, device: torch.device) -> DeviceBatch:
    """A batch of the reader on the device, by its current stream; the reader's arrays are not referred to."""
    there = flipped.to(device)
    low = normalise(_upload(batch.low, device), there)
    high = None if batch.high is None else normalise(_upload(batch.high, device), there)
    return DeviceBatch(batch.step, batch.windows, low, high, flipped)


def _upload(frames: np.ndarray, device: torch.device) -> Tensor:
    """The same values on the device; on the CPU in the same memory.

    torch uses a pinned block again only when the copy out of it has ended.
    """
    found = torch.from_numpy(frames)
    return found.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else found


class Source(Protocol):
    """An endless stream of batches."""

    def __next__(self) -> Batch: ...

    def close(self) -> None: ...


class Batches:
    """The endless stream of one purpose, on the CPU.

    Attributes:
      step: of the next batch; `Data.batches` with `start_step` at this number goes on where this one is.
      waited_s: seconds that the caller has waited for frames so far, the first batch included.
    """

    def __init__(
        self, source: Source, draw_flips: Callable[[int], Tensor], device: torch.device, start_step: int
    ) -> None:
        self._source, self._draw_flips, self._device = source, draw_flips, device
        self.step, self.waited_s = start_step, 0.0

    def __iter__(self) -> Batches:
        return self

    def __next__(self) -> DeviceBatch:
        """The next batch; its tensors are the caller's.

        Raises:
          DatasetError: a shard or a part of it is damaged; asked again, it raises again.
          ValueError: the stream is closed.
        """
        batch = self._take()
        self.step = batch.step + 1
        return batch

    def close(self) -> None:
        self._source.close()

    def _take(self) -> DeviceBatch:
        return self._place(self._wait_for(self._source.__next__))

    def _place(self, batch: Batch) -> DeviceBatch:
        return place(batch, self._draw_flips(batch.step), self._device)

    def _wait_for(self, get: Callable[[], T]) -> T:
        start = time.perf_counter()
        try:
            return get()
        finally:
            self.waited_s += time.perf_counter() - start


class CudaBatches(Batches):
    """The same on a CUDA device, copied and normalised one batch ahead on a side stream.

        thread        read 1, pin it             read 2, pin it
        side stream        copy 1, normalise          copy 2, normalise
        caller        ........ step 0 ........   ........ step 1 ........

    `waited_s` counts the wait for the thread. Where the copy itself is late, the device waits and not the caller.
    """

    def __init__(
        self, source: Source, draw_flips: Callable[[int], Tensor], device: torch.device, start_step: int
    ) -> None:
        super().__init__(source, draw_flips, device, start_step)
        self._side = torch.cuda.Stream(device)
        self._thread = ThreadPoolExecutor(1, "lvg-upload")
        self._ahead: Future[tuple[DeviceBatch, torch.cuda.Event]] | None = None

    def close(self) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)
        super().close()

    def _take(self) -> DeviceBatch:
        ahead, self._ahead = self._ahead or self._submit(), None
        batch, ready = self._wait_for(ahead.result)
        self._ahead = self._submit()
        current = torch.cuda.current_stream(self._device)
        current.wait_event(ready)
        for video in (batch.low, batch.high):
            if video is not None:
                # the side stream has its memory again after the caller's work only
                video.record_stream(current)
        return batch

    def _submit(self) -> Future[tuple[DeviceBatch, torch.cuda.Event]]:
        try:
            return self._thread.submit(self._place_aside)
        except RuntimeError as err:
            raise ValueError("the stream is closed; make a new one with start_step to go on") from err

    def _place_aside(self) -> tuple[DeviceBatch, torch.cuda.Event]:
        batch = next(self._source)
        with torch.cuda.stream(self._side):
            return self._place(batch), self._side.record_event()


# ---- one dataset, several purposes ----------------------------------------------------------------


class Data:
    """The batches of one rank, for as many purposes as training has.

    Attributes:
      dataset, windows: what is read.
      access: "cached" or "streamed". A run resumes bit for bit with the same one only: their orders differ.
    """

    def __init__(
        self,
        dataset: Dataset | str | Path,
        view: View,
        batch: int,
        seed: int,
        rank: int = 0,
        num_ranks: int = 1,
        *,
        device: torch.device | str = "cpu",
        flip: bool = True,
        access: Access = "auto",
        streaming: Streaming | None = None,
        workers: int = 2,
        split: str = "train",
    ) -> None:
        """Opens a dataset; no frame is read before the first batch is asked for.

        Args:
          batch: windows of this rank at a step.
          flip: mirror each window left to right with a chance of 1/2, both resolutions alike.
          access: "auto" streams a remote dataset whose shards do not fit the cache, and takes "cached" for others.
          workers: threads that read or decode, for each purpose.

        Raises:
          TrainError: the view, the split, the ranks or the cache do not fit the dataset; the text has the numbers.
          DatasetError: the dataset is not complete, or one of its tables is damaged.
        """
        self.dataset = dataset if isinstance(dataset, Dataset) else open_dataset(dataset)
        self._batch, self._seed, self._rank, self._num_ranks = batch, seed, rank, num_ranks
        self._device, self._flip, self._workers, self._split = torch.device(device), flip, workers, split
        self._streaming = streaming or Streaming()
        self._opened: list[Batches] = []
        try:
            self.windows = self.dataset.windows(view, split)
            self.windows.check_ranks(rank, num_ranks, batch)
            self.access = _ACCESS[access](self.dataset, self.windows)
        except ValueError as err:
            raise TrainError(str(err)) from err
        if self.access == "streamed":
            self._shelf = Shelf.of(self.dataset, self.windows, num_ranks)

    def batches(self, purpose: str, start_step: int = 0) -> Batches:
        """The stream of one purpose from a step on; the steps of each purpose count from 0.

        Raises:
          TrainError: the step is negative.
        """
        if start_step < 0:
            raise TrainError(f"start_step must be at least 0, got {start_step}")
        seed = stream_seed(self._seed, purpose)
        kind = CudaBatches if self._device.type == "cuda" else Batches
        source = self._open_source(seed, start_step)
        made = kind(source, lambda step: self._draw_flips(seed, step), self._device, start_step)
        self._opened.append(made)
        return made

    @property
    def waited_s(self) -> float:
        """Seconds that the trainer has waited for frames so far, over all purposes."""
        return sum(batches.waited_s for batches in self._opened)

    def close(self) -> None:
        """Ends the threads of every purpose; batches that were handed out stay valid."""
        for batches in self._opened:
            batches.close()

    def __enter__(self) -> Data:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open_source(self, seed: int, start_step: int) -> Source:
        if self.access == "cached":
            return Reader(
                self.dataset, self.windows.view, self._batch, seed, self._rank, self._num_ranks, start_step,
                self._workers, split=self._split,
            )  # fmt: skip
        plan = self._shelf.plan(seed, self._rank, self._num_ranks, self._streaming)
        return Stream(self._shelf, plan, self._batch, start_step, self._workers, self._streaming.downloads)

    def _draw_flips(self, seed: int, step: int) -> Tensor:
        """bool [N]: a sample's draw depends on its number in the whole batch, not on the ranks that share it."""
        samples = range(self._rank * self._batch, (self._rank + 1) * self._batch)
        return Draws(seed, step, "flip", samples).chance(0.5 if self._flip else 0.0)


def _choose_access(dataset: Dataset, windows: Windows) -> str:
    try:
        return _check_cached(dataset, windows)
    except ValueError:
        return "streamed"


def _check_cached(dataset: Dataset, windows: Windows) -> str:
    dataset.check_cache(windows)
    return "cached"


#: what is asked for -> what it comes to, or ValueError
_ACCESS: dict[Access, Callable[[Dataset, Windows], str]] = {
    "auto": _choose_access,
    "cached": _check_cached,
    "streamed": lambda dataset, windows: "streamed",
}
