"""Entries -> records: joined, deflated together, and cut where a record is full. Pure.

Requests of one source are alike: 98 data points of a host are 6.3 KB, 1.7 KB deflated alone and
0.65 KB deflated in groups of twenty. So a queue's newest record stays open, and is written again
with what follows, until it is OPEN_BYTES on disk. What most of them share byte for byte with the
one before is taken out first, which leaves a third less (tests/test_outage.py).
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType

from edge_agent.ring.layout import (
    ENTRY_BYTES,
    HEADER_BYTES,
    OPEN_BYTES,
    Header,
    LayoutError,
    pack_entry,
    parse_payload,
    xor,
)
from edge_agent.ring.record import Entry, Record

_codec: ModuleType
try:
    from isal import isal_zlib as _codec
except ImportError:
    _codec = zlib

# Inflated, up to which entries are joined: what a reader has to hold, and far more than the 32 KiB
# that deflate looks back. A single entry may be larger.
JOINED_BYTES = 256 << 10
# So that an index fits into its 16 bits, with room.
MAX_ENTRIES = 8192
_LEVEL, _LEISURE_LEVEL = 1, 6
_RAW_WBITS = -15
# A record that is this full when entries are left over is not deflated once more to fill it up.
_FULL_ENOUGH = OPEN_BYTES * 7 // 8

Numbered = tuple[int, Entry]


@dataclass(frozen=True, slots=True)
class Packed:
    """The payload of a record. `raw_length` is before deflate."""

    entries: Sequence[Numbered]
    stored: bytes
    deflated: bool
    raw_length: int

    @property
    def length(self) -> int:
        """Bytes of the record."""
        return HEADER_BYTES + len(self.stored)

    @property
    def is_open(self) -> bool:
        """Whether more may be added to it."""
        return (
            self.length < OPEN_BYTES
            and self.raw_length < JOINED_BYTES
            and len(self.entries) < MAX_ENTRIES
        )


def pack(entries: Sequence[Numbered]) -> Packed:
    """All of `entries` in one payload, deflated where that makes it smaller."""
    parts: list[bytes] = []
    before = b""
    alike = 0
    for index, entry in entries:
        body = entry.body
        changes = body and len(body) == len(before) and xor(body, before)
        # Samples of one template are like that; of texts that happen to be as long, deflate makes
        # more as they are.
        if changes and changes.count(0) > len(body) // 2:
            parts += (pack_entry(index, entry, changes=True), changes)
            alike += 1
        else:
            parts += (pack_entry(index, entry), body)
        before = body
    raw = b"".join(parts)
    deflated: bytes
    if alike > len(entries) // 2:
        # Samples come at leisure and are what weeks are filled with: 15 % less for 1 ms a commit.
        deflated = zlib.compress(raw, _LEISURE_LEVEL, wbits=_RAW_WBITS)
    else:
        deflated = _codec.compress(raw, _LEVEL, wbits=_RAW_WBITS)
    if len(deflated) < len(raw):
        return Packed(entries, deflated, deflated=True, raw_length=len(raw))
    return Packed(entries, raw, deflated=False, raw_length=len(raw))


def unpack(header: Header, stored: bytes) -> list[Numbered]:
    """The entries in a stored payload. Raises LayoutError for anything but what was written."""
    if len(stored) != header.stored_length or zlib.crc32(stored) != header.payload_crc:
        raise LayoutError("payload checksum")
    raw = stored
    if header.deflated:
        inflate = _codec.decompressobj(_RAW_WBITS)
        try:
            raw = inflate.decompress(stored, header.raw_length + 1)
        except _codec.error as error:
            raise LayoutError(f"payload: {error}") from None
    entries = list(parse_payload(raw))
    if len(raw) != header.raw_length or len(entries) != header.entries:
        raise LayoutError("payload is not what its header says")
    return entries


def record(header: Header, stored: bytes) -> Record:
    """What a reader gets. Raises LayoutError."""
    entries = unpack(header, stored)
    return Record(
        header.queue,
        header.position,
        header.sequence,
        header.boot_id,
        tuple(index for index, _ in entries),
        tuple(entry for _, entry in entries),
    )


def describe(
    packed: Packed, *, queue: int, position: int, sequence: int, boot_id: bytes, partial: bool
) -> Header:
    """The header that goes before `packed`."""
    first = packed.entries[0][1]
    return Header(
        queue,
        position,
        packed.deflated,
        partial,
        len(packed.entries),
        sum(entry.items for _, entry in packed.entries),
        sum(entry.size for _, entry in packed.entries),
        sequence,
        boot_id,
        first.unix_nano,
        first.boottime_nano,
        packed.raw_length,
        len(packed.stored),
        zlib.crc32(packed.stored),
    )


class Packer:
    """Cuts what a queue appends into records of at most `max_bytes` on disk.

    It remembers how well the last record deflated, and so needs to deflate a record's bytes once,
    or twice where they are of another kind than those before.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._ratio = 0.25

    def next(
        self, opened: Sequence[Numbered], entries: Sequence[Entry], start: int
    ) -> Packed | None:
        """The entries of the open record, if any, and as many more from `start` as fit.

        None where not even one more goes with those of the open record. A record of one entry may
        be larger than `max_bytes`: then it must not be written.
        """
        index = opened[-1][0] + 1 if opened else 0
        raw = sum(ENTRY_BYTES + len(entry.body) for _, entry in opened)
        take = self._fitting(raw, entries, start, MAX_ENTRIES - index)
        if not opened:
            take = max(take, 1)
        shrunk = False
        while take:
            packed = pack([*opened, *enumerate(entries[start : start + take], index)])
            self._ratio = len(packed.stored) / packed.raw_length
            if packed.length > self._max_bytes and (opened or take > 1):
                take //= 2
                shrunk = True
                continue
            if shrunk or packed.length >= _FULL_ENOUGH:
                return packed
            left = MAX_ENTRIES - index - take
            more = self._fitting(packed.raw_length, entries, start + take, left)
            if not more:
                return packed
            take += more
        return None

    def _fitting(self, raw: int, entries: Sequence[Entry], start: int, limit: int) -> int:
        """How many entries from `start` are expected to fit after `raw` bytes."""
        count = 0
        for at in range(start, min(len(entries), start + limit)):
            raw += ENTRY_BYTES + len(entries[at].body)
            if raw > JOINED_BYTES:
                break
            count += 1
            if raw * self._ratio + HEADER_BYTES >= OPEN_BYTES:
                break
        return count
