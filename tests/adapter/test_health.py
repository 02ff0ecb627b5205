"""/health and /metrics in each state of the store."""

import json
from pathlib import Path

import pytest

from adapter.health import Counters, health, metrics_text, rfc3339
from adapter.rows import REASONS, Outcome
from adapter.sqlite import StoreState
from tests.adapter.build import NOW_NS

FRESH = StoreState("/srv/metrics.db")
BUSY = StoreState(
    "/srv/metrics.db",
    last_write_ns=NOW_NS,
    latency_s=0.0012345,
    latency_sum_s=1.5,
    commits=3,
    rows=300,
    expired_rows=4,
    size_bytes=65536,
    moved_aside=1,
)


def counters() -> Counters:
    """Two requests stored, one not, three data points without a row."""
    counted = Counters(100.0)
    counted.answered(200)
    counted.answered(200)
    counted.answered(503)
    outcome = Outcome()
    outcome.reject("time_zero", 2, "metric m of node n")
    outcome.skip("expired")
    counted.settled(outcome)
    return counted


def test_healthy():
    """The whole document."""
    assert health(BUSY, counters(), now_ns=NOW_NS, now_s=160.5, version="1.0") == (
        200,
        {
            "status": "healthy",
            "timestamp": "2026-01-31T10:30:00Z",
            "uptime_seconds": 60,
            "version": "1.0",
            "checks": {
                "store": {
                    "status": "healthy",
                    "kind": "sqlite",
                    "path": "/srv/metrics.db",
                    "last_write": "2026-01-31T10:30:00Z",
                    "latency_ms": 1.234,
                    "rows": 300,
                    "size_bytes": 65536,
                }
            },
        },
    )


@pytest.mark.parametrize(
    ("state", "code", "status"),
    [
        (FRESH, 200, "healthy"),
        (StoreState("/srv/metrics.db", error="disk is full"), 200, "degraded"),
        (StoreState("/srv/metrics.db", error="thread died", alive=False), 503, "unhealthy"),
    ],
)
def test_a_store_that_is_away_is_no_reason_to_restart(state: StoreState, code: int, status: str):
    """503 only when nothing but a restart helps. The error is an extra key."""
    got, document = health(state, counters(), now_ns=NOW_NS, now_s=160.5, version="1.0")
    check = document["checks"]["store"]  # type: ignore[index]
    assert (got, document["status"], check["status"]) == (code, status, status)
    assert check.get("error") == state.error
    assert check["last_write"] is None
    assert check["latency_ms"] is None
    json.dumps(document)


@pytest.mark.parametrize("now_ns", [0, NOW_NS, 2 * NOW_NS])
def test_setting_the_clock_does_not_change_how_long_we_have_been_up(now_ns: int):
    """Devices learn the time late."""
    _, document = health(FRESH, Counters(7.0), now_ns=now_ns, now_s=10.9, version="1")
    assert document["uptime_seconds"] == 3


def test_metrics_are_the_golden_text():
    """Names, types, labels and order; change the file where a change is meant."""
    golden = Path(__file__).parent / "golden_metrics.txt"
    assert metrics_text(BUSY, counters()) == golden.read_text()


def test_every_reason_is_there_from_the_start():
    """A counter that appears with its first event cannot be alerted on."""
    text = metrics_text(FRESH, Counters(0))
    for reason in REASONS:
        assert f'adapter_points_rejected_total{{reason="{reason}"}} 0\n' in text
    assert 'adapter_points_skipped_total{reason="no_recorded_value"} 0\n' in text
    assert "adapter_store_up 1\n" in text
    assert "adapter_store_up 0\n" in metrics_text(StoreState("", error="x"), Counters(0))


def test_time_is_written_in_utc_with_z():
    """RFC 3339."""
    assert rfc3339(0) == "1970-01-01T00:00:00Z"
