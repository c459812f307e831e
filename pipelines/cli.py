"""The command `lvg-data`. Imports are inside the commands: `--help` and a finished build answer at once."""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table

from lvg_data.errors import CardError, DatasetError, MachineError

if TYPE_CHECKING:
    from apache_beam.options.pipeline_options import PipelineOptions

    from lvg_data.config import Card
    from lvg_data.dataset import Asked
    from lvg_data.journal import Journal
    from lvg_data.records import Reject, Source

#: exit status of a complete dataset that dropped more source rows than its card tolerates
TOO_MANY_REJECTS = 3
#: exit status after Ctrl-C, as shells use it
INTERRUPTED = 130
#: how long the work that a failed build leaves may take to end
_LAST_WORK_S = 10.0
#: and the words of a process that leaves to be read
_LAST_WORDS_S = 3.0
#: and Ctrl-C, which a terminal sends to worker processes too, or the build's own end to be noticed
_SIGNAL_S = 1.0
#: what Beam adds to the text of an exception
_BEAM_REMARK = re.compile(r" \[while running .*", re.DOTALL)


class _Group(click.Group):
    """Shows what users can mend as one clear message instead of a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (CardError, DatasetError, MachineError) as err:
            raise click.ClickException(_BEAM_REMARK.sub("", str(err))) from err
        except KeyboardInterrupt:  # while a build runs, `_stop_on_signals` answers instead
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # one is enough
            click.echo("\nstopped", err=True)
            ctx.exit(INTERRUPTED)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="lvg")
def main() -> None:
    """Turns raw long videos into verified, multi-resolution WebDataset shards.

    \b
    Start here:
      lvg-data demo-videos rides         make a few short videos and a card for them
      lvg-data plan rides/card.yaml      see what a build would do
      lvg-data build rides/card.yaml --out rides-dataset
      lvg-data inspect rides-dataset     counts, rejects, a contact sheet
    """


_set_option = click.option(
    "--set", "overrides", multiple=True, metavar="FIELD=VALUE",
    help="Set a field of the card, e.g. --set high.jpeg_quality=95. Repeatable.",
)  # fmt: skip
_variant_option = click.option(
    "--variant", metavar="NAME", help="A variant of the card, e.g. wide: the paper's 36x64 and 144x256."
)
_json_option = click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
_store_option = click.option(
    "--store", metavar="DIR_OR_URL", help="Where intermediate results are kept. Default: OUT/.work"
)


_cookies_option = click.option(
    "--cookies", type=click.Path(exists=True, dir_okay=False, resolve_path=True), metavar="FILE",
    help="Cookies for downloads, in Netscape's format. The file is read, never stored or logged.",
)  # fmt: skip


_private_option = click.option(
    "--allow-private-addresses", "private_addresses", is_flag=True,
    help="Let lists and downloads ask hosts of this machine and of private networks, which are refused otherwise.",
)  # fmt: skip


@dataclass(frozen=True)
class Order:
    """What a build is asked for: the card, how it was named, cookies, and whether private networks are asked."""

    card: Card
    asked: Asked
    cookies: str | None = None
    private_addresses: bool = False

    @classmethod
    def read(
        cls,
        name: str,
        overrides: tuple[str, ...],
        variant: str | None = None,
        cookies: str | None = None,
        private_addresses: bool = False,
    ) -> Order:
        from lvg_data.config import find_card, folder_of, load_card
        from lvg_data.dataset import Asked

        path = find_card(name)
        named = str(path.absolute()) if Path(name).is_file() else name
        asked = Asked.of(named, folder_of(path).absolute(), variant, overrides)
        return cls(load_card(path, overrides, variant), asked, cookies, private_addresses)

    @classmethod
    def again(cls, asked: Asked, cookies: str | None, private_addresses: bool) -> Order:
        """The order of an earlier build, with its card as it is today."""
        from lvg_data.config import find_card, load_card

        card = load_card(find_card(asked.card), asked.overrides or (), asked.variant)
        return cls(card, asked, cookies, private_addresses)

    def sources(self, store_root: str | None) -> list[Source]:
        """The rows of the card; lists are kept in the store, or in the user's cache where there is none."""
        import platformdirs

        from lvg_data.fetch.desk import Desk
        from lvg_data.sources import list_sources
        from lvg_data.sources.place import Place
        from lvg_data.store import Store

        store = Store(store_root or f"{platformdirs.user_cache_dir('lvg')}/lists")
        desk = Desk.of(self.card, store, cookies=self.cookies, private_addresses=self.private_addresses)
        return list_sources(self.card, Place(Path(self.asked.folder), desk))


def _located(location: str) -> str:
    """A location that means the same to every process: local paths are made absolute. A bucket has to answer now."""
    if "://" not in location:
        return os.path.abspath(location)
    from lvg_data.reach import check_answers

    check_answers(location)
    return location.rstrip("/")


# ---- build ----------------------------------------------------------------------------------------


@main.command(context_settings={"ignore_unknown_options": False})
@click.argument("card")
@click.option("--out", required=True, metavar="DIR_OR_URL", help="Where the dataset goes.")
@_store_option
@_variant_option
@_set_option
@_cookies_option
@_private_option
@_json_option
@click.argument("beam_options", nargs=-1, type=click.UNPROCESSED)
def build(
    card: str,
    out: str,
    store: str | None,
    variant: str | None,
    overrides: tuple[str, ...],
    cookies: str | None,
    private_addresses: bool,
    as_json: bool,
    beam_options: Sequence[str],
) -> None:
    """Builds the dataset that CARD describes: a path, or the name of a bundled card.

    Runs on this machine with all its cores. What is done already is not done again, so that a build that
    was stopped, or ran into a full disk, goes on where it was; what was dropped for a cause that may pass is tried
    again. Options for Apache Beam follow `--` and can name another runner.

    \b
    Examples:
      lvg-data build demo --out demo-dataset
      lvg-data build rides/card.yaml --out rides-dataset --set frame_rate=30 --set low.min_frames=64
      lvg-data build demo --out demo-dataset -- --runner=PortableRunner --job_endpoint=localhost:8099 \\
          --environment_type=LOOPBACK

    \b
    Exit status:
      0  complete
      3  complete, with more source rows rejected than the card's max_reject_share
      130  stopped by Ctrl-C; the same command goes on
      others  an error
    """
    out = _located(out)
    order = Order.read(card, overrides, variant, cookies, private_addresses)
    _build(order, out, _store_root(store, out), as_json, beam_options)


def _store_root(store: str | None, out: str) -> str:
    return _located(store) if store else f"{out}/.work"


def _build(order: Order, out: str, store_root: str, as_json: bool, beam_options: Sequence[str]) -> None:
    """Builds what is missing, prints what there is, and exits with the status that `build` documents."""
    description, done_before = _build_missing(order, out, store_root, beam_options)
    _print_summary(out, description, as_json, done_before)
    counts = description["counts"]
    if counts["rejects_by_level"].get("source", 0) > order.card.max_reject_share * counts["sources"]:
        sys.exit(TOO_MANY_REJECTS)


def _build_missing(
    order: Order, out: str, store_root: str, beam_options: Sequence[str]
) -> tuple[dict[str, Any], bool]:
    """The content of dataset.json, and whether the dataset was complete before."""
    from lvg_data import dataset, finished

    _check_writable("--out", out)
    _check_writable("--store", store_root)
    with _told_where(out, store_root):
        sources = order.sources(store_root)
        request = dataset.request_hash(order.card, sources)
        found = dataset.find_complete(out, store_root, request)
        may_pass = dataset.count_that_may_pass(found) if found else 0
        if found and not may_pass:
            return found, True
        if may_pass:
            text = f"complete, but for {may_pass} rejects whose cause may pass; those are tried again"
            click.echo(text, err=True)
        _run(order, sources, out, store_root, beam_options)
        description = finished.read_description(out)
        dataset.remember_request(out, store_root, request, order.asked, description)
        return description, False


@main.command()
@click.argument("dataset")
@click.option(
    "--cause", "causes", multiple=True, metavar="CAUSE", help="Only what was dropped for this. Repeatable."
)
@_store_option
@_cookies_option
@_private_option
@_json_option
@click.argument("beam_options", nargs=-1, type=click.UNPROCESSED)
def retry(
    dataset: str,
    causes: tuple[str, ...],
    store: str | None,
    cookies: str | None,
    private_addresses: bool,
    as_json: bool,
    beam_options: Sequence[str],
) -> None:
    """Tries again what could not be had for DATASET, and builds only what that changes.

    Without --cause all that may succeed another time: rate limits, networks, time-outs. Any other cause can be
    named, for example after a private video was opened.

    \b
    Examples:
      lvg-data retry rides-dataset
      lvg-data retry rides-dataset --cause private --cause not_found
    """
    from lvg_data import dataset as datasets
    from lvg_data import finished
    from lvg_data.errors import CAUSES

    unknown = [cause for cause in causes if cause not in CAUSES]
    if unknown:
        raise click.ClickException(f"unknown cause {unknown[0]!r}; known: {', '.join(CAUSES)}")
    out = _located(dataset)
    store_root = _store_root(store, out)
    order = Order.again(datasets.recall_request(out, store_root), cookies, private_addresses)
    rejects = finished.read_rejects(out)
    chosen = [r for r in rejects if (r.cause in causes if causes else r.retryable)]
    if not chosen:
        what = f"for {' or '.join(causes)}" if causes else "for a cause that may pass"
        click.echo(f"nothing to try again: nothing was dropped {what}")
        return
    click.echo(f"trying {len(chosen)} again", err=True)
    _forget(chosen, order, store_root)
    datasets.forget_request(out, store_root)
    _build(order, out, store_root, as_json, beam_options)


def _forget(rejects: Sequence[Reject], order: Order, store_root: str) -> None:
    """Makes a build try again what ended in these rejects: fetch again, too, what was found bad only later."""
    from lvg_data import fetch
    from lvg_data.errors import ABOUT_CONTENT
    from lvg_data.fetch.desk import Desk
    from lvg_data.store import Store

    store = Store(store_root)
    store.forget_rejects({reject.cause for reject in rejects})
    bad = {reject.video_id for reject in rejects if reject.cause in ABOUT_CONTENT}
    for source in order.sources(store_root) if bad else ():
        if source.video_id in bad:
            fetch.forget(source, Desk.of(order.card, store))


@main.command()
@click.argument("card", required=False)
@_set_option
@_private_option
def preflight(card: str | None, overrides: tuple[str, ...], private_addresses: bool) -> None:
    """Says whether downloads can work here: yt-dlp, and the JavaScript runtime that YouTube needs.

    With CARD only what its sources need counts. Exit status 1 when something has to be installed.

    \b
    Examples:
      lvg-data preflight
      lvg-data preflight mountain_biking
    """
    from lvg_data import preflight as flight

    for line in flight.report():
        click.echo(line)
    order = Order.read(card, overrides, private_addresses=private_addresses) if card else None
    problems = flight.check(order.sources(None)) if order else flight.problems()
    for problem in problems:
        click.echo(f"problem: {problem}")
    click.echo("not ready" if problems else "ready")
    sys.exit(1 if problems else 0)


def _check_writable(option: str, location: str) -> None:
    """Fails now rather than in the middle of a build; of remote places only the protocol is tried."""
    import fsspec

    from lvg_data.store import is_local, local_path

    try:
        fsspec.url_to_fs(location)
        if is_local(location):
            path = local_path(location)
            path.mkdir(parents=True, exist_ok=True)
            if not os.access(path, os.W_OK | os.X_OK):
                raise PermissionError(f"no permission to write to {path}")
    except (OSError, ValueError, ImportError) as err:
        raise click.ClickException(f"{option} {location} cannot be written to: {err}") from err


@contextlib.contextmanager
def _told_where(out: str, store_root: str) -> Iterator[None]:
    """Says in words what the disk or a store refused, where, and that nothing is lost."""
    try:
        yield
    except (DatasetError, CardError):
        raise
    except Exception as err:
        from pipelines.outcome import describe_os_error, machine_error_in

        what = describe_os_error(err) if isinstance(err, OSError) else machine_error_in(err)
        if what is None:
            raise
        if isinstance(err, OSError) and not str(err.filename or out).startswith((out, store_root)):
            raise MachineError(what) from err  # of what was read
        place = f"{out}" if store_root.startswith(f"{out}/") else f"{out} or --store {store_root}"
        raise MachineError(
            f"{what}\nThis happened while writing to --out {place}. What is done is kept: "
            "when that is mended, the same command goes on."
        ) from err


@contextlib.contextmanager
def _importing_beam() -> Iterator[None]:
    """Without its warnings of Google's libraries, which few runners need, and without looking for garbage.

    None of the 180,000 objects is: to look each time that some are new takes more than a third of the import's time.
    """
    logging.disable(logging.WARNING)
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
        logging.disable(logging.NOTSET)


def _run(order: Order, sources: list[Source], out: str, store_root: str, beam_options: Sequence[str]) -> None:
    from lvg_data.child import start_server

    start_server()  # it loads its libraries on another core while Beam is imported here
    with _importing_beam():
        import grpc

        from pipelines.build import run_build
    from lvg_data import journal as journals
    from lvg_data import preflight
    from lvg_data.steps import Workshop
    from lvg_data.store import Store, local_path
    from pipelines.outcome import GateHandle
    from pipelines.progress import progress_display
    from pipelines.transforms import Bench

    options = _pipeline_options(beam_options)
    card, store = order.card, Store(store_root)
    store.clear_leftovers()
    journal = journals.new_run(f"{out}/runs")
    shop = Workshop(card, store, journal, order.cookies, order.private_addresses)
    bench = Bench(shop, GateHandle(card.execution.workers), GateHandle(16))
    console = Console(stderr=True)
    for problem in preflight.check(sources):
        console.print(f"[yellow]warning:[/yellow] {problem}", soft_wrap=True)
    display = progress_display(local_path(journal.url), len(sources), console)
    leaving = _Leaving(bench, console)
    with _stop_on_signals(leaving, journal), _stop_without_workers(leaving), _quiet_about_faults(), display:
        try:
            run_build(sources, bench, out, options)
        except grpc.FutureTimeoutError as err:
            raise click.ClickException(
                "the job server of --job_endpoint does not answer; is it running?"
            ) from err
        except grpc.RpcError as err:
            raise MachineError(f"the job server of --job_endpoint went away: {_last_words(err)}") from err


def _last_words(err: Any) -> str:
    """What a gRPC error says, without the addresses and times in its own text."""
    return str(err.details()) if hasattr(err, "details") else type(err).__name__


@contextlib.contextmanager
def _quiet_about_faults() -> Iterator[None]:
    """Keeps Beam from logging tracebacks of faults that are told in words in the end."""

    def says_more(record: logging.LogRecord) -> bool:
        text = f"{record.getMessage()} {record.exc_info[1]!r}" if record.exc_info else record.getMessage()
        return "MachineError" not in text and "DatasetError" not in text

    last = [logging.lastResort] if logging.lastResort else []
    handlers = logging.getLogger().handlers or last
    for handler in handlers:
        handler.addFilter(says_more)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(says_more)


#: DirectRunner would first try to download another engine; this makes it use the one that it brings
_DEFAULT_BEAM_OPTIONS = ("--runner=DirectRunner", "--prism_location=/none")


def _pipeline_options(beam_options: Sequence[str]) -> PipelineOptions:
    """Options for Beam; a runner that it does not know is the user's mistake, not the program's."""
    from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions
    from apache_beam.runners import create_runner

    options = PipelineOptions([*_DEFAULT_BEAM_OPTIONS, *beam_options])
    name = options.view_as(StandardOptions).runner
    try:
        create_runner(name)
    except (ValueError, ImportError) as err:
        raise click.ClickException(f"--runner={name}: {err}") from err
    unknown = _unknown_options(beam_options)
    if unknown and name not in _RUNNERS_WITH_OWN_OPTIONS:
        raise click.ClickException(
            f"Apache Beam knows no option {unknown[0]!r}; what follows -- goes to Beam"
        )
    return options


#: a job server brings options of its own, which Beam learns of only from that server
_RUNNERS_WITH_OWN_OPTIONS = ("PortableRunner", "FlinkRunner", "SparkRunner", "PrismRunner")


def _unknown_options(beam_options: Sequence[str]) -> list[str]:
    import argparse

    from apache_beam.options.pipeline_options import PipelineOptions

    parser: Any = argparse.ArgumentParser(add_help=False, conflict_handler="resolve", exit_on_error=False)
    for group in PipelineOptions.__subclasses__():
        with contextlib.suppress(AttributeError):
            group._add_argparse_args(parser)
    return parser.parse_known_args(list(beam_options))[1]


@dataclass
class _Leaving:
    """Ends this process without waiting for Beam's threads, which cannot be interrupted.

    What is in the store is whole at any moment; what is half-made is removed, and children are ended.
    """

    bench: Any
    console: Console
    begun: threading.Event = field(default_factory=threading.Event)

    def gates(self) -> list[Any]:
        return [self.bench.cores.acquire(), self.bench.network.acquire()]

    def begin(self, text: str, status: int) -> bool:
        """Leaves in a moment with these words; False where that has begun before."""
        if self.begun.is_set():
            return False
        self.begun.set()
        logging.disable()  # Beam reports all work that ends now as failed
        for gate in self.gates():
            gate.close()
        threading.Timer(0.5, self._leave, (text, status)).start()
        return True

    def _leave(self, text: str, status: int) -> None:
        words = threading.Thread(target=self._say, args=(text,), daemon=True)
        try:
            self.bench.shop.store.clear_own()
            # a worker that has just been started would wait for its runner; it inherited that SIGTERM is ignored
            for pid in _descendants(os.getpid()):
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
            words.start()  # at the very end, or the progress display would draw itself once more below them
            words.join(_LAST_WORDS_S)  # they may wait for a reader for ever
        finally:
            os._exit(status)

    def _say(self, text: str) -> None:
        with contextlib.suppress(OSError):  # nobody reads any more
            self.console.show_cursor()  # which the progress display hides
            click.echo(f"\n{text}", err=True)


def _descendants(pid: int) -> list[int]:
    """Processes that a process started, directly or not, where the system tells."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended
            fields = path.read_text(errors="replace").rpartition(")")[2].split()
            children.setdefault(int(fields[1]), []).append(int(path.parent.name))
    found = [pid]
    for parent in found:
        found += children.get(parent, [])
    return found[1:]


@contextlib.contextmanager
def _stop_on_signals(leaving: _Leaving, journal: Journal) -> Iterator[None]:
    """On Ctrl-C or SIGTERM ends the children, says how to go on, and exits; nothing half-made stays."""

    def stop(number: int, _: Any) -> None:
        for signal_number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(signal_number, signal.SIG_IGN)
        if leaving.begin("stopped; run the same command again to go on", INTERRUPTED):
            with contextlib.suppress(OSError):  # a full disk is no reason to stay
                journal.write("stopped", signal=number)

    gates = leaving.gates()
    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        if leaving.begun.is_set():
            threading.Event().wait()  # for it; what the build raised meanwhile is no news
        for gate in gates:
            gate.close()
        for gate in gates:  # threads that still start children would crash the end of the process
            gate.join(_LAST_WORK_S)
        for number, handler in before.items():
            signal.signal(number, handler)


#: of the thread in which Beam waits for one of its worker processes; it ends with an error where that one died:
#: github.com/apache/beam, sdks/python/apache_beam/runners/portability/fn_api_runner/worker_handlers.py
_WORKER_THREAD = "run_worker"


@contextlib.contextmanager
def _stop_without_workers(leaving: _Leaving) -> Iterator[None]:
    """Ends the build where a worker process of its runner died; the runner may wait for it for ever.

    To be removed when Beam's own runner fails a pipeline whose worker is gone.
    """
    others, ended = threading.excepthook, threading.Event()

    def died(failed: threading.ExceptHookArgs) -> None:
        if failed.thread is None or failed.thread.name != _WORKER_THREAD:
            others(failed)
        elif str(failed.exc_value).endswith(f"return code {-signal.SIGINT}"):
            os.kill(os.getpid(), signal.SIGINT)  # Ctrl-C, which this process may be too busy to have noticed
        elif not ended.wait(_SIGNAL_S):
            leaving.begin(
                f"Error: a worker process of the runner died ({failed.exc_value}); was it killed, or the machine short "
                "of memory?\nWhat is done is kept: the same command goes on.",
                1,
            )

    threading.excepthook = died
    try:
        yield
    finally:
        ended.set()
        threading.excepthook = others


def _print_summary(out: str, description: dict[str, Any], as_json: bool, done_before: bool) -> None:
    if as_json:
        click.echo(json.dumps({"out": out, "already_complete": done_before, **description}, sort_keys=True))
        return
    counts = description["counts"]
    console = Console()
    state = "already complete" if done_before else "complete"
    console.print(f"[bold]{description['name']}[/bold]: {state} in {out}", highlight=False, soft_wrap=True)
    _print_counts(console, counts)


def _print_counts(console: Console, counts: dict[str, Any]) -> None:
    table = Table(box=None, pad_edge=False)
    for name in (
        "sources",
        "videos",
        "scenes",
        "clips",
        "clip frames",
        "low shards",
        "high shards",
        "rejects",
    ):
        table.add_column(name, justify="right")
    size = {role: f"{number / 1e6:,.1f} MB" for role, number in counts["shard_bytes"].items()}
    numbers = (counts[n] for n in ("sources", "videos", "scenes", "clips", "clip_frames"))
    table.add_row(*(f"{n:,}" for n in numbers), size["low"], size["high"], f"{counts['rejects']:,}")
    console.print(table)
    missing = counts["source_rejects_by_cause"]
    for cause, number in counts["rejects_by_cause"].items():
        dropped = number - missing.get(cause, 0)
        if dropped:
            console.print(f"  rejected {dropped:>6,}  {cause}", highlight=False)
    _print_coverage(console, counts, missing)


def _print_coverage(console: Console, counts: dict[str, Any], missing: dict[str, int]) -> None:
    """How much of the source rows became videos, and why the others did not."""
    from lvg_data.errors import CAUSES

    if not missing:
        return
    share = counts["videos"] / counts["sources"]
    console.print(
        f"coverage: {counts['videos']:,} of {counts['sources']:,} sources, {share:.0%}", highlight=False
    )
    for cause, number in missing.items():
        meaning, retryable = CAUSES[cause]
        later = "; may succeed later: lvg-data retry" if retryable else ""
        console.print(f"  missing  {number:>6,}  {cause}: {meaning}{later}", highlight=False, soft_wrap=True)


# ---- plan, inspect, verify ------------------------------------------------------------------------


@main.command()
@click.argument("card")
@click.option("--out", metavar="DIR_OR_URL", help="The dataset's place, to see what is done already.")
@_store_option
@_variant_option
@_set_option
@_private_option
@_json_option
def plan(
    card: str,
    out: str | None,
    store: str | None,
    variant: str | None,
    overrides: tuple[str, ...],
    private_addresses: bool,
    as_json: bool,
) -> None:
    """Shows what a build of CARD would do: recipe, sources, what is done, and estimated sizes.

    Local files are probed; of what is elsewhere only lists are fetched, and kept: in the store of a build that was
    begun, else in the user's cache.

    \b
    Example:
      lvg-data plan rides/card.yaml --out rides-dataset
    """
    from lvg_data import planning
    from lvg_data.store import exists

    order = Order.read(card, overrides, variant, private_addresses=private_addresses)
    out = _located(out) if out else None
    store_root = _store_root(store, out) if out else None
    begun = store_root is not None and exists(store_root)
    planned = planning.plan_build(order.card, order.sources(store_root if begun else None), out, store_root)
    if as_json:
        click.echo(json.dumps(planned, indent=2, sort_keys=True))
    else:
        click.echo(planning.plan_text(planned))


@main.command()
@click.argument("dataset")
@click.option("--sheet", metavar="PNG", help="Where the contact sheet goes. Default: ./NAME-clips.png")
@click.option("--movie", metavar="MP4", help="Also write a movie that plays clips side by side.")
@click.option("--clips", "num_clips", default=12, show_default=True, help="Clips on the contact sheet.")
@_json_option
def inspect(dataset: str, sheet: str | None, movie: str | None, num_clips: int, as_json: bool) -> None:
    """Shows what DATASET holds: counts, hours, sizes, rejects by cause, and a contact sheet of its clips.

    \b
    Example:
      lvg-data inspect rides-dataset --sheet rides.png --movie rides.mp4
    """
    from lvg_data import preview, report

    dataset = _located(dataset)
    summary = report.summarise(dataset)
    path = Path(sheet or f"{summary['name']}-clips.png")
    picture = report.contact_sheet(dataset, num_clips)
    try:
        picture.save(path)
    except (OSError, ValueError) as err:  # ValueError: a suffix that names no picture format
        raise click.ClickException(f"--sheet {path} cannot be written: {err}") from err
    if movie:
        preview.write_preview(dataset, Path(movie))
    if as_json:
        click.echo(json.dumps({**summary, "contact_sheet": str(path), "movie": movie}, sort_keys=True))
        return
    console = Console()
    console.print(
        f"[bold]{summary['name']}[/bold]  {summary['licence']}  {dataset}", highlight=False, soft_wrap=True
    )
    _print_counts(console, summary)
    hours = f"{summary['source_hours']:.3f} h of video, {summary['clip_hours']:.3f} h of clips"
    splits = ", ".join(f"{name} {number}" for name, number in summary["splits"].items())
    rates = ", ".join(
        f"{number} at {float(Fraction(rate)):g}" for rate, number in summary["frame_rates"].items()
    )
    text = f"{hours}; clips by split: {splits}; videos by frames/s: {rates}"
    console.print(text, highlight=False, soft_wrap=True)
    if summary["frame_rate_warning"]:
        console.print(f"[yellow]warning:[/yellow] {summary['frame_rate_warning']}", soft_wrap=True)
    console.print(f"contact sheet: {path}", highlight=False, soft_wrap=True)
    if movie:
        console.print(f"movie: {movie}", highlight=False, soft_wrap=True)


@main.command()
@click.argument("dataset")
@click.option(
    "--repair",
    is_flag=True,
    help="Make what is damaged again, in DATASET and its store, then check once more.",
)
@_store_option
@_cookies_option
@_private_option
@_json_option
def verify(
    dataset: str, repair: bool, store: str | None, cookies: str | None, private_addresses: bool, as_json: bool
) -> None:
    """Reads all of DATASET and checks that it keeps what it says.

    Hashes and counts of every shard and table; every input row in a shard or in the rejects; every window
    start owned once; every frame decodable, at both resolutions the same picture.

    With --repair the stored results that DATASET was made of are read too, and those that are no longer what was
    stored are removed. Where DATASET itself is damaged, the build that made it runs again, with its card and sources
    as they are today; it makes what is missing. (A build by itself notices files that are gone or have another size.)

    \b
    Examples:
      lvg-data verify rides-dataset && echo good to train on
      lvg-data verify rides-dataset --repair
    """
    dataset = _located(dataset)
    if repair:
        _repair(dataset, _store_root(store, dataset), cookies, private_addresses)
    problems = _problems_of(dataset)
    if as_json:
        click.echo(json.dumps({"whole": not problems, "problems": problems}))
    else:
        for problem in problems:
            click.echo(problem)
        advice = "" if repair else f"; lvg-data verify {dataset} --repair makes what is damaged again"
        click.echo(f"{len(problems)} problems{advice}" if problems else "verified: the dataset is whole")
    sys.exit(1 if problems else 0)


def _problems_of(dataset: str) -> list[str]:
    from lvg_data.verify import verify_dataset

    with Console(stderr=True).status("reading") as status:
        return verify_dataset(dataset, lambda name: status.update(f"reading {name}"))


def _repair(out: str, store_root: str, cookies: str | None, private_addresses: bool) -> None:
    """Removes what is damaged and builds it again; where nothing is, nothing is done."""
    from lvg_data import dataset
    from lvg_data.fetch import drop_damaged
    from lvg_data.store import Store, remove

    order = Order.again(dataset.recall_request(out, store_root), cookies, private_addresses)
    kept = Store(store_root)
    try:
        problems = _problems_of(out)
    except DatasetError as err:
        problems = [str(err)]
    with Console(stderr=True).status(f"reading {store_root}"):
        damaged = [address for address in kept.addresses() if kept.is_damaged(address)]
    for what in (*problems, *damaged):
        click.echo(f"damaged: {what}", err=True)
    if not problems and not damaged:
        return
    with dataset.hold(out, "repair"):
        for address in damaged:
            drop_damaged(kept, address)
        if problems:
            remove(f"{out}/dataset.json")  # so that all is put in place again
            dataset.forget_request(out, store_root)
    if problems:
        _build_missing(order, out, store_root, ())


@main.command()
@click.argument("dataset")
@_store_option
def clean(dataset: str, store: str | None) -> None:
    """Removes the intermediate results of DATASET, above all the rendered frames.

    The dataset stays whole. A later build with another card or further videos makes again what it needs.

    \b
    Example:
      lvg-data clean rides-dataset
    """
    from lvg_data.dataset import hold
    from lvg_data.finished import read_description
    from lvg_data.store import Store

    dataset = _located(dataset)
    read_description(dataset)
    root = _located(store) if store else f"{dataset}/.work"
    with hold(dataset, "clean"):
        removed = Store(root).clear()
    click.echo(f"removed {removed / 1e6:,.1f} MB from {root}")


@main.command("demo-videos")
@click.argument("out", type=click.Path(file_okay=False, path_type=Path))
def demo_videos(out: Path) -> None:
    """Writes a few generated first-person rides to OUT, with their ground truth and a card that builds them.

    They hold what real footage holds: hard cuts, dissolves, fades, flashes, shake, pans, letterbox bars, a
    fixed logo, frozen and black stretches; truth.json says where.

    \b
    Example:
      lvg-data demo-videos rides && lvg-data build rides/card.yaml --out rides-dataset
    """
    from rich.progress import Progress

    from lvg_data.demo import write_demo_videos

    with Progress(console=Console(stderr=True), transient=True) as progress:
        tasks: dict[str, Any] = {}

        def show(name: str, done: int, total: int) -> None:
            if name not in tasks:
                tasks[name] = progress.add_task(name, total=total)
            progress.update(tasks[name], completed=done)

        card = write_demo_videos(out, progress=show)
    click.echo(f"wrote {len(tasks)} videos; next: lvg-data build {card} --out {out}-dataset")


@main.command("export-longvideogan")
@click.argument("dataset")
@click.argument("out")
@click.option("--split", default="train", show_default=True, metavar="NAME", help="The split to write.")
@click.option(
    "--partition-bytes",
    type=click.IntRange(min=1),
    metavar="BYTES",
    help="Close a partition with the clip that reaches this size. Default: 2 GiB.",
)
@_json_option
def export_longvideogan(
    dataset: str, out: str, split: str, partition_bytes: int | None, as_json: bool
) -> None:
    """Writes one split of DATASET to the folder OUT as the ZIPs that LongVideoGAN's own code trains from.

    High-res JPEGs are copied bit for bit. JPEG is all that the format has: low-res frames are encoded, once,
    at quality 100 and 4:4:4. OUT appears when it is whole; lvg.json there carries licence, attribution, frame
    rates and the origin of every clip, for which the format has no place.

    \b
    Examples:
      lvg-data export-longvideogan rides-dataset rides-zips
      lvg-data export-longvideogan rides-dataset rides-small-zips --split train --partition-bytes 1000000000
    """
    from rich.progress import Progress

    from lvg_data import export

    dataset, target = _located(dataset), _located(out)
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("exporting frames", total=None)

        def show(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total)

        size = partition_bytes or export.DEFAULT_PARTITION_BYTES
        note = export.export_longvideogan(dataset, target, split, size, show)
    if as_json:
        click.echo(json.dumps({"out": target, **note}, sort_keys=True))
        return
    folders = " and ".join(note["folders"].values())
    click.echo(
        f"wrote {note['num_clips']} clips, {note['num_frames']:,} frames as {folders} to {out}; "
        f"licence: {note['licence']}"
    )
    if note["clips_left_out"]:
        click.echo(
            f"left out {len(note['clips_left_out'])} clips without high resolution, named in {export.NOTE_NAME}: "
            "shorter than the card's high.min_frames, or imported without it",
            err=True,
        )


if __name__ == "__main__":
    main()
