"""Runs a function in a child process with limits; a bad file can lose only itself."""

from __future__ import annotations

import contextlib
import heapq
import itertools
import multiprocessing
import os
import resource
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from multiprocessing import connection, resource_tracker
from typing import Any

from lvg_data.errors import Rejected

#: imported once by the fork server, so that a child starts in milliseconds
PRELOAD = ["av", "numpy", "simplejpeg", "PIL.Image", "lvg_data.steps"]
#: the children's arithmetic is single-threaded: parallelism is one child a core
ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
#: one child starts at a time: starting one changes the main module and the environment for a moment
_STARTING = threading.Lock()


class Stopped(RuntimeError):
    """The build is being stopped; nothing is wrong with the data."""


@dataclass(frozen=True)
class ChildLimits:
    """Seconds on the clock; private writable memory; size of the largest output file."""

    wall_s: float
    memory_bytes: int
    file_bytes: int = 1 << 40


@contextlib.contextmanager
def _started_bare() -> Iterator[None]:
    """Starts children that do not import the program's main module again.

    multiprocessing runs `__main__` in each new child; under a Beam worker that alone takes seconds. Our
    children need only the function that they are given. Environment for the fork server is set here too,
    because it starts with the first child.
    """
    main = sys.modules["__main__"]
    with _STARTING:
        spec, file = getattr(main, "__spec__", None), getattr(main, "__file__", None)
        before = {name: os.environ.get(name) for name in ONE_THREAD}
        main.__spec__ = None
        if file is not None:
            del main.__file__
        os.environ.update(ONE_THREAD)
        # The fork server and its children inherit the blocked signal: Ctrl-C is the launcher's to handle, also
        # in the moment before a child has a session of its own. The tracker would unblock it as it starts.
        resource_tracker.ensure_running()
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            main.__spec__ = spec
            if file is not None:
                main.__file__ = file
            for name, value in before.items():
                os.environ.pop(name) if value is None else os.environ.__setitem__(name, value)


def _child_main(pipe: connection.Connection, limits: ChildLimits, function: Any, args: tuple) -> None:
    os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _exit_with_parent()
    resource.setrlimit(resource.RLIMIT_DATA, (limits.memory_bytes, limits.memory_bytes))
    resource.setrlimit(resource.RLIMIT_FSIZE, (limits.file_bytes, limits.file_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        answer = ("result", function(*args))
    except Rejected as err:
        answer = ("rejected", err)
    except MemoryError:
        answer = ("memory", None)
    except BaseException as err:  # noqa: BLE001 - carried to the parent, which raises it
        answer = ("failed", (f"{type(err).__name__}: {err}", traceback.format_exc()))
    pipe.send(answer)
    pipe.close()


def _exit_with_parent() -> None:
    """Ends this process, and all that it started, when the one that asked for it dies, however it dies."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        connection.wait([parent.sentinel])
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def run_in_child(
    function: Callable[..., Any],
    args: tuple[Any, ...],
    limits: ChildLimits,
    stop: threading.Event | None = None,
) -> Any:
    """`function(*args)` in a process of its own; both must pickle.

    Raises:
      Rejected: by the function; or `decode_timeout`, `memory_limit`, `decode_crashed` when the child ran
        past a limit or died.
      Stopped: `stop` was set meanwhile.
      RuntimeError: the function failed in another way; the text has its traceback.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_child_main, args=(theirs, limits, function, args), daemon=True)
    with _started_bare():
        process.start()
    theirs.close()
    try:
        return _answer_of(process, ours, limits, stop)
    finally:
        _end(process)
        ours.close()


def _answer_of(
    process: Any, pipe: connection.Connection, limits: ChildLimits, stop: threading.Event | None
) -> Any:
    if not _wait(pipe, limits.wall_s, stop):
        if stop is not None and stop.is_set():
            raise Stopped("stopped while a child was working")
        raise Rejected("decode_timeout", f"not done after {limits.wall_s:g} s", limits.wall_s, limits.wall_s)
    try:
        kind, value = pipe.recv()
    except (EOFError, OSError):  # OSError: it died in the middle of its answer
        process.join(5)
        raise Rejected("decode_crashed", f"the decoder died, exit code {process.exitcode}") from None
    if kind == "rejected":
        raise value
    if kind == "memory":
        raise Rejected("memory_limit", "the decoder ran out of its memory", None, limits.memory_bytes)
    if kind == "failed":
        raise RuntimeError(f"{value[0]}\n--- in the child process:\n{value[1]}")
    return value


def _wait(pipe: connection.Connection, wall_s: float, stop: threading.Event | None) -> bool:
    """Whether the child answered or died within `wall_s` and before a stop; looks for a stop at 5 Hz."""
    slices = itertools.repeat(0.2, max(1, round(wall_s / 0.2))) if stop is not None else iter((wall_s,))
    for seconds in slices:
        if pipe.poll(seconds):
            return True
        if stop is not None and stop.is_set():
            return False
    return False


def _end(process: Any) -> None:
    """Ends the child with everything that it started."""
    process.join(0.5) if process.exitcode is None else None
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)  # what it started may outlive it
    if process.is_alive():
        process.kill()
    process.join()
    process.close()


class Gate:
    """A fixed number of slots for work that waits on children, the most costly first.

    Args:
      slots: how many run at once; one a core.
    """

    def __init__(self, slots: int) -> None:
        self.stop = threading.Event()
        self._waiting: list[tuple[float, int, Future[Any], Callable[[], Any]]] = []
        self._order = itertools.count()
        self._some = threading.Condition()
        for number in range(slots):
            threading.Thread(target=self._work, name=f"gate-{number}", daemon=True).start()

    def submit(self, cost: float, work: Callable[[], Any]) -> Future[Any]:
        """Queues `work`; among what waits, the highest `cost` goes first."""
        future: Future[Any] = Future()
        with self._some:
            if self.stop.is_set():
                future.set_exception(Stopped("stopped before this work began"))
                return future
            heapq.heappush(self._waiting, (-cost, next(self._order), future, work))
            self._some.notify()
        return future

    def close(self) -> None:
        """Stops: running children are ended, and all that waits fails with `Stopped`."""
        self.stop.set()
        with self._some:
            for *_, future, _work in self._waiting:
                future.set_exception(Stopped("stopped before this work began"))
            self._waiting.clear()
            self._some.notify_all()

    def _work(self) -> None:
        while True:
            with self._some:
                self._some.wait_for(lambda: self._waiting or self.stop.is_set())
                if self.stop.is_set():
                    return
                *_, future, work = heapq.heappop(self._waiting)
            try:
                future.set_result(work())
            except BaseException as err:  # noqa: BLE001 - raised where the result is asked for
                future.set_exception(err)
