"""Numbered spans on their way through an agent: who sends them, and who takes them at the end.

Every number is sent in one request and never again, whatever came of it: so what arrives twice was
sent twice by the agent.
"""

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio

from edge_agent.load.bodies import SERVICE_NAME, Bodies
from edge_agent.otlp.signal import GRPC_PATHS, HTTP_PATHS, Signal
from edge_agent.otlp.status import PartialSuccess, encode_response
from tests.fakes.collector import FakeCollector, Received
from tests.fakes.programs import Agent

# As long as an agent that is asked to answer may take on a busy machine.
ANSWER_S = 30.0


def numbers_in(received: Received) -> list[int]:
    """The numbers of the spans of ours in a request."""
    return [
        int(span.name[1:])
        for resource in received.request.resource_spans
        if any(a.value.string_value == SERVICE_NAME for a in resource.resource.attributes)
        for scope in resource.scope_spans
        for span in scope.spans
    ]


class Taker(FakeCollector):
    """Takes numbered spans; `taken` says when each was answered OK, by the monotonic clock.

    While `away` it says UNAVAILABLE; it thinks for up to `slow_s` seconds before it answers.
    """

    def __init__(self, rng: random.Random) -> None:
        super().__init__()
        self._rng = rng
        self.taken: dict[int, list[float]] = {}
        self.away = False
        self.slow_s = 0.0
        self.listening = True

    async def _respond(self, signal: Signal, body: bytes, context: Any) -> bytes:
        if self.slow_s:
            await asyncio.sleep(self._rng.random() * self.slow_s)
        if self.away:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "away")
        if signal is Signal.TRACES:
            now = time.monotonic()
            for number in numbers_in(Received(signal, body, {})):
                self.taken.setdefault(number, []).append(now)
        return encode_response(PartialSuccess())

    async def listen(self) -> None:
        """Be there, and take everything at once."""
        self.away, self.slow_s = False, 0.0
        if not self.listening:
            await self.__aenter__()
            self.listening = True

    async def vanish(self) -> None:
        """Listen no more; calls that were answered are answered."""
        if self.listening:
            self.listening = False
            await self._server.stop(1.0)

    async def change(self) -> None:
        """Be in some other way from now on."""
        match self._rng.choice(("up", "up", "away", "slow", "vanished")):
            case "vanished":
                await self.vanish()
            case mood:
                await self.listen()
                self.away = mood == "away"
                self.slow_s = 3.0 if mood == "slow" else 0.0


@dataclass
class Sender:
    """Sends numbered spans to whichever agent `agent` names, over `protocol` (grpc or http).

    `acknowledged` says when each was, by the monotonic clock, and `taken_bytes` how large those
    requests were; `refused` counts the requests that were to be sent again later, and
    `refused_at_bytes` is what `taken_bytes` was at the first; `codes` has the other answers.
    """

    agent: Callable[[], Agent | None]
    protocol: str
    items: int = 4
    item_bytes: int = 0
    pause_s: float = 0.02
    acknowledged: dict[int, float] = field(default_factory=dict)
    taken_bytes: int = 0
    refused: int = 0
    refused_at_bytes: int | None = None
    broken: int = 0
    codes: list[str] = field(default_factory=list)
    _next: int = 1

    async def run(self, number: int, of: int) -> None:
        """Send until cancelled: `number` is which of the `of` senders this is, from 0."""
        self._next = number * self.items + 1
        bodies = Bodies("1", items=self.items, item_bytes=self.item_bytes)
        while True:
            agent = self.agent()
            if agent is None:
                await asyncio.sleep(self.pause_s)
                continue
            send = self._over_grpc if self.protocol == "grpc" else self._over_http
            try:
                await send(agent, bodies, of)
            except (OSError, EOFError, grpc.aio.AioRpcError):
                # It was killed, or is not there yet.
                self.broken += 1
                await asyncio.sleep(self.pause_s)

    def _body(self, bodies: Bodies, of: int) -> tuple[range, bytes]:
        first = self._next
        self._next += self.items * of
        numbers = range(first, first + self.items)
        return numbers, bodies.body(Signal.TRACES, first, time.time_ns())

    async def _over_http(self, agent: Agent, bodies: Bodies, of: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", agent.http_port)
        try:
            while self.agent() is agent:
                numbers, body = self._body(bodies, of)
                writer.write(
                    f"POST {HTTP_PATHS[Signal.TRACES]} HTTP/1.1\r\nHost: agent\r\n"
                    f"Content-Type: application/x-protobuf\r\nContent-Length: {len(body)}\r\n\r\n"
                    "".encode()
                    + body
                )
                async with asyncio.timeout(ANSWER_S):
                    head = await reader.readuntil(b"\r\n\r\n")
                    length = int(head.lower().partition(b"content-length:")[2].split()[0])
                    await reader.readexactly(length)
                self._answered(head.split()[1].decode(), numbers, len(body))
                await asyncio.sleep(self.pause_s)
        finally:
            writer.transport.abort()

    async def _over_grpc(self, agent: Agent, bodies: Bodies, of: int) -> None:
        options = (("grpc.enable_retries", 0),)
        async with grpc.aio.insecure_channel(f"127.0.0.1:{agent.grpc_port}", options) as channel:
            call = channel.unary_unary(GRPC_PATHS[Signal.TRACES])
            while self.agent() is agent:
                numbers, body = self._body(bodies, of)
                try:
                    await call(body, timeout=ANSWER_S)
                    code = "200"
                except grpc.aio.AioRpcError as error:
                    if error.code() is not grpc.StatusCode.UNAVAILABLE or not _by_the_agent(error):
                        raise
                    code = "503"
                self._answered(code, numbers, len(body))
                await asyncio.sleep(self.pause_s)

    def _answered(self, code: str, numbers: range, size: int) -> None:
        if code == "200":
            now = time.monotonic()
            self.acknowledged.update(dict.fromkeys(numbers, now))
            self.taken_bytes += size
        elif code == "503":
            self.refused += 1
            if self.refused_at_bytes is None:
                self.refused_at_bytes = self.taken_bytes
        else:
            self.codes.append(code)


def _by_the_agent(error: grpc.aio.AioRpcError) -> bool:
    # grpcio says the same code where nobody listens; an agent says when to come back.
    return any(key == "grpc-status-details-bin" for key, _ in error.trailing_metadata())
