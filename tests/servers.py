"""Servers on 127.0.0.1 that misbehave in every way, buckets, and streams cut from real videos."""

from __future__ import annotations

import contextlib
import subprocess
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import imageio_ffmpeg

#: not a video, and nothing that could be taken for a page
BODY = bytes(range(256)) * 40

Answer = Callable[[BaseHTTPRequestHandler, int], None]


class Server:
    """A threaded HTTP server; `answers` maps a path to what it does on its n-th request, from 0."""

    def __init__(self, host: str = "127.0.0.1", port: int = 0) -> None:
        self.answers: dict[str, Answer] = {}
        self.requests: list[tuple[str, str | None]] = []
        self.headers: list[dict[str, str]] = []
        self.lock, self.closed = threading.Lock(), threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            closed = outer.closed

            def do_GET(self) -> None:
                path = self.path.split("?")[0]
                with outer.lock:
                    count = sum(seen.split("?")[0] == path for seen, _ in outer.requests)
                    outer.requests.append((self.path, self.headers.get("Range")))
                    outer.headers.append({name.lower(): value for name, value in self.headers.items()})
                with contextlib.suppress(ConnectionError):  # the other side hung up
                    outer.answers.get(path, status(404))(self, count)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer((host, port), Handler)
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()

    @property
    def port(self) -> int:
        return self.server.server_address[1]

    def url(self, path: str) -> str:
        return f"http://{self.server.server_address[0]}:{self.port}{path}"

    def paths(self) -> list[str]:
        """What was asked for, in order, without queries."""
        return [path.split("?")[0] for path, _ in self.requests]

    def serve(self, prefix: str, folder: Path) -> None:
        """Answers for every file of a folder, under `prefix`."""
        for path in folder.iterdir():
            self.answers[f"{prefix}/{path.name}"] = file(path.read_bytes())

    def close(self) -> None:
        self.closed.set()
        self.server.shutdown()
        self.server.server_close()


@contextlib.contextmanager
def http_server(host: str = "127.0.0.1", port: int = 0) -> Iterator[Server]:
    server = Server(host, port)
    try:
        yield server
    finally:
        server.close()


# ---- answers --------------------------------------------------------------------------------------


def send(handler: BaseHTTPRequestHandler, status: int, body: bytes = b"", **headers: str) -> None:
    """Answers; the length is that of the body unless given, and left out where given as ""."""
    handler.send_response(status)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    for name, value in {"Content-Length": str(len(body)), **named}.items():
        if value:
            handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(body)


def in_turn(*answers: Answer) -> Answer:
    """The first answer to the first request, and so on; the last one to all that follow."""
    return lambda handler, count: answers[min(count, len(answers) - 1)](handler, count)


def status(code: int, **headers: str) -> Answer:
    return lambda handler, _: send(handler, code, b"<html>no video</html>", **headers)


def page(html: str, **headers: str) -> Answer:
    return lambda handler, _: send(handler, 200, html.encode(), **{"Content_Type": "text/html", **headers})


def file(body: bytes = BODY, **headers: str) -> Answer:
    """The whole body, whatever range is asked for."""
    return lambda handler, _: send(handler, 200, body, **headers)


def cut_off_at(num_bytes: int, body: bytes = BODY, **headers: str) -> Answer:
    """Promises the whole body, sends a part of it and hangs up; its version has a name unless `ETag` is ""."""
    named = {"ETag": '"one"', "Content_Length": str(len(body)), **headers}
    return lambda handler, _: send(handler, 200, body[:num_bytes], **named)


def chunked(num_bytes: int) -> Answer:
    """Sends the body in chunks of 1,000 bytes up to `num_bytes`, with the end mark only after all of it."""

    def answer(handler: BaseHTTPRequestHandler, _: int) -> None:
        handler.protocol_version = "HTTP/1.1"
        send(
            handler,
            200,
            b"",
            Content_Length="",
            Transfer_Encoding="chunked",
            Connection="close",
            ETag='"one"',
        )
        for start in range(0, num_bytes, 1000):
            chunk = BODY[start : min(start + 1000, num_bytes)]
            handler.wfile.write(f"{len(chunk):x}\r\n".encode() + chunk + b"\r\n")
        handler.wfile.write(b"0\r\n\r\n" if num_bytes == len(BODY) else b"")
        handler.close_connection = True

    return answer


def stalled_at(num_bytes: int) -> Answer:
    """Promises the whole body, sends a part of it and says nothing more."""

    def answer(handler: BaseHTTPRequestHandler, count: int) -> None:
        cut_off_at(num_bytes)(handler, count)
        handler.wfile.flush()
        handler.closed.wait(20)  # type: ignore[attr-defined]

    return answer


def slow(piece_bytes: int, pause_s: float) -> Answer:
    """Sends the body piece by piece, with pauses."""

    def answer(handler: BaseHTTPRequestHandler, _: int) -> None:
        send(handler, 200, b"", Content_Length=str(len(BODY)))
        for start in range(0, len(BODY), piece_bytes):
            handler.wfile.write(BODY[start : start + piece_bytes])
            handler.wfile.flush()
            if handler.closed.wait(pause_s):  # type: ignore[attr-defined]
                return

    return answer


def dripping(before: bytes, drop: bytes = b"a") -> Answer:
    """Sends what is given, and then a drop again and again for 20 s, so that no wait is long."""

    def answer(handler: BaseHTTPRequestHandler, _: int) -> None:
        handler.wfile.write(before)
        for _ in range(400):
            if handler.closed.wait(0.05):  # type: ignore[attr-defined]
                return
            handler.wfile.write(drop)

    return answer


#: before the drops: in the middle of a header, of a line between chunks, of a body whose end is that of the connection
IN_HEADERS = b"HTTP/1.1 200 OK\r\nX-A: "
IN_CHUNKS = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n8;"
IN_BODY = b"HTTP/1.1 200 OK\r\n\r\n" + BODY


def range_start(handler: BaseHTTPRequestHandler) -> int:
    return int(handler.headers["Range"].removeprefix("bytes=").removesuffix("-"))


def from_range(handler: BaseHTTPRequestHandler, _: int, body: bytes = BODY) -> None:
    """The rest that was asked for."""
    start = range_start(handler)
    send(handler, 206, body[start:], Content_Range=f"bytes {start}-{len(body) - 1}/{len(body)}")


def any_range(body: bytes = BODY) -> Answer:
    """The rest that was asked for, or the whole body."""

    def answer(handler: BaseHTTPRequestHandler, count: int) -> None:
        if handler.headers["Range"] is None:
            send(handler, 200, body)
        else:
            from_range(handler, count, body)

    return answer


# ---- streams --------------------------------------------------------------------------------------

#: heights of the streams, each 16:9 and a second long
HEIGHTS = (90, 180, 360)


def _ffmpeg(folder: Path, *arguments: str) -> None:
    pictures = "testsrc2=size=640x360:rate=10:duration=1"
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", "-f", "lavfi", "-i", pictures,
               "-f", "lavfi", "-i", "sine=duration=1", *arguments]  # fmt: skip
    subprocess.run(command, cwd=folder, check=True, timeout=60)


def _sizes() -> list[str]:
    return [
        word for i, height in enumerate(HEIGHTS) for word in (f"-s:v:{i}", f"{height * 16 // 9}x{height}")
    ]


_CODECS = ("-c:v", "libx264", "-preset", "ultrafast", "-g", "5", "-c:a", "aac")


def write_hls(folder: Path) -> Path:
    """master.m3u8 with a stream of each height, sound in all of them."""
    maps = ["-map", "0:v", "-map", "1:a"] * len(HEIGHTS)
    streams = " ".join(f"v:{i},a:{i}" for i in range(len(HEIGHTS)))
    _ffmpeg(
        folder, *maps, *_CODECS, *_sizes(), "-f", "hls", "-hls_time", "0.5", "-hls_playlist_type", "vod",
        "-var_stream_map", streams, "-hls_segment_filename", "%v-%d.ts", "stream-%v.m3u8",
    )  # fmt: skip
    lines = ["#EXTM3U"]
    for i, height in enumerate(HEIGHTS):
        size = f"{height * 16 // 9}x{height}"
        lines += [
            f"#EXT-X-STREAM-INF:BANDWIDTH={height}000,RESOLUTION={size},FRAME-RATE=10.000",
            f"stream-{i}.m3u8",
        ]
    (folder / "master.m3u8").write_text("\n".join(lines))
    return folder / "master.m3u8"


def write_dash(folder: Path) -> Path:
    """manifest.mpd with pictures of each height, and sound apart from them."""
    maps = ["-map", "0:v"] * len(HEIGHTS) + ["-map", "1:a"]
    _ffmpeg(
        folder, *maps, *_CODECS, *_sizes(), "-f", "dash", "-seg_duration", "0.5",
        "-adaptation_sets", "id=0,streams=v id=1,streams=a", "manifest.mpd",
    )  # fmt: skip
    return folder / "manifest.mpd"


def write_file(folder: Path, height: int = 180) -> Path:
    """video.mp4 of one height, with sound."""
    size = f"{height * 16 // 9}x{height}"
    _ffmpeg(folder, "-map", "0:v", "-map", "1:a", *_CODECS, "-s", size, "video.mp4")
    return folder / "video.mp4"
