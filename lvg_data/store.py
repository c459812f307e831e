"""The content-addressed store: `get_or_make(key, make)`, atomic, over fsspec.

An artefact is a folder of files and `meta.json`, written last: its presence means that the rest is whole.
A deterministic reject is an artefact too, so that a rerun does not decode a bad video again. A downloaded
file that made room for others leaves its `meta.json`, marked as evicted, so that what was made of it is still found.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import tempfile
import uuid
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec

from lvg_data import ids
from lvg_data.errors import Rejected

META = "meta.json"


@dataclass(frozen=True)
class Key:
    """What an artefact depends on.

    Attributes:
      transform: name of the code that makes it; `version` is raised when its result changes.
      config: the config fields that it uses, as plain values.
      inputs: ids or hashes of what it reads.
      libraries: versions of the libraries that make its bytes.
    """

    transform: str
    version: int
    config: Any
    inputs: tuple[Any, ...]
    libraries: tuple[str, ...] = ()

    @property
    def path(self) -> str:
        return f"{self.transform}/{ids.canonical_hash(self)[:32]}"


def is_local(url: str) -> bool:
    return "://" not in url or url.startswith("file://")


def local_path(url: str) -> Path:
    return Path(url.removeprefix("file://"))


@dataclass(frozen=True)
class Artefact:
    """A stored result: `result` is what `make` returned, the files lie under `address`."""

    address: str
    result: Any

    @contextlib.contextmanager
    def local(self, name: str) -> Iterator[Path]:
        """A local file with the content of one of the artefact's files; remote ones for the `with` only."""
        with localized(f"{self.address}/{name}") as path:
            yield path


@contextlib.contextmanager
def localized(url: str) -> Iterator[Path]:
    """A local path with the content of `url`: the file itself, or a copy that is gone after the `with`."""
    if is_local(url):
        yield local_path(url)
        return
    with tempfile.TemporaryDirectory(prefix="lvg-") as folder:
        path = Path(folder) / url.rsplit("/", 1)[-1]
        fs, remote = fsspec.url_to_fs(url)
        fs.get_file(remote, str(path))
        yield path


def read_bytes(url: str) -> bytes:
    with fsspec.open(url, "rb") as file:
        return file.read()


def exists(url: str) -> bool:
    fs, path = fsspec.url_to_fs(url)
    return bool(fs.exists(path))


def write_atomic(url: str, data: bytes) -> None:
    """Writes a file that is there whole or not at all; on local disks it is synced before it is named."""
    if not is_local(url):
        with fsspec.open(url, "wb") as remote:
            remote.write(data)
        return
    path = local_path(url)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def publish(source: str, target: str) -> None:
    """Puts a stored file under its final name without another copy of the bytes where the disk can.

    Local: a hard link under a temporary name, renamed; a copy across disks. Remote: a server-side copy.
    """
    if not is_local(target):
        fs, path = fsspec.url_to_fs(target)
        if is_local(source):
            fs.put_file(str(local_path(source)), path)
        else:
            fs.copy(fsspec.url_to_fs(source)[1], path)
        return
    path = local_path(target)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with localized(source) as original:
            try:
                os.link(original, temporary)
            except OSError:
                shutil.copyfile(original, temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def same_file(a: str, b: str) -> bool:
    """Whether two local names are one file on disk; False for anything remote or missing."""
    if not (is_local(a) and is_local(b)):
        return False
    first, second = local_path(a), local_path(b)
    return first.exists() and second.exists() and first.samefile(second)


@dataclass(frozen=True)
class Store:
    """Artefacts under one local folder or object-store prefix; any number of processes may share it."""

    root: str

    def address(self, key: Key) -> str:
        return f"{self.root.rstrip('/')}/{key.path}"

    def get(self, key: Key) -> Artefact | None:
        """The artefact, or None where it is not there.

        Raises:
          Rejected: making it ended in this reject before.
        """
        address = self.address(key)
        try:
            meta = json.loads(read_bytes(f"{address}/{META}"))
        except FileNotFoundError:
            return None
        if "rejected" in meta:
            raise Rejected(**meta["rejected"])
        if _file_sizes(address) != meta["files"] and not self._is_evicted(address):
            _delete(f"{address}/{META}")  # files of it were lost: it is made again
            return None
        return Artefact(address, meta["result"])

    def get_or_make(self, key: Key, make: Callable[[Path], Any]) -> Artefact:
        """The artefact of `key`, made by `make(folder)` where it is missing.

        `make` writes its files into an empty local folder and returns plain JSON values. When two make
        the same artefact at once, the first to finish is kept; both are equal by construction.

        Raises:
          Rejected: by `make`, now or before; remembered unless another attempt may succeed.
        """
        found = self.get(key)
        if found is not None:
            return found
        with self._folder() as folder:
            try:
                result = make(folder)
                meta = {"key": key, "result": result, "files": _file_sizes(str(folder))}
            except Rejected as err:
                if not err.retryable:
                    self._keep(key, None, {"key": key, "rejected": _reject_fields(err)})
                raise
            self._keep(key, folder, meta)
        return Artefact(self.address(key), meta["result"])

    def _is_evicted(self, address: str) -> bool:
        return bool(json.loads(read_bytes(f"{address}/{META}")).get("evicted"))

    def evict(self, address: str) -> None:
        """Removes the files of a local artefact, and keeps what is known of it: its result and its key."""
        meta = json.loads(read_bytes(f"{address}/{META}"))
        self._replace_meta(local_path(address), {**meta, "evicted": True})
        for name in meta["files"]:
            (local_path(address) / name).unlink(missing_ok=True)

    def _replace_meta(self, target: Path, meta: dict[str, Any]) -> None:
        """Without a moment in which the artefact holds a file more or less."""
        with self._folder() as folder:
            write_atomic(str(folder / META), ids.canonical_json(meta).encode())
            os.replace(folder / META, target / META)

    def refill(self, key: Key, make: Callable[[Path], Any]) -> None:
        """Makes the files of an evicted artefact again.

        Raises:
          Rejected: by `make`; or `hash_mismatch`, when they are not what they were.
        """
        target = local_path(self.address(key))
        meta = json.loads((target / META).read_bytes())
        with self._folder() as folder:
            if make(folder) != meta["result"] or _file_sizes(str(folder)) != meta["files"]:
                raise Rejected("hash_mismatch", f"{key.path}: fetched again, and not what it was")
            for name in meta["files"]:
                os.replace(folder / name, target / name)
        self._replace_meta(target, {name: value for name, value in meta.items() if name != "evicted"})

    @contextlib.contextmanager
    def _folder(self) -> Iterator[Path]:
        """An empty folder to work in, on the store's own disk where that is local."""
        parent = local_path(self.root) / "tmp" if is_local(self.root) else Path(tempfile.gettempdir())
        parent.mkdir(parents=True, exist_ok=True)
        folder = parent / f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:12]}"
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _keep(self, key: Key, folder: Path | None, meta: dict[str, Any]) -> None:
        data = ids.canonical_json(meta).encode()
        if is_local(self.root):
            with self._folder() as empty:
                _keep_local(folder or empty, local_path(self.address(key)), data)
            return
        fs, target = fsspec.url_to_fs(self.address(key))
        for path in sorted(folder.iterdir()) if folder else ():
            fs.put_file(str(path), f"{target}/{path.name}")
        fs.pipe_file(f"{target}/{META}", data)

    def forget(self, key: Key) -> None:
        """Removes an artefact."""
        fs, path = fsspec.url_to_fs(self.address(key))
        if fs.exists(path):
            fs.rm(path, recursive=True)

    def forget_rejects(self, causes: Collection[str]) -> int:
        """Makes what ended in one of these rejects be made again; returns how many there were."""
        fs, root = fsspec.url_to_fs(self.root)
        forgotten = 0
        for path in fs.glob(f"{root}/*/*/{META}"):
            with fs.open(path, "rb") as file:
                rejected = json.load(file).get("rejected")
            if rejected and rejected["cause"] in causes:
                fs.rm_file(path)
                forgotten += 1
        return forgotten

    def clear_leftovers(self) -> None:
        """Removes what builds of this machine that are no longer alive left half-made."""
        if not is_local(self.root):
            return
        host = f"{socket.gethostname()}-"
        for folder in (local_path(self.root) / "tmp").glob(f"{host}*"):
            made_by = re.fullmatch(r"(\d+)-[0-9a-f]{12}", folder.name.removeprefix(host))
            # no match: of another machine, whose name begins like this one's
            if made_by and not Path(f"/proc/{made_by[1]}").exists():
                shutil.rmtree(folder, ignore_errors=True)

    def clear_own(self) -> None:
        """Removes what this process left half-made; for the moment before it ends."""
        if is_local(self.root):
            for folder in (local_path(self.root) / "tmp").glob(f"{socket.gethostname()}-{os.getpid()}-*"):
                shutil.rmtree(folder, ignore_errors=True)


def _file_sizes(folder: str) -> dict[str, int]:
    """Size of each file of an artefact, its `meta.json` left out."""
    fs, path = fsspec.url_to_fs(folder)
    entries = fs.ls(path, detail=True) if fs.exists(path) else []
    sizes = {str(entry["name"]).rsplit("/", 1)[-1]: int(entry["size"]) for entry in entries}
    return {name: size for name, size in sizes.items() if name != META}


def _delete(url: str) -> None:
    fs, path = fsspec.url_to_fs(url)
    with contextlib.suppress(FileNotFoundError):
        fs.rm_file(path)


def _reject_fields(err: Rejected) -> dict[str, Any]:
    return {"cause": err.cause, "message": err.message, "value": err.value, "threshold": err.threshold}


def _keep_local(folder: Path, target: Path, meta: bytes) -> None:
    (folder / META).write_bytes(meta)
    for path in folder.iterdir():
        with open(path, "rb") as file:
            os.fsync(file.fileno())
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.rename(folder, target)
    except OSError:
        if not (target / META).exists():  # something half-made by hand is in the way
            shutil.rmtree(target)
            os.rename(folder, target)
        return
    directory = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
