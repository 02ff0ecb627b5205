"""Queues with a real ring behind them, on fake time, against a scripted client."""

import asyncio
import contextlib
import errno
import random
from collections.abc import Callable, Coroutine, Iterable, Sequence
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

import pytest

from edge_agent.exporter.memory import Memory
from edge_agent.exporter.queue import Gate, Policy, Queue, Reachability
from edge_agent.exporter.retry import Backoff, Outcome, Rejected, Retry
from edge_agent.exporter.spill import Spill
from edge_agent.exporter.spool import Spool
from edge_agent.ledger import Ledger
from edge_agent.opener import FLOORS, NUMBERS
from edge_agent.otlp.signal import Signal
from edge_agent.ring.opening import open_ring
from edge_agent.ring.record import Ack, Committed, Entry, Oldest, RingError
from edge_agent.ring.store import Ring
from tests.agent.exporter.test_queue import AWAY, ScriptedClient, names_in, points
from tests.fakes import clock
from tests.fakes.inline import Inline

BOOT = b"b" * 16
UNIX_NANO = 1_700_000_000_000_000_000
DOWN = [AWAY] * 10_000


class InTurn(Inline):
    """Runs at once, or while `held` all together at `release`, as a thread that was busy would."""

    held = False

    def __init__(self) -> None:
        self._jobs: list[Callable[[], None]] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        if not self.held:
            return super().submit(fn, *args, **kwargs)
        later: Future[Any] = Future()
        self._jobs.append(lambda: later.set_result(fn(*args, **kwargs)))
        return later

    def release(self) -> None:
        self.held = False
        for job in self._jobs:
            job()


class Disk:
    """Opens the ring in a directory; fails where `error` says so, at opening and at writing."""

    def __init__(self, path: Path, max_bytes: int = 2 << 20, boot_id: bytes = BOOT) -> None:
        self.path = path
        self.boot_id = boot_id
        self.max_bytes = max_bytes
        self.error = 0
        self.ring: Ring | None = None

    def __call__(self) -> "Disk":
        self.check()
        self.ring, _ = open_ring(
            str(self.path),
            max_bytes=self.max_bytes,
            floors=FLOORS,
            boot_id=self.boot_id,
            strict=False,
        )
        return self

    def check(self) -> None:
        if self.error:
            raise RingError(self.error, "disk trouble")

    def commit(
        self, appends: Sequence[tuple[int, Sequence[Entry]]], acks: Sequence[Ack]
    ) -> Committed:
        self.check()
        assert self.ring is not None
        return self.ring.commit(appends, acks)

    def probe(self) -> None:
        self.check()
        assert self.ring is not None
        self.ring.probe()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.ring, name)


class Bench:
    """One run of an agent's queues on a ring; `kill` ends it as SIGKILL would."""

    def __init__(
        self,
        disk: Disk,
        script: Iterable[Outcome] = (),
        *,
        signal: Signal = Signal.METRICS,
        newest_first: bool = False,
        max_ram: int = 1 << 20,
        gate: Gate | None = None,
        executor: Executor | None = None,
        **policy: Any,
    ) -> None:
        loop = asyncio.get_running_loop()
        self.disk = disk
        self.client = ScriptedClient(script)
        self.account = Ledger().account("collector", signal)
        self.spool = Spool(
            disk,
            flush_s=5.0,
            clock=loop.time,
            unix_nano=lambda: UNIX_NANO + int(loop.time() * 1e9),
            boottime_nano=lambda: int(loop.time() * 1e9),
            boot_id=disk.boot_id,
            executor=executor or Inline(),
        )
        self.memory = Memory(max_ram, clock=loop.time, press=self.spool.press)
        defaults: dict[str, Any] = {
            "newest_first": newest_first,
            "lanes": 2 if newest_first else 1,
            "batch_items": 512,
            "retry": True,
            "backoff": Backoff(initial_s=1.0, max_s=30.0),
            "max_elapsed_s": 300.0,
            "max_request_bytes": (64 << 10) - 1024,
        }
        self.queue = Queue(
            self.account,
            self.client,
            Policy(**(defaults | policy)),
            Reachability(),
            self.memory,
            number=NUMBERS["collector", signal],
            spool=self.spool,
            gate=gate,
            clock=loop.time,
            unix_nano=lambda: UNIX_NANO,
            jitter=lambda: 0.5,
        )
        self.memory.share(self.queue, 1.0)
        self.tasks = [
            asyncio.create_task(self.queue.run()),
            asyncio.create_task(self.spool.run()),
        ]

    def put(self, *names: str) -> None:
        for name in names:
            self.queue.put(points(name), 1)

    @property
    def sent(self) -> list[str]:
        return [name for body in self.client.bodies for name in names_in(body)]

    def balance(self) -> None:
        settled = self.account.settled()
        came = self.account.accepted.items + self.account.restored.items
        assert came == settled.items + self.queue.items
        came = self.account.accepted.bytes + self.account.restored.bytes
        assert came == settled.bytes + self.queue.bytes

    async def stop(self) -> None:
        """As the agent stops."""
        self.queue.close()
        await self.spool.commit()
        await asyncio.wait(self.tasks[:1], timeout=2.0)
        await self._cancel()
        await self.spool.close()
        self.queue.abandon()
        self.balance()

    async def kill(self) -> None:
        """The process is gone; what the ring had committed is there."""
        await self._cancel()
        if self.disk.ring is not None:
            self.disk.ring.close(clean=False)

    async def _cancel(self) -> None:
        for task in self.tasks:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


def on_fake_time(
    test: Callable[[Disk], Coroutine[Any, Any, None]],
) -> Callable[[Path], None]:
    """The test as pytest calls it, with a disk, on a loop whose time is fake."""

    def run(tmp_path: Path) -> None:
        clock.run(test(Disk(tmp_path / "ring")))

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    return run


@on_fake_time
async def test_a_healthy_link_writes_nothing(disk: Disk) -> None:
    """RAM while healthy: no commit, however long it goes on."""
    bench = Bench(disk)
    for n in range(100):
        bench.put(f"m{n}")
        await asyncio.sleep(15)
        bench.balance()
    assert bench.spool.commits == 0
    await bench.stop()
    assert bench.spool.commits == 0
    assert len(bench.sent) == 100


@on_fake_time
async def test_what_is_not_acknowledged_in_time_is_in_the_ring(disk: Disk) -> None:
    """Within flush_interval and a commit; RAM has none of it then."""
    bench = Bench(disk, DOWN)
    bench.put("a", "b")
    await asyncio.sleep(4.9)
    assert (bench.spool.commits, bench.queue.held.shelved_items) == (0, 0)
    await asyncio.sleep(0.2)
    assert (bench.spool.commits, bench.queue.held.shelved_items) == (1, 2)
    assert (bench.queue.ram_bytes, bench.queue.items) == (0, 2)
    await bench.kill()


@on_fake_time
async def test_a_run_that_was_killed_leaves_its_backlog_to_the_next(disk: Disk) -> None:
    """Everything in the ring is restored, and delivered oldest first, before what is new."""
    first = Bench(disk, DOWN)
    first.put("a", "b")
    await asyncio.sleep(6)
    first.put("c")
    await asyncio.sleep(6)
    await first.kill()
    second = Bench(disk)
    await second.spool.opened.wait()
    assert second.account.restored.items == 3
    second.balance()
    second.put("d")
    await asyncio.sleep(60)
    assert second.sent == ["a", "b", "c", "d"]
    second.balance()
    await second.stop()
    third = Bench(disk)
    await third.spool.opened.wait()
    assert third.account.restored.items == 0
    await third.stop()


@on_fake_time
async def test_an_orderly_stop_keeps_what_could_not_be_delivered(disk: Disk) -> None:
    """Nothing is dropped, and nothing delivered twice."""
    first = Bench(disk, DOWN)
    first.put("a", "b")
    await asyncio.sleep(1)
    await first.stop()
    assert first.account.lost_items() == 0
    second = Bench(disk)
    await asyncio.sleep(60)
    assert second.sent == ["a", "b"]
    await second.stop()


@on_fake_time
async def test_what_is_new_goes_beside_the_backlog_where_order_is_free(disk: Disk) -> None:
    """Traces of now do not wait for those of the outage; the newest of which go first."""
    bench = Bench(disk, [AWAY] * 12, newest_first=True, batch_items=1, drain_rate=100.0)
    for n in range(20):
        bench.put(f"old{n:02}")
        await asyncio.sleep(15)
    await asyncio.sleep(60)
    bench.client.script.clear()
    late = []
    for n in range(50):
        bench.put(f"new{n:02}")
        await asyncio.sleep(1)
        late.append(f"new{n:02}" not in bench.sent)
        bench.balance()
    assert not any(late[31:])
    await asyncio.sleep(120)
    assert set(bench.sent) >= {f"old{n:02}" for n in range(20)}
    assert len(bench.sent) - len(set(bench.sent)) <= 12
    assert bench.queue.items == 0
    await bench.stop()


@on_fake_time
async def test_a_ring_that_fails_costs_nothing_that_fits_in_ram_and_heals(disk: Disk) -> None:
    """ENOSPC at every write: RAM holds, the error is said, and later it is written after all."""
    bench = Bench(disk, DOWN)
    await bench.spool.opened.wait()
    disk.error = errno.ENOSPC
    bench.put("a", "b")
    await asyncio.sleep(100)
    assert bench.spool.problem == "disk trouble"
    assert (bench.queue.ram_bytes > 0, bench.account.lost_items()) == (True, 0)
    disk.error = 0
    await asyncio.sleep(61)
    assert bench.spool.usable
    assert (bench.queue.ram_bytes, bench.queue.held.shelved_items) == (0, 2)
    bench.balance()
    await bench.stop()


@on_fake_time
async def test_a_ring_that_cannot_be_opened_is_opened_later(disk: Disk) -> None:
    """A state directory that is mended needs no restart."""
    disk.error = errno.EROFS
    bench = Bench(disk, DOWN)
    bench.put("a")
    await asyncio.sleep(30)
    assert not bench.spool.usable
    disk.error = 0
    await asyncio.sleep(61)
    assert (bench.spool.usable, bench.queue.held.shelved_items) == (True, 1)
    await bench.stop()


@on_fake_time
async def test_without_a_ring_the_end_counts_what_is_lost(disk: Disk) -> None:
    """What only RAM had, and nobody took."""
    disk.error = errno.EROFS
    bench = Bench(disk, DOWN)
    bench.put("a")
    await asyncio.sleep(30)
    await bench.stop()
    assert bench.account.dropped["shutdown"].items == 1


@on_fake_time
async def test_strict_is_true_only_once_it_is_on_disk(disk: Disk) -> None:
    """And what is refused is not sent."""
    bench = Bench(disk)
    await bench.spool.opened.wait()
    (request,) = bench.queue.requests(points("a"), 1)
    saved = bench.spool.admit([(bench.queue, request)])
    assert (saved.done(), bench.account.accepted.items) == (False, 0)
    assert await saved
    assert bench.spool.commits == 1
    await asyncio.sleep(1)
    assert bench.sent == ["a"]
    disk.error = errno.EIO
    (request,) = bench.queue.requests(points("b"), 1)
    assert not await bench.spool.admit([(bench.queue, request)])
    assert not await bench.spool.admit([(bench.queue, request)])
    disk.error = 0
    await asyncio.sleep(61)
    assert bench.sent == ["a"]
    bench.balance()
    await bench.stop()
    assert bench.queue.items == 0


@on_fake_time
async def test_a_bad_neighbour_in_the_ring_loses_only_its_own(disk: Disk) -> None:
    """Records remember the requests they were joined from."""
    bench = Bench(disk, [AWAY] * 3)
    bench.client.poison = b"poison"
    bench.put("a", "poison", "b")
    await asyncio.sleep(60)
    assert bench.account.delivered.items == 2
    assert bench.account.rejected["invalid_argument"].items == 1
    assert bench.queue.items == 0
    await bench.stop()
    again = Bench(disk)
    await again.spool.opened.wait()
    assert again.account.restored.items == 0
    await again.stop()


@on_fake_time
async def test_a_full_ring_drops_the_oldest_and_counts_it(disk: Disk) -> None:
    """queue_full, to the item; the newest are kept."""
    bench = Bench(disk, DOWN)
    noise = random.Random(1)
    for n in range(120):
        body = points(f"m{n:03}", service=noise.randbytes(20_000).hex())
        bench.queue.put(body, 1)
        await asyncio.sleep(1)
        bench.balance()
    bench.client.script.clear()
    await asyncio.sleep(600)
    bench.balance()
    dropped = bench.account.dropped["queue_full"].items
    assert 0 < dropped < 120
    assert bench.queue.items == 0
    delivered = [name for name in dict.fromkeys(bench.sent) if int(name[1:]) >= dropped]
    assert delivered == [f"m{n:03}" for n in range(dropped, 120)]
    await bench.stop()


@on_fake_time
async def test_ram_that_fills_is_saved_before_its_time(disk: Disk) -> None:
    """From half of the bound on the ring takes it; nothing is lost."""
    bench = Bench(disk, DOWN, max_ram=20_000)
    for n in range(200):
        bench.queue.put(points(f"m{n:03}", padding=200), 1)
        await asyncio.sleep(0.001)
        assert bench.queue.ram_bytes <= 25_000
    assert bench.account.lost_items() == 0
    assert bench.queue.items == 200
    await bench.stop()


@pytest.mark.parametrize("mode", ["failing", "full", "never"])
def test_traces_go_to_the_adapter_when_asked_for(tmp_path: Path, mode: str) -> None:
    """`failing`: with the breaker open; `full`: at four fifths of their share; deleted only after
    the adapter's 200."""

    async def main() -> None:
        bench = Bench(Disk(tmp_path), DOWN, signal=Signal.TRACES, newest_first=True)
        adapter = ScriptedClient([Retry("http_503"), Rejected("http_404", "no such path")])
        share = 0.0
        spill = Spill(
            bench.queue,
            adapter,
            mode=mode,
            backoff=Backoff(1.0, 30.0),
            drain_rate=1 << 20,
            share=lambda: share,
            clock=asyncio.get_running_loop().time,
            jitter=lambda: 0.5,
        )
        spilling = asyncio.create_task(spill.run())
        bench.put("a", "b")
        await asyncio.sleep(60)
        assert adapter.calls == []
        await asyncio.sleep(300)
        assert bool(adapter.calls) == (mode == "failing")
        share = 0.8
        await asyncio.sleep(20)
        assert bool(adapter.calls) == (mode != "never")
        assert bench.queue.items == 2
        await asyncio.sleep(600)
        bench.balance()
        spilled = bench.account.spilled.items
        assert (spilled, bench.queue.items) == ((0, 2) if mode == "never" else (2, 0))
        spilling.cancel()
        await bench.stop()
        again = Bench(bench.disk, DOWN, signal=Signal.TRACES)
        await again.spool.opened.wait()
        assert again.account.restored.items == 2 - spilled
        await again.stop()

    clock.run(main())


def test_a_bug_in_the_client_of_the_adapter_ends_nothing(tmp_path: Path) -> None:
    """As one in the collector's: what was lent waits, and is tried again."""

    class Broken(ScriptedClient):
        async def export(self, signal: Signal, body: bytes) -> Outcome:
            if not self.calls:
                self.calls.append((0.0, body))
                raise KeyError("a bug")
            return await super().export(signal, body)

    async def main() -> None:
        bench = Bench(Disk(tmp_path), DOWN, signal=Signal.TRACES, newest_first=True)
        adapter = Broken()
        spill = Spill(
            bench.queue,
            adapter,
            mode="full",
            backoff=Backoff(1.0, 30.0),
            drain_rate=1 << 20,
            share=lambda: 1.0,
            clock=asyncio.get_running_loop().time,
            jitter=lambda: 0.5,
        )
        bench.tasks.append(asyncio.create_task(spill.run()))
        bench.put("a")
        await asyncio.sleep(60)
        assert (bench.account.spilled.items, bench.queue.items) == (1, 0)
        bench.balance()
        await bench.stop()

    clock.run(main())


@pytest.mark.parametrize("seed", range(12))
def test_whatever_happens_the_ledger_adds_up_and_nothing_is_lost(tmp_path: Path, seed: int) -> None:
    """Random outcomes, faults of the disk and restarts: each item is delivered, rejected, or held;
    after a kill, items that were in RAM alone are gone, and no others."""

    async def main() -> None:
        chance = random.Random(seed)
        disk = Disk(tmp_path)
        delivered: set[str] = set()
        count = 0
        safe: set[str] = set()
        for _ in range(6):
            outcomes = chance.choices([AWAY, Retry("x", 3.0), None], [3, 1, 6], k=400)
            bench = Bench(
                disk,
                [outcome or clock_ok(chance) for outcome in outcomes],
                newest_first=bool(seed % 2),
                batch_items=chance.randint(1, 6),
            )
            await bench.spool.opened.wait()
            for _ in range(chance.randint(5, 40)):
                for _ in range(chance.randint(0, 4)):
                    count += 1
                    bench.put(f"n{count:05}")
                disk.error = chance.choices([0, errno.EIO], [9, 1])[0]
                await asyncio.sleep(chance.choice([0.1, 1.0, 6.0, 40.0]))
                bench.balance()
            disk.error = 0
            if chance.random() < 0.5:
                await bench.stop()
                safe = {f"n{n:05}" for n in range(1, count + 1)}
            else:
                unsaved = {name for r in bench.queue.held.unsaved() for name in names_in(r.body)}
                safe = {f"n{n:05}" for n in range(1, count + 1)} - unsaved
                await bench.kill()
            delivered |= {name for body in bench.client.taken for name in names_in(body)}
            gone = {f"n{n:05}" for n in range(1, count + 1)} - safe
            lost_before = gone - delivered
            forgotten.update(lost_before)
        last = Bench(disk, newest_first=bool(seed % 2))
        await asyncio.sleep(600)
        last.balance()
        assert last.queue.items == 0
        delivered |= set(last.sent)
        everything = {f"n{n:05}" for n in range(1, count + 1)}
        assert everything - delivered - forgotten == set()
        await last.stop()

    forgotten: set[str] = set()
    clock.run(main())


def clock_ok(chance: random.Random) -> Outcome:
    """An acknowledgement, quick or slow."""
    from edge_agent.exporter.retry import Delivered

    return Delivered(latency_s=chance.choice([0.01, 5.0]))


class Blind(Disk):
    """Nobody can look into its ring while `blind`."""

    blind = False

    def oldest(self, queue: int) -> Oldest | None:
        if self.blind:
            raise RingError(errno.EIO, "cannot look")
        assert self.ring is not None
        return self.ring.oldest(queue)


def test_a_ring_that_opens_but_cannot_be_looked_into_is_opened_again(tmp_path: Path) -> None:
    """The queues are told what it holds, once; not told at all, it would wait for a restart."""

    async def test() -> None:
        first = Bench(Disk(tmp_path / "ring"), DOWN)
        first.put("a", "b")
        await asyncio.sleep(10)
        await first.stop()
        disk = Blind(tmp_path / "ring")
        disk.blind = True
        bench = Bench(disk)
        await bench.spool.opened.wait()
        assert (bench.spool.problem, bench.account.restored.items) == ("cannot look", 0)
        disk.blind = False
        await asyncio.sleep(61)
        assert bench.account.restored.items == 2
        assert bench.sent == ["a", "b"]
        await bench.stop()

    clock.run(test())


def test_a_ring_that_cannot_be_looked_into_after_a_commit_ends_nobody(tmp_path: Path) -> None:
    """What was committed is saved; the problem is said, and goes away."""

    async def test() -> None:
        disk = Blind(tmp_path / "ring")
        bench = Bench(disk, DOWN)
        await bench.spool.opened.wait()
        disk.blind = True
        bench.put("a")
        await asyncio.sleep(6)
        assert (bench.spool.commits, bench.spool.problem) == (1, "cannot look")
        assert (bench.queue.ram_bytes, bench.queue.held.shelved_items) == (0, 1)
        disk.blind = False
        await asyncio.sleep(61)
        assert bench.spool.usable
        await bench.stop()

    clock.run(test())


@on_fake_time
async def test_what_a_commit_has_just_written_is_not_read_beside_it(disk: Disk) -> None:
    """Its queue has it in RAM, and sends it from there; twice would be once too often."""
    thread = InTurn()
    backoff = Backoff(initial_s=1000.0, max_s=1000.0)
    bench = Bench(disk, DOWN, newest_first=True, executor=thread, backoff=backoff)
    await bench.spool.opened.wait()
    bench.put("one that fails, so that what comes next waits")
    await asyncio.sleep(1)
    thread.held = True
    requests = [(bench.queue, request) for request in bench.queue.requests(points("a"), 1)]
    saved = bench.spool.admit(list(requests))
    await asyncio.sleep(1)
    reading = asyncio.create_task(bench.spool.read(bench.queue.held, newest=True))
    await asyncio.sleep(1)
    thread.release()
    assert await saved
    assert await reading is None
    await bench.stop()
