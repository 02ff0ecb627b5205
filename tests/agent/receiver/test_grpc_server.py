"""OTLP over gRPC, as grpcio's own client sees it, and in bytes that it would not send."""

import asyncio
import gzip
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest

from edge_agent.otlp.signal import GRPC_PATHS, Signal
from edge_agent.otlp.status import Code, decode_status
from edge_agent.receiver.core import MAX_REQUEST_BYTES, RETRY_AFTER_S
from edge_agent.receiver.grpc_server import GrpcReceiver, Head
from edge_agent.settings import Endpoint
from edge_agent.transport.dial import Tls, dial
from edge_agent.transport.grpc import Headers, decode_binary, message_prefix
from edge_agent.transport.http2_client import ClientConnection, Response
from edge_agent.transport.http2_streams import Limits, Reply
from tests.agent.receiver import requests as r
from tests.agent.receiver.oracle import TRACES
from tests.agent.receiver.servers import DEADLINE_S, Queues, Receiving, new_core, receiving

MIB = 1 << 20
OPTIONS = [("grpc.max_send_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
HEAD: Headers = (
    (b":method", b"POST"),
    (b":scheme", b"http"),
    (b":path", TRACES.encode()),
    (b":authority", b"localhost"),
    (b"te", b"trailers"),
    (b"content-type", b"application/grpc"),
)


@asynccontextmanager
async def channel(
    receiver: Receiving, compression: grpc.Compression = grpc.Compression.NoCompression
) -> AsyncIterator[grpc.aio.Channel]:
    """A connection of grpcio's client."""
    target = f"127.0.0.1:{receiver.grpc_port}"
    async with grpc.aio.insecure_channel(target, OPTIONS, compression) as opened:
        yield opened


async def refused(call: Any, body: bytes, **options: Any) -> grpc.aio.AioRpcError:
    """How `call` ends that must not succeed."""
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await call(body, timeout=DEADLINE_S, **options)
    return failure.value


def trailers(error: grpc.aio.AioRpcError) -> dict[str, Any]:
    """What came with the status; of a trailers-only answer."""
    return {**dict(error.initial_metadata() or ()), **dict(error.trailing_metadata() or ())}


async def raw(receiver: Receiving, body: bytes, *changes: tuple[bytes, bytes | None]) -> Response:
    """The answer to a call whose headers are HEAD with `changes`, None taking one away."""
    changed = dict(changes)
    kept = tuple((name, changed.pop(name, value)) for name, value in HEAD)
    headers = tuple((n, v) for n, v in (*kept, *changed.items()) if v is not None)
    _, connection = await dial(
        ClientConnection,
        Endpoint("http", "127.0.0.1", receiver.grpc_port, ""),
        tls=Tls(None, None, None),
        alpn=("h2",),
        proxy=None,
        timeout_s=DEADLINE_S,
    )
    try:
        await connection.ready()
        async with asyncio.timeout(DEADLINE_S):
            return await connection.request(headers, (body,))
    finally:
        await connection.close()


def framed(message: bytes, flag: int = 0) -> bytes:
    """A message with its prefix."""
    return bytes((flag,)) + len(message).to_bytes(4, "big") + message


def status(response: Response) -> int:
    """The grpc-status."""
    return int(dict((*response.headers, *response.trailers))[b"grpc-status"])


@pytest.mark.parametrize("compression", [grpc.Compression.NoCompression, grpc.Compression.Gzip])
@pytest.mark.parametrize("signal", Signal)
async def test_each_signal_is_taken(signal: Signal, compression: grpc.Compression) -> None:
    """Packed or not; the answer to success is an empty message."""
    async with receiving() as receiver, channel(receiver, compression) as client:
        call = client.unary_unary(GRPC_PATHS[signal])
        assert await call(b"", timeout=DEADLINE_S) == b""
        assert receiver.queues.taken == []
        if signal is Signal.TRACES:
            for body in (r.ONE, r.padded(40_000), r.padded(3_900_000)):
                assert await call(body, timeout=DEADLINE_S) == b""
            assert [items for _, _, items in receiver.queues.taken] == [1, 1, 1]
        assert receiver.budget.in_flight == 0
        assert receiver.core.refusals == {}
        assert receiver.grpc.closed == {}


async def test_more_calls_than_streams_are_all_answered() -> None:
    """Five hundred at once on one connection, whose limit is a hundred."""
    async with receiving() as receiver, channel(receiver) as client:
        call = client.unary_unary(TRACES)
        answers = await asyncio.gather(*(call(r.ONE, timeout=DEADLINE_S) for _ in range(500)))
        assert answers == [b""] * 500
        assert receiver.queues.items == 500


async def test_other_codings_are_named_unimplemented() -> None:
    """With the codings that there are, as PROTOCOL-HTTP2.md wants it."""
    async with receiving() as receiver, channel(receiver, grpc.Compression.Deflate) as client:
        error = await refused(client.unary_unary(TRACES), r.padded(40_000))
        assert error.code() is grpc.StatusCode.UNIMPLEMENTED
        assert "deflate" in (error.details() or "")
        # grpcio keeps this one to itself.
        response = await raw(receiver, framed(r.ONE), (b"grpc-encoding", b"deflate"))
        assert dict(response.headers)[b"grpc-accept-encoding"] == b"identity,gzip"


async def test_unknown_methods_and_disabled_signals_are_unimplemented() -> None:
    """Nothing else of the connection is harmed."""
    async with receiving(signals=(Signal.TRACES,)) as receiver, channel(receiver) as client:
        for path in (GRPC_PATHS[Signal.LOGS], "/a.B/C"):
            error = await refused(client.unary_unary(path), r.ONE)
            assert error.code() is grpc.StatusCode.UNIMPLEMENTED
        assert await client.unary_unary(TRACES)(r.ONE, timeout=DEADLINE_S) == b""


@pytest.mark.parametrize("body", [r.padded(MAX_REQUEST_BYTES + 1), bytes(20 * MIB)])
async def test_too_large_is_refused_for_good_before_it_is_read(body: bytes) -> None:
    """RESOURCE_EXHAUSTED without RetryInfo: not to be sent again."""
    async with receiving() as receiver, channel(receiver) as client:
        error = await refused(client.unary_unary(TRACES), body)
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "grpc-status-details-bin" not in trailers(error)
        assert str(MAX_REQUEST_BYTES) in (error.details() or "")


@pytest.mark.parametrize("mebibytes", [5, 200])
async def test_a_gzip_bomb_is_unpacked_as_far_as_we_take(mebibytes: int) -> None:
    """RESOURCE_EXHAUSTED, as for any other that is too large."""
    async with receiving() as receiver:
        packed = framed(r.bomb(mebibytes * MIB), 1)
        response = await raw(receiver, packed, (b"grpc-encoding", b"gzip"))
        assert status(response) == Code.RESOURCE_EXHAUSTED


async def test_overload_says_when_to_come_back() -> None:
    """UNAVAILABLE with RetryInfo: the OTLP specification, "OTLP/gRPC Throttling"."""
    async with receiving() as receiver, channel(receiver) as client:
        receiver.queues.full = True
        error = await refused(client.unary_unary(TRACES), r.ONE)
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        details = decode_status(trailers(error)["grpc-status-details-bin"])
        assert (details.code, details.retry_delay_s) == (Code.UNAVAILABLE, RETRY_AFTER_S)
        assert details.message == error.details()


async def test_what_finds_no_room_is_refused_the_same_way() -> None:
    """After its wait; small calls are taken meanwhile."""
    limits = Limits(wait_s=0.05)
    async with receiving(grpc_limits=limits) as receiver, channel(receiver) as client:
        held = 17 * MIB
        assert receiver.budget.grant(held)
        call = client.unary_unary(TRACES)
        error, answer = await asyncio.gather(
            refused(call, r.padded(3_900_000)), call(r.padded(60_000), timeout=DEADLINE_S)
        )
        receiver.budget.release(held)
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert decode_status(trailers(error)["grpc-status-details-bin"]).retry_delay_s is not None
        assert answer == b""


async def test_what_waits_is_taken_when_there_is_room() -> None:
    """Of the 64 calls of 3.9 MB that come at once, those that may wait are all taken."""
    limits = Limits(wait_s=DEADLINE_S)
    async with receiving(grpc_limits=limits) as receiver, channel(receiver) as client:
        call, body = client.unary_unary(TRACES), r.padded(3_900_000)
        answers = await asyncio.gather(*(call(body, timeout=DEADLINE_S) for _ in range(64)))
        assert answers == [b""] * 64
        assert receiver.queues.items == 64


@pytest.mark.parametrize(
    ("data", "coding", "code"),
    [
        (b"", None, Code.INVALID_ARGUMENT),
        (b"\0\0\0", None, Code.INVALID_ARGUMENT),
        (framed(r.ONE)[:-1], None, Code.INVALID_ARGUMENT),
        (framed(r.ONE) * 2, None, Code.INVALID_ARGUMENT),
        (framed(r.ONE, 2), None, Code.INVALID_ARGUMENT),
        (framed(r.ONE, 1), None, Code.INVALID_ARGUMENT),
        (framed(r.ONE, 1), b"identity", Code.INVALID_ARGUMENT),
        (framed(r.ONE, 1), b"gzip", Code.INVALID_ARGUMENT),
        (framed(gzip.compress(r.ONE)[:-3], 1), b"gzip", Code.INVALID_ARGUMENT),
        (framed(gzip.compress(r.ONE), 1), b"gzip", Code.OK),
        # A call that could be packed need not be.
        (framed(r.ONE), b"gzip", Code.OK),
        (framed(r.TRUNCATED), None, Code.INVALID_ARGUMENT),
    ],
)
async def test_odd_messages(data: bytes, coding: bytes | None, code: Code) -> None:
    """Each gets the status that says whose mistake it is."""
    async with receiving() as receiver:
        response = await raw(receiver, data, (b"grpc-encoding", coding))
        assert status(response) == code
        assert receiver.queues.items == (code is Code.OK)


@pytest.mark.parametrize(
    ("content_type", "http_status"),
    [
        (b"application/grpc", b"200"),
        (b"application/grpc+proto", b"200"),
        (b"application/grpc;x=y", b"200"),
        (b"application/grpc-web", b"415"),
        (b"application/x-protobuf", b"415"),
        (None, b"415"),
    ],
)
async def test_what_is_not_grpc_gets_http_and_words(
    content_type: bytes | None, http_status: bytes
) -> None:
    """415, so that no HTTP/2 client takes the answer for gRPC."""
    async with receiving() as receiver:
        response = await raw(receiver, framed(r.ONE), (b"content-type", content_type))
        assert dict(response.headers)[b":status"] == http_status
        assert (b"application/grpc" in response.body) == (http_status == b"415")


async def test_other_verbs_get_405() -> None:
    """And are told which."""
    async with receiving() as receiver:
        response = await raw(receiver, b"", (b":method", b"GET"))
        headers = dict(response.headers)
        assert (headers[b":status"], headers[b"allow"]) == (b"405", b"POST")
        assert b"OTLP over gRPC" in response.body


async def test_a_message_may_not_break_its_header() -> None:
    """grpc-message is percent-encoded, whatever is in the path."""
    async with receiving() as receiver:
        response = await raw(receiver, framed(b""), (b":path", "/ä%\U0001f600".encode()))
        message = dict(response.headers)[b"grpc-message"]
        assert status(response) == Code.UNIMPLEMENTED
        assert message.isascii()
        assert b"%25" in message


def test_heads_are_checked_once_and_few_are_remembered() -> None:
    """Whatever else is in the headers; a sender cannot make us remember its own."""
    receiver = GrpcReceiver(new_core(Queues()))
    first = receiver.begin(HEAD)
    assert first == Head(Signal.TRACES, gzip=False, sender="grpc")
    assert receiver.begin((*HEAD, (b"grpc-timeout", b"9999m"), (b"x", b"y"))) is first
    for number in range(1000):
        kind = b"application/grpc+%d" % number
        assert receiver.begin((*HEAD, (b"content-type", kind))) == first
        assert isinstance(receiver.begin((*HEAD, (b":path", b"/%d" % number))), Reply)
        head = receiver.begin((*HEAD, (b"user-agent", b"app/%d" % number)))
        assert head == Head(Signal.TRACES, gzip=False, sender=f"grpc app/{number}")
    assert len(receiver._known) <= 64
    head = receiver.begin((*HEAD, (b"user-agent", b"\xff" + b"x" * 1000)))
    assert isinstance(head, Head)
    assert head.sender == "grpc \\xff" + "x" * 99


async def test_a_sender_of_nonsense_is_named_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """By its user-agent: no request, not gzip, not even a message."""
    async with receiving() as receiver, channel(receiver, grpc.Compression.Gzip) as client:
        with caplog.at_level("WARNING"):
            error = await refused(client.unary_unary(GRPC_PATHS[Signal.LOGS]), b"<html>" * 50)
            assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
            agent = (b"user-agent", b"curl/8")
            gzipped = (b"grpc-encoding", b"gzip")
            for body, path in (
                (framed(b"no gzip", 1), Signal.METRICS),
                (b"\x00\x00\x00\x00\x09short", Signal.TRACES),
            ):
                where = (b":path", GRPC_PATHS[path].encode())
                assert status(await raw(receiver, body, agent, gzipped, where)) == 3
    said = [record.__dict__["fields"] for record in caplog.records]
    assert [one["signal"] for one in said] == ["logs", "metrics", "traces"]
    assert said[0]["sender"].startswith("grpc grpc-python-asyncio/")
    assert [one["sender"] for one in said[1:]] == ["grpc curl/8"] * 2


def test_a_call_that_does_not_come_is_told_to_come_back() -> None:
    """What ended on its way may be sent again."""
    reply = GrpcReceiver(new_core(Queues())).refuse_stall()
    headers = dict(reply.headers)
    assert int(headers[b"grpc-status"]) == Code.UNAVAILABLE
    details = decode_status(decode_binary(headers[b"grpc-status-details-bin"]))
    assert details.retry_delay_s == RETRY_AFTER_S


def test_a_prefix_is_what_the_client_writes() -> None:
    """Both sides of us agree on the five bytes."""
    assert message_prefix(3, compressed=True) + b"abc" == framed(b"abc", 1)
