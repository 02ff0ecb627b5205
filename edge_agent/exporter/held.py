"""What one queue holds, in RAM and in the ring, and in which order it goes. Pure.

A request is in one of four places:

- fresh: in RAM, waiting for a call; in the ring too once it was saved there with a call under way;
- in flight: in RAM, and in the ring where it was saved meanwhile;
- shelved: in the ring alone;
- staged: read from the ring, in RAM too, waiting for a call.

`items` and `bytes` count each request once, wherever it is.
"""

from collections import deque
from collections.abc import Iterable, Sequence

from edge_agent.exporter.loans import Loans
from edge_agent.exporter.request import Request
from edge_agent.ring.record import Lost, Record, Ref, Totals


class Held:
    """The requests of one queue. `queue` is its number in the ring."""

    def __init__(self, queue: int, *, newest_first: bool) -> None:
        self.queue = queue
        self._newest_first = newest_first
        self._fresh: deque[Request] = deque()
        self._staged: deque[Request] = deque()
        self._in_flight: dict[tuple[int, ...], Request] = {}
        self.loans = Loans(queue)
        self.items = 0
        self.bytes = 0
        # Of bodies that are in RAM.
        self.ram_bytes = 0
        # Of the ring's, those without a copy in RAM.
        self.shelved_items = 0
        # Those that RAM alone has.
        self.unsaved_bytes = 0

    def __bool__(self) -> bool:
        return bool(self._fresh or self._staged or self._in_flight or self.shelved_items)

    @property
    def has_fresh(self) -> bool:
        """Whether something waits that the ring has never had, or has only just in case."""
        return bool(self._fresh)

    @property
    def has_staged(self) -> bool:
        """Whether something that was read from the ring waits for a call."""
        return bool(self._staged)

    @property
    def in_ring(self) -> bool:
        """Whether the ring has anything of this."""
        return self.shelved_items > 0 or bool(self.loans.positions())

    @property
    def has_backlog(self) -> bool:
        """Whether anything waits in the ring, or was read from it."""
        return bool(self._staged) or self.shelved_items > 0

    # In and out of RAM

    def add(self, request: Request) -> None:
        """A request was admitted."""
        self._fresh.append(request)
        self.items += request.items
        self.bytes += request.size
        self._load(request)

    def take(self, max_items: int, max_bytes: int, *, staged: bool) -> list[Request]:
        """A batch to send, in order of admission; at least one request, which may be larger."""
        source = self._staged if staged else self._fresh
        last = -1 if self._newest_first else 0
        take = source.pop if self._newest_first else source.popleft
        batch = [take()]
        items, size = batch[0].items, len(batch[0].body)
        while source:
            items += source[last].items
            size += len(source[last].body)
            if items > max_items or size > max_bytes:
                break
            batch.append(take())
        batch.sort(key=_order)
        self._in_flight.update((r.order, r) for r in batch)
        return batch

    def settle(self, batch: Iterable[Request]) -> None:
        """These are gone for good: delivered, rejected, spilled or dropped."""
        for request in batch:
            del self._in_flight[request.order]
            self._forget(request)

    def give_back(self, batch: Iterable[Request]) -> None:
        """These could not be sent. What is in the ring waits there."""
        fresh, staged = [], []
        for request in batch:
            del self._in_flight[request.order]
            if request.ref is not None and request.whole:
                self._shelve(request)
            elif request.staged:
                staged.append(request)
            else:
                fresh.append(request)
        if fresh:
            self._fresh = deque(sorted((*self._fresh, *fresh), key=_order))
        if staged:
            self._staged = deque(sorted((*self._staged, *staged), key=_order))

    def replace(self, request: Request, pieces: Sequence[Request]) -> None:
        """A request in flight was cut; its pieces are in flight in its place."""
        request.gone = True
        del self._in_flight[request.order]
        self._in_flight.update((piece.order, piece) for piece in pieces)
        if request.ref is not None:
            self.loans.divide(request.ref, len(pieces))
        self._unload(request)
        for piece in pieces:
            self._load(piece)

    def adopt(self, request: Request, ref: Ref) -> None:
        """A request was admitted that the ring has already."""
        request.ref = ref
        self.loans.lend(ref, request.items, request.size)
        self.add(request)

    def shed_oldest(self) -> Request | None:
        """Let go of the oldest that waits in RAM. What only RAM had is lost, and returned."""
        if not self._fresh:
            return None
        oldest = self._fresh.popleft()
        if oldest.ref is not None and oldest.whole:
            self._shelve(oldest)
        else:
            self._forget(oldest)
        return oldest

    def in_flight(self) -> list[Request]:
        """What calls are about."""
        return list(self._in_flight.values())

    def unstage(self) -> None:
        """Leave to the ring what was read from it, but for what it does not have: pieces, and what
        it has lost since."""
        kept: deque[Request] = deque()
        for request in self._staged:
            if request.whole and request.ref is not None:
                self._shelve(request)
            else:
                kept.append(request)
        self._staged = kept

    def abandon(self) -> list[Request]:
        """Let go of all that waits in RAM; what only RAM had is lost, and returned."""
        left = [request for request in self._fresh if request.ref is None]
        for request in left:
            self._forget(request)
        for request in self._fresh:
            if request.ref is not None:
                self._shelve(request)
        self._fresh.clear()
        self.unstage()
        return left

    # Into the ring and out of it

    def unsaved(self) -> list[Request]:
        """What RAM alone has, in order."""
        alone = [
            r for r in (*self._in_flight.values(), *self._fresh, *self._staged) if r.ref is None
        ]
        alone.sort(key=_order)
        return alone

    def saved(self, requests: Sequence[Request], refs: Sequence[Ref | None]) -> None:
        """The ring has these now, but for those without a ref, for which it has no room at all."""
        shelved = set()
        for request, ref in zip(requests, refs, strict=True):
            if ref is None or request.gone:
                # What was settled while it was being written is acknowledged there with the next.
                if ref is not None:
                    self.loans.lend(ref, request.items, request.size)
                    self.loans.settle(ref)
                continue
            request.ref = ref
            self.unsaved_bytes -= len(request.body)
            self.loans.lend(ref, request.items, request.size)
            if request.order not in self._in_flight:
                shelved.add(request.order)
        if shelved:
            kept: deque[Request] = deque()
            for request in self._fresh:
                if request.order in shelved:
                    self._shelve(request)
                else:
                    kept.append(request)
            self._fresh = kept

    def stage(
        self, record: Record, admitted_s: Iterable[float], *, this_boot: bool = True
    ) -> list[Request]:
        """A record was read: its entries wait for calls, admitted when `admitted_s` says.

        The flags are about clocks, and mean nothing in another boot."""
        requests = []
        for ref_index, entry, at_s in zip(record.indexes, record.entries, admitted_s, strict=True):
            ref = Ref(record.position, ref_index)
            request = Request(
                entry.body,
                entry.items,
                entry.size,
                (-1, record.sequence, ref_index),
                at_s,
                unix_nano=entry.unix_nano,
                boottime_nano=entry.boottime_nano,
                flags=entry.flags if this_boot else 0,
                ref=ref,
                staged=True,
            )
            self.loans.lend(ref, entry.items, entry.size)
            self.shelved_items -= entry.items
            self.ram_bytes += len(request.body)
            requests.append(request)
        self._staged.extend(requests)
        return requests

    def restore(self, live: Totals) -> None:
        """The ring was opened and has this."""
        self.items += live.items
        self.bytes += live.bytes
        self.shelved_items += live.items

    def lost(self, lost: Lost) -> tuple[int, int]:
        """The ring has lost a record; the items and bytes that are lost by that."""
        alive, items, size = self.loans.lost(lost.position)
        for request in (*self._in_flight.values(), *self._fresh, *self._staged):
            ref = request.ref
            if ref is not None and ref.position == lost.position and ref.index in alive:
                request.ref = None
                self.unsaved_bytes += len(request.body)
        gone_items, gone_bytes = lost.items - items, lost.bytes - size
        self.items -= gone_items
        self.bytes -= gone_bytes
        self.shelved_items -= gone_items
        return gone_items, gone_bytes

    # The numbers

    def oldest_s(self) -> float | None:
        """When the oldest of what is in RAM was admitted; None without."""
        first = [deque_[0].admitted_s for deque_ in (self._fresh, self._staged) if deque_]
        return min((*first, *(r.admitted_s for r in self._in_flight.values())), default=None)

    def oldest_unsaved_s(self) -> float | None:
        """When the oldest of what RAM alone has was admitted; None without."""
        if not self.unsaved_bytes:
            return None
        return min((r.admitted_s for r in self.unsaved()), default=None)

    def _load(self, request: Request) -> None:
        self.ram_bytes += len(request.body)
        if request.ref is None:
            self.unsaved_bytes += len(request.body)

    def _unload(self, request: Request) -> None:
        self.ram_bytes -= len(request.body)
        if request.ref is None:
            self.unsaved_bytes -= len(request.body)

    def _forget(self, request: Request) -> None:
        self.items -= request.items
        self.bytes -= request.size
        request.gone = True
        self._unload(request)
        if request.ref is not None:
            self.loans.settle(request.ref)

    def _shelve(self, request: Request) -> None:
        assert request.ref is not None  # noqa: S101  (our bug: nothing but the ring would have it)
        self._unload(request)
        self.loans.give_back(request.ref)
        self.shelved_items += request.items


def _order(request: Request) -> tuple[int, ...]:
    return request.order
