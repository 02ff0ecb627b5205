"""When the built-in gRPC client dials, and when it does not. On fake time, without a network."""

import asyncio
from collections.abc import Callable
from typing import Any

import ngh2
import pytest

from edge_agent.exporter import grpc_client
from edge_agent.exporter.grpc_client import GrpcClient
from edge_agent.exporter.retry import Delivered, Outcome, Retry
from edge_agent.otlp.signal import Signal
from edge_agent.settings import Endpoint
from edge_agent.transport.compression import gzip
from edge_agent.transport.dial import DialError, Tls
from tests.agent.exporter.contract import BODY
from tests.agent.transport.test_http2 import OK, Wire
from tests.fakes.clock import run
from tests.fakes.http2_server import Http2Server, ServerCall

ENDPOINT = Endpoint("http", "collector.test", 4317)


class Network:
    """Stands in for `dial`: refuses, hangs or connects to a server in memory, and counts."""

    def __init__(self) -> None:
        self.dialled: list[str] = []
        self.refuses = True
        self.hangs = False
        self.answers = True
        self.wires: list[Wire] = []

    async def dial(
        self, factory: Callable[[], Any], endpoint: Endpoint, **options: Any
    ) -> tuple[Wire, Any]:
        """As `transport.dial.dial`."""
        self.dialled.append(endpoint.authority)
        if self.hangs:
            await asyncio.Event().wait()
        if self.refuses:
            raise DialError(f"{endpoint.authority}: Connection refused")
        protocol = factory()
        wire = _Served(protocol, self)
        self.wires.append(wire)
        protocol.connection_made(wire)
        return wire, protocol


class _Served(Wire):
    """A wire with a server at its end."""

    def __init__(self, protocol: asyncio.Protocol, network: Network) -> None:
        super().__init__(protocol)
        self.http2 = ngh2.Connection(ngh2.Role.SERVER)
        self.http2.initiate_connection()
        self._network = network

    def write(self, data: Any) -> None:
        super().write(data)
        asyncio.get_running_loop().call_soon(self._talk)

    def _talk(self) -> None:
        if self.ended is not None or not self._network.answers:
            return
        self.http2.receive_data(bytes(self.sent))
        self.sent.clear()
        for event in self.http2.events():
            if isinstance(event, ngh2.DataReceived) and event.end_stream:
                headers = [*OK, (b"grpc-status", b"0")]
                self.http2.send_response(event.stream_id, headers, end_stream=True)
        if out := self.http2.data_to_send():
            self.protocol.data_received(out)


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> Network:
    """In the place of the real one."""
    network = Network()
    monkeypatch.setattr(grpc_client, "dial", network.dial)
    return network


def new_client(**changes: Any) -> GrpcClient:
    """A client whose jitter is the middle of its range."""
    settings: dict[str, Any] = {
        "tls": Tls(),
        "headers": (),
        "gzip": False,
        "timeout_s": 10.0,
        "max_reconnect_s": 4.0,
        "environ_proxy": lambda _endpoint: None,
        "user_agent": "test",
        "jitter": lambda: 0.0,
        **changes,
    }
    return GrpcClient(dict.fromkeys(Signal, ENDPOINT), **settings)


def test_while_a_dial_has_to_wait_calls_end_at_once_with_the_last_error(network: Network) -> None:
    """They say how long, so that the queue comes back just then; nothing hangs."""

    async def test() -> None:
        client = new_client()
        refused = Retry("collector.test:4317: Connection refused")
        assert await client.export(Signal.METRICS, BODY) == refused
        assert await client.export(Signal.TRACES, BODY) == Retry(refused.reason, 0.5)
        await asyncio.sleep(0.3)
        outcome = await client.export(Signal.LOGS, BODY)
        assert isinstance(outcome, Retry)
        assert outcome.after_s == pytest.approx(0.2)
        assert len(network.dialled) == 1
        await client.close()

    run(test())


def test_the_pause_between_dials_doubles_up_to_its_limit(network: Network) -> None:
    """And begins anew once a connection has stood."""

    async def pause_s(client: GrpcClient) -> float:
        await client.export(Signal.METRICS, BODY)
        outcome = await client.export(Signal.METRICS, BODY)
        assert isinstance(outcome, Retry)
        assert outcome.after_s is not None
        await asyncio.sleep(outcome.after_s)
        return round(outcome.after_s, 6)

    async def test() -> None:
        client = new_client()
        assert [await pause_s(client) for _ in range(5)] == [0.5, 1, 2, 2, 2]
        network.refuses = False
        assert isinstance(await client.export(Signal.METRICS, BODY), Delivered)
        network.refuses = True
        network.wires[0].abort()
        await asyncio.sleep(0.1)
        assert await pause_s(client) == 0.5
        await client.close()

    run(test())


def test_the_first_pause_is_never_longer_than_the_longest(network: Network) -> None:
    """A small max_interval holds from the start."""

    async def test() -> None:
        client = new_client(max_reconnect_s=0.2)
        await client.export(Signal.METRICS, BODY)
        outcome = await client.export(Signal.METRICS, BODY)
        assert isinstance(outcome, Retry)
        assert outcome.after_s == pytest.approx(0.1)
        await client.close()

    run(test())


def test_calls_that_come_during_a_dial_share_it(network: Network) -> None:
    """And the connection it makes; one that is cancelled does not take it from the others."""

    async def test() -> None:
        network.refuses = False
        client = new_client()
        first = asyncio.create_task(client.export(Signal.METRICS, BODY))
        others = [asyncio.create_task(client.export(signal, BODY)) for signal in Signal]
        await asyncio.sleep(0)
        first.cancel()
        outcomes = await asyncio.gather(*others)
        assert [type(outcome) for outcome in outcomes] == [Delivered] * 3
        assert len(network.dialled) == 1
        assert first.cancelled()
        await client.close()

    run(test())


def test_a_peer_that_never_speaks_http2_is_given_up_at_the_deadline(network: Network) -> None:
    """The connection stands, SETTINGS never come."""

    async def test() -> None:
        network.refuses = network.answers = False
        client = new_client()
        began_s = asyncio.get_running_loop().time()
        outcome = await client.export(Signal.METRICS, BODY)
        assert outcome == Retry("collector.test:4317: no HTTP/2 within 10 s")
        assert asyncio.get_running_loop().time() - began_s < 12
        assert network.wires[0].ended is not None
        await client.close()

    run(test())


def test_a_link_that_died_is_found_when_the_call_on_it_ends(network: Network) -> None:
    """So the next call dials, instead of meeting its deadline on the same dead link."""

    async def test() -> None:
        network.refuses = False
        client = new_client()
        assert isinstance(await client.export(Signal.METRICS, BODY), Delivered)
        network.answers = False
        outcome = await client.export(Signal.METRICS, BODY)
        assert isinstance(outcome, Retry)
        await asyncio.sleep(0.001)
        network.answers = True
        assert isinstance(await client.export(Signal.METRICS, BODY), Delivered)
        assert len(network.dialled) == 2
        await client.close()

    run(test())


def test_close_ends_a_dial(network: Network) -> None:
    """And the call that waits for it; nothing is dialled afterwards."""

    async def test() -> None:
        network.hangs = True
        client = new_client()
        export = asyncio.create_task(client.export(Signal.METRICS, BODY))
        await asyncio.sleep(1)
        await client.close()
        assert await export == Retry("closed by us")
        assert await client.export(Signal.METRICS, BODY) == Retry("closed by us")
        assert len(network.dialled) == 1

    run(test())


def test_jitter_is_within_its_bounds() -> None:
    """The default one, from the system."""
    values = [grpc_client.jitter() for _ in range(100)]
    assert all(0 <= value < 1 for value in values)
    assert len(set(values)) > 1


def test_a_refused_header_is_named_once(caplog: pytest.LogCaptureFixture) -> None:
    """Its name, never its value, which may be a secret."""

    async def test() -> None:
        await new_client(headers=(("te", "secret"),)).close()

    run(test())
    assert [record.getMessage() for record in caplog.records] == [
        "a header that gRPC cannot carry is not sent"
    ]
    assert "secret" not in caplog.text


async def test_a_compressed_answer_is_unpacked() -> None:
    """Go's gRPC answers in the encoding it was asked in; what cannot be unpacked was delivered."""
    partial = b"\x0a\x02\x08\x05"
    packed = gzip(partial)
    messages = iter(
        [
            b"\x01" + len(packed).to_bytes(4, "big") + packed,
            b"\x01\x00\x00\x00\x02zz",
            b"\x00\x00\x00\x00\x09short",
        ]
    )

    def respond(call: ServerCall) -> None:
        call.begin((b":status", b"200"), (b"content-type", b"application/grpc"))
        call.send(next(messages))
        call.end((b"grpc-status", b"0"))

    async with Http2Server(respond) as server:
        client = GrpcClient(
            dict.fromkeys(Signal, server.endpoint),
            tls=Tls(),
            headers=(),
            gzip=True,
            timeout_s=10.0,
            max_reconnect_s=1.0,
            environ_proxy=lambda _endpoint: None,
            user_agent="test",
        )
        outcomes: list[Outcome] = [await client.export(Signal.METRICS, BODY) for _ in range(3)]
        await client.close()
    assert [getattr(outcome, "rejected_items", None) for outcome in outcomes] == [5, 0, 0]
