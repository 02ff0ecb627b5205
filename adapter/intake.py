"""From bodies to committed rows, without any of them keeping the others waiting.

Decoding has two threads of its own: one for bodies that are small, unpacked, and one for all
others, so that a large one delays no small one. Neither is in a transaction meanwhile: the store
gets slices of rows that are ready. A thread has one body at a time, which bounds what is decoded in
memory; but the last slice, for most the only one, waits for its commit outside, together with
those of others.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

from adapter.decode import MAX_PIECE_BYTES
from adapter.row import Row
from adapter.rows import Outcome, Window
from adapter.slices import slices
from adapter.sqlite import MAX_GROUP, SqliteStore
from edge_agent.transport.compression import TooLargeError

# Whoever waits longer may have given up: SDKs do after ten seconds.
_TURN_TIMEOUT_S = 8.0


class BusyError(Exception):
    """Others' requests took all the time that this one had."""


class Intake:
    """Stores what requests bring."""

    def __init__(self, store: SqliteStore, *, max_bytes: int) -> None:
        """`max_bytes`: the largest body, unpacked."""
        self._store = store
        self._max_bytes = max_bytes
        self._small = _Lane("decode-small")
        self._large = _Lane("decode-large")
        # Slices that wait for their commit, so that many small requests are bounded as well.
        self._waiting = asyncio.Semaphore(MAX_GROUP)

    async def take(
        self,
        body: bytes,
        *,
        is_gzip: bool,
        is_json: bool,
        window: Window,
        customers: frozenset[str] | None,
    ) -> Outcome:
        """Store the rows in `body`; they are durable when it returns.

        Raises what `slices` does, BusyError and StoreAwayError; after the last two some of the
        rows may be stored, and the same body later replaces them.
        """

        def taken(lane: _Lane, max_bytes: int) -> tuple[_Lane, Outcome, Iterator[list[Row]]]:
            outcome = Outcome()
            found = slices(
                body,
                is_gzip=is_gzip,
                is_json=is_json,
                max_bytes=max_bytes,
                window=window,
                customers=customers,
                outcome=outcome,
            )
            return lane, outcome, found

        if len(body) <= MAX_PIECE_BYTES:
            try:
                return await self._store_all(*taken(self._small, MAX_PIECE_BYTES))
            except TooLargeError:
                pass  # It is small only as long as it is packed.
        return await self._store_all(*taken(self._large, self._max_bytes))

    async def _store_all(
        self, lane: "_Lane", outcome: Outcome, found: Iterator[list[Row]]
    ) -> Outcome:
        last: list[Row] = []
        async with lane.turn():
            while (rows := await lane.next(found)) is not None:
                if rows and last:
                    await self._store.write(last)
                last = rows or last
            await self._waiting.acquire()
        try:
            await self._store.write(last)
        finally:
            self._waiting.release()
        return outcome

    def close(self) -> None:
        """End the threads, each after the step that it is in."""
        self._small.close()
        self._large.close()


class _Lane:
    """A thread, and whose turn it is."""

    def __init__(self, name: str) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._turn = asyncio.Lock()

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Have the thread alone; raises BusyError after _TURN_TIMEOUT_S."""
        try:
            async with asyncio.timeout(_TURN_TIMEOUT_S):
                await self._turn.acquire()
        except TimeoutError:
            raise BusyError("busy with other requests") from None
        try:
            yield
        finally:
            self._turn.release()

    async def next(self, found: Iterator[list[Row]]) -> list[Row] | None:
        """The next of `found`, worked out in the thread; None at the end."""
        # Whoever is cancelled here leaves a step behind, which ends before another's begins.
        return await asyncio.get_running_loop().run_in_executor(self._thread, next, found, None)

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)
