"""Who leaves when the RAM for bodies is full.

All queues share one bound. Each has a floor: what it may always hold. Over the bound the oldest
waiting request of the queue that is furthest above its floor leaves, so that one signal cannot
evict what another is entitled to: debug logs never cost metrics.

Apps are told to come back while the bound is reached (`full`). From half of it on the ring is asked
to take what RAM alone has, and while it does, what the agent itself has to say may exceed the
bound by a quarter. Only then is anything lost.
"""

from collections import deque
from collections.abc import Callable
from typing import Protocol

# `seconds_to_loss` looks at this much of the past, in steps of a tenth of it.
_RATE_WINDOW_S = 300.0


class Holder(Protocol):
    """A queue as far as its memory is concerned."""

    @property
    def ram_bytes(self) -> int:
        """Bytes of bodies in RAM, in flight ones included."""
        ...

    def evict_oldest(self) -> bool:
        """Let the oldest waiting request leave RAM, counted if lost; whether there was one."""
        ...


class Memory:
    """The bound of all bodies in RAM, in bytes, and the queues under it.

    `press` asks the ring to take what is in RAM, and says whether it does.
    """

    def __init__(
        self,
        max_bytes: int,
        *,
        clock: Callable[[], float],
        press: Callable[[], bool] = lambda: False,
    ) -> None:
        self.max_bytes = max_bytes
        self._clock = clock
        self._press = press
        self._holders: list[tuple[Holder, int]] = []
        self._accepted = 0
        self._last_size = 0
        self._rates: deque[tuple[float, int]] = deque([(clock(), 0)], maxlen=12)

    def share(self, holder: Holder, floor: float) -> None:
        """Let `holder` in; `floor` is the share of the bound that it may always hold, 0 to 1."""
        self._holders.append((holder, int(floor * self.max_bytes)))

    def admitted(self, size: int) -> None:
        """A queue has taken `size` bytes more: make room for them if need be."""
        self._accepted += size
        self._last_size = size
        now = self._clock()
        if now - self._rates[-1][0] >= _RATE_WINDOW_S / 10:
            self._rates.append((now, self._accepted))
        self.make_room()

    def make_room(self) -> None:
        """Evict until the bound holds, or nothing waits any more."""
        if self.bytes <= self.max_bytes // 2:
            return
        bound = self.max_bytes + self.max_bytes // 4 if self._press() else self.max_bytes
        while self.bytes > bound:
            by_excess = sorted(self._holders, key=lambda h: h[0].ram_bytes - h[1], reverse=True)
            if not any(holder.evict_oldest() for holder, _ in by_excess):
                return

    def full(self, size: int) -> bool:
        """Whether `size` bytes more are too many for now."""
        return self.bytes + size > self.max_bytes

    @property
    def bytes(self) -> int:
        """Bytes of bodies in RAM."""
        return sum(holder.ram_bytes for holder, _ in self._holders)

    @property
    def usage(self) -> float:
        """What is held as a share of the point at which dropping begins, 0 to 1.

        It is 1 where one more request like the last would cost an older one: eviction itself
        always leaves a little less than the bound.
        """
        held = self.bytes
        return 1.0 if held + self._last_size > self.max_bytes else held / self.max_bytes

    def seconds_to_loss(self) -> float | None:
        """Seconds until dropping begins if nothing more were delivered; None without inflow."""
        inflow = self.inflow()
        return None if inflow is None else max(0, self.max_bytes - self.bytes) / inflow

    def inflow(self) -> float | None:
        """Bytes a second that came in over the last minutes; None without any."""
        then, accepted = self._rates[0]
        elapsed_s = self._clock() - then
        came = self._accepted - accepted
        return came / elapsed_s if elapsed_s > 0 and came > 0 else None
