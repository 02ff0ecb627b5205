"""The short cut takes what encoders write, and leaves everything else to the walk."""

import pytest

from edge_agent.otlp import wire
from edge_agent.otlp.shortcut import (
    UnusualError,
    resource_x,
    scope_data_points,
    scope_items,
)
from edge_agent.otlp.signal import Signal
from edge_agent.otlp.walk import MAX_FIELDS, TooLargeError, Walk

FIELD = wire.bytes_field
SPAN = FIELD(2, b"")
POINT = FIELD(1, b"")


def gauge(*points: bytes, around: bytes = b"") -> bytes:
    """A Metric field."""
    return FIELD(2, FIELD(1, b"m") + FIELD(5, b"".join(points)) + around)


def total(*rest: bytes, kind: int = 7) -> bytes:
    """A Metric field with a sum of two points and what stands behind them."""
    return FIELD(2, FIELD(1, b"m") + FIELD(kind, POINT * 2 + b"".join(rest)))


@pytest.mark.parametrize(
    ("signal", "scope", "items"),
    [
        (Signal.TRACES, b"", 0),
        (Signal.TRACES, FIELD(1, b"lib") + SPAN * 3, 3),
        (Signal.LOGS, SPAN * 3 + FIELD(3, b"url"), 3),
        (Signal.TRACES, FIELD(1, b"l" * 300) + FIELD(2, b"x" * 20_000) + SPAN, 2),
        (Signal.TRACES, FIELD(2, b"x" * (3 << 20)), 1),
        (Signal.METRICS, FIELD(1, b"lib") + gauge(POINT) + FIELD(3, b"url"), 1),
        (Signal.METRICS, total(b"\x10\x02\x18\x01") + total(b"\x10\x02", kind=9), 4),
        (Signal.METRICS, gauge(FIELD(1, b"x" * 20_000), POINT, around=FIELD(12, b"")), 2),
        (Signal.METRICS, FIELD(2, FIELD(2, b"description") + FIELD(3, b"By")), 0),
    ],
)
def test_what_encoders_write_is_counted(signal: Signal, scope: bytes, items: int) -> None:
    """As the walk counts it, items and fields."""
    count = scope_data_points if signal is Signal.METRICS else scope_items
    walk = Walk(scope)
    assert walk.items(signal, 0, len(scope), 2) == items
    assert count(scope, 0, len(scope), MAX_FIELDS) == (items, walk.left)
    body = FIELD(1, FIELD(1, b"res") + FIELD(2, scope) + FIELD(3, b"url"))
    place, rest, end, counted, left = resource_x(body, 0, count, MAX_FIELDS)
    assert (body[place:rest], end, counted) == (b"res", len(body), items)
    walk = Walk(body)
    assert walk.items(signal, 0, len(body), 0) == items
    assert left == walk.left
    steps = MAX_FIELDS - left
    assert resource_x(body, 0, count, steps)[4] == 0
    for fewer in range(steps):
        with pytest.raises(TooLargeError, match="more than 100000 fields; send less at once"):
            resource_x(body, 0, count, fewer)


LONG_LENGTH = b"\x12\x80\x80\x80\x80\x01"


@pytest.mark.parametrize(
    ("signal", "scope"),
    [
        (Signal.TRACES, SPAN + FIELD(4, b"")),
        (Signal.TRACES, SPAN + b"\x12\x05"),
        (Signal.TRACES, SPAN + b"\x1a\x05"),
        (Signal.TRACES, FIELD(1, b"lib")[:-1]),
        (Signal.TRACES, SPAN + FIELD(1, b"lib")),
        (Signal.TRACES, LONG_LENGTH),
        (Signal.TRACES, b"\x12"),
        (Signal.METRICS, FIELD(4, b"")),
        (Signal.METRICS, b"\x0a\x05"),
        (Signal.METRICS, b"\x12\x05\x0a\x00"),
        (Signal.METRICS, LONG_LENGTH),
        (Signal.METRICS, FIELD(2, b"\x0a\x05")),
        (Signal.METRICS, FIELD(2, b"\x2a\x05\x0a\x00")),
        (Signal.METRICS, FIELD(2, FIELD(4, b""))),
        (Signal.METRICS, gauge(POINT, around=FIELD(5, POINT))),
        (Signal.METRICS, gauge(POINT, around=FIELD(7, POINT))),
        (Signal.METRICS, gauge(POINT, b"\x0a\x05")),
        (Signal.METRICS, gauge(POINT, FIELD(2, b""))),
        (Signal.METRICS, total(b"\x10\x82\x00")),
        (Signal.METRICS, total(b"\x10")),
        (Signal.METRICS, total(b"\x10\x02", b"\x0a\x05")),
    ],
)
def test_anything_else_is_for_the_walk(signal: Signal, scope: bytes) -> None:
    """Valid or not: out of order, unknown, repeated, cut short."""
    count = scope_data_points if signal is Signal.METRICS else scope_items
    with pytest.raises((UnusualError, IndexError)):
        count(scope, 0, len(scope), MAX_FIELDS)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\x0a",
        b"\x0a\x00",
        b"\x0a\x00\x0a\x00",
        FIELD(2, b""),
        FIELD(1, FIELD(2, b"")),
        FIELD(1, FIELD(1, b""))[:-1],
        FIELD(1, FIELD(1, b"") + b"\x0a\x00"),
        FIELD(1, FIELD(1, b"") + b"\x12\x05"),
        FIELD(1, FIELD(1, b"") + b"\x1a\x05"),
        FIELD(1, b"\x0a\x05"),
        b"\x0a\x05" + FIELD(1, b""),
    ],
)
def test_an_unusual_resource_is_for_the_walk(body: bytes) -> None:
    """Without a Resource first, with two of them, or with less than was announced."""
    with pytest.raises((UnusualError, IndexError)):
        resource_x(body, 0, scope_items, MAX_FIELDS)
