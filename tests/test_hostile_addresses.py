"""Addresses that mean harm: nothing of this machine or of a private network is asked unless that is allowed.

inner    a server on 127.0.0.1, which must hear nothing
outer    a server on 127.0.0.2, which the tests take for a part of the open internet
"""

from __future__ import annotations

import base64
import os
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from lvg_data.child import ChildLimits, run_in_open_child
from lvg_data.config import Card, LimitsConfig
from lvg_data.errors import CAUSES, CardError, Rejected
from lvg_data.fetch import Desk, download_list, fetch, peers, polite, ytdlp
from lvg_data.fetch.way import Want
from lvg_data.records import Address, Source
from lvg_data.sources import list_sources
from lvg_data.sources.place import Place
from lvg_data.store import Store
from tests.servers import (
    BODY,
    Server,
    file,
    http_server,
    page,
    send,
    status,
    write_dash,
    write_file,
    write_hls,
)
from tests.test_cli import run
from tests.ways_out import start_programs, try_ways_out

OUTER = "127.0.0.2"
LIMITS = LimitsConfig(
    fetch_attempts=1, fetch_wall_s=60, requests_per_s=1e6, downloads_per_hour=1e9, free_bytes=0
)


@pytest.fixture
def inner() -> Iterator[Server]:
    with http_server() as server:
        server.answers |= {
            "/a.mp4": file(),
            "/list.txt": file(b"https://example.org/a.mp4\n"),
            "/watch": page("x"),
        }
        yield server


@pytest.fixture
def outer(inner: Server, monkeypatch) -> Iterator[Server]:
    judge = peers.is_public
    monkeypatch.setattr(peers, "is_public", lambda address: address == OUTER or judge(address))
    monkeypatch.setattr(ytdlp, "_download_child", download_where_outer_is_public)
    with http_server(
        OUTER, inner.port
    ) as server:  # the same port: a name may change its address, not its port
        yield server


def download_where_outer_is_public(order):
    judge = peers.is_public
    peers.is_public = lambda address: address == OUTER or judge(address)
    return _DOWNLOAD_CHILD(order)


_DOWNLOAD_CHILD = ytdlp._download_child


@pytest.fixture
def desk(tmp_path: Path, monkeypatch) -> Desk:
    monkeypatch.setattr(polite, "pause", lambda seconds, stop: None)
    return Desk(Store(str(tmp_path / "store")), LIMITS, 120, 61, run=str(tmp_path))


def source(url: str) -> Source:
    return Source("v", "the video", Address(url), "x", "x")


def rejected(url: str, desk: Desk) -> Rejected:
    with pytest.raises(Rejected) as caught:
        fetch(source(url), desk)
    return caught.value


# ---- which addresses are public

PRIVATE = (
    "0.0.0.0", "10.0.0.1", "10.255.255.255", "100.64.0.1", "100.127.255.255", "127.0.0.1", "127.255.255.254",
    "169.254.169.254", "172.16.0.1", "172.31.255.255", "192.0.0.1", "192.168.0.1", "198.18.0.1", "224.0.0.1",
    "240.0.0.1", "255.255.255.255", "::", "::1", "::127.0.0.1", "::ffff:127.0.0.1", "::ffff:169.254.169.254",
    "64:ff9b::10.0.0.1",
    "192.0.0.8", "192.0.0.11", "192.0.0.255", "192.88.99.1", "3fff::1", "3fff:fff::1", "5f00::1", "100::1",
    "64:ff9b:1::8.8.8.8",
    "2002:7f00:1::", "2002:c0a8:1::1", "2001::1", "2001:db8::1", "fc00::1", "fdff::1", "fe80::1", "fe80::1%eth0",
    "fec0::1", "ff02::1",
)  # fmt: skip
PUBLIC = (
    "8.8.8.8", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "172.15.255.255", "172.32.0.0",
    "192.169.0.1", "192.0.0.9", "192.0.0.10", "192.0.1.0", "192.88.98.255", "192.88.100.0",
    "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8", "2002:808:808::1",
)  # fmt: skip


@pytest.mark.parametrize(
    ("address", "public"), [*((a, False) for a in PRIVATE), *((a, True) for a in PUBLIC)]
)
def test_an_address_is_public_or_not(address, public):
    assert peers.is_public(address) == public


# ---- plain files

#: ways to write this machine, a private network or a metadata service; {} is the port of a server that listens
HOSTS = {
    "plain": "127.0.0.1:{}", "name": "localhost:{}", "name with a dot": "localhost.:{}", "any address": "0.0.0.0:{}",
    "decimal": "2130706433:{}", "hexadecimal": "0x7f000001:{}", "octal": "0177.0.0.1:{}", "short": "127.1:{}",
    "another loopback": "127.9.9.9:{}", "IPv6": "[::1]:{}", "IPv6 any": "[::]:{}",
    "IPv6-mapped": "[::ffff:127.0.0.1]:{}", "mapped in hexadecimal": "[::ffff:7f00:1]:{}",
    "NAT64": "[64:ff9b::7f00:1]:{}", "6to4": "[2002:7f00:1::]:{}",
    "wide digits": "１２７.0.0.1:{}", "wide dots": "127。0。0。1:{}", "credentials": "user:password@127.0.0.1:{}",
    "credentials like a host": "example.org@127.0.0.1:{}", "metadata": "169.254.169.254", "class A": "10.0.0.1",
    "class B": "172.16.0.1", "class C": "192.168.0.1", "carrier": "100.64.0.1", "unique local": "[fc00::1]",
    "link local": "[fe80::1]",
}  # fmt: skip
#: which a resolver may take for something else, or for nothing
NOT_NAMES = ("wide digits", "wide dots", "name with a dot")


@pytest.mark.parametrize("path", ["/a.mp4", "/watch?v=1"])
@pytest.mark.parametrize("name", HOSTS)
def test_no_host_from_inside_is_asked(name, path, inner, desk):
    url = f"http://{HOSTS[name].format(inner.port)}{path}"

    err = rejected(url, desk)

    causes = ("private_address", "network", "not_found") if name in NOT_NAMES else ("private_address",)
    assert err.cause in causes
    if err.cause == "private_address":
        assert "--allow-private-addresses" in err.message and err.retryable
    assert inner.requests == []
    assert "password" not in str(err)


def test_they_are_asked_where_that_is_allowed_and_a_refusal_is_not_remembered(inner, desk):
    assert rejected(inner.url("/a.mp4"), desk).cause == "private_address"

    fetched = fetch(source(inner.url("/a.mp4")), replace(desk, private_addresses=True))

    assert Path(fetched.address).read_bytes() == BODY
    assert fetch(source(inner.url("/a.mp4")), desk) == fetched, "the option is no part of what is asked for"


@pytest.mark.parametrize("name", HOSTS)
def test_no_redirect_leads_inside(name, inner, outer, desk):
    outer.answers["/a.mp4"] = status(302, Location=f"http://{HOSTS[name].format(inner.port)}/a.mp4")

    err = rejected(outer.url("/a.mp4"), desk)

    assert err.cause == "private_address" or name in NOT_NAMES
    assert inner.requests == []
    assert outer.paths() == ["/a.mp4"]


@pytest.mark.parametrize(
    "location", ["file:///etc/passwd", "ftp://127.0.0.1/x", "gopher://127.0.0.1/", "data:video/mp4,x"]
)
def test_no_redirect_leads_to_another_protocol(location, outer, desk):
    outer.answers["/a.mp4"] = status(302, Location=location)

    assert rejected(outer.url("/a.mp4"), desk).cause == "unsupported_site"


def test_a_chain_of_redirects_is_judged_at_every_step(inner, outer, desk):
    outer.answers |= {
        "/a.mp4": status(301, Location="/b.mp4"),
        "/b.mp4": status(307, Location=outer.url("/c.mp4")),
        "/c.mp4": status(308, Location=inner.url("/a.mp4")),
    }

    assert rejected(outer.url("/a.mp4"), desk).cause == "private_address"
    assert outer.paths() == ["/a.mp4", "/b.mp4", "/c.mp4"]
    assert inner.requests == []


@pytest.fixture
def resolver(monkeypatch) -> dict[str, list[list[str]]]:
    """What each name stands for at the first, second ... look; the last answer stays."""
    names: dict[str, list[list[str]]] = {}
    real = socket.getaddrinfo

    def look_up(host, port, *arguments, **named):
        answers = names.get(host)
        if answers is None:
            return real(host, port, *arguments, **named)
        now = answers.pop(0) if len(answers) > 1 else answers[0]
        return [place for address in now for place in real(address, port, *arguments, **named)]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return names


def test_a_name_that_changes_between_check_and_connection_gains_nothing(inner, outer, desk, resolver):
    resolver["changing.example"] = [[OUTER], ["127.0.0.1"]]
    outer.answers["/a.mp4"] = file()

    fetched = fetch(source(f"http://changing.example:{inner.port}/a.mp4"), desk)

    assert Path(fetched.address).read_bytes() == BODY
    assert outer.headers[0]["host"] == f"changing.example:{inner.port}"
    assert inner.requests == []


def test_a_name_with_one_private_address_is_not_asked(inner, outer, desk, resolver):
    resolver["mixed.example"] = [[OUTER, "127.0.0.1"]]

    assert rejected(f"http://mixed.example:{inner.port}/a.mp4", desk).cause == "private_address"
    assert inner.requests == outer.requests == []


def test_of_several_public_addresses_the_first_that_answers_is_taken(outer, desk, resolver, monkeypatch):
    judge = peers.is_public
    monkeypatch.setattr(peers, "is_public", lambda address: address == "127.0.0.3" or judge(address))
    resolver["two.example"] = [["127.0.0.3", OUTER]]  # nobody listens on the first
    outer.answers["/a.mp4"] = file()

    fetch(source(f"http://two.example:{outer.port}/a.mp4"), desk)

    assert outer.paths() == ["/a.mp4"]


def test_the_certificate_that_is_asked_for_is_that_of_the_name(desk, resolver, monkeypatch):
    judge = peers.is_public
    monkeypatch.setattr(peers, "is_public", lambda address: address == OUTER or judge(address))
    resolver["secure.example"] = [[OUTER]]
    heard: list[bytes] = []
    with socket.create_server((OUTER, 0)) as server:
        listener = threading.Thread(target=lambda: heard.append(first_bytes(server)), daemon=True)
        listener.start()
        err = rejected(f"https://secure.example:{server.getsockname()[1]}/a.mp4", desk)
        listener.join(10)

    assert err.cause == "network"
    assert heard[0][0] == 22 and b"secure.example" in heard[0], "a TLS hello with the name of the server"


def first_bytes(server: socket.socket) -> bytes:
    connection, _ = server.accept()
    with connection:
        return connection.recv(4096)


def test_a_list_is_not_fetched_from_inside(inner, desk):
    with (
        pytest.raises(Rejected, match="private_address"),
        download_list(inner.url("/list.txt"), "the list", desk),
    ):
        pass
    with download_list(inner.url("/list.txt"), "the list", replace(desk, private_addresses=True)) as path:
        assert path.read_bytes().startswith(b"https://")


# ---- what cards and lists may say


def card_of(**row: object) -> Card:
    return Card.model_validate({"name": "t", "licence": "x", "attribution": "x", "sources": [row]})


@pytest.mark.parametrize(
    "url",
    ["file:///etc/passwd", "ftp://example.org/a.mp4", "--exec=id", "-o/tmp/x", "//example.org/a.mp4", "http://[::1/a.mp4",
     "http://a:b/c.mp4", "javascript:alert(1)", "data:video/mp4;base64,AAAA", "ytsearch:ride", "smb://host/a"],
)  # fmt: skip
def test_a_card_names_no_other_kind_of_address(url):
    with pytest.raises(ValueError, match=r"sources\.0\.urls\.items\.0\.url"):
        card_of(kind="urls", items=[{"url": url}])


@pytest.mark.parametrize(
    "row",
    ["file:///etc/passwd", "FILE:///etc/passwd", "ftp://example.org/a.mp4", "http://[::1/a.mp4", "https:///a.mp4",
     "simplecache::http://example.org/a.mp4", "local:///etc/passwd", "memory://a", "github://a:b@c/d", "smb://host/a.mp4"],
)  # fmt: skip
def test_a_list_names_no_other_kind_of_address(row, desk, tmp_path):
    (tmp_path / "list.txt").write_text(f"{row}\n")

    with pytest.raises(CardError, match="line 1"):
        list_sources(card_of(kind="table", list="list.txt"), Place(tmp_path, desk))


@pytest.mark.parametrize("row", ["--exec=touch pwned", "-rf", "--config-location=evil.conf"])
def test_a_row_that_looks_like_an_option_is_a_file_that_is_not_there(row, desk, tmp_path):
    (tmp_path / "list.txt").write_text(f"{row}\n")
    (found,) = list_sources(card_of(kind="table", list="list.txt"), Place(tmp_path, desk))

    assert rejected(found.media.url, desk).cause == "not_found"


@pytest.mark.parametrize(
    "field", [{"kind": "table", "list": "http://[x/a.csv"}, {"kind": "clip_list", "list": "a", "url": "http://[{id}"},
              {"kind": "files", "path": "s3://[x/a"}, {"kind": "clip_list", "list": "a", "folder": "gs://a:b/c"}],
)  # fmt: skip
def test_a_card_with_half_an_address_is_refused(field):
    with pytest.raises(ValueError, match="no address"):
        card_of(**field)


@pytest.mark.parametrize(
    "source",
    ["kind: files, path: {}", "kind: table, list: {}", "kind: clip_list, list: {}", "kind: trajectories, list: {}",
     "kind: frame_folders, frame_rate: 25, path: {}", "kind: longvideogan_zips, frame_rate: 25, path: {}",
     "kind: urls, items: [url: {}]"],
)  # fmt: skip
def test_a_path_that_is_meant_as_an_address_is_not_quoted_whole(source, tmp_path):
    row = source.format('"//us3r:passw0rd@example.org/x?token=t0ken"')
    (tmp_path / "card.yaml").write_text(f"name: t\nlicence: x\nattribution: x\nsources: [{{{row}}}]\n")

    refused = run("plan", tmp_path / "card.yaml")

    assert refused.exit_code == 1 and "//…@example.org/x?…" in refused.output
    assert not [secret for secret in ("us3r", "passw0rd", "t0ken") if secret in refused.output]


@pytest.mark.parametrize("name", ["a b/c.mp4", "user:password@bucket/a.mp4", "bucket/a::file:///etc/passwd"])
def test_an_object_of_no_possible_name_is_a_reject(name, desk, monkeypatch):
    pytest.importorskip("s3fs")
    for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(variable, "x")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")

    err = rejected(f"s3://{name}", desk)

    assert err.cause in ("not_found", "network")
    assert "password" not in err.message


def test_no_field_of_a_card_allows_private_addresses(tmp_path, inner):
    card = {
        "name": "t",
        "licence": "x",
        "attribution": "x",
        "sources": [{"kind": "table", "list": inner.url("/list.txt")}],
    }
    for field in ("private_addresses", "allow_private_addresses"):
        for where in (
            {**card, field: True},
            {**card, "limits": {field: True}},
            {**card, "download": {field: True}},
        ):
            with pytest.raises(ValueError, match="Extra inputs are not permitted"):
                Card.model_validate(where)
    (tmp_path / "card.yaml").write_text(yaml.safe_dump(card))

    refused = run("plan", tmp_path / "card.yaml")
    allowed = run("plan", tmp_path / "card.yaml", "--allow-private-addresses", "--json")

    assert refused.exit_code == 1 and "--allow-private-addresses" in refused.output
    assert allowed.exit_code == 0, allowed.output
    assert len(inner.requests) == 1


# ---- yt-dlp


def by_ytdlp(url: str, desk: Desk, folder: Path) -> dict[str, object]:
    """What yt-dlp makes of an address, plain file or not."""
    folder.mkdir()
    return ytdlp.way(Want("the video", url), desk, None).make(folder)


@pytest.fixture(scope="module")
def streams(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("streams")
    for name, write in {"hls": write_hls, "dash": write_dash, "file": write_file}.items():
        (folder / name).mkdir()
        write(folder / name)
    return folder


@pytest.fixture
def serving(inner: Server, outer: Server, streams: Path) -> Server:
    """Both servers have all streams; pages and playlists of `outer` are what a test says."""
    for server in (inner, outer):
        for folder in streams.iterdir():
            server.serve(f"/{folder.name}", folder)
    return outer


def hls(line: str, before: str = "") -> bytes:
    return f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n{before}#EXTINF:1,\n{line}\n#EXT-X-ENDLIST\n".encode()


def dash_at(base: str) -> bytes:
    return f"""<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" mediaPresentationDuration="PT1S"><Period>
<AdaptationSet mimeType="video/mp4"><Representation id="1" bandwidth="1000" width="320" height="180" codecs="avc1.42">
<BaseURL>{base}</BaseURL></Representation></AdaptationSet></Period></MPD>""".encode()


VIDEO = "<html><head><title>x</title></head><body><video src='{}'></video></body></html>"
#: name -> (path, answers of the outer server; {inner} is an address of the inner one, {secret} a file of ours)
LURES = {
    "a page's video is inside": ("/watch", {"/watch": VIDEO.format("{inner}/file/video.mp4")}),
    "a page's video redirects inside": (
        "/watch", {"/watch": VIDEO.format("/moved.mp4"), "/moved.mp4": "-> {inner}/file/video.mp4"}),
    "a page redirects inside": ("/watch", {"/watch": "-> {inner}/watch"}),
    "a playlist of a playlist inside": (
        "/list.m3u8", {"/list.m3u8": "#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\n{inner}/hls/stream-1.m3u8\n"}),
    "a piece is inside": ("/list.m3u8", {"/list.m3u8": hls("{inner}/hls/1-0.ts").decode()}),
    "a piece is of a metadata service": ("/list.m3u8", {"/list.m3u8": hls("http://169.254.169.254/latest").decode()}),
    "a key is inside": (
        "/list.m3u8", {"/list.m3u8": hls("/hls/1-0.ts", '#EXT-X-KEY:METHOD=AES-128,URI="{inner}/a.mp4"\n').decode()}),
    "a piece is a file of ours": ("/list.m3u8", {"/list.m3u8": hls("file://{secret}").decode()}),
    "a key is a file of ours": (
        "/list.m3u8", {"/list.m3u8": hls("/hls/1-0.ts", '#EXT-X-KEY:METHOD=AES-128,URI="file://{secret}"\n').decode()}),
    "a beginning is a file of ours": (
        "/list.m3u8", {"/list.m3u8": hls("/hls/1-0.ts", '#EXT-X-MAP:URI="file://{secret}"\n').decode()}),
    "a piece is on an FTP server": ("/list.m3u8", {"/list.m3u8": hls("ftp://127.0.0.2:{port}/x.ts").decode()}),
    "a manifest's base is inside": ("/list.mpd", {"/list.mpd": dash_at("{inner}/file/video.mp4").decode()}),
    "a manifest's base is a file of ours": ("/list.mpd", {"/list.mpd": dash_at("file://{secret}").decode()}),
}  # fmt: skip
#: the others are told as what they are; these as what yt-dlp says of them
FILES_OF_OURS = ("a piece is a file of ours", "a key is a file of ours", "a beginning is a file of ours",
                 "a manifest's base is a file of ours", "a piece is on an FTP server")  # fmt: skip
_QUICK = ("a page's video redirects inside", "a piece is inside", "a beginning is a file of ours")


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in _QUICK else pytest.mark.slow) for n in LURES]
)
def test_what_a_page_or_playlist_leads_to_is_judged_too(name, inner, serving, desk, tmp_path):
    (tmp_path / "secret.ts").write_bytes(b"s3cret" * 1000)
    path, answers = LURES[name]
    words = {
        "{inner}": f"http://127.0.0.1:{inner.port}",
        "{secret}": f"{tmp_path}/secret.ts",
        "{port}": str(inner.port),
    }
    for at, text in answers.items():
        for word, meant in words.items():
            text = text.replace(word, meant)
        serving.answers[at] = status(302, Location=text[3:]) if text.startswith("-> ") else typed(at, text)

    with pytest.raises(Rejected) as caught:
        by_ytdlp(serving.url(path), desk, tmp_path / "job")

    assert caught.value.cause in (CAUSES if name in FILES_OF_OURS else ("private_address",)), caught.value
    assert inner.requests == []
    assert not [
        p
        for p in tmp_path.rglob("*")
        if p.is_file() and p.name != "secret.ts" and b"s3cret" in p.read_bytes()
    ]


def typed(path: str, text: str):
    kinds = {".m3u8": "application/vnd.apple.mpegurl", ".mpd": "application/dash+xml"}
    kind = kinds.get(Path(path).suffix, "text/html")
    return lambda handler, _: send(handler, 200, text.encode(), Content_Type=kind)


def test_yt_dlp_downloads_from_outside_under_the_same_guard(inner, serving, desk, tmp_path):
    """Otherwise the cases above would say nothing."""
    serving.answers["/watch"] = page(VIDEO.format("/file/video.mp4"))

    found = by_ytdlp(serving.url("/watch"), desk, tmp_path / "job")

    assert found["size_bytes"] > 1000
    assert inner.requests == []


def test_yt_dlp_itself_asks_nothing_inside(inner, desk, tmp_path):
    with pytest.raises(
        Rejected, match=r"private_address: the video: 127.0.0.1 is an address of this machine"
    ):
        by_ytdlp(inner.url("/watch"), desk, tmp_path / "job")
    assert inner.requests == []


def test_the_users_own_proxy_may_be_on_this_machine(inner, streams, desk, tmp_path, monkeypatch):
    monkeypatch.setenv("http_proxy", inner.url("/"))
    inner.answers |= {
        "http://example.org/watch": page(VIDEO.format("http://example.org/video.mp4")),
        "http://example.org/video.mp4": file((streams / "file" / "video.mp4").read_bytes()),
    }

    assert by_ytdlp("http://example.org/watch", desk, tmp_path / "job")["size_bytes"] > 1000
    assert set(inner.paths()) == {"http://example.org/watch", "http://example.org/video.mp4"}


def test_nothing_but_the_users_proxy_is_asked_of_its_machine(inner, streams, desk, tmp_path, monkeypatch):
    with http_server() as other:
        monkeypatch.setenv("http_proxy", inner.url("/"))
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        inner.answers["http://example.org/watch"] = page(VIDEO.format(other.url("/video.mp4")))
        other.answers["/video.mp4"] = file((streams / "file" / "video.mp4").read_bytes())

        with pytest.raises(Rejected, match="private_address"):
            by_ytdlp("http://example.org/watch", desk, tmp_path / "job")

        assert inner.paths() == ["http://example.org/watch"]
        assert other.requests == []


@pytest.mark.parametrize(
    ("url", "port"),
    [("http://127.0.0.1:3128", 3128), ("127.0.0.1:3128", 3128), ("http://127.0.0.1/", 80), ("https://127.0.0.1", 443),
     ("socks5h://127.0.0.1", 1080)],
)  # fmt: skip
def test_a_proxy_is_known_by_address_and_port(url, port):
    proxies = frozenset(peers._proxy_addresses([("https_proxy", url), ("no_proxy", "127.0.0.2")]))

    assert proxies == {("127.0.0.1", port)}


def test_no_connection_of_the_child_passes_its_guard(inner):
    limits = ChildLimits(wall_s=60, memory_bytes=1 << 30)

    assert run_in_open_child(try_ways_out, (inner.port,), limits) == ["private_address"] * 11


def test_no_program_but_a_named_one_is_started_by_the_child(tmp_path):
    for name in ("allowed", "ffmpeg"):
        (tmp_path / name).write_text(f"#!/bin/sh\ntouch {tmp_path}/{name}-ran\n")
        (tmp_path / name).chmod(0o755)

    said = run_in_open_child(start_programs, (str(tmp_path),), ChildLimits(wall_s=60, memory_bytes=1 << 30))

    ran, shell = ["allowed ran", "ffmpeg refused"], ["allowed refused", "ffmpeg refused"]
    assert said == [*ran, *shell, *ran]
    assert not (tmp_path / "ffmpeg-ran").exists()


# ---- what surrounds yt-dlp

_FETCH = """
import sys
from lvg_data.config import LimitsConfig
from lvg_data.fetch import Desk, fetch
from lvg_data.records import Address, Source
from lvg_data.store import Store
desk = Desk(Store(sys.argv[1]), LimitsConfig(free_bytes=0), 120, 61, private_addresses=True)
print(fetch(Source("v", "x", Address(sys.argv[2]), "x", "x"), desk).sha256)
"""


def plant(folder: Path, marks: Path) -> None:
    """All that yt-dlp would read in a home or current folder, each leaving a mark if it does."""
    config = f'--exec "touch {marks}/exec"\n--netrc\n--proxy http://127.0.0.1:9\n--output {marks}/output\n'
    for name in ("yt-dlp.conf", "yt-dlp/config", "yt-dlp.conf.txt", ".config/yt-dlp/config", ".config/yt-dlp.conf",
                 ".yt-dlp/config", "youtube-dl.conf", "yt-dlp/yt-dlp.conf"):  # fmt: skip
        path = folder / name
        if not path.parent.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(config)
    (folder / ".netrc").write_text("machine 127.0.0.1 login us3r password passw0rd\n")
    (folder / ".netrc").chmod(stat.S_IRUSR | stat.S_IWUSR)
    for root in (
        "",
        "yt-dlp/plugins/evil",
        ".config/yt-dlp/plugins/evil",
        ".yt-dlp/plugins/evil",
        "yt-dlp-plugins/evil",
    ):
        for kind in ("extractor", "postprocessor"):
            plugin = folder / root / "yt_dlp_plugins" / kind / "evil.py"
            plugin.parent.mkdir(parents=True, exist_ok=True)
            plugin.write_text(f"open({str(marks / 'plugin')!r}, 'w').close()\n")
    for program in ("ffmpeg", "ffprobe", "aria2c", "wget", "curl", "axel", "phantomjs", "AtomicParsley"):
        path = folder / "bin" / program
        path.parent.mkdir(exist_ok=True)
        # PySceneDetect asks for ffmpeg with these words when it is imported
        path.write_text(f'#!/bin/sh\n[ "$*" = "-v quiet" ] || touch {marks}/{program}\n')
        path.chmod(0o755)


def test_no_file_and_no_variable_of_its_surroundings_changes_what_yt_dlp_does(inner, streams, tmp_path):
    marks, home = tmp_path / "marks", tmp_path / "home"
    marks.mkdir()
    home.mkdir()
    plant(home, marks)
    inner.serve("/hls", streams / "hls")
    environment = {
        **os.environ,
        "HOME": str(home), "XDG_CONFIG_HOME": str(home), "XDG_CACHE_HOME": str(home / "cache"), "APPDATA": str(home),
        "PYTHONPATH": str(home), "NETRC": str(home / ".netrc"), "PATH": f"{home / 'bin'}:{os.environ['PATH']}",
        "SSLKEYLOGFILE": str(marks / "keys"), "YTDLP_CONFIG": str(home / "yt-dlp.conf"), "PYTHONSTARTUP": "x",
    }  # fmt: skip
    command = [sys.executable, "-c", _FETCH, str(tmp_path / "store"), inner.url("/hls/master.m3u8")]

    done = subprocess.run(
        command, cwd=home, env=environment, capture_output=True, text=True, timeout=60, check=False
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(path.name for path in marks.iterdir()) == []
    assert not [sent for sent in inner.headers if "authorization" in sent]
    assert base64.b64encode(b"us3r:passw0rd").decode() not in repr(inner.headers)
    assert not list((home / "cache").glob("*"))
