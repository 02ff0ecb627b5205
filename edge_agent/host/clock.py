"""When this machine started: the start time of every counter the kernel keeps."""

import time
from collections.abc import Callable

from edge_agent.host.machine import Machine, read_if_there
from edge_agent.log import Log

log = Log("host.clock")

_NS = 1_000_000_000
# CLOCK_REALTIME and CLOCK_BOOTTIME are slewed together, so their difference moves only when
# somebody sets the clock. Smaller steps than this are not worth new series.
_STEP_NS = 60 * _NS


def _boottime_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class BootClock:
    """The wall clock and the boot it runs in.

    `boot_time_unix_nano` is fixed once: the kernel's own `btime`, which is in whole seconds and so
    the same for every process of a boot. It is taken anew only when the clock is set by more than
    a minute, or to before the boot; otherwise a device that learns the time late would carry
    counters that start in 1970 for weeks.
    """

    def __init__(
        self,
        machine: Machine,
        *,
        time_ns: Callable[[], int] = time.time_ns,
        boottime_ns: Callable[[], int] = _boottime_ns,
    ) -> None:
        self._time_ns = time_ns
        self._boottime_ns = boottime_ns
        boot_id = read_if_there(machine.proc("sys/kernel/random/boot_id"))
        self.boot_id: str = "" if boot_id is None else boot_id.decode("ascii", "replace")
        now = time_ns()
        measured = now - boottime_ns()
        stated = _btime_ns(machine)
        close = stated is not None and abs(stated - measured) <= _STEP_NS and stated <= now
        # A clock in January 1970 on a machine that was suspended: a boot before the epoch.
        self.boot_time_unix_nano: int = max(0, stated if stated is not None and close else measured)

    def uptime_s(self) -> float:
        """Seconds since boot, suspended time included."""
        return self._boottime_ns() / _NS

    def now_unix_nano(self) -> int:
        """The wall clock; the boot time follows it where it was set."""
        now = self._time_ns()
        measured = now - self._boottime_ns()
        step_ns = max(0, measured) - self.boot_time_unix_nano
        if abs(step_ns) > _STEP_NS or now < self.boot_time_unix_nano:
            self.boot_time_unix_nano = max(0, measured)
            log.info("clock was set, counters start anew", step_s=step_ns / _NS)
        return now


def _btime_ns(machine: Machine) -> int | None:
    """proc(5): `btime` in /proc/stat is the time of boot in seconds since the epoch."""
    stat = read_if_there(machine.proc("stat")) or b""
    for line in stat.splitlines():
        name, _, value = line.partition(b" ")
        if name == b"btime" and value.isdigit():
            return int(value) * _NS
    return None
