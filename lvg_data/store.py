"""The content-addressed store: `get_or_make(key, make)`, atomic, over fsspec.

An artefact is a folder of files and `meta.json`, written last: its presence means that the rest is whole.
A deterministic reject is an artefact too, so that a rerun does not decode a bad video again. A downloaded
file that made room for others leaves its `meta.json`, marked as evicted, so that what was made of it is still found.

On a local disk everything is synced before it is named, and the name after it, so that a loss of power takes only what
was not yet published. A remote place is asked again when it fails or answers with too little.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import os
import random
import re
import shutil
import socket
import tempfile
import time
import uuid
import zlib
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import fsspec

from lvg_data import ids
from lvg_data.errors import DatasetError, Rejected

META = "meta.json"
#: attempts at one operation of a remote place, and the wait after the first, which doubles and is jittered
_ATTEMPTS, _FIRST_WAIT_S = 5, 0.2
#: what an operation says of the names and rights in a place, not of the way to it
_ANSWERS = (FileNotFoundError, PermissionError, FileExistsError, IsADirectoryError, NotADirectoryError)
#: base classes of botocore, aiohttp and gcsfs for what may pass, which are no OSError
_CONNECTION_ERRORS = {"HTTPClientError", "ConnectionError", "ClientError", "IncompleteReadError", "HttpError"}
_SUM_CHUNK_BYTES = 1 << 20
#: HTTP status by which gcsfs says that an object is there
_PRECONDITION_FAILED = 412
#: what lies in a store beside its artefacts: records of what was built (`dataset`), and places to work in
_RECORDS, _WORKPLACES = ("built.json", "built"), ("tmp", "fetch_runs")

T = TypeVar("T")


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


# ---- remote places ---------------------------------------------------------------------------------


def place_of(url: str) -> tuple[Any, str]:
    """The fsspec filesystem of a URL, and the path there; operations of a remote one are tried again.

    For `ls`, `info` and what moves whole files; do not ask it for `exists`, `glob` or `find`, which fsspec answers
    with "no" or with less when a place fails: there are `exists` and `files_in`.
    """
    fs, path = fsspec.url_to_fs(url)
    return (fs if is_local(url) else _Patient(fs)), path


class _Patient:
    """A filesystem each of whose methods is called again when it fails in a way that may pass."""

    def __init__(self, fs: Any) -> None:
        self._fs = fs

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._fs, name)
        return lambda *args, **kwargs: _patiently(functools.partial(method, *args, **kwargs), self._fs)


def _patiently(operation: Callable[[], T], fs: Any) -> T:
    """What `operation` returns; all that we ask of remote places may be asked twice.

    Raises:
      OSError: an answer that waiting does not change; or EIO, after so many failures.
    """
    for attempt in range(_ATTEMPTS):
        try:
            return operation()
        except Exception as err:
            if not _may_pass(err):
                raise
            last = err
        if attempt + 1 < _ATTEMPTS:
            time.sleep(_FIRST_WAIT_S * 2**attempt * random.uniform(0.5, 1))
            fs.invalidate_cache()
    text = f"the store failed {_ATTEMPTS} times in a row, at last with {type(last).__name__}: {last}"
    raise OSError(errno.EIO, text) from last


def _may_pass(err: Exception) -> bool:
    if isinstance(err, OSError):
        return not isinstance(err, _ANSWERS)
    return bool({kind.__name__ for kind in type(err).__mro__} & _CONNECTION_ERRORS)


def _read_whole(fs: Any, path: str) -> bytes:
    with fs.open(path, "rb") as file:
        data, size = file.read(), getattr(file, "size", None)
    if size is not None and len(data) != size:
        raise OSError(errno.EIO, f"a short read: {len(data)} of {size} bytes of {path}")
    return data


def _copy_whole(fs: Any, path: str, target: Path) -> None:
    fs.get_file(path, str(target))
    size, found = fs.info(path).get("size"), target.stat().st_size
    if size not in (None, found):
        raise OSError(errno.EIO, f"a short read: {found} of {size} bytes of {path}")


# ---- files -----------------------------------------------------------------------------------------


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
        _patiently(lambda: _copy_whole(fs, remote, path), fs)
        yield path


def read_bytes(url: str) -> bytes:
    if is_local(url):
        return local_path(url).read_bytes()
    fs, path = fsspec.url_to_fs(url)
    return _patiently(lambda: _read_whole(fs, path), fs)


def exists(url: str) -> bool:
    """Whether there is a file or a folder; a place that fails is an error, not a "no"."""
    fs, path = place_of(url)
    try:
        fs.info(path)
    except FileNotFoundError:
        return False
    return True


def remove(url: str) -> None:
    """Removes a file, where it is there."""
    fs, path = place_of(url)
    with contextlib.suppress(FileNotFoundError):
        fs.rm_file(path)


def names_in(url: str) -> list[str]:
    """Names of what lies in a folder, sorted; none where there is no such folder."""
    return sorted(_entries(url))


def files_in(url: str) -> dict[str, int]:
    """Size of each file that lies in a folder itself; none where there is no such folder."""
    return {name: int(entry["size"]) for name, entry in _entries(url).items() if entry["type"] != "directory"}


def _entries(url: str) -> dict[str, dict[str, Any]]:
    fs, path = place_of(url)
    try:
        found = fs.ls(path, detail=True)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    return {str(entry["name"]).rstrip("/").rsplit("/", 1)[-1]: entry for entry in found}


def write_atomic(url: str, data: bytes) -> None:
    """Writes a file that is there whole or not at all; on local disks it and its name are synced."""
    if not is_local(url):
        fs, remote = place_of(url)
        fs.pipe_file(remote, data)
        return
    path = local_path(url)
    _make_folder(path.parent)
    with _renamed_to(path) as temporary, open(temporary, "wb") as file:
        file.write(data)
        os.fsync(file.fileno())


def create(url: str, data: bytes) -> None:
    """Writes a remote file, and leaves one that is there where the store can tell; others write over it.

    Whose content it then has is for the caller to look.
    """
    fs, path = fsspec.url_to_fs(url)
    try:
        fs.pipe_file(path, data, mode="create")
    except Exception as err:  # noqa: BLE001 - each store says in its own way that it knows no such writing
        if not isinstance(err, FileExistsError) and getattr(err, "code", None) != _PRECONDITION_FAILED:
            write_atomic(url, data)


@contextlib.contextmanager
def _renamed_to(path: Path) -> Iterator[Path]:
    """A temporary name beside `path`; what has it in the end becomes `path`, and is gone after an error."""
    temporary = path.with_name(f".{path.name}~{_mark_of_maker()}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
        sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Makes the content of a file, or the names in a folder, outlive a loss of power."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _make_folder(path: Path) -> None:
    """`path` and the folders above it, each with its name synced."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in missing:
        sync(folder.parent)


def _mark_of_maker() -> str:
    """A new ending for a temporary name, from which is seen whether who made it is still alive."""
    return f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:12]}"


def _is_abandoned(name: str) -> bool:
    """Whether the maker of this mark was a process of this machine and is no longer alive."""
    made_by = re.fullmatch(rf"{re.escape(socket.gethostname())}-(\d+)-[0-9a-f]{{12}}", name)
    # no match: of another machine, whose name may begin like this one's
    return made_by is not None and not Path(f"/proc/{made_by[1]}").exists()


def clear_temporary(url: str) -> None:
    """Removes from a local folder what `write_atomic` and `publish` of dead processes left half-made."""
    for path in local_path(url).glob(".*.tmp") if is_local(url) else ():
        if _is_abandoned(path.name.removesuffix(".tmp").rpartition("~")[2]):
            path.unlink(missing_ok=True)


def publish(source: str, target: str) -> None:
    """Puts a stored file under its final name without another copy of the bytes where the disk can.

    Local: a hard link under a temporary name, renamed; a copy across disks. Remote: a server-side copy.
    """
    if not is_local(target):
        fs, remote = place_of(target)
        if is_local(source):
            fs.put_file(str(local_path(source)), remote)
        else:
            fs.copy(fsspec.url_to_fs(source)[1], remote)
        return
    path = local_path(target)
    _make_folder(path.parent)
    with localized(source) as original, _renamed_to(path) as temporary:
        try:
            os.link(original, temporary)
        except OSError:
            if not original.exists():
                raise
            shutil.copyfile(original, temporary)
            sync(temporary)


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
        meta = _read_meta(address)
        if meta is None:
            return None
        if "rejected" in meta:
            raise Rejected(**meta["rejected"])
        if _file_sizes(address) != meta["files"] and not self._is_evicted(address):
            remove(f"{address}/{META}")  # files of it were lost: it is made again
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
                files = _file_sizes(str(folder))
                meta = {"key": key, "result": result, "files": files, "crc32": _sums(folder, files)}
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
                sync(folder / name)
                os.replace(folder / name, target / name)
        self._replace_meta(target, {name: value for name, value in meta.items() if name != "evicted"})

    @contextlib.contextmanager
    def _folder(self) -> Iterator[Path]:
        """An empty folder to work in, on the store's own disk where that is local."""
        parent = local_path(self.root) / "tmp" if is_local(self.root) else Path(tempfile.gettempdir())
        parent.mkdir(parents=True, exist_ok=True)
        folder = parent / _mark_of_maker()
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
        fs, target = place_of(self.address(key))
        for path in sorted(folder.iterdir()) if folder else ():
            fs.put_file(str(path), f"{target}/{path.name}")
        fs.pipe_file(f"{target}/{META}", data)

    def forget(self, key: Key) -> None:
        """Removes an artefact."""
        self.forget_address(self.address(key))

    def forget_address(self, address: str) -> None:
        """Removes an artefact, its `meta.json` first."""
        remove(f"{address}/{META}")
        fs, path = place_of(address)
        with contextlib.suppress(FileNotFoundError):
            fs.rm(path, recursive=True)

    def forget_rejects(self, causes: Collection[str]) -> int:
        """Makes what ended in one of these rejects be made again; returns how many there were."""
        forgotten = 0
        for address in self.addresses():
            rejected = (_read_meta(address) or {}).get("rejected")
            if rejected and rejected["cause"] in causes:
                remove(f"{address}/{META}")
                forgotten += 1
        return forgotten

    def addresses(self) -> Iterator[str]:
        """Where artefacts lie, in order of their names."""
        root = self.root.rstrip("/")
        for transform in names_in(root):
            for name in names_in(f"{root}/{transform}"):
                if _is_artefact(name):
                    yield f"{root}/{transform}/{name}"

    def is_damaged(self, address: str) -> bool:
        """Whether an artefact is not what was stored, by reading all of it; one that is not there is not."""
        if not exists(f"{address}/{META}"):
            return False
        meta = _read_meta(address)
        if meta is None:
            return True
        if "rejected" in meta or meta.get("evicted"):
            return False
        if _file_sizes(address) != meta["files"]:
            return True
        # no sums: stored by an earlier version
        return any(_sum_of(f"{address}/{name}") != crc for name, crc in meta.get("crc32", {}).items())

    def clear(self) -> int:
        """Removes all artefacts, and keeps the records of what was built; returns the bytes that it freed.

        Raises:
          DatasetError: the folder holds what no store holds; nothing is removed then.
        """
        names = [name for name in names_in(self.root) if name not in _RECORDS]
        for name in names:
            if name not in _WORKPLACES and not all(map(_is_artefact, names_in(f"{self.root}/{name}"))):
                raise DatasetError(
                    f"{self.root} is no store: it holds {name}; name the one that --store named"
                )
        freed = 0
        for name in names:
            fs, path = place_of(f"{self.root}/{name}")
            freed += fs.du(path)
            fs.rm(path, recursive=True)
        return freed

    def clear_leftovers(self) -> None:
        """Removes what builds of this machine that are no longer alive left half-made."""
        if not is_local(self.root):
            return
        clear_temporary(self.root)
        clear_temporary(f"{self.root}/built")
        for folder in (local_path(self.root) / "tmp").glob("*"):
            if _is_abandoned(folder.name):
                shutil.rmtree(folder, ignore_errors=True)

    def clear_own(self) -> None:
        """Removes what this process left half-made; for the moment before it ends."""
        if is_local(self.root):
            for folder in (local_path(self.root) / "tmp").glob(f"{socket.gethostname()}-{os.getpid()}-*"):
                shutil.rmtree(folder, ignore_errors=True)


def _is_artefact(name: str) -> bool:
    return re.fullmatch("[0-9a-f]{32}", name) is not None


def _file_sizes(folder: str) -> dict[str, int]:
    """Size of each file of an artefact, its `meta.json` left out."""
    return {name: size for name, size in files_in(folder).items() if name != META}


def _sums(folder: Path, names: Collection[str]) -> dict[str, int]:
    """CRC-32 of files: it tells damage, not malice."""
    return {name: _sum_of(str(folder / name)) for name in names}


def _sum_of(url: str) -> int:
    total = 0
    with localized(url) as path, open(path, "rb") as file:
        while chunk := file.read(_SUM_CHUNK_BYTES):
            total = zlib.crc32(chunk, total)
    return total


def _read_meta(address: str) -> dict[str, Any] | None:
    """What is known of an artefact; None where there is none, or damaged: then it is removed, to be made again."""
    try:
        meta = json.loads(read_bytes(f"{address}/{META}"))
        if isinstance(meta, dict) and ("rejected" in meta or {"files", "result"} <= meta.keys()):
            return meta
    except FileNotFoundError:
        return None
    except ValueError:  # no JSON, or no UTF-8
        pass
    remove(f"{address}/{META}")
    return None


def _reject_fields(err: Rejected) -> dict[str, Any]:
    return {"cause": err.cause, "message": err.message, "value": err.value, "threshold": err.threshold}


def _keep_local(folder: Path, target: Path, meta: bytes) -> None:
    (folder / META).write_bytes(meta)
    for path in (*folder.iterdir(), folder):
        sync(path)
    _make_folder(target.parent)
    try:
        os.rename(folder, target)
    except OSError as err:
        if err.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise
        if (target / META).exists():  # another was faster
            return
        shutil.rmtree(target)  # files were lost, or something half-made by hand is in the way
        os.rename(folder, target)
    sync(target.parent)
