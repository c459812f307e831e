"""Preflight: what is missing is said in words, with what to install."""

from __future__ import annotations

import importlib.metadata

import fsspec
import pytest
import yt_dlp  # noqa: F401 - registers the runtimes
from yt_dlp.globals import supported_js_runtimes
from yt_dlp.utils._jsruntime import DenoJsRuntime, JsRuntimeInfo, NodeJsRuntime

from lvg_data import preflight
from lvg_data.records import Address, FrameFolder, Source

WATCH = "https://www.youtube.com/watch?v=aaaaaaaaaaa"


def source(url: str) -> Source:
    return Source("v", "the video", Address(url), "x", "x")


@pytest.fixture
def found(monkeypatch):
    """Sets which runtimes yt-dlp finds: name -> version."""

    def set_found(**versions: str) -> None:
        class Found(DenoJsRuntime):
            def _info(self):
                version = versions.get("deno")
                if version is None:
                    return None
                parts = tuple(map(int, version.split(".")))
                return JsRuntimeInfo("deno", "/bin/deno", version, parts, parts >= self.MIN_SUPPORTED_VERSION)

        class Missing(NodeJsRuntime):
            def _info(self):
                return None

        monkeypatch.setattr(supported_js_runtimes, "value", {"deno": Found, "node": Missing})

    return set_found


@pytest.fixture
def solver(monkeypatch):
    """Sets which version of yt-dlp-ejs is installed."""
    original = importlib.metadata.version

    def set_solver(version: str | None) -> None:
        def versions(package: str) -> str:
            if package != "yt-dlp-ejs":
                return original(package)
            if version is None:
                raise importlib.metadata.PackageNotFoundError(package)
            return version

        monkeypatch.setattr(preflight.importlib.metadata, "version", versions)

    return set_solver


def wanted() -> str:
    """Version of yt-dlp-ejs that the installed yt-dlp asks for."""
    return preflight._wanted_solver()


def test_all_is_well_with_a_runtime_and_its_solver(found, solver):
    found(deno="2.9.8")
    solver(wanted())

    assert preflight.check([source(WATCH)]) == []
    assert preflight.problems() == []


def test_any_patch_of_the_solver_will_do(found, solver):
    found(deno="2.9.8")
    solver(".".join([*wanted().split(".")[:2], "99"]))

    assert preflight.problems() == []


def test_a_missing_runtime_is_named_with_what_to_install(found, solver):
    found()
    solver(wanted())

    assert preflight.check([source(WATCH)]) == [
        "YouTube needs a JavaScript runtime, and yt-dlp found none that it can use "
        "(deno: not found (at least 2.3.0); node: not found (at least 22.0.0)): pip install 'lvg[youtube]'"
    ]


def test_a_runtime_that_is_too_old_does_not_count(found, solver):
    found(deno="1.9.0")
    solver(wanted())

    (problem,) = preflight.problems()
    assert "deno: 1.9.0, too old: at least 2.3.0" in problem


@pytest.mark.parametrize("version", [None, "0.0.1"])
def test_a_solver_that_is_missing_or_of_another_version_is_named(version, found, solver):
    found(deno="2.9.8")
    solver(version)

    (problem,) = preflight.problems()
    assert f"yt-dlp-ejs {wanted()}" in problem
    assert "pip install 'lvg[youtube]'" in problem


@pytest.mark.parametrize(
    "url", [WATCH, "https://youtu.be/aaaaaaaaaaa", "https://m.youtube.com/watch?v=aaaaaaaaaaa"]
)
def test_youtube_is_known_by_all_its_names(url, found, solver):
    found()
    solver(None)

    assert len(preflight.check([source(url)])) == 2


@pytest.mark.parametrize(
    "url",
    ["/videos/a.mp4", "https://example.org/a.mp4", "https://notyoutube.com.example.org/x", "memory://a.mp4"],
)
def test_what_needs_no_runtime_is_ready_without_one(url, found, solver):
    found()
    solver(None)

    assert preflight.check([source(url)]) == []


def test_frames_on_disk_need_nothing(found, solver):
    found()

    assert preflight.check([Source("v", "x", FrameFolder("/frames", "30"), "x", "x")]) == []


def test_a_store_without_its_client_is_named(monkeypatch):
    def missing(scheme: str) -> None:
        raise ImportError(f"Install a client for {scheme}")

    monkeypatch.setattr(fsspec, "get_filesystem_class", missing)

    assert preflight.check([source("s3://b/a.mp4"), source("s3://b/b.mp4"), source("sftp://b/c.mp4")]) == [
        "s3:// addresses need a client that is not installed: pip install 'lvg[aws]'",
        "sftp:// addresses need a client that is not installed: Install a client for sftp",
    ]


def test_a_store_that_nobody_knows_is_named():
    assert preflight.check([source("nonsense://b/a.mp4")]) == [
        "nonsense:// addresses: fsspec knows no such store"
    ]


def test_the_report_says_what_was_found(found, solver):
    found(deno="2.9.8")
    solver(None)

    assert preflight.report() == [
        f"yt-dlp: {importlib.metadata.version('yt-dlp')}",
        f"yt-dlp-ejs: not found (this yt-dlp needs {wanted()})",
        "deno: 2.9.8",
        "node: not found (at least 22.0.0)",
    ]


def test_the_runtimes_are_those_of_the_installed_yt_dlp():
    names = [line.split(":")[0] for line in preflight.report()]

    assert names == ["yt-dlp", "yt-dlp-ejs", *supported_js_runtimes.value]
    assert {"deno", "node"} <= set(names)
