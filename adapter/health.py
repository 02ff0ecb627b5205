"""What /health and /metrics say. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime

from adapter.rows import REASONS, SKIPPED, Outcome
from adapter.sqlite import StoreState


@dataclass(slots=True)
class Counters:
    """What became of requests and data points since the start of this process."""

    started_s: float
    """By the monotonic clock."""
    requests: dict[int, int] = field(default_factory=dict)
    rejected: dict[str, int] = field(default_factory=lambda: dict.fromkeys(REASONS, 0))
    skipped: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SKIPPED, 0))

    def answered(self, status: int) -> None:
        """Count a request to /v1/metrics by the code of its answer."""
        self.requests[status] = self.requests.get(status, 0) + 1

    def settled(self, outcome: Outcome) -> None:
        """Count the data points of an accepted request that made no row."""
        for reason, rejection in outcome.rejected.items():
            self.rejected[reason] += rejection.points
        for reason, points in outcome.skipped.items():
            self.skipped[reason] += points


def rfc3339(time_ns: int) -> str:
    """`time_ns` since 1970 as RFC 3339, UTC, to the second."""
    return datetime.fromtimestamp(time_ns // 10**9, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def health(
    state: StoreState, counters: Counters, *, now_ns: int, now_s: float, version: str
) -> tuple[int, dict[str, object]]:
    """Code and document of /health; `now_s` is of the monotonic clock.

    A store that is away makes us degraded, not unhealthy: it comes back by itself, and a restart
    would not help. Only the death of its thread is unhealthy.
    """
    store = "healthy" if state.error is None else "degraded" if state.alive else "unhealthy"
    check: dict[str, object] = {
        "status": store,
        "kind": "sqlite",
        "path": state.path,
        "last_write": None if state.last_write_ns is None else rfc3339(state.last_write_ns),
        "latency_ms": None if state.latency_s is None else round(state.latency_s * 1000, 3),
        "rows": state.rows,
        "size_bytes": state.size_bytes,
    }
    if state.error is not None:
        check["error"] = state.error
    document: dict[str, object] = {
        "status": store,
        "timestamp": rfc3339(now_ns),
        "uptime_seconds": int(now_s - counters.started_s),
        "version": version,
        "checks": {"store": check},
    }
    return (200 if state.alive else 503), document


def metrics_text(state: StoreState, counters: Counters) -> str:
    """/metrics in Prometheus text format 0.0.4.

    https://prometheus.io/docs/instrumenting/exposition_formats/. No label value here needs
    escaping: they are our own words and numbers.
    """
    return "".join(f"{line}\n" for line in _lines(state, counters))


def _lines(state: StoreState, counters: Counters) -> Iterator[str]:
    def metric(name: str, kind: str, text: str, *samples: tuple[str, float]) -> Iterator[str]:
        yield f"# HELP {name} {text}"
        yield f"# TYPE {name} {kind}"
        for suffix, value in samples:
            yield f"{name}{suffix} {value}"

    yield from metric("adapter_rows_total", "counter", "Rows stored.", ("", state.rows))
    yield from metric(
        "adapter_requests_total",
        "counter",
        "Requests to /v1/metrics by the code they were answered with.",
        *((f'{{code="{code}"}}', n) for code, n in sorted(counters.requests.items())),
    )
    yield from metric(
        "adapter_points_rejected_total",
        "counter",
        "Data points refused in a partial success.",
        *((f'{{reason="{reason}"}}', n) for reason, n in counters.rejected.items()),
    )
    yield from metric(
        "adapter_points_skipped_total",
        "counter",
        "Data points that make no row although nothing is wrong with them.",
        *((f'{{reason="{reason}"}}', n) for reason, n in counters.skipped.items()),
    )
    yield from metric(
        "adapter_rows_expired_total",
        "counter",
        "Rows deleted because they were older than the TTL.",
        ("", state.expired_rows),
    )
    yield from metric(
        "adapter_store_up",
        "gauge",
        "1 if the last transaction was committed.",
        ("", int(state.error is None)),
    )
    yield from metric(
        "adapter_store_commit_seconds",
        "summary",
        "How long transactions took, decoding and fsync included.",
        ("_sum", state.latency_sum_s),
        ("_count", state.commits),
    )
    yield from metric(
        "adapter_store_size_bytes",
        "gauge",
        "Size of the store's file, its journal not counted.",
        ("", state.size_bytes),
    )
    yield from metric(
        "adapter_store_moved_aside_total",
        "counter",
        "Unusable files moved aside.",
        ("", state.moved_aside),
    )
