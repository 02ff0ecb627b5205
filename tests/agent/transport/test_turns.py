"""Turns on the loop: who may go on, and who waits."""

from collections.abc import Callable

import pytest

from edge_agent.transport.turns import Turns


class Loop:
    """Calls soon what it is told to."""

    def __init__(self) -> None:
        self.called: list[Callable[[], None]] = []

    def go_round(self) -> None:
        """Once."""
        called = self.called.copy()
        self.called.clear()
        for call in called:
            call()


@pytest.fixture
def loop() -> Loop:
    """A fresh one."""
    return Loop()


def waiter(turns: Turns, name: str, times: int, done: list[str]) -> Callable[[], None]:
    """Works 30 ms each time it is called, so many times."""
    left = [times]

    def go_on() -> None:
        done.append(name)
        turns.spend(0.03)
        left[0] -= 1
        if left[0]:
            turns.wait(go_on)

    return go_on


def test_a_share_is_spent_bit_by_bit(loop: Loop) -> None:
    """Nothing is scheduled before somebody waits."""
    turns = Turns(loop.called.append, 0.05)
    turns.spend(0.03)
    assert not turns.over
    turns.spend(0.03)
    assert turns.over
    assert loop.called == []


def test_who_waits_goes_on_when_the_loop_has_been_round(loop: Loop) -> None:
    """In order, as far as the share goes; who waits again waits behind the others."""
    turns, done = Turns(loop.called.append, 0.05), list[str]()
    for name in ("a", "b", "c"):
        turns.wait(waiter(turns, name, 2, done))
    assert len(loop.called) == 1
    steps = []
    while loop.called:
        loop.go_round()
        steps.append("".join(done))
        done.clear()
    assert steps == ["ab", "ca", "bc"]


def test_one_that_waits_again_is_not_called_twice_in_a_turn(loop: Loop) -> None:
    """However little it has done: others are to have theirs in between."""
    turns, calls = Turns(loop.called.append, 0.05), list[int]()

    def again() -> None:
        calls.append(1)
        turns.wait(again)

    turns.wait(again)
    loop.go_round()
    loop.go_round()
    assert (len(calls), len(loop.called)) == (2, 1)


def test_a_fault_of_one_does_not_end_the_turns_of_the_others(loop: Loop) -> None:
    """It is the loop's to report."""
    turns, done = Turns(loop.called.append, 0.05), list[str]()

    def faulty() -> None:
        raise ValueError("ours")

    turns.wait(faulty)
    turns.wait(waiter(turns, "b", 1, done))
    with pytest.raises(ValueError, match="ours"):
        loop.go_round()
    loop.go_round()
    assert done == ["b"]
    assert loop.called == []
