"""`cassandra-adapter query`: the rows of one metric of one node, newest first.

    2026-01-31T10:30:00.123Z          12.5  %         cpu=0 state=user

Columns are padded, not cut. Names and attributes may hold anything: what is not printable is
written as an escape, and an attribute with blanks in quotes, so that a row stays one line.
"""

import json
import math
import sqlite3
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

from adapter.database import FILE_NAME
from adapter.reader import metric_names, newest_ms, newest_rows, node_ids, open_for_reading
from adapter.row import MAX_AHEAD_S, Row, number_text
from edge_agent.settings import ConfigError, format_duration, nearest

_HEADER = f"{'time':24}  {'value':>16}  {'unit':10}  attributes"


def query(
    directory: Path,
    node_id: str,
    metric_name: str,
    *,
    since_s: float,
    limit: int | None,
    as_json: bool,
    out: TextIO,
    err: TextIO,
    now_ns: int | None = None,
) -> int:
    """Print the rows of the last `since_s` seconds to `out`, newest first; returns how many.

    Without rows it says on `err` what there is instead. Raises ConfigError where there is no
    store or it cannot be read.
    """
    path = directory / FILE_NAME
    now_ms = (time.time_ns() if now_ns is None else now_ns) // 1_000_000
    if not path.exists():
        raise ConfigError(
            f"{path}: no store there; set STATE_DIRECTORY to that of the adapter that stores"
        )
    try:
        connection = open_for_reading(path)
        try:
            printed = 0
            for row in newest_rows(
                connection,
                node_id,
                metric_name,
                from_ms=now_ms - round(since_s * 1000),
                # Clocks differ: what the adapter took for the present is shown.
                to_ms=now_ms + MAX_AHEAD_S * 1000,
                limit=limit,
            ):
                if printed == 0 and not as_json and out.isatty():
                    print(_HEADER, file=out)
                print(_json(row) if as_json else _line(row), file=out)
                printed += 1
            if printed == 0:
                for line in _instead(connection, node_id, metric_name, since_s, now_ms):
                    print(line, file=err)
            return printed
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None


def rfc3339_ms(time_ms: int) -> str:
    """`time_ms` since 1970 as RFC 3339, UTC, to the millisecond."""
    time = datetime.fromtimestamp(time_ms // 1000, UTC)
    return f"{time:%Y-%m-%dT%H:%M:%S}.{time_ms % 1000:03d}Z"


def _line(row: Row) -> str:
    value = number_text(row.value) if row.value_int is None else str(row.value_int)
    attributes = " ".join(f"{_word(k)}={_word(v)}" for k, v in sorted(row.attributes.items()))
    unit = _word(row.unit) if row.unit else "-"
    return f"{rfc3339_ms(row.timestamp_ms)}  {value:>16}  {unit:10}  {attributes}".rstrip()


def _word(text: str) -> str:
    if text and text.isprintable() and not set(text) & set(" \"'="):
        return text
    return json.dumps(_printable(text), ensure_ascii=False)


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _json(row: Row) -> str:
    value: float | int | str = row.value if row.value_int is None else row.value_int
    if isinstance(value, float) and not math.isfinite(value):
        value = number_text(value)
    document: Mapping[str, object] = {
        "time": rfc3339_ms(row.timestamp_ms),
        "value": value,
        "unit": row.unit,
        "attributes": row.attributes,
        "kind": row.kind,
        "customer_id": row.customer_id,
        "series_id": row.series_id.hex(),
    }
    return json.dumps(document, ensure_ascii=False)


def _instead(
    connection: sqlite3.Connection, node_id: str, metric_name: str, since_s: float, now_ms: int
) -> list[str]:
    """What a person who got no rows needs to know."""
    node, metric = _word(node_id), _word(metric_name)
    lines = [f"no rows of {metric} of node {node} in the last {format_duration(since_s)}"]
    newest = newest_ms(connection, node_id, metric_name)
    if newest is not None:
        hours = max(1, math.ceil((now_ms - newest) / 3_600_000) + 1)
        return [*lines, f"the newest is of {rfc3339_ms(newest)}: try --since {hours}h"]
    nodes = node_ids(connection)
    if node_id not in nodes:
        return [*lines, _offer("node", node_id, nodes)]
    return [*lines, _offer("metric", metric_name, metric_names(connection, node_id))]


def _offer(what: str, sought: str, known: list[str]) -> str:
    if not known:
        return "nothing is stored yet"
    guess = nearest(sought, known)
    shown = sorted(known)[:10]
    more = f" and {len(known) - len(shown)} more" if len(known) > len(shown) else ""
    listed = f"{what}s: {', '.join(map(_word, shown))}{more}"
    return f"no such {what}; " + (f"nearest is {_word(guess)}; {listed}" if guess else listed)
