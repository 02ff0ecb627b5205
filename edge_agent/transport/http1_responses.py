"""One response out of the bytes that a server sends (RFC 9112). Pure.

A server is not trusted for size either: it may be a captive portal that answers for ours.
"""

import httptools

from edge_agent.transport.http1_messages import (
    MAX_FRAMING_PER_BYTE,
    MAX_HEADERS,
    PIECE_BYTES,
    ProtocolError,
    Response,
    Stopped,
)


class ResponseReader:
    """Reads the one response to a request made with `method`.

    `response` is there when it is whole. `reusable` then says whether the connection may carry
    another request.
    """

    def __init__(self, method: str, *, max_header_bytes: int, max_body_bytes: int) -> None:
        self.response: Response | None = None
        self.reusable = False
        self.started = False
        self._method = method
        self._max_header_bytes = max_header_bytes
        self._max_body_bytes = max_body_bytes
        self._parser = httptools.HttpResponseParser(self)
        self._headers: list[tuple[str, str]] = []
        self._head_bytes = 0
        self._raw_bytes = 0
        self._body = bytearray()
        self._head_done = False
        self._fault: str | None = None

    def feed(self, data: bytes) -> None:
        """Read `data`. Raises ProtocolError."""
        self.started = True
        view = memoryview(data)
        for at in range(0, len(data), PIECE_BYTES):
            if self.response is not None:
                self.reusable = False  # Bytes that nobody asked for.
                return
            self._raw_bytes += len(view[at : at + PIECE_BYTES])
            self._feed_piece(view[at : at + PIECE_BYTES])
            framing = self._raw_bytes - MAX_FRAMING_PER_BYTE * len(self._body)
            if framing > 2 * self._max_header_bytes + PIECE_BYTES:
                raise ProtocolError("a response of too much that is not content")

    def _feed_piece(self, piece: memoryview) -> None:
        try:
            self._parser.feed_data(piece)
        except httptools.HttpParserUpgrade:
            raise ProtocolError("the peer switched to another protocol unasked") from None
        except httptools.HttpParserCallbackError as error:
            if self._fault is None:
                raise error.__context__ or error from None
            raise ProtocolError(self._fault) from None
        except httptools.HttpParserError as error:
            if self.response is None:
                raise ProtocolError(f"not an HTTP/1 response: {error}") from None
            self.reusable = False

    def end(self) -> None:
        """The peer has closed: that ends a body without a length. Raises ProtocolError."""
        if self.response is not None:
            return
        framed = any(name in ("content-length", "transfer-encoding") for name, _ in self._headers)
        if not self._head_done or framed:
            raise ProtocolError("the peer closed the connection in the middle of a response")
        self._finish(reusable=False)

    def _finish(self, *, reusable: bool) -> None:
        self.response = Response(
            self._parser.get_status_code(), bytes(self._body), tuple(self._headers)
        )
        self.reusable = reusable

    def _stop(self, fault: str) -> Stopped:
        self._fault = fault
        return Stopped()

    # ---- called by the parser ----

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header, or a trailer: those are counted and ignored."""
        if self.response is not None:
            return
        self._head_bytes += len(name) + len(value) + 4
        if self._head_bytes > self._max_header_bytes or len(self._headers) >= MAX_HEADERS:
            raise self._stop("a response with too many headers")
        if not self._head_done:
            self._headers.append(
                (name.decode("latin-1").lower(), value.decode("latin-1").strip(" \t"))
            )

    def on_headers_complete(self) -> None:
        """The head is whole; to HEAD that is all."""
        status = self._parser.get_status_code()
        if self.response is None and status >= 200:
            self._head_done = True
            if self._method == "HEAD":
                self._finish(reusable=self._parser.should_keep_alive())

    def on_body(self, data: bytes) -> None:
        """A part of the body. Of an error only the start matters."""
        if self.response is not None:
            self.reusable = False
            return
        self._body += data
        if len(self._body) > self._max_body_bytes:
            if self._parser.get_status_code() < 400:
                raise self._stop(f"a response over {self._max_body_bytes} bytes")
            del self._body[self._max_body_bytes :]
            self._finish(reusable=False)

    def on_message_complete(self) -> None:
        """A response is whole, or an interim one (RFC 9110, 15.2), which does not count."""
        if self._head_done and self.response is None:
            self._finish(reusable=self._parser.should_keep_alive())
        elif self.response is None:
            self._headers.clear()
