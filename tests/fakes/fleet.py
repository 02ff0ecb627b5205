"""A fleet of agents, as far as their queues go, in front of one sink, in one process on fake time.

What sends is the agent's own: Queue, Spool, Breaker, Pace, with the agent's defaults. What is not:
the ring (a store in memory: 200 files with their fsyncs would measure the disk) and the sink, which
serves so many bytes a second, one request after the other, and refuses what it could not serve
within a second.

Bytes are a sixteenth of real ones everywhere (bodies, `drain_rate`, the sink's capacity), which
changes nothing but the memory that the fleet takes here.
"""

import asyncio
import math
import random
import struct
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from edge_agent.exporter.memory import Memory
from edge_agent.exporter.pace import Pace
from edge_agent.exporter.queue import Policy, Queue, Reachability
from edge_agent.exporter.retry import Backoff, Delivered, Outcome, Retry
from edge_agent.exporter.spool import Spool
from edge_agent.ledger import Ledger
from edge_agent.otlp.signal import Signal
from edge_agent.ring.record import (
    Ack,
    Committed,
    Entry,
    Oldest,
    Record,
    Ref,
    Totals,
)
from tests.fakes.inline import Inline

SCALE = 16
_BOOT = bytes(16)
# A sample of a host is 10 KB; an app sends about 2 KB of spans, and of log records, in 5 s.
BODY_BYTES = {
    Signal.METRICS: 10_000 // SCALE,
    Signal.TRACES: 2000 // SCALE,
    Signal.LOGS: 1984 // SCALE,
}
EVERY_S = {Signal.METRICS: 15.0, Signal.TRACES: 5.0, Signal.LOGS: 5.0}
ITEMS = {Signal.METRICS: 117, Signal.TRACES: 10, Signal.LOGS: 20}
LIVE_BYTES_PER_S = sum(BODY_BYTES[signal] / EVERY_S[signal] for signal in Signal)
_HEAD = struct.Struct("<HId")
_RECORD_ENTRIES = 24
_REFUSED_AFTER_S = 1.0
_ROUND_TRIP_S = 0.05


class MemoryStore:
    """What the ring does as far as the spool sees it, without a limit."""

    wants_commit = False
    usage = 0.0
    ratio = 0.1
    capacity_bytes = 1 << 30

    def __init__(self) -> None:
        self._records: dict[int, dict[int, dict[int, Entry]]] = {1: {}, 2: {}, 3: {}}
        self._open: dict[int, int] = {}
        self._next = 0
        self._sequence = 0

    def commit(
        self, appends: Sequence[tuple[int, Sequence[Entry]]], acks: Sequence[Ack]
    ) -> Committed:
        for ack in acks:
            record = self._records[ack.queue].get(ack.position, {})
            for index in record.copy() if ack.entries is None else ack.entries:
                record.pop(index, None)
            if not record:
                self._records[ack.queue].pop(ack.position, None)
                self._seal(ack.queue, ack.position)
        placed = [[self._append(queue, entry) for entry in entries] for queue, entries in appends]
        return Committed(placed, [], len(acks))

    def _append(self, queue: int, entry: Entry) -> Ref:
        position = self._open.get(queue)
        if position is None or max(self._records[queue][position]) + 1 >= _RECORD_ENTRIES:
            self._next += 1
            position = self._open[queue] = self._next
            self._records[queue][position] = {}
        record = self._records[queue][position]
        index = max(record, default=-1) + 1
        record[index] = entry
        return Ref(position, index)

    def _seal(self, queue: int, position: int) -> None:
        if self._open.get(queue) == position:
            del self._open[queue]

    def read(self, queue: int, *, newest: bool, skip: frozenset[int]) -> Record | None:
        records = self._records[queue]
        for position in reversed(records) if newest else records:
            if position not in skip:
                self._seal(queue, position)
                found = records[position]
                return Record(
                    queue, position, position * _RECORD_ENTRIES, _BOOT, tuple(found),
                    tuple(found.values()),
                )  # fmt: skip
        return None

    def totals(self) -> Mapping[int, Totals]:
        return {}

    def oldest(self, queue: int) -> Oldest | None:
        return None

    def close(self) -> None:
        pass


@dataclass(slots=True)
class Sink:
    """Serves `capacity` bytes a second while it is `up`, and writes down what came and when."""

    capacity: float
    up: bool = True
    busy_until_s: float = 0.0
    refused: int = 0
    # Bytes that came in each second, taken or not; and bytes that were taken.
    offered: Counter[int] = field(default_factory=Counter)
    taken: Counter[int] = field(default_factory=Counter)
    # (signal, agent, admitted, taken) of every request that was in a call.
    arrived: list[tuple[Signal, int, float, float]] = field(default_factory=list)
    # Metrics that came before older ones of the same agent.
    out_of_order: int = 0
    _newest: dict[int, int] = field(default_factory=dict)

    async def take(self, signal: Signal, body: bytes) -> Outcome:
        if not self.up:
            return Retry("unavailable: connection refused")
        now_s = asyncio.get_running_loop().time()
        self.offered[int(now_s)] += len(body)
        wait_s = max(0.0, self.busy_until_s - now_s)
        if wait_s > _REFUSED_AFTER_S:
            self.refused += 1
            await asyncio.sleep(_ROUND_TRIP_S)
            return Retry("unavailable: too busy")
        self.busy_until_s = now_s + wait_s + len(body) / self.capacity
        latency_s = self.busy_until_s - now_s + _ROUND_TRIP_S
        await asyncio.sleep(latency_s)
        done_s = now_s + latency_s
        self.taken[int(done_s)] += len(body)
        for at in range(0, len(body), BODY_BYTES[signal]):
            agent, number, admitted_s = _HEAD.unpack_from(body, at)
            self.arrived.append((signal, agent, admitted_s, done_s))
            if signal is Signal.METRICS:
                self.out_of_order += number <= self._newest.get(agent, -1)
                self._newest[agent] = number
        return Delivered(latency_s)


class Line:
    """The client of one queue: notes when the sink first took something after it had been away."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self.back_s = math.inf

    async def export(self, signal: Signal, body: bytes) -> Outcome:
        outcome = await self._sink.take(signal, body)
        if isinstance(outcome, Delivered) and self.back_s == math.inf:
            self.back_s = asyncio.get_running_loop().time()
        return outcome

    def reconnect(self) -> None:
        pass

    async def close(self) -> None:
        pass


class Eager(Pace):
    """What retries without thinking of others do: at once, and as fast as allowed."""

    def begin(self, outage_s: float, now_s: float, jitter: float) -> None:
        pass

    def acknowledged(self, latency_s: float, now_s: float) -> None:
        pass

    def refused(self, now_s: float) -> None:
        pass


class FleetAgent:
    """The queues of one agent."""

    def __init__(
        self, number: int, sink: Sink, rng: random.Random, pace: Callable[[float], Pace]
    ) -> None:
        clock = asyncio.get_running_loop().time
        self._number = number
        self._rng = rng
        self.spool = Spool(
            MemoryStore,
            flush_s=5.0,
            clock=clock,
            unix_nano=lambda: int(clock() * 1e9),
            boottime_nano=lambda: int(clock() * 1e9),
            boot_id=_BOOT,
            executor=Inline(),
        )
        self.memory = Memory((16 << 20) // SCALE, clock=clock, press=self.spool.press)
        peer = Reachability()
        ledger = Ledger()
        self.lines = {signal: Line(sink) for signal in Signal}
        self.queues = {}
        rate = (1 << 20) / SCALE
        for at, signal in enumerate((Signal.METRICS, Signal.TRACES, Signal.LOGS), 1):
            newest_first = signal is not Signal.METRICS
            queue = Queue(
                ledger.account("collector", signal),
                self.lines[signal],
                Policy(
                    newest_first=newest_first,
                    lanes=2 if newest_first else 1,
                    batch_items=512,
                    retry=True,
                    backoff=Backoff(1.0, 30.0),
                    max_elapsed_s=300.0,
                    drain_rate=rate,
                ),
                peer,
                self.memory,
                number=at,
                spool=self.spool,
                clock=clock,
                jitter=rng.random,
            )
            queue._pace = pace(rate)
            self.memory.share(queue, 0.25)
            self.queues[signal] = queue

    def start(self, tasks: asyncio.TaskGroup) -> None:
        """Everything that runs, for ever."""
        tasks.create_task(self.spool.run())
        for signal, queue in self.queues.items():
            tasks.create_task(queue.run())
            tasks.create_task(self._produce(signal, queue))

    async def _produce(self, signal: Signal, queue: Queue) -> None:
        clock = asyncio.get_running_loop().time
        padding = bytes(BODY_BYTES[signal] - _HEAD.size)
        await asyncio.sleep(self._rng.random() * EVERY_S[signal])
        number = 0
        while True:
            queue.put(_HEAD.pack(self._number, number, clock()) + padding, ITEMS[signal])
            number += 1
            await asyncio.sleep(EVERY_S[signal])


@dataclass(frozen=True, slots=True)
class Seen:
    """What came of an outage. Rates are real bytes a second, not scaled ones."""

    peak_rate: float
    steady_rate: float
    drained_in_s: float
    refused: int
    # The most that spans or log records were late, which were admitted after their queue was back.
    late_s: float
    # The same of all that were admitted once the sink was back.
    later_s: float
    out_of_order: int
    left: int


async def outage(
    agents: int,
    outage_s: float,
    *,
    capacity: float,
    pace: Callable[[float], Pace] = Pace,
    seed: int = 1,
) -> Seen:
    """An outage of the sink for all of them; `capacity` is in multiples of what they send live."""
    loop = asyncio.get_running_loop()
    rng = random.Random(seed)
    sink = Sink(capacity * agents * LIVE_BYTES_PER_S)
    fleet = [FleetAgent(number, sink, rng, pace) for number in range(agents)]
    with_tasks: list[asyncio.Task[None]] = []

    async def live() -> None:
        async with asyncio.TaskGroup() as tasks:
            for agent in fleet:
                agent.start(tasks)

    with_tasks.append(asyncio.create_task(live()))
    await asyncio.sleep(60)
    sink.up = False
    for agent in fleet:
        for line in agent.lines.values():
            line.back_s = -1.0
    await asyncio.sleep(outage_s)
    back_s = loop.time()
    for agent in fleet:
        for line in agent.lines.values():
            line.back_s = math.inf
    sink.up = True
    while any(q.held.has_backlog for agent in fleet for q in agent.queues.values()):
        await asyncio.sleep(1)
        if loop.time() - back_s > 7200:
            break
    drained_s = loop.time()
    await asyncio.sleep(60)
    left = sum(q.held.has_backlog for agent in fleet for q in agent.queues.values())
    with_tasks[0].cancel()
    await asyncio.wait(with_tasks)
    return _seen(sink, fleet, back_s, drained_s, left)


def _seen(sink: Sink, fleet: list[FleetAgent], back_s: float, drained_s: float, left: int) -> Seen:
    # Probes come within 30 s, and what they find begins within 30 s of that.
    ramped_s = min(back_s + 60, (back_s + drained_s) / 2)
    end_s = max(ramped_s + 1, back_s + (drained_s - back_s) * 0.9)
    steady = [sink.taken[second] for second in range(int(ramped_s), int(end_s))]
    back = {
        (signal, number): line.back_s
        for number, agent in enumerate(fleet)
        for signal, line in agent.lines.items()
    }
    live = [
        (admitted_s >= back[signal, agent], done_s - admitted_s)
        for signal, agent, admitted_s, done_s in sink.arrived
        if signal is not Signal.METRICS and admitted_s >= back_s
    ]
    return Seen(
        peak_rate=SCALE * max(sink.offered[s] for s in range(int(back_s), int(drained_s) + 1)),
        steady_rate=SCALE * sum(steady) / len(steady),
        drained_in_s=drained_s - back_s,
        refused=sink.refused,
        late_s=max((late_s for after, late_s in live if after), default=0.0),
        later_s=max((late_s for _, late_s in live), default=0.0),
        out_of_order=sink.out_of_order,
        left=left,
    )
