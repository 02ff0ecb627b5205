"""Gauges and sums as we write them: encoded once, then patched.

A machine's series hardly ever change, only their numbers do, and OTLP carries those in fixed
width: the time (fixed64) and the value (double or sfixed64). So the request is built when the
set of series changes, and from then on each sample overwrites 17 bytes a data point. Nothing in
the agent reads metrics, so there is no reader here; the tests decode with opentelemetry-proto.
"""

import math
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from edge_agent.otlp import wire
from edge_agent.otlp.resource import Attribute, attributes, int64, scope

# time_unix_nano, the key of the value, the value: neighbours, so that one call patches a point.
_INT_POINT = struct.Struct("<QBq")
_DOUBLE_POINT = struct.Struct("<QBd")
_PATCHED_BYTES = _INT_POINT.size


class Kind(Enum):
    """OpenTelemetry's instruments as far as a host needs them. Sums are cumulative."""

    GAUGE = "gauge"
    COUNTER = "counter"
    UP_DOWN_COUNTER = "updowncounter"


class Number(Enum):
    """How values travel, fixed for a metric: the value is its key byte in NumberDataPoint."""

    DOUBLE = 4 << 3 | wire.FIXED64
    INT = 6 << 3 | wire.FIXED64


@dataclass(frozen=True, slots=True)
class Metric:
    """What is measured. `unit` is in UCUM, as the semantic conventions give it."""

    name: str
    unit: str
    kind: Kind
    number: Number = Number.INT


# Attributes in the order in which they are to leave.
Attributes = tuple[Attribute, ...]


class Reading(NamedTuple):
    """One value. `start_time_unix_nano` is set where counting began later than at boot.

    A NamedTuple: tuples compare in C, which is what deciding between patch and rebuild costs.
    """

    metric: Metric
    attributes: Attributes
    value: float
    start_time_unix_nano: int | None = None


def _held(number: Number, value: float) -> float:
    """The end of the type's range nearest to an integer that is outside it.

    Such a number no machine reports, and it must never end the agent: an int metric holds at
    -2**63 and 2**63 - 1, a double metric at the infinities.
    """
    assert isinstance(value, int), f"{number} was given {value!r}"  # noqa: S101 - our bug alone
    if number is Number.INT:
        return int64(value)
    return math.inf if value > 0 else -math.inf


# message NumberDataPoint { fixed64 start_time_unix_nano = 2; fixed64 time_unix_nano = 3;
#   oneof value { double as_double = 4; sfixed64 as_int = 6; } repeated KeyValue attributes = 7; }
def _data_point(reading: Reading, start_time_unix_nano: int) -> tuple[bytes, int]:
    """The message with zeros where numbers go, and the offset of the first of those bytes."""
    head = b""
    if reading.metric.kind is not Kind.GAUGE:
        own = reading.start_time_unix_nano
        head = wire.fixed64_field(2, start_time_unix_nano if own is None else own)
    head += wire.key(3, wire.FIXED64)
    return head + bytes(_PATCHED_BYTES) + attributes(7, reading.attributes), len(head)


# message Metric { string name = 1; string unit = 3; oneof data { Gauge gauge = 5; Sum sum = 7; } }
# message Gauge { repeated NumberDataPoint data_points = 1; }
# message Sum { repeated NumberDataPoint data_points = 1;
#   AggregationTemporality aggregation_temporality = 2; bool is_monotonic = 3; }
def _metric(metric: Metric, points: Sequence[tuple[bytes, int]]) -> tuple[bytes, list[int]]:
    """The message, and where in it each point's patched bytes are."""
    data = bytearray()
    places = []
    for point, place in points:
        head = wire.key(1, wire.LENGTH_DELIMITED) + wire.varint(len(point))
        places.append(len(data) + len(head) + place)
        data += head + point
    if metric.kind is Kind.GAUGE:
        field = 5
    else:
        field = 7
        data += wire.varint_field(2, 2)  # AGGREGATION_TEMPORALITY_CUMULATIVE
        if metric.kind is Kind.COUNTER:
            data += wire.varint_field(3, 1)
    head = wire.string_field(1, metric.name) + wire.string_field(3, metric.unit)
    head += wire.key(field, wire.LENGTH_DELIMITED) + wire.varint(len(data))
    return head + data, [len(head) + place for place in places]


def _enclose(field: int, before: bytes, body: bytes, places: list[int]) -> tuple[bytes, list[int]]:
    """`before` and `body` together as one length-delimited field; places move along."""
    head = wire.key(field, wire.LENGTH_DELIMITED) + wire.varint(len(before) + len(body)) + before
    return head + body, [len(head) + place for place in places]


def _comparable(pairs: Attributes) -> str:
    # True == 1 == 1.0 and 0.0 == -0.0, but their encodings differ.
    return repr([value for _, value in pairs if not isinstance(value, str)])


class Template:
    """An encoded ExportMetricsServiceRequest of one Resource and one scope.

    `resource` is an encoded Resource message, `otlp.resource.resource` makes one.
    """

    def __init__(self, resource: bytes, scope_name: str, scope_version: str) -> None:
        self._resource = wire.bytes_field(1, resource)
        self._scope = wire.bytes_field(1, scope(scope_name, scope_version))
        self._body = bytearray()
        # In the order of the readings: what each series is, and where its numbers are.
        self._series: list[tuple[Metric, Attributes, int | None]] = []
        self._start_time_unix_nano = -1
        self._places: list[tuple[int, Callable[..., None], int]] = []
        # Series whose attributes are not all text: index and what equality does not tell.
        self._typed: list[tuple[int, str]] = []

    @property
    def data_points(self) -> int:
        """Data points in the last request."""
        return len(self._series)

    def encode(
        self,
        readings: Sequence[Reading],
        *,
        start_time_unix_nano: int,
        time_unix_nano: int,
    ) -> bytes:
        """The request with every reading at `time_unix_nano`; empty when there are none.

        Sums start at `start_time_unix_nano` unless a reading brings its own. Readings of one
        Metric are grouped under it, at the place of the first. Measured on a 2-core x86-64 VM:
        25 us for 100 points patched, 0.6 ms when the series have changed.
        """
        series = [(r[0], r[1], r[3]) for r in readings]
        if (
            series != self._series
            or start_time_unix_nano != self._start_time_unix_nano
            or any(_comparable(readings[i][1]) != was for i, was in self._typed)
        ):
            self._build(readings, start_time_unix_nano)
            self._series = series
        body = self._body
        for (place, pack_into, key), reading in zip(self._places, readings, strict=True):
            value = reading[2]
            try:
                pack_into(body, place, time_unix_nano, key, value)
            except (struct.error, OverflowError):
                pack_into(body, place, time_unix_nano, key, _held(reading[0].number, value))
        return bytes(body)

    def _build(self, readings: Sequence[Reading], start_time_unix_nano: int) -> None:
        groups: dict[Metric, list[int]] = {}
        for index, reading in enumerate(readings):
            groups.setdefault(reading.metric, []).append(index)
        metrics = bytearray()
        order: list[int] = []
        places: list[int] = []
        for metric, indexes in groups.items():
            points = [_data_point(readings[i], start_time_unix_nano) for i in indexes]
            # message ScopeMetrics { InstrumentationScope scope = 1; repeated Metric metrics = 2; }
            message, inner = _enclose(2, b"", *_metric(metric, points))
            places += [len(metrics) + place for place in inner]
            metrics += message
            order += indexes
        body = bytes(metrics)
        if readings:
            # message ResourceMetrics { Resource resource = 1; repeated ScopeMetrics ... = 2; }
            body, places = _enclose(2, self._scope, body, places)
            # message ExportMetricsServiceRequest { repeated ResourceMetrics ... = 1; }
            body, places = _enclose(1, self._resource, body, places)
        self._body = bytearray(body)
        self._places = []
        for index, place in sorted(zip(order, places, strict=True)):
            number = readings[index].metric.number
            point = _INT_POINT if number is Number.INT else _DOUBLE_POINT
            self._places.append((place, point.pack_into, number.value))
        self._start_time_unix_nano = start_time_unix_nano
        self._typed = [
            (index, _comparable(reading.attributes))
            for index, reading in enumerate(readings)
            if not all(isinstance(value, str) for _, value in reading.attributes)
        ]
