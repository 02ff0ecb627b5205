"""What an answer means for the data it answers. Pure.

OTLP specification, "Failures": retryable codes are retried with exponential backoff, a hint from
the server wins over it, everything else is never retried.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from edge_agent.otlp.signal import Signal
from edge_agent.otlp.status import Code, StatusError, decode_response, decode_status


@dataclass(frozen=True, slots=True)
class Delivered:
    """The peer has it. `rejected_items` of it were refused in a partial success, never retried."""

    latency_s: float
    rejected_items: int = 0
    message: str = ""


@dataclass(frozen=True, slots=True)
class Retry:
    """It may succeed later: send the same again, not before `after_s` where the peer said so."""

    reason: str
    after_s: float | None = None


@dataclass(frozen=True, slots=True)
class Rejected:
    """It will never succeed as it is. `code` is the peer's, in lower snake case."""

    code: str
    message: str
    too_large: bool = False


@dataclass(frozen=True, slots=True)
class Denied:
    """UNAUTHENTICATED, PERMISSION_DENIED, 401, 403, 407: we are refused, the data is good."""

    code: str
    message: str


Outcome = Delivered | Retry | Rejected | Denied


class Client(Protocol):
    """Sends one encoded Export request to one peer."""

    async def export(self, signal: Signal, body: bytes) -> Outcome:
        """Send `body`; every failure of the peer or the network is an Outcome, never raised."""
        ...

    def reconnect(self) -> None:
        """Forget the wait after failed connects: the next call tries at once."""
        ...

    async def close(self) -> None:
        """Close connections; calls in flight end as Retry."""
        ...


# OTLP specification, "OTLP/gRPC Response", "Failures": these and no others. RESOURCE_EXHAUSTED is
# retryable only where the server says that recovery is possible, by a RetryInfo.
_RETRYABLE_CODES = frozenset(
    {
        Code.CANCELLED,
        Code.DEADLINE_EXCEEDED,
        Code.ABORTED,
        Code.OUT_OF_RANGE,
        Code.UNAVAILABLE,
        Code.DATA_LOSS,
    }
)
# OTLP specification, "OTLP/HTTP Response", "Retryable Response Codes".
_RETRYABLE_STATUSES = frozenset({429, 502, 503, 504})
# A device without a clock lives in 1970, where every HTTP-date is decades away, and a garbled
# hint must not silence a device for good.
_MAX_HINT_S = 86_400.0
_MESSAGE_CHARS = 500


@dataclass(frozen=True, slots=True)
class Backoff:
    """Doubling delays from `initial_s` up to `max_s`, each spread over its upper half."""

    initial_s: float
    max_s: float

    def delay_s(self, attempt: int, jitter: float) -> float:
        """Seconds before retry `attempt` (1 is the first); `jitter` in [0, 1)."""
        # A device may retry for weeks: 2.0**1024 raises OverflowError.
        doublings = min(attempt - 1, 63)
        return min(self.max_s, self.initial_s * 2.0**doublings) * (0.5 + jitter / 2)


def code_name(code: int) -> str:
    """A gRPC code in lower snake case; a number that gRPC does not know is `unknown`."""
    try:
        return Code(code).name.lower()
    except ValueError:
        return Code.UNKNOWN.name.lower()


def _hint_s(delay_s: float) -> float | None:
    # The Collector reads a delay of zero as "use your own backoff"; so do we.
    return min(delay_s, _MAX_HINT_S) if delay_s > 0 else None


def delivered(body: bytes, latency_s: float) -> Delivered:
    """The peer said success in `latency_s`; `body` is its Export response.

    A body that is no such message does not undo the delivery.
    """
    try:
        partial = decode_response(body)
    except StatusError:
        return Delivered(latency_s)
    return Delivered(latency_s, partial.rejected_items, partial.message[:_MESSAGE_CHARS])


def classify_grpc(
    code: int, message: str, details: bytes = b"", *, body: bytes = b"", latency_s: float = 0.0
) -> Outcome:
    """What a gRPC status means. `details` is a google.rpc.Status, `body` the response message.

    Details that are garbage are no details.
    """
    if code == Code.OK:
        return delivered(body, latency_s)
    try:
        delay_s = decode_status(details).retry_delay_s
    except StatusError:
        delay_s = None
    name, message = code_name(code), message[:_MESSAGE_CHARS]
    if code in _RETRYABLE_CODES or (code == Code.RESOURCE_EXHAUSTED and delay_s is not None):
        reason = f"{name}: {message}" if message else name
        return Retry(reason, _hint_s(delay_s if delay_s is not None else 0.0))
    if code in (Code.UNAUTHENTICATED, Code.PERMISSION_DENIED):
        return Denied(name, message)
    return Rejected(name, message, too_large=code == Code.RESOURCE_EXHAUSTED)


def classify_http(
    status: int,
    retry_after: str | None,
    body: bytes,
    now_unix_s: float,
    *,
    content_type: str = "",
    latency_s: float = 0.0,
) -> Outcome:
    """What an OTLP/HTTP answer means; `retry_after` is that header, `body` was asked as protobuf.

    `now_unix_s` is the wall clock, which an HTTP-date in `retry_after` is compared with.
    """
    portal = body and content_type.lower().startswith("text/html")
    if 200 <= status < 300 and not portal:
        return delivered(body, latency_s)
    name, message = f"http_{status}", _http_message(body)
    # Guest networks answer for everybody with a page to log in on, or with a redirect to it: no
    # OTLP server has seen the data. The specification has no redirects.
    if status in _RETRYABLE_STATUSES or status < 400:
        reason = f"{name}: {message}" if message else name
        return Retry(reason, retry_after_s(retry_after, now_unix_s))
    # 407 is the word of a proxy in between: the peer has not seen the data.
    if status in (401, 403, 407):
        return Denied(name, message)
    return Rejected(name, message, too_large=status == 413)


def _http_message(body: bytes) -> str:
    """What a person can read in an error's body: a Status's message, or text."""
    try:
        message = decode_status(body).message
    except StatusError:
        message = ""
    if not message:
        message = body[: _MESSAGE_CHARS * 4].decode("utf-8", "replace")
    # Proxies answer whole pages, and some peers control characters.
    return " ".join("".join(c if c.isprintable() else " " for c in message).split())[
        :_MESSAGE_CHARS
    ]


def retry_after_s(value: str | None, now_unix_s: float) -> float | None:
    """Seconds that a Retry-After header asks for; None where it is absent, past or garbage.

    RFC 9110, 10.2.3: a number of seconds or an HTTP-date.
    """
    if value is None:
        return None
    value = value.strip()
    # ASCII digits only: isdecimal alone lets other scripts' digits through.
    if value.isascii() and value.isdecimal():
        return _hint_s(float(value[:12]))
    at_unix_s = _http_date_unix_s(value)
    if at_unix_s is None or at_unix_s - now_unix_s > _MAX_HINT_S:
        return None
    return _hint_s(at_unix_s - now_unix_s)


# Python refuses to make an int of more than 4300 digits, by an exception.
_MAX_DATE_CHARS = 64
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def _http_date_unix_s(value: str) -> float | None:
    """RFC 9110, 5.6.7, all three forms.

    Sun, 06 Nov 1994 08:49:37 GMT | Sunday, 06-Nov-94 08:49:37 GMT | Sun Nov  6 08:49:37 1994
    """
    if len(value) > _MAX_DATE_CHARS:
        return None
    match value.replace("-", " ").split():
        case [weekday, day, month, year, clock, "GMT"] if weekday.endswith(","):
            pass
        case [_, month, day, clock, year]:
            pass
        case _:
            return None
    hms = clock.split(":")
    if month not in _MONTHS or not all(n.isascii() and n.isdecimal() for n in (day, year, *hms)):
        return None
    full_year = int(year) + (2000 if int(year) < 70 else 1900) if len(year) == 2 else int(year)
    try:
        hour, minute, second = map(int, hms)
        # A leap second is a second that datetime does not know.
        date = datetime(
            full_year, _MONTHS.index(month) + 1, int(day), hour, minute, min(second, 59), tzinfo=UTC
        )
    except (ValueError, OverflowError):
        return None
    return date.timestamp()
