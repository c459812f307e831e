"""Camera trajectories through the whole path: every stored frame beside the pose that was listed for it."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from lvg_data.verify import verify_dataset
from tests.builds import Dataset, build_dataset, load_npy, make_once, small_card
from tests.test_cli import succeed
from tests.videos import RECIPES, read_number, write_video

WIDTH, HEIGHT = 192, 108
#: of each sequence: the frames of its listed poses; one every frame, one every third, one behind the end
SEQUENCES = {
    "train/every.txt": ("-one_one_on", range(5, 35)),
    "train/third.txt": ("-one_one_on", range(20, 60, 3)),
    "train/behind.txt": ("-one_one_on", range(900, 930)),
    "train/gone.txt": ("gone_gone_g", range(0, 30)),
}


def line(frame: int) -> str:
    """A row whose pose and focal length say which frame it is of; listed 4 ms late."""
    camera = [1 + frame / 1000, 1.5, 0.5, 0.5, 0, 0]
    return " ".join(
        map(str, [round(frame * 1e6 / 30) + 4000, *camera, *(frame * 100 + n for n in range(12))])
    )


def write_archive(path: Path) -> None:
    with tarfile.open(path, "w:gz") as tar:
        for name, (video, frames) in SEQUENCES.items():
            text = "\n".join([f"https://www.youtube.com/watch?v={video}", *map(line, frames)])
            info = tarfile.TarInfo(f"acid/{name}")
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text.encode()))


def make_dataset(folder: Path) -> None:
    copies = folder / "in" / "copies"
    copies.mkdir(parents=True)
    write_archive(folder / "in" / "acid.tar.gz")
    write_video(copies / "-one_one_on.mp4", RECIPES["h264_bframes"], 60, width=WIDTH, height=HEIGHT)
    card = small_card()
    card["sources"] = [{"kind": "trajectories", "list": "acid.tar.gz", "folder": "copies"}]
    build_dataset(card, folder / "in", folder / "out")


@pytest.fixture(scope="session")
def dataset(tmp_path_factory) -> Dataset:
    return Dataset(make_once(tmp_path_factory, "trajectories", make_dataset) / "out")


def stored(dataset: Dataset, track: str) -> dict[str, dict[int, Any]]:
    """By role, frame number that is painted -> (pose, intrinsics) beside it."""
    clips = {clip["clip_id"] for clip in dataset.rows("clips") if clip["track"] == track}
    found: dict[str, dict[int, Any]] = {"low": {}, "high": {}}
    for part in dataset.rows("parts"):
        if part["clip_id"] in clips:
            members = dataset.members(part)
            frames = load_npy(members["npy" if part["role"] == "low" else "low.npy"])
            cameras = zip(load_npy(members["poses.npy"]), load_npy(members["intrinsics.npy"]), strict=True)
            found[part["role"]] |= {read_number(f): c for f, c in zip(frames, cameras, strict=True)}
    return found


@pytest.mark.parametrize("role", ["low", "high"])
@pytest.mark.parametrize("track", ["train/every.txt", "train/third.txt"])
def test_every_frame_lies_beside_the_pose_that_was_listed_for_it(dataset, track, role):
    listed = set(SEQUENCES[track][1])
    found = stored(dataset, f"acid/{track[:-4]}")[role]

    # the first listed time is 4 ms after its frame, which is thus outside the sequence
    assert sorted(found) == list(range(min(listed) + 1, max(listed) + 1))
    for number, (pose, intrinsics) in found.items():
        if number in listed:
            assert pose.reshape(-1).tolist() == [number * 100 + n for n in range(12)]
            # a centred square of 192x108: only fx grows, by 192/108
            assert intrinsics == pytest.approx([(1 + number / 1000) * WIDTH / HEIGHT, 1.5, 0.5, 0.5])
        else:
            assert np.isnan(pose).all() and np.isnan(intrinsics).all()


def test_rows_say_how_many_listed_poses_found_their_frame(dataset):
    rows = {clip["track"]: (clip["num_poses"], clip["num_poses_matched"]) for clip in dataset.rows("clips")}

    assert rows == {"acid/train/every": (30, 29), "acid/train/third": (14, 13)}
    assert dataset.description["counts"]["clips_with_poses"] == 2


def test_a_video_that_is_gone_and_a_sequence_behind_the_end_are_rejects(dataset):
    found = {(r["level"], r["cause"], r["subject"]) for r in dataset.rows("rejects")}

    assert found == {("source", "not_found", "gone_gone_g"), ("interval", "outside_video", "-one_one_on#2")}
    assert verify_dataset(str(dataset.root)) == []


def test_plan_knows_the_finished_build_though_its_lists_are_kept_elsewhere(dataset, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "trajectories"
    shutil.copytree(dataset.root.parent / "in", folder / "in", copy_function=shutil.copy2)
    card = small_card()
    card["sources"] = [{"kind": "trajectories", "list": "acid.tar.gz", "folder": "copies"}]
    path = folder / "in" / "card.yaml"
    path.write_text(yaml.safe_dump(card))
    succeed("build", path, "--out", folder / "out")

    planned = json.loads(succeed("plan", path, "--out", folder / "out", "--json").output)

    assert planned["done"] == {"state": "complete: a build would change nothing"}
    assert planned["sources"]["intervals"] == 4


def test_metadata_names_the_track_and_the_readme_explains_the_arrays(dataset):
    part = dataset.rows("parts")[0]
    metadata = json.loads(dataset.members(part)["json"])

    assert metadata["has_poses"] is True
    assert metadata["track"].startswith("acid/train/")
    assert metadata["split"] == "train"
    text = (dataset.root / "README.md").read_text()
    assert "<key>.poses.npy" in text and "NaN where no pose" in text
