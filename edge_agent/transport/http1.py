"""An HTTP/1.1 server for asyncio, small and bounded: RFC 9112 on httptools.

One request of a connection is answered at a time and in order; what a client sends ahead waits in
the socket. A connection has at most one timer, and none that repeats: an idle client costs no
wake-up until its idle timeout.

What all connections do before the loop looks at anything else is bounded too (`turns`).

An answer that is there at once costs no task. A connection reads on only when its last answer is
out and taken, and when there is room for the body that is coming.
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
    Budget,
    Head,
    Limits,
    Refuse,
    Request,
    Response,
    encode_response,
    plain,
)
from edge_agent.transport.http1_requests import RequestReader, Turn
from edge_agent.transport.listen import Acceptor, bind, longest_idle
from edge_agent.transport.turns import Turns

__all__ = [
    "Admit",
    "Budget",
    "Head",
    "Limits",
    "Refuse",
    "Request",
    "Respond",
    "Response",
    "Server",
    "plain",
    "serve",
]

_log = Log("http")

Respond = Callable[[Request], Response | Awaitable[Response]]

# After a refusal the client may still be sending. Closing on unread bytes would reset the
# connection and take our answer with it (RFC 9112, 9.6), so they are thrown away for this long.
_LINGER_S = 2.0
# A body that trickles in at less than this per body timeout is an attack, not a slow link.
_MIN_PROGRESS_BYTES = 1024
# Nor may one that has much of the budget take longer than this many body timeouts.
_MAX_BODY_TIMEOUTS = 32
# Where room is scarce a body has to be on its way to come within this time.
_ALL_S = 100.0
# A client that is far ahead lets others have their turn after this many answers.
_TURNS_IN_A_ROW = 4
# What one connection may have read and not yet looked at. asyncio would read 256 KiB at a time.
_READ_BYTES = 64 << 10


class _Wait(Enum):
    """What a connection waits for; each has its own patience."""

    FIRST_HEAD = "the first byte of all"
    IDLE = "the next request"
    HEAD = "the rest of a head"
    BODY = "more of a body"
    ROOM = "room for a body"
    TURN = "the others' requests"
    ANSWER = "our own answer"
    READER = "the client to read"
    GOODBYE = "the client to take the last answer and go"


class _Connection(asyncio.BufferedProtocol):
    def __init__(self, server: "Server", reader: Callable[[str], RequestReader]):
        self._server = server
        self._new_reader = reader
        self._limits = server.limits
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._reader: RequestReader
        self._unread = b""
        self._answering: asyncio.Task[None] | None = None
        self._end_wait: Callable[[], None] | None = None
        self._writable = True
        self._half_closed = False
        self._lost = False
        self._wait = _Wait.FIRST_HEAD
        self._deadline = Deadline(self._loop, self._expired)
        self._body_mark = 0
        self._body_begun_s = self._idle_s = self._loop.time()

    # ---- what asyncio calls ----

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101  (a stream's is one)
        self._transport = transport
        name = transport.get_extra_info("peername")
        self._reader = self._new_reader(str(Address(*name[:2])) if isinstance(name, tuple) else "")
        self._server.opened(self)
        self._deadline.set(self._limits.header_timeout_s)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002  (asyncio's signature)
        return self._server.buffer

    def buffer_updated(self, nbytes: int) -> None:
        if self._wait is _Wait.GOODBYE:
            return
        data = self._server.buffer[:nbytes]
        if self._busy:
            # The client is ahead of us. It may wait in its own memory.
            self._unread += data
            self._transport.pause_reading()
            return
        self._read(data)
        self._proceed()

    def eof_received(self) -> bool:
        if self._wait is _Wait.GOODBYE:
            return False
        # Clients may close their side behind the last request (as `nc` does); TLS cannot.
        self._half_closed = self._transport.can_write_eof()
        if self._busy:
            return self._half_closed
        if self._half_closed and (self._reader.in_head or self._reader.in_body):
            self._reader.refuse(400, "the request ends in the middle")
            self._proceed()
            return True
        return False

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  (asyncio's signature)
        self._lost = True
        self._deadline.cancel()
        self._wait_no_more()
        self._reader.close()
        if self._answering is None:
            self._server.ended(self)

    def pause_writing(self) -> None:
        self._writable = False

    def resume_writing(self) -> None:
        self._writable = True
        if self._wait is _Wait.READER:
            self._go_on()

    # ---- requests and answers ----

    @property
    def _busy(self) -> bool:
        """Whether what comes has to wait."""
        return self._wait in (_Wait.ANSWER, _Wait.READER, _Wait.ROOM, _Wait.TURN)

    def _read(self, data: bytes | memoryview) -> None:
        used = len(data)
        try:
            used = self._reader.feed(data)
        except Exception as error:  # noqa: BLE001  (one request's fault is not the server's end)
            _log.error("request failed", exc_info=error)
            self._reader.refuse(500, "internal error")
        self._unread = bytes(data[used:])

    def _proceed(self) -> None:
        """Answer what is ready, then wait for what is not."""
        answered = 0
        while self._reader.ready:
            if answered == _TURNS_IN_A_ROW or self._server.turns.over:
                self._let_others()
                return
            answered += 1
            # Whatever was waited for has come; what comes next has its own patience.
            self._wait = _Wait.IDLE
            self._take_turn(self._reader.ready.popleft())
            if self._busy or self._transport.is_closing() or self._wait is _Wait.GOODBYE:
                return
            if not self._reader.ready and self._unread and not self._reader.wants:
                self._read(self._unread)
        if self._reader.wants:
            self._await_room()
        else:
            self._await_more()

    def _await_more(self) -> None:
        if self._reader.in_body:
            if self._reader.owes_continue:
                self._reader.owes_continue = False
                self._transport.write(CONTINUE)
            if self._wait is not _Wait.BODY:
                self._body_mark = self._reader.body_bytes
                self._body_begun_s = self._loop.time()
                limits = self._limits
                patience_s = min(limits.body_timeout_s, limits.whole_body_timeout_s)
                self._wait_for(_Wait.BODY, patience_s)
        elif self._reader.in_head:
            # From its first byte on: a head that comes byte by byte gains no time.
            if self._wait is not _Wait.HEAD:
                self._wait_for(_Wait.HEAD, self._limits.header_timeout_s)
        else:
            self._idle_s = self._loop.time()
            self._wait_for(_Wait.IDLE, self._limits.idle_timeout_s)
            if self._server.draining:
                self._transport.close()

    def _go_on(self) -> None:
        """What we waited for is here: read on, from what has come meanwhile."""
        self._wait_for(_Wait.IDLE, None)
        if self._unread and not (self._reader.ready or self._reader.wants):
            self._read(self._unread)
        self._proceed()
        if self._busy or self._transport.is_closing():
            return
        if not self._half_closed:
            self._transport.resume_reading()
        elif self._reader.in_head or self._reader.in_body:
            self._reader.refuse(400, "the request ends in the middle")
            self._proceed()
        else:
            self._say_goodbye(unread=False)

    def _let_others(self) -> None:
        self._wait_for(_Wait.TURN, None)
        self._transport.pause_reading()
        self._server.turns.wait(self._own_turn)

    def _own_turn(self) -> None:
        if not self._transport.is_closing():
            self._go_on()

    def _await_room(self) -> None:
        budget = self._server.budget
        assert budget is not None  # noqa: S101  (our bug: without one nothing is wanted)
        self._wait_for(_Wait.ROOM, self._limits.room_timeout_s)
        self._transport.pause_reading()
        self._end_wait = budget.wait(self._reader.wants, self._room_granted)

    def _room_granted(self) -> None:
        self._end_wait = None
        self._reader.granted()
        self._go_on()

    def _wait_no_more(self) -> None:
        if self._end_wait is not None:
            self._end_wait()
            self._end_wait = None

    def _take_turn(self, turn: Turn) -> None:
        subject = turn.subject
        if isinstance(subject, Response):
            self._answer(turn, subject)
            return
        begun_s = self._loop.time()
        try:
            outcome = self._server.respond(subject)
        except Exception as error:  # noqa: BLE001  (one request's fault is not the server's end)
            outcome = self._failed(subject, error)
        self._server.turns.spend(self._loop.time() - begun_s)
        if isinstance(outcome, Response):
            self._release(turn)
            self._answer(turn, outcome)
        else:
            self._wait_for(_Wait.ANSWER, None)
            self._answering = self._loop.create_task(self._answer_later(turn, subject, outcome))

    async def _answer_later(
        self, turn: Turn, request: Request, outcome: Awaitable[Response]
    ) -> None:
        try:
            response = await outcome
        except Exception as error:  # noqa: BLE001  (one request's fault is not the server's end)
            response = self._failed(request, error)
        finally:
            self._answering = None
            self._release(turn)
            if self._lost:
                self._server.ended(self)
        if not self._transport.is_closing():
            self._wait_for(_Wait.IDLE, None)
            self._answer(turn, response)
            if self._wait is _Wait.IDLE:
                self._go_on()

    def _failed(self, request: Request, error: Exception) -> Response:
        _log.error("request failed", exc_info=error, method=request.method, path=request.path)
        return plain(500, "internal error")

    def _release(self, turn: Turn) -> None:
        if turn.held and self._server.budget is not None:
            self._server.budget.release(turn.held)

    def _answer(self, turn: Turn, response: Response) -> None:
        keep_alive = turn.keep_alive and not self._server.draining
        try:
            encoded = encode_response(
                response, keep_alive=keep_alive, http10=turn.http10, head_only=turn.head_only
            )
        except ValueError as error:
            _log.error("request failed", exc_info=error)
            encoded = encode_response(plain(500, "internal error"), keep_alive=keep_alive)
        self._transport.write(encoded)
        if not keep_alive:
            self._say_goodbye(unread=isinstance(turn.subject, Response))
        elif not self._writable:
            self._wait_for(_Wait.READER, self._limits.body_timeout_s)

    def _say_goodbye(self, *, unread: bool) -> None:
        """Close once the answer is out; with `unread` bytes, after the client has seen it."""
        self._unread = b""
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
            case _Wait.BODY if (left_s := self._body_has_s) > 0:
                self._body_mark = self._reader.body_bytes
                self._deadline.set(min(left_s, self._limits.body_timeout_s))
            case _Wait.HEAD | _Wait.BODY:
                self._server.count("slow_head" if self._wait is _Wait.HEAD else "stalled_body")
                self._reader.refuse(408, f"waited too long for {self._wait.value}")
                self._proceed()
            case _Wait.ROOM:
                self._wait_no_more()
                self._reader.refuse(503, "too much is being sent at once")
                self._wait_for(_Wait.IDLE, None)
                self._proceed()
            case _Wait.FIRST_HEAD | _Wait.IDLE:
                self._server.count("idle")
                self._wait_for(_Wait.GOODBYE, _LINGER_S)
                self._transport.close()
            case _Wait.READER | _Wait.GOODBYE | _Wait.ANSWER | _Wait.TURN:
                if self._wait is _Wait.READER:
                    self._server.count("unread")
                self._transport.abort()

    @property
    def _body_has_s(self) -> float:
        """The seconds that a body has left; none if it has not come on as it should."""
        reader, budget = self._reader, self._server.budget
        if reader.body_bytes - self._body_mark < max(
            _MIN_PROGRESS_BYTES, reader.held // _MAX_BODY_TIMEOUTS
        ):
            return 0.0
        spent_s = self._loop.time() - self._body_begun_s
        if (
            budget is not None
            and budget.scarce
            and reader.body_bytes * _ALL_S < reader.held * spent_s
        ):
            return 0.0
        return self._limits.whole_body_timeout_s - spent_s

    # ---- the end ----

    @property
    def idle_since_s(self) -> float | None:
        """Since when there is no request; None while there is one, or the end has come."""
        idle = self._wait in (_Wait.FIRST_HEAD, _Wait.IDLE) and not self._transport.is_closing()
        return self._idle_s if idle else None

    def make_room(self) -> None:
        """End at once, for others to come in."""
        self._server.count("idle")
        self._transport.abort()

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

    def __init__(
        self, respond: Respond, limits: Limits, budget: Budget | None, turns: Turns
    ) -> None:
        self.draining = False
        self.respond = respond
        self.limits = limits
        self.budget = budget
        self.turns = turns
        # One for all: what comes in is looked at, and kept elsewhere, before the next read.
        # A view, because asyncio's TLS fills slices of it.
        self.buffer = memoryview(bytearray(_READ_BYTES))
        # Why connections were ended by us, beside refusals: reason -> how often.
        self.closed: dict[str, int] = {}
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

    def count(self, reason: str) -> None:
        """Note why a connection was ended."""
        self.closed[reason] = self.closed.get(reason, 0) + 1

    def opened(self, connection: _Connection) -> None:
        """A connection stands."""
        self._connections.add(connection)
        self._empty.clear()

    def ended(self, connection: _Connection) -> None:
        """A connection is gone, and so is its last answer."""
        self._connections.discard(connection)
        self._acceptor.release(connection)
        if not self._connections:
            self._empty.set()

    def make_room(self) -> bool:
        """End the connection that has been idle for longest; False if all have requests."""
        idle = longest_idle(self._connections)
        if idle is None:
            return False
        idle.make_room()
        self._acceptor.release(idle)
        return True

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
    refuse: Refuse | None = None,
    budget: Budget | None = None,
    turns: Turns | None = None,
) -> Server:
    """Answer HTTP requests on `host` and `port` (0 takes a free one) with `respond`.

    "localhost" means both loopback families on one port. `admit` sees a head and its
    Content-Length (None where chunked) before the body is read, and may answer it instead.
    `refuse` gives the server's own refusals, of a request whose head is known, the application's
    form. Bodies take their room from `budget` before they are read, until they are answered.
    Servers that are given the same `turns` share the loop as one. An exception in `respond` is a
    500 and an error in the log. Raises OSError when it cannot listen.
    """
    turns = turns or Turns(asyncio.get_running_loop().call_soon)
    server = Server(respond, limits, budget, turns)

    def reader(peer: str) -> RequestReader:
        return RequestReader(limits, peer, admit=admit, refuse=refuse, budget=budget)

    server.attach(
        Acceptor(
            await bind(host, port),
            lambda: _Connection(server, reader),
            max_connections=limits.max_connections,
            make_room=server.make_room,
            refusal=encode_response(
                plain(503, "too many connections", (("retry-after", "1"),)), keep_alive=False
            ),
            tls=tls,
            handshake_timeout_s=limits.header_timeout_s,
        )
    )
    return server
