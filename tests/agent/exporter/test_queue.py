"""The queue: RAM to peer, on fake time, against a scripted client."""

import asyncio
import contextlib
import io
import random
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)

from edge_agent import log
from edge_agent.exporter.memory import Memory
from edge_agent.exporter.queue import JOIN_BYTES, REQUEST_BYTES, Policy, Queue, Reachability
from edge_agent.exporter.retry import Backoff, Delivered, Denied, Outcome, Rejected, Retry
from edge_agent.ledger import Ledger
from edge_agent.otlp.signal import Signal
from tests.fakes import clock

OK = Delivered(latency_s=0.01)
AWAY = Retry("unavailable: nobody there")


class ScriptedClient:
    """Answers each call with the next outcome of the script, then with OK, `takes_s` later."""

    def __init__(self, script: Iterable[Outcome] = (), takes_s: float = 0.0) -> None:
        self.script = list(script)
        self.takes_s = takes_s
        self.calls: list[tuple[float, bytes]] = []
        self.taken: list[bytes] = []
        self.open = self.most_open = 0
        self.poison = b""
        self.takes_bytes = 1 << 62

    async def export(self, signal: Signal, body: bytes) -> Outcome:
        self.calls.append((asyncio.get_running_loop().time(), body))
        self.open += 1
        self.most_open = max(self.open, self.most_open)
        try:
            await asyncio.sleep(self.takes_s)
        finally:
            self.open -= 1
        if self.poison and self.poison in body:
            return Rejected("invalid_argument", "bad utf-8")
        if len(body) > self.takes_bytes:
            return Rejected("resource_exhausted", "no more than that", too_large=True)
        outcome = self.script.pop(0) if self.script else OK
        if isinstance(outcome, Delivered):
            self.taken.append(body)
        return outcome

    def reconnect(self) -> None:
        pass

    async def close(self) -> None:
        pass

    @property
    def bodies(self) -> list[bytes]:
        return [body for _, body in self.calls]


def points(*names: str, service: str = "app", padding: int = 0) -> bytes:
    """A request with one data point of each metric, in its own Resource and scope."""
    request = ExportMetricsServiceRequest()
    group = request.resource_metrics.add()
    group.resource.attributes.add(key="service.name").value.string_value = service
    scope = group.scope_metrics.add()
    for name in names:
        point = scope.metrics.add(name=name).gauge.data_points.add(as_int=1)
        point.attributes.add(key="k").value.string_value = "x" * padding
    return request.SerializeToString()


def names_in(body: bytes) -> list[str]:
    """The metrics whose points are in `body`, in order."""
    return [
        metric.name
        for group in ExportMetricsServiceRequest.FromString(body).resource_metrics
        for scope in group.scope_metrics
        for metric in scope.metrics
        for _ in metric.gauge.data_points
    ]


class Bench:
    """One queue in front of a scripted client, running on fake time."""

    def __init__(self, client: ScriptedClient, *, max_bytes: int = 1 << 20, **policy: Any) -> None:
        self.client = client
        self.ledger = Ledger()
        self.account = self.ledger.account("collector", Signal.METRICS)
        self.peer = Reachability()
        defaults: dict[str, Any] = {
            "newest_first": False,
            "lanes": 1,
            "batch_items": 512,
            "retry": True,
            "backoff": Backoff(initial_s=1.0, max_s=30.0),
            "max_elapsed_s": 300.0,
        }
        loop = asyncio.get_running_loop()
        self.memory = Memory(max_bytes, clock=loop.time)
        self.queue = Queue(
            self.account,
            client,
            Policy(**(defaults | policy)),
            self.peer,
            self.memory,
            clock=loop.time,
            unix_nano=lambda: 1_700_000_000_000_000_000,
            jitter=lambda: 0.999999,
        )
        self.memory.share(self.queue, 1.0)
        self.task = asyncio.create_task(self.queue.run())

    def put(self, *bodies: bytes) -> None:
        for body in bodies:
            self.queue.put(body, 1)

    async def finish(self, within_s: float = 600.0) -> None:
        """As the agent stops: close, some time, cancel."""
        self.queue.close()
        await asyncio.wait({self.task}, timeout=within_s)
        self.task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.task
        self.check_balance()

    def check_balance(self) -> None:
        settled = self.account.settled()
        assert self.account.accepted.items == settled.items + self.queue.items
        assert self.account.accepted.bytes == settled.bytes + self.queue.bytes


def on_fake_time(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """The test as pytest calls it, on a loop whose time is fake."""

    def run() -> None:
        clock.run(test())

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    return run


@on_fake_time
async def test_an_idle_lane_sends_at_once() -> None:
    """No linger: the first request leaves alone, without a timer."""
    bench = Bench(ScriptedClient())
    start = asyncio.get_running_loop().time()
    bench.put(b"a")
    await bench.finish()
    assert bench.client.calls == [(start, b"a")]
    assert bench.account.delivered.items == 1


@on_fake_time
async def test_what_waits_is_joined_into_the_next_call() -> None:
    """Export*ServiceRequest is one repeated field: joined bodies are one request."""
    bench = Bench(ScriptedClient(takes_s=1))
    bench.put(b"a")
    await asyncio.sleep(0.5)
    bench.put(b"b", b"c", b"d")
    await bench.finish()
    assert bench.client.bodies == [b"a", b"bcd"]


@on_fake_time
async def test_a_join_stops_at_batch_items_and_at_a_mebibyte() -> None:
    """batch_size is a target, JOIN_BYTES a limit for joining; one request may exceed both."""
    bench = Bench(ScriptedClient(takes_s=1), batch_items=2, max_bytes=16 << 20)
    half = b"h" * (JOIN_BYTES // 2 + 1)
    large = b"l" * (2 * JOIN_BYTES)
    bench.put(b"a")
    await asyncio.sleep(0.5)
    bench.put(b"b", b"c", b"d", half, half, large)
    await bench.finish()
    assert bench.client.bodies == [b"a", b"bc", b"d" + half, half, large]


@pytest.mark.parametrize(("lanes", "expected"), [(1, 1), (2, 2)])
def test_no_more_calls_in_flight_than_lanes(lanes: int, expected: int) -> None:
    """Two at most, one where order matters."""

    async def main() -> None:
        bench = Bench(ScriptedClient(takes_s=1), lanes=lanes, batch_items=1)
        bench.put(*[bytes([n]) for n in range(9)])
        await bench.finish()
        assert bench.client.most_open == expected
        assert bench.account.delivered.items == 9

    clock.run(main())


@on_fake_time
async def test_newest_first_sends_the_newest_batch_first_in_its_own_order() -> None:
    """Within a batch the order stays that of admission."""
    bench = Bench(ScriptedClient(takes_s=1), newest_first=True, batch_items=2)
    bench.put(b"a")
    await asyncio.sleep(0.5)
    bench.put(b"b", b"c", b"d")
    await bench.finish()
    assert bench.client.bodies == [b"a", b"cd", b"b"]


@on_fake_time
async def test_retries_back_off_exponentially_and_keep_order() -> None:
    """1 s, 2 s, 4 s (jitter at its greatest); what arrives meanwhile goes behind."""
    bench = Bench(ScriptedClient([AWAY, AWAY, AWAY]))
    start = asyncio.get_running_loop().time()
    bench.put(b"a")
    await asyncio.sleep(0.5)
    bench.put(b"b")
    assert bench.queue.items == 2
    await asyncio.sleep(20)
    times = [round(at - start, 3) for at, _ in bench.client.calls]
    assert times == [0, 1, 3, 7]
    assert bench.client.bodies == [b"a", b"ab", b"ab", b"ab"]
    await bench.finish()
    assert bench.account.delivered.items == 2


@on_fake_time
async def test_a_hint_longer_than_max_elapsed_is_obeyed_and_nothing_is_dropped() -> None:
    """Hints longer than max_elapsed_time are obeyed; nothing is dropped for time."""
    bench = Bench(ScriptedClient([Retry("resource_exhausted", after_s=3600)]), max_elapsed_s=60)
    start = asyncio.get_running_loop().time()
    bench.put(b"a")
    await asyncio.sleep(4000)
    assert [round(at - start) for at, _ in bench.client.calls] == [0, 3600]
    await bench.finish()
    assert bench.account.lost_items() == 0


@on_fake_time
async def test_after_max_elapsed_an_outage_is_probed_every_max_interval() -> None:
    """Fast retries first, then a steady probe."""
    bench = Bench(ScriptedClient([AWAY] * 12), max_elapsed_s=10)
    start = asyncio.get_running_loop().time()
    bench.put(b"a")
    await asyncio.sleep(140)
    times = [round(at - start) for at, _ in bench.client.calls]
    assert times == [0, 1, 3, 7, 15, 45, 75, 105, 135]
    assert bench.queue.last_error == AWAY.reason
    bench.task.cancel()
    await asyncio.gather(bench.task, return_exceptions=True)


@on_fake_time
async def test_denied_pauses_and_probes_each_max_interval() -> None:
    """UNAUTHENTICATED and PERMISSION_DENIED do not burn the backlog."""
    bench = Bench(ScriptedClient([Denied("unauthenticated", "who?")] * 2))
    start = asyncio.get_running_loop().time()
    bench.put(b"a")
    await asyncio.sleep(100)
    assert [round(at - start) for at, _ in bench.client.calls] == [0, 30, 60]
    await bench.finish()
    assert bench.account.delivered.items == 1


@on_fake_time
async def test_without_retry_a_failed_request_is_a_counted_drop() -> None:
    """retry.enabled: false means one try."""
    bench = Bench(ScriptedClient([AWAY]), retry=False)
    bench.put(b"a")
    await asyncio.sleep(5)
    assert len(bench.client.calls) == 1
    assert bench.account.dropped["retry_disabled"].items == 1
    await bench.finish()


@on_fake_time
async def test_over_its_bytes_the_queue_drops_the_oldest_and_counts_it() -> None:
    """The newest stays; what is in flight is not touched."""
    bench = Bench(ScriptedClient([AWAY]), max_bytes=30)
    bench.put(b"a" * 10)
    await asyncio.sleep(0.5)
    bench.put(b"b" * 10, b"c" * 10, b"d" * 10, b"e" * 10)
    assert bench.queue.bytes == 30
    assert bench.memory.usage == 1.0
    assert bench.account.dropped["queue_full"].items == 2
    assert bench.queue.last_drop_age_s() == 0.0
    await asyncio.sleep(5)
    assert bench.client.bodies[1] == b"c" * 10 + b"d" * 10 + b"e" * 10
    await bench.finish()


@on_fake_time
async def test_a_poisoned_request_is_found_by_halving_and_the_rest_is_delivered() -> None:
    """A non-retryable rejection costs the one original request that caused it."""
    client = ScriptedClient(takes_s=1)
    client.poison = b"POISON"
    bench = Bench(client)
    bench.put(b"first")
    await asyncio.sleep(0.5)
    bench.put(*[b"good%d" % n for n in range(7)], b"POISON", *[b"more%d" % n for n in range(8)])
    await bench.finish()
    assert bench.account.delivered.items == 16
    assert bench.account.rejected["invalid_argument"].items == 1


@on_fake_time
async def test_a_peer_that_goes_away_while_a_batch_is_halved_loses_nothing() -> None:
    """The halves not sent yet go back to the queue."""
    client = ScriptedClient([OK, Rejected("invalid_argument", "one is bad"), AWAY], takes_s=1)
    bench = Bench(client)
    bench.put(b"first")
    await asyncio.sleep(0.5)
    bench.put(b"a", b"b")
    await asyncio.sleep(10)
    await bench.finish()
    assert client.bodies == [b"first", b"ab", b"a", b"ab"]
    assert bench.account.delivered.items == 3


@on_fake_time
async def test_partial_success_is_counted_and_never_retried() -> None:
    """Items rejected by the peer are lost and named; the rest is delivered."""
    bench = Bench(ScriptedClient([Delivered(0.01, rejected_items=2, message="too old")]))
    bench.queue.put(b"abc", 5)
    await bench.finish()
    assert bench.account.delivered.items == 3
    assert bench.account.rejected["partial_success"].items == 2
    assert len(bench.client.calls) == 1


@on_fake_time
async def test_an_absurd_partial_success_cannot_unbalance_the_ledger() -> None:
    """A peer may claim to have rejected more than it was sent."""
    bench = Bench(ScriptedClient([Delivered(0.01, rejected_items=10**9)]))
    bench.put(b"a")
    await bench.finish()
    assert bench.account.rejected["partial_success"].items == 1


@on_fake_time
async def test_a_request_over_four_mebibytes_is_refused_and_counted() -> None:
    """gRPC peers take 4 MiB by default; such a request could never leave."""
    bench = Bench(ScriptedClient(), max_bytes=16 << 20)
    bench.put(b"x" * (REQUEST_BYTES + 1))
    assert bench.account.dropped["too_large"].items == 1
    await bench.finish()
    assert bench.client.calls == []


@on_fake_time
async def test_a_request_over_four_mebibytes_that_can_be_cut_leaves_in_pieces() -> None:
    """All of it, in order; enrichment may have made it as large."""
    bench = Bench(ScriptedClient(), max_bytes=16 << 20)
    names = [f"m{n}" for n in range(50)]
    bench.queue.put(points(*names, padding=100_000), 50)
    bench.check_balance()
    await bench.finish()
    assert all(len(body) <= REQUEST_BYTES for body in bench.client.bodies)
    assert [name for body in bench.client.bodies for name in names_in(body)] == names
    assert bench.account.delivered.items == 50


@pytest.mark.parametrize("padding", [0, 1000])
def test_a_request_too_large_for_the_peer_is_cut_down_to_the_one_item(padding: int) -> None:
    """Only an item that alone is too large is dropped: counted, and named with its service."""

    async def main() -> None:
        lines = io.StringIO()
        log.start("info", journal=True, stream=lines)
        client = ScriptedClient(takes_s=1)
        client.takes_bytes = 200 + padding
        bench = Bench(client)
        names = [f"m{n}" for n in range(8)]
        whole = bytearray(points(*names[:5], padding=padding))
        whole += points("large", service="camera", padding=300 + padding)
        whole += points(*names[5:], padding=padding)
        bench.put(points("first"))
        await asyncio.sleep(0.5)
        bench.queue.put(bytes(whole), 9)
        bench.put(points("last"))
        await bench.finish()
        taken = [body for body in client.bodies if len(body) <= client.takes_bytes]
        assert [name for body in taken for name in names_in(body)] == ["first", *names, "last"]
        assert bench.account.delivered.items == 10
        assert bench.account.rejected["resource_exhausted"].items == 1
        (line,) = [line for line in lines.getvalue().splitlines() if "for good" in line]
        assert "service=camera items=1 " in line
        assert "code=resource_exhausted" in line
        assert 'message="no more than that"' in line

    clock.run(main())


@on_fake_time
async def test_a_request_that_is_rejected_for_another_reason_is_not_cut() -> None:
    """Its sender has the bad data: the original request is what it costs."""
    client = ScriptedClient()
    client.poison = b"bad"
    bench = Bench(client)
    bench.queue.put(points("a", "bad", "b"), 3)
    await bench.finish()
    assert len(client.calls) == 1
    assert bench.account.rejected["invalid_argument"].items == 3


@on_fake_time
async def test_pieces_not_sent_when_the_peer_goes_away_wait_in_their_order() -> None:
    """In front of what came later; nothing is lost and nothing sent twice."""
    large = Rejected("http_413", "", too_large=True)
    client = ScriptedClient([large, OK, AWAY], takes_s=1)
    bench = Bench(client)
    bench.queue.put(points("a", "b", "c", "d"), 4)
    await asyncio.sleep(0.5)
    bench.put(points("e"))
    await asyncio.sleep(2)
    bench.check_balance()
    assert bench.queue.items == 3
    await asyncio.sleep(10)
    await bench.finish()
    assert [names_in(body) for body in client.bodies] == [
        ["a", "b", "c", "d"], ["a", "b"], ["c", "d"], ["c", "d", "e"],
    ]  # fmt: skip
    assert bench.account.delivered.items == 5


@on_fake_time
async def test_a_run_cancelled_while_pieces_are_sent_accounts_for_each() -> None:
    """The drain's deadline may come at any moment."""
    large = Rejected("http_413", "", too_large=True)
    bench = Bench(ScriptedClient([large, OK], takes_s=10))
    bench.queue.put(points("a", "b", "c"), 3)
    await asyncio.sleep(25)
    bench.task.cancel()
    await asyncio.gather(bench.task, return_exceptions=True)
    assert bench.account.delivered.items == 1
    assert bench.account.dropped["shutdown"].items == 2
    bench.check_balance()
    assert bench.queue.items == bench.queue.bytes == 0


@on_fake_time
async def test_close_tries_what_is_left_once_more_without_waiting_for_the_backoff() -> None:
    """SIGTERM during a backoff of 30 s still delivers if the peer is back."""
    bench = Bench(ScriptedClient([Retry("away", after_s=1000)]))
    bench.put(b"a")
    await asyncio.sleep(1)
    before = asyncio.get_running_loop().time()
    await bench.finish()
    assert asyncio.get_running_loop().time() == before
    assert bench.account.delivered.items == 1


@on_fake_time
async def test_what_cannot_be_delivered_at_the_end_is_counted_as_dropped() -> None:
    """Until its time is up it is tried again and again; what comes later is refused, counted."""
    bench = Bench(ScriptedClient([AWAY] * 100))
    bench.put(b"a")
    await asyncio.sleep(0.5)
    await bench.finish(within_s=6)
    bench.put(b"late")
    assert bench.account.dropped["shutdown"].items == 2
    assert len(bench.client.calls) >= 10
    bench.check_balance()


@on_fake_time
async def test_a_call_that_was_in_flight_at_the_close_is_not_the_last_try() -> None:
    """It fails, the peer comes back, and there are seconds left."""
    bench = Bench(ScriptedClient([AWAY], takes_s=1))
    bench.put(b"a")
    await asyncio.sleep(0.5)
    await bench.finish(within_s=6)
    assert bench.account.delivered.items == 1


@on_fake_time
async def test_a_cancelled_run_accounts_for_the_call_in_flight() -> None:
    """The drain's deadline may cut a call short: its requests count as dropped."""
    bench = Bench(ScriptedClient(takes_s=1000))
    bench.put(b"a", b"b")
    await asyncio.sleep(1)
    bench.task.cancel()
    await asyncio.gather(bench.task, return_exceptions=True)
    assert bench.account.dropped["shutdown"].items == 2
    bench.check_balance()


@on_fake_time
async def test_a_client_that_breaks_costs_a_retry_and_is_said_with_its_traceback() -> None:
    """A bug that a peer's answer brings to light would come back after every restart."""

    class Broken(ScriptedClient):
        async def export(self, signal: Signal, body: bytes) -> Outcome:
            if len(self.calls) < 2:
                self.calls.append((0.0, body))
                raise ZeroDivisionError
            return await super().export(signal, body)

    lines = io.StringIO()
    log.start("info", journal=True, stream=lines)
    bench = Bench(Broken())
    bench.put(b"a")
    await asyncio.sleep(10)
    await bench.finish()
    assert bench.account.delivered.items == 1
    assert lines.getvalue().count("ZeroDivisionError\n") == 0
    assert lines.getvalue().count("a client failed") == 1
    assert "traceback=" in lines.getvalue()


@on_fake_time
async def test_a_call_that_is_cut_short_before_it_began_is_accounted_for() -> None:
    """Cancelled in the very turn of the loop in which it was started."""
    bench = Bench(ScriptedClient(takes_s=1000))
    bench.put(b"a")
    bench.task.cancel()
    await asyncio.gather(bench.task, return_exceptions=True)
    bench.put(b"b")
    bench.check_balance()


@on_fake_time
async def test_the_other_lanes_older_answer_does_not_undo_a_hint() -> None:
    """What the peer said last holds: not before 600 s."""

    class TwoAnswers(ScriptedClient):
        async def export(self, signal: Signal, body: bytes) -> Outcome:
            self.calls.append((asyncio.get_running_loop().time(), body))
            if body == b"slow":
                await asyncio.sleep(2)
                return OK
            if len(self.calls) == 2:
                await asyncio.sleep(1)
                return Retry("unavailable", after_s=600)
            return OK

    bench = Bench(TwoAnswers(), lanes=2, batch_items=1)
    start = asyncio.get_running_loop().time()
    bench.put(b"slow")
    bench.put(b"told")
    await asyncio.sleep(700)
    assert [round(at - start) for at, _ in bench.client.calls] == [0, 0, 601]
    await bench.finish()


@on_fake_time
async def test_calls_that_fail_together_are_one_failure() -> None:
    """Two lanes must not double the backoff twice."""
    bench = Bench(ScriptedClient([AWAY, AWAY], takes_s=1), lanes=2, batch_items=1)
    start = asyncio.get_running_loop().time()
    bench.put(b"a")
    bench.put(b"b")
    await asyncio.sleep(30)
    assert round(bench.client.calls[2][0] - start) == 2
    await bench.finish()


@on_fake_time
async def test_what_a_peer_refuses_again_and_again_is_logged_once_in_a_while() -> None:
    """A collector without a metrics pipeline must not fill the journal of a device."""
    lines = io.StringIO()
    log.start("info", journal=True, stream=lines)
    bench = Bench(ScriptedClient([Rejected("unimplemented", "no metrics here")] * 100))
    for _ in range(41):
        bench.put(b"a")
        await asyncio.sleep(15)
    await bench.finish()
    said = [line for line in lines.getvalue().splitlines() if "for good" in line]
    assert len(said) == 3
    assert "since_last=19" in said[1]
    assert bench.account.rejected["unimplemented"].items == 41


@on_fake_time
async def test_each_culprit_is_named_however_soon_after_another() -> None:
    """Two services with the same fault are two people to tell."""
    lines = io.StringIO()
    log.start("info", journal=True, stream=lines)
    bench = Bench(ScriptedClient([Rejected("invalid_argument", "bad utf-8")] * 4))
    for service in ("svc-a", "svc-b", "svc-a", "svc-b"):
        bench.put(points("m", service=service))
        await asyncio.sleep(1)
    await bench.finish()
    said = [line for line in lines.getvalue().splitlines() if "for good" in line]
    assert ["svc-a" in line for line in said] == [True, False]
    assert "svc-b" in said[1]


@on_fake_time
async def test_a_loss_by_partial_success_counts_as_a_drop_for_health() -> None:
    """/health warns within five minutes of any loss."""
    bench = Bench(ScriptedClient([Delivered(0.01, rejected_items=1)]))
    bench.put(b"a")
    await asyncio.sleep(1)
    assert bench.queue.last_drop_age_s() == 1.0
    await bench.finish()


@on_fake_time
async def test_reachability_is_what_the_last_attempt_said() -> None:
    """Health reads attempts, consecutive failures, the last success and its latency."""
    bench = Bench(ScriptedClient([OK, AWAY, AWAY]))
    assert bench.peer.error == "no attempt yet"
    bench.put(b"a")
    await asyncio.sleep(0.1)
    assert not bench.peer.error
    assert bench.peer.latency_s == 0.01
    assert bench.peer.last_success_unix_nano == 1_700_000_000_000_000_000
    bench.put(b"b")
    await asyncio.sleep(1.5)
    assert bench.peer.error
    assert (bench.peer.consecutive_failures, bench.peer.error) == (2, AWAY.reason)
    await bench.finish()


@on_fake_time
async def test_the_age_of_the_oldest_counts_what_is_in_flight() -> None:
    """A call that hangs still holds its data."""
    bench = Bench(ScriptedClient(takes_s=100))
    assert bench.queue.oldest_age_s() == 0.0
    bench.put(b"a")
    await asyncio.sleep(7)
    bench.put(b"b")
    assert bench.queue.oldest_age_s() == 7.0
    await bench.finish()


@settings(max_examples=60, deadline=None)
@given(
    outcomes=st.lists(
        st.sampled_from(
            [OK, AWAY, Retry("hint", 2.0), Denied("u", "m"), Rejected("internal", "no"),
             Rejected("resource_exhausted", "", too_large=True), Delivered(0.0, rejected_items=1)]
        ),
        max_size=40,
    ),
    gaps=st.lists(st.floats(0, 20), min_size=1, max_size=60),
    newest_first=st.booleans(),
    lanes=st.integers(1, 2),
    batch_items=st.integers(1, 8),
    max_bytes=st.integers(4, 2000),
    takes_bytes=st.integers(20, 400),
    seed=st.integers(0, 1000),
)  # fmt: skip
def test_the_ledger_balances_whatever_the_peer_answers(
    outcomes: list[Outcome],
    gaps: list[float],
    newest_first: bool,
    lanes: int,
    batch_items: int,
    max_bytes: int,
    takes_bytes: int,
    seed: int,
) -> None:
    """accepted = delivered + rejected + dropped + held, in items and bytes, at every step."""

    async def main() -> None:
        sizes = random.Random(seed)
        client = ScriptedClient(outcomes, takes_s=0.7)
        client.takes_bytes = takes_bytes
        bench = Bench(
            client,
            newest_first=newest_first,
            lanes=lanes,
            batch_items=batch_items,
            max_bytes=max_bytes,
        )
        for n, gap in enumerate(gaps):
            if sizes.random() < 0.2:
                # No request at all: it cannot be cut, and balances all the same.
                bench.queue.put(bytes([n]) * sizes.randint(1, 500), sizes.randint(1, 3))
            else:
                names = [f"{n}.{i}" for i in range(sizes.randint(1, 9))]
                bench.queue.put(points(*names, padding=sizes.randint(0, 50)), len(names))
            bench.check_balance()
            await asyncio.sleep(gap)
            bench.check_balance()
        await bench.finish()
        assert bench.queue.items == bench.queue.bytes == 0

    clock.run(main())
