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

    Stop it with Ctrl-C or SIGTERM: it saves after the current step, and exits with 130 or 0. The same command
    goes on where it was.

    \b
    In RUN: config.json, log.jsonl, curves.png, samples/ beside clips of the data, checkpoints/.
    """,
)
