"""Who sends and with what: Resource, InstrumentationScope, attributes, and the request around all.

Nothing in the agent reads these back: a Resource that passes through is spliced, never decoded.
"""

from collections.abc import Iterable

from edge_agent.otlp import wire

AttributeValue = str | bool | int | float
Attribute = tuple[str, AttributeValue]

INT64_MIN = -(2**63)
INT64_MAX = 2**63 - 1


def int64(value: int) -> int:
    """`value`, or the nearest end of int64 where it lies outside: a limit is better than a lie."""
    return min(max(value, INT64_MIN), INT64_MAX)


# message AnyValue { oneof value { string string_value = 1; bool bool_value = 2;
#                                  int64 int_value = 3; double double_value = 4; ... } }
def any_value(value: AttributeValue) -> bytes:
    """The value of an attribute; an int outside int64 is held at its nearest end."""
    match value:
        case str():
            return wire.string_field(1, value)
        case bool():
            return wire.varint_field(2, int(value))
        case int():
            return wire.varint_field(3, int64(value))
        case _:
            return wire.double_field(4, value)


# message KeyValue { string key = 1; AnyValue value = 2; }
def key_value(key: str, value: AttributeValue) -> bytes:
    """One attribute."""
    return wire.string_field(1, key) + wire.bytes_field(2, any_value(value))


def attributes(field: int, pairs: Iterable[Attribute]) -> bytes:
    """`repeated KeyValue` under the field number that the enclosing message gives it."""
    return b"".join(wire.bytes_field(field, key_value(key, value)) for key, value in pairs)


# message Resource { repeated KeyValue attributes = 1; uint32 dropped_attributes_count = 2; }
def resource(pairs: Iterable[Attribute]) -> bytes:
    """What the telemetry is about."""
    return attributes(1, pairs)


# message InstrumentationScope { string name = 1; string version = 2; ... }
def scope(name: str, version: str) -> bytes:
    """Which part of which program measured."""
    return wire.string_field(1, name) + wire.string_field(2, version)


# message ExportTraceServiceRequest { repeated ResourceSpans resource_spans = 1; }
# message ResourceSpans { Resource resource = 1; repeated ScopeSpans scope_spans = 2; }
# message ScopeSpans { InstrumentationScope scope = 1; repeated Span spans = 2; }
# The same numbers for logs and metrics.
def request(resource: bytes, scopes: Iterable[tuple[bytes, Iterable[bytes]]]) -> bytes:
    """An Export*ServiceRequest of one Resource: encoded scopes, each with its encoded items."""
    enclosed = b"".join(
        wire.bytes_field(
            2,
            wire.bytes_field(1, scope) + b"".join([wire.bytes_field(2, item) for item in items]),
        )
        for scope, items in scopes
    )
    return wire.bytes_field(1, wire.bytes_field(1, resource) + enclosed)
