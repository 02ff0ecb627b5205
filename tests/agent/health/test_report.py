"""/health: the contract's JSON, one test a row of its rules."""

import json
import math
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.health.report import (
    Phase,
    State,
    http_status,
    not_ready,
    report,
    slots_in_use,
)
from tests.agent.health.states import BUFFER, COLLECTOR, FAILING, HEALTHY, STATES, UNTRIED

GOLDEN = Path(__file__).parents[2] / "golden" / "health"
TOP = {"status", "timestamp", "uptime_seconds", "version", "checks"}
CHECKS = {"application", "collector_connectivity", "buffer", "system_resources"}
BUFFER_KEYS = {"status", "current_size", "max_size", "usage_percent", "dropped_spans"} | {
    *("bytes", "items", "oldest_age_seconds", "seconds_to_loss", "durability", "queues")
}
WORKING_KEYS = {"status", "endpoint", "last_successful_send", "latency_ms"}
FAILING_KEYS = {"status", "endpoint", "last_successful_send", "error", "retry_attempts"}


@pytest.mark.parametrize("name", STATES)
def test_the_whole_document_is_as_recorded(name: str) -> None:
    """Every key and value, in order, in each state; also that JSON can carry it."""
    golden = (GOLDEN / f"{name}.json").read_text()
    assert json.dumps(report(STATES[name]), indent=2) + "\n" == golden


@pytest.mark.parametrize("name", STATES)
def test_key_sets_are_exact_in_every_state(name: str) -> None:
    """At the top, in `checks`, and of each form of each check."""
    document = report(STATES[name])
    assert set(document) == TOP
    assert set(document["checks"]) == CHECKS
    checks = document["checks"]
    assert set(checks["application"]) - {"error"} == {"status", "message"}
    assert set(checks["buffer"]) == BUFFER_KEYS
    expected_resources = {"status", "cpu_percent", "memory_mb", "memory_percent"}
    assert set(checks["system_resources"]) == expected_resources
    expected = {"no_collector": {"status"}, "failing": FAILING_KEYS, "starting": FAILING_KEYS}
    assert set(checks["collector_connectivity"]) == expected.get(name, WORKING_KEYS)


@pytest.mark.parametrize(
    ("name", "status", "code"),
    [
        ("healthy", "healthy", 200),
        ("failing", "degraded", 200),
        ("starting", "degraded", 200),
        ("draining", "degraded", 200),
        ("no_collector", "healthy", 200),
        ("buffer_warning", "degraded", 200),
        ("dropped", "degraded", 200),
        ("dead_thread", "unhealthy", 503),
        ("no_way_out", "unhealthy", 503),
    ],
)
def test_only_what_a_restart_can_mend_is_unhealthy(name: str, status: str, code: int) -> None:
    """A collector that is down, a full buffer, a stop: degraded, and 200."""
    document = report(STATES[name])
    assert (document["status"], http_status(document)) == (status, code)


@pytest.mark.parametrize(
    ("phase", "status", "message"),
    [
        (Phase.STARTING, "degraded", "Starting"),
        (Phase.RUNNING, "healthy", "Agent running normally"),
        (Phase.DRAINING, "degraded", "Draining"),
    ],
)
def test_the_application_says_where_in_its_life_it_is(
    phase: Phase, status: str, message: str
) -> None:
    """The three messages of the contract."""
    check = report(replace(HEALTHY, phase=phase))["checks"]["application"]
    assert check == {"status": status, "message": message}


def test_a_dead_thread_is_named() -> None:
    """Whoever restarts it will want to know why."""
    check = report(STATES["dead_thread"])["checks"]["application"]
    assert check["status"] == "unhealthy"
    assert check["error"] == "ended unexpectedly: writer"


def connectivity(state: State) -> dict[str, Any]:
    """The check of the collector."""
    check: dict[str, Any] = report(state)["checks"]["collector_connectivity"]
    return check


def test_a_working_collector_tells_its_latency() -> None:
    """In milliseconds, of the last acknowledged call."""
    assert connectivity(HEALTHY) == {
        "status": "healthy",
        "endpoint": "collector.example.com:4317",
        "last_successful_send": "2026-01-31T10:29:45Z",
        "latency_ms": 12,
    }
    quick = replace(HEALTHY, collector=replace(COLLECTOR, latency_s=0.00044))
    assert connectivity(quick)["latency_ms"] == 0.4


def test_a_failing_collector_tells_error_and_attempts() -> None:
    """And when it last worked."""
    assert connectivity(replace(HEALTHY, collector=FAILING)) == {
        "status": "unhealthy",
        "endpoint": "collector.example.com:4317",
        "last_successful_send": "2026-01-31T10:29:45Z",
        "error": "collector.example.com:4317: Connection refused",
        "retry_attempts": 7,
    }


def test_before_the_first_attempt_it_is_the_failing_form() -> None:
    """Nothing is known, and that is said."""
    check = connectivity(replace(HEALTHY, collector=UNTRIED))
    assert check["last_successful_send"] is None
    assert (check["error"], check["retry_attempts"]) == ("no attempt yet", 0)


def test_without_a_collector_the_check_is_disabled() -> None:
    """And does not count against the whole."""
    assert connectivity(replace(HEALTHY, collector=None)) == {"status": "disabled"}


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"current_slots": 1433}, "healthy"),  # 69.97 %
        ({"current_slots": 1434}, "warning"),  # 70.02 %
        ({"current_slots": 2048}, "warning"),
        ({"last_drop_age_s": 0.0}, "warning"),
        ({"last_drop_age_s": 300.0}, "warning"),
        ({"last_drop_age_s": 300.1}, "healthy"),
        ({"usable": False}, "warning"),
        ({"ram_full": True}, "healthy"),
        ({"usable": False, "ram_full": True}, "unhealthy"),
    ],
)
def test_the_buffer_warns_before_any_loss(changes: dict[str, Any], status: str) -> None:
    """From 70 %, within five minutes of a drop, and where the ring cannot be used."""
    check = report(replace(HEALTHY, buffer=replace(BUFFER, **changes)))["checks"]["buffer"]
    assert check["status"] == status


@pytest.mark.parametrize(
    ("current", "percent"), [(0, 0), (512, 25), (1, 0), (205, 10), (2047, 99.9), (2048, 100)]
)
def test_usage_is_a_hundred_times_current_by_max(current: int, percent: float) -> None:
    """One decimal, rounded down: 100 means that something is being dropped."""
    check = report(replace(HEALTHY, buffer=replace(BUFFER, current_slots=current)))
    shown = check["checks"]["buffer"]["usage_percent"]
    assert shown == math.floor(1000 * current / 2048) / 10
    assert shown == pytest.approx(percent, abs=0.05)


def test_every_queue_shows_what_it_holds_and_its_last_error() -> None:
    """A failing adapter shows here and nowhere else."""
    queues = report(HEALTHY)["checks"]["buffer"]["queues"]
    assert queues[0]["last_error"] is None
    assert queues[1] == {
        "destination": "adapter",
        "signal": "metrics",
        "items": 5000,
        "bytes": 194_304,
        "oldest_age_seconds": 3,
        "last_error": "http_503: the store is away",
    }


def test_nothing_to_lose_is_null() -> None:
    """Without inflow there is no time at which data would be lost."""
    idle = replace(HEALTHY, buffer=replace(BUFFER, seconds_to_loss=None))
    assert report(idle)["checks"]["buffer"]["seconds_to_loss"] is None


@given(st.integers(0, 4_102_444_800_000_000_000))
def test_times_are_rfc_3339_in_utc_with_z(unix_nano: int) -> None:
    """Whole seconds, never ahead of the clock."""
    text = report(replace(HEALTHY, now_unix_nano=unix_nano))["timestamp"]
    assert text.endswith("Z")
    parsed = datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    assert int(parsed.timestamp()) == unix_nano // 1_000_000_000


@given(st.floats(0, 2, allow_nan=False), st.integers(64, 5120))
def test_a_hundred_percent_means_dropping_now_and_nothing_less_does(
    used: float, max_slots: int
) -> None:
    """A begun slot counts, the last one only when there is no room left."""
    slots = slots_in_use(used, max_slots)
    assert (slots == max_slots) == (used >= 1)
    assert (slots == 0) == (used == 0)
    assert abs(slots - min(used, 1) * max_slots) <= 1


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, ""),
        ({"collector": FAILING}, ""),
        ({"phase": Phase.STARTING}, "starting"),
        ({"phase": Phase.DRAINING}, "draining"),
        ({"pushing_back": True}, "pushing back"),
    ],
)
def test_ready_is_whether_new_data_would_be_accepted(changes: dict[str, Any], reason: str) -> None:
    """Also with the collector down: that is what the buffer is for."""
    assert not_ready(replace(HEALTHY, **changes)) == reason
