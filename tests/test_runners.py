"""Same inputs, same bytes: whatever the engine, the number of workers, the spans, the order of rows, or what
a stopped build left. Half of the listed rows are broken, and nothing else notices."""

import functools
import hashlib
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from apache_beam.options.pipeline_options import PipelineOptions
from click.testing import CliRunner

from lvg_data import journal as journals
from lvg_data.config import Card
from lvg_data.records import Source
from lvg_data.steps import Workshop
from lvg_data.store import Store
from pipelines import cli
from pipelines.build import run_build
from pipelines.outcome import GateHandle
from pipelines.transforms import Bench
from tests import videos
from tests.builds import BEAM_OPTIONS, Dataset, build_dataset, make_once, small_card, sources_of
from tests.videos import RECIPES, write_video

SECONDS = 120
"""A build here takes 3 to 15 s; one that takes this long hangs."""

INTERVALS = [["0.5", "1.5"], ["0:01", "0:03.5"], ["0.5", "1.5"], [100, 101]]
"""Two that overlap, the first one again, and one behind the end of the video."""


# --------------------------------------------------------------------------------------------------- the list


def make_listing(folder: Path) -> None:
    """Six sound videos and three broken files; two addresses and a repeated row come with the card."""
    films, served = folder / "films", folder / "served"
    films.mkdir()
    served.mkdir()
    size = {"width": 160, "height": 90}
    write_video(films / "cuts.mp4", RECIPES["h264_bframes"], 110, scene_starts=(0, 60), **size)
    write_video(films / "given.mp4", RECIPES["h264_open_gop"], 96, **size)
    write_video(films / "uneven.mkv", RECIPES["vfr_mkv"], 80, **size)
    write_video(films / "open.ts", RECIPES["mpeg2_open_gop"], 50, **size)
    write_video(films / "short.webm", RECIPES["vp9"], 30, **size)
    write_video(served / "far.mp4", RECIPES["h264_no_bframes"], 60, **size)
    videos.write_html(films / "page.mp4")
    videos.write_audio_only(films / "tone.mp4")
    videos.write_without_moov(films / "unfinished.mp4")


REJECTED_SOURCES = [
    ("films/cuts.mp4", "duplicate", False),
    ("films/page.mp4", "not_video", False),
    ("films/tone.mp4", "no_video_stream", False),
    ("films/unfinished.mp4", "not_video", False),
    ("http://127.0.0.1/dead.mp4", "network", True),
    ("http://127.0.0.1/gone.mp4", "not_found", False),
]
REJECTED_INTERVALS = [("films/given.mp4", "duplicate", False), ("films/given.mp4", "outside_video", False)]
NUM_GOOD, NUM_ROWS = 6, 12


class _QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Says nothing."""


@pytest.fixture(scope="module")
def listing(tmp_path_factory) -> Path:
    return make_once(tmp_path_factory, "runner-listing", make_listing)


@pytest.fixture(scope="module")
def card(listing: Path) -> Iterator[dict[str, Any]]:
    """Card over the files, a server's good and missing address, and a port where nobody listens."""
    handler = functools.partial(_QuietHandler, directory=str(listing / "served"))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_address[1]}"
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))  # held, so that nobody else gets the port; never listened on
        dead = f"http://127.0.0.1:{silent.getsockname()[1]}/dead.mp4"
        items = [{"url": f"{address}/far.mp4"}, {"url": f"{address}/gone.mp4"}, {"url": dead}]
        yield small_card(
            sources=[
                {"kind": "files", "path": "films", "intervals": {"given.mp4": INTERVALS}},
                {"kind": "urls", "items": items},
                {"kind": "files", "path": "films/cuts.mp4"},
            ],
            low={"height": 16, "width": 16, "min_frames": 16, "part_frames": 24},
            high={"height": 32, "width": 32},
            shards={"target_bytes": 150_000},
            limits={"fetch_attempts": 1},
        )
    server.shutdown()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, listing: Path, card: dict[str, Any]) -> Dataset:
    """What every other build of the card has to equal. To be read only."""
    out = tmp_path_factory.mktemp("runner-base") / "out"  # of this process: its server has a port of its own
    return build_dataset(card, listing, out)


def content(dataset: Dataset) -> dict[str, str]:
    """sha256 of every file of a dataset, without its journals, store and lock."""
    return {
        path.relative_to(dataset.root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(dataset.root.rglob("*"))
        if path.is_file() and path.relative_to(dataset.root).parts[0] not in ("runs", ".work", ".lock")
    }


def events(dataset: Dataset) -> Counter[str]:
    """How often each event stands in the journal of a dataset's only run."""
    (path,) = (dataset.root / "runs").glob("*.jsonl")
    return Counter(event["event"] for event in journals.JournalTail(path))


def check_same_and_told_once(built: Dataset, undisturbed: Dataset) -> None:
    assert content(built) == content(undisturbed)
    told = events(built)
    assert told["cut"] == told["probed"] == NUM_GOOD
    assert told["reject"] == len(REJECTED_SOURCES)
    assert told["shard"] == undisturbed.description["counts"]["shards"]
    assert told["published"] == 1


# ------------------------------------------------------------------------------------------------ same bytes


def test_the_listing_is_telling(undisturbed: Dataset):
    """Otherwise equal datasets would say little."""
    shards = Counter(row["role"] for row in undisturbed.rows("shards"))
    assert shards["low"] >= 3 and shards["high"] >= 3
    assert any(row["variable_frame_rate"] for row in undisturbed.rows("videos"))
    assert Counter(row["kind"] for row in undisturbed.rows("scenes"))["given"] == 2
    low = [row for row in undisturbed.rows("parts") if row["role"] == "low"]
    assert len({row["stop_frame"] - row["start_frame"] for row in low}) > 2
    assert len({row["clip_id"] for row in low}) >= 6


def test_a_second_build_gives_the_same_bytes(card, listing, undisturbed, tmp_path):
    check_same_and_told_once(build_dataset(card, listing, tmp_path / "out"), undisturbed)


@pytest.mark.parametrize(
    "execution",
    [
        pytest.param({"workers": 1}, id="one_worker"),
        pytest.param({"span_megapixels": 0.4}, id="a_span_a_gop"),
        pytest.param({"workers": 3, "span_megapixels": 0.8}, id="both", marks=pytest.mark.slow),
    ],
)
def test_workers_and_span_lengths_do_not_show(execution, card, listing, undisturbed, tmp_path):
    changed = card | {"execution": card["execution"] | execution}
    built = build_dataset(changed, listing, tmp_path / "out")
    check_same_and_told_once(built, undisturbed)
    rendered = {dataset: events(dataset)["rendered"] for dataset in (built, undisturbed)}
    if "span_megapixels" in execution:
        assert rendered[built] > rendered[undisturbed], "the spans should have been shorter"


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_the_order_of_rows_does_not_show(seed, card, listing, undisturbed, tmp_path):
    def shuffled(rows: list[Source]) -> list[Source]:
        return random.Random(seed).sample(rows, len(rows))

    built = build_rows(card, shuffled(sources_of(Card.model_validate(card), listing)), tmp_path / "out")
    check_same_and_told_once(built, undisturbed)


@pytest.mark.slow
def test_the_order_of_a_cards_sources_does_not_show(card, listing, undisturbed, tmp_path):
    """The repeated row comes first now; which of two equal rows is kept cannot be seen."""
    turned = card | {"sources": card["sources"][::-1]}
    check_same_and_told_once(build_dataset(turned, listing, tmp_path / "out"), undisturbed)


def build_rows(card: dict[str, Any], rows: list[Source], out: Path) -> Dataset:
    loaded = Card.model_validate(card)
    shop = Workshop(loaded, Store(f"{out}/.work"), journals.new_run(f"{out}/runs"), private_addresses=True)
    bench = Bench(shop, GateHandle(loaded.execution.workers), GateHandle(4))
    run_build(rows, bench, str(out), PipelineOptions(BEAM_OPTIONS))
    return Dataset(out)


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 6))])
def test_after_losing_half_of_its_artefacts_a_build_makes_those_again(
    seed, card, listing, undisturbed, tmp_path
):
    out = tmp_path / "out"
    shutil.copytree(undisturbed.root, out, ignore=shutil.ignore_patterns("runs"))
    artefacts = sorted(path.parent for path in (out / ".work").glob("*/*/meta.json"))
    kept_times = {path: (path / "meta.json").stat().st_mtime_ns for path in artefacts}
    lost = random.Random(seed).sample(artefacts, len(artefacts) // 2)
    for folder in lost:
        shutil.rmtree(folder)
    (out / "dataset.json").unlink()

    check_same_and_told_once(build_dataset(card, listing, out), undisturbed)
    assert all((folder / "meta.json").is_file() for folder in artefacts)
    again = {f for f in artefacts if (f / "meta.json").stat().st_mtime_ns != kept_times[f]}
    assert again == set(lost)


# ---------------------------------------------------------------------------------------------------- engines


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(
            ("--direct_running_mode=multi_threading", "--direct_num_workers=2"), id="multi_threading"
        ),
        pytest.param(("--runner=BundleBasedDirectRunner",), id="bundle_based"),
    ],
)
def test_every_local_engine_gives_the_same_bytes(options, card, listing, undisturbed, tmp_path):
    built = build_dataset(card, listing, tmp_path / "out", beam_options=options)
    check_same_and_told_once(built, undisturbed)


def test_worker_processes_give_the_same_bytes(card, listing, undisturbed, tmp_path):
    options = ("--direct_running_mode=multi_processing", "--direct_num_workers=2")
    check_same_and_told_once(build_by_command(card, listing, tmp_path, options), undisturbed)


def test_a_job_server_gives_the_same_bytes(card, listing, undisturbed, tmp_path):
    with job_server(tmp_path) as endpoint:
        options = ("--runner=PortableRunner", f"--job_endpoint={endpoint}", "--environment_type=LOOPBACK")
        built = build_by_command(card, listing, tmp_path, (*options, "--job_server_timeout=60"))
    check_same_and_told_once(built, undisturbed)


@pytest.mark.slow
def test_an_external_worker_pool_gives_the_same_bytes(card, listing, undisturbed, tmp_path):
    with job_server(tmp_path) as endpoint, worker_pool(tmp_path) as pool:
        options = ("--runner=PortableRunner", f"--job_endpoint={endpoint}", "--job_server_timeout=60")
        where = ("--environment_type=EXTERNAL", f"--environment_config={pool}")
        built = build_by_command(card, listing, tmp_path, (*options, *where))
    check_same_and_told_once(built, undisturbed)


def build_by_command(
    card: dict[str, Any], listing: Path, tmp_path: Path, beam_options: tuple[str, ...]
) -> Dataset:
    """Builds in a process of its own, which is killed with all that it started if it hangs."""
    path = listing / f"{tmp_path.name}.yaml"  # beside the videos, as its paths are relative to it
    path.write_text(yaml.safe_dump(card))
    out = tmp_path / "out"
    command = [
        sys.executable,
        "-m",
        "pipelines.cli",
        "build",
        str(path),
        "--out",
        str(out),
        "--allow-private-addresses",
        "--",
        *beam_options,
    ]
    with server_process(command, tmp_path / "build.log") as process:
        status = process.wait(SECONDS)
    assert status == 0, (tmp_path / "build.log").read_text()[-4000:]
    return Dataset(out)


@contextmanager
def server_process(command: list[str], log: Path) -> Iterator[subprocess.Popen]:
    """A process with the venv's `python` first on its PATH; its whole group is killed in the end."""
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    with open(log, "wb") as file:
        process = subprocess.Popen(
            command,
            stdout=file,
            stderr=file,
            stdin=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def wait_for(find: Callable[[], str | None], process: subprocess.Popen, log: Path) -> str:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        if found := find():
            return found
        time.sleep(0.1)
    raise AssertionError(f"did not start: {log.read_text()[-2000:]}")


@contextmanager
def job_server(folder: Path) -> Iterator[str]:
    port, log = folder / "port", folder / "job-server.log"
    module = "apache_beam.runners.portability.local_job_service_main"
    command = [sys.executable, "-m", module, f"--port_file={port}", f"--staging_dir={folder / 'staging'}"]
    with server_process(command, log) as process:
        number = wait_for(lambda: port.read_text() if port.exists() else None, process, log)
        yield f"localhost:{number}"


@contextmanager
def worker_pool(folder: Path) -> Iterator[str]:
    log = folder / "worker-pool.log"
    command = [sys.executable, "-m", "apache_beam.runners.worker.worker_pool_main", "--service_port=0"]

    def address() -> str | None:
        _, found, rest = log.read_text().partition("Started worker pool servicer at port: ")
        return rest.split()[0] if found and "\n" in rest else None

    with server_process(command, log) as process:
        yield wait_for(address, process, log)


# -------------------------------------------------------------------------------------------- rows that fail


def reject_rows(dataset: Dataset, level: str) -> list[tuple[str, str, bool]]:
    rows = [row for row in dataset.rows("rejects") if row["level"] == level]
    return sorted((row["origin"], row["cause"], row["retryable"]) for row in rows)


def test_every_broken_row_is_a_reject_with_its_cause(undisturbed: Dataset):
    assert reject_rows(undisturbed, "source") == REJECTED_SOURCES
    assert reject_rows(undisturbed, "interval") == REJECTED_INTERVALS
    counts = undisturbed.description["counts"]
    assert (counts["sources"], counts["videos"]) == (NUM_ROWS, NUM_GOOD)
    assert counts["rejects_by_level"]["source"] == len(REJECTED_SOURCES)


def test_no_message_address_or_port_is_in_the_rejects_table(undisturbed: Dataset):
    """They differ from run to run; the journal has them."""
    texts = [value for row in undisturbed.rows("rejects") for value in row.values() if isinstance(value, str)]
    assert not [text for text in texts if "127.0.0.1:" in text or str(undisturbed.root.parent) in text]
    (path,) = (undisturbed.root / "runs").glob("*.jsonl")
    messages = {e["cause"]: e["message"] for e in journals.JournalTail(path) if e["event"] == "reject"}
    assert "HTTP status 404" in messages["not_found"]
    assert "refused" in messages["network"]


def test_a_file_that_goes_away_after_the_listing_is_one_reject(card, listing, tmp_path):
    folder = tmp_path / "films"
    folder.mkdir()
    for name in ("cuts.mp4", "short.webm"):
        shutil.copy(listing / "films" / name, folder)
    two = card | {"sources": [{"kind": "files", "path": "films"}]}
    rows = sources_of(Card.model_validate(two), tmp_path)
    (folder / "cuts.mp4").unlink()
    built = build_rows(two, rows, tmp_path / "out")
    assert reject_rows(built, "source") == [("films/cuts.mp4", "not_found", False)]
    assert [row["origin"] for row in built.rows("videos")] == ["films/short.webm"]


def test_a_list_with_no_sound_video_gives_an_empty_dataset(card, listing, tmp_path):
    broken = card | {"sources": [{"kind": "files", "path": "films/page.mp4"}]}
    built = build_dataset(broken, listing, tmp_path / "out")
    assert built.description["counts"]["clips"] == 0
    assert reject_rows(built, "source") == [("films/page.mp4", "not_video", False)]


def test_the_exit_status_tells_whether_too_many_rows_were_rejected(card, listing, undisturbed, tmp_path):
    """Half of the rows are broken: 3 where the card tolerates less, 0 where it tolerates just that."""
    path = listing / f"{tmp_path.name}.yaml"
    path.write_text(yaml.safe_dump(card))
    shutil.copytree(undisturbed.root, tmp_path / "out")
    build = ["build", str(path), "--out", str(tmp_path / "out"), "--allow-private-addresses", "--set"]
    answers = [CliRunner().invoke(cli.main, [*build, f"max_reject_share={x}"]) for x in (0.5, 0.49, 0.5)]
    assert [answer.exit_code for answer in answers] == [0, 3, 0], [answer.output for answer in answers]
    assert all("missing       1  not_found: " in answer.output for answer in answers)
    assert content(Dataset(tmp_path / "out")) == content(undisturbed)


def test_a_fault_of_the_program_fails_the_build_and_leaves_no_dataset(card, listing, tmp_path, monkeypatch):
    """Only `Rejected` is for data; anything else must not end as a missing video."""
    from lvg_data import steps

    def broken(*_: object) -> None:
        raise ZeroDivisionError("a fault of ours")

    monkeypatch.setattr(steps, "_video_row", broken)
    with pytest.raises(ZeroDivisionError, match="a fault of ours"):
        build_dataset(card, listing, tmp_path / "out")
    assert not (tmp_path / "out" / "dataset.json").exists()
