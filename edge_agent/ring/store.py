"""The ring: four first-in first-out queues in one LMDB file of a fixed size.

    ring, opening = open_ring(path, max_bytes=..., floors=..., boot_id=...)      (opening.py)
    committed = ring.commit(appends, acks)      one durable transaction
    record = ring.read(queue, newest=True)      a copy; acknowledged with a later commit
    ring.close()

Blocking, and for one thread at a time: LMDB ties a write transaction to its thread. Read
transactions end before anything is returned, because an open one stops pages from being used again.
"""

import errno
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field, replace

import lmdb

from edge_agent.ring import chunks
from edge_agent.ring.chunks import Txn
from edge_agent.ring.environment import (
    as_ring_error,
    live_readers,
    open_environment,
    read_state,
    ring_errors,
)
from edge_agent.ring.layout import STATE_KEY, Header, LayoutError, State, pack_state
from edge_agent.ring.pack import Packer
from edge_agent.ring.pack import record as unpack_record
from edge_agent.ring.policy import Budget, used_pages
from edge_agent.ring.record import (
    Account,
    Ack,
    Committed,
    Entry,
    Lost,
    Oldest,
    Record,
    Ref,
    RingError,
    Totals,
)
from edge_agent.ring.transaction import RingTransaction, SealedError, Source


@dataclass(slots=True)
class _Work:
    """A commit under way, and how far it is durable."""

    appends: Sequence[tuple[int, Sequence[Entry]]]
    acks: Sequence[Ack]
    sources: dict[int, Source] = field(default_factory=dict)
    refs: dict[int, list[Ref | None]] = field(default_factory=dict)
    lost: list[Lost] = field(default_factory=list)
    acked: int = 0
    steps: int = 0

    def __post_init__(self) -> None:
        for queue, entries in self.appends:
            self.sources.setdefault(queue, Source()).entries.extend(entries)
            self.refs.setdefault(queue, [])

    @property
    def done(self) -> bool:
        return self.acked == len(self.acks) and all(
            source.start == len(source.entries) for source in self.sources.values()
        )

    def committed(self, error: RingError | None = None) -> Committed:
        placed = []
        given = {queue: iter(refs) for queue, refs in self.refs.items()}
        for queue, entries in self.appends:
            placed.append([next(given[queue], None) for _ in entries])
        return Committed(placed, self.lost, self.acked, error)


class Ring:
    """An open ring; `opening.open_ring` makes it.

    With `strict` a commit is durable when it returns; without, the last one may be lost in a power
    cut (and nothing else), which saves a flush each.
    """

    def __init__(
        self,
        path: str,
        state: State,
        *,
        budget: Budget,
        max_bytes: int,
        floors: Mapping[int, float],
        boot_id: bytes,
        strict: bool,
    ) -> None:
        self._path = path
        self._state = state.with_queues(floors)
        self._budget = budget
        self._max_bytes = max_bytes
        self._floors = floors
        self._boot_id = boot_id
        self._strict = strict
        self._packers = {queue: Packer(budget.record_bytes) for queue in self._state.queues}
        self._opened: dict[int, int] = {}
        self._damaged: set[tuple[int, int]] = set()
        self._environment: lmdb.Environment | None = None
        self._used = used_pages(**self._open().stat())
        self._ratio = 1.0
        self.map_full = 0
        """How often the budget was wrong, and LMDB's map full without anybody reading: never."""

    def _open(self) -> lmdb.Environment:
        if self._environment is None:
            self._environment = open_environment(
                self._path, self._budget.map_bytes, strict=self._strict
            )
        return self._environment

    # Writing

    def commit(
        self, appends: Sequence[tuple[int, Sequence[Entry]]], acks: Sequence[Ack] = ()
    ) -> Committed:
        """Acknowledge `acks` and append to queues, dropping the oldest for room, durably.

        One transaction, or several where the group is larger than one may be. Raises RingError if
        none of it was done: the ring is as it was, and it can be tried again. Queues that the ring
        was not opened with are our mistake (KeyError).
        """
        for queue, _ in appends:
            self._packers[queue]
        work = _Work(appends, acks)
        retries = 0
        while not work.done or self._damaged:
            try:
                self._step(work)
            except SealedError as sealed:
                self._opened.pop(sealed.queue, None)
            except (lmdb.Error, OSError) as error:
                try:
                    self._recover(error, retries)
                except RingError as problem:
                    if work.steps:
                        return work.committed(problem)
                    raise
                retries += 1
        return work.committed()

    def _step(self, work: _Work) -> None:
        with self._open().begin(write=True, buffers=True) as txn:
            step = self._begin(txn, self._budget)
            damaged = sorted(self._damaged)
            while damaged and step.drop_damaged(*damaged[0]):
                del damaged[0]
            acked = work.acked
            while not damaged and acked < len(work.acks) and step.acknowledge(work.acks[acked]):
                acked += 1
            plan = None
            if not damaged and acked == len(work.acks):
                plan = step.plan(work.sources, self._packers)
                if not plan.writes or step.make_room(plan.writes):
                    step.append(plan)
                else:
                    plan = None
                    self._refuse_readers()
            state, used = self._put_state(txn, step)
        self._adopt(step, state, used)
        self._damaged = set(damaged)
        work.steps += 1
        work.acked = acked
        work.lost += step.lost
        for queue, refs in plan.refs.items() if plan is not None else ():
            work.refs[queue] += refs
            work.sources[queue].start += len(refs)

    def _begin(self, txn: Txn, budget: Budget) -> RingTransaction:
        return RingTransaction(
            txn,
            self._state,
            self._opened,
            budget=budget,
            floors=self._floors,
            boot_id=self._boot_id,
        )

    def _put_state(self, txn: Txn, step: RingTransaction) -> tuple[State, int]:
        state = step.state
        txn.put(STATE_KEY, pack_state(state))
        return state, step.used

    def _adopt(self, step: RingTransaction, state: State, used: int) -> None:
        self._state, self._opened, self._used = state, step.opened, used

    def probe(self) -> None:
        """Write the state once more, for whether the disk takes anything. Raises RingError."""
        try:
            with self._open().begin(write=True) as txn:
                txn.put(STATE_KEY, pack_state(replace(self._state, clean=False)))
            self._state = replace(self._state, clean=False)
        except (lmdb.Error, OSError) as error:
            self._recover(error, retries=3)
            raise as_ring_error(error) from error

    def trim(self, smaller: Budget) -> dict[int, Totals]:
        """Drop the oldest until the rest fits `smaller`; what that was, by queue.

        Raises RingError, and then some of it may be done."""
        trimmed: dict[int, Totals] = {}
        done = False
        while not done:
            with ring_errors(), self._open().begin(write=True, buffers=True) as txn:
                step = self._begin(txn, replace(self._budget, budget=smaller.budget))
                done = step.make_room(())
                state, used = self._put_state(txn, step)
            self._adopt(step, state, used)
            for lost in step.lost:
                totals = Totals(1, lost.entries, lost.items, lost.bytes)
                trimmed[lost.queue] = trimmed.get(lost.queue, Totals()) + totals
        return trimmed

    def count_unclean_start(self) -> None:
        """Write down that the last run did not end in order. Raises RingError."""
        state = replace(self._state, clean=False, unclean_starts=self._state.unclean_starts + 1)
        with ring_errors(), self._open().begin(write=True) as txn:
            txn.put(STATE_KEY, pack_state(state))
        self._state = state

    def _refuse_readers(self) -> None:
        # This transaction drops, and the next was to write what that makes room for. While somebody
        # reads there will be no room, and data would be dropped for nothing.
        if live_readers(self._open()):
            raise RingError(errno.EBUSY, f"the ring in {self._path} is being read and full")

    def _recover(self, error: lmdb.Error | OSError, retries: int) -> None:
        """Make the ring usable again after `error`, and return if it is worth trying at once."""
        self._opened = {}
        if isinstance(error, lmdb.MapFullError):
            self._recover_space(retries)
            return
        # LMDB refuses everything after a failed write of its header, until it is opened again.
        self._shut()
        with ring_errors():
            self._state = read_state(self._open()).with_queues(self._state.queues)
        if not isinstance(error, lmdb.PanicError) or retries > 2:
            raise as_ring_error(error)

    def _recover_space(self, retries: int) -> None:
        environment = self._open()
        if environment.reader_check():
            # Readers that were killed kept pages from being used again.
            return
        if live_readers(environment):
            raise RingError(errno.EBUSY, f"the ring in {self._path} is being read and full")
        self.map_full += 1
        if retries > 2:
            raise RingError(errno.ENOSPC, f"the ring in {self._path} is full beyond its budget")
        environment.set_mapsize(self._max_bytes)

    def _shut(self) -> None:
        environment, self._environment = self._environment, None
        if environment is not None:
            environment.close()

    def close(self, *, clean: bool = True) -> None:
        """Close the ring; `clean` says in it that this was in order. Raises RingError."""
        try:
            if clean and not self._state.clean:
                environment = self._open()
                state = replace(self._state, clean=True)
                with ring_errors():
                    with environment.begin(write=True) as txn:
                        txn.put(STATE_KEY, pack_state(state))
                    environment.sync(force=True)
                self._state = state
        finally:
            self._shut()

    # Reading

    def read(self, queue: int, *, newest: bool, skip: Container[int] = ()) -> Record | None:
        """The oldest, or the newest, record of `queue` whose position is not in `skip`.

        Nothing more is appended to it. One that is damaged is passed over, and dropped and counted
        by the next commit: see `wants_commit`. Raises RingError.
        """
        with ring_errors():
            while True:
                found = self._find(queue, newest=newest, skip=skip)
                if found is None:
                    return None
                position, head, payload = found
                try:
                    record = None if head is None else unpack_record(head, payload)
                except LayoutError:
                    record = None
                if record is None:
                    self._damaged.add((queue, position))
                    continue
                if self._opened.get(queue) == position:
                    del self._opened[queue]
                return record

    def _find(
        self, queue: int, *, newest: bool, skip: Container[int]
    ) -> tuple[int, Header | None, bytes] | None:
        with self._open().begin(buffers=True) as txn, txn.cursor() as cursor:
            for position in chunks.positions(cursor, queue, newest=newest):
                if position in skip or (queue, position) in self._damaged:
                    continue
                try:
                    head = chunks.header(txn, queue, position)
                    assert head is not None  # noqa: S101  (our bug: the cursor stood on it)
                    return position, head, chunks.stored(txn, head)
                except LayoutError:
                    return position, None, b""
        return None

    # The numbers

    @property
    def wants_commit(self) -> bool:
        """Whether damaged records wait to be counted by a commit, be it an empty one."""
        return bool(self._damaged)

    def account(self, queue: int) -> Account:
        """All that ever became of `queue`."""
        return self._state.queues[queue].account

    def totals(self) -> Mapping[int, Totals]:
        """What is held, by queue."""
        return {number: queue.account.live for number, queue in self._state.queues.items()}

    def oldest(self, queue: int) -> Oldest | None:
        """The oldest entry of `queue`; None without. Raises RingError."""
        with ring_errors(), self._open().begin(buffers=True) as txn:
            return chunks.oldest(txn, queue)

    @property
    def unclean_starts(self) -> int:
        """How often in its life the ring was found without having been closed in order."""
        return self._state.unclean_starts

    @property
    def usage(self) -> float:
        """What is in use, 0 to 1; at 1 the next append drops."""
        return min(1.0, (self._used - used_pages()) / self._budget.drops_at)

    @property
    def capacity_bytes(self) -> int:
        """Bytes on disk at which dropping begins."""
        return self._budget.capacity_bytes

    @property
    def record_bytes(self) -> int:
        """The most that an entry may take on disk, deflated, with its header."""
        return self._budget.record_bytes

    @property
    def ratio(self) -> float:
        """Bytes on disk for a byte of payload: of what is held, else as last known, 1 at first."""
        accounts = [queue.account for queue in self._state.queues.values()]
        payload = sum(account.live.bytes for account in accounts)
        if payload:
            self._ratio = sum(account.stored_bytes for account in accounts) / payload
        return self._ratio
