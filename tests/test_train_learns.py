"""The tiny preset learns: minutes of training on a CPU bring samples towards the data, whatever the seed."""

from __future__ import annotations

from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path

import pytest

from lvg_data.demo import Ride, RideScene, encode_ride
from lvg_data.reader import open_dataset
from lvg_train.config import dataset_facts, resolve
from lvg_train.dist import World
from lvg_train.loop import Job, open_job
from lvg_train.metrics import colour_distance, motion_distance
from tests.builds import build_dataset, make_once, small_card
from tests.train_runs import one_thread

#: the preset, at sizes that make a step shorter still
SUPERRES_CHANGES = ("steps=100", "batch=4", "num_frames=2", "channel_scale=0.0625")


def make_rides(folder: Path) -> None:
    """Four rides through one desert, at 16x16 and 32x32."""
    for seed in range(4):
        scene = RideScene("desert", seed, 90)
        encode_ride(Ride(f"ride-{seed}", seed, 128, 128, Fraction(30), (scene,)), folder / f"{seed}.mp4")
    card = small_card(
        low={"height": 16, "width": 16}, high={"height": 32, "width": 32}, cuts={"detector": "none"}
    )
    build_dataset(card, folder, folder / "out", store=folder / "store")


@pytest.fixture(scope="module")
def rides(tmp_path_factory) -> Path:
    one_thread()
    return make_once(tmp_path_factory, "train-rides", make_rides) / "out"


def distances(job: Job) -> tuple[float, float]:
    """Of colours and of motion, samples against the data beside them, in levels."""
    videos = job.exhibit()
    data, samples = videos["data"], videos["samples"]
    return colour_distance(data, samples), motion_distance(data, samples)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("stage", "changes", "colour_share", "motion_share"),
    [("lowres", ("steps=150",), 0.65, 0.9), ("superres", SUPERRES_CHANGES, 0.6, 0.95)],
)
def test_samples_come_closer_to_the_data(
    stage: str, changes: tuple[str, ...], colour_share: float, motion_share: float, seed: int,
    rides: Path, tmp_path: Path,
):  # fmt: skip
    changes = (*changes, f"seed={seed}", "num_samples=16")
    config = resolve(stage, str(rides), dataset_facts(open_dataset(rides)), "tiny", changes)
    with ExitStack() as opened:
        job = open_job(config, tmp_path, World(), None, opened)
        colour_before, motion_before = distances(job)
        for _ in range(config.steps):
            job.take_step()
        colour, motion = distances(job)

    assert colour < colour_share * colour_before, (colour_before, colour)
    assert motion < motion_share * motion_before, (motion_before, motion)
