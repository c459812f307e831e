"""Runs: interrupted anywhere they come to the same end; what goes wrong is said with step, tensor and way out."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

from lvg_train import checkpoint, loop
from lvg_train.cli import main
from lvg_train.config import read_config
from lvg_train.dist import World
from lvg_train.errors import TrainError
from lvg_train.loop import End, train
from lvg_train.stats import read_log
from tests.builds import make_once
from tests.train_runs import make_config, make_dataset, one_thread

STAGES = ("lowres", "superres")
TIMED = ("loader", "throughput")  # panels of the log that differ from run to run
FILES = ("models.safetensors", "optimizers.safetensors")


@pytest.fixture(scope="session")
def root(tmp_path_factory) -> Path:
    one_thread()
    return make_once(tmp_path_factory, "trains", make_dataset) / "out"


def checkpoint_of(run: Path, step: int) -> Path:
    return run / "checkpoints" / f"step-{step:09d}"


def options(root: Path, run: Path, *more: str) -> list[str]:
    """The smallest low-res run on the command line."""
    sets = (
        "batch=2",
        "num_frames=4",
        "shift_frames=2",
        "channel_scale=0.03125",
        "report_every=1",
        "num_samples=2",
    )
    return ["lowres", "--data", str(root), "--out", str(run), "--preset", "tiny",
            *(word for change in sets for word in ("--set", change)), *more]  # fmt: skip


# ---------------------------------------------------------------------------------------------------- resuming


@pytest.mark.parametrize("stage", STAGES)
def test_four_steps_are_two_and_two_bit_for_bit(root: Path, tmp_path: Path, stage: str):
    whole, halves = tmp_path / "whole", tmp_path / "halves"

    assert train(make_config(root, stage, "steps=4", "checkpoint_every=4"), whole, World()) == End(0, 4)
    assert train(make_config(root, stage, "steps=2", "checkpoint_every=2"), halves, World()) == End(0, 2)
    assert train(make_config(root, stage, "steps=4", "checkpoint_every=2"), halves, World()) == End(2, 4)

    for name in FILES:
        a, b = (load_file(checkpoint_of(run, 4) / name) for run in (whole, halves))
        assert set(a) == set(b) and len(a) > 50
        assert [n for n in a if not torch.equal(a[n], b[n])] == []
    states = [json.loads((checkpoint_of(run, 4) / "state.json").read_text()) for run in (whole, halves)]
    assert states[0]["values"] == states[1]["values"]
    assert (states[0]["values"]["augment_probability"] > 0) == (stage == "superres")
    logs = [
        [{k: v for k, v in line["values"].items() if k.split("/")[0] not in TIMED} for line in read_log(run)]
        for run in (whole, halves)
    ]
    assert logs[0] == logs[1] and len(logs[0]) == 4


@pytest.mark.parametrize("stage", STAGES)
def test_a_run_leaves_what_it_promises(root: Path, tmp_path: Path, stage: str):
    changes = ("steps=3", "sample_every=2", "checkpoint_every=1", "keep_checkpoints=1")
    config = make_config(root, stage, *changes)

    train(config, tmp_path, World())

    assert read_config(tmp_path) == config.model_copy(update={"access": "cached"})
    lines = read_log(tmp_path)
    assert [line["step"] for line in lines] == [1, 2, 3]
    losses = {"loss/generator", "loss/fake", "loss/real", "logits/real", "logits/fake"}
    assert all(losses <= set(line["values"]) for line in lines)
    assert [("loss/r1" in line["values"]) for line in lines] == [True, False, True]
    assert (tmp_path / "curves.png").stat().st_size > 1000
    assert sorted(p.name for p in (tmp_path / "samples").iterdir() if p.suffix == ".png") == [
        "step-000000002.png",
        "step-000000003.png",
    ]
    best = checkpoint.read_best(tmp_path)
    kept = {p.name for p in (tmp_path / "checkpoints").glob("step-*")}
    assert best is not None and kept == {"step-000000003", checkpoint_of(tmp_path, best.step).name}
    assert best.value > 0
    file, role = checkpoint.find_generator(tmp_path)
    assert (file.parent.name, role) == ("step-000000003", "generator_ema")


def test_curves_are_drawn_with_each_checkpoint_and_at_every_end(root: Path, tmp_path: Path, monkeypatch):
    pytest.importorskip("matplotlib")
    curves, seen = tmp_path / "curves.png", []
    original = loop.Updates.take_step

    def watched(self: loop.Updates) -> None:
        seen.append(curves.exists())
        curves.unlink(missing_ok=True)
        original(self)

    monkeypatch.setattr(loop.Updates, "take_step", watched)
    config = make_config(root, "lowres", "steps=3", "checkpoint_every=2")
    train(config, tmp_path, World())

    assert seen == [False, False, True]
    assert curves.stat().st_size > 1000
    curves.unlink()
    assert train(config, tmp_path, World()) == End(3, 3)
    assert curves.stat().st_size > 1000


def test_a_run_is_refused_another_configuration(root: Path, tmp_path: Path):
    train(make_config(root, "lowres", "steps=1"), tmp_path, World())
    before = (tmp_path / "config.json").read_bytes()

    with pytest.raises(TrainError, match=r"seed 0 -> 5.*choose another --out"):
        train(make_config(root, "lowres", "steps=2", "seed=5"), tmp_path, World())

    assert (tmp_path / "config.json").read_bytes() == before


@pytest.mark.parametrize("change", ["batch=3", "rounds=3"])
def test_a_batch_that_cannot_be_shared_is_refused_before_anything_starts(
    root: Path, tmp_path: Path, change: str
):
    config = make_config(root, "lowres", change)

    with pytest.raises(TrainError, match=r"cannot be (shared by 2 processes|taken in 3 even rounds)"):
        train(config, tmp_path / "run", World(rank=0, size=2 if change == "batch=3" else 1))

    assert not (tmp_path / "run").exists()


# ------------------------------------------------------------------------------------------------ signals, trouble


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_saves_after_the_current_step(root: Path, tmp_path: Path, number: int, status: int):
    code = "import sys; sys.argv[0] = 'lvg-train'; from lvg_train.cli import main; main()"
    words = options(root, tmp_path / "run", "--steps", "100000", "--set", "checkpoint_every=100000")
    process = subprocess.Popen(
        [sys.executable, "-c", code, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert process.stderr is not None
    killer = threading.Timer(120, process.kill)
    killer.start()
    try:
        for line in process.stderr:
            if line.startswith("step 2/"):
                process.send_signal(number)
                break
        out, err = process.communicate()
    finally:
        killer.cancel()

    assert process.returncode == status, err
    newest = checkpoint.load_newest(tmp_path / "run")
    assert newest is not None and newest.step >= 2
    assert f"stopped and saved after step {newest.step}; to go on: lvg-train lowres --data {root}" in out
    assert (tmp_path / "run" / "curves.png").exists()


def test_divergence_names_step_tensor_and_the_last_good_checkpoint(root: Path, tmp_path: Path, monkeypatch):
    config = make_config(root, "lowres", "steps=9", "checkpoint_every=2")
    original = loop.Updates.take_step

    def poisoned(self: loop.Updates) -> None:
        if self.state.step == 3:
            with torch.no_grad():
                self.state.generator.to_rgb.bias[0] = torch.nan  # type: ignore[index, union-attr]
        original(self)

    monkeypatch.setattr(loop.Updates, "take_step", poisoned)
    with pytest.raises(TrainError) as err:
        train(config, tmp_path, World())

    text = str(err.value)
    assert "step 3: loss/generator is nan" in text
    assert "generator.to_rgb.bias" in text
    assert str(checkpoint_of(tmp_path, 2)) in text
    assert [p.name for p in (tmp_path / "checkpoints").glob("step-*")] == ["step-000000002"]


def test_out_of_memory_says_what_to_lower(root: Path, tmp_path: Path, monkeypatch):
    def full(self: loop.Updates) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB.\nmore")

    monkeypatch.setattr(loop.Updates, "take_step", full)
    with pytest.raises(TrainError, match=r"at step 0, with 4 windows at once .*raise --set rounds=2 first"):
        train(make_config(root, "lowres"), tmp_path, World())


def test_a_second_process_is_kept_out_of_a_run(root: Path, tmp_path: Path):
    with checkpoint.lock_run(tmp_path), pytest.raises(TrainError, match=f"in use by process {os.getpid()}"):
        train(make_config(root, "lowres"), tmp_path, World())


# ------------------------------------------------------------------------------------------------ the commands


@pytest.mark.parametrize("stage", STAGES)
def test_help_teaches_by_example(stage: str):
    result = CliRunner().invoke(main, [stage, "--help"])

    assert result.exit_code == 0
    assert f"lvg-train {stage} --data rides --out runs/" in result.output
    assert "torchrun" in result.output and "--dry-run" in result.output
    for status in (
        "0    all steps are done, or SIGTERM stopped it and it has saved",
        "130  Ctrl-C",
        "1    it cannot",
    ):
        assert status in result.output


def test_a_dry_run_shows_what_it_would_cost_and_writes_nothing(root: Path, tmp_path: Path):
    result = CliRunner().invoke(main, options(root, tmp_path / "run", "--dry-run"))

    assert result.exit_code == 0, result.output
    assert '"stage": "lowres"' in result.output and '"num_frames": 4' in result.output
    assert "generator: " in result.output and " parameters" in result.output
    assert "estimated" in result.output and "one step on cpu" in result.output
    assert not (tmp_path / "run").exists()


def test_the_same_command_goes_on(root: Path, tmp_path: Path):
    run = tmp_path / "run"
    first = CliRunner().invoke(main, options(root, run, "--steps", "1"))
    second = CliRunner().invoke(main, options(root, run, "--steps", "2"))

    assert (first.exit_code, second.exit_code) == (0, 0), first.output + second.output
    assert "done: 2 steps" in second.output
    assert [line["step"] for line in read_log(run)] == [1, 2]

    third = CliRunner().invoke(main, options(root, run, "--steps", "1"))
    assert third.exit_code == 0
    assert "nothing to do: the run has 2 steps already; --steps 3 would go on" in third.output
    assert "done" not in third.output

    newest = checkpoint_of(run, 2) / "models.safetensors"
    os.truncate(newest, 100)
    fourth = CliRunner().invoke(main, ["sample", str(run), "--frames", "1", "--out", str(tmp_path / "a.png")])
    assert fourth.exit_code == 0
    assert (
        f"Warning: damaged in {run / 'checkpoints'}: step-000000002 (models.safetensors has" in fourth.stderr
    )
    assert "step-000000001 is used instead\n" in fourth.stderr
    assert ".py:" not in fourth.stderr


def test_what_users_can_mend_is_one_message(root: Path, tmp_path: Path):
    result = CliRunner().invoke(main, options(root, tmp_path / "run", "--set", "num_frames=4000"))

    assert result.exit_code == 1
    assert result.output.startswith("Error: no window fits")


def everything_in(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() if path.is_file() else b"" for path in folder.rglob("*")}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("num_frames=4000", "no window fits"),
        ("num_frame=4", "did you mean num_frames"),
        ("also=[wandb]", "wandb is not installed"),
    ],
)
def test_a_refused_start_leaves_nothing_behind(
    root: Path, tmp_path: Path, change: str, told: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "wandb", None)
    (tmp_path / "mine").mkdir()

    for run in (tmp_path / "new" / "run", tmp_path / "mine"):
        result = CliRunner().invoke(main, options(root, run, "--set", change))
        assert result.exit_code == 1
        assert told in result.output

    assert everything_in(tmp_path) == {tmp_path / "mine": b""}


def test_a_refused_start_leaves_a_run_as_it_is(root: Path, tmp_path: Path):
    run = tmp_path / "run"
    assert CliRunner().invoke(main, options(root, run, "--steps", "1")).exit_code == 0
    (run / ".lock").unlink()  # as in a copy of a run
    before = everything_in(run)

    for more in (("--set", "seed=5"), ("--data", str(tmp_path / "gone"))):
        assert CliRunner().invoke(main, options(root, run, *more)).exit_code == 1
        assert {p: b for p, b in everything_in(run).items() if p.name != ".lock"} == before
