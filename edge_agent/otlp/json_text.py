"""Protobuf -> OTLP/JSON, the way back of json.py. Pure; imported for `buffer export` alone.

OTLP specification, "JSON Protobuf Encoding": ids are hex, enums integers, 64-bit integers strings.
What protobuf says of odd encodings holds: the last of a scalar and of a oneof stands, repeated
sub-messages are merged, unknown fields and known ones of another wire type are left out. Text that
is not UTF-8 has no JSON: each bad byte becomes U+FFFD.
"""

import binascii
import json
import math
import struct
from typing import Any

from edge_agent.otlp import wire
from edge_agent.otlp.schema import MESSAGES, ROOTS, Field, Kind
from edge_agent.otlp.signal import Signal
from edge_agent.otlp.walk import MAX_DEPTH, MalformedError, Walk, varint

_FIELDS = {
    message: {field.number: field for field in fields} for message, fields in MESSAGES.items()
}
# The `oneof`s of opentelemetry-proto, by message: setting one of a group unsets the others.
_ONEOFS: dict[str, set[str]] = {
    "AnyValue": {field.json_name for field in MESSAGES["AnyValue"]},
    "Metric": {"gauge", "sum", "histogram", "exponentialHistogram", "summary"},
    "NumberDataPoint": {"asDouble", "asInt"},
    "Exemplar": {"asDouble", "asInt"},
}
_FIXED = {
    Kind.FIXED32: (wire.FIXED32, "<I"),
    Kind.FIXED64: (wire.FIXED64, "<Q"),
    Kind.SFIXED64: (wire.FIXED64, "<q"),
    Kind.DOUBLE: (wire.FIXED64, "<d"),
}
_SIZED = frozenset({Kind.STRING, Kind.BYTES, Kind.ID, Kind.MESSAGE})
# JSON's numbers are doubles to many: 64 bits are written as text.
_LONG = frozenset({Kind.INT64, Kind.UINT64, Kind.FIXED64, Kind.SFIXED64})


def to_json(signal: Signal, body: bytes) -> str:
    """The Export request `body` as one line of JSON, without the line's end.

    Raises MalformedError where it is not one, TooLargeError where it has more fields than a walk
    takes: it can be split.
    """
    try:
        document = _Reading(body).message(ROOTS[signal], 0, len(body), 1, {})
    except (wire.WireError, IndexError) as error:
        raise MalformedError.of(signal, error) from None
    return json.dumps(document, ensure_ascii=False, separators=(",", ":"))


def wire_type(kind: Kind) -> int:
    """How a single value of `kind` is encoded."""
    if kind in _SIZED:
        return wire.LENGTH_DELIMITED
    return _FIXED[kind][0] if kind in _FIXED else wire.VARINT


class _Reading:
    """A request being read."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._walk = Walk(data)

    def message(
        self, name: str, at: int, end: int, depth: int, found: dict[str, Any]
    ) -> dict[str, Any]:
        """The message `name` in [at, end), merged into `found`."""
        if depth > MAX_DEPTH:
            raise wire.WireError(f"nested deeper than {MAX_DEPTH} messages at byte {at}")
        fields, group = _FIELDS[name], _ONEOFS.get(name, set())
        for key, _, start, after in self._walk.fields(at, end, depth - 1, frozenset()):
            field = fields.get(key >> 3)
            if field is None:
                continue
            values = self._values(field, key & 7, start, after, depth, found)
            if not values:
                continue
            if field.json_name in group:
                for other in group & found.keys() - {field.json_name}:
                    del found[other]
            if field.repeated:
                found.setdefault(field.json_name, []).extend(values)
            else:
                found[field.json_name] = values[-1]
        return found

    def _values(
        self, field: Field, its_type: int, start: int, after: int, depth: int,
        found: dict[str, Any],
    ) -> list[Any]:  # fmt: skip
        """What a field says: nothing in another wire type, several where it is packed."""
        kind = field.kind
        if kind in _SIZED:
            if its_type != wire.LENGTH_DELIMITED:
                return []
            if kind is Kind.MESSAGE:
                into = {} if field.repeated else found.get(field.json_name, {})
                return [self.message(field.target, start, after, depth + 1, into)]
            return [_sized(kind, self._data[start:after])]
        form = _FIXED[kind][1] if kind in _FIXED else ""
        if its_type == wire_type(kind):
            return [self._scalar(kind, form, start)[0]]
        if its_type != wire.LENGTH_DELIMITED or not field.repeated:
            return []
        values = []
        at = start
        while at < after:
            value, at = self._scalar(kind, form, at)
            values.append(value)
        if at != after:
            raise wire.WireError(f"packed values at byte {start} end inside one")
        return values

    def _scalar(self, kind: Kind, form: str, at: int) -> tuple[Any, int]:
        """The number at `at` as JSON has it, and the offset after it."""
        if not form:
            number, at = varint(self._data, at, 10)
            return _varint(kind, number), at
        size = struct.calcsize(form)
        if at + size > len(self._data):
            raise IndexError
        (value,) = struct.unpack_from(form, self._data, at)
        if kind is Kind.DOUBLE:
            return _double(value), at + size
        return str(value) if kind in _LONG else value, at + size


def _sized(kind: Kind, data: bytes) -> str:
    if kind is Kind.STRING:
        return data.decode("utf-8", "replace")
    if kind is Kind.ID:
        return data.hex()
    return binascii.b2a_base64(data, newline=False).decode("ascii")


def _varint(kind: Kind, number: int) -> Any:
    if kind is Kind.BOOL:
        return number != 0
    if kind is Kind.SINT32:
        number &= 0xFFFFFFFF
        return number >> 1 ^ -(number & 1)
    if kind is Kind.UINT32:
        return number & 0xFFFFFFFF
    if kind in (Kind.INT32, Kind.ENUM):
        return _signed(number, 32)
    return str(number & (1 << 64) - 1 if kind is Kind.UINT64 else _signed(number, 64))


def _signed(number: int, bits: int) -> int:
    number &= (1 << bits) - 1
    return number - (1 << bits) if number >> bits - 1 else number


def _double(value: float) -> float | str:
    # Protobuf's JSON mapping: JSON has no such numbers.
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    return value
