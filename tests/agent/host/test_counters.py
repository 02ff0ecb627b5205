"""Counters that are reset, and when they start anew."""

from hypothesis import given
from hypothesis import strategies as st

from edge_agent.host import counters
from edge_agent.host.counters import Counters
from edge_agent.otlp.metrics import Kind, Metric, Reading

IO = Metric("system.network.io", "By", Kind.COUNTER)
GAUGE = Metric("hw.temperature", "Cel", Kind.GAUGE)
ETH0 = (("network.interface.name", "eth0"),)


def starts(state: Counters, value: float, time: int) -> int | None:
    """The start time that one sample of one series gets."""
    (reading,) = state.started([Reading(IO, ETH0, value)], time)
    assert reading.value == value
    return reading.start_time_unix_nano


def test_a_counter_that_goes_backwards_starts_when_it_was_last_seen() -> None:
    """And keeps that start until the next reset."""
    state = Counters()
    assert [starts(state, value, time) for time, value in enumerate([5, 7, 7, 3, 4, 9, 0])] == [
        *(None, None, None),
        *(2, 2, 2),
        5,
    ]


def test_a_series_that_was_away_is_reset_only_if_it_lost_count() -> None:
    """A stick pulled and plugged starts from zero; a sample that failed does not."""
    state = Counters()
    starts(state, 10, 1)
    list(state.started([], 2))
    assert starts(state, 11, 3) is None
    list(state.started([], 4))
    assert starts(state, 1, 5) == 3


def test_gauges_and_readings_with_a_start_of_their_own_are_left_alone() -> None:
    """A temperature may fall; a process knows when it began."""
    state = Counters()
    for value in (5, 3):
        given_readings = [Reading(GAUGE, (), value), Reading(IO, ETH0, value, 99)]
        assert list(state.started(given_readings, value)) == given_readings


def test_only_so_many_series_are_remembered() -> None:
    """Containers come and go with ever new interfaces: the longest unseen are forgotten."""
    state = Counters()
    starts(state, 10, 1)
    crowd = [Reading(IO, (("network.interface.name", f"veth{n}"),), 1) for n in range(4096)]
    list(state.started(crowd, 2))
    assert starts(state, 1, 3) is None
    assert len(state._last) == counters._MAX_SERIES


@given(st.lists(st.integers(0, 5), min_size=1, max_size=20))
def test_within_one_start_time_no_counter_ever_falls(values: list[int]) -> None:
    """The promise behind every rate; and no point is older than its start."""
    state = Counters()
    before: dict[int | None, float] = {}
    for time, value in enumerate(values, start=1):
        start = starts(state, value, time)
        assert value >= before.get(start, 0)
        assert start is None or start < time
        before = {start: value}
