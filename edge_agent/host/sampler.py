"""One sample of this machine as an encoded ExportMetricsServiceRequest, and the interval of them.

What is quick is read in the event loop (a third of a millisecond), what may block in the worker.
A subject that fails lowers its own agent.sampler.success and nothing else.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from typing import TypeVar

from edge_agent.host.clock import BootClock
from edge_agent.host.counters import Counters
from edge_agent.host.cpu import Cpu
from edge_agent.host.disk import Disk
from edge_agent.host.filesystem import ROOT, Filesystem, Mount, Usage
from edge_agent.host.load import Load
from edge_agent.host.machine import Machine
from edge_agent.host.memory import Memory
from edge_agent.host.network import Connections, Network
from edge_agent.host.power import Power
from edge_agent.host.process import Process, Processes
from edge_agent.host.storage_wear import StorageWear
from edge_agent.host.thermal import Thermal
from edge_agent.host.worker import Worker
from edge_agent.log import Log
from edge_agent.otlp.metrics import Kind, Metric, Reading, Template

log = Log("host.sampler")

SUCCESS = Metric("agent.sampler.success", "1", Kind.GAUGE)
SCOPE = "edge_agent.host"

SUBJECTS = (
    Cpu,
    Load,
    Memory,
    Disk,
    Network,
    Process,
    Processes,
    Connections,
    Thermal,
    Power,
    StorageWear,
    Filesystem,
)


@dataclass(frozen=True, slots=True)
class Seed:
    """What /health and /metrics show of the last sample; None where it has no such reading.

    The network's bytes are since boot, over all interfaces but loopback.
    """

    cpu_percent: float | None
    memory_used_bytes: int | None
    memory_total_bytes: int | None
    disk_used_bytes: Mapping[str, int]
    network_received_bytes: int | None
    network_transmitted_bytes: int | None


@dataclass(frozen=True, slots=True)
class Sample:
    """A whole request (empty without data points), its data points, and when it was taken."""

    body: bytes
    items: int
    seed: Seed
    time_unix_nano: int
    end_time_unix_nano: int


class Sampler:
    """This machine, sampled.

    `resource` is an encoded Resource; `exclude` are globs on metric names; `deadline_s` is how long
    a probe that may block is waited for. Subjects leave in the order of SUBJECTS.
    """

    def __init__(
        self,
        *,
        resource: bytes,
        version: str,
        machine: Machine,
        clock: BootClock,
        exclude: tuple[str, ...] = (),
        deadline_s: float = 2.0,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._template = Template(resource, SCOPE, version)
        self._clock = clock
        self._exclude = exclude
        self._monotonic = monotonic
        self._worker = Worker(deadline_s=deadline_s)
        self._counters = Counters()
        self._excluded: dict[str, bool] = {}
        self._failing: set[str] = set()
        # Subject -> whether it could be read in the last sample.
        self.success: dict[str, bool] = {}
        self._cpu = Cpu(machine)
        self._memory = Memory(machine)
        self._network = Network(machine)
        self._filesystem = Filesystem(machine)
        self._quick = (
            self._cpu,
            Load(machine),
            self._memory,
            Disk(machine),
            self._network,
            Process(clock, monotonic),
        )
        slow = (
            Processes(machine),
            Connections(machine),
            Thermal(machine),
            Power(machine),
            StorageWear(machine),
        )
        # What is wholly excluded is not read either. The quick ones are: /health shows them.
        self._slow = tuple(
            subject
            for subject in slow
            if any(self._wanted(metric.name) for metric in subject.metrics)
        )

    async def sample(self) -> Sample:
        """Read everything once. Takes as long as its probes, and a deadline for each dead one.

        Raises nothing of the machine's doing. The first has no CPU utilization: there is nothing
        to compare with.
        """
        time_unix_nano = self._clock.now_unix_nano()
        readings: list[Reading] = []
        errors: dict[str, str] = {}
        for subject in self._quick:
            answer = _outcome(partial(_all, subject.sample))
            errors[subject.name] = _take(answer, readings)
        await self._ask_worker(readings, errors)
        for name, error in errors.items():
            self._judge(name, error)
            self.success[name] = not error
            attributes = (("agent.sampler.subject", name),)
            readings.append(Reading(SUCCESS, attributes, int(not error)))
        wanted = [reading for reading in readings if self._wanted(reading.metric.name)]
        body = self._template.encode(
            list(self._counters.started(wanted, time_unix_nano)),
            start_time_unix_nano=self._clock.boot_time_unix_nano,
            time_unix_nano=time_unix_nano,
        )
        return Sample(
            body=body,
            items=self._template.data_points,
            seed=self._seed(),
            time_unix_nano=time_unix_nano,
            end_time_unix_nano=self._clock.now_unix_nano(),
        )

    async def _ask_worker(self, readings: list[Reading], errors: dict[str, str]) -> None:
        """All that may block, mounts last: what is asked after a dead one waits for it."""
        filesystem = self._filesystem
        probes: dict[str, Callable[[], list[Reading] | Usage | None]] = {
            subject.name: partial(_all, subject.sample) for subject in self._slow
        }
        dead = []
        mounts = _outcome(filesystem.mounts)
        if isinstance(mounts, Exception):
            dead.append(_said(mounts))
            mounts = [ROOT]
        # What is on this machine first: a dead server must not keep it from being asked once.
        by_distance = sorted(mounts, key=lambda mount: not mount.device.startswith("/dev/"))
        probes |= {_probe(mount): partial(filesystem.usage, mount) for mount in by_distance}
        answers = await self._worker.run(probes)
        for subject in self._slow:
            errors[subject.name] = _take(answers.get(subject.name), readings)
        usages = []
        for mount in mounts:
            usage = answers.get(_probe(mount))
            if isinstance(usage, Usage):
                usages.append((mount, usage))
            elif isinstance(usage, Exception):
                dead.append(f"{mount.point}: {_said(usage)}")
            elif _probe(mount) not in answers:
                dead.append(f"{mount.point}: {_NO_ANSWER}")
        readings += filesystem.readings(usages)
        errors[filesystem.name] = "; ".join(dead)

    def _judge(self, subject: str, error: str) -> None:
        """Log a failure once, and once that it is over."""
        if error and subject not in self._failing:
            self._failing.add(subject)
            log.warning("subject failed, its readings are missing", subject=subject, error=error)
        elif not error and subject in self._failing:
            self._failing.remove(subject)
            log.info("subject is back", subject=subject)

    def _wanted(self, metric: str) -> bool:
        if metric not in self._excluded:
            self._excluded[metric] = any(fnmatchcase(metric, glob) for glob in self._exclude)
        return not self._excluded[metric]

    def _seed(self) -> Seed:
        return Seed(
            cpu_percent=self._cpu.percent,
            memory_used_bytes=self._memory.used_bytes,
            memory_total_bytes=self._memory.total_bytes,
            disk_used_bytes=self._filesystem.used_bytes,
            network_received_bytes=self._network.received_bytes,
            network_transmitted_bytes=self._network.transmitted_bytes,
        )

    async def run(
        self,
        interval_s: float,
        emit: Callable[[Sample], None],
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Sample at once and then every `interval_s` after the first, until cancelled.

        Ticks are counted from the start, so that nothing drifts; those that a slow sample or a
        stopped machine missed are skipped.
        """
        start_s = self._monotonic()
        tick = 0
        while True:
            emit(await self.sample())
            passed_s = self._monotonic() - start_s
            # A timer may fire a hair early: never the same tick twice.
            tick = max(tick, int(passed_s // interval_s)) + 1
            await sleep(max(0.0, start_s + tick * interval_s - self._monotonic()))

    def close(self) -> None:
        """Let the worker's thread end."""
        self._worker.close()


_NO_ANSWER = "no answer within the deadline, left alone until it returns"

T = TypeVar("T")


def _all(sample: Callable[[], Iterable[Reading]]) -> list[Reading]:
    return list(sample())


def _outcome(probe: Callable[[], T]) -> T | Exception:
    try:
        return probe()
    except Exception as error:  # noqa: BLE001 - a subject's fault, whatever it is, is its own
        return error


def _take(answer: list[Reading] | Usage | Exception | None, readings: list[Reading]) -> str:
    """Add what was read; the error otherwise, empty without one."""
    if isinstance(answer, list):
        readings += answer
        return ""
    return _said(answer) if isinstance(answer, Exception) else _NO_ANSWER


def _said(error: Exception) -> str:
    """An error as a person reads it: the operating system's names the file, others their type."""
    return str(error) if isinstance(error, OSError) else f"{type(error).__name__}: {error}"


def _probe(mount: Mount) -> str:
    return f"mount {mount.point}"
