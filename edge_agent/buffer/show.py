"""What a ring holds, for a person or a program."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from edge_agent.opener import FLOORS, NUMBERS
from edge_agent.ring.policy import victim
from edge_agent.ring.record import REASONS, Account, Entry, Record
from edge_agent.ring.view import View
from edge_agent.settings import format_duration, format_size

_NAMES = {number: f"{destination} {signal}" for (destination, signal), number in NUMBERS.items()}


@dataclass(frozen=True, slots=True)
class Clock:
    """Now, and in which boot: by the wall clock, and nanoseconds of CLOCK_BOOTTIME."""

    unix_nano: int
    boottime_nano: int
    boot_id: bytes

    def age_s(self, boot_id: bytes, entry: Entry) -> float:
        """Seconds since `entry` was admitted. The wall clock is asked for other boots alone."""
        if boot_id == self.boot_id:
            age_nano = self.boottime_nano - entry.boottime_nano
        else:
            age_nano = self.unix_nano - entry.unix_nano
        return max(0.0, age_nano / 1e9)


@dataclass(frozen=True, slots=True)
class Queue:
    """One queue. The ages are None where nothing is held, or what is cannot be read."""

    name: str
    account: Account
    oldest_age_s: float | None
    newest_age_s: float | None


@dataclass(frozen=True, slots=True)
class Loss:
    """The record that would be dropped next."""

    queue: str
    items: int
    age_s: float


@dataclass(frozen=True, slots=True)
class Shown:
    """A ring at a moment. `usage` is 0 to 1: at 1 an append drops."""

    path: str
    max_bytes: int
    capacity_bytes: int
    usage: float
    in_use: bool
    clean: bool
    unclean_starts: int
    queues: Sequence[Queue]
    next_loss: Loss | None


def look(view: View, path: str, clock: Clock, *, in_use: bool) -> Shown:
    """Everything there is to say of a ring. Raises RingError."""
    state = view.state()
    # Empty ones of ours are shown, so that a missing line is never a question.
    accounts = {number: Account() for number in NUMBERS.values()}
    accounts |= {number: queue.account for number, queue in state.queues.items()}
    return Shown(
        path=path,
        max_bytes=view.max_bytes,
        capacity_bytes=view.budget.capacity_bytes,
        usage=view.usage(),
        in_use=in_use,
        clean=state.clean,
        unclean_starts=state.unclean_starts,
        queues=[_queue(view, number, accounts[number], clock) for number in sorted(accounts)],
        next_loss=_next_loss(view, accounts, clock),
    )


def _queue(view: View, number: int, account: Account, clock: Clock) -> Queue:
    oldest, newest = next(view.records(number), None), view.newest(number)
    return Queue(
        _NAMES.get(number, f"queue {number}"),
        account,
        clock.age_s(oldest.boot_id, oldest.entries[0]) if isinstance(oldest, Record) else None,
        clock.age_s(newest.boot_id, newest.entries[-1]) if isinstance(newest, Record) else None,
    )


def _next_loss(view: View, accounts: dict[int, Account], clock: Clock) -> Loss | None:
    stored = {number: account.stored_bytes for number, account in accounts.items()}
    number = victim(stored, FLOORS, view.budget.capacity_bytes)
    record = None if number is None else next(view.records(number), None)
    if number is None or not isinstance(record, Record):
        return None
    items = sum(entry.items for entry in record.entries)
    age_s = clock.age_s(record.boot_id, record.entries[0])
    return Loss(_NAMES.get(number, f"queue {number}"), items, age_s)


def text(shown: Shown) -> str:
    """For a person."""
    percent = 100 * shown.usage
    use = "in use by an agent" if shown.in_use else "not in use"
    if not shown.in_use and not shown.clean:
        use += ", and the last run did not end in order"
    loss = "nothing: the ring is empty"
    if shown.next_loss is not None:
        lost = shown.next_loss
        loss = f"{lost.queue}, {lost.items} items of {_age(lost.age_s)} ago"
    rows = [
        ("queue", "records", "requests", "items", "bytes", "stored", "oldest", "newest",
         *(f"dropped: {reason}" for reason in REASONS)),
        *(_row(queue) for queue in shown.queues),
    ]  # fmt: skip
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    table = "".join(
        "  ".join(
            cell.rjust(width) if number else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        + "\n"
        for row in rows
    )
    return (
        f"ring            {shown.path}, {format_size(shown.max_bytes)}, {use}\n"
        f"usage           {percent:.1f} % of the {_size(shown.capacity_bytes)} at which the oldest"
        " is dropped\n"
        f"lost next       {loss}\n"
        f"unclean starts  {shown.unclean_starts}\n\n"
        f"{table}\n"
        "bytes are those of the requests, stored those on disk; dropped is in items, ever\n"
    )


def _row(queue: Queue) -> tuple[str, ...]:
    live = queue.account.live
    return (
        queue.name,
        str(live.records),
        str(live.entries),
        str(live.items),
        _size(live.bytes),
        _size(queue.account.stored_bytes),
        _age(queue.oldest_age_s),
        _age(queue.newest_age_s),
        *(str(queue.account.dropped[reason].items) for reason in REASONS),
    )


def _age(age_s: float | None) -> str:
    # Whole seconds: nobody reads milliseconds of a day.
    return "-" if age_s is None else format_duration(float(int(age_s)))


def _size(size_bytes: int) -> str:
    """`size_bytes` to three digits, for reading alone."""
    size, unit = float(size_bytes), "B"
    for larger in ("KiB", "MiB"):
        if size >= 1000:
            size, unit = size / 1024, larger
    return f"{size:.3g} {unit}"


def as_json(shown: Shown) -> str:
    """For a program."""
    document = {
        "path": shown.path,
        "max_bytes": shown.max_bytes,
        "capacity_bytes": shown.capacity_bytes,
        "usage_percent": round(100 * shown.usage, 2),
        "in_use": shown.in_use,
        "clean": shown.clean,
        "unclean_starts": shown.unclean_starts,
        "lost_next": None
        if shown.next_loss is None
        else {
            "queue": shown.next_loss.queue,
            "items": shown.next_loss.items,
            "age_seconds": round(shown.next_loss.age_s, 3),
        },
        "queues": {queue.name: _document(queue) for queue in shown.queues},
    }
    return json.dumps(document, indent=2) + "\n"


def _document(queue: Queue) -> dict[str, object]:
    live = queue.account.live
    return {
        "records": live.records,
        "requests": live.entries,
        "items": live.items,
        "bytes": live.bytes,
        "stored_bytes": queue.account.stored_bytes,
        "oldest_age_seconds": queue.oldest_age_s,
        "newest_age_seconds": queue.newest_age_s,
        "dropped": {
            reason: {"items": dropped.items, "bytes": dropped.bytes}
            for reason, dropped in queue.account.dropped.items()
        },
    }
