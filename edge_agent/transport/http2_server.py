"""The server's side of HTTP/2, for unary gRPC calls: libnghttp2 inside an asyncio protocol.

Its rules:

- Memory is granted before it is used. A stream may send its first INITIAL_WINDOW bytes unasked, and
  holds as many of the budget from the moment it stays open. The five bytes before its message then
  tell its size; its window is opened for just that many once the budget has granted them. Until
  then the rest stays with the sender.
- Nothing from a peer raises into the loop. A connection that breaks the protocol, floods, or keeps
  us waiting ends with GOAWAY, and the reason is counted.
- A call that comes whole in one read costs no task, no future and no timer of its own: the answer
  is written with all others that this read has brought.
- One timer a connection, which an idle one sets every five minutes.
"""

import asyncio
import contextlib
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar, cast

import ngh2

from edge_agent.log import Log
from edge_agent.transport.budget import Budget
from edge_agent.transport.deadline import Deadline
from edge_agent.transport.grpc import PREFIX_BYTES, Headers
from edge_agent.transport.http2 import MAX_HEADER_LIST_BYTES, MAX_STREAMS, pairs
from edge_agent.transport.listen import Acceptor, bind

INITIAL_WINDOW = (1 << 16) - 1
_READ_BYTES = 64 << 10
_WRITE_BYTES = 64 << 10
_MAX_WINDOW = (1 << 31) - 1
_SETTINGS = {
    ngh2.Setting.MAX_CONCURRENT_STREAMS: MAX_STREAMS,
    ngh2.Setting.INITIAL_WINDOW_SIZE: INITIAL_WINDOW,
    ngh2.Setting.MAX_HEADER_LIST_SIZE: MAX_HEADER_LIST_BYTES,
}
# Windows are opened by hand. Resets, glitches and CONTINUATION frames are bounded by libnghttp2's
# own defaults; acknowledgements that a peer does not read are not kept by the thousand.
_CONFIG = ngh2.Configuration(
    auto_window_update=False,
    max_inbound_header_list_size=MAX_HEADER_LIST_BYTES,
    max_outbound_ack=100,
)
# A body has to bring this much in each period, or it is given up.
_MIN_PROGRESS_BYTES = 1024

_log = Log("transport.http2")

Head = TypeVar("Head")


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole answer; without trailers the headers end it ("trailers-only")."""

    headers: Headers
    body: bytes = b""
    trailers: Headers = ()


class Calls(Protocol[Head]):
    """What answers the calls. None of it may raise or wait."""

    def begin(self, headers: Headers) -> Head | Reply:
        """What is known of a call by its headers, or its answer."""
        ...

    def message(self, head: Head, data: bytes) -> Reply:
        """The answer to a call whose data, prefix and message, is whole."""
        ...

    def refuse_size(self, size: int) -> Reply | None:
        """The answer to a message of `size` bytes that has not come yet; None to take it."""
        ...

    def refuse_load(self) -> Reply:
        """The answer where there is no room, or the body does not come."""
        ...


@dataclass(frozen=True, slots=True)
class Limits:
    """Times in seconds. A connection has `first_s` for its first call, `idle_s` between calls."""

    max_connections: int = 256
    first_s: float = 10.0
    idle_s: float = 300.0
    # How long a body may bring nothing, or wait for room.
    stall_s: float = 5.0


@dataclass(slots=True, eq=False)
class _Stream(Generic[Head]):
    """A call whose data is not whole yet. `granted` are its bytes of the budget."""

    head: Head
    parts: list[bytes] = field(default_factory=list)
    received: int = 0
    needed: int | None = None
    granted: int = 0
    end_wait: Callable[[], None] | None = None
    seen: int = 0


class _Connection(asyncio.BufferedProtocol, Generic[Head]):
    def __init__(self, server: "Server[Head]") -> None:
        self._server = server
        self._calls = server.calls
        self._budget = server.budget
        self._http2 = ngh2.Connection(ngh2.Role.SERVER, _CONFIG)
        self._streams: dict[int, _Stream[Head]] = {}
        self._fresh: list[int] = []
        self._paused = False
        self._ended = False
        self._served = False
        self._deadline = Deadline(asyncio.get_running_loop(), self._expired)
        self._transport: asyncio.Transport

    # What asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # Streams have no other.
        self._server.opened(self)
        self._http2.initiate_connection(_SETTINGS)
        # What a connection may send is the sum of what its streams may.
        self._http2.set_local_window_size(_MAX_WINDOW)
        self._deadline.set(self._server.limits.first_s)
        self._send()

    def get_buffer(self, _sizehint: int) -> memoryview:
        return self._server.buffer

    def buffer_updated(self, nbytes: int) -> None:
        if self._ended:
            return
        try:
            self._http2.receive_data(self._server.buffer[:nbytes])
            self._take_events()
            self._send()
        except ngh2.DenialOfServiceError as error:
            self._end("flood", str(error), ngh2.ErrorCode.ENHANCE_YOUR_CALM)
        except ngh2.NGH2Error as error:
            self._end("protocol_error", str(error), ngh2.ErrorCode.PROTOCOL_ERROR)

    def eof_received(self) -> bool:
        # No request can become whole any more, and nobody may be there to read an answer.
        return False

    def pause_writing(self) -> None:
        # Who does not read its answers sends no further calls either.
        self._paused = True
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._paused = False
        self._transport.resume_reading()
        with contextlib.suppress(ngh2.NGH2Error):
            self._send()

    def connection_lost(self, _exc: Exception | None) -> None:
        self._ended = True
        self._deadline.cancel()
        for stream in self._streams.values():
            self._give_back(stream)
        self._streams.clear()
        self._server.ended(self)

    # Calls

    def _take_events(self) -> None:
        for event in self._http2.events():
            match event:
                case ngh2.DataReceived(stream_id=stream_id, data=data, end_stream=last):
                    self._take_data(stream_id, data, last=last)
                case ngh2.RequestReceived(stream_id=stream_id, headers=headers, end_stream=last):
                    self._begin(stream_id, pairs(headers), last=last)
                case ngh2.TrailersReceived(stream_id=stream_id):
                    self._whole(stream_id)
                case ngh2.StreamReset(stream_id=stream_id) | ngh2.StreamClosed(stream_id=stream_id):
                    self._drop(stream_id)
        for stream_id in self._fresh:
            self._claim(stream_id)
        self._fresh.clear()
        if not self._streams:
            idle_s = self._server.limits.idle_s if self._served else self._server.limits.first_s
            self._deadline.set(idle_s)

    def _begin(self, stream_id: int, headers: Headers, *, last: bool) -> None:
        head = self._calls.begin(headers)
        self._served = True
        if isinstance(head, Reply):
            self._answer(stream_id, head)
            return
        self._streams[stream_id] = _Stream(head)
        self._fresh.append(stream_id)
        if last:
            self._whole(stream_id)

    def _take_data(self, stream_id: int, data: bytes, *, last: bool) -> None:
        stream = self._streams.get(stream_id)
        if stream is None:
            # Of a call that is answered: only the connection's window has to know.
            self._http2.acknowledge_received_data(len(data), stream_id)
            return
        stream.parts.append(data)
        stream.received += len(data)
        if last:
            self._whole(stream_id)
            return
        if stream.needed is None and stream.received >= PREFIX_BYTES:
            prefix = stream.parts[0]
            if len(prefix) < PREFIX_BYTES:
                prefix = b"".join(stream.parts)
            stream.needed = PREFIX_BYTES + int.from_bytes(prefix[1:PREFIX_BYTES], "big")
            if stream.granted:
                self._claim(stream_id)
        if stream.needed is not None and stream.received > stream.needed:
            self._whole(stream_id)  # The core says what is wrong with it.

    def _whole(self, stream_id: int) -> None:
        stream = self._drop(stream_id)
        if stream is not None:
            data = stream.parts[0] if len(stream.parts) == 1 else b"".join(stream.parts)
            self._answer(stream_id, self._calls.message(stream.head, data))

    def _claim(self, stream_id: int) -> None:
        """Get the budget for a call that is not whole yet, and let in what is missing."""
        stream = self._streams.get(stream_id)
        if stream is None:
            return
        if stream.needed is not None and (
            (refusal := self._calls.refuse_size(stream.needed - PREFIX_BYTES)) is not None
        ):
            self._refuse(stream_id, refusal)
            return
        if not stream.granted:
            self._deadline.set(self._server.limits.stall_s)
            if not self._budget.grant(INITIAL_WINDOW):
                self._refuse(stream_id, self._calls.refuse_load())
                return
            stream.granted = INITIAL_WINDOW
        missing = (stream.needed or 0) - stream.granted
        if missing <= 0 or stream.end_wait is not None:
            return
        if self._budget.grant(missing):
            self._let_in(stream_id, missing)
        else:
            stream.end_wait = self._budget.wait(
                missing, lambda: self._granted_late(stream_id, missing)
            )

    def _let_in(self, stream_id: int, size: int) -> None:
        stream = self._streams[stream_id]
        stream.granted += size
        self._http2.set_local_window_size(stream.granted, stream_id=stream_id)

    def _granted_late(self, stream_id: int, size: int) -> None:
        stream = self._streams[stream_id]
        stream.end_wait = None
        stream.seen = stream.received - _MIN_PROGRESS_BYTES
        try:
            self._let_in(stream_id, size)
            self._send()
        except ngh2.NGH2Error:
            # The stream ended in this very moment: its end gives the bytes back.
            return

    def _refuse(self, stream_id: int, reply: Reply) -> None:
        self._drop(stream_id)
        self._answer(stream_id, reply)

    def _drop(self, stream_id: int) -> _Stream[Head] | None:
        stream = self._streams.pop(stream_id, None)
        if stream is not None:
            self._give_back(stream)
            if stream.received:
                with contextlib.suppress(ngh2.NGH2Error):
                    self._http2.acknowledge_received_data(stream.received, stream_id)
        return stream

    def _give_back(self, stream: _Stream[Head]) -> None:
        if stream.end_wait is not None:
            stream.end_wait()
            stream.end_wait = None
        if stream.granted:
            self._budget.release(stream.granted)
            stream.granted = 0

    def _answer(self, stream_id: int, reply: Reply) -> None:
        # The stream may be gone already: then nobody waits for the answer.
        with contextlib.suppress(ngh2.StreamProtocolError, ngh2.ConnectionClosingError):
            if not reply.trailers:
                self._http2.send_response(stream_id, reply.headers, end_stream=True)
                return
            self._http2.send_response(stream_id, reply.headers)
            self._http2.send_data(stream_id, reply.body)
            self._http2.send_trailers(stream_id, reply.trailers)

    # The connection

    def _send(self) -> None:
        if self._ended:
            return
        while not self._paused and (out := self._http2.data_to_send(_WRITE_BYTES)):
            self._transport.write(out)
        if not (self._http2.want_read or self._http2.want_write):
            self._ended = True
            self._transport.close()

    def _expired(self) -> None:
        """Five seconds of a body without progress, or a connection that nobody uses."""
        if not self._streams:
            self._end("idle" if self._served else "no_request", "", ngh2.ErrorCode.NO_ERROR)
            return
        for stream_id, stream in list(self._streams.items()):
            if stream.received - stream.seen < _MIN_PROGRESS_BYTES:
                self._server.count("stalled_body")
                self._refuse(stream_id, self._calls.refuse_load())
            stream.seen = stream.received
        limits = self._server.limits
        self._deadline.set(limits.stall_s if self._streams else limits.idle_s)
        with contextlib.suppress(ngh2.NGH2Error):
            self._send()

    def _end(self, reason: str, cause: str, code: int) -> None:
        """Say GOAWAY and close; the reason is counted."""
        self._server.count(reason)
        if cause:
            _log.debug("connection closed", reason=reason, cause=cause)
        # A connection that is broken may have nothing left to say.
        with contextlib.suppress(ngh2.NGH2Error):
            self._http2.terminate_connection(code)
            while out := self._http2.data_to_send(_WRITE_BYTES):
                self._transport.write(out)
        self._ended = True
        self._transport.close()
        # A peer that reads nothing would keep it half open.
        self._deadline.cancel()
        asyncio.get_running_loop().call_later(1.0, self._transport.abort)

    def drain(self) -> None:
        """Take no further call, and close once those that are here are answered."""
        with contextlib.suppress(ngh2.NGH2Error):
            self._http2.send_goaway()
            self._send()
        if not self._streams and not self._ended:
            self._ended = True
            self._transport.close()

    def abort(self) -> None:
        """Cut the connection."""
        self._transport.abort()


class Server(Generic[Head]):
    """Listening sockets and the connections they let in. Made by `serve`."""

    def __init__(self, calls: Calls[Head], budget: Budget, limits: Limits) -> None:
        self.calls = calls
        self.budget = budget
        self.limits = limits
        # One for all: libnghttp2 copies what it keeps before the next read.
        self.buffer = memoryview(bytearray(_READ_BYTES))
        # Why connections, or calls on them, were ended by us: reason -> how often.
        self.closed: dict[str, int] = {}
        self.acceptor: Acceptor
        self._connections: set[_Connection[Head]] = set()
        self._empty = asyncio.Event()
        self._empty.set()

    @property
    def ports(self) -> list[int]:
        """The port of each listening socket."""
        return self.acceptor.ports

    def count(self, reason: str) -> None:
        """Note why a connection, or a call, was ended."""
        self.closed[reason] = self.closed.get(reason, 0) + 1

    def opened(self, connection: _Connection[Head]) -> None:
        """A connection stands."""
        self._connections.add(connection)
        self._empty.clear()

    def ended(self, connection: _Connection[Head]) -> None:
        """A connection is gone."""
        self._connections.discard(connection)
        self.acceptor.release(connection)
        if not self._connections:
            self._empty.set()

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
) -> Server[Head]:
    """Answer unary gRPC calls on `host` and `port` (0 takes a free one).

    "localhost" means both loopback families on one port. Raises OSError when it cannot listen.
    """
    server = Server(calls, budget, limits)
    server.acceptor = Acceptor(
        await bind(host, port),
        lambda: _Connection(server),
        max_connections=limits.max_connections,
        refusal=b"",
        tls=tls,
        handshake_timeout_s=limits.first_s,
    )
    return server
