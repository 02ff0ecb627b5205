"""OTLP/JSON means what the specification says, and takes what the Collector takes."""

import base64
import json
import math
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from edge_agent.otlp.json import MAX_MEMORY_BYTES, memory_bytes, to_protobuf
from edge_agent.otlp.schema import MESSAGES, ROOTS, Field, Kind
from edge_agent.otlp.signal import Signal
from edge_agent.otlp.walk import MalformedError, TooLargeError
from tests.agent.otlp import oracle
from tests.agent.otlp.oracle import CLASSES

TRACE_ID, SPAN_ID = "5b8efff798038103d269b633813fc60c", "eee19b7ec3c1b174"


def read(signal: Signal, document: object) -> Any:
    """The message that a document is."""
    return oracle.parse(signal, to_protobuf(signal, json.dumps(document).encode()))


def span(**fields: object) -> Any:
    """The Span with these fields in JSON."""
    document = {"resourceSpans": [{"scopeSpans": [{"spans": [fields]}]}]}
    return read(Signal.TRACES, document).resource_spans[0].scope_spans[0].spans[0]


def value(**fields: object) -> Any:
    """The AnyValue with these fields in JSON."""
    return span(attributes=[{"key": "a", "value": fields}]).attributes[0].value


# ---- every field --------------------------------------------------------------------------------

_SCALARS: dict[Kind, st.SearchStrategy[Any]] = {
    Kind.STRING: st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    Kind.BYTES: st.binary(max_size=8),
    Kind.BOOL: st.booleans(),
    Kind.INT32: st.integers(-(2**31), 2**31 - 1),
    Kind.SINT32: st.integers(-(2**31), 2**31 - 1),
    Kind.UINT32: st.integers(0, 2**32 - 1),
    Kind.FIXED32: st.integers(0, 2**32 - 1),
    Kind.INT64: st.integers(-(2**63), 2**63 - 1),
    Kind.SFIXED64: st.integers(-(2**63), 2**63 - 1),
    Kind.UINT64: st.integers(0, 2**64 - 1),
    Kind.FIXED64: st.integers(0, 2**64 - 1),
    # NaN has many bits, and JSON one name for them.
    Kind.DOUBLE: st.floats().map(lambda number: number if number == number else math.nan),
    Kind.ENUM: st.integers(0, 3),
}
_ONEOFS = {"AnyValue": MESSAGES["AnyValue"], "Metric": tuple(MESSAGES["Metric"][3:8])}


def scalar(draw: st.DrawFn, field: Field) -> Any:
    """A value that the field can hold."""
    if field.kind is Kind.ID:
        size = 16 if field.name == "trace_id" else 8
        return draw(st.sampled_from([b"", b"\xab" * size]))
    return draw(_SCALARS[field.kind])


def fill(draw: st.DrawFn, message: Any, name: str, depth: int) -> None:
    """Set some of the fields of a message at random."""
    fields = MESSAGES[name]
    if name in _ONEOFS:
        chosen = draw(st.sampled_from(_ONEOFS[name]))
        fields = tuple(f for f in fields if f not in _ONEOFS[name] or f is chosen)
    for field in fields:
        for _ in range(draw(st.integers(0, 2 if field.repeated else 1))):
            target = getattr(message, field.name)
            if field.kind is not Kind.MESSAGE:
                content = scalar(draw, field)
                if field.repeated:
                    target.append(content)
                else:
                    setattr(message, field.name, content)
            elif depth < 9:
                inner = target.add() if field.repeated else target
                if not field.repeated:
                    inner.SetInParent()
                fill(draw, inner, field.target, depth + 1)


@st.composite
def messages(draw: st.DrawFn) -> tuple[Signal, str, Any]:
    """(signal, a path to it, a message) of any kind: the deep ones are reached by themselves."""
    signal = draw(st.sampled_from(Signal))
    message = CLASSES[signal]()
    fill(draw, message, ROOTS[signal], 0)
    return signal, ROOTS[signal], message


def otlp_json(document: Any, *, upper: bool) -> Any:
    """protobuf's JSON as OTLP has it: ids in hex."""
    if isinstance(document, list):
        return [otlp_json(one, upper=upper) for one in document]
    if not isinstance(document, dict):
        return document
    out = {}
    for key, inner in document.items():
        if key.lower().endswith(("traceid", "spanid", "trace_id", "span_id")):
            digits = base64.b64decode(inner).hex()
            out[key] = digits.upper() if upper else digits
        else:
            out[key] = otlp_json(inner, upper=upper)
    return out


@given(messages(), st.booleans(), st.booleans(), st.booleans())
@settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
def test_json_means_what_protobuf_means(
    built: tuple[Signal, str, Any], upper: bool, numbers: bool, snake: bool
) -> None:
    """Every field of every message, with enums as numbers or names, keys in either case."""
    signal, _, message = built
    document = MessageToDict(
        message,
        use_integers_for_enums=numbers,
        preserving_proto_field_name=snake,
    )
    text = json.dumps(otlp_json(document, upper=upper)).encode()
    parsed = oracle.parse(signal, to_protobuf(signal, text))
    assert oracle.bits(parsed) == oracle.bits(message)


# ---- values, as the oracle's table has them -----------------------------------------------------


@pytest.mark.parametrize(
    ("given_id", "expected"),
    [(TRACE_ID, TRACE_ID), (TRACE_ID.upper(), TRACE_ID), ("", ""), (None, "")],
)
def test_ids_are_hex_in_either_case(given_id: str | None, expected: str) -> None:
    """And may be missing."""
    assert span(traceId=given_id).trace_id.hex() == expected


@pytest.mark.parametrize("bad", ["zz" * 16, TRACE_ID[:30], "W47/95gDgQPSabYzgT/GDA==", 5, " " * 32])
def test_ids_that_are_not_are_malformed(bad: object) -> None:
    """base64 too, which is protobuf's own JSON mapping."""
    with pytest.raises(MalformedError, match=r"spans\.0\.traceId: .* is (not 32 hex|no string)"):
        span(traceId=bad)


def test_span_ids_have_sixteen_digits() -> None:
    """Parents and links too."""
    built = span(spanId=SPAN_ID, parentSpanId=SPAN_ID, links=[{"spanId": SPAN_ID}])
    assert {built.span_id.hex(), built.parent_span_id.hex(), built.links[0].span_id.hex()} == {
        SPAN_ID
    }
    with pytest.raises(MalformedError, match=r"links\.0\.spanId"):
        span(links=[{"spanId": TRACE_ID}])


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("9007199254740993", 9007199254740993),
        (9007199254740993, 9007199254740993),
        ("-1", -1),
        (-(2**63), -(2**63)),
        (2.0, 2),
        (1.7e18, 1_700_000_000_000_000_000),
    ],
)
def test_integers_are_numbers_or_strings(written: object, expected: int) -> None:
    """64 bits of them, exactly; a float where it is an integer."""
    assert value(intValue=written).int_value == expected


@pytest.mark.parametrize("bad", [1.5, "1.5", "abc", "", 2**63, str(2**63), True, [], {}, 1e300])
def test_what_is_no_int64_is_malformed(bad: object) -> None:
    """Never rounded, never clamped."""
    with pytest.raises(MalformedError, match=r"value\.intValue: .* is no int64"):
        value(intValue=bad)


def test_a_time_is_not_negative() -> None:
    """Unsigned fields have their own range."""
    with pytest.raises(MalformedError, match='startTimeUnixNano: "-1" is no fixed64'):
        span(startTimeUnixNano="-1")


@pytest.mark.parametrize(
    ("written", "expected"),
    [("NaN", math.nan), ("Infinity", math.inf), ("-Infinity", -math.inf), ("1.5", 1.5), (3, 3.0)],
)
def test_doubles_may_be_strings(written: object, expected: float) -> None:
    """JSON has no number for these."""
    assert repr(value(doubleValue=written).double_value) == repr(expected)


@pytest.mark.parametrize("bad", ["x", "", "nan", "1e999", "0x10", True, 10**400, []])
def test_what_is_no_double_is_malformed(bad: object) -> None:
    """Python would take some of these."""
    with pytest.raises(MalformedError, match=r"value\.doubleValue: .* is no double"):
        value(doubleValue=bad)


@pytest.mark.parametrize("written", ["/+8=", "/+8", "_-8=", "_-8"])
def test_bytes_are_base64_in_either_alphabet(written: str) -> None:
    """Padded or not."""
    assert value(bytesValue=written).bytes_value == b"\xff\xef"


@pytest.mark.parametrize(
    ("field", "bad"),
    [
        ("bytesValue", "!"),
        ("bytesValue", "a"),
        ("bytesValue", "\u00fc"),
        ("bytesValue", 5),
        ("boolValue", "true"),
        ("boolValue", 1),
        ("stringValue", 5),
        ("arrayValue", []),
        ("arrayValue", {"values": {}}),
        ("arrayValue", {"values": [None]}),
        ("kvlistValue", {"values": ["x"]}),
    ],
)
def test_a_value_of_another_type_is_malformed(field: str, bad: object) -> None:
    """The message says which and what it should be."""
    with pytest.raises(MalformedError, match=f"value.{field}"):
        value(**{field: bad})


@pytest.mark.parametrize(
    ("written", "expected"), [(2, 2), ("SPAN_KIND_SERVER", 2), (99, 99), (None, 0)]
)
def test_enums_are_numbers_and_names_are_taken(written: object, expected: int) -> None:
    """Unknown numbers pass, as everywhere in protobuf."""
    assert span(kind=written).kind == expected


@pytest.mark.parametrize("bad", ["SERVER", "2", 2.5, True, 2**31])
def test_what_is_no_enum_is_malformed(bad: object) -> None:
    """An unknown name says nothing."""
    with pytest.raises(MalformedError, match="kind: "):
        span(kind=bad)


def test_unknown_fields_are_ignored_and_null_is_nothing() -> None:
    """Also where arrays belong."""
    built = span(name="GET", futureField={"a": [1, {"b": None}]}, attributes=None, traceState=None)
    assert built.name == "GET"
    assert len(built.attributes) == 0


def test_two_kinds_of_value_are_as_in_protobuf() -> None:
    """The last one stands."""
    assert value(stringValue="s", intValue=5).WhichOneof("value") == "int_value"


def test_a_lone_surrogate_is_replaced() -> None:
    """UTF-8 cannot carry it; the Collector writes U+FFFD too."""
    assert value(stringValue="a\ud800b").string_value == "a\ufffdb"


# ---- documents ----------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [b"{}", b"null", b" {} \n", b"\xef\xbb\xbf{}", b'{"a": 1}'])
def test_a_document_with_nothing_in_it_is_an_empty_request(text: bytes) -> None:
    """A byte order mark is skipped."""
    assert to_protobuf(Signal.LOGS, text) == b""


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"5",
        b'"x"',
        b"{",
        b"{} x",
        b'{"resourceLogs": [}',
        b"\xff\xfe{\x00}\x00",
        b'{"resourceLogs": NaN}',
        b'{"resourceLogs": -Infinity}',
        b'{"resourceLogs": {}}',
        b'{"resourceLogs": [5]}',
        b'{"resourceLogs": ' + b"9" * 5000 + b"}",
        b'{"resourceLogs": [{"schemaUrl": "\xff"}]}',
        b'{"resourceLogs": [{"schemaUrl": "\n"}]}',
        b"\x0a\x00",
    ],
)
def test_what_is_no_document_is_malformed(text: bytes) -> None:
    """Never another exception, never half a request."""
    with pytest.raises(MalformedError, match="not an ExportLogsServiceRequest: "):
        to_protobuf(Signal.LOGS, text)


@given(
    st.sampled_from(Signal),
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=4),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    [
                        "resourceSpans",
                        "resourceLogs",
                        "resourceMetrics",
                        "resource",
                        "scopeSpans",
                        "spans",
                        "scopeLogs",
                        "logRecords",
                        "scopeMetrics",
                        "metrics",
                        "sum",
                        "dataPoints",
                        "attributes",
                        "key",
                        "value",
                        "arrayValue",
                        "values",
                        "traceId",
                        "kind",
                        "asInt",
                        "asDouble",
                        "x",
                    ]
                ),
                inner,
                max_size=4,
            )
        ),
        max_leaves=12,
    ),
)
@settings(max_examples=200, deadline=None)
@example(Signal.TRACES, {"resourceSpans": [{"resource": {"attributes": [{"value": {"x": 1}}]}}]})
def test_any_document_is_a_request_or_malformed(signal: Signal, document: object) -> None:
    """And what is taken, protobuf takes."""
    try:
        body = to_protobuf(signal, json.dumps(document, allow_nan=False).encode())
    except ValueError:
        return
    oracle.parse(signal, body)


def nested(levels: int) -> bytes:
    """A span attribute of arrays in arrays."""
    inner = '{"arrayValue":{"values":[' * levels + "{}" + "]}}" * levels
    return (
        '{"resourceSpans":[{"scopeSpans":[{"spans":[{"attributes":[{"value":' + inner + "}]}]}]}]}"
    ).encode()


def test_values_nest_as_deep_as_protobuf_reads() -> None:
    """One level more would be refused by every peer."""
    oracle.parse(Signal.TRACES, to_protobuf(Signal.TRACES, nested(47)))
    with pytest.raises(MalformedError, match="nested deeper than 100 messages"):
        to_protobuf(Signal.TRACES, nested(48))


@pytest.mark.parametrize("text", [nested(20_000), b"[" * 100_000, b'{"x":' * 60_000])
def test_a_deep_document_is_refused(text: bytes) -> None:
    """However it is made."""
    with pytest.raises((MalformedError, TooLargeError)):
        to_protobuf(Signal.TRACES, text)


# ---- memory -------------------------------------------------------------------------------------


def many(opening: str, one: str | Callable[[int], str], closing: str, size: int) -> bytes:
    """A document of about `size` bytes."""
    parts, left, number = [], size, 0
    while left > 0:
        part = one if isinstance(one, str) else one(number)
        parts.append(part)
        left -= len(part) + 1
        number += 1
    return (opening + ",".join(parts) + closing).encode()


SIZE = 60_000
ASTRAL = "\U0001f600"
POINTS = '{"resourceMetrics":[{"scopeMetrics":[{"metrics":[{"histogram":{"dataPoints":[{'
POINTS_END = "]}]}}]}]}]}"
BAD_DOCUMENTS = {
    "objects": many('{"x":[', "{}", "]}", SIZE),
    "objects of one": many('{"x":[', '{"a":1}', "]}", SIZE),
    "objects of their own keys": many('{"x":[', lambda n: f'{{"{n:x}":0}}', "]}", SIZE),
    "arrays": many('{"x":[', "[]", "]}", SIZE),
    "arrays of one": many('{"x":[', "[1]", "]}", SIZE),
    "arrays in arrays": many('{"x":[', "[" * 20 + "]" * 20, "]}", SIZE),
    "floats": many('{"x":[', "1.5", "]}", SIZE),
    "integers": many('{"x":[', "123456789", "]}", SIZE),
    "short strings": many('{"x":[', '"ab"', "]}", SIZE),
    "wide strings": many('{"x":[', '"\u4e2d"', "]}", SIZE),
    "keys": many("{", lambda n: f'"{n:x}":1.5', "}", SIZE),
    "wide keys": many("{", lambda n: f'"{ASTRAL}{n:x}":1', "}", SIZE),
    "one wide character": ('{"x":"' + "a" * SIZE + ASTRAL + '"}').encode(),
    "wide text": ('{"x":"' + ASTRAL * (SIZE // 4) + '"}').encode(),
    "one escaped wide character": b'{"x":"' + b"a" * SIZE + b'\\ud83d\\ude00"}',
    "escapes": b'{"x":"' + b"\\n" * (SIZE // 2) + b'"}',
    "counts": many(POINTS + '"bucketCounts":[', "0", POINTS_END, SIZE),
    "bounds": many(POINTS + '"explicitBounds":[', "0.5", POINTS_END, SIZE),
    "points": many(POINTS + "},", "{}", "]}}]}]}]}", SIZE),
    "attributes": many(
        '{"resourceMetrics":[{"resource":{"attributes":[', '{"value":{"intValue":1}}', "]}}]}", SIZE
    ),
    "keys of entities": many(
        '{"resourceMetrics":[{"resource":{"entityRefs":[{"idKeys":[', '"ab"', "]}]}}]}", SIZE
    ),
    "spans": many(
        '{"resourceSpans":[{"scopeSpans":[{"spans":[',
        '{"traceId":"' + TRACE_ID + '","attributes":[{"key":"http.method","value":'
        '{"stringValue":"GET"}},{"key":"code","value":{"intValue":"200"}}]}',
        "]}]}]}",
        SIZE,
    ),
}


@pytest.mark.parametrize("name", BAD_DOCUMENTS)
def test_reading_takes_no_more_memory_than_was_estimated(name: str) -> None:
    """Whatever a document is made of: the estimate decides what is read at all."""
    text = BAD_DOCUMENTS[name]
    signal = Signal.TRACES if name == "spans" else Signal.METRICS
    to_protobuf(signal, text)
    tracemalloc.start()
    try:
        to_protobuf(signal, text)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # What Python itself needs for a moment, whatever the document, is in the last term.
    assert peak <= memory_bytes(text) + 32_768


@pytest.mark.parametrize("name", ["objects", "arrays", "short strings", "one wide character"])
def test_a_document_that_would_take_too_much_is_not_read(name: str) -> None:
    """Refused by its bytes alone."""
    text = BAD_DOCUMENTS[name]
    needed = memory_bytes(text)
    with pytest.raises(TooLargeError, match=f"could take {needed} in memory, over {needed - 1}"):
        to_protobuf(Signal.METRICS, text, max_memory_bytes=needed - 1)


def test_what_exporters_send_is_read() -> None:
    """A megabyte of spans at once, twice what SDKs send by default."""
    one = BAD_DOCUMENTS["spans"]
    assert memory_bytes(one) * (1_000_000 / len(one)) < MAX_MEMORY_BYTES
