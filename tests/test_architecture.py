"""Import directions, and the tables that have to agree with each other."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from lvg_data.config import Card, FilesSource
from lvg_data.dataset_readme import METADATA_TYPES
from lvg_data.errors import CAUSES
from lvg_data.pack import plan_parts
from lvg_data.records import RenderedVideo
from lvg_data.shard import part_metadata
from lvg_data.timeline import native_grid
from tests.test_pack import clip, probed, video

ROOT = Path(__file__).parent.parent
FORBIDDEN = {
    "lvg_data": {"torch", "apache_beam", "webdataset", "pipelines", "lvg_train"},
    "lvg_train": {"apache_beam", "pipelines"},
    "pipelines": {"torch", "webdataset", "lvg_train"},
}


def modules_of(package: str) -> list[str]:
    paths = sorted((ROOT / package).rglob("*.py"))
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in paths]
    return [name.removesuffix(".__init__") for name in names]


def imports_in(path: Path) -> Iterator[str]:
    """Top-level package of every import in a file, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            yield (node.module or "").split(".")[0]


@pytest.mark.parametrize("package", sorted(FORBIDDEN))
def test_a_fresh_process_loads_only_what_its_package_may(package):
    code = (
        "import importlib, json, sys\n"
        f"for name in {modules_of(package)!r}: importlib.import_module(name)\n"
        "print(json.dumps(sorted({name.split('.')[0] for name in sys.modules})))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )

    loaded = set(json.loads(answer.stdout))
    assert package in loaded
    assert not loaded & FORBIDDEN[package]


@pytest.mark.parametrize("package", sorted(FORBIDDEN))
def test_no_file_of_a_package_names_what_it_may_not_import(package):
    found = {
        f"{path.relative_to(ROOT)} imports {name}"
        for path in (ROOT / package).rglob("*.py")
        for name in imports_in(path)
        if name in FORBIDDEN[package]
    }

    assert not found


def test_importing_a_package_says_nothing_and_loads_no_decoder():
    heavy = {"av", "cv2", "numpy", "torch"}
    code = f"import lvg_data, pipelines, lvg_train, sys; print({heavy} & set(sys.modules))"
    answer = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )

    assert (answer.stdout, answer.stderr) == ("set()\n", "")


def test_the_trainer_needs_nothing_that_builds_datasets_or_draws():
    """It runs on machines that have PyTorch and little else: each of these is loaded where it is used."""
    missing = {"av", "apache_beam", "cv2", "ffmpeg", "imageio_ffmpeg", "llvmlite", "matplotlib", "numba",
               "scenedetect", "simplejpeg", "tensorboard", "urllib3", "webdataset", "yt_dlp"}  # fmt: skip
    code = (
        "import importlib, sys\n"
        f"sys.modules.update(dict.fromkeys({sorted(missing)!r}))\n"
        f"for name in {modules_of('lvg_train')!r}: importlib.import_module(name)"
    )
    answer = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)

    assert (answer.returncode, answer.stderr) == (0, "")


@pytest.mark.parametrize("folder", ["infra", "manifests"])
def test_folders_of_data_import_nothing(folder):
    assert {p.name: list(imports_in(p)) for p in (ROOT / folder).rglob("*.py") if list(imports_in(p))} == {}


def test_only_one_file_uses_each_heavy_library():
    """A decoder, a tar and a table format each have one owner; the demo writes videos and is no part of a build."""
    owners = {"av": {"video.py", "demo.py"}, "cv2": {"cuts.py"}, "llvmlite": {"kernels.py"}, "numba": {"kernels.py"},
              "tarfile": {"shard.py", "trajectories.py", "verify.py"},
              "pyarrow": {"schema.py"}, "scenedetect": {"cuts.py"}, "urllib3": {"http.py", "peers.py"},
              "yt_dlp": {"ytdlp.py", "preflight.py"},
              "zipfile": {"export.py", "prepared.py"}}  # fmt: skip
    for library, files in owners.items():
        users = {p.name for p in (ROOT / "lvg_data").rglob("*.py") if library in set(imports_in(p))}
        assert users <= files, library


# ---- tables that agree


def some_metadata(role: str) -> dict[str, object]:
    row = video("v", "train")
    card = Card(name="t", licence="x", attribution="y", sources=(FilesSource(kind="files", path="x"),))
    grid = native_grid(np.arange(400, dtype=np.int64), Fraction(1, 30))
    part = plan_parts(clip(row, 100, 200), card.low)[0]
    return part_metadata(role, part, RenderedVideo(probed(row), ()), grid, card)


@pytest.mark.parametrize("role", ["low", "high"])
def test_the_metadata_of_a_part_has_the_keys_and_types_that_the_readme_promises(role):
    assert {name: type(value) for name, value in some_metadata(role).items()} == METADATA_TYPES
    assert all(type(edge) is int for edge in some_metadata(role)["crop"])


def test_metadata_says_where_the_part_lies_in_the_video():
    found = some_metadata("low")

    assert (found["clip_start_frame"], found["start_frame"], found["stop_frame"]) == (100, 0, 200)
    assert found["start_s"] == pytest.approx(100 / 30)
    assert found["stop_s"] == pytest.approx(299 / 30)
    assert found["crop"] == [0, 0, 64, 64]


def rejected_causes() -> Iterator[tuple[str, str]]:
    """(place, cause) of every `Rejected("...")` in the code."""
    paths = (
        path for folder in ("lvg_data", "pipelines", "lvg_train") for path in (ROOT / folder).rglob("*.py")
    )
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Call(func=ast.Name("Rejected"), args=[ast.Constant(cause), *_]):
                    yield f"{path.name}:{node.lineno}", cause


def test_every_cause_in_the_code_is_explained():
    found = list(rejected_causes())

    assert len(found) > 15
    assert [place for place, cause in found if cause not in CAUSES] == []


def test_every_explained_cause_is_in_the_code():
    texts = {
        node.value
        for path in (ROOT / "lvg_data").rglob("*.py")
        if path.name != "errors.py"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }

    assert set(CAUSES) - texts == set()
