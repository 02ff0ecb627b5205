"""Data that goes round between agents comes to its end, and whatever does not go round arrives."""

from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from edge_agent.otlp.batch import Enricher
from edge_agent.otlp.relays import MAX_AGENTS, hop, hops, path_of
from edge_agent.otlp.resource import request, resource
from edge_agent.otlp.signal import Signal
from edge_agent.otlp.wire import bytes_field

RELAXED = settings(max_examples=150, deadline=None)
Edges = frozenset[tuple[int, int]]


def instance_id(number: int) -> str:
    """That of agent `number`, as the agent makes its own."""
    return f"{number:08x}-0000-4000-8000-00000000cafe"


def agent(number: int) -> Enricher:
    """Agent `number`, which has a node.id and its collector.instance.id."""
    own = instance_id(number)
    identity = [("node.id", f"edge-{number}"), ("collector.instance.id", own)]
    return Enricher(identity, own_instance_id=own)


def of_agent(number: int) -> bytes:
    """A span of agent `number` itself, which it sends without receiving it."""
    own = resource([("node.id", f"edge-{number}"), ("collector.instance.id", instance_id(number))])
    return request(own, [(b"", [b""])])


def of_app(*pairs: tuple[str, str]) -> bytes:
    """A span of an app."""
    return request(resource([("service.name", "shop"), *pairs]), [(b"", [b""])])


def attributes(body: bytes) -> dict[str, str]:
    """Those of the one Resource in `body`."""
    (one,) = ExportTraceServiceRequest.FromString(body).resource_spans
    names = [attribute.key for attribute in one.resource.attributes]
    assert len(names) == len(set(names))
    return {a.key: a.value.string_value for a in one.resource.attributes}


def travel(edges: Edges, first: int, body: bytes, *, admitted: bool) -> list[tuple[int, ...]]:
    """The ways of one span until it comes to its end on each: every agent sends what it takes to
    all that `edges` lead to. `admitted` says that the first has taken it already."""
    agents = {number: agent(number) for edge in edges for number in edge}
    ways: list[tuple[int, ...]] = []
    if not admitted:
        taken = agents.setdefault(first, agent(first)).admit(Signal.TRACES, body)
        assert (taken.items, taken.looped_items) == (1, 0)
        body = taken.body
    going = deque([((first,), body)])
    while going:
        way, body = going.popleft()
        ways.append(way)
        for source, target in sorted(edges):
            if source == way[-1]:
                taken = agents[target].admit(Signal.TRACES, body)
                assert taken.items + taken.looped_items == 1
                if taken.items:
                    going.append(((*way, target), taken.body))
    return ways


def ring(size: int) -> Edges:
    """Each agent sends to the next, the last to the first."""
    return frozenset((number, (number + 1) % size) for number in range(size))


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("size", [1, 2, 3, 9])
def test_a_ring_of_agents_passes_everything_round_once(size: int, own: bool) -> None:
    """A -> B -> A, and longer: back at the first, it is dropped."""
    for first in range(size):
        body = of_agent(first) if own else of_app()
        ways = travel(ring(size), first, body, admitted=own)
        assert max(ways, key=len) == tuple((first + n) % size for n in range(size))


def test_a_ring_that_is_too_long_comes_to_its_end_too() -> None:
    """After as many agents as a path has room for, the first included."""
    ways = travel(ring(50), 0, of_app(), admitted=False)
    assert max(ways, key=len) == tuple(range(MAX_AGENTS + 1))


def test_a_ring_behind_other_agents_is_found_by_its_first() -> None:
    """What comes in from elsewhere goes round once as well."""
    edges = frozenset({(0, 1), (1, 2), (2, 3), (3, 4), (4, 2)})
    assert max(travel(edges, 0, of_app(), admitted=False), key=len) == (0, 1, 2, 3, 4)


@given(
    st.frozensets(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=9),
    st.integers(0, 6),
    st.booleans(),
)
@RELAXED
def test_no_agent_takes_the_same_data_twice_on_any_way(edges: Edges, first: int, own: bool) -> None:
    """Whoever sends to whom; and every way without a repetition is gone to its end."""
    body = of_agent(first) if own else of_app()
    ways = travel(edges, first, body, admitted=own)
    assert len(set(ways)) == len(ways)
    simple, going = set(), [(first,)]
    while going:
        way = going.pop()
        simple.add(way)
        going += [(*way, b) for a, b in edges if a == way[-1] and b not in way]
    assert set(ways) == simple


def test_the_path_is_said_of_relayed_data_alone() -> None:
    """CONTRACT's attributes are all that ordinary data leaves with."""
    first = agent(1).admit(Signal.TRACES, of_app()).body
    assert set(attributes(first)) == {"service.name", "node.id", "collector.instance.id"}
    second = agent(2).admit(Signal.TRACES, first).body
    assert attributes(second)["collector.path"] == "00000001"
    assert attributes(second)["collector.instance.id"] == instance_id(2)
    third = agent(3).admit(Signal.TRACES, second).body
    assert attributes(third)["collector.path"] == "00000001,00000002"


def test_the_others_in_a_request_pass() -> None:
    """A loop costs its own Resource alone."""
    sender, back = agent(1), agent(2)
    looping = back.admit(Signal.TRACES, sender.admit(Signal.TRACES, of_app()).body).body
    admitted = sender.admit(Signal.TRACES, looping + of_app() + looping)
    assert (admitted.items, admitted.looped_items) == (1, 2)
    assert admitted.looped_bytes == 2 * len(looping)


def test_a_collector_between_that_takes_our_ids_off_hides_nothing() -> None:
    """The path alone is kept and found."""
    back = of_app(("collector.path", "00000001,00000002"))
    assert attributes(agent(3).admit(Signal.TRACES, back).body)["collector.path"] == (
        "00000001,00000002"
    )
    assert agent(2).admit(Signal.TRACES, back).looped_items == 1


@pytest.mark.parametrize(
    "value",
    [
        "",
        "00000001,",
        "0000001",
        "00000001;00000002",
        "0000000A",
        "00000001\\n",
        ",".join(["00000001"] * (MAX_AGENTS + 1)),
    ],
)
def test_a_path_that_is_none_is_an_apps_and_is_removed(value: str) -> None:
    """As all `collector.*` of apps, whatever is in it."""
    body = of_app(("collector.path", value), ("collector.instance.id", "my-own"))
    admitted = agent(1).admit(Signal.TRACES, body)
    assert "collector.path" not in attributes(admitted.body)


def test_a_path_that_is_no_text_is_removed() -> None:
    """A number, say."""
    number = bytes_field(1, bytes_field(1, b"collector.path") + bytes_field(2, b"\x18\x05"))
    admitted = agent(1).admit(Signal.TRACES, request(number, [(b"", [b""])]))
    assert "collector.path" not in attributes(admitted.body)


def test_agents_are_told_by_the_form_of_their_ids() -> None:
    """Reader and writer agree; what no agent makes is nobody."""
    agents = [hop(instance_id(n).encode()) for n in range(MAX_AGENTS)]
    known = [one for one in agents if one is not None]
    assert hops(path_of(known).encode()) == agents
    for other in (b"", b"own", instance_id(10).upper().encode(), instance_id(1).encode() + b"\n"):
        assert hop(other) is None
    unnamed = Enricher([("node.id", "n")], own_instance_id="")
    assert unnamed.admit(Signal.TRACES, of_app(("collector.path", "00000001"))).items == 1
