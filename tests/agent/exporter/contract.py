"""What the contract suites share: one way to open each client and each kind of collector."""

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from edge_agent.exporter.retry import Client
from edge_agent.otlp.signal import HTTP_PATHS, Signal
from edge_agent.otlp.status import PartialSuccess, Status, encode_response, encode_status
from edge_agent.settings import Endpoint
from edge_agent.transport.dial import Tls
from tests.fakes.collector import Answer, FakeCollector, ServerTls
from tests.fakes.http_collector import FakeHttpCollector, HttpAnswer

GRPC_KINDS = ("builtin", "grpcio")
KINDS = (*GRPC_KINDS, "http")
USER_AGENT = "pulseops-edge/0.0.0"

# One valid request a signal, with a name to recognise it by.
BODIES = {
    Signal.METRICS: bytes.fromhex("0a0d12 0b 1209 0a07") + b"cpu.pct",
    Signal.TRACES: bytes.fromhex("0a0c12 0a 1208 2a06") + b"span-1",
    Signal.LOGS: bytes.fromhex("0a0e12 0c 120a 2a08 0a06") + b"line-1",
}
BODY = BODIES[Signal.METRICS]

OpenClient = Callable[..., Client]

# How a collector says over HTTP what it says over gRPC.
_HTTP_STATUSES = {"OK": 200, "UNAVAILABLE": 503, "INVALID_ARGUMENT": 400, "UNAUTHENTICATED": 401}


def new_client(
    kind: str, endpoints: Endpoint | Mapping[Signal, Endpoint], **changes: Any
) -> Client:
    """The client of `kind`, with settings that suit a test unless `changes` say otherwise."""
    if isinstance(endpoints, Endpoint):
        endpoints = {signal: at_path(endpoints, signal) for signal in Signal}
    settings: dict[str, Any] = {
        "tls": Tls(),
        "headers": (),
        "gzip": False,
        "timeout_s": 10.0,
        "max_reconnect_s": 0.05,
        "environ_proxy": lambda _endpoint: None,
        "user_agent": USER_AGENT,
        **changes,
    }
    # Here, so that each suite imports what it tests and no more.
    if kind == "builtin":
        from edge_agent.exporter.grpc_client import GrpcClient

        return GrpcClient(endpoints, **settings)
    if kind == "grpcio":
        from edge_agent.exporter.grpcio_client import GrpcioClient

        return GrpcioClient(endpoints, **settings)
    from edge_agent.exporter.http_client import HttpClient

    return HttpClient(endpoints, **settings)


def at_path(endpoint: Endpoint, signal: Signal) -> Endpoint:
    """`endpoint` with the path that OTLP/HTTP has for `signal`; gRPC ignores it."""
    if endpoint.scheme == "unix":
        return endpoint
    return Endpoint(endpoint.scheme, endpoint.host, endpoint.port, HTTP_PATHS[signal])


def new_collector(
    kind: str, answers: tuple[Answer | str, ...] = (), *, tls: ServerTls | None = None, **where: Any
) -> Any:
    """A collector that speaks what the client of `kind` does, and answers the same."""
    if kind in GRPC_KINDS:
        return FakeCollector(answers, tls=tls, **where)
    context = None if tls is None else server_context(tls)
    return FakeHttpCollector([_http(a) for a in answers], tls=context, **where)


def _http(answer: Answer | str) -> HttpAnswer:
    answer = Answer(answer) if isinstance(answer, str) else answer
    headers: tuple[tuple[str, str], ...] = (("Content-Type", "application/x-protobuf"),)
    if answer.retry_after_s is not None:
        headers = (*headers, ("Retry-After", f"{answer.retry_after_s:.0f}"))
    if answer.response is not None:
        body = answer.response
    elif answer.code == "OK":
        body = encode_response(PartialSuccess(answer.rejected_items, answer.message))
    else:
        body = encode_status(Status(2, answer.message))
    return HttpAnswer(_HTTP_STATUSES[answer.code], body, headers, answer.after)


def server_context(tls: ServerTls, *alpn: str) -> ssl.SSLContext:
    """What a server of Python's own needs for `tls`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tls.pair.certificate, tls.pair.key)
    if alpn:
        context.set_alpn_protocols(list(alpn))
    if tls.client_ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(tls.client_ca)
    return context


async def until_outcome(export: Callable[[], Awaitable[Any]], wanted: type) -> Any:
    """The first outcome of type `wanted`, of as many exports as it takes.

    Polls: grpcio keeps its own clock for reconnecting, which no test can hold.
    """
    async with asyncio.timeout(20):
        while not isinstance(outcome := await export(), wanted):
            await asyncio.sleep(0.01)
    return outcome
