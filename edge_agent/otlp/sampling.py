"""Which spans stay: whole traces, by the randomness in their ids. Pure.

W3C Trace Context Level 2 ("random-trace-id") makes the low 56 bits of a trace id random, and
OpenTelemetry's probability sampling (specification, "TraceState: Probability Sampling") compares
them with a rejection threshold: a trace is kept where R >= T. Every tier that samples like this
keeps a subset of what the tiers with a higher rate keep.
"""

from typing import NamedTuple

from edge_agent.otlp import wire
from edge_agent.otlp.signal import Signal
from edge_agent.otlp.walk import (
    FIRST,
    LEVELS,
    SECOND,
    MalformedError,
    Walk,
)

_LEVELS = LEVELS[Signal.TRACES]
_TRACE_ID_BYTES = 16
# Key and length of a trace id where it stands first in its span, as encoders write it.
_FIRST_TRACE_ID = bytes((FIRST, _TRACE_ID_BYTES))
_RANDOM_BYTES = 7
_ALL = 1 << 8 * _RANDOM_BYTES


class Sampled(NamedTuple):
    """The request without the spans left out, and those: how many, how long as fields."""

    body: bytes
    items_out: int
    bytes_out: int


def threshold(sample_rate: float) -> int:
    """T for `sample_rate` (0 to 1): the number of the 2**56 values that are left out."""
    # Not (1 - rate) * 2**56: a rate below 2**-53 would be lost in the difference.
    return _ALL - round(sample_rate * _ALL)


def sample(body: bytes, sample_rate: float) -> Sampled:
    """An ExportTraceServiceRequest without the traces that `sample_rate` (0 to 1) leaves out.

    Scopes and Resources that this empties go too. A span without a trace id of 16 bytes cannot be
    told by it and stays, except at 0. A span that begins with its trace id, as encoders write it,
    is not read on. Raises MalformedError where `body` is none, TooLargeError as Walk does.
    """
    try:
        return _Sampler(body, sample_rate).request()
    except (wire.WireError, IndexError) as error:
        raise MalformedError.of(Signal.TRACES, error) from None


class _Sampler:
    """One pass over a request."""

    def __init__(self, body: bytes, sample_rate: float) -> None:
        self._body = body
        self._walk = Walk(body)
        self._keep_none = sample_rate <= 0.0
        self._threshold = threshold(sample_rate)
        self._items_out = 0
        self._bytes_out = 0

    def request(self) -> Sampled:
        body, out = self._body, []
        for key, at, start, after in self._walk.fields(0, len(body), 0, _LEVELS[0].known):
            if key != FIRST:
                out.append(body[at:after])
            elif (kept := self._message(start, after, 1)) is not None:
                out.append(wire.bytes_field(1, kept))
        return Sampled(b"".join(out), self._items_out, self._bytes_out)

    def _message(self, at: int, end: int, depth: int) -> bytes | None:
        """A ResourceSpans (depth 1) or ScopeSpans (2) as it stays; None where all it had went."""
        body, out = self._body, []
        before = self._items_out
        kept_any = False
        # What stays is copied in runs, from `copied` on.
        copied = at
        for key, place, start, after in self._walk.fields(at, end, depth, _LEVELS[depth].known):
            if key != SECOND:
                continue
            if depth == 1:
                had = self._items_out
                scope = self._message(start, after, 2)
                kept_any |= scope is not None
                if self._items_out == had:
                    continue
                out.append(body[copied:place])
                if scope is not None:
                    out.append(wire.bytes_field(2, scope))
            elif self._keeps(start, after):
                kept_any = True
                continue
            else:
                self._items_out += 1
                self._bytes_out += after - place
                out.append(body[copied:place])
            copied = after
        if self._items_out > before and not kept_any:
            return None
        out.append(body[copied:end])
        return b"".join(out)

    def _keeps(self, start: int, after: int) -> bool:
        """Whether the Span in [start, after) stays."""
        if self._keep_none:
            return False
        body = self._body
        if body.startswith(_FIRST_TRACE_ID, start, after):
            low = start + 2 + _TRACE_ID_BYTES
            if low > after:
                # What looks like a whole trace id is cut short: the peer may judge that.
                return True
        else:
            size = low = 0
            for key, _, value, end in self._walk.fields(start, after, 3, frozenset()):
                if key == FIRST:
                    size, low = end - value, end
            if size != _TRACE_ID_BYTES:
                return True
        return int.from_bytes(body[low - _RANDOM_BYTES : low]) >= self._threshold
