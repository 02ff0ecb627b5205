"""The ring as plain lists, and what the real one must have in common with it."""

import os
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import lmdb.verify

from edge_agent.ring.opening import DATA, Opening, check_file, open_ring
from edge_agent.ring.record import (
    CORRUPT,
    NOTHING,
    QUEUE_FULL,
    Ack,
    Committed,
    Entry,
    Ref,
    Totals,
)
from edge_agent.ring.store import Ring

FLOORS = {1: 0.25, 2: 0.15, 3: 0.10, 4: 0.15}
BOOT = bytes(range(16))
MIB = 1 << 20

_NOISE = random.Random(7).randbytes(1 << 20)


def entry(number: int, size: int, *, noisy: bool = True, items: int = 1) -> Entry:
    """An entry of `size` bytes that differs from all others; noise does not deflate."""
    name = b"%08d" % number
    start = number * 7919 % (len(_NOISE) - size)
    body = _NOISE[start : start + size] if noisy else b"a" * size
    return Entry(name + body, items, 8 + size + number % 3, 10**18 + number, number, number % 5)


def open_small(path: str, mib: int = 2, **options: object) -> tuple[Ring, Opening]:
    """A ring with the queues of the agent."""
    settings = {"floors": FLOORS, "boot_id": BOOT, "max_bytes": mib * MIB, **options}
    return open_ring(path, **settings)


def check_pages(path: str) -> None:
    """The file is good for us and for LMDB's own verifier: no page is lost or used twice."""
    data = os.path.join(path, DATA)
    check_file(data)
    assert lmdb.verify.verify(data) == []


@dataclass
class Held:
    """A record: its sequence, and the entries that are left by index."""

    position: int
    sequence: int
    entries: dict[int, Entry] = field(default_factory=dict)

    @property
    def totals(self) -> Totals:
        held = self.entries.values()
        return Totals(1, len(held), sum(e.items for e in held), sum(e.size for e in held))


@dataclass
class Queue:
    """Live records, oldest first, and what became of the others."""

    records: list[Held] = field(default_factory=list)
    appended: Totals = NOTHING
    acked: Totals = NOTHING
    dropped: dict[str, Totals] = field(
        default_factory=lambda: {QUEUE_FULL: NOTHING, CORRUPT: NOTHING}
    )
    sequence: int = 0
    sealed: int = -1


class Model:
    """Four queues. `check` says where the ring differs."""

    def __init__(self) -> None:
        self.queues = {number: Queue() for number in FLOORS}

    def find(self, queue: int, position: int) -> Held | None:
        return next((r for r in self.queues[queue].records if r.position == position), None)

    def committed(
        self,
        appends: Sequence[tuple[int, Sequence[Entry]]],
        acks: Sequence[Ack],
        committed: Committed,
    ) -> None:
        """What a commit said it has done, in the order in which it does it."""
        assert committed.error is None
        assert committed.acked == len(acks)
        for ack in acks:
            self._ack(ack)
        # Where a group took several transactions, what the first ones wrote may be lost already.
        for (queue, entries), refs in zip(appends, committed.placed, strict=True):
            assert len(refs) == len(entries)
            for one, ref in zip(entries, refs, strict=True):
                if ref is not None:
                    self._append(queue, one, ref)
        for lost in committed.lost:
            queue = self.queues[lost.queue]
            oldest = queue.records.pop(0)
            assert (lost.position, lost.reason) == (oldest.position, QUEUE_FULL)
            totals = oldest.totals
            assert (lost.entries, lost.items, lost.bytes) == (
                totals.entries,
                totals.items,
                totals.bytes,
            )
            queue.dropped[QUEUE_FULL] += totals

    def _append(self, number: int, one: Entry, ref: Ref) -> None:
        queue = self.queues[number]
        if not queue.records or queue.records[-1].position != ref.position:
            assert ref.index == 0
            assert all(record.position < ref.position for record in queue.records[-1:])
            assert ref.position > queue.sealed
            queue.records.append(Held(ref.position, queue.sequence))
            queue.appended += Totals(records=1)
        record = queue.records[-1]
        assert ref.position > queue.sealed, "appended to a record that was read or cut"
        assert queue.sequence == record.sequence + ref.index
        record.entries[ref.index] = one
        queue.sequence += 1
        queue.appended += Totals(0, 1, one.items, one.size)

    def _ack(self, ack: Ack) -> None:
        queue = self.queues[ack.queue]
        record = self.find(ack.queue, ack.position)
        if record is None:
            return
        before = record.totals
        gone = set(record.entries) if ack.entries is None else set(ack.entries)
        record.entries = {i: e for i, e in record.entries.items() if i not in gone}
        if not record.entries:
            queue.records.remove(record)
            queue.acked += before
        else:
            queue.acked += before - record.totals
        if before.entries != record.totals.entries:
            queue.sealed = max(queue.sealed, ack.position)

    def reopened(self) -> None:
        """Nothing is appended to what was there before."""
        for queue in self.queues.values():
            if queue.records:
                queue.sealed = queue.records[-1].position

    def trimmed(self, ring: Ring, trimmed: Mapping[int, Totals]) -> None:
        """The ring was made smaller, and the oldest of each queue went."""
        for number, totals in trimmed.items():
            queue = self.queues[number]
            gone = NOTHING
            while gone.records < totals.records:
                gone += queue.records.pop(0).totals
            assert gone == totals
            queue.dropped[QUEUE_FULL] += gone

    def check(self, ring: Ring) -> None:
        """The totals balance and are ours."""
        for number, queue in self.queues.items():
            account = ring.account(number)
            live = sum((record.totals for record in queue.records), NOTHING)
            assert account.appended == queue.appended
            assert account.acked == queue.acked
            assert {r: account.dropped.get(r, NOTHING) for r in queue.dropped} == queue.dropped
            assert account.live == live == ring.totals()[number]
            oldest = ring.oldest(number)
            assert (oldest is None) == (not queue.records)
            if oldest is not None:
                first = next(iter(queue.records[0].entries.values()))
                assert (oldest.unix_nano, oldest.boottime_nano) == (
                    first.unix_nano,
                    first.boottime_nano,
                )
                assert oldest.boot_id == BOOT

    def read(
        self, ring: Ring, number: int, *, newest: bool, skip: frozenset[int] = frozenset()
    ) -> None:
        """The ring reads what we have, to the byte."""
        queue = self.queues[number]
        candidates = [record for record in queue.records if record.position not in skip]
        record = ring.read(number, newest=newest, skip=skip)
        if not candidates:
            assert record is None
            return
        expected = candidates[-1 if newest else 0]
        assert record is not None
        assert (record.queue, record.position) == (number, expected.position)
        assert record.sequence == expected.sequence
        assert record.boot_id == BOOT
        assert dict(zip(record.indexes, record.entries, strict=True)) == expected.entries
        assert list(record.indexes) == sorted(record.indexes)
        queue.sealed = max(queue.sealed, record.position)

    def read_all(self, ring: Ring) -> None:
        """Everything, oldest first."""
        for number, queue in self.queues.items():
            positions = [record.position for record in queue.records]
            for place in range(len(positions) + 1):
                self.read(ring, number, newest=False, skip=frozenset(positions[:place]))
