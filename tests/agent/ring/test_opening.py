"""Made, found, made larger and smaller, and in the way of nobody."""

import errno
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import lmdb
import pytest

from edge_agent.ring import opening as opening_module
from edge_agent.ring.layout import PAGE
from edge_agent.ring.opening import DATA, Opening, open_ring
from edge_agent.ring.record import NOTHING, QUEUE_FULL, RingError
from edge_agent.ring.store import Ring
from tests.agent.ring.model import BOOT, FLOORS, MIB, Model, check_pages, entry, open_small

NOBODY = 65534


def fill(ring: Ring, model: Model, commits: int, serial: int = 0) -> None:
    """Commits of 60 KB, to all queues in turn."""
    for number in range(serial, serial + commits):
        first = 10 * number
        appends = [(1 + number % 4, [entry(first + n, 10_000, items=3) for n in range(6)])]
        model.committed(appends, [], ring.commit(appends))


def test_a_new_ring_has_all_its_bytes_and_nobody_elses_eyes(ring_path: str) -> None:
    """Allocated, so that a full disk shows at the start; pages of 4 KiB on every kernel."""
    ring, opening = open_small(ring_path)
    assert opening == Opening(2 * MIB, created=True)
    data = os.stat(os.path.join(ring_path, DATA))
    assert data.st_size == 2 * MIB
    assert data.st_blocks * 512 >= 2 * MIB
    assert stat.S_IMODE(data.st_mode) == 0o600
    assert stat.S_IMODE(os.stat(ring_path).st_mode) == 0o700
    ring.commit([(1, [entry(1, 100)])])
    ring.close()
    assert sorted(os.listdir(ring_path)) == [DATA, "lock.mdb"]
    environment = lmdb.open(ring_path, map_size=2 * MIB, readonly=True)
    assert environment.stat()["psize"] == PAGE
    environment.close()


def test_what_a_cut_off_creation_or_resize_left_is_removed(ring_path: str) -> None:
    """It was never a ring."""
    os.makedirs(os.path.join(ring_path, "shrunk"))
    for name in ("data.mdb.new", "shrunk/data.mdb"):
        with open(os.path.join(ring_path, name), "wb") as file:
            file.write(b"half")
    ring, opening = open_small(ring_path)
    ring.close()
    assert opening.created
    assert not opening.moved_aside
    assert sorted(os.listdir(ring_path)) == [DATA, "lock.mdb"]


@pytest.mark.parametrize(("before", "after"), [(6, 2), (4, 3), (3, 2)])
def test_a_smaller_ring_keeps_the_newest_and_counts_the_rest(
    ring_path: str, before: int, after: int
) -> None:
    """Trimmed, copied together, and cut."""
    ring, _ = open_small(ring_path, before)
    model = Model()
    fill(ring, model, 180)
    ring.close()
    ring, opening = open_small(ring_path, after)
    assert (opening.max_bytes, opening.created, opening.reason) == (after * MIB, False, "")
    assert sum(totals.records for totals in opening.trimmed.values()) > 10
    model.trimmed(ring, opening.trimmed)
    model.reopened()
    model.check(ring)
    model.read_all(ring)
    assert 0.8 < ring.usage <= 1
    fill(ring, model, 60, 180)
    model.check(ring)
    assert ring.map_full == 0
    ring.close()
    assert os.path.getsize(os.path.join(ring_path, DATA)) == after * MIB
    assert sorted(os.listdir(ring_path)) == [DATA, "lock.mdb"]
    check_pages(ring_path)


def test_a_ring_that_fits_is_only_cut(ring_path: str) -> None:
    """Nothing is lost when the rest was never used."""
    ring, _ = open_small(ring_path, 6)
    model = Model()
    fill(ring, model, 5)
    ring.close()
    ring, opening = open_small(ring_path, 2)
    assert opening == Opening(2 * MIB)
    model.reopened()
    model.check(ring)
    model.read_all(ring)
    ring.close()
    check_pages(ring_path)


def test_a_larger_ring_loses_nothing(ring_path: str) -> None:
    """And holds more from then on."""
    ring, _ = open_small(ring_path)
    model = Model()
    fill(ring, model, 40)
    usage = ring.usage
    ring.close(clean=False)
    ring, opening = open_small(ring_path, 5)
    assert opening == Opening(5 * MIB, unclean=True)
    assert ring.usage < usage / 2
    model.reopened()
    dropped = ring.account(1).dropped[QUEUE_FULL]
    fill(ring, model, 20, 40)
    assert ring.account(1).dropped[QUEUE_FULL] == dropped
    model.check(ring)
    model.read_all(ring)
    ring.close()
    check_pages(ring_path)


def _full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    def statvfs(path: str) -> os.statvfs_result:
        return os.statvfs_result((PAGE, PAGE, 1000, 300, 300, 10, 10, 10, 0, 255))

    monkeypatch.setattr(opening_module.os, "statvfs", statvfs)


def test_no_room_is_said_before_any_is_taken(
    ring_path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With how much there is, how much is asked for, and what to do."""
    _full_disk(monkeypatch)
    with pytest.raises(RingError, match="1 MiB free, and a ring of 2 MiB") as error:
        open_small(ring_path)
    assert error.value.errno == errno.ENOSPC
    assert "BUFFER_MAX_SIZE" in error.value.remedy
    assert os.listdir(ring_path) == []


def test_no_room_beside_a_damaged_ring_says_what_to_remove(
    ring_path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """We do not: it may be worth something to somebody."""
    os.makedirs(ring_path)
    with open(os.path.join(ring_path, DATA), "wb") as file:
        file.write(b"?")
    _full_disk(monkeypatch)
    with pytest.raises(RingError, match="corrupt-") as error:
        open_small(ring_path)
    assert "remove" in error.value.remedy
    assert len(os.listdir(ring_path)) == 1


def test_no_room_to_grow_or_to_copy_leaves_the_size(
    ring_path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The agent runs with what it has, and says so."""
    ring, _ = open_small(ring_path, 4)
    model = Model()
    fill(ring, model, 100)
    ring.close()
    _full_disk(monkeypatch)
    for wanted in (6, 2):
        ring, opening = open_small(ring_path, wanted)
        assert opening.max_bytes == 4 * MIB
        assert opening.reason.startswith("keeps its size: ")
        assert sum(t.records for t in ring.totals().values()) > 10
        ring.close()
    check_pages(ring_path)


@contextmanager
def as_nobody() -> Iterator[None]:
    """Root may write anywhere: be somebody else."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(user)


def test_a_directory_that_may_not_be_written_is_an_error() -> None:
    """With the remedy."""
    # Not pytest's directory, which others may not look into.
    with tempfile.TemporaryDirectory() as parent:
        os.chmod(parent, 0o755)
        ring_path = os.path.join(parent, "ring")
        os.makedirs(ring_path, mode=0o555)
        with as_nobody(), pytest.raises(RingError) as error:
            open_small(ring_path)
    assert error.value.errno == errno.EACCES
    assert "BUFFER_PATH" in error.value.remedy


def test_a_path_that_is_no_directory_is_an_error(ring_path: str) -> None:
    """And not a traceback."""
    with open(ring_path, "wb") as file:
        file.write(b"")
    with pytest.raises(RingError) as error:
        open_small(ring_path)
    assert error.value.errno == errno.EEXIST


def test_a_disk_that_cannot_be_read_makes_room_for_another_ring(
    ring_path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bad sector is no reason to keep data in RAM alone for ever; other errors are reported."""
    ring, _ = open_small(ring_path)
    ring.commit([(1, [entry(1, 100)])])
    ring.close()
    real, number = os.pread, errno.EIO

    def pread(descriptor: int, length: int, offset: int) -> bytes:
        if offset >= 2 * PAGE:
            raise OSError(number, os.strerror(number))
        return real(descriptor, length, offset)

    monkeypatch.setattr(opening_module.os, "pread", pread)
    number = errno.ENOMEM
    with pytest.raises(RingError) as error:
        open_small(ring_path)
    assert error.value.errno == errno.ENOMEM
    number = errno.EIO
    ring, opening = open_small(ring_path)
    ring.close()
    assert "cannot be read" in opening.reason
    assert opening.moved_aside


def test_a_file_system_that_cannot_allocate_is_written_full(
    ring_path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some C libraries leave that to us."""

    def posix_fallocate(descriptor: int, offset: int, length: int) -> None:
        raise OSError(errno.EOPNOTSUPP, "no")

    monkeypatch.setattr(opening_module.os, "posix_fallocate", posix_fallocate)
    ring, _ = open_small(ring_path)
    model = Model()
    fill(ring, model, 10)
    ring.close()
    ring, _ = open_small(ring_path, 3)
    data = os.stat(os.path.join(ring_path, DATA))
    assert (data.st_size, data.st_blocks * 512 >= 3 * MIB) == (3 * MIB, True)
    model.reopened()
    model.read_all(ring)
    ring.close()
    check_pages(ring_path)


def test_wrong_arguments_are_our_mistake(ring_path: str) -> None:
    """The settings have their bounds already."""
    with pytest.raises(AssertionError):
        open_ring(ring_path, max_bytes=MIB, floors=FLOORS, boot_id=BOOT)
    with pytest.raises(AssertionError):
        open_ring(ring_path, max_bytes=2 * MIB, floors=FLOORS, boot_id=b"short")


def test_a_ring_with_nothing_in_it_has_nothing(ring_path: str) -> None:
    """Also found again."""
    for created in (True, False):
        ring, opening = open_small(ring_path)
        assert opening.created == created
        assert set(ring.totals().values()) == {NOTHING}
        assert ring.oldest(1) is None
        ring.close()
