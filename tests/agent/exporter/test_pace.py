"""How fast a backlog goes, by what its peer says."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.exporter.pace import LONG_OUTAGE_S, START_WITHIN_S, Pace

BOUND = 1 << 20
QUICK, SLOW = 0.05, 0.8


def begun(now_s: float = 0.0) -> Pace:
    """One that begins after a long outage, without a random wait."""
    pace = Pace(BOUND)
    pace.begin(3600, now_s, 0.0)
    return pace


def test_a_backlog_without_an_outage_goes_at_the_bound() -> None:
    """What one piece takes is waited for before the next."""
    pace = Pace(BOUND)
    assert pace.wait_s(5) == 0
    pace.sent(BOUND // 2, 5)
    assert pace.wait_s(5) == 0.5
    assert pace.wait_s(6) == 0


@pytest.mark.parametrize("jitter", [0.0, 0.5, 0.999])
def test_after_a_long_outage_it_begins_at_a_random_moment_and_slowly(jitter: float) -> None:
    """Within 30 s, at a 256th of the bound."""
    pace = Pace(BOUND)
    pace.begin(LONG_OUTAGE_S + 1, 100, jitter)
    assert pace.wait_s(100) == pytest.approx(jitter * START_WITHIN_S)
    assert pace.rate == BOUND / 256


def test_after_a_start_it_begins_at_a_random_moment_too() -> None:
    """A power cut ends for a whole fleet at once."""
    pace = Pace(BOUND)
    pace.begin(math.inf, 0, 0.5)
    assert pace.wait_s(0) == 15


def test_after_a_short_outage_it_goes_on() -> None:
    """A minute is no outage that a fleet has together."""
    pace = Pace(BOUND)
    pace.begin(LONG_OUTAGE_S, 100, 0.5)
    assert pace.wait_s(100) == 0
    assert pace.rate == BOUND


def test_it_doubles_up_to_the_bound_while_the_peer_is_quick() -> None:
    """Eight times, and not with every answer: they tell of the rate before."""
    pace = begun()
    rates = []
    for second in range(60):
        pace.acknowledged(QUICK, second)
        rates.append(pace.rate)
    assert rates[:5] == [BOUND / 128] * 4 + [BOUND / 64]
    assert rates[27] == BOUND / 2
    assert rates[28:] == [BOUND] * 32


def test_what_is_waited_for_gets_shorter_with_the_rate() -> None:
    """A piece that was sent slowly does not hold up what may go faster now."""
    pace = begun()
    pace.sent(BOUND // 256 * 10, 0)
    assert pace.wait_s(0) == 10
    pace.acknowledged(QUICK, 2)
    assert pace.wait_s(2) == 4


def test_a_refusal_halves_it_and_makes_it_careful() -> None:
    """Twenty seconds from then on for every doubling, until the next outage is over."""
    pace = Pace(BOUND)
    pace.refused(10)
    assert pace.rate == BOUND / 2
    pace.acknowledged(QUICK, 29)
    assert pace.rate == BOUND / 2
    pace.acknowledged(QUICK, 30)
    assert pace.rate == BOUND
    pace.refused(40)
    pace.refused(40)
    pace.acknowledged(QUICK, 60)
    pace.acknowledged(QUICK, 79)
    assert pace.rate == BOUND / 2
    pace.begin(3600, 100, 0.0)
    pace.acknowledged(QUICK, 100)
    pace.acknowledged(QUICK, 104)
    assert pace.rate == BOUND / 64


def test_refusals_never_end_a_backlog() -> None:
    """A 4096th of the bound is left."""
    pace = Pace(BOUND)
    for second in range(100):
        pace.refused(second)
    assert pace.rate == BOUND / 4096


def test_slow_answers_halve_it_as_far_as_it_began() -> None:
    """A collector that queues is about to refuse."""
    pace = Pace(BOUND)
    pace.acknowledged(0.01, 0)
    pace.acknowledged(SLOW, 0)
    pace.acknowledged(SLOW, 3)
    assert pace.rate == BOUND / 2
    for second in range(4, 100, 4):
        pace.acknowledged(SLOW, second)
    assert pace.rate == BOUND / 256
    pace.refused(200)
    pace.acknowledged(SLOW, 300)
    assert pace.rate == BOUND / 512


def test_answers_in_between_change_nothing() -> None:
    """Neither quick nor slow: it is about right."""
    pace = begun()
    pace.acknowledged(0.01, 0)
    before = pace.rate
    pace.acknowledged(0.4, 100)
    assert pace.rate == before


def test_a_slow_link_is_not_taken_for_a_slow_collector() -> None:
    """Answers are compared with the quickest: over a satellite each takes most of a second."""
    pace = begun()
    for second in range(0, 200, 20):
        pace.acknowledged(0.7 + second / 1000, second)
    assert pace.rate == BOUND
    pace.acknowledged(2.2, 300)
    assert pace.rate == BOUND / 2


def test_answers_that_were_always_slow_are_a_collectors_fault() -> None:
    """No link takes seconds."""
    pace = begun()
    for second in range(0, 200, 20):
        pace.acknowledged(3.1, second)
    assert pace.rate == BOUND / 256


def test_a_pause_is_the_least_that_is_waited() -> None:
    """A ring that cannot be read is left alone for a while."""
    pace = Pace(BOUND)
    pace.pause(5)
    assert pace.wait_s(1) == 4
    pace.pause(3)
    assert pace.wait_s(1) == 4


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["sent", "quick", "slow", "refused", "begin"]),
            st.floats(0, 30),
            st.integers(1, 4 << 20),
        ),
        max_size=60,
    )
)
def test_no_answers_make_it_faster_than_the_bound(steps: list[tuple[str, float, int]]) -> None:
    """Whoever waits as told sends at most the bound, and one piece ahead."""
    pace = Pace(BOUND)
    now_s, sent, largest = 0.0, 0, 0
    for what, passed_s, size in steps:
        now_s += passed_s
        if what == "sent":
            now_s += pace.wait_s(now_s)
            sent += size
            largest = max(largest, size)
            pace.sent(size, now_s)
        elif what == "refused":
            pace.refused(now_s)
        elif what == "begin":
            pace.begin(passed_s * 10, now_s, 0.5)
        else:
            pace.acknowledged(QUICK if what == "quick" else SLOW, now_s)
        assert BOUND / 4096 <= pace.rate <= BOUND
        assert sent <= now_s * BOUND + largest + 1
