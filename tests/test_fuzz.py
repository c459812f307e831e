"""Seeded mutations of small real files: each works, or is refused by a known name. Nothing else, and no hang.

`test_*` take a few hundred of them; the slow ones some thousands. A failure names the seed and keeps the file:
run it again with `mutation(kind, seed)`.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import random
import shutil
import tarfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from lvg_data import ids, pictures, prepared, schema, spans, video
from lvg_data.child import ChildLimits, run_in_child
from lvg_data.config import Card, load_card
from lvg_data.errors import CardError, DatasetError, Rejected
from lvg_data.reader import open_dataset
from lvg_data.records import FrameFolder, RenderedFrames, Scene
from lvg_data.sources import list_sources
from lvg_data.sources.trajectories import parse_sequence
from lvg_data.window import View
from tests import hostile
from tests.hostile import mutated

#: of a child that works on a batch, and of one that works on a file whose batch crashed or hung
BATCH_LIMITS = ChildLimits(120, 512 << 20)
FILE_LIMITS = ChildLimits(20, 512 << 20)
BATCH = 50
#: what a child may make of one file: it works, or one of these
ENDINGS = {"decode_crashed", "decode_timeout", "memory_limit", "cpu_limit", "output_limit"}


# ---- media ----------------------------------------------------------------------------------------


def tried_media(path: str, folder: Path) -> str:
    """Probes, plans and decodes a file and renders its first frames, as a build does; returns what became of it."""
    try:
        found = video.probe(path, folder, 1 << 20)
        packets = np.load(folder / "packets.npy")
        base = spans.Fraction(found.time_base)
        for rate in ("native", "25"):
            grid = spans.grid_of(packets, base, rate)
            planned = spans.plan_spans(packets, grid, [range(len(grid))], 0.01, 0.1)
            for span in planned[:3]:
                stop = min(span.stop, span.start + 30)
                reader = video.FrameReader(path, packets, span.start, stop, found.times_counted)
                renderer = spans.Renderer(
                    spans.Geometry(found.rotation_degrees, spans.Fraction(found.sample_aspect_ratio)),
                    found.colour_matrix, found.colour_range == "full", (64, 64), (128, 128),
                )  # fmt: skip
                for ordinal, frame in reader:
                    assert span.start <= ordinal < stop
                    low, high = renderer.render(frame)
                    assert low.shape == (64, 64, 3)
                    assert high.shape == (3, 128, 128)
        list(map(video.luma, video.sample_key_frames(path, packets, found.times_counted, 4), [False] * 4))
    except Rejected as err:
        return err.cause
    return "works"


def tried_batch(kind: str, data: bytes, seeds: list[int], folder: str) -> dict[str, int]:
    """In a child: how often each outcome came."""
    found: Counter[str] = Counter()
    path = Path(folder, f"a.{kind}")
    for seed in seeds:
        path.write_bytes(mutated(data, random.Random(f"{kind} {seed}")))
        try:
            found[tried_media(str(path), Path(folder))] += 1
        except Exception as err:
            raise AssertionError(f"{kind}, seed {seed}: {type(err).__name__}: {err}") from err
    return dict(found)


def fuzz_media(kind: str, folder: Path, seeds: range) -> Counter[str]:
    """Batches in one child each; where one ends, its files again, each in a child of its own."""
    data, found = hostile.write_ordinary(folder, kind).read_bytes(), Counter[str]()
    for first in range(seeds.start, seeds.stop, BATCH):
        batch = list(range(first, min(first + BATCH, seeds.stop)))
        try:
            found.update(run_in_child(tried_batch, (kind, data, batch, str(folder)), BATCH_LIMITS))
        except Rejected:
            for seed in batch:
                try:
                    found.update(run_in_child(tried_batch, (kind, data, [seed], str(folder)), FILE_LIMITS))
                except Rejected as err:
                    found[err.cause] += 1
    return found


def assert_sound(found: Counter[str], total: int) -> None:
    assert found.total() == total
    assert found["works"] > total / 20, found
    assert found.total() - found["works"] > total / 50, found
    assert found["decode_timeout"] == found["output_limit"] == found["cpu_limit"] == 0, found
    assert found["decode_crashed"] <= total / 100, found


@pytest.mark.parametrize("kind", hostile.ORDINARY)
def test_a_mutated_video_works_or_is_refused_by_name(kind, tmp_path):
    assert_sound(fuzz_media(kind, tmp_path, range(40)), 40)


@pytest.mark.slow
@pytest.mark.parametrize("kind", hostile.ORDINARY)
def test_thousands_of_mutated_videos_work_or_are_refused_by_name(kind, tmp_path):
    assert_sound(fuzz_media(kind, tmp_path, range(1000, 1600)), 600)


def tried_pictures(kind: str, data: bytes, seeds: list[int], folder: str) -> dict[str, int]:
    """In a child: a folder of one whole and one mutated picture."""
    found: Counter[str] = Counter()
    frames = Path(folder, "frames")
    frames.mkdir(exist_ok=True)
    (frames / f"0.{kind}").write_bytes(data)
    for seed in seeds:
        (frames / f"1.{kind}").write_bytes(mutated(data, random.Random(f"{kind} {seed}")))
        try:
            pictures.probe(FrameFolder(str(frames), "25"), Path(folder), 1 << 20)
            found[f"{len(list(pictures.PictureReader(str(frames), 0, 2)))} of 2"] += 1
        except Rejected as err:
            found[err.cause] += 1
    return dict(found)


@pytest.mark.parametrize(("kind", "name"), [("jpg", "JPEG"), ("png", "PNG")])
def test_a_mutated_picture_costs_at_most_its_folder(kind, name, tmp_path):
    data = hostile.picture_bytes(name)
    found = run_in_child(tried_pictures, (kind, data, list(range(100)), str(tmp_path)), BATCH_LIMITS)
    assert sum(found.values()) == 100
    assert found.keys() <= {"2 of 2", "1 of 2", "mixed_sizes", "too_many_pixels"}
    assert found["1 of 2"] > 10


# ---- cards, lists, archives and tables --------------------------------------------------------------


def card_text() -> bytes:
    return yaml.safe_dump(hostile.CARD | {"sources": [{"kind": "files", "path": "*.mp4"}]}).encode()


def try_card(path: Path) -> None:
    load_card(path)


def try_list(path: Path) -> None:
    source = {"kind": "table", "list": path.name}
    card = Card.model_validate(hostile.CARD | {"sources": [source]})
    list_sources(card, hostile.place_of(card, path.parent, path.parent / "store"))


CSV = b'url,id,start,end,fps,note\nhttps://127.0.0.1/a.mp4,a,0,1.5,25,x\nhttps://127.0.0.1/b.mp4,b,1:00,2:00,,"y\nz"\n'
JSONL = b"".join(
    json.dumps({"path": f"{n}.mp4", "start": n, "end": n + 1, "n": [n, {"a": None}]}).encode() + b"\n"
    for n in range(5)
)


def list_parquet() -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    rows = [{"path": f"{n}.mp4", "start": n / 2, "end": n + 1.0, "note": "x" * n} for n in range(50)]
    pq.write_table(pa.Table.from_pylist(rows), sink)
    return sink.getvalue().to_pybytes()


def clip_list() -> bytes:
    return json.dumps({f"video{n:06d}": ["0:01 0:02", "1:02:03 1:02:05"] for n in range(5)}).encode()


def try_clip_list(path: Path) -> None:
    source = {"kind": "clip_list", "list": path.name, "url": "https://127.0.0.1/{id}"}
    card = Card.model_validate(hostile.CARD | {"sources": [source]})
    list_sources(card, hostile.place_of(card, path.parent, path.parent / "store"))


POSES = b"https://www.youtube.com/watch?v=abcdefghijk\n" + b"".join(
    b" ".join([str(n * 40_000).encode()] + [b"0.5"] * 18) + b"\n" for n in range(10)
)


def poses_tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name in ("train/a.txt", "test/" + "long" * 40 + ".txt", "readme.md"):
            info = tarfile.TarInfo(name)
            info.size = len(POSES)
            tar.addfile(info, io.BytesIO(POSES))
    return buffer.getvalue()


def try_trajectories(path: Path) -> None:
    source = {"kind": "trajectories", "list": path.name, "url": "https://127.0.0.1/{id}"}
    card = Card.model_validate(hostile.CARD | {"sources": [source]})
    list_sources(card, hostile.place_of(card, path.parent, path.parent / "store"))


def prepared_zip() -> bytes:
    buffer = io.BytesIO()
    names = [f"f{n}.jpg" for n in range(4)]
    import zipfile

    with zipfile.ZipFile(buffer, "w") as archive:
        for number, name in enumerate(names):
            archive.writestr(f"a/{name}", hostile.picture_bytes("JPEG", number, 64, 64))
        archive.writestr("frame_paths.json", json.dumps({"a": names}))
    return buffer.getvalue()


def try_prepared(path: Path) -> None:
    try:
        names = prepared.open_archive(str(path)).clips
    except prepared.ArchiveError:
        return
    for clip in names:
        frames = (RenderedFrames(str(path), clip, "low", "25"),)
        prepared.content_hash(frames)
        prepared.probe(prepared.find_frames(frames), path.parent, 1 << 20)


def scenes_table() -> bytes:
    rows = [
        Scene(f"s{n}", "v", "cut", n, n + 5, "0", "1", None, None, False, 0, None, "end") for n in range(100)
    ]
    return schema.encode_table(Scene, rows)


def try_scenes(path: Path) -> None:
    schema.decode_table(Scene, path.read_bytes(), path.name)


def try_poses(path: Path) -> None:
    try:
        parse_sequence(path.read_bytes())
    except ValueError:
        return  # the archive's reader says it of the member


KINDS: dict[str, tuple[str, Callable[[], bytes], Callable[[Path], None]]] = {
    "card": ("card.yaml", card_text, try_card),
    "csv": ("list.csv", lambda: CSV, try_list),
    "jsonl": ("list.jsonl", lambda: JSONL, try_list),
    "txt": ("list.txt", lambda: b"# films\na.mp4\nhttps://127.0.0.1/b.mp4\n", try_list),
    "parquet": ("list.parquet", list_parquet, try_list),
    "clip_list": ("clips.json", clip_list, try_clip_list),
    "tar": ("poses.tar", poses_tar, try_trajectories),
    "tar_gz": ("poses.tar.gz", lambda: gzip.compress(poses_tar(), mtime=0), try_trajectories),
    "poses": ("poses.txt", lambda: POSES, try_poses),
    "prepared": ("partition_0000.zip", prepared_zip, try_prepared),
    "scenes": ("scenes.parquet", scenes_table, try_scenes),
}


def tried_texts(kind: str, data: bytes, seeds: list[int], folder: str) -> dict[str, int]:
    """In a child, which a crash of a C library would end: how often each outcome came."""
    name, _, attempt = KINDS[kind]
    found: Counter[str] = Counter()
    path = Path(folder, name)
    for seed in seeds:
        path.write_bytes(mutated(data, random.Random(f"{kind} {seed}")))
        try:
            attempt(path)
            found["works"] += 1
        except (CardError, DatasetError, Rejected) as err:
            assert str(err), f"{kind}, seed {seed}: an error without words"
            assert all(c.isprintable() or c == "\n" for c in str(err)), f"{kind}, seed {seed}: {err!r}"
            found[type(err).__name__] += 1
        except Exception as err:
            raise AssertionError(f"{kind}, seed {seed}: {type(err).__name__}: {err}") from err
    return dict(found)


def fuzz_text(kind: str, folder: Path, seeds: range) -> None:
    found = run_in_child(tried_texts, (kind, KINDS[kind][1](), list(seeds), str(folder)), BATCH_LIMITS)
    assert sum(found.values()) == len(seeds)
    assert kind in ("poses", "tar_gz") or len(found) > 1, (
        found
    )  # of one kind all errors, of the other none is told


@pytest.mark.parametrize("kind", KINDS)
def test_a_mutated_card_list_or_table_works_or_is_refused_by_name(kind, tmp_path):
    fuzz_text(kind, tmp_path, range(60))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_thousands_of_mutated_cards_lists_and_tables_work_or_are_refused_by_name(kind, tmp_path):
    fuzz_text(kind, tmp_path, range(1000, 1600))


# ---- finished datasets ------------------------------------------------------------------------------


def make_dataset(folder: Path) -> None:
    """Two clips of 20 frames at both resolutions, in several parts and shards, some 60 KB."""
    from tests.builds import build_dataset, small_card  # not in the children: Beam takes half of their memory
    from tests.videos import RECIPES, write_video

    for number, name in enumerate("ab"):
        write_video(
            folder / f"{name}.mp4", RECIPES["h264_bframes"], 20, first_number=40 * number, width=64, height=64
        )
    card = small_card(
        low={"height": 8, "width": 8, "part_frames": 12, "window_frames": 4},
        high={"height": 16, "width": 16},
        cuts={"detector": "none"},
        shards={"target_bytes": 65_536},
    )
    build_dataset(card, folder, folder / "out", store=folder / "store")


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Path:
    """A small dataset. To be read only."""
    from tests.builds import make_once

    return make_once(tmp_path_factory, "fuzz-dataset", make_dataset) / "out"


def all_frames(root: str, check: bool) -> list[bytes]:
    """What a reader gets of every clip, and of some windows."""
    opened = open_dataset(root, check)
    found = []
    for clip in opened.clips:
        arrays = [clip.low(), clip.times(), *([clip.high()] if clip.row.in_high else [])]
        found += [array.tobytes() for array in arrays]
    for view in (View(4, stride=2), View(2, 1, roles=("low", "high"))):
        for index in range(4):
            window = opened.window(view, index, 0)
            found += [array.tobytes() for array in (window.low, window.high) if array is not None]
    return found


def sign(root: Path, change: Callable[[dict], object] = lambda _: None) -> None:
    """Makes dataset.json agree with itself and with the tables that lie there, as one who means harm would."""
    path = root / "dataset.json"
    description = json.loads(path.read_bytes())
    change(description)
    if isinstance(description.get("tables"), dict):
        for name in description["tables"]:
            digest = hashlib.sha256((root / name).read_bytes()).hexdigest()
            description["tables"][name] = {"rows": 1, "sha256": digest}
    del description["fingerprint"]
    path.write_text(json.dumps(description | {"fingerprint": ids.canonical_hash(description)}))


NASTY = (-(1 << 63), -1, 0, 1, 3, 511, 65_536, 1 << 31, 1 << 40, (1 << 63) - 1)
NASTY_WORDS = (
    "",
    "low",
    "high",
    "train",
    "val",
    "f001.jpg",
    "npy",
    "../../x.tar",
    "/etc/passwd",
    "a\0b",
    "x" * 4000,
)


def spoil(value: Any, rng: random.Random) -> Any:
    """A value of the same type, in one place another."""
    match value:
        case bool():
            return not value
        case int():
            return rng.choice((*NASTY, value + 1, value - 1, value * 2))
        case float():
            return rng.choice((0.0, -1.0, 1e308, float("nan")))
        case str():
            return rng.choice((*NASTY_WORDS, value[::-1], f"{value}0"))
        case list() if value:
            at = rng.randrange(len(value))
            return rng.choice(
                (value[:at], value[at:] * 2, [*value[:at], spoil(value[at], rng), *value[at + 1 :]])
            )
        case dict() if value:
            name = rng.choice(sorted(value))
            return {**value, name: spoil(value[name], rng)}
    return value


def spoil_bytes(path: Path, rng: random.Random) -> None:
    path.write_bytes(mutated(path.read_bytes(), rng))


def spoil_rows(path: Path, rng: random.Random) -> None:
    """Whole Parquet of the right schema, with lies in it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    rows = table.to_pylist()
    for _ in range(rng.choice((1, 1, 2))):
        at = rng.randrange(len(rows))
        rows[at : at + 1] = rng.choice(([spoil(rows[at], rng)], [spoil(rows[at], rng)], [], [rows[at]] * 2))
        if not rows:
            break
    pq.write_table(pa.Table.from_pylist(rows, table.schema), path, write_page_checksum=True)


def spoil_table(root: Path, rng: random.Random) -> None:
    spoil_bytes(root / f"tables/{rng.choice(('clips', 'parts', 'shards'))}.parquet", rng)


def spoil_signed_table(root: Path, rng: random.Random) -> None:
    spoil_table(root, rng)
    sign(root)


def spoil_signed_rows(root: Path, rng: random.Random) -> None:
    spoil_rows(root / f"tables/{rng.choice(('clips', 'parts', 'parts', 'parts', 'shards'))}.parquet", rng)
    sign(root)


def spoil_signed_description(root: Path, rng: random.Random) -> None:
    def change(description: dict) -> None:
        name = rng.choice(("recipe", "tables", "format", "format_version", "counts"))
        inside = description[name]
        if name == "recipe" and rng.random() < 0.7:
            role = rng.choice(("low", "high"))
            inside = {**inside, role: spoil(inside[role], rng)}
        description[name] = rng.choice((None, 7, [], "x")) if rng.random() < 0.3 else inside
        if name == "recipe" and rng.random() < 0.2:
            del description[name]

    sign(root, change)


def spoil_shard(root: Path, rng: random.Random) -> None:
    spoil_bytes(rng.choice(sorted(root.glob("*-0*/*.tar"))), rng)


#: what is spoilt -> how, whether shards are hashed, and whether other frames than the right ones may come of it
SPOILT: dict[str, tuple[Callable[[Path, random.Random], None], bool, bool]] = {
    "table": (spoil_table, True, False),
    "dataset.json": (lambda root, rng: spoil_bytes(root / "dataset.json", rng), True, False),
    "shard": (spoil_shard, True, False),
    "shard that nobody hashes": (spoil_shard, False, True),
    "signed table": (spoil_signed_table, False, True),
    "signed rows": (spoil_signed_rows, False, True),
    "signed dataset.json": (spoil_signed_description, False, True),
}


def tried_datasets(name: str, source: str, seeds: list[int], folder: str) -> dict[str, int]:
    """In a child with limits: how often the frames were the right ones, others, or refused."""
    spoiling, check, may_differ = SPOILT[name]
    whole, root, found = all_frames(source, True), Path(folder, "set"), Counter[str]()
    for seed in seeds:
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(source, root, ignore=shutil.ignore_patterns("runs", ".*"))
        spoiling(root, random.Random(f"{name} {seed}"))
        try:
            same = all_frames(str(root), check) == whole
            assert same or may_differ, f"{name}, seed {seed}: other frames"
            found["same" if same else "others"] += 1
        except DatasetError as err:
            assert all(c.isprintable() or c == "\n" for c in str(err)) and len(str(err)) < 5000, (
                f"{name}, seed {seed}: {err!r}"
            )
            found["refused"] += 1
        except ValueError as err:
            assert "no clip is of the split" in str(err) or "no window fits" in str(err), (
                f"{name}, seed {seed}: {err!r}"
            )
            found["refused"] += 1
        except Exception as err:
            raise AssertionError(f"{name}, seed {seed}: {type(err).__name__}: {err}") from err
    return dict(found)


def fuzz_dataset(name: str, source: Path, folder: Path, seeds: range) -> None:
    limits = ChildLimits(180, 512 << 20)
    found = run_in_child(tried_datasets, (name, str(source), list(seeds), str(folder)), limits)
    assert sum(found.values()) == len(seeds)
    assert found["refused"] > len(seeds) / 4, found


@pytest.mark.parametrize("name", SPOILT)
def test_a_mutated_dataset_gives_its_frames_or_is_refused_by_name(name, finished, tmp_path):
    fuzz_dataset(name, finished, tmp_path, range(40))


@pytest.mark.slow
@pytest.mark.parametrize("name", SPOILT)
def test_thousands_of_mutated_datasets_give_their_frames_or_are_refused_by_name(name, finished, tmp_path):
    fuzz_dataset(name, finished, tmp_path, range(1000, 1500))


def change_members(root: Path, change: Callable[[dict], dict]) -> None:
    """Another place for every member of the index, and dataset.json to agree."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = root / "tables" / "parts.parquet"
    table = pq.read_table(path)
    rows = [row | {"members": [change(member) for member in row["members"]]} for row in table.to_pylist()]
    pq.write_table(pa.Table.from_pylist(rows, table.schema), path)
    sign(root)


@pytest.mark.parametrize(
    "change",
    [
        {"offset_bytes": 1 << 40},
        {"offset_bytes": -512},
        {"size_bytes": 1 << 40},
        {"size_bytes": -1},
        {"offset_bytes": (1 << 63) - 1, "size_bytes": (1 << 63) - 1},
    ],
)
@pytest.mark.parametrize("role", ["low", "high"])
def test_an_index_that_points_outside_its_tar_is_refused(role, change, finished, tmp_path):
    root = shutil.copytree(finished, tmp_path / "set", ignore=shutil.ignore_patterns(".*"))
    change_members(root, lambda member: member | change)
    clip = open_dataset(root).clips[0]
    with pytest.raises(DatasetError, match=r"part \w+-0000: .* bytes at .* do not lie inside the shard of"):
        getattr(clip, role)()


def test_a_shards_table_cannot_name_a_file_outside_its_dataset(finished, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    root = shutil.copytree(finished, tmp_path / "set", ignore=shutil.ignore_patterns(".*"))
    for name, column in (("shards", "name"), ("parts", "shard")):
        table = pq.read_table(root / f"tables/{name}.parquet")
        rows = [row | {column: "../../secret.tar"} for row in table.to_pylist()]
        pq.write_table(pa.Table.from_pylist(rows, table.schema), root / f"tables/{name}.parquet")
    sign(root)
    with pytest.raises(DatasetError, match=r"names '\.\./\.\./secret\.tar' of the resolution"):
        open_dataset(root)
