"""What the ring promises, shown on the whole agent: it is killed, its disk fails, its peer leaves.

Short forms run with all tests, the long ones under `make torture`.
"""

import asyncio
import errno
import mmap
import random
import struct
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from edge_agent.otlp.signal import Signal
from tests.agent.ring.disk import build
from tests.fakes.numbered import Sender, Taker
from tests.fakes.programs import Agent, eventually, sample
from tests.test_receiver_soak import ledger

FLUSH_S = 0.25
# A commit, and what else a loaded machine does meanwhile (DESIGN: flush_interval and a commit).
WINDOW_S = FLUSH_S + 1.0
# What is answered as the process ends is noted here a moment later.
_LATE_S = 0.25
# How long an agent lives, at most; one in eight lives three times as long.
LIFE_S = 1.2
TRACES = ("collector", Signal.TRACES)


def start(
    tmp_path: Path,
    taker: Taker,
    *,
    durability: str = "flush",
    flush_s: float = FLUSH_S,
    **environ: str,
) -> Agent:
    """An agent that saves and retries quickly, in front of `taker`."""
    config = tmp_path / "agent.yaml"
    config.write_text(
        f"collector:\n  endpoint: {taker.endpoint}\n"
        "  drain_rate: 64MiB\n  retry: {initial_interval: 50ms, max_interval: 200ms}\n"
        f"buffer:\n  flush_interval: {flush_s * 1000:.0f}ms\n  durability: {durability}\n"
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
    senders = [Sender(lambda: current[0], protocol) for protocol in ("grpc", "http")]
    agent: Agent | None = None
    async with Taker(rng) as taker:
        try:
            async with sending(senders):
                for _ in range(times):
                    agent = start(tmp_path, taker, durability=durability)
                    async with changing(taker, rng):
                        if rng.random() < 0.2:
                            await asyncio.sleep(rng.random() * LIFE_S / 2)
                        else:
                            await answers(agent)
                            current[0] = agent
                            await _live(agent, rng.random() * LIFE_S * rng.choice((1,) * 7 + (3,)))
                        killed_s.append(time.monotonic())
                        agent.process.kill()
                        current[0] = None
                        await asyncio.to_thread(agent.process.wait)
            await taker.listen()
            agent = start(tmp_path, taker, durability=durability)
            await answers(agent)
            # Before that nobody knows what is held.
            await healed(agent)
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


@asynccontextmanager
async def changing(taker: Taker, rng: random.Random) -> AsyncIterator[None]:
    """The collector comes and goes until the end of the block."""
    ended = asyncio.Event()

    async def change() -> None:
        while not ended.is_set():
            await taker.change()
            with suppress(TimeoutError):
                async with asyncio.timeout(rng.random()):
                    await ended.wait()

    async with asyncio.TaskGroup() as group:
        group.create_task(change())
        try:
            yield
        finally:
            # Not cancelled: a server of grpcio that is being stopped has to be seen off.
            ended.set()


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


# A disk that fails


class Disk:
    """The shim of tests/agent/ring/disk.c in front of an agent's state directory."""

    _LAYOUT = struct.Struct("=iiiii")

    def __init__(self, tmp_path: Path) -> None:
        fault = tmp_path / "fault"
        fault.write_bytes(bytes(self._LAYOUT.size))
        self.environ = {
            "LD_PRELOAD": str(build(tmp_path)),
            "DISK_DIR": str(tmp_path / "agent"),
            "DISK_FAULT": str(fault),
        }
        with fault.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), self._LAYOUT.size)

    def fail(self, number: int, after: int) -> None:
        """Every write fails with errno `number` once `after` more have succeeded."""
        self._map[:] = self._LAYOUT.pack(after, number, -1, 0, 0)

    def slow(self, flush_s: float) -> None:
        """Every flush takes as long as that."""
        self._map[:] = self._LAYOUT.pack(0, 0, 0, int(flush_s * 1000), 0)

    def refuse(self, number: int) -> None:
        """No file can be opened to write it."""
        self._map[:] = self._LAYOUT.pack(0, 0, 0, 0, number)

    def mend(self) -> None:
        """All is well."""
        self._map[:] = bytes(self._LAYOUT.size)


def problem_of(agent: Agent) -> str:
    """What /health says is wrong with the ring, empty without."""
    health = agent.health()
    assert health is not None
    return str(health["checks"]["buffer"].get("error", ""))


async def healed(agent: Agent) -> None:
    """Wait until nothing is wrong with the ring; the agent does that by itself."""
    await asyncio.to_thread(eventually, lambda: not problem_of(agent), "a usable ring")


async def all_arrive(agent: Agent, taker: Taker, senders: Sequence[Sender]) -> None:
    """The collector is back: what was acknowledged arrives once, or is counted as dropped."""
    await taker.listen()
    text = await held_is(agent, lambda held: held == 0)
    dropped = sample(text, "agent_items_total", outcome="dropped", signal="traces") or 0
    assert await asyncio.to_thread(agent.stop) == 0, agent.log
    acknowledged = {number for sender in senders for number in sender.acknowledged}
    assert acknowledged
    assert len(acknowledged - taker.taken.keys()) == dropped
    assert not [number for number, times in taker.taken.items() if len(times) > 1]
    assert not [code for sender in senders for code in sender.codes]


@asynccontextmanager
async def without_a_collector(tmp_path: Path, **environ: str) -> AsyncIterator[tuple[Agent, Taker]]:
    """An agent whose collector listens only when it is told to."""
    async with Taker(random.Random(0)) as taker:
        await taker.vanish()
        agent = start(tmp_path, taker, **environ)
        try:
            await answers(agent)
            yield agent, taker
        finally:
            agent.kill()
            await taker.listen()


async def fail_often(tmp_path: Path, number: int, times: int) -> None:
    """The disk fails at some write, heals, and fails again, while spans come in."""
    tmp_path.mkdir()
    disk = Disk(tmp_path)
    rng = random.Random(number)
    async with without_a_collector(tmp_path, **disk.environ) as (agent, taker):
        senders = [Sender(lambda: agent, protocol) for protocol in ("grpc", "http")]
        async with sending(senders):
            await healed(agent)
            await held_is(agent, lambda held: held > 0)
            for _ in range(times):
                disk.fail(number, rng.randrange(60))
                await asyncio.to_thread(eventually, lambda: problem_of(agent), "a disk that fails")
                _, held = await look(agent)
                await held_is(agent, lambda now, before=held: now > before)  # type: ignore[misc]
                disk.mend()
                await healed(agent)
        assert [sender.refused for sender in senders] == [0, 0]
        assert sample(agent.metrics(), "agent_items_total", outcome="dropped") is None
        await all_arrive(agent, taker, senders)
    assert "the ring can be written again" in agent.log


async def test_a_disk_that_fails_under_load_loses_nothing_and_is_used_again(
    tmp_path: Path,
) -> None:
    """ENOSPC and EIO at some write: spans are taken all the while, and all of them arrive."""
    await asyncio.gather(
        fail_often(tmp_path / "full", errno.ENOSPC, 1),
        fail_often(tmp_path / "broken", errno.EIO, 1),
    )


@pytest.mark.torture
@pytest.mark.timeout(0)
async def test_a_disk_that_fails_again_and_again_loses_nothing(tmp_path: Path) -> None:
    """The same, fifty times."""
    await asyncio.gather(
        fail_often(tmp_path / "full", errno.ENOSPC, 50),
        fail_often(tmp_path / "broken", errno.EIO, 50),
    )


# Bodies in RAM, and a request, which is not taken where it would exceed that.
BOUND_BYTES = 16 << 20
_HEAVY_ITEMS, _HEAVY_ITEM_BYTES = 50, 4096
_HEAVY_BYTES = _HEAVY_ITEMS * _HEAVY_ITEM_BYTES


def heavy(agent: Agent) -> Sender:
    """Fills the RAM for bodies within moments."""
    return Sender(
        lambda: agent, "http", items=_HEAVY_ITEMS, item_bytes=_HEAVY_ITEM_BYTES, pause_s=0.01
    )


async def until_refused(agent: Agent, sender: Sender) -> None:
    """Load until the agent pushes back, which it does at the bound of RAM and not before."""
    async with asyncio.timeout(60.0):
        while not sender.refused:
            await look(agent)
            assert await asyncio.to_thread(agent.health) is not None
            await asyncio.sleep(0.05)
    assert sender.refused_at_bytes is not None
    # The agent's own data is there, too.
    assert sender.refused_at_bytes > BOUND_BYTES - 4 * _HEAVY_BYTES


async def push_back(tmp_path: Path, flush_s: float) -> None:
    """A flush takes seconds, the collector is away, and an app sends more than fits into RAM."""
    disk = Disk(tmp_path)
    async with without_a_collector(tmp_path, **disk.environ) as (agent, taker):
        await healed(agent)
        disk.slow(flush_s)
        sender = heavy(agent)
        async with sending([sender]):
            await until_refused(agent, sender)
            disk.mend()
            taken = sender.taken_bytes
            async with asyncio.timeout(60.0):
                while sender.taken_bytes < taken + BOUND_BYTES // 2:
                    await look(agent)
                    await asyncio.sleep(0.05)
        await all_arrive(agent, taker, [sender])


async def test_a_disk_that_is_slow_pushes_back_only_when_memory_is_full(tmp_path: Path) -> None:
    """Flushes of a second: /health answers, nothing is lost, and spans are taken again after."""
    await push_back(tmp_path, 1.0)


@pytest.mark.torture
@pytest.mark.timeout(600)
async def test_a_disk_that_is_very_slow_pushes_back_only_when_memory_is_full(
    tmp_path: Path,
) -> None:
    """The same with flushes of five seconds."""
    await push_back(tmp_path, 5.0)


async def test_a_state_directory_that_is_mended_is_used_without_a_restart(tmp_path: Path) -> None:
    """Missing in one place, read-only in another: RAM alone until then, and nothing is lost."""
    await asyncio.gather(_missing(tmp_path / "missing"), _read_only(tmp_path / "read-only"))


async def _missing(tmp_path: Path) -> None:
    tmp_path.mkdir()
    place = tmp_path / "place"
    place.write_text("not a directory")
    async with without_a_collector(tmp_path, BUFFER_PATH=str(place / "state")) as (agent, taker):

        def mend() -> None:
            place.unlink()
            place.mkdir()

        await _fill_and_mend(agent, taker, mend)
        assert (place / "state" / "data.mdb").stat().st_size > 0


async def _read_only(tmp_path: Path) -> None:
    tmp_path.mkdir()
    disk = Disk(tmp_path)
    disk.refuse(errno.EROFS)
    async with without_a_collector(tmp_path, **disk.environ) as (agent, taker):
        await _fill_and_mend(agent, taker, disk.mend)


async def _fill_and_mend(agent: Agent, taker: Taker, mend: Callable[[], None]) -> None:
    assert problem_of(agent)
    sender = heavy(agent)
    async with sending([sender]):
        await until_refused(agent, sender)
        mend()
        await healed(agent)
    await all_arrive(agent, taker, [sender])


# A link that works


def written(agent: Agent, state: Path) -> tuple[int, dict[str, tuple[int, int]]]:
    """Bytes that the process made dirty (proc_pid_io(5)); the sizes and times of its files."""
    text = Path(f"/proc/{agent.process.pid}/io").read_text()
    count = next(int(line.split()[1]) for line in text.splitlines() if line.startswith("write_b"))
    files = {path.name: path.stat() for path in state.iterdir()}
    return count, {name: (stat.st_size, stat.st_mtime_ns) for name, stat in files.items()}


async def send_for(tmp_path: Path, duration_s: float) -> None:
    """Load with a collector that takes it: nothing is written to the disk."""
    async with Taker(random.Random(0)) as taker:
        agent = start(tmp_path, taker, flush_s=5.0, METRICS_INTERVAL="1s")
        try:
            await answers(agent)
            await healed(agent)
            await held_is(agent, lambda held: held == 0)
            before = written(agent, tmp_path / "agent")
            senders = [Sender(lambda: agent, protocol) for protocol in ("grpc", "http")]
            async with sending(senders):
                end_s = time.monotonic() + duration_s
                while time.monotonic() < end_s:
                    await look(agent)
                    await asyncio.sleep(0.2)
            assert written(agent, tmp_path / "agent") == before, agent.log
            await all_arrive(agent, taker, senders)
        finally:
            agent.kill()


async def test_a_link_that_works_writes_nothing_to_the_disk(tmp_path: Path) -> None:
    """Twenty seconds of load, several flush intervals."""
    await send_for(tmp_path, 20.0)


@pytest.mark.torture
@pytest.mark.timeout(900)
async def test_ten_minutes_of_a_link_that_works_write_nothing_to_the_disk(tmp_path: Path) -> None:
    """The same, as long as it may take a timer to fire."""
    await send_for(tmp_path, 600.0)


# SIGTERM


async def test_what_is_held_at_the_end_is_what_the_next_run_begins_with(tmp_path: Path) -> None:
    """SIGTERM under load, without a collector: all is saved, counted, restored, delivered once."""
    async with Taker(random.Random(0)) as taker:
        agent = start(tmp_path, taker)
        try:
            await answers(agent)
            senders = [Sender(lambda: agent, protocol) for protocol in ("grpc", "http")]
            async with sending(senders):
                for away in (False, True, False, True):
                    taker.away = away
                    for _ in range(5):
                        await look(agent)
                        await asyncio.sleep(0.1)
                await taker.vanish()
                # A container runtime kills after ten seconds.
                assert await asyncio.to_thread(agent.stop, deadline_s=8.0) == 0
            held = totals_of(agent)["held"]
            assert held > 0
            agent = start(tmp_path, taker)
            await answers(agent)
            await healed(agent)
            text, _ = await look(agent)
            restored = sample(text, "agent_items_total", outcome="accepted", reason="restored")
            assert restored == held
            assert "did not end in order" not in agent.log
            await all_arrive(agent, taker, senders)
        finally:
            agent.kill()
            await taker.listen()


def totals_of(agent: Agent) -> dict[str, int]:
    """The last words of an agent that was stopped."""
    pairs = (word.partition("=") for word in agent.log.splitlines()[-1].split())
    return {name: int(text) for name, _, text in pairs if text.isdecimal()}
