"""Requests for the tests, built with the reference protobuf classes."""

import time
from collections.abc import Callable, Mapping
from typing import Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric, NumberDataPoint

# A moment of the contract's examples, to the nanosecond.
NOW_NS = 1_769_855_400_123_456_789
RESOURCE = {"node.id": "edge-01", "customer.id": "acme"}


def any_value(value: object) -> AnyValue:
    """`value` as OTLP's AnyValue."""
    match value:
        case None:
            return AnyValue()
        case bool():
            return AnyValue(bool_value=value)
        case int():
            return AnyValue(int_value=value)
        case float():
            return AnyValue(double_value=value)
        case bytes():
            return AnyValue(bytes_value=value)
        case list():
            array = AnyValue()
            array.array_value.SetInParent()
            array.array_value.values.extend(any_value(item) for item in value)
            return array
        case dict():
            pairs = AnyValue()
            pairs.kvlist_value.SetInParent()
            pairs.kvlist_value.values.extend(key_values(value))
            return pairs
        case _:
            return AnyValue(string_value=str(value))


def key_values(attributes: Mapping[str, object]) -> list[KeyValue]:
    """`attributes` as OTLP's list of pairs."""
    return [KeyValue(key=key, value=any_value(value)) for key, value in attributes.items()]


def request(
    *metrics: Metric, resource: Mapping[str, object] = RESOURCE, scope: str = "test"
) -> ExportMetricsServiceRequest:
    """One Resource, one scope, these metrics."""
    built = ExportMetricsServiceRequest()
    resource_metrics = built.resource_metrics.add()
    resource_metrics.resource.attributes.extend(key_values(resource))
    scope_metrics = resource_metrics.scope_metrics.add()
    scope_metrics.scope.name = scope
    scope_metrics.metrics.extend(metrics)
    return built


def point(
    value: float | None = 1.5,
    *,
    time_ns: int = NOW_NS,
    attributes: Mapping[str, object] | None = None,
    flags: int = 0,
) -> NumberDataPoint:
    """One number; an int stays one, None leaves the value out."""
    built = NumberDataPoint(
        time_unix_nano=time_ns, attributes=key_values(attributes or {}), flags=flags
    )
    if isinstance(value, int):
        built.as_int = value
    elif value is not None:
        built.as_double = value
    return built


def gauge(*points: NumberDataPoint, name: str = "system.cpu.percent", unit: str = "%") -> Metric:
    """A gauge of these points."""
    built = Metric(name=name, unit=unit)
    built.gauge.data_points.extend(points)
    return built


def filled(fill: Callable[[Metric], Any], name: str = "m", unit: str = "s") -> Metric:
    """A metric that `fill` gives its data."""
    built = Metric(name=name, unit=unit)
    fill(built)
    return built


def sample_body(points: int, *, now_ns: int | None = None, first: int = 0) -> bytes:
    """An encoded request of `points` gauges named m0, m1, ... of edge-01, sampled now."""
    at = time.time_ns() if now_ns is None else now_ns
    metrics = [
        gauge(point(float(n), time_ns=at), name=f"m{n}") for n in range(first, first + points)
    ]
    return request(*metrics).SerializeToString()
