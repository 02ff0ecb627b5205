"""What LMDB must not see is refused by its first fault."""

import os
import struct
from collections.abc import Callable

import lmdb
import pytest

from edge_agent.ring import pages, preflight
from edge_agent.ring.layout import PAGE, LayoutError
from edge_agent.ring.opening import DATA
from edge_agent.ring.preflight import META_PAGES, NO_PAGE
from tests.agent.ring.model import MIB, entry, open_small

BRANCH, LEAF, OVERFLOW = 1, 2, 4


class File:
    """A file in memory, and how to find things in it."""

    def __init__(self, data: bytes) -> None:
        self.data = bytearray(data)

    def read(self, offset: int, length: int) -> bytes:
        return bytes(self.data[offset : offset + length])

    def walk(self) -> None:
        pages.walk(self.read, preflight.check(self.read, len(self.data)))

    def meta_at(self) -> int:
        meta = preflight.check(self.read, len(self.data))
        return next(n * PAGE for n, m in enumerate(preflight.read_metas(self.read)) if m == meta)

    def pages(self, flags: int) -> list[int]:
        """Where the pages of a kind that are in use begin."""
        meta = preflight.check(self.read, len(self.data))
        seen = bytearray(meta.last_page + 1)
        tree = pages._Tree("ring", self.read, seen, "big", 8)
        for node in tree.nodes(meta.main):
            if node.big:
                tree.take_overflow(node)
        return [
            number * PAGE
            for number in range(META_PAGES, meta.last_page + 1)
            if seen[number] and self.data[number * PAGE + 10] == flags
        ]

    def page(self, flags: int) -> int:
        return self.pages(flags)[0]

    def small(self) -> int:
        """A leaf that begins with a node that has its data in it."""
        return next(page for page in self.pages(LEAF) if not self.get(_node(self, page) + 4, "H"))

    def add(self, at: int, layout: str, number: int) -> None:
        self.put(at, layout, self.get(at, layout) + number)

    def put(self, at: int, layout: str, *numbers: int) -> None:
        struct.pack_into("=" + layout, self.data, at, *numbers)

    def get(self, at: int, layout: str) -> int:
        number: int = struct.unpack_from("=" + layout, self.data, at)[0]
        return number


@pytest.fixture(scope="module")
def good() -> bytes:
    """A ring with branches, leaves, overflow pages and a free list."""
    import shutil
    import tempfile

    directory = tempfile.mkdtemp()
    ring, _ = open_small(directory, 4)
    for number in range(60):
        small = [entry(100 * number + n, 60) for n in range(3)]
        ring.commit([(1 + number % 4, [*small, entry(100 * number + 9, 16_000)])])
    for number in range(300):
        ring.commit([(1, [entry(10_000 + number, 100)])])
        ring.read(1, newest=True)
    ring.close()
    with open(os.path.join(directory, DATA), "rb") as file:
        data = file.read()
    shutil.rmtree(directory)
    return data


def test_a_good_file_is_good(good: bytes) -> None:
    """With all kinds of pages in it."""
    file = File(good)
    file.walk()
    for flags in (BRANCH, LEAF, OVERFLOW):
        assert file.page(flags)


# Offsets in a page header, in a node, and in the databases of a meta page; see pages.py.
NUMBER, FLAGS, LOWER, UPPER, NODES = 0, 10, 12, 14, 16
MAIN = 16 + 24 + 48


def _node(file: File, page: int, place: int = 0) -> int:
    return page + file.get(page + NODES + 2 * place, "H")


def _two_nodes_swapped(file: File, page: int) -> None:
    first, second = file.get(page + NODES + 2, "H"), file.get(page + NODES + 4, "H")
    file.put(page + NODES + 2, "HH", second, first)


def _one_child(file: File) -> None:
    branch = file.page(BRANCH)
    node = bytes(file.data[_node(file, branch) : _node(file, branch) + 8])
    assert node[6:] == bytes(2)
    file.put(branch + LOWER, "HHH", 18, PAGE - 8, PAGE - 8)
    file.data[branch + PAGE - 8 : branch + PAGE] = node


def _separator_too_low(file: File) -> None:
    """The last key before it becomes the key that separates."""
    branch = file.page(BRANCH)
    child = file.get(_node(file, branch), "H") * PAGE
    last = _node(file, child, (file.get(child + LOWER, "H") - NODES) // 2 - 1)
    separator = _node(file, branch, 1) + 8
    file.data[separator : separator + 8] = file.data[last + 8 : last + 16]


def _child_twice(file: File) -> None:
    branch = file.page(BRANCH)
    file.put(
        _node(file, branch, 1), "HHH", *struct.unpack_from("=HHH", file.data, _node(file, branch))
    )


def _free_page(file: File, number: int) -> None:
    """Change the number of a page in the free list."""
    meta = preflight.check(file.read, len(file.data))
    leaf = meta.free.root * PAGE
    last = _node(file, leaf, (file.get(leaf + LOWER, "H") - NODES) // 2 - 1)
    assert file.get(last + 16, "Q") > 1
    file.put(last + 24, "Q", number)


DAMAGE: dict[str, tuple[Callable[[File], None], str]] = {
    "number": (lambda f: f.put(f.page(LEAF) + NUMBER, "Q", 7), "says 7"),
    "flags": (lambda f: f.put(f.page(LEAF) + FLAGS, "H", 18), "flags 18"),
    "lower": (lambda f: f.put(f.page(LEAF) + LOWER, "H", 14), "bounds"),
    "odd lower": (lambda f: f.put(f.page(LEAF) + LOWER, "H", 19), "bounds"),
    "upper": (lambda f: f.put(f.page(LEAF) + UPPER, "H", 5000), "bounds"),
    "no nodes": (lambda f: f.put(f.page(LEAF) + LOWER, "H", 16), "out of bounds"),
    "node beyond": (lambda f: f.put(f.page(LEAF) + NODES, "H", 4095), "out of bounds"),
    "node before": (lambda f: f.put(f.page(LEAF) + NODES, "H", 10), "out of bounds"),
    "node twice": (lambda f: f.add(f.page(LEAF) + NODES, "H", -2), "overlaps"),
    "gap": (lambda f: f.add(_node(f, f.small()), "H", 2), "gaps"),
    "node flags": (lambda f: f.put(_node(f, f.small()) + 4, "H", 4), "flags 4"),
    "key size": (lambda f: f.put(_node(f, f.page(LEAF)) + 6, "H", 6), "overlaps|key of 6"),
    "leaf order": (lambda f: _two_nodes_swapped(f, f.page(LEAF)), "out of order"),
    "branch order": (lambda f: _two_nodes_swapped(f, f.page(BRANCH)), "out of order"),
    "separator": (lambda f: f.put(_node(f, f.page(BRANCH), 1) + 15, "B", 255), "out of order"),
    "separator too low": (_separator_too_low, "out of order"),
    "one child": (_one_child, "one child"),
    "child twice": (_child_twice, "used twice|out of order"),
    "child beyond": (lambda f: f.put(_node(f, f.page(BRANCH), 0), "HHH", 0, 9, 0), "of "),
    "overflow number": (lambda f: f.put(f.page(OVERFLOW), "Q", 9), "says 9"),
    "overflow pages": (lambda f: f.put(f.page(OVERFLOW) + 12, "I", 2), "says"),
    "free twice": (lambda f: _free_page(f, f.page(LEAF) // PAGE), "used twice|out of order"),
    "free beyond": (lambda f: _free_page(f, 1 << 40), "out of order|of "),
    "depth": (lambda f: f.put(f.meta_at() + MAIN + 6, "H", 1), "flags 1"),
    "depth 0": (lambda f: f.put(f.meta_at() + MAIN + 6, "H", 0), "depth 0"),
    "entries": (lambda f: f.put(f.meta_at() + MAIN + 32, "Q", 3), "instead of"),
    "leaf pages": (lambda f: f.put(f.meta_at() + MAIN + 16, "Q", 3), "instead of"),
    "no root": (lambda f: f.put(f.meta_at() + MAIN + 40, "Q", NO_PAGE), "instead of"),
    "root": (lambda f: f.put(f.meta_at() + MAIN + 40, "Q", 1), "page 1 of"),
    "last page": (lambda f: f.add(f.meta_at() + MAIN + 48, "Q", 1), "neither"),
}  # fmt: skip


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_fault_is_found_and_named(good: bytes, kind: str) -> None:
    """One damage each; none may pass."""
    change, message = DAMAGE[kind]
    file = File(good)
    change(file)
    with pytest.raises(LayoutError, match=message):
        file.walk()


META: dict[str, tuple[Callable[[File], None], str]] = {
    "magic": (lambda f: f.put(16, "I", 1), "not an LMDB file"),
    "no meta flag": (lambda f: f.put(10, "H", 2), "not an LMDB file"),
    "version": (lambda f: f.put(20, "I", 999), "another version"),
    "number": (lambda f: f.put(PAGE, "Q", 0), "header 1 is damaged"),
    "page size": (lambda f: f.put(40, "I", 16384), "pages of 16384 bytes"),
    "flags": (lambda f: f.put(PAGE + 44, "H", 9), "plain database"),
    "main flags": (lambda f: f.put(PAGE + MAIN + 4, "H", 4), "plain database"),
    "parity": (lambda f: f.put(MAIN + 56, "Q", f.get(MAIN + 56, "Q") + 1), "is of transaction"),
    "first page": (lambda f: f.put(MAIN + 48, "Q", 0), "before the first page"),
}


@pytest.mark.parametrize("kind", META)
def test_a_header_that_is_not_ours_is_named(good: bytes, kind: str) -> None:
    """Either of the two: LMDB writes them in turn."""
    change, message = META[kind]
    file = File(good)
    change(file)
    with pytest.raises(LayoutError, match=message):
        file.walk()


def test_a_file_that_ends_too_early_is_refused(good: bytes) -> None:
    """By its own last page; and by its headers, if it has not even those."""
    meta = preflight.check(File(good).read, len(good))
    with pytest.raises(LayoutError, match="cut short"):
        preflight.check(File(good).read, meta.used_bytes - 1)
    with pytest.raises(LayoutError, match="shorter than two headers"):
        preflight.check(File(good[:PAGE]).read, PAGE)
    # A file that shrinks while it is looked at.
    for length in (meta.used_bytes // 2, 3 * PAGE):
        with pytest.raises(LayoutError, match="missing"):
            pages.walk(File(good[:length]).read, meta)


@pytest.mark.parametrize("length", [16, None], ids=["header", "list"])
def test_an_overflow_page_that_cannot_be_read_is_refused(good: bytes, length: int | None) -> None:
    """A file that shrinks just then."""
    file = File(good)
    meta = preflight.check(file.read, len(good))

    def read(offset: int, wanted: int) -> bytes:
        found = file.read(offset, wanted)
        overflow = offset == file.page(OVERFLOW) and wanted == 16
        return b"" if overflow and length == wanted else found

    if length is not None:
        with pytest.raises(LayoutError, match="is missing"):
            pages.walk(read, meta)
    else:
        tree = pages._Tree(
            "free list",
            lambda at, n: file.read(at, min(n, 16)),
            bytearray(meta.last_page + 1),
            "big",
            8,
        )
        node = pages._Node(True, struct.pack("=Q", file.page(OVERFLOW) // PAGE), 4000)
        with pytest.raises(LayoutError, match="cut short"):
            tree.value(node)


def test_the_template_is_what_lmdb_makes_of_it(tmp_path: os.PathLike[str]) -> None:
    """LMDB opens it, keeps its page size, and finds nothing in it; so do we."""
    data = os.path.join(tmp_path, DATA)
    with open(data, "wb") as file:
        file.write(preflight.template(MIB).ljust(MIB, b"\0"))
    meta = preflight.check(File(preflight.template(MIB)).read, MIB)
    assert (meta.map_bytes, meta.last_page, meta.transaction) == (MIB, 1, 0)
    File(preflight.template(MIB)).walk()
    environment = lmdb.open(os.fspath(tmp_path), map_size=MIB)
    assert (environment.stat()["psize"], environment.stat()["entries"]) == (PAGE, 0)
    environment.close()


def test_a_free_list_too_long_for_a_leaf_is_walked(tmp_path: os.PathLike[str]) -> None:
    """Not one of ours, which are bounded; but of a ring that was trimmed by LMDB's own tools."""
    directory = os.fspath(tmp_path)
    data = os.path.join(directory, DATA)
    with open(data, "wb") as file:
        file.write(preflight.template(16 * MIB))
    environment = lmdb.open(directory, map_size=16 * MIB)
    with environment.begin(write=True) as txn:
        for number in range(2000):
            txn.put(struct.pack(">Q", number), bytes(4080))
    with environment.begin(write=True) as txn:
        for number in range(1900):
            txn.delete(struct.pack(">Q", number))
    environment.close()
    with open(data, "rb") as file:
        found = File(file.read())
    found.walk()
    lists = [
        page
        for page in range(2, len(found.data) // PAGE)
        if found.get(page * PAGE + 12, "I") == 4 and found.data[page * PAGE + 10] == OVERFLOW
    ]
    assert lists, "no list of several pages"
    found.put(lists[-1] * PAGE + 16, "Q", 3)
    with pytest.raises(LayoutError, match="free list: 3 pages in a list of"):
        found.walk()
    with pytest.raises(LayoutError, match="a list is cut short"):
        pages._take_free(b"123", bytearray(10))
    with pytest.raises(LayoutError, match="out of order"):
        pages._take_free(struct.pack("=QQQ", 2, 4, 5), bytearray(10))
