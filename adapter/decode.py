"""The body of a request -> ExportMetricsServiceRequest messages of bounded size. Pure.

A decoded message may take fifty times its bytes (an empty data point is two bytes encoded and an
object in memory), so a large body is never decoded whole: it is cut at Resource, Scope, Metric and
data point boundaries into pieces that are requests themselves. What cannot be cut, one data point
or the attributes of one Resource, has to fit a piece.
"""

import base64
import binascii
import json
from collections.abc import Iterator
from typing import cast

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)

from edge_agent.otlp import wire

MAX_PIECE_BYTES = 256 * 1024
# JSON can only be read whole, and takes many times its bytes: so it is limited in both.
MAX_JSON_BYTES = 4 * 1024 * 1024
MAX_JSON_OBJECTS = 250_000


class MalformedError(ValueError):
    """These bytes are no ExportMetricsServiceRequest."""


class TooLargeError(ValueError):
    """Larger than we decode; the message says what."""


def from_protobuf(
    body: bytes, max_piece_bytes: int = MAX_PIECE_BYTES
) -> Iterator[ExportMetricsServiceRequest]:
    """The messages that together say what `body` says.

    Raises MalformedError, and TooLargeError for something indivisible over `max_piece_bytes`,
    both possibly only after some messages.
    """
    for piece in _pieces(body, 0, max_piece_bytes):
        try:
            yield ExportMetricsServiceRequest.FromString(piece)
        except DecodeError as error:
            raise MalformedError(f"not an ExportMetricsServiceRequest: {error}") from None


# Which fields to cut at, from the request inwards: resource_metrics, scope_metrics, metrics, the
# five kinds of data, data_points (opentelemetry/proto/metrics/v1/metrics.proto).
_REPEATED = ((1,), (2,), (2,), (5, 7, 9, 10, 11), (1,))
_NAMES = ("request", "Resource", "scope", "metric", "metric", "data point")
# Key and length of a field around what is cut out of it.
_FRAMING_BYTES = 8


def _pieces(message: bytes, depth: int, max_bytes: int) -> Iterator[bytes]:
    if len(message) <= max_bytes:
        yield bytes(message)
        return
    if depth == len(_REPEATED):
        raise TooLargeError(f"a {_NAMES[depth]} of {len(message)} bytes, over {max_bytes}")
    try:
        yield from _cut(message, depth, max_bytes)
    except wire.WireError as error:
        raise MalformedError(f"not an ExportMetricsServiceRequest: {error}") from None


def _cut(message: bytes, depth: int, max_bytes: int) -> Iterator[bytes]:
    """`message` in pieces, each with all that does not repeat and some of what does."""
    # Twice through the fields instead of a list of them: there may be millions. Slices of a
    # memoryview are not copies, which at five levels would be five bodies.
    view = cast("bytes", memoryview(message))
    rest = b"".join(
        _encoded(field, wire_type, value)
        for field, wire_type, value in wire.fields(view)
        if field not in _REPEATED[depth] or isinstance(value, int)
    )
    if len(rest) > max_bytes // 2:
        raise TooLargeError(f"a {_NAMES[depth]} with {len(rest)} bytes around its data")
    room = max_bytes - len(rest) - _FRAMING_BYTES
    piece = bytearray()
    for field, _, value in wire.fields(view):
        # A number in the place of a message is a field unknown to protobuf, and went to the rest.
        if field not in _REPEATED[depth] or isinstance(value, int):
            continue
        if piece and len(piece) + len(value) > room:
            yield rest + piece
            piece.clear()
        if len(value) > room:
            for part in _pieces(value, depth + 1, room):
                yield rest + wire.bytes_field(field, part)
        else:
            piece += wire.bytes_field(field, bytes(value))
    if piece:
        yield rest + piece


def _encoded(field: int, wire_type: int, value: int | bytes) -> bytes:
    if isinstance(value, int):
        if wire_type == wire.VARINT:
            return wire.varint_field(field, value)
        width = 8 if wire_type == wire.FIXED64 else 4
        return wire.key(field, wire_type) + value.to_bytes(width, "little")
    return wire.bytes_field(field, bytes(value))


def from_json(body: bytes) -> Iterator[ExportMetricsServiceRequest]:
    """The one message in OTLP/JSON; raises MalformedError and TooLargeError.

    OTLP specification, "JSON Protobuf Encoding": protobuf's JSON mapping, but trace and span ids
    are hex, and unknown fields are ignored.
    """
    if len(body) > MAX_JSON_BYTES:
        raise TooLargeError(f"JSON of {len(body)} bytes; send at most {MAX_JSON_BYTES}")
    # Here alone: few ever send JSON.
    from google.protobuf import json_format

    objects = 0

    def counted(fields: dict[str, object]) -> dict[str, object]:
        nonlocal objects
        objects += 1
        if objects > MAX_JSON_OBJECTS:
            raise TooLargeError(f"JSON of more than {MAX_JSON_OBJECTS} objects; send less at once")
        return _ids_in_base64(fields)

    try:
        document = json.loads(body, object_hook=counted)
    except TooLargeError:
        raise
    except (ValueError, RecursionError) as error:
        raise MalformedError(f"not JSON: {error}") from None
    if not isinstance(document, dict):
        raise MalformedError("not an ExportMetricsServiceRequest: the JSON is no object")
    request = ExportMetricsServiceRequest()
    try:
        json_format.ParseDict(document, request, ignore_unknown_fields=True)
    except (json_format.ParseError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise MalformedError(f"not an ExportMetricsServiceRequest: {error}") from None
    yield request


def _ids_in_base64(fields: dict[str, object]) -> dict[str, object]:
    # Attributes are pairs of "key" and "value": only exemplars have fields of these names.
    for name in ("traceId", "spanId", "trace_id", "span_id"):
        text = fields.get(name)
        if isinstance(text, str):
            try:
                fields[name] = base64.b64encode(bytes.fromhex(text)).decode()
            except (ValueError, binascii.Error):
                raise ValueError(f"{name} is not hex") from None
    return fields
