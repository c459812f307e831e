"""What it costs to decode and render in sealed children: the same spans in this process and in one child each.

python -m benchmarks.isolation [--footage DIR] [--quick]

CPU time of a child is all of it: its start, limits, namespace and end, the fork server's and this process's part.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

from lvg_data.child import ChildLimits, run_in_child, run_in_open_child

# One thread of arithmetic, as children have: it must be said before numpy is imported.
os.environ.update({"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"})

LIMITS = ChildLimits(600, 2 << 30)
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


def cpu_seconds() -> float:
    """CPU time up to now of this process, of the fork server, and of all its children that ended."""
    pid = forkserver._forkserver._forkserver_pid  # type: ignore[attr-defined]
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return time.process_time() + sum(map(int, fields[11:15])) * _TICK_S  # utime, stime, cutime, cstime


def cpu_of(work: Callable[[], Any]) -> float:
    start = cpu_seconds()
    work()
    time.sleep(0.05)  # until the fork server has collected the last child
    return cpu_seconds() - start


def empty_child(run: Callable[..., Any]) -> float:
    """CPU seconds of a child that does nothing."""
    return cpu_of(lambda: [run(os.getpid, (), LIMITS) for _ in range(40)]) / 40


def has_no_network() -> bool:
    """Whether sealed children are in a network namespace of their own here."""
    mine = "/proc/self/ns/net"
    return bool(run_in_child(os.readlink, (mine,), LIMITS) != os.readlink(mine))


def plan(video: Path, folder: Path) -> list[tuple[Any, ...]]:
    """Arguments of `spans.render_span` for each span of a video, of a card's usual length."""
    from lvg_data import journal, spans, steps
    from lvg_data.config import Card
    from lvg_data.sources import list_sources
    from lvg_data.sources.place import Place
    from lvg_data.store import Store

    fields = {"name": "isolation", "licence": "-", "attribution": "-"}
    card = Card.model_validate(fields | {"sources": [{"kind": "files", "path": str(video)}]})
    shop = steps.Workshop(card, Store(str(folder / "store")), journal.Journal(str(folder / "runs"), "run"))
    stop = threading.Event()
    (found,) = list_sources(card, Place(folder, shop.desk))
    probed = steps.probe_video(steps.fetch_source(found, shop, stop), shop, stop)
    packets = f"{probed.probe}/packets.npy"
    jobs = [spans.span_job(span, probed.video, card) for span in steps.plan_spans(probed, shop)]
    return [(str(video), packets, job, folder) for job in jobs]


def _shortened(job: tuple[Any, ...], num_frames: int) -> tuple[Any, ...]:
    """The same arguments for the first frames of a span."""
    path, packets, span_job, folder = job
    span = replace(span_job.span, stop=num_frames, wanted=((0, num_frames),))
    return path, packets, replace(span_job, span=span), folder


def measure(video: Path, max_frames: int | None, rounds: int) -> list[Any]:
    from benchmarks.table import Row, alternate, compared
    from lvg_data import spans

    with tempfile.TemporaryDirectory(prefix="lvg-benchmark-") as folder:
        jobs = plan(video, Path(folder))
        jobs = jobs if max_frames is None else [_shortened(jobs[0], max_frames)]
        num_frames = sum(job.span.stop - job.span.start for _, _, job, _ in jobs)
        seconds = alternate(
            {
                "here": lambda: cpu_of(lambda: [spans.render_span(*job) for job in jobs]),
                "sealed": lambda: cpu_of(
                    lambda: [run_in_child(spans.render_span, job, LIMITS) for job in jobs]
                ),
            },
            rounds,
        )
    here = Row("render in this process", num_frames / seconds["here"], "frames/CPU-s")
    sealed = compared("render in sealed children", num_frames / seconds["sealed"], "frames/CPU-s", here)
    empty = {"open": empty_child(run_in_open_child), "sealed": empty_child(run_in_child)}
    start = time.perf_counter()
    for _ in range(40):
        run_in_child(os.getpid, (), LIMITS)
    wall_s = (time.perf_counter() - start) / 40
    per_span_s = seconds["here"] / len(jobs)
    return [
        here,
        sealed,
        Row("frames a span", num_frames / len(jobs), "frames"),
        Row("an open child that does nothing", empty["open"] * 1000, "CPU-ms"),
        Row("a sealed child that does nothing", empty["sealed"] * 1000, "CPU-ms"),
        Row("the same, on the clock", wall_s * 1000, "ms"),
        Row("fixed cost of a child, of a span's work", 100 * empty["sealed"] / per_span_s, "%"),
        Row("children have no network", float(has_no_network()), "yes = 1"),
    ]


def main() -> None:
    from benchmarks.inputs import add_arguments, base_video
    from benchmarks.table import print_rows, with_load, write_rows

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_arguments(parser)
    args = parser.parse_args()
    run_in_child(os.getpid, (), LIMITS)  # the fork server is up, with all that it preloads
    video = base_video(args.cache, args.footage)
    rows = with_load(measure(video, 400 if args.quick else None, 7))
    write_rows("isolation", rows)
    print_rows("isolation", rows)


if __name__ == "__main__":
    main()
