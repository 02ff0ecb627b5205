"""A program that uses a ring until it is killed: `python -m tests.agent.ring.writer PATH SEED ...`.

Every entry says which one of its queue it is. After each commit, and at the start, it reports how
far each queue is. With `nosync` LMDB is told not to sync: what the tests must then notice.
"""

import os
import random
import struct
import sys
from types import SimpleNamespace

import lmdb

from edge_agent.ring import environment
from edge_agent.ring.record import Ack, Entry
from edge_agent.ring.store import Ring
from tests.agent.ring.model import FLOORS, open_small

# Of each queue: entries appended, acknowledged, dropped.
REPORT = struct.Struct("<12Q")
_NAME = struct.Struct("<BQ")
_NOISE = random.Random(3).randbytes(100_000)


def numbered(queue: int, number: int, size: int) -> Entry:
    """Entry `number` of `queue`, which is all in its body."""
    start = (number * 37 + queue) % 50_000
    half = size // 2
    body = _NAME.pack(queue, number) + _NOISE[start : start + half] + b"x" * half
    return Entry(body, 1 + number % 3, len(body) + number % 5, number, number)


def check_entry(queue: int, number: int, entry: Entry) -> None:
    """It is the one, to the byte."""
    assert _NAME.unpack_from(entry.body) == (queue, number)
    assert entry == numbered(queue, number, len(entry.body) - _NAME.size)


def report(ring: Ring) -> bytes:
    """How far the ring is."""
    numbers = []
    for queue in sorted(FLOORS):
        account = ring.account(queue)
        dropped = sum(totals.entries for totals in account.dropped.values())
        numbers += [account.appended.entries, account.acked.entries, dropped]
    return REPORT.pack(*numbers)


def step(ring: Ring, rng: random.Random) -> None:
    """A commit like an agent's: groups for some queues, acknowledgements for some."""
    appends = []
    for queue in rng.sample(sorted(FLOORS), rng.randrange(1, 4)):
        first = ring.account(queue).appended.entries
        sizes = [
            rng.choice((50, 500, 4000, 9000, 40_000)) for _ in range(rng.choice((1, 1, 3, 12)))
        ]
        entries = [numbered(queue, first + n, size // 2 * 2) for n, size in enumerate(sizes)]
        appends.append((queue, entries))
    acks = []
    for queue in FLOORS:
        if rng.random() < 0.3:
            record = ring.read(queue, newest=rng.random() < 0.5)
            if record is not None:
                some = frozenset(record.indexes[::2]) if rng.random() < 0.5 else None
                acks.append(Ack(queue, record.position, some))
    ring.commit(appends, acks)


def check(ring: Ring) -> int:
    """Everything that is held is what was appended, in order, once; how many entries."""
    held = 0
    for queue in sorted(FLOORS):
        account = ring.account(queue)
        skip: set[int] = set()
        last, entries, items, size = -1, 0, 0, 0
        while (record := ring.read(queue, newest=False, skip=skip)) is not None:
            skip.add(record.position)
            for index, entry in zip(record.indexes, record.entries, strict=True):
                number = record.sequence + index
                assert last < number < account.appended.entries
                check_entry(queue, number, entry)
                last = number
                entries, items, size = entries + 1, items + entry.items, size + entry.size
        live = account.live
        assert (live.records, live.entries, live.items, live.bytes) == (
            len(skip),
            entries,
            items,
            size,
        )
        held += entries
    return held


def main() -> None:
    """Commit, and report, for ever or as often as is asked."""
    path, seed, commits, *options = sys.argv[1:]
    if "nosync" in options:
        settings = {"sync": False, "metasync": False}
        environment.lmdb = SimpleNamespace(
            open=lambda *args, **given: lmdb.open(*args, **{**given, **settings}), Error=lmdb.Error
        )
    marks = sys.stdout.fileno()
    if "mark" in options:
        marks = os.open(os.path.join(path, "MARKS"), os.O_WRONLY | os.O_CREAT, 0o600)
    rng = random.Random(int(seed))
    ring, opening = open_small(path, strict="lazy" not in options)
    assert not opening.moved_aside, opening
    os.write(marks, report(ring))
    for _ in range(int(commits)):
        step(ring, rng)
        os.write(marks, report(ring))
    if "leave" in options:
        os._exit(0)
    ring.close()


if __name__ == "__main__":
    main()
