"""A request in two halves by its items, held against opentelemetry-proto."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric

from edge_agent.otlp.signal import Signal
from edge_agent.otlp.split import halves
from edge_agent.otlp.walk import MalformedError
from tests.fakes.collector import REQUESTS

COUNTS = st.lists(st.lists(st.integers(0, 3), max_size=3), max_size=3)


def add_spans(scope: Any, name: str, count: int) -> None:
    """Spans with names."""
    for n in range(count):
        scope.spans.add(name=f"{name}.{n}", trace_id=bytes(16))


def add_records(scope: Any, name: str, count: int) -> None:
    """Log records with bodies."""
    for n in range(count):
        scope.log_records.add().body.string_value = f"{name}.{n}"


def add_points(scope: Any, name: str, count: int) -> None:
    """A sum of data points, also without any."""
    metric = scope.metrics.add(name=name, unit="By")
    metric.sum.is_monotonic = True
    metric.sum.aggregation_temporality = 2
    for n in range(count):
        metric.sum.data_points.add(as_int=n)


SHAPES: dict[Signal, tuple[str, str, Callable[[Any, str, int], None]]] = {
    Signal.TRACES: ("resource_spans", "scope_spans", add_spans),
    Signal.LOGS: ("resource_logs", "scope_logs", add_records),
    Signal.METRICS: ("resource_metrics", "scope_metrics", add_points),
}


def request_of(signal: Signal, counts: list[list[int]]) -> Any:
    """A request with that many items by Resource and scope."""
    groups, scopes, add = SHAPES[signal]
    request = REQUESTS[signal]()
    for r, group_counts in enumerate(counts):
        group = getattr(request, groups).add(schema_url=f"url{r}")
        group.resource.attributes.add(key="service.name").value.string_value = f"app{r}"
        for s, count in enumerate(group_counts):
            scope = getattr(group, scopes).add()
            scope.scope.name = f"scope{s}"
            add(scope, f"{r}.{s}", count)
    return request


def items_of(signal: Signal, request: Any) -> Iterator[tuple[bytes, ...]]:
    """Each item, with all that is around it."""
    groups, scopes, _ = SHAPES[signal]
    for group in getattr(request, groups):
        for scope in getattr(group, scopes):
            around = (group.resource.SerializeToString(), group.schema_url.encode(),
                      scope.scope.SerializeToString())  # fmt: skip
            if signal is Signal.METRICS:
                for metric in scope.metrics:
                    bare = Metric()
                    bare.CopyFrom(metric)
                    del bare.sum.data_points[:]
                    for point in metric.sum.data_points:
                        yield (*around, bare.SerializeToString(), point.SerializeToString())
            else:
                for item in scope.spans if signal is Signal.TRACES else scope.log_records:
                    yield (*around, item.SerializeToString())


@pytest.mark.parametrize("signal", Signal)
@given(counts=COUNTS)
def test_both_halves_together_say_what_the_whole_says(
    signal: Signal, counts: list[list[int]]
) -> None:
    """Every item once, in order, under its own Resource and scope; as many here as there."""
    request = request_of(signal, counts)
    items = list(items_of(signal, request))
    parts = halves(signal, request.SerializeToString())
    found = [list(items_of(signal, type(request).FromString(body))) for body, _ in parts]
    assert [item for part in found for item in part] == items
    assert [count for _, count in parts] == [len(part) for part in found]
    if len(items) > 1:
        assert [count for _, count in parts] == [len(items) // 2, len(items) - len(items) // 2]
    else:
        assert parts == [(request.SerializeToString(), len(items))]


@pytest.mark.parametrize("signal", Signal)
def test_what_is_around_the_items_may_be_nearly_all(signal: Signal) -> None:
    """Then both halves are as large, and each has half of the items."""
    request = request_of(signal, [[2]])
    group = getattr(request, SHAPES[signal][0])[0]
    group.resource.attributes.add(key="k").value.string_value = "x" * 10_000
    parts = halves(signal, request.SerializeToString())
    assert [items for _, items in parts] == [1, 1]
    assert all(len(body) > 10_000 for body, _ in parts)


def test_of_a_metric_that_changed_its_kind_the_last_data_stands() -> None:
    """protobuf's oneof: what came before is not there."""
    gauge, total = Metric(name="m"), Metric()
    gauge.gauge.data_points.add(as_int=1)
    for n in (2, 3):
        total.sum.data_points.add(as_int=n)
    metric = gauge.SerializeToString() + total.SerializeToString()
    scope = b"\x12" + bytes([len(metric)]) + metric
    group = b"\x12" + bytes([len(scope)]) + scope
    parts = halves(Signal.METRICS, b"\x0a" + bytes([len(group)]) + group)
    found = [
        REQUESTS[Signal.METRICS].FromString(body).resource_metrics[0].scope_metrics[0].metrics[0]  # type: ignore[attr-defined]  # one of three messages
        for body, _ in parts
    ]
    assert [(m.name, [p.as_int for p in m.sum.data_points]) for m in found] == [
        ("m", [2]),
        ("m", [3]),
    ]


@pytest.mark.parametrize("body", [b"\x0a\x05", b"\x0a"])
def test_what_is_no_request_is_refused(body: bytes) -> None:
    """By name."""
    with pytest.raises(MalformedError, match="not an ExportTraceServiceRequest"):
        halves(Signal.TRACES, body)
