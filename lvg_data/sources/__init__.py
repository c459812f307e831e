"""Source adapters: each a function from its part of a card to Sources.

An adapter looks at the card and at lists, never into a video. It hands over one of the three kinds of
`records.Media`: an address to fetch, frames on disk, or frames already rendered for a known resolution.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from lvg_data.config import Card
from lvg_data.errors import CardError
from lvg_data.records import Source
from lvg_data.sources import files, package, rides, urls

#: adapter of each `kind` of source: (config, card, folder of the card) -> Sources
ADAPTERS: dict[str, Callable[[Any, Card, Path], Iterator[Source]]] = {
    "files": files.list_sources,
    "urls": urls.list_sources,
    "package": package.list_sources,
    "rides": rides.list_sources,
}


def list_sources(card: Card, folder: Path) -> list[Source]:
    """Every input row of a card, in the card's order; paths are relative to `folder`.

    A row that repeats an earlier one's id and content is kept with a `duplicate` mark in its id, so that
    it can be counted and rejected rather than silently merged.

    Raises:
      CardError: a list cannot be read, holds nothing, or two different rows declare one id.
    """
    rows = [row for config in card.sources for row in ADAPTERS[config.kind](config, card, folder)]
    if not rows:
        raise CardError(f"{card.name}: the sources hold no video; check their paths ({folder})")
    return _with_splits_checked(_unique(rows))


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


def _with_splits_checked(rows: list[Source]) -> list[Source]:
    for row in rows:
        if DUPLICATE_MARK[0] in row.origin:
            raise CardError(f"{row.origin!r}: control characters are not allowed in a source")
    return rows
