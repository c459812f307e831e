"""S3 and Google Cloud Storage, emulated on 127.0.0.1: videos in buckets, and a store in one."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import socket
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import fsspec
import pytest

from lvg_data import dataset, lease
from lvg_data.config import LimitsConfig
from lvg_data.errors import DatasetError, Rejected
from lvg_data.fetch import Desk, at_hand, download_list, fetch, objects, polite
from lvg_data.fetch.polite import Again
from lvg_data.fetch.way import Want
from lvg_data.records import Address, Source
from lvg_data.store import Key, Store, exists, localized, publish, read_bytes, write_atomic
from tests.servers import BODY

SHA256 = hashlib.sha256(BODY).hexdigest()
LIMITS = LimitsConfig(fetch_attempts=2, fetch_wall_s=30, requests_per_s=1e6, free_bytes=0)
KEY = Key("halve", 1, {"factor": 2}, ("input-a",))


@dataclass(frozen=True)
class Bucket:
    """An empty bucket; `fs` is as code under test gets it."""

    url: str

    @property
    def fs(self) -> Any:
        return fsspec.url_to_fs(self.url)[0]

    def put(self, name: str, body: bytes = BODY) -> str:
        with fsspec.open(f"{self.url}/{name}", "wb") as file:
            file.write(body)
        return f"{self.url}/{name}"


@pytest.fixture(scope="module")
def s3_server() -> Iterator[str]:
    from moto.moto_server.threaded_moto_server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(scope="module")
def gcs_server() -> Iterator[str]:
    from gcp_storage_emulator.server import create_server

    server = create_server("127.0.0.1", 0, in_memory=True)
    server.start()
    yield f"http://127.0.0.1:{server._api._httpd.server_port}"
    server.stop()


@pytest.fixture(params=["s3", "gs"])
def bucket(request, monkeypatch) -> Iterator[Bucket]:
    if request.param == "s3":
        monkeypatch.setenv("AWS_ENDPOINT_URL", request.getfixturevalue("s3_server"))
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "t0ken")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3cret")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    else:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", request.getfixturevalue("gcs_server"))
        monkeypatch.setenv(
            "NO_GCE_CHECK", "true"
        )  # google.auth looks for credentials on the network otherwise
    fsspec.get_filesystem_class(request.param).clear_instance_cache()  # instances remember their server
    bucket = Bucket(f"{request.param}://rides-{uuid.uuid4().hex[:8]}")
    bucket.fs.mkdir(bucket.url)
    yield bucket
    fsspec.get_filesystem_class(request.param).clear_instance_cache()


@pytest.fixture
def desk(tmp_path: Path, monkeypatch) -> Desk:
    monkeypatch.setattr(polite, "pause", lambda seconds, stop: None)
    return Desk(Store(str(tmp_path / "store")), LIMITS, 360, 61, run=str(tmp_path))


def source(url: str, sha256: str | None = None) -> Source:
    return Source("v", url, Address(url, sha256), "x", "x")


def rejected(url: str, desk: Desk) -> Rejected:
    with pytest.raises(Rejected) as caught:
        fetch(source(url), desk)
    return caught.value


# ---- videos in buckets


def test_a_video_in_a_bucket_is_fetched_once(bucket, desk):
    url = bucket.put("rides/a.mp4")

    first = fetch(source(url, SHA256), desk)
    bucket.fs.rm(url)

    assert fetch(source(url, SHA256), desk) == first
    assert (first.sha256, first.size_bytes, first.downloaded_format) == (SHA256, len(BODY), "{}")
    with at_hand(first, desk) as path:
        assert path.read_bytes() == BODY


def test_names_of_objects_may_hold_what_ends_an_address(bucket, desk):
    url = bucket.put("rides/a b%20c.mp4")

    assert fetch(source(url), desk).sha256 == SHA256


@pytest.mark.parametrize(
    ("name", "words"),
    [("missing.mp4", "no such object"), ("rides", "no object, but the beginning of others' names")],
)
def test_a_missing_object_is_not_found(name, words, bucket, desk):
    bucket.put("rides/a.mp4")

    err = rejected(f"{bucket.url}/{name}", desk)

    assert (err.cause, err.retryable, err.attempts) == ("not_found", False, 1)
    assert err.message == f"{bucket.url}/{name}: {words}"


def test_a_missing_bucket_is_not_found(bucket, desk):
    assert rejected(f"{bucket.url}-missing/a.mp4", desk).cause == "not_found"


def test_an_object_is_held_to_its_limits(bucket, desk):
    url = bucket.put("a.mp4")
    small = Desk(desk.store, LIMITS.model_copy(update={"file_bytes": 5000}), 360, 61)

    err = rejected(url, small)
    assert (err.cause, err.value, err.threshold) == ("too_large", len(BODY), 5000)
    with pytest.raises(Rejected, match="hash_mismatch"):
        fetch(source(url, "0" * 64), desk)
    assert rejected(bucket.put("empty.mp4", b""), desk).cause == "not_video"


def test_an_object_that_made_room_is_fetched_again(bucket, desk):
    first = fetch(source(bucket.put("a.mp4")), desk)
    desk.store.evict(str(Path(first.address).parent))

    with at_hand(first, desk) as path:
        assert path.read_bytes() == BODY


def test_a_list_in_a_bucket_is_fetched_and_kept(bucket, desk):
    url = bucket.put("list.csv", b"a,b\n")

    with download_list(url, "the list", desk) as path:
        assert path.read_bytes() == b"a,b\n"
    bucket.fs.rm(url)
    with download_list(url, "the list", desk) as path:
        assert path.read_bytes() == b"a,b\n"


@pytest.mark.parametrize(
    ("err", "cause", "attempts"),
    [
        (PermissionError("Access Denied"), "forbidden", 1),
        (OSError("Forbidden: https://storage.example/b/o/secret-object"), "forbidden", 1),
        (ConnectionResetError("reset by https://user:s3cret@storage.example"), "network", 2),
        (TimeoutError(), "network", 2),
        (FileNotFoundError("x"), "not_found", 1),
    ],
)
def test_what_a_store_says_has_a_cause(err, cause, attempts, desk, monkeypatch):
    def fail(*_):
        raise err

    monkeypatch.setattr(objects, "_copy", fail)

    found = rejected("memory://bucket/a.mp4", desk)
    assert (found.cause, found.attempts) == (cause, attempts)
    assert "s3cret" not in found.message and "secret-object" not in found.message


def test_a_fault_that_is_not_the_videos_stops_the_run(desk, monkeypatch):
    def fail(*_):
        raise LookupError("Unable to locate credentials")

    monkeypatch.setattr(objects, "_copy", fail)
    with pytest.raises(LookupError, match="credentials"):
        fetch(source("memory://bucket/a.mp4"), desk)


def test_keys_of_a_store_that_are_refused_are_forbidden(s3_server, bucket, desk, monkeypatch):
    if not bucket.url.startswith("s3"):
        pytest.skip("the emulator of Google's storage refuses nobody")
    import requests

    url = bucket.put("a.mp4")
    # moto checks keys once so many requests were made; zero turns that on
    requests.post(f"{s3_server}/moto-api/reset-auth", data="0", timeout=10)
    try:
        bucket.fs.invalidate_cache()
        assert rejected(url, desk).cause == "forbidden"
    finally:
        requests.post(f"{s3_server}/moto-api/reset-auth", data="1000000", timeout=10)


def test_a_scheme_that_fsspec_does_not_know_is_unsupported(desk):
    err = rejected("nonsense://bucket/a.mp4", desk)

    assert (err.cause, err.retryable) == ("unsupported_site", False)
    assert err.message == "nonsense://bucket/a.mp4: fsspec knows no nonsense://"


# ---- a store in a bucket


def writes(content: bytes, calls: list[int]):
    def make(folder: Path) -> dict[str, int]:
        calls.append(1)
        (folder / "half").write_bytes(content)
        return {"size": len(content)}

    return make


def test_an_artefact_in_a_bucket_is_made_once(bucket):
    store, calls = Store(f"{bucket.url}/work"), []

    first = store.get_or_make(KEY, writes(b"ab", calls))
    second = Store(store.root).get_or_make(KEY, writes(b"ab", calls))

    assert (first, len(calls)) == (second, 1)
    assert first.result == {"size": 2}
    with second.local("half") as path:
        assert path.read_bytes() == b"ab"
    assert not path.exists(), "a copy for the `with` only"


def test_an_artefact_in_a_bucket_that_lost_a_file_is_made_again(bucket):
    store, calls = Store(f"{bucket.url}/work"), []
    made = store.get_or_make(KEY, writes(b"ab", calls))

    bucket.fs.rm(f"{made.address}/half")

    assert Store(store.root).get_or_make(KEY, writes(b"ab", calls)) == made
    assert len(calls) == 2
    assert read_bytes(f"{made.address}/half") == b"ab"


def test_a_reject_is_remembered_in_a_bucket(bucket):
    store = Store(f"{bucket.url}/work")

    def reject(_: Path) -> None:
        raise Rejected("not_video", "no video", 3, 12)

    for _ in range(2):
        with pytest.raises(Rejected, match="not_video: no video"):
            store.get_or_make(KEY, reject)
        reject = None
    assert store.forget_rejects({"not_video"}) == 1
    assert store.get(KEY) is None


def test_files_are_published_from_and_to_a_bucket(bucket, tmp_path):
    (tmp_path / "here").write_bytes(BODY)

    publish(str(tmp_path / "here"), f"{bucket.url}/out/one")
    publish(f"{bucket.url}/out/one", f"{bucket.url}/out/two")
    publish(f"{bucket.url}/out/two", str(tmp_path / "back"))

    assert (tmp_path / "back").read_bytes() == BODY
    with localized(f"{bucket.url}/out/two") as path:
        assert path.read_bytes() == BODY


def test_a_file_is_written_to_a_bucket_and_seen(bucket):
    assert not exists(f"{bucket.url}/out/table")

    write_atomic(f"{bucket.url}/out/table", b"one")
    assert exists(f"{bucket.url}/out/table")
    write_atomic(f"{bucket.url}/out/table", b"another")

    assert read_bytes(f"{bucket.url}/out/table") == b"another"


def test_fetched_files_may_lie_in_a_bucket(bucket, desk):
    url = bucket.put("rides/a.mp4")
    remote = Desk(Store(f"{bucket.url}/work"), LIMITS, 360, 61, run=desk.run)

    fetched = fetch(source(url), remote)

    assert fetched.address.startswith(f"{bucket.url}/work/fetch_object/")
    assert fetch(source(url), remote) == fetched
    with at_hand(fetched, remote) as path:
        assert path.read_bytes() == BODY


@pytest.mark.parametrize(
    ("name", "cause", "passes"),
    [
        ("botocore.exceptions.EndpointConnectionError", "network", True),
        ("botocore.exceptions.ReadTimeoutError", "network", True),
        ("aiohttp.ServerDisconnectedError", "network", True),
        ("botocore.exceptions.NoCredentialsError", "login_required", False),
    ],
)
def test_what_a_client_of_a_store_raises_has_a_cause(name, cause, passes):
    module, _, kind = name.rpartition(".")
    error = getattr(pytest.importorskip(module), kind)
    err = (
        error()
        if kind in ("ServerDisconnectedError", "NoCredentialsError")
        else error(endpoint_url="x", error="y")
    )

    found = objects._meaning(Want("a", "s3://a/b", None), err)

    assert isinstance(found, Again) == passes
    assert (found.reject if passes else found).cause == cause


# ---- one build at a time


@pytest.fixture
def quick(monkeypatch) -> None:
    """Leases that are renewed ten times a second."""
    monkeypatch.setattr(lease, "_SETTLE_S", 0.1)
    monkeypatch.setattr(lease, "_RENEW_S", 0.1)


def lock_of(url: str) -> dict[str, Any]:
    return json.loads(read_bytes(f"{url}/.lock"))


def put_lock(url: str, **changes: Any) -> None:
    holder = lease.Holder("20240601-other", "node-7", 4711, "t0ken", time.time() - 90, time.time() - 7)
    write_atomic(f"{url}/.lock", json.dumps(asdict(holder) | changes).encode())


def test_a_second_build_into_a_bucket_is_refused_by_name(bucket, quick):
    out = f"{bucket.url}/set"
    with dataset.hold(out, "first"):
        held = lock_of(out)
        assert (held["run"], held["host"], held["pid"]) == ("first", socket.gethostname(), os.getpid())
        with (
            pytest.raises(
                DatasetError, match=rf"another build is writing to {out}: run first, process {os.getpid()} "
            ),
            dataset.hold(out, "second"),
        ):
            pass
        dataset.check_held(out, "first")
    assert not exists(f"{out}/.lock")
    with dataset.hold(out, "second"):
        dataset.check_held(out, "second")


def test_of_builds_that_begin_at_the_same_moment_one_goes_on(bucket, quick):
    """Google's emulator writes over what is there; then the last one to write has it."""
    out, ends = f"{bucket.url}/set", Counter[str]()
    start, done = threading.Barrier(4), threading.Barrier(4)

    def build(run: str) -> None:
        start.wait()
        try:
            with dataset.hold(out, run):
                ends["held"] += 1
                done.wait()
                dataset.check_held(out, run)
        except DatasetError as err:
            assert f"another build is writing to {out}: run " in str(err)
            ends["refused"] += 1
            done.wait()

    threads = [threading.Thread(target=build, args=(f"run-{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert ends == {"held": 1, "refused": 3}


def test_a_lease_is_renewed_for_as_long_as_it_is_held(bucket, quick):
    out = f"{bucket.url}/set"
    with dataset.hold(out, "run"):
        first = lock_of(out)
        time.sleep(0.5)
        later = lock_of(out)
    assert later["renewed"] > first["renewed"]
    assert {**later, "renewed": 0} == {**first, "renewed": 0}


@pytest.mark.parametrize(
    ("changes", "goes_on"),
    [
        ({}, False),
        ({"renewed": 1.7e9}, True),
        ({"host": socket.gethostname(), "pid": 2**22 + 1}, True),
        ({"host": socket.gethostname(), "pid": os.getpid()}, False),
        ({"renewed": "long ago"}, True),
        ({"of a later version": 1}, False),
    ],
)
def test_what_a_killed_build_left_is_taken_over_and_what_lives_is_not(changes, goes_on, bucket, quick):
    out = f"{bucket.url}/set"
    put_lock(out, **changes)
    if goes_on:
        with dataset.hold(out, "run"):
            assert lock_of(out)["run"] == "run"
        return
    text = r"run 20240601-other, process \d+ on .*, heard of [789] s ago; wait for it.* goes on 180 s after"
    with pytest.raises(DatasetError, match=text), dataset.hold(out, "run"):
        pass
    assert lock_of(out)["token"] == "t0ken"


def test_a_build_whose_lease_was_taken_stops_and_leaves_it(bucket, quick):
    out = f"{bucket.url}/set"
    with dataset.hold(out, "run"):
        put_lock(out)
        with pytest.raises(DatasetError, match=r"run 20240601-other, .*; this one lost its lease and stops"):
            dataset.check_held(out, "run")
        time.sleep(0.3)
        assert lock_of(out)["token"] == "t0ken", "it is not renewed"
    assert lock_of(out)["token"] == "t0ken"


def test_a_build_whose_bucket_was_emptied_stops(bucket, quick):
    with dataset.hold(f"{bucket.url}/set", "run"):
        bucket.fs.rm(f"{bucket.url}/set", recursive=True)
        with pytest.raises(
            DatasetError, match="removed while it was being built; run the same command again"
        ):
            dataset.check_held(f"{bucket.url}/set", "run")


class _Plain:
    """A store that knows no writing that leaves what is there."""

    def __init__(self, fs: Any) -> None:
        self._fs = fs

    def pipe_file(self, path: str, data: bytes) -> None:
        self._fs.pipe_file(path, data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._fs, name)


def test_a_store_that_only_writes_over_has_leases_too(quick, monkeypatch):
    plain = _Plain(fsspec.filesystem("memory"))
    monkeypatch.setattr(fsspec, "url_to_fs", lambda url: (plain, url.removeprefix("memory:/")))
    with dataset.hold("memory://leases/set", "first"):
        with (
            pytest.raises(DatasetError, match="another build is writing"),
            dataset.hold("memory://leases/set", "x"),
        ):
            pass
        dataset.check_held("memory://leases/set", "first")
    assert not exists("memory://leases/set/.lock")
