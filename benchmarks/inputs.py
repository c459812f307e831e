"""The videos that benchmarks work on, made once in a cache folder: real footage where it is given."""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av

from lvg_data.demo import RideScene, Transition, demo_rides, encode_ride

FOOTAGE = "trailer_bbb.mp4"  # 1280x720, 1,323 frames at 24 a second, five cuts and six fades, 1 Mb/s
CACHE = Path(tempfile.gettempdir()) / "lvg-benchmarks"
#: kbit/s; what video sites serve for H.264 at these sizes
_BITS_PER_SECOND = {360: 700_000, 1080: 3_000_000}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that every benchmark takes."""
    parser.add_argument("--footage", type=Path, help=f"folder with {FOOTAGE}; without it rides are generated")
    parser.add_argument("--cache", type=Path, default=CACHE, help="where inputs are kept (%(default)s)")
    parser.add_argument("--quick", action="store_true", help="less of everything: does it run, roughly what")


def base_video(cache: Path, footage: Path | None) -> Path:
    """A 720p H.264 video: the footage, or a generated ride of 38 s."""
    if footage is not None:
        return footage / FOOTAGE
    path = cache / "ride-720.mp4"
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        scenes = tuple(
            RideScene(look, seed, 185)
            for seed, look in enumerate(("alpine", "desert", "coast", "dawn", "snow"))
        )
        ride = replace(demo_rides()[0], name="ride-720", scenes=scenes, transitions=(Transition(),) * 4)
        encode_ride(ride, path)
    return path


def resized_video(source: Path, height: int, cache: Path) -> Path:
    """`source` encoded again at another height, x264 veryfast crf 20 under the bit rate video sites use."""
    path = cache / f"{source.stem}-{height}.mp4"
    if path.exists():
        return path
    cache.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    limit = str(_BITS_PER_SECOND[height])
    options = {"preset": "veryfast", "crf": "20", "maxrate": limit, "bufsize": str(2 * int(limit))}
    with av.open(str(source)) as container, av.open(str(partial), "w", format="mp4") as out:
        stream = container.streams.video[0]
        rate = Fraction(stream.average_rate or 0)
        encoded = out.add_stream("libx264", rate=rate, options=options)
        encoded.height, encoded.width = height, round(stream.width * height / stream.height / 2) * 2
        encoded.pix_fmt = "yuv420p"
        for number, frame in enumerate(container.decode(stream)):
            frame = frame.reformat(encoded.width, encoded.height, "yuv420p", interpolation="LANCZOS")
            frame.pts, frame.time_base = number, 1 / rate
            out.mux(encoded.encode(frame))
        out.mux(encoded.encode(None))
    return partial.rename(path)


def copy_video(source: Path, path: Path, times: int = 1, seconds: float | None = None) -> Path:
    """`source` (its first `seconds`) repeated without encoding; the title makes each copy another file."""
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    with av.open(str(partial), "w", format="mp4") as out:
        out.metadata["title"] = path.stem
        template, shift = None, 0
        for _ in range(times):
            with av.open(str(source)) as container:
                stream = container.streams.video[0]
                template = template or out.add_stream_from_template(stream)
                shift = _copy_packets(container, stream, out, template, shift, seconds)
    return partial.rename(path)


def _copy_packets(container, stream, out, template, shift: int, seconds: float | None) -> int:  # type: ignore[no-untyped-def]
    """Copies packets, `shift` later; returns the shift of a copy that follows."""
    frame_ticks = round(1 / stream.average_rate / stream.time_base)
    limit = None if seconds is None else seconds / stream.time_base
    last = shift
    for packet in container.demux(stream):
        if not packet.size or (limit is not None and packet.dts >= limit):
            continue
        packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
        last = max(last, packet.pts + frame_ticks)
        packet.stream = template
        out.mux(packet)
    return last


def num_frames(path: Path) -> int:
    with av.open(str(path)) as container:
        return sum(packet.size > 0 for packet in container.demux(container.streams.video[0]))


def write_card(folder: Path) -> Path:
    """A card of all videos of a folder."""
    path = folder / "card.yaml"
    path.write_text(
        "name: benchmark\nlicence: CC-BY-3.0\nattribution: see the footage\n"
        "sources:\n  - {kind: files, path: '*.mp4'}\n",
        encoding="utf-8",
    )
    return path
