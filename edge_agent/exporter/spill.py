"""Traces that the collector does not take, given to the adapter beside us.

`failing`: while the collector's breaker is open. `full`: while traces take four fifths of what the
ring has for them. What the adapter has acknowledged is gone from the ring with the next commit, and
not before; what it refuses waits there for the collector as it would have.
"""

import asyncio
from collections.abc import Callable

from edge_agent.exporter.pace import Pace
from edge_agent.exporter.queue import Queue
from edge_agent.exporter.request import Request
from edge_agent.exporter.retry import Backoff, Client, Delivered, Denied, Outcome, Rejected, Retry
from edge_agent.log import Log

FULL_SHARE = 0.8
# How often it is looked whether there is anything to do: spilling is for outages of minutes.
LOOK_S = 5.0
# An adapter that will not have it is asked again after this.
REFUSED_S = 300.0

_log = Log("exporter")


class Spill:
    """Moves the backlog of `queue` to `client` while `mode` says so.

    `share` is what the queue takes of what the ring has for it, 0 to 1.
    """

    def __init__(
        self,
        queue: Queue,
        client: Client,
        *,
        mode: str,
        backoff: Backoff,
        drain_rate: float,
        share: Callable[[], float],
        clock: Callable[[], float],
        jitter: Callable[[], float],
    ) -> None:
        self._queue = queue
        self._client = client
        self._mode = mode
        self._backoff = backoff
        self._pace = Pace(drain_rate)
        self._share = share
        self._clock = clock
        self._jitter = jitter
        self._failures = 0

    def wanted(self) -> bool:
        """Whether traces should go to the adapter now."""
        match self._mode:
            case "failing":
                return self._queue.breaker.is_open(self._clock())
            case "full":
                return self._share() >= FULL_SHARE
        return False

    async def run(self) -> None:
        """Spill when it is wanted, until cancelled."""
        while True:
            await asyncio.sleep(await self._step() if self.wanted() else LOOK_S)

    async def _step(self) -> float:
        """Spill one batch; seconds until the next."""
        batch = await self._queue.lend()
        if not batch:
            return LOOK_S
        outcome: Outcome = Retry("cut short")
        try:
            outcome = await self._queue.export(self._client, batch, say=not self._failures)
        finally:
            self._queue.spilled(batch, outcome if isinstance(outcome, Delivered) else None)
        return self._after(batch, outcome)

    def _after(self, batch: list[Request], outcome: Outcome) -> float:
        now = self._clock()
        match outcome:
            case Delivered():
                if self._failures:
                    _log.info("the adapter takes traces again")
                self._failures = 0
                self._pace.sent(sum(len(request.body) for request in batch), now)
                return self._pace.wait_s(now)
            case Retry(error, after_s):
                delay_s = after_s or self._backoff.delay_s(self._failures + 1, self._jitter())
            case Rejected(code, message) | Denied(code, message):
                error, delay_s = f"{code}: {message}", REFUSED_S
        if not self._failures:
            _log.warning(
                "the adapter takes no traces, keeping them",
                error=error, retry_in_s=round(delay_s, 1),
            )  # fmt: skip
        self._failures += 1
        return delay_s
