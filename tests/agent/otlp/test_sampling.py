"""Sampling keeps whole traces, the same ones on every tier."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from edge_agent.otlp import wire
from edge_agent.otlp.batch import Enricher, MalformedError
from edge_agent.otlp.sampling import Sampled, sample, threshold
from edge_agent.otlp.signal import Signal
from tests.agent.otlp import oracle
from tests.agent.otlp.encodings import requests
from tests.agent.otlp.oracle import IDENTITY, OWN_ID
from tests.agent.otlp.test_batch import RELAXED

RATES = st.sampled_from([0.0, 2**-56, 0.25, 0.5, 0.9, 1.0])


def traces(n: int) -> ExportTraceServiceRequest:
    """`n` spans of as many traces, in one scope."""
    request = ExportTraceServiceRequest()
    scope = request.resource_spans.add().scope_spans.add()
    for _ in range(n):
        scope.spans.add(trace_id=os.urandom(16), name="GET")
    return request


def kept(body: bytes, rate: float) -> set[bytes]:
    """The trace ids that stay."""
    parsed = ExportTraceServiceRequest.FromString(sample(body, rate).body)
    return {
        span.trace_id
        for resource in parsed.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    }


@given(requests(Signal.TRACES), RATES)
@RELAXED
def test_sampled_bytes_mean_what_sampled_objects_mean(
    request_: tuple[Signal, bytes], rate: float
) -> None:
    """Whatever the encoding; what is emptied goes, what was empty stays."""
    _, body = request_
    before = oracle.parse(Signal.TRACES, body)
    result = sample(body, rate)
    after = oracle.parse(Signal.TRACES, result.body)
    assert oracle.bits(after) == oracle.bits(oracle.sampled(before, threshold(rate)))
    gone = oracle.count(Signal.TRACES, before) - oracle.count(Signal.TRACES, after)
    assert result.items_out == gone
    assert (result.bytes_out > 0) == (gone > 0)


@pytest.mark.parametrize(
    ("rate", "expected"),
    [(1.0, 0), (0.0, 1 << 56), (0.5, 1 << 55), (0.25, 3 << 54), (2**-56, (1 << 56) - 1)],
)
def test_the_threshold_is_opentelemetrys(rate: float, expected: int) -> None:
    """T = (1 - probability) * 2**56, rounded; T = 0 keeps all."""
    assert threshold(rate) == expected


@pytest.mark.parametrize(
    ("random", "stays"),
    [((1 << 55) - 1, False), (1 << 55, True), (0, False), ((1 << 56) - 1, True)],
)
def test_the_low_56_bits_decide(random: int, stays: bool) -> None:
    """At the threshold a trace is kept; the high bits, here those of a time, say nothing."""
    trace_id = b"\x69\x3e\x10\xff\xff\xff\xff\xff\xff" + random.to_bytes(7, "big")
    request = ExportTraceServiceRequest()
    request.resource_spans.add().scope_spans.add().spans.add(trace_id=trace_id)
    assert kept(request.SerializeToString(), 0.5) == ({trace_id} if stays else set())


def test_tiers_nest() -> None:
    """What a low rate keeps, every higher rate keeps."""
    body = traces(300).SerializeToString()
    tenth, half, most = kept(body, 0.1), kept(body, 0.5), kept(body, 0.9)
    assert tenth <= half <= most
    assert 0 < len(tenth) < len(half) < len(most) < 300


def test_spans_without_a_whole_trace_id_stay() -> None:
    """They cannot be told by it; 0 means none at all."""
    request = ExportTraceServiceRequest()
    scope = request.resource_spans.add().scope_spans.add()
    for size in (0, 8, 15, 17):
        scope.spans.add(trace_id=bytes(size), name="GET")
    body = request.SerializeToString()
    assert sample(body, 0.01) == Sampled(body, 0, 0)
    assert sample(body, 0.0).items_out == 4


def test_a_trace_id_that_is_cut_short_stays() -> None:
    """Damage inside a span is not for sampling to judge."""
    body = wire.bytes_field(1, wire.bytes_field(2, wire.bytes_field(2, b"\x0a\x10short")))
    assert sample(body, 0.5) == Sampled(body, 0, 0)


def test_a_trace_id_that_is_not_first_is_found() -> None:
    """Behind the name, and the last where it is repeated."""
    low, high = bytes(16), b"\xff" * 16
    span = wire.string_field(5, "GET") + wire.bytes_field(1, high) + wire.bytes_field(1, low)
    body = wire.bytes_field(1, wire.bytes_field(2, wire.bytes_field(2, span)))
    assert sample(body, 0.5).items_out == 1


def test_a_whole_rate_costs_nothing_and_other_signals_are_not_sampled() -> None:
    """Enriched alone: the bytes are the same."""
    enricher = Enricher(IDENTITY, own_instance_id=OWN_ID)
    body = traces(20).SerializeToString()
    whole = enricher.admit(Signal.TRACES, body)
    assert enricher.admit(Signal.TRACES, body, sample_rate=1.0) == whole
    assert enricher.admit(Signal.LOGS, body, sample_rate=0.0).items == 20


def test_what_is_sampled_out_is_counted() -> None:
    """In items, and in the bytes that they took."""
    enricher = Enricher(IDENTITY, own_instance_id=OWN_ID)
    body = traces(20).SerializeToString()
    none = enricher.admit(Signal.TRACES, body, sample_rate=0.0)
    assert (none.body, none.items, none.sampled_out_items) == (b"", 0, 20)
    assert none.sampled_out_bytes == 20 * (2 + 2 + 16 + 2 + 3)


@pytest.mark.parametrize(
    "body", [b"\x0a", b"\x08\x01", wire.bytes_field(1, wire.bytes_field(2, b"\x12\x02\x0a\x05"))]
)
def test_what_is_no_request_is_malformed(body: bytes) -> None:
    """Never another exception."""
    with pytest.raises(MalformedError, match="not an ExportTraceServiceRequest"):
        sample(body, 0.5)
