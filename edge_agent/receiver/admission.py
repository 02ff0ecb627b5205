"""How many bytes of requests may be on their way in at once: yes, no, or wait. Pure.

Both servers ask before they read a body: over HTTP/2 the rest of a body is let in by opening the
stream's window, over HTTP/1.1 by reading on. What is not granted stays in the sender's memory.

- Small bodies never wait behind large ones: the last `SHARE_OF_SMALL` of the room is theirs alone.
- Large ones wait in the order in which they came; none overtakes.
"""

from collections import deque
from collections.abc import Callable

# What a sender may send unasked, and what counts as a small body.
SMALL_BYTES = 64 << 10
# In all, both servers together. As much again as the queues hold in RAM.
MAX_IN_FLIGHT_BYTES = 32 << 20
SHARE_OF_SMALL = 0.25


class _Waiting:
    __slots__ = ("granted", "size")

    def __init__(self, size: int, granted: Callable[[], None]) -> None:
        self.size = size
        self.granted: Callable[[], None] | None = granted


class Admission:
    """The room for bodies on their way in; sizes are bytes."""

    def __init__(self, max_bytes: int = MAX_IN_FLIGHT_BYTES) -> None:
        self.max_bytes = max_bytes
        self._max_bytes_of_large = int(max_bytes * (1 - SHARE_OF_SMALL))
        self._in_flight = 0
        self._peak = 0
        self._queue: deque[_Waiting] = deque()
        self._waiting = 0
        self._granting = False

    @property
    def in_flight(self) -> int:
        """Bytes granted and not yet released."""
        return self._in_flight

    @property
    def peak(self) -> int:
        """The most that has ever been in flight."""
        return self._peak

    @property
    def waiting(self) -> int:
        """How many wait for room."""
        return self._waiting

    def grant(self, size: int) -> bool:
        """Take `size` bytes now, or say no; large bodies do not overtake those who wait."""
        if size > SMALL_BYTES and self._waiting:
            return False
        return self._take(size)

    def wait(self, size: int, granted: Callable[[], None]) -> Callable[[], None]:
        """Call `granted` once `size` bytes are taken for it, at once if there is room.

        What is returned ends the wait: after it `granted` is not called; it does nothing once
        `granted` was.
        """
        if self.grant(size):
            granted()
            return _nothing
        entry = _Waiting(size, granted)
        self._queue.append(entry)
        self._waiting += 1

        def leave() -> None:
            if entry.granted is not None:
                entry.granted = None
                self._waiting -= 1
                # The next in line may be smaller.
                self._grant_waiting()

        return leave

    def release(self, size: int) -> None:
        """Give `size` granted bytes back, which may let in who waits."""
        self._in_flight -= size
        assert self._in_flight >= 0, "released more than was granted"  # noqa: S101  (our bug)
        if self._queue:
            self._grant_waiting()

    def _take(self, size: int) -> bool:
        limit = self.max_bytes if size <= SMALL_BYTES else self._max_bytes_of_large
        # What is larger than the limit itself would wait for ever: it goes alone.
        if self._in_flight + size > limit and self._in_flight:
            return False
        self._in_flight += size
        self._peak = max(self._peak, self._in_flight)
        return True

    def _grant_waiting(self) -> None:
        # Those who are let in may release, or leave, while they are told.
        if self._granting:
            return
        self._granting = True
        try:
            while self._queue:
                entry = self._queue[0]
                granted = entry.granted
                if granted is not None:
                    if not self._take(entry.size):
                        return
                    entry.granted = None
                    self._waiting -= 1
                self._queue.popleft()
                if granted is not None:
                    granted()
        finally:
            self._granting = False


def _nothing() -> None:
    """There is no wait to end."""
