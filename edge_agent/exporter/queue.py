"""One queue: what is not yet acknowledged by one destination, for one signal.

Rules (DESIGN, "Promises"):

- Send at once, join what waits: an idle lane sends immediately; what arrives while a call is in
  flight is joined into the next one, up to `batch_items` or JOIN_BYTES, never over REQUEST_BYTES.
- At most `lanes` calls in flight, one where order matters and one while the peer is failing.
- A failed call gives its requests back to where they came from. Nothing is dropped for time.
- What is not acknowledged in time is in the ring (`spool`), and is sent from there: in order where
  order matters, else beside what is new and never instead of it, at a bounded pace.
- A bad neighbour loses only its own data: a joined batch that is rejected is halved until the
  one original request that the peer refuses is alone. One that is too large for the peer is cut
  further, down to the one item that alone is too large.

The event loop owns all state here.
"""

import asyncio
import contextlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from edge_agent.complaints import Complaints
from edge_agent.exporter.breaker import CLOSING_RETRY_S, Breaker
from edge_agent.exporter.held import Held
from edge_agent.exporter.memory import Memory
from edge_agent.exporter.pace import Pace
from edge_agent.exporter.request import Request, Stamp, cut, fitted, senders
from edge_agent.exporter.retry import Backoff, Client, Delivered, Denied, Outcome, Rejected, Retry
from edge_agent.exporter.spool import Spool
from edge_agent.ledger import Account, Tally
from edge_agent.log import Log
from edge_agent.otlp.signal import Signal
from edge_agent.ring.record import Lost, Ref, Totals

# A joined request stops growing here: a quarter of what every gRPC server takes by default.
JOIN_BYTES = 1 << 20
# gRPC's default limit for one received message; a peer would refuse more, whatever we do.
REQUEST_BYTES = 4 << 20
_MAX_CULPRITS = 64
# A ring that has a backlog and does not give it out is asked again after this.
_UNREADABLE_S = 5.0

_log = Log("exporter")


@dataclass(frozen=True, slots=True)
class Policy:
    """How one queue treats its peer. `lanes` is 1 where order matters; `drain_rate` is bytes of a
    backlog a second; requests are cut to `max_request_bytes` at admission."""

    newest_first: bool
    lanes: int
    batch_items: int
    retry: bool
    backoff: Backoff
    max_elapsed_s: float
    drain_rate: float = 1 << 20
    max_request_bytes: int = REQUEST_BYTES


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


class Gate(Protocol):
    """What holds data whose time is not known, and dates it on its way out (gate.py)."""

    def wait_s(self) -> float:
        """Seconds for which nothing is to be sent."""
        ...

    def body(self, signal: Signal, request: Request) -> bytes:
        """What is sent for a request with flags."""
        ...


class Queue:
    """RAM and ring to peer, for one destination and signal. `run` does the sending.

    `number` is the queue's in the ring; without a `spool` there is RAM alone.
    """

    def __init__(
        self,
        account: Account,
        client: Client,
        policy: Policy,
        reachability: Reachability,
        memory: Memory,
        *,
        number: int = 0,
        spool: Spool | None = None,
        gate: Gate | None = None,
        clock: Callable[[], float] = time.monotonic,
        unix_nano: Callable[[], int] = time.time_ns,
        jitter: Callable[[], float],
    ) -> None:
        self.account = account
        self._client = client
        self.policy = policy
        self._peer = reachability
        self._memory = memory
        self._spool = spool
        self._gate = gate
        self._clock = clock
        self._unix_nano = unix_nano
        self._jitter = jitter
        self.held = Held(number, newest_first=policy.newest_first)
        self.breaker = Breaker(policy.backoff, policy.max_elapsed_s)
        self._pace = Pace(policy.drain_rate)
        self._calls = 0
        self._draining = False
        self._sequence = 0
        self._wake = asyncio.Event()
        self._closing = False
        self._last_drop_s: float | None = None
        self._dropping = False
        # What the peer has against whose data.
        self._complaints = Complaints(_MAX_CULPRITS)
        if spool is not None:
            spool.attach(self)

    # Admission

    def put(self, body: bytes, items: int, stamp: Stamp | None = None) -> None:
        """Admit one encoded request of `items` items; the oldest leaves if there is no room."""
        self.account.accepted.add(items, len(body))
        for request in self.requests(body, items, stamp):
            if self._closing:
                self._drop("shutdown", request)
            elif len(request.body) > self.policy.max_request_bytes:
                _log.error(
                    "dropped a request no peer would take",
                    **self._names(), **self._culprit(request), limit=self.policy.max_request_bytes,
                )  # fmt: skip
                self._drop("too_large", request)
            else:
                self.held.add(request)
                self._memory.admitted(request.size)
        if self._spool is not None:
            self._spool.noticed()
        self._wake.set()

    def requests(self, body: bytes, items: int, stamp: Stamp | None = None) -> list[Request]:
        """`body` as the queue and the ring take it, numbered: in pieces where it is large."""
        self._sequence += 1
        whole = Request(body, items, len(body), (self._sequence,), self._clock())
        if stamp is not None:
            whole.unix_nano, whole.boottime_nano = stamp.unix_nano, stamp.boottime_nano
            whole.flags = stamp.flags
        pieces = fitted(self.account.signal, whole, self.policy.max_request_bytes)
        for piece in pieces:
            piece.whole = True
        return pieces

    def adopt(self, request: Request, ref: Ref) -> None:
        """Admit what the ring has already: the rule where durability is strict."""
        self.account.accepted.add(request.items, request.size)
        self.held.adopt(request, ref)
        self._memory.admitted(request.size)
        self._wake.set()

    def restore(self, live: Totals) -> None:
        """The ring was opened and has this for us."""
        self.account.restored.add(live.items, live.bytes)
        self.held.restore(live)
        if live.items:
            # After a power cut a whole fleet starts at once.
            self._pace.begin(math.inf, self._clock(), self._jitter())
        self._wake.set()

    def evict_oldest(self) -> bool:
        """Let the oldest waiting request leave RAM; whether there was one."""
        oldest = self.held.shed_oldest()
        if oldest is None:
            return False
        if oldest.gone:
            self._drop("queue_full", oldest)
            self._say_dropping("memory is full, dropping the oldest")
        return True

    def lost(self, lost: Lost) -> None:
        """The ring has lost a record of ours."""
        items, size = self.held.lost(lost)
        self.account.drop(lost.reason, items, size)
        self._last_drop_s = self._clock()
        if lost.reason == "queue_full":
            self._say_dropping("the ring is full, dropping the oldest")
        else:
            _log.error("a record of the ring was lost", **self._names(), reason=lost.reason,
                       items=items, bytes=size)  # fmt: skip

    def wake(self) -> None:
        """Look again what can be sent: a commit has changed what we hold, or the gate is open."""
        self._wake.set()

    def _say_dropping(self, event: str) -> None:
        if not self._dropping:
            self._dropping = True
            _log.error(
                event,
                **self._names(),
                max_bytes=self._memory.max_bytes,
                peer_error=self._peer.error,
            )

    def _drop(self, reason: str, request: Request) -> None:
        self.account.drop(reason, request.items, request.size)
        self._last_drop_s = self._clock()

    # Sending

    async def run(self) -> None:
        """Send until `close` was called and nothing waits in RAM; awaits calls in flight.

        Cancel it to end sooner. Without a ring, what is held then is counted as dropped.
        """
        try:
            async with asyncio.TaskGroup() as calls:
                while not self._done():
                    self._wake.clear()
                    wait_s, backlog = self._next()
                    if wait_s == 0.0:
                        self._calls += 1
                        if backlog:
                            self._draining = True
                            calls.create_task(self._drain())
                        else:
                            calls.create_task(self._call(self._take(staged=False)))
                    else:
                        with contextlib.suppress(TimeoutError):
                            async with asyncio.timeout(wait_s):
                                await self._wake.wait()
        finally:
            # Calls that were cut short by the drain's deadline, or by a bug of ours: nothing is
            # forgotten.
            self.held.give_back(self.held.in_flight())
            if self._spool is None:
                self.abandon()

    def close(self) -> None:
        """Refuse what comes from now on; `run` tries what is left, at once and again and again."""
        self._closing = True
        self.breaker.reset()
        self._wake.set()

    def abandon(self) -> None:
        """Count as dropped what RAM alone has; nobody will ask for it any more."""
        left = self.held.abandon()
        if left:
            _log.error(
                "could not be delivered before the end, dropped",
                **self._names(), items=sum(r.items for r in left),
                bytes=sum(r.size for r in left), peer_error=self.last_error,
            )  # fmt: skip
        for request in left:
            self._drop("shutdown", request)

    def _done(self) -> bool:
        if not self._closing or self._calls:
            return False
        return not self.held.has_fresh or self._out_of_order

    @property
    def _out_of_order(self) -> bool:
        """Whether what is new has to wait for the backlog."""
        return self.held.has_backlog and not self.policy.newest_first

    def _next(self) -> tuple[float | None, bool]:
        """Seconds until a call may start (0 now, None until something happens), and whether it is
        one for the backlog."""
        if self._gate is not None and (closed_s := self._gate.wait_s()) > 0:
            return closed_s, False
        now = self._clock()
        lanes = 1 if self.breaker.failing else self.policy.lanes
        if self._calls >= lanes:
            return None, False
        wait_s = max(0.0, self.breaker.not_before_s - now)
        backlog_s: float | None = None
        if self.held.has_backlog and not self._draining and not self._closing:
            backlog_s = max(wait_s, self._pace.wait_s(now))
        # A backlog has a lane of its own beside what is new, where there are two.
        beside = lanes > 1 and backlog_s is not None
        if self.held.has_fresh and not self._out_of_order and not (beside and self._calls):
            return wait_s, False
        return backlog_s, True

    def _take(self, *, staged: bool) -> list[Request]:
        return self.held.take(self.policy.batch_items, JOIN_BYTES, staged=staged)

    async def _call(self, batch: list[Request]) -> None:
        try:
            await self._send(batch)
        finally:
            self._ended()

    async def _drain(self) -> None:
        """Send a piece of the backlog."""
        try:
            if not self.held.has_staged:
                await self._stage()
            if self.held.has_staged:
                # Small pieces while the peer is short of time: they fit in between.
                join_bytes = min(JOIN_BYTES, int(self._pace.rate))
                batch = self.held.take(self.policy.batch_items, join_bytes, staged=True)
                self._pace.sent(sum(len(r.body) for r in batch), self._clock())
                await self._send(batch)
        finally:
            self._draining = False
            self._ended()

    async def _stage(self) -> None:
        spool = self._spool
        if spool is None:
            return
        if not self.policy.newest_first and self.held.loans.partly_returned:
            # What is left of that record comes first, and can be read after this.
            await spool.commit()
        # What was read is never added to: probes of the newest would leave an outage in records of
        # one request each, which take half as much again.
        newest = self.policy.newest_first and not self.breaker.failing
        record = await spool.read(self.held, newest=newest)
        if record is None:
            self._pace.pause(self._clock() + _UNREADABLE_S)
        else:
            self.held.stage(record, spool.admitted_s(record), this_boot=spool.is_this_boot(record))

    async def lend(self) -> list[Request]:
        """A batch of what waits in the ring, or in RAM where the ring cannot be used, for another
        peer; `spilled` says what became of it. Nothing is sent from the ring meanwhile."""
        if self._draining or self._closing:
            return []
        self._draining = True
        batch: list[Request] = []
        try:
            if self.held.has_backlog and not self.held.has_staged:
                await self._stage()
            if self.held.has_staged:
                batch = self._take(staged=True)
            elif self.held.has_fresh and not (self._spool and self._spool.usable):
                batch = self._take(staged=False)
        finally:
            self._draining = bool(batch)
        return batch

    def spilled(self, batch: Sequence[Request], outcome: Delivered | None) -> None:
        """The other peer has taken what was lent, or has not (None)."""
        self._draining = False
        if outcome is None:
            self._give_back(batch)
        else:
            self._taken(batch, outcome, self.account.spilled)
        self._settled()
        self._wake.set()

    def _ended(self) -> None:
        self._calls -= 1
        self._wake.set()
        self._settled()

    def _settled(self) -> None:
        if self._spool is not None:
            if self.held.loans.to_acknowledge:
                self._spool.noticed()
            else:
                self._spool.settled()

    async def _send(self, batch: list[Request]) -> bool:
        """Send `batch`, in parts where it is rejected; whether the peer still takes data."""
        started_s = self._clock()
        outcome = await self.export(self._client, batch, say=not self.breaker.failing)
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

    async def export(self, client: Client, batch: Sequence[Request], *, say: bool) -> Outcome:
        """What `client` makes of `batch`; its failure is logged where `say` is true."""
        # Export*ServiceRequest is one repeated field, so joined encodings of one signal are one
        # request: batching never decodes.
        signal, gate = self.account.signal, self._gate
        body = batch[0].body if len(batch) == 1 else b"".join(r.body for r in batch)
        if gate is not None and any(r.flags for r in batch):
            body = b"".join(gate.body(signal, r) if r.flags else r.body for r in batch)
        try:
            return await client.export(signal, body)
        except Exception as error:  # noqa: BLE001 - whatever a peer's bytes may bring to light
            # A bug of ours, found by a peer that would find it again after every restart, while
            # what is in RAM would be lost by each.
            if say:
                _log.error("a client failed", **self._names(), exc_info=error)
            return Retry(f"our client failed: {error!r}")

    async def _send_each(self, *batches: list[Request]) -> bool:
        """Send one after the other; once the peer takes no more, the rest goes back."""
        for at, batch in enumerate(batches):
            if not await self._send(batch):
                self._give_back([request for later in batches[at + 1 :] for request in later])
                return False
        return True

    def _cut(self, request: Request) -> list[Request]:
        """The pieces of a request in flight, in flight in its place."""
        pieces = cut(self.account.signal, request)
        if len(pieces) > 1:
            self.held.replace(request, pieces)
        return pieces

    def _delivered(self, batch: Sequence[Request], outcome: Delivered, started_s: float) -> None:
        backlog = batch[0].staged
        self._taken(batch, outcome, self.account.delivered)
        if outcome.rejected_items or outcome.message:
            self._complain(
                "the peer took a request in part", "partial_success",
                rejected_items=outcome.rejected_items, message=outcome.message,
            )  # fmt: skip
        self._peer.succeeded(outcome.latency_s, self._unix_nano())
        if backlog:
            self._pace.acknowledged(outcome.latency_s, self._clock())
        self._answered(started_s)

    def _taken(self, batch: Sequence[Request], outcome: Delivered, tally: Tally) -> None:
        """A peer has `batch`, but for what it refused in a partial success: count it in `tally`."""
        items = sum(r.items for r in batch)
        size = sum(r.size for r in batch)
        self.held.settle(batch)
        refused = min(max(outcome.rejected_items, 0), items)
        # The peer took the bytes; only items can be told apart in a partial success.
        tally.add(items - refused, size)
        if refused:
            self.account.reject("partial_success", refused, 0)
            self._last_drop_s = self._clock()

    def _rejected(self, request: Request, outcome: Rejected, started_s: float) -> None:
        self.held.settle([request])
        self.account.reject(outcome.code, request.items, request.size)
        self._last_drop_s = self._clock()
        self._peer.failed(f"{outcome.code}: {outcome.message}")
        self._complain(
            "the peer rejected a request for good", outcome.code,
            **self._culprit(request), message=outcome.message,
        )  # fmt: skip
        # It answered: whatever else waits deserves its own try at once.
        self._answered(started_s)

    def _complain(self, event: str, code: str, **fields: Any) -> None:
        """Log a loss by the peer's word; the same one, of the same service, now and then."""
        unsaid = self._complaints.due(code, fields.get("service", ""), self._clock())
        if unsaid is None:
            return
        more: dict[str, Any] = {"since_last": unsaid} if unsaid else {}
        _log.error(event, **self._names(), code=code, **fields, **more)

    def _answered(self, started_s: float) -> None:
        """The peer has answered a call that began at `started_s`."""
        now = self._clock()
        outage_s = self.breaker.answered(started_s, now)
        if outage_s is not None:
            _log.info(
                "delivering again",
                **self._names(), after_s=round(outage_s, 1), waiting_items=self.held.items,
            )  # fmt: skip
            if self.held.has_backlog:
                self._pace.begin(outage_s, now, self._jitter())
        if not self.breaker.failing:
            self._dropping = False

    def _failed(self, batch: Sequence[Request], outcome: Retry | Denied, started_s: float) -> None:
        first = not self.breaker.failing
        delay_s = self.breaker.failed(outcome, started_s, self._clock(), self._jitter())
        if self._closing:
            self.breaker.hurry(self._clock())
            delay_s = min(delay_s, CLOSING_RETRY_S)
        match outcome:
            case Retry(error, _):
                pass
            case Denied(code, message):
                error = f"{code}: {message}"
        if first:
            event = "keeping it" if self.policy.retry else "dropping it (retry.enabled: false)"
            _log.warning(
                f"the peer takes no data, {event}",
                **self._names(), error=error, retry_in_s=round(delay_s, 1),
            )  # fmt: skip
        self._peer.failed(error)
        if first:
            # Also where it was what is new that was refused: the backlog is what can wait. Probes
            # of an outage say nothing of a rate.
            self._pace.refused(self._clock())
        if self.policy.retry:
            self._give_back(batch)
            self._memory.make_room()
        else:
            self.held.settle(batch)
            for request in batch:
                self._drop("retry_disabled", request)

    def _give_back(self, batch: Sequence[Request]) -> None:
        self.held.give_back(batch)
        if batch and batch[0].staged:
            # It is read again, in order, when its time has come.
            self.held.unstage()

    # What /health and /metrics read

    @property
    def items(self) -> int:
        """Items held, in flight ones included."""
        return self.held.items

    @property
    def bytes(self) -> int:
        """Bytes held as encoded, in flight ones included."""
        return self.held.bytes

    @property
    def ram_bytes(self) -> int:
        """Bytes of bodies in RAM."""
        return self.held.ram_bytes

    @property
    def last_error(self) -> str:
        """Why the last attempt failed, empty when it did not."""
        return self._peer.error if self.breaker.failing else ""

    def oldest_age_s(self) -> float:
        """Seconds since the oldest held request was admitted, 0 when empty."""
        oldest_s = self.held.oldest_s()
        age_s = 0.0 if oldest_s is None else self._clock() - oldest_s
        if self._spool is not None and self.held.in_ring:
            age_s = max(age_s, self._spool.oldest_age_s(self.held.queue))
        return age_s

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
