"""The first look at a dataset in a bucket: an answer, or words within seconds."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from click.testing import CliRunner

from lvg_data import reach
from lvg_data.errors import DatasetError
from lvg_data.reach import check_answers
from lvg_train.cli import main
from pipelines.cli import main as data_main
from tests.test_buckets import Bucket, bucket, gcs_server, s3_server  # noqa: F401 - fixtures


@pytest.fixture
def closed(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Where both kinds of buckets are looked for and nobody listens."""
    with socket.socket() as held:  # bound, not listening: connections are refused
        held.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{held.getsockname()[1]}"
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", address)
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
        for scheme in ("s3", "gs"):
            fsspec.get_filesystem_class(scheme).clear_instance_cache()
        yield address
    for scheme in ("s3", "gs"):
        fsspec.get_filesystem_class(scheme).clear_instance_cache()


@pytest.fixture
def no_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_") and name != "AWS_ENDPOINT_URL"]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "t0ken")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3cret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")


@pytest.mark.parametrize(
    ("url", "reason", "way_out"),
    [
        ("gs://rides/set", "no answer within 1 s", "`gcloud auth application-default login`"),
        ("s3://rides/set/", "(no answer within 1 s|EndpointConnectionError)", "AWS_ACCESS_KEY_ID"),
    ],
)
def test_a_place_that_does_not_answer_is_named_at_once(
    closed: str, credentials: None, url: str, reason: str, way_out: str
):
    started = time.monotonic()

    with pytest.raises(
        DatasetError, match=rf"^{url.rstrip('/')}/dataset.json cannot be read \({reason}"
    ) as err:
        check_answers(url, answer_s=1)

    assert time.monotonic() - started < 5
    assert "check the address and the network" in str(err.value) and way_out in str(err.value)


def test_missing_credentials_are_said(closed: str, no_credentials: None):
    with pytest.raises(
        DatasetError, match=r"without credentials, for there are none here \(NoCredentialsError"
    ):
        check_answers("s3://rides/set")


def test_gcsfs_does_not_wait_for_credentials_that_google_does_not_find(monkeypatch: pytest.MonkeyPatch):
    """gcsfs would ask a server that only machines of the cloud have, five times in 15 s."""
    import google.auth

    def default() -> None:
        raise google.auth.exceptions.DefaultCredentialsError("none")

    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    monkeypatch.setenv("NO_GCE_CHECK", "")
    monkeypatch.setattr(google.auth, "default", default)

    assert not reach._find_credentials("gs")
    assert os.environ["NO_GCE_CHECK"] == "true"


def test_an_answer_is_enough(bucket: Bucket):  # noqa: F811
    """Whether a dataset is there, and whole, is for who opens it to say."""
    check_answers(f"{bucket.url}/set")
    bucket.put("set/dataset.json")
    check_answers(f"{bucket.url}/set")


def test_folders_and_other_addresses_are_not_looked_at(tmp_path: Path):
    for dataset in (tmp_path / "gone", str(tmp_path), "http://127.0.0.1:9/set"):
        check_answers(dataset)


@pytest.mark.parametrize("command", ["lowres", "evaluate"])
def test_commands_of_the_trainer_look_first(
    closed: str, credentials: None, tmp_path: Path, command: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(check_answers, "__defaults__", (0.5,))
    run = str(tmp_path / "run")
    words = ["lowres", "--out", run] if command == "lowres" else ["evaluate", run]

    result = CliRunner().invoke(main, [*words, "--data", "gs://rides/set"])

    assert result.exit_code == 1
    assert "Error: gs://rides/set/dataset.json cannot be read (no answer within 0.5 s)" in result.output
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "words",
    [
        ("build", "CARD", "--out", "gs://rides/set"),
        ("build", "CARD", "--out", "OUT", "--store", "gs://rides/set"),
        ("retry", "gs://rides/set"),
        ("inspect", "gs://rides/set"),
        ("verify", "gs://rides/set"),
        ("clean", "gs://rides/set"),
        ("export-longvideogan", "gs://rides/set", "OUT"),
    ],
    ids=lambda words: " ".join(words[:1] + words[-2:-1]),
)
def test_commands_that_make_datasets_look_first(
    closed: str, credentials: None, tmp_path: Path, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(check_answers, "__defaults__", (0.5,))
    card = tmp_path / "card.yaml"
    card.write_text("name: t\nlicence: x\nattribution: x\nsources: [{kind: files, path: '*.mp4'}]\n")
    named = {"CARD": str(card), "OUT": str(tmp_path / "out")}
    started = time.monotonic()

    result = CliRunner().invoke(data_main, [named.get(word, word) for word in words])

    assert result.exit_code == 1
    assert "Error: gs://rides/set/dataset.json cannot be read (no answer within 0.5 s)" in result.output
    assert time.monotonic() - started < 10
