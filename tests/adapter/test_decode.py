"""Bodies, large and damaged and in JSON, say the same cut up as whole."""

import json
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.metrics.v1.metrics_pb2 import ExponentialHistogramDataPoint

from adapter import decode
from adapter.decode import MalformedError, TooLargeError, from_protobuf, json_to_protobuf
from adapter.row import Row
from adapter.rows import Outcome, Window, rows_of
from edge_agent.otlp import wire
from tests.adapter.build import NOW_NS, RESOURCE, filled, gauge, point, request
from tests.adapter.test_rows import REQUESTS, encoded


def from_json(body: bytes) -> Iterator[ExportMetricsServiceRequest]:
    """The messages in a body of JSON."""
    return from_protobuf(json_to_protobuf(body))


def rows(*messages: ExportMetricsServiceRequest) -> tuple[list[Row], Outcome]:
    """Rows of all the messages together."""
    outcome = Outcome()
    window = Window.at(NOW_NS)
    found = []
    for message in messages:
        found += rows_of(message, window=window, customers=None, outcome=outcome)
    return found, outcome


def comparable(found: tuple[list[Row], Outcome]) -> object:
    """The same, in a form in which NaN equals NaN."""
    return [r._replace(value=repr(r.value)) for r in found[0]], found[1]


# ---- cutting ----------------------------------------------------------------------------------


@given(REQUESTS, st.integers(500, 900))
@settings(max_examples=150, deadline=None)
def test_pieces_make_the_same_rows_as_the_whole(spec: list[dict[str, Any]], limit: int):
    """Cut at Resources, scopes, metrics and points, nothing is lost, doubled or reordered."""
    whole = encoded(spec)
    pieces = list(from_protobuf(whole.SerializeToString(), limit))
    assert comparable(rows(*pieces)) == comparable(rows(whole))
    assert all(piece.ByteSize() <= limit for piece in pieces)


def test_a_small_body_is_one_piece():
    """The usual request is parsed once, by the C parser alone."""
    built = request(gauge(point()))
    assert list(from_protobuf(built.SerializeToString())) == [built]


def test_an_empty_body_is_an_empty_request():
    """Protobuf has no other way to say nothing."""
    assert list(from_protobuf(b"")) == [ExportMetricsServiceRequest()]


def test_a_large_body_is_never_decoded_whole():
    """Two bytes encoded are an object in memory: what is decoded at a time is bounded."""
    built = request(gauge(*[point(float(n)) for n in range(60_000)]))
    pieces = list(from_protobuf(built.SerializeToString()))
    assert len(pieces) >= 5
    assert max(piece.ByteSize() for piece in pieces) <= decode.MAX_PIECE_BYTES
    values = [row.value for row in rows(*pieces)[0]]
    assert values == [float(n) for n in range(60_000)]


def test_fields_we_do_not_know_survive_the_cutting():
    """Of every wire type, beside what is cut out."""
    extra = (
        wire.varint_field(100, 2**64 - 1)
        + wire.fixed64_field(101, 7)
        + wire.key(102, wire.FIXED32)
        + b"\x01\x02\x03\x04"
        + wire.bytes_field(103, b"x")
    )
    resource = request(*[gauge(point())] * 6).resource_metrics[0]
    body = wire.bytes_field(1, resource.SerializeToString() + extra) * 2
    pieces = list(from_protobuf(body, 200))
    assert len(pieces) > 2
    assert all(extra in piece.SerializeToString() for piece in pieces)
    assert len(rows(*pieces)[0]) == 12


@pytest.mark.parametrize(
    ("built", "what"),
    [
        (request(gauge(point(attributes={"k": "v" * 3000}))), "a data point of"),
        (request(gauge(point()), resource=RESOURCE | {"k": "v" * 3000}), "a Resource with"),
        (request(gauge(point()), scope="v" * 3000), "a scope with"),
        (request(gauge(point(), name="v" * 3000)), "a metric with"),
    ],
)
def test_what_cannot_be_cut_is_too_large(built: ExportMetricsServiceRequest, what: str):
    """The message says which part it is."""
    with pytest.raises(TooLargeError, match=what):
        list(from_protobuf(built.SerializeToString(), 1000))


@pytest.mark.parametrize(
    "body",
    [
        b"\x0a",
        b"\x0a\xff\xff\xff\xff\x0f",
        b"not protobuf at all",
        b"\x0a\x02\x12\xff",
        b"<html>" * 10,
    ],
)
@pytest.mark.parametrize("limit", [30, decode.MAX_PIECE_BYTES])
def test_damage_is_malformed_however_large_the_body(body: bytes, limit: int):
    """Never another exception: the answer is 400, not 500."""
    with pytest.raises(MalformedError):
        list(from_protobuf(body, limit))


def test_a_number_in_the_place_of_a_message_is_an_unknown_field():
    """As the reference parser has it, whatever the size."""
    body = wire.varint_field(1, 5) * 40 + request(gauge(point())).SerializeToString()
    whole, pieces = list(from_protobuf(body)), list(from_protobuf(body, 200))
    assert len(pieces) == len(whole) == 1
    assert comparable(rows(*pieces)) == comparable(rows(*whole))


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_a_damaged_body_never_raises_anything_else(data: st.DataObject):
    """Bytes of a valid request, flipped and cut."""
    body = bytearray(
        request(
            *[gauge(point(attributes={"k": n}), name=f"m{n}") for n in range(8)]
        ).SerializeToString()
    )
    for at in data.draw(st.lists(st.integers(0, len(body) - 1), min_size=1, max_size=4)):
        body[at] ^= data.draw(st.integers(1, 255))
    body = body[: data.draw(st.integers(0, len(body)))]
    try:
        rows(*from_protobuf(bytes(body), 128))
    except (MalformedError, TooLargeError):
        return


# ---- JSON -------------------------------------------------------------------------------------


def as_json(built: ExportMetricsServiceRequest) -> bytes:
    """The request in OTLP/JSON."""
    return json.dumps(MessageToDict(built)).encode()


@given(REQUESTS)
@settings(max_examples=100, deadline=None)
def test_json_makes_the_same_rows_as_protobuf(spec: list[dict[str, Any]]):
    """Enums by name, 64-bit integers as strings, NaN and infinities by name."""
    built = encoded(spec)
    assert comparable(rows(*from_json(as_json(built)))) == comparable(rows(built))


EXEMPLAR = {
    "resourceMetrics": [
        {
            "scopeMetrics": [
                {
                    "futureField": {"a": [1]},
                    "metrics": [
                        {
                            "name": "m",
                            "exponentialHistogram": {
                                "aggregationTemporality": 2,
                                "dataPoints": [
                                    {
                                        "timeUnixNano": NOW_NS,
                                        "count": "1",
                                        "scale": 0,
                                        "exemplars": [
                                            {
                                                "traceId": "5B8EFFF798038103D269B633813FC60C",
                                                "spanId": "eee19b7ec3c1b174",
                                                "asInt": 7,
                                            }
                                        ],
                                    }
                                ],
                            },
                        }
                    ],
                }
            ]
        }
    ]
}


def test_ids_are_hex_and_unknown_fields_are_ignored():
    """OTLP/JSON differs from protobuf's JSON in the ids; numbers may be numbers or strings."""
    (message,) = from_json(json.dumps(EXEMPLAR).encode())
    data = message.resource_metrics[0].scope_metrics[0].metrics[0].exponential_histogram
    (exemplar,) = data.data_points[0].exemplars
    assert exemplar.trace_id.hex() == "5b8efff798038103d269b633813fc60c"
    assert exemplar.span_id.hex() == "eee19b7ec3c1b174"
    assert (exemplar.as_int, data.data_points[0].time_unix_nano) == (7, NOW_NS)


def test_the_point_of_a_histogram_in_json_is_kept_encoded():
    """With its exemplars."""
    document = json.loads(json.dumps(EXEMPLAR))
    document["resourceMetrics"][0]["resource"] = {
        "attributes": [
            {"key": "node.id", "value": {"stringValue": "n"}},
            {"key": "customer.id", "value": {"stringValue": "c"}},
        ]
    }
    (row,), _ = rows(*from_json(json.dumps(document).encode()))
    assert row.point is not None
    assert len(ExponentialHistogramDataPoint.FromString(row.point).exemplars) == 1


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"1",
        b'"x"',
        b"\xff\xfe",
        b'{"resourceMetrics": 1}',
        b'{"resourceMetrics": {}}',
        b'{"resourceMetrics": [1]}',
        b'{"resourceMetrics": [null]}',
        b'{"resourceMetrics": [{"schemaUrl": 5}]}',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"resourceMetrics": [{"resource": {"droppedAttributesCount": 99999999999}}]}',
    ],
)
def test_bad_json_is_malformed(body: bytes):
    """Never another exception, however deep or odd."""
    with pytest.raises(MalformedError):
        list(from_json(body))


def test_json_is_limited_more_than_protobuf():
    """It can only be read whole, and takes many times its bytes."""
    with pytest.raises(TooLargeError, match="JSON of 4194305 bytes"):
        list(from_json(b" " * (decode.MAX_JSON_BYTES + 1)))


def test_json_is_limited_in_objects_too():
    """Two bytes are an object of sixty."""
    body = b"[" + b"{}," * decode.MAX_JSON_OBJECTS + b"{}]"
    with pytest.raises(TooLargeError, match="more than 250000 objects"):
        list(from_json(body))


def test_pieces_stay_in_order():
    """Later samples of a series win, as they would in one piece."""
    built = request(gauge(*[point(float(n)) for n in range(300)]))
    found = [row.value for row in rows(*from_protobuf(built.SerializeToString(), 500))[0]]
    assert all(a < b for a, b in pairwise(found))
    assert len(found) == 300


def test_a_metric_of_two_kinds_is_still_valid_in_pieces():
    """A broken sender's oneof twice over: every piece is a message of its own."""

    def fill(metric: Any) -> None:
        metric.gauge.data_points.extend(point(float(n)) for n in range(50))

    body = request(filled(fill)).SerializeToString()
    assert len(rows(*from_protobuf(body, 300))[0]) == 50
