"""What the training benchmark makes of its marks and steps."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from benchmarks import train_marks as marks
from benchmarks.train import fit_rounds, mean_step
from benchmarks.train_marks import CpuClock, Timeline
from lvg_train import losses
from lvg_train.config import DatasetFacts, resolve
from lvg_train.dist import World
from lvg_train.stages import Clips, Dice, stage_of
from lvg_train.state import start_state

FACTS = DatasetFacts(fingerprint="", low_size=(16, 16), high_size=(32, 32), frame_rate="30")
PAPER = DatasetFacts(fingerprint="", low_size=(36, 64), high_size=(144, 256), frame_rate="30")
SMALL = ["num_frames=2", "channel_scale=0.03125"]


def ticking(seconds: float = 1.0) -> CpuClock:
    """A clock that goes on by as much each time it is read."""
    times: Iterator[float] = iter([seconds * number for number in range(1000)])
    return CpuClock(lambda: next(times))


def test_a_mark_ends_what_the_one_before_began() -> None:
    timeline = Timeline(ticking())
    for what in ("a", "b", "a", "c"):
        timeline.mark(what)
    assert timeline.take() == {"a": 2000, "b": 1000}
    assert timeline.take() == {}


def test_what_is_marked_inside_a_part_belongs_to_it() -> None:
    timeline = Timeline(ticking())
    with timeline.only("r1", then="rest"):
        timeline.mark("discriminator")
        with timeline.only("reading", then="rest"):
            timeline.mark("reading more")
        timeline.mark("discriminator")
    timeline.mark("end")
    assert timeline.take() == {"r1": 1000, "rest": 1000}


def test_a_step_has_its_share_of_the_penalty() -> None:
    assert mean_step([[50, 18, 18], [50, 18, 18]]) == 18 + 32 / 16


@pytest.mark.parametrize("stage", ["lowres", "superres"])
def test_passes_of_a_generators_update_are_marked_in_their_order(
    stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = resolve(stage, "", FACTS, "tiny", SMALL)
    state = start_state(config, stage_of(config).specs(FACTS), torch.device("cpu"))
    timeline, seen = Timeline(ticking()), []
    monkeypatch.setattr(timeline, "mark", seen.append)
    marked = marks.MarkedStage(stage_of(config), timeline)
    dice = Dice(0, 0, "generator", range(1), torch.device("cpu"))
    clips = Clips(torch.zeros(1, 3, 10, 16, 16), torch.zeros(1, 3, 10, 32, 32))
    state.discriminator.requires_grad_(False)
    with marks.marked_networks(state, timeline):
        fake = marked.generate(state.generator, clips, dice, averages_share=0)
        losses.generator_loss(marked.judge(state.discriminator, fake, 0.5, dice)).backward()
    before = {"lowres": [marks.NOISE, marks.EMBEDDING], "superres": [marks.AUGMENTATION]}[stage]
    there = [marks.GENERATOR, marks.AUGMENTATION, marks.AUGMENTATION, marks.DISCRIMINATOR, marks.OTHER]
    back = [marks.DISCRIMINATOR, marks.AUGMENTATION, marks.GENERATOR]
    assert seen == [*before, *there, *back]
    assert not state.generator._forward_hooks, "the networks are left as they were"


def test_rounds_are_as_few_as_memory_allows() -> None:
    config = resolve("lowres", "", PAPER, "paper", ["batch=4"])
    rounds = [fit_rounds(config, World(), gib << 30).rounds for gib in (1000, 16, 1)]
    assert rounds[0] == 1
    assert 1 < rounds[1] <= 4
    assert rounds[2] == 4, "one window at once, if even that is too much"
