"""Children with limits: whatever happens to a child, the parent gets a result or a named reason, and it is gone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Future
from pathlib import Path

import pytest

from lvg_data.child import ChildLimits, Gate, Stopped, run_in_child
from lvg_data.errors import Rejected

LIMITS = ChildLimits(wall_s=60, memory_bytes=1 << 30)


# ---- what the children do


def add(a: int, b: int) -> int:
    return a + b


def reject(cause: str) -> None:
    raise Rejected(cause, "of no use", 3, 12)


def fail() -> None:
    raise KeyError("the missing key")


def kill_self() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def allocate(num_bytes: int) -> int:
    return len(bytearray(num_bytes))


def write_file(path: str, num_bytes: int) -> int:
    return Path(path).write_bytes(bytes(num_bytes))


def large_result(num_bytes: int) -> bytes:
    return bytes(num_bytes)


def settings_of_child() -> tuple[str | None, bool]:
    return os.environ.get("OMP_NUM_THREADS"), os.getsid(0) == os.getpid()


def note_pids_and(path: str, then: str) -> None:
    """Starts a process of its own, notes both, and sleeps or dies."""
    grandchild = subprocess.Popen(["sleep", "300"])
    temporary = Path(f"{path}.tmp")
    temporary.write_text(f"{os.getpid()} {grandchild.pid}")
    temporary.rename(path)
    if then == "die":
        kill_self()
    if then == "sleep":
        time.sleep(300)


# ---- helpers


def wait_until(condition, what: str, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not in {seconds} s: {what}"
        time.sleep(0.02)


def is_gone(pid: int) -> bool:
    """Whether a process has ended; one that only waits to be collected has."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state in "ZX"


def pids_noted(path: Path) -> list[int]:
    wait_until(path.exists, "the child began")
    return [int(pid) for pid in path.read_text().split()]


def assert_gone(path: Path) -> None:
    for pid in pids_noted(path):
        wait_until(lambda pid=pid: is_gone(pid), f"process {pid} ended")


# ---- answers


def test_a_child_answers_with_the_result():
    assert run_in_child(add, (2, 3), LIMITS) == 5


def test_a_large_result_arrives_whole():
    assert run_in_child(large_result, (5 << 20,), LIMITS) == bytes(5 << 20)


def test_a_reject_in_the_child_is_the_same_reject_here():
    with pytest.raises(Rejected) as caught:
        run_in_child(reject, ("too_short",), LIMITS)

    err = caught.value
    assert (err.cause, err.message, err.value, err.threshold) == ("too_short", "of no use", 3, 12)


def test_another_exception_comes_with_the_childs_traceback():
    with pytest.raises(RuntimeError) as caught:
        run_in_child(fail, (), LIMITS)

    text = str(caught.value)
    assert text.startswith("KeyError: 'the missing key'\n--- in the child process:\nTraceback")
    assert "test_child.py" in text
    assert 'raise KeyError("the missing key")' in text


@pytest.mark.parametrize(("function", "code"), [(os.abort, -signal.SIGABRT), (kill_self, -signal.SIGKILL)])
def test_a_child_that_dies_is_a_crash(function, code):
    with pytest.raises(Rejected, match=f"decode_crashed: the decoder died, exit code {code}"):
        run_in_child(function, (), LIMITS)


# ---- limits


def test_a_child_past_its_time_is_ended_with_all_that_it_started(tmp_path):
    run_in_child(os.getpid, (), LIMITS)  # the fork server is up: the child's own time is measured
    with pytest.raises(Rejected, match="decode_timeout: not done after 3 s") as caught:
        run_in_child(note_pids_and, (str(tmp_path / "pids"), "sleep"), ChildLimits(3, 1 << 30))

    assert (caught.value.value, caught.value.threshold) == (3, 3)
    assert_gone(tmp_path / "pids")


@pytest.mark.parametrize("then", ["die", "return"])
def test_what_a_child_started_does_not_outlive_it(then, tmp_path):
    try:
        run_in_child(note_pids_and, (str(tmp_path / "pids"), then), LIMITS)
    except Rejected as err:
        assert err.cause == "decode_crashed"

    assert_gone(tmp_path / "pids")


def test_a_child_past_its_memory_is_a_memory_limit():
    with pytest.raises(Rejected, match="memory_limit: the decoder ran out of its memory") as caught:
        run_in_child(allocate, (2 << 30,), LIMITS)

    assert caught.value.threshold == 1 << 30
    assert run_in_child(allocate, (100 << 20,), LIMITS) == 100 << 20


def test_a_child_cannot_fill_the_disk(tmp_path):
    limits = ChildLimits(60, 1 << 30, file_bytes=1000)

    with pytest.raises(Rejected, match="output_limit: the decoder wrote more than 1000 bytes to one file"):
        run_in_child(write_file, (str(tmp_path / "big"), 5000), limits)
    assert (tmp_path / "big").stat().st_size <= 1000


def test_children_are_single_threaded_and_lead_a_group_of_their_own():
    assert run_in_child(settings_of_child, (), LIMITS) == ("1", True)


def test_starting_a_child_leaves_the_parent_as_it_was():
    main = sys.modules["__main__"]
    before = dict(os.environ), main.__spec__, getattr(main, "__file__", None)

    run_in_child(add, (2, 3), LIMITS)

    assert (dict(os.environ), main.__spec__, getattr(main, "__file__", None)) == before


# ---- stopping


@pytest.mark.parametrize("limits", [LIMITS, ChildLimits(3600, 1 << 30)])
def test_a_stop_ends_the_child_within_a_second(limits, tmp_path):
    stop, ended = threading.Event(), []

    def work() -> None:
        with pytest.raises(Stopped, match="stopped while a child was working"):
            run_in_child(note_pids_and, (str(tmp_path / "pids"), "sleep"), limits, stop)
        ended.append(time.monotonic())

    thread = threading.Thread(target=work)
    thread.start()
    pids_noted(tmp_path / "pids")
    asked = time.monotonic()
    stop.set()
    thread.join(20)

    assert ended
    assert ended[0] - asked < 1.5  # promised: 1 s; the rest is for a busy machine
    assert_gone(tmp_path / "pids")


def test_a_result_comes_also_where_a_stop_could_have_been_asked_for():
    assert run_in_child(add, (2, 3), LIMITS, threading.Event()) == 5


_PARENT = """
import os, sys
open(sys.argv[1], "a").write(f"{os.getpid()}\\n")
if __name__ == "__main__":
    from lvg_data.child import ChildLimits, run_in_child
    from tests.test_child import LIMITS, add, note_pids_and
    if sys.argv[2] == "add":
        print(run_in_child(add, (2, 3), LIMITS), run_in_child(add, (4, 5), LIMITS))
    else:
        run_in_child(note_pids_and, (sys.argv[2], "sleep"), LIMITS)
"""


def start_parent(tmp_path: Path, argument: str) -> subprocess.Popen:
    script = tmp_path / "parent.py"
    script.write_text(_PARENT)
    root = str(Path(__file__).parent.parent)
    command = [sys.executable, str(script), str(tmp_path / "runs"), argument]
    return subprocess.Popen(
        command, cwd=root, env={**os.environ, "PYTHONPATH": root}, stdout=subprocess.PIPE, text=True
    )


def test_a_child_does_not_run_the_program_of_its_parent(tmp_path):
    parent = start_parent(tmp_path, "add")

    assert parent.communicate(timeout=60)[0] == "5 9\n"
    assert (tmp_path / "runs").read_text() == f"{parent.pid}\n"


def test_a_child_ends_with_all_that_it_started_when_its_parent_is_killed(tmp_path):
    parent = start_parent(tmp_path, str(tmp_path / "pids"))
    assert not any(is_gone(pid) for pid in pids_noted(tmp_path / "pids"))

    parent.kill()
    parent.communicate(timeout=20)

    assert_gone(tmp_path / "pids")


# ---- the gate


@pytest.fixture
def gate():
    gate = Gate(1)
    yield gate
    gate.close()


def held(gate: Gate) -> tuple[threading.Event, Future]:
    """Fills the gate's one slot until the event is set."""
    release, begun = threading.Event(), threading.Event()

    def hold() -> str:
        begun.set()
        release.wait(20)
        return "held"

    future = gate.submit(0, hold)
    assert begun.wait(20)
    return release, future


def test_the_gate_runs_the_most_costly_first_and_equals_in_order(gate):
    release, first = held(gate)
    order: list[str] = []
    costs = {"a": 1.0, "b": 5.0, "c": 3.0, "d": 5.0}
    futures = [gate.submit(cost, lambda name=name: order.append(name)) for name, cost in costs.items()]

    release.set()
    for future in futures:
        future.result(20)

    assert order == ["b", "d", "c", "a"]
    assert first.result(20) == "held"


@pytest.mark.parametrize("slots", [1, 3])
def test_the_gate_runs_no_more_at_once_than_it_has_slots(slots):
    gate, lock, running, most = Gate(slots), threading.Lock(), [0], [0]

    def work() -> None:
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        time.sleep(0.02)
        with lock:
            running[0] -= 1

    for future in [gate.submit(1, work) for _ in range(12)]:
        future.result(20)
    gate.close()
    assert most[0] == slots


def test_an_exception_behind_the_gate_is_raised_where_the_result_is_asked_for(gate):
    future = gate.submit(1, fail)
    after = gate.submit(1, lambda: "still working")

    with pytest.raises(KeyError, match="the missing key"):
        future.result(20)
    assert after.result(20) == "still working"


def test_closing_the_gate_fails_what_waits_and_what_comes_later():
    gate = Gate(1)
    release, _ = held(gate)
    waiting = [gate.submit(1, lambda: "never") for _ in range(3)]

    gate.close()
    late = gate.submit(1, lambda: "never")
    release.set()

    assert gate.stop.is_set()
    for future in [*waiting, late]:
        with pytest.raises(Stopped, match="stopped before this work began"):
            future.result(20)


def test_a_closed_gate_tells_whether_its_work_has_ended():
    gate = Gate(2)
    release, future = held(gate)
    gate.close()

    assert not gate.join(0.05)
    release.set()
    assert gate.join(20)
    assert future.done()


def test_closing_the_gate_ends_the_children_behind_it(tmp_path):
    gate = Gate(1)
    arguments = (str(tmp_path / "pids"), "sleep")
    future = gate.submit(1, lambda: run_in_child(note_pids_and, arguments, LIMITS, gate.stop))
    pids_noted(tmp_path / "pids")

    gate.close()

    with pytest.raises(Stopped, match="stopped while a child was working"):
        future.result(20)
    assert_gone(tmp_path / "pids")
