"""What is admitted before the clock is right: marked, held a while, and dated once it is.

A device without a clock of its own wakes up in 1970, or when it was last switched off. Until the
time is known (host/synchronised.py) every Resource says `clock.synced` = false, and nothing is sent
for HOLD_S at most. Once it is known, what was admitted in this boot is moved to where it belongs,
on the wire and not in the ring, and says true. What another boot has left can be dated by nobody,
and is sent as it is.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from edge_agent.exporter.request import UNSYNCHRONISED, Request, Stamp
from edge_agent.log import Log
from edge_agent.otlp.signal import Signal

HOLD_S = 600.0
_LOOK_S, _LATER_LOOK_S = 1.0, 15.0
# The kernel's start of a boot is in whole seconds, and follows the clock with a tolerance of a
# minute (host/clock.py); apps have clocks that are a little ahead.
_SLACK_NANO = 61_000_000_000

_log = Log("clock")


class Synchronised(Protocol):
    """Whether the clock is right."""

    def trusted(self) -> bool:
        """For good, once it is."""
        ...


@dataclass(slots=True)
class Gate:
    """Closed while the time is not known, for HOLD_S at most."""

    synchronised: Synchronised
    correction: Callable[[int, int, int, int], int]
    clock: Callable[[], float] = time.monotonic
    unix_nano: Callable[[], int] = time.time_ns
    boottime_nano: Callable[[], int] = lambda: time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    opened: Callable[[], None] = lambda: None
    trusted: bool = False
    _since_s: float = 0.0

    def __post_init__(self) -> None:
        self.trusted = self.synchronised.trusted()
        self._since_s = self.clock()
        if not self.trusted:
            _log.warning(
                "the clock is not set: holding data until it is, or for a while",
                hold_s=HOLD_S,
                remedy="run an NTP client, or give the device a battery-backed clock",
            )

    def stamp(self) -> Stamp | None:
        """What a request that is admitted now has to carry; None where the time is right."""
        if self.trusted:
            return None
        return Stamp(self.unix_nano(), self.boottime_nano(), UNSYNCHRONISED)

    def mark(self, signal: Signal, body: bytes) -> bytes:
        """`body` with `clock.synced` = false in each Resource."""
        # Few devices ever need this module.
        from edge_agent.otlp.rebase import mark
        from edge_agent.otlp.walk import MalformedError, TooLargeError

        try:
            return mark(signal, body)
        except (MalformedError, TooLargeError):
            # Admitted as it is: odd, but whole. It goes without a mark.
            return body

    def wait_s(self) -> float:
        """Seconds for which nothing is to be sent, unless the gate opens before; 0 for none."""
        return 0.0 if self.trusted else max(0.0, self._since_s + HOLD_S - self.clock())

    def body(self, signal: Signal, request: Request) -> bytes:
        """What is sent for a request that was admitted when the time was not known."""
        if not self.trusted:
            return request.body
        from edge_agent.otlp.rebase import rebase
        from edge_agent.otlp.walk import MalformedError

        offset = self.correction(
            request.unix_nano, request.boottime_nano, self.unix_nano(), self.boottime_nano()
        )
        booted = request.unix_nano - request.boottime_nano
        try:
            return rebase(
                signal,
                request.body,
                offset,
                not_before=max(1, booted - _SLACK_NANO),
                not_after=request.unix_nano + _SLACK_NANO,
            )
        except MalformedError:
            return request.body

    async def run(self) -> None:
        """Look whether the time is known by now, until it is."""
        while not self.trusted:
            held = self.wait_s() > 0
            await asyncio.sleep(_LOOK_S if held else _LATER_LOOK_S)
            self.trusted = self.synchronised.trusted()
            if self.trusted:
                _log.info("the clock is set", after_s=round(self.clock() - self._since_s, 1))
                self.opened()
        # Parts of the agent do not end.
        await asyncio.Event().wait()
