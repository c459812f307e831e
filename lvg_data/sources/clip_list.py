"""Clip lists of the LongVideoGAN release: JSON, `{id: ["m:ss m:ss", ...]}`, whole seconds, ends inclusive."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

from lvg_data.config import Card, ClipListSource
from lvg_data.records import Source
from lvg_data.sources.lists import Host, id_problem, raise_problems
from lvg_data.sources.place import Place, list_name
from lvg_data.timeline import Interval

_TIME = re.compile(r"(?:(\d+):(?=[0-5]\d:))?(\d+):([0-5]\d)", re.ASCII)


def list_sources(config: ClipListSource, card: Card, place: Place) -> Iterator[Source]:
    """One Source a video, in the list's order. Its id is the list's, which may begin with `-`.

    Raises:
      CardError: the list is not of this format; the text names the id and what stands there.
    """
    with place.open_list(config, card) as path:
        clips = read_clip_list(path, config, card)
    host = Host.of(config, card, place)
    for video_id, intervals in clips.items():
        yield Source(
            video_id=video_id,
            origin=host.origin(video_id),
            media=host.address(video_id),
            licence=card.licence,
            attribution=card.attribution,
            split=config.split,
            intervals=intervals,
        )


def read_clip_list(path: Path, config: ClipListSource, card: Card) -> dict[str, tuple[Interval, ...]]:
    """Intervals by id. Raises: CardError, with every malformed entry or the first few."""
    problems: list[str] = []

    def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):  # a plain parser keeps the last and says nothing
            names = [name for name, _ in pairs]
            problems.extend(
                f"{name!r} is there {names.count(name)} times" for name in found if names.count(name) > 1
            )
        return found

    try:
        data = json.loads(path.read_bytes(), object_pairs_hook=unique_keys)
    except (ValueError, RecursionError) as err:
        data = None
        problems.append(f"no JSON: {err}")
    if not problems and not isinstance(data, dict):
        problems.append(f"a clip list is an object of ids, got {type(data).__name__}")
    raise_problems(card, list_name(config), problems)
    clips = {video_id: _intervals(video_id, texts, problems) for video_id, texts in data.items()}
    raise_problems(card, list_name(config), problems)
    return clips


def _intervals(video_id: str, texts: Any, problems: list[str]) -> tuple[Interval, ...]:
    if (problem := id_problem(video_id)) is not None:
        problems.append(problem)
    if not isinstance(texts, list) or not texts:
        problems.append(f'{video_id!r}: its intervals are a list of "m:ss m:ss", got {texts!r}')
        return ()
    found = []
    for text in texts:
        try:
            found.append(parse_interval(text))
        except ValueError as err:
            problems.append(f"{video_id!r}: {err}")
    return tuple(found)


def parse_interval(text: Any) -> Interval:
    """ "m:ss m:ss" or "h:mm:ss h:mm:ss"; as the release reads it, a frame exactly at the end is in it.

    Raises:
      ValueError: it is not that, or does not end after it starts.
    """
    times = [_TIME.fullmatch(part) for part in text.split()] if isinstance(text, str) else []
    if len(times) != 2 or None in times:
        raise ValueError(f'an interval is "m:ss m:ss" or "h:mm:ss h:mm:ss", got {text!r}')
    start, stop = (_seconds(time) for time in times if time is not None)
    if stop <= start:
        raise ValueError(f"an interval ends after it starts, got {text!r}")
    return Interval(Fraction(start), Fraction(stop), end_inclusive=True)


def _seconds(time: re.Match[str]) -> int:
    hours, minutes, seconds = (int(digits or 0) for digits in time.groups())
    return hours * 3600 + minutes * 60 + seconds
