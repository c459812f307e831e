"""How long a request may take, kept from outside.

The timeout of a socket begins anew with each byte: a server that drips its headers, or the lines between chunks,
holds a reader for as long as it likes. So another thread looks at the clock.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from typing import Self

#: how often it looks
_LOOK_S = 0.1


class Watch:
    """Shuts connections down when their time is over, so that whatever waits for one of them fails at once.

    To its reader that looks like the server's own end: who may meet it asks `is_over`.

    Args:
      deadline: of `time.monotonic`.
      stop: ends the time when it is set.
    """

    def __init__(self, deadline: float, stop: threading.Event | None) -> None:
        self._deadline, self._stop = deadline, stop
        self._sockets: list[socket.socket] = []
        self._lock, self._left = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._look, name="fetch-watch", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._left.set()
        self._thread.join()
        for connection in self._sockets:
            connection.close()

    @property
    def is_over(self) -> bool:
        return time.monotonic() > self._deadline or (self._stop is not None and self._stop.is_set())

    def follow(self, connection: socket.socket) -> None:
        """Takes on a connection: a descriptor of its own, because TLS takes away that of the socket it wraps."""
        with self._lock:
            self._sockets.append(connection.dup())

    def _look(self) -> None:
        while not self._left.wait(_LOOK_S):
            if self.is_over:
                self._shut_down()

    def _shut_down(self) -> None:
        with self._lock:
            for connection in self._sockets:
                with contextlib.suppress(OSError):  # the other side was faster
                    connection.shutdown(socket.SHUT_RDWR)
