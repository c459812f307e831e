"""One process, or several under torchrun: which part of the batch is whose, and averages over all of them.

    lvg-train lowres ...                                                one process
    torchrun --no-python --nproc-per-node 8 lvg-train lowres ...        one a GPU

Gradients travel by NCCL on GPUs and by gloo on CPUs; what the processes have to agree on travels by gloo.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
import torch.distributed
from torch import Tensor, nn

from lvg_train.errors import TrainError

#: infinite gradients become this; NaNs become 0
GRADIENT_BOUND = 1e5


@dataclass(frozen=True)
class World:
    """This process among all that train together.

    Attributes:
      rank: of `size`, from 0.
      device: that this process computes on.
    """

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes files and reports."""
        return self.rank == 0

    def share_of(self, batch: int) -> range:
        """The samples of a batch that are this process's, as numbered over all of them.

            batch 6, 2 ranks      rank 0: 0 1 2      rank 1: 3 4 5

        Raises:
          TrainError: the batch cannot be shared evenly.
        """
        if batch % self.size:
            raise TrainError(
                f"batch {batch} cannot be shared by {self.size} processes; set a multiple of them"
            )
        share = batch // self.size
        return range(self.rank * share, (self.rank + 1) * share)


@contextmanager
def connect(device: str = "auto") -> Iterator[World]:
    """Joins the other processes where torchrun started several; leaves them at the end.

    Args:
      device: "cpu", "cuda", or "auto" for CUDA where there is a GPU.

    Raises:
      TrainError: a GPU is asked for and there is none, or there are fewer than processes.
    """
    rank, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    found = choose_device(device, int(os.environ.get("LOCAL_RANK", "0")))
    if found.type == "cuda":
        torch.cuda.set_device(found)
    if size == 1:
        yield World(0, 1, found)
        return
    torch.distributed.init_process_group("cpu:gloo,cuda:nccl" if found.type == "cuda" else "gloo")
    try:
        yield World(rank, size, found)
    finally:
        torch.distributed.destroy_process_group()


def choose_device(name: str, local_rank: int = 0) -> torch.device:
    """The device of a process: its own GPU, or the CPU.

    Raises:
      TrainError: see `connect`.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cpu":
        return torch.device("cpu")
    if name != "cuda":
        raise TrainError(f"device must be auto, cpu or cuda, got {name!r}")
    if not torch.cuda.is_available():
        raise TrainError(
            "there is no CUDA device for --device cuda; take --device cpu, or a machine with a GPU"
        )
    if local_rank >= torch.cuda.device_count():
        raise TrainError(
            f"process {local_rank} of this machine has no GPU, there are {torch.cuda.device_count()}; "
            "start torchrun with as many processes as GPUs (--nproc-per-node)"
        )
    return torch.device("cuda", local_rank)


def set_precision(precision: str, device: torch.device) -> None:
    """TF32 on a GPU, for the whole process, where the policy is "fast"; never on the CPU."""
    if device.type == "cuda":
        is_fast = precision == "fast"
        torch.set_float32_matmul_precision("high" if is_fast else "highest")
        torch.backends.cudnn.allow_tf32 = is_fast


# ---- gradients


def average_gradients(parameters: Iterable[nn.Parameter], world: World, loss_scale: int = 1) -> None:
    """Replaces each gradient by its mean over the processes, all in one transfer; then NaN is 0 and infinities
    are +-1e5. Parameters without a gradient stay so: that is the same in all processes.

    `loss_scale`: what losses were multiplied by; gradients are divided by it.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    if loss_scale != 1 and gradients:
        torch._foreach_div_(gradients, float(loss_scale))
    if world.size > 1 and gradients:
        flat = torch.cat([g.flatten() for g in gradients])
        torch.distributed.all_reduce(flat)
        flat /= world.size
        pieces = flat.split([g.numel() for g in gradients])
        torch._foreach_copy_(gradients, [p.view_as(g) for p, g in zip(pieces, gradients, strict=True)])
    for gradient in gradients:
        torch.nan_to_num_(gradient, nan=0.0, posinf=GRADIENT_BOUND, neginf=-GRADIENT_BOUND)


# ---- agreement


def sum_over_ranks(values: Tensor) -> None:
    """The sum over all processes, in place; `values` on the CPU or on the process's device."""
    if torch.distributed.is_initialized():
        torch.distributed.all_reduce(values)


def any_rank(flag: bool) -> bool:
    """Whether `flag` is set in any process; all of them have to ask."""
    if not torch.distributed.is_initialized():
        return flag
    votes = torch.tensor(int(flag))
    torch.distributed.all_reduce(votes)
    return bool(votes)
