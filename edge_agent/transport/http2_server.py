"""A server of unary gRPC calls over HTTP/2: listening sockets, connections, their end."""

import asyncio
import contextlib
import ssl
from typing import Generic

from edge_agent.transport.budget import Budget
from edge_agent.transport.http2_connection import READ_BYTES, Connection
from edge_agent.transport.http2_streams import Calls, Head, Limits, Reply, Waiting
from edge_agent.transport.listen import Acceptor, bind, longest_idle
from edge_agent.transport.turns import Turns

__all__ = ["Calls", "Limits", "Reply", "Server", "serve"]


class Server(Generic[Head]):
    """Listening sockets and the connections they let in. Made by `serve`."""

    def __init__(self, calls: Calls[Head], budget: Budget, limits: Limits, turns: Turns) -> None:
        self.calls = calls
        self.budget = budget
        self.limits = limits
        self.waiting = Waiting()
        self.turns = turns
        self.buffer = memoryview(bytearray(READ_BYTES))
        # Why connections, or calls on them, were ended by us: reason -> how often.
        self.closed: dict[str, int] = {}
        self.acceptor: Acceptor
        self._connections: set[Connection[Head]] = set()
        self._empty = asyncio.Event()
        self._empty.set()

    @property
    def ports(self) -> list[int]:
        """The port of each listening socket."""
        return self.acceptor.ports

    def count(self, reason: str, times: int = 1) -> None:
        """Note why a connection, or a call, was ended."""
        self.closed[reason] = self.closed.get(reason, 0) + times

    def opened(self, connection: Connection[Head]) -> None:
        """A connection stands."""
        self._connections.add(connection)
        self._empty.clear()

    def ended(self, connection: Connection[Head]) -> None:
        """A connection is gone."""
        self._connections.discard(connection)
        self.acceptor.release(connection)
        if not self._connections:
            self._empty.set()

    def make_room(self) -> bool:
        """End the connection that has been idle for longest; False if all have calls."""
        idle = longest_idle(self._connections)
        if idle is None:
            return False
        idle.make_room()
        self.acceptor.release(idle)
        return True

    async def close(self, grace_s: float) -> None:
        """Listen no more, give calls in progress `grace_s` to end, then cut what is left."""
        await self.acceptor.close()
        for connection in list(self._connections):
            connection.drain()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace_s):
                await self._empty.wait()
        for connection in list(self._connections):
            connection.abort()
        await self._empty.wait()


async def serve(
    calls: Calls[Head],
    budget: Budget,
    *,
    host: str,
    port: int,
    tls: ssl.SSLContext | None = None,
    limits: Limits,
    turns: Turns | None = None,
) -> Server[Head]:
    """Answer unary gRPC calls on `host` and `port` (0 takes a free one).

    "localhost" means both loopback families on one port. Servers that are given the same `turns`
    share the loop as one. Raises OSError when it cannot listen.
    """
    turns = turns or Turns(asyncio.get_running_loop().call_soon)
    server = Server(calls, budget, limits, turns)
    server.acceptor = Acceptor(
        await bind(host, port),
        lambda: Connection(server),
        max_connections=limits.max_connections,
        make_room=server.make_room,
        refusal=b"",
        tls=tls,
        handshake_timeout_s=limits.first_s,
    )
    return server
