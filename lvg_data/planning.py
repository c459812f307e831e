"""What a build would do: the resolved recipe, the sources, what is done already, and estimated sizes."""

from __future__ import annotations

import tempfile
from collections import Counter
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from lvg_data import dataset, spans, store, video
from lvg_data.child import ChildLimits, run_in_child
from lvg_data.config import Card, recipe
from lvg_data.errors import Rejected
from lvg_data.records import Address, Source
from lvg_data.timeline import frames_in, mean_frame_rate, merge_ranges, presentation_seconds, standard_rate

#: stored bytes of a pixel at JPEG quality 100, 4:4:4: from 45,796 bytes of a 144x256 frame of real footage
_JPEG_BYTES_PER_PIXEL = 45_796 / (144 * 256)
#: files that are probed for the estimate; the rest is scaled up
_MAX_PROBED = 64


@dataclass(frozen=True)
class _Estimate:
    seconds: float
    frames: int
    frame_rate: Fraction


def plan_build(card: Card, sources: list[Source], out: str | None, store_root: str | None) -> dict[str, Any]:
    """Everything that `lvg-data plan` shows, as JSON values.

    Frames and bytes are upper bounds: before cutting nobody knows what trimming will drop.
    """
    local = [s for s in sources if isinstance(s.media, Address) and store.is_local(s.media.url)]
    estimates = [e for e in (_estimate(s, card) for s in local[:_MAX_PROBED]) if e is not None]
    scale = len(sources) / len(estimates) if estimates else 0.0
    num_frames = round(sum(e.frames for e in estimates) * scale)
    high = num_frames * card.high.height * card.high.width * _JPEG_BYTES_PER_PIXEL
    low = num_frames * card.low.height * card.low.width * 3
    return {
        "card": card.name,
        "recipe": recipe(card),
        "sources": {
            "rows": len(sources),
            "local": len(local),
            "to_fetch": len(sources) - len(local),
            "intervals": sum(len(s.intervals or ()) for s in sources),
            "probed": len(estimates),
            "unreadable_of_probed": min(len(local), _MAX_PROBED) - len(estimates),
        },
        "estimate": {
            "hours": round(sum(e.seconds for e in estimates) * scale / 3600, 4),
            "frames": num_frames,
            "low_bytes": low,
            "high_bytes": round(high),
            "store_bytes": round(low + high),
        },
        "frame_rates": dict(Counter(str(e.frame_rate) for e in estimates)),
        "done": _done(card, sources, out, store_root),
    }


def _estimate(source: Source, card: Card) -> _Estimate | None:
    assert isinstance(source.media, Address)
    try:
        with tempfile.TemporaryDirectory(prefix="lvg-") as folder:
            limits = ChildLimits(card.limits.decode_wall_s, card.limits.decode_memory_bytes)
            arguments = (source.media.url, Path(folder), card.limits.frame_pixels)
            found = run_in_child(video.probe, arguments, limits)
            packets = np.load(Path(folder) / "packets.npy")
    except Rejected:
        return None
    time_base = Fraction(found.time_base)
    grid = spans.grid_of(packets, time_base, card.frame_rate)
    wanted = [range(len(grid))]
    if source.intervals is not None:
        wanted = merge_ranges(frames_in(grid, interval) for interval in source.intervals)
    rate = mean_frame_rate(grid.pts, time_base)
    seconds = float(presentation_seconds(grid.pts, time_base))
    return _Estimate(seconds, sum(map(len, wanted)), standard_rate(rate) if rate else Fraction(1))


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
        for kind in ("fetch_http", "probe", "render_span", "cut", "write_shard"):
            kept[kind] = sum(1 for _ in root.glob(f"{kind}/*/meta.json"))
    return {"state": "to do" if not any(kept.values()) else "begun", "artefacts": kept}


def plan_text(planned: dict[str, Any]) -> str:
    """The plan in words."""
    sources, estimate, done = planned["sources"], planned["estimate"], planned["done"]
    rates = ", ".join(f"{n} at {float(Fraction(r)):g}" for r, n in planned["frame_rates"].items())
    lines = [
        f"card      {planned['card']}",
        f"sources   {sources['rows']} rows: {sources['local']} local, {sources['to_fetch']} to fetch; "
        f"{sources['intervals']} given intervals",
        f"probed    {sources['probed']} files ({rates or 'none'} frames/s), "
        f"{sources['unreadable_of_probed']} unreadable",
        f"estimate  {estimate['hours']:.3f} h, at most {estimate['frames']:,} frames: "
        f"low {estimate['low_bytes'] / 1e6:,.1f} MB, high {estimate['high_bytes'] / 1e6:,.1f} MB, "
        f"and {estimate['store_bytes'] / 1e6:,.1f} MB of rendered frames until lvg-data clean",
        f"done      {done['state']}" + "".join(f", {k} {n}" for k, n in done.get("artefacts", {}).items()),
        "recipe",
    ]
    text = yaml.safe_dump(planned["recipe"], sort_keys=False, default_flow_style=None, width=100)
    return "\n".join(lines) + "\n" + "".join(f"  {line}\n" for line in text.splitlines())
