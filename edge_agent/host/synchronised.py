"""Whether this machine's clock is right, as far as the machine can know.

A clock is trusted once it shows no date before `EARLIEST_UNIX_NANO` and one of these holds:

1. something that runs on a battery set it at boot: an RTC, or whatever an x86 platform has;
2. the kernel says that somebody keeps it in step: adjtimex(2), STA_UNSYNC not set. Every NTP
   daemon clears that, and it is set at every boot;
3. the kernel may not be asked (a seccomp filter, systemd's ProtectClock=).

From then on it is trusted as long as the process lives: after some hours without a server the
kernel sets STA_UNSYNC again, and the clock is seconds off at most.

Neither a date that looks right nor a battery alone is enough. A Raspberry Pi starts at the time
of its last shutdown (fake-hwclock, systemd-timesyncd), and an RTC with a flat battery, or with none
as the Raspberry Pi 5 is sold, sets the clock to 1970 or 2000 before those move it on. Such an RTC
gives itself away: it still shows that date.

Files that daemons leave (/run/systemd/timesync/synchronized) would cost nothing to read, but there
is one for each daemon or none (chrony), and containers see no host's /run.
"""

import os
import struct
import time
from collections.abc import Callable

from edge_agent.host.machine import Machine, listing, read_int

_NS = 1_000_000_000
# Midnight UTC, 1 January 2025: this agent is younger, whoever builds it with whatever clock. What
# hardware shows that lost the time is years older.
EARLIEST_UNIX_NANO = 1_735_689_600 * _NS
# linux/timex.h
STA_UNSYNC = 0x0040
# adjtimex(2): struct timex { unsigned int modes; long offset, freq, maxerror, esterror;
#                             int status; ... }
# in the widths of this machine's C: status is at byte 40 where a long has 64 bits, at 20 where it
# has 32. The whole is 208 and 128 bytes.
_TIMEX_HEAD = struct.Struct("@I4li")
_TIMEX_BYTES = 512


def kernel_status() -> int | None:
    """adjtimex(2) without modes: the kernel's STA_* bits; None where it may not be asked.

    Needs no privilege. ctypes is 0.3 MiB of private memory (benchmarks/footprint.py), which Python
    has no way around: imported with the first call, which only a machine without a battery makes.
    """
    try:
        import ctypes

        # What this process is linked with, glibc or musl: CDLL(None) would be the same, and leave
        # a class to the garbage collector each time. On 32 bits both libraries export this name
        # with 32-bit times, whatever the width of time_t elsewhere.
        adjtimex = ctypes.pythonapi.adjtimex
    except (ImportError, OSError, AttributeError):
        return None
    timex = ctypes.create_string_buffer(_TIMEX_BYTES)
    if adjtimex(timex) < 0:
        return None
    status: int = _TIMEX_HEAD.unpack_from(timex)[5]
    return status


class Synchronisation:
    """Whether the clock of `machine` is trusted, from the first look on that finds it right.

    `time_ns` is the wall clock; `adjtimex` gives the kernel's STA_* bits, or None where it may not
    be asked; `architecture` is uname(2)'s machine.
    """

    def __init__(
        self,
        machine: Machine,
        *,
        time_ns: Callable[[], int] = time.time_ns,
        adjtimex: Callable[[], int | None] = kernel_status,
        architecture: str | None = None,
    ) -> None:
        self._time_ns = time_ns
        self._adjtimex = adjtimex
        if architecture is None:
            architecture = os.uname().machine
        # As at boot: an RTC that is right later was set from the clock, of which adjtimex knows.
        self._has_battery = _has_battery(machine, architecture)
        self._trusted = False

    def trusted(self) -> bool:
        """True for good once it was. Before that a call costs 2 us, and the first one an import."""
        if not self._trusted and self._time_ns() >= EARLIEST_UNIX_NANO:
            self._trusted = self._has_battery or not (self._adjtimex() or 0) & STA_UNSYNC
        return self._trusted


def _has_battery(machine: Machine, architecture: str) -> bool:
    """Whether the clock was set at boot by something that knew the time.

    Kernel, Documentation/ABI/testing/sysfs-class-rtc: `hctosys` is 1 if the RTC provided the system
    time at boot, `since_epoch` what it shows now, in seconds.
    """
    found = [f"class/rtc/{name}" for name in listing(machine.sys("class/rtc"))]
    setters = [rtc for rtc in found if read_int(machine.sys(f"{rtc}/hctosys")) == 1]
    if not setters:
        # x86 reads its CMOS clock, or what a hypervisor says, without an RTC driver.
        return architecture == "x86_64" or (architecture[:1], architecture[2:]) == ("i", "86")
    shown = [read_int(machine.sys(f"{rtc}/since_epoch")) for rtc in setters]
    return all(seconds is None or seconds * _NS >= EARLIEST_UNIX_NANO for seconds in shown)


def correction(
    admitted_unix_nano: int,
    admitted_boottime_nano: int,
    now_unix_nano: int,
    now_boottime_nano: int,
) -> int:
    """Nanoseconds to add to a time stamp of when the clock was wrong.

    Both pairs are the wall clock and CLOCK_BOOTTIME of one moment of this boot: when the data came,
    and now that the clock is right. CLOCK_BOOTTIME is never set, so it says when that really was.
    """
    return now_unix_nano - (now_boottime_nano - admitted_boottime_nano) - admitted_unix_nano
