"""system.process.count, and process.*: what the agent itself costs."""

import os
import time
from collections.abc import Callable, Iterator

import psutil

from edge_agent.host.clock import BootClock
from edge_agent.host.machine import Machine, read
from edge_agent.otlp.metrics import Kind, Metric, Number, Reading

COUNT = Metric("system.process.count", "{process}", Kind.UP_DOWN_COUNTER)
CPU_TIME = Metric("process.cpu.time", "s", Kind.COUNTER, Number.DOUBLE)
CPU_UTILIZATION = Metric("process.cpu.utilization", "1", Kind.GAUGE, Number.DOUBLE)
MEMORY = Metric("process.memory.usage", "By", Kind.UP_DOWN_COUNTER)
MEMORY_VIRTUAL = Metric("process.memory.virtual", "By", Kind.UP_DOWN_COUNTER)
THREADS = Metric("process.thread.count", "{thread}", Kind.UP_DOWN_COUNTER)
FILES = Metric("process.unix.file_descriptor.count", "{file_descriptor}", Kind.UP_DOWN_COUNTER)
SWITCHES = Metric("process.context_switches", "{context_switch}", Kind.COUNTER)
UPTIME = Metric("process.uptime", "s", Kind.GAUGE, Number.DOUBLE)

# proc_pid_stat(5): the state letters, and what the conventions call them. D waits for I/O, I is an
# idle kernel thread, P is parked; X is dead already.
_STATES = {
    b"R": "running",
    b"S": "sleeping",
    b"D": "sleeping",
    b"I": "sleeping",
    b"P": "sleeping",
    b"T": "stopped",
    b"t": "stopped",
    b"Z": "defunct",
}


class Processes:
    """Every process of the machine, by state: a read each, so it runs in the worker."""

    name = "processes"
    metrics = (COUNT,)

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def sample(self) -> Iterator[Reading]:
        """Nothing where other users' processes are hidden (hidepid): a part is no count."""
        if not os.path.exists(self._machine.proc("1/stat")):
            return
        counts = dict.fromkeys(_STATES.values(), 0)
        for pid in os.listdir(self._machine.proc("")):
            if not pid.isdigit():
                continue
            try:
                stat = read(self._machine.proc(f"{pid}/stat"))
            except (FileNotFoundError, ProcessLookupError):
                continue  # It ended since the listing.
            # The name is in parentheses and may hold any byte, parentheses included.
            letter = stat[stat.rfind(b")") + 2 :][:1]
            if letter in _STATES:
                counts[_STATES[letter]] += 1
        for state, count in counts.items():
            yield Reading(COUNT, (("process.state", state),), count)


class Process:
    """The agent: always the /proc it lives in, never the host's.

    Its sums start with the process, not with the machine.
    """

    name = "process"
    metrics = (
        CPU_TIME,
        CPU_UTILIZATION,
        MEMORY,
        MEMORY_VIRTUAL,
        THREADS,
        FILES,
        SWITCHES,
        UPTIME,
    )

    def __init__(self, clock: BootClock, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._monotonic = monotonic
        self._process = psutil.Process()
        # proc_pid_stat(5), field 22, `starttime`: clock ticks after boot.
        stat = read("/proc/self/stat")
        ticks = int(stat[stat.rfind(b")") + 2 :].split()[19])
        self._started_s = ticks / os.sysconf("SC_CLK_TCK")
        self._before: tuple[float, float, float] | None = None

    def sample(self) -> Iterator[Reading]:
        """Raises psutil.Error or OSError where /proc/self is not to be read."""
        with self._process.oneshot():
            times = self._process.cpu_times()
            memory = self._process.memory_info()
            threads = self._process.num_threads()
            switches = self._process.num_ctx_switches()
        start = self._clock.boot_time_unix_nano + round(self._started_s * 1e9)
        now_s = self._monotonic()
        for mode, seconds in (("user", times.user), ("system", times.system)):
            yield Reading(CPU_TIME, (("cpu.mode", mode),), seconds, start)
        if self._before is not None and now_s > self._before[0]:
            then_s, user, system = self._before
            available_s = (now_s - then_s) * len(os.sched_getaffinity(0))
            for mode, spent in (("user", times.user - user), ("system", times.system - system)):
                yield Reading(CPU_UTILIZATION, (("cpu.mode", mode),), spent / available_s)
        self._before = (now_s, times.user, times.system)
        yield Reading(MEMORY, (), memory.rss, start)
        yield Reading(MEMORY_VIRTUAL, (), memory.vms, start)
        yield Reading(THREADS, (), threads, start)
        yield Reading(FILES, (), self._process.num_fds(), start)
        for kind, count in (
            ("voluntary", switches.voluntary),
            ("involuntary", switches.involuntary),
        ):
            yield Reading(SWITCHES, (("process.context_switch.type", kind),), count, start)
        yield Reading(UPTIME, (), self._clock.uptime_s() - self._started_s)
