"""The client's HTTP/2 connection against libnghttp2's server side, in memory and on fake time."""

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import Any

import ngh2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.transport.http2_client import (
    CallError,
    ClientConnection,
    Response,
    ResponseTooLargeError,
    UnprocessedError,
)
from tests.fakes.clock import run
from tests.fakes.raw_server import RawServer, forever

REQUEST = (
    (b":method", b"POST"),
    (b":scheme", b"http"),
    (b":path", b"/x"),
    (b":authority", b"peer"),
)
OK = [(b":status", b"200")]
SILENCE_S = 5.0
PROBE_S = 60.0


class Wire(asyncio.Transport):
    """A transport that keeps what is written, and how it ended."""

    def __init__(self, protocol: asyncio.Protocol, *, high_water: int | None = None) -> None:
        super().__init__()
        self.protocol = protocol
        self.sent = bytearray()
        self.ended: str | None = None
        self._high_water = high_water
        self._lost = False

    def write(self, data: Any) -> None:
        assert self.ended is None, "written after the end"
        self.sent += data
        if self._high_water is not None and len(self.sent) > self._high_water:
            self.protocol.pause_writing()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def is_closing(self) -> bool:
        return self.ended is not None

    def close(self) -> None:
        self._end("closed")

    def abort(self) -> None:
        self._end("aborted")

    def _end(self, how: str) -> None:
        self.ended = self.ended or how
        if not self._lost:
            self._lost = True
            asyncio.get_running_loop().call_soon(self.protocol.connection_lost, None)


class Peer:
    """A client connection, the server side it talks to, and a way to let them talk."""

    def __init__(
        self,
        *,
        server: dict[ngh2.Setting, int] | None = None,
        server_config: ngh2.Configuration | None = None,
        high_water: int | None = None,
        greet: bool = True,
        **options: Any,
    ) -> None:
        settings: dict[str, Any] = {"silence_s": SILENCE_S, "idle_probe_s": PROBE_S, **options}
        self.client = ClientConnection(**settings)
        self.wire = Wire(self.client, high_water=high_water)
        self.http2 = ngh2.Connection(ngh2.Role.SERVER, server_config)
        self.events: list[ngh2.Event] = []
        self.client.connection_made(self.wire)
        if greet:
            self.http2.initiate_connection(server or {})
            self.talk()

    def talk(self) -> None:
        """Carry bytes both ways until both are quiet."""
        while self.wire.sent or (out := self.http2.data_to_send()):
            if self.wire.sent:
                self.http2.receive_data(bytes(self.wire.sent))
                self.wire.sent.clear()
                self.events += self.http2.events()
            elif out:
                self.client.data_received(out)

    async def call(self, *body: bytes) -> "asyncio.Task[Response]":
        """Start a request and let it reach the server."""
        task = asyncio.create_task(self.client.request(REQUEST, body or (b"hello",)))
        await settle()
        self.talk()
        return task

    def seen(self, kind: type) -> list[Any]:
        """Events of one type at the server."""
        return [event for event in self.events if isinstance(event, kind)]

    async def answer(self, stream_id: int, body: bytes = b"fine") -> None:
        """A whole answer with trailers."""
        self.http2.send_response(stream_id, OK)
        self.http2.send_data(stream_id, body)
        self.http2.send_trailers(stream_id, [(b"grpc-status", b"0")])
        self.talk()
        await settle()


async def settle() -> None:
    """Let every task that can go on do so."""
    for _ in range(10):
        await asyncio.sleep(0)


def on_fake_time(test: Coroutine[Any, Any, None]) -> None:
    """Run a test whose seconds pass at once."""
    run(test)


def now_s() -> float:
    """The loop's time."""
    return asyncio.get_running_loop().time()


ANSWER = Response(tuple(OK), b"fine", ((b"grpc-status", b"0"),))


def test_a_request_gets_its_whole_answer() -> None:
    """Headers, data, trailers; the body arrives in the parts it was given in."""

    async def test() -> None:
        peer = Peer()
        call = await peer.call(b"one", b"two")
        (request,) = peer.seen(ngh2.RequestReceived)
        assert request.headers == REQUEST
        assert b"".join(e.data for e in peer.seen(ngh2.DataReceived)) == b"onetwo"
        await peer.answer(1)
        assert await call == ANSWER
        await peer.client.close()

    on_fake_time(test())


def test_an_answer_may_be_headers_alone_or_end_with_its_data() -> None:
    """Trailers-only, and what servers that are no gRPC send; an interim answer is none."""

    async def test() -> None:
        peer = Peer()
        first, second = await peer.call(), await peer.call()
        peer.http2.send_informational_response(1, [(b":status", b"103")])
        peer.http2.send_response(1, OK, end_stream=True)
        peer.http2.send_response(3, OK)
        peer.http2.send_data(3, b"a")
        peer.talk()
        peer.http2.send_data(3, b"b", end_stream=True)
        peer.talk()
        assert await first == Response(tuple(OK), b"", ())
        assert await second == Response(tuple(OK), b"ab", ())
        await peer.client.close()

    on_fake_time(test())


def test_no_call_starts_before_the_peer_has_spoken() -> None:
    """What speaks no HTTP/2 never sees a request; who speaks it late gets it then."""

    async def test() -> None:
        peer = Peer(greet=False)
        call = asyncio.create_task(peer.client.request(REQUEST, (b"hello",)))
        await settle()
        said = len(peer.wire.sent)
        ready = asyncio.create_task(peer.client.ready())
        await settle()
        assert not ready.done()
        assert said < 100  # The preface and SETTINGS.
        peer.http2.initiate_connection({})
        peer.talk()
        await ready
        await peer.answer(1)
        assert await call == ANSWER
        await peer.client.close()

    on_fake_time(test())


def test_calls_beyond_the_peers_limit_wait_their_turn() -> None:
    """In order; a cancelled one gives its place up, and a raised limit lets more in."""

    async def test() -> None:
        peer = Peer(server={ngh2.Setting.MAX_CONCURRENT_STREAMS: 1})
        calls = [await peer.call(b"%d" % n) for n in range(4)]
        calls[1].cancel()
        await settle()
        await peer.answer(1)
        assert [e.data for e in peer.seen(ngh2.DataReceived)] == [b"0", b"2"]
        peer.http2.update_settings({ngh2.Setting.MAX_CONCURRENT_STREAMS: 5})
        peer.talk()
        assert [e.data for e in peer.seen(ngh2.DataReceived)] == [b"0", b"2", b"3"]
        await peer.answer(3)
        await peer.answer(5)
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(r) for r in results] == [
            Response,
            asyncio.CancelledError,
            Response,
            Response,
        ]
        await peer.client.close()

    on_fake_time(test())


def test_a_call_that_is_cancelled_as_its_turn_comes_is_never_sent() -> None:
    """Nor when the connection goes away in that moment."""

    async def test() -> None:
        peer = Peer(server={ngh2.Setting.MAX_CONCURRENT_STREAMS: 1})
        first, second, third = [await peer.call(b"%d" % n) for n in range(3)]
        second.cancel()
        peer.http2.send_response(1, OK, end_stream=True)
        peer.talk()
        third.cancel()
        peer.http2.send_goaway(0, last_stream_id=1)
        peer.talk()
        await settle()
        assert [e.data for e in peer.seen(ngh2.DataReceived)] == [b"0", b"2"]
        assert (first.done(), second.cancelled(), third.cancelled()) == (True, True, True)
        await peer.client.close()

    on_fake_time(test())


def test_a_request_that_cannot_be_encoded_fails_alone() -> None:
    """Headers beyond what libnghttp2 sends."""

    async def test() -> None:
        peer = Peer()
        with pytest.raises(UnprocessedError, match="exceeds"):
            await peer.client.request((*REQUEST, (b"x", b"y" * 70_000)), (b"",))
        call = await peer.call()
        await peer.answer(3)
        assert await call == ANSWER
        await peer.client.close()

    on_fake_time(test())


def test_a_connection_out_of_streams_sends_calls_elsewhere() -> None:
    """There are 2**30 of them; here libnghttp2 refuses the next one for a simpler reason."""

    async def test() -> None:
        peer = Peer()
        peer.client._http2.terminate_connection(0)
        with pytest.raises(UnprocessedError, match="takes no further call"):
            await peer.client.request(REQUEST, (b"",))
        assert not peer.client.available
        await peer.client.close()

    on_fake_time(test())


def test_a_body_is_cut_into_frames_as_the_transport_drains() -> None:
    """A paused transport holds one piece; the rest stays in the one copy that the caller has."""

    async def test() -> None:
        peer = Peer(
            server={ngh2.Setting.INITIAL_WINDOW_SIZE: 1 << 24},
            server_config=ngh2.Configuration(auto_window_update=True),
            high_water=50_000,
        )
        peer.http2.set_local_window_size(1 << 24)
        peer.talk()
        body = bytes(3_900_000)
        task = asyncio.create_task(peer.client.request(REQUEST, (body,)))
        await settle()
        most = 0
        while sum(len(e.data) for e in peer.seen(ngh2.DataReceived)) < len(body):
            most = max(most, len(peer.wire.sent))
            peer.http2.receive_data(bytes(peer.wire.sent))
            peer.wire.sent.clear()
            peer.events += peer.http2.events()
            peer.client.resume_writing()
        assert most < 150_000
        await peer.answer(1)
        assert (await task).body == b"fine"
        await peer.client.close()

    on_fake_time(test())


def test_a_cancelled_call_resets_its_stream_and_leaves_the_others() -> None:
    """RST_STREAM(CANCEL); what still comes for it is ignored."""

    async def test() -> None:
        peer = Peer()
        first, second = await peer.call(), await peer.call()
        peer.http2.send_response(1, OK)
        out = peer.http2.data_to_send()
        first.cancel()
        await settle()
        peer.client.data_received(out)
        peer.talk()
        assert [(e.stream_id, e.error_code) for e in peer.seen(ngh2.StreamReset)] == [(1, 8)]
        await peer.answer(3)
        assert await second == ANSWER
        assert first.cancelled()
        await peer.client.close()

    on_fake_time(test())


@pytest.mark.parametrize("code", [*ngh2.ErrorCode, 0xFFFF])
def test_a_reset_ends_its_call_alone(code: int) -> None:
    """REFUSED_STREAM says that nothing was done; any other code leaves that open."""

    async def test() -> None:
        peer = Peer()
        first, second = await peer.call(), await peer.call()
        peer.http2.reset_stream(1, code)
        peer.talk()
        with pytest.raises(CallError, match="stream reset") as caught:
            await first
        refused = code == ngh2.ErrorCode.REFUSED_STREAM
        assert isinstance(caught.value, UnprocessedError) == refused
        await peer.answer(3)
        assert await second == ANSWER
        assert peer.client.available
        await peer.client.close()

    on_fake_time(test())


def test_a_goaway_separates_what_is_served_from_what_is_not() -> None:
    """Up to its last stream calls finish; above it, and while waiting, they may go elsewhere."""

    async def test() -> None:
        peer = Peer(server={ngh2.Setting.MAX_CONCURRENT_STREAMS: 2})
        served, unserved, waiting = [await peer.call() for _ in range(3)]
        peer.http2.send_goaway(0, last_stream_id=1, debug_data=b"bye")
        peer.talk()
        for call in (unserved, waiting):
            with pytest.raises(UnprocessedError):
                await call
        assert not peer.client.available
        with pytest.raises(UnprocessedError, match=r"going away \(NO_ERROR\) bye"):
            await peer.client.request(REQUEST, (b"",))
        assert not served.done()
        await peer.answer(1)
        assert await served == ANSWER
        # Nothing is left to wait for.
        assert peer.wire.ended == "aborted"
        await settle()
        assert peer.client.closed

    on_fake_time(test())


def test_a_lost_connection_ends_every_call_once() -> None:
    """With and without a reason; later calls are refused at once."""

    async def test() -> None:
        peer = Peer()
        call = await peer.call()
        peer.wire.ended = "lost"
        peer.client.connection_lost(ConnectionResetError(104, "Connection reset by peer"))
        with pytest.raises(CallError, match="closed the connection: Connection reset by peer"):
            await call
        with pytest.raises(UnprocessedError, match="Connection reset by peer"):
            await peer.client.request(REQUEST, (b"",))
        # Bytes that were on their way are of no interest, nor is the transport's readiness.
        peer.client.data_received(b"late")
        peer.client.resume_writing()
        assert peer.client.closed

    on_fake_time(test())


def test_a_connection_that_ends_before_it_is_ready_says_so() -> None:
    """Whoever waits for it learns why."""

    async def test() -> None:
        peer = Peer(greet=False)
        ready = asyncio.create_task(peer.client.ready())
        await settle()
        peer.client.data_received(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        with pytest.raises(CallError, match="PROTOCOL_ERROR"):
            await ready
        assert peer.wire.ended == "aborted"
        await settle()

    on_fake_time(test())


@pytest.mark.parametrize(
    "garbage",
    [
        b"\xff" * 100,
        b"\x00\x00\x04\x01\x05\x00\x00\x00\x01\xff\xff\xff\xff",
        b"\x00\x00\x00\x09\x00\x00\x00\x00\x01",
        b"\x00\x00\x08\x06\x01\x00\x00\x00\x01" + bytes(8),
        b"\x00\x00\x04\x08\x00\x00\x00\x00\x00" + bytes(4),
    ],
)
def test_a_broken_frame_ends_the_connection_and_its_calls(garbage: bytes) -> None:
    """Lengths, header blocks, orders and streams that cannot be: a GOAWAY, then the end."""

    async def test() -> None:
        peer = Peer()
        call = await peer.call()
        peer.client.data_received(garbage)
        with pytest.raises(CallError, match="HTTP/2"):
            await call
        assert not peer.client.available
        assert peer.wire.ended == "aborted"
        await settle()

    on_fake_time(test())


def test_an_answer_that_was_whole_before_the_fault_counts() -> None:
    """Both may come in one piece."""

    async def test() -> None:
        peer = Peer()
        first, second = await peer.call(), await peer.call()
        peer.http2.send_response(1, [*OK, (b"grpc-status", b"0")], end_stream=True)
        whole = peer.http2.data_to_send()
        peer.http2.send_response(3, [*OK, (b"x", b"y" * 40_000)], end_stream=True)
        peer.client.data_received(whole + peer.http2.data_to_send())
        assert (await first).headers == (*OK, (b"grpc-status", b"0"))
        with pytest.raises(CallError, match="header list"):
            await second
        await settle()

    on_fake_time(test())


def test_answers_together_stay_below_the_limit() -> None:
    """The one that goes beyond is reset; the others are not touched."""

    async def test() -> None:
        peer = Peer(max_response_bytes=1000)
        first, second = await peer.call(), await peer.call()
        peer.http2.send_response(1, OK)
        peer.http2.send_data(1, bytes(600))
        peer.http2.send_response(3, OK)
        peer.http2.send_data(3, bytes(500))
        peer.talk()
        with pytest.raises(ResponseTooLargeError, match="more than 1000 bytes"):
            await second
        assert [e.stream_id for e in peer.seen(ngh2.StreamReset)] == [3]
        peer.http2.send_data(1, bytes(400), end_stream=True)
        peer.talk()
        assert len((await first).body) == 1000
        # What was given back is free again.
        third = await peer.call()
        await peer.answer(5, bytes(1000))
        assert len((await third).body) == 1000
        await peer.client.close()

    on_fake_time(test())


def test_an_answer_before_the_body_is_sent_ends_the_sending() -> None:
    """The rest of the body would be of no use: RST_STREAM takes it back."""

    async def test() -> None:
        peer = Peer(server_config=ngh2.Configuration(auto_window_update=False))
        call = await peer.call(bytes(1_000_000))
        peer.http2.send_response(1, [(b":status", b"413")], end_stream=True)
        peer.talk()
        assert (await call).headers == ((b":status", b"413"),)
        assert [e.stream_id for e in peer.seen(ngh2.StreamReset)] == [1]
        await peer.client.close()

    on_fake_time(test())


# Silence


def pings(peer: Peer) -> int:
    """How many have reached the server."""
    return len(peer.seen(ngh2.PingReceived))


def test_silence_in_a_call_is_probed_and_then_is_the_end() -> None:
    """A PING after `silence_s`, the end after another one without a byte."""

    async def test() -> None:
        peer = Peer()
        call = await peer.call()
        began_s = now_s()
        with pytest.raises(CallError, match="no sign of life within 5 s of a PING"):
            await call
        assert now_s() - began_s == 2 * SILENCE_S
        assert peer.wire.ended == "aborted"
        peer.http2.receive_data(bytes(peer.wire.sent))
        peer.events += peer.http2.events()
        assert pings(peer) == 1
        await settle()

    on_fake_time(test())


def test_a_slow_peer_that_lives_is_waited_for() -> None:
    """It answers PINGs, so the call's own deadline decides."""

    async def test() -> None:
        peer = Peer()
        call = await peer.call()
        for _ in range(10):
            await asyncio.sleep(SILENCE_S)
            peer.talk()
        assert 5 <= pings(peer) <= 10
        await peer.answer(1)
        assert await call == ANSWER
        await peer.client.close()

    on_fake_time(test())


def test_an_idle_connection_sends_and_schedules_nothing() -> None:
    """An idle device sleeps."""

    async def test() -> None:
        peer = Peer()
        call = await peer.call()
        await peer.answer(1)
        await call
        await asyncio.sleep(10 * PROBE_S)
        assert not peer.wire.sent
        assert pings(peer) == 0
        # The loop's own view: no timer of ours is left.
        loop: Any = asyncio.get_running_loop()
        assert [h for h in loop._scheduled if not h.cancelled()] == []
        await peer.client.close()

    on_fake_time(test())


def test_after_a_long_idle_time_the_first_call_brings_a_ping() -> None:
    """So that a link that died meanwhile is found in half the time."""

    async def test() -> None:
        peer = Peer()
        await asyncio.sleep(PROBE_S)
        call = asyncio.create_task(peer.client.request(REQUEST, (b"",)))
        began_s = now_s()
        with pytest.raises(CallError, match="no sign of life"):
            await call
        assert now_s() - began_s == SILENCE_S
        await settle()

    on_fake_time(test())


def test_a_ping_goes_on_after_the_call_that_caused_it() -> None:
    """The call met its deadline; the link it died on must not meet the next one."""

    async def test() -> None:
        peer = Peer()
        call = await peer.call()
        await asyncio.sleep(1.5 * SILENCE_S)
        call.cancel()
        await settle()
        assert peer.client.available
        await asyncio.sleep(SILENCE_S)
        assert not peer.client.available

    on_fake_time(test())


def test_a_late_answer_to_a_ping_is_a_sign_of_life_too() -> None:
    """After the call: the connection stays, and the watching ends."""

    async def test() -> None:
        peer = Peer()
        call = await peer.call()
        await asyncio.sleep(1.5 * SILENCE_S)
        call.cancel()
        await settle()
        peer.talk()
        await asyncio.sleep(3 * SILENCE_S)
        assert peer.client.available
        assert pings(peer) == 1
        await peer.client.close()

    on_fake_time(test())


# The end


def test_close_says_goodbye_and_ends_calls() -> None:
    """GOAWAY, then the transport; a second close has nothing to do."""

    async def test() -> None:
        peer = Peer()
        call = await peer.call()
        await peer.client.close()
        await peer.client.close()
        with pytest.raises(CallError, match="closed by us"):
            await call
        assert peer.wire.ended == "closed"
        peer.http2.receive_data(bytes(peer.wire.sent))
        goodbyes = [e for e in peer.http2.events() if isinstance(e, ngh2.GoAwayReceived)]
        assert [e.error_code for e in goodbyes] == [ngh2.ErrorCode.NO_ERROR]

    on_fake_time(test())


def test_close_does_not_wait_for_a_peer_that_no_longer_reads() -> None:
    """The transport keeps what it could not send; after a moment it is cut off."""

    async def test() -> None:
        peer = Peer()

        def stuck() -> None:
            peer.wire.ended = "closed"

        peer.wire.close = stuck  # type: ignore[method-assign]  # a transport that never drains
        peer.wire._lost = False
        began_s = now_s()
        await peer.client.close()
        assert now_s() - began_s == 1.0
        assert peer.client.closed

    on_fake_time(test())


def test_a_connection_that_was_never_made_closes() -> None:
    """A dial that failed in the TLS handshake leaves one behind."""

    async def test() -> None:
        client = ClientConnection()
        await client.close()
        with pytest.raises(UnprocessedError):
            await client.request(REQUEST, (b"",))
        with pytest.raises(CallError):
            await client.ready()

    on_fake_time(test())


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_damaged_answers_end_calls_and_never_raise(data: st.DataObject) -> None:
    """Valid frames with flipped bytes reach further than random ones."""

    async def test() -> None:
        peer = Peer()
        call = await peer.call()
        peer.http2.send_response(1, [*OK, (b"content-type", b"application/grpc")])
        peer.http2.send_data(1, b"\0\0\0\0\x02\x0a\0")
        peer.http2.send_trailers(1, [(b"grpc-status", b"0")])
        peer.http2.send_goaway(0, last_stream_id=1)
        answer = bytearray(peer.http2.data_to_send())
        for _ in range(data.draw(st.integers(1, 4))):
            answer[data.draw(st.integers(0, len(answer) - 1))] = data.draw(st.integers(0, 255))
        cut = data.draw(st.integers(0, len(answer)))
        peer.client.data_received(bytes(answer[:cut]))
        peer.client.data_received(bytes(answer[cut:]))
        await settle()
        await peer.client.close()
        result = (await asyncio.gather(call, return_exceptions=True))[0]
        assert isinstance(result, Response | CallError)
        await settle()

    on_fake_time(test())


@pytest.mark.parametrize("error_code", [0, 11])
async def test_settings_and_goaway_in_one_piece_end_the_connection_quietly(
    error_code: int, caplog: pytest.LogCaptureFixture
) -> None:
    """How a draining server greets: nothing is raised into the loop, and no call is started."""
    settings = b"\0\0\0\x04\0\0\0\0\0"
    goaway = b"\0\0\x08\x07\0\0\0\0\0" + bytes(4) + error_code.to_bytes(4, "big")

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(settings + goaway)
        await forever(reader, writer)

    loop = asyncio.get_running_loop()
    raised: list[object] = []
    loop.set_exception_handler(lambda _loop, context: raised.append(context))
    async with RawServer(talk) as server:
        _, connection = await loop.create_connection(
            ClientConnection, server.endpoint.host, server.endpoint.port
        )
        with contextlib.suppress(CallError):
            await connection.ready()
        with pytest.raises(CallError):
            await connection.request(((b":method", b"POST"),), (b"x",))
        await connection.close()
    assert raised == []
    assert caplog.records == []
