"""The bytes on disk: what was written once must be readable for ever."""

import zlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.ring import layout
from edge_agent.ring.layout import Header, LayoutError, QueueState, State
from edge_agent.ring.pack import describe, pack, record, unpack
from edge_agent.ring.record import CORRUPT, QUEUE_FULL, Account, Entry, Totals

BOOT = bytes(range(16))
ENTRIES = [
    (0, Entry(b"spans", 2, 7, 1_700_000_000_000_000_000, 5_000_000_000, 1)),
    (3, Entry(b"", 0, 0, -1, 0)),
]
HEADER = Header(
    2, 258, False, True, 2, 2, 7, 77, BOOT, 1_700_000_000_000_000_000, 5_000_000_000, 81, 81, 0
)
GOLDEN_RECORD = (
    "01020200000000020000000000000002000000000000000700000000000000"
    "4d000102030405060708090a0b0c0d0e0f17979cfe362a0000000000012a05f2000000005100000051"
)  # fmt: skip


def golden_state() -> State:
    """A state with a different number in each place."""
    account = Account(
        Totals(1, 2, 3, 4),
        Totals(5, 6, 7, 8),
        {QUEUE_FULL: Totals(9, 10, 11, 12), CORRUPT: Totals(13, 14, 15, 16)},
        17,
    )
    return State(clean=True, unclean_starts=18, queues={4: QueueState(19, 20, account)})


def test_a_record_has_these_bytes() -> None:
    """Version 1 of the header and of the entries, in the order that layout.py documents."""
    packed = replace(pack(ENTRIES), deflated=False)
    stored = b"".join(
        part for index, e in ENTRIES for part in (layout.pack_entry(index, e), e.body)
    )
    assert stored.hex() == (
        "0000"
        "00000001"
        "00000002"
        "0000000000000007"
        "17979cfe362a0000"
        "000000012a05f200"
        "00000005"
        "7370616e73"
        "0003"
        "00000000"
        "00000000"
        "0000000000000000"
        "ffffffffffffffff"
        "0000000000000000"
        "00000000"
    )
    packed = replace(packed, stored=stored)
    header = describe(packed, queue=2, position=258, sequence=77, boot_id=BOOT, partial=True)
    written = layout.pack_header(header)
    assert len(written) == layout.HEADER_BYTES == 80
    assert written[:72].hex() == GOLDEN_RECORD
    assert written[72:76] == zlib.crc32(stored).to_bytes(4, "big")
    key = bytes.fromhex("0200000001020000")
    assert layout.key(2, 258) == key
    assert written[76:] == zlib.crc32(key + written[:76]).to_bytes(4, "big")
    assert layout.parse_header(2, 258, written) == header
    assert unpack(header, stored) == ENTRIES
    assert record(header, stored).indexes == (0, 3)


def test_the_state_has_these_bytes() -> None:
    """Version 1 of the state."""
    written = layout.pack_state(golden_state())
    numbers = [4, 19, 20, 17, *range(1, 17)]
    assert written[:-4].hex() == (
        "6564676572696e67"
        "0001"
        "0001"
        "00000001"
        "0000000000000012" + "".join(f"{number:016x}" for number in numbers)
    )
    assert written[-4:] == zlib.crc32(written[:-4]).to_bytes(4, "big")
    assert layout.parse_state(written) == golden_state()


def test_a_deflated_record_of_version_1_can_be_read() -> None:
    """Raw deflate, whoever deflated it: here zlib at its best."""
    raw = layout.pack_entry(0, Entry(b"a" * 1000, 1, 1000, 2, 3)) + b"a" * 1000
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    stored = deflate.compress(raw) + deflate.flush()
    header = replace(
        HEADER,
        deflated=True,
        entries=1,
        raw_length=len(raw),
        stored_length=len(stored),
        payload_crc=zlib.crc32(stored),
    )
    assert unpack(header, stored) == [(0, Entry(b"a" * 1000, 1, 1000, 2, 3))]


@given(st.integers(1, 255), st.integers(0, 2**40 - 1), st.integers(0, 2**16 - 1))
def test_keys_go_both_ways_and_in_order(queue: int, position: int, chunk: int) -> None:
    """A queue's records lie together, in order, and each record's chunks."""
    key = layout.key(queue, position, chunk)
    assert layout.parse_key(key) == (queue, position, chunk)
    assert layout.key(queue, position) <= key
    assert key > layout.STATE_KEY


@given(st.binary(max_size=120))
def test_what_is_no_record_is_refused(data: bytes) -> None:
    """Nothing else than LayoutError comes out of foreign bytes."""
    with pytest.raises(LayoutError):
        layout.parse_header(1, 1, data)
    with pytest.raises(LayoutError):
        layout.parse_state(data)
    if len(data) != 8:
        with pytest.raises(LayoutError):
            layout.parse_key(data)


def test_a_record_under_the_key_of_another_is_refused() -> None:
    """The checksum covers the key."""
    written = layout.pack_header(HEADER)
    for queue, position in ((1, 258), (2, 259)):
        with pytest.raises(LayoutError, match="checksum"):
            layout.parse_header(queue, position, written)


def _resealed(data: bytes, key: bytes = b"") -> bytes:
    return data[:-4] + zlib.crc32(key + data[:-4]).to_bytes(4, "big")


def test_other_versions_are_refused_even_if_whole() -> None:
    """A later state says so by its type, for the message."""
    written = bytearray(layout.pack_header(HEADER))
    written[0] = 2
    with pytest.raises(LayoutError, match="version 2"):
        layout.parse_header(2, 258, _resealed(bytes(written), layout.key(2, 258)))
    state = bytearray(layout.pack_state(golden_state()))
    state[9] = 2
    with pytest.raises(layout.NewerError, match="newer version"):
        layout.parse_state(_resealed(bytes(state)))
    state[9] = 0
    with pytest.raises(LayoutError, match="version 0"):
        layout.parse_state(_resealed(bytes(state)))
    with pytest.raises(LayoutError, match="checksum"):
        layout.parse_state(bytes(state))


@pytest.mark.parametrize(
    ("change", "stored"),
    [
        ({"payload_crc": 1}, b"abc"),
        ({"stored_length": 4}, b"abc"),
        ({"deflated": True}, b"\xff\xff\xff"),
        ({}, b"a" * 37),
        ({}, layout.pack_entry(0, Entry(b"abc", 1, 1, 1, 1)) + b"ab"),
        ({"entries": 2}, layout.pack_entry(0, Entry(b"", 1, 1, 1, 1))),
        ({"raw_length": 40}, layout.pack_entry(0, Entry(b"", 1, 1, 1, 1))),
    ],
)
def test_a_payload_that_is_not_what_was_written_is_refused(
    change: dict[str, object], stored: bytes
) -> None:
    """By its checksum, or where that was made to fit, by what it says."""
    whole = {
        "entries": 1,
        "raw_length": len(stored),
        "stored_length": len(stored),
        "payload_crc": zlib.crc32(stored),
    }
    with pytest.raises(LayoutError):
        unpack(replace(HEADER, **{**whole, **change}), stored)


@given(st.integers(1, 1 << 20))
def test_weights_are_pages(length: int) -> None:
    """At least the bytes, at most the pages of its chunks, and hardly less for more."""
    weight = layout.weight(length)
    assert weight >= length
    assert weight <= (layout.chunks(length)) * (layout.PAGE + 26)
    assert layout.weight(length + 1) >= weight - 26
