"""Dataset cards: what is accepted, and that each mistake is named with its file, field, value and remedy."""

from __future__ import annotations

import re
from fractions import Fraction
from pathlib import Path

import pytest
import yaml

from lvg_data import config
from lvg_data.config import Card, bundled_cards, find_card, load_card, recipe
from lvg_data.errors import CardError

CARD = """\
name: rides
licence: CC-BY-4.0
attribution: someone
sources:
  - kind: files
    path: videos
"""


@pytest.fixture
def load(tmp_path: Path):
    """Loads a card with further lines of YAML."""

    def load_text(more: str = "", *overrides: str) -> Card:
        path = tmp_path / "card.yaml"
        path.write_text(CARD + more, encoding="utf-8")
        return load_card(path, overrides)

    return load_text


@pytest.fixture
def problem(load):
    """The text of the error that a card with further lines of YAML gives."""

    def text_of(more: str = "", *overrides: str) -> str:
        with pytest.raises(CardError) as caught:
            load(more, *overrides)
        return str(caught.value)

    return text_of


# ---- what is accepted


def test_a_card_of_four_fields_gets_the_defaults(load):
    card = load()

    assert (card.low.height, card.low.width, card.low.min_frames) == (64, 64, 128)
    assert (card.high.height, card.high.width, card.high.min_frames) == (256, 256, 12)
    assert (card.frame_rate, card.crop, card.split) == ("native", "center_crop", {})
    assert card.cuts.detector == "adaptive"


def test_set_changes_a_nested_field_with_a_yaml_value(load):
    card = load(
        "low: {min_frames: 16}\n", "high.jpeg_quality=95", "frame_rate=30000/1001", "split={val: 0.1}"
    )

    assert card.high.jpeg_quality == 95
    assert card.low.min_frames == 16
    assert card.frame_rate == Fraction(30000, 1001)
    assert card.split == {"val": 0.1}


def test_set_keeps_the_other_fields_of_a_part_of_the_card(load):
    card = load("low: {min_frames: 16, window_frames: 8}\n", "low.min_frames=32")

    assert (card.low.min_frames, card.low.window_frames) == (32, 8)


@pytest.mark.parametrize(
    ("text", "rate"), [("30", 30), ("29.97", Fraction(2997, 100)), ("60000/1001", Fraction(60000, 1001))]
)
def test_a_frame_rate_is_exact(load, text, rate):
    assert load(f"frame_rate: {text}\n").frame_rate == rate


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90),
        ("90.5", Fraction(181, 2)),
        ('"1001/30"', Fraction(1001, 30)),
        ("1:30", 90),  # YAML itself reads this as 90
        ('"1:30"', 90),
        ("1:30.5", Fraction(181, 2)),
        ("0:01:30.25", Fraction(361, 4)),
        ('"1:00:00.1"', Fraction(36001, 10)),
        ("2:03:04", 7384),
    ],
)
def test_interval_times_are_seconds_or_hours_minutes_and_seconds(load, text, seconds):
    source = f"  - {{kind: files, path: x.mp4, intervals: {{x.mp4: [[{text}, 9000]]}}}}\n"

    assert load(source).sources[1].intervals["x.mp4"][0].start == seconds


def test_an_interval_is_a_pair_or_a_mapping_with_an_inclusive_end(load):
    card = load(
        "  - kind: urls\n"
        "    items:\n"
        "      - url: https://example.org/a.mp4\n"
        "        intervals: [[0, 2.5], {start: 3, stop: 4, end_inclusive: true}]\n"
    )

    first, second = card.sources[1].items[0].intervals
    assert (first.start, first.stop, first.end_inclusive) == (0, Fraction(5, 2), False)
    assert (second.start, second.stop, second.end_inclusive) == (3, 4, True)


def test_the_recipe_holds_what_decides_bytes_and_nothing_else(load):
    plain = recipe(load())
    other = load(
        "execution: {workers: 3, span_megapixels: 7}\n"
        "limits: {decode_wall_s: 5}\n"
        "max_reject_share: 0.9\n"
        "cuts: {guard_frames: 3}\n"
    )

    assert not {"execution", "limits", "sources", "max_reject_share"} & set(plain)
    assert recipe(other) == plain | {"cuts": plain["cuts"] | {"guard_frames": 3}}


def test_the_recipe_is_plain_json(load):
    assert recipe(load("frame_rate: 60000/1001\n"))["frame_rate"] == "60000/1001"
    assert yaml.safe_load(yaml.safe_dump(recipe(load()))) == recipe(load())


def test_every_bundled_card_loads_under_its_own_name():
    assert bundled_cards()
    for name, path in bundled_cards().items():
        assert find_card(name) == path
        assert load_card(path).licence


def test_a_card_is_found_by_path_before_it_is_looked_for_in_the_package(tmp_path, monkeypatch):
    (tmp_path / "demo").write_text(CARD)
    monkeypatch.chdir(tmp_path)

    assert find_card("demo") == Path("demo")


# ---- files and names


def test_a_misspelt_bundled_card_names_the_nearest(monkeypatch):
    monkeypatch.setattr(config, "bundled_cards", lambda: {"demo": Path("x"), "acid": Path("y")})

    with pytest.raises(
        CardError, match="card 'demmo' is neither a file nor a bundled card; did you mean demo"
    ):
        find_card("demmo")
    with pytest.raises(CardError, match=r"'qqqq' is neither .* bundled cards: demo, acid"):
        find_card("qqqq")


@pytest.mark.parametrize("content", [b"a: [1", b"\xff\xfe\x00", b"name: x\n\tb: 1"])
def test_a_file_that_is_no_yaml_is_named(tmp_path, content):
    path = tmp_path / "broken.yaml"
    path.write_bytes(content)

    with pytest.raises(CardError, match=r"broken\.yaml: not a readable YAML file"):
        load_card(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(CardError, match=r"none\.yaml: not a readable YAML file: .*No such file"):
        load_card(tmp_path / "none.yaml")


def test_a_card_that_is_a_list_is_refused(tmp_path):
    path = tmp_path / "list.yaml"
    path.write_text("- a\n- b\n")

    with pytest.raises(CardError, match=r"list\.yaml: a card is a mapping of fields, got list"):
        load_card(path)


# ---- fields


@pytest.mark.parametrize(
    ("more", "field", "value", "near"),
    [
        ("licens: MIT\n", "licens", "'MIT'", "licence"),
        ("shard: {}\n", "shard", "{}", "shards"),
        ("low: {hieght: 36}\n", "low.hieght", "36", "height"),
        ("high: {jpeg_qualty: 9}\n", "high.jpeg_qualty", "9", "jpeg_quality"),
        ("cuts: {treshold: 9}\n", "cuts.treshold", "9", "threshold"),
        ("trim: {leterbox: crop}\n", "trim.leterbox", "'crop'", "letterbox"),
        ("shards: {target_byte: 9}\n", "shards.target_byte", "9", "target_bytes"),
        ("limits: {decode_wall: 9}\n", "limits.decode_wall", "9", "decode_wall_s"),
        ("execution: {worker: 9}\n", "execution.worker", "9", "workers"),
        ("  - {kind: files, path: x, splt: val}\n", "sources.1.splt", "'val'", "split"),
        (
            "  - {kind: files, path: x, intervals: {x: [{start: 0, stop: 1, end_inclusiv: true}]}}\n",
            "sources.1.intervals.x.0.end_inclusiv", "True", "end_inclusive",
        ),
        ("  - {kind: urls, item: []}\n", "sources.1.item", "[]", "items"),
        (
            "  - {kind: urls, items: [{url: 'http://x/a', sha265: x}]}\n",
            "sources.1.items.0.sha265", "'x'", "sha256",
        ),
        ("  - {kind: package, package: p, files: [a], splt: val}\n", "sources.1.splt", "'val'", "split"),
        ("  - {kind: rides, sed: 3}\n", "sources.1.sed", "3", "seed"),
    ],
)  # fmt: skip
def test_a_misspelt_field_is_answered_with_the_nearest_name(problem, more, field, value, near):
    lines = [line for line in problem(more).splitlines() if "unknown field" in line]

    assert len(lines) == 1
    assert lines[0].endswith(f"card.yaml: {field}: unknown field (value {value}); did you mean {near}?")


def test_a_field_like_no_other_is_answered_with_all_names(problem):
    assert "card.yaml: low.zzz: unknown field (value 1); fields here: height, width" in problem(
        "low: {zzz: 1}\n"
    )
    assert "xyzzy: unknown field (value 1); fields here: name, title, licence" in problem("xyzzy: 1\n")


def test_a_field_that_is_no_text_is_refused(problem):
    assert "card.yaml: 7" in problem("7: x\n")


def test_missing_fields_are_all_named_at_once(tmp_path):
    path = tmp_path / "card.yaml"
    path.write_text("name: rides\n")

    with pytest.raises(CardError) as caught:
        load_card(path)
    lines = str(caught.value).splitlines()
    assert [line.removeprefix(f"{path}: ") for line in lines] == [
        "licence: missing; every card needs it",
        "attribution: missing; every card needs it",
        "sources: missing; every card needs it",
    ]


def test_a_field_of_a_source_is_named_without_its_kind(problem):
    assert "card.yaml: sources.1.path: missing" in problem("  - {kind: files}\n")
    assert "card.yaml: sources.1.files: missing" in problem("  - {kind: package, package: p}\n")
    assert "card.yaml: sources.1.files.0: " in problem("  - {kind: package, package: p, files: [[1]]}\n")


# ---- values


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ("low: 5\n", "low: "),
        ("low: {height: tall}\n", "low.height: .*integer.*'tall'"),
        ("low: {height: 64.5}\n", r"low.height: .*integer.*64\.5"),
        ("low: {height: 4}\n", "low.height: .*greater than or equal to 8.*4"),
        ("low: {part_frames: 10}\n", "low: part_frames 10 must be at least window_frames 128"),
        ("high: {jpeg_quality: 101}\n", "high.jpeg_quality: .*less than or equal to 100.*101"),
        ("cuts: {detector: adaptve}\n", "cuts.detector: .*'adaptive'.*'adaptve'"),
        ("trim: {max_black_share: 1.5}\n", r"trim.max_black_share: .*less than or equal to 1.*1\.5"),
        ("shards: {target_bytes: 12}\n", "shards.target_bytes: .*12"),
        ("max_reject_share: many\n", "max_reject_share: .*number.*'many'"),
        ("limits: {fetch_attempts: 0}\n", "limits.fetch_attempts: .*0"),
        ("frame_rate: 0\n", "frame_rate: a frame rate lies between 0 and 1000 frames per second, got 0"),
        ("frame_rate: fast\n", "frame_rate: .*'fast'"),
        ("frame_rate: 30/0\n", "frame_rate: '30/0' divides by zero"),
        ("frame_rate: true\n", "frame_rate: a frame rate is native or frames per second, got True"),
        ("frame_rate: .inf\n", "frame_rate: .*inf"),
        ("name: My Rides\n", "name: .*pattern.*'My Rides'"),
        ("  - {kind: torrent, path: x}\n", "sources.1: .*'torrent'.*'files'"),
        ("  - {path: x}\n", "sources.1: .*kind"),
        ("  - {kind: urls, items: []}\n", "sources.1.items: .*at least 1"),
        ("  - {kind: urls, items: [{url: ftp://x}]}\n", "sources.1.items.0.url: .*pattern.*'ftp://x'"),
        ("  - {kind: urls, items: [{url: 'http://x/', sha256: abc}]}\n", "sources.1.items.0.sha256: .*'abc'"),
        ("split: {Val: 0.1}\n", "split.Val.*: .*pattern"),
        ("split: {val: 1.1}\n", r"split.val: .*less than or equal to 1.*1\.1"),
    ],
)
def test_an_impossible_value_is_named_with_its_field(problem, more, expected):
    assert_matches(problem(more), expected)


def assert_matches(text: str, expected: str) -> None:
    assert re.search(rf"card\.yaml: {expected}", text), text


@pytest.mark.parametrize(
    ("interval", "expected"),
    [
        ("[5, 5]", "start 5 must be at least 0 and before stop 5"),
        ("[7, 5]", "start 7 must be at least 0 and before stop 5"),
        ("[-1, 5]", "start -1 must be at least 0 and before stop 5"),
        ("[1]", r"an interval is \[start, stop\], got 1 values"),
        ("[1, 2, 3]", r"an interval is \[start, stop\], got 3 values"),
    ],
)
def test_an_impossible_interval_is_named_with_its_place(problem, interval, expected):
    source = f"  - {{kind: files, path: x.mp4, intervals: {{x: [[0, 1], {interval}]}}}}\n"

    assert_matches(problem(source), rf"sources.1.intervals.x.1: {expected}")


@pytest.mark.parametrize("text", ["soon", "true", "1/0", "'1:x'", "[1]", ".nan"])
def test_an_impossible_time_is_named_with_its_place(problem, text):
    source = f"  - {{kind: files, path: x.mp4, intervals: {{x: [{{start: {text}, stop: 9}}]}}}}\n"

    assert_matches(problem(source), r"sources.1.intervals.x.0.start: .*\(got ")


def test_resolutions_of_unequal_aspect_are_refused(problem):
    text = problem("low: {height: 36, width: 64}\n")

    assert_matches(text, r"\(card\): low 36x64 and high 256x256 must have one aspect ratio")


@pytest.mark.parametrize(
    ("split", "expected"),
    [
        ("{val: 0.5, test: 0.5}", r"split shares sum to 1\.0; nothing is left for train"),
        ("{val: 0.9, test: 0.2}", "split shares sum to 1.1"),
        ("{train: 0.5}", "split names the held-out shares only; train is what they leave"),
    ],
)
def test_split_shares_leave_something_for_training(problem, split, expected):
    assert_matches(problem(f"split: {split}\n"), rf"\(card\): {expected}")


def test_every_problem_of_a_card_is_shown_at_once(problem):
    text = problem("low: {height: 4, hight: 3}\nfrane_rate: 3\n")

    assert len(text.splitlines()) == 3
    assert all("card.yaml: " in line for line in text.splitlines())


# ---- --set


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("frame_rate", r"--set 'frame_rate': write it as field=value, e\.g\. --set high\.jpeg_quality=95"),
        ("=3", "--set '=3': write it as field=value"),
        ("name.x=3", r"--set 'name\.x=3': name has no fields to set"),
        ("sources.0.path=y", r"--set .*: sources has no fields to set"),
        ("frame_rate=[1", r"--set 'frame_rate=\[1': the value is not YAML"),
        ("low.hieght=3", r"low\.hieght: unknown field \(value 3\); did you mean height\?"),
        ("low.height=3", r"low\.height: .*greater than or equal to 8 \(got 3\)"),
    ],
)
def test_a_bad_set_option_is_explained(problem, override, expected):
    assert re.search(expected, problem("", override))
