"""gRPC's own encoding: prefixes, timeouts, percent and base64, statuses."""

import base64
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.otlp.status import Code
from edge_agent.transport.grpc import (
    Answer,
    GrpcError,
    answer,
    decode_binary,
    decode_message,
    is_grpc,
    message_prefix,
    request_headers,
    split_message,
    timeout,
    timeout_s,
    user_metadata,
    wire_metadata,
)

OK_HEADERS = ((b":status", b"200"), (b"content-type", b"application/grpc"))
UNIT_S = {"H": 3600.0, "S": 1.0, "m": 0.001}


@given(message=st.binary(max_size=300), compressed=st.booleans())
def test_a_message_is_framed_and_read_back(message: bytes, *, compressed: bool) -> None:
    """One byte of flag, four of length."""
    prefix = message_prefix(len(message), compressed=compressed)
    assert len(prefix) == 5
    assert split_message(prefix + message) == (compressed, message)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00\x00\x00\x00",
        b"\x00\x00\x00\x00\x02x",
        b"\x00\x00\x00\x00\x01xy",
        b"\x02\x00\x00\x00\x01x",
    ],
)
def test_a_message_that_is_not_one_whole_message_is_refused(data: bytes) -> None:
    """Too short, too long, a second one behind it, a flag that does not exist."""
    # Of a request or of an answer: the words fit both.
    with pytest.raises(GrpcError, match=r"^(message of|compressed flag)"):
        split_message(data)


@pytest.mark.parametrize(
    ("seconds", "value"),
    [
        (10, b"10S"),
        (0.25, b"250m"),
        (1.5, b"1500m"),
        (0, b"1m"),
        (-3, b"1m"),
        (99_999.999, b"99999999m"),
        (100_000.5, b"100001S"),
        (99_999_999, b"99999999S"),
        (100_000_000, b"27778H"),
        (1e18, b"99999999H"),
    ],
)
def test_timeouts_use_the_finest_unit_that_fits(seconds: float, value: bytes) -> None:
    """TimeoutValue is at most eight digits."""
    assert timeout(seconds) == value


@given(st.floats(0.001, 1e10))
def test_a_timeout_is_never_shorter_than_asked_by_more_than_a_rounding(seconds: float) -> None:
    """A peer must not give up before we do."""
    value = timeout(seconds).decode()
    assert 1 <= len(value[:-1]) <= 8
    assert int(value[:-1]) * UNIT_S[value[-1]] >= seconds - 0.0006


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (b"1H", 3600.0),
        (b"2M", 120.0),
        (b"10S", 10.0),
        (b"9997m", 9.997),
        (b"99999999u", 99.999999),
        (b"5n", 5e-9),
        (b"0m", 0.0),
        (b"", None),
        (b"S", None),
        (b"10", None),
        (b"10s", None),
        (b"-1S", None),
        (b"1.5S", None),
        (b"999999999S", None),
    ],
)
def test_a_callers_timeout_is_read_or_there_is_none(value: bytes, seconds: float | None) -> None:
    """TimeoutValue TimeoutUnit of PROTOCOL-HTTP2.md, and nothing else."""
    assert timeout_s(value) == (None if seconds is None else pytest.approx(seconds))


@given(st.text())
def test_messages_are_percent_decoded(text: str) -> None:
    """UTF-8 under percent encoding, as gRPC servers send it."""
    assert decode_message(quote(text, safe=" !#$&'()*+,/:;=?@[]").encode()) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (b"100%", "100%"),
        (b"%", "%"),
        (b"%4", "%4"),
        (b"%zz%41", "%zzA"),
        (b"%+1%25", "%+1%"),
        (b"%ff", "\ufffd"),
        (b"", ""),
    ],
)
def test_a_badly_encoded_message_is_kept_as_it_came(value: bytes, text: str) -> None:
    """A message is for people: never an error."""
    assert decode_message(value) == text


@given(st.binary(max_size=60))
def test_binary_headers_come_with_and_without_padding(data: bytes) -> None:
    """Both are base64 to gRPC."""
    padded = base64.b64encode(data)
    assert decode_binary(padded) == data
    assert decode_binary(padded.rstrip(b"=")) == data
    assert decode_binary(padded + b", AAAA") == data


@pytest.mark.parametrize("value", [b"!!!!", b"AAAAA", b"A=AA", b"AA==AA"])
def test_binary_headers_that_are_no_base64_are_refused(value: bytes) -> None:
    """One kind of error."""
    with pytest.raises(GrpcError):
        decode_binary(value)


def test_users_headers_become_metadata_and_the_rest_is_named() -> None:
    """Lower case, printable ASCII, nothing that the protocol itself says."""
    accepted = [("X-Tenant", " edge "), ("api.key_1", ""), ("Blob-Bin", "ü\udcff")]
    refused = ["", ":path", "TE", "Host", "grpc-timeout", "Content-Type", "User-Agent", "a b", "ä"]
    headers = [*accepted, *((name, "x") for name in refused), ("line", "a\r\nb"), ("euro", "€")]
    metadata, names = user_metadata(headers)
    assert metadata == (
        ("x-tenant", "edge"),
        ("api.key_1", ""),
        ("blob-bin", b"\xc3\xbc\\udcff"),
    )
    assert names == [*refused, "line", "euro"]
    assert wire_metadata(metadata)[0] == (b"x-tenant", b"edge")
    name, value = wire_metadata(metadata)[2]
    assert (name, decode_binary(value)) == (b"blob-bin", b"\xc3\xbc\\udcff")
    assert not value.endswith(b"=")


@pytest.mark.parametrize("gzip", [False, True])
@pytest.mark.parametrize("tls", [False, True])
def test_a_request_says_what_grpc_asks_for(*, gzip: bool, tls: bool) -> None:
    """Pseudo headers first, `te: trailers`, then ours, the user's last."""
    headers = request_headers(
        path="/pkg.Service/Method",
        authority="[::1]:4317",
        tls=tls,
        timeout_s=2.5,
        gzip=gzip,
        user_agent="pulseops-edge/1",
        metadata=(("x-tenant", "edge"),),
    )
    assert headers == (
        (b":method", b"POST"),
        (b":scheme", b"https" if tls else b"http"),
        (b":path", b"/pkg.Service/Method"),
        (b":authority", b"[::1]:4317"),
        (b"te", b"trailers"),
        (b"grpc-timeout", b"2500m"),
        (b"content-type", b"application/grpc"),
        *([(b"grpc-encoding", b"gzip")] if gzip else []),
        (b"grpc-accept-encoding", b"identity,gzip"),
        (b"user-agent", b"pulseops-edge/1"),
        (b"x-tenant", b"edge"),
    )


def test_the_status_is_read_from_trailers_or_from_trailers_only() -> None:
    """Trailers win; without any the headers are the trailers."""
    status = (b"grpc-status", b"14"), (b"grpc-message", b"a%20b")
    details = (b"grpc-status-details-bin", base64.b64encode(b"details").rstrip(b"="))
    assert answer(OK_HEADERS, (*status, details)) == Answer(14, "a b", b"details")
    assert answer((*OK_HEADERS, *status), ()) == Answer(14, "a b", b"")
    # Details that are no base64 do not undo the status.
    broken = (b"grpc-status-details-bin", b"!")
    assert answer(OK_HEADERS, (*status, broken)) == Answer(14, "a b", b"")
    # The first of several counts.
    assert answer(OK_HEADERS, ((b"grpc-status", b"0"), *status)).code == 0


@pytest.mark.parametrize("status", [b"", b"fine", b"-1", b"1.5", b"9" * 11, b"\xb2"])
def test_a_status_that_is_no_number_breaks_the_protocol(status: bytes) -> None:
    """Nothing can be said about the data then."""
    with pytest.raises(GrpcError):
        answer(OK_HEADERS, ((b"grpc-status", status),))


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (b"400", Code.INTERNAL),
        (b"401", Code.UNAUTHENTICATED),
        (b"403", Code.PERMISSION_DENIED),
        (b"404", Code.UNIMPLEMENTED),
        (b"413", Code.RESOURCE_EXHAUSTED),
        (b"429", Code.UNAVAILABLE),
        (b"502", Code.UNAVAILABLE),
        (b"503", Code.UNAVAILABLE),
        (b"504", Code.UNAVAILABLE),
        (b"407", Code.UNAUTHENTICATED),
    ],
)
def test_without_a_grpc_status_the_http_status_counts(status: bytes, code: Code) -> None:
    """http-grpc-status-mapping.md, 413 as too large, and 407 as refused by a proxy."""
    found = answer(((b":status", status), (b"content-type", b"text/html")), ())
    assert found.code is code
    assert found.message == f"answered HTTP status {int(status)}"


@pytest.mark.parametrize("status", [b"500", b"302", b"418", b"", b"fine"])
def test_another_status_is_not_the_collectors_word(status: bytes) -> None:
    """A portal's redirect, a proxy's page: the call is retried, the data is kept."""
    with pytest.raises(GrpcError, match="answered HTTP status"):
        answer(((b":status", status), (b"content-type", b"text/html")), ())


@pytest.mark.parametrize("headers", [OK_HEADERS, ((b":status", b"200"),)])
def test_a_200_that_says_nothing_breaks_the_protocol(
    headers: tuple[tuple[bytes, bytes], ...],
) -> None:
    """A captive portal, or a peer that forgot its trailers."""
    with pytest.raises(GrpcError):
        answer(headers, ())


@pytest.mark.parametrize(
    ("content_type", "expected"),
    [
        (b"application/grpc", True),
        (b"application/grpc+proto", True),
        (b"Application/gRPC; charset=utf-8", True),
        (b"application/grpc-web", False),
        (b"text/html", False),
        (b"", False),
    ],
)
def test_content_types_of_grpc(content_type: bytes, *, expected: bool) -> None:
    """The name alone, or with a suffix; not its namesakes."""
    assert is_grpc(content_type) is expected
