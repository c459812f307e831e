"""Builds inside the test's own process, and their results read as any user would read them.

dataset = build_dataset(small_card(frame_rate=15), folder, tmp_path / "out")
dataset.rows("clips")                      # plain dicts, by pyarrow
dataset.members(part)["times.npy"]         # bytes, by the offsets in the parts table
"""

import fcntl
import io
import json
import os
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from lvg_data import journal as journals
from lvg_data.config import Card
from lvg_data.fetch.desk import Desk
from lvg_data.records import Source
from lvg_data.sources import list_sources
from lvg_data.sources.place import Place
from lvg_data.steps import Workshop
from lvg_data.store import Store
from pipelines.build import run_build
from pipelines.outcome import GateHandle
from pipelines.transforms import Bench

BEAM_OPTIONS = ("--runner=DirectRunner", "--prism_location=/none")

KEEP_EVERYTHING = {
    "max_black_share": 1.0,
    "max_frozen_share": 1.0,
    "max_bar_share": 1.0,
    "max_overlay_share": 1.0,
}
"""Trim policies that drop nothing: painted panels look like an overlay."""


def small_card(path: str = "*.*", **changes: Any) -> dict[str, Any]:
    """Card for the videos that `path` matches: clips of 4 frames and more, in many short parts.

    Fields of `changes` that are mappings are merged into the card's.
    """
    card: dict[str, Any] = {
        "name": "test",
        "licence": "CC0-1.0",
        "attribution": "made in the test",
        "sources": [{"kind": "files", "path": path}],
        "low": {"min_frames": 4, "window_frames": 8, "part_frames": 16},
        "high": {"min_frames": 4, "window_frames": 4, "part_frames": 10},
        "trim": dict(KEEP_EVERYTHING),
        "execution": {"workers": 2},
    }
    for name, value in changes.items():
        card[name] = {**card.get(name, {}), **value} if isinstance(value, dict) else value
    return card


@dataclass(frozen=True)
class Dataset:
    """A built dataset on disk, read without `lvg_data`."""

    root: Path

    @property
    def description(self) -> dict[str, Any]:
        return json.loads((self.root / "dataset.json").read_text())

    def rows(self, table: str) -> list[dict[str, Any]]:
        return pq.read_table(self.root / "tables" / f"{table}.parquet").to_pylist()

    def shard_path(self, role: str, shard: str) -> Path:
        (folder,) = self.root.glob(f"{role}-*")
        return folder / shard

    def members(self, part: dict[str, Any]) -> dict[str, bytes]:
        """Files of a part by the name after its key, by random access."""
        found = {}
        with open(self.shard_path(part["role"], part["shard"]), "rb") as file:
            for member in part["members"]:
                file.seek(member["offset_bytes"])
                found[member["name"]] = file.read(member["size_bytes"])
        return found


def load_npy(data: bytes) -> np.ndarray:
    return np.load(io.BytesIO(data), allow_pickle=False)


def sources_of(card: Card, folder: Path, store: Path | None = None) -> list[Source]:
    """The rows of a card whose paths are relative to `folder`; `store` keeps what is read out of lists."""
    lists = Store(str(store or folder.with_name(f"{folder.name}.lists")))
    desk = Desk.of(card, lists, private_addresses=True)
    return list_sources(card, Place(folder, desk))


def build_dataset(
    card: dict[str, Any],
    folder: Path,
    out: Path,
    *,
    store: Path | None = None,
    beam_options: Iterable[str] = (),
) -> Dataset:
    """Runs the whole pipeline to its end, as `lvg-data build` does.

    Args:
      card: fields of a dataset card; paths in its sources are relative to `folder`.
      store: where intermediate results are kept, `out`/.work by default.
      beam_options: further ones; a later --runner wins.
    """
    loaded = Card.model_validate(card)
    sources = sources_of(loaded, folder)
    journal = journals.new_run(f"{out}/runs")
    shop = Workshop(loaded, Store(str(store or out / ".work")), journal, private_addresses=True)
    bench = Bench(shop, GateHandle(loaded.execution.workers), GateHandle(4))
    run_build(sources, bench, str(out), PipelineOptions([*BEAM_OPTIONS, *beam_options]))
    return Dataset(out)


def make_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], Any]) -> Path:
    """Folder that `make` filled, made once a test run: the processes of `pytest -n` share it."""
    base = factory.getbasetemp()
    root = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder, done = root / name, root / f"{name}.done"
    with open(root / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)  # left by an attempt that failed
            folder.mkdir()
            make(folder)
            done.touch()
    return folder
