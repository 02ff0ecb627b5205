"""HTTP/1.1 messages, and the bytes of those we write (RFC 9112). Pure."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

# What the readers of requests and responses have in common.
MAX_HEADERS = 100
# The parser cannot be stopped between two messages, so it is fed in pieces: this bounds how many
# small requests one read can turn into objects.
PIECE_BYTES = 4096
# A chunk of one byte takes six on the wire; more framing than this is padding.
MAX_FRAMING_PER_BYTE = 8

_PHRASES = {
    100: "Continue",
    200: "OK",
    204: "No Content",
    304: "Not Modified",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    413: "Content Too Large",
    415: "Unsupported Media Type",
    417: "Expectation Failed",
    429: "Too Many Requests",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    501: "Not Implemented",
    503: "Service Unavailable",
    505: "HTTP Version Not Supported",
}
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class ProtocolError(ConnectionError):
    """The peer's bytes are not HTTP/1, or more of it than we take."""


@dataclass(frozen=True, slots=True)
class Head:
    """A request without its body. Header names are in lower case; repeated ones joined by ", "."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    peer: str


@dataclass(frozen=True, slots=True)
class Request:
    """A whole request. `path` is as sent, not percent-decoded; `peer` is `host:port`."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes
    peer: str


@dataclass(frozen=True, slots=True)
class Response:
    """An answer. Content-Length and Connection are written by the server, never put into it."""

    status: int
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()

    def header(self, name: str) -> str | None:
        """The first value of the header `name` (in lower case), None without one."""
        return next((value for key, value in self.headers if key.lower() == name), None)


@dataclass(frozen=True, slots=True)
class Limits:
    """What a server takes from its clients.

    A head must be whole within `header_timeout_s`, a body move on within each `body_timeout_s` and
    be whole within `whole_body_timeout_s`, from when there is room for it;
    a connection without a request is closed after `idle_timeout_s`. A body for which there is no
    room waits with its sender, at most `room_timeout_s`.
    """

    max_body_bytes: int
    max_connections: int
    header_timeout_s: float = 10.0
    body_timeout_s: float = 30.0
    idle_timeout_s: float = 300.0
    max_header_bytes: int = 16384
    room_timeout_s: float = 5.0
    whole_body_timeout_s: float = math.inf


Admit = Callable[[Head, int | None], Response | None]
Refuse = Callable[[Head, int, str], Response]


class Budget(Protocol):
    """Bytes that bodies may take, of all connections together."""

    @property
    def scarce(self) -> bool:
        """Whether others wait, or little is left."""

    def grant(self, size: int) -> bool:
        """Take `size` bytes, or say no; behind those who wait it is no."""

    def wait(self, size: int, granted: Callable[[], None]) -> Callable[[], None]:
        """Call `granted` once `size` bytes have been taken; what is returned ends the wait."""

    def release(self, size: int) -> None:
        """Give `size` bytes back."""


def plain(status: int, text: str, headers: tuple[tuple[str, str], ...] = ()) -> Response:
    """A response of one line of text."""
    body = f"{text}\n".encode()
    return Response(status, body, (("content-type", "text/plain; charset=utf-8"), *headers))


def encode_response(
    response: Response, *, keep_alive: bool, http10: bool = False, head_only: bool = False
) -> bytes:
    """The bytes of `response`; with `head_only` the body is left out and its length kept."""
    lines = [f"HTTP/1.1 {response.status} {_PHRASES.get(response.status, 'Unknown')}"]
    lines += [f"{name}: {value}" for name, value in response.headers]
    if response.status not in (204, 304):  # RFC 9110, 8.6
        lines.append(f"content-length: {len(response.body)}")
    if not keep_alive:
        lines.append("connection: close")
    elif http10:
        lines.append("connection: keep-alive")
    encoded = _encode_head(lines)
    return encoded if head_only else encoded + response.body


def encode_request(
    method: str, target: str, host: str, headers: tuple[tuple[str, str], ...], body: bytes
) -> bytes:
    """The bytes of a request with its Host and Content-Length."""
    lines = [f"{method} {target} HTTP/1.1", f"host: {host}"]
    lines += [f"{name}: {value}" for name, value in headers]
    if body or method not in ("GET", "HEAD"):  # RFC 9110, 8.6
        lines.append(f"content-length: {len(body)}")
    return _encode_head(lines) + body


def _encode_head(lines: list[str]) -> bytes:
    if any("\r" in line or "\n" in line for line in lines):
        raise ValueError("a header with a line break in it")
    return "\r\n".join((*lines, "", "")).encode("latin-1")


class Stopped(Exception):  # noqa: N818  (not an error: how a callback stops the parser)
    """Raised in a callback; the reader knows why."""
