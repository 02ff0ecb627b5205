"""OTLP over gRPC: `Export` of the three services, unary, gzip or not.

What a request is worth is decided by the core; here is what gRPC adds: its headers, its message
and its status.
"""

import asyncio
import ssl
from dataclasses import dataclass

from edge_agent.otlp.signal import Signal
from edge_agent.otlp.status import Code, encode_status
from edge_agent.receiver.core import (
    MAX_REQUEST_BYTES,
    MAX_SENDER_CHARS,
    Accepted,
    Core,
    Refused,
    status_of,
)
from edge_agent.transport import grpc
from edge_agent.transport.budget import Budget
from edge_agent.transport.compression import CompressionError, TooLargeError, gunzip
from edge_agent.transport.http2_server import Limits, Reply, Server
from edge_agent.transport.http2_server import serve as serve_http2
from edge_agent.transport.turns import Turns

LIMITS = Limits()
_HEADERS: grpc.Headers = ((b":status", b"200"), (b"content-type", b"application/grpc"))
# An empty Export response: a prefix that announces no bytes.
_OK = Reply(_HEADERS, grpc.message_prefix(0, compressed=False), ((b"grpc-status", b"0"),))
# Three signals in two codings by ten senders, and room for odd ones.
_MAX_KNOWN_HEADS = 64


@dataclass(frozen=True, slots=True)
class Head:
    """What a call's headers say."""

    signal: Signal
    gzip: bool
    sender: str = ""


class GrpcReceiver:
    """Answers calls: what a server of `transport.http2_server` asks."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._tasks: set[asyncio.Task[Reply]] = set()
        # The same few heads come again and again: checked once.
        self._known: dict[tuple[bytes | None, ...], Head] = {}

    def begin(self, headers: grpc.Headers) -> Head | Reply:
        """The call's signal and coding, or what its headers speak against."""
        field = dict(headers).get
        what = (
            field(b":method"),
            field(b":path"),
            field(b"content-type"),
            field(b"grpc-encoding"),
            field(b"user-agent", b"")[:MAX_SENDER_CHARS],
        )
        known = self._known.get(what)
        if known is not None:
            return known
        head = self._check(*what)
        if isinstance(head, Head):
            if len(self._known) >= _MAX_KNOWN_HEADS:
                self._known.clear()
            self._known[what] = head
        return head

    def _check(
        self,
        method: bytes | None,
        path: bytes | None,
        content_type: bytes | None,
        coding: bytes | None,
        user_agent: bytes,
    ) -> Head | Reply:
        # The status of these two is HTTP's, so that no HTTP/2 client takes it for gRPC
        # (PROTOCOL-HTTP2.md), with words for whoever looks at it.
        if method != b"POST":
            refused = self._core.refuse(Code.INVALID_ARGUMENT, 405, "gRPC calls are POST")
            return _not_grpc(refused, ((b"allow", b"POST"),))
        if not grpc.is_grpc(content_type or b""):
            refused = self._core.refuse(
                Code.INVALID_ARGUMENT, 415, "content-type must be application/grpc"
            )
            return _not_grpc(refused)
        signal = self._core.grpc_signal((path or b"").decode("ascii", "replace"))
        if isinstance(signal, Refused):
            return _refusal(signal)
        if coding not in (None, b"identity", b"gzip"):
            refused = self._core.refuse(
                Code.UNIMPLEMENTED, 400, f"grpc-encoding {coding[:32]!r}: identity or gzip"
            )
            return _refusal(refused, ((b"grpc-accept-encoding", b"identity,gzip"),))
        sender = f"grpc {user_agent.decode('ascii', 'backslashreplace')}".rstrip()
        return Head(signal, coding == b"gzip", sender)

    def message(self, head: Head, data: bytes) -> "Reply | asyncio.Task[Reply]":
        """The answer to a whole call: at once, or once it is on disk where that was asked for."""
        outcome = self._take(head, data)
        if isinstance(outcome, Refused):
            return _refusal(outcome)
        if outcome.durable is None:
            return _OK
        task = asyncio.get_running_loop().create_task(self._later(outcome))
        # The loop keeps no hold of it.
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _later(self, accepted: Accepted) -> Reply:
        outcome = await self._core.when_durable(accepted)
        return _refusal(outcome) if isinstance(outcome, Refused) else _OK

    def refuse_size(self, size: int) -> Reply | None:
        """RESOURCE_EXHAUSTED before a message that nobody would take is let in."""
        return _refusal(self._core.too_large(size)) if size > MAX_REQUEST_BYTES else None

    def refuse_load(self) -> Reply:
        """UNAVAILABLE with RetryInfo."""
        return _refusal(self._core.overloaded())

    def refuse_stall(self) -> Reply:
        """UNAVAILABLE with RetryInfo too: what ended on the way may be sent again."""
        return _refusal(self._core.overloaded("the request did not come to its end in time"))

    def _take(self, head: Head, data: bytes) -> Accepted | Refused:
        core = self._core
        try:
            compressed, body = grpc.split_message(data)
        except grpc.GrpcError as error:
            return core.malformed(head.signal, str(error), head.sender)
        if compressed:
            if not head.gzip:
                why = "compressed message without a grpc-encoding"
                return core.malformed(head.signal, why, head.sender)
            try:
                body = gunzip(body, MAX_REQUEST_BYTES)
            except TooLargeError:
                return core.too_large()
            except CompressionError as error:
                return core.malformed(head.signal, str(error), head.sender)
        return core.take(head.signal, body, sender=head.sender)


def _refusal(refused: Refused, more: grpc.Headers = ()) -> Reply:
    """A trailers-only answer; details are sent where there is a delay to tell."""
    fields: list[tuple[bytes, bytes]] = [
        *_HEADERS,
        (b"grpc-status", str(int(refused.code)).encode()),
        (b"grpc-message", grpc.encode_message(refused.message)),
        *more,
    ]
    if refused.retry_after_s is not None:
        details = grpc.encode_binary(encode_status(status_of(refused)))
        fields.append((b"grpc-status-details-bin", details))
    return Reply(tuple(fields))


def _not_grpc(refused: Refused, more: grpc.Headers = ()) -> Reply:
    """An HTTP answer of one line of text."""
    status = str(refused.http_status).encode()
    headers = ((b":status", status), (b"content-type", b"text/plain"), *more)
    return Reply(headers, f"{refused.message}; this port speaks OTLP over gRPC\n".encode())


async def serve(
    core: Core,
    budget: Budget,
    *,
    host: str,
    port: int,
    tls: ssl.SSLContext | None = None,
    limits: Limits = LIMITS,
    turns: Turns | None = None,
) -> Server[Head]:
    """Receive OTLP over gRPC on `host` and `port` (0 takes a free one).

    "localhost" means both loopback families. Bodies take their room from `budget` before they are
    read; both receivers are to have the same `turns`. Raises OSError, which names the address, when
    it cannot listen.
    """
    return await serve_http2(
        GrpcReceiver(core), budget, host=host, port=port, tls=tls, limits=limits, turns=turns
    )
