"""What becomes of a card or list, for a child process: imports little, so that a child is there in milliseconds."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lvg_data.config import Card, load_card
from lvg_data.errors import CardError
from lvg_data.fetch import Desk
from lvg_data.sources import list_sources
from lvg_data.sources.place import Place
from lvg_data.store import Store


def timed(function: Callable[[str], str], path: str) -> tuple[str, float]:
    began = time.monotonic()
    try:
        said = function(path)
    except CardError as err:
        said = f"refused: {err}"
    return said, time.monotonic() - began


def load(path: str) -> str:
    return f"taken: {load_card(Path(path)).name}"


def list_table(path: str) -> str:
    return listed(path, {"kind": "table", "list": Path(path).name})


def list_clips(path: str) -> str:
    return listed(path, {"kind": "clip_list", "list": Path(path).name})


def list_trajectories(path: str) -> str:
    return listed(path, {"kind": "trajectories", "list": Path(path).name})


def listed(path: str, source: dict[str, Any]) -> str:
    folder = Path(path).parent
    card = Card.model_validate({"name": "t", "licence": "x", "attribution": "x", "sources": [source]})
    rows = list_sources(card, Place(folder, Desk.of(card, Store(str(folder / "store")))))
    return f"taken: {len(rows)} rows"
