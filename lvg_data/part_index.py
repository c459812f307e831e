"""Where the frames of each clip are: the parts table by columns, each part looked up when it is asked for.

    parts = PartIndex(read_part_columns(dataset), shards, dataset)
    for part, inside in parts.of_clip(clip_id, "high").split(range(30, 42)):
        part.shard, part.place("f002.jpg")              # number of the shard; offset and size in it

A dataset has a member a frame, so that its rows as objects would take minutes to make and gigabytes to keep.
"""

from __future__ import annotations

import itertools
import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from lvg_data.errors import DatasetError
from lvg_data.records import Clip, Shard
from lvg_data.schema import PartColumns, Words

_SHARD_NAME = re.compile(r"[a-z0-9_-]+\.tar")


@dataclass(frozen=True)
class IndexedPart:
    """A row of the parts table.

    Attributes:
      shard: position in the shards table.
      start, stop: frames of the clip; of those the frames from `own_stop` on are also in the next part.
    """

    index: PartIndex
    row: int
    key: str
    shard: int
    start: int
    stop: int
    own_stop: int

    def place(self, name: str) -> tuple[int, int]:
        """Offset and size in the shard of the member with this name after its key.

        Raises:
          KeyError: the part has none.
        """
        return self.index.place(self.row, name)


@dataclass(frozen=True)
class ClipParts:
    """The parts of a clip at one resolution, in order: rows of the index."""

    index: PartIndex
    rows: range

    @property
    def parts(self) -> tuple[IndexedPart, ...]:
        return tuple(self.index.part(row) for row in self.rows)

    def split(self, frames: range) -> Iterator[tuple[IndexedPart, range]]:
        """Cuts clip frames into runs that lie in one part each, as few as there can be.

            part A [0-----------16)           frames [4, 20)     A [4, 16), B [7, 11)
            part B         [9-----------25)   frames [10, 20)    B [1, 11)

        Yields:
          A part, and frames counted from its first. Of all parts that hold a frame, the last reaches furthest.

        Raises:
          DatasetError: no part has one of the frames.
        """
        return self._runs(frames, self.index.stops)

    def split_own(self, frames: range) -> Iterator[tuple[IndexedPart, range]]:
        """Cuts clip frames into runs so that a frame is always read from the same part, the last that holds it.

        part A [0-----------16)           frames [4, 20)     A [4, 9), B [0, 11)
        part B         [9-----------25)   frames [10, 20)    B [1, 11)
        """
        return self._runs(frames, self.index.own_stops)

    def _runs(self, frames: range, stops: np.ndarray) -> Iterator[tuple[IndexedPart, range]]:
        starts = self.index.starts[self.rows.start : self.rows.stop]
        while frames:
            row = self.rows[max(0, bisect_right(starts, frames.start) - 1)]
            part = self.index.part(row)
            run = range(frames.start, min(frames.stop, int(stops[row])), frames.step)
            if not run or run.start < part.start:
                raise DatasetError(
                    f"the parts table has no frame {frames.start} of the clip of part {part.key}, which holds "
                    f"[{part.start}, {part.stop}); build the dataset again"
                )
            yield part, range(run.start - part.start, run.stop - part.start, run.step)
            frames = frames[len(run) :]


class PartIndex:
    """The parts of a dataset, sorted by resolution, clip and first frame.

    Attributes:
      starts, stops, own_stops: int64 [number of parts], see `IndexedPart`.
    """

    def __init__(self, columns: PartColumns, shards: Sequence[Shard], dataset: str) -> None:
        """Sorts the rows; raises DatasetError where one names a shard that the dataset does not have."""
        order = np.lexsort((columns.start_frame, columns.clip_id.codes, columns.role.codes))
        self._columns, self._order = columns, order
        self._members = np.concatenate([[0], np.cumsum(columns.num_members, dtype=np.int64)])
        self._shards = _number_shards(columns, shards, dataset)[order]
        self.starts, self.stops = columns.start_frame[order], columns.stop_frame[order]
        clips = np.stack([columns.role.codes[order], columns.clip_id.codes[order]])
        first = np.flatnonzero((np.diff(clips, prepend=-1) != 0).any(axis=0))
        self._rows = _rows_by_clip(columns, clips[:, first], [*first.tolist(), len(order)])
        self.own_stops = self.stops.copy()
        inner = np.setdiff1d(np.arange(len(order)), first)  # parts that have another before them
        self.own_stops[inner - 1] = np.minimum(self.stops[inner - 1], self.starts[inner])
        self._name_codes = {name: code for code, name in enumerate(columns.member_name.values)}

    def of_clip(self, clip_id: str, role: str) -> ClipParts:
        """Raises KeyError where the clip has no frames at this resolution."""
        return ClipParts(self, self._rows[clip_id, role])

    def check_clips(self, clips: Iterable[Clip]) -> None:
        """Raises DatasetError where a row of the clips table has another length than its parts."""
        for clip in clips:
            for role in (role for role, used in (("low", clip.in_low), ("high", clip.in_high)) if used):
                rows = self._rows.get((clip.clip_id, role), range(0))
                stop = int(self.stops[rows.stop - 1]) if rows else 0
                if stop != clip.num_frames:
                    raise DatasetError(
                        f"clip {clip.clip_id} has {clip.num_frames} frames, its {role}-res parts {stop}; copy the "
                        "tables again, or build the dataset again"
                    )

    def part(self, row: int) -> IndexedPart:
        key = _word(self._columns.key, self._order[row])
        numbers = (self._shards[row], self.starts[row], self.stops[row], self.own_stops[row])
        return IndexedPart(self, row, key, *(int(number) for number in numbers))

    def place(self, row: int, name: str) -> tuple[int, int]:
        start, stop = self._members[self._order[row] :][:2]
        found = np.flatnonzero(self._columns.member_name.codes[start:stop] == self._name_codes[name])
        if not len(found):
            raise KeyError(name)
        member = start + found[0]
        return int(self._columns.offset_bytes[member]), int(self._columns.size_bytes[member])

    def shards_of(self, clip_ids: Sequence[str], role: str) -> set[int]:
        """Positions in the shards table of all that hold frames of these clips."""
        rows = (self._rows[clip_id, role] for clip_id in clip_ids)
        return {number for found in rows for number in self._shards[found.start : found.stop].tolist()}


def _word(words: Words, row: int) -> str:
    return words.values[words.codes[row]]


def _rows_by_clip(columns: PartColumns, clips: np.ndarray, edges: list[int]) -> dict[tuple[str, str], range]:
    """Rows of each clip at each resolution; `clips` holds the codes of both, [2, number of such pairs]."""
    roles, clip_ids = columns.role.values, columns.clip_id.values
    pairs = ((clip_ids[clip], roles[role]) for role, clip in clips.T.tolist())
    return dict(zip(pairs, itertools.starmap(range, itertools.pairwise(edges)), strict=True))


def _check_names(shards: Sequence[Shard], dataset: str) -> None:
    """A name becomes part of a path."""
    for shard in shards:
        if shard.role not in ("low", "high") or not _SHARD_NAME.fullmatch(shard.name):
            raise DatasetError(
                f"the shards table of {dataset} names {shard.name!r} of the resolution {shard.role!r}; they are named "
                "as train-00000.tar, and of low or high resolution: build the dataset again"
            )


def _number_shards(columns: PartColumns, shards: Sequence[Shard], dataset: str) -> np.ndarray:
    """int64 [number of parts]: position in the shards table of each row's shard; names repeat over resolutions."""
    _check_names(shards, dataset)
    numbers = {(shard.role, shard.name): number for number, shard in enumerate(shards)}
    pairs, places = np.unique(
        np.stack([columns.role.codes, columns.shard.codes], axis=1), axis=0, return_inverse=True
    )
    named = [(columns.role.values[role], columns.shard.values[name]) for role, name in pairs.tolist()]
    for role, name in named:
        if (role, name) not in numbers:
            raise DatasetError(
                f"the parts table of {dataset} names the {role}-res shard {name}, which its shards table does not "
                "have; copy both tables again, or build the dataset again"
            )
    return np.array([numbers[pair] for pair in named], np.int64)[places.reshape(-1)]
