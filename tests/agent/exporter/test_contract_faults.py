"""Peers that break the rules: every one of them costs a retry, never the data or the process."""

import asyncio
import base64
from collections.abc import Callable

import ngh2
import pytest

from edge_agent.exporter.retry import Delivered, Denied, Outcome, Rejected, Retry
from edge_agent.otlp.signal import Signal
from edge_agent.otlp.status import Status, encode_status
from tests.agent.exporter.contract import (
    BODY,
    GRPC_KINDS,
    KINDS,
    OpenClient,
    until_outcome,
)
from tests.fakes.http2_server import Http2Server, ServerCall
from tests.fakes.raw_server import RawServer, Talk, forever

GRPC = ((b":status", b"200"), (b"content-type", b"application/grpc"))
SETTINGS_FRAME = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"


def once(first: Callable[[ServerCall], None]) -> Callable[[ServerCall], None]:
    """Do `first` to the first request and answer the others."""
    done: list[ServerCall] = []

    def respond(call: ServerCall) -> None:
        if done:
            call.answer()
        else:
            done.append(call)
            first(call)

    return respond


# What a connection may do before HTTP/2 begins.


async def slams(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Accept and close."""
    writer.transport.abort()


async def babbles(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Bytes of no protocol."""
    writer.write(bytes(range(256)) * 4)
    await forever(reader, writer)


async def speaks_http1(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """An HTTP/1.1 server on the port of a gRPC one."""
    writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n" * 3)
    await forever(reader, writer)


async def stops_in_a_frame(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """SETTINGS, then half of a HEADERS frame or of a status line."""
    await reader.read(65536)
    writer.write(SETTINGS_FRAME + b"\x00\x00\x20\x01\x04\x00\x00\x00\x01\x88")


async def stops_in_a_status_line(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Half of an HTTP/1.1 answer's first line."""
    await reader.read(65536)
    writer.write(b"HTTP/1.1 2")


async def stops_in_a_body(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Half of an HTTP/1.1 answer's body."""
    await reader.read(65536)
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "talk",
    [
        forever,
        slams,
        babbles,
        stops_in_a_frame,
        stops_in_a_status_line,
        stops_in_a_body,
    ],
)
async def test_a_peer_that_speaks_no_protocol_costs_a_retry(
    kind: str, talk: Talk, open_client: OpenClient
) -> None:
    """Silence, garbage and half answers; afterwards a good peer on that port is found."""
    async with RawServer(talk) as server:
        client = open_client(kind, server.endpoint, timeout_s=0.5)
        outcomes = [await client.export(Signal.METRICS, BODY) for _ in range(3)]
        assert [type(outcome) for outcome in outcomes] == [Retry] * 3
        assert server.connections > 0


@pytest.mark.parametrize("kind", GRPC_KINDS)
async def test_an_http1_server_on_a_grpc_port_costs_a_retry(
    kind: str, open_client: OpenClient
) -> None:
    """A wrong port is a person's mistake: the data waits until it is mended."""
    async with RawServer(speaks_http1) as server:
        client = open_client(kind, server.endpoint, timeout_s=0.5)
        assert isinstance(await client.export(Signal.METRICS, BODY), Retry)


@pytest.mark.parametrize("kind", GRPC_KINDS)
async def test_a_peer_that_never_sends_settings_costs_a_retry(
    kind: str, open_client: OpenClient
) -> None:
    """It took the connection and says nothing: no request is risked on it."""
    async with Http2Server(mute=True) as server:
        client = open_client(kind, server.endpoint, timeout_s=0.3)
        assert isinstance(await client.export(Signal.METRICS, BODY), Retry)
        assert server.received == []


# What a connection may do to a call.

FAULTS: dict[str, Callable[[ServerCall], None]] = {
    "closes the connection": lambda call: call.connection.write(b"", close=True),
    "closes in the middle of a frame": lambda call: call.connection.write(
        b"\x00\x00\x20\x01\x04\x00\x00\x00\x01\x88", close=True
    ),
    "answers garbage": lambda call: call.connection.write(b"garbage" * 100),
    "answers a frame that is too long": lambda call: call.connection.write(
        b"\xff\xff\xff\x00\x00\x00\x00\x00\x01" + bytes(1000)
    ),
    "answers an undecodable header block": lambda call: call.connection.write(
        b"\x00\x00\x04\x01\x05\x00\x00\x00\x01\xff\xff\xff\xff"
    ),
    "ends without a status": lambda call: call.headers_only(*GRPC),
    "ends with a status that is no number": lambda call: call.headers_only(
        *GRPC, (b"grpc-status", b"fine")
    ),
    "answers a web page": lambda call: (
        call.begin((b":status", b"200"), (b"content-type", b"text/html")),
        call.send(b"<html>log in</html>", end=True),
    )[1],
    "answers headers without end": lambda call: call.headers_only(
        *GRPC, (b"x", b"y" * 40_000), (b"grpc-status", b"0")
    ),
    **{
        f"resets the stream with {code.name}": lambda call, code=code: call.reset(code)
        for code in ngh2.ErrorCode
    },
}


# grpc-core remembers a bad grpc-status in its header table, and every later call on that connection
# gets it again: a retry each, as here, but no delivery before the peer closes.
POISONS_GRPCIO = "ends with a status that is no number"


@pytest.mark.parametrize(
    ("kind", "fault"),
    [(k, f) for k in GRPC_KINDS for f in FAULTS if (k, f) != ("grpcio", POISONS_GRPCIO)],
)
async def test_a_call_that_gets_no_answer_costs_a_retry(
    kind: str, fault: str, open_client: OpenClient
) -> None:
    """Whatever ends it; the next call, on a new connection if need be, is delivered."""
    async with Http2Server(once(FAULTS[fault])) as server:
        client = open_client(kind, server.endpoint)
        outcome = await client.export(Signal.METRICS, BODY)
        if fault != "resets the stream with REFUSED_STREAM":
            assert isinstance(outcome, Retry), outcome
        await until_outcome(lambda: client.export(Signal.METRICS, BODY), Delivered)


@pytest.mark.parametrize("kind", GRPC_KINDS)
async def test_a_stalled_call_costs_a_retry_and_no_more(kind: str, open_client: OpenClient) -> None:
    """Headers and half a message, then nothing: the deadline ends it."""

    def stall(call: ServerCall) -> None:
        call.begin(*GRPC)
        call.send(b"\x00\x00\x00")

    async with Http2Server(once(stall)) as server:
        client = open_client(kind, server.endpoint, timeout_s=0.3)
        assert isinstance(await client.export(Signal.METRICS, BODY), Retry)
        await until_outcome(lambda: client.export(Signal.METRICS, BODY), Delivered)


@pytest.mark.parametrize("kind", GRPC_KINDS)
async def test_a_trailers_only_answer_is_an_answer(kind: str, open_client: OpenClient) -> None:
    """One HEADERS frame carries the status, and its message is percent-decoded."""
    message = b"na%C3%AFve: 100%25 %zz"
    answers = iter([b"3", b"14", b"0", b"99"])

    def respond(call: ServerCall) -> None:
        call.headers_only(*GRPC, (b"grpc-status", next(answers)), (b"grpc-message", message))

    async with Http2Server(respond) as server:
        client = open_client(kind, server.endpoint)
        outcomes = [await client.export(Signal.METRICS, BODY) for _ in range(4)]
    text = "naïve: 100% %zz"
    assert outcomes[0] == Rejected("invalid_argument", text)
    assert outcomes[1] == Retry(f"unavailable: {text}")
    assert isinstance(outcomes[2], Delivered)
    # A number that gRPC does not know is UNKNOWN.
    assert outcomes[3] == Rejected("unknown", text)


@pytest.mark.parametrize("kind", GRPC_KINDS)
async def test_status_details_are_read_with_and_without_padding(
    kind: str, open_client: OpenClient
) -> None:
    """gRPC leaves base64's padding to the sender."""
    details = base64.b64encode(encode_status(Status(8, "", 2.0)))
    assert details.endswith(b"=")
    garbage = b"!!!", b"/////w"
    # grpcio takes a header that is no base64 for a broken link. Both keep the data.
    values = [details, details.rstrip(b"="), *(garbage if kind == "builtin" else ())]
    left = iter(values)

    def respond(call: ServerCall) -> None:
        status = (b"grpc-status", b"8"), (b"grpc-status-details-bin", next(left))
        call.headers_only(*GRPC, *status)

    async with Http2Server(respond) as server:
        client = open_client(kind, server.endpoint)
        outcomes = [await client.export(Signal.METRICS, BODY) for _ in values]
    assert outcomes[:2] == [Retry("resource_exhausted", 2.0)] * 2
    bare = Rejected("resource_exhausted", "", too_large=True)
    assert outcomes[2:] == [bare] * (len(values) - 2)


@pytest.mark.parametrize("kind", GRPC_KINDS)
@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ("400", "internal"),
        ("401", "unauthenticated"),
        ("403", "permission_denied"),
        ("404", "unimplemented"),
        ("413", "resource_exhausted"),
        ("418", "unknown"),
        ("429", "unavailable"),
        ("500", "unknown"),
        ("502", "unavailable"),
        ("503", "unavailable"),
        ("504", "unavailable"),
    ],
)
async def test_an_http_error_has_the_code_that_grpc_maps_it_to(
    kind: str, status: str, expected: str, open_client: OpenClient
) -> None:
    """What proxies in front of a collector answer: http-grpc-status-mapping, and 413 besides.

    What has no code of its own is UNKNOWN to grpcio; ours keeps the data.
    """

    def respond(call: ServerCall) -> None:
        call.headers_only((b":status", status.encode()), (b"content-type", b"text/plain"))

    async with Http2Server(respond) as server:
        outcome = await open_client(kind, server.endpoint).export(Signal.METRICS, BODY)
    types: dict[str, type] = {"unavailable": Retry}
    types |= {"unauthenticated": Denied, "permission_denied": Denied}
    if expected == "unknown" and kind == "builtin":
        assert outcome == Retry(f"not a gRPC answer: answered HTTP status {status}")
        return
    assert type(outcome) is types.get(expected, Rejected)
    name = outcome.reason.partition(":")[0] if isinstance(outcome, Retry) else outcome.code
    assert name == expected
    assert getattr(outcome, "too_large", False) == (status == "413")


@pytest.mark.parametrize("kind", GRPC_KINDS)
async def test_an_answer_larger_than_we_hold_is_a_rejection_that_splitting_may_cure(
    kind: str, open_client: OpenClient
) -> None:
    """As gRPC has it: RESOURCE_EXHAUSTED. A hostile peer cannot fill a device's memory."""

    def flood(call: ServerCall) -> None:
        call.answer(bytes(5 << 20))

    async with Http2Server(once(flood)) as server:
        client = open_client(kind, server.endpoint)
        outcome = await client.export(Signal.METRICS, BODY)
        assert isinstance(outcome, Rejected)
        assert (outcome.code, outcome.too_large) == ("resource_exhausted", True)
        assert isinstance(await client.export(Signal.METRICS, BODY), Delivered)


# Flow control and connection management.


@pytest.mark.parametrize("kind", GRPC_KINDS)
async def test_a_tiny_window_slows_a_large_body_down_and_no_more(
    kind: str, open_client: OpenClient
) -> None:
    """3.9 MB through a window of one kilobyte."""
    body = bytes(range(250)) * 15_600
    settings = {ngh2.Setting.INITIAL_WINDOW_SIZE: 1024}
    async with Http2Server(settings=settings) as server:
        client = open_client(kind, server.endpoint, timeout_s=60.0)
        assert isinstance(await client.export(Signal.METRICS, body), Delivered)
        assert server.received[0].body[5:] == body


@pytest.mark.parametrize("kind", GRPC_KINDS)
async def test_a_slow_reader_gets_it_all_in_the_end(kind: str, open_client: OpenClient) -> None:
    """The peer opens its windows by hand, a piece at a time, after it has taken a piece."""
    body = bytes(range(250)) * 4_000
    async with Http2Server(open_windows=False) as server:
        client = open_client(kind, server.endpoint)
        export = asyncio.create_task(client.export(Signal.METRICS, body))
        await server.until(lambda: server.connections and server.connections[0].calls)
        connection = server.connections[0]
        (call,) = connection.calls.values()
        taken = [0]
        while not server.received:
            await server.until(lambda: len(call.body) > taken[-1] or server.received)
            taken.append(len(call.body))
            connection.http2.acknowledge_received_data(taken[-1] - taken[-2], call.stream_id)
            connection.flush()
        assert isinstance(await export, Delivered)
        assert call.body[5:] == body


@pytest.mark.parametrize("kind", GRPC_KINDS)
async def test_no_more_streams_are_open_than_the_peer_allows(
    kind: str, open_client: OpenClient
) -> None:
    """MAX_CONCURRENT_STREAMS=1: the others wait their turn and are all delivered."""
    open_now = most = 0

    def begun(_call: ServerCall) -> None:
        nonlocal open_now, most
        open_now += 1
        most = max(most, open_now)

    def respond(call: ServerCall) -> None:
        nonlocal open_now
        open_now -= 1
        call.answer()

    settings = {ngh2.Setting.MAX_CONCURRENT_STREAMS: 1}
    async with Http2Server(respond, on_headers=begun, settings=settings) as server:
        client = open_client(kind, server.endpoint)
        bodies = [b"\x0a\x00" * n for n in range(1, 20)]
        exports = [client.export(Signal.METRICS, body) for body in bodies]
        outcomes = await asyncio.gather(*exports)
        assert {type(outcome) for outcome in outcomes} == {Delivered}
        received = [call.body[5:] for call in server.received]
    assert most == 1
    # grpcio takes them as they come to it.
    assert (received if kind == "builtin" else sorted(received)) == bodies


@pytest.mark.parametrize("kind", GRPC_KINDS)
async def test_a_graceful_goaway_lets_calls_in_flight_finish(
    kind: str, open_client: OpenClient
) -> None:
    """What the peer still answers is delivered; the next call opens a new connection."""
    held: list[ServerCall] = []

    def respond(call: ServerCall) -> None:
        if call.connection.number == 0:
            held.append(call)
        else:
            call.answer()

    async with Http2Server(respond) as server:
        client = open_client(kind, server.endpoint)
        first = asyncio.create_task(client.export(Signal.METRICS, BODY))
        await server.until(lambda: held)
        held[0].connection.goaway(held[0].stream_id)
        # grpcio fails calls for a moment after a GOAWAY; ours go on to the new connection.
        outcome = await until_outcome(lambda: client.export(Signal.METRICS, BODY), Delivered)
        assert isinstance(outcome, Delivered)
        held[0].answer()
        assert isinstance(await first, Delivered)
        assert [call.connection.number for call in server.received] == [0, 1]


async def test_a_call_above_a_goaways_last_stream_goes_out_again_at_once(
    open_client: OpenClient,
) -> None:
    """The peer has certainly not acted on it: no retry of the queue's, no delay."""

    def respond(call: ServerCall) -> None:
        if call.connection.number == 0:
            call.connection.goaway(0, debug=b"restarting")
        else:
            call.answer()

    async with Http2Server(respond) as server:
        client = open_client("builtin", server.endpoint)
        assert isinstance(await client.export(Signal.METRICS, BODY), Delivered)
        assert [call.connection.number for call in server.received] == [0, 1]


async def test_a_refused_stream_goes_out_once_more_and_then_is_a_retry(
    open_client: OpenClient,
) -> None:
    """REFUSED_STREAM says that nothing was done; a peer that says so for ever gets a pause."""
    async with Http2Server(once(lambda call: call.reset(7))) as server:
        client = open_client("builtin", server.endpoint)
        assert isinstance(await client.export(Signal.METRICS, BODY), Delivered)
        assert len(server.received) == 2
    async with Http2Server(lambda call: call.reset(7)) as server:
        client = open_client("builtin", server.endpoint)
        outcome = await client.export(Signal.METRICS, BODY)
        assert len(server.received) == 2
    assert outcome == Retry(f"{server.endpoint.authority}: stream reset: REFUSED_STREAM")


@pytest.mark.parametrize("kind", GRPC_KINDS)
async def test_a_goaway_before_any_call_costs_at_most_a_retry(
    kind: str, open_client: OpenClient
) -> None:
    """A peer that is restarting when we come."""

    def begun(call: ServerCall) -> None:
        if call.connection.number == 0:
            call.connection.goaway(0, error_code=ngh2.ErrorCode.ENHANCE_YOUR_CALM)

    async with Http2Server(on_headers=begun) as server:
        client = open_client(kind, server.endpoint)
        await until_outcome(lambda: client.export(Signal.METRICS, BODY), Delivered)
        assert len(server.connections) >= 2


@pytest.mark.parametrize("kind", GRPC_KINDS)
async def test_an_answer_before_the_request_is_read_counts(
    kind: str, open_client: OpenClient
) -> None:
    """A proxy that refuses a body by its headers alone need not read it."""

    def refuse(call: ServerCall) -> None:
        call.headers_only((b":status", b"413"), (b"content-type", b"text/plain"))

    async with Http2Server(on_headers=refuse, open_windows=False) as server:
        client = open_client(kind, server.endpoint)
        outcome: Outcome = await client.export(Signal.METRICS, bytes(1_000_000))
    assert isinstance(outcome, Rejected)
    assert outcome.too_large
