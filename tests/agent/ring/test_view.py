"""What others see of a ring while an agent uses it."""

import errno
import json
import os
import subprocess
import sys

import pytest

from edge_agent.ring.layout import key
from edge_agent.ring.opening import DATA
from edge_agent.ring.record import Ack, Record, RingError
from edge_agent.ring.store import Ring
from edge_agent.ring.view import Damaged, view_ring
from tests.agent.ring.disk import ROOT
from tests.agent.ring.model import FLOORS, MIB, entry, open_small

# The agent has it open, and LMDB may be opened once in a process.
_LOOK = """
import json, sys
from edge_agent.ring.view import view_ring
with view_ring(sys.argv[1]) as view:
    live = {queue: account.live.entries for queue, account in view.accounts().items()}
    bodies = [entry.body.hex()[:16] for record in view.records(1) for entry in record.entries]
    verified = view.verify()
    print(json.dumps([live, bodies, verified.records, verified.entries, verified.problems]))
"""


def look(path: str) -> list[object]:
    """What another process sees."""
    run = subprocess.run(
        [sys.executable, "-c", _LOOK, path], cwd=ROOT, capture_output=True, text=True, check=True
    )
    found: list[object] = json.loads(run.stdout)
    return found


def fill(ring: Ring, commits: int) -> None:
    """Records of all sizes."""
    for number in range(commits):
        sizes = (50, 5000, 30_000)
        ring.commit(
            [(1 + number % 4, [entry(10 * number + n, size) for n, size in enumerate(sizes)])]
        )


def test_others_look_while_the_agent_goes_on(ring_path: str) -> None:
    """Counts, contents and checksums; and no reader is left behind."""
    ring, _ = open_small(ring_path)
    fill(ring, 12)
    live, bodies, records, entries, problems = look(ring_path)
    assert live == {str(queue): 9 for queue in FLOORS}
    assert bodies == [
        entry(10 * number + n, 0).body.hex() for number in (0, 4, 8) for n in range(3)
    ]
    assert problems == []
    assert entries == 36
    assert records == sum(totals.records for totals in ring.totals().values())
    fill(ring, 100)
    assert look(ring_path)[4] == []
    assert ring.map_full == 0
    ring.close()


def test_a_view_tells_size_age_and_end(ring_path: str) -> None:
    """All that `otel-agent buffer show` prints."""
    ring, _ = open_small(ring_path)
    fill(ring, 8)
    ring.close(clean=False)
    with view_ring(ring_path) as view:
        assert view.max_bytes == 2 * MIB
        assert view.budget.record_bytes == 64 << 10
        assert not view.state().clean
        oldest = view.oldest(1)
        assert oldest is not None
        assert oldest.unix_nano == entry(0, 0).unix_nano
        assert view.oldest(9) is None
        assert list(view.records(9)) == []


def test_many_records_are_read_a_few_at_a_time(ring_path: str) -> None:
    """More than one transaction takes, each once."""
    ring, _ = open_small(ring_path, 8)
    for number in range(150):
        ring.commit([(1, [entry(number, 17_000)])])
    ring.close()
    with view_ring(ring_path) as view:
        records = list(view.records(1))
    assert [r.position for r in records if isinstance(r, Record)] == list(range(150))


def test_damage_is_named(ring_path: str) -> None:
    """Where, and what; the other records are read."""
    ring, _ = open_small(ring_path)
    for number in range(6):
        ring.commit([(1, [entry(number, 17_000)])])
    ring.commit([(2, [entry(100, 17_000)])])
    with ring._open().begin(write=True) as txn:
        for position, place in ((1, 30), (3, 100)):
            data = bytearray(txn.get(key(1, position)))
            data[place] ^= 1
            txn.put(key(1, position), bytes(data))
        for chunk in range(5):
            txn.delete(key(2, 0, chunk))
    ring.close()
    with view_ring(ring_path) as view:
        found = list(view.records(1))
        assert [type(one) for one in found] == [Record, Damaged, Record, Damaged, Record, Record]
        verified = view.verify()
    assert (verified.records, verified.entries) == (6, 4)
    counted, *damaged = sorted(verified.problems, key=lambda problem: "record" in problem)
    assert counted.startswith("queue 2: has ")
    assert [problem.split(":")[0] for problem in damaged] == [
        "queue 1, record 1",
        "queue 1, record 3",
    ]


def test_a_page_that_is_wrong_is_a_problem(ring_path: str) -> None:
    """Free pages are counted too."""
    ring, _ = open_small(ring_path)
    fill(ring, 20)
    ring.commit([], [Ack(1, 0)])
    ring.close()
    data = os.path.join(ring_path, DATA)
    with view_ring(ring_path) as view:
        assert view.verify().problems == ()
        # An overflow page that says it is another.
        with open(data, "r+b") as file:
            for page in range(2, 400):
                file.seek(page * 4096 + 10)
                if file.read(2) == b"\4\0":
                    file.seek(page * 4096)
                    file.write(b"\xff")
        (problem,) = view.verify().problems
    assert problem.startswith("ring: page ")


def test_what_is_no_ring_is_an_error(ring_path: str) -> None:
    """None, and one that LMDB must not see."""
    with pytest.raises(RingError) as error:
        view_ring(ring_path)
    assert error.value.errno == errno.ENOENT
    os.makedirs(ring_path)
    with open(os.path.join(ring_path, DATA), "wb") as file:
        file.write(bytes(8192))
    with pytest.raises(RingError, match="not an LMDB file"):
        view_ring(ring_path)
