"""OTLP/JSON -> protobuf, without the protobuf runtime. Pure; imported with the first JSON request.

OTLP specification, "JSON Protobuf Encoding": protobuf's JSON mapping, but trace and span ids are
hex, in either case, enums are integers, and unknown fields are ignored. Where the specification
only binds senders we take what the Collector takes, because a sender that works with it should
work with us and an ignored key would be data lost in silence: names of enums, field names in
snake_case, `null` for nothing, numbers in strings. Integers may be written as floats (protobuf's
JSON mapping), never rounded. Not taken, though the Collector does: bytes that are not UTF-8, and
anything behind the document. It fails on a byte order mark, which is skipped here (RFC 8259, 8.1).
"""

import binascii
import json
import math
import re
import struct
from collections.abc import Callable
from typing import NamedTuple, NoReturn

from edge_agent.otlp import wire
from edge_agent.otlp.schema import ENUMS, MESSAGES, ROOTS, Field, Kind
from edge_agent.otlp.signal import Signal
from edge_agent.otlp.walk import MAX_DEPTH, MalformedError, TooLargeError

# JSON is read whole, and its objects take many times its bytes: see `memory_bytes`.
MAX_MEMORY_BYTES = 24 << 20
_TRACE_ID_BYTES, _SPAN_ID_BYTES = 16, 8
_INTEGER = re.compile(r"[+-]?[0-9]{1,24}", re.ASCII)
_NUMBER = re.compile(r"[+-]?[0-9]{1,400}(\.[0-9]{1,400})?([eE][+-]?[0-9]{1,4})?", re.ASCII)
_HEX = re.compile(r"[0-9a-fA-F]*", re.ASCII)
_MASK = (1 << 64) - 1
_SURROGATES = re.compile("[\ud800-\udfff]")
_DOUBLES = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
_RANGES = {
    Kind.INT32: (-(1 << 31), (1 << 31) - 1),
    Kind.SINT32: (-(1 << 31), (1 << 31) - 1),
    Kind.ENUM: (-(1 << 31), (1 << 31) - 1),
    Kind.UINT32: (0, (1 << 32) - 1),
    Kind.FIXED32: (0, (1 << 32) - 1),
    Kind.INT64: (-(1 << 63), (1 << 63) - 1),
    Kind.SFIXED64: (-(1 << 63), (1 << 63) - 1),
    Kind.UINT64: (0, (1 << 64) - 1),
    Kind.FIXED64: (0, (1 << 64) - 1),
}
_WIRE_TYPES = {
    Kind.FIXED32: wire.FIXED32,
    Kind.FIXED64: wire.FIXED64,
    Kind.SFIXED64: wire.FIXED64,
    Kind.DOUBLE: wire.FIXED64,
    Kind.STRING: wire.LENGTH_DELIMITED,
    Kind.BYTES: wire.LENGTH_DELIMITED,
    Kind.ID: wire.LENGTH_DELIMITED,
    Kind.MESSAGE: wire.LENGTH_DELIMITED,
}


class _ValueError(ValueError):
    """A value that does not fit its field; `path` leads to it, innermost first."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.path: list[str] = []


def to_protobuf(signal: Signal, text: bytes, *, max_memory_bytes: int = MAX_MEMORY_BYTES) -> bytes:
    """The Export request that the JSON document `text` is.

    Raises MalformedError naming the field, and TooLargeError where reading the document could take
    more than `max_memory_bytes`.
    """
    needed = memory_bytes(text)
    if needed > max_memory_bytes:
        raise TooLargeError(
            f"JSON of {len(text)} bytes that could take {needed} in memory, over"
            f" {max_memory_bytes}; send less at once, or protobuf"
        )
    try:
        document = json.loads(text.decode("utf-8-sig"), parse_constant=_no_constant)
    except RecursionError:
        raise MalformedError.of(signal, "nested too deep") from None
    except ValueError as error:
        raise MalformedError.of(signal, f"no JSON: {error}") from None
    if document is None:
        return b""
    try:
        return bytes(_message(ROOTS[signal], document, 1))
    except _ValueError as error:
        where = ".".join(reversed(error.path))
        raise MalformedError.of(signal, f"{where}: {error}" if where else error) from None


def memory_bytes(text: bytes) -> int:
    """More than what reading `text` takes at worst, found without reading it.

    Per byte, for the text decoded and the strings cut out of it, which take four bytes a character
    where one of it is beyond Unicode's first plane; per value or key, for itself and its place; per
    object and array, for their tables. OTLP is estimated at fifteen times its size and takes ten.
    Measured against documents made to be bad: tests/agent/otlp/test_json.py.
    """
    per_byte = 3 if text.isascii() and b"\\u" not in text else 8
    values = text.count(b",") + text.count(b":")
    return per_byte * len(text) + 80 * values + 96 * text.count(b"{") + 88 * text.count(b"[")


def _no_constant(name: str) -> NoReturn:
    # Python's extension: JSON has no such literals, OTLP writes them as strings.
    raise ValueError(f"{name} is no JSON value")


def _described(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


def _integer(value: object, kind: Kind) -> int:
    low, high = _RANGES[kind]
    if (
        type(value) is int
        or (type(value) is float and value.is_integer())
        or (type(value) is str and _INTEGER.fullmatch(value))
    ):
        number = int(value)
        if low <= number <= high:
            return number
    raise _ValueError(f"{_described(value)} is no {kind.value}")


def _double(value: object) -> float:
    number = math.nan
    if type(value) in (int, float):
        try:
            number = float(value)  # type: ignore[arg-type]  # one of the two, which mypy cannot see
        except OverflowError:
            number = math.inf
    elif type(value) is str and value in _DOUBLES:
        return _DOUBLES[value]
    elif type(value) is str and _NUMBER.fullmatch(value):
        number = float(value)
    if not math.isfinite(number):
        raise _ValueError(f"{_described(value)} is no double")
    return number


def _text(value: object) -> str:
    if type(value) is not str:
        raise _ValueError(f"{_described(value)} is no string")
    return value


def _base64(value: object) -> bytes:
    # Either alphabet, padded or not: protobuf's JSON mapping.
    text = _text(value).rstrip("=").replace("-", "+").replace("_", "/")
    try:
        return binascii.a2b_base64(text + "=" * (-len(text) % 4), strict_mode=True)
    except ValueError:
        raise _ValueError(f"{_described(value)} is no base64") from None


def _id(value: object, size: int) -> bytes:
    text = _text(value)
    if not _HEX.fullmatch(text) or len(text) not in (0, 2 * size):
        raise _ValueError(f"{_described(value)} is not {2 * size} hex digits")
    return bytes.fromhex(text)


def _scalar(field: Field) -> Callable[[object], bytes]:
    """How a value of `field` is encoded, its key and length left out."""
    kind = field.kind
    match kind:
        case Kind.STRING:
            return lambda value: _SURROGATES.sub("\ufffd", _text(value)).encode()
        case Kind.BYTES:
            return _base64
        case Kind.ID:
            size = _TRACE_ID_BYTES if field.name == "trace_id" else _SPAN_ID_BYTES
            return lambda value: _id(value, size)
        case Kind.BOOL:
            return _bool
        case Kind.DOUBLE:
            return lambda value: struct.pack("<d", _double(value))
        case Kind.FIXED32:
            return lambda value: struct.pack("<I", _integer(value, kind))
        case Kind.FIXED64 | Kind.SFIXED64:
            return lambda value: (_integer(value, kind) & _MASK).to_bytes(8, "little")
        case Kind.SINT32:
            return lambda value: wire.varint(_zigzag(_integer(value, kind)))
        case Kind.ENUM:
            names = ENUMS[field.target]
            return lambda value: wire.varint(_enum(value, names) & _MASK)
        case _:
            return lambda value: wire.varint(_integer(value, kind) & _MASK)


def _bool(value: object) -> bytes:
    if type(value) is not bool:
        raise _ValueError(f"{_described(value)} is no bool")
    return b"\x01" if value else b"\x00"


def _zigzag(number: int) -> int:
    return 2 * number if number >= 0 else -2 * number - 1


def _enum(value: object, names: dict[str, int]) -> int:
    if type(value) is str and value in names:
        return names[value]
    if type(value) is not int:
        raise _ValueError(f"{_described(value)} is no value of this enum")
    return _integer(value, Kind.ENUM)


class _Encoder(NamedTuple):
    """A field, ready to be written. `scalar` is None for a message."""

    key: bytes
    sized: bool
    repeated: bool
    packed: bool
    scalar: Callable[[object], bytes] | None
    target: str


def _encoder(field: Field) -> _Encoder:
    wire_type = _WIRE_TYPES.get(field.kind, wire.VARINT)
    sized = wire_type == wire.LENGTH_DELIMITED
    packed = field.repeated and not sized
    return _Encoder(
        key=wire.key(field.number, wire.LENGTH_DELIMITED if packed else wire_type),
        sized=sized,
        repeated=field.repeated,
        packed=packed,
        scalar=None if field.kind is Kind.MESSAGE else _scalar(field),
        target=field.target,
    )


_ENCODERS = {
    message: {
        name: encoder
        for field in fields
        for encoder in (_encoder(field),)
        for name in (field.name, field.json_name)
    }
    for message, fields in MESSAGES.items()
}


def _message(name: str, document: object, depth: int) -> bytearray:
    """The message `name`, `depth` messages deep with itself, without key and length."""
    if type(document) is not dict:
        raise _ValueError(f"{_described(document)} is no object")
    if depth > MAX_DEPTH:
        raise _ValueError(f"nested deeper than {MAX_DEPTH} messages")
    encoders = _ENCODERS[name]
    # Not a list of parts to join: a part of two bytes would take a hundred.
    out = bytearray()
    for key, value in document.items():
        encoder = encoders.get(key)
        if encoder is None or value is None:
            continue
        try:
            _field(encoder, value, depth, out)
        except _ValueError as error:
            error.path.append(key)
            raise
    return out


def _field(encoder: _Encoder, value: object, depth: int, out: bytearray) -> None:
    if not encoder.repeated:
        _one(encoder, value, depth, out)
        return
    if type(value) is not list:
        raise _ValueError(f"{_described(value)} is no array")
    into = bytearray() if encoder.packed else out
    for index, one in enumerate(value):
        try:
            _one(encoder, one, depth, into)
        except _ValueError as error:
            error.path.append(str(index))
            raise
        # The document goes as the request grows.
        value[index] = None
    if encoder.packed:
        out += encoder.key
        out += wire.varint(len(into))
        out += into


def _one(encoder: _Encoder, value: object, depth: int, out: bytearray) -> None:
    encoded: bytes | bytearray
    if encoder.scalar is None:
        encoded = _message(encoder.target, value, depth + 1)
    else:
        encoded = encoder.scalar(value)
    if not encoder.packed:
        out += encoder.key
        if encoder.sized:
            out += wire.varint(len(encoded))
    out += encoded
