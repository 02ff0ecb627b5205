"""Trees of /proc and /sys, replayed, and the whole output of each as a text.

What they are and where they come from is in tests/golden/host/README.md.

`python -m tests.agent.host.recorded` writes the outputs anew: read the difference before you
commit it.
"""

import asyncio
import json
import os
from collections.abc import Iterator
from pathlib import Path

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import NumberDataPoint

from edge_agent.host.clock import BootClock
from edge_agent.host.identity import Identity, identify
from edge_agent.host.machine import Machine
from edge_agent.host.sampler import Sample, Sampler

GOLDEN = Path(__file__).parents[2] / "golden" / "host"
TREES = ("raspberry-pi-4", "laptop", "container")
INSTANCE = "4bf92f35-77b3-4da6-a3ce-929d0e0e4736"
UNAMES = {
    "raspberry-pi-4": ("Linux", "pi", "6.6.51", "#1", "aarch64"),
    "laptop": ("Linux", "laptop", "6.11.4", "#1", "x86_64"),
    "container": ("Linux", "0a1b2c", "6.1.0", "#1", "armv7l"),
}


class Statvfs:
    """statvfs(3) of a tree, from its statvfs.json: fragment, blocks, free, available, files, id."""

    def __init__(self, root: Path) -> None:
        self._root = str(root)
        self._answers: dict[str, list[int]] = json.loads((root / "statvfs.json").read_text())

    def __call__(self, path: str) -> os.statvfs_result:
        point = os.fsencode(path.removeprefix(self._root)).decode("utf-8", "backslashreplace")
        if point not in self._answers:
            raise FileNotFoundError(2, "no such mount in the recording", point)
        unit, blocks, free, available, files, fsid = self._answers[point]
        return os.statvfs_result(
            (unit, unit, blocks, free, available, files, files, files, 0, 255, fsid)
        )


def machine(tree: str) -> Machine:
    """The recorded machine."""
    root = GOLDEN / tree
    return Machine(root=str(root), statvfs=Statvfs(root))


def clock(tree: Machine) -> BootClock:
    """The clock of a recording: it was taken at its uptime."""
    uptime_ns = round(float(Path(tree.proc("uptime")).read_text().split()[0]) * 1e9)
    lines = Path(tree.proc("stat")).read_text().splitlines()
    btime = next(int(line.split()[1]) for line in lines if line.startswith("btime"))
    return BootClock(tree, time_ns=lambda: btime * 10**9 + uptime_ns, boottime_ns=lambda: uptime_ns)


def identity(tree: str) -> Identity:
    """The identity of an agent on it."""
    return identify(
        machine(tree),
        customer_id="acme",
        customer_name="Acme",
        node_id=tree,
        node_region=None,
        environment="production",
        instance_id=INSTANCE,
        version="1.0.0",
        uname=os.uname_result(UNAMES[tree]),
    )


async def sample(tree: str, exclude: tuple[str, ...] = ("process.*",)) -> Sample:
    """One sample of it, without the process that replays it."""
    host = machine(tree)
    sampler = Sampler(
        resource=identity(tree).encoded,
        version="1.0.0",
        machine=host,
        clock=clock(host),
        exclude=exclude,
    )
    try:
        return await sampler.sample()
    finally:
        sampler.close()


def _attributes(pairs: "list[KeyValue]") -> str:
    shown = []
    for pair in pairs:
        field = pair.value.WhichOneof("value")
        value = getattr(pair.value, field)
        shown.append(f"{pair.key}={json.dumps(value, ensure_ascii=False)}")
    return "{" + ", ".join(shown) + "}"


def _value(point: NumberDataPoint) -> str:
    if point.WhichOneof("value") == "as_int":
        return str(point.as_int)
    return f"{point.as_double:.9g}" if "e" in repr(point.as_double) else repr(point.as_double)


def listing(body: bytes) -> Iterator[str]:
    """The Resource, then a line a metric and a line a data point below it."""
    request = ExportMetricsServiceRequest.FromString(body)
    for resource_metrics in request.resource_metrics:
        for pair in resource_metrics.resource.attributes:
            yield f"{pair.key} = {pair.value.string_value}"
        for scope_metrics in resource_metrics.scope_metrics:
            yield f"scope {scope_metrics.scope.name} {scope_metrics.scope.version}"
            for metric in scope_metrics.metrics:
                kind = metric.WhichOneof("data")
                data = getattr(metric, kind)
                words = [metric.name, metric.unit, kind]
                if kind == "sum":
                    words.append("cumulative" if data.aggregation_temporality == 2 else "?")
                    words.append("monotonic" if data.is_monotonic else "non-monotonic")
                words.append(data.data_points[0].WhichOneof("value").removeprefix("as_"))
                yield " ".join(words)
                for point in data.data_points:
                    start = f" since {point.start_time_unix_nano}" if kind == "sum" else ""
                    yield f"  {_attributes(list(point.attributes))} {_value(point)}{start}"


def golden(tree: str) -> Path:
    """The file with the whole output of a tree."""
    return GOLDEN / f"{tree}.txt"


async def output(tree: str) -> str:
    """What the golden file is to hold."""
    return "\n".join(listing((await sample(tree)).body)) + "\n"


if __name__ == "__main__":
    for name in TREES:
        golden(name).write_text(asyncio.run(output(name)), encoding="utf-8")
