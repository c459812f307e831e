"""Work whose CPU time is measured; each function runs in a child of its own, as a build's work does.

`in_child` is the same fork server, environment and limits as a build's, so arithmetic is single-threaded.
`in_plain_process` is what a tool gets that is started by hand.
"""

from __future__ import annotations

import io
import multiprocessing
import tempfile
import threading
import time
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from benchmarks.machine import own_memory
from lvg_data import clips, journal, pack, render, shard, spans, steps, video
from lvg_data.child import ChildLimits, run_in_child
from lvg_data.config import Card, load_card
from lvg_data.records import Probed, RenderedSpan, RenderedVideo
from lvg_data.sources import list_sources
from lvg_data.sources.place import Place
from lvg_data.store import Store

_LIMITS = ChildLimits(3600, 8 << 30)


def in_child(function: Callable[..., Any], *args: Any) -> Any:
    """`function(*args)` in a child of the fork server."""
    return run_in_child(function, args, _LIMITS)


def in_plain_process(function: Callable[..., Any], *args: Any) -> Any:
    """`function(*args)` in a new process with the environment of this one."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *args).result()


# ---- whole ways from a file to stored frames ------------------------------------------------------


def decode_only(path: str) -> float:
    """CPU seconds to decode every frame on one thread and drop it."""
    start = time.process_time()
    with av.open(path) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        for _ in container.decode(stream):
            pass
    return time.process_time() - start


def reference(path: str, sizes: tuple[tuple[int, int], ...], max_frames: int) -> float:
    """CPU seconds a frame of the release's way (its dataset_tool): one decode a resolution.

    Pillow converts the frame to RGB, crops the centre, resizes the full crop by Lanczos, and saves it as a
    JPEG of quality 100 in a stored ZIP.
    """
    # what is loaded at the first frame is start-up, which a build is not charged for either
    _reference(path, sizes, 1)
    start = time.process_time()
    num_frames = _reference(path, sizes, max_frames)
    return (time.process_time() - start) / num_frames


def _reference(path: str, sizes: tuple[tuple[int, int], ...], max_frames: int) -> int:
    """Frames done, at each of the sizes."""
    num_frames = 0
    for height, width in sizes:
        num_frames = 0
        with (
            av.open(path) as container,
            tempfile.TemporaryFile() as file,
            zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive,
        ):
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1
            for frame in container.decode(stream):
                archive.writestr(f"{num_frames:08d}.jpg", _reference_jpeg(frame, height, width))
                num_frames += 1
                if num_frames == max_frames:
                    break
    return num_frames


def _reference_jpeg(frame: Any, height: int, width: int) -> bytes:
    image = frame.to_image()
    scale = max(width / image.width, height / image.height)
    left, top = (image.width - width / scale) / 2, (image.height - height / scale) / 2
    image = image.crop((round(left), round(top), round(image.width - left), round(image.height - top)))
    buffer = io.BytesIO()
    image.resize((width, height), Image.Resampling.LANCZOS).save(buffer, "JPEG", quality=100)
    return buffer.getvalue()


def render_only(finished: FinishedBuild) -> float:
    """CPU seconds of `spans.render_span` over all spans of a video, in this process."""
    start = time.process_time()
    finished.render_again()
    return time.process_time() - start


class FinishedBuild:
    """A built video's records, found again in its store: what each later step got as input."""

    def __init__(self, card_path: Path, out: Path, settings: tuple[str, ...] = ()) -> None:
        self.card: Card = load_card(card_path, settings)
        shop = steps.Workshop(self.card, Store(f"{out}/.work"), journal.new_run(f"{out}/benchmark-runs"))
        stop = threading.Event()
        (source,) = list_sources(self.card, Place(card_path.parent, shop.desk))
        self.probed: Probed = steps.probe_video(steps.fetch_source(source, shop, stop), shop, stop)
        self.planned = steps.plan_spans(self.probed, shop)
        found: list[RenderedSpan] = [
            steps.render_span(self.probed, span, shop, stop) for span in self.planned
        ]
        self.rendered = RenderedVideo(self.probed, tuple(found))

    def render_again(self) -> None:
        for span in self.planned:
            job = spans.span_job(span, self.probed.video, self.card)
            with tempfile.TemporaryDirectory() as folder:
                spans.render_span(
                    self.probed.fetched.address, f"{self.probed.probe}/packets.npy", job, Path(folder)
                )

    def cut_and_pack_again(self) -> None:
        cut = clips.cut_video(self.rendered, self.card)
        for planned in pack.plan_shards([cut], self.card):
            with tempfile.TemporaryDirectory() as folder:
                shard.write_shard(planned, self.card, Path(folder))


# ---- where the time goes --------------------------------------------------------------------------


class Stopwatch:
    """CPU seconds by piece. A piece that runs inside another one is taken off the outer one."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._inside: list[str] = []
        self._last = time.thread_time()

    def enter(self, piece: str) -> None:
        self._charge()
        self._inside.append(piece)

    def leave(self) -> None:
        self._charge()
        self._inside.pop()

    def _charge(self) -> None:
        now = time.thread_time()
        if self._inside:
            self.seconds[self._inside[-1]] += now - self._last
        self._last = now

    def time_calls(self, owner: Any, name: str, piece: str | Callable[..., str]) -> None:
        """Charges calls of `owner.name` to `piece`, which may be chosen by the arguments."""
        function = getattr(owner, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            self.enter(piece if isinstance(piece, str) else piece(*args))
            try:
                return function(*args, **kwargs)
            finally:
                self.leave()

        setattr(owner, name, timed)

    def time_items(self, owner: Any, name: str, piece: str) -> None:
        """Charges the making of each item of the iterator that `owner.name` returns."""
        function = getattr(owner, name)

        def timed(*args: Any, **kwargs: Any) -> Iterator[Any]:
            items = iter(function(*args, **kwargs))
            while True:
                self.enter(piece)
                try:
                    item = next(items)
                except StopIteration:
                    return
                finally:
                    self.leave()
                yield item

        setattr(owner, name, timed)


def render_pieces(finished: FinishedBuild) -> dict[str, float]:
    """CPU seconds of each piece of rendering a video."""
    watch = Stopwatch()
    low_height = finished.card.low.height
    watch.time_items(video.FrameReader, "__iter__", "decode")
    watch.time_calls(render.Renderer, "render", "render: the rest")
    watch.time_calls(
        render.PlaneResizer,
        "resize",
        lambda resizer, _: "resize low" if resizer.out.shape[1] == low_height else "resize high",
    )
    watch.time_calls(render.Affine, "write", "colour")
    watch.time_calls(render.JpegEncoder, "encode", "JPEG")
    watch.enter("writing")
    finished.render_again()
    watch.leave()
    return dict(watch.seconds)


def packing_pieces(finished: FinishedBuild) -> dict[str, float]:
    """CPU seconds of each piece of what follows rendering."""
    watch = Stopwatch()
    watch.time_calls(clips, "find_cuts", "cut detection")
    for name in ("trim_scene", "measure_qualities", "judge"):
        watch.time_calls(clips, name, "trimming")
    watch.time_calls(shard, "write_shard", "packing")
    watch.enter("cut and pack: the rest")
    finished.cut_and_pack_again()
    watch.leave()
    return dict(watch.seconds)


# ---- the floor ------------------------------------------------------------------------------------


def resize_work(finished: FinishedBuild) -> dict[str, float]:
    """Of one frame: "macs" by the filters' own taps, "done_macs" with those of neighbours, "bytes" of pixels read."""
    row, card = finished.probed.video, finished.card
    sizes = (card.low.height, card.low.width), (card.high.height, card.high.width)
    geometry = spans.geometry_of(row, card.crop == "squash")
    renderer = render.Renderer(geometry, row.colour_matrix, row.colour_range == "full", *sizes)
    with av.open(finished.probed.fetched.address) as container:
        plan = render._Plan(renderer, next(container.decode(video=0)), renderer.colours)
    work: dict[str, float] = defaultdict(float)
    for resizer in (*(group for _, group in plan.groups), plan.to_low):
        num_planes, num_rows, _ = resizer.out.shape
        width = resizer.between.shape[1]
        for weights, times in ((resizer.of_rows[1], width), (resizer.of_columns[1], num_rows)):
            taps = weights.view(np.int16)
            work["macs"] += int((taps != 0).sum()) * times * num_planes
            work["done_macs"] += taps.size * times * num_planes
    for _, resizer in plan.groups:
        work["bytes"] += len(resizer.out) * resizer.between.shape[1] * len(np.unique(resizer.of_rows[0]))
    return dict(work)


def machine_speed() -> dict[str, float]:
    """What this core can do: "macs" a second (one large float32 product), "bytes" copied a second."""
    a, b = np.ones((2, 1024, 1024), np.float32)
    big = np.ones(1 << 26, np.uint8)
    best = {"macs": 0.0, "bytes": 0.0}
    for _ in range(5):
        start = time.perf_counter()
        np.matmul(a, b)
        best["macs"] = max(best["macs"], 1024**3 / (time.perf_counter() - start))
        start = time.perf_counter()
        big.copy()
        best["bytes"] = max(best["bytes"], big.size / (time.perf_counter() - start))
    return best


def imports_memory() -> dict[str, int]:
    """Memory of a child that imported all that a build's children use, and did nothing."""
    return own_memory()
