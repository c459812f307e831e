"""After any fault the same command, run again, ends in the bytes of a build that nothing disturbed."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import pytest

from lvg_data import store
from lvg_data.child import ChildLimits, run_in_child
from lvg_data.errors import DatasetError
from lvg_data.journal import Journal, JournalTail
from lvg_data.store import Key, Store
from pipelines import cli
from pipelines.outcome import machine_error_in
from tests.builds import make_once
from tests.faults import (
    ENDS_IN_S,
    SECONDS,
    Command,
    Commands,
    commands,
    count_runs,
    events_of,
    frozen,
    install_flaky,
    kill,
    make_films,
    remount,
    small_disk,
    wait_until,
    write_card,
)
from tests.servers import Server, file, http_server
from tests.test_cli import content, environment, leftovers
from tests.test_cli import run as run_here
from tests.test_reader import HARMS
from tests.test_train_loop import options as train_options
from tests.train_runs import make_dataset

SEED = 20_240_601


@pytest.fixture(scope="module")
def films(tmp_path_factory) -> Path:
    """Folder of `card.yaml` and its videos. To be read only."""
    return make_once(tmp_path_factory, "fault-films", make_films)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Iterator[Commands]:
    with commands(tmp_path_factory.mktemp("commands")) as running:
        yield running


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, films: Path, run: Commands) -> Path:
    """What every build of the card has to equal. To be read only."""

    def make(folder: Path) -> None:
        run.succeed("build", films / "card.yaml", "--out", folder / "out")

    return make_once(tmp_path_factory, "fault-base", make) / "out"


@pytest.fixture
def copy(undisturbed: Path, tmp_path: Path) -> Path:
    """The dataset with its store, to be damaged; shards are one file with their artefacts, as in the original."""
    out = shutil.copytree(undisturbed, tmp_path / "copy", ignore=shutil.ignore_patterns("runs"))
    by_content = {path.read_bytes(): path for path in out.glob(".work/write_shard/*/shard.tar")}
    for path in out.glob("*-0*/*.tar"):
        artefact = by_content[path.read_bytes()]
        path.unlink()
        os.link(artefact, path)
    return out


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Mounts a file system of a size; it is gone after the test."""
    with small_disk(tmp_path / "disk", 1 << 20) as folder:

        def resize(size_bytes: int) -> Path:
            remount(folder, f"size={size_bytes}")
            return folder

        yield resize


def check_same(out: Path, undisturbed: Path) -> None:
    assert content(out) == content(undisturbed)
    assert leftovers(out) == []


def finish(run: Commands, films: Path, out: Path, undisturbed: Path, *options: object) -> str:
    said = run.succeed("build", films / "card.yaml", "--out", out, *options)
    check_same(out, undisturbed)
    return said


def work_s(out: Path) -> float:
    """How long the work of a dataset's first build took."""
    events = events_of(out)
    return events[-1]["time"] - events[0]["time"]


def start_and_wait(run: Commands, delay_s: float, out: Path, *arguments: object) -> Command:
    """A build that has worked for so long; it may have ended by then."""
    before = count_runs(out)
    build = run.start(*arguments, "--out", out)
    while count_runs(out) == before and not build.ends_within(0.002):
        pass
    build.ends_within(delay_s)
    return build


def said_in_words(text: str, *words: str) -> None:
    """One error for people, with these words, and how to go on; no traceback."""
    assert "Traceback" not in text, text
    (error,) = [line for line in text.splitlines() if line.startswith("Error: ")]
    for word in (*words, "the same command goes on"):
        assert word in text, (word, error, text)


# ---- killed ----------------------------------------------------------------------------------------


def kill_often(
    run: Commands, films: Path, undisturbed: Path, folder: Path, seed: int, num_kills: int
) -> list[str]:
    """Kills builds at random moments, each going on where the one before was killed; says when.

    A build that ends first must have ended well, and the next one begins a new dataset.
    """
    rng, longest_s = random.Random(seed), 1.2 * work_s(undisturbed)
    told, number = [], 0
    while sum("killed" in line for line in told) < num_kills:
        out, delay_s = folder / f"out-{number}", rng.uniform(0, longest_s)
        build = start_and_wait(run, delay_s, out, "build", films / "card.yaml")
        if build.status is not None:
            assert build.status == 0, build.said
            check_same(out, undisturbed)
            shutil.rmtree(out)
            number += 1
            told.append(f"ended after {delay_s:.3f} s")
        else:
            build.kill()
            last = [event["event"] for event in events_of(out)][-1]
            told.append(f"killed after {delay_s:.3f} s, last event: {last}")
            if last == "started":  # the machine may be busier than when the undisturbed build was timed
                longest_s *= 1.25
    finish(run, films, folder / f"out-{number}", undisturbed)
    return told


@pytest.mark.parametrize(
    ("seed", "num_kills"),
    [(SEED, 10), *(pytest.param(SEED + n, 50, marks=pytest.mark.slow) for n in range(1, 5))],
)
def test_builds_killed_at_random_moments_end_in_the_same_bytes(
    seed: int, num_kills: int, films, undisturbed, run, tmp_path, record_property
):
    told = kill_often(run, films, undisturbed, tmp_path, seed, num_kills)
    record_property("kills", told)
    print(f"seed {seed}:", *told, sep="\n  ")
    assert len({line.rpartition(": ")[2] for line in told if "killed" in line}) >= 3, (
        "kills at different stages"
    )


def test_a_build_whose_decode_children_are_killed_loses_nothing(films, undisturbed, run, tmp_path):
    """Each is started once more; what is killed again and again is dropped for now, and tried by the next build."""
    out, killed = tmp_path / "out", set()
    build = run.start("build", films / "card.yaml", "--out", out)
    while not build.ends_within(0.001):
        for pid in build.decode_children()[:1] if len(killed) < 4 else ():
            kill(pid)
            killed.add(pid)
    build.wait()
    assert len(killed) == 4
    assert build.status == 0, build.said
    finish(run, films, out, undisturbed)


def die_once(mark: Path) -> int:
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return 7


def test_a_child_that_was_killed_is_started_once_more(tmp_path):
    assert run_in_child(die_once, (tmp_path / "died",), ChildLimits(20, 1 << 30)) == 7


def test_a_build_whose_fork_server_is_killed_loses_nothing(films, undisturbed, run, tmp_path):
    out, killed = tmp_path / "out", set()
    build = run.start("build", films / "card.yaml", "--out", out)
    while not build.ends_within(0.01):
        if (servers := build.fork_servers()) and build.decode_children() and len(killed) < 2:
            kill(servers[0])
            killed.add(servers[0])
    build.wait()
    assert len(killed) == 2
    assert build.status == 0, build.said
    finish(run, films, out, undisturbed)


WORKER_PROCESSES = ("--", "--direct_running_mode=multi_processing", "--direct_num_workers=2")


def start_with_workers(run: Commands, films: Path, out: Path, delay_s: float) -> Command:
    """A build whose runner has had processes of its own for so long."""
    build = run.start("build", films / "card.yaml", "--out", out, *WORKER_PROCESSES)
    wait_until(build.workers, build, "worker processes")
    build.ends_within(delay_s)
    assert build.status is None, "it ended before a worker was killed"
    return build


def check_ended_for_lack_of_a_worker(build: Command) -> None:
    kill(random.Random(SEED).choice(build.workers()))
    killed = time.monotonic()
    assert build.wait() == 1, build.said
    assert time.monotonic() - killed < ENDS_IN_S
    said_in_words(build.said, "a worker process of the runner died (", "exited with return code 137")


def test_a_build_whose_worker_process_is_killed_says_so_and_ends(films, undisturbed, run, tmp_path):
    """At this moment, as at most, the runner itself would wait for the worker for ever."""
    check_ended_for_lack_of_a_worker(start_with_workers(run, films, tmp_path / "out", 0))
    finish(run, films, tmp_path / "out", undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("delay_s", [0.7, 1.4, 2, 2.5, 3, 3.5])
def test_a_build_whose_worker_process_is_killed_at_any_moment_goes_on(
    delay_s, films, undisturbed, run, tmp_path
):
    check_ended_for_lack_of_a_worker(start_with_workers(run, films, tmp_path / "out", delay_s))
    finish(run, films, tmp_path / "out", undisturbed, *WORKER_PROCESSES)


def test_a_build_with_worker_processes_is_stopped_with_them(films, run, tmp_path):
    build = start_with_workers(run, films, tmp_path / "out", 0)
    build.signal_group(signal.SIGINT)
    assert build.wait() == cli.INTERRUPTED, build.said  # and no process outlives it
    assert build.said.count("stopped; run the same command again to go on") == 1


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_build_that_is_asked_twice_to_stop_stops_once(number, films, undisturbed, run, tmp_path):
    """As an impatient user does, and a system that repeats itself."""
    rng, out = random.Random(SEED), tmp_path / "out"
    build = start_and_wait(run, rng.uniform(0, work_s(undisturbed) / 2), out, "build", films / "card.yaml")
    for _ in range(2):
        build.signal_group(number)
        time.sleep(rng.uniform(0, 0.3))
    assert build.wait() == cli.INTERRUPTED
    assert "Traceback" not in build.said
    assert build.said.count("stopped") == 1
    assert leftovers(out) == []
    finish(run, films, out, undisturbed)


# ---- power lost ------------------------------------------------------------------------------------


def damage(path: Path, rng: random.Random) -> None:
    """What a loss of power may leave of a file that was not synced: its beginning, nothing, or zeros."""
    data = path.read_bytes()
    path.write_bytes(rng.choice([data[: rng.randrange(len(data) + 1)], b"", bytes(len(data))]))


@pytest.mark.parametrize("seed", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in range(1, 12))])
def test_what_was_not_published_when_the_power_went_is_made_again(seed, films, undisturbed, run, tmp_path):
    """Published files were synced before they were named; all others may hold anything."""
    rng, out = random.Random(seed), tmp_path / "out"
    build = start_and_wait(run, rng.uniform(0.1, work_s(undisturbed)), out, "build", films / "card.yaml")
    build.kill()
    for path in (p for p in leftovers(out) for p in (p, *p.rglob("*"))):
        if path.is_file():
            damage(path, rng)
    for path in out.glob("runs/*.jsonl"):  # journals are not synced at all
        damage(path, rng)
    run.succeed("build", films / "card.yaml", "--out", out)
    check_same(out, undisturbed)


def test_everything_is_synced_before_it_is_named(tmp_path, monkeypatch):
    """Without this a journalling file system may name files that hold nothing yet."""
    synced: set[int] = set()
    named: list[Path] = []
    fsync, rename, replace = os.fsync, os.rename, os.replace

    def noting_fsync(descriptor: int) -> None:
        synced.add(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    def noting(call: Callable) -> Callable:
        def named_now(source: Path, target: Path) -> None:
            inside = [Path(source), *Path(source).rglob("*")]
            assert {path.stat().st_ino for path in inside} <= synced, f"{target} is named before it is synced"
            call(source, target)
            named.append(Path(target))

        return named_now

    monkeypatch.setattr(os, "fsync", noting_fsync)
    monkeypatch.setattr(os, "rename", noting(rename))
    monkeypatch.setattr(os, "replace", noting(replace))
    key = Key("t", 1, None, ("a",))

    def make(folder: Path) -> int:
        (folder / "one").write_bytes(b"1")
        (folder / "two").write_bytes(b"22")
        return 3

    artefact = Store(str(tmp_path / "store")).get_or_make(key, make)
    store.publish(f"{artefact.address}/one", str(tmp_path / "out" / "linked"))
    monkeypatch.setattr(os, "link", _no_link)
    store.publish(f"{artefact.address}/two", str(tmp_path / "out" / "copied"))
    store.write_atomic(str(tmp_path / "out" / "written"), b"3")

    assert [path.name for path in named[1:]] == ["linked", "copied", "written"]
    assert all(path.parent.stat().st_ino in synced for path in named), "a name is synced too"


def _no_link(*_: object) -> None:
    raise OSError("another disk")


DAMAGES: dict[str, Callable[[Path], list[Path]]] = {
    "shards": lambda out: sorted(out.glob("*-0*/*.tar"))[:2],
    "tables": lambda out: sorted(out.glob("tables/*.parquet"))[:3],
    "dataset.json": lambda out: [out / "dataset.json"],
    "what the store knows of artefacts": lambda out: sorted(out.glob(".work/*/*/meta.json")),
    "artefacts": lambda out: sorted(p for p in out.glob(".work/*/*/*") if p.name != "meta.json"),
    "the note of the finished build": lambda out: [out / ".work" / "built.json"],
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_file_of_another_size_is_found_by_the_next_build(name, films, undisturbed, copy):
    """Beyond what a loss of power may do: files that were whole once, cut off or emptied since."""
    rng = random.Random(name)
    for path in DAMAGES[name](copy):
        data = path.read_bytes()
        path.write_bytes(data[: rng.choice([0, len(data) // 2, len(data) - 1])])
    result = run_here("build", films / "card.yaml", "--out", copy)
    assert result.exit_code == 0, (result.output, result.exception)
    if (
        "artefacts" in name
    ):  # of a complete dataset nobody asks for them; of one that is to change they are needed
        (copy / "dataset.json").unlink()
        result = run_here("build", films / "card.yaml", "--out", copy)
        assert result.exit_code == 0, (result.output, result.exception)
    check_same(copy, undisturbed)


def test_records_of_zeros_are_read_as_none(films, undisturbed, copy):
    """Of the same size as before: the other thing that file systems leave."""
    for path in (copy / "dataset.json", copy / ".work" / "built.json", *copy.glob(".work/*/*/meta.json")):
        path.write_bytes(bytes(path.stat().st_size))
    result = run_here("build", films / "card.yaml", "--out", copy)
    assert result.exit_code == 0, (result.output, result.exception)
    check_same(copy, undisturbed)


def flip_in_the_middle(path: Path) -> None:
    with open(path, "r+b") as file:
        file.seek(path.stat().st_size // 2)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 0x55]))


def test_damage_of_the_same_size_is_found_by_verify_and_mended_on_request(undisturbed, copy):
    """In a shard, and in rendered frames from which that shard would be made again."""
    flip_in_the_middle(next(copy.glob("high-0*/*.tar")))
    for path in copy.glob(".work/render_span/*/high.jpgs"):
        flip_in_the_middle(path)
    found = run_here("verify", copy)
    assert found.exit_code == 1
    assert f"1 problems; lvg-data verify {copy} --repair makes what is damaged again" in found.output

    mended = run_here("verify", copy, "--repair")

    assert mended.exit_code == 0, (mended.output, mended.exception)
    assert mended.stdout == "verified: the dataset is whole\n"
    assert mended.stderr.count("damaged: ") > 2
    check_same(copy, undisturbed)
    stamps = [(copy / name).stat().st_mtime_ns for name in ("dataset.json", ".lock")]
    assert run_here("verify", copy, "--repair").exit_code == 0
    now = [(copy / name).stat().st_mtime_ns for name in ("dataset.json", ".lock")]
    assert now == stamps, "nothing was damaged, and nothing is done"


def test_damage_of_a_copy_on_another_disk_is_mended_too(undisturbed, copy):
    """There, shards are copies of what the store has."""
    path = next(copy.glob("low-0*/*.tar"))
    whole = path.read_bytes()
    path.unlink()
    path.write_bytes(whole)
    flip_in_the_middle(path)
    assert run_here("verify", copy, "--repair").exit_code == 0
    check_same(copy, undisturbed)


# ---- disks -----------------------------------------------------------------------------------------


def serve_films(server: Server, films: Path) -> None:
    for path in (films / "films").glob("*.mp4"):
        server.answers[f"/{path.name}"] = file(path.read_bytes())


def most_bytes(out: Path, pattern: str) -> int:
    return max(path.stat().st_size for path in out.glob(pattern))


@pytest.mark.parametrize(
    "stage",
    [
        ".work/render_span/*/high.jpgs",
        pytest.param(".work/probe/*/packets.npy", marks=pytest.mark.slow),
        pytest.param(".work/write_shard/*/shard.tar", marks=pytest.mark.slow),
    ],
)
def test_a_disk_that_takes_no_more_while(stage, films, undisturbed, run, tmp_path):
    """Files of a stage that the system lets grow no further, as a full disk or a quota does."""
    out, limit = tmp_path / "out", most_bytes(undisturbed, stage) - 512
    build = run.run("build", films / "card.yaml", "--out", out, most_file_bytes=limit)
    assert build.status == 1, build.said
    said_in_words(build.said, "File too large", f"--out {out}")
    assert not (out / "dataset.json").exists()
    finish(run, films, out, undisturbed)


@pytest.mark.slow
def test_a_disk_that_is_full_at_any_moment(films, undisturbed, run, disk, tmp_path):
    """It grows until the dataset fits; each build before fails in words, and none begins anew."""
    out, size_bytes, failures = disk(64 << 10) / "out", 64 << 10, 0
    while True:
        disk(size_bytes)
        build = run.run("build", films / "card.yaml", "--out", out)
        if build.status == 0:
            break
        said_in_words(build.said, "No space left on device")
        failures, size_bytes = failures + 1, size_bytes * 5 // 4
    assert failures >= 5
    check_same(out, undisturbed)


def test_a_disk_without_room_for_a_download(films, undisturbed, run, disk, tmp_path):
    """The video is dropped, for a cause that may pass; with more room the same command has it."""
    with http_server() as server:
        serve_films(server, films)
        items = [{"url": server.url(f"/{name}.mp4"), "id": name} for name in ("cuts", "plain")]
        sources = [{"kind": "urls", "items": items}]
        card = write_card(
            tmp_path / "card.yaml", sources=sources, limits={"free_bytes": 0, "fetch_attempts": 2}
        )
        roomy = ("build", card, "--allow-private-addresses", "--out", tmp_path / "roomy")
        run.succeed(*roomy)
        out = tmp_path / "out"
        small = (*roomy[:-1], out, "--store", disk(20 << 10) / "store")
        told = run.run(*small).said
        assert "no_space" in told or "No space left on device" in told

        disk(8 << 20)
        told = run.succeed(*small)
    check_same(out, tmp_path / "roomy")


def test_an_output_that_is_closed_to_us_under_way(films, undisturbed, run, tmp_path):
    out = tmp_path / "out"
    build = start_and_wait(run, 0, out, "build", films / "card.yaml")
    wait_until(lambda: any(out.glob(".work/probe/*")), build, "a probe")
    with frozen(out, *out.glob(".work/*"), out / ".work"):
        assert build.wait() == 1, build.said
    said_in_words(build.said, f"{out}")
    finish(run, films, out, undisturbed)


def test_a_read_only_output_is_refused_at_once(films, disk):
    out = disk(1 << 20) / "out"
    out.mkdir()
    remount(out.parent, "ro")
    refused = run_here("build", films / "card.yaml", "--out", out)
    assert refused.exit_code == 1
    assert f"--out {out} cannot be written to" in refused.output


def test_a_file_in_the_place_of_the_output_is_named(films, tmp_path):
    (tmp_path / "out").write_text("mine")
    result = run_here("build", films / "card.yaml", "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert f"--out {tmp_path / 'out'} cannot be written to" in result.output
    assert (tmp_path / "out").read_text() == "mine"


@pytest.mark.parametrize("share", [0.4, *(pytest.param(n / 8, marks=pytest.mark.slow) for n in range(9))])
def test_an_output_that_is_removed_under_way(share, films, undisturbed, run, tmp_path):
    out = tmp_path / "out"
    build = start_and_wait(run, share * work_s(undisturbed), out, "build", films / "card.yaml")
    was_complete = (out / "dataset.json").exists()
    shutil.rmtree(out, ignore_errors=True)
    status = build.wait()
    assert "Traceback" not in build.said
    assert status == 1 or (status == 0 and (out / "dataset.json").exists() != was_complete), build.said
    if status == 1:
        assert "the same command" in build.said, build.said
    finish(run, films, out, undisturbed)


def test_two_builds_into_one_output_are_one_build(films, undisturbed, run, tmp_path):
    """The second, of another card, is refused, and the first ends as if there had been none."""
    other, out = tmp_path / "other.yaml", tmp_path / "out"
    shutil.copytree(films / "films", tmp_path / "films")
    write_card(other, name="other", high={"part_frames": 7})
    build = start_and_wait(run, 0.1, out, "build", films / "card.yaml")
    refused = run_here("build", other, "--out", out)
    assert refused.exit_code == 1
    assert f"another build is writing to {out}" in refused.output
    assert build.wait() == 0, build.said
    check_same(out, undisturbed)


def test_a_build_whose_output_another_build_made_anew_stops(tmp_path):
    """Removed and taken by another: the first must not put its files there."""
    from lvg_data import dataset

    out = str(tmp_path / "out")
    with dataset.hold(out, "first"):
        dataset.check_held(out, "first")
        shutil.rmtree(out)
        with pytest.raises(
            DatasetError, match="removed while it was being built; run the same command again"
        ):
            dataset.check_held(out, "first")
        with dataset.hold(out, "second"), pytest.raises(DatasetError, match="removed while"):
            dataset.check_held(out, "first")


# ---- stores that fail ------------------------------------------------------------------------------


@pytest.mark.parametrize("every", [10, pytest.param(4, marks=pytest.mark.slow)])
def test_a_store_that_fails_now_and_then_loses_nothing(every, films, undisturbed, tmp_path):
    """Connections that break, and reads that give half of a file; of the store and of the output."""
    variables = install_flaky(tmp_path / "flaky", every)
    with commands(tmp_path, **variables) as run:
        run.succeed(
            "build",
            films / "card.yaml",
            "--out",
            f"flaky://{tmp_path}/out",
            "--store",
            f"flaky://{tmp_path}/store",
        )
    assert (tmp_path / "flaky" / "operations").stat().st_size > 200
    assert content(tmp_path / "out") == content(undisturbed)


@pytest.mark.slow
def test_a_slow_store_is_only_slow(films, undisturbed, tmp_path):
    variables = install_flaky(tmp_path / "flaky", 10**9, wait_s=0.05)
    with commands(tmp_path, **variables) as run:
        run.succeed(
            "build",
            films / "card.yaml",
            "--out",
            f"flaky://{tmp_path}/out",
            "--store",
            f"flaky://{tmp_path}/store",
        )
    assert content(tmp_path / "out") == content(undisturbed)


def test_a_store_that_never_answers_is_told_in_words(films, tmp_path):
    variables = install_flaky(tmp_path / "flaky", 1)
    out = tmp_path / "out"
    with commands(tmp_path, **variables) as run:
        build = run.run("build", films / "card.yaml", "--out", out, "--store", f"flaky://{tmp_path}/store")
    assert build.status == 1
    said_in_words(build.said, "the store failed 5 times in a row", "ConnectionResetError: the store hung up")


class _Moody:
    """A filesystem that fails in this order."""

    def __init__(self, *errors: Exception) -> None:
        self.errors, self.asked = list(errors), 0

    def info(self, path: str) -> dict[str, str]:
        self.asked += 1
        if self.errors:
            raise self.errors.pop(0)
        return {"name": path}

    def invalidate_cache(self) -> None:
        """Nothing is kept."""


class HttpError(Exception):
    """Named as gcsfs names it."""


@pytest.mark.parametrize(
    ("errors", "asked", "ends"),
    [
        ([], 1, None),
        ([ConnectionResetError(), TimeoutError(), HttpError()], 4, None),
        ([OSError("reset")] * 4, 5, None),
        ([OSError("reset")] * 5, 5, OSError),
        ([FileNotFoundError("x")], 1, FileNotFoundError),
        ([TimeoutError(), PermissionError("x")], 2, PermissionError),
        ([ZeroDivisionError()], 1, ZeroDivisionError),
    ],
)
def test_a_place_is_asked_again_when_it_may_answer_another_time(errors, asked, ends, monkeypatch):
    monkeypatch.setattr(store, "_FIRST_WAIT_S", 0)
    fs = _Moody(*errors)
    if ends is None:
        assert store._Patient(fs).info("a") == {"name": "a"}
    else:
        with pytest.raises(ends):
            store._Patient(fs).info("a")
    assert fs.asked == asked


def test_a_place_that_fails_does_not_say_that_nothing_is_there(monkeypatch):
    """fsspec's own `exists` takes any error for a no: a build would then make everything anew, or less."""
    monkeypatch.setattr(store, "_FIRST_WAIT_S", 0)
    fs = fsspec.filesystem("memory")
    monkeypatch.setattr(type(fs), "info", _failing)
    monkeypatch.setattr(type(fs), "ls", _failing)
    for ask in (store.exists, store.files_in, store.names_in):
        with pytest.raises(OSError, match="failed 5 times in a row"):
            ask("memory://somewhere")


def _failing(*_: object, **__: object) -> None:
    raise ConnectionResetError("reset")


# ---- a dataset under a trainer --------------------------------------------------------------------


@pytest.fixture(scope="module")
def trains(tmp_path_factory) -> Path:
    """A dataset for the smallest runs. To be read only."""
    return make_once(tmp_path_factory, "trains", make_dataset) / "out"


@pytest.mark.slow
@pytest.mark.parametrize("access", ["cached", "streamed"])
@pytest.mark.parametrize("name", HARMS)
def test_a_trainer_whose_shards_are_harmed_names_one_and_stops(name, access, trains, tmp_path):
    """In a process of its own: were shards mapped, one that is cut off would end it by SIGBUS."""
    data, run = shutil.copytree(trains, tmp_path / "data"), tmp_path / "run"
    code = "import sys; sys.argv[0] = 'lvg-train'; from lvg_train.cli import main; main()"
    words = [*train_options(data, run), "--steps", "100000", "--set", f"access={access}"]
    with open(tmp_path / "log", "wb") as log:
        trainer = subprocess.Popen(
            [sys.executable, "-c", code, *words], stdout=log, stderr=log, env=environment(OMP_NUM_THREADS="1")
        )
    try:
        deadline = time.monotonic() + SECONDS
        while trainer.poll() is None and not steps_of(run):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        for path in data.glob("low-*/*.tar"):
            HARMS[name][0](path)
        assert trainer.wait(SECONDS) == 1
    finally:
        trainer.kill()
        trainer.wait()
    said = (tmp_path / "log").read_text()
    assert "Traceback" not in said, said
    assert re.search(r"train-\d{5}\.tar", said.rpartition("Error: ")[2]), said
    assert steps_of(run) == list(range(1, len(steps_of(run)) + 1))


def steps_of(run: Path) -> list[int]:
    """The steps that a trainer has reported."""
    path = run / "log.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line)["step"] for line in lines if "step" in line and line.endswith("}")]


# ---- small things ----------------------------------------------------------------------------------


def test_a_journal_goes_on_behind_a_torn_line(tmp_path):
    journal = Journal(str(tmp_path), "run")
    journal.write("one")
    with open(tmp_path / "run.jsonl", "ab") as file:
        file.write(b'{"time": 1, "ev\n' + bytes(30) + b"\n")
    journal.write("two")
    assert [event["event"] for event in JournalTail(tmp_path / "run.jsonl")] == ["one", "two"]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (
            "MachineError: No space left on device: /x [while running 'Decode once/ParDo']",
            "No space left on device: /x",
        ),
        ("Error from worker: Traceback\n  ...\npipelines.MachineError: gone: /x\n\nOriginal", "gone: /x"),
        ("ValueError: something else", None),
    ],
)
def test_what_failed_is_found_in_what_a_runner_raises(text, found):
    assert machine_error_in(RuntimeError(text)) == found


def test_half_made_files_of_killed_builds_are_removed_beside_shards_and_tables(films, copy, undisturbed):
    import socket

    process = subprocess.Popen(["true"])
    process.wait()
    for folder in (copy, copy / "tables", copy / "low-016x016", copy / ".work"):
        (folder / f".x.tar~{socket.gethostname()}-{process.pid}-0123456789ab.tmp").write_bytes(b"half")
    (copy / "dataset.json").unlink()
    assert run_here("build", films / "card.yaml", "--out", copy).exit_code == 0
    check_same(copy, undisturbed)


@pytest.mark.slow
def test_a_rerun_tries_again_what_may_pass_and_else_touches_nothing(films, run, tmp_path):
    """A video that could not be had; then one that can, by the same command and without `retry`."""
    with http_server() as server:
        serve_films(server, films)
        answer = server.answers.pop("/plain.mp4")
        items = [{"url": server.url(f"/{name}.mp4"), "id": name} for name in ("cuts", "plain")]
        server.answers["/plain.mp4"] = lambda handler, _: handler.send_error(500)
        limits = {"fetch_attempts": 1, "free_bytes": 0}
        card = write_card(tmp_path / "card.yaml", sources=[{"kind": "urls", "items": items}], limits=limits)
        build = ("build", card, "--allow-private-addresses", "--out", tmp_path / "out")
        run.succeed(*build)
        stamp = (tmp_path / "out" / "dataset.json").stat().st_mtime_ns
        told = run.succeed(*build)
        assert "complete, but for 1 rejects whose cause may pass; those are tried again" in told
        assert (tmp_path / "out" / "dataset.json").stat().st_mtime_ns == stamp
        server.answers["/plain.mp4"] = answer
        run.succeed(*build)
        assert "already complete" in run.succeed(*build)
        run.succeed(*build[:-1], tmp_path / "at-once")
    check_same(tmp_path / "out", tmp_path / "at-once")
