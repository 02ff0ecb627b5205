"""An HTTP/1.1 client for one peer: kept connections, proxies, limits (RFC 9112 on httptools)."""

import asyncio
import time

from edge_agent.settings import Endpoint
from edge_agent.transport.dial import Proxy, Tls, dial
from edge_agent.transport.http1_messages import ProtocolError, Response, encode_request
from edge_agent.transport.http1_responses import ResponseReader

__all__ = ["Http1Client", "ProtocolError", "Response"]

_MAX_HEADER_BYTES = 16384
_MAX_RESPONSE_BYTES = 4 << 20
# How long a closing connection may take to say so to its peer.
_GOODBYE_S = 1.0


class _Connection(asyncio.Protocol):
    """Carries one request at a time."""

    def __init__(self) -> None:
        self.started = False  # Whether any of the present response has come.
        self.closed = asyncio.get_running_loop().create_future()
        self._transport: asyncio.Transport
        self._reader: ResponseReader | None = None
        self._answer: asyncio.Future[Response] | None = None

    @property
    def usable(self) -> bool:
        """Whether another request can be sent."""
        return not self._transport.is_closing()

    async def exchange(self, method: str, request: bytes, max_body_bytes: int) -> Response:
        """Send `request` and return what answers it. Raises ConnectionError and ProtocolError."""
        self.started = False
        self._reader = ResponseReader(
            method, max_header_bytes=_MAX_HEADER_BYTES, max_body_bytes=max_body_bytes
        )
        self._answer = asyncio.get_running_loop().create_future()
        try:
            if self._transport.is_closing():
                raise ConnectionResetError("the peer closed the connection")
            self._transport.write(request)
            response = await self._answer
            if self._transport.get_write_buffer_size():
                self._transport.abort()  # An early answer: the peer may never read the rest.
            elif not self._reader.reusable:
                self.close()
            return response
        except BaseException:
            self._transport.abort()
            raise
        finally:
            self._reader = self._answer = None

    def close(self) -> None:
        """Close, politely."""
        self._transport.close()

    def abort(self, reason: str) -> None:
        """Cut the connection; a request on it fails with `reason`."""
        self._fail(ConnectionAbortedError(reason))
        self._transport.abort()

    def _fail(self, error: ConnectionError) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)

    # ---- what asyncio calls ----

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101  (a stream's is one)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if self._reader is None:
            self._transport.abort()  # Nobody asked: the next answer could not be told apart.
            return
        self.started = True
        try:
            self._reader.feed(data)
        except ProtocolError as error:
            self._fail(error)
            return
        self._settle()

    def eof_received(self) -> None:
        if self._reader is None:
            return
        if not self.started:
            self._fail(ConnectionResetError("the peer closed the connection without an answer"))
            return
        try:
            self._reader.end()
        except ProtocolError as error:
            self._fail(error)
            return
        self._settle()

    def _settle(self) -> None:
        if self._reader is None or self._answer is None or self._answer.done():
            return
        if self._reader.response is not None:
            self._answer.set_result(self._reader.response)

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(ConnectionResetError(f"the connection was lost: {exc or 'closed'}"))
        self.closed.set_result(None)


class Http1Client:
    """Requests to one endpoint, at most `max_connections` at a time, the others wait.

    A request to a plain http endpoint with a `proxy` is handed to the proxy whole; https goes
    through a tunnel.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        tls: Tls,
        proxy: Proxy | None = None,
        max_connections: int = 2,
        max_response_bytes: int = _MAX_RESPONSE_BYTES,
    ) -> None:
        self._endpoint = endpoint
        self._tls = tls
        self._max_response_bytes = max_response_bytes
        self._hop, self._tunnel, self._prefix = endpoint, proxy, ""
        self._proxy_headers: tuple[tuple[str, str], ...] = ()
        if proxy is not None and not endpoint.tls:
            # RFC 9112, 3.2.2.
            self._hop, self._tunnel = proxy.endpoint, None
            self._prefix = f"http://{endpoint.authority}"
            if proxy.authorization is not None:
                self._proxy_headers = (("proxy-authorization", proxy.authorization),)
        self._free = asyncio.Semaphore(max_connections)
        self._idle: list[_Connection] = []
        self._connections: set[_Connection] = set()
        self._dials: set[asyncio.Task[_Connection]] = set()
        self._closing = False

    @property
    def connected(self) -> bool:
        """Whether a request could be sent now without a new connection."""
        return any(connection.usable for connection in self._idle)

    async def request(
        self,
        method: str,
        path: str,
        headers: tuple[tuple[str, str], ...],
        body: bytes,
        timeout_s: float,
    ) -> Response:
        """Send a request and return the answer, redirects included, all within `timeout_s`.

        Host and Content-Length are added to `headers`; the answer's names are in lower case.
        Raises DialError without a connection, ConnectionError when it breaks, its subclass
        ProtocolError for an answer that is not HTTP/1 or over the limits, and TimeoutError.
        """
        until_s = time.monotonic() + timeout_s
        data = encode_request(
            method,
            self._prefix + path,
            self._endpoint.authority,
            (*headers, *self._proxy_headers),
            body,
        )
        async with asyncio.timeout(timeout_s):
            await self._free.acquire()
        try:
            while True:
                connection = self._take_idle()
                kept = connection is not None
                if connection is None:
                    connection = await self._dial(max(until_s - time.monotonic(), 0.0))
                try:
                    async with asyncio.timeout(until_s - time.monotonic()):
                        response = await connection.exchange(method, data, self._max_response_bytes)
                except ConnectionError:
                    # The peer closed an idle connection as we wrote to it: RFC 9112, 9.3.1.
                    if kept and not connection.started and not self._closing:
                        continue
                    raise
                if connection.usable:
                    self._idle.append(connection)
                return response
        finally:
            self._free.release()

    async def close(self) -> None:
        """Close all connections; requests in flight raise ConnectionError."""
        self._closing = True
        for task in self._dials:
            task.cancel()
        for connection in list(self._connections):
            if connection in self._idle:
                connection.close()
            else:
                connection.abort("closed by us")
        closed = [connection.closed for connection in self._connections]
        if closed:
            await asyncio.wait(closed, timeout=_GOODBYE_S)
        for connection in list(self._connections):
            connection.abort("closed by us")
            await connection.closed

    def _take_idle(self) -> _Connection | None:
        while self._idle:
            connection = self._idle.pop()  # The one used last is the least likely to be stale.
            if connection.usable:
                return connection
        return None

    async def _dial(self, timeout_s: float) -> _Connection:
        if self._closing:
            raise ConnectionAbortedError("closed by us")
        # A task of its own, for `close` to cancel without cancelling who waits for it.
        task = asyncio.create_task(self._connect(timeout_s))
        self._dials.add(task)
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError:
            task.cancel()
            task.add_done_callback(_drop)
            raise
        finally:
            self._dials.discard(task)
        if task.cancelled():
            raise ConnectionAbortedError("closed by us")
        return task.result()

    async def _connect(self, timeout_s: float) -> _Connection:
        _, connection = await dial(
            _Connection,
            self._hop,
            tls=self._tls,
            alpn=("http/1.1",),
            proxy=self._tunnel,
            timeout_s=timeout_s,
        )
        self._connections.add(connection)
        connection.closed.add_done_callback(lambda _: self._forget(connection))
        return connection

    def _forget(self, connection: _Connection) -> None:
        self._connections.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)


def _drop(task: asyncio.Task[_Connection]) -> None:
    """Close what was connected just as nobody wanted it any more."""
    if not task.cancelled() and task.exception() is None:
        task.result().close()
