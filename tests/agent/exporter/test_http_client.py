"""What OTLP over HTTP does beyond the contract that all clients share."""

import asyncio
import gzip

import pytest

from edge_agent.exporter.http_client import HttpClient
from edge_agent.exporter.retry import Delivered, Rejected, Retry
from edge_agent.otlp.signal import Signal
from edge_agent.settings import Endpoint
from edge_agent.transport.dial import Proxy, Tls
from tests.fakes.proxy import FakeProxy
from tests.fakes.raw_server import RawServer

BODY = b"\x0a\x02ab" * 100


class Clock:
    """A monotonic clock that the test moves."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def client_of(*endpoints: Endpoint, **changes: object) -> HttpClient:
    """A client of `endpoints`, in the order of the signals."""
    options = {
        "tls": Tls(),
        "headers": (("authorization", "Bearer secret"),),
        "gzip": True,
        "timeout_s": 20.0,
        "max_reconnect_s": 30.0,
        "environ_proxy": lambda endpoint: None,
        "user_agent": "OTel-OTLP-Exporter-pulseops/1.0",
        "jitter": lambda: 0.0,
    } | changes
    return HttpClient(dict(zip(Signal, endpoints, strict=False)), **options)


class Recorder:
    """A server that keeps what it was asked and always gives one answer."""

    def __init__(self, answer: bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n") -> None:
        self.answer = answer
        self.heads: list[list[str]] = []
        self.bodies: list[bytes] = []

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            length = next(int(h[16:]) for h in head if h.startswith("content-length: "))
            self.heads.append([line for line in head if line])
            self.bodies.append(await reader.readexactly(length))
            writer.write(self.answer)


async def test_the_request_is_what_otlp_over_http_says() -> None:
    """POST, protobuf, gzip, the user's headers and the path exactly as configured."""
    recorder = Recorder()
    async with RawServer(recorder) as server:
        endpoint = Endpoint("http", "127.0.0.1", server.endpoint.port, "/custom/v1/metrics/")
        client = client_of(endpoint)
        assert isinstance(await client.export(Signal.METRICS, BODY), Delivered)
        await client.close()
    assert recorder.heads[0] == [
        "POST /custom/v1/metrics/ HTTP/1.1",
        f"host: {endpoint.authority}",
        "content-type: application/x-protobuf",
        "user-agent: OTel-OTLP-Exporter-pulseops/1.0",
        "authorization: Bearer secret",
        "content-encoding: gzip",
        f"content-length: {len(recorder.bodies[0])}",
    ]
    assert gzip.decompress(recorder.bodies[0]) == BODY


async def test_an_endpoint_without_a_path_is_posted_to_the_root() -> None:
    """A request target is never empty."""
    recorder = Recorder()
    async with RawServer(recorder) as server:
        client = client_of(Endpoint("http", "127.0.0.1", server.endpoint.port), gzip=False)
        await client.export(Signal.METRICS, BODY)
        await client.close()
    assert recorder.heads[0][0] == "POST / HTTP/1.1"
    assert recorder.bodies == [BODY]


async def test_after_a_failed_dial_calls_end_at_once_until_the_wait_is_over() -> None:
    """With the error of that dial and the rest of the wait; the wait doubles up to its bound."""
    async with RawServer(Recorder()) as gone:
        endpoint = gone.endpoint
    clock = Clock()
    client = client_of(endpoint, monotonic=clock, max_reconnect_s=3.0)
    error = f"{endpoint.authority}: Connection refused"
    for wait_s in (0.5, 1.0, 1.5, 1.5):
        # Two calls that fail together are one failure.
        both = await asyncio.gather(*(client.export(Signal.METRICS, BODY) for _ in range(2)))
        assert both == [Retry(error), Retry(error)]
        assert await client.export(Signal.METRICS, BODY) == Retry(error, wait_s)
        clock.now_s += wait_s
    async with RawServer(Recorder(), port=endpoint.port):
        assert isinstance(await client.export(Signal.METRICS, BODY), Delivered)
    await client.close()


async def test_a_success_forgets_the_failures_before_it() -> None:
    """The next outage starts with a short wait again."""
    async with RawServer(Recorder()) as gone:
        endpoint = gone.endpoint
    clock = Clock()
    client = client_of(endpoint, monotonic=clock)
    for wait_s in (0.5, 1.0):
        await client.export(Signal.METRICS, BODY)
        clock.now_s += wait_s
    async with RawServer(Recorder(), port=endpoint.port):
        assert isinstance(await client.export(Signal.METRICS, BODY), Delivered)
    while isinstance(await client.export(Signal.METRICS, BODY), Delivered):
        pass
    while (await client.export(Signal.METRICS, BODY)).after_s is None:
        pass
    assert (await client.export(Signal.METRICS, BODY)).after_s == 0.5
    await client.close()


async def test_redirects_are_not_followed() -> None:
    """They would take the token along to whoever is named; the data is kept."""
    moved = b"HTTP/1.1 307 Moved\r\nLocation: http://127.0.0.1:9/\r\nContent-Length: 0\r\n\r\n"
    async with RawServer(Recorder(moved)) as server:
        client = client_of(server.endpoint)
        outcome = await client.export(Signal.METRICS, BODY)
        await client.close()
    assert outcome == Retry("http_307")


async def test_a_login_page_is_no_delivery() -> None:
    """A guest network answers 200 with HTML for whatever server was asked for."""
    page = b"<html>Welcome! Log in here.</html>"
    head = b"HTTP/1.1 200 OK\r\nContent-Type: Text/HTML\r\nContent-Length: %d\r\n\r\n"
    async with RawServer(Recorder(head % len(page) + page)) as server:
        client = client_of(server.endpoint)
        outcome = await client.export(Signal.METRICS, BODY)
        await client.close()
    assert outcome == Retry("http_200: <html>Welcome! Log in here.</html>")


@pytest.mark.parametrize(
    ("body", "message"),
    [(gzip.compress(b"no such customer"), "no such customer"), (b"damaged", "")],
)
async def test_a_compressed_answer_is_unpacked(body: bytes, message: str) -> None:
    """We never ask for one, and RFC 9110, 12.5.3 lets a peer send it all the same."""
    head = f"HTTP/1.1 400 No\r\nContent-Encoding: gzip\r\nContent-Length: {len(body)}\r\n\r\n"
    async with RawServer(Recorder(head.encode() + body)) as server:
        client = client_of(server.endpoint)
        outcome = await client.export(Signal.METRICS, BODY)
        await client.close()
    assert outcome == Rejected("http_400", message)


async def test_each_peer_has_its_own_proxy() -> None:
    """NO_PROXY may name one of them; signals to one peer share what leads there."""
    recorder = Recorder()
    asked = []
    async with FakeProxy() as fake, RawServer(recorder) as one, RawServer(recorder) as two:

        def environ_proxy(endpoint: Endpoint) -> Proxy | None:
            asked.append(endpoint)
            return Proxy(fake.host, fake.port) if endpoint.port == one.endpoint.port else None

        client = client_of(one.endpoint, two.endpoint, one.endpoint, environ_proxy=environ_proxy)
        for signal in Signal:
            assert isinstance(await client.export(signal, BODY), Delivered)
        await client.close()
        assert fake.asked == [one.endpoint.authority]
        assert asked == [one.endpoint, two.endpoint]
