"""A ring on a disk that fails: `python -m tests.agent.ring.failing WHAT PATH FAULT ERRNO [late]`.

Every call that the ring makes fails once in turn, for once or until the disk is well again.
"""

import mmap
import os
import struct
import sys
from dataclasses import replace

from edge_agent.ring.opening import DATA
from edge_agent.ring.record import Ack, Entry, RingError
from edge_agent.ring.store import Ring
from tests.agent.ring.model import FLOORS, MIB, Model, check_pages, entry, open_small

_FAULT = struct.Struct("=iii")
FOR_ONCE, ALWAYS = 1, -1
LATE = 0x10000


class Fault:
    """How disk.c is told what to do."""

    def __init__(self, path: str, number: int, *, late: bool) -> None:
        with open(path, "r+b") as file:
            self._map = mmap.mmap(file.fileno(), _FAULT.size)
        self._errno = number | (LATE if late else 0)

    def arm(self, calls: int, times: int) -> None:
        """`calls` more calls succeed, and then `times` fail."""
        self._map[:] = _FAULT.pack(calls, self._errno, times)

    def disarm(self) -> bool:
        """All is well; whether something had failed."""
        _, _, times = _FAULT.unpack(self._map[:])
        self._map[:] = bytes(_FAULT.size)
        return times not in (FOR_ONCE, ALWAYS)


def _expect(error: RingError, number: int) -> None:
    assert error.errno == number, error
    assert error.remedy, error


def commit_lazily(path: str, fault: Fault, number: int) -> None:
    """Without syncing LMDB's header."""
    commit(path, fault, number, strict=False)


def commit(path: str, fault: Fault, number: int, *, strict: bool = True) -> None:
    """A commit that fails changes nothing, and can be tried again."""
    ring, _ = open_small(path, strict=strict)
    model = Model()
    serial = 0
    failed = 0
    for calls in range(40):
        for times in (FOR_ONCE, ALWAYS):
            appends: list[tuple[int, list[Entry]]] = []
            for queue in FLOORS:
                serial += 10
                appends.append((queue, [entry(serial + n, 5000, items=2) for n in range(8)]))
            acks = [
                Ack(q, held.records[0].position)
                for q, held in model.queues.items()
                if serial % 3 and held.records
            ]
            fault.arm(calls, times)
            try:
                committed = ring.commit(appends, acks)
            except RingError as error:
                _expect(error, number)
                fault.disarm()
                failed += 1
                model.check(ring)
                model.read(ring, 1, newest=False)
                committed = ring.commit(appends, acks)
            if committed.error is not None:
                fault.disarm()
                failed += 1
                assert committed.error.errno == number
                # What is said to be done is; the rest is still to be done.
                done = [
                    [e for e, ref in zip(entries, refs, strict=True) if ref is not None]
                    for (_, entries), refs in zip(appends, committed.placed, strict=True)
                ]
                assert sum(map(len, done)) < sum(len(entries) for _, entries in appends)
            model.committed(appends, acks[: committed.acked], replace(committed, error=None))
            fault.disarm()
            model.check(ring)
    assert failed > 10
    model.read_all(ring)
    ring.close()
    check_pages(path)
    ring, opening = open_small(path)
    assert not opening.moved_aside
    model.check(ring)
    model.read_all(ring)
    ring.close()


def create(path: str, fault: Fault, number: int) -> None:
    """A ring that could not be made leaves nothing, and can be made later."""
    failed = 0
    for calls in range(12):
        for times in (FOR_ONCE, ALWAYS):
            fault.arm(calls, times)
            try:
                ring, opening = open_small(path)
            except RingError as error:
                failed += 1
                _expect(error, number)
                fault.disarm()
                assert os.listdir(path) in ([], ["lock.mdb"])
                ring, opening = open_small(path)
            fault.disarm()
            assert opening.created
            ring.commit([(1, [entry(1, 100)])])
            ring.close()
            check_pages(path)
            for name in os.listdir(path):
                os.unlink(os.path.join(path, name))
    assert failed >= 4


def close(path: str, fault: Fault, number: int) -> None:
    """A ring that could not be closed in order is unclean, and whole."""
    failed = 0
    for calls in range(6):
        ring, _ = open_small(path)
        ring.commit([(1, [entry(calls, 100)])])
        appended = ring.account(1).appended
        fault.arm(calls, ALWAYS)
        try:
            ring.close()
        except RingError as error:
            failed += 1
            _expect(error, number)
        fault.disarm()
        ring, opening = open_small(path)
        assert not opening.moved_aside
        assert ring.account(1).appended == appended
        ring.close()
    assert failed


def resize(path: str, fault: Fault, number: int) -> None:
    """A ring that could not be made larger or smaller stays as it was, and says so."""
    failed = 0
    ring: Ring
    for calls in range(30):
        for start, end in ((2, 3), (4, 2)):
            ring, _ = open_small(path, start)
            serial = calls * 1000
            while not any(ring.account(q).dropped.get("queue_full") for q in FLOORS):
                serial += 1
                ring.commit([(1, [entry(serial, 30_000)])])
            before = ring.account(1)
            ring.close()
            fault.arm(calls, ALWAYS)
            try:
                ring, opening = open_small(path, end)
                if fault.disarm():
                    assert opening.reason
                    failed += 1
            except RingError as error:
                fault.disarm()
                failed += 1
                _expect(error, number)
                ring, opening = open_small(path, end)
            size = os.path.getsize(os.path.join(path, DATA))
            assert size == opening.max_bytes
            assert size in (start * MIB, end * MIB)
            account = ring.account(1)
            assert account.appended == before.appended
            ring.commit([(2, [entry(1, 100)])])
            ring.close()
            check_pages(path)
            for name in os.listdir(path):
                if not name.startswith("shrunk"):
                    os.unlink(os.path.join(path, name))
    assert failed > 4


def main() -> None:
    """Do what is asked."""
    what, path, fault, number, *late = sys.argv[1:]
    tests = {
        "commit": commit,
        "commit-lazily": commit_lazily,
        "create": create,
        "close": close,
        "resize": resize,
    }
    tests[what](path, Fault(fault, int(number), late=bool(late)), int(number))


if __name__ == "__main__":
    main()
