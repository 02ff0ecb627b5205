"""A fleet comes back at once: the agent's queues on fake time, one sink (tests/fakes/fleet.py).

The numbers beside those of a fleet that does not care: `python -m benchmarks.fleet`.
"""

import logging
from collections.abc import Iterator

import pytest

from tests.fakes import clock, fleet

# What the sink can serve, in multiples of what the fleet sends it in quiet times.
CAPACITY = 10.0
# Live traces and logs.
MAX_LATE_S = 5.0


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


def test_a_fleet_that_comes_back_neither_floods_nor_delays_what_is_new() -> None:
    """Twice what the sink serves at most; traces and logs at once; metrics in order; all of it."""
    agents = 30
    seen = clock.run(fleet.outage(agents, 900, capacity=CAPACITY))
    assert seen.peak_rate <= 2 * CAPACITY * agents * fleet.LIVE_BYTES_PER_S * fleet.SCALE
    assert seen.late_s <= MAX_LATE_S
    assert seen.out_of_order == 0
    assert seen.left == 0


def test_a_fleet_that_does_not_care_floods_its_sink() -> None:
    """The measure is one: without the pace of a backlog, new traces and logs wait for it."""
    seen = clock.run(fleet.outage(30, 900, capacity=CAPACITY, pace=fleet.Eager))
    assert seen.late_s > MAX_LATE_S
    assert seen.refused > 100


@pytest.mark.torture
@pytest.mark.timeout(3600)
def test_two_hundred_agents_after_two_hours() -> None:
    """At most twice the steady rate, at any second; nothing new more than five seconds late."""
    seen = clock.run(fleet.outage(200, 7200, capacity=CAPACITY))
    print(f"\n{seen}")  # noqa: T201  (the numbers are what a run by hand is for)
    assert seen.peak_rate <= 2 * seen.steady_rate
    assert seen.late_s <= MAX_LATE_S
    assert seen.out_of_order == 0
    assert seen.left == 0
