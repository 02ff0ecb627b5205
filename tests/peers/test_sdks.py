"""Real OpenTelemetry SDKs against the agent's ports, a real Collector behind it.

Each app sends every object to the agent and, beside it, to a Collector (see sdk/README.md): what
comes out behind the agent is compared with that, field by field.
"""

from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from edge_agent.host.identity import IDENTITY_PREFIXES
from edge_agent.otlp.signal import Signal
from tests.fakes.programs import Agent, eventually, sample
from tests.peers.conftest import StartCollector
from tests.peers.otelcol import Collector
from tests.peers.sdks import PROTOCOLS, Item, attributes_of, items, of_run, run_app

pytestmark = [pytest.mark.peer, pytest.mark.timeout(600)]

NANO = 1_700_000_000_123_456_789
VALUE = 42
# More than the 512 that a batch processor puts into a request.
COUNT = 600
SPANS = 4 + COUNT
METRICS = 9
LOGS = 2 + COUNT
TOTAL = SPANS + METRICS + LOGS


@dataclass(frozen=True, slots=True)
class Device:
    """An agent with its receiver, the collector behind it and one for the app's own copy."""

    agent: Agent
    behind: Collector
    direct: Collector

    def endpoints(self, protocol: str) -> tuple[str, str]:
        """Where an app sends with `protocol`: to the agent, and directly."""
        if protocol == "grpc":
            return f"http://127.0.0.1:{self.agent.grpc_port}", str(self.direct.grpc)
        direct = self.direct.http(Signal.TRACES)
        return (
            f"http://127.0.0.1:{self.agent.http_port}",
            f"{direct.scheme}://{direct.authority}",
        )


@pytest.fixture
async def device(collector: StartCollector, tmp_path: Path) -> AsyncIterator[Device]:
    """A device whose apps send to an agent."""
    behind, direct = await collector(), await collector()
    agent = Agent(
        tmp_path / "agent",
        OTEL_EXPORTER_OTLP_ENDPOINT=str(behind.grpc),
        CUSTOMER_NAME="Acme S.A.",
    )
    try:
        eventually(agent.health, "the agent's /health")
        await behind.wait_for(len)
        yield Device(agent, behind, direct)
        assert agent.stop() == 0, agent.log
    finally:
        agent.kill()


async def sent_and_received(
    device: Device, language: str, protocol: str, **environ: str
) -> tuple[list[Item], list[Item]]:
    """What an app's own copy was, and what arrived behind the agent."""
    run = f"{language} {protocol} {environ}"
    endpoint, direct = device.endpoints(protocol)
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint} | environ
    await run_app(language, protocol, run, NANO, VALUE, COUNT, direct, environ=environ)
    found = []
    for peer in (device.direct, device.behind):
        lines = await peer.wait_for(lambda lines: len(of_run(lines, run)) >= TOTAL)
        found.append(of_run(lines, run))
    return found[0], found[1]


def own_resource(device: Device) -> dict[str, Any]:
    """The attributes of the agent's own Resource that are for everything that leaves."""
    own = next(
        item.resource
        for item in items(device.behind.lines())
        if item.resource["service.name"] == {"stringValue": "otel-agent"}
    )
    return {
        key: value for key, value in own.items() if not key.startswith(("service.", "telemetry."))
    }


def expected_resource(device: Device, sent: dict[str, Any]) -> dict[str, Any]:
    """CONTRACT: identity keys are the agent's, all others yield to the app's."""
    apps = {key: value for key, value in sent.items() if not key.startswith(IDENTITY_PREFIXES)}
    return own_resource(device) | apps


VARIANTS = [
    pytest.param(language, protocol, environ, id=f"{language}-{protocol}-{name}")
    for language, protocols in PROTOCOLS.items()
    for protocol in protocols
    for name, environ in {
        "plain": {},
        "gzip-delta": {
            "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip",
            "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": "delta",
        },
    }.items()
]


@pytest.mark.parametrize(("language", "protocol", "environ"), VARIANTS)
async def test_what_an_sdk_sends_arrives_field_by_field(
    device: Device, language: str, protocol: str, environ: dict[str, str]
) -> None:
    """Nothing is lost, doubled or changed but the identity attributes of the Resource."""
    sent, received = await sent_and_received(device, language, protocol, **environ)
    assert_as_documented(sent, language, delta=bool(environ))
    assert Counter(i.encoded() for i in received) == Counter(i.encoded() for i in sent)
    resources = {str(sorted(item.resource.items())): item.resource for item in received}
    expected = expected_resource(device, sent[0].resource)
    assert list(resources.values()) == [expected]
    assert expected["customer.id"] == {"stringValue": "acme"}
    assert expected["customer.name"] == {"stringValue": "Acme S.A."}
    assert expected["collector.name"] == {"stringValue": "otel-agent"}
    assert expected["host.name"] == {"stringValue": "the app's own"}
    assert "node.rack" not in expected
    metrics = device.agent.metrics()
    assert sample(metrics, "agent_items_total", outcome="rejected") is None
    assert sample(metrics, "agent_items_total", outcome="dropped") is None
    spans = {"destination": "collector", "signal": "traces", "outcome": "delivered"}
    assert (sample(metrics, "agent_items_total", **spans) or 0) >= SPANS


# What the apps of sdk/README.md send, so that a comparison of two nothings cannot pass.

KINDS = {"parent": 2, "child": 3, "worker": 5, "order": 4}
STATUS = {
    "parent": {},
    "child": {"message": "card declined", "code": 2},
    "worker": {"code": 1},
    "order": {"code": 1},
}
EVERY_TYPE = {
    "text": {"stringValue": "Füße ☕ \x00 end"},
    "empty": {"stringValue": ""},
    "yes": {"boolValue": True},
    "no": {"boolValue": False},
    "int": {"intValue": str(VALUE)},
    "big": {"intValue": str(2**53 - 1)},
    "negative": {"intValue": str(-VALUE)},
    "double": {"doubleValue": VALUE / 8},
    "texts": {"arrayValue": {"values": [{"stringValue": text} for text in ("a", "", "ß")]}},
    "bools": {"arrayValue": {"values": [{"boolValue": True}, {"boolValue": False}]}},
    "ints": {"arrayValue": {"values": [{"intValue": str(n)} for n in (0, -1, VALUE)]}},
    "doubles": {"arrayValue": {"values": [{"doubleValue": n} for n in (0.1, -2.5e-300)]}},
    "none": {"arrayValue": {}},
}
MEASURED = 0 + 1 + 2.5 + 4 + VALUE + 123_456
# Name -> unit, kind, and the values of all points together (histograms: counts and sums).
INSTRUMENTS = {
    "requests": ("{request}", "counter", 3 * VALUE),
    "sent": ("By", "counter", VALUE / 2),
    "active": ("{session}", "up-down counter", VALUE - 1),
    "latency": ("ms", "histogram", 6 + MEASURED),
    "size": ("By", "exponentialHistogram", 6 + MEASURED),
    "temperature": ("Cel", "gauge", -VALUE / 2),
    "cpu.time": ("s", "counter", VALUE / 4),
    "queued": ("{order}", "up-down counter", -VALUE),
    "fan.speed": ("rpm", "gauge", VALUE),
}
# What a delta exporter reports as the difference to the last collection (OpenTelemetry SDK
# specification, "Metric exporter", temporality preference): not up-down counters.
DELTA, CUMULATIVE = 1, 2


def assert_as_documented(sent: list[Item], language: str, *, delta: bool) -> None:
    """What an app sent is what sdk/README.md says."""
    assert {item.service["stringValue"] for item in sent} == {f"sdk-{language}"}
    spans = {item.value["name"]: item for item in sent if item.kind == "resourceSpans"}
    assert len(spans) == SPANS
    assert_spans({name: item.value for name, item in spans.items()})
    scopes = {name: item.scope["scope"]["name"] for name, item in spans.items()}
    assert Counter(scopes.values()) == {"checkout": SPANS - 2, "stock": 2}
    metrics = {i.value["name"]: i.value for i in sent if i.kind == "resourceMetrics"}
    assert {name: described(metric) for name, metric in metrics.items()} == INSTRUMENTS
    for name in ("requests", "latency", "size", "cpu.time"):
        data = metrics[name].get("sum") or metrics[name].get("histogram")
        data = data or metrics[name]["exponentialHistogram"]
        assert data["aggregationTemporality"] == (DELTA if delta else CUMULATIVE), name
    if language == "javascript":
        # The exporters of the other two leave the trace state of links out.
        (link,) = spans["parent"].value["links"]
        assert link["traceState"] == "vendor=one,other=2"
    else:
        trace_id = spans["parent"].value["traceId"]
        (point,) = metrics["latency"]["histogram"]["dataPoints"]
        assert {exemplar["traceId"] for exemplar in point["exemplars"]} == {trace_id}
    assert_logs([i.value for i in sent if i.kind == "resourceLogs"], spans["parent"].value)


def assert_spans(spans: dict[str, dict[str, Any]]) -> None:
    """The spans of sdk/README.md."""
    parent = spans["parent"]
    assert {name: spans[name]["kind"] for name in KINDS} == KINDS
    assert {name: spans[name]["status"] for name in STATUS} == STATUS
    assert attributes_of(parent["attributes"]) == EVERY_TYPE
    assert parent["startTimeUnixNano"] == str(NANO)
    assert parent["endTimeUnixNano"] == str(NANO + 5_000_000)
    miss, bare = parent["events"]
    assert (miss["name"], miss["timeUnixNano"]) == ("cache.miss", str(NANO + 1_000_000))
    assert attributes_of(miss["attributes"])["age"] == {"doubleValue": VALUE / 4}
    assert (bare["name"], bare.get("attributes", [])) == ("bare", [])
    (link,) = parent["links"]
    assert link["traceId"] == bytes(range(1, 17)).hex()
    assert link["spanId"] == bytes(range(1, 9)).hex()
    (exception,) = spans["child"]["events"]
    attributes = attributes_of(exception["attributes"])
    assert attributes["exception.message"] == {"stringValue": "card declined"}
    inside = [name for name, s in spans.items() if s.get("parentSpanId") == parent["spanId"]]
    assert sorted(inside) == ["child", *(f"item-{n:04}" for n in range(COUNT))]
    for name in ("worker", "order"):
        assert not spans[name].get("parentSpanId")
        assert spans[name]["traceId"] != parent["traceId"]
        assert [link["spanId"] for link in spans[name]["links"]] == [parent["spanId"]]


def described(metric: dict[str, Any]) -> tuple[str, str, float]:
    """Unit, kind and the total of a metric's points."""
    (kind,) = metric.keys() - {"name", "unit", "description", "metadata"}
    data = metric[kind]
    total = 0.0
    for point in data["dataPoints"]:
        total += float(point.get("asInt", 0)) + point.get("asDouble", 0.0)
        total += float(point.get("count", 0)) + point.get("sum", 0.0)
    if kind == "sum":
        kind = "counter" if data.get("isMonotonic") else "up-down counter"
    return metric["unit"], kind, total


def assert_logs(records: list[dict[str, Any]], parent: dict[str, Any]) -> None:
    """The log records of sdk/README.md."""
    bodies = Counter(record["body"].get("stringValue") for record in records)
    assert bodies == Counter(["paid", None, *(f"line-{n:04}" for n in range(COUNT))])
    (paid,) = (r for r in records if r["body"].get("stringValue") == "paid")
    assert (paid["traceId"], paid["spanId"]) == (parent["traceId"], parent["spanId"])
    assert (paid["severityNumber"], paid["eventName"]) == (9, "order.paid")
    assert paid["timeUnixNano"] == str(NANO)
    attributes = attributes_of(paid["attributes"])
    deep = attributes_of(attributes.pop("deep")["kvlistValue"]["values"])
    assert attributes == EVERY_TYPE
    assert deep["c"] == {"bytesValue": "AP8="}
    (structured,) = (r for r in records if "stringValue" not in r["body"])
    assert (structured["severityNumber"], structured["severityText"]) == (24, "DISASTER")
    body = attributes_of(structured["body"]["kvlistValue"]["values"])
    assert body["raw"] == {"bytesValue": "gA=="}
    assert body["n"] == {"intValue": str(VALUE)}
    assert len(body["list"]["arrayValue"]["values"]) == 5
