"""The store: group commit, failures kept apart, outages that end by themselves."""

import asyncio
import errno
import os
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, nullcontext
from pathlib import Path

import pytest

from adapter import sqlite
from adapter.database import FILE_NAME, Database, day_of, prove_room
from adapter.reader import open_for_reading
from adapter.row import Row
from adapter.sqlite import EXPIRE_ROWS, MAX_GROUP, SqliteStore, StoreAwayError
from tests.adapter.test_database import DAY_MS, MIDNIGHT_MS, row

NOW_NS = (MIDNIGHT_MS + DAY_MS - 1) * 10**6


class Clock:
    """Nanoseconds that a test sets."""

    def __init__(self) -> None:
        self.now_ns = NOW_NS

    def __call__(self) -> int:
        return self.now_ns


@asynccontextmanager
async def running(directory: Path, clock: Clock | None = None) -> AsyncIterator[SqliteStore]:
    """A started store with a TTL of two days."""
    store = SqliteStore(directory, ttl_s=2 * 86_400, now_ns=clock or Clock())
    await store.start()
    try:
        yield store
    finally:
        await store.close()


def count(directory: Path) -> int:
    """Rows in the file, read as another process would."""
    with closing(open_for_reading(directory / FILE_NAME)) as reader:
        return int(reader.execute("SELECT count(*) FROM metrics").fetchone()[0])


# ---- writing ----------------------------------------------------------------------------------


async def test_rows_are_in_the_file_when_write_returns(tmp_path: Path):
    """And the state says so."""
    async with running(tmp_path) as store:
        assert await store.write([row(0), row(1), row(2)]) == 3
        assert count(tmp_path) == 3
        state = store.state
        assert (state.rows, state.error, state.alive) == (3, None, True)
        assert state.last_write_ns == NOW_NS
        assert state.latency_s is not None
        assert state.size_bytes == (tmp_path / FILE_NAME).stat().st_size or state.size_bytes > 0


async def test_a_write_of_nothing_is_no_write(tmp_path: Path):
    """Everything in it was skipped: fine, but not the last write."""
    async with running(tmp_path) as store:
        assert await store.write([]) == 0
        assert store.state.last_write_ns is None


async def test_what_waits_is_committed_together(tmp_path: Path):
    """Many requests, few commits; each learns its own result."""
    async with running(tmp_path) as store:
        before = store.state.commits
        writes = [store.write([row(n)] * (n % 3)) for n in range(3 * MAX_GROUP)]
        assert await asyncio.gather(*writes) == [n % 3 for n in range(3 * MAX_GROUP)]
        assert store.state.commits - before <= 5
        assert count(tmp_path) == sum(1 for n in range(3 * MAX_GROUP) if n % 3)


async def test_a_request_that_is_no_good_is_undone_alone(tmp_path: Path):
    """All its rows; its neighbours in the same commit are stored."""
    bad = [
        row(1, node_id="bad", attributes={"new": "series"}, series=b"n" * 16),
        row(2, value_int=2**63),
    ]
    async with running(tmp_path) as store:
        results = await asyncio.gather(
            store.write([row(0)]),
            store.write(bad),
            store.write([row(1, node_id="good", series=b"n" * 16)]),
            return_exceptions=True,
        )
        assert results[0] == results[2] == 1
        assert isinstance(results[1], OverflowError)
        assert (store.state.error, store.state.rows) == (None, 2)
        with closing(open_for_reading(tmp_path / FILE_NAME)) as reader:
            nodes = reader.execute("SELECT node_id FROM metrics ORDER BY node_id").fetchall()
        assert nodes == [("edge-01",), ("good",)]


async def test_a_row_that_the_file_cannot_take_is_our_bug_not_an_outage(tmp_path: Path):
    """The request fails with the reason, the store goes on."""
    async with running(tmp_path) as store:
        with pytest.raises(OverflowError):
            await store.write([row(0, value_int=2**63)])
        assert store.state.error is None
        assert await store.write([row(0)]) == 1


async def test_whoever_gave_up_waiting_hinders_nobody(tmp_path: Path):
    """The rows are stored; there is just nobody to tell."""
    async with running(tmp_path) as store:
        impatient = asyncio.ensure_future(store.write([row(0)]))
        await asyncio.sleep(0)
        impatient.cancel()
        assert await store.write([row(1)]) == 1
        assert count(tmp_path) == 2


# ---- outages ----------------------------------------------------------------------------------


class FullDatabase(Database):
    """A file on a medium that is full while `pages` says so."""

    pages: int | None = None

    def begin(self) -> None:
        self.connection.execute(f"PRAGMA max_page_count = {self.pages or 2**30}")
        super().begin()


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[FullDatabase]]:
    """The class whose `pages` makes the medium full."""
    monkeypatch.setattr(sqlite, "Database", FullDatabase)
    yield FullDatabase
    FullDatabase.pages = None


def many(first: int = 0, rows: int = 500) -> list[Row]:
    """Rows with large attributes, each of a series of its own."""
    return [row(first + n, attributes={"n": "x" * 500}, series=n.to_bytes(16)) for n in range(rows)]


async def test_a_full_disk_is_an_outage_that_ends_by_itself(
    tmp_path: Path, full: type[FullDatabase], caplog: pytest.LogCaptureFixture
):
    """Nothing of the request is kept, the log says it once, and then all goes on."""
    async with running(tmp_path) as store:
        await store.write([row(0)])
        full.pages = 20
        for _ in range(3):
            with pytest.raises(StoreAwayError, match="database or disk is full"):
                await store.write([row(5), *many()])
        assert "full" in str(store.state.error)
        assert store.state.rows == 1
        assert count(tmp_path) == 1
        full.pages = None
        assert await store.write([row(5), *many()]) == 501
        assert store.state.error is None
        assert count(tmp_path) == 502
    said = [record.getMessage() for record in caplog.records if record.name == "store"]
    assert said.count("store is away, senders are told to retry") == 1


async def test_all_of_a_group_is_told_when_the_medium_fails(
    tmp_path: Path, full: type[FullDatabase]
):
    """One commit, one fate; but who was no good anyway keeps its own reason."""
    bad = [row(2, value_int=2**63)]
    async with running(tmp_path) as store:
        full.pages = 20
        results = await asyncio.gather(
            store.write([row(0)]),
            store.write(bad),
            store.write(many()),
            return_exceptions=True,
        )
        kinds = [type(result) for result in results]
        assert kinds == [StoreAwayError, OverflowError, StoreAwayError]
        full.pages = None
        await store.probe()
        assert count(tmp_path) == 0


def said(caplog: pytest.LogCaptureFixture, message: str) -> int:
    """How often the log has `message`."""
    return [record.getMessage() for record in caplog.records].count(message)


async def test_what_fits_into_the_rest_of_a_full_disk_does_not_end_the_outage(
    tmp_path: Path, full: type[FullDatabase], caplog: pytest.LogCaptureFixture
):
    """It is stored and acknowledged; but what failed would fail again, so we are not ready."""
    caplog.set_level("INFO")
    async with running(tmp_path) as store:
        full.pages = 60
        with pytest.raises(StoreAwayError, match="full"):
            await store.write(many())
        assert await store.write([]) == 0
        assert await store.write([row(0)]) == 1
        assert "full" in str(store.state.error)
        assert store.state.rows == 1
        assert store.away.is_set()
        with pytest.raises(StoreAwayError):
            await store.write(many())
        full.pages = None
        # As much as failed, in parts; that it was there before does not count.
        assert await store.write(many(rows=400)) == 400
        assert await store.write(many(rows=400)) == 400
        assert store.state.error is not None
        assert await store.write(many(first=1, rows=100)) == 100
        assert store.state.error is None
        assert not store.away.is_set()
    assert said(caplog, "store is away, senders are told to retry") == 1
    assert said(caplog, "store is back") == 1


async def test_a_probe_needs_as_much_room_as_what_failed(
    tmp_path: Path, full: type[FullDatabase], monkeypatch: pytest.MonkeyPatch
):
    """Small probes fit into what a failed transaction gives back. Who writes meanwhile may."""
    asked: list[int] = []
    room = 100_000

    def prove_room(directory: Path, size: int) -> None:
        asked.append(size)
        if size > room:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(sqlite, "prove_room", prove_room)
    async with running(tmp_path) as store:
        full.pages = 60
        with pytest.raises(StoreAwayError):
            await store.write(many())
        full.pages = None
        results = await asyncio.gather(store.probe(), store.write([row(0)]), return_exceptions=True)
        assert str(results[0]) == f"{tmp_path}: No space left on device"
        assert results[1] == 1
        assert store.state.error is not None
        room = 2_000_000
        await store.probe()
        assert store.state.error is None
    assert asked == [0, 500 * 2048, 500 * 2048]


async def test_a_probe_that_was_wrong_has_to_show_more_next_time(
    tmp_path: Path, full: type[FullDatabase], monkeypatch: pytest.MonkeyPatch
):
    """Whatever rows take, we do not go on saying "back" and "away" by turns."""
    asked: list[int] = []
    monkeypatch.setattr(sqlite, "prove_room", lambda _, size: asked.append(size))
    async with running(tmp_path) as store:
        for _ in range(8):
            full.pages = 60
            with pytest.raises(StoreAwayError):
                await store.write(many())
            full.pages = None
            await store.probe()
        # A write of that size makes it credible again.
        for n in range(20):
            await store.write(many(first=n))
        full.pages = 60
        with pytest.raises(StoreAwayError):
            await store.write(many(first=100))
        full.pages = None
        await store.probe()
    owed = [size // 2048 for size in asked]
    assert owed == [0, 500, 1000, 2000, 4000, 8000, 10_000, 10_000, 10_000, 500]


def test_room_is_asked_for_and_not_kept(tmp_path: Path):
    """Nor is anything left in the directory; nothing at all always fits."""
    prove_room(tmp_path, 1 << 20)
    prove_room(tmp_path / "none", 0)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(OSError, match="No such file"):
        prove_room(tmp_path / "none", 1)


@pytest.mark.parametrize(("code", "fits"), [(errno.ENOSPC, False), (errno.EOPNOTSUPP, True)])
def test_a_file_system_that_cannot_reserve_is_taken_at_its_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, fits: bool
):
    """What is written behind it will tell."""

    def fallocate(*_: int) -> None:
        raise OSError(code, "not here")

    monkeypatch.setattr(os, "posix_fallocate", fallocate)
    with nullcontext() if fits else pytest.raises(OSError, match="not here"):
        prove_room(tmp_path, 1)


async def test_a_group_is_bounded_in_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Whoever comes next does not wait for all that came before."""
    monkeypatch.setattr(sqlite, "MAX_GROUP_ROWS", 100)
    async with running(tmp_path) as store:
        before = store.state.commits
        await asyncio.gather(*(store.write([row(n)] * 50) for n in range(10)))
        assert store.state.commits - before >= 5


async def test_a_file_locked_by_another_is_an_outage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A person with the sqlite3 shell, in the middle of a transaction."""
    monkeypatch.setattr("adapter.database.BUSY_S", 0.0)
    async with running(tmp_path) as store:
        with closing(sqlite3.connect(tmp_path / FILE_NAME, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(StoreAwayError, match="locked"):
                await store.write([row(0)])
            other.execute("ROLLBACK")
        assert await store.write([row(0)]) == 1


async def test_a_directory_that_comes_late_ends_the_outage(tmp_path: Path):
    """A mount that is not there yet, or a file in its place."""
    directory = tmp_path / "state"
    directory.write_text("in the way")
    async with running(directory) as store:
        assert store.state.error is not None
        with pytest.raises(StoreAwayError):
            await store.write([row(0)])
        directory.unlink()
        await store.probe()
        assert store.state.error is None
        assert await store.write([row(0)]) == 1


# ---- files that are no good -------------------------------------------------------------------


def aside(directory: Path) -> list[Path]:
    """What was moved aside."""
    return sorted(p for p in directory.glob(f"{FILE_NAME}.*") if not p.name.endswith("-shm"))


async def test_a_corrupt_file_is_moved_aside_and_a_new_one_begun(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    """Nothing is deleted, a person is told where it is, and nobody has to do anything."""
    (tmp_path / FILE_NAME).write_bytes(b"garbage" * 1000)
    async with running(tmp_path) as store:
        assert store.state.error is None
        assert await store.write([row(0)]) == 1
        (moved,) = aside(tmp_path)
        assert moved.read_bytes() == b"garbage" * 1000
        assert moved.name == "metrics.db.corrupt-20260131T235959.999000Z"
        assert store.state.moved_aside == 1
    (said,) = [record for record in caplog.records if "moved aside" in record.getMessage()]
    assert str(moved) in str(said.__dict__["fields"])


async def test_corruption_under_way_costs_one_retry(tmp_path: Path):
    """A page goes bad while we run: 503 once, then a new file; the old one is kept."""
    async with running(tmp_path) as store:
        await store.write(many())
        damage(tmp_path, store)
        with pytest.raises(StoreAwayError, match=r"malformed|not a database"):
            await _write_until_noticed(store)
        assert await store.write([row(9)]) == 1
        assert store.state.moved_aside == 1
        assert len(aside(tmp_path)) >= 1
        assert count(tmp_path) == 1


async def _write_until_noticed(store: SqliteStore) -> None:
    for n in range(50):
        await store.write(many(first=n))


def damage(directory: Path, store: SqliteStore) -> None:
    """Overwrite everything behind the first page, as a failing card may."""
    with closing(sqlite3.connect(directory / FILE_NAME)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    path = Path(store.state.path)
    with path.open("r+b") as file:
        file.seek(1024)
        file.write(b"\xa5" * (path.stat().st_size - 1024))


@pytest.mark.parametrize(
    ("statement", "word"),
    [("PRAGMA user_version = 99", "newer"), ("PRAGMA application_id = 7", "foreign")],
)
async def test_a_file_of_a_later_version_or_another_program_is_moved_aside(
    tmp_path: Path, statement: str, word: str
):
    """It is good, so it is kept; the adapter goes on."""
    Database(tmp_path / FILE_NAME).close()
    with closing(sqlite3.connect(tmp_path / FILE_NAME)) as other:
        other.execute(statement)
    async with running(tmp_path) as store:
        assert await store.write([row(0)]) == 1
        assert [p.name.split(".")[2].split("-")[0] for p in aside(tmp_path)] == [word]


async def test_a_disk_that_spoils_everything_is_not_filled_with_spoils(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """At most one file a minute is moved aside; in between it is an outage."""

    def spoil(path: Path) -> Database:
        path.write_bytes(b"garbage" * 1000)
        return Database(path)

    monkeypatch.setattr(sqlite, "Database", spoil)
    async with running(tmp_path) as store:
        for _ in range(3):
            with pytest.raises(StoreAwayError):
                await store.write([row(0)])
        assert len(aside(tmp_path)) == 1


async def test_a_corrupt_file_that_cannot_be_moved_is_an_outage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The reason names both."""
    async with running(tmp_path) as store:
        await store.write(many())

        def refuse(*_: object) -> Path:
            raise OSError(30, "Read-only file system")

        monkeypatch.setattr(sqlite, "move_aside", refuse)
        damage(tmp_path, store)
        with pytest.raises(StoreAwayError, match="moved aside: Read-only file system"):
            await _write_until_noticed(store)


# ---- expiry -----------------------------------------------------------------------------------


async def test_rows_older_than_the_ttl_are_deleted_in_steps(tmp_path: Path):
    """Between two steps requests are served; what is younger stays."""
    clock = Clock()
    async with running(tmp_path, clock) as store:
        old = [row(n - DAY_MS) for n in range(EXPIRE_ROWS + 500)]
        await store.write([*old, row(0), dated(2 * DAY_MS - 1)])
        assert await store.expire() == 0
        clock.now_ns += 86_400 * 10**9
        commits = store.state.commits
        expired, stored = await asyncio.gather(store.expire(), store.write([row(1)]))
        assert (expired, stored) == (len(old), 1)
        assert store.state.expired_rows == len(old)
        assert store.state.commits - commits >= 3
        assert count(tmp_path) == 3


async def test_a_row_at_the_edge_of_the_ttl(tmp_path: Path):
    """Exactly as old as the TTL is too old; a millisecond younger is not."""
    clock = Clock()
    async with running(tmp_path, clock) as store:
        await store.write([row(0), row(1), dated(DAY_MS), dated(2 * DAY_MS)])
        clock.now_ns = (MIDNIGHT_MS + 2 * DAY_MS) * 10**6
        assert await store.expire() == 1
        assert count(tmp_path) == 3


@pytest.mark.parametrize("years", [1, 10])
async def test_a_date_that_is_wrong_deletes_nothing(tmp_path: Path, years: int):
    """A device boots years ahead, and stores what it samples until it learns the time."""
    clock = Clock()
    async with running(tmp_path, clock) as store:
        await store.write([row(0), row(-DAY_MS), row(1 - 2 * DAY_MS)])
        clock.now_ns += years * 365 * 86_400 * 10**9
        assert await store.expire() == 0
        # Over midnight, even.
        ahead = years * 365 * DAY_MS
        await store.write([dated(ahead), dated(ahead + DAY_MS)])
        assert await store.expire() == 0
        assert count(tmp_path) == 5


async def test_a_date_that_stays_is_believed(tmp_path: Path):
    """The device was off for a year: with the third day of samples the old ones go."""
    clock = Clock()
    async with running(tmp_path, clock) as store:
        await store.write([row(0), row(-DAY_MS), row(-2 * DAY_MS)])
        for day, deleted in ((365, 1), (366, 0), (367, 2)):
            clock.now_ns = NOW_NS + day * 86_400 * 10**9
            await store.write([dated(day * DAY_MS + 367 - day)])
            assert await store.expire() == deleted
        assert count(tmp_path) == 3


async def test_an_empty_store_has_nothing_to_expire(tmp_path: Path):
    """And no idea of the date."""
    async with running(tmp_path) as store:
        assert await store.expire() == 0


def dated(at_ms: int) -> Row:
    """A row of any date."""
    timestamp_ms = MIDNIGHT_MS + at_ms
    return row()._replace(timestamp_ms=timestamp_ms, time_bucket=day_of(timestamp_ms))


# ---- the end ----------------------------------------------------------------------------------


async def test_closing_finishes_what_waits_and_leaves_one_file(tmp_path: Path):
    """The journal is brought into the file."""
    async with running(tmp_path) as store:
        writes = [asyncio.ensure_future(store.write([row(n)])) for n in range(100)]
        await asyncio.sleep(0)
    assert await asyncio.gather(*writes) == [1] * 100
    assert [p.name for p in tmp_path.iterdir()] == [FILE_NAME]
    assert count(tmp_path) == 100
    with pytest.raises(StoreAwayError, match="ended"):
        await store.write([row(0)])


async def test_a_store_that_was_never_started_closes(tmp_path: Path):
    """Start-up may fail before."""
    await SqliteStore(tmp_path, ttl_s=1).close()


@pytest.mark.parametrize("fatal", [SystemExit, AssertionError])
async def test_the_death_of_the_thread_is_loud(
    tmp_path: Path,
    fatal: type[BaseException],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
):
    """Nobody waits for ever, and /health can say it."""

    def die(*_: object) -> None:
        raise fatal("a bug")

    async with running(tmp_path) as store:
        monkeypatch.setattr(Database, "commit" if fatal is AssertionError else "insert", die)
        results = await asyncio.gather(
            store.write([row(0)]), store.write([row(1)]), return_exceptions=True
        )
        assert {type(result) for result in results} == {StoreAwayError}
        assert not store.state.alive
        assert "thread died" in str(store.state.error)
    assert any("has died" in record.getMessage() for record in caplog.records)
