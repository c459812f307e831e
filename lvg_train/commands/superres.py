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

    Stop it with Ctrl-C or SIGTERM: it saves after the current step, and exits with 130 or 0. The same command
    goes on where it was.

    \b
    In RUN: config.json, log.jsonl, curves.png, samples/ beside clips of the data, checkpoints/.
    """,
)
