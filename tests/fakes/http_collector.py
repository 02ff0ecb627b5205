"""A collector over HTTP/1.1 that answers as told, written on bare streams: no code under test."""

import asyncio
import gzip
import ssl
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from edge_agent.otlp.signal import HTTP_PATHS, Signal
from edge_agent.settings import Endpoint
from tests.fakes.accepting import stop_accepting
from tests.fakes.collector import PATIENCE_S, Inbox, Received


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """One scripted answer; it waits for `after` first. `raw` replaces all of it by bytes."""

    status: int = 200
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = (("Content-Type", "application/x-protobuf"),)
    after: asyncio.Event | None = None
    raw: bytes | None = None

    def encoded(self) -> bytes:
        """The answer as it goes out."""
        if self.raw is not None:
            return self.raw
        # No body and no length with 204: RFC 9110, 8.6.
        length = [] if self.status == 204 else [("Content-Length", str(len(self.body)))]
        lines = [f"{name}: {value}" for name, value in (*self.headers, *length)]
        head = "\r\n".join([f"HTTP/1.1 {self.status} X", *lines, "", ""])
        return head.encode("latin-1") + (b"" if self.status == 204 else self.body)


class FakeHttpCollector(Inbox):
    """OTLP/HTTP with protobuf. Gives `answers` one by one, then 200 for good."""

    def __init__(
        self,
        answers: Iterable[int | HttpAnswer] = (),
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        super().__init__()
        self._answers = deque(HttpAnswer(a) if isinstance(a, int) else a for a in answers)
        self._host = host
        self._port = port
        self._tls = tls
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing = False
        self.connections = 0

    @property
    def endpoint(self) -> Endpoint:
        """Where it takes metrics; the other signals' paths hang beside it."""
        return self.endpoint_of(Signal.METRICS)

    def endpoint_of(self, signal: Signal) -> Endpoint:
        """Where it takes `signal`."""
        scheme = "http" if self._tls is None else "https"
        return Endpoint(scheme, self._host, self._port, HTTP_PATHS[signal])

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(
            self._serve, self._host, self._port, ssl=self._tls, limit=1 << 20
        )
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
            while await self._exchange(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            writer.transport.abort()
        finally:
            writer.close()
            self._tasks.discard(task)

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request and its answer; whether the connection goes on."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        path = head[0].split(" ")[1]
        headers = {}
        for line in filter(None, head[1:]):
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        if headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        signal = {path: signal for signal, path in HTTP_PATHS.items()}[path]
        await self.add(Received(signal, body, dict(headers)))
        answer = self._answers.popleft() if self._answers else HttpAnswer()
        if answer.after is not None:
            await answer.after.wait()
        writer.write(answer.encoded())
        await writer.drain()
        return answer.raw is None
