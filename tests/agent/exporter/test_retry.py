"""What answers mean, beyond what the contract suite shows end to end."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.exporter.retry import (
    Backoff,
    Delivered,
    Denied,
    Rejected,
    Retry,
    classify_grpc,
    classify_http,
    code_name,
    retry_after_s,
)
from edge_agent.otlp.status import PartialSuccess, Status, encode_response, encode_status

NOVEMBER_1994_UNIX_S = 784_111_777.0  # Sun, 06 Nov 1994 08:49:37 GMT
DAY_S = 86_400.0


@given(
    initial_s=st.floats(0.001, 10),
    factor=st.floats(1, 100),
    attempt=st.integers(1, 10**6),
    jitter=st.floats(0, 1, exclude_max=True),
)
def test_backoff_stays_within_its_bounds(
    initial_s: float, factor: float, attempt: int, jitter: float
) -> None:
    """For weeks of attempts; and never below half of what is due."""
    backoff = Backoff(initial_s, initial_s * factor)
    assert initial_s / 2 <= backoff.delay_s(attempt, jitter) <= backoff.max_s


def test_backoff_doubles_and_is_spread() -> None:
    """A fleet that failed together does not come back together."""
    backoff = Backoff(1.0, 30.0)
    assert [backoff.delay_s(n, 0.0) for n in range(1, 8)] == [0.5, 1, 2, 4, 8, 15, 15]
    assert [backoff.delay_s(3, jitter) for jitter in (0.0, 0.5, 0.75)] == [2, 3, 3.5]


def test_codes_are_named_in_lower_snake_case() -> None:
    """And what gRPC does not know is unknown."""
    assert [code_name(code) for code in (3, 8, 16, 17, -1)] == [
        "invalid_argument",
        "resource_exhausted",
        "unauthenticated",
        "unknown",
        "unknown",
    ]


def test_details_that_are_garbage_are_no_details() -> None:
    """The code alone decides then."""
    assert classify_grpc(14, "busy", b"\xff") == Retry("unavailable: busy")
    assert classify_grpc(8, "", b"\xff") == Rejected("resource_exhausted", "", too_large=True)


def test_codes_decide() -> None:
    """One of each kind; the contract suite has them all."""
    assert classify_grpc(16, "who?") == Denied("unauthenticated", "who?")
    assert classify_grpc(3, "no", encode_status(Status(3, "", 1.0))) == Rejected(
        "invalid_argument", "no"
    )
    assert classify_grpc(0, "", body=b"\xff", latency_s=0.5) == Delivered(0.5)
    assert classify_http(503, "2", b"", 0.0) == Retry("http_503", 2.0)


def test_hints_are_bounded_by_a_day() -> None:
    """A garbled hint must not silence a device for good."""
    details = encode_status(Status(14, "", 1e9))
    assert classify_grpc(14, "", details) == Retry("unavailable", DAY_S)
    assert retry_after_s("9" * 40, 0.0) == DAY_S


def test_long_messages_are_cut() -> None:
    """They go into logs and into /health."""
    outcome = classify_grpc(3, "x" * 10_000)
    assert isinstance(outcome, Rejected)
    assert len(outcome.message) == 500
    body = encode_response(PartialSuccess(1, "x" * 10_000))
    partial = classify_grpc(0, "", body=body, latency_s=0.25)
    assert partial == Delivered(0.25, 1, "x" * 500)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (encode_status(Status(3, "span 3: no trace id")), "span 3: no trace id"),
        (b"404 page not found\n", "404 page not found"),
        (b"<html>\r\n\t<h1>Bad\x00 gateway</h1>", "<html> <h1>Bad gateway</h1>"),
        (b"", ""),
        (b"\xff\xfe", "\ufffd\ufffd"),
        ("ä".encode() * 3000, "ä" * 500),
    ],
)
def test_an_http_errors_body_is_made_readable(body: bytes, message: str) -> None:
    """A google.rpc.Status where it is one, else its text, on one line."""
    assert classify_http(400, None, body, 0.0) == Rejected("http_400", message)
    assert classify_http(403, None, body, 0.0) == Denied("http_403", message)


def test_an_http_success_has_its_partial_success_and_latency() -> None:
    """The body of a 200 is an Export response, or nothing we could use."""
    body = encode_response(PartialSuccess(2, "late"))
    assert classify_http(200, None, body, 0.0, latency_s=0.5) == Delivered(0.5, 2, "late")
    assert classify_http(200, None, b"<html>", 0.0, latency_s=0.5) == Delivered(0.5)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("120", 120.0),
        (" 7 ", 7.0),
        ("0", None),
        ("-1", None),
        ("1.5", None),
        ("٣", None),
        ("", None),
        ("soon", None),
        # RFC 9110, 5.6.7: all three forms of one moment, an hour from now.
        ("Sun, 06 Nov 1994 09:49:37 GMT", 3600.0),
        ("Sunday, 06-Nov-94 09:49:37 GMT", 3600.0),
        ("Sun Nov  6 09:49:37 1994", 3600.0),
        # The past, now, and more than a day ahead: a clock is wrong.
        ("Sun, 06 Nov 1994 08:49:36 GMT", None),
        ("Sun, 06 Nov 1994 08:49:37 GMT", None),
        ("Tue, 08 Nov 1994 08:49:37 GMT", None),
        ("Sunday, 06-Nov-30 09:49:37 GMT", None),
        # Nearly dates.
        ("Sun, 06 Nov 1994 08:49:37 CET", None),
        ("Sun, 31 Feb 1994 08:49:37 GMT", None),
        ("Sun, 06 Foo 1994 08:49:37 GMT", None),
        ("Sun, 06 Nov 1994 25:49:37 GMT", None),
        ("Sun, 06 Nov 1994 08:49 GMT", None),
        ("Sun, 06 Nov 99999999999 08:49:37 GMT", None),
        ("Sun, ٠٦ Nov 1994 08:49:37 GMT", None),
        ("Sun, 06 Nov 1994 aa:bb:cc GMT", None),
    ],
)
def test_retry_after_in_every_form(value: str | None, seconds: float | None) -> None:
    """Seconds or a date; anything else is no hint."""
    assert retry_after_s(value, NOVEMBER_1994_UNIX_S) == seconds


def test_a_leap_second_is_a_date() -> None:
    """RFC 9110 allows second 60, which Python's datetime does not."""
    leap = retry_after_s("Sun, 06 Nov 1994 08:50:60 GMT", NOVEMBER_1994_UNIX_S)
    assert leap == 59 + 23.0


@given(st.text(max_size=40))
def test_any_retry_after_is_a_bounded_hint_or_none(value: str) -> None:
    """Whatever a peer writes there."""
    hint = retry_after_s(value, NOVEMBER_1994_UNIX_S)
    assert hint is None or 0 < hint <= DAY_S


def test_a_date_with_a_year_of_thousands_of_digits_is_garbage() -> None:
    """int() raises beyond 4300 digits: a peer's header must not reach that."""
    assert retry_after_s(f"Sun, 06 Nov {'9' * 5000} 08:49:37 GMT", 0.0) is None
