"""The contract of `exporter.retry.Client`, for the three clients against servers that behave.

What follows from an answer is written down here a second time, from the specifications, so that
a slip in the classification shows. Servers that misbehave: test_contract_faults.py; TLS and
proxies: test_contract_network.py; the real Collector: tests/peers/test_collector_clients.py.
"""

import asyncio
import os
from pathlib import Path
from typing import Any

import ngh2
import pytest

from edge_agent.exporter.retry import Delivered, Denied, Outcome, Rejected, Retry
from edge_agent.otlp.signal import GRPC_PATHS, Signal
from edge_agent.otlp.status import Code
from edge_agent.settings import Endpoint
from tests.agent.exporter.contract import (
    BODIES,
    BODY,
    GRPC_KINDS,
    KINDS,
    USER_AGENT,
    OpenClient,
    new_collector,
    until_outcome,
)
from tests.fakes.collector import Answer, FakeCollector
from tests.fakes.http2_server import Http2Server, ServerCall
from tests.fakes.http_collector import FakeHttpCollector, HttpAnswer

# OTLP specification, "OTLP/gRPC Response", table of codes.
GRPC_RETRYABLE = {
    "CANCELLED",
    "DEADLINE_EXCEEDED",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNAVAILABLE",
    "DATA_LOSS",
}


def expected_grpc(code: str, retry_after_s: float | None) -> Outcome:
    """By the specification's words."""
    message = "why not, 100 %?"
    if code in GRPC_RETRYABLE or (code == "RESOURCE_EXHAUSTED" and retry_after_s is not None):
        return Retry(f"{code.lower()}: {message}", retry_after_s or None)
    if code in ("UNAUTHENTICATED", "PERMISSION_DENIED"):
        return Denied(code.lower(), message)
    return Rejected(code.lower(), message, too_large=code == "RESOURCE_EXHAUSTED")


@pytest.mark.parametrize("kind", GRPC_KINDS)
@pytest.mark.parametrize("code", [code.name for code in Code if code is not Code.OK])
async def test_every_grpc_code_has_the_outcome_of_the_specification(
    kind: str, code: str, open_client: OpenClient
) -> None:
    """Retryable codes are retried, RESOURCE_EXHAUSTED with RetryInfo alone; a hint is passed on."""
    hints = (None, 0.0, 3.0)
    answers = [Answer(code, "why not, 100 %?", hint) for hint in hints]
    async with FakeCollector(answers) as collector:
        client = open_client(kind, collector.endpoint)
        outcomes = [await client.export(Signal.METRICS, BODY) for _ in hints]
    assert outcomes == [expected_grpc(code, hint) for hint in hints]


HTTP_RETRYABLE = {429, 502, 503, 504}


def expected_http(status: int) -> type | Outcome:
    """By the specification's words; redirects and 407, which it has not, are no server's word."""
    if 200 <= status < 300:
        return Delivered
    if status in HTTP_RETRYABLE or 300 <= status < 400:
        return Retry(f"http_{status}: why not")
    if status in (401, 403, 407):
        return Denied(f"http_{status}", "why not")
    return Rejected(f"http_{status}", "why not", too_large=status == 413)


STATUSES = (
    *(
        200,
        202,
        204,
        301,
        302,
        307,
        308,
        400,
        401,
        403,
        404,
        405,
        407,
        408,
        411,
        413,
        414,
        415,
        422,
    ),
    *(429, 431, 499, 500, 501, 502, 503, 504, 505, 599),
)


@pytest.mark.parametrize("status", STATUSES)
async def test_every_http_status_has_the_outcome_of_the_specification(
    status: int, open_client: OpenClient
) -> None:
    """429, 502, 503 and 504 are retried, and no other 4xx or 5xx is; redirects lead nowhere."""
    body = b"" if status < 300 else b"\x08\x02\x12\x07why not"
    headers = (("Content-Type", "application/x-protobuf"), ("Location", "/elsewhere"))
    async with FakeHttpCollector([HttpAnswer(status, body, headers)]) as collector:
        client = open_client("http", collector.endpoint)
        outcome = await client.export(Signal.METRICS, BODY)
        assert len(collector.received) == 1
    expected = expected_http(status)
    assert (type(outcome) if isinstance(expected, type) else outcome) == expected


@pytest.mark.parametrize("status", sorted(HTTP_RETRYABLE))
async def test_retry_after_is_passed_on_in_both_forms_and_garbage_is_not(
    status: int, open_client: OpenClient
) -> None:
    """Seconds and an HTTP-date are obeyed; past, negative and unreadable values are no hint."""
    values = ("7", "0", "-3", "soon", "Sun, 06 Nov 1994 08:49:37 GMT")
    answers = [HttpAnswer(status, headers=(("Retry-After", value),)) for value in values]
    async with FakeHttpCollector(answers) as collector:
        client = open_client("http", collector.endpoint)
        outcomes = [await client.export(Signal.METRICS, BODY) for _ in values]
    assert outcomes == [Retry(f"http_{status}", 7.0), *[Retry(f"http_{status}")] * 4]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("signal", list(Signal))
async def test_a_partial_success_is_delivered_and_says_what_was_refused(
    kind: str, signal: Signal, open_client: OpenClient
) -> None:
    """Never retried, always counted; a message alone refuses nothing."""
    answers = (Answer(rejected_items=3, message="too old"), Answer(message="please upgrade"))
    async with new_collector(kind, answers) as collector:
        client = open_client(kind, collector.endpoint)
        outcomes: list[Any] = [await client.export(signal, BODIES[signal]) for _ in range(3)]
        assert [r.signal for r in collector.received] == [signal] * 3
    assert [(o.rejected_items, o.message) for o in outcomes] == [
        (3, "too old"),
        (0, "please upgrade"),
        (0, ""),
    ]


@pytest.mark.parametrize("kind", KINDS)
async def test_a_garbage_body_does_not_undo_a_delivery(kind: str, open_client: OpenClient) -> None:
    """OK with a body that is no Export response: the collector has the data."""
    answers = (Answer(response=b"\xff\xff\xff not protobuf"), Answer(response=b"\x0a\x00"))
    async with new_collector(kind, answers) as collector:
        client = open_client(kind, collector.endpoint)
        outcomes: list[Any] = [await client.export(Signal.METRICS, BODY) for _ in range(2)]
    assert [(type(o), o.rejected_items) for o in outcomes] == [(Delivered, 0)] * 2


@pytest.mark.parametrize("kind", KINDS)
async def test_a_delivery_reports_its_latency(kind: str, open_client: OpenClient) -> None:
    """The time of the call itself, which is never nothing."""
    async with new_collector(kind) as collector:
        outcome = await open_client(kind, collector.endpoint).export(Signal.METRICS, BODY)
    assert isinstance(outcome, Delivered)
    assert outcome.latency_s > 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("gzip", [False, True])
@pytest.mark.parametrize("size", [0, 2500, 155_000, 3_900_000])
async def test_the_collector_gets_the_very_bytes(
    kind: str, gzip: bool, size: int, open_client: OpenClient
) -> None:
    """Compressed or not, small or near the limit, empty or incompressible."""
    bodies = [bytes(size), os.urandom(size)]
    async with new_collector(kind) as collector:
        client = open_client(kind, collector.endpoint, gzip=gzip)
        for body in bodies:
            assert isinstance(await client.export(Signal.TRACES, body), Delivered)
        assert [r.body for r in collector.received] == bodies


async def test_gzip_is_left_out_where_it_does_not_shrink(open_client: OpenClient) -> None:
    """The flag before the message says which; a wasted byte on a metered link is one too many."""
    async with Http2Server() as server:
        client = open_client("builtin", server.endpoint, gzip=True)
        for body in (bytes(10_000), os.urandom(10_000)):
            await client.export(Signal.METRICS, body)
        small, large = server.received
    assert small.headers[b"grpc-encoding"] == b"gzip"
    assert (small.body[0], len(small.body) < 200) == (1, True)
    assert (large.body[0], len(large.body)) == (0, 10_005)


@pytest.mark.parametrize("kind", KINDS)
async def test_users_headers_arrive_in_lower_case(kind: str, open_client: OpenClient) -> None:
    """And the user agent is ours, as OTLP asks."""
    headers = (("Authorization", "Bearer abc"), ("X-Tenant", "a b"))
    async with new_collector(kind) as collector:
        client = open_client(kind, collector.endpoint, headers=headers)
        assert isinstance(await client.export(Signal.METRICS, BODY), Delivered)
        metadata = collector.received[0].metadata
    assert metadata["authorization"] == "Bearer abc"
    assert metadata["x-tenant"] == "a b"
    assert str(metadata["user-agent"]).startswith(USER_AGENT)


@pytest.mark.parametrize("kind", GRPC_KINDS)
async def test_binary_headers_arrive_as_bytes_and_reserved_ones_do_not(
    kind: str, open_client: OpenClient
) -> None:
    """`-bin` carries any text; what the protocol itself needs cannot be replaced by a setting."""
    headers = (("Trace-bin", "Füße"), ("te", "x"), ("grpc-timeout", "1H"), ("X-Ö", "1"))
    headers = (*headers, ("content-type", "text/plain"), ("x-line", "a\nb"), ("user-agent", "me"))
    async with FakeCollector() as collector:
        client = open_client(kind, collector.endpoint, headers=headers)
        assert isinstance(await client.export(Signal.METRICS, BODY), Delivered)
        metadata = collector.received[0].metadata
    assert metadata.pop("user-agent") != "me"
    assert metadata == {"trace-bin": "Füße".encode()}


@pytest.mark.parametrize("kind", KINDS)
async def test_each_signal_goes_to_its_own_endpoint(kind: str, open_client: OpenClient) -> None:
    """Per-signal endpoints, as OTEL_EXPORTER_OTLP_TRACES_ENDPOINT and its like set them."""
    async with new_collector(kind) as one, new_collector(kind) as two, new_collector(kind) as three:
        collectors = dict(zip(Signal, (one, two, three), strict=True))
        endpoints = {
            signal: c.endpoint if kind in GRPC_KINDS else c.endpoint_of(signal)
            for signal, c in collectors.items()
        }
        client = open_client(kind, endpoints)
        for signal in Signal:
            assert isinstance(await client.export(signal, BODIES[signal]), Delivered)
        for signal, collector in collectors.items():
            assert [(r.signal, r.body) for r in collector.received] == [(signal, BODIES[signal])]


@pytest.mark.parametrize("kind", GRPC_KINDS)
async def test_signals_to_one_host_and_port_share_a_connection(
    kind: str, open_client: OpenClient
) -> None:
    """Three signals, one TLS session, one socket; each call has its service's path."""
    async with Http2Server() as server:
        client = open_client(kind, server.endpoint)
        await asyncio.gather(*(client.export(signal, BODIES[signal]) for signal in Signal))
        assert len(server.connections) == 1
        paths = {call.headers[b":path"].decode() for call in server.received}
    assert paths == set(GRPC_PATHS.values())


@pytest.mark.parametrize("kind", KINDS)
async def test_ipv6_addresses_work(kind: str, open_client: OpenClient) -> None:
    """The brackets belong into the authority, not into the address."""
    async with new_collector(kind, host="::1") as collector:
        client = open_client(kind, collector.endpoint)
        assert isinstance(await client.export(Signal.LOGS, BODIES[Signal.LOGS]), Delivered)


async def test_grpcio_reaches_a_unix_socket(tmp_path: Path, open_client: OpenClient) -> None:
    """`unix:` endpoints are grpcio's alone."""
    async with FakeCollector(unix=tmp_path / "otlp.sock") as collector:
        client = open_client("grpcio", collector.endpoint)
        assert isinstance(await client.export(Signal.METRICS, BODY), Delivered)
        assert collector.received[0].body == BODY


@pytest.mark.parametrize("kind", KINDS)
async def test_five_hundred_calls_at_once_all_arrive(kind: str, open_client: OpenClient) -> None:
    """More calls than one connection has streams for wait their turn."""
    async with new_collector(kind) as collector:
        client = open_client(kind, collector.endpoint, timeout_s=60.0)
        bodies = [b"\x0a\x00" * n for n in range(500)]
        outcomes = await asyncio.gather(*(client.export(Signal.TRACES, body) for body in bodies))
        assert {type(outcome) for outcome in outcomes} == {Delivered}
        assert sorted(len(r.body) for r in collector.received) == [len(body) for body in bodies]


@pytest.mark.parametrize("kind", KINDS)
async def test_a_collector_that_comes_up_late_is_found(kind: str, open_client: OpenClient) -> None:
    """Refused connections are retries that name the endpoint; a dial after it is up works."""
    async with new_collector(kind) as collector:
        endpoint: Endpoint = collector.endpoint
    client = open_client(kind, endpoint)
    refused = await client.export(Signal.METRICS, BODY)
    assert isinstance(refused, Retry)
    assert str(endpoint.port) in refused.reason
    async with new_collector(kind, port=endpoint.port) as collector:
        await until_outcome(lambda: client.export(Signal.METRICS, BODY), Delivered)
        assert [r.body for r in collector.received] == [BODY]


@pytest.mark.parametrize("kind", KINDS)
async def test_reconnect_forgets_the_wait_after_failed_connects(
    kind: str, open_client: OpenClient
) -> None:
    """An agent that stops has seconds, not the half hour until the next dial is due."""
    async with new_collector(kind) as collector:
        endpoint: Endpoint = collector.endpoint
    client = open_client(kind, endpoint, max_reconnect_s=3600.0)
    for _ in range(3):
        assert isinstance(await client.export(Signal.METRICS, BODY), Retry)
    async with new_collector(kind, port=endpoint.port) as collector:
        client.reconnect()
        assert isinstance(await client.export(Signal.METRICS, BODY), Delivered)
        assert [r.body for r in collector.received] == [BODY]


@pytest.mark.parametrize("kind", KINDS)
async def test_a_collector_that_restarts_is_found_again(kind: str, open_client: OpenClient) -> None:
    """The connection of before is gone; no data is lost by it and no restart of ours needed."""
    async with new_collector(kind) as collector:
        client = open_client(kind, collector.endpoint)
        port = collector.endpoint.port
        assert isinstance(await client.export(Signal.METRICS, BODY), Delivered)
    async with new_collector(kind, port=port) as collector:
        await until_outcome(lambda: client.export(Signal.METRICS, BODY), Delivered)
        assert [r.body for r in collector.received] == [BODY]


@pytest.mark.parametrize("kind", KINDS)
async def test_a_deadline_is_a_retry(kind: str, open_client: OpenClient) -> None:
    """A collector that takes a request and never answers it costs a retry."""
    never = asyncio.Event()
    async with new_collector(kind, (Answer(after=never),)) as collector:
        client = open_client(kind, collector.endpoint, timeout_s=0.3)
        outcome = await client.export(Signal.METRICS, BODY)
        assert isinstance(outcome, Retry)
        assert outcome.after_s is None
        # The client is as good as before.
        await until_outcome(lambda: client.export(Signal.METRICS, BODY), Delivered)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_cancelled_export_leaves_the_client_whole(
    kind: str, open_client: OpenClient
) -> None:
    """Cancellation is the caller's: it is raised, and the next call works."""
    never = asyncio.Event()
    async with new_collector(kind, (Answer(after=never),)) as collector:
        client = open_client(kind, collector.endpoint)
        export = asyncio.create_task(client.export(Signal.METRICS, BODY))
        await collector.wait_for(lambda received: received)
        export.cancel()
        with pytest.raises(asyncio.CancelledError):
            await export
        assert isinstance(await client.export(Signal.METRICS, BODY), Delivered)


@pytest.mark.parametrize("kind", GRPC_KINDS)
async def test_a_cancelled_export_resets_its_stream(kind: str, open_client: OpenClient) -> None:
    """So the peer can stop working on it."""
    async with Http2Server(lambda _call: None) as server:
        client = open_client(kind, server.endpoint)
        export = asyncio.create_task(client.export(Signal.METRICS, BODY))
        await server.until(lambda: server.received)
        export.cancel()
        events = server.connections[0].events
        await server.until(lambda: any(isinstance(e, ngh2.StreamReset) for e in events))
        resets = [e.error_code for e in events if isinstance(e, ngh2.StreamReset)]
        with pytest.raises(asyncio.CancelledError):
            await export
    assert resets == [ngh2.ErrorCode.CANCEL]


@pytest.mark.parametrize("kind", KINDS)
async def test_close_ends_calls_in_flight_as_retries(kind: str, open_client: OpenClient) -> None:
    """And later calls too: nothing hangs, nothing is lost."""
    never = asyncio.Event()
    async with new_collector(kind, (Answer(after=never), Answer(after=never))) as collector:
        client = open_client(kind, collector.endpoint)
        exports = [asyncio.create_task(client.export(Signal.METRICS, BODY)) for _ in range(2)]
        await collector.wait_for(lambda received: len(received) == 2)
        await client.close()
        assert [type(await export) for export in exports] == [Retry, Retry]
        assert isinstance(await client.export(Signal.METRICS, BODY), Retry)
        assert len(collector.received) == 2


@pytest.mark.parametrize("kind", KINDS)
async def test_a_client_that_never_sent_closes(kind: str, open_client: OpenClient) -> None:
    """A disabled signal's client, or a short life."""
    await open_client(kind, Endpoint("http", "127.0.0.1", 9, "/v1/metrics")).close()


@pytest.mark.parametrize("kind", GRPC_KINDS)
async def test_the_deadline_is_announced(kind: str, open_client: OpenClient) -> None:
    """grpc-timeout lets a busy peer drop what nobody waits for any more."""
    async with Http2Server() as server:
        client = open_client(kind, server.endpoint, timeout_s=10.0)
        await client.export(Signal.METRICS, BODY)
        call: ServerCall = server.received[0]
    value = call.headers[b"grpc-timeout"]
    seconds = int(value[:-1]) * {b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}[value[-1:]]
    # grpcio rounds up, so that close deadlines share a header line.
    assert 0 < seconds <= 11
    assert len(value) <= 9
