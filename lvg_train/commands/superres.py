"""`lvg-train superres`."""

from __future__ import annotations

from lvg_train.commands.train import make_command

command = make_command(
    "superres",
    """Trains stage 2: from low to high resolution. It needs no stage 1: both learn from the same dataset.

    \b
    A first run on a CPU, in minutes:
      lvg-data build demo --out rides
      lvg-train superres --data rides --out runs/high --preset tiny

    \b
    The paper's run on 8 GPUs:
      torchrun --no-python --nproc-per-node 8 lvg-train superres --data rides --out runs/high

    \b
    With less memory: the batch in 4 rounds, which leaves what is learned as it is:
      lvg-train superres --data rides --out runs/high --set rounds=4

    A remote dataset that fits the cache is fetched once. A larger one is streamed: the generator's and the
    discriminator's batches, and those of R1 at 1/16 of their pace, each fetch every shard once an epoch, in orders
    of their own, 2.06 times the dataset in all. An epoch is about 4 windows of each part.
    """,
)
