"""Enriching, counting and splitting bytes mean what the same means for objects."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from edge_agent.otlp import batch, wire
from edge_agent.otlp.batch import (
    Enricher,
    MalformedError,
    TooLargeError,
    count,
    service_names,
    split,
)
from edge_agent.otlp.resource import key_value
from edge_agent.otlp.signal import Signal
from edge_agent.otlp.walk import MAX_FIELDS
from tests.agent.otlp import checks, oracle
from tests.agent.otlp.encodings import damaged, requests
from tests.agent.otlp.oracle import IDENTITY, OWN_ID

RELAXED = settings(
    max_examples=120,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def enricher() -> Enricher:
    """One that has seen nothing."""
    return Enricher(IDENTITY, own_instance_id=OWN_ID)


def admit(signal: Signal, body: bytes) -> batch.Admitted:
    """By a fresh enricher."""
    return enricher().admit(signal, body)


def resource(*pairs: tuple[str, str | int]) -> bytes:
    """A Resource field."""
    return wire.bytes_field(
        1, b"".join(wire.bytes_field(1, key_value(key, value)) for key, value in pairs)
    )


def spans(n: int) -> bytes:
    """A ScopeSpans field with `n` empty spans."""
    return wire.bytes_field(2, b"\x12\x00" * n)


def group(levels: int) -> bytes:
    """Groups of field 99, nested."""
    return b"\x9b\x06" * levels + b"\x9c\x06" * levels


# ---- enrichment ---------------------------------------------------------------------------------


def check_enriched(signal: Signal, body: bytes, enrich: Enricher) -> None:
    """The rule of this module against the rule on objects."""
    before = oracle.parse(signal, body)
    looped = [r for r in oracle.resources(signal, before) if oracle.looped(r)]
    admitted = enrich.admit(signal, body)
    after = oracle.parse(signal, admitted.body)
    assert oracle.bits(after) == oracle.bits(oracle.enriched(signal, before))
    assert admitted.items == oracle.count(signal, after) == count(signal, admitted.body)
    assert admitted.looped_items == sum(oracle.resource_items(signal, r) for r in looped)
    assert (admitted.looped_bytes > 0) == bool(looped)
    assert (admitted.sampled_out_items, admitted.sampled_out_bytes) == (0, 0)
    check_first_resource(admitted.body)


def check_first_resource(body: bytes) -> None:
    """Each ResourceX begins with its one Resource."""
    for field, _, value in known_fields(body):
        if field == 1:
            inner = [f for f, _, _ in known_fields(value)]
            assert inner[0] == 1
            assert inner.count(1) == 1


def known_fields(message: bytes) -> list[tuple[int, int, bytes]]:
    """(field number, wire type, content) of all length-delimited fields below number 16."""
    walk = batch.Walk(message)
    return [
        (key >> 3, key & 7, message[start:after])
        for key, _, start, after in walk.fields(0, len(message), 0, frozenset())
        if key < 128 and key & 7 == 2
    ]


@given(requests())
@RELAXED
def test_enriched_bytes_mean_what_enriched_objects_mean(request_: tuple[Signal, bytes]) -> None:
    """Whatever the encoding: order, fragments, unknown fields, long varints, repetitions."""
    check_enriched(*request_, enricher())


@given(st.lists(requests(), max_size=6))
@settings(RELAXED, max_examples=40)
def test_what_was_seen_before_changes_nothing(many: list[tuple[Signal, bytes]]) -> None:
    """The memory for Resources gives what reading them gives."""
    shared = enricher()
    for signal, body in many * 2:
        check_enriched(signal, body, shared)


@given(requests(odd=False))
@RELAXED
def test_what_encoders_write_takes_the_short_cut(request_: tuple[Signal, bytes]) -> None:
    """Unless a ResourceX has no Resource, not one step is walked through its items."""
    signal, body = request_
    parsed = oracle.parse(signal, body)
    if not all(r.HasField("resource") for r in oracle.resources(signal, parsed)):
        return
    original = batch.Walk
    try:
        batch.Walk = Walkless  # type: ignore[misc]  # a stand-in for the length of this test
        admitted = enricher().admit(signal, body)
    finally:
        batch.Walk = original  # type: ignore[misc]  # and back
    assert oracle.bits(oracle.parse(signal, admitted.body)) == oracle.bits(
        oracle.enriched(signal, parsed)
    )


class Walkless(batch.Walk):
    """Reads Resources alone."""

    def items(self, signal: Signal, at: int, end: int, depth: int) -> int:
        raise AssertionError("walked through items")


def test_identity_is_ours_and_the_rest_is_theirs() -> None:
    """CONTRACT: identity keys are replaced, an unset one is removed, all others yield, and nothing
    is said for a service."""
    theirs = resource(
        ("customer.id", "mallory"), ("customer.name", "M"), ("host.name", "web-7"), ("k", "v")
    )
    admitted = admit(Signal.TRACES, wire.bytes_field(1, theirs + spans(1)))
    after = oracle.parse(Signal.TRACES, admitted.body)
    assert [(a.key, a.value.string_value) for a in after.resource_spans[0].resource.attributes] == [
        ("host.name", "web-7"),
        ("k", "v"),
        ("customer.id", "acme"),
        ("node.id", "edge-01"),
        ("collector.name", "otel-agent"),
        ("collector.instance.id", OWN_ID),
        ("os.type", "linux"),
    ]


def test_our_own_resource_is_a_loop_and_goes_alone() -> None:
    """The others in the request pass, and what went is counted in items and bytes."""
    ours = wire.bytes_field(1, resource(("collector.instance.id", OWN_ID)) + spans(3))
    theirs = wire.bytes_field(1, resource(("collector.instance.id", "another")) + spans(2))
    admitted = admit(Signal.TRACES, ours + theirs + ours)
    assert (admitted.items, admitted.looped_items) == (2, 6)
    assert admitted.looped_bytes == 2 * len(ours)


@pytest.mark.parametrize("signal", Signal)
def test_nothing_is_a_request_with_nothing_in_it(signal: Signal) -> None:
    """Zero bytes are protobuf for an empty message."""
    assert admit(signal, b"") == batch.Admitted(b"", 0)
    assert (count(signal, b""), service_names(signal, b"")) == (0, [])


def test_a_resource_that_nobody_gave_is_added() -> None:
    """Without a Resource, and with an empty ResourceX."""
    admitted = admit(Signal.LOGS, b"\x0a\x00" + wire.bytes_field(1, spans(1)))
    after = oracle.parse(Signal.LOGS, admitted.body)
    assert [r.resource.attributes[0].key for r in after.resource_logs] == ["customer.id"] * 2


# ---- the memory for Resources -------------------------------------------------------------------


def reads(enrich: Enricher, monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The Resources that were read, not remembered."""
    seen: list[bytes] = []
    original = enrich._read

    def read(encoded: bytes, left: int) -> Any:
        seen.append(encoded)
        return original(encoded, left)

    monkeypatch.setattr(enrich, "_read", read)
    return seen


def test_a_known_resource_outlives_a_flood_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sender that never repeats a Resource costs itself, not its neighbours."""
    enrich = enricher()
    known = wire.bytes_field(1, resource(("k", "known")) + spans(1))
    seen = reads(enrich, monkeypatch)
    for n in range(2000):
        enrich.admit(Signal.TRACES, known)
        enrich.admit(Signal.TRACES, wire.bytes_field(1, resource(("k", f"{n}")) + spans(1)))
    assert sum(b"known" in encoded for encoded in seen) == 1
    assert len(enrich._young) + len(enrich._old) <= 2 * batch._MAX_CACHE_ENTRIES


def test_what_is_remembered_is_bounded_in_bytes() -> None:
    """Large Resources fill the memory with fewer of them, and very large ones not at all."""
    enrich = enricher()
    for n in range(400):
        value = f"{n:04}" + "v" * 3900
        enrich.admit(Signal.TRACES, wire.bytes_field(1, resource(("k", value)) + spans(1)))
    for generation in (enrich._young, enrich._old):
        held = sum(len(key) + len(value.field) for key, value in generation.items())
        assert 0 < held <= batch._MAX_CACHE_BYTES
    before = dict(enrich._young)
    huge = resource(("k", "v" * 5000))
    assert enrich.admit(Signal.TRACES, wire.bytes_field(1, huge + spans(1))).items == 1
    assert enrich._young == before


def test_steps_are_bounded_too() -> None:
    """The table of field sizes starts again before it grows large."""
    sizes = range(5000)
    body = wire.bytes_field(
        1, resource() + wire.bytes_field(2, b"".join(wire.bytes_field(2, bytes(n)) for n in sizes))
    )
    assert admit(Signal.TRACES, body).items == len(sizes)
    assert len(batch.resource_x.__globals__["_ITEM_STEPS"]) <= 2048


# ---- what is no request -------------------------------------------------------------------------


@given(damaged())
@settings(RELAXED, max_examples=300)
@example((Signal.TRACES, b"\x0a"))
@example((Signal.LOGS, b"\x73\x00\x00\x74"))
@example((Signal.TRACES, b"\x0a\x07\x0a\x02\x22\x01\x0a\x01\x78"))
@example((Signal.TRACES, b"\x0a\x02\x0a\x00\x0a\x00"))
@example((Signal.TRACES, b"\x0a\x00\x0a\x00"))
@example((Signal.METRICS, b"\x0a\x08\x0a\x00\x12\x04\x12\x02\x2a\x00"))
def test_damage_is_malformed_exactly_where_protobuf_finds_it(
    request_: tuple[Signal, bytes],
) -> None:
    """Bytes changed and cut in valid requests: accepted if and only if the framing is whole."""
    checks.structure(*request_)


@given(st.sampled_from(Signal), st.binary(max_size=60))
@RELAXED
def test_garbage_is_malformed_exactly_where_protobuf_finds_it(signal: Signal, body: bytes) -> None:
    """Random bytes."""
    checks.structure(signal, body)


@pytest.mark.parametrize(
    ("signal", "body", "message"),
    [
        (Signal.TRACES, b"\x08\x01", "field 1 at byte 0 has wire type 0"),
        (Signal.TRACES, b"\x0a\x02\x08\x01", "field 1 at byte 2 has wire type 0"),
        (Signal.TRACES, b"\x0a\x02\x10\x01", "field 2 at byte 2 has wire type 0"),
        (Signal.LOGS, b"\x0a\x04\x12\x02\x10\x01", "field 2 at byte 4 has wire type 0"),
        (Signal.LOGS, b"\x0a\x04\x0a\x02\x08\x01", "field 1 at byte 0 has wire type 0"),
        (Signal.METRICS, b"\x0a\x06\x12\x04\x12\x02\x28\x01", "field 5 at byte 6 has wire type 0"),
        (
            Signal.METRICS,
            b"\x0a\x08\x12\x06\x12\x04\x2a\x02\x08\x01",
            "field 1 at byte 8 has wire type 0",
        ),
        (Signal.TRACES, b"\x0a\x05", "field 1 at byte 0 is 5 bytes short"),
        (Signal.TRACES, b"\x0a", "cut short"),
        (Signal.TRACES, b"\x02\x00", "a field number out of range at byte 0"),
        (Signal.TRACES, b"\x0e", "wire type 6 at byte 0"),
        (Signal.TRACES, b"\x0c", "wire type 4 at byte 0"),
        (Signal.TRACES, b"\x9b\x06\xa4\x06", "a group ends at byte 2 that was not begun"),
        (Signal.TRACES, b"\x9b\x06", "cut short"),
        (Signal.TRACES, b"\x98\x06" + b"\xff" * 10 + b"\x01", "a varint longer than 10 bytes"),
        (Signal.TRACES, b"\x0a\x80\x80\x80\x80\x80\x00", "a varint longer than 5 bytes at byte 1"),
        (Signal.TRACES, group(101), "nested deeper than 100 levels"),
        (Signal.TRACES, b"<html>", "not an ExportTraceServiceRequest: "),
        (Signal.METRICS, b"\x0a", "not an ExportMetricsServiceRequest: "),
        (Signal.LOGS, b"\x0a", "not an ExportLogsServiceRequest: "),
    ],
)
def test_what_is_malformed_says_where(signal: Signal, body: bytes, message: str) -> None:
    """The sender reads it in the answer."""
    with pytest.raises(MalformedError) as caught:
        admit(signal, body)
    assert message in str(caught.value)


@pytest.mark.parametrize("call", [count, service_names])
@pytest.mark.parametrize("body", [b"\x0a", b"\x08\x01", b"\x0a\x02\x12\x01", b"<html>"])
def test_every_reader_of_requests_says_so(
    call: Callable[[Signal, bytes], object], body: bytes
) -> None:
    """Never another exception."""
    with pytest.raises(MalformedError, match="not an ExportLogsServiceRequest: "):
        call(Signal.LOGS, body)


@pytest.mark.parametrize("level", range(3))
def test_groups_nest_as_deep_as_protobuf_reads(level: int) -> None:
    """A hundred levels, with the messages around them."""

    def wrapped(levels: int) -> bytes:
        body = group(levels)
        for field in (1, 2)[:level][::-1]:
            body = wire.bytes_field(field, body)
        return body

    assert oracle.framed(Signal.TRACES, wrapped(100 - level))
    assert not oracle.framed(Signal.TRACES, wrapped(101 - level))
    admit(Signal.TRACES, wrapped(100 - level))
    with pytest.raises(MalformedError, match="nested deeper"):
        admit(Signal.TRACES, wrapped(101 - level))


# ---- bounds -------------------------------------------------------------------------------------


def test_a_request_cannot_grow_without_bound() -> None:
    """Six bytes a Resource would leave as three hundred each: 4 MiB of them are refused."""
    one = wire.bytes_field(1, b"\x0a\x00" + spans(1))
    with pytest.raises(TooLargeError, match="4194304 bytes larger; send fewer Resources"):
        admit(Signal.TRACES, one * 50_000)
    assert admit(Signal.TRACES, one * 5_000).items == 5_000


def test_a_walk_is_bounded_in_steps() -> None:
    """Tiny fields that no encoder writes would stop the loop for a second."""
    with pytest.raises(TooLargeError, match=f"more than {MAX_FIELDS} fields"):
        admit(Signal.TRACES, b"\x98\x06\x00" * (MAX_FIELDS + 1))
    with pytest.raises(TooLargeError, match="more than"):
        admit(Signal.TRACES, b"\x9b\x06" + b"\xa3\x06\xa4\x06" * MAX_FIELDS + b"\x9c\x06")


GAUGE = wire.bytes_field(2, b"\x2a\x02\x0a\x00")


@pytest.mark.parametrize(
    ("signal", "around", "one", "fields"),
    [
        (Signal.TRACES, (2,), b"\x12\x00", 1),
        (Signal.LOGS, (2,), b"\x1a\x00", 1),
        (Signal.TRACES, (), b"\x12\x00", 1),
        (Signal.TRACES, (), b"\x12\x02\x12\x00", 2),
        (Signal.TRACES, (), b"\x1a\x00", 1),
        (Signal.METRICS, (2,), b"\x12\x00", 1),
        (Signal.METRICS, (2,), b"\x1a\x00", 1),
        (Signal.METRICS, (2,), GAUGE, 3),
        (Signal.METRICS, (2, 2), b"\x0a\x00", 1),
        (Signal.METRICS, (2, 2, 5), b"\x0a\x00", 1),
        (Signal.METRICS, (2, 2, 7), b"\x10\x01", 1),
    ],
)
@pytest.mark.parametrize("odd", [False, True])
def test_the_short_cut_is_bounded_as_the_walk_is(
    signal: Signal, around: tuple[int, ...], one: bytes, fields: int, odd: bool
) -> None:
    """4 MiB of two bytes each would stop the loop for half a second, in whatever order."""

    def body(n: int) -> bytes:
        inner = one * n
        for field in reversed(around):
            inner = wire.bytes_field(field, inner)
        # The walk takes what has its Resource last.
        return wire.bytes_field(1, inner + b"\x0a\x00" if odd else b"\x0a\x00" + inner)

    # The ResourceX, its Resource, and what is around.
    most = (MAX_FIELDS - 2 - len(around)) // fields
    assert admit(signal, body(most)).items == count(signal, body(most))
    with pytest.raises(TooLargeError, match=f"more than {MAX_FIELDS} fields; send less at once"):
        admit(signal, body(most + 1))


@pytest.mark.parametrize("known", [False, True])
def test_resources_share_the_bound(known: bool) -> None:
    """Each within it, all together beyond; what is remembered is not read, and takes no steps."""
    one = wire.bytes_field(1, wire.bytes_field(1, b"\x0a\x00" * (1000 if known else 30_000)))
    enrich = enricher()
    assert enrich.admit(Signal.TRACES, one).items == 0
    if known:
        assert len(enrich.admit(Signal.TRACES, one * 200).body) > 200 * len(one)
        return
    with pytest.raises(TooLargeError, match="fields"):
        enrich.admit(Signal.TRACES, one * 4)


def test_what_was_admitted_can_be_walked_again() -> None:
    """A Resource that is added is a field too: counting, splitting and marking take them all."""
    bare = b"\x0a\x00" * 10_000 + wire.bytes_field(1, spans(MAX_FIELDS - 20_002))
    with pytest.raises(TooLargeError, match="fields"):
        admit(Signal.TRACES, bare)
    bare = b"\x0a\x00" * 10_000 + wire.bytes_field(1, spans(MAX_FIELDS - 20_003))
    admitted = admit(Signal.TRACES, bare)
    assert count(Signal.TRACES, admitted.body) == admitted.items == MAX_FIELDS - 20_003


# ---- who sent it --------------------------------------------------------------------------------


def test_senders_are_named_once_in_order() -> None:
    """What a log line about a rejected request says."""
    body = b"".join(
        wire.bytes_field(1, resource(*pairs) + spans(1))
        for pairs in (
            [("service.name", "shop")],
            [("service.name", "cart"), ("k", "v")],
            [("service.name", "shop")],
            [("service.name", 5)],
            [("k", "v")],
        )
    )
    assert service_names(Signal.TRACES, body) == ["shop", "cart"]


def test_a_name_that_is_no_text_is_escaped() -> None:
    """A log line is text."""
    attribute = wire.bytes_field(1, b"service.name") + wire.bytes_field(2, b"\x0a\x01\xff")
    body = wire.bytes_field(1, wire.bytes_field(1, wire.bytes_field(1, attribute)))
    assert service_names(Signal.LOGS, body) == ["\\xff"]


# ---- splitting ----------------------------------------------------------------------------------


@given(requests(), st.integers(1, 700))
@RELAXED
def test_pieces_say_together_what_the_whole_says(
    request_: tuple[Signal, bytes], max_bytes: int
) -> None:
    """Each item once, in order, with all that is around it; and no piece larger than need be."""
    signal, body = request_
    pieces = split(signal, body, max_bytes)
    whole = list(oracle.flat(signal, oracle.parse(signal, body)))
    parsed = [oracle.parse(signal, piece) for piece, _ in pieces]
    said = [item for piece in parsed for item in oracle.flat(signal, piece)]
    assert said == whole
    for (piece, items), message in zip(pieces, parsed, strict=True):
        assert items == oracle.count(signal, message)
        assert len(piece) <= max_bytes or is_indivisible(signal, message, max_bytes)


def is_indivisible(signal: Signal, message: Any, max_bytes: int) -> bool:
    """One item, or much around few."""
    items = list(oracle.flat(signal, message))
    around = message.ByteSize() - sum(len(item[-1]) for item in items)
    return len(items) <= 1 or around * 8 > max_bytes


def test_a_large_request_is_cut_into_few_pieces() -> None:
    """Each nearly full."""
    span = wire.bytes_field(2, wire.string_field(5, "n" * 1000))
    body = wire.bytes_field(1, resource(("k", "v")) + wire.bytes_field(2, span * 5000))
    pieces = split(Signal.TRACES, body, 1 << 20)
    assert sum(items for _, items in pieces) == 5000
    assert len(pieces) == 5
    assert all(len(piece) <= 1 << 20 for piece, _ in pieces)


def test_what_cannot_be_cut_stays_whole() -> None:
    """One large item among small ones is a piece of its own, larger than asked for."""
    small = wire.bytes_field(2, wire.string_field(5, "n"))
    large = wire.bytes_field(2, wire.string_field(5, "n" * 3000))
    body = wire.bytes_field(1, resource(("k", "v")) + wire.bytes_field(2, small + large + small))
    sizes = [(len(piece) > 1000, items) for piece, items in split(Signal.TRACES, body, 1000)]
    assert sizes == [(False, 1), (True, 1), (False, 1)]


def test_split_refuses_what_is_malformed() -> None:
    """It is asked about requests that were admitted; the answer must not depend on it."""
    with pytest.raises(MalformedError, match="3 bytes short"):
        split(Signal.TRACES, b"\x0a" * 21, 10)
