"""The whole agent under everything that senders can do to it, in a cgroup of 256 MB: `make soak`.

DESIGN, "Promises": anonymous memory stays under 96 MB, /health answers within a second, and
well-formed requests get OK, UNAVAILABLE (503) or a deadline, whatever others send.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import grpc.aio
import pytest

from tests.agent.receiver import requests as r
from tests.agent.receiver.oracle import TRACES, head
from tests.agent.receiver.servers import connected, post
from tests.fakes import attacks
from tests.fakes.cgroup import MemoryCgroup
from tests.fakes.collector import FakeCollector, Received
from tests.fakes.programs import Agent, eventually, free_port, get, sample
from tests.test_soak import anonymous_kb

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1800)]

MIB = 1 << 20
MAX_CGROUP_BYTES = 256 * MIB
MAX_ANONYMOUS_KB = 96 * 1024
MAX_HEALTH_S = 1.0
CALL_TIMEOUT_S = 10.0
ALLOWED = {"grpc OK", "grpc UNAVAILABLE", "grpc DEADLINE_EXCEEDED", "http 200", "http 503"}
# Of spans that a record of the ring can hold.
LARGE = b"".join(r.padded(390_000) for _ in range(10))
HALF = head(b"Content-Length: 8000000") + bytes(4_000_000)
HALF_TAKEN = head(b"Content-Length: 3900000") + bytes(1_950_000)
BOMBS = (500 * MIB, 60 * MIB)
OPTIONS = [("grpc.max_send_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]


class Forgetting(FakeCollector):
    """Takes everything and remembers nothing."""

    async def add(self, received: Received) -> None:
        """Forget it."""


@dataclass
class Watch:
    """What was seen while something went on."""

    anonymous_kb: int = 0
    health_s: float = 0.0
    answers: Counter[str] = field(default_factory=Counter)
    looked: asyncio.Event = field(default_factory=asyncio.Event)


async def watch(agent: Agent, watched: Watch) -> None:
    """Ask /health, look at the memory and send well-formed requests, until cancelled."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{agent.grpc_port}", OPTIONS) as channel:
        call = channel.unary_unary(TRACES)
        while True:
            watched.anonymous_kb = max(watched.anonymous_kb, anonymous_kb(agent))
            # In a thread: this loop is busy with the attack.
            health_s = await asyncio.to_thread(health_takes_s, agent)
            watched.health_s = max(watched.health_s, health_s)
            watched.answers[await one_call(call, r.ONE)] += 1
            watched.answers[await one_post(agent)] += 1
            watched.looked.set()
            await asyncio.sleep(0.05)


def health_takes_s(agent: Agent) -> float:
    """How long an answer of /health takes."""
    started = time.monotonic()
    status, _ = get(f"http://127.0.0.1:{agent.port}/health")
    assert status in (200, 503)
    return time.monotonic() - started


async def one_call(call: grpc.aio.UnaryUnaryMultiCallable, body: bytes) -> str:
    """The code that a well-formed call gets."""
    try:
        await call(body, timeout=CALL_TIMEOUT_S)
    except grpc.aio.AioRpcError as error:
        return f"grpc {error.code().name}"
    return "grpc OK"


async def one_post(agent: Agent) -> str:
    """The status that a well-formed request gets."""
    try:
        async with connected(agent.http_port) as wire:
            wire.deadline_s = CALL_TIMEOUT_S
            await wire.send(post(r.ONE))
            return f"http {(await wire.answer()).status}"
    except (ConnectionError, asyncio.IncompleteReadError) as error:
        return f"http {type(error).__name__}"


@asynccontextmanager
async def an_agent(tmp_path: Path, endpoint: str) -> AsyncIterator[Agent]:
    """An agent in its cgroup, which has to end cleanly."""
    cgroup = MemoryCgroup("pulseops-bounds", MAX_CGROUP_BYTES)
    print(cgroup.how)  # noqa: T201  (one runs this to see it)
    agent = Agent(tmp_path / "agent", OTEL_EXPORTER_OTLP_ENDPOINT=endpoint)
    try:
        cgroup.add(agent.process.pid)
        eventually(agent.health, "the agent's /health")
        for size in BOMBS:
            r.bomb(size)  # Packing half a gigabyte takes a while, and is kept.
        yield agent
        assert agent.stop() == 0, agent.log
    finally:
        agent.kill()
        cgroup.remove()


# ---- what is done to it -----------------------------------------------------------------------


async def large_calls(agent: Agent, watched: Watch) -> None:
    """64 connections with 4 calls of 3.9 MB each, all at once."""

    async def client() -> None:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{agent.grpc_port}", OPTIONS) as channel:
            call = channel.unary_unary(TRACES)
            watched.answers.update(await asyncio.gather(*(one_call(call, LARGE) for _ in range(4))))

    await asyncio.gather(*(client() for _ in range(64)))


async def half_sent_bodies(agent: Agent, _watched: Watch) -> None:
    """100 bodies of 8 MB, which are refused, and 100 of 3.9 MB, which are not; then nothing."""
    async with (
        attacks.holding(agent.http_port, 100, HALF),
        attacks.holding(agent.http_port, 100, HALF_TAKEN),
    ):
        await asyncio.sleep(25.0)


async def idle_connections(agent: Agent, _watched: Watch) -> None:
    """300 on each port, which are more than there is room for: others get in."""
    async with (
        attacks.holding(agent.http_port, 300, b""),
        attacks.holding(agent.grpc_port, 300, attacks.HELLO),
    ):
        await asyncio.sleep(5.0)


async def slow_senders(agent: Agent, _watched: Watch) -> None:
    """A byte a second, on 100 connections of each port, for longer than either has patience."""
    slow_call = attacks.HELLO + attacks.open_call(3_900_000)
    await asyncio.gather(
        attacks.dripping(agent.http_port, 100, head(b"Content-Length: 3900000"), 1.0, 35.0),
        attacks.dripping(
            agent.grpc_port, 100, slow_call, 1.0, 35.0, drop=attacks.frame(0, 0, 1, b"\0")
        ),
    )


async def hoarders(agent: Agent, _watched: Watch) -> None:
    """All the room that there is, held with 350 bytes a second each."""
    start = attacks.HELLO + attacks.open_call((256 << 10) - 5)
    await attacks.dripping(
        agent.grpc_port, 96, start, 2.0, 15.0, drop=attacks.frame(0, 0, 1, bytes(700))
    )


async def open_heads(agent: Agent, _watched: Watch) -> None:
    """200 connections with 100 calls each that bring nothing but header fields."""
    for fields in (400, 100):
        async with attacks.holding(agent.grpc_port, 200, attacks.open_heads(fields)):
            await asyncio.sleep(10.0)


async def heavy_messages(agent: Agent, _watched: Watch) -> None:
    """Messages of 4 KB that unpack to 4 MiB of empty spans, as many as go into one read."""
    packed = r.many_empty_spans(4 * MIB)
    async with (
        attacks.holding(agent.grpc_port, 8, attacks.HELLO + attacks.packed_calls(packed, 45)),
        attacks.holding(agent.http_port, 8, post(packed, coding="gzip") * 15),
    ):
        await asyncio.sleep(20.0)


async def gzip_bombs(agent: Agent, _watched: Watch) -> None:
    """500 MB in half a megabyte, and what fits into a window that is open unasked; 32 of each."""
    packed = attacks.HELLO + attacks.packed_call(r.bomb(BOMBS[1]))
    async with (
        attacks.holding(agent.http_port, 32, post(r.bomb(BOMBS[0]), coding="gzip")),
        attacks.holding(agent.grpc_port, 32, packed),
    ):
        await asyncio.sleep(10.0)


async def floods(agent: Agent, _watched: Watch) -> None:
    """HTTP/2 floods, three connections each, one kind after the other."""
    for flood in (
        lambda: attacks.rapid_reset(10_000),
        lambda: attacks.continuation_flood(100_000),
        lambda: attacks.header_bomb(200),
        lambda: attacks.settings_flood(100_000),
        lambda: attacks.ping_flood(100_000),
    ):
        await asyncio.gather(*(attacks.flood(agent.grpc_port, flood()) for _ in range(3)))


async def peers_that_never_read(agent: Agent, _watched: Watch) -> None:
    """Windows of 0, and clients that never take an answer from their sockets."""
    async with (
        attacks.holding(agent.grpc_port, 100, attacks.zero_window(100, r.ONE)),
        attacks.holding(agent.http_port, 20, post(b"", "/" + "x" * 150) * 50_000),
    ):
        await asyncio.sleep(35.0)


async def tiny_requests(agent: Agent, watched: Watch) -> None:
    """A million, on 20 connections."""
    tiny = post(b"")
    for statuses in await asyncio.gather(
        *(attacks.requests(agent.http_port, tiny, 50_000) for _ in range(20))
    ):
        watched.answers.update({f"http {status}": n for status, n in statuses.items()})


async def tiny_calls(agent: Agent, watched: Watch) -> None:
    """A million too."""
    for answers in await asyncio.gather(
        *(attacks.calls(agent.grpc_port, b"", 50_000) for _ in range(20))
    ):
        assert answers == {"OK": 50_000, "refused": 0}
        watched.answers["grpc OK"] += answers["OK"]


# With the reasons for which connections, or calls, have to be ended.
ATTACKS: dict[Callable[[Agent, Watch], Awaitable[None]], set[tuple[str, str]]] = {
    large_calls: set(),
    half_sent_bodies: {("http", "stalled_body")},
    idle_connections: {("http", "idle"), ("grpc", "idle")},
    slow_senders: {("http", "stalled_body"), ("grpc", "stalled_body")},
    hoarders: {("grpc", "stalled_body")},
    open_heads: {("grpc", "header_bomb")},
    heavy_messages: set(),
    gzip_bombs: set(),
    floods: {("grpc", "rapid_reset"), ("grpc", "header_bomb"), ("grpc", "flood")},
    peers_that_never_read: {("http", "unread"), ("grpc", "unread")},
    tiny_requests: set(),
    tiny_calls: set(),
}
REASONS = sorted(set().union(*ATTACKS.values()))


def closed(agent: Agent) -> dict[tuple[str, str], float]:
    """How many connections and calls were ended so far, by receiver and reason."""
    metrics, name = agent.metrics(), "agent_receiver_connections_closed_total"
    return {
        (receiver, reason): sample(metrics, name, receiver=receiver, reason=reason) or 0.0
        for receiver, reason in REASONS
    }


@pytest.mark.parametrize("collector", ["up", "down"])
async def test_whatever_is_sent_memory_is_bounded_and_others_are_served(
    tmp_path: Path, collector: str
) -> None:
    """Each attack in turn on one agent, whose collector takes everything or is not there; the
    reasons for which somebody was sent away are on /metrics."""
    async with AsyncExitStack() as stack:
        endpoint = f"http://127.0.0.1:{free_port()}"
        if collector == "up":
            endpoint = str((await stack.enter_async_context(Forgetting())).endpoint)
        agent = await stack.enter_async_context(an_agent(tmp_path, endpoint))
        seen: dict[str, Watch] = {}
        for attack, reasons in ATTACKS.items():
            before = closed(agent)
            watched = seen[attack.__name__] = Watch()
            watching = asyncio.create_task(watch(agent, watched))
            await attack(agent, watched)
            # And once more, when it is over.
            watched.looked.clear()
            looked = asyncio.create_task(watched.looked.wait())
            await asyncio.wait([watching, looked], return_when=asyncio.FIRST_COMPLETED)
            for task in (watching, looked):
                task.cancel()
            await asyncio.gather(watching, looked, return_exceptions=True)
            ended = {key: n - before[key] for key, n in closed(agent).items() if n > before[key]}
            print(  # noqa: T201  (the figures are what one runs this for)
                f"{attack.__name__:22} {watched.anonymous_kb / 1024:5.1f} MB"
                f"  /health {watched.health_s * 1000:4.0f} ms  {dict(watched.answers)}  {ended}"
            )
            assert reasons <= ended.keys(), attack.__name__
            if watching.done() and not watching.cancelled():
                watching.result()
        for name, watched in seen.items():
            assert watched.anonymous_kb <= MAX_ANONYMOUS_KB, name
            assert watched.health_s <= MAX_HEALTH_S, name
            assert set(watched.answers) <= ALLOWED, (name, watched.answers)
            assert watched.answers, name
