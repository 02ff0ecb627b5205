"""One transaction of the ring: acknowledge, drop, append, and count all of it.

Nothing here outlives the transaction: the ring takes over `state`, `opened` and `lost` once LMDB
has committed, and forgets them otherwise.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from edge_agent.ring import chunks
from edge_agent.ring.chunks import Txn
from edge_agent.ring.layout import Header, LayoutError, QueueState, State, weight
from edge_agent.ring.layout import chunks as count_chunks
from edge_agent.ring.pack import Numbered, Packer, describe, pack, unpack
from edge_agent.ring.policy import Budget, needed_pages, used_pages, victim
from edge_agent.ring.record import (
    CORRUPT,
    QUEUE_FULL,
    Account,
    Ack,
    Entry,
    Lost,
    Ref,
    Totals,
)


class SealedError(Exception):
    """The open record of `queue` is the one to drop: begin again without it."""

    def __init__(self, queue: int) -> None:
        super().__init__(queue)
        self.queue = queue


@dataclass(frozen=True, slots=True)
class Write:
    """A record to be written. `replaced` is what was there before, for the open one."""

    header: Header
    stored: bytes
    replaced: Header | None


@dataclass(slots=True)
class Plan:
    """What a transaction is to append. `refs` are by queue, for entries from where it began."""

    writes: list[Write] = field(default_factory=list)
    refs: dict[int, list[Ref | None]] = field(default_factory=dict)
    opened: dict[int, int] = field(default_factory=dict)
    bytes: int = 0


@dataclass(slots=True)
class Source:
    """All that is to be appended to a queue; entries before `start` are done."""

    entries: list[Entry] = field(default_factory=list)
    start: int = 0


class RingTransaction:
    """Changes to the ring inside `txn`. `opened` are the positions of the open records."""

    def __init__(
        self,
        txn: Txn,
        state: State,
        opened: Mapping[int, int],
        *,
        budget: Budget,
        floors: Mapping[int, float],
        boot_id: bytes,
    ) -> None:
        self._txn = txn
        self._queues = dict(state.queues)
        self._unclean_starts = state.unclean_starts
        self._budget = budget
        self._floors = floors
        self._boot_id = boot_id
        self._deletes = 0
        self._records = 0
        self._rewritten = 0
        self.opened = dict(opened)
        self.lost: list[Lost] = []

    @property
    def state(self) -> State:
        """The state record as it is to be."""
        return State(clean=False, unclean_starts=self._unclean_starts, queues=self._queues)

    @property
    def used(self) -> int:
        """Pages in use."""
        return used_pages(**self._txn.stat())

    # Acknowledging

    def acknowledge(self, ack: Ack) -> bool:
        """Forget what `ack` names; False when this transaction has done enough."""
        queue, position = ack.queue, ack.position
        try:
            head = chunks.header(self._txn, queue, position)
            if head is None or queue not in self._queues:
                return True
            if not self._may_delete(count_chunks(head.length)):
                return False
            if _covers(ack, head):
                self._acked(head, None)
            else:
                self._acknowledge_some(head, ack.entries or frozenset())
        except LayoutError:
            return self.drop_damaged(queue, position)
        return True

    def _acknowledge_some(self, head: Header, indexes: frozenset[int]) -> None:
        entries = unpack(head, chunks.stored(self._txn, head))
        kept = [(index, entry) for index, entry in entries if index not in indexes]
        if len(kept) == len(entries):
            return
        if not kept:
            self._acked(head, None)
            return
        packed = pack(kept)
        left = describe(
            packed,
            queue=head.queue,
            position=head.position,
            sequence=head.sequence,
            boot_id=head.boot_id,
            partial=True,
        )
        self._rewritten += packed.length
        chunks.write(self._txn, left, packed.stored, head)
        self._acked(head, left)

    def _acked(self, head: Header, left: Header | None) -> None:
        gone = head.totals
        stored = -weight(head.length)
        if left is None:
            self._deletes += chunks.delete(self._txn, head)
        else:
            gone -= left.totals
            stored += weight(left.length)
        self._records += 1
        account = self._queues[head.queue].account
        self._settle(head.queue, replace(account, acked=account.acked + gone), stored)
        self._seal(head.queue, head.position)

    # Dropping

    def drop_damaged(self, queue: int, position: int) -> bool:
        """Drop a record that cannot be read; False when this transaction has done enough."""
        if queue not in self._queues:
            return True
        try:
            head = chunks.header(self._txn, queue, position)
            if head is None:
                return True
            totals, stored = head.totals, weight(head.length)
        except LayoutError:
            # What it held is what is missing from all the others.
            totals, stored = self._unaccounted(queue)
        if not self._may_delete(1):
            return False
        limit = self._budget.deletes - self._deletes
        count, done = chunks.delete_keys(self._txn, queue, position, limit)
        self._deletes += count
        self._records += 1
        self._dropped(queue, position, CORRUPT, totals, stored)
        return done

    def _unaccounted(self, queue: int) -> tuple[Totals, int]:
        account = self._queues[queue].account
        totals, stored = account.live, account.stored_bytes
        with self._txn.cursor() as cursor:
            for position in chunks.positions(cursor, queue):
                try:
                    head = chunks.header(self._txn, queue, position)
                except LayoutError:
                    continue
                if head is not None:
                    totals -= head.totals
                    stored -= weight(head.length)
        return totals, stored

    def make_room(self, writes: Sequence[Write]) -> bool:
        """Drop the oldest until `writes` fit; False when this transaction has done enough.

        Raises SealedError when the oldest is one that `writes` replaces.
        """
        need = needed_pages(
            sum(weight(w.header.length) for w in writes),
            sum(weight(w.replaced.length) for w in writes if w.replaced is not None),
        )
        replaced = {(w.header.queue, w.header.position) for w in writes if w.replaced is not None}
        while self.used + need > self._budget.budget:
            stored = {n: queue.account.stored_bytes for n, queue in self._queues.items()}
            queue = victim(stored, self._floors, self._budget.capacity_bytes)
            if queue is None:
                break
            with self._txn.cursor() as cursor:
                position = chunks.after(cursor, queue)
            if position is None:
                # Records vanished, which no fault of the disk should bring about unseen.
                self._dropped(queue, 0, CORRUPT, *self._unaccounted(queue))
            elif (queue, position) in replaced:
                raise SealedError(queue)
            elif not self._drop_full(queue, position):
                return False
        return True

    def _drop_full(self, queue: int, position: int) -> bool:
        try:
            head = chunks.header(self._txn, queue, position)
        except LayoutError:
            return self.drop_damaged(queue, position)
        assert head is not None  # noqa: S101  (our bug: the cursor stood on it)
        if not self._may_delete(count_chunks(head.length)):
            return False
        self._deletes += chunks.delete(self._txn, head)
        self._dropped(queue, position, QUEUE_FULL, head.totals, weight(head.length))
        return True

    def _dropped(self, queue: int, position: int, reason: str, totals: Totals, stored: int) -> None:
        account = self._queues[queue].account
        dropped = {**account.dropped, reason: account.dropped[reason] + totals}
        self._settle(queue, replace(account, dropped=dropped), -stored)
        self._seal(queue, position)
        self.lost.append(Lost(queue, position, reason, totals.entries, totals.items, totals.bytes))

    # Appending

    def plan(self, sources: Mapping[int, Source], packers: Mapping[int, Packer]) -> Plan:
        """The records that come next, up to what one transaction may write."""
        plan = Plan(bytes=self._rewritten)
        for queue, source in sources.items():
            if source.start < len(source.entries) and plan.bytes < self._budget.group_bytes:
                self._plan_queue(plan, queue, source, packers[queue])
        return plan

    def _plan_queue(self, plan: Plan, queue: int, source: Source, packer: Packer) -> None:
        refs = plan.refs.setdefault(queue, [])
        state = self._queues[queue]
        next_position, sequence = state.next_position, state.next_sequence
        head, opened = self._open_record(queue)
        at = source.start
        while at < len(source.entries) and plan.bytes < self._budget.group_bytes:
            packed = packer.next(opened, source.entries, at)
            if packed is None:
                head, opened = None, []
                continue
            taken = len(packed.entries) - len(opened)
            at += taken
            plan.bytes += packed.length
            if packed.length > self._budget.record_bytes:
                refs.append(None)
                continue
            position = next_position if head is None else head.position
            header = describe(
                packed,
                queue=queue,
                position=position,
                sequence=sequence if head is None else head.sequence,
                boot_id=self._boot_id,
                partial=False,
            )
            plan.writes.append(Write(header, packed.stored, head))
            refs += [Ref(position, index) for index, _ in packed.entries[len(opened) :]]
            plan.opened.pop(queue, None)
            if packed.is_open:
                plan.opened[queue] = position
            next_position = max(next_position, position + 1)
            sequence += taken
            head, opened = None, []

    def _open_record(self, queue: int) -> tuple[Header | None, Sequence[Numbered]]:
        position = self.opened.get(queue)
        if position is None:
            return None, []
        try:
            head = chunks.header(self._txn, queue, position)
            if head is None:
                return None, []
            return head, unpack(head, chunks.stored(self._txn, head))
        except LayoutError:
            # Whoever reads it will find out, and count it.
            return None, []

    def append(self, plan: Plan) -> None:
        """Write the records of `plan`."""
        for write in plan.writes:
            header, replaced = write.header, write.replaced
            chunks.write(self._txn, header, write.stored, replaced)
            state = self._queues[header.queue]
            added, stored = header.totals, weight(header.length)
            if replaced is not None:
                added -= replaced.totals
                stored -= weight(replaced.length)
            account = replace(state.account, appended=state.account.appended + added)
            self._queues[header.queue] = QueueState(
                max(state.next_position, header.position + 1),
                state.next_sequence + added.entries,
                account,
            )
            self._settle(header.queue, account, stored)
            # Whatever was open before, the last record of a queue is the only one that may be.
            self.opened.pop(header.queue, None)
        self.opened.update(plan.opened)

    def _settle(self, queue: int, account: Account, stored: int) -> None:
        """Take over `account`, with `stored` bytes more on disk."""
        account = replace(account, stored_bytes=account.stored_bytes + stored)
        self._queues[queue] = replace(self._queues[queue], account=account)

    def _seal(self, queue: int, position: int) -> None:
        if self.opened.get(queue) == position:
            del self.opened[queue]

    def _may_delete(self, count: int) -> bool:
        if not self._deletes and not self._records:
            return True
        return (
            self._deletes + count <= self._budget.deletes
            and self._records < self._budget.records
            and self._rewritten < self._budget.group_bytes
        )


def _covers(ack: Ack, head: Header) -> bool:
    """Whether `ack` is for all of the record, as far as can be told without reading it."""
    if ack.entries is None:
        return True
    return not head.partial and all(index in ack.entries for index in range(head.entries))
