"""Log records as we write them.

Nothing in the agent reads log records: those of apps pass through as bytes (`otlp.batch`), and the
tests decode with opentelemetry-proto.
"""

from collections.abc import Iterable
from enum import IntEnum

from edge_agent.otlp import wire
from edge_agent.otlp.resource import Attribute, any_value, attributes, request, scope


class Severity(IntEnum):
    """SeverityNumber; the short names are the data model's "Displaying Severity".

    https://opentelemetry.io/docs/specs/otel/logs/data-model/#field-severitynumber
    """

    TRACE = 1
    DEBUG = 5
    INFO = 9
    WARN = 13
    ERROR = 17
    FATAL = 21


# message LogRecord { fixed64 time_unix_nano = 1; SeverityNumber severity_number = 2;
#   string severity_text = 3; AnyValue body = 5; repeated KeyValue attributes = 6;
#   fixed64 observed_time_unix_nano = 11; ... }
def log_record(
    body: str,
    *,
    severity: Severity,
    time_unix_nano: int,
    observed_time_unix_nano: int,
    pairs: Iterable[Attribute] = (),
) -> bytes:
    """One LogRecord with a text body; `pairs` are its attributes."""
    return (
        wire.fixed64_field(1, time_unix_nano)
        + wire.varint_field(2, severity)
        + wire.string_field(3, severity.name)
        + wire.bytes_field(5, any_value(body))
        + attributes(6, pairs)
        + wire.fixed64_field(11, observed_time_unix_nano)
    )


def logs_request(resource: bytes, version: str, records: Iterable[tuple[str, bytes]]) -> bytes:
    """An ExportLogsServiceRequest of (scope name, encoded LogRecord) pairs.

    Records of one scope stay together, in their order, at the place of the first. `resource` is an
    encoded Resource, `version` that of every scope.
    """
    by_scope: dict[str, list[bytes]] = {}
    for name, record in records:
        by_scope.setdefault(name, []).append(record)
    return request(resource, ((scope(name, version), group) for name, group in by_scope.items()))
