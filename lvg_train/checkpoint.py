"""Checkpoints of a run: whole or not there at all.

    RUN/checkpoints/step-000000100/   models.safetensors      networks by role, see `lvg_train.model_file`
                                      optimizers.safetensors  every other tensor
                                      state.json              step, values, size and sha256 of the files above
    RUN/checkpoints/best.json         which step is best, by which metric
    RUN/.lock                         held by the process that trains

A checkpoint is written to a hidden folder, each file and the folder synced, and then renamed. What a killed process
left behind has a name that begins with a dot; the next `load_newest` removes it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from lvg_data.store import sync, write_atomic
from lvg_train import model_file
from lvg_train.errors import TrainError, TrainWarning
from lvg_train.model_file import ModelFile

FORMAT = "lvg-checkpoint-1"
MODELS, OPTIMIZERS, STATE, BEST = "models.safetensors", "optimizers.safetensors", "state.json", "best.json"
LOCK = ".lock"
_NAME = re.compile(r"step-(\d{9,})")
#: a whole checkpoint that a new one of the same step is about to replace
_REPLACED = re.compile(r"\.(step-\d{9,})\.replaced")


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint: sizes and hashes of its files were compared when it was loaded.

    Attributes:
      folder: where it lies.
      step: training iterations done before it was saved.
      values: the JSON values that were saved with it.
    """

    folder: Path
    step: int
    values: Mapping[str, Any]

    @property
    def models(self) -> Path:
        return self.folder / MODELS

    def load_network(self, role: str, device: torch.device | str = "cpu") -> nn.Module:
        """One of its networks, e.g. "generator_ema". Raises ModelError where it has none of that role."""
        return model_file.load_network(self.models, role, device)

    def tensors(self, device: torch.device | str = "cpu") -> dict[str, Tensor]:
        """The tensors that are not the networks', by name, whatever device they were saved from."""
        with safe_open(self.folder / OPTIMIZERS, framework="pt") as file:
            return {name: file.get_tensor(name).to(device) for name in file.keys()}  # noqa: SIM118


@dataclass(frozen=True)
class Best:
    """The checkpoint that `prune` keeps however old it is."""

    step: int
    metric: str
    value: float


class _DamagedError(Exception):
    """A checkpoint that is not whole; the text says why."""


# ---- saving


def save_checkpoint(
    run: Path,
    step: int,
    networks: Mapping[str, nn.Module],
    description: ModelFile,
    tensors: Mapping[str, Tensor],
    values: Mapping[str, Any],
) -> Path:
    """Saves a checkpoint, whole or not at all; one of the same step is replaced. Returns its folder.

    Args:
      step: training iterations done.
      networks: by role; `description` says how each is built.
      tensors: everything else on the devices (moments of Adam), of any dtype and device.
      values: JSON values (the augmentation probability, counts).

    Raises:
      TrainError: the disk is full or cannot be written to; earlier checkpoints are as they were.
    """
    folder = _folder(run, step)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        try:
            _fill(partial, step, networks, description, tensors, values)
            _publish(partial, folder)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
    except (OSError, SafetensorError) as err:
        raise TrainError(_unsaved(run, folder, err)) from err
    return folder


def _fill(
    folder: Path,
    step: int,
    networks: Mapping[str, nn.Module],
    description: ModelFile,
    tensors: Mapping[str, Tensor],
    values: Mapping[str, Any],
) -> None:
    os.chmod(folder, 0o755)
    model_file.save_model(folder / MODELS, networks, description)
    # copies: safetensors takes no two tensors of one memory
    save_file(
        {n: t.detach().to("cpu", copy=True).contiguous() for n, t in tensors.items()}, folder / OPTIMIZERS
    )
    sync(folder / OPTIMIZERS)
    files = {name: _fingerprint(folder / name) for name in (MODELS, OPTIMIZERS)}
    state = {"format": FORMAT, "step": step, "values": dict(values), "files": files}
    text = json.dumps({**state, "sha256": _digest(state)}, indent=1, allow_nan=False)
    write_atomic(str(folder / STATE), text.encode())
    sync(folder)


def _publish(partial: Path, folder: Path) -> None:
    replaced = folder.with_name(f".{folder.name}.replaced")
    if folder.exists():
        os.rename(folder, replaced)
    os.rename(partial, folder)
    sync(folder.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def _unsaved(run: Path, folder: Path, err: Exception) -> str:
    steps = _steps(run)
    kept = f"the newest that is there is {steps[-1].name}" if steps else "there is none before it"
    with contextlib.suppress(OSError):
        kept += f"; {shutil.disk_usage(run).free:,} bytes are free there"
    return (
        f"the checkpoint {folder} could not be saved: {err}; {kept}. Make room and run the same command again"
    )


def mark_best(run: Path, step: int, metric: str, value: float) -> None:
    """Names the best checkpoint so far, in checkpoints/best.json.

    Raises:
      TrainError: there is no checkpoint of that step.
    """
    if not _folder(run, step).is_dir():
        raise TrainError(f"{_folder(run, step)} cannot be the best: it does not exist; save it first")
    write_atomic(str(run / "checkpoints" / BEST), json.dumps(asdict(Best(step, metric, value))).encode())


def read_best(run: Path) -> Best | None:
    """What `mark_best` wrote last; None before that, or where the file is damaged."""
    try:
        return Best(**json.loads((run / "checkpoints" / BEST).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def prune(run: Path, keep_last: int) -> list[Path]:
    """Removes all checkpoints but the newest `keep_last` complete ones and the best; returns what it removed."""
    if keep_last < 1:
        raise ValueError(f"keep_last must be at least 1, got {keep_last}")
    best = read_best(run)
    complete = [folder for folder in _steps(run) if _is_complete(folder)]
    kept = {*complete[-keep_last:], *([_folder(run, best.step)] if best else [])}
    removed = [folder for folder in _steps(run) if folder not in kept] if complete else []
    for folder in removed:
        hidden = folder.with_name(f".{folder.name}.removed")  # so that a kill leaves no half of it
        os.rename(folder, hidden)
        shutil.rmtree(hidden, ignore_errors=True)
    return removed


# ---- loading


def load_newest(run: Path) -> Checkpoint | None:
    """The newest whole checkpoint; None for a run that has saved none. To be called by the holder of `lock_run`.

    What killed processes left is removed. A damaged checkpoint is passed over with a warning that names it.

    Raises:
      TrainError: there are checkpoints, and every one is damaged; the text lists them.
    """
    _clear_leftovers(run)
    return _newest_whole(run)


def find_generator(path: Path) -> tuple[Path, str]:
    """The model file and role to make videos with.

    Args:
      path: a run (its newest whole checkpoint), a checkpoint's folder or a model file. Nothing in it is changed.

    Returns:
      The file, and "generator_ema", or "generator" where it has no other.

    Raises:
      TrainError: there is no checkpoint or no generator.
    """
    file = find_model(path)
    roles = model_file.describe_model(file).networks
    for role in ("generator_ema", "generator"):
        if role in roles:
            return file, role
    raise TrainError(f"{file} has no generator; it has {', '.join(roles) or 'nothing'}")


def find_model(path: Path) -> Path:
    """The model file of a run (its newest whole checkpoint) or of a checkpoint's folder; a file is itself.

    Raises:
      TrainError: there is none.
    """
    if not path.is_dir():
        if not path.exists():
            raise TrainError(f"{path} does not exist; name a run's folder or a model file")
        return path
    if (path / MODELS).exists():
        return path / MODELS
    newest = _newest_whole(path)
    if newest is None:
        raise TrainError(f"{path} has no checkpoint yet; a run saves them to {path / 'checkpoints'}")
    return newest.models


def _newest_whole(run: Path) -> Checkpoint | None:
    damaged = []
    for folder in reversed(_steps(run)):
        try:
            found = _read(folder)
        except _DamagedError as err:
            damaged.append(f"{folder.name} ({err})")
            continue
        if damaged:
            warnings.warn(
                f"damaged in {folder.parent}: {', '.join(damaged)}; {folder.name} is used instead",
                TrainWarning,
                stacklevel=3,
            )
        return found
    if damaged:
        raise TrainError(
            f"every checkpoint in {run / 'checkpoints'} is damaged: {', '.join(damaged)}; "
            "bring one back from a copy, or remove them all to begin at step 0"
        )
    return None


def _read(folder: Path) -> Checkpoint:
    state = _state(folder)
    for name, wanted in state["files"].items():
        try:
            found = _fingerprint(folder / name)
        except OSError as err:
            raise _DamagedError(f"{name} cannot be read: {err}") from err
        if found != wanted:
            raise _DamagedError(f"the content of {name} has changed")
    return Checkpoint(folder, state["step"], state["values"])


def _state(folder: Path) -> dict[str, Any]:
    """What state.json says, its own hash and the sizes of the other files compared."""
    try:
        state = json.loads((folder / STATE).read_bytes())
        said = state.pop("sha256")
        if said != _digest(state):
            raise _DamagedError(f"the content of {STATE} has changed")
        if state["format"] != FORMAT or state["step"] != _step_of(folder):
            raise _DamagedError(f"{STATE} is of format {state['format']!r}, step {state['step']}")
        for name in (MODELS, OPTIMIZERS):
            wanted, size = state["files"][name], (folder / name).stat().st_size
            if size != wanted["size_bytes"]:
                raise _DamagedError(f"{name} has {size:,} bytes, not {wanted['size_bytes']:,}")
    except FileNotFoundError as err:
        raise _DamagedError(f"{Path(err.filename).name} is missing") from err
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as err:
        raise _DamagedError(f"{STATE} cannot be read: {err}") from err
    return state


def _is_complete(folder: Path) -> bool:
    try:
        _state(folder)
    except _DamagedError:
        return False
    return True


def _clear_leftovers(run: Path) -> None:
    """Removes hidden folders; but of a checkpoint that was being replaced, the old one comes back."""
    for path in sorted((run / "checkpoints").glob(".*")):
        match = _REPLACED.fullmatch(path.name)
        if match and not path.with_name(match[1]).exists():
            os.rename(path, path.with_name(match[1]))
        elif path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


# ---- one process a run


@contextlib.contextmanager
def lock_run(run: Path) -> Iterator[None]:
    """Holds a run for this process; the lock goes with the process, however it ends.

    Where nothing was written to a new run meanwhile, the folders that were made for it are removed again.

    Raises:
      TrainError: another process trains in this folder (its number is named), or it cannot be written to.
    """
    path = run / LOCK
    made = [folder for folder in (run, *run.parents) if not folder.exists()]
    try:
        is_new = not path.exists()
        run.mkdir(parents=True, exist_ok=True)
        file = open(path, "a+", encoding="utf-8")  # noqa: SIM115
    except OSError as err:
        raise TrainError(f"{run} cannot be written to: {err}; choose another --out") from err
    with file:
        _take_lock(file, run)
        file.truncate(0)
        print(f"{os.getpid()} on {os.uname().nodename}", file=file, flush=True)
        try:
            yield
        finally:
            if is_new:
                _remove_unused(run, made)


def _take_lock(file: TextIO, run: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as err:
        if err.errno not in (errno.EAGAIN, errno.EACCES):
            raise
        file.seek(0)
        raise TrainError(
            f"{run} is in use by process {file.read().strip() or '?'}; stop that one, or choose another --out"
        ) from None
    if not os.fstat(file.fileno()).st_nlink:
        raise TrainError(f"another process has just given up {run}; start again")


def _remove_unused(run: Path, made: Iterable[Path]) -> None:
    """Removes the lock of a run that holds nothing else, and those folders that were made for it, innermost first."""
    with contextlib.suppress(OSError):
        if os.listdir(run) == [LOCK]:
            (run / LOCK).unlink()
        for folder in made:
            folder.rmdir()


# ---- names, hashes, files


def _folder(run: Path, step: int) -> Path:
    return run / "checkpoints" / f"step-{step:09d}"


def _step_of(folder: Path) -> int:
    return int(folder.name.removeprefix("step-"))


def _steps(run: Path) -> list[Path]:
    """Folders of checkpoints, oldest first, whole or not."""
    folders = [p for p in (run / "checkpoints").glob("step-*") if _NAME.fullmatch(p.name) and p.is_dir()]
    return sorted(folders, key=_step_of)


def _digest(state: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


def _fingerprint(path: Path) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            return {
                "size_bytes": path.stat().st_size,
                "sha256": hashlib.file_digest(file, "sha256").hexdigest(),
            }
    except OSError as err:
        raise _DamagedError(f"{path.name} cannot be read: {err}") from err
