"""The ring as the event loop sees it: one writer thread, and what goes to it and when.

RAM while healthy, ring when not (DESIGN, idea 3): what is not acknowledged within `flush_s` is
saved, together with all else that RAM alone has, in one commit; acknowledgements ride along. A
healthy link writes nothing. One commit is under way at a time, and while it is the queues go on.

A ring that fails is no end: what it did not take stays in RAM, and it is tried again, opened anew
where it could not be opened before.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import suppress
from typing import Protocol, TypeVar

from edge_agent.exporter.held import Held
from edge_agent.exporter.request import Request
from edge_agent.log import Log
from edge_agent.ring.record import (
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

# How long a ring that failed is left alone, doubled up to the second.
_HEAL_S, _MAX_HEAL_S = 5.0, 60.0
# Of payload deflated, before there is anything to measure: host metrics 0.1, spans 0.2 to 0.3.
_ASSUMED_RATIO = 0.25

_log = Log("ring")

T = TypeVar("T")


class Store(Protocol):
    """The ring; blocking, and used by one thread."""

    def commit(
        self, appends: Sequence[tuple[int, Sequence[Entry]]], acks: Sequence[Ack]
    ) -> Committed:
        """Write all of it durably, or raise RingError and nothing is changed."""
        ...

    def probe(self) -> None:
        """Whether anything can be written; raises RingError."""
        ...

    def read(self, queue: int, *, newest: bool, skip: frozenset[int]) -> Record | None:
        """The oldest or newest record whose position is not in `skip`."""
        ...

    def totals(self) -> Mapping[int, Totals]:
        """What is in it, by queue."""
        ...

    def oldest(self, queue: int) -> Oldest | None:
        """The oldest entry of a queue."""
        ...

    @property
    def wants_commit(self) -> bool:
        """Whether damaged records wait to be counted by a commit."""
        ...

    @property
    def usage(self) -> float:
        """What is held as a share of the point at which dropping begins, 0 to 1."""
        ...

    @property
    def ratio(self) -> float:
        """Bytes on disk for a byte of payload, as far as is known."""
        ...

    @property
    def capacity_bytes(self) -> int:
        """Bytes on disk at which dropping begins."""
        ...

    def close(self, *, clean: bool = True) -> None:
        """The end of a run; `clean` says in the ring that it was orderly."""
        ...


class Moment(Protocol):
    """When something was admitted, by the wall clock and by that of the boot."""

    @property
    def unix_nano(self) -> int:
        """Nanoseconds since 1970."""
        ...

    @property
    def boottime_nano(self) -> int:
        """Nanoseconds since the boot, CLOCK_BOOTTIME."""
        ...


class Owner(Protocol):
    """A queue, as far as the ring is concerned."""

    @property
    def held(self) -> Held:
        """What it holds."""
        ...

    def lost(self, lost: Lost) -> None:
        """The ring has lost one of its records."""
        ...

    def restore(self, live: Totals) -> None:
        """The ring was opened and has this for it."""
        ...

    def adopt(self, request: Request, ref: Ref) -> None:
        """`request` was admitted, and the ring has it at `ref`."""
        ...

    def wake(self) -> None:
        """A commit has changed what it holds."""
        ...


# Requests that go into the ring before they go into their queues, and who waits for that.
Waiting = tuple[list[tuple[Owner, Request]], "asyncio.Future[bool]"]


class Spool:
    """The ring and its writer thread. `open_store` opens the ring, and is called in that thread."""

    def __init__(
        self,
        open_store: Callable[[], Store],
        *,
        flush_s: float,
        clock: Callable[[], float] = time.monotonic,
        unix_nano: Callable[[], int] = time.time_ns,
        boottime_nano: Callable[[], int],
        boot_id: bytes,
        executor: Executor | None = None,
    ) -> None:
        self._open_store = open_store
        self._flush_s = flush_s
        self._clock = clock
        self._unix_nano = unix_nano
        self._boottime_nano = boottime_nano
        self._boot_id = boot_id
        self._thread = executor or ThreadPoolExecutor(1, "ring")
        self._store: Store | None = None
        self._owners: dict[int, Owner] = {}
        self._strict: list[Waiting] = []
        self._wake = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._urgent = False
        self._failures = 0
        self._not_before_s = 0.0
        self._committing = asyncio.Lock()
        # Set once the ring was opened, or could not be.
        self.opened = asyncio.Event()
        self.problem = "not open yet"
        self.commits = 0
        self.totals: Mapping[int, Totals] = {}
        self._oldest: dict[int, Oldest | None] = {}
        self.usage = 0.0
        self.ratio = _ASSUMED_RATIO
        self.capacity_bytes = 0

    def attach(self, owner: Owner) -> None:
        """Save what `owner` holds."""
        self._owners[owner.held.queue] = owner

    @property
    def usable(self) -> bool:
        """Whether the last thing that was tried with the ring succeeded."""
        return not self.problem

    def share(self, queue: int, floor: float) -> float:
        """What a queue takes of what the ring has for it, 0 to 1: its floor, or what the others
        leave if that is more."""
        taken = {number: live.bytes * self.ratio for number, live in self.totals.items()}
        own = taken.pop(queue, 0.0)
        room = max(floor * self.capacity_bytes, self.capacity_bytes - sum(taken.values()))
        return own / room if room > 0 else 0.0

    # What queues tell

    def noticed(self) -> None:
        """A queue has something that RAM alone has, or something to acknowledge."""
        if self._timer is None and not self._wake.is_set():
            self._timer = asyncio.get_running_loop().call_later(self._flush_s, self._due)

    def settled(self) -> None:
        """A queue holds less: where none has anything to save, nothing needs to wake up."""
        if self._timer is not None and not self._anything:
            self._disarm()

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def press(self) -> bool:
        """RAM is short: save now what can be saved; whether the ring is there for it."""
        if self.usable and self.unsaved_bytes:
            self._urgent = True
            self._wake.set()
        return self.usable

    @property
    def unsaved_bytes(self) -> int:
        """Bytes of bodies that RAM alone has."""
        return sum(owner.held.unsaved_bytes for owner in self._owners.values())

    @property
    def _anything(self) -> bool:
        return bool(self._strict) or any(
            owner.held.unsaved_bytes or owner.held.loans.to_acknowledge
            for owner in self._owners.values()
        )

    def _due(self) -> None:
        """The timer has fired: is anything really that old?"""
        self._timer = None
        if not self._anything:
            return
        oldest = [owner.held.oldest_unsaved_s() for owner in self._owners.values()]
        oldest_s = min((at_s for at_s in oldest if at_s is not None), default=None)
        acks = any(owner.held.loans.to_acknowledge for owner in self._owners.values())
        left_s = 0.0 if oldest_s is None else oldest_s + self._flush_s - self._clock()
        if left_s > 0 and not acks:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(left_s, self._due)
        else:
            self._urgent = True
            self._wake.set()

    def admit(self, requests: list[tuple[Owner, Request]]) -> asyncio.Future[bool]:
        """Strict: take `requests` into the ring and then into their queues; whether it was so."""
        saved: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        if not self.usable:
            saved.set_result(False)
            return saved
        self._strict.append((requests, saved))
        self._urgent = True
        self._wake.set()
        return saved

    # The writer

    async def run(self) -> None:
        """Open the ring, then commit what is due, for ever."""
        while True:
            self._wake.clear()
            wait_s: float | None = None
            if not self.usable:
                wait_s = max(0.0, self._not_before_s - self._clock())
            elif self._urgent or self._strict:
                wait_s = 0.0
            if wait_s != 0.0:
                with suppress(TimeoutError):
                    async with asyncio.timeout(wait_s):
                        await self._wake.wait()
                if self.usable or self._clock() < self._not_before_s:
                    continue
            if self._store is None:
                await asyncio.shield(asyncio.ensure_future(self._heal_alone()))
            else:
                await self.commit()

    async def _heal_alone(self) -> None:
        async with self._committing:
            if self._store is None:
                await self._heal()

    async def commit(self) -> bool:
        """Save all that RAM alone has, and acknowledge; whether it is durable now. A ring that is
        not open is opened."""
        # What has begun in the thread is seen to its end: what it did has to be known.
        return await asyncio.shield(asyncio.ensure_future(self._commit_alone()))

    async def _commit_alone(self) -> bool:
        async with self._committing:
            if self._store is None:
                await self._heal()
            return await self._commit()

    async def _commit(self) -> bool:
        store = self._store
        if store is None:
            self._refuse_strict()
            return False
        self._urgent = False
        self._disarm()
        strict, self._strict = self._strict, []
        batches = [
            (owner, requests)
            for owner in self._owners.values()
            if (requests := owner.held.unsaved())
        ]
        arriving = [pair for requests, _ in strict for pair in requests]
        acks = [ack for owner in self._owners.values() for ack in owner.held.loans.acks()]
        appends = [(owner.held.queue, self._entries(requests)) for owner, requests in batches]
        appends += [(owner.held.queue, self._entries([request])) for owner, request in arriving]
        if not (appends or acks or store.wants_commit or self.problem):
            return True
        try:
            if self.problem and not appends:
                await self._in_thread(store.probe)
            committed = await self._in_thread(lambda: store.commit(appends, acks))
        except RingError as error:
            self._failed(error)
            for _, saved in strict:
                _answer(saved, durable=False)
            return False
        self.commits += 1
        for ack in acks[: committed.acked]:
            self._owners[ack.queue].held.loans.acknowledged(ack)
        for (owner, requests), refs in zip(batches, committed.placed, strict=False):
            owner.held.saved(requests, refs)
        self._admitted(strict, [refs[0] for refs in committed.placed[len(batches) :]])
        await self._committed(committed)
        return committed.error is None

    async def _committed(self, committed: Committed) -> None:
        for lost in committed.lost:
            if lost.queue in self._owners:
                self._owners[lost.queue].lost(lost)
        error = committed.error
        try:
            await self._looked()
        except RingError as blind:
            # What is durable is durable.
            error = error or blind
        if error is not None:
            self._failed(error)
        else:
            self._worked()
        for owner in self._owners.values():
            owner.wake()
        if self._anything:
            self.noticed()

    def _admitted(self, strict: Sequence[Waiting], refs: Sequence[Ref | None]) -> None:
        """Give to the queues what is durable, and tell those who wait for it."""
        placed = iter(refs)
        for requests, saved in strict:
            whole = [(owner, request, next(placed)) for owner, request in requests]
            durable = all(ref is not None for _, _, ref in whole)
            for owner, request, ref in whole:
                if ref is None:
                    continue
                if durable:
                    owner.adopt(request, ref)
                else:
                    # The sender is told to come back with all of it.
                    owner.held.loans.lend(ref, request.items, request.size)
                    owner.held.loans.settle(ref)
            _answer(saved, durable=durable)

    def _entries(self, requests: Sequence[Request]) -> list[Entry]:
        now_s, unix_nano, boottime_nano = self._clock(), self._unix_nano(), self._boottime_nano()
        entries = []
        for request in requests:
            age_nano = int((now_s - request.admitted_s) * 1e9)
            entries.append(
                Entry(
                    request.body,
                    request.items,
                    request.size,
                    request.unix_nano or max(0, unix_nano - age_nano),
                    request.boottime_nano or max(0, boottime_nano - age_nano),
                    request.flags,
                )
            )
        return entries

    def admitted_s(self, record: Record) -> list[float]:
        """When the entries of a record were admitted, by the monotonic clock of now."""
        now_s = self._clock()
        return [now_s - self._age_s(record.boot_id, entry) for entry in record.entries]

    def is_this_boot(self, record: Record) -> bool:
        """Whether a record was written since the machine was started."""
        return record.boot_id == self._boot_id

    def oldest_age_s(self, queue: int) -> float:
        """How old the oldest record of a queue is."""
        oldest = self._oldest.get(queue)
        return 0.0 if oldest is None else self._age_s(oldest.boot_id, oldest)

    def _age_s(self, boot_id: bytes, admitted: Moment) -> float:
        if boot_id == self._boot_id:
            age_nano = self._boottime_nano() - admitted.boottime_nano
        else:
            age_nano = self._unix_nano() - admitted.unix_nano
        return max(0.0, age_nano / 1e9)

    async def read(self, held: Held, *, newest: bool) -> Record | None:
        """The next record of a queue's backlog; None if there is none, or the ring fails."""
        # After a commit, not during it: what it writes is lent only once its queue knows of it, and
        # would be read, and sent, a second time.
        async with self._committing:
            store = self._store
            if store is None:
                return None
            skip = held.loans.positions()
            try:
                return await self._in_thread(
                    lambda: store.read(held.queue, newest=newest, skip=skip)
                )
            except RingError as error:
                self._failed(error)
                return None

    async def close(self, *, late: bool = False) -> None:
        """Save what is left and close the ring in order.

        `late` leaves out what costs another flush of a slow disk and loses nothing: what was
        delivered last is delivered again, and the next start looks at every page."""
        self._refuse_strict()
        if self.unsaved_bytes or not late:
            await self.commit()
        self._disarm()
        store, self._store = self._store, None
        if store is not None:
            try:
                await self._in_thread(lambda: store.close(clean=not late))
            except RingError as error:
                _log.error("the ring was not closed in order", error=str(error))
        self._thread.shutdown(wait=False)

    async def _in_thread(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)

    # What is wrong with it

    async def _heal(self) -> None:
        try:
            self._store = await self._in_thread(self._open_store)
            await self._restore()
        except RingError as error:
            self._failed(error)
            store, self._store = self._store, None
            if store is not None:
                # The queues know nothing of what is in it: they are told when it is opened again.
                with suppress(RingError):
                    await self._in_thread(store.close)
        finally:
            self.opened.set()

    async def _restore(self) -> None:
        await self._looked()
        for queue, live in self.totals.items():
            if queue in self._owners:
                self._owners[queue].restore(live)
            elif live.items:
                _log.warning(
                    "the ring holds data for a destination that is not configured; it is kept",
                    queue=queue, items=live.items, bytes=live.bytes,
                )  # fmt: skip
        self._worked()
        if self._anything:
            self.noticed()

    async def _looked(self) -> None:
        store = self._store
        assert store is not None  # noqa: S101  (our bug: asked for after it was opened)
        self.totals = store.totals()
        self.usage = store.usage
        if self.commits or any(live.items for live in self.totals.values()):
            self.ratio = store.ratio
        self.capacity_bytes = store.capacity_bytes
        self._oldest = await self._in_thread(
            lambda: {queue: store.oldest(queue) for queue in self._owners}
        )

    def _failed(self, error: RingError) -> None:
        if not self._failures:
            _log.error(
                "the ring cannot be written, keeping data in RAM alone",
                problem=str(error),
                remedy=error.remedy,
            )
        self._failures += 1
        self.problem = str(error)
        delay_s = min(_HEAL_S * 2.0 ** min(self._failures - 1, 10), _MAX_HEAL_S)
        self._not_before_s = self._clock() + delay_s
        self._refuse_strict()

    def _worked(self) -> None:
        if self._failures:
            _log.info("the ring can be written again")
        self._failures = 0
        self.problem = ""

    def _refuse_strict(self) -> None:
        strict, self._strict = self._strict, []
        for _, saved in strict:
            _answer(saved, durable=False)


def _answer(saved: asyncio.Future[bool], *, durable: bool) -> None:
    # The sender may have gone away meanwhile.
    if not saved.done():
        saved.set_result(durable)
