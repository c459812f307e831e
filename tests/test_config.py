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

    def load_text(more: str = "", *overrides: str, variant: str | None = None) -> Card:
        path = tmp_path / "card.yaml"
        path.write_text(CARD + more, encoding="utf-8")
        return load_card(path, overrides, variant)

    return load_text


@pytest.fixture
def problem(load):
    """The text of the error that a card with further lines of YAML gives."""

    def text_of(more: str = "", *overrides: str, variant: str | None = None) -> str:
        with pytest.raises(CardError) as caught:
            load(more, *overrides, variant=variant)
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


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (CARD + "licence: MIT\n", "licence is given twice, in line 2 and line 7; keep one of them"),
        (
            CARD + "low:\n  height: 8\n  width: 8\n  height: 9\n",
            "height is given twice, in line 8 and line 10",
        ),
        (CARD + "  - {kind: rides, seed: 1, seed: 2}\n", "seed is given twice, in line 7 and line 7"),
    ],
)
def test_a_field_that_is_given_twice_is_refused_with_its_lines(tmp_path, content, expected):
    path = tmp_path / "twice.yaml"
    path.write_text(content)

    with pytest.raises(CardError, match=rf"twice\.yaml: not a readable YAML file: {expected}"):
        load_card(path)


def test_a_merge_key_may_be_overridden(load):
    card = load("  - &a {kind: files, path: x, split: val}\n  - {<<: *a, path: y}\n")

    assert [(source.path, source.split) for source in card.sources[1:]] == [("x", "val"), ("y", "val")]


def laughs(levels: int) -> str:
    """Every line holds the one before nine times."""
    lines = ["a0: &a0 [x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, levels)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (laughs(10), r"line \d+: aliases repeat the values below more than 1,000,000 times"),
        ("a: &a [*a]", "line 1: the value contains itself"),
        ("[" * 100_000, "nested too deeply"),
        ("# " + "x" * 1_000_000, "larger than 1,000,000 bytes; a long list of videos belongs in a file of its own"),
        ("name: 2022-77-77", "month must be in 1..12"),
        ("name: " + "9" * 5000, "Exceeds the limit"),
        ("!!python/object/apply:os.getcwd []", "could not determine a constructor"),
    ],
)  # fmt: skip
def test_a_hostile_file_is_refused_in_no_time(tmp_path, content, expected):
    path = tmp_path / "hostile.yaml"
    path.write_text(content)

    with pytest.raises(CardError, match=rf"hostile\.yaml: not a readable YAML file: (.|\n)*{expected}"):
        load_card(path)


def test_the_paths_of_a_card_start_at_its_folder_and_those_of_a_bundled_one_where_the_user_is(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)

    assert config.folder_of(Path("rides/card.yaml")) == Path("rides")
    assert config.folder_of(find_card("demo")) == tmp_path


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
        ("  - {kind: table, list: x, sha: y}\n", "sources.1.sha", "'y'", "sha256"),
        ("  - {kind: clip_list, list: x, folders: y}\n", "sources.1.folders", "'y'", "folder"),
        ("  - {kind: trajectories, list: x, tolerance: 1}\n", "sources.1.tolerance", "1", "tolerance_s"),
        ("  - {kind: frame_folders, path: x, frame_rate: 25, split: y}\n", "sources.1.split", "'y'", "splits"),
        ("  - {kind: longvideogan_zips, path: x, framerate: 25}\n", "sources.1.framerate", "25", "frame_rate"),
        ("  - {kind: table, list: x, expect: {vidoes: 3}}\n", "sources.1.expect.vidoes", "3", "videos"),
        ("  - {kind: files, path: x, expect: {interval: 3}}\n", "sources.1.expect.interval", "3", "intervals"),
        (
            "  - {kind: urls, items: [{url: 'http://x/a', intervals: [{start: 0, stop: 1, sotp: 2}]}]}\n",
            "sources.1.items.0.intervals.0.sotp", "2", "stop",
        ),
        ("download: {height_margn: 2}\n", "download.height_margn", "2", "height_margin"),
        ("variant: {}\n", "variant", "{}", "variants"),
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
    assert "card.yaml: sources.1.path: missing; it has no default" in problem("  - {kind: files}\n")
    for kind in ("table", "clip_list", "trajectories"):
        assert "card.yaml: sources.1.list: missing" in problem(f"  - {{kind: {kind}}}\n")
    without_fields = problem("  - {kind: frame_folders}\n")
    assert "card.yaml: sources.1.path: missing" in without_fields
    assert "card.yaml: sources.1.frame_rate: missing" in without_fields
    assert "card.yaml: sources.1.items.0.url: missing" in problem("  - {kind: urls, items: [{id: a}]}\n")
    assert "card.yaml: sources.1.path: missing" in problem("  - {kind: longvideogan_zips}\n")
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
        ("high: {part_frames: 1001}\n", "high.part_frames: .*less than or equal to 1000.*1001"),
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
        ("title: 7\n", r"title: text is needed; .* \(got 7\)"),
        ("  - {kind: clip_lst, list: x}\n", "sources.1.kind: no kind of source is 'clip_lst'; did you mean clip_list?"),
        ("  - {kind: torrent, path: x}\n", "sources.1.kind: .*'torrent'; kinds: files, urls, table, clip_list, traj"),
        ("  - {kind: [files], path: x}\n", "sources.1.kind: "),
        ("  - {path: x}\n", "sources.1.kind: missing; kinds: files, urls, table"),
        ("  - footage\n", r"sources.1: fields are needed, {name: value} or one a line \(got 'footage'\)"),
        ("  - {kind: urls, items: []}\n", "sources.1.items: .*at least 1"),
        ("  - {kind: urls, items: [{url: ftp://x}]}\n", "sources.1.items.0.url: .*pattern.*'ftp://x'"),
        ("  - {kind: urls, items: [{url: 'http://x/', sha256: abc}]}\n", "sources.1.items.0.sha256: .*'abc'"),
        ("split: {Val: 0.1}\n", "split.Val: .*pattern"),
        ("split: {val: 1.1}\n", r"split.val: .*less than or equal to 1.*1\.1"),
        ("download: 720\n", r"download: fields are needed, .* \(got 720\)"),
        ("download: {height_margin: 0.5}\n", r"download.height_margin: .*greater than or equal to 1.*0\.5"),
        ("  - {kind: files, path: x, expect: {videos: 0}}\n", "sources.1.expect.videos: .*greater than .* 1"),
        ("  - {kind: table, list: x, expect: {videos: few}}\n", "sources.1.expect.videos: .*integer.*'few'"),
        ("  - {kind: table, list: x, expect: 3}\n", r"sources.1.expect: fields are needed, .* \(got 3\)"),
        ("  - {kind: table, list: [x]}\n", r"sources.1.list: text is needed; .* \(got \['x'\]\)"),
        ("  - {kind: clip_list, list: x, sha256: abc}\n", "sources.1.sha256: .*'abc'"),
        ("  - {kind: clip_list, list: x, url: 'https://x/'}\n", "sources.1.url: .*pattern.*'https://x/'"),
        ("  - {kind: trajectories, list: x, tolerance_s: 2}\n", "sources.1.tolerance_s: .*less than .* 1.*2"),
        ("  - {kind: frame_folders, path: x, frame_rate: native}\n",
         "sources.1.frame_rate: pictures have no frame rate of their own; give frames per second"),
        ("  - {kind: frame_folders, path: x, frame_rate: 25, splits: {a: Test}}\n", "sources.1.splits.a: .*'Test'"),
        ("  - {kind: longvideogan_zips, path: x, frame_rate: 0}\n", "sources.1.frame_rate: .*between 0 and 1000"),
        ("  - {kind: urls, items: 'http://x/a'}\n", r"sources.1.items: a list is needed, .*'http://x/a'"),
        ("  - {kind: urls, items: ['http://x/a']}\n", "sources.1.items.0: fields are needed, .*'http://x/a'"),
        ("variants: {Wide: {}}\n", "variants.Wide: .*pattern"),
        ("variants: {wide: 64}\n", r"variants.wide: fields are needed, .* \(got 64\)"),
        ("variants: {wide: {variants: {}}}\n", "variants: a variant cannot have variants of its own"),
    ],
)  # fmt: skip
def test_an_impossible_value_is_named_with_its_field(problem, more, expected):
    assert_matches(problem(more), expected)


def test_an_impossible_name_is_shown(problem):
    assert_matches(problem("", "name=My Rides"), "name: .*pattern.*'My Rides'")


def test_a_long_value_is_shown_shortened(problem):
    text = problem(f"low: [{', '.join(['x'] * 5000)}]\n")

    assert text.endswith("...)")
    assert len(text) < 500


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
        ("5", r"an interval is \[start, stop\] \(got 5\)"),
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
        ("sources.0.path.x=y", r"--set .*: sources\.0\.path has no fields to set"),
        (
            "sources.1.folder=x",
            "--set 'sources.1.folder=x': sources is a list of 1 item, counted from 0; it has no '1'",
        ),
        ("sources.-1.folder=x", "sources is a list of 1 item, counted from 0; it has no '-1'"),
        ("sources.first.folder=x", "sources is a list of 1 item, counted from 0; it has no 'first'"),
        ("sources.2={kind: rides}", "sources is a list of 1 item, counted from 0; it has no '2'"),
        (
            "sources.0.folder=x",
            r"card\.yaml: sources\.0\.folder: unknown field \(value 'x'\); fields here: kind, path",
        ),
        (
            "low={height: 8, height: 9}",
            "--set .*: the value is not YAML: height is given twice, in line 1 and line 1",
        ),
        ("frame_rate=[1", r"--set 'frame_rate=\[1': the value is not YAML"),
        ("low.hieght=3", r"low\.hieght: unknown field \(value 3\); did you mean height\?"),
        ("low.height=3", r"low\.height: .*greater than or equal to 8 \(got 3\)"),
    ],
)
def test_a_bad_set_option_is_explained(problem, override, expected):
    assert re.search(expected, problem("", override))


def test_a_set_option_reaches_into_lists(load):
    lists = "  - {kind: clip_list, list: biking.json}\n  - {kind: urls, items: [{url: 'http://x/a'}, {url: 'http://x/b'}]}\n"
    card = load(
        lists, "sources.0.path=films", "sources.1.folder=my copies", "sources.2.items.1.url=https://y/c",
        "sources.1.expect.videos=28",
    )  # fmt: skip

    assert card.sources[0].path == "films"
    assert (card.sources[1].folder, card.sources[1].expect.videos) == ("my copies", 28)
    assert [item.url for item in card.sources[2].items] == ["http://x/a", "https://y/c"]


def test_a_set_option_replaces_a_whole_source(load):
    assert load("", "sources.0={kind: rides, seed: 4}").sources[0].seed == 4


def test_a_set_option_fills_a_part_that_is_empty_in_the_card(problem, load):
    assert "card.yaml: low: " in problem("low:\n")
    assert load("low:\n", "low.min_frames=9").low.min_frames == 9


def test_a_set_option_changes_one_place_also_where_an_alias_repeats_it(load):
    card = load("  - &two {kind: files, path: x}\n  - *two\n", "sources.1.path=y")

    assert [source.path for source in card.sources] == ["videos", "y", "x"]


# ---- variants

WIDE = "variants: {wide: {low: {height: 36}, high: {height: 144}, title: Wide}, plain: {}}\n"


def test_a_variant_is_laid_over_the_card_field_by_field(load):
    card = load("title: Rides\nlow: {width: 64, min_frames: 16}\n" + WIDE, variant="wide")

    assert (card.low.height, card.low.width, card.low.min_frames) == (36, 64, 16)
    assert (card.high.height, card.high.width) == (144, 256)
    assert card.title == "Wide"


def test_a_card_without_its_variants_and_a_variant_without_fields_are_the_card(load):
    assert recipe(load(WIDE)) == recipe(load(WIDE, variant="plain")) == recipe(load())


def test_set_goes_over_the_variant(load):
    assert load(WIDE, "title=Mine", variant="wide").title == "Mine"


def test_a_variant_replaces_a_list_as_a_whole(load):
    card = load("variants: {rides: {sources: [{kind: rides}]}}\n", variant="rides")

    assert [source.kind for source in card.sources] == ["rides"]


def test_an_unknown_variant_is_answered_with_the_known_ones(problem):
    assert "card.yaml: the card has no variant 'wdie'; did you mean wide?" in problem(WIDE, variant="wdie")
    assert "card.yaml: the card has no variant 'x'; variants: wide, plain" in problem(WIDE, variant="x")
    assert "card.yaml: the card has no variant 'wide'; it has none" in problem("", variant="wide")


def test_a_variant_that_nobody_chose_must_be_a_good_card_too(problem):
    text = problem("variants: {tall: {low: {hieght: 128}}}\n")

    assert "card.yaml with variant tall: low.hieght: unknown field (value 128); did you mean height?" in text


def test_variants_are_checked_against_the_card_and_not_against_this_runs_settings(load):
    card = load(WIDE, "low.height=128", "low.width=128")

    assert card.low.height == 128
