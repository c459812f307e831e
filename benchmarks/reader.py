"""How fast windows come out of shards: against the release's way, and against a plain copy of the same bytes.

    python -m benchmarks.reader [--quick] [--cache DIR] [--footage DIR]

    low     64 windows of 128 frames at 64x64
    both    32 windows of 12 frames at 64x64 and 256x256, JPEG quality 100

All as uint8 in one array, two workers, files in the page cache. "Release" is LongVideoGAN's way: each frame is a JPEG
in a stored ZIP, opened by name and decoded by Pillow; its two workers are processes that write into shared memory.
The reader's are threads. The release then makes floats of its frames, which is left out here. Measured in turn,
medians, on the clock and as CPU time: a busy machine changes the first more than the second.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import mmap
import multiprocessing
import statistics
import time
import zipfile
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from benchmarks.inputs import add_arguments, base_video
from benchmarks.machine import build
from benchmarks.table import Row, alternate, compared, print_rows, with_load, write_rows
from lvg_data.reader import Dataset, Reader, open_dataset
from lvg_data.window import View, Window

LOW = View(num_frames=128)
BOTH = View(num_frames=4, context=4, roles=("low", "high"))
WINDOWS = {"low": 64, "both": 32}
WORKERS, READ_AHEAD = 2, 2
NUM_CLIPS, CLIP_SECONDS = 48, 6.5
#: drop nothing: the clips only have to be many
KEEP = {"max_black_share": 1.0, "max_frozen_share": 1.0, "max_bar_share": 1.0, "max_overlay_share": 1.0}


# ---- inputs ---------------------------------------------------------------------------------------


def make_dataset(cache: Path, footage: Path | None) -> Path:
    """A dataset of 48 overlapping stretches of one video; each clip has its own bytes."""
    out = cache / f"reader-{footage.name if footage else 'ride'}"
    if (out / "dataset.json").exists():
        return out
    video = base_video(cache, footage)
    starts = np.linspace(0.1, 30.0, NUM_CLIPS)
    intervals = [[f"{start:.2f}", f"{start + CLIP_SECONDS:.2f}"] for start in starts]
    source = {"kind": "files", "path": str(video), "intervals": {video.name: intervals}}
    card = {
        "name": "reader", "licence": "CC0-1.0", "attribution": "made here", "sources": [source], "trim": KEEP
    }  # fmt: skip
    path = cache / "reader.yaml"
    path.write_text(yaml.safe_dump(card), encoding="utf-8")
    build(path, out)
    return out


def make_archives(dataset: Dataset, cache: Path) -> dict[str, Path]:
    """The clips as the release prepares them: `<clip>/frame_<n>.jpg`, quality 100, in a stored ZIP a resolution."""
    archives = {}
    for role in ("low", "high"):
        path = archives[role] = cache / f"{Path(dataset.address).name}-{role}.zip"
        if path.exists():
            continue
        partial = path.with_suffix(".partial")
        with zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive:
            for clip in dataset.clips:
                for number, frame in enumerate(clip.low() if role == "low" else clip.high()):
                    buffer = io.BytesIO()
                    Image.fromarray(frame).save(buffer, "JPEG", quality=100)
                    archive.writestr(f"{clip.id}/frame_{number:06d}.jpg", buffer.getvalue())
        partial.rename(path)
    return archives


# ---- the release's way ----------------------------------------------------------------------------

_worker: dict[str, Any] = {}


def _start_worker(archives: dict[str, Path], memory: dict[str, mmap.mmap]) -> None:
    _worker["archives"] = {role: zipfile.ZipFile(path) for role, path in archives.items()}
    _worker["memory"] = memory


def _read_window(role: str, number: int, clip: str, frames: range, size: tuple[int, int]) -> float:
    """Fills place `number` of the shared memory; CPU seconds."""
    start = time.process_time()
    out = np.frombuffer(_worker["memory"][role], np.uint8)
    window = out[: len(out) // (len(frames) * size[0] * size[1] * 3) * len(frames) * size[0] * size[1] * 3]
    window = window.reshape(-1, len(frames), *size, 3)[number]
    archive = _worker["archives"][role]
    for place, frame in enumerate(frames):
        with archive.open(f"{clip}/frame_{frame:06d}.jpg") as file:
            window[place] = np.asarray(Image.open(file))
    return time.process_time() - start


class Release:
    """Two processes that read frames out of the archives into shared memory."""

    def __init__(self, archives: dict[str, Path], sizes: dict[str, tuple[int, int]], num_bytes: int) -> None:
        self.sizes, self.memory = sizes, {role: mmap.mmap(-1, num_bytes) for role in archives}
        context = multiprocessing.get_context("fork")
        self.pool = ProcessPoolExecutor(WORKERS, context, _start_worker, (archives, self.memory))

    def read(self, windows: Sequence[Window], roles: Sequence[str]) -> float:
        """CPU seconds of the workers."""
        tasks = [
            self.pool.submit(_read_window, role, number, window.clip, window.frames, self.sizes[role])
            for number, window in enumerate(windows)
            for role in roles
        ]
        return sum(task.result() for task in tasks)

    def first_frame(self, role: str) -> np.ndarray:
        height, width = self.sizes[role]
        return np.frombuffer(self.memory[role], np.uint8)[: height * width * 3].reshape(height, width, 3)


# ---- measures -------------------------------------------------------------------------------------


def measure(dataset: Dataset, archives: dict[str, Path], name: str, view: View, rounds: int) -> list[Row]:
    """Rows of one case, in frames of one resolution; the release's and the copy's come first."""
    count, windows = WINDOWS[name], dataset.windows(view)
    sizes = {role: dataset.size(role) for role in view.roles}
    num_frames = count * view.length
    num_bytes = {role: num_frames * height * width * 3 for role, (height, width) in sizes.items()}
    release = Release({role: archives[role] for role in view.roles}, sizes, max(num_bytes.values()))
    release.read(windows.windows_of(0, 1, count, 0, 0), view.roles)
    source = {role: np.ones(size, np.uint8) for role, size in num_bytes.items()}
    target = {role: np.ones(size, np.uint8) for role, size in num_bytes.items()}
    batches, steps = 8 if name == "low" else 2, itertools.count(1)
    walls: dict[str, list[float]] = {"release": [], "reader": [], "copy": []}

    with Reader(dataset, view, count, seed=0, workers=WORKERS, prefetch=READ_AHEAD) as reader:
        _check_same(release, next(reader), view)

        def as_released() -> float:
            start = time.perf_counter()
            cpu_s = release.read(windows.windows_of(0, 1, count, 0, next(steps)), view.roles)
            walls["release"].append(num_frames / (time.perf_counter() - start))
            return num_frames / cpu_s

        def with_reader() -> float:
            deque(
                itertools.islice(reader, READ_AHEAD + 1), 1
            )  # what was read ahead while others were measured
            return timed("reader", lambda: deque(itertools.islice(reader, batches), 1))

        def plain_copy() -> float:
            return timed(
                "copy", lambda: [np.copyto(target[r], source[r]) for r in source for _ in range(batches)]
            )

        def timed(case: str, work: Callable[[], object]) -> float:
            """Frames per CPU-second of this process; its frames a second go to `walls`."""
            start, start_cpu = time.perf_counter(), time.process_time()
            work()
            walls[case].append(num_frames * batches / (time.perf_counter() - start))
            return num_frames * batches / (time.process_time() - start_cpu)

        with_reader()  # every shard hashed and mapped, every buffer made
        walls["reader"].clear()
        found = alternate({"release": as_released, "reader": with_reader, "copy": plain_copy}, rounds)
    release.pool.shutdown()
    wall = {case: statistics.median(values) for case, values in walls.items()}
    return [*_rows(name, "frames/CPU-s", found), *_rows(name, "frames/s", wall)]


def _rows(name: str, unit: str, found: dict[str, float]) -> list[Row]:
    release = Row(f"{name}: release, Pillow from ZIP", found["release"], unit)
    copy = Row(f"{name}: plain copy of the bytes", found["copy"], unit)
    reader = [compared(f"{name}: reader", found["reader"], unit, base) for base in (release, copy)]
    return [release, copy, *reader]


def _check_same(release: Release, batch: Any, view: View) -> None:
    """Both ways read the same frames, but for the JPEG that the release puts between."""
    for role in view.roles:
        frame = getattr(batch, role)[0, 0]
        difference = np.abs(release.first_frame(role).astype(int) - frame).mean()
        assert difference < 4, f"{role}: the two ways differ by {difference:.1f} levels"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_arguments(parser)
    args = parser.parse_args()
    args.cache.mkdir(parents=True, exist_ok=True)
    dataset = open_dataset(make_dataset(args.cache, args.footage))
    archives = make_archives(dataset, args.cache)
    rounds = 3 if args.quick else 9
    rows = [
        *measure(dataset, archives, "low", LOW, rounds),
        *measure(dataset, archives, "both", BOTH, rounds),
    ]
    rows = with_load(rows)
    print_rows("reader", rows)
    print(json.dumps({"results": str(write_rows("reader", rows))}))


if __name__ == "__main__":
    main()
