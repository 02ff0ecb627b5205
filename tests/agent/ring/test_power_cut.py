"""The power is cut after any write, and what was not synced is dropped, kept, reordered or torn.

The writes of a real run are recorded (disk.c) and replayed up to the cut. The long form runs under
`make torture`.
"""

import os
import random
from collections import Counter
from pathlib import Path

import pytest

from edge_agent.ring.record import RingError
from tests.agent.ring import disk
from tests.agent.ring.model import check_pages, open_small
from tests.agent.ring.writer import REPORT, check, report, step

COMMITS = 40


def _outcome(path: str, marks: list[bytes], rng: random.Random, *, may_lose: int) -> str:
    """What became of the ring: ok, or what is wrong."""
    required = REPORT.unpack(marks[-1 - may_lose]) if len(marks) > may_lose else ()
    try:
        ring, opening = open_small(path)
    except RingError as error:
        return f"not opened: {error}"
    try:
        if opening.moved_aside:
            return "moved aside"
        if any(a < b for a, b in zip(REPORT.unpack(report(ring)), required, strict=False)):
            return "lost what was reported"
        check(ring)
        # It is still good for something.
        for _ in range(2):
            step(ring, rng)
        check(ring)
    except AssertionError:
        return "wrong"
    finally:
        ring.close()
    check_pages(path)
    return "ok"


def _cut_often(
    directory: Path, path: str, states: int, mode: str, *options: str, may_lose: int = 0
) -> Counter[str]:
    recorded = os.path.join(os.path.dirname(path), "recorded")
    log = str(directory / "log")
    arguments = ["tests.agent.ring.writer", recorded, "5", str(COMMITS), "mark", "leave", *options]
    os.makedirs(recorded)
    disk.run(disk.build(directory), recorded, arguments, log=log)
    operations = list(disk.read_log(log))
    assert sum(o.op in (disk.WRITE, disk.WRITE_SYNC) for o in operations) > 4 * COMMITS
    rng = random.Random(mode)
    cuts = Counter(rng.randrange(len(operations)) for _ in range(states))
    outcomes: Counter[str] = Counter()
    now = disk.Disk()
    for number, operation in enumerate(operations):
        now.replay(operation)
        for _ in range(cuts[number]):
            now.cut(path, rng, mode)
            outcomes[_outcome(path, now.marks, rng, may_lose=may_lose)] += 1
    assert len(now.marks) == COMMITS + 1
    return outcomes


@pytest.mark.parametrize("mode", disk.MODES)
def test_a_power_cut_loses_nothing_that_was_reported(
    tmp_path: Path, ring_path: str, mode: str
) -> None:
    """strict: what commit returned for is there, however the disk reorders between syncs."""
    assert _cut_often(tmp_path, ring_path, 40, mode) == {"ok": 40}


@pytest.mark.parametrize("mode", disk.MODES)
def test_a_power_cut_loses_one_commit_at_most_where_that_is_allowed(
    tmp_path: Path, ring_path: str, mode: str
) -> None:
    """Without strict the last commit may be gone, and nothing else, and nothing is broken."""
    outcomes = _cut_often(tmp_path, ring_path, 40, mode, "lazy", may_lose=1)
    assert outcomes == {"ok": 40}


@pytest.mark.parametrize("mode", ["reordered", "some", "torn"])
def test_a_ring_that_does_not_sync_is_caught(tmp_path: Path, ring_path: str, mode: str) -> None:
    """The control: if this passed, the two above would say nothing."""
    outcomes = _cut_often(tmp_path, ring_path, 40, mode, "nosync")
    assert outcomes["ok"] < 20


@pytest.mark.torture
@pytest.mark.timeout(0)
@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("mode", disk.MODES)
def test_six_hundred_power_cuts(tmp_path: Path, ring_path: str, mode: str, strict: bool) -> None:
    """The same, 600 states a mode, strict and not."""
    options = () if strict else ("lazy",)
    outcomes = _cut_often(tmp_path, ring_path, 600, mode, *options, may_lose=0 if strict else 1)
    assert outcomes == {"ok": 600}
