"""Memory of the HTTP receiver under senders that mean no good: the short form of test_bounds.py."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.agent.receiver import requests as r
from tests.agent.receiver.child import MIB, Child, answers, running, settled
from tests.agent.receiver.oracle import head
from tests.agent.receiver.servers import post
from tests.fakes import attacks


@pytest.fixture
async def child() -> AsyncIterator[Child]:
    """A receiver, which in the end still answers and was always below its bound."""
    async with running() as started:
        yield started


@pytest.mark.parametrize("size", [3_900_000, 8_000_000])
async def test_a_hundred_half_sent_bodies(child: Child, size: int) -> None:
    """As many as there is room for are read, the rest waits with its senders, others get in."""
    data = head(b"Content-Length: %d" % size) + bytes(size // 2)
    async with attacks.holding(child.port, 100, data):
        for _ in range(20):
            await answers(child, 200)
            await answers(child, 200, 503, data=post(r.padded(150_000)))


async def test_a_hundred_half_sent_chunked_bodies(child: Child) -> None:
    """Nobody says how large they will be."""
    chunk = b"%x\r\n" % MIB + bytes(MIB) + b"\r\n"
    data = head(b"Transfer-Encoding: chunked") + chunk * 3
    async with attacks.holding(child.port, 100, data):
        for _ in range(20):
            await answers(child, 200)


async def test_two_hundred_idle_connections(child: Child) -> None:
    """They cost a few kilobytes each."""
    before = child.anonymous_bytes()
    async with attacks.holding(child.port, 200, b""):
        await settled(child)
        assert child.anonymous_bytes() - before < 200 * 16 * 1024


async def test_two_hundred_heads_that_do_not_end(child: Child) -> None:
    """Sixteen kilobytes is all that one may have."""
    async with attacks.holding(child.port, 200, head()[:-4] + b"\r\nA: " + b"a" * 12_000):
        await settled(child)


async def test_gzip_bombs(child: Child) -> None:
    """500 MB in half a megabyte: unpacked as far as we take, one at a time."""
    data = post(r.bomb(500 * MIB), coding="gzip")
    for status in await asyncio.gather(*(answers(child, 413, 503, data=data) for _ in range(16))):
        assert status == 413


async def test_senders_that_never_read(child: Child) -> None:
    """What they are owed fills their own buffers and then ours, up to a bound; no more is read."""
    async with attacks.holding(child.port, 200, post(b"", "/" + "x" * 150) * 100_000):
        await settled(child)
        for _ in range(5):
            await answers(child, 200, data=post(r.padded(60_000)))


async def test_twenty_thousand_tiny_requests(child: Child) -> None:
    """Each is answered, and leaves nothing behind."""
    tiny = post(r.ONE)
    assert await attacks.requests(child.port, tiny, 2_000) == {200: 2_000}
    before = child.anonymous_bytes()
    found = await asyncio.gather(*(attacks.requests(child.port, tiny, 4_000) for _ in range(5)))
    assert found == [{200: 4_000}] * 5
    assert child.anonymous_bytes() - before < MIB
