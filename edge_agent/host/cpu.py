"""system.cpu.*: time and utilization over all CPUs together, their number and frequency.

The conventions make `cpu.logical_number` opt-in for time and utilization: an edge device sends
fourteen points instead of fourteen a CPU.
"""

from collections.abc import Iterator

import psutil

from edge_agent.host.machine import Machine, listing, psutil_at, read_if_there, read_int
from edge_agent.otlp.metrics import Kind, Metric, Number, Reading

TIME = Metric("system.cpu.time", "s", Kind.COUNTER, Number.DOUBLE)
UTILIZATION = Metric("system.cpu.utilization", "1", Kind.GAUGE, Number.DOUBLE)
PERCENT = Metric("system.cpu.percent", "%", Kind.GAUGE, Number.DOUBLE)
LOGICAL_COUNT = Metric("system.cpu.logical.count", "{cpu}", Kind.UP_DOWN_COUNTER)
FREQUENCY = Metric("system.cpu.frequency", "Hz", Kind.GAUGE)


class Cpu:
    """`percent` is the last system.cpu.percent, None before there are two samples."""

    name = "cpu"
    metrics = (TIME, UTILIZATION, PERCENT, LOGICAL_COUNT, FREQUENCY)

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        # Seconds by mode as they were last reported.
        self._before: dict[str, float] = {}
        self.percent: float | None = None

    def sample(self) -> Iterator[Reading]:
        """Raises OSError without /proc/stat."""
        self.percent = None
        with psutil_at(self._machine.proc("").rstrip("/")):
            times = psutil.cpu_times()
            count = len(psutil.cpu_times(percpu=True))
        modes = {
            # Guests' time is in user and nice already.
            "user": times.user,
            "nice": times.nice,
            "system": times.system,
            "idle": times.idle,
            "iowait": times.iowait,
            "interrupt": times.irq + times.softirq,
            "steal": times.steal,
        }
        modes = _held(modes, self._before)
        for mode, seconds in modes.items():
            yield Reading(TIME, (("cpu.mode", mode),), seconds)
        yield from self._utilization(modes)
        if count:
            yield Reading(LOGICAL_COUNT, (), count)
        for number, hertz in _frequencies(self._machine):
            yield Reading(FREQUENCY, (("cpu.logical_number", number),), hertz)

    def _utilization(self, modes: dict[str, float]) -> Iterator[Reading]:
        # Only where all of them started anew is one smaller than before.
        spent = {mode: max(0.0, now - self._before.get(mode, now)) for mode, now in modes.items()}
        self._before = modes
        total = sum(spent.values())
        if total <= 0:
            return
        for mode, seconds in spent.items():
            yield Reading(UTILIZATION, (("cpu.mode", mode),), seconds / total)
        self.percent = 100 * (total - spent["idle"] - spent["iowait"]) / total
        yield Reading(PERCENT, (), self.percent)


def _held(modes: dict[str, float], before: dict[str, float]) -> dict[str, float]:
    """`modes` with idle and iowait held at `before` until they have passed it.

    proc_stat(5) of iowait: "may decrease in certain conditions"; and for a CPU that is taken
    offline the kernel reads both from another account (fs/proc/stat.c). Neither is a reset, which
    would give the series a new start with all its time since boot again. Where a mode that never
    steps back has fallen, all have: the machine's count began anew, and what it says is taken.
    """
    if any(modes[mode] < before.get(mode, 0.0) for mode in ("user", "system")):
        return modes
    return modes | {mode: max(modes[mode], before.get(mode, 0.0)) for mode in ("idle", "iowait")}


def _frequencies(machine: Machine) -> Iterator[tuple[int, int]]:
    """(CPU number, Hz): cpufreq's view (kHz), else `cpu MHz` of /proc/cpuinfo (x86)."""
    directory = machine.sys("devices/system/cpu")
    found = False
    for name in listing(directory):
        number = name.removeprefix("cpu")
        if number.isdigit():
            khz = read_int(f"{directory}/{name}/cpufreq/scaling_cur_freq")
            if khz is not None and khz > 0:
                found = True
                yield int(number), khz * 1000
    if found:
        return
    cpu = -1
    for line in (read_if_there(machine.proc("cpuinfo")) or b"").splitlines():
        key, _, value = line.partition(b":")
        if key.rstrip() == b"processor" and value.strip().isdigit():
            cpu = int(value)
        elif key.rstrip() == b"cpu MHz" and cpu >= 0:
            yield cpu, round(float(value) * 1e6)
