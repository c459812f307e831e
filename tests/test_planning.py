"""What `lvg-data plan` says before anything is fetched."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from tests.builds import small_card
from tests.test_cli import succeed

HOST = "https://videos.example.org"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def planned(folder: Path, sources: list[dict[str, Any]], **changes: Any) -> tuple[dict[str, Any], str]:
    """The plan of a card with these sources, as JSON and in words."""
    card = small_card(**changes) | {"sources": sources}
    (folder / "card.yaml").write_text(yaml.safe_dump(card))
    found = json.loads(succeed("plan", folder / "card.yaml", "--json").output)
    return found, succeed("plan", folder / "card.yaml").output


def write_frames(folder: Path, count: int) -> None:
    folder.mkdir(parents=True)
    for number in range(count):
        Image.new("RGB", (64, 36)).save(folder / f"{number}.jpg")


def folders(path: str, frame_rate: str) -> dict[str, Any]:
    return {"kind": "frame_folders", "path": path, "frame_rate": frame_rate}


@pytest.mark.parametrize(("second", "warns"), [("30", True), ("27", False)])
def test_frame_rates_that_differ_by_more_than_a_tenth_are_warned_of(tmp_path, second, warns):
    write_frames(tmp_path / "a" / "x", 2)
    write_frames(tmp_path / "b" / "y", 2)

    found, text = planned(tmp_path, [folders("a", "25"), folders("b", second)])

    assert (found["frame_rate_warning"] is not None) == warns
    assert ("videos run at 25 to 30 frames/s" in text and "set frame_rate in the card" in text) == warns


def test_resampled_videos_are_not_warned_of(tmp_path):
    write_frames(tmp_path / "a" / "x", 2)
    write_frames(tmp_path / "b" / "y", 2)

    found, _ = planned(tmp_path, [folders("a", "25"), folders("b", "60")], frame_rate="25")

    assert found["frame_rate_warning"] is None


def test_downloads_and_their_pace_are_told_by_site(tmp_path):
    pages = [{"url": f"{HOST}/watch?v={n}", "id": f"p{n}"} for n in range(30)]
    files = [{"url": f"{HOST}/{n}.mp4"} for n in range(5)]

    found, text = planned(tmp_path, [{"kind": "urls", "items": pages + files}])

    assert (found["sources"]["to_fetch"], found["sources"]["of_unknown_length"]) == (35, 35)
    assert found["estimate"]["download_hours_at_least"] == 0.1
    assert "downloads 35, at least 0.10 h at 300 an hour from one site" in text


def test_intervals_of_videos_that_are_not_here_give_hours_and_bytes(tmp_path):
    items = [{"url": f"{HOST}/watch?v=1", "intervals": [[0, 1800], ["1:00:00", "1:30:00"]]}]

    found, _ = planned(tmp_path, [{"kind": "urls", "items": items}], frame_rate="10")

    assert found["estimate"]["hours"] == 1.0
    assert found["estimate"]["frames"] == 36_000
    assert found["estimate"]["low_bytes"] == 36_000 * 64 * 64 * 3


def test_folders_of_frames_are_counted(tmp_path):
    for number in range(5):
        write_frames(tmp_path / "a" / f"video{number}" / "clip", 10)

    found, _ = planned(tmp_path, [folders("a", "25")])

    assert (found["sources"]["rows"], found["sources"]["here"]) == (5, 5)
    assert found["estimate"]["frames"] == 50
    assert found["estimate"]["hours"] == round(2 / 3600, 4)
