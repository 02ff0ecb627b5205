"""Text to values: what is taken, and what is said of what is not."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.settings import (
    Address,
    ConfigError,
    Endpoint,
    environ_text,
    format_duration,
    format_size,
    in_context,
    nearest,
    one_line,
    parse_address,
    parse_bool,
    parse_choice,
    parse_duration_s,
    parse_endpoint,
    parse_fraction,
    parse_host,
    parse_int,
    parse_pairs,
    parse_path,
    parse_size_bytes,
    parse_text,
    parse_timeout_s,
    parse_token,
    secret_text,
    shown,
    usable_headers,
)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("250ms", 0.25),
        ("15s", 15.0),
        ("5m", 300.0),
        ("1h30m", 5400.0),
        ("7d", 604800.0),
        ("1d2h3m4s5ms", 93784.005),
        ("1.5h", 5400.0),
        ("0s", 0.0),
    ],
)
def test_a_duration_is_a_number_with_its_unit(text: str, seconds: float) -> None:
    """CONTRACT, "Durations"."""
    assert parse_duration_s(text) == seconds


@given(st.integers(min_value=0, max_value=366 * 86_400_000))
def test_a_written_duration_is_read_back(milliseconds: int) -> None:
    """format_duration and parse_duration_s are inverse, to the millisecond."""
    seconds = parse_duration_s(format_duration(milliseconds / 1000))
    assert round(seconds * 1000) == milliseconds


@given(st.integers(min_value=0, max_value=2**63 - 1))
def test_a_written_size_is_read_back(size: int) -> None:
    """format_size and parse_size_bytes are inverse."""
    assert parse_size_bytes(format_size(size)) == size


def test_a_bare_number_is_milliseconds_where_opentelemetry_says_so() -> None:
    """OTEL_*_TIMEOUT: milliseconds; a unit is welcome there too."""
    assert parse_timeout_s("10000") == 10.0
    assert parse_timeout_s("10s") == 10.0


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("64MiB", 64 << 20),
        ("512KiB", 512 << 10),
        ("1048576", 1 << 20),
        ("12B", 12),
        ("1 GiB", 1 << 30),
    ],
)
def test_a_size_is_bytes_or_has_a_binary_unit(text: str, size: int) -> None:
    """CONTRACT, "Sizes"."""
    assert parse_size_bytes(text) == size


@pytest.mark.parametrize("text", ["true", "1", "yes", "on", "TRUE", "Yes", "oN"])
def test_yes_has_four_words_in_any_case(text: str) -> None:
    """CONTRACT, "Odd cases", environment."""
    assert parse_bool(text) is True


@pytest.mark.parametrize("text", ["false", "0", "no", "off", "FALSE", "No", "oFf"])
def test_no_has_four_words_in_any_case(text: str) -> None:
    """CONTRACT, "Odd cases", environment."""
    assert parse_bool(text) is False


def test_whole_numbers_are_ascii_digits() -> None:
    """Leading zeros are digits too."""
    assert parse_int("0042") == 42
    assert parse_int(str(2**63 - 1)) == 2**63 - 1


@pytest.mark.parametrize(
    ("text", "value"), [("0", 0.0), ("1", 1.0), ("1.", 1.0), (".5", 0.5), ("0.25", 0.25)]
)
def test_a_fraction_is_written_in_decimals(text: str, value: float) -> None:
    """From 0 to 1, both included."""
    assert parse_fraction(text) == value


BAD: list[tuple[Callable[[str], object], str, str]] = [
    (parse_duration_s, "15", "has no unit; write 15s for seconds, 15ms for milliseconds"),
    (parse_duration_s, "1.5", "has no unit; write 1.5s for seconds, 1.5ms for milliseconds"),
    (parse_duration_s, "", "not a duration; write it as 250ms, 15s, 5m, 1h30m or 7d"),
    (parse_duration_s, "5 m", "not a duration; write it as 250ms, 15s, 5m, 1h30m or 7d"),
    (parse_duration_s, "-5m", "not a duration; write it as 250ms, 15s, 5m, 1h30m or 7d"),
    (parse_duration_s, "1m1h", "not a duration; write it as 250ms, 15s, 5m, 1h30m or 7d"),
    (parse_duration_s, "1s1s", "not a duration; write it as 250ms, 15s, 5m, 1h30m or 7d"),
    (parse_duration_s, "15S", "not a duration; write it as 250ms, 15s, 5m, 1h30m or 7d"),
    (parse_duration_s, "\u0661s", "not a duration; write it as 250ms, 15s, 5m, 1h30m or 7d"),
    (parse_duration_s, "400d", "above 366d; lower it"),
    (lambda t: parse_duration_s(t, least_s=1.5), "1s", "below 1s500ms; raise it"),
    (
        lambda t: parse_timeout_s(t, least_s=0.1),
        "10",
        "below 100ms; raise it; a bare number is milliseconds here, write 10s for seconds",
    ),
    (
        lambda t: parse_timeout_s(t, most_s=600),
        "700000",
        "above 10m; lower it; a bare number is milliseconds here",
    ),
    (
        lambda t: parse_timeout_s(t, least_s=0.1),
        "50ms",
        "below 100ms; raise it",
    ),
    (parse_size_bytes, "64MB", "not a size; write it as 64MiB, 512KiB or a number of bytes"),
    (parse_size_bytes, "1.5MiB", "not a size; write it as 64MiB, 512KiB or a number of bytes"),
    (parse_size_bytes, "9999999999TiB", "above 9223372036854775807; lower it"),
    (lambda t: parse_size_bytes(t, least=1024), "5", "below 1KiB; raise it"),
    (parse_bool, "maybe", "not a boolean; write true or false"),
    (parse_int, "1_5", "not a whole number; write it in digits alone"),
    (parse_int, "٣", "not a whole number; write it in digits alone"),
    (parse_int, "-1", "not a whole number; write it in digits alone"),
    (parse_int, "1" * 5000, "not a whole number; write it in digits alone"),
    (lambda t: parse_int(t, most=10), "11", "above 10; lower it"),
    (parse_fraction, "1.1", "above 1; lower it"),
    (parse_fraction, "nan", "not a number; write one from 0 to 1, as 0.25"),
    (parse_fraction, "1e-1", "not a number; write one from 0 to 1, as 0.25"),
    (
        lambda t: parse_choice(t, ("gzip", "none")),
        "gzp",
        "not known; the nearest known is gzip; write one of gzip, none",
    ),
    (
        lambda t: parse_choice(t, ("gzip", "none")),
        "zstandard",
        "not known; write one of gzip, none",
    ),
    (parse_text, "a\nb", "has a control character in it; remove it"),
    (parse_text, "é" * 513, "longer than 1024 bytes; shorten it"),
    (parse_path, "/a\0b", "has a control character in it; remove it"),
    (parse_token, "a b", "has characters a header cannot carry; use visible ASCII alone"),
    (parse_token, "ä", "has characters a header cannot carry; use visible ASCII alone"),
    (
        parse_endpoint,
        "unix:/run/otel.sock",
        "a unix socket; set collector.transport: grpcio, or write http://, https:// or host:port",
    ),
    (
        lambda t: parse_endpoint(t, unix=True),
        "unix:otel.sock",
        "not an absolute socket path; write it as unix:/run/otel.sock",
    ),
    (
        lambda t: parse_endpoint(t, unix=True),
        "unix-abstract:otel",
        "not an absolute socket path; write it as unix:/run/otel.sock",
    ),
    (parse_endpoint, "dns://h:1", "scheme dns is not known; write http:// or https://"),
    (
        parse_endpoint,
        "http://bücher:1",
        "has a blank or a non-ASCII character in it; write the host in punycode",
    ),
    (
        parse_endpoint,
        "h :1",
        "has a blank or a non-ASCII character in it; write the host in punycode",
    ),
    (
        parse_endpoint,
        "http://h?x=1",
        "has a query or fragment; remove it, credentials belong into headers",
    ),
    (
        parse_endpoint,
        "http://h#x",
        "has a query or fragment; remove it, credentials belong into headers",
    ),
    (
        parse_endpoint,
        "http://u:p@h",
        "has credentials in it; remove them, they belong into headers",
    ),
    (parse_endpoint, "http://", "has no host; write it as host:port"),
    (parse_endpoint, ":4317", "has no host; write it as host:port"),
    (parse_endpoint, "h!:1", "h! is not a host name; write it as host:port"),
    (parse_endpoint, "a..b", "a..b is not a host name; write it as host:port"),
    (parse_endpoint, "a" * 64, "a" * 64 + " is not a host name; write it as host:port"),
    (
        parse_endpoint,
        ".".join(["a" * 60] * 5),
        ".".join(["a" * 60] * 5)[:100] + "... is not a host name; write it as host:port",
    ),
    (parse_endpoint, "::1", "an IPv6 address goes into brackets; write it as [::1]:4317"),
    (parse_endpoint, "[h]:1", "[h] is not a host name; write it as host:port"),
    (parse_endpoint, "[1.2.3.4]:1", "has brackets around what is no IPv6 address; remove them"),
    (parse_endpoint, "h:", "the port is not a number up to 65535; write it as host:port"),
    (parse_endpoint, "h:65536", "the port is not a number up to 65535; write it as host:port"),
    (parse_endpoint, "h:1_0", "the port is not a number up to 65535; write it as host:port"),
    (parse_endpoint, "h:0", "port 0 is nobody's; write the port of the peer"),
    (
        lambda t: parse_endpoint(t, bare_scheme=None),
        "h:1",
        "has no scheme; write http:// or https:// in front",
    ),
    (parse_address, "localhost", "has no port; write it as host:port"),
    (parse_address, ":4317", "has no host; write it as host:port"),
    (parse_host, "h:1", "has a port in it; write the host alone"),
]


@pytest.mark.parametrize(("parse", "text", "message"), BAD, ids=[f"{t[:20]}" for _, t, _ in BAD])
def test_a_bad_value_is_answered_with_its_remedy(
    parse: Callable[[str], object], text: str, message: str
) -> None:
    """The whole message, as it stands behind key and value."""
    with pytest.raises(ConfigError) as caught:
        parse(text)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        ("http://h:4317", Endpoint("http", "h", 4317)),
        ("HTTPS://h:4317/", Endpoint("https", "h", 4317)),
        ("http://h", Endpoint("http", "h", 80)),
        ("https://h/otlp/", Endpoint("https", "h", 443, "/otlp")),
        ("h:55", Endpoint("https", "h", 55)),
        ("h", Endpoint("https", "h", 4317)),
        ("[::1]:55", Endpoint("https", "::1", 55)),
        ("http://[fe80::1%25eth0]:55", Endpoint("http", "fe80::1%eth0", 55)),
        ("http://[fe80::1%eth0]", Endpoint("http", "fe80::1%eth0", 80)),
    ],
)
def test_an_endpoint_is_a_url_or_a_bare_host(text: str, endpoint: Endpoint) -> None:
    """A URL's missing port is its scheme's, a bare host's is OTLP's."""
    assert parse_endpoint(text) == endpoint


def test_bare_text_takes_scheme_and_port_from_its_setting() -> None:
    """collector.insecure, and the protocol's port."""
    assert parse_endpoint("h", bare_scheme="http", bare_port=4318) == Endpoint("http", "h", 4318)


def test_the_path_of_a_signal_is_used_as_it_is() -> None:
    """OTLP exporter: a per-signal URL is not touched."""
    assert parse_endpoint("http://h/x/", exact_path=True).path == "/x/"


@pytest.mark.parametrize("text", ["unix:/run/o.sock", "unix:///run/o.sock", "UNIX:/run/o.sock"])
def test_a_unix_socket_is_for_grpcio(text: str) -> None:
    """gRPC's two ways to write an absolute path."""
    endpoint = parse_endpoint(text, unix=True)
    assert endpoint == Endpoint("unix", "", 0, "/run/o.sock")
    assert (str(endpoint), endpoint.authority, endpoint.tls) == (
        "unix:/run/o.sock",
        "localhost",
        False,
    )


def test_an_endpoint_is_written_as_a_url() -> None:
    """IPv6 goes back into its brackets."""
    endpoint = Endpoint("https", "::1", 4317, "/v1")
    assert (str(endpoint), endpoint.authority) == ("https://[::1]:4317/v1", "[::1]:4317")
    assert endpoint.tls
    assert not Endpoint("http", "h", 1).tls


@given(
    st.sampled_from(["http", "https"]),
    st.sampled_from(["h", "a.example.com", "10.0.0.1", "::1", "fe80::1%eth0"]),
    st.integers(1, 65535),
    st.sampled_from(["", "/otlp", "/a/b"]),
)
def test_a_written_endpoint_is_read_back(scheme: str, host: str, port: int, path: str) -> None:
    """str(Endpoint) and parse_endpoint are inverse."""
    endpoint = Endpoint(scheme, host, port, path)
    assert parse_endpoint(str(endpoint)) == endpoint


def test_an_address_to_listen_on_has_a_port() -> None:
    """Port 0 takes a free one."""
    assert parse_address("localhost:0") == Address("localhost", 0)
    assert str(parse_address("[::]:4317")) == "[::]:4317"


@pytest.mark.parametrize("text", ["::1", "[::1]"])
def test_a_host_takes_brackets_or_not(text: str) -> None:
    """IPv6 without a port is unambiguous."""
    assert parse_host(text) == "::1"


def test_a_choice_is_read_in_any_case_and_by_its_other_names() -> None:
    """OpenTelemetry: enum values are case-insensitive."""
    assert parse_choice("GZip", ("gzip", "none")) == "gzip"
    assert parse_choice("warn", ("info", "warning"), {"warn": "warning"}) == "warning"


def test_text_keeps_what_was_typed() -> None:
    """Any language, up to 1 KiB."""
    assert parse_text("Zürich 7") == "Zürich 7"
    assert parse_path("/etc/ä b") == "/etc/ä b"
    assert parse_token("abc.def") == "abc.def"


def test_pairs_are_percent_decoded_and_the_later_wins() -> None:
    """OTEL_RESOURCE_ATTRIBUTES; a trailing comma and blanks are fine."""
    pairs, skipped = parse_pairs("a=1, b%20c = x%2Cy=z ,a=2,,")
    assert (pairs, skipped) == ({"a": "2", "b c": "x,y=z"}, [])


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("s3cret", "pair 1 has no '='"),
        ("=s3cret", "pair 1 has no usable key"),
        ("%ff=s3cret", "pair 1 has no usable key"),
        ("a%0A=s3cret", "pair 1 has no usable key"),
        ("a=s3cret%", "the value of a is not percent-encoded UTF-8, write % as %25"),
        ("a=s3cret%ff", "the value of a is not percent-encoded UTF-8, write % as %25"),
    ],
)
def test_a_malformed_pair_is_skipped_and_its_value_not_said(text: str, complaint: str) -> None:
    """The good ones beside it are taken."""
    assert parse_pairs(f"{text},b=2") == ({"b": "2"}, [complaint])


@given(st.text())
def test_pairs_take_any_text(text: str) -> None:
    """Whatever is in the variable, it is skipped at worst."""
    pairs, skipped = parse_pairs(text.encode("utf-8", "ignore").decode())
    assert len(pairs) + len(skipped) <= text.count(",") + 1


def test_headers_that_would_break_a_message_are_skipped() -> None:
    """No second header can be smuggled in, and ours cannot be replaced."""
    headers, skipped = usable_headers(
        {"Authorization": "Bearer x", "a b": "1", "Host": "evil", "grpc-x": "1", "x": "1\r\ny: 2"}
    )
    assert headers == (("authorization", "Bearer x"),)
    assert skipped == [
        "a b is not a header name",
        "host is the agent's own to set",
        "grpc-x is the agent's own to set",
        "the value of x has characters a header cannot carry",
    ]


def test_a_blank_variable_is_unset() -> None:
    """CONTRACT: blanks and CR around a value are trimmed."""
    environ = {"A": " \r", "B": " x y\r"}
    assert environ_text(environ, "A") is None
    assert environ_text(environ, "B") == "x y"
    assert environ_text(environ, "C") is None


def test_a_message_names_key_value_source_and_remedy() -> None:
    """STYLE 7."""
    with pytest.raises(ConfigError) as caught:
        in_context(parse_bool, "maybe", key="a.b", source="A_B")
    assert str(caught.value) == "a.b=maybe (A_B): not a boolean; write true or false"


def test_a_message_does_not_repeat_a_secret() -> None:
    """Neither a token nor what a URL carries."""
    with pytest.raises(ConfigError) as caught:
        in_context(parse_token, "s3cret x", key="adapter.token", source="T", secret=True)
    assert str(caught.value).startswith("adapter.token=*** (T): ")
    with pytest.raises(ConfigError) as caught:
        in_context(parse_endpoint, "http://me:p@ss@h?k=s3", key="e", source="E")
    assert str(caught.value).startswith("e=http://***@h?*** (E): ")


def test_bytes_that_are_not_utf_8_are_named() -> None:
    """os.environ hands them over as lone surrogates."""
    with pytest.raises(ConfigError) as caught:
        in_context(parse_text, "a\udcff", key="node.id", source="NODE_ID")
    assert str(caught.value) == "node.id=a\\udcff (NODE_ID): not UTF-8; write it in UTF-8"


def test_a_shown_value_is_one_short_line() -> None:
    """Logs and terminals stay whole."""
    assert one_line("a\n\x1b[31m") == "a\\n\\x1b[31m"
    assert shown("x" * 101) == "x" * 100 + "..."
    assert shown("u:p@h:1") == "***@h:1"
    assert shown("http://user:s3/cr?e#t@p:3128") == "http://***@p:3128"
    assert shown("https://c.example.com:4317/v1") == "https://c.example.com:4317/v1"


def test_nearest_is_none_where_nothing_is_near() -> None:
    """No silly advice."""
    assert nearest("Custmer.id", ["customer.id", "node.id"]) == "customer.id"
    assert nearest("zzz", ["customer.id"]) is None


def _no_file(path: str) -> str:
    raise PermissionError(13, "Permission denied", path)


def _not_text(path: str) -> str:
    return b"\xff".decode()


def test_a_secret_is_in_its_variable_or_in_a_file() -> None:
    """The file's trailing newline is not part of it."""
    assert secret_text({}, "T", _no_file) is None
    assert secret_text({"T": "x "}, "T", _no_file) == ("x", "T")
    assert secret_text({"T_FILE": "/run/t"}, "T", lambda _: "x\n") == ("x", "T_FILE")


@pytest.mark.parametrize(
    ("environ", "read", "message"),
    [
        ({"T": "s3cret", "T_FILE": "/t"}, _no_file, "T_FILE=/t: T is set too; unset one of them"),
        (
            {"T_FILE": "/t"},
            _no_file,
            "T_FILE=/t: cannot be read (Permission denied); name a file this user can read",
        ),
        (
            {"T_FILE": "/t"},
            _not_text,
            "T_FILE=/t: cannot be read (not UTF-8); name a file this user can read",
        ),
        (
            {"T_FILE": "/t"},
            lambda _: " \n",
            "T_FILE=/t: the file is empty; write the secret into it",
        ),
    ],
)
def test_a_secret_that_cannot_be_had_is_an_error(
    environ: dict[str, str], read: Callable[[str], str], message: str
) -> None:
    """Going on without it would be refused later, by a peer, less clearly."""
    with pytest.raises(ConfigError) as caught:
        secret_text(environ, "T", read)
    assert str(caught.value) == message
