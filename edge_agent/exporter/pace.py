"""How fast a backlog is sent, so that a fleet that comes back does not flatten its collector. Pure.

Rules (DESIGN, "Order by what backends can take"): at most `drain_rate` bytes a second, as encoded
and uncompressed; after an outage of more than a minute, and after a start, the backlog begins at a
random moment, and slowly; twice the rate, up to that bound, while the peer is quick; half of it
after every refusal and while the peer is slow. What was just taken is not held up by any of this,
but what it needs is left free. `benchmarks.fleet` has what a fleet does by these rules.
"""

import math

# A fleet has hundreds of queues: what each sends at least is what their collector cannot escape.
_LEAST_SHARE = 1 / 4096
# After an outage: slow enough that a fleet's first pieces are no flood, and eight quick answers
# from the bound.
_FIRST_SHARE = 1 / 256
# A collector that queues is one that is about to refuse, and then refuses what is new as well.
QUICK_S, SLOW_S = 0.25, 0.5
# Of the quickest answer so far: what a satellite link takes says nothing of the collector behind.
_QUICK_TIMES, _SLOW_TIMES, _SLOWEST_LINK_S = 1.5, 3.0, 1.0
# Answers tell of a rate only after it has been in force for a while. Who has found the bound of its
# collector once comes near it again with more care.
_DOUBLE_AFTER_S, _CAREFUL_AFTER_S = 4.0, 20.0
LONG_OUTAGE_S = 60.0
START_WITHIN_S = 30.0


class Pace:
    """When the next piece of a backlog may be sent. Times are seconds of a monotonic clock."""

    def __init__(self, bytes_per_s: float) -> None:
        self._bound = bytes_per_s
        self._rate = bytes_per_s
        self._next_s = 0.0
        self._double_after_s = _DOUBLE_AFTER_S
        self._best_s = math.inf
        # No change for the better before the one, for the worse before the other.
        self._double_s = 0.0
        self._halve_s = 0.0

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

    def acknowledged(self, latency_s: float, now_s: float) -> None:
        """The peer took a piece of the backlog within `latency_s`."""
        self._best_s = min(self._best_s, latency_s, _SLOWEST_LINK_S)
        quick_s = max(QUICK_S, _QUICK_TIMES * self._best_s)
        if latency_s <= quick_s and now_s >= self._double_s:
            before = self._rate
            self._rate = min(before * 2, self._bound)
            # What was sent at the old rate is waited for at the new one.
            self._next_s = now_s + self.wait_s(now_s) * before / self._rate
            self._double_s = now_s + self._double_after_s
        elif latency_s > max(SLOW_S, _SLOW_TIMES * self._best_s) and now_s >= self._halve_s:
            # Not below where a queue starts: a slow link is no collector in need.
            self._halve(min(self._rate, self._bound * _FIRST_SHARE), now_s)

    def refused(self, now_s: float) -> None:
        """The peer could not take something now."""
        self._halve(self._bound * _LEAST_SHARE, now_s)

    def _halve(self, least: float, now_s: float) -> None:
        self._rate = max(self._rate / 2, least)
        self._double_after_s = _CAREFUL_AFTER_S
        self._double_s = now_s + _CAREFUL_AFTER_S
        self._halve_s = now_s + _DOUBLE_AFTER_S

    def begin(self, outage_s: float, now_s: float, jitter: float) -> None:
        """The peer is back after `outage_s`; `jitter` in [0, 1) says where in the ramp we start."""
        if outage_s > LONG_OUTAGE_S:
            self._rate = self._bound * _FIRST_SHARE
            self._next_s = now_s + jitter * START_WITHIN_S
            self._double_after_s = _DOUBLE_AFTER_S
            self._double_s = self._halve_s = now_s

    def pause(self, until_s: float) -> None:
        """Send nothing before `until_s`."""
        self._next_s = max(self._next_s, until_s)
