"""Records in an LMDB transaction: found, read, written and deleted, chunk by chunk."""

from collections.abc import Iterator
from contextlib import suppress
from typing import TypeAlias

from lmdb import Cursor, Transaction

from edge_agent.ring.layout import (
    CHUNK,
    MAX_QUEUE,
    Header,
    LayoutError,
    chunks,
    key,
    pack_header,
    parse_header,
    parse_key,
)
from edge_agent.ring.record import Oldest

# Quoted: only the stubs of LMDB are generic.
Txn: TypeAlias = "Transaction[memoryview]"
Cur: TypeAlias = "Cursor[memoryview]"


def after(cursor: Cur, queue: int, position: int = -1) -> int | None:
    """The next record of `queue` after `position`; without one, the oldest."""
    if not cursor.set_range(key(queue, position + 1)):
        return None
    found, next_position, _ = parse_key(cursor.key())
    return next_position if found == queue else None


def before(cursor: Cur, queue: int, position: int | None = None) -> int | None:
    """The record of `queue` before `position`; without one, the newest."""
    if position is not None:
        beyond = cursor.set_range(key(queue, position))
    else:
        beyond = queue < MAX_QUEUE and cursor.set_range(key(queue + 1, 0))
    if not (cursor.prev() if beyond else cursor.last()):
        return None
    found, previous, _ = parse_key(cursor.key())
    return previous if found == queue else None


def positions(cursor: Cur, queue: int, *, newest: bool = False) -> Iterator[int]:
    """Every record of `queue`, oldest first or newest first."""
    step = before if newest else after
    position = step(cursor, queue)
    while position is not None:
        yield position
        position = step(cursor, queue, position)


def header(txn: Txn, queue: int, position: int) -> Header | None:
    """The header of a record, None where there is no chunk of it. Raises LayoutError."""
    chunk = txn.get(key(queue, position))
    if chunk is not None:
        return parse_header(queue, position, chunk)
    with txn.cursor() as cursor:
        if after(cursor, queue, position - 1) == position:
            raise LayoutError("the first chunk is missing")
    return None


def oldest(txn: Txn, queue: int) -> Oldest | None:
    """The oldest entry of `queue` whose record can be read; None without."""
    with txn.cursor() as cursor:
        for position in positions(cursor, queue):
            with suppress(LayoutError):
                head = header(txn, queue, position)
                if head is not None:
                    return Oldest(head.unix_nano, head.boottime_nano, head.boot_id)
    return None


def stored(txn: Txn, head: Header) -> bytes:
    """The payload of a record as it is on disk. Raises LayoutError where a chunk is missing."""
    parts = []
    for number in range(chunks(head.length)):
        chunk = txn.get(key(head.queue, head.position, number))
        if chunk is None:
            raise LayoutError(f"chunk {number} is missing")
        parts.append(chunk)
    return b"".join(parts)[head.length - head.stored_length :]


def write(txn: Txn, head: Header, payload: bytes, replaced: Header | None) -> None:
    """Write a record, or write it again in place of what `replaced` describes."""
    data = memoryview(pack_header(head) + payload)
    for number in range(chunks(head.length)):
        chunk = data[number * CHUNK : (number + 1) * CHUNK]
        txn.put(key(head.queue, head.position, number), chunk)
    if replaced is not None:
        for number in range(chunks(head.length), chunks(replaced.length)):
            txn.delete(key(head.queue, head.position, number))


def delete(txn: Txn, head: Header) -> int:
    """Delete a record; the number of chunks."""
    count = chunks(head.length)
    for number in range(count):
        txn.delete(key(head.queue, head.position, number))
    return count


def delete_keys(txn: Txn, queue: int, position: int, limit: int) -> tuple[int, bool]:
    """Delete what lies under a record's keys, whatever it says, `limit` keys at most.

    Returns how many those were, and whether nothing is left.
    """
    count = 0
    with txn.cursor() as cursor:
        while cursor.set_range(key(queue, position)):
            found = bytes(cursor.key())
            if parse_key(found)[:2] != (queue, position):
                break
            if count == limit:
                return count, False
            # cursor.delete() may leave the cursor nowhere.
            txn.delete(found)
            count += 1
    return count, True
