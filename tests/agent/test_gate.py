"""Data from before the time was known: held, marked, dated on its way out."""

import asyncio
from pathlib import Path

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)

from edge_agent.exporter.retry import Delivered
from edge_agent.gate import HOLD_S, Gate
from edge_agent.host.synchronised import correction
from edge_agent.otlp.signal import Signal
from tests.agent.exporter.test_queue import ScriptedClient, points
from tests.agent.exporter.test_spool import DOWN, Bench, Disk
from tests.fakes import clock

NS = 1_000_000_000
# A device that was switched off for a year, and switched on 50 s ago.
WRONG_NANO = 1_700_000_000 * NS
RIGHT_NANO = WRONG_NANO + 365 * 86_400 * NS


class Clock:
    """A wall clock that is set at some moment, and says whether it was."""

    def __init__(self) -> None:
        self.set = False
        self.start_s = asyncio.get_running_loop().time()

    def trusted(self) -> bool:
        return self.set

    def boottime_nano(self) -> int:
        return int((50 + asyncio.get_running_loop().time() - self.start_s) * NS)

    def unix_nano(self) -> int:
        return (RIGHT_NANO if self.set else WRONG_NANO) + self.boottime_nano()


def gate_of(device: Clock) -> Gate:
    """A gate on its clock."""
    return Gate(
        device,
        correction,
        clock=asyncio.get_running_loop().time,
        unix_nano=device.unix_nano,
        boottime_nano=device.boottime_nano,
    )


def stamped(unix_nano: int) -> bytes:
    """A data point of `unix_nano`."""
    request = ExportMetricsServiceRequest.FromString(points("m"))
    point = request.resource_metrics[0].scope_metrics[0].metrics[0].gauge.data_points[0]
    point.time_unix_nano = unix_nano
    return request.SerializeToString()


def seen(body: bytes) -> tuple[int, bool | None]:
    """The point's time, and what its Resource says of the clock."""
    request = ExportMetricsServiceRequest.FromString(body)
    group = request.resource_metrics[0]
    said = [a.value.bool_value for a in group.resource.attributes if a.key == "clock.synced"]
    point = group.scope_metrics[0].metrics[0].gauge.data_points[0]
    return point.time_unix_nano, said[0] if said else None


def put(bench: Bench, gate: Gate, unix_nano: int) -> None:
    """Admit a point of `unix_nano` as the agent does."""
    body, stamp = stamped(unix_nano), gate.stamp()
    bench.queue.put(body if stamp is None else gate.mark(Signal.METRICS, body), 1, stamp)


@pytest.mark.parametrize("after_s", [2, 60, 500])
def test_what_was_held_leaves_with_the_right_time(tmp_path: Path, after_s: int) -> None:
    """From RAM as from the ring; `clock.synced` says that it is right."""

    async def main() -> None:
        device = Clock()
        gate = gate_of(device)
        bench = Bench(Disk(tmp_path), gate=gate)
        gate.opened = bench.queue.wake
        opening = asyncio.create_task(gate.run())
        put(bench, gate, device.unix_nano())
        true_nano = RIGHT_NANO + device.boottime_nano()
        await asyncio.sleep(after_s)
        assert bench.client.bodies == []
        device.set = True
        await asyncio.sleep(40)
        put(bench, gate, device.unix_nano())
        await asyncio.sleep(40)
        first, second = map(seen, bench.client.bodies)
        assert first == (true_nano, True)
        assert second[1] is None
        opening.cancel()
        await bench.stop()

    clock.run(main())


def test_a_clock_that_is_never_set_holds_data_for_ten_minutes(tmp_path: Path) -> None:
    """Then it is sent as it is, and says so; and so is all that follows, at once."""

    async def main() -> None:
        device = Clock()
        gate = gate_of(device)
        bench = Bench(Disk(tmp_path), gate=gate)
        opening = asyncio.create_task(gate.run())
        at_nano = device.unix_nano()
        put(bench, gate, at_nano)
        await asyncio.sleep(HOLD_S - 1)
        assert bench.client.bodies == []
        await asyncio.sleep(40)
        assert [seen(body) for body in bench.client.bodies] == [(at_nano, False)]
        put(bench, gate, at_nano + 1)
        await asyncio.sleep(0.1)
        assert seen(bench.client.bodies[-1]) == (at_nano + 1, False)
        opening.cancel()
        await bench.stop()

    clock.run(main())


@pytest.mark.parametrize("same_boot", [True, False])
def test_a_restart_dates_what_this_boot_has_left_and_nothing_else(
    tmp_path: Path, same_boot: bool
) -> None:
    """Nobody knows when another boot was."""

    async def main() -> None:
        device = Clock()
        gate = gate_of(device)
        first = Bench(Disk(tmp_path), DOWN, gate=gate)
        at_nano = device.unix_nano()
        true_nano = RIGHT_NANO + device.boottime_nano()
        put(first, gate, at_nano)
        await asyncio.sleep(6)
        await first.kill()
        device.set = True
        again = gate_of(device)
        disk = Disk(tmp_path, boot_id=b"b" * 16 if same_boot else b"c" * 16)
        second = Bench(disk, gate=again)
        await asyncio.sleep(60)
        expected = (true_nano, True) if same_boot else (at_nano, False)
        assert [seen(body) for body in second.client.bodies] == [expected]
        await second.stop()

    clock.run(main())


def test_a_clock_that_is_right_costs_nothing(tmp_path: Path) -> None:
    """No stamp, no mark, no wait."""

    async def main() -> None:
        device = Clock()
        device.set = True
        gate = gate_of(device)
        assert (gate.stamp(), gate.wait_s()) == (None, 0.0)

    clock.run(main())


def test_what_is_spilled_has_the_right_time_too(tmp_path: Path) -> None:
    """Whoever takes it: the adapter keeps it for weeks."""

    async def main() -> None:
        device = Clock()
        gate = gate_of(device)
        bench = Bench(Disk(tmp_path), DOWN, gate=gate)
        put(bench, gate, device.unix_nano())
        true_nano = RIGHT_NANO + device.boottime_nano()
        await asyncio.sleep(6)
        device.set = gate.trusted = True
        adapter = ScriptedClient()
        batch = await bench.queue.lend()
        outcome = await bench.queue.export(adapter, batch, say=True)
        assert isinstance(outcome, Delivered)
        bench.queue.spilled(batch, outcome)
        assert [seen(body) for body in adapter.bodies] == [(true_nano, True)]
        bench.balance()
        await bench.stop()

    clock.run(main())
