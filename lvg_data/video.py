"""The only user of a decoder: what a file holds, and its frames by exact presentation time.

A packet scan (no decoding) gives the time of every frame before the first one is decoded, so that "frames
expected" is known and each decoded frame is placed by its time, never by counting.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.error
import ffmpeg
import imageio_ffmpeg
import numpy as np

from lvg_data.errors import Rejected
from lvg_data.render import matrix_of, readable

#: raised when a probe would say something else about the same file
VERSION = 1
#: one packet of the video stream, in the file's (decoding) order
PACKET = np.dtype([("pts", "<i8"), ("dts", "<i8"), ("key", "?"), ("shown", "?")])
_MISSING = np.iinfo(np.int64).min
_HDR_TRANSFERS = {16: "PQ (SMPTE ST 2084)", 18: "HLG (ARIB STD-B67)"}  # ITU-T H.273, table 3


def library_versions() -> tuple[str, ...]:
    """What decides the decoded pixels: FFmpeg's libraries and PyAV."""
    libraries = [f"{name} {'.'.join(map(str, v))}" for name, v in sorted(av.library_versions.items())]
    return (f"av {av.__version__}", *libraries)


@dataclass(frozen=True)
class Probe:
    """What a file holds. Pixel sizes are coded ones; see `records.Video` for the columns made of it."""

    container: str
    codec: str
    pixel_format: str
    width: int
    height: int
    rotation_degrees: int
    sample_aspect_ratio: str
    interlaced: bool
    colour_matrix: str
    colour_range: str
    time_base: str
    num_leading_frames_dropped: int
    remuxed: bool


def open_video(path: str) -> tuple[Any, Any]:
    """Container and its video stream, decoding on one thread.

    Raises:
      Rejected: `not_video`, or `no_video_stream` (attached pictures do not count).
    """
    try:
        container = av.open(path, options={"protocol_whitelist": "file"}, metadata_errors="ignore")
    except (av.error.FFmpegError, UnicodeDecodeError) as err:
        if isinstance(err, MemoryError):
            raise
        raise Rejected("not_video", f"{Path(path).name}: {err}") from err
    streams = [s for s in container.streams.video if not s.disposition & s.disposition.attached_pic]
    if not streams:
        container.close()
        raise Rejected("no_video_stream", f"{Path(path).name} has no video stream")
    stream = streams[0]
    stream.codec_context.thread_count = 1
    return container, stream


def scan_packets(path: str) -> np.ndarray:
    """PACKET [N] in decoding order, without decoding. Missing times are the smallest int64."""
    container, stream = open_video(path)
    rows = []
    with container:
        try:
            for packet in container.demux(stream):
                if packet.size:
                    pts = _MISSING if packet.pts is None else packet.pts
                    dts = _MISSING if packet.dts is None else packet.dts
                    rows.append((pts, dts, packet.is_keyframe, not packet.is_discard))
        except (av.error.InvalidDataError, av.error.EOFError):
            pass  # a file that was cut off: what came before is what it holds
    return np.array(rows, PACKET)


def times_are_sound(packets: np.ndarray) -> bool:
    shown = packets["pts"][packets["shown"]]
    return bool(len(shown) and (shown != _MISSING).all() and len(np.unique(shown)) == len(shown))


def decodable(packets: np.ndarray) -> np.ndarray:
    """`packets` with those no longer shown that come before the first key frame in presentation order."""
    keys = np.flatnonzero(packets["key"])
    if not len(keys):
        raise Rejected("no_frames", "no key frame to begin decoding at")
    kept = packets.copy()
    kept["shown"] &= kept["pts"] >= kept["pts"][keys[0]]
    return kept


def presentation_times(packets: np.ndarray) -> np.ndarray:
    """int64 [num_frames], increasing: the times of the frames that the file shows."""
    return np.sort(packets["pts"][packets["shown"]])


def probe(path: str, folder: Path, max_pixels: int) -> Probe:
    """Looks at a whole file: every packet, and the first frame decoded.

    Writes `packets.npy` (PACKET) to `folder`, and `remuxed.mkv` where the file's times were missing or
    repeated and a remux gave it sound ones.

    Raises:
      Rejected: no video, no frames, broken times, HDR, unsupported colours, or too many pixels.
    """
    packets, remuxed = scan_packets(path), False
    if len(packets) and not times_are_sound(packets):
        path, remuxed = str(remux(path, folder / "remuxed.mkv")), True
        packets = scan_packets(path)
        if not times_are_sound(packets):
            raise Rejected("broken_times", f"{Path(path).name}: times missing or repeated, also remuxed")
    if not len(packets):
        raise Rejected("no_frames", f"{Path(path).name} has no video packet")
    kept = decodable(packets)
    result = _describe(path, max_pixels, int(packets["shown"].sum() - kept["shown"].sum()), remuxed)
    np.save(folder / "packets.npy", kept)
    return result


def _describe(path: str, max_pixels: int, num_dropped: int, remuxed: bool) -> Probe:
    container, stream = open_video(path)
    with container:
        size = stream.codec_context.width * stream.codec_context.height
        if size > max_pixels:
            text = f"{stream.codec_context.width}x{stream.codec_context.height} pixels; the limit is {max_pixels}"
            raise Rejected("too_many_pixels", text, size, max_pixels)
        frame = _first_frame(container, stream)
        transfer = _HDR_TRANSFERS.get(int(frame.color_trc or stream.codec_context.color_trc))
        if transfer:
            raise Rejected("hdr", f"{transfer} would need tone mapping; give the SDR version of this video")
        rgb = readable(frame).format.name.startswith("gbr")
        full = int(frame.color_range) == 2 or rgb or frame.format.name.startswith("yuvj")
        aspect = stream.sample_aspect_ratio or Fraction(1)
        return Probe(
            container=container.format.name,
            codec=stream.codec_context.codec.canonical_name,
            pixel_format=frame.format.name,
            width=frame.width,
            height=frame.height,
            rotation_degrees=int(frame.rotation) % 360,
            sample_aspect_ratio=str(aspect if aspect > 0 else Fraction(1)),
            interlaced=bool(frame.interlaced_frame),
            colour_matrix=matrix_of(int(frame.colorspace), rgb, frame.height),
            colour_range="full" if full else "limited",
            time_base=str(stream.time_base),
            num_leading_frames_dropped=num_dropped,
            remuxed=remuxed,
        )


def _first_frame(container: Any, stream: Any) -> Any:
    for packet in container.demux(stream):
        try:
            for frame in packet.decode():
                return frame
        except av.error.InvalidDataError:
            continue
    raise Rejected("no_frames", "no packet of the video stream decodes")


def remux(path: str, out: Path) -> Path:
    """Copies the video stream into Matroska with generated presentation times; nothing is encoded.

    Raises:
      Rejected: FFmpeg cannot read or write it.
    """
    stream = ffmpeg.input(path, fflags="+genpts", protocol_whitelist="file,pipe").video
    command = ffmpeg.output(stream, str(out), c="copy", f="matroska").overwrite_output()
    result = subprocess.run(
        command.compile(imageio_ffmpeg.get_ffmpeg_exe()), capture_output=True, stdin=subprocess.DEVNULL
    )
    if result.returncode:
        raise Rejected("broken_times", f"remux failed: {result.stderr.decode(errors='replace')[-400:]}")
    return out


class FrameReader:
    """Decodes the frames of one stretch of a file, each known by its place in presentation order.

    Args:
      path: the file.
      packets: PACKET [N] of the whole file, as `probe` wrote them.
      start, stop: ordinals of the first frame and of the one after the last. Decoding begins at the last
        key frame from which `start` can be reached.

    Attributes:
      damaged: after iteration, ordinals in [start, stop) that did not decode, or that depend on something
        that did not.
    """

    def __init__(self, path: str, packets: np.ndarray, start: int, stop: int) -> None:
        self.path, self.packets = path, packets
        self.start, self.stop = start, stop
        self.pts = presentation_times(packets)
        self.damaged: set[int] = set()
        inside = packets["shown"] & (packets["pts"] >= self.pts[start]) & (packets["pts"] <= self.pts[stop - 1])
        self.last = int(np.flatnonzero(inside)[-1])
        self.first = self._key_before(int(np.flatnonzero(inside)[0]))

    def _key_before(self, packet: int) -> int:
        """The last key packet at or before `packet` that is also presented at or before `start`."""
        fits = self.packets["key"][: packet + 1] & (self.packets["pts"][: packet + 1] <= self.pts[self.start])
        return int(np.flatnonzero(fits)[-1])

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        """(ordinal, decoded frame), as the decoder gives them; damaged ones can be among them."""
        container, packets = self._packets_from_key()
        with container:
            context = container.streams.video[packets.stream_index].codec_context
            for number, packet in packets:
                try:
                    frames = context.decode(packet)
                except av.error.InvalidDataError:
                    if not self._leads(int(self.packets["pts"][number])):
                        self._damage_from(number)
                    continue
                yield from self._placed(frames)
            try:
                yield from self._placed(context.decode(None))
            except (av.error.InvalidDataError, av.error.EOFError):
                pass

    def _placed(self, frames: list[Any]) -> Iterator[tuple[int, Any]]:
        for frame in frames:
            if frame.pts is None:
                continue
            ordinal = int(np.searchsorted(self.pts, frame.pts))
            if ordinal >= len(self.pts) or self.pts[ordinal] != frame.pts:
                continue  # a frame that the file does not show, or one from before the first key frame
            if ordinal < self.start and self._leads(frame.pts):
                continue
            if frame.is_corrupt:
                self._damage_from(int(np.flatnonzero(self.packets["pts"] == frame.pts)[0]))
            if self.start <= ordinal < self.stop:
                yield ordinal, frame

    def _leads(self, pts: int) -> bool:
        """Whether a frame precedes, on screen, the key frame that decoding began at (open GOP)."""
        return pts < int(self.packets["pts"][self.first])

    def _damage_from(self, number: int) -> None:
        """Marks what decodes from packet `number` on, until a key frame cleans the picture.

        Frames after that key frame in the file but before it on screen lean on what came before, too.
        """
        keys = np.flatnonzero(self.packets["key"][number + 1 :])
        key = number + 1 + int(keys[0]) if len(keys) else len(self.packets)
        hit = np.zeros(len(self.packets), bool)
        hit[number:key] = True
        if key < len(self.packets):
            hit[key:] = self.packets["pts"][key:] < self.packets["pts"][key]
        times = self.packets["pts"][hit & self.packets["shown"]]
        ordinals = np.searchsorted(self.pts, times)
        self.damaged.update(int(o) for o in ordinals if self.start <= o < self.stop)

    def _packets_from_key(self) -> tuple[Any, _Packets]:
        """Open container and packets from the key frame on: by seeking, else by reading up to it."""
        for seek in (True, False) if self.first else (False,):
            container, stream = open_video(self.path)
            packets = _Packets(container, stream, self.packets, self.first, self.last)
            if packets.find_first(seek):
                return container, packets
            container.close()
        raise Rejected("decode_error", f"packet {self.first} of the scan is not there on a second reading")


class _Packets:
    """Packets [first, last] of a file with their numbers in the scan."""

    def __init__(self, container: Any, stream: Any, scan: np.ndarray, first: int, last: int) -> None:
        self.container, self.stream, self.scan = container, stream, scan
        self.first, self.last = first, last
        self.stream_index = container.streams.video.index(stream)
        self._demuxed: Iterator[Any] = iter(())
        self._found: Any = None

    def find_first(self, seek: bool) -> bool:
        """Reads up to packet `first`; False where a seek landed behind it."""
        wanted = (int(self.scan["pts"][self.first]), int(self.scan["dts"][self.first]))
        if seek:
            try:
                self.container.seek(wanted[0], stream=self.stream, backward=True)
            except av.error.FFmpegError:
                return False
        self._demuxed = (p for p in self._readable() if p.size)
        for packet in self._demuxed:
            dts = _MISSING if packet.dts is None else packet.dts
            if packet.is_keyframe and (packet.pts, dts) == wanted:
                self._found = packet
                return True
            if seek and packet.pts is not None and packet.is_keyframe and packet.pts > wanted[0]:
                return False
        return False

    def _readable(self) -> Iterator[Any]:
        try:
            yield from self.container.demux(self.stream)
        except (av.error.InvalidDataError, av.error.EOFError):
            return

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        yield self.first, self._found
        for number in range(self.first + 1, self.last + 1):
            packet = next(self._demuxed, None)
            if packet is None:
                return
            yield number, packet


def sample_key_frames(path: str, packets: np.ndarray, count: int) -> Iterator[Any]:
    """Up to `count` decoded key frames, evenly spread over the video."""
    pts = presentation_times(packets)
    keys = np.searchsorted(pts, packets["pts"][packets["key"] & packets["shown"]])
    chosen = keys[np.unique(np.linspace(0, len(keys) - 1, min(count, len(keys))).round().astype(int))]
    for ordinal in chosen:
        for _, frame in FrameReader(path, packets, int(ordinal), int(ordinal) + 1):
            yield frame


def luma(frame: Any, full_range: bool) -> np.ndarray:
    """float32 [H, W]: a frame's luma, 0..255 full range."""
    grey = frame.reformat(format="gray16le" if frame.format.components[0].bits > 8 else "gray")
    values = grey.to_ndarray().astype(np.float32)
    if grey.format.name != "gray":
        values /= 257
    return values
