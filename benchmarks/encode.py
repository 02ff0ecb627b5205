"""What does a sample cost on the wire: the patched template against protobuf's C runtime (upb).

`python -m benchmarks.encode` prints microseconds for 100 data points; `--quick` runs a few rounds
and only asserts that both say the same.
"""

import argparse
import time
from collections.abc import Callable

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)

from edge_agent.otlp.metrics import Kind, Metric, Number, Reading, Template
from edge_agent.otlp.resource import resource

START, TIME = 1_767_600_000_000_000_000, 1_767_688_640_510_000_000
RESOURCE = resource([("customer.id", "acme"), ("node.id", "edge-01"), ("host.arch", "arm64")])
METRICS = [
    Metric(f"system.metric.number_{n}", "By", Kind.COUNTER, (Number.INT, Number.DOUBLE)[n % 2])
    for n in range(25)
]


def readings(base: int) -> list[Reading]:
    """100 data points as a subject makes them: attributes are new objects each time."""
    return [
        Reading(
            metric,
            (("system.device", f"mmcblk{n}"), ("disk.io.direction", "read")),
            base + n,
        )
        for metric in METRICS
        for n in range(4)
    ]


def with_protobuf(batch: list[Reading]) -> bytes:
    """Messages built and serialised by the library."""
    request = ExportMetricsServiceRequest()
    resource_metrics = request.resource_metrics.add()
    resource_metrics.resource.ParseFromString(RESOURCE)
    scope_metrics = resource_metrics.scope_metrics.add()
    scope_metrics.scope.name, scope_metrics.scope.version = "edge_agent.host", "1.0.0"
    message, name = None, ""
    for metric, attributes, value, _ in batch:
        if message is None or metric.name != name:
            name = metric.name
            message = scope_metrics.metrics.add(name=name, unit=metric.unit)
            message.sum.aggregation_temporality = 2
            message.sum.is_monotonic = True
        point = message.sum.data_points.add(start_time_unix_nano=START, time_unix_nano=TIME)
        if metric.number is Number.INT:
            point.as_int = int(value)
        else:
            point.as_double = value
        for key, text in attributes:
            point.attributes.add(key=key).value.string_value = str(text)
    return request.SerializeToString()


def us(call: Callable[[list[Reading]], object], rounds: int) -> float:
    """The best of five averages: the machine has other things to do."""
    batches = [readings(base) for base in range(rounds)]
    best = float("inf")
    for _ in range(5):
        begin = time.perf_counter()
        for batch in batches:
            call(batch)
        best = min(best, (time.perf_counter() - begin) / rounds)
    return best * 1e6


def main() -> None:
    """Print the table, or check the shape."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    template = Template(RESOURCE, "edge_agent.host", "1.0.0")

    def patched(batch: list[Reading]) -> bytes:
        return template.encode(batch, start_time_unix_nano=START, time_unix_nano=TIME)

    def built(batch: list[Reading]) -> bytes:
        fresh = Template(RESOURCE, "edge_agent.host", "1.0.0")
        return fresh.encode(batch, start_time_unix_nano=START, time_unix_nano=TIME)

    for base in (0, 1):
        batch = readings(base)
        ours = ExportMetricsServiceRequest.FromString(patched(batch))
        assert ours == ExportMetricsServiceRequest.FromString(with_protobuf(batch))
        assert patched(batch) == built(batch)
        assert template.data_points == 100
    if quick:
        return
    print("us per request of 100 data points")
    for name, call, rounds in (
        ("template, patched", patched, 1000),
        ("template, built anew", built, 100),
        ("protobuf (upb)", with_protobuf, 200),
    ):
        print(f"{name:22} {us(call, rounds):8.1f}")


if __name__ == "__main__":
    main()
