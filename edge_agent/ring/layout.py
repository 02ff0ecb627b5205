"""The ring's bytes on disk: all integers big-endian. Pure.

One unnamed LMDB database. Keys are eight bytes:

    0                                        the state record
    queue:8 | position:40 | chunk:16         a chunk of a record; queues are 1 to 255

A record is a header and a payload, cut into chunks of CHUNK bytes: one of those takes exactly one
page, so contiguous runs of free pages are never needed. Small records and last chunks are packed
into leaves. A record that is rewritten keeps its key.

    header (80 bytes)
      version:8         1
      flags:8           1 DEFLATED: the payload is raw deflate (RFC 1951); 2 PARTIAL: entries of it
                        were acknowledged, so their indexes have gaps
      queue:8  0:8
      entries:32        live ones
      items:64 size:64  sums over them
      sequence:64       entries that the queue had taken before this record
      boot_id:128       of the boot in which they were admitted
      unix_nano:s64 boottime_nano:s64          of the first
      raw_length:32 stored_length:32           of the payload, inflated and on disk
      payload_crc:32    CRC-32 (zlib's) over the stored payload
      header_crc:32     CRC-32 over the key of chunk 0 and the 76 bytes before

    payload, for each entry
      index:16 flags:32 items:32 size:64 unix_nano:s64 boottime_nano:s64   (38 bytes with the next)
      changes:1 length:31
      body              or, with CHANGES, what the body before it is to be XORed with to be this one

    state
      magic             "edgering"
      version:16        1
      queues:16
      flags:32          1 CLEAN: closed in order, and nothing was written since
      unclean_starts:64
      for each queue, in order of its number
        queue:64 next_position:64 next_sequence:64 stored:64
        appended, acked, dropped for each of record.REASONS:
          records:64 entries:64 items:64 bytes:64
      crc:32            CRC-32 over all before

Two checksums, because a record must be counted when it is dropped, and that must not need more than
its header. Both depend on where it lies: a record under another's key is found out.
"""

import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from edge_agent.ring.record import REASONS, Account, Entry, Totals

VERSION = 1
PAGE = 4096
CHUNK = PAGE - 16
MAX_QUEUE = 255
# Of a record on disk, from which on nothing is added to it.
OPEN_BYTES = 16 << 10
STATE_KEY = bytes(8)
_MAGIC = b"edgering"

_DEFLATED, _PARTIAL = 1, 2
_CLEAN = 1
_KEY = struct.Struct(">Q")
_HEADER = struct.Struct(">BBBxIQQQ16sqqIII")
_CRC = struct.Struct(">I")
HEADER_BYTES = _HEADER.size + _CRC.size
_ENTRY = struct.Struct(">HIIQqqI")
ENTRY_BYTES = _ENTRY.size
_CHANGES = 1 << 31
_STATE = struct.Struct(">8sHHIQ")
_ACCOUNT = struct.Struct(f">{4 + 4 * (2 + len(REASONS))}Q")
# LMDB (mdb.c, me_nodemax) keeps a node in the leaf up to this size, its own header included, with
# pages of 4 KiB; what is larger gets a page of its own.
_NODE_BYTES = 16
_LEAF_NODE_MAX = 2038
# A leaf after a split is two thirds full on average, but ours fill in order.
_LEAF_FILL = PAGE - 96


class LayoutError(ValueError):
    """These bytes are not what they should be: damaged, foreign or of another version."""


class NewerError(LayoutError):
    """A later version of this program wrote it."""


def key(queue: int, position: int, chunk: int = 0) -> bytes:
    """The key of a chunk."""
    return _KEY.pack(queue << 56 | position << 16 | chunk)


def parse_key(data: bytes | memoryview) -> tuple[int, int, int]:
    """(queue, position, chunk) of a key. Raises LayoutError for one of another length."""
    if len(data) != _KEY.size:
        raise LayoutError("a key that is not eight bytes")
    (number,) = _KEY.unpack(data)
    return number >> 56, number >> 16 & 0xFFFFFFFFFF, number & 0xFFFF


def chunks(length: int) -> int:
    """How many chunks a record of `length` bytes, header included, is cut into."""
    return -(-length // CHUNK)


def weight(length: int) -> int:
    """Bytes of pages that a record of `length` bytes takes, nodes included: what is budgeted."""
    full, rest = divmod(length, CHUNK)
    taken = full * (PAGE + _NODE_BYTES + 10)
    if rest == 0:
        return taken
    if rest + _NODE_BYTES > _LEAF_NODE_MAX:
        return taken + PAGE + _NODE_BYTES + 10
    # Nodes are even, and each has a two-byte pointer.
    return taken + (rest + _NODE_BYTES + 3) * PAGE // _LEAF_FILL


@dataclass(frozen=True, slots=True)
class Header:
    """What the first bytes of a record say of it."""

    queue: int
    position: int
    deflated: bool
    partial: bool
    entries: int
    items: int
    size: int
    sequence: int
    boot_id: bytes
    unix_nano: int
    boottime_nano: int
    raw_length: int
    stored_length: int
    payload_crc: int

    @property
    def length(self) -> int:
        """Bytes of the whole record."""
        return HEADER_BYTES + self.stored_length

    @property
    def totals(self) -> Totals:
        """What it holds."""
        return Totals(1, self.entries, self.items, self.size)


def pack_header(header: Header) -> bytes:
    """The header's bytes."""
    flags = (_DEFLATED if header.deflated else 0) | (_PARTIAL if header.partial else 0)
    packed = _HEADER.pack(
        VERSION,
        flags,
        header.queue,
        header.entries,
        header.items,
        header.size,
        header.sequence,
        header.boot_id,
        header.unix_nano,
        header.boottime_nano,
        header.raw_length,
        header.stored_length,
        header.payload_crc,
    )
    return packed + _CRC.pack(zlib.crc32(packed, zlib.crc32(key(header.queue, header.position))))


def parse_header(queue: int, position: int, chunk: bytes | memoryview) -> Header:
    """The header at the start of the first chunk of a record. Raises LayoutError."""
    if len(chunk) < HEADER_BYTES:
        raise LayoutError("shorter than a header")
    (crc,) = _CRC.unpack_from(chunk, _HEADER.size)
    if crc != zlib.crc32(chunk[: _HEADER.size], zlib.crc32(key(queue, position))):
        raise LayoutError("header checksum")
    version, flags, its_queue, *numbers = _HEADER.unpack_from(chunk)
    if version != VERSION or its_queue != queue:
        raise LayoutError(f"record version {version} of queue {its_queue}")
    return Header(queue, position, bool(flags & _DEFLATED), bool(flags & _PARTIAL), *numbers)


def pack_entry(index: int, entry: Entry, *, changes: bool = False) -> bytes:
    """What goes before the body of an entry, or before the `changes` to the body before it."""
    return _ENTRY.pack(
        index,
        entry.flags,
        entry.items,
        entry.size,
        entry.unix_nano,
        entry.boottime_nano,
        len(entry.body) | (_CHANGES if changes else 0),
    )


def xor(body: bytes, other: bytes) -> bytes:
    """Both, bit by bit; they are equally long."""
    changed = int.from_bytes(body, "little") ^ int.from_bytes(other, "little")
    return changed.to_bytes(len(body), "little")


def parse_payload(raw: bytes) -> Iterator[tuple[int, Entry]]:
    """(index, entry) of each entry in an inflated payload. Raises LayoutError."""
    at = 0
    before = b""
    while at < len(raw):
        if len(raw) - at < ENTRY_BYTES:
            raise LayoutError("payload ends inside an entry")
        index, flags, items, size, unix_nano, boottime_nano, length = _ENTRY.unpack_from(raw, at)
        at += ENTRY_BYTES
        changes, length = length & _CHANGES, length & ~_CHANGES
        body = raw[at : at + length]
        if len(body) != length:
            raise LayoutError("payload ends inside a body")
        if changes:
            if length != len(before):
                raise LayoutError("changes to a body of another length")
            body = xor(body, before)
        before = body
        at += length
        yield index, Entry(body, items, size, unix_nano, boottime_nano, flags)


@dataclass(frozen=True, slots=True)
class QueueState:
    """What the state record has for a queue."""

    next_position: int = 0
    next_sequence: int = 0
    account: Account = field(default_factory=Account)


@dataclass(frozen=True, slots=True)
class State:
    """What is known without looking at a record."""

    clean: bool
    unclean_starts: int
    queues: dict[int, QueueState]

    def with_queues(self, numbers: Iterable[int]) -> "State":
        """The same with queues `numbers` in it, as new where they were not."""
        missing = {number: QueueState() for number in numbers if number not in self.queues}
        return replace(self, queues={**self.queues, **missing}) if missing else self


def pack_state(state: State) -> bytes:
    """The state record."""
    packed = bytearray(
        _STATE.pack(
            _MAGIC, VERSION, len(state.queues), _CLEAN if state.clean else 0, state.unclean_starts
        )
    )
    for number in sorted(state.queues):
        queue = state.queues[number]
        account = queue.account
        packed += _ACCOUNT.pack(
            number,
            queue.next_position,
            queue.next_sequence,
            account.stored_bytes,
            *_flat(account.appended),
            *_flat(account.acked),
            *(n for reason in REASONS for n in _flat(account.dropped[reason])),
        )
    return bytes(packed + _CRC.pack(zlib.crc32(packed)))


def parse_state(data: bytes) -> State:
    """The state record. Raises NewerError for one of a later version, else LayoutError."""
    if len(data) < _STATE.size + _CRC.size or not data.startswith(_MAGIC):
        raise LayoutError("no state record")
    if zlib.crc32(data[: -_CRC.size]) != _CRC.unpack_from(data, len(data) - _CRC.size)[0]:
        raise LayoutError("state checksum")
    _, version, count, flags, unclean_starts = _STATE.unpack_from(data)
    if version > VERSION:
        raise NewerError(f"written by a newer version (format {version}, known is {VERSION})")
    if version != VERSION or len(data) != _STATE.size + count * _ACCOUNT.size + _CRC.size:
        raise LayoutError(f"state of version {version} with {len(data)} bytes")
    queues = {}
    for at in range(_STATE.size, len(data) - _CRC.size, _ACCOUNT.size):
        number, next_position, next_sequence, stored, *totals = _ACCOUNT.unpack_from(data, at)
        appended, acked, *dropped = _groups(totals)
        account = Account(appended, acked, dict(zip(REASONS, dropped, strict=True)), stored)
        queues[number] = QueueState(next_position, next_sequence, account)
    return State(bool(flags & _CLEAN), unclean_starts, queues)


def _flat(totals: Totals) -> tuple[int, int, int, int]:
    return totals.records, totals.entries, totals.items, totals.bytes


def _groups(numbers: Sequence[int]) -> list[Totals]:
    return [Totals(*numbers[at : at + 4]) for at in range(0, len(numbers), 4)]
