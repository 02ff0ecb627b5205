"""A disk that is full, or broken, at any call that the ring makes (disk.c)."""

import errno
import os
from pathlib import Path

import pytest

from tests.agent.ring import disk


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO], ids=["full", "broken"])
@pytest.mark.parametrize("what", ["commit", "commit-lazily", "create", "close", "resize"])
def test_a_disk_that_fails_at_any_call_costs_nothing(
    tmp_path: Path, ring_path: str, what: str, number: int
) -> None:
    """An error with its remedy, the ring as it was, and all goes on when the disk is well again."""
    os.mkdir(ring_path)
    fault = tmp_path / "fault"
    fault.write_bytes(bytes(12))
    arguments = ["tests.agent.ring.failing", what, ring_path, str(fault), str(number)]
    disk.run(disk.build(tmp_path), ring_path, arguments, fault=str(fault))


@pytest.mark.parametrize("what", ["commit", "commit-lazily"])
def test_a_disk_that_says_too_late_that_it_failed_costs_nothing(
    tmp_path: Path, ring_path: str, what: str
) -> None:
    """The write is seen by all, and was refused: what is in memory must agree with what is seen."""
    os.mkdir(ring_path)
    fault = tmp_path / "fault"
    fault.write_bytes(bytes(12))
    arguments = ["tests.agent.ring.failing", what, ring_path, str(fault), str(errno.EIO), "late"]
    disk.run(disk.build(tmp_path), ring_path, arguments, fault=str(fault))
