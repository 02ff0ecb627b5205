"""The three signals of OTLP and where each is sent."""

from enum import StrEnum


class Signal(StrEnum):
    """A kind of telemetry. Its items are data points, spans or log records."""

    METRICS = "metrics"
    TRACES = "traces"
    LOGS = "logs"


# OTLP specification, "OTLP/gRPC" and "OTLP/HTTP request".
GRPC_PATHS = {
    Signal.METRICS: "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
    Signal.TRACES: "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
    Signal.LOGS: "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
}
HTTP_PATHS = {
    Signal.METRICS: "/v1/metrics",
    Signal.TRACES: "/v1/traces",
    Signal.LOGS: "/v1/logs",
}
