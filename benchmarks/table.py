"""What all benchmarks share: rows, how they are printed, where they are written."""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Row:
    """One measured number; `ratio` is it over the value of the row named `to`."""

    case: str
    value: float
    unit: str
    ratio: float | None = None
    to: str | None = None


def compared(case: str, value: float, unit: str, base: Row) -> Row:
    """A row with its ratio to another row's value."""
    return Row(case, value, unit, value / base.value if base.value else None, base.case)


def print_rows(title: str, rows: Iterable[Row]) -> None:
    """One line a row: case, value, unit, ratio and what it is a ratio to."""
    table = Table("case", "value", "unit", "ratio", "to", title=title, title_justify="left", box=None)
    for column in (1, 3):
        table.columns[column].justify = "right"
    for row in rows:
        ratio = "" if row.ratio is None else f"{row.ratio:.3g}"
        table.add_row(row.case, f"{row.value:,.4g}", row.unit, ratio, row.to or "")
    Console(width=150).print(table, highlight=False)


def write_rows(name: str, rows: Iterable[Row]) -> Path:
    """Writes `results/NAME.json`: a list of {"case", "value", "unit", "ratio", "to"}."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n", encoding="utf-8")
    return path


def read_rows(name: str) -> list[Row]:
    return [Row(**row) for row in json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))]


def load_average() -> Row:
    """How busy the machine was in the last minute; above its number of cores, wall times mean little."""
    return Row(f"load average, {os.cpu_count()} cores", os.getloadavg()[0], "processes")


def alternate(measures: dict[str, Callable[[], float]], rounds: int) -> dict[str, float]:
    """Median of each measure, taken in turn A B A B, so that a busy spell hits all of them alike."""
    found: dict[str, list[float]] = {name: [] for name in measures}
    for _ in range(rounds):
        for name, measure in measures.items():
            found[name].append(measure())
    return {name: statistics.median(values) for name, values in found.items()}


def with_load(rows: Sequence[Row]) -> list[Row]:
    return [*rows, load_average()]
