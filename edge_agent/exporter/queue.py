"""One queue: what is not yet acknowledged by one destination, for one signal.

Rules (DESIGN, "Promises"):

- Send at once, join what waits: an idle lane sends immediately; what arrives while a call is in
  flight is joined into the next one, up to `batch_items` or JOIN_BYTES, never over REQUEST_BYTES.
- At most `lanes` calls in flight, one where order matters and one while the peer is failing.
- A failed call puts its requests back where they were taken from. Nothing is dropped for time.
- Over the bound of all queues (exporter/memory.py) the oldest waiting request goes, counted.
- A bad neighbour loses only its own data: a joined batch that is rejected is halved until the
  one original request that the peer refuses is alone. One that is too large for the peer is cut
  further, down to the one item that alone is too large.

The event loop owns all state here. RAM is the first shelf; what cannot stay in RAM has one way
out, `evict_oldest`.
"""

import asyncio
import contextlib
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from edge_agent.exporter.memory import Memory
from edge_agent.exporter.request import Request, cut, fitted, senders
from edge_agent.exporter.retry import Backoff, Client, Delivered, Denied, Outcome, Rejected, Retry
from edge_agent.ledger import Account
from edge_agent.log import Log

# A joined request stops growing here: a quarter of what every gRPC server takes by default.
JOIN_BYTES = 1 << 20
# gRPC's default limit for one received message; a peer would refuse more, whatever we do.
REQUEST_BYTES = 4 << 20

# While a process ends, a peer that is away is tried this often.
CLOSING_RETRY_S = 0.5
# One line in this time about what a peer refuses for the same reason.
COMPLAINT_S = 300.0

_log = Log("exporter")


@dataclass(frozen=True, slots=True)
class Policy:
    """How one queue treats its peer. `lanes` is 1 where order matters."""

    newest_first: bool
    lanes: int
    batch_items: int
    retry: bool
    backoff: Backoff
    max_elapsed_s: float


@dataclass(slots=True)
class Reachability:
    """How the last attempts at one destination went; its queues share it."""

    attempts: int = 0
    consecutive_failures: int = 0
    last_success_unix_nano: int | None = None
    latency_s: float | None = None
    error: str = "no attempt yet"

    def succeeded(self, latency_s: float, unix_nano: int) -> None:
        """The peer acknowledged a request."""
        self.attempts += 1
        self.consecutive_failures = 0
        self.last_success_unix_nano = unix_nano
        self.latency_s = latency_s
        self.error = ""

    def failed(self, error: str) -> None:
        """The peer did not take a request, for whatever reason."""
        self.attempts += 1
        self.consecutive_failures += 1
        self.error = error

    @property
    def reachable(self) -> bool:
        """Whether the last attempt succeeded; false before the first."""
        return self.attempts > 0 and self.consecutive_failures == 0


class Queue:
    """RAM to peer, for one destination and signal. `run` does the sending."""

    def __init__(
        self,
        account: Account,
        client: Client,
        policy: Policy,
        reachability: Reachability,
        memory: Memory,
        *,
        clock: Callable[[], float] = time.monotonic,
        unix_nano: Callable[[], int] = time.time_ns,
        jitter: Callable[[], float],
    ) -> None:
        self.account = account
        self._client = client
        self.policy = policy
        self._peer = reachability
        self._memory = memory
        self._clock = clock
        self._unix_nano = unix_nano
        self._jitter = jitter
        self._waiting: deque[Request] = deque()
        self._in_flight: dict[tuple[int, ...], Request] = {}
        self._calls = 0
        self._bytes = 0
        self._items = 0
        self._sequence = 0
        self._wake = asyncio.Event()
        self._closing = False
        self._failures = 0
        self._failing_since_s: float | None = None
        self._failed_s = 0.0
        self._not_before_s = 0.0
        self._last_drop_s: float | None = None
        self._dropping = False
        # What the peer has against our data: when it was last logged, and how often since.
        self._complaints: dict[str, tuple[float, int]] = {}

    # Admission

    def put(self, body: bytes, items: int) -> None:
        """Admit one encoded request of `items` items; the oldest leaves if there is no room."""
        self.account.accepted.add(items, len(body))
        self._sequence += 1
        whole = Request(body, items, len(body), (self._sequence,), self._clock())
        if self._closing:
            self._drop("shutdown", whole)
            return
        for request in fitted(self.account.signal, whole, REQUEST_BYTES):
            if len(request.body) > REQUEST_BYTES:
                _log.error(
                    "dropped a request no peer would take",
                    **self._names(), **self._culprit(request), limit=REQUEST_BYTES,
                )  # fmt: skip
                self._drop("too_large", request)
                continue
            self._waiting.append(request)
            self._bytes += request.size
            self._items += request.items
            self._memory.admitted(request.size)
        self._wake.set()

    def evict_oldest(self) -> bool:
        """Drop and count the oldest waiting request; whether there was one."""
        if not self._waiting:
            return False
        oldest = self._waiting.popleft()
        self._release(oldest)
        self._drop("queue_full", oldest)
        if not self._dropping:
            self._dropping = True
            _log.error(
                "memory is full, dropping the oldest",
                **self._names(), max_bytes=self._memory.max_bytes, peer_error=self._peer.error,
            )  # fmt: skip
        return True

    def _drop(self, reason: str, request: Request) -> None:
        self.account.drop(reason, request.items, request.size)
        self._last_drop_s = self._clock()

    def _release(self, request: Request) -> None:
        self._bytes -= request.size
        self._items -= request.items

    # Sending

    async def run(self) -> None:
        """Send until `close` was called and nothing is held; awaits calls in flight.

        Cancel it to end sooner: what is held then is counted as dropped.
        """
        try:
            async with asyncio.TaskGroup() as calls:
                while not (self._closing and not self._calls and not self._waiting):
                    self._wake.clear()
                    wait_s = self._wait_s()
                    if wait_s == 0.0:
                        batch = self._take()
                        self._calls += 1
                        calls.create_task(self._call(batch))
                    else:
                        with contextlib.suppress(TimeoutError):
                            async with asyncio.timeout(wait_s):
                                await self._wake.wait()
        finally:
            # Calls that were cut short by the drain's deadline, or by a bug of ours: nothing is
            # forgotten.
            self._put_back(list(self._in_flight.values()))
            if self._waiting:
                _log.error(
                    "could not be delivered before the end, dropped",
                    **self._names(), items=self._items, bytes=self._bytes,
                    peer_error=self.last_error,
                )  # fmt: skip
            for request in self._waiting:
                self._release(request)
                self._drop("shutdown", request)
            self._waiting.clear()

    def close(self) -> None:
        """Refuse what comes from now on; `run` tries what is left, at once and again and again."""
        self._closing = True
        self._not_before_s = 0.0
        self._wake.set()

    def _wait_s(self) -> float | None:
        """Seconds until a call may start: 0 now, None until something happens."""
        lanes = 1 if self._failures else self.policy.lanes
        if not self._waiting or self._calls >= lanes:
            return None
        return max(0.0, self._not_before_s - self._clock())

    def _take(self) -> list[Request]:
        take = self._waiting.pop if self.policy.newest_first else self._waiting.popleft
        batch = [take()]
        items, size = batch[0].items, len(batch[0].body)
        while self._waiting:
            nearest = self._waiting[-1 if self.policy.newest_first else 0]
            items += nearest.items
            size += len(nearest.body)
            if items > self.policy.batch_items or size > JOIN_BYTES:
                break
            batch.append(take())
        batch.sort(key=lambda r: r.order)
        self._in_flight.update((r.order, r) for r in batch)
        return batch

    async def _call(self, batch: list[Request]) -> None:
        try:
            await self._send(batch)
        finally:
            self._calls -= 1
            self._wake.set()

    async def _send(self, batch: list[Request]) -> bool:
        """Send `batch`, in parts where it is rejected; whether the peer still takes data."""
        # Export*ServiceRequest is one repeated field, so joined encodings of one signal are one
        # request: batching never decodes.
        body = batch[0].body if len(batch) == 1 else b"".join(r.body for r in batch)
        started_s = self._clock()
        outcome = await self._export(body)
        match outcome:
            case Delivered():
                self._delivered(batch, outcome, started_s)
            case Rejected() if len(batch) > 1:
                middle = len(batch) // 2
                return await self._send_each(batch[:middle], batch[middle:])
            case Rejected(too_large=True) if len(pieces := self._cut(batch[0])) > 1:
                return await self._send_each(*([piece] for piece in pieces))
            case Rejected():
                self._rejected(batch[0], outcome, started_s)
            case Retry() | Denied():
                self._failed(batch, outcome, started_s)
                return False
        return True

    async def _export(self, body: bytes) -> Outcome:
        try:
            return await self._client.export(self.account.signal, body)
        except Exception as error:  # noqa: BLE001 - whatever a peer's bytes may bring to light
            # A bug of ours, found by a peer that would find it again after every restart, while
            # what is in RAM would be lost by each.
            if self._failing_since_s is None:
                _log.error("a client failed", **self._names(), exc_info=error)
            return Retry(f"our client failed: {error!r}")

    async def _send_each(self, *batches: list[Request]) -> bool:
        """Send one after the other; once the peer takes no more, the rest goes back."""
        for at, batch in enumerate(batches):
            if not await self._send(batch):
                self._put_back([request for later in batches[at + 1 :] for request in later])
                return False
        return True

    def _cut(self, request: Request) -> list[Request]:
        """The pieces of a request in flight, in flight in its place."""
        pieces = cut(self.account.signal, request)
        del self._in_flight[request.order]
        self._in_flight.update((piece.order, piece) for piece in pieces)
        return pieces

    def _delivered(self, batch: Sequence[Request], outcome: Delivered, started_s: float) -> None:
        items = sum(r.items for r in batch)
        size = sum(r.size for r in batch)
        self._settle(batch)
        refused = min(max(outcome.rejected_items, 0), items)
        # The peer took the bytes; only items can be told apart in a partial success.
        self.account.delivered.add(items - refused, size)
        if refused:
            self.account.reject("partial_success", refused, 0)
            self._last_drop_s = self._clock()
        if outcome.rejected_items or outcome.message:
            self._complain(
                "the peer took a request in part", "partial_success",
                rejected_items=outcome.rejected_items, message=outcome.message,
            )  # fmt: skip
        self._peer.succeeded(outcome.latency_s, self._unix_nano())
        self._recovered(started_s)

    def _rejected(self, request: Request, outcome: Rejected, started_s: float) -> None:
        self._settle([request])
        self.account.reject(outcome.code, request.items, request.size)
        self._last_drop_s = self._clock()
        self._peer.failed(f"{outcome.code}: {outcome.message}")
        self._complain(
            "the peer rejected a request for good", outcome.code,
            **self._culprit(request), message=outcome.message,
        )  # fmt: skip
        # It answered: whatever else waits deserves its own try at once.
        self._recovered(started_s)

    def _complain(self, event: str, code: str, **fields: Any) -> None:
        """Log a loss by the peer's word; the same one again at most every COMPLAINT_S."""
        now = self._clock()
        logged_s, unsaid = self._complaints.get(code, (-math.inf, 0))
        if now - logged_s < COMPLAINT_S:
            self._complaints[code] = (logged_s, unsaid + 1)
            return
        self._complaints[code] = (now, 0)
        more: dict[str, Any] = {"since_last": unsaid} if unsaid else {}
        _log.error(event, **self._names(), code=code, **fields, **more)

    def _recovered(self, started_s: float) -> None:
        """The peer has answered a call that began at `started_s`."""
        if self._failing_since_s is None:
            self._dropping = False
            return
        if started_s < self._failed_s:
            # Two lanes: what the peer said since, on the other, is its newer word.
            return
        _log.info(
            "delivering again",
            **self._names(),
            after_s=round(self._clock() - self._failing_since_s, 1), waiting_items=self._items,
        )  # fmt: skip
        self._failures = 0
        self._failing_since_s = None
        self._not_before_s = 0.0
        self._dropping = False

    def _failed(self, batch: Sequence[Request], outcome: Retry | Denied, started_s: float) -> None:
        now = self._clock()
        first = self._failing_since_s is None
        if self._failing_since_s is None:
            self._failing_since_s = now
        if first or started_s >= self._failed_s:
            # Calls that were open together and fail together are one failure.
            self._failures += 1
            self._failed_s = now
        error, delay_s = self._after(outcome, now - self._failing_since_s)
        if self._closing:
            # Seconds are left: hints and backoff are for those who have time.
            delay_s = min(delay_s, CLOSING_RETRY_S)
        if first:
            event = "keeping it" if self.policy.retry else "dropping it (retry.enabled: false)"
            _log.warning(
                f"the peer takes no data, {event}",
                **self._names(), error=error, retry_in_s=round(delay_s, 1),
            )  # fmt: skip
        self._peer.failed(error)
        self._not_before_s = max(self._not_before_s, now + delay_s)
        if self.policy.retry:
            self._put_back(batch)
            self._memory.make_room()
        else:
            self._settle(batch)
            for request in batch:
                self._drop("retry_disabled", request)

    def _after(self, outcome: Retry | Denied, failing_s: float) -> tuple[str, float]:
        """Why an attempt failed and the seconds until the next."""
        backoff = self.policy.backoff
        match outcome:
            case Retry(reason, None) if failing_s < self.policy.max_elapsed_s:
                return reason, backoff.delay_s(self._failures, self._jitter())
            case Retry(reason, after_s):
                # The peer's own hint is obeyed however long; an outage is probed steadily.
                return reason, backoff.max_s if after_s is None else after_s
            case Denied(code, message):
                # Credentials are mended by a person: probe, do not hammer.
                return f"{code}: {message}", backoff.max_s

    def _put_back(self, batch: Sequence[Request]) -> None:
        for request in batch:
            del self._in_flight[request.order]
        self._waiting = deque(sorted((*self._waiting, *batch), key=lambda r: r.order))

    def _settle(self, batch: Sequence[Request]) -> None:
        for request in batch:
            del self._in_flight[request.order]
            self._release(request)

    # What /health and /metrics read

    @property
    def items(self) -> int:
        """Items held, in flight ones included."""
        return self._items

    @property
    def bytes(self) -> int:
        """Bytes held as encoded, in flight ones included."""
        return self._bytes

    @property
    def last_error(self) -> str:
        """Why the last attempt failed, empty when it did not."""
        return self._peer.error if self._failures else ""

    def oldest_age_s(self) -> float:
        """Seconds since the oldest held request was admitted, 0 when empty."""
        first = (self._waiting[0],) if self._waiting else ()
        oldest = min((r.admitted_s for r in (*self._in_flight.values(), *first)), default=None)
        return 0.0 if oldest is None else self._clock() - oldest

    def last_drop_age_s(self) -> float | None:
        """Seconds since something was last lost here, None if nothing ever was."""
        return None if self._last_drop_s is None else self._clock() - self._last_drop_s

    def _names(self) -> dict[str, Any]:
        return {"destination": self.account.destination, "signal": self.account.signal.value}

    def _culprit(self, request: Request) -> dict[str, Any]:
        return {
            "service": senders(self.account.signal, request),
            "items": request.items,
            "bytes": len(request.body),
        }
