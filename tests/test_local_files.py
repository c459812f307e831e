"""Files and folders on this machine: a row is to blame for its path, and for nothing else."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from lvg_data import pictures, prepared
from lvg_data.config import LimitsConfig
from lvg_data.errors import Rejected
from lvg_data.fetch import Desk, local
from lvg_data.fetch.way import Want
from lvg_data.local_files import blaming_the_path
from lvg_data.prepared import ArchiveError
from lvg_data.records import RenderedFrames
from lvg_data.store import Store
from tests.test_prepared import frames, write_zip


@contextlib.contextmanager
def no_file_can_be_opened() -> Iterator[None]:
    """As in a process that has all the files open that it may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def in_time(work: Callable[[], object]) -> object:
    """What `work` returns or raises; an error where it does not end."""
    answers: list[object] = []

    def run() -> None:
        try:
            answers.append(work())
        except Exception as err:  # noqa: BLE001 - for the test to look at
            answers.append(err)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(5)
    assert answers, "still reading after 5 s"
    return answers[0]


def rejected(work: Callable[[], object]) -> Rejected:
    answer = in_time(work)
    assert isinstance(answer, Rejected), answer
    return answer


def pipe(path: Path) -> Path:
    os.mkfifo(path)
    return path


def device(path: Path) -> Path:
    """A link to what is readable without end."""
    path.symlink_to("/dev/zero")
    return path


def folder(path: Path) -> Path:
    path.mkdir()
    return path


def dangling(path: Path) -> Path:
    path.symlink_to(path.with_name("nothing"))
    return path


def circle(path: Path) -> Path:
    path.symlink_to(path)
    return path


ODD = [pipe, device, folder, dangling]


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(Store(str(tmp_path / "store")), LimitsConfig(), 360, 61)


def jpeg_folder(path: Path, *numbers: int) -> Path:
    path.mkdir()
    for number in numbers:
        Image.new("RGB", (32, 16), (number, 0, 0)).save(path / f"frame_{number:04d}.jpg")
    return path


def archive_of(path: Path) -> RenderedFrames:
    return RenderedFrames(str(path), "v/a", "low", "25")


# ---- whose fault it is


@pytest.mark.parametrize("code", ["ENOENT", "ENOTDIR", "EISDIR", "ELOOP", "ENAMETOOLONG"])
def test_a_path_that_leads_nowhere_is_not_found(code):
    with pytest.raises(Rejected, match=r"not_found: a\.mp4: ") as caught, blaming_the_path("a.mp4"):
        raise OSError(getattr(errno, code), "as the system says")
    assert not caught.value.retryable


@pytest.mark.parametrize("code", ["EMFILE", "ENFILE", "EIO", "ESTALE", "ENOMEM", "ETIMEDOUT", "ENOSPC"])
def test_no_fault_of_the_machine_is_a_reject(code):
    with pytest.raises(OSError, match="as the system says"), blaming_the_path("a.mp4"):
        raise OSError(getattr(errno, code), "as the system says")


def test_too_many_open_files_reject_nothing(tmp_path, desk):
    (tmp_path / "a.mp4").write_bytes(b"x")
    shots = jpeg_folder(tmp_path / "shots", 1)
    archive = archive_of(write_zip(tmp_path / "a.zip", {"v/a": frames(1, (16, 32))}))
    for work in (
        lambda: local.find(Want("a.mp4", str(tmp_path / "a.mp4")), desk),
        lambda: pictures.list_pictures(str(shots)),
        lambda: prepared.find_frames([archive]),
    ):
        with no_file_can_be_opened(), pytest.raises(OSError) as caught:
            work()
        assert caught.value.errno == errno.EMFILE
        work()


def test_long_names_and_circles_of_links_are_faults_of_the_row(tmp_path, desk):
    long, around = tmp_path / ("x" * 300), circle(tmp_path / "a.mp4")
    (tmp_path / "file").write_bytes(b"")
    for path in (long, around, tmp_path / "file" / "a.mp4", tmp_path / "nothing"):
        for work in (
            lambda path=path: local.find(Want("a.mp4", str(path)), desk),
            lambda path=path: pictures.list_pictures(str(path)),
            lambda path=path: prepared.find_frames([archive_of(path)]),
            lambda path=path: prepared.fingerprint([archive_of(path)]),
        ):
            assert rejected(work).cause == "not_found"


# ---- what is no file


@pytest.mark.parametrize("make", ODD)
def test_a_video_is_a_file(make, tmp_path, desk):
    path = make(tmp_path / "a.mp4")

    assert rejected(lambda: local.find(Want("a.mp4", str(path)), desk)).cause == "not_found"


def test_a_link_to_a_video_is_one(tmp_path, desk):
    (tmp_path / "b.mp4").write_bytes(b"x")
    (tmp_path / "a.mp4").symlink_to("b.mp4")

    assert local.find(Want("a.mp4", str(tmp_path / "a.mp4")), desk)[2] == 1


@pytest.mark.parametrize("make", ODD)
def test_of_a_folder_only_files_are_frames(make, tmp_path):
    whole, spoiled = jpeg_folder(tmp_path / "whole", 1, 3), jpeg_folder(tmp_path / "spoiled", 1, 3)
    make(spoiled / "frame_0002.jpg")
    (spoiled / "frame_0003.jpg").rename(tmp_path / "elsewhere.jpg")
    (spoiled / "frame_0003.jpg").symlink_to(tmp_path / "elsewhere.jpg")

    assert pictures.list_pictures(str(spoiled)) == [(1, "frame_0001.jpg"), (3, "frame_0003.jpg")]
    assert in_time(lambda: pictures.content_hash(str(spoiled))) == pictures.content_hash(str(whole))
    assert len(pictures.fingerprint(str(spoiled))) == 2


@pytest.mark.parametrize("make", [pipe, device, folder])
def test_an_archive_is_a_file(make, tmp_path):
    path = make(tmp_path / "partition_0000.zip")

    assert isinstance(in_time(lambda: prepared.open_archive(str(path))), ArchiveError)
    assert rejected(lambda: prepared.content_hash([archive_of(path)])).cause == "not_video"
    assert rejected(lambda: prepared.fingerprint([archive_of(path)])).cause == "not_found"


# ---- archives whose directory leads out of them


def spoiled_directory(path: Path, offset: int) -> Path:
    """A partition whose directory says, in a ZIP64 field, that its one frame begins at `offset`."""
    good = write_zip(path, {"v/a": frames(1, (16, 32))}).read_bytes()
    entry, end = good.index(b"PK\x01\x02"), good.rindex(b"PK\x05\x06")
    name_end = entry + 46 + int.from_bytes(good[entry + 28 : entry + 30], "little")
    field = b"\x01\x00\x08\x00" + offset.to_bytes(8, "little")
    head = good[:entry] + good[entry : entry + 30] + len(field).to_bytes(2, "little")
    head += good[entry + 32 : entry + 42] + b"\xff" * 4 + good[entry + 46 : name_end] + field
    size = int.from_bytes(good[end + 12 : end + 16], "little") + len(field)
    path.write_bytes(head + good[name_end : end + 12] + size.to_bytes(4, "little") + good[end + 16 :])
    return path


@pytest.mark.parametrize("offset", [2**62, 2**63 - 1, 2**63, 2**64 - 1])
def test_a_frame_behind_the_end_of_all_files_is_cut_off(offset, tmp_path):
    path = spoiled_directory(tmp_path / "a.zip", offset)

    assert rejected(lambda: prepared.find_frames([archive_of(path)])).cause == "cut_off"


def test_a_directory_in_front_of_the_file_is_no_zip(tmp_path):
    path = write_zip(tmp_path / "a.zip", {"v/a": frames(1, (16, 32))})
    data = bytearray(path.read_bytes())
    end = data.rindex(b"PK\x05\x06")
    data[end + 12 : end + 16] = (len(data) * 2).to_bytes(4, "little")  # the size of the directory
    path.write_bytes(data)

    assert rejected(lambda: prepared.find_frames([archive_of(path)])).cause == "not_video"
