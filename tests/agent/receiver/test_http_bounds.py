"""Memory of the HTTP receiver under senders that mean no good: the short form of test_bounds.py."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.agent.receiver import requests as r
from tests.agent.receiver.oracle import head
from tests.agent.receiver.servers import DEADLINE_S, connected, post
from tests.fakes import attacks
from tests.fakes.programs import ROOT
from tests.fakes.receiver import BUDGET_BYTES

MIB = 1 << 20
# What is not bodies: the interpreter and its modules, 200 connections with what each has read, and
# the one request that is being looked at, in three forms.
OVERHEAD_BYTES = 40 * MIB


@dataclass
class Child:
    """The receiver as a program of its own."""

    process: asyncio.subprocess.Process
    port: int

    def anonymous_bytes(self, *, peak: bool = False) -> int:
        """Its anonymous memory (proc_pid_status(5)), now or, at most, ever."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        kb = {line.split(":")[0]: line.split()[1] for line in lines if line.endswith(" kB")}
        return (int(kb["VmHWM"]) - int(kb["RssFile"]) if peak else int(kb["RssAnon"])) * 1024


@pytest.fixture
async def child() -> AsyncIterator[Child]:
    """Started, and in the end still answering and below its bound."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.fakes.receiver",
        cwd=ROOT,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env={"PATH": os.environ["PATH"]},
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        async with asyncio.timeout(DEADLINE_S):
            port = int((await process.stdout.readline()).split()[0])
        child = Child(process, port)
        yield child
        await answers(child, 200)
        assert child.anonymous_bytes(peak=True) < BUDGET_BYTES + OVERHEAD_BYTES
        process.stdin.close()
        async with asyncio.timeout(DEADLINE_S):
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def answers(child: Child, *allowed: int, data: bytes | None = None) -> int:
    """The status that a well-formed request gets now, which is one of `allowed`."""
    async with connected(child.port) as wire:
        await wire.send(data or post(r.ONE))
        status = (await wire.answer()).status
    assert status in allowed
    return status


async def settled(child: Child) -> None:
    """Until the child has looked at all that has come: it answers after what came before."""
    for _ in range(3):
        await answers(child, 200)


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
