"""A rehearsal with stand-ins for the published datasets: whole lists are planned, small ones are built."""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from benchmarks.standins import (
    ACID,
    BIKING,
    FRAMES_PER_S,
    HORSEBACK,
    SETTINGS,
    SKY,
    Shape,
    draw_clip_list,
    draw_folders,
    draw_trajectories,
    paint,
    read_number,
    videos_here,
    write_standin,
)
from lvg_data.config import load_card
from lvg_data.verify import verify_dataset
from pipelines import cli
from tests.builds import Dataset, load_npy, make_once, sources_of

SHORTEST = 12
"""Frames of the shortest clip that `SETTINGS` keep."""

MANY_SECONDS = 30.0
"""A plan takes one to four on a machine that is not busy."""

SCALES = [0.025, pytest.param(0.25, marks=pytest.mark.slow)]


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch) -> Path:
    """The user's cache, where `plan` keeps what it reads out of lists: one for all tests here."""
    folder = tmp_path_factory.getbasetemp() / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli.main, [str(a) for a in arguments])


def plan(*arguments: object) -> dict[str, Any]:
    started = time.monotonic()
    result = run("plan", *arguments, "--json")
    assert result.exit_code == 0, (result.output, result.exception)
    assert time.monotonic() - started < MANY_SECONDS
    return json.loads(result.stdout)


def options(*settings: str) -> list[str]:
    return [text for setting in settings for text in ("--set", setting)]


# ------------------------------------------------------------------------------------------------ the lists


def list_of(shape: Shape, factory: pytest.TempPathFactory) -> Path:
    """Card of a whole stand-in without pictures of its own."""
    name = f"standin-{shape.card}"
    return make_once(factory, name, lambda f: write_standin(shape, f, media=False)) / "card.yaml"


@pytest.mark.parametrize(
    ("shape", "videos", "intervals", "seconds", "shortest", "longest"),
    [(BIKING, 28, 1202, 18_475, 5, 88), (HORSEBACK, 44, 66, 14_501, 31, 450)],
    ids=["biking", "horseback"],
)
def test_a_clip_list_stand_in_has_the_counts_and_lengths_of_the_published_one(
    shape, videos, intervals, seconds, shortest, longest
):
    drawn = draw_clip_list(shape)
    lengths = [stop - start for pairs in drawn.values() for start, stop in pairs]

    assert (len(drawn), len(lengths), sum(lengths)) == (videos, intervals, seconds)
    assert (min(lengths), max(lengths)) == (shortest, longest)
    assert sum(name.startswith("-") for name in drawn) >= 2
    for pairs in drawn.values():
        assert all(before[1] < after[0] for before, after in pairwise(pairs))


def test_a_stand_in_is_a_function_of_its_seed(tmp_path):
    shape = ACID.scaled(0.01)
    cards = [write_standin(shape, tmp_path / name, seed) for name, seed in (("a", 0), ("b", 0), ("c", 1))]
    found = [{p.name: p.read_bytes() for p in sorted(card.parent.rglob("*.*"))} for card in cards]

    assert found[0] == found[1]
    assert found[0].keys() != found[2].keys()


def test_a_clip_list_that_is_too_small_for_its_lengths_is_refused():
    with pytest.raises(ValueError, match=r"4 intervals of 5 to 88 s.* cannot last 61 s together"):
        draw_clip_list(BIKING.scaled(0))


@pytest.mark.parametrize("number", [0, 1, 2**15, 2**16 - 1, 0b0110_1001_1100_0011])
def test_the_number_of_a_frame_can_be_read(number):
    assert read_number(paint(number)[:, 21:75, None].repeat(3, axis=2)) == number


# ------------------------------------------------------------------------------------------------- planning


@pytest.mark.parametrize(
    ("shape", "videos", "intervals", "seconds"),
    [(BIKING, 28, 1202, 18_475), (HORSEBACK, 44, 66, 14_501)],
    ids=["biking", "horseback"],
)
def test_a_clip_list_of_full_size_is_planned(shape, videos, intervals, seconds, tmp_path_factory):
    planned = plan(list_of(shape, tmp_path_factory))
    sources, estimate = planned["sources"], planned["estimate"]

    assert (sources["rows"], sources["intervals"]) == (videos, intervals)
    assert (sources["here"], sources["to_fetch"], sources["of_unknown_length"]) == (0, videos, 0)
    assert estimate["hours"] == round(seconds / 3600, 4)
    assert estimate["frames"] == 30 * seconds
    assert estimate["low_bytes"] == 30 * seconds * 64 * 64 * 3
    assert estimate["store_bytes"] == estimate["low_bytes"] + estimate["high_bytes"]
    assert estimate["download_hours_at_least"] == round(videos / 300, 4)


def test_eleven_thousand_trajectories_are_planned(tmp_path_factory):
    planned = plan(list_of(ACID, tmp_path_factory))
    sources, estimate = planned["sources"], planned["estimate"]
    drawn = draw_trajectories(ACID)
    slack_s = 0.002  # a sequence runs a millisecond further at both ends
    seconds = sum((t.num_poses - 1) / FRAMES_PER_S + slack_s for t in drawn)

    assert (sources["rows"], sources["intervals"]) == (900, 11_000)
    assert (sources["here"], sources["to_fetch"]) == (0, 900)
    assert estimate["hours"] == pytest.approx(seconds / 3600, abs=1e-4)
    assert estimate["frames"] == pytest.approx(30 * seconds, abs=900)  # each video's are rounded
    assert estimate["download_hours_at_least"] == 3.0


def test_eleven_thousand_trajectories_keep_their_splits_and_poses(cache, tmp_path_factory):
    card = list_of(ACID, tmp_path_factory)
    rows = sources_of(load_card(card), card.parent, cache / "lvg" / "lists")
    drawn = draw_trajectories(ACID)

    assert {row.video_id: row.split for row in rows} == {t.video_id: t.split for t in drawn}
    listed = [
        (row.video_id, track.name, track.stop_row - track.start_row) for row in rows for track in row.tracks
    ]
    assert sorted(listed) == sorted((t.video_id, f"acid/{t.split}/{t.name}", t.num_poses) for t in drawn)


def test_thousands_of_frame_folders_are_planned(tmp_path_factory):
    planned = plan(list_of(SKY, tmp_path_factory))
    sources = planned["sources"]

    assert (sources["rows"], sources["here"], sources["to_fetch"]) == (2400, 2400, 0)
    assert (sources["probed"], sources["unreadable_of_probed"]) == (64, 0)
    num_frames = sum(folder.num_frames for folder in draw_folders(SKY))
    assert planned["estimate"]["frames"] == pytest.approx(num_frames, rel=0.2)  # 64 of 2,400 are looked at
    hours = planned["estimate"]["frames"] / 25 / 3600
    assert planned["estimate"]["hours"] == pytest.approx(hours, abs=1e-4)


def test_no_long_video_of_the_sky_is_in_two_splits(tmp_path_factory):
    card = list_of(SKY, tmp_path_factory)
    rows = sources_of(load_card(card), card.parent)

    assert Counter(row.split for row in rows) == {"train": 2175, "test": 225}
    groups = {split: {row.group for row in rows if row.split == split} for split in ("train", "test")}
    assert {split: len(found) for split, found in groups.items()} == {"train": 997, "test": 111}
    assert not groups["train"] & groups["test"]


# ------------------------------------------------------------------------------------ what a card promises


@pytest.mark.parametrize("shape", [BIKING, HORSEBACK], ids=["biking", "horseback"])
def test_a_bundled_card_expects_the_counts_of_its_list(shape, tmp_path_factory):
    clips = list_of(shape, tmp_path_factory).with_name("clips.json")
    sha256 = hashlib.sha256(clips.read_bytes()).hexdigest()

    planned = plan(shape.card, *options(f"sources.0.list={clips}", f"sources.0.sha256={sha256}"))

    assert (planned["sources"]["rows"], planned["sources"]["intervals"]) == (
        shape.num_videos,
        shape.num_intervals,
    )


def test_a_bundled_card_refuses_another_list_with_both_hashes(tmp_path_factory):
    clips = list_of(BIKING, tmp_path_factory).with_name("clips.json")

    result = run("plan", "mountain_biking", *options(f"sources.0.list={clips}"))

    assert result.exit_code == 1
    assert hashlib.sha256(clips.read_bytes()).hexdigest() in result.output
    assert "8f61132742272bbf9a3058d97f1456b5190dd896b51e2e66a8c63cf85b8825d0" in result.output


@pytest.mark.parametrize(
    ("drop", "message"),
    [
        (lambda clips: next(iter(clips.values())).pop(), "1201 intervals; the card expects 1202"),
        (lambda clips: clips.popitem(), "27 videos; the card expects 28"),
    ],
)
def test_a_list_with_something_missing_is_refused_with_both_numbers(
    drop, message, tmp_path_factory, tmp_path
):
    card = list_of(BIKING, tmp_path_factory)
    clips = json.loads(card.with_name("clips.json").read_text())
    drop(clips)
    shorter = tmp_path / "shorter.json"
    shorter.write_text(json.dumps(clips))

    result = run("plan", card, *options(f"sources.0.list={shorter}", "sources.0.sha256=null"))

    assert result.exit_code == 1
    assert message in result.output


@pytest.mark.parametrize(
    ("shape", "setting", "message"),
    [
        (ACID, "sources.0.expect.intervals=11001", "11000 intervals; the card expects 11001"),
        (ACID, "sources.0.expect.videos=899", "900 videos; the card expects 899"),
        (SKY, "sources.0.expect.videos=2617", "2400 videos; the card expects 2617"),
    ],
)
def test_other_counts_than_expected_are_refused_with_both_numbers(shape, setting, message, tmp_path_factory):
    result = run("plan", list_of(shape, tmp_path_factory), *options(setting))

    assert result.exit_code == 1
    assert message in result.output


# ------------------------------------------------------------------------------------------------- building


def built(shape: Shape, scale: float, factory: pytest.TempPathFactory) -> tuple[Any, Dataset]:
    """A scaled shape and its dataset, built once by the command that users run."""
    scaled = shape.scaled(scale)

    def make(folder: Path) -> None:
        card = write_standin(scaled, folder)
        result = run("build", card, "--out", folder / "dataset", *options(*SETTINGS))
        assert result.exit_code == 0, (result.output, result.exception)

    return scaled, Dataset(make_once(factory, f"built-{shape.card}-{scale}", make) / "dataset")


def numbers_in(dataset: Dataset) -> dict[str, dict[int, int]]:
    """What each stored low-res frame shows: by clip, then by frame of the clip."""
    found: dict[str, dict[int, int]] = {}
    for part in dataset.rows("parts"):
        members = dataset.members(part)
        pictures = load_npy(members["npy" if part["role"] == "low" else "low.npy"])
        for frame, picture in enumerate(pictures, part["start_frame"]):
            number = read_number(picture)
            assert found.setdefault(part["clip_id"], {}).setdefault(frame, number) == number
    return found


def check_clips(dataset: Dataset, wanted: set[tuple[str, int, int]], first: dict[str, int]) -> None:
    """Each of `wanted`, (video, start, stop) in frames, is a clip that shows them, or too short.

    Args:
      first: number that the first frame of a video shows.
    """
    scenes = Counter((s["video_id"], s["start_frame"], s["stop_frame"]) for s in dataset.rows("scenes"))
    assert scenes == Counter(wanted)
    clips = dataset.rows("clips")
    short = [r for r in dataset.rows("rejects") if r["cause"] == "too_short"]
    kept = {(c["video_id"], c["start_frame"], c["stop_frame"]) for c in clips}
    assert kept == {w for w in wanted if w[2] - w[1] >= SHORTEST}
    assert {(r["video_id"], r["start_frame"], r["stop_frame"]) for r in short} == wanted - kept
    shown = numbers_in(dataset)
    for clip in clips:
        start = first[clip["video_id"]] + clip["start_frame"]
        expected = {n: start + n for n in range(clip["stop_frame"] - clip["start_frame"])}
        assert shown[clip["clip_id"]] == expected
    assert verify_dataset(str(dataset.root)) == []


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("shape", [BIKING, HORSEBACK], ids=["biking", "horseback"])
def test_every_interval_becomes_a_clip_of_exactly_its_frames(shape, scale, tmp_path_factory):
    scaled, dataset = built(shape, scale, tmp_path_factory)

    wanted = {
        (video_id, start * FRAMES_PER_S, stop * FRAMES_PER_S + 1)  # the frame at `stop` is in it
        for video_id, pairs in draw_clip_list(scaled).items()
        for start, stop in pairs
    }
    assert len(wanted) == scaled.num_intervals
    check_clips(dataset, wanted, Counter())
    assert dataset.rows("rejects") == []


@pytest.mark.parametrize("scale", SCALES)
def test_every_trajectory_of_a_partial_set_becomes_a_clip_or_a_reject(scale, tmp_path_factory):
    scaled, dataset = built(ACID, scale, tmp_path_factory)

    drawn = draw_trajectories(scaled)
    here = videos_here(scaled, drawn)
    wanted = {(t.video_id, t.first_frame, t.first_frame + t.num_poses) for t in drawn if t.video_id in here}
    check_clips(dataset, wanted, Counter())
    missing = [(r["video_id"], r["cause"]) for r in dataset.rows("rejects") if r["level"] == "source"]
    assert sorted(missing) == sorted((v, "not_found") for v in {t.video_id for t in drawn} - set(here))
    assert {c["video_id"]: c["split"] for c in dataset.rows("clips")}.items() <= {
        (t.video_id, t.split) for t in drawn
    }


@pytest.mark.parametrize("scale", SCALES)
def test_every_frame_of_a_trajectory_carries_its_pose(scale, tmp_path_factory):
    scaled, dataset = built(ACID, scale, tmp_path_factory)

    drawn = {f"acid/{t.split}/{t.name}": t for t in draw_trajectories(scaled)}
    tracks = {c["clip_id"]: c["track"] for c in dataset.rows("clips")}
    assert all(c["num_poses"] == c["num_poses_matched"] == c["frames_written"] for c in dataset.rows("clips"))
    for part in dataset.rows("parts"):
        members = dataset.members(part)
        poses = drawn[tracks[part["clip_id"]]].poses[part["start_frame"] : part["stop_frame"]]
        assert (load_npy(members["poses.npy"]) == poses).all()
        assert load_npy(members["intrinsics.npy"]).shape == (len(poses), 4)


@pytest.mark.parametrize("scale", SCALES)
def test_every_frame_folder_becomes_a_clip_or_is_too_short(scale, tmp_path_factory):
    scaled, dataset = built(SKY, scale, tmp_path_factory)

    drawn = {folder.path: folder for folder in draw_folders(scaled)}
    ids = {video["origin"]: video["video_id"] for video in dataset.rows("videos")}
    assert ids.keys() == drawn.keys()
    wanted = {(ids[path], 0, folder.num_frames) for path, folder in drawn.items()}
    check_clips(dataset, wanted, {ids[path]: folder.first for path, folder in drawn.items()})
    splits = {video["origin"]: video["split"] for video in dataset.rows("videos")}
    assert splits == {path: path.split("/")[0].removeprefix("sky_") for path in drawn}
    assert {Fraction(clip["frame_rate"]) for clip in dataset.rows("clips")} == {25}
