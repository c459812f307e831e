"""The whole build on one screen: from the rows of a card to a complete dataset."""

from __future__ import annotations

from collections.abc import Sequence

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from lvg_data import dataset
from lvg_data.records import Source
from pipelines.transforms import Bench, CutAndTrim, Fetch, Pack, Probe, Publish, Render


def build_graph(
    pipeline: beam.Pipeline, sources: Sequence[Source], bench: Bench, out: str
) -> beam.PCollection:
    """Adds the build to a pipeline.

    Source -> fetch -> probe -> render every resolution in one decode -> cut, trim -> pack -> publish
                |        |                                            |    |
                rejects  rejects                                 rejects   rejects, in each CutVideo
    """
    rows = pipeline | "Sources" >> beam.Create(sources) | "Spread sources" >> beam.Reshuffle()
    fetched, not_fetched = rows | Fetch(bench)
    probed, not_probed = fetched | "Spread files" >> beam.Reshuffle() | Probe(bench)
    cut, not_cut = probed | Render(bench) | CutAndTrim(bench)
    written = cut | Pack(bench)
    rejects = (not_fetched, not_probed, not_cut) | "Rejected sources" >> beam.Flatten()
    return (cut, written, rejects) | Publish(bench, out, len(sources))


def run_build(sources: Sequence[Source], bench: Bench, out: str, options: PipelineOptions) -> None:
    """Runs the build to its end on the runner that `options` name; raises what made it fail.

    Raises:
      DatasetError: another build is writing to `out`, or it was removed under way.
      MachineError: a disk or a store failed; some runners raise a RuntimeError whose text holds it.
    """
    journal = bench.shop.journal
    with dataset.hold(out, journal.run):
        journal.write("started", card=bench.shop.card.name, num_sources=len(sources))
        pipeline = beam.Pipeline(options=options)
        build_graph(pipeline, sources, bench, out)
        pipeline.run().wait_until_finish()
