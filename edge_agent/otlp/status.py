"""What a peer says about a request: gRPC codes, google.rpc.Status, RetryInfo, partial success.

OTLP answers a failed request with a google.rpc.Status (in `grpc-status-details-bin`, or as the
HTTP body) and a successful one with an Export*ServiceResponse, which is the same message for all
three signals. A peer's bytes that are neither raise StatusError, nothing else.
"""

from dataclasses import dataclass
from enum import IntEnum

from edge_agent.otlp.wire import WireError, bytes_field, fields, string_field, varint_field

_RETRY_INFO = "type.googleapis.com/google.rpc.RetryInfo"
# An Any's type is what follows the last slash; the host in front of it is free.
_RETRY_INFO_NAME = _RETRY_INFO.rpartition("/")[2]
_MAX_INT64 = (1 << 63) - 1


class Code(IntEnum):
    """gRPC status codes: https://grpc.io/docs/guides/status-codes/."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class StatusError(ValueError):
    """Bytes that are not the message they should be."""


@dataclass(frozen=True, slots=True)
class Status:
    """A google.rpc.Status; `retry_delay_s` is None where no RetryInfo is among its details."""

    code: int
    message: str
    retry_delay_s: float | None = None


@dataclass(frozen=True, slots=True)
class PartialSuccess:
    """`rejected_items` of an accepted request were refused; a message alone is a warning."""

    rejected_items: int = 0
    message: str = ""


def _bytes(value: int | bytes, what: str) -> bytes:
    if not isinstance(value, bytes):
        raise StatusError(f"{what} is a number, not a length-delimited field")
    return value


def _int(value: int | bytes, what: str) -> int:
    if not isinstance(value, int):
        raise StatusError(f"{what} is length-delimited, not a number")
    return value - (1 << 64) if value > _MAX_INT64 else value


def _text(value: int | bytes, what: str) -> str:
    return _bytes(value, what).decode("utf-8", "backslashreplace")


def encode_status(status: Status) -> bytes:
    """A google.rpc.Status, with a RetryInfo where `retry_delay_s` is not None.

    message Status { int32 code = 1; string message = 2; repeated Any details = 3; }
    message Any { string type_url = 1; bytes value = 2; }
    message RetryInfo { Duration retry_delay = 1; }
    message Duration { int64 seconds = 1; int32 nanos = 2; }
    """
    out = varint_field(1, status.code) + string_field(2, status.message)
    if status.retry_delay_s is not None:
        seconds, nanos = divmod(round(status.retry_delay_s * 1e9), 1_000_000_000)
        duration = varint_field(1, seconds) + varint_field(2, nanos)
        info = bytes_field(1, duration)
        out += bytes_field(3, string_field(1, _RETRY_INFO) + bytes_field(2, info))
    return out


def decode_status(data: bytes) -> Status:
    """The Status that `data` encodes; raises StatusError. Details but RetryInfo are skipped."""
    code, message, retry_delay_s = 0, "", None
    try:
        for field, _, value in fields(data):
            if field == 1:
                code = _int(value, "Status.code")
            elif field == 2:
                message = _text(value, "Status.message")
            elif field == 3:
                delay_s = _retry_delay_s(_bytes(value, "Status.details"))
                retry_delay_s = retry_delay_s if delay_s is None else delay_s
    except WireError as error:
        raise StatusError(f"no google.rpc.Status: {error}") from error
    return Status(code, message, retry_delay_s)


def _retry_delay_s(detail: bytes) -> float | None:
    """Seconds in an Any that is a RetryInfo (never negative), None for any other detail."""
    type_url, info = "", b""
    for field, _, value in fields(detail):
        if field == 1:
            type_url = _text(value, "Any.type_url")
        elif field == 2:
            info = _bytes(value, "Any.value")
    if type_url.rpartition("/")[2] != _RETRY_INFO_NAME:
        return None
    delay_ns = 0
    for field, _, value in fields(info):
        if field == 1:
            for part, _, number in fields(_bytes(value, "RetryInfo.retry_delay")):
                if part == 1:
                    delay_ns += _int(number, "Duration.seconds") * 1_000_000_000
                elif part == 2:
                    delay_ns += _int(number, "Duration.nanos")
    return max(0, delay_ns) / 1e9


def encode_response(partial: PartialSuccess) -> bytes:
    """An Export*ServiceResponse; empty where there is nothing to say.

    message ExportTraceServiceResponse { ExportTracePartialSuccess partial_success = 1; }
    message ExportTracePartialSuccess { int64 rejected_spans = 1; string error_message = 2; }
    """
    if partial == PartialSuccess():
        return b""
    return bytes_field(
        1, varint_field(1, partial.rejected_items) + string_field(2, partial.message)
    )


def decode_response(data: bytes) -> PartialSuccess:
    """The partial success in an Export*ServiceResponse; raises StatusError.

    An absent or empty one is full success: the Collector sends the latter.
    """
    rejected_items, message = 0, ""
    try:
        for field, _, value in fields(data):
            if field != 1:
                continue
            for part, _, inner in fields(_bytes(value, "partial_success")):
                if part == 1:
                    rejected_items = max(0, _int(inner, "partial_success.rejected"))
                elif part == 2:
                    message = _text(inner, "partial_success.error_message")
    except WireError as error:
        raise StatusError(f"no Export response: {error}") from error
    return PartialSuccess(rejected_items, message)
