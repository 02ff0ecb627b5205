"""The client's side of an HTTP/2 connection: libnghttp2 inside an asyncio protocol.

- Calls start once the peer's SETTINGS have come: what speaks something else is found before a
  request is risked on it.
- Nothing from the peer raises into the loop. Every call ends with a Response or with a CallError
  that says whether the peer can have acted on it.
- Memory is bounded: request bodies are held by reference and cut into frames as the transport
  drains; the answers of one connection together stay below `max_response_bytes`, header lists
  below MAX_HEADER_LIST_BYTES.
- An idle connection costs no wake-up. A PING goes out only while an answer is due and the peer
  has been silent for `silence_s`, or with the first request after `idle_probe_s` without a word:
  a 4G link that is gone says nothing. Another `silence_s` without a byte ends the connection.
"""

import asyncio
import contextlib
from collections import deque
from dataclasses import dataclass, field
from typing import cast

import ngh2

from edge_agent.transport.grpc import Headers
from edge_agent.transport.http2 import MAX_HEADER_LIST_BYTES, MAX_STREAMS, error_name, pairs
from edge_agent.transport.http2_silence import SilenceWatch

_WRITE_BYTES = 64 << 10
_CLOSE_GRACE_S = 1.0
# Windows are opened again as data is taken: what bounds an answer is `max_response_bytes`.
_CONFIG = ngh2.Configuration(max_inbound_header_list_size=MAX_HEADER_LIST_BYTES)
_SETTINGS = {
    ngh2.Setting.ENABLE_PUSH: 0,
    ngh2.Setting.MAX_HEADER_LIST_SIZE: MAX_HEADER_LIST_BYTES,
}


class CallError(ConnectionError):
    """A call without an answer. Whether the peer acted on it is not known."""


class UnprocessedError(CallError):
    """The peer has not acted on it for sure: it may be sent again at once, elsewhere."""


class ResponseTooLargeError(CallError):
    """The answer is larger than we are willing to hold."""


@dataclass(frozen=True, slots=True)
class Response:
    """A whole answer. One without a body may carry everything in `headers`."""

    headers: Headers
    body: bytes
    trailers: Headers


@dataclass(slots=True, eq=False)
class _Call:
    """A request and what has come of its answer; it has a stream once it was its turn."""

    request_headers: Headers
    request_body: tuple[bytes, ...]
    answer: asyncio.Future[Response]
    stream_id: int | None = None
    headers: Headers = ()
    parts: list[bytes] = field(default_factory=list)
    size: int = 0


class ClientConnection(asyncio.Protocol):
    """One connection to one peer; `request` may be called from any number of tasks."""

    def __init__(
        self,
        *,
        max_response_bytes: int = 4 << 20,
        silence_s: float = 5.0,
        idle_probe_s: float = 60.0,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._max_response_bytes = max_response_bytes
        self._http2 = ngh2.Connection(ngh2.Role.CLIENT, _CONFIG)
        self._transport: asyncio.Transport | None = None
        self._ready: asyncio.Future[None] = self._loop.create_future()
        self._closed: asyncio.Future[None] = self._loop.create_future()
        self._waiting: deque[_Call] = deque()
        self._calls: dict[int, _Call] = {}
        self._max_calls = MAX_STREAMS
        self._held_bytes = 0
        # Why no new call may start; None while one may. `_ended`: none may go on either.
        self._refusal: str | None = None
        self._ended = False
        self._paused = False
        self._silence = SilenceWatch(
            self._loop,
            silence_s=silence_s,
            idle_probe_s=idle_probe_s,
            ping=self._http2.ping,
            send=self._pump,
            dead=self._end,
        )

    # What the owner uses

    @property
    def available(self) -> bool:
        """Whether a new call may start here."""
        return self._refusal is None

    @property
    def closed(self) -> bool:
        """Whether the transport is gone."""
        return self._closed.done()

    async def ready(self) -> None:
        """Wait for the peer's SETTINGS; raises CallError if the connection ends before them."""
        await asyncio.shield(self._ready)

    async def request(self, headers: Headers, body: tuple[bytes, ...]) -> Response:
        """Send one request, `body` being its parts, and return the answer; raises CallError.

        Waits its turn while the peer's MAX_CONCURRENT_STREAMS are in use. Cancelling it resets
        the stream.
        """
        if self._refusal is not None:
            raise UnprocessedError(self._refusal)
        call = _Call(headers, body, self._loop.create_future())
        self._waiting.append(call)
        self._start_calls()
        self._pump()
        try:
            return await call.answer
        finally:
            self._abandon(call)

    async def close(self) -> None:
        """Say goodbye and close; calls in flight end as CallError."""
        self._end("closed by us", gently=True)
        if self._transport is not None:
            # A peer that no longer reads would keep the goodbye, and us, waiting. Under TLS asyncio
            # has sent it by now, and waits for the peer's own, which few send.
            secure = self._transport.get_extra_info("ssl_object") is not None
            await asyncio.wait({self._closed}, timeout=0 if secure else _CLOSE_GRACE_S)
            self._transport.abort()
            await asyncio.shield(self._closed)

    # What asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the preface and our SETTINGS."""
        self._transport = cast(asyncio.Transport, transport)  # Streams have no other.
        self._http2.initiate_connection(_SETTINGS)
        self._pump()

    def data_received(self, data: bytes) -> None:
        """Take the peer's frames."""
        if self._ended:
            return
        self._silence.heard()
        try:
            self._http2.receive_data(data)
        except ngh2.NGH2Error as error:
            # Answers that were whole before the fault count.
            self._take_events()
            self._end(f"the peer broke HTTP/2: {error}")
        else:
            self._pump()

    def pause_writing(self) -> None:
        """The transport holds enough: frames stay in their bodies."""
        self._paused = True

    def resume_writing(self) -> None:
        """The transport has drained."""
        self._paused = False
        self._pump()

    def connection_lost(self, exc: Exception | None) -> None:
        """End every call."""
        cause = "" if exc is None else f": {getattr(exc, 'strerror', None) or exc}"
        self._end(f"the peer closed the connection{cause}")
        self._closed.set_result(None)

    # Calls

    def _start_calls(self) -> None:
        """Give streams to those who wait, in the order in which they came."""
        if not self._ready.done():
            return
        while self._waiting and len(self._calls) < self._max_calls and self._refusal is None:
            call = self._waiting.popleft()
            if call.answer.done():
                continue  # Cancelled this very moment.
            try:
                call.stream_id = self._http2.send_request(call.request_headers)
                for part in call.request_body[:-1]:
                    self._http2.send_data(call.stream_id, part)
                self._http2.send_data(call.stream_id, call.request_body[-1], end_stream=True)
            except ngh2.NGH2Error as error:
                # No stream id is left, after 2**30 calls.
                self._waiting.appendleft(call)
                self._refuse(f"the connection takes no further call: {error}")
                return
            self._calls[call.stream_id] = call
            self._silence.expect()

    def _leave(self, stream_id: int) -> _Call | None:
        """Take a call off its stream; None if its caller has gone before."""
        call = self._calls.pop(stream_id, None)
        if call is not None:
            self._held_bytes -= call.size
            self._start_calls()
            if not self._calls:
                self._silence.rest()
        return call

    def _abandon(self, call: _Call) -> None:
        """The caller is gone: with its answer, or without."""
        if call.answer.cancelled():
            if call.stream_id is None:
                with contextlib.suppress(ValueError):
                    self._waiting.remove(call)
            elif self._leave(call.stream_id) is not None:
                self._reset(call.stream_id)
                self._pump()
        elif call.answer.done():
            # Cancelled in the moment of an error: nobody else will look at it.
            call.answer.exception()

    def _reset(self, stream_id: int) -> None:
        """Want no more of a stream; nothing happens where it is closed already."""
        # Broken connections refuse everything, while their last events are looked at.
        with contextlib.suppress(ngh2.NGH2Error):
            self._http2.reset_stream(stream_id, ngh2.ErrorCode.CANCEL)

    def _fail(self, call: _Call, error: CallError) -> None:
        if not call.answer.done():
            call.answer.set_exception(error)

    def _refuse(self, reason: str) -> None:
        """Start no further call; those without a stream may go elsewhere."""
        if self._refusal is None:
            self._refusal = reason
        while self._waiting:
            self._fail(self._waiting.popleft(), UnprocessedError(self._refusal))

    def _end(self, reason: str, *, gently: bool = False) -> None:
        """No call can go on."""
        if self._ended:
            return
        self._ended = True
        self._silence.stop()
        self._refuse(reason)
        for call in self._calls.values():
            self._fail(call, CallError(reason))
        self._calls.clear()
        if not self._ready.done():
            self._ready.set_exception(CallError(reason))
            self._ready.exception()  # It may have no reader.
        if self._transport is not None and not self._transport.is_closing():
            # After a fault there may be nothing left to say.
            with contextlib.suppress(ngh2.NGH2Error):
                self._http2.terminate_connection(ngh2.ErrorCode.NO_ERROR)
                self._transport.write(self._http2.data_to_send(_WRITE_BYTES))
            if gently:
                self._transport.close()
            else:
                self._transport.abort()

    # Frames

    def _pump(self) -> None:
        """Send what can be sent, take what has happened, until nothing is left of both."""
        if self._ended or self._transport is None:
            return
        while True:
            while not self._paused and (out := self._http2.data_to_send(_WRITE_BYTES)):
                self._transport.write(out)
            # Some events come of sending: a stream ends when its RST_STREAM leaves.
            if not self._take_events():
                break
        if not (self._http2.want_read or self._http2.want_write):
            self._end(self._refusal or "the peer does not speak HTTP/2")

    def _take_events(self) -> bool:
        events = self._http2.events()
        for event in events:
            self._take(event)
        return bool(events)

    def _take(self, event: ngh2.Event) -> None:
        match event:
            case ngh2.ResponseReceived(stream_id=stream_id, headers=headers, end_stream=last):
                if (call := self._calls.get(stream_id)) is not None:
                    call.headers = pairs(headers)
                if last:
                    self._finish(stream_id, ())
            case ngh2.DataReceived(stream_id=stream_id, data=data, end_stream=last):
                self._take_data(stream_id, data)
                if last:
                    self._finish(stream_id, ())
            case ngh2.TrailersReceived(stream_id=stream_id, headers=headers):
                self._finish(stream_id, pairs(headers))
            case ngh2.StreamReset(stream_id=stream_id, error_code=code):
                self._stream_ended(stream_id, code, None)
            case ngh2.StreamClosed(stream_id=stream_id, error_code=code, local_error=error):
                self._stream_ended(stream_id, code, error)
            case _:
                self._take_of_connection(event)

    def _take_of_connection(self, event: ngh2.Event) -> None:
        match event:
            case ngh2.SettingsReceived():
                # A connection that is ending refuses to be asked.
                with contextlib.suppress(ngh2.NGH2Error):
                    announced = self._http2.remote_settings[ngh2.Setting.MAX_CONCURRENT_STREAMS]
                    self._max_calls = min(announced, MAX_STREAMS)
                if not self._ready.done():
                    self._ready.set_result(None)
                self._start_calls()
            case ngh2.GoAwayReceived(error_code=code, debug_data=debug):
                why = debug[:100].decode("ascii", "backslashreplace")
                self._refuse(f"the peer is going away ({error_name(code)}) {why}".rstrip())
            case ngh2.ConnectionClosed(error_code=code) if code != ngh2.ErrorCode.NO_ERROR:
                self._refuse(f"the peer broke HTTP/2: {error_name(code)}")
            case _:
                pass

    def _take_data(self, stream_id: int, data: bytes) -> None:
        call = self._calls.get(stream_id)
        if call is None:
            return
        call.parts.append(data)
        call.size += len(data)
        self._held_bytes += len(data)
        if self._held_bytes > self._max_response_bytes:
            self._leave(stream_id)
            self._reset(stream_id)
            self._fail(
                call,
                ResponseTooLargeError(f"answer of more than {self._max_response_bytes} bytes"),
            )

    def _finish(self, stream_id: int, trailers: Headers) -> None:
        """The answer is whole."""
        call = self._leave(stream_id)
        if call is None:
            return
        # It may be answered before it is sent to its end: the rest is of no use.
        self._reset(stream_id)
        if not call.answer.done():
            body = call.parts[0] if len(call.parts) == 1 else b"".join(call.parts)
            call.answer.set_result(Response(call.headers, body, trailers))

    def _stream_ended(self, stream_id: int, code: int, error: Exception | None) -> None:
        """Without a whole answer, or after it, when nobody cares."""
        call = self._leave(stream_id)
        if call is None:
            return
        reason = f"stream reset: {error or error_name(code)}"
        # Also what libnghttp2 reports for streams above a GOAWAY's last one.
        refused = code == ngh2.ErrorCode.REFUSED_STREAM
        self._fail(call, UnprocessedError(reason) if refused else CallError(reason))
