"""Sealed children: what they cannot reach, what ends them, and that each end has a name."""

from __future__ import annotations

import ctypes
import errno
import gc
import os
import pickle
import resource
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from fractions import Fraction
from pathlib import Path

import pytest

from lvg_data import child
from lvg_data.child import ChildLimits, bare_environment, run_in_child, run_in_open_child
from lvg_data.errors import CAUSES, Rejected
from lvg_data.records import Span

LIMITS = ChildLimits(wall_s=60, memory_bytes=1 << 30)
SECRET = "pl4nted-s3cret"


# ---- what the children do


def environments() -> tuple[dict[str, str], bytes, bytes]:
    """This process's variables now, those that it began with, and those of the fork server."""
    first, parent = (Path(f"/proc/{pid}/environ").read_bytes() for pid in (os.getpid(), os.getppid()))
    return dict(os.environ), first, parent


def open_files() -> dict[int, str]:
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            continue  # the listing itself
    return found


def read_descriptor(number: int) -> bytes:
    return os.read(number, 100)


def connect(port: int) -> str:
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        return connection.recv(10).decode()


def can_leave_network() -> bool:
    """Tried in a process of one thread, as a sealed child is when it does so."""
    pid = os.fork()
    if not pid:
        os._exit(0 if child.leave_network() else 1)
    return os.waitpid(pid, 0)[1] == 0


def burn_cpu_in_two_threads() -> None:
    threading.Thread(target=burn_cpu, daemon=True).start()
    burn_cpu()


def burn_cpu() -> None:
    """In C, without the interpreter's lock."""
    import hashlib

    while True:
        hashlib.pbkdf2_hmac("sha256", b"", b"", 1_000_000)


def read_address_zero() -> None:
    ctypes.string_at(0)


def sleep_deaf() -> None:
    """Hangs, and hears no signal that can be ignored."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGALRM):
        signal.signal(number, signal.SIG_IGN)
    time.sleep(300)


def take_memory(num_bytes: int) -> None:
    held = [bytearray(1 << 20) for _ in range(num_bytes >> 20)]
    raise AssertionError(f"{len(held)} MiB were given")


def touch_memory(num_bytes: int) -> int:
    return len(bytearray(num_bytes))


def write_for_ever(folder: str) -> None:
    with open(f"{folder}/out", "wb") as file:
        while True:
            file.write(bytes(1 << 16))


def hold_files(count: int) -> int:
    held = [open(os.devnull, "rb") for _ in range(count)]  # noqa: SIM115
    return len(held)


def limits_of_self() -> dict[str, tuple[int, int]]:
    names = ("RLIMIT_CPU", "RLIMIT_DATA", "RLIMIT_FSIZE", "RLIMIT_CORE", "RLIMIT_NOFILE")
    return {name: resource.getrlimit(getattr(resource, name)) for name in names}


def print_controls() -> None:
    print("\x1b]0;owned\x07", flush=True)
    os.write(2, b"\x1b[2J")
    os.system("echo loud")


def imported_and_frozen() -> tuple[bool, bool, int]:
    return "av" in sys.modules, "lvg_data.kernels" in sys.modules, gc.get_freeze_count()


def large_answer(num_bytes: int) -> bytes:
    return bytes(num_bytes)


class Spell:
    """A pickle that runs a command where it is read."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def cast(path: str) -> Spell:
    return Spell(path)


def answer_of_our_types() -> tuple[Span, Fraction, dict[str, float]]:
    return Span(1, 2, ((1, 2),), 0.5), Fraction(1, 3), {"a": 1.5}


def answer_pipe() -> int:
    """The one open descriptor that can be written to and is not a standard one: the pipe of the answer."""
    import fcntl

    for number in sorted(open_files()):
        if number > 2:
            try:
                if fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE == os.O_WRONLY:
                    return number
            except OSError:
                continue
    raise AssertionError("no pipe")


def answer_raw(data: bytes, then_sleep_s: float) -> None:
    """What a child that a file has taken over might send."""
    os.write(answer_pipe(), data)
    time.sleep(then_sleep_s)
    os._exit(0)


def raw(kind: object, value: object) -> bytes:
    """An answer as it goes through the pipe."""
    data = pickle.dumps((kind, value))
    return struct.pack("!i", len(data)) + data


def forged(**attributes: object) -> Rejected:
    """A reject whose attributes no constructor has seen."""
    err = Rejected("too_short", "of no use", 3, 12)
    vars(err).update(attributes)
    return err


def note_and_blame_the_disk(path: str, number: int) -> None:
    """Notes that it ran, and says what a failing disk would have it say."""
    with open(path, "a") as file:
        file.write("ran\n")
    raise OSError(number, os.strerror(number), "/nowhere")


def write_into(folder: Path, num_bytes: int) -> None:
    (folder / "out").write_bytes(bytes(num_bytes))


# ---- reach ----------------------------------------------------------------------------------------


def test_no_variable_of_ours_reaches_a_child_or_the_fork_server(tmp_path):
    """In a program of its own, whose fork server starts while the secrets are there."""
    program = tmp_path / "program.py"
    program.write_text(
        "from lvg_data.child import run_in_child\n"
        "from tests.test_isolation import LIMITS, environments\n"
        "if __name__ == '__main__':\n"
        "    now, first, server = run_in_child(environments, (), LIMITS)\n"
        "    print(sorted(now), first, server)\n"
    )
    root = str(Path(__file__).parent.parent)
    secrets = {"AWS_SECRET_ACCESS_KEY": SECRET, "HTTPS_PROXY": f"http://me:{SECRET}@proxy", "PATH_TO": SECRET}
    variables = {**os.environ, **secrets, "PYTHONPATH": root, "LVG_TEST_MARK": "kept"}
    done = subprocess.run(
        [sys.executable, str(program)], env=variables, capture_output=True, text=True, timeout=60, check=True
    )

    assert SECRET not in done.stdout
    assert "AWS" not in done.stdout
    assert "LVG_TEST_MARK" in done.stdout
    assert done.stdout.count("OMP_NUM_THREADS") == 3
    assert done.stdout.count("PATH") >= 3


def test_a_child_begins_with_its_libraries_imported_and_out_of_garbage_collection():
    has_decoder, has_kernels, num_frozen = run_in_child(imported_and_frozen, (), LIMITS)
    assert has_decoder and has_kernels and num_frozen > 50_000


def test_variables_that_come_later_reach_no_sealed_child(monkeypatch):
    run_in_child(os.getpid, (), LIMITS)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)

    now, first, server = run_in_child(environments, (), LIMITS)

    assert now == bare_environment()
    assert SECRET not in repr((now, first, server))
    assert os.environ["AWS_SECRET_ACCESS_KEY"] == SECRET


def test_starting_children_never_changes_the_variables_that_other_threads_see(monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    seen, done = set(), threading.Event()

    def watch() -> None:
        while not done.is_set():
            seen.add((os.environ.get("AWS_SECRET_ACCESS_KEY"), os.environ.get("OMP_NUM_THREADS")))

    before = os.environ.get("OMP_NUM_THREADS")
    thread = threading.Thread(target=watch)
    thread.start()
    for _ in range(5):
        run_in_child(os.getpid, (), LIMITS)
    done.set()
    thread.join()
    assert seen == {(SECRET, before)}


def test_an_open_child_has_the_variables_that_it_is_given_and_no_other(monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    given = {"https_proxy": "http://127.0.0.1:1", "OMP_NUM_THREADS": "7"}

    now, first, server = run_in_open_child(environments, (), LIMITS, None, given)

    assert now == {**bare_environment(), "https_proxy": "http://127.0.0.1:1"}
    assert SECRET not in repr((now, first, server))


def test_a_child_has_no_descriptor_but_the_standard_ones_and_its_two_pipes(tmp_path):
    (tmp_path / "secret").write_text(SECRET)
    with open(tmp_path / "secret", "rb") as file:
        os.set_inheritable(file.fileno(), True)
        found = run_in_child(open_files, (), LIMITS)
        with pytest.raises(RuntimeError, match="Bad file descriptor"):
            run_in_child(read_descriptor, (200,), LIMITS)

    assert {found.pop(number) for number in (0, 1, 2)} == {os.devnull}
    others = [name for name in found.values() if not name.startswith("/proc/")]
    assert len(others) <= 3, others  # of which one is /dev/null as it was opened
    assert sum(name.startswith("pipe:") for name in others) == 2
    assert not any("secret" in name for name in found.values())


def test_what_a_sealed_child_prints_goes_nowhere(capfd):
    run_in_child(print_controls, (), LIMITS)

    assert capfd.readouterr() == ("", "")


@pytest.fixture
def greeter():
    """Port of a server on this machine that says hello."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        done = threading.Event()

        def serve() -> None:
            while not done.is_set():
                try:
                    connection, _ = server.accept()
                except TimeoutError:
                    continue
                connection.sendall(b"hello")
                connection.close()

        thread = threading.Thread(target=serve)
        thread.start()
        yield server.getsockname()[1]
        done.set()
        thread.join()


def test_a_sealed_child_has_no_network_where_the_system_can_take_it_away(greeter):
    if not run_in_open_child(can_leave_network, (), LIMITS):
        pytest.skip("this system lets no process leave the network: FFmpeg's list of protocols must do")
    with pytest.raises(RuntimeError, match="Network is unreachable"):
        run_in_child(connect, (greeter,), LIMITS)


def test_an_open_child_has_the_network(greeter):
    assert run_in_open_child(connect, (greeter,), LIMITS) == "hello"


def write_as_nobody(folder: str) -> None:
    """Forked once more: a process of several threads cannot have a user namespace."""
    pid = os.fork()
    if not pid:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        Path(folder, "out").write_text(str(child.leave_network()))
        os._exit(0)
    os.waitpid(pid, 0)


@pytest.mark.skipif(os.geteuid() != 0, reason="works as another user")
def test_another_user_than_root_can_leave_the_network_and_still_write_files():
    with tempfile.TemporaryDirectory() as folder:
        os.chown(folder, 65534, 65534)
        run_in_open_child(write_as_nobody, (folder,), LIMITS)
        answer = Path(folder, "out").read_text()
        owner = Path(folder, "out").stat().st_uid
    assert (answer in ("True", "False"), owner) == (True, 65534)


# ---- limits ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "args", "limits", "cause", "message"),
    [
        (read_address_zero, (), LIMITS, "decode_crashed", "the decoder died, exit code -11"),
        (os.abort, (), LIMITS, "decode_crashed", "the decoder died, exit code -6"),
        (os._exit, (3,), LIMITS, "decode_crashed", "the decoder died, exit code 3"),
        (sleep_deaf, (), ChildLimits(1, 1 << 30), "decode_timeout", "not done after 1 s"),
        (burn_cpu, (), ChildLimits(1, 1 << 30), "decode_timeout", "not done after 1 s"),
        (burn_cpu_in_two_threads, (), ChildLimits(30, 1 << 30, cpu_s=1), "cpu_limit", "used its 1 s of CPU"),
        (take_memory, (2 << 30,), LIMITS, "memory_limit", "the decoder ran out of its memory"),
        (large_answer, (300 << 20,), LIMITS, "output_limit", "an answer of more than 268435456 bytes"),
    ],
)
def test_each_way_to_end_a_child_has_a_name(function, args, limits, cause, message):
    run_in_child(os.getpid, (), LIMITS)
    began = time.monotonic()
    with pytest.raises(Rejected, match=message) as caught:
        run_in_child(function, args, limits)

    assert caught.value.cause == cause
    assert CAUSES[cause][1], "higher limits or another version may do"
    assert time.monotonic() - began < 10


def test_memory_is_counted_beside_what_the_libraries_take():
    limits = ChildLimits(wall_s=60, memory_bytes=64 << 20)

    assert run_in_child(touch_memory, (48 << 20,), limits) == 48 << 20
    with pytest.raises(Rejected, match="memory_limit"):
        run_in_child(touch_memory, (80 << 20,), limits)


def test_a_child_that_writes_for_ever_is_an_output_limit(tmp_path):
    limits = ChildLimits(30, 1 << 30, file_bytes=1 << 20)
    with pytest.raises(Rejected, match="output_limit: the decoder wrote more than 1048576 bytes") as caught:
        run_in_child(write_for_ever, (str(tmp_path),), limits)

    assert caught.value.threshold == 1 << 20
    assert (tmp_path / "out").stat().st_size == 1 << 20


def test_a_child_cannot_open_files_without_end():
    assert run_in_child(hold_files, (200,), LIMITS) == 200
    with pytest.raises(RuntimeError, match="Too many open files"):
        run_in_child(hold_files, (300,), LIMITS)


def test_a_child_knows_its_limits_and_cannot_raise_them():
    limits = ChildLimits(9.5, 1 << 30, file_bytes=1000, open_files=77)
    found = run_in_child(limits_of_self, (), limits)

    soft, hard = found.pop("RLIMIT_DATA")
    assert soft == hard and 1 << 30 < soft < 1536 << 20  # that of the libraries, too
    assert found == {
        "RLIMIT_CPU": (11, 16),
        "RLIMIT_FSIZE": (1000, 1000),
        "RLIMIT_CORE": (0, 0),
        "RLIMIT_NOFILE": (77, 77),
    }


# ---- answers --------------------------------------------------------------------------------------


def test_an_answer_that_would_run_something_here_is_a_crash(tmp_path):
    with pytest.raises(Rejected, match=r"decode_crashed: .*posix\.system is not among the classes"):
        run_in_child(cast, (str(tmp_path / "cast"),), LIMITS)

    assert not (tmp_path / "cast").exists()


def test_an_answer_may_hold_what_our_functions_return():
    assert run_in_child(answer_of_our_types, (), LIMITS) == answer_of_our_types()


@pytest.mark.parametrize(
    ("data", "cause"),
    [
        (struct.pack("!i", 6) + b"no pkl", "decode_crashed"),
        (struct.pack("!i", 0), "decode_crashed"),
        (struct.pack("!i", 100) + b"half", "decode_crashed"),
        (struct.pack("!i", -1) + struct.pack("!Q", 1 << 62), "output_limit"),
        (struct.pack("!i", len(p := pickle.dumps(7))) + p, "decode_crashed"),
        (raw("praised", 5), "decode_crashed"),
        (raw(["result"], 5), "decode_crashed"),
        (raw("rejected", 5), "decode_crashed"),
        (raw("rejected", forged(cause="no such cause")), "decode_crashed"),
        (raw("rejected", forged(message=b"of no use")), "decode_crashed"),
        (raw("rejected", forged(value="3")), "decode_crashed"),
        (raw("rejected", forged(threshold=10**400)), "decode_crashed"),
        (raw("rejected", forged(value=float("nan"))), "decode_crashed"),
        (raw("rejected", forged(attempts="many")), "decode_crashed"),
        (raw("system", 5), "decode_crashed"),
        (raw("system", (errno.ENOSPC,)), "decode_crashed"),
        (raw("system", (errno.ENOSPC, 5, None)), "decode_crashed"),
        (raw("system", (errno.EPERM, "not of a disk", None)), "decode_crashed"),
        (raw("system", (errno.ENOSPC, "No space left on device", "/x")), "decode_crashed"),
        (raw("failed", 5), "decode_crashed"),
        (raw("failed", ("one", 2)), "decode_crashed"),
    ],
)
def test_bytes_that_are_no_answer_end_the_child_and_nothing_else(data, cause):
    with pytest.raises(Rejected) as caught:
        run_in_child(answer_raw, (data, 0), LIMITS)
    assert caught.value.cause == cause


def test_controls_in_the_words_of_a_child_are_shown_as_what_they_are():
    with pytest.raises(RuntimeError) as caught:
        run_in_child(answer_raw, (raw("failed", ("\x1b[2J", "trace\x07\nmore")), 0), LIMITS)

    assert str(caught.value) == "\\x1b[2J\n--- in the child process:\ntrace\\x07\nmore"


# ---- what a child says of the disk ----------------------------------------------------------------


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EIO, errno.ENOENT])
def test_a_disk_that_only_the_child_finds_bad_is_a_crash_after_a_second_attempt(number, tmp_path):
    limits = ChildLimits(60, 1 << 30, file_bytes=1 << 20)
    with pytest.raises(Rejected, match=r"decode_crashed: .*which is not so as seen from outside"):
        run_in_child(note_and_blame_the_disk, (str(tmp_path / "runs"), number), limits)

    assert (tmp_path / "runs").read_text() == "ran\nran\n"


def test_a_folder_that_is_gone_is_not_the_files_fault(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        run_in_child(write_into, (tmp_path / "gone", 10), LIMITS)

    assert caught.value.filename == str(tmp_path / "gone")


def test_a_full_disk_is_not_the_files_fault(tmp_path):
    from tests.faults import small_disk  # not above: the children import this file, and that one imports Beam

    limits = ChildLimits(60, 1 << 30, file_bytes=8 << 20)
    with small_disk(tmp_path / "disk", 1 << 20) as folder:
        with pytest.raises(OSError, match="No space left on device") as caught:
            run_in_child(write_into, (folder, 4 << 20), limits)
        (folder / "out").unlink()
        run_in_child(write_into, (folder, 4 << 10), limits)

    assert caught.value.errno == errno.ENOSPC


def test_an_open_child_is_believed(tmp_path):
    """It runs our code on what we made; its paths may be in a store that this process cannot look at."""
    with pytest.raises(OSError, match="No space left on device: '/nowhere'"):
        run_in_open_child(note_and_blame_the_disk, (str(tmp_path / "runs"), errno.ENOSPC), LIMITS)

    assert (tmp_path / "runs").read_text() == "ran\n"


def test_an_answer_that_stalls_is_a_timeout(monkeypatch):
    monkeypatch.setattr(child, "_ANSWER_S", 1)
    began = time.monotonic()
    with pytest.raises(Rejected, match="decode_timeout: its answer did not end within 1 s"):
        run_in_child(answer_raw, (struct.pack("!i", 100) + b"half", 300), LIMITS)
    assert time.monotonic() - began < 10
