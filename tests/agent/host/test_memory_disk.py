"""Memory, paging, load and disks."""

from pathlib import Path

import pytest

from edge_agent.host import disk, load, memory
from tests.agent.host.trees import plant, values

MEMINFO = """MemTotal: 1000 kB
MemFree: 100 kB
MemAvailable: 400 kB
Buffers: 20 kB
Cached: 200 kB
Active: 1 kB
Inactive: 1 kB
Shmem: 1 kB
SReclaimable: 30 kB
Slab: 1 kB
"""


def test_swap_is_by_device_and_names_are_unescaped(tmp_path: Path) -> None:
    r"""proc(5): blanks are `\040`; what is not UTF-8 appears as `\xNN`."""
    machine = plant(
        tmp_path,
        {
            "proc/meminfo": MEMINFO,
            "proc/swaps": b"Filename Type Size Used Priority\n"
            b"/my\\040swap\xff file 100 40 -2\n/dev/sda3 partition 50 0 -3\n",
        },
    )
    usage = values(
        memory.Memory(machine).sample(),
        memory.PAGING_USAGE,
        "system.device",
        "system.paging.state",
    )
    assert usage == {
        (r"/my swap\xff", "used"): 40 * 1024,
        (r"/my swap\xff", "free"): 60 * 1024,
        ("/dev/sda3", "used"): 0,
        ("/dev/sda3", "free"): 50 * 1024,
    }


@pytest.mark.parametrize(
    ("vmstat", "expected"),
    [
        ("pgfault 100\npgmajfault 30\n", {"major": 30, "minor": 70}),
        ("pgfault 100\n", {}),
        ("", {}),
    ],
)
def test_minor_faults_are_those_without_io(
    tmp_path: Path, vmstat: str, expected: dict[str, int]
) -> None:
    """The kernel counts all and the major ones; with one of them missing neither is known."""
    machine = plant(tmp_path, {"proc/meminfo": MEMINFO, "proc/vmstat": vmstat})
    faults = values(
        memory.Memory(machine).sample(), memory.PAGING_FAULTS, "system.paging.fault.type"
    )
    assert faults == expected


def test_memory_that_cannot_be_read_is_unknown_not_old(tmp_path: Path) -> None:
    """/health must not go on showing the last good value."""
    machine = plant(tmp_path, {"proc/meminfo": MEMINFO})
    subject = memory.Memory(machine)
    list(subject.sample())
    assert (subject.used_bytes, subject.total_bytes) == (600 * 1024, 1000 * 1024)
    Path(machine.proc("meminfo")).unlink()
    with pytest.raises(FileNotFoundError):
        list(subject.sample())
    assert (subject.used_bytes, subject.total_bytes) == (None, None)


def test_a_damaged_loadavg_is_a_failure_not_a_zero(tmp_path: Path) -> None:
    """The subject fails; its readings are missing."""
    machine = plant(tmp_path, {"proc/loadavg": "0.1 0.2\n", "proc/uptime": "5.0 1.0\n"})
    with pytest.raises(ValueError, match="shorter"):
        list(load.Load(machine).sample())


def line(name: str, read_ms: int = 0) -> str:
    """A line of /proc/diskstats."""
    return f"   8       0 {name} 3 0 8 {read_ms} 5 0 16 7 0 9 16 0 0 0 0\n"


def test_disks_are_whole_disks(tmp_path: Path) -> None:
    """Not partitions, whose sum they are; not memory, loops and the eMMC's own partitions."""
    names = ["sda", "sda1", "nvme0n1", "nvme0n1p2", "mmcblk0", "mmcblk0p1", "mmcblk0boot0"]
    names += ["mmcblk0rpmb", "ram0", "zram0", "loop3", "sr0", "dm-0", "vda", "vda15"]
    machine = plant(tmp_path, {"proc/diskstats": "".join(map(line, names))})
    expected = {"sda", "nvme0n1", "mmcblk0", "dm-0", "vda"}
    assert set(values(disk.Disk(machine).sample(), disk.IO_TIME, "system.device")) == expected
    for name in (*expected, "ram0", "zram0", "mmcblk0boot0"):
        plant(tmp_path, {f"sys/block/{name}/size": "1\n"})
    assert set(values(disk.Disk(machine).sample(), disk.IO_TIME, "system.device")) == expected


def test_disk_times_are_seconds_and_sizes_bytes(tmp_path: Path) -> None:
    """The kernel counts milliseconds and sectors of 512 bytes."""
    machine = plant(tmp_path, {"proc/diskstats": line("sda", read_ms=1500)})
    readings = list(disk.Disk(machine).sample())
    direction = "disk.io.direction"
    assert values(readings, disk.IO, direction) == {"read": 4096, "write": 8192}
    assert values(readings, disk.OPERATIONS, direction) == {"read": 3, "write": 5}
    assert values(readings, disk.OPERATION_TIME, direction) == {"read": 1.5, "write": 0.007}
    assert values(readings, disk.IO_TIME) == {(): 0.009}


def test_without_diskstats_there_are_no_disks(tmp_path: Path) -> None:
    """And not those of the machine that runs the test, which psutil would turn to."""
    assert list(disk.Disk(plant(tmp_path, {})).sample()) == []
