"""Files on a disk of this machine: used in place, never copied."""

from __future__ import annotations

from lvg_data.errors import Rejected
from lvg_data.fetch.desk import Desk
from lvg_data.fetch.way import Want, check_size, describe
from lvg_data.local_files import blaming_the_path, stat_file
from lvg_data.store import Key, local_path

VERSION = 1


def find(want: Want, desk: Desk) -> tuple[str, str, int]:
    """Path, sha256 and size; a file is read for its hash once, until its size or time change.

    Raises:
      Rejected: not there, not to be read, too large, or not what `sha256` promises.
      OSError: the machine failed, not the row.
    """
    path = local_path(want.url)
    stat = stat_file(path, want.origin)
    with blaming_the_path(want.origin), open(path, "rb"):
        pass  # it may be read
    check_size(want.origin, stat.st_size, desk.limits)
    seen = (str(path), stat.st_size, stat.st_mtime_ns)
    unpromised = Want(want.origin, want.url)
    found = desk.store.get_or_make(
        Key("hash_file", VERSION, None, seen), lambda _: describe(unpromised, path)
    )
    result = found.result
    if want.sha256 not in (None, result["sha256"]):
        text = f"{want.origin}: sha256 is {result['sha256']}, promised {want.sha256}"
        raise Rejected("hash_mismatch", text)
    return str(path), result["sha256"], stat.st_size
