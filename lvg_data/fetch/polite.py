"""How often a host is asked, how long is waited after a refusal, and when it is left alone.

One record per process and run, shared by its threads: a worker on another machine has its own, so that a
run asks a host at most `workers` times as often as `limits` says.
"""

from __future__ import annotations

import email.utils
import functools
import itertools
import random
import threading
import time
from collections.abc import Callable
from typing import Literal, TypeVar

from lvg_data.child import Stopped
from lvg_data.config import LimitsConfig
from lvg_data.errors import Rejected
from lvg_data.fetch.desk import Desk

#: a request for a plain file, or a video asked of a site through yt-dlp: each has its own rate
Kind = Literal["file", "video"]
#: answers by which a host says that it has enough of us
_REFUSALS = ("rate_limited", "blocked")
_LONGEST_BACK_OFF_S = 60.0
_MAKING = threading.Lock()

T = TypeVar("T")


class Again(Exception):
    """An attempt failed in a way that may pass.

    Args:
      reject: what it ends in if it was the last.
      wait_s: seconds that the host asked to wait.
    """

    def __init__(self, reject: Rejected, wait_s: float = 0.0) -> None:
        super().__init__(reject, wait_s)
        self.reject, self.wait_s = reject, wait_s


class Turns:
    """A token bucket: turns at a steady rate, at most one second's worth of them at once and at least one."""

    def __init__(self, per_s: float) -> None:
        self._interval_s = 1 / per_s
        self._burst_s = max(0.0, 1.0 - self._interval_s)
        self._due_s = 0.0
        self._lock = threading.Lock()

    def take(self) -> float:
        """Takes the next turn; returns the seconds to wait for it."""
        with self._lock:
            now = time.monotonic()
            wait_s = max(0.0, self._due_s - self._burst_s - now)
            self._due_s = max(self._due_s, now) + self._interval_s
            return wait_s


class Host:
    """What was asked of one host in this run, and what it said."""

    def __init__(self, name: str, limits: LimitsConfig) -> None:
        self.name, self._most_refusals = name, limits.host_failures
        rates = {"file": limits.requests_per_s, "video": limits.downloads_per_hour / 3600}
        self._turns = {kind: Turns(rate) for kind, rate in rates.items()}
        self._refusals = 0
        self._lock = threading.Lock()

    def wait_for_turn(self, kind: Kind, origin: str, stop: threading.Event | None) -> None:
        """Waits until the host may be asked.

        Raises:
          Rejected: it refused too often and is not asked again in this run.
          Stopped: `stop` was set meanwhile.
        """
        self._check(origin)
        pause(self._turns[kind].take(), stop)
        self._check(origin)

    @property
    def is_closed(self) -> bool:
        """It refused too often, and is not asked again in this run."""
        return self._refusals >= self._most_refusals

    def note(self, cause: str | None) -> None:
        """Takes down how the host answered; None: as it should."""
        with self._lock:
            self._refusals = self._refusals + 1 if cause in _REFUSALS else 0

    def _check(self, origin: str) -> None:
        if self.is_closed:
            text = f"{origin}: not tried: {self.name} refused {self._refusals} times in a row; `lvg-data retry` later"
            raise Rejected("rate_limited", text, attempts=0)


class Hosts:
    """The hosts of one run in this process."""

    def __init__(self) -> None:
        self._hosts: dict[str, Host] = {}
        self._lock = threading.Lock()

    def get(self, name: str, limits: LimitsConfig) -> Host:
        with self._lock:
            if name not in self._hosts:
                self._hosts[name] = Host(name, limits)
            return self._hosts[name]


@functools.cache
def _hosts_of(run: str) -> Hosts:
    return Hosts()


def host_of(name: str, desk: Desk) -> Host:
    with _MAKING:  # a cached function may run twice when two threads call it first
        hosts = _hosts_of(desk.run)
    return hosts.get(name, desk.limits)


def persist(
    attempt: Callable[[float], T],
    host: Host,
    kind: Kind,
    desk: Desk,
    origin: str,
    stop: threading.Event | None,
) -> T:
    """What `attempt(deadline)` returns, tried up to `limits.fetch_attempts` times while it raises `Again`.

    Between attempts is waited what the host asks for, at least a jittered back-off that doubles. The clock of
    `limits.fetch_wall_s` starts with the first turn; where a wait would run past it, nothing is waited for.

    Raises:
      Rejected: by the last attempt, with the number of attempts.
      Stopped: `stop` was set meanwhile.
    """
    host.wait_for_turn(kind, origin, stop)
    deadline = time.monotonic() + desk.limits.fetch_wall_s
    for number in itertools.count(1):
        try:
            result = attempt(deadline)
        except Rejected as err:
            host.note(err.cause)
            err.attempts = number
            raise
        except Again as err:
            host.note(err.reject.cause)
            wait_s = max(back_off_s(number), err.wait_s)
            too_late = time.monotonic() + wait_s > deadline
            if number == desk.limits.fetch_attempts or too_late or host.is_closed:
                err.reject.attempts = number
                raise err.reject from err.__cause__
            pause(wait_s, stop)
            host.wait_for_turn(kind, origin, stop)
        else:
            host.note(None)
            return result
    raise AssertionError("a loop without end has ended")


def back_off_s(number: int) -> float:
    """Seconds to wait after the attempt of this number, from 1: half a second to one, then twice as long each."""
    return min(_LONGEST_BACK_OFF_S, 0.25 * 2**number * random.uniform(1, 2))


def pause(seconds: float, stop: threading.Event | None) -> None:
    """Raises: Stopped, when `stop` is set before the time is over."""
    if (stop or threading.Event()).wait(seconds):
        raise Stopped("stopped while waiting for a host")


def retry_after_s(header: str | None) -> float:
    """Seconds that a Retry-After header asks for, as a number or a date; 0 where it says nothing sensible."""
    text = (header or "").strip()
    if text.isdecimal():
        return float(text)
    date_s = date_in(text)
    return 0.0 if date_s is None else max(0.0, date_s - time.time())


def date_in(header: str | None) -> float | None:
    """Seconds since 1970 of a header that is a date; None where it is none."""
    try:
        return email.utils.parsedate_to_datetime(header or "").timestamp()
    except (ValueError, OverflowError):
        return None
