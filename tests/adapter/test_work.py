"""What a request costs is counted before it is stored."""

from typing import Any

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric

from adapter.work import MAX_WORK, work_of
from tests.adapter.build import filled, gauge, key_values, point, request

# One Resource with two attributes, one scope, one metric.
AROUND = (3 + 2) + 2 + 1
ROW = 6


def histogram(buckets: int, points: int = 1, attributes: int = 0) -> Metric:
    """`points` histograms of `buckets` buckets."""

    def fill(metric: Metric) -> None:
        for _ in range(points):
            data = metric.histogram.data_points.add(bucket_counts=[1] * buckets)
            data.attributes.extend(key_values({f"k{n}": n for n in range(attributes)}))

    return filled(fill)


def summary(metric: Metric) -> None:
    """Three quantiles."""
    data = metric.summary.data_points.add()
    for _ in range(3):
        data.quantile_values.add()


@pytest.mark.parametrize(
    ("metric", "work"),
    [
        (Metric(name="m"), 0),
        (gauge(), 0),
        (gauge(point(), point()), 2 * (1 + ROW)),
        (gauge(point(attributes={"a": "x", "b": 1})), (1 + 2) + (ROW + 2)),
        (gauge(point(attributes={"a": [1, [2], {"k": None}]})), (1 + 6) + (ROW + 6)),
        (filled(lambda m: m.sum.data_points.add()), 1 + ROW),
        (histogram(10), 1 + 14 * ROW),
        (histogram(10, attributes=5), 1 + 5 + 14 * (ROW + 5)),
        (filled(lambda m: m.exponential_histogram.data_points.add()), 1 + 4 * ROW),
        (filled(summary), 1 + 5 * ROW),
    ],
)
def test_each_kind_costs_its_rows_and_their_attributes(metric: Metric, work: int):
    """Attributes count once as they are read and once in each row, what is in them too."""
    assert work_of(request(metric)) == AROUND + work


def test_what_makes_no_row_costs_too():
    """Resources and scopes without anything in them are work to look at."""
    empty = ExportMetricsServiceRequest()
    assert work_of(empty) == 0
    for _ in range(4):
        empty.resource_metrics.add().scope_metrics.add().scope.attributes.extend(
            key_values({"a": 1})
        )
    assert work_of(empty) == 4 * (3 + 2 + 1)


@pytest.mark.parametrize(
    "metrics",
    [
        [histogram(16, points=8192, attributes=8)],
        [gauge(*[point(attributes={"a": 1, "b": 2, "c": 3})] * 100_000)],
    ],
)
def test_the_largest_batches_of_a_collector_are_taken(metrics: Any):
    """Its batch processor sends 8192 data points at once, unless told otherwise."""
    assert work_of(request(*metrics)) < MAX_WORK
