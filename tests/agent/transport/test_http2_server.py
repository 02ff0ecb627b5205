"""The server of gRPC calls on real sockets: where it listens, whom it lets in, how it ends."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import grpc.aio
import pytest

from edge_agent.transport.budget import Budget
from edge_agent.transport.grpc import Headers, message_prefix
from edge_agent.transport.http2_server import Limits, Reply, Server, serve
from edge_agent.transport.server_tls import PemFile, server_context
from tests.agent.receiver.servers import DEADLINE_S, connected
from tests.fakes import attacks
from tests.fakes.certificates import Authority, Pair

HEADERS: Headers = ((b":status", b"200"), (b"content-type", b"application/grpc"))
ECHO = "/test/Echo"


class Echo:
    """Answers with what it is sent."""

    def __init__(self) -> None:
        self.calls = 0

    def begin(self, headers: Headers) -> str:
        self.calls += 1
        return "echo"

    def message(self, head: str, data: bytes) -> Reply:
        return Reply(HEADERS, data, ((b"grpc-status", b"0"),))

    def refuse_size(self, size: int) -> Reply | None:
        return None

    def refuse_load(self) -> Reply:
        return Reply((*HEADERS, (b"grpc-status", b"14")))

    refuse_stall = refuse_load


@asynccontextmanager
async def serving(
    host: str = "127.0.0.1", *, tls: ssl.SSLContext | None = None, limits: Limits | None = None
) -> AsyncIterator[Server[str]]:
    """A server on a free port, in the end closed."""
    budget = Budget(32 << 20)
    limits = limits or Limits()
    server = await serve(Echo(), budget, host=host, port=0, tls=tls, limits=limits)
    try:
        yield server
    finally:
        await server.close(0.0)
        assert budget.in_flight == 0


async def echo(target: str, body: bytes = b"hello", **options: object) -> bytes:
    """One call of grpcio's client on a connection of its own."""
    credentials = options.pop("credentials", None)
    settings = [("grpc.use_local_subchannel_pool", 1), *options.items()]
    channel = (
        grpc.aio.insecure_channel(target, settings)
        if credentials is None
        else grpc.aio.secure_channel(target, credentials, settings)
    )
    async with channel:
        answer: bytes = await channel.unary_unary(ECHO)(body, timeout=DEADLINE_S)
        return answer


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Who issues the certificates."""
    return Authority(tmp_path_factory.mktemp("ca"))


def tls_of(pair: Pair, client_ca: Path | None = None) -> ssl.SSLContext:
    """The receiver's own TLS."""
    files = (pair.certificate, pair.key, client_ca)
    context = server_context(
        *(PemFile("x", None if path is None else str(path)) for path in files), alpn=("h2",)
    )
    assert context is not None
    return context


async def test_localhost_is_both_families_on_one_port() -> None:
    """Apps that resolve it to either find us."""
    async with serving("localhost") as server:
        assert len(set(server.ports)) == 1
        for host in ("127.0.0.1", "[::1]"):
            assert await echo(f"{host}:{server.ports[0]}") == b"hello"


async def test_a_taken_port_is_named() -> None:
    """For the message that the user sees."""
    async with serving() as server:
        with pytest.raises(OSError, match=f"127.0.0.1:{server.ports[0]}"):
            await serve(Echo(), Budget(1), host="127.0.0.1", port=server.ports[0], limits=Limits())


async def test_large_answers_pass_too() -> None:
    """In as many frames as the client lets in."""
    async with serving() as server:
        body = bytes(range(256)) * 8000
        assert await echo(f"127.0.0.1:{server.ports[0]}", body) == body
        assert server.closed == {}


async def test_only_so_many_connections_are_let_in() -> None:
    """Where all have calls: the next is closed at once, and let in when one has left."""
    async with serving(limits=Limits(max_connections=2)) as server:
        port = server.ports[0]
        async with connected(port) as first, connected(port) as second:
            for wire in (first, second):
                await wire.send(attacks.HELLO + attacks.open_call(10))
                await heard(wire.reader, b"\0\0\0\x04\x01\0\0\0\0")
            async with connected(port) as third:
                assert await third.closed()
            assert server.closed == {}
            first.writer.transport.abort()
            async with asyncio.timeout(DEADLINE_S):
                while len(server._connections) > 1:
                    await asyncio.sleep(0)
            async with connected(port) as fourth:
                await fourth.send(attacks.HELLO)
                assert await fourth.reader.read(9)


@pytest.mark.parametrize("tls", [False, True])
async def test_the_longest_idle_makes_room(authority: Authority, *, tls: bool) -> None:
    """Whoever has not called for longest is told so and leaves; PING is no call."""
    context = tls_of(authority.issue("localhost")) if tls else None
    client = ssl.create_default_context(cafile=str(authority.certificate)) if tls else None
    if client is not None:
        client.set_alpn_protocols(["h2"])
    async with serving(limits=Limits(max_connections=2), tls=context) as server:
        port = server.ports[0]
        async with connected(port, client) as old, connected(port, client) as calling:
            one = attacks.frame(1, 4, 1, attacks.CALL) + attacks.frame(0, 1, 1, bytes(5))
            for wire in (old, calling):
                await wire.send(attacks.HELLO + one)
                await heard(wire.reader, b"\x01\x05\0\0\0\x01")
            await old.send(attacks.frame(6, 0, 0, b"12345678"))
            await heard(old.reader, b"12345678")
            async with connected(port, client) as new:
                await new.send(attacks.HELLO)
                await heard(new.reader, b"\0\0\0\x04\x01\0\0\0\0")
                async with asyncio.timeout(DEADLINE_S):
                    assert (await old.reader.read()).endswith(b"idle")
                await calling.send(attacks.frame(6, 0, 0, b"abcdefgh"))
                await heard(calling.reader, b"abcdefgh")
            assert server.closed == {"idle": 1}


async def test_silent_connections_keep_nobody_out() -> None:
    """They have not even introduced themselves."""
    async with serving(limits=Limits(max_connections=4)) as server:
        async with attacks.holding(server.ports[0], 12, b""):
            assert await echo(f"127.0.0.1:{server.ports[0]}") == b"hello"
            assert len(server._connections) == 4
        assert server.closed["idle"] >= 8


async def test_http1_gets_a_clean_end() -> None:
    """An answer, then the end of the connection, and no reset."""
    async with serving() as server, connected(server.ports[0]) as wire:
        await wire.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        async with asyncio.timeout(DEADLINE_S):
            heard = await wire.reader.read()
        assert heard.startswith(b"HTTP/1.1 400 ")
        assert b"4318" in heard
        assert server.closed == {"not_http2": 1}


async def test_tls_speaks_h2(authority: Authority) -> None:
    """ALPN, as gRPC wants it; with a client CA only its clients get in."""
    pair = authority.issue("localhost")
    trusted = authority.certificate.read_bytes()
    async with serving(tls=tls_of(pair)) as server:
        target = f"localhost:{server.ports[0]}"
        known = grpc.ssl_channel_credentials(trusted)
        assert await echo(target, credentials=known) == b"hello"
        client = ssl.create_default_context(cafile=str(authority.certificate))
        client.set_alpn_protocols(["h2", "http/1.1"])
        async with connected(server.ports[0], client) as wire:
            chosen = wire.writer.get_extra_info("ssl_object").selected_alpn_protocol()
            assert chosen == "h2"
            await wire.send(b"GET / HTTP/1.1\r\n\r\n")
            assert (await wire.reader.read()).startswith(b"HTTP/1.1 400 ")
    mine = authority.issue("client")
    async with serving(tls=tls_of(pair, authority.certificate)) as server:
        target = f"localhost:{server.ports[0]}"
        proven = grpc.ssl_channel_credentials(
            trusted, mine.key.read_bytes(), mine.certificate.read_bytes()
        )
        assert await echo(target, credentials=proven) == b"hello"
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await echo(target, credentials=known)
        assert failure.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_closing_lets_calls_finish_that_have_begun() -> None:
    """GOAWAY, the rest of the call, its answer, the end."""
    async with serving() as server, connected(server.ports[0]) as wire:
        await wire.send(attacks.HELLO + attacks.open_call(10))
        await heard(wire.reader, b"\0\0\0\x04\x01\0\0\0\0")  # Our SETTINGS are acknowledged.
        closing = asyncio.create_task(server.close(DEADLINE_S))
        await heard(wire.reader, b"\x07\0\0\0\0\0")
        assert not closing.done()
        await wire.send(attacks.frame(0, 1, 1, b"0123456789"))
        async with asyncio.timeout(DEADLINE_S):
            rest = await wire.reader.read()
        assert message_prefix(10, compressed=False) + b"0123456789" in rest
        await closing


async def test_closing_waits_no_longer_than_it_is_told() -> None:
    """What has not come by then is cut."""
    async with serving() as server, connected(server.ports[0]) as wire:
        await wire.send(attacks.HELLO + attacks.open_call(10))
        await heard(wire.reader, b"\0\0\0\x04\x01\0\0\0\0")
        await server.close(0.01)
        assert await ended(wire.reader)


async def test_nobody_gets_in_any_more_after_closing() -> None:
    """The sockets are gone, also for those in a handshake."""
    async with serving() as server:
        port = server.ports[0]
        await server.close(0.0)
        with pytest.raises(ConnectionRefusedError), socket.socket() as late:
            late.connect(("127.0.0.1", port))


async def heard(reader: asyncio.StreamReader, words: bytes) -> None:
    """Read until `words` have come."""
    async with asyncio.timeout(DEADLINE_S):
        await reader.readuntil(words)


async def ended(reader: asyncio.StreamReader) -> bool:
    """Read to the end, however it comes."""
    async with asyncio.timeout(DEADLINE_S):
        try:
            await reader.read()
        except ConnectionError:
            return True
        return reader.at_eof()
