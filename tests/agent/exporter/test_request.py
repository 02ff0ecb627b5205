"""Pieces of requests, and whose they are."""

import pytest

from edge_agent.exporter.request import Request, cut, fitted, senders
from edge_agent.otlp.signal import Signal
from tests.agent.exporter.test_queue import names_in, points


def request_of(body: bytes, items: int, *, size: int | None = None) -> Request:
    """As the queue admits it, in the seventh place."""
    return Request(body, items, len(body) if size is None else size, (7,), 1.5)


@pytest.mark.parametrize("padding", [0, 100_000])
def test_pieces_share_what_the_ledger_counts(padding: int) -> None:
    """Small ones are cut by items, large ones by bytes; size, order and age are the whole's."""
    names = [f"m{n}" for n in range(9)]
    whole = request_of(points(*names, padding=padding), 9, size=1001)
    pieces = cut(Signal.METRICS, whole)
    assert len(pieces) > 1
    assert [name for piece in pieces for name in names_in(piece.body)] == names
    assert [piece.items for piece in pieces] == [len(names_in(piece.body)) for piece in pieces]
    assert sum(piece.size for piece in pieces) == 1001
    assert [piece.order for piece in pieces] == [(7, n) for n in range(len(pieces))]
    assert {piece.admitted_s for piece in pieces} == {1.5}
    again = [part for piece in pieces for part in cut(Signal.METRICS, piece)]
    assert sorted(again, key=lambda r: r.order) == again
    assert sum(part.size for part in again) == 1001


@pytest.mark.parametrize(
    ("body", "items"),
    [
        (points("one"), 1),
        (points(), 0),
        # Not what was said at admission.
        (points("a", "b"), 3),
        (b"\x0a\x05", 2),
        (b"", 0),
    ],
)
def test_what_cannot_be_cut_stays_whole(body: bytes, items: int) -> None:
    """And the ledger balanced."""
    whole = request_of(body, items)
    assert cut(Signal.METRICS, whole) == [whole]


def test_fitted_pieces_are_no_larger_than_asked_for() -> None:
    """But for an item that alone is."""
    body = points("a", "b", padding=400) + points("large", padding=2000)
    pieces = fitted(Signal.METRICS, request_of(body, 3), 1000)
    assert [names_in(piece.body) for piece in pieces] == [["a", "b"], ["large"]]
    assert [len(piece.body) <= 1000 for piece in pieces] == [True, False]
    small = request_of(body, 3)
    assert fitted(Signal.METRICS, small, len(body)) == [small]


def test_senders_are_named_and_bounded() -> None:
    """A log line stays a line."""
    body = b"".join(points("m", service=f"s{n}") for n in range(7)) + points("m", service="s1")
    assert senders(Signal.METRICS, request_of(body, 8)) == "s0, s1, s2, s3, s4, 2 more"
    assert senders(Signal.METRICS, request_of(points("m", service="x" * 200), 1)) == "x" * 100
    assert senders(Signal.METRICS, request_of(b"\x0a\x05", 1)) == ""
