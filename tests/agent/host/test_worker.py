"""The thread for probes that may block."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import pytest

from edge_agent.host.worker import Worker

DEADLINE_S = 0.05


class Dead:
    """A probe that does not return until it is revived."""

    def __init__(self) -> None:
        self.calls = 0
        self.revived = threading.Event()

    def __call__(self) -> str:
        self.calls += 1
        self.revived.wait(30)
        return "late"


@contextmanager
def worker(max_stuck: int = 4) -> Iterator[Worker]:
    """A worker with a short deadline, closed at the end."""
    made = Worker(deadline_s=DEADLINE_S, max_stuck=max_stuck)
    try:
        yield made
    finally:
        made.close()


async def until_free(made: Worker) -> None:
    """Wait until no probe is out."""
    async with asyncio.timeout(10):
        while made.stuck:
            await asyncio.sleep(0.001)


def threads() -> int:
    """Threads of workers that live."""
    return sum(thread.name == "host-probes" for thread in threading.enumerate())


async def test_probes_answer_or_raise_each_for_itself() -> None:
    """An exception is an answer: the others are asked all the same."""

    def broken() -> str:
        raise OSError("no such device")

    with worker() as made:
        answers = await made.run({"a": lambda: "1", "b": broken, "c": lambda: "3"})
    assert (answers["a"], answers["c"]) == ("1", "3")
    assert isinstance(answers["b"], OSError)


async def test_one_thread_does_all_samples() -> None:
    """It waits for the next; it is not started anew."""
    with worker() as made:
        first = await made.run({"a": threading.get_ident})
        assert await made.run({"a": threading.get_ident}) == first
        assert first["a"] != threading.get_ident()


async def test_nothing_to_ask_starts_no_thread() -> None:
    """A host without slow subjects pays nothing."""
    before = threads()
    with worker() as made:
        assert await made.run({}) == {}
        assert threads() == before


async def test_a_dead_probe_is_left_alone_until_it_returns() -> None:
    """The others still answer, at once the next time; it is asked again when it is back."""
    dead = Dead()
    probes = {"a": lambda: "1", "dead": dead, "z": lambda: "26"}
    with worker() as made:
        for _ in range(3):
            assert await made.run(probes) == {"a": "1", "z": "26"}
        assert (made.stuck, dead.calls) == ({"dead"}, 1)
        dead.revived.set()
        await until_free(made)
        assert await made.run(probes) == {"a": "1", "dead": "late", "z": "26"}
    assert dead.calls == 2


async def test_dead_probes_do_not_pile_up_threads() -> None:
    """At the bound nothing new is asked any more until one is back."""
    dead = [Dead() for _ in range(5)]
    before = threads()
    with worker(max_stuck=2) as made:
        for _ in range(3):
            probes = {f"dead{n}": probe for n, probe in enumerate(dead)}
            assert await made.run({**probes, "a": lambda: "1"}) == {}
        assert (len(made.stuck), sum(probe.calls for probe in dead)) == (2, 2)
        assert threads() - before <= 2
        for probe in dead:
            probe.revived.set()
        await until_free(made)
        assert (await made.run({"a": lambda: "1"})) == {"a": "1"}


async def test_dead_probes_do_not_silence_what_has_answered_before() -> None:
    """Four dead exports of one server are ordinary; the local file systems go on."""
    dead = {f"dead{n}": Dead() for n in range(3)}
    with worker(max_stuck=2) as made:
        for _ in range(3):
            assert await made.run({"a": lambda: "1", **dead, "b": lambda: "2"}) == {"a": "1"}
        for probe in dead.values():
            probe.revived.set()
        await until_free(made)


async def test_the_deadline_is_for_a_probe_and_not_for_all_of_them() -> None:
    """Many that are slow together are not dead."""
    order: list[int] = []

    def slow(number: int) -> int:
        order.append(number)
        threading.Event().wait(DEADLINE_S * 0.6)
        return number

    probes = {str(n): partial(slow, n) for n in range(6)}
    with worker() as made:
        assert await made.run(probes) == {str(n): n for n in range(6)}
        assert not made.stuck
    assert order == list(range(6))


async def test_without_a_thread_to_be_had_nothing_is_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A cgroup's limit of tasks costs a sample's slow part, never the agent."""

    def exhausted(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with worker() as made:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", exhausted)
            assert await made.run({"a": lambda: "1"}) == {}
        assert await made.run({"a": lambda: "1"}) == {"a": "1"}


def test_a_probe_may_outlive_the_loop() -> None:
    """The agent stops while a server is dead: the answer is for nobody, and nothing is raised."""
    dead = Dead()
    made = Worker(deadline_s=DEADLINE_S)
    asyncio.run(made.run({"dead": dead}))
    (out,) = [
        thread
        for thread in threading.enumerate()
        if thread.name == "host-probes" and thread.is_alive()
    ][-1:]
    dead.revived.set()
    out.join(10)
    assert not out.is_alive()


def test_closing_ends_the_thread() -> None:
    """Nothing is left behind, and a worker that never worked can be closed."""

    async def once() -> threading.Thread:
        answers = await made.run({"a": threading.current_thread})
        thread = answers["a"]
        assert isinstance(thread, threading.Thread)
        return thread

    made = Worker(deadline_s=10)
    thread = asyncio.run(once())
    made.close()
    made.close()
    thread.join(10)
    assert not thread.is_alive()


async def test_a_machine_too_busy_to_start_a_thread_is_not_a_dead_probe(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing was asked, so nothing is left alone; the next sample asks again."""
    with worker() as made:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", lambda self: None)
            assert await made.run({"a": lambda: "1"}) == {}
        assert not made.stuck
        assert await made.run({"a": lambda: "1"}) == {"a": "1"}
