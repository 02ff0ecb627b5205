"""Bytes that request bodies may take, of all connections together. Pure.

A body is counted before it is read, so the sum is a bound and not a measurement. Who finds no room
waits, first come first served. The last quarter is for small bodies alone: a few senders that
announce much and send little cannot keep the others out.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

# Larger than what SDKs send: 512 spans are 150 KB.
SMALL_BYTES = 256 << 10


@dataclass(slots=True, eq=False)
class _Wait:
    size: int
    granted: Callable[[], None]


class Budget:
    """At most `max_bytes` are granted at a time."""

    def __init__(self, max_bytes: int) -> None:
        self.in_flight = 0
        self._max_bytes = max_bytes
        self._small: deque[_Wait] = deque()
        self._large: deque[_Wait] = deque()
        self._serving = False

    @property
    def scarce(self) -> bool:
        """Whether others wait, or less than a quarter is left."""
        if self._small or self._large:
            return True
        return self.in_flight > self._max_bytes - self._max_bytes // 4

    def grant(self, size: int) -> bool:
        """Take `size` bytes; False if they are not there, or others wait for as many."""
        return not self._queue(size) and self._take(size)

    def wait(self, size: int, granted: Callable[[], None]) -> Callable[[], None]:
        """Call `granted` once `size` bytes have been taken; what is returned ends the wait."""
        queue, wait = self._queue(size), _Wait(size, granted)
        queue.append(wait)

        def cancel() -> None:
            if wait in queue:
                queue.remove(wait)
                self._serve()

        return cancel

    def release(self, size: int) -> None:
        """Give back `size` bytes of what was taken."""
        self.in_flight -= size
        self._serve()

    def _queue(self, size: int) -> deque[_Wait]:
        return self._small if size <= SMALL_BYTES else self._large

    def _take(self, size: int) -> bool:
        kept = 0 if size <= SMALL_BYTES else self._max_bytes // 4
        if self.in_flight + size > self._max_bytes - kept:
            return False
        self.in_flight += size
        return True

    def _serve(self) -> None:
        # Who is granted may release at once, which comes back here: the outer loop goes on.
        if self._serving:
            return
        self._serving = True
        try:
            while self._serve_one():
                pass
        finally:
            self._serving = False

    def _serve_one(self) -> bool:
        for queue in (self._small, self._large):
            if queue and self._take(queue[0].size):
                queue.popleft().granted()
                return True
        return False
