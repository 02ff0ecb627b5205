"""system.disk.*: whole disks, not their partitions, whose sum they are."""

import os
import re
from collections.abc import Iterator

import psutil

from edge_agent.host.machine import Machine, listing, psutil_at, text
from edge_agent.otlp.metrics import Kind, Metric, Number, Reading

IO = Metric("system.disk.io", "By", Kind.COUNTER)
OPERATIONS = Metric("system.disk.operations", "{operation}", Kind.COUNTER)
IO_TIME = Metric("system.disk.io_time", "s", Kind.COUNTER, Number.DOUBLE)
OPERATION_TIME = Metric("system.disk.operation_time", "s", Kind.COUNTER, Number.DOUBLE)

# Memory, files and floppies under a disk's name, and the eMMC's own boot and key partitions.
_NO_DISK = re.compile(r"(z?ram|loop|fd|sr)\d+|mmcblk\d+(boot\d+|rpmb)")
# Only asked where /sys/block is not to be seen.
_PARTITION = re.compile(r"([hsv]|xv)d[a-z]+\d+|(nvme\d+n\d+|mmcblk\d+)p\d+")


class Disk:
    """Nothing where there is no /proc/diskstats, as in some containers."""

    name = "disk"
    metrics = (IO, OPERATIONS, IO_TIME, OPERATION_TIME)

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def sample(self) -> Iterator[Reading]:
        """Raises OSError or ValueError where /proc/diskstats cannot be read."""
        # Without the file psutil turns to the running machine's /sys/block.
        if not os.path.exists(self._machine.proc("diskstats")):
            return
        with psutil_at(self._machine.proc("").rstrip("/")):
            # Counters that step back are ours to deal with, see counters.py.
            counters = psutil.disk_io_counters(perdisk=True, nowrap=False)
        whole = frozenset(listing(self._machine.sys("block")))
        for name, disk in counters.items():
            if _NO_DISK.fullmatch(name):
                continue
            if name not in whole if whole else _PARTITION.fullmatch(name):
                continue
            device = ("system.device", text(os.fsencode(name)))
            read = (device, ("disk.io.direction", "read"))
            write = (device, ("disk.io.direction", "write"))
            yield Reading(IO, read, disk.read_bytes)
            yield Reading(IO, write, disk.write_bytes)
            yield Reading(OPERATIONS, read, disk.read_count)
            yield Reading(OPERATIONS, write, disk.write_count)
            yield Reading(IO_TIME, (device,), disk.busy_time / 1000)
            yield Reading(OPERATION_TIME, read, disk.read_time / 1000)
            yield Reading(OPERATION_TIME, write, disk.write_time / 1000)
