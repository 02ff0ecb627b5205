"""system.memory.* and system.paging.*.

`used` is total - available, as the conventions say for Linux: what applications cannot give back.
`free`, `buffers` and `cached` are the kernel's, so the states overlap and do not add up to the
limit.
"""

from collections.abc import Iterator

import psutil

from edge_agent.host.machine import Machine, psutil_at, read_if_there, text, unescaped
from edge_agent.otlp.metrics import Kind, Metric, Number, Reading

USAGE = Metric("system.memory.usage", "By", Kind.UP_DOWN_COUNTER)
UTILIZATION = Metric("system.memory.utilization", "1", Kind.GAUGE, Number.DOUBLE)
LIMIT = Metric("system.memory.limit", "By", Kind.UP_DOWN_COUNTER)
AVAILABLE = Metric("system.memory.linux.available", "By", Kind.UP_DOWN_COUNTER)
PERCENT = Metric("system.memory.percent", "%", Kind.GAUGE, Number.DOUBLE)
PAGING_USAGE = Metric("system.paging.usage", "By", Kind.UP_DOWN_COUNTER)
PAGING_FAULTS = Metric("system.paging.faults", "{fault}", Kind.COUNTER)


class Memory:
    """`used_bytes` and `total_bytes` are the last sample's, None where it failed."""

    name = "memory"
    metrics = (USAGE, UTILIZATION, LIMIT, AVAILABLE, PERCENT, PAGING_USAGE, PAGING_FAULTS)

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self.used_bytes: int | None = None
        self.total_bytes: int | None = None

    def sample(self) -> Iterator[Reading]:
        """Raises OSError without /proc/meminfo."""
        self.used_bytes = self.total_bytes = None
        with psutil_at(self._machine.proc("").rstrip("/")):
            memory = psutil.virtual_memory()
        used = memory.total - memory.available
        states = {
            "used": used,
            "free": memory.free,
            "buffers": memory.buffers,
            "cached": memory.cached,
        }
        for state, size in states.items():
            yield Reading(USAGE, (("system.memory.state", state),), size)
        for state, size in states.items():
            fraction = size / memory.total
            yield Reading(UTILIZATION, (("system.memory.state", state),), fraction)
        yield Reading(LIMIT, (), memory.total)
        yield Reading(AVAILABLE, (), memory.available)
        yield Reading(PERCENT, (), 100 * used / memory.total)
        self.used_bytes, self.total_bytes = used, memory.total
        yield from _swaps(self._machine)
        yield from _faults(self._machine)


def _swaps(machine: Machine) -> Iterator[Reading]:
    """proc(5): /proc/swaps, a header, then `name type size used priority` in KiB."""
    for line in (read_if_there(machine.proc("swaps")) or b"").splitlines()[1:]:
        name, _, size, used, _ = line.split()
        device = ("system.device", text(unescaped(name)))
        for state, kib in (("used", int(used)), ("free", int(size) - int(used))):
            yield Reading(PAGING_USAGE, (device, ("system.paging.state", state)), kib * 1024)


def _faults(machine: Machine) -> Iterator[Reading]:
    """/proc/vmstat: `pgfault` counts all of them, `pgmajfault` those that needed I/O."""
    counts = {}
    for line in (read_if_there(machine.proc("vmstat")) or b"").splitlines():
        if line.startswith((b"pgfault ", b"pgmajfault ")):
            key, value = line.split()
            counts[key] = int(value)
    if len(counts) == 2:
        major = counts[b"pgmajfault"]
        for kind, count in (("major", major), ("minor", counts[b"pgfault"] - major)):
            yield Reading(PAGING_FAULTS, (("system.paging.fault.type", kind),), count)
