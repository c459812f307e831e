"""Export to LongVideoGAN's ZIPs: what its reader asks for, the shards' own JPEGs, the same bytes each time."""

import fcntl
import io
import json
import os
import re
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest
import simplejpeg
from click.testing import CliRunner
from PIL import Image

from lvg_data import prepared
from lvg_data.config import Card
from lvg_data.errors import DatasetError
from lvg_data.export import export_longvideogan, folder_of_video
from lvg_data.fetch.desk import Desk
from lvg_data.records import RenderedSpan, Source, Span
from lvg_data.sources.place import Place
from lvg_data.sources.prepared import list_sources
from lvg_data.spans import RenderedFrames, span_job
from lvg_data.store import Store
from pipelines.cli import main
from tests.builds import Dataset, build_dataset, load_npy, make_once, small_card
from tests.test_prepared import job_of
from tests.videos import RECIPES, write_video

LOW, HIGH = (16, 16), (64, 64)
FOLDERS = {"low": "0016x0016", "high": "0064x0064"}
#: ends small partitions after every clip or two
SMALL = 150_000


def card_of(**changes: Any) -> dict[str, Any]:
    card = small_card(
        name="rides",
        title="Rides for a test",
        sources=[
            {"kind": "files", "path": "films", "intervals": {"given.mp4": [["0.2", "1.4"], ["0.2", "2.5"]]}}
        ],
        low={"height": LOW[0], "width": LOW[1], "min_frames": 16, "part_frames": 24},
        high={"height": HIGH[0], "width": HIGH[1]},
        shards={"target_bytes": 150_000},
    )
    for name, value in changes.items():
        card[name] = card[name] | value if isinstance(value, dict) else value
    return card


def make_films(folder: Path) -> None:
    films = folder / "films"
    films.mkdir()
    size = {"width": 160, "height": 90}
    write_video(films / "cuts.mp4", RECIPES["h264_bframes"], 100, scene_starts=(0, 61), **size)
    write_video(films / "given.mp4", RECIPES["h264_no_bframes"], 80, **size)


def make_datasets(folder: Path) -> None:
    """One film, three cards: all clips at both resolutions, some at low only, all at low only."""
    make_films(folder)
    for name, shortest in (("whole", 4), ("mixed", 50), ("low", 1000)):
        build_dataset(
            card_of(high={"min_frames": shortest}), folder, folder / name, store=folder / "store"
        )  # fmt: skip


@pytest.fixture(scope="module")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the good datasets `whole`, `mixed` and `low`. To be read only."""
    return make_once(tmp_path_factory, "export-datasets", make_datasets)


@pytest.fixture(scope="module")
def whole(datasets: Path) -> Dataset:
    return Dataset(datasets / "whole")


@pytest.fixture
def exported(whole: Dataset, tmp_path: Path) -> Path:
    export_longvideogan(str(whole.root), str(tmp_path / "zips"), partition_bytes=SMALL)
    return tmp_path / "zips"


def files_of(root: Path) -> dict[str, bytes]:
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def read_as_the_release_does(folder: Path) -> dict[tuple[str, str], list[bytes]]:
    """JPEGs by partition and clip path: archives by glob, lists by JSON, frames by name."""
    found = {}
    for path in sorted(folder.glob("*.zip")):
        with zipfile.ZipFile(path) as archive:
            listed = json.loads(archive.read("frame_paths.json"))
            for clip, names in sorted(listed.items()):
                members = [str(PurePosixPath(clip).joinpath(name)) for name in names]
                found[path.stem, clip] = [archive.read(name) for name in members]
    return found


def frames_of_shards(dataset: Dataset) -> dict[str, tuple[list[bytes], np.ndarray]]:
    """High-res JPEGs and low-res frames of each clip, by clip id, put together frame by frame."""
    jpegs: dict[str, dict[int, bytes]] = {}
    lows: dict[str, dict[int, np.ndarray]] = {}
    for part in (row for row in dataset.rows("parts") if row["role"] == "high"):
        members = dataset.members(part)
        low = load_npy(members["low.npy"])
        for inside, frame in enumerate(range(part["start_frame"], part["stop_frame"])):
            jpegs.setdefault(part["clip_id"], {})[frame] = members[f"f{inside:03d}.jpg"]
            lows.setdefault(part["clip_id"], {})[frame] = low[inside]
    return {
        clip: ([found[n] for n in sorted(found)], np.stack([lows[clip][n] for n in sorted(found)]))
        for clip, found in jpegs.items()
    }


def path_of(clip: dict[str, Any]) -> str:
    return f"{clip['video_id']}/{clip['start_frame']:06d}-{clip['stop_frame']:06d}"


# ---------------------------------------------------------------------------------------------------- the format


def test_the_same_dataset_gives_the_same_bytes(whole: Dataset, exported: Path, tmp_path: Path):
    export_longvideogan(str(whole.root), str(tmp_path / "again"), partition_bytes=SMALL)

    assert len(files_of(exported)) > 5
    assert files_of(tmp_path / "again") == files_of(exported)


def test_the_releases_reader_finds_every_clip_at_both_resolutions(whole: Dataset, exported: Path):
    """It asks for the same clips and frames in partitions of the same names."""
    low, high = (read_as_the_release_does(exported / FOLDERS[role]) for role in ("low", "high"))

    assert {key: len(jpegs) for key, jpegs in low.items()} == {key: len(jpegs) for key, jpegs in high.items()}
    clips = whole.rows("clips")
    assert {clip for _, clip in high} == {path_of(clip) for clip in clips}
    assert len(high) == len(clips) == 4
    for (_, path), jpegs in high.items():
        (clip,) = (clip for clip in clips if path_of(clip) == path)
        assert len(jpegs) == clip["stop_frame"] - clip["start_frame"] == len(clip_frames(whole, clip)[0])
    pictures = [
        np.array(Image.open(io.BytesIO(jpegs[0]))) for found in (low, high) for jpegs in found.values()
    ]
    assert {picture.shape for picture in pictures} == {(*LOW, 3), (*HIGH, 3)}


def clip_frames(dataset: Dataset, clip: dict[str, Any]) -> tuple[list[bytes], np.ndarray]:
    return frames_of_shards(dataset)[clip["clip_id"]]


def test_high_jpegs_are_those_of_the_shards(whole: Dataset, exported: Path):
    found = {clip: jpegs for (_, clip), jpegs in read_as_the_release_does(exported / FOLDERS["high"]).items()}
    assert found == {path_of(clip): clip_frames(whole, clip)[0] for clip in whole.rows("clips")}


def test_low_frames_are_encoded_once_at_full_colour_resolution(whole: Dataset, exported: Path):
    found = {clip: jpegs for (_, clip), jpegs in read_as_the_release_does(exported / FOLDERS["low"]).items()}
    for clip in whole.rows("clips"):
        jpegs, raw = found[path_of(clip)], clip_frames(whole, clip)[1]
        assert {simplejpeg.decode_jpeg_header(data)[3] for data in jpegs} == {"444"}
        decoded = np.stack([simplejpeg.decode_jpeg(data) for data in jpegs])
        assert np.abs(decoded.astype(int) - raw).max() <= 4


def test_members_are_stored_with_fixed_headers_and_the_list_is_last(exported: Path):
    for path in exported.glob("*/*.zip"):
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            assert archive.testzip() is None
        assert {m.compress_type for m in members} == {zipfile.ZIP_STORED}
        assert {m.date_time for m in members} == {(1980, 1, 1, 0, 0, 0)}
        assert {(m.create_system, m.external_attr >> 16) for m in members} == {(3, 0o100644)}
        names = [m.filename for m in members]
        assert names[-1] == "frame_paths.json"
        assert len(set(names)) == len(names)


def test_clips_stand_in_the_order_of_the_table(whole: Dataset, exported: Path):
    paths = sorted((exported / FOLDERS["high"]).glob("*.zip"))
    names = [name for path in paths for name in zipfile.ZipFile(path).namelist()]
    clips = [name.rpartition("/")[0] for name in names if name.endswith("/frame_000000.jpg")]
    assert clips == [path_of(clip) for clip in whole.rows("clips")]


def test_a_partition_ends_with_the_clip_that_reaches_its_size(whole: Dataset, exported: Path):
    found = read_as_the_release_does(exported / FOLDERS["high"])
    partitions: dict[str, list[int]] = {}
    for (partition, _), jpegs in found.items():
        partitions.setdefault(partition, []).append(sum(map(len, jpegs)))

    assert list(partitions) == [f"partition_{n:04d}" for n in range(len(partitions))]
    assert len(partitions) > 1
    *closed, _ = partitions.values()
    assert all(sum(sizes) >= SMALL > sum(sizes) - max(sizes) for sizes in closed)


def test_all_clips_are_in_one_partition_by_default(whole: Dataset, tmp_path: Path):
    export_longvideogan(str(whole.root), str(tmp_path / "zips"))
    assert [p.name for p in sorted((tmp_path / "zips").glob("*/*.zip"))] == ["partition_0000.zip"] * 2


def test_the_note_carries_licence_rates_and_origins(whole: Dataset, exported: Path):
    note = json.loads((exported / "lvg.json").read_text())

    clips = whole.rows("clips")
    archives = {p.relative_to(exported).as_posix(): p.stat().st_size for p in exported.glob("*/*.zip")}
    assert note["archives"] == archives
    assert (note["licence"], note["attribution"]) == ("CC0-1.0", "made in the test")
    assert note["fingerprint"] == whole.description["fingerprint"]
    assert note["folders"] == FOLDERS
    assert note["frame_rates"] == {"30": 4}
    assert (note["split"], note["num_clips"], note["clips_left_out"]) == ("train", 4, [])
    assert note["num_frames"] == whole.description["counts"]["clip_frames"]
    assert set(note["clips"]) == {path_of(clip) for clip in clips}
    origins = {row["video_id"]: row["origin"] for row in whole.rows("videos")}
    told = note["clips"][path_of(clips[0])]
    assert (told["source"], told["licence"]) == (origins[clips[0]["video_id"]], "CC0-1.0")


@pytest.mark.parametrize("video_id", ["0123456789abcdef", "ride-1_b", "7"])
def test_a_plain_id_is_a_folders_name_as_it_is(video_id: str):
    assert folder_of_video(video_id) == video_id


@pytest.mark.parametrize(
    "video_id", ["-T9l0aTmN2k", "dQw4w9WgXcQ", "../../etc", "a/b", "日本", "a" * 65, "a\n", ""]
)
def test_any_other_id_is_hashed(video_id: str):
    assert re.fullmatch("id-[0-9a-f]{20}", folder_of_video(video_id))
    assert folder_of_video("-T9l0aTmN2k") == "id-a5b163e83014851cdb40"


# --------------------------------------------------------------------------------------------- which clips there are


def test_a_dataset_without_high_resolution_gives_the_low_folder_alone(datasets: Path, tmp_path: Path):
    note = export_longvideogan(str(datasets / "low"), str(tmp_path / "zips"))

    assert note["folders"] == {"low": FOLDERS["low"]}
    assert [p.name for p in (tmp_path / "zips").iterdir() if p.is_dir()] == [FOLDERS["low"]]
    found = read_as_the_release_does(tmp_path / "zips" / FOLDERS["low"])
    dataset = Dataset(datasets / "low")
    assert {c: len(jpegs) for (_, c), jpegs in found.items()} == {
        path_of(clip): clip["stop_frame"] - clip["start_frame"] for clip in dataset.rows("clips")
    }
    part = next(row for row in dataset.rows("parts") if row["role"] == "low" and row["part_index"] == 1)
    (clip,) = (clip for clip in dataset.rows("clips") if clip["clip_id"] == part["clip_id"])
    raw = load_npy(dataset.members(part)["npy"])
    jpegs = found["partition_0000", path_of(clip)][part["start_frame"] : part["stop_frame"]]
    decoded = np.stack([simplejpeg.decode_jpeg(data) for data in jpegs])
    assert np.abs(decoded.astype(int) - raw).max() <= 4


def test_clips_without_high_resolution_are_left_out_by_name(datasets: Path, tmp_path: Path):
    note = export_longvideogan(str(datasets / "mixed"), str(tmp_path / "zips"))

    clips = Dataset(datasets / "mixed").rows("clips")
    assert note["clips_left_out"] == [clip["clip_id"] for clip in clips if not clip["in_high"]]
    assert len(note["clips_left_out"]) == 2
    for role in ("low", "high"):
        found = read_as_the_release_does(tmp_path / "zips" / FOLDERS[role])
        assert {clip for _, clip in found} == {path_of(clip) for clip in clips if clip["in_high"]}


def test_a_split_that_is_not_there_is_an_error_that_lists_those_that_are(whole: Dataset, tmp_path: Path):
    with pytest.raises(DatasetError, match=r"no clip in split 'val'; splits and their clips: train \(4\)$"):
        export_longvideogan(str(whole.root), str(tmp_path / "zips"), "val")
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------------------------------------------- OUT


def out_with_a_file(out: Path) -> str:
    out.mkdir()
    (out / "mine.txt").write_text("keep")
    return str(out)


def out_is_a_file(out: Path) -> str:
    out.write_text("keep")
    return str(out)


BAD_OUTS: dict[str, tuple[Callable[[Path], str], str]] = {
    "other files": (out_with_a_file, r"out is not empty, and an export is never mixed .*; name a new folder"),
    "a file": (out_is_a_file, r"out is a file; name a new folder"),
    "remote": (lambda out: "s3://bucket/out", r"s3://bucket/out: archives are written to a local folder"),
}


@pytest.mark.parametrize("case", BAD_OUTS)
def test_an_unfit_folder_is_refused_and_left_alone(case: str, whole: Dataset, tmp_path: Path):
    make, message = BAD_OUTS[case]
    out = make(tmp_path / "out")
    before = files_of(tmp_path)

    with pytest.raises(DatasetError, match=message):
        export_longvideogan(str(whole.root), out)
    assert files_of(tmp_path) == before


def test_an_empty_folder_is_filled_and_what_a_killed_export_left_is_removed(whole: Dataset, tmp_path: Path):
    (tmp_path / "out").mkdir()
    leftover = tmp_path / ".out.exporting" / FOLDERS["low"]
    leftover.mkdir(parents=True)
    (leftover / "partition_0009.zip").write_bytes(b"half")

    export_longvideogan(str(whole.root), str(tmp_path / "out"))

    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    assert {p.name for p in (tmp_path / "out").rglob("*.zip")} == {"partition_0000.zip"}


def test_two_exports_never_write_to_one_folder(whole: Dataset, tmp_path: Path):
    (tmp_path / ".out.exporting").mkdir()
    lock = os.open(tmp_path / ".out.exporting", os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        with pytest.raises(DatasetError, match=r"another export is writing to .*out; wait for it"):
            export_longvideogan(str(whole.root), str(tmp_path / "out"))
    finally:
        os.close(lock)


def cut_short(shard: Path) -> None:
    os.truncate(shard, shard.stat().st_size // 2)


def zeroed(shard: Path) -> None:
    shard.write_bytes(bytes(shard.stat().st_size))


@pytest.mark.parametrize("damage", [cut_short, zeroed, Path.unlink])
def test_a_damaged_shard_is_named_and_nothing_is_left_behind(
    damage: Callable[[Path], None], whole: Dataset, tmp_path: Path
):
    copy = shutil.copytree(whole.root, tmp_path / "copy")
    damage(copy / "high-064x064" / "train-00000.tar")

    with pytest.raises(
        DatasetError, match=r"high-064x064/train-00000\.tar: part [0-9a-f]{20}-\d{4} cannot be read"
    ):
        export_longvideogan(str(copy), str(tmp_path / "out"))
    assert [p.name for p in tmp_path.iterdir()] == ["copy"]


def test_an_unfinished_dataset_is_refused(whole: Dataset, tmp_path: Path):
    with pytest.raises(DatasetError, match=r"dataset\.json does not exist"):
        export_longvideogan(str(tmp_path), str(tmp_path / "out"))


def test_progress_counts_frames(whole: Dataset, tmp_path: Path):
    seen: list[tuple[int, int]] = []
    export_longvideogan(str(whole.root), str(tmp_path / "out"), progress=lambda *now: seen.append(now))

    total = whole.description["counts"]["clip_frames"]
    assert (seen[0], seen[-1]) == ((0, total), (total, total))
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})


# ---------------------------------------------------------------------------------------------------- and back


def import_card(**changes: Any) -> dict[str, Any]:
    return card_of(sources=[{"kind": "longvideogan_zips", "path": "zips", "frame_rate": 30}], **changes)


def imported(folder: Path) -> list[Source]:
    card = Card.model_validate(import_card())
    place = Place(folder, Desk.of(card, Store(str(folder / "store"))))
    return list(list_sources(card.sources[0], card, place))


def test_what_was_exported_is_imported_frame_for_frame(whole: Dataset, exported: Path, tmp_path: Path):
    sources = {source.origin: source for source in imported(exported.parent)}
    low_jpegs = {c: jpegs for (_, c), jpegs in read_as_the_release_does(exported / FOLDERS["low"]).items()}

    assert set(sources) == {path_of(clip) for clip in whole.rows("clips")}
    for number, clip in enumerate(whole.rows("clips")):
        source, high = sources[path_of(clip)], clip_frames(whole, clip)[0]
        assert source.group == clip["video_id"]
        found = prepared.find_frames(source.media)
        folder = tmp_path / str(number)
        folder.mkdir()
        probe = prepared.probe(found, folder, 1 << 20)
        assert (probe.width, probe.height, probe.time_base) == (64, 64, "1/30")
        row = job_of([], 0).video
        span = Span(0, len(high), ((0, len(high)),), 1.0)
        job = span_job(span, row, Card.model_validate(import_card()))
        result = prepared.copy_span(found, job, folder)
        assert result == {"num_frames": len(high), "num_missing": 0}
        copied = RenderedFrames([RenderedSpan(0, len(high), str(folder), **result)], LOW)
        assert list(copied.high(np.arange(len(high)))) == high
        expected = [simplejpeg.decode_jpeg(data) for data in low_jpegs[path_of(clip)]]
        np.testing.assert_array_equal(list(copied.low(np.arange(len(high)))), expected)


def test_a_clip_has_one_content_hash_however_it_is_partitioned(
    whole: Dataset, exported: Path, tmp_path: Path
):
    (tmp_path / "other").mkdir()
    export_longvideogan(str(whole.root), str(tmp_path / "other" / "zips"))

    hashes = [
        {source.origin: prepared.content_hash(source.media) for source in imported(folder)}
        for folder in (exported.parent, tmp_path / "other")
    ]
    assert hashes[0] == hashes[1]
    assert len(set(hashes[0].values())) == 4


def test_a_dataset_survives_the_way_there_and_back(whole: Dataset, exported: Path, tmp_path: Path):
    """Exported, imported, built, exported again: high-res frames stay bit for bit, clips whole."""
    from lvg_data.verify import verify_dataset

    again = build_dataset(import_card(), tmp_path, tmp_path / "again")

    assert verify_dataset(str(again.root)) == []
    origins = {row["video_id"]: row["origin"] for row in again.rows("videos")}
    rebuilt = {origins[clip["video_id"]]: clip for clip in again.rows("clips")}
    assert set(rebuilt) == {path_of(clip) for clip in whole.rows("clips")}
    for clip in whole.rows("clips"):
        assert clip_frames(again, rebuilt[path_of(clip)])[0] == clip_frames(whole, clip)[0]
        assert rebuilt[path_of(clip)]["frame_rate"] == "30"
    export_longvideogan(str(again.root), str(tmp_path / "second"))
    second = read_as_the_release_does(tmp_path / "second" / FOLDERS["high"])
    first = read_as_the_release_does(exported / FOLDERS["high"])
    assert sorted(second.values()) == sorted(first.values())


# ---------------------------------------------------------------------------------------------------- the command


def run(*arguments: str) -> Any:
    return CliRunner().invoke(main, ["export-longvideogan", *arguments])


def test_the_command_says_what_it_wrote(whole: Dataset, tmp_path: Path):
    out = str(tmp_path / "zips")
    done = run(str(whole.root), out, "--partition-bytes", str(SMALL))

    total = whole.description["counts"]["clip_frames"]
    assert done.exit_code == 0, done.output
    assert done.stdout == (
        f"wrote 4 clips, {total} frames as 0016x0016 and 0064x0064 to {out}; licence: CC0-1.0\n"
    )
    assert len(list((tmp_path / "zips").glob("*/*.zip"))) > 2


def test_the_command_tells_what_it_left_out(datasets: Path, tmp_path: Path):
    done = run(str(datasets / "mixed"), str(tmp_path / "zips"))

    assert done.exit_code == 0, done.output
    assert "left out 2 clips without high resolution, named in lvg.json" in done.stderr


def test_the_commands_json_is_the_note(whole: Dataset, tmp_path: Path):
    done = run(str(whole.root), str(tmp_path / "zips"), "--json")

    note = json.loads((tmp_path / "zips" / "lvg.json").read_text())
    assert json.loads(done.stdout) == {"out": str(tmp_path / "zips"), **note}


def test_the_command_shows_mistakes_as_one_message(whole: Dataset, tmp_path: Path):
    done = run(str(whole.root), str(tmp_path), "--split", "val")
    assert (done.exit_code, done.stdout) == (1, "")
    assert "has no clip in split 'val'" in done.stderr and "Traceback" not in done.stderr


def test_help_shows_an_example(whole: Dataset):
    assert "lvg-data export-longvideogan rides-dataset rides-zips\n" in run("--help").stdout
