"""Requests out of the bytes that a client sends (RFC 9112). Pure.

A client is never trusted for size: heads, header counts, bodies, the framing around chunks and the
number of requests read ahead have limits. Whatever is ambiguous is refused, because two readers
that disagree about where a request ends are how requests are smuggled.
"""

from collections import deque
from dataclasses import dataclass

import httptools

from edge_agent.transport.http1_messages import (
    MAX_FRAMING_PER_BYTE,
    MAX_HEADERS,
    PIECE_BYTES,
    Admit,
    Head,
    Limits,
    Request,
    Response,
    Stopped,
    plain,
)


@dataclass(frozen=True, slots=True)
class Turn:
    """One answer owed to a client, in order: to a request, or a refusal that is the answer."""

    subject: Request | Response
    keep_alive: bool
    http10: bool = False
    head_only: bool = False


class RequestReader:
    """Turns what a client sends into `ready` turns.

    After a turn without keep_alive nothing more is read: `over` is set.
    """

    def __init__(self, limits: Limits, peer: str, admit: Admit | None = None) -> None:
        self.ready: deque[Turn] = deque()
        self.over = False
        # Whether the client waits for "100 Continue" before it sends the body.
        self.owes_continue = False
        self._limits = limits
        self._peer = peer
        self._admit = admit
        self._parser = httptools.HttpRequestParser(self)
        self._refusal: Response | None = None
        self._start()

    def _start(self) -> None:
        self._target = b""
        self._headers: dict[str, str] = {}
        self._head: Head | None = None
        self._head_bytes = 0
        self._raw_bytes = 0
        self._body = bytearray()
        self.owes_continue = False

    @property
    def in_head(self) -> bool:
        """Whether part of a head has come."""
        return self._head is None and self._raw_bytes > 0

    @property
    def in_body(self) -> bool:
        """Whether a head has come and its body not all."""
        return self._head is not None

    @property
    def body_bytes(self) -> int:
        """Bytes of the present body that have come."""
        return len(self._body)

    def feed(self, data: bytes) -> int:
        """Read `data` until a turn is ready, and return how much was read."""
        view = memoryview(data)
        used = 0
        while used < len(data) and not self.ready and not self.over:
            piece = view[used : used + PIECE_BYTES]
            used += len(piece)
            self._raw_bytes += len(piece)
            self._feed_piece(piece)
        return used

    def _feed_piece(self, piece: memoryview) -> None:
        try:
            self._parser.feed_data(piece)
        except httptools.HttpParserUpgrade:
            # We never upgrade (RFC 9110, 7.8); the request is answered and the connection ends.
            self.over = True
        except httptools.HttpParserCallbackError as error:
            if self._refusal is None:
                raise error.__context__ or error from None
            self._refuse(self._refusal)
        except httptools.HttpParserError as error:
            if not self.over:  # What follows the last request does not matter.
                self._refuse(plain(400, f"not HTTP/1: {error}"))
        else:
            framing = self._raw_bytes - MAX_FRAMING_PER_BYTE * len(self._body)
            # The piece in which a message starts may belong mostly to the one before.
            if framing > 2 * self._limits.max_header_bytes + PIECE_BYTES and not self.over:
                in_head = self._head is None
                self._refuse(plain(431 if in_head else 400, "too much of it is not content"))

    def refuse(self, response: Response) -> None:
        """Answer what has come of a request with `response`, and read no more."""
        self._refuse(response)

    def _refuse(self, response: Response) -> None:
        self.ready.append(Turn(response, keep_alive=False))
        self.over = True

    def _stop(self, response: Response) -> Stopped:
        self._refusal = response
        return Stopped()

    # ---- called by the parser ----

    def on_url(self, url: bytes) -> None:
        """A part of the request target."""
        self._target += url
        self._count_head(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header, or a trailer: those are counted and ignored."""
        self._count_head(len(name) + len(value) + 4)
        if self._head is not None:
            return
        if len(self._headers) >= MAX_HEADERS:
            raise self._stop(plain(431, f"more than {MAX_HEADERS} headers"))
        key, text = name.decode("latin-1").lower(), value.decode("latin-1").strip(" \t")
        if key in self._headers:
            if key == "host":  # RFC 9112, 3.2
                raise self._stop(plain(400, "more than one Host"))
            text = f"{self._headers[key]}, {text}"
        self._headers[key] = text

    def _count_head(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > self._limits.max_header_bytes:
            raise self._stop(plain(431, f"over {self._limits.max_header_bytes} bytes of headers"))

    def on_headers_complete(self) -> None:
        """Decide about the request before its body comes."""
        headers = self._headers
        version = self._parser.get_http_version()
        length_text, coding = headers.get("content-length"), headers.get("transfer-encoding")
        length = 0 if length_text is None else int(length_text)
        refusal = self._fault(version, length, coding)
        path, query = _split_target(self._target)
        if refusal is None and path is None:
            refusal = plain(400, "the request target is neither a path nor a URL")
        head = Head(
            self._parser.get_method().decode("latin-1"), path or "", query, headers, self._peer
        )
        if refusal is None and self._admit is not None:
            refusal = self._admit(head, None if coding is not None else length)
        if refusal is not None:
            raise self._stop(refusal)
        self._head = head
        expects = headers.get("expect") is not None and version == "1.1"
        self.owes_continue = expects and (length > 0 or coding is not None)

    def _fault(self, version: str, length: int, coding: str | None) -> Response | None:
        # The parser itself refuses both framings together, and two lengths.
        headers = self._headers
        if version not in ("1.0", "1.1"):
            return plain(505, "HTTP/1 only")
        if version == "1.1" and "host" not in headers:  # RFC 9112, 3.2
            return plain(400, "no Host")
        if coding is not None and version == "1.0":  # RFC 9112, 6.1: framing may be faulty
            return plain(400, "Transfer-Encoding in HTTP/1.0")
        if coding is not None and coding.lower() != "chunked":
            return plain(501, "no transfer coding but chunked")
        if self._parser.should_upgrade() and (length > 0 or coding is not None):
            # The parser would take the body for the new protocol.
            return plain(501, "no upgrade, least of all with a body")
        if version == "1.1" and headers.get("expect", "100-continue").lower() != "100-continue":
            return plain(417, "100-continue is the one expectation known")
        if length > self._limits.max_body_bytes:
            return plain(413, f"over {self._limits.max_body_bytes} bytes")
        return None

    def on_body(self, data: bytes) -> None:
        """A part of the body."""
        self._body += data
        if len(self._body) > self._limits.max_body_bytes:
            raise self._stop(plain(413, f"over {self._limits.max_body_bytes} bytes"))

    def on_message_complete(self) -> None:
        """The request is whole."""
        head = self._head
        assert head is not None  # noqa: S101  (our bug: the parser completes the headers first)
        keep_alive = self._parser.should_keep_alive() and not self._parser.should_upgrade()
        request = Request(
            head.method, head.path, head.query, head.headers, bytes(self._body), head.peer
        )
        self.ready.append(
            Turn(
                request,
                keep_alive,
                http10=self._parser.get_http_version() == "1.0",
                head_only=head.method == "HEAD",
            )
        )
        self.over = not keep_alive
        self._start()


def _split_target(raw: bytes) -> tuple[str | None, str]:
    """Path and query of a request target (RFC 9112, 3.2); None for one that has no path."""
    target = raw.decode("latin-1")
    if target[:7].lower() == "http://" or target[:8].lower() == "https://":
        target = "/" + target.partition("://")[2].partition("/")[2]
    if not target.startswith("/") and target != "*":
        return None, ""
    path, _, query = target.partition("?")
    return path, query
