"""One bad neighbour among a hundred senders loses its own data and nobody else's.

What the receiver's framing check lets through (validate: structure) is found on the way out: a
joined batch that a peer rejects is halved until the one bad request stands alone.
"""

import asyncio
import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.message import DecodeError
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
from opentelemetry.proto.metrics.v1.metrics_pb2 import Gauge, Metric, NumberDataPoint
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from edge_agent.otlp.signal import GRPC_PATHS, HTTP_PATHS, Signal
from tests.fakes.collector import REQUESTS, Answer, FakeCollector, Received
from tests.fakes.programs import Adapter, Agent, eventually, sample
from tests.peers.conftest import StartCollector
from tests.peers.sdks import items

pytestmark = pytest.mark.timeout(300)

SENDERS = 100
# One more, which is refused at the door.
LATECOMER = SENDERS
METRIC = "poison.count"
RESOURCES = {
    Signal.TRACES: ("resource_spans", "scope_spans", "spans"),
    Signal.METRICS: ("resource_metrics", "scope_metrics", "metrics"),
    Signal.LOGS: ("resource_logs", "scope_logs", "log_records"),
}
# As long as the bad bytes that take its place.
PLACEHOLDER = "a placeholder that no other text holds"
NOT_UTF8 = b"\xff\xfe" + PLACEHOLDER.encode()[2:]


def service(sender: int) -> str:
    """The service.name of one of the senders."""
    return f"sender-{sender:03}"


def good(culprit: int) -> list[str]:
    """Everybody but `culprit`."""
    return [service(n) for n in range(SENDERS) if n != culprit]


def request(signal: Signal, sender: int) -> Any:
    """One item of one sender, decoded."""
    message: Any = REQUESTS[signal]()
    resources, scopes, _ = RESOURCES[signal]
    resource = getattr(message, resources).add()
    name = KeyValue(key="service.name", value=AnyValue(string_value=service(sender)))
    resource.resource.attributes.append(name)
    scope = getattr(resource, scopes).add()
    now = time.time_ns()
    if signal is Signal.TRACES:
        ids = {"trace_id": sender.to_bytes(16), "span_id": (sender + 1).to_bytes(8)}
        times = {"start_time_unix_nano": now, "end_time_unix_nano": now + 1}
        scope.spans.append(Span(name=service(sender), **ids, **times))
    elif signal is Signal.METRICS:
        point = NumberDataPoint(time_unix_nano=now, as_int=sender)
        scope.metrics.append(Metric(name=METRIC, gauge=Gauge(data_points=[point])))
    else:
        body = AnyValue(string_value=service(sender))
        scope.log_records.append(LogRecord(time_unix_nano=now, body=body))
    return message


def not_utf8(signal: Signal, sender: int) -> bytes:
    """An attribute of the scope holds bytes that are no text; all lengths are right."""
    message = request(signal, sender)
    resources, scopes, _ = RESOURCES[signal]
    (scope,) = getattr(getattr(message, resources)[0], scopes)
    scope.scope.attributes.append(KeyValue(key="text", value=AnyValue(string_value=PLACEHOLDER)))
    encoded: bytes = message.SerializeToString()
    assert encoded.count(PLACEHOLDER.encode()) == 1
    return encoded.replace(PLACEHOLDER.encode(), NOT_UTF8)


def short_trace_id(signal: Signal, sender: int) -> bytes:
    """A trace id of 15 bytes."""
    message = request(signal, sender)
    resources, scopes, name = RESOURCES[signal]
    (item,) = getattr(getattr(getattr(message, resources)[0], scopes)[0], name)
    item.trace_id = bytes(range(1, 16))
    encoded: bytes = message.SerializeToString()
    return encoded


def truncated(signal: Signal, sender: int) -> bytes:
    """The item ends in the middle of a field; all lengths around it are right."""
    message = request(signal, sender)
    resources, scopes, name = RESOURCES[signal]
    resource = getattr(message, resources)[0]
    scope = getattr(resource, scopes)[0]
    (item,) = getattr(scope, name)
    cut = item.SerializeToString()[:-1]
    scope.ClearField(name)
    resource.ClearField(scopes)
    # Numbers of the fields: opentelemetry-proto, *_service.proto, and one file a signal.
    inner = scope.SerializeToString() + field(2, cut)
    return field(1, resource.SerializeToString() + field(2, inner))


def field(number: int, content: bytes) -> bytes:
    """A length-delimited field of less than 16 KiB."""
    length = len(content)
    varint = bytes([length]) if length < 128 else bytes([length & 127 | 128, length >> 7])
    return bytes([number << 3 | 2]) + varint + content


class Strict(FakeCollector):
    """Refuses what is no protobuf and ids of other lengths; answers nobody until `opened`."""

    def __init__(self) -> None:
        super().__init__()
        self.opened = asyncio.Event()
        self.taken: list[Received] = []
        self.refused: list[Received] = []

    def answer(self, received: Received) -> Answer:
        message = objection(received)
        (self.refused if message else self.taken).append(received)
        return Answer("INVALID_ARGUMENT" if message else "OK", message, after=self.opened)


def objection(received: Received) -> str:
    """Why a strict peer would not take this, empty if it would."""
    try:
        decoded = received.request
    except DecodeError:
        return "this is no protobuf"
    resources, scopes, name = RESOURCES[received.signal]
    lengths = {
        len(getattr(item, "trace_id", b""))
        for resource in getattr(decoded, resources)
        for scope in getattr(resource, scopes)
        for item in getattr(scope, name)
    }
    return "" if lengths <= {0, 16} else "a trace id has 16 bytes"


def senders(requests: list[Received], signal: Signal) -> list[str]:
    """The senders whose Resources are in `requests`, sorted; the agent itself is none."""
    resources, _, _ = RESOURCES[signal]
    names = [
        pair.value.string_value
        for received in requests
        if received.signal is signal
        for resource in getattr(received.request, resources)
        for pair in resource.resource.attributes
        if pair.key == "service.name"
    ]
    return sorted(name for name in names if name.startswith("sender-"))


class Site:
    """An agent with its receiver's two ports; senders of even numbers use gRPC, others HTTP."""

    def __init__(self, folder: Path, **environ: str) -> None:
        self.agent = Agent(folder / "agent", **environ)
        self.grpc = f"127.0.0.1:{self.agent.grpc_port}"
        self.http = f"127.0.0.1:{self.agent.http_port}"

    async def send_all(self, signal: Signal, culprit: int, poison: bytes) -> None:
        """Everybody sends one item at the same time, and all are told that it was accepted."""
        bodies = [request(signal, n).SerializeToString() for n in range(SENDERS)]
        bodies[culprit] = poison
        async with grpc.aio.insecure_channel(self.grpc) as channel:
            answers = await asyncio.gather(
                *(self._send(channel, signal, n, body) for n, body in enumerate(bodies))
            )
        assert set(answers) == {"OK", "200"}

    async def send(self, signal: Signal, sender: int, body: bytes) -> str:
        """One request; the name of the gRPC code or the HTTP status that answers it."""
        async with grpc.aio.insecure_channel(self.grpc) as channel:
            return await self._send(channel, signal, sender, body)

    async def _send(
        self, channel: grpc.aio.Channel, signal: Signal, sender: int, body: bytes
    ) -> str:
        if sender % 2:
            return await asyncio.to_thread(self._post, signal, body)
        try:
            await channel.unary_unary(GRPC_PATHS[signal])(body, timeout=60)
        except grpc.aio.AioRpcError as error:
            return error.code().name
        return "OK"

    def _post(self, signal: Signal, body: bytes) -> str:
        headers = {"Content-Type": "application/x-protobuf"}
        url = f"http://{self.http}{HTTP_PATHS[signal]}"
        try:
            with urllib.request.urlopen(
                urllib.request.Request(url, body, headers), timeout=60
            ) as a:
                return str(a.status)
        except urllib.error.HTTPError as error:
            with error:
                return str(error.code)

    def items(self, destination: str, signal: Signal, outcome: str) -> float:
        """A row of the ledger, all reasons together."""
        labels = {"destination": destination, "signal": signal.value, "outcome": outcome}
        return sample(self.agent.metrics(), "agent_items_total", **labels) or 0.0

    def errors(self, *words: str) -> list[str]:
        """The lines of the log at level error that hold all `words`."""
        lines = [line for line in self.agent.log.splitlines() if "Z error " in line]
        return [line for line in lines if all(word in line for word in words)]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Callable[..., Site]]:
    """Starts agents; they end with the test."""
    started: list[Site] = []

    def start(**environ: str) -> Site:
        started.append(Site(tmp_path, **environ))
        eventually(started[-1].agent.health, "the agent's /health")
        return started[-1]

    yield start
    for running in started:
        running.agent.kill()


async def until(condition: Callable[[], object], what: str) -> None:
    """Wait for another process; the collector in this one goes on answering."""
    await asyncio.to_thread(eventually, condition, what)


def assert_only_the_culprit_is_lost(
    site: Site, destination: str, signal: Signal, culprit: int, message: str
) -> None:
    """One item rejected, nothing dropped, and one line that says whose it was and why."""
    assert site.items(destination, signal, "rejected") == 1
    assert site.items(destination, signal, "dropped") == 0
    (line,) = site.errors(service(culprit), f"destination={destination}")
    assert message in line
    health = site.agent.health()
    assert health is not None
    spans = 1 if signal is Signal.TRACES else 0
    assert health["checks"]["buffer"]["dropped_spans"] == spans


@pytest.mark.parametrize(
    ("signal", "culprit", "poison", "message"),
    [
        pytest.param(Signal.TRACES, 57, not_utf8, "no protobuf", id="text-http"),
        pytest.param(Signal.TRACES, 58, not_utf8, "no protobuf", id="text-grpc"),
        pytest.param(Signal.TRACES, 0, short_trace_id, "has 16 bytes", id="id-first"),
        pytest.param(Signal.LOGS, 99, short_trace_id, "has 16 bytes", id="id-of-a-log-last"),
        pytest.param(Signal.LOGS, 57, not_utf8, "no protobuf", id="text-of-a-log"),
        pytest.param(Signal.TRACES, 58, truncated, "no protobuf", id="truncated-span"),
        pytest.param(Signal.LOGS, 57, truncated, "no protobuf", id="truncated-log"),
    ],
)
async def test_a_strict_collector_gets_all_but_the_bad_request(
    site: Callable[..., Site],
    signal: Signal,
    culprit: int,
    poison: Callable[[Signal, int], bytes],
    message: str,
) -> None:
    """99 of 100 senders never notice that their requests were joined with one it refuses."""
    async with Strict() as collector:
        device = site(OTEL_EXPORTER_OTLP_ENDPOINT=str(collector.endpoint))
        await device.send_all(signal, culprit, poison(signal, culprit))
        collector.opened.set()
        await collector.wait_for(lambda _: len(senders(collector.taken, signal)) >= SENDERS - 1)
        await until(lambda: device.items("collector", signal, "rejected"), "the rejection")
        assert senders(collector.taken, signal) == good(culprit)
        # Else this would be a test of single requests.
        assert max(len(received.body) for received in collector.refused) > 10 * 1024
        assert_only_the_culprit_is_lost(device, "collector", signal, culprit, message)


async def test_metrics_reach_a_strict_collector_and_the_adapter(
    site: Callable[..., Site], tmp_path: Path
) -> None:
    """Two destinations refuse the same request, each in its own words; both have the other 99."""
    culprit = 57
    adapter = Adapter(tmp_path / "adapter")
    try:
        eventually(adapter.health, "the adapter's /health")
        async with Strict() as collector:
            device = site(
                OTEL_EXPORTER_OTLP_ENDPOINT=str(collector.endpoint), ADAPTER_ENDPOINT=adapter.url
            )
            await device.send_all(Signal.METRICS, culprit, not_utf8(Signal.METRICS, culprit))
            collector.opened.set()
            for destination, message in (("collector", "no protobuf"), ("adapter", "400")):
                await until(partial(device.items, destination, Signal.METRICS, "rejected"), "loss")
                await until(lambda: stored(adapter) == good_values(culprit), "the good points")
                assert_only_the_culprit_is_lost(
                    device, destination, Signal.METRICS, culprit, message
                )
            await collector.wait_for(
                lambda _: senders(collector.taken, Signal.METRICS) == good(culprit)
            )
    finally:
        adapter.kill()


def stored(adapter: Adapter) -> list[int]:
    """The values that the senders' points have in the adapter's store, sorted."""
    rows = adapter.query("edge-01", METRIC, "--json").stdout.splitlines()
    return sorted(json.loads(row)["value"] for row in rows)


def good_values(culprit: int) -> list[int]:
    """What everybody but `culprit` sent."""
    return [n for n in range(SENDERS) if n != culprit]


@pytest.mark.peer
@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
@pytest.mark.parametrize(
    ("poison", "message"),
    [
        pytest.param(short_trace_id, "TraceID", id="id"),
        pytest.param(truncated, "EOF", id="truncated"),
    ],
)
async def test_the_real_collector_gets_all_but_the_bad_request(
    site: Callable[..., Site],
    collector: StartCollector,
    protocol: str,
    poison: Callable[[Signal, int], bytes],
    message: str,
) -> None:
    """It takes text that is not UTF-8, but neither a trace id of 15 bytes nor half a span."""
    culprit = 58
    peer = await collector()
    base = peer.grpc if protocol == "grpc" else peer.http(Signal.TRACES)
    device = site(
        OTEL_EXPORTER_OTLP_ENDPOINT=f"{base.scheme}://{base.authority}",
        OTEL_EXPORTER_OTLP_PROTOCOL=protocol,
    )
    await peer.stop()
    await device.send_all(Signal.TRACES, culprit, poison(Signal.TRACES, culprit))
    await peer.start()

    def arrived(lines: list[dict[str, Any]]) -> list[str]:
        found = (i.service["stringValue"] for i in items(lines) if i.kind == "resourceSpans")
        return sorted(name for name in found if name.startswith("sender-"))

    await peer.wait_for(lambda lines: len(arrived(lines)) >= SENDERS - 1)
    await until(lambda: device.items("collector", Signal.TRACES, "rejected"), "the rejection")
    assert arrived(peer.lines()) == good(culprit)
    assert_only_the_culprit_is_lost(device, "collector", Signal.TRACES, culprit, message)


@pytest.mark.parametrize("signal", Signal)
async def test_a_request_that_ends_too_early_is_refused_at_the_door(
    site: Callable[..., Site], signal: Signal
) -> None:
    """Its sender is told what is wrong; everybody else's arrives, and nobody counts a loss."""
    cut = request(signal, LATECOMER).SerializeToString()[:-1]
    async with Strict() as collector:
        collector.opened.set()
        device = site(OTEL_EXPORTER_OTLP_ENDPOINT=str(collector.endpoint))
        assert await device.send(signal, 0, cut) == "INVALID_ARGUMENT"
        assert await device.send(signal, 1, cut) == "400"
        await device.send_all(signal, 0, request(signal, 0).SerializeToString())
        await collector.wait_for(lambda _: len(senders(collector.taken, signal)) >= SENDERS)
        assert senders(collector.taken, signal) == [service(n) for n in range(SENDERS)]
        assert collector.refused == []
        assert device.items("collector", signal, "rejected") == 0
        assert device.items("collector", signal, "dropped") == 0
        assert "malformed" in device.agent.log
