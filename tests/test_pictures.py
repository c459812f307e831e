"""Folders of numbered frames as videos: order, gaps, splits, and the frames themselves."""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lvg_data import pictures, video
from lvg_data.errors import Rejected
from lvg_data.records import FrameFolder
from lvg_data.timeline import Grid, gaps_of
from lvg_data.verify import verify_dataset
from tests.builds import Dataset, build_dataset, load_npy, small_card

SIZE = (96, 64)


def painted(number: int) -> Image.Image:
    """A picture whose left half is as bright as its number, over a pattern that moves with it."""
    x, y = np.meshgrid(np.arange(SIZE[0]), np.arange(SIZE[1]))
    pattern = 128 + 60 * np.sin((x + 5 * number) / 9) * np.cos(y / 7)
    pattern[:, : SIZE[0] // 2] = 20 + 5 * number
    return Image.fromarray(np.repeat(pattern[:, :, None], 3, axis=2).astype(np.uint8))


def level(frame: np.ndarray) -> int:
    """The number that was painted."""
    height, width = frame.shape[:2]
    patch = frame[height // 4 : 3 * height // 4, width // 8 : width * 3 // 8]
    return round((float(patch.mean()) - 20) / 5)


def write_folder(
    folder: Path, numbers: list[int], name: str = "clip_frames_{:08d}.jpg", **options: Any
) -> Path:
    folder.mkdir(parents=True)
    for number in numbers:
        painted(number).save(folder / name.format(number), **options)
    return folder


def folder_card(**changes: Any) -> dict[str, Any]:
    sources = [{"kind": "frame_folders", "path": ".", "frame_rate": 25, **changes.pop("source", {})}]
    cuts = {"detector": "none", "fade_threshold": None, "guard_frames": 2}
    return {**small_card(cuts=cuts, crop="squash", **changes), "sources": sources}


def shown_numbers(dataset: Dataset, clip: dict[str, Any]) -> list[int]:
    """The painted number of each low-res frame of a clip."""
    found: dict[int, int] = {}
    for part in dataset.rows("parts"):
        if part["clip_id"] == clip["clip_id"] and part["role"] == "low":
            frames = load_npy(dataset.members(part)["npy"])
            found |= {part["start_frame"] + n: level(frame) for n, frame in enumerate(frames)}
    return [found[n] for n in sorted(found)]


# ---- one folder


def test_frames_are_ordered_by_number_not_by_name(tmp_path):
    folder = write_folder(tmp_path / "f", [9, 10, 100, 2], "x_{}.jpg")

    assert [name for _, name in pictures.list_pictures(str(folder))] == [
        "x_2.jpg",
        "x_9.jpg",
        "x_10.jpg",
        "x_100.jpg",
    ]


def test_other_files_in_a_folder_are_no_frames(tmp_path):
    folder = write_folder(tmp_path / "f", [1, 2])
    (folder / "notes_3.txt").write_text("x")
    (folder / "cover.jpg").write_bytes(b"x")

    assert [number for number, _ in pictures.list_pictures(str(folder))] == [1, 2]


def test_two_frames_with_one_number_are_refused(tmp_path):
    folder = write_folder(tmp_path / "f", [1, 2])
    painted(2).save(folder / "other_2.jpg")

    with pytest.raises(
        Rejected, match=r"broken_times: .*clip_frames_00000002.jpg and other_2.jpg have one number"
    ):
        pictures.list_pictures(str(folder))


def test_a_missing_and_an_empty_folder_are_told_apart(tmp_path):
    with pytest.raises(Rejected, match="not_found"):
        pictures.list_pictures(str(tmp_path / "no"))
    with pytest.raises(Rejected, match="no_frames"):
        pictures.list_pictures(str(tmp_path))


def test_the_content_hash_sees_bytes_and_numbers_but_not_names(tmp_path):
    hashes = [
        pictures.content_hash(str(write_folder(tmp_path / "a", [1, 2, 3], "a{}.jpg"))),
        pictures.content_hash(str(write_folder(tmp_path / "b", [1, 2, 3], "b{:05d}.jpg"))),
        pictures.content_hash(str(write_folder(tmp_path / "c", [1, 2, 4], "a{}.jpg"))),
    ]

    assert hashes[0] == hashes[1] != hashes[2]


def test_times_are_the_numbers(tmp_path):
    folder = write_folder(tmp_path / "f", [86552, 86553, 86556])
    found = pictures.probe(FrameFolder(str(folder), "25"), tmp_path, 1 << 30)
    packets = np.load(tmp_path / "packets.npy")

    assert packets["pts"].tolist() == [0, 1, 4]
    assert (found.time_base, found.width, found.height) == ("1/25", *SIZE)
    assert (found.codec, found.colour_matrix, found.colour_range) == ("mjpeg", "bt601", "full")
    grid = Grid(np.arange(3), video.presentation_times(packets), Fraction(1, 25))
    assert gaps_of(grid) == [2]


def test_where_every_fifth_number_is_used_no_frame_is_missing(tmp_path):
    folder = write_folder(tmp_path / "f", [10, 15, 20, 30])
    pictures.probe(FrameFolder(str(folder), "25"), tmp_path, 1 << 30)

    assert np.load(tmp_path / "packets.npy")["pts"].tolist() == [0, 1, 2, 4]


def test_a_large_jpeg_is_still_bt601(tmp_path):
    (tmp_path / "f").mkdir()
    Image.new("RGB", (1280, 720), (200, 30, 40)).save(tmp_path / "f" / "1.jpg")

    found = pictures.probe(FrameFolder(str(tmp_path / "f"), "25"), tmp_path, 1 << 30)

    assert (found.colour_matrix, found.colour_range) == ("bt601", "full")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda f: Image.new("RGB", (50, 40)).save(f / "clip_frames_00000002.jpg"),
            "mixed_sizes: .*00000002.jpg",
        ),
        (lambda f: painted(7).save(f / "clip_frames_00000007.png"), "mixed_sizes: .*00000007.png"),
    ],
)
def test_a_folder_of_unlike_frames_is_refused_by_name(tmp_path, spoil, message):
    folder = write_folder(tmp_path / "f", [1, 2, 3, 4])
    spoil(folder)

    with pytest.raises(Rejected, match=message):
        pictures.probe(FrameFolder(str(folder), "25"), tmp_path, 1 << 30)


def test_too_many_pixels_are_refused(tmp_path):
    folder = write_folder(tmp_path / "f", [1])

    with pytest.raises(Rejected, match=r"too_many_pixels: .*96x64 pixels; the limit is 1000"):
        pictures.probe(FrameFolder(str(folder), "25"), tmp_path, 1000)


@pytest.mark.parametrize(("kind", "suffix"), [("mjpeg", "JPEG"), ("png", "PNG")])
def test_a_picture_that_is_cut_off_does_not_decode(kind, suffix):
    buffer = io.BytesIO()
    painted(3).save(buffer, suffix)
    data = buffer.getvalue()
    decoder = video.PictureDecoder(kind)

    assert decoder.decode(data).width == SIZE[0]
    assert [decoder.decode(data[: len(data) * n // 10]) for n in range(1, 10)] == [None] * 9


# ---- the whole path


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_every_stored_frame_is_the_one_with_its_number(tmp_path, suffix):
    write_folder(tmp_path / "in" / "one", list(range(7, 27)), "f_{}." + suffix)

    dataset = build_dataset(folder_card(), tmp_path / "in", tmp_path / "out")

    (clip,) = dataset.rows("clips")
    assert shown_numbers(dataset, clip) == list(range(7, 27))
    assert (clip["frame_rate"], clip["start_s"], clip["stop_s"]) == ("25", "0", "4/5")
    (row,) = dataset.rows("videos")
    assert (row["container"], row["num_frames"], row["num_missing_frames"]) == ("frame_folder", 20, 0)


def test_a_gap_ends_a_clip_and_is_counted(tmp_path):
    write_folder(tmp_path / "in" / "one", [*range(1, 11), *range(14, 26)])

    dataset = build_dataset(folder_card(), tmp_path / "in", tmp_path / "out")

    first, second = dataset.rows("clips")
    assert shown_numbers(dataset, first) == list(range(1, 11))  # no guard frames at a gap: nothing is blended
    assert shown_numbers(dataset, second) == list(range(14, 26))
    assert [scene["ended_by"] for scene in dataset.rows("scenes")] == ["gap", "end"]
    assert dataset.rows("videos")[0]["num_missing_frames"] == 3


def test_a_gap_ends_a_clip_when_frames_are_resampled_too(tmp_path):
    write_folder(tmp_path / "in" / "one", [*range(0, 20), *range(26, 46)])

    dataset = build_dataset(folder_card(frame_rate="12.5"), tmp_path / "in", tmp_path / "out")

    shown = [shown_numbers(dataset, clip) for clip in dataset.rows("clips")]
    assert [max(numbers) < 20 or min(numbers) >= 26 for numbers in shown] == [True, True]


def test_train_and_test_folders_keep_their_split_and_long_videos_their_clips(tmp_path):
    for name in ("sky_train/aaa/1", "sky_train/aaa/2", "sky_train/-bb/1", "sky_test/ccc/1"):
        write_folder(tmp_path / "in" / name, list(range(8)))

    card = folder_card(source={"splits": {"sky_train": "train", "sky_test": "test"}})
    dataset = build_dataset(card, tmp_path / "in", tmp_path / "out")

    assert {v["origin"]: v["split"] for v in dataset.rows("videos")} == {
        "sky_train/aaa/1": "train", "sky_train/aaa/2": "train", "sky_train/-bb/1": "train", "sky_test/ccc/1": "test",
    }  # fmt: skip


def test_a_split_by_shares_never_divides_a_long_video(tmp_path):
    for number in range(12):
        write_folder(tmp_path / "in" / f"video{number // 4}" / f"clip{number}", list(range(8)))

    dataset = build_dataset(folder_card(split={"val": 0.5}), tmp_path / "in", tmp_path / "out")

    splits: dict[str, set[str]] = {}
    for row in dataset.rows("videos"):
        splits.setdefault(row["origin"].split("/")[0], set()).add(row["split"])
    assert [len(found) for found in splits.values()] == [1, 1, 1]


@pytest.mark.parametrize("keep", [True, False], ids=["cut off", "no picture"])
def test_a_frame_that_does_not_decode_rejects_its_clip_by_cause(tmp_path, keep):
    folder = write_folder(tmp_path / "in" / "one", list(range(12)))
    write_folder(tmp_path / "in" / "two", list(range(12)))
    path = folder / "clip_frames_00000005.jpg"
    path.write_bytes(path.read_bytes()[:-100] if keep else b"<html>")

    dataset = build_dataset(folder_card(), tmp_path / "in", tmp_path / "out")

    assert len(dataset.rows("clips")) == 1
    (reject,) = dataset.rows("rejects")
    assert (reject["cause"], reject["value"]) == ("decode_error", 1)


def test_a_folder_without_one_readable_frame_is_no_video(tmp_path):
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "1.jpg").write_text("<html>")

    with pytest.raises(Rejected, match=r"not_video: .*none of its 1 frames is a picture"):
        pictures.probe(FrameFolder(str(tmp_path / "f"), "25"), tmp_path, 1 << 30)


# ---- what went wrong once


def test_hidden_files_are_no_frames(tmp_path):
    folder = write_folder(tmp_path / "f", [1, 2])
    (folder / "._clip_frames_00000001.jpg").write_bytes(b"x")

    assert [number for number, _ in pictures.list_pictures(str(folder))] == [1, 2]


def test_a_folder_with_an_absurd_number_loses_only_itself(tmp_path):
    write_folder(tmp_path / "in" / "good", list(range(12)))
    folder = write_folder(tmp_path / "in" / "odd", [1])
    painted(2).save(folder / "f_90000000000000000000.jpg")

    dataset = build_dataset(folder_card(), tmp_path / "in", tmp_path / "out")

    assert len(dataset.rows("clips")) == 1
    assert [(r["cause"], r["origin"]) for r in dataset.rows("rejects")] == [("broken_times", "odd")]


@pytest.mark.parametrize(("mode", "suffix"), [("L", "jpg"), ("L", "png"), ("RGB", "png"), ("P", "png")])
def test_grey_and_coloured_pictures_keep_their_levels(tmp_path, mode, suffix):
    folder = tmp_path / "in" / "one"
    folder.mkdir(parents=True)
    for number in range(6):
        painted(number).convert(mode).save(folder / f"{number}.{suffix}")

    dataset = build_dataset(folder_card(), tmp_path / "in", tmp_path / "out")

    part = next(p for p in dataset.rows("parts") if p["role"] == "low")
    frames = load_npy(dataset.members(part)["npy"])
    # squashed to a square, as Pillow does it
    stored = [painted(n).convert(mode).convert("RGB") for n in range(6)]
    expected = np.stack([np.asarray(p.resize((64, 64), Image.Resampling.LANCZOS)) for p in stored])
    assert np.abs(frames.astype(float) - expected).mean() < 3


def test_a_gap_leaves_rates_and_times_as_they_are(tmp_path):
    write_folder(tmp_path / "in" / "one", [*range(0, 20), *range(100, 120)], "{}.jpg", quality=20)

    dataset = build_dataset(folder_card(), tmp_path / "in", tmp_path / "out")

    assert [row["frame_rate"] for row in dataset.rows("videos")] == ["25"]
    assert [(c["start_s"], c["stop_s"], c["frame_rate"]) for c in dataset.rows("clips")] == [
        ("0", "4/5", "25"), ("4", "24/5", "25"),
    ]  # fmt: skip


@pytest.mark.parametrize("frame_rate", ["30", "50", "10"])
def test_resampling_fills_no_gap(tmp_path, frame_rate):
    """Two stretches of 0.8 s, 3.2 s apart."""
    write_folder(tmp_path / "in" / "one", [*range(0, 20), *range(100, 120)], "{}.jpg", quality=20)

    dataset = build_dataset(folder_card(frame_rate=frame_rate), tmp_path / "in", tmp_path / "out")

    expected = round(0.8 * int(frame_rate))
    assert [abs(c["frames_written"] - expected) <= 1 for c in dataset.rows("clips")] == [True, True]
    assert verify_dataset(str(dataset.root)) == []
