"""Requests, good and odd, as bytes."""

import functools
import gzip
import json
import zlib
from typing import Any

from edge_agent.otlp.wire import bytes_field, varint_field

TRACE_ID = bytes.fromhex("5b8efff798038103d269b633813fc60c")
SPAN_ID = bytes.fromhex("eee19b7ec3c1b174")
_TIMES = b"\x39" + (5).to_bytes(8, "little") + b"\x41" + (6).to_bytes(8, "little")


def spans(*encoded: bytes) -> bytes:
    """An ExportTraceServiceRequest of encoded spans."""
    scope_spans = b"".join(bytes_field(2, one) for one in encoded)
    resource = bytes_field(1, bytes_field(1, attribute(b"service.name", b"svc")))
    return bytes_field(1, resource + bytes_field(2, scope_spans))


def attribute(key: bytes, text: bytes) -> bytes:
    """A KeyValue."""
    return bytes_field(1, key) + bytes_field(2, bytes_field(1, text))


def span(
    extra: bytes = b"", *, trace_id: bytes = TRACE_ID, span_id: bytes = SPAN_ID, name: bytes = b"n"
) -> bytes:
    """A Span."""
    ids = bytes_field(1, trace_id) + bytes_field(2, span_id)
    return ids + bytes_field(5, name) + _TIMES + extra


ONE = spans(span())
TRUNCATED = spans(span(), span())[:-7]


def padded(size: int) -> bytes:
    """One span in a request of `size` bytes."""
    pad = size - 150
    while True:
        request = spans(span(bytes_field(9, attribute(b"pad", b"x" * pad))))
        if len(request) == size:
            return request
        pad += size - len(request)


def nested(depth: int) -> bytes:
    """One span with an AnyValue in an array in an array ..."""
    value = bytes_field(1, b"x")
    for _ in range(depth):
        value = bytes_field(5, bytes_field(1, value))
    return spans(span(bytes_field(9, bytes_field(1, b"deep") + bytes_field(2, value))))


def with_unknown_fields() -> bytes:
    """Fields that no .proto of ours has, in the span and in the request."""
    return spans(span(bytes_field(1000, b"unknown"))) + bytes_field(999, b"hello")


def wrong_wire_type() -> bytes:
    """A number where ResourceSpans should be."""
    return varint_field(1, 1)


@functools.cache
def bomb(size: int) -> bytes:
    """`size` zeros, as gzip: a thousandth of that."""
    packer = zlib.compressobj(9, wbits=31)
    block = bytes(1 << 20)
    return b"".join(packer.compress(block) for _ in range(size >> 20)) + packer.flush()


@functools.cache
def many_empty_spans(size: int) -> bytes:
    """Half as many empty spans as bytes, as gzip: costs its sender a thousandth of that."""
    packer = zlib.compressobj(9, wbits=31)
    request = spans() + bytes_field(1, bytes_field(2, b"\x12\x00" * ((size - 100) // 2)))
    return packer.compress(request) + packer.flush()


def span_json(**fields: Any) -> bytes:
    """A request of one span in OTLP/JSON, with `fields` over the usual ones."""
    one = {
        "traceId": TRACE_ID.hex(),
        "spanId": SPAN_ID.hex(),
        "name": "n",
        "kind": 2,
        "startTimeUnixNano": "1700000000000000001",
        "endTimeUnixNano": "1700000000000000002",
        "attributes": [],
    } | fields
    scope_spans = [{"scope": {"name": "s"}, "spans": [one]}]
    return json.dumps({"resourceSpans": [{"resource": {}, "scopeSpans": scope_spans}]}).encode()


def value_json(**value: Any) -> bytes:
    """A request in OTLP/JSON of one span with one attribute of this AnyValue."""
    return span_json(attributes=[{"key": "a", "value": value}])


def nested_json(depth: int) -> bytes:
    """As `nested`, in OTLP/JSON."""
    deep = b'{"arrayValue":{"values":[' * depth + b'{"stringValue":"x"}' + b"]}}" * depth
    return value_json(stringValue="DEEP").replace(b'{"stringValue": "DEEP"}', deep)


def zipped(data: bytes) -> bytes:
    """`data` as gzip, always the same bytes."""
    return gzip.compress(data, mtime=0)


def deflated(data: bytes) -> bytes:
    """`data` in HTTP's deflate coding, which is zlib's format."""
    return zlib.compress(data)


def snake_case_json() -> bytes:
    """Field names as in the .proto."""
    text = span_json()
    for camel, snake in (
        (b"resourceSpans", b"resource_spans"),
        (b"scopeSpans", b"scope_spans"),
        (b"traceId", b"trace_id"),
        (b"startTimeUnixNano", b"start_time_unix_nano"),
    ):
        text = text.replace(camel, snake)
    return text
