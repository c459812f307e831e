"""Folders of numbered pictures as videos: one picture a frame, its number its time.

frame_00086552.jpg  ..53  ..54  ..57         numbers 55 and 56 are missing
pts            0      1     2     5          in units of 1 / frame rate
"""

from __future__ import annotations

import hashlib
import itertools
import math
import os
import re
import struct
import zlib
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lvg_data import video
from lvg_data.arrays import save_array
from lvg_data.errors import Rejected
from lvg_data.local_files import blaming_the_path
from lvg_data.records import FrameFolder

#: raised when the same folder would give other frames
VERSION = 2
#: decoder of each kind of picture, by suffix
CODECS = {".jpg": "mjpeg", ".jpeg": "mjpeg", ".png": "png"}
#: what is looked for in them, whatever their suffix
_FORMATS = ("JPEG", "PNG")
#: names of frames; what else a folder holds is none
NUMBERED = re.compile(r"(\d+)\.(?:jpe?g|png)$", re.IGNORECASE)
#: how far apart the first and the last number may be: a year of frames at 60 a second is 2^31
_MAX_SPAN = 1 << 40


def list_pictures(path: str) -> list[tuple[int, str]]:
    """(number, name) of the frames in a folder, in order of their numbers.

    Files alone, and links to some, are frames: of a pipe or a device that is called like one nothing is read.

    Raises:
      Rejected: `not_found`; `forbidden`; `no_frames`; `broken_times` where two frames have one number.
      OSError: the machine failed.
    """
    with blaming_the_path(path), os.scandir(path) as entries:
        numbered = ((match, entry) for entry in entries if (match := NUMBERED.search(entry.name)))
        visible = ((match, entry) for match, entry in numbered if not entry.name.startswith("."))
        found = sorted((int(match[1]), entry.name) for match, entry in visible if entry.is_file())
    if not found:
        raise Rejected("no_frames", f"{path} holds no .jpg or .png whose name ends in a number")
    if found[-1][0] - found[0][0] > _MAX_SPAN:
        raise Rejected("broken_times", f"{path}: from {found[0][1]} to {found[-1][1]} no video is that long")
    for (number, first), (again, second) in itertools.pairwise(found):
        if number == again:
            raise Rejected("broken_times", f"{path}: {first} and {second} have one number")
    return found


def fingerprint(path: str) -> list[tuple[str, int, int]]:
    """Name, size and time of change of each frame: how the folder looks from outside."""
    stats = ((name, os.stat(os.path.join(path, name))) for _, name in list_pictures(path))
    return [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]


def content_hash(path: str) -> str:
    """sha256 over the number and the sha256 of each frame, in order."""
    digest = hashlib.sha256()
    for number, name in list_pictures(path):
        with open(os.path.join(path, name), "rb") as file:
            digest.update(f"{number} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()


def probe(media: FrameFolder, folder: Path, max_pixels: int) -> video.Probe:
    """Looks at the header of every frame, and decodes the first; writes `packets.npy` to `folder`.

    A frame that cannot be read is for the decoder to miss: it spoils its clip, not the whole folder.

    Raises:
      Rejected: no frames, none that can be read, frames of different sizes or kinds, too many pixels.
    """
    pictures = list_pictures(media.path)
    looks = {n: look for _, n in pictures if (look := _look(media.path, n, max_pixels)) is not None}
    if not looks:
        raise Rejected("not_video", f"{media.path}: none of its {len(pictures)} frames is a picture")
    first, look = next(iter(looks.items()))
    for name, other in looks.items():
        if other != look:
            raise Rejected("mixed_sizes", f"{media.path}: {first} is {look}, {name} is {other}")
    _, width, height = look
    if width * height > max_pixels:
        text = f"{width}x{height} pixels; the limit is {max_pixels}"
        raise Rejected("too_many_pixels", text, width * height, max_pixels)
    packets = np.zeros(len(pictures), video.PACKET)
    packets["pts"] = packets["dts"] = _places([number for number, _ in pictures])
    packets["key"] = packets["shown"] = True
    save_array(folder / "packets.npy", packets)
    codec = CODECS[Path(first).suffix.lower()]
    frame = _first_frame(media.path, list(looks), codec)
    return video.probe_of_picture(frame, "frame_folder", codec, 1 / Fraction(media.frame_rate))


def _places(numbers: list[int]) -> list[int]:
    """Times of frames with these numbers. Where only every nth number is used, as in 0, 5, 10, none is missing."""
    step = math.gcd(*(number - numbers[0] for number in numbers)) if len(numbers) > 2 else 1
    return [(number - numbers[0]) // step for number in numbers]


def _look(path: str, name: str, max_pixels: int) -> tuple[str, int, int] | None:
    """Kind, width and height by a picture's header. Of PNGs grey ones are a kind: they are stored otherwise."""
    try:
        with Image.open(os.path.join(path, name), formats=_FORMATS) as image:
            grey = image.format == "PNG" and image.mode not in ("RGB", "RGBA", "P")
            return (f"{'grey ' if grey else ''}{image.format or '?'}", *image.size)
    except Image.DecompressionBombError as err:
        raise Rejected("too_many_pixels", f"{path}/{name}: {err}", None, max_pixels) from err
    except (OSError, ValueError, SyntaxError, struct.error, zlib.error):
        return None  # what Pillow's plugins raise on damaged headers; it has no one name for it


def _first_frame(path: str, names: list[str], codec: str) -> Any:
    decoder = video.PictureDecoder(codec)
    for name in names:
        frame = decoder.decode(Path(path, name).read_bytes())
        if frame is not None:
            return frame
    raise Rejected("no_frames", f"{path}: none of its frames decodes")


class PictureReader:
    """Decodes pictures [start, stop) of a folder, counted in their order; see `video.FrameReader`.

    Attributes:
      damaged: after iteration, ordinals of pictures that did not decode.
    """

    first = 0

    def __init__(self, path: str, start: int, stop: int) -> None:
        self.path, self.start, self.stop = path, start, stop
        self.damaged: set[int] = set()

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        pictures = list_pictures(self.path)[self.start : self.stop]
        decoder = video.PictureDecoder(CODECS[Path(pictures[0][1]).suffix.lower()])
        for ordinal, (_, name) in enumerate(pictures, self.start):
            frame = decoder.decode(Path(self.path, name).read_bytes())
            if frame is None:
                self.damaged.add(ordinal)
            else:
                yield ordinal, frame


def sample_pictures(path: str, count: int) -> Iterator[Any]:
    """Up to `count` decoded pictures, evenly spread over a folder."""
    num_pictures = len(list_pictures(path))
    for place in np.unique(np.linspace(0, num_pictures - 1, count).astype(int)):
        yield from (frame for _, frame in PictureReader(path, int(place), int(place) + 1))
