"""Fetching from a server on this machine that misbehaves in every way, and from local files."""

from __future__ import annotations

import email.utils
import hashlib
import io
import json
import logging
import os
import pickle
import shutil
import socket
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from lvg_data.child import Stopped
from lvg_data.config import Card, LimitsConfig, UrlItem, UrlsSource
from lvg_data.errors import Rejected
from lvg_data.fetch import Desk, at_hand, cache, download_list, fetch, http, polite, way
from lvg_data.fetch.addresses import address_key, public_address, site_of, without_secrets
from lvg_data.fetch.watch import Watch
from lvg_data.ids import canonical_json
from lvg_data.journal import Journal
from lvg_data.records import Address, Fetched, Reject, Source
from lvg_data.schema import decode_table, encode_table
from lvg_data.sources.place import Place
from lvg_data.sources.urls import list_sources
from lvg_data.steps import Workshop
from lvg_data.store import Key, Store
from tests.servers import (
    BODY,
    IN_BODY,
    IN_CHUNKS,
    IN_HEADERS,
    Server,
    any_range,
    chunked,
    cut_off_at,
    dripping,
    file,
    from_range,
    http_server,
    in_turn,
    page,
    range_start,
    send,
    slow,
    stalled_at,
    status,
)

SHA256 = hashlib.sha256(BODY).hexdigest()
LIMITS = LimitsConfig(
    fetch_attempts=3, fetch_wall_s=30, requests_per_s=1e6, downloads_per_hour=1e9, free_bytes=0
)


@pytest.fixture
def server() -> Iterator[Server]:
    with http_server() as server:
        yield server


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(Store(str(tmp_path / "store")), LIMITS, 360, 61, run=str(tmp_path), private_addresses=True)


@pytest.fixture
def waits(monkeypatch) -> list[float]:
    """Seconds that were waited between attempts; nothing is waited for."""
    waited: list[float] = []
    monkeypatch.setattr(polite, "pause", lambda seconds, stop: waited.append(seconds) if seconds else None)
    return waited


def limited(desk: Desk, **limits) -> Desk:
    return replace(desk, limits=desk.limits.model_copy(update=limits))


def source(url: str, sha256: str | None = None) -> Source:
    return Source("v", public_address(url) if "://" in url else "a.mp4", Address(url, sha256), "x", "x")


def rejected(url: str, desk: Desk, sha256: str | None = None) -> Rejected:
    with pytest.raises(Rejected) as caught:
        fetch(source(url, sha256), desk)
    return caught.value


def content(fetched: Fetched) -> bytes:
    return Path(fetched.address).read_bytes()


def kept_files(folder: Path) -> list[str]:
    """Names of all files of a store but its notes of when runs began."""
    return sorted(p.name for p in folder.rglob("*") if p.is_file() and p.parent.name != "fetch_runs")


# ---- what works


def test_a_file_is_fetched_once_and_its_hash_is_known(server, desk):
    server.answers["/a.mp4"] = file()

    first = fetch(source(server.url("/a.mp4"), SHA256), desk)
    second = fetch(source(server.url("/a.mp4"), SHA256), desk)

    assert first == second
    assert (first.sha256, first.size_bytes, first.downloaded_format) == (SHA256, len(BODY), "{}")
    assert content(first) == BODY
    assert len(server.requests) == 1


def test_an_address_that_names_no_file_is_a_plain_file_all_the_same(server, desk):
    server.answers["/download"] = file()

    assert fetch(source(server.url("/download?id=7")), desk).sha256 == SHA256


def test_a_redirect_is_followed(server, desk):
    server.answers["/old.mp4"] = status(302, Location="/new?key=1")
    server.answers["/new"] = file()

    assert fetch(source(server.url("/old.mp4")), desk).sha256 == SHA256
    assert [path for path, _ in server.requests] == ["/old.mp4", "/new?key=1"]


def test_a_redirect_to_another_kind_of_address_is_refused(server, desk, tmp_path):
    (tmp_path / "secret").write_bytes(BODY)
    server.answers["/a.mp4"] = status(302, Location=f"file://{tmp_path}/secret")

    err = rejected(server.url("/a.mp4"), desk)
    assert (err.cause, err.message) == (
        "unsupported_site",
        "http://127.0.0.1/a.mp4: leads to an address of the kind 'file'",
    )


@pytest.mark.parametrize("location", ["http://[", "//[x]y/a.mp4", "http://x[@y]/"])
def test_a_redirect_to_what_is_no_address_is_a_reject(location, server, desk):
    server.answers["/a.mp4"] = status(302, Location=location)

    err = rejected(server.url("/a.mp4"), desk)
    assert (err.cause, err.message) == (
        "not_found",
        "http://127.0.0.1/a.mp4: not an address that can be asked",
    )


def test_a_body_without_a_length_is_taken_to_its_end(server, desk):
    server.answers["/a.mp4"] = file(Content_Length="")

    assert fetch(source(server.url("/a.mp4")), desk).sha256 == SHA256


def test_a_body_in_chunks_is_put_together(server, desk):
    server.answers["/a.mp4"] = chunked(len(BODY))

    assert fetch(source(server.url("/a.mp4")), desk).sha256 == SHA256


def test_a_slow_body_is_waited_for(server, desk):
    server.answers["/a.mp4"] = slow(piece_bytes=3000, pause_s=0.1)

    assert fetch(source(server.url("/a.mp4")), desk).sha256 == SHA256


def test_a_compressed_body_is_kept_as_it_was_before(server, desk, waits):
    import gzip

    packed = gzip.compress(BODY)
    broken = file(packed[:100], Content_Encoding="gzip", Content_Length=str(len(packed)), ETag='"1"')
    server.answers["/a.mp4"] = in_turn(broken, file(packed, Content_Encoding="gzip"))

    assert fetch(source(server.url("/a.mp4")), desk).sha256 == SHA256
    assert [wanted for _, wanted in server.requests] == [None, None]


# ---- statuses


@pytest.mark.parametrize(
    ("code", "cause"),
    [
        (404, "not_found"),
        (410, "gone"),
        (403, "forbidden"),
        (401, "login_required"),
        (451, "blocked"),
        (501, "network"),
    ],
)
def test_a_status_that_will_not_change_is_named_and_not_asked_again(code, cause, server, desk):
    server.answers["/a.mp4"] = status(code)

    err = rejected(server.url("/a.mp4"), desk)

    assert (err.cause, err.attempts) == (cause, 1)
    assert err.message == f"http://127.0.0.1/a.mp4: HTTP status {code}"
    assert len(server.requests) == 1


@pytest.mark.parametrize(("code", "cause"), [(429, "rate_limited"), (503, "rate_limited"), (500, "network")])
def test_a_status_that_may_change_is_asked_again_and_then_named(code, cause, server, desk, waits):
    server.answers["/a.mp4"] = status(code)

    err = rejected(server.url("/a.mp4"), desk)

    assert (err.cause, err.retryable, err.attempts) == (cause, True, LIMITS.fetch_attempts)
    assert err.message == f"http://127.0.0.1/a.mp4: HTTP status {code}"
    assert len(server.requests) == LIMITS.fetch_attempts
    assert kept_files(Path(desk.store.root)) == []


def test_a_reject_keeps_its_attempts_on_the_way_out_of_a_child():
    err = Rejected("network", "cut off", None, 3)
    err.attempts = 4

    copy = pickle.loads(pickle.dumps(err))

    assert (copy.cause, copy.message, copy.threshold, copy.attempts) == ("network", "cut off", 3, 4)


def test_a_server_that_asks_to_wait_is_waited_for(server, desk, waits):
    server.answers["/a.mp4"] = in_turn(status(429, Retry_After="7"), file())

    assert fetch(source(server.url("/a.mp4")), desk).sha256 == SHA256
    assert waits == [7]


def test_a_server_may_name_the_time_to_come_back(server, desk, waits):
    date = email.utils.formatdate(time.time() + 9, usegmt=True)
    server.answers["/a.mp4"] = in_turn(status(503, Retry_After=date), file())

    assert fetch(source(server.url("/a.mp4")), desk).sha256 == SHA256
    assert waits == [pytest.approx(8.5, abs=1.5)]


def test_a_server_that_asks_to_wait_too_long_is_left(server, desk, waits):
    server.answers["/a.mp4"] = status(429, Retry_After="31")

    err = rejected(server.url("/a.mp4"), desk)

    assert (err.cause, err.attempts, waits) == ("rate_limited", 1, [])


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, 0),
        ("", 0),
        ("soon", 0),
        ("-3", 0),
        ("12", 12),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
        ("Mon, 01 Jan 2024 00:00:00 +99999999999999", 0),
        ("Mon, 01 Jan 99999999999 00:00:00 GMT", 0),
    ],
)
def test_nonsense_asks_for_no_wait(header, seconds):
    assert polite.retry_after_s(header) == seconds


def test_an_error_that_passes_leaves_no_trace_in_the_file(server, desk, waits):
    server.answers["/a.mp4"] = in_turn(status(500), status(502), file())

    assert content(fetch(source(server.url("/a.mp4")), desk)) == BODY
    assert 0.5 <= waits[0] <= 1 <= waits[1] <= 2, "the back-off doubles, and is jittered"


def test_a_final_reject_is_not_asked_again_by_the_next_run(server, desk):
    server.answers["/a.mp4"] = status(404)

    for run in ("one", "two", "three"):
        assert rejected(server.url("/a.mp4"), replace(desk, run=run)).cause == "not_found"
    assert len(server.requests) == 1


def test_a_redirect_in_a_circle_ends(server, desk):
    server.answers["/a.mp4"] = status(302, Location="/a.mp4")

    err = rejected(server.url("/a.mp4"), desk)

    assert (err.cause, err.retryable) == ("network", True)
    assert "too many redirects" in err.message


# ---- pages in place of files


def test_a_page_named_like_a_video_is_no_video(server, desk):
    server.answers["/a.mp4"] = page(
        "\n<!DOCTYPE html><title>Log in</title>" + "x" * 5000, Content_Type="video/mp4"
    )

    err = rejected(server.url("/a.mp4"), desk)

    assert (err.cause, err.retryable) == ("not_video", False)
    assert err.message == "http://127.0.0.1/a.mp4: a page of text, not the file that its name promises"
    assert len(server.requests) == 1


def test_an_empty_answer_is_no_video(server, desk):
    server.answers["/a.mp4"] = file(b"")

    err = rejected(server.url("/a.mp4"), desk)
    assert (err.cause, err.message) == ("not_video", "http://127.0.0.1/a.mp4: an empty answer")


# ---- bodies that break off


def test_a_body_that_broke_off_goes_on_where_it_stopped(server, desk, waits):
    server.answers["/a.mp4"] = in_turn(cut_off_at(4000), from_range)

    assert content(fetch(source(server.url("/a.mp4"), SHA256), desk)) == BODY
    assert [wanted for _, wanted in server.requests] == [None, "bytes=4000-"]


def test_chunks_that_broke_off_go_on_where_they_stopped(server, desk, waits):
    server.answers["/a.mp4"] = in_turn(chunked(4000), from_range)

    assert content(fetch(source(server.url("/a.mp4"), SHA256), desk)) == BODY
    assert [wanted for _, wanted in server.requests] == [None, "bytes=4000-"]


def test_a_body_that_breaks_off_again_and_again_gets_farther_each_time(server, desk, waits):
    def next_part(handler, _: int) -> None:
        start = range_start(handler)
        end = f"bytes {start}-{len(BODY) - 1}/{len(BODY)}"
        send(
            handler, 206, BODY[start : start + 4000], Content_Length=str(len(BODY) - start), Content_Range=end
        )

    server.answers["/a.mp4"] = in_turn(cut_off_at(4000), next_part)

    assert fetch(source(server.url("/a.mp4"), SHA256), desk).sha256 == SHA256
    assert [wanted for _, wanted in server.requests] == [None, "bytes=4000-", "bytes=8000-"]


def test_a_server_that_sends_less_than_it_was_asked_for_is_asked_for_the_rest(server, desk, waits):
    def some(handler, _: int) -> None:
        start = range_start(handler)
        stop = min(start + 5000, len(BODY))
        send(handler, 206, BODY[start:stop], Content_Range=f"bytes {start}-{stop - 1}/{len(BODY)}")

    server.answers["/a.mp4"] = in_turn(cut_off_at(4000), some)

    assert fetch(source(server.url("/a.mp4"), SHA256), desk).sha256 == SHA256


@pytest.mark.parametrize(
    ("first", "condition"),
    [
        ({"ETag": '"one"', "Last_Modified": "Thu, 01 Jan 2026 00:00:00 GMT"}, '"one"'),
        (
            {"ETag": 'W/"one"', "Last_Modified": "Thu, 01 Jan 2026 00:00:00 GMT"},
            "Thu, 01 Jan 2026 00:00:00 GMT",
        ),
    ],
)
def test_only_the_rest_of_the_same_version_is_asked_for(first, condition, server, desk, waits):
    server.answers["/a.mp4"] = in_turn(cut_off_at(4000, **first), from_range)

    assert fetch(source(server.url("/a.mp4")), desk).sha256 == SHA256
    assert [sent.get("if-range") for sent in server.headers] == [None, condition]


@pytest.mark.parametrize(
    "first",
    [
        {"ETag": ""},
        {"ETag": 'W/"one"'},
        {"ETag": "", "Last_Modified": "last week"},
        # of a second that is not over: there may be another change in it
        {"ETag": "", "Last_Modified": "Fri, 01 Jan 2100 00:00:00 GMT"},
    ],
)
def test_a_body_is_begun_again_where_nothing_tells_its_versions_apart(first, server, desk, waits):
    other = BODY[::-1]
    server.answers["/a.mp4"] = in_turn(cut_off_at(4000, **first), any_range(other))

    assert content(fetch(source(server.url("/a.mp4")), desk)) == other
    assert [wanted for _, wanted in server.requests] == [None, None]


def test_a_rest_that_does_not_say_of_how_much_is_held_against_the_first_answer(server, desk, waits):
    def some(handler, _: int) -> None:
        start = range_start(handler)
        send(handler, 206, BODY[start : start + 4000], Content_Range=f"bytes {start}-{start + 3999}/*")

    server.answers["/a.mp4"] = in_turn(cut_off_at(4000), some)
    server.answers["/b.mp4"] = in_turn(chunked(4000), some, file())

    assert content(fetch(source(server.url("/a.mp4")), desk)) == BODY
    assert content(fetch(source(server.url("/b.mp4")), desk)) == BODY, "no answer said it: from the beginning"
    assert [wanted for _, wanted in server.requests][3:] == [None, "bytes=4000-", None]


def test_the_first_bytes_are_looked_at_also_where_they_come_in_two_answers(server, desk, waits):
    text = b"<!DOCTYPE html><title>Log in</title>" + b"x" * 5000
    rest = lambda handler, count: from_range(handler, count, text)  # noqa: E731
    server.answers["/a.mp4"] = in_turn(cut_off_at(9, text), rest)
    server.answers["/b.mp4"] = in_turn(cut_off_at(9), from_range)

    assert rejected(server.url("/a.mp4"), desk).cause == "not_video"
    assert content(fetch(source(server.url("/b.mp4")), desk)) == BODY


def test_a_file_that_changed_between_two_attempts_is_fetched_anew(server, desk, waits):
    other = BODY[::-1]
    server.answers["/a.mp4"] = in_turn(cut_off_at(4000, ETag='"one"'), file(other, ETag='"two"'))

    assert content(fetch(source(server.url("/a.mp4")), desk)) == other


@pytest.mark.parametrize(
    "changed", [{"ETag": '"two"'}, {"Content_Range": f"bytes 4000-{len(BODY)}/{len(BODY) + 1}"}]
)
def test_a_rest_of_another_version_is_refused(changed, server, desk, waits):
    def other_rest(handler, _: int) -> None:
        rest = f"bytes 4000-{len(BODY) - 1}/{len(BODY)}"
        send(handler, 206, BODY[:-4000], **{"Content_Range": rest, **changed})

    server.answers["/a.mp4"] = in_turn(cut_off_at(4000, ETag='"one"'), other_rest, file())

    assert content(fetch(source(server.url("/a.mp4")), desk)) == BODY
    assert [wanted for _, wanted in server.requests] == [None, "bytes=4000-", None]


@pytest.mark.parametrize("sent", ["bytes 0-10239/10240", "bytes 3999-10239/10240", "", "bytes */10240"])
def test_a_rest_that_begins_elsewhere_is_refused(sent, server, desk, waits):
    server.answers["/a.mp4"] = in_turn(
        cut_off_at(4000), lambda handler, _: send(handler, 206, BODY[4000:], Content_Range=sent)
    )

    err = rejected(server.url("/a.mp4"), limited(desk, fetch_attempts=2))

    assert err.cause == "network"
    assert "another range than it was asked for" in err.message


def test_a_body_that_broke_off_is_fetched_anew_where_the_server_cannot_go_on(server, desk, waits):
    server.answers["/a.mp4"] = in_turn(cut_off_at(4000), file())

    assert content(fetch(source(server.url("/a.mp4"), SHA256), desk)) == BODY
    assert [wanted for _, wanted in server.requests] == [None, "bytes=4000-"]


def test_nothing_is_left_of_a_longer_file_that_was_replaced_meanwhile(server, desk, waits):
    server.answers["/a.mp4"] = in_turn(cut_off_at(4000), file(b"shorter"))

    assert content(fetch(source(server.url("/a.mp4")), desk)) == b"shorter"


def test_a_range_that_the_server_refuses_begins_the_file_again(server, desk, waits):
    server.answers["/a.mp4"] = in_turn(cut_off_at(4000), status(416), file())

    assert content(fetch(source(server.url("/a.mp4"), SHA256), desk)) == BODY
    assert [wanted for _, wanted in server.requests] == [None, "bytes=4000-", None]


def test_a_body_that_always_breaks_off_is_a_network_reject_and_leaves_nothing(server, desk, waits):
    server.answers["/a.mp4"] = cut_off_at(4000)

    err = rejected(server.url("/a.mp4"), desk)

    assert (err.cause, err.retryable, err.attempts) == ("network", True, LIMITS.fetch_attempts)
    assert err.message == "http://127.0.0.1/a.mp4: ProtocolError at 4000 bytes"
    assert len(server.requests) == LIMITS.fetch_attempts
    assert kept_files(Path(desk.store.root)) == []
    assert list((Path(desk.store.root) / "tmp").iterdir()) == []


def test_a_body_that_stalls_ends_with_its_time(server, desk):
    server.answers["/a.mp4"] = stalled_at(4000)
    began = time.monotonic()

    err = rejected(server.url("/a.mp4"), limited(desk, fetch_wall_s=0.5))

    assert (err.cause, err.message) == ("network", "http://127.0.0.1/a.mp4: not done after 0.5 s")
    assert time.monotonic() - began < 5


def test_a_body_that_stalls_is_not_waited_for_until_all_time_is_over(server, desk, waits, monkeypatch):
    monkeypatch.setattr(http, "_STALL_S", 0.2)
    server.answers["/a.mp4"] = in_turn(stalled_at(4000), from_range)

    assert fetch(source(server.url("/a.mp4")), desk).sha256 == SHA256


@pytest.mark.parametrize("begun", [IN_HEADERS, IN_CHUNKS, IN_BODY])
def test_an_answer_that_drips_wherever_it_is_ends_with_its_time(begun, server, desk):
    server.answers["/a.mp4"] = dripping(begun)
    began = time.monotonic()

    err = rejected(server.url("/a.mp4"), limited(desk, fetch_wall_s=0.5))

    assert (err.cause, err.message) == ("network", "http://127.0.0.1/a.mp4: not done after 0.5 s")
    assert time.monotonic() - began < 5


def test_a_watch_ends_connections_that_tls_took_over():
    ours, theirs = socket.socketpair()
    with Watch(time.monotonic() + 0.3, None) as watch, theirs:
        watch.follow(ours)
        with socket.socket(fileno=ours.detach()) as wrapped:  # as ssl.SSLContext.wrap_socket does
            wrapped.settimeout(10)
            assert wrapped.recv(1) == b""
    assert watch.is_over


def test_a_body_that_drips_ends_with_its_time(server, desk):
    server.answers["/a.mp4"] = slow(piece_bytes=100, pause_s=0.1)

    err = rejected(server.url("/a.mp4"), limited(desk, fetch_wall_s=0.5))

    assert (err.cause, err.message) == ("network", "http://127.0.0.1/a.mp4: not done after 0.5 s")


def test_nobody_there_is_a_network_reject(desk, waits):
    with socket.socket() as taken:  # bound and not listening: connections are refused
        taken.bind(("127.0.0.1", 0))
        err = rejected(f"http://127.0.0.1:{taken.getsockname()[1]}/a.mp4", desk)

    assert (err.cause, err.retryable) == ("network", True)
    assert "Connection refused" in err.message
    assert len(waits) == LIMITS.fetch_attempts - 1


def test_an_address_that_cannot_be_asked_is_not_found(desk):
    assert rejected(f"http://{'x' * 64}.example/a.mp4", desk).cause == "not_found"


# ---- limits and hashes


def test_a_hash_that_was_promised_is_held_against_the_content(server, desk):
    server.answers["/a.mp4"] = file()

    err = rejected(server.url("/a.mp4"), desk, sha256="0" * 64)

    assert err.cause == "hash_mismatch"
    assert err.message == f"http://127.0.0.1/a.mp4: sha256 is {SHA256}, promised {'0' * 64}"


def test_a_file_that_promises_to_be_too_large_is_refused(server, desk):
    server.answers["/a.mp4"] = file()

    err = rejected(server.url("/a.mp4"), limited(desk, file_bytes=5000))

    assert (err.cause, err.value, err.threshold) == ("too_large", len(BODY), 5000)
    assert err.message == f"http://127.0.0.1/a.mp4: {len(BODY)} bytes; limits.file_bytes is 5000"
    assert len(server.requests) == 1


@pytest.mark.parametrize("digits", [17, 400, 5000])
def test_no_promised_length_is_too_long_for_a_table(digits, server, desk):
    length = "9" * digits
    server.answers |= {
        "/a.mp4": file(Content_Length=length),
        "/b.mp4": lambda handler, _: send(handler, 206, BODY, Content_Range=f"bytes 0-1/{length}"),
    }

    for name in "ab":
        err = rejected(server.url(f"/{name}.mp4"), desk)
        row = Reject("source", "v", "v", "x", err.cause, err.retryable, None, None, err.value, err.threshold)

        assert err.cause == "too_large"
        assert decode_table(Reject, encode_table(Reject, [row]), "rejects") == [row]
        assert err.value == (1e17 if digits == 17 else 1e30)


def test_the_figures_of_a_reject_are_floats():
    err = Rejected("too_large", "x", 2**53 + 1, 10**400)

    assert (repr(err.value), repr(err.threshold)) == ("9007199254740992.0", repr(sys.float_info.max))
    assert Rejected("too_large", "x", -(10**400)).value == -sys.float_info.max
    canonical_json([err.value, err.threshold])  # as the store keeps them


def test_a_leading_zero_makes_no_length_longer(server, desk):
    server.answers["/a.mp4"] = file(Content_Length=f"{len(BODY):040d}")

    assert fetch(source(server.url("/a.mp4")), desk).size_bytes == len(BODY)


def test_a_file_that_turns_out_too_large_is_refused_without_a_figure_of_chance(server, desk):
    server.answers["/a.mp4"] = file(Content_Length="")

    err = rejected(server.url("/a.mp4"), limited(desk, file_bytes=5000))

    assert (err.cause, err.value, err.threshold) == ("too_large", None, 5000)
    assert err.message == "http://127.0.0.1/a.mp4: more than limits.file_bytes, 5000"
    assert len(server.requests) == 1


def test_a_file_of_exactly_the_limit_is_taken(server, desk):
    server.answers["/a.mp4"] = file()

    assert fetch(source(server.url("/a.mp4")), limited(desk, file_bytes=len(BODY))).size_bytes == len(BODY)


# ---- politeness


def test_a_host_is_asked_at_most_so_often(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(polite.time, "monotonic", lambda: now[0])
    seldom, often = polite.Turns(0.1), polite.Turns(4)

    assert [seldom.take() for _ in range(3)] == [0, 10, 20]
    assert [often.take() for _ in range(6)] == [0, 0, 0, 0, 0.25, 0.5]
    now[0] = 1000
    assert [seldom.take() for _ in range(2)] == [0, 10], "turns that nobody took are lost"


def test_turns_are_shared_by_all_threads_of_a_run_and_by_no_other_run(desk):
    hosts = [
        polite.host_of("a", one) for one in (desk, replace(desk, cookies="x"), replace(desk, run="other"))
    ]

    assert hosts[0] is hosts[1]
    assert hosts[0] is not hosts[2]
    assert hosts[0] is not polite.host_of("b", desk)
    assert polite.host_of("a", pickle.loads(pickle.dumps(desk))) is hosts[0]


def test_names_of_one_site_are_one_host():
    assert {site_of(f"https://{host}/x") for host in ("youtu.be", "www.youtube.com", "m.youtube.com")} == {
        "youtube.com"
    }
    assert site_of("https://u:p@Example.org:8443/x") == "example.org:8443"


def test_a_host_that_refuses_again_and_again_is_left_alone_for_the_rest_of_the_run(server, desk, waits):
    desk = limited(desk, host_failures=4)
    for name in "abc":
        server.answers[f"/{name}.mp4"] = status(429)

    first, second, third = (rejected(server.url(f"/{name}.mp4"), desk) for name in "abc")

    assert (first.attempts, second.attempts, third.attempts) == (3, 1, 0)
    assert (third.cause, third.retryable) == ("rate_limited", True)
    assert third.message == (
        f"http://127.0.0.1/c.mp4: not tried: 127.0.0.1:{server.port} refused 4 times in a row; "
        "`lvg-data retry` later"
    )
    assert server.paths() == ["/a.mp4"] * 3 + ["/b.mp4"]
    server.answers["/c.mp4"] = file()
    assert fetch(source(server.url("/c.mp4")), replace(desk, run="the next")).sha256 == SHA256


def test_any_other_answer_makes_up_for_refusals(server, desk, waits):
    desk = limited(desk, host_failures=2, fetch_attempts=1)
    server.answers |= {"/a.mp4": status(429), "/b.mp4": status(404), "/c.mp4": status(429), "/d.mp4": file()}

    causes = [rejected(server.url(f"/{name}.mp4"), desk).cause for name in "abc"]

    assert causes == ["rate_limited", "not_found", "rate_limited"]
    assert fetch(source(server.url("/d.mp4")), desk).sha256 == SHA256


@pytest.mark.parametrize("waiting_for", ["back-off", "turn", "body", "headers", "chunks", "silence"])
def test_a_stop_ends_every_wait(waiting_for, server, desk):
    answers = {
        "back-off": status(429, Retry_After="20"), "turn": file(), "body": slow(1200, 0.05),
        "headers": dripping(IN_HEADERS), "chunks": dripping(IN_CHUNKS), "silence": dripping(IN_BODY, b""),
    }  # fmt: skip
    server.answers |= {"/a.mp4": answers[waiting_for], "/b.mp4": file()}
    if waiting_for == "turn":
        desk = limited(desk, requests_per_s=0.01)
        fetch(source(server.url("/b.mp4")), desk)
    stop = threading.Event()
    threading.Timer(0.2, stop.set).start()
    began = time.monotonic()

    with pytest.raises(Stopped):
        fetch(source(server.url("/a.mp4")), desk, stop)

    assert 0.15 < time.monotonic() - began < 3
    assert list((Path(desk.store.root) / "tmp").iterdir()) == []


# ---- objects


class ShortStore(MemoryFileSystem):
    """A store in this process that gives too little of an object until it is told otherwise."""

    protocol = "short"
    gives_bytes = 4000

    def _open(self, path: str, *arguments: object, **named: object) -> io.BytesIO:
        return io.BytesIO(super()._open(path, *arguments, **named).read()[: ShortStore.gives_bytes])


def test_an_object_of_which_too_little_comes_is_not_taken_for_whole(desk, waits, monkeypatch):
    fsspec.register_implementation("short", ShortStore, clobber=True)
    ShortStore().pipe_file("short://bucket/a.mp4", BODY)

    err = rejected("short://bucket/a.mp4", desk)

    assert (err.cause, err.attempts, err.retryable) == ("network", LIMITS.fetch_attempts, True)
    assert err.message == f"short://bucket/a.mp4: cut off at 4000 of {len(BODY)} bytes"
    monkeypatch.setattr(ShortStore, "gives_bytes", len(BODY))
    assert fetch(source("short://bucket/a.mp4"), desk).sha256 == SHA256


# ---- the cache


def next_run(desk: Desk) -> Desk:
    """The desk of a later run: files that were used until now are old to it."""
    time.sleep(0.02)
    later = replace(desk, run=f"{desk.run}+")
    cache.begin_run(later)
    time.sleep(0.02)
    return later


def fill(server: Server, desk: Desk, names: str) -> list[Fetched]:
    server.answers |= {f"/{name}.mp4": file(name.encode() * 1000) for name in names}
    fetched = []
    for name in names:
        fetched.append(fetch(source(server.url(f"/{name}.mp4")), desk))
        time.sleep(0.01)  # so that the times of last use differ
    return fetched


def is_there(fetched: list[Fetched]) -> list[bool]:
    return [Path(one.address).exists() for one in fetched]


def test_files_that_were_used_least_recently_make_room(server, desk):
    desk = limited(desk, cache_bytes=3500)
    old = fill(server, desk, "abc")
    with at_hand(old[0], desk) as path:
        assert path.read_bytes() == b"a" * 1000
    desk = next_run(desk)

    new = fill(server, desk, "d")

    assert is_there([*old, *new]) == [True, False, True, True]


def test_what_made_room_is_still_known_and_is_fetched_again_when_it_is_needed(server, desk):
    desk = limited(desk, cache_bytes=2500)
    first = fill(server, desk, "ab")[0]
    desk = next_run(desk)
    fill(server, desk, "c")
    assert is_there([first]) == [False]

    again = fetch(source(server.url("/a.mp4")), desk)
    assert (again, server.paths().count("/a.mp4")) == (first, 1), "known without its bytes"

    with at_hand(again, desk) as path:
        assert path.read_bytes() == b"a" * 1000
    assert server.paths().count("/a.mp4") == 2
    with at_hand(again, desk) as path:
        assert path.read_bytes() == b"a" * 1000
    assert server.paths().count("/a.mp4") == 2


def test_many_readers_of_a_file_that_made_room_fetch_it_once(server, desk):
    first = fill(server, desk, "a")[0]
    desk.store.evict(str(Path(first.address).parent))
    seen: list[bytes] = []

    def read() -> None:
        with at_hand(first, desk) as path:
            seen.append(path.read_bytes())

    readers = [threading.Thread(target=read) for _ in range(6)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()

    assert seen == [b"a" * 1000] * 6
    assert server.paths() == ["/a.mp4"] * 2


@pytest.mark.parametrize("now", [file(b"A" * 1000), page("<html>moved</html>" + " " * 2000), status(404)])
def test_a_file_that_changed_since_it_made_room_is_not_taken_for_the_same(now, server, desk):
    first = fill(server, desk, "a")[0]
    desk.store.evict(str(Path(first.address).parent))
    server.answers["/a.mp4"] = now

    with pytest.raises(Rejected) as caught, at_hand(first, desk):
        raise AssertionError("there is nothing to read")

    assert caught.value.cause in ("hash_mismatch", "not_video", "not_found")
    assert fetch(source(server.url("/a.mp4")), desk) == first, "what was made of it is still good"


def test_files_of_this_run_stay(server, desk):
    desk = limited(desk, cache_bytes=2500)
    old = fill(server, desk, "ab")
    server.answers["/c.mp4"] = file(b"c" * 1000)

    err = rejected(server.url("/c.mp4"), desk)

    assert (err.cause, err.retryable) == ("no_space", True)
    assert "no room for 1000 bytes: limits.cache_bytes is 2500" in err.message
    assert is_there(old) == [True, True]
    assert fetch(source(server.url("/c.mp4")), next_run(desk)).size_bytes == 1000


def test_open_files_stay(server, desk):
    desk = limited(desk, cache_bytes=2500)
    old = fill(server, desk, "ab")
    with at_hand(old[0], desk) as path:
        time.sleep(0.01)
        with at_hand(old[1], desk):
            pass
        desk = next_run(desk)
        fill(server, desk, "c")
        assert path.read_bytes() == b"a" * 1000
        assert is_there(old) == [True, False], "though the first was used least recently"


def test_nothing_is_evicted_for_what_has_no_room_anyway(server, desk):
    desk = limited(desk, cache_bytes=2500)
    old = fill(server, desk, "ab")
    desk = next_run(desk)
    server.answers["/big.mp4"] = file()

    assert rejected(server.url("/big.mp4"), desk).cause == "no_space"
    assert is_there(old) == [True, True]


def test_a_body_of_unknown_length_is_bounded_too(server, desk):
    server.answers["/a.mp4"] = file(Content_Length="")

    assert rejected(server.url("/a.mp4"), limited(desk, cache_bytes=5000)).cause == "no_space"
    assert fetch(source(server.url("/a.mp4")), limited(desk, cache_bytes=20_000)).size_bytes == len(BODY)


def test_downloads_under_way_count(desk, tmp_path):
    desk = limited(desk, cache_bytes=2500)
    with cache.claim("a", desk, tmp_path) as first, cache.claim("b", desk, tmp_path) as second:
        first.take(2000)
        assert second.most_bytes() == 500
        with pytest.raises(Rejected, match="no_space"):
            second.take(501)
    with cache.claim("c", desk, tmp_path) as third:
        third.take(2500)


def test_the_disk_is_looked_at_before_and_while_a_file_is_downloaded(server, desk, monkeypatch):
    free = iter([10**9, 10**9, 500_000])
    monkeypatch.setattr(cache, "_STEP_BYTES", 2000)
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda _: usage._replace(free=next(free)))
    server.answers["/a.mp4"] = slow(3000, 0.05)

    err = rejected(server.url("/a.mp4"), limited(desk, free_bytes=10**6))

    assert err.cause == "no_space"
    assert "500000 bytes are free, of which 1000000 stay" in err.message


def test_a_promise_that_does_not_fit_on_the_disk_is_not_begun(server, desk):
    server.answers["/a.mp4"] = file(Content_Length=str(1 << 60))

    err = rejected(server.url("/a.mp4"), limited(desk, file_bytes=1 << 62, cache_bytes=1 << 62))
    assert err.cause == "no_space"


# ---- lists


def test_a_list_is_fetched_once_and_kept_whatever_it_is(server, desk):
    server.answers["/list"] = file(b"<rows/>")

    for _ in range(2):
        with download_list(server.url("/list?key=t0ken"), "the list", desk) as path:
            assert path.read_bytes() == b"<rows/>"
    assert server.paths() == ["/list"]


def test_a_list_is_held_to_its_hash(server, desk, tmp_path):
    server.answers["/list"] = file()

    with download_list(server.url("/list"), "the list", desk, SHA256) as path:
        assert path.read_bytes() == BODY
    other = download_list(server.url("/list"), "the list", desk, "0" * 64)
    with pytest.raises(Rejected, match="hash_mismatch: the list: sha256 is"), other:
        pass
    (tmp_path / "list.csv").write_text("here")
    with download_list(str(tmp_path / "list.csv"), "the list", desk) as path:
        assert path == tmp_path / "list.csv"


# ---- secrets

SECRETS = ("s3cret", "us3r", "passw0rd", "t0ken")


def urls_card(url: str, desk: Desk) -> tuple[Card, Source]:
    config = UrlsSource(kind="urls", items=(UrlItem(url=url),))
    card = Card(name="t", licence="x", attribution="x", sources=(config,), limits=LIMITS)
    return card, next(iter(list_sources(config, card, Place(Path(), desk))))


@pytest.mark.parametrize("name", ["/a.mp4", "/watch"])
@pytest.mark.parametrize(
    "answer",
    [
        file(),
        page("<html>t0ken</html>"),
        status(403),
        status(404),
        status(500),
        status(302, Location="/a.mp4?key=t0ken"),
        status(302, Location="http://us3r:passw0rd@127.0.0.1:9/?t0ken"),
        cut_off_at(50),
        None,
    ],
)
def test_nothing_secret_of_an_address_is_written_down(name, answer, server, desk, tmp_path, waits, caplog):
    port = server.port
    url = f"http://us3r:passw0rd@127.0.0.1:{port}{name}?key=s3cret&also=t0ken#s3cret"
    if answer is None:
        server.close()  # nobody answers
    else:
        server.answers[name] = answer
    card, row = urls_card(url, desk)
    shop = Workshop(card, desk.store, Journal(str(tmp_path / "runs"), "run"), private_addresses=True)

    with caplog.at_level(logging.DEBUG):
        try:
            fetched = repr(fetch(row, desk).sha256)
        except Rejected as err:
            shop.note_reject("source", row.video_id, err)
            fetched = f"{err} {err!r}"

    written = "".join(
        f"{path} {path.read_text(errors='replace')}"
        for path in tmp_path.rglob("*")
        if path.is_file() and path.name != "video"
    )
    assert row.origin == f"http://127.0.0.1{name}"
    assert written
    for text in (row.origin, written, fetched):
        assert not [secret for secret in (*SECRETS, f":{port}", f"={port}") if secret in text]
    assert not [secret for secret in SECRETS if secret in caplog.text]


def test_user_and_password_are_sent_and_only_to_the_host_that_was_named(server, desk):
    with http_server() as other:
        server.answers["/a.mp4"] = status(302, Location="/b.mp4")
        server.answers["/b.mp4"] = status(302, Location=other.url("/c.mp4"))
        other.answers["/c.mp4"] = file()
        fetch(source(f"http://us%40er:pass@127.0.0.1:{server.port}/a.mp4"), desk)

        basic = "Basic dXNAZXI6cGFzcw=="  # us@er:pass
        assert [sent.get("authorization") for sent in server.headers] == [basic, basic]
        assert [sent.get("authorization") for sent in other.headers] == [None]


def test_the_same_address_with_another_query_is_another_artefact(server, desk):
    server.answers["/a.mp4"] = file()

    for key in ("one", "two", "one"):
        fetch(source(server.url(f"/a.mp4?key={key}")), desk)
    assert [path for path, _ in server.requests] == ["/a.mp4?key=one", "/a.mp4?key=two"]


def test_an_address_is_known_by_all_but_user_and_password():
    key = address_key("https://example.org:8443/x?a=1")

    assert address_key("https://user:password@Example.org:8443/x?a=1") == key
    others = (
        "https://example.org/x?a=1",
        "https://example.org:8443/x?a=2",
        "https://example.org:8443/x?a=1#b",
    )
    assert key not in {address_key(url) for url in others}


@pytest.mark.parametrize(
    ("url", "public"),
    [
        ("https://u:p@Example.org:8443/x/y.mp4?sig=1#t=3", "https://example.org/x/y.mp4"),
        ("http://example.org", "http://example.org"),
    ],
)
def test_a_public_address_is_scheme_host_and_path(url, public):
    assert public_address(url) == public


def test_messages_of_others_lose_what_an_address_hides():
    url = "https://us3r:passw0rd@example.org/watch?v=abc-%41bc&sig=s3cret#t0ken"
    text = (
        "[generic] watch?v=abc-Abc&sig=s3cret: us3r, passw0rd, t0ken; see (https://cdn.example.org:9/y?key=1), "
        "http://[bad/x or HTTP Error 410"
    )

    shown = without_secrets(text, url)

    assert not [secret for secret in (*SECRETS, "abc-", "key=1", "bad") if secret in shown]
    assert "https://cdn.example.org/y" in shown
    assert shown.endswith("HTTP Error 410")


# ---- local files


@pytest.fixture
def hashed(monkeypatch) -> list[Path]:
    """The files whose content was read for a hash."""
    seen: list[Path] = []
    original = way.file_sha256
    monkeypatch.setattr(way, "file_sha256", lambda path: seen.append(path) or original(path))
    return seen


@pytest.mark.parametrize("prefix", ["", "file://"])
def test_a_local_file_is_used_in_place_and_hashed_once(prefix, tmp_path, desk, hashed):
    path = tmp_path / "a.mp4"
    path.write_bytes(BODY)

    first = fetch(source(f"{prefix}{path}"), desk)
    second = fetch(source(f"{prefix}{path}"), desk)

    assert first == second
    assert (first.address, first.sha256, first.size_bytes) == (str(path), SHA256, len(BODY))
    assert hashed == [path]
    with at_hand(first, desk) as used:
        assert used == path


def test_a_local_file_with_another_size_or_time_is_hashed_again(tmp_path, desk, hashed):
    path = tmp_path / "a.mp4"
    path.write_bytes(BODY)
    fetch(source(str(path)), desk)

    path.write_bytes(BODY[::-1])
    os.utime(path, ns=(1, 10**18))
    assert fetch(source(str(path)), desk).sha256 == hashlib.sha256(BODY[::-1]).hexdigest()
    path.write_bytes(b"short")
    os.utime(path, ns=(1, 10**18))
    assert fetch(source(str(path)), desk).sha256 == hashlib.sha256(b"short").hexdigest()
    assert len(hashed) == 3


def test_a_local_file_that_is_missing_is_rejected_until_it_is_there(tmp_path, desk):
    path = tmp_path / "a.mp4"

    err = rejected(str(path), desk)
    assert err.cause == "not_found"
    assert err.message == "a.mp4: No such file or directory"

    path.write_bytes(BODY)
    assert fetch(source(str(path)), desk).sha256 == SHA256


def test_a_folder_in_place_of_a_file_is_rejected(tmp_path, desk):
    assert rejected(str(tmp_path), desk).cause == "not_found"


def test_a_local_file_that_may_not_be_read_is_rejected(tmp_path, desk):
    path = tmp_path / "a.mp4"
    path.write_bytes(BODY)
    path.chmod(0)
    try:
        path.read_bytes()
    except PermissionError:
        pass
    else:
        pytest.skip("this user may read everything")

    assert rejected(str(path), desk).cause == "forbidden"


def test_a_local_file_is_held_to_its_limit_and_its_hash(tmp_path, desk):
    path = tmp_path / "a.mp4"
    path.write_bytes(BODY)

    assert rejected(str(path), limited(desk, file_bytes=5000)).cause == "too_large"
    assert rejected(str(path), desk, sha256="0" * 64).cause == "hash_mismatch"
    assert fetch(source(str(path), SHA256), desk).sha256 == SHA256


def test_the_store_notes_sizes_and_hashes_of_what_it_fetched(server, desk):
    server.answers["/a.mp4"] = file()
    fetched = fetch(source(server.url("/a.mp4")), desk)

    meta = json.loads((Path(fetched.address).parent / "meta.json").read_text())
    assert meta["result"] == {"sha256": SHA256, "size_bytes": len(BODY)}


def test_a_download_that_was_killed_is_cleared_away(desk):
    root = Path(desk.store.root)
    left = root / "tmp" / f"{socket.gethostname()}-{2**22 + 1}-0123456789ab"  # no process has such an id
    left.mkdir(parents=True)
    (left / "video.part").write_bytes(BODY)

    desk.store.clear_leftovers()

    assert not left.exists()
    assert desk.store.get(Key("fetch_http", http.VERSION, None, ("x",))) is None
