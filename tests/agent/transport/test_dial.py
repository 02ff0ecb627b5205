"""Connections: names, families, TLS and proxies, against real sockets on loopback."""

import asyncio
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from edge_agent.settings import Endpoint
from edge_agent.transport import dial as dialling
from edge_agent.transport.dial import DialError, Proxy, Tls, dial
from tests.fakes.certificates import Authority, Pair
from tests.fakes.proxy import FakeProxy
from tests.fakes.raw_server import RawServer, forever

TIMEOUT_S = 20.0


async def connect(endpoint: Endpoint, **changes: object) -> asyncio.Transport:
    """A connection that is closed again."""
    options = {"tls": Tls(), "alpn": (), "proxy": None, "timeout_s": TIMEOUT_S} | changes
    transport, protocol = await dial(asyncio.Protocol, endpoint, **options)
    assert isinstance(protocol, asyncio.Protocol)
    transport.abort()
    await asyncio.sleep(0)
    return transport


@asynccontextmanager
async def tls_server(
    pair: Pair, *, alpn: tuple[str, ...] = (), client_ca: Path | None = None
) -> AsyncIterator[Endpoint]:
    """A TLS server on 127.0.0.1 that reads and says nothing."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, pair.key)
    if alpn:
        context.set_alpn_protocols(list(alpn))
    if client_ca is not None:
        context.maximum_version = ssl.TLSVersion.TLSv1_2  # Refused in the handshake, not later.
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(client_ca)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0, ssl=context)
    try:
        yield Endpoint("https", "127.0.0.1", server.sockets[0].getsockname()[1])
    finally:
        server.close()
        await server.wait_closed()


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """A certificate authority nobody else knows."""
    return Authority(tmp_path / "ca")


def unused_port() -> int:
    """A port on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_addresses_and_names_are_dialled(host: str) -> None:
    """A name may stand for families of which only one answers."""
    async with RawServer(forever) as server:
        await connect(Endpoint("http", host, server.endpoint.port))
        assert server.connections == 1


async def test_a_half_open_link_is_noticed() -> None:
    """Keep-alive probes and a limit for unacknowledged bytes; no delay for small writes."""
    async with RawServer(forever) as server:
        options = {"tls": Tls(), "alpn": (), "proxy": None, "timeout_s": TIMEOUT_S}
        transport, _ = await dial(asyncio.Protocol, server.endpoint, **options)
        connection = transport.get_extra_info("socket")
        assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
        assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 30_000
        transport.abort()


async def test_nobody_listening_is_an_error_with_its_cause() -> None:
    """The endpoint and what the kernel said."""
    port = unused_port()
    with pytest.raises(DialError, match=f"^127.0.0.1:{port}: Connection refused$"):
        await connect(Endpoint("http", "127.0.0.1", port))


@pytest.mark.parametrize("host", ["nosuchhost.invalid", "a" * 64 + ".example", "x..y"])
async def test_a_name_that_does_not_resolve_is_an_error_with_the_name(host: str) -> None:
    """Unknown, and such as cannot be a name."""
    with pytest.raises(DialError, match="^" + host.replace(".", r"\.") + ":1: .*"):
        await connect(Endpoint("http", host, 1))


async def test_silence_ends_with_the_timeout() -> None:
    """A TLS handshake that nobody answers."""
    async with RawServer(forever) as server:
        endpoint = Endpoint("https", "127.0.0.1", server.endpoint.port)
        with pytest.raises(DialError, match=r"no connection within 0\.05 s"):
            await connect(endpoint, timeout_s=0.05)


async def test_a_server_without_tls_is_an_error_of_tls() -> None:
    """A wrong scheme must be recognisable."""

    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async def closing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(65536)

    for talk in (plain, closing):
        async with RawServer(talk) as server:
            endpoint = Endpoint("https", "127.0.0.1", server.endpoint.port)
            with pytest.raises(DialError, match="TLS: "):
                await connect(endpoint)


async def test_a_private_authority_is_trusted_and_alpn_agreed(authority: Authority) -> None:
    """`collector.certificate`."""
    async with tls_server(authority.issue("server", "127.0.0.1"), alpn=("h2",)) as endpoint:
        transport = await connect(
            endpoint, tls=Tls(str(authority.certificate)), alpn=("h2", "http/1.1")
        )
        assert transport.get_extra_info("ssl_object").selected_alpn_protocol() == "h2"


async def test_an_untrusted_certificate_is_refused(authority: Authority, tmp_path: Path) -> None:
    """By the system's roots, by another authority, for another name, past its time."""
    other = Authority(tmp_path / "other")
    trusted = Tls(str(authority.certificate))
    cases = [
        (authority.issue("a", "127.0.0.1"), Tls(), "certificate not trusted"),
        (authority.issue("b", "127.0.0.1"), Tls(str(other.certificate)), "not trusted"),
        (authority.issue("c", "other.example"), trusted, "not trusted: .*mismatch"),
        (authority.issue("d", "127.0.0.1", expired=True), trusted, "not trusted: .*expired"),
    ]
    for pair, tls, cause in cases:
        async with tls_server(pair) as endpoint:
            with pytest.raises(DialError, match=f"TLS: .*{cause}"):
                await connect(endpoint, tls=tls)


async def test_certificates_are_read_anew_for_every_connection(authority: Authority) -> None:
    """Renewed files need no restart."""
    stale = authority.issue("client", expired=True)
    tls = Tls(str(authority.certificate), str(stale.certificate), str(stale.key))
    server = authority.issue("server", "127.0.0.1")
    async with tls_server(server, client_ca=authority.certificate) as endpoint:
        with pytest.raises(DialError):
            await connect(endpoint, tls=tls)
        authority.issue("client")  # Over the old files.
        await connect(endpoint, tls=tls)


async def test_files_that_cannot_be_used_are_named(authority: Authority, tmp_path: Path) -> None:
    """Missing, empty, garbage, or a key that belongs to another certificate."""
    garbage = tmp_path / "garbage.pem"
    garbage.write_text("-----BEGIN CERTIFICATE-----\nnot base64\n")
    pair, other = authority.issue("one"), authority.issue("two")
    endpoint = Endpoint("https", "127.0.0.1", unused_port())
    cases = [
        (Tls("/nowhere/ca.pem"), "certificate /nowhere/ca.pem: No such file"),
        (Tls(str(garbage)), f"certificate {garbage}: not usable PEM"),
        (Tls(None, "/nowhere/c.pem", "/nowhere/k.pem"), "/nowhere/c.pem and /nowhere/k.pem: No su"),
        (Tls(None, str(pair.certificate), str(other.key)), f"{other.key}: not usable PEM"),
        (Tls(None, str(pair.certificate), None), f"{pair.certificate}: not usable PEM"),
    ]
    for tls, message in cases:
        with pytest.raises(DialError, match=message):
            await connect(endpoint, tls=tls)


async def test_a_proxy_tunnels_plaintext_and_tls(authority: Authority) -> None:
    """CONNECT names the peer, whose certificate is still checked."""
    async with FakeProxy(authorization="Basic eDp5") as fake:
        proxy = Proxy(fake.host, fake.port, "Basic eDp5")
        async with RawServer(forever) as server:
            await connect(server.endpoint, proxy=proxy)
        async with tls_server(authority.issue("server", "127.0.0.1")) as endpoint:
            await connect(endpoint, proxy=proxy, tls=Tls(str(authority.certificate)))
        assert fake.asked == [server.endpoint.authority, endpoint.authority]


async def test_a_proxy_that_refuses_is_named_with_its_answer() -> None:
    """Of the two machines, the one to look at."""
    async with FakeProxy(refusal="403 Not\x07 this one") as fake:
        message = f"^peer.example:443 through proxy {fake.host}:{fake.port}: the proxy answered 403"
        with pytest.raises(DialError, match=f"{message} Not this one$"):
            await connect(Endpoint("https", "peer.example", 443), proxy=Proxy(fake.host, fake.port))


@pytest.mark.parametrize(
    ("answer", "cause"),
    [
        (b"", "the proxy closed the connection"),
        (b"HTTP/1.1 200", "the proxy closed the connection"),
        (b"SSH-2.0-x\r\n\r\n", "not HTTP"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 9000, "longer than 8192 bytes"),
    ],
)
async def test_a_proxy_that_talks_nonsense_is_an_error(answer: bytes, cause: str) -> None:
    """Bounded, whatever it sends."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()

    async with RawServer(talk) as server:
        proxy = Proxy("127.0.0.1", server.endpoint.port)
        with pytest.raises(DialError, match=cause):
            await connect(Endpoint("http", "peer.example", 80), proxy=proxy)


async def test_bytes_behind_the_proxys_answer_belong_to_the_peer() -> None:
    """An HTTP/2 server may speak first."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nearly")
        await writer.drain()
        await reader.read()

    class Reading(asyncio.Protocol):
        def __init__(self) -> None:
            self.first = asyncio.get_running_loop().create_future()

        def data_received(self, data: bytes) -> None:
            self.first.set_result(data)

    async with RawServer(talk) as server:
        proxy = Proxy("127.0.0.1", server.endpoint.port)
        options = {"tls": Tls(), "alpn": (), "proxy": proxy, "timeout_s": TIMEOUT_S}
        transport, protocol = await dial(Reading, Endpoint("http", "peer", 80), **options)
        assert await asyncio.wait_for(protocol.first, TIMEOUT_S) == b"early"
        transport.abort()


# ---- several addresses ----


def addresses(*hosts: tuple[str, int]) -> list[dialling._Address]:
    """What a resolver would return."""
    return [
        (socket.AF_INET6, (host, port, 0, 0)) if ":" in host else (socket.AF_INET, (host, port))
        for host, port in hosts
    ]


def test_families_take_turns_beginning_with_the_preferred() -> None:
    """RFC 8305, 4."""
    six, four = [(f"2001:db8::{n}", 1) for n in range(3)], [(f"192.0.2.{n}", 1) for n in range(2)]
    turns = dialling._interleaved(addresses(*six, *four))
    assert turns == addresses(six[0], four[0], six[1], four[1], six[2])


async def test_a_refusing_address_gives_way_at_once() -> None:
    """And the connection is to the one that answers."""
    async with RawServer(forever) as server:
        good = ("127.0.0.1", server.endpoint.port)
        won = await dialling._race(addresses(("127.0.0.1", unused_port()), good))
        assert won.getpeername() == good
        won.close()


async def test_a_silent_address_gets_company(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next is tried beside it after a moment; whoever stands first wins."""
    monkeypatch.setattr(dialling, "_ATTEMPT_DELAY_S", 0.01)
    with socket.socket() as full:
        # A listener whose backlog is full does not answer: Linux drops the SYN.
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        silent = full.getsockname()
        fillers = [socket.socket() for _ in range(3)]
        for filler in fillers:
            filler.settimeout(0)
            filler.connect_ex(silent)
        async with RawServer(forever) as server:
            good = ("127.0.0.1", server.endpoint.port)
            won = await dialling._race(addresses(silent, good))
            assert won.getpeername() == good
            won.close()
        racing = asyncio.create_task(dialling._race(addresses(silent)))
        await asyncio.wait([racing], timeout=0)
        racing.cancel()  # Whoever gives up leaves no socket behind: warnings are errors here.
        with pytest.raises(asyncio.CancelledError):
            await racing
        for filler in fillers:
            filler.close()


async def test_when_none_answers_the_first_error_is_told() -> None:
    """The preferred address is the one to look at."""
    with pytest.raises(ConnectionRefusedError):
        await dialling._race(addresses(("127.0.0.1", unused_port()), ("127.0.0.1", unused_port())))


# ---- threads ----


@pytest.fixture(autouse=True)
def every_look_up_ends() -> Iterator[None]:
    """No thread of one test is counted in the next."""
    yield
    for thread in threading.enumerate():
        if thread.name == "dial":
            thread.join(TIMEOUT_S)


async def test_a_look_up_that_hangs_is_left_behind() -> None:
    """The dial ends with its timeout; the thread ends when it will, and nobody waits."""
    gate = threading.Event()
    stuck = asyncio.create_task(dialling._in_thread(gate.wait))
    await asyncio.wait([stuck], timeout=0)
    stuck.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stuck
    gate.set()
    assert await dialling._in_thread(lambda: 7) == 7


async def test_no_more_than_sixteen_look_ups_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dead resolver must not cost a thread a dial for ever."""
    monkeypatch.setattr(dialling, "_free_threads", threading.BoundedSemaphore(1))
    gate = threading.Event()
    stuck = asyncio.create_task(dialling._in_thread(gate.wait))
    await asyncio.wait([stuck], timeout=0)
    with pytest.raises(DialError, match="the resolver does not answer"):
        await connect(Endpoint("http", "some.example", 1))
    gate.set()
    await stuck


def test_a_loop_that_ended_first_is_no_error() -> None:
    """At exit, with a look-up still out."""
    gate = threading.Event()

    async def leave() -> None:
        task = asyncio.create_task(dialling._in_thread(gate.wait))
        await asyncio.wait([task], timeout=0)

    asyncio.run(leave())
    thread = next(t for t in threading.enumerate() if t.name == "dial")
    gate.set()
    thread.join(TIMEOUT_S)
    assert not thread.is_alive()
