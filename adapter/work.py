"""What a request costs to turn into rows, before it is. Pure.

Bytes say little: an empty Resource is two of them, and a histogram repeats its attributes with
each bucket. So Resources, scopes, metrics, data points, the values in attributes and the rows to
come are counted, each by about what it costs (a unit measured a microsecond or two on x86, the
store's share included). What is over MAX_WORK is refused whole, before any of it is stored.

Within it are 20 MiB of plain gauges, or 8192 histograms of 16 buckets with eight attributes each.
"""

from collections.abc import Iterable

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric

from adapter.points import data_points_of

MAX_WORK = 4_000_000
_RESOURCE, _SCOPE, _METRIC, _POINT, _ROW = 3, 2, 1, 1, 6
# .count, .sum, .min and .max; .count and .sum.
_HISTOGRAM_ROWS, _SUMMARY_ROWS = 4, 2


def work_of(message: ExportMetricsServiceRequest) -> int:
    """What `message` costs."""
    work = 0
    for resource_metrics in message.resource_metrics:
        work += _RESOURCE + _attributes(resource_metrics.resource.attributes)
        for scope_metrics in resource_metrics.scope_metrics:
            work += _SCOPE + _attributes(scope_metrics.scope.attributes)
            work += sum(map(_metric, scope_metrics.metrics))
    return work


def _metric(metric: Metric) -> int:
    points, _ = data_points_of(metric)
    work = _METRIC
    match metric.WhichOneof("data"):
        case "histogram":
            rows = [_HISTOGRAM_ROWS + len(p.bucket_counts) for p in metric.histogram.data_points]
        case "exponential_histogram":
            rows = [_HISTOGRAM_ROWS] * len(points)
        case "summary":
            rows = [_SUMMARY_ROWS + len(p.quantile_values) for p in metric.summary.data_points]
        case _:
            rows = [1] * len(points)
    for point, count in zip(points, rows, strict=True):
        attributes = _attributes(point.attributes)
        work += _POINT + attributes + count * (_ROW + attributes)
    return work


def _attributes(attributes: Iterable[KeyValue]) -> int:
    return sum(_value(pair.value) for pair in attributes)


def _value(value: AnyValue) -> int:
    match value.WhichOneof("value"):
        case "array_value":
            return 1 + sum(map(_value, value.array_value.values))
        case "kvlist_value":
            return 1 + _attributes(value.kvlist_value.values)
        case _:
            return 1
