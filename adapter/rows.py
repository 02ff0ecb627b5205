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
identity (customer.*, node.*, collector.*), the scope, the row's attributes and the kind.
"""

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import blake2b

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.metrics.v1.metrics_pb2 import (
    DATA_POINT_FLAGS_NO_RECORDED_VALUE_MASK,
    Metric,
)

from adapter.points import (
    MAX_POINT_BYTES,
    DataPoint,
    RejectedError,
    SkippedError,
    data_points_of,
    parts_of,
)
from adapter.row import MAX_AHEAD_S, TTL_S, Row
from adapter.series import hash_of_resource, hash_of_scope, packed_map, text_map

MAX_NAME_BYTES = 1024
MAX_ATTRIBUTES_BYTES = 16 * 1024

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

_DAY_NS = 86_400 * 10**9
_SERVICE = ("service.name", "service.namespace", "service.instance.id")


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
) -> Iterator[Row]:
    """The rows of `request`, one at a time; what makes none is counted in `outcome`.

    `customers` are the customer ids that the sender may write, None for all.
    """
    for resource_metrics in request.resource_metrics:
        attributes = text_map(resource_metrics.resource.attributes)
        metrics = [m for scope in resource_metrics.scope_metrics for m in scope.metrics]
        node_id = _first(attributes, "node.id", "node_id", "host.name")
        customer_id = _first(attributes, "customer.id", "customer_id")
        reason = _wrong_identity(node_id, customer_id, customers)
        if reason is not None:
            points = sum(len(data_points_of(metric)[0]) for metric in metrics)
            what = f"metric {_named(metrics[0].name)} of " if metrics else ""
            of = f"node {_named(node_id)}, customer {_named(customer_id)}"
            outcome.reject(reason, points, what + of)
            continue
        resource_hash = hash_of_resource(customer_id, attributes)
        service = {key: attributes[key] for key in _SERVICE if key in attributes}
        for scope_metrics in resource_metrics.scope_metrics:
            source = _Source(
                node_id, customer_id, service, hash_of_scope(resource_hash, scope_metrics.scope)
            )
            for metric in scope_metrics.metrics:
                yield from _metric_rows(metric, source, window, outcome)


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


def _metric_rows(
    metric: Metric, source: _Source, window: Window, outcome: Outcome
) -> Iterator[Row]:
    points, kind = data_points_of(metric)
    name, unit = metric.name, metric.unit
    named = f"metric {_named(name)} of node {_named(source.node_id)}"
    if not name or _too_long(name) or _too_long(unit):
        outcome.reject("name_too_long" if name else "empty_name", len(points), named)
        return
    for point in points:
        try:
            yield from _point_rows(point, kind, metric, source, window)
        except RejectedError as rejected:
            outcome.reject(rejected.reason, 1, named)
        except SkippedError as skipped:
            outcome.skip(skipped.reason)


def _point_rows(
    point: DataPoint, kind: str, metric: Metric, source: _Source, window: Window
) -> Iterator[Row]:
    time_ns = point.time_unix_nano
    if time_ns == 0:
        raise RejectedError("time_zero")
    if time_ns > window.newest_ns:
        raise RejectedError("time_in_future")
    if time_ns <= window.oldest_ns:
        raise SkippedError("expired")
    if point.flags & DATA_POINT_FLAGS_NO_RECORDED_VALUE_MASK:
        raise SkippedError("no_recorded_value")
    attributes = {**source.service, **text_map(point.attributes)}
    packed, size_bytes = packed_map(attributes)
    if size_bytes > MAX_ATTRIBUTES_BYTES:
        raise RejectedError("attributes_too_large")
    bucket, timestamp_ms = _date(time_ns // _DAY_NS), time_ns // 1_000_000
    for part in parts_of(point, kind):
        own, own_packed = attributes, packed
        if part.label is not None:
            own = {**attributes, part.label[0]: part.label[1]}
            own_packed = packed_map(own)[0]
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
