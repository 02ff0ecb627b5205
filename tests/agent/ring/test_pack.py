"""Joining, deflating and cutting."""

import importlib
import random
import sys

import pytest

from edge_agent.ring import pack as pack_module
from edge_agent.ring.layout import (
    HEADER_BYTES,
    OPEN_BYTES,
    LayoutError,
    pack_entry,
    parse_payload,
)
from edge_agent.ring.pack import JOINED_BYTES, MAX_ENTRIES, Packed, Packer, describe, pack, unpack
from edge_agent.ring.record import Entry

MAX = 64 << 10
NOISE = random.Random(2).randbytes(400_000)


def noisy(size: int, at: int = 0) -> Entry:
    """One that does not deflate."""
    return Entry(NOISE[at : at + size], 1, size, 1, 1)


def plain(size: int) -> Entry:
    """One that deflates to nothing."""
    return Entry(b"a" * size, 1, size, 1, 1)


def cut(packer: Packer, entries: list[Entry]) -> list[Packed]:
    """All records that `entries` make."""
    records, at = [], 0
    while at < len(entries):
        packed = packer.next((), entries, at)
        assert packed is not None
        records.append(packed)
        at += len(packed.entries)
    assert at == len(entries)
    return records


def test_a_record_is_full_at_sixteen_kibibytes_on_disk() -> None:
    """Whatever the ratio: after a record or two the packer knows how much it takes."""
    body = NOISE[:300]
    entries = [Entry(body + b"%06d" % n * 50, 1, 600, 1, 1) for n in range(3000)]
    records = cut(Packer(MAX), entries)
    assert len(records) > 3
    for packed in records[:-1]:
        assert (
            OPEN_BYTES * 7 // 8 <= packed.length <= OPEN_BYTES * 5 // 4
            or packed.raw_length > JOINED_BYTES * 9 // 10
        )
    assert all(packed.deflated for packed in records)


def test_noise_is_stored_as_it_is() -> None:
    """Deflating it would make it larger."""
    packed = pack([(0, noisy(5000))])
    assert not packed.deflated
    assert packed.length == HEADER_BYTES + packed.raw_length


def test_a_record_never_becomes_too_large_by_joining() -> None:
    """A packer used to text that is given noise deflates again, with half of it."""
    packer = Packer(MAX)
    cut(packer, [plain(1000)] * 200)
    for packed in cut(packer, [noisy(20_000, at * 100) for at in range(12)]):
        assert packed.length <= MAX


def test_an_entry_that_is_too_large_comes_alone_and_too_large() -> None:
    """So that nothing else is refused with it."""
    records = cut(Packer(MAX), [plain(10), noisy(70_000), plain(10)])
    assert [packed.length > MAX for packed in records] == [False, True, False]
    assert len(records[1].entries) == 1


def test_a_large_entry_that_deflates_well_is_taken() -> None:
    """4 MiB is the largest request."""
    (packed,) = cut(Packer(MAX), [plain(4 << 20)])
    assert packed.length <= MAX
    assert not packed.is_open


def test_what_does_not_go_with_the_open_record_is_told() -> None:
    """By the size of the whole, or by the size on disk."""
    packer = Packer(MAX)
    opened = [(0, noisy(10_000))]
    assert packer.next(opened, [plain(300_000)], 0) is None
    assert packer.next(opened, [noisy(60_000, 9)], 0) is None
    packed = packer.next(opened, [plain(10)], 0)
    assert packed is not None
    assert [index for index, _ in packed.entries] == [0, 1]


def test_an_index_fits_its_sixteen_bits() -> None:
    """Of entries that take no room a record holds MAX_ENTRIES."""
    records = cut(Packer(1 << 20), [Entry(b"", 0, 0, 0, 0)] * (MAX_ENTRIES + 5))
    assert max(len(packed.entries) for packed in records) <= MAX_ENTRIES
    assert not records[0].is_open


def test_zlib_does_the_work_where_isal_has_no_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    """And either reads what the other wrote."""
    import zlib

    with_isal = pack([(0, plain(3000))])
    monkeypatch.setitem(sys.modules, "isal", None)
    other = importlib.util.module_from_spec(pack_module.__spec__)
    pack_module.__spec__.loader.exec_module(other)
    assert other._codec is zlib
    header = other.describe(
        with_isal, queue=1, position=1, sequence=1, boot_id=bytes(16), partial=False
    )
    assert other.unpack(header, with_isal.stored) == [(0, plain(3000))]


def test_bodies_of_one_template_are_kept_as_what_changes_between_them() -> None:
    """And come back as they were, whatever is before and between them."""
    chance = random.Random(3)
    template = bytearray(chance.randbytes(4000))
    bodies = [b"", chance.randbytes(4000)]
    for at in range(10):
        template[100 * at : 100 * at + 8] = chance.randbytes(8)
        bodies.append(bytes(template))
    bodies += [chance.randbytes(4000), b"short", bytes(template)]
    numbered = [(at, Entry(body, 1, len(body), at, at)) for at, body in enumerate(bodies)]
    packed = pack(numbered)
    header = describe(packed, queue=1, position=1, sequence=1, boot_id=bytes(16), partial=False)
    assert unpack(header, packed.stored) == numbered
    # Four bodies of noise, and ten times eight bytes.
    assert packed.length < 4 * 4000 + 10 * 100


def test_changes_to_a_body_of_another_length_are_damage() -> None:
    """The first of a record has none before it."""
    raw = pack_entry(0, Entry(b"abc", 1, 3, 1, 1), changes=True) + b"abc"
    with pytest.raises(LayoutError, match="another length"):
        list(parse_payload(raw))
