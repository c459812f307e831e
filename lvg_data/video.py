"""The only user of a decoder: what a file holds, and its frames by exact presentation time.

A packet scan (no decoding) gives the time of every frame before the first one is decoded, so that "frames
expected" is known and each decoded frame is placed by its time, never by counting.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.error
import numpy as np
from av.video.reformatter import ColorRange

from lvg_data.arrays import save_array
from lvg_data.errors import Rejected
from lvg_data.render import matrix_of, readable, repacked

#: raised when a probe would say something else about the same file
VERSION = 3
#: FFmpeg's names of the containers that are opened, and of streams without one. Not among them: playlists (hls,
#: dash, concat, imf, sdp), which name other files and hosts, single pictures and devices
CONTAINERS = ("apng", "asf", "av1", "avi", "dv", "flv", "gif", "gxf", "h261", "h263", "h264", "hevc", "ivf", "m4v",
              "matroska", "mjpeg", "mov", "mpeg", "mpegts", "mpegvideo", "mxf", "nut", "obu", "ogg", "rm", "vc1",
              "vvc", "wtv", "yuv4mpegpipe")  # fmt: skip
#: largest picture that is decoded where nobody says less: FFmpeg's own bound would be 2^31
MOST_PIXELS = 1 << 28
#: longest time from a video's first frame to its last; clocks that were set on the way jump by years
MAX_DURATION_S = 366 * 24 * 3600
#: frames whose order is looked at to tell whether a file's times can be trusted
_ORDER_SAMPLES = 24
#: key frames before the wanted one to seek to, until a seek lands early enough
_SEEK_BACKS = (0, 2, 8)
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
    num_frames_cut_off: int
    times_counted: bool


def open_video(path: str, max_pixels: int = MOST_PIXELS) -> tuple[Any, Any]:
    """Container and its video stream, decoding on one thread.

    Nothing but this one file is opened, whatever it is or names.

    Raises:
      Rejected: `not_video`, `no_video_stream` (attached pictures do not count), `no_decoder`, `too_many_pixels`.
    """
    options = {
        "protocol_whitelist": "file",
        "format_whitelist": ",".join(CONTAINERS),
        "max_pixels": str(max_pixels),
    }
    try:
        # A path that begins with / is never taken for an address: `data:` and `subfile,,` are names then.
        container = av.open(os.path.abspath(path), options=options, metadata_errors="ignore")
    except (av.error.FFmpegError, UnicodeDecodeError) as err:
        _raise_if_memory(err)
        raise Rejected("not_video", f"{Path(path).name}: {err}") from err
    try:
        return container, _video_stream(container, Path(path).name, max_pixels)
    except BaseException:
        container.close()
        raise


def _video_stream(container: Any, name: str, max_pixels: int) -> Any:
    streams = [s for s in container.streams.video if not s.disposition & s.disposition.attached_pic]
    if not streams:
        raise Rejected("no_video_stream", f"{name} has no video stream")
    context = streams[0].codec_context
    if context is None:
        raise Rejected("no_decoder", f"{name}: there is no decoder for its video stream")
    size = context.width * context.height
    if size > max_pixels:
        text = f"{context.width}x{context.height} pixels; the limit is {max_pixels}"
        raise Rejected("too_many_pixels", text, size, max_pixels)
    context.thread_count = 1
    context.options = {"max_pixels": str(max_pixels)}
    return streams[0]


def _raise_if_memory(err: Exception) -> None:
    """Whatever else FFmpeg says of a file is about the file."""
    if isinstance(err, MemoryError):
        raise err


def scan_packets(path: str, max_pixels: int = MOST_PIXELS) -> np.ndarray:
    """PACKET [N] in decoding order, without decoding. Missing times are the smallest int64.

    Of a file that ends inside a frame that its index promises, that frame counts as cut off, not as there.

    Raises:
      Rejected: as `open_video` does, or `drm`.
    """
    container, stream = open_video(path, max_pixels)
    rows = []
    is_partial = False
    with container:
        try:
            for packet in container.demux(stream):
                if packet.has_sidedata("encryption_info"):
                    raise Rejected("drm", f"{Path(path).name} is encrypted")
                if packet.size:
                    pts = _MISSING if packet.pts is None else packet.pts
                    dts = _MISSING if packet.dts is None else packet.dts
                    rows.append((pts, dts, packet.is_keyframe, not packet.is_discard))
                    is_partial = packet.is_corrupt
        except av.error.FFmpegError as err:
            _raise_if_memory(err)  # else a file that was cut off: what came before is what it holds
        if rows and ((is_partial and stream.frames) or _lacks_trailer(container, path)):
            rows.pop()
    return np.array(rows, PACKET)


def _lacks_trailer(container: Any, path: str) -> bool:
    """Whether a GIF ends without its last byte (GIF89a, 27): its decoder paints half a picture and says nothing."""
    if container.format.name != "gif":
        return False
    with open(path, "rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read() != b";"


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
    return np.sort(packets["pts"][packets["shown"]], kind="stable")  # fast where nearly sorted


def probe(path: str, folder: Path, max_pixels: int) -> Probe:
    """Looks at a whole file: every packet, and its first frames decoded.

    Writes `packets.npy` (PACKET) to `folder`. Where a file stores no usable presentation times (elementary
    streams, AVI with reordered frames) its frames are counted as they leave the decoder, at the rate that
    the file declares.

    Raises:
      Rejected: no video, no frames, HDR, unsupported colours, too many pixels, broken times, or encrypted.
    """
    packets = scan_packets(path, max_pixels)
    if not len(packets):
        raise Rejected("no_frames", f"{Path(path).name} has no video packet")
    counted = not (times_are_sound(packets) and _output_is_in_order(path, max_pixels))
    kept = counted_packets(packets) if counted else decodable(packets)
    result = _describe(path, max_pixels, packets, kept, counted)
    save_array(folder / "packets.npy", kept)
    return result


def counted_packets(packets: np.ndarray) -> np.ndarray:
    """`packets` with times 0, 1, 2 ..., to be decoded in one go from the first.

    Those that are not shown leave no frame, and have the time of the next one that is.
    """
    if not packets["shown"].any():
        raise Rejected("no_frames", "the file shows none of its frames")
    counted = packets.copy()
    counted["pts"] = counted["dts"] = np.cumsum(packets["shown"]) - packets["shown"]
    counted["key"] = np.arange(len(packets)) == 0
    return counted


def _check_duration(pts: np.ndarray, time_base: Fraction) -> None:
    seconds = (int(pts[-1]) - int(pts[0])) * time_base  # as whole numbers of Python: there is no largest one
    if seconds > MAX_DURATION_S:
        text = f"{float(seconds):.0f} s from the first frame to the last; the limit is {MAX_DURATION_S}"
        raise Rejected("broken_times", text, float(seconds), MAX_DURATION_S)


def _output_is_in_order(path: str, max_pixels: int) -> bool:
    """Whether the first frames leave the decoder in the order of their times."""
    times = []
    container, stream = open_video(path, max_pixels)
    with container:
        for frame in _decoded(container, stream):
            times.append(frame.pts)
            if len(times) == _ORDER_SAMPLES:
                break
    return None not in times and times == sorted(times)


def _decoded(container: Any, stream: Any) -> Iterator[Any]:
    """Frames from where the file stands; packets that do not decode are stepped over."""
    try:
        for packet in container.demux(stream):
            try:
                yield from packet.decode()
            except av.error.FFmpegError as err:
                _raise_if_memory(err)
    except av.error.FFmpegError as err:
        _raise_if_memory(err)


def _describe(path: str, max_pixels: int, packets: np.ndarray, kept: np.ndarray, counted: bool) -> Probe:
    container, stream = open_video(path, max_pixels)
    with container:
        frame = next(_decoded(container, stream), None)
        if frame is None:
            text = f"no packet of the video stream decodes to a picture of at most {max_pixels} pixels"
            raise Rejected("no_frames", text)
        transfer = _HDR_TRANSFERS.get(int(frame.color_trc or stream.codec_context.color_trc))
        if transfer:
            raise Rejected("hdr", f"{transfer} would need tone mapping; give the SDR version of this video")
        time_base = 1 / _declared_rate(stream) if counted else stream.time_base
        _check_duration(presentation_times(kept), time_base)
        rgb = readable(frame).format.name.startswith("gbr")
        full = int(frame.color_range) == 2 or rgb or frame.format.name.startswith("yuvj")
        aspect = stream.sample_aspect_ratio or Fraction(1)
        return Probe(
            container=container.format.name,
            codec=stream.codec_context.codec.canonical_name,
            pixel_format=frame.format.name,
            width=frame.width,
            height=frame.height,
            rotation_degrees=round(frame.rotation / 90) * 90 % 360,  # a display turns by quarters
            sample_aspect_ratio=str(aspect if aspect > 0 else Fraction(1)),
            interlaced=bool(frame.interlaced_frame),
            colour_matrix=matrix_of(int(frame.colorspace), rgb, frame.height),
            colour_range="full" if full else "limited",
            time_base=str(time_base),
            num_leading_frames_dropped=int(packets["shown"].sum() - kept["shown"].sum()),
            num_frames_cut_off=max(0, stream.frames - len(packets)),
            times_counted=counted,
        )


def _declared_rate(stream: Any) -> Fraction:
    """Frames per second by the file's own word, 25 where it has none (FFmpeg's default too)."""
    return Fraction(stream.guessed_rate or stream.average_rate or 25)


#: limited-range luma 16..235 (BT.601-7, 2.5.3) at 0..255
_EXPANDED_LUMA = np.clip(np.round((np.arange(256) - 16) * (255 / 219)), 0, 255).astype(np.uint8).tobytes()


class FrameReader:
    """Decodes the frames of one stretch of a file, each known by its place in presentation order.

    Args:
      path: the file.
      packets: PACKET [N] of the whole file, as `probe` wrote them.
      start, stop: ordinals of the first frame and of the one after the last. Decoding begins at the last
        key frame from which `start` can be reached.
      counted: the file's times are of no use; frames are counted from the first (see `probe`).
      preroll: begin this many key frames earlier; for streams that need time to recover after a key frame.
      opened: the file's container and stream, of `open_video`, to use where it can be sought in; it stays open.

    Attributes:
      damaged: after iteration, ordinals in [start, stop) that did not decode, or that depend on something
        that did not.
    """

    def __init__(
        self, path: str, packets: np.ndarray, start: int, stop: int, counted: bool = False, preroll: int = 0,
        opened: tuple[Any, Any] | None = None,
    ) -> None:  # fmt: skip
        self.path, self.packets, self.counted, self.opened = path, packets, counted, opened
        self._num_out = 0
        self.start, self.stop = start, stop
        self.pts = presentation_times(packets)
        self.damaged: set[int] = set()
        inside = (
            packets["shown"] & (packets["pts"] >= self.pts[start]) & (packets["pts"] <= self.pts[stop - 1])
        )
        # Counted frames leave the decoder some packets after their own; it is read until they are out.
        self.last = len(packets) - 1 if counted else int(np.flatnonzero(inside)[-1])
        self.first = self._key_before(int(np.flatnonzero(inside)[0]), preroll)

    def _key_before(self, packet: int, preroll: int) -> int:
        """The last key packet at or before `packet` that is also presented at or before `start`."""
        fits = self.packets["key"][: packet + 1] & (self.packets["pts"][: packet + 1] <= self.pts[self.start])
        keys = np.flatnonzero(fits)
        return int(keys[max(0, len(keys) - 1 - preroll)])

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        """(ordinal, decoded frame), as the decoder gives them; damaged ones can be among them."""
        with contextlib.ExitStack() as held:
            packets = self._packets_from_key(held)
            context = packets.stream.codec_context
            for number, packet in packets:
                try:
                    frames = context.decode(packet)
                except av.error.FFmpegError as err:
                    _raise_if_memory(err)
                    if self.counted:
                        self._lose_count()
                    elif not self._leads(int(self.packets["pts"][number])):
                        self._damage_from(number)
                    continue
                yield from self._placed(frames)
                if self.counted and self._num_out >= self.stop:
                    return
            try:
                rest = context.decode(None)
            except av.error.FFmpegError as err:
                _raise_if_memory(err)
            else:
                yield from self._placed(rest)

    def _placed(self, frames: list[Any]) -> Iterator[tuple[int, Any]]:
        for frame in frames:
            if self.counted:
                frame.pts, self._num_out = self._num_out, self._num_out + 1
            if frame.pts is None:
                continue
            ordinal = int(self.pts.searchsorted(frame.pts))
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

    def _lose_count(self) -> None:
        """Marks every frame that is not out yet: after a packet without a picture none can be told by counting."""
        self.damaged.update(range(max(self.start, self._num_out), self.stop))

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

    def _seek_targets(self) -> list[int | None]:
        """Times to seek to, in turn, until one lands at or before the first packet; None reads from the start.

        Transport streams have no index, and a seek in one often lands behind its target.
        """
        if not self.first:
            return [None]
        keys = self.packets["pts"][: self.first + 1][self.packets["key"][: self.first + 1]]
        return [*(int(keys[-1 - back]) for back in _SEEK_BACKS if back < len(keys)), None]

    def _packets_from_key(self, held: contextlib.ExitStack) -> _Packets:
        """Packets from the key frame on, by seeking, else by reading up to it; what they need open is for `held`."""
        for target in self._seek_targets():
            with contextlib.ExitStack() as tried:
                if target is None or self.opened is None:
                    container, stream = open_video(self.path)
                    tried.enter_context(container)
                else:
                    container, stream = self.opened
                packets = _Packets(container, stream, self.packets, self.first, self.last)
                if packets.find_first(target):
                    held.enter_context(tried.pop_all())
                    return packets
        raise Rejected("decode_error", f"packet {self.first} of the scan is not there on a second reading")


class _Packets:
    """Packets [first, last] of a file with their numbers in the scan."""

    def __init__(self, container: Any, stream: Any, scan: np.ndarray, first: int, last: int) -> None:
        self.container, self.stream, self.scan = container, stream, scan
        self.first, self.last = first, last
        self._demuxed: Iterator[Any] = iter(())
        self._found: Any = None

    def find_first(self, target: int | None) -> bool:
        """Reads up to packet `first` from time `target`; False where a seek landed behind it."""
        if self.first == 0 and target is None:
            self._demuxed = (p for p in self._readable() if p.size)
            self._found = next(self._demuxed, None)
            return self._found is not None
        wanted = (int(self.scan["pts"][self.first]), int(self.scan["dts"][self.first]))
        if target is not None:
            try:
                self.container.seek(target, stream=self.stream, backward=True)
            except av.error.FFmpegError as err:
                _raise_if_memory(err)
                return False
        self._demuxed = (p for p in self._readable() if p.size)
        for packet in self._demuxed:
            dts = _MISSING if packet.dts is None else packet.dts
            if packet.is_keyframe and (packet.pts, dts) == wanted:
                self._found = packet
                return True
            if (
                target is not None
                and packet.is_keyframe
                and packet.pts is not None
                and packet.pts > wanted[0]
            ):
                return False
        return False

    def _readable(self) -> Iterator[Any]:
        try:
            yield from self.container.demux(self.stream)
        except av.error.FFmpegError as err:
            _raise_if_memory(err)

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        yield self.first, self._found
        for number in range(self.first + 1, self.last + 1):
            packet = next(self._demuxed, None)
            if packet is None:
                return
            yield number, packet


class PictureDecoder:
    """Decodes single pictures.

    Args:
      codec: FFmpeg's name of the decoder, "mjpeg" or "png".
    """

    def __init__(self, codec: str) -> None:
        self.codec = codec

    def decode(self, data: bytes) -> Any | None:
        """The frame, of full range as pictures are (see `probe_of_picture`); None for other than one whole picture."""
        context: Any = av.CodecContext.create(self.codec, "r")
        context.thread_count = 1
        context.options = {"err_detect": "explode"}
        try:
            frames = [*context.decode(av.Packet(data)), *context.decode(None)]
        except (av.error.FFmpegError, ValueError) as err:
            _raise_if_memory(err)
            return None
        if len(frames) != 1 or frames[0].is_corrupt:
            return None
        frames[0].color_range = ColorRange.JPEG
        return frames[0]


def probe_of_picture(frame: Any, container: str, codec: str, time_base: Fraction) -> Probe:
    """The probe of a video whose frames are pictures like this one.

    JPEG is BT.601 and full range whatever the decoder says (JFIF 1.02); so is grey, of which it may say nothing.
    """
    rgb = readable(frame).format.name.startswith("gbr")
    return Probe(
        container=container,
        codec=codec,
        pixel_format=frame.format.name,
        width=frame.width,
        height=frame.height,
        rotation_degrees=0,
        sample_aspect_ratio="1",
        interlaced=False,
        colour_matrix=matrix_of(0, True, frame.height) if rgb else "bt601",
        colour_range="full",
        time_base=str(time_base),
        num_leading_frames_dropped=0,
        num_frames_cut_off=0,
        times_counted=False,
    )


def sample_key_frames(path: str, packets: np.ndarray, counted: bool, count: int) -> Iterator[Any]:
    """Up to `count` decoded key frames, evenly spread over the video."""
    pts = presentation_times(packets)
    keys = np.searchsorted(pts, packets["pts"][packets["key"] & packets["shown"]])
    chosen = keys[np.unique(np.linspace(0, len(keys) - 1, min(count, len(keys))).round().astype(int))]
    opened = open_video(path)
    with opened[0]:
        for ordinal in chosen:
            for _, frame in FrameReader(
                path, packets, int(ordinal), int(ordinal) + 1, counted, opened=opened
            ):
                yield frame


def luma(frame: Any, full_range: bool) -> np.ndarray:
    """[H, W]: a frame's luma, 0..255 full range; uint8, and float32 where the frame has more than 8 bits."""
    bits = frame.format.components[0].bits
    if bits == 8 and frame.format.name.startswith(("yuv4", "yuvj", "nv")):
        plane = frame.planes[0]
        stored = np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)[:, : plane.width]
        levels = stored.tobytes() if full_range else stored.tobytes().translate(_EXPANDED_LUMA)
        return np.frombuffer(levels, np.uint8).reshape(stored.shape)
    if bits == 8:
        return repacked(frame, "gray").to_ndarray()
    return repacked(frame, "gray16le").to_ndarray().astype(np.float32) / 257
