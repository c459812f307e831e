"""Lists of addresses or paths as tables: txt (one a line), CSV, JSONL or Parquet, told apart by their suffix."""

from __future__ import annotations

import csv
import datetime
import decimal
import difflib
import json
import math
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import ConfigDict, TypeAdapter, ValidationError

from lvg_data import ids, schema
from lvg_data.config import Card, FrameRate, IntervalConfig, Sha256, SplitName, TableSource
from lvg_data.errors import CardError
from lvg_data.fetch.addresses import hide_addresses, without_credentials
from lvg_data.records import Address, Source
from lvg_data.sources.lists import id_problem, raise_problems
from lvg_data.sources.place import Place, is_remote, list_name, list_suffix
from lvg_data.sources.urls import url_id, url_origin
from lvg_data.timeline import Interval

#: names that other lists have for some of them
_MEANT = {
    "start_s": "start",
    "start_time": "start",
    "stop": "end",
    "stop_s": "end",
    "end_s": "end",
    "end_time": "end",
}
COLUMNS = ("url", "path", "id", "start", "end", "fps", "split", "sha256")
MAX_COLUMNS = 1000
URL_SCHEMES = ("http", "https", "s3", "gs")
#: cells of a CSV that mean that there is nothing
_ABSENT_TEXTS = ("", "nan", "NaN", "None", "null")
_FRAME_RATE: TypeAdapter[Any] = TypeAdapter(FrameRate, config=ConfigDict(arbitrary_types_allowed=True))
_TEXT_TYPES: dict[str, TypeAdapter[Any]] = {"split": TypeAdapter(SplitName), "sha256": TypeAdapter(Sha256)}


@dataclass(frozen=True)
class Row:
    """A row of a table, its values checked.

    Attributes:
      where: "line 3" or "row 3", from 1, as the list's reader would count.
      target: the address or path as written.
      extra: the columns that are not of `COLUMNS`, as JSON values.
    """

    where: str
    target: str
    id: str | None
    interval: Interval | None
    frame_rate: str | None
    split: str | None
    sha256: str | None
    extra: dict[str, Any]


def list_sources(config: TableSource, card: Card, place: Place) -> Iterator[Source]:
    """One Source a video, in the order of first mention.

    Rows with the same address or path and the same id are one video, and its intervals, in order; a row that
    repeats another stays, to be rejected as a duplicate. What is said once of a video (`fps`, `split`, `sha256`)
    holds for all of its rows. Further columns go to `extra` where all rows of the video agree, else to
    `interval_extras`, each row's to its own interval. An empty cell, NaN and null are absent.
    Paths are relative to the list; a list that was downloaded may only name addresses.

    Raises:
      CardError: the list cannot be read or a row is malformed; the text names list, row, column and value.
    """
    problems: list[str] = []
    with place.open_list(config, card) as path:
        try:
            rows = [_checked(where, values) for where, values in _read(path, config)]
        except RecursionError as err:
            text = "a value is nested too deeply"
            raise CardError(f"{card.name}: the list {list_name(config)} cannot be read: {text}") from err
        except (OSError, ValueError, csv.Error) as err:
            raise CardError(
                f"{card.name}: the list {list_name(config)} cannot be read: {hide_addresses(str(err))}"
            ) from err
    videos: dict[tuple[str, str | None], list[Row]] = {}
    for row in rows:
        if isinstance(row, Row):
            target = row.target if is_remote(row.target) else str(Path(row.target))  # ./a.mp4 is a.mp4
            videos.setdefault((target, row.id), []).append(row)
        else:
            problems.append(row)
    sources = []
    for group in videos.values():
        try:
            sources.extend(_sources_of(group, config, card, place))
        except ValueError as err:
            problems.append(str(err))
    raise_problems(card, list_name(config), problems)
    yield from sources


# ---- reading ----------------------------------------------------------------------------------------


def _read(path: Path, config: TableSource) -> Iterator[tuple[str, dict[str, Any]]]:
    """Place and columns of each row. Raises: ValueError, OSError or csv.Error, for the list as a whole."""
    suffix = list_suffix(config)
    if suffix not in _READERS:
        known = ", ".join(_READERS)
        raise ValueError(f"its name ends in {suffix!r}, which is none of {known}")
    return _READERS[suffix](path)


def _read_txt(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").split("\n"), start=1):
        text = line.strip()
        if text and not text.startswith("#"):
            yield f"line {number}", {"url" if is_remote(text) else "path": text}


def _read_csv(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    with open(path, encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True)
        header = [name.strip() for name in next(reader, [])]
        _check_header(header)
        start = reader.line_num + 1
        for cells in reader:
            where, start = f"line {start}", reader.line_num + 1  # a quoted cell may run over several lines
            if cells and len(cells) != len(header):
                raise ValueError(f"{where} has {len(cells)} fields; the header has {len(header)}")
            if cells:
                yield where, dict(zip(header, (_cell(cell) for cell in cells), strict=True))


def _cell(text: str) -> str | None:
    return None if text.strip() in _ABSENT_TEXTS else text.strip()


def _read_jsonl(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            pairs = json.loads(line, object_pairs_hook=_Pairs)
        except (ValueError, RecursionError) as err:
            raise ValueError(f"line {number} is no JSON: {err}") from err
        if not isinstance(pairs, _Pairs):
            raise ValueError(f"line {number} is no JSON object: {line.strip()[:80]!r}")
        _check_header([name for name, _ in pairs])
        yield f"line {number}", dict(pairs.items())


class _Pairs(list[tuple[str, Any]]):
    """A JSON object with its keys as they come, so that one that is there twice is seen."""

    def items(self) -> Iterator[tuple[str, Any]]:
        return ((name, _as_dict(value)) for name, value in self)


def _as_dict(value: Any) -> Any:
    if isinstance(value, _Pairs):
        return dict(value.items())
    return [_as_dict(item) for item in value] if isinstance(value, list) else value


def _read_parquet(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    names, rows = schema.read_parquet(path)
    _check_header(names)
    yield from ((f"row {number}", row) for number, row in enumerate(rows, start=1))


def _check_header(names: Sequence[str]) -> None:
    """Raises: ValueError, where a column is there twice, or none says where the videos are."""
    if len(names) > MAX_COLUMNS:
        raise ValueError(f"it has {len(names):,} columns; at most {MAX_COLUMNS:,}")
    twice = sorted(name for name, count in Counter(names).items() if count > 1)
    if twice:
        raise ValueError(f"column {twice[0]!r} is there twice")
    near = [name for name in names if name not in COLUMNS and name.strip().lower() in COLUMNS]
    if near:
        raise ValueError(f"column {near[0]!r} must be written {near[0].strip().lower()!r}")
    for name in names:
        meant = _MEANT.get(name) or next(
            iter(difflib.get_close_matches(name, ("start", "end"), 1, 0.7)), None
        )
        if meant and name not in COLUMNS and meant not in names:
            raise ValueError(
                f"column {name!r} must be written {meant!r}, or otherwise if it is something else"
            )
    if not {"url", "path"} & set(names):
        raise ValueError(
            f"it has neither a column url nor path, but {', '.join(names)[:200] or 'none at all'}"
        )


_READERS: dict[str, Callable[[Path], Iterator[tuple[str, dict[str, Any]]]]] = {
    ".txt": _read_txt, ".csv": _read_csv, ".jsonl": _read_jsonl, ".parquet": _read_parquet
}  # fmt: skip


# ---- one row ----------------------------------------------------------------------------------------


def _checked(where: str, values: dict[str, Any]) -> Row | str:
    """The row, or what is wrong with it."""
    try:
        present = {name: _json_value(name, value) for name, value in values.items() if not _absent(value)}
        return Row(
            where=where,
            target=_target(present),
            id=_id(present.get("id")),
            interval=_interval(present.get("start"), present.get("end")),
            frame_rate=_frame_rate(present.get("fps")),
            split=_text("split", present.get("split")),
            sha256=_text("sha256", present.get("sha256")),
            extra={
                name: _without_credentials(value) for name, value in present.items() if name not in COLUMNS
            },
        )
    except ValueError as err:
        return f"{where}: {err}"


def _absent(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value)) or value == ""


def _json_value(name: str, value: Any) -> Any:
    """A value as JSON has it: times as ISO 8601, decimals as text, NaN as null."""
    match value:
        case float() if not math.isfinite(value):
            if math.isnan(value):
                return None
            raise ValueError(f"{name}: {value} is no JSON value")
        case None | bool() | int() | float() | str():
            return value
        case datetime.date() | datetime.time():
            return value.isoformat()
        case decimal.Decimal():
            return str(value)
        case dict():
            return {str(key): _json_value(name, item) for key, item in value.items()}
        case list() | tuple():
            return [_json_value(name, item) for item in value]
    raise ValueError(f"{name}: a {type(value).__name__} is no JSON value")


def _without_credentials(value: Any) -> Any:
    """A further column as the metadata may hold it."""
    match value:
        case str():
            return without_credentials(value)
        case dict():
            return {name: _without_credentials(item) for name, item in value.items()}
        case list():
            return [_without_credentials(item) for item in value]
    return value


def _target(values: dict[str, Any]) -> str:
    given = {name: values[name] for name in ("url", "path") if name in values}
    if len(given) != 1:
        raise ValueError("it gives both url and path" if given else "it gives neither url nor path")
    ((name, value),) = given.items()
    if not isinstance(value, str):
        raise ValueError(f"{name}: must be text, got {value!r}")
    if name == "url" or is_remote(value):
        parts = urlsplit(value)
        if parts.scheme.lower() not in URL_SCHEMES or not parts.netloc:
            raise ValueError(f"{name}: an address begins with one of {', '.join(URL_SCHEMES)}, got {value!r}")
    return value


def _id(value: Any) -> str | None:
    if value is None:
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # as pandas writes whole numbers beside empty cells
    if isinstance(value, bool | float | list | dict):
        raise ValueError(f"id: must be text or a whole number, got {value!r}")
    if (problem := id_problem(str(value))) is not None:
        raise ValueError(f"id: {problem}")
    return str(value)


def _interval(start: Any, end: Any) -> Interval | None:
    if start is None and end is None:
        return None
    if start is None or end is None:
        given, value = ("start", start) if end is None else ("end", end)
        raise ValueError(f"{given}: {value!r} is there without {'end' if given == 'start' else 'start'}")
    try:
        found = IntervalConfig(start=start, stop=end)
    except ValidationError as err:
        raise ValueError(f"start {start!r}, end {end!r}: {_message(err)}") from err
    return Interval(found.start, found.stop)


def _frame_rate(value: Any) -> str | None:
    if value is None:
        return None
    try:
        rate = _FRAME_RATE.validate_python(value)
    except ValidationError as err:
        raise ValueError(f"fps: {_message(err)} (got {value!r})") from err
    if not isinstance(rate, Fraction):
        raise ValueError(
            f"fps: must be a number of frames per second, got {value!r}; leave it out for native"
        )
    return str(rate)


def _text(name: str, value: Any) -> str | None:
    if value is None:
        return None
    try:
        found: str = _TEXT_TYPES[name].validate_python(value)
    except ValidationError as err:
        raise ValueError(f"{name}: {_message(err)} (got {value!r})") from err
    return found


def _message(err: ValidationError) -> str:
    return err.errors()[0]["msg"].removeprefix("Value error, ")


# ---- one video --------------------------------------------------------------------------------------


def _sources_of(rows: list[Row], config: TableSource, card: Card, place: Place) -> list[Source]:
    """The Source of a video's rows; several equal ones where it is listed whole more than once.

    Raises:
      ValueError: its rows contradict each other, or its path is in a downloaded list.
    """
    first = rows[0]
    whole = [row for row in rows if row.interval is None]
    if whole and len(whole) < len(rows):
        other = next(row for row in rows if row.interval is not None)
        raise ValueError(
            f"{whole[0].where}: start: absent, but {other.where} gives an interval of the same video"
        )
    extra, own = _shared_extra(rows)
    if whole and any(row.extra != first.extra for row in rows):
        other = next(row for row in rows if row.extra != first.extra)
        raise ValueError(f"{other.where}: it lists the same whole video as {first.where}, with other columns")
    origin, video_id, media = _located(first, _agreed(rows, "sha256"), config, place)
    source = Source(
        video_id=first.id if first.id is not None else video_id,
        origin=origin,
        media=media,
        licence=card.licence,
        attribution=card.attribution,
        split=config.split or _agreed(rows, "split"),
        intervals=None if whole else tuple(row.interval for row in rows if row.interval is not None),
        frame_rate=_agreed(rows, "frame_rate"),
        extra=ids.canonical_json(extra),
        interval_extras=() if whole or not any(own) else tuple(map(ids.canonical_json, own)),
    )
    return [source] * max(1, len(whole))


def _agreed(rows: list[Row], name: str) -> str | None:
    """The one value that rows of a video give for a column, if any. Raises: ValueError, where they differ."""
    given = [row for row in rows if getattr(row, name) is not None]
    for row in given[1:]:
        a, b = getattr(given[0], name), getattr(row, name)
        if a != b:
            column = "fps" if name == "frame_rate" else name
            raise ValueError(
                f"{row.where}: {column}: {b!r}, but {given[0].where} says {a!r} of the same video"
            )
    return getattr(given[0], name) if given else None


def _shared_extra(rows: list[Row]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Further columns in which all rows of a video agree, and for each row the others."""
    first = rows[0].extra
    shared = {
        name: value
        for name, value in first.items()
        if all(name in row.extra and row.extra[name] == value for row in rows)
    }
    own = [{name: value for name, value in row.extra.items() if name not in shared} for row in rows]
    return shared, own


def _located(row: Row, sha256: str | None, config: TableSource, place: Place) -> tuple[str, str, Address]:
    """Origin, id and address of a row's video."""
    if is_remote(row.target):
        return url_origin(row.target), url_id(row.target), Address(row.target, sha256)
    if is_remote(config.list):
        raise ValueError(
            f"{row.where}: path: {row.target!r} is no address, which a downloaded list must give"
        )
    path = Path(os.path.normpath(place.path(config.list).parent / row.target))
    name = place.name(path)
    return name, ids.video_id(["files", name]), Address(str(path.absolute()), sha256)
