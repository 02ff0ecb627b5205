"""A thread beside the event loop for probes that may block, with a deadline for each.

A probe that does not come back in time keeps its thread: the kernel gives no way to take it out
of a read from a dead server. It is left alone until it returns, and a new thread does the others.
Where `max_stuck` are out, only those are asked that have answered before: dead servers neither
pile up threads nor silence what is well.
"""

import asyncio
import threading
from collections.abc import Callable, Mapping
from queue import SimpleQueue
from typing import Generic, TypeVar

T = TypeVar("T")


class _Batch(Generic[T]):
    """Probes on their way through the thread. Only the thread writes `current` and `answers`.

    The loop writes `abandoned` alone, and before it looks at the answers; the thread looks at
    `abandoned` after it has answered. So an answer is either seen by the loop or reported late.
    """

    def __init__(
        self,
        probes: Mapping[str, Callable[[], T]],
        loop: asyncio.AbstractEventLoop,
        came_back: Callable[[str], None],
    ) -> None:
        self.answers: dict[str, T | Exception] = {}
        self.current: str | None = None
        self.abandoned = False
        self.done = loop.create_future()
        self._probes = probes
        self._loop = loop
        self._came_back = came_back

    def run(self) -> None:
        """In the thread: ask all, or up to the one over which the loop gave up."""
        for name, probe in self._probes.items():
            self.current = name
            try:
                self.answers[name] = probe()
            except Exception as error:  # noqa: BLE001 - every fault of a probe is its answer
                self.answers[name] = error
            if self.abandoned:
                self._call(self._came_back, name)
                return
        self._call(self._finish)

    def _finish(self) -> None:
        if not self.done.done():
            self.done.set_result(None)

    def _call(self, function: Callable[..., None], *arguments: str) -> None:
        try:
            self._loop.call_soon_threadsafe(function, *arguments)
        except RuntimeError:
            # The loop has ended while the probe was out: nobody is left to be told.
            return


def _serve(queue: SimpleQueue[Callable[[], None] | None]) -> None:
    while (run := queue.get()) is not None:
        run()


class Worker:
    """Runs probes one after the other outside the loop."""

    def __init__(self, *, deadline_s: float, max_stuck: int = 4) -> None:
        self._deadline_s = deadline_s
        self._max_stuck = max_stuck
        self._queue: SimpleQueue[Callable[[], None] | None] | None = None
        self._stuck: set[str] = set()
        self._answered: set[str] = set()

    @property
    def stuck(self) -> frozenset[str]:
        """Names of probes that have not come back."""
        return frozenset(self._stuck)

    async def run(self, probes: Mapping[str, Callable[[], T]]) -> dict[str, T | Exception]:
        """What each probe returned or raised; those that are stuck are missing.

        A dead one costs one to two deadlines, once.
        """
        loop = asyncio.get_running_loop()
        answers: dict[str, T | Exception] = {}
        pending = self._askable(probes)
        while pending:
            batch = _Batch(pending, loop, self._stuck.discard)
            self._thread().put(batch.run)
            done = await self._through(batch)
            if not done:
                batch.abandoned = True
                # The thread ends when it is through, whether or not it has seen `abandoned`.
                self.close()
            answers.update(batch.answers)
            self._answered.update(batch.answers)
            if not done:
                if batch.current is None:
                    break  # The machine is too busy to start a thread: nothing was asked.
                if batch.current not in answers:
                    self._stuck.add(batch.current)
            pending = self._askable({n: p for n, p in pending.items() if n not in answers})
        return answers

    def _askable(self, probes: Mapping[str, Callable[[], T]]) -> dict[str, Callable[[], T]]:
        full = len(self._stuck) >= self._max_stuck
        return {
            name: probe
            for name, probe in probes.items()
            if name not in self._stuck and (not full or name in self._answered)
        }

    async def _through(self, batch: _Batch[T]) -> bool:
        """Whether all was asked; false once the same probe was out at two looks in a row."""
        out: str | None = None
        while True:
            done, _ = await asyncio.wait([batch.done], timeout=self._deadline_s)
            if done or batch.current == out:
                return bool(done)
            out = batch.current

    def _thread(self) -> SimpleQueue[Callable[[], None] | None]:
        if self._queue is None:
            self._queue = SimpleQueue()
            # A daemon: a probe that never returns must not keep the process.
            thread = threading.Thread(
                target=_serve, args=(self._queue,), name="host-probes", daemon=True
            )
            try:
                thread.start()
            except RuntimeError:  # The machine, or our cgroup, has no thread to give: not now.
                queue, self._queue = self._queue, None
                return queue
        return self._queue

    def close(self) -> None:
        """End the thread once its probe is through; not waited for."""
        if self._queue is not None:
            self._queue.put(None)
            self._queue = None
