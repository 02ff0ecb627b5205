"""The embedded store: one thread that owns the SQLite file and commits whole groups.

What waits while a commit is on its way to the medium goes into the next one together: many
requests, one fsync. The thread keeps nothing but the open file. What it did it reports to the
event loop, which owns the state that /health shows.

Failures are told apart: a request that is no good is undone alone and fails alone; a medium that
is full, locked or failing fails the whole group with StoreAwayError, and the next group tries
again; a damaged file is moved aside under a name that says so, and a new one begun.

An outage ends when as much as failed has been stored, or has been shown to fit (`probe`): what is
small may fit where a full medium has room for nothing else, and says little.
"""

import asyncio
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from adapter.database import (
    FILE_NAME,
    Database,
    ForeignError,
    is_corrupt,
    is_storage_fault,
    move_aside,
    prove_room,
)
from adapter.row import Row
from edge_agent.log import Log

_log = Log("store")

# Requests in one commit. More of them would keep the first waiting longer than its fsync saves.
MAX_GROUP = 64
# Nor more rows, for the same reason: they take about 100 ms.
MAX_GROUP_ROWS = 10_000
# A step of expiry: a few milliseconds of work between two commits of requests.
EXPIRE_ROWS = 2000
# What a row takes in the journal at most, if it is of a hundred that are usual; and how much of
# that an outage is taken to be about, at least and at most.
_ROW_BYTES = 2048
_LEAST_OWED, _MOST_OWED = 50, MAX_GROUP_ROWS
# A disk that damages every file we make must not be filled with damaged files.
_MIN_ASIDE_INTERVAL_S = 60.0


class StoreAwayError(Exception):
    """Nothing was stored, and the same may succeed later."""


@dataclass(frozen=True, slots=True)
class StoreState:
    """What the store has done in this process. Times are nanoseconds since 1970."""

    path: str
    alive: bool = True
    error: str | None = None
    last_write_ns: int | None = None
    latency_s: float | None = None
    latency_sum_s: float = 0.0
    commits: int = 0
    rows: int = 0
    expired_rows: int = 0
    size_bytes: int = 0
    moved_aside: int = 0


@dataclass(slots=True)
class _Job:
    """Work for the thread inside a transaction of its own kind: it happens whole or not at all."""

    run: Callable[[Database], int | None]
    done: asyncio.Future[int | None]
    rows: int
    is_probe: bool = False
    result: int | Exception | None = None


@dataclass(slots=True)
class _Report:
    """What one group came to."""

    jobs: list[_Job]
    stored: bool = False
    latency_s: float = 0.0
    size_bytes: int = 0
    error: str | None = None
    moved_aside: int = 0
    now_ns: int = 0


class SqliteStore:
    """Rows in `directory`/metrics.db."""

    def __init__(
        self, directory: Path, *, ttl_s: int, now_ns: Callable[[], int] = time.time_ns
    ) -> None:
        self.state = StoreState(str(directory / FILE_NAME))
        self.away = asyncio.Event()
        """Set during an outage."""
        self._path = directory / FILE_NAME
        self._ttl_s = ttl_s
        self._now_ns = now_ns
        self._loop = asyncio.get_running_loop()
        # None asks the thread to end.
        self._waiting: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._thread = threading.Thread(target=self._run, name="store", daemon=True)

    async def start(self) -> None:
        """Open the file. One that cannot be opened now is tried again with every request."""
        self._thread.start()
        try:
            await self.probe()
        except StoreAwayError:
            # The state says so, and so did the log.
            return

    async def write(self, rows: Sequence[Row]) -> int:
        """Store all of `rows` or none and return how many, once they are durable.

        Raises StoreAwayError.
        """

        def insert(database: Database) -> int:
            database.insert(rows)
            return len(rows)

        return await self._submit(insert, rows=len(rows)) or 0

    async def expire(self) -> int:
        """Delete what is older than the TTL, in steps between which requests are served.

        Returns the rows deleted; raises StoreAwayError.

        Devices boot with wrong dates. So age is counted from what the samples say, where that is
        earlier than the clock (`Database.present_ms`): a date that is wrong for less than a day
        deletes nothing, whether rows come with it or not, and a store that gets no more rows keeps
        those it has.
        """
        present_ms = await self._submit(lambda database: database.present_ms())
        if present_ms is None:
            return 0
        cutoff_ms = min(self._now_ns() // 1_000_000, present_ms) - self._ttl_s * 1000
        total, deleted = 0, EXPIRE_ROWS
        while deleted == EXPIRE_ROWS:
            deleted = await self._submit(lambda db: db.expire(cutoff_ms, EXPIRE_ROWS)) or 0
            total += deleted
            self.state = replace(self.state, expired_rows=self.state.expired_rows + deleted)
        await self._submit(lambda database: database.give_back())
        return total

    async def probe(self) -> None:
        """End an outage that no request would; raises StoreAwayError while it lasts."""
        await self._submit(lambda database: database.prove(), is_probe=True)

    async def close(self) -> None:
        """Finish what waits, bring the journal into the file, end the thread."""
        if self._thread.ident is None:
            return
        self._waiting.put(None)
        await self._ended
        self._thread.join()

    async def _submit(
        self,
        run: Callable[[Database], int | None],
        *,
        rows: int = 0,
        is_probe: bool = False,
    ) -> int | None:
        if self._ended.done():
            raise StoreAwayError("the store's thread has ended")
        job = _Job(run, self._loop.create_future(), rows, is_probe)
        self._waiting.put(job)
        return await job.done

    def _settle(self, report: _Report) -> None:
        """On the loop: publish what a group came to."""
        rows = 0
        for job in report.jobs:
            if isinstance(job.result, int):
                rows += job.rows
            if job.done.done():
                continue  # Whoever asked has gone.
            if isinstance(job.result, Exception):
                job.done.set_exception(job.result)
            else:
                job.done.set_result(job.result)
        state = replace(
            self.state, error=report.error, moved_aside=self.state.moved_aside + report.moved_aside
        )
        if report.stored:
            state = replace(
                state,
                last_write_ns=report.now_ns if rows else state.last_write_ns,
                latency_s=report.latency_s,
                latency_sum_s=state.latency_sum_s + report.latency_s,
                commits=state.commits + 1,
                rows=state.rows + rows,
                size_bytes=report.size_bytes,
            )
        self._say_change(state)
        self.state = state
        if state.error is None:
            self.away.clear()
        else:
            self.away.set()

    def _say_change(self, state: StoreState) -> None:
        # Once an outage, not once a request.
        if state.error is not None and self.state.error is None:
            _log.error("store is away, senders are told to retry", cause=state.error)
        elif state.error is None and self.state.error is not None:
            _log.info("store is back", path=state.path)

    def _end(self, error: BaseException | None, jobs: list[_Job]) -> None:
        """On the loop: the thread is about to end, with `jobs` in its hands if it died."""
        if error is not None:
            _log.error("the store's thread has died", exc_info=error)
            self.state = replace(self.state, alive=False, error=f"thread died: {error}")
        self._ended.set_result(None)
        while not self._waiting.empty():
            jobs += filter(None, [self._waiting.get_nowait()])
        for job in jobs:
            if not job.done.done():
                job.done.set_exception(StoreAwayError("the store's thread has ended"))

    # ---- in the thread ----

    def _run(self) -> None:
        writer = _Writer(self._path, self._now_ns)
        error: BaseException | None = None
        jobs: list[_Job] = []
        try:
            while jobs := self._next_group():
                report = writer.commit_group(jobs)
                self._tell(self._settle, report)
        except BaseException as death:  # noqa: BLE001  (reported to the loop, whatever it is)
            error = death
        finally:
            writer.close()
            self._tell(self._end, error, jobs)

    def _tell(self, callback: Callable[..., None], *what: object) -> None:
        # Whoever stopped us may not have waited for the end of a slow disk.
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(callback, *what)

    def _next_group(self) -> list[_Job]:
        """What waits, at least one, until it is a group; empty at the end."""
        jobs: list[_Job] = []
        rows = 0
        job = self._waiting.get()
        while job is not None:
            jobs.append(job)
            rows += job.rows
            if len(jobs) == MAX_GROUP or rows >= MAX_GROUP_ROWS or self._waiting.empty():
                return jobs
            job = self._waiting.get_nowait()
        if jobs:
            self._waiting.put(None)
        return jobs


@dataclass(slots=True)
class _Writer:
    """The thread's own: the open file, and how it is opened again."""

    path: Path
    now_ns: Callable[[], int]
    database: Database | None = None
    moved_at_s: float | None = None
    aside: int = 0
    reason: str | None = None
    """Of the outage; None without one. What follows is in rows."""
    owed: int = 0
    """What has to be stored, or shown to fit, before it is over."""
    paid: int = 0
    """What has been stored since something failed."""
    vouched: int = 0
    """What a probe has shown to fit, and no write has yet."""

    def commit_group(self, jobs: list[_Job]) -> _Report:
        """Run `jobs` in one transaction, each undone alone if it alone fails."""
        report = _Report(jobs, now_ns=self.now_ns())
        started_s = time.monotonic()
        self.aside = 0
        try:
            database = self._open()
            proven = self._prove_room(jobs)
            database.begin()
            stored = sum(self._run_job(database, job) for job in jobs if job.result is None)
            database.commit()
            report.size_bytes = database.size_bytes()
            report.stored = True
            self._stored(stored, proven=proven)
        except Exception as error:
            if not isinstance(error, ForeignError) and not is_storage_fault(error):
                raise
            self.reason = self._recover(error)
            self._failed(sum(job.rows for job in jobs))
            for job in jobs:
                if not isinstance(job.result, Exception):
                    job.result = StoreAwayError(self.reason)
        report.error = self.reason
        report.moved_aside = self.aside
        report.latency_s = time.monotonic() - started_s
        return report

    def _prove_room(self, jobs: Sequence[_Job]) -> bool:
        """Whether there is a probe among `jobs`, and room for what is owed; fails it if not."""
        probes = [job for job in jobs if job.is_probe]
        if not probes:
            return False
        try:
            prove_room(self.path.parent, self.owed * _ROW_BYTES)
        except OSError as error:
            for job in probes:
                job.result = StoreAwayError(f"{self.path.parent}: {error.strerror}")
            return False
        return True

    def _stored(self, rows: int, *, proven: bool) -> None:
        self.paid += rows
        if self.paid >= self.vouched:
            self.vouched = 0
        if self.reason is None or not (proven or self.paid >= self.owed):
            return
        if self.paid < self.owed:
            self.vouched = self.owed
        self.reason, self.owed, self.paid = None, 0, 0

    def _failed(self, rows: int) -> None:
        # If a probe was wrong about the last outage, the next has to show more: no flapping.
        owed = max(_LEAST_OWED, rows, self.owed, 2 * self.vouched)
        self.owed = min(owed, _MOST_OWED)
        self.paid = self.vouched = 0

    def _run_job(self, database: Database, job: _Job) -> int:
        """Sets its result, and returns how many of its rows were not there already."""
        execute = database.connection.execute
        before = database.connection.total_changes
        execute("SAVEPOINT job")
        try:
            job.result = job.run(database)
        except Exception as error:
            if is_storage_fault(error):
                raise
            job.result = error
            database.forget_numbers()
            execute("ROLLBACK TO job")
        execute("RELEASE job")
        if isinstance(job.result, Exception):
            return 0
        # Partitions and series are changes too.
        return min(job.rows, database.connection.total_changes - before)

    def _open(self) -> Database:
        if self.database is None:
            try:
                self.database = Database(self.path)
            except ForeignError as error:
                self._move_aside(error.word, error)
                self.database = Database(self.path)
            except Exception as error:
                if not is_corrupt(error) or not self._move_aside("corrupt", error):
                    raise
                self.database = Database(self.path)
        return self.database

    def _recover(self, error: Exception) -> str:
        """Close the file, which ends the transaction; the next group opens it anew."""
        database, self.database = self.database, None
        if database is not None:
            database.close()
            if is_corrupt(error):
                try:
                    self._move_aside("corrupt", error)
                except OSError as cause:
                    return f"{self.path}: {error}; cannot be moved aside: {cause.strerror}"
        return f"{self.path}: {error}"

    def _move_aside(self, word: str, error: Exception) -> bool:
        now_s = time.monotonic()
        if self.moved_at_s is not None and now_s - self.moved_at_s < _MIN_ASIDE_INTERVAL_S:
            return False
        target = move_aside(self.path, word, self.now_ns())
        self.moved_at_s = now_s
        self.aside += 1
        _log.error(
            "the store's file is unusable and was moved aside; a new one is begun",
            path=self.path,
            moved_to=target,
            cause=error,
        )
        return True

    def close(self) -> None:
        """Close the file if it is open."""
        if self.database is not None:
            self.database.close()
