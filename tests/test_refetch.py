"""Footage that changed, went away or was damaged after it was first had: nothing of a dataset is lost by that."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from lvg_data import steps
from lvg_data.config import Card
from lvg_data.dataset import request_hash
from lvg_data.errors import Rejected
from lvg_data.journal import new_run
from lvg_data.records import Address, Source
from lvg_data.store import Store
from pipelines import cli
from tests.builds import small_card
from tests.servers import Server, file, http_server, status
from tests.videos import RECIPES, write_video


@pytest.fixture(scope="module")
def film(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("films") / "film.mp4"
    write_video(path, RECIPES["h264_bframes"], 40)
    return path


@pytest.fixture
def server(film: Path) -> Iterator[Server]:
    with http_server() as server:
        server.answers["/film.mp4"] = file(film.read_bytes())
        yield server


def run(*arguments: object) -> Result:
    result = CliRunner().invoke(cli.main, [str(a) for a in arguments])
    assert result.exit_code == 0, (result.output, result.exception)
    return result


def write_card(path: Path, **source: object) -> Path:
    path.write_text(yaml.safe_dump(small_card(sources=[source])))
    return path


def test_a_repair_asks_for_nothing_that_the_dataset_does_not_need(server, tmp_path):
    card, out = tmp_path / "card.yaml", tmp_path / "out"
    write_card(card, kind="urls", items=[{"url": server.url("/film.mp4")}])
    run("build", card, "--out", out, "--allow-private-addresses")
    whole = (out / "dataset.json").read_bytes()
    (download,) = out.glob(".work/fetch_http/*/video")
    download.write_bytes(download.read_bytes()[::-1])
    server.answers["/film.mp4"] = status(404)

    for flipped in (download, next(out.glob("high-*/*.tar"))):  # the second time the dataset itself, too
        if flipped != download:
            flipped.write_bytes(flipped.read_bytes()[::-1])
        said = run("verify", out, "--repair", "--allow-private-addresses")
        assert "damaged: " in said.stderr
        assert said.stdout == "verified: the dataset is whole\n"
        assert (out / "dataset.json").read_bytes() == whole
    assert len(server.requests) == 1


def test_a_download_that_is_away_for_a_while_is_no_fault_of_its_content(server, film, tmp_path):
    card = Card.model_validate(small_card())
    shop = steps.Workshop(
        card, Store(str(tmp_path / "store")), new_run(str(tmp_path)), private_addresses=True
    )
    source = Source("v", "film", Address(server.url("/film.mp4"), None), "x", "x")
    stop = threading.Event()
    fetched = steps.fetch_source(source, shop, stop)
    shop.store.evict(str(Path(fetched.address).parent))
    server.answers["/film.mp4"] = status(404)
    with pytest.raises(Rejected) as caught:
        steps.probe_video(fetched, shop, stop)
    assert caught.value.cause == "not_found"

    server.answers["/film.mp4"] = file(film.read_bytes())
    assert steps.probe_video(fetched, shop, stop).video.num_frames == 40
    shop.store.evict(str(Path(fetched.address).parent))
    local = steps.fetch_source(replace(source, media=Address(str(film), None)), shop, stop)
    assert local.sha256 == fetched.sha256
    assert steps.probe_video(local, shop, stop).video.num_frames == 40


def test_a_file_that_was_replaced_is_noticed_by_its_file_address_too(film, tmp_path):
    path = tmp_path / "ride.mp4"
    path.write_bytes(film.read_bytes())
    card = Card.model_validate(small_card())
    sources = [Source("v", "film", Address(url, None), "x", "x") for url in (str(path), path.as_uri())]
    before = [request_hash(card, [source]) for source in sources]
    assert [request_hash(card, [source]) for source in sources] == before

    path.write_bytes(film.read_bytes()[:-1])
    assert not {request_hash(card, [source]) for source in sources} & set(before)
