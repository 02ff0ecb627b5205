"""The HTTP/1.1 server, spoken to byte by byte over a real socket."""

import asyncio
import logging
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from itertools import pairwise

import pytest

from edge_agent.transport.budget import Budget
from edge_agent.transport.http1 import Head, Limits, Request, Response, Server, plain, serve
from edge_agent.transport.turns import Turns
from tests.fakes import clock

LIMITS = Limits(max_body_bytes=1000, max_connections=8)
DEADLINE_S = 20.0


async def echo(request: Request) -> Response:
    """Answers with what it was asked."""
    text = f"{request.method} {request.path}?{request.query} ".encode()
    return Response(200, text + request.body, (("x-peer", request.peer),))


class Wire:
    """A client that sends and expects bytes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        """Write `data`."""
        self.writer.write(data)
        await self.writer.drain()

    async def response(self, *, head: bool = False) -> tuple[int, dict[str, str], bytes]:
        """The next response: status, headers, body."""
        async with asyncio.timeout(DEADLINE_S):
            lines = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = dict(line.split(": ", 1) for line in lines[1:] if line)
            length = 0 if head else int(headers.get("content-length", 0))
            return int(lines[0].split()[1]), headers, await self.reader.readexactly(length)

    async def rest(self) -> bytes:
        """All that still comes before the server closes."""
        async with asyncio.timeout(DEADLINE_S):
            return await self.reader.read()


@asynccontextmanager
async def running(
    respond: Callable[[Request], Awaitable[Response]] = echo,
    limits: Limits = LIMITS,
    **more: object,
) -> AsyncIterator[Server]:
    """A server on a free loopback port."""
    server = await serve(respond, host="127.0.0.1", port=0, limits=limits, **more)
    try:
        yield server
    finally:
        await server.close(grace_s=0)


@asynccontextmanager
async def connected(server: Server, **more: object) -> AsyncIterator[Wire]:
    """A connection to `server`."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.ports[0], **more)
    try:
        yield Wire(reader, writer)
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def exchange(data: bytes, limits: Limits = LIMITS, **more: object) -> bytes:
    """All that a server answers to `data` on one connection before it closes it."""
    async with running(limits=limits, **more) as server, connected(server) as wire:
        await wire.send(data)
        return await wire.rest()


def statuses(answer: bytes) -> list[int]:
    """The status codes in what came back."""
    return [int(part[:3]) for part in answer.split(b"HTTP/1.1 ")[1:]]


async def test_a_request_is_answered_and_the_connection_kept() -> None:
    """HTTP/1.1 connections persist without asking."""
    async with running() as server, connected(server) as wire:
        for path in ("/a?x=1&y", "/b"):
            await wire.send(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            status, headers, body = await wire.response()
            assert (status, body.decode()) == (200, f"GET {path} " if "?" in path else "GET /b? ")
            assert "connection" not in headers
            assert headers["x-peer"].startswith("127.0.0.1:")


async def test_what_is_sent_ahead_is_answered_in_order() -> None:
    """Pipelining, RFC 9112, 9.3.2, also when the first answer takes longest."""
    gate = asyncio.Event()

    async def slow_first(request: Request) -> Response:
        if request.path == "/0":
            await gate.wait()
        return plain(200, request.path)

    async with running(slow_first) as server, connected(server) as wire:
        await wire.send(b"".join(b"GET /%d HTTP/1.1\r\nHost: x\r\n\r\n" % n for n in range(500)))
        gate.set()
        for n in range(500):
            assert await wire.response() == (
                200,
                {"content-type": "text/plain; charset=utf-8", "content-length": str(n_len(n))},
                f"/{n}\n".encode(),
            )


def n_len(n: int) -> int:
    """The length of the answer to request `n`."""
    return len(f"/{n}\n")


async def test_a_client_ahead_of_us_waits_in_its_own_memory() -> None:
    """While one request is answered no more than one read is taken from the socket."""
    gate = asyncio.Event()
    entered = asyncio.Event()

    async def gated(request: Request) -> Response:
        entered.set()
        await gate.wait()
        return plain(200, "ok")

    async with running(gated) as server, connected(server) as wire:
        one = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n" + bytes(1000)
        await wire.send(one)
        await entered.wait()
        wire.writer.transport.set_write_buffer_limits(high=0)
        wire.writer.write(one * 20_000)
        stuck = asyncio.create_task(wire.writer.drain())
        # What the kernel's buffers took is taken; the rest stays with the client.
        connection = next(iter(server._connections))
        while connection._transport.is_reading():
            await asyncio.sleep(0)
        assert not stuck.done()
        assert len(connection._unread) <= 1 << 20
        gate.set()
        for _ in range(3):
            assert (await wire.response())[0] == 200
        stuck.cancel()
        wire.writer.transport.abort()


@pytest.mark.parametrize("piece_bytes", [1, 7, 4096])
async def test_how_bytes_are_cut_does_not_matter(piece_bytes: int) -> None:
    """TCP has no messages."""
    data = (
        b"POST /x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"5;ext=1\r\nhello\r\n6\r\n world\r\n0\r\nTrailer: t\r\n\r\n"
        b"POST /y HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nConnection: close\r\n\r\nabc"
    )
    async with running() as server, connected(server) as wire:
        for at in range(0, len(data), piece_bytes):
            await wire.send(data[at : at + piece_bytes])
        assert (await wire.response())[2] == b"POST /x? hello world"
        status, headers, body = await wire.response()
        assert (status, headers["connection"], body) == (200, "close", b"POST /y? abc")
        assert await wire.rest() == b""


async def test_head_has_the_length_and_not_the_body() -> None:
    """RFC 9110, 9.3.2."""
    async with running() as server, connected(server) as wire:
        await wire.send(b"HEAD /h HTTP/1.1\r\nHost: x\r\n\r\n")
        status, headers, _ = await wire.response(head=True)
        assert (status, headers["content-length"]) == (200, str(len(b"HEAD /h? ")))
        await wire.send(b"GET /g HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await wire.response())[2] == b"GET /g? "


async def test_http_1_0_closes_unless_asked_to_keep() -> None:
    """RFC 9112, 9.3; wget and old probes speak it."""
    async with running() as server:
        async with connected(server) as wire:
            await wire.send(b"GET / HTTP/1.0\r\n\r\n")
            assert (await wire.response())[1]["connection"] == "close"
            assert await wire.rest() == b""
        async with connected(server) as wire:
            await wire.send(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
            assert (await wire.response())[1]["connection"] == "keep-alive"
            await wire.send(b"GET / HTTP/1.0\r\n\r\n")
            assert (await wire.response())[0] == 200


async def test_what_follows_the_last_request_is_ignored() -> None:
    """Neither an error nor another answer."""
    answer = await exchange(b"GET / HTTP/1.0\r\n\r\nGET /again HTTP/1.0\r\n\r\n")
    assert statuses(answer) == [200]


async def test_continue_is_sent_when_the_client_waits_for_it() -> None:
    """RFC 9110, 10.1.1; curl waits for it with larger bodies."""
    async with running() as server, connected(server) as wire:
        head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n"
        await wire.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" + head)
        assert (await wire.response())[0] == 200
        assert (await wire.response())[0] == 100
        await wire.send(b"abc")
        assert (await wire.response())[2] == b"POST /? abc"
        await wire.send(head + b"abc")  # It did not wait, so it is told nothing.
        assert (await wire.response())[2] == b"POST /? abc"


async def test_a_client_that_expects_is_refused_before_it_sends() -> None:
    """The point of Expect."""
    head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1001\r\nExpect: 100-continue\r\n\r\n"
    assert statuses(await exchange(head)) == [413]


POST = b"POST / HTTP/1.1\r\nHost: x\r\n"


@pytest.mark.parametrize(
    ("status", "data"),
    [
        pytest.param(400, b"\x16\x03\x01\x02\x00\x01\x00", id="TLS"),
        pytest.param(400, b"GET / HTTP/1.1\r\n\r\n", id="no host"),
        pytest.param(400, b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", id="two hosts"),
        pytest.param(400, b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", id="blank before colon"),
        pytest.param(400, b"GET / HTTP/1.1\r\nHost: a\r\n b\r\n\r\n", id="folded"),
        pytest.param(400, b"GET / HTTP/1.1\r\nHost: a\x00\r\n\r\n", id="NUL"),
        pytest.param(400, b"GET x HTTP/1.1\r\nHost: a\r\n\r\n", id="target"),
        pytest.param(400, b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n", id="CONNECT"),
        pytest.param(400, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", id="HTTP/2 preface"),
        pytest.param(505, b"GET / HTTP/2.0\r\n\r\n", id="HTTP/2"),
        pytest.param(
            400,
            POST + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            id="length, then coding",
        ),
        pytest.param(
            400,
            POST + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
            id="coding, then length",
        ),
        pytest.param(400, POST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n", id="lengths"),
        pytest.param(400, POST + b"Content-Length: 1, 1\r\n\r\n", id="length list"),
        pytest.param(400, POST + b"Content-Length: -1\r\n\r\n", id="negative length"),
        pytest.param(400, POST + b"Content-Length: +1\r\n\r\n", id="signed length"),
        pytest.param(400, POST + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n", id="chunk size"),
        pytest.param(
            400, b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", id="coding in 1.0"
        ),
        pytest.param(501, POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n", id="coding"),
        pytest.param(
            501,
            POST + b"Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 3\r\n\r\nabc",
            id="upgrade with a body",
        ),
        pytest.param(417, POST + b"Expect: miracles\r\n\r\n", id="expectation"),
        pytest.param(413, POST + b"Content-Length: 1001\r\n\r\n", id="announced body"),
        pytest.param(
            413, POST + b"Transfer-Encoding: chunked\r\n\r\n3e9\r\n" + bytes(1001), id="chunk"
        ),
        pytest.param(431, POST + b"X: " + b"x" * 16400 + b"\r\n\r\n", id="long header"),
        pytest.param(431, POST + b"X: " + b"x" * 60_000, id="endless header"),
        pytest.param(431, b"GET /" + b"x" * 16400 + b" HTTP/1.1\r\n", id="long target"),
        pytest.param(
            431, POST + b"".join(b"X%d: x\r\n" % n for n in range(100)) + b"\r\n", id="headers"
        ),
        pytest.param(431, b"\r\n" * 30_000, id="endless blank lines"),
        pytest.param(
            400,
            POST + b"Transfer-Encoding: chunked\r\n\r\n1;" + b"x" * 60_000,
            id="endless chunk extension",
        ),
        pytest.param(
            400,
            POST + b"Transfer-Encoding: chunked\r\n\r\n0\r\nT: " + b"x" * 60_000,
            id="endless trailer",
        ),
    ],
)
async def test_what_is_wrong_is_refused_and_the_connection_closed(status: int, data: bytes) -> None:
    """Each with its status, exactly one answer, and no second reading of what follows."""
    called = []

    async def never(request: Request) -> Response:
        called.append(request)
        return plain(200, "ok")

    async with running(never) as server, connected(server) as wire:
        await wire.send(data + b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = await wire.rest()
    assert statuses(answer) == [status]
    assert b"connection: close" in answer
    assert called == []


@pytest.mark.parametrize(
    ("data", "seen"),
    [
        (b"GET http://h:1/p?q HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", b"GET /p?q "),
        (b"GET HTTPS://h HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", b"GET /? "),
        (b"OPTIONS * HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", b"OPTIONS *? "),
        (b"GET /%41/../b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", b"GET /%41/../b? "),
        (b"GET /u HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n", b"GET /u? "),
    ],
)
async def test_targets_of_every_form_reach_the_application(data: bytes, seen: bytes) -> None:
    """Origin, absolute and asterisk form (RFC 9112, 3.2); an upgrade is not taken up."""
    assert (await exchange(data)).endswith(seen)


async def test_repeated_headers_are_joined() -> None:
    """RFC 9110, 5.2."""
    seen = []

    async def keep(request: Request) -> Response:
        seen.append(dict(request.headers))
        return plain(200, "ok")

    async with running(keep) as server, connected(server) as wire:
        await wire.send(b"GET / HTTP/1.1\r\nHost: x\r\nA: 1 \r\nB: \r\na: 2\r\n\r\n")
        await wire.response()
    assert seen == [{"host": "x", "a": "1, 2", "b": ""}]


async def test_a_body_as_large_as_allowed_is_taken() -> None:
    """The limit is exact, announced or chunked."""
    data = POST + b"Content-Length: 1000\r\n\r\n" + b"x" * 1000
    data += POST + b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    data += b"".join(b"1\r\ny\r\n" for _ in range(1000)) + b"0\r\n\r\n"
    answer = await exchange(data)
    assert statuses(answer) == [200, 200]
    assert answer.count(b"x" * 1000) == answer.count(b"y" * 1000) == 1


async def test_a_fault_of_ours_is_a_500_and_one_line(caplog: pytest.LogCaptureFixture) -> None:
    """The connection lives on, and the traceback is in the log."""
    answers = iter([ValueError("boom"), Response(200, b"", (("x", "a\r\nb"),)), plain(200, "ok")])

    async def faulty(request: Request) -> Response:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    with caplog.at_level(logging.ERROR):
        async with running(faulty) as server, connected(server) as wire:
            for expected in (500, 500, 200):
                await wire.send(b"GET /f HTTP/1.1\r\nHost: x\r\n\r\n")
                assert (await wire.response())[0] == expected
    assert [record.getMessage() for record in caplog.records] == ["request failed"] * 2
    assert all(record.exc_info for record in caplog.records)


async def test_admission_answers_before_the_body_is_read() -> None:
    """The seam of the receiver: what it refuses costs no memory."""
    asked = []

    def admit(head: Head, content_length: int | None) -> Response | None:
        asked.append((head.method, head.path, content_length))
        return None if head.path == "/in" else plain(503, "later", (("retry-after", "3"),))

    data = b"POST /in HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx"
    data += b"POST /out HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    answer = await exchange(data, admit=admit)
    assert statuses(answer) == [200, 503]
    assert b"retry-after: 3" in answer
    assert asked == [("POST", "/in", 1), ("POST", "/out", None)]


async def test_a_fault_in_admission_is_a_500(caplog: pytest.LogCaptureFixture) -> None:
    """As in the application, but the body cannot be read any more."""

    def admit(head: Head, content_length: int | None) -> Response | None:
        raise ValueError("boom")

    answer = await exchange(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", admit=admit)
    assert statuses(answer) == [500]
    assert "request failed" in caplog.text


QUICK = 0.05


@pytest.mark.parametrize(
    ("data", "limits", "expected"),
    [
        (b"", Limits(1000, 8, header_timeout_s=QUICK), []),
        (b"GET / HT", Limits(1000, 8, header_timeout_s=QUICK), [408]),
        (POST + b"Content-Length: 5\r\n\r\nab", Limits(1000, 8, body_timeout_s=QUICK), [408]),
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", Limits(1000, 8, idle_timeout_s=QUICK), [200]),
    ],
    ids=["nothing", "half a head", "half a body", "idle"],
)
async def test_patience_ends(data: bytes, limits: Limits, expected: list[int]) -> None:
    """A client that stops, wherever it stops, does not keep its connection."""
    async with running(limits=limits) as server, connected(server) as wire:
        if data:
            await wire.send(data)
        assert statuses(await wire.rest()) == expected


async def test_a_head_that_comes_byte_by_byte_gains_no_time() -> None:
    """Slow loris: progress does not extend the head's deadline."""
    limits = Limits(1000, 8, header_timeout_s=QUICK)
    async with running(limits=limits) as server, connected(server) as wire:
        await wire.send(b"GET / HTTP/1.1\r\n")
        answer = asyncio.create_task(wire.rest())
        while not answer.done():
            try:
                await wire.send(b"X: y\r\n")
            except ConnectionError:
                break
            await asyncio.wait([answer], timeout=QUICK / 10)
        assert statuses(await answer) in ([408], [431])


async def test_a_body_that_trickles_is_cut_and_one_that_moves_is_not() -> None:
    """At least a kilobyte a body timeout."""
    limits = Limits(1 << 20, 8, body_timeout_s=QUICK)
    async with running(limits=limits) as server:
        async with connected(server) as wire:
            await wire.send(POST + b"Content-Length: 10240\r\n\r\n")
            connection = next(iter(server._connections))
            for _ in range(9):
                mark = connection._body_mark
                await wire.send(bytes(1024))
                while connection._body_mark == mark:  # Until the timer has seen the progress.
                    await asyncio.sleep(0)
            await wire.send(bytes(1024))
            assert (await wire.response())[0] == 200
        async with connected(server) as wire:
            await wire.send(POST + b"Content-Length: 10240\r\n\r\n" + bytes(1023))
            assert statuses(await wire.rest()) == [408]


async def test_a_client_that_does_not_read_is_cut_off() -> None:
    """An answer stuck in its buffers does not keep the connection for ever."""
    limits = Limits(1000, 8, body_timeout_s=QUICK)

    async def large(request: Request) -> Response:
        return Response(200, bytes(64 << 20))

    async with running(large, limits) as server:
        loop = asyncio.get_running_loop()
        with socket.socket() as client:
            client.settimeout(0)
            await loop.sock_connect(client, ("127.0.0.1", server.ports[0]))
            await loop.sock_sendall(client, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            async with asyncio.timeout(DEADLINE_S):
                while not server._connections:
                    await asyncio.sleep(0)
                await server._empty.wait()


async def test_large_answers_to_pipelined_requests_wait_for_the_reader() -> None:
    """The next request is not even looked at while the client has not read the last answer."""
    served = []

    async def large(request: Request) -> Response:
        served.append(request.path)
        return Response(200, bytes(8 << 20))

    async with running(large) as server, connected(server) as wire:
        await wire.send(b"GET /1 HTTP/1.1\r\nHost: x\r\n\r\nGET /2 HTTP/1.1\r\nHost: x\r\n\r\n")
        await wire.reader.readexactly(1)
        assert served == ["/1"]
        wire.reader._buffer[:0] = b"H"
        for _ in range(2):
            assert len((await wire.response())[2]) == 8 << 20
        assert served == ["/1", "/2"]


async def test_a_refused_client_that_goes_on_sending_still_gets_its_answer() -> None:
    """Closing on unread bytes would reset the connection and lose the 413."""
    async with running() as server, connected(server) as wire:
        await wire.send(POST + b"Content-Length: 4000000\r\n\r\n" + bytes(4_000_000))
        assert (await wire.response())[0] == 413
        assert await wire.rest() == b""


async def test_a_client_may_close_its_side_behind_the_last_request() -> None:
    """As `nc` does."""
    gate = asyncio.Event()

    async def gated(request: Request) -> Response:
        await gate.wait()
        return plain(200, request.path)

    async with running(gated) as server, connected(server) as wire:
        await wire.send(b"GET /1 HTTP/1.1\r\nHost: x\r\n\r\nGET /2 HTTP/1.1\r\nHost: x\r\n\r\n")
        wire.writer.write_eof()
        connection = await first_connection(server)
        while not connection._half_closed:
            await asyncio.sleep(0)
        gate.set()
        assert statuses(await wire.rest()) == [200, 200]


@pytest.mark.parametrize("rest", [b"GET /2 HT", POST + b"Content-Length: 9\r\n\r\nabc"])
async def test_what_is_cut_short_behind_a_request_is_refused(rest: bytes) -> None:
    """Also when the end came while the request was being answered."""
    gate = asyncio.Event()

    async def gated(request: Request) -> Response:
        await gate.wait()
        return plain(200, request.path)

    async with running(gated) as server, connected(server) as wire:
        await wire.send(b"GET /1 HTTP/1.1\r\nHost: x\r\n\r\n" + rest)
        wire.writer.write_eof()
        connection = await first_connection(server)
        while not connection._half_closed:
            await asyncio.sleep(0)
        gate.set()
        assert statuses(await wire.rest()) == [200, 400]


def test_each_body_of_a_connection_has_its_own_patience() -> None:
    """A slow second body is measured against itself, not against the large one before it."""

    async def slow_second() -> None:
        limits = Limits(1 << 20, 8, body_timeout_s=10.0)
        async with running(limits=limits) as server, connected(server) as wire:
            first = POST + b"Content-Length: 100000\r\n\r\n"
            second = POST + b"Content-Length: 10240\r\n\r\n"
            await wire.send(first + bytes(50_000))
            await asyncio.sleep(6.0)
            await wire.send(bytes(50_000) + second)
            assert (await wire.response())[0] == 200
            for _ in range(10):
                await asyncio.sleep(6.0)
                await wire.send(bytes(1024))
            assert (await wire.response())[0] == 200

    clock.run(slow_second())


async def test_a_client_far_ahead_lets_others_have_their_turn() -> None:
    """Hundreds of requests in one write are not answered in one go."""
    loop = asyncio.get_running_loop()
    answered, at_next_turn = [], []

    def at_once(request: Request) -> Response:
        if not answered:
            loop.call_soon(lambda: at_next_turn.append(len(answered)))
        answered.append(request.path)
        return plain(200, request.path)

    async with running(at_once) as server, connected(server) as wire:
        await wire.send(b"GET /g HTTP/1.1\r\nHost: x\r\n\r\n" * 500)
        for _ in range(500):
            assert (await wire.response())[2] == b"/g\n"
    assert at_next_turn == [4]


def test_a_turn_ends_with_the_time_that_requests_take() -> None:
    """Two of 30 ms are a turn, of all connections together, of servers that share it too."""

    async def busy() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, clock.FakeTimeLoop)
        served, rounds = list[str](), list[int]()

        def slow(request: Request) -> Response:
            if not served:
                loop.call_soon(another)
            served.append(request.path)
            loop.now_s += 0.03
            return plain(200, request.path)

        def another() -> None:
            rounds.append(len(served))
            if len(served) < 16:
                loop.call_soon(another)

        turns = Turns(loop.call_soon)
        async with AsyncExitStack() as stack:
            servers = [
                await stack.enter_async_context(running(slow, turns=turns)) for _ in range(2)
            ]
            wires = [await stack.enter_async_context(connected(servers[n % 2])) for n in range(4)]
            for number, wire in enumerate(wires):
                wire.writer.write(b"GET /%d HTTP/1.1\r\nHost: x\r\n\r\n" % number * 4)
            for number, wire in enumerate(wires):
                for _ in range(4):
                    assert (await wire.response())[2] == b"/%d\n" % number
        steps = [after - before for before, after in pairwise([0, *rounds])]
        assert max(steps) == 2
        assert sorted(served) == sorted([f"/{n}" for n in range(4)] * 4)

    clock.run(busy())


@asynccontextmanager
async def in_a_queue() -> AsyncIterator[tuple[Server, Wire]]:
    """A connection whose second request waits for its turn; in the end nothing may be held."""
    budget, slow = Budget(1 << 20), Slow()
    async with running(slow.respond, budget=budget) as server, connected(server) as wire:
        one = POST + b"Content-Length: 500\r\n\r\n" + bytes(500)
        await wire.send(one[:-1])
        connection = await first_connection(server)
        while not connection._reader.in_body:
            await asyncio.sleep(0)
        await wire.send(one[-1:] + one[:-1])
        while not slow.count:
            await asyncio.sleep(0)
        await wire.send(one[-1:])
        while connection._wait.name != "TURN":
            await asyncio.sleep(0)
        assert budget.in_flight == 500
        yield server, wire
        while server._connections:
            await asyncio.sleep(0)
        assert budget.in_flight == 0


def test_a_connection_may_be_cut_while_it_waits_for_its_turn() -> None:
    """Its place and its room are given back."""

    async def cut() -> None:
        async with in_a_queue() as (server, _):
            (connection,) = server._connections
            connection.abort()
        async with in_a_queue() as (server, _):
            await server.close(grace_s=0)

    clock.run(cut())


def test_what_waits_for_its_turn_is_answered_at_the_end_too() -> None:
    """Of the client, or of the server."""

    async def end() -> None:
        async with in_a_queue() as (_, wire):
            wire.writer.write_eof()
            assert statuses(await wire.rest()) == [200, 200]
        async with in_a_queue() as (server, wire):
            closing = asyncio.create_task(server.close(grace_s=DEADLINE_S))
            assert statuses(await wire.rest()) == [200, 200]
            await closing

    clock.run(end())


class Slow:
    """Takes a second for each request."""

    def __init__(self) -> None:
        self.count = 0

    def respond(self, request: Request) -> Response:
        self.count += 1
        asyncio.get_running_loop().now_s += 1.0
        return plain(200, "ok")


def test_a_body_has_a_minute() -> None:
    """However well it comes on."""

    async def slow() -> None:
        limits = Limits(1 << 20, 8, body_timeout_s=10.0, whole_body_timeout_s=60.0)
        async with running(limits=limits) as server, connected(server) as wire:
            loop = asyncio.get_running_loop()
            await wire.send(POST + b"Content-Length: 100000\r\n\r\n")
            answer = asyncio.create_task(wire.reader.read())
            started_s = loop.time()
            while not answer.done():
                await wire.send(bytes(1500))
                await asyncio.wait([answer], timeout=1.0)
            assert statuses(await answer) == [408]
            assert loop.time() - started_s == pytest.approx(60.0, abs=2.1)
            assert server.closed == {"stalled_body": 1}

    clock.run(slow())


@pytest.mark.parametrize("scarce", [True, False])
def test_where_room_is_scarce_the_slow_lose_theirs(*, scarce: bool) -> None:
    """A body that would take more than a hundred seconds goes first, after ten."""

    async def slow() -> None:
        limits = Limits(1 << 20, 8, body_timeout_s=10.0, whole_body_timeout_s=60.0)
        budget = Budget(1 << 20)
        async with running(limits=limits, budget=budget) as server, connected(server) as wire:
            if scarce:
                assert all(budget.grant(1 << 18) for _ in range(3))
            loop = asyncio.get_running_loop()
            await wire.send(POST + b"Content-Length: 100000\r\n\r\n")
            connection = await first_connection(server)
            while not connection._reader.in_body:
                await asyncio.sleep(0)
            await wire.send(bytes(9_000))
            answer = asyncio.create_task(wire.rest())
            started_s = loop.time()
            await asyncio.wait([answer], timeout=12.0)
            assert answer.done() == scarce
            if scarce:
                assert loop.time() - started_s < 11.0
                assert statuses(await answer) == [408]
            answer.cancel()

    clock.run(slow())


async def first_connection(server: Server):
    """The connection that `server` has taken."""
    async with asyncio.timeout(DEADLINE_S):
        while not server._connections:
            await asyncio.sleep(0)
    return next(iter(server._connections))


@pytest.mark.parametrize("reset", [True, False])
async def test_a_client_that_leaves_does_not_stop_its_request(reset: bool) -> None:
    """What was begun is finished: it may be a commit."""
    gate, finished = asyncio.Event(), asyncio.Event()

    async def gated(request: Request) -> Response:
        await gate.wait()
        finished.set()
        return plain(200, "ok")

    async with running(gated) as server:
        async with connected(server) as wire:
            await wire.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            connection = await first_connection(server)
            while connection._answering is None:
                await asyncio.sleep(0)
            if reset:
                linger = struct.pack("ii", 1, 0)
                client = wire.writer.get_extra_info("socket")
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            wire.writer.transport.abort()
        while not (connection._lost if reset else connection._half_closed):
            await asyncio.sleep(0)
        gate.set()
        async with asyncio.timeout(DEADLINE_S):
            await finished.wait()
            await server._empty.wait()


async def test_connections_beyond_the_limit_are_refused_until_one_leaves(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Where all have requests: with a 503 and one line in the log, however many come."""
    limits = Limits(1000, 2)
    gate, asked = asyncio.Event(), list[str]()

    async def gated(request: Request) -> Response:
        asked.append(request.path)
        await gate.wait()
        return plain(200, "ok")

    async with running(gated, limits=limits) as server:
        async with connected(server) as one, connected(server) as two:
            for wire in (one, two):
                await wire.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            async with asyncio.timeout(DEADLINE_S):
                while len(asked) < 2:
                    await asyncio.sleep(0)
            for _ in range(3):
                async with connected(server) as excess:
                    status, headers, _ = await excess.response()
                    assert (status, headers["connection"]) == (503, "close")
            gate.set()
            for wire in (one, two):
                assert (await wire.response())[0] == 200
        async with asyncio.timeout(DEADLINE_S):
            await server._empty.wait()
        async with connected(server) as wire:
            await wire.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await wire.response())[0] == 200
    assert caplog.text.count("too many connections") == 1
    assert server.closed == {}


async def test_the_longest_idle_makes_room(caplog: pytest.LogCaptureFixture) -> None:
    """Whoever has not asked for longest leaves; half a head, or a body, is not idle."""
    async with running(limits=Limits(1000, 3)) as server:
        async with connected(server) as busy, connected(server) as old, connected(server) as asking:
            await busy.send(POST + b"Content-Length: 3\r\n\r\na")
            for wire in (old, asking, old, asking):
                await wire.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                assert (await wire.response())[0] == 200
            async with asyncio.timeout(DEADLINE_S):
                while not any(c._reader.in_body for c in server._connections):
                    await asyncio.sleep(0)
            async with connected(server) as new:
                await new.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                assert (await new.response())[0] == 200
                assert await old.rest() == b""
                await asking.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                assert (await asking.response())[0] == 200
                await busy.send(b"bc")
                assert (await busy.response())[0] == 200
                assert len(server._connections) == 3
        assert server.closed == {"idle": 1}
    assert "too many" not in caplog.text


async def test_silent_connections_keep_nobody_out() -> None:
    """However many: each that comes takes the place of the one that came first."""
    async with running(limits=Limits(1000, 4)) as server, AsyncExitStack() as stack:
        silent = [await stack.enter_async_context(connected(server)) for _ in range(12)]
        for wire in silent[:8]:
            assert await wire.rest() == b""
        async with asyncio.timeout(DEADLINE_S):
            while len(server._connections) != 4:
                await asyncio.sleep(0)
        await silent[-1].send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await silent[-1].response())[0] == 200
        assert server.closed == {"idle": 8}


async def test_closing_lets_requests_end_and_cuts_idle_clients() -> None:
    """A graceful stop: the answer in progress is the connection's last."""
    gate = asyncio.Event()

    async def gated(request: Request) -> Response:
        await gate.wait()
        return plain(200, "ok")

    async with running(gated) as server, connected(server) as idle, connected(server) as busy:
        await busy.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        port = server.ports[0]
        async with asyncio.timeout(DEADLINE_S):
            while not any(c._answering for c in server._connections):
                await asyncio.sleep(0)
            while len(server._connections) < 2:
                await asyncio.sleep(0)
        closing = asyncio.create_task(server.close(grace_s=DEADLINE_S))
        assert await idle.rest() == b""
        with pytest.raises(ConnectionError):
            await asyncio.open_connection("127.0.0.1", port)
        gate.set()
        status, headers, _ = await busy.response()
        assert (status, headers["connection"]) == (200, "close")
        await closing


async def test_closing_waits_no_longer_than_its_grace(caplog: pytest.LogCaptureFixture) -> None:
    """A request that does not end is cancelled and its connection cut."""
    cancelled = asyncio.Event()

    async def stuck(request: Request) -> Response:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        return plain(200, "never")

    async with running(stuck) as server, connected(server) as wire:
        await wire.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        connection = await first_connection(server)
        while connection._answering is None:
            await asyncio.sleep(0)
        await server.close(grace_s=0)
        assert cancelled.is_set()
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await wire.response()
    assert "requests cut off at shutdown" in caplog.text


async def test_an_idle_connection_has_one_timer_and_no_more() -> None:
    """Many requests on one connection leave one timer behind, which does not repeat."""
    async with running() as server, connected(server) as wire:
        loop = asyncio.get_running_loop()
        before = len([t for t in loop._scheduled if not t.cancelled()])
        for _ in range(20):
            wire.writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            lines = await wire.reader.readuntil(b"\r\n\r\n")
            assert lines.startswith(b"HTTP/1.1 200")
            await wire.reader.readexactly(len(b"GET /? "))
        assert len([t for t in loop._scheduled if not t.cancelled()]) <= before + 1
