"""Room for bodies: granted at once, in turn, or not."""

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from edge_agent.transport.budget import SMALL_BYTES, Budget

LARGE = SMALL_BYTES + 1
MAX = 8 * LARGE


def test_large_bodies_leave_a_quarter_to_small_ones() -> None:
    """Whoever announces much and sends little keeps out those who announce much, and no others."""
    budget = Budget(MAX)
    assert [budget.grant(LARGE) for _ in range(7)] == [True] * 6 + [False]
    assert budget.grant(SMALL_BYTES)
    assert budget.grant(SMALL_BYTES)
    assert not budget.grant(SMALL_BYTES)
    assert budget.in_flight == 6 * LARGE + 2 * SMALL_BYTES


def test_room_is_scarce_when_little_is_left_or_others_wait() -> None:
    """Then the slow lose theirs."""
    budget = Budget(MAX)
    assert budget.grant(6 * LARGE)
    assert not budget.scarce
    end = budget.wait(LARGE, lambda: None)
    assert budget.scarce
    end()
    assert not budget.scarce
    assert budget.grant(1)
    assert budget.scarce


def test_who_waits_is_served_in_turn() -> None:
    """A later one that would fit does not overtake, whether it waits or asks."""
    budget, served = Budget(MAX), list[str]()
    assert budget.grant(6 * LARGE)
    budget.wait(5 * LARGE, lambda: served.append("first"))
    budget.wait(LARGE, lambda: served.append("second"))
    assert not budget.grant(LARGE)
    budget.release(3 * LARGE)
    assert served == []
    budget.release(2 * LARGE)
    assert served == ["first"]
    budget.release(5 * LARGE)
    assert served == ["first", "second"]
    assert budget.in_flight == 2 * LARGE


def test_who_waits_no_longer_lets_the_next_one_in() -> None:
    """And ending a wait that is over changes nothing."""
    budget, served = Budget(MAX), list[str]()
    assert budget.grant(5 * LARGE)
    give_up = budget.wait(6 * LARGE, lambda: served.append("first"))
    end = budget.wait(LARGE, lambda: served.append("second"))
    give_up()
    assert served == ["second"]
    give_up()
    end()
    assert budget.in_flight == 6 * LARGE


def test_many_that_need_it_for_a_moment_do_not_pile_up() -> None:
    """Each gives back in the moment it is served, which serves the next: without recursion."""
    budget, served = Budget(MAX), list[int]()

    def use(number: int) -> Callable[[], None]:
        def granted() -> None:
            served.append(number)
            budget.release(SMALL_BYTES)

        return granted

    assert budget.grant(6 * LARGE)
    assert budget.grant(SMALL_BYTES)
    assert budget.grant(SMALL_BYTES)
    for number in range(5000):
        budget.wait(SMALL_BYTES, use(number))
    budget.release(SMALL_BYTES)
    assert served == list(range(5000))
    assert budget.in_flight == 6 * LARGE + SMALL_BYTES


@given(st.lists(st.tuples(st.integers(1, MAX * 3 // 4), st.booleans())))
def test_no_more_is_ever_out_than_there_is(asks: list[tuple[int, bool]]) -> None:
    """Whatever the order, and in the end everybody who waited has been served."""
    budget, held, waiting = Budget(MAX), list[int](), set[int]()

    def wait(number: int, size: int) -> None:
        def granted() -> None:
            waiting.discard(number)
            held.append(size)

        waiting.add(number)
        budget.wait(size, granted)

    for number, (size, give_back) in enumerate(asks):
        if budget.grant(size):
            held.append(size)
        else:
            wait(number, size)
        if give_back and held:
            budget.release(held.pop())
        assert budget.in_flight == sum(held) <= MAX
    while held:
        budget.release(held.pop())
    assert (budget.in_flight, waiting) == (0, set())
