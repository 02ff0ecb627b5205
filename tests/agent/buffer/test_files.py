"""Files of requests."""

import io
import json
import tempfile

import pytest

from edge_agent.buffer.files import (
    MAX_LINE_BYTES,
    MAX_REQUEST_BYTES,
    DamagedError,
    framed,
    lines,
    read,
)
from edge_agent.otlp import wire
from edge_agent.otlp.json import to_protobuf
from edge_agent.otlp.signal import Signal
from edge_agent.otlp.walk import MAX_FIELDS, MalformedError
from tests.agent.buffer.conftest import body

BODY = body(Signal.TRACES, "a", "b")


def read_into(found: list[tuple[bytes, int]], content: bytes, signal: Signal) -> None:
    """Append what is read of a file with `content`."""
    with tempfile.TemporaryFile() as file:
        file.write(content)
        file.seek(0)
        found.extend(read(file, signal))


def all_of(content: bytes, signal: Signal = Signal.TRACES) -> list[tuple[bytes, int]]:
    """What is read of a file."""
    found: list[tuple[bytes, int]] = []
    read_into(found, content, signal)
    return found


@pytest.mark.parametrize("signal", Signal)
def test_what_is_written_is_read_in_either_format(signal: Signal) -> None:
    """Without a word on which it is."""
    one, two = body(signal, "a", "b"), body(signal, "c")
    expected = [(one, 2), (two, 1)]
    assert all_of(framed(one) + framed(two), signal) == expected
    assert all_of(lines(signal, one) + b"\n" + lines(signal, two), signal) == expected


def test_a_length_is_four_bytes_big_endian() -> None:
    """As the file exporter's `format: proto`."""
    assert framed(BODY) == bytes([0, 0, 0, len(BODY)]) + BODY


def test_empty_requests_and_files_are_nothing() -> None:
    """No items, nothing to deliver."""
    assert all_of(b"") == []
    assert all_of(framed(b"") + framed(BODY) + framed(b"")) == [(BODY, 2)]


@pytest.mark.parametrize(
    ("content", "at", "reason"),
    [
        (framed(BODY) + b"\0\0", 4 + len(BODY), "ends inside a length"),
        (framed(BODY)[:-1], 0, f"ends inside a request of {len(BODY)} bytes, of which"),
        (b"\x1f\x8b\x08\0" + BODY, 0, "a request of 529205248 bytes, over 64MiB; is it"),
        (framed(BODY) + framed(b"\x0a\x09"), 4 + len(BODY), "not an ExportTraceServiceRequest"),
        (lines(Signal.TRACES, BODY) + b"{", len(lines(Signal.TRACES, BODY)), "no JSON"),
        (b'{"resourceLogs":[]}\n', 0, "logs, not traces"),
        (framed(body(Signal.LOGS, "a")), 0, "logs, not traces"),
        (framed(body(Signal.METRICS, "a")), 0, "metrics, not traces"),
    ],
)
def test_damage_is_named_with_its_place(content: bytes, at: int, reason: str) -> None:
    """What stands before it is read."""
    read_so_far: list[tuple[bytes, int]] = []
    with pytest.raises(DamagedError) as caught:
        read_into(read_so_far, content, Signal.TRACES)
    assert caught.value.at == at
    assert str(caught.value).startswith(f"damaged at byte {at}: ")
    assert reason in str(caught.value)
    assert read_so_far == ([(BODY, 2)] if at else [])


def test_where_the_first_resource_is_empty_nothing_is_guessed() -> None:
    """The structure alone counts then, as where an item is of no signal."""
    empty = wire.bytes_field(1, wire.bytes_field(1, b""))
    assert all_of(framed(empty + body(Signal.LOGS, "a"))) == [(empty + body(Signal.LOGS, "a"), 1)]
    nonsense = wire.bytes_field(1, wire.bytes_field(2, wire.bytes_field(2, b"\x09")))
    assert all_of(framed(nonsense)) == [(nonsense, 1)]
    # A trace id of eight bytes in front of a start time: no metric, no log record.
    span = wire.bytes_field(1, b"\1" * 8) + wire.fixed64_field(7, 1)
    odd = wire.bytes_field(1, wire.bytes_field(2, wire.bytes_field(2, span)))
    assert all_of(framed(odd)) == [(odd, 1)]


def test_a_line_without_end_is_not_read_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of zeros with a brace at its front."""
    monkeypatch.setattr("edge_agent.buffer.files.MAX_REQUEST_BYTES", 100)
    with pytest.raises(DamagedError, match="a line longer than 100"):
        all_of(b"{" + b" " * 200)


def test_text_that_is_not_utf8_does_not_make_it_another_signal() -> None:
    """The receiver takes it with `receiver.validate: structure`, so it may be in an export."""
    odd = body(Signal.TRACES, "abcd").replace(b"abcd", b"ab\xff\xfe")
    assert all_of(framed(odd)) == [(odd, 1)]


def test_a_line_is_no_longer_than_the_receiver_reads() -> None:
    """Requests are cut between items."""
    large = body(Signal.TRACES, *(f"{number:05}" * 60 for number in range(6000)))
    written = lines(Signal.TRACES, large).splitlines()
    assert len(written) > 1
    assert max(map(len, written)) <= MAX_LINE_BYTES
    read_back = all_of(b"\n".join(written))
    assert sum(items for _, items in read_back) == 6000
    assert len(large) < MAX_REQUEST_BYTES


def test_one_item_that_is_too_long_is_one_line() -> None:
    """The reader can be told to take it."""
    large = body(Signal.TRACES, "x" * (MAX_LINE_BYTES + 1))
    (line,) = lines(Signal.TRACES, large).splitlines()
    assert len(line) > MAX_LINE_BYTES
    assert to_protobuf(Signal.TRACES, line) == large


def test_too_many_fields_are_cut_or_refused() -> None:
    """A walk is bounded; halves have half of it."""

    def spans(*fields: int) -> bytes:
        items = (wire.bytes_field(2, wire.varint_field(6, 1) * count) for count in fields)
        return wire.bytes_field(1, wire.bytes_field(2, b"".join(items)))

    assert len(lines(Signal.TRACES, spans(MAX_FIELDS // 2, MAX_FIELDS // 2)).splitlines()) == 2
    with pytest.raises(MalformedError, match=f"more than {MAX_FIELDS} fields"):
        lines(Signal.TRACES, spans(MAX_FIELDS))


def test_a_line_is_json() -> None:
    """With nothing but its end behind it."""
    line = lines(Signal.LOGS, body(Signal.LOGS, "a\nb"))
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert list(json.load(io.BytesIO(line))) == ["resourceLogs"]
