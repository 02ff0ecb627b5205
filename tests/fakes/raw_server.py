"""A TCP server whose every word is the test's: silence, garbage, half an answer."""

import asyncio
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self

from edge_agent.settings import Endpoint
from tests.fakes.accepting import stop_accepting
from tests.fakes.collector import PATIENCE_S

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class RawServer:
    """Runs `talk` for each connection, and closes the connection when it returns."""

    def __init__(self, talk: Talk, *, port: int = 0) -> None:
        self._talk = talk
        self._port = port
        self.connections = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing = False

    @property
    def endpoint(self) -> Endpoint:
        """Where it listens."""
        return Endpoint("http", "127.0.0.1", self._port, "/v1/metrics")

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._closing = True
        await stop_accepting(self._server)
        for task in self._tasks:
            task.cancel()
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._closing:
            # Accepted in the moment of the end, by a client that reconnects on its own.
            writer.transport.abort()
            return
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        try:
            await self._talk(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            writer.transport.abort()
        finally:
            writer.close()
            self._tasks.discard(task)


async def forever(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    """Read to the end and say nothing."""
    while await reader.read(65536):
        pass
