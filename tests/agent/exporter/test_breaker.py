"""When a failing peer is tried again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.exporter.breaker import CLOSING_RETRY_S, Breaker
from edge_agent.exporter.retry import Backoff, Denied, Retry

AWAY = Retry("unavailable")
REFUSED = Denied("unauthenticated", "who are you")


def breaker() -> Breaker:
    """As the agent's defaults."""
    return Breaker(Backoff(1.0, 30.0), 300.0)


def test_retries_double_while_they_are_young() -> None:
    """1, 2, 4 ... seconds, spread over the upper half."""
    one = breaker()
    assert [one.failed(AWAY, at, at, 0.0) for at in (0, 1, 3)] == [0.5, 1.0, 2.0]
    assert one.not_before_s == 5.0
    assert one.failing
    assert not one.is_open(299)


def test_an_old_outage_is_probed_steadily_and_by_a_fleet_not_all_at_once() -> None:
    """After max_elapsed_time: every max_interval, from half of it on."""
    one = breaker()
    one.failed(AWAY, 0, 0, 0.5)
    assert one.is_open(300)
    assert one.failed(AWAY, 300, 300, 0.0) == 15.0
    assert one.failed(AWAY, 10_000, 10_000, 0.5) == 22.5


def test_a_hint_wins_over_both_phases() -> None:
    """The peer knows best, however long."""
    one = breaker()
    hint = Retry("busy", 120.0)
    assert one.failed(hint, 0, 0, 0.5) == 120
    assert one.failed(hint, 1000, 1000, 0.5) == 120


def test_who_is_refused_pauses_and_probes() -> None:
    """Credentials are mended by a person."""
    one = breaker()
    assert one.failed(REFUSED, 0, 0, 0.5) == 30
    assert one.denied
    assert one.is_open(0)
    one.failed(AWAY, 30, 30, 0.5)
    assert not one.denied


def test_calls_that_fail_together_are_one_failure() -> None:
    """Two lanes to one peer that goes away."""
    one = breaker()
    one.failed(AWAY, 0, 10, 0.0)
    one.failed(AWAY, 1, 11, 0.0)
    assert one.failures == 1
    one.failed(AWAY, 12, 13, 0.0)
    assert one.failures == 2


def test_an_answer_ends_an_outage_and_says_how_long_it_was() -> None:
    """And the next failure begins a new one."""
    one = breaker()
    assert one.answered(0, 1) is None
    assert not one.is_open(1)
    one.failed(AWAY, 1, 2, 0.0)
    assert one.answered(400, 402) == 400
    assert not one.failing
    assert one.not_before_s == 0
    assert one.failed(AWAY, 500, 501, 0.0) == 0.5


def test_an_answer_to_an_older_call_does_not_end_it() -> None:
    """What the peer said since, on the other lane, is its newer word."""
    one = breaker()
    one.failed(AWAY, 5, 10, 0.0)
    assert one.answered(4, 11) is None
    assert one.failing


def test_at_the_end_of_a_process_nobody_waits_long() -> None:
    """Hints and backoff are for those who have time."""
    one = breaker()
    one.failed(Retry("busy", 3600.0), 0, 0, 0.5)
    one.hurry(10)
    assert one.not_before_s == 10 + CLOSING_RETRY_S
    one.hurry(20)
    assert one.not_before_s == 10 + CLOSING_RETRY_S
    one.reset()
    assert one.not_before_s == 0


@given(
    st.lists(
        st.tuples(
            st.sampled_from([AWAY, REFUSED, Retry("busy", 7.0), None]),
            st.floats(0, 1000),
            st.floats(0, 1, exclude_max=True),
        )
    )
)
def test_a_peer_is_always_tried_again(
    steps: list[tuple[Retry | Denied | None, float, float]],
) -> None:
    """No order of outcomes keeps a queue waiting longer than max_interval or the peer's word."""
    one = breaker()
    now_s = 0.0
    for outcome, passed_s, jitter in steps:
        now_s = max(now_s + passed_s, one.not_before_s)
        if outcome is None:
            one.answered(now_s, now_s)
            assert not one.failing
        else:
            delay_s = one.failed(outcome, now_s, now_s, jitter)
            assert 0 < delay_s <= 30
            assert one.not_before_s == pytest.approx(now_s + delay_s)
            assert one.failing
        assert one.failing == (one.failures > 0)
