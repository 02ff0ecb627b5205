"""`durability: strict`: the answer waits for the disk, and for nothing else."""

import asyncio
import math
from collections.abc import Awaitable, Callable

import grpc
import grpc.aio
import pytest

from edge_agent.receiver.core import RETRY_AFTER_S
from tests.agent.receiver import requests as r
from tests.agent.receiver.oracle import TRACES
from tests.agent.receiver.servers import DEADLINE_S, Receiving, connected, post, receiving

OPTIONS = [("grpc.use_local_subchannel_pool", 1)]


async def by_grpc(receiver: Receiving) -> str:
    """The code of a call, and whether it says when to come back."""
    target = f"127.0.0.1:{receiver.grpc_port}"
    async with grpc.aio.insecure_channel(target, OPTIONS) as channel:
        try:
            await channel.unary_unary(TRACES)(r.ONE, timeout=DEADLINE_S)
        except grpc.aio.AioRpcError as error:
            return error.code().name
    return "OK"


async def by_http(receiver: Receiving) -> str:
    """The same over HTTP."""
    async with connected(receiver.port) as wire:
        await wire.send(post(r.ONE))
        answer = await wire.answer()
    if answer.status == 503:
        assert answer.headers["retry-after"] == str(math.ceil(RETRY_AFTER_S))
        return "UNAVAILABLE"
    return "OK" if answer.status == 200 else str(answer.status)


@pytest.mark.parametrize("send", [by_grpc, by_http])
@pytest.mark.parametrize(("durable", "code"), [(True, "OK"), (False, "UNAVAILABLE")])
async def test_the_answer_waits_for_the_disk(
    send: Callable[[Receiving], Awaitable[str]], *, durable: bool, code: str
) -> None:
    """OK once it is written, UNAVAILABLE where it cannot be; others are answered meanwhile."""
    async with receiving() as receiver:
        saved: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        receiver.queues.saved = saved
        waiting = asyncio.ensure_future(send(receiver))
        await asyncio.wait_for(receiver.queues.asked.wait(), DEADLINE_S)
        receiver.queues.saved = None
        assert await send(receiver) == "OK"
        assert not waiting.done()
        saved.set_result(durable)
        assert await waiting == code


@pytest.mark.parametrize("port", ["grpc", "http"])
async def test_who_goes_away_meanwhile_leaves_nothing_behind(port: str) -> None:
    """No room of the budget, no connection, no error."""
    async with receiving() as receiver:
        saved: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        receiver.queues.saved = saved
        waiting = asyncio.ensure_future((by_grpc if port == "grpc" else by_http)(receiver))
        await asyncio.wait_for(receiver.queues.asked.wait(), DEADLINE_S)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        saved.set_result(True)
        receiver.queues.saved = None
        assert await by_grpc(receiver) == "OK"
