"""A dataset on disk: stock tools read it, `verify` finds every kind of damage, and its bytes are fixed."""

import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import simplejpeg

from lvg_data import ids, schema
from lvg_data.config import Card
from lvg_data.dataset_readme import METADATA_TYPES
from lvg_data.errors import DatasetError
from lvg_data.finished import read_tables
from lvg_data.records import Member
from lvg_data.verify import verify_dataset
from tests import videos
from tests.builds import Dataset, build_dataset, load_npy, make_once, small_card, sources_of
from tests.videos import RECIPES, write_video

SECONDS = 120
INTERVALS = [["0.2", "1.4"], ["1.0", "2.5"], [100, 101]]


def make_dataset(folder: Path) -> None:
    """Found and given scenes, parts of several lengths, several shards and splits, a broken file."""
    size = {"width": 160, "height": 90}
    films = folder / "films"
    films.mkdir()
    write_video(films / "cuts.mp4", RECIPES["h264_bframes"], 100, scene_starts=(0, 61), **size)
    write_video(films / "given.mp4", RECIPES["h264_no_bframes"], 80, **size)
    write_video(films / "uneven.mkv", RECIPES["vfr_mkv"], 53, **size)
    videos.write_html(films / "page.mp4")
    card = small_card(
        name="shown",
        title="Shown: {a test}",
        sources=[{"kind": "files", "path": "films", "intervals": {"given.mp4": INTERVALS}}],
        split={"val": 0.4},
        low={"height": 16, "width": 16, "min_frames": 16, "part_frames": 24},
        high={"height": 64, "width": 64},
        shards={"target_bytes": 150_000},
    )
    splits = {ids.split_of(s.video_id, {"val": 0.4}) for s in sources_of(Card.model_validate(card), folder)}
    assert splits == {"train", "val"}, "choose another share, so that both splits have videos"
    build_dataset(card, folder, folder / "out", store=folder / "store")


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Dataset:
    """A good dataset. To be read only."""
    return Dataset(make_once(tmp_path_factory, "dataset-whole", make_dataset) / "out")


@pytest.fixture
def copy(whole: Dataset, tmp_path: Path) -> Path:
    """A copy to be damaged."""
    return shutil.copytree(whole.root, tmp_path / "copy")


def shard_files(root: Path) -> list[Path]:
    return sorted(root.glob("*/*.tar"))


# ------------------------------------------------------------------------------------------- what the bytes say


def test_headers_are_ustar_with_time_owner_and_mode_fixed(whole: Dataset):
    for path in shard_files(whole.root):
        with tarfile.open(path) as tar:
            for member in tar:
                header = (member.mtime, member.uid, member.gid, member.uname, member.gname, member.mode)
                assert header == (0, 0, 0, "", "", 0o644)
                assert member.type == tarfile.REGTYPE
        data = path.read_bytes()
        with tarfile.open(path) as tar:
            assert all(data[m.offset + 257 : m.offset + 265] == b"ustar\x0000" for m in tar)
        assert len(data) % tarfile.RECORDSIZE == 0


def test_members_of_a_sample_stand_together_and_sorted(whole: Dataset):
    """webdataset joins neighbours of one key; a key that came back later would be a second sample."""
    for path in shard_files(whole.root):
        with tarfile.open(path) as tar:
            names = tar.getnames()
        keys = [name.partition(".")[0] for name in names]
        runs = [key for i, key in enumerate(keys) if i == 0 or keys[i - 1] != key]
        assert len(runs) == len(set(runs))
        for key in runs:
            of_key = [name for name in names if name.startswith(f"{key}.")]
            assert of_key == sorted(of_key)


def test_keys_have_no_dot_and_are_unique_in_a_resolution(whole: Dataset):
    for role in ("low", "high"):
        keys = [row["key"] for row in whole.rows("parts") if row["role"] == role]
        assert len(keys) == len(set(keys)) > 3
        assert all(re.fullmatch(r"[0-9a-f]{20}-\d{4}", key) for key in keys)


def test_the_index_gives_each_members_bytes(whole: Dataset):
    for row in whole.rows("parts"):
        with tarfile.open(whole.shard_path(row["role"], row["shard"])) as tar:
            expected = {
                m.name.partition(".")[2]: tar.extractfile(m).read()
                for m in tar
                if m.name.startswith(row["key"])
            }
        assert whole.members(row) == expected


def test_metadata_has_the_same_keys_and_types_in_every_sample(whole: Dataset):
    kinds = {role: set() for role in ("low", "high")}
    for row in whole.rows("parts"):
        data = json.loads(whole.members(row)["json"])
        kinds[row["role"]].add(tuple((name, type(value)) for name, value in sorted(data.items())))
        assert all(isinstance(pixel, int) for pixel in data["crop"]) and len(data["crop"]) == 4
        assert data["key"] == row["key"]
        json.loads(data["extra"])
    assert kinds["low"] == kinds["high"] == {tuple(sorted(METADATA_TYPES.items()))}


def test_samples_are_what_their_rows_say(whole: Dataset):
    lengths = {"low": set(), "high": set()}
    for row in whole.rows("parts"):
        members = whole.members(row)
        num_frames = row["stop_frame"] - row["start_frame"]
        lengths[row["role"]].add(num_frames)
        low = load_npy(members["npy" if row["role"] == "low" else "low.npy"])
        assert (low.shape, low.dtype) == ((num_frames, 16, 16, 3), np.uint8)
        times = load_npy(members["times.npy"])
        assert (times.shape, times.dtype) == ((num_frames,), np.float64)
        assert np.all(np.diff(times) > 0)
        jpegs = sorted(name for name in members if name.endswith(".jpg"))
        assert len(jpegs) == (num_frames if row["role"] == "high" else 0)
        for name in jpegs:
            assert simplejpeg.decode_jpeg(members[name]).shape == (64, 64, 3)
    assert all(len(found) > 2 for found in lengths.values()), "parts should differ in length"


# ---------------------------------------------------------------------------------------------------- tables

#: columns that name a row, and the order that the rows stand in
IDENTITY = {
    "videos": ("video_id",), "scenes": ("scene_id",), "clips": ("clip_id",), "parts": ("role", "key"),
    "shards": ("role", "name"), "rejects": ("level", "subject"),
}  # fmt: skip
ORDER = {
    "videos": ("video_id",), "scenes": ("video_id", "start_frame", "stop_frame"),
    "clips": ("video_id", "start_frame", "stop_frame"), "parts": ("role", "shard"), "shards": ("role", "name"),
    "rejects": ("level", "video_id"),
}  # fmt: skip


@pytest.mark.parametrize("table", IDENTITY)
def test_tables_are_sorted_without_a_repeated_row_in_the_schema_that_they_say(table: str, whole: Dataset):
    rows = whole.rows(table)
    assert rows
    names = [tuple(row[c] for c in IDENTITY[table]) for row in rows]
    assert len(set(names)) == len(names)
    order = [tuple(row[c] for c in ORDER[table]) for row in rows]
    assert order == sorted(order)
    stored = pq.read_schema(whole.root / "tables" / f"{table}.parquet")
    assert stored.metadata[b"lvg_table"] == table.encode()
    assert stored.metadata[b"lvg_schema_version"] == str(schema.SCHEMA_VERSION).encode()
    row_type = {t.TABLE: t for t in schema.table_files().values()}[table]
    assert stored.remove_metadata().equals(schema.schema_of(row_type).remove_metadata())


def test_parts_stand_in_the_order_of_their_shard(whole: Dataset):
    parts = whole.rows("parts")
    for row in whole.rows("shards"):
        of_shard = [p for p in parts if (p["role"], p["shard"]) == (row["role"], row["name"])]
        offsets = [member["offset_bytes"] for part in of_shard for member in part["members"]]
        assert offsets == sorted(offsets)
        assert row["num_parts"] == len(of_shard)
        assert row["num_frames"] == sum(p["stop_frame"] - p["start_frame"] for p in of_shard)


def test_counts_and_hashes_in_dataset_json_are_those_of_the_files(whole: Dataset):
    description = whole.description
    for name, said in description["tables"].items():
        data = (whole.root / name).read_bytes()
        assert said == {"rows": len(whole.rows(Path(name).stem)), "sha256": hashlib.sha256(data).hexdigest()}
    counts = description["counts"]
    assert counts["rejects_by_cause"] == dict(Counter(r["cause"] for r in whole.rows("rejects")))
    sizes = {
        role: sum(p.stat().st_size for p in whole.root.glob(f"{role}-*/*.tar")) for role in ("low", "high")
    }
    assert counts["shard_bytes"] == sizes
    unsigned = {name: value for name, value in description.items() if name != "fingerprint"}
    assert description["fingerprint"] == ids.canonical_hash(unsigned)


# --------------------------------------------------------------------------------------------------- stock tools


@pytest.mark.parametrize("role", ["low", "high"])
def test_stock_webdataset_reads_every_sample(role: str, whole: Dataset):
    """Without a line of ours: arrays, pictures and metadata come decoded."""
    wds = pytest.importorskip("webdataset")
    urls = [str(path) for path in sorted(whole.root.glob(f"{role}-*/*.tar"))]
    samples = {s["__key__"]: s for s in wds.WebDataset(urls, shardshuffle=False).decode("rgb8")}
    rows = {row["key"]: row for row in whole.rows("parts") if row["role"] == role}
    assert set(samples) == set(rows)
    for key, sample in samples.items():
        num_frames = rows[key]["stop_frame"] - rows[key]["start_frame"]
        low = sample["npy" if role == "low" else "low.npy"]
        assert (low.shape, low.dtype) == ((num_frames, 16, 16, 3), np.uint8)
        assert sample["times.npy"].shape == (num_frames,)
        assert sample["json"]["key"] == key
        if role == "high":
            pictures = [sample[f"f{n:03d}.jpg"] for n in range(num_frames)]
            assert {(p.shape, p.dtype.name) for p in pictures} == {((64, 64, 3), "uint8")}
            assert f"f{num_frames:03d}.jpg" not in sample


RUN_SNIPPET = """
import json, sys
import numpy
names = {}
exec(compile(open(sys.argv[1]).read(), "README.md", "exec"), names)
def told(name, value):
    if name == "json" or value is None: return value
    return list(numpy.asarray(value).shape)
rows = {row["__key__"]: {k: told(k, v) for k, v in row.items()} for row in names["dataset"]}
json.dump(rows, open(sys.argv[2], "w"))
"""
"""Runs a snippet as it stands, goes on to read all of what it called `dataset`, and tells the shapes."""


def readme_snippets(root: Path) -> dict[str, str]:
    """The Python blocks of a dataset's README.md."""
    blocks = re.findall(r"^```python\n(.*?)^```", (root / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    assert len(blocks) == 3
    return dict(zip(("webdataset low", "datasets low", "datasets high"), blocks, strict=True))


@pytest.mark.parametrize("name", ["webdataset low", "datasets low", "datasets high"])
def test_the_snippets_of_the_datasets_own_readme_read_all_of_it(name: str, whole: Dataset, tmp_path: Path):
    """In a fresh process whose folder is the dataset, as a reader of the README would try them."""
    library, role = name.split()
    pytest.importorskip(library)
    rows = {
        r["key"]: r["stop_frame"] - r["start_frame"]
        for r in whole.rows("parts")
        if r["role"] == role and r["shard"].startswith("train-")
    }
    assert len(set(rows.values())) > 2, "parts of different lengths are what the snippets are about"
    found = run_snippet(readme_snippets(whole.root)[name], whole.root, tmp_path)
    assert set(found) == set(rows)
    for key, num_frames in rows.items():
        sample = found[key]
        assert sample["json"]["key"] == key
        assert set(sample["json"]) == set(METADATA_TYPES)
        assert sample["npy" if role == "low" else "low.npy"] == [num_frames, 16, 16, 3]
        assert sample["times.npy"] == [num_frames]
        if role == "high":
            pictures = [sample[f"f{n:03d}.jpg"] for n in range(10)]
            assert pictures == [[64, 64, 3]] * num_frames + [None] * (10 - num_frames)


def run_snippet(code: str, dataset: Path, folder: Path) -> dict[str, Any]:
    (folder / "snippet.py").write_text(code)
    environment = os.environ | {
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(folder),
        "HF_DATASETS_CACHE": str(folder),
    }
    command = [sys.executable, "-c", RUN_SNIPPET, str(folder / "snippet.py"), str(folder / "rows.json")]
    done = subprocess.run(
        command, cwd=dataset, env=environment, timeout=SECONDS, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip(), "the snippet prints what it read"
    return json.loads((folder / "rows.json").read_text())


def test_the_readme_tells_licence_attribution_and_counts(whole: Dataset):
    text = (whole.root / "README.md").read_text()
    counts = whole.description["counts"]
    assert text.startswith("# Shown: {a test}\n")
    assert "Licence: CC0-1.0" in text and "Attribution: made in the test" in text
    assert f"4 source rows gave 3 videos, {counts['scenes']} scenes and {counts['clips']} clips" in text
    assert whole.description["fingerprint"] in text


# ------------------------------------------------------------------------------------------------------- damage


def test_a_good_dataset_is_whole(whole: Dataset):
    seen: list[str] = []
    assert verify_dataset(str(whole.root), seen.append) == []
    assert sorted(seen) == [path.relative_to(whole.root).as_posix() for path in shard_files(whole.root)]


def test_sharp_edges_in_tiny_pictures_are_no_damage(tmp_path: Path):
    """Blocks of two pixels take much from those beside them when they are resized."""
    write_video(tmp_path / "video.webm", RECIPES["vp9"], 5, first_number=300, width=64, height=36)
    sizes = {"low": {"height": 8, "width": 8}, "high": {"height": 16, "width": 16}}
    frames = {"min_frames": 3, "window_frames": 3, "part_frames": 3}
    card = small_card(**{role: size | frames for role, size in sizes.items()})
    build_dataset(card, tmp_path, tmp_path / "out")

    assert verify_dataset(str(tmp_path / "out")) == []


def first_shard(root: Path, role: str) -> Path:
    return min(root.glob(f"{role}-*/train-*.tar"))


def change_table(root: Path, table: str, change: Callable[[list[Any]], list[Any]]) -> None:
    """Writes a table again with other rows, as a tool that means well would."""
    name = f"tables/{table}.parquet"
    row_type = schema.table_files()[name]
    rows = list(getattr(read_tables(str(root)), table))
    (root / name).write_bytes(schema.encode_table(row_type, change(rows)))


def change_description(root: Path, change: Callable[[dict[str, Any]], None]) -> None:
    description = json.loads((root / "dataset.json").read_text())
    change(description)
    (root / "dataset.json").write_text(json.dumps(description, indent=2, sort_keys=True) + "\n")


def reseal(root: Path) -> None:
    """Makes every hash in dataset.json fit again, so that only what the rows say can give damage away."""

    def change(description: dict[str, Any]) -> None:
        for name, said in description["tables"].items():
            said["sha256"] = hashlib.sha256((root / name).read_bytes()).hexdigest()
            said["rows"] = pq.read_metadata(root / name).num_rows
        del description["fingerprint"]
        description["fingerprint"] = ids.canonical_hash(description)

    change_description(root, change)


def flip_byte(root: Path) -> None:
    path = first_shard(root, "high")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def truncate(root: Path) -> None:
    path = first_shard(root, "low")
    os.truncate(path, path.stat().st_size - 512)


def remove_shard(root: Path) -> None:
    first_shard(root, "high").unlink()


def swap_shards(root: Path) -> None:
    a, b, *_ = sorted(root.glob("high-*/train-*.tar"))
    a.rename(root / "x")
    b.rename(a)
    (root / "x").rename(b)


def edit_a_row(root: Path) -> None:
    change_table(root, "clips", lambda rows: [replace(rows[0], black_share=0.5), *rows[1:]])


def drop_reject(level: str) -> Callable[[Path], None]:
    def damage(root: Path) -> None:
        change_table(root, "rejects", lambda rows: [r for r in rows if r.level != level])
        reseal(root)

    return damage


def drop_row(table: str) -> Callable[[Path], None]:
    def damage(root: Path) -> None:
        change_table(root, table, lambda rows: rows[1:])
        reseal(root)

    return damage


def repeat_clip(root: Path) -> None:
    change_table(root, "clips", lambda rows: [rows[0], *rows])
    reseal(root)


def count_wrong(name: str) -> Callable[[Path], None]:
    def damage(root: Path) -> None:
        change_description(root, lambda d: d["counts"].__setitem__(name, d["counts"][name] + 1))

    return damage


def frames_missing(root: Path) -> None:
    change_table(
        root, "clips", lambda rows: [replace(rows[0], frames_written=rows[0].num_frames - 1), *rows[1:]]
    )
    reseal(root)


def index_elsewhere(root: Path) -> None:
    """The first two members of a part point at each other's bytes."""

    def change(rows: list[Any]) -> list[Any]:
        number = next(n for n, row in enumerate(rows) if row.role == "high")
        a, b, *rest = rows[number].members
        crossed = (
            Member(a.name, b.offset_bytes, b.size_bytes),
            Member(b.name, a.offset_bytes, a.size_bytes),
            *rest,
        )
        return [*rows[:number], replace(rows[number], members=crossed), *rows[number + 1 :]]

    change_table(root, "parts", change)
    reseal(root)


def index_nowhere(root: Path) -> None:
    """An array's offset points into the middle of another member."""

    def change(rows: list[Any]) -> list[Any]:
        members = [
            replace(m, offset_bytes=m.offset_bytes + 700) if m.name == "npy" else m for m in rows[-1].members
        ]
        return [*rows[:-1], replace(rows[-1], members=tuple(members))]

    change_table(root, "parts", change)
    reseal(root)


def rewrite_shard(root: Path, role: str, change: Callable[[dict[str, bytes]], None]) -> None:
    """A shard written again with other content, its index, row and every hash made to fit."""
    path = first_shard(root, role)
    with tarfile.open(path) as tar:
        files = {m.name: tar.extractfile(m).read() for m in tar}
    change(files)
    offsets = {}
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(data), 0o644
            offsets[name] = (tar.offset + tarfile.BLOCKSIZE, len(data))
            tar.addfile(info, io.BytesIO(data))
    data = path.read_bytes()

    def index(part: Any) -> Any:
        if (part.role, part.shard) != (role, path.name):
            return part
        members = (Member(m.name, *offsets[f"{part.key}.{m.name}"]) for m in part.members)
        return replace(part, members=tuple(members))

    def row(shard: Any) -> Any:
        if (shard.role, shard.name) != (role, path.name):
            return shard
        return replace(shard, size_bytes=len(data), sha256=hashlib.sha256(data).hexdigest())

    change_table(root, "parts", lambda rows: [index(r) for r in rows])
    change_table(root, "shards", lambda rows: [row(r) for r in rows])
    reseal(root)


def white_jpeg(files: dict[str, bytes]) -> None:
    name = next(n for n in files if n.endswith(".f001.jpg"))
    files[name] = simplejpeg.encode_jpeg(np.full((64, 64, 3), 255, np.uint8))


def broken_jpeg(files: dict[str, bytes]) -> None:
    name = next(n for n in files if n.endswith(".f001.jpg"))
    files[name] = b"no picture"


def small_jpeg(files: dict[str, bytes]) -> None:
    name = next(n for n in files if n.endswith(".f001.jpg"))
    files[name] = simplejpeg.encode_jpeg(np.zeros((32, 32, 3), np.uint8))


def swap_metadata(files: dict[str, bytes]) -> None:
    a, b, *_ = (n for n in files if n.endswith(".json"))
    files[a], files[b] = files[b], files[a]


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def shorter_array(files: dict[str, bytes]) -> None:
    name = next(n for n in files if re.search(r"-\d{4}\.npy$", n))
    files[name] = _npy(load_npy(files[name])[:-1])


def times_turned(files: dict[str, bytes]) -> None:
    name = next(n for n in files if n.endswith(".times.npy"))
    files[name] = _npy(load_npy(files[name])[::-1])


def rewritten(role: str, change: Callable[[dict[str, bytes]], None]) -> Callable[[Path], None]:
    return lambda root: rewrite_shard(root, role, change)


def stray_shard(root: Path) -> None:
    """Readers that glob would read a sample twice."""
    path = first_shard(root, "low")
    shutil.copy(path, path.with_name("train-00099.tar"))


KEY = r"[0-9a-f]{20}-\d{4}"
HIGH, LOW = r"high-064x064/train-\d{5}\.tar", r"low-016x016/train-\d{5}\.tar"
SHA = "[0-9a-f]{64}"

DAMAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "a flipped byte": (flip_byte, rf"{HIGH}: sha256 is {SHA}, its row says {SHA}"),
    "a truncated shard": (truncate, rf"{LOW}: \d+ bytes, its row says \d+"),
    "a missing shard": (remove_shard, rf"{HIGH}: missing"),
    "two shards swapped": (swap_shards, rf"{HIGH}: (\d+ bytes|sha256 is {SHA}), its row says .*"),
    "an edited row": (edit_a_row, rf"tables/clips\.parquet: sha256 is {SHA}, dataset\.json says {SHA}"),
    "a missing source reject": (drop_reject("source"), "4 source rows, but 3 videos and 0 rejects"),
    "a missing interval reject": (drop_reject("interval"), "3 given intervals, but 2 scenes and 0 rejects"),
    "a missing clip": (drop_row("clips"), r"\d+ scenes, but \d+ clips and 0 rejects"),
    "a missing part": (drop_row("parts"), r"clip [0-9a-f]{20}: \d+ high parts do not cover it as planned \(\d+\)"),
    "a repeated clip": (repeat_clip, r"clip [0-9a-f]{20} has 2 rows"),
    "a wrong number of sources": (count_wrong("sources"), "5 source rows, but 3 videos and 1 rejects"),
    "a clip with a frame missing": (frames_missing, r"clip [0-9a-f]{20}: \d+ frames expected, \d+ written"),
    "an index that points elsewhere": (
        index_elsewhere, rf"{HIGH}: members and index differ \({KEY}\.f000\.jpg, {KEY}\.f001\.jpg\)",
    ),
    "a picture of something else": (
        rewritten("high", white_jpeg), rf"{HIGH}: {KEY}: f001\.jpg and its low-res frame show different pictures",
    ),
    "a JPEG that is none": (rewritten("high", broken_jpeg), rf"{HIGH}: {KEY}: f001\.jpg does not decode: .*"),
    "a JPEG of another size": (
        rewritten("high", small_jpeg), rf"{HIGH}: {KEY}: f001\.jpg is \(32, 32, 3\), expected \(64, 64, 3\)",
    ),
    "metadata of another part": (rewritten("low", swap_metadata), rf"{LOW}: {KEY}: metadata is of another part"),
    "an array a frame short": (
        rewritten("low", shorter_array), rf"{LOW}: {KEY}: low frames are uint8 \(\d+, .*, expected uint8 .*",
    ),
    "times that go backwards": (rewritten("low", times_turned), rf"{LOW}: {KEY}: times are .* or go backwards"),
}  # fmt: skip


DAMAGE |= {
    "a wrong number of clips": (count_wrong("clips"), r"dataset\.json: .*clips.*"),
    "a wrong number of rejects": (count_wrong("rejects"), r"dataset\.json: .*rejects.*"),
    "a fingerprint that is not its own": (
        lambda root: change_description(root, lambda d: d.__setitem__("fingerprint", "0" * 64)),
        r"dataset\.json: .*fingerprint.*",
    ),
    "a shard that no row names": (stray_shard, rf"{LOW}: .*no row.*"),
    "a missing shard row": (drop_row("shards"), r"high-064x064/train-00000\.tar: .*no row.*"),
    "a missing video row": (drop_row("videos"), r".*source rows, but 2 videos and 1 rejects"),
    "an index that points nowhere": (index_nowhere, r".*members and index differ \(.*\.npy\)"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE)
def test_verify_names_damage(damage: str, copy: Path):
    do, message = DAMAGE[damage]
    do(copy)
    problems = verify_dataset(str(copy))
    assert [p for p in problems if re.fullmatch(message, p)], problems


def remove(name: str) -> Callable[[Path], None]:
    return lambda root: (root / name).unlink()


def damage_parquet(root: Path) -> None:
    path = root / "tables" / "parts.parquet"
    data = bytearray(path.read_bytes())
    data[40] ^= 1
    path.write_bytes(data)


UNREADABLE: dict[str, tuple[Callable[[Path], None], str]] = {
    "no dataset.json": (remove("dataset.json"), r"dataset\.json does not exist: no dataset, or one whose build"),
    "dataset.json is no JSON": (lambda r: (r / "dataset.json").write_text("{"), r"dataset\.json is not JSON"),
    "dataset.json of something else": (
        lambda r: (r / "dataset.json").write_text("{}"), r"dataset\.json does not describe a dataset",
    ),
    "a later format": (
        lambda r: change_description(r, lambda d: d.__setitem__("format_version", 99)), r"has format version 99",
    ),
    "a missing table": (remove("tables/parts.parquet"), r"tables/parts\.parquet is missing"),
    "a damaged table": (damage_parquet, r"tables/parts\.parquet is not a readable Parquet file"),
    "a table of another kind": (
        lambda r: shutil.copy(r / "tables" / "clips.parquet", r / "tables" / "scenes.parquet"),
        r"tables/scenes\.parquet is not a scenes table",
    ),
}  # fmt: skip


@pytest.mark.parametrize("damage", UNREADABLE)
def test_what_cannot_be_read_at_all_is_an_error_that_names_the_file(damage: str, copy: Path):
    do, message = UNREADABLE[damage]
    do(copy)
    with pytest.raises(DatasetError, match=message):
        verify_dataset(str(copy))


def test_every_sample_of_a_table_has_the_columns_of_its_own_row(tmp_path):
    (tmp_path / "in").mkdir()
    write_video(tmp_path / "in" / "a.mp4", RECIPES["h264_bframes"], 60)
    rows = ["path,start,end,caption,place", "a.mp4,0,0.5,first,here", "a.mp4,1,1.5,second,here"]
    (tmp_path / "in" / "list.csv").write_text("\n".join(rows))
    card = small_card()
    card["sources"] = [{"kind": "table", "list": "list.csv"}]

    dataset = build_dataset(card, tmp_path / "in", tmp_path / "out")

    found = set()
    for part in dataset.rows("parts"):
        metadata = json.loads(dataset.members(part)["json"])
        found.add((metadata["interval_number"], metadata["clip_start_frame"], metadata["extra"]))
    assert found == {
        (0, 0, '{"caption":"first","place":"here"}'),
        (1, 30, '{"caption":"second","place":"here"}'),
    }
