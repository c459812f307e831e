"""What could not be had: shown by cause, tried again on request, and nothing else is built again."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import Result

from lvg_data.verify import verify_dataset
from tests import test_cli
from tests.builds import Dataset, small_card
from tests.videos import RECIPES, write_video


def run(command: str, *arguments: object) -> Result:
    """A command that may ask the server of the test."""
    return test_cli.run(command, "--allow-private-addresses", *arguments)


def succeed(command: str, *arguments: object) -> Result:
    return test_cli.succeed(command, "--allow-private-addresses", *arguments)


class Server:
    """Serves the files of a folder; `answers` gives another status for some of them."""

    def __init__(self, folder: Path) -> None:
        self.answers: dict[str, int] = {}
        self.asked: Counter[str] = Counter()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                name = self.path.lstrip("/")
                server.asked[name] += 1
                status = server.answers.get(name, 200)
                data = (folder / name).read_bytes() if status == 200 else b"no"
                self.send_response(status)
                self.send_header("Content-Type", "video/mp4" if status == 200 else "text/plain")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http.server_port}"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    folder = tmp_path / "served"
    folder.mkdir()
    for number, name in enumerate(("here.mp4", "gone.mp4", "busy.mp4")):
        write_video(folder / name, RECIPES["h264_bframes"], 24, first_number=100 * number)
    found = Server(folder)
    yield found
    found.http.shutdown()


@pytest.fixture
def built(tmp_path: Path, server: Server) -> Path:
    """A dataset of three addresses, of which one is gone and one answers "come back later"."""
    server.answers = {"gone.mp4": 404, "busy.mp4": 429}
    card = small_card(max_reject_share=1, limits={"fetch_attempts": 1})
    names = ("here.mp4", "gone.mp4", "busy.mp4")
    card["sources"] = [{"kind": "urls", "items": [{"url": f"{server.url}/{n}", "id": n[:4]} for n in names]}]
    (tmp_path / "card.yaml").write_text(yaml.safe_dump(card))
    result = succeed("build", tmp_path / "card.yaml", "--out", tmp_path / "out")
    assert "coverage: 1 of 3 sources, 33%" in result.output
    assert "1  not_found: the file or address does not exist\n" in result.output
    assert "may succeed later: lvg-data retry" in result.output
    return tmp_path / "out"


def missing(out: Path) -> set[tuple[str, str]]:
    return {(r["subject"], r["cause"]) for r in Dataset(out).rows("rejects")}


def test_a_retry_tries_what_may_pass_and_builds_only_that(built, server):
    server.answers = {"gone.mp4": 404}
    before = Counter(server.asked)

    result = succeed("retry", built)

    assert "coverage: 2 of 3 sources" in result.output
    assert missing(built) == {("gone", "not_found")}
    assert server.asked - before == {"busy.mp4": 1}
    assert verify_dataset(str(built)) == []


def test_a_named_cause_is_tried_again_though_it_was_final(built, server):
    server.answers = {"busy.mp4": 429}
    before = Counter(server.asked)

    succeed("retry", built, "--cause", "not_found")

    assert missing(built) == {("busy", "rate_limited")}
    assert server.asked["gone.mp4"] == before["gone.mp4"] + 1
    assert server.asked["here.mp4"] == before["here.mp4"]


def test_a_retry_gives_the_bytes_of_a_build_that_had_everything_at_once(built, server, tmp_path):
    server.answers = {}
    succeed("retry", built, "--cause", "not_found", "--cause", "rate_limited")
    again = json.loads(
        succeed("build", tmp_path / "card.yaml", "--out", tmp_path / "at-once", "--json").output.splitlines()[
            -1
        ]
    )

    assert json.loads((built / "dataset.json").read_text())["fingerprint"] == again["fingerprint"]


def test_a_retry_with_nothing_to_try_says_so_and_leaves_the_dataset(built, server):
    succeed("retry", built, "--cause", "not_found", "--cause", "rate_limited")  # still both
    stamp = (built / "dataset.json").stat().st_mtime_ns

    result = succeed("retry", built, "--cause", "drm")

    assert "nothing to try again: nothing was dropped for drm" in result.output
    assert (built / "dataset.json").stat().st_mtime_ns == stamp


def test_a_build_over_the_result_of_a_retry_is_complete(built, server, tmp_path):
    server.answers = {"gone.mp4": 404}
    succeed("retry", built)

    result = succeed("build", tmp_path / "card.yaml", "--out", built)

    assert "already complete" in result.output


def test_the_journal_keeps_attempts_and_the_last_message(built):
    lines = [
        json.loads(line) for path in built.glob("runs/*.jsonl") for line in path.read_text().splitlines()
    ]
    (busy,) = [line for line in lines if line["event"] == "reject" and line["subject"] == "busy"]

    assert (busy["cause"], busy["attempts"]) == ("rate_limited", 1)
    assert "429" in busy["message"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--cause", "privat"), "unknown cause 'privat'; known: not_found, gone, private"),
        (("--store", "/nowhere/at/all"), "; name the --store that it was built with, or run lvg-data build"),
    ],
)
def test_a_retry_that_cannot_be_is_refused_in_words(built, arguments, message):
    result = run("retry", built, *arguments)

    assert result.exit_code == 1
    assert message in result.output


def test_preflight_says_what_is_there(tmp_path):
    result = run("preflight")

    assert result.output.splitlines()[-1] in ("ready", "not ready")
    assert result.exit_code == (0 if result.output.endswith("\nready\n") else 1)
    assert "yt-dlp" in result.output


def test_a_list_that_was_not_there_is_asked_for_again(server, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    card = small_card()
    card["sources"] = [{"kind": "table", "list": f"{server.url}/list.txt"}]
    (tmp_path / "card.yaml").write_text(yaml.safe_dump(card))
    server.answers = {"list.txt": 404}
    refused = run("plan", tmp_path / "card.yaml").output
    assert "cannot be had: not_found" in refused and "`list` can name a copy of it" in refused

    server.answers = {}
    (tmp_path / "served" / "list.txt").write_text(f"{server.url}/here.mp4\n")

    assert json.loads(succeed("plan", tmp_path / "card.yaml", "--json").output)["sources"]["to_fetch"] == 1


def test_a_file_that_was_fetched_badly_is_fetched_again(server, tmp_path):
    good = (tmp_path / "served" / "here.mp4").read_bytes()
    (tmp_path / "served" / "here.mp4").write_bytes(b"\x00\x00\x00\x18ftypmp42" + bytes(4000))
    card = small_card(max_reject_share=1)
    card["sources"] = [{"kind": "urls", "items": [{"url": f"{server.url}/here.mp4", "id": "here"}]}]
    (tmp_path / "card.yaml").write_text(yaml.safe_dump(card))
    out = tmp_path / "out"
    succeed("build", tmp_path / "card.yaml", "--out", out)
    assert len(missing(out)) == 1
    (cause,) = (cause for _, cause in missing(out))

    (tmp_path / "served" / "here.mp4").write_bytes(good)
    succeed("retry", out, "--cause", cause)

    assert missing(out) == set()
    assert len(Dataset(out).rows("videos")) == 1


def test_two_datasets_that_share_a_store_are_retried_each_by_its_own_card(tmp_path):
    outs = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        write_video(tmp_path / name / f"{name}.mp4", RECIPES["h264_bframes"], 24)
        (tmp_path / name / "bad.mp4").write_bytes(b"no video" * 100)
        (tmp_path / name / "card.yaml").write_text(yaml.safe_dump(small_card(name=name, max_reject_share=1)))
        outs.append(tmp_path / f"{name}-out")
        succeed("build", tmp_path / name / "card.yaml", "--out", outs[-1], "--store", tmp_path / "store")
    before = (outs[0] / "dataset.json").read_bytes()

    succeed("retry", outs[0], "--store", tmp_path / "store", "--cause", "not_video")

    assert (outs[0] / "dataset.json").read_bytes() == before


def test_nothing_secret_of_a_card_is_kept(server, tmp_path):
    address = server.url.replace("http://", "http://bob:hunter2secret@") + "/here.mp4?token=topsecrettoken"
    card = small_card()
    card["sources"] = [{"kind": "urls", "items": [{"url": address, "id": "here"}]}]
    server.answers = {}
    served = tmp_path / "served"
    (served / "here.mp4?token=topsecrettoken").write_bytes((served / "here.mp4").read_bytes())
    (tmp_path / "card.yaml").write_text(yaml.safe_dump(card))
    setting = ("--set", f"sources.0.items.0.url={address}")
    succeed("build", tmp_path / "card.yaml", "--out", tmp_path / "out", *setting)

    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    found = [p.name for p in files if b"hunter2" in p.read_bytes() or b"topsecret" in p.read_bytes()]
    assert (len(files) > 10, found) == (True, [])
    refused = run("retry", tmp_path / "out", "--cause", "gone")
    assert refused.exit_code == 1
    assert "built with an address in --set, which is not kept" in refused.output
