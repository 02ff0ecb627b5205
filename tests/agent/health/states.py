"""States of an agent, from which the tests vary."""

from dataclasses import replace

from edge_agent.health.report import (
    Buffer,
    Collector,
    Phase,
    QueueState,
    Resources,
    State,
)

# 2026-01-31T10:30:00.9Z
NOW_UNIX_NANO = 1_769_855_400_900_000_000

COLLECTOR = Collector(
    endpoint="collector.example.com:4317",
    error="",
    consecutive_failures=0,
    last_success_unix_nano=NOW_UNIX_NANO - 15_000_000_000,
    latency_s=0.01204,
)
FAILING = Collector(
    endpoint="collector.example.com:4317",
    error="collector.example.com:4317: Connection refused",
    consecutive_failures=7,
    last_success_unix_nano=NOW_UNIX_NANO - 15_000_000_000,
    latency_s=0.01204,
)
UNTRIED = Collector(
    endpoint="collector.example.com:4317",
    error="no attempt yet",
    consecutive_failures=0,
    last_success_unix_nano=None,
    latency_s=None,
)
BUFFER = Buffer(
    current_slots=512,
    max_slots=2048,
    bytes=4_194_304,
    items=65_000,
    oldest_age_s=12.34,
    seconds_to_loss=3600.9,
    durability="flush",
    queues=(
        QueueState("collector", "metrics", 60_000, 4_000_000, 12.34, ""),
        QueueState("adapter", "metrics", 5_000, 194_304, 3.0, "http_503: the store is away"),
    ),
    dropped_spans=0,
    last_drop_age_s=None,
)
HEALTHY = State(
    phase=Phase.RUNNING,
    now_unix_nano=NOW_UNIX_NANO,
    uptime_s=259_200.7,
    version="1.0.0",
    collector=COLLECTOR,
    buffer=BUFFER,
    resources=Resources(
        cpu_percent=5.24, memory_bytes=87_300_000, machine_memory_bytes=1_027_000_000
    ),
)

# Each is also a golden file.
STATES = {
    "healthy": HEALTHY,
    "failing": replace(HEALTHY, collector=FAILING),
    "starting": replace(HEALTHY, phase=Phase.STARTING, collector=UNTRIED),
    "draining": replace(HEALTHY, phase=Phase.DRAINING),
    "no_collector": replace(HEALTHY, collector=None),
    "buffer_warning": replace(HEALTHY, buffer=replace(BUFFER, current_slots=1434)),
    "dropped": replace(HEALTHY, buffer=replace(BUFFER, dropped_spans=9, last_drop_age_s=300.0)),
    "dead_thread": replace(HEALTHY, dead_threads=("writer",)),
    "no_way_out": replace(HEALTHY, buffer=replace(BUFFER, usable=False, ram_full=True)),
}
