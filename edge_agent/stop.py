"""A request to stop that may arrive before there is a loop to tell.

Imports take a second on a small device, and systemd may stop us within it: so SIGTERM and SIGINT
are taken before anything slow is imported, remembered, and handed to the loop once there is one.
"""

import signal
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopRequest:
    """Whether we were asked to stop. Create it in the main thread.

    `requested` is the first signal's number; later signals are as good as the first.
    """

    def __init__(self) -> None:
        self.requested: int | None = None
        self._notify: Callable[[], None] | None = None

    def take_signals(self) -> None:
        """From now on SIGTERM and SIGINT are remembered instead of ending the process."""
        for number in STOP_SIGNALS:
            signal.signal(number, self._interrupted)

    def release_signals(self) -> None:
        """From now on they do what they usually do, and did one arrive meanwhile, at once."""
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if self.requested is not None:
            signal.raise_signal(self.requested)

    def forward(self, loop: "AbstractEventLoop", notify: Callable[[], None]) -> None:
        """Have `loop` call `notify` once: at the first signal, or soon if it was there already."""
        for number in STOP_SIGNALS:
            loop.add_signal_handler(number, self._request, number)
        # Until this callback of the loop returns, only _interrupted can have been called: a signal
        # is either seen here or delivered by the loop later.
        if self.requested is None:
            self._notify = notify
        else:
            loop.call_soon(notify)

    def _interrupted(self, number: int, _frame: FrameType | None) -> None:
        self._request(number)

    def _request(self, number: int) -> None:
        if self.requested is None:
            self.requested = number
            if self._notify is not None:
                self._notify()
