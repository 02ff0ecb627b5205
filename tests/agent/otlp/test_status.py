"""What peers say about requests, against protobuf's own encoding of the same messages."""

import contextlib
from typing import Any

import pytest
from google.protobuf import any_pb2, descriptor_pb2, descriptor_pool, duration_pb2, message_factory
from hypothesis import example, given
from hypothesis import strategies as st
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2 as logs
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2 as metrics
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as trace

from edge_agent.otlp.status import (
    Code,
    PartialSuccess,
    Status,
    StatusError,
    decode_response,
    decode_status,
    encode_response,
    encode_status,
)


def _google_rpc() -> tuple[Any, Any]:
    """google.rpc.Status and RetryInfo, described here: their package is not among our libraries."""
    file = descriptor_pb2.FileDescriptorProto(
        name="test/rpc.proto",
        package="google.rpc",
        syntax="proto3",
        dependency=["google/protobuf/any.proto", "google/protobuf/duration.proto"],
    )
    one, many = descriptor_pb2.FieldDescriptorProto.Label.Value("LABEL_OPTIONAL"), 3
    status = file.message_type.add(name="Status")
    status.field.add(name="code", number=1, type=5, label=one)
    status.field.add(name="message", number=2, type=9, label=one)
    status.field.add(
        name="details", number=3, type=11, label=many, type_name=".google.protobuf.Any"
    )
    info = file.message_type.add(name="RetryInfo")
    info.field.add(
        name="retry_delay", number=1, type=11, label=one, type_name=".google.protobuf.Duration"
    )
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(any_pb2.DESCRIPTOR.serialized_pb)
    pool.AddSerializedFile(duration_pb2.DESCRIPTOR.serialized_pb)
    pool.Add(file)
    return (
        message_factory.GetMessageClass(pool.FindMessageTypeByName("google.rpc.Status")),
        message_factory.GetMessageClass(pool.FindMessageTypeByName("google.rpc.RetryInfo")),
    )


RpcStatus, RetryInfo = _google_rpc()
RESPONSES = {
    "rejected_data_points": metrics.ExportMetricsServiceResponse,
    "rejected_spans": trace.ExportTraceServiceResponse,
    "rejected_log_records": logs.ExportLogsServiceResponse,
}


def rpc_status(code: int, message: str, *details: tuple[str, Any]) -> Any:
    """A Status as protobuf builds it."""
    status = RpcStatus(code=code, message=message)
    for type_url, detail in details:
        status.details.add(type_url=type_url, value=detail.SerializeToString())
    return status


@given(
    code=st.sampled_from(Code),
    message=st.text(),
    delay_ms=st.none() | st.integers(0, 10**9),
)
def test_a_status_is_encoded_as_protobuf_does_and_read_back(
    code: Code, message: str, delay_ms: int | None
) -> None:
    """Both ways, with and without a RetryInfo."""
    status = Status(code, message, None if delay_ms is None else delay_ms / 1000)
    encoded = encode_status(status)
    decoded = RpcStatus.FromString(encoded)
    assert (decoded.code, decoded.message) == (code, message)
    delays = [RetryInfo.FromString(detail.value).retry_delay for detail in decoded.details]
    assert [d.seconds * 1000 + d.nanos // 10**6 for d in delays] == (
        [] if delay_ms is None else [delay_ms]
    )
    assert [d.type_url for d in decoded.details] == (
        [] if delay_ms is None else ["type.googleapis.com/google.rpc.RetryInfo"]
    )
    assert decode_status(encoded) == status


def test_the_retry_info_is_found_among_other_details() -> None:
    """By the name after the last slash, whatever host is in front of it."""
    delay = RetryInfo()
    delay.retry_delay.seconds, delay.retry_delay.nanos = 3, 500_000_000
    other = rpc_status(1, "a detail of another type")
    status = rpc_status(
        8,
        "slow down",
        ("type.googleapis.com/google.rpc.DebugInfo", other),
        ("example.com/google.rpc.RetryInfo", delay),
        ("type.googleapis.com/google.rpc.Help", other),
    )
    assert decode_status(status.SerializeToString()) == Status(8, "slow down", 3.5)


@pytest.mark.parametrize(("seconds", "nanos"), [(0, 0), (-5, 0), (0, -1)])
def test_a_retry_delay_is_never_negative(seconds: int, nanos: int) -> None:
    """Zero says no more than: retry."""
    delay = RetryInfo()
    delay.retry_delay.seconds, delay.retry_delay.nanos = seconds, nanos
    status = rpc_status(14, "", ("type.googleapis.com/google.rpc.RetryInfo", delay))
    assert decode_status(status.SerializeToString()).retry_delay_s == 0.0


def test_a_retry_info_without_a_delay_is_one_of_zero() -> None:
    """proto3 leaves out what is empty."""
    status = rpc_status(8, "", ("type.googleapis.com/google.rpc.RetryInfo", RetryInfo()))
    assert decode_status(status.SerializeToString()).retry_delay_s == 0.0


def test_unknown_fields_and_missing_ones_are_no_fault() -> None:
    """Of a status, a detail, a response: peers are newer and older than we are."""
    assert decode_status(b"") == Status(0, "")
    assert decode_status(b"\x28\x01\x08\x05") == Status(5, "")
    # A RetryInfo with a field 2 and a Duration with a field 3, in an Any with a field 3.
    info = b"\x10\x01" + b"\x0a\x04" + b"\x08\x02" + b"\x18\x01"
    detail = b"\x18\x01\x0a\x16x/google.rpc.RetryInfo\x12" + bytes((len(info),)) + info
    assert decode_status(b"\x1a" + bytes((len(detail),)) + detail) == Status(0, "", 2.0)
    assert decode_response(b"\x10\x01") == PartialSuccess()
    assert decode_response(b"\x0a\x04\x18\x01\x08\x02") == PartialSuccess(2)


def test_text_that_is_not_utf8_stays_readable() -> None:
    """A peer's message is for people; a broken one is better than none."""
    assert decode_status(b"\x12\x02a\xff").message == "a\\xff"


@pytest.mark.parametrize(("field", "response"), RESPONSES.items())
@given(rejected=st.integers(0, 2**63 - 1), message=st.text())
def test_partial_success_is_one_message_for_all_signals(
    field: str, response: Any, rejected: int, message: str
) -> None:
    """Field numbers are the same in all three, so one decoder serves them."""
    theirs = response()
    setattr(theirs.partial_success, field, rejected)
    theirs.partial_success.error_message = message
    ours = PartialSuccess(rejected, message)
    assert decode_response(theirs.SerializeToString()) == ours
    decoded = response.FromString(encode_response(ours))
    assert getattr(decoded.partial_success, field) == rejected
    assert decoded.partial_success.error_message == message


def test_an_empty_partial_success_is_success() -> None:
    """What the Collector answers to everything it takes."""
    assert decode_response(b"\x0a\x00") == PartialSuccess()
    assert decode_response(b"") == PartialSuccess()
    assert encode_response(PartialSuccess()) == b""


def test_a_negative_count_refuses_nothing() -> None:
    """int64 allows it, sense does not."""
    response = trace.ExportTraceServiceResponse()
    response.partial_success.rejected_spans = -1
    assert decode_response(response.SerializeToString()) == PartialSuccess()


@pytest.mark.parametrize(
    "data",
    [
        b"\xff",
        b"\x0a\x01",
        b"\x08\x01\x12",
        b"\x0a\x00\x0f",
        # Right field, wrong type.
        b"\x10\x01",
        b"\x18\x01",
        b"\x0a\x00",
        b"\x1a\x02\x08\x01",
        b"\x1a\x02\x10\x01",
        b"\x1a\x03\x0a\x02\xff",
    ],
)
def test_bytes_that_are_no_status_are_said_to_be_none(data: bytes) -> None:
    """One kind of error, whatever is wrong with them."""
    with pytest.raises(StatusError):
        decode_status(data)


@pytest.mark.parametrize("data", [b"\xff", b"\x08\x01", b"\x0a\x02\x0a\x00", b"\x0a\x02\x10\x01"])
def test_bytes_that_are_no_response_are_said_to_be_none(data: bytes) -> None:
    """Field 1 of another type, or one of its fields."""
    with pytest.raises(StatusError):
        decode_response(data)


@given(data=st.binary(max_size=60))
@example(b"\x1a\x1c\x0a\x16x/google.rpc.RetryInfo\x12\x02\x0a\x00")
def test_garbage_raises_nothing_but_status_errors(data: bytes) -> None:
    """A peer's bytes never take the agent down."""
    for decode in (decode_status, decode_response):
        with contextlib.suppress(StatusError):
            decode(data)


@given(st.data())
def test_damaged_messages_raise_nothing_but_status_errors(data: st.DataObject) -> None:
    """Valid messages with flipped bytes reach further than random ones."""
    valid = bytearray(encode_status(Status(8, "slow down", 2.5)))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(valid) - 1))
        valid[at] = data.draw(st.integers(0, 255))
    try:
        decoded = decode_status(bytes(valid))
    except StatusError:
        return
    assert decoded.retry_delay_s is None or decoded.retry_delay_s >= 0
