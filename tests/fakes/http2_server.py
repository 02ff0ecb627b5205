"""An HTTP/2 server that misbehaves as told: the frames are libnghttp2's, the manners the test's.

async with Http2Server(lambda call: call.reset(2)) as server:
    outcome = await client.export(Signal.METRICS, body)   # sees RST_STREAM
"""

import asyncio
import contextlib
import ssl
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Self, cast

import ngh2

from edge_agent.settings import Endpoint
from edge_agent.transport.grpc import Headers
from tests.fakes.accepting import stop_accepting
from tests.fakes.collector import PATIENCE_S


class ServerCall:
    """One request, and what may be done to it."""

    def __init__(self, connection: "ServerConnection", stream_id: int, headers: Headers) -> None:
        self.connection = connection
        self.stream_id = stream_id
        self.headers = dict(headers)
        self.body = b""

    def answer(self, message: bytes = b"", *trailers: tuple[bytes, bytes]) -> None:
        """A gRPC answer: headers, one message, trailers (grpc-status 0 if none are given)."""
        http2 = self.connection.http2
        http2.send_response(
            self.stream_id, [(b":status", b"200"), (b"content-type", b"application/grpc")]
        )
        self.send(b"\0" + len(message).to_bytes(4, "big") + message)
        self.end(*(trailers or ((b"grpc-status", b"0"),)))

    def headers_only(self, *headers: tuple[bytes, bytes]) -> None:
        """One HEADERS frame that ends the stream: "trailers-only", or no gRPC at all."""
        self.connection.http2.send_response(self.stream_id, headers, end_stream=True)
        self.connection.flush()

    def begin(self, *headers: tuple[bytes, bytes]) -> None:
        """HEADERS that leave the stream open."""
        self.connection.http2.send_response(self.stream_id, headers)
        self.connection.flush()

    def send(self, data: bytes, *, end: bool = False) -> None:
        """DATA as it is, without a message prefix."""
        self.connection.http2.send_data(self.stream_id, data, end_stream=end)
        self.connection.flush()

    def end(self, *trailers: tuple[bytes, bytes]) -> None:
        """Trailers."""
        self.connection.http2.send_trailers(self.stream_id, trailers)
        self.connection.flush()

    def reset(self, error_code: int) -> None:
        """RST_STREAM."""
        self.connection.http2.reset_stream(self.stream_id, error_code)
        self.connection.flush()


class ServerConnection(asyncio.Protocol):
    """One client's connection."""

    def __init__(self, server: "Http2Server", number: int) -> None:
        self.server = server
        self.number = number
        self.http2 = ngh2.Connection(
            ngh2.Role.SERVER, ngh2.Configuration(auto_window_update=server.open_windows)
        )
        self.calls: dict[int, ServerCall] = {}
        self.events: list[ngh2.Event] = []
        self.lost = False
        self._paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.server.connections.append(self)
        if self.server.closing:
            # Accepted in the moment of the end, by a client that reconnects on its own.
            self.transport.abort()
            return
        if not self.server.mute:
            self.http2.initiate_connection(self.server.settings)
            self.flush()
        self.server.changed()

    def data_received(self, data: bytes) -> None:
        if self.server.mute or self.transport.is_closing():
            return
        with contextlib.suppress(ngh2.ConnectionStateError):  # After our own GOAWAY.
            self.http2.receive_data(data)
            for event in self.http2.events():
                self.events.append(event)
                self._take(event)
            self.flush()
        self.server.changed()

    def _take(self, event: ngh2.Event) -> None:
        if isinstance(event, ngh2.RequestReceived):
            headers = tuple((name, value) for name, value in event.headers)
            self.calls[event.stream_id] = ServerCall(self, event.stream_id, headers)
            self.server.on_headers(self.calls[event.stream_id])
        elif isinstance(event, ngh2.DataReceived):
            call = self.calls[event.stream_id]
            call.body += event.data
            if event.end_stream:
                self.server.received.append(call)
                self.server.on_request(call)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        self.server.changed()

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self.flush()

    def flush(self) -> None:
        """Send what libnghttp2 has ready."""
        while not self._paused and (out := self.http2.data_to_send(65536)):
            self.transport.write(out)

    def goaway(self, last_stream_id: int, error_code: int = 0, debug: bytes = b"") -> None:
        """GOAWAY; streams above `last_stream_id` are not served."""
        self.http2.send_goaway(error_code, last_stream_id=last_stream_id, debug_data=debug)
        self.flush()

    def write(self, data: bytes, *, close: bool = False) -> None:
        """Bytes that need not be frames."""
        self.transport.write(data)
        if close:
            self.transport.close()


def _answer(call: ServerCall) -> None:
    call.answer()


def _nothing(_call: ServerCall) -> None:
    return


class Http2Server:
    """Calls `on_request` with each whole request, `on_headers` with each that begins."""

    def __init__(
        self,
        on_request: Callable[[ServerCall], None] = _answer,
        *,
        on_headers: Callable[[ServerCall], None] = _nothing,
        settings: Mapping[ngh2.Setting, int] | None = None,
        mute: bool = False,
        open_windows: bool = True,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.on_request = on_request
        self.on_headers = on_headers
        self.settings = dict(settings or {})
        self.mute = mute
        self.open_windows = open_windows
        self._tls = tls
        self.connections: list[ServerConnection] = []
        self.received: list[ServerCall] = []
        self.closing = False
        self._changed = asyncio.Event()

    @property
    def endpoint(self) -> Endpoint:
        """Where it listens."""
        return Endpoint("http" if self._tls is None else "https", "127.0.0.1", self._port, "")

    def changed(self) -> None:
        """Something has happened that `until` may be waiting for."""
        self._changed.set()

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait until `condition` holds; TimeoutError if it never does."""
        async with asyncio.timeout(PATIENCE_S):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: ServerConnection(self, len(self.connections)),
            "127.0.0.1",
            0,
            ssl=self._tls,
        )
        self._port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.closing = True
        await stop_accepting(self._server)
        for connection in self.connections:
            connection.transport.abort()
        await self.until(lambda: all(c.lost for c in self.connections))
        await self._server.wait_closed()
