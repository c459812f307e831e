"""Frames per CPU-second from a 720p or 1080p H.264 file to a finished dataset, and where the time goes.

    decode only    PyAV, one thread, frames dropped: the limit
    reference      the release's dataset tool: one decode a resolution, Pillow on the full frame, no cuts; in a
                   process as it is started by hand, without the large pages that a build's children ask for
    render step    `spans.render_span`: one decode, both resolutions, JPEG, files
    whole build    `lvg-data build`, every process of it; with and without the start-up of an almost empty one

Sizes are 64x64 and 256x256, which show the middle of a frame, and for "wide" 36x64 and 144x256, which show all.

All are measured in turn, in one run, as CPU time, so that a busy machine changes little. Targets: the whole
build at least 10 times the reference and 0.4 of decode only.
"""

from __future__ import annotations

import argparse
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks import inputs, pieces
from benchmarks.machine import build
from benchmarks.table import Row, alternate, compared, print_rows, with_load, write_rows
from lvg_data.config import load_card

#: a length at which start-up is a small part
_MIN_FRAMES = 1500
#: the paper's sizes, which show the whole of a 16:9 frame
_WIDE = ("low.height=36", "low.width=64", "high.height=144", "high.width=256")


@dataclass(frozen=True)
class Case:
    """A video in a folder with a card, where its dataset goes, and what of the card is set otherwise."""

    name: str
    video: Path
    frames: int
    card: Path
    settings: tuple[str, ...] = ()

    @property
    def out(self) -> Path:
        return self.card.parent / "dataset"


def make_case(name: str, source: Path, cache: Path, times: int, seconds: float | None = None) -> Case:
    """`source` repeated `times`, alone in a folder."""
    folder = cache / f"preprocess-{name}-{source.stem}-x{times}"
    path = inputs.copy_video(source, folder / "video.mp4", times, seconds)
    return Case(name, path, inputs.num_frames(path), inputs.write_card(folder))


def build_afresh(case: Case) -> float:
    """CPU seconds of a whole build."""
    shutil.rmtree(case.out, ignore_errors=True)
    return build(case.card, case.out, *case.settings).cpu_s


def measure(case: Case, tiny: Case, rounds: int, reference_frames: int) -> list[Row]:
    """Rows of one video: every way in turn, then the pieces of ours."""
    kept = case.out.with_name("kept")
    shutil.rmtree(kept, ignore_errors=True)
    build(case.card, kept, *case.settings)
    finished = pieces.FinishedBuild(case.card, kept, case.settings)
    card = load_card(case.card, case.settings)
    sizes = ((card.low.height, card.low.width), (card.high.height, card.high.width))
    seconds = alternate(
        {
            "decode": lambda: pieces.in_child(pieces.decode_only, str(case.video)) / case.frames,
            "render": lambda: pieces.in_child(pieces.render_only, finished) / case.frames,
            "reference": lambda: pieces.in_plain_process(
                pieces.reference, str(case.video), sizes, min(case.frames, reference_frames)
            ),
            # before the start-up that counts another one, as before the build: the first finds everything cold
            "cold start": lambda: build_afresh(tiny),
            "start": lambda: build_afresh(tiny),
            "build": lambda: build_afresh(case),
        },
        rounds,
    )
    return [*speed_rows(case, seconds), *piece_rows(case, finished, seconds)]


def speed_rows(case: Case, seconds: dict[str, float]) -> list[Row]:
    """Frames per CPU-second of each way."""
    unit = "frames/CPU-s"
    limit = Row(f"{case.name} decode only", 1 / seconds["decode"], unit)
    reference = compared(f"{case.name} reference", 1 / seconds["reference"], unit, limit)
    rows = [limit, reference]
    ours = {
        "render step": 1 / seconds["render"],
        "whole build": case.frames / seconds["build"],
        "whole build after start-up": case.frames / (seconds["build"] - seconds["start"]),
    }
    for name, value in ours.items():
        rows += [compared(f"{case.name} {name}", value, unit, base) for base in (limit, reference)]
    return [*rows, Row(f"{case.name} start-up", seconds["start"], "CPU-s")]


def piece_rows(case: Case, finished: pieces.FinishedBuild, seconds: dict[str, float]) -> list[Row]:
    """Milliseconds a frame of each piece, what the build adds around them, and the floor."""
    found = pieces.in_child(pieces.render_pieces, finished) | pieces.in_child(pieces.packing_pieces, finished)
    unit = "ms/frame"
    whole = Row(f"{case.name} build", 1000 * (seconds["build"] - seconds["start"]) / case.frames, unit)
    rows = [
        compared(f"{case.name} . {name}", 1000 * s / case.frames, unit, whole) for name, s in found.items()
    ]
    around = whole.value - sum(row.value for row in rows)
    rows.append(compared(f"{case.name} . probing, hashing, Beam", around, unit, whole))
    return [whole, *rows, *floor_rows(case, finished, found, whole)]


def floor_rows(case: Case, finished: pieces.FinishedBuild, found: dict[str, float], whole: Row) -> list[Row]:
    """The least that any way must do: decode, JPEG, and the filter's products while its pixels are read once.

    A processor multiplies twice as many int16 as float32 at a time, of which the speed is measured.
    """
    work = pieces.resize_work(finished)
    speed = pieces.in_child(pieces.machine_speed)
    codec_ms = 1000 * (found["decode"] + found["JPEG"]) / case.frames
    resize_ms = 1000 * max(work["macs"] / (2 * speed["macs"]), work["bytes"] / speed["bytes"])
    floor = Row(f"{case.name} floor: decode, JPEG, resize", codec_ms + resize_ms, "ms/frame")
    return [
        Row(f"{case.name} floor: resize alone", resize_ms, "ms/frame"),
        floor,
        compared(f"{case.name} build, to the floor", whole.value, "ms/frame", floor),
        Row(f"{case.name} multiply-adds of the filter", work["macs"] / 1e6, "M/frame"),
        Row(f"{case.name} multiply-adds that are done", work["done_macs"] / 1e6, "M/frame"),
        Row(f"{case.name} pixels that the filter reads", work["bytes"] / 1e6, "MB/frame"),
        Row(f"{case.name} this core, float32", speed["macs"] / 1e9, "G multiply-adds/s"),
        Row(f"{case.name} this core, copy", speed["bytes"] / 1e9, "GB/s"),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    inputs.add_arguments(parser)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    base = inputs.base_video(args.cache, args.footage)
    tiny = make_case("start-up", inputs.resized_video(base, 360, args.cache), args.cache, 1, 0.5)
    times = 1 if args.quick else -(-_MIN_FRAMES // inputs.num_frames(base))
    rows: list[Row] = []
    cases = [
        make_case("720p", base, args.cache, times),
        make_case("1080p", inputs.resized_video(base, 1080, args.cache), args.cache, times),
    ]
    once_through = 40 if args.quick else inputs.num_frames(base)
    for case in (*cases, replace(cases[0], name="720p wide", settings=_WIDE)):
        rows += measure(case, tiny, 1 if args.quick else args.rounds, once_through)
    print_rows("preprocess", with_load(rows))
    write_rows("preprocess", with_load(rows))


if __name__ == "__main__":
    main()
