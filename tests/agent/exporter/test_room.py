"""How full RAM and ring are together, and until when."""

from typing import cast

import pytest

from edge_agent.exporter.memory import Memory
from edge_agent.exporter.room import Room
from edge_agent.exporter.spool import Spool


class FakeSpool:
    """What a room asks of the spool."""

    def __init__(self) -> None:
        self.usable = True
        self.usage = 0.5
        self.ratio = 0.1
        self.capacity_bytes = 1000
        self.unsaved_bytes = 0


class FakeHolder:
    """A queue that holds so many bytes."""

    def __init__(self) -> None:
        self.ram_bytes = 0

    def evict_oldest(self) -> bool:
        return False


class Bench:
    """A room of 1000 bytes of RAM and as many of ring."""

    def __init__(self, *, strict: bool = False) -> None:
        self.now_s = 0.0
        self.holder = FakeHolder()
        self.memory = Memory(1000, clock=lambda: self.now_s)
        self.memory.share(self.holder, 1.0)
        self.spool = FakeSpool()
        self.room = Room(self.memory, cast("Spool", self.spool), strict=strict)

    def flow(self, size: int) -> None:
        """`size` bytes a second for 100 s, which the ring takes."""
        for _ in range(100):
            self.now_s += 1
            self.memory.admitted(size)


def test_what_is_in_memory_counts_as_if_it_were_in_the_ring() -> None:
    """Deflated, as what is there."""
    bench = Bench()
    bench.spool.unsaved_bytes = 1000
    assert bench.room.usage == pytest.approx(0.6)
    bench.spool.usage = 0.95
    assert bench.room.usage == 1.0


def test_seconds_to_loss_are_what_is_left_over_what_comes_in() -> None:
    """500 bytes on disk are left, and 20 a second at a tenth of their size come in."""
    bench = Bench()
    assert bench.room.seconds_to_loss() is None
    bench.flow(20)
    assert bench.room.seconds_to_loss() == pytest.approx(250)


def test_without_a_ring_it_is_memory_that_counts() -> None:
    """Its usage, and its own time."""
    bench = Bench()
    bench.flow(5)
    bench.spool.usable = False
    bench.holder.ram_bytes = 750
    assert bench.room.usage == 0.75
    assert bench.room.seconds_to_loss() == pytest.approx(50)


@pytest.mark.parametrize("strict", [False, True])
def test_apps_are_pushed_back_while_memory_is_full(strict: bool) -> None:
    """And in strict also while there is no ring to make anything durable."""
    bench = Bench(strict=strict)
    assert not bench.room.pushing_back
    bench.spool.usable = False
    assert bench.room.pushing_back is strict
    bench.holder.ram_bytes = 1001
    assert bench.room.pushing_back
