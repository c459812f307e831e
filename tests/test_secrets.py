"""Secrets are planted wherever they can come in; after builds, every byte that was written is searched."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from lvg_data.fetch.addresses import address_key, hide_addresses, without_credentials
from tests.builds import small_card
from tests.servers import Server, file, http_server, page, send, status
from tests.videos import RECIPES, write_video

#: each is asked for in every file and in all that is printed
SECRETS = {
    "user": "us3rname", "password": "passw0rd%21", "password as it is sent": "passw0rd!", "token": "t0kenvalue",
    "signature": "s1gnatureabcdef", "credential": "AKIAS3CRETKEYID", "security token": "FwoGZs3curityT0ken",
    "cookie": "c00kievalue", "new cookie": "fr3shcookie", "fragment": "fr4gmentsecret", "AWS key": "AKIAENVIR0NMENT",
    "AWS secret": "awss3cretfromenvironment", "redirect": "r3directtoken", "away": "r3directpass",
    "thumbnail": "thumbt0ken", "proxy": "pr0xypassword",
}  # fmt: skip
SIGNED = (
    f"X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential={SECRETS['credential']}%2F20260101&X-Amz-Date=20260101T000000Z"
    f"&X-Amz-Expires=600&X-Amz-Security-Token={SECRETS['security token']}&X-Amz-Signature={SECRETS['signature']}"
)


@pytest.fixture
def server() -> Iterator[Server]:
    with http_server() as server:
        yield server


def address(server: Server, path: str, query: str = "") -> str:
    """An address with a user, a password, a signature, a token and a fragment."""
    asked = f"{path}?{SIGNED}&token={SECRETS['token']}{query}#{SECRETS['fragment']}"
    return f"http://{SECRETS['user']}:{SECRETS['password']}@127.0.0.1:{server.port}{asked}"


def echo(code: int):
    """A body and headers that repeat all that the server was asked and sent."""

    def answer(handler, _: int) -> None:
        said = (
            f"<html><title>{handler.path}</title>{dict(handler.headers.items())} {SECRETS['redirect']}</html>"
        )
        cookie = f"fresh={SECRETS['new cookie']}; Path=/"
        send(
            handler,
            code,
            said.encode(),
            Content_Type="text/html",
            Set_Cookie=cookie,
            ETag=f'"{SECRETS["redirect"]}"',
        )

    return answer


def stocked(server: Server, video: bytes) -> list[str]:
    """Answers of every kind; the paths, of which those that begin with /ok give a video."""
    away = f"http://{SECRETS['user']}:{SECRETS['away']}@127.0.0.1:9/x.mp4?token={SECRETS['redirect']}"
    inside = f"/ok-c.mp4?token={SECRETS['redirect']}"
    server.answers = {
        "/ok-a.mp4": file(video), "/ok-c.mp4": file(video), "/ok-b.mp4": status(302, Location=inside),
        "/ok-watch": page(f"<html><video src='/ok-c.mp4?token={SECRETS['redirect']}'></video></html>"),
        "/away.mp4": status(302, Location=away),
        "/ftp.mp4": status(302, Location=f"ftp://{SECRETS['user']}:{SECRETS['redirect']}@127.0.0.1/"),
        "/echo-403.mp4": echo(403), "/echo-404": echo(404), "/echo-500": echo(500), "/echo-page": echo(200),
        "/echo-429.mp4": echo(429), "/page.mp4": echo(200), "/text.mp4": file(SECRETS["token"].encode() * 500),
        "/lost": page(f"<html><video src='http://127.0.0.1:9/v.mp4?token={SECRETS['redirect']}'></video></html>"),
        "/list.m3u8": file(f"#EXTM3U\n#EXTINF:1,\nx.ts?token={SECRETS['redirect']}\n#EXT-X-ENDLIST\n".encode()),
    }  # fmt: skip
    return list(server.answers)


def environment(folder: Path) -> dict[str, str]:
    return {
        **os.environ,
        "AWS_ACCESS_KEY_ID": SECRETS["AWS key"], "AWS_SECRET_ACCESS_KEY": SECRETS["AWS secret"],
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_MAX_ATTEMPTS": "1",
        "ftp_proxy": f"http://u:{SECRETS['proxy']}@127.0.0.1:9", "XDG_CACHE_HOME": str(folder / "cache"),
    }  # fmt: skip


def run(folder: Path, *arguments: str) -> tuple[int, str]:
    command = [sys.executable, "-m", "pipelines.cli", *arguments]
    done = subprocess.run(
        command, cwd=folder, env=environment(folder), capture_output=True, text=True, timeout=240, check=False
    )
    return done.returncode, done.stdout + done.stderr


def found_in(text: str | bytes) -> list[str]:
    """Names of the secrets that a text holds, as they are or as they stand in an address."""
    data = text.encode(errors="replace") if isinstance(text, str) else text
    return [
        name for name, secret in SECRETS.items()
        if any(form.encode() in data for form in {secret, quote(secret, safe="")})
    ]  # fmt: skip


def leaks(folder: Path, given: set[Path]) -> list[str]:
    """Files, and names of files, that hold a secret; of tables also the values, which Parquet packs."""
    found = []
    for path in sorted(folder.rglob("*")):
        if path in given or not path.is_file():
            continue
        held = found_in(str(path.relative_to(folder)))
        held += found_in(path.read_bytes()) if path.name != "video" else []
        if path.suffix == ".parquet":
            held += found_in(repr(pq.read_table(path).to_pylist()))
        found += [f"{path.relative_to(folder)}: {name}" for name in held]
    return found


@pytest.mark.slow
def test_no_secret_is_written_down_by_builds_that_work_and_fail(server, tmp_path):
    write_video(tmp_path / "video.mp4", RECIPES["h264_bframes"], 24)
    paths = stocked(server, (tmp_path / "video.mp4").read_bytes())
    thumbnail = (
        f"https://u:{SECRETS['thumbnail']}@example.org/t.jpg?size=3&access_token={SECRETS['thumbnail']}"
    )
    rows = [
        {"url": address(server, path), "thumbnail": thumbnail, "number": n} for n, path in enumerate(paths)
    ]
    rows += [
        {
            "url": f"s3://{SECRETS['user']}:{SECRETS['token']}@bucket/x.mp4",
            "thumbnail": thumbnail,
            "number": 99,
        }
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    server.answers["/list.parquet"] = file((tmp_path / "rows.parquet").read_bytes())
    cookies = tmp_path / "cookies.txt"
    cookies.write_text(
        f"# Netscape HTTP Cookie File\n127.0.0.1\tFALSE\t/\tFALSE\t0\tsession\t{SECRETS['cookie']}\n"
    )
    card = small_card(
        max_reject_share=1, limits={"fetch_attempts": 1, "downloads_per_hour": 1e9, "free_bytes": 0}
    )
    card["sources"] = [{"kind": "table", "list": address(server, "/list.parquet")}]
    (tmp_path / "card.yaml").write_text(yaml.safe_dump(card))
    given = {cookies, tmp_path / "card.yaml", tmp_path / "rows.parquet"}
    options = ("--cookies", str(cookies), "--allow-private-addresses")

    code, built = run(tmp_path, "build", "card.yaml", "--out", "out", "--json", *options)
    said = [built, *(run(tmp_path, *words)[1] for words in (
        ("plan", "card.yaml", "--allow-private-addresses"), ("retry", "out", *options), ("inspect", "out"),
        ("verify", "out"), ("build", "card.yaml", "--out", "refused"),
    ))]  # fmt: skip

    assert code == 0, built
    counts = json.loads(next(line for line in built.splitlines() if line.startswith("{")))["counts"]
    assert counts["videos"] >= 4 and counts["source_rejects_by_cause"].keys() >= {
        "not_found",
        "forbidden",
        "not_video",
    }
    assert [found_in(text) for text in said] == [[]] * len(said)
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) > 50
    # a fetched list is the user's own file in the store, as a video is
    assert leaks(tmp_path, given) == []
    assert not list(tmp_path.glob("**/*cookie*.json"))


@pytest.mark.parametrize(
    "change",
    [
        {"url": "ftp://us3rname:passw0rd!@127.0.0.1/x.mp4?token=t0kenvalue"},
        {"url": "us3rname:passw0rd!@127.0.0.1/x.mp4?token=t0kenvalue"},
        {"url": "https://us3rname:passw0rd!@[x/x.mp4?token=t0kenvalue"},
        {"url": "https://us3rname:passw0rd!@h/x.mp4?token=t0kenvalue", "id": ""},
        {"url": {"https://us3rname:passw0rd!@h/x.mp4?token=t0kenvalue": 1}},
        {"urls": "https://us3rname:passw0rd!@h/x.mp4?token=t0kenvalue"},
    ],
)
def test_a_card_that_is_refused_shows_no_secret(change, tmp_path):
    from tests.test_cli import run as run_here

    card = small_card(sources=[{"kind": "urls", "items": [change]}])
    (tmp_path / "card.yaml").write_text(yaml.safe_dump(card))

    result = run_here("plan", tmp_path / "card.yaml")

    assert result.exit_code == 1
    assert found_in(result.output) == []


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "https://us3rname:passw0rd!@h/x.mp4?token=t0kenvalue\n"),
        ("a.csv", "url\nftp://us3rname:passw0rd!@h/x.mp4?token=t0kenvalue\n"),
        ("a.csv", "url,id\nhttps://us3rname:passw0rd!@h/x.mp4?token=t0kenvalue,a\nhttps://h/y.mp4,a\n"),
        ("a.jsonl", '"https://us3rname:passw0rd!@h/x.mp4?token=t0kenvalue"\n'),
        ("a.txt", "https://us3rname:passw0rd!@[h/x.mp4?token=t0kenvalue\n"),
    ],
)
def test_a_list_that_is_refused_shows_no_secret(name, text, tmp_path):
    from tests.test_cli import run as run_here

    (tmp_path / name).write_text(text)
    card = small_card(sources=[{"kind": "table", "list": name}])
    (tmp_path / "card.yaml").write_text(yaml.safe_dump(card))

    result = run_here("plan", tmp_path / "card.yaml")

    assert result.exit_code == 1
    assert found_in(result.output) == []


@pytest.mark.parametrize(
    "setting",
    [
        "sources.0.items.0.url",
        "sources.0.items.0.url=[https://us3rname:passw0rd!@h/x.mp4?token=t0kenvalue",
        "sources.0.items.7.url=https://us3rname:passw0rd!@h/x.mp4?token=t0kenvalue",
        "sources.0.kind.x=https://us3rname:passw0rd!@h/x.mp4?token=t0kenvalue",
    ],
)
def test_a_setting_that_is_refused_shows_no_secret(setting, tmp_path):
    from tests.test_cli import run as run_here

    card = small_card(sources=[{"kind": "urls", "items": [{"url": "https://example.org/x.mp4"}]}])
    (tmp_path / "card.yaml").write_text(yaml.safe_dump(card))

    result = run_here("plan", tmp_path / "card.yaml", "--set", setting)

    assert result.exit_code == 1 and "--set" in result.output
    assert found_in(result.output) == []


# ---- which parameters are secret

AWS2 = "AWSAccessKeyId=a&Expires=1&Signature=b"
SIGNATURES = (
    SIGNED, AWS2, "X-Goog-Algorithm=a&X-Goog-Credential=b&X-Goog-Date=c&X-Goog-Expires=1&X-Goog-Signature=d",
    "GoogleAccessId=a&Expires=1&Signature=b", "Policy=a&Signature=b&Key-Pair-Id=c",
    "sv=2022-11-02&st=a&se=b&sr=b&sp=r&spr=https&sig=c",
)  # fmt: skip


@pytest.mark.parametrize("signature", SIGNATURES)
def test_an_address_that_is_signed_anew_is_the_same_one(signature):
    plain = "https://example.org/a.mp4?versionId=3"

    assert address_key(f"{plain}&{signature}") == address_key(plain)
    assert address_key(f"https://example.org/a.mp4?{signature}&versionId=4") != address_key(plain)
    assert without_credentials(f"see {plain}&{signature} there") == f"see {plain} there"


@pytest.mark.parametrize(
    "query", ["token=a", "Expires=1", "sig=a", "Signature=a", "sp=1&se=2", "Policy=x", "key=1"]
)
def test_a_parameter_that_only_looks_like_part_of_a_signature_counts(query):
    assert address_key(f"https://example.org/a.mp4?{query}") != address_key("https://example.org/a.mp4")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://u:p@h.org:8443/x?id=4&access_token=zz&page=2", "https://h.org:8443/x?id=4&page=2"),
        ("https://h.org/x#access_token=zz", "https://h.org/x"),
        (
            f"two: https://h.org/x?{AWS2} and https://h.org/y?v=1",
            "two: https://h.org/x and https://h.org/y?v=1",
        ),
        ("a caption: 4:30 at the lake?", "a caption: 4:30 at the lake?"),
        ("https://h.org/x?id=4", "https://h.org/x?id=4"),
    ],
)
def test_further_columns_keep_addresses_that_let_nobody_in(text, shown):
    assert without_credentials(text) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("got 'https://u:p@h.org/x?t=1'", "got 'https://h.org/x'"),
        ("got 'u:p@h.org/x?t=1'", "got '…@h.org/x?…'"),
        ("https://[x/y?t=1 is none", "… is none"),
        ("https://www.youtube.com/watch?v=abc&t=3", "https://www.youtube.com/watch?v=abc"),
        ("did you mean low.height? no", "did you mean low.height? no"),
    ],
)
def test_messages_show_what_may_be_shown_of_an_address(text, shown):
    assert hide_addresses(text) == shown
