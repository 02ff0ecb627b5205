"""What the model test does not come across: readers that hold on, and bad records."""

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from edge_agent.ring import layout
from edge_agent.ring.opening import DATA
from edge_agent.ring.record import CORRUPT, NOTHING, QUEUE_FULL, Ack, Ref, RingError, Totals
from edge_agent.ring.store import Ring
from tests.agent.ring.model import BOOT, FLOORS, MIB, Model, check_pages, entry, open_small

_READER = """
import lmdb, sys
environment = lmdb.open(sys.argv[1], map_size=2 << 20, readonly=True)
with environment.begin() as txn:
    txn.stat()
    print(flush=True)
    sys.stdin.read()
"""


@contextmanager
def reader(path: str) -> Iterator[subprocess.Popen[bytes]]:
    """Another process that has a read transaction open."""
    arguments = [sys.executable, "-c", _READER, path]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"\n"
        yield process


def fill(ring: Ring, model: Model, serial: int) -> int:
    """One commit of 40 KB."""
    appends = [(1 + serial % 4, [entry(serial + n, 10_000) for n in range(4)])]
    model.committed(appends, [], ring.commit(appends))
    return serial + 4


def test_a_reader_that_holds_on_is_an_error_and_costs_no_data(ring_path: str) -> None:
    """Pages cannot be used again while it reads: nothing is dropped for room that is not there."""
    ring, _ = open_small(ring_path)
    model = Model()
    serial = 0
    for _ in range(60):
        serial = fill(ring, model, serial)
    with reader(ring_path):
        for _ in range(200):
            try:
                serial = fill(ring, model, serial)
            except RingError as error:
                refused = error
                break
        else:
            pytest.fail("the reader was in nobody's way")
        assert refused.errno == errno.EBUSY
        assert "otel-agent buffer" in refused.remedy
        model.check(ring)
        # A group that takes several transactions does not drop in the first for nothing.
        with pytest.raises(RingError, match="being read"):
            ring.commit([(1, [entry(serial + n, 50_000) for n in range(20)])])
        model.check(ring)
        model.read_all(ring)
    for _ in range(60):
        serial = fill(ring, model, serial)
    model.check(ring)
    assert ring.map_full == 0
    ring.close()
    check_pages(ring_path)


def test_a_reader_that_was_killed_is_in_nobodys_way(ring_path: str) -> None:
    """Its slot in lock.mdb is cleared when room is short."""
    ring, _ = open_small(ring_path)
    model = Model()
    serial = fill(ring, model, 0)
    with reader(ring_path) as process:
        process.kill()
        process.wait()
    for _ in range(200):
        serial = fill(ring, model, serial)
    model.check(ring)
    assert ring.map_full == 0
    ring.close()


def test_a_map_that_is_full_against_all_budgets_grows_into_its_slack(ring_path: str) -> None:
    """Nothing but growing frees a full map: there are 256 KiB for that, and they are counted."""
    ring, _ = open_small(ring_path)
    # As if the budget were wrong: no reserve at all.
    ring._budget = replace(ring._budget, budget=ring._budget.map_bytes // layout.PAGE)
    model = Model()
    serial = 0
    for _ in range(200):
        serial = fill(ring, model, serial)
    assert ring.map_full > 0
    model.check(ring)
    ring.close()
    assert os.path.getsize(os.path.join(ring_path, DATA)) == 2 * MIB


def test_a_map_that_stays_full_is_an_error(ring_path: str) -> None:
    """And not a loop."""
    ring, _ = open_small(ring_path)
    ring._budget = replace(ring._budget, budget=1000, group_bytes=8 * MIB)
    with pytest.raises(RingError, match="beyond its budget") as error:
        ring.commit([(1, [entry(n, 50_000) for n in range(60)])])
    assert error.value.errno == errno.ENOSPC
    assert ring.totals()[1] == NOTHING
    ring.commit([(1, [entry(1, 100)])])
    assert ring.totals()[1].entries == 1
    ring.close()


def test_the_open_record_can_be_the_one_that_is_dropped(ring_path: str) -> None:
    """A queue without a floor beside one that owns everything loses what it has just begun."""
    ring, _ = open_small(ring_path, floors={1: 1.0, 2: 0.0})
    serial = 0
    while ring.usage < 0.97:
        serial += 1
        ring.commit([(1, [entry(serial, 3000)] * 5)])
    while ring._used < ring._budget.budget - 10:
        serial += 1
        ring.commit([(1, [entry(serial, 500)])])
    assert ring.commit([(2, [entry(1, 100)])]).lost == []
    lost, *others = ring.commit([(2, [entry(2, 9000)])]).lost
    assert all(one.queue == 1 for one in others)
    assert (lost.queue, lost.position, lost.reason, lost.entries) == (2, 0, QUEUE_FULL, 1)
    record = ring.read(2, newest=True)
    assert record is not None
    assert record.entries == (entry(2, 9000),)
    ring.close()
    check_pages(ring_path)


def _fill_with_tiny_records(ring: Ring) -> int:
    """A ring full of records of which forty together take two pages; how many there are."""
    serial = 0
    while ring.usage < 0.9:
        serial += 1
        ring.commit([(1, [entry(serial, 100)])])
        ring.read(1, newest=True)
    return ring.totals()[1].records


def test_room_is_made_in_several_transactions_where_records_are_tiny(ring_path: str) -> None:
    """What one transaction may delete is bounded, and the group waits for the next."""
    ring, _ = open_small(ring_path, floors={1: 0.0, 2: 1.0})
    records = _fill_with_tiny_records(ring)
    lost = []
    for number in range(6):
        lost += ring.commit([(2, [entry(number, 50_000)])]).lost
    assert [one.position for one in lost] == list(range(len(lost)))
    assert 300 < len(lost) < records
    assert ring.totals()[2].entries == 6
    ring.close()
    check_pages(ring_path)


def test_tiny_records_are_not_dropped_for_nothing_while_somebody_reads(ring_path: str) -> None:
    """Their transaction would succeed, and the one that needs the room fail."""
    ring, _ = open_small(ring_path, floors={1: 0.0, 2: 1.0})
    _fill_with_tiny_records(ring)
    with reader(ring_path):
        number = 1
        while ring._used < ring._budget.budget - 20:
            # No two alike: those would be a record that is written again and again.
            ring.commit([(2, [entry(number, 10_000)])])
            number += 1
        before = ring.account(1)
        with pytest.raises(RingError, match="being read") as error:
            ring.commit([(2, [entry(2, 60_000)])])
    assert error.value.errno == errno.EBUSY
    assert ring.account(1) == before
    ring.commit([(2, [entry(9, 50_000)])])
    ring.close()
    check_pages(ring_path)


def test_many_damaged_records_are_counted_in_several_transactions(ring_path: str) -> None:
    """And none twice."""
    ring, _ = open_small(ring_path)
    for number in range(60):
        ring.commit([(1, [entry(number, 1000)])])
        ring.read(1, newest=True)
    for position in range(60):
        _damage_record(ring, 1, position, 0, 90)
    assert ring.read(1, newest=True) is None
    lost = ring.commit([], []).lost
    assert sorted(one.position for one in lost) == list(range(60))
    assert ring.account(1).dropped[CORRUPT].entries == 60
    assert ring.totals()[1] == NOTHING
    ring.close()
    check_pages(ring_path)


def _damage_record(ring: Ring, queue: int, position: int, chunk: int, place: int) -> None:
    with ring._open().begin(write=True) as txn:
        key = layout.key(queue, position, chunk)
        data = bytearray(txn.get(key))
        data[place] ^= 1
        txn.put(key, bytes(data))


def _three_records(ring: Ring) -> list[Totals]:
    totals = []
    for number in range(3):
        ring.commit([(1, [entry(10 * number + n, 6000, items=number + 1) for n in range(3)])])
        totals.append(ring.account(1).live - sum(totals, NOTHING))
    assert [total.records for total in totals] == [1, 1, 1]
    return totals


@pytest.mark.parametrize(
    ("chunk", "place"), [(0, 30), (0, 90), (2, 5)], ids=["header", "payload", "last chunk"]
)
@pytest.mark.parametrize("how", ["read", "acked", "partly acked"])
def test_a_damaged_record_is_skipped_and_counted(
    ring_path: str, chunk: int, place: int, how: str
) -> None:
    """To the item, also where its header cannot say any more how many it had."""
    ring, _ = open_small(ring_path)
    totals = _three_records(ring)
    _damage_record(ring, 1, 1, chunk, place)
    acks = []
    match how:
        case "read":
            first = ring.read(1, newest=False)
            assert first is not None
            second = ring.read(1, newest=False, skip={first.position})
            assert second is not None
            assert [first.position, second.position] == [0, 2]
            assert ring.wants_commit
        case "acked":
            acks = [Ack(1, 1)]
        case "partly acked":
            acks = [Ack(1, 1, frozenset({0}))]
    committed = ring.commit([], acks)
    assert not ring.wants_commit
    account = ring.account(1)
    if how == "acked" and place != 30:
        # Nobody wants it any more, and its header can tell what goes.
        assert account.acked == totals[1]
        assert not committed.lost
    else:
        assert account.dropped[CORRUPT] == totals[1]
        (lost,) = committed.lost
        assert (lost.queue, lost.position, lost.reason) == (1, 1, CORRUPT)
        assert (lost.entries, lost.items, lost.bytes) == (3, totals[1].items, totals[1].bytes)
    assert account.live == totals[0] + totals[2]
    ring.close()
    check_pages(ring_path)


def test_a_record_without_its_beginning_is_counted(ring_path: str) -> None:
    """Its other chunks are found, and go."""
    ring, _ = open_small(ring_path)
    totals = _three_records(ring)
    with ring._open().begin(write=True) as txn:
        txn.delete(layout.key(1, 0, 0))
    assert ring.oldest(1).unix_nano == entry(10, 6000).unix_nano
    committed = ring.commit([], [Ack(1, 0)])
    assert [lost.items for lost in committed.lost] == [totals[0].items]
    assert ring.account(1).live == totals[1] + totals[2]
    ring.close()
    check_pages(ring_path)


def test_a_damaged_record_is_dropped_like_any_other_when_it_is_the_oldest(ring_path: str) -> None:
    """Room is made also where the header does not say how much there is."""
    ring, _ = open_small(ring_path)
    _three_records(ring)
    _damage_record(ring, 1, 0, 0, 30)
    lost = []
    serial = 100
    while not any(one.position == 1 for one in lost):
        serial += 1
        lost += ring.commit([(1, [entry(serial, 30_000)])]).lost
    assert [(one.position, one.reason, one.entries) for one in lost[:2]] == [
        (0, CORRUPT, 3),
        (1, QUEUE_FULL, 3),
    ]
    ring.close()
    check_pages(ring_path)


def test_records_that_are_gone_without_a_trace_are_counted_when_room_is_made(
    ring_path: str,
) -> None:
    """What the state has and the tree has not is corrupt, not live for ever."""
    ring, _ = open_small(ring_path, floors={1: 0.0, 2: 1.0})
    ring.commit([(1, [entry(1, 60_000)])])
    with ring._open().begin(write=True) as txn:
        for chunk in range(20):
            txn.delete(layout.key(1, 0, chunk))
    serial = 100
    while ring.totals()[1].records:
        serial += 1
        ring.commit([(2, [entry(serial, 30_000)])])
    assert ring.account(1).dropped[CORRUPT].entries == 1
    assert ring.account(1).stored_bytes == 0
    ring.close()


def test_a_damaged_open_record_is_not_appended_to(ring_path: str) -> None:
    """What comes next is safe in a record of its own."""
    ring, _ = open_small(ring_path)
    ring.commit([(1, [entry(1, 100)])])
    _damage_record(ring, 1, 0, 0, 90)
    committed = ring.commit([(1, [entry(2, 100)])])
    assert committed.placed == [[Ref(1, 0)]]
    record = ring.read(1, newest=False)
    assert record is not None
    assert record.entries == (entry(2, 100),)
    ring.close()


def test_a_state_that_is_damaged_under_the_agent_is_an_error(ring_path: str) -> None:
    """Found when the ring is opened again after another fault."""
    ring, _ = open_small(ring_path)
    ring.commit([(1, [entry(1, 100)])])
    environment = ring._open()
    with environment.begin(write=True) as txn:
        txn.put(layout.STATE_KEY, b"?")
    environment.close()
    with pytest.raises(RingError, match="state record"):
        ring.commit([(1, [entry(2, 100)])])


def test_a_queue_that_the_ring_was_not_opened_with_is_our_mistake(ring_path: str) -> None:
    """Not the disk's; acknowledging what cannot be there does no harm."""
    ring, _ = open_small(ring_path)
    with pytest.raises(KeyError):
        ring.commit([(7, [entry(1, 100)])])
    assert ring.commit([], [Ack(7, 0)]).acked == 1
    assert ring.read(7, newest=True) is None
    ring.close()


def test_queues_that_are_no_longer_named_are_kept(ring_path: str) -> None:
    """A destination that is not configured today may be tomorrow."""
    ring, _ = open_small(ring_path)
    ring.commit([(4, [entry(1, 100)])])
    ring.close()
    ring, _ = open_small(ring_path, floors={1: 0.5})
    assert ring.totals()[4].entries == 1
    record = ring.read(4, newest=True)
    assert record is not None
    ring.commit([(4, [entry(2, 100)])], [Ack(4, record.position)])
    assert ring.account(4).acked.entries == 1
    ring.close()


def test_the_last_queue_has_no_next(ring_path: str) -> None:
    """255 is read from the end of the file."""
    ring, _ = open_small(ring_path, floors={254: 0.5, 255: 0.5})
    ring.commit([(254, [entry(1, 100)]), (255, [entry(2, 100), entry(3, 5000)])])
    for queue, newest in ((254, True), (255, True), (255, False)):
        record = ring.read(queue, newest=newest)
        assert record is not None
        assert record.queue == queue
    assert ring.read(255, newest=True, skip={0}) is None
    ring.close()


def test_nothing_to_do_writes_nothing(ring_path: str) -> None:
    """A healthy link costs no flash: not when opening, not when closing."""
    ring, _ = open_small(ring_path)
    data = os.path.join(ring_path, DATA)
    before = os.stat(data).st_mtime_ns
    assert ring.commit([], []).placed == []
    assert ring.read(1, newest=True) is None
    ring.close()
    ring, _ = open_small(ring_path)
    ring.close()
    assert os.stat(data).st_mtime_ns == before


def test_unclean_ends_are_counted(ring_path: str) -> None:
    """For life; a run that changed nothing has no end to speak of."""
    ring, _ = open_small(ring_path)
    ring.commit([(1, [entry(1, 100)])])
    for count in (1, 2):
        ring.close(clean=False)
        ring, opening = open_small(ring_path)
        assert opening.unclean
        assert ring.unclean_starts == count
    ring.close()
    ring, opening = open_small(ring_path)
    assert not opening.unclean
    ring.close(clean=False)
    ring, opening = open_small(ring_path)
    assert not opening.unclean
    ring.close()


def test_the_numbers_say_how_full_it_is(ring_path: str) -> None:
    """0 when empty; about 1 from the first drop on; bytes on disk for a byte of payload."""
    ring, _ = open_small(ring_path)
    assert (ring.usage, ring.ratio) == (0.0, 1.0)
    ring.commit([(1, [entry(1, 50_000, noisy=False)])])
    assert 0 < ring.ratio < 0.05
    last = ring.ratio
    ring.commit([], [Ack(1, 0)])
    assert ring.ratio == last
    serial, lost = 1, []
    while not lost:
        before = ring.usage
        serial += 1
        lost = ring.commit([(1, [entry(serial, 10_000)])]).lost
    assert before > 0.95
    assert ring.usage > 0.95
    assert sum(ring.account(q).stored_bytes for q in FLOORS) > 0.95 * ring.capacity_bytes
    ring.close()


def _written_by(commits: int, ring: Ring) -> int:
    """Bytes that this process writes for that many commits of 40 KB."""

    def written() -> int:
        with open("/proc/self/io") as io:
            return int(dict(line.split(": ") for line in io)["wchar"])

    before = written()
    for number in range(commits):
        ring.commit([(1 + number % 4, [entry(4 * number + n, 10_000) for n in range(4)])])
    return written() - before


def test_the_work_of_a_commit_does_not_grow_with_the_ring(tmp_path: os.PathLike[str]) -> None:
    """A full ring four times as large: as many bytes a commit, drops included."""
    per_ring = []
    for mib in (4, 16):
        ring, _ = open_small(os.path.join(tmp_path, str(mib)), mib)
        while not ring.account(1).dropped[QUEUE_FULL].records:
            _written_by(20, ring)
        per_ring.append(_written_by(100, ring))
        ring.close()
    small, large = per_ring
    assert large < 1.25 * small


def test_bodies_of_one_source_take_a_tenth(ring_path: str) -> None:
    """The open record: twenty commits of one request each, and one record."""
    ring, _ = open_small(ring_path)
    body = os.urandom(1500) + b"x" * 4500
    for number in range(20):
        ring.commit([(1, [replace(entry(number, 0), body=body + b"%04d" % number, size=6000)])])
    account = ring.account(1)
    assert (account.live.records, account.live.entries) == (1, 20)
    assert account.stored_bytes < 20 * 6000 / 10
    record = ring.read(1, newest=True)
    assert record is not None
    assert record.boot_id == BOOT
    assert [one.body[-4:] for one in record.entries] == [b"%04d" % n for n in range(20)]
    ring.close()
