"""What goes into the ring and comes out of it. Pure.

An entry is one original request, and the grain of acknowledgement. Entries of a queue are joined
into records, which is what is read and what is dropped. Both keep their numbers for life: a record
its position in its queue, an entry its index in its record, also when others around it are gone.
"""

import errno
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

QUEUE_FULL = "queue_full"
CORRUPT = "corrupt"
# The reasons for which the ring drops; new ones are added at the end (layout.py stores them so).
REASONS = (QUEUE_FULL, CORRUPT)


@dataclass(frozen=True, slots=True)
class Entry:
    """An encoded Export*ServiceRequest. `size` is its bytes as the ledger counts them, which may
    differ from `len(body)` after a split; `flags` (32 bits) mean nothing to the ring."""

    body: bytes
    items: int
    size: int
    unix_nano: int
    boottime_nano: int
    flags: int = 0


@dataclass(frozen=True, slots=True)
class Ref:
    """An entry in a record of a queue."""

    position: int
    index: int


@dataclass(frozen=True, slots=True)
class Record:
    """The live entries of a record, oldest first; `indexes` are theirs, for a Ref or an Ack.

    `sequence` counts the entries that its queue had ever taken before this record. `boot_id` is of
    the boot in which all its entries were admitted.
    """

    queue: int
    position: int
    sequence: int
    boot_id: bytes
    indexes: tuple[int, ...]
    entries: tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class Ack:
    """The ring may forget these entries of a record, or all of it (None).

    Acknowledging what is gone already does no harm."""

    queue: int
    position: int
    entries: frozenset[int] | None = None


@dataclass(frozen=True, slots=True)
class Lost:
    """A record that the ring dropped, with what was still in it."""

    queue: int
    position: int
    reason: str
    entries: int
    items: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Totals:
    """A number of records and what they held."""

    records: int = 0
    entries: int = 0
    items: int = 0
    bytes: int = 0

    def __add__(self, other: "Totals") -> "Totals":
        return Totals(
            self.records + other.records,
            self.entries + other.entries,
            self.items + other.items,
            self.bytes + other.bytes,
        )

    def __sub__(self, other: "Totals") -> "Totals":
        return Totals(
            self.records - other.records,
            self.entries - other.entries,
            self.items - other.items,
            self.bytes - other.bytes,
        )


NOTHING = Totals()


@dataclass(frozen=True, slots=True)
class Account:
    """All that ever became of a queue: appended = acked + sum(dropped) + live.

    A record is appended when its first entry is, and acked or dropped with its last. `stored_bytes`
    is what the live ones take on disk, as the page budget counts.
    """

    appended: Totals = NOTHING
    acked: Totals = NOTHING
    dropped: Mapping[str, Totals] = field(default_factory=lambda: dict.fromkeys(REASONS, NOTHING))
    stored_bytes: int = 0

    @property
    def live(self) -> Totals:
        """What is held."""
        left = self.appended - self.acked
        for dropped in self.dropped.values():
            left -= dropped
        return left


@dataclass(frozen=True, slots=True)
class Oldest:
    """The oldest live entry of a queue."""

    unix_nano: int
    boottime_nano: int
    boot_id: bytes


@dataclass(frozen=True, slots=True)
class Committed:
    """What a commit did. `placed` has, for each append, where each of its entries is.

    An entry without a place is larger than a record can be, even alone and deflated; or, where
    `error` is set, was not written because the disk failed in the middle of a group so large that
    it took several transactions: all that is told here is durable, the rest may be tried again.
    `acked` is how many of the acks, in their order, were carried out.
    """

    placed: Sequence[Sequence[Ref | None]]
    lost: Sequence[Lost]
    acked: int
    error: "RingError | None" = None


class RingError(OSError):
    """The ring cannot do what was asked, for reasons of the world; nothing is changed by it.

    `errno` is the system's; `remedy` is what a person can do about it.
    """

    def __init__(self, number: int, message: str, remedy: str = "") -> None:
        super().__init__(number, message)
        self.remedy = remedy or _REMEDIES.get(number, "")

    def __str__(self) -> str:
        return str(self.strerror)


_REMEDIES = {
    errno.ENOSPC: "free space on its file system, or lower buffer.max_size (BUFFER_MAX_SIZE)",
    errno.EDQUOT: "raise the quota, or lower buffer.max_size (BUFFER_MAX_SIZE)",
    errno.EIO: "the storage fails: look at dmesg, and replace it",
    errno.EROFS: "mount the file system read-write, or set buffer.path (BUFFER_PATH) elsewhere",
    errno.EACCES: "give the agent's user the directory, or set buffer.path (BUFFER_PATH) elsewhere",
    errno.EPERM: "give the agent's user the directory, or set buffer.path (BUFFER_PATH) elsewhere",
    errno.EBUSY: "end the program that reads the ring (otel-agent buffer ...)",
}
