"""A finished dataset as it lies on disk: its description, its tables, where its shards are.

Reading needs no decoder and nothing else of what builds one: `dataset` puts a dataset in place.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from lvg_data import ids, schema, store
from lvg_data.errors import DatasetError
from lvg_data.records import TABLES, Clip, Part, Reject, Scene, Shard, Video

FORMAT = "lvg-dataset"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class Tables:
    """Every row of a dataset, each table in its fixed order."""

    videos: Sequence[Video]
    scenes: Sequence[Scene]
    clips: Sequence[Clip]
    parts: Collection[Part]
    shards: Sequence[Shard]
    rejects: Sequence[Reject]

    def by_file(self) -> dict[str, tuple[type[schema.TableRow], Collection[Any]]]:
        return {
            name: (row_type, getattr(self, row_type.TABLE)) for name, row_type in schema.table_files().items()
        }


def shard_path(card_or_sizes: dict[str, Any], shard: Shard) -> str:
    """Where a shard lies below the dataset's folder."""
    size = card_or_sizes[shard.role]
    return f"{ids.resolution_folder(shard.role, size['height'], size['width'])}/{shard.name}"


def count_rows(num_sources: int, tables: Tables) -> dict[str, Any]:
    """The `counts` of dataset.json."""
    frames = {role: sum(s.num_frames for s in tables.shards if s.role == role) for role in ("low", "high")}
    return {
        "sources": num_sources,
        "videos": len(tables.videos),
        "scenes": len(tables.scenes),
        "clips": len(tables.clips),
        "clip_frames": sum(c.num_frames for c in tables.clips),
        "clips_by_role": {"low": sum(c.in_low for c in tables.clips), "high": sum(c.in_high for c in tables.clips)},
        "clips_with_poses": sum(c.has_poses for c in tables.clips),
        "parts": len(tables.parts),
        "shards": len(tables.shards),
        "shard_frames": frames,
        "shard_bytes": {r: sum(s.size_bytes for s in tables.shards if s.role == r) for r in frames},
        "rejects": len(tables.rejects),
        "rejects_by_cause": dict(sorted(Counter(r.cause for r in tables.rejects).items())),
        "source_rejects_by_cause": dict(
            sorted(Counter(r.cause for r in tables.rejects if r.level == "source").items())
        ),
        "rejects_by_level": dict(sorted(Counter(r.level for r in tables.rejects).items())),
    }  # fmt: skip


def read_description(dataset: str) -> dict[str, Any]:
    """The content of dataset.json.

    Raises:
      DatasetError: there is none, so that the dataset is not complete, or it is of another format.
    """
    url = f"{dataset.rstrip('/')}/dataset.json"
    try:
        description = json.loads(store.read_bytes(url))
    except FileNotFoundError as err:
        there = "does not exist" if store.is_local(url) else "does not exist or cannot be reached"
        raise DatasetError(f"{url} {there}: no dataset, or one whose build has not finished") from err
    except NotADirectoryError as err:
        raise DatasetError(f"{dataset} is a file; name the folder of the dataset") from err
    except ValueError as err:
        raise DatasetError(f"{url} is not JSON ({err}); build the dataset again") from err
    except Exception as err:
        if store.is_local(url):
            raise
        raise DatasetError(f"{url} cannot be read: {type(err).__name__}: {err}") from err
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        raise DatasetError(f"{url} does not describe a dataset of this program")
    if description.get("format_version") != FORMAT_VERSION:
        raise DatasetError(
            f"{url} has format version {description.get('format_version')}; this lvg reads {FORMAT_VERSION}"
        )
    return description


def read_tables(dataset: str) -> Tables:
    """Every table of a dataset; raises DatasetError where one is missing or damaged."""
    return Tables(**{row_type.TABLE: read_table(dataset, row_type) for row_type in TABLES})


def check_fingerprint(dataset: str, description: dict[str, Any]) -> None:
    """Raises DatasetError where the content of dataset.json is not what its fingerprint was made of."""
    found = ids.canonical_hash({name: value for name, value in description.items() if name != "fingerprint"})
    if found != description.get("fingerprint"):
        raise DatasetError(
            f"{dataset}/dataset.json was changed: its content has the fingerprint {found}, it says "
            f"{description.get('fingerprint')}; copy it again, or build the dataset again"
        )


def read_table(dataset: str, row_type: type[Any], description: dict[str, Any] | None = None) -> list[Any]:
    """One table of a dataset, as its rows.

    Raises:
      DatasetError: it is missing, damaged, or, with `description`, not the one that dataset.json names.
    """
    return schema.decode_table(row_type, *_table_bytes(dataset, row_type, description))


def read_part_columns(dataset: str, description: dict[str, Any] | None = None) -> schema.PartColumns:
    """The parts table of a dataset by columns; raises DatasetError as `read_table` does."""
    return schema.decode_part_columns(*_table_bytes(dataset, Part, description))


def _table_bytes(
    dataset: str, row_type: type[schema.TableRow], description: dict[str, Any] | None
) -> tuple[bytes, str]:
    """The content of a table's file, and its address."""
    name = f"tables/{row_type.TABLE}.parquet"
    url = f"{dataset.rstrip('/')}/{name}"
    try:
        data = store.read_bytes(url)
    except FileNotFoundError as err:
        raise DatasetError(f"{url} is missing; build the dataset again") from err
    if description is not None:
        _check_sha256(url, data, _promised_sha256(description, name))
    return data, url


def _promised_sha256(description: dict[str, Any], name: str) -> str | None:
    try:
        return str(description["tables"][name]["sha256"])
    except (KeyError, TypeError):
        return None


def _check_sha256(url: str, data: bytes, promised: str | None) -> None:
    found = hashlib.sha256(data).hexdigest()
    if found != promised:
        raise DatasetError(
            f"{url} has sha256 {found}, dataset.json says {promised}; copy both again, or build the dataset again"
        )


def read_rejects(dataset: str) -> list[Reject]:
    """The rejects table; raises DatasetError where the dataset is not complete."""
    read_description(dataset)
    return read_table(dataset, Reject)
