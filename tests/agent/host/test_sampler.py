"""The sample as a whole: what fails, what waits, and when the next one is due."""

import asyncio
import os
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)

from edge_agent.host.clock import BootClock
from edge_agent.host.machine import Machine
from edge_agent.host.sampler import SUBJECTS, Sample, Sampler
from tests.agent.host.trees import plant

S = 10**9
MEMINFO = "".join(
    f"{name}: 100 kB\n"
    for name in (
        "MemTotal",
        "MemFree",
        "MemAvailable",
        "Buffers",
        "Cached",
        "Active",
        "Inactive",
        "Shmem",
        "SReclaimable",
        "Slab",
    )
)
FILES: dict[str, str | bytes] = {
    "proc/stat": "cpu  1 0 0 9 0 0 0 0 0 0\ncpu0 1 0 0 9 0 0 0 0 0 0\nbtime 1000\n",
    "proc/loadavg": "0.1 0.2 0.3 1/2 3\n",
    "proc/uptime": "50.0 40.0\n",
    "proc/meminfo": MEMINFO,
    "proc/1/stat": "1 (init) S 0\n",
    "proc/1/mounts": "/dev/sda1 / ext4 rw 0 0\nnas:/x /nas nfs4 rw 0 0\n",
    "proc/1/net/dev": "a\nb\n  eth0: 7 1 0 0 0 0 0 0 8 1 0 0 0 0 0 0\n",
}


def answer(*_: object) -> os.statvfs_result:
    """A file system of 10 blocks, another at each call."""
    answer.calls = getattr(answer, "calls", 0) + 1  # type: ignore[attr-defined]
    return os.statvfs_result((1, 1, 10, 5, 4, 0, 0, 0, 0, 255, answer.calls))  # type: ignore[attr-defined]


def sampler(
    machine: Machine,
    *,
    now: Callable[[], int] = lambda: 1050 * S,
    monotonic: Callable[[], float] = lambda: 0.0,
    exclude: tuple[str, ...] = (),
    deadline_s: float = 5.0,
) -> Sampler:
    """A sampler of a planted machine, 50 seconds after its boot."""
    return Sampler(
        resource=b"",
        version="1.0.0",
        machine=machine,
        clock=BootClock(machine, time_ns=now, boottime_ns=lambda: now() - 1000 * S),
        exclude=exclude,
        deadline_s=deadline_s,
        monotonic=monotonic,
    )


def points(sample: Sample, name: str, key: str) -> dict[str, tuple[float, int]]:
    """Value and start time of a metric's points by one attribute."""
    found = {}
    request = ExportMetricsServiceRequest.FromString(sample.body)
    for metric in request.resource_metrics[0].scope_metrics[0].metrics:
        if metric.name == name:
            for point in getattr(metric, metric.WhichOneof("data")).data_points:
                labels = {pair.key: pair.value.string_value for pair in point.attributes}
                value = getattr(point, point.WhichOneof("value"))
                found[labels.get(key, "")] = (value, point.start_time_unix_nano)
    return found


def failing(sample: Sample) -> set[str]:
    """Subjects whose success is 0."""
    success = points(sample, "agent.sampler.success", "agent.sampler.subject")
    assert set(success) == {subject.name for subject in SUBJECTS}
    return {name for name, (value, _) in success.items() if value == 0}


def messages(caplog: pytest.LogCaptureFixture) -> list[tuple[str, object]]:
    """What was logged, and of which subject."""
    found = [(record.message, record.fields["subject"]) for record in caplog.records]
    caplog.clear()
    return found


FAILED, BACK = "subject failed, its readings are missing", "subject is back"


async def test_a_failing_subject_lowers_its_own_success_and_logs_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The others go on; it is logged when it fails, when it is back, and when it fails again."""
    caplog.set_level("INFO")
    machine = replace(plant(tmp_path, FILES), statvfs=answer)
    part = sampler(machine)
    assert failing(await part.sample()) == set()
    meminfo = Path(machine.proc("meminfo"))
    for _ in range(2):
        meminfo.unlink()
        for _ in range(3):
            sample = await part.sample()
            assert failing(sample) == {"memory"}
            assert sample.seed.memory_used_bytes is None
            assert points(sample, "system.uptime", "") == {"": (50.0, 0)}
        assert str(meminfo) in caplog.records[0].fields["error"]
        assert messages(caplog) == [(FAILED, "memory")]
        meminfo.write_text(MEMINFO)
        assert failing(await part.sample()) == set()
        assert messages(caplog) == [(BACK, "memory")]
    part.close()


@pytest.mark.parametrize(
    ("path", "content", "subject"),
    [
        ("proc/stat", "cpu  nonsense\n", "cpu"),
        ("proc/loadavg", "", "load"),
        ("proc/diskstats", "1 2 3\n", "disk"),
        ("proc/1/net/dev", "a\nb\n eth0: 1\n", "network"),
        ("proc/1/net/tcp", "head\nx\n", "connections"),
        ("sys/devices/platform/soc/soc:firmware/get_throttled", "?", "power"),
        ("sys/block/mmcblk0/device/life_time", "?", "storage_wear"),
    ],
)
async def test_a_file_that_makes_no_sense_fails_one_subject(
    tmp_path: Path, path: str, content: str, subject: str
) -> None:
    """Quick or slow, whatever it raises."""
    part = sampler(replace(plant(tmp_path, {**FILES, path: content}), statvfs=answer))
    assert failing(await part.sample()) == {subject}
    part.close()


async def test_without_a_mount_table_the_root_is_reported_all_the_same(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The subject fails and says which file; /health does not go on with the other sizes."""
    machine = replace(plant(tmp_path, FILES), statvfs=answer)
    part = sampler(machine)
    assert (await part.sample()).seed.disk_used_bytes == {"/": 5, "/nas": 5}
    Path(machine.proc("1/mounts")).unlink()
    sample = await part.sample()
    assert failing(sample) == {"filesystem"}
    assert sample.seed.disk_used_bytes == {"/": 5}
    assert [record.fields["error"] for record in caplog.records] == [
        f"[Errno 2] No such file or directory: '{machine.proc('mounts')}'"
    ]
    part.close()


async def test_a_dead_mount_stalls_nobody(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The sample comes without it, names it once, and has it again when the server is back."""
    caplog.set_level("INFO")
    revived = threading.Event()
    asked: list[str] = []

    def statvfs(path: str) -> os.statvfs_result:
        asked.append(path)
        if path.endswith("/nas"):
            revived.wait(30)
        return answer()

    part = sampler(replace(plant(tmp_path, FILES), statvfs=statvfs), deadline_s=0.05)
    for _ in range(3):
        sample = await part.sample()
        assert failing(sample) == {"filesystem"}
        assert sample.seed.disk_used_bytes == {"/": 5}
    assert sum(path.endswith("/nas") for path in asked) == 1
    (record,) = caplog.records
    assert record.fields["error"].startswith("/nas: no answer within the deadline")
    revived.set()
    async with asyncio.timeout(10):
        while failing(sample := await part.sample()):
            await asyncio.sleep(0.001)
    assert sample.seed.disk_used_bytes == {"/": 5, "/nas": 5}
    part.close()


async def test_a_mount_whose_probe_breaks_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A fault of ours in one mount leaves the others readable."""

    def statvfs(path: str) -> os.statvfs_result:
        if path.endswith("/nas"):
            raise ValueError("embedded null byte")
        return answer()

    part = sampler(replace(plant(tmp_path, FILES), statvfs=statvfs))
    sample = await part.sample()
    assert (failing(sample), sample.seed.disk_used_bytes) == ({"filesystem"}, {"/": 5})
    assert caplog.records[0].fields["error"] == "/nas: ValueError: embedded null byte"
    part.close()


async def test_counters_start_at_boot_and_anew_when_they_are_reset(tmp_path: Path) -> None:
    """eth0 counts from zero again: its series starts at the sample before, nobody else's."""
    machine = replace(plant(tmp_path, FILES), statvfs=answer)
    times = iter(range(1050, 2000))
    now = [next(times) * S]
    part = sampler(machine, now=lambda: now[0])
    starts = []
    for received in (7, 9, 2, 3):
        now[0] = next(times) * S
        plant(
            tmp_path, {"proc/1/net/dev": f"a\nb\neth0: {received} 1 0 0 0 0 0 0 8 1 0 0 0 0 0 0\n"}
        )
        io = points(await part.sample(), "system.network.io", "network.io.direction")
        assert io["transmit"] == (8, 1000 * S)
        starts.append(io["receive"])
    assert starts == [(7, 1000 * S), (9, 1000 * S), (2, 1052 * S), (3, 1052 * S)]
    part.close()


async def test_what_is_wholly_excluded_is_not_even_read(tmp_path: Path) -> None:
    """Excluding the count of connections saves reading them; with all excluded nothing is left."""
    files = {**FILES, "proc/1/net/tcp": "head\nnot a line of it\n"}
    machine = replace(plant(tmp_path, files), statvfs=answer)
    part = sampler(machine, exclude=("system.network.connection.*",))
    success = points(await part.sample(), "agent.sampler.success", "agent.sampler.subject")
    assert "connections" not in success
    assert all(value == 1 for value, _ in success.values())
    part.close()
    silent = sampler(machine, exclude=("*",))
    sample = await silent.sample()
    assert (sample.body, sample.items) == (b"", 0)
    silent.close()


class FakeTime:
    """A monotonic clock that only sleeping and a slow sample move."""

    def __init__(self, interval_s: float, slow: dict[int, float]) -> None:
        self.now_s = 1000.0
        self.samples: list[float] = []
        self._slow = slow
        self._interval_s = interval_s

    async def sleep(self, delay_s: float) -> None:
        if len(self.samples) == 7:
            raise asyncio.CancelledError
        self.now_s += delay_s

    def emit(self, sample: Sample) -> None:
        assert sample.items > 0
        self.samples.append(self.now_s - 1000.0)
        self.now_s += self._slow.get(len(self.samples), 0.001)


@pytest.mark.parametrize(
    ("slow", "expected"),
    [
        ({}, [0, 15, 30, 45, 60, 75, 90]),
        ({2: 14.9, 3: 0.5}, [0, 15, 30, 45, 60, 75, 90]),
        ({2: 31.0, 4: 15.0}, [0, 15, 60, 75, 105, 120, 135]),
    ],
)
async def test_samples_keep_to_the_tick_and_skip_those_they_missed(
    tmp_path: Path, slow: dict[int, float], expected: list[float]
) -> None:
    """The first at once; no drift however long a sample takes; none made up for."""
    fake = FakeTime(15.0, slow)
    machine = replace(plant(tmp_path, FILES), statvfs=answer)
    part = sampler(machine, monotonic=lambda: fake.now_s, exclude=("process.*",))
    with pytest.raises(asyncio.CancelledError):
        await part.run(15.0, fake.emit, sleep=fake.sleep)
    assert fake.samples == pytest.approx(expected)
    part.close()


async def test_a_timer_that_fires_early_does_not_sample_twice(tmp_path: Path) -> None:
    """A hair before the tick is the tick."""
    fake = FakeTime(15.0, dict.fromkeys(range(1, 8), 0.0))
    machine = replace(plant(tmp_path, FILES), statvfs=answer)
    part = sampler(machine, monotonic=lambda: fake.now_s)

    async def early(delay_s: float) -> None:
        await fake.sleep(max(0.0, delay_s - 0.0001))

    with pytest.raises(asyncio.CancelledError):
        await part.run(15.0, fake.emit, sleep=early)
    assert fake.samples == pytest.approx([15 * n for n in range(7)], abs=0.001)
    part.close()
