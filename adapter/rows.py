"""OTLP metrics -> rows of the table `metrics`. Pure.

How each kind of data point becomes rows (OpenTelemetry metrics data model):

    gauge, sum     one row under the metric's name
    histogram      name.count, .sum, .min, .max, and .bucket once a bound: the attribute `le` is its
                   upper bound ("+Inf" for the last) and the value counts all points up to it, as
                   Prometheus has it
    exponential    name.count (its `point` column is the whole encoded data point), .sum, .min, .max
    summary        name.count, .sum, and .quantile with the attribute `quantile`

`kind` is gauge, delta or cumulative; .min, .max and .quantile are gauges, and so is a sum without
temporality: all that is known of it is its value. `value_int` is set where the point holds an
integer, which `value` rounds beyond 2**53. `timestamp` is in milliseconds as in Cassandra; of two
samples of one series within a millisecond the later one stays.

`attributes` are the point's, and the Resource's `service.*` names where the point has none of its
own: without them the rows of two services on one node could not be told apart.

`series_id` is a BLAKE2b hash of 128 bits over customer.id, the Resource's other attributes but for
identity (customer.*, node.*, collector.*), the scope, the row's attributes and the kind. Each text
is written as length and UTF-8, each map sorted by key, so that order does not matter and no two
inputs run together.
"""

import base64
import functools
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import blake2b
from itertools import pairwise
from typing import Any, NamedTuple

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope, KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import (
    AGGREGATION_TEMPORALITY_CUMULATIVE,
    AGGREGATION_TEMPORALITY_DELTA,
    DATA_POINT_FLAGS_NO_RECORDED_VALUE_MASK,
    ExponentialHistogramDataPoint,
    HistogramDataPoint,
    Metric,
    NumberDataPoint,
    SummaryDataPoint,
)

TTL_S = 2_592_000
MAX_AHEAD_S = 600
MAX_NAME_BYTES = 1024
MAX_ATTRIBUTES_BYTES = 16 * 1024
# An exponential histogram of 2 x 160 buckets takes 4 KiB; a blob of megabytes is for no database.
MAX_POINT_BYTES = 64 * 1024

GAUGE, DELTA, CUMULATIVE = "gauge", "delta", "cumulative"

REASONS = {
    "missing_node_id": "the Resource has none of node.id, node_id and host.name",
    "missing_customer_id": "the Resource has neither customer.id nor customer_id",
    "id_too_long": f"node or customer id longer than {MAX_NAME_BYTES} bytes",
    "customer_not_allowed": "the token does not cover this customer",
    "empty_name": "the metric has no name",
    "name_too_long": f"metric name or unit longer than {MAX_NAME_BYTES} bytes",
    "attributes_too_large": f"attributes larger than {MAX_ATTRIBUTES_BYTES} bytes",
    "point_too_large": f"encoded data point larger than {MAX_POINT_BYTES} bytes",
    "time_zero": "the time stamp is 0",
    "time_in_future": f"the time stamp is more than {MAX_AHEAD_S // 60} minutes in the future",
    "malformed_histogram": "bucket counts do not fit the bounds, or the bounds do not rise",
}
"""Why a data point is refused: the `reason` of our metrics, and what a sender is told."""

SKIPPED = ("no_recorded_value", "expired")
"""Why a data point makes no row although nothing is wrong with it."""

_DataPoint = NumberDataPoint | HistogramDataPoint | ExponentialHistogramDataPoint | SummaryDataPoint
_DAY_NS = 86_400 * 10**9
_SERVICE = ("service.name", "service.namespace", "service.instance.id")


class Row(NamedTuple):
    """One row, in the order of CONTRACT's columns. A tuple: built a hundred times a request."""

    node_id: str
    metric_name: str
    time_bucket: str
    timestamp_ms: int
    value: float
    customer_id: str
    series_id: bytes
    attributes: Mapping[str, str]
    unit: str
    kind: str
    value_int: int | None
    point: bytes | None


@dataclass(slots=True)
class Rejection:
    """Data points refused for one reason, and which was the first."""

    points: int
    example: str


@dataclass(slots=True)
class Outcome:
    """What became of the data points of one request. The counts are points, not rows."""

    rejected: dict[str, Rejection] = field(default_factory=dict)
    skipped: dict[str, int] = field(default_factory=dict)

    def reject(self, reason: str, points: int, example: str) -> None:
        """Count `points` as refused for `reason`, a key of REASONS; `example` names one."""
        if points == 0:
            return
        if reason in self.rejected:
            self.rejected[reason].points += points
        else:
            self.rejected[reason] = Rejection(points, example)

    def skip(self, reason: str) -> None:
        """Count a data point that makes no row; `reason` is one of SKIPPED."""
        self.skipped[reason] = self.skipped.get(reason, 0) + 1

    @property
    def rejected_points(self) -> int:
        """All that were refused."""
        return sum(rejection.points for rejection in self.rejected.values())

    def message(self) -> str:
        """Every reason with its count and first example: partial_success's error_message."""
        return "; ".join(
            f"{r.points} rejected: {REASONS[reason]}: {r.example}"
            for reason, r in self.rejected.items()
        )


@dataclass(frozen=True, slots=True)
class Window:
    """Which sample times become rows: later than `oldest_ns`, up to `newest_ns`."""

    oldest_ns: int
    newest_ns: int

    @classmethod
    def at(cls, now_ns: int) -> "Window":
        """The last 30 days and the next 10 minutes."""
        return cls(now_ns - TTL_S * 10**9, now_ns + MAX_AHEAD_S * 10**9)


def rows_of(
    request: ExportMetricsServiceRequest,
    *,
    window: Window,
    customers: frozenset[str] | None,
    outcome: Outcome,
) -> list[Row]:
    """The rows of `request`; what makes none is counted in `outcome`.

    `customers` are the customer ids that the sender may write, None for all.
    """
    rows: list[Row] = []
    for resource_metrics in request.resource_metrics:
        attributes = _text_map(resource_metrics.resource.attributes)
        metrics = [m for scope in resource_metrics.scope_metrics for m in scope.metrics]
        node_id = _first(attributes, "node.id", "node_id", "host.name")
        customer_id = _first(attributes, "customer.id", "customer_id")
        reason = _wrong_identity(node_id, customer_id, customers)
        if reason is not None:
            points = sum(len(_data_points(metric)[0]) for metric in metrics)
            what = f"metric {_named(metrics[0].name)} of " if metrics else ""
            of = f"node {_named(node_id)}, customer {_named(customer_id)}"
            outcome.reject(reason, points, what + of)
            continue
        resource_hash = _resource_hash(customer_id, attributes)
        service = {key: attributes[key] for key in _SERVICE if key in attributes}
        for scope_metrics in resource_metrics.scope_metrics:
            source = _Source(
                node_id, customer_id, service, _scope_hash(resource_hash, scope_metrics.scope)
            )
            for metric in scope_metrics.metrics:
                _add_metric(rows, metric, source, window, outcome)
    return rows


@dataclass(slots=True)
class _Source:
    """What all rows of one Resource and Scope share."""

    node_id: str
    customer_id: str
    service: Mapping[str, str]
    hash: blake2b


def _wrong_identity(node_id: str, customer_id: str, customers: frozenset[str] | None) -> str | None:
    if not node_id:
        return "missing_node_id"
    if not customer_id:
        return "missing_customer_id"
    if _too_long(node_id) or _too_long(customer_id):
        return "id_too_long"
    if customers is not None and customer_id not in customers:
        return "customer_not_allowed"
    return None


def _add_metric(
    rows: list[Row], metric: Metric, source: _Source, window: Window, outcome: Outcome
) -> None:
    points, kind = _data_points(metric)
    name, unit = metric.name, metric.unit
    named = f"metric {_named(name)} of node {_named(source.node_id)}"
    if not name or _too_long(name) or _too_long(unit):
        outcome.reject("name_too_long" if name else "empty_name", len(points), named)
        return
    for point in points:
        try:
            rows += _point_rows(point, kind, metric, source, window)
        except _RejectedError as rejected:
            outcome.reject(rejected.reason, 1, named)
        except _SkippedError as skipped:
            outcome.skip(skipped.reason)


def _point_rows(
    point: _DataPoint, kind: str, metric: Metric, source: _Source, window: Window
) -> Iterator[Row]:
    time_ns = point.time_unix_nano
    if time_ns == 0:
        raise _RejectedError("time_zero")
    if time_ns > window.newest_ns:
        raise _RejectedError("time_in_future")
    if time_ns <= window.oldest_ns:
        raise _SkippedError("expired")
    if point.flags & DATA_POINT_FLAGS_NO_RECORDED_VALUE_MASK:
        raise _SkippedError("no_recorded_value")
    attributes = {**source.service, **_text_map(point.attributes)}
    packed, size_bytes = _packed(attributes)
    if size_bytes > MAX_ATTRIBUTES_BYTES:
        raise _RejectedError("attributes_too_large")
    bucket, timestamp_ms = _date(time_ns // _DAY_NS), time_ns // 1_000_000
    for part in _parts(point, kind):
        own, own_packed = attributes, packed
        if part.label is not None:
            own = {**attributes, part.label[0]: part.label[1]}
            own_packed = _packed(own)[0]
        series = source.hash.copy()
        series.update(own_packed)
        series.update(part.kind.encode())
        yield Row(
            source.node_id,
            metric.name + part.suffix,
            bucket,
            timestamp_ms,
            part.value,
            source.customer_id,
            series.digest(),
            own,
            metric.unit if part.has_unit else "",
            part.kind,
            part.value_int,
            part.point,
        )


# ---- data points -> values --------------------------------------------------------------------


class _Part(NamedTuple):
    """One row's own share of a data point."""

    suffix: str
    value: float
    kind: str
    value_int: int | None = None
    label: tuple[str, str] | None = None
    point: bytes | None = None
    # Counts are numbers of points, whatever the unit of what was measured.
    has_unit: bool = True


class _RejectedError(Exception):
    """The data point is refused; `reason` is a key of REASONS."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class _SkippedError(Exception):
    """The data point makes no row; `reason` is one of SKIPPED."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


_KINDS = {AGGREGATION_TEMPORALITY_DELTA: DELTA, AGGREGATION_TEMPORALITY_CUMULATIVE: CUMULATIVE}


def _data_points(metric: Metric) -> tuple[Sequence[_DataPoint], str]:
    """The data points of `metric` and the kind of its rows."""
    match metric.WhichOneof("data"):
        case "gauge":
            return metric.gauge.data_points, GAUGE
        case "sum":
            return metric.sum.data_points, _KINDS.get(metric.sum.aggregation_temporality, GAUGE)
        case "histogram":
            temporality = metric.histogram.aggregation_temporality
            return metric.histogram.data_points, _KINDS.get(temporality, GAUGE)
        case "exponential_histogram":
            temporality = metric.exponential_histogram.aggregation_temporality
            return metric.exponential_histogram.data_points, _KINDS.get(temporality, GAUGE)
        case "summary":
            # Data model, "Summary (Legacy)": count and sum are cumulative as in Prometheus.
            return metric.summary.data_points, CUMULATIVE
        case _:
            return (), GAUGE


def _parts(point: _DataPoint, kind: str) -> Iterator[_Part]:
    match point:
        case NumberDataPoint():
            return _number(point, kind)
        case HistogramDataPoint():
            return _histogram(point, kind)
        case ExponentialHistogramDataPoint():
            return _exponential_histogram(point, kind)
        case _:
            return _summary(point, kind)


def _number(point: NumberDataPoint, kind: str) -> Iterator[_Part]:
    match point.WhichOneof("value"):
        case "as_double":
            yield _Part("", point.as_double, kind)
        case "as_int":
            yield _Part("", float(point.as_int), kind, point.as_int)
        case _:
            # A point without a value says no more than the flag does.
            raise _SkippedError("no_recorded_value")


def _histogram(point: HistogramDataPoint, kind: str) -> Iterator[_Part]:
    counts, bounds = point.bucket_counts, point.explicit_bounds
    # Up to the bound that is not sent, infinity: NaN and a second infinity fail too.
    rising = all(a < b for a, b in pairwise([*bounds, math.inf]))
    if not rising or (len(counts) != len(bounds) + 1 and (counts or bounds)):
        raise _RejectedError("malformed_histogram")
    yield _count(".count", point.count, kind)
    yield from _sum_min_max(point, kind)
    total = 0
    for bound, count in zip([*bounds, math.inf], counts, strict=False):
        total += count
        yield _count(".bucket", total, kind, ("le", number_text(bound)))


def _exponential_histogram(point: ExponentialHistogramDataPoint, kind: str) -> Iterator[_Part]:
    if point.ByteSize() > MAX_POINT_BYTES:
        raise _RejectedError("point_too_large")
    encoded = point.SerializeToString(deterministic=True)
    yield _count(".count", point.count, kind)._replace(point=encoded)
    yield from _sum_min_max(point, kind)


def _summary(point: SummaryDataPoint, kind: str) -> Iterator[_Part]:
    yield _count(".count", point.count, kind)
    yield _Part(".sum", point.sum, kind)
    for quantile in point.quantile_values:
        label = ("quantile", number_text(quantile.quantile))
        yield _Part(".quantile", quantile.value, GAUGE, label=label)


def _count(suffix: str, count: int, kind: str, label: tuple[str, str] | None = None) -> _Part:
    # The wire has 64 bits without sign, the column bigint has one.
    exact = count if count < 2**63 else None
    return _Part(suffix, float(count), kind, exact, label, has_unit=False)


def _sum_min_max(
    point: HistogramDataPoint | ExponentialHistogramDataPoint, kind: str
) -> Iterator[_Part]:
    if point.HasField("sum"):
        yield _Part(".sum", point.sum, kind)
    if point.HasField("min"):
        yield _Part(".min", point.min, GAUGE)
    if point.HasField("max"):
        yield _Part(".max", point.max, GAUGE)


# ---- text -------------------------------------------------------------------------------------


def number_text(number: float) -> str:
    """A bound or value as OpenMetrics writes it: `0.005`, `5.0`, `+Inf`, `-Inf`, `NaN`."""
    if math.isfinite(number):
        return repr(number)
    if math.isnan(number):
        return "NaN"
    return "+Inf" if number > 0 else "-Inf"


def _text_map(attributes: Iterable[KeyValue]) -> dict[str, str]:
    return {pair.key: _text(pair.value) for pair in attributes}


def _text(value: AnyValue) -> str:
    """OpenTelemetry, "AnyValue representation for non-OTLP protocols"."""
    if value.HasField("string_value"):
        return value.string_value
    plain = _plain(value)
    if plain is None:
        return ""
    if isinstance(plain, str):
        return plain
    return json.dumps(plain, ensure_ascii=False, separators=(",", ":"), sort_keys=True)


def _plain(value: AnyValue) -> Any:
    match value.WhichOneof("value"):
        case "array_value":
            return [_plain(item) for item in value.array_value.values]
        case "kvlist_value":
            return {pair.key: _plain(pair.value) for pair in value.kvlist_value.values}
        case "double_value":
            number = value.double_value
            if math.isfinite(number):
                return number
            return "NaN" if math.isnan(number) else "Infinity" if number > 0 else "-Infinity"
        case "bytes_value":
            return base64.b64encode(value.bytes_value).decode()
        case "string_value" | "bool_value" | "int_value" as kind:
            return getattr(value, kind)
        case _:
            # Nothing, or an index into the string table that only profiles have.
            return None


def _first(attributes: Mapping[str, str], *keys: str) -> str:
    return next((attributes[key] for key in keys if attributes.get(key)), "")


def _too_long(text: str) -> bool:
    # UTF-8 takes 1 to 4 bytes a character: most texts are settled without encoding them.
    return len(text) * 4 > MAX_NAME_BYTES and len(text.encode()) > MAX_NAME_BYTES


def _named(text: str) -> str:
    """`text` for a message: one line, bounded."""
    escaped = text.encode("unicode_escape").decode()
    return (escaped if len(escaped) <= 100 else f"{escaped[:100]}...") or "(none)"


@functools.lru_cache(maxsize=64)
def _date(day: int) -> str:
    return datetime.fromtimestamp(day * 86_400, UTC).date().isoformat()


# ---- the hash ---------------------------------------------------------------------------------


def _packed(attributes: Mapping[str, str]) -> tuple[bytes, int]:
    """The bytes that are hashed, and how many bytes of text are in them."""
    parts = [len(attributes).to_bytes(4, "big")]
    size_bytes = 0
    for key in sorted(attributes):
        for text in (key.encode(), attributes[key].encode()):
            size_bytes += len(text)
            parts += (len(text).to_bytes(4, "big"), text)
    return b"".join(parts), size_bytes


def _resource_hash(customer_id: str, attributes: Mapping[str, str]) -> blake2b:
    others = {
        key: text
        for key, text in attributes.items()
        if not key.startswith(("customer.", "node.", "collector."))
        and key not in ("customer_id", "node_id")
    }
    hashed = blake2b(digest_size=16)
    hashed.update(_packed({"customer.id": customer_id})[0])
    hashed.update(_packed(others)[0])
    return hashed


def _scope_hash(resource_hash: blake2b, scope: InstrumentationScope) -> blake2b:
    hashed = resource_hash.copy()
    hashed.update(_packed({"name": scope.name, "version": scope.version})[0])
    hashed.update(_packed(_text_map(scope.attributes))[0])
    return hashed
