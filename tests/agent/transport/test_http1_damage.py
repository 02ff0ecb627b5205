"""Valid HTTP with bytes changed, cut anywhere: an answer or a refusal, never an exception."""

import itertools

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from edge_agent.transport.http1_messages import Limits, ProtocolError, Response
from edge_agent.transport.http1_requests import RequestReader, Turn
from edge_agent.transport.http1_responses import ResponseReader

LIMITS = Limits(max_body_bytes=20, max_connections=1, max_header_bytes=300)
REQUESTS = (
    b"POST /a?b HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\nhello"
    b"GET / HTTP/1.1\r\nHost: x\r\nX-A: 1\r\nX-A: 2\r\n\r\n"
    b"POST /c HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"3;e=1\r\nabc\r\n2\r\nde\r\n0\r\nT: t\r\n\r\n"
    b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
)
RESPONSES = (
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nA: b\r\n\r\nhello",
    b"HTTP/1.1 103 Early Hints\r\nA: b\r\n\r\nHTTP/1.1 503 No\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"3\r\nabc\r\n0\r\n\r\n",
    b"HTTP/1.0 404 Not Found\r\n\r\nuntil it closes",
)
DAMAGE = st.lists(st.tuples(st.integers(0), st.integers(0, 255)), max_size=3)
CUTS = st.lists(st.integers(0, 400), max_size=5)


def damaged(data: bytes, damage: list[tuple[int, int]]) -> bytes:
    """`data` with some bytes replaced."""
    changed = bytearray(data)
    for at, byte in damage:
        changed[at % len(changed)] = byte
    return bytes(changed)


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    """`data` cut in places."""
    edges = [0, *sorted(cuts), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges) if a < b]


def turns(data: bytes, cuts: list[int]) -> list[Turn]:
    """What a server would answer, in order."""
    reader = RequestReader(LIMITS, "peer")
    found: list[Turn] = []
    for piece in pieces(data, cuts):
        while piece and not reader.over:
            piece = piece[reader.feed(piece) :]
            found += reader.ready
            reader.ready.clear()
    return found


@given(DAMAGE, CUTS)
@example([], [])
def test_damaged_requests_are_answered_or_refused(
    damage: list[tuple[int, int]], cuts: list[int]
) -> None:
    """A refusal is the last turn, bodies stay within the limit, and cuts change nothing."""
    data = damaged(REQUESTS, damage)
    found = turns(data, cuts)
    assert all(turn.keep_alive for turn in found[:-1])
    for turn in found:
        if isinstance(turn.subject, Response):
            assert turn.subject.status in (400, 413, 417, 431, 501, 505)
        else:
            assert len(turn.subject.body) <= LIMITS.max_body_bytes
    assert kinds(found) == kinds(turns(data, []))
    assert len(found) == 4 or damage


def kinds(found: list[Turn]) -> list[object]:
    """What matters of turns: who is answered, and with which status who is not."""
    return [
        turn.subject.status if isinstance(turn.subject, Response) else turn.subject
        for turn in found
    ]


@given(st.sampled_from(RESPONSES), DAMAGE, CUTS)
def test_damaged_responses_are_read_or_an_error_of_the_protocol(
    response: bytes, damage: list[tuple[int, int]], cuts: list[int]
) -> None:
    """ProtocolError and nothing else; a body within the limit."""

    def read(cuts: list[int]) -> Response | None:
        reader = ResponseReader("GET", max_header_bytes=300, max_body_bytes=20)
        try:
            for piece in pieces(damaged(response, damage), cuts):
                reader.feed(piece)
            reader.end()
        except ProtocolError:
            return None
        assert reader.response is not None
        assert len(reader.response.body) <= 20
        return reader.response

    whole = read([])
    assert read(cuts) == whole
    assert whole is not None or damage


def test_a_fault_of_ours_in_a_callback_is_not_blamed_on_the_peer() -> None:
    """It surfaces as what it is."""

    def admit(*_: object) -> Response | None:
        raise ZeroDivisionError

    reader = RequestReader(LIMITS, "peer", admit=admit)
    with pytest.raises(ZeroDivisionError):
        reader.feed(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
