"""What a run says of itself: each step once, in files that stock tools read."""

from __future__ import annotations

import builtins
import io
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from lvg_train.errors import TrainError
from lvg_train.stats import THROUGHPUT, Counter, Log, plot_curves, read_log


def quiet() -> Console:
    return Console(file=io.StringIO())


def steps_of(run: Path) -> list[int]:
    return [line["step"] for line in read_log(run)]


@pytest.fixture
def without(monkeypatch):
    """`without("wandb")`: its import fails, as where it is not installed."""
    real, missing = builtins.__import__, set()

    def refuse(name, *rest):
        if name.split(".")[0] in missing:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", refuse)
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    return missing.add


# ---- means


def test_means_are_over_every_number_since_they_were_last_taken():
    counter = Counter()
    counter.add({"loss/g": 1.0, "logits/real": torch.tensor([1.0, 2.0, 6.0])})
    counter.add({"loss/g": torch.tensor(4.0), "logits/real": torch.tensor([[7.0]])})

    assert counter.take() == {"logits/real": 4.0, "loss/g": 2.5}
    assert counter.take() == {}
    counter.add({"loss/g": 3})
    assert counter.take() == {"loss/g": 3.0}


def test_ranks_are_averaged_by_how_much_each_has_seen():
    one, other = Counter(), Counter()
    one.add({"x": torch.tensor([1.0, 2.0, 3.0]), "y": 1.0})
    other.add({"y": 2.0, "x": 10.0})
    sums_of_other = torch.tensor([[10.0, 1.0], [2.0, 1.0]], dtype=torch.float64)

    assert one.take(lambda sums: sums.add_(sums_of_other)) == {"x": 4.0, "y": 1.5}


def test_counting_keeps_no_graph_and_loses_no_precision():
    counter = Counter()
    value = torch.ones([], requires_grad=True)
    for _ in range(1000):
        counter.add({"x": value * 0.1})

    assert counter.take()["x"] == pytest.approx(0.1, rel=1e-7)


# ---- the file


def test_a_report_is_a_line_of_json(tmp_path):
    with Log(tmp_path, 100, console=quiet()) as log:
        time.sleep(0.05)
        log.report(10, {"loss/g": 0.5})
        log.report(30, {"loss/g": float("nan")})

    first, second = (json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines())
    assert list(first) == ["step", "seconds", "values"]
    assert (first["step"], first["values"]["loss/g"]) == (10, 0.5)
    assert 0.05 <= first["seconds"] <= second["seconds"]
    assert 0 < first["values"][THROUGHPUT] < 10 / 0.05
    assert second["values"]["loss/g"] is None
    assert read_log(tmp_path) == [first, second]


def test_a_line_is_in_the_file_before_the_next_step(tmp_path):
    log = Log(tmp_path, 100, console=quiet())
    log.report(1, {"x": 1.0})

    assert steps_of(tmp_path) == [1]
    log.close()
    log.close()


def test_a_resumed_run_has_no_step_twice_and_goes_on_counting_time(tmp_path):
    with Log(tmp_path, 100, console=quiet()) as log:
        for step in (10, 20, 30):
            time.sleep(0.02)
            log.report(step, {"x": step})
    before = read_log(tmp_path)

    with Log(tmp_path, 100, first_step=20, console=quiet()) as log:
        assert steps_of(tmp_path) == [10, 20]
        log.report(30, {"x": -30})

    after = read_log(tmp_path)
    assert after[:2] == before[:2]
    assert (after[2]["step"], after[2]["values"]["x"]) == (30, -30)
    assert before[1]["seconds"] <= after[2]["seconds"] < before[1]["seconds"] + 5


def test_a_new_run_in_the_same_folder_begins_a_new_log(tmp_path):
    with Log(tmp_path, 100, console=quiet()) as log:
        log.report(10, {})

    Log(tmp_path, 100, console=quiet()).close()

    assert steps_of(tmp_path) == []


@pytest.mark.parametrize(
    "rest", ['{"step": 20, "sec', "\0\0\0\0", "7\n", '{"step": "x", "seconds": 1, "values": {}}\n', "\xff\n"]
)
def test_a_line_that_was_cut_off_or_damaged_is_left_out(tmp_path, rest):
    with Log(tmp_path, 100, console=quiet()) as log:
        log.report(10, {})
    with open(tmp_path / "log.jsonl", "a", encoding="latin-1") as file:
        file.write(rest)
    assert steps_of(tmp_path) == [10]

    with Log(tmp_path, 100, first_step=15, console=quiet()) as log:
        log.report(20, {})

    assert steps_of(tmp_path) == [10, 20]
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 2


def test_a_step_is_reported_once(tmp_path):
    with Log(tmp_path, 100, first_step=5, console=quiet()) as log:
        with pytest.raises(ValueError, match="step 5 was reported already"):
            log.report(5, {})
        log.report(6, {})
        with pytest.raises(ValueError, match="step 6 was reported already"):
            log.report(6, {})


FULL = """
import resource, sys
from pathlib import Path
from lvg_train.errors import TrainError
from lvg_train.stats import Log
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
log = Log(Path(sys.argv[1]), 1000)
try:
    for step in range(1, 1000):
        log.report(step, {"x": 0.5})
except TrainError as err:
    print(err)
"""


def test_a_full_disk_is_named_and_the_lines_before_stay(tmp_path):
    answer = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True, check=True
    )

    assert answer.stdout.startswith(f"{tmp_path}/log.jsonl cannot be written: ")
    assert len(steps_of(tmp_path)) > 5


# ---- progress


def test_without_a_terminal_progress_is_plain_lines(tmp_path):
    console = quiet()
    with Log(tmp_path, 4_000_000, first_step=3_999_000, console=console) as log:
        time.sleep(0.02)
        log.progress(3_999_001)
        log.report(3_999_500, {"loss/fake": 0.71234, "loss/r1": 2e-6, "p": 0.5, "logits/fake": -1.5})
        log.say("a [note]")

    first, second = console.file.getvalue().splitlines()
    assert first.startswith("step 3,999,500/4,000,000  ")
    assert " steps/s  left 0 s  loss: fake 0.712, r1 2e-06  p 0.5  logits: fake -1.5" in first
    assert second == "a [note]"


def test_a_terminal_gets_a_bar(tmp_path):
    console = Console(file=io.StringIO(), force_terminal=True, width=160)
    with Log(tmp_path, 200, console=console) as log:
        log.report(50, {"loss/generator": 0.71234})
        log.progress(120)
        log.say("saved step 50")

    shown = console.file.getvalue()
    assert "120/200" in shown
    assert "[dim]" not in shown
    assert "steps/s" in shown
    assert "generator 0.712" in shown
    assert "saved step 50" in shown


@pytest.mark.parametrize(
    ("steps_left", "speed", "text"),
    [(100, 50.0, "50.00 steps/s  left 2 s"), (100, 1.0, "1.00 steps/s  left 2 min"),
     (1200, 0.1, "10.00 s/step  left 3 h 20 min"), (270_000, 0.5, "2.00 s/step  left 6 d 6 h")],
)  # fmt: skip
def test_throughput_and_time_left_are_in_units_that_read_well(tmp_path, monkeypatch, steps_left, speed, text):
    console, now = quiet(), [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    with Log(tmp_path, 10 + steps_left, console=console) as log:
        now[0] += 10 / speed
        log.report(10, {})

    assert text in console.file.getvalue()


# ---- other logs


def test_tensorboard_has_each_step_once(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with Log(tmp_path, 100, also=["tensorboard"], console=quiet()) as log:
        for step in (10, 20, 30):
            log.report(step, {"loss/g": step / 10})
    with Log(tmp_path, 100, first_step=20, also=["tensorboard"], console=quiet()) as log:
        log.report(30, {"loss/g": -3.0})

    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("loss/g")] == [(10, 1.0), (20, 2.0), (30, -3.0)]
    assert len(events.Scalars(THROUGHPUT)) == 3


def test_wandb_goes_on_with_the_same_run(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    ids = []
    for first_step in (0, 10):
        with Log(tmp_path, 20, first_step, also=["wandb"], config={"seed": 1}, console=quiet()) as log:
            log.report(first_step + 10, {"loss/g": 0.5})
        ids += [p.name.rsplit("-", 1)[1] for p in (tmp_path / "wandb").glob("offline-run-*")]

    assert len(set(ids)) == 1


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_a_log_that_is_not_installed_names_its_extra(tmp_path, without, name):
    without(name)

    with pytest.raises(TrainError, match=rf"{name} is not installed .*pip install 'lvg\[{name}\]'"):
        Log(tmp_path, 100, also=[name], console=quiet())


def test_an_unknown_log_is_refused_with_the_known_ones(tmp_path):
    with pytest.raises(TrainError, match="no log 'mlflow'; there are tensorboard, wandb"):
        Log(tmp_path, 100, also=["mlflow"], console=quiet())


def test_nothing_of_the_other_logs_is_loaded_unless_asked():
    code = "import lvg_train.stats, sys; print({'matplotlib', 'tensorboard', 'wandb'} & set(sys.modules))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert answer.stdout == "set()\n"


# ---- curves


def write_run(run: Path, steps: range) -> None:
    random = np.random.default_rng(0)
    with Log(run, 1000, console=quiet()) as log:
        for step in steps:
            log.report(step, {
                "loss/generator": 0.7 + 0.1 * random.standard_normal(),
                "loss/discriminator": 1.3 + 0.1 * random.standard_normal(),
                "logits/real": step / 500, "logits/fake": -step / 400,
                "r1/penalty": 0.05 * random.random() if step % 16 == 0 else float("nan"),
                "augment/probability": step / 2000,
            })  # fmt: skip


def test_curves_are_a_picture_with_ink_in_it(tmp_path):
    pytest.importorskip("matplotlib")
    write_run(tmp_path, range(1, 200))

    path = plot_curves(tmp_path)

    assert path == tmp_path / "curves.png"
    with Image.open(path) as image:
        picture = np.asarray(image.convert("RGB")).astype(int)
    assert picture.shape[0] > 500
    assert picture.shape[1] > 1000
    coloured = (picture.max(-1) - picture.min(-1) > 60).mean()
    assert coloured > 0.002  # the curves; text and frames are grey


@pytest.mark.parametrize("steps", [[4], [1, 2], [2, 4, 5], [100_000, 275_000]])
def test_steps_on_the_axis_of_curves_are_whole(tmp_path, monkeypatch, steps):
    pytest.importorskip("matplotlib")
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figures, draw = [], FigureCanvasAgg.print_png
    monkeypatch.setattr(
        FigureCanvasAgg,
        "print_png",
        lambda canvas, file: (figures.append(canvas.figure), draw(canvas, file)),
    )
    with Log(tmp_path, 300_000, console=quiet()) as log:
        for step in steps:
            log.report(step, {"loss/g": 1.0 / step})

    plot_curves(tmp_path)

    for axes in figures[0].axes:
        ticks = axes.get_xticks()
        assert len(ticks) > 0 and (ticks == ticks.round()).all()


def test_curves_of_a_run_without_a_report_are_not_drawn(tmp_path):
    assert plot_curves(tmp_path) is None
    Log(tmp_path, 10, console=quiet()).close()
    assert plot_curves(tmp_path) is None


def test_curves_with_a_value_that_was_never_finite_are_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    with Log(tmp_path, 10, console=quiet()) as log:
        log.report(1, {"loss/g": float("nan"), "p": 1.0})

    assert plot_curves(tmp_path).stat().st_size > 1000


def test_without_matplotlib_it_is_said_how_to_get_it(tmp_path, without):
    write_run(tmp_path, range(1, 3))
    without("matplotlib")

    with pytest.warns(UserWarning, match="pip install matplotlib"):
        assert plot_curves(tmp_path) is None
