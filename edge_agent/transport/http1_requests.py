"""Requests out of the bytes that a client sends (RFC 9112). Pure.

A client is never trusted for size: heads, header counts, bodies, the framing around chunks and the
number of requests read ahead have limits. Whatever is ambiguous is refused, because two readers
that disagree about where a request ends are how requests are smuggled.

Where there is a budget, a body counts from its head on, by its Content-Length. A chunked one tells
no length: it takes what most bodies fit into, and with the first byte beyond that as much as a
body may have. What is not granted is not read.
"""

from collections import deque
from dataclasses import dataclass

import httptools

from edge_agent.transport.http1_messages import (
    MAX_FRAMING_PER_BYTE,
    MAX_HEADERS,
    PIECE_BYTES,
    Admit,
    Budget,
    Head,
    Limits,
    Refuse,
    Request,
    Response,
    Stopped,
    plain,
)

# What a chunked body counts as while it is small.
CHUNKED_BYTES = 64 << 10


@dataclass(frozen=True, slots=True)
class Turn:
    """One answer owed to a client, in order: to a request, or a refusal that is the answer.

    `held` bytes of the budget are its body's, until whoever answers it gives them back.
    """

    subject: Request | Response
    keep_alive: bool
    http10: bool = False
    head_only: bool = False
    held: int = 0


# llhttp has taken it for a number of up to 64 bits.
_LENGTH_DIGITS = 20


class RequestReader:
    """Turns what a client sends into `ready` turns.

    After a turn without keep_alive nothing more is read: `over` is set. While it `wants` bytes of
    the budget nothing more is read either, until they are `granted`.
    """

    def __init__(
        self,
        limits: Limits,
        peer: str,
        *,
        admit: Admit | None = None,
        refuse: Refuse | None = None,
        budget: Budget | None = None,
    ) -> None:
        self.ready: deque[Turn] = deque()
        self.over = False
        # Whether the client waits for "100 Continue" before it sends the body.
        self.owes_continue = False
        # Bytes of the budget that the present body has, and that it needs to be read on.
        self.held = 0
        self.wants = 0
        self._limits = limits
        self._peer = peer
        self._admit = admit
        self._refuse_head = refuse
        self._budget = budget
        self._parser = httptools.HttpRequestParser(self)
        self._refusal: Response | None = None
        self._start()

    def _start(self) -> None:
        self._target = b""
        self._headers: dict[str, str] = {}
        self._head: Head | None = None
        self._head_bytes = 0
        self._raw_bytes = 0
        self._begun = False
        self._chunked = False
        self._length = 0
        self._body = bytearray()
        self.owes_continue = False

    @property
    def in_head(self) -> bool:
        """Whether part of a head has come."""
        # What a piece holds behind the last request is not counted in bytes.
        return self._head is None and (self._begun or self._raw_bytes > 0)

    @property
    def in_body(self) -> bool:
        """Whether a head has come and its body not all."""
        return self._head is not None

    @property
    def body_bytes(self) -> int:
        """Bytes of the present body that have come."""
        return len(self._body)

    def feed(self, data: bytes | memoryview) -> int:
        """Read `data` until a turn is ready or room is wanted; returns how much was read."""
        view = memoryview(data)
        used = 0
        while used < len(data) and not (self.ready or self.over or self.wants):
            # A body of known length can be read at once: nothing else comes before its end.
            piece = view[used : used + max(PIECE_BYTES, self._length - len(self._body))]
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
            self._end(self._refusal)
        except httptools.HttpParserError as error:
            if not self.over:  # What follows the last request does not matter.
                self.refuse(400, f"not HTTP/1: {error}")
        else:
            framing = self._raw_bytes - MAX_FRAMING_PER_BYTE * len(self._body)
            # The piece in which a message starts may belong mostly to the one before.
            if framing > 2 * self._limits.max_header_bytes + PIECE_BYTES and not self.over:
                status = 431 if self._head is None else 400
                self.refuse(status, "too much of it is not content")

    def refuse(self, status: int, text: str) -> None:
        """Answer what has come of a request with `status`, and read no more."""
        self._end(self._response(status, text))

    def granted(self) -> None:
        """What was wanted has been taken from the budget for this body."""
        self.held += self.wants
        self.wants = 0

    def close(self) -> None:
        """Nothing more is read nor answered: give back what is held."""
        self.over = True
        self._drop_body()
        if self._budget is not None:
            self._budget.release(sum(turn.held for turn in self.ready))
        self.ready.clear()

    def _end(self, response: Response) -> None:
        self.ready.append(Turn(response, keep_alive=False))
        self.over = True
        self._drop_body()

    def _drop_body(self) -> None:
        self._body = bytearray()
        if self._budget is not None:
            self._budget.release(self.held)
        self.held = self.wants = 0

    def _response(self, status: int, text: str) -> Response:
        """A refusal in the application's form, if there is a head to go by."""
        if self._head is None or self._refuse_head is None:
            return plain(status, text)
        return self._refuse_head(self._head, status, text)

    def _stop(self, status: int, text: str) -> Stopped:
        return self._stop_with(self._response(status, text))

    def _stop_with(self, response: Response) -> Stopped:
        self._refusal = response
        return Stopped()

    def _need(self, size: int) -> None:
        if self._budget is None or size == 0:
            return
        if self._budget.grant(size):
            self.held += size
        else:
            self.wants = size

    # ---- called by the parser ----

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        self._begun = True

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
            raise self._stop(431, f"more than {MAX_HEADERS} headers")
        key, text = name.decode("latin-1").lower(), value.decode("latin-1").strip(" \t")
        if key in self._headers:
            if key == "host":  # RFC 9112, 3.2
                raise self._stop(400, "more than one Host")
            text = f"{self._headers[key]}, {text}"
        self._headers[key] = text

    def _count_head(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > self._limits.max_header_bytes:
            raise self._stop(431, f"over {self._limits.max_header_bytes} bytes of headers")

    def on_headers_complete(self) -> None:
        """Decide about the request before its body comes."""
        headers = self._headers
        version = self._parser.get_http_version()
        length_text, coding = headers.get("content-length"), headers.get("transfer-encoding")
        length = 0 if length_text is None else int(length_text.lstrip("0")[:_LENGTH_DIGITS] or "0")
        path, query = _split_target(self._target)
        self._head = head = Head(
            self._parser.get_method().decode("latin-1"), path or "", query, headers, self._peer
        )
        fault = self._fault(version, length, coding)
        if fault is None and path is None:
            fault = (400, "the request target is neither a path nor a URL")
        if fault is not None:
            raise self._stop(*fault)
        refusal = None if self._admit is None else self._admit(head, None if coding else length)
        if refusal is None and length > self._limits.max_body_bytes:
            raise self._stop(413, f"over {self._limits.max_body_bytes} bytes")
        if refusal is not None:
            raise self._stop_with(refusal)
        self._chunked, self._length = coding is not None, length
        self._need(min(CHUNKED_BYTES, self._limits.max_body_bytes) if self._chunked else length)
        expects = headers.get("expect") is not None and version == "1.1"
        self.owes_continue = expects and (length > 0 or self._chunked)

    def _fault(self, version: str, length: int, coding: str | None) -> tuple[int, str] | None:
        # The parser itself refuses both framings together, and two lengths.
        headers = self._headers
        if version not in ("1.0", "1.1"):
            return 505, "HTTP/1 only"
        if version == "1.1" and "host" not in headers:  # RFC 9112, 3.2
            return 400, "no Host"
        if coding is not None and version == "1.0":  # RFC 9112, 6.1: framing may be faulty
            return 400, "Transfer-Encoding in HTTP/1.0"
        if coding is not None and coding.lower() != "chunked":
            return 501, "no transfer coding but chunked"
        if self._parser.should_upgrade() and (length > 0 or coding is not None):
            # The parser would take the body for the new protocol.
            return 501, "no upgrade, least of all with a body"
        if version == "1.1" and headers.get("expect", "100-continue").lower() != "100-continue":
            return 417, "100-continue is the one expectation known"
        return None

    def on_body(self, data: bytes) -> None:
        """A part of the body."""
        self._body += data
        most = self._limits.max_body_bytes
        if len(self._body) > most:
            raise self._stop(413, f"over {most} bytes")
        if self._chunked and len(self._body) > self.held and not self.wants:
            self._need(most - self.held)

    def on_message_complete(self) -> None:
        """The request is whole."""
        head = self._head
        assert head is not None  # noqa: S101  (our bug: the parser completes the headers first)
        keep_alive = self._parser.should_keep_alive() and not self._parser.should_upgrade()
        request = Request(
            head.method, head.path, head.query, head.headers, bytes(self._body), head.peer
        )
        held = min(self.held, len(self._body))
        if self._budget is not None and held < self.held:
            self._budget.release(self.held - held)
        # A body that came with its head, in one piece, has needed no room.
        self.held = self.wants = 0
        self.ready.append(
            Turn(
                request,
                keep_alive,
                http10=self._parser.get_http_version() == "1.0",
                head_only=head.method == "HEAD",
                held=held,
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
