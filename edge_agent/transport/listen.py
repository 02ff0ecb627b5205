"""Listening sockets, and a bound on how many connections they let in.

asyncio's own server counts nothing: it takes every connection, and those still in a TLS handshake
are seen by nobody. Here a connection counts from accept() on.
"""

import asyncio
import errno
import socket
import ssl
from collections.abc import Callable, Iterable
from typing import Protocol, TypeVar

from edge_agent.log import Log
from edge_agent.settings import Address

_log = Log("listen")

_BACKLOG = 128
# Other processes may take the port that the first family got before the second asks for it.
_SAME_PORT_TRIES = 16
# Out of file descriptors, accept() fails at once and the socket stays readable: without a pause
# the loop would spin.
_ACCEPT_PAUSE_S = 1.0
_TLS_SHUTDOWN_S = 5.0
_NO_SUCH_FAMILY = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)


class Connection(Protocol):
    """A connection, as far as it can be in others' way."""

    @property
    def idle_since_s(self) -> float | None:
        """Since when nothing is asked of us (the loop's time); None while something is."""
        ...


Idle = TypeVar("Idle", bound=Connection)


def longest_idle(connections: Iterable[Idle]) -> Idle | None:
    """The connection that has been idle for longest; None if none is."""
    longest, since_s = None, None
    for connection in connections:
        idle_since_s = connection.idle_since_s
        if idle_since_s is not None and (since_s is None or idle_since_s < since_s):
            longest, since_s = connection, idle_since_s
    return longest


async def bind(host: str, port: int) -> list[socket.socket]:
    """Sockets that listen on `host`; "localhost" means both loopback families, on one port.

    Port 0 takes a free one. A family this machine does not have is left out. Raises OSError, its
    text names the address.
    """
    if host == "localhost":
        found = [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")]
    else:
        found = await _addresses(host, port)
    tries_left = _SAME_PORT_TRIES if port == 0 else 1
    while True:
        tries_left -= 1
        try:
            return _bind_all(found, port)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or tries_left == 0:
                raise


async def _addresses(host: str, port: int) -> list[tuple[socket.AddressFamily, str]]:
    try:
        # An address needs neither a look-up nor the thread for it.
        infos = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST | socket.AI_PASSIVE
        )
    except socket.gaierror:
        try:
            infos = await asyncio.get_running_loop().getaddrinfo(
                host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )
        except socket.gaierror as error:
            raise OSError(f"cannot listen on {host}: {error.strerror}") from error
    return list(dict.fromkeys((info[0], str(info[4][0])) for info in infos))


def _bind_all(found: list[tuple[socket.AddressFamily, str]], port: int) -> list[socket.socket]:
    bound: list[socket.socket] = []
    missing: OSError | None = None
    try:
        for family, host in found:
            try:
                bound.append(_bind_one(family, host, port, alone=len(found) == 1))
            except OSError as error:
                text = f"cannot listen on {Address(host, port)}: {error.strerror}"
                named = OSError(error.errno, text)
                if error.errno not in _NO_SUCH_FAMILY:
                    raise named from error
                missing = named
            else:
                port = bound[0].getsockname()[1]
    except OSError:
        for listener in bound:
            listener.close()
        raise
    if not bound and missing is not None:
        raise missing
    return bound


def _bind_one(family: socket.AddressFamily, host: str, port: int, *, alone: bool) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6 and not alone:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.settimeout(0)
        listener.bind((host, port))
        listener.listen(_BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


class Acceptor:
    """Takes connections from listening sockets, never more than `max_connections` at a time.

    `protocol_factory` makes the protocol of each; whoever owns it calls `release` when the
    connection has ended. For an excess connection `make_room` may end one that is idle, and release
    it; if it cannot, the excess one is sent `refusal` (in plaintext alone) and closed.
    """

    def __init__(
        self,
        listeners: list[socket.socket],
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        *,
        max_connections: int,
        make_room: Callable[[], bool],
        refusal: bytes,
        tls: ssl.SSLContext | None,
        handshake_timeout_s: float,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._listeners = listeners
        self._protocol_factory = protocol_factory
        self._max_connections = max_connections
        self._make_room = make_room
        self._refusal = refusal
        self._tls = tls
        self._handshake_timeout_s = handshake_timeout_s
        self._open: set[asyncio.BaseProtocol] = set()
        self._refusing = False
        self._pauses: dict[socket.socket, asyncio.TimerHandle] = {}
        self._greetings: set[asyncio.Task[None]] = set()
        for listener in listeners:
            self._loop.add_reader(listener, self._accept, listener)

    @property
    def ports(self) -> list[int]:
        """The port of each listening socket."""
        return [listener.getsockname()[1] for listener in self._listeners]

    def release(self, protocol: asyncio.BaseProtocol) -> None:
        """The connection of `protocol` has ended: its place is free."""
        self._open.discard(protocol)
        if len(self._open) <= self._max_connections // 2:
            self._refusing = False

    async def close(self) -> None:
        """Listen no more; connections whose handshake is not over are dropped, others live on."""
        for pause in self._pauses.values():
            pause.cancel()
        for listener in self._listeners:
            self._loop.remove_reader(listener)
            listener.close()
        self._listeners = []
        for greeting in self._greetings:
            greeting.cancel()
        await asyncio.gather(*self._greetings, return_exceptions=True)

    def _accept(self, listener: socket.socket) -> None:
        try:
            connection, _ = listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return  # It left before we came.
        except OSError as error:
            _log.warning("cannot accept connections for a second", cause=error.strerror)
            self._loop.remove_reader(listener)
            self._pauses[listener] = self._loop.call_later(
                _ACCEPT_PAUSE_S, self._loop.add_reader, listener, self._accept, listener
            )
            return
        connection.settimeout(0)
        if len(self._open) >= self._max_connections and not self._make_room():
            self._refuse(connection)
            return
        protocol = self._protocol_factory()
        self._open.add(protocol)
        greeting = self._loop.create_task(self._greet(connection, protocol))
        self._greetings.add(greeting)
        greeting.add_done_callback(self._greetings.discard)

    def _refuse(self, connection: socket.socket) -> None:
        if not self._refusing:
            # Once an outage, not once a connection.
            _log.warning("too many connections, refusing more", limit=self._max_connections)
            self._refusing = True
        with connection:
            if self._tls is None:
                try:
                    connection.send(self._refusal)
                except OSError:
                    return

    async def _greet(self, connection: socket.socket, protocol: asyncio.BaseProtocol) -> None:
        try:
            await self._loop.connect_accepted_socket(
                lambda: protocol,
                connection,
                ssl=self._tls,
                ssl_handshake_timeout=self._handshake_timeout_s if self._tls else None,
                ssl_shutdown_timeout=_TLS_SHUTDOWN_S if self._tls else None,
            )
        except OSError as error:
            _log.debug("handshake failed", cause=error)
            self.release(protocol)
        except asyncio.CancelledError:
            self.release(protocol)
            raise
