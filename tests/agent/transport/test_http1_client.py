"""The HTTP/1.1 client, against servers whose every byte is the test's."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from edge_agent.settings import Endpoint
from edge_agent.transport.dial import DialError, Proxy, Tls
from edge_agent.transport.http1 import Limits, Request, plain, serve
from edge_agent.transport.http1 import Response as Answer
from edge_agent.transport.http1_client import Http1Client, ProtocolError, Response, _drop
from edge_agent.transport.http1_messages import encode_request, encode_response
from edge_agent.transport.http1_responses import ResponseReader
from tests.fakes.certificates import Authority
from tests.fakes.proxy import FakeProxy
from tests.fakes.raw_server import RawServer, forever

TIMEOUT_S = 20.0
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@asynccontextmanager
async def client_of(server: RawServer, **changes: object) -> AsyncIterator[Http1Client]:
    """A client that is closed again."""
    client = Http1Client(server.endpoint, tls=Tls(), **changes)
    try:
        yield client
    finally:
        await client.close()


async def get(client: Http1Client, method: str = "GET", path: str = "/") -> Response:
    """One request without a body."""
    return await client.request(method, path, (), b"", TIMEOUT_S)


def scripted(*connections: list[bytes]) -> Callable:
    """Talk that answers each request of each connection with the next bytes, then closes."""
    scripts = iter(connections)

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in next(scripts):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            await writer.drain()

    return talk


async def test_a_request_is_written_as_http_1_1() -> None:
    """Host and Content-Length are added."""
    seen = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.readuntil(b"\r\n\r\n") + await reader.readexactly(3))
        writer.write(OK)
        seen.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(OK)

    async with RawServer(talk) as server, client_of(server) as client:
        await client.request("POST", "/v1/metrics?x", (("a", "b"),), b"abc", TIMEOUT_S)
        await get(client)
        host = server.endpoint.authority.encode()
        assert seen == [
            b"POST /v1/metrics?x HTTP/1.1\r\nhost: " + host + b"\r\na: b\r\n"
            b"content-length: 3\r\n\r\nabc",
            b"GET / HTTP/1.1\r\nhost: " + host + b"\r\n\r\n",
        ]
        assert server.connections == 1


@pytest.mark.parametrize(
    ("method", "answer", "expected"),
    [
        ("GET", OK, Response(200, b"ok", (("content-length", "2"),))),
        (
            "GET",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nA:  1 \r\nA: 2\r\n\r\n"
            b"1\r\no\r\n1;x=y\r\nk\r\n0\r\nT: t\r\n\r\n",
            Response(200, b"ok", (("transfer-encoding", "chunked"), ("a", "1"), ("a", "2"))),
        ),
        ("GET", b"HTTP/1.1 200 OK\r\n\r\nto the end", Response(200, b"to the end")),
        ("GET", b"HTTP/1.0 200 OK\r\n\r\n", Response(200, b"")),
        ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", None),
        ("GET", b"HTTP/1.1 204 No Content\r\n\r\n", Response(204)),
        (
            "GET",
            b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n",
            Response(304, b"", (("content-length", "9"),)),
        ),
        (
            "POST",
            b"HTTP/1.1 100 Continue\r\nx: 1\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\n" + OK,
            Response(200, b"ok", (("content-length", "2"),)),
        ),
        (
            "GET",
            b"HTTP/1.1 302 Found\r\nLocation: http://evil.example/\r\nContent-Length: 0\r\n\r\n",
            Response(302, b"", (("location", "http://evil.example/"), ("content-length", "0"))),
        ),
    ],
    ids=["length", "chunked", "closed", "empty", "head", "204", "304", "interim", "redirect"],
)
@pytest.mark.parametrize("piece_bytes", [1, 1 << 20])
async def test_answers_of_every_framing_are_read(
    method: str, answer: bytes, expected: Response | None, piece_bytes: int
) -> None:
    """RFC 9112, 6.3, however the bytes are cut; interim answers do not count."""
    reader = ResponseReader(method, max_header_bytes=1000, max_body_bytes=1000)
    for at in range(0, len(answer), piece_bytes):
        reader.feed(answer[at : at + piece_bytes])
    reader.end()
    assert reader.response == (expected or Response(200, b"", (("content-length", "9"),)))
    async with RawServer(scripted([answer])) as server, client_of(server) as client:
        assert await get(client, method) == reader.response


@pytest.mark.parametrize(
    ("answer", "cause"),
    [
        (b"SSH-2.0-OpenSSH\r\n\r\n", "not an HTTP/1 response"),
        (b"\x00\x00\x12\x04\x00\x00\x00", "not an HTTP/1 response"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort", "in the middle of a response"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab", "in the middle"),
        (b"HTTP/1.1 200 O", "in the middle of a response"),
        (b"HTTP/1.1 100 Continue\r\n\r\n", "in the middle of a response"),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            "not an HTTP/1 response",
        ),
        (
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n",
            "another protocol",
        ),
        (b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 101 + b"\r\n", "too many headers"),
        (b"HTTP/1.1 200 OK\r\na: " + b"b" * 17_000 + b"\r\n\r\n", "too many headers"),
        (b"HTTP/1.1 200 OK\r\na: " + b"b" * 70_000, "not content"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 2_000, "not content"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;" + b"b" * 70_000, "not content"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + bytes(1001), "over 1000 bytes"),
        (b"", "without an answer"),
    ],
)
async def test_garbage_is_an_error_and_never_more_than_the_limits(
    answer: bytes, cause: str
) -> None:
    """A captive portal, a database, an endless page: a ConnectionError with the reason."""
    async with (
        RawServer(scripted([answer])) as server,
        client_of(server, max_response_bytes=1000) as client,
    ):
        with pytest.raises(ConnectionError, match=cause):
            await get(client)
        assert not client.connected


async def test_of_an_error_that_is_too_long_the_start_is_kept() -> None:
    """Its status matters, and it must not be retried for the size of its page."""
    page = b"HTTP/1.1 404 Not Found\r\nContent-Length: 9000\r\n\r\n" + b"x" * 9000
    async with (
        RawServer(scripted([page])) as server,
        client_of(server, max_response_bytes=1000) as client,
    ):
        response = await get(client)
        assert (response.status, response.body) == (404, b"x" * 1000)
        assert not client.connected


async def test_a_connection_is_used_again_and_replaced_when_it_was_closed() -> None:
    """The peer may close an idle connection at any time, also as we write to it."""
    async with RawServer(scripted([OK, OK], [OK], [OK])) as server, client_of(server) as client:
        for _ in range(4):
            assert (await get(client)).body == b"ok"
        assert server.connections == 3


@pytest.mark.parametrize(
    "answer",
    [
        OK + b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil",
        OK + b"x" * 5000,
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
    ],
    ids=["second answer", "junk", "close"],
)
async def test_a_connection_with_more_in_it_is_not_used_again(answer: bytes) -> None:
    """The next request must not get an answer that came before it."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await reader.read()

    async with RawServer(talk) as server, client_of(server) as client:
        for connections in (1, 2):
            assert (await get(client)).body == b"ok"
            assert server.connections == connections


async def test_bytes_that_come_unasked_end_an_idle_connection() -> None:
    """As a 408 for the request that we did not send."""
    late = asyncio.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK)
        await late.wait()
        writer.write(b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n")
        await reader.read()

    async with RawServer(talk) as server, client_of(server) as client:
        await get(client)
        assert client.connected
        late.set()
        async with asyncio.timeout(TIMEOUT_S):
            while client.connected:
                await asyncio.sleep(0)


async def test_an_early_answer_cuts_the_rest_of_the_request() -> None:
    """A 413 comes while the body is still being written."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()
        await asyncio.Event().wait()

    async with RawServer(talk) as server, client_of(server) as client:
        response = await client.request("POST", "/", (), bytes(32 << 20), TIMEOUT_S)
        assert response.status == 413
        assert not client.connected


async def test_requests_beyond_the_pool_wait_their_turn() -> None:
    """One connection a request in flight, and never more than allowed."""
    busy = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await reader.readuntil(b"\r\n\r\n")
            busy.append(1)
            assert len(busy) <= 2
            await asyncio.sleep(0)
            busy.pop()
            writer.write(OK)

    async with RawServer(talk) as server, client_of(server, max_connections=2) as client:
        answers = await asyncio.gather(*(get(client) for _ in range(20)))
        assert [answer.body for answer in answers] == [b"ok"] * 20
        assert server.connections <= 2


async def test_silence_is_a_timeout_and_costs_the_connection() -> None:
    """A late answer must not be taken for the next one's."""
    async with RawServer(forever) as server, client_of(server, max_connections=1) as client:
        with pytest.raises(TimeoutError):
            await client.request("GET", "/", (), b"", 0.05)
        assert not client.connected
        stuck = asyncio.create_task(get(client))
        await asyncio.wait([stuck], timeout=0)
        with pytest.raises(TimeoutError):  # Also while it waits for its turn.
            await client.request("GET", "/", (), b"", 0.01)
        stuck.cancel()
        with pytest.raises(asyncio.CancelledError):
            await stuck


async def test_no_connection_is_a_dial_error() -> None:
    """Told apart from one that breaks: a dial that fails is backed off from."""
    async with RawServer(forever) as server:
        endpoint = server.endpoint
    client = Http1Client(endpoint, tls=Tls())
    with pytest.raises(DialError, match="Connection refused"):
        await get(client)
    await client.close()


async def test_closing_ends_what_is_in_flight() -> None:
    """Requests, dials and idle connections; and no new request begins."""
    async with RawServer(forever) as server:
        client = Http1Client(server.endpoint, tls=Tls())
        secure = Http1Client(Endpoint("https", "127.0.0.1", server.endpoint.port), tls=Tls())
        tasks = [asyncio.create_task(get(each)) for each in (client, secure)]
        async with asyncio.timeout(TIMEOUT_S):
            while server.connections < 2:
                await asyncio.sleep(0)
        await client.close()
        await secure.close()
        for task in tasks:
            with pytest.raises(ConnectionError, match="closed by us"):
                await task
        with pytest.raises(ConnectionError, match="closed by us"):
            await get(client)


async def test_a_cancelled_request_takes_its_dial_along() -> None:
    """Nobody is left to use what it would connect."""
    async with RawServer(forever) as server:
        client = Http1Client(Endpoint("https", "127.0.0.1", server.endpoint.port), tls=Tls())
        stuck = asyncio.create_task(get(client))
        async with asyncio.timeout(TIMEOUT_S):
            while not server.connections:
                await asyncio.sleep(0)
        stuck.cancel()
        with pytest.raises(asyncio.CancelledError):
            await stuck
        await client.close()


async def test_a_dial_that_succeeds_for_nobody_is_closed_again() -> None:
    """It may have ended in the very moment in which its request was cancelled."""
    async with RawServer(forever) as server, client_of(server) as client:
        task = asyncio.create_task(client._connect(TIMEOUT_S))
        await asyncio.wait({task})
        _drop(task)
        async with asyncio.timeout(TIMEOUT_S):
            await task.result().closed


async def test_an_idle_connection_that_is_closing_is_passed_over() -> None:
    """It is forgotten only when asyncio says so, a moment later."""
    async with RawServer(scripted([OK], [OK])) as server, client_of(server) as client:
        await get(client)
        for connection in client._idle:
            connection.close()
        assert not client.connected
        assert (await get(client)).body == b"ok"
        assert server.connections == 2


async def test_plain_requests_are_handed_to_the_proxy_whole() -> None:
    """RFC 9112, 3.2.2: absolute form, with the proxy's credentials."""
    async with (
        FakeProxy(authorization="Basic eDp5") as fake,
        RawServer(scripted([OK])) as server,
        client_of(server, proxy=Proxy(fake.host, fake.port, "Basic eDp5")) as client,
    ):
        assert (await get(client, path="/v1/logs")).body == b"ok"
        assert fake.asked == [server.endpoint.authority]


async def test_a_plain_proxy_without_credentials_gets_none() -> None:
    """And its refusal is an answer like any other."""
    async with (
        FakeProxy(authorization="Basic eDp5") as fake,
        RawServer(forever) as server,
        client_of(server, proxy=Proxy(fake.host, fake.port)) as client,
    ):
        assert (await get(client)).status == 407


async def test_tls_goes_through_a_tunnel_to_our_own_server(tmp_path: Path) -> None:
    """Client and server together, through CONNECT."""
    authority = Authority(tmp_path)
    pair = authority.issue("server", "127.0.0.1")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, pair.key)

    async def respond(request: Request) -> Answer:
        return plain(200, f"{request.path} {len(request.body)}")

    limits = Limits(max_body_bytes=8 << 20, max_connections=4)
    server = await serve(respond, host="127.0.0.1", port=0, limits=limits, tls=context)
    async with FakeProxy() as fake:
        client = Http1Client(
            Endpoint("https", "127.0.0.1", server.ports[0]),
            tls=Tls(str(authority.certificate)),
            proxy=Proxy(fake.host, fake.port),
        )
        for _ in range(2):
            response = await client.request("POST", "/p", (), bytes(4 << 20), TIMEOUT_S)
            assert response.body == b"/p 4194304\n"
        assert fake.asked == [f"127.0.0.1:{server.ports[0]}"]
        too_large = await client.request("POST", "/p", (), bytes((8 << 20) + 1), TIMEOUT_S)
        assert too_large.status == 413
        await client.close()
    await server.close(grace_s=TIMEOUT_S)


@pytest.mark.parametrize("value", ["a\r\nb: c", "a\nb", "a\rb"])
def test_a_header_cannot_smuggle_another(value: str) -> None:
    """Neither in a request nor in a response."""
    with pytest.raises(ValueError, match="line break"):
        encode_request("GET", "/", "h", (("x", value),), b"")
    with pytest.raises(ValueError, match="line break"):
        encode_response(Answer(200, b"", (("x", value),)), keep_alive=True)


def test_a_protocol_error_is_a_connection_error() -> None:
    """Whoever retries broken connections retries those as well."""
    assert issubclass(ProtocolError, ConnectionError)
