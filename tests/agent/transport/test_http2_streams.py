"""The calls of an HTTP/2 connection: when each is answered, and what it holds until then."""

import gc
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.transport.budget import Budget
from edge_agent.transport.grpc import Headers, message_prefix
from edge_agent.transport.http2_streams import (
    INITIAL_WINDOW,
    Limits,
    Reply,
    Streams,
    Waiting,
)
from edge_agent.transport.turns import Turns

BUDGET = 8 << 20
MAX_SIZE = 4 << 20
LIMITS = Limits(stall_s=30.0, wait_s=5.0, max_waiting=2)
GOOD: Headers = ((b":path", b"/good"),)
BAD: Headers = ((b":path", b"/bad"),)
FINE, WRONG = Reply(((b"s", b"fine"),)), Reply(((b"s", b"wrong"),))
LOAD, STALL, SIZE = (Reply(((b"s", word),)) for word in (b"load", b"stall", b"size"))


@dataclass
class Calls:
    """Takes what has the path /good, and remembers it."""

    taken: list[bytes] = field(default_factory=list)

    def begin(self, headers: Headers) -> str | Reply:
        return WRONG if headers == BAD else "head"

    def message(self, head: str, data: bytes) -> Reply:
        assert head == "head"
        self.taken.append(data)
        return FINE

    def refuse_size(self, size: int) -> Reply | None:
        return SIZE if size > MAX_SIZE else None

    def refuse_load(self) -> Reply:
        return LOAD

    def refuse_stall(self) -> Reply:
        return STALL


class Wire:
    """Writes down what it is asked for."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.answers: dict[int, tuple[Reply, bool]] = {}
        self.returned: dict[int, int] = {}
        self.windows: dict[int, int] = {}
        self.wake_s = math.inf

    def answer(self, stream_id: int, reply: Reply, *, last: bool) -> None:
        assert stream_id not in self.answers, "answered twice"
        self.answers[stream_id] = (reply, last)

    def taken(self, stream_id: int, size: int) -> None:
        self.returned[stream_id] = self.returned.get(stream_id, 0) + size

    def let_in(self, stream_id: int, size: int) -> None:
        self.windows[stream_id] = size

    def time_s(self) -> float:
        return self.now_s

    def wake_at(self, time_s: float) -> None:
        self.wake_s = min(self.wake_s, time_s)


class World:
    """One connection's calls, what they share with others, and what came of them."""

    def __init__(self, budget_bytes: int = BUDGET, shared: "World | None" = None) -> None:
        self.budget = Budget(budget_bytes) if shared is None else shared.budget
        self.waiting = Waiting() if shared is None else shared.waiting
        self.calls, self.wire = Calls(), Wire()
        self.next_turn: list[Callable[[], None]] = []
        self.turns = Turns(self.next_turn.append)
        self.streams = Streams(self.calls, self.budget, self.waiting, LIMITS, self.turns, self.wire)

    def go_round(self) -> None:
        """The loop goes round once."""
        called, self.next_turn[:] = list(self.next_turn), []
        for call in called:
            call()

    def begin(self, stream_id: int, size: int, *, sent: int, headers: Headers = GOOD) -> None:
        """A call that announces `size` bytes and sends `sent` of its data."""
        self.streams.begin(stream_id, headers, last=False)
        self.streams.data(stream_id, data(size)[:sent], last=False)


@pytest.fixture
def world() -> World:
    """A fresh one."""
    return World()


def data(size: int) -> bytes:
    """A message of `size` bytes with its prefix."""
    return message_prefix(size, compressed=False) + bytes(size)


def test_a_message_in_one_frame_is_answered_at_once(world: World) -> None:
    """It takes nothing from the budget, and sets no timer."""
    world.streams.begin(1, GOOD, last=False)
    world.streams.data(1, data(10), last=True)
    assert world.calls.taken == [data(10)]
    assert world.wire.answers == {1: (FINE, True)}
    assert world.wire.returned == {1: 15}
    assert (len(world.streams), world.budget.in_flight, world.wire.wake_s) == (0, 0, math.inf)


def test_a_call_without_data_is_answered_too(world: World) -> None:
    """With its headers, or its trailers."""
    world.streams.begin(1, GOOD, last=True)
    world.streams.begin(3, GOOD, last=False)
    world.streams.trailers(3)
    assert world.calls.taken == [b"", b""]
    assert world.wire.answers == {1: (FINE, True), 3: (FINE, True)}


def test_a_message_in_pieces_is_counted_until_it_is_whole(world: World) -> None:
    """Also where the pieces are single bytes; trailers end it as well as a last frame."""
    world.streams.begin(1, GOOD, last=False)
    for at in range(8):
        world.streams.data(1, data(5)[at : at + 1], last=False)
    assert world.budget.in_flight == 10
    world.streams.data(1, data(5)[8:], last=False)
    assert world.wire.answers == {}
    world.streams.trailers(1)
    assert world.calls.taken == [data(5)]
    assert (world.budget.in_flight, world.wire.returned) == (0, {1: 10})


def test_the_window_is_opened_for_a_large_message_and_no_more(world: World) -> None:
    """The five bytes tell the size, before the rest has come."""
    world.begin(1, 1 << 20, sent=5)
    assert world.wire.windows == {1: 5 + (1 << 20)}
    assert world.budget.in_flight == 5 + (1 << 20)
    world.streams.data(1, bytes(1 << 20), last=True)
    assert world.wire.answers == {1: (FINE, True)}
    assert world.budget.in_flight == 0


def test_a_message_that_is_too_large_is_refused_before_it_comes(world: World) -> None:
    """What still comes is thrown away, and given back to the connection's window."""
    world.begin(1, MAX_SIZE + 1, sent=5)
    assert world.wire.answers == {1: (SIZE, False)}
    world.streams.data(1, bytes(1000), last=False)
    world.streams.data(1, bytes(10), last=True)
    assert world.wire.returned == {1: 1015}
    assert (world.budget.in_flight, world.calls.taken) == (0, [])


def test_more_than_one_message_is_not_waited_for(world: World) -> None:
    """It is known to be wrong as soon as there is a byte too much, in one frame or later."""
    world.begin(1, 3, sent=0)
    world.streams.data(1, data(3) + b"x", last=False)
    world.begin(3, 3, sent=8)
    world.streams.data(3, b"x", last=False)
    assert world.calls.taken == [data(3) + b"x"] * 2
    assert world.wire.answers == {1: (FINE, False), 3: (FINE, False)}
    assert world.budget.in_flight == 0


@pytest.mark.parametrize("last", [True, False])
def test_a_bad_head_is_said_with_the_first_data(world: World, *, last: bool) -> None:
    """Not before: what is wrong with the frames has to be said first."""
    world.streams.begin(1, BAD, last=False)
    assert world.wire.answers == {}
    world.streams.data(1, b"abc", last=last)
    assert world.wire.answers == {1: (WRONG, last)}
    assert world.wire.returned == {1: 3}


def test_a_bad_head_alone_is_said_at_its_end(world: World) -> None:
    """There may never be data."""
    world.streams.begin(1, BAD, last=True)
    world.streams.begin(3, BAD, last=False)
    world.streams.trailers(3)
    assert world.wire.answers == {1: (WRONG, True), 3: (WRONG, True)}


def test_what_finds_no_room_waits_and_is_let_in_in_turn(world: World) -> None:
    """It holds what it may have sent unasked, and its window stays as it is."""
    world.begin(1, MAX_SIZE, sent=5)
    world.begin(3, MAX_SIZE, sent=5)
    assert world.wire.windows == {1: MAX_SIZE + 5}
    assert world.budget.in_flight == MAX_SIZE + 5 + INITIAL_WINDOW
    assert world.waiting.count == 1
    assert world.wire.wake_s == 105.0
    world.streams.data(1, bytes(MAX_SIZE), last=True)
    assert world.wire.windows == {1: MAX_SIZE + 5, 3: MAX_SIZE + 5}
    assert (world.waiting.count, world.budget.in_flight) == (0, MAX_SIZE + 5)
    world.wire.now_s = 129.0
    assert world.streams.look(129.0) == 130.0  # It has time again, from when it was let in.
    world.streams.data(3, bytes(MAX_SIZE), last=True)
    assert world.wire.answers == {1: (FINE, True), 3: (FINE, True)}


@pytest.mark.parametrize(
    ("timeout", "until_s"),
    [(b"2S", 102.0), (b"300m", 100.3), (b"10S", 105.0), (b"1H", 105.0), (b"soon", 105.0)],
)
def test_a_wait_ends_with_the_patience_of_the_caller_or_ours(
    timeout: bytes, until_s: float
) -> None:
    """Its grpc-timeout, and five seconds at most; then it is refused, to come back later."""
    world = World()
    world.begin(1, MAX_SIZE, sent=5)
    world.begin(3, MAX_SIZE, sent=5, headers=((b"grpc-timeout", timeout),))
    assert world.wire.wake_s == until_s
    assert world.streams.look(until_s - 0.01) == until_s
    assert world.wire.answers == {}
    world.streams.look(until_s)
    assert world.wire.answers == {3: (LOAD, False)}
    assert (world.waiting.count, world.budget.in_flight) == (0, MAX_SIZE + 5)


def test_only_so_many_wait(world: World) -> None:
    """The next is refused at once: those who wait hold room themselves."""
    world.begin(1, MAX_SIZE, sent=5)
    for stream_id in (3, 5, 7):
        world.begin(stream_id, MAX_SIZE, sent=5)
    assert world.waiting.count == 2
    assert world.wire.answers == {7: (LOAD, False)}


def test_where_not_even_a_little_fits_a_call_is_refused(world: World) -> None:
    """What has come of it is not kept."""
    assert world.budget.grant(world.budget.in_flight + 6 * MAX_SIZE // 4)
    while world.budget.grant(INITIAL_WINDOW):
        pass
    before = world.budget.in_flight
    world.begin(1, INITIAL_WINDOW, sent=100)
    assert world.wire.answers == {1: (LOAD, False)}
    assert (world.budget.in_flight, world.wire.returned) == (before, {1: 100})


def test_a_call_without_data_has_its_time(world: World) -> None:
    """A bad one too."""
    world.streams.begin(1, GOOD, last=False)
    world.wire.now_s = 110.0
    world.streams.begin(3, BAD, last=False)
    assert world.streams.look(129.9) == 130.0
    assert world.streams.look(130.0) == 140.0
    assert world.streams.look(140.0) == math.inf
    assert world.wire.answers == {1: (STALL, False), 3: (STALL, False)}
    assert world.streams.stalled == 2


def test_a_body_has_to_go_on(world: World) -> None:
    """A thirty-second part of it in thirty seconds, or it is given up."""
    world.begin(1, 1 << 20, sent=5)
    world.streams.data(1, bytes((1 << 15) - 5), last=False)
    world.begin(3, 1 << 20, sent=5)
    world.streams.data(3, bytes((1 << 15) - 6), last=False)
    assert [world.streams.look(at) for at in (110.0, 120.0, 130.0)] == [120.0, 130.0, 140.0]
    assert world.wire.answers == {3: (STALL, False)}
    assert world.budget.in_flight == 5 + (1 << 20)


def test_a_body_has_a_minute(world: World) -> None:
    """From when it has its room, however well it comes on."""
    world.begin(1, MAX_SIZE, sent=5)
    world.wire.now_s = 104.0
    world.begin(3, MAX_SIZE, sent=5)
    assert world.wire.windows.keys() == {1}
    world.streams.data(1, bytes(MAX_SIZE), last=True)
    assert world.wire.windows.keys() == {1, 3}
    for at in range(1, 6):
        world.streams.data(3, bytes(MAX_SIZE // 8), last=False)
        assert world.streams.look(104.0 + 10 * at) == 114.0 + 10 * at
    assert world.streams.look(163.9) == 164.0
    assert world.streams.look(164.0) == math.inf
    assert world.wire.answers == {1: (FINE, True), 3: (STALL, False)}
    assert (world.budget.in_flight, world.streams.stalled) == (0, 1)


@pytest.mark.parametrize("scarce", [True, False])
def test_where_room_is_scarce_the_slow_lose_theirs(world: World, *, scarce: bool) -> None:
    """A tenth of it in ten seconds, on average, keeps a body its place; looked at on time."""
    world.begin(1, 200_000, sent=20_000)
    world.begin(3, 200_000, sent=20_001)
    assert world.wire.wake_s == 110.0
    while scarce and world.budget.grant(INITIAL_WINDOW):
        pass
    assert world.streams.look(110.0) == 120.0
    assert world.wire.answers == ({1: (STALL, False)} if scarce else {})
    world.streams.data(3, bytes(20_001), last=False)
    assert world.streams.look(120.0) == 130.0
    assert world.streams.look(129.0) == 130.0
    assert world.streams.look(130.0) == (math.inf if scarce else 140.0)


# ---- turns -------------------------------------------------------------------------------------


def test_calls_wait_for_their_turn_and_keep_their_order(world: World) -> None:
    """Those that come behind them wait too. What they bring is counted, and given back."""
    world.turns.spend(1.0)
    world.begin(1, 100, sent=50)
    world.streams.begin(3, GOOD, last=False)
    world.streams.data(3, data(10), last=True)
    world.streams.data(1, data(100)[50:], last=True)
    world.streams.begin(5, GOOD, last=True)
    assert world.streams.late
    assert (world.wire.answers, len(world.streams)) == ({}, 3)
    assert world.budget.in_flight == 15 + 105
    world.turns.wait(world.streams.go_on)
    world.streams.go_on()
    assert world.wire.answers == {}
    world.go_round()
    assert world.calls.taken == [data(10), data(100), b""]
    assert list(world.wire.answers) == [3, 1, 5]
    assert (world.streams.late, world.budget.in_flight, len(world.streams)) == (False, 0, 0)


def test_a_call_in_between_waits_behind_those_before_it(world: World) -> None:
    """Also when the loop has been round already."""
    world.turns.spend(1.0)
    for stream_id in (1, 3):
        world.streams.begin(stream_id, GOOD, last=False)
        world.streams.data(stream_id, data(stream_id), last=True)
    world.turns.wait(lambda: None)
    world.go_round()
    world.streams.begin(5, GOOD, last=False)
    world.streams.data(5, data(5), last=True)
    assert world.calls.taken == []
    world.streams.go_on()
    assert world.calls.taken == [data(1), data(3), data(5)]


def test_a_turn_ends_with_the_time_that_calls_take(world: World) -> None:
    """Two of 30 ms are more than 50: the third is for the next turn."""
    message = world.calls.message

    def slow(head: str, data: bytes) -> Reply:
        world.wire.now_s += 0.03
        return message(head, data)

    world.calls.message = slow  # type: ignore[method-assign]
    for stream_id in (1, 3, 5, 7, 9):
        world.streams.begin(stream_id, GOOD, last=False)
        world.streams.data(stream_id, data(stream_id), last=True)
    answered = [len(world.wire.answers)]
    while world.streams.late:
        world.turns.wait(world.streams.go_on)
        world.go_round()
        answered.append(len(world.wire.answers))
    assert answered == [2, 4, 5]


def test_what_finds_no_room_to_wait_for_its_turn_is_refused(world: World) -> None:
    """To come again: nothing is kept that is not counted."""
    world.turns.spend(1.0)
    while world.budget.grant(INITIAL_WINDOW):
        pass
    before = world.budget.in_flight
    world.streams.begin(1, GOOD, last=False)
    world.streams.data(1, data(INITIAL_WINDOW - 5), last=True)
    assert world.wire.answers == {1: (LOAD, True)}
    assert (world.budget.in_flight, world.streams.late) == (before, False)


def test_a_body_that_waits_for_its_turn_keeps_its_room(world: World) -> None:
    """Though others wait for room. What it has asked for and not needed is given back."""
    world.begin(1, MAX_SIZE, sent=5)
    world.begin(3, MAX_SIZE, sent=5)
    assert world.waiting.count == 1
    world.turns.spend(1.0)
    world.streams.data(1, bytes(MAX_SIZE - 1), last=True)
    assert world.budget.in_flight == MAX_SIZE + 4 + INITIAL_WINDOW
    world.turns.wait(world.streams.go_on)
    world.go_round()
    assert len(world.calls.taken) == 1
    assert world.wire.answers == {1: (FINE, True)}
    assert world.wire.windows == {1: MAX_SIZE + 5, 3: MAX_SIZE + 5}
    world.streams.end()
    assert world.budget.in_flight == 0


def test_a_call_that_is_given_up_in_the_queue_is_not_taken(world: World) -> None:
    """Nor is any when the connection is gone."""
    world.turns.spend(1.0)
    for stream_id in (1, 3, 5):
        world.streams.begin(stream_id, GOOD, last=False)
        world.streams.data(stream_id, data(stream_id), last=True)
    world.streams.gone(1)
    assert world.budget.in_flight == len(data(3)) + len(data(5))
    world.streams.end()
    assert (world.budget.in_flight, world.streams.late, len(world.streams)) == (0, False, 0)
    assert (world.calls.taken, world.wire.answers) == ([], {})


def test_nothing_is_kept_of_a_head_but_what_is_needed(world: World) -> None:
    """A header list is a hundred objects; a peer can have a hundred open calls."""
    extra = tuple((b"x-%d" % n, b"y") for n in range(90))
    objects = sys.getallocatedblocks()
    for stream_id in range(1, 2001, 2):
        world.streams.begin(
            stream_id, (*GOOD, *((name, value * 2) for name, value in extra)), last=False
        )
    assert sys.getallocatedblocks() - objects < 1000 * 12
    world.begin(2001, 1000, sent=10, headers=extra)
    assert not any(
        isinstance(value, tuple) for value in gc.get_referents(world.streams._bodies[2001])
    )


def test_a_small_body_has_to_bring_a_kilobyte(world: World) -> None:
    """Also one whose size has not come."""
    world.begin(1, 30_000, sent=1024)
    world.begin(3, 30_000, sent=1023)
    world.begin(5, 30_000, sent=4)
    world.streams.look(130.0)
    assert world.wire.answers == {3: (STALL, False), 5: (STALL, False)}


def test_a_call_that_its_caller_gives_up_is_forgotten(world: World) -> None:
    """Whatever it was doing: nothing of it stays."""
    world.streams.begin(1, GOOD, last=False)
    world.begin(3, MAX_SIZE, sent=100)
    world.begin(5, MAX_SIZE, sent=100)
    for stream_id in (1, 3, 5, 7):
        world.streams.gone(stream_id)
        world.streams.trailers(stream_id)
    assert (len(world.streams), world.budget.in_flight, world.waiting.count) == (0, 0, 0)
    assert world.wire.answers == {}


def test_one_that_is_let_in_may_belong_to_another_connection(world: World) -> None:
    """The budget is one for all."""
    other = World(shared=world)
    world.begin(1, MAX_SIZE, sent=5)
    other.begin(1, MAX_SIZE, sent=5)
    assert other.wire.windows == {}
    world.streams.end()
    assert other.wire.windows == {1: MAX_SIZE + 5}
    other.streams.end()
    assert (world.budget.in_flight, world.waiting.count) == (0, 0)


def test_a_look_that_lets_in_what_it_would_refuse_next_does_not_refuse_it(world: World) -> None:
    """Giving one up makes room for the other, in the middle of the look."""
    world.begin(1, MAX_SIZE, sent=5)
    world.wire.now_s = 126.0
    world.begin(3, MAX_SIZE, sent=5)
    world.wire.now_s = 131.0
    assert world.streams.look(131.0) == 141.0
    assert world.wire.answers == {1: (STALL, False)}
    assert world.wire.windows[3] == MAX_SIZE + 5


@given(st.data())
def test_whatever_comes_each_call_has_one_answer_and_nothing_stays(draw: st.DataObject) -> None:
    """Random frames of random calls: bytes held are within the budget, and all are given back."""
    world, received = World(2 << 20), dict[int, int]()
    open_: set[int] = set()
    for _ in range(draw.draw(st.integers(1, 60))):
        world.wire.now_s += draw.draw(st.sampled_from([0.0, 0.1, 3.0, 40.0]))
        stream_id = draw.draw(st.sampled_from(range(1, 21, 2)))
        steps = ["begin", "data", "data", "data", "end", "gone", "look", "busy", "round"]
        step = draw.draw(st.sampled_from(steps))
        if step == "begin" and stream_id not in received:
            received[stream_id] = 0
            open_.add(stream_id)
            headers = draw.draw(st.sampled_from([GOOD, GOOD, BAD]))
            world.streams.begin(stream_id, headers, last=draw.draw(st.booleans()))
        elif step == "data" and stream_id in open_:
            size = draw.draw(st.sampled_from([0, 3, 70_000, 1 << 20, 5 << 20]))
            piece = data(size)[: draw.draw(st.sampled_from([2, 5, 100, 16_384]))]
            received[stream_id] += len(piece)
            world.streams.data(stream_id, piece, last=draw.draw(st.booleans()))
        elif step == "end" and stream_id in open_:
            world.streams.trailers(stream_id)
        elif step == "gone" and stream_id in open_:
            open_.discard(stream_id)
            world.streams.gone(stream_id)
        elif step == "busy":
            world.turns.spend(1.0)
        elif step == "round":
            world.turns.wait(world.streams.go_on)
            world.go_round()
        elif step == "look":
            due_s = world.streams.look(world.wire.now_s)
            assert due_s > world.wire.now_s
        assert world.budget.in_flight <= 2 << 20
    world.streams.end()
    assert (world.budget.in_flight, world.waiting.count, len(world.streams)) == (0, 0, 0)
    assert {k: v for k, v in world.wire.returned.items() if v} == {
        k: v for k, v in received.items() if v
    }
