"""OTLP over gRPC, on our own HTTP/2: one connection to each distinct peer, shared by the signals.

A connection is dialled when a call needs it and kept while it works. After a failed dial the next
one waits: until then every call ends at once, as Retry with what went wrong.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from edge_agent.exporter.jitter import jitter
from edge_agent.exporter.retry import Backoff, Outcome, Retry, classify_grpc
from edge_agent.log import Log
from edge_agent.otlp.signal import GRPC_PATHS, Signal
from edge_agent.otlp.status import Code
from edge_agent.settings import Endpoint
from edge_agent.transport import grpc
from edge_agent.transport.compression import CompressionError, gunzip, gzip
from edge_agent.transport.dial import DialError, Proxy, Tls, dial
from edge_agent.transport.http2_client import (
    CallError,
    ClientConnection,
    Response,
    ResponseTooLargeError,
    UnprocessedError,
)

# What gRPC libraries take as one message unless told otherwise.
MAX_RESPONSE_BYTES = 4 << 20
_FIRST_RECONNECT_S = 1.0
# A call that its peer has certainly not seen goes out once more, on a new connection.
_ATTEMPTS = 2

_log = Log("exporter.grpc")


@dataclass(slots=True)
class _Peer:
    """One host and port: its connections, or why there is none and when to try again."""

    endpoint: Endpoint
    # The last one takes new calls; those before it are going away and finish theirs.
    connections: list[ClientConnection] = field(default_factory=list)
    dialling: asyncio.Task[None] | None = None
    failures: int = 0
    not_before_s: float = 0.0
    error: str = ""

    def available(self) -> ClientConnection | None:
        """The connection that takes new calls."""
        last = self.connections[-1] if self.connections else None
        return last if last is not None and last.available else None


class GrpcClient:
    """The Client for `collector.protocol: grpc`. `timeout_s` bounds a call, dialling included."""

    def __init__(
        self,
        endpoints: Mapping[Signal, Endpoint],
        *,
        tls: Tls,
        headers: tuple[tuple[str, str], ...],
        gzip: bool,
        timeout_s: float,
        max_reconnect_s: float,
        environ_proxy: Callable[[Endpoint], Proxy | None],
        user_agent: str,
        jitter: Callable[[], float] = jitter,
    ) -> None:
        peers: dict[tuple[str, str, int], _Peer] = {}
        self._peers = {
            signal: peers.setdefault((e.scheme, e.host, e.port), _Peer(e))
            for signal, e in endpoints.items()
        }
        self._tls = tls
        self._gzip = gzip
        self._timeout_s = timeout_s
        self._backoff = Backoff(min(_FIRST_RECONNECT_S, max_reconnect_s), max_reconnect_s)
        self._environ_proxy = environ_proxy
        self._user_agent = user_agent
        self._jitter = jitter
        self._metadata, refused = grpc.user_metadata(headers)
        for name in refused:
            _log.warning("a header that gRPC cannot carry is not sent", header=name)
        # Equal from call to call, so that HPACK sends one byte for each line of them.
        self._headers = {signal: self._request_headers(signal, timeout_s) for signal in endpoints}
        self._closing = False

    async def export(self, signal: Signal, body: bytes) -> Outcome:
        """Send `body`; every failure of the peer or the network is an Outcome, never raised."""
        loop = asyncio.get_running_loop()
        peer = self._peers[signal]
        message = self._message(body)
        deadline_s = loop.time() + self._timeout_s
        outcome: Outcome = Retry("never sent")
        for _ in range(_ATTEMPTS):
            dialled = peer.available() is None
            connection = await self._connection(peer)
            if isinstance(connection, Retry):
                return connection
            headers = self._headers[signal]
            if dialled:
                headers = self._request_headers(signal, deadline_s - loop.time())
            started_s = loop.time()
            try:
                async with asyncio.timeout_at(deadline_s):
                    response = await connection.request(headers, message)
            except TimeoutError:
                return Retry(f"deadline_exceeded: no answer within {self._timeout_s:g} s")
            except ResponseTooLargeError as error:
                # As gRPC libraries have it. A smaller request may get a smaller answer.
                return classify_grpc(Code.RESOURCE_EXHAUSTED, str(error))
            except UnprocessedError as error:
                outcome = Retry(f"{peer.endpoint.authority}: {error}")
            except CallError as error:
                return Retry(f"{peer.endpoint.authority}: {error}")
            else:
                return _outcome(response, loop.time() - started_s)
        return outcome

    def reconnect(self) -> None:
        """Forget the wait after failed connects: the next call tries at once."""
        for peer in self._peers.values():
            peer.not_before_s = 0.0

    async def close(self) -> None:
        """Close connections; calls in flight end as Retry."""
        self._closing = True
        peers = list({id(peer): peer for peer in self._peers.values()}.values())
        dials = [peer.dialling for peer in peers if peer.dialling is not None]
        for task in dials:
            task.cancel()
        await asyncio.gather(*dials, return_exceptions=True)
        await asyncio.gather(*(c.close() for peer in peers for c in peer.connections))

    # Requests

    def _message(self, body: bytes) -> tuple[bytes, bytes]:
        """The parts of a framed message; compressed where asked for and where it shrinks."""
        if self._gzip:
            packed = gzip(body)
            if len(packed) < len(body):
                return grpc.message_prefix(len(packed), compressed=True), packed
        return grpc.message_prefix(len(body), compressed=False), body

    def _request_headers(self, signal: Signal, timeout_s: float) -> grpc.Headers:
        endpoint = self._peers[signal].endpoint
        return grpc.request_headers(
            path=GRPC_PATHS[signal],
            authority=endpoint.authority,
            tls=endpoint.tls,
            timeout_s=timeout_s,
            gzip=self._gzip,
            user_agent=self._user_agent,
            metadata=self._metadata,
        )

    # Connections

    async def _connection(self, peer: _Peer) -> ClientConnection | Retry:
        """A connection that takes a call, dialled if need be; else why there is none."""
        if (connection := peer.available()) is not None:
            return connection
        if self._closing:
            return Retry("closed by us")
        if peer.dialling is None:
            wait_s = peer.not_before_s - asyncio.get_running_loop().time()
            if wait_s > 0:
                return Retry(peer.error, wait_s)
            peer.dialling = asyncio.create_task(self._dial(peer))
        # One dial serves all who wait for it; it has its own time limit and outlives each of them.
        dialling = peer.dialling
        await asyncio.wait({dialling})
        if dialling.cancelled():
            return Retry("closed by us")
        dialling.result()
        return peer.available() or Retry(peer.error or "the connection ended as it began")

    async def _dial(self, peer: _Peer) -> None:
        """Connect, or note why not and until when to leave it."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._timeout_s):
                connection = await self._connect(peer.endpoint)
        except OSError as error:
            peer.failures += 1
            peer.not_before_s = loop.time() + self._backoff.delay_s(peer.failures, self._jitter())
            silent = f"{peer.endpoint.authority}: no HTTP/2 within {self._timeout_s:g} s"
            peer.error = silent if isinstance(error, TimeoutError) else str(error)
        else:
            peer.failures = 0
            peer.error = ""
            peer.connections = [c for c in peer.connections if not c.closed]
            peer.connections.append(connection)
        finally:
            peer.dialling = None

    async def _connect(self, endpoint: Endpoint) -> ClientConnection:
        """A connection on which the peer has spoken HTTP/2; raises OSError."""
        transport, connection = await dial(
            # Half of the deadline in silence, then a PING and the other half for its answer: a
            # link that is gone is found when the call that noticed it ends.
            lambda: ClientConnection(
                max_response_bytes=MAX_RESPONSE_BYTES, silence_s=self._timeout_s / 2
            ),
            endpoint,
            tls=self._tls,
            alpn=("h2",),
            proxy=self._environ_proxy(endpoint),
            timeout_s=self._timeout_s,
        )
        try:
            tls = transport.get_extra_info("ssl_object")
            if tls is not None and tls.selected_alpn_protocol() != "h2":
                raise DialError(f"{endpoint.authority}: TLS: the peer does not speak HTTP/2 (ALPN)")
            try:
                await connection.ready()
            except CallError as error:
                raise DialError(f"{endpoint.authority}: {error}") from error
        except BaseException:
            await connection.close()
            raise
        return connection


def _outcome(response: Response, latency_s: float) -> Outcome:
    """What an answer means; one that breaks gRPC costs a retry, like any broken link."""
    try:
        answer = grpc.answer(response.headers, response.trailers)
    except grpc.GrpcError as error:
        return Retry(f"not a gRPC answer: {error}")
    body = b""
    if answer.code == Code.OK:
        try:
            compressed, body = grpc.split_message(response.body)
            if compressed:
                body = gunzip(body, MAX_RESPONSE_BYTES)
        except (grpc.GrpcError, CompressionError):
            # The peer said OK: it has the data, whatever it meant to add.
            body = b""
    return classify_grpc(
        answer.code, answer.message, answer.details, body=body, latency_s=latency_s
    )
