"""Cards, lists and tables that mean harm or are broken: each is refused by name, soon, and in little memory."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import lvg_data
from lvg_data import finished, schema
from lvg_data.child import ChildLimits, run_in_open_child
from lvg_data.errors import DatasetError
from lvg_data.records import Member, Part
from lvg_data.verify import verify_dataset
from tests.builds import build_dataset, make_once, small_card
from tests.hostile import write_tar_gz
from tests.listing import list_clips, list_table, list_trajectories, load, timed
from tests.videos import RECIPES, write_video

#: of the child that reads a card or list: seconds, and memory beside what the fork server has
WALL_S, MEMORY_BYTES = 20, 3 << 30
#: how long it may take; a second on a machine with nothing else to do
SECONDS = 5

HEAD = "name: t\nlicence: x\nattribution: x\n"
GOOD_SOURCE = "sources: [{kind: files, path: '*.mp4'}]\n"


def outcome_in_child(function: Callable[[str], str], path: Path) -> str:
    """What the function says of a file: within the limits, or the test fails."""
    said, seconds = run_in_open_child(timed, (function, str(path)), ChildLimits(WALL_S, MEMORY_BYTES))
    assert seconds < SECONDS
    return said


# ---- cards


def laughs(levels: int = 9) -> str:
    """Aliases that stand for 10 to the power of `levels` words."""
    lines = ["a0: &a0 [ha, ha, ha, ha, ha, ha, ha, ha, ha, ha]"]
    for level in range(1, levels):
        lines.append(f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]")
    return "\n".join(lines) + "\n"


#: name -> (text of the card, what the answer holds)
CARDS: dict[str, tuple[str | bytes, str]] = {
    "billion laughs": (HEAD + laughs(), "aliases repeat"),
    "laughs in a mapping": (HEAD + laughs().replace("[", "{x: [").replace("]", "]}"), "refused"),
    "a value in itself": (HEAD + "sources: &s [*s]\n", "contains itself"),
    "merge keys without end": (HEAD + "x: &x {<<: *x}\n", "refused"),
    "a Python object": (
        HEAD + "sources: !!python/object/apply:os.system ['touch pwned']\n", "could not determine a constructor"),
    "a Python name": (HEAD + "title: !!python/name:os.system\n", "could not determine a constructor"),
    "a tag of one's own": (HEAD + "title: !evil x\n", "could not determine a constructor"),
    "a binary": (HEAD + GOOD_SOURCE + "title: !!binary aGVsbG8=\n", "taken"),
    "a set": (HEAD + "sources: !!set {a, b}\n", "refused"),
    "nested lists": (HEAD + "sources: " + "[" * 20_000, "nested too deeply"),
    "nested mappings": (HEAD + "sources: " + "{a: " * 20_000, "nested too deeply"),
    "nested indents": (HEAD + "\n".join(" " * n + "a:" for n in range(1000)), "refused"),
    "a huge document": (HEAD + "title: " + "x" * 2_000_000, "larger than 1,000,000 bytes"),
    "many documents": (HEAD + GOOD_SOURCE + "---\n" * 1000, "refused"),
    "no text": (b"\xff\xfe\x00\x01" * 10, "not a readable YAML file"),
    "a NUL": (HEAD + "title: 'a\0b'\n", "not a readable YAML file"),
    "empty": ("", "a card is a mapping"),
    "a list": ("- a\n- b\n", "a card is a mapping"),
    "a field twice": (HEAD + GOOD_SOURCE + "title: a\ntitle: b\n", "given twice"),
    "a nested field twice": (HEAD + GOOD_SOURCE + "low: {height: 64, height: 32}\n", "given twice"),
    "numbers as names": (HEAD + GOOD_SOURCE + "1: 2\n", "Keys should be strings"),
    "a list as a name": (HEAD + GOOD_SOURCE + "? [a]\n: b\n", "refused"),
    "text for a number": (HEAD + GOOD_SOURCE + "low: {height: big}\n", "low.height"),
    "a list for a number": (HEAD + GOOD_SOURCE + "low: {height: [64]}\n", "low.height"),
    "a mapping for text": (HEAD + GOOD_SOURCE + "title: {a: 1}\n", "title"),
    "a negative size": (HEAD + GOOD_SOURCE + "low: {height: -64}\n", "low.height"),
    "a huge size": (HEAD + GOOD_SOURCE + "low: {height: 100000000}\n", "low.height"),
    "a number of 5,000 digits": (HEAD + GOOD_SOURCE + f"shards: {{seed: {'9' * 5000}}}\n", "refused"),
    "a size of 4,000 digits": (HEAD + GOOD_SOURCE + f"low: {{height: {'9' * 4000}}}\n", "low.height"),
    "1e400": (HEAD + GOOD_SOURCE + "limits: {decode_wall_s: 1.0e+400}\n", "limits.decode_wall_s"),
    "infinity": (HEAD + GOOD_SOURCE + "limits: {fetch_wall_s: .inf}\n", "limits.fetch_wall_s"),
    "not a number": (HEAD + GOOD_SOURCE + "limits: {requests_per_s: .nan}\n", "limits.requests_per_s"),
    "a rate of 1e400": (HEAD + GOOD_SOURCE + "frame_rate: '1e400'\n", "frame_rate"),
    "a rate of 1e999999999": (HEAD + GOOD_SOURCE + "frame_rate: '1e999999999'\n", "frame_rate"),
    "a rate of 1e-999999999": (HEAD + GOOD_SOURCE + "frame_rate: '1e-999999999'\n", "frame_rate"),
    "a rate over zero": (HEAD + GOOD_SOURCE + "frame_rate: '1/0'\n", "divides by zero"),
    "a rate of nan": (HEAD + GOOD_SOURCE + "frame_rate: .nan\n", "frame_rate"),
    "a time of 1e999999999": (
        HEAD + "sources: [{kind: files, path: a, intervals: {a: [['0', '1e999999999']]}}]\n", "intervals"),
    "a time of a million parts": (
        HEAD + f"sources: [{{kind: files, path: a, intervals: {{a: [['0', '{'1:' * 100_000}1']]}}}}]\n", "intervals"),
    "a share of nan": (HEAD + GOOD_SOURCE + "split: {val: .nan}\n", "split"),
    "an octal and a sexagesimal": (HEAD + GOOD_SOURCE + "low: {height: 1:04}\n", "taken"),
}  # fmt: skip


@pytest.mark.parametrize("name", CARDS)
def test_a_hostile_card_is_refused_at_once(name, tmp_path):
    text, expected = CARDS[name]
    path = tmp_path / "card.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())

    said = outcome_in_child(load, path)

    assert expected in said
    assert said.startswith("taken" if expected == "taken" else "refused"), said
    assert len(said) < 20_000
    assert not list(tmp_path.rglob("pwned"))


# ---- lists


def parquet(rows: dict[str, Any], **how: Any) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(rows), sink, **how)
    return sink.getvalue().to_pybytes()


def damaged(data: bytes) -> bytes:
    """The first page overwritten."""
    return data[:40] + b"\xff" * 60 + data[100:]


def parquet_bomb() -> bytes:
    """Two gigabytes of one letter in a small file."""
    word = pa.array(["https://example.org/" + "a" * 100_000])
    values = pa.DictionaryArray.from_arrays(pa.array(np.zeros(20_000, np.int8)), word)
    return parquet({"url": values}, compression="zstd")


def plain_parquet_bomb() -> bytes:
    """The same, without a note in the file that its words are to be kept once."""
    return parquet({"url": ["https://example.org/" + "a" * 10_000] * 70_000}, compression="zstd")


def many_rows() -> bytes:
    """A row group of 30 million rows that takes a few kilobytes."""
    values = pa.DictionaryArray.from_arrays(
        pa.array(np.zeros(30_000_000, np.int8)), pa.array(["https://e.org/a"])
    )
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"url": values}), sink, row_group_size=30_000_000, compression="zstd")
    return sink.getvalue().to_pybytes()


URL = "https://example.org/a.mp4"
#: name -> (file name, content or what makes it, what the answer holds)
TABLES: dict[str, tuple[str, Any, str]] = {
    "Parquet of another schema": (
        "l.parquet", lambda: parquet({"a": [1], "b": ["x"]}), "neither a column url nor path"),
    "Parquet of numbers for addresses": ("l.parquet", lambda: parquet({"url": [1, 2]}), "url: must be text"),
    "Parquet of bytes": ("l.parquet", lambda: parquet({"url": [URL], "x": [b"\xff"]}), "a bytes is no JSON value"),
    "Parquet with damaged pages": ("l.parquet", lambda: damaged(parquet({"url": [URL] * 100})), "refused"),
    "Parquet cut off": ("l.parquet", lambda: parquet({"url": [URL]})[:-20], "refused"),
    "Parquet of zeros": ("l.parquet", lambda: bytes(10_000), "refused"),
    "Parquet that names a huge footer": ("l.parquet", lambda: b"PAR1" + b"\xff\xff\xff\x7fPAR1", "refused"),
    "Parquet that unpacks to gigabytes": ("l.parquet", parquet_bomb, "unpacks to more than"),
    "Parquet that unpacks to plain gigabytes": ("l.parquet", plain_parquet_bomb, "unpacks to more than"),
    "Parquet of a huge row group": ("l.parquet", many_rows, "refused"),
    "Parquet with nested rows": ("l.parquet", lambda: parquet({"url": [[URL]]}), "url: must be text"),
    "CSV with NULs": ("l.csv", f"url,id\n{URL},a\0b\n".encode(), "refused"),
    "CSV of one huge line": ("l.csv", b"url\n" + b"https://example.org/" + b"a" * 3_000_000, "refused"),
    "CSV of a million columns": ("l.csv", ",".join(f"c{n}" for n in range(1_000_000)).encode(), "refused"),
    "CSV of a million columns and an address": (
        "l.csv", ("url," + ",".join(f"c{n}" for n in range(1_000_000)) + f"\n{URL}" + "," * 1_000_000).encode(),
        "refused"),
    "CSV with an open quote": ("l.csv", b'url\n"https://example.org/a.mp4\n', "refused"),
    "CSV of other bytes": ("l.csv", b"url\n\xff\xfe\n", "refused"),
    "CSV of ragged rows": ("l.csv", f"url,id\n{URL}\n".encode(), "has 1 fields; the header has 2"),
    "JSONL that is deep": ("l.jsonl", b'{"url": ' + b"[" * 100_000, "is no JSON"),
    "JSONL with a deep column": (
        "l.jsonl", (json.dumps({"url": URL})[:-1] + ', "x": ' + "[" * 900 + "]" * 900 + "}").encode(), "refused"),
    "JSONL with a number of 5,000 digits": ("l.jsonl", f'{{"url": "{URL}", "x": {"9" * 5000}}}'.encode(), "is no JSON"),
    "JSONL with 1e400": ("l.jsonl", f'{{"url": "{URL}", "start": 1e400, "end": 2}}'.encode(), "refused"),
    "JSONL with Infinity": ("l.jsonl", f'{{"url": "{URL}", "x": Infinity}}'.encode(), "no JSON value"),
    "JSONL with a key twice": ("l.jsonl", f'{{"url": "{URL}", "url": "x"}}'.encode(), "there twice"),
    "JSONL with half a character": ("l.jsonl", f'{{"url": "{URL}", "id": "\\ud800"}}'.encode(), "refused"),
    "JSONL with half a character in a column": ("l.jsonl", f'{{"url": "{URL}", "x": "\\ud800"}}'.encode(), "taken"),
    "JSONL of lists": ("l.jsonl", b"[1, 2]\n", "no JSON object"),
    "a time of 1e999999999": ("l.csv", f"url,start,end\n{URL},0,1e999999999\n".encode(), "refused"),
    "a rate of 1e-999999999": ("l.csv", f"url,fps\n{URL},1e-999999999\n".encode(), "refused"),
    "txt with NULs": ("l.txt", b"https://example.org/\0a.mp4\n", "control characters"),
    "txt of other bytes": ("l.txt", b"\xff\xfe\n", "refused"),
    "an unknown suffix": ("l.pkl", b"cos\nsystem\n(S'touch pwned'\ntR.", "is none of"),
}  # fmt: skip

CLIP_LISTS: dict[str, tuple[bytes, str]] = {
    "deep": (b'{"a": ' + b"[" * 100_000, "no JSON"),
    "a number of 5,000 digits": (b'{"a": ' + b"9" * 5000 + b"}", "no JSON"),
    "huge times": (b'{"abc": ["0:00 ' + b"9" * 5000 + b':00"]}', "refused"),
    "a key twice": (b'{"a": ["0:00 0:01"], "a": ["0:00 0:02"]}', "is there 2 times"),
    "a list": (b"[]", "an object of ids"),
    "numbers": (b'{"abc": [1, 2]}', "got 1"),
    "NaN": (b'{"abc": [NaN]}', "got nan"),
    "other bytes": (b"\xff\xfe\xff", "no JSON"),
    "half a character": (b'{"\\ud800": ["0:00 0:01"]}', "is no id"),
}


def write(path: Path, content: Any) -> Path:
    path.write_bytes(content() if callable(content) else content)
    return path


@pytest.mark.parametrize("name", TABLES)
def test_a_hostile_table_is_refused_at_once(name, tmp_path):
    file_name, content, expected = TABLES[name]

    said = outcome_in_child(list_table, write(tmp_path / file_name, content))

    assert expected in said
    assert said.startswith("taken" if expected == "taken" else "refused: "), said[:500]
    assert len(said) < 20_000
    assert not list(tmp_path.rglob("pwned"))


@pytest.mark.parametrize("name", CLIP_LISTS)
def test_a_hostile_clip_list_is_refused_at_once(name, tmp_path):
    content, expected = CLIP_LISTS[name]

    said = outcome_in_child(list_clips, write(tmp_path / "clips.json", content))

    assert said.startswith("refused: t: the list clips.json: ") and expected in said
    assert len(said) < 20_000


# ---- archives of trajectories

POSES = b"https://www.youtube.com/watch?v=abcdefghijk\n0 " + b"1 " * 18 + b"\n"


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


def sparse_tar(path: Path) -> Path:
    """A member of GNU's old sparse format that claims eight gigabytes of hole."""
    info = member("train/a.txt", tarfile.GNUTYPE_SPARSE)
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[386:398] = b"%011o\0" % 0
    header[398:410] = b"%011o\0" % 0
    header[483:495] = b"%011o\0" % (8 << 30 & 0o77777777777)
    header[148:156] = b"        "
    header[148:156] = b"%06o\0 " % sum(header)
    path.write_bytes(bytes(header) + bytes(1024))
    return path


def huge_name_tar(path: Path, kind: bytes) -> Path:
    info = member("././@LongLink", kind)
    info.size = 6 << 30
    path.write_bytes(info.tobuf(tarfile.GNU_FORMAT) + b"a" * 4096)
    return path


def pax_sparse(path: Path) -> Path:
    info = member("train/a.txt")
    info.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": str(8 << 30)}
    with tarfile.open(path, "w:gz", format=tarfile.PAX_FORMAT) as tar:
        data = b"1\n0\n1\n".ljust(512, b"\0")
        info.size = len(data)
        tar.addfile(info, io.BytesIO(data))
    return path


LINKS = {
    "a symbolic link": member("train/a.txt", tarfile.SYMTYPE, "/etc/passwd"),
    "a hard link": member("train/a.txt", tarfile.LNKTYPE, "../../etc/passwd"),
    "a character device": member("train/a.txt", tarfile.CHRTYPE),
    "a block device": member("train/a.txt", tarfile.BLKTYPE),
    "a pipe": member("train/a.txt", tarfile.FIFOTYPE),
    "an absolute name": member("/train/a.txt"),
    "a name that leads out": member("train/../../a.txt"),
    "a name that is a link out": member("../a.txt", tarfile.SYMTYPE, "."),
}
ARCHIVES: dict[str, Callable[[Path], Path]] = {
    **{name: lambda path, info=info: write_tar_gz(path, [(info, POSES)]) for name, info in LINKS.items()},
    "a sparse member": sparse_tar,
    "a sparse member of POSIX": pax_sparse,
    "a GNU name of 6 GB": lambda path: huge_name_tar(path, tarfile.GNUTYPE_LONGNAME),
    "a GNU link of 6 GB": lambda path: huge_name_tar(path, tarfile.GNUTYPE_LONGLINK),
    "attributes of 6 GB": lambda path: huge_name_tar(path, tarfile.XHDTYPE),
    "a name of 100,000 characters": lambda path: write_tar_gz(
        path, [(member("train/" + "a" * 100_000 + ".txt"), POSES)]),
}  # fmt: skip


@pytest.mark.parametrize("name", ARCHIVES)
def test_a_hostile_archive_is_refused_at_once(name, tmp_path):
    said = outcome_in_child(list_trajectories, ARCHIVES[name](tmp_path / "acid.tar.gz"))

    assert said.startswith("refused: t: the list acid.tar.gz is no whole tar.gz of sequences"), said
    assert len(said) < 20_000


def test_a_long_name_of_gnu_is_fine(tmp_path):
    """Otherwise the cases above might say nothing."""
    write_tar_gz(tmp_path / "acid.tar.gz", [(member("train/" + "a" * 300 + ".txt"), POSES)])

    assert outcome_in_child(list_trajectories, tmp_path / "acid.tar.gz") == "taken: 1 rows"


# ---- an index that points elsewhere


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    def make(folder: Path) -> None:
        (folder / "films").mkdir()
        write_video(folder / "films" / "a.mp4", RECIPES["h264_bframes"], 40)
        build_dataset(small_card(), folder / "films", folder / "out")

    return make_once(tmp_path_factory, "hostile-index", make) / "out"


def with_parts(whole: Path, out: Path, change: Callable[[Part], Part]) -> Path:
    """A copy of the dataset with other rows in its parts table, whose hash dataset.json tells."""
    shutil.copytree(whole, out, ignore=shutil.ignore_patterns(".work"))
    rows = [change(row) for row in finished.read_table(str(whole), Part)]
    (out / "tables" / "parts.parquet").write_bytes(schema.encode_table(Part, rows))
    return out


def moved(**changes: int | str) -> Callable[[Part], Part]:
    """Every member changed: numbers are added, names replaced."""

    def change(member: Member) -> Member:
        added = {k: getattr(member, k) + v if isinstance(v, int) else v for k, v in changes.items()}
        return replace(member, **added)

    return lambda part: replace(part, members=tuple(change(m) for m in part.members))


INDEXES = {
    "behind the end": moved(offset_bytes=1 << 40),
    "before the beginning": moved(offset_bytes=-(1 << 40)),
    "a size beyond the end": moved(size_bytes=1 << 40),
    "a negative size": moved(size_bytes=-(1 << 40)),
    "beyond 64 bits together": moved(offset_bytes=(1 << 62), size_bytes=(1 << 62)),
    "another shard's name": lambda part: replace(part, shard="../../../etc/passwd"),
    "an absolute shard": lambda part: replace(part, shard="/etc/passwd"),
    "no such shard": lambda part: replace(part, shard="train-09999.tar"),
}


@pytest.mark.parametrize("name", INDEXES)
def test_an_index_that_points_outside_its_tar_is_refused_by_name(name, whole, tmp_path):
    dataset = str(with_parts(whole, tmp_path / "out", INDEXES[name]))

    problems = verify_dataset(dataset)
    with pytest.raises(DatasetError) as caught:
        lvg_data.open(dataset).clips[0].low(0, 4)

    assert problems
    assert any(word in str(caught.value) for word in (".tar", "part ", "parts", "passwd")), caught.value
