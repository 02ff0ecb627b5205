"""Encoded requests of a time when the clock was wrong: marked, and later put right. Pure.

A device without a clock of its own starts in the past. What is sent before it learned the time
carries `clock.synced` = false in its Resource (`mark`); what is still here when it has learned it
gets its time stamps moved and the mark turned (`rebase`). Every time stamp of OTLP is a fixed64
and the mark is one byte, so that is done in place and no length changes.

Both take any valid protobuf. What encoders write (keys and lengths of one byte) is stepped over
without `walk`, as in `shortcut`.
"""

import struct
from collections.abc import Mapping
from types import MappingProxyType

from edge_agent.otlp import wire
from edge_agent.otlp.batch import resource_attributes
from edge_agent.otlp.resource import key_value
from edge_agent.otlp.shortcut import UnusualError, resource_x
from edge_agent.otlp.signal import Signal
from edge_agent.otlp.walk import (
    FIRST,
    REQUEST,
    RESOURCE_X,
    SECOND,
    MalformedError,
    TooLargeError,
    Walk,
    varint,
)

CLOCK_SYNCED = "clock.synced"
_NAME = CLOCK_SYNCED.encode()
_MARK = wire.bytes_field(1, key_value(CLOCK_SYNCED, False))  # noqa: FBT003  (the value itself)
_FIXED64 = struct.Struct("<Q")
_UINT64_MAX = 2**64 - 1

# ---- where time stamps are ----------------------------------------------------------------------


class _Message(dict[int, "_Message | None"]):
    """The fields of a message that lead to time stamps: key -> the message in it, or None for a
    time stamp itself. Compared with opentelemetry-proto by the tests."""


def _message(
    time_stamps: tuple[int, ...] = (), inner: Mapping[int, _Message] = MappingProxyType({})
) -> _Message:
    """By field numbers: time stamps, and what is in the fields that lead on."""
    found = _Message()
    for number in time_stamps:
        found[number << 3 | wire.FIXED64] = None
    for number, message in inner.items():
        found[number << 3 | wire.LENGTH_DELIMITED] = message
    return found


# message Resource { repeated KeyValue attributes = 1; ... }: the mark is in a KeyValue.
_KEY_VALUE = _message()
_RESOURCE = _message(inner={1: _KEY_VALUE})
# message Exemplar { ... fixed64 time_unix_nano = 2; ... }
_EXEMPLAR = _message((2,))
# message Event { fixed64 time_unix_nano = 1; ... }
# message Span { fixed64 start_time_unix_nano = 7; fixed64 end_time_unix_nano = 8;
#                repeated Event events = 11; ... }
_SPAN = _message((7, 8), {11: _message((1,))})
# message LogRecord { fixed64 time_unix_nano = 1; fixed64 observed_time_unix_nano = 11; ... }
_LOG_RECORD = _message((1, 11))
# message *DataPoint { fixed64 start_time_unix_nano = 2; fixed64 time_unix_nano = 3;
#                      repeated Exemplar exemplars = 5, 8 or 11; ... }
_NUMBERS = _message(inner={1: _message((2, 3), {5: _EXEMPLAR})})
_METRIC = _message(
    inner={
        5: _NUMBERS,
        7: _NUMBERS,
        9: _message(inner={1: _message((2, 3), {8: _EXEMPLAR})}),
        10: _message(inner={1: _message((2, 3), {11: _EXEMPLAR})}),
        11: _message(inner={1: _message((2, 3))}),
    }
)
_REQUESTS = {
    signal: _message(inner={1: _message(inner={1: _RESOURCE, 2: _message(inner={2: item})})})
    for signal, item in (
        (Signal.METRICS, _METRIC),
        (Signal.TRACES, _SPAN),
        (Signal.LOGS, _LOG_RECORD),
    )
}

# message AnyValue { oneof value { string string_value = 1; bool bool_value = 2; ... } }: by key.
_BOOL_VALUE = 2 << 3 | wire.VARINT
_VALUES = frozenset(
    {FIRST, _BOOL_VALUE, 3 << 3 | wire.VARINT, 4 << 3 | wire.FIXED64, 8 << 3 | wire.VARINT}
    | {number << 3 | wire.LENGTH_DELIMITED for number in (5, 6, 7)}
)

# How far a field with a key of one byte reaches: the whole of a fixed one, and for the others a
# sign that the next byte says, if it is below 128. 0: only `walk` can say.
_BY_LENGTH, _BY_VARINT = 1, 2
_REACH = bytes(
    0
    if not 8 <= key < 0x80
    else {
        wire.LENGTH_DELIMITED: _BY_LENGTH,
        wire.VARINT: _BY_VARINT,
        wire.FIXED64: 9,
        wire.FIXED32: 5,
    }.get(key & 7, 0)
    for key in range(256)
)


# ---- marking ------------------------------------------------------------------------------------


def mark(signal: Signal, body: bytes) -> bytes:
    """`body` with the attribute `clock.synced` = false in every Resource, instead of any there is.

    A ResourceX without a Resource gets one, and one in pieces is joined: it leaves first and once,
    as from Enricher. Raises MalformedError and, where the framing is unusual, TooLargeError.
    """
    try:
        return _marked(body)
    except (wire.WireError, IndexError) as error:
        raise MalformedError.of(signal, error) from None


def _no_items(_data: bytes, _at: int, _end: int, left: int) -> tuple[int, int]:
    return 0, left


def _marked(body: bytes) -> bytes:
    parts: list[bytes] = []
    walk = Walk(body)
    at, end = 0, len(body)
    while at < end:
        try:
            place, rest, after, _, walk.left = resource_x(body, at, _no_items, walk.left)
        except (UnusualError, IndexError):
            key, start, after = walk.field(at, end, 0)
            if key == FIRST:
                parts.append(_resource_x(*_in_pieces(body, walk, start, after)))
            elif key >> 3 in REQUEST.known:
                raise wire.WireError(f"field 1 at byte {at} has wire type {key & 7}") from None
            else:
                parts.append(body[at:after])
        else:
            parts.append(_resource_x(_without_mark(body[place:rest]), body[rest:after]))
        at = after
    return b"".join(parts)


def _in_pieces(body: bytes, walk: Walk, at: int, end: int) -> tuple[bytes, bytes]:
    """Any valid ResourceX in [at, end): its Resource, merged and without a mark; all else."""
    resource, tail = bytearray(), bytearray()
    for key, place, start, after in walk.fields(at, end, 1, RESOURCE_X.known):
        if key == FIRST:
            resource += _without_mark(body[start:after])
        else:
            tail += body[place:after]
    return bytes(resource), bytes(tail)


def _resource_x(resource: bytes, tail: bytes) -> bytes:
    """The field of a ResourceX with the mark in its Resource."""
    return wire.bytes_field(1, wire.bytes_field(1, resource + _MARK) + tail)


def _without_mark(resource: bytes) -> bytes:
    """An encoded Resource without the attribute `clock.synced`."""
    return b"".join(
        resource[at:after]
        for key, at, after, name, _ in resource_attributes(resource)
        if key != FIRST or name != _NAME
    )


# ---- putting right ------------------------------------------------------------------------------


def rebase(
    signal: Signal, body: bytes, offset_nano: int, *, not_before: int, not_after: int
) -> bytes:
    """`body`, as long as it was, with its time stamps moved by `offset_nano` and its mark turned.

    Moved is what lies in [not_before, not_after] (nanoseconds since the epoch): time stamps by the
    clock of this boot while it was wrong. 0 means unknown and stays, and so does what would leave
    the range of a uint64 or become 0. A Resource's `clock.synced` turns from false to true. All of
    `body` or nothing: MalformedError where an item is damaged inside, which admission does not look
    for, or is written so oddly that reading it takes more steps than walk.MAX_FIELDS.

    Cost (x86-64): 1.2 ms for 512 spans of an SDK, 175 KB; at worst 50 ms a MiB, of fields of two
    bytes.
    """
    try:
        return bytes(_Rebase(body, offset_nano, not_before, not_after).whole(_REQUESTS[signal]))
    except (wire.WireError, IndexError, TooLargeError) as error:
        raise MalformedError.of(signal, error) from None


class _Rebase:
    """One pass over a request."""

    def __init__(self, body: bytes, offset_nano: int, not_before: int, not_after: int) -> None:
        self._body = body
        self._out = bytearray(body)
        self._walk = Walk(body)
        self._offset_nano = offset_nano
        # What may move and arrives in [1, 2**64 - 1] is a range too.
        self._lowest = max(1, not_before, 1 - offset_nano)
        self._highest = min(_UINT64_MAX, not_after, _UINT64_MAX - offset_nano)

    def whole(self, request: _Message) -> bytearray:
        self._shift(0, len(self._body), 0, request)
        return self._out

    def _shift(self, at: int, end: int, depth: int, message: _Message) -> None:
        """Time stamps and marks in the message in [at, end) that `depth` others are around."""
        body = self._body
        while at < end:
            key = body[at]
            reach = _REACH[key]
            if reach > _BY_VARINT:
                start, after = at + 1, at + reach
            elif reach and (size := body[at + 1]) < 0x80:
                start = at + 2
                after = start + size if reach == _BY_LENGTH else start
            else:
                key, start, after = self._walk.field(at, end, depth)
            if after > end:
                raise wire.WireError(f"field {key >> 3} at byte {at} is {after - end} bytes short")
            if key in message:
                inner = message[key]
                if inner is None:
                    value: int = _FIXED64.unpack_from(body, start)[0]
                    if self._lowest <= value <= self._highest:
                        _FIXED64.pack_into(self._out, start, value + self._offset_nano)
                elif inner is not _KEY_VALUE:
                    self._shift(start, after, depth + 1, inner)
                elif body.find(_NAME, start, after) >= 0:
                    self._attribute(start, after)
            at = after

    # message KeyValue { string key = 1; AnyValue value = 2; }
    def _attribute(self, at: int, end: int) -> None:
        """The attribute in [at, end) turned, if it is a mark. A field given twice: the last one
        stands, and values are merged, of which again the last stands."""
        name, place = b"", 0
        for key, _, start, after in self._walk.fields(at, end, 3, frozenset()):
            if key == FIRST:
                name = self._body[start:after]
            elif key == SECOND:
                for kind, _, inner, _ in self._walk.fields(start, after, 4, frozenset()):
                    if kind in _VALUES:
                        place = inner if kind == _BOOL_VALUE else 0
        # Whatever the length of a false: one bit set makes it true.
        if place and name == _NAME and not varint(self._body, place, 10)[0] & _UINT64_MAX:
            self._out[place] |= 1
