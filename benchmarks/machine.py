"""CPU time, wall time and memory of a whole process tree.

    python -m benchmarks.machine REPORT.json COMMAND ...

A build's fork server outlives it for a moment and is nobody's child then, so its CPU time would be lost.
This module run as a program adopts such orphans, waits for all of them, and writes the sum.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

#: prctl(2): orphans below this process become its children
_PR_SET_CHILD_SUBREAPER = 36
_KIB = 1024


@dataclass(frozen=True)
class Finished:
    """A command that ended: seconds on the clock, CPU seconds of it and of all that it started, output."""

    wall_s: float
    cpu_s: float
    stdout: str
    stderr: str


@dataclass
class Peaks:
    """Largest value seen of each process role, in bytes; `total_pss` is the whole tree's at one moment.

    Roles: "parent" (the build), "child" (one that works on a video). Kinds: "rss" (all pages in memory,
    the kernel's own high-water mark), "anon" (without pages of files, sampled).
    """

    bytes_of: dict[tuple[str, str], int]
    total_pss: int = 0
    num_samples: int = 0

    def raise_to(self, role: str, kind: str, size: int) -> None:
        self.bytes_of[role, kind] = max(size, self.bytes_of.get((role, kind), 0))


def run_measured(command: list[str], peaks: Peaks | None = None) -> Finished:
    """Runs a command to its end, samples its tree's memory at 10 Hz into `peaks`, adds up its CPU time.

    Raises:
      RuntimeError: it failed; the text has the end of its stderr.
    """
    with tempfile.TemporaryDirectory(prefix="lvg-benchmark-") as folder:
        report, outputs = Path(folder) / "report.json", [Path(folder) / "stdout", Path(folder) / "stderr"]
        adopter = [sys.executable, "-m", "benchmarks.machine", str(report), *command]
        with open(outputs[0], "wb") as out, open(outputs[1], "wb") as err:
            process = subprocess.Popen(adopter, stdout=out, stderr=err)
            with _sampling(process.pid, peaks):
                process.wait()
        texts = [path.read_text(errors="replace") for path in outputs]
        if process.returncode:
            raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}:\n{texts[1][-2000:]}")
        return Finished(**json.loads(report.read_text()), stdout=texts[0], stderr=texts[1])


def build(card: Path, out: Path, *settings: str, peaks: Peaks | None = None) -> Finished:
    """`lvg-data build CARD --out OUT`, with `--set` for each of `settings`."""
    options = [option for setting in settings for option in ("--set", setting)]
    return run_measured([*LVG_DATA, "build", str(card), "--out", str(out), *options], peaks)


#: the command line tool in this interpreter
LVG_DATA = [sys.executable, "-m", "pipelines.cli"]


# ---- memory ---------------------------------------------------------------------------------------


@contextlib.contextmanager
def _sampling(root: int, peaks: Peaks | None) -> Iterator[None]:
    if peaks is None:
        yield
        return
    done = threading.Event()
    thread = threading.Thread(target=_sample_until, args=(root, peaks, done))
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _sample_until(root: int, peaks: Peaks, done: threading.Event) -> None:
    while not done.wait(0.1):
        processes = {pid: parent for pid, parent in _parents().items() if pid != os.getpid()}
        pss = 0
        for pid in _descendants(root, processes):
            with contextlib.suppress(OSError, KeyError):  # it ended meanwhile
                role = _role(pid, processes[pid], root)
                sizes = _fields(f"/proc/{pid}/status")
                peaks.raise_to(role, "rss", sizes["VmHWM"])
                peaks.raise_to(role, "anon", sizes["RssAnon"])
                pss += _fields(f"/proc/{pid}/smaps_rollup")["Pss"]
        peaks.total_pss = max(peaks.total_pss, pss)
        peaks.num_samples += 1


def _parents() -> dict[int, int]:
    """Every process and its parent."""
    found = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError):
                found[int(entry)] = int(Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()[1])
    return found


def _descendants(root: int, parents: dict[int, int]) -> Iterator[int]:
    for pid in parents:
        above = pid
        while above in parents and above != root:
            above = parents[above]
        if above == root and pid != root:
            yield pid


def _role(pid: int, parent: int, root: int) -> str:
    """ "parent", "child", or "helper" for the fork server and what keeps its books."""
    if _is_helper(pid):
        return "child" if _is_helper(parent) else "helper"
    return "parent" if parent == root else "child"


def _is_helper(pid: int) -> bool:
    return b"multiprocessing" in Path(f"/proc/{pid}/cmdline").read_bytes()


def _fields(path: str) -> dict[str, int]:
    """The sizes in a file of /proc, in bytes."""
    lines = (line.split() for line in Path(path).read_text().splitlines())
    return {words[0].rstrip(":"): int(words[1]) * _KIB for words in lines if words[-1] == "kB"}


def own_memory() -> dict[str, int]:
    """Bytes of this process: "rss" and "anon"."""
    sizes = _fields("/proc/self/status")
    return {"rss": sizes["VmHWM"], "anon": sizes["RssAnon"]}


# ---- the program that adopts orphans --------------------------------------------------------------


def main() -> None:
    report, *command = sys.argv[1:]
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    start = time.perf_counter()
    status = subprocess.run(command).returncode
    wall_s = time.perf_counter() - start
    with contextlib.suppress(ChildProcessError):
        while True:
            os.wait()
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    Path(report).write_text(json.dumps({"wall_s": wall_s, "cpu_s": usage.ru_utime + usage.ru_stime}))
    sys.exit(status)


if __name__ == "__main__":
    main()
