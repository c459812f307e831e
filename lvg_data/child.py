"""Runs a function in a child process with limits; a bad file can lose only itself.

    run_in_child        what reads files of strangers: no network, no secrets, no open files of ours
    run_in_open_child   what asks a site or a store: it has the network, and the variables that it is given

    this process ---- fork server: bare environment ---- child: own session, limits, then the function
        |.............. function, arguments and variables go there, the answer comes back ..........|

What is not closed off: a child may read what this user may read, and start processes. The number of processes
is limited by user, not by process, and for root not at all (setrlimit(2), RLIMIT_NPROC), so that here they only
die with the child.

A child that a file has taken over answers what it likes. Its words are read as values of known types, and what it
says of the disk is believed where this process finds it so. It can still say that our code failed, which ends the
build with its text: a defect of ours must be seen, and is not to be told from that.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import errno
import fractions
import heapq
import io
import itertools
import math
import multiprocessing
import os
import pickle
import resource
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from multiprocessing import connection, forkserver, resource_tracker
from multiprocessing import util as multiprocessing_util
from pathlib import Path
from typing import Any

from lvg_data.errors import Rejected, printable

#: imported once by the fork server, so that a child starts in milliseconds
PRELOAD = ["lvg_data.preload"]
#: the children's arithmetic is single-threaded: parallelism is one child a core
ONE_THREAD = {
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENCV_FOR_THREADS_NUM": "1",
}
#: pictures in pages of 2 MiB where the system allows it, and memory that is kept for the next ones: a hundredth of the
#: page faults. 32 MiB is the largest threshold that every glibc takes; what is larger has its own pages
LARGE_PAGES = {
    "GLIBC_TUNABLES": f"glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold={32 << 20}"
    f":glibc.malloc.trim_threshold={1 << 30}"
}
#: the only variables of this process that the fork server and its children see, and all that begin with LVG_
PASSED_ON = ("PATH", "HOME", "TMPDIR", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "LD_LIBRARY_PATH",
             "PYTHONPATH", "PYTHONHOME", "PYTHONHASHSEED", "PYTHONDONTWRITEBYTECODE")  # fmt: skip
#: largest answer of a child, pickled: the clips of a video with 100,000 scenes have a fifth of it
MAX_ANSWER_BYTES = 256 << 20
#: how long an answer may take once it has begun
_ANSWER_S = 60
#: one child starts at a time: starting one changes the main module for a moment
_STARTING = threading.Lock()

#: errors by which a disk fails a child; None: of numpy, which wrote less than it had to
_OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EFBIG, errno.ENOENT, errno.ENOTDIR,
                errno.ESTALE, None)  # fmt: skip
#: a disk is full for a child where it has less room than the child may write, or than this
_ROOM_BYTES = 1 << 30

_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000  # unshare(2)
_PR_SET_NO_NEW_PRIVS = 38  # prctl(2)


class Stopped(RuntimeError):
    """The build is being stopped; nothing is wrong with the data."""


@dataclass(frozen=True)
class ChildLimits:
    """What one child may use.

    Attributes:
      wall_s: seconds on the clock.
      memory_bytes: private writable memory, beside what the fork server's libraries take.
      file_bytes: size of each file that it writes.
      cpu_s: seconds of CPU of all its threads; None is a little more than `wall_s`.
      open_files: files that it has open at one time, where it is not an open child.
    """

    wall_s: float
    memory_bytes: int
    file_bytes: int = 1 << 40
    cpu_s: float | None = None
    open_files: int = 256

    @property
    def most_cpu_s(self) -> int:
        """A child of one thread meets its clock first."""
        return math.ceil(self.wall_s + 1 if self.cpu_s is None else self.cpu_s)


def bare_environment() -> dict[str, str]:
    """What every child has: where programs and temporary files are, the language, one thread, large pages."""
    passed = {
        name: value for name, value in os.environ.items() if name in PASSED_ON or name.startswith("LVG_")
    }
    return passed | ONE_THREAD | LARGE_PAGES


# ---- starting -------------------------------------------------------------------------------------


@contextlib.contextmanager
def _started_bare() -> Iterator[None]:
    """Starts children that do not import the program's main module again, of a fork server without secrets.

    multiprocessing runs `__main__` in each new child; under a Beam worker that alone takes seconds. Our
    children need only the function that they are given. The fork server starts with the first child.
    """
    main = sys.modules["__main__"]
    with _STARTING, _spawned_bare():
        spec, file = getattr(main, "__spec__", None), getattr(main, "__file__", None)
        main.__spec__ = None
        if file is not None:
            del main.__file__
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


@contextlib.contextmanager
def _spawned_bare() -> Iterator[None]:
    """What multiprocessing starts for this thread meanwhile has a bare environment.

    multiprocessing has no argument for it, and `os.environ` is not changed even for a moment: other threads
    may be looking for their keys in it. Remove when a context takes an environment.
    """
    thread, spawn = threading.get_ident(), multiprocessing_util.spawnv_passfds

    def spawn_bare(path: bytes, args: Sequence[Any], passfds: Sequence[int]) -> int:
        if threading.get_ident() != thread:
            return spawn(path, args, passfds)
        variables = [f"{name}={value}" for name, value in bare_environment().items()]
        command = [os.fsencode(word) for word in ("/usr/bin/env", "-i", *variables, path, *args[1:])]
        return spawn(command[0], command, passfds)

    multiprocessing_util.spawnv_passfds = spawn_bare
    try:
        yield
    finally:
        multiprocessing_util.spawnv_passfds = spawn


# ---- in the child ---------------------------------------------------------------------------------


def _child_main(
    pipe: connection.Connection,
    limits: ChildLimits,
    environment: dict[str, str],
    is_sealed: bool,
    function: Any,
    args: tuple,
) -> None:
    os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.environ.clear()
    os.environ.update(environment)
    if is_sealed:
        leave_network()  # before there is a second thread: the kernel refuses it then
        _close_files(keep=(pipe.fileno(), _parent().sentinel))
        _limit(resource.RLIMIT_NOFILE, limits.open_files)
    _exit_with_parent()
    _limit(resource.RLIMIT_CPU, limits.most_cpu_s, limits.most_cpu_s + 5)
    _limit(resource.RLIMIT_DATA, _held_bytes() + limits.memory_bytes)
    _limit(resource.RLIMIT_FSIZE, limits.file_bytes)
    _limit(resource.RLIMIT_CORE, 0)
    pipe.send_bytes(_answer(function, args, limits.file_bytes))
    pipe.close()


def _answer(function: Any, args: tuple, file_bytes: int) -> bytes:
    """What became of `function(*args)`, pickled: a kind and a value."""
    try:
        return pickle.dumps(("result", function(*args)))
    except Rejected as err:
        return pickle.dumps(("rejected", err))
    except MemoryError:
        return pickle.dumps(("memory", None))
    except BaseException as err:  # noqa: BLE001 - carried to the parent, which raises it
        is_ours = resource.getrlimit(resource.RLIMIT_FSIZE)[0] == file_bytes  # else this system's own limit
        if isinstance(err, OSError) and err.errno == errno.EFBIG and is_ours:
            return pickle.dumps(("output", err.filename))
        if type(err).__module__ == "builtins" and isinstance(err, OSError) and err.errno in _OF_THE_DISK:
            name = None if err.filename is None else os.fsdecode(err.filename)
            text = err.strerror or str(err)
            return pickle.dumps(("system", (errno.ENOSPC if err.errno is None else err.errno, text, name)))
        return pickle.dumps(("failed", (f"{type(err).__name__}: {err}", traceback.format_exc())))


def leave_network() -> bool:
    """Whether this process has no network from now on, not even 127.0.0.1; there is none on other systems.

    It gets a network namespace of its own, which is empty: as root in a plain way, else in a user namespace
    too. Not every container or kernel allows one of them.
    """
    if sys.platform != "linux":
        return False
    flags = _CLONE_NEWNET if os.geteuid() == 0 else _CLONE_NEWUSER | _CLONE_NEWNET
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    return bool(libc.unshare(flags) == 0)


def _close_files(keep: Iterable[int]) -> None:
    """Closes what was inherited but for `keep`; what is printed, by whatever library, goes nowhere."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nowhere, standard)
    edges = sorted({2, *keep, os.sysconf("SC_OPEN_MAX")})
    for below, above in itertools.pairwise(edges):
        os.closerange(below + 1, above)


def _limit(kind: int, soft: int, hard: int | None = None) -> None:
    """Sets a limit of this process, no higher than the one that it has."""
    _, highest = resource.getrlimit(kind)
    if highest == resource.RLIM_INFINITY:
        highest = sys.maxsize
    resource.setrlimit(kind, (min(soft, highest), min(soft if hard is None else hard, highest)))


def _held_bytes() -> int:
    """Private writable memory that this process has: as RLIMIT_DATA counts it, its stack too (proc_pid_statm(5))."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[5])
    except OSError:  # another system
        return 0
    return pages * resource.getpagesize()


def _parent() -> Any:
    parent = multiprocessing.parent_process()
    assert parent is not None
    return parent


def _exit_with_parent() -> None:
    """Ends this process, and all that it started, when the one that asked for it dies, however it dies."""
    parent = _parent()

    def watch() -> None:
        connection.wait([parent.sentinel])
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


# ---- in this process ------------------------------------------------------------------------------


def start_server() -> None:
    """Starts the fork server, which loads its libraries while this process goes on; else the first child starts it."""
    multiprocessing.get_context("forkserver").set_forkserver_preload(PRELOAD)
    with _started_bare():
        forkserver.ensure_running()


def run_in_child(
    function: Callable[..., Any],
    args: tuple[Any, ...],
    limits: ChildLimits,
    stop: threading.Event | None = None,
) -> Any:
    """`function(*args)` in a sealed process of its own.

    It has the variables of `bare_environment`, no file that is open here, and, where the system allows it (see
    `leave_network`), no network. What it prints is lost. The function and its arguments must pickle; the answer
    is made of plain values, Fractions and the dataclasses of `lvg_data`.

    Raises:
      Rejected: by the function; or `decode_timeout`, `cpu_limit`, `memory_limit`, `output_limit` when the child
        went past a limit, `decode_crashed` when it died.
      Stopped: `stop` was set meanwhile.
      OSError: the disk failed it, and fails this process with the paths that it was given, too: no space,
        read-only, a file of ours gone. What only the child says is not believed: it is started once more, and then
        it is `decode_crashed`.
      RuntimeError: the function failed in another way; the text has its traceback.
    """
    return _run_until_whole((limits, bare_environment(), True, function, args), stop)


def run_in_open_child(
    function: Callable[..., Any],
    args: tuple[Any, ...],
    limits: ChildLimits,
    stop: threading.Event | None = None,
    environment: Mapping[str, str] | None = None,
) -> Any:
    """`run_in_child` for what asks a site or a store: with the network, the open terminal, and more variables.

    Args:
      environment: variables that it has beside the bare ones.
    """
    variables = {**(environment or {}), **bare_environment()}
    return _run_until_whole((limits, variables, False, function, args), stop)


_Order = tuple[ChildLimits, dict[str, str], bool, Any, tuple]


class _DoubtfulError(Exception):
    """What became of a child may not be the file's doing.

    It was killed from outside, by hand, by a system short of memory, or with the fork server; or it blames a
    disk that is well as far as can be seen from here.
    """

    def __init__(self, reject: Rejected) -> None:
        super().__init__(reject)
        self.reject = reject


def _run_until_whole(order: _Order, stop: threading.Event | None) -> Any:
    """What a child answers; one that may have met with something that has passed is started once more."""
    with contextlib.suppress(_DoubtfulError):
        return _run(order, stop)
    try:
        return _run(order, stop)
    except _DoubtfulError as err:
        raise err.reject from None


def _run(order: _Order, stop: threading.Event | None) -> Any:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_child_main, args=(theirs, *order), daemon=True)
    _start(process)
    theirs.close()
    limits, _, is_sealed, _, args = order
    try:
        answer = _received(process, ours, limits, stop)
    finally:
        _end(process)
        ours.close()
    try:
        return _value_of(answer, limits)
    except OSError as err:
        if is_sealed:
            raise _seen_from_here(err, args, limits) from None
        raise


def _start(process: Any) -> None:
    """Starts a child, of a new fork server where the one that there was has been killed."""
    for wait_s in (0.1, 0.4, 1.6):
        with contextlib.suppress(ConnectionError, EOFError), _started_bare():
            process.start()
            return
        time.sleep(wait_s)  # it has hung up, and has not quite ended
    with _started_bare():
        process.start()


def _received(
    process: Any, pipe: connection.Connection, limits: ChildLimits, stop: threading.Event | None
) -> bytes:
    """The answer's bytes. One that has begun must come to its end within `_ANSWER_S`."""
    if not _wait(pipe, limits.wall_s, stop):
        if stop is not None and stop.is_set():
            raise Stopped("stopped while a child was working")
        raise Rejected("decode_timeout", f"not done after {limits.wall_s:g} s", limits.wall_s, limits.wall_s)
    latest = time.monotonic() + _ANSWER_S
    killer = threading.Timer(_ANSWER_S, process.kill)
    killer.start()
    try:
        return pipe.recv_bytes(MAX_ANSWER_BYTES)
    except (EOFError, OSError):  # OSError: it died in the middle of its answer, or has too large a one
        if time.monotonic() >= latest:
            raise Rejected("decode_timeout", f"its answer did not end within {_ANSWER_S} s") from None
        if pipe.closed:  # as multiprocessing does with what announces too much
            text = f"an answer of more than {MAX_ANSWER_BYTES} bytes"
            raise Rejected("output_limit", text, None, MAX_ANSWER_BYTES) from None
        process.join(5)
        death = _death(process.exitcode, limits)
        # 255: the fork server, which would know the code, is dead
        raise _DoubtfulError(death) if process.exitcode in (-signal.SIGKILL, 255) else death from None
    finally:
        killer.cancel()


def _death(exitcode: int | None, limits: ChildLimits) -> Rejected:
    if exitcode == -signal.SIGXCPU:
        cpu_s = limits.most_cpu_s
        return Rejected("cpu_limit", f"the decoder used its {cpu_s} s of CPU", cpu_s, cpu_s)
    return Rejected("decode_crashed", f"the decoder died, exit code {exitcode}")


def _value_of(answer: bytes, limits: ChildLimits) -> Any:
    """The result in an answer, or what it tells raised; an answer that is not well formed is `decode_crashed`."""
    try:
        kind, value = _Answer(io.BytesIO(answer)).load()
        told = None if kind == "result" else _TOLD[kind](value, limits)
    except Exception as err:  # bytes of a process that a file may have taken over
        text = f"the decoder's answer cannot be read: {type(err).__name__}: {err}"
        raise Rejected("decode_crashed", text) from err
    if told is not None:
        raise told
    return value


def _told_reject(value: Any, _: ChildLimits) -> Rejected:
    """A new one, of the types that it has: an unpickled object has whatever attributes its bytes give it."""
    err = _of_type(Rejected, value)
    figures = (_figure(err.value), _figure(err.threshold))
    attempts = None if err.attempts is None else _of_type(int, err.attempts)
    return Rejected(_of_type(str, err.cause), _of_type(str, err.message), *figures, attempts)


def _told_memory(_: Any, limits: ChildLimits) -> Rejected:
    return Rejected("memory_limit", "the decoder ran out of its memory", None, limits.memory_bytes)


def _told_output(_: Any, limits: ChildLimits) -> Rejected:
    text = f"the decoder wrote more than {limits.file_bytes} bytes to one file"
    return Rejected("output_limit", text, None, limits.file_bytes)


def _told_system(value: Any, _: ChildLimits) -> OSError:
    number, text, name = _of_type(tuple, value)
    if _of_type(int, number) not in _OF_THE_DISK:
        raise ValueError(f"error {number} is not one of a disk")
    return OSError(number, printable(_of_type(str, text)), None if name is None else _of_type(str, name))


def _told_failure(value: Any, _: ChildLimits) -> RuntimeError:
    what, trace = (printable(_of_type(str, text)) for text in _of_type(tuple, value))
    return RuntimeError(f"{what}\n--- in the child process:\n{trace}")


#: kind of an answer -> its value and the limits to the exception that it tells of
_TOLD: dict[str, Callable[[Any, ChildLimits], Exception]] = {
    "rejected": _told_reject,
    "memory": _told_memory,
    "output": _told_output,
    "system": _told_system,
    "failed": _told_failure,
}


def _of_type(kind: type, value: Any) -> Any:
    if type(value) is not kind:
        raise TypeError(f"{type(value).__name__} in the place of {kind.__name__}")
    return value


def _figure(value: Any) -> float | None:
    """None or a number that a float can hold (OverflowError)."""
    if value is None or (type(value) in (int, float) and math.isfinite(value)):
        return value
    raise ValueError(f"{type(value).__name__} is no finite number")


def _seen_from_here(err: OSError, args: tuple, limits: ChildLimits) -> Exception:
    """What this process itself meets with where a sealed child says that a disk failed it.

    The child's paths are among its arguments: those of files and folders, and as a `Path` the folder that it writes to.
    """
    paths = [getattr(arg, "path", arg) for arg in args]
    for path in paths:
        try:
            if isinstance(path, str | Path) and os.path.isabs(path):
                os.stat(path)
            if isinstance(path, Path):
                _try_writing(path, min(limits.file_bytes, _ROOM_BYTES), err.errno)
        except OSError as ours:
            return ours
    text = f"the decoder says {err.strerror!r}, which is not so as seen from outside"
    return _DoubtfulError(Rejected("decode_crashed", text))


def _try_writing(folder: Path, size_bytes: int, number: int | None) -> None:
    """Raises OSError where files of `size_bytes` cannot be written to a folder for the reason `number` or another."""
    highest = resource.getrlimit(resource.RLIMIT_FSIZE)[0]  # -1 is none
    if number == errno.EFBIG and 0 <= highest < size_bytes:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), str(folder))
    disk = os.statvfs(folder)
    if number == errno.ENOSPC and disk.f_bavail * disk.f_frsize < size_bytes:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(bytes(1 << 20))
        file.flush()
        os.fsync(file.fileno())


class _Answer(pickle.Unpickler):
    """Reads values and nothing that runs: of all classes, Fraction, Rejected and the dataclasses of `lvg_data`."""

    def find_class(self, module: str, name: str) -> Any:
        found = getattr(sys.modules.get(module), name, None)
        is_ours = module.startswith("lvg_data.") and isinstance(found, type) and found.__module__ == module
        if found is fractions.Fraction or found is Rejected or (is_ours and dataclasses.is_dataclass(found)):
            return found
        raise pickle.UnpicklingError(f"{module}.{name} is not among the classes that an answer may hold")


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
        names = [f"gate-{number}" for number in range(slots)]
        self._threads = [threading.Thread(target=self._work, name=name, daemon=True) for name in names]
        for thread in self._threads:
            thread.start()

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

    def join(self, seconds: float) -> bool:
        """Whether all work of a closed gate has ended within so many seconds."""
        deadline = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

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
