"""Valid encodings of Export requests, as encoders write them and as none would.

Odd ones have fields out of order, sub-messages split in two, varints longer than need be, unknown
fields of every wire type (groups too) and attributes repeated.
"""

from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

from edge_agent.otlp import wire
from edge_agent.otlp.signal import Signal
from tests.agent.otlp.oracle import OWN_ID

KEYS = (
    "service.name", "customer.id", "customer.", "customer", "node.id", "collector.instance.id",
    "collector.x", "host.name", "os.type", "k", "", "collector.path",
)  # fmt: skip
OTHER_ID = "deadbeef-0000-4000-8000-00000000cafe"
TEXTS = (
    OWN_ID, OWN_ID[:-1], "x", "", "v" * 130, "Küche", OTHER_ID, OTHER_ID.upper(), OTHER_ID[:8],
    f"01234567,{OWN_ID[:8]}", ",".join(["01234567"] * 8), ",".join(["01234567"] * 9), "0123456,",
)  # fmt: skip


class Writer:
    """Draws one request; `odd` allows what encoders do not do."""

    def __init__(self, draw: st.DrawFn, *, odd: bool) -> None:
        self._draw = draw
        self._odd = odd

    def pick(self, values: Sequence[Any]) -> Any:
        """One of `values`, the first the simplest."""
        return self._draw(st.sampled_from(values))

    def some(self, values: Sequence[int]) -> range:
        """As many rounds as one of `values`."""
        return range(self.pick(values))

    def varint(self, value: int, longest: int = 5) -> bytes:
        """`value`, now and then longer than need be."""
        out = bytearray(wire.varint(value))
        if self._odd:
            for _ in self.some((0, 0, 0, 0, 0, 1, 4)):
                if len(out) < longest:
                    out[-1] |= 0x80
                    out.append(0)
        return bytes(out)

    def key(self, number: int, wire_type: int) -> bytes:
        """The bytes before a value."""
        return self.varint(number << 3 | wire_type)

    def sized(self, number: int, value: bytes) -> bytes:
        """A length-delimited field."""
        return self.key(number, 2) + self.varint(len(value)) + value

    def text(self, number: int, value: str) -> bytes:
        """A string field."""
        return self.sized(number, value.encode())

    def unknown(self, depth: int = 0) -> bytes:
        """A field that OTLP does not have."""
        number = self.pick((99, 200, 1000, 70000))
        wire_type = self.pick((0, 1, 2, 5, 3) if depth < 3 else (0, 1, 2, 5))
        match wire_type:
            case 0:
                value = self.varint(self.pick((0, 1, 300, 2**64 - 1)), 10)
            case 1:
                value = b"\x0a\xff\xff\xff\xff\xff\xff\x7f"
            case 5:
                value = b"\x0a\xff\xff\x7f"
            case 2:
                content = self.pick((b"", b"\x0a", b"x" * 130))
                value = self.varint(len(content)) + content
            case _:
                inner = [self.unknown(depth + 1) for _ in self.some((0, 1, 2))]
                value = b"".join(inner) + self.key(number, 4)
        return self.key(number, wire_type) + value

    def message(self, parts: list[bytes]) -> bytes:
        """`parts` as one message."""
        if self._odd:
            parts += [self.unknown() for _ in self.some((0, 0, 0, 1))]
            if self.pick((False, True)):
                parts = self._draw(st.permutations(parts))
        return b"".join(parts)

    def any_value(self) -> bytes:
        """An AnyValue."""
        match self.pick(("text", "int", "array", "none")):
            case "text":
                parts = [self.text(1, self.pick(TEXTS))]
            case "int":
                parts = [self.key(3, 0) + self.varint(5, 10)]
            case "array":
                parts = [self.sized(5, self.sized(1, self.text(1, "x")))]
            case _:
                parts = []
        if self._odd:
            parts += [self.text(1, OWN_ID) for _ in self.some((0, 0, 0, 1))]
        return self.message(parts)

    def attribute(self) -> bytes:
        """A KeyValue."""
        parts = [self.text(1, self.pick(KEYS)), self.sized(2, self.any_value())]
        if self._odd:
            parts += [self.text(1, self.pick(KEYS)) for _ in self.some((0, 0, 1))]
            parts += [self.sized(2, self.any_value()) for _ in self.some((0, 0, 1))]
        return self.message(parts)

    def resource(self) -> bytes:
        """A Resource."""
        parts = [self.sized(1, self.attribute()) for _ in self.some((1, 2, 0, 4))]
        parts += [self.key(2, 0) + self.varint(3, 10) for _ in self.some((0, 1))]
        return self.message(parts)

    def trace_id(self) -> bytes:
        """Random ids, empty and odd ones."""
        random = self._draw(st.binary(min_size=7, max_size=7))
        return self.pick((bytes(9) + random, b"\xff" * 9 + random, b"", bytes(15), bytes(17)))

    def span(self) -> bytes:
        """A Span."""
        parts = [self.sized(1, self.trace_id()), self.text(5, self.pick(("GET", "", "n" * 200)))]
        if self.pick((False, False, False, False, True)):
            parts[1] = self.text(5, "n" * 17_000)
        return self.message([*parts, *(self.sized(9, self.attribute()) for _ in self.some((0, 1)))])

    def record(self) -> bytes:
        """A LogRecord."""
        return self.message([self.sized(5, self.any_value()), self.text(3, "INFO")])

    def metric(self) -> bytes:
        """A Metric of any kind, or of two."""
        parts = [self.text(1, "m"), self.text(3, "By")]
        kinds = [self.pick((5, 7, 9, 10, 11))]
        if self._odd:
            kinds += [self.pick((5, 7, 9, 10, 11)) for _ in self.some((0, 0, 1, 2))]
        for kind in kinds:
            points = [
                self.sized(1, self.message([wire.fixed64_field(3, n)])) for n in self.counts()
            ]
            if kind in (7, 9, 10):
                points.append(self.key(2, 0) + self.varint(2, 10))
            if kind == 7:
                points.append(self.key(3, 0) + self.varint(1, 10))
            parts.append(self.sized(kind, self.message(points)))
        return self.message(parts)

    def counts(self) -> range:
        """How many items."""
        return self.some((1, 2, 0, 5))

    def scope(self, signal: Signal) -> bytes:
        """A ScopeX."""
        item = {Signal.TRACES: self.span, Signal.LOGS: self.record, Signal.METRICS: self.metric}
        parts = [self.sized(1, self.text(1, "lib")) for _ in self.some((1, 0))]
        parts += [self.sized(2, item[signal]()) for _ in self.counts()]
        parts += [self.text(3, "https://schema") for _ in self.some((0, 1))]
        return self.message(parts)

    def request(self, signal: Signal) -> bytes:
        """An Export request."""
        out = []
        for _ in self.some((1, 2, 0)):
            parts = [self.sized(1, self.resource()) for _ in self.some((1, 0))]
            if self._odd:
                parts += [self.sized(1, self.resource()) for _ in self.some((0, 0, 1))]
            parts += [self.sized(2, self.scope(signal)) for _ in self.some((1, 2, 0))]
            parts += [self.text(3, "https://schema") for _ in self.some((0, 1))]
            out.append(self.sized(1, self.message(parts)))
        return self.message(out)


@st.composite
def requests(draw: st.DrawFn, *signals: Signal, odd: bool | None = None) -> tuple[Signal, bytes]:
    """(signal, a valid request of it); `odd` None draws both kinds."""
    signal = draw(st.sampled_from(signals or tuple(Signal)))
    chosen = draw(st.booleans()) if odd is None else odd
    return signal, Writer(draw, odd=chosen).request(signal)


@st.composite
def damaged(draw: st.DrawFn) -> tuple[Signal, bytes]:
    """A valid request with some bytes changed, and perhaps cut short."""
    signal, valid = draw(requests())
    body = bytearray(valid)
    for _ in range(draw(st.integers(0, 3))):
        if body:
            at = draw(st.integers(0, len(body) - 1))
            body[at] = draw(st.integers(0, 255))
    if draw(st.booleans()):
        del body[draw(st.integers(0, len(body))) :]
    return signal, bytes(body)
