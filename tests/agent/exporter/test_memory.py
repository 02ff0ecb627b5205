"""Who loses when the RAM for bodies is full."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.exporter.memory import Memory


class Held:
    """Requests of known sizes; `busy` bytes are in flight and cannot be evicted."""

    def __init__(self, *sizes: int, busy: int = 0) -> None:
        self.waiting = list(sizes)
        self.busy = busy
        self.evicted: list[int] = []

    @property
    def ram_bytes(self) -> int:
        return sum(self.waiting) + self.busy

    def evict_oldest(self) -> bool:
        if self.waiting:
            self.evicted.append(self.waiting.pop(0))
            return True
        return False


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def shared(max_bytes: int, *shares: tuple[Held, float]) -> Memory:
    """A memory with these holders and floors."""
    memory = Memory(max_bytes, clock=Clock())
    for holder, floor in shares:
        memory.share(holder, floor)
    return memory


def test_the_holder_furthest_above_its_floor_loses_its_oldest() -> None:
    """Debug logs cannot evict metrics that are within their floor."""
    metrics, logs = Held(20, 5), Held(10, 30, 40)
    memory = shared(100, (metrics, 0.25), (logs, 0.1))
    memory.make_room()
    assert (metrics.evicted, logs.evicted) == ([], [10])
    assert memory.bytes == 95


def test_nothing_is_evicted_within_the_bound() -> None:
    """100 bytes of 100 are not too many."""
    held = Held(60, 40)
    shared(100, (held, 0.1)).make_room()
    assert held.evicted == []


def test_what_is_in_flight_stays_and_another_waits_shorter() -> None:
    """A holder with nothing that waits passes the loss on; without any, the bound is exceeded."""
    busy, other = Held(busy=90), Held(20)
    memory = shared(100, (busy, 0.1), (other, 0.5))
    memory.make_room()
    assert other.evicted == [20]
    busy.busy = 120
    memory.make_room()
    assert memory.usage == 1.0


@given(
    st.lists(
        st.tuples(st.lists(st.integers(1, 50), max_size=8), st.floats(0, 0.25)),
        min_size=1,
        max_size=4,
    ),
    st.integers(50, 200),
)
def test_a_holder_within_its_floor_never_loses(
    shares: list[tuple[list[int], float]], max_bytes: int
) -> None:
    """Floors add up to one at most; whoever stays below keeps everything."""
    holders = [(Held(*sizes), floor) for sizes, floor in shares]
    within = [h for h, floor in holders if h.ram_bytes <= int(floor * max_bytes)]
    memory = shared(max_bytes, *holders)
    memory.make_room()
    assert memory.bytes <= max_bytes
    assert [h.evicted for h in within] == [[] for _ in within]


def test_seconds_to_loss_is_the_room_left_over_the_inflow() -> None:
    """At constant load it counts down with the clock, within a twentieth."""
    clock, held = Clock(), Held()
    memory = Memory(100_000, clock=clock)
    memory.share(held, 1.0)
    assert memory.seconds_to_loss() is None
    for _ in range(100):
        held.waiting.append(100)
        memory.admitted(100)
        clock.now_s += 5
    assert memory.seconds_to_loss() == pytest.approx((100_000 - 10_000) / 20, rel=0.05)


def test_usage_is_one_where_the_next_request_would_cost_an_older_one() -> None:
    """Eviction leaves a little room, and yet every request that comes evicts another."""
    held = Held(40, 30)
    memory = shared(100, (held, 1.0))
    memory.admitted(30)
    assert memory.usage == 0.7
    held.waiting.append(30)
    memory.admitted(30)
    assert (held.evicted, memory.usage) == ([], 1.0)
    held.waiting.append(30)
    memory.admitted(30)
    assert (held.evicted, memory.bytes, memory.usage) == ([40], 90, 1.0)
