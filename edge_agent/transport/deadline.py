"""One timer for all the deadlines of a connection."""

import asyncio
from collections.abc import Callable


class Deadline:
    """Calls `expired` when the time last set has come.

    Setting a later time leaves the timer alone, which asks for the rest when it fires: a busy
    connection that moves its deadline with every request makes no timer for each.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, expired: Callable[[], None]) -> None:
        self._loop = loop
        self._expired = expired
        self._at_s: float | None = None
        self._timer: asyncio.TimerHandle | None = None

    def set(self, delay_s: float | None) -> None:
        """Expire in `delay_s` seconds from now, or never."""
        if delay_s is None:
            self._at_s = None
            return
        self._at_s = self._loop.time() + delay_s
        if self._timer is not None and self._timer.when() > self._at_s:
            self._timer.cancel()
            self._timer = None
        if self._timer is None:
            self._timer = self._loop.call_at(self._at_s, self._fired)

    def cancel(self) -> None:
        """Never expire, and keep no timer."""
        self._at_s = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _fired(self) -> None:
        self._timer = None
        if self._at_s is None:
            return
        if self._at_s > self._loop.time():
            self._timer = self._loop.call_at(self._at_s, self._fired)
            return
        self._at_s = None
        self._expired()
