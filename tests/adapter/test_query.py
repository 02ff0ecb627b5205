"""`cassandra-adapter query` as a person and as a script sees it."""

import io
import json
import math
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from adapter.database import FILE_NAME, Database
from adapter.query import query
from adapter.row import Row
from edge_agent.settings import ConfigError
from tests.adapter.test_database import DAY_MS, MIDNIGHT_MS, row

NOW_NS = (MIDNIGHT_MS + 37_800_000) * 10**6
TEN_MS = 36_000_000


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def ask(
    directory: Path,
    node: str = "edge-01",
    metric: str = "system.cpu.percent",
    out: io.StringIO | None = None,
    **options: Any,
) -> tuple[str, str]:
    """What goes to standard output and standard error."""
    out, err = out or io.StringIO(), io.StringIO()
    given = {"since_s": 3600.0, "limit": None, "as_json": False, "now_ns": NOW_NS} | options
    printed = query(directory, node, metric, out=out, err=err, **given)
    lines = out.getvalue().splitlines()
    assert printed == len(lines) - ("time" in out.getvalue()[:4])
    return out.getvalue(), err.getvalue()


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    """A store with rows of every sort."""

    def at(minute: int, value: float, **other: Any) -> Row:
        # A series has one set of attributes.
        series = b"s" * 15 + bytes([minute])
        return row(TEN_MS + minute * 60_000 + 123, value, series, **other)

    rows = [
        at(0, 12.5, attributes={"state": "user", "cpu": "0"}),
        at(5, 3.0, value_int=9_007_199_254_740_993, unit="By", attributes={}),
        at(10, math.nan, unit="", attributes={"mount point": "/a b", "quote": 'x"y', "empty": ""}),
        at(15, -math.inf, unit="{fault}", attributes={"line": "a\nb\x1b[31m", "ü": "ñ"}),
        row(-DAY_MS, 1.0),
        row(0, 5.0, metric_name="system.memory.percent"),
    ]
    database = Database(tmp_path / FILE_NAME)
    database.begin()
    database.insert(rows)
    database.commit()
    database.close()
    return tmp_path


def test_rows_are_lines_newest_first(stored: Path):
    """The golden output: time, value, unit, attributes, whatever is in them."""
    out, err = ask(stored)
    assert out.splitlines() == [
        '2026-01-31T10:15:00.123Z              -Inf  {fault}     line="a\\\\nb\\\\x1b[31m" ü=ñ',
        '2026-01-31T10:10:00.123Z               NaN  -           empty="" '
        '"mount point"="/a b" quote="x\\"y"',
        "2026-01-31T10:05:00.123Z  9007199254740993  By",
        "2026-01-31T10:00:00.123Z              12.5  %           cpu=0 state=user",
    ]
    assert err == ""


def test_a_terminal_gets_a_header_and_a_pipe_does_not(stored: Path):
    """Scripts count lines."""
    header, first = ask(stored, out=Terminal(), limit=1)[0].splitlines()
    assert header == "time                                 value  unit        attributes"
    assert first.startswith("2026-01-31T10:15:00.123Z")
    assert ask(stored, out=Terminal(), limit=1, as_json=True)[0].startswith("{")


def test_json_is_one_object_a_line_with_exact_numbers(stored: Path):
    """What JSON has no number for is a string; the values of a map are what was stored."""
    lines = ask(stored, as_json=True)[0].splitlines()
    documents = [json.loads(line) for line in lines]
    assert [d["value"] for d in documents] == ["-Inf", "NaN", 9_007_199_254_740_993, 12.5]
    assert documents[3] == {
        "time": "2026-01-31T10:00:00.123Z",
        "value": 12.5,
        "unit": "%",
        "attributes": {"cpu": "0", "state": "user"},
        "kind": "gauge",
        "customer_id": "acme",
        "series_id": "73" * 15 + "00",
    }
    assert documents[0]["attributes"]["line"] == "a\nb\x1b[31m"


def test_since_spans_days_and_limit_stops(stored: Path):
    """Each day is a partition of its own."""
    out, _ = ask(stored, since_s=3 * 86_400.0)
    assert out.splitlines()[-1].startswith("2026-01-30T00:00:00.000Z")
    assert len(out.splitlines()) == 5
    assert len(ask(stored, since_s=3 * 86_400.0, limit=2)[0].splitlines()) == 2
    assert len(ask(stored, since_s=1200.0)[0].splitlines()) == 2


def test_a_sample_slightly_ahead_of_our_clock_is_shown(stored: Path):
    """The adapter took it: up to ten minutes."""
    early = NOW_NS - 20 * 60 * 10**9
    assert "10:15:00" in ask(stored, now_ns=early)[0]


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (
            {"metric": "system.cpu.percnt"},
            "no rows of system.cpu.percnt of node edge-01 in the last 1h\n"
            "no such metric; nearest is system.cpu.percent;"
            " metrics: system.cpu.percent, system.memory.percent\n",
        ),
        (
            {"node": "edge-1"},
            "no rows of system.cpu.percent of node edge-1 in the last 1h\n"
            "no such node; nearest is edge-01; nodes: edge-01\n",
        ),
        (
            {"node": "zzz"},
            "no rows of system.cpu.percent of node zzz in the last 1h\n"
            "no such node; nodes: edge-01\n",
        ),
        (
            {"since_s": 60.0},
            "no rows of system.cpu.percent of node edge-01 in the last 1m\n"
            "the newest is of 2026-01-31T10:15:00.123Z: try --since 2h\n",
        ),
    ],
)
def test_without_rows_a_person_is_told_what_there_is(
    stored: Path, asked: dict[str, Any], says: str
):
    """On standard error: a pipe stays empty."""
    assert ask(stored, **asked) == ("", says)


def test_following_the_advice_finds_rows(stored: Path):
    """The proposed age is enough."""
    assert ask(stored, since_s=7200.0)[0] != ""


def test_an_empty_store_says_so(tmp_path: Path):
    """Before the first request."""
    Database(tmp_path / FILE_NAME).close()
    assert ask(tmp_path)[1].endswith("nothing is stored yet\n")


def test_a_long_list_is_cut(tmp_path: Path):
    """Hundreds of metrics are no help."""
    database = Database(tmp_path / FILE_NAME)
    database.begin()
    database.insert([row(metric_name=f"m{n:02}") for n in range(15)])
    database.commit()
    database.close()
    assert ask(tmp_path, metric="?")[1].endswith(
        "metrics: m00, m01, m02, m03, m04, m05, m06, m07, m08, m09 and 5 more\n"
    )


def test_no_store_is_a_matter_of_configuration(tmp_path: Path):
    """The message names the file and the setting."""
    with pytest.raises(ConfigError, match="no store there; set STATE_DIRECTORY"):
        ask(tmp_path)
    (tmp_path / FILE_NAME).write_bytes(b"garbage" * 1000)
    with pytest.raises(ConfigError, match="cannot be read: file is not a database"):
        ask(tmp_path)


def test_a_reader_who_may_not_write_the_directory_reads_a_store_at_rest(
    stored: Path, monkeypatch: pytest.MonkeyPatch
):
    """SQLite wants to make shared memory beside the file; at rest it can do without."""
    connect = sqlite3.connect

    def without_shared_memory(address: str, **more: Any) -> sqlite3.Connection:
        if "immutable" not in address:
            connection = connect(":memory:")
            connection.close()
            return Refusing(connection)  # type: ignore[return-value]
        return connect(address, **more)

    class Refusing:
        def __init__(self, connection: sqlite3.Connection) -> None:
            self.close = connection.close

        def execute(self, _: str) -> None:
            raise sqlite3.OperationalError("unable to open database file")

    monkeypatch.setattr(sqlite3, "connect", without_shared_memory)
    assert len(ask(stored)[0].splitlines()) == 4
    (stored / f"{FILE_NAME}-wal").write_bytes(b"")
    with pytest.raises(ConfigError, match="unable to open database file"):
        ask(stored)
