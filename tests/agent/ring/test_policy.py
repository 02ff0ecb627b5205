"""How much fits, and who loses."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.ring.layout import PAGE, chunks
from edge_agent.ring.policy import (
    MAX_BYTES,
    MIN_BYTES,
    SLOT,
    budget,
    needed_pages,
    used_pages,
    victim,
)

FLOORS = {1: 0.25, 2: 0.15, 3: 0.10, 4: 0.15}


@given(st.integers(MIN_BYTES // SLOT, MAX_BYTES // SLOT))
def test_a_budget_leaves_room_for_two_of_the_largest_commits(slots: int) -> None:
    """And half of the file, at the least, for data."""
    max_bytes = slots * SLOT
    found = budget(max_bytes)
    assert found.map_bytes < max_bytes
    assert found.map_bytes % PAGE == 0
    largest = chunks(found.group_bytes + found.record_bytes)
    assert found.map_bytes // PAGE - found.budget >= 2 * largest + 64
    assert found.capacity_bytes > max_bytes // 2
    assert found.record_bytes == min(1 << 20, max_bytes // 32)
    assert chunks(found.record_bytes) <= found.deletes <= 480
    assert found.records >= 8


@pytest.mark.parametrize(("mib", "share"), [(2, 0.56), (16, 0.83), (64, 0.92), (160, 0.97)])
def test_large_files_are_used_better(mib: int, share: float) -> None:
    """What is promised of the sizes that are used."""
    assert budget(mib << 20).capacity_bytes / (mib << 20) > share


def test_pages_are_counted_as_lmdb_does() -> None:
    """With the two headers; other statistics do not matter."""
    assert used_pages(branch_pages=1, leaf_pages=2, overflow_pages=3, entries=9, depth=2) == 8
    assert used_pages() == 2


def test_what_is_replaced_makes_room() -> None:
    """But a leaf may be split, and half empty."""
    assert needed_pages(0, 0) == 8
    assert needed_pages(10 * PAGE, 4 * PAGE) == 14
    assert needed_pages(1, 10 * PAGE) == 8


def test_the_queue_furthest_above_its_floor_loses() -> None:
    """Debug logs cannot evict metrics."""
    assert victim({1: 30, 2: 15, 3: 45, 4: 10}, FLOORS, 100) == 3
    assert victim({1: 55, 2: 15, 3: 20, 4: 10}, FLOORS, 100) == 1
    # All below their floors: the one that is least so.
    assert victim({1: 10, 2: 14}, FLOORS, 100) == 2
    # Without a floor there is nothing to stand on.
    assert victim({1: 30, 9: 11}, FLOORS, 100) == 9
    assert victim({1: 0, 2: 0}, FLOORS, 100) is None
    assert victim({}, FLOORS, 100) is None


@given(st.dictionaries(st.sampled_from(sorted(FLOORS)), st.integers(0, 1000), min_size=1))
def test_none_loses_below_its_floor_while_another_is_above(stored: dict[int, int]) -> None:
    """The floors are promises, not weights."""
    loser = victim(stored, FLOORS, 1000)
    if loser is None:
        assert not any(stored.values())
    elif any(taken > FLOORS[queue] * 1000 for queue, taken in stored.items()):
        assert stored[loser] > FLOORS[loser] * 1000
