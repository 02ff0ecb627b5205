"""Requests as we write them, held against opentelemetry-proto: same meaning, and patched or built
the same bytes."""

import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import AGGREGATION_TEMPORALITY_CUMULATIVE

from edge_agent.otlp import resource
from edge_agent.otlp.metrics import Kind, Metric, Number, Reading, Template

RESOURCE = resource.resource([("node.id", "edge-01"), ("host.arch", "arm64")])
START, TIME = 1_767_600_000_000_000_000, 1_767_688_640_510_000_000

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
INT64 = st.one_of(
    st.sampled_from([0, 1, -1, 2**63 - 1, -(2**63), 2**53 + 1]),
    st.integers(-(2**63), 2**63 - 1),
)
DOUBLES = st.one_of(
    st.sampled_from([0.0, -0.0, math.nan, math.inf, -math.inf, 5e-324, 1.7976931348623157e308]),
    st.floats(),
)
ATTRIBUTE_VALUES = st.one_of(
    TEXTS, st.booleans(), INT64, DOUBLES, st.sampled_from([0, 1, 0.0, 1.0])
)
ATTRIBUTES = st.lists(st.tuples(TEXTS, ATTRIBUTE_VALUES), max_size=3).map(tuple)
METRICS = st.builds(
    Metric,
    name=st.sampled_from(["system.cpu.time", "system.disk.io", "hw.temperature"]),
    unit=st.sampled_from(["s", "By", "Cel"]),
    kind=st.sampled_from(Kind),
    number=st.sampled_from(Number),
)


@st.composite
def readings(draw: st.DrawFn) -> Reading:
    """Any reading a subject could come up with, and some it could not."""
    metric = draw(METRICS)
    value = draw(INT64 if metric.number is Number.INT else st.one_of(DOUBLES, INT64))
    return Reading(metric, draw(ATTRIBUTES), value, draw(st.none() | st.integers(0, 2**64 - 1)))


def set_value(value: AnyValue, attribute: str | float) -> None:
    """The library's AnyValue of a Python value."""
    match attribute:
        case str():
            value.string_value = attribute
        case bool():
            value.bool_value = attribute
        case int():
            value.int_value = attribute
        case float():
            value.double_value = attribute


def with_protobuf(batch: list[Reading]) -> ExportMetricsServiceRequest:
    """The same request, built by the library."""
    request = ExportMetricsServiceRequest()
    if not batch:
        return request
    resource_metrics = request.resource_metrics.add()
    resource_metrics.resource.ParseFromString(RESOURCE)
    scope_metrics = resource_metrics.scope_metrics.add()
    scope_metrics.scope.name = "edge_agent.host"
    scope_metrics.scope.version = "1.0.0"
    messages = {}
    for reading in batch:
        metric = reading.metric
        if metric not in messages:
            message = scope_metrics.metrics.add(name=metric.name, unit=metric.unit)
            if metric.kind is not Kind.GAUGE:
                message.sum.aggregation_temporality = AGGREGATION_TEMPORALITY_CUMULATIVE
                message.sum.is_monotonic = metric.kind is Kind.COUNTER
            messages[metric] = message.gauge if metric.kind is Kind.GAUGE else message.sum
        point = messages[metric].data_points.add(time_unix_nano=TIME)
        if metric.kind is not Kind.GAUGE:
            own = reading.start_time_unix_nano
            point.start_time_unix_nano = START if own is None else own
        if metric.number is Number.INT:
            point.as_int = int(reading.value)
        else:
            point.as_double = reading.value
        for key, value in reading.attributes:
            set_value(point.attributes.add(key=key).value, value)
    return request


def template() -> Template:
    """One that has encoded nothing yet."""
    return Template(RESOURCE, "edge_agent.host", "1.0.0")


def encode(batch: list[Reading]) -> bytes:
    """Built, not patched."""
    return template().encode(batch, start_time_unix_nano=START, time_unix_nano=TIME)


@given(st.lists(readings(), max_size=8))
@example([Reading(Metric("m", "1", Kind.GAUGE), (), 2**63 - 1)])
@example([Reading(Metric("m", "1", Kind.GAUGE, Number.DOUBLE), (), math.nan)])
def test_the_request_means_what_protobuf_means(batch: list[Reading]) -> None:
    """Decoded by opentelemetry-proto, it is the message that the library builds."""
    ours = ExportMetricsServiceRequest.FromString(encode(batch))
    # NaN is unequal to itself, in messages too; their deterministic encoding compares bits.
    assert ours.SerializeToString(deterministic=True) == with_protobuf(batch).SerializeToString(
        deterministic=True
    )


@given(st.lists(st.lists(readings(), max_size=5), min_size=2, max_size=4), st.data())
def test_a_patched_request_is_the_rebuilt_one_byte_for_byte(
    batches: list[list[Reading]], data: st.DataObject
) -> None:
    """Over any sequence of samples, most of which keep the series of the one before."""
    patched = template()
    for batch in batches:
        for time_unix_nano in (TIME, 0, 2**64 - 1):
            fresh = [
                reading._replace(
                    value=data.draw(INT64 if reading.metric.number is Number.INT else DOUBLES)
                )
                for reading in batch
            ]
            expected = template()
            assert patched.encode(
                fresh, start_time_unix_nano=START, time_unix_nano=time_unix_nano
            ) == expected.encode(fresh, start_time_unix_nano=START, time_unix_nano=time_unix_nano)
            assert patched.data_points == len(fresh) == expected.data_points


@pytest.mark.parametrize(
    ("one", "other"), [(True, 1), (1, 1.0), (0.0, -0.0), (False, 0.0), (1, True)]
)
def test_equal_attributes_of_other_types_are_other_series(
    one: bool | float, other: bool | float
) -> None:
    """Python finds True == 1 == 1.0 and 0.0 == -0.0; on the wire they differ."""
    metric = Metric("m", "1", Kind.GAUGE)
    patched = template()
    for value in (one, other):
        batch = [Reading(metric, (("a", value),), 1)]
        body = patched.encode(batch, start_time_unix_nano=START, time_unix_nano=TIME)
        assert body == encode(batch)


@pytest.mark.parametrize(
    ("number", "value", "expected"),
    [
        (Number.INT, 2**63, 2**63 - 1),
        (Number.INT, 10**400, 2**63 - 1),
        (Number.INT, -(2**63) - 1, -(2**63)),
        (Number.DOUBLE, 10**400, math.inf),
        (Number.DOUBLE, -(10**400), -math.inf),
    ],
)
def test_a_value_outside_its_type_is_held_at_the_end(
    number: Number, value: int, expected: float
) -> None:
    """Neither wrapped into another sign nor the end of the agent."""
    metric = Metric("m", "1", Kind.GAUGE, number)
    request = ExportMetricsServiceRequest.FromString(encode([Reading(metric, (), value)]))
    (point,) = request.resource_metrics[0].scope_metrics[0].metrics[0].gauge.data_points
    assert (point.as_int if number is Number.INT else point.as_double) == expected


def test_a_fraction_in_an_int_metric_is_our_bug() -> None:
    """A subject that promises integers keeps to it: silently rounding would hide the mistake."""
    with pytest.raises(AssertionError, match=r"INT was given 0\.5"):
        encode([Reading(Metric("m", "1", Kind.GAUGE), (), 0.5)])


@pytest.mark.parametrize(
    ("value", "field", "expected"),
    [
        ("x", "string_value", "x"),
        (True, "bool_value", True),
        (-1, "int_value", -1),
        (2**63, "int_value", 2**63 - 1),
        (-(2**64), "int_value", -(2**63)),
        (0.5, "double_value", 0.5),
    ],
)
def test_attribute_values_keep_their_type(
    value: str | float, field: str, expected: str | float
) -> None:
    """An int outside int64 is held at its end, like a data point's."""
    message = AnyValue.FromString(resource.any_value(value))
    assert message.WhichOneof("value") == field
    assert getattr(message, field) == expected


def test_readings_of_one_metric_are_grouped_at_the_first() -> None:
    """A metric is one message however its points were gathered, and the order is stable."""
    a, b = Metric("a", "1", Kind.COUNTER), Metric("b", "1", Kind.GAUGE)
    body = encode([Reading(a, (("n", "1"),), 1), Reading(b, (), 2), Reading(a, (("n", "2"),), 3)])
    metrics = ExportMetricsServiceRequest.FromString(body).resource_metrics[0].scope_metrics[0]
    assert [metric.name for metric in metrics.metrics] == ["a", "b"]
    assert [point.as_int for point in metrics.metrics[0].sum.data_points] == [1, 3]


def test_no_readings_are_no_bytes() -> None:
    """An empty request is nothing to send."""
    used = template()
    used.encode(
        [Reading(Metric("a", "1", Kind.GAUGE), (), 1)],
        start_time_unix_nano=START,
        time_unix_nano=TIME,
    )
    assert used.encode([], start_time_unix_nano=START, time_unix_nano=TIME) == b""
    assert used.data_points == 0


def test_the_bytes_are_these() -> None:
    """One gauge point, spelt out: what any other implementation reads."""
    body = Template(resource.resource([("k", "v")]), "s", "1").encode(
        [Reading(Metric("m", "By", Kind.GAUGE), (("a", "b"),), 258)],
        start_time_unix_nano=0,
        time_unix_nano=1,
    )
    assert body.hex(" ", 1) == (
        "0a 3f"  # resource_metrics
        " 0a 0a 0a 08 0a 01 6b 12 03 0a 01 76"  # resource {k: v}
        " 12 31"  # scope_metrics
        " 0a 06 0a 01 73 12 01 31"  # scope s 1
        " 12 27 0a 01 6d 1a 02 42 79"  # metric m By
        " 2a 1e 0a 1c"  # gauge, data point
        " 19 01 00 00 00 00 00 00 00"  # time_unix_nano 1
        " 31 02 01 00 00 00 00 00 00"  # as_int 258
        " 3a 08 0a 01 61 12 03 0a 01 62"  # attribute a: b
    )
