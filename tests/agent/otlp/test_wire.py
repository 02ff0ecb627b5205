"""The protobuf wire format: what we write is read back, and what is no message is refused."""

import os

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from opentelemetry.proto.common.v1.common_pb2 import KeyValue

from edge_agent.otlp import wire

UINT64 = st.integers(0, 2**64 - 1)


@given(UINT64)
@example(0)
@example(0x7F)
@example(0x80)
@example(2**64 - 1)
def test_a_varint_is_read_back(value: int) -> None:
    """Every unsigned 64-bit integer survives, in at most ten bytes."""
    data = wire.varint(value)
    assert wire.read_varint(data, 0, len(data)) == (value, len(data))
    assert len(data) <= 10


@given(st.integers(-(2**63), 2**63 - 1))
def test_a_negative_int64_is_its_twos_complement(value: int) -> None:
    """As protobuf has it: ten bytes, the same that an int64 field of the library reads."""
    message = KeyValue.FromString(wire.bytes_field(2, wire.varint_field(3, value)))
    assert message.value.int_value == value


FIELDS = st.one_of(
    st.tuples(st.just(wire.VARINT), UINT64),
    st.tuples(st.just(wire.FIXED64), UINT64),
    st.tuples(st.just(wire.LENGTH_DELIMITED), st.binary(max_size=200)),
)


@given(st.lists(st.tuples(st.integers(1, 0x1FFFFFFF), FIELDS), max_size=8))
def test_fields_are_read_back_in_order(fields: list[tuple[int, tuple[int, int | bytes]]]) -> None:
    """Numbers, wire types and values of a message come out as they went in."""
    data = b""
    for number, (wire_type, value) in fields:
        if isinstance(value, bytes):
            data += wire.bytes_field(number, value)
        elif wire_type == wire.VARINT:
            data += wire.varint_field(number, value)
        else:
            data += wire.fixed64_field(number, value)
    expected = [(number, wire_type, value) for number, (wire_type, value) in fields]
    assert list(wire.fields(data)) == expected


def test_a_fixed32_is_read() -> None:
    """OTLP has them in span flags."""
    data = wire.key(16, wire.FIXED32) + b"\x01\x02\x03\x04"
    assert list(wire.fields(data)) == [(16, wire.FIXED32, 0x04030201)]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\x80", "truncated"),
        (b"\xff" * 11, "longer than ten bytes"),
        (b"\x00\x00", "out of range"),
        (wire.varint(0x20000000 << 3), "out of range"),
        (b"\x0a\x05abc", "field 1 wants 5 bytes, 3 are left"),
        (b"\x09\x00\x00", "field 1 wants 8 bytes, 2 are left"),
        (b"\x0d\x00", "field 1 wants 4 bytes, 1 are left"),
        (b"\x0b", "wire type 3"),
    ],
)
def test_what_is_no_message_is_refused(data: bytes, reason: str) -> None:
    """The error says which field and how much is missing."""
    with pytest.raises(wire.WireError, match=reason):
        list(wire.fields(data))


@given(st.lists(FIELDS, max_size=5), st.data())
def test_damage_raises_nothing_but_a_wire_error(
    fields: list[tuple[int, int | bytes]], data: st.DataObject
) -> None:
    """A flipped bit or a cut in a valid message is an error or another message, never a crash."""
    message = bytearray(
        b"".join(
            wire.bytes_field(1, value) if isinstance(value, bytes) else wire.fixed64_field(2, value)
            for _, value in fields
        )
    )
    if message:
        at = data.draw(st.integers(0, len(message) - 1))
        message[at] ^= 1 << data.draw(st.integers(0, 7))
    cut = data.draw(st.integers(0, len(message)))
    try:
        read = list(wire.fields(bytes(message[:cut])))
    except wire.WireError:
        return
    assert all(number > 0 for number, _, _ in read)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("wlan0", b"wlan0"),
        ("K\u00fcche", b"K\xc3\xbcche"),
        (os.fsdecode(b"usb\xff0"), rb"usb\xff0"),
        (os.fsdecode("K\u00fc".encode() + b"\xfc"), "K\u00fc".encode() + rb"\xfc"),
        ("\ud800", rb"\ud800"),
    ],
)
def test_text_that_utf8_cannot_carry_is_escaped(value: str, expected: bytes) -> None:
    r"""Bytes of the kernel that are no UTF-8 appear as `\xNN`; what is UTF-8 stays as it is."""
    assert wire.string_field(1, value) == wire.bytes_field(1, expected)


@given(st.text(st.characters(exclude_categories=())))
def test_any_text_leaves_as_utf8(value: str) -> None:
    """Lone surrogates included: a receiver that checks UTF-8 never refuses what we send."""
    sent = wire.text(value).decode()
    if not any("\ud800" <= character <= "\udfff" for character in value):
        assert sent == value


def test_a_double_is_ieee_754() -> None:
    """1.0, least significant byte first."""
    assert wire.double_field(4, 1.0) == b"\x21" + bytes(6) + b"\xf0\x3f"
