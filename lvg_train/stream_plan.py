"""In which order windows come when shards are streamed: a pure function of the seed, known before a byte is read.

    shards    train-00003    train-00000  train-00002  ...   permuted by (seed, epoch); of n ranks, rank r reads
                                                             those at the places r, r + n, r + 2n, ...
    windows   a b b a c      d e d        f c f f      ...   some of each part, in the order of random words
    index     0 1 2 3 4      5 6 7        8 9 ...            counts the windows of a rank, over all its epochs
    delay     2 0 1 2 0      1 0 2        0 1 ...            uniform from 0 to shuffle_windows - 1
    order     by index + delay: 1 0 4 2 3 6 5 8 ...          windows move by less than shuffle_windows places

Epoch e draws the same number of windows K from every clip, whatever its length, one from each of K equal stretches
of its starts; the part that owns a start (`timeline.owned_starts`) gives the window.

    clip     0 ............... starts ............... n       K = 3
             [---x---------|----------x-|-x-----------]
             part A owns these  | part B owns these

So the odds are those of random access (`lvg_data.window`): over an epoch of all ranks a clip gives exactly K windows,
and each of its n starts is expected K / n times. What differs is what comes near what: windows of a clip are drawn K
times as often and then not for K times as long, and neighbours in the stream come from the same few shards.

A rank starts its next epoch when it is through with its shards, so that batches are equal on every rank although
shards are not. In one epoch no window is on two ranks. Which shards a rank has changes with every epoch, so that in
the long run (and not in one epoch) each rank sees every clip as often as any other.

The random words are those of `lvg_data.window.random_words`, streams 2 to 5.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from lvg_data.reader import Dataset
from lvg_data.timeline import owned_starts
from lvg_data.window import Windows, random_words

#: the last word of the counter at which each stream starts; see `random_words`
_SHARDS, _STARTS, _ORDER, _DELAYS = 2, 3, 4, 5


@dataclass(frozen=True)
class Piece:
    """A part, and the window starts that it owns.

    Attributes:
      clip: position in `Windows.clips`.
      shard: position in the shards table.
      key: of the part.
      first_frame: of the part, counted in the clip.
      owned: window starts in clip frames, never empty.
    """

    clip: int
    shard: int
    key: str
    first_frame: int
    owned: range


def list_pieces(dataset: Dataset, windows: Windows) -> list[Piece]:
    """Every part that owns a window of a view, in the order of the clips; together they own each window once.

    Raises:
      ValueError: a window of the view can span more frames than neighbouring parts share.
    """
    pieces = []
    for clip, clip_id in enumerate(windows.clips):
        parts = dataset.parts_of(clip_id, windows.view.roles[-1]).parts
        ranges = [range(part.start, part.stop) for part in parts]
        for number, part in enumerate(parts):
            owned = owned_starts(ranges, number, windows.view.span)
            if owned:
                pieces.append(Piece(clip, part.shard, part.key, part.start, owned))
    return pieces


@dataclass(frozen=True)
class Load:
    """What one rank takes from one shard in one epoch.

    Attributes:
      shard: position in the shards table.
      first: index of its first window.
      pieces: int64 [n], position of each window's part in the list of pieces.
      starts: int64 [n], in clip frames.
      delays: int64 [n].
    """

    shard: int
    first: int
    pieces: np.ndarray
    starts: np.ndarray
    delays: np.ndarray

    @property
    def stop(self) -> int:
        return self.first + len(self.starts)


@dataclass(frozen=True)
class StreamPlan:
    """The stream of one rank.

    Attributes:
      num_starts: of each clip, as in `Windows`.
      windows_per_clip: K above.
    """

    pieces: Sequence[Piece]
    num_starts: Sequence[int]
    seed: int
    rank: int
    num_ranks: int
    windows_per_clip: int
    shuffle_windows: int

    def loads(self, index: int = 0) -> Iterator[Load]:
        """Every load from the one with window `index` on, without end.

        Epochs before it are planned, not read: some 100 ns a window.
        """
        first = 0
        for epoch in itertools.count():
            shards, pieces, starts, delays = self._draw_epoch(epoch)
            if first + len(shards) > index:
                for run in _runs(shards):
                    shard = int(shards[run.start])
                    load = Load(shard, first + run.start, pieces[run], starts[run], delays[run])
                    if load.stop > index:
                        yield load
            first += len(shards)

    def earliest(self, place: int) -> int:
        """The first index that can come at a place of the order, or behind it."""
        return max(0, place - self.shuffle_windows + 1)

    def latest(self, place: int) -> int:
        """The last index that can come at a place of the order, or before it."""
        return place + self.shuffle_windows - 1

    def _draw_epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """int64 [n] each: shard, piece, start and delay of the rank's windows, in the order of their indices."""
        used = np.unique([piece.shard for piece in self.pieces])
        order = np.argsort(random_words(len(used), self.seed, epoch, _SHARDS), kind="stable")
        place_of = np.empty(len(used), np.int64)
        place_of[order] = np.arange(len(used))

        clips, starts = self._draw_starts(epoch)
        pieces = self._owners(clips, starts)
        shards = np.array([piece.shard for piece in self.pieces])[pieces]
        places = place_of[np.searchsorted(used, shards)]
        words = random_words(len(starts), self.seed, epoch, _ORDER)
        delays = _below(random_words(len(starts), self.seed, epoch, _DELAYS), self.shuffle_windows)

        sequence = np.lexsort((words, places))
        mine = sequence[places[sequence] % self.num_ranks == self.rank]
        return shards[mine], pieces[mine], starts[mine], delays[mine]

    def _draw_starts(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """int64 [clips x K], twice: clip and start of every window of an epoch, of all ranks.

        Window j of a clip with n starts has the start floor((j + u) / K * n), u uniform in [0, 1) in steps of 2^-53.
        """
        num_clips, per_clip = len(self.num_starts), self.windows_per_clip
        clips, stretches = np.divmod(np.arange(num_clips * per_clip), per_clip)
        uniform = _uniform(random_words(num_clips * per_clip, self.seed, epoch, _STARTS))
        num_starts = np.asarray(self.num_starts, np.int64)[clips]
        starts = ((stretches + uniform) / per_clip * num_starts).astype(np.int64)
        return clips, np.minimum(starts, num_starts - 1)  # the product may round up to n

    def _owners(self, clips: np.ndarray, starts: np.ndarray) -> np.ndarray:
        """int64 [n], the piece that owns each start.

        The starts of all clips stand one clip behind the other, and pieces lie on them without gaps.
        """
        first_of_clip = np.cumsum([0, *self.num_starts[:-1]])
        first_of_piece = np.array([first_of_clip[piece.clip] + piece.owned.start for piece in self.pieces])
        return np.searchsorted(first_of_piece, first_of_clip[clips] + starts, side="right") - 1


def shuffled(delays: np.ndarray, first: int, places: range) -> np.ndarray:
    """int64 [places], the indices that come at some places of the order by index + delay.

    Args:
      delays: int64 [n], of the indices from `first` on, from `StreamPlan.earliest` of the first place at the latest
        to `StreamPlan.latest` of the last one at least.
    """
    # indices before `first` all come before the first place, each at one place
    order = first + np.argsort(np.arange(len(delays)) + delays, kind="stable")
    return order[places.start - first : places.stop - first]


def _runs(values: np.ndarray) -> list[slice]:
    """Stretches of equal neighbours; [3, 3, 1] gives the slices 0:2 and 2:3."""
    edges = np.flatnonzero(np.diff(values)) + 1
    return [slice(a, b) for a, b in itertools.pairwise([0, *edges.tolist(), len(values)]) if a < b]


def _uniform(words: np.ndarray) -> np.ndarray:
    """float64 in [0, 1), a multiple of 2^-53, of random 64-bit words."""
    return (words >> np.uint64(11)) * 2.0**-53


def _below(words: np.ndarray, stop: int) -> np.ndarray:
    """int64 from 0 to stop - 1 of random 64-bit words."""
    return (_uniform(words) * stop).astype(np.int64)
