"""The protobuf wire format, as far as OTLP needs it.

https://protobuf.dev/programming-guides/encoding/: a message is a run of fields, each a key
(field number << 3 | wire type) and a value. OTLP uses four wire types.
"""

import struct
from collections.abc import Iterator

VARINT = 0
FIXED64 = 1
LENGTH_DELIMITED = 2
FIXED32 = 5

_FIXED64 = struct.Struct("<Q")
_DOUBLE = struct.Struct("<d")
_FIXED32 = struct.Struct("<I")


class WireError(ValueError):
    """Bytes that are no protobuf message: truncated, over-long or of an unknown wire type."""


def varint(value: int) -> bytes:
    """`value` (0 to 2**64 - 1) in base 128, least significant group first."""
    if value < 0x80:
        return bytes((value,))
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def key(field: int, wire_type: int) -> bytes:
    """The bytes before a field's value."""
    return varint(field << 3 | wire_type)


def varint_field(field: int, value: int) -> bytes:
    """An unsigned integer, a bool or an enum; a negative int64 is its two's complement."""
    return key(field, VARINT) + varint(value & 0xFFFFFFFFFFFFFFFF)


def fixed64_field(field: int, value: int) -> bytes:
    """An unsigned 64-bit integer in eight bytes: OTLP's time stamps."""
    return key(field, FIXED64) + _FIXED64.pack(value)


def double_field(field: int, value: float) -> bytes:
    """An IEEE 754 double."""
    return key(field, FIXED64) + _DOUBLE.pack(value)


def bytes_field(field: int, value: bytes) -> bytes:
    """A length-delimited field: bytes, or an encoded message."""
    return key(field, LENGTH_DELIMITED) + varint(len(value)) + value


def text(value: str) -> bytes:
    """UTF-8; what it cannot carry leaves as an escape.

    Names from the kernel may be any bytes: `os.fsdecode` maps a byte NN that is no UTF-8 to the
    lone surrogate U+DCNN, which leaves as `\\xNN`; any other lone surrogate as `\\uNNNN`.
    """
    try:
        return value.encode()
    except UnicodeEncodeError:
        pass
    try:
        name = value.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return value.encode("utf-8", "backslashreplace")
    return name.decode("utf-8", "backslashreplace").encode()


def string_field(field: int, value: str) -> bytes:
    """A string, see `text`."""
    return bytes_field(field, text(value))


def read_varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    """The varint at `at` and the offset after it; raises WireError past `end` or 10 bytes."""
    value = shift = 0
    while at < end and shift < 70:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, at
        shift += 7
    raise WireError(f"varint at byte {at} is truncated or longer than ten bytes")


def fields(data: bytes) -> Iterator[tuple[int, int, int | bytes]]:
    """(field number, wire type, value) of each field in order; raises WireError.

    A value is an int for varint and fixed fields, bytes for a length-delimited one. Groups are
    not part of proto3 and are refused.
    """
    at, end = 0, len(data)
    while at < end:
        tag, at = read_varint(data, at, end)
        field, wire_type = tag >> 3, tag & 7
        value: int | bytes
        if field == 0 or field > 0x1FFFFFFF:
            raise WireError(f"field number {field} before byte {at} is out of range")
        if wire_type == VARINT:
            value, at = read_varint(data, at, end)
        elif wire_type == LENGTH_DELIMITED:
            size, at = read_varint(data, at, end)
            if size > end - at:
                raise WireError(f"field {field} wants {size} bytes, {end - at} are left")
            value = data[at : at + size]
            at += size
        elif wire_type in (FIXED64, FIXED32):
            size = 8 if wire_type == FIXED64 else 4
            if size > end - at:
                raise WireError(f"field {field} wants {size} bytes, {end - at} are left")
            number = (_FIXED64 if wire_type == FIXED64 else _FIXED32).unpack_from(data, at)
            value = int(number[0])
            at += size
        else:
            raise WireError(f"field {field} has wire type {wire_type}, which OTLP does not use")
        yield field, wire_type, value
