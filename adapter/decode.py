"""The body of a request -> ExportMetricsServiceRequest messages of bounded size. Pure.

A decoded message may take fifty times its bytes (an empty data point is two bytes encoded and an
object in memory), so a large body is never decoded whole: it is cut at Resource, Scope, Metric and
data point boundaries into pieces that are requests themselves. What cannot be cut, one data point
or the attributes of one Resource, has to fit a piece.
"""

from collections.abc import Iterator
from typing import cast

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)

from edge_agent.otlp import wire
from edge_agent.otlp.signal import Signal
from edge_agent.otlp.walk import MalformedError, TooLargeError

__all__ = ["MalformedError", "TooLargeError", "from_protobuf", "json_to_protobuf"]

MAX_PIECE_BYTES = 256 * 1024
# Fields looked at for cutting, each twice: half a million data points. One costs a third of a
# microsecond and may be two bytes.
MAX_FIELDS = 1_000_000
# Each piece repeats what stands around its data, which can be half of it at each of five levels.
MAX_PIECES_BYTES = 80 * 1024 * 1024
# JSON can only be read whole, and takes many times its bytes: so it is limited in both.
MAX_JSON_BYTES = 4 * 1024 * 1024
MAX_JSON_OBJECTS = 250_000
MAX_JSON_MEMORY_BYTES = 64 * 1024 * 1024


def from_protobuf(
    body: bytes, max_piece_bytes: int = MAX_PIECE_BYTES
) -> Iterator[ExportMetricsServiceRequest]:
    """The messages that together say what `body` says.

    Raises MalformedError, and TooLargeError for something indivisible over `max_piece_bytes` and
    for too many fields, both possibly only after some messages.
    """
    left = MAX_PIECES_BYTES
    for piece in _pieces(body, 0, max_piece_bytes, _Fields()):
        left -= len(piece)
        if left < 0:
            raise TooLargeError("too much around its data; send less at once")
        try:
            yield ExportMetricsServiceRequest.FromString(piece)
        except DecodeError as error:
            raise MalformedError.of(Signal.METRICS, error) from None


# Which fields to cut at, from the request inwards: resource_metrics, scope_metrics, metrics, the
# five kinds of data, data_points (opentelemetry/proto/metrics/v1/metrics.proto).
_REPEATED = ((1,), (2,), (2,), (5, 7, 9, 10, 11), (1,))
_NAMES = ("request", "Resource", "scope", "metric", "metric", "data point")
# Key and length of a field around what is cut out of it.
_FRAMING_BYTES = 8


class _Fields:
    """The fields of messages, up to MAX_FIELDS of them."""

    def __init__(self) -> None:
        self._left = MAX_FIELDS

    def of(self, message: bytes) -> Iterator[tuple[int, int, int | bytes]]:
        for field in wire.fields(message):
            self._left -= 1
            if self._left < 0:
                raise TooLargeError(f"more than {MAX_FIELDS} fields; send less at once")
            yield field


def _pieces(message: bytes, depth: int, max_bytes: int, fields: _Fields) -> Iterator[bytes]:
    if len(message) <= max_bytes:
        yield bytes(message)
        return
    if depth == len(_REPEATED):
        raise TooLargeError(f"a {_NAMES[depth]} of {len(message)} bytes, over {max_bytes}")
    try:
        yield from _cut(message, depth, max_bytes, fields)
    except wire.WireError as error:
        raise MalformedError.of(Signal.METRICS, error) from None


def _cut(message: bytes, depth: int, max_bytes: int, fields: _Fields) -> Iterator[bytes]:
    """`message` in pieces, each with all that does not repeat and some of what does."""
    # Twice through the fields instead of a list of them: there may be millions. Slices of a
    # memoryview are not copies, which at five levels would be five bodies.
    view = cast("bytes", memoryview(message))
    rest = b"".join(
        _encoded(field, wire_type, value)
        for field, wire_type, value in fields.of(view)
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
            for part in _pieces(value, depth + 1, room, fields):
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


def json_to_protobuf(body: bytes) -> bytes:
    """The OTLP/JSON in `body` in the other encoding.

    Raises MalformedError and TooLargeError.
    """
    if len(body) > MAX_JSON_BYTES:
        raise TooLargeError(f"JSON of {len(body)} bytes; send at most {MAX_JSON_BYTES}")
    if body.count(b"{") > MAX_JSON_OBJECTS:
        raise TooLargeError(f"JSON of more than {MAX_JSON_OBJECTS} objects; send less at once")
    # Here alone: few ever send JSON.
    from edge_agent.otlp.json import to_protobuf

    return to_protobuf(Signal.METRICS, body, max_memory_bytes=MAX_JSON_MEMORY_BYTES)
