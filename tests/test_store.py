"""The store: an artefact is there whole or not at all, made once, whoever asks for it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import fsspec
import pytest

from lvg_data import store
from lvg_data.errors import Rejected
from lvg_data.store import Artefact, Key, Store, localized, publish, read_bytes, same_file, write_atomic

KEY = Key("halve", 1, {"factor": 2}, ("input-a",), ("numpy 2",))


@pytest.fixture(params=["local", "memory"])
def place(request, tmp_path: Path):
    """A local folder, or a prefix of an object store."""
    if request.param == "local":
        yield str(tmp_path / "store")
        return
    url = f"memory://{uuid.uuid4().hex}"
    yield url
    fs, path = fsspec.url_to_fs(url)
    if fs.exists(path):
        fs.rm(path, recursive=True)


def writes(content: bytes, calls: list[int] | None = None):
    """A `make` that writes one file and returns its size."""

    def make(folder: Path) -> dict[str, int]:
        if calls is not None:
            calls.append(1)
        (folder / "data.bin").write_bytes(content)
        return {"size": len(content)}

    return make


def content_of(artefact: Artefact) -> bytes:
    with artefact.local("data.bin") as path:
        return path.read_bytes()


def files_below(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


# ---- get_or_make


def test_an_artefact_is_made_once(place):
    calls: list[int] = []

    first = Store(place).get_or_make(KEY, writes(b"abc", calls))
    second = Store(place).get_or_make(KEY, writes(b"never", calls))

    assert len(calls) == 1
    assert first == second
    assert second.result == {"size": 3}
    assert content_of(second) == b"abc"


def test_what_was_not_made_is_not_there(place):
    assert Store(place).get(KEY) is None


@pytest.mark.parametrize(
    "other",
    [
        replace(KEY, transform="double"),
        replace(KEY, version=2),
        replace(KEY, config={"factor": 3}),
        replace(KEY, inputs=("input-b",)),
        replace(KEY, libraries=("numpy 3",)),
    ],
)
def test_every_part_of_a_key_asks_for_another_artefact(other, tmp_path):
    kept = Store(str(tmp_path))
    kept.get_or_make(KEY, writes(b"abc"))

    assert kept.get(other) is None
    assert kept.get(replace(KEY, config=dict(KEY.config))) is not None


def test_a_make_that_fails_leaves_nothing(place, tmp_path):
    kept = Store(place)

    def make(folder: Path) -> None:
        (folder / "half.bin").write_bytes(b"half")
        raise RuntimeError("disk on fire")

    with pytest.raises(RuntimeError, match="disk on fire"):
        kept.get_or_make(KEY, make)

    assert kept.get(KEY) is None
    assert not files_below(tmp_path)
    assert kept.get_or_make(KEY, writes(b"abc")).result == {"size": 3}


def test_a_result_that_is_no_plain_value_leaves_nothing(place, tmp_path):
    with pytest.raises(TypeError, match="no canonical form"):
        Store(place).get_or_make(KEY, lambda _: object())

    assert Store(place).get(KEY) is None
    assert not files_below(tmp_path)


def test_a_folder_without_its_last_file_is_not_an_artefact(tmp_path):
    kept = Store(str(tmp_path))
    half = Path(kept.address(KEY))
    half.mkdir(parents=True)
    (half / "data.bin").write_bytes(b"ha")
    (half / "other.bin").write_bytes(b"leftover")

    assert kept.get(KEY) is None
    made = kept.get_or_make(KEY, writes(b"abc"))

    assert content_of(made) == b"abc"
    assert files_below(half) == ["data.bin", "meta.json"]


def test_nothing_temporary_stays_behind(tmp_path):
    kept = Store(str(tmp_path))
    kept.get_or_make(KEY, writes(b"abc"))

    assert files_below(tmp_path) == [f"{KEY.path}/data.bin", f"{KEY.path}/meta.json"]
    assert not list((tmp_path / "tmp").iterdir())


def test_the_same_artefact_is_the_same_bytes_in_every_store(tmp_path):
    metas = []
    for name in ("one", "two"):
        artefact = Store(str(tmp_path / name)).get_or_make(KEY, writes(b"abc"))
        metas.append(read_bytes(f"{artefact.address}/meta.json"))

    assert metas[0] == metas[1]
    assert json.loads(metas[0])["key"]["transform"] == "halve"


# ---- rejects


def test_a_reject_that_is_final_is_remembered(place):
    calls: list[int] = []

    def make(folder: Path) -> None:
        calls.append(1)
        (folder / "half.bin").write_bytes(b"half")
        raise Rejected("too_short", "5 frames of 12", 5, 12)

    for _ in range(3):
        with pytest.raises(Rejected) as caught:
            Store(place).get_or_make(KEY, make)
        err = caught.value
        assert (err.cause, err.message, err.value, err.threshold) == ("too_short", "5 frames of 12", 5, 12)
    assert len(calls) == 1
    with pytest.raises(Rejected, match="too_short: 5 frames of 12"):
        Store(place).get(KEY)


def test_the_half_made_files_of_a_reject_are_not_kept(tmp_path):
    def make(folder: Path) -> None:
        (folder / "half.bin").write_bytes(b"half")
        raise Rejected("not_video", "x")

    with pytest.raises(Rejected):
        Store(str(tmp_path)).get_or_make(KEY, make)

    assert files_below(tmp_path) == [f"{KEY.path}/meta.json"]


def test_a_reject_that_may_pass_is_tried_again(place):
    def fails(folder: Path) -> None:
        raise Rejected("network", "cut off")

    with pytest.raises(Rejected, match="network: cut off"):
        Store(place).get_or_make(KEY, fails)

    assert Store(place).get(KEY) is None
    assert Store(place).get_or_make(KEY, writes(b"abc")).result == {"size": 3}


# ---- many at once


def test_threads_that_make_the_same_artefact_end_with_one(place):
    barrier = threading.Barrier(8, timeout=20)

    def make(folder: Path) -> dict[str, int]:
        barrier.wait()  # all are inside `make` before one may finish
        return writes(b"abc" * 1000)(folder)

    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: Store(place).get_or_make(KEY, make), range(8)))

    assert {artefact.address for artefact in made} == {made[0].address}
    assert content_of(made[0]) == b"abc" * 1000
    fs, root = fsspec.url_to_fs(place)
    assert sorted(p.rsplit("/", 1)[1] for p in fs.find(root)) == ["data.bin", "meta.json"]


_PROCESS = """
import sys, time
from pathlib import Path
from lvg_data.store import Key, Store
root, number, meeting = sys.argv[1], sys.argv[2], Path(sys.argv[3])
def make(folder):
    (meeting / number).touch()
    while len(list(meeting.iterdir())) < 3: time.sleep(0.005)   # all are inside make
    (folder / "data.bin").write_bytes(b"abc")
    return {"size": 3}
print(Store(root).get_or_make(Key("halve", 1, {"factor": 2}, ("input-a",), ("numpy 2",)), make).result)
"""


def test_processes_that_make_the_same_artefact_end_with_one(tmp_path):
    root, meeting = tmp_path / "store", tmp_path / "meeting"
    meeting.mkdir()
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", _PROCESS, str(root), str(number), str(meeting)],
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(3)
    ]
    answers = [process.communicate(timeout=60)[0] for process in processes]

    assert answers == ["{'size': 3}\n"] * 3
    assert files_below(root) == [f"{KEY.path}/data.bin", f"{KEY.path}/meta.json"]


# ---- files


def test_a_remote_file_is_local_only_for_the_while():
    url = f"memory://{uuid.uuid4().hex}/a.bin"
    write_atomic(url, b"abc")

    with localized(url) as path:
        assert path.read_bytes() == b"abc"
    assert not path.exists()


def test_a_local_file_is_used_in_place(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"abc")

    with localized(str(path)) as same, localized(f"file://{path}") as also:
        assert same == also == path
    assert path.exists()


def test_write_atomic_replaces_a_file_and_leaves_nothing_else(place, tmp_path):
    write_atomic(f"{place}/deep/a.json", b"old")
    write_atomic(f"{place}/deep/a.json", b"new")

    assert read_bytes(f"{place}/deep/a.json") == b"new"
    assert store.exists(f"{place}/deep/a.json")
    assert len(files_below(tmp_path)) <= 1


def test_a_write_that_fails_leaves_the_old_file_whole(tmp_path, monkeypatch):
    target = tmp_path / "a.json"
    write_atomic(str(target), b"old")

    def fail(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="no space left"):
        write_atomic(str(target), b"new")

    assert files_below(tmp_path) == ["a.json"]
    assert target.read_bytes() == b"old"


def test_publishing_shares_the_bytes_on_disk(tmp_path):
    source, target = tmp_path / "store" / "x.tar", tmp_path / "out" / "low" / "train-00000.tar"
    write_atomic(str(source), b"abc")
    write_atomic(str(target), b"older")

    publish(str(source), str(target))

    assert target.samefile(source)
    assert same_file(str(source), str(target))
    assert files_below(tmp_path) == ["out/low/train-00000.tar", "store/x.tar"]


def test_publishing_copies_where_the_disk_cannot_link(tmp_path, monkeypatch):
    source, target = tmp_path / "x.tar", tmp_path / "out" / "x.tar"
    source.write_bytes(b"abc")

    def fail(*_: object) -> None:
        raise OSError("cross-device link")

    monkeypatch.setattr(os, "link", fail)
    publish(str(source), str(target))

    assert target.read_bytes() == b"abc"
    assert not same_file(str(source), str(target))
    assert files_below(tmp_path) == ["out/x.tar", "x.tar"]


@pytest.mark.parametrize("way", ["up", "down", "across"])
def test_publishing_reaches_and_leaves_an_object_store(way, tmp_path):
    remote = f"memory://{uuid.uuid4().hex}"
    source = str(tmp_path / "x.tar") if way == "up" else f"{remote}/in/x.tar"
    target = str(tmp_path / "y.tar") if way == "down" else f"{remote}/out/y.tar"
    write_atomic(source, b"abc")

    publish(source, target)

    assert read_bytes(target) == b"abc"
    assert not same_file(source, target)


# ---- leftovers


def leftover(root: Path, pid: int, host: str = socket.gethostname()) -> Path:
    folder = root / "tmp" / f"{host}-{pid}-0123456789ab"
    folder.mkdir(parents=True)
    (folder / "half.bin").write_bytes(b"half")
    return folder


def dead_pid() -> int:
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def test_leftovers_of_dead_builds_of_this_machine_are_cleared_and_no_others(tmp_path):
    dead, other_host = leftover(tmp_path, dead_pid()), leftover(tmp_path, dead_pid(), "elsewhere")
    like_ours = leftover(tmp_path, os.getpid(), f"{socket.gethostname()}-{dead_pid()}")
    mine, alive = leftover(tmp_path, os.getpid()), leftover(tmp_path, os.getppid())

    Store(str(tmp_path)).clear_leftovers()

    assert not dead.exists()
    assert all(folder.exists() for folder in (mine, alive, other_host, like_ours))


def test_a_process_clears_only_its_own(tmp_path):
    mine, alive = leftover(tmp_path, os.getpid()), leftover(tmp_path, os.getppid())

    Store(str(tmp_path)).clear_own()

    assert not mine.exists()
    assert alive.exists()


def test_clearing_an_empty_or_remote_store_does_nothing(tmp_path):
    for root in (str(tmp_path / "none"), f"memory://{uuid.uuid4().hex}"):
        Store(root).clear_leftovers()
        Store(root).clear_own()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(b"half")])
def test_an_artefact_that_lost_a_file_is_made_again(damage, tmp_path):
    store = Store(str(tmp_path / "store"))
    key = Key("t", 1, None, ("a",))

    def make(folder: Path) -> int:
        (folder / "data").write_bytes(b"the whole")
        return len(list(tmp_path.glob("made*")))

    artefact = store.get_or_make(key, make)
    (tmp_path / "made").touch()
    damage(Path(artefact.address) / "data")
    again = store.get_or_make(key, make)
    assert again.result == 1
    assert (Path(again.address) / "data").read_bytes() == b"the whole"
