"""How long an outage may last: real samples of this machine into a real ring, on fake time.

The short form fills the smallest ring, the long one (`make torture`) lives through 30 days with
64 MiB and says how many of them fit. How days are made of minutes: tests/fakes/host_days.py.
"""

import asyncio
import shutil
import time
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from edge_agent.exporter.retry import Delivered, Outcome, Retry
from edge_agent.ledger import Tally
from edge_agent.otlp.signal import Signal
from edge_agent.ring.layout import OPEN_BYTES
from edge_agent.ring.record import QUEUE_FULL
from tests.fakes import clock
from tests.fakes.device import Device
from tests.fakes.host_days import Days, Recording, record

DAY_S = 86_400.0
INTERVAL_S = 15.0
DRAIN_RATE = 1 << 20
# From so many records on, what they take on disk says what the rest will.
FEW = 5
MIB = 1 << 20


class Peer:
    """Away until `back`; then takes everything, and notes when each request came and which."""

    def __init__(self, body_bytes: int) -> None:
        self._body_bytes = body_bytes
        self.back = False
        # When, and how many bytes.
        self.arrivals: list[tuple[float, int]] = []
        self.taken: list[int] = []

    async def export(self, signal: Signal, body: bytes) -> Outcome:
        if not self.back:
            return Retry("unavailable: no route to host")
        self.arrivals.append((asyncio.get_running_loop().time(), len(body)))
        # All samples have one length: the same series, and numbers of fixed width.
        size = self._body_bytes
        self.taken += [zlib.crc32(body[at : at + size]) for at in range(0, len(body), size)]
        await asyncio.sleep(0.05)
        return Delivered(latency_s=0.05)

    def reconnect(self) -> None:
        pass

    async def close(self) -> None:
        pass


@dataclass(slots=True)
class Outage:
    """What was seen of it. Times are seconds since its beginning."""

    days: Days
    sent: list[int] = field(default_factory=list)
    items: int = 0
    # (when, seconds_to_loss, usage, records) after each of some samples.
    seen: list[tuple[float, float | None, float, int]] = field(default_factory=list)
    first_drop_s: float | None = None
    bytes_per_sample: float = 0.0
    capacity_bytes: int = 0

    async def last(self, device: Device, samples: int, look_every: int) -> None:
        """`samples` more, an interval apart."""
        began_s = len(self.sent) * INTERVAL_S
        for number in range(samples):
            body = self.days.next()
            self.sent.append(zlib.crc32(body))
            self.items += self.days.data_points
            device.queue.put(body, self.days.data_points)
            await asyncio.sleep(INTERVAL_S)
            now_s = began_s + (number + 1) * INTERVAL_S
            dropping = bool(device.account.dropped)
            if dropping and self.first_drop_s is None:
                self.first_drop_s = now_s
            records = device.ring.totals()[1].records
            if not dropping:
                self.bytes_per_sample = device.ring.account(1).stored_bytes / len(self.sent)
            if look_every and number % look_every == 0:
                room = device.room
                self.seen.append((now_s, room.seconds_to_loss(), room.usage, records))


def outlive(tmp_path: Path, recording: Recording, max_bytes: int, samples: int | None) -> Outage:
    """An outage of so many samples, or until a tenth was dropped; then a drain to its end."""
    outage = Outage(Days(recording, interval_s=INTERVAL_S))
    peer = Peer(len(recording.bodies[-1]))
    look_every = 1 if samples is None else 100

    async def main() -> None:
        async with Device(tmp_path, peer, max_bytes=max_bytes, drain_rate=DRAIN_RATE) as device:
            if samples is None:
                while outage.first_drop_s is None:
                    await outage.last(device, 50, look_every)
                await outage.last(device, len(outage.sent) // 10, look_every)
            else:
                await outage.last(device, samples, look_every)
            outage.capacity_bytes = device.spool.capacity_bytes
            device.balance()
            await drained(device, peer, outage)

    clock.run(main())
    return outage


async def drained(device: Device, peer: Peer, outage: Outage) -> None:
    """The peer comes back: all that was not dropped arrives, in order, at the bounded rate."""
    peer.back = True
    # Samples go on, and wait behind the backlog: order matters for metrics.
    while device.queue.held.has_backlog:
        await outage.last(device, 1, 0)
    await asyncio.sleep(60)
    place = {crc: at for at, crc in enumerate(outage.sent)}
    places = [place[crc] for crc in peer.taken]
    assert places == sorted(set(places))
    # What was dropped is the oldest, but for what went while the first pieces were on their way.
    dropped = device.account.dropped.get(QUEUE_FULL, Tally())
    assert set(device.account.dropped) <= {QUEUE_FULL}
    assert len(places) * outage.days.data_points == outage.items - dropped.items
    assert places[-1] == len(outage.sent) - 1
    assert device.queue.items == 0
    device.balance()
    bounded(peer.arrivals)


def bounded(arrivals: list[tuple[float, int]]) -> None:
    """From the first piece on, never more than the rate and two pieces that are sent at once."""
    began_s, sent = arrivals[0][0], 0
    piece = max(size for _, size in arrivals)
    for at_s, size in arrivals:
        sent += size
        assert sent <= (at_s - began_s) * DRAIN_RATE + 2 * piece, at_s - began_s


def record_s(outage: Outage) -> float:
    """How long it takes to fill a record: what is dropped at once, and how finely all is told."""
    return (OPEN_BYTES / outage.bytes_per_sample + 1) * INTERVAL_S


def foretold(outage: Outage, end_s: float) -> list[tuple[float, float]]:
    """Of each look from a few records on: seconds that were left, and those that were said."""
    return [
        (end_s - at_s, said_s or 0.0)
        for at_s, said_s, _, records in outage.seen
        if records >= FEW and at_s < end_s
    ]


def check_foretold(outage: Outage) -> None:
    """Within 20 % of the truth; at the very end within two records."""
    assert outage.first_drop_s is not None
    looks = foretold(outage, outage.first_drop_s)
    assert len(looks) > 20
    for true_s, said_s in looks:
        assert said_s == pytest.approx(true_s, rel=0.2, abs=2 * record_s(outage))


def check_full(outage: Outage) -> None:
    """`usage` is 1 only within two records of dropping, which frees a record at once."""
    assert outage.first_drop_s is not None
    dropping = [usage for at_s, _, usage, _ in outage.seen if at_s >= outage.first_drop_s]
    assert len(dropping) > 2
    assert min(dropping) > 1 - 2 * OPEN_BYTES / outage.capacity_bytes
    assert max(dropping) == 1.0
    assert not any(
        usage == 1.0
        for at_s, _, usage, _ in outage.seen
        if at_s < outage.first_drop_s - 2 * record_s(outage)
    )


@pytest.fixture(scope="module")
def recording() -> Recording:
    """Two seconds of this machine."""
    return asyncio.run(record(40, 0.05))


def test_a_small_ring_says_how_long_it_lasts_and_drains_in_order(
    tmp_path: Path, recording: Recording
) -> None:
    """`seconds_to_loss` within 20 %, `usage` 1 only when dropping, order and rate of the drain."""
    outage = outlive(tmp_path, recording, 2 * MIB, None)
    check_full(outage)
    check_foretold(outage)


def test_the_replay_is_made_as_the_agent_makes_its_samples(recording: Recording) -> None:
    """Byte for byte; and then no two are alike, and all as long as the recorded ones."""
    days = Days(recording)
    assert [days.again(at) for at in range(len(recording.bodies))] == recording.bodies
    made = [days.next() for _ in range(50)]
    assert len(set(made)) == 50
    assert {len(body) for body in made} == {len(recording.bodies[-1])}


@pytest.mark.parametrize("newest_first", [False, True])
def test_probes_during_an_outage_do_not_cost_room(
    tmp_path: Path, recording: Recording, newest_first: bool
) -> None:
    """A record that was read is never added to: probes take the oldest, and records grow full."""
    days = Days(recording)

    async def main() -> None:
        peer = Peer(len(recording.bodies[-1]))
        async with Device(tmp_path, peer, max_bytes=2 * MIB, newest_first=newest_first) as device:
            for _ in range(400):
                device.queue.put(days.next(), days.data_points)
                await asyncio.sleep(INTERVAL_S)
            held = device.ring.totals()[1]
            assert held.records < held.entries / 8

    clock.run(main())


@pytest.mark.torture
@pytest.mark.timeout(3600)
def test_thirty_days_without_a_collector(tmp_path: Path) -> None:
    """64 MiB hold two weeks of this machine at the least; the goal is a month."""
    recording = asyncio.run(record(400, 0.5))
    began_s = time.perf_counter()
    samples = int(30 * DAY_S / INTERVAL_S)
    outage = outlive(tmp_path, recording, 64 * MIB, samples)
    check_foretold(outage)
    first_s = outage.first_drop_s or 30 * DAY_S
    # A machine with more disks, cores and mounts than the one this was promised for has less.
    assert first_s >= 14 * DAY_S * min(1.0, 120 / outage.days.data_points)
    looks = foretold(outage, first_s)
    worst = max(abs(said_s / true_s - 1) for true_s, said_s in looks if true_s > DAY_S / 24)
    print(  # noqa: T201  (the numbers are what a run by hand is for)
        f"\n{len(recording.bodies[-1])} bytes and {outage.days.data_points} data points a sample,"
        f" {outage.bytes_per_sample:.0f} bytes on disk; first drop after {first_s / DAY_S:.1f}"
        f" days; seconds_to_loss off by {worst:.1%} at most; {time.perf_counter() - began_s:.0f} s"
    )
    shutil.rmtree(tmp_path)
