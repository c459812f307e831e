"""How far a build is: read from the run's journal, shown as a bar on a terminal or as plain lines."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from lvg_data.journal import JournalTail

_PLAIN_EVERY_S = 5.0


@dataclass
class Tally:
    """Running sums over the events of a build."""

    num_sources: int
    started: float = field(default_factory=time.monotonic)
    done: int = 0
    rejected: int = 0
    clips: int = 0
    frames_planned: int = 0
    frames: int = 0
    planned: int = 0
    shards: int = 0
    first_frame: float | None = None

    def add(self, event: dict[str, Any]) -> None:
        """Takes in one event; kinds that do not count are passed over."""
        match event["event"]:
            case "planned":
                self.planned += 1
                self.frames_planned += event["num_frames"]
            case "rendered":
                self.first_frame = self.first_frame or time.monotonic()
                self.frames += event["num_frames"]
            case "cut":
                self.done += 1
                self.clips += event["num_clips"]
                self.rejected += event["num_rejects"]
            case "reject" if event["level"] == "source":
                self.done += 1
                self.rejected += 1
            case "shard":
                self.shards += 1

    @property
    def frames_per_s(self) -> float:
        if self.first_frame is None:
            return 0.0
        return self.frames / max(time.monotonic() - self.started, 1e-9)

    @property
    def left(self) -> str:
        """Time left for rendering, by the rate so far; unknown until every video is planned."""
        if not self.frames or not self.frames_planned:
            return "?"
        seconds = (self.frames_planned - self.frames) / self.frames_per_s
        return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"

    def line(self) -> str:
        return (
            f"videos {self.done}/{self.num_sources}  clips {self.clips}  frames {self.frames:,}/"
            f"{self.frames_planned:,}  {self.frames_per_s:.0f} frames/s  rejects {self.rejected}  "
            f"shards {self.shards}  left {self.left}"
        )

    def table(self) -> Table:
        table = Table(box=None, pad_edge=False)
        for name in ("videos", "clips", "frames", "frames/s", "rejects", "shards", "left"):
            table.add_column(name, justify="right", style="bold" if name == "videos" else "")
        table.add_row(
            f"{self.done}/{self.num_sources}", f"{self.clips}", f"{self.frames:,}/{self.frames_planned:,}",
            f"{self.frames_per_s:.0f}", f"{self.rejected}", f"{self.shards}", self.left,
        )  # fmt: skip
        return table


@contextmanager
def progress_display(journal: Path, num_sources: int, console: Console) -> Iterator[Tally]:
    """Shows the events that reach `journal` until the block ends."""
    tally, tail, ended = Tally(num_sources), JournalTail(journal), threading.Event()
    show = _live if console.is_terminal else _plain

    def read() -> None:
        for event in tail:
            tally.add(event)

    thread = threading.Thread(target=show, args=(tally, read, ended, console), daemon=True)
    thread.start()
    try:
        yield tally
    finally:
        ended.set()
        thread.join()


def _live(tally: Tally, read: Any, ended: threading.Event, console: Console) -> None:
    with Live(tally.table(), console=console, refresh_per_second=4, transient=True) as live:
        while not ended.wait(0.25):
            read()
            live.update(tally.table())
        read()


def _plain(tally: Tally, read: Any, ended: threading.Event, console: Console) -> None:
    while not ended.wait(_PLAIN_EVERY_S):
        read()
        console.print(tally.line(), highlight=False, soft_wrap=True)
    read()
