"""Peak memory of a build: does it stay flat as a video, or the number of videos, grows tenfold?

    one video      360p, 2.7 against 27 minutes, made by repeating packets
    many videos    6 against 60 of 5 seconds

Every process of the build is looked at ten times a second. "rss" is the kernel's high-water mark of pages in
memory, pages of files that are merely mapped included; "anon" is without those. The children are compared with
one that imported the same and did nothing.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from benchmarks import inputs, pieces
from benchmarks.machine import Peaks, build
from benchmarks.table import Row, compared, print_rows, with_load, write_rows


def long_video(source: Path, cache: Path, times: int) -> Path:
    """A card of one long video."""
    folder = cache / f"memory-long-{times}"
    inputs.copy_video(source, folder / "video.mp4", times)
    return inputs.write_card(folder)


def many_videos(source: Path, cache: Path, number: int) -> Path:
    """A card of many short videos."""
    folder = cache / f"memory-many-{number}"
    for n in range(number):
        inputs.copy_video(source, folder / f"video-{n:04d}.mp4", 1, 5)
    return inputs.write_card(folder)


def measure_build(card: Path) -> Peaks:
    out = card.parent / "dataset"
    shutil.rmtree(out, ignore_errors=True)
    peaks = Peaks({})
    build(card, out, peaks=peaks)
    shutil.rmtree(out)
    return peaks


def memory_rows(name: str, cards: tuple[Path, Path], idle: dict[str, int]) -> list[Row]:
    """Rows of a small input and one ten times as large."""
    rows: list[Row] = []
    small = measured_rows(f"{name} 1x", cards[0], idle)
    large = measured_rows(f"{name} 10x", cards[1], idle)
    for before, after in zip(small, large, strict=True):
        rows += [before, compared(after.case, after.value, after.unit, before)]
    return rows


def measured_rows(name: str, card: Path, idle: dict[str, int]) -> list[Row]:
    peaks = measure_build(card)
    rows = []
    for kind in ("rss", "anon"):
        child = peaks.bytes_of["child", kind]
        rows += [
            Row(f"{name}, parent, {kind}", peaks.bytes_of["parent", kind] / 1e6, "MB"),
            Row(f"{name}, largest child, {kind}", child / 1e6, "MB"),
            Row(f"{name}, largest child above an idle one, {kind}", (child - idle[kind]) / 1e6, "MB"),
        ]
    return [*rows, Row(f"{name}, all processes together, pss", peaks.total_pss / 1e6, "MB")]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    inputs.add_arguments(parser)
    args = parser.parse_args()
    base = inputs.resized_video(inputs.base_video(args.cache, args.footage), 360, args.cache)
    idle = pieces.in_child(pieces.imports_memory)
    times, number = (1, 2) if args.quick else (3, 6)
    rows = [Row(f"idle child, {kind}", size / 1e6, "MB") for kind, size in idle.items()]
    long = tuple(long_video(base, args.cache, n) for n in (times, 10 * times))
    many = tuple(many_videos(base, args.cache, n) for n in (number, 10 * number))
    rows += memory_rows("one video", (long[0], long[1]), idle)
    rows += memory_rows("many videos", (many[0], many[1]), idle)
    print_rows("memory", with_load(rows))
    write_rows("memory", with_load(rows))


if __name__ == "__main__":
    main()
