"""Which windows a stage wants, and the seeded order in which training sees them.

    index    0   1   2   3   4 | 5   6   7   8   9 | 10 ...      5 clips are long enough
    epoch    0                 | 1                 | 2
    clip     3   0   4   1   2 | 1   4   0   2   3 | ...         a permutation of (seed, epoch)
    start    any start at which the window lies in the clip, each as likely as the others

Window `index` is a pure function of (seed, index): nothing depends on the window before it, on ranks or on workers,
so training resumes at a number. As in LongVideoGAN's release, every clip counts the same whatever its length.

The random words are those of Philox4x64-10, a counter-based generator (Salmon et al. 2011, "Parallel random numbers:
as easy as 1, 2, 3"), as `numpy.random.Philox` streams them, which NumPy promises never to change:

    key = (seed, epoch)
    counter = (b, 0, 0, 0)   blocks b = 1, 2, ... of four words: clips stand in the order of their words
    counter = (b, 0, 0, 1)   word i places the epoch's window i: start = word * number of starts >> 64
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from lvg_data.pack import ROLES
from lvg_data.records import Clip

#: the last word of the counter at which each stream starts
_ORDER, _START = 0, 1
_WORD = 1 << 64


@dataclass(frozen=True)
class View:
    """The windows that a stage wants.

        num_frames 4, context 2, stride 1, roles ("low", "high")

        low     c c f f f f c c        frames of both resolutions show the same moments
        high    c c f f f f c c        or, without high_context,     f f f f

    Attributes:
      num_frames: T, without the context.
      stride: clip frames from one frame of the window to the next.
      context: further frames before the window's T, and as many behind them.
      roles: ("low",) reads the long low-res clips; ("low", "high") the high-res clips at both resolutions.
      high_context: read high-res frames for the context too; decoding them is most of what a window costs.
    """

    num_frames: int
    stride: int = 1
    context: int = 0
    roles: tuple[str, ...] = ("low",)
    high_context: bool = True

    def __post_init__(self) -> None:
        for name, least in (("num_frames", 1), ("stride", 1), ("context", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if self.roles not in (("low",), ROLES):
            raise ValueError(f"roles must be ('low',) or {ROLES}, got {self.roles!r}")

    @property
    def length(self) -> int:
        """Frames of a window, its context included."""
        return self.num_frames + 2 * self.context

    def frames_of(self, role: str) -> int:
        """Frames of a window at one resolution."""
        return self.num_frames if role == "high" and not self.high_context else self.length

    @property
    def span(self) -> int:
        """Clip frames from the first frame of a window to its last, both included."""
        return (self.length - 1) * self.stride + 1


def middle_of(frames: range, num_frames: int) -> range:
    """`num_frames` frames, with as many left out before them as behind them."""
    context = (len(frames) - num_frames) // 2
    return frames[context : context + num_frames]


@dataclass(frozen=True)
class Window:
    """Frames of one clip, counted from the clip's first: start, start + stride, ..., `length` of them."""

    clip: str
    start: int
    length: int
    stride: int = 1

    @property
    def frames(self) -> range:
        return range(self.start, self.start + (self.length - 1) * self.stride + 1, self.stride)


@dataclass(frozen=True)
class Windows:
    """Every window of a view: the clips that are long enough, and how many starts each has."""

    view: View
    clips: tuple[str, ...]
    num_starts: tuple[int, ...]

    def draw_window(self, index: int, seed: int) -> Window:
        """Window `index` of the endless stream of `seed`; both from 0, the seed below 2^64."""
        _check_number("index", index)
        _check_number("seed", seed)
        epoch, place = divmod(index, len(self.clips))
        order, words = _draw_epoch(len(self.clips), seed, epoch)
        clip = order[place]
        # a multiple of 2^-64 off uniform at most
        start = int(words[place]) * self.num_starts[clip] >> 64
        return Window(self.clips[clip], start, self.view.length, self.view.stride)

    def windows_of(self, rank: int, num_ranks: int, batch: int, seed: int, step: int) -> list[Window]:
        """The windows of one rank at one step; over ranks and steps every index of the stream comes once.

            step 0                         step 1
            rank 0        rank 1           rank 0        rank 1          batch 3
            0   1   2     3   4   5        6   7   8     9  10  11

        Raises:
          ValueError: see `check_ranks`.
        """
        self.check_ranks(rank, num_ranks, batch)
        _check_number("step", step)
        first = (step * num_ranks + rank) * batch
        return [self.draw_window(index, seed) for index in range(first, first + batch)]

    def check_ranks(self, rank: int, num_ranks: int, batch: int) -> None:
        """Whether so many ranks can share the stream.

        Raises:
          ValueError: no such rank; fewer clips than ranks, so that some would see no clip in an epoch; or fewer
            windows in all than a single step takes.
        """
        if batch < 1:
            raise ValueError(f"batch must be at least 1 window, got {batch}")
        if not 0 <= rank < num_ranks:
            raise ValueError(f"rank must be 0 to {num_ranks - 1} for {num_ranks} ranks, got {rank}")
        if len(self.clips) < num_ranks:
            raise ValueError(
                f"{num_ranks} ranks share {len(self.clips)} clips of {self.view.span} frames or more, so that some "
                "would have no data; use fewer ranks, a shorter view or more footage"
            )
        wanted, there = batch * num_ranks, sum(self.num_starts)
        if there < wanted:
            raise ValueError(
                f"a step takes {wanted} windows ({num_ranks} ranks x {batch}), and the {len(self.clips)} clips of "
                f"{self.view.span} frames or more have {there}; use smaller batches, a shorter view or more footage"
            )


def find_windows(clips: Iterable[Clip], view: View, split: str = "train") -> Windows:
    """The windows that a view finds in the clips of one split, in the order of the clips.

    Raises:
      ValueError: there is none; the text has the numbers.
    """
    clips = list(clips)
    of_split = [clip for clip in clips if clip.split == split]
    if not of_split:
        found = ", ".join(
            f"{name} ({count})" for name, count in sorted(Counter(c.split for c in clips).items())
        )
        raise ValueError(f"no clip is of the split {split!r}; clips by split: {found or 'none'}")
    role = view.roles[-1]
    of_role = [clip for clip in of_split if (clip.in_low if role == "low" else clip.in_high)]
    eligible = [clip for clip in of_role if clip.num_frames >= view.span]
    if not eligible:
        longest = max((clip.num_frames for clip in of_role), default=0)
        raise ValueError(
            f"no window fits: the view spans {view.span} frames ({view.length} at stride {view.stride}), and the "
            f"longest of the {len(of_role)} {role}-res clips of the split {split!r} has {longest}; ask for fewer "
            "frames or a smaller stride"
        )
    num_starts = tuple(clip.num_frames - view.span + 1 for clip in eligible)
    return Windows(view, tuple(clip.clip_id for clip in eligible), num_starts)


def _check_number(name: str, value: int) -> None:
    if not 0 <= value < _WORD:
        raise ValueError(f"{name} must be from 0 to 2^64 - 1, got {value}")


@functools.lru_cache(maxsize=4)
def _draw_epoch(num_clips: int, seed: int, epoch: int) -> tuple[np.ndarray, np.ndarray]:
    """int64 [num_clips], a permutation; uint64 [num_clips], a random word for each place in it."""
    order = np.argsort(random_words(num_clips, seed, epoch, _ORDER), kind="stable")
    return order, random_words(num_clips, seed, epoch, _START)


def random_words(num_words: int, seed: int, epoch: int, stream: int) -> np.ndarray:
    """uint64 [num_words]: the words of key (seed, epoch) from the counter (1, 0, 0, stream) on.

    Args:
      stream: 0 and 1 are used here, 2 to 5 by `lvg_train.stream_plan`.
    """
    key, counter = np.array([seed, epoch], np.uint64), np.array([0, 0, 0, stream], np.uint64)
    return np.random.Philox(key=key, counter=counter).random_raw(num_words)
