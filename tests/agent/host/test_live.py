"""The machine that runs the tests, sampled for real."""

import os
import re
from pathlib import Path

import psutil
import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)

from edge_agent.host.clock import BootClock
from edge_agent.host.machine import Machine
from edge_agent.host.sampler import SUBJECTS, SUCCESS, Sample, Sampler


def first(path: str) -> str:
    """A file's text, empty where it is not."""
    return Path(path).read_text() if os.path.exists(path) else ""


# What a machine may lack, and how to tell that it does.
LACKING = {
    "system.cpu.frequency": lambda: psutil.cpu_freq() is None,
    "system.paging.usage": lambda: psutil.swap_memory().total == 0,
    "system.disk.": lambda: not os.path.exists("/proc/diskstats"),
    "hw.network.signal_strength": lambda: not re.search(r"-\d+\.", first("/proc/net/wireless")),
    "hw.temperature": lambda: not psutil.sensors_temperatures(),
    "hw.fan.speed": lambda: not psutil.sensors_fans(),
    "hw.voltage": lambda: not list(Path("/sys/class/hwmon").glob("*/in*_input")),
    "hw.status": lambda: (
        not [
            *Path("/sys/class/hwmon").glob("*/in*_lcrit_alarm"),
            *Path("/sys/block").glob("*/device/pre_eol_info"),
            *Path("/sys/devices/platform/soc").glob("*/get_throttled"),
        ]
    ),
    "hw.physical_disk.endurance_utilization": lambda: (
        not list(Path("/sys/block").glob("*/device/life_time"))
    ),
}


def values(sample: Sample) -> dict[str, list[float]]:
    """All values by metric."""
    request = ExportMetricsServiceRequest.FromString(sample.body)
    return {
        metric.name: [
            getattr(point, point.WhichOneof("value"))
            for point in getattr(metric, metric.WhichOneof("data")).data_points
        ]
        for metric in request.resource_metrics[0].scope_metrics[0].metrics
    }


async def two_samples() -> tuple[dict[str, list[float]], Sample]:
    """The second has utilization, once the kernel has counted a tick between them."""
    machine = Machine()
    sampler = Sampler(resource=b"", version="1", machine=machine, clock=BootClock(machine))
    before = await sampler.sample()
    while before.seed.cpu_percent is None:
        before = await sampler.sample()
    sampler.close()
    return values(before), before


async def test_every_metric_appears_unless_the_machine_lacks_it() -> None:
    """Each name of every subject, and no subject fails."""
    found, _ = await two_samples()
    assert set(found[SUCCESS.name]) == {1}
    names = {metric.name for subject in SUBJECTS for metric in subject.metrics}
    missing = names - set(found)
    excused = {
        name
        for name in missing
        for prefix, lacks in LACKING.items()
        if name.startswith(prefix) and lacks()
    }
    assert missing == excused


async def test_the_values_are_what_psutil_finds() -> None:
    """To within what moves between two looks at a machine that is at work."""
    found, sample = await two_samples()
    memory = psutil.virtual_memory()
    assert found["system.memory.limit"] == [memory.total]
    assert found["system.memory.percent"][0] == pytest.approx(memory.percent, abs=20)
    assert found["system.cpu.logical.count"] == [psutil.cpu_count()]
    assert sum(found["system.cpu.utilization"]) == pytest.approx(1)
    assert 0 <= found["system.cpu.percent"][0] <= 100
    assert sum(found["system.cpu.time"]) == pytest.approx(sum(psutil.cpu_times()[:8]), rel=0.01)
    disk = os.statvfs("/")
    assert sample.seed.disk_used_bytes["/"] == pytest.approx(
        (disk.f_blocks - disk.f_bfree) * disk.f_frsize, rel=0.2
    )
    assert sum(found["system.process.count"]) == pytest.approx(len(psutil.pids()), rel=0.5)
    assert found["system.uptime"][0] == pytest.approx(
        (sample.time_unix_nano / 1e9) - psutil.boot_time(), abs=30
    )
    received = sum(
        nic.bytes_recv for name, nic in psutil.net_io_counters(pernic=True).items() if name != "lo"
    )
    assert 0 <= (sample.seed.network_received_bytes or 0) <= received
    assert sample.end_time_unix_nano >= sample.time_unix_nano
