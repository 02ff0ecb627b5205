"""The JSON of /health, as CONTRACT.md has it. Pure: the state comes in as values.

`unhealthy` is kept for what only a restart can mend. A collector that is down is not: a restart
must never be the answer to it, so it makes the whole `degraded`, which is still a 200.
"""

import math
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Any

WARNING_FROM_PERCENT = 70
WARNING_AFTER_DROP_S = 300.0
LIVE_WITHIN_S = 30.0


class Phase(Enum):
    """Where in its life the agent is; the value is what /health says of it."""

    STARTING = "Starting"
    RUNNING = "Agent running normally"
    DRAINING = "Draining"


@dataclass(frozen=True, slots=True)
class Collector:
    """How the last attempts at the collector went. An empty `error` means the last succeeded.

    `latency_s` is that of the last acknowledged call, None before the first.
    """

    endpoint: str
    error: str
    consecutive_failures: int
    last_success_unix_nano: int | None
    latency_s: float | None


@dataclass(frozen=True, slots=True)
class QueueState:
    """One queue: what waits for `destination`, and why the last attempt failed (or empty)."""

    destination: str
    signal: str
    items: int
    bytes: int
    oldest_age_s: float
    last_error: str


@dataclass(frozen=True, slots=True)
class Buffer:
    """All that is held. Slots count against the point at which dropping begins.

    `seconds_to_loss` and `last_drop_age_s` are None where there is nothing to tell. `usable` is
    whether held data can go where it is kept, and `problem` why not; `ram_full` whether RAM takes
    no more.
    """

    current_slots: int
    max_slots: int
    bytes: int
    items: int
    oldest_age_s: float
    seconds_to_loss: float | None
    durability: str
    queues: tuple[QueueState, ...]
    dropped_spans: int
    last_drop_age_s: float | None
    usable: bool = True
    problem: str = ""
    ram_full: bool = False

    @property
    def usage_percent(self) -> float:
        """100 means that something is being dropped now."""
        return 100.0 * self.current_slots / self.max_slots


@dataclass(frozen=True, slots=True)
class Resources:
    """The agent's own process: CPU since the last reading (100 is one core), anonymous memory."""

    cpu_percent: float
    memory_bytes: int
    machine_memory_bytes: int


@dataclass(frozen=True, slots=True)
class State:
    """All that /health tells. Without a collector configured, `collector` is None.

    `dead_threads` names what has ended that should not have; `pushing_back` is whether new data
    would be refused now.
    """

    phase: Phase
    now_unix_nano: int
    uptime_s: float
    version: str
    collector: Collector | None
    buffer: Buffer
    resources: Resources
    dead_threads: tuple[str, ...] = ()
    pushing_back: bool = False


def slots_in_use(used: float, max_slots: int) -> int:
    """Slots out of `max_slots` for the share `used` (0 to 1) of what fits before dropping.

    A slot that was begun counts, but the last one only when there is really no room left.
    """
    if used >= 1.0:
        return max_slots
    return min(math.ceil(used * max_slots), max_slots - 1)


def http_status(document: dict[str, Any]) -> int:
    """The status code of /health: 503 only for what a restart can mend."""
    return 503 if document["status"] == "unhealthy" else 200


def not_ready(state: State) -> str:
    """Why new data would not be accepted now; empty when it would."""
    if state.phase is not Phase.RUNNING:
        return str(state.phase.value).lower()
    return "pushing back" if state.pushing_back else ""


def report(state: State) -> dict[str, Any]:
    """The document of /health."""
    checks = {
        "application": _application(state),
        "collector_connectivity": _collector(state.collector),
        "buffer": _buffer(state.buffer),
        "system_resources": _resources(state.resources),
    }
    if state.dead_threads or _lost_for_good(state.buffer):
        status = "unhealthy"
    elif all(check["status"] in ("healthy", "disabled") for check in checks.values()):
        status = "healthy"
    else:
        status = "degraded"
    return {
        "status": status,
        "timestamp": _time(state.now_unix_nano),
        "uptime_seconds": int(state.uptime_s),
        "version": state.version,
        "checks": checks,
    }


def _application(state: State) -> dict[str, Any]:
    check: dict[str, Any] = {
        "status": "healthy" if state.phase is Phase.RUNNING else "degraded",
        "message": state.phase.value,
    }
    if state.dead_threads:
        check["status"] = "unhealthy"
        check["error"] = f"ended unexpectedly: {', '.join(state.dead_threads)}"
    return check


def _collector(collector: Collector | None) -> dict[str, Any]:
    if collector is None:
        return {"status": "disabled"}
    check: dict[str, Any] = {
        "status": "unhealthy" if collector.error else "healthy",
        "endpoint": collector.endpoint,
        "last_successful_send": (
            None
            if collector.last_success_unix_nano is None
            else _time(collector.last_success_unix_nano)
        ),
    }
    if collector.error:
        check["error"] = collector.error
        check["retry_attempts"] = collector.consecutive_failures
    else:
        check["latency_ms"] = (
            None if collector.latency_s is None else _number(collector.latency_s * 1000)
        )
    return check


def _lost_for_good(buffer: Buffer) -> bool:
    return not buffer.usable and buffer.ram_full


def _buffer(buffer: Buffer) -> dict[str, Any]:
    dropped = buffer.last_drop_age_s
    if _lost_for_good(buffer):
        status = "unhealthy"
    elif (
        buffer.usage_percent >= WARNING_FROM_PERCENT
        or (dropped is not None and dropped <= WARNING_AFTER_DROP_S)
        or not buffer.usable
    ):
        status = "warning"
    else:
        status = "healthy"
    to_loss = buffer.seconds_to_loss
    problem = {"error": buffer.problem} if buffer.problem else {}
    return {
        "status": status,
        "current_size": buffer.current_slots,
        "max_size": buffer.max_slots,
        # Rounded down: 100 is kept for "dropping now".
        "usage_percent": _number(math.floor(buffer.usage_percent * 10) / 10),
        "dropped_spans": buffer.dropped_spans,
        "bytes": buffer.bytes,
        "items": buffer.items,
        "oldest_age_seconds": _number(buffer.oldest_age_s),
        "seconds_to_loss": None if to_loss is None else int(to_loss),
        "durability": buffer.durability,
        **problem,
        "queues": [
            {
                "destination": queue.destination,
                "signal": queue.signal,
                "items": queue.items,
                "bytes": queue.bytes,
                "oldest_age_seconds": _number(queue.oldest_age_s),
                "last_error": queue.last_error or None,
            }
            for queue in buffer.queues
        ],
    }


def _resources(resources: Resources) -> dict[str, Any]:
    return {
        "status": "healthy",
        "cpu_percent": _number(resources.cpu_percent),
        "memory_mb": _number(resources.memory_bytes / 1e6),
        "memory_percent": _number(100.0 * resources.memory_bytes / resources.machine_memory_bytes),
    }


def _number(value: float) -> float:
    """One decimal, and none where it would be a zero."""
    rounded = round(value, 1)
    return int(rounded) if rounded == int(rounded) else rounded


def _time(unix_nano: int) -> str:
    return datetime.fromtimestamp(unix_nano // 1_000_000_000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
