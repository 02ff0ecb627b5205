"""What the agent itself costs: its CPU time and its anonymous memory. Always its own process."""

import os
import time
from collections.abc import Callable

from edge_agent.health.report import Resources

# Two readings closer than this say more about the clock than about us.
_MIN_INTERVAL_S = 1.0


def anonymous_bytes(proc_status: str) -> int:
    """RssAnon of the text of /proc/PID/status (proc_pid_status(5)): memory nobody else can take.

    VmRSS, which has the pages of files in it, where the kernel is older than 4.5; 0 without both.
    """
    sizes = {}
    for line in proc_status.splitlines():
        name, _, value = line.partition(":")
        if name in ("RssAnon", "VmRSS"):
            sizes[name] = int(value.split()[0]) * 1024
    return sizes.get("RssAnon", sizes.get("VmRSS", 0))


def _read_status() -> str:
    with open("/proc/self/status", encoding="ascii", errors="replace") as file:
        return file.read()


class Process:
    """This process. Reads when asked and keeps no timer."""

    def __init__(
        self,
        *,
        read_status: Callable[[], str] = _read_status,
        cpu_s: Callable[[], float] = time.process_time,
        monotonic: Callable[[], float] = time.monotonic,
        machine_memory_bytes: int | None = None,
    ) -> None:
        self._read_status = read_status
        self._cpu_s = cpu_s
        self._monotonic = monotonic
        self._machine_memory_bytes = machine_memory_bytes or (
            os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        )
        self._cpu_percent = 0.0
        self._last_cpu_s = cpu_s()
        self._last_s = monotonic()

    def read(self) -> Resources:
        """CPU since the last reading, or since the start; memory now."""
        now_s = self._monotonic()
        elapsed_s = now_s - self._last_s
        if elapsed_s >= _MIN_INTERVAL_S:
            used_s = self._cpu_s()
            self._cpu_percent = 100.0 * (used_s - self._last_cpu_s) / elapsed_s
            self._last_cpu_s, self._last_s = used_s, now_s
        return Resources(
            cpu_percent=self._cpu_percent,
            memory_bytes=anonymous_bytes(self._read_status()),
            machine_memory_bytes=self._machine_memory_bytes,
        )
