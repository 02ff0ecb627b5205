"""The SQLite file as a reader sees it, who may read while the adapter writes."""

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from adapter.database import BUSY_S, day_of
from adapter.row import Row


def open_for_reading(path: Path) -> sqlite3.Connection:
    """The file, without the right to change it, while the adapter may be writing it.

    Raises sqlite3.Error.
    """
    uri = f"{path.absolute().as_uri()}?mode=ro"
    connection = sqlite3.connect(uri, uri=True, timeout=BUSY_S, isolation_level=None)
    try:
        connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    except sqlite3.OperationalError:
        connection.close()
        if path.with_name(path.name + "-wal").exists():
            raise
        # Whoever may not write the directory can make no shared memory for the journal; without a
        # journal none is needed, as nobody is writing.
        connection = sqlite3.connect(f"{uri}&immutable=1", uri=True, isolation_level=None)
    return connection


def newest_rows(
    connection: sqlite3.Connection,
    node_id: str,
    metric_name: str,
    *,
    from_ms: int,
    to_ms: int,
    limit: int | None,
) -> Iterator[Row]:
    """Rows with `from_ms` <= timestamp <= `to_ms`, newest first, at most `limit`."""
    buckets = connection.execute(
        "SELECT time_bucket FROM partitions WHERE node_id = ? AND metric_name = ?"
        " AND time_bucket BETWEEN ? AND ? ORDER BY time_bucket DESC",
        (node_id, metric_name, day_of(from_ms), day_of(to_ms)),
    ).fetchall()
    # SQLite takes a negative limit for none.
    left, taken = (-1, 0) if limit is None else (limit, 1)
    for (bucket,) in buckets:
        found = connection.execute(
            "SELECT * FROM metrics WHERE node_id = ? AND metric_name = ? AND time_bucket = ?"
            " AND timestamp BETWEEN ? AND ? LIMIT ?",
            (node_id, metric_name, bucket, from_ms, to_ms, left),
        )
        for node, metric, day, time_ms, value, customer, series_id, attributes, *others in found:
            yield Row(
                node,
                metric,
                day,
                time_ms,
                float("nan") if value is None else value,
                customer,
                series_id,
                json.loads(attributes),
                *others,
            )
            left -= taken


def node_ids(connection: sqlite3.Connection) -> list[str]:
    """Every node that has rows."""
    return [node for (node,) in connection.execute("SELECT DISTINCT node_id FROM partitions")]


def metric_names(connection: sqlite3.Connection, node_id: str) -> list[str]:
    """Every metric that `node_id` has rows of."""
    found = connection.execute(
        "SELECT DISTINCT metric_name FROM partitions WHERE node_id = ?", (node_id,)
    )
    return [name for (name,) in found]


def newest_ms(connection: sqlite3.Connection, node_id: str, metric_name: str) -> int | None:
    """When the newest row was sampled, in milliseconds; None without rows."""
    found = connection.execute(
        "SELECT max(timestamp) FROM samples WHERE partition = (SELECT id FROM partitions"
        " WHERE node_id = ? AND metric_name = ? ORDER BY time_bucket DESC LIMIT 1)",
        (node_id, metric_name),
    ).fetchone()
    return None if found is None else found[0]
