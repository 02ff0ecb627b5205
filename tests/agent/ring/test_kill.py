"""kill -9 at any moment: what was reported is there, what is there is right, and all of it adds up.

The long form runs under `make torture`.
"""

import os
import random
import select
import signal
import time

import pytest

from edge_agent.ring.store import Ring
from tests.agent.ring.model import check_pages, open_small
from tests.agent.ring.writer import REPORT, check, report, step


def _write_until_killed(path: str, seed: int, reports: int, *, strict: bool) -> None:
    rng = random.Random(seed)
    ring, _ = open_small(path, strict=strict)
    while True:
        os.write(reports, report(ring))
        step(ring, rng)


def _killed(path: str, seed: int, rng: random.Random, *, strict: bool) -> tuple[int, ...]:
    """Run a writer, kill it at a random moment, and return its last report."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        # Nothing of the test runs on in the child, whatever happens in it.
        try:
            _write_until_killed(path, seed, writing, strict=strict)
        finally:
            os._exit(1)
    os.close(writing)
    data = b""
    moment = None
    wanted = rng.randrange(1, 12) * REPORT.size
    while moment is None or (left_s := moment - time.monotonic()) > 0:
        ready, _, _ = select.select([reading], [], [], None if moment is None else left_s)
        if ready:
            part = os.read(reading, 1 << 16)
            assert part, "the writer ended by itself"
            data += part
        if moment is None and len(data) >= wanted:
            moment = time.monotonic() + rng.random() * 0.004
    os.kill(child, signal.SIGKILL)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
    while part := os.read(reading, 1 << 16):
        data += part
    os.close(reading)
    return REPORT.unpack_from(data, (len(data) // REPORT.size - 1) * REPORT.size)


def _kill_often(path: str, times: int) -> None:
    rng = random.Random(99)
    ahead = 0
    unclean, before = False, bytes(REPORT.size)
    for number in range(times):
        strict = rng.random() < 0.5
        reported = _killed(path, number, rng, strict=strict)
        check_pages(path)
        ring, opening = open_small(path, strict=strict)
        assert (opening.moved_aside, opening.reason, opening.created) == ("", "", False)
        # One that was killed before its first commit has left no trace.
        unclean |= report(ring) != before
        assert opening.unclean == unclean
        _at_least(ring, reported)
        ahead += REPORT.unpack(report(ring)) != reported
        check(ring)
        assert ring.map_full == 0
        clean, before = rng.random() < 0.5, report(ring)
        unclean &= not clean
        ring.close(clean=clean)
    # Some died between a commit and its report, else the moments were not random.
    assert 0 < ahead < times


def _at_least(ring: Ring, reported: tuple[int, ...]) -> None:
    for now, before in zip(REPORT.unpack(report(ring)), reported, strict=True):
        assert now >= before


def test_nothing_reported_is_lost_by_a_kill(ring_path: str) -> None:
    """200 kills of one ring, which goes on being used by the next writer."""
    _kill_often(ring_path, 200)


@pytest.mark.torture
@pytest.mark.timeout(0)
def test_nothing_reported_is_lost_by_two_thousand_kills(ring_path: str) -> None:
    """The same, 2,000 times."""
    _kill_often(ring_path, 2000)
