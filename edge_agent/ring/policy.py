"""How much fits, and who loses when no more does. Pure.

LMDB never writes over a page that the last two commits need, so a full file cannot even delete. The
budget keeps a reserve of pages for that: enough for two commits of the largest kind.

    used  = 2 + branch + leaf + overflow pages of the database
    drop the oldest until used + need <= budget = pages - reserve
"""

from collections.abc import Mapping
from dataclasses import dataclass

from edge_agent.ring.layout import OPEN_BYTES, PAGE, chunks

SLOT = 32 << 10
MIN_SLOTS, MAX_SLOTS = 64, 5120
MIN_BYTES, MAX_BYTES = MIN_SLOTS * SLOT, MAX_SLOTS * SLOT
# Of the file, outside the map: what the map can grow by should it ever be full, because nothing but
# growing frees a full one.
SLACK = 256 << 10
_MAX_RECORD = 1 << 20
_SHARE = 32
# The pages that a transaction freed are listed in a record, which up to about 500 fits in a page.
_MAX_DELETES = 480
_MAX_RECORDS = 128


@dataclass(frozen=True, slots=True)
class Budget:
    """What follows from the size of the file, in pages if no other unit is named.

    `record_bytes` is the greatest length of a record, `group_bytes` that of the records that one
    transaction writes (which may go over it by one record). `deletes` and `records` bound what a
    transaction removes: chunks, and records that lie anywhere.
    """

    map_bytes: int
    record_bytes: int
    group_bytes: int
    deletes: int
    records: int
    budget: int

    @property
    def drops_at(self) -> int:
        """Pages of data at which dropping begins, for an append of an open record."""
        return self.budget - used_pages() - needed_pages(OPEN_BYTES, 0)

    @property
    def capacity_bytes(self) -> int:
        """Bytes of pages at which dropping begins."""
        return self.drops_at * PAGE


def budget(max_bytes: int) -> Budget:
    """The budget of a file of `max_bytes`."""
    record_bytes = group_bytes = min(_MAX_RECORD, max_bytes // _SHARE)
    transaction = chunks(group_bytes + record_bytes) + 8
    pages = (max_bytes - SLACK) // PAGE
    return Budget(
        map_bytes=pages * PAGE,
        record_bytes=record_bytes,
        group_bytes=group_bytes,
        deletes=min(_MAX_DELETES, max(transaction, chunks(record_bytes) + 1)),
        records=min(_MAX_RECORDS, transaction // 2),
        budget=pages - 2 * transaction - 64,
    )


def used_pages(
    *, branch_pages: int = 0, leaf_pages: int = 0, overflow_pages: int = 0, **_: int
) -> int:
    """Pages in use, from LMDB's statistics; with the two that say where the rest is."""
    return 2 + branch_pages + leaf_pages + overflow_pages


def needed_pages(written: int, replaced: int) -> int:
    """Pages that more are used after records that weigh `written` bytes take the place of
    `replaced` bytes; rounded up, for a leaf that is split is half empty at first."""
    return max(0, -(-(written - replaced) // PAGE)) + 8


def victim(stored: Mapping[int, int], floors: Mapping[int, float], capacity: int) -> int | None:
    """The queue that loses its oldest record: the one furthest above its floor.

    `stored` are the bytes that each queue takes, `floors` the shares of `capacity` that a queue
    keeps whatever the others do. None when nothing is stored.
    """
    above = {
        queue: taken - floors.get(queue, 0.0) * capacity
        for queue, taken in stored.items()
        if taken > 0
    }
    return max(above, key=lambda queue: above[queue], default=None)
