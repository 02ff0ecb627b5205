"""Which records of the ring have copies in RAM, and what became of those. Pure.

A record holds several requests and is acknowledged for each. While any of them is in RAM (being
sent, or about to be) the record is on loan: nobody else reads it. Those that were settled are
acknowledged with the next commit, whatever becomes of the others: a call may take long, and a
restart meanwhile must not send again what had arrived. When the last copy is gone, and what was
settled is acknowledged, what is left is in the ring alone again.
"""

from dataclasses import dataclass, field

from edge_agent.ring.record import Ack, Ref


@dataclass(slots=True)
class _Loan:
    # How many pieces of each entry are in RAM.
    copies: dict[int, int] = field(default_factory=dict)
    # Items and bytes of each entry that was lent, for the case that the record is lost.
    sizes: dict[int, tuple[int, int]] = field(default_factory=dict)
    # Entries of which nothing waits in the ring any more, and those of which something does.
    settled: set[int] = field(default_factory=set)
    kept: set[int] = field(default_factory=set)

    def spared(self) -> list[tuple[int, int]]:
        """Items and bytes of what is not lost with the record."""
        return [self.sizes[index] for index in (*self.copies, *self.settled)]


class Loans:
    """The records of one queue that are on loan."""

    def __init__(self, queue: int) -> None:
        self._queue = queue
        self._loans: dict[int, _Loan] = {}
        # Those with entries that are settled and not acknowledged.
        self._settled: set[int] = set()

    def positions(self) -> frozenset[int]:
        """The records that nobody else may read."""
        return frozenset(self._loans)

    def lend(self, ref: Ref, items: int, size: int) -> None:
        """A copy of the entry at `ref` is in RAM."""
        loan = self._loans.setdefault(ref.position, _Loan())
        loan.copies[ref.index] = loan.copies.get(ref.index, 0) + 1
        loan.sizes[ref.index] = (items, size)

    def divide(self, ref: Ref, pieces: int) -> None:
        """A copy was cut: there are `pieces` where there was one."""
        loan = self._loans.get(ref.position)
        if loan is not None and ref.index in loan.copies:
            loan.copies[ref.index] += pieces - 1

    def settle(self, ref: Ref) -> None:
        """A copy is gone for good: delivered, rejected or dropped."""
        self._give_back(ref, settled=True)

    def give_back(self, ref: Ref) -> None:
        """A copy is gone from RAM; the entry waits in the ring."""
        self._give_back(ref, settled=False)

    def _give_back(self, ref: Ref, *, settled: bool) -> None:
        loan = self._loans.get(ref.position)
        if loan is None or ref.index not in loan.copies:
            return
        if not settled:
            loan.kept.add(ref.index)
        loan.copies[ref.index] -= 1
        if loan.copies[ref.index]:
            return
        del loan.copies[ref.index]
        if ref.index not in loan.kept:
            loan.settled.add(ref.index)
            self._settled.add(ref.position)
        if not loan.copies and not loan.settled:
            del self._loans[ref.position]

    @property
    def partly_returned(self) -> bool:
        """Whether a record waits to be rid of entries that are settled, and has others."""
        settled = [self._loans[position] for position in self._settled]
        return any(not loan.copies and loan.sizes.keys() - loan.settled for loan in settled)

    @property
    def to_acknowledge(self) -> bool:
        """Whether there is anything that `acks` would tell."""
        return bool(self._settled)

    def acks(self) -> list[Ack]:
        """What the next commit shall acknowledge; `acknowledged` says that it has."""
        return [
            Ack(self._queue, position, frozenset(self._loans[position].settled))
            for position in sorted(self._settled)
        ]

    def acknowledged(self, ack: Ack) -> None:
        """This is committed; more may have been settled meanwhile."""
        loan = self._loans.get(ack.position)
        if loan is None or ack.entries is None:
            return
        for index in ack.entries:
            # The ring does not count it any more, should it lose the record.
            loan.sizes.pop(index, None)
        loan.settled -= ack.entries
        if not loan.settled:
            self._settled.discard(ack.position)
            if not loan.copies:
                del self._loans[ack.position]

    def lost(self, position: int) -> tuple[frozenset[int], int, int]:
        """The ring has lost a record: the entries that live on in RAM, and the items and bytes of
        all that are not lost by that, because they live on or were settled."""
        loan = self._loans.pop(position, None)
        self._settled.discard(position)
        if loan is None:
            return frozenset(), 0, 0
        spared = loan.spared()
        return (
            frozenset(loan.copies),
            sum(items for items, _ in spared),
            sum(size for _, size in spared),
        )
