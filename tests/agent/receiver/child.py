"""The receiver in a process of its own, whose memory can be looked at."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.agent.receiver import requests as r
from tests.agent.receiver.servers import DEADLINE_S, connected, post
from tests.fakes.programs import ROOT
from tests.fakes.receiver import BUDGET_BYTES

MIB = 1 << 20
# What is not bodies: the interpreter and its modules, 200 connections with what each has read, and
# the one request that is being looked at, in three forms.
OVERHEAD_BYTES = 40 * MIB


@dataclass
class Child:
    """The receiver as a program of its own: HTTP on `port`, gRPC on `grpc_port`."""

    process: asyncio.subprocess.Process
    port: int
    grpc_port: int

    def anonymous_bytes(self, *, peak: bool = False) -> int:
        """Its anonymous memory (proc_pid_status(5)), now or, at most, ever."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        kb = {line.split(":")[0]: line.split()[1] for line in lines if line.endswith(" kB")}
        return (int(kb["VmHWM"]) - int(kb["RssFile"]) if peak else int(kb["RssAnon"])) * 1024


@asynccontextmanager
async def running() -> AsyncIterator[Child]:
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
            ports = [int(port) for port in (await process.stdout.readline()).split()]
        child = Child(process, *ports)
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
