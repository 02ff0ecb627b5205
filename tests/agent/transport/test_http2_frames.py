"""Where frames begin and end, however they are cut."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.transport.http2_frames import Frames
from edge_agent.transport.http2_limits import PREFACE
from tests.fakes.attacks import HELLO, frame

KINDS = {
    "DATA": 0,
    "HEADERS": 1,
    "PRIORITY": 2,
    "RST_STREAM": 3,
    "SETTINGS": 4,
    "PING": 6,
    "GOAWAY": 7,
    "WINDOW_UPDATE": 8,
    "CONTINUATION": 9,
    "unknown": 0x55,
}
END_HEADERS = 4


def greeted() -> Frames:
    """Of a client that has introduced itself."""
    frames = Frames()
    assert frames.feed(HELLO)
    assert not frames.inside
    return frames


def test_a_preface_is_not_enough() -> None:
    """SETTINGS come next, whole; an empty payload ends with its header."""
    frames = Frames()
    assert frames.inside
    for byte in HELLO[:-1]:
        assert not frames.feed(bytes((byte,)))
        assert frames.inside
    assert frames.feed(HELLO[-1:])
    assert not frames.inside


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [0, 1, 300])
def test_a_frame_is_inside_from_its_first_byte_to_its_last(kind: str, size: int) -> None:
    """But the payload of DATA: calls have a patience of their own."""
    frames, whole = greeted(), frame(KINDS[kind], END_HEADERS, 1, bytes(size))
    for number, byte in enumerate(whole, 1):
        ended = frames.feed(bytes((byte,)))
        assert ended == (number == len(whole))
        assert frames.inside == (number < len(whole) and (number < 9 or kind != "DATA"))


def test_a_head_goes_on_until_its_last_continuation() -> None:
    """Each frame of it is whole, and something is still owed."""
    frames = greeted()
    for kind in (1, 9, 9):
        assert not frames.feed(frame(kind, 0, 1, b"abc"))
        assert frames.inside
    assert frames.feed(frame(9, END_HEADERS, 1))
    assert not frames.inside


def test_one_that_begins_behind_one_that_ends_is_told_from_it() -> None:
    """Both are said: something has ended, and something is owed."""
    frames = greeted()
    assert frames.feed(frame(6, 0, 0, bytes(8)) + frame(1, 4, 1, bytes(8))[:9])
    assert frames.inside
    assert frames.feed(bytes(8) + b"\0")
    assert frames.inside


@given(
    st.lists(
        st.tuples(st.sampled_from(sorted(KINDS.values())), st.integers(0, 20_000)), max_size=9
    ),
    st.lists(st.integers(0, 60_000), max_size=9),
)
def test_how_it_is_cut_does_not_matter(sent: list[tuple[int, int]], cuts: list[int]) -> None:
    """At the ends of frames nothing is owed, and anywhere else something is, but for DATA."""
    stream, spans, at = HELLO, [(0, len(HELLO), -1)], len(HELLO)
    for kind, size in sent:
        stream += frame(kind, END_HEADERS, 1, bytes(size))
        spans.append((at, len(stream), kind))
        at = len(stream)
    frames, before = Frames(), 0
    for cut in sorted({min(cut, len(stream)) for cut in cuts} | {len(stream)}):
        ended = frames.feed(memoryview(stream)[before:cut])
        assert ended == any(before < end <= cut for _, end, _ in spans)
        within = [(cut - start, kind) for start, end, kind in spans if start < cut < end]
        owed = cut == 0 or any(kind != 0 or offset < 9 for offset, kind in within)
        assert frames.inside == owed
        before = cut
    assert stream[: len(PREFACE)] == PREFACE
