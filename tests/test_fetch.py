"""Fetching from a server on this machine that misbehaves in every way, and from local files."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from lvg_data import fetch as fetching
from lvg_data.config import Card, LimitsConfig, UrlItem, UrlsSource
from lvg_data.errors import Rejected
from lvg_data.fetch import fetch
from lvg_data.journal import Journal
from lvg_data.records import Address, Source
from lvg_data.sources.urls import list_sources, public_address
from lvg_data.steps import Workshop
from lvg_data.store import Store

BODY = bytes(range(256)) * 40
SHA256 = hashlib.sha256(BODY).hexdigest()
LIMITS = LimitsConfig(fetch_attempts=3, fetch_wall_s=30)

Answer = Callable[[BaseHTTPRequestHandler, int], None]


def send(handler: BaseHTTPRequestHandler, status: int, body: bytes = b"", **headers: str) -> None:
    """Answers; the length is that of the body unless given, and left out where given as ""."""
    handler.send_response(status)
    for name, value in {
        "Content-Length": str(len(body)),
        **{k.replace("_", "-"): v for k, v in headers.items()},
    }.items():
        if value:
            handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(body)


class Server:
    """A threaded HTTP server; `answers` maps a path to what it does on its n-th request, from 0."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {}
        self.requests: list[tuple[str, str | None]] = []
        self.lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                path = self.path.split("?")[0]
                with outer.lock:
                    count = sum(seen.split("?")[0] == path for seen, _ in outer.requests)
                    outer.requests.append((self.path, self.headers.get("Range")))
                outer.answers[path](self, count)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()

    @property
    def port(self) -> int:
        return self.server.server_address[1]

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


@pytest.fixture
def waits(monkeypatch) -> list[float]:
    """Seconds that were waited between attempts; nothing is waited for."""
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)
    return waited


def source(url: str, sha256: str | None = None) -> Source:
    return Source("v", public_address(url) if "://" in url else "a.mp4", Address(url, sha256), "x", "x")


def rejected(url: str, store: Store, limits: LimitsConfig = LIMITS, sha256: str | None = None) -> Rejected:
    with pytest.raises(Rejected) as caught:
        fetch(source(url, sha256), store, limits)
    return caught.value


def in_turn(*answers: Answer) -> Answer:
    return lambda handler, count: answers[min(count, len(answers) - 1)](handler, count)


def status(code: int, **headers: str) -> Answer:
    return lambda handler, _: send(handler, code, b"<html>no video</html>", **headers)


def whole(handler: BaseHTTPRequestHandler, _: int) -> None:
    send(handler, 200, BODY)


def cut_off_at(num_bytes: int) -> Answer:
    """Promises the whole body, sends a part of it and hangs up."""
    return lambda handler, _: send(handler, 200, BODY[:num_bytes], Content_Length=str(len(BODY)))


def chunked(num_bytes: int) -> Answer:
    """Sends the body in chunks of 1,000 bytes up to `num_bytes`, with the end mark only after all of it."""

    def answer(handler: BaseHTTPRequestHandler, _: int) -> None:
        handler.protocol_version = "HTTP/1.1"
        send(handler, 200, b"", Content_Length="", Transfer_Encoding="chunked", Connection="close")
        for start in range(0, num_bytes, 1000):
            chunk = BODY[start : min(start + 1000, num_bytes)]
            handler.wfile.write(f"{len(chunk):x}\r\n".encode() + chunk + b"\r\n")
        handler.wfile.write(b"0\r\n\r\n" if num_bytes == len(BODY) else b"")
        handler.close_connection = True

    return answer


def from_range(handler: BaseHTTPRequestHandler, _: int) -> None:
    start = int(handler.headers["Range"].removeprefix("bytes=").removesuffix("-"))
    send(handler, 206, BODY[start:], Content_Range=f"bytes {start}-{len(BODY) - 1}/{len(BODY)}")


# ---- what works


def test_a_file_is_fetched_once_and_its_hash_is_known(server, store):
    server.answers["/a.mp4"] = whole

    first = fetch(source(server.url("/a.mp4"), SHA256), store, LIMITS)
    second = fetch(source(server.url("/a.mp4"), SHA256), store, LIMITS)

    assert first == second
    assert (first.sha256, first.size_bytes) == (SHA256, len(BODY))
    assert Path(first.address).read_bytes() == BODY
    assert len(server.requests) == 1


def test_a_redirect_is_followed(server, store):
    server.answers["/old"] = status(302, Location="/new")
    server.answers["/new"] = whole

    assert fetch(source(server.url("/old")), store, LIMITS).sha256 == SHA256


def test_a_body_without_a_length_is_taken_to_its_end(server, store):
    server.answers["/a"] = lambda handler, _: send(handler, 200, BODY, Content_Length="")

    assert fetch(source(server.url("/a")), store, LIMITS).sha256 == SHA256


def test_a_body_in_chunks_is_put_together(server, store):
    server.answers["/a"] = chunked(len(BODY))

    assert fetch(source(server.url("/a")), store, LIMITS).sha256 == SHA256


# ---- statuses


@pytest.mark.parametrize(
    ("code", "cause", "num_requests"),
    [
        (404, "not_found", 1),
        (410, "gone", 1),
        (403, "forbidden", 1),
        (401, "forbidden", 1),
        (501, "network", 1),
    ],
)
def test_a_status_that_will_not_change_is_named_and_not_asked_again(code, cause, num_requests, server, store):
    server.answers["/a"] = status(code)

    err = rejected(server.url("/a"), store)

    assert err.cause == cause
    assert err.message == f"http://127.0.0.1/a: HTTP status {code}"
    assert len(server.requests) == num_requests


@pytest.mark.parametrize(("code", "cause"), [(429, "rate_limited"), (503, "rate_limited"), (500, "network")])
def test_a_status_that_may_change_is_asked_again_and_then_named(code, cause, server, store, waits):
    server.answers["/a"] = status(code)

    err = rejected(server.url("/a"), store)

    assert (err.cause, err.retryable) == (cause, True)
    assert err.message == f"http://127.0.0.1/a: HTTP status {code}"
    assert len(server.requests) == 1 + LIMITS.fetch_attempts
    assert store.get(fetch_key(server.url("/a"), store)) is None


def fetch_key(url: str, store: Store):
    """The key that `fetch` would use, seen by asking a store that only notes it."""
    seen = []

    class Noting(Store):
        def get_or_make(self, key, make):
            seen.append(key)
            raise Rejected("network", "noted")

    with pytest.raises(Rejected):
        fetch(source(url), Noting(store.root), LIMITS)
    return seen[0]


def test_a_server_that_asks_to_wait_is_waited_for(server, store, waits):
    server.answers["/a"] = in_turn(status(429, Retry_After="7"), whole)

    assert fetch(source(server.url("/a")), store, LIMITS).sha256 == SHA256
    assert 7 in waits
    assert len(server.requests) == 2


def test_an_error_that_passes_leaves_no_trace_in_the_file(server, store, waits):
    server.answers["/a"] = in_turn(status(500), status(502), whole)

    fetched = fetch(source(server.url("/a")), store, LIMITS)
    assert Path(fetched.address).read_bytes() == BODY


def test_a_final_reject_is_not_asked_again_by_the_next_run(server, store):
    server.answers["/a"] = status(404)

    for _ in range(3):
        assert rejected(server.url("/a"), store).cause == "not_found"
    assert len(server.requests) == 1


def test_a_redirect_in_a_circle_ends(server, store, waits):
    server.answers["/a"] = status(302, Location="/a")

    err = rejected(server.url("/a"), store)
    assert (err.cause, err.retryable) == ("network", True)
    assert "too many redirects" in err.message


# ---- bodies that break off


def test_a_body_that_broke_off_goes_on_where_it_stopped(server, store, waits):
    server.answers["/a"] = in_turn(cut_off_at(4000), from_range)

    fetched = fetch(source(server.url("/a"), SHA256), store, LIMITS)

    assert Path(fetched.address).read_bytes() == BODY
    assert [wanted for _, wanted in server.requests] == [None, "bytes=4000-"]


def test_chunks_that_broke_off_go_on_where_they_stopped(server, store, waits):
    server.answers["/a"] = in_turn(chunked(4000), from_range)

    fetched = fetch(source(server.url("/a"), SHA256), store, LIMITS)

    assert Path(fetched.address).read_bytes() == BODY
    assert [wanted for _, wanted in server.requests] == [None, "bytes=4000-"]


def test_a_body_that_breaks_off_again_and_again_gets_farther_each_time(server, store, waits):
    def next_part(handler: BaseHTTPRequestHandler, _: int) -> None:
        start = int(handler.headers["Range"].removeprefix("bytes=").removesuffix("-"))
        body = BODY[start : start + 4000]
        send(handler, 206, body, Content_Length=str(len(BODY) - start))

    server.answers["/a"] = in_turn(cut_off_at(4000), next_part)

    assert fetch(source(server.url("/a"), SHA256), store, LIMITS).sha256 == SHA256
    assert [wanted for _, wanted in server.requests] == [None, "bytes=4000-", "bytes=8000-"]


def test_a_body_that_broke_off_is_fetched_anew_where_the_server_cannot_go_on(server, store, waits):
    server.answers["/a"] = in_turn(cut_off_at(4000), whole)

    fetched = fetch(source(server.url("/a"), SHA256), store, LIMITS)

    assert Path(fetched.address).read_bytes() == BODY
    assert [wanted for _, wanted in server.requests] == [None, "bytes=4000-"]


def test_nothing_is_left_of_a_longer_file_that_was_replaced_meanwhile(server, store, waits):
    server.answers["/a"] = in_turn(cut_off_at(4000), lambda handler, _: send(handler, 200, b"shorter"))

    fetched = fetch(source(server.url("/a")), store, LIMITS)

    assert Path(fetched.address).read_bytes() == b"shorter"


def test_a_range_that_the_server_refuses_begins_the_file_again(server, store, waits):
    server.answers["/a"] = in_turn(cut_off_at(4000), status(416), whole)

    fetched = fetch(source(server.url("/a"), SHA256), store, LIMITS)

    assert Path(fetched.address).read_bytes() == BODY
    assert [wanted for _, wanted in server.requests] == [None, "bytes=4000-", None]


def test_a_body_that_always_breaks_off_is_a_network_reject(server, store, waits, tmp_path):
    server.answers["/a"] = cut_off_at(4000)

    err = rejected(server.url("/a"), store)

    assert (err.cause, err.retryable) == ("network", True)
    assert err.message.startswith("http://127.0.0.1/a: ")
    assert "4000 bytes" in err.message
    assert len(server.requests) == LIMITS.fetch_attempts
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


def test_nobody_there_is_a_network_reject(store, waits):
    with socket.socket() as taken:  # bound and not listening: connections are refused
        taken.bind(("127.0.0.1", 0))
        err = rejected(f"http://127.0.0.1:{taken.getsockname()[1]}/a", store)

    assert (err.cause, err.retryable) == ("network", True)
    assert "Connection refused" in err.message
    assert len(waits) == LIMITS.fetch_attempts - 1


# ---- limits and hashes


def test_a_hash_that_was_promised_is_held_against_the_content(server, store):
    server.answers["/a"] = whole

    err = rejected(server.url("/a"), store, sha256="0" * 64)

    assert err.cause == "hash_mismatch"
    assert err.message == f"http://127.0.0.1/a: sha256 is {SHA256}, promised {'0' * 64}"


def test_a_file_that_promises_to_be_too_large_is_refused(server, store):
    server.answers["/a"] = whole

    err = rejected(server.url("/a"), store, LimitsConfig(file_bytes=5000))

    assert (err.cause, err.value, err.threshold) == ("too_large", len(BODY), 5000)
    assert err.message == f"http://127.0.0.1/a: {len(BODY)} bytes; limits.file_bytes is 5000"
    assert len(server.requests) == 1


def test_a_file_that_turns_out_too_large_is_refused_without_a_figure_of_chance(server, store):
    server.answers["/a"] = lambda handler, _: send(handler, 200, BODY, Content_Length="")

    err = rejected(server.url("/a"), store, LimitsConfig(file_bytes=5000))

    assert (err.cause, err.value, err.threshold) == ("too_large", None, 5000)
    assert err.message == "http://127.0.0.1/a: more than limits.file_bytes, 5000"
    assert len(server.requests) == 1


def test_a_file_of_exactly_the_limit_is_taken(server, store):
    server.answers["/a"] = whole

    assert fetch(source(server.url("/a")), store, LimitsConfig(file_bytes=len(BODY))).size_bytes == len(BODY)


def test_a_download_past_its_time_is_a_network_reject(server, store, monkeypatch):
    server.answers["/a"] = whole
    clock = iter(range(0, 10_000, 100))
    monkeypatch.setattr(fetching.time, "monotonic", lambda: next(clock))

    err = rejected(server.url("/a"), store, LimitsConfig(fetch_wall_s=60))
    assert (err.cause, err.message) == ("network", "http://127.0.0.1/a: not done after 60 s")


# ---- secrets

SECRETS = ("s3cret", "us3r", "passw0rd", "t0ken")


def urls_card(url: str) -> tuple[Card, Source]:
    config = UrlsSource(kind="urls", items=(UrlItem(url=url),))
    card = Card(name="t", licence="x", attribution="x", sources=(config,), limits=LIMITS)
    return card, next(list_sources(config, card, Path()))


@pytest.mark.parametrize(
    "answer",
    [
        whole,
        status(403),
        status(404),
        status(500),
        status(302, Location="/a?key=t0ken"),
        cut_off_at(50),
        None,
    ],
)
def test_nothing_secret_of_an_address_is_written_down(answer, server, tmp_path, waits, caplog):
    port = server.port
    url = f"http://us3r:passw0rd@127.0.0.1:{port}/a?key=s3cret&also=t0ken#s3cret"
    if answer is None:
        server.close()  # nobody answers
    else:
        server.answers["/a"] = answer
    card, row = urls_card(url)
    shop = Workshop(card, Store(str(tmp_path / "store")), Journal(str(tmp_path / "runs"), "run"))

    with caplog.at_level(logging.WARNING):
        try:
            fetched = repr(fetching.fetch(row, shop.store, card.limits).sha256)
        except Rejected as err:
            shop.note_reject("source", row.video_id, err)
            fetched = str(err)

    written = "".join(
        f"{path} {path.read_text(errors='replace')}"
        for path in tmp_path.rglob("*")
        if path.is_file() and path.name != "video"
    )
    assert row.origin == "http://127.0.0.1/a"
    assert written
    for text in (row.origin, written, fetched, caplog.text):
        assert not [secret for secret in (*SECRETS, f":{port}", f"={port}") if secret in text]


def test_the_same_address_with_another_secret_is_another_artefact(server, store):
    server.answers["/a"] = whole

    for key in ("one", "two", "one"):
        fetch(source(server.url(f"/a?key={key}")), store, LIMITS)
    assert [path for path, _ in server.requests] == ["/a?key=one", "/a?key=two"]


@pytest.mark.parametrize(
    ("url", "public"),
    [
        ("https://u:p@Example.org:8443/x/y.mp4?sig=1#t=3", "https://example.org/x/y.mp4"),
        ("http://example.org", "http://example.org"),
    ],
)
def test_a_public_address_is_scheme_host_and_path(url, public):
    assert public_address(url) == public


# ---- local files


@pytest.fixture
def hashed(monkeypatch) -> list[Path]:
    """The files whose content was read for a hash."""
    seen: list[Path] = []
    original = fetching.file_sha256
    monkeypatch.setattr(fetching, "file_sha256", lambda path: seen.append(path) or original(path))
    return seen


def test_a_local_file_is_used_in_place_and_hashed_once(tmp_path, store, hashed):
    path = tmp_path / "a.mp4"
    path.write_bytes(BODY)

    first = fetch(source(str(path)), store, LIMITS)
    second = fetch(source(str(path)), store, LIMITS)

    assert first == second
    assert (first.address, first.sha256, first.size_bytes) == (str(path), SHA256, len(BODY))
    assert hashed == [path]


def test_a_local_file_with_another_size_or_time_is_hashed_again(tmp_path, store, hashed):
    path = tmp_path / "a.mp4"
    path.write_bytes(BODY)
    fetch(source(str(path)), store, LIMITS)

    path.write_bytes(BODY[::-1])
    os.utime(path, ns=(1, 10**18))
    assert fetch(source(str(path)), store, LIMITS).sha256 == hashlib.sha256(BODY[::-1]).hexdigest()
    path.write_bytes(b"short")
    os.utime(path, ns=(1, 10**18))
    assert fetch(source(str(path)), store, LIMITS).sha256 == hashlib.sha256(b"short").hexdigest()
    assert len(hashed) == 3


def test_a_local_file_that_is_missing_is_rejected_until_it_is_there(tmp_path, store):
    path = tmp_path / "a.mp4"

    err = rejected(str(path), store)
    assert err.cause == "not_found"
    assert err.message.startswith("a.mp4: ")
    assert "No such file" in err.message

    path.write_bytes(BODY)
    assert fetch(source(str(path)), store, LIMITS).sha256 == SHA256


def test_a_folder_in_place_of_a_file_is_rejected(tmp_path, store):
    assert rejected(str(tmp_path), store).cause == "not_found"


def test_a_local_file_that_may_not_be_read_is_rejected(tmp_path, store, monkeypatch):
    path = tmp_path / "a.mp4"
    path.write_bytes(BODY)
    path.chmod(0)
    try:
        path.read_bytes()
    except PermissionError:
        pass
    else:
        pytest.skip("this user may read everything")

    assert rejected(str(path), store).cause == "forbidden"


def test_a_local_file_is_held_to_its_limit_and_its_hash(tmp_path, store):
    path = tmp_path / "a.mp4"
    path.write_bytes(BODY)

    assert rejected(str(path), store, LimitsConfig(file_bytes=5000)).cause == "too_large"
    assert rejected(str(path), store, sha256="0" * 64).cause == "hash_mismatch"
    assert fetch(source(str(path), SHA256), store, LIMITS).sha256 == SHA256


def test_the_store_notes_sizes_and_hashes_of_what_it_fetched(server, store):
    server.answers["/a"] = whole
    fetched = fetch(source(server.url("/a")), store, LIMITS)

    meta = json.loads((Path(fetched.address).parent / "meta.json").read_text())
    assert meta["result"] == {"sha256": SHA256, "size_bytes": len(BODY)}
