"""The unary gRPC calls of one HTTP/2 connection: what has come of each, and room for the rest.

A message that comes whole in its first frame, as nearly all do, is answered at once, without an
object of its own. For any other the five bytes before the message tell its size, and

- as much as a sender may send unasked (INITIAL_WINDOW) is taken from the budget at once, or the
  call is refused;
- what is missing is taken before the stream's window is opened for it. Until the budget grants it
  the rest stays with the sender, up to `wait_s` or the call's own deadline; then it is refused.

What a refused call still sends is thrown away as it comes.

A body has a minute from then on, and where room is scarce the slow lose theirs first. Whole calls
that come when the loop has had enough of them (`turns`) wait, in order, for `go_on`; their data is
counted in the budget as well.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from edge_agent.transport.budget import Budget
from edge_agent.transport.grpc import PREFIX_BYTES, Headers, timeout_s
from edge_agent.transport.turns import Turns

# HTTP/2's own default (RFC 9113, 6.9.2).
INITIAL_WINDOW = (1 << 16) - 1
# A body has to bring this much, and this part of itself, in each `stall_s`.
_MIN_PROGRESS_BYTES = 1024
_MIN_PROGRESS_PART = 32
# Where room is scarce it is looked at this often, and has to be on its way to come within that.
_PACE_S = 10.0
_ALL_S = 100.0

Head = TypeVar("Head")


@dataclass(frozen=True, slots=True)
class Limits:
    """How many, and for how many seconds."""

    max_connections: int = 256
    # Those who wait for room hold INITIAL_WINDOW bytes each: together a quarter of 24 MiB.
    max_waiting: int = 96
    # From the connection to its SETTINGS, and for a frame that has begun.
    first_s: float = 10.0
    # Between calls.
    idle_s: float = 300.0
    # For a body to make progress, and for a peer to take its answers.
    stall_s: float = 30.0
    # For a body to come to its end, from when it has its room.
    body_s: float = 60.0
    # For room: half of what SDKs wait for an answer, so that they learn when to come back.
    wait_s: float = 5.0


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole answer. Without body and trailers its headers end it ("trailers-only")."""

    headers: Headers
    body: bytes = b""
    trailers: Headers = ()


class Later(Protocol):
    """A future of a Reply, which does not fail."""

    def add_done_callback(self, call: Callable[[Any], object], /) -> None:
        """Call `call` with it when the Reply is there."""
        ...


class Calls(Protocol[Head]):
    """What answers the calls. None of it may raise or wait."""

    def begin(self, headers: Headers) -> Head | Reply:
        """What is known of a call by its headers, or its answer."""
        ...

    def message(self, head: Head, data: bytes) -> Reply | Later:
        """The answer to a call whose data, prefix and message, has come to its end; or a future of
        it, for which only its own call waits."""
        ...

    def refuse_size(self, size: int) -> Reply | None:
        """The answer to a message of `size` bytes that has not come yet; None to take it."""
        ...

    def refuse_load(self) -> Reply:
        """The answer where there is no room."""
        ...

    def refuse_stall(self) -> Reply:
        """The answer to a call that does not come."""
        ...


class Wire(Protocol):
    """The connection under the calls. `now_s` is the loop's time when it last heard something."""

    now_s: float

    def time_s(self) -> float:
        """The loop's time."""
        ...

    def answer(self, stream_id: int, reply: Reply, *, last: bool) -> None:
        """Queue an answer; unless `last`, the peer is still sending and is told to stop."""
        ...

    def flush(self) -> None:
        """Send what was queued, outside of a read."""
        ...

    def taken(self, stream_id: int, size: int) -> None:
        """`size` bytes of a stream's data are not held any more."""
        ...

    def let_in(self, stream_id: int, size: int) -> None:
        """Open the window of a stream to `size` bytes in all, and say so to the peer."""
        ...

    def wake_at(self, time_s: float) -> None:
        """Have `Streams.look` called then, if not earlier."""
        ...


@dataclass(slots=True)
class Waiting:
    """How many calls wait for room, on all connections."""

    count: int = 0


class _Body(Generic[Head]):
    """A call whose data comes in pieces. `granted` are its bytes of the budget, since `begun_s`.

    It is looked at when `due_s` has come, and has to have made progress by `stall_s`.
    """

    __slots__ = (
        "begun_s",
        "data",
        "due_s",
        "end_wait",
        "granted",
        "head",
        "needed",
        "seen",
        "stall_s",
        "timeout_s",
    )

    def __init__(self, head: Head, timeout_s: float | None, due_s: float) -> None:
        self.head = head
        self.timeout_s = timeout_s
        # Not a list of pieces: a piece of one byte would take forty.
        self.data = bytearray()
        self.seen = 0
        self.needed: int | None = None
        self.granted = 0
        self.begun_s = math.inf
        self.due_s = self.stall_s = due_s
        self.end_wait: Callable[[], None] | None = None


@dataclass(frozen=True, slots=True)
class _Whole(Generic[Head]):
    """A call that has come and waits for its turn. Its data is counted in the budget."""

    head: Head
    data: bytes
    last: bool


class Streams(Generic[Head]):
    """The open calls of one connection."""

    def __init__(
        self,
        calls: Calls[Head],
        budget: Budget,
        waiting: Waiting,
        limits: Limits,
        turns: Turns,
        wire: Wire,
    ) -> None:
        self._calls = calls
        self._budget = budget
        self._waiting = waiting
        self._limits = limits
        self._turns = turns
        self._wire = wire
        # Without data so far: what is known of it, its timeout, and when our patience ends. Not its
        # headers: a few bytes, in HPACK, are 16 KiB of them. One that is refused for its head is
        # told so with its first data: what is wrong with its frames comes first.
        self._begun: dict[int, tuple[Head | Reply, float | None, float]] = {}
        self._bodies: dict[int, _Body[Head]] = {}
        # In the order in which they came to their end.
        self._whole: dict[int, _Whole[Head]] = {}
        # Answered later; whether their peers have ended them.
        self._later: dict[int, bool] = {}
        # Calls whose data did not come in time.
        self.stalled = 0

    def __len__(self) -> int:
        """How many calls have no answer yet."""
        return len(self._begun) + len(self._bodies) + len(self._whole) + len(self._later)

    @property
    def late(self) -> bool:
        """Whether calls wait for their turn: `go_on`."""
        return bool(self._whole)

    # What has come

    def begin(self, stream_id: int, headers: Headers, *, last: bool) -> None:
        """A call's headers."""
        head = self._calls.begin(headers)
        if last:
            self._answer_begun(stream_id, head, b"", last=True)
        else:
            patience_s = timeout_s(dict(headers).get(b"grpc-timeout", b""))
            self._begun[stream_id] = (head, patience_s, self._wire.now_s + self._limits.stall_s)

    def data(self, stream_id: int, data: bytes, *, last: bool) -> None:
        """A frame of a call's data."""
        begun = self._begun.pop(stream_id, None)
        if begun is not None:
            head, patience_s, due_s = begun
            if last or isinstance(head, Reply):
                self._wire.taken(stream_id, len(data))
                self._answer_begun(stream_id, head, data, last=last)
                return
            self._bodies[stream_id] = body = _Body(head, patience_s, due_s)
        elif (found := self._bodies.get(stream_id)) is not None:
            body = found
        else:
            self._wire.taken(stream_id, len(data))
            return
        body.data += data
        if last:
            self._finish(stream_id, last=True)
        elif body.needed is None:
            if len(body.data) >= PREFIX_BYTES:
                self._claim(stream_id, body)
        elif len(body.data) > body.needed:
            # More than one message: what is wrong with it is already known.
            self._finish(stream_id, last=False)

    def trailers(self, stream_id: int) -> None:
        """A client's trailers end its data."""
        begun = self._begun.pop(stream_id, None)
        if begun is not None:
            self._answer_begun(stream_id, begun[0], b"", last=True)
        else:
            self._finish(stream_id, last=True)

    def gone(self, stream_id: int) -> None:
        """The stream is closed, by whomever."""
        self._begun.pop(stream_id, None)
        self._later.pop(stream_id, None)
        self._drop(stream_id)
        whole = self._whole.pop(stream_id, None)
        if whole is not None:
            self._budget.release(len(whole.data))

    def end(self) -> None:
        """The connection is closed: nothing is held any more."""
        self._begun.clear()
        self._later.clear()
        for stream_id in list(self._whole):
            self.gone(stream_id)
        for stream_id in list(self._bodies):
            self._drop(stream_id)

    def look(self, now_s: float) -> float:
        """Refuse what has waited or stalled for too long; returns when to look again."""
        # What one gives back may let another in, which may end while we look.
        for stream_id, begun in list(self._begun.items()):
            if now_s >= begun[2] and self._begun.get(stream_id) is begun:
                self._refuse_stalled(stream_id)
        for stream_id, body in list(self._bodies.items()):
            if now_s < body.due_s or self._bodies.get(stream_id) is not body:
                continue
            if body.end_wait is not None:
                self._refuse(stream_id, self._calls.refuse_load())
            elif self._too_slow(body, now_s):
                self._refuse_stalled(stream_id)
            else:
                self._set_due(body, now_s)
        return min(
            min((due_s for _, _, due_s in self._begun.values()), default=math.inf),
            min((body.due_s for body in self._bodies.values()), default=math.inf),
        )

    def go_on(self) -> None:
        """Answer calls that have waited for their turn, while it is theirs."""
        while self._whole and not self._turns.over:
            stream_id = next(iter(self._whole))
            whole = self._whole.pop(stream_id)
            self._budget.release(len(whole.data))
            self._answer(stream_id, whole)

    # Time

    def _too_slow(self, body: _Body[Head], now_s: float) -> bool:
        """Whether a body that is due is given up; if not, its progress is noted."""
        needed, came = body.needed or 0, len(body.data)
        if body.granted:
            spent_s = now_s - body.begun_s
            scarce = self._budget.scarce
            if spent_s >= self._limits.body_s or (scarce and came < needed * spent_s / _ALL_S):
                return True
        if now_s < body.stall_s:
            return False
        if came - body.seen < max(_MIN_PROGRESS_BYTES, needed // _MIN_PROGRESS_PART):
            return True
        body.seen, body.stall_s = came, now_s + self._limits.stall_s
        return False

    def _set_due(self, body: _Body[Head], now_s: float) -> None:
        # One without a size yet has no room, and nothing but its first patience.
        body.due_s = min(body.stall_s, body.begun_s + self._limits.body_s)
        if body.granted:
            body.due_s = min(body.due_s, now_s + _PACE_S)

    def _grant(self, body: _Body[Head], size: int, now_s: float) -> None:
        """The budget has given a body the last it needs."""
        body.granted += size
        body.begun_s = now_s
        self._set_due(body, now_s)
        self._wire.wake_at(body.due_s)

    # Room

    def _claim(self, stream_id: int, body: _Body[Head]) -> None:
        """The size is known: get room for the message, and let in what is missing."""
        size = int.from_bytes(body.data[1:PREFIX_BYTES], "big")
        body.needed = needed = PREFIX_BYTES + size
        if len(body.data) > needed:
            self._finish(stream_id, last=False)
            return
        if (refusal := self._calls.refuse_size(size)) is not None:
            self._refuse(stream_id, refusal)
            return
        first = min(needed, INITIAL_WINDOW)
        if not self._budget.grant(first):
            self._refuse(stream_id, self._calls.refuse_load())
            return
        body.granted = first
        if (missing := needed - first) == 0:
            self._grant(body, 0, self._wire.now_s)
        elif self._budget.grant(missing):
            self._grant(body, missing, self._wire.now_s)
            self._wire.let_in(stream_id, needed)
        elif self._waiting.count >= self._limits.max_waiting:
            self._refuse(stream_id, self._calls.refuse_load())
        else:
            self._wait(stream_id, body, missing)

    def _wait(self, stream_id: int, body: _Body[Head], missing: int) -> None:
        patience_s = self._limits.wait_s
        if body.timeout_s is not None:
            patience_s = min(patience_s, body.timeout_s)
        body.due_s = self._wire.time_s() + patience_s
        self._wire.wake_at(body.due_s)
        self._waiting.count += 1

        def granted() -> None:
            self._waiting.count -= 1
            body.end_wait = None
            now_s = self._wire.time_s()
            body.seen, body.stall_s = len(body.data), now_s + self._limits.stall_s
            self._grant(body, missing, now_s)
            self._wire.let_in(stream_id, body.granted)

        body.end_wait = self._budget.wait(missing, granted)

    # Ends

    def _answer_begun(self, stream_id: int, head: Head | Reply, data: bytes, *, last: bool) -> None:
        if isinstance(head, Reply):
            self._wire.answer(stream_id, head, last=last)
        else:
            self._take(stream_id, _Whole(head, data, last), 0)

    def _finish(self, stream_id: int, *, last: bool) -> None:
        body = self._pop(stream_id)
        if body is not None:
            whole = _Whole(body.head, bytes(body.data), last)
            body.data.clear()
            self._take(stream_id, whole, body.granted)

    def _take(self, stream_id: int, whole: _Whole[Head], granted: int) -> None:
        """Answer a whole call, in its turn. `granted` are its bytes of the budget so far."""
        if not (self._whole or self._turns.over):
            self._release(granted)
            self._answer(stream_id, whole)
            return
        missing = len(whole.data) - granted
        if missing <= 0 or self._budget.grant(missing):
            self._whole[stream_id] = whole
            self._release(-missing)
        else:
            self._release(granted)
            self._wire.answer(stream_id, self._calls.refuse_load(), last=whole.last)

    def _release(self, size: int) -> None:
        if size > 0:
            self._budget.release(size)

    def _answer(self, stream_id: int, whole: _Whole[Head]) -> None:
        begun_s = self._wire.time_s()
        reply = self._calls.message(whole.head, whole.data)
        self._turns.spend(self._wire.time_s() - begun_s)
        if isinstance(reply, Reply):
            self._wire.answer(stream_id, reply, last=whole.last)
            return

        def answered(done: Any) -> None:
            # The stream may be gone by now.
            if (last := self._later.pop(stream_id, None)) is not None:
                self._wire.answer(stream_id, done.result(), last=last)
                self._wire.flush()

        self._later[stream_id] = whole.last
        reply.add_done_callback(answered)

    def _refuse(self, stream_id: int, reply: Reply) -> None:
        self.gone(stream_id)
        self._wire.answer(stream_id, reply, last=False)

    def _refuse_stalled(self, stream_id: int) -> None:
        self.stalled += 1
        self._refuse(stream_id, self._calls.refuse_stall())

    def _drop(self, stream_id: int) -> None:
        body = self._pop(stream_id)
        if body is not None:
            self._release(body.granted)

    def _pop(self, stream_id: int) -> _Body[Head] | None:
        """A body that is not read on; what it was granted is its own still."""
        body = self._bodies.pop(stream_id, None)
        if body is not None:
            if body.end_wait is not None:
                self._waiting.count -= 1
                body.end_wait()
                body.end_wait = None
            self._wire.taken(stream_id, len(body.data))
        return body
