"""Spans as we write them: the agent's own, and those of `otel-agent load`.

Spans of apps pass through as bytes (`otlp.batch`); the tests decode with opentelemetry-proto.
"""

import os
from collections.abc import Callable, Iterable, Sequence
from enum import IntEnum

from edge_agent.otlp import wire
from edge_agent.otlp.resource import Attribute, any_value, attributes, request, scope

TRACE_ID_BYTES = 16
SPAN_ID_BYTES = 8
# The scope of the samples' metrics is that of their spans.
_SAMPLER_SCOPE = "edge_agent.host"


class Kind(IntEnum):
    """SpanKind as far as we need it."""

    INTERNAL = 1
    SERVER = 2


# W3C Trace Context level 2: sampled, and the trace id is random in its low 56 bits, which is what
# sampling by the trace id needs.
_SAMPLED, _RANDOM = 0x01, 0x02
# SPAN_FLAGS_CONTEXT_HAS_IS_REMOTE_MASK: it is known that there is no remote parent.
_HAS_IS_REMOTE = 0x100
_FLAGS = wire.key(16, wire.FIXED32) + (_SAMPLED | _RANDOM | _HAS_IS_REMOTE).to_bytes(4, "little")
_STATUS_ERROR = 2


# message Span { bytes trace_id = 1; bytes span_id = 2; string name = 5; SpanKind kind = 6;
#   fixed64 start_time_unix_nano = 7; fixed64 end_time_unix_nano = 8;
#   repeated KeyValue attributes = 9; Status status = 15; fixed32 flags = 16; ... }
# message Status { string message = 2; StatusCode code = 3; }
def root_span(
    name: str,
    *,
    ids: bytes,
    kind: Kind,
    start_time_unix_nano: int,
    end_time_unix_nano: int,
    encoded_attributes: bytes = b"",
    error: str | None = None,
) -> bytes:
    """One encoded Span without a parent.

    `ids` are TRACE_ID_BYTES and then SPAN_ID_BYTES of randomness. `error`, where it is not None, is
    the message of a status of ERROR. `encoded_attributes` come from `span_attributes`.
    """
    status = b""
    if error is not None:
        message = wire.string_field(2, error) + wire.varint_field(3, _STATUS_ERROR)
        status = wire.bytes_field(15, message)
    return (
        wire.bytes_field(1, ids[:TRACE_ID_BYTES])
        + wire.bytes_field(2, ids[TRACE_ID_BYTES:])
        + wire.string_field(5, name)
        + wire.varint_field(6, kind)
        + wire.fixed64_field(7, start_time_unix_nano)
        + wire.fixed64_field(8, end_time_unix_nano)
        + encoded_attributes
        + status
        + _FLAGS
    )


def span_attributes(pairs: Iterable[Attribute]) -> bytes:
    """`pairs` as a Span carries them."""
    return attributes(9, pairs)


# message AnyValue { oneof value { ArrayValue array_value = 5; ... } }
# message ArrayValue { repeated AnyValue values = 1; }
def _texts(key: str, values: Sequence[str]) -> bytes:
    """One attribute of a Span whose value is an array of strings."""
    array = b"".join(wire.bytes_field(1, any_value(value)) for value in values)
    value = wire.bytes_field(5, array)
    return wire.bytes_field(9, wire.string_field(1, key) + wire.bytes_field(2, value))


def spans_request(resource: bytes, scope_name: str, version: str, spans: Iterable[bytes]) -> bytes:
    """An ExportTraceServiceRequest of encoded Spans; `resource` is an encoded Resource."""
    return request(resource, [(scope(scope_name, version), spans)])


def sample_span(
    resource: bytes,
    version: str,
    *,
    start_time_unix_nano: int,
    end_time_unix_nano: int,
    data_points: int,
    failed: Sequence[str] = (),
    random: Callable[[int], bytes] = os.urandom,
) -> bytes:
    """An ExportTraceServiceRequest with the one span of a sample cycle.

    `failed` are the subjects that could not be read: with any, the span's status is ERROR.
    `random` gives that many random bytes.
    """
    pairs = span_attributes([("agent.sampler.data_points", data_points)])
    if failed:
        pairs += _texts("agent.sampler.failed_subjects", failed)
    span = root_span(
        "sample",
        ids=random(TRACE_ID_BYTES + SPAN_ID_BYTES),
        kind=Kind.INTERNAL,
        start_time_unix_nano=start_time_unix_nano,
        end_time_unix_nano=end_time_unix_nano,
        encoded_attributes=pairs,
        error=f"could not be read: {', '.join(failed)}" if failed else None,
    )
    return spans_request(resource, _SAMPLER_SCOPE, version, [span])
