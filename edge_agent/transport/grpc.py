"""gRPC on top of HTTP/2, pure: headers and messages to and from bytes.

https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md, unary calls only. A message is
`1 byte compressed? | 4 bytes length, big endian | message`. An answer is response headers,
message, trailers; or trailers alone ("trailers-only"), where the headers carry the status.
"""

import binascii
from collections.abc import Iterable
from dataclasses import dataclass

from edge_agent.otlp.status import Code

Headers = tuple[tuple[bytes, bytes], ...]
# As users know it: text, or bytes where the name ends in `-bin`.
Metadata = tuple[tuple[str, str | bytes], ...]

PREFIX_BYTES = 5
_TIMEOUT_DIGITS = 8
_TIMEOUT_LIMIT = 10**_TIMEOUT_DIGITS
_TIMEOUT_UNITS_S = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_CONTENT_TYPE = b"application/grpc"
# Names that the protocol itself uses; a user's header may not replace them.
_RESERVED = frozenset(
    {
        "accept-encoding",
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "host",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "user-agent",
    }
)
_NAME_CHARS = frozenset("0123456789abcdefghijklmnopqrstuvwxyz_-.")
# doc/http-grpc-status-mapping.md, for an answer without grpc-status. Two are our additions, a
# proxy's both: 407, and 413 for a request that is too large, which splitting cures.
_HTTP_STATUS_CODES = {
    400: Code.INTERNAL,
    401: Code.UNAUTHENTICATED,
    403: Code.PERMISSION_DENIED,
    404: Code.UNIMPLEMENTED,
    407: Code.UNAUTHENTICATED,
    413: Code.RESOURCE_EXHAUSTED,
    429: Code.UNAVAILABLE,
    502: Code.UNAVAILABLE,
    503: Code.UNAVAILABLE,
    504: Code.UNAVAILABLE,
}


class GrpcError(ValueError):
    """Something that breaks the gRPC protocol."""


@dataclass(frozen=True, slots=True)
class Answer:
    """How a call ended. `details` is an encoded google.rpc.Status, empty where there was none."""

    code: int
    message: str
    details: bytes


def message_prefix(size: int, *, compressed: bool) -> bytes:
    """The five bytes before a message of `size` bytes (below 2**32)."""
    return bytes((compressed,)) + size.to_bytes(4, "big")


def split_message(data: bytes) -> tuple[bool, bytes]:
    """(is it compressed, the message) of the data of a unary call or answer; raises GrpcError."""
    if len(data) < PREFIX_BYTES:
        raise GrpcError(f"message of {len(data)} bytes, shorter than its prefix")
    size = int.from_bytes(data[1:PREFIX_BYTES], "big")
    if size != len(data) - PREFIX_BYTES:
        raise GrpcError(f"message of {size} bytes announced, {len(data) - PREFIX_BYTES} came")
    if data[0] > 1:
        raise GrpcError(f"compressed flag is {data[0]}")
    return data[0] == 1, data[PREFIX_BYTES:]


def timeout(seconds: float) -> bytes:
    """The value of grpc-timeout for `seconds` (at least 1 ms): at most eight digits and a unit."""
    value, unit = max(1, round(seconds * 1000)), b"m"
    if value >= _TIMEOUT_LIMIT or value % 1000 == 0:
        value, unit = -(-value // 1000), b"S"
    if value >= _TIMEOUT_LIMIT:
        value, unit = min(-(-value // 3600), _TIMEOUT_LIMIT - 1), b"H"
    return str(value).encode() + unit


def timeout_s(value: bytes) -> float | None:
    """The seconds in a grpc-timeout; None where there is none that the specification allows."""
    unit = _TIMEOUT_UNITS_S.get(value[-1:])
    digits = value[:-1]
    if unit is None or not digits.isdigit() or len(digits) > _TIMEOUT_DIGITS:
        return None
    return int(digits) * unit


def decode_message(value: bytes) -> str:
    """A percent-encoded grpc-message as text; what is badly encoded is kept as it came."""
    out = bytearray()
    at = 0
    while at < len(value):
        pair = value[at + 1 : at + 3]
        if value[at] == 0x25 and len(pair) == 2:
            try:
                out += binascii.unhexlify(pair)
            except binascii.Error:
                out.append(value[at])
            else:
                at += 3
                continue
        else:
            out.append(value[at])
        at += 1
    return out.decode("utf-8", "replace")


def encode_message(text: str) -> bytes:
    """`text` as a grpc-message: printable ASCII but `%`, the rest of its UTF-8 percent-encoded."""
    return b"".join(
        bytes((byte,)) if 0x20 <= byte < 0x7F and byte != 0x25 else b"%%%02X" % byte
        for byte in text.encode("utf-8", "backslashreplace")
    )


def encode_binary(data: bytes) -> bytes:
    """Bytes as a `-bin` header has them: base64 without padding."""
    return binascii.b2a_base64(data, newline=False).rstrip(b"=")


def decode_binary(value: bytes) -> bytes:
    """A `-bin` header's bytes, base64 with or without padding; raises GrpcError.

    Several values of one name may come joined by commas: the first one counts.
    """
    value = value.split(b",", 1)[0].strip()
    try:
        return binascii.a2b_base64(value + b"=" * (-len(value) % 4), strict_mode=True)
    except binascii.Error as error:
        raise GrpcError(f"binary header is no base64: {error}") from error


def user_metadata(headers: Iterable[tuple[str, str]]) -> tuple[Metadata, list[str]]:
    """User's headers as metadata, and the names of those that gRPC cannot carry.

    Names become lower case; reserved ones, `grpc-*` and pseudo headers are refused, and so is a
    value outside printable ASCII, unless the name ends in `-bin`: then the value's UTF-8 is what
    the peer gets.
    """
    metadata: list[tuple[str, str | bytes]] = []
    refused = []
    for name, value in headers:
        lower = name.lower()
        reserved = lower in _RESERVED or lower.startswith("grpc-")
        if not lower or reserved or not _NAME_CHARS.issuperset(lower):
            refused.append(name)
        elif lower.endswith("-bin"):
            metadata.append((lower, value.encode("utf-8", "backslashreplace")))
        elif value.isascii() and value.isprintable():
            metadata.append((lower, value.strip()))
        else:
            refused.append(name)
    return tuple(metadata), refused


def wire_metadata(metadata: Metadata) -> Headers:
    """Metadata as header fields: binary values in base64 without padding."""
    return tuple(
        (
            name.encode(),
            value.encode() if isinstance(value, str) else encode_binary(value),
        )
        for name, value in metadata
    )


def request_headers(
    *,
    path: str,
    authority: str,
    tls: bool,
    timeout_s: float,
    gzip: bool,
    user_agent: str,
    metadata: Metadata,
) -> Headers:
    """The header list of a unary call, in the order that the specification asks for."""
    encoding: Headers = ((b"grpc-encoding", b"gzip"),) if gzip else ()
    return (
        (b":method", b"POST"),
        (b":scheme", b"https" if tls else b"http"),
        (b":path", path.encode()),
        (b":authority", authority.encode()),
        (b"te", b"trailers"),
        (b"grpc-timeout", timeout(timeout_s)),
        (b"content-type", _CONTENT_TYPE),
        *encoding,
        (b"grpc-accept-encoding", b"identity,gzip"),
        (b"user-agent", user_agent.encode("ascii", "replace")),
        *wire_metadata(metadata),
    )


def answer(headers: Headers, trailers: Headers) -> Answer:
    """How the call ended; raises GrpcError where a gRPC answer carries no usable status.

    A trailers-only answer comes as `headers` with empty `trailers`.
    """
    first = dict(reversed(headers))
    last = dict(reversed(trailers)) if trailers else first
    text = last.get(b"grpc-message")
    message = decode_message(text) if text is not None else ""
    status = last.get(b"grpc-status")
    if status is None:
        return Answer(*_without_status(first), b"")
    if not status.isdigit() or len(status) > 10:
        raise GrpcError(f"grpc-status is {status[:32]!r}")
    details = b""
    if (binary := last.get(b"grpc-status-details-bin")) is not None:
        try:
            details = decode_binary(binary)
        except GrpcError:
            # The status stands without its details.
            details = b""
    return Answer(int(status), message, details)


def _without_status(headers: dict[bytes, bytes]) -> tuple[int, str]:
    status = headers.get(b":status", b"")
    if status != b"200":
        number = int(status) if status.isdigit() and len(status) == 3 else 0
        code = _HTTP_STATUS_CODES.get(number)
        if code is None:
            # The mapping says UNKNOWN, which OTLP never retries. But a portal's redirect or a
            # proxy's 500 is not the collector's word on the data.
            raise GrpcError(f"answered HTTP status {number}")
        return code, f"answered HTTP status {number}"
    # The mapping knows no code for these. A gRPC peer does not answer so; a captive portal does.
    content_type = headers.get(b"content-type", b"")
    if not is_grpc(content_type):
        raise GrpcError(f"answer with content-type {content_type[:100]!r}")
    raise GrpcError("answer without grpc-status")


def is_grpc(content_type: bytes) -> bool:
    """Whether a content-type names gRPC: `application/grpc`, alone or before `+` or `;`."""
    lower = content_type.lower()
    return lower.startswith(_CONTENT_TYPE) and lower[len(_CONTENT_TYPE) :][:1] in (b"", b"+", b";")
