"""The SQLite file keeps what it is given, answers CONTRACT's query, and forgets in steps."""

import math
import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapter.database import (
    APPLICATION_ID,
    FILE_NAME,
    VERSION,
    Database,
    ForeignError,
    is_corrupt,
    is_storage_fault,
    move_aside,
)
from adapter.reader import metric_names, newest_ms, newest_rows, node_ids, open_for_reading
from adapter.row import Row

DAY_MS = 86_400_000
# 2026-01-31T00:00:00Z.
MIDNIGHT_MS = 1_769_817_600_000
DATES = {-2: "2026-01-29", -1: "2026-01-30", 0: "2026-01-31"}
QUERY = (
    "SELECT * FROM metrics WHERE node_id = 'edge-01' AND metric_name = 'system.cpu.percent'"
    " AND time_bucket = '2026-01-31' LIMIT 10"
)


def row(at_ms: int = 0, value: float = 1.0, series: bytes = b"s" * 16, **other: Any) -> Row:
    """A row `at_ms` after midnight."""
    plain = Row(
        node_id="edge-01",
        metric_name="system.cpu.percent",
        time_bucket=DATES[at_ms // DAY_MS],
        timestamp_ms=MIDNIGHT_MS + at_ms,
        value=value,
        customer_id="acme",
        series_id=series,
        attributes={"cpu": "0"},
        unit="%",
        kind="gauge",
        value_int=None,
        point=None,
    )
    return plain._replace(**other)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    """A new file."""
    opened = Database(tmp_path / FILE_NAME)
    yield opened
    opened.close()


def store(database: Database, *rows: Row) -> None:
    """Write `rows` in one transaction."""
    database.begin()
    database.insert(rows)
    database.commit()


def stored(database: Database) -> list[Row]:
    """Everything, newest first."""
    found = []
    for node in node_ids(database.connection):
        for name in metric_names(database.connection, node):
            found += newest_rows(
                database.connection, node, name, from_ms=0, to_ms=2**45, limit=None
            )
    return found


def pages_written(database: Database) -> int:
    """Pages that the journal holds."""
    return int(database.connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()[1])


# ---- what is there ----------------------------------------------------------------------------


def test_the_contracts_query_returns_the_newest_first(database: Database):
    """CONTRACT, "users query exactly this", without an ORDER BY."""
    store(database, *[row(at_ms=n, value=float(n)) for n in (5, 1, 9, 3, *range(20, 40))])
    found = database.connection.execute(QUERY).fetchall()
    assert [line[4] for line in found] == [float(n) for n in range(39, 29, -1)]


def test_series_of_one_moment_are_ordered_by_their_id(database: Database):
    """Clustering is (timestamp DESC, series_id ASC)."""
    store(database, *[row(series=bytes([n]) * 16) for n in (3, 1, 2)])
    found = database.connection.execute(QUERY).fetchall()
    assert [line[6][0] for line in found] == [1, 2, 3]


def test_the_columns_are_the_contracts(database: Database):
    """The six of the first table in their order, then those of the extended one."""
    cursor = database.connection.execute("SELECT * FROM metrics")
    assert [column[0] for column in cursor.description] == [
        "node_id",
        "metric_name",
        "time_bucket",
        "timestamp",
        "value",
        "customer_id",
        "series_id",
        "attributes",
        "unit",
        "kind",
        "value_int",
        "point",
    ]


def test_a_query_reads_its_partition_alone(database: Database):
    """Neither a scan nor a sort of more than one moment, however large the file."""
    plan = database.connection.execute(
        "EXPLAIN QUERY PLAN SELECT * FROM metrics WHERE node_id = ? AND metric_name = ?"
        " AND time_bucket = ? AND timestamp BETWEEN ? AND ? LIMIT ?",
        ("a", "b", "c", 1, 2, 3),
    ).fetchall()
    details = [step[3] for step in plan]
    assert "SCAN" not in " ".join(details)
    assert any("samples USING PRIMARY KEY (partition=? AND timestamp>" in d for d in details)
    sorts = [d for d in details if "TEMP B-TREE" in d]
    assert all("RIGHT PART" in d or "LAST TERM" in d for d in sorts)


@pytest.mark.parametrize(
    "kept",
    [
        row(value=math.inf),
        row(value=-math.inf),
        row(value=2.0**63, value_int=2**63 - 1),
        row(value_int=-(2**63)),
        row(point=b"\x00\x01", unit="", kind="delta"),
        row(attributes={"ü": "\x00'\"", "": ""}, node_id="ñ'--", metric_name="a\x00b"),
        row(attributes={}),
    ],
)
def test_a_row_is_read_as_it_was_written(database: Database, kept: Row):
    """Whatever is in it."""
    store(database, kept)
    assert stored(database) == [kept]


def test_nan_is_null_in_the_file_and_nan_when_read(database: Database):
    """SQLite has no NaN; nothing else is ever NULL there."""
    store(database, row(value=math.nan))
    assert database.connection.execute(QUERY).fetchone()[4] is None
    assert math.isnan(stored(database)[0].value)


def test_a_row_sent_twice_is_there_once_and_costs_no_write(database: Database):
    """A resent request changes nothing, not even the journal."""
    rows = [row(at_ms=n, value=math.nan if n else 1.0) for n in range(10)]
    store(database, *rows)
    before = pages_written(database)
    store(database, *rows)
    assert pages_written(database) == before
    assert len(stored(database)) == 10


def test_a_row_of_the_same_key_replaces_the_other(database: Database):
    """The key is (node_id, metric_name, time_bucket, timestamp, series_id)."""
    later = row(value=2.0, value_int=2, unit="1", point=b"p")
    store(database, row(value=1.0), later)
    assert stored(database) == [later]


ROWS = st.lists(
    st.builds(
        lambda at, series, value, node, name: row(
            at, value, bytes([series]) * 16, attributes={"n": str(series)}
        )._replace(node_id=node, metric_name=name),
        st.integers(-2 * DAY_MS, DAY_MS - 1) | st.sampled_from([0, 1, -1]),
        st.integers(1, 3),
        st.floats(allow_nan=False).map(lambda value: value + 0.0),
        st.sampled_from(["a", "b"]),
        st.sampled_from(["m", "n"]),
    ),
    max_size=12,
)


@given(st.lists(ROWS, max_size=4), st.integers(-2 * DAY_MS, DAY_MS), st.integers(1, 5))
@settings(max_examples=60, deadline=None)
def test_the_file_is_a_map_that_forgets(
    tmp_path_factory: pytest.TempPathFactory, batches: list[list[Row]], cutoff: int, step: int
):
    """Against a dict: whatever is written, twice, and then expired in steps of any size."""
    database = Database(tmp_path_factory.mktemp("map") / "metrics.db")
    model: dict[tuple[Any, ...], Row] = {}
    for batch in batches * 2:
        store(database, *batch)
        for r in batch:
            model[(r.node_id, r.metric_name, r.time_bucket, r.timestamp_ms, r.series_id)] = r
    assert sorted(stored(database), key=repr) == sorted(model.values(), key=repr)
    cutoff_ms = MIDNIGHT_MS + cutoff
    left = [r for r in model.values() if r.timestamp_ms > cutoff_ms]
    deleted = 0
    while True:
        database.begin()
        now = database.expire(cutoff_ms, step)
        database.commit()
        assert now <= step
        deleted += now
        if now < step:
            break
    assert deleted == len(model) - len(left)
    assert sorted(stored(database), key=repr) == sorted(left, key=repr)
    # What is written after that finds its numbers again.
    for batch in batches:
        store(database, *batch)
    assert sorted(stored(database), key=repr) == sorted(
        {k: r for k, r in model.items() if any(r in batch for batch in batches)}.values(), key=repr
    )
    database.close()


def test_names_and_attributes_of_what_expired_go_too(database: Database):
    """A day later nothing is left of a series that was sent no more."""
    store(database, row(-DAY_MS, series=b"a" * 16), row(0, series=b"b" * 16))
    database.begin()
    assert database.expire(MIDNIGHT_MS, 10) == 2
    database.commit()
    count = "SELECT (SELECT count(*) FROM series), (SELECT count(*) FROM partitions)"
    # Those of the cutoff's own day go with the next day's sweep.
    assert database.connection.execute(count).fetchone() == (1, 1)
    database.begin()
    assert database.expire(MIDNIGHT_MS + DAY_MS, 10) == 0
    database.commit()
    assert database.connection.execute(count).fetchone() == (0, 0)


def test_free_pages_are_used_again_and_then_given_back(database: Database):
    """The file does not grow while as much expires as comes in, and shrinks after a flood."""
    rows = [row(n, attributes={"n": str(n)}, series=n.to_bytes(16, "big")) for n in range(3000)]
    store(database, *rows)
    full = database.size_bytes()
    database.begin()
    assert database.expire(MIDNIGHT_MS + 3000, 5000) == 3000
    database.commit()
    store(database, *[r._replace(timestamp_ms=r.timestamp_ms + 5000) for r in rows])
    assert database.size_bytes() <= full * 1.05
    database.begin()
    database.expire(MIDNIGHT_MS + DAY_MS, 5000)
    database.commit()
    sizes = []
    for _ in range(3):
        database.begin()
        database.give_back()
        database.commit()
        sizes.append(database.size_bytes())
    assert full > sizes[0] > sizes[1]


def test_numbers_are_looked_up_again_when_too_many_are_remembered(
    database: Database, monkeypatch: pytest.MonkeyPatch
):
    """Memory is bounded however many series there are."""
    monkeypatch.setattr("adapter.database._MAX_NUMBERS", 10)
    for n in range(30):
        store(database, row(n, series=n.to_bytes(16, "big")))
        assert len(database._partitions) + len(database._series) <= 12
    store(database, *[row(n, value=9.0, series=n.to_bytes(16, "big")) for n in range(30)])
    assert [r.value for r in stored(database)] == [9.0] * 30


# ---- the file ---------------------------------------------------------------------------------


def test_the_file_is_nobody_elses(tmp_path: Path):
    """Directory 0700, file and journal 0600."""
    path = tmp_path / "new" / FILE_NAME
    database = Database(path)
    store(database, row())
    modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in path.parent.iterdir()}
    assert modes == {FILE_NAME: 0o600, f"{FILE_NAME}-wal": 0o600, f"{FILE_NAME}-shm": 0o600}
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    database.close()
    assert [p.name for p in path.parent.iterdir()] == [FILE_NAME]


def test_the_mode_that_an_owner_chose_stays(tmp_path: Path):
    """For a group that may read, say."""
    path = tmp_path / FILE_NAME
    Database(path).close()
    path.chmod(0o640)
    Database(path).close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_commit_waits_for_the_medium(database: Database):
    """WAL and FULL: an answered request survives a power cut."""
    one = database._one
    assert database.connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert one("PRAGMA synchronous") == 2
    assert (one("PRAGMA user_version"), one("PRAGMA application_id")) == (VERSION, APPLICATION_ID)
    assert (one("PRAGMA auto_vacuum"), one("PRAGMA page_size")) == (2, 1024)


def test_what_was_stored_is_there_after_opening_again(tmp_path: Path):
    """And goes on with the same numbers."""
    for n in range(2):
        database = Database(tmp_path / FILE_NAME)
        store(database, row(n))
        database.close()
    database = Database(tmp_path / FILE_NAME)
    assert stored(database) == [row(1), row(0)]
    database.close()


def test_an_unfinished_transaction_is_forgotten(tmp_path: Path):
    """Closing keeps what was committed alone."""
    database = Database(tmp_path / FILE_NAME)
    store(database, row(0))
    database.begin()
    database.insert([row(1)])
    database.close()
    database = Database(tmp_path / FILE_NAME)
    assert stored(database) == [row(0)]
    database.close()


@pytest.mark.parametrize(
    ("statement", "word"),
    [("PRAGMA user_version = 99", "newer"), ("PRAGMA application_id = 7", "foreign")],
)
def test_a_database_that_is_not_ours_is_not_touched(tmp_path: Path, statement: str, word: str):
    """Of a later version, or of another program."""
    path = tmp_path / FILE_NAME
    database = Database(path)
    database.connection.execute(statement)
    database.close()
    before = path.read_bytes()
    with pytest.raises(ForeignError) as raised:
        Database(path)
    assert raised.value.word == word
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", [b"not a database" * 1000, bytes(5000)])
def test_a_file_that_is_no_database_is_called_corrupt(tmp_path: Path, content: bytes):
    """The sign to move it aside."""
    path = tmp_path / FILE_NAME
    path.write_bytes(content)
    with pytest.raises(sqlite3.DatabaseError) as raised:
        Database(path)
    assert is_corrupt(raised.value)
    assert is_storage_fault(raised.value)
    assert path.read_bytes() == content


def test_faults_of_the_medium_are_not_bugs_and_bugs_are_not_faults():
    """What is retried, and what is a 500."""
    assert is_storage_fault(OSError(28, "No space left on device"))
    assert is_storage_fault(sqlite3.OperationalError("database or disk is full"))
    assert not is_storage_fault(sqlite3.IntegrityError("NOT NULL constraint failed"))
    assert not is_storage_fault(OverflowError("Python int too large to convert to SQLite INTEGER"))
    assert not is_corrupt(sqlite3.OperationalError("database or disk is full"))


def test_moving_aside_keeps_file_and_journal_together(tmp_path: Path):
    """Under a name that says why and when; SQLite can open the pair for a person."""
    for suffix in ("", "-wal", "-shm"):
        (tmp_path / f"{FILE_NAME}{suffix}").write_text(suffix)
    target = move_aside(tmp_path / FILE_NAME, "corrupt", 1_769_855_400_123_456_789)
    assert target.name == "metrics.db.corrupt-20260131T103000.123457Z"
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {
        target.name: "",
        f"{target.name}-wal": "-wal",
        f"{target.name}-shm": "-shm",
    }


# ---- reading ----------------------------------------------------------------------------------


def test_a_reader_sees_what_was_committed_while_the_writer_goes_on(database: Database):
    """And cannot change it."""
    store(database, row(0))
    reader = open_for_reading(
        Path(database.connection.execute("PRAGMA database_list").fetchone()[2])
    )
    database.begin()
    database.insert([row(1)])
    assert reader.execute("SELECT count(*) FROM metrics").fetchone() == (1,)
    database.commit()
    assert reader.execute("SELECT count(*) FROM metrics").fetchone() == (2,)
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        reader.execute("DELETE FROM samples")
    reader.close()


def test_rows_span_days_newest_first_up_to_a_limit(database: Database):
    """The days are asked one after the other; both ends of the time span belong to it."""
    rows = [row(at_ms=at) for at in (DAY_MS - 1, 5, 0, -1, -DAY_MS, -2 * DAY_MS)]
    store(database, *reversed(rows), row(7, node_id="other"), row(7, metric_name="other"))

    def read(from_ms: int, to_ms: int, limit: int | None) -> list[Row]:
        return list(
            newest_rows(
                database.connection,
                "edge-01",
                "system.cpu.percent",
                from_ms=MIDNIGHT_MS + from_ms,
                to_ms=MIDNIGHT_MS + to_ms,
                limit=limit,
            )
        )

    assert read(-2 * DAY_MS, DAY_MS - 1, None) == rows
    assert read(-DAY_MS, 5, None) == rows[1:5]
    assert read(-2 * DAY_MS, DAY_MS, 4) == rows[:4]
    assert read(-2 * DAY_MS, DAY_MS, 1) == rows[:1]
    assert read(6, 6, None) == []


def test_what_is_there_can_be_listed(database: Database):
    """For a person who mistyped a name."""
    store(database, row(0), row(-DAY_MS), row(3, node_id="b", metric_name="x"))
    assert sorted(node_ids(database.connection)) == ["b", "edge-01"]
    assert metric_names(database.connection, "edge-01") == ["system.cpu.percent"]
    assert newest_ms(database.connection, "edge-01", "system.cpu.percent") == MIDNIGHT_MS
    assert newest_ms(database.connection, "edge-01", "x") is None
