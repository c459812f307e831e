"""`lvg-train lowres`."""

from __future__ import annotations

from lvg_train.commands.train import make_command

command = make_command(
    "lowres",
    """Trains stage 1: long videos at low resolution, from noise.

    \b
    A first run on a CPU, in minutes:
      lvg-data build demo --out rides
      lvg-train lowres --data rides --out runs/low --preset tiny

    \b
    The paper's run on 8 GPUs, each with its part of the batch in 2 rounds:
      torchrun --no-python --nproc-per-node 8 lvg-train lowres --data rides --out runs/low --set rounds=2

    \b
    What would it cost? Nothing is written:
      lvg-train lowres --data rides --out runs/low --dry-run

    A remote dataset that fits the cache is fetched once. A larger one is streamed: the discriminator's batches, and
    those of R1 at 1/16 of their pace, each fetch every shard once an epoch, 1.06 times the dataset in all. An epoch
    is about 4 windows of each part.
    """,
)
