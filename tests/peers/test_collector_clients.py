"""The three clients against the real OpenTelemetry Collector: the contract, where it applies."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
from opentelemetry.proto.metrics.v1.metrics_pb2 import Gauge, Metric, NumberDataPoint
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from edge_agent.exporter.retry import Client, Delivered, Outcome, Rejected, Retry
from edge_agent.otlp.signal import Signal
from edge_agent.transport.dial import Tls
from tests.agent.exporter.contract import GRPC_KINDS, KINDS, new_client, until_outcome
from tests.fakes.certificates import Authority
from tests.fakes.collector import REQUESTS, ServerTls
from tests.peers.conftest import StartCollector
from tests.peers.otelcol import Collector

pytestmark = [pytest.mark.peer, pytest.mark.timeout(600)]

NANO = 1_700_000_000_123_456_789


def request(signal: Signal, name: str) -> Any:
    """A full request of `signal` that carries `name`, with what is easily lost on the way."""
    message: Any = REQUESTS[signal]()
    resources = {
        Signal.METRICS: "resource_metrics",
        Signal.TRACES: "resource_spans",
        Signal.LOGS: "resource_logs",
    }
    scopes = {Signal.METRICS: "scope_metrics", Signal.TRACES: "scope_spans"}
    resource = getattr(message, resources[signal]).add()
    resource.resource.attributes.append(
        KeyValue(key="service.name", value=AnyValue(string_value="Füße"))
    )
    scope = getattr(resource, scopes.get(signal, "scope_logs")).add()
    scope.scope.name = "contract"
    if signal is Signal.METRICS:
        points = [
            NumberDataPoint(time_unix_nano=NANO, as_int=2**63 - 1),
            NumberDataPoint(time_unix_nano=NANO, as_double=0.1),
        ]
        scope.metrics.append(Metric(name=name, unit="By", gauge=Gauge(data_points=points)))
    elif signal is Signal.TRACES:
        ids = {"trace_id": bytes(range(1, 17)), "span_id": bytes(range(1, 9))}
        times = {"start_time_unix_nano": NANO, "end_time_unix_nano": NANO + 1}
        scope.spans.append(Span(name=name, **ids, **times))
    else:
        body = AnyValue(string_value=name)
        scope.log_records.append(LogRecord(time_unix_nano=NANO, severity_text="INFO", body=body))
    return message


def normal(signal: Signal, line: dict[str, Any]) -> Any:
    """An OTLP/JSON line as the message that protobuf's own mapping of JSON gives.

    OTLP writes ids in hexadecimal, protobuf in base64: spans are compared without them.
    """
    text = dict(line)
    for resource in text.get("resourceSpans", []):
        for scope in resource["scopeSpans"]:
            for span in scope["spans"]:
                assert span.pop("traceId") == bytes(range(1, 17)).hex()
                assert span.pop("spanId") == bytes(range(1, 9)).hex()
                span.pop("parentSpanId", None)
                span.pop("status", None)
    return text


@pytest.fixture
async def clients(collector: StartCollector) -> AsyncIterator[list[Client]]:
    """Clients to close before the collector ends."""
    opened: list[Client] = []
    yield opened
    for client in opened:
        await client.close()


def connect(clients: list[Client], kind: str, peer: Collector, **settings: Any) -> Client:
    """The client of `kind`, towards a real collector."""
    endpoints = {s: peer.grpc if kind in GRPC_KINDS else peer.http(s) for s in Signal}
    clients.append(new_client(kind, endpoints, **settings))
    return clients[-1]


@pytest.mark.parametrize("gzip", [False, True])
async def test_every_signal_of_every_client_arrives_intact(
    collector: StartCollector, clients: list[Client], *, gzip: bool
) -> None:
    """What the collector writes out is what was encoded, field by field."""
    peer = await collector()
    sent = {}
    for kind in KINDS:
        client = connect(clients, kind, peer, gzip=gzip)
        for signal in Signal:
            name = f"{kind}-{signal}"
            sent[name] = request(signal, name)
            outcome = await client.export(signal, sent[name].SerializeToString())
            assert outcome == Delivered(getattr(outcome, "latency_s", 0.0))
    lines = await peer.wait_for(lambda lines: len(lines) == len(sent))
    for name, message in sent.items():
        (line,) = (line for line in lines if name in str(line))
        expected = MessageToDict(message)
        for resource in expected.get("resourceSpans", []):
            for span in resource["scopeSpans"][0]["spans"]:
                del span["traceId"], span["spanId"]
        assert normal(Signal(name.rpartition("-")[2]), line) == expected


@pytest.mark.parametrize("kind", KINDS)
async def test_what_the_collector_cannot_decode_is_rejected(
    kind: str, collector: StartCollector, clients: list[Client]
) -> None:
    """Retrying would not help: INTERNAL over gRPC, 400 over HTTP."""
    client = connect(clients, kind, await collector())
    outcome = await client.export(Signal.TRACES, b"\xff\xff\xff\xff")
    assert isinstance(outcome, Rejected)
    assert outcome.code == ("internal" if kind in GRPC_KINDS else "http_400")
    assert outcome.message != ""


@pytest.mark.parametrize("kind", KINDS)
async def test_large_requests_pass_and_too_large_ones_are_told_apart(
    kind: str, collector: StartCollector, clients: list[Client]
) -> None:
    """4 MiB is gRPC's limit by default; over HTTP the collector takes 20."""
    client = connect(clients, kind, await collector(exporter="debug"), timeout_s=60.0)
    message = request(Signal.LOGS, "large")
    body = message.resource_logs[0].scope_logs[0].log_records[0].body
    body.string_value = os.urandom(1_950_000).hex()
    assert isinstance(await client.export(Signal.LOGS, message.SerializeToString()), Delivered)
    body.string_value *= 2
    outcome: Outcome = await client.export(Signal.LOGS, message.SerializeToString())
    if kind in GRPC_KINDS:
        assert isinstance(outcome, Rejected)
        assert outcome.too_large
    else:
        assert isinstance(outcome, Delivered)


@pytest.mark.parametrize("kind", KINDS)
async def test_many_calls_at_once_all_arrive(
    kind: str, collector: StartCollector, clients: list[Client]
) -> None:
    """As after an outage."""
    peer = await collector()
    client = connect(clients, kind, peer, timeout_s=60.0)
    names = [f"call-{n:03}" for n in range(200)]
    outcomes = await asyncio.gather(
        *(
            client.export(Signal.LOGS, request(Signal.LOGS, name).SerializeToString())
            for name in names
        )
    )
    assert {type(outcome) for outcome in outcomes} == {Delivered}
    lines = await peer.wait_for(lambda lines: len(lines) == len(names))
    arrived = [
        line["resourceLogs"][0]["scopeLogs"][0]["logRecords"][0]["body"]["stringValue"]
        for line in lines
    ]
    assert sorted(arrived) == names


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ["stop", "kill"])
async def test_a_restart_of_the_collector_costs_retries_alone(
    kind: str, how: str, collector: StartCollector, clients: list[Client]
) -> None:
    """While it is away every export is a retry; when it is back, the first one delivers."""
    peer = await collector()
    client = connect(clients, kind, peer)
    body = request(Signal.METRICS, "metric").SerializeToString()
    assert isinstance(await client.export(Signal.METRICS, body), Delivered)
    await (peer.stop() if how == "stop" else peer.kill())
    assert isinstance(await client.export(Signal.METRICS, body), Retry)
    await peer.start()
    await until_outcome(lambda: client.export(Signal.METRICS, body), Delivered)


@pytest.mark.parametrize("kind", KINDS)
async def test_mutual_tls_with_the_collector(
    kind: str, collector: StartCollector, clients: list[Client], tmp_path: Path
) -> None:
    """Go's TLS on the other side: ALPN, client certificates, TLS 1.3."""
    authority = Authority(tmp_path / "authority")
    pair = authority.issue("collector", "localhost", "127.0.0.1")
    peer = await collector(tls=ServerTls(pair, client_ca=authority.certificate))
    body = request(Signal.TRACES, "span").SerializeToString()
    bare = connect(clients, kind, peer, tls=Tls(str(authority.certificate)))
    assert isinstance(await bare.export(Signal.TRACES, body), Retry)
    mine = authority.issue("device")
    files = Tls(str(authority.certificate), str(mine.certificate), str(mine.key))
    client = connect(clients, kind, peer, tls=files)
    assert isinstance(await client.export(Signal.TRACES, body), Delivered)
    assert len(await peer.wait_for(lambda lines: lines)) == 1


async def test_the_debug_exporter_prints_what_arrived(
    collector: StartCollector, clients: list[Client]
) -> None:
    """With units and types, as a person would look at it."""
    peer = await collector(exporter="debug")
    client = connect(clients, "builtin", peer)
    await client.export(Signal.METRICS, request(Signal.METRICS, "m.one").SerializeToString())
    log = await peer.wait_for_log("-> Name: m.one", "-> Unit: By", "-> DataType: Gauge")
    assert "Value: 9223372036854775807" in log
