"""Files of OTLP requests, as the OpenTelemetry Collector's file exporter writes them.

    format: proto   for each request its length, 32 bits big-endian, and the request
    format: json    a request a line (OpenTelemetry Protocol File Exporter, "JSON File
                    serialization"), which the Collector's otlpjsonfile receiver reads

A file has requests of one signal, and does not say of which where it is protobuf.
"""

import os
import struct
from collections.abc import Iterator
from typing import BinaryIO

from edge_agent.otlp.batch import count
from edge_agent.otlp.json import to_protobuf
from edge_agent.otlp.json_text import to_json, wire_type
from edge_agent.otlp.schema import MESSAGES, Kind
from edge_agent.otlp.signal import Signal
from edge_agent.otlp.split import halves
from edge_agent.otlp.walk import FIRST, SECOND, MalformedError, TooLargeError, Walk
from edge_agent.otlp.wire import WireError
from edge_agent.settings import format_size

_LENGTH = struct.Struct(">I")
# Larger than any that a collector takes; what claims to be is a file of another kind.
MAX_REQUEST_BYTES = 64 << 20
# What the otlpjsonfile receiver reads of a line unless told otherwise (max_log_size: 1MiB).
MAX_LINE_BYTES = 1_000_000
_RESOURCES = {
    b"resourceMetrics": Signal.METRICS,
    b"resourceSpans": Signal.TRACES,
    b"resourceLogs": Signal.LOGS,
}
_ID_BYTES = {"trace_id": 16, "span_id": 8, "parent_span_id": 8}
_ITEMS = {Signal.METRICS: "Metric", Signal.TRACES: "Span", Signal.LOGS: "LogRecord"}


class DamagedError(ValueError):
    """What is wrong with a file, and the byte from which on."""

    def __init__(self, at: int, reason: str) -> None:
        super().__init__(f"damaged at byte {at}: {reason}")
        self.at = at


def framed(body: bytes) -> bytes:
    """A request as a file of `format: proto` has it."""
    return _LENGTH.pack(len(body)) + body


def lines(signal: Signal, body: bytes) -> bytes:
    """A request as a file of `format: json` has it: in several lines where one would be longer than
    MAX_LINE_BYTES and the items can be parted. Raises MalformedError."""
    try:
        line = to_json(signal, body).encode() + b"\n"
        reason: TooLargeError | None = None
    except TooLargeError as error:
        line, reason = b"", error
    if line and len(line) <= MAX_LINE_BYTES:
        return line
    pieces = halves(signal, body)
    if len(pieces) > 1:
        return b"".join(lines(signal, piece) for piece, _ in pieces)
    if reason is not None:
        raise MalformedError.of(signal, reason)
    return line


def read(file: BinaryIO, signal: Signal) -> Iterator[tuple[bytes, int]]:
    """(request, its items) of each request in `file`, protobuf or JSON, without the empty ones.

    Every request's structure is checked. Raises DamagedError at the first that is none.
    """
    size = os.fstat(file.fileno()).st_size
    first = file.read(1)
    file.seek(0)
    # A length that begins with `{` would be of two gigabytes.
    found = _read_lines(file, signal) if first == b"{" else _read_framed(file, size)
    told = False
    for at, body in found:
        try:
            items = count(signal, body)
            if items and not told:
                _check_signal(signal, body)
                told = True
        except (MalformedError, TooLargeError) as error:
            raise DamagedError(at, str(error)) from None
        if items:
            yield body, items


def _read_framed(file: BinaryIO, size: int) -> Iterator[tuple[int, bytes]]:
    at = 0
    while head := file.read(_LENGTH.size):
        if len(head) < _LENGTH.size:
            raise DamagedError(at, "ends inside a length")
        (length,) = _LENGTH.unpack(head)
        left = size - at - _LENGTH.size
        if length > MAX_REQUEST_BYTES:
            raise DamagedError(
                at,
                f"a request of {length} bytes, over {format_size(MAX_REQUEST_BYTES)}; is it a file"
                " of OTLP requests with 4 bytes of length before each, or of JSON lines?",
            )
        if length > left or len(body := file.read(length)) < length:
            raise DamagedError(at, f"ends inside a request of {length} bytes, of which {left} are")
        yield at, body
        at += _LENGTH.size + length


def _read_lines(file: BinaryIO, signal: Signal) -> Iterator[tuple[int, bytes]]:
    at = 0
    while line := file.readline(MAX_REQUEST_BYTES + 1):
        if len(line) > MAX_REQUEST_BYTES:
            raise DamagedError(at, f"a line longer than {format_size(MAX_REQUEST_BYTES)}")
        if line.strip():
            for name, its_signal in _RESOURCES.items():
                if its_signal is not signal and line.startswith(b'{"' + name + b'"'):
                    raise DamagedError(at, f"{its_signal}, not {signal}")
            try:
                body = to_protobuf(signal, line, max_memory_bytes=16 * MAX_REQUEST_BYTES)
            except (MalformedError, TooLargeError) as error:
                raise DamagedError(at, str(error)) from None
            yield at, body
        at += len(line)


def _check_signal(signal: Signal, body: bytes) -> None:
    """Raise MalformedError where the first item is one of another signal.

    Framed alike down to the items, traces pass for logs in everything but what is inside of these.
    What is odd without being of another signal may pass: the receiver has let it pass, too.
    """
    if not _fits(signal, body):
        for other in Signal:
            if other is not signal and _fits(other, body):
                raise MalformedError(f"{other}, not {signal}")


def _fits(signal: Signal, body: bytes) -> bool:
    """Whether the first item's fields are of the types, and its ids of the lengths, that those of
    `signal` have."""
    walk, at, end = Walk(body), 0, len(body)
    for depth, wanted in enumerate((FIRST, SECOND, SECOND)):
        fields = walk.fields(at, end, depth, frozenset())
        inner = next(((start, after) for key, _, start, after in fields if key == wanted), None)
        if inner is None:
            # The items are further behind, and nothing can be said without a search.
            return True
        at, end = inner
    known = {field.number: field for field in MESSAGES[_ITEMS[signal]]}
    try:
        for key, _, start, after in walk.fields(at, end, len(_ITEMS), frozenset()):
            field = known.get(key >> 3)
            if field is None:
                continue
            if key & 7 != wire_type(field.kind):
                return False
            if field.kind is Kind.ID and after - start not in (0, _ID_BYTES[field.name]):
                return False
    except (WireError, IndexError):
        return False
    return True
