"""Admission: how many bytes may be on their way in."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.receiver.admission import SMALL_BYTES, Admission

MIB = 1 << 20


def test_what_fits_is_granted_and_what_does_not_is_refused() -> None:
    """Bytes in flight never exceed the room."""
    admission = Admission(8 * MIB)
    assert admission.grant(4 * MIB)
    assert not admission.grant(4 * MIB)
    admission.release(4 * MIB)
    assert admission.grant(4 * MIB)
    assert admission.in_flight == admission.peak == 4 * MIB


def test_large_bodies_leave_room_for_small_ones() -> None:
    """A quarter of the room is for small bodies alone."""
    admission = Admission(8 * MIB)
    assert admission.grant(6 * MIB)
    assert not admission.grant(SMALL_BYTES + 1)
    assert [admission.grant(SMALL_BYTES) for _ in range(33)] == [True] * 32 + [False]
    assert admission.in_flight == 8 * MIB


def test_who_waits_is_let_in_in_order() -> None:
    """The first to wait is the first to be let in, also where a later one would fit earlier."""
    admission = Admission(8 * MIB)
    told: list[str] = []
    assert admission.grant(6 * MIB)
    admission.wait(3 * MIB, lambda: told.append("first"))
    admission.wait(1 * MIB, lambda: told.append("second"))
    assert admission.waiting == 2
    admission.release(1 * MIB)
    assert told == []
    admission.release(2 * MIB)
    assert told == ["first"]
    admission.release(3 * MIB)
    assert told == ["first", "second"]
    assert (admission.in_flight, admission.waiting) == (4 * MIB, 0)


def test_large_bodies_do_not_overtake_and_small_ones_do() -> None:
    """What would fit is refused while others wait for it, unless it is small."""
    admission = Admission(8 * MIB)
    assert admission.grant(4 * MIB)
    admission.wait(4 * MIB, lambda: None)
    assert not admission.grant(SMALL_BYTES + 1)
    assert admission.grant(SMALL_BYTES)


def test_a_wait_that_fits_is_over_at_once() -> None:
    """There is no wait where there is room."""
    admission = Admission(8 * MIB)
    told: list[str] = []
    leave = admission.wait(MIB, lambda: told.append("in"))
    leave()
    assert told == ["in"]
    assert (admission.in_flight, admission.waiting) == (MIB, 0)


def test_who_leaves_is_not_let_in_and_the_next_one_moves_up() -> None:
    """A sender that gave up takes no room and blocks nobody."""
    admission = Admission(8 * MIB)
    told: list[str] = []
    assert admission.grant(4 * MIB)
    leave = admission.wait(4 * MIB, lambda: told.append("gone"))
    admission.wait(MIB, lambda: told.append("next"))
    leave()
    leave()
    assert told == ["next"]
    assert (admission.in_flight, admission.waiting) == (5 * MIB, 0)


def test_leaving_after_being_let_in_does_nothing() -> None:
    """The bytes are taken then, and stay so until they are released."""
    admission = Admission(8 * MIB)
    assert admission.grant(6 * MIB)
    leave = admission.wait(MIB, lambda: None)
    admission.release(6 * MIB)
    leave()
    assert (admission.in_flight, admission.waiting) == (MIB, 0)


def test_who_is_let_in_may_release_at_once() -> None:
    """A chain of waiting bodies is no recursion."""
    admission = Admission(8 * MIB)
    told: list[int] = []

    def enter(number: int) -> Callable[[], None]:
        def entered() -> None:
            told.append(number)
            admission.release(6 * MIB)

        return entered

    assert admission.grant(6 * MIB)
    for number in range(5000):
        admission.wait(6 * MIB, enter(number))
    admission.release(6 * MIB)
    assert told == list(range(5000))
    assert admission.in_flight == 0


def test_a_body_larger_than_all_the_room_goes_alone() -> None:
    """It must not wait for ever."""
    admission = Admission(MIB)
    assert admission.grant(1)
    told: list[str] = []
    admission.wait(2 * MIB, lambda: told.append("in"))
    admission.release(1)
    assert told == ["in"]


def test_releasing_more_than_was_granted_is_our_bug() -> None:
    """It would let in more than fits for ever after."""
    admission = Admission(MIB)
    assert admission.grant(5)
    with pytest.raises(AssertionError, match="more than was granted"):
        admission.release(6)


@given(st.data())
def test_whatever_happens_the_sum_is_right_and_within_the_room(data: st.DataObject) -> None:
    """Model: what was granted and not released, in a list."""
    admission = Admission(4 * MIB)
    held: list[int] = []
    leaves: list[Callable[[], None]] = []
    for step in data.draw(st.lists(st.sampled_from("gwrl"), max_size=60)):
        size = data.draw(st.integers(1, 3 * MIB))
        if step == "g" and admission.grant(size):
            held.append(size)
        elif step == "w":
            leaves.append(admission.wait(size, lambda size=size: held.append(size)))  # type: ignore[misc]  # bound early
        elif step == "r" and held:
            admission.release(held.pop(data.draw(st.integers(0, len(held) - 1))))
        elif step == "l" and leaves:
            leaves.pop(data.draw(st.integers(0, len(leaves) - 1)))()
        assert admission.in_flight == sum(held) <= 4 * MIB
        # Nobody waits for room that is there.
        assert admission.in_flight or not admission.waiting
