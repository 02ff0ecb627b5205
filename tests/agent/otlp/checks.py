"""What must hold for any bytes at all, whoever makes them up: Hypothesis or a fuzzer."""

from typing import Any

from google.protobuf.message import DecodeError

from edge_agent.otlp import json, validate
from edge_agent.otlp.batch import Admitted, Enricher, count, service_names, split
from edge_agent.otlp.sampling import sample, threshold
from edge_agent.otlp.signal import Signal
from edge_agent.otlp.walk import MalformedError, TooLargeError
from tests.agent.otlp import oracle
from tests.agent.otlp.oracle import IDENTITY, OWN_ID


def structure(signal: Signal, body: bytes) -> None:
    """Refused where the C runtime finds the framing broken, and else the rule of CONTRACT; never
    another exception."""
    refusal, admitted = "", Admitted(b"", 0)
    try:
        admitted = Enricher(IDENTITY, own_instance_id=OWN_ID).admit(signal, body)
    except MalformedError as error:
        refusal = str(error)
    # Stricter in two points, see the head of edge_agent/otlp/walk.py.
    stricter = "has wire type" in refusal or "field number out of range" in refusal
    assert stricter or oracle.framed(signal, body) == (not refusal)
    if refusal:
        return
    assert oracle.framed(signal, admitted.body)
    assert admitted.items == count(signal, admitted.body)
    service_names(signal, body)
    pieces = split(signal, admitted.body, max(1, len(admitted.body) // 3))
    assert sum(items for _, items in pieces) == admitted.items
    assert all(oracle.framed(signal, piece) for piece, _ in pieces)
    try:
        before = oracle.parse(signal, body)
    except DecodeError:
        # Damage inside an item, or a text that is no UTF-8: `full` is for that.
        return
    expected = oracle.enriched(signal, before)
    assert oracle.bits(oracle.parse(signal, admitted.body)) == oracle.bits(expected)
    said = [item for piece, _ in pieces for item in _said(signal, piece)]
    assert said == _said(signal, admitted.body)


def _said(signal: Signal, body: bytes) -> list[tuple[bytes, ...]]:
    return list(oracle.flat(signal, oracle.parse(signal, body)))


def full(signal: Signal, body: bytes) -> None:
    """Refused where the C runtime refuses to parse, or ids have other lengths; the walk in Python
    says the same as the C runtime with the checks behind it."""
    walked = _refusal(signal, body, None)
    if "field number out of range" in walked:
        # Where the C runtime lets that pass, in groups, so do we with it.
        return
    try:
        valid = oracle.ids_fit(signal, oracle.parse(signal, body))
    except DecodeError:
        valid = False
    assert _refusal(signal, body, validate.parser(signal)) == walked
    assert (not walked) == valid


def _refusal(signal: Signal, body: bytes, runtime: Any) -> str:
    try:
        validate.check(signal, body, runtime)
    except MalformedError as error:
        return str(error)
    return ""


def json_text(signal: Signal, text: bytes) -> None:
    """A request that the C runtime takes, or a refusal; never another exception."""
    try:
        body = json.to_protobuf(signal, text)
    except (MalformedError, TooLargeError):
        return
    oracle.parse(signal, body)


def sampling(body: bytes, rate: float) -> None:
    """What the same does to objects, wherever each span begins with its trace id or has one."""
    try:
        result = sample(body, rate)
    except MalformedError:
        return
    try:
        before = oracle.parse(Signal.TRACES, body)
    except DecodeError:
        return
    after = oracle.parse(Signal.TRACES, result.body)
    gone = oracle.count(Signal.TRACES, before) - oracle.count(Signal.TRACES, after)
    assert gone == result.items_out
    assert gone == 0 or threshold(rate) > 0
