"""A dataset put in place: in one order, and recognised as complete; `finished` reads it back.

shards, tables, README.md        put in place first
dataset.json                     written last; removed first when anything is about to change

An output is held by one build at a time: `.lock` has the name of its run, see `hold`.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.metadata
import json
import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from lvg_data import ids, lease, pictures, prepared, schema, spans, store
from lvg_data.config import Card, recipe
from lvg_data.dataset_readme import dataset_readme
from lvg_data.errors import CAUSES, DatasetError, Rejected
from lvg_data.finished import (
    FORMAT,
    FORMAT_VERSION,
    Tables,
    count_rows,
    read_description,
    read_table,
    shard_path,
)
from lvg_data.records import (
    CutVideo,
    FrameFolder,
    Part,
    Reject,
    Shard,
    Source,
    WrittenShard,
)
from lvg_data.shard import TAR_NAME, read_part_rows, track_inputs

#: libraries whose versions are written down; those that make bytes are part of the artefact keys too
_NOTED_LIBRARIES = ("av", "numpy", "pillow", "pyarrow", "scenedetect", "simplejpeg")


@dataclass(frozen=True)
class StoredParts(Collection[Part]):
    """Rows of the parts table that are read shard by shard: with a member a frame they are the large one."""

    written: Sequence[WrittenShard]

    def __iter__(self) -> Iterator[Part]:
        return (part for w in self.written for part in read_part_rows(w))

    def __len__(self) -> int:
        return sum(w.shard.num_parts for w in self.written)

    def __contains__(self, part: object) -> bool:
        return any(part == row for row in self)


def collect_tables(
    cut: Iterable[CutVideo], written: Iterable[WrittenShard], rejects: Iterable[Reject]
) -> Tables:
    """All rows, sorted so that neither the runner nor the order of work shows."""
    cut = sorted(cut, key=lambda c: c.rendered.probed.video.video_id)
    written = sorted(written, key=lambda w: (w.shard.role, w.shard.name))
    all_rejects = [*rejects, *(r for c in cut for r in c.rejects)]
    return Tables(
        videos=[c.rendered.probed.video for c in cut],
        scenes=[s for c in cut for s in sorted(c.scenes, key=lambda s: (s.start_frame, s.stop_frame))],
        clips=[k for c in cut for k in sorted(c.clips, key=lambda k: (k.start_frame, k.stop_frame))],
        parts=StoredParts(written),
        shards=[w.shard for w in written],
        rejects=sorted(all_rejects, key=lambda r: (r.level, r.video_id, r.start_frame or 0, r.subject)),
    )


def publish(
    out: str, card: Card, num_sources: int, tables: Tables, written: Iterable[WrittenShard]
) -> dict[str, Any]:
    """Puts a finished dataset in place; `dataset.json` last.

    Returns:
      The content of dataset.json.

    Raises:
      DatasetError: what was put in place is no longer there as it was: another hand was in the folder.
    """
    sizes = recipe(card)
    encoded = {name: schema.encode_table(*typed) for name, typed in tables.by_file().items()}
    description = describe(card, num_sources, tables, encoded)
    text = json.dumps(description, indent=2, sort_keys=True).encode() + b"\n"
    target = f"{out}/dataset.json"
    if store.exists(target) and store.read_bytes(target) == text and _is_in_place(out, description):
        return description
    store.remove(target)
    wanted = {shard_path(sizes, w.shard): f"{w.address}/{TAR_NAME}" for w in written}
    _clear_temporary(out)
    _publish_shards(out, wanted)
    for name, data in encoded.items():
        store.write_atomic(f"{out}/{name}", data)
    store.write_atomic(f"{out}/README.md", dataset_readme(description).encode())
    store.write_atomic(target, text)
    if not _is_in_place(out, description):
        store.remove(target)
        raise DatasetError(
            f"{out} was changed or removed while the dataset was put in place; run the same command again"
        )
    return description


def _clear_temporary(out: str) -> None:
    """Removes what a build that was killed while it published left beside the files of a local dataset."""
    for folder in (out, f"{out}/tables", *_shard_folders(out)):
        store.clear_temporary(folder)


def _shard_folders(out: str) -> list[str]:
    return [f"{out}/{name}" for name in store.names_in(out) if name.split("-")[0] in ("low", "high")]


def shards_below(out: str) -> dict[str, int]:
    """Size of every tar where shards lie, by its path below the dataset's folder."""
    return {
        f"{folder.rsplit('/', 1)[-1]}/{name}": size
        for folder in _shard_folders(out)
        for name, size in store.files_in(folder).items()
        if name.endswith(".tar")
    }


def _publish_shards(out: str, wanted: dict[str, str]) -> None:
    """Puts every shard under its name and removes those of an earlier build that are no longer part."""

    def put(item: tuple[str, str]) -> None:
        name, address = item
        if not store.same_file(f"{out}/{name}", address):
            store.publish(address, f"{out}/{name}")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(put, wanted.items()))
    for name in shards_below(out).keys() - wanted.keys():
        store.remove(f"{out}/{name}")


def _is_in_place(out: str, description: dict[str, Any]) -> bool:
    """Whether every table has the promised content, and every shard is there with its size."""
    try:
        for name, promised in description["tables"].items():
            if hashlib.sha256(store.read_bytes(f"{out}/{name}")).hexdigest() != promised["sha256"]:
                return False
        shards = read_table(out, Shard)
    except (FileNotFoundError, DatasetError):
        return False
    found = shards_below(out)
    return all(found.get(shard_path(description["recipe"], s)) == s.size_bytes for s in shards)


def describe(card: Card, num_sources: int, tables: Tables, encoded: dict[str, bytes]) -> dict[str, Any]:
    """The content of dataset.json: what the dataset is, holds and was made with."""
    table_hashes = {
        name: {"rows": len(rows), "sha256": hashlib.sha256(encoded[name]).hexdigest()}
        for name, (_, rows) in tables.by_file().items()
    }
    versions = {name: importlib.metadata.version(name) for name in _NOTED_LIBRARIES}
    description = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "name": card.name,
        "title": card.title,
        "licence": card.licence,
        "attribution": card.attribution,
        "recipe": recipe(card),
        "counts": count_rows(num_sources, tables),
        "tables": table_hashes,
        "versions": versions | {"libraries": list(spans.library_versions())},
    }
    return description | {"fingerprint": ids.canonical_hash(description)}


# ---- done or not ----------------------------------------------------------------------------------


def request_hash(card: Card, sources: Sequence[Source]) -> str:
    """What a build was asked for: recipe, limits, rows, and for local files how they look from outside."""
    rows = [[ids.canonical_hash(repr(_without_store(source))), *_outside(source)] for source in sources]
    limits = card.limits.model_dump()
    return ids.canonical_hash(
        [recipe(card), limits, rows, spans.library_versions(), importlib.metadata.version("lvg")]
    )


def _without_store(source: Source) -> Source:
    """The row as it is wherever the store of its camera tracks lies."""
    return replace(source, tracks=tuple(track_inputs(source.tracks)))


def _outside(source: Source) -> list[Any]:
    media = source.media
    try:
        if isinstance(media, FrameFolder):
            return pictures.fingerprint(media.path)
        if isinstance(media, tuple):
            return prepared.fingerprint(media)
    except Rejected as err:
        return [err.cause]
    if not store.is_local(media.url):
        return []
    try:
        stat = store.local_path(media.url).stat()
    except OSError:
        return ["missing"]
    return [stat.st_size, stat.st_mtime_ns]


@dataclass(frozen=True)
class Asked:
    """How a build was called: a card by path or bundled name, and what changed it. Never the card's content,
    which may hold secrets; nor values of `--set` that are addresses, for the same reason: then `overrides` is None.
    """

    card: str
    folder: str
    variant: str | None
    overrides: tuple[str, ...] | None

    @classmethod
    def of(cls, card: str, folder: Path, variant: str | None, overrides: Sequence[str]) -> Asked:
        kept = None if any("://" in text for text in overrides) else tuple(overrides)
        return cls(card, str(folder), variant, kept)


def _built_url(out: str, store_root: str) -> str:
    """Where a store notes what led to the dataset `out`: a store may serve several."""
    own = store_root == f"{out}/.work"
    return f"{store_root}/built.json" if own else f"{store_root}/built/{ids.canonical_hash(out)[:16]}.json"


def remember_request(
    out: str, store_root: str, request: str, asked: Asked, description: dict[str, Any]
) -> None:
    """Notes in the store that `request` led to this dataset."""
    done = {"request": request, "fingerprint": description["fingerprint"], "asked": asdict(asked)}
    store.write_atomic(_built_url(out, store_root), json.dumps(done).encode())


def recall_request(out: str, store_root: str) -> Asked:
    """How the dataset `out` was last built.

    Raises:
      DatasetError: no build of it with this store has come to its end, or what it was given is not kept.
    """
    url = _built_url(out, store_root)
    try:
        asked = json.loads(store.read_bytes(url))["asked"]
    except FileNotFoundError as err:
        text = f"{store_root} knows of no finished build of {out}; name the --store that it was built with"
        raise DatasetError(f"{text}, or run lvg-data build") from err
    except (ValueError, KeyError, TypeError) as err:
        raise DatasetError(f"{url} is damaged; run lvg-data build with the card of {out}") from err
    if asked["overrides"] is None:
        raise DatasetError(
            f"{out} was built with an address in --set, which is not kept; write it into the card"
        )
    return Asked(**asked | {"overrides": tuple(asked["overrides"])})


def forget_request(out: str, store_root: str) -> None:
    """Makes the next build look at everything again."""
    url = _built_url(out, store_root)
    done = json.loads(store.read_bytes(url))
    store.write_atomic(url, json.dumps(done | {"request": ""}).encode())


def find_complete(out: str, store_root: str, request: str) -> dict[str, Any] | None:
    """dataset.json of a dataset that answers `request` already and has all its shards, else None."""
    try:
        done = json.loads(store.read_bytes(_built_url(out, store_root)))
        description = read_description(out)
        if (done["request"], done["fingerprint"]) != (request, description["fingerprint"]):
            return None
    except (FileNotFoundError, DatasetError, ValueError, KeyError, TypeError):
        return None
    return description if _is_in_place(out, description) else None


def count_that_may_pass(description: dict[str, Any]) -> int:
    """Rejects of a dataset for a cause that may pass: of a network, or of the machine that built it."""
    return sum(
        number for cause, number in description["counts"]["rejects_by_cause"].items() if CAUSES[cause][1]
    )


# ---- one build at a time ---------------------------------------------------------------------------


@contextlib.contextmanager
def hold(out: str, run: str) -> Iterator[None]:
    """Holds an output for the build `run`: a local one by a lock of the system, a remote one by a `lease`.

    Raises:
      DatasetError: another build holds it.
    """
    if not store.is_local(out):
        with lease.lease(out, run):
            yield
        return
    store.local_path(out).mkdir(parents=True, exist_ok=True)
    with open(_lock_path(out), "a+", opener=_not_through_a_link) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DatasetError(
                f"another build is writing to {out}; wait for it, or choose another --out"
            ) from None
        file.truncate(0)
        file.write(run)
        file.flush()
        check_held(out, run)  # the name may have gone between opening and locking it
        yield


def _not_through_a_link(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


def _lock_path(out: str) -> Path:
    return store.local_path(out) / ".lock"


def check_held(out: str, run: str) -> None:
    """Raises DatasetError where `out` is no longer what the build `run` holds: removed, or made anew by another."""
    if not store.is_local(out):
        lease.check_leased(out, run)
    elif not _lock_path(out).exists() or _lock_path(out).read_text() != run:
        raise DatasetError(f"{out} was removed while it was being built; run the same command again")
