"""Source adapters: each a function from its part of a card to Sources.

An adapter looks at the card and at lists, never into a video. It hands over one of the three kinds of
`records.Media`: an address to fetch, frames on disk, or frames already rendered for a known resolution.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from lvg_data.config import Card, Expected
from lvg_data.errors import CardError
from lvg_data.records import Source
from lvg_data.sources import (
    clip_list,
    files,
    frame_folders,
    package,
    prepared,
    rides,
    table,
    trajectories,
    urls,
)
from lvg_data.sources.lists import MAX_ID_CHARACTERS, has_controls
from lvg_data.sources.place import Place, check_expected, source_name

#: adapter of each `kind` of source: (config, card, place) -> Sources
ADAPTERS: dict[str, Callable[[Any, Card, Place], Iterator[Source]]] = {
    "files": files.list_sources,
    "urls": urls.list_sources,
    "table": table.list_sources,
    "clip_list": clip_list.list_sources,
    "trajectories": trajectories.list_sources,
    "frame_folders": frame_folders.list_sources,
    "longvideogan_zips": prepared.list_sources,
    "package": package.list_sources,
    "rides": rides.list_sources,
}


def list_sources(card: Card, place: Place) -> list[Source]:
    """Every input row of a card, in the card's order.

    A row that repeats an earlier one's id and content is kept with a `duplicate` mark in its id, so that
    it can be counted and rejected rather than silently merged.

    Raises:
      CardError: a list cannot be read, holds nothing or not what the card expects, two different rows
        declare one id, or an id or origin cannot stand in a table.
    """
    rows = [row for config in card.sources for row in _rows_of(config, card, place)]
    if not rows:
        raise CardError(f"{card.name}: the sources hold no video; check their paths ({place.folder})")
    return _unique(rows)


def _rows_of(config: Any, card: Card, place: Place) -> list[Source]:
    """The rows of one of the card's sources, checked."""
    rows = list(ADAPTERS[config.kind](config, card, place))
    expected = getattr(config, "expect", Expected())
    num_intervals = sum(len(row.intervals or ()) for row in rows)
    check_expected(card, source_name(config), expected, len(rows), num_intervals)
    for row in rows:
        for text in (row.origin, row.video_id):
            if has_controls(text):
                raise CardError(f"{text[:100]!r}: control characters are not allowed in a source")
        if not 1 <= len(row.video_id) <= MAX_ID_CHARACTERS:
            text = f"{row.origin[:100]}: an id has 1 to {MAX_ID_CHARACTERS} characters, this one {len(row.video_id)}"
            raise CardError(text)
    return rows


def _unique(rows: list[Source]) -> list[Source]:
    seen: Counter[str] = Counter()
    first: dict[str, Source] = {}
    unique = []
    for row in rows:
        seen[row.video_id] += 1
        if seen[row.video_id] == 1:
            first[row.video_id] = row
            unique.append(row)
        elif row == first[row.video_id]:
            unique.append(replace(row, video_id=f"{row.video_id}{DUPLICATE_MARK}{seen[row.video_id]}"))
        else:
            raise CardError(
                f"two different rows have the id {row.video_id!r}: {first[row.video_id].origin} and {row.origin}"
            )
    return unique


#: stands between the id of a repeated row and its count; no declared id contains it
DUPLICATE_MARK = "\x1fduplicate "
