"""Memory of the gRPC receiver under senders that mean no good: the short form of test_bounds.py."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator

import grpc
import grpc.aio
import pytest

from tests.agent.receiver import requests as r
from tests.agent.receiver.child import MIB, Child, running
from tests.agent.receiver.oracle import TRACES
from tests.agent.receiver.servers import DEADLINE_S
from tests.fakes import attacks

OPTIONS = [("grpc.max_send_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
ALLOWED = {"OK", "UNAVAILABLE", "DEADLINE_EXCEEDED"}


@pytest.fixture
async def child() -> AsyncIterator[Child]:
    """A receiver, which in the end still answers and was always below its bound."""
    async with running() as started:
        yield started
        assert await calls(started, r.ONE, 1) == {"OK": 1}


async def calls(child: Child, body: bytes, count: int) -> Counter[str]:
    """The codes that `count` calls at once on one connection get."""
    answers = Counter[str]()
    target = f"127.0.0.1:{child.grpc_port}"
    async with grpc.aio.insecure_channel(target, OPTIONS) as channel:
        call = channel.unary_unary(TRACES)

        async def one() -> None:
            try:
                await call(body, timeout=DEADLINE_S)
                answers["OK"] += 1
            except grpc.aio.AioRpcError as error:
                answers[error.code().name] += 1

        await asyncio.gather(*(one() for _ in range(count)))
    return answers


async def provoke(port: int, pieces: Iterator[bytes]) -> bytes:
    """Send `pieces` until the server has had enough; all that it said."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    hearing = asyncio.create_task(reader.read())
    try:
        for piece in pieces:
            if hearing.done():
                break
            writer.write(piece)
            await writer.drain()
        async with asyncio.timeout(DEADLINE_S):
            return await hearing
    finally:
        writer.transport.abort()


async def test_64_connections_with_four_large_calls_each(child: Child) -> None:
    """256 calls of 3.9 MB: a gigabyte that wants in. What is not taken is told to come back."""
    body = r.padded(3_900_000)
    found = await asyncio.gather(*(calls(child, body, 4) for _ in range(64)))
    answers = sum(found, Counter[str]())
    assert set(answers) <= ALLOWED
    assert answers["OK"] >= 64
    assert answers.total() == 256


async def test_a_hundred_calls_that_announce_much_and_send_nothing(child: Child) -> None:
    """They take the room of large ones, and leave that of small ones."""
    slow = attacks.HELLO + attacks.open_call(3_900_000)
    async with attacks.holding(child.grpc_port, 100, slow):
        for _ in range(10):
            assert await calls(child, r.padded(60_000), 2) == {"OK": 2}


async def test_bodies_in_frames_of_one_byte(child: Child) -> None:
    """A byte takes a byte: not forty, as an object of its own would."""
    drops = attacks.frame(0, 0, 1, b"x") * 60_000
    slow = attacks.HELLO + attacks.open_call(200_000) + drops
    before = child.anonymous_bytes()
    async with attacks.holding(child.grpc_port, 50, slow):
        for _ in range(5):
            assert await calls(child, r.ONE, 1) == {"OK": 1}
        assert child.anonymous_bytes() - before < 16 * MIB


async def test_two_hundred_idle_connections(child: Child) -> None:
    """They cost a few kilobytes each."""
    assert await calls(child, r.ONE, 10) == {"OK": 10}
    before = child.anonymous_bytes()
    async with attacks.holding(child.grpc_port, 200, attacks.HELLO):
        for _ in range(3):
            assert await calls(child, r.ONE, 1) == {"OK": 1}
        assert child.anonymous_bytes() - before < 200 * 40 * 1024


@pytest.mark.parametrize("fields", [100, 400])
async def test_open_calls_with_many_header_fields(child: Child, fields: int) -> None:
    """Twenty thousand calls that never bring data: nothing of a head is kept, large or not."""
    assert await calls(child, r.ONE, 100) == {"OK": 100}
    before = child.anonymous_bytes()
    async with attacks.holding(child.grpc_port, 200, attacks.open_heads(fields)) as senders:
        # Until all of it has been looked at: our SETTINGS are the least that comes back.
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(DEADLINE_S):
            for sender in senders:
                with contextlib.suppress(ConnectionError):
                    assert await loop.sock_recv(sender, 9)
        for _ in range(5):
            assert await calls(child, r.ONE, 1) == {"OK": 1}
        assert child.anonymous_bytes() - before < 24 * MIB


async def test_small_messages_that_unpack_to_large_ones(child: Child) -> None:
    """Fifteen in one read, each 4 MiB of tiny spans: others are answered in between."""
    heavy = attacks.HELLO + attacks.packed_calls(r.many_empty_spans(4 * MIB), 15)
    async with attacks.holding(child.grpc_port, 4, heavy):
        for _ in range(3):
            assert set(await calls(child, r.ONE, 2)) <= ALLOWED


async def test_gzip_bombs(child: Child) -> None:
    """60 MB in 60 KB, which a sender may send unasked; and half a gigabyte, which it may not."""
    for size in (60 * MIB, 500 * MIB):
        packed = attacks.HELLO + attacks.packed_call(r.bomb(size))
        async with attacks.holding(child.grpc_port, 32, packed):
            for _ in range(3):
                assert await calls(child, r.ONE, 1) == {"OK": 1}


async def test_peers_that_never_read(child: Child) -> None:
    """A window of zero: a hundred answers wait, and no more."""
    never = attacks.zero_window(300, r.ONE)
    async with attacks.holding(child.grpc_port, 100, never):
        for _ in range(5):
            assert await calls(child, r.ONE, 1) == {"OK": 1}


@pytest.mark.parametrize(
    "flood",
    [
        lambda: attacks.rapid_reset(10_000),
        lambda: attacks.continuation_flood(50_000),
        lambda: attacks.header_bomb(100),
        lambda: attacks.settings_flood(50_000),
        lambda: attacks.ping_flood(50_000),
    ],
    ids=["rapid reset", "CONTINUATION", "header bomb", "SETTINGS", "PING"],
)
async def test_a_flood_ends_with_goaway(child: Child, flood: Callable[[], Iterator[bytes]]) -> None:
    """The flooder reads it, others notice nothing."""
    heard, answers = await asyncio.gather(
        provoke(child.grpc_port, flood()), calls(child, r.ONE, 20)
    )
    assert b"\x07\0\0\0\0\0" in heard
    assert answers == {"OK": 20}


async def test_twenty_thousand_tiny_calls_leave_nothing_behind(child: Child) -> None:
    """Each is answered."""
    for _ in range(10):
        assert await calls(child, r.ONE, 200) == {"OK": 200}
    before = child.anonymous_bytes()
    for _ in range(10):
        found = await asyncio.gather(*(calls(child, r.ONE, 450) for _ in range(4)))
        assert found == [{"OK": 450}] * 4
    assert child.anonymous_bytes() - before < 2 * MIB
