"""One timer for many deadlines, on a clock that the test moves."""

import asyncio
from collections.abc import Callable

from edge_agent.transport.deadline import Deadline


class Timer:
    """What `call_at` returns."""

    def __init__(self, at_s: float, callback: Callable[[], None]) -> None:
        self.at_s = at_s
        self.callback = callback
        self.cancelled = False

    def when(self) -> float:
        return self.at_s

    def cancel(self) -> None:
        self.cancelled = True


class FakeLoop:
    """Time and timers, and how many timers were ever made."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.timers: list[Timer] = []

    def time(self) -> float:
        return self.now_s

    def call_at(self, at_s: float, callback: Callable[[], None]) -> Timer:
        self.timers.append(Timer(at_s, callback))
        return self.timers[-1]

    def advance_to(self, now_s: float) -> None:
        """Fire what is due, in order."""
        self.now_s = now_s
        while due := [t for t in self.timers if not t.cancelled and t.at_s <= now_s]:
            timer = min(due, key=Timer.when)
            timer.cancelled = True
            timer.callback()


def pair() -> tuple[FakeLoop, Deadline, list[float]]:
    """A loop, a deadline on it, and when it expired."""
    loop = FakeLoop()
    expired: list[float] = []
    return loop, Deadline(loop, lambda: expired.append(loop.now_s)), expired


def test_it_expires_once_at_its_time() -> None:
    """Not before, and not again."""
    loop, deadline, expired = pair()
    deadline.set(5)
    loop.advance_to(4.9)
    assert expired == []
    loop.advance_to(5)
    loop.advance_to(100)
    assert expired == [5]


def test_moving_it_back_makes_no_timer_for_each_move() -> None:
    """The one there is asks for the rest when it fires."""
    loop, deadline, expired = pair()
    for second in range(100):
        loop.advance_to(second)
        deadline.set(300)
    assert len(loop.timers) == 1
    loop.advance_to(300)
    assert expired == []
    assert len(loop.timers) == 2
    loop.advance_to(399)
    assert expired == [399]


def test_moving_it_forward_replaces_the_timer() -> None:
    """A shorter patience must not wait for the longer."""
    loop, deadline, expired = pair()
    deadline.set(300)
    deadline.set(10)
    loop.advance_to(10)
    assert expired == [10]
    assert [timer.cancelled for timer in loop.timers] == [True, True]


def test_without_a_time_it_never_expires() -> None:
    """Also when the timer of an earlier one fires."""
    loop, deadline, expired = pair()
    deadline.set(10)
    deadline.set(None)
    loop.advance_to(50)
    assert expired == []
    deadline.set(5)
    loop.advance_to(55)
    assert expired == [55]


def test_cancelled_it_keeps_no_timer() -> None:
    """A closed connection must leave nothing in the loop."""
    loop, deadline, expired = pair()
    deadline.cancel()
    deadline.set(10)
    deadline.cancel()
    assert all(timer.cancelled for timer in loop.timers)
    assert expired == []


async def test_it_works_on_a_real_loop() -> None:
    """asyncio's timers have what is asked of them."""
    expired = asyncio.Event()
    Deadline(asyncio.get_running_loop(), expired.set).set(0.01)
    async with asyncio.timeout(20):
        await expired.wait()
