"""`otel-agent buffer import`: requests from a file into the ring of an agent that is stopped.

They are queued as they are: whose they are was said when they were first admitted.
"""

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO

from edge_agent.buffer.files import DamagedError, read
from edge_agent.otlp.signal import Signal
from edge_agent.otlp.split import halves
from edge_agent.ring.layout import ENTRY_BYTES, HEADER_BYTES, weight
from edge_agent.ring.record import Entry, RingError
from edge_agent.ring.store import Ring

# Of bodies, in one commit.
_GROUP_BYTES = 1 << 20
# Of bodies that are deflated together, for the estimate: what the ring joins is rather more.
_JOINED_BYTES = 64 << 10


@dataclass(slots=True)
class Found:
    """What a file has: `damage` ends it early. `stored_bytes` is what it would take on disk."""

    requests: int = 0
    items: int = 0
    bytes: int = 0
    stored_bytes: int = 0
    damage: DamagedError | None = None


@dataclass(slots=True)
class Imported:
    """What became of a file. `dropped_items` were in the ring and had to give way."""

    requests: int = 0
    items: int = 0
    too_large: int = 0
    dropped_items: int = 0
    error: RingError | None = None

    @property
    def complete(self) -> bool:
        """Whether all of it is in the ring, at nobody's cost."""
        return not (self.too_large or self.dropped_items or self.error)


def survey(file: BinaryIO, signal: Signal) -> Found:
    """Read all of `file`, or up to where it is damaged, changing nothing."""
    found = Found()
    deflate, joined = zlib.compressobj(1), 0
    stored = 0
    try:
        for body, items in read(file, signal):
            found.requests += 1
            found.items += items
            found.bytes += len(body)
            stored += len(deflate.compress(body)) + ENTRY_BYTES
            joined += len(body)
            if joined >= _JOINED_BYTES:
                found.stored_bytes += weight(HEADER_BYTES + stored + len(deflate.flush()))
                deflate, joined, stored = zlib.compressobj(1), 0, 0
    except DamagedError as error:
        found.damage = error
    if joined:
        found.stored_bytes += weight(HEADER_BYTES + stored + len(deflate.flush()))
    return found


def load(
    ring: Ring, file: BinaryIO, queue: int, signal: Signal, found: Found, now: Callable[[], Entry]
) -> Imported:
    """Append the first `found.requests` of `file` to `queue`, in groups.

    `now` gives an empty entry with the time of admission.
    """
    done = Imported()
    group: list[tuple[bytes, int]] = []
    size = 0
    for number, (body, items) in enumerate(read(file, signal), 1):
        group.append((body, items))
        size += len(body)
        if size >= _GROUP_BYTES or number == found.requests:
            _append(ring, queue, signal, group, now(), done)
            group, size = [], 0
        if done.error is not None or number == found.requests:
            break
    return done


def _append(
    ring: Ring, queue: int, signal: Signal, group: list[tuple[bytes, int]], now: Entry,
    done: Imported, *, pieces: bool = False,
) -> None:  # fmt: skip
    """One commit; what is too large for a record goes once more, in halves."""
    entries = [
        Entry(body, items, len(body), now.unix_nano, now.boottime_nano) for body, items in group
    ]
    try:
        committed = ring.commit([(queue, entries)])
    except RingError as error:
        done.error = error
        return
    done.error = committed.error
    done.dropped_items += sum(lost.items for lost in committed.lost)
    for entry, ref in zip(entries, committed.placed[0], strict=True):
        if ref is not None:
            done.requests += not pieces
            done.items += entry.items
        elif done.error is None:
            parts = halves(signal, entry.body)
            if len(parts) > 1:
                done.requests += not pieces
                _append(ring, queue, signal, parts, now, done, pieces=True)
            else:
                done.too_large += 1
