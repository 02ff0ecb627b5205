"""The first two pages of an LMDB file, read before LMDB does. Pure.

LMDB maps the file: one that is shorter than it says is SIGBUS, one with other content may be worse.
Format: mdb.c of LMDB 0.9, MDB_page, MDB_meta, MDB_db; in the machine's own byte order, and with
numbers of the machine's own size, so that a file does not travel between architectures.

    page 0 and 1    header: pgno, pad:16, flags:16, lower:16, upper:16
                    magic:32 version:32 address mapsize db(free) db(main) last_page transaction
    db              pad:32 flags:16 depth:16 branch leaf overflow entries root

Commits write page 0 and 1 in turn; the one with the later transaction counts.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass

from edge_agent.ring.layout import PAGE, LayoutError

# A number as long as a pointer: Q with 64 bits, L (4 bytes, standard size) with 32.
WORD = "Q" if struct.calcsize("P") == 8 else "L"
NO_PAGE = (1 << 8 * struct.calcsize("=" + WORD)) - 1
PAGE_HEADER = struct.Struct(f"={WORD}HHHH")
META_FLAG = 0x08
INTEGER_KEY = 0x08
_HEAD = struct.Struct(f"=II{WORD}{WORD}")
_DB = struct.Struct(f"=IHH{WORD}{WORD}{WORD}{WORD}{WORD}")
_TAIL = struct.Struct(f"={WORD}{WORD}")
_META_BYTES = PAGE_HEADER.size + _HEAD.size + 2 * _DB.size + _TAIL.size
_MAGIC, _VERSION = 0xBEEFC0DE, 1
META_PAGES = 2


@dataclass(frozen=True, slots=True)
class Database:
    """A tree and how large it is said to be, in pages."""

    pad: int
    flags: int
    depth: int
    branch_pages: int
    leaf_pages: int
    overflow_pages: int
    entries: int
    root: int


@dataclass(frozen=True, slots=True)
class Meta:
    """One of the first two pages."""

    map_bytes: int
    free: Database
    main: Database
    last_page: int
    transaction: int

    @property
    def used_bytes(self) -> int:
        """How long the file has to be."""
        return (self.last_page + 1) * PAGE


def template(map_bytes: int) -> bytes:
    """An empty file with pages of 4 KiB, whatever those of this kernel are.

    On one with pages of 16 KiB (Raspberry Pi 5) LMDB would take those, and every commit would write
    four times as much.
    """
    empty = (0, 0, 0, 0, 0, NO_PAGE)
    pages = b""
    for number in range(META_PAGES):
        page = PAGE_HEADER.pack(number, 0, META_FLAG, 0, 0)
        page += _HEAD.pack(_MAGIC, _VERSION, 0, map_bytes)
        page += _DB.pack(PAGE, INTEGER_KEY, *empty) + _DB.pack(0, 0, *empty)
        page += _TAIL.pack(META_PAGES - 1, 0)
        pages += page.ljust(PAGE, b"\0")
    return pages


def check(read: Callable[[int, int], bytes], file_bytes: int) -> Meta:
    """What the file says it is. `read(offset, length)` reads from it, less at its end.

    Raises LayoutError when it is not a ring of this machine, or shorter than it should be.
    """
    first, second = read_metas(read)
    meta = second if second.transaction > first.transaction else first
    if meta.used_bytes > file_bytes:
        raise LayoutError(f"cut short: {file_bytes} bytes of {meta.used_bytes}")
    return meta


def read_metas(read: Callable[[int, int], bytes]) -> tuple[Meta, Meta]:
    """Both headers. Raises LayoutError."""
    return _parse_meta(0, read(0, _META_BYTES)), _parse_meta(1, read(PAGE, _META_BYTES))


def _parse_meta(number: int, data: bytes) -> Meta:
    if len(data) < _META_BYTES:
        raise LayoutError("shorter than two headers")
    its_number, _, flags, _, _ = PAGE_HEADER.unpack_from(data)
    at = PAGE_HEADER.size
    magic, version, _, map_bytes = _HEAD.unpack_from(data, at)
    if magic != _MAGIC or not flags & META_FLAG:
        raise LayoutError("not an LMDB file of this machine's kind")
    if version != _VERSION or flags != META_FLAG or its_number != number:
        raise LayoutError(f"header {number} is damaged, or of another version of LMDB")
    at += _HEAD.size
    free, main = (
        Database(*_DB.unpack_from(data, at)),
        Database(*_DB.unpack_from(data, at + _DB.size)),
    )
    at += 2 * _DB.size
    last_page, transaction = _TAIL.unpack_from(data, at)
    if free.pad != PAGE:
        raise LayoutError(f"pages of {free.pad} bytes instead of {PAGE}")
    if free.flags != INTEGER_KEY or main.flags or main.pad:
        raise LayoutError("not one plain database")
    # Commits alternate: even transactions are in page 0, odd ones in page 1.
    if transaction and transaction % META_PAGES != number:
        raise LayoutError(f"header {number} is of transaction {transaction}")
    if last_page < META_PAGES - 1:
        raise LayoutError(f"header {number} ends before the first page")
    return Meta(map_bytes, free, main, last_page, transaction)
