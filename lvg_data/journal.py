"""What happened while a dataset was built: one JSON line an event, in `runs/`, outside the fingerprint.

Tables hold what the inputs determine; attempts, messages and timings go here. The progress display reads it.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lvg_data.store import is_local, local_path, write_atomic


@dataclass(frozen=True)
class Journal:
    """Writes events of one run to `folder`: appended to one file on a local disk, else one object a call."""

    folder: str
    run: str

    @property
    def url(self) -> str:
        return f"{self.folder}/{self.run}.jsonl"

    def write(self, event: str, **fields: Any) -> None:
        """Adds one event; any number of threads and processes may write at once."""
        line = json.dumps({"time": round(time.time(), 3), "event": event, **fields}, default=str) + "\n"
        if not is_local(self.folder):
            write_atomic(
                f"{self.folder}/{self.run}/{time.time_ns()}-{uuid.uuid4().hex[:8]}.jsonl", line.encode()
            )
            return
        path = local_path(self.url)
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            if os.write(descriptor, line.encode()) < len(line.encode()):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        finally:
            os.close(descriptor)


def new_run(folder: str) -> Journal:
    """A journal with a name that sorts by time."""
    stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
    return Journal(folder, f"{stamp}-{socket.gethostname()}-{os.getpid()}")


class JournalTail:
    """Reads the events that were added to a local journal since the last look.

    A line that is none, which a full disk or a loss of power leaves, is passed over.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.offset = path, 0

    def __iter__(self) -> Iterator[dict[str, Any]]:
        if not self.path.exists():
            return
        with open(self.path, "rb") as file:
            file.seek(self.offset)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self.offset += len(line)
                with contextlib.suppress(ValueError):
                    yield json.loads(line)
