"""An HTTP/1.1 server for asyncio, small and bounded: RFC 9112 on httptools.

One request of a connection is answered at a time and in order; what a client sends ahead waits in
the socket. A connection has at most one timer, and none that repeats: an idle client costs no
wake-up until its idle timeout.
"""

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from enum import Enum

from edge_agent.log import Log
from edge_agent.settings import Address
from edge_agent.transport.deadline import Deadline
from edge_agent.transport.http1_messages import (
    CONTINUE,
    Admit,
    Head,
    Limits,
    Request,
    Response,
    encode_response,
    plain,
)
from edge_agent.transport.http1_requests import RequestReader, Turn
from edge_agent.transport.listen import Acceptor, bind

__all__ = ["Admit", "Head", "Limits", "Request", "Respond", "Response", "Server", "plain", "serve"]

_log = Log("http")

Respond = Callable[[Request], Awaitable[Response]]

# After a refusal the client may still be sending. Closing on unread bytes would reset the
# connection and take our answer with it (RFC 9112, 9.6), so they are thrown away for this long.
_LINGER_S = 2.0
# A body that trickles in at less than this per body timeout is an attack, not a slow link.
_MIN_PROGRESS_BYTES = 1024


class _Wait(Enum):
    """What a connection waits for; each has its own patience."""

    FIRST_HEAD = "the first byte of all"
    IDLE = "the next request"
    HEAD = "the rest of a head"
    BODY = "more of a body"
    ANSWER = "our own answer"
    READER = "the client to read"
    GOODBYE = "the client to take the last answer and go"


class _Connection(asyncio.Protocol):
    def __init__(self, server: "Server", respond: Respond, limits: Limits, admit: Admit | None):
        self._server = server
        self._respond = respond
        self._limits = limits
        self._admit = admit
        self._loop = asyncio.get_running_loop()
        self.peer = ""
        self._transport: asyncio.Transport
        self._reader: RequestReader
        self._unread = b""
        self._answering: asyncio.Task[None] | None = None
        self._writable: asyncio.Future[None] | None = None
        self._half_closed = False
        self._lost = False
        self._wait = _Wait.FIRST_HEAD
        self._deadline = Deadline(self._loop, self._expired)
        self._body_mark = 0

    # ---- what asyncio calls ----

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101  (a stream's is one)
        self._transport = transport
        name = transport.get_extra_info("peername")
        self.peer = str(Address(*name[:2])) if isinstance(name, tuple) else ""
        self._reader = RequestReader(self._limits, self.peer, self._admit)
        self._server.opened(self)
        self._deadline.set(self._limits.header_timeout_s)

    def data_received(self, data: bytes) -> None:
        if self._wait is _Wait.GOODBYE:
            return
        if self._answering is not None:
            # The client is ahead of us. It may wait in its own memory.
            self._unread += data
            self._transport.pause_reading()
            return
        self._read(data)
        self._proceed()

    def eof_received(self) -> bool:
        # Clients may close their side behind the last request (as `nc` does); TLS cannot.
        self._half_closed = self._answering is not None and self._transport.can_write_eof()
        return self._half_closed

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  (asyncio's signature)
        self._lost = True
        self._deadline.cancel()
        self.resume_writing()
        if self._answering is None:
            self._server.ended(self)

    def pause_writing(self) -> None:
        self._writable = self._loop.create_future()

    def resume_writing(self) -> None:
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)
        self._writable = None

    # ---- requests and answers ----

    def _read(self, data: bytes) -> None:
        used = len(data)
        try:
            used = self._reader.feed(data)
        except Exception as error:  # noqa: BLE001  (one request's fault is not the server's end)
            _log.error("request failed", exc_info=error)
            self._reader.refuse(plain(500, "internal error"))
        self._unread = data[used:]

    def _proceed(self) -> None:
        """Answer what is ready, or wait for what is not."""
        if self._reader.ready:
            self._wait_for(_Wait.ANSWER, None)
            self._answering = self._loop.create_task(self._answer())
            return
        if self._reader.in_body:
            if self._reader.owes_continue:
                self._reader.owes_continue = False
                self._transport.write(CONTINUE)
            if self._wait is not _Wait.BODY:
                self._body_mark = self._reader.body_bytes
                self._wait_for(_Wait.BODY, self._limits.body_timeout_s)
        elif self._reader.in_head:
            # From its first byte on: a head that comes byte by byte gains no time.
            if self._wait is not _Wait.HEAD:
                self._wait_for(_Wait.HEAD, self._limits.header_timeout_s)
        else:
            self._wait_for(_Wait.IDLE, self._limits.idle_timeout_s)
            if self._server.draining:
                self._transport.close()

    async def _answer(self) -> None:
        """Answer turn after turn until there is none, then go back to reading."""
        try:
            while self._reader.ready and not self._transport.is_closing():
                turn = self._reader.ready.popleft()
                answer, keep_alive = await self._answer_to(turn)
                if self._transport.is_closing():
                    return
                self._transport.write(answer)
                if not keep_alive:
                    self._say_goodbye(unread=isinstance(turn.subject, Response))
                    return
                await self._until_writable()
                if not self._reader.ready and self._unread:
                    self._read(self._unread)
        finally:
            self._answering = None
            if self._lost:
                self._server.ended(self)
        if self._transport.is_closing():
            return
        if self._half_closed:
            self._say_goodbye(unread=False)
        else:
            self._transport.resume_reading()
            self._proceed()

    async def _answer_to(self, turn: Turn) -> tuple[bytes, bool]:
        """The bytes of the answer, and whether the connection outlives it."""
        subject = turn.subject
        if isinstance(subject, Response):
            return self._encoded(subject, turn)
        try:
            response = await self._respond(subject)
            _log.debug("request", method=subject.method, path=subject.path, status=response.status)
            return self._encoded(response, turn)
        except Exception as error:  # noqa: BLE001  (one request's fault is not the server's end)
            _log.error("request failed", exc_info=error, method=subject.method, path=subject.path)
            return self._encoded(plain(500, "internal error"), turn)

    def _encoded(self, response: Response, turn: Turn) -> tuple[bytes, bool]:
        keep_alive = turn.keep_alive and not self._server.draining
        encoded = encode_response(
            response, keep_alive=keep_alive, http10=turn.http10, head_only=turn.head_only
        )
        return encoded, keep_alive

    async def _until_writable(self) -> None:
        if self._writable is not None:
            self._wait_for(_Wait.READER, self._limits.body_timeout_s)
            await self._writable
            self._wait_for(_Wait.ANSWER, None)

    def _say_goodbye(self, *, unread: bool) -> None:
        """Close once the answer is out; with `unread` bytes, after the client has seen it."""
        if unread and not self._half_closed and self._transport.can_write_eof():
            self._wait_for(_Wait.GOODBYE, _LINGER_S)
            self._transport.write_eof()
            self._transport.resume_reading()
        else:
            self._wait_for(_Wait.GOODBYE, self._limits.body_timeout_s)
            self._transport.close()

    # ---- patience ----

    def _wait_for(self, wait: _Wait, patience_s: float | None) -> None:
        self._wait = wait
        self._deadline.set(patience_s)

    def _expired(self) -> None:
        match self._wait:
            case _Wait.BODY if self._reader.body_bytes >= self._body_mark + _MIN_PROGRESS_BYTES:
                self._body_mark = self._reader.body_bytes
                self._deadline.set(self._limits.body_timeout_s)
            case _Wait.HEAD | _Wait.BODY:
                self._reader.refuse(plain(408, f"waited too long for {self._wait.value}"))
                self._proceed()
            case _Wait.FIRST_HEAD | _Wait.IDLE:
                self._wait_for(_Wait.GOODBYE, _LINGER_S)
                self._transport.close()
            case _Wait.READER | _Wait.GOODBYE | _Wait.ANSWER:
                self._transport.abort()

    # ---- the end ----

    def drain(self) -> None:
        """Close now where no request is in progress; else its answer is the last."""
        if self._wait in (_Wait.FIRST_HEAD, _Wait.IDLE):
            self._wait_for(_Wait.GOODBYE, _LINGER_S)
            self._transport.close()

    def abort(self) -> asyncio.Task[None] | None:
        """Cut the connection and cancel its answer, whose task is returned."""
        self._transport.abort()
        if self._answering is not None:
            self._answering.cancel()
        return self._answering


class Server:
    """Listening sockets and the connections they let in. Made by `serve`."""

    def __init__(self, closed: Callable[[str], None] | None = None) -> None:
        self.draining = False
        self._closed = closed
        self._acceptor: Acceptor
        self._connections: set[_Connection] = set()
        self._empty = asyncio.Event()
        self._empty.set()

    def attach(self, acceptor: Acceptor) -> None:
        """Use `acceptor`, which in turn makes connections that belong to this server."""
        self._acceptor = acceptor

    @property
    def ports(self) -> list[int]:
        """The port of each listening socket."""
        return self._acceptor.ports

    def opened(self, connection: _Connection) -> None:
        """A connection stands."""
        self._connections.add(connection)
        self._empty.clear()

    def ended(self, connection: _Connection) -> None:
        """A connection is gone, and so is its last answer."""
        self._connections.discard(connection)
        self._acceptor.release(connection)
        if self._closed is not None:
            self._closed(connection.peer)
        if not self._connections:
            self._empty.set()

    async def close(self, grace_s: float) -> None:
        """Listen no more, give requests in progress `grace_s` to end, then cut what is left."""
        self.draining = True
        await self._acceptor.close()
        for connection in list(self._connections):
            connection.drain()
        try:
            async with asyncio.timeout(grace_s):
                await self._empty.wait()
        except TimeoutError:
            _log.warning("requests cut off at shutdown", connections=len(self._connections))
            answers = [connection.abort() for connection in list(self._connections)]
            await asyncio.gather(*filter(None, answers), return_exceptions=True)
            await self._empty.wait()


async def serve(
    respond: Respond,
    *,
    host: str,
    port: int,
    limits: Limits,
    tls: ssl.SSLContext | None = None,
    admit: Admit | None = None,
    closed: Callable[[str], None] | None = None,
) -> Server:
    """Answer HTTP requests on `host` and `port` (0 takes a free one) with `respond`.

    "localhost" means both loopback families on one port. `admit` sees a head and its
    Content-Length (None where chunked) before the body is read, and may answer it instead; what it
    let in and has not come to `respond` by the time `closed` names its peer never will. An
    exception in `respond` is a 500 and an error in the log. Raises OSError when it cannot listen.
    """
    server = Server(closed)
    server.attach(
        Acceptor(
            await bind(host, port),
            lambda: _Connection(server, respond, limits, admit),
            max_connections=limits.max_connections,
            refusal=encode_response(
                plain(503, "too many connections", (("retry-after", "1"),)), keep_alive=False
            ),
            tls=tls,
            handshake_timeout_s=limits.header_timeout_s,
        )
    )
    return server
