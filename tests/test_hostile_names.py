"""Names from strangers: as ids, files, folders, columns and titles. None becomes a path; all are shown safely."""

from __future__ import annotations

import json
import os
import re
import unicodedata
from pathlib import Path
from typing import Any

import av
import pytest
import yaml

from lvg_data.config import Card, load_card
from lvg_data.errors import CardError, DatasetError, Rejected
from lvg_data.records import Source
from lvg_data.sources import list_sources
from tests import hostile
from tests.builds import Dataset, build_dataset, make_once, small_card
from tests.hostile import RECIPES, plain

#: name -> whether it can be an id: what cannot stand on a line of a table cannot
NAMES: dict[str, tuple[str, bool]] = {
    "leads_out": ("../../../evil", True),
    "dots": ("..", True),
    "absolute": ("/evil", True),
    "home": ("~root/evil", True),
    "dash": ("-rf", True),
    "option": ("--out=/evil", True),
    "device": ("CON", True),
    "device_with_suffix": ("nul.txt", True),
    "backslashes": ("..\\..\\evil", True),
    "drive": ("C:evil", True),
    "percent": ("%2e%2e%2fevil", True),
    "format": ("{id} %s $HOME `id`", True),
    "quotes": ('\'; rm -rf "x" #', True),
    "direction_mark": ("evil\u202e4pm.exe", True),
    "no_width": ("e\u200bvil", True),
    "composed": ("caf\u00e9", True),
    "decomposed": ("cafe\u0301", True),
    "upper": ("EVIL", True),
    "lower": ("evil", True),
    "dotted_key": ("a.b.c.jpg", True),
    "200_characters": ("a" * 200, True),
    "201_characters": ("a" * 201, False),
    "4000_characters": ("a" * 4000, False),
    "nul": ("ev\0il", False),
    "newline": ("ev\nil", False),
    "carriage_return": ("evil\rgood", False),
    "line_separator": ("ev\u2028il", False),
    "escape": ("\x1b[2J\x1b]0;evil\x07", False),
    "c1_escape": ("\x9b2J", False),
    "bytes": ("ev\udcffil", False),
    "space_around": (" evil ", False),
    "duplicate_mark": ("a\x1fduplicate 2", False),
}
GOOD = [text for text, good in NAMES.values() if good]


def sources_of(source: dict[str, Any], folder: Path) -> list[Source]:
    card = Card.model_validate(hostile.CARD | {"sources": [source]})
    return list_sources(card, hostile.place_of(card, folder, folder / "store"))


def assert_shown_safely(err: BaseException) -> None:
    text = str(err)
    assert text
    assert len(text) < 2000
    assert all(c.isprintable() or c == "\n" for c in text), ascii(text)


# ---- ids ------------------------------------------------------------------------------------------


def written_list(kind: str, folder: Path, name: str) -> dict[str, Any]:
    """A list of two videos, of which one has the name; the card's source for it."""
    hosted = {"url": "https://127.0.0.1/{id}?key=s3cret"}
    if kind == "clip_list":
        (folder / "list.json").write_text(json.dumps({name: ["0:01 0:02"], "good": ["0:01 0:02"]}))
        return {"kind": "clip_list", "list": "list.json"} | hosted
    if kind == "jsonl":
        rows = [{"url": f"https://127.0.0.1/{n}.mp4", "id": i} for n, i in enumerate((name, "good"))]
        (folder / "list.jsonl").write_text("\n".join(map(json.dumps, rows)))
        return {"kind": "table", "list": "list.jsonl"}
    item = {"url": "https://127.0.0.1/1.mp4", "id": name}
    return {"kind": "urls", "items": [item, {"url": "https://127.0.0.1/2.mp4", "id": "good"}]}


@pytest.mark.parametrize("kind", ["clip_list", "jsonl", "urls"])
@pytest.mark.parametrize("name", NAMES)
def test_an_id_is_kept_as_it_is_or_refused_and_shown(name, kind, tmp_path):
    text, good = NAMES[name]
    try:
        found = sources_of(written_list(kind, tmp_path, text), tmp_path)
    except (CardError, ValueError) as err:  # pydantic's is a ValueError, which `load_card` puts into words
        if isinstance(err, CardError):
            assert_shown_safely(err)
        assert not good
        return
    assert {source.video_id for source in found} == {text, "good"}
    assert good or (name, kind) == (
        "space_around",
        "urls",
    )  # written in the card itself, it is taken as it is
    assert all("s3cret" not in source.origin for source in found)


def test_ids_that_differ_only_in_form_or_case_are_different_videos(tmp_path):
    names = ["caf\u00e9", "cafe\u0301", "CAFE\u0301", "\ufb01lm", "film"]
    assert len({unicodedata.normalize("NFKC", name).lower() for name in names}) == 2
    rows = [{"url": f"https://127.0.0.1/{n}.mp4", "id": name} for n, name in enumerate(names)]
    (tmp_path / "list.jsonl").write_text("\n".join(map(json.dumps, rows)))

    found = sources_of({"kind": "table", "list": "list.jsonl"}, tmp_path)

    assert [source.video_id for source in found] == names


# ---- files and folders ----------------------------------------------------------------------------

#: names that a folder may hold -> whether a build can use them
FILES: dict[str, tuple[bytes, bool]] = {
    "dash": (b"-rf", True),
    "option": (b"--out=evil", True),
    "home": (b"~root", True),
    "device": (b"CON", True),
    "backslashes": (b"a\\..\\..\\evil", True),
    "glob": (b"*?[a]", True),
    "quotes": (b'\'; rm "x" #', True),
    "direction_mark": ("evil\u202e4pm".encode(), True),
    "250_bytes": (b"a" * 250, True),
    "protocol": (b"http:__evil", True),
    "pattern": (b"frame%03d", True),
    "space_around": (b" evil ", True),
    "newline": (b"ev\nil", False),
    "escape": (b"\x1b[2J", False),
    "bytes": (b"ev\xffil", False),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_any_name_is_read_or_refused_and_shown(name, tmp_path):
    raw, good = FILES[name]
    folder = tmp_path / "in"
    folder.mkdir()
    plain(folder / "x.mp4").rename(Path(os.fsdecode(os.fsencode(folder) + b"/" + raw + b".mp4")))
    work = tmp_path / "work"
    try:
        found = hostile.outcome_of_sources({"kind": "files", "path": "."}, folder, work)
    except CardError as err:
        assert_shown_safely(err)
        assert not good
        return
    assert found == hostile.Outcome(None, tuple(range(hostile.NUM_FRAMES)))
    assert good
    assert not [path for path in work.rglob("*") if raw in os.fsencode(path)]


@pytest.mark.parametrize("name", FILES)
def test_a_folder_of_frames_of_any_name_is_read_or_refused_and_shown(name, tmp_path):
    raw, good = FILES[name]
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/in/" + raw))
    folder.mkdir(parents=True)
    for number in range(5):
        frame = Path(os.fsdecode(os.fsencode(folder) + b"/" + raw[:200] + b"_%03d.jpg" % number))
        frame.write_bytes(hostile.picture_bytes("JPEG", number))
    work = tmp_path / "work"
    try:
        source = {"kind": "frame_folders", "path": "in", "frame_rate": 25}
        found = hostile.outcome_of_sources(source, tmp_path, work)
    except CardError as err:
        assert_shown_safely(err)
        assert not good
        return
    assert found == hostile.Outcome(None, tuple(range(5)))
    assert good
    assert not [path for path in work.rglob("*") if raw in os.fsencode(path)]


def test_files_whose_names_differ_only_in_form_or_case_are_different_videos(tmp_path):
    for number, name in enumerate(("caf\u00e9.mp4", "cafe\u0301.mp4", "A.mp4", "a.mp4")):
        (tmp_path / name).write_bytes(bytes([number]))
    found = sources_of({"kind": "files", "path": "*.mp4"}, tmp_path)
    assert len({source.video_id for source in found}) == 4


@pytest.mark.parametrize(
    "name", ["leads_out", "absolute", "4000_characters", "nul", "newline", "home", "bytes"]
)
def test_a_path_in_a_table_is_read_where_it_says_or_refused_by_name(name, tmp_path):
    text = NAMES[name][0]
    (tmp_path / "list.jsonl").write_text(json.dumps({"path": text + ".mp4"}))
    try:
        found = hostile.outcome_of_sources(
            {"kind": "table", "list": "list.jsonl"}, tmp_path, tmp_path / "work"
        )
    except CardError as err:
        assert_shown_safely(err)
        return
    assert found == hostile.Outcome("not_found")


# ---- cards ----------------------------------------------------------------------------------------

PATH_FIELDS: list[dict[str, Any]] = [
    {"kind": "files", "path": "{}"},
    {"kind": "table", "list": "{}.csv"},
    {"kind": "clip_list", "list": "{}", "url": "https://127.0.0.1/{{id}}"},
    {"kind": "clip_list", "list": "ok.json", "folder": "{}", "url": "https://127.0.0.1/{{id}}"},
    {"kind": "trajectories", "list": "{}", "url": "https://127.0.0.1/{{id}}"},
    {"kind": "frame_folders", "path": "{}", "frame_rate": 25},
    {"kind": "longvideogan_zips", "path": "{}", "frame_rate": 25},
    {"kind": "package", "package": "numpy", "files": ["{}"]},
    {"kind": "package", "package": "{}", "files": ["a"]},
]


@pytest.mark.parametrize(
    "fields", PATH_FIELDS, ids=lambda fields: f"{fields['kind']}-{list(fields.values())[-1]}"
)
def test_a_path_in_a_card_that_is_not_there_is_refused_by_name(fields, tmp_path):
    (tmp_path / "ok.json").write_text(json.dumps({"a": ["0:01 0:02"]}))
    for text, _ in NAMES.values():
        source = json.loads(
            json.dumps(fields).replace("{}", json.dumps(text + "-none")[1:-1]).replace("{{id}}", "{id}")
        )
        (tmp_path / "card.yaml").write_text(
            yaml.safe_dump(hostile.CARD | {"sources": [source]}, allow_unicode=False)
        )
        with pytest.raises(CardError) as caught:
            card = load_card(tmp_path / "card.yaml")
            list_sources(card, hostile.place_of(card, tmp_path, tmp_path / "store"))
        assert all(c.isprintable() or c == "\n" for c in str(caught.value)), text


@pytest.mark.parametrize("name", [n for n in NAMES if n not in ("lower", "200_characters")])
def test_a_name_of_a_dataset_is_plain_or_refused_and_shown(name, tmp_path):
    source = [{"kind": "files", "path": "*"}]
    (tmp_path / "card.yaml").write_text(
        yaml.safe_dump(hostile.CARD | {"name": NAMES[name][0], "sources": source})
    )
    with pytest.raises(CardError) as caught:
        load_card(tmp_path / "card.yaml")
    assert all(c.isprintable() or c == "\n" for c in str(caught.value))


@pytest.mark.parametrize("make", [CardError, DatasetError, lambda text: Rejected("not_found", text)])
def test_no_error_prints_control_characters(make):
    err = make("\x1b[2J\x9b\u202e\u2028\udcff\0 caf\u00e9 \u65e5\u672c\nsecond line")
    assert str(err).endswith(r"\x1b[2J\x9b\u202e\u2028\udcff\x00 café 日本" + "\nsecond line")


# ---- a whole build --------------------------------------------------------------------------------


def make_named(folder: Path) -> None:
    """Videos of every id that is allowed, one with titles that would lead out, in a table of odd columns."""
    (folder / "in").mkdir()
    plain(folder / "plain.mp4", RECIPES["h264_no_bframes"])
    rows = []
    for number, name in enumerate(GOOD):
        path = folder / "in" / f"{number}.mp4"
        with av.open(str(folder / "plain.mp4")) as source, av.open(str(path), "w", format="mp4") as out:
            out.metadata["title"] = f"../../../evil{number}\n\x1b[2J"
            out.metadata["artist"] = out.metadata["comment"] = "/evil"
            stream = out.add_stream_from_template(source.streams.video[0])
            for packet in source.demux(source.streams.video[0]):
                if packet.size:
                    packet.stream = stream
                    out.mux(packet)
        rows.append({"path": path.name, "id": name, "../../evil": "../../evil", "title": name, "\x1b[2J": 1})
    (folder / "in" / "list.jsonl").write_text("\n".join(map(json.dumps, rows)))
    card = small_card(sources=[{"kind": "table", "list": "list.jsonl"}], **{
        name: hostile.CARD[name] for name in ("low", "high", "cuts", "trim")
    })  # fmt: skip
    (folder / "a" / "b" / "c").mkdir(parents=True)
    build_dataset(card, folder / "in", folder / "a" / "b" / "c" / "out")


@pytest.fixture(scope="module")
def named(tmp_path_factory) -> Path:
    return make_once(tmp_path_factory, "hostile-names", make_named)


def test_a_build_of_such_names_holds_them_all_as_they_are(named):
    dataset = Dataset(named / "a" / "b" / "c" / "out")
    assert {row["video_id"] for row in dataset.rows("videos")} == set(GOOD)
    assert {row["video_id"] for row in dataset.rows("clips")} == set(GOOD)
    keys = [part["key"] for part in dataset.rows("parts")]
    assert len({part["clip_id"] for part in dataset.rows("parts")}) == len(GOOD)
    assert all(re.fullmatch(r"[0-9a-f]{20}-\d{4}", key) for key in keys)


def test_such_names_become_no_path(named):
    out = named / "a" / "b" / "c" / "out"
    for path in out.rglob("*"):
        assert re.fullmatch(r"[A-Za-z0-9._-]+", path.name), path
        assert "evil" not in path.name
    assert sorted(path.name for path in named.iterdir()) == [".truth", "a", "in", "plain.mp4"]
    assert [p.name for p in (named / "a").iterdir()] == ["b"]
    assert [p.name for p in (named / "a" / "b").iterdir()] == ["c"]
    assert [p.name for p in (named / "a" / "b" / "c").iterdir()] == ["out"]
    assert len(list((named / "in").iterdir())) == len(GOOD) + 1
    assert not Path("/evil").exists()
