"""The Beam transforms of a build: each wraps functions of `lvg_data`, keyed by plain string ids."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import apache_beam as beam

from lvg_data import dataset, pack, steps
from lvg_data.errors import Rejected
from lvg_data.records import (
    CutVideo,
    Fetched,
    PlannedShard,
    Probed,
    Reject,
    RenderedVideo,
    Source,
    Span,
    WrittenShard,
)
from lvg_data.sources import DUPLICATE_MARK
from lvg_data.steps import Workshop
from pipelines.outcome import GateHandle, RunGated, blaming_the_machine

#: key of everything that is brought together in one place
_ALL = "dataset"


@dataclass(frozen=True)
class Bench:
    """Where the steps of this run work: the workshop, and the gates to the cores and to the network."""

    shop: Workshop
    cores: GateHandle
    network: GateHandle

    def reject_source(self, source: Source, err: Rejected) -> Reject:
        video_id, _, repeat = source.video_id.partition(DUPLICATE_MARK)
        subject = f"{video_id} (row {repeat} of the same)" if repeat else video_id
        self.shop.note_reject("source", subject, err)
        return Reject(
            "source", subject, video_id, source.origin, err.cause, err.retryable,
            value=err.value, threshold=err.threshold,
        )  # fmt: skip


@dataclass
class Fetch(beam.PTransform):
    """Source -> Fetched."""

    bench: Bench

    def expand(self, sources: beam.PCollection) -> tuple[beam.PCollection, beam.PCollection]:
        bench = self.bench
        return sources | RunGated(
            bench.network,
            lambda source, stop: steps.fetch_source(source, bench.shop, stop),
            reject=bench.reject_source,
        )


@dataclass
class Probe(beam.PTransform):
    """Fetched -> Probed."""

    bench: Bench

    def expand(self, fetched: beam.PCollection) -> tuple[beam.PCollection, beam.PCollection]:
        bench = self.bench
        return fetched | RunGated(
            bench.cores,
            lambda file, stop: steps.probe_video(file, bench.shop, stop),
            cost=lambda file: float(file.size_bytes),
            reject=lambda file, err: bench.reject_source(file.source, err),
        )


@dataclass
class Render(beam.PTransform):
    """Probed -> RenderedVideo: spans fan out, are decoded in any order, and come together by video."""

    bench: Bench

    def expand(self, probed: beam.PCollection) -> beam.PCollection:
        bench = self.bench

        def render(item: tuple[Probed, Span], stop: Any) -> tuple[str, Any]:
            video, span = item
            return video.video.video_id, steps.render_span(video, span, bench.shop, stop)

        def plan(probed: Probed) -> list[tuple[Probed, Span]]:
            return [(probed, span) for span in steps.plan_spans(probed, bench.shop)]

        rendered, _ = (
            probed
            | "Plan spans" >> beam.FlatMap(blaming_the_machine(plan))
            | "Spread spans" >> beam.Reshuffle()
            | "Decode once" >> RunGated(bench.cores, render, cost=lambda item: item[1].cost)
        )
        keyed = probed | "Key videos" >> beam.Map(lambda p: (p.video.video_id, p))
        return (keyed, rendered) | "Join spans" >> beam.CoGroupByKey() | beam.FlatMapTuple(_join_spans)


def _join_spans(_: str, groups: tuple[Iterable[Any], Iterable[Any]]) -> Iterator[RenderedVideo]:
    videos, rendered = groups
    for probed in videos:
        yield RenderedVideo(probed, tuple(sorted(rendered, key=lambda span: span.start)))


@dataclass
class CutAndTrim(beam.PTransform):
    """RenderedVideo -> CutVideo; a video whose cutting met a limit is dropped whole."""

    bench: Bench

    def expand(self, rendered: beam.PCollection) -> tuple[beam.PCollection, beam.PCollection]:
        bench = self.bench
        return rendered | RunGated(
            bench.cores,
            lambda video, stop: steps.cut_video(video, bench.shop, stop),
            cost=lambda video: float(video.probed.video.num_grid_frames),
            reject=lambda video, err: bench.reject_source(video.probed.source, err),
        )


@dataclass
class Pack(beam.PTransform):
    """CutVideo -> WrittenShard."""

    bench: Bench

    def expand(self, cut: beam.PCollection) -> beam.PCollection:
        bench = self.bench
        written, _ = (
            cut
            | "All videos" >> beam.Map(lambda c: (_ALL, c))
            | beam.GroupByKey()
            | "Plan shards" >> beam.FlatMapTuple(lambda _, all_cut: _plan(all_cut, bench))
            | "Spread shards" >> beam.Reshuffle()
            | RunGated(
                bench.cores,
                lambda planned, stop: steps.write_shard(planned, bench.shop, stop),
                cost=_shard_cost,
            )
        )
        return written


def _plan(cut: Iterable[CutVideo], bench: Bench) -> list[PlannedShard]:
    in_order = sorted(cut, key=lambda c: c.rendered.probed.video.video_id)
    return pack.plan_shards(in_order, bench.shop.card)


def _shard_cost(planned: PlannedShard) -> float:
    return float(sum(pack.part_bytes(part, planned.role) for part in planned.parts))


@dataclass
class Publish(beam.PTransform):
    """Everything a build found -> the dataset in place; one element, the content of dataset.json."""

    bench: Bench
    out: str
    num_sources: int

    def expand(self, found: tuple[beam.PCollection, ...]) -> beam.PCollection:
        cut, written, rejects = (
            rows | f"All {name}" >> beam.Map(lambda row: (_ALL, row))
            for rows, name in zip(found, ("cut", "written", "rejected"), strict=True)
        )
        start = cut.pipeline | beam.Create([(_ALL, None)])
        publish = blaming_the_machine(self._publish)
        found = (start, cut, written, rejects) | beam.CoGroupByKey()
        return found | beam.MapTuple(lambda key, groups: publish(key, groups))

    def _publish(self, _: str, groups: tuple[Iterable[Any], ...]) -> dict[str, Any]:
        cut, written, rejects = groups[1], list(groups[2]), groups[3]
        dataset.check_held(self.out, self.bench.shop.journal.run)
        tables = dataset.collect_tables(cut, written, rejects)
        card = self.bench.shop.card
        description = dataset.publish(self.out, card, self.num_sources, tables, written)
        self.bench.shop.journal.write("published", fingerprint=description["fingerprint"])
        return description


__all__ = ["Bench", "CutAndTrim", "Fetch", "Fetched", "Pack", "Probe", "Publish", "Render", "WrittenShard"]
