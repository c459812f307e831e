"""How fast windows come out of shards: against the release's way, and against a plain copy of the same bytes.

    python -m benchmarks.reader [--quick] [--cache DIR] [--footage DIR]

    low     64 windows of 128 frames at 64x64
    both    32 windows of 12 frames at 64x64 and 256x256, JPEG quality 100
    open    the parts table of 20,000 parts with 35 members each, by columns and by rows as objects

Windows as uint8 in one array, two workers, files in the page cache. "Release" is LongVideoGAN's way: each frame is a
JPEG in a stored ZIP, opened by name and decoded by Pillow; its two workers are processes that write into shared memory.
The reader's are threads. The release then makes floats of its frames, which is left out here. Measured in turn,
medians, on the clock and as CPU time: a busy machine changes the first more than the second.

Of the frame cache there are three rows: an epoch that fills it, the first epoch of a later process, which compares
the CRC of each frame, and what every further epoch costs.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import json
import mmap
import multiprocessing
import statistics
import tempfile
import time
import zipfile
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from benchmarks.inputs import add_arguments, base_video
from benchmarks.machine import build, own_memory
from benchmarks.table import Row, alternate, compared, print_rows, with_load, write_rows
from lvg_data import schema
from lvg_data.part_index import PartIndex
from lvg_data.reader import Batch, Dataset, Reader, open_dataset
from lvg_data.records import Member, Part, Shard
from lvg_data.window import View, Window, Windows

LOW = View(num_frames=128)
BOTH = View(num_frames=4, context=4, roles=("low", "high"))
WINDOWS = {"low": 64, "both": 32}
WORKERS, READ_AHEAD = 2, 2
NUM_CLIPS, CLIP_SECONDS = 48, 6.5
#: of the table that is opened; parts of 32 frames and three arrays
NUM_PARTS, PARTS_A_CLIP, PARTS_A_SHARD, NUM_MEMBERS = 20_000, 5, 200, 35
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

#: frames per CPU-second, measured once
Case = Callable[[], float]


class Clock:
    """Frames per second on the clock, beside those per CPU-second that each measure returns."""

    def __init__(self) -> None:
        self.found: dict[str, list[float]] = {}

    def measure(self, case: str, num_frames: int, work: Callable[[], object]) -> float:
        """Frames per CPU-second of this process."""
        start, start_cpu = time.perf_counter(), time.process_time()
        work()
        self.note(case, num_frames, time.perf_counter() - start)
        return num_frames / (time.process_time() - start_cpu)

    def note(self, case: str, num_frames: int, seconds: float) -> None:
        self.found.setdefault(case, []).append(num_frames / seconds)

    def medians(self) -> dict[str, float]:
        return {case: statistics.median(values) for case, values in self.found.items()}


def measure(dataset: Dataset, archives: dict[str, Path], name: str, view: View, rounds: int) -> list[Row]:
    """Rows of one case, in frames of one resolution."""
    clock, count = Clock(), WINDOWS[name]
    sizes = {role: dataset.size(role) for role in view.roles}
    num_bytes = {role: count * view.length * height * width * 3 for role, (height, width) in sizes.items()}
    release = Release({role: archives[role] for role in view.roles}, sizes, max(num_bytes.values()))
    cases = {
        RELEASE: release_case(clock, release, dataset.windows(view), count),
        COPY: copy_case(clock, num_bytes, count * view.length),
    }
    with contextlib.ExitStack() as opened:
        reader = opened.enter_context(
            Reader(dataset, view, count, seed=0, workers=WORKERS, prefetch=READ_AHEAD)
        )
        cases[RELEASE]()
        _check_same(release, next(reader), view)
        cases[READER] = reader_case(clock, READER, reader, 8 if name == "low" else 2)
        if "high" in view.roles:
            cases |= cache_cases(clock, dataset.address, view, opened)
        found = alternate(cases, rounds)
    release.pool.shutdown()
    return [*_rows(name, "frames/CPU-s", found), *_rows(name, "frames/s", clock.medians())]


RELEASE, COPY, READER = "release, Pillow from ZIP", "plain copy of the bytes", "reader"
EMPTY, EARLIER, CACHED = (
    f"reader, frame cache: {state}" for state in ("empty", "first epoch of a later process", "further epochs")
)


def release_case(clock: Clock, release: Release, windows: Windows, count: int) -> Case:
    steps = itertools.count()

    def run() -> float:
        start = time.perf_counter()
        cpu_s = release.read(windows.windows_of(0, 1, count, 0, next(steps)), windows.view.roles)
        clock.note(RELEASE, count * windows.view.length, time.perf_counter() - start)
        return count * windows.view.length / cpu_s

    return run


def copy_case(clock: Clock, num_bytes: dict[str, int], num_frames: int, times: int = 4) -> Case:
    pairs = [(np.ones(size, np.uint8), np.ones(size, np.uint8)) for size in num_bytes.values()]

    def copy_all() -> None:
        for target, source in pairs * times:
            np.copyto(target, source)

    return lambda: clock.measure(COPY, num_frames * times, copy_all)


def reader_case(clock: Clock, case: str, reader: Reader, batches: int) -> Case:
    def read(count: int) -> Batch:
        return deque(itertools.islice(reader, count), 1)[0]

    def run() -> float:
        first = read(READ_AHEAD + 1)  # what was read ahead while others were measured
        num_frames = first.low.shape[0] * first.low.shape[1] * batches
        found = clock.measure(case, num_frames, lambda: read(batches))
        _wait_until_idle()  # what it reads ahead is not the next case's work
        return found

    read(batches)  # every shard hashed and mapped, every buffer made
    _wait_until_idle()
    return run


def _wait_until_idle() -> None:
    """Until this process has used no CPU time for a while."""
    used = -1.0
    while time.process_time() - used > 0.002:
        used = time.process_time()
        time.sleep(0.1)


def cache_cases(clock: Clock, address: str, view: View, opened: contextlib.ExitStack) -> dict[str, Case]:
    """The frame cache while it is filled, and once it is."""
    folder = Path(opened.enter_context(tempfile.TemporaryDirectory(dir=Path(address).parent)))
    full = open_dataset(address, frame_cache=folder / "full")
    for clip in full.clips:
        clip.high()
    reader = Reader(full, view, WINDOWS["both"], seed=0, workers=WORKERS, prefetch=READ_AHEAD)
    opened.enter_context(reader)

    def empty() -> float:
        with tempfile.TemporaryDirectory(dir=folder) as fresh:
            return read_epoch(clock, EMPTY, address, view, Path(fresh))

    return {
        EMPTY: empty,
        EARLIER: lambda: read_epoch(clock, EARLIER, address, view, folder / "full"),
        CACHED: reader_case(clock, CACHED, reader, 16),
    }


def read_epoch(clock: Clock, case: str, address: str, view: View, folder: Path) -> float:
    """A window of each clip, as a process reads them that has just opened the dataset."""
    dataset = open_dataset(
        address, check=False, frame_cache=folder
    )  # the other cases have hashed the shards before
    windows = dataset.windows(view).windows_of(0, 1, NUM_CLIPS, 0, 0)
    arrays = {role: np.ones((view.length, *dataset.size(role), 3), np.uint8) for role in view.roles}
    buffers = [{role: array.copy() for role, array in arrays.items()} for _ in windows]
    with ThreadPoolExecutor(WORKERS) as pool:

        def fill(item: tuple[Window, dict[str, np.ndarray]]) -> None:
            dataset.fill(item[0], **item[1])

        work = zip(windows, buffers, strict=True)
        return clock.measure(case, len(windows) * view.length, lambda: list(pool.map(fill, work)))


def _rows(name: str, unit: str, found: dict[str, float]) -> list[Row]:
    bases = [Row(f"{name}: {case}", found[case], unit) for case in (RELEASE, COPY)]
    readers = (case for case in found if case not in (RELEASE, COPY))
    return [
        *bases,
        *(compared(f"{name}: {case}", found[case], unit, base) for case in readers for base in bases),
    ]


def _check_same(release: Release, batch: Any, view: View) -> None:
    """Both ways read the same frames, but for the JPEG that the release puts between."""
    for role in view.roles:
        frame = getattr(batch, role)[0, 0]
        difference = np.abs(release.first_frame(role).astype(int) - frame).mean()
        assert difference < 4, f"{role}: the two ways differ by {difference:.1f} levels"


# ---- opening a large dataset ----------------------------------------------------------------------


def make_parts_table(cache: Path) -> Path:
    """A parts table of the shape that high-res parts of 32 frames give."""
    path = cache / f"parts-{NUM_PARTS}x{NUM_MEMBERS}.parquet"
    if not path.exists():
        partial = path.with_suffix(".partial")
        partial.write_bytes(schema.encode_table(Part, (_part(number) for number in range(NUM_PARTS))))
        partial.rename(path)
    return path


def _part(number: int) -> Part:
    clip, index = divmod(number, PARTS_A_CLIP)
    names = [f"f{frame:03d}.jpg" for frame in range(NUM_MEMBERS - 3)] + ["json", "low.npy", "times.npy"]
    sizes = np.random.default_rng(number).integers(40_000, 60_000, NUM_MEMBERS)
    ends = np.cumsum(sizes) + number % PARTS_A_SHARD * NUM_MEMBERS * 60_000
    places = zip(names, (ends - sizes).tolist(), sizes.tolist(), strict=True)
    members = tuple(itertools.starmap(Member, places))
    start, clip_id = index * 20, f"{clip:020x}"
    key, shard = f"{clip_id}-{index:04d}", _shard(number).name
    return Part("high", key, clip_id, index, start, start + 32, start, start + 20, shard, members)


def _shard(part: int) -> Shard:
    return Shard("high", f"train-{part // PARTS_A_SHARD:05d}.tar", "train", PARTS_A_SHARD, 1, 1, "")


def open_by_columns(path: Path) -> object:
    columns = schema.decode_part_columns(path.read_bytes(), str(path))
    return PartIndex(columns, [_shard(part) for part in range(0, NUM_PARTS, PARTS_A_SHARD)], str(path))


def open_by_rows(path: Path) -> object:
    """The obvious way: each row as an object, with a dict of its members."""
    rows: list[Part] = schema.decode_table(Part, path.read_bytes(), str(path))
    return [(row, {member.name: member for member in row.members}) for row in rows]


def _open_measured(way: Callable[[Path], object], path: Path) -> list[float]:
    """CPU seconds, and the peak of memory above what it was before; for a process of its own."""
    before, start = own_memory()["rss"], time.process_time()
    kept = way(path)
    found = [time.process_time() - start, float(own_memory()["rss"] - before)]
    del kept
    return found


def measure_open(cache: Path) -> list[Row]:
    path, rows = make_parts_table(cache), []
    context = multiprocessing.get_context("spawn")
    found = {}
    for name, way in (("rows as objects", open_by_rows), ("by columns", open_by_columns)):
        with ProcessPoolExecutor(1, context) as pool:
            found[name] = pool.submit(_open_measured, way, path).result()
    for place, unit in enumerate(("CPU-s", "bytes")):
        base = Row("open: rows as objects", found["rows as objects"][place], unit)
        rows += [base, compared("open: by columns", found["by columns"][place], unit, base)]
    return rows


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
        *measure_open(args.cache),
    ]
    rows = with_load(rows)
    print_rows("reader", rows)
    print(json.dumps({"results": str(write_rows("reader", rows))}))


if __name__ == "__main__":
    main()
