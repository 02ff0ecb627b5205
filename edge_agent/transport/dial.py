"""A connection to a peer: names, address families, TLS, proxies and half-open links.

Nothing is kept between two calls: a name is resolved and certificate files are read anew for every
connection, so that moved servers and renewed certificates need no restart.
"""

import asyncio
import contextlib
import os
import re
import socket
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from edge_agent.settings import Endpoint
from edge_agent.transport.proxy import Proxy, proxy_for

__all__ = ["DialError", "Proxy", "Tls", "dial", "proxy_for"]

T = TypeVar("T")
P = TypeVar("P", bound=asyncio.BaseProtocol)

# RFC 8305, 5 and 8: how long one address has before the next is tried beside it.
_ATTEMPT_DELAY_S = 0.25
# A 4G link that is gone says nothing. Unacknowledged bytes end the connection after this time
# (tcp(7), TCP_USER_TIMEOUT); the probes below find out about idle ones.
_USER_TIMEOUT_MS = 30_000
_KEEPALIVE_IDLE_S = 120
_KEEPALIVE_INTERVAL_S = 30
_KEEPALIVE_PROBES = 3
_MAX_PROXY_HEAD_BYTES = 8192


class DialError(OSError):
    """No connection. The message names the endpoint and the cause."""


@dataclass(frozen=True, slots=True)
class Tls:
    """Paths of PEM files. Without a certificate the system's roots are trusted."""

    certificate: str | None = None
    client_certificate: str | None = None
    client_key: str | None = None


# ---- connecting -------------------------------------------------------------------------------


async def dial(
    protocol_factory: Callable[[], P],
    endpoint: Endpoint,
    *,
    tls: Tls,
    alpn: tuple[str, ...],
    proxy: Proxy | None,
    timeout_s: float,
) -> tuple[asyncio.Transport, P]:
    """A connection to `endpoint` and its protocol, through `proxy` (CONNECT) where given.

    Covers resolution, TCP, the proxy and the TLS handshake, all within `timeout_s`. Raises
    DialError, and never blocks the loop.
    """
    try:
        async with asyncio.timeout(timeout_s):
            # First, so that an unreadable certificate is found before a server is bothered.
            context = await _in_thread(lambda: _context(tls, alpn)) if endpoint.tls else None
            hop = endpoint if proxy is None else proxy.endpoint
            connection = await _race(_interleaved(await _resolve(hop.host, hop.port)))
            try:
                _tune(connection)
                if proxy is not None:
                    await _connect_through(connection, proxy, endpoint)
            except BaseException:
                connection.close()
                raise
            return await asyncio.get_running_loop().create_connection(
                protocol_factory,
                sock=connection,
                ssl=context,
                server_hostname=_server_name(endpoint.host) if context is not None else None,
                ssl_handshake_timeout=timeout_s if context is not None else None,
            )
    except OSError as error:
        via = "" if proxy is None else f" through proxy {proxy.endpoint.authority}"
        raise DialError(f"{endpoint.authority}{via}: {_cause(error, timeout_s)}") from error


def _cause(error: OSError, timeout_s: float) -> str:
    match error:
        case DialError():
            return str(error)
        case ssl.SSLCertVerificationError():
            return f"TLS: certificate not trusted: {error.verify_message}"
        case ssl.SSLError():
            return f"TLS: {error.reason or error}"
        case TimeoutError():
            return f"no connection within {timeout_s:g} s"
        case ConnectionAbortedError() | ConnectionResetError() if error.strerror is None:
            # What asyncio raises for a peer that hangs up on the handshake.
            return "TLS: the peer closed the connection during the handshake"
        case _ if error.errno is not None:
            return os.strerror(error.errno)  # asyncio puts a text of its own into `strerror`.
        case _:
            return str(error)


def _server_name(host: str) -> str:
    """What the certificate is checked against: no zone (RFC 6874), no root dot (RFC 6066, 3)."""
    return host.partition("%")[0].rstrip(".")


def _tune(connection: socket.socket) -> None:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _USER_TIMEOUT_MS)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _KEEPALIVE_IDLE_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _KEEPALIVE_INTERVAL_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _KEEPALIVE_PROBES)


def _context(tls: Tls, alpn: tuple[str, ...]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2  # RFC 9113, 9.2
    if alpn:
        context.set_alpn_protocols(list(alpn))
    try:
        if tls.certificate is None:
            context.load_default_certs()
        else:
            context.load_verify_locations(cafile=tls.certificate)
    except OSError as error:
        reason = _file_fault(error)
        raise DialError(f"TLS: certificate {tls.certificate}: {reason}") from error
    if tls.client_certificate is not None:
        try:
            # Without a password OpenSSL would ask for one on the terminal.
            context.load_cert_chain(
                tls.client_certificate, tls.client_key, password=lambda: "no password"
            )
        except OSError as error:
            reason = _file_fault(error)
            files = " and ".join(filter(None, (tls.client_certificate, tls.client_key)))
            raise DialError(f"TLS: client certificate {files}: {reason}") from error
    return context


def _file_fault(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return f"not usable PEM ({error.reason or error.strerror})"
    return error.strerror or str(error)


# ---- names ------------------------------------------------------------------------------------

_Address = tuple[socket.AddressFamily, tuple[str, int] | tuple[str, int, int, int]]

# Threads of asyncio's executor would be waited for at exit, and a resolver without a network takes
# half a minute to give up: daemon threads are not. As many may hang as this.
_MAX_THREADS = 16
_free_threads = threading.BoundedSemaphore(_MAX_THREADS)


async def _in_thread(function: Callable[[], T]) -> T:
    """What `function` returns or raises (an OSError), from a thread nobody waits for at exit."""
    if not _free_threads.acquire(blocking=False):
        raise OSError(f"{_MAX_THREADS} look-ups hang: the resolver does not answer")
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[T] = loop.create_future()

    def settle(settled: Callable[[], None]) -> None:
        if not answer.done():  # The dial may have timed out meanwhile.
            settled()

    def run() -> None:
        settled: Callable[[], None]
        try:
            result = function()
        except BaseException as fault:  # noqa: BLE001  (carried over to the awaiting task)
            error = fault
            settled = lambda: answer.set_exception(error)  # noqa: E731  (same shape as below)
        else:
            settled = lambda: answer.set_result(result)  # noqa: E731  (needs no name)
        finally:
            _free_threads.release()
        # RuntimeError: the loop has ended before the resolver did.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(settle, settled)

    try:
        threading.Thread(target=run, name="dial", daemon=True).start()
    except RuntimeError as error:  # The machine, or our cgroup, has no thread to give.
        _free_threads.release()
        raise OSError(str(error)) from None
    return await answer


async def _resolve(host: str, port: int) -> list[_Address]:
    def look_up(flags: int = 0) -> list[_Address]:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)
        # On Linux an address is a pair or, for IPv6, a quadruple.
        return [(info[0], info[4]) for info in found]  # type: ignore[misc]  # stub has more forms

    try:
        try:
            return look_up(socket.AI_NUMERICHOST | socket.AI_NUMERICSERV)  # No I/O, no thread.
        except socket.gaierror:
            return await _in_thread(look_up)
    except socket.gaierror as error:
        raise DialError(f"{host} does not resolve: {error.strerror}") from error
    except UnicodeError as error:
        raise DialError(f"{host} is not a host name: {error}") from error


def _interleaved(addresses: list[_Address]) -> list[_Address]:
    """The families in turn, the resolver's first choice first (RFC 8305, 4)."""
    preferred = [a for a in addresses if a[0] == addresses[0][0]]
    others = [a for a in addresses if a[0] != addresses[0][0]]
    rank = {
        id(a): 2 * i + lag
        for lag, group in ((0, preferred), (1, others))
        for i, a in enumerate(group)
    }
    return sorted(addresses, key=lambda a: rank[id(a)])


async def _attempt(
    family: socket.AddressFamily,
    address: tuple[object, ...],
    won: list[socket.socket],
    failures: list[OSError],
) -> None:
    """Connect to `address`; the connection goes into `won` unless there is one."""
    connection: socket.socket | None = None
    try:
        connection = socket.socket(family, socket.SOCK_STREAM)
        connection.settimeout(0)
        await asyncio.get_running_loop().sock_connect(connection, address)
        if not won:
            won.append(connection)
            connection = None
    except OSError as error:
        failures.append(error)
    finally:
        if connection is not None:
            connection.close()


async def _race(addresses: list[_Address]) -> socket.socket:
    """The first connection that stands; a slow address gets company after a moment (RFC 8305)."""
    won: list[socket.socket] = []
    failures: list[OSError] = []
    untried = list(addresses)
    tasks: set[asyncio.Task[None]] = set()
    try:
        while (untried or tasks) and not won:
            if untried:
                tasks.add(asyncio.create_task(_attempt(*untried.pop(0), won, failures)))
            patience_s = _ATTEMPT_DELAY_S if untried else None
            _, tasks = await asyncio.wait(
                tasks, timeout=patience_s, return_when=asyncio.FIRST_COMPLETED
            )
    except BaseException:
        for connection in won:
            connection.close()
        raise
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    if not won:
        raise failures[0]
    return won[0]


async def _connect_through(connection: socket.socket, proxy: Proxy, endpoint: Endpoint) -> None:
    """Ask the proxy for a tunnel (RFC 9110, 9.3.6)."""
    loop = asyncio.get_running_loop()
    authority = endpoint.authority
    request = f"CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n"
    if proxy.authorization is not None:
        request += f"Proxy-Authorization: {proxy.authorization}\r\n"
    await loop.sock_sendall(connection, f"{request}\r\n".encode("latin-1"))
    head = bytearray()
    while not head.endswith(b"\r\n\r\n"):
        # One byte at a time: what follows the head belongs to the peer, and an HTTP/2 server may
        # speak first.
        byte = await loop.sock_recv(connection, 1)
        if not byte:
            raise DialError("the proxy closed the connection")
        head += byte
        if len(head) > _MAX_PROXY_HEAD_BYTES:
            raise DialError(f"the proxy's answer is longer than {_MAX_PROXY_HEAD_BYTES} bytes")
    status_line = head.partition(b"\r\n")[0].decode("latin-1")
    answer = re.fullmatch(r"HTTP/1\.[01] ([0-9]{3})( .*)?", status_line)
    if answer is None:
        raise DialError("the proxy's answer is not HTTP")
    if not answer[1].startswith("2"):
        phrase = "".join(c for c in answer[2] or "" if c.isprintable())[:80]
        raise DialError(f"the proxy answered {answer[1]}{phrase}")
