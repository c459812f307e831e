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
import functools
import ipaddress
import os
import socket
import sys
from collections.abc import Callable, Collection, Iterable
from typing import Any, cast
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
from lvg_data.fetch.watch import Watch

#: addresses of IPv4 hosts for networks that have IPv6 alone, RFC 6052
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
#: where addresses of IPv6 hosts in the open internet are, RFC 4291 section 2.4
_GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")
#: not globally reachable by IANA's registries, though not every Python says so: 6to4 relays, documentation
_NOT_REACHABLE = tuple(map(ipaddress.ip_network, ("192.0.0.0/24", "192.88.99.0/24", "3fff::/20")))
#: exceptions in those: anycast for PCP (RFC 7723) and TURN (RFC 8155)
_REACHABLE = tuple(map(ipaddress.ip_address, ("192.0.0.9", "192.0.0.10")))
#: ports of proxies that name none, by scheme; 80 for others
_PROXY_PORTS = {"https": 443, "socks4": 1080, "socks4a": 1080, "socks5": 1080, "socks5h": 1080}
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
        if ip not in _GLOBAL_UNICAST:
            return False
    if ip in _REACHABLE:
        return True
    if any(ip in network for network in _NOT_REACHABLE):
        return False
    return ip.is_global and not (ip.is_multicast or ip.is_reserved)


# ---- plain files ----------------------------------------------------------------------------------


def pool_of(private_addresses: bool, watch: Watch) -> urllib3.PoolManager:
    """Connections that `watch` ends and that fail at once.

    Unless `private_addresses`, with PrivateAddressError where one is met.
    """
    pool = urllib3.PoolManager(retries=False)
    plain, tls = (
        (_Connection, _TlsConnection) if private_addresses else (_PublicConnection, _PublicTlsConnection)
    )
    kinds = {
        "http": _pool_class(urllib3.HTTPConnectionPool, plain, watch),
        "https": _pool_class(urllib3.HTTPSConnectionPool, tls, watch),
    }
    pool.pool_classes_by_scheme = cast(dict[str, type[urllib3.HTTPConnectionPool]], kinds)
    return pool


def _pool_class(
    kind: type[urllib3.HTTPConnectionPool], connection: type[_Watched], watch: Watch
) -> Callable[..., urllib3.HTTPConnectionPool]:
    def make(*args: Any, **named: Any) -> urllib3.HTTPConnectionPool:
        pool: Any = kind(*args, **named)
        pool.ConnectionCls = functools.partial(connection, watch)
        return pool

    return make


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


class _Watched:
    """A connection that is ended when its time is over, and not begun after that."""

    def __init__(self, watch: Watch, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self._watch = watch

    def _new_conn(self) -> socket.socket:
        connection: Any = self
        if self._watch.is_over:
            raise NewConnectionError(connection, "the time is over")
        made: socket.socket = super()._new_conn()  # type: ignore[misc]  # of urllib3
        self._watch.follow(made)
        return made


class _Public(_Watched):
    """A connection to a public address; its name stays for the Host header and the certificate."""

    _dns_host: str

    def _new_conn(self) -> socket.socket:
        """Connects to the first address that answers. urllib3 reads where to from `_dns_host` (2.8)."""
        connection: Any = self
        connect = super()._new_conn
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


class _Connection(_Watched, HTTPConnection): ...


class _TlsConnection(_Watched, HTTPSConnection): ...


class _PublicConnection(_Public, HTTPConnection): ...


class _PublicTlsConnection(_Public, HTTPSConnection): ...


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


def _judge_target(target: Any, proxies: Collection[tuple[str, int]]) -> None:
    if target is None:  # the socket is connected already
        return
    address = str(target[0]) if isinstance(target, tuple) else "a local socket"
    try:
        is_fine = target[:2] in proxies or is_public(address)
    except ValueError:  # a name would be looked up only now
        is_fine = False
    if not is_fine:
        raise Rejected("private_address", str(PrivateAddressError(address)))


def _proxy_addresses(environment: Iterable[tuple[str, str]]) -> Iterable[tuple[str, int]]:
    """Addresses and ports of the proxies that the user named: they may well be on the same machine."""
    for name, url in environment:
        if not name.lower().endswith("_proxy") or name.lower() == "no_proxy" or not url:
            continue
        try:
            parts = urlsplit(url if "://" in url else f"http://{url}")
            port = parts.port or _PROXY_PORTS.get(parts.scheme.lower(), 80)
            yield from ((str(place[0]), port) for *_, place in socket.getaddrinfo(parts.hostname, port))
        except (OSError, ValueError):  # a proxy that is not there is told by the first request
            continue
