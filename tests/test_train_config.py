"""The configuration: presets, changes by `--set`, what a resumed run may change, and words for what is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lvg_data.config import models_in
from lvg_train.config import (
    PRESETS,
    STAGES,
    AdaConfig,
    DatasetFacts,
    LowresConfig,
    SuperresConfig,
    TrainConfig,
    check_same_run,
    read_config,
    resolve,
    to_json,
)
from lvg_train.errors import TrainError
from lvg_train.stages import stage_of

FACTS = DatasetFacts(fingerprint="f", low_size=(36, 64), high_size=(144, 256), frame_rate="30")


def make(
    stage: str = "lowres", *changes: str, preset: str = "paper", facts: DatasetFacts = FACTS
) -> TrainConfig:
    return resolve(stage, "rides", facts, preset, changes)


def test_the_defaults_are_the_papers():
    low, high = make("lowres"), make("superres")

    assert isinstance(low, LowresConfig) and isinstance(high, SuperresConfig)
    assert (low.steps, low.batch, low.num_frames, low.shift_frames) == (100_000, 64, 128, 32)
    assert (high.steps, high.batch, high.num_frames) == (275_000, 32, 4)
    assert (low.generator_lr, low.discriminator_lr, high.generator_lr, high.discriminator_lr) == (
        0.003, 0.002, 0.003, 0.003,
    )  # fmt: skip
    assert (low.r1.gamma, low.r1.every, low.ema.beta, low.ema.ramp_steps) == (1.0, 16, 0.99985, 25_001)
    assert high.ada == AdaConfig(target=0.6, every=4, speed=0.000125, maximum=0.5)
    assert low.flip and low.channel_scale == 1 and low.dataset == FACTS


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_is_a_good_configuration_whose_networks_can_be_built(preset: str, stage: str):
    config = make(stage, preset=preset)

    assert set(stage_of(config).specs(config.dataset)) == {"generator", "discriminator"}


def test_every_field_is_documented():
    def missing(model: type) -> list[str]:
        fields = model.model_fields.items()
        own = [f"{model.__name__}.{name}" for name, field in fields if not field.description]
        below = [sub for _, field in fields for sub in models_in(field.annotation)]
        return own + [name for sub in below for name in missing(sub)]

    assert [name for model in STAGES.values() for name in missing(model)] == []


def test_fields_are_set_by_dotted_names():
    config = make("superres", "batch=8", "r1.gamma=0.5", "ada.target=0.7", "flip=false")

    assert isinstance(config, SuperresConfig) and config.ada is not None
    assert (config.batch, config.r1.gamma, config.r1.every, config.flip) == (8, 0.5, 16, False)
    assert (config.ada.target, config.ada.every) == (0.7, 4)
    assert make("superres", "ada=null").ada is None  # type: ignore[attr-defined]
    assert make("lowres", "batch=16", preset="tiny").num_frames == make("lowres", preset="tiny").num_frames


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ("bacth=8", "bacth: there is no such field; did you mean batch?"),
        ("r1.gama=2", "r1.gama: there is no such field; did you mean gamma?"),
        ("ada.target=1", "ada: there is no such field"),
        ("batch", "--set 'batch': write it as field=value"),
        ("batch=0", "batch: Input should be greater than or equal to 1 (got 0)"),
        ("precision=half", "precision: Input should be 'fast' or 'reference' (got 'half')"),
        ("data=other", "--set 'data=other': data follows from the command and --data"),
        ("dataset.low_size=[1, 2]", "dataset follows from"),
        ("batch=[", "the value is not YAML"),
        ("batch.of=3", "batch: Input should be a valid integer"),
    ],
)  # fmt: skip
def test_a_bad_change_is_refused_with_the_field_and_what_to_do(change: str, text: str):
    with pytest.raises(TrainError) as err:
        make("lowres", change)

    assert text in str(err.value)


def test_an_unknown_preset_is_refused():
    with pytest.raises(TrainError, match=r"no preset 'tinny'; did you mean tiny\?"):
        make(preset="tinny")


@pytest.mark.parametrize(
    ("stage", "low", "high", "text"),
    [
        ("lowres", (36, 60), (144, 240), "long edge of 16, 32, 64, 128 pixels, got 36x60"),
        ("superres", (64, 36), (256, 144), "square or wide"),
        ("superres", (36, 64), (128, 256), "larger than the low-res ones by one factor"),
    ],
)
def test_frame_sizes_that_a_stage_does_not_take_are_refused(stage: str, low, high, text: str):
    facts = FACTS.model_copy(update={"low_size": low, "high_size": high})

    with pytest.raises(TrainError, match=text):
        stage_of(make(stage, facts=facts))


def test_the_tiny_presets_filters_are_as_many_windows_long_as_the_papers():
    paper, tiny = make("lowres"), make("lowres", preset="tiny")

    assert isinstance(paper, LowresConfig) and isinstance(tiny, LowresConfig)
    assert paper.filter_frames == (125, 5000)
    assert tiny.filter_frames == tuple(round(n / 128 * tiny.num_frames) for n in paper.filter_frames)


def test_the_filters_are_the_generators_alone():
    specs = stage_of(make("lowres", "filter_frames=[8, 99]")).specs(FACTS)

    assert specs["generator"].arguments["filter_frames"] == [8, 99]
    assert "filter_frames" not in specs["discriminator"].arguments
    with pytest.raises(TrainError, match="of 3 to 5000 frames, got 99 and 8"):
        stage_of(make("lowres", "filter_frames=[99, 8]"))


def test_a_run_goes_on_with_its_configuration_only():
    before = make("superres", "seed=1")

    check_same_run(before, make("superres", "seed=1", "steps=5", "workers=7", "rounds=2"), Path("run"))
    with pytest.raises(TrainError) as err:
        check_same_run(before, make("superres", "batch=8", "ada.target=0.7"), Path("run"))

    text = str(err.value)
    assert "seed 1 -> 0" in text and "batch 32 -> 8" in text and "ada.target 0.6 -> 0.7" in text
    assert "steps" not in text
    with pytest.raises(TrainError, match=r"stage 'superres' -> 'lowres'"):
        check_same_run(before, make("lowres", "seed=1"), Path("run"))
    other = FACTS.model_copy(update={"fingerprint": "g"})
    with pytest.raises(TrainError, match=r"dataset.fingerprint 'f' -> 'g'"):
        check_same_run(before, make("superres", "seed=1", facts=other), Path("run"))


def test_a_configuration_is_read_back_from_its_run(tmp_path: Path):
    config = make("superres", "ada.target=0.5", preset="tiny")
    assert read_config(tmp_path) is None

    (tmp_path / "config.json").write_text(json.dumps(to_json(config)))
    assert read_config(tmp_path) == config

    fields = to_json(make("lowres", preset="tiny"))
    del fields["filter_frames"]  # a run from before there was this field
    (tmp_path / "config.json").write_text(json.dumps(fields))
    before = read_config(tmp_path)
    assert isinstance(before, LowresConfig) and before.filter_frames == (125, 5000)

    (tmp_path / "config.json").write_text("{")
    with pytest.raises(TrainError, match=r"config\.json cannot be read"):
        read_config(tmp_path)
