"""What a build would do: the resolved recipe, the sources, what is done already, and estimated sizes."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from lvg_data import dataset, pictures, spans, store, video
from lvg_data.arrays import load_array
from lvg_data.child import ChildLimits, run_in_child
from lvg_data.config import Card, recipe
from lvg_data.errors import Rejected
from lvg_data.fetch.addresses import names_a_file, site_of
from lvg_data.records import Address, FrameFolder, Source
from lvg_data.report import frame_rate_warning, spread
from lvg_data.timeline import frames_in, mean_frame_rate, merge_ranges, presentation_seconds, standard_rate

#: stored bytes of a pixel at JPEG quality 100, 4:4:4: from 45,796 bytes of a 144x256 frame of real footage
_JPEG_BYTES_PER_PIXEL = 45_796 / (144 * 256)
#: files and folders of each kind that are looked at for the estimate; the rest is scaled up
_MAX_PROBED = 64
#: frames per second that a video which is not here yet is taken to have
_ASSUMED_RATE = Fraction(30)


@dataclass(frozen=True)
class _Estimate:
    seconds: float
    frames: int
    frame_rate: Fraction


def plan_build(card: Card, sources: list[Source], out: str | None, store_root: str | None) -> dict[str, Any]:
    """Everything that `lvg-data plan` shows, as JSON values.

    Frames and bytes are upper bounds: before cutting nobody knows what trimming will drop.
    """
    here = [s for s in sources if not _is_remote(s)]
    remote = [s for s in sources if _is_remote(s)]
    looked_at = spread(here, _MAX_PROBED)
    probed = [_estimate(s, card) for s in looked_at]
    found = [e for e in probed if e is not None]
    rates = [_kept_rate(s, e, card) for s, e in zip(looked_at, probed, strict=True) if e is not None]
    scale = len(here) / len(found) if found else 0.0
    expected = [_expect(s, card) for s in remote]
    known = [e for e in expected if e is not None]
    num_frames = round(sum(e.frames for e in found) * scale) + sum(e.frames for e in known)
    seconds = sum(e.seconds for e in found) * scale + sum(e.seconds for e in known)
    high = num_frames * card.high.height * card.high.width * _JPEG_BYTES_PER_PIXEL
    low = num_frames * card.low.height * card.low.width * 3
    return {
        "card": card.name,
        "recipe": recipe(card),
        "sources": {
            "rows": len(sources),
            "here": len(here),
            "to_fetch": len(remote),
            "intervals": sum(len(s.intervals or ()) for s in sources),
            "probed": len(found),
            "unreadable_of_probed": len(probed) - len(found),
            "of_unknown_length": len(expected) - len(known),
        },
        "estimate": {
            "hours": round(seconds / 3600, 4),
            "frames": num_frames,
            "low_bytes": low,
            "high_bytes": round(high),
            "store_bytes": round(low + high),
            "download_hours_at_least": round(_slowest_host(remote) / card.limits.downloads_per_hour, 4),
        },
        "frame_rates": dict(Counter(str(e.frame_rate) for e in found)),
        "frame_rate_warning": frame_rate_warning(rates),
        "pace": card.limits.downloads_per_hour,
        "done": _done(card, sources, out, store_root),
    }


def _kept_rate(source: Source, found: _Estimate, card: Card) -> Fraction:
    """Frames per second that a video has in the dataset."""
    asked = source.frame_rate or str(card.frame_rate)
    return found.frame_rate if asked == "native" else Fraction(asked)


def _is_remote(source: Source) -> bool:
    return isinstance(source.media, Address) and not store.is_local(source.media.url)


def _slowest_host(remote: Sequence[Source]) -> int:
    """Most videos that one site has to be asked for; plain files are asked for at another pace."""
    urls = [source.media.url for source in remote if isinstance(source.media, Address)]
    paced = [url for url in urls if urlsplit(url).scheme in ("http", "https") and not names_a_file(url)]
    return max(Counter(map(site_of, paced)).values(), default=0)


def _expect(source: Source, card: Card) -> _Estimate | None:
    """A video that is not here yet: its intervals, at the card's or the usual frame rate."""
    if source.intervals is None:
        return None
    rate = _ASSUMED_RATE if card.frame_rate == "native" else card.frame_rate
    seconds = sum((i.stop_s - i.start_s for i in source.intervals), Fraction(0))
    return _Estimate(float(seconds), int(seconds * rate), rate)


def _estimate(source: Source, card: Card) -> _Estimate | None:
    """What a source that is here holds; None where it cannot be read."""
    media = source.media
    if isinstance(media, tuple):  # kept whole: its one interval is all there is
        rate = Fraction(media[0].frame_rate)
        assert source.intervals is not None
        seconds = source.intervals[0].stop_s
        return _Estimate(float(seconds), round(seconds * rate), standard_rate(rate))
    try:
        if isinstance(media, FrameFolder):
            rate = Fraction(media.frame_rate)
            count = len(pictures.list_pictures(media.path))
            return _Estimate(float(count / rate), count, standard_rate(rate))
        return _estimate_file(source, card)
    except Rejected:
        return None


def _estimate_file(source: Source, card: Card) -> _Estimate:
    assert isinstance(source.media, Address)
    with tempfile.TemporaryDirectory(prefix="lvg-") as folder:
        limits = ChildLimits(card.limits.decode_wall_s, card.limits.decode_memory_bytes)
        arguments = (source.media.url, Path(folder), card.limits.frame_pixels)
        found = run_in_child(video.probe, arguments, limits)
        packets = load_array(Path(folder) / "packets.npy")
    time_base = Fraction(found.time_base)
    grid = spans.grid_of(packets, time_base, source.frame_rate or str(card.frame_rate))
    wanted = [range(len(grid))]
    if source.intervals is not None:
        wanted = merge_ranges(frames_in(grid, interval) for interval in source.intervals)
    rate = mean_frame_rate(grid.pts, time_base)
    num_frames = sum(map(len, wanted))
    seconds = float(presentation_seconds(grid.pts, time_base)) * num_frames / len(grid)
    return _Estimate(seconds, num_frames, standard_rate(rate) if rate else Fraction(1))


def _done(card: Card, sources: list[Source], out: str | None, store_root: str | None) -> dict[str, Any]:
    """What an output and its store hold already."""
    if out is None or store_root is None:
        return {"state": "unknown: give --out to see what is done"}
    request = dataset.request_hash(card, sources)
    if dataset.find_complete(out, store_root, request) is not None:
        return {"state": "complete: a build would change nothing"}
    kept = {}
    if store.is_local(store_root):
        root = store.local_path(store_root)
        for kind in (
            "fetch_http",
            "fetch_ytdlp",
            "fetch_object",
            "probe",
            "render_span",
            "cut",
            "write_shard",
        ):
            kept[kind] = sum(1 for _ in root.glob(f"{kind}/*/meta.json"))
    return {"state": "to do" if not any(kept.values()) else "begun", "artefacts": kept}


def plan_text(planned: dict[str, Any]) -> str:
    """The plan in words."""
    sources, estimate, done = planned["sources"], planned["estimate"], planned["done"]
    rates = ", ".join(f"{n} at {float(Fraction(r)):g}" for r, n in planned["frame_rates"].items())
    unknown = f"; length of {sources['of_unknown_length']} unknown" if sources["of_unknown_length"] else ""
    lines = [
        f"card      {planned['card']}",
        f"sources   {sources['rows']:,} rows: {sources['here']:,} here, {sources['to_fetch']:,} to fetch; "
        f"{sources['intervals']:,} given intervals",
        f"probed    {sources['probed']} ({rates or 'none'} frames/s), {sources['unreadable_of_probed']} unreadable",
        f"estimate  {estimate['hours']:.3f} h, at most {estimate['frames']:,} frames: "
        f"low {estimate['low_bytes'] / 1e6:,.1f} MB, high {estimate['high_bytes'] / 1e6:,.1f} MB, "
        f"and {estimate['store_bytes'] / 1e6:,.1f} MB of rendered frames until lvg-data clean{unknown}",
        f"done      {done['state']}" + "".join(f", {k} {n}" for k, n in done.get("artefacts", {}).items()),
    ]
    if sources["to_fetch"]:
        hours = estimate["download_hours_at_least"]
        pace = f", at least {hours:.2f} h at {planned['pace']:g} an hour from one site" if hours else ""
        lines.append(f"downloads {sources['to_fetch']:,}{pace}")
    if planned["frame_rate_warning"]:
        lines.append(f"warning   {planned['frame_rate_warning']}")
    lines.append("recipe")
    text = yaml.safe_dump(planned["recipe"], sort_keys=False, default_flow_style=None, width=100)
    return "\n".join(lines) + "\n" + "".join(f"  {line}\n" for line in text.splitlines())
