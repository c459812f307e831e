"""yt-dlp as this project uses it: against a server on this machine, and against its own exceptions."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import av
import pytest
import yt_dlp
from yt_dlp.downloader.common import FileDownloader
from yt_dlp.downloader.fragment import FragmentFD
from yt_dlp.networking import Response
from yt_dlp.networking.exceptions import HTTPError, IncompleteRead, TransportError
from yt_dlp.utils import (
    ContentTooShortError,
    DownloadError,
    ExtractorError,
    GeoRestrictedError,
    UnsupportedError,
    UserNotLive,
)

from lvg_data.child import Stopped
from lvg_data.config import LimitsConfig
from lvg_data.errors import CAUSES, Rejected
from lvg_data.fetch import Desk, at_hand, fetch, polite, ytdlp
from lvg_data.fetch.formats import choose, describe_format
from lvg_data.fetch.refusals import cause_of, rejected_in, retry_after_of, text_of
from lvg_data.fetch.sniff import kind_of
from lvg_data.records import Address, Fetched, Source
from lvg_data.store import Store
from tests.servers import (
    Server,
    file,
    http_server,
    in_turn,
    page,
    send,
    stalled_at,
    status,
    write_dash,
    write_file,
    write_hls,
)

LIMITS = LimitsConfig(
    fetch_attempts=2, fetch_wall_s=60, requests_per_s=1e6, downloads_per_hour=1e9, free_bytes=0
)
WATCH = "<html><head><title>A ride</title></head><body><video src='/file/video.mp4?key=t0ken'></video></body></html>"


@pytest.fixture(scope="module")
def streams(tmp_path_factory) -> Path:
    """Folders `hls`, `dash` and `file`, each with pictures of a second."""
    folder = tmp_path_factory.mktemp("streams")
    for name, write in {"hls": write_hls, "dash": write_dash, "file": write_file}.items():
        (folder / name).mkdir()
        write(folder / name)
    return folder


@pytest.fixture
def server(streams: Path) -> Iterator[Server]:
    with http_server() as server:
        for folder in streams.iterdir():
            server.serve(f"/{folder.name}", folder)
        server.answers["/watch"] = page(WATCH)
        yield server


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(Store(str(tmp_path / "store")), LIMITS, 120, 61, run=str(tmp_path), private_addresses=True)


@pytest.fixture
def no_waits(monkeypatch) -> None:
    monkeypatch.setattr(polite, "pause", lambda seconds, stop: None)


def limited(desk: Desk, **limits) -> Desk:
    return replace(desk, limits=desk.limits.model_copy(update=limits))


def source(url: str) -> Source:
    return Source("v", "the video", Address(url), "x", "x")


def rejected(url: str, desk: Desk) -> Rejected:
    with pytest.raises(Rejected) as caught:
        fetch(source(url), desk)
    return caught.value


def streams_in(fetched: Fetched) -> list[tuple[str, int | None]]:
    with av.open(fetched.address) as container:
        return [(stream.type, getattr(stream, "height", None)) for stream in container.streams]


# ---- what is found behind an address


def test_the_video_of_a_page_is_downloaded(server, desk, streams):
    fetched = fetch(source(server.url("/watch?v=1")), desk)

    assert Path(fetched.address).read_bytes() == (streams / "file" / "video.mp4").read_bytes()
    assert json.loads(fetched.downloaded_format) == {"ext": "mp4", "format_id": "0", "protocol": "http"}
    artefact = Path(fetched.address).parent
    assert sorted(path.name for path in artefact.iterdir()) == ["meta.json", "video"], "no leftovers"
    assert list((Path(desk.store.root) / "tmp").iterdir()) == []


def test_a_page_is_asked_once_and_its_video_kept(server, desk):
    first = fetch(source(server.url("/watch?v=1")), desk)
    asked = len(server.requests)

    assert fetch(source(server.url("/watch?v=1")), replace(desk, run="the next")) == first
    assert len(server.requests) == asked
    with at_hand(first, desk) as path:
        assert str(path) == first.address


@pytest.mark.parametrize(
    ("min_height", "height"), [(60, 90), (90, 90), (91, 180), (180, 180), (360, 360), (1000, 360)]
)
def test_the_smallest_pictures_that_are_large_enough_are_taken(min_height, height, server, desk):
    fetched = fetch(source(server.url("/dash/manifest.mpd")), replace(desk, min_height=min_height))

    assert streams_in(fetched) == [("video", height)], "no sound"
    described = json.loads(fetched.downloaded_format)
    assert (described["height"], described["protocol"]) == (height, "http_dash_segments")
    assert described["vcodec"].startswith("avc1")
    assert not [path for path in server.paths() if path.endswith("stream3.m4s")], (
        "sound was not even asked for"
    )


def test_an_hls_playlist_is_put_together(server, desk):
    fetched = fetch(source(server.url("/hls/master.m3u8")), desk)

    assert ("video", 180) in streams_in(fetched)
    assert json.loads(fetched.downloaded_format)["protocol"] == "m3u8_native"
    assert "/hls/0-0.ts" not in server.paths()


def test_another_wanted_height_is_another_artefact(server, desk):
    url = server.url("/dash/manifest.mpd")
    low, high = (fetch(source(url), replace(desk, min_height=height)) for height in (90, 180))

    assert low.address != high.address
    assert fetch(source(url), replace(desk, min_height=90)) == low


def test_a_plain_file_is_never_given_to_yt_dlp(server, desk, monkeypatch):
    monkeypatch.setattr(ytdlp, "_download_child", None)

    assert fetch(source(server.url("/file/video.mp4")), desk).downloaded_format == "{}"
    assert server.paths() == ["/file/video.mp4"]


def test_a_site_that_yt_dlp_knows_is_not_asked_for_a_plain_file(desk, monkeypatch):
    asked: list[str] = []

    def attempt(want, *_):
        asked.append(want.url)
        raise Rejected("private", "the video: private")

    monkeypatch.setattr(ytdlp, "_attempt", attempt)

    assert rejected("https://www.youtube.com/watch?v=aaaaaaaaaaa", desk).cause == "private"
    assert asked == ["https://www.youtube.com/watch?v=aaaaaaaaaaa"]


@pytest.mark.parametrize(
    ("url", "known"),
    [
        ("https://www.youtube.com/watch?v=aaaaaaaaaaa", True),
        ("https://youtu.be/aaaaaaaaaaa", True),
        ("https://vimeo.com/1234567", True),
        ("https://commons.wikimedia.org/wiki/File:Ride.webm", True),
        ("https://example.org/rides/7", False),
        ("http://127.0.0.1:8000/watch?v=aaaaaaaaaaa", False),
    ],
)
def test_sites_are_known_by_yt_dlps_extractors(url, known):
    assert ytdlp.knows(url, None) is known


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (b"\x00\x00\x00 ftypisom", "file"),
        (b"\x1aE\xdf\xa3", "file"),
        (b"\xef\xbb\xbf\n <!doctype html>", "page"),
        (b"<?xml version='1.0'?><error/>", "page"),
        (b"<?xml version='1.0'?>\n<MPD xmlns='urn:mpeg:dash:schema:mpd:2011'>", "playlist"),
        (b"#EXTM3U\n#EXT-X-VERSION:3", "playlist"),
        (b"", "empty"),
        (b" \n", "empty"),
    ],
)
def test_first_bytes_say_what_an_answer_is(head, kind):
    assert kind_of(head) == kind


# ---- which format


def fmt(format_id: str, height: int | None = None, **fields) -> dict:
    width = None if height is None else height * 16 // 9
    return {"format_id": format_id, "height": height, "width": width, "protocol": "https", "vcodec": "avc1",
            "acodec": "none", "fps": 30, "ext": "mp4", "dynamic_range": "SDR", **fields}  # fmt: skip


@pytest.mark.parametrize(
    ("formats", "chosen"),
    [
        ([fmt("360", 360), fmt("720", 720), fmt("1080", 1080)], "720"),
        ([fmt("1080", 1080), fmt("720", 720), fmt("360", 360)], "720"),
        ([fmt("144", 144), fmt("360", 360)], "360"),
        ([fmt("hdr", 720, dynamic_range="HDR10"), fmt("sdr", 1080)], "sdr"),
        ([fmt("fast", 720, fps=120), fmt("slow", 1080, fps=60)], "slow"),
        ([fmt("sound", None, vcodec="none", acodec="mp4a"), fmt("pictures", 360)], "pictures"),
        ([fmt("images", 720, protocol="mhtml"), fmt("pictures", 360)], "pictures"),
        ([fmt("both", 720, acodec="mp4a"), fmt("pictures", 720, protocol="m3u8_native")], "pictures"),
        ([fmt("hls", 720, protocol="m3u8_native"), fmt("file", 720), fmt("dash", 720, protocol="http_dash_segments")],
         "file"),
        ([fmt("av1", 720, vcodec="av01.0"), fmt("h264", 720), fmt("vp9", 720, vcodec="vp9")], "h264"),
        ([fmt("worse", 720), fmt("better", 720)], "better"),
        ([fmt("unknown"), fmt("small", 90)], "small"),
        ([fmt("worse"), fmt("better")], "better"),
        ([fmt("upright", 720, width=406), fmt("upright-hd", 1280, width=720)], "upright-hd"),
        ([fmt("locked", 720, has_drm=True), fmt("open", 360)], "open"),
    ],
)  # fmt: skip
def test_the_format_is_chosen_by_what_it_shows_and_costs(formats, chosen):
    found = choose(formats, min_height=512, max_frame_rate=61)

    assert found is not None and found["format_id"] == chosen


def test_no_format_is_chosen_where_none_will_do():
    unusable = [
        fmt("hdr", 720, dynamic_range="HLG"),
        fmt("sound", vcodec="none"),
        fmt("rtmp", 720, protocol="rtmp"),
    ]

    assert choose(unusable, 512, 61) is None
    assert choose([], 512, 61) is None


def test_a_format_is_described_by_what_is_known_of_it():
    assert describe_format(fmt("18", 360, url="https://secret", fps=None)) == (
        '{"ext":"mp4","format_id":"18","height":360,"protocol":"https","vcodec":"avc1","width":640}'
    )


# ---- what goes wrong, on a server


@pytest.mark.parametrize(
    ("html", "cause", "words"),
    [
        ("<html>nothing to see</html>", "unsupported_site", "Unsupported URL: http://127.0.0.1/other"),
        (
            WATCH.replace("</body>", "<video src='/file/video.mp4?2'></video></body>"),
            "unsupported_site",
            "several videos",
        ),
        (WATCH.replace("/file/video.mp4?key=t0ken", "/gone.mp4"), "gone", "HTTP Error 410"),
        (WATCH.replace("/file/video.mp4?key=t0ken", "/refused.mp4"), "blocked", "HTTP Error 403"),
        (WATCH.replace("/file/video.mp4?key=t0ken", "/html.mp4"), "not_video", "a page of text"),
    ],
)
def test_what_a_page_lacks_is_named(html, cause, words, server, desk):
    server.answers |= {
        "/other": page(html), "/gone.mp4": status(410), "/refused.mp4": status(403),
        "/html.mp4": page("<html></html>" + " " * 2000, Content_Type="video/mp4"),
    }  # fmt: skip

    err = rejected(server.url("/other?key=t0ken"), desk)

    assert err.cause == cause
    assert err.message.startswith("the video: ") and words in err.message
    assert "t0ken" not in err.message
    assert err.attempts == 1


def test_a_broadcast_that_goes_on_is_live(server, desk, streams):
    unended = (streams / "hls" / "stream-1.m3u8").read_bytes().replace(b"#EXT-X-ENDLIST", b"")
    endless = unended.replace(b"#EXT-X-PLAYLIST-TYPE:VOD", b"")
    dynamic = (streams / "dash" / "manifest.mpd").read_bytes().replace(b'type="static"', b'type="dynamic"')
    server.answers |= {"/live.m3u8": file(endless), "/live.mpd": file(dynamic)}

    for name in ("/live.m3u8", "/live.mpd"):
        err = rejected(server.url(name), desk)
        assert (err.cause, err.retryable) == ("live", True)


def test_an_encrypted_stream_is_drm(server, desk, streams):
    playlist = (streams / "hls" / "stream-1.m3u8").read_bytes()
    key = b'#EXT-X-KEY:METHOD=SAMPLE-AES,URI="skd://key",KEYFORMAT="com.apple.streamingkeydelivery"\n#EXTINF'
    server.answers["/locked.m3u8"] = file(playlist.replace(b"#EXTINF", key, 1))

    assert rejected(server.url("/locked.m3u8"), desk).cause == "drm"


def test_a_stream_with_a_missing_piece_is_not_taken(server, desk, no_waits):
    server.answers["/hls/1-1.ts"] = status(404)

    err = rejected(server.url("/hls/master.m3u8"), desk)

    assert (err.cause, err.attempts) == ("network", 2)
    assert list((Path(desk.store.root) / "tmp").iterdir()) == []


def test_only_high_frame_rates_are_no_format(server, desk):
    err = rejected(server.url("/hls/master.m3u8"), replace(desk, max_frame_rate=9))

    assert (err.cause, err.retryable) == ("no_format", False)
    assert "Requested format is not available" in err.message


def test_a_site_that_asks_to_come_back_is_asked_again_later(server, desk, monkeypatch):
    waited: list[float] = []
    monkeypatch.setattr(polite, "pause", lambda seconds, stop: waited.append(seconds) if seconds else None)
    whole = server.answers["/file/video.mp4"]
    server.answers["/file/video.mp4"] = in_turn(status(429, Retry_After="7"), whole)

    fetched = fetch(source(server.url("/watch?v=1")), desk)

    assert ("video", 180) in streams_in(fetched)
    assert waited == [7]


def test_a_site_that_refuses_again_and_again_is_left_alone(server, desk, no_waits):
    server.answers["/file/video.mp4"] = status(403)
    desk = limited(desk, host_failures=1)

    first, second = (rejected(server.url(f"/watch?v={i}"), desk) for i in "12")

    assert (first.cause, second.cause, second.attempts) == ("blocked", "rate_limited", 0)
    assert "not tried" in second.message and "`lvg-data retry` later" in second.message


def test_what_is_too_large_is_not_downloaded_to_its_end(server, desk, streams):
    size = (streams / "file" / "video.mp4").stat().st_size

    err = rejected(server.url("/watch?v=1"), limited(desk, file_bytes=size - 1))
    assert (err.cause, err.threshold) == ("too_large", size - 1)
    err = rejected(server.url("/hls/master.m3u8"), limited(desk, file_bytes=5000))
    assert (err.cause, err.threshold) == ("too_large", 5000)
    assert rejected(server.url("/watch?v=1"), limited(desk, cache_bytes=size - 1)).cause == "no_space"
    assert rejected(server.url("/watch?v=1"), limited(desk, free_bytes=1 << 60)).cause == "no_space"


def test_a_download_that_takes_too_long_is_ended(server, desk):
    server.answers["/file/video.mp4"] = stalled_at(4000)
    began = time.monotonic()

    err = rejected(server.url("/watch?v=1"), limited(desk, fetch_wall_s=2.5))

    assert (err.cause, err.retryable) == ("network", True)
    assert time.monotonic() - began < 8
    assert list((Path(desk.store.root) / "tmp").iterdir()) == []


def test_a_stop_ends_a_download(server, desk):
    server.answers["/file/video.mp4"] = stalled_at(4000)
    stop = threading.Event()
    threading.Timer(1.5, stop.set).start()

    with pytest.raises(Stopped):
        fetch(source(server.url("/watch?v=1")), desk, stop)
    assert list((Path(desk.store.root) / "tmp").iterdir()) == []


# ---- what no input and no surroundings can change


def test_nothing_of_the_users_reaches_yt_dlp(server, desk, tmp_path):
    order = ytdlp._Order(server.url("/watch"), str(tmp_path), 120, 61, 1 << 30, 1 << 30, 0, None)
    options = ytdlp._options(order)

    forbidden = {"postprocessors", "usenetrc", "netrc_cmd", "exec", "enable_file_urls", "cookiesfrombrowser",
                 "username", "download_archive", "remote_components", "writesubtitles"}  # fmt: skip
    assert not forbidden & set(options)
    assert options["cachedir"] is False
    assert options["outtmpl"] == {"default": "video"}
    assert set(options["external_downloader"].values()) == {"native"}
    documented = " ".join(str(cls.__doc__) for cls in (yt_dlp.YoutubeDL, FileDownloader, FragmentFD))
    assert [name for name in options if not re.search(rf"\b{name}\b", documented)] == []


def test_a_plugin_is_not_loaded(server, desk, tmp_path, monkeypatch):
    package = tmp_path / "yt_dlp_plugins" / "extractor"
    package.mkdir(parents=True)
    mark = tmp_path / "loaded"
    (package / "evil.py").write_text(f"open({str(mark)!r}, 'w').close()")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    fetch(source(server.url("/watch?v=1")), desk)

    assert not mark.exists()


def test_a_fragment_cannot_pass_orders_to_an_extractor(server, desk):
    from yt_dlp.utils import smuggle_url

    smuggled = smuggle_url(server.url("/watch?v=1"), {"force_videoid": "evil", "to_generic": True})

    assert ytdlp._plain(smuggled) == server.url("/watch?v=1")
    assert ytdlp._plain(server.url("/watch#part-2")) == server.url("/watch#part-2")


def test_a_playlist_cannot_read_local_files(server, desk, tmp_path):
    (tmp_path / "secret.ts").write_bytes(b"s3cret" * 1000)
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile://{tmp_path}/secret.ts\n#EXT-X-ENDLIST\n"
    server.answers["/list.m3u8"] = file(playlist.encode())

    err = rejected(server.url("/list.m3u8"), desk)

    assert err.cause in CAUSES
    assert not [p for p in Path(desk.store.root).rglob("video") if b"s3cret" in p.read_bytes()]


# ---- cookies

COOKIES = "# Netscape HTTP Cookie File\n127.0.0.1\tFALSE\t/\tFALSE\t0\tsession\tc00kie\n"


@pytest.fixture
def cookies(tmp_path: Path) -> Path:
    path = tmp_path / "s3cret-place" / "cookies.txt"
    path.parent.mkdir()
    path.write_text(COOKIES)
    return path


def test_cookies_are_sent_and_their_file_is_left_as_it_is(server, desk, cookies):
    def with_new_cookie(handler, _: int) -> None:
        send(handler, 200, WATCH.encode(), Content_Type="text/html", Set_Cookie="other=fresh; Path=/")

    server.answers["/watch"] = with_new_cookie
    fetch(source(server.url("/watch?v=1")), replace(desk, cookies=str(cookies)))

    assert "session=c00kie" in [sent.get("cookie", "") for sent in server.headers][1]
    assert cookies.read_text() == COOKIES
    assert repr(desk) == repr(replace(desk, cookies=str(cookies)))


@pytest.mark.parametrize("answer", [page(WATCH), page("<html>c00kie</html>"), status(404), status(429)])
def test_cookies_are_written_down_nowhere(answer, server, desk, cookies, no_waits, caplog, capfd):
    server.answers["/watch"] = in_turn(page(WATCH), answer)
    with_cookies = replace(desk, cookies=str(cookies))

    try:
        said = repr(fetch(source(server.url("/watch?v=1")), with_cookies))
    except Rejected as err:
        said = f"{err!r} {vars(err)}"

    files = [p for p in Path(desk.store.root).rglob("*") if p.is_file() and p.name != "video"]
    written = "".join(f"{path.relative_to(desk.store.root)} {path.read_text()}" for path in files)
    for text in (said, written, caplog.text, *capfd.readouterr()):
        assert "c00kie" not in text
        assert "s3cret-place" not in text


def test_what_yt_dlp_says_of_cookies_is_not_heard(server, tmp_path, cookies):
    cookies.write_text(COOKIES + "c00kie without tabs\n")
    script = f"""
from lvg_data.config import LimitsConfig
from lvg_data.fetch import Desk, fetch
from lvg_data.records import Address, Source
from lvg_data.store import Store
desk = Desk(Store({str(tmp_path / "store")!r}), LimitsConfig(free_bytes=0), 120, 61, cookies={str(cookies)!r},
            private_addresses=True)
print(fetch(Source("v", "x", Address({server.url("/watch?v=1")!r}), "x", "x"), desk).size_bytes)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip().isdecimal()


def test_cookies_change_no_key(server, desk, cookies):
    first = fetch(source(server.url("/watch?v=1")), desk)

    assert fetch(source(server.url("/watch?v=1")), replace(desk, cookies=str(cookies))) == first


@pytest.mark.parametrize("text", [None, "c00kie without tabs\n", "\x00\xff"])
def test_a_cookies_file_that_cannot_be_read_stops_the_run_without_showing_it(text, server, desk, cookies):
    if text is None:
        cookies.unlink()
    else:
        cookies.write_text(text, encoding="latin-1")

    with pytest.raises(RuntimeError, match="cookies file") as caught:
        fetch(source(server.url("/watch?v=1")), replace(desk, cookies=str(cookies)))
    assert "c00kie" not in str(caught.value) and "s3cret-place" not in str(caught.value)


# ---- what goes wrong elsewhere, as yt-dlp says it


def http_error(code: int, headers: dict[str, str] | None = None) -> HTTPError:
    return HTTPError(Response(io.BytesIO(), "https://example.org/?key=t0ken", headers or {}, status=code))


def as_raised(err: Exception) -> DownloadError:
    """What `YoutubeDL` makes of an extractor's error."""
    with yt_dlp.YoutubeDL({"quiet": True, "logger": ytdlp._Silence()}) as downloader:
        try:
            try:
                raise err
            except Exception:  # noqa: BLE001 - as it does
                downloader.report_error(str(err))
        except DownloadError as wrapped:
            return wrapped
    raise AssertionError("report_error raises")


def extractor_error(text: str, cause: Exception | None = None) -> ExtractorError:
    return ExtractorError(text, expected=True, video_id="aaaaaaaaaaa", ie="youtube", cause=cause)


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("Private video. Sign in if you've been granted access to this video. Use --cookies-from-browser", "private"),
        ("This video is private", "private"),
        ("Video unavailable. This video is private", "private"),
        ("Video unavailable", "gone"),
        ("This video is not available", "gone"),
        ("Video unavailable. This video has been removed by the uploader", "gone"),
        ("This video has been removed for violating YouTube's Terms of Service", "gone"),
        ("Video unavailable. This video is no longer available because the YouTube account associated with this "
         "video has been terminated.", "gone"),
        ("This live stream recording is not available.", "gone"),
        ("Sign in to confirm your age. This video may be inappropriate for some users.", "login_required"),
        ("Sign in to confirm you’re not a bot. Use --cookies-from-browser or --cookies", "blocked"),
        ("Sign in to confirm you're not a bot", "blocked"),
        ("Video unavailable. YouTube is requiring a captcha challenge before playback", "blocked"),
        ("Got HTTP Error 403 caused by Cloudflare anti-bot challenge; try again with impersonation", "blocked"),
        ("Video unavailable. The uploader has not made this video available in your country", "blocked"),
        ("Join this channel to get access to members-only content like this video, and other perks.", "login_required"),
        ("This video is available to this channel's members on level: Fan (or any higher level).", "login_required"),
        ("This video requires payment to watch.", "login_required"),
        ("This video is only available for registered users. Use --cookies", "login_required"),
        ("This video is only available to Music Premium members", "login_required"),
        ("Video unavailable. This content isn't available, try again later. The current session has been "
         "rate-limited by YouTube for up to an hour.", "rate_limited"),
        ("This live event will begin in 3 days.", "live"),
        ("Premieres in 2 hours", "live"),
        ("This live event is scheduled for 2027-01-01", "live"),
        ("The channel is not currently live", "live"),
        ("This video is DRM protected", "drm"),
        ("Requested format is not available. Use --list-formats for a list of available formats", "no_format"),
        ("No video formats found!", "no_format"),
        ("'ride' is not a valid URL", "unsupported_site"),
        ("The downloaded file is empty", "network"),
        ("Did not get any data blocks", "network"),
        ("The read operation timed out", "network"),
        ("Unable to extract uploader id", "site_error"),
    ],
)  # fmt: skip
def test_what_sites_say_has_a_cause(text, cause):
    err = as_raised(extractor_error(text))

    assert cause_of(err) == cause
    assert text_of(err) == text


@pytest.mark.parametrize(
    ("code", "cause"),
    [(401, "login_required"), (402, "login_required"), (403, "blocked"), (404, "not_found"), (410, "gone"),
     (429, "rate_limited"), (451, "blocked"), (500, "network"), (502, "network"), (503, "rate_limited"),
     (418, "site_error")],
)  # fmt: skip
def test_statuses_of_sites_have_a_cause(code, cause):
    inner = http_error(code, {"Retry-After": "12"})
    extraction = as_raised(extractor_error(f"Unable to download webpage: {inner}", cause=inner))

    assert cause_of(extraction) == cause
    assert retry_after_of(extraction) == "12"
    assert cause_of(as_raised(http_error(code))) == cause, "of the video itself"


@pytest.mark.parametrize(
    ("err", "cause"),
    [
        (GeoRestrictedError("Video not shown", countries=["CH"]), "blocked"),
        (UnsupportedError("https://example.org/?key=t0ken"), "unsupported_site"),
        (UserNotLive(), "live"),
        (TransportError("[Errno -2] Name or service not known"), "network"),
        (IncompleteRead(10, 20), "network"),
        (ContentTooShortError(10, 20), "network"),
        (ConnectionResetError(104, "reset"), "network"),
        (OSError(errno.ENOSPC, "No space left on device"), "no_space"),
        (OSError(errno.EFBIG, "File too large"), "too_large"),
        (KeyError("formats"), "site_error"),
        (RecursionError(), "site_error"),
    ],
)
def test_exceptions_of_yt_dlp_have_a_cause(err, cause):
    assert cause_of(err) == cause
    assert cause_of(as_raised(err)) == cause


def test_a_reject_of_ours_is_found_again_inside_an_error_of_yt_dlp():
    ours = Rejected("live", "a broadcast")

    assert rejected_in(as_raised(ours)) is ours
    assert rejected_in(as_raised(KeyError("x"))) is None


def test_every_cause_in_the_tables_is_explained():
    from lvg_data.fetch import refusals

    causes = {
        *refusals._CLASSES.values(),
        *refusals._STATUSES.values(),
        *(cause for _, cause in refusals._MESSAGES),
    }
    assert causes <= set(CAUSES)


@pytest.mark.parametrize(("death", "cause"), [("crash", "site_error"), ("memory", "site_error")])
def test_a_child_that_dies_loses_only_its_own_video(death, cause, server, desk, monkeypatch):
    monkeypatch.setattr(ytdlp, "_download_child", {"crash": crash, "memory": exhaust}[death])

    err = rejected(server.url("/watch?v=1"), desk)

    assert (err.cause, err.retryable) == (cause, True)
    assert err.message.startswith("the video: yt-dlp: ")


def crash(_: object) -> None:
    os.abort()


def exhaust(_: object) -> None:
    raise MemoryError
