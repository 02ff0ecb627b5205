"""Every page of an LMDB file looked at before LMDB does: a bad one can end the process. Pure.

Format: mdb.c of LMDB 0.9, MDB_page and MDB_node; see preflight.py.

    page       header: pgno, pad:16, flags:16 (1 branch, 2 leaf, 4 overflow), lower:16, upper:16,
               where lower and upper are pages:32 in an overflow page; then offsets:16 of nodes up
               to lower; nodes from upper to the end
    node       lo:16 hi:16 flags:16 key_size:16 key, data
               branch: the child's number is lo | hi << 16 | flags << 32
               leaf: lo | hi << 16 bytes of data, which with flag 1 (big) are in overflow pages, and
               their first page's number in the node
    free list  a tree of its own: transaction -> count, then that many page numbers, descending

What holds for a good file: both trees are well-formed, in order and as large as their records say;
and each page up to the last is in exactly one of them, or in the free list exactly once.
"""

import struct
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from edge_agent.ring.layout import PAGE, LayoutError
from edge_agent.ring.preflight import META_PAGES, NO_PAGE, PAGE_HEADER, WORD, Database, Meta

_BRANCH, _LEAF, _OVERFLOW = 1, 2, 4
_BIG = 1
_MAX_DEPTH = 32
_NODE = struct.Struct("=HHHH")
_WORD = struct.Struct("=" + WORD)
_OVERFLOW_HEADER = struct.Struct(f"={WORD}HHI")
_HEADER = PAGE_HEADER.size
_KEY_BYTES = 8


def walk(read: Callable[[int, int], bytes], meta: Meta) -> None:
    """Look at all pages that belong to `meta`. Raises LayoutError for the first that is wrong.

    `read(offset, length)` reads from the file. Takes two bits a page, and a second for 160 MiB.
    """
    seen = bytearray(meta.last_page + 1)
    free = _Tree("free list", read, seen, sys.byteorder, _WORD.size)
    lists = [free.value(node) for node in free.nodes(meta.free)]
    main = _Tree("ring", read, seen, "big", _KEY_BYTES)
    for node in main.nodes(meta.main):
        if node.big:
            main.take_overflow(node)
    for data in lists:
        _take_free(data, seen)
    missing = seen.find(0, META_PAGES)
    if missing >= 0:
        raise LayoutError(f"page {missing} is neither used nor free")


@dataclass(slots=True)
class _Node:
    big: bool
    data: bytes
    length: int


@dataclass(slots=True)
class _Tree:
    name: str
    read: Callable[[int, int], bytes]
    seen: bytearray
    # Of the free list the keys are numbers of the machine, of the ring bytes.
    order: Literal["little", "big"]
    key_bytes: int
    branch: int = 0
    leaf: int = 0
    overflow: int = 0
    entries: int = 0
    last: int = -1

    def nodes(self, database: Database) -> Iterator[_Node]:
        """All leaf nodes in order; at the end the numbers have to be right."""
        if database.root != NO_PAGE:
            if not 1 <= database.depth <= _MAX_DEPTH:
                raise LayoutError(f"{self.name}: depth {database.depth}")
            yield from self._page(database.root, database.depth, -1, None)
        counted = (self.branch, self.leaf, self.overflow, self.entries)
        said = (
            database.branch_pages,
            database.leaf_pages,
            database.overflow_pages,
            database.entries,
        )
        if counted != said:
            raise LayoutError(f"{self.name}: has {counted} pages and entries instead of {said}")

    def _page(self, number: int, depth: int, low: int, high: int | None) -> Iterator[_Node]:
        _take(self.seen, number, self.name)
        page = self.read(number * PAGE, PAGE)
        if len(page) != PAGE:
            raise LayoutError(f"{self.name}: page {number} is missing")
        its_number, _, flags, lower, upper = PAGE_HEADER.unpack_from(page)
        expected = _LEAF if depth == 1 else _BRANCH
        if its_number != number or flags != expected:
            raise LayoutError(f"{self.name}: page {number} says {its_number}, flags {flags}")
        if not _HEADER <= lower <= upper <= PAGE or lower % 2:
            raise LayoutError(f"{self.name}: page {number} has bounds {lower}, {upper}")
        offsets = struct.unpack_from(f"={(lower - _HEADER) // 2}H", page, _HEADER)
        if not offsets or min(offsets) < upper or max(offsets) > PAGE - _NODE.size:
            raise LayoutError(f"{self.name}: page {number} has nodes out of bounds")
        self._check_packed(number, page, offsets, upper, leaf=depth == 1)
        if depth == 1:
            self.leaf += 1
            yield from self._leaf(number, page, offsets, low, high)
        else:
            self.branch += 1
            yield from self._branch(number, page, offsets, depth, low, high)

    def _check_packed(
        self, number: int, page: bytes, offsets: tuple[int, ...], upper: int, *, leaf: bool
    ) -> None:
        """Nodes lie side by side from `upper` to the end; LMDB moves them about trusting that.

        With it each of them ends where the page does, at the latest."""
        end = upper
        for offset in sorted(offsets):
            lo, hi, flags, key_size = _NODE.unpack_from(page, offset)
            size = _NODE.size + key_size
            if leaf:
                size += _WORD.size if flags & _BIG else lo | hi << 16
            if offset != end:
                raise LayoutError(f"{self.name}: page {number} has gaps or overlaps")
            end += size + size % 2
        if end != PAGE:
            raise LayoutError(f"{self.name}: page {number} has gaps or overlaps")

    def _branch(
        self,
        number: int,
        page: bytes,
        offsets: tuple[int, ...],
        depth: int,
        low: int,
        high: int | None,
    ) -> Iterator[_Node]:
        if len(offsets) < 2:
            raise LayoutError(f"{self.name}: branch page {number} has one child")
        children = []
        bounds = [low]
        for place, offset in enumerate(offsets):
            lo, hi, flags, key_size = _NODE.unpack_from(page, offset)
            children.append(lo | hi << 16 | flags << 32)
            if place:
                bounds.append(self._key(number, page, offset, key_size))
                if bounds[-1] <= bounds[-2]:
                    raise LayoutError(f"{self.name}: page {number} is out of order")
        for place, child in enumerate(children):
            above = bounds[place + 1] if place + 1 < len(bounds) else high
            yield from self._page(child, depth - 1, bounds[place], above)

    def _leaf(
        self, number: int, page: bytes, offsets: tuple[int, ...], low: int, high: int | None
    ) -> Iterator[_Node]:
        for offset in offsets:
            lo, hi, flags, key_size = _NODE.unpack_from(page, offset)
            key = self._key(number, page, offset, key_size)
            if key <= self.last or key < low:
                raise LayoutError(f"{self.name}: page {number} is out of order")
            length = lo | hi << 16
            if flags not in (0, _BIG):
                raise LayoutError(f"{self.name}: page {number} has a node with flags {flags}")
            start = offset + _NODE.size + key_size
            end = start + (_WORD.size if flags else length)
            self.last = key
            self.entries += 1
            yield _Node(bool(flags), page[start:end], length)
        if high is not None and self.last >= high:
            raise LayoutError(f"{self.name}: page {number} is out of order")

    def _key(self, number: int, page: bytes, offset: int, size: int) -> int:
        start = offset + _NODE.size
        if size != self.key_bytes:
            raise LayoutError(f"{self.name}: page {number} has a key of {size} bytes")
        return int.from_bytes(page[start : start + size], self.order)

    def take_overflow(self, node: _Node) -> int:
        """Mark the pages of a node's data as seen; the first."""
        first: int = _WORD.unpack(node.data)[0]
        count = (_HEADER - 1 + node.length) // PAGE + 1
        for number in range(first, first + count):
            _take(self.seen, number, self.name)
        header = self.read(first * PAGE, _HEADER)
        if len(header) != _HEADER:
            raise LayoutError(f"{self.name}: page {first} is missing")
        its_number, _, flags, pages = _OVERFLOW_HEADER.unpack(header)
        if (its_number, flags, pages) != (first, _OVERFLOW, count):
            raise LayoutError(f"{self.name}: page {first} says {its_number}, {flags}, {pages}")
        self.overflow += count
        return first

    def value(self, node: _Node) -> bytes:
        """A node's data, wherever it is."""
        if not node.big:
            return node.data
        data = self.read(self.take_overflow(node) * PAGE + _HEADER, node.length)
        if len(data) != node.length:
            raise LayoutError(f"{self.name}: a list is cut short")
        return data


def _take(seen: bytearray, number: int, name: str) -> None:
    if not META_PAGES <= number < len(seen):
        raise LayoutError(f"{name}: page {number} of {len(seen)}")
    if seen[number]:
        raise LayoutError(f"{name}: page {number} is used twice")
    seen[number] = 1


def _take_free(data: bytes, seen: bytearray) -> None:
    if not data or len(data) % _WORD.size:
        raise LayoutError("free list: a list is cut short")
    count, *numbers = struct.unpack(f"={len(data) // _WORD.size}{WORD}", data)
    if count != len(numbers):
        raise LayoutError(f"free list: {count} pages in a list of {len(numbers)}")
    previous = NO_PAGE
    for number in numbers:
        if number >= previous:
            raise LayoutError("free list: out of order")
        previous = number
        _take(seen, number, "free list")
