"""The embedded store: one thread that owns the SQLite file and commits whole groups.

What waits while a commit is on its way to the medium goes into the next one together: many
requests, one fsync. The thread keeps nothing but the open file. What it did it reports to the
event loop, which owns the state that /health shows.

Failures are told apart: a request that is no good is undone alone and fails alone; a medium that
is full, locked or failing fails the whole group with StoreAwayError, and the next group tries
again; a damaged file is moved aside under a name that says so, and a new one begun.
"""

import asyncio
import queue
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from adapter.database import (
    FILE_NAME,
    Database,
    ForeignError,
    is_corrupt,
    is_storage_fault,
    move_aside,
)
from adapter.row import Row
from edge_agent.log import Log

_log = Log("store")

# Requests in one commit. More of them would keep the first waiting longer than its fsync saves.
MAX_GROUP = 64
# A step of expiry: a few milliseconds of work between two commits of requests.
EXPIRE_ROWS = 2000
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
    is_write: bool
    result: int | Exception | None = None


@dataclass(slots=True)
class _Report:
    """What one group came to."""

    jobs: list[_Job]
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

    async def write(self, batches: Iterable[Sequence[Row]]) -> int:
        """Store all rows of `batches` and return how many, once they are durable.

        `batches` is run in the store's thread, one batch in memory at a time. What it raises is
        raised here, and no row of it is kept. Raises StoreAwayError.
        """

        def insert(database: Database) -> int:
            rows = 0
            for batch in batches:
                database.insert(batch)
                rows += len(batch)
            return rows

        return await self._submit(insert, is_write=True) or 0

    async def expire(self) -> int:
        """Delete what is older than the TTL, in steps between which requests are served.

        Returns the rows deleted; raises StoreAwayError.
        """
        cutoff_ms = self._now_ns() // 1_000_000 - self._ttl_s * 1000
        total, deleted = 0, EXPIRE_ROWS
        while deleted == EXPIRE_ROWS:
            deleted = await self._submit(lambda db: db.expire(cutoff_ms, EXPIRE_ROWS)) or 0
            total += deleted
            self.state = replace(self.state, expired_rows=self.state.expired_rows + deleted)
        await self._submit(lambda database: database.give_back())
        return total

    async def probe(self) -> None:
        """Write something small: ends an outage that no request would; raises StoreAwayError."""
        await self._submit(lambda database: database.prove())

    async def close(self) -> None:
        """Finish what waits, bring the journal into the file, end the thread."""
        if self._thread.ident is None:
            return
        self._waiting.put(None)
        await self._ended
        self._thread.join()

    async def _submit(
        self, run: Callable[[Database], int | None], *, is_write: bool = False
    ) -> int | None:
        if self._ended.done():
            raise StoreAwayError("the store's thread has ended")
        job = _Job(run, self._loop.create_future(), is_write)
        self._waiting.put(job)
        return await job.done

    def _settle(self, report: _Report) -> None:
        """On the loop: publish what a group came to."""
        rows = 0
        for job in report.jobs:
            if job.is_write and isinstance(job.result, int):
                rows += job.result
            if job.done.done():
                continue  # Whoever asked has gone.
            if isinstance(job.result, Exception):
                job.done.set_exception(job.result)
            else:
                job.done.set_result(job.result)
        state = replace(
            self.state, error=report.error, moved_aside=self.state.moved_aside + report.moved_aside
        )
        if report.error is None:
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
        """All that waits, at least one, at most MAX_GROUP; empty at the end."""
        jobs: list[_Job] = []
        job = self._waiting.get()
        while job is not None:
            jobs.append(job)
            if len(jobs) == MAX_GROUP or self._waiting.empty():
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

    def commit_group(self, jobs: list[_Job]) -> _Report:
        """Run `jobs` in one transaction, each undone alone if it alone fails."""
        report = _Report(jobs, now_ns=self.now_ns())
        started_s = time.monotonic()
        self.aside = 0
        try:
            database = self._open()
            database.begin()
            for job in jobs:
                self._run_job(database, job)
            database.commit()
            report.size_bytes = database.size_bytes()
        except Exception as error:
            if not isinstance(error, ForeignError) and not is_storage_fault(error):
                raise
            report.error = self._recover(error)
            for job in jobs:
                if not isinstance(job.result, Exception):
                    job.result = StoreAwayError(report.error)
        report.moved_aside = self.aside
        report.latency_s = time.monotonic() - started_s
        return report

    def _run_job(self, database: Database, job: _Job) -> None:
        execute = database.connection.execute
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
