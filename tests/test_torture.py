"""What the ring promises, shown on the whole agent: it is killed, its disk fails, its peer goes away.

Short forms run with all tests, the long ones under `make torture`.
"""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from edge_agent.otlp.signal import Signal
from tests.fakes.numbered import Sender, Taker
from tests.fakes.programs import Agent, eventually, sample
from tests.test_receiver_soak import ledger

FLUSH_S = 0.25
# A commit, and what else a loaded machine does meanwhile (DESIGN: flush_interval and a commit).
WINDOW_S = FLUSH_S + 1.0
# What is answered as the process ends is noted here a moment later.
_LATE_S = 0.25
LIFE_S = 1.5
TRACES = ("collector", Signal.TRACES)


def start(tmp_path: Path, taker: Taker, *, durability: str = "flush", **environ: str) -> Agent:
    """An agent that saves and retries quickly, in front of `taker`."""
    config = tmp_path / "agent.yaml"
    config.write_text(
        f"collector:\n  endpoint: {taker.endpoint}\n"
        "  retry: {initial_interval: 50ms, max_interval: 200ms}\n"
        f"buffer:\n  flush_interval: {FLUSH_S * 1000:.0f}ms\n  durability: {durability}\n"
    )
    return Agent(
        tmp_path / "agent",
        module="tests.fakes.eager",
        arguments=["--config", str(config)],
        **{"METRICS_INTERVAL": "1h"} | environ,
    )


async def answers(agent: Agent) -> None:
    """Wait until it does."""
    await asyncio.to_thread(eventually, agent.health, "the agent's /health")


async def look(agent: Agent) -> tuple[str, int]:
    """/metrics, and how many spans are held; its ledger balances, for every destination."""
    text = await asyncio.to_thread(agent.metrics)
    rows = ledger(text)
    assert {key: row.settled + row.held for key, row in rows.items()} == {
        key: row.accepted for key, row in rows.items()
    }
    return text, rows[TRACES].held


async def held_is(agent: Agent, wanted: Callable[[int], bool], deadline_s: float = 60.0) -> str:
    """/metrics once as many spans are held as `wanted`."""
    async with asyncio.timeout(deadline_s):
        while True:
            text, held = await look(agent)
            if wanted(held):
                return text
            await asyncio.sleep(0.05)


@asynccontextmanager
async def sending(senders: Sequence[Sender]) -> AsyncIterator[None]:
    """They send until the end of the block; one that fails is the end of it, too."""
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(sender.run(number, len(senders)))
            for number, sender in enumerate(senders)
        ]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()


# kill -9


@dataclass
class Kills:
    """What was done, and when each agent was killed, by the monotonic clock."""

    at_s: list[float]
    acknowledged: dict[int, float]
    taken: dict[int, list[float]]

    def after_s(self, moment_s: float) -> float:
        """How long after a moment the next kill was."""
        return min(
            (at - moment_s for at in self.at_s if at > moment_s - _LATE_S), default=float("inf")
        )

    @property
    def lost(self) -> dict[int, float]:
        """What never arrived -> how long after it was acknowledged the agent was killed."""
        return {
            number: self.after_s(at)
            for number, at in self.acknowledged.items()
            if number not in self.taken
        }

    @property
    def repeated(self) -> dict[int, float]:
        """What arrived more than once -> the longest time from an arrival to the next kill."""
        return {
            number: max(self.after_s(at) for at in times[:-1])
            for number, times in self.taken.items()
            if len(times) > 1
        }

    def __str__(self) -> str:
        lost, repeated = self.lost.values(), self.repeated.values()
        return (
            f"{len(self.at_s)} kills, {len(self.acknowledged)} acknowledged,"
            f" {len(lost)} lost at most {max(lost, default=0):.3f} s before a kill,"
            f" {len(repeated)} repeated at most {max(repeated, default=0):.3f} s before a kill"
        )


async def kill_often(tmp_path: Path, times: int, *, durability: str, seed: int) -> Kills:
    """Kill an agent again and again under load, its collector coming and going; then let the last
    one deliver what is held."""
    rng = random.Random(seed)
    tmp_path.mkdir()
    killed_s: list[float] = []
    current: list[Agent | None] = [None]
    protocols = ("http", "http") if durability == "strict" else ("grpc", "http")
    senders = [Sender(lambda: current[0], protocol) for protocol in protocols]
    agent: Agent | None = None
    async with Taker(rng) as taker:
        try:
            async with sending(senders):
                for _ in range(times):
                    agent = start(tmp_path, taker, durability=durability)
                    changing = asyncio.create_task(_change(taker, rng))
                    if rng.random() < 0.2:
                        await asyncio.sleep(rng.random() * LIFE_S / 2)
                    else:
                        await answers(agent)
                        current[0] = agent
                        await _live(agent, rng.random() * LIFE_S)
                    killed_s.append(time.monotonic())
                    agent.process.kill()
                    current[0] = None
                    await asyncio.to_thread(agent.process.wait)
                    changing.cancel()
                    await asyncio.gather(changing, return_exceptions=True)
            await taker.listen()
            agent = start(tmp_path, taker, durability=durability)
            await answers(agent)
            await held_is(agent, lambda held: held == 0)
            assert await asyncio.to_thread(agent.stop) == 0, agent.log
        finally:
            if agent is not None:
                agent.kill()
            await taker.listen()
    assert not [code for sender in senders for code in sender.codes]
    assert "moved aside" not in agent.log
    acknowledged = {n: at for sender in senders for n, at in sender.acknowledged.items()}
    return Kills(killed_s, acknowledged, taker.taken)


async def _live(agent: Agent, life_s: float) -> None:
    """Watch the ledger for a while: nothing is dropped."""
    with suppress(TimeoutError):
        async with asyncio.timeout(life_s):
            while True:
                text, _ = await look(agent)
                assert not sample(text, "agent_items_total", outcome="dropped")
                await asyncio.sleep(0.1)


async def _change(taker: Taker, rng: random.Random) -> None:
    while True:
        await taker.change()
        await asyncio.sleep(rng.random())


def assert_kept(flushed: Kills, strict: Kills) -> None:
    """Nothing is lost but what the promise lets go, and nothing else is sent twice."""
    print(f"flush: {flushed}\nstrict: {strict}")  # noqa: T201 - the figures of `make torture`
    assert flushed.acknowledged
    assert strict.acknowledged
    assert {n: at for n, at in flushed.lost.items() if at > WINDOW_S} == {}
    assert strict.lost == {}
    for kills in (flushed, strict):
        assert {n: at for n, at in kills.repeated.items() if at > WINDOW_S} == {}


async def kill_both(tmp_path: Path, times: int) -> tuple[Kills, Kills]:
    """The same for both kinds of durability, side by side."""
    return await asyncio.gather(
        kill_often(tmp_path / "flush", times, durability="flush", seed=7),
        kill_often(tmp_path / "strict", times, durability="strict", seed=8),
    )


async def test_twenty_kills_lose_and_repeat_no_more_than_was_promised(tmp_path: Path) -> None:
    """`flush` loses what was acknowledged within its window before a kill, `strict` nothing."""
    assert_kept(*await kill_both(tmp_path, 20))


@pytest.mark.torture
@pytest.mark.timeout(0)
@pytest.mark.parametrize("times", [200, 2000])
async def test_many_kills_lose_and_repeat_no_more_than_was_promised(
    tmp_path: Path, times: int
) -> None:
    """The same, 200 and 2,000 times."""
    assert_kept(*await kill_both(tmp_path, times))
