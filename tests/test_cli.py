"""What a user of `lvg-data` meets: help whose examples run, clear errors, reruns that do only what is missing,
and builds that can be stopped at any moment."""

import contextlib
import hashlib
import json
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result
from PIL import Image

from pipelines import cli, progress
from tests import videos
from tests.builds import make_once, small_card
from tests.videos import RECIPES, write_video

LVG_DATA = Path(sys.executable).with_name("lvg-data")
"""The console script of the environment that runs the tests."""

SECONDS = 120
ENDS_IN_S = 5.0
"""A build ends within this time after Ctrl-C."""


# -------------------------------------------------------------------------------------------- running commands


def run(*arguments: object) -> Result:
    """The command in this process; its exit status, and all that it printed in `output`."""
    return CliRunner().invoke(cli.main, [str(a) for a in arguments])


def succeed(*arguments: object) -> Result:
    result = run(*arguments)
    assert result.exit_code == 0, (result.output, result.exception)
    return result


def run_script(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess:
    command = [str(LVG_DATA), *map(str, arguments)]
    return subprocess.run(
        command, cwd=cwd, env=environment(), timeout=SECONDS, capture_output=True, text=True, check=False
    )


def environment(**more: str) -> dict[str, str]:
    path = f"{LVG_DATA.parent}{os.pathsep}{os.environ['PATH']}"
    return os.environ | {"PATH": path, "COLUMNS": "200"} | more


@contextlib.contextmanager
def started(*arguments: object) -> Iterator[tuple[subprocess.Popen, str]]:
    """The command running on its own in a session of its own, and the mark that its processes carry."""
    mark = uuid.uuid4().hex
    process = subprocess.Popen(
        [str(LVG_DATA), *map(str, arguments)],
        env=environment(LVG_TEST_MARK=mark), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    )  # fmt: skip
    try:
        yield process, mark
    finally:
        for pid in processes_with(mark):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.communicate()


def processes_with(mark: str) -> list[int]:
    """Ids of living processes whose environment holds `mark`: those that a command started."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mark.encode() in (folder / "environ").read_bytes():
                found.append(int(folder.name))
    return found


def events(out: Path) -> list[str]:
    """Kinds of the events in the journals of `out`, whole lines only."""
    lines = [line for path in sorted(out.glob("runs/*.jsonl")) for line in path.read_text().splitlines(True)]
    return [json.loads(line)["event"] for line in lines if line.endswith("\n")]


def wait_for_event(event: str, out: Path, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + SECONDS
    while event not in events(out):
        assert process.poll() is None, "the build ended before it could be stopped"
        assert time.monotonic() < deadline, f"no event {event!r} after {SECONDS} s"
        time.sleep(0.005)


# ---------------------------------------------------------------------------------------------------- datasets


def make_rides(folder: Path) -> None:
    size = {"width": 160, "height": 90}
    (folder / "films").mkdir()
    write_video(folder / "films" / "cuts.mp4", RECIPES["h264_bframes"], 120, scene_starts=(0, 70), **size)
    write_video(folder / "films" / "plain.mp4", RECIPES["h264_no_bframes"], 96, **size)
    write_video(folder / "films" / "uneven.mkv", RECIPES["vfr_mkv"], 60, **size)
    videos.write_html(folder / "films" / "page.mp4")
    card = small_card(
        name="rides",
        sources=[{"kind": "files", "path": "films"}],
        low={"height": 16, "width": 16, "min_frames": 16, "part_frames": 24},
        high={"height": 32, "width": 32},
        shards={"target_bytes": 150_000},
        execution={"span_megapixels": 0.4},
    )
    (folder / "card.yaml").write_text(yaml.safe_dump(card))


@pytest.fixture(scope="module")
def rides(tmp_path_factory) -> Path:
    """Folder of a card, `card.yaml`, and its videos. To be read only."""
    return make_once(tmp_path_factory, "cli-rides", make_rides)


@pytest.fixture(scope="module")
def built(tmp_path_factory, rides: Path) -> Path:
    """The complete dataset of `rides`, built without disturbance. To be read only."""

    def make(folder: Path) -> None:
        succeed("build", rides / "card.yaml", "--out", folder / "out")

    return make_once(tmp_path_factory, "cli-built", make) / "out"


@pytest.fixture
def copy(built: Path, tmp_path: Path) -> Path:
    """A copy of `built` with its store, to be changed."""
    return shutil.copytree(built, tmp_path / "copy", ignore=shutil.ignore_patterns("runs"))


def content(out: Path) -> dict[str, str]:
    """sha256 of every file of a dataset, without its journals, store and lock."""
    return {
        path.relative_to(out).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(out.rglob("*"))
        if path.is_file() and path.relative_to(out).parts[0] not in ("runs", ".work", ".lock")
    }


def artefacts(store: Path) -> Counter[str]:
    """Number of stored results of each kind."""
    return Counter(path.parent.parent.name for path in store.glob("*/*/meta.json"))


def leftovers(out: Path) -> list[Path]:
    return [*out.glob(".work/tmp/*"), *out.rglob("*.tmp")]


# --------------------------------------------------------------------------------------------------------- help


COMMANDS = ["", *sorted(cli.main.commands)]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_help_has_examples(command: str):
    text = succeed(*command.split(), "--help").output
    assert re.search(r"Examples?:|Start here:", text)
    assert re.search(rf"^ +lvg-data {command}", text, re.MULTILINE)
    assert succeed(*command.split(), "-h").output == text


def examples() -> list[str]:
    """The command lines that the helps show, each once, continued lines joined, remarks cut off."""
    texts = [cli.main.help or "", *(command.help or "" for command in cli.main.commands.values())]
    lines = "\n".join(texts).replace("\\\n", " ").splitlines()
    commands = [
        re.sub(r" {3,}\S.*", "", line.strip()) for line in lines if line.strip().startswith("lvg-data ")
    ]
    return list(dict.fromkeys(commands))


@pytest.fixture
def workplace(rides: Path, tmp_path: Path) -> Path:
    """A folder in which the examples' names mean our small card; a file `demo` goes before the bundled card."""
    shutil.copytree(rides, tmp_path / "rides")
    card = yaml.safe_load((rides / "card.yaml").read_text())
    card["sources"] = [{"kind": "files", "path": "rides/films"}]
    (tmp_path / "demo").write_text(yaml.safe_dump(card))
    return tmp_path


def run_example(command: str, folder: Path) -> None:
    done = subprocess.run(
        ["bash", "-c", command], cwd=folder, env=environment(), timeout=SECONDS * 3, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, (command, done.stdout, done.stderr)


def test_the_examples_of_the_helps_run(workplace: Path):
    """In the order of a first use. Those that name a job server run in test_runners.py."""
    steps = ("plan", "build", "retry", "inspect", "verify", "export-longvideogan", "clean")
    others = ("demo-videos", "--runner", "preflight")  # the last tells of this machine: see test_retry.py
    chosen = [e for e in examples() if not any(other in e for other in others)]
    chosen.sort(key=lambda e: steps.index(e.split()[1]))
    assert {e.split()[1] for e in chosen} == set(steps)
    for command in chosen:
        run_example(command, workplace)
    assert (workplace / "rides.png").is_file()
    assert not list((workplace / "rides-dataset" / ".work").glob("render_span"))


@pytest.mark.slow
def test_the_examples_that_write_demo_videos_run(tmp_path: Path):
    chosen = [e for e in examples() if "demo-videos" in e]
    assert len(chosen) == 2
    run_example(max(chosen, key=len), tmp_path)
    assert (tmp_path / "rides-dataset" / "dataset.json").is_file()


def test_the_console_script_says_its_version():
    assert re.search(r"version \d+\.\d+", run_script("--version").stdout)


# ------------------------------------------------------------------------------------------------------- errors


def check_refused(result: Result, *words: str) -> None:
    """Exit status 1 and one line that says `words`; no traceback, which click's runner would show as exception."""
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == 1
    (line,) = result.output.strip().splitlines()
    assert line.startswith("Error: ")
    assert [word for word in words if word not in line] == [], line


def test_an_unknown_card_is_refused_with_the_nearest_name(tmp_path: Path):
    check_refused(run("build", "demmo", "--out", tmp_path / "out"), "'demmo'", "did you mean demo?")
    check_refused(run("plan", "rides.yaml"), "'rides.yaml' is neither a file nor a bundled card", "demo")
    assert not (tmp_path / "out").exists()


def test_a_misspelt_field_is_refused_with_file_value_and_the_nearest_name(rides: Path, tmp_path: Path):
    text = (rides / "card.yaml").read_text().replace("min_frames: 16", "min_frame: 16")
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    result = run("build", path, "--out", tmp_path / "out")
    check_refused(result, "bad.yaml", "low.min_frame", "(value 16)", "did you mean min_frames?")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("high.jpeg_quality", ["--set 'high.jpeg_quality'", "field=value"]),
        ("=3", ["--set '=3'", "field=value"]),
        ("high.jpeg_qualty=95", ["high.jpeg_qualty", "did you mean jpeg_quality?"]),
        ("high.jpeg_quality=300", ["high.jpeg_quality", "100", "got 300"]),
        ("name.first=1", ["name has no fields to set"]),
        ("cuts.detector=eye", ["cuts.detector", "'adaptive'", "got 'eye'"]),
        ("frame_rate=1/0", ["frame_rate", "'1/0' divides by zero"]),
        ("low.part_frames=2", ["low", "part_frames 2 must be at least window_frames 8"]),
    ],
)
def test_a_bad_setting_is_refused_by_name(setting: str, words: list[str], rides: Path, tmp_path: Path):
    check_refused(run("build", rides / "card.yaml", "--out", tmp_path / "out", "--set", setting), *words)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("place", ["file", "file/below", "/proc/nobody", "unheard://place/x"])
@pytest.mark.parametrize("option", ["--out", "--store"])
def test_a_place_that_cannot_be_written_to_is_refused_by_name(
    option: str, place: str, rides: Path, tmp_path: Path
):
    (tmp_path / "file").touch()
    location = place if place.startswith(("/", "unheard")) else tmp_path / place
    others = [] if option == "--out" else ["--out", tmp_path / "out"]
    result = run("build", rides / "card.yaml", option, location, *others)
    check_refused(result, f"{option} {location} cannot be written to")


def test_a_runner_that_beam_does_not_know_is_refused_by_name(rides: Path, tmp_path: Path):
    result = run("build", rides / "card.yaml", "--out", tmp_path / "out", "--", "--runner=Sprinter")
    check_refused(result, "--runner=Sprinter", "DirectRunner")


def test_an_unknown_option_is_a_usage_error(rides: Path, tmp_path: Path):
    result = run("build", rides / "card.yaml", "--out", tmp_path / "out", "--stor", "x")
    assert result.exit_code == 2
    assert "No such option '--stor'" in result.output


@pytest.mark.parametrize("command", ["inspect", "verify", "clean"])
def test_a_folder_without_a_dataset_is_refused(command: str, tmp_path: Path):
    check_refused(run(command, tmp_path), f"{tmp_path}/dataset.json does not exist", "has not finished")


def test_a_contact_sheet_that_cannot_be_written_is_refused(built: Path, tmp_path: Path):
    (tmp_path / "file").touch()
    for name in ("file/sheet.png", "sheet.xyz"):
        check_refused(run("inspect", built, "--sheet", tmp_path / name), f"--sheet {tmp_path / name}")


def test_the_console_script_shows_errors_without_a_traceback(tmp_path: Path):
    done = run_script("build", "demmo", "--out", tmp_path / "out")
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("Error: card 'demmo'") and len(done.stderr.splitlines()) == 1


# ------------------------------------------------------------------------------------------------------- reruns


def test_the_json_summary_is_one_object_with_the_counts(rides: Path, copy: Path):
    answer = json.loads(succeed("build", rides / "card.yaml", "--out", copy, "--json").stdout)
    assert answer["already_complete"] is True
    assert answer["out"] == str(copy)
    assert answer["counts"]["videos"] == 3
    assert answer["counts"]["rejects_by_cause"] == {"not_video": 1}
    stored = json.loads((copy / "dataset.json").read_text())
    assert {name: answer[name] for name in stored} == stored


def test_a_rerun_over_a_complete_dataset_does_not_even_load_beam(rides: Path, copy: Path):
    code = "import sys; from pipelines.cli import main; main(sys.argv[1:], standalone_mode=False)"
    code += "; assert 'apache_beam' not in sys.modules, 'Beam was loaded'"
    command = [sys.executable, "-c", code, "build", str(rides / "card.yaml"), "--out", str(copy)]
    done = subprocess.run(command, timeout=SECONDS, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "rides: already complete" in done.stdout
    assert not (copy / "runs").exists()


@pytest.mark.parametrize(
    ("setting", "made_again"),
    [
        ("title=Rides", set()),
        ("max_reject_share=1", None),
        ("execution.workers=1", None),
        ("trim.max_black_share=0.9", {"cut"}),
        ("shards.seed=1", {"write_shard"}),
        ("high.part_frames=8", {"cut", "write_shard"}),
        ("high.jpeg_quality=90", {"render_span", "cut", "write_shard"}),
    ],
)
def test_a_changed_field_makes_only_what_depends_on_it(
    setting: str, made_again: set[str] | None, rides: Path, copy: Path
):
    """None: the dataset is complete as it is."""
    before = artefacts(copy / ".work")
    result = succeed("build", rides / "card.yaml", "--out", copy, "--set", setting)
    assert ("already complete" in result.output) == (made_again is None)
    assert set(artefacts(copy / ".work") - before) == (made_again or set())


@pytest.mark.slow
def test_a_field_changed_and_changed_back_gives_the_first_bytes(rides: Path, built: Path, copy: Path):
    succeed("build", rides / "card.yaml", "--out", copy, "--set", "high.part_frames=8")
    assert content(copy) != content(built)
    succeed("build", rides / "card.yaml", "--out", copy)
    assert content(copy) == content(built)


def test_a_new_video_is_all_that_is_decoded_and_gives_the_bytes_of_a_fresh_build(
    rides: Path, copy: Path, tmp_path: Path
):
    """The moved copy of the videos keeps their ids and content, so that nothing of theirs is made again."""
    more = shutil.copytree(rides, tmp_path / "more")
    write_video(more / "films" / "another.mp4", RECIPES["h264_bframes"], 40, width=160, height=90)
    before = artefacts(copy / ".work")
    succeed("build", more / "card.yaml", "--out", copy)
    made = artefacts(copy / ".work") - before
    assert (made["probe"], made["cut"]) == (1, 1)
    assert made["render_span"] == 2, "two spans: 40 frames, a key frame every 24"
    assert made["write_shard"] < before["write_shard"], "shards without the new clip are kept"

    succeed("build", more / "card.yaml", "--out", tmp_path / "fresh")
    assert content(copy) == content(tmp_path / "fresh")


def test_a_video_taken_away_leaves_no_shard_of_its_own_behind(rides: Path, copy: Path, tmp_path: Path):
    fewer = shutil.copytree(rides, tmp_path / "fewer")
    (fewer / "films" / "plain.mp4").unlink()
    before = artefacts(copy / ".work")
    succeed("build", fewer / "card.yaml", "--out", copy)
    made = artefacts(copy / ".work") - before
    assert set(made) <= {"hash_file", "write_shard"}, "the files have other paths, and the same content"
    assert "verified" in succeed("verify", copy).output
    succeed("build", fewer / "card.yaml", "--out", tmp_path / "fresh")
    assert content(copy) == content(tmp_path / "fresh")


# ------------------------------------------------------------------------------------------------ stopped builds

STOPS = [
    ("SIGINT", "rendered"),
    ("SIGTERM", "shard"),
    ("SIGKILL", "rendered"),
    *(
        pytest.param(name, event, marks=pytest.mark.slow)
        for name in ("SIGINT", "SIGTERM", "SIGKILL")
        for event in ("started", "probed", "rendered", "cut", "shard")
    ),
]


@pytest.mark.parametrize(("name", "event"), STOPS)
def test_a_stopped_build_leaves_nothing_half_made_and_goes_on_to_identical_bytes(
    name: str, event: str, rides: Path, built: Path, tmp_path: Path
):
    out = tmp_path / "out"
    command = ("build", rides / "card.yaml", "--out", out, "--set", "execution.workers=1")
    with started(*command) as (process, mark):
        wait_for_event(event, out, process)
        sent = time.monotonic()
        if name == "SIGINT":  # a terminal sends it to all processes of the command
            os.killpg(process.pid, signal.SIGINT)
        else:
            process.send_signal(signal.Signals[name])
        status = process.wait(SECONDS)
        lasted = time.monotonic() - sent
        while processes_with(mark) and time.monotonic() - sent < ENDS_IN_S:
            time.sleep(0.05)
        assert processes_with(mark) == []
        said = process.stdout.read()
    assert lasted < ENDS_IN_S
    # the first shard may be the last thing that was missing: then the build may end before it is stopped
    assert event == "shard" or not (out / "dataset.json").exists()
    if name == "SIGKILL":
        assert status == -signal.SIGKILL
    elif status == 0:
        assert event == "shard"
    else:
        assert status == cli.INTERRUPTED
        assert "stopped; run the same command again to go on" in said
        assert "Traceback" not in said
        assert leftovers(out) == []

    done_before = artefacts(out / ".work")
    succeed(*command)
    assert content(out) == content(built)
    assert leftovers(out) == []
    assert artefacts(out / ".work") == artefacts(built / ".work"), "nothing was made under another key"
    assert events(out).count("rendered") >= done_before["render_span"]


def test_ctrl_c_ends_a_build_whose_words_nobody_reads(rides: Path, tmp_path: Path):
    """As of `lvg-data build ... 2>&1 | tee log`: the same Ctrl-C ends tee."""
    out = tmp_path / "out"
    with started("build", rides / "card.yaml", "--out", out, "--set", "execution.workers=1") as (process, _):
        wait_for_event("started", out, process)
        process.stdout.close()
        process.stdout = None
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(3 * ENDS_IN_S) == cli.INTERRUPTED
    assert leftovers(out) == []


@pytest.mark.parametrize("ends_first", [True, False])
def test_a_worker_that_ends_with_its_build_is_no_fault(ends_first: bool, monkeypatch):
    monkeypatch.setattr(cli, "_SIGNAL_S", 0.2)
    told: list[int] = []

    class Leaving:
        def begin(self, text: str, status: int) -> None:
            told.append(status)

    def died() -> None:
        raise RuntimeError("the worker's exit status was 1")

    worker = threading.Thread(target=died, name=cli._WORKER_THREAD)
    with cli._stop_without_workers(Leaving()):
        worker.start()
        if not ends_first:
            worker.join()
    worker.join()
    assert told == ([] if ends_first else [1])


def test_a_worker_that_ctrl_c_ended_stops_the_build_as_ctrl_c_does():
    def died() -> None:
        raise RuntimeError("Worker subprocess exited with return code -2")

    stopped: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: stopped.append(number))
    worker = threading.Thread(target=died, name=cli._WORKER_THREAD)
    try:
        with cli._stop_without_workers(None):
            worker.start()
            worker.join()
    finally:
        signal.signal(signal.SIGINT, before)
    assert stopped == [signal.SIGINT]


def test_ctrl_c_before_the_build_begins_is_130_too(rides: Path, tmp_path: Path, monkeypatch):
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_run", interrupted)
    result = run("build", rides / "card.yaml", "--out", tmp_path / "out")
    assert result.exit_code == cli.INTERRUPTED
    assert result.output.strip() == "stopped"


def test_a_second_build_into_one_output_is_refused_by_name(rides: Path, tmp_path: Path):
    out = tmp_path / "out"
    with started("build", rides / "card.yaml", "--out", out) as (process, _):
        wait_for_event("started", out, process)
        result = run("build", rides / "card.yaml", "--out", out)
        check_refused(result, f"another build is writing to {out}", "choose another --out")
        assert process.poll() is None, "the first goes on"


@pytest.mark.slow
def test_two_builds_share_a_store_at_the_same_time(rides: Path, built: Path, tmp_path: Path):
    command = ("build", rides / "card.yaml", "--store", tmp_path / "store", "--out")
    with started(*command, tmp_path / "a") as (first, _), started(*command, tmp_path / "b") as (second, _):
        assert (first.wait(SECONDS), second.wait(SECONDS)) == (0, 0)
    assert content(tmp_path / "a") == content(tmp_path / "b") == content(built)


# ---------------------------------------------------------------------------------- plan, inspect, clean, store


def test_plan_tells_before_and_after(rides: Path, copy: Path, tmp_path: Path):
    def done(out: Path, *more: str) -> dict:
        return json.loads(succeed("plan", rides / "card.yaml", "--out", out, "--json", *more).output)["done"]

    assert done(tmp_path / "none")["state"] == "to do"
    assert not (tmp_path / "none").exists()
    assert done(copy)["state"].startswith("complete")
    changed = done(copy, "--set", "high.part_frames=8")
    assert changed["state"] == "begun"
    assert changed["artefacts"]["probe"] == artefacts(copy / ".work")["probe"]


def test_plan_counts_the_sources_and_bounds_the_frames(rides: Path):
    result = succeed("plan", rides / "card.yaml", "--json")
    planned = json.loads(result.output)
    assert planned["sources"]["rows"] == planned["sources"]["here"] == 4
    assert planned["sources"]["unreadable_of_probed"] == 1
    assert planned["estimate"]["frames"] >= 120 + 96 + 60
    text = succeed("plan", rides / "card.yaml").output
    assert "4 rows: 4 here, 0 to fetch" in text and "part_frames: 24" in text


def test_inspect_shows_the_counts_and_draws_the_clips(built: Path, tmp_path: Path):
    sheet = tmp_path / "clips.png"
    text = succeed("inspect", built, "--sheet", sheet).output
    counts = json.loads((built / "dataset.json").read_text())["counts"]
    assert re.search(rf"^ +4 +3 +4 +{counts['clips']} +{counts['clip_frames']} ", text, re.MULTILINE)
    assert "coverage: 3 of 4 sources, 75%" in text
    assert "missing       1  not_video: no container that the decoder knows" in text
    with Image.open(sheet) as picture:
        colours = picture.convert("RGB").getcolors(1 << 24)
    assert len(colours) > 1000, "frames, not an empty sheet"


def test_inspect_as_json_has_hours_splits_and_the_sheet(built: Path, tmp_path: Path):
    sheet = tmp_path / "clips.png"
    summary = json.loads(succeed("inspect", built, "--sheet", sheet, "--clips", 2, "--json").output)
    assert summary["contact_sheet"] == str(sheet)
    assert summary["splits"] == {"train": summary["clips"]}
    assert summary["source_hours"] == pytest.approx((120 / 30 + 96 / 30 + 3.6) / 3600, abs=2e-4)
    assert "16.7" in summary["frame_rate_warning"] and "30 frames/s" in summary["frame_rate_warning"]


def test_clean_removes_the_store_and_nothing_else(rides: Path, built: Path, copy: Path):
    text = succeed("clean", copy).output
    assert re.search(r"removed \d+\.\d MB from .*/\.work", text)
    assert {path.name for path in (copy / ".work").iterdir()} == {"built.json"}
    assert content(copy) == content(built)
    assert succeed("verify", copy).output.strip() == "verified: the dataset is whole"
    assert "already complete" in succeed("build", rides / "card.yaml", "--out", copy).output


@pytest.mark.parametrize("name", ["photos", ".netrc", "dataset.json"])
def test_clean_removes_nothing_from_a_folder_that_is_no_store(name: str, copy: Path, tmp_path: Path):
    other = tmp_path / "other"
    (other / "tmp").mkdir(parents=True)
    (other / "photos" / "2024").mkdir(parents=True)
    (other / name).touch()
    before = sorted(other.rglob("*"))
    where = copy if name == "dataset.json" else other
    check_refused(run("clean", copy, "--store", where), f"{where} is no store: it holds ")
    assert sorted(other.rglob("*")) == before
    assert (copy / "dataset.json").exists()


def test_a_lock_that_is_a_link_is_not_written_through(rides: Path, tmp_path: Path):
    (tmp_path / "victim").write_text("mine")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".lock").symlink_to(tmp_path / "victim")
    result = run("build", rides / "card.yaml", "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert "/.lock" in result.output
    assert (tmp_path / "victim").read_text() == "mine"


def test_an_unreadable_list_is_not_blamed_on_the_output(tmp_path: Path):
    (tmp_path / "list.json").mkdir()  # which root cannot read either
    fields = {"name": "x", "licence": "-", "attribution": "-"}
    source = {"kind": "clip_list", "list": str(tmp_path / "list.json")}
    (tmp_path / "card.yaml").write_text(yaml.safe_dump({**fields, "sources": [source]}))
    result = run("build", tmp_path / "card.yaml", "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert "list.json" in result.output and "while writing" not in result.output


def test_a_store_elsewhere_keeps_the_output_free_of_it(rides: Path, built: Path, copy: Path, tmp_path: Path):
    store = shutil.move(copy / ".work", tmp_path / "elsewhere")
    shutil.rmtree(copy)
    before = artefacts(Path(store))
    build = ("build", rides / "card.yaml", "--out", copy, "--store", store)
    assert "rides: complete" in succeed(*build).output
    assert artefacts(Path(store)) == before, "all of it was found there"
    assert not (copy / ".work").exists()
    assert content(copy) == content(built)
    assert "already complete" in succeed(*build).output
    succeed("clean", copy, "--store", store)
    assert artefacts(Path(store)) == Counter()


# ----------------------------------------------------------------------------------------------------- progress


def test_progress_is_plain_lines_where_there_is_no_terminal(rides: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(progress, "_PLAIN_EVERY_S", 0.1)
    result = succeed("build", rides / "card.yaml", "--out", tmp_path / "out")
    lines = [line for line in result.stderr.splitlines() if line.startswith("videos ")]
    assert len(lines) > 3
    pattern = r"videos \d/4  clips \d+  frames [\d,]+/[\d,]+  \d+ frames/s  rejects \d  shards \d+  left .+"
    assert [line for line in lines if not re.fullmatch(pattern, line)] == []
    assert "\x1b" not in result.output
    assert "videos" not in result.stdout.splitlines()[0], "the summary alone goes to standard output"


def test_progress_is_a_table_on_a_terminal(rides: Path, tmp_path: Path):
    raw = run_in_terminal("build", rides / "card.yaml", "--out", tmp_path / "out")
    assert raw.rindex(SHOW_CURSOR) > raw.rindex(HIDE_CURSOR)
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", raw)
    assert re.search(r"videos +clips +frames +frames/s +rejects +shards +left", shown)
    assert re.search(r"\d/4", shown)
    assert "rides" in shown and "complete" in shown and "Traceback" not in shown


def test_ctrl_c_on_a_terminal_gives_the_cursor_back(rides: Path, tmp_path: Path):
    raw = run_in_terminal("build", rides / "card.yaml", "--out", tmp_path / "out", stop_at="frames/s")
    assert raw.rindex(SHOW_CURSOR) > raw.rindex(HIDE_CURSOR)
    assert raw.rstrip().endswith("stopped; run the same command again to go on")
    assert "Traceback" not in raw


HIDE_CURSOR, SHOW_CURSOR = "\x1b[?25l", "\x1b[?25h"


def run_in_terminal(*arguments: object, stop_at: str | None = None) -> str:
    """What the command writes to a terminal of 120 columns; Ctrl-C is typed once `stop_at` was written."""
    in_terminal = "import os, sys; os.login_tty(0); os.execv(sys.argv[1], sys.argv[1:])"
    command = [sys.executable, "-c", in_terminal, str(LVG_DATA), *map(str, arguments)]
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment(COLUMNS="120", TERM="xterm"),
    )  # fmt: skip
    os.close(theirs)
    written, deadline, stop = b"", time.monotonic() + SECONDS, stop_at
    try:
        while time.monotonic() < deadline:
            ready, _, _ = select.select([ours], [], [], 1)
            try:
                written += os.read(ours, 65536) if ready else b""
            except OSError:  # Linux: the other side is closed
                break
            if stop is not None and stop in written.decode(errors="replace"):
                os.write(ours, b"\x03")
                stop = None
        expected = cli.INTERRUPTED if stop_at else 0
        assert process.wait(10) == expected, written.decode(errors="replace")
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        os.close(ours)
    return written.decode(errors="replace")


def test_a_misspelt_option_for_beam_is_refused(rides: Path, tmp_path: Path):
    result = run("build", rides / "card.yaml", "--out", tmp_path / "out", "--", "--direct_num_wrkers=3")
    check_refused(result, "Apache Beam knows no option '--direct_num_wrkers=3'")


def test_a_job_server_that_is_not_there_is_said_in_words(rides: Path, tmp_path: Path):
    options = ("--runner=PortableRunner", "--job_endpoint=127.0.0.1:9", "--job_server_timeout=1")
    result = run("build", rides / "card.yaml", "--out", tmp_path / "out", "--", *options)
    check_refused(result, "the job server of --job_endpoint does not answer")
