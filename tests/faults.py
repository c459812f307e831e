"""Builds that are disturbed: started in a moment, killed, starved of disk, and compared with an undisturbed one.

with commands(tmp_path) as run:
    build = run.start("build", card, "--out", out)
    build.kill()
"""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import videos
from tests.builds import small_card
from tests.test_cli import environment, processes_with
from tests.videos import RECIPES, write_video

SECONDS = 120
"""A build here takes 1 to 4 s; one that takes this long hangs."""
ENDS_IN_S = 10.0
"""All processes of a build are gone within this time after it was stopped or killed."""

_FORKER = """
import json, os, resource, sys
import apache_beam
import apache_beam.runners.portability.fn_api_runner.fn_runner
import lvg_data.dataset, lvg_data.steps, lvg_data.preflight, lvg_data.verify, pipelines.build, pipelines.progress
from pipelines import cli
from apache_beam.options.pipeline_options import PipelineOptions
for line in sys.stdin:
    order = json.loads(line)
    pid = os.fork()
    if pid == 0:
        os.setsid()
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        if order["most_file_bytes"]:
            resource.setrlimit(resource.RLIMIT_FSIZE, (order["most_file_bytes"],) * 2)
        cli.main(order["arguments"], prog_name="lvg-data")
    print(pid, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""
"""Runs commands one at a time, each in a fork that need not import anything: importing Beam takes 2 s."""


class Commands:
    """Runs `lvg-data` commands one after the other, each in a session and process group of its own."""

    def __init__(self, folder: Path, **variables: str) -> None:
        self.folder, self.mark = folder, uuid.uuid4().hex
        self.last: Command | None = None
        self.forker = subprocess.Popen(
            [sys.executable, "-c", _FORKER],
            env=environment(LVG_TEST_MARK=self.mark, OMP_NUM_THREADS="1", **variables),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,  # `select` does not see what a buffer holds
            stderr=open(folder / "forker.log", "wb"),  # noqa: SIM115 - for as long as the process lives
        )

    def start(self, *arguments: object, most_file_bytes: int = 0) -> "Command":
        if self.last is not None and self.last.status is None:  # of a test that failed
            self.last.kill()
        log = self.folder / f"{uuid.uuid4().hex[:8]}.log"
        order = {
            "arguments": [str(a) for a in arguments],
            "log": str(log),
            "most_file_bytes": most_file_bytes,
        }
        self.forker.stdin.write(json.dumps(order).encode() + b"\n")
        self.forker.stdin.flush()
        log.touch()
        self.last = Command(self, self.read_number(SECONDS), log)
        return self.last

    def run(self, *arguments: object, most_file_bytes: int = 0) -> "Command":
        """The command when it has ended, well or not."""
        command = self.start(*arguments, most_file_bytes=most_file_bytes)
        command.wait()
        return command

    def succeed(self, *arguments: object) -> str:
        """What the command said; it must end well."""
        command = self.run(*arguments)
        assert command.status == 0, command.said
        return command.said

    def read_number(self, seconds: float) -> int | None:
        """The next number that the forker says: a process id, an exit status; None where none comes."""
        ready, _, _ = select.select([self.forker.stdout], [], [], seconds)
        return int(self.forker.stdout.readline()) if ready else None

    def others(self) -> list[int]:
        """Living processes of the last command."""
        return [pid for pid in processes_with(self.mark) if pid != self.forker.pid]

    def close(self) -> None:
        for pid in processes_with(self.mark):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.forker.communicate()


@contextlib.contextmanager
def commands(folder: Path, **variables: str) -> Iterator[Commands]:
    running = Commands(folder, **variables)
    try:
        yield running
    finally:
        running.close()


@dataclass
class Command:
    """One command under way, or ended."""

    commands: Commands
    pid: int
    log: Path
    status: int | None = field(default=None)

    @property
    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def ends_within(self, seconds: float) -> bool:
        if self.status is None:
            self.status = self.commands.read_number(max(0.0, seconds))
        return self.status is not None

    def wait(self) -> int:
        """Its exit status, when all its processes are gone."""
        assert self.ends_within(SECONDS), f"it hangs: {self.said}"
        deadline = time.monotonic() + ENDS_IN_S
        while left := self.commands.others():
            assert time.monotonic() < deadline, f"processes {left} outlive their command"
            time.sleep(0.02)
        return self.status

    def signal_group(self, number: int) -> None:
        """As a terminal does for Ctrl-C, or a system that is short of memory for a whole group."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def kill(self) -> None:
        self.signal_group(signal.SIGKILL)
        self.wait()

    def children(self) -> dict[int, int]:
        """Living processes that it started, directly or not, and their parents."""
        return {
            pid: parent for pid in self.commands.others() if pid != self.pid and (parent := parent_of(pid))
        }

    def decode_children(self) -> list[int]:
        """Processes that its fork server made; the fork server itself is a child of the command."""
        found = self.children()
        return [pid for pid, parent in found.items() if parent != self.pid and parent in found]

    def fork_servers(self) -> list[int]:
        return [pid for pid, parent in self.children().items() if parent == self.pid and is_fork_server(pid)]

    def workers(self) -> list[int]:
        """Processes in which its runner works, where it has such."""
        return [
            pid
            for pid in self.children()
            if "sdk_worker_main" in (words := words_of(pid)) and "sh" not in words
        ]


def words_of(pid: int) -> list[str]:
    """The command line of a process; the parts of module names are words too."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text().replace(".", "\0").replace("/", "\0").split("\0")
    return []


def parent_of(pid: int) -> int | None:
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return None


def is_fork_server(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return b"forkserver" in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False


def kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


# ---- what is built --------------------------------------------------------------------------------


def make_films(folder: Path) -> None:
    """Two short videos, a broken one, and `card.yaml` for them: several spans, shards of both resolutions."""
    films, size = folder / "films", {"width": 96, "height": 54}
    films.mkdir(parents=True)
    write_video(films / "cuts.mp4", RECIPES["h264_bframes"], 60, scene_starts=(0, 30), **size)
    write_video(films / "plain.mp4", RECIPES["h264_no_bframes"], 48, **size)
    videos.write_html(films / "page.mp4")
    write_card(folder / "card.yaml")


def write_card(path: Path, **changes: Any) -> Path:
    card = small_card(
        name="films",
        sources=[{"kind": "files", "path": "films"}],
        low={"height": 16, "width": 16, "min_frames": 12, "part_frames": 24},
        high={"height": 32, "width": 32},
        shards={"target_bytes": 200_000},
        execution={"span_megapixels": 0.2},
        max_reject_share=1,
    )
    for name, value in changes.items():
        card[name] = {**card.get(name, {}), **value} if isinstance(value, dict) else value
    path.write_text(yaml.safe_dump(card))
    return path


def events_of(out: Path) -> list[dict[str, Any]]:
    """Whole lines of all journals of a dataset, in order of their runs."""
    lines = [line for path in sorted(out.glob("runs/*.jsonl")) for line in path.read_text().splitlines(True)]
    return [json.loads(line) for line in lines if line.endswith("\n")]


def count_runs(out: Path) -> int:
    return sum(event["event"] == "started" for event in events_of(out))


def wait_until(condition: Any, command: Command, what: str) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert not command.ends_within(0), f"ended before {what}: {command.said}"
        assert time.monotonic() < deadline, f"no {what} after {SECONDS} s"
        time.sleep(0.002)


# ---- disks ----------------------------------------------------------------------------------------


@contextlib.contextmanager
def small_disk(folder: Path, size_bytes: int) -> Iterator[Path]:
    """A file system of this size at `folder`; the test is skipped where nobody lets us mount one."""
    folder.mkdir(exist_ok=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(folder)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip("this system lets no file system be mounted")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@contextlib.contextmanager
def frozen(*folders: Path) -> Iterator[None]:
    """Nothing can be made or removed in these folders, not by root either where the disk knows such a mark."""
    for folder in folders:
        folder.chmod(0o555)
    if os.geteuid() == 0:
        marked = subprocess.run(["chattr", "+i", *map(str, folders)], capture_output=True, check=False)
        if marked.returncode:
            pytest.skip("this disk has no mark that binds root")
    try:
        yield
    finally:
        if os.geteuid() == 0:
            subprocess.run(["chattr", "-i", *map(str, folders)], check=True)
        for folder in folders:
            folder.chmod(0o755)


def remount(folder: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True, capture_output=True)


# ---- a store that fails ---------------------------------------------------------------------------

_FLAKY = '''
import contextlib, os, threading, time
from fsspec.implementations.local import LocalFileSystem

class Flaky(LocalFileSystem):
    """A disk that is reached as flaky://: every n-th operation of all processes together fails.

    What an operation asks the disk by itself is none: a listing asks for each file."""

    protocol = "flaky"
    cachable = False
    _inside = threading.local()

    def _turn(self):
        if getattr(self._inside, "operation", False):
            return None
        time.sleep(float(os.environ.get("LVG_FLAKY_WAIT_S", 0)))
        log = os.open(os.environ["LVG_FLAKY_LOG"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(log, b".")
        number = os.lseek(log, 0, os.SEEK_CUR)
        os.close(log)
        every = int(os.environ["LVG_FLAKY_EVERY"])
        return number % (2 * every) // every if number % every == 0 else None

    def _may_fail(self):
        if self._turn() is not None:
            raise ConnectionResetError("the store hung up")

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.removeprefix("flaky://") if isinstance(path, str) else path)

    @contextlib.contextmanager
    def _whole(self):
        before, self._inside.operation = getattr(self._inside, "operation", False), True
        try:
            yield
        finally:
            self._inside.operation = before

    def get_file(self, path, target, **kwargs):
        turn = self._turn()
        if turn == 0:
            raise ConnectionResetError("the store hung up")
        with self._whole():
            super().get_file(path, target, **kwargs)
        if turn == 1:  # a short read
            os.truncate(target, os.path.getsize(target) // 2)

    def put_file(self, source, path, **kwargs):
        self._may_fail()
        os.makedirs(os.path.dirname(self._strip_protocol(path)), exist_ok=True)
        with self._whole():
            super().put_file(source, path, **kwargs)

    def pipe_file(self, path, data, **kwargs):
        self._may_fail()
        os.makedirs(os.path.dirname(self._strip_protocol(path)), exist_ok=True)
        with open(self._strip_protocol(path), "wb") as file:
            file.write(data)

    def _open(self, path, mode="rb", **kwargs):
        self._may_fail()
        return super()._open(path, mode, **kwargs)


    def copy(self, source, path, **kwargs):
        self._may_fail()
        os.makedirs(os.path.dirname(self._strip_protocol(path)), exist_ok=True)
        with self._whole():
            super().copy(source, path, **kwargs)


for _name in ("info", "ls", "rm_file", "rm"):
    def _failing(self, *args, _name=_name, **kwargs):
        self._may_fail()
        with self._whole():
            return getattr(LocalFileSystem, _name)(self, *args, **kwargs)
    setattr(Flaky, _name, _failing)
'''


def install_flaky(folder: Path, every: int, wait_s: float = 0) -> dict[str, str]:
    """The variables with which a new process knows flaky://, as if a package with such a protocol were installed."""
    info = folder / "flaky-1.dist-info"
    info.mkdir(parents=True)
    (folder / "flaky_place.py").write_text(_FLAKY)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: flaky\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[fsspec.specs]\nflaky = flaky_place:Flaky\n")
    return {
        "PYTHONPATH": str(folder),
        "LVG_FLAKY_LOG": str(folder / "operations"),
        "LVG_FLAKY_EVERY": str(every),
        "LVG_FLAKY_WAIT_S": str(wait_s),
    }
