"""One build at a time in a remote place: an object that says who writes there, and is renewed for as long as it does.

    s3://rides/set/.lock    {"run": "...", "host": "node-7", "pid": 4711, "token": "...", "started": .., "renewed": ..}

    held         every `_RENEW_S` it is written anew
    released     it is removed
    killed       on the same host the next build sees that the process is gone; on others it waits for `_STALE_S`

Object stores have no locks. Where the store can refuse to write over an object (S3, Google Cloud Storage), only one of
two builds that begin at the same moment gets its lease. Where it cannot, or two builds take over the same stale lease,
the last to write has it: each looks again after `_SETTLE_S`. A build whose lease was taken all the same, as after an
hour without network, finds that out before it puts its dataset in place.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from lvg_data import store
from lvg_data.errors import DatasetError

#: seconds between two renewals; a lease that is so old is nobody's; and for a write to reach all who read
_RENEW_S, _STALE_S, _SETTLE_S = 20.0, 180.0, 1.0


@dataclass(frozen=True)
class Holder:
    """Who holds a place.

    Attributes:
      token: of this lease and no other.
      started, renewed: seconds since 1970, by the clock of its host.
    """

    run: str
    host: str
    pid: int
    token: str
    started: float
    renewed: float

    @classmethod
    def here(cls, run: str) -> Holder:
        """This process, now."""
        return cls(run, socket.gethostname(), os.getpid(), uuid.uuid4().hex, time.time(), time.time())

    @property
    def age_s(self) -> float:
        return time.time() - self.renewed

    def is_gone(self) -> bool:
        """Whether it ended without giving back its lease, as far as can be seen from here."""
        is_dead = self.host == socket.gethostname() and not Path(f"/proc/{self.pid}").exists()
        return is_dead or self.age_s > _STALE_S


_FIELDS = {"run": str, "host": str, "pid": int, "token": str, "started": float, "renewed": float}
#: of an object that is no lease
_NOBODY = Holder("unknown", "unknown", 0, "", 0.0, 0.0)


@contextlib.contextmanager
def lease(place: str, run: str) -> Iterator[None]:
    """Holds a remote place for the build `run`.

    Raises:
      DatasetError: another build holds it; the text names its host and process.
    """
    holder, ended = Holder.here(run), threading.Event()
    _take(place, holder)
    renewing = threading.Thread(target=_renew, args=(place, holder, ended), name="lvg-lease", daemon=True)
    renewing.start()
    try:
        yield
    finally:
        ended.set()
        renewing.join()
        if _is_ours(place, holder):
            store.remove(_url(place))


def check_leased(place: str, run: str) -> None:
    """Raises DatasetError where the build `run` no longer holds a remote place."""
    found = _holder_of(place)
    if found is None:
        raise DatasetError(f"{place} was removed while it was being built; run the same command again")
    if found.run != run:
        raise DatasetError(f"{_taken(place, found)}; this one lost its lease and stops")


def _url(place: str) -> str:
    return f"{place}/.lock"


def _take(place: str, holder: Holder) -> None:
    found = _holder_of(place)
    if found is not None and not found.is_gone():
        raise DatasetError(_refusal(place, found))
    if found is not None:
        store.remove(_url(place))
    store.create(_url(place), _encode(holder))
    time.sleep(_SETTLE_S)
    if not _is_ours(place, holder):
        raise DatasetError(_refusal(place, _holder_of(place)))


def _renew(place: str, holder: Holder, ended: threading.Event) -> None:
    """Until `ended`, or until another has the lease; a store that fails is asked again the next time."""
    while not ended.wait(_RENEW_S):
        with contextlib.suppress(Exception):
            if not _is_ours(place, holder):
                return
            store.write_atomic(_url(place), _encode(replace(holder, renewed=time.time())))


def _encode(holder: Holder) -> bytes:
    return json.dumps(asdict(holder)).encode()


def _holder_of(place: str) -> Holder | None:
    """Who holds a place; None where nobody does."""
    fs, path = store.place_of(_url(place))
    try:
        values = json.loads(fs.cat_file(path))
        return Holder(**{name: kind(values[name]) for name, kind in _FIELDS.items()})
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError):
        return _NOBODY


def _is_ours(place: str, holder: Holder) -> bool:
    found = _holder_of(place)
    return found is not None and found.token == holder.token


def _taken(place: str, found: Holder) -> str:
    return f"another build is writing to {place}: run {found.run}, process {found.pid} on {found.host}"


def _refusal(place: str, found: Holder | None) -> str:
    if found is None:
        return f"another build was writing to {place} at the same moment; run the same command again"
    age_s = max(0, round(found.age_s))
    return (
        f"{_taken(place, found)}, heard of {age_s} s ago; wait for it, or choose another --out. If it "
        f"was killed there, the same command goes on {_STALE_S:.0f} s after it was last heard of"
    )
