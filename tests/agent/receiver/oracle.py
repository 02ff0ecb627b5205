"""Odd inputs, what the OpenTelemetry Collector answers to each, and what we answer.

The Collector's column was measured with core 0.165.0, and is checked against the real one by
tests/peers/test_oracle.py wherever a row says nothing else under `not_rerun`.

An answer is written as `status kind [code] [+items]`: the kind of the body is `pb`, `json`, `text`
or `none`, the code that of the google.rpc.Status in it, `+items` the spans that went on. For raw
bytes it is the statuses in order, whether the connection lives on, and the items; for gRPC the
code and the items. The body of a success is left out: ours is the empty message (`{}` in JSON),
the Collector writes an empty partial_success, which means the same.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from tests.agent.receiver import requests as r
from tests.agent.receiver.servers import post

TRACES = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
METRICS = "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export"
LOGS = "/opentelemetry.proto.collector.logs.v1.LogsService/Export"
PROFILES = "/opentelemetry.proto.collector.profiles.v1development.ProfilesService/Export"
JSON = "application/json"
MIB = 1 << 20

# Why we differ.
SPECIFIED = "OTLP/HTTP, Failures: the body of every 4xx and 5xx is a Status"
SENDERS_FAULT = "CONTRACT: undecodable is INVALID_ARGUMENT; INTERNAL would be our fault"
STRUCTURE = "validate: structure reads no further than the span; `full` names it, see that column"
FULL = "validate: full promises that nothing invalid goes on"
SIZE = "CONTRACT: too large is 413; one limit of 4 MiB for both protocols bounds the memory"
GROWS = "with our attributes this one span is over 4 MiB, which no peer takes: said now, not lost"


@dataclass(frozen=True, slots=True)
class Http:
    """One request, one answer."""

    data: Callable[[], bytes]
    head_only: bool = False


@dataclass(frozen=True, slots=True)
class Raw:
    """Bytes, after which the client goes on (with a GET that is not there) or closes its side."""

    data: Callable[[], bytes]
    half_close: bool = False
    to_grpc: bool = False


@dataclass(frozen=True, slots=True)
class Grpc:
    """One call; `coding` is what the message is packed in."""

    body: Callable[[], bytes]
    method: str = TRACES
    coding: str | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """One input. Where `ours` differs from `collector`, `why` says so; `full` is our answer with
    validate: full where that differs from `ours`."""

    name: str
    send: Http | Raw | Grpc
    collector: str
    ours: str = ""
    why: str = ""
    full: str = ""
    not_rerun: str = ""
    queues_full: bool = field(default=False)

    @property
    def expected(self) -> str:
        """What we answer."""
        return self.ours or self.collector

    @property
    def expected_full(self) -> str:
        """What we answer with validate: full."""
        return self.full or self.expected


def pb(body: bytes | Callable[[], bytes], coding: str | None = None) -> Http:
    """A protobuf request over HTTP."""
    return Http(lambda: post(body() if callable(body) else body, coding=coding))


def js(body: bytes | Callable[[], bytes]) -> Http:
    """A JSON request over HTTP."""
    return Http(lambda: post(body() if callable(body) else body, kind=JSON))


def kind(content_type: str | None, body: bytes = r.ONE) -> Http:
    """A request of another Content-Type."""
    return Http(lambda: post(body, kind=content_type))


def path(target: str) -> Http:
    """A request to another path."""
    return Http(lambda: post(r.ONE, target))


def method(name: str, body: bytes = b"") -> Http:
    """A request of another method."""
    return Http(lambda: post(body, method=name), head_only=name == "HEAD")


def head(*lines: bytes) -> bytes:
    """The head of a request up to its framing."""
    fixed = (b"POST /v1/traces HTTP/1.1", b"Host: x", b"Content-Type: application/x-protobuf")
    return b"\r\n".join((*fixed, *lines, b"", b""))


CHUNKED = b"%x\r\n%b\r\n0\r\n\r\n" % (len(r.ONE), r.ONE)

GRPC_ROWS = (
    Row("gRPC valid", Grpc(lambda: r.ONE), "OK +1"),
    Row("gRPC empty request", Grpc(bytes), "OK"),
    Row("gRPC gzip", Grpc(lambda: r.ONE, coding="gzip"), "OK +1"),
    Row("gRPC deflate", Grpc(lambda: r.ONE, coding="deflate"), "UNIMPLEMENTED"),
    Row(
        "gRPC exactly 4 MiB",
        Grpc(lambda: r.padded(4 * MIB)),
        "OK +1",
        ours="RESOURCE_EXHAUSTED",
        why=GROWS,
    ),
    Row("gRPC 4 MiB + 1 byte", Grpc(lambda: r.padded(4 * MIB + 1)), "RESOURCE_EXHAUSTED"),
    Row("gRPC 10 MiB", Grpc(lambda: r.padded(10 * MIB)), "RESOURCE_EXHAUSTED"),
    Row(
        "gRPC gzip bomb of 4.1 MB",
        Grpc(lambda: r.padded(4_300_000), coding="gzip"),
        "RESOURCE_EXHAUSTED",
    ),
    Row(
        "gRPC gzip bomb of 200 MiB",
        Grpc(lambda: bytes(200 * MIB), coding="gzip"),
        "RESOURCE_EXHAUSTED",
    ),
    Row(
        "gRPC random bytes",
        Grpc(lambda: b"\xff\x01\x02garbage"),
        "INTERNAL",
        ours="INVALID_ARGUMENT",
        why=SENDERS_FAULT,
    ),
    Row(
        "gRPC truncated protobuf",
        Grpc(lambda: r.TRUNCATED),
        "INTERNAL",
        ours="INVALID_ARGUMENT",
        why=SENDERS_FAULT,
    ),
    Row(
        "gRPC wrong wire type for field 1",
        Grpc(r.wrong_wire_type),
        "INTERNAL",
        ours="INVALID_ARGUMENT",
        why=SENDERS_FAULT,
    ),
    Row("gRPC unknown fields", Grpc(r.with_unknown_fields), "OK +1"),
    Row(
        "gRPC unknown method",
        Grpc(bytes, method="/opentelemetry.proto.collector.trace.v1.TraceService/Foo"),
        "UNIMPLEMENTED",
    ),
    Row("gRPC unknown service", Grpc(bytes, method="/a.b.C/D"), "UNIMPLEMENTED"),
    Row(
        "gRPC trace id of 15 bytes",
        Grpc(lambda: r.spans(r.span(trace_id=b"\1" * 15))),
        "INTERNAL",
        ours="OK +1",
        why=STRUCTURE,
        full="INVALID_ARGUMENT",
    ),
    Row("gRPC trace id empty", Grpc(lambda: r.spans(r.span(trace_id=b""))), "OK +1"),
    Row("gRPC trace id all zero", Grpc(lambda: r.spans(r.span(trace_id=bytes(16)))), "OK +1"),
    Row(
        "gRPC span id of 7 bytes",
        Grpc(lambda: r.spans(r.span(span_id=b"\2" * 7))),
        "INTERNAL",
        ours="OK +1",
        why=STRUCTURE,
        full="INVALID_ARGUMENT",
    ),
    Row(
        "gRPC invalid UTF-8 in a name",
        Grpc(lambda: r.spans(r.span(name=b"\xff\xfe"))),
        "OK +1",
        full="INVALID_ARGUMENT",
        why=FULL,
    ),
    *(
        Row(
            f"gRPC AnyValue nested {depth}",
            Grpc(lambda depth=depth: r.nested(depth)),
            "INTERNAL",
            ours="OK +1",
            why=STRUCTURE,
            full="INVALID_ARGUMENT",
        )
        for depth in (50, 1000, 20_000)
    ),
    Row("gRPC logs, empty", Grpc(bytes, method=LOGS), "OK"),
    Row("gRPC metrics, empty", Grpc(bytes, method=METRICS), "OK"),
    Row("gRPC profiles, empty", Grpc(bytes, method=PROFILES), "UNIMPLEMENTED"),
    Row(
        "HTTP/1.1 POST to the gRPC port",
        Raw(lambda: post(b"{}", kind=JSON), to_grpc=True),
        "closed",
        "400 closed",
        why="a line of text says which port is the right one",
    ),
    Row(
        "gRPC overload",
        Grpc(lambda: r.ONE),
        "UNAVAILABLE",
        not_rerun="needs a memory_limiter that refuses everything",
        queues_full=True,
    ),
)

BODY_ROWS = (
    Row("valid protobuf", pb(r.ONE), "200 pb +1"),
    Row("empty body, protobuf", pb(b""), "200 pb"),
    Row("empty body, JSON", js(b""), "400 json INVALID_ARGUMENT"),
    Row("JSON {}", js(b"{}"), "200 json"),
    Row("JSON []", js(b"[]"), "400 json INVALID_ARGUMENT"),
    Row("JSON null", js(b"null"), "200 json"),
    Row("no Content-Type", kind(None), "415 text"),
    Row("text/plain", kind("text/plain"), "415 text"),
    Row("a form", kind("application/x-www-form-urlencoded"), "415 text"),
    Row("application/protobuf", kind("application/protobuf"), "415 text"),
    Row("a charset", kind("application/json; charset=utf-8", r.span_json()), "200 json +1"),
    Row("Application/JSON", kind("Application/JSON", r.span_json()), "200 json +1"),
    Row("application/grpc", kind("application/grpc"), "415 text"),
    Row(
        "protobuf sent as JSON",
        js(r.ONE),
        "500 json INTERNAL",
        ours="400 json INVALID_ARGUMENT",
        why=SENDERS_FAULT,
    ),
    Row("JSON sent as protobuf", pb(r.span_json()), "400 pb INVALID_ARGUMENT"),
    *(
        Row(f"path {target}", path(target), "404 text", ours="404 pb NOT_FOUND", why=SPECIFIED)
        for target in ("/", "/v1/foo", "/v1/traces/", "/V1/TRACES", "/v1development/profiles")
    ),
    Row("path /v1/traces?x=1", path("/v1/traces?x=1"), "200 pb +1"),
    Row(
        "path //v1/traces",
        path("//v1/traces"),
        "307 none",
        ours="404 pb NOT_FOUND",
        why="no client of OTLP follows a redirect with its body; the path is wrong",
    ),
    *(
        Row(
            f"method {name}",
            method(name, r.ONE if name == "PUT" else b""),
            "405 text",
            ours="405 pb UNIMPLEMENTED",
            why=SPECIFIED,
        )
        for name in ("GET", "PUT", "OPTIONS", "DELETE")
    ),
    Row("method HEAD", method("HEAD"), "405 text", ours="405 pb", why=SPECIFIED),
    Row("random bytes", pb(b"\xff\x01\x02garbage"), "400 pb INVALID_ARGUMENT"),
    Row("truncated protobuf", pb(r.TRUNCATED), "400 pb INVALID_ARGUMENT"),
    Row("unknown fields", pb(r.with_unknown_fields), "200 pb +1"),
    Row(
        "trace id of 15 bytes",
        pb(lambda: r.spans(r.span(trace_id=b"\1" * 15))),
        "400 pb INVALID_ARGUMENT",
        ours="200 pb +1",
        why=STRUCTURE,
        full="400 pb INVALID_ARGUMENT",
    ),
    Row(
        "invalid UTF-8 in a name",
        pb(lambda: r.spans(r.span(name=b"\xff\xfe"))),
        "200 pb +1",
        full="400 pb INVALID_ARGUMENT",
        why=FULL,
    ),
    Row(
        "AnyValue nested 20000",
        pb(lambda: r.nested(20_000)),
        "400 pb INVALID_ARGUMENT",
        ours="200 pb +1",
        why=STRUCTURE,
        full="400 pb INVALID_ARGUMENT",
    ),
    Row(
        "overload",
        pb(r.ONE),
        "503 pb UNAVAILABLE",
        not_rerun="needs a memory_limiter that refuses everything",
        queues_full=True,
    ),
    Row(
        "overload, JSON",
        js(r.span_json()),
        "503 json UNAVAILABLE",
        not_rerun="needs a memory_limiter that refuses everything",
        queues_full=True,
    ),
)

CODING_ROWS = (
    Row("gzip", pb(r.zipped(r.ONE), "gzip"), "200 pb +1"),
    Row("gzip, corrupt", pb(r.zipped(r.ONE)[:-9], "gzip"), "400 pb INVALID_ARGUMENT"),
    Row("gzip header on a plain body", pb(r.ONE, "gzip"), "400 pb INVALID_ARGUMENT"),
    Row("gzip, two members", pb(r.zipped(r.ONE) * 2, "gzip"), "200 pb +2"),
    Row("gzip body without header", pb(r.zipped(r.ONE)), "400 pb INVALID_ARGUMENT"),
    Row(
        "deflate",
        pb(r.deflated(r.ONE), "deflate"),
        "200 pb +1",
        ours="400 pb INVALID_ARGUMENT",
        why="OTLP names gzip alone, and no SDK sends it; the answer says what is taken",
    ),
    Row("Content-Encoding: identity", pb(r.ONE, "identity"), "200 pb +1"),
    Row("Content-Encoding: br", pb(r.ONE, "br"), "400 pb INVALID_ARGUMENT"),
    Row("Content-Encoding: foo", pb(r.ONE, "foo"), "400 pb INVALID_ARGUMENT"),
    Row(
        "Content-Encoding: gzip, gzip",
        pb(r.zipped(r.zipped(r.ONE)), "gzip, gzip"),
        "400 pb INVALID_ARGUMENT",
    ),
    Row(
        "body of 19 MiB",
        pb(lambda: r.padded(19 * MIB)),
        "200 pb +1",
        ours="413 pb RESOURCE_EXHAUSTED",
        why=SIZE,
    ),
    Row(
        "body of 21 MiB",
        pb(lambda: r.padded(21 * MIB)),
        "400 pb INVALID_ARGUMENT",
        ours="413 pb RESOURCE_EXHAUSTED",
        why=SIZE,
    ),
    Row(
        "body of 70 MiB",
        Http(lambda: head(b"Content-Length: %d" % (70 * MIB)) + bytes(MIB)),
        "closed",
        ours="413 pb RESOURCE_EXHAUSTED",
        why=SIZE,
        not_rerun="its client saw a broken pipe while it sent, or did not: a race",
    ),
    Row(
        "gzip bomb of 21 MiB",
        pb(lambda: r.bomb(21 * MIB), "gzip"),
        "400 pb INVALID_ARGUMENT",
        ours="413 pb RESOURCE_EXHAUSTED",
        why=SIZE,
    ),
    Row(
        "gzip bomb of 500 MiB",
        pb(lambda: r.bomb(500 * MIB), "gzip"),
        "400 pb INVALID_ARGUMENT",
        ours="413 pb RESOURCE_EXHAUSTED",
        why=SIZE,
    ),
)

REFUSED_JSON = "400 json INVALID_ARGUMENT"
TAKEN_JSON = "200 json +1"
JSON_ROWS = (
    Row("JSON int64 as strings", js(r.span_json()), TAKEN_JSON),
    Row(
        "JSON int64 as numbers",
        js(r.span_json(startTimeUnixNano=1700000000000000001, endTimeUnixNano=1700000000000000002)),
        TAKEN_JSON,
    ),
    Row("JSON intValue string", js(r.value_json(intValue="9007199254740993")), TAKEN_JSON),
    Row("JSON intValue number", js(r.value_json(intValue=9007199254740993)), TAKEN_JSON),
    Row("JSON intValue 1.5", js(r.value_json(intValue=1.5)), REFUSED_JSON),
    Row('JSON intValue "abc"', js(r.value_json(intValue="abc")), REFUSED_JSON),
    Row("JSON intValue 2^63", js(r.value_json(intValue="9223372036854775808")), REFUSED_JSON),
    Row(
        "JSON time 1.7e18",
        js(lambda: r.span_json().replace(b'"1700000000000000001"', b"1.7e18")),
        REFUSED_JSON,
        ours=TAKEN_JSON,
        why="protobuf's JSON mapping takes integers written as floats",
    ),
    Row("JSON time negative", js(r.span_json(startTimeUnixNano="-1")), REFUSED_JSON),
    Row(
        "JSON traceId in upper case", js(r.span_json(traceId=r.TRACE_ID.hex().upper())), TAKEN_JSON
    ),
    Row("JSON traceId base64", js(r.span_json(traceId="W47/95gDgQPSabYzgT/GDA==")), REFUSED_JSON),
    Row("JSON traceId of 30 digits", js(r.span_json(traceId=r.TRACE_ID.hex()[:30])), REFUSED_JSON),
    Row("JSON traceId empty", js(r.span_json(traceId="")), TAKEN_JSON),
    Row("JSON traceId not hex", js(r.span_json(traceId="z" * 32)), REFUSED_JSON),
    Row("JSON unknown fields", js(r.span_json(foo={"bar": [1, {"x": None}]})), TAKEN_JSON),
    Row("JSON snake_case keys", js(r.snake_case_json), TAKEN_JSON),
    Row("JSON enum by name", js(r.span_json(kind="SPAN_KIND_SERVER")), TAKEN_JSON),
    Row("JSON enum of an unknown name", js(r.span_json(kind="FOO")), REFUSED_JSON),
    Row("JSON enum 99", js(r.span_json(kind=99)), TAKEN_JSON),
    Row("JSON null field", js(r.span_json(name=None)), TAKEN_JSON),
    Row("JSON attributes null", js(r.span_json(attributes=None)), TAKEN_JSON),
    Row("JSON bytesValue", js(r.value_json(bytesValue="AQID")), TAKEN_JSON),
    Row("JSON bytesValue, bad base64", js(r.value_json(bytesValue="*")), REFUSED_JSON),
    Row('JSON doubleValue "NaN"', js(r.value_json(doubleValue="NaN")), TAKEN_JSON),
    Row('JSON doubleValue "1.5"', js(r.value_json(doubleValue="1.5")), TAKEN_JSON),
    Row('JSON boolValue "true"', js(r.value_json(boolValue="true")), REFUSED_JSON),
    Row("JSON two kinds of value", js(r.value_json(intValue="1", stringValue="s")), TAKEN_JSON),
    Row(
        "JSON duplicate key",
        js(lambda: r.span_json().replace(b'"name": "n"', b'"name": "n", "name": "m"')),
        TAKEN_JSON,
    ),
    Row(
        "JSON trailing garbage",
        js(lambda: r.span_json() + b"garbage"),
        TAKEN_JSON,
        ours=REFUSED_JSON,
        why="it is no JSON (RFC 8259, 2), and what was meant by the rest nobody knows",
    ),
    Row(
        "JSON with a byte order mark",
        js(lambda: b"\xef\xbb\xbf" + r.span_json()),
        "500 json INTERNAL",
        ours=TAKEN_JSON,
        why="RFC 8259, 8.1: a parser may ignore it; the Collector fails on it",
    ),
    Row("JSON truncated", js(lambda: r.span_json()[:-5]), REFUSED_JSON),
    Row(
        "JSON of bad UTF-8",
        js(lambda: r.span_json().replace(b'"n"', b'"\xff"')),
        TAKEN_JSON,
        ours=REFUSED_JSON,
        why="it is no JSON (RFC 8259, 8.1), and would poison the batch for a strict peer",
    ),
    Row(
        "JSON with a lone surrogate",
        js(lambda: r.span_json().replace(b'"n"', b'"\\ud800"')),
        TAKEN_JSON,
    ),
    Row(
        "JSON AnyValue nested 50",
        js(lambda: r.nested_json(50)),
        TAKEN_JSON,
        ours=REFUSED_JSON,
        why="no protobuf decoder reads what it becomes: the Collector's own peers refuse it",
    ),
    Row(
        "JSON AnyValue nested 20000",
        js(lambda: r.nested_json(20_000)),
        TAKEN_JSON,
        ours=REFUSED_JSON,
        why="no protobuf decoder reads what it becomes: the Collector's own peers refuse it",
    ),
)

FRAMING_ROWS = (
    Row("pipelining", Raw(lambda: post(r.ONE) * 3), "200 200 200 open +3"),
    Row(
        "pipelining, a bad one in the middle",
        Raw(lambda: post(r.ONE) + post(b"\xff\xff\xff") + post(r.ONE)),
        "200 400 200 open +2",
    ),
    Row(
        "pipelining, a 415 in the middle",
        Raw(lambda: post(r.ONE) + post(r.ONE, kind="application/x-other") + post(r.ONE)),
        "200 415 200 open +2",
    ),
    Row("chunked", Raw(lambda: head(b"Transfer-Encoding: chunked") + CHUNKED), "200 open +1"),
    Row(
        "chunked and Content-Length",
        Raw(lambda: head(b"Content-Length: 4", b"Transfer-Encoding: chunked") + CHUNKED),
        "200 open +1",
        ours="400 closed",
        why="RFC 9112, 6.3: a request smuggled past whoever believes the length",
    ),
    Row(
        "bad chunk size",
        Raw(lambda: head(b"Transfer-Encoding: chunked") + b"zz\r\nabc\r\n"),
        "400 closed",
    ),
    Row(
        "two different Content-Lengths",
        Raw(lambda: head(b"Content-Length: 3", b"Content-Length: %d" % len(r.ONE)) + r.ONE),
        "400 closed",
    ),
    Row("negative Content-Length", Raw(lambda: head(b"Content-Length: -1")), "400 closed"),
    Row(
        "body shorter than its Content-Length, then closed",
        Raw(lambda: post(r.ONE)[:-9], half_close=True),
        "400 closed",
    ),
    Row(
        "HTTP/1.0",
        Raw(lambda: post(r.ONE).replace(b"HTTP/1.1", b"HTTP/1.0")),
        "200 closed +1",
    ),
    Row("no Host", Raw(lambda: post(r.ONE).replace(b"Host: x\r\n", b"")), "400 closed"),
    Row(
        "Expect: 100-continue",
        Raw(lambda: post(r.ONE, extra="Expect: 100-continue\r\n")),
        "100 200 open +1",
        ours="200 open +1",
        why="RFC 9110, 10.1.1: nothing to ask for, the body is there already",
    ),
    Row(
        "Connection: close",
        Raw(lambda: post(r.ONE, extra="Connection: close\r\n")),
        "200 closed +1",
    ),
    Row(
        "header of 2 MiB",
        Raw(lambda: post(r.ONE, extra=f"X-A: {'a' * (2 * MIB)}\r\n")),
        "431 closed",
    ),
    Row(
        "TLS hello",
        Raw(lambda: b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03TLS hello?\r\n\r\n"),
        "400 closed",
    ),
    Row(
        "HTTP/2 preface",
        Raw(lambda: b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0"),
        "400 closed",
    ),
)

HTTP_ROWS = (*BODY_ROWS, *CODING_ROWS, *JSON_ROWS, *FRAMING_ROWS)
ROWS = (*GRPC_ROWS, *HTTP_ROWS)
