"""A collector that answers as told and remembers what it was sent, on grpcio's own server.

async with FakeCollector(["UNAVAILABLE", "OK"]) as collector:
    await client.export(Signal.METRICS, body)   # is refused
    await client.export(Signal.METRICS, body)   # is taken
    assert [r.signal for r in collector.received] == [Signal.METRICS] * 2
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc
import grpc.aio
from google.protobuf.message import Message
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from edge_agent.otlp.signal import GRPC_PATHS, Signal
from edge_agent.otlp.status import PartialSuccess, Status, encode_response, encode_status
from edge_agent.settings import Endpoint
from tests.fakes.certificates import Pair

# As long as anything on a busy machine may take; a test that gets here has failed.
PATIENCE_S = 20.0

REQUESTS: dict[Signal, type[Message]] = {
    Signal.METRICS: ExportMetricsServiceRequest,
    Signal.TRACES: ExportTraceServiceRequest,
    Signal.LOGS: ExportLogsServiceRequest,
}


@dataclass(frozen=True, slots=True)
class Answer:
    """One scripted answer; the default takes everything.

    `response` replaces the encoded answer by raw bytes. An answer with `after` waits for that
    event first.
    """

    code: str = "OK"
    message: str = ""
    retry_after_s: float | None = None
    rejected_items: int = 0
    response: bytes | None = None
    after: asyncio.Event | None = None


@dataclass(frozen=True, slots=True)
class Received:
    """One request as it arrived, whatever it was answered."""

    signal: Signal
    body: bytes
    metadata: dict[str, str | bytes]

    @property
    def request(self) -> Any:
        """The decoded Export request."""
        message = REQUESTS[self.signal]()
        message.ParseFromString(self.body)
        return message


@dataclass(frozen=True, slots=True)
class ServerTls:
    """A server's own certificate, and the authority its clients' certificates must be from."""

    pair: Pair
    client_ca: Path | None = None


class Inbox:
    """What has been received, and a way to wait for it."""

    def __init__(self) -> None:
        self.received: list[Received] = []
        self._arrived = asyncio.Condition()

    async def add(self, received: Received) -> None:
        """Note one request."""
        async with self._arrived:
            self.received.append(received)
            self._arrived.notify_all()

    async def wait_for(self, enough: Callable[[list[Received]], object]) -> list[Received]:
        """What has been received, once it is `enough`; TimeoutError if it never is."""
        async with asyncio.timeout(PATIENCE_S), self._arrived:
            await self._arrived.wait_for(lambda: enough(self.received))
        return self.received


class FakeCollector(Inbox):
    """OTLP over gRPC. Gives `answers` one by one, then OK for good."""

    def __init__(
        self,
        answers: Iterable[str | Answer] = (),
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        unix: Path | None = None,
        tls: ServerTls | None = None,
    ) -> None:
        super().__init__()
        self._answers = deque(Answer(a) if isinstance(a, str) else a for a in answers)
        self._host = host
        self._port = port
        self._unix = unix
        self._tls = tls

    @property
    def endpoint(self) -> Endpoint:
        """Where it listens."""
        if self._unix is not None:
            return Endpoint("unix", "", 0, str(self._unix))
        scheme = "http" if self._tls is None else "https"
        return Endpoint(scheme, self._host, self._port, "")

    async def __aenter__(self) -> Self:
        # Without it two servers share a port in silence.
        self._server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
        self._server.add_generic_rpc_handlers((_Handlers(self._respond),))
        where = f"[{self._host}]" if ":" in self._host else self._host
        address = f"{where}:{self._port}" if self._unix is None else f"unix:{self._unix}"
        if self._tls is None:
            self._port = self._server.add_insecure_port(address)
        else:
            credentials = grpc.ssl_server_credentials(
                [(self._tls.pair.key.read_bytes(), self._tls.pair.certificate.read_bytes())],
                self._tls.client_ca.read_bytes() if self._tls.client_ca else None,
                self._tls.client_ca is not None,
            )
            self._port = self._server.add_secure_port(address, credentials)
        await self._server.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._server.stop(0)

    def answer(self, received: Received) -> Answer:
        """What to answer; a collector with a mind of its own decides here."""
        return self._answers.popleft() if self._answers else Answer()

    async def _respond(self, signal: Signal, body: bytes, context: Any) -> bytes:
        received = Received(signal, body, dict(context.invocation_metadata()))
        await self.add(received)
        answer = self.answer(received)
        if answer.after is not None:
            await answer.after.wait()
        if answer.code != "OK":
            code = grpc.StatusCode[answer.code]
            status = Status(code.value[0], answer.message, answer.retry_after_s)
            trailers = (
                (("grpc-status-details-bin", encode_status(status)),)
                if answer.retry_after_s is not None
                else ()
            )
            await context.abort(code, answer.message, trailers)
        if answer.response is not None:
            return answer.response
        return encode_response(PartialSuccess(answer.rejected_items, answer.message))


class _Handlers(grpc.GenericRpcHandler):  # type: ignore[type-arg]  # not generic at run time
    def __init__(self, respond: Callable[[Signal, bytes, Any], Awaitable[bytes]]) -> None:
        self._signals = {path: signal for signal, path in GRPC_PATHS.items()}
        self._respond = respond

    def service(self, handler_call_details: Any) -> Any:
        signal = self._signals.get(handler_call_details.method)
        if signal is None:
            return None

        async def respond(body: bytes, context: Any) -> bytes:
            return await self._respond(signal, body, context)

        # Neither serializer: bytes in, bytes out.
        return grpc.unary_unary_rpc_method_handler(respond)
