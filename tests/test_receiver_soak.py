"""The receiver under a steady load of all signals: memory is flat and the ledger balances.

Short in every run of the tests; `make soak` takes half an hour at 1,000 requests a second, or what
RECEIVER_SOAK_S and RECEIVER_SOAK_RATE say.
"""

import asyncio
import json
import os
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from edge_agent.otlp.signal import Signal
from tests.fakes.collector import Answer, FakeCollector, Received
from tests.fakes.programs import ROOT, Adapter, Agent, eventually
from tests.test_soak import FLAT_KB, anonymous_kb, drift_kb

SOAK_S = float(os.environ.get("RECEIVER_SOAK_S", "1800"))
SOAK_RATE = int(os.environ.get("RECEIVER_SOAK_RATE", "1000"))
# Caches, the allocator's arenas and everybody's connections fill up first.
SETTLED_AFTER_S = min(300.0, SOAK_S / 4)
EVERY_S = 10.0
SHORT_S = 30.0
SHORT_RATE = 100
LOAD = "otel-agent-load"
# A request of the load has as many items; some spread of sizes comes from joining.
ITEMS = 8
FIGURES = (
    "protocol",
    "sent",
    "accepted",
    "refused",
    "failed",
    "not_sent",
    "rate_per_s",
    "latency_ms",
)
LISTS = {
    Signal.TRACES: ("resource_spans", "scope_spans", "spans"),
    Signal.METRICS: ("resource_metrics", "scope_metrics", "metrics"),
    Signal.LOGS: ("resource_logs", "scope_logs", "log_records"),
}


class Counting(FakeCollector):
    """Takes everything and remembers only how many items of which signal were whose."""

    def __init__(self) -> None:
        super().__init__()
        self.items: Counter[tuple[str, Signal]] = Counter()

    async def add(self, received: Received) -> None:
        """Forget it: half an hour of requests fits into no memory."""

    def answer(self, received: Received) -> Answer:
        resources, scopes, name = LISTS[received.signal]
        for resource in getattr(received.request, resources):
            (service,) = (
                pair.value.string_value
                for pair in resource.resource.attributes
                if pair.key == "service.name"
            )
            self.items[service, received.signal] += sum(
                points(item) if received.signal is Signal.METRICS else 1
                for scope in getattr(resource, scopes)
                for item in getattr(scope, name)
            )
        return Answer()


def points(metric: Any) -> int:
    """How many data points a metric has: they are what is counted."""
    return len(getattr(metric, metric.WhichOneof("data")).data_points)


@dataclass(frozen=True, slots=True)
class Row:
    """The ledger of one destination and signal, as /metrics has it."""

    accepted: int
    settled: int
    held: int


def ledger(metrics: str) -> dict[tuple[str, Signal], Row]:
    """(destination, signal) -> what became of its items."""
    outcomes: Counter[tuple[str, Signal, str]] = Counter()
    for line in metrics.splitlines():
        head, _, value = line.rpartition(" ")
        name, _, labels = head.partition("{")
        if name in ("agent_items_total", "agent_held_items"):
            pairs = dict(pair.split("=", 1) for pair in labels.rstrip("}").split(","))
            values = {key: text.strip('"') for key, text in pairs.items()}
            outcome = values.get("outcome", "held")
            key = (values["destination"], Signal(values["signal"]), outcome)
            outcomes[key] += int(float(value))
    return {
        (destination, signal): Row(
            accepted=outcomes[destination, signal, "accepted"],
            settled=sum(
                outcomes[destination, signal, outcome]
                for outcome in ("delivered", "rejected", "dropped", "sampled_out", "spilled")
            ),
            held=outcomes[destination, signal, "held"],
        )
        for destination, signal, _ in outcomes
    }


class Load:
    """`otel-agent load` with all signals, over `protocol`; its report once it has ended."""

    def __init__(self, protocol: str, port: int, *, rate: int, duration_s: float) -> None:
        self._arguments = [
            "--json", "--protocol", protocol, "--endpoint", f"http://127.0.0.1:{port}",
            "--signal", "traces,metrics,logs", "--items", str(ITEMS),
            "--rate", str(rate), "--duration", f"{duration_s:.0f}s",
        ]  # fmt: skip

    async def run(self) -> dict[str, Any]:
        """Run it to its end."""
        program = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "edge_agent", "load", *self._arguments,
            cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        try:
            out, _ = await program.communicate()
        finally:
            if program.returncode is None:
                program.kill()
                await program.wait()
        report: dict[str, Any] = json.loads(out)
        return report


@dataclass(slots=True)
class Soak:
    """What was seen while and after a load ran: RssAnon in kB every EVERY_S, and the reports."""

    sizes: list[int]
    reports: list[dict[str, Any]]

    @property
    def accepted(self) -> int:
        return sum(report["accepted"] for report in self.reports)

    @property
    def unanswered(self) -> int:
        return sum(sum(report["failed"].values()) for report in self.reports)


async def soak(agent: Agent, *, rate: int, duration_s: float) -> Soak:
    """Load both ports with `rate` requests a second in all; the ledger balances at every look."""
    loads = asyncio.gather(
        *(
            Load(protocol, port, rate=rate // 2, duration_s=duration_s).run()
            for protocol, port in (("grpc", agent.grpc_port), ("http/protobuf", agent.http_port))
        )
    )
    sizes = []
    try:
        while not loads.done():
            await asyncio.wait([loads], timeout=EVERY_S)
            rows = ledger(await asyncio.to_thread(agent.metrics))
            assert rows.keys() >= {("collector", signal) for signal in Signal}
            assert {key: row.settled + row.held for key, row in rows.items()} == {
                key: row.accepted for key, row in rows.items()
            }
            sizes.append(anonymous_kb(agent))
    finally:
        loads.cancel()
        await asyncio.gather(loads, return_exceptions=True)
    return Soak(sizes, loads.result())


async def stop(agent: Agent) -> dict[str, int]:
    """End it cleanly: the totals of its run, over all destinations, from its last words."""
    # The sink is in this process and has to answer while the agent drains.
    assert await asyncio.to_thread(agent.stop) == 0, agent.log
    pairs = (word.partition("=") for word in agent.log.splitlines()[-1].split())
    return {name: int(text) for name, _, text in pairs if text.isdecimal()}


def assert_all_arrived(sink: Counting, seen: Soak) -> None:
    """Whatever the agent answered OK is at the sink, once."""
    arrived = sum(count for (service, _), count in sink.items.items() if service == LOAD)
    # What nobody answered may have arrived all the same.
    assert seen.accepted <= arrived <= seen.accepted + seen.unanswered


async def test_a_short_load_of_all_signals_balances_to_the_item(tmp_path: Path) -> None:
    """With a collector and an adapter behind: all that was accepted is delivered to both."""
    adapter = Adapter(tmp_path / "adapter")
    try:
        eventually(adapter.health, "the adapter's /health")
        async with running(tmp_path, ADAPTER_ENDPOINT=adapter.url) as (agent, sink):
            seen = await soak(agent, rate=SHORT_RATE, duration_s=SHORT_S)
            assert seen.sizes
            assert seen.accepted > 0
            totals = await stop(agent)
            assert_all_arrived(sink, seen)
            points = sum(n for (_, signal), n in sink.items.items() if signal is Signal.METRICS)
            assert totals["lost"] == 0
            assert totals["accepted"] == totals["delivered"] == sink.items.total() + points
    finally:
        adapter.kill()


@pytest.mark.soak
@pytest.mark.timeout(SOAK_S + 300)
async def test_half_an_hour_of_load_leaves_memory_flat(tmp_path: Path) -> None:
    """RssAnon after the warm-up rises by less than 1 MB, and nothing is lost or refused."""
    async with running(tmp_path) as (agent, sink):
        seen = await soak(agent, rate=SOAK_RATE, duration_s=SOAK_S)
        totals = await stop(agent)
    settled = seen.sizes[int(SETTLED_AFTER_S / EVERY_S) :]
    for report in seen.reports:
        print({name: report[name] for name in FIGURES})  # noqa: T201 - what one runs this for
    print(  # noqa: T201 - as above
        f"{totals}; RssAnon {settled[0]} kB -> {settled[-1]} kB, {drift_kb(settled):+.0f}"
    )
    assert_all_arrived(sink, seen)
    assert totals["lost"] == 0
    assert totals["accepted"] == totals["delivered"] == sink.items.total()
    assert seen.accepted == sum(report["sent"] for report in seen.reports)
    assert drift_kb(settled) < FLAT_KB, seen.sizes


@asynccontextmanager
async def running(tmp_path: Path, **environ: str) -> AsyncIterator[tuple[Agent, Counting]]:
    """An agent in front of a sink that counts."""
    async with Counting() as sink:
        agent = Agent(tmp_path / "agent", OTEL_EXPORTER_OTLP_ENDPOINT=str(sink.endpoint), **environ)
        try:
            await asyncio.to_thread(eventually, agent.health, "the agent's /health")
            yield agent, sink
        finally:
            agent.kill()
