"""A look at a ring, also at one that an agent is using: `otel-agent buffer ...`.

Nothing is changed by it. A read transaction keeps pages from being used again, so each is short:
records are copied out a few at a time. The longest is `verify`'s, a second for a ring of 160 MiB.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass

from edge_agent.ring import chunks, pages, preflight
from edge_agent.ring.chunks import Txn
from edge_agent.ring.environment import open_environment, read_state, ring_errors, state_in
from edge_agent.ring.layout import PAGE, Header, LayoutError, State, weight
from edge_agent.ring.opening import DATA
from edge_agent.ring.pack import record as unpack_record
from edge_agent.ring.policy import MAX_BYTES, Budget, budget, used_pages
from edge_agent.ring.record import Account, Oldest, Record, Totals

# Copied out in one transaction, at least one record.
_BATCH_RECORDS, _BATCH_BYTES = 64, 1 << 20


@dataclass(frozen=True, slots=True)
class Verified:
    """What was looked at, and what is wrong."""

    records: int
    entries: int
    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Damaged:
    """A record that cannot be read."""

    queue: int
    position: int
    problem: str


def view_ring(path: str) -> "View":
    """The ring in the directory `path`.

    Raises RingError: there is none, it may not be read, or LMDB must not see it.
    """
    with ring_errors():
        return View(path)


class View:
    """Reads a ring; `close` it. Every method may raise RingError."""

    def __init__(self, path: str) -> None:
        self._descriptor = os.open(os.path.join(path, DATA), os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._size = os.fstat(self._descriptor).st_size
            preflight.check(self._read, self._size)
            self._environment = open_environment(path, self._size // PAGE * PAGE, readonly=True)
        except BaseException:
            os.close(self._descriptor)
            raise

    def _read(self, offset: int, length: int) -> bytes:
        return os.pread(self._descriptor, length, offset)

    def close(self) -> None:
        """Give it up."""
        self._environment.close()
        os.close(self._descriptor)

    def __enter__(self) -> "View":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def max_bytes(self) -> int:
        """The length of the file."""
        return self._size

    @property
    def budget(self) -> Budget:
        """How much fits."""
        return budget(min(self._size, MAX_BYTES))

    def state(self) -> State:
        """Whether it was closed in order, and the queues that it has ever had."""
        with ring_errors():
            return read_state(self._environment)

    def accounts(self) -> dict[int, Account]:
        """All that ever became of each queue."""
        return {number: queue.account for number, queue in self.state().queues.items()}

    def oldest(self, queue: int) -> Oldest | None:
        """The oldest entry of `queue`; None without."""
        with ring_errors(), self._environment.begin(buffers=True) as txn:
            return chunks.oldest(txn, queue)

    def usage(self) -> float:
        """What is in use, 0 to 1; at 1 the next append drops."""
        with ring_errors():
            used = used_pages(**self._environment.stat()) - used_pages()
        return min(1.0, used / self.budget.drops_at)

    def newest(self, queue: int) -> Record | Damaged | None:
        """The newest record of `queue`; None without."""
        with ring_errors(), self._environment.begin(buffers=True) as txn, txn.cursor() as cursor:
            position = chunks.before(cursor, queue)
            batch = [] if position is None else _batch(txn, queue, position - 1)
        return _read(queue, *batch[0]) if batch else None

    def records(self, queue: int) -> Iterator[Record | Damaged]:
        """All records of `queue`, oldest first, as they are when it is their turn."""
        position = -1
        while True:
            with ring_errors(), self._environment.begin(buffers=True) as txn:
                batch = _batch(txn, queue, position)
            if not batch:
                return
            for position, found, payload in batch:
                yield _read(queue, position, found, payload)

    def verify(self) -> Verified:
        """Every page, every count and every checksum looked at."""
        with ring_errors(), self._environment.begin(buffers=True) as txn:
            # The reader that is open now keeps the pages of its transaction as they are.
            transaction = txn.id()
            try:
                metas = preflight.read_metas(self._read)
                for meta in metas:
                    if meta.transaction == transaction:
                        pages.walk(self._read, meta)
                        break
            except LayoutError as error:
                # LMDB must not follow what is damaged.
                return Verified(0, 0, (str(error),))
            problems = list(_miscounted(txn, state_in(txn)))
        records = entries = 0
        for queue in self.state().queues:
            for record in self.records(queue):
                records += 1
                if isinstance(record, Damaged):
                    problems.append(f"queue {queue}, record {record.position}: {record.problem}")
                else:
                    entries += len(record.entries)
        return Verified(records, entries, tuple(problems))


def _read(queue: int, position: int, found: Header | str, payload: bytes) -> Record | Damaged:
    """What `_batch` copied, inflated."""
    if isinstance(found, str):
        return Damaged(queue, position, found)
    try:
        return unpack_record(found, payload)
    except LayoutError as error:
        return Damaged(queue, position, str(error))


def _batch(txn: Txn, queue: int, position: int) -> list[tuple[int, Header | str, bytes]]:
    batch: list[tuple[int, Header | str, bytes]] = []
    size = 0
    with txn.cursor() as cursor:
        following = chunks.after(cursor, queue, position)
        while following is not None and len(batch) < _BATCH_RECORDS and size < _BATCH_BYTES:
            try:
                header = chunks.header(txn, queue, following)
                assert header is not None  # noqa: S101  (our bug: the cursor stood on it)
                payload = chunks.stored(txn, header)
                batch.append((following, header, payload))
                size += len(payload)
            except LayoutError as error:
                batch.append((following, str(error), b""))
            following = chunks.after(cursor, queue, following)
    return batch


def _miscounted(txn: Txn, state: State) -> Iterator[str]:
    for number, queue in state.queues.items():
        totals, stored, damaged = Totals(), 0, False
        with txn.cursor() as cursor:
            for position in chunks.positions(cursor, number):
                try:
                    header = chunks.header(txn, number, position)
                except LayoutError:
                    damaged = True
                    continue
                if header is not None:
                    totals += header.totals
                    stored += weight(header.length)
        account = queue.account
        if not damaged and (totals, stored) != (account.live, account.stored_bytes):
            yield f"queue {number}: has {totals} instead of {account.live}"
