"""The four queues against plain lists, whatever is done to them: RING.md's invariants, with floors.

The long form runs under `make torture`.
"""

import os
import shutil
import tempfile

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from edge_agent.ring.opening import DATA
from edge_agent.ring.record import Ack
from edge_agent.ring.store import Ring
from tests.agent.ring.model import FLOORS, MIB, Model, check_pages, entry, open_small

QUEUE = st.sampled_from(sorted(FLOORS))
# Around what fits into a leaf, a page, the open record, a record, and what never fits.
SIZES = st.one_of(
    st.integers(0, 300),
    st.integers(1900, 2100),
    st.integers(3900, 4100),
    st.integers(16_000, 16_500),
    st.integers(0, 66_000),
)
ENTRIES = st.lists(st.tuples(SIZES, st.booleans(), st.integers(0, 9)), max_size=12)
MEMORY = "/dev/shm"


class Rings(RuleBasedStateMachine):
    """Whatever an agent may do, in any order."""

    ring: Ring

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.mkdtemp(dir=MEMORY if os.access(MEMORY, os.W_OK) else None)
        self.path = os.path.join(self.directory, "ring")
        self.model = Model()
        self.number = 0
        self.mib = 2
        self.changed = False

    @initialize(mib=st.sampled_from([2, 3]), strict=st.booleans())
    def create(self, mib: int, strict: bool) -> None:
        self.mib = mib
        self.ring, opening = open_small(self.path, mib, strict=strict)
        assert opening.created
        assert not opening.unclean

    def entries(self, described: list[tuple[int, bool, int]]) -> list[object]:
        made = []
        for size, noisy, items in described:
            self.number += 1
            made.append(entry(self.number, size, noisy=noisy, items=items))
        return made

    def commit(self, appends: list[tuple[int, list[object]]], acks: list[Ack]) -> None:
        before = {number: self.ring.account(number).stored_bytes for number in FLOORS}
        committed = self.ring.commit(appends, acks)
        self.model.committed(appends, acks, committed)
        for (_, entries), refs in zip(appends, committed.placed, strict=True):
            for one, ref in zip(entries, refs, strict=True):
                if ref is None:
                    assert len(one.body) > self.ring.record_bytes - 200
        written = sum(len(one.body) for _, entries in appends for one in entries)
        for lost in committed.lost:
            floor = FLOORS[lost.queue] * self.ring.capacity_bytes
            assert before[lost.queue] + written > floor, "lost below its floor"
        if committed.lost:
            assert self.ring.usage > 0.6
        if acks or any(entries for _, entries in appends):
            self.changed = True

    @rule(groups=st.lists(st.tuples(QUEUE, ENTRIES), max_size=4), data=st.data())
    def append_and_acknowledge(
        self, groups: list[tuple[int, list[tuple[int, bool, int]]]], data: st.DataObject
    ) -> None:
        acks = []
        for _ in range(data.draw(st.integers(0, 3))):
            queue = data.draw(QUEUE)
            records = self.model.queues[queue].records
            if not records or data.draw(st.integers(0, 9)) == 0:
                # Gone, or never there.
                acks.append(Ack(queue, data.draw(st.integers(0, 30)), None))
                continue
            record = data.draw(st.sampled_from(records))
            some = st.frozensets(st.sampled_from([*record.entries, 99]))
            acks.append(Ack(queue, record.position, data.draw(st.one_of(st.none(), some))))
        self.commit([(queue, self.entries(described)) for queue, described in groups], acks)

    @rule(queue=QUEUE, size=st.sampled_from([100, 4000, 30_000, 60_000]), noisy=st.booleans())
    def fill(self, queue: int, size: int, noisy: bool) -> None:
        """A group that takes several transactions."""
        self.commit([(queue, self.entries([(size, noisy, 2)] * (600_000 // size // 3)))], [])

    @rule(queue=QUEUE)
    def acknowledge_all(self, queue: int) -> None:
        records = self.model.queues[queue].records
        self.commit([], [Ack(queue, record.position) for record in records] * 2)
        assert not self.model.queues[queue].records

    @rule(queue=QUEUE, newest=st.booleans(), data=st.data())
    def read(self, queue: int, newest: bool, data: st.DataObject) -> None:
        positions = [record.position for record in self.model.queues[queue].records]
        skip: frozenset[int] = frozenset()
        if positions:
            skip = data.draw(st.frozensets(st.sampled_from(positions), max_size=4))
        self.model.read(self.ring, queue, newest=newest, skip=skip)
        # Reading has no side effect but that the record is not appended to.
        self.model.read(self.ring, queue, newest=newest, skip=skip)

    @rule(clean=st.booleans(), mib=st.sampled_from([2, 2, 3, 4]), strict=st.booleans())
    def reopen(self, clean: bool, mib: int, strict: bool) -> None:
        self.ring.close(clean=clean)
        check_pages(self.path)
        self.ring, opening = open_small(self.path, mib, strict=strict)
        self.mib = mib
        assert (opening.created, opening.moved_aside, opening.reason) == (False, "", "")
        assert opening.unclean == (self.changed and not clean)
        if clean:
            self.changed = False
        self.model.trimmed(self.ring, opening.trimmed)
        self.model.reopened()

    @invariant()
    def agrees(self) -> None:
        self.model.check(self.ring)
        assert os.path.getsize(os.path.join(self.path, DATA)) == self.mib * MIB
        assert self.ring.map_full == 0
        assert 0 <= self.ring.usage <= 1

    def teardown(self) -> None:
        if hasattr(self, "ring"):
            self.model.read_all(self.ring)
            self.ring.close()
            check_pages(self.path)
        shutil.rmtree(self.directory)


def _run(examples: int) -> None:
    run_state_machine_as_test(
        Rings,
        settings=settings(
            max_examples=examples,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.timeout(600)
def test_the_ring_is_four_lists_with_floors() -> None:
    """Totals, contents, order, sizes and pages, after every step and every reopening."""
    _run(400)


@pytest.mark.torture
@pytest.mark.timeout(0)
def test_the_ring_is_four_lists_with_floors_for_hours() -> None:
    """The same, 20,000 times."""
    _run(20_000)
