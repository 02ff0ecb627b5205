"""One queue of metrics with its ring, as the agent wires them, behind whatever client is given."""

import asyncio
from pathlib import Path

from edge_agent.exporter.memory import Memory
from edge_agent.exporter.queue import Policy, Queue, Reachability
from edge_agent.exporter.retry import Backoff, Client
from edge_agent.exporter.room import Room
from edge_agent.exporter.spool import Spool
from edge_agent.ledger import Ledger
from edge_agent.opener import FLOORS, NUMBERS
from edge_agent.otlp.signal import Signal
from edge_agent.ring.opening import open_ring
from edge_agent.ring.store import Ring
from tests.fakes.inline import Inline

BOOT_ID = bytes(range(16))
FLUSH_S = 5.0


class Device:
    """Metrics for the collector, on the running loop's time; use it `async with`.

    Settings are the agent's defaults. Time stamps are `epoch_nano` and the loop's time.
    """

    def __init__(
        self,
        directory: Path,
        client: Client,
        *,
        max_bytes: int,
        drain_rate: float = 1 << 20,
        newest_first: bool = False,
        epoch_nano: int = 1_700_000_000_000_000_000,
    ) -> None:
        loop = asyncio.get_running_loop()
        self._directory = directory
        self._max_bytes = max_bytes
        self.account = Ledger().account("collector", Signal.METRICS)
        self.rings: list[Ring] = []
        self.spool = Spool(
            self._open,
            flush_s=FLUSH_S,
            clock=loop.time,
            unix_nano=lambda: epoch_nano + int(loop.time() * 1e9),
            boottime_nano=lambda: int(loop.time() * 1e9),
            boot_id=BOOT_ID,
            executor=Inline(),
        )
        self.memory = Memory(16 << 20, clock=loop.time, press=self.spool.press)
        self.room = Room(self.memory, self.spool, strict=False)
        self.queue = Queue(
            self.account,
            client,
            Policy(
                newest_first=newest_first,
                lanes=2 if newest_first else 1,
                batch_items=512,
                retry=True,
                backoff=Backoff(1.0, 30.0),
                max_elapsed_s=300.0,
                drain_rate=drain_rate,
            ),
            Reachability(),
            self.memory,
            number=NUMBERS["collector", Signal.METRICS],
            spool=self.spool,
            clock=loop.time,
            jitter=lambda: 0.5,
        )
        self.memory.share(self.queue, 0.25)

    def _open(self) -> Ring:
        ring, _ = open_ring(
            str(self._directory),
            max_bytes=self._max_bytes,
            floors=FLOORS,
            boot_id=BOOT_ID,
            strict=False,
        )
        self.rings.append(ring)
        return ring

    @property
    def ring(self) -> Ring:
        """The ring, which was opened."""
        return self.rings[-1]

    async def __aenter__(self) -> "Device":
        self._spooling = asyncio.create_task(self.spool.run())
        await self.spool.opened.wait()
        self._sending = asyncio.create_task(self.queue.run())
        return self

    async def __aexit__(self, *error: object) -> None:
        self.queue.close()
        self._sending.cancel()
        self._spooling.cancel()
        await asyncio.wait({self._sending, self._spooling})
        await self.spool.close()

    def balance(self) -> None:
        """The ledger adds up, in items and bytes."""
        came = self.account.accepted.items + self.account.restored.items
        size = self.account.accepted.bytes + self.account.restored.bytes
        settled = self.account.settled()
        assert came == settled.items + self.queue.items
        assert size == settled.bytes + self.queue.bytes
