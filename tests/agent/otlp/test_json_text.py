"""Requests written as OTLP/JSON."""

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from edge_agent.otlp import wire
from edge_agent.otlp.json import to_protobuf
from edge_agent.otlp.json_text import to_json
from edge_agent.otlp.signal import Signal
from edge_agent.otlp.walk import MAX_FIELDS, MalformedError, TooLargeError
from tests.agent.otlp import oracle
from tests.agent.otlp.test_json import messages

nested = wire.bytes_field


def in_span(encoded: bytes) -> Any:
    """The JSON of a span with these fields."""
    body = nested(1, nested(2, nested(2, encoded)))
    document = json.loads(to_json(Signal.TRACES, body))
    return document["resourceSpans"][0]["scopeSpans"][0]["spans"][0]


def in_value(encoded: bytes) -> Any:
    """The JSON of an AnyValue with these fields."""
    return in_span(nested(9, nested(2, encoded)))["attributes"][0]["value"]


@given(messages())
@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
def test_written_and_read_again_it_is_the_same(built: tuple[Signal, str, Any]) -> None:
    """Every field of every message."""
    signal, _, message = built
    text = to_json(signal, message.SerializeToString())
    assert "\n" not in text
    parsed = oracle.parse(signal, to_protobuf(signal, text.encode()))
    assert oracle.bits(parsed) == oracle.bits(message)


def test_values_are_written_as_the_specification_has_them() -> None:
    """Ids in hex, 64 bits as text, enums as integers, bytes in base64."""
    encoded = nested(1, bytes(range(16))) + nested(2, b"\xab" * 8) + wire.varint_field(6, 3)
    encoded += wire.fixed64_field(7, 2**63) + nested(5, "Müller".encode())
    assert in_span(encoded) == {
        "traceId": "000102030405060708090a0b0c0d0e0f",
        "spanId": "abababababababab",
        "kind": 3,
        "startTimeUnixNano": "9223372036854775808",
        "name": "Müller",
    }
    assert in_value(wire.varint_field(3, 2**64 - 5)) == {"intValue": "-5"}
    assert in_value(nested(7, b"\xff\xfe")) == {"bytesValue": "//4="}
    assert in_value(wire.varint_field(2, 0)) == {"boolValue": False}
    assert in_value(wire.double_field(4, float("-inf"))) == {"doubleValue": "-Infinity"}
    assert in_value(wire.double_field(4, float("nan"))) == {"doubleValue": "NaN"}
    assert in_value(wire.varint_field(8, 2**64 - 1)) == {"stringValueStrindex": -1}


def test_the_last_of_a_oneof_stands_and_submessages_are_merged() -> None:
    """As protobuf reads them."""
    assert in_value(nested(1, b"a") + wire.varint_field(2, 1)) == {"boolValue": True}
    assert in_value(nested(1, b"a") + nested(1, b"b")) == {"stringValue": "b"}
    status = nested(15, nested(2, b"why")) + nested(15, wire.varint_field(3, 2))
    assert in_span(status) == {"status": {"message": "why", "code": 2}}


def test_unknown_fields_and_other_wire_types_are_left_out() -> None:
    """As protobuf does."""
    assert in_span(nested(99, b"x") + nested(6, b"x") + wire.varint_field(5, 1)) == {}


def test_text_that_is_none_is_marked() -> None:
    """JSON is UTF-8."""
    assert in_span(nested(5, b"a\xffb")) == {"name": "a\ufffdb"}


def test_numbers_may_be_packed_or_not() -> None:
    """Protobuf readers take both."""

    def counts(buckets: bytes) -> Any:
        point = nested(8, buckets)
        metric = nested(10, nested(1, point))
        body = nested(1, nested(2, nested(2, metric)))
        document = json.loads(to_json(Signal.METRICS, body))
        found = document["resourceMetrics"][0]["scopeMetrics"][0]["metrics"][0]
        return found["exponentialHistogram"]["dataPoints"][0]["positive"]

    packed = wire.varint_field(1, 3) + nested(2, b"\x01\x02")
    apart = wire.varint_field(1, 3) + wire.varint_field(2, 1) + wire.varint_field(2, 2)
    assert counts(packed) == counts(apart) == {"offset": -2, "bucketCounts": ["1", "2"]}
    with pytest.raises(MalformedError, match=r"end inside one|cut short"):
        counts(nested(2, b"\x01\x82") + wire.varint_field(1, 0))


@pytest.mark.parametrize(
    "body", [b"\x0a\x05", b"\x0a\x02\x12\x05", nested(1, nested(2, nested(2, b"\x39\x01")))]
)
def test_what_is_no_request_is_malformed(body: bytes) -> None:
    """Cut short at any depth."""
    with pytest.raises(MalformedError, match="not an ExportTraceServiceRequest"):
        to_json(Signal.TRACES, body)


def test_depth_and_size_are_bounded() -> None:
    """As everywhere."""
    encoded = b""
    for _ in range(60):
        encoded = nested(5, nested(1, encoded))
    with pytest.raises(MalformedError, match="nested deeper than 100"):
        in_value(encoded)
    with pytest.raises(TooLargeError, match=f"more than {MAX_FIELDS} fields"):
        in_span(wire.varint_field(6, 1) * MAX_FIELDS)
