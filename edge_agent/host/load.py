"""Load averages and uptime.

The conventions leave load averages to the collector's host metrics receiver, whose names and unit
these are.
"""

from collections.abc import Iterator

from edge_agent.host.machine import Machine, read
from edge_agent.otlp.metrics import Kind, Metric, Number, Reading

LOAD_1M = Metric("system.cpu.load_average.1m", "{thread}", Kind.GAUGE, Number.DOUBLE)
LOAD_5M = Metric("system.cpu.load_average.5m", "{thread}", Kind.GAUGE, Number.DOUBLE)
LOAD_15M = Metric("system.cpu.load_average.15m", "{thread}", Kind.GAUGE, Number.DOUBLE)
UPTIME = Metric("system.uptime", "s", Kind.GAUGE, Number.DOUBLE)


class Load:
    """Read directly: psutil asks the running kernel and cannot be pointed elsewhere."""

    name = "load"
    metrics = (LOAD_1M, LOAD_5M, LOAD_15M, UPTIME)

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def sample(self) -> Iterator[Reading]:
        """proc(5): /proc/loadavg, /proc/uptime. Raises OSError without them."""
        fields = read(self._machine.proc("loadavg")).split()
        for metric, value in zip((LOAD_1M, LOAD_5M, LOAD_15M), fields[:3], strict=True):
            yield Reading(metric, (), float(value))
        yield Reading(UPTIME, (), float(read(self._machine.proc("uptime")).split()[0]))
