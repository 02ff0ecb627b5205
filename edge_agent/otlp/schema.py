"""OTLP's messages as data: what JSON and full validation need to know of opentelemetry-proto.

Once imported this is 52 KB of private memory, where the generated code and its runtime are 2.6 MB
(3.6 MB of RSS). The tests compare it with the descriptors of opentelemetry-proto, field by field.
"""

from enum import Enum
from typing import NamedTuple

from edge_agent.otlp.signal import Signal


class Kind(Enum):
    """What a field holds. ID is bytes that JSON writes in hex: trace and span ids."""

    STRING = "string"
    BYTES = "bytes"
    ID = "id"
    BOOL = "bool"
    INT32 = "int32"
    UINT32 = "uint32"
    SINT32 = "sint32"
    INT64 = "int64"
    UINT64 = "uint64"
    FIXED32 = "fixed32"
    FIXED64 = "fixed64"
    SFIXED64 = "sfixed64"
    DOUBLE = "double"
    ENUM = "enum"
    MESSAGE = "message"


class Field(NamedTuple):
    """One field. `target` names the message or enum of a MESSAGE or ENUM."""

    number: int
    name: str
    kind: Kind
    repeated: bool = False
    target: str = ""

    @property
    def json_name(self) -> str:
        """lowerCamelCase, as protobuf's JSON mapping has it."""
        first, *others = self.name.split("_")
        return first + "".join(word.capitalize() for word in others)


ENUMS: dict[str, dict[str, int]] = {
    "SpanKind": {
        f"SPAN_KIND_{name}": number
        for number, name in enumerate(
            ("UNSPECIFIED", "INTERNAL", "SERVER", "CLIENT", "PRODUCER", "CONSUMER")
        )
    },
    "StatusCode": {"STATUS_CODE_UNSET": 0, "STATUS_CODE_OK": 1, "STATUS_CODE_ERROR": 2},
    "AggregationTemporality": {
        f"AGGREGATION_TEMPORALITY_{name}": number
        for number, name in enumerate(("UNSPECIFIED", "DELTA", "CUMULATIVE"))
    },
    "SeverityNumber": {"SEVERITY_NUMBER_UNSPECIFIED": 0}
    | {
        f"SEVERITY_NUMBER_{name}{step if step > 1 else ''}": 4 * level + step
        for level, name in enumerate(("TRACE", "DEBUG", "INFO", "WARN", "ERROR", "FATAL"))
        for step in (1, 2, 3, 4)
    },
}

# name = number kind, as in the .proto files; `*` is repeated, a capital a message or an enum.
_MESSAGES = """
ExportTraceServiceRequest: resource_spans=1 *ResourceSpans
ExportMetricsServiceRequest: resource_metrics=1 *ResourceMetrics
ExportLogsServiceRequest: resource_logs=1 *ResourceLogs
ResourceSpans: resource=1 Resource, scope_spans=2 *ScopeSpans, schema_url=3 string
ResourceMetrics: resource=1 Resource, scope_metrics=2 *ScopeMetrics, schema_url=3 string
ResourceLogs: resource=1 Resource, scope_logs=2 *ScopeLogs, schema_url=3 string
Resource: attributes=1 *KeyValue, dropped_attributes_count=2 uint32, entity_refs=3 *EntityRef
EntityRef: schema_url=1 string, type=2 string, id_keys=3 *string, description_keys=4 *string
KeyValue: key=1 string, value=2 AnyValue, key_strindex=3 int32
AnyValue: string_value=1 string, bool_value=2 bool, int_value=3 int64, double_value=4 double,
    array_value=5 ArrayValue, kvlist_value=6 KeyValueList, bytes_value=7 bytes,
    string_value_strindex=8 int32
ArrayValue: values=1 *AnyValue
KeyValueList: values=1 *KeyValue
InstrumentationScope: name=1 string, version=2 string, attributes=3 *KeyValue,
    dropped_attributes_count=4 uint32
ScopeSpans: scope=1 InstrumentationScope, spans=2 *Span, schema_url=3 string
Span: trace_id=1 id, span_id=2 id, trace_state=3 string, parent_span_id=4 id, name=5 string,
    kind=6 SpanKind, start_time_unix_nano=7 fixed64, end_time_unix_nano=8 fixed64,
    attributes=9 *KeyValue, dropped_attributes_count=10 uint32, events=11 *Event,
    dropped_events_count=12 uint32, links=13 *Link, dropped_links_count=14 uint32,
    status=15 Status, flags=16 fixed32
Event: time_unix_nano=1 fixed64, name=2 string, attributes=3 *KeyValue,
    dropped_attributes_count=4 uint32
Link: trace_id=1 id, span_id=2 id, trace_state=3 string, attributes=4 *KeyValue,
    dropped_attributes_count=5 uint32, flags=6 fixed32
Status: message=2 string, code=3 StatusCode
ScopeMetrics: scope=1 InstrumentationScope, metrics=2 *Metric, schema_url=3 string
Metric: name=1 string, description=2 string, unit=3 string, gauge=5 Gauge, sum=7 Sum,
    histogram=9 Histogram, exponential_histogram=10 ExponentialHistogram, summary=11 Summary,
    metadata=12 *KeyValue
Gauge: data_points=1 *NumberDataPoint
Sum: data_points=1 *NumberDataPoint, aggregation_temporality=2 AggregationTemporality,
    is_monotonic=3 bool
Histogram: data_points=1 *HistogramDataPoint, aggregation_temporality=2 AggregationTemporality
ExponentialHistogram: data_points=1 *ExponentialHistogramDataPoint,
    aggregation_temporality=2 AggregationTemporality
Summary: data_points=1 *SummaryDataPoint
NumberDataPoint: attributes=7 *KeyValue, start_time_unix_nano=2 fixed64, time_unix_nano=3 fixed64,
    as_double=4 double, as_int=6 sfixed64, exemplars=5 *Exemplar, flags=8 uint32
HistogramDataPoint: attributes=9 *KeyValue, start_time_unix_nano=2 fixed64,
    time_unix_nano=3 fixed64, count=4 fixed64, sum=5 double, bucket_counts=6 *fixed64,
    explicit_bounds=7 *double, exemplars=8 *Exemplar, flags=10 uint32, min=11 double, max=12 double
ExponentialHistogramDataPoint: attributes=1 *KeyValue, start_time_unix_nano=2 fixed64,
    time_unix_nano=3 fixed64, count=4 fixed64, sum=5 double, scale=6 sint32, zero_count=7 fixed64,
    positive=8 Buckets, negative=9 Buckets, flags=10 uint32, exemplars=11 *Exemplar, min=12 double,
    max=13 double, zero_threshold=14 double
Buckets: offset=1 sint32, bucket_counts=2 *uint64
SummaryDataPoint: attributes=7 *KeyValue, start_time_unix_nano=2 fixed64, time_unix_nano=3 fixed64,
    count=4 fixed64, sum=5 double, quantile_values=6 *ValueAtQuantile, flags=8 uint32
ValueAtQuantile: quantile=1 double, value=2 double
Exemplar: filtered_attributes=7 *KeyValue, time_unix_nano=2 fixed64, as_double=3 double,
    as_int=6 sfixed64, span_id=4 id, trace_id=5 id
ScopeLogs: scope=1 InstrumentationScope, log_records=2 *LogRecord, schema_url=3 string
LogRecord: time_unix_nano=1 fixed64, observed_time_unix_nano=11 fixed64,
    severity_number=2 SeverityNumber, severity_text=3 string, body=5 AnyValue,
    attributes=6 *KeyValue, dropped_attributes_count=7 uint32, flags=8 fixed32, trace_id=9 id,
    span_id=10 id, event_name=12 string
"""

ROOTS = {
    Signal.METRICS: "ExportMetricsServiceRequest",
    Signal.TRACES: "ExportTraceServiceRequest",
    Signal.LOGS: "ExportLogsServiceRequest",
}


def _field(text: str) -> Field:
    name, _, rest = text.strip().partition("=")
    number, _, kind = rest.partition(" ")
    repeated, target = kind.startswith("*"), kind.removeprefix("*")
    if target in ENUMS:
        return Field(int(number), name, Kind.ENUM, repeated, target)
    if target[0].isupper():
        return Field(int(number), name, Kind.MESSAGE, repeated, target)
    return Field(int(number), name, Kind(target), repeated)


def _messages(text: str) -> dict[str, tuple[Field, ...]]:
    lines = text.strip().replace("\n    ", " ").splitlines()
    return {
        name: tuple(_field(field) for field in fields.split(","))
        for name, _, fields in (line.partition(":") for line in lines)
    }


MESSAGES = _messages(_MESSAGES)
