"""The server's side of HTTP/2, for unary gRPC calls: libnghttp2 inside an asyncio protocol.

Its rules:

- Memory is granted before it is used: `http2_streams`.
- Nothing from a peer raises into the loop. A connection that breaks the protocol, floods, or keeps
  us waiting ends with GOAWAY, and the reason is counted.
- The loop is for others too: who brings more than a share of work is read no more until the rest
  has had its turn, which is that of its server (`turns`).
- A call that comes whole in one read costs no task, no future and no timer: its answer is written
  with all others that the read has brought.
- Who does not read answers is not read from, and has no more than its streams' answers waiting.
- One timer a connection, which an idle one sets every five minutes.
"""

import asyncio
import contextlib
import math
from collections.abc import Iterator
from typing import Generic, Protocol, cast

import ngh2

from edge_agent.log import Log
from edge_agent.transport.budget import Budget
from edge_agent.transport.deadline import Deadline
from edge_agent.transport.http2 import MAX_HEADERS, error_name
from edge_agent.transport.http2_frames import Frames
from edge_agent.transport.http2_limits import (
    CONFIG,
    NOT_HTTP2,
    PREFACE,
    SETTINGS,
    ControlFrames,
    goaway,
    misdeed,
)
from edge_agent.transport.http2_streams import (
    Calls,
    Head,
    Limits,
    Reply,
    Streams,
    Waiting,
)
from edge_agent.transport.turns import Turns

# asyncio's own reads are of 256 KiB, which costs a system call for the memory each time.
READ_BYTES = 64 << 10
_MAX_WINDOW = (1 << 31) - 1
# In which a request of HTTP/1 gives itself away.
_FIRST_LINE_BYTES = 4096
# For a GOAWAY to be taken: closing on unread bytes would reset the connection, and it with it.
_LINGER_S = 1.0

_log = Log("transport.http2")


class Owner(Protocol[Head]):
    """The server, as its connections see it."""

    calls: Calls[Head]
    budget: Budget
    limits: Limits
    waiting: Waiting
    turns: Turns
    # One for all: libnghttp2 copies what it keeps before the next read.
    buffer: memoryview

    def opened(self, connection: "Connection[Head]") -> None:
        """A connection stands."""
        ...

    def ended(self, connection: "Connection[Head]") -> None:
        """A connection is gone."""
        ...

    def count(self, reason: str, times: int = 1) -> None:
        """A connection, or a call, was ended by us."""
        ...


class Connection(asyncio.BufferedProtocol, Generic[Head]):
    """One connection, as asyncio and its calls see it."""

    def __init__(self, owner: Owner[Head]) -> None:
        self._owner = owner
        self._limits = owner.limits
        self._loop = asyncio.get_running_loop()
        self._http2 = ngh2.Connection(ngh2.Role.SERVER, CONFIG)
        self._streams = Streams(
            owner.calls, owner.budget, owner.waiting, owner.limits, owner.turns, self
        )
        self._deadline = Deadline(self._loop, self._expired)
        self._transport: asyncio.Transport
        self.now_s = self._heard_s = self._loop.time()
        self._wake_s = math.inf
        # Since when a frame is incomplete; the first is the preface.
        self._partial_s: float | None = self.now_s
        self._frames = Frames()
        # When a call was last begun or answered: what says nothing but PING is idle.
        self._active_s = self.now_s
        self._paused_s: float | None = None
        self._control = ControlFrames(self.now_s)
        self._requests = 0
        self._last_stream_id = 0
        # Answered, when, and not closed: the peer has not taken all of the answer.
        self._untaken: dict[int, float] = {}
        # Answered before their end: reset once the answer is out.
        self._cut: list[int] = []
        self._started = self._leaving = self._ended = self._turning = False
        # Calls wait for their turn, and nothing is read.
        self._queuing = False

    # What asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for the preface: the client speaks first."""
        self._transport = cast(asyncio.Transport, transport)  # Streams have no other.
        self._owner.opened(self)
        self.wake_at(self.now_s + self._limits.first_s)

    def get_buffer(self, _sizehint: int) -> memoryview:
        """Where the next read goes."""
        return self._owner.buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Take the peer's frames."""
        if self._ended:
            return  # Thrown away while a GOAWAY is on its way.
        data = self._owner.buffer[:nbytes]
        if not self._started and not self._start(bytes(data[:_FIRST_LINE_BYTES])):
            return
        self.now_s = self._heard_s = self._loop.time()
        try:
            self._note_frames(data)
            self._http2.receive_data(data)
            self._turn()
        except ngh2.NGH2Error as error:
            self._broken(error)

    def eof_received(self) -> bool:
        """Close."""
        # No call can become whole any more, and nobody may be there to read an answer.
        return False

    def pause_writing(self) -> None:
        """The peer does not take its answers."""
        # Who does not read its answers sends no further calls either.
        self._paused_s = self._loop.time()
        self._transport.pause_reading()
        self.wake_at(self._paused_s + self._limits.stall_s)

    def resume_writing(self) -> None:
        """It has taken them."""
        self._paused_s = None
        self._read_on()
        self.flush()

    def connection_lost(self, _exc: Exception | None) -> None:
        """Give back what is held."""
        self._ended = True
        self._deadline.cancel()
        self._streams.end()
        self._owner.ended(self)

    # What the calls ask for

    def answer(self, stream_id: int, reply: Reply, *, last: bool) -> None:
        """`Wire.answer`."""
        http2 = self._http2
        # The stream may be gone already: then nobody waits for the answer.
        try:
            if reply.body:
                http2.send_response(stream_id, reply.headers)
                if reply.trailers:
                    http2.send_data(stream_id, reply.body)
                    http2.send_trailers(stream_id, reply.trailers)
                else:
                    http2.send_data(stream_id, reply.body, end_stream=True)
            else:
                http2.send_response(stream_id, reply.headers, end_stream=True)
        except ngh2.NGH2Error:
            return
        self._untaken[stream_id] = self._active_s = self.now_s
        if not last:
            self._cut.append(stream_id)

    def taken(self, stream_id: int, size: int) -> None:
        """`Wire.taken`."""
        # After the end of a connection there is nobody to tell.
        try:
            self._http2.acknowledge_received_data(size, stream_id)
        except ngh2.NGH2Error:
            return

    def let_in(self, stream_id: int, size: int) -> None:
        """`Wire.let_in`."""
        with contextlib.suppress(ngh2.NGH2Error):
            self._http2.set_local_window_size(size, stream_id=stream_id)
        self.flush()

    def time_s(self) -> float:
        """`Wire.time_s`."""
        return self._loop.time()

    def wake_at(self, time_s: float) -> None:
        """`Wire.wake_at`."""
        if time_s < self._wake_s and not self._ended:
            self._wake_s = time_s
            self._deadline.set(time_s - self._loop.time())

    # Frames

    def _start(self, first: bytes) -> bool:
        """Greet a peer that speaks HTTP/2; tell any other where it is."""
        if not PREFACE.startswith(first[: len(PREFACE)]):
            self._owner.count("not_http2")
            self._say_goodbye(NOT_HTTP2 if b" HTTP/1." in first else b"")
            return False
        self._started = True
        self._http2.initiate_connection(SETTINGS)
        # What a connection may send is the sum of what its streams may.
        self._http2.set_local_window_size(_MAX_WINDOW)
        return True

    def flush(self) -> None:
        """Send what there is to send, outside of a read."""
        if self._turning or self._ended or not self._started:
            return
        try:
            self._turn()
        except ngh2.NGH2Error as error:
            self._broken(error)

    def _turn(self) -> None:
        """Take what has happened and send what is to be sent, until nothing is left of both."""
        http2 = self._http2
        self._turning = True
        try:
            self._streams.go_on()
            events = http2.events()
            while True:
                for event in events:
                    self._take(event)
                    if self._ended:
                        return
                if self._paused_s is None and (out := http2.data_to_send()):
                    self._transport.write(out)
                    if self._cut:
                        self._reset_cut()
                events = http2.events()
                if not events:
                    break
        finally:
            self._turning = False
        if self._streams or self._untaken:
            self.wake_at(self.now_s + self._limits.stall_s)
        if self._streams.late and not self._queuing:
            self._queuing = True
            self._transport.pause_reading()
            self._owner.turns.wait(self._own_turn)

    def _own_turn(self) -> None:
        self._queuing = False
        if self._transport.is_closing():
            return
        self.now_s = self._loop.time()
        self.flush()
        if not self._queuing:
            self._read_on()

    def _read_on(self) -> None:
        """Read again, unless there is another reason not to."""
        if self._paused_s is not None or self._queuing:
            return
        if self._partial_s is not None:
            # That the rest of it was not read is not the peer's fault.
            self._partial_s = self._loop.time()
        self._transport.resume_reading()

    def _take(self, event: ngh2.Event) -> None:
        match event:
            case ngh2.DataReceived(stream_id=stream_id, data=data, end_stream=last):
                if not data and not last and self._control.flooding(self.now_s, self._requests):
                    self._end("flood", "empty frames", ngh2.ErrorCode.ENHANCE_YOUR_CALM)
                self._streams.data(stream_id, data, last=last)
            case ngh2.RequestReceived(stream_id=stream_id, headers=headers, end_stream=last):
                if len(headers) > MAX_HEADERS:
                    cause = f"{len(headers)} header fields"
                    self._end("header_bomb", cause, ngh2.ErrorCode.ENHANCE_YOUR_CALM)
                    return
                self._active_s = self.now_s
                self._requests += 1
                self._last_stream_id = stream_id
                self._streams.begin(stream_id, headers, last=last)
            case ngh2.StreamClosed(stream_id=stream_id):
                self._untaken.pop(stream_id, None)
                self._streams.gone(stream_id)
            case ngh2.TrailersReceived(stream_id=stream_id):
                self._streams.trailers(stream_id)
            case ngh2.GoAwayReceived():
                self._leaving = True
            case ngh2.ConnectionClosed(error_code=code, debug_data=debug):
                self._closed_by_protocol(code, debug)
            case _:
                # SETTINGS, PING, WINDOW_UPDATE and the like.
                if self._control.flooding(self.now_s, self._requests):
                    self._end("flood", type(event).__name__, ngh2.ErrorCode.ENHANCE_YOUR_CALM)

    def _reset_cut(self) -> None:
        """Tell peers that are still sending to stop (RFC 9113, 8.1), now that they are answered."""
        for stream_id in self._cut:
            # It may be closed by now, and so may the connection.
            with contextlib.suppress(ngh2.NGH2Error):
                self._http2.reset_stream(stream_id, ngh2.ErrorCode.NO_ERROR)
        self._cut.clear()
        if out := self._http2.data_to_send():
            self._transport.write(out)

    # Time

    def _note_frames(self, data: memoryview) -> None:
        """Note since when a frame is incomplete. One that trickles gains no time by it."""
        ended = self._frames.feed(data)
        if not self._frames.inside:
            self._partial_s = None
        elif ended or self._partial_s is None:
            self._partial_s = self.now_s
            self.wake_at(self.now_s + self._limits.first_s)

    def _expired(self) -> None:
        self._wake_s = math.inf
        if self._ended:
            self._transport.abort()
            return
        self.now_s = self._loop.time()
        calls_due_s = self._streams.look(self.now_s)
        if self._streams.stalled:
            self._owner.count("stalled_body", self._streams.stalled)
            self._streams.stalled = 0
        self.flush()
        due_s, reason = min(self._patience(), default=(math.inf, ""))
        if self.now_s >= due_s:
            self._end(reason, "", ngh2.ErrorCode.NO_ERROR)
        else:
            self.wake_at(min(due_s, calls_due_s))

    def _patience(self) -> Iterator[tuple[float, str]]:
        """Until when the connection may go on as it is, and what it is ended for then."""
        stall_s = self._limits.stall_s
        if self._paused_s is not None:
            yield self._paused_s + stall_s, "unread"
        if self._untaken:
            yield min(self._untaken.values()) + stall_s, "unread"
        if self._partial_s is not None and not self._streams:
            yield self._partial_s + self._limits.first_s, "slow_head"
        elif not self._streams:
            yield self._heard_s + self._limits.idle_s, "idle"

    # Ends

    @property
    def idle_since_s(self) -> float | None:
        """Since when there is no call; None while there is one, or the end has come."""
        busy = self._ended or self._streams or self._untaken
        return None if busy else self._active_s

    def make_room(self) -> None:
        """End at once, for others to come in."""
        self._end("idle", "too many connections", ngh2.ErrorCode.NO_ERROR)
        self._transport.abort()

    def _broken(self, error: ngh2.NGH2Error) -> None:
        flooded = isinstance(error, ngh2.DenialOfServiceError)
        code = ngh2.ErrorCode.ENHANCE_YOUR_CALM if flooded else ngh2.ErrorCode.PROTOCOL_ERROR
        self._end(misdeed(error), str(error), code)

    def _closed_by_protocol(self, code: int, debug: bytes) -> None:
        """libnghttp2 has said, or heard, GOAWAY, and no stream is left."""
        if self._leaving or code == ngh2.ErrorCode.NO_ERROR:
            self._streams.end()
            self._ended = True
            self._transport.close()
            self._deadline.set(_LINGER_S)
        else:
            cause = debug[:100].decode("ascii", "backslashreplace") or error_name(code)
            self._end(misdeed(code), cause, code, said=True)

    def _end(self, reason: str, cause: str, code: int, *, said: bool = False) -> None:
        """Say GOAWAY and close; the reason is counted."""
        if self._ended:
            return
        self._owner.count(reason)
        _log.debug("connection closed", reason=reason, cause=cause or None)
        self._say_goodbye(b"" if said else goaway(self._last_stream_id, code, reason))

    def _say_goodbye(self, word: bytes) -> None:
        self._ended = True
        self._streams.end()
        if word:
            self._transport.write(word)
        if self._paused_s is not None or not self._transport.can_write_eof():
            self._transport.close()
        else:
            self._transport.write_eof()
        self._deadline.set(_LINGER_S)

    def drain(self) -> None:
        """Take no further call, and close once those that are here are answered."""
        self._leaving = True
        if not self._started and not self._ended:
            self._say_goodbye(b"")
            return
        with contextlib.suppress(ngh2.NGH2Error):
            self._http2.send_goaway()
        self.flush()

    def abort(self) -> None:
        """Cut the connection."""
        self._transport.abort()
