"""What a queue holds, whatever happens to it in whatever order; its ring is a dict.

Every request is told apart by its body; its items and size are drawn. The invariants are those that
the ledger, the bound of RAM and the flush stand on.
"""

from dataclasses import replace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from edge_agent.exporter.held import Held
from edge_agent.exporter.request import Request
from edge_agent.ring.record import Entry, Lost, Record, Ref, Totals

BOOT = bytes(16)


def request(number: int, items: int = 1, size: int = 10) -> Request:
    """Number `number`, of `size` bytes."""
    return Request(bytes([number % 256]) * size, items, size, (number,), float(number))


class HeldMachine(RuleBasedStateMachine):
    """One queue: `alive` are the bodies that were neither settled nor lost."""

    def __init__(self) -> None:
        super().__init__()
        self.number = 0
        self.position = 0
        # The ring: position -> index -> entry.
        self.ring: dict[int, dict[int, Entry]] = {}
        self.calls: list[list[Request]] = []
        self.alive_items = 0
        self.alive_bytes = 0

    @initialize(newest_first=st.booleans(), restored=st.integers(0, 3))
    def open(self, newest_first: bool, restored: int) -> None:
        self.held = Held(1, newest_first=newest_first)
        for _ in range(restored):
            entry = Entry(b"r" * 7, 2, 7, 1, 1)
            self.position += 1
            self.ring[self.position] = {0: entry, 1: entry}
            self.held.restore(Totals(1, 2, 4, 14))
            self.alive_items += 4
            self.alive_bytes += 14

    def _new(self, items: int, size: int) -> Request:
        self.number += 1
        self.alive_items += items
        self.alive_bytes += size
        return request(self.number, items, size)

    @rule(items=st.integers(1, 5), size=st.integers(2, 40))
    def add(self, items: int, size: int) -> None:
        self.held.add(self._new(items, size))

    @rule(items=st.integers(1, 5), size=st.integers(2, 40))
    def adopt(self, items: int, size: int) -> None:
        new = self._new(items, size)
        self.held.adopt(new, self._append([new])[0])

    def _append(self, requests: list[Request]) -> list[Ref]:
        self.position += 1
        self.ring[self.position] = {
            index: Entry(r.body, r.items, r.size, 1, 1) for index, r in enumerate(requests)
        }
        return [Ref(self.position, index) for index in range(len(requests))]

    @precondition(lambda self: self.held.has_fresh)
    @rule(most=st.integers(1, 12))
    def call(self, most: int) -> None:
        self.calls.append(self.held.take(most, 60, staged=False))

    @precondition(lambda self: self.held.has_staged)
    @rule(most=st.integers(1, 12))
    def call_backlog(self, most: int) -> None:
        self.calls.append(self.held.take(most, 60, staged=True))

    @precondition(lambda self: self.calls)
    @rule(data=st.data())
    def deliver(self, data: st.DataObject) -> None:
        batch = self.calls.pop(data.draw(st.integers(0, len(self.calls) - 1)))
        self.held.settle(batch)
        self.alive_items -= sum(r.items for r in batch)
        self.alive_bytes -= sum(r.size for r in batch)

    @precondition(lambda self: self.calls)
    @rule(data=st.data())
    def fail(self, data: st.DataObject) -> None:
        batch = self.calls.pop(data.draw(st.integers(0, len(self.calls) - 1)))
        staged = batch[0].staged
        self.held.give_back(batch)
        if staged:
            self.held.unstage()

    @precondition(lambda self: any(len(b) == 1 and b[0].items > 1 for b in self.calls))
    @rule()
    def cut(self) -> None:
        batch = next(b for b in self.calls if len(b) == 1 and b[0].items > 1)
        (whole,) = batch
        half = whole.size // 2
        parts = ((1, half), (whole.items - 1, whole.size - half))
        pieces = [
            replace(
                whole, body=whole.body[:size], items=items, size=size,
                order=(*whole.order, at), whole=False,
            )
            for at, (items, size) in enumerate(parts)
        ]  # fmt: skip
        self.held.replace(whole, pieces)
        self.calls.remove(batch)
        self.calls += [[piece] for piece in pieces]

    @rule(room=st.booleans(), during=st.booleans())
    def save(self, room: bool, during: bool) -> None:
        """A commit, and a call that may end while it is written; without room nothing is placed."""
        unsaved, acks = self.held.unsaved(), self.held.loans.acks()
        for ack in acks:
            for index in ack.entries or ():
                self.ring.get(ack.position, {}).pop(index, None)
            if not self.ring.get(ack.position, {0: None}):
                del self.ring[ack.position]
        refs = self._append(unsaved) if room and unsaved else [None] * len(unsaved)
        if during and self.calls:
            batch = self.calls.pop()
            self.held.settle(batch)
            self.alive_items -= sum(r.items for r in batch)
            self.alive_bytes -= sum(r.size for r in batch)
        for ack in acks:
            self.held.loans.acknowledged(ack)
        self.held.saved(unsaved, refs)

    @precondition(lambda self: self.held.shelved_items and not self.held.has_staged)
    @rule(newest=st.booleans())
    def stage(self, newest: bool) -> None:
        skip = self.held.loans.positions()
        free = [position for position in sorted(self.ring) if position not in skip]
        if not free:
            return
        position = free[-1 if newest else 0]
        found = self.ring[position]
        record = Record(1, position, position, BOOT, tuple(found), tuple(found.values()))
        self.held.stage(record, [0.0] * len(found))

    @precondition(lambda self: self.ring)
    @rule(data=st.data())
    def lose(self, data: st.DataObject) -> None:
        """The ring drops a record; what is of it in RAM lives on."""
        position = data.draw(st.sampled_from(sorted(self.ring)))
        gone = self.ring.pop(position)
        lost = Lost(
            1, position, "queue_full", len(gone),
            sum(e.items for e in gone.values()), sum(e.size for e in gone.values()),
        )  # fmt: skip
        items, size = self.held.lost(lost)
        assert 0 <= items <= lost.items
        assert 0 <= size <= lost.bytes
        self.alive_items -= items
        self.alive_bytes -= size

    @rule()
    def shed(self) -> None:
        had = self.held.has_fresh
        oldest = self.held.shed_oldest()
        assert (oldest is not None) is had
        if oldest is not None and oldest.gone:
            self.alive_items -= oldest.items
            self.alive_bytes -= oldest.size

    @rule()
    def cut_short(self) -> None:
        """As at the end of a drain: all calls are cut short."""
        self.held.give_back(self.held.in_flight())
        self.calls.clear()
        assert not self.held.in_flight()

    @invariant()
    def counts(self) -> None:
        if not hasattr(self, "held"):
            return
        held = self.held
        assert (held.items, held.bytes) == (self.alive_items, self.alive_bytes)
        assert held.unsaved_bytes == sum(len(r.body) for r in held.unsaved())
        assert held.shelved_items >= 0
        assert held.ram_bytes >= held.unsaved_bytes
        assert bool(held) == (held.items > 0)
        assert (held.oldest_unsaved_s() is None) == (not held.unsaved_bytes)
        assert [r.order for r in held.unsaved()] == sorted(r.order for r in held.unsaved())
        if not (held.has_fresh or held.has_staged or held.in_flight()):
            assert held.ram_bytes == 0
            assert held.oldest_s() is None
            assert held.shelved_items == held.items
        assert held.in_ring or not held.shelved_items
        assert held.has_backlog == (held.has_staged or held.shelved_items > 0)


HeldMachine.TestCase.settings = settings(max_examples=80, stateful_step_count=30, deadline=None)
TestHeld = HeldMachine.TestCase


def test_a_batch_is_in_order_of_admission_and_from_the_end_that_goes_first() -> None:
    """Oldest first from the front, newest first from the back; never less than one request."""
    for newest_first, expected in ((False, [1, 2]), (True, [3, 4])):
        held = Held(1, newest_first=newest_first)
        for number in range(1, 5):
            held.add(request(number))
        assert [r.order[0] for r in held.take(2, 100, staged=False)] == expected
        assert len(held.take(0, 0, staged=False)) == 1


def test_at_the_end_only_what_memory_alone_has_is_given_up() -> None:
    """The rest is in the ring, and read by the next run."""
    held = Held(1, newest_first=True)
    held.add(request(1))
    held.adopt(request(2), Ref(1, 0))
    assert [r.order for r in held.abandon()] == [(1,)]
    assert (held.items, held.shelved_items, held.ram_bytes) == (1, 1, 0)


def test_what_was_read_and_then_lost_by_the_ring_waits_in_memory() -> None:
    """The oldest record is both the next to be dropped and the next to be sent."""
    held = Held(1, newest_first=False)
    entry = Entry(b"body", 1, 4, 1, 1)
    held.restore(Totals(1, 2, 2, 8))
    held.stage(Record(1, 5, 0, BOOT, (0, 1), (entry, entry)), [1.0, 2.0])
    batch = held.take(1, 100, staged=True)
    assert held.lost(Lost(1, 5, "queue_full", 2, 2, 8)) == (0, 0)
    held.give_back(batch)
    held.unstage()
    assert (held.items, held.unsaved_bytes) == (2, 8)
    held.saved(held.unsaved(), [Ref(6, 0), Ref(6, 1)])
    held.unstage()
    assert (held.items, held.unsaved_bytes, held.ram_bytes, held.shelved_items) == (2, 0, 0, 2)
