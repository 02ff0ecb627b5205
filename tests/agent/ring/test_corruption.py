"""A damaged or foreign file is moved aside and reported, or its record is skipped and counted.

Never a signal, never a hang, never a wrong byte: each case runs in a process of its own.
The long form runs under `make torture`.
"""

import os
import random
import signal
import traceback
import zlib
from collections.abc import Callable, Iterator

import lmdb
import lmdb.verify
import pytest

from edge_agent.ring.layout import PAGE, STATE_KEY, LayoutError, State, pack_state
from edge_agent.ring.opening import DATA, check_file
from edge_agent.ring.record import CORRUPT, NOTHING
from tests.agent.ring.model import FLOORS, MIB, check_pages, entry, open_small
from tests.agent.ring.writer import check, check_entry, numbered, step

FINE, ASIDE, COUNTED = 10, 11, 12


def _use(path: str) -> int:
    """What a process does with a file that may be damaged; which of the three it was."""
    ring, opening = open_small(path)
    if opening.moved_aside:
        assert opening.reason
        assert opening.created
        assert DATA in os.listdir(opening.moved_aside)
        ring.commit([(1, [numbered(1, 0, 100)])])
        check(ring)
        ring.close()
        check_pages(path)
        return ASIDE
    read = dict.fromkeys(FLOORS, 0)
    for queue in FLOORS:
        skip: set[int] = set()
        while (record := ring.read(queue, newest=False, skip=skip)) is not None:
            skip.add(record.position)
            for index, one in zip(record.indexes, record.entries, strict=True):
                check_entry(queue, record.sequence + index, one)
                read[queue] += 1
    damaged = ring.wants_commit
    committed = ring.commit([], [])
    assert bool(committed.lost) == damaged
    for queue in FLOORS:
        account = ring.account(queue)
        assert account.live.entries == read[queue]
        corrupt = account.dropped.get(CORRUPT, NOTHING)
        assert corrupt.entries == sum(o.entries for o in committed.lost if o.queue == queue)
    rng = random.Random(1)
    for _ in range(12):
        step(ring, rng)
    check(ring)
    ring.close()
    check_pages(path)
    return COUNTED if damaged else FINE


def _used(path: str) -> int:
    """`_use` in a process of its own."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            signal.alarm(20)
            code = _use(path)
        except BaseException:  # noqa: BLE001  (told by the exit code as well)
            traceback.print_exc()
        finally:
            os._exit(code)
    status = os.waitpid(child, 0)[1]
    assert os.WIFEXITED(status), f"signal {os.WTERMSIG(status)}"
    return os.WEXITSTATUS(status)


def _ring_file(path: str) -> bytes:
    """A ring with records of all sizes, some cut and some gone."""
    ring, _ = open_small(path)
    rng = random.Random(11)
    for _ in range(14):
        step(ring, rng)
    ring.close()
    with open(os.path.join(path, DATA), "rb") as file:
        return file.read()


def _put(path: str, content: bytes) -> None:
    for directory, _, files in os.walk(path, topdown=False):
        for name in files:
            os.unlink(os.path.join(directory, name))
        if directory != path:
            os.rmdir(directory)
    with open(os.path.join(path, DATA), "wb") as file:
        file.write(content)


def _damages(good: bytes, per_page: int) -> Iterator[tuple[str, bytes]]:
    rng = random.Random(5)
    with_data = [n for n in range(len(good) // PAGE) if any(good[n * PAGE : (n + 1) * PAGE])]
    for page in with_data:
        start = page * PAGE
        # Most of what LMDB trusts is at the start of a page, and in its nodes near the end.
        places = [*rng.sample(range(80), per_page - 2), *rng.sample(range(80, PAGE), 2)]
        if page < 2:
            places = list(range(0, 160, 1 if per_page > 4 else 3))
        for place in places:
            damaged = bytearray(good)
            damaged[start + place] ^= 1 << rng.randrange(8)
            yield f"bit in {page} at {place}", bytes(damaged)
        other = rng.choice(with_data) * PAGE
        replaced = [bytes(PAGE), rng.randbytes(PAGE), good[other : other + PAGE]]
        for new in replaced if per_page > 4 else [replaced[page % 3]]:
            yield f"page {page}", good[:start] + new + good[start + PAGE :]


def _damage(path: str, per_page: int) -> None:
    good = _ring_file(path)
    outcomes = []
    for name, damaged in _damages(good, per_page):
        _put(path, damaged)
        outcome = _used(path)
        assert outcome in (FINE, ASIDE, COUNTED), name
        outcomes.append(outcome)
    assert set(outcomes) == {FINE, ASIDE, COUNTED}


def test_damage_anywhere_is_reported_or_counted(ring_path: str) -> None:
    """Bits and whole pages, in every page that holds anything."""
    _damage(ring_path, 3)


@pytest.mark.torture
@pytest.mark.timeout(0)
def test_much_damage_anywhere_is_reported_or_counted(ring_path: str) -> None:
    """The same, 24 bits and three whole pages in every page."""
    _damage(ring_path, 24)


def test_a_file_cut_short_at_any_page_is_no_signal(ring_path: str) -> None:
    """LMDB maps the file, and what is not there would end the process."""
    good = _ring_file(ring_path)
    used = max(n for n in range(len(good) // PAGE) if any(good[n * PAGE : (n + 1) * PAGE]))
    outcomes = set()
    for pages in range(0, used + 2, 3):
        for extra in (0, 100):
            _put(ring_path, good[: pages * PAGE + extra])
            outcomes.add(_used(ring_path))
    assert outcomes <= {ASIDE, FINE}
    assert ASIDE in outcomes


def _with_other_lmdb(path: str, **options: object) -> bytes:
    other = path + "-other"
    os.makedirs(other)
    environment = lmdb.open(other, map_size=MIB, max_dbs=2, **options)
    database = environment.open_db(b"named")
    with environment.begin(write=True, db=database) as txn:
        txn.put(b"key", b"value")
    environment.close()
    with open(os.path.join(other, DATA), "rb") as file:
        return file.read()


FOREIGN: dict[str, Callable[[str], bytes]] = {
    "empty": lambda _: b"",
    "short": lambda _: b"x" * 100,
    "zeros": lambda _: bytes(2 * PAGE),
    "noise": lambda _: random.Random(1).randbytes(MIB),
    "sqlite": lambda _: b"SQLite format 3\0" + bytes(2 * PAGE),
    "text": lambda _: b"hello\n" * 5000,
    "lmdb": _with_other_lmdb,
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_foreign_file_is_moved_aside(ring_path: str, kind: str) -> None:
    """Whatever it is, it is somebody's: kept, named and reported."""
    os.makedirs(ring_path)
    content = FOREIGN[kind](ring_path)
    _put(ring_path, content)
    assert _used(ring_path) == ASIDE
    (aside,) = [name for name in os.listdir(ring_path) if name.startswith("corrupt-")]
    with open(os.path.join(ring_path, aside, DATA), "rb") as file:
        assert file.read() == content


def _put_state(path: str, data: bytes | None) -> None:
    environment = lmdb.open(path, map_size=2 * MIB)
    with environment.begin(write=True) as txn:
        if data is None:
            txn.delete(STATE_KEY)
        else:
            txn.put(STATE_KEY, data)
    environment.close()


def _newer() -> bytes:
    data = bytearray(pack_state(State(clean=True, unclean_starts=0, queues={})))
    data[8:10] = (2).to_bytes(2, "big")
    data[-4:] = zlib.crc32(data[:-4]).to_bytes(4, "big")
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "reason"),
    [(None, "no state record"), (b"?" * 40, "no state record"), (_newer(), "newer version")],
    ids=["missing", "foreign", "newer"],
)
def test_a_state_that_is_not_ours_is_moved_aside(
    ring_path: str, data: bytes | None, reason: str
) -> None:
    """Records without their state cannot be counted, and a later version's not be understood."""
    ring, _ = open_small(ring_path)
    ring.commit([(1, [entry(1, 100)])])
    ring.close()
    _put_state(ring_path, data)
    ring, opening = open_small(ring_path)
    ring.close()
    assert reason in opening.reason
    assert os.path.dirname(opening.moved_aside) == ring_path


def test_two_damaged_rings_in_one_second_are_both_kept(ring_path: str) -> None:
    """The directory's name is the time, and a number if need be."""
    os.makedirs(ring_path)
    for content in (b"one", b"two"):
        with open(os.path.join(ring_path, DATA), "wb") as file:
            file.write(content)
        ring, opening = open_small(ring_path)
        ring.close()
        assert opening.moved_aside
    assert len([name for name in os.listdir(ring_path) if name.startswith("corrupt-")]) == 2


def test_our_walk_sees_what_lmdbs_verifier_sees(ring_path: str) -> None:
    """Whatever it finds wrong we do too, so that LMDB never gets to see it."""
    good = _ring_file(ring_path)
    data = os.path.join(ring_path, DATA)
    theirs = ours = 0
    for name, damaged in _damages(good, 4):
        _put(ring_path, damaged)
        try:
            found = bool(lmdb.verify.verify(data))
        except lmdb.verify.VerifyError:
            found = True
        try:
            check_file(data)
        except LayoutError:
            ours += 1
        else:
            assert not found, name
        theirs += found
    assert ours >= theirs > 50
