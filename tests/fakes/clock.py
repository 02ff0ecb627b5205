"""An event loop whose time is advanced instead of waited for."""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")
_DEADLOCK_S = 10.0


class _JumpingSelector(selectors.DefaultSelector):
    """Asks for ready files without waiting; if there are none, time jumps to the next timer."""

    loop: "FakeTimeLoop"

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready or timeout == 0:
            return ready
        if timeout is None:
            # Nothing is scheduled: only real I/O can go on. A test that waits for nothing fails.
            ready = super().select(_DEADLOCK_S)
            if not ready:
                raise RuntimeError("the test waits for something that never comes")
            return ready
        self.loop.now_s += max(timeout, 0)
        return []


class FakeTimeLoop(asyncio.SelectorEventLoop):
    """asyncio on fake time: timers fire in order, at once."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        selector = _JumpingSelector()
        selector.loop = self
        super().__init__(selector)

    def time(self) -> float:
        return self.now_s


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run `main` on fake time."""
    with asyncio.Runner(loop_factory=FakeTimeLoop) as runner:
        return runner.run(main)
