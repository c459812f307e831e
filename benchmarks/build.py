"""What a build costs beyond its videos: reruns, additions, workers, start-up.

    rerun        `lvg-data build` over a complete dataset; must not import Beam
    one new      one more video in a complete dataset, against that video built alone
    workers      two against one, on videos of unequal length
    start-up     a build of one video of half a second

Wall times say something only while the machine is otherwise idle: look at the printed load average.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from benchmarks import inputs
from benchmarks.machine import Finished, build, run_measured
from benchmarks.table import Row, alternate, compared, load_average, print_rows, write_rows

#: the videos of a dataset, as how often the source's beginning is repeated and how many seconds of it;
#: unequal, so that two workers must share them well, and long enough for start-up to be a small part
_VIDEOS = ((4, 50), (1, 20), (3, 40), (1, 30), (1, 50), (2, 40), (1, 25), (4, 40), (1, 40), (2, 30))


def make_videos(source: Path, folder: Path, lengths: tuple[tuple[int, float], ...]) -> Path:
    """A folder of copies of the source's beginning, each another file, and a card of them."""
    for number, (times, seconds) in enumerate(lengths):
        inputs.copy_video(source, folder / f"video-{number:03d}.mp4", times, seconds)
    return inputs.write_card(folder)


def build_afresh(card: Path, *settings: str) -> Finished:
    out = card.parent / "dataset"
    shutil.rmtree(out, ignore_errors=True)
    return build(card, out, *settings)


def imports_of_rerun(card: Path) -> str:
    """What `build` imports over a complete dataset, one line a module."""
    out = card.parent / "dataset"
    command = [
        sys.executable,
        "-X",
        "importtime",
        "-m",
        "pipelines.cli",
        "build",
        str(card),
        "--out",
        str(out),
    ]
    return run_measured(command).stderr


def measure_rerun(card: Path, rounds: int) -> list[Row]:
    """Start-up, then a complete dataset built again."""
    if "apache_beam" in imports_of_rerun(card):
        raise RuntimeError("a build over a complete dataset imported apache_beam")
    out = card.parent / "dataset"
    help_command = [sys.executable, "-m", "pipelines.cli", "--help"]
    wall_s = alternate(
        {
            "lvg-data --help": lambda: run_measured(help_command).wall_s,
            "rerun over a complete dataset": lambda: build(card, out).wall_s,
        },
        rounds,
    )
    return [Row(name, value, "s") for name, value in wall_s.items()]


def measure_start(tiny: Path, rounds: int) -> list[Row]:
    found = [build_afresh(tiny) for _ in range(rounds)]
    middle = sorted(found, key=lambda finished: finished.cpu_s)[rounds // 2]
    return [Row("start-up", middle.wall_s, "s"), Row("start-up, CPU", middle.cpu_s, "CPU-s")]


def add_one(card: Path, new: Path) -> Finished:
    """Builds a copy of a complete dataset again after one video was added to its folder."""
    before, folder = card.parent, card.parent.with_name("one-new")
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(before, folder)
    build(folder / "card.yaml", folder / "dataset")  # it is complete here, too: paths are inputs
    shutil.copyfile(new, folder / "video-new.mp4")
    return build(folder / "card.yaml", folder / "dataset")


def measure_addition(card: Path, alone: Path, rounds: int) -> list[Row]:
    """One new video in a complete dataset against the same video alone; CPU time of all processes."""
    new = alone.parent / "video-000.mp4"
    cpu_s = alternate(
        {
            "one video alone": lambda: build_afresh(alone).cpu_s,
            "one new video in a complete dataset": lambda: add_one(card, new).cpu_s,
        },
        rounds,
    )
    rows = [Row(name, value, "CPU-s") for name, value in cpu_s.items()]
    return [rows[0], compared(rows[1].case, rows[1].value, "CPU-s", rows[0])]


def measure_workers(card: Path, rounds: int) -> list[Row]:
    """Wall time of one worker and of two, start-up included."""
    wall_s = alternate(
        {
            "one worker": lambda: build_afresh(card, "execution.workers=1").wall_s,
            "two workers": lambda: build_afresh(card, "execution.workers=2").wall_s,
        },
        rounds,
    )
    one = Row("one worker", wall_s["one worker"], "s")
    two = Row("two workers", wall_s["two workers"], "s")
    return [one, two, Row("two workers, times faster", one.value / two.value, "x")]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    inputs.add_arguments(parser)
    args = parser.parse_args()
    rounds = 1 if args.quick else 2
    base = inputs.base_video(args.cache, args.footage)
    lengths = _VIDEOS[1:5] if args.quick else _VIDEOS
    card = make_videos(base, args.cache / f"build-{len(lengths)}-unequal" / "all", lengths)
    alone = make_videos(base, args.cache / "build-alone", ((1, 25),))
    tiny = make_videos(base, args.cache / "build-tiny", ((1, 0.5),))
    rows = [load_average(), *measure_workers(card, rounds)]
    rows += [
        *measure_rerun(card, rounds),
        *measure_start(tiny, rounds),
        *measure_addition(card, alone, rounds),
    ]
    rows.append(load_average())
    print_rows("build; wall times count only on an idle machine", rows)
    write_rows("build", rows)


if __name__ == "__main__":
    main()
