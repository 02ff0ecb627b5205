"""Spans as we write them, held against opentelemetry-proto."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, SpanFlags, Status

from edge_agent.otlp import resource
from edge_agent.otlp.spans import Kind, root_span, sample_span, span_attributes, spans_request
from tests.agent.otlp.test_metrics import ATTRIBUTES, TEXTS, set_value

RESOURCE = resource.resource([("service.name", "otel-agent"), ("node.id", "edge-01")])
TIMES = st.integers(0, 2**64 - 1)
START, END = 1_767_688_640_510_000_000, 1_767_688_640_512_345_678


@given(
    name=TEXTS,
    ids=st.binary(min_size=24, max_size=24),
    kind=st.sampled_from(Kind),
    start=TIMES,
    end=TIMES,
    pairs=ATTRIBUTES,
    error=st.none() | TEXTS,
)
def test_a_span_means_what_was_put_in(
    name: str,
    ids: bytes,
    kind: Kind,
    start: int,
    end: int,
    pairs: tuple[tuple[str, str | float], ...],
    error: str | None,
) -> None:
    """Parsed by the library, equal to what the library would build."""
    expected = Span(
        trace_id=ids[:16],
        span_id=ids[16:],
        name=name,
        kind=Span.SpanKind.ValueType(kind),
        start_time_unix_nano=start,
        end_time_unix_nano=end,
        # Sampled and random, and no remote parent.
        flags=SpanFlags.SPAN_FLAGS_CONTEXT_HAS_IS_REMOTE_MASK | 0x03,
    )
    for key, value in pairs:
        set_value(expected.attributes.add(key=key).value, value)
    if error is not None:
        expected.status.code = Status.STATUS_CODE_ERROR
        expected.status.message = error
    encoded = root_span(
        name,
        ids=ids,
        kind=kind,
        start_time_unix_nano=start,
        end_time_unix_nano=end,
        encoded_attributes=span_attributes(pairs),
        error=error,
    )
    # As bytes: an attribute may be NaN, which is not equal to itself.
    assert Span.FromString(encoded).SerializeToString(deterministic=True) == (
        expected.SerializeToString(deterministic=True)
    )


def test_a_request_has_one_resource_and_one_scope() -> None:
    """Around as many spans as there are."""
    spans = [
        root_span(
            f"s{n}", ids=bytes(24), kind=Kind.SERVER, start_time_unix_nano=1, end_time_unix_nano=2
        )
        for n in range(3)
    ]
    body = spans_request(RESOURCE, "part", "1.2.3", spans)
    ((group,),) = [ExportTraceServiceRequest.FromString(body).resource_spans]
    assert group.resource.SerializeToString() == RESOURCE
    (scope,) = group.scope_spans
    assert (scope.scope.name, scope.scope.version) == ("part", "1.2.3")
    assert [span.name for span in scope.spans] == ["s0", "s1", "s2"]


@pytest.mark.parametrize("failed", [(), ("temperature",), ("temperature", "filesystem")])
def test_a_sample_cycle_is_one_span(failed: tuple[str, ...]) -> None:
    """From when the sample began to when it was taken; in error where a subject failed."""
    body = sample_span(
        RESOURCE,
        "1.2.3",
        start_time_unix_nano=START,
        end_time_unix_nano=END,
        data_points=117,
        failed=failed,
        random=lambda size: bytes(range(size)),
    )
    request = ExportTraceServiceRequest.FromString(body)
    (scope,) = request.resource_spans[0].scope_spans
    (span,) = scope.spans
    assert scope.scope.name == "edge_agent.host"
    assert (span.name, span.kind) == ("sample", Span.SPAN_KIND_INTERNAL)
    assert (span.start_time_unix_nano, span.end_time_unix_nano) == (START, END)
    assert (span.trace_id, span.span_id) == (bytes(range(16)), bytes(range(16, 24)))
    assert (span.parent_span_id, span.trace_state) == (b"", "")
    attributes = {pair.key: pair.value for pair in span.attributes}
    assert attributes.pop("agent.sampler.data_points").int_value == 117
    if failed:
        array = attributes.pop("agent.sampler.failed_subjects").array_value
        assert [value.string_value for value in array.values] == list(failed)
        assert span.status.code == Status.STATUS_CODE_ERROR
        assert span.status.message == f"could not be read: {', '.join(failed)}"
    else:
        assert not span.HasField("status")
    assert attributes == {}


def test_ids_are_random() -> None:
    """From the kernel, anew for each span."""
    bodies = [
        sample_span(
            RESOURCE, "1", start_time_unix_nano=START, end_time_unix_nano=END, data_points=1
        )
        for _ in range(20)
    ]
    spans = [
        ExportTraceServiceRequest.FromString(body).resource_spans[0].scope_spans[0].spans[0]
        for body in bodies
    ]
    assert len({span.trace_id for span in spans}) == len({span.span_id for span in spans}) == 20
    assert {(len(span.trace_id), len(span.span_id)) for span in spans} == {(16, 8)}
