"""Broken and hostile media: a table of files, and what becomes of each. Nothing hangs, nothing passes its limits.

The number of a frame is painted into it, so that "frames 0 to 11" means these very pictures.
"""

from __future__ import annotations

import gzip
import io
import json
import random
import re
import socket
import struct
import tarfile
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from lvg_data import video
from lvg_data.child import ChildLimits, run_in_child
from lvg_data.config import Card
from lvg_data.errors import CardError, Rejected
from lvg_data.sources import list_sources, trajectories
from tests import hostile, videos
from tests.hostile import HEIGHT, NUM_FRAMES, WIDTH, Outcome, ffmpeg, outcome_of, plain
from tests.videos import RECIPES, write_video

ALL = tuple(range(NUM_FRAMES))
#: what one file may take here, seconds: far more than it needs, far less than a hang
SECONDS = 40


# ---- files ----------------------------------------------------------------------------------------


def as_bytes(data: bytes) -> Callable[[Path], Path]:
    def write(path: Path) -> Path:
        path.write_bytes(data)
        return path

    return write


def as_text(text: str) -> Callable[[Path], Path]:
    return as_bytes(text.encode())


def of_recipe(name: str, **changes: object) -> Callable[[Path], Path]:
    def write(path: Path) -> Path:
        how = changes.pop("how", {})
        return plain(path, replace(RECIPES[name], **changes), **how)

    return write


def patched(kind: bytes, offset: int, data: bytes) -> Callable[[Path], Path]:
    """An MP4 in which a box's bytes from `offset` on are others."""

    def write(path: Path) -> Path:
        whole = bytearray(plain(path).read_bytes())
        at = hostile.box_of(whole, kind) + offset
        whole[at : at + len(data)] = data
        path.write_bytes(whole)
        return path

    return write


def swapped(name: str, old: bytes, new: bytes, count: int = -1) -> Callable[[Path], Path]:
    """A video in which a pattern of bytes is replaced by another."""

    def write(path: Path) -> Path:
        whole = plain(path, RECIPES[name]).read_bytes()
        assert old in whole, "the pattern that is to be changed"
        path.write_bytes(whole.replace(old, new, count))
        return path

    return write


def with_times(name: str, times: list[Fraction]) -> Callable[[Path], Path]:
    return lambda path: plain(path, RECIPES[name], len(times), times=tuple(times))


def regular(start: float = 0, num_frames: int = NUM_FRAMES) -> list[Fraction]:
    return [Fraction(start) + Fraction(number, 25) for number in range(num_frames)]


def joined(*parts: tuple[str, dict]) -> Callable[[Path], Path]:
    """MPEG-TS files one after the other, numbers going on; each with changes of the recipe and of the writer."""

    def write(path: Path) -> Path:
        data = b""
        for number, (name, how) in enumerate(parts):
            changes = {key: how[key] for key in how.keys() & {"start", "pix_fmt", "bar_share", "codec"}}
            rest = {key: how[key] for key in how.keys() - changes.keys()}
            recipe = replace(RECIPES[name], **changes)
            part = plain(path.with_name(f"part{number}.ts"), recipe, 12, first_number=12 * number, **rest)
            data += part.read_bytes()
            part.unlink()
        path.write_bytes(data)
        return path

    return write


def without_times(path: Path) -> Path:
    """MPEG-TS whose PES headers say that there are no times, but for the first (ISO/IEC 13818-1, 2.4.3.6)."""
    data = bytearray(plain(path, RECIPES["h264_open_gop_ts"]).read_bytes())
    at, found = data.find(b"\x00\x00\x01\xe0"), 0
    while at >= 0:
        if found:
            data[at + 7] &= 0x3F
        found += 1
        at = data.find(b"\x00\x00\x01\xe0", at + 4)
    assert found == NUM_FRAMES
    path.write_bytes(data)
    return path


def only_cover_art(path: Path) -> Path:
    """Sound and a picture of the album: an MP4 with an attached picture, no video."""
    sound, cover = path.with_name("sound.m4a"), path.with_name("cover.png")
    videos.write_audio_only(sound)
    cover.write_bytes(hostile.picture_bytes("PNG"))
    ffmpeg(
        "-i", sound, "-i", cover, "-map", 0, "-map", 1, "-c", "copy", "-disposition:v:0", "attached_pic", path
    )
    return path


def cover_art_first(path: Path) -> Path:
    """A film whose cover is its first video stream."""
    film, cover = plain(path.with_name("film.mkv"), RECIPES["h264_mkv"]), path.with_name("cover.png")
    cover.write_bytes(hostile.picture_bytes("PNG", 99))
    maps = ("-map", 1, "-map", 0, "-c", "copy", "-disposition:v:0", "attached_pic")
    ffmpeg("-i", film, "-i", cover, *maps, "-f", "mp4", path)
    return path


def with_subtitles_and_fonts(path: Path) -> Path:
    film, words, font = (path.with_name(name) for name in ("film.mkv", "words.srt", "evil.ttf"))
    plain(film, RECIPES["h264_mkv"])
    words.write_text("1\n00:00:00,000 --> 00:00:01,000\n{\\an8}<font face='../../evil'>hello</font>\n")
    font.write_bytes(b"\0\1\0\0" + bytes(range(256)) * 40)
    font_options = ("-attach", font, "-metadata:s:t", "mimetype=application/x-truetype-font")
    ffmpeg("-i", film, "-i", words, "-map", 0, "-map", 1, "-c:v", "copy", "-c:s", "srt", *font_options, path)
    return path


def only_subtitles(path: Path) -> Path:
    words = path.with_name("words.srt")
    words.write_text("1\n00:00:00,000 --> 00:00:01,000\nhello\n")
    ffmpeg("-i", words, path)
    return path


def encrypted(*options: str) -> Callable[[Path], Path]:
    """Common encryption (ISO/IEC 23001-7), as streaming sites' protected files have it."""

    def write(path: Path) -> Path:
        film, key = plain(path.with_name("film.mp4")), "00112233445566778899aabbccddeeff"
        keys = ("-encryption_scheme", "cenc-aes-ctr", "-encryption_key", key, "-encryption_kid", key)
        ffmpeg("-i", film, "-c", "copy", *keys, *options, path)
        return path

    return write


def zero_frames(path: Path) -> Path:
    with av.open(str(path), "w", options={"movflags": "+empty_moov"}) as container:
        stream = container.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        container.start_encoding()
    return path


def raw_frames(pix_fmt: str) -> Callable[[Path], Path]:
    """NUT, which has any pixel format, under whatever name."""

    def write(path: Path) -> Path:
        with av.open(str(path), "w", format="nut") as container:
            stream = container.add_stream("rawvideo", rate=25)
            stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, pix_fmt
            for number in range(NUM_FRAMES):
                frame = av.VideoFrame(WIDTH, HEIGHT, pix_fmt)
                frame.pts, frame.time_base = number, Fraction(1, 25)
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        return path

    return write


def gif_that_claims(width: int, height: int) -> Callable[[Path], Path]:
    def write(path: Path) -> Path:
        data = bytearray(plain(path, RECIPES["gif"]).read_bytes())
        data[6:10] = struct.pack("<HH", width, height)
        path.write_bytes(data)
        return path

    return write


def mov_of_bombs(width: int, height: int) -> Callable[[Path], Path]:
    """A MOV of PNGs of 20,000 x 20,000 pixels, declared as others."""

    def write(path: Path) -> Path:
        bomb = hostile.png_bomb()
        with av.open(str(path), "w", format="mov") as container:
            stream = container.add_mux_stream("png", rate=25, width=width, height=height)
            for number in range(3):
                packet = av.Packet(bomb)
                packet.pts = packet.dts = number
                packet.time_base, packet.stream, packet.is_keyframe = Fraction(1, 25), stream, True
                container.mux(packet)
        return path

    return write


def a_frame_grows(path: Path) -> Path:
    """Motion JPEG whose sixth frame claims 65,500 x 65,500 pixels."""
    data = bytearray(plain(path, RECIPES["mjpeg_avi"]).read_bytes())
    at = -1
    for _ in range(6):
        at = data.index(b"\xff\xc0\x00\x11", at + 1)
    data[at + 5 : at + 9] = struct.pack(">HH", 65_500, 65_500)
    path.write_bytes(data)
    return path


def turned_by_45_degrees(path: Path) -> Path:
    """The matrix of the track turns by an angle that no display knows (ISO/IEC 14496-12, 8.3.2)."""
    data = bytearray(plain(path).read_bytes())
    at = hostile.box_of(data, b"tkhd") + 8 + 40
    cos = round(65536 * 2**-0.5)
    data[at : at + 36] = struct.pack(">9i", cos, cos, 0, -cos, cos, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    return path


M3U8 = "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{}\n#EXT-X-ENDLIST\n"
MPD = (
    '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
    'mediaPresentationDuration="PT1S" profiles="urn:mpeg:dash:profile:isoff-on-demand:2011"><Period>'
    '<AdaptationSet mimeType="video/mp4"><Representation id="1" bandwidth="1" width="128" height="96">'
    "<BaseURL>{}</BaseURL></Representation></AdaptationSet></Period></MPD>"
)
CONCAT = "ffconcat version 1.0\nfile '{}'\n"
SDP = "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video {} RTP/AVP 96\na=rtpmap:96 H264/90000\n"

YEARS_S = 50 * 365 * 24 * 3600

CASES: dict[str, tuple[str, Callable[[Path], Path], Outcome]] = {
    # nothing, and not what it says
    "empty": ("a.mp4", as_bytes(b""), Outcome("not_video")),
    "one_byte": ("a.mkv", as_bytes(b"\x1a"), Outcome("not_video")),
    "zeros": ("a.ts", as_bytes(bytes(100_000)), Outcome("not_video")),
    "noise": ("a.avi", as_bytes(random.Random(6).randbytes(100_000)), Outcome("not_video")),
    "html": ("a.mp4", videos.write_html, Outcome("not_video")),
    "program": ("a.webm", as_bytes(b"\x7fELF\x02\x01\x01" + bytes(5000)), Outcome("not_video")),
    "picture_as_video": ("a.mp4", as_bytes(hostile.picture_bytes("JPEG")), Outcome("not_video")),
    "font": ("a.mov", as_bytes(b"\0\1\0\0" + bytes(range(256)) * 40), Outcome("not_video")),
    "text_as_video": ("a.mp4", as_text("\x1b[2J" + "ansi art " * 500), Outcome("not_video")),
    "other_container": ("a.avi", of_recipe("h264_mkv"), Outcome(None, ALL)),
    # streams that are missing
    "zero_frames": ("a.mp4", zero_frames, Outcome("no_frames")),
    "audio_only": ("a.mp4", videos.write_audio_only, Outcome("no_video_stream")),
    "cover_art_only": ("a.m4v", only_cover_art, Outcome("no_video_stream")),
    "cover_art_before_the_film": ("a.mp4", cover_art_first, Outcome(None, ALL)),
    "subtitles_and_fonts": ("a.mkv", with_subtitles_and_fonts, Outcome(None, ALL)),
    "subtitles_only": ("a.mkv", only_subtitles, Outcome("no_video_stream")),
    "one_frame": (
        "a.mp4",
        lambda path: plain(path, num_frames=1),
        Outcome(None, (), (("too_short", 0, 1),)),
    ),
    "no_index": ("a.mp4", videos.write_without_moov, Outcome("not_video")),
    # sizes
    "gif_of_20000_pixels": ("a.gif", gif_that_claims(20_000, 20_000), Outcome("no_frames")),
    "gif_of_65535_pixels": ("a.gif", gif_that_claims(65_535, 65_535), Outcome("no_frames")),
    "y4m_of_20000_pixels": (
        "a.y4m",
        as_bytes(b"YUV4MPEG2 W20000 H20000 F25:1 Ip A1:1 C420\nFRAME\n" + bytes(90_000)),
        Outcome("not_video"),  # FFmpeg refuses the header
    ),
    "mov_of_20000_pixels": ("a.mov", mov_of_bombs(20_000, 20_000), Outcome("no_frames")),
    "mov_that_hides_20000_pixels": ("a.mov", mov_of_bombs(WIDTH, HEIGHT), Outcome("no_frames")),
    "a_frame_grows_to_65500_pixels": ("a.avi", a_frame_grows, Outcome(None, (), (("decode_error", 0, 12),))),
    "mp4_header_of_65535_pixels": (
        "a.mp4",
        patched(b"stsd", 16 + 32, b"\xff\xff\xff\xff"),
        Outcome(None, ALL),  # the stream itself says 128 x 96
    ),
    # numbers of frames
    "avi_that_claims_a_million_frames": (
        "a.avi",
        swapped("mpeg4_avi", struct.pack("<II", 0, NUM_FRAMES), struct.pack("<II", 0, 10**6)),
        Outcome(None, (), (("cut_off", 0, 12),)),
    ),
    "mp4_that_claims_a_million_sizes": (
        "a.mp4",
        patched(b"stsz", 12, struct.pack(">II", 0, 10**6)),
        Outcome("no_frames"),
    ),
    "mp4_of_a_billion_frames_of_one_byte": (
        "a.mp4",
        patched(b"stsz", 12, struct.pack(">II", 1, 10**9)),
        Outcome("no_frames"),
    ),
    "mp4_of_four_billion_times": (
        "a.mp4",
        patched(b"stts", 12, struct.pack(">III", 1, 0xFFFFFFFF, 1)),
        Outcome(None, (), (("cut_off", 0, 6),)),  # half of them are before the edit list's start by these times
    ),
    # times
    "negative_times": (
        "a.nut",
        lambda path: plain(path, replace(RECIPES["h264_no_bframes"], container="nut", start=Fraction(-5))),
        Outcome(None, ALL),
    ),
    "times_are_missing": ("a.h264", of_recipe("raw_h264"), Outcome(None, ALL)),
    "times_are_missing_but_the_first": ("a.ts", without_times, Outcome(None, ALL)),
    "a_jump_of_years": (
        "a.mkv",
        with_times("h264_mkv", regular(num_frames=6) + regular(YEARS_S, 6)),
        Outcome("broken_times"),
    ),
    "a_jump_of_months": (
        "a.mkv",
        with_times("h264_mkv", regular(num_frames=6) + regular(YEARS_S // 100, 6)),
        Outcome(None, ALL),
    ),
    "a_start_after_years": (
        "a.mkv",
        with_times("h264_mkv", regular(YEARS_S)),
        Outcome(None, ALL),
    ),
    "clock_set_back": (
        "a.ts",
        joined(("mpegts_offset", {"start": Fraction(9000)}), ("mpegts_offset", {"start": Fraction(10)})),
        Outcome(None, tuple(range(24))),  # taken for a wrap of the clock
    ),
    "clock_wraps": (
        "a.ts",
        joined(
            ("mpegts_offset", {"start": Fraction(2**33 - 36000 - 9000, 90000)}),
            ("mpegts_offset", {"start": Fraction(2**33 - 9000, 90000)}),
        ),
        Outcome(None, tuple(range(24))),
    ),
    "a_thousand_frames_a_second": (
        "a.mkv",
        with_times("h264_mkv", [Fraction(n, 1000) for n in range(NUM_FRAMES)]),
        Outcome(None, ALL),
    ),
    "ninety_thousand_frames_a_second": (
        "a.mp4",
        with_times("h264_bframes", [Fraction(n, 90_000) for n in range(NUM_FRAMES)]),
        Outcome(None, ALL),
    ),
    "one_frame_a_day": (
        "a.mkv",
        with_times("h264_mkv", [Fraction(86_400 * n) for n in range(NUM_FRAMES)]),
        Outcome(None, ALL),
    ),
    # changes midway
    "size_changes": (
        "a.ts",
        joined(("mpegts_offset", {"start": Fraction(1)}),
               ("mpegts_offset", {"start": Fraction(2), "width": 320, "height": 180})),
        Outcome(None, tuple(range(24))),
    ),
    "pixel_format_changes": (
        "a.ts",
        joined(("mpegts_offset", {"start": Fraction(1)}),
               ("mpegts_offset", {"start": Fraction(2), "pix_fmt": "yuv444p"})),
        Outcome(None, tuple(range(24))),
    ),
    "bit_depth_changes": (
        "a.ts",
        joined(("mpegts_offset", {"start": Fraction(1)}),
               ("mpegts_offset", {"start": Fraction(2), "pix_fmt": "yuv420p10le"})),
        Outcome(None, tuple(range(24))),
    ),
    "colours_change_to_rgb": (
        "a.ts",
        joined(("mpegts_offset", {"start": Fraction(1)}),
               ("mpegts_offset", {"start": Fraction(2), "codec": "libx264rgb", "pix_fmt": "rgb24"})),
        Outcome(None, tuple(range(24))),
    ),
    "a_letterboxed_picture_shrinks_below_its_bars": (
        "a.ts",
        joined(("mpegts_offset", {"start": Fraction(1), "width": 640, "height": 480, "bar_share": 0.2}),
               ("mpegts_offset", {"start": Fraction(2), "width": 240, "height": 180, "bar_share": 0.2})),
        Outcome(None, tuple(range(24))),
    ),
    # pixel formats that FFmpeg decodes and does not convert
    "raw_frames_of_4_bits": ("a.mkv", raw_frames("bgr4"), Outcome("unsupported_colour")),
    "turned_by_90_degrees": ("a.mp4", of_recipe("rotated_90"), Outcome(None, ALL)),
    "turned_by_45_degrees": ("a.mp4", turned_by_45_degrees, Outcome(None, ALL)),
    # encrypted
    "encrypted": ("a.mp4", encrypted(), Outcome("drm")),
    "encrypted_in_fragments": ("a.mp4", encrypted("-movflags", "frag_keyframe+empty_moov"), Outcome("drm")),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_file_has_the_outcome_that_the_table_says(name, tmp_path):
    file_name, write, expected = CASES[name]
    path = only(write(in_folder(tmp_path) / file_name))
    began = time.monotonic()

    assert outcome_of(path, tmp_path) == expected
    assert time.monotonic() - began < SECONDS


def in_folder(folder: Path) -> Path:
    (folder / "in").mkdir()
    return folder / "in"


def only(path: Path) -> Path:
    """The path; whatever else was written beside it is removed."""
    for other in path.parent.iterdir():
        if other != path and other.is_file():
            other.unlink()
    return path


# ---- at another frame rate ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ([Fraction(86_400 * n) for n in range(NUM_FRAMES)], Outcome("broken_times")),
        (regular(num_frames=6) + regular(86_400, 6), Outcome("broken_times")),
        (regular(num_frames=6) + regular(YEARS_S, 6), Outcome("broken_times")),
        ([Fraction(n, 1000) for n in range(NUM_FRAMES)], Outcome(None, (), (("too_short", 0, 1),))),
        (regular(), Outcome(None, tuple(range(0, 12, 2)))),
    ],
)
def test_a_grid_is_never_longer_than_its_video(times, expected, tmp_path):
    path = with_times("h264_mkv", times)(in_folder(tmp_path) / "a.mkv")
    assert outcome_of(path, tmp_path, frame_rate="25/2") == expected


# ---- what names other files and hosts -------------------------------------------------------------

LISTS = {
    "hls": ("a.m3u8", M3U8),
    "hls_called_mp4": ("a.mp4", M3U8),
    "hls_called_ts": ("a.ts", M3U8),
    "dash": ("a.mpd", MPD),
    "dash_called_mp4": ("a.mp4", MPD),
    "ffconcat": ("a.ffconcat", CONCAT),
    "ffconcat_called_mkv": ("a.mkv", CONCAT),
}
PLACES = ("victim.ts", "{folder}/victim.ts", "file:{folder}/victim.ts", "http://127.0.0.1:{port}/victim.ts",
          "tcp://127.0.0.1:{port}", "concat:victim.ts|victim.ts", "subfile,,start,0,end,0,,:{folder}/victim.ts",
          "data:video/mp2t;base64,R0FFHwDw")  # fmt: skip


@pytest.fixture
def listener():
    """A port of this machine, and the list of those who called."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.1)
        callers, done = [], threading.Event()

        def serve() -> None:
            while not done.is_set():
                try:
                    connection, address = server.accept()
                except TimeoutError:
                    continue
                callers.append(address)
                connection.close()

        thread = threading.Thread(target=serve)
        thread.start()
        yield server.getsockname()[1], callers
        done.set()
        thread.join()


def causes_of(paths: list[str]) -> list[str]:
    """In this process or in a child: why each file is no video, "opened" where it is one."""
    causes = []
    for path in paths:
        try:
            video.open_video(path)[0].close()
            causes.append("opened")
        except Rejected as err:
            causes.append(err.cause)
    return causes


@pytest.mark.parametrize("name", LISTS)
def test_a_playlist_opens_no_other_file_and_calls_no_host(name, listener, tmp_path):
    port, callers = listener
    plain(tmp_path / "victim.ts", RECIPES["h264_open_gop_ts"])
    file_name, text = LISTS[name]
    paths = []
    for number, place in enumerate(PLACES):
        paths.append(tmp_path / f"{number}{file_name}")
        paths[-1].write_text(text.format(place.format(folder=tmp_path, port=port)))

    assert causes_of([str(tmp_path / "victim.ts")]) == ["opened"]
    assert causes_of([str(path) for path in paths]) == ["not_video"] * len(PLACES)
    assert callers == []


def test_a_session_description_calls_no_host(listener, tmp_path):
    (tmp_path / "a.sdp").write_text(SDP.format(listener[0]))
    (tmp_path / "a.mp4").write_text(SDP.format(listener[0]))
    assert causes_of([str(tmp_path / "a.sdp"), str(tmp_path / "a.mp4")]) == ["not_video"] * 2
    assert listener[1] == []


@pytest.mark.parametrize(
    "name",
    [
        "subfile,,start,0,end,99,,:victim.ts", "concat:victim.ts|victim.ts", "data:video,abc.ts", "file:victim.ts",
        "http:victim.ts", "-i victim.ts", "frame%03d.ts", "pipe:0.ts", "fd:.ts", "cache:victim.ts", "async:victim.ts",
        "crypto:victim.ts", "\n.ts", "\udcff.ts",
    ],
)  # fmt: skip
def test_a_name_of_a_file_is_never_an_address(name, tmp_path, monkeypatch):
    """Also where the path is relative, as those of a card may be."""
    write_video(tmp_path / "victim.ts", RECIPES["h264_open_gop_ts"], 3)
    plain(tmp_path / "own.ts", RECIPES["h264_open_gop_ts"], 7).rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)

    for path in (name, str(tmp_path / name)):
        assert len(video.scan_packets(path)) == 7


def test_a_movie_that_refers_to_another_file_does_not_open_it(tmp_path):
    """The data reference of QuickTime's alias (ISO/IEC 14496-12, 8.7.2): `url ` is turned into `alis`."""
    plain(tmp_path / "victim.mp4")
    data = bytearray(
        plain(tmp_path / "a.mov", replace(RECIPES["h264_bframes"], container="mov")).read_bytes()
    )
    at = hostile.box_of(data, b"dref")
    assert data[at + 20 : at + 24] in (b"url ", b"alis")
    data[at + 20 : at + 28] = b"alis" + bytes(4)  # not in this file any more
    (tmp_path / "a.mov").write_bytes(data)

    container, stream = video.open_video(str(tmp_path / "a.mov"))
    with container:
        assert container.format.name.startswith("mov")
        assert stream.frames == NUM_FRAMES


# ---- folders of pictures --------------------------------------------------------------------------

JPEG, PNG = hostile.picture_bytes("JPEG"), hostile.picture_bytes("PNG")
BOMB = hostile.png_bomb()


def numbered(*pictures: bytes, suffix: str = "jpg", first: int = 0) -> dict[str, bytes]:
    return {f"{first + number:04d}.{suffix}": data for number, data in enumerate(pictures)}


def painted(kind: str = "JPEG", **how: int) -> list[bytes]:
    return [hostile.picture_bytes(kind, number, **how) for number in range(6)]


FOLDERS: dict[str, tuple[dict[str, bytes], Outcome]] = {
    "whole": (numbered(*painted()), Outcome(None, tuple(range(6)))),
    "png_bombs": (numbered(BOMB, BOMB, suffix="png"), Outcome("too_many_pixels")),
    "one_png_bomb": (
        numbered(*painted("PNG"), suffix="png") | numbered(BOMB, first=6, suffix="png"),
        Outcome("too_many_pixels"),
    ),
    "jpegs_that_claim_65500_pixels": (
        numbered(*[hostile.jpeg_that_claims(65_500, 65_500)] * 2),
        Outcome("too_many_pixels"),
    ),
    "one_jpeg_claims_65500_pixels": (
        numbered(*painted(), hostile.jpeg_that_claims(65_500, 65_500)),
        Outcome("too_many_pixels"),
    ),
    "jpegs_that_claim_9000_pixels": (
        numbered(*[hostile.jpeg_that_claims(9_000, 9_000)] * 2),
        Outcome("too_many_pixels"),
    ),
    "jpegs_that_claim_a_little_more": (
        numbered(*[hostile.jpeg_that_claims(WIDTH + 64, HEIGHT + 64)] * 2),
        Outcome("no_frames"),
    ),
    "comments_that_unpack_to_200_MB": (
        numbered(*[hostile.png_with_text_bomb()] * 4, suffix="png"),
        Outcome("not_video"),
    ),
    "gifs_called_png": (numbered(hostile.picture_bytes("GIF"), suffix="png"), Outcome("not_video")),
    "pngs_called_jpg": (numbered(*painted("PNG")), Outcome("no_frames")),
    "empty_files": (numbered(b"", b"", b""), Outcome("not_video")),
    "one_empty_file": (
        numbered(*painted(), b""),
        Outcome(None, (), (("decode_error", 0, 7),)),
    ),
    "one_cut_file": (
        numbered(*painted(), JPEG[: len(JPEG) // 2]),
        Outcome(None, (), (("decode_error", 0, 7),)),
    ),
    "one_picture": (numbered(JPEG), Outcome(None, (), (("too_short", 0, 1),))),
    "other_sizes": (
        numbered(*painted(), hostile.picture_bytes("JPEG", width=64)),
        Outcome("mixed_sizes"),
    ),
    "numbers_of_years": ({"1.jpg": JPEG, f"{10**30}.jpg": JPEG}, Outcome("broken_times")),
    "one_number_twice": ({"1.jpg": JPEG, "01.jpg": JPEG}, Outcome("broken_times")),
    "a_number_of_200_digits": ({f"{'9' * 200}.jpg": JPEG}, Outcome(None, (), (("too_short", 0, 1),))),
}


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_has_the_outcome_that_the_table_says(name, tmp_path):
    frames, expected = FOLDERS[name]
    hostile.write_frames(tmp_path / "in" / "frames", frames)
    source = {"kind": "frame_folders", "path": "frames", "frame_rate": 25}
    began = time.monotonic()

    assert hostile.outcome_of_sources(source, tmp_path / "in", tmp_path) == expected
    assert time.monotonic() - began < SECONDS


# ---- archives -------------------------------------------------------------------------------------


def tar_member(name: str = "train/a.txt", **fields: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    for field, value in fields.items():
        setattr(info, field, value)
    return info


POSES = b"https://www.youtube.com/watch?v=abcdefghijk\n" + b" ".join([b"0"] + [b"1"] * 18) + b"\n"


def sparse_tar() -> bytes:
    """A member of 60 MB of holes in one block (tar(5), old GNU format)."""
    info = tar_member("train/holes.txt", type=tarfile.GNUTYPE_SPARSE)
    block = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    block[386:410] = b"%011o\0%011o\0" % (60 << 20, 0)
    block[483:495] = b"%011o\0" % (60 << 20)
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block) + bytes(1024)


def long_text_tar(kind: bytes) -> bytes:
    """A name or attributes of 64 MB."""
    info = tar_member("././@LongLink", type=kind, size=64 << 20)
    return info.tobuf(tarfile.GNU_FORMAT) + bytes(64 << 20)


TARS: dict[str, tuple[Callable[[], bytes], str]] = {
    "not_a_tar": (lambda: b"hello" * 1000, "no whole tar.gz"),
    "zeros_of_80_MB": (lambda: tar_of(tar_member(), bytes(80 << 20)), "train/a.txt has 83886080 bytes"),
    "link": (lambda: tar_of(tar_member(type=tarfile.SYMTYPE, linkname="/etc/passwd")), "links, devices"),
    "hard_link": (lambda: tar_of(tar_member(type=tarfile.LNKTYPE, linkname="/etc/passwd")), "links, devices"),
    "device": (lambda: tar_of(tar_member(type=tarfile.CHRTYPE, devmajor=1, devminor=5)), "links, devices"),
    "fifo": (lambda: tar_of(tar_member(type=tarfile.FIFOTYPE)), "links, devices"),
    "absolute_name": (lambda: tar_of(tar_member("/train/a.txt"), POSES), "lead out of it: /train/a.txt"),
    "name_that_leads_out": (lambda: tar_of(tar_member("../a.txt"), POSES), r"lead out of it: \.\./a.txt"),
    "sparse_member": (sparse_tar, "train/holes.txt is a file with holes"),
    "long_name": (lambda: long_text_tar(tarfile.GNUTYPE_LONGNAME), "a name or attribute of 67108864 bytes"),
    "long_link": (lambda: long_text_tar(tarfile.GNUTYPE_LONGLINK), "a name or attribute of 67108864 bytes"),
    "long_attributes": (lambda: long_text_tar(tarfile.XHDTYPE), "a name or attribute of 67108864 bytes"),
    "long_common_attributes": (lambda: long_text_tar(tarfile.XGLTYPE), "a name or attribute of 67108864"),
    "control_characters": (
        lambda: tar_of(tar_member("train/\x1b[2Ja.txt"), POSES),
        r"'train/\\x1b\[2Ja.txt'",
    ),
    "same_name_twice": (lambda: tar_of(tar_member(), POSES, POSES), "it is there twice"),
    "cut_off": (lambda: tar_of(tar_member(), POSES * 100)[:2000], "no whole tar.gz"),
}


def tar_of(info: tarfile.TarInfo, *contents: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for data in contents or (b"",):
            info.size = len(data) if info.isreg() else 0
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def read_trajectories(folder: str) -> str:
    """In a child with a limit of memory: what the adapter says of `acid.tar.gz`."""
    source = {"kind": "trajectories", "list": "acid.tar.gz", "url": "https://127.0.0.1/{id}"}
    card = Card.model_validate(hostile.CARD | {"sources": [source]})
    try:
        return (
            f"{len(list_sources(card, hostile.place_of(card, Path(folder), Path(folder, 'lists'))))} videos"
        )
    except CardError as err:
        return str(err)


@pytest.mark.parametrize("name", TARS)
def test_an_archive_of_trajectories_is_refused_by_name_within_its_memory(name, tmp_path):
    make, message = TARS[name]
    (tmp_path / "acid.tar.gz").write_bytes(gzip.compress(make(), 1))
    (tmp_path / "outside").mkdir()

    text = run_in_child(read_trajectories, (str(tmp_path),), ChildLimits(30, 32 << 20))

    assert re.search(message, text), text
    assert "\x1b" not in text
    assert list((tmp_path / "outside").iterdir()) == []


def test_an_archive_of_trajectories_that_is_whole_is_read_in_that_memory(tmp_path):
    (tmp_path / "acid.tar.gz").write_bytes(gzip.compress(tar_of(tar_member(), POSES), 1))
    assert run_in_child(read_trajectories, (str(tmp_path),), ChildLimits(30, 32 << 20)) == "1 videos"


def test_an_archive_may_not_unpack_to_more_than_its_bound(tmp_path, monkeypatch):
    monkeypatch.setattr(trajectories, "MAX_UNPACKED_BYTES", 1 << 20)
    many = [(tar_member(f"train/{n}.md"), bytes(100_000)) for n in range(20)]
    hostile.write_tar_gz(tmp_path / "acid.tar.gz", many)
    assert "it unpacks to more than 1048576 bytes" in read_trajectories(str(tmp_path))


FRAMES = [f"frame_{number:06d}.jpg" for number in range(6)]


def listed(names: list[str], clip: str = "a/b") -> bytes:
    return json.dumps({clip: names}).encode()


def prepared_zip(path: Path, text: bytes, members: dict[str, bytes] | None = None, **how: int) -> None:
    pictures = {f"a/b/{n}": hostile.picture_bytes("JPEG", k, 64, 64) for k, n in enumerate(FRAMES)}
    hostile.write_zip(path, (pictures if members is None else members) | {"frame_paths.json": text}, **how)


def flipped(offset: int, value: int) -> Callable[[Path], None]:
    """The central directory's first entry has another byte (APPNOTE 6.3.10, 4.3.12)."""

    def write(path: Path) -> None:
        prepared_zip(path, listed(FRAMES))
        data = bytearray(path.read_bytes())
        data[data.index(b"PK\1\2") + offset] = value
        path.write_bytes(data)

    return write


def overlapping(path: Path) -> None:
    """Six entries of the directory that are the same bytes of the file."""
    prepared_zip(path, listed(FRAMES))
    data = bytearray(path.read_bytes())
    at = data.index(b"PK\1\2")
    first = data[at + 42 : at + 46]
    for _ in range(5):
        at = data.index(b"PK\1\2", at + 4)
        data[at + 42 : at + 46] = first
    path.write_bytes(data)


ZIPS: dict[str, tuple[Callable[[Path], None], Outcome | str]] = {
    "whole": (lambda path: prepared_zip(path, listed(FRAMES)), Outcome(None, tuple(range(6)))),
    "not_a_zip": (lambda path: path.write_bytes(b"hello" * 1000), "is not a readable ZIP"),
    "packed_bomb": (
        lambda path: prepared_zip(path, listed(["a.jpg"]), {"a/b/a.jpg": bytes(20 << 20)}, compression=8),
        "is compressed; frames are read in place",
    ),
    "packed_list": (
        lambda path: prepared_zip(path, b'{"a": []}' + b" " * (20 << 20), {}, compression=8),
        "is compressed; frames are read in place",
    ),
    "encrypted": (flipped(8, 1), "is encrypted"),
    "size_that_lies": (flipped(27, 0x7F), "is compressed"),
    "outside_the_file": (flipped(45, 0x7F), "is not a readable ZIP|not where|cut_off"),
    "overlapping": (overlapping, Outcome(None, (), (("decode_error", 0, 6),))),  # of other sizes
    "list_twice": (lambda path: prepared_zip(path, listed([FRAMES[0]] * 100_000)), "a frame of 'a/b' twice"),
    "list_of_brackets": (lambda path: prepared_zip(path, b"[" * 1_000_000), "is not JSON"),
    "list_of_numbers": (lambda path: prepared_zip(path, b'{"a/b": [1, 2]}'), "must be {clip path"),
    "name_that_leads_out": (lambda path: prepared_zip(path, listed(["../../x.jpg"])), "names are relative"),
    "absolute_name": (lambda path: prepared_zip(path, listed(["/etc/passwd"])), "names are relative"),
    "absolute_clip": (lambda path: prepared_zip(path, listed(["x.jpg"], "/etc")), "names are relative"),
    "backslash": (lambda path: prepared_zip(path, listed(["..\\x.jpg"])), "names are relative"),
    "nul_in_a_name": (lambda path: prepared_zip(path, listed(["a\0.jpg"])), r"'a\\x00.jpg'"),
    "newline_in_a_name": (lambda path: prepared_zip(path, listed(["a\n.jpg"])), r"'a\\n.jpg'"),
    "direction_mark_in_a_name": (lambda path: prepared_zip(path, listed(["a\u202e.jpg"])), r"\\u202e"),
    "surrogate_in_a_name": (lambda path: prepared_zip(path, listed(["a\udcff.jpg"])), r"\\udcff"),
    "name_of_4000_characters": (lambda path: prepared_zip(path, listed(["../" * 1333])), "names are relative"),
    "member_is_missing": (lambda path: prepared_zip(path, listed([*FRAMES, "gone.jpg"])), Outcome("not_found")),
    "no_list": (lambda path: hostile.write_zip(path, {"a.jpg": JPEG}), "has no frame_paths.json"),
    "jpeg_bombs": (
        lambda path: prepared_zip(path, listed(["0.jpg"]), {"a/b/0.jpg": hostile.jpeg_that_claims(65_500, 65_500)}),
        Outcome("too_many_pixels"),
    ),
    "not_jpegs": (lambda path: prepared_zip(path, listed(["0.jpg"]), {"a/b/0.jpg": PNG}), Outcome("not_video")),
    "no_frames": (lambda path: prepared_zip(path, listed([])), Outcome("no_frames")),
}  # fmt: skip


def outcome_of_zip(folder: str) -> Outcome | str:
    source = {"kind": "longvideogan_zips", "path": ".", "frame_rate": 25}
    try:
        return hostile.outcome_of_sources(source, Path(folder), Path(folder, "work"))
    except CardError as err:
        return str(err)


@pytest.mark.parametrize("name", ZIPS)
def test_a_prepared_archive_has_the_outcome_that_the_table_says(name, tmp_path):
    write, expected = ZIPS[name]
    path = tmp_path / "0064x0064" / "partition_0000.zip"
    path.parent.mkdir()
    write(path)
    began = time.monotonic()

    found = outcome_of_zip(str(tmp_path))

    if isinstance(expected, str):
        shown = found if isinstance(found, str) else str(found.cause)
        assert re.search(expected, shown), shown
        assert shown.isprintable()
        assert len(shown) < 1000
    else:
        assert found == expected
    assert time.monotonic() - began < SECONDS


# ---- cut at every boundary ------------------------------------------------------------------------


def outcomes_of_cuts(path: str, cuts: list[int], folder: str) -> list[str]:
    """In a child: what each beginning of a file is: a cause, or "ok"; fails where a frame is not its own."""
    data, found = Path(path).read_bytes(), []
    cut = Path(folder, f"cut{Path(path).suffix}")
    for size in cuts:
        cut.write_bytes(data[:size])
        try:
            wrong = wrong_frames(str(cut), Path(folder))
        except Rejected as err:
            found.append(err.cause)
            continue
        assert not wrong, f"cut at {size}: numbers are not those of their times: {wrong}"
        found.append("ok")
    return found


def wrong_frames(path: str, folder: Path) -> dict[int, int]:
    """Frames that rendering would take for whole, and whose number is not that of their time.

    Without the last one of a file that says that frames are cut off: its scene is dropped.
    """
    found = video.probe(path, folder, 1 << 20)
    packets = np.load(folder / "packets.npy")
    pts = video.presentation_times(packets)
    reader = video.FrameReader(path, packets, 0, len(pts), found.times_counted)
    images = {ordinal: frame.to_ndarray(format="rgb24") for ordinal, frame in reader}
    expected = {o: round((int(pts[o]) - int(pts[0])) * Fraction(found.time_base) * 30) for o in images}
    numbers = {o: hostile.number_of(image) for o, image in images.items() if o not in reader.damaged}
    last = len(pts) - 1 if found.num_frames_cut_off else -1
    return {o: number for o, number in numbers.items() if number != expected[o] and o != last}


BATCH = ChildLimits(60, 256 << 20)


@pytest.mark.parametrize("name", hostile.ORDINARY)
def test_a_file_that_was_cut_at_any_boundary_is_refused_or_gives_its_own_frames(name, tmp_path):
    path = hostile.write_ordinary(tmp_path, name)
    data = path.read_bytes()
    rng = random.Random(name)
    cuts = sorted({*hostile.boundaries(name, data), *(rng.randrange(len(data)) for _ in range(8)), len(data)})
    (tmp_path / "work").mkdir()

    found = run_in_child(outcomes_of_cuts, (str(path), cuts, str(tmp_path / "work")), BATCH)

    assert len(cuts) > 15
    assert found[-1] == "ok"
    assert set(found) <= {"ok", "not_video", "no_video_stream", "no_decoder", "no_frames"}
    assert len(set(found)) > 1
