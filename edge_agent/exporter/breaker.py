"""When a failing peer is tried again. Pure.

Two phases: for `max_elapsed_s` retries with doubling delays; then the breaker is open and the peer
is probed every `max_interval`, for as long as it takes. A hint from the peer wins over either.
"""

from edge_agent.exporter.retry import Backoff, Denied, Retry

# While a process ends, a peer that is away is tried this often.
CLOSING_RETRY_S = 0.5


class Breaker:
    """How one queue's peer has failed. Times are of one monotonic clock, in seconds."""

    def __init__(self, backoff: Backoff, max_elapsed_s: float) -> None:
        self._backoff = backoff
        self._max_elapsed_s = max_elapsed_s
        self._failed_s = 0.0
        self._since_s: float | None = None
        self.failures = 0
        self.not_before_s = 0.0
        self.denied = False

    @property
    def failing(self) -> bool:
        """Whether the peer's newest word was that it takes nothing."""
        return self._since_s is not None

    def is_open(self, now_s: float) -> bool:
        """Whether the fast retries are over, or the peer has said that it will not have us."""
        if self._since_s is None:
            return False
        return self.denied or now_s - self._since_s >= self._max_elapsed_s

    def failed(
        self, outcome: Retry | Denied, started_s: float, now_s: float, jitter: float
    ) -> float:
        """A call that began at `started_s` failed; seconds until the next may."""
        first = self._since_s is None
        if self._since_s is None:
            self._since_s = now_s
        if first or started_s >= self._failed_s:
            # Calls that were open together and fail together are one failure.
            self.failures += 1
            self._failed_s = now_s
        self.denied = isinstance(outcome, Denied)
        delay_s = self._delay_s(outcome, now_s - self._since_s, jitter)
        self.not_before_s = max(self.not_before_s, now_s + delay_s)
        return delay_s

    def answered(self, started_s: float, now_s: float) -> float | None:
        """The peer has taken or judged a call; how long it had failed before, None if not."""
        if self._since_s is None or started_s < self._failed_s:
            # Two lanes: what the peer said since, on the other, is its newer word.
            return None
        outage_s = now_s - self._since_s
        self._since_s = None
        self.failures = 0
        self.not_before_s = 0.0
        self.denied = False
        return outage_s

    def hurry(self, now_s: float) -> None:
        """The process ends: hints and backoff are for those who have time."""
        self.not_before_s = min(self.not_before_s, now_s + CLOSING_RETRY_S)

    def reset(self) -> None:
        """Try at once."""
        self.not_before_s = 0.0

    def _delay_s(self, outcome: Retry | Denied, failing_s: float, jitter: float) -> float:
        match outcome:
            case Retry(_, None) if failing_s < self._max_elapsed_s:
                return self._backoff.delay_s(self.failures, jitter)
            case Retry(_, None):
                # An outage is probed steadily, but by a fleet not all at once.
                return self._backoff.max_s * (0.5 + jitter / 2)
            case Retry(_, after_s) if after_s is not None:
                # The peer's own hint is obeyed however long.
                return after_s
        # Credentials are mended by a person: probe, do not hammer.
        return self._backoff.max_s
