"""Days of this machine's samples, from a few minutes of real ones.

`record` takes real samples, `every_s` apart. `Days` goes on from the last of them for as long as it
is asked, a sample each `interval_s`. What a series does in one interval is what it did in a stretch
of the recording that is as long, drawn anew for each sample and the same for all series, so that
what moves together on the machine moves together here:

- a counter is moved on by what it had counted in that stretch, times the load of the hour (half at
  night, one and a half at noon), in its own grain: ticks, sectors, whole packets;
- a gauge is moved by the difference between the two ends of the stretch, and stays within what was
  recorded and half of that span on either side (shares within 0 and 1): a walk, no replay;
- what never changed in the recording does not change here, as sizes and limits do not. One in 500
  samples moves one of the counters among these by one, as errors do.

Bodies are made by the agent's own Template, so that their bytes are laid out as the agent's are.
"""

import asyncio
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)

from edge_agent.host.clock import BootClock
from edge_agent.host.identity import identify
from edge_agent.host.machine import Machine
from edge_agent.host.sampler import Sampler
from edge_agent.otlp.metrics import Attributes, Kind, Metric, Number, Reading, Template

_DAY_S = 86_400.0


@dataclass(frozen=True, slots=True)
class Series:
    """One series: what it is, its start time, and the values that were recorded."""

    metric: Metric
    attributes: Attributes
    start_time_unix_nano: int
    values: list[float]


@dataclass(frozen=True, slots=True)
class Recording:
    """Real samples. `bodies` as the agent made them, `series` what is in them."""

    resource: bytes
    scope: tuple[str, str]
    every_s: float
    times_unix_nano: list[int]
    bodies: list[bytes]
    series: list[Series]


async def record(count: int, every_s: float) -> Recording:
    """`count` samples of this machine, without those that have other series than the last."""
    machine = Machine()
    identity = identify(
        machine,
        customer_id="customer-1",
        customer_name="Customer",
        node_id="node-1",
        node_region="eu-central",
        environment="production",
        instance_id="5e1b0b0e-6a34-4b2c-8d4c-6a1b6c2f7a10",
        version="1",
        attributes=(),
    )
    sampler = Sampler(
        resource=identity.encoded, version="1", machine=machine, clock=BootClock(machine)
    )
    # The first has no utilization: there is nothing to compare with.
    await sampler.sample()
    taken = []
    try:
        for _ in range(count):
            await asyncio.sleep(every_s)
            taken.append(await sampler.sample())
    finally:
        sampler.close()
    return _recording(every_s, [(s.time_unix_nano, s.body) for s in taken])


def _recording(every_s: float, taken: list[tuple[int, bytes]]) -> Recording:
    first = ExportMetricsServiceRequest.FromString(taken[-1][1])
    named = list(_points(first))
    series = [Series(metric, attributes, start, []) for metric, attributes, start, _ in named]
    times, bodies = [], []
    for at, body in taken:
        points = list(_points(ExportMetricsServiceRequest.FromString(body)))
        # A process, an interface or a mount has come or gone: its like is not to be compared.
        if [point[:3] for point in points] != [point[:3] for point in named]:
            continue
        for one, (*_, value) in zip(series, points, strict=True):
            one.values.append(value)
        times.append(at)
        bodies.append(body)
    group = first.resource_metrics[0]
    scope = group.scope_metrics[0].scope
    return Recording(
        group.resource.SerializeToString(),
        (scope.name, scope.version),
        every_s,
        times,
        bodies,
        series,
    )


def _points(
    request: ExportMetricsServiceRequest,
) -> Iterator[tuple[Metric, Attributes, int, float]]:
    for metric in request.resource_metrics[0].scope_metrics[0].metrics:
        data = getattr(metric, metric.WhichOneof("data"))
        kind = Kind.GAUGE
        if metric.WhichOneof("data") == "sum":
            kind = Kind.COUNTER if data.is_monotonic else Kind.UP_DOWN_COUNTER
        for point in data.data_points:
            which = point.WhichOneof("value")
            number = Number.INT if which == "as_int" else Number.DOUBLE
            attributes = tuple(
                (pair.key, getattr(pair.value, pair.value.WhichOneof("value")))
                for pair in point.attributes
            )
            named = Metric(metric.name, metric.unit, kind, number)
            yield named, attributes, point.start_time_unix_nano, getattr(point, which)


class Days:
    """The samples that follow a recording."""

    def __init__(self, recording: Recording, *, interval_s: float = 15.0, seed: int = 1) -> None:
        self._recording = recording
        self._interval_s = interval_s
        self._random = random.Random(seed)
        self._template = Template(recording.resource, *recording.scope)
        self._stretch = min(
            max(1, round(interval_s / recording.every_s)), len(recording.bodies) // 2
        )
        # A recording that is shorter than one interval is stretched.
        self._times = interval_s / (self._stretch * recording.every_s)
        self._values = [series.values[-1] for series in recording.series]
        self._moves = [_move_of(series) for series in recording.series]
        self._still = [
            at
            for at, series in enumerate(recording.series)
            if series.metric.kind is Kind.COUNTER and min(series.values) == max(series.values)
        ]
        self._elapsed_s = 0.0
        self.unix_nano = recording.times_unix_nano[-1]

    def again(self, at: int) -> bytes:
        """The recorded sample `at`, made the way `next` makes them."""
        return self._encode(
            [series.values[at] for series in self._recording.series],
            self._recording.times_unix_nano[at],
        )

    def next(self) -> bytes:
        """The sample one interval later; `data_points` are in it."""
        recording = self._recording
        self._elapsed_s += self._interval_s
        # The clock of a real machine is not asked on the nanosecond.
        late_nano = self._random.randrange(2_000_000)
        self.unix_nano = recording.times_unix_nano[-1] + int(self._elapsed_s * 1e9) + late_nano
        start = self._random.randrange(len(recording.bodies) - self._stretch)
        end = start + self._stretch
        load = 1.0 - 0.5 * math.cos(2 * math.pi * self._elapsed_s / _DAY_S)
        for at, (series, move) in enumerate(zip(recording.series, self._moves, strict=True)):
            if move is not None:
                values = series.values
                change = (values[end] - values[start]) * self._times
                self._values[at] = move(self._values[at], change, load, self._random.random())
        if self._still and self._random.randrange(500) == 0:
            self._values[self._random.choice(self._still)] += 1
        return self._encode(self._values, self.unix_nano)

    @property
    def data_points(self) -> int:
        """Data points in each sample."""
        return len(self._values)

    def _encode(self, values: list[float], unix_nano: int) -> bytes:
        readings = [
            Reading(series.metric, series.attributes, value, series.start_time_unix_nano)
            for series, value in zip(self._recording.series, values, strict=True)
        ]
        return self._template.encode(readings, start_time_unix_nano=0, time_unix_nano=unix_nano)


class _Move:
    """How a series goes on."""

    def __init__(self, series: Series) -> None:
        self._counter = series.metric.kind is Kind.COUNTER
        self._grain = _grain(series)
        low, high = min(series.values), max(series.values)
        span = (high - low) / 2
        share = series.metric.unit == "1" and low >= 0 and high <= 1
        self._low = max(0.0, low - span) if low >= 0 else low - span
        self._high = min(1.0, high + span) if share else high + span

    def __call__(self, value: float, change: float, load: float, dither: float) -> float:
        if self._counter:
            return self._round(value + max(0.0, change) * load, dither)
        moved = value + change
        if moved < self._low:
            moved = min(self._high, 2 * self._low - moved)
        elif moved > self._high:
            moved = max(self._low, 2 * self._high - moved)
        return self._round(moved, dither)

    def _round(self, value: float, dither: float) -> float:
        grain = self._grain
        if isinstance(grain, int):
            # Up or down by chance, so that what counts slowly does count.
            return math.floor(value / grain + dither) * grain
        return math.floor(value * 100 + dither) / 100 if grain else value


def _move_of(series: Series) -> _Move | None:
    return _Move(series) if min(series.values) != max(series.values) else None


def _grain(series: Series) -> float:
    """What all values are multiples of: an int for ints; 0.01 for ticks, or 0, for doubles."""
    if series.metric.number is Number.INT:
        return math.gcd(*(int(value) for value in series.values)) or 1
    return 0.01 if all(round(value, 2) == value for value in series.values) else 0.0
