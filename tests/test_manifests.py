"""The bundled cards: their facts, and a README that describes the schema as it is."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import pytest
import yaml

from lvg_data import card_docs
from lvg_data.config import Card, LowConfig, bundled_cards, find_card, load_card
from lvg_data.cuts import DEFAULT_THRESHOLDS

README = card_docs.readme_path().read_text(encoding="utf-8")
LISTS = (
    "https://raw.githubusercontent.com/NVlabs/long-video-gan/"
    "f190c127525e665753c053e56e3e1d9091458bc8/dataset_tools/youtube_configs"
)


def bundled(name: str, variant: str | None = None, *overrides: str) -> Card:
    return load_card(find_card(name), overrides, variant)


# ---- facts


def test_the_bundled_cards_are_these():
    assert list(bundled_cards()) == ["acid", "demo", "horseback_riding", "mountain_biking", "sky_timelapse"]


@pytest.mark.parametrize(
    ("name", "file", "sha256", "videos", "intervals"),
    [
        (
            "mountain_biking", "biking.json",
            "8f61132742272bbf9a3058d97f1456b5190dd896b51e2e66a8c63cf85b8825d0", 28, 1202,
        ),
        (
            "horseback_riding", "horseback.json",
            "a567cb35afb749fee77abeb6893094cb495a934ef29c3f9f8e27b3a1fcc45596", 44, 66,
        ),
    ],
)  # fmt: skip
def test_a_clip_list_is_pinned_by_commit_and_hash(name, file, sha256, videos, intervals):
    (source,) = bundled(name).sources

    assert (source.kind, source.list, source.sha256) == ("clip_list", f"{LISTS}/{file}", sha256)
    assert (source.expect.videos, source.expect.intervals) == (videos, intervals)
    assert (source.url, source.folder) == ("https://www.youtube.com/watch?v={id}", None)


@pytest.mark.parametrize(
    ("name", "licence", "named"),
    [
        ("mountain_biking", "CC BY 4.0", ["Brian Kennedy", "arXiv 2206.03429"]),
        (
            "horseback_riding",
            "CC BY-NC-SA 4.0; no redistribution without consent of Elisa Wallace Eventing",
            ["Elisa Wallace Eventing", "arXiv 2206.03429"],
        ),
        ("acid", "none stated", ["Liu et al. 2021"]),
        ("sky_timelapse", "none stated", ["Xiong et al. 2018", "arXiv 1709.07592"]),
    ],
)
def test_licence_and_attribution_are_those_of_the_authors(name, licence, named):
    card = bundled(name)

    assert card.licence == licence
    assert [text for text in named if text not in card.attribution] == []


def test_acid_is_a_partial_set_without_a_published_hash():
    card = bundled("acid")
    (source,) = card.sources

    assert source.kind == "trajectories"
    assert source.list == (
        "https://storage.googleapis.com/gresearch/aerial-coastline-imagery-dataset/acid_v1_release.tar.gz"
    )
    assert (source.sha256, source.expect.videos, source.expect.intervals) == (None, None, None)
    assert card.max_reject_share == 0.95


def test_sky_timelapse_keeps_its_folders_and_its_split():
    card = bundled("sky_timelapse")
    (source,) = card.sources

    assert (source.kind, source.path, source.frame_rate) == ("frame_folders", "sky_timelapse", 25)
    assert source.splits == {"sky_train": "train", "sky_test": "test"}
    assert source.expect.videos == 2392 + 225
    assert (card.low.min_frames, card.high.min_frames) == (32, 12)
    assert (card.cuts.detector, card.trim.letterbox) == ("none", "keep")
    shares = {name: value for name, value in card.trim.model_dump().items() if name.endswith("_share")}
    assert len(shares) == 4
    assert set(shares.values()) == {1}
    assert bundled("sky_timelapse", "squash").crop == "squash"


@pytest.mark.parametrize("name", bundled_cards())
def test_sizes_are_square_and_those_of_the_paper_a_variant(name):
    square, wide = bundled(name), bundled(name, "wide")

    assert [(r.height, r.width) for r in (square.low, square.high)] == [(64, 64), (256, 256)]
    assert [(r.height, r.width) for r in (wide.low, wide.high)] == [(36, 64), (144, 256)]
    assert wide.low.min_frames == square.low.min_frames
    assert wide.sources == square.sources


@pytest.mark.parametrize("name", bundled_cards())
def test_a_card_says_what_it_does_and_is_named_as_its_file(name):
    text = find_card(name).read_text(encoding="utf-8")
    fields = yaml.safe_load(text)

    assert text.startswith("# ")
    assert fields["name"] == name
    assert {"title", "licence", "attribution", "crop", "low", "high", "cuts"} <= set(fields)
    assert f"lvg-data build {name} --out" in text
    assert bundled(name).frame_rate == "native"
    assert bundled(name).crop == "center_crop"


@pytest.mark.parametrize("name", bundled_cards())
def test_what_a_cards_comments_tell_to_set_can_be_set(name):
    text = find_card(name).read_text(encoding="utf-8")
    examples = re.findall(r"--set (\S+)", text)

    for example in examples:
        bundled(name, None, example.replace("HEX", "a" * 64).replace("ADDRESS", "https://example.org/list"))
    assert examples or name == "demo"


# ---- the README


def test_the_readme_describes_every_field_as_the_schema_has_it():
    assert card_docs.with_fields(README) == README, "run python -m lvg_data.card_docs"


def test_every_field_of_every_model_has_a_meaning():
    silent = [
        f"{model.__name__}.{name}"
        for model in card_docs.models_by_heading().values()
        for name in model.model_fields
        if name != "kind" and not card_docs.description(model, name)
    ]

    assert silent == []
    assert [m.__name__ for m in card_docs.models_by_heading().values() if not m.__doc__] == []


@pytest.mark.parametrize(
    "row",
    [
        "| `licence` | text | required | Under which the videos may be used; it goes into every sample. |",
        "| `crop` | one of `center_crop`, `squash` | `center_crop` | The largest ",
        "| `frame_rate` | `native`, or frames per second: 30, 29.97, 30000/1001 | `native` | ",
        "| `low` | [low](#low) | its defaults | ",
        "| `split` | mapping of name of a split to 0 to 1 | `{}` | ",
        "| `intervals` | list of [intervals](#intervals), or `null` | `null` | ",
        "| `start` | seconds, m:ss or h:mm:ss.s | required | ",
        "| `jpeg_quality` | whole number, 1 to 100 | `100` | ",
        "| `threshold` | number, or `null` | `null` | ",
        "| `end_inclusive` | true or false | `false` | ",
        "| `tolerance_s` | number, above 0 to 1 | `0.02` | ",
        "| `target_bytes` | whole number, 65536 to 1099511627776 | `268435456` (256 MiB) | ",
        "| `frame_rate` | frames per second: 25, 29.97, 30000/1001 | `30000/1001` | ",
        "| `sha256` | 64 hex digits, or `null` | `null` | ",
    ],
)
def test_a_row_says_type_default_and_meaning_in_plain_words(row):
    assert any(line.startswith(row) for line in README.splitlines())


def test_links_between_the_tables_lead_to_headings():
    headings = set(re.findall(r"^### `(\w+)`$", README, re.MULTILINE))

    assert set(re.findall(r"\]\(#(\w+)\)", README)) <= headings
    assert {"low", "high", "items", "expect", "limits"} <= headings


def test_a_changed_default_is_written_only_between_the_markers(monkeypatch):
    monkeypatch.setattr(LowConfig.model_fields["min_frames"], "default", 77)

    changed = card_docs.with_fields(README)

    assert [line for line in changed.splitlines() if line not in README.splitlines()] == [
        "| `min_frames` | whole number, 1 or more | `77` | Shorter clips are left out of this resolution; "
        "left out of both, they are rejected. |"
    ]


def test_a_readme_without_the_markers_is_not_touched():
    for text in ("", card_docs.START, f"{card_docs.STOP}\n{card_docs.START}", README + card_docs.START):
        with pytest.raises(ValueError, match=r"must hold <!-- fields.* once each"):
            card_docs.with_fields(text)


def test_the_default_thresholds_are_told():
    told = card_docs.description(Card.model_fields["cuts"].annotation, "threshold")

    assert told.endswith("null is 3 (adaptive), 27 (content), 0.4 (hash), 0.5 (histogram, transnetv2).")
    assert DEFAULT_THRESHOLDS == {
        "adaptive": 3.0, "content": 27.0, "hash": 0.4, "histogram": 0.5, "transnetv2": 0.5,
    }  # fmt: skip


def examples() -> list[str]:
    return [textwrap.dedent(text) for text in re.findall(r"(?ms)```yaml\n(.*?)^ *```", README)]


@pytest.mark.parametrize("example", examples())
def test_every_example_of_the_readme_is_a_good_card(tmp_path: Path, example):
    path = tmp_path / "card.yaml"
    whole = example.startswith("name:")
    path.write_text(example if whole else f"name: rides\nlicence: MIT\nattribution: me\n{example}")

    assert load_card(path).sources


def test_the_examples_show_every_kind_of_source():
    shown = set(re.findall(r"kind: (\w+)", "".join(examples())))

    assert shown == {
        "files", "urls", "table", "clip_list", "trajectories", "frame_folders", "longvideogan_zips",
        "package", "rides",
    }  # fmt: skip


def test_the_readme_lists_every_bundled_card():
    assert sorted(re.findall(r"^\| \[`(\w+)`\]\(\1\.yaml\)", README, re.MULTILINE)) == list(bundled_cards())
