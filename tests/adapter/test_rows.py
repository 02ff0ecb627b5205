"""OTLP metrics become exactly the rows that the module says, and the rest is counted."""

import json
import math
import struct
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.metrics.v1.metrics_pb2 import (
    ExponentialHistogramDataPoint,
    HistogramDataPoint,
    Metric,
    SummaryDataPoint,
)

from adapter.row import MAX_AHEAD_S, TTL_S, Row, number_text
from adapter.rows import (
    MAX_ATTRIBUTES_BYTES,
    MAX_NAME_BYTES,
    REASONS,
    Outcome,
    Window,
    rows_of,
)
from tests.adapter.build import (
    NOW_NS,
    RESOURCE,
    any_value,
    filled,
    gauge,
    key_values,
    point,
    request,
)

WINDOW = Window.at(NOW_NS)


def rows_and_outcome(
    built: ExportMetricsServiceRequest, customers: frozenset[str] | None = None
) -> tuple[list[Row], Outcome]:
    """What becomes of `built` at NOW_NS."""
    outcome = Outcome()
    rows = list(rows_of(built, window=WINDOW, customers=customers, outcome=outcome))
    return rows, outcome


def only(*metrics: Metric, resource: Mapping[str, object] = RESOURCE) -> list[Row]:
    """The rows of a request of which nothing is refused or skipped."""
    rows, outcome = rows_and_outcome(request(*metrics, resource=resource))
    assert outcome == Outcome()
    return rows


def brief(rows: list[Row]) -> list[tuple[Any, ...]]:
    """(name, value, kind, exact value, attributes, unit) of each."""
    return [(r.metric_name, r.value, r.kind, r.value_int, r.attributes, r.unit) for r in rows]


# ---- each kind of point -----------------------------------------------------------------------


def test_a_gauge_is_one_row():
    """Every column of the table, by name."""
    (row,) = only(gauge(point(12.5, attributes={"cpu": 0})))
    assert row._replace(series_id=b"") == Row(
        node_id="edge-01",
        metric_name="system.cpu.percent",
        time_bucket="2026-01-31",
        timestamp_ms=1_769_855_400_123,
        value=12.5,
        customer_id="acme",
        series_id=b"",
        attributes={"cpu": "0"},
        unit="%",
        kind="gauge",
        value_int=None,
        point=None,
    )
    assert len(row.series_id) == 16


@pytest.mark.parametrize(("temporality", "kind"), [(1, "delta"), (2, "cumulative"), (0, "gauge")])
def test_a_sum_keeps_its_temporality(temporality: int, kind: str):
    """A sum that does not say how it adds up is only known by its value."""

    def fill(metric: Metric) -> None:
        metric.sum.aggregation_temporality = temporality
        metric.sum.data_points.append(point(7))

    assert brief(only(filled(fill, unit="By"))) == [("m", 7.0, kind, 7, {}, "By")]


@pytest.mark.parametrize("exact", [2**53 + 1, 2**63 - 1, -(2**63), 0, -1])
def test_an_integer_keeps_its_exact_value(exact: int):
    """Beyond 2**53 a double is rounded, the column value_int is not."""
    (row,) = only(gauge(point(exact)))
    assert (row.value, row.value_int) == (float(exact), exact)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -0.0, 5e-324])
def test_every_double_is_kept_to_the_bit(value: float):
    """NaN and infinities are values like any other."""
    (row,) = only(gauge(point(value)))
    assert struct.pack("<d", row.value) == struct.pack("<d", value)


def histogram(**fields: Any) -> Metric:
    """A metric with one histogram data point."""

    def fill(metric: Metric) -> None:
        metric.histogram.aggregation_temporality = 1
        metric.histogram.data_points.append(
            HistogramDataPoint(
                time_unix_nano=NOW_NS, attributes=key_values({"route": "/"}), **fields
            )
        )

    return filled(fill)


def test_a_histogram_is_count_sum_min_max_and_cumulative_buckets():
    """`le` counts all points up to the bound, as in Prometheus; counts have no unit."""
    rows = only(
        histogram(
            count=6,
            sum=9.5,
            min=0.25,
            max=4.0,
            bucket_counts=[1, 2, 3],
            explicit_bounds=[0.5, 1.0],
        )
    )
    at = {"route": "/"}
    assert brief(rows) == [
        ("m.count", 6.0, "delta", 6, at, ""),
        ("m.sum", 9.5, "delta", None, at, "s"),
        ("m.min", 0.25, "gauge", None, at, "s"),
        ("m.max", 4.0, "gauge", None, at, "s"),
        ("m.bucket", 1.0, "delta", 1, at | {"le": "0.5"}, ""),
        ("m.bucket", 3.0, "delta", 3, at | {"le": "1.0"}, ""),
        ("m.bucket", 6.0, "delta", 6, at | {"le": "+Inf"}, ""),
    ]
    assert len({row.series_id for row in rows if row.metric_name == "m.bucket"}) == 3


def test_a_histogram_without_buckets_is_its_count():
    """Sum, min and max are optional on the wire."""
    assert brief(only(histogram(count=3))) == [("m.count", 3.0, "delta", 3, {"route": "/"}, "")]


@pytest.mark.parametrize(
    ("counts", "bounds"),
    [
        ([1, 2], [1.0, 2.0]),
        ([], [1.0]),
        ([1, 1, 1], [2.0, 1.0]),
        ([1, 1, 1], [1.0, 1.0]),
        ([1, 1], [math.nan]),
        ([1, 1], [math.inf]),
    ],
)
def test_a_histogram_whose_buckets_make_no_sense_is_refused_whole(
    counts: list[int], bounds: list[float]
):
    """No row of it is stored, and one data point is counted."""
    metric = histogram(count=1, sum=1.0, bucket_counts=counts, explicit_bounds=bounds)
    rows, outcome = rows_and_outcome(request(metric))
    assert rows == []
    assert {r: x.points for r, x in outcome.rejected.items()} == {"malformed_histogram": 1}


def test_a_count_beyond_a_signed_integer_is_kept_as_a_double():
    """The wire's counts have 64 bits without sign, the table's integers have a sign."""
    row = only(histogram(count=2**64 - 1))[0]
    assert (row.value, row.value_int) == (2.0**64, None)


def exponential(**fields: Any) -> tuple[Metric, ExponentialHistogramDataPoint]:
    """A metric with one exponential histogram data point, and the point."""
    built = ExponentialHistogramDataPoint(time_unix_nano=NOW_NS, scale=3, **fields)
    built.positive.bucket_counts.extend([1, 2, 3])

    def fill(metric: Metric) -> None:
        metric.exponential_histogram.aggregation_temporality = 2
        metric.exponential_histogram.data_points.append(built)

    return filled(fill), built


def test_an_exponential_histogram_is_count_sum_min_max_and_the_point_itself():
    """The encoded point, decoded again, is the one that came."""
    metric, sent = exponential(count=6, sum=9.0, min=1.0, max=2.0)
    rows = only(metric)
    assert brief(rows) == [
        ("m.count", 6.0, "cumulative", 6, {}, ""),
        ("m.sum", 9.0, "cumulative", None, {}, "s"),
        ("m.min", 1.0, "gauge", None, {}, "s"),
        ("m.max", 2.0, "gauge", None, {}, "s"),
    ]
    assert rows[0].point is not None
    assert ExponentialHistogramDataPoint.FromString(rows[0].point) == sent
    assert [row.point for row in rows[1:]] == [None] * 3


def test_an_exponential_histogram_of_megabytes_is_refused():
    """A blob of that size is for no database."""
    metric, _ = exponential(count=1)
    metric.exponential_histogram.data_points[0].negative.bucket_counts.extend([1] * 70_000)
    rows, outcome = rows_and_outcome(request(metric))
    assert (rows, list(outcome.rejected)) == ([], ["point_too_large"])


def test_a_summary_is_count_sum_and_quantiles():
    """As Prometheus names them, with the quantile as an attribute."""

    def fill(metric: Metric) -> None:
        summary = SummaryDataPoint(time_unix_nano=NOW_NS, count=4, sum=2.0)
        summary.quantile_values.add(quantile=0.5, value=0.4)
        summary.quantile_values.add(quantile=0.99, value=math.nan)
        metric.summary.data_points.append(summary)

    rows = only(filled(fill))
    assert brief(rows)[:3] == [
        ("m.count", 4.0, "cumulative", 4, {}, ""),
        ("m.sum", 2.0, "cumulative", None, {}, "s"),
        ("m.quantile", 0.4, "gauge", None, {"quantile": "0.5"}, "s"),
    ]
    assert math.isnan(rows[3].value)
    assert rows[3].attributes == {"quantile": "0.99"}


def test_a_metric_without_data_makes_nothing():
    """Neither rows nor rejections: there is no data point to count."""
    assert rows_and_outcome(request(Metric(name="m"))) == ([], Outcome())


# ---- what makes no row ------------------------------------------------------------------------

TTL_NS, AHEAD_NS = TTL_S * 10**9, MAX_AHEAD_S * 10**9


@pytest.mark.parametrize(
    ("built", "skipped"),
    [
        (point(1.0, flags=1), "no_recorded_value"),
        (point(None), "no_recorded_value"),
        (point(time_ns=NOW_NS - TTL_NS), "expired"),
        (point(time_ns=1), "expired"),
    ],
)
def test_what_has_no_value_or_is_too_old_is_skipped_and_counted(built: Any, skipped: str):
    """Nothing is wrong with it, so the sender is not told."""
    rows, outcome = rows_and_outcome(request(gauge(built)))
    assert (rows, outcome) == ([], Outcome(skipped={skipped: 1}))


def test_the_window_takes_the_last_nanosecond_at_both_ends():
    """30 days back and 10 minutes ahead, no more."""
    early, late = NOW_NS - TTL_NS + 1, NOW_NS + AHEAD_NS
    rows = only(gauge(point(time_ns=early), point(time_ns=late)))
    assert [r.timestamp_ms for r in rows] == [early // 10**6, late // 10**6]


LONG = "ä" * (MAX_NAME_BYTES // 2)
ODD_INPUTS = [
    ("time_zero", gauge(point(time_ns=0)), RESOURCE),
    ("time_in_future", gauge(point(time_ns=NOW_NS + AHEAD_NS + 1)), RESOURCE),
    ("time_in_future", gauge(point(time_ns=2**64 - 1)), RESOURCE),
    ("empty_name", gauge(point(), name=""), RESOURCE),
    ("name_too_long", gauge(point(), name=LONG + "x"), RESOURCE),
    ("name_too_long", gauge(point(), unit=LONG + "x"), RESOURCE),
    ("missing_node_id", gauge(point()), {"customer.id": "acme"}),
    ("missing_node_id", gauge(point()), {"customer.id": "acme", "node.id": ""}),
    ("missing_customer_id", gauge(point()), {"node.id": "edge-01"}),
    ("id_too_long", gauge(point()), RESOURCE | {"node.id": LONG + "x"}),
    ("id_too_long", gauge(point()), RESOURCE | {"customer.id": LONG + "x"}),
    (
        "attributes_too_large",
        gauge(point(attributes={"k": "v" * MAX_ATTRIBUTES_BYTES})),
        RESOURCE,
    ),
]


@pytest.mark.parametrize(("reason", "metric", "resource"), ODD_INPUTS)
def test_an_odd_input_is_rejected_and_named(
    reason: str, metric: Metric, resource: Mapping[str, object]
):
    """CONTRACT, "Odd cases": counted as a data point, with the reason and an example in words."""
    rows, outcome = rows_and_outcome(request(metric, resource=resource))
    assert (rows, outcome.rejected_points) == ([], 1)
    assert list(outcome.rejected) == [reason]
    assert f"1 rejected: {REASONS[reason]}: metric " in outcome.message()


@pytest.mark.parametrize(
    ("metric", "resource"),
    [
        (gauge(point(), name=LONG, unit=LONG), RESOURCE),
        (gauge(point()), {"node.id": LONG, "customer.id": LONG}),
        (gauge(point(attributes={"k": "v" * (MAX_ATTRIBUTES_BYTES - 1)})), RESOURCE),
    ],
)
def test_the_largest_names_ids_and_attributes_are_taken(
    metric: Metric, resource: Mapping[str, object]
):
    """The limits are in bytes of UTF-8 and belong to what is allowed."""
    assert len(only(metric, resource=resource)) == 1


def test_a_good_point_beside_bad_ones_is_stored():
    """Counts are data points; the message has the first example of each reason."""
    rows, outcome = rows_and_outcome(
        request(gauge(point(time_ns=0), point(2.0), point(time_ns=0)), gauge(point(), name=""))
    )
    assert [row.value for row in rows] == [2.0]
    assert outcome.message() == (
        "2 rejected: the time stamp is 0: metric system.cpu.percent of node edge-01; "
        "1 rejected: the metric has no name: metric (none) of node edge-01"
    )


def test_a_resource_that_is_refused_counts_its_data_points_not_its_rows():
    """A histogram of many rows is one data point."""
    metric = histogram(count=1, bucket_counts=[1, 0], explicit_bounds=[1.0])
    _, outcome = rows_and_outcome(request(metric, gauge(point(), point()), resource={}))
    assert {r: x.points for r, x in outcome.rejected.items()} == {"missing_node_id": 3}


def test_an_empty_resource_that_is_refused_counts_nothing():
    """No data point, no rejection."""
    assert rows_and_outcome(request(resource={})) == ([], Outcome())


def test_an_example_cannot_break_the_message():
    """Names come from outside: one line, bounded."""
    bad = gauge(point(time_ns=0), name="a\nb" + "x" * 500)
    _, outcome = rows_and_outcome(request(bad))
    assert "metric a\\nbxxx" in outcome.message()
    assert len(outcome.message()) < 300


# ---- identity ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("resource", "node", "customer"),
    [
        ({"node.id": "a", "node_id": "b", "host.name": "c", "customer.id": "d"}, "a", "d"),
        ({"node_id": "b", "host.name": "c", "customer.id": "d", "customer_id": "e"}, "b", "d"),
        ({"host.name": "c", "customer_id": "e"}, "c", "e"),
        ({"node.id": "", "host.name": "c", "customer.id": "", "customer_id": "e"}, "c", "e"),
        ({"node.id": 7, "customer.id": True}, "7", "true"),
    ],
)
def test_ids_fall_back_in_the_order_of_the_contract(
    resource: Mapping[str, object], node: str, customer: str
):
    """An empty id is as good as none."""
    (row,) = only(gauge(point()), resource=resource)
    assert (row.node_id, row.customer_id) == (node, customer)


def test_a_token_writes_its_own_customers_alone():
    """The Resources of others are refused and named, the rest is stored."""
    built = request(gauge(point()))
    built.MergeFrom(request(gauge(point()), resource=RESOURCE | {"customer.id": "globex"}))
    rows, outcome = rows_and_outcome(built, frozenset({"acme"}))
    assert [row.customer_id for row in rows] == ["acme"]
    assert list(outcome.rejected) == ["customer_not_allowed"]
    assert "customer globex" in outcome.message()


def series_of(
    *,
    resource: Mapping[str, object] = RESOURCE,
    scope: str = "test",
    attributes: Mapping[str, object] | None = None,
    monotonic: int | None = None,
) -> bytes:
    """The series_id of one data point in these surroundings."""
    metric = gauge(point(attributes=attributes))
    if monotonic is not None:
        metric = Metric(name="system.cpu.percent", unit="%")
        metric.sum.aggregation_temporality = monotonic
        metric.sum.data_points.append(point(attributes=attributes))
    rows, _ = rows_and_outcome(request(metric, resource=resource, scope=scope))
    return rows[0].series_id


def test_what_makes_another_series():
    """customer.id, the Resource's other attributes, the scope, the point's attributes, the kind."""
    series = [
        series_of(),
        series_of(resource=RESOURCE | {"customer.id": "globex"}),
        series_of(resource=RESOURCE | {"service.name": "shop"}),
        series_of(resource=RESOURCE | {"host.name": "h"}),
        series_of(scope="other"),
        series_of(attributes={"a": "bc"}),
        series_of(attributes={"ab": "c"}),
        series_of(attributes={"a": "b", "c": ""}),
        series_of(monotonic=1),
        series_of(monotonic=2),
    ]
    assert len(set(series)) == len(series)


@pytest.mark.parametrize(
    "resource",
    [
        RESOURCE | {"node.id": "edge-02", "node.region": "eu"},
        RESOURCE | {"customer.name": "Acme Inc"},
        RESOURCE | {"collector.instance.id": "0815", "collector.name": "x"},
        {"node_id": "edge-01", "customer_id": "acme"},
    ],
)
def test_identity_does_not_make_another_series(resource: Mapping[str, object]):
    """A collector's new instance id, or a customer's new name, goes on with the same series."""
    assert series_of(resource=resource) == series_of()


def test_the_order_of_attributes_does_not_matter():
    """Senders enumerate maps as they please."""
    one = series_of(attributes={"a": 1, "b": 2}, resource=RESOURCE | {"x": 1, "y": 2})
    other = series_of(attributes={"b": 2, "a": 1}, resource={"y": 2, "x": 1} | RESOURCE)
    assert one == other


def test_the_service_of_the_resource_is_among_the_attributes():
    """The rows of two services on one node can be told apart; a point's own attribute wins."""
    resource = RESOURCE | {"service.name": "shop", "service.namespace": "eu", "host.arch": "arm64"}
    (row,) = only(gauge(point(attributes={"service.namespace": "us"})), resource=resource)
    assert row.attributes == {"service.name": "shop", "service.namespace": "us"}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("as is", "as is"),
        (True, "true"),
        (-7, "-7"),
        (2.5, "2.5"),
        (1e100, "1e+100"),
        (math.nan, "NaN"),
        (math.inf, "Infinity"),
        (-math.inf, "-Infinity"),
        (b"\x00\xff", "AP8="),
        ([1, "a", None, [math.nan]], '[1,"a",null,["NaN"]]'),
        ({"b": 1, "a": {"ü": False}}, '{"a":{"ü":false},"b":1}'),
        ([], "[]"),
        ({}, "{}"),
        (None, ""),
    ],
)
def test_an_attribute_is_written_as_opentelemetry_says(value: object, text: str):
    """ "AnyValue representation for non-OTLP protocols" of its specification."""
    (row,) = only(gauge(point(attributes={"k": value})))
    assert row.attributes == {"k": text}


def test_a_string_table_index_says_nothing_outside_of_profiles():
    """The table it points into does not exist in metrics."""
    built = point()
    built.attributes.add(key="k").value.string_value_strindex = 3
    (row,) = only(gauge(built))
    assert row.attributes == {"k": ""}


@pytest.mark.parametrize(
    ("number", "text"),
    [(5.0, "5.0"), (0.005, "0.005"), (math.inf, "+Inf"), (-math.inf, "-Inf"), (math.nan, "NaN")],
)
def test_a_number_is_written_as_openmetrics_does(number: float, text: str):
    """`le="5.0"`, `le="+Inf"`."""
    assert number_text(number) == text


# ---- against an oracle ------------------------------------------------------------------------

# Few words, so that maps collide.
WORDS = st.sampled_from(["a", "b", "ab", "", "ü", "service.name"])
SCALARS = st.one_of(WORDS, st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats())
ATTRIBUTES = st.dictionaries(WORDS, SCALARS, max_size=3)
RESOURCES = st.builds(
    lambda ids, more: ids | more,
    st.fixed_dictionaries(
        {},
        optional={
            "node.id": st.sampled_from(["n1", "n2", ""]),
            "node_id": st.just("n3"),
            "host.name": st.just("h"),
            "customer.id": st.sampled_from(["c1", "c2"]),
            "customer_id": st.just("c3"),
            "collector.name": WORDS,
        },
    ),
    st.dictionaries(st.sampled_from(["x", "y"]), SCALARS),
)
TIMES = st.one_of(
    st.integers(NOW_NS - 2 * TTL_NS, NOW_NS + 2 * AHEAD_NS), st.sampled_from([0, NOW_NS, 1])
)
POINTS = st.fixed_dictionaries(
    {
        "time": TIMES,
        "value": st.one_of(st.floats(), st.integers(-(2**63), 2**63 - 1), st.none()),
        "flags": st.sampled_from([0, 0, 0, 1, 2]),
        "attributes": ATTRIBUTES,
    }
)
METRICS = st.fixed_dictionaries(
    {
        "name": st.sampled_from(["m", "n", ""]),
        "unit": st.sampled_from(["", "s"]),
        "kind": st.sampled_from(["gauge", "delta", "cumulative"]),
        "points": st.lists(POINTS, max_size=3),
    }
)
REQUESTS = st.lists(
    st.fixed_dictionaries(
        {"resource": RESOURCES, "scope": WORDS, "metrics": st.lists(METRICS, max_size=2)}
    ),
    max_size=3,
)


def encoded(spec: list[dict[str, Any]]) -> ExportMetricsServiceRequest:
    """The request that `spec` describes."""
    built = ExportMetricsServiceRequest()
    for part in spec:
        metrics = []
        for m in part["metrics"]:
            metric = Metric(name=m["name"], unit=m["unit"])
            points = [
                point(p["value"], time_ns=p["time"], attributes=p["attributes"], flags=p["flags"])
                for p in m["points"]
            ]
            if m["kind"] == "gauge":
                metric.gauge.data_points.extend(points)
                metric.gauge.SetInParent()
            else:
                metric.sum.aggregation_temporality = 1 if m["kind"] == "delta" else 2
                metric.sum.data_points.extend(points)
            metrics.append(metric)
        built.MergeFrom(request(*metrics, resource=part["resource"], scope=part["scope"]))
    return built


def oracle_text(value: object) -> str:
    """What an attribute reads as, written down once more."""
    if isinstance(value, str):
        return value
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return json.dumps(value)


def oracle(spec: list[dict[str, Any]]) -> tuple[list[tuple[Any, ...]], dict[str, int]]:
    """Rows with everything that makes their series, and all that made none."""
    rows, lost = [], {}
    for part in spec:
        resource = {k: oracle_text(v) for k, v in part["resource"].items()}
        node = resource.get("node.id") or resource.get("node_id") or resource.get("host.name")
        customer = resource.get("customer.id") or resource.get("customer_id")
        kept = {k: v for k, v in resource.items() if k in ("x", "y", "host.name")}
        for m in part["metrics"]:
            for p in m["points"]:
                late = p["time"] > NOW_NS + 600 * 10**9
                old = p["time"] <= NOW_NS - 30 * 86400 * 10**9
                checks = [
                    ("missing_node_id", not node),
                    ("missing_customer_id", not customer),
                    ("empty_name", not m["name"]),
                    ("time_zero", p["time"] == 0),
                    ("time_in_future", late),
                    ("expired", old),
                    ("no_recorded_value", p["flags"] == 1 or p["value"] is None),
                ]
                reason = next((name for name, applies in checks if applies), None)
                if reason is not None:
                    lost[reason] = lost.get(reason, 0) + 1
                    continue
                attributes = {k: oracle_text(v) for k, v in p["attributes"].items()}
                date = datetime.fromtimestamp(p["time"] // 10**9, UTC).strftime("%Y-%m-%d")
                exact = p["value"] if isinstance(p["value"], int) else None
                rows.append(
                    (
                        (node, m["name"], date, p["time"] // 10**6, repr(float(p["value"]))),
                        (m["unit"], m["kind"], exact, attributes),
                        (customer, sorted(kept.items()), part["scope"], sorted(attributes.items())),
                    )
                )
    return rows, lost


@given(REQUESTS)
@settings(max_examples=200, deadline=None)
def test_rows_are_those_of_the_oracle(spec: list[dict[str, Any]]):
    """Every row in order, every lost point by reason, and one series_id for each series."""
    rows, outcome = rows_and_outcome(encoded(spec))
    expected, lost = oracle(spec)
    actual = [
        (
            (r.node_id, r.metric_name, r.time_bucket, r.timestamp_ms, repr(r.value)),
            (r.unit, r.kind, r.value_int, dict(r.attributes)),
        )
        for r in rows
    ]
    assert actual == [(place, values) for place, values, _ in expected]
    counted = {reason: x.points for reason, x in outcome.rejected.items()} | outcome.skipped
    assert counted == lost
    series = {(repr(identity), values[1]) for _, values, identity in expected}
    pairs = {
        (row.series_id, repr(identity), values[1])
        for row, (_, values, identity) in zip(rows, expected, strict=True)
    }
    assert len(pairs) == len(series) == len({row.series_id for row in rows})


@given(st.recursive(SCALARS | st.none() | st.binary(max_size=4), lambda s: st.lists(s, max_size=3)))
@settings(max_examples=50, deadline=None)
def test_any_attribute_has_a_text(value: object):
    """Nested ones are JSON."""
    (row,) = only(gauge(point(attributes={"k": value})))
    text = row.attributes["k"]
    assert isinstance(text, str)
    if isinstance(value, list):
        assert len(json.loads(text)) == len(value)
    assert any_value(value) is not None
