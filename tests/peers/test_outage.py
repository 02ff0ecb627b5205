"""The end of an outage in front of the real OpenTelemetry Collector."""

import asyncio
import time
from pathlib import Path

import pytest

from tests.agent.exporter.contract import new_client
from tests.fakes import clock
from tests.fakes.device import Device
from tests.fakes.host_days import Days, record
from tests.peers.conftest import StartCollector
from tests.test_outage import INTERVAL_S, MIB, Peer

pytestmark = [pytest.mark.peer, pytest.mark.torture, pytest.mark.timeout(600)]

SAMPLES = 1000
DRAIN_RATE = 2 * MIB


async def test_what_an_outage_left_in_the_ring_reaches_a_collector_in_order(
    collector: StartCollector, tmp_path: Path
) -> None:
    """Four hours of samples, saved by one run and sent by the next, none twice, at the rate."""
    ring = tmp_path / "ring"
    recording = await record(40, 0.05)
    days = Days(recording)
    stamps: list[int] = []

    async def outage() -> None:
        async with Device(ring, Peer(1), max_bytes=4 * MIB) as device:
            for _ in range(SAMPLES):
                device.queue.put(days.next(), days.data_points)
                stamps.append(days.unix_nano)
                await asyncio.sleep(INTERVAL_S)
            assert not device.account.dropped

    await asyncio.to_thread(clock.run, outage())
    running = await collector()
    client = new_client("builtin", running.grpc)
    async with Device(ring, client, max_bytes=4 * MIB, drain_rate=DRAIN_RATE) as device:
        assert device.account.restored.items == SAMPLES * days.data_points
        async with asyncio.timeout(300):
            # A restart is a random start: nothing for some seconds.
            while not device.account.delivered.items:
                await asyncio.sleep(0.01)
            began_s = time.monotonic()
            while device.queue.items:
                await asyncio.sleep(0.05)
        took_s = time.monotonic() - began_s
        device.balance()
        assert device.account.delivered.items == SAMPLES * days.data_points
    await client.close()
    # Bounded from above; a machine that is busy may take longer.
    assert took_s > SAMPLES * len(recording.bodies[-1]) / DRAIN_RATE - 1
    lines = await running.wait_for(lambda taken: _samples(taken) >= SAMPLES)
    assert [_stamp(group) for line in lines for group in line["resourceMetrics"]] == stamps


def _samples(lines: list[dict[str, object]]) -> int:
    return sum(len(line["resourceMetrics"]) for line in lines)  # type: ignore[arg-type]  # JSON


def _stamp(group: dict[str, object]) -> int:
    """The time of all data points of a sample."""
    scopes: list[dict[str, list[dict[str, object]]]] = group["scopeMetrics"]  # type: ignore[assignment]  # JSON
    data = scopes[0]["metrics"][0]
    points: dict[str, list[dict[str, str]]] = data.get("gauge") or data["sum"]  # type: ignore[assignment]  # JSON
    return int(points["dataPoints"][0]["timeUnixNano"])
