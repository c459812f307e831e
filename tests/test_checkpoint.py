"""Checkpoints: whole or not there, whatever is killed, full, damaged or twice at once.

Faults that end a process are set off in a fresh interpreter of one thread, which forks a process for each.
"""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from lvg_train import checkpoint
from lvg_train.checkpoint import (
    find_generator,
    load_newest,
    lock_run,
    mark_best,
    prune,
    read_best,
    save_checkpoint,
)
from lvg_train.errors import TrainError
from lvg_train.model_file import ModelError, ModelFile, NetworkSpec, save_model

ROOT = Path(__file__).parent.parent
SPEC = NetworkSpec(
    "lowres_discriminator", {"height": 16, "width": 16, "num_frames": 4, "channel_scale": 1 / 64}
)
ROLES = ("generator", "generator_ema")


def networks_of(step: int) -> dict[str, nn.Module]:
    """A network is a network here: small ones, whose first parameter says the step."""
    networks = {role: SPEC.build() for role in ROLES}
    for network in networks.values():
        with torch.no_grad():
            next(network.parameters()).fill_(step)
    return networks


def tensors_of(step: int) -> dict[str, Tensor]:
    return {"adam.step": torch.tensor(step), "adam.mean": torch.full((5, 7), step / 3, dtype=torch.bfloat16)}


def save(run: Path, step: int, networks: dict[str, nn.Module] | None = None, **values) -> Path:
    description = ModelFile(dict.fromkeys(ROLES, SPEC), {"step": step})
    return save_checkpoint(
        run, step, networks or networks_of(step), description, tensors_of(step), {"p": step / 10, **values}
    )


def check(found: checkpoint.Checkpoint | None, step: int) -> None:
    """That all of a checkpoint is of this step."""
    assert found is not None
    assert (found.step, found.values["p"]) == (step, step / 10)
    assert {n: t.tolist() for n, t in found.tensors().items()} == {
        n: t.tolist() for n, t in tensors_of(step).items()
    }
    assert (next(found.load_network("generator_ema").parameters()) == step).all()


def names(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").iterdir())


# ---- round trips


def test_what_is_saved_is_loaded_bit_for_bit(tmp_path):
    torch.manual_seed(0)
    network = SPEC.build()
    tensors = {"mean": torch.randn(3, 4), "count": torch.tensor(7), "half": torch.randn(5).half(),
               "double": torch.randn(2, dtype=torch.float64), "turned": torch.randn(3, 4).T,
               "empty": torch.zeros(0, 3)}  # fmt: skip

    folder = save_checkpoint(
        tmp_path, 100, {"generator": network}, ModelFile({"generator": SPEC}, {"frame_rate": 30}), tensors,
        {"augment_probability": 0.1 + 0.2, "nested": {"a": [1, None]}},
    )  # fmt: skip

    found = load_newest(tmp_path)
    assert folder == tmp_path / "checkpoints/step-000000100"
    assert (found.step, found.values) == (100, {"augment_probability": 0.1 + 0.2, "nested": {"a": [1, None]}})
    loaded = found.tensors()
    assert loaded.keys() == tensors.keys()
    assert all(loaded[n].dtype == t.dtype and torch.equal(loaded[n], t) for n, t in tensors.items())
    again = found.load_network("generator").state_dict()
    assert all(torch.equal(again[n], t) for n, t in network.state_dict().items())


def test_tensors_of_one_memory_are_saved_each(tmp_path):
    flat = torch.arange(6.0)

    save_checkpoint(tmp_path, 1, {}, ModelFile({}), {"a": flat[:3], "b": flat[3:], "all": flat}, {})

    loaded = load_newest(tmp_path).tensors()
    assert {n: t.tolist() for n, t in loaded.items()} == {
        "a": [0, 1, 2],
        "b": [3, 4, 5],
        "all": [0, 1, 2, 3, 4, 5],
    }


def test_tensors_load_to_another_device(tmp_path):
    save(tmp_path, 3)
    found = load_newest(tmp_path)

    device = "cuda" if torch.cuda.is_available() else "meta"

    assert {t.device.type for t in found.tensors(device).values()} == {device}
    assert {p.device.type for p in found.load_network("generator", device).parameters()} == {device}


def test_the_same_state_is_the_same_bytes(tmp_path):
    torch.manual_seed(0)
    networks = networks_of(5)

    a, b = save(tmp_path / "a", 5, networks), save(tmp_path / "b", 5, networks)

    assert sorted(p.name for p in a.iterdir()) == [
        "models.safetensors",
        "optimizers.safetensors",
        "state.json",
    ]
    assert all((a / p.name).read_bytes() == p.read_bytes() for p in b.iterdir())


def test_a_run_that_has_saved_nothing_has_no_checkpoint(tmp_path):
    assert load_newest(tmp_path / "new") is None


def test_a_checkpoint_of_the_same_step_is_replaced(tmp_path):
    save(tmp_path, 1, note="old")
    save(tmp_path, 1, note="new")

    found = load_newest(tmp_path)
    check(found, 1)
    assert found.values["note"] == "new"
    assert names(tmp_path) == ["step-000000001"]


def test_the_newest_is_the_highest_step_not_the_last_name(tmp_path):
    for step in (999_999_999, 1_000_000_000, 7):
        save(tmp_path, step)

    check(load_newest(tmp_path), 1_000_000_000)


def test_values_that_json_cannot_hold_are_refused_and_nothing_stays(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        save(tmp_path, 1, loss=float("nan"))

    assert names(tmp_path) == []


# ---- keeping some


def test_the_last_ones_and_the_best_are_kept(tmp_path):
    for step in (1, 2, 3, 4, 5):
        save(tmp_path, step)
    mark_best(tmp_path, 2, "motion", 0.25)

    removed = prune(tmp_path, keep_last=2)

    assert [p.name for p in removed] == ["step-000000001", "step-000000003"]
    assert names(tmp_path) == ["best.json", "step-000000002", "step-000000004", "step-000000005"]
    assert read_best(tmp_path) == checkpoint.Best(2, "motion", 0.25)
    check(load_newest(tmp_path), 5)


def test_incomplete_checkpoints_do_not_count_as_the_last_ones(tmp_path):
    folders = [save(tmp_path, step) for step in (1, 2, 3, 4)]
    (folders[2] / "state.json").unlink()
    (folders[3] / "models.safetensors").write_bytes(b"")

    prune(tmp_path, keep_last=1)

    check(load_newest(tmp_path), 2)
    assert names(tmp_path) == ["step-000000002"]


def test_nothing_is_pruned_while_nothing_is_whole(tmp_path):
    (save(tmp_path, 1) / "state.json").unlink()

    assert prune(tmp_path, keep_last=1) == []
    assert names(tmp_path) == ["step-000000001"]


def test_the_best_has_to_be_there(tmp_path):
    with pytest.raises(TrainError, match="step-000000009 cannot be the best"):
        mark_best(tmp_path, 9, "motion", 0.5)
    assert read_best(tmp_path) is None


def test_at_least_one_checkpoint_is_kept(tmp_path):
    with pytest.raises(ValueError, match="at least 1, got 0"):
        prune(tmp_path, keep_last=0)


# ---- damage


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def zero(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


@pytest.mark.parametrize("harm", [truncate, zero, flip, os.unlink])
@pytest.mark.parametrize("file", ["models.safetensors", "optimizers.safetensors", "state.json"])
def test_of_a_damaged_checkpoint_the_one_before_is_used_and_it_is_said(tmp_path, harm, file):
    save(tmp_path, 1)
    harm(save(tmp_path, 2) / file)

    with pytest.warns(UserWarning, match=rf"step-000000002 \(.*{file}.*\); step-000000001 is used instead"):
        check(load_newest(tmp_path), 1)


def test_a_changed_value_in_state_json_is_noticed(tmp_path):
    path = save(tmp_path, 2) / "state.json"
    path.write_text(path.read_text().replace('"p": 0.2', '"p": 0.3'))

    with pytest.raises(TrainError, match=r"the content of state\.json has changed"):
        load_newest(tmp_path)


def test_a_checkpoint_under_the_name_of_another_is_noticed(tmp_path):
    os.rename(save(tmp_path, 2), tmp_path / "checkpoints/step-000000009")

    with pytest.raises(TrainError, match="step 2"):
        load_newest(tmp_path)


def test_where_all_are_damaged_all_are_listed(tmp_path):
    truncate(save(tmp_path, 1) / "models.safetensors")
    (save(tmp_path, 2) / "optimizers.safetensors").unlink()
    size = (tmp_path / "checkpoints/step-000000001/models.safetensors").stat().st_size

    with pytest.raises(TrainError) as raised:
        load_newest(tmp_path)

    text = str(raised.value)
    assert "step-000000002 (optimizers.safetensors is missing)" in text
    assert f"step-000000001 (models.safetensors has {size:,} bytes, not " in text
    assert "remove them all to begin at step 0" in text


def test_what_a_killed_process_left_is_removed_and_the_rest_is_not(tmp_path):
    save(tmp_path, 1)
    mark_best(tmp_path, 1, "motion", 1.0)
    folder = tmp_path / "checkpoints"
    (folder / ".step-000000002.x1y2").mkdir()
    (folder / ".step-000000002.x1y2" / "models.safetensors").write_bytes(b"half")
    (folder / ".best.json.0.tmp").write_bytes(b"{")
    (folder / "mine").mkdir()

    check(load_newest(tmp_path), 1)

    assert names(tmp_path) == ["best.json", "mine", "step-000000001"]


def test_a_checkpoint_that_was_about_to_be_replaced_comes_back(tmp_path):
    os.rename(save(tmp_path, 1), tmp_path / "checkpoints/.step-000000001.replaced")

    check(load_newest(tmp_path), 1)


# ---- finding a generator


def test_the_generator_of_a_run_is_its_newest_average(tmp_path):
    save(tmp_path, 1)
    folder = save(tmp_path, 2)

    assert find_generator(tmp_path) == (folder / "models.safetensors", "generator_ema")
    assert find_generator(folder) == (folder / "models.safetensors", "generator_ema")


def test_looking_for_a_generator_disturbs_no_running_process(tmp_path):
    save(tmp_path, 1)
    saving = tmp_path / "checkpoints/.step-000000002.x1y2"
    saving.mkdir()

    find_generator(tmp_path)

    assert saving.is_dir()


def test_of_a_file_the_average_comes_before_the_generator(tmp_path):
    network, path = SPEC.build(), tmp_path / "model.safetensors"

    save_model(path, {"generator": network}, ModelFile({"generator": SPEC}))
    assert find_generator(path) == (path, "generator")

    save_model(path, {"discriminator": network}, ModelFile({"discriminator": SPEC}))
    with pytest.raises(TrainError, match=r"model\.safetensors has no generator; it has discriminator"):
        find_generator(path)


def test_a_place_without_a_generator_is_named(tmp_path):
    with pytest.raises(TrainError, match="missing does not exist"):
        find_generator(tmp_path / "missing")
    with pytest.raises(TrainError, match="has no checkpoint yet"):
        find_generator(tmp_path)
    (tmp_path / "x.pkl").write_bytes(b"pickle")
    with pytest.raises(ModelError, match="cannot be read as a model"):
        find_generator(tmp_path / "x.pkl")


# ---- one process a run

HOLD = """
import sys
from pathlib import Path
from lvg_train.checkpoint import lock_run
with lock_run(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_process_is_refused_by_the_number_of_the_first(tmp_path):
    first = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "run")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert first.stdout.readline() == b"held\n"
        with (
            pytest.raises(TrainError, match=f"in use by process {first.pid} on "),
            lock_run(tmp_path / "run"),
        ):
            pass
    finally:
        first.kill()
        first.communicate()

    with lock_run(tmp_path / "run"):  # the killed one holds it no more
        assert (tmp_path / "run/.lock").read_text().startswith(f"{os.getpid()} on ")


def test_a_run_is_free_again_when_the_block_ends(tmp_path):
    for _ in range(2):
        with lock_run(tmp_path):
            pass


def test_the_lock_of_a_run_in_which_nothing_was_written_goes_with_its_folders(tmp_path):
    (tmp_path / "there").mkdir()

    with pytest.raises(KeyError), lock_run(tmp_path / "there/a/b"):
        raise KeyError
    assert list(tmp_path.rglob("*")) == [tmp_path / "there"]

    with pytest.raises(KeyError), lock_run(tmp_path / "there"):
        raise KeyError
    assert list(tmp_path.rglob("*")) == [tmp_path / "there"]

    with pytest.raises(KeyError), lock_run(tmp_path / "there"):
        (tmp_path / "there/config.json").write_text("{}")
        raise KeyError
    assert sorted(p.name for p in (tmp_path / "there").iterdir()) == [".lock", "config.json"]


def test_a_lock_that_its_holder_removed_meanwhile_is_not_taken(tmp_path, monkeypatch):
    flock = checkpoint.fcntl.flock

    def late(file, how):
        (tmp_path / ".lock").unlink()  # by the one that held it, between our opening and our locking
        flock(file, how)

    monkeypatch.setattr(checkpoint.fcntl, "flock", late)
    with pytest.raises(TrainError, match=r"has just given up .*; start again"), lock_run(tmp_path):
        pass


def test_a_place_that_cannot_be_written_to_is_named(tmp_path):
    (tmp_path / "file").write_text("")

    with pytest.raises(TrainError, match=r"file/run cannot be written to"), lock_run(tmp_path / "file/run"):
        pass
    with pytest.raises(TrainError, match=r"file/run/checkpoints/step-000000001 could not be saved"):
        save(tmp_path / "file/run", 1)


# ---- faults, each in a forked process


def forked(work: Callable[[], None]) -> tuple[int, int]:
    """Does work in a child. Returns the signal that ended it, or 0, and its exit status."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    status = os.waitpid(pid, 0)[1]
    return (os.WTERMSIG(status), 0) if os.WIFSIGNALED(status) else (0, os.WEXITSTATUS(status))


def kill_at(number: int) -> None:
    """SIGKILL before the process opens, renames, makes or removes a file for the `number`th time."""
    left = number

    def hook(event: str, arguments: object) -> None:
        nonlocal left
        if event in {"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.chmod", "shutil.rmtree"}:
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left -= 1

    sys.addaudithook(hook)


def save_killed_everywhere(folder: str) -> None:
    """Kills a save of step 2, with its marking and pruning, at every operation on files in turn."""
    networks, third = networks_of(2), networks_of(3)
    save(Path(folder) / "before", 1)
    outcomes = []
    for number in range(1000):
        run = shutil.copytree(Path(folder) / "before", Path(folder) / f"run-{number}")

        def work(run: Path = run, number: int = number) -> None:
            kill_at(number)
            save(run, 2, networks)
            mark_best(run, 2, "motion", 0.5)
            save(run, 2, networks)
            prune(run, 1)

        killed, status = forked(work)
        assert status == 0
        found = load_newest(run)
        check(found, found.step)
        assert [n for n in names(run) if n.startswith(".")] == []
        if number % 6 == 0:
            save(run, 3, third)
            assert load_newest(run).step == 3
        outcomes.append(found.step)
        if not killed:
            break
    print(json.dumps({"kills": len(outcomes) - 1, "outcomes": outcomes}))


def save_killed_at_random(folder: str) -> None:
    """SIGKILLs at seeded moments of the first, second ... fourth save."""
    moments = random.Random(0)
    networks = networks_of(1)
    start = time.monotonic()
    save(Path(folder) / "run", 1, networks)
    save_s = time.monotonic() - start
    lost, confirmed = 0, []
    for number in range(16):
        run = Path(folder) / f"run-{number}"
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            for step in range(1, 1000):
                save(run, step, networks_of(step))
                os.write(writer, step.to_bytes(4, "little"))
                prune(run, 2)
        os.close(writer)
        said = b"".join(os.read(reader, 4) for _ in range(number % 4))
        time.sleep(moments.uniform(0, 1.5 * save_s))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        said += os.read(reader, 4000)
        os.close(reader)
        confirmed.append(int.from_bytes(said[-4:], "little"))
        found = load_newest(run)
        step = found.step if found else 0
        if found:
            check(found, step)
        lost += step not in (confirmed[-1], confirmed[-1] + 1)
    print(json.dumps({"lost": lost, "confirmed": confirmed}))


def save_where_files_are_limited(folder: str) -> None:
    """A full disk, by a limit that each file meets at another place."""
    sizes = []
    for limit in (0, 100, 5_000, 50_000):
        run = Path(folder) / f"run-{limit}"
        size = (save(run, 1) / "models.safetensors").stat().st_size

        def work(run: Path = run, limit: int = limit) -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            try:
                large = torch.zeros(100_000)
                save_checkpoint(run, 2, {}, ModelFile({}), {"large": large}, {})
            except TrainError as err:
                assert f"{run}/checkpoints/step-000000002 could not be saved" in str(err)
                assert "the newest that is there is step-000000001" in str(err)
                assert "bytes are free" in str(err)
                return
            raise AssertionError("it was saved")

        assert forked(work) == (0, 0)
        assert names(run) == ["step-000000001"]
        check(load_newest(run), 1)
        sizes.append(size)
    print(json.dumps({"sizes": sizes}))


def in_fresh_process(function: Callable[[str], None], folder: Path) -> dict:
    code = f"from tests.test_checkpoint import {function.__name__} as f; f({str(folder)!r})"
    answer = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert answer.returncode == 0, answer.stderr
    return json.loads(answer.stdout.splitlines()[-1])


def test_a_kill_at_any_operation_on_files_loses_nothing(tmp_path):
    answer = in_fresh_process(save_killed_everywhere, tmp_path)

    outcomes = answer["outcomes"]
    assert answer["kills"] > 30
    assert outcomes == sorted(outcomes)  # step 1 before the rename, step 2 ever after
    assert set(outcomes) == {1, 2}


def test_a_kill_at_any_moment_loses_nothing_that_was_saved(tmp_path):
    answer = in_fresh_process(save_killed_at_random, tmp_path)

    assert answer["lost"] == 0
    assert max(answer["confirmed"]) >= 3


def test_a_full_disk_is_named_and_earlier_checkpoints_stay(tmp_path):
    in_fresh_process(save_where_files_are_limited, tmp_path)
