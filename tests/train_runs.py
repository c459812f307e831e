"""A tiny dataset to train on, and runs so small that a step takes a fraction of a second.

root = make_once(tmp_path_factory, "trains", make_dataset) / "out"
config = make_config(root, "lowres", "steps=4")
"""

from __future__ import annotations

from pathlib import Path

import torch

from lvg_data.reader import open_dataset
from lvg_train.config import TrainConfig, dataset_facts, resolve
from tests.builds import build_dataset, small_card
from tests.videos import RECIPES, write_video

#: fields of each stage's smallest run; every update comes several times in four steps
SMALL = {
    "lowres": (
        "batch=4",
        "num_frames=8",
        "shift_frames=4",
        "channel_scale=0.03125",
        "discriminator_scale=0.03125",
    ),
    "superres": (
        "batch=2",
        "num_frames=2",
        "channel_scale=0.03125",
        "ada.every=2",
        "ada.speed=0.05",
        "ada.target=-1",
    ),
}
SMALL_OF_BOTH = ("r1.every=2", "report_every=1", "sample_every=100", "num_samples=2")


def make_dataset(folder: Path) -> None:
    """Four clips of 40 frames at 16x16 and 32x32."""
    for name in "abcd":
        write_video(folder / f"{name}.mp4", RECIPES["h264_bframes"], 40, width=96, height=96)
    card = small_card(
        low={"height": 16, "width": 16}, high={"height": 32, "width": 32}, cuts={"detector": "none"}
    )
    build_dataset(card, folder, folder / "out", store=folder / "store")


def make_config(root: Path, stage: str, *changes: str) -> TrainConfig:
    """The smallest run of a stage, with changes as `--set` takes them."""
    facts = dataset_facts(open_dataset(root))
    return resolve(stage, str(root), facts, "tiny", [*SMALL[stage], *SMALL_OF_BOTH, *changes])


def one_thread() -> None:
    """Sums in one order, so that a step can be compared bit for bit."""
    torch.set_num_threads(1)
