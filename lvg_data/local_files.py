"""Files and folders on this machine that a row names: which faults of opening them are the row's."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from lvg_data.errors import Rejected

#: what the system says of a path that leads to no file; whatever else it says is about the machine
_LEADS_NOWHERE = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG)


@contextlib.contextmanager
def blaming_the_path(what: str) -> Iterator[None]:
    """Rejects what cannot be opened because of its path.

    Args:
      what: the path, as messages call it.

    Raises:
      Rejected: `not_found`; `forbidden` where rights are missing.
      OSError: any other, as it came. Too many open files, a disk that fails or a network drive that went away say
        nothing of the row, which would be gone for good.
    """
    try:
        yield
    except PermissionError as err:
        raise Rejected("forbidden", f"{what}: {err.strerror}") from err
    except OSError as err:
        if err.errno not in _LEADS_NOWHERE:
            raise
        raise Rejected("not_found", f"{what}: {err.strerror}") from err


def stat_file(path: str | Path, what: str) -> os.stat_result:
    """Of a file, or what a link leads to; nothing is opened.

    Raises:
      Rejected: as `blaming_the_path`; `not_found` for a folder, and for a pipe or a device, which may have no end.
      OSError: the machine failed.
    """
    with blaming_the_path(what):
        found = os.stat(path)
    if not stat.S_ISREG(found.st_mode):
        raise Rejected("not_found", f"{what}: not a file")
    return found
