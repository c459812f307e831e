"""The LongVideoGAN release's prepared datasets: archives that are read safely, clips that are copied.

    <root>/<HHHH>x<WWWW>/partition_<NNNN>.zip      stored, never compressed
        <clip path>/frame_<NNNNNN>.jpg
        frame_paths.json                           {clip path: [frame names in order]}

Nothing is extracted: a name inside an archive never becomes a path on disk. Of members that share a name the
last counts, as it does for the release's own reader; its tools append, so that a rerun leaves such pairs.

    list, fetch      in long-lived processes, which keep what `open_archive` read: `find_frames`, `content_hash`
    probe, copy      in children, from what `find_frames` gave: none reads an archive's directory again
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import json
import os
import re
import stat
import struct
import sys
import threading
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import numpy as np
import simplejpeg
from PIL import Image

from lvg_data import ids, spans, video
from lvg_data.arrays import save_array
from lvg_data.errors import Rejected
from lvg_data.local_files import blaming_the_path, stat_file
from lvg_data.records import Member, RenderedFrames

#: raised when the same archive would give other rows or other bytes
VERSION = 1
LIST_NAME = "frame_paths.json"
#: largest `frame_paths.json` that is read; the release's own take about 30 bytes a frame
MAX_LIST_BYTES = 256 << 20
#: how much of a JPEG is read to learn its size; all of it where that does not suffice
_HEAD_BYTES = 2048
_CHUNK_BYTES = 1 << 20
#: what opens a file in a ZIP (APPNOTE 6.3.10, 4.3.7): signature, then the lengths of name and extra field
_FILE_HEADER = struct.Struct("<4s22xHH")
_READING = threading.Lock()


class ArchiveError(ValueError):
    """An archive that cannot be used at all; the text names it and what to do."""


# ---- archives -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Archive:
    """What an archive's directory says.

    Attributes:
      clips: frame names of each clip, in order, relative to the clip's path.
      places: int64 [num_frames, 2] of each clip: offset of a frame's file header, -1 where the archive has
        no such member, and its size in bytes.
    """

    clips: dict[str, tuple[str, ...]]
    places: dict[str, np.ndarray]


def size_of_folder(folder: str) -> tuple[int, int] | None:
    """(height, width) that a folder's name promises: 0144x0256 -> (144, 256)."""
    match = re.fullmatch(r"(\d{4,6})x(\d{4,6})", folder)
    return (int(match[1]), int(match[2])) if match else None


def folder_of_size(height: int, width: int) -> str:
    """Folder of one resolution: 144, 256 -> 0144x0256."""
    return f"{height:04d}x{width:04d}"


def open_archive(path: str) -> Archive:
    """The directory of an archive; kept by this process until the file changes.

    Raises:
      ArchiveError: no stored ZIP with a `frame_paths.json` of the release's form.
      OSError: it cannot be opened.
    """
    found = os.stat(path)
    if not stat.S_ISREG(found.st_mode):  # a pipe, which would be waited for
        raise ArchiveError(f"{path} is not a file; prepare or copy it again")
    with _READING:
        return _read_archive(path, found.st_size, found.st_mtime_ns)


@functools.lru_cache(maxsize=64)  # of 50,000 frames each: about 100 MB
def _read_archive(path: str, size_bytes: int, mtime_ns: int) -> Archive:
    try:
        with zipfile.ZipFile(path) as archive:
            listed = _read_list(path, archive)
            members = {info.filename: info for info in archive.infolist()}
    except (zipfile.BadZipFile, NotImplementedError, EOFError, UnicodeDecodeError, struct.error) as err:
        raise _unreadable(path, err) from err
    except OSError as err:
        if err.errno != errno.EINVAL:  # a directory that says to look in front of the file's first byte
            raise
        raise _unreadable(path, err) from err
    clips, places = {}, {}
    for clip, names in listed.items():
        folder = _folder_prefix(clip)
        clips[clip] = tuple(sys.intern(name.removeprefix(folder)) for name in names)
        found = [_place(path, members.get(f"{folder}{name}"), size_bytes) for name in clips[clip]]
        places[clip] = np.array(found, np.int64).reshape(-1, 2)
    return Archive(clips, places)


def _unreadable(path: str, err: Exception) -> ArchiveError:
    return ArchiveError(f"{path} is not a readable ZIP ({err}); prepare or copy it again")


def _folder_prefix(clip: str) -> str:
    """What the names of a clip's members begin with."""
    folder = str(PurePosixPath(clip))
    return "" if folder == "." else f"{folder}/"


def _place(path: str, info: zipfile.ZipInfo | None, archive_bytes: int) -> tuple[int, int]:
    """A row of `Archive.places`; offsets and sizes beyond the archive's end, up to 2^64, stop just there."""
    if info is None:
        return -1, 0
    _check_stored(path, info)
    return min(info.header_offset, archive_bytes), min(info.file_size, archive_bytes + 1)


def _check_stored(path: str, info: zipfile.ZipInfo) -> None:
    repack = "unpack it and pack it with `zip -0 -r`"
    if info.flag_bits & 1:
        raise ArchiveError(f"{path}: {info.filename} is encrypted; {repack}")
    if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
        raise ArchiveError(
            f"{path}: {info.filename} is compressed; frames are read in place, so that the format "
            f"only has stored ones: {repack}"
        )


def _read_list(path: str, archive: zipfile.ZipFile) -> dict[str, list[str]]:
    """The content of `frame_paths.json`, checked."""
    try:
        info = archive.getinfo(LIST_NAME)
    except KeyError as err:
        text = f"{path} has no {LIST_NAME}: not one of the release's, or one that was not finished"
        raise ArchiveError(f"{text}; prepare it again") from err
    _check_stored(path, info)
    if info.file_size > MAX_LIST_BYTES:
        raise ArchiveError(
            f"{path}: {LIST_NAME} has {info.file_size} bytes, the limit is {MAX_LIST_BYTES}; "
            "use more partitions"
        )
    try:
        listed = json.loads(archive.read(info))
    except (ValueError, RecursionError) as err:
        raise ArchiveError(f"{path}: {LIST_NAME} is not JSON ({err}); prepare it again") from err
    _check_list(path, listed)
    return listed


def _check_list(path: str, listed: Any) -> None:
    is_list = isinstance(listed, dict) and all(isinstance(names, list) for names in listed.values())
    if not is_list or not all(isinstance(name, str) for names in listed.values() for name in names):
        raise ArchiveError(f"{path}: {LIST_NAME} must be {{clip path: [frame names]}}; prepare it again")
    for clip, names in listed.items():
        if len(set(names)) < len(names):
            raise ArchiveError(f"{path}: {LIST_NAME} has a frame of {clip[:100]!r} twice; prepare it again")
    for name in (name for clip, names in listed.items() for name in (clip, *names)):
        if not _is_plain(name):
            raise ArchiveError(
                f"{path}: {LIST_NAME} has the name {name[:100]!r}; names are relative, printable and "
                "without `..`: prepare it again"
            )


def _is_plain(name: str) -> bool:
    escapes = name.startswith("/") or "\\" in name or ".." in name.split("/")
    return bool(name) and name.isprintable() and not escapes


# ---- the frames of a clip ---------------------------------------------------------------------------


@dataclass(frozen=True)
class ClipFrames:
    """The frames of a clip at one resolution, and where in the archive their bytes are."""

    frames: RenderedFrames
    members: tuple[Member, ...]

    @property
    def role(self) -> str:
        return self.frames.role


def find_frames(media: Sequence[RenderedFrames]) -> tuple[ClipFrames, ...]:
    """Where the frames of a clip are, at each of its resolutions; raises as `clip_members` does."""
    return tuple(ClipFrames(frames, tuple(clip_members(frames))) for frames in media)


def clip_members(frames: RenderedFrames) -> list[Member]:
    """Name, offset and size of each frame of a clip, in order; offsets are those of the JPEG's own bytes.

    Raises:
      Rejected: `not_found` (the archive, or a frame that its list names), `forbidden`, `not_video` (no usable
        archive), `cut_off` (bytes that lie outside the file).
      OSError: the machine failed.
    """
    try:
        with blaming_the_path(frames.archive):
            archive = open_archive(frames.archive)
            with open(frames.archive, "rb") as file:
                return list(_members(frames, archive, file))
    except ArchiveError as err:
        raise Rejected("not_video", str(err)) from err


def _members(frames: RenderedFrames, archive: Archive, file: BinaryIO) -> Iterator[Member]:
    where = f"{frames.archive}: {frames.clip}"
    if frames.clip not in archive.clips:
        raise Rejected("not_found", f"{where} is not in {LIST_NAME} any more")
    names, places = archive.clips[frames.clip], archive.places[frames.clip]
    missing = np.flatnonzero(places[:, 0] < 0)
    if len(missing):
        text = f"{len(missing)} of {len(names)} listed frames are not there, the first {names[missing[0]]}"
        raise Rejected("not_found", f"{where}: {text}", len(missing), 0)
    archive_bytes = os.fstat(file.fileno()).st_size
    for name, (header, size) in zip(names, places.tolist(), strict=True):
        offset = _data_offset(file, header)
        if offset is None or offset + size > archive_bytes:
            raise Rejected("cut_off", f"{where}/{name} is not where the archive's directory says")
        yield Member(name, offset, size)


def _data_offset(file: BinaryIO, header: int) -> int | None:
    """Where the bytes of a member begin: behind its header, name and extra field, whose length only it knows."""
    data = os.pread(file.fileno(), _FILE_HEADER.size, header)
    if len(data) < _FILE_HEADER.size:
        return None
    signature, name_bytes, extra_bytes = _FILE_HEADER.unpack(data)
    return header + len(data) + name_bytes + extra_bytes if signature == b"PK\x03\x04" else None


def fingerprint(media: Sequence[RenderedFrames]) -> list[Any]:
    """JSON values that change when a clip or its archives do, without reading its frames.

    Raises:
      Rejected: `not_found` or `forbidden`.
      OSError: the machine failed.
    """
    looks = []
    for frames in media:
        found = stat_file(frames.archive, frames.archive)
        looks.append([frames.role, frames.archive, frames.clip, found.st_size, found.st_mtime_ns])
    return looks


def size_bytes(media: Sequence[RenderedFrames]) -> int:
    """Bytes of a clip's frames together, at all its resolutions; raises as `clip_members` does."""
    return sum(member.size_bytes for clip in find_frames(media) for member in clip.members)


def content_hash(media: Sequence[RenderedFrames]) -> str:
    """sha256 of what a clip holds: role, sizes and bytes of its frames, in order, of each resolution.

    Neither the archives nor any name is part of it: a clip that is packed again keeps its artefacts.

    Raises:
      Rejected: as `clip_members` does.
    """
    digest = hashlib.sha256()
    for clip in find_frames(media):
        sizes = [member.size_bytes for member in clip.members]
        digest.update(ids.canonical_json([clip.role, sizes]).encode())
        with open(clip.frames.archive, "rb") as file:
            for chunk in (chunk for member in clip.members for chunk in _chunks(file, member)):
                digest.update(chunk)
    return digest.hexdigest()


def _chunks(file: BinaryIO, member: Member) -> Iterator[bytes]:
    for start in range(0, member.size_bytes, _CHUNK_BYTES):
        wanted = min(_CHUNK_BYTES, member.size_bytes - start)
        chunk = os.pread(file.fileno(), wanted, member.offset_bytes + start)
        if len(chunk) < wanted:
            raise Rejected("cut_off", f"{file.name}: {member.name} ends early")
        yield chunk


# ---- probing --------------------------------------------------------------------------------------


def probe(found: Sequence[ClipFrames], folder: Path, max_pixels: int) -> video.Probe:
    """Looks at the headers of all frames of a clip; nothing is decoded.

    Writes `packets.npy` (video.PACKET) to `folder`: frame k is shown at k / frame rate exactly. Sizes are
    those of the high resolution, of the low one where there is no other. A frame whose header cannot be
    read is left for `copy_span` to find.

    Raises:
      Rejected: no_frames, not_video, mixed_sizes, too_many_pixels or unsupported_colour.
    """
    headers = {clip.role: _common_header(clip, max_pixels) for clip in found}
    height, width, _, subsampling = headers.get("high") or headers["low"]
    save_array(folder / "packets.npy", _packets(len(found[0].members)))
    return video.Probe(
        container="longvideogan_zip",
        codec="mjpeg",
        pixel_format="gray" if subsampling == "Gray" else f"yuvj{subsampling}p",
        width=width,
        height=height,
        rotation_degrees=0,
        sample_aspect_ratio="1",
        interlaced=False,
        colour_matrix="bt601",  # JFIF 1.02, section 7
        colour_range="full",
        time_base=str(1 / Fraction(found[0].frames.frame_rate)),
        num_leading_frames_dropped=0,
        num_frames_cut_off=0,
        times_counted=False,
    )


def _packets(num_frames: int) -> np.ndarray:
    """PACKET [num_frames]: every frame a key frame, at 0, 1, 2 ..."""
    packets = np.ones(num_frames, video.PACKET)
    packets["pts"] = packets["dts"] = np.arange(num_frames)
    return packets


def _common_header(clip: ClipFrames, max_pixels: int) -> tuple[int, int, str, str]:
    """Height, width, colour space and subsampling of a clip's first frame; all have its size."""
    where = f"{clip.frames.archive}: {clip.frames.clip}"
    if not clip.members:
        raise Rejected("no_frames", f"{where} lists no frame")
    with open(clip.frames.archive, "rb") as file:
        headers = [_header(file, member) for member in clip.members]
    first = headers[0]
    if first is None:
        raise Rejected("not_video", f"{where}/{clip.members[0].name} is no JPEG")
    height, width, colours, _ = first
    if height * width > max_pixels:
        text = f"{where}: {width}x{height} pixels; the limit is {max_pixels}"
        raise Rejected("too_many_pixels", text, height * width, max_pixels)
    if colours not in ("YCbCr", "Gray", "RGB"):
        raise Rejected("unsupported_colour", f"{where}: JPEGs of colour space {colours} are not supported")
    expected = size_of_folder(Path(clip.frames.archive).parent.name) or (height, width)
    for member, header in zip(clip.members, headers, strict=True):
        if header is not None and header[:2] != expected:
            text = f"{where}/{member.name} is {folder_of_size(*header[:2])}, not {folder_of_size(*expected)}"
            raise Rejected("mixed_sizes", text)
    return first


def _header(file: BinaryIO, member: Member) -> tuple[int, int, str, str] | None:
    """Height, width, colour space and subsampling of a JPEG; None where it has no readable header."""
    for num_bytes in (min(_HEAD_BYTES, member.size_bytes), member.size_bytes):
        with contextlib.suppress(ValueError):
            return simplejpeg.decode_jpeg_header(os.pread(file.fileno(), num_bytes, member.offset_bytes))
    return None


# ---- copying --------------------------------------------------------------------------------------


def copy_span(found: Sequence[ClipFrames], job: spans.SpanJob, folder: Path) -> dict[str, int]:
    """Copies the wanted frames of a span to `folder`, in the files that `spans.render_span` writes.

    High-res JPEGs are copied byte for byte; without a high archive their size is 0. Low-res frames are the
    low JPEGs decoded, without a low archive the high ones resized (Pillow's Lanczos). A frame that does not
    decode at one of its resolutions is left out of the index.
    """
    packets = _packets(len(found[0].members))
    grid = spans.grid_of(packets, Fraction(job.video.time_base), job.video.grid_rate)
    wanted = np.unique(np.concatenate([grid.ordinals[a:b] for a, b in job.span.wanted]))
    rows: list[tuple[int, int, int, int]] = []
    with contextlib.ExitStack() as stack:
        low_file = stack.enter_context(open(folder / "low.u8", "wb"))
        high_file = stack.enter_context(open(folder / "high.jpgs", "wb"))
        files = {clip.role: stack.enter_context(open(clip.frames.archive, "rb")) for clip in found}
        for ordinal in wanted.tolist():
            members = {clip.role: clip.members[ordinal] for clip in found}
            jpegs = {r: os.pread(files[r].fileno(), m.size_bytes, m.offset_bytes) for r, m in members.items()}
            low = _low_picture(jpegs, job)
            if low is None:
                continue
            high_jpeg = jpegs.get("high", b"")
            rows.append((ordinal, len(rows), high_file.tell(), len(high_jpeg)))
            low_file.write(low.tobytes())
            high_file.write(high_jpeg)
    save_array(folder / "index.npy", np.array(rows, spans.INDEX))
    return {"num_frames": len(rows), "num_missing": len(wanted) - len(rows)}


def _low_picture(jpegs: dict[str, bytes], job: spans.SpanJob) -> np.ndarray | None:
    """uint8 [h, w, 3]: the low-res frame of JPEGs by role; None where one of them does not decode."""
    sizes = {"low": job.low, "high": job.high}
    try:
        pictures = {role: _decode(jpeg, sizes[role]) for role, jpeg in jpegs.items()}
    except ValueError:
        return None
    if "low" in pictures:
        return pictures["low"]
    height, width = job.low
    resized = Image.fromarray(pictures["high"]).resize((width, height), Image.Resampling.LANCZOS)
    return np.asarray(resized)


def _decode(jpeg: bytes, size: tuple[int, int]) -> np.ndarray:
    """uint8 [H, W, 3] sRGB; raises ValueError where it is no whole JPEG of that (height, width)."""
    found = simplejpeg.decode_jpeg_header(jpeg)[:2]
    if found != size:
        raise ValueError(f"{folder_of_size(*found)}, expected {folder_of_size(*size)}")
    return simplejpeg.decode_jpeg(jpeg)
