"""/metrics in the Prometheus text format, version 0.0.4. Pure.

The first part of `_families` is CONTRACT.md's and fixed: dashboards and alerts in the field use
those names with exactly those labels. What else we tell uses other names.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from edge_agent.health.report import State
from edge_agent.ledger import Ledger
from edge_agent.otlp.signal import Signal

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Seeds:
    """What the last sample of this machine said; None or missing for what it did not."""

    cpu_percent: float | None = None
    memory_used_bytes: int | None = None
    disk_used_bytes: Mapping[str, int] | None = None
    network_received_bytes: int | None = None
    network_transmitted_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Receivers:
    """What the receivers did not do for their senders: refused requests by gRPC code, and
    connections ended by us, by (receiver, reason)."""

    refused: Mapping[str, int] = field(default_factory=dict)
    closed: Mapping[tuple[str, str], int] = field(default_factory=dict)


class _Sample(NamedTuple):
    value: float | None
    labels: tuple[tuple[str, str], ...] = ()


class _Family(NamedTuple):
    name: str
    kind: str
    help: str
    samples: Iterable[_Sample]


def exposition(
    state: State,
    ledger: Ledger,
    seeds: Seeds,
    *,
    customer_id: str,
    node_id: str,
    sampler_success: Mapping[str, bool] | None = None,
    receivers: Receivers | None = None,
) -> str:
    """The text of /metrics. A sample without a value is left out, and so is an empty family."""
    identity = (("customer_id", customer_id), ("node_id", node_id))
    lines: list[str] = []
    for name, kind, text, samples in (
        *_fixed(state, ledger, seeds),
        *_ours(state, ledger, sampler_success or {}),
        *_received(receivers or Receivers()),
    ):
        rows = [
            f"{name}{_labels((*identity, *sample.labels))} {_value(sample.value)}"
            for sample in samples
            if sample.value is not None
        ]
        if rows:
            lines += (f"# HELP {name} {text}", f"# TYPE {name} {kind}", *rows)
    return "\n".join((*lines, ""))


def _fixed(state: State, ledger: Ledger, seeds: Seeds) -> tuple[_Family, ...]:
    collector, buffer = state.collector, state.buffer
    latency_s = None if collector is None else collector.latency_s
    return (
        _Family(
            "system_cpu_usage", "untyped", "CPU in use, 0 to 100 percent of all cores.",
            [_Sample(seeds.cpu_percent)],
        ),
        _Family(
            "system_memory_usage_bytes", "untyped", "Memory in use: total less available.",
            [_Sample(seeds.memory_used_bytes)],
        ),
        _Family(
            "system_disk_usage_bytes", "untyped", "File system space in use.",
            [
                _Sample(used, (("mount_point", mount),))
                for mount, used in sorted((seeds.disk_used_bytes or {}).items())
            ],
        ),
        _Family(
            "system_network_io_bytes", "untyped", "Bytes since boot, all interfaces but loopback.",
            [
                _Sample(seeds.network_transmitted_bytes, (("direction", "tx"),)),
                _Sample(seeds.network_received_bytes, (("direction", "rx"),)),
            ],
        ),
        _Family(
            "agent_buffer_size", "gauge", "Buffer slots in use.", [_Sample(buffer.current_slots)]
        ),
        _Family(
            "agent_buffer_usage_percent", "gauge", "Buffer in use; at 100 data is being dropped.",
            [_Sample(buffer.usage_percent)],
        ),
        _Family(
            "agent_collector_reachable", "gauge", "1 if the last attempt to send succeeded.",
            [_Sample(None if collector is None else int(not collector.error))],
        ),
        _Family(
            "agent_collector_latency_ms", "gauge", "Milliseconds of the last acknowledged call.",
            [_Sample(math.nan if latency_s is None else round(latency_s * 1000, 3))],
        ),
        _Family(
            "agent_spans_sent_total", "counter", "Spans acknowledged by a peer.",
            [_Sample(ledger.delivered_items(Signal.TRACES))],
        ),
        _Family(
            "agent_spans_dropped_total", "counter", "Spans lost, for whatever reason.",
            [_Sample(buffer.dropped_spans)],
        ),
        _Family(
            "agent_memory_usage_mb", "gauge", "Anonymous memory of the agent in megabytes.",
            [_Sample(state.resources.memory_bytes / 1e6)],
        ),
    )  # fmt: skip


def _ours(state: State, ledger: Ledger, sampler_success: Mapping[str, bool]) -> tuple[_Family, ...]:
    rows = [
        (
            tally,
            (
                ("destination", account.destination),
                ("signal", account.signal.value),
                ("outcome", outcome),
                ("reason", reason),
            ),
        )
        for account in ledger
        for outcome, reason, tally in account.rows()
    ]
    held = [
        (queue, (("destination", queue.destination), ("signal", queue.signal)))
        for queue in state.buffer.queues
    ]
    return (
        _Family(
            "agent_items_total", "counter", "Spans, data points and log records by outcome.",
            [_Sample(tally.items, labels) for tally, labels in rows],
        ),
        _Family(
            "agent_bytes_total", "counter", "Encoded bytes of items by outcome.",
            [_Sample(tally.bytes, labels) for tally, labels in rows],
        ),
        _Family(
            "agent_held_items", "gauge", "Items that wait for a peer.",
            [_Sample(queue.items, labels) for queue, labels in held],
        ),
        _Family(
            "agent_held_bytes", "gauge", "Encoded bytes of the items that wait for a peer.",
            [_Sample(queue.bytes, labels) for queue, labels in held],
        ),
        _Family(
            "agent_ring_usable", "gauge", "1 while the ring on disk can be written.",
            [_Sample(int(state.buffer.usable))],
        ),
        _Family(
            "agent_sampler_success", "gauge", "1 if this subject could be sampled last time.",
            [
                _Sample(int(success), (("subject", subject),))
                for subject, success in sorted(sampler_success.items())
            ],
        ),
        _Family(
            "agent_uptime_seconds", "gauge", "Seconds since this process started.",
            [_Sample(round(state.uptime_s, 3))],
        ),
        _Family(
            "agent_info", "gauge", "1, with the version.",
            [_Sample(1, (("version", state.version),))],
        ),
    )  # fmt: skip


def _received(receivers: Receivers) -> tuple[_Family, ...]:
    return (
        _Family(
            "agent_receiver_refused_total", "counter", "Requests refused to their senders.",
            [_Sample(n, (("code", code),)) for code, n in sorted(receivers.refused.items())],
        ),
        _Family(
            "agent_receiver_connections_closed_total", "counter",
            "Connections, and calls that stalled, ended by the agent for what their peers did.",
            [
                _Sample(n, (("receiver", receiver), ("reason", reason)))
                for (receiver, reason), n in sorted(receivers.closed.items())
            ],
        ),
    )  # fmt: skip


def _labels(pairs: tuple[tuple[str, str], ...]) -> str:
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in pairs) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _value(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return repr(value)
