"""The counters that balance.

For every (destination, signal), in items and in bytes, at every moment:

    accepted = delivered + rejected by the peer + dropped{reason} + sampled out + spilled + held

What an earlier run left in the ring counts as accepted too, in a row of its own (`restored`): so
the numbers of one process add up, and what one run held at its end is what the next restores.

`held` is what the queues hold and is asked of them, never counted here: so a part that loses an
item without saying so shows as an imbalance instead of being papered over.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from edge_agent.otlp.signal import Signal


@dataclass(slots=True)
class Tally:
    """A number of items and the bytes they took as encoded."""

    items: int = 0
    bytes: int = 0

    def add(self, items: int, size: int) -> None:
        """Count `items` more, of `size` bytes."""
        self.items += items
        self.bytes += size


@dataclass(slots=True)
class Account:
    """What became of everything admitted for one destination and signal."""

    destination: str
    signal: Signal
    accepted: Tally = field(default_factory=Tally)
    restored: Tally = field(default_factory=Tally)
    delivered: Tally = field(default_factory=Tally)
    sampled_out: Tally = field(default_factory=Tally)
    spilled: Tally = field(default_factory=Tally)
    rejected: dict[str, Tally] = field(default_factory=dict)
    dropped: dict[str, Tally] = field(default_factory=dict)

    def reject(self, reason: str, items: int, size: int) -> None:
        """The peer refused these for good; `reason` is its code, or `partial_success`."""
        self.rejected.setdefault(reason, Tally()).add(items, size)

    def drop(self, reason: str, items: int, size: int) -> None:
        """We lost these; `reason` is a short snake_case word."""
        self.dropped.setdefault(reason, Tally()).add(items, size)

    def lost_items(self) -> int:
        """Items that neither arrived nor wait: dropped by us or refused by the peer."""
        return sum(t.items for t in (*self.dropped.values(), *self.rejected.values()))

    def settled(self) -> Tally:
        """All that has left: accepted and restored minus this is what the queue must hold."""
        total = Tally()
        for tally in (
            self.delivered,
            self.sampled_out,
            self.spilled,
            *self.rejected.values(),
            *self.dropped.values(),
        ):
            total.add(tally.items, tally.bytes)
        return total

    def rows(self) -> Iterator[tuple[str, str, Tally]]:
        """(outcome, reason, tally) of every row; the reason is empty where there is only one."""
        yield "accepted", "", self.accepted
        yield "accepted", "restored", self.restored
        yield "delivered", "", self.delivered
        yield "sampled_out", "", self.sampled_out
        yield "spilled", "", self.spilled
        for reason, tally in sorted(self.rejected.items()):
            yield "rejected", reason, tally
        for reason, tally in sorted(self.dropped.items()):
            yield "dropped", reason, tally


class Ledger:
    """All accounts of one process, in the order in which they were opened."""

    def __init__(self) -> None:
        self._accounts: dict[tuple[str, Signal], Account] = {}

    def account(self, destination: str, signal: Signal) -> Account:
        """The account of `destination` and `signal`, opened on first use."""
        key = (destination, signal)
        if key not in self._accounts:
            self._accounts[key] = Account(destination, signal)
        return self._accounts[key]

    def __iter__(self) -> Iterator[Account]:
        return iter(self._accounts.values())

    def delivered_items(self, signal: Signal) -> int:
        """Items of `signal` acknowledged by any destination."""
        return sum(a.delivered.items for a in self if a.signal is signal)

    def lost_items(self, signal: Signal) -> int:
        """Items of `signal` lost for whatever reason, all destinations together."""
        return sum(a.lost_items() for a in self if a.signal is signal)
