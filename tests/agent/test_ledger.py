"""The counters that balance."""

from edge_agent.ledger import Account, Ledger, Tally
from edge_agent.otlp.signal import Signal


def test_an_account_is_opened_once_per_destination_and_signal() -> None:
    """Every part that names the same pair adds to the same account."""
    ledger = Ledger()
    first = ledger.account("collector", Signal.METRICS)
    assert ledger.account("collector", Signal.METRICS) is first
    assert ledger.account("adapter", Signal.METRICS) is not first
    assert [a.destination for a in ledger] == ["collector", "adapter"]


def test_settled_is_all_that_has_left() -> None:
    """accepted - settled is what the queue must hold, in items and in bytes."""
    account = Account("collector", Signal.TRACES)
    account.accepted.add(100, 1000)
    account.delivered.add(50, 500)
    account.sampled_out.add(5, 50)
    account.spilled.add(4, 40)
    account.reject("invalid_argument", 3, 30)
    account.drop("queue_full", 2, 20)
    account.drop("queue_full", 1, 10)
    assert account.settled() == Tally(65, 650)
    assert account.lost_items() == 6


def test_rows_name_every_outcome_and_reason_once() -> None:
    """/metrics prints one sample a row; a reason is only there where there are several."""
    account = Account("adapter", Signal.LOGS)
    account.drop("queue_full", 1, 2)
    account.reject("internal", 3, 4)
    assert list(account.rows()) == [
        ("accepted", "", Tally()),
        ("accepted", "restored", Tally()),
        ("delivered", "", Tally()),
        ("sampled_out", "", Tally()),
        ("spilled", "", Tally()),
        ("rejected", "internal", Tally(3, 4)),
        ("dropped", "queue_full", Tally(1, 2)),
    ]


def test_sums_over_destinations_are_by_signal() -> None:
    """dropped_spans counts spans alone, whoever they were meant for."""
    ledger = Ledger()
    ledger.account("collector", Signal.TRACES).drop("queue_full", 2, 0)
    ledger.account("adapter", Signal.TRACES).reject("http_400", 3, 0)
    ledger.account("adapter", Signal.METRICS).drop("queue_full", 9, 0)
    ledger.account("collector", Signal.TRACES).delivered.add(7, 0)
    assert ledger.lost_items(Signal.TRACES) == 5
    assert ledger.delivered_items(Signal.TRACES) == 7
