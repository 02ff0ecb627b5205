"""The receiver's rules, whichever server asks."""

import json
import logging
from collections.abc import Sequence
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from edge_agent.complaints import EVERY_S, MAX_SENDERS
from edge_agent.ledger import Ledger
from edge_agent.otlp.batch import Enricher
from edge_agent.otlp.signal import GRPC_PATHS, HTTP_PATHS, Signal
from edge_agent.otlp.status import Code, Status, decode_status
from edge_agent.receiver.core import (
    JSON,
    MAX_REQUEST_BYTES,
    PROTOBUF,
    RETRY_AFTER_S,
    Accepted,
    Core,
    Refused,
    coding,
    http_answer,
    is_json,
    media_type,
    status_of,
)
from tests.agent.otlp.oracle import IDENTITY, OWN_ID


class Receiver:
    """A core, and what it put into queues with room for `room` requests."""

    def __init__(self, *, room: int = 100, **changes: Any) -> None:
        self.offered: list[tuple[Signal, bytes, int]] = []
        self.ledger = Ledger()
        self._room = room
        settings: dict[str, Any] = {
            "signals": frozenset(Signal),
            "validate": "structure",
            "sample_rate": 1.0,
        }
        self.core = Core(
            enricher=Enricher(IDENTITY, own_instance_id=OWN_ID),
            offer=self._offer,
            accounts={s: [self.ledger.account(d, s) for d in ("collector", "x")] for s in Signal},
            **settings | changes,
        )

    def _offer(self, signal: Signal, pieces: Sequence[tuple[bytes, int]]) -> bool:
        if len(self.offered) + len(pieces) > self._room:
            return False
        self.offered += [(signal, body, items) for body, items in pieces]
        return True


def traces(n: int = 1, *, name: str = "GET", instance_id: str = "theirs") -> bytes:
    """A request of `n` spans, without randomness in their trace ids."""
    request = ExportTraceServiceRequest()
    resource = request.resource_spans.add()
    resource.resource.attributes.add(key="collector.instance.id").value.string_value = instance_id
    spans = resource.scope_spans.add().spans
    for _ in range(n):
        spans.add(name=name, trace_id=b"\x01" + bytes(15))
    return request.SerializeToString()


# ---- heads --------------------------------------------------------------------------------------


@pytest.mark.parametrize("signal", Signal)
def test_each_signal_has_a_method_and_a_path(signal: Signal) -> None:
    """OTLP's own."""
    core = Receiver().core
    assert core.grpc_signal(GRPC_PATHS[signal]) is signal
    assert core.http_signal(HTTP_PATHS[signal], "POST", PROTOBUF, None) is signal
    assert core.refusals == {}


@pytest.mark.parametrize("signal", Signal)
def test_a_disabled_signal_is_not_there(signal: Signal) -> None:
    """CONTRACT: UNIMPLEMENTED over gRPC, 404 over HTTP; the others are."""
    core = Receiver(signals=frozenset(Signal) - {signal}).core
    message = f"{signal} are not received here"
    assert core.grpc_signal(GRPC_PATHS[signal]) == Refused(Code.UNIMPLEMENTED, 404, message)
    refused = core.http_signal(HTTP_PATHS[signal], "POST", PROTOBUF, None)
    assert refused == Refused(Code.NOT_FOUND, 404, message)
    assert core.refusals == {Code.UNIMPLEMENTED: 1, Code.NOT_FOUND: 1}


@pytest.mark.parametrize("path", ["/a.b.C/Export", "", "/", GRPC_PATHS[Signal.LOGS] + "/"])
def test_an_unknown_method_is_unimplemented(path: str) -> None:
    """And named, up to a length that fits a header."""
    refused = Receiver().core.grpc_signal(path + "x" * 500)
    assert isinstance(refused, Refused)
    assert (refused.code, len(refused.message)) == (Code.UNIMPLEMENTED, 215)


@pytest.mark.parametrize(
    ("path", "method", "kind", "encoding", "code", "status"),
    [
        ("/", "POST", PROTOBUF, None, Code.NOT_FOUND, 404),
        ("/v1/traces/", "POST", PROTOBUF, None, Code.NOT_FOUND, 404),
        ("/V1/TRACES", "POST", PROTOBUF, None, Code.NOT_FOUND, 404),
        ("/v1/profiles", "GET", PROTOBUF, None, Code.NOT_FOUND, 404),
        ("/v1/traces", "GET", PROTOBUF, None, Code.UNIMPLEMENTED, 405),
        ("/v1/traces", "OPTIONS", None, None, Code.UNIMPLEMENTED, 405),
        ("/v1/traces", "post", PROTOBUF, None, Code.UNIMPLEMENTED, 405),
        ("/v1/traces", "POST", None, None, Code.INVALID_ARGUMENT, 415),
        ("/v1/traces", "POST", "text/plain", None, Code.INVALID_ARGUMENT, 415),
        ("/v1/traces", "POST", "application/protobuf", None, Code.INVALID_ARGUMENT, 415),
        ("/v1/traces", "POST", "application/grpc", "br", Code.INVALID_ARGUMENT, 415),
        ("/v1/traces", "POST", PROTOBUF, "br", Code.INVALID_ARGUMENT, 400),
        ("/v1/traces", "POST", PROTOBUF, "gzip, gzip", Code.INVALID_ARGUMENT, 400),
    ],
)
def test_a_head_is_refused_for_the_first_thing_wrong(
    path: str, method: str, kind: str | None, encoding: str | None, code: Code, status: int
) -> None:
    """Path before verb before type before coding."""
    refused = Receiver().core.http_signal(path, method, kind, encoding)
    assert isinstance(refused, Refused)
    assert (refused.code, refused.http_status, refused.retry_after_s) == (code, status, None)


@pytest.mark.parametrize(
    ("kind", "encoding"),
    [
        (PROTOBUF, "gzip"),
        (" Application/JSON ; charset=utf-8", "GZIP "),
        ("APPLICATION/X-PROTOBUF", "identity"),
        (JSON, ""),
    ],
)
def test_heads_are_read_generously(kind: str, encoding: str) -> None:
    """Case, blanks and parameters do not matter."""
    signal = Receiver().core.http_signal("/v1/logs", "POST", kind, encoding)
    assert signal is Signal.LOGS


def test_types_and_codings_are_normalised() -> None:
    """What servers compare with."""
    assert (media_type(None), media_type(" A/B;c")) == ("", "a/b")
    assert (coding(None), coding(" "), coding("GZip ")) == ("identity", "identity", "gzip")
    assert [is_json(kind) for kind in (None, PROTOBUF, "application/json;x")] == [
        False,
        False,
        True,
    ]


# ---- bodies -------------------------------------------------------------------------------------


def test_a_request_is_enriched_counted_and_queued() -> None:
    """One offer, and the answer says what went on."""
    receiver = Receiver()
    outcome = receiver.core.take(Signal.TRACES, traces(3))
    assert isinstance(outcome, Accepted)
    assert receiver.offered == [(Signal.TRACES, outcome.body, 3)]
    (resource,) = ExportTraceServiceRequest.FromString(outcome.body).resource_spans
    assert {a.key: a.value.string_value for a in resource.resource.attributes}["node.id"] == (
        "edge-01"
    )


@pytest.mark.parametrize("body", [b"", b"\x0a\x00", traces(0)])
def test_a_request_without_items_is_a_success_and_goes_nowhere(body: bytes) -> None:
    """As the Collector does it."""
    receiver = Receiver()
    outcome = receiver.core.take(Signal.TRACES, body)
    assert isinstance(outcome, Accepted)
    assert (outcome.items, receiver.offered) == (0, [])


def test_json_is_taken_as_the_same_request() -> None:
    """The queues hold protobuf alone."""
    receiver = Receiver()
    document = {"resourceSpans": [{"scopeSpans": [{"spans": [{"name": "GET"}]}]}]}
    outcome = receiver.core.take(Signal.TRACES, json.dumps(document).encode(), json=True)
    assert isinstance(outcome, Accepted)
    parsed = ExportTraceServiceRequest.FromString(receiver.offered[0][1])
    assert parsed.resource_spans[0].scope_spans[0].spans[0].name == "GET"


@pytest.mark.parametrize(
    ("body", "as_json"), [(b"<html>", False), (b"\x0a\x05", False), (b"", True), (b"[]", True)]
)
def test_what_is_undecodable_is_the_senders_fault(
    body: bytes, as_json: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """INVALID_ARGUMENT and 400, nothing queued, said in the log."""
    receiver = Receiver()
    with caplog.at_level(logging.INFO):
        for signal in (Signal.TRACES, Signal.TRACES, Signal.LOGS):
            refused = receiver.core.take(signal, body, json=as_json)
            assert isinstance(refused, Refused)
            assert (refused.code, refused.http_status) == (Code.INVALID_ARGUMENT, 400)
            assert refused.message.startswith("not an Export")
    assert [record.message for record in caplog.records] == ["refused a malformed request"] * 2
    assert (receiver.offered, receiver.core.refusals) == ([], {Code.INVALID_ARGUMENT: 3})


def complaints(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    """What was logged since the last call."""
    found = [record.__dict__["fields"] for record in caplog.records]
    caplog.clear()
    return found


def test_a_malformed_request_is_traced_to_its_sender(caplog: pytest.LogCaptureFixture) -> None:
    """A line a sender and signal in five minutes, with how many were not logged in between."""
    now = [0.0]
    core = Receiver(clock=lambda: now[0]).core
    with caplog.at_level(logging.INFO):
        for sender in ("grpc a/1", "http b/2", "grpc a/1", "", "grpc a/1"):
            core.take(Signal.LOGS, b"<html>", sender=sender)
        core.take(Signal.TRACES, b"<html>", sender="grpc a/1")
        said = complaints(caplog)
        assert [(one["signal"], one["sender"]) for one in said] == [
            ("logs", "grpc a/1"),
            ("logs", "http b/2"),
            ("logs", "unknown"),
            ("traces", "grpc a/1"),
        ]
        assert all("not_logged" not in one for one in said)
        assert said[0]["error"].startswith("not an ExportLogsServiceRequest: ")
        now[0] = EVERY_S - 1
        core.take(Signal.LOGS, b"<html>", sender="grpc a/1")
        assert complaints(caplog) == []
        now[0] = EVERY_S
        core.take(Signal.LOGS, b"<html>", sender="grpc a/1")
        core.take(Signal.LOGS, b"<html>", sender="http b/2")
        assert [one.get("not_logged") for one in complaints(caplog)] == [3, None]
    assert core.refusals == {Code.INVALID_ARGUMENT: 9}


def test_senders_with_ever_new_names_share_a_line(caplog: pytest.LogCaptureFixture) -> None:
    """The log and the memory for it stay bounded; who is known is told apart all the same."""
    now = [0.0]
    core = Receiver(clock=lambda: now[0]).core
    with caplog.at_level(logging.INFO):
        core.take(Signal.LOGS, b"<html>", sender="known")
        for n in range(1000):
            core.take(Signal.LOGS, b"<html>", sender=f"random {n}")
        assert len(complaints(caplog)) == MAX_SENDERS + 1
        now[0] = EVERY_S
        core.take(Signal.LOGS, b"<html>", sender="known")
        core.take(Signal.LOGS, b"<html>", sender="new")
        assert [(one["sender"], one.get("not_logged")) for one in complaints(caplog)] == [
            ("known", None),
            ("new", None),
        ]
        for n in range(1000):
            core.take(Signal.LOGS, b"<html>", sender=f"random {n}")
        # Known, new and the others are three of them.
        said = complaints(caplog)
        assert len(said) == MAX_SENDERS - 3 + 1
        assert said[-1]["not_logged"] == 1000 - MAX_SENDERS


def test_structure_lets_through_what_full_names() -> None:
    """A trace id of 15 bytes."""
    request = ExportTraceServiceRequest()
    request.resource_spans.add().scope_spans.add().spans.add(trace_id=bytes(15), name="GET")
    body = request.SerializeToString()
    assert isinstance(Receiver().core.take(Signal.TRACES, body), Accepted)
    refused = Receiver(validate="full").core.take(Signal.TRACES, body)
    assert isinstance(refused, Refused)
    assert refused.message.endswith("trace_id: 15 bytes, not 16, in Span 'GET'")
    assert isinstance(Receiver(validate="full").core.take(Signal.TRACES, traces()), Accepted)


@pytest.mark.parametrize("as_json", [False, True])
def test_a_body_over_the_limit_is_too_large_for_good(as_json: bool) -> None:
    """RESOURCE_EXHAUSTED without RetryInfo, 413."""
    core = Receiver().core
    refused = core.take(Signal.LOGS, bytes(MAX_REQUEST_BYTES + 1), json=as_json)
    message = "request of 4194305 bytes is larger than 4194304 bytes"
    assert refused == Refused(Code.RESOURCE_EXHAUSTED, 413, message)
    assert core.too_large().message == "request is larger than 4194304 bytes"


def test_what_would_take_too_much_to_read_is_too_large() -> None:
    """A small JSON document of very many parts, and a walk of very many steps."""
    document = b'{"x":[' + b"{}," * 400_000 + b"{}]}"
    for body, as_json in ((document, True), (b"\x98\x06\x00" * 300_000, False)):
        refused = Receiver().core.take(Signal.LOGS, body, json=as_json)
        assert isinstance(refused, Refused)
        assert (refused.code, refused.http_status) == (Code.RESOURCE_EXHAUSTED, 413)
        assert "send less at once" in refused.message


def test_what_grows_over_the_limit_leaves_in_two() -> None:
    """Together it says what was sent; each part can be sent."""
    receiver = Receiver()
    body = traces(4, name="n" * (MAX_REQUEST_BYTES // 4 - 50))
    assert len(body) <= MAX_REQUEST_BYTES < len(body) + 200
    outcome = receiver.core.take(Signal.TRACES, body)
    assert isinstance(outcome, Accepted)
    assert outcome.items == 4
    assert len(receiver.offered) == 2
    assert sum(items for _, _, items in receiver.offered) == 4
    assert all(len(part) <= MAX_REQUEST_BYTES for _, part, _ in receiver.offered)


def test_an_item_that_could_never_leave_is_refused() -> None:
    """With our attributes this one span is over the limit: said now, not lost later."""
    receiver = Receiver()
    body = traces(1, name="n" * (MAX_REQUEST_BYTES - 100))
    refused = receiver.core.take(Signal.TRACES, body)
    assert isinstance(refused, Refused)
    assert (refused.code, refused.retry_after_s) == (Code.RESOURCE_EXHAUSTED, None)
    assert receiver.offered == []


def test_full_queues_ask_to_come_back() -> None:
    """UNAVAILABLE with RetryInfo, 503 with Retry-After."""
    receiver = Receiver(room=1)
    assert isinstance(receiver.core.take(Signal.LOGS, traces()), Accepted)
    refused = receiver.core.take(Signal.LOGS, traces())
    assert refused == receiver.core.overloaded()
    assert isinstance(refused, Refused)
    assert (refused.code, refused.http_status) == (Code.UNAVAILABLE, 503)
    assert refused.retry_after_s == RETRY_AFTER_S


# ---- what is left out ---------------------------------------------------------------------------


def test_our_own_data_is_dropped_counted_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    """A loop would otherwise grow for ever; the others in the request pass."""
    receiver = Receiver()
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            body = traces(2, instance_id=OWN_ID) + traces(1)
            outcome = receiver.core.take(Signal.TRACES, body)
            assert isinstance(outcome, Accepted)
            assert outcome.items == 1
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    for destination in ("collector", "x"):
        account = receiver.ledger.account(destination, Signal.TRACES)
        assert account.accepted.items == account.dropped["loop"].items == 6
        assert account.accepted.bytes == account.settled().bytes > 0


def test_what_is_sampled_out_is_a_row_of_its_own() -> None:
    """Accepted and settled at once: the ledger balances without a queue."""
    receiver = Receiver(sample_rate=0.0)
    outcome = receiver.core.take(Signal.TRACES, traces(5))
    assert isinstance(outcome, Accepted)
    assert (outcome.items, receiver.offered) == (0, [])
    for destination in ("collector", "x"):
        account = receiver.ledger.account(destination, Signal.TRACES)
        assert account.sampled_out.items == account.accepted.items == 5
        assert account.accepted.bytes == account.settled().bytes > 0
        assert account.lost_items() == 0
    assert isinstance(receiver.core.take(Signal.LOGS, traces(5)), Accepted)
    assert receiver.offered[0][2] == 5


# ---- answers ------------------------------------------------------------------------------------

REFUSED = Refused(Code.UNAVAILABLE, 503, "too much", 2.5)


@pytest.mark.parametrize(
    ("kind", "body", "answer_kind"),
    [(PROTOBUF, b"", PROTOBUF), (JSON, b"{}", JSON), ("application/json; charset=x", b"{}", JSON)],
)
def test_success_is_an_empty_message(kind: str, body: bytes, answer_kind: str) -> None:
    """In the encoding of the request."""
    answer = http_answer(Accepted(Signal.LOGS, b"", 0), kind)
    assert answer == (200, body, (("content-type", answer_kind),))


def test_a_refusal_is_a_status_in_protobuf() -> None:
    """With RetryInfo, and Retry-After in whole seconds, never early."""
    status, body, headers = http_answer(REFUSED, PROTOBUF)
    assert (status, headers) == (503, (("content-type", PROTOBUF), ("retry-after", "3")))
    assert decode_status(body) == status_of(REFUSED) == Status(Code.UNAVAILABLE, "too much", 2.5)


def test_a_refusal_is_a_status_in_json() -> None:
    """protobuf's JSON mapping, with the Any of RetryInfo."""
    status, body, headers = http_answer(REFUSED, JSON)
    assert (status, headers) == (503, (("content-type", JSON), ("retry-after", "3")))
    info = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "2.5s"}
    assert json.loads(body) == {"code": 14, "message": "too much", "details": [info]}
    _, body, headers = http_answer(Refused(Code.INVALID_ARGUMENT, 400, 'a "b"'), JSON)
    assert json.loads(body) == {"code": 3, "message": 'a "b"'}
    assert headers == (("content-type", JSON),)


def test_a_refusal_in_neither_encoding_is_a_line_for_a_person() -> None:
    """Who calls with curl and no Content-Type reads it."""
    answer = http_answer(Refused(Code.UNIMPLEMENTED, 405, "POST only"), None)
    assert answer == (
        405,
        b"POST only\n",
        (("content-type", "text/plain; charset=utf-8"), ("allow", "POST")),
    )
