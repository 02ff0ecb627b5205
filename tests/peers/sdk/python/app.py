"""A small app on opentelemetry-python: PROTOCOL RUN UNIX_NANO VALUE COUNT DIRECT_ENDPOINT.

It exports everything twice: to OTEL_EXPORTER_OTLP_ENDPOINT, with exporters as their environment
variables set them up, and the same objects to DIRECT_ENDPOINT. See ../README.md for what.
"""

import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any

from opentelemetry import context, trace
from opentelemetry._logs import SeverityNumber
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.metrics import Histogram, MeterProvider
from opentelemetry.sdk.metrics.export import (
    MetricExporter,
    MetricExportResult,
    MetricsData,
    PeriodicExportingMetricReader,
)
from opentelemetry.sdk.metrics.view import ExponentialBucketHistogramAggregation, View
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags
from opentelemetry.trace.span import TraceState

PACKAGES = {
    "grpc": "opentelemetry.exporter.otlp.proto.grpc",
    "http/protobuf": "opentelemetry.exporter.otlp.proto.http",
    "http/json": "opentelemetry.exporter.otlp.json.http",
}
SCHEMA = "https://opentelemetry.io/schemas/1.37.0"
MILLISECOND = 1_000_000
FAILED = []


class Both(MetricExporter):
    """Gives one collection to two exporters: two readers would collect at two times."""

    def __init__(self, exporters: Sequence[MetricExporter]) -> None:
        first = exporters[0]
        super().__init__(first._preferred_temporality, first._preferred_aggregation)
        self._exporters = exporters

    def export(
        self, metrics_data: MetricsData, timeout_millis: float = 10_000, **_: Any
    ) -> MetricExportResult:
        results = [e.export(metrics_data, timeout_millis) for e in self._exporters]
        if set(results) != {MetricExportResult.SUCCESS}:
            FAILED.append("metrics")
            return MetricExportResult.FAILURE
        return MetricExportResult.SUCCESS

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        return all(e.force_flush(timeout_millis) for e in self._exporters)

    def shutdown(self, timeout_millis: float = 30_000, **_: Any) -> None:
        for exporter in self._exporters:
            exporter.shutdown()


def exporters(protocol: str, signal: str, direct: str) -> list[Any]:
    """The exporter that the environment describes, and one to `direct`."""
    names = {
        "traces": ("trace_exporter", "OTLPSpanExporter"),
        "metrics": ("metric_exporter", "OTLPMetricExporter"),
        "logs": ("_log_exporter", "OTLPLogExporter"),
    }
    module, name = names[signal]
    new = getattr(importlib.import_module(f"{PACKAGES[protocol]}.{module}"), name)
    url = direct if protocol == "grpc" else f"{direct}/v1/{signal}"
    return [new(), new(endpoint=url)]


def every_type(value: int) -> dict[str, Any]:
    """An attribute of every type."""
    return {
        "text": "Füße ☕ \u0000 end",
        "empty": "",
        "yes": True,
        "no": False,
        "int": value,
        "big": 2**53 - 1,
        "negative": -value,
        "double": value / 8,
        "texts": ["a", "", "ß"],
        "bools": [True, False],
        "ints": [0, -1, value],
        "doubles": [0.1, -2.5e-300],
        "none": [],
    }


def traces(provider: TracerProvider, nano: int, value: int, count: int) -> context.Context:
    """The spans of ../README.md; the context of `parent`."""
    tracer = provider.get_tracer("checkout", "1.2.3", SCHEMA, {"team": "shop"})
    remote = SpanContext(
        int.from_bytes(bytes(range(1, 17))), int.from_bytes(bytes(range(1, 9))), is_remote=True,
        trace_flags=TraceFlags(1), trace_state=TraceState([("vendor", "one"), ("other", "2")]),
    )  # fmt: skip
    parent = tracer.start_span(
        "parent", kind=SpanKind.SERVER, attributes=every_type(value), start_time=nano,
        links=[Link(remote, {"why": "retry", "n": value})],
    )  # fmt: skip
    inside = trace.set_span_in_context(parent)
    parent.add_event("cache.miss", {"key": "k", "age": value / 4}, nano + MILLISECOND)
    parent.add_event("bare", timestamp=nano + 2 * MILLISECOND)
    child = tracer.start_span("child", inside, SpanKind.CLIENT, start_time=nano + MILLISECOND)
    child.record_exception(ValueError("card declined"), timestamp=nano + 2 * MILLISECOND)
    child.set_status(Status(StatusCode.ERROR, "card declined"))
    child.end(nano + 3 * MILLISECOND)
    for n in range(count):
        item = tracer.start_span(f"item-{n:04}", inside, start_time=nano + n)
        item.set_attribute("n", n)
        item.end(nano + n + value)
    parent.end(nano + 5 * MILLISECOND)
    stock = provider.get_tracer("stock")
    kinds = {"worker": SpanKind.CONSUMER, "order": SpanKind.PRODUCER}
    for name, kind in kinds.items():
        root = stock.start_span(name, context.Context(), kind, start_time=nano)
        root.add_link(parent.get_span_context())
        root.set_status(StatusCode.OK)
        root.end(nano + value)
    return inside


def metrics(provider: MeterProvider, inside: context.Context, value: int) -> None:
    """The metrics of ../README.md."""
    meter = provider.get_meter("checkout", "1.2.3", SCHEMA, {"team": "shop"})
    requests = meter.create_counter("requests", "{request}", "Requests served")
    requests.add(value, {"route": "/a", **every_type(value)}, inside)
    requests.add(2 * value, {"route": "/b"}, inside)
    meter.create_counter("sent", "By").add(value / 2, None, inside)
    active = meter.create_up_down_counter("active", "{session}")
    active.add(value)
    active.add(-1)
    latency = meter.create_histogram("latency", "ms", "Time to answer")
    size = meter.create_histogram("size", "By")
    for measured in (0, 1, 2.5, 4, value, 123_456):
        latency.record(measured, {"route": "/a"}, inside)
        size.record(measured, {"route": "/a"}, inside)
    meter.create_gauge("temperature", "Cel").set(-value / 2, {"sensor": "s1"})

    def observe(number: float) -> Any:
        def callback(_: CallbackOptions) -> list[Observation]:
            return [Observation(number, {"state": "user"}), Observation(0, {"state": "idle"})]

        return [callback]

    stock = provider.get_meter("stock")
    stock.create_observable_counter("cpu.time", observe(value / 4), "s")
    stock.create_observable_up_down_counter("queued", observe(-value), "{order}")
    stock.create_observable_gauge("fan.speed", observe(value), "rpm")


def logs(
    provider: LoggerProvider, inside: context.Context, nano: int, value: int, count: int
) -> None:
    """The log records of ../README.md."""
    logger = provider.get_logger("checkout", "1.2.3", SCHEMA, {"team": "shop"})
    logger.emit(
        timestamp=nano, observed_timestamp=nano + 1, context=inside,
        severity_number=SeverityNumber.INFO, severity_text="INFO", body="paid",
        attributes={**every_type(value), "deep": {"a": [1, {"b": None}], "c": b"\x00\xff"}},
        event_name="order.paid",
    )  # fmt: skip
    logger.emit(
        timestamp=nano, observed_timestamp=nano + 1,
        severity_number=SeverityNumber.FATAL4, severity_text="DISASTER",
        body={"text": "Füße", "n": value, "list": [1, "two", 3.5, True, None], "raw": b"\x80"},
    )  # fmt: skip
    for n in range(count):
        logger.emit(
            timestamp=nano + n, observed_timestamp=nano + n,
            severity_number=SeverityNumber.DEBUG, body=f"line-{n:04}",
        )  # fmt: skip


def main() -> int:
    """Send everything; the number of failed exports that the SDK told of."""
    protocol, run, *numbers, direct = sys.argv[1:]
    nano, value, count = map(int, numbers)
    resource = Resource(
        {
            "service.name": "sdk-python", "test.run": run, "host.name": "the app's own",
            "customer.id": "mallory", "node.rack": "of the app", "ports": [80, 443],
        },
        SCHEMA,
    )  # fmt: skip
    tracers = TracerProvider(resource=resource)
    for exporter in exporters(protocol, "traces", direct):
        tracers.add_span_processor(BatchSpanProcessor(exporter))
    loggers = LoggerProvider(resource)
    for exporter in exporters(protocol, "logs", direct):
        loggers.add_log_record_processor(BatchLogRecordProcessor(exporter))
    exponential = View(Histogram, "size", aggregation=ExponentialBucketHistogramAggregation())
    # An hour: the only collection is that of the shutdown.
    reader = PeriodicExportingMetricReader(
        Both(exporters(protocol, "metrics", direct)), export_interval_millis=3_600_000
    )
    meters = MeterProvider([reader], resource, views=[exponential])
    inside = traces(tracers, nano, value, count)
    metrics(meters, inside, value)
    logs(loggers, inside, nano, value, count)
    for provider in (tracers, meters, loggers):
        provider.shutdown()
    return len(FAILED)


if __name__ == "__main__":
    assert os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"]
    sys.exit(main())
