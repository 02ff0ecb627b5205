"""How fast a backlog is sent, so that a fleet that comes back does not flatten its collector. Pure.

Rules (DESIGN, "Order by what backends can take"): at most `drain_rate` bytes a second, as encoded
and uncompressed; half of it after every refusal, twice as much, up to that bound, while the peer is
quick; after an outage of more than a minute, and after a start, the backlog begins at a random
moment. What was just taken is not held up by any of this.
"""

# Below a 64th of the bound a backlog would outlive the device.
_LEAST_SHARE = 1 / 64
QUICK_S = 1.0
LONG_OUTAGE_S = 60.0
START_WITHIN_S = 30.0


class Pace:
    """When the next piece of a backlog may be sent. Times are seconds of a monotonic clock."""

    def __init__(self, bytes_per_s: float) -> None:
        self._bound = bytes_per_s
        self._rate = bytes_per_s
        self._next_s = 0.0

    @property
    def rate(self) -> float:
        """Bytes a second, now."""
        return self._rate

    def wait_s(self, now_s: float) -> float:
        """Seconds until more may be sent, 0 for now."""
        return max(0.0, self._next_s - now_s)

    def sent(self, size: int, now_s: float) -> None:
        """`size` bytes were sent at `now_s`."""
        self._next_s = max(self._next_s, now_s) + size / self._rate

    def acknowledged(self, latency_s: float) -> None:
        """The peer took a piece of the backlog within `latency_s`."""
        if latency_s <= QUICK_S:
            self._rate = min(self._rate * 2, self._bound)

    def refused(self) -> None:
        """The peer could not take a piece now."""
        self._rate = max(self._rate / 2, self._bound * _LEAST_SHARE)

    def begin(self, outage_s: float, now_s: float, jitter: float) -> None:
        """The peer is back after `outage_s`; `jitter` in [0, 1) says where in the ramp we start."""
        if outage_s > LONG_OUTAGE_S:
            self._next_s = now_s + jitter * START_WITHIN_S

    def pause(self, until_s: float) -> None:
        """Send nothing before `until_s`."""
        self._next_s = max(self._next_s, until_s)
