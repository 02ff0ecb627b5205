"""Receivers for tests: the real servers and core, and queues that keep what they are given."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from edge_agent.otlp.batch import Enricher
from edge_agent.otlp.signal import Signal
from edge_agent.receiver import grpc_server, http_server
from edge_agent.receiver.core import Core
from edge_agent.transport import http2_server
from edge_agent.transport.budget import Budget
from edge_agent.transport.http1 import Limits, Server
from edge_agent.transport.turns import Turns

DEADLINE_S = 20.0
BUDGET_BYTES = 24 << 20
IDENTITY = (("customer.id", "acme"), ("node.id", "edge-01"))


@dataclass
class Queues:
    """Takes everything, unless `full`; once `saved` comes true where that is set."""

    full: bool = False
    saved: "asyncio.Future[bool] | None" = None
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    taken: list[tuple[Signal, bytes, int]] = field(default_factory=list)

    def offer(
        self, signal: Signal, pieces: Sequence[tuple[bytes, int]]
    ) -> "bool | asyncio.Future[bool]":
        """What the core calls."""
        if self.saved is not None:
            self.asked.set()
            return self.saved
        if self.full:
            return False
        self.taken += [(signal, body, items) for body, items in pieces]
        return True

    @property
    def items(self) -> int:
        """How many items were taken."""
        return sum(items for _, _, items in self.taken)


def new_core(queues: Queues, *, validate: str = "structure", signals: tuple[Signal, ...] = ()):
    """A core that offers to `queues`."""
    return Core(
        enricher=Enricher(IDENTITY, own_instance_id="our-own"),
        signals=frozenset(signals or Signal),
        validate=validate,
        sample_rate=1.0,
        offer=queues.offer,
        accounts={},
    )


@dataclass
class Receiving:
    """A running HTTP receiver."""

    server: Server
    core: Core
    queues: Queues
    budget: Budget
    grpc: http2_server.Server[grpc_server.Head]

    @property
    def port(self) -> int:
        return self.server.ports[0]

    @property
    def grpc_port(self) -> int:
        return self.grpc.ports[0]


@asynccontextmanager
async def receiving(
    *,
    validate: str = "structure",
    signals: tuple[Signal, ...] = (),
    limits: Limits = http_server.LIMITS,
    tls: ssl.SSLContext | None = None,
    budget_bytes: int = BUDGET_BYTES,
    grpc_limits: http2_server.Limits = grpc_server.LIMITS,
) -> AsyncIterator[Receiving]:
    """Both receivers on free loopback ports; in the end nothing may be held."""
    queues, budget = Queues(), Budget(budget_bytes)
    turns = Turns(asyncio.get_running_loop().call_soon)
    core = new_core(queues, validate=validate, signals=signals)
    server = await http_server.serve(
        core, budget, host="127.0.0.1", port=0, limits=limits, tls=tls, turns=turns
    )
    grpc = await grpc_server.serve(
        core, budget, host="127.0.0.1", port=0, limits=grpc_limits, tls=tls, turns=turns
    )
    try:
        yield Receiving(server, core, queues, budget, grpc)
    finally:
        await server.close(grace_s=0)
        await grpc.close(grace_s=0)
        assert budget.in_flight == 0


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back for one request. Header names are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


class Wire:
    """A client that sends bytes and reads answers."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.deadline_s = DEADLINE_S

    async def send(self, data: bytes) -> None:
        """Write `data`; a server that has hung up meanwhile is not this side's problem."""
        self.writer.write(data)
        with suppress(ConnectionError):
            await self.writer.drain()

    async def answer(self, *, head_only: bool = False) -> Answer:
        """The next answer."""
        async with asyncio.timeout(self.deadline_s):
            lines = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            headers = {
                name.lower(): value for name, value in (line.split(": ", 1) for line in lines[1:-2])
            }
            length = 0 if head_only else int(headers.get("content-length", 0))
            body = await self.reader.readexactly(length)
            return Answer(int(lines[0].split()[1]), headers, body)

    async def closed(self) -> bool:
        """Whether the server closes now, without another word."""
        async with asyncio.timeout(DEADLINE_S):
            with suppress(ConnectionError):
                return await self.reader.read(1) == b""
            return True


@asynccontextmanager
async def connected(port: int, tls: ssl.SSLContext | None = None) -> AsyncIterator[Wire]:
    """A connection to `port`."""
    name = None if tls is None else "localhost"
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=tls, server_hostname=name)
    try:
        yield Wire(reader, writer)
    finally:
        writer.close()
        with suppress(ConnectionError, ssl.SSLError):
            await writer.wait_closed()


def post(
    body: bytes,
    path: str = "/v1/traces",
    kind: str | None = "application/x-protobuf",
    *,
    coding: str | None = None,
    method: str = "POST",
    extra: str = "",
) -> bytes:
    """The bytes of a request, as most clients would send it."""
    lines = [f"{method} {path} HTTP/1.1", "Host: x"]
    if kind is not None:
        lines.append(f"Content-Type: {kind}")
    if coding is not None:
        lines.append(f"Content-Encoding: {coding}")
    lines.append(f"{extra}Content-Length: {len(body)}")
    return "\r\n".join((*lines, "", "")).encode() + body
