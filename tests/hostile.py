"""Files that mean harm or are broken, and what the pipeline makes of a file: `outcome_of(path)`.

outcome_of(path)          the video through fetch, probe, render and cut, in children as a build has them
Outcome.cause             why the whole video was refused, or None
Outcome.numbers           the painted numbers of the frames that its clips hold, in order
Outcome.rejects           (cause, start frame, stop frame) of what of it was dropped
"""

from __future__ import annotations

import io
import random
import struct
import tarfile
import threading
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av  # noqa
import numpy as np
from PIL import Image

from lvg_data import spans, steps
from lvg_data.config import Card
from lvg_data.errors import Rejected
from lvg_data.fetch.desk import Desk
from lvg_data.journal import Journal
from lvg_data.records import RenderedVideo, Source
from lvg_data.sources import list_sources
from lvg_data.sources.place import Place
from lvg_data.steps import Workshop
from lvg_data.store import Store
from tests.videos import RECIPES, Recipe, _ffmpeg, paint_number, read_number, write_video

WIDTH, HEIGHT = 128, 96
NUM_FRAMES = 12

#: keeps all frames, in one scene; a video may have a megapixel, 256 MiB and 20 seconds
CARD: dict[str, Any] = {
    "name": "hostile",
    "licence": "CC0-1.0",
    "attribution": "made in the test",
    "low": {"min_frames": 4, "window_frames": 8, "part_frames": 16},
    "high": {"height": 128, "width": 128, "min_frames": 4, "window_frames": 4, "part_frames": 10},
    "cuts": {"detector": "none", "guard_frames": 0, "fade_threshold": None},
    "trim": {"max_black_share": 1, "max_frozen_share": 1, "max_bar_share": 1, "max_overlay_share": 1},
    "limits": {"frame_pixels": 1 << 20, "decode_memory_bytes": 256 << 20, "decode_wall_s": 20},
}


@dataclass(frozen=True)
class Outcome:
    """What became of one video."""

    cause: str | None
    numbers: tuple[int, ...] = ()
    rejects: tuple[tuple[str, int | None, int | None], ...] = ()


def outcome_of(path: Path, work: Path, **changes: Any) -> Outcome:
    """Sends a file through the steps of a build; `changes` are of the card."""
    return outcome_of_sources({"kind": "files", "path": path.name}, path.parent, work, **changes)


def outcome_of_sources(source: dict[str, Any], folder: Path, work: Path, **changes: Any) -> Outcome:
    """The same for a card's source that holds one video."""
    card = Card.model_validate(CARD | {"sources": [source]} | changes)
    (found,) = list_sources(card, place_of(card, folder, work / "lists"))
    return outcome_of_source(found, card, work)


def place_of(card: Card, folder: Path, store: Path) -> Place:
    """Where a card's paths are relative to `folder`; `store` keeps what is read out of lists."""
    return Place(folder, Desk.of(card, Store(str(store))))


def outcome_of_source(source: Source, card: Card, work: Path) -> Outcome:
    shop = Workshop(card, Store(str(work / "store")), Journal(str(work / "runs"), "run"))
    stop = threading.Event()
    try:
        probed = steps.probe_video(steps.fetch_source(source, shop, stop), shop, stop)
        planned = steps.plan_spans(probed, shop)
    except Rejected as err:
        return Outcome(err.cause)
    rendered = RenderedVideo(probed, tuple(steps.render_span(probed, span, shop, stop) for span in planned))
    made = steps.cut_video(rendered, shop, stop)
    _, grid = spans.load_grid(probed)
    numbers: list[int] = []
    with spans.RenderedFrames(rendered.spans, (card.low.height, card.low.width)) as frames:
        for clip in made.clips:
            numbers += map(number_of, frames.low(grid.ordinals[clip.start_frame : clip.stop_frame]))
    rejects = tuple((r.cause, r.start_frame, r.stop_frame) for r in made.rejects)
    return Outcome(None, tuple(numbers), rejects)


def number_of(image: np.ndarray) -> int:
    """The number that is painted into a frame, -1 where it cannot be read."""
    try:
        return read_number(image)
    except ValueError:
        return -1


# ---- ordinary files -------------------------------------------------------------------------------

#: six codecs in six containers: what is cut, flipped and patched
ORDINARY = {
    "mp4": "h264_bframes", "mkv": "hevc_mkv", "ts": "mpeg2_open_gop", "webm": "vp9", "mjpeg.avi": "mjpeg_avi",
    "mpeg4.avi": "mpeg4_avi", "gif": "gif",
}  # fmt: skip


def write_ordinary(folder: Path, name: str, num_frames: int = NUM_FRAMES) -> Path:
    """`a.<name>`: a video of the container and codec that `ORDINARY` says."""
    return plain(folder / f"a.{name}", RECIPES[ORDINARY[name]], num_frames)


def plain(
    path: Path, recipe: Recipe = RECIPES["h264_bframes"], num_frames: int = NUM_FRAMES, **how: Any
) -> Path:
    return write_video(path, recipe, num_frames, **({"width": WIDTH, "height": HEIGHT} | how))


def ffmpeg(*arguments: Any) -> None:
    _ffmpeg(*arguments)


# ---- boundaries -----------------------------------------------------------------------------------

_BOXES_WITH_BOXES = (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"edts", b"udta", b"dinf")


def mp4_boxes(data: bytes, start: int = 0, stop: int | None = None) -> Iterator[tuple[bytes, int, int]]:
    """(type, start, stop) of every box of an MP4, outer ones first (ISO/IEC 14496-12, 4.2)."""
    stop = len(data) if stop is None else stop
    while start + 8 <= stop:
        size, kind = struct.unpack_from(">I4s", data, start)
        if size < 8:
            return
        yield kind, start, start + size
        if kind in _BOXES_WITH_BOXES:
            yield from mp4_boxes(data, start + 8, start + size)
        start += size


def box_of(data: bytes, kind: bytes) -> int:
    """Where the first box of a kind begins."""
    return next(start for found, start, _ in mp4_boxes(data) if found == kind)


def ebml_elements(data: bytes) -> list[int]:
    """Where elements of a Matroska file begin: of the top, and those of the segment (RFC 8794)."""
    starts, at = [], 0
    while at < len(data):
        starts.append(at)
        id_bytes = 9 - data[at].bit_length()
        size_at = at + id_bytes
        if size_at >= len(data):
            break
        size_bytes = 9 - data[size_at].bit_length()
        size = int.from_bytes(data[size_at : size_at + size_bytes]) & ((1 << 7 * size_bytes) - 1)
        is_segment = data[at : at + id_bytes] == b"\x18\x53\x80\x67"
        at = size_at + size_bytes + (0 if is_segment else size)
    return starts


def boundaries(name: str, data: bytes) -> list[int]:
    """Places at which parts of a file begin or end, by its container; of an AVI or GIF every 16th of it."""
    if name.endswith("mp4"):
        found = {edge for _, start, stop in mp4_boxes(data) for edge in (start, start + 8, stop)}
    elif name.endswith(("mkv", "webm")):
        found = set(ebml_elements(data))
    elif name.endswith("ts"):
        found = set(range(0, len(data), 188 * max(1, len(data) // 188 // 16)))
    else:
        found = set(range(0, len(data), len(data) // 16))
    return sorted(edge for edge in found if edge < len(data))


# ---- pictures, archives ---------------------------------------------------------------------------


def png_bomb(side: int = 20_000) -> bytes:
    """A whole, black PNG of 1 bit a pixel: 50 MB of zeros in 50 KB, 400 million pixels."""
    packer = zlib.compressobj(9)
    row = bytes(1 + -(-side // 8))
    packed = b"".join(packer.compress(row * 100) for _ in range(side // 100)) + packer.flush()
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        png_chunk(kind, body) for kind, body in ((b"IHDR", header), (b"IDAT", packed), (b"IEND", b""))
    )


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_with_text_bomb(num_bytes: int = 200 << 20) -> bytes:
    """A small picture with a comment that unpacks to 200 MB."""
    packer = zlib.compressobj(9)
    packed = b"".join(packer.compress(bytes(1 << 20)) for _ in range(num_bytes >> 20)) + packer.flush()
    whole = picture_bytes("PNG")
    text = png_chunk(b"zTXt", b"Comment\0\0" + packed)
    return whole[:33] + text + whole[33:]  # behind signature and IHDR


def picture_bytes(kind: str, number: int = 0, width: int = WIDTH, height: int = HEIGHT) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(paint_number(number, width, height)).save(buffer, kind, quality=95)
    return buffer.getvalue()


def jpeg_that_claims(width: int, height: int) -> bytes:
    """A JPEG whose frame header (SOF0) says another size than its data has."""
    data = bytearray(picture_bytes("JPEG"))
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def write_frames(folder: Path, frames: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True)
    for name, data in frames.items():
        (folder / name).write_bytes(data)
    return folder


def write_tar_gz(
    path: Path, members: list[tuple[tarfile.TarInfo, bytes]], form: int = tarfile.GNU_FORMAT
) -> Path:
    with tarfile.open(path, "w:gz", format=form) as tar:
        for info, data in members:
            info.size = len(data) if info.isreg() else info.size
            tar.addfile(info, io.BytesIO(data))
    return path


def write_zip(path: Path, members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


# ---- mutations ------------------------------------------------------------------------------------


def mutated(data: bytes, rng: random.Random) -> bytes:
    """One of: bits flipped, bytes cut out, doubled, zeroed or made huge, the end missing."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        at = rng.randrange(max(1, len(changed)))
        length = min(rng.choice((1, 4, 16, 188, 1000)), len(changed) - at)
        match rng.choice(("flip", "flip", "flip", "zero", "huge", "cut", "double", "end")):
            case "flip" if changed:
                changed[at] ^= 1 << rng.randrange(8)
            case "zero":
                changed[at : at + length] = bytes(length)
            case "huge":
                changed[at : at + min(length, 8)] = b"\xff" * min(length, 8)
            case "cut":
                del changed[at : at + length]
            case "double":
                changed[at:at] = changed[at : at + length]
            case "end":
                del changed[at:]
    return bytes(changed)
