"""Which hosts may be asked: unless it is allowed, none of this machine and none of a private network.

Addresses come from lists that strangers write. One may name, or redirect to, a router, a database or a cloud's
metadata service, which answer only from inside. What a name stands for is looked up once, all its addresses are
judged, and one of those is connected to: a name that changes its addresses in between gains nothing.

    plain files   connections of urllib3 that look up, judge and connect
    yt-dlp        a hook of the interpreter, which sees every connection of the child process before it is made

Where the environment names a proxy, which only yt-dlp uses, the proxy connects, and has to refuse by itself.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import sys
from collections.abc import Callable, Collection, Iterable
from typing import Any
from urllib.parse import urlsplit

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import (
    ConnectTimeoutError,
    LocationParseError,
    NameResolutionError,
    NewConnectionError,
)

from lvg_data.errors import Rejected

#: addresses of IPv4 hosts for networks that have IPv6 alone, RFC 6052
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
#: events of the interpreter (PEP 578) that have a socket and where it is to send
_SENDING = ("socket.connect", "socket.sendto", "socket.sendmsg")
#: and those that have a program to start
_STARTING = ("subprocess.Popen", "os.posix_spawn", "os.exec", "os.system")


class PrivateAddressError(Exception):
    """A host that is not asked.

    Args:
      address: of the host, as numbers.
    """

    def __init__(self, address: str) -> None:
        super().__init__(
            f"{address} is an address of this machine or of a private network; --allow-private-addresses allows it"
        )


def is_public(address: str) -> bool:
    """Whether an IPv4 or IPv6 address is one of the open internet.

    It is not where IANA's registries of special-purpose addresses say so (RFC 6890), nor for many hosts at once.
    One that stands for an IPv4 address is what that is: `::ffff:a.b.c.d`, 6to4 (RFC 3056), NAT64.
    """
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour
        if ip in _NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
        if ip.is_site_local:
            return False
    return ip.is_global and not (ip.is_multicast or ip.is_reserved)


# ---- plain files ----------------------------------------------------------------------------------


def pool_of(private_addresses: bool) -> urllib3.PoolManager:
    """Connections that fail at once; unless `private_addresses`, with PrivateAddressError where one is met."""
    pool = urllib3.PoolManager(retries=False)
    if not private_addresses:
        pool.pool_classes_by_scheme = {"http": _PublicPool, "https": _PublicTlsPool}
    return pool


def addresses_of(name: str, port: int | None) -> list[str]:
    """The addresses of a host, in the order in which they are tried; all public.

    Raises:
      PrivateAddressError: one of them is not.
      OSError: it has none.
    """
    found = socket.getaddrinfo(name.strip("[]"), port, type=socket.SOCK_STREAM)
    addresses = [str(place[0]) for *_, place in found]
    for address in addresses:
        if not is_public(address):
            raise PrivateAddressError(address)
    return addresses


class _Public:
    """A connection to a public address; its name stays for the Host header and the certificate."""

    _dns_host: str
    _new_conn: Callable[[], socket.socket]

    def connect_by_address(self, connect: Callable[[], socket.socket]) -> socket.socket:
        """Connects to the first address that answers. urllib3 reads where to from `_dns_host` (2.8)."""
        connection: Any = self
        name = self._dns_host
        try:
            addresses = addresses_of(name, connection.port)
        except socket.gaierror as err:
            raise NameResolutionError(connection.host, connection, err) from err
        except UnicodeError as err:
            raise LocationParseError(f"{name}: not the name of a host") from err
        try:
            for address in addresses[:-1]:
                self._dns_host = address
                try:
                    return connect()
                except (NewConnectionError, ConnectTimeoutError):
                    continue
            self._dns_host = addresses[-1]
            return connect()
        finally:
            self._dns_host = name


class _PublicConnection(_Public, HTTPConnection):
    def _new_conn(self) -> socket.socket:
        return self.connect_by_address(lambda: HTTPConnection._new_conn(self))


class _PublicTlsConnection(_Public, HTTPSConnection):
    def _new_conn(self) -> socket.socket:
        return self.connect_by_address(lambda: HTTPSConnection._new_conn(self))


class _PublicPool(urllib3.HTTPConnectionPool):
    ConnectionCls = _PublicConnection


class _PublicTlsPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _PublicTlsConnection


# ---- yt-dlp ---------------------------------------------------------------------------------------


def guard_process(private_addresses: bool, programs: Collection[str] = ()) -> None:
    """Makes this process refuse FTP, other programs and, unless `private_addresses`, what is not public.

    For good: nothing can take it away again. Connections are refused with `Rejected`, before anything is sent,
    and programs with PermissionError, as if nobody might start them.

    Args:
      programs: names of the executables that may be started, wherever they are.
    """
    proxies = frozenset(() if private_addresses else _proxy_addresses(os.environ.items()))

    def judge(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "ftplib.connect":
            raise Rejected("unsupported_site", "leads to an address of the kind 'ftp'")
        if event in _STARTING and os.path.basename(os.fsdecode(arguments[0])) not in programs:
            raise PermissionError(
                errno.EPERM, "not started: other programs are not under this process's guard"
            )
        if event in _SENDING and not private_addresses:
            _judge_target(arguments[1], proxies)

    sys.addaudithook(judge)


def _judge_target(target: Any, proxies: frozenset[str]) -> None:
    if target is None:  # the socket is connected already
        return
    address = str(target[0]) if isinstance(target, tuple) else "a local socket"
    try:
        is_fine = address in proxies or is_public(address)
    except ValueError:  # a name would be looked up only now
        is_fine = False
    if not is_fine:
        raise Rejected("private_address", str(PrivateAddressError(address)))


def _proxy_addresses(environment: Iterable[tuple[str, str]]) -> Iterable[str]:
    """Addresses of the proxies that the user named: they may well be on the same machine."""
    for name, url in environment:
        if not name.lower().endswith("_proxy") or name.lower() == "no_proxy" or not url:
            continue
        try:
            parts = urlsplit(url if "://" in url else f"http://{url}")
            yield from (str(place[0]) for *_, place in socket.getaddrinfo(parts.hostname, parts.port or 80))
        except (OSError, ValueError):  # a proxy that is not there is told by the first request
            continue
