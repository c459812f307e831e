"""Source adapters: what a list says becomes rows, and what a list says wrongly is told with file and value."""

from __future__ import annotations

import datetime
import hashlib
import http.server
import io
import json
import re
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lvg_data import ids
from lvg_data.config import Card
from lvg_data.errors import CardError
from lvg_data.poses import read_track
from lvg_data.records import Address, FrameFolder, Source
from lvg_data.sources import DUPLICATE_MARK, trajectories
from lvg_data.sources.clip_list import parse_interval
from lvg_data.timeline import Interval
from tests.builds import sources_of


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "card").mkdir()
    return tmp_path / "card"


@pytest.fixture
def rows(folder: Path) -> Callable[..., list[Source]]:
    """The rows of a card with one source of these fields."""

    def list_rows(**source: Any) -> list[Source]:
        return rows_of(folder, source)

    return list_rows


@pytest.fixture
def problem(folder: Path) -> Callable[..., str]:
    """The text of the error that a source of these fields gives."""

    def text_of(**source: Any) -> str:
        with pytest.raises(CardError) as caught:
            rows_of(folder, source)
        return str(caught.value)

    return text_of


def rows_of(folder: Path, *sources: dict[str, Any]) -> list[Source]:
    card = {"name": "test", "licence": "CC-BY-4.0", "attribution": "someone", "sources": sources}
    return sources_of(Card.model_validate(card), folder)


def seconds(start: float, stop: float, end_inclusive: bool = False) -> Interval:
    return Interval(Fraction(start), Fraction(stop), end_inclusive)


def write(path: Path, content: str | bytes = b"x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


# ---- what holds for every list ----------------------------------------------------------------------

CLIPS = '{"-81JM4vXvx0": ["0:05 1:10", "1:02:03 1:02:04"], "abcdefghijk": ["10:00 10:01"]}'
CLIPS_SHA256 = hashlib.sha256(CLIPS.encode()).hexdigest()


def test_licence_and_attribution_travel_with_each_row(folder, rows):
    write(folder / "clips.json", CLIPS)

    assert {(r.licence, r.attribution) for r in rows(kind="clip_list", list="clips.json")} == {
        ("CC-BY-4.0", "someone")
    }


def test_a_list_that_holds_what_its_card_expects_is_read(folder, rows):
    write(folder / "clips.json", CLIPS)

    expect = {"videos": 2, "intervals": 3}
    assert len(rows(kind="clip_list", list="clips.json", sha256=CLIPS_SHA256, expect=expect)) == 2


def test_a_list_with_another_hash_is_refused_with_both(folder, problem):
    write(folder / "clips.json", CLIPS)

    text = problem(kind="clip_list", list="clips.json", sha256="0" * 64)
    assert text == (f"test: the list clips.json has sha256 {CLIPS_SHA256}; the card expects {'0' * 64}")


@pytest.mark.parametrize(
    ("expect", "expected"),
    [
        ({"videos": 3}, "test: the list clips.json holds 2 videos; the card expects 3"),
        ({"videos": 2, "intervals": 4}, "test: the list clips.json holds 3 intervals; the card expects 4"),
    ],
)
def test_a_list_with_other_counts_is_refused_with_both(folder, problem, expect, expected):
    write(folder / "clips.json", CLIPS)

    assert problem(kind="clip_list", list="clips.json", expect=expect) == expected


def test_a_list_that_is_not_there_is_named(folder, problem):
    text = problem(kind="clip_list", list="no/clips.json")

    assert text == f"test: the list no/clips.json is no file (searched from {folder})"


@pytest.fixture
def served(folder: Path) -> Iterator[str]:
    """Address of a server that gives the files of `folder`."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args, directory=str(folder))

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def test_a_list_is_downloaded_and_its_hash_checked(folder, rows, problem, served):
    write(folder / "clips.json", CLIPS)
    url = f"{served}/clips.json?key=s3cret"

    assert len(rows(kind="clip_list", list=url, sha256=CLIPS_SHA256)) == 2
    text = problem(kind="clip_list", list=url, sha256="0" * 64)
    assert CLIPS_SHA256 in text and "0" * 64 in text and "http://127.0.0.1/clips.json" in text
    assert "s3cret" not in text


def test_a_list_that_cannot_be_downloaded_says_why(problem, served):
    text = problem(kind="clip_list", list=f"{served}/clips.json")

    assert text.startswith("test: the list http://127.0.0.1/clips.json cannot be had: not_found: ")


@pytest.mark.parametrize(
    ("url", "shown"),
    [("https://example.org/a\x07.mp4", r"a\x07.mp4"), ("https://example.org/\u2028", r"\u2028")],
)
def test_control_characters_are_refused_in_origins(problem, url, shown):
    text = problem(kind="urls", items=[{"url": url}])

    assert text.endswith(f"{shown}': control characters are not allowed in a source")


def test_an_id_with_control_characters_is_refused(problem):
    text = problem(kind="urls", items=[{"url": "https://example.org/a", "id": "a\x1fduplicate 2"}])

    assert text == r"'a\x1fduplicate 2': control characters are not allowed in a source"


def test_a_file_name_that_is_no_text_is_refused(folder, problem):
    write(Path(f"{folder}/a\udcff.mp4"))

    assert problem(kind="files", path="*.mp4").endswith("control characters are not allowed in a source")


# ---- clip lists -------------------------------------------------------------------------------------


def test_a_clip_list_gives_each_video_its_intervals_end_inclusive(folder, rows):
    write(folder / "clips.json", CLIPS)

    first, second = rows(kind="clip_list", list="clips.json")

    assert (first.video_id, second.video_id) == ("-81JM4vXvx0", "abcdefghijk")
    assert first.intervals == (seconds(5, 70, True), seconds(3723, 3724, True))
    assert second.intervals == (seconds(600, 601, True),)


def test_an_id_that_begins_with_a_minus_is_only_ever_part_of_an_address(folder, rows):
    write(folder / "clips.json", CLIPS)

    row = rows(kind="clip_list", list="clips.json")[0]

    assert row.media == Address("https://www.youtube.com/watch?v=-81JM4vXvx0")
    assert row.origin == "https://www.youtube.com/watch?v=-81JM4vXvx0"


def test_the_card_says_where_the_videos_of_a_list_are_without_its_secrets_in_the_origin(folder, rows):
    write(folder / "clips.json", '{"a b/c?": ["0:01 0:02"]}')

    (row,) = rows(
        kind="clip_list", list="clips.json", url="https://u:p@example.org:8443/{id}.mp4?key=s3cret&v={id}#x"
    )

    assert row.media == Address("https://u:p@example.org:8443/a%20b%2Fc%3F.mp4?key=s3cret&v=a%20b%2Fc%3F#x")
    assert row.origin == "https://example.org/a%20b%2Fc%3F.mp4?v=a%20b%2Fc%3F"
    assert row.video_id == "a b/c?"


def test_own_copies_are_found_by_id_whatever_their_suffix(folder, rows):
    write(
        folder / "clips.json", '{"-81JM4vXvx0": ["0:01 0:02"], "[a-z]*": ["0:01 0:02"], "b": ["0:01 0:02"]}'
    )
    for name in ("-81JM4vXvx0.mp4", "[a-z]*.webm", "x.mp4", "b.odd"):
        write(folder / "copies" / name)

    found = rows(kind="clip_list", list="clips.json", folder="copies")

    assert [Path(r.media.url).name for r in found] == ["-81JM4vXvx0.mp4", "[a-z]*.webm", "b.odd"]
    assert found[0].media.url == str(folder / "copies" / "-81JM4vXvx0.mp4")


def test_what_yt_dlp_leaves_beside_a_copy_is_not_taken_for_it(folder, rows):
    write(folder / "clips.json", '{"a": ["0:01 0:02"]}')
    for name in ("a.jpg", "a.mkv", "a.description", "a.info.json", "a.mkv.part"):
        write(folder / "copies" / name)

    (row,) = rows(kind="clip_list", list="clips.json", folder="copies")
    assert Path(row.media.url).name == "a.mkv"


def test_two_copies_of_one_video_are_named(folder, problem):
    write(folder / "clips.json", '{"a": ["0:01 0:02"]}')
    write(folder / "copies" / "a.mkv")
    write(folder / "copies" / "a.mp4")

    text = problem(kind="clip_list", list="clips.json", folder="copies")
    assert text == f"{folder}/copies: several files could be the copy of a: a.mkv, a.mp4"


@pytest.mark.parametrize("video_id", ["gone", "../../../etc/passwd", "x" * 200])
def test_a_missing_copy_is_a_row_whose_file_does_not_exist(folder, rows, video_id):
    write(folder / "clips.json", json.dumps({video_id: ["0:01 0:02"]}))
    (folder / "copies").mkdir()

    (row,) = rows(kind="clip_list", list="clips.json", folder="copies")

    path = Path(row.media.url)
    assert path.parent == folder / "copies"
    with pytest.raises(OSError):
        path.read_bytes()


def test_a_folder_of_copies_that_is_not_there_is_named(folder, problem):
    write(folder / "clips.json", CLIPS)

    text = problem(kind="clip_list", list="clips.json", folder="copies")
    assert text.startswith(f"test: the folder of copies {folder}/copies cannot be listed: ")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('{"a": ["0:01 0:02"], "a": ["0:03 0:04"]}', "'a' is there 2 times"),
        ("[1]", "a clip list is an object of ids, got list"),
        ('{"a": ', "no JSON: Expecting value: line 1 column 7"),
        (b"\xff\xfe\xfa", "no JSON: "),
        ('{"": ["0:01 0:02"]}', "'' is no id: empty, or with space around it"),
        ('{" a": ["0:01 0:02"]}', "' a' is no id: empty, or with space around it"),
        (json.dumps({"x" * 201: ["0:01 0:02"]}), f"'{'x' * 20}'... is no id: 201 characters, at most 200"),
        (r'{"a\u0000": ["0:01 0:02"]}', r"'a\x00' is no id: it holds control characters"),
        ('{"a": []}', "'a': its intervals are a list of \"m:ss m:ss\", got []"),
        ('{"a": "0:01 0:02"}', "'a': its intervals are a list of \"m:ss m:ss\", got '0:01 0:02'"),
        ('{"a": ["5 7"]}', "'a': an interval is \"m:ss m:ss\" or \"h:mm:ss h:mm:ss\", got '5 7'"),
        ('{"a": ["0:01"]}', "got '0:01'"),
        ('{"a": [["0:01", "0:02"]]}', "got ['0:01', '0:02']"),
        ('{"a": ["0:60 2:00"]}', "got '0:60 2:00'"),
        ('{"a": ["1:75:00 2:00:00"]}', "got '1:75:00 2:00:00'"),
        ('{"a": ["0:01.5 0:02"]}', "got '0:01.5 0:02'"),
        ('{"a": ["0:02 0:02"]}', "'a': an interval ends after it starts, got '0:02 0:02'"),
    ],
)  # fmt: skip
def test_a_malformed_clip_list_is_told_with_list_id_and_text(folder, problem, content, expected):
    write(folder / "clips.json", content)

    text = problem(kind="clip_list", list="clips.json")
    assert text.startswith("test: the list clips.json: ")
    assert expected in text


def test_the_first_five_malformed_entries_are_told_and_the_rest_counted(folder, problem):
    write(folder / "clips.json", json.dumps({"a": [f"0:0{n}" for n in range(7)]}))

    lines = problem(kind="clip_list", list="clips.json").splitlines()
    assert len(lines) == 6
    assert lines[4].endswith("got '0:04'")
    assert lines[5] == "test: the list clips.json: 2 more malformed entries"


@given(st.integers(0, 40_000), st.integers(1, 20_000), st.booleans())
def test_an_interval_is_read_as_it_is_written(start, length, with_hours):
    def text(second: int) -> str:
        minutes = f"{second // 3600}:{second // 60 % 60:02d}" if with_hours else str(second // 60)
        return f"{minutes}:{second % 60:02d}"

    assert parse_interval(f"{text(start)} {text(start + length)}") == seconds(start, start + length, True)


# ---- camera trajectories ----------------------------------------------------------------------------

VIDEO_A, VIDEO_B = "https://www.youtube.com/watch?v=-aaaaaaaaaa", "https://youtu.be/bbbbbbbbbbb"


def sequence(url: str, *times_us: int, seed: int = 0) -> bytes:
    """A sequence file as ACID has it, with random poses."""
    rng = np.random.default_rng(seed)
    lines = [url]
    for time_us in times_us:
        numbers = [*rng.normal(size=4), 0.0, 0.0, *rng.normal(size=12)]
        lines.append(" ".join([str(time_us), *(f"{number:.9f}" for number in numbers)]))
    return "\n".join([*lines, ""]).encode()


FILES = {
    "acid/train/0001.txt": sequence(VIDEO_A, 5_005_000, 5_038_367, 5_071_733, seed=1),
    "acid/validation/0002.txt": sequence(VIDEO_B, 0, 33_367, seed=2),
    "acid/train/0003.txt": sequence(VIDEO_A, 1_001_000, 1_034_367, seed=3),
}


def pack(path: Path, files: dict[str, bytes], *odd: tarfile.TarInfo) -> Path:
    mode = "w:gz" if path.suffix == ".gz" else "w"
    with tarfile.open(path, mode) as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        for info in odd:
            tar.addfile(info)
    return path


def slow_parse(data: bytes) -> list[list[float]]:
    return [[float(number) for number in line.split()] for line in data.decode().splitlines()[1:]]


def test_the_sequences_of_a_video_are_one_row_with_its_split(folder, rows):
    pack(folder / "acid.tar.gz", FILES)

    a, b = rows(kind="trajectories", list="acid.tar.gz", expect={"videos": 2, "intervals": 3})

    assert (a.video_id, a.split, b.video_id, b.split) == ("-aaaaaaaaaa", "train", "bbbbbbbbbbb", "validation")
    assert a.media == Address("https://www.youtube.com/watch?v=-aaaaaaaaaa")
    assert [t.name for t in a.tracks] == ["acid/train/0003", "acid/train/0001"]  # by time
    assert [t.name for t in b.tracks] == ["acid/validation/0002"]
    assert {t.tolerance_s for t in a.tracks} == {0.02}


def test_an_interval_runs_from_the_first_to_the_last_timestamp_and_a_millisecond_beyond(folder, rows):
    """A frame at 5.0717333 s is listed as 5071733 us, and as 5.072 s by Matroska: both are in it."""
    pack(folder / "acid.tar.gz", FILES)

    a, b = rows(kind="trajectories", list="acid.tar.gz")

    assert a.intervals == (
        Interval(Fraction(1000, 1000), Fraction(1_035_367, 1_000_000), end_inclusive=True),
        Interval(Fraction(5004, 1000), Fraction(5_072_733, 1_000_000), end_inclusive=True),
    )
    assert b.intervals == (Interval(Fraction(0), Fraction(34_367, 1_000_000), end_inclusive=True),)


@pytest.mark.parametrize("name", ["acid.tar.gz", "acid.tar"])
def test_poses_equal_those_of_a_slow_parser(folder, rows, name):
    pack(folder / name, FILES)

    for row in rows(kind="trajectories", list=name):
        for track in row.tracks:
            wanted = np.array(slow_parse(FILES[f"{track.name}.txt"]))
            found = read_track(track)
            np.testing.assert_array_equal(found["time_us"], wanted[:, 0].astype(np.int64))
            np.testing.assert_array_equal(found["intrinsics"], wanted[:, 1:5])
            np.testing.assert_array_equal(found["pose"].reshape(-1, 12), wanted[:, 7:])


def test_a_folder_of_sequences_gives_the_same_as_its_archive(folder, rows):
    pack(folder / "acid.tar.gz", FILES)
    for name, data in FILES.items():
        write(folder / "unpacked" / name, data)

    packed = rows(kind="trajectories", list="acid.tar.gz")
    unpacked = rows(kind="trajectories", list="unpacked")

    assert [(r.video_id, r.split, r.intervals) for r in packed] == [
        (r.video_id, r.split, r.intervals) for r in unpacked
    ]
    for a, b in zip(packed, unpacked, strict=True):
        for one, other in zip(a.tracks, b.tracks, strict=True):
            assert one.name == other.name
            np.testing.assert_array_equal(read_track(one), read_track(other))


def test_an_archive_is_read_once_and_its_table_is_known_by_its_content(folder, rows, monkeypatch):
    pack(folder / "acid.tar.gz", FILES)
    first = rows(kind="trajectories", list="acid.tar.gz")

    monkeypatch.setattr(trajectories, "parse_sequence", None)
    (folder / "acid.tar.gz").rename(folder / "other.tar.gz")
    assert rows(kind="trajectories", list="other.tar.gz") == first


def test_the_order_of_an_archive_does_not_matter_for_its_rows(folder, rows):
    pack(folder / "a.tar.gz", FILES)
    pack(folder / "b.tar.gz", dict(reversed(FILES.items())))

    a, b = (rows(kind="trajectories", list=name) for name in ("a.tar.gz", "b.tar.gz"))

    assert [(r.video_id, r.intervals, [t.name for t in r.tracks]) for r in a] == [
        (r.video_id, r.intervals, [t.name for t in r.tracks]) for r in b
    ]


def test_a_sequence_of_one_pose_is_kept(folder, rows):
    pack(folder / "acid.tar.gz", {"test/0.txt": sequence(VIDEO_A, 500_000)})

    (row,) = rows(kind="trajectories", list="acid.tar.gz")

    assert row.intervals == (Interval(Fraction(499, 1000), Fraction(501, 1000), end_inclusive=True),)
    assert read_track(row.tracks[0])["time_us"].tolist() == [500_000]


def test_lines_out_of_order_are_put_in_order_of_time_and_none_is_lost(folder, rows):
    data = sequence(VIDEO_A, 40_000, 0, 20_000, 20_000)
    pack(folder / "acid.tar.gz", {"test/0.txt": data})

    (row,) = rows(kind="trajectories", list="acid.tar.gz")

    found = read_track(row.tracks[0])
    assert found["time_us"].tolist() == [0, 20_000, 20_000, 40_000]
    lines = slow_parse(data)
    assert found["pose"][:, 0, 0].tolist() == [lines[n][7] for n in (1, 2, 3, 0)]


def test_the_card_says_the_split_where_the_list_says_none_or_another(folder, rows):
    pack(folder / "acid.tar.gz", {"poses/0.txt": sequence(VIDEO_A, 0), "train/1.txt": sequence(VIDEO_B, 0)})

    assert [r.split for r in rows(kind="trajectories", list="acid.tar.gz")] == [None, "train"]
    assert [r.split for r in rows(kind="trajectories", list="acid.tar.gz", split="val")] == ["val", "val"]


def test_a_video_in_two_splits_of_the_list_is_refused_unless_the_card_says_one(folder, rows, problem):
    pack(folder / "acid.tar.gz", {"train/0.txt": sequence(VIDEO_A, 0), "test/1.txt": sequence(VIDEO_A, 9)})

    assert problem(kind="trajectories", list="acid.tar.gz") == (
        "test: the list acid.tar.gz divides 1 videos between splits, e.g. -aaaaaaaaaa between test and train; "
        "give the source one `split`, or correct the list"
    )
    (row,) = rows(kind="trajectories", list="acid.tar.gz", split="train")
    assert len(row.tracks) == 2


def test_own_copies_serve_for_trajectories_too(folder, rows):
    pack(folder / "acid.tar.gz", FILES)
    write(folder / "copies" / "-aaaaaaaaaa.mp4")

    found = rows(kind="trajectories", list="acid.tar.gz", folder="copies", tolerance_s=0.005)

    assert found[0].media == Address(str(folder / "copies" / "-aaaaaaaaaa.mp4"))
    assert found[0].tracks[0].tolerance_s == 0.005


GOOD = sequence(VIDEO_A, 0)
SHORT = GOOD.replace(b" 0.000000000", b"", 1)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (SHORT, "line 2 has 18 columns, not 19"),
        (sequence(VIDEO_A, 0, 1) + b"1 2 3\n", "line 4 has 3 columns, not 19"),
        (VIDEO_A.encode(), "it holds no pose"),
        (b"", "its first line is no address of a YouTube video: ''"),
        (sequence("https://example.org/watch?v=aaaaaaaaaaa", 0), "its first line is no address of a YouTube"),
        (sequence("https://www.youtube.com/watch?v=short", 0), "video: 'https://www.youtube.com/watch?v=short'"),
        (GOOD.replace(b"\n0 ", b"\n0.5 "), "a timestamp is no whole number of microseconds from 0 to "),
        (GOOD.replace(b"\n0 ", b"\n-1 "), "a timestamp is no whole number of microseconds from 0 to "),
        (GOOD.replace(b"\n0 ", b"\n1e20 "), "a timestamp is no whole number of microseconds from 0 to "),
        (GOOD.replace(b" 0.000000000", b" nan", 1), "a number is not finite"),
        (GOOD.replace(b" 0.000000000", b" x", 1), "a column is no number: could not convert string to float"),
    ],
)  # fmt: skip
def test_a_malformed_sequence_is_told_with_its_name(folder, problem, data, expected):
    pack(folder / "acid.tar.gz", {"acid/train/7.txt": data})

    text = problem(kind="trajectories", list="acid.tar.gz")
    assert text.startswith("test: the list acid.tar.gz: 'acid/train/7.txt': ")
    assert expected in text


def test_a_list_that_was_malformed_is_read_again_once_corrected(folder, rows, problem):
    pack(folder / "acid.tar.gz", {"train/7.txt": SHORT})
    problem(kind="trajectories", list="acid.tar.gz")

    pack(folder / "acid.tar.gz", {"train/7.txt": GOOD})
    assert len(rows(kind="trajectories", list="acid.tar.gz")) == 1


def odd_member(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize(
    "odd",
    [
        odd_member("train/link.txt", tarfile.SYMTYPE, "/etc/passwd"),
        odd_member("train/hard.txt", tarfile.LNKTYPE, "train/0.txt"),
        odd_member("/train/absolute.txt", tarfile.REGTYPE),
        odd_member("train/../../up.txt", tarfile.REGTYPE),
        odd_member("train/pipe", tarfile.FIFOTYPE),
    ],
    ids=lambda info: info.name,
)
def test_links_devices_and_names_that_lead_out_of_an_archive_are_refused(folder, problem, odd):
    pack(folder / "acid.tar.gz", {"train/0.txt": GOOD}, odd)

    assert problem(kind="trajectories", list="acid.tar.gz") == (
        "test: the list acid.tar.gz is no whole tar.gz of sequences: "
        f"links, devices or paths that lead out of it: {odd.name}"
    )


def test_other_files_of_an_archive_are_no_sequences(folder, rows):
    pack(folder / "acid.tar.gz", {"README.md": b"poses", "train/0.txt": GOOD, "LICENSE": b""})

    assert len(rows(kind="trajectories", list="acid.tar.gz")) == 1


def test_an_archive_without_a_sequence_says_so(folder, problem):
    pack(folder / "acid.tar.gz", {"README.md": b"poses"})

    text = problem(kind="trajectories", list="acid.tar.gz")
    assert text == "test: the list acid.tar.gz holds no sequence, a text file *.txt"


def test_a_name_that_is_in_the_archive_twice_is_told(folder, problem):
    pack(folder / "acid.tar.gz", {"train/0.txt": GOOD, "./train/0.txt": GOOD})

    text = problem(kind="trajectories", list="acid.tar.gz")
    assert text == "test: the list acid.tar.gz: 'train/0.txt': it is there twice"


@pytest.mark.parametrize(
    "damage",
    [lambda data: data[:-30], lambda data: b"PK" + data[2:], lambda data: data[:60] + b"x" * 30 + data[90:]],
)
def test_a_damaged_archive_is_told_and_not_remembered(folder, rows, problem, damage):
    whole = pack(folder / "acid.tar.gz", FILES).read_bytes()
    write(folder / "acid.tar.gz", damage(whole))

    text = problem(kind="trajectories", list="acid.tar.gz")
    assert text.startswith("test: the list acid.tar.gz is no whole tar.gz of sequences: ")

    write(folder / "acid.tar.gz", whole)
    assert len(rows(kind="trajectories", list="acid.tar.gz")) == 2


def test_an_archive_that_unpacks_to_too_much_is_refused(folder, problem, monkeypatch):
    monkeypatch.setattr(trajectories, "MAX_UNPACKED_BYTES", 50_000)
    pack(folder / "acid.tar.gz", {"train/zeros.bin": bytes(1_000_000)})

    text = problem(kind="trajectories", list="acid.tar.gz")
    assert text.endswith("no whole tar.gz of sequences: it unpacks to more than 50000 bytes")


def test_a_sequence_file_that_is_too_large_is_refused(folder, problem, monkeypatch):
    monkeypatch.setattr(trajectories, "MAX_SEQUENCE_BYTES", 100)
    pack(folder / "acid.tar.gz", {"train/0.txt": GOOD})

    text = problem(kind="trajectories", list="acid.tar.gz")
    assert text.endswith(f"train/0.txt has {len(GOOD)} bytes; a sequence at most 100")


def test_a_folder_of_sequences_has_no_sha256(folder, problem):
    write(folder / "unpacked" / "train" / "0.txt", GOOD)

    text = problem(kind="trajectories", list="unpacked", sha256="0" * 64)
    assert text == "test: unpacked is a folder, which has no sha256; name the tar.gz instead"


# ---- frame folders ----------------------------------------------------------------------------------

SKY = {
    "sky_train/longvideo01/longvideo01_2": 3,
    "sky_train/longvideo01/longvideo01_10": 3,
    "sky_test/longvideo02/longvideo02_1": 2,
}


def write_sky(folder: Path) -> None:
    for name, num_frames in SKY.items():
        for number in range(num_frames):
            write(folder / "sky" / name / f"longvideo_frames_{number:08d}.jpg")
    write(folder / "sky" / "README.txt")
    (folder / "sky" / "sky_test" / "empty").mkdir()


def test_each_folder_that_holds_frames_is_a_video(folder, rows):
    write_sky(folder)

    found = rows(kind="frame_folders", path="sky", frame_rate=25, expect={"videos": 3})

    assert [r.origin for r in found] == sorted(SKY)
    for row in found:
        assert row.media == FrameFolder(f"{folder}/sky/{row.origin}", "25")
        assert row.video_id == ids.video_id(["frame_folders", row.origin])
        assert (row.intervals, row.frame_rate, row.tracks) == (None, None, ())


def test_train_and_test_folders_are_the_splits_and_a_long_video_is_a_group(folder, rows):
    write_sky(folder)

    splits = {"sky_train": "train", "sky_test": "test"}
    found = rows(kind="frame_folders", path="sky", frame_rate=25, splits=splits)

    assert [(r.split, r.group) for r in found] == [
        ("test", "longvideo02"), ("train", "longvideo01"), ("train", "longvideo01")
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "splits", "split", "group"),
    [
        ("1.png", {}, None, None),
        ("clip/1.JPEG", {}, None, "clip"),
        ("long/clip/frames/1.jpg", {}, None, "long"),
        ("train/1.jpg", {"train": "train"}, "train", None),
        ("train/clip/1.jpg", {"train": "train"}, "train", "clip"),
    ],
)
def test_frames_lie_at_any_depth(folder, rows, name, splits, split, group):
    write(folder / "videos" / name)

    (row,) = rows(kind="frame_folders", path="videos", frame_rate="30000/1001", splits=splits)
    assert (row.split, row.group, row.media.frame_rate) == (split, group, "30000/1001")
    assert row.origin == str(Path(name).parent)


def test_other_files_beside_frames_change_nothing_and_hidden_ones_are_no_frames(folder, rows):
    for name in (
        "a/0_notes.txt",
        "a/1.jpg",
        "a/zz.txt",
        "b/.1.jpg",
        "b/notes.txt",
        ".thumbs/1.jpg",
        "c/d.jpg/1.png",
    ):
        write(folder / "videos" / name)

    found = rows(kind="frame_folders", path="videos", frame_rate=25)
    assert [r.origin for r in found] == ["a", "c/d.jpg"]


def test_links_to_folders_are_followed_but_never_in_a_circle(folder, rows):
    write(folder / "elsewhere" / "1.jpg")
    write(folder / "videos" / "a" / "1.jpg")
    (folder / "videos" / "link").symlink_to(folder / "elsewhere")
    (folder / "videos" / "deep").mkdir()
    (folder / "videos" / "deep" / "loop").symlink_to(folder / "videos")
    (folder / "videos" / "dead").symlink_to(folder / "nowhere")

    found = rows(kind="frame_folders", path="videos", frame_rate=25)
    assert [r.origin for r in found] == ["a", "link"]


def test_a_folder_is_listed_no_further_than_its_first_frame(folder, rows):
    for clip in range(200):
        for number in range(20):
            write(folder / "videos" / f"clip{clip}" / f"{number}.jpg")
    seen = []

    class Counted:
        def __init__(self, path: Any) -> None:
            self.entries = original(path)

        def __enter__(self) -> Counted:
            return self

        def __exit__(self, *_: object) -> None:
            self.entries.close()

        def __iter__(self) -> Iterator[Any]:
            for entry in self.entries:
                seen.append(entry.name)
                yield entry

    from lvg_data.sources import frame_folders

    original = frame_folders.os.scandir
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(frame_folders.os, "scandir", Counted)
        assert len(rows(kind="frame_folders", path="videos", frame_rate=25)) == 200
    assert len(seen) == 400  # the folders, and one frame of each


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"path": "nowhere"}, "test: nowhere is no folder (searched from "),
        ({"path": "none"}, "test: no folder in none holds frames, .jpg or .png files whose names end in a number"),
        ({"path": "sky", "splits": {"sky_val": "val"}},
         "test: splits names 'sky_val', which sky does not hold with frames"),
        ({"path": "sky", "expect": {"videos": 4}}, "test: sky holds 3 videos; the card expects 4"),
    ],
)  # fmt: skip
def test_frame_folders_that_are_not_there_are_told(folder, problem, fields, expected):
    write_sky(folder)
    write(folder / "none" / "a.txt")

    assert expected in problem(kind="frame_folders", frame_rate=25, **fields)


# ---- tables -----------------------------------------------------------------------------------------


def write_table(path: Path, records: list[dict[str, Any]]) -> Path:
    """The same rows as CSV, JSONL or Parquet."""
    names = list(dict.fromkeys(name for record in records for name in record))
    if path.suffix == ".parquet":
        pq.write_table(pa.table({n: [r.get(n) for r in records] for n in names}), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(record) + "\n\n" for record in records))
    else:
        cells = [names, *([str(r.get(n, "")) for n in names] for r in records)]
        path.write_text("\ufeff" + "".join(",".join(f'"{c}"' for c in row) + "\r\n" for row in cells))
    return path


TABLES = ["list.csv", "list.jsonl", "list.parquet"]
URL = "https://example.org/a.mp4"


@pytest.mark.parametrize("name", TABLES)
def test_rows_of_one_video_are_its_intervals_and_further_columns_are_kept(folder, rows, name):
    write_table(
        folder / name,
        [
            {"url": URL, "start": "0:05", "end": "0:07.5", "fps": "24000/1001", "title": "A, \u00e9", "label": "cat"},
            {"url": "https://example.org/b.mp4", "title": "B", "split": "val", "sha256": "1" * 64},
            {"url": URL, "start": "12", "end": "1:00:00", "title": "A, \u00e9", "label": "dog"},
        ],
    )  # fmt: skip

    a, b = rows(kind="table", list=name, expect={"videos": 2, "intervals": 2})

    assert (a.origin, a.media, a.split) == (URL, Address(URL), None)
    assert a.intervals == (seconds(5, 7.5), seconds(12, 3600))
    assert a.frame_rate == "24000/1001"
    assert a.extra == ids.canonical_json({"title": "A, \u00e9"})
    assert a.interval_extras == ('{"label":"cat"}', '{"label":"dog"}')
    assert (b.intervals, b.frame_rate, b.split) == (None, None, "val")
    assert b.media == Address("https://example.org/b.mp4", "1" * 64)
    assert b.extra == '{"title":"B"}'


def test_a_text_list_is_one_address_or_path_a_line(folder, rows):
    write(folder / "lists" / "list.txt", f"# two videos\n\n  {URL}#t=1\n../b c.mp4\r\n")

    a, b = rows(kind="table", list="lists/list.txt", split="test")

    assert (a.media.url, a.origin) == (f"{URL}#t=1", URL)
    assert (Path(b.media.url).resolve(), b.origin) == (folder / "b c.mp4", "b c.mp4")
    assert (a.split, b.split, a.extra) == ("test", "test", "{}")


@pytest.mark.parametrize("name", TABLES)
def test_paths_are_relative_to_the_list(folder, rows, name, tmp_path):
    (folder / "lists").mkdir()
    write_table(
        folder / "lists" / name,
        [{"path": "a.mp4"}, {"path": str(tmp_path / "b.mp4")}, {"path": "s3://c/d.mp4"}],
    )

    a, b, c = rows(kind="table", list=f"lists/{name}")

    assert (a.media, a.origin) == (Address(str(folder / "lists" / "a.mp4")), "lists/a.mp4")
    assert (b.media, b.origin) == (Address(str(tmp_path / "b.mp4")), str(tmp_path / "b.mp4"))
    assert (c.media, c.origin) == (Address("s3://c/d.mp4"), "s3://c/d.mp4")


def test_a_path_in_a_list_is_the_same_video_as_the_file_itself(folder):
    write(folder / "a.mp4")
    write(folder / "list.txt", "./a.mp4\n")

    a, b = rows_of(folder, {"kind": "files", "path": "a.mp4"}, {"kind": "table", "list": "list.txt"})
    assert b.video_id == f"{a.video_id}{DUPLICATE_MARK}2"


def test_a_downloaded_list_may_only_name_addresses(folder, rows, problem, served):
    write(folder / "list.txt", f"{URL}\n/etc/passwd\n")

    text = problem(kind="table", list=f"{served}/list.txt?x=y.csv")
    assert text == (
        "test: the list http://127.0.0.1/list.txt: "
        "line 2: path: '/etc/passwd' is no address, which a downloaded list must give"
    )
    write(folder / "list.txt", URL)
    assert rows(kind="table", list=f"{served}/list.txt")[0].origin == URL


@pytest.mark.parametrize("name", TABLES)
def test_ids_are_those_of_the_list(folder, rows, name):
    write_table(folder / name, [{"url": URL, "id": "-x y"}, {"url": URL, "id": "z"}, {"url": URL}])

    found = rows(kind="table", list=name)
    assert [r.video_id for r in found[:2]] == ["-x y", "z"]
    assert re.fullmatch("[0-9a-f]{16}", found[2].video_id)


def test_whole_numbers_are_ids(folder, rows):
    pq.write_table(pa.table({"url": [URL, f"{URL}?2"], "id": pa.array([5.0, None])}), folder / "list.parquet")
    write(folder / "list.jsonl", json.dumps({"url": URL, "id": 7}))

    assert rows(kind="table", list="list.parquet")[0].video_id == "5"
    assert rows(kind="table", list="list.jsonl")[0].video_id == "7"


def test_addresses_that_differ_in_their_query_alone_are_different_videos(folder, rows):
    write(folder / "list.txt", f"{URL}?v=1\n{URL}?v=2\n")

    for a, b in (
        rows(kind="table", list="list.txt"),
        rows(kind="urls", items=[{"url": f"{URL}?v=1"}, {"url": f"{URL}?v=2"}]),
    ):
        assert a.video_id != b.video_id
        assert a.origin == b.origin == URL


def test_who_asks_for_an_address_does_not_change_its_id(folder, rows):
    write(folder / "a.txt", f"{URL}?v=1")
    write(folder / "b.txt", "https://user:pass@EXAMPLE.org/a.mp4?v=1")

    (a,), (b,) = (rows(kind="table", list=name) for name in ("a.txt", "b.txt"))
    assert (a.video_id, a.origin) == (b.video_id, b.origin)


def test_the_origin_of_a_youtube_address_says_which_video(folder, rows):
    write(
        folder / "list.txt",
        "https://www.youtube.com/watch?v=-aaaaaaaaaa&si=s3cret\nhttps://youtu.be/-aaaaaaaaab?si=s3cret\n",
    )

    assert [r.origin for r in rows(kind="table", list="list.txt")] == [
        "https://www.youtube.com/watch?v=-aaaaaaaaaa", "https://youtu.be/-aaaaaaaaab"
    ]  # fmt: skip


@pytest.mark.parametrize("name", TABLES)
def test_a_repeated_row_stays_to_be_counted(folder, rows, name):
    span = {"url": "https://example.org/b.mp4", "start": "1", "end": "2"}
    write_table(folder / name, [{"url": URL}, span, {"url": URL}, span])

    a, again, b = rows(kind="table", list=name)

    assert again.video_id == f"{a.video_id}{DUPLICATE_MARK}2"
    assert b.intervals == (seconds(1, 2), seconds(1, 2))


@pytest.mark.parametrize("absent", ["", "nan", "NaN", "None", "null"])
def test_an_absent_cell_of_a_csv_is_absent(folder, rows, absent):
    write(
        folder / "list.csv",
        f"url,start,end,fps,title,id\n{URL},{absent},{absent},{absent},{absent},{absent}\n",
    )

    (row,) = rows(kind="table", list="list.csv")
    assert (row.intervals, row.frame_rate, row.extra) == (None, None, "{}")


def test_missing_numbers_of_pandas_are_absent(folder, rows):
    nan = float("nan")
    columns = {
        "url": [URL, f"{URL}?2"],
        "start": [1.5, nan],
        "end": [2.5, nan],
        "fps": [nan, 29.97],
        "n": [nan, 1.0],
    }
    pq.write_table(pa.table(columns), folder / "list.parquet")
    write(folder / "list.jsonl", json.dumps({"url": URL, "fps": nan, "n": [nan, 1]}))

    a, b = rows(kind="table", list="list.parquet")
    assert (a.intervals, a.frame_rate, a.extra) == ((seconds(1.5, 2.5),), None, "{}")
    assert (b.intervals, b.frame_rate, b.extra) == (None, "2997/100", '{"n":1.0}')
    assert rows(kind="table", list="list.jsonl")[0].extra == '{"n":[null,1]}'


def test_further_columns_of_any_kind_become_json(folder, rows):
    columns = {
        "url": [URL],
        "taken": [datetime.datetime(2020, 1, 2, 3, 4, 5)],
        "tags": [["a", "b"]],
        "place": [{"lat": 1.5, "on": datetime.date(2020, 1, 2)}],
        "price": pa.array(["1.50"]).cast(pa.decimal128(5, 2)),
    }
    pq.write_table(pa.table(columns), folder / "list.parquet")

    (row,) = rows(kind="table", list="list.parquet")
    assert json.loads(row.extra) == {
        "taken": "2020-01-02T03:04:05", "tags": ["a", "b"], "place": {"lat": 1.5, "on": "2020-01-02"}, "price": "1.50"
    }  # fmt: skip


def test_what_a_video_says_once_holds_for_all_its_rows(folder, rows):
    write(folder / "list.csv", f"url,start,end,split,fps\n{URL},1,2,,\n{URL},3,4,val,25\n")

    (row,) = rows(kind="table", list="list.csv")
    assert (row.split, row.frame_rate) == ("val", "25")


def test_a_row_of_several_lines_is_told_by_its_first(folder, problem):
    write(folder / "list.csv", f'url,title,fps\n{URL},"two\nlines",0\n{URL}?2,x,0\n')

    lines = problem(kind="table", list="list.csv").splitlines()
    assert [line.split(": ")[2] for line in lines] == ["line 2", "line 4"]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (f"{URL},x.mp4,,,,,,", "line 2: it gives both url and path"),
        (",,,,,,,x", "line 2: it gives neither url nor path"),
        ("ftp://a/b,,,,,,,", "line 2: url: an address begins with one of http, https, s3, gs, got 'ftp://a/b'"),
        ("a.mp4,,,,,,,", "line 2: url: an address begins with one of http, https, s3, gs, got 'a.mp4'"),
        (",file:///a,,,,,,", "line 2: path: an address begins with one of http, https, s3, gs, got 'file:///a'"),
        (f"{URL},,,5,,,,", "line 2: start: '5' is there without end"),
        (f"{URL},,,,5,,,", "line 2: end: '5' is there without start"),
        (f"{URL},,,7,5,,,", "line 2: start '7', end '5': start 7 must be at least 0 and before stop 5"),
        (f"{URL},,,x,5,,,", "line 2: start 'x', end '5': Invalid literal for Fraction: 'x'"),
        (f"{URL},,,,,0,,", "line 2: fps: a frame rate lies between 0 and 1000 frames per second, got 0 (got '0')"),
        (f"{URL},,,,,native,,", "line 2: fps: must be a number of frames per second, got 'native'; leave it out"),
        (f"{URL},,,,,,Val,", "line 2: split: String should match pattern '^[a-z][a-z0-9_]{0,31}$' (got 'Val')"),
        (f"{URL},,{'x' * 201},,,,,", f"line 2: id: '{'x' * 20}'... is no id: 201 characters, at most 200"),
        (f"{URL},,,1,2,,,\n{URL},,,,,,,", "line 3: start: absent, but line 2 gives an interval of the same video"),
        (f"{URL},,,,,,,x\n{URL},,,,,,,y", "line 3: it lists the same whole video as line 2, with other columns"),
        (f"{URL},,,1,2,25,,\n{URL},,,3,4,30,,", "line 3: fps: '30', but line 2 says '25' of the same video"),
        (f"{URL},,,1,2,,a,\n{URL},,,3,4,,b,", "line 3: split: 'b', but line 2 says 'a' of the same video"),
    ],
)  # fmt: skip
def test_a_malformed_row_is_told_with_list_row_column_and_value(folder, problem, line, expected):
    write(folder / "list.csv", f"url,path,id,start,end,fps,split,title\n{line}\n")

    text = problem(kind="table", list="list.csv")
    assert text.startswith(f"test: the list list.csv: {expected}")


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"url": 5}, "line 1: url: must be text, got 5"),
        ({"url": URL, "id": 1.5}, "line 1: id: must be text or a whole number, got 1.5"),
        ({"url": URL, "id": True}, "line 1: id: must be text or a whole number, got True"),
        ({"url": URL, "id": "a\n"}, "line 1: id: 'a\\n' is no id: empty, or with space around it"),
        ({"url": URL, "start": True, "end": 2}, "line 1: start True, end 2: a time is seconds or h:mm:ss, got True"),
        ({"url": URL, "start": [1], "end": 2}, "line 1: start [1], end 2: a time is seconds or h:mm:ss, got [1]"),
        ({"url": URL, "fps": True}, "line 1: fps: a frame rate is native or frames per second, got True (got True)"),
        ({"url": URL, "n": float("inf")}, "line 1: n: inf is no JSON value"),
        ({"url": URL, "sha256": "AB"}, "line 1: sha256: String should match pattern '^[0-9a-f]{64}$' (got 'AB')"),
    ],
)  # fmt: skip
def test_a_value_of_the_wrong_type_is_told(folder, problem, record, expected):
    write(folder / "list.jsonl", json.dumps(record))

    assert problem(kind="table", list="list.jsonl") == f"test: the list list.jsonl: {expected}"


def test_a_parquet_value_that_json_does_not_know_is_told_with_its_row(folder, problem):
    pq.write_table(pa.table({"url": [URL, f"{URL}?2"], "blob": [None, b"x"]}), folder / "list.parquet")

    text = problem(kind="table", list="list.parquet")
    assert text == "test: the list list.parquet: row 2: blob: a bytes is no JSON value"


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("list.xls", "x", "its name ends in '.xls', which is none of .txt, .csv, .jsonl, .parquet"),
        ("list", "x", "its name ends in '', which is none of "),
        ("list.csv", "", "it has neither a column url nor path, but none at all"),
        ("list.csv", "link,title\n", "it has neither a column url nor path, but link, title"),
        ("list.csv", "url,Start,end\n", "column 'Start' must be written 'start'"),
        ("list.csv", "url,url\n", "column 'url' is there twice"),
        ("list.csv", f"url,title\n{URL}\n", "line 2 has 1 fields; the header has 2"),
        ("list.csv", f"url\n\n{URL},x\n", "line 3 has 2 fields; the header has 1"),
        ("list.csv", b"url\n\xff\n", "'utf-8' codec can't decode byte 0xff"),
        ("list.csv", 'url\n"a\n', "unexpected end of data"),
        ("list.jsonl", "{", "line 1 is no JSON: "),
        ("list.jsonl", "\n[1]", "line 2 is no JSON object: '[1]'"),
        ("list.jsonl", '{"url": "x", "url": "y"}', "column 'url' is there twice"),
        ("list.parquet", "x", "Parquet"),
    ],
)
def test_a_list_that_is_no_such_table_is_told(folder, problem, name, content, expected):
    write(folder / name, content)

    text = problem(kind="table", list=name)
    assert text.startswith(f"test: the list {name} cannot be read: ")
    assert expected in text


def test_five_malformed_rows_are_told_and_the_rest_counted(folder, problem):
    write(folder / "list.txt", "ftp://a/b\n" * 9)

    lines = problem(kind="table", list="list.txt").splitlines()
    assert [line.split(": ")[2] for line in lines[:5]] == [f"line {n}" for n in range(1, 6)]
    assert lines[5:] == ["test: the list list.txt: 4 more malformed entries"]


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 50), st.integers(1, 50)), min_size=1, max_size=20)
)
def test_every_row_of_a_table_becomes_one_interval_in_order(tmp_path_factory, spans):
    folder = tmp_path_factory.mktemp("card")
    records = [
        {"url": f"https://example.org/{video}", "start": start, "end": start + length}
        for video, start, length in spans
    ]
    write_table(folder / "list.jsonl", records)

    found = rows_of(folder, {"kind": "table", "list": "list.jsonl"})

    wanted: dict[str, list[Interval]] = {}
    for video, start, length in spans:
        wanted.setdefault(f"https://example.org/{video}", []).append(seconds(start, start + length))
    assert {row.origin: list(row.intervals) for row in found} == wanted
    assert [row.origin for row in found] == list(wanted)


# ---- files in buckets -------------------------------------------------------------------------------

KEYS = ("videos/b.mp4", "videos/deep/a.MKV", "videos/deep/notes.txt", "other/c.mp4")


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """Name of a bucket on a server on this machine that holds `KEYS`."""
    boto3, server = pytest.importorskip("boto3"), pytest.importorskip("moto.server")
    s3fs = pytest.importorskip("s3fs")
    running = server.ThreadedMotoServer(port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "x")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "x")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        s3fs.S3FileSystem.clear_instance_cache()  # fsspec keeps the ones of other tests' servers
        client = boto3.client("s3")
        client.create_bucket(Bucket="bucket")
        for key in KEYS:
            client.put_object(Bucket="bucket", Key=key, Body=b"x")
        yield "s3://bucket"
        s3fs.S3FileSystem.clear_instance_cache()
    running.stop()


@pytest.fixture(scope="module")
def gs() -> Iterator[str]:
    """The same behind a GCS emulator."""
    emulator = pytest.importorskip("gcp_storage_emulator.server")
    with pytest.MonkeyPatch.context() as patch:
        # gcsfs's default class asks by gRPC what kind of bucket it is, for minutes where nobody speaks gRPC
        patch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
        patch.setenv("NO_GCE_CHECK", "true")
        plain = pytest.importorskip("gcsfs.core").GCSFileSystem
        plain.clear_instance_cache()
        fsspec.register_implementation("gs", plain, clobber=True)
        server = emulator.create_server("127.0.0.1", 0, in_memory=True, default_bucket="bucket")
        server.start()
        port = server._api._httpd.server_address[1]
        patch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
        for key in KEYS:
            plain(token="anon").pipe_file(f"bucket/{key}", b"x")
        yield "gs://bucket"
        plain.clear_instance_cache()
        server.stop()


@pytest.fixture(params=["s3", "gs"])
def bucket(request: pytest.FixtureRequest) -> str:
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("videos", ["videos/b.mp4", "videos/deep/a.MKV"]),
        ("videos/b.mp4", ["videos/b.mp4"]),
        ("**/*.mp4", ["other/c.mp4", "videos/b.mp4"]),
        ("videos/*", ["videos/b.mp4"]),
        ("videos/deep/*", ["videos/deep/a.MKV", "videos/deep/notes.txt"]),
    ],
)
def test_videos_in_a_bucket_are_listed_in_order(rows, bucket, path, found):
    listed = rows(kind="files", path=f"{bucket}/{path}")

    assert [r.media for r in listed] == [Address(f"{bucket}/{key}") for key in found]
    assert [r.origin for r in listed] == [f"{bucket}/{key}" for key in found]
    assert listed[0].video_id == ids.video_id(["files", f"{bucket}/{found[0]}"])


def test_intervals_are_given_to_files_in_a_bucket_by_name(rows, problem, bucket):
    (row,) = rows(kind="files", path=f"{bucket}/videos/*.mp4", intervals={"b.mp4": [[1, 2]]})
    assert row.intervals == (seconds(1, 2),)

    text = problem(kind="files", path=f"{bucket}/videos", intervals={"z.mp4": [[1, 2]]})
    assert text == f"test: intervals are given for 'z.mp4', which '{bucket}/videos' does not match"


def test_a_bucket_without_videos_says_so(problem, bucket):
    assert problem(kind="files", path=f"{bucket}/none/*") == f"test: no video matches '{bucket}/none/*'"


def test_own_copies_may_lie_in_a_bucket(folder, rows, bucket):
    write(folder / "clips.json", '{"b": ["0:01 0:02"], "gone": ["0:01 0:02"]}')

    b, gone = rows(kind="clip_list", list="clips.json", folder=f"{bucket}/videos/")
    assert (b.media, gone.media) == (
        Address(f"{bucket}/videos/b.mp4"),
        Address(f"{bucket}/videos/gone.missing"),
    )


@pytest.mark.parametrize("path", ["https://example.org/*.mp4", "s3://", "s3://key:secret@bucket/x"])
def test_other_addresses_are_no_files(problem, path):
    text = problem(kind="files", path=path)

    assert re.search(
        r"files are listed at a path, s3://<bucket>/\.\.\. or gs://<bucket>/\.\.\., got \w+://; ", text
    )
    assert "secret" not in text


# ---- speed ------------------------------------------------------------------------------------------


def test_a_large_list_of_trajectories_is_listed_in_seconds_once_read(folder, rows):
    files = {
        f"train/{n}.txt": sequence(f"https://www.youtube.com/watch?v={n // 5:011d}", n, n + 9)
        for n in range(2000)
    }
    pack(folder / "acid.tar.gz", files)
    rows(kind="trajectories", list="acid.tar.gz")

    before = time.perf_counter()
    assert len(rows(kind="trajectories", list="acid.tar.gz")) == 400
    assert time.perf_counter() - before < 2


@pytest.mark.parametrize(
    ("name", "meant"), [("start_s", "start"), ("strat", "start"), ("end_time", "end"), ("stop", "end")]
)
def test_a_column_that_was_surely_meant_otherwise_is_named(folder, rows, name, meant):
    write_table(folder / "list.csv", [{"url": URL, name: "1"}])

    with pytest.raises(CardError, match=f"column '{name}' must be written '{meant}'"):
        rows(kind="table", list="list.csv")


def test_a_split_of_some_folders_still_groups_the_others_by_long_video(folder, rows):
    for name in ("sky_train/a/1/0.jpg", "sky_train/b/1/0.jpg", "sky_test/c/1/0.jpg"):
        write(folder / "videos" / name)

    found = rows(kind="frame_folders", path="videos", frame_rate=25, splits={"sky_test": "test"})

    assert [(r.split, r.group) for r in found] == [("test", "c"), (None, "a"), (None, "b")]


def test_a_picture_that_is_no_frame_hides_no_folder(folder, rows):
    for name in ("v1/cover.jpg", "v1/c1/0.jpg", "v1/c2/0.jpg"):
        write(folder / "videos" / name)

    found = rows(kind="frame_folders", path="videos", frame_rate=25)

    assert [row.origin for row in found] == ["v1/c1", "v1/c2"]
