"""What is acknowledged of the records on loan, and when."""

from edge_agent.exporter.loans import Loans
from edge_agent.ring.record import Ack, Ref


def lent(*refs: Ref) -> Loans:
    """Entries of a queue, of 2 items and 10 bytes each, with a copy each."""
    loans = Loans(1)
    for ref in refs:
        loans.lend(ref, 2, 10)
    return loans


def test_what_is_settled_is_acknowledged_while_others_of_its_record_are_under_way() -> None:
    """A call that hangs must not have what arrived long ago sent again after a kill."""
    loans = lent(Ref(7, 0), Ref(7, 1))
    loans.settle(Ref(7, 0))
    assert loans.to_acknowledge
    (ack,) = loans.acks()
    assert ack == Ack(1, 7, frozenset({0}))
    loans.acknowledged(ack)
    assert not loans.to_acknowledge
    assert loans.positions() == {7}
    loans.settle(Ref(7, 1))
    (ack,) = loans.acks()
    assert ack == Ack(1, 7, frozenset({1}))
    loans.acknowledged(ack)
    assert 7 not in loans.positions()


def test_what_is_settled_during_a_commit_is_acknowledged_by_the_next() -> None:
    """A commit tells what it has done, and nothing about what came since."""
    loans = lent(Ref(7, 0), Ref(7, 1))
    loans.settle(Ref(7, 0))
    (ack,) = loans.acks()
    loans.settle(Ref(7, 1))
    loans.acknowledged(ack)
    assert loans.acks() == [Ack(1, 7, frozenset({1}))]


def test_a_record_that_grew_while_its_first_entry_was_settled_keeps_both_in_mind() -> None:
    """The tail of a queue takes more by a commit during which what it has arrives."""
    loans = lent(Ref(7, 0))
    loans.settle(Ref(7, 0))
    loans.lend(Ref(7, 1), 2, 10)
    loans.settle(Ref(7, 1))
    assert loans.acks() == [Ack(1, 7, frozenset({0, 1}))]


def test_a_record_is_read_again_once_what_was_settled_of_it_is_acknowledged() -> None:
    """What waits in the ring is not lent twice, and not read before the ring knows what is left."""
    loans = lent(Ref(7, 0), Ref(7, 1))
    loans.settle(Ref(7, 0))
    assert not loans.partly_returned
    loans.give_back(Ref(7, 1))
    assert loans.partly_returned
    assert loans.positions() == {7}
    (ack,) = loans.acks()
    loans.acknowledged(ack)
    assert not loans.partly_returned
    assert loans.positions() == frozenset()


def test_a_lost_record_spares_what_is_in_memory_and_what_was_settled_but_not_acknowledged() -> None:
    """What the ring has let go of before is no part of what it says it lost."""
    loans = lent(*(Ref(7, index) for index in range(4)))
    loans.settle(Ref(7, 0))
    loans.acknowledged(loans.acks()[0])
    loans.settle(Ref(7, 1))
    loans.give_back(Ref(7, 2))
    alive, items, size = loans.lost(7)
    assert (alive, items, size) == (frozenset({3}), 4, 20)
    assert not loans.to_acknowledge
    # Somebody may be told later of what was in it.
    loans.settle(Ref(7, 3))
    loans.acknowledged(Ack(1, 7, frozenset({1})))
    assert loans.lost(7) == (frozenset(), 0, 0)


def test_an_entry_in_pieces_is_settled_with_the_last_and_kept_for_any() -> None:
    """A request that was cut is one entry of the ring."""
    loans = lent(Ref(7, 0), Ref(8, 0))
    for ref in (Ref(7, 0), Ref(8, 0)):
        loans.divide(ref, 2)
        loans.settle(ref)
    assert not loans.to_acknowledge
    loans.settle(Ref(7, 0))
    loans.give_back(Ref(8, 0))
    assert loans.acks() == [Ack(1, 7, frozenset({0}))]
    assert loans.positions() == {7}


def test_what_is_not_on_loan_any_more_is_neither_cut_nor_given_back() -> None:
    """The ring may have lost the record while a call was about it."""
    loans = lent(Ref(7, 0))
    loans.lost(7)
    loans.divide(Ref(7, 0), 2)
    loans.give_back(Ref(7, 0))
    loans.settle(Ref(7, 0))
    assert not loans.to_acknowledge
    assert loans.positions() == frozenset()
