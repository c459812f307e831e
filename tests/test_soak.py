"""Hundreds of videos from a server that fails a tenth of the requests: nothing is lost, and nothing grows."""

from __future__ import annotations

import os
import random
import statistics
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from lvg_data.verify import verify_dataset
from tests.builds import Dataset
from tests.faults import Command, commands, count_runs, write_card
from tests.servers import Answer, http_server, send
from tests.videos import RECIPES, write_video

NUM_VIDEOS = int(os.environ.get("LVG_SOAK_VIDEOS", 500))
NUM_FILES = 10
"""Different films; each video has bytes of its own, by a comment behind the film."""
LIMITS_S = 3600


@dataclass(frozen=True)
class Reading:
    """What a build uses at one moment."""

    at_s: float
    rss_bytes: int
    open_files: int
    processes: int


def read_now(build: Command, began_s: float) -> Reading | None:
    folder = Path(f"/proc/{build.pid}")
    try:
        pages = int((folder / "statm").read_text().split()[1])
        files = len(list((folder / "fd").iterdir()))
    except OSError:
        return None
    return Reading(
        time.monotonic() - began_s, pages * os.sysconf("SC_PAGE_SIZE"), files, len(build.children())
    )


class FailingTenth:
    """Answers; every tenth request of all, by a seeded draw, is refused, reset, cut off or lied to."""

    def __init__(self) -> None:
        self.draws, self.requests, self.failures = random.Random(1), 0, 0

    def answer(self, body: bytes) -> Answer:
        def act(handler: BaseHTTPRequestHandler, _: int) -> None:
            self.requests += 1
            if self.draws.random() >= 0.1:
                send(handler, 200, body)
                return
            self.failures += 1
            kind = self.draws.choice(["busy", "broken", "reset", "cut off", "lies"])
            if kind == "reset":
                handler.connection.close()
            elif kind == "cut off":
                send(handler, 200, body[: len(body) // 2], Content_Length=str(len(body)))
            elif kind == "lies":
                send(handler, 200, body, Content_Length=str(len(body) + 1000))
            else:
                send(handler, {"busy": 429, "broken": 500}[kind], b"no")

        return act


def with_comment(film: bytes, number: int) -> bytes:
    """The film with a box that every reader of MP4 skips."""
    text = f"video {number:06d}".encode()
    return film + (8 + len(text)).to_bytes(4, "big") + b"free" + text


def make_films(folder: Path) -> list[bytes]:
    folder.mkdir()
    size = {"width": 64, "height": 64}
    paths = [folder / f"{n}.mp4" for n in range(NUM_FILES)]
    for number, path in enumerate(paths):
        write_video(path, RECIPES["h264_no_bframes"], 30, first_number=40 * number, **size)
    return [path.read_bytes() for path in paths]


def thirds(readings: list[Reading], until_s: float) -> tuple[list[Reading], list[Reading]]:
    """The second and the last third of the time in which videos were worked on."""
    second = [r for r in readings if until_s / 3 <= r.at_s < until_s * 2 / 3]
    return second, [r for r in readings if until_s * 2 / 3 <= r.at_s <= until_s]


def table(readings: list[Reading], num: int = 12) -> str:
    chosen = readings[:: max(1, len(readings) // num)]
    lines = [
        f"{r.at_s:7.1f} s {r.rss_bytes / 2**20:7.1f} MiB {r.open_files:5d} files {r.processes:4d} processes"
        for r in chosen
    ]
    return "\n".join(lines)


@pytest.mark.slow
def test_hundreds_of_videos_from_a_failing_server_leave_nothing_behind(tmp_path):
    """Prints what it saw: `pytest -s`."""
    films, tenth = make_films(tmp_path / "films"), FailingTenth()
    readings: list[Reading] = []
    with http_server() as server, commands(tmp_path) as run:
        names = [f"/{n:04d}.mp4" for n in range(NUM_VIDEOS)]
        for number, name in enumerate(names):
            server.answers[name] = tenth.answer(with_comment(films[number % NUM_FILES], number))
        items = [{"url": server.url(name), "id": name[1:5]} for name in names]
        limits = {"free_bytes": 0, "requests_per_s": 1000, "fetch_attempts": 6, "host_failures": 100}
        card = write_card(
            tmp_path / "card.yaml", sources=[{"kind": "urls", "items": items}], limits=limits,
            shards={"target_bytes": 2_000_000},
        )  # fmt: skip
        out, began_s = tmp_path / "out", time.monotonic()
        build = run.start("build", card, "--allow-private-addresses", "--out", out)
        while not build.ends_within(0.5):
            assert time.monotonic() - began_s < LIMITS_S
            if count_runs(out) and (reading := read_now(build, began_s)):
                readings.append(reading)
        took_s = time.monotonic() - began_s
        assert build.wait() == 0, build.said
    built = Dataset(out)
    print(
        f"\n{NUM_VIDEOS} videos in {took_s:.0f} s; {tenth.requests} requests, {tenth.failures} of them failed"
    )
    print(table(readings))
    print(f"videos {len(built.rows('videos'))}, rejects {built.rows('rejects')}")
    assert tenth.failures > NUM_VIDEOS / 20
    assert len(built.rows("videos")) == NUM_VIDEOS and built.rows("rejects") == []
    assert verify_dataset(str(out)) == []
    check_flat(readings, took_s)


def check_flat(readings: list[Reading], took_s: float) -> None:
    """The last third against the second: memory within a tenth, files and processes within a few."""
    second, last = thirds(readings, took_s)
    for name, share, more in (("rss_bytes", 1.10, 8 << 20), ("open_files", 1.0, 8), ("processes", 1.0, 3)):
        before, after = (statistics.median(getattr(r, name) for r in part) for part in (second, last))
        assert after <= before * share + more, f"{name} grows: {before} to {after}\n{table(readings)}"
