"""`receiver.validate: full` refuses what a strict peer would, and says what it is."""

import builtins
import sys
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given, settings
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from edge_agent.otlp import validate, wire
from edge_agent.otlp.batch import MalformedError
from edge_agent.otlp.signal import Signal
from tests.agent.otlp import checks
from tests.agent.otlp.encodings import damaged, requests
from tests.agent.otlp.test_batch import RELAXED


@pytest.fixture(params=["with the runtime", "without it"])
def _runtime(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "without it":
        monkeypatch.setattr(validate, "parser", lambda signal: None)


pytestmark = pytest.mark.usefixtures("_runtime")


def traces(**fields: Any) -> bytes:
    """One span with these fields."""
    request = ExportTraceServiceRequest()
    request.resource_spans.add().scope_spans.add().spans.append(Span(**fields))
    return request.SerializeToString()


def raw_span(content: bytes) -> bytes:
    """One span of these bytes."""
    for field in (2, 2, 1):
        content = wire.bytes_field(field, content)
    return content


def arrays(levels: int) -> bytes:
    """A span attribute of arrays in arrays."""
    value = b""
    for _ in range(levels):
        value = wire.bytes_field(5, wire.bytes_field(1, value))
    return raw_span(wire.bytes_field(9, wire.bytes_field(2, value)))


def metrics(kind: str, **exemplar: bytes) -> bytes:
    """One data point with one exemplar."""
    request = ExportMetricsServiceRequest()
    metric = request.resource_metrics.add().scope_metrics.add().metrics.add(name="m")
    getattr(metric, kind).data_points.add().exemplars.add(**exemplar)
    return request.SerializeToString()


def logs(**fields: bytes) -> bytes:
    """One log record."""
    request = ExportLogsServiceRequest()
    request.resource_logs.add().scope_logs.add().log_records.add(**fields)
    return request.SerializeToString()


@pytest.mark.parametrize("size", [0, 16])
def test_ids_of_the_right_length_pass(size: int) -> None:
    """Empty ones too, and zeroes: the Collector takes them."""
    trace_id, span_id = bytes(size), bytes(size // 2)
    link = Span.Link(trace_id=trace_id, span_id=span_id)
    ids: dict[str, Any] = {"trace_id": trace_id, "span_id": span_id}
    validate.full(Signal.TRACES, traces(**ids, parent_span_id=span_id, links=[link], name="GET"))
    validate.full(Signal.LOGS, logs(**ids))
    for kind in ("gauge", "sum", "histogram", "exponential_histogram"):
        validate.full(Signal.METRICS, metrics(kind, **ids))


SPAN = "not an ExportTraceServiceRequest: resource_spans.scope_spans.spans"


@pytest.mark.parametrize(
    ("signal", "body", "message"),
    [
        (
            Signal.TRACES,
            traces(trace_id=bytes(15), name="GET /cart"),
            f"{SPAN}.trace_id: 15 bytes, not 16, in Span 'GET /cart'",
        ),
        (Signal.TRACES, traces(span_id=bytes(7)), f"{SPAN}.span_id: 7 bytes, not 8, in Span ''"),
        (
            Signal.TRACES,
            traces(parent_span_id=bytes(16), name="GET"),
            f"{SPAN}.parent_span_id: 16 bytes, not 8, in Span 'GET'",
        ),
        (
            Signal.TRACES,
            traces(links=[Span.Link(), Span.Link(trace_id=b"x")], name="GET"),
            f"{SPAN}.links.trace_id: 1 bytes, not 16, in Span 'GET'",
        ),
        (
            Signal.TRACES,
            raw_span(wire.string_field(5, "GET") + wire.bytes_field(3, b"ab\xff")),
            f"{SPAN}.trace_state: no UTF-8 at byte 2 of 3, in Span 'GET'",
        ),
        (
            Signal.TRACES,
            raw_span(wire.bytes_field(5, b"\xff" * 200)),
            f"{SPAN}.name: no UTF-8 at byte 0 of 200, in Span '" + "\\\\xff" * 100 + "'",
        ),
        (
            Signal.TRACES,
            raw_span(wire.bytes_field(11, wire.bytes_field(2, b"e\xff")) + b"\x2a\x01n"),
            f"{SPAN}.events.name: no UTF-8 at byte 1 of 2, in Event 'e\\\\xff', in Span 'n'",
        ),
        (
            Signal.TRACES,
            raw_span(wire.string_field(5, "GET") + b"\x0a\x10short"),
            f"{SPAN}: field 1 at byte 11 is 11 bytes short, in Span 'GET'",
        ),
        (Signal.TRACES, raw_span(b"\x0a"), f"{SPAN}: cut short, in Span ''"),
        (
            Signal.TRACES,
            b"\x0a\x01",
            "not an ExportTraceServiceRequest: field 1 at byte 0 is 1 bytes short",
        ),
        (
            Signal.LOGS,
            logs(trace_id=b"x"),
            "not an ExportLogsServiceRequest: resource_logs.scope_logs.log_records.trace_id: "
            "1 bytes, not 16",
        ),
        (
            Signal.METRICS,
            metrics("sum", span_id=b"x"),
            "not an ExportMetricsServiceRequest: resource_metrics.scope_metrics.metrics.sum."
            "data_points.exemplars.span_id: 1 bytes, not 8, in Metric 'm'",
        ),
    ],
)
def test_what_is_wrong_is_named(signal: Signal, body: bytes, message: str) -> None:
    """The field, and the span or metric it is in: who reads the answer has to find it."""
    with pytest.raises(MalformedError) as caught:
        validate.full(signal, body)
    assert str(caught.value) == message


def packed(kind: int, field: int, content: bytes) -> bytes:
    """One data point of a histogram (9) or exponential histogram (10), with packed numbers."""
    point = wire.bytes_field(field, content)
    if kind == 10:
        point = wire.bytes_field(8, wire.bytes_field(2, content))
    body = wire.bytes_field(kind, wire.bytes_field(1, point))
    for outer in (2, 2, 1):
        body = wire.bytes_field(outer, body)
    return body


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (packed(9, 6, bytes(15)), "bucket_counts: 15 bytes, no multiple of 8"),
        (packed(9, 7, bytes(1)), "explicit_bounds: 1 bytes, no multiple of 8"),
        (packed(10, 2, b"\x01\x80"), "positive.bucket_counts: a number is cut short"),
        (packed(10, 2, b"\xff" * 11), "positive.bucket_counts: a number is cut short"),
    ],
)
def test_packed_numbers_are_whole(body: bytes, message: str) -> None:
    """A strict peer refuses the message for it."""
    with pytest.raises(MalformedError, match=message):
        validate.full(Signal.METRICS, body)


@pytest.mark.parametrize("field", [6, 7])
def test_packed_numbers_pass(field: int) -> None:
    """Of both widths."""
    validate.full(Signal.METRICS, packed(9, field, bytes(24)))
    validate.full(Signal.METRICS, packed(10, 2, b"\x01\x80\x01"))


def test_a_field_of_another_wire_type_is_an_unknown_field() -> None:
    """Inside an item protobuf's own rule holds: text for a number, and a number for text."""
    validate.full(Signal.TRACES, raw_span(wire.bytes_field(6, b"\xff") + wire.varint_field(5, 1)))


def test_values_nest_as_deep_as_protobuf_reads() -> None:
    """A hundred messages."""
    validate.full(Signal.TRACES, arrays(47))
    with pytest.raises(MalformedError, match="nested deeper than 100 messages"):
        validate.full(Signal.TRACES, arrays(48))


def test_a_large_request_is_looked_at_in_pieces() -> None:
    """Its last span is found, and an item larger than a piece is walked through."""
    good = wire.bytes_field(2, wire.string_field(5, "n" * 1000))
    bad = wire.bytes_field(2, wire.bytes_field(1, bytes(15)) + wire.string_field(5, "bad"))
    huge = wire.bytes_field(2, wire.string_field(5, "n" * (validate.PIECE_BYTES + 1)))
    for spans in (good * 600, good * 300 + huge):
        body = wire.bytes_field(1, wire.bytes_field(2, spans))
        validate.full(Signal.TRACES, body)
        with pytest.raises(MalformedError, match="15 bytes, not 16, in Span 'bad'"):
            validate.full(Signal.TRACES, wire.bytes_field(1, wire.bytes_field(2, spans + bad)))


@given(damaged())
@settings(RELAXED, max_examples=200)
@example((Signal.LOGS, b"\x73\x00\x00\x74"))
def test_damage_is_refused_exactly_where_the_c_runtime_refuses_it(
    request_: tuple[Signal, bytes],
) -> None:
    """With the runtime and without, in the same words."""
    checks.full(*request_)


@given(requests())
@RELAXED
def test_valid_encodings_pass_however_odd(request_: tuple[Signal, bytes]) -> None:
    """Unknown fields, groups, long varints; only ids of another length are refused."""
    checks.full(*request_)


@pytest.mark.parametrize("signal", Signal)
def test_the_runtime_is_used_where_it_is_installed(
    signal: Signal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the agent runs without it, which the extra `adapter` installs."""
    monkeypatch.undo()
    runtime = validate.parser(signal)
    assert runtime is not None
    assert runtime.DESCRIPTOR.name == f"Export{signal.value.removesuffix('s').capitalize()}" + (
        "sServiceRequest" if signal is not Signal.TRACES else "ServiceRequest"
    )
    for name in [name for name in sys.modules if name.startswith("opentelemetry")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", without_opentelemetry(builtins.__import__))
    assert validate.parser(signal) is None


def without_opentelemetry(original: Callable[..., Any]) -> Callable[..., Any]:
    """An import statement that does not find opentelemetry-proto."""

    def found(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("opentelemetry"):
            raise ImportError(name)
        return original(name, *args, **kwargs)

    return found
