"""Failure policy: results go on, `Rejected` goes to the dead letters, anything else fails the run.

A disk or a store that fails is not the data's fault: an OSError of a step fails the run as a `MachineError`. So
does a limit that work met for which no one video is to blame, as that on a shard.

Work on videos happens in child processes. A bundle's elements are all handed to the gate first and
collected when the bundle ends, so that the gate, not Beam's even split by count, decides what runs when.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import apache_beam as beam
from apache_beam.transforms.window import GlobalWindows
from apache_beam.utils.shared import Shared

from lvg_data.child import Gate
from lvg_data.errors import MachineError, Rejected
from lvg_data.records import Reject

REJECTS = "rejects"


@contextlib.contextmanager
def machine_errors() -> Iterator[None]:
    """Raises what the system or a store refuses as a `MachineError`."""
    try:
        yield
    except OSError as err:
        raise MachineError(describe_os_error(err)) from err


def describe_os_error(err: OSError) -> str:
    """What failed, and where if the error knows."""
    what = err.strerror or str(err) or type(err).__name__
    return f"{what}: {err.filename}" if err.filename else what


def blaming_the_machine(step: Callable[..., Any]) -> Callable[..., Any]:
    """`step` with its OSErrors as `MachineError`s."""

    @functools.wraps(step)
    def guarded(*args: Any) -> Any:
        with machine_errors():
            return step(*args)

    return guarded


def machine_error_in(err: BaseException) -> str | None:
    """The text of the `MachineError` that made a build fail; None where something else did.

    Beam adds to the text of an exception; runners with processes of their own turn it into a RuntimeError that
    quotes its traceback.
    """
    found = re.search(
        r"MachineError: (.+?)(?: \[while running .*)?$", f"{type(err).__name__}: {err}", re.MULTILINE
    )
    return found[1] if found else None


@dataclass(frozen=True)
class GateHandle:
    """Finds the one gate of this process, also from elements of the pipeline that were pickled on the way."""

    slots: int | None
    shared: Shared = field(default_factory=Shared)

    def acquire(self) -> Gate:
        return self.shared.acquire(lambda: Gate(self.slots or len(os.sched_getaffinity(0))))


class _RunGated(beam.DoFn):
    """Runs `work` on each element behind the gate.

    Args:
      work: element, stop event -> output; may raise Rejected.
      cost: element -> expected cost; the most costly goes first.
      reject: element, the exception -> row of the dead letters; None where no video is to blame for an element.
    """

    def __init__(
        self,
        handle: GateHandle,
        work: Callable[[Any, Any], Any],
        cost: Callable[[Any], float],
        reject: Callable[[Any, Rejected], Reject] | None,
    ) -> None:
        self.handle, self.work, self.cost, self.reject = handle, work, cost, reject
        self.pending: list[tuple[Any, Future[Any]]] = []

    def setup(self) -> None:
        self.gate = self.handle.acquire()

    def start_bundle(self) -> None:
        self.pending = []

    def process(self, element: Any) -> None:
        work = self.work
        stop = self.gate.stop
        self.pending.append((element, self.gate.submit(self.cost(element), lambda: work(element, stop))))

    def finish_bundle(self) -> Iterator[Any]:
        for element, future in self.pending:
            with machine_errors():
                output = self._outcome(element, future)
            yield output
        self.pending = []

    def _outcome(self, element: Any, future: Future[Any]) -> Any:
        try:
            return GlobalWindows.windowed_value(future.result())
        except Rejected as err:
            if self.reject is None:
                text = f"{err}; no one video is to blame, so that none is dropped: raise the card's limits"
                raise MachineError(text) from err
            row = GlobalWindows.windowed_value(self.reject(element, err))
            return beam.pvalue.TaggedOutput(REJECTS, row)


@dataclass
class RunGated(beam.PTransform):
    """Elements -> (outputs, rejects); both are PCollections."""

    handle: GateHandle
    work: Callable[[Any, Any], Any]
    cost: Callable[[Any], float] = lambda _: 0.0
    reject: Callable[[Any, Rejected], Reject] | None = None

    def expand(self, elements: beam.PCollection) -> tuple[beam.PCollection, beam.PCollection]:
        run = _RunGated(self.handle, self.work, self.cost, self.reject)
        outputs = elements | beam.ParDo(run).with_outputs(REJECTS, main="done")
        return outputs["done"], outputs[REJECTS]
