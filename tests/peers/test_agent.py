"""The whole agent in front of the real OpenTelemetry Collector."""

import itertools
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edge_agent.otlp.signal import Signal
from tests.fakes.programs import Agent, eventually, sample
from tests.peers.conftest import StartCollector
from tests.peers.otelcol import Collector

pytestmark = [pytest.mark.peer, pytest.mark.timeout(600)]

# Below a minute, after which a fleet would come back at random moments.
OUTAGE_S = 45

GAUGE, COUNTER, UP_DOWN = "Gauge", "Sum true", "Sum false"
# OpenTelemetry semantic conventions: unit and instrument of everything we send (issue list).
ALWAYS = {
    "system.cpu.time": ("s", COUNTER),
    "system.cpu.utilization": ("1", GAUGE),
    "system.cpu.logical.count": ("{cpu}", UP_DOWN),
    "system.cpu.load_average.1m": ("{thread}", GAUGE),
    "system.cpu.load_average.5m": ("{thread}", GAUGE),
    "system.cpu.load_average.15m": ("{thread}", GAUGE),
    "system.cpu.percent": ("%", GAUGE),
    "system.memory.usage": ("By", UP_DOWN),
    "system.memory.utilization": ("1", GAUGE),
    "system.memory.limit": ("By", UP_DOWN),
    "system.memory.linux.available": ("By", UP_DOWN),
    "system.memory.percent": ("%", GAUGE),
    "system.paging.faults": ("{fault}", COUNTER),
    "system.filesystem.usage": ("By", UP_DOWN),
    "system.filesystem.utilization": ("1", GAUGE),
    "system.filesystem.limit": ("By", UP_DOWN),
    "system.network.io": ("By", COUNTER),
    "system.network.errors": ("{error}", COUNTER),
    "system.network.packet.dropped": ("{packet}", COUNTER),
    "system.network.packet.count": ("{packet}", COUNTER),
    "system.network.connection.count": ("{connection}", UP_DOWN),
    "system.process.count": ("{process}", UP_DOWN),
    "system.uptime": ("s", GAUGE),
    "process.cpu.time": ("s", COUNTER),
    "process.cpu.utilization": ("1", GAUGE),
    "process.memory.usage": ("By", UP_DOWN),
    "process.memory.virtual": ("By", UP_DOWN),
    "process.thread.count": ("{thread}", UP_DOWN),
    "process.unix.file_descriptor.count": ("{file_descriptor}", UP_DOWN),
    "process.context_switches": ("{context_switch}", COUNTER),
    "process.uptime": ("s", GAUGE),
    "agent.sampler.success": ("1", GAUGE),
}
WHERE_THE_MACHINE_HAS_IT = {
    "system.cpu.frequency": ("Hz", GAUGE),
    "system.paging.usage": ("By", UP_DOWN),
    "system.disk.io": ("By", COUNTER),
    "system.disk.operations": ("{operation}", COUNTER),
    "system.disk.io_time": ("s", COUNTER),
    "system.disk.operation_time": ("s", COUNTER),
    "hw.temperature": ("Cel", GAUGE),
    "hw.fan.speed": ("rpm", GAUGE),
    "hw.voltage": ("V", GAUGE),
    "hw.status": ("1", UP_DOWN),
    "hw.physical_disk.endurance_utilization": ("1", GAUGE),
    "hw.network.signal_strength": ("dBm", GAUGE),
}


def described(log: str) -> dict[str, tuple[str, str]]:
    """Metric name -> unit and type, as the debug exporter prints them."""
    found = {}
    for block in log.split("\nDescriptor:")[1:]:
        name = re.search(r"-> Name: (\S+)", block)
        unit = re.search(r"-> Unit: (\S+)", block)
        kind = re.search(r"-> DataType: (\w+)\n(?:     -> IsMonotonic: (\w+)\n)?", block)
        assert name, block[:200]
        assert unit, block[:200]
        assert kind, block[:200]
        found[name[1]] = (unit[1], " ".join(word for word in kind.groups() if word))
    return found


@pytest.fixture
def agents(tmp_path: Path) -> Iterator[list[Agent]]:
    """Agents that a test has started; each has to stop cleanly."""
    started: list[Agent] = []
    yield started
    for agent in started:
        assert agent.stop() == 0, agent.log


def start(agents: list[Agent], state: Path, collector: Collector, **environ: str) -> Agent:
    """An agent that sends to `collector` over gRPC every second."""
    agents.append(Agent(state, OTEL_EXPORTER_OTLP_ENDPOINT=str(collector.grpc), **environ))
    eventually(agents[-1].health, "the agent's /health")
    return agents[-1]


async def test_the_collector_prints_every_metric_with_the_right_unit_and_type(
    collector: StartCollector, agents: list[Agent], tmp_path: Path
) -> None:
    """What the conventions say, as the debug exporter of the real Collector shows it."""
    peer = await collector(exporter="debug")
    start(agents, tmp_path / "agent", peer)
    log = await peer.wait_for_log("Name: system.cpu.percent", "Name: process.cpu.utilization")
    found = described(log)
    known = ALWAYS | WHERE_THE_MACHINE_HAS_IT
    assert {name: found.get(name) for name in ALWAYS} == ALWAYS
    assert found == {name: known.get(name) for name in found}


async def test_a_sample_carries_the_identity_of_customer_and_node(
    collector: StartCollector, agents: list[Agent], tmp_path: Path
) -> None:
    """Every Resource that leaves says whose it is and where it comes from."""
    peer = await collector()
    environ = {
        "CUSTOMER_NAME": "Acme S.A.",
        "NODE_REGION": "eu-south-2",
        "OTEL_RESOURCE_ATTRIBUTES": "site=Almer%C3%ADa,customer.id=mallory",
    }
    start(agents, tmp_path / "agent", peer, **environ)
    signals = ("resourceMetrics", "resourceSpans", "resourceLogs")
    lines = await peer.wait_for(lambda lines: all(any(s in x for x in lines) for s in signals))
    (resource,) = next(line for line in lines if "resourceMetrics" in line)["resourceMetrics"]
    # The agent's own spans and log records say the same of themselves.
    for signal in signals:
        assert {str(r["resource"]) for x in lines for r in x.get(signal, [])} == {
            str(resource["resource"])
        }
    attributes = {
        pair["key"]: pair["value"]["stringValue"] for pair in resource["resource"]["attributes"]
    }
    expected = {
        "customer.id": "acme",
        "customer.name": "Acme S.A.",
        "node.id": "edge-01",
        "node.region": "eu-south-2",
        "deployment.environment.name": "production",
        "collector.name": "otel-agent",
        "collector.type": "edge",
        "site": "Almería",
        "service.name": "otel-agent",
        "os.type": "linux",
    }
    assert {key: attributes.get(key) for key in expected} == expected
    assert attributes["host.name"]
    assert attributes["collector.instance.id"] == (tmp_path / "agent/instance-id").read_text()[:36]


def uptimes(lines: list[dict[str, Any]]) -> list[int]:
    """The time stamps of system.uptime, one a sample, in the order of arrival, in nanoseconds."""
    return [
        int(point["timeUnixNano"])
        for line in lines
        for resource in line.get("resourceMetrics", [])
        for scope in resource["scopeMetrics"]
        for metric in scope["metrics"]
        if metric["name"] == "system.uptime"
        for point in metric["gauge"]["dataPoints"]
    ]


@pytest.mark.parametrize(
    "environ",
    [
        pytest.param({}, id="builtin"),
        pytest.param({"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}, id="http"),
    ],
)
async def test_a_collector_that_was_killed_for_a_while_costs_nothing(
    collector: StartCollector, agents: list[Agent], tmp_path: Path, environ: dict[str, str]
) -> None:
    """What fits in RAM is delivered, in order; only the call in flight at the kill may be twice."""
    peer = await collector()
    endpoint = str(peer.grpc)
    if environ:
        http = peer.http(Signal.METRICS)
        endpoint = f"{http.scheme}://{http.authority}"
    agents.append(Agent(tmp_path / "agent", OTEL_EXPORTER_OTLP_ENDPOINT=endpoint, **environ))
    agent = agents[0]
    await peer.wait_for(lambda lines: len(uptimes(lines)) >= 3)
    await peer.kill()

    def failing() -> dict[str, Any] | None:
        health = agent.health()
        assert health is not None
        long = health["checks"]["buffer"]["oldest_age_seconds"] >= OUTAGE_S
        return health if long else None

    health = eventually(failing, "an outage of its length", deadline_s=OUTAGE_S + 60)
    assert health["status"] == "degraded"
    check = health["checks"]["collector_connectivity"]
    assert set(check) == {
        "status", "endpoint", "last_successful_send", "error", "retry_attempts",
    }  # fmt: skip
    assert check["status"] == "unhealthy"
    assert check["retry_attempts"] >= 5
    assert sample(agent.metrics(), "agent_collector_reachable") == 0
    await peer.start()
    held = {"destination": "collector", "signal": "metrics"}
    eventually(lambda: sample(agent.metrics(), "agent_held_items", **held) == 0, "the drain", 90)
    assert agent.items("dropped", "collector") == agent.items("rejected", "collector") == 0
    assert agent.items("accepted", "collector") == agent.items("delivered", "collector")
    last = len(uptimes(peer.lines()))
    arrived = uptimes(await peer.wait_for(lambda lines: len(uptimes(lines)) > last))
    assert arrived == sorted(arrived)
    twice = [time for time, count in Counter(arrived).items() if count > 1]
    assert len(twice) <= 1
    seconds = [time / 1e9 for time in sorted(set(arrived))]
    gaps = [round(b - a, 2) for a, b in itertools.pairwise(seconds)]
    assert max(gaps) < 1.9, gaps
    assert seconds[-1] - seconds[0] > OUTAGE_S
