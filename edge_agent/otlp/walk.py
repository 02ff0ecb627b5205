"""A walk over the framing of any valid protobuf, down to what OTLP counts. Pure.

The three Export requests have one shape (opentelemetry/proto/*/v1/*.proto):

    message Export*ServiceRequest { repeated ResourceX resource_x = 1; }
    message ResourceX { Resource resource = 1; repeated ScopeX scope_x = 2; string schema_url = 3; }
    message ScopeX { InstrumentationScope scope = 1; repeated X x = 2; string schema_url = 3; }
    message Metric { ... oneof data { Gauge gauge = 5; Sum sum = 7; Histogram histogram = 9;
                     ExponentialHistogram exponential_histogram = 10; Summary summary = 11; } }
    message Gauge { repeated NumberDataPoint data_points = 1; }      and so the four others

Accepted is what protobuf's C runtime accepts (measured: keys and lengths of at most five bytes,
values of ten, groups as unknown fields, a hundred levels), but for two things. A known field of
another wire type, which it takes for an unknown field, is refused, as the Collector does; and so is
field number 0 in a group, which it lets pass and other readers do not.
"""

from collections.abc import Iterator
from typing import NamedTuple

from edge_agent.otlp.signal import Signal
from edge_agent.otlp.wire import FIXED32, FIXED64, LENGTH_DELIMITED, VARINT, WireError

# Fields read in one request, down to the items: with 0.2 us a field on the fast path and 0.5 us
# here, 4 MiB of empty ones would stop the loop for a second. A span takes one step and 57 bytes or
# more, a data point 45: 4 MiB of them have fewer. So have the 8192 items that Collectors send at
# once, at eight steps for a metric of one point.
MAX_FIELDS = 100_000
MAX_DEPTH = 100
_START_GROUP, _END_GROUP = 3, 4
# Keys (field number << 3 | LENGTH_DELIMITED) of the fields that are counted or cut at.
FIRST, SECOND = 0x0A, 0x12
DATA_KEYS = frozenset(number << 3 | LENGTH_DELIMITED for number in (5, 7, 9, 10, 11))


class Level(NamedTuple):
    """A message on the way to the items: its length-delimited fields, and the keys of the one
    that leads on."""

    known: frozenset[int]
    keys: frozenset[int]


REQUEST = Level(frozenset({1}), frozenset({FIRST}))
RESOURCE_X = Level(frozenset({1, 2, 3}), frozenset({SECOND}))
_SCOPE_X = Level(frozenset({1, 2, 3}), frozenset({SECOND}))
_METRIC = Level(frozenset({1, 2, 3, 5, 7, 9, 10, 11, 12}), DATA_KEYS)
_DATA = Level(frozenset({1}), frozenset({FIRST}))
# By depth: how many messages are around.
LEVELS = {
    Signal.METRICS: (REQUEST, RESOURCE_X, _SCOPE_X, _METRIC, _DATA),
    Signal.TRACES: (REQUEST, RESOURCE_X, _SCOPE_X),
    Signal.LOGS: (REQUEST, RESOURCE_X, _SCOPE_X),
}
_NAMES = {
    Signal.METRICS: "ExportMetricsServiceRequest",
    Signal.TRACES: "ExportTraceServiceRequest",
    Signal.LOGS: "ExportLogsServiceRequest",
}


class MalformedError(WireError):
    """These bytes are no such request; the message says where they stop being one."""

    @classmethod
    def of(cls, signal: Signal, reason: object) -> "MalformedError":
        """With the name of the message that was expected; an IndexError is a walk past the end."""
        why = "cut short" if isinstance(reason, IndexError) else reason
        return cls(f"not an {_NAMES[signal]}: {why}")


class TooLargeError(ValueError):
    """More than we take; the message says what and how much."""

    @classmethod
    def of_fields(cls) -> "TooLargeError":
        """With the bound on fields."""
        return cls(f"more than {MAX_FIELDS} fields; send less at once")


def varint(data: bytes, at: int, max_bytes: int) -> tuple[int, int]:
    """The varint at `at` and the offset after it; raises IndexError at the end of `data`."""
    value = shift = 0
    for position in range(at, at + max_bytes):
        byte = data[position]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position + 1
        shift += 7
    raise WireError(f"a varint longer than {max_bytes} bytes at byte {at}")


class Walk:
    """One walk over `data`, bounded in steps and in depth; `left` is how many it may still take."""

    __slots__ = ("_data", "left")

    def __init__(self, data: bytes, left: int = MAX_FIELDS) -> None:
        self._data = data
        self.left = left

    def fields(
        self, at: int, end: int, depth: int, known: frozenset[int]
    ) -> Iterator[tuple[int, int, int, int]]:
        """(key, offset, offset of its value, offset after it) of each field in [at, end).

        `depth` is how many messages are around these fields. Raises WireError where they are not
        whole fields or one of `known` is not length-delimited, IndexError at the end of the data,
        TooLargeError when the walk takes too many steps.
        """
        while at < end:
            key, start, after = self.field(at, end, depth)
            if key & 7 != LENGTH_DELIMITED and key >> 3 in known:
                raise WireError(f"field {key >> 3} at byte {at} has wire type {key & 7}")
            yield key, at, start, after
            at = after

    def field(self, at: int, end: int, depth: int) -> tuple[int, int, int]:
        """(key, offset of the value, offset after the field) of the field at `at`."""
        key, start = self._key(at)
        wire_type = key & 7
        data = self._data
        if wire_type == LENGTH_DELIMITED:
            size, start = varint(data, start, 5)
            after = start + size
        elif wire_type == VARINT:
            after = varint(data, start, 10)[1]
        elif wire_type == FIXED64:
            after = start + 8
        elif wire_type == FIXED32:
            after = start + 4
        elif wire_type == _START_GROUP:
            after = self._group(start, end, key >> 3, depth)
        else:
            raise WireError(f"wire type {wire_type} at byte {at}")
        if after > end:
            raise WireError(f"field {key >> 3} at byte {at} is {after - end} bytes short")
        return key, start, after

    def _key(self, at: int) -> tuple[int, int]:
        """The key at `at` and the offset after it: one step."""
        self.left -= 1
        if self.left < 0:
            raise TooLargeError.of_fields()
        key, start = self._data[at], at + 1
        if key > 0x7F:
            key, start = varint(self._data, at, 5)
        if key < 8 or key > 0xFFFFFFFF:
            raise WireError(f"a field number out of range at byte {at}")
        return key, start

    def _group(self, at: int, end: int, number: int, depth: int) -> int:
        """The offset after the group whose fields start at `at`."""
        numbers = [number]
        while numbers:
            if depth + len(numbers) > MAX_DEPTH:
                raise WireError(f"nested deeper than {MAX_DEPTH} levels at byte {at}")
            key, start = self._key(at)
            if key & 7 == _END_GROUP:
                if key >> 3 != numbers.pop():
                    raise WireError(f"a group ends at byte {at} that was not begun")
                at = start
            elif key & 7 == _START_GROUP:
                numbers.append(key >> 3)
                at = start
            else:
                at = self.field(at, end, depth)[2]
        return at

    def items(self, signal: Signal, at: int, end: int, depth: int) -> int:
        """Spans, log records or data points in the message in [at, end) that `depth` others
        are around: 0 a request, 1 a ResourceX, 2 a ScopeX, 3 a span, log record or Metric."""
        levels = LEVELS[signal]
        if depth == len(levels):
            return 1
        known, keys = levels[depth]
        items = kind = 0
        for key, _, start, after in self.fields(at, end, depth, known):
            if key in keys:
                if key != kind:
                    # A Metric's oneof: the last kind of data stands, its repetitions are merged.
                    kind, items = key, 0
                items += self.items(signal, start, after, depth + 1)
        return items
