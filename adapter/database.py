"""The SQLite file: what is in it, and every statement we send. Owned by one thread.

`metrics` is a view with the columns of CONTRACT's table, newest first. Behind it:

    partitions  (node_id, metric_name, time_bucket) -> id, as Cassandra's partition key
    series      series_id -> id, with what it determines: customer_id, attributes, kind
    samples     the rows: (partition, timestamp, series) -> value, value_int, unit, point

A row names its node, metric, day and attributes by number. 100 series every 15 s measured 32 bytes
a row and 156 KB written a request; as one table (no rowid, 4 KiB pages) 314 bytes and 886 KB.
Pages are of 1 KiB: a request touches a page per metric, and all of a page is written.

SQLite has no NaN: it stores NULL. So a NULL in `value` is NaN. `attributes` is a JSON object.
`timestamp` is in milliseconds. What is deleted leaves free pages, which are used again, and given
back to the file system once they are a quarter of the file.

Journal: WAL with synchronous=FULL, so that a commit is on the medium when it returns.
user_version is the version of this layout, application_id says that the file is ours.
"""

import errno
import json
import os
import sqlite3
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from pathlib import Path

from adapter.row import Row

FILE_NAME = "metrics.db"
APPLICATION_ID = 0x504F4531  # "POE1"
VERSION = 1
_PAGE_BYTES = 1024
_WAL_PAGES = 4096
_MAX_NUMBERS = 20_000
_VACUUM_PAGES = 256
# How long another process may hold the file, as a person with the sqlite3 shell does.
BUSY_S = 2.0

_SCHEMA = """
CREATE TABLE partitions (
    id INTEGER PRIMARY KEY,
    node_id TEXT NOT NULL,
    metric_name TEXT NOT NULL,
    time_bucket TEXT NOT NULL,
    UNIQUE (node_id, metric_name, time_bucket)
);
CREATE INDEX partitions_by_day ON partitions (time_bucket);
CREATE TABLE series (
    id INTEGER PRIMARY KEY,
    series_id BLOB NOT NULL UNIQUE,
    customer_id TEXT NOT NULL,
    attributes TEXT NOT NULL,
    kind TEXT NOT NULL,
    last_bucket TEXT NOT NULL
);
CREATE TABLE samples (
    partition INTEGER NOT NULL,
    timestamp INTEGER NOT NULL,
    series INTEGER NOT NULL,
    value REAL,
    value_int INTEGER,
    unit TEXT NOT NULL,
    point BLOB,
    PRIMARY KEY (partition, timestamp, series)
) WITHOUT ROWID;
CREATE VIEW metrics AS
    SELECT node_id, metric_name, time_bucket, timestamp, value, customer_id,
           series_id, attributes, unit, kind, value_int, point
    FROM partitions
        CROSS JOIN samples ON samples.partition = partitions.id
        CROSS JOIN series ON series.id = samples.series
    ORDER BY timestamp DESC, series_id ASC;
"""

# A row that is there already, as it is, is not written again: a request that is sent twice costs
# no flash.
_INSERT = """
INSERT INTO samples (partition, timestamp, series, value, value_int, unit, point)
VALUES (?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (partition, timestamp, series) DO UPDATE SET
    value = excluded.value, value_int = excluded.value_int, unit = excluded.unit,
    point = excluded.point
WHERE (value, value_int, unit, point)
    IS NOT (excluded.value, excluded.value_int, excluded.unit, excluded.point)
"""


class ForeignError(Exception):
    """The file is a good database, but not ours, or of a later version; `word` says which."""

    def __init__(self, word: str, message: str) -> None:
        super().__init__(message)
        self.word = word


class Database:
    """The file, open for writing."""

    def __init__(self, path: Path) -> None:
        """Open or create `path`; raises OSError, sqlite3.Error and ForeignError."""
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not path.exists():
            # SQLite would create it readable by all; its journal then takes over our mode.
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        self.connection = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None)
        self._partitions: dict[tuple[str, str, str], int] = {}
        self._series: dict[tuple[bytes, str], int] = {}
        try:
            self._prepare()
        except BaseException:
            self.connection.close()
            raise

    def _prepare(self) -> None:
        execute = self.connection.execute
        is_new = self._one("SELECT count(*) FROM sqlite_schema") == 0
        if not is_new and self._one("PRAGMA application_id") != APPLICATION_ID:
            raise ForeignError("foreign", "a database of another program")
        version = self._one("PRAGMA user_version")
        if version > VERSION:
            raise ForeignError("newer", f"layout {version}, this program knows {VERSION}")
        if is_new:
            # Both can be chosen before the first page is written, and never again.
            execute(f"PRAGMA page_size = {_PAGE_BYTES}")
            execute("PRAGMA auto_vacuum = INCREMENTAL")
        execute("PRAGMA journal_mode = WAL")
        execute("PRAGMA synchronous = FULL")
        execute(f"PRAGMA wal_autocheckpoint = {_WAL_PAGES}")
        execute(f"PRAGMA journal_size_limit = {_WAL_PAGES * _PAGE_BYTES}")
        execute("PRAGMA temp_store = MEMORY")
        if is_new:
            marks = f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {VERSION};"
            self.connection.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} {marks} COMMIT;")

    def _one(self, statement: str) -> int:
        return int(self.connection.execute(statement).fetchone()[0])

    def begin(self) -> None:
        """Start a transaction; waits up to BUSY_S for another process that writes."""
        self.connection.execute("BEGIN IMMEDIATE")

    def commit(self) -> None:
        """Make everything since `begin` durable."""
        self.connection.execute("COMMIT")

    def forget_numbers(self) -> None:
        """Look up partitions and series anew: what gave them their numbers may be undone."""
        self._partitions.clear()
        self._series.clear()

    def insert(self, rows: Sequence[Row]) -> None:
        """Store `rows`; one that is there already is replaced."""
        if len(self._partitions) + len(self._series) > _MAX_NUMBERS:
            self.forget_numbers()
        self.connection.executemany(
            _INSERT,
            [
                (
                    self._partition(row),
                    row.timestamp_ms,
                    self._series_number(row),
                    row.value,
                    row.value_int,
                    row.unit,
                    row.point,
                )
                for row in rows
            ],
        )

    def _partition(self, row: Row) -> int:
        key = (row.node_id, row.metric_name, row.time_bucket)
        number = self._partitions.get(key)
        if number is None:
            # An update that changes nothing, so that RETURNING has a row in either case.
            found = self.connection.execute(
                "INSERT INTO partitions (node_id, metric_name, time_bucket) VALUES (?, ?, ?)"
                " ON CONFLICT DO UPDATE SET node_id = excluded.node_id RETURNING id",
                key,
            )
            number = self._partitions[key] = int(found.fetchone()[0])
        return number

    def _series_number(self, row: Row) -> int:
        key = (row.series_id, row.time_bucket)
        number = self._series.get(key)
        if number is None:
            found = self.connection.execute(
                "INSERT INTO series (series_id, customer_id, attributes, kind, last_bucket)"
                " VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE"
                " SET last_bucket = max(last_bucket, excluded.last_bucket) RETURNING id",
                (
                    row.series_id,
                    row.customer_id,
                    attributes_json(row.attributes),
                    row.kind,
                    row.time_bucket,
                ),
            )
            number = self._series[key] = int(found.fetchone()[0])
        return number

    def expire(self, cutoff_ms: int, max_rows: int) -> int:
        """Delete up to `max_rows` rows of `cutoff_ms` and earlier; returns how many.

        Less than `max_rows` means that nothing expired is left.
        """
        day = day_of(cutoff_ms)
        deleted = 0
        expired = self.connection.execute(
            "SELECT id, time_bucket FROM partitions WHERE time_bucket <= ? ORDER BY time_bucket",
            (day,),
        ).fetchall()
        for partition, bucket in expired:
            deleted += self._expire_samples(partition, cutoff_ms, max_rows - deleted)
            if deleted >= max_rows:
                return deleted
            if bucket < day:
                self.connection.execute("DELETE FROM partitions WHERE id = ?", (partition,))
        # No sample of an earlier day is left, so neither is a use of these.
        self.connection.execute("DELETE FROM series WHERE last_bucket < ?", (day,))
        self.forget_numbers()
        return deleted

    def _expire_samples(self, partition: int, cutoff_ms: int, max_rows: int) -> int:
        beyond = self.connection.execute(
            "SELECT timestamp, series FROM samples WHERE partition = ?"
            " ORDER BY timestamp, series LIMIT 1 OFFSET ?",
            (partition, max_rows),
        ).fetchone()
        sql = "DELETE FROM samples WHERE partition = ? AND timestamp <= ?"
        if beyond is None:
            return self.connection.execute(sql, (partition, cutoff_ms)).rowcount
        return self.connection.execute(
            f"{sql} AND (timestamp, series) < (?, ?)",
            (partition, cutoff_ms, *beyond),
        ).rowcount

    def give_back(self) -> None:
        """Return some free pages to the file system, if they are a quarter of the file."""
        if self._one("PRAGMA freelist_count") * 4 > self._one("PRAGMA page_count"):
            self.connection.execute(f"PRAGMA incremental_vacuum({_VACUUM_PAGES})").fetchall()

    def present_ms(self) -> int | None:
        """The newest sample's time, by milliseconds since 1970; None without any.

        Where days are missing between the last three that have samples, it is that of the last day
        before: what came later may have come with a wrong date.
        """
        days: list[date] = []
        while len(days) < 3:
            before = days[-1].isoformat() if days else "~"
            older = self.connection.execute(
                "SELECT max(time_bucket) FROM partitions WHERE time_bucket < ?", (before,)
            ).fetchone()[0]
            if older is None:
                break
            days.append(date.fromisoformat(older))
        if not days:
            return None
        present = days[0]
        for later, earlier in pairwise(days):
            if later - earlier > timedelta(days=1):
                present = earlier
        newest: int | None = self.connection.execute(
            "SELECT max((SELECT max(timestamp) FROM samples WHERE partition = partitions.id))"
            " FROM partitions WHERE time_bucket = ?",
            (present.isoformat(),),
        ).fetchone()[0]
        return newest

    def prove(self) -> None:
        """Write something: raises what a request would meet, but for its size."""
        self.connection.execute(f"PRAGMA user_version = {VERSION}")

    def size_bytes(self) -> int:
        """What the file takes, its journal not counted."""
        return self._one("PRAGMA page_count") * _PAGE_BYTES

    def close(self) -> None:
        """Bring the journal into the file and close it; forgets what was not committed."""
        try:
            self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        except sqlite3.Error:
            # The journal stays beside the file, and is as durable there.
            pass
        finally:
            self.connection.close()


def prove_room(directory: Path, size: int) -> None:
    """Raise OSError unless `size` bytes more fit into `directory`.

    They are reserved and given back, not written: an outage may last for weeks, on flash.
    """
    if size == 0:
        return
    # Without a name, so that nothing is left behind by a kill.
    with tempfile.TemporaryFile(dir=directory, buffering=0) as file:
        try:
            os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            # Where the file system cannot reserve and the C library does not write instead.
            if error.errno not in (errno.EOPNOTSUPP, errno.ENOSYS):
                raise


def attributes_json(attributes: Mapping[str, str]) -> str:
    """The text in the column `attributes`."""
    return json.dumps(attributes, ensure_ascii=False, separators=(",", ":"), sort_keys=True)


def is_corrupt(error: Exception) -> bool:
    """Whether the file itself is damaged, so that no retry will help."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def is_storage_fault(error: Exception) -> bool:
    """Whether the medium, the file system or another process is in the way, and not a bug."""
    return isinstance(error, OSError) or type(error) in (
        sqlite3.OperationalError,
        sqlite3.DatabaseError,
    )


def move_aside(path: Path, word: str, now_ns: int) -> Path:
    """Rename the file and its journal to `metrics.db.WORD-TIME`; returns the new name.

    Raises OSError.
    """
    stamp = datetime.fromtimestamp(now_ns / 1e9, UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    target = path.with_name(f"{path.name}.{word}-{stamp}")
    for suffix in ("-wal", "-shm", ""):
        source = path.with_name(path.name + suffix)
        if source.exists():
            source.rename(target.with_name(target.name + suffix))
    return target


def day_of(time_ms: int) -> str:
    """The UTC date in which `time_ms` since 1970 is: its time_bucket."""
    return datetime.fromtimestamp(time_ms // 1000, UTC).date().isoformat()
