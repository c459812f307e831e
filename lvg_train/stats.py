"""What a run says of itself: RUN/log.jsonl always, a progress line, TensorBoard or W&B where asked, curves.

A line of the log: {"step": 200, "seconds": 61.2, "values": {"loss/generator": 0.71, ...}}. `step` counts steps
done, `seconds` the time that the run has trained, over all its starts. What stands before the "/" of a name is the
panel of its curve.
"""

from __future__ import annotations

import io
import json
import math
import os
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from torch import Tensor

from lvg_data.store import write_atomic
from lvg_train.errors import TrainError, TrainWarning

LOG, CURVES = "log.jsonl", "curves.png"
THROUGHPUT = "throughput/steps_per_s"
#: columns of a terminal that the bar needs before its values
_BAR_COLUMNS = 90


class Counter:
    """Means of named values since they were last taken. Adding does not wait for the device."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}

    def add(self, values: Mapping[str, Tensor | float]) -> None:
        """Adds numbers by name; of a tensor every element counts."""
        for name, value in values.items():
            numbers = torch.as_tensor(value).detach().to(torch.float64 if _is_cpu(value) else torch.float32)
            sums = torch.stack([numbers.sum(), torch.full_like(numbers.sum(), numbers.numel())])
            self._sums[name] = self._sums[name] + sums if name in self._sums else sums

    def take(self, all_reduce: Callable[[Tensor], object] | None = None) -> dict[str, float]:
        """Means by name, in the order of their names; what comes later begins anew.

        Args:
          all_reduce: adds a float64 tensor [names, 2] up over ranks, in place; every rank must have added the
            same names. By default the means are of this rank alone.
        """
        names = sorted(self._sums)
        if not names:
            return {}
        sums = torch.stack([self._sums[name].double().cpu() for name in names])
        self._sums.clear()
        if all_reduce:
            all_reduce(sums)
        return dict(zip(names, (sums[:, 0] / sums[:, 1]).tolist(), strict=True))


class _Sink(Protocol):
    def write(self, step: int, values: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


class Log:
    """The log of a run; one process has it: `with Log(run, 1000) as log: log.report(10, {...})`."""

    def __init__(
        self,
        run: Path,
        total_steps: int,
        first_step: int = 0,
        also: Sequence[str] = (),
        config: Mapping[str, Any] | None = None,
        console: Console | None = None,
    ):
        """Opens the log; on a resumed run, lines of later steps than `first_step` are cut.

        Args:
          total_steps: of the whole run.
          first_step: steps that were done when this start of the run began.
          also: names of `SINKS` to report to as well.
          config: of the run, shown by W&B.
          console: where progress is shown; standard error by default. A terminal gets a bar, a file plain lines.

        Raises:
          TrainError: a sink is unknown or not installed.
        """
        self.run, self.total_steps, self.first_step = run, total_steps, first_step
        self._sinks = [_open_sink(name, run, config or {}, first_step) for name in also]
        kept = _cut(run, first_step)
        self._seconds_before = kept[-1]["seconds"] if kept else 0.0
        self._start = self._last_time = time.monotonic()
        self._last_step = first_step
        self._file = os.open(run / LOG, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._console = console or Console(stderr=True)
        self._bar = _Bar(self._console, total_steps, first_step) if self._console.is_terminal else None

    def report(self, step: int, values: Mapping[str, float]) -> None:
        """Adds a line to the log, with the throughput since the last report, and shows it.

        Args:
          step: steps done; more than at the last report.
          values: by name; what is not finite is kept as null.
        """
        if step <= self._last_step:
            raise ValueError(f"step {step} was reported already; the last one was {self._last_step}")
        now = time.monotonic()
        speed = (step - self._last_step) / max(now - self._last_time, 1e-9)
        self._last_step, self._last_time = step, now
        numbers = {**values, THROUGHPUT: speed}
        seconds = round(self._seconds_before + now - self._start, 3)
        line = {"step": step, "seconds": seconds, "values": {k: _finite(v) for k, v in numbers.items()}}
        self._append(json.dumps(line, allow_nan=False) + "\n")
        for sink in self._sinks:
            sink.write(step, numbers)
        self._show(step, values, speed)

    def progress(self, step: int) -> None:
        """Moves the bar between reports, where there is one."""
        if self._bar:
            self._bar.move(step)

    def say(self, text: str) -> None:
        """A line above the bar."""
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def close(self) -> None:
        """Ends the bar and the sinks. Nothing of the log waits for this."""
        if self._bar:
            self._bar.close()
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
        while self._sinks:
            self._sinks.pop().close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _append(self, line: str) -> None:
        try:
            os.write(self._file, line.encode())
        except OSError as err:
            raise TrainError(f"{self.run / LOG} cannot be written: {err}") from err

    def _show(self, step: int, values: Mapping[str, float], speed: float) -> None:
        left = (self.total_steps - step) / speed
        told = _told(values)
        if self._bar:
            self._bar.move(step)
            self._bar.tell(f"{_rate(speed)}  left {_duration(left)}", told)
        else:
            self.say(f"step {step:,}/{self.total_steps:,}  {_rate(speed)}  left {_duration(left)}  {told}")


class _Bar:
    """A bar for a terminal: steps, throughput, time left, values."""

    def __init__(self, console: Console, total_steps: int, first_step: int):
        self._progress = Progress(
            TextColumn("step"), MofNCompleteColumn(), BarColumn(24), TimeElapsedColumn(),
            TextColumn("{task.fields[pace]}"), TextColumn("{task.fields[told]}", style="dim", markup=False),
            console=console, refresh_per_second=4,
        )  # fmt: skip
        self._task = self._progress.add_task("", total=total_steps, completed=first_step, pace="", told="")
        self._progress.start()

    def move(self, step: int) -> None:
        self._progress.update(self._task, completed=step)

    def tell(self, pace: str, told: str) -> None:
        room = max(self._progress.console.width - _BAR_COLUMNS, 0)
        self._progress.update(self._task, pace=pace, told=told[:room])

    def close(self) -> None:
        self._progress.stop()


def _told(values: Mapping[str, float]) -> str:
    """loss: generator 0.712, real 0.4  logits: real 0.2"""
    panels: dict[str, list[str]] = {}
    for name, value in values.items():
        panel, _, curve = name.rpartition("/")
        panels.setdefault(panel, []).append(f"{curve} {value:.3g}")
    return "  ".join(
        f"{panel}: {', '.join(told)}" if panel else ", ".join(told) for panel, told in panels.items()
    )


def _rate(steps_per_s: float) -> str:
    return f"{steps_per_s:.2f} steps/s" if steps_per_s >= 1 else f"{1 / steps_per_s:.2f} s/step"


def _duration(seconds: float) -> str:
    """45 s, 12 min, 3 h 20 min, 5 d 7 h."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    if minutes < 90:
        return f"{minutes} min"
    hours = round(seconds / 3600)
    return f"{minutes // 60} h {minutes % 60} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def _finite(value: float) -> float | None:
    number = float(value)
    return number if math.isfinite(number) else None


def _is_cpu(value: Tensor | float) -> bool:
    return not isinstance(value, Tensor) or value.device.type == "cpu"


# ---- the file


def read_log(run: Path) -> list[dict[str, Any]]:
    """The lines of RUN/log.jsonl, in order; nothing where there is none. A damaged line is left out."""
    try:
        text = (run / LOG).read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return []
    return [line for line in map(_parsed, text.splitlines()) if line]


def _parsed(text: str) -> dict[str, Any] | None:
    try:
        line = json.loads(text)
        is_whole = isinstance(line["step"], int) and line["seconds"] >= 0 and isinstance(line["values"], dict)
        return line if is_whole else None
    except (ValueError, TypeError, KeyError):
        return None


def _cut(run: Path, last_step: int) -> list[dict[str, Any]]:
    """Keeps the lines up to a step, in the file too; returns them."""
    run.mkdir(parents=True, exist_ok=True)
    kept = [line for line in read_log(run) if line["step"] <= last_step]
    text = "".join(json.dumps(line) + "\n" for line in kept)
    path = run / LOG
    if path.exists() and path.read_bytes() != text.encode():
        write_atomic(str(path), text.encode())
    return kept


# ---- TensorBoard, W&B


def _open_sink(name: str, run: Path, config: Mapping[str, Any], first_step: int) -> _Sink:
    if name not in SINKS:
        raise TrainError(f"there is no log {name!r}; there are {', '.join(SINKS)}")
    try:
        return SINKS[name](run, config, first_step)
    except ImportError as err:
        raise TrainError(f"{name} is not installed ({err}): `pip install 'lvg[{name}]'`") from err


class _TensorBoard:
    """Event files under RUN/tensorboard; what was written of later steps than the first is not shown."""

    def __init__(self, run: Path, config: Mapping[str, Any], first_step: int):
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(run / "tensorboard"), purge_step=first_step + 1)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class _WeightsAndBiases:
    """A run of the same name, gone on with when it is resumed; W&B passes over steps that it has seen."""

    def __init__(self, run: Path, config: Mapping[str, Any], first_step: int):
        import wandb

        self._run = wandb.init(
            project="lvg", name=run.name, id=_wandb_id(run), resume="allow", dir=str(run), config=dict(config)
        )

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        self._run.finish()


def _wandb_id(run: Path) -> str:
    """Kept in RUN/wandb.json, so that a resumed run is the same one there."""
    path = run / "wandb.json"
    if not path.exists():
        write_atomic(str(path), json.dumps({"id": os.urandom(8).hex()}).encode())
    return json.loads(path.read_text(encoding="utf-8"))["id"]


#: what else a run can report to; each is an extra of this package
SINKS: dict[str, Callable[[Path, Mapping[str, Any], int], _Sink]] = {
    "tensorboard": _TensorBoard,
    "wandb": _WeightsAndBiases,
}


# ---- curves


def plot_curves(run: Path) -> Path | None:
    """Writes RUN/curves.png from the log: a panel for what stands before the "/" of the values' names.

    Returns:
      The picture; None where matplotlib is missing, which a warning says, and where nothing was logged yet.
    """
    lines = read_log(run)
    if not lines:
        return None
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as err:
        warnings.warn(f"no curves are drawn ({err}): `pip install matplotlib`", TrainWarning, stacklevel=2)
        return None
    panels = _panels(lines)
    columns = min(len(panels), 3)
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(5.2 * columns, 3.4 * rows), layout="constrained")
    for place, (title, curves) in enumerate(panels.items()):
        _draw(figure.add_subplot(rows, columns, place + 1), title, curves)
    figure.suptitle(f"{run.name}: step {lines[-1]['step']:,} after {_duration(lines[-1]['seconds'])}")
    data = io.BytesIO()
    FigureCanvasAgg(figure).print_png(data)
    write_atomic(str(run / CURVES), data.getvalue())
    return run / CURVES


def _panels(lines: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, list[tuple[int, float]]]]:
    """Panel -> curve -> points (step, value); the order is that of the log."""
    panels: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for line in lines:
        for name, value in line["values"].items():
            panel, _, curve = name.rpartition("/")
            points = panels.setdefault(panel or curve, {}).setdefault(curve, [])
            if value is not None:
                points.append((line["step"], value))
    return panels


def _draw(axes: Any, title: str, curves: Mapping[str, Sequence[tuple[int, float]]]) -> None:
    for name, points in curves.items():
        steps, values = zip(*points, strict=True) if points else ((), ())
        axes.plot(steps, values, label=name, linewidth=1.2, marker="." if len(points) < 30 else None)
    axes.set_title(title, fontsize=11)
    axes.set_xlabel("step")
    # whole steps; also where there is one alone
    axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="best")
