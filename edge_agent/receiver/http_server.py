"""OTLP over HTTP/1.1: `POST /v1/{traces,metrics,logs}`, protobuf or JSON, gzip or not.

What a request is worth is decided by the core; here is what HTTP adds: the body's coding, and
bodies that wait with their senders until there is room for them. An answer is there before the
next request is read, so a request costs no task and no future.
"""

import ssl
from collections.abc import Awaitable

from edge_agent.otlp.signal import Signal
from edge_agent.otlp.status import Code
from edge_agent.receiver.core import (
    MAX_REQUEST_BYTES,
    MAX_SENDER_CHARS,
    Accepted,
    Core,
    Refused,
    coding,
    http_answer,
    is_json,
)
from edge_agent.transport.compression import CompressionError, TooLargeError, gunzip
from edge_agent.transport.http1 import (
    Budget,
    Head,
    Limits,
    Request,
    Response,
    Server,
)
from edge_agent.transport.http1 import serve as serve_http1
from edge_agent.transport.turns import Turns

# Senders are on this machine, or at the other end of a LAN: ten seconds without a byte are an end.
LIMITS = Limits(
    max_body_bytes=MAX_REQUEST_BYTES,
    max_connections=256,
    body_timeout_s=10.0,
    whole_body_timeout_s=60.0,
)
# The body of a request that is refused for its head is read and thrown away up to this size, and
# the connection lives on; a larger one is not read, which ends the connection.
_MAX_UNWANTED_BYTES = 64 << 10


class HttpReceiver:
    """Answers requests; `admit`, `respond` and `refuse` are what an HTTP server calls."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def admit(self, head: Head, content_length: int | None) -> Response | None:
        """Refuse before the body comes what its head speaks against, if the body is large."""
        small = content_length is not None and content_length <= _MAX_UNWANTED_BYTES
        if small and "expect" not in head.headers:
            return None
        signal = self._signal(head)
        return _response(head, signal) if isinstance(signal, Refused) else None

    def refuse(self, head: Head, status: int, text: str) -> Response:
        """The HTTP server's own refusals, as OTLP says them."""
        match status:
            case 413:
                refused = self._core.too_large()
            case 503:
                refused = self._core.overloaded(text)
            case _:
                refused = self._core.refuse(Code.INVALID_ARGUMENT, status, text)
        return _response(head, refused)

    def respond(self, request: Request) -> Response | Awaitable[Response]:
        """The answer to `request`: at once, or once it is on disk where that was asked for."""
        outcome = self._take(request)
        if isinstance(outcome, Accepted) and outcome.durable is not None:
            return self._respond_later(request, outcome)
        return _response(request, outcome)

    async def _respond_later(self, request: Request, accepted: Accepted) -> Response:
        return _response(request, await self._core.when_durable(accepted))

    def _signal(self, head: Head | Request) -> Signal | Refused:
        headers = head.headers
        return self._core.http_signal(
            head.path, head.method, headers.get("content-type"), headers.get("content-encoding")
        )

    def _take(self, request: Request) -> Accepted | Refused:
        signal = self._signal(request)
        if isinstance(signal, Refused):
            return signal
        body = request.body
        # A word of the sender's own, for the log.
        sender = f"http {request.headers.get('user-agent', '')[:MAX_SENDER_CHARS]}".rstrip()
        if coding(request.headers.get("content-encoding")) == "gzip":
            try:
                body = gunzip(body, MAX_REQUEST_BYTES)
            except TooLargeError:
                return self._core.too_large()
            except CompressionError as error:
                return self._core.malformed(signal, str(error), sender)
        return self._core.take(
            signal, body, json=is_json(request.headers.get("content-type")), sender=sender
        )


def _response(head: Head | Request, outcome: Accepted | Refused) -> Response:
    return Response(*http_answer(outcome, head.headers.get("content-type")))


async def serve(
    core: Core,
    budget: Budget,
    *,
    host: str,
    port: int,
    tls: ssl.SSLContext | None = None,
    limits: Limits = LIMITS,
    turns: Turns | None = None,
) -> Server:
    """Receive OTLP over HTTP on `host` and `port` (0 takes a free one).

    "localhost" means both loopback families. Bodies take their room from `budget` before they are
    read; both receivers are to have the same `turns`. Raises OSError, which names the address, when
    it cannot listen.
    """
    receiver = HttpReceiver(core)
    return await serve_http1(
        receiver.respond,
        host=host,
        port=port,
        limits=limits,
        tls=tls,
        admit=receiver.admit,
        refuse=receiver.refuse,
        budget=budget,
        turns=turns,
    )
