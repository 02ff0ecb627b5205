"""The server's HTTP/2 connection against libnghttp2's client side, in memory and on fake time."""

import asyncio
import struct
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import ngh2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.transport.budget import Budget
from edge_agent.transport.http2_connection import READ_BYTES, Connection
from edge_agent.transport.http2_limits import NOT_HTTP2, PREFACE
from edge_agent.transport.http2_streams import INITIAL_WINDOW, Limits, Waiting
from edge_agent.transport.turns import Turns
from tests.agent.transport.test_http2_streams import BUDGET, FINE, MAX_SIZE, Calls, data
from tests.fakes import attacks
from tests.fakes.clock import run

REQUEST = [
    (b":method", b"POST"),
    (b":scheme", b"http"),
    (b":path", b"/good"),
    (b":authority", b"us"),
]
LIMITS = Limits(first_s=10.0, idle_s=300.0, stall_s=30.0, wait_s=5.0)
HELLO = attacks.HELLO
PING = attacks.frame(6, 0, 0, bytes(8))
# What comes back is real HTTP/2, so its headers have to be.
OK = ((b":status", b"200"),)


class Answering(Calls):
    """Answers as HTTP/2 wants it, by default with a body and trailers."""

    def __init__(self) -> None:
        super().__init__()
        self.reply = type(FINE)(OK, b"12345", ((b"grpc-status", b"0"),))

    def begin(self, headers: Any) -> Any:
        return type(FINE)(((b":status", b"405"),), b"no\n") if headers[0][1] != b"POST" else "head"

    def message(self, head: str, data: bytes) -> Any:
        super().message(head, data)
        return self.reply

    def refuse_size(self, size: int) -> Any:
        return type(FINE)(OK) if size > MAX_SIZE else None

    def refuse_load(self) -> Any:
        return type(FINE)(OK)

    refuse_stall = refuse_load


class Owner:
    """The server of the connections."""

    def __init__(self, limits: Limits = LIMITS) -> None:
        self.calls, self.budget, self.waiting = Answering(), Budget(BUDGET), Waiting()
        self.limits = limits
        self.turns = Turns(asyncio.get_running_loop().call_soon)
        self.buffer = memoryview(bytearray(READ_BYTES))
        self.closed: dict[str, int] = {}
        self.connections = 0

    def opened(self, connection: object) -> None:
        self.connections += 1

    def ended(self, connection: object) -> None:
        self.connections -= 1

    def count(self, reason: str, times: int = 1) -> None:
        self.closed[reason] = self.closed.get(reason, 0) + times


class Wire(asyncio.Transport):
    """A transport that keeps what is written, when it was closed, and how."""

    def __init__(self, *, high_water: int | None = None, half_closes: bool = True) -> None:
        super().__init__()
        self.protocol: Any
        self.sent = bytearray()
        self.ended: str | None = None
        self.eof = self.reading_paused = False
        self._high_water = high_water
        self._half_closes = half_closes

    def write(self, data: Any) -> None:
        assert self.ended is None, "written after the end"
        assert not self.eof, "written after the last word"
        self.sent += data
        if self._high_water is not None and len(self.sent) > self._high_water:
            self.protocol.pause_writing()

    def drained(self) -> None:
        """The peer has taken everything."""
        self.sent.clear()
        self.protocol.resume_writing()

    def is_closing(self) -> bool:
        return self.ended is not None

    def can_write_eof(self) -> bool:
        return self._half_closes

    def write_eof(self) -> None:
        self.eof = True

    def pause_reading(self) -> None:
        self.reading_paused = True

    def resume_reading(self) -> None:
        self.reading_paused = False

    def close(self) -> None:
        self._end("closed")

    def abort(self) -> None:
        self._end("aborted")

    def _end(self, how: str) -> None:
        if self.ended is None:
            asyncio.get_running_loop().call_soon(self.protocol.connection_lost, None)
        self.ended = self.ended or how


class Peer:
    """A server's connection, a client to talk to it, and a way to let them talk."""

    def __init__(
        self,
        owner: Owner | None = None,
        *,
        config: ngh2.Configuration | None = None,
        hello: dict[ngh2.Setting, int] | None = None,
        raw: bool = False,
        **wire: Any,
    ) -> None:
        self.owner = owner or Owner()
        self.wire = Wire(**wire)
        self.connection = Connection(self.owner)
        self.wire.protocol = self.connection
        self.http2 = ngh2.Connection(ngh2.Role.CLIENT, config)
        self.events: list[ngh2.Event] = []
        self.connection.connection_made(self.wire)
        if not raw:
            self.http2.initiate_connection(hello or {})
            self.talk()

    def receive(self, data: bytes) -> None:
        """What asyncio does with bytes that have come."""
        for at in range(0, len(data), READ_BYTES):
            if self.wire.ended:
                return
            piece = data[at : at + READ_BYTES]
            self.connection.get_buffer(-1)[: len(piece)] = piece
            self.connection.buffer_updated(len(piece))

    def talk(self) -> None:
        """Carry bytes both ways until both are quiet."""
        while self.wire.sent or (out := self.http2.data_to_send()):
            if self.wire.sent:
                self.http2.receive_data(bytes(self.wire.sent))
                self.wire.sent.clear()
                self.events += self.http2.events()
            elif out:
                self.receive(out)

    def call(self, body: bytes = data(3), *, last: bool = True) -> int:
        """A call, or its beginning."""
        stream_id = self.http2.send_request(REQUEST)
        self.http2.send_data(stream_id, body, end_stream=last)
        self.talk()
        return stream_id

    def seen(self, kind: type) -> list[Any]:
        """Events of one type at the client."""
        return [event for event in self.events if isinstance(event, kind)]

    def goaway(self) -> tuple[int, bytes]:
        """The code and the reason of the GOAWAY that has come."""
        self.talk()
        event = self.seen(ngh2.GoAwayReceived)[-1]
        return event.error_code, event.debug_data

    async def end(self) -> None:
        """The transport is gone: nothing may be left."""
        self.wire.abort()
        await asyncio.sleep(0)
        assert self.owner.connections == 0
        assert self.owner.budget.in_flight == 0
        assert self.owner.waiting.count == 0


def now_s() -> float:
    """The loop's time."""
    return asyncio.get_running_loop().time()


def on_fake_time(test: Callable[[], Awaitable[None]]) -> Callable[[], None]:
    """Run a test whose seconds pass at once."""

    def timed() -> None:
        async def main() -> None:
            await test()

        run(main())

    timed.__name__, timed.__doc__ = test.__name__, test.__doc__
    return timed


def last_goaway(sent: bytes) -> tuple[int, int, bytes]:
    """The last stream, code and reason of the GOAWAY that ends `sent`."""
    start = sent.rindex(b"\x07\0\0\0\0\0")
    stream_id, code = struct.unpack_from(">II", sent, start + 6)
    return stream_id, code, bytes(sent[start + 14 :])


@on_fake_time
async def test_calls_are_answered_with_one_write() -> None:
    """All that one read has brought: headers, body and trailers of each."""
    peer = Peer()
    for _ in range(5):
        stream_id = peer.http2.send_request(REQUEST)
        peer.http2.send_data(stream_id, data(3), end_stream=True)
    writes, write = list[bytes](), peer.wire.write
    peer.wire.write = lambda data: (writes.append(bytes(data)), write(data))[1]  # type: ignore[method-assign]
    peer.talk()
    assert peer.owner.calls.taken == [data(3)] * 5
    assert len(writes) == 1
    assert [event.data for event in peer.seen(ngh2.DataReceived)] == [b"12345"] * 5
    assert [event.headers for event in peer.seen(ngh2.TrailersReceived)] == [
        ((b"grpc-status", b"0"),)
    ] * 5
    await peer.end()


@on_fake_time
async def test_small_calls_need_no_window_update() -> None:
    """Ten thousand of them: the connection's window is that large."""
    peer = Peer()
    peer.events.clear()
    for _ in range(10_000):
        peer.call()
    assert peer.seen(ngh2.WindowUpdated) == []
    assert len(peer.owner.calls.taken) == 10_000
    await peer.end()


@on_fake_time
async def test_a_large_message_is_let_in() -> None:
    """All of it and nothing more, once the budget has room."""
    peer = Peer()
    peer.call(data(MAX_SIZE))
    assert peer.owner.calls.taken == [data(MAX_SIZE)]
    assert peer.owner.budget.in_flight == 0
    await peer.end()


@on_fake_time
async def test_a_large_message_waits_in_its_sender() -> None:
    """Until another connection gives its room back."""
    owner = Owner()
    first, second = Peer(owner), Peer(owner)
    assert owner.budget.grant(6 << 20)
    second.call(data(MAX_SIZE))
    assert second.http2.queued_body_size() == MAX_SIZE + 5 - INITIAL_WINDOW
    assert owner.calls.taken == []
    owner.budget.release(6 << 20)
    second.talk()
    assert owner.calls.taken == [data(MAX_SIZE)]
    for peer in (first, second):
        peer.wire.abort()
    await asyncio.sleep(0)
    assert (owner.connections, owner.budget.in_flight) == (0, 0)


@on_fake_time
async def test_a_wait_for_room_ends_on_time() -> None:
    """The call is refused, the connection goes on."""
    peer = Peer()
    assert peer.owner.budget.grant(6 << 20)
    stream_id = peer.call(data(MAX_SIZE))
    await asyncio.sleep(4.9)
    assert peer.seen(ngh2.ResponseReceived) == []
    await asyncio.sleep(0.2)
    peer.talk()
    assert [event.stream_id for event in peer.seen(ngh2.ResponseReceived)] == [stream_id]
    assert [event.error_code for event in peer.seen(ngh2.StreamReset)] == [0]
    peer.owner.budget.release(6 << 20)
    peer.call()
    assert peer.owner.calls.taken == [data(3)]
    assert peer.owner.closed == {}
    await peer.end()


@on_fake_time
async def test_a_refused_sender_is_told_to_stop() -> None:
    """The answer comes first, then RST_STREAM with NO_ERROR; what is on its way is thrown away."""
    peer = Peer()
    stream_id = peer.call(data(MAX_SIZE + 1))
    kinds = [type(event) for event in peer.events if getattr(event, "stream_id", 0) == stream_id]
    assert kinds.index(ngh2.ResponseReceived) < kinds.index(ngh2.StreamReset)
    assert peer.seen(ngh2.StreamReset)[0].error_code == ngh2.ErrorCode.NO_ERROR
    await asyncio.sleep(250.0)
    # The rest that came is no half frame.
    assert peer.wire.ended is None
    await peer.end()


@on_fake_time
async def test_a_call_that_is_no_post_gets_http() -> None:
    """With a body and without trailers."""
    peer = Peer()
    peer.http2.send_request([(b":method", b"GET"), *REQUEST[1:]], end_stream=True)
    peer.talk()
    assert peer.seen(ngh2.ResponseReceived)[0].headers == ((b":status", b"405"),)
    assert peer.seen(ngh2.DataReceived)[0].data == b"no\n"
    await peer.end()


@on_fake_time
async def test_a_call_that_is_reset_in_the_same_read_is_answered_to_nobody() -> None:
    """It may be taken; nothing comes back, and nothing stays."""
    peer = Peer()
    stream_id = peer.http2.send_request(REQUEST)
    peer.http2.send_data(stream_id, data(3), end_stream=True)
    out = peer.http2.data_to_send()
    peer.receive(out + attacks.frame(3, 0, stream_id, struct.pack(">I", 8)))
    assert peer.wire.sent == b""
    await asyncio.sleep(31.0)
    assert peer.owner.closed == {}
    await peer.end()


@on_fake_time
async def test_a_caller_that_gives_up_a_body_gives_its_room_back() -> None:
    """At once."""
    peer = Peer()
    stream_id = peer.call(data(1 << 20)[:100], last=False)
    assert peer.owner.budget.in_flight == (1 << 20) + 5
    peer.http2.reset_stream(stream_id)
    peer.talk()
    assert peer.owner.budget.in_flight == 0
    await peer.end()


@on_fake_time
async def test_a_client_may_end_with_trailers() -> None:
    """Few do; the message counts."""
    peer = Peer()
    stream_id = peer.http2.send_request(REQUEST)
    peer.http2.send_data(stream_id, data(3))
    peer.http2.send_trailers(stream_id, [(b"x", b"y")])
    peer.talk()
    assert peer.owner.calls.taken == [data(3)]
    await peer.end()


# ---- floods ------------------------------------------------------------------------------------

FLOODS: dict[str, tuple[Callable[[], Iterator[bytes]], str, int]] = {
    "rapid reset": (lambda: attacks.rapid_reset(10_000), "rapid_reset", 2),
    "CONTINUATION": (lambda: attacks.continuation_flood(1_000), "header_bomb", 11),
    "header bomb": (lambda: attacks.header_bomb(5), "header_bomb", 11),
    "SETTINGS": (lambda: attacks.settings_flood(5_000), "flood", 11),
    "PING": (lambda: attacks.ping_flood(5_000), "flood", 11),
    "PING in one read": (lambda: iter([HELLO + PING * 3_000]), "flood", 11),
    "WINDOW_UPDATE": (
        lambda: iter([HELLO] + [attacks.frame(8, 0, 0, b"\0\0\0\1") * 100] * 50),
        "flood",
        11,
    ),
    "empty DATA": (
        lambda: iter([HELLO + attacks.open_call(100)] + [attacks.frame(0, 0, 1) * 100] * 50),
        "flood",
        11,
    ),
    "unknown frames": (
        lambda: iter([HELLO] + [attacks.frame(0x55, 0, 0, b"x") * 1000] * 50),
        "flood",
        11,
    ),
    "garbage": (lambda: iter([HELLO, b"\xff" * 100]), "protocol_error", 6),
    "garbage for the preface": (lambda: iter([PREFACE[:10], b"garbage" * 10]), "protocol_error", 1),
}


@pytest.mark.parametrize("name", FLOODS)
def test_a_flood_ends_the_connection_with_its_reason(name: str) -> None:
    """GOAWAY, the reason counted once, nothing held; others notice nothing."""
    pieces, reason, code = FLOODS[name]

    async def test() -> None:
        owner = Owner()
        peer, other = Peer(owner, raw=True), Peer(owner)
        peak = 0
        for piece in pieces():
            if peer.wire.eof:
                break
            peer.receive(piece)
            peak = max(peak, len(peer.wire.sent))
        assert peer.wire.eof, "survived"
        assert owner.closed == {reason: 1}
        assert last_goaway(peer.wire.sent)[1] == code
        assert peak < 1 << 20
        other.call()
        assert other.seen(ngh2.TrailersReceived)
        # What still comes is thrown away, for a second.
        sent = len(peer.wire.sent)
        peer.receive(PING * 100)
        assert (len(peer.wire.sent), peer.wire.ended) == (sent, None)
        await asyncio.sleep(1.1)
        assert peer.wire.ended == "aborted"
        assert owner.connections == 1
        await other.end()

    run(test())


@on_fake_time
async def test_control_frames_that_come_with_calls_are_no_flood() -> None:
    """gRPC's Go client sends a WINDOW_UPDATE and a PING with each answer."""
    peer = Peer()
    for _ in range(3_000):
        peer.call()
        peer.receive(attacks.frame(8, 0, 0, b"\0\0\0\1") + PING)
    assert len(peer.owner.calls.taken) == 3_000
    assert peer.owner.closed == {}
    await peer.end()


@on_fake_time
async def test_a_ping_every_ten_seconds_is_no_flood() -> None:
    """For a day: keep-alive."""
    peer = Peer()
    for _ in range(8_640):
        peer.receive(PING)
        peer.wire.sent.clear()
        await asyncio.sleep(10.0)
    assert peer.owner.closed == {}
    await peer.end()


# ---- time --------------------------------------------------------------------------------------


@on_fake_time
async def test_an_idle_connection_is_closed_after_five_minutes() -> None:
    """Counted from the last that came, with GOAWAY and NO_ERROR."""
    peer = Peer()
    peer.call()
    await asyncio.sleep(200.0)
    peer.call()
    await asyncio.sleep(299.0)
    assert not peer.wire.eof
    await asyncio.sleep(1.5)
    assert peer.wire.eof
    assert peer.goaway() == (0, b"idle")
    assert peer.owner.closed == {"idle": 1}
    await peer.end()


@on_fake_time
async def test_an_idle_connection_wakes_nobody() -> None:
    """One look after the first ten seconds, then none before its end."""
    peer = Peer()
    looked = list[float]()
    look = peer.connection._streams.look
    peer.connection._streams.look = lambda now: (looked.append(now), look(now))[1]  # type: ignore[method-assign]
    start_s = now_s()
    await asyncio.sleep(299.0)
    assert [at - start_s for at in looked] == [10.0]
    await peer.end()


@pytest.mark.parametrize("sent", [b"", PREFACE[:-1], PREFACE, PREFACE + b"\0\0"])
def test_a_client_that_does_not_introduce_itself_has_ten_seconds(sent: bytes) -> None:
    """For the preface and its SETTINGS, however slowly they come."""

    async def test() -> None:
        peer = Peer(raw=True)
        for byte in sent:
            peer.receive(bytes((byte,)))
            await asyncio.sleep(0.3)
        await asyncio.sleep(10.1 - 0.3 * len(sent))
        assert peer.wire.eof
        assert peer.owner.closed == {"slow_head": 1}
        await peer.end()

    run(test())


@on_fake_time
async def test_headers_that_trickle_have_ten_seconds() -> None:
    """From the first byte of the frame."""
    peer = Peer()
    peer.call()
    head = attacks.frame(1, 4, 3, bytes(1000))
    start_s = now_s()
    for byte in head:
        if peer.wire.eof:
            break
        peer.receive(bytes((byte,)))
        await asyncio.sleep(1.0)
    assert now_s() - start_s == pytest.approx(11.0, abs=1.1)
    assert peer.owner.closed == {"slow_head": 1}
    await peer.end()


NOTHING_FOR_US = {
    "WINDOW_UPDATE for an answered call": attacks.frame(8, 0, 1, struct.pack(">I", 5)),
    "PRIORITY": attacks.frame(2, 0, 3, struct.pack(">IB", 0, 16)),
    "unknown": attacks.frame(0x0B, 0, 0, b"abc"),
    "RST_STREAM for an answered call": attacks.frame(3, 0, 1, struct.pack(">I", 8)),
    "PING": PING,
}


@pytest.mark.parametrize("name", NOTHING_FOR_US)
def test_a_frame_that_means_nothing_to_us_is_a_whole_frame(name: str) -> None:
    """The connection is idle afterwards, and not in the middle of a frame."""

    async def test() -> None:
        peer = Peer()
        peer.call()
        peer.receive(NOTHING_FOR_US[name])
        await asyncio.sleep(299.0)
        assert not peer.wire.eof
        await asyncio.sleep(1.5)
        assert peer.owner.closed == {"idle": 1}
        await peer.end()

    run(test())


@on_fake_time
async def test_a_head_in_pieces_has_ten_seconds_too() -> None:
    """Each CONTINUATION is a whole frame; the head is not."""
    peer = Peer()
    peer.call()
    peer.receive(attacks.frame(1, 0, 3, attacks.CALL))
    await asyncio.sleep(5.0)
    peer.receive(attacks.frame(9, 0, 3, b"\x00\x01a\x01b"))
    await asyncio.sleep(5.5)
    assert peer.owner.closed == {"slow_head": 1}
    await peer.end()


@on_fake_time
async def test_a_head_with_too_many_fields_ends_the_connection() -> None:
    """More than a hundred: objects, of which a peer makes one with a byte."""
    peer = Peer()
    for count, seen in ((100, 1), (101, 1)):
        fields = [(b"x", b"y")] * (count - len(REQUEST))
        stream_id = peer.http2.send_request(REQUEST + fields)
        peer.http2.send_data(stream_id, data(3), end_stream=True)
        peer.talk()
        assert len(peer.owner.calls.taken) == seen
    assert peer.owner.closed == {"header_bomb": 1}
    assert peer.goaway() == (ngh2.ErrorCode.ENHANCE_YOUR_CALM, b"header_bomb")
    await peer.end()


@on_fake_time
async def test_a_body_that_does_not_come_is_given_up() -> None:
    """A byte a second is not enough; the connection and its other calls go on."""
    peer = Peer()
    stream_id = peer.call(data(100_000)[:5], last=False)
    assert peer.owner.budget.in_flight == 100_005
    for _ in range(29):
        await asyncio.sleep(1.0)
        peer.receive(attacks.frame(0, 0, stream_id, b"\0"))
    assert peer.owner.budget.in_flight == 100_005
    await asyncio.sleep(1.1)
    assert peer.owner.budget.in_flight == 0
    assert peer.owner.closed == {"stalled_body": 1}
    peer.talk()
    assert peer.seen(ngh2.ResponseReceived)
    assert peer.seen(ngh2.StreamReset)
    peer.call()
    assert peer.owner.calls.taken == [data(3)]
    await peer.end()


@on_fake_time
async def test_a_slow_body_that_goes_on_is_taken() -> None:
    """A link of 4 KB a second is a link."""
    peer = Peer()
    message = data(200_000)
    stream_id = peer.call(message[:5], last=False)
    for at in range(5, len(message), 4000):
        await asyncio.sleep(1.0)
        piece = message[at : at + 4000]
        last = at + 4000 >= len(message)
        peer.receive(attacks.frame(0, int(last), stream_id, piece))
    assert peer.owner.calls.taken == [message]
    assert peer.owner.closed == {}
    await peer.end()


@on_fake_time
async def test_a_window_that_never_opens_ends_the_connection() -> None:
    """Answers wait within it for thirty seconds; a hundred streams are all that there are."""
    peer = Peer(raw=True)
    peer.receive(attacks.zero_window(300, data(3)[5:]))
    assert len(peer.owner.calls.taken) <= 100
    assert len(peer.wire.sent) < 64 << 10
    await asyncio.sleep(29.0)
    assert not peer.wire.eof
    await asyncio.sleep(1.5)
    assert peer.owner.closed == {"unread": 1}
    await peer.end()


@on_fake_time
async def test_a_window_that_opens_late_is_in_time() -> None:
    """The answer goes out then."""
    peer = Peer(hello={ngh2.Setting.INITIAL_WINDOW_SIZE: 0})
    stream_id = peer.call()
    await asyncio.sleep(20.0)
    peer.http2.set_local_window_size(100, stream_id=stream_id)
    peer.talk()
    assert peer.seen(ngh2.TrailersReceived)
    await asyncio.sleep(20.0)
    assert peer.owner.closed == {}
    await peer.end()


@on_fake_time
async def test_who_does_not_read_is_not_read_from() -> None:
    """What it is owed stays small, and after thirty seconds it is cut off."""
    peer = Peer(high_water=100)
    while not peer.wire.reading_paused:
        stream_id = peer.http2.send_request(REQUEST)
        peer.http2.send_data(stream_id, data(3), end_stream=True)
        peer.receive(peer.http2.data_to_send())
    owed = len(peer.wire.sent)
    peer.receive(PING)
    assert len(peer.wire.sent) == owed
    await asyncio.sleep(29.0)
    assert peer.wire.ended is None
    await asyncio.sleep(1.5)
    assert peer.owner.closed == {"unread": 1}
    assert peer.wire.ended == "closed"
    await peer.end()


@on_fake_time
async def test_who_reads_again_gets_what_it_is_owed() -> None:
    """And is read from again."""
    peer = Peer(high_water=0)
    peer.wire.drained()
    stream_id = peer.http2.send_request(REQUEST)
    peer.http2.send_data(stream_id, data(3), end_stream=True)
    peer.receive(peer.http2.data_to_send())
    assert peer.wire.reading_paused
    first = len(peer.wire.sent)
    peer.receive(PING)
    assert len(peer.wire.sent) == first
    peer.wire.drained()
    assert len(peer.wire.sent) == 17
    peer.wire.drained()
    assert not peer.wire.reading_paused
    await asyncio.sleep(60.0)
    assert peer.owner.closed == {}
    await peer.end()


# ---- turns -------------------------------------------------------------------------------------


class SlowPeer(Peer):
    """Each of its calls takes `takes_s`, in which the loop stands still."""

    def __init__(self, takes_s: float, owner: Owner | None = None, **wire: Any) -> None:
        super().__init__(owner, **wire)
        loop: Any = asyncio.get_running_loop()
        message = self.owner.calls.message

        def slow(head: str, body: bytes) -> Any:
            loop.now_s += takes_s
            return message(head, body)

        if owner is None:
            self.owner.calls.message = slow  # type: ignore[method-assign]

    def ahead(self, calls: int) -> list[int]:
        """So many calls in one read; their streams."""
        streams = []
        for number in range(calls):
            stream_id = self.http2.send_request(REQUEST)
            self.http2.send_data(stream_id, data(number), end_stream=True)
            streams.append(stream_id)
        self.receive(self.http2.data_to_send())
        return streams

    async def quiet(self) -> None:
        """Let the loop go round until no call waits."""
        while self.connection._queuing:
            await asyncio.sleep(0)


@on_fake_time
async def test_others_have_their_turn_while_many_calls_are_answered() -> None:
    """Two of 30 ms each time the loop goes round; nothing is read; the order is kept."""
    peer = SlowPeer(0.03)
    streams = peer.ahead(7)
    counts = [len(peer.owner.calls.taken)]
    while peer.wire.reading_paused:
        await asyncio.sleep(0)  # What others do.
        counts.append(len(peer.owner.calls.taken))
    assert counts == [2, 4, 6, 7]
    assert peer.owner.calls.taken == [data(number) for number in range(7)]
    peer.talk()
    assert [event.stream_id for event in peer.seen(ngh2.ResponseReceived)] == streams
    assert peer.owner.budget.in_flight == 0
    await peer.end()


@on_fake_time
async def test_many_connections_together_have_one_share() -> None:
    """Each time the loop goes round, and all have theirs in the order in which they came."""
    first = SlowPeer(0.03)
    peers = [first, *(SlowPeer(0.03, first.owner) for _ in range(4))]
    for peer in peers:
        peer.ahead(3)
    counts = [len(first.owner.calls.taken)]
    while any(peer.wire.reading_paused for peer in peers):
        await asyncio.sleep(0)
        counts.append(len(first.owner.calls.taken))
    assert counts == [2, 4, 6, 8, 10, 12, 14, 15]
    # The first has waited longest. The second's share was one: it goes on when all have had one.
    assert first.owner.calls.taken[2:10] == [data(n) for n in (2, 0, 0, 1, 0, 1, 0, 1)]
    for peer in peers:
        peer.talk()
        assert len(peer.seen(ngh2.TrailersReceived)) == 3
        peer.wire.abort()
    await asyncio.sleep(0)
    assert (first.owner.connections, first.owner.budget.in_flight) == (0, 0)


@on_fake_time
async def test_a_drained_connection_answers_what_waits_for_its_turn() -> None:
    """And then it closes."""
    peer = SlowPeer(1.0)
    streams = peer.ahead(4)
    peer.connection.drain()
    assert peer.wire.ended is None
    await peer.quiet()
    assert len(peer.owner.calls.taken) == 4
    peer.http2.receive_data(bytes(peer.wire.sent))
    peer.events += peer.http2.events()
    assert [event.stream_id for event in peer.seen(ngh2.TrailersReceived)] == streams
    assert peer.wire.ended == "closed"
    await peer.end()


@pytest.mark.parametrize("how", ["abort", "eof", "reset", "flood", "silence"])
def test_a_connection_may_end_while_calls_wait(how: str) -> None:
    """Whoever ends it: nothing is answered any more, and nothing is held."""

    async def test() -> None:
        peer = SlowPeer(1.0)
        streams = peer.ahead(3)
        assert peer.owner.budget.in_flight > 0
        match how:
            case "abort":
                peer.connection.abort()
            case "eof":
                assert not peer.connection.eof_received()
                peer.wire.close()
            case "reset":
                for stream_id in streams[1:]:
                    peer.receive(attacks.frame(3, 0, stream_id, struct.pack(">I", 8)))
            case "flood":
                peer.receive(PING * 3000)
            case _:
                peer.connection.make_room()
        assert len(peer.owner.calls.taken) == 1
        assert how in ("abort", "eof") or peer.owner.budget.in_flight == 0
        await peer.quiet()
        await asyncio.sleep(2.0)
        assert len(peer.owner.calls.taken) == 1
        assert not peer.wire.reading_paused or peer.wire.ended
        await peer.end()

    run(test())


@on_fake_time
async def test_who_waits_for_its_turn_and_does_not_read_stays_paused() -> None:
    """There are two reasons not to read, and both have to be over."""
    peer = SlowPeer(1.0, high_water=0)
    peer.wire.drained()
    peer.ahead(2)
    await peer.quiet()
    assert peer.wire.reading_paused
    peer.wire.drained()
    peer.wire.drained()
    assert not peer.wire.reading_paused
    await peer.end()


@on_fake_time
async def test_half_a_frame_behind_calls_that_wait_has_its_time_from_then_on() -> None:
    """Nothing was read meanwhile."""
    peer = SlowPeer(6.0)
    for number in range(3):
        stream_id = peer.http2.send_request(REQUEST)
        peer.http2.send_data(stream_id, data(number), end_stream=True)
    head = attacks.frame(1, 4, 7, attacks.CALL)
    peer.receive(peer.http2.data_to_send() + head[:20])
    await peer.quiet()
    peer.talk()
    await asyncio.sleep(9.0)
    assert peer.owner.closed == {}
    await asyncio.sleep(1.5)
    assert peer.owner.closed == {"slow_head": 1}
    await peer.end()


@on_fake_time
async def test_a_connection_with_a_call_is_not_idle() -> None:
    """Nor one whose answer is not taken; PING changes nothing."""
    peer = Peer()
    since_s = peer.connection.idle_since_s
    assert since_s == now_s()
    await asyncio.sleep(5.0)
    peer.receive(PING)
    assert peer.connection.idle_since_s == since_s
    stream_id = peer.call(data(10)[:5], last=False)
    assert peer.connection.idle_since_s is None
    peer.http2.send_data(stream_id, data(10)[5:], end_stream=True)
    peer.receive(peer.http2.data_to_send())
    assert peer.connection.idle_since_s == now_s()
    peer.connection.make_room()
    assert peer.connection.idle_since_s is None
    assert peer.wire.ended is not None
    assert peer.goaway() == (0, b"idle")
    await peer.end()


# ---- ends --------------------------------------------------------------------------------------


@on_fake_time
async def test_http1_is_told_where_it_is() -> None:
    """In its own words; others that speak no HTTP/2 are just closed."""
    peer, other = Peer(raw=True), Peer(raw=True)
    peer.receive(b"POST /v1/traces HTTP/1.1\r\nhost: x\r\n\r\n")
    assert peer.wire.sent == NOT_HTTP2
    other.receive(b"\x16\x03\x01\x02\x00")
    assert other.wire.sent == b""
    for each in (peer, other):
        assert each.wire.eof
        assert each.owner.closed == {"not_http2": 1}
        await each.end()


@on_fake_time
async def test_under_tls_the_transport_is_closed() -> None:
    """It has no half-closed state."""
    peer = Peer(raw=True, half_closes=False)
    peer.receive(b"GET / HTTP/1.1\r\n\r\n")
    assert peer.wire.ended == "closed"
    await peer.end()


@on_fake_time
async def test_a_client_that_leaves_is_not_counted() -> None:
    """GOAWAY from the other side, or a closed connection, is no misdeed."""
    peer, other = Peer(), Peer()
    peer.call()
    peer.http2.terminate_connection()
    peer.talk()
    assert peer.wire.ended == "closed"
    assert peer.owner.closed == {}
    assert other.connection.eof_received() is False
    other.call(data(1 << 20)[:100], last=False)
    await other.end()
    assert other.owner.closed == {}
    await peer.end()


@on_fake_time
async def test_a_drained_connection_finishes_what_is_in_progress() -> None:
    """GOAWAY names the last stream; it is answered; then the connection closes."""
    peer = Peer()
    message = data(100_000)
    stream_id = peer.call(message[:5], last=False)
    peer.connection.drain()
    peer.talk()
    assert peer.seen(ngh2.GoAwayReceived)[0].last_stream_id == stream_id
    assert peer.wire.ended is None
    peer.http2.send_data(stream_id, message[5:], end_stream=True)
    peer.talk()
    assert peer.owner.calls.taken == [message]
    assert peer.wire.ended == "closed"
    assert peer.owner.closed == {}
    await peer.end()


@on_fake_time
async def test_a_drained_connection_without_a_call_closes_at_once() -> None:
    """Greeted or not, and also where it is at its end already."""
    for peer in (Peer(), Peer(raw=True)):
        peer.connection.drain()
        assert peer.wire.ended == "closed" or peer.wire.eof
        peer.connection.drain()
        await asyncio.sleep(1.1)
        assert peer.wire.ended is not None
        assert peer.owner.closed == {}
        await peer.end()


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_damaged_frames_raise_nothing_and_leave_nothing(draw: st.DataObject) -> None:
    """Flip, cut and repeat bytes of a good conversation: it is answered or ended."""
    good = bytearray(
        HELLO
        + attacks.open_call(100)
        + attacks.frame(0, 1, 1, bytes(100))
        + attacks.zero_window(3, b"abc")[len(PREFACE) :].replace(b"\0\0\0\1\4\0", b"")
        + PING
        + attacks.packed_call(b"xyz")
    )
    for _ in range(draw.draw(st.integers(0, 8))):
        at = draw.draw(st.integers(len(PREFACE), len(good) - 1))
        if draw.draw(st.booleans()):
            good[at] = draw.draw(st.integers(0, 255))
        else:
            del good[at : at + draw.draw(st.integers(1, 20))]
    cuts = sorted(draw.draw(st.lists(st.integers(0, len(good)), max_size=5)))

    async def test() -> None:
        peer = Peer(raw=True)
        for start, stop in zip([0, *cuts], [*cuts, len(good)], strict=True):
            if start < stop:
                peer.receive(bytes(good[start:stop]))
            await asyncio.sleep(3.0)
        await asyncio.sleep(400.0)
        assert peer.wire.ended is not None
        await peer.end()

    run(test())
