"""OTLP data points -> the values of the rows they become. Pure; the kinds are listed in rows.py."""

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

from opentelemetry.proto.metrics.v1.metrics_pb2 import (
    AGGREGATION_TEMPORALITY_CUMULATIVE,
    AGGREGATION_TEMPORALITY_DELTA,
    ExponentialHistogramDataPoint,
    HistogramDataPoint,
    Metric,
    NumberDataPoint,
    SummaryDataPoint,
)

from adapter.row import number_text

# An exponential histogram of 2 x 160 buckets takes 4 KiB; a blob of megabytes is for no database.
MAX_POINT_BYTES = 64 * 1024

GAUGE, DELTA, CUMULATIVE = "gauge", "delta", "cumulative"

DataPoint = NumberDataPoint | HistogramDataPoint | ExponentialHistogramDataPoint | SummaryDataPoint


class Part(NamedTuple):
    """One row's own share of a data point."""

    suffix: str
    value: float
    kind: str
    value_int: int | None = None
    label: tuple[str, str] | None = None
    point: bytes | None = None
    # Counts are numbers of points, whatever the unit of what was measured.
    has_unit: bool = True


class RejectedError(Exception):
    """The data point is refused; `reason` is a key of REASONS."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class SkippedError(Exception):
    """The data point makes no row; `reason` is one of SKIPPED."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


_KINDS = {AGGREGATION_TEMPORALITY_DELTA: DELTA, AGGREGATION_TEMPORALITY_CUMULATIVE: CUMULATIVE}


def data_points_of(metric: Metric) -> tuple[Sequence[DataPoint], str]:
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


def parts_of(point: DataPoint, kind: str) -> Iterator[Part]:
    """The rows of a data point; raises RejectedError and SkippedError before the first."""
    match point:
        case NumberDataPoint():
            return _number(point, kind)
        case HistogramDataPoint():
            return _histogram(point, kind)
        case ExponentialHistogramDataPoint():
            return _exponential_histogram(point, kind)
        case _:
            return _summary(point, kind)


def _number(point: NumberDataPoint, kind: str) -> Iterator[Part]:
    match point.WhichOneof("value"):
        case "as_double":
            yield Part("", point.as_double, kind)
        case "as_int":
            yield Part("", float(point.as_int), kind, point.as_int)
        case _:
            # A point without a value says no more than the flag does.
            raise SkippedError("no_recorded_value")


def _histogram(point: HistogramDataPoint, kind: str) -> Iterator[Part]:
    counts, bounds = point.bucket_counts, point.explicit_bounds
    # Up to the bound that is not sent, infinity: NaN and a second infinity fail too.
    rising = all(a < b for a, b in pairwise([*bounds, math.inf]))
    if not rising or (len(counts) != len(bounds) + 1 and (counts or bounds)):
        raise RejectedError("malformed_histogram")
    yield _count(".count", point.count, kind)
    yield from _sum_min_max(point, kind)
    total = 0
    for bound, count in zip([*bounds, math.inf], counts, strict=False):
        total += count
        yield _count(".bucket", total, kind, ("le", number_text(bound)))


def _exponential_histogram(point: ExponentialHistogramDataPoint, kind: str) -> Iterator[Part]:
    if point.ByteSize() > MAX_POINT_BYTES:
        raise RejectedError("point_too_large")
    encoded = point.SerializeToString(deterministic=True)
    yield _count(".count", point.count, kind)._replace(point=encoded)
    yield from _sum_min_max(point, kind)


def _summary(point: SummaryDataPoint, kind: str) -> Iterator[Part]:
    yield _count(".count", point.count, kind)
    yield Part(".sum", point.sum, kind)
    for quantile in point.quantile_values:
        label = ("quantile", number_text(quantile.quantile))
        yield Part(".quantile", quantile.value, GAUGE, label=label)


def _count(suffix: str, count: int, kind: str, label: tuple[str, str] | None = None) -> Part:
    # The wire has 64 bits without sign, the column bigint has one.
    exact = count if count < 2**63 else None
    return Part(suffix, float(count), kind, exact, label, has_unit=False)


def _sum_min_max(
    point: HistogramDataPoint | ExponentialHistogramDataPoint, kind: str
) -> Iterator[Part]:
    if point.HasField("sum"):
        yield Part(".sum", point.sum, kind)
    if point.HasField("min"):
        yield Part(".min", point.min, GAUGE)
    if point.HasField("max"):
        yield Part(".max", point.max, GAUGE)
