"""Two processes, by gloo: together they do what one does with the whole batch."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lvg_train import checkpoint
from lvg_train.dist import World, any_rank, choose_device, connect, sum_over_ranks
from lvg_train.errors import TrainError
from lvg_train.loop import open_job, train
from lvg_train.stats import read_log
from tests.builds import make_once
from tests.train_runs import make_config, make_dataset, one_thread

ROOT = Path(__file__).parent.parent
STAGES = ("lowres", "superres")


@pytest.fixture(scope="session")
def root(tmp_path_factory) -> Path:
    one_thread()
    return make_once(tmp_path_factory, "trains", make_dataset) / "out"


def measure(root: Path, folder: Path, world: World) -> dict[str, Tensor]:
    """Gradients of each update from the start, and the averages that the discriminator's update leaves."""
    found = {}
    for stage in STAGES:
        for name in ("update_generator", "update_discriminator", "update_by_penalty"):
            with ExitStack() as opened:
                # no file of one measurement is seen by another
                job = open_job(make_config(root, stage), folder / f"{stage}-{name}", world, None, opened)
                getattr(job.updates, name)(0)
                networks = {"generator": job.state.generator, "discriminator": job.state.discriminator}
                for role, network in networks.items():
                    for parameter_name, parameter in network.named_parameters():
                        if parameter.grad is not None:
                            found[f"{stage}.{name}.{role}.{parameter_name}"] = parameter.grad.clone()
                if name == "update_discriminator":
                    found |= {
                        f"{stage}.buffer.{n}": b.clone() for n, b in job.state.generator.named_buffers()
                    }
                    found[f"{stage}.signs"] = torch.tensor(job.state.values()["sum_of_signs"])
    return found


def work(root: Path, folder: Path) -> None:
    """What each of the two processes does."""
    one_thread()
    with connect("cpu") as world:
        assert any_rank(world.rank == 1) and not any_rank(False)
        numbers = torch.tensor([world.rank + 1.0])
        sum_over_ranks(numbers)
        assert numbers.item() == 3
        found = measure(root, folder, world)
        save_file(found, folder / f"rank-{world.rank}.safetensors")
        train(make_config(root, "lowres", "steps=2"), folder / "run", world)


@pytest.fixture(scope="module")
def folder(root: Path, tmp_path_factory) -> Path:
    """What two processes left."""
    folder = tmp_path_factory.mktemp("ranks")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    code = (
        "import sys; from pathlib import Path; from tests.test_train_dist import work; "
        "work(*map(Path, sys.argv[1:]))"
    )
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(root), str(folder)], cwd=ROOT, stderr=subprocess.PIPE, text=True,
            env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(2)
    ]  # fmt: skip
    errors = [process.communicate(timeout=240)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
    return folder


@pytest.fixture(scope="module")
def alone(root: Path, tmp_path_factory) -> dict[str, Tensor]:
    """The same of one process with the whole batch."""
    return measure(root, tmp_path_factory.mktemp("alone"), World())


@pytest.mark.parametrize("stage", STAGES)
def test_gradients_of_two_processes_are_those_of_one_with_the_whole_batch(
    folder: Path, alone: dict[str, Tensor], stage: str
):
    ranks = [load_file(folder / f"rank-{rank}.safetensors") for rank in range(2)]
    names = [name for name in alone if name.startswith(f"{stage}.")]

    assert set(ranks[0]) == set(ranks[1]) == set(alone) and len(names) > 100
    for name in names:
        assert torch.equal(ranks[0][name], ranks[1][name]), name
        scale = alone[name].abs().max().item()
        told = lambda text, name=name: f"{name}: {text}"  # noqa: E731
        torch.testing.assert_close(ranks[0][name], alone[name], rtol=1e-3, atol=1e-4 * scale, msg=told)


def test_one_process_goes_on_where_two_ended(root: Path, folder: Path):
    run = folder / "run"
    first = checkpoint.load_newest(run)
    assert first is not None and first.step == 2

    train(make_config(root, "lowres", "steps=3"), run, World())

    assert [line["step"] for line in read_log(run)] == [1, 2, 3]
    newest = checkpoint.load_newest(run)
    assert newest is not None and newest.step == 3


def test_samples_are_shared_in_order():
    shares = [World(rank, 3).share_of(12) for rank in range(3)]

    assert [number for share in shares for number in share] == list(range(12))
    with pytest.raises(TrainError, match="batch 8 cannot be shared by 3 processes"):
        World(0, 3).share_of(8)


def test_cuda_is_not_replaced_by_something_else(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    assert choose_device("auto") == choose_device("cpu") == torch.device("cpu")
    with pytest.raises(TrainError, match="there is no CUDA device for --device cuda"):
        choose_device("cuda")
