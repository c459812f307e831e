"""A rehearsal at full size: do the published datasets plan in seconds, build correctly, and leave memory flat?

Cards of the real shape over generated stand-ins (see `standins`), each planned, built and verified at the given
scale and at a quarter of it. The pictures are tiny, so that what is measured is what the lists cost.

    plan       nothing is known of the lists yet; peak of the process itself
    build      peak "anon" memory (without pages of files) of the build itself and of its largest child
    verify     reads every byte; the benchmark ends where it finds a problem

A ratio is that of the full size to a quarter: of memory 1 is flat and 4 proportional. A build takes most of its
memory for what it imports; "above the smallest" is without what a build of two short videos takes.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks import inputs
from benchmarks.machine import LVG_DATA, Finished, Peaks, build, run_measured
from benchmarks.standins import ACID_ALL_POSES, BIKING, SETTINGS, SHAPES, Shape, write_standin
from benchmarks.table import Row, compared, print_rows, with_load, write_rows

_QUARTER = 0.25
_PARENT = "build, parent, anon"


@dataclass(frozen=True)
class Stage:
    """One command: what it took, its memory, and its `--json`."""

    took: Finished
    peaks: Peaks
    answer: dict[str, Any]

    def anon_mb(self, role: str) -> float:
        return self.peaks.bytes_of.get((role, "anon"), 0) / 1e6


def run_stage(command: list[str]) -> Stage:
    peaks = Peaks({})
    took = run_measured([*LVG_DATA, *command, "--json"], peaks)
    return Stage(took, peaks, json.loads(took.stdout))


def plan_stage(card: Path) -> Stage:
    """`lvg-data plan` where nothing is known of the card's lists yet."""
    cache = card.parent / "cache"
    shutil.rmtree(cache, ignore_errors=True)
    before = os.environ.get("XDG_CACHE_HOME")
    os.environ["XDG_CACHE_HOME"] = str(cache)
    try:
        return run_stage(["plan", str(card), *_settings()])
    finally:
        os.environ.pop("XDG_CACHE_HOME") if before is None else os.environ.update(XDG_CACHE_HOME=before)


def build_stage(card: Path, out: Path) -> Stage:
    shutil.rmtree(out, ignore_errors=True)
    peaks = Peaks({})
    took = build(card, out, *SETTINGS, peaks=peaks)
    return Stage(took, peaks, json.loads((out / "dataset.json").read_text(encoding="utf-8"))["counts"])


def _settings() -> list[str]:
    return [option for setting in SETTINGS for option in ("--set", setting)]


# ---- one shape at one scale -----------------------------------------------------------------------


def rehearse(shape: Shape, cache: Path) -> tuple[list[Row], list[Row]]:
    """Plans, builds and verifies the stand-in of a shape; its counts, and what that took."""
    folder = cache / "rehearsal" / shape.card
    shutil.rmtree(folder, ignore_errors=True)
    card, out = write_standin(shape, folder), folder / "dataset"
    plan = plan_stage(card)
    made = build_stage(card, out)
    verify = run_stage(["verify", str(out)])  # raises where it finds a problem
    shutil.rmtree(folder)
    return list(_count_rows(plan, made, verify)), list(_cost_rows(plan, made, verify))


def _count_rows(plan: Stage, made: Stage, verify: Stage) -> Iterator[Row]:
    counts = made.answer
    yield Row("rows", counts["sources"], "")
    yield Row("rows without a video", counts["rejects_by_level"].get("source", 0), "")
    yield Row("given intervals", plan.answer["sources"]["intervals"], "")
    yield Row("clips", counts["clips"], "")
    yield Row("frames", counts["clip_frames"], "")
    yield Row("shards", counts["shards"], "")
    yield Row("problems found by verify", len(verify.answer["problems"]), "")


def _cost_rows(plan: Stage, made: Stage, verify: Stage) -> Iterator[Row]:
    yield Row("plan", plan.took.wall_s, "s")
    yield Row("plan, anon", plan.anon_mb("parent"), "MB")
    yield Row("build", made.took.wall_s, "s")
    yield Row("build, CPU", made.took.cpu_s, "CPU-s")
    yield Row(_PARENT, made.anon_mb("parent"), "MB")
    yield Row("build, largest child, anon", made.anon_mb("child"), "MB")
    yield Row("build, all together, pss", made.peaks.total_pss / 1e6, "MB")
    yield Row("verify", verify.took.wall_s, "s")
    yield Row("verify, anon", verify.anon_mb("parent"), "MB")


def shape_rows(shape: Shape, scale: float, cache: Path, smallest_mb: float) -> list[Row]:
    """Counts of a shape, and its costs compared with those of a quarter of it."""
    _, quarter = rehearse(shape.scaled(scale * _QUARTER), cache)
    counts, whole = rehearse(shape.scaled(scale), cache)
    rows = [replace(row, case=f"{shape.card}: {row.case}") for row in counts]
    quarter, whole = (_with_growth(costs, smallest_mb) for costs in (quarter, whole))
    for before, after in zip(quarter, whole, strict=True):
        small = replace(before, case=f"{shape.card} 1/4: {before.case}")
        rows += [small, compared(f"{shape.card}: {after.case}", after.value, after.unit, small)]
    return rows


def _with_growth(costs: list[Row], smallest_mb: float) -> list[Row]:
    (parent,) = (row for row in costs if row.case == _PARENT)
    return [*costs, Row(f"{_PARENT}, above the smallest", parent.value - smallest_mb, "MB")]


def smallest_build(cache: Path) -> Row:
    """Memory of a build with next to nothing to do: what is imported, and Beam."""
    _, costs = rehearse(BIKING.scaled(0.01), cache)
    (parent,) = (row for row in costs if row.case == _PARENT)
    return replace(parent, case=f"smallest build: {parent.case}")


def all_poses_rows(scale: float, cache: Path) -> list[Row]:
    """The plan of a list with as many poses as the published one."""
    folder = cache / "rehearsal" / "all-poses"
    shutil.rmtree(folder, ignore_errors=True)
    plan = plan_stage(write_standin(ACID_ALL_POSES.scaled(scale), folder, media=False))
    shutil.rmtree(folder)
    name = f"{ACID_ALL_POSES.card}, all poses: plan"
    return [Row(name, plan.took.wall_s, "s"), Row(f"{name}, parent, anon", plan.anon_mb("parent"), "MB")]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    inputs.add_arguments(parser)
    parser.add_argument("--scale", type=float, default=1.0, help="share of the full size (%(default)s)")
    args = parser.parse_args()
    scale = 0.04 if args.quick else args.scale
    smallest = smallest_build(args.cache)
    rows = [Row("scale", scale, ""), smallest]
    for shape in SHAPES:
        rows += shape_rows(shape, scale, args.cache, smallest.value)
    rows += all_poses_rows(scale, args.cache)
    print_rows("rehearsal", with_load(rows))
    write_rows("rehearsal", with_load(rows))


if __name__ == "__main__":
    main()
