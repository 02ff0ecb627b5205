"""Listening sockets, and what they let in."""

import asyncio
import errno
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from edge_agent.transport import listen
from edge_agent.transport.http1 import Limits, Request, Response, plain, serve
from edge_agent.transport.listen import Acceptor, bind
from tests.fakes.certificates import Authority

TIMEOUT_S = 20.0


def has_ipv6() -> bool:
    """Whether this machine has an IPv6 loopback."""
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


async def test_localhost_means_both_families_on_one_port() -> None:
    """A client that asks for localhost may try either first."""
    listeners = await bind("localhost", 0)
    families = [listener.family for listener in listeners]
    assert families == [socket.AF_INET, *([socket.AF_INET6] if has_ipv6() else [])]
    assert len({listener.getsockname()[1] for listener in listeners}) == 1
    for listener in listeners:
        listener.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "ip6-localhost", "::"])
async def test_addresses_and_names_can_be_listened_on(host: str) -> None:
    """Names are looked up, addresses are not."""
    if ":" in host and not has_ipv6():
        pytest.skip("no IPv6 here")
    try:
        listeners = await bind(host, 0)
    except OSError:
        assert host == "ip6-localhost"  # Not every machine has that name.
        return
    assert listeners
    for listener in listeners:
        listener.close()


async def test_an_address_that_cannot_be_had_is_named() -> None:
    """With what the kernel said."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for host in ("127.0.0.1", "localhost"):
            with pytest.raises(OSError, match=f"127.0.0.1:{port}: Address already in use"):
                await bind(host, port)
    with pytest.raises(OSError, match=r"192\.0\.2\.1:0: Cannot assign"):
        await bind("192.0.2.1", 0)
    with pytest.raises(OSError, match=r"cannot listen on nosuch\.invalid: "):
        await bind("nosuch.invalid", 0)


async def test_a_port_that_only_one_family_got_is_given_back_and_another_tried(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Somebody may hold the same port of the other family."""
    real, asked = listen._bind_one, []

    def bind_one(family: socket.AddressFamily, host: str, port: int, *, alone: bool):
        asked.append(host)
        if len(asked) == 2:
            raise OSError(errno.EADDRINUSE, "Address already in use")
        return real(socket.AF_INET, "127.0.0.1", 0, alone=alone)

    monkeypatch.setattr(listen, "_bind_one", bind_one)
    for listener in await bind("localhost", 0):
        listener.close()
    assert asked == ["127.0.0.1", "::1", "127.0.0.1", "::1"]


async def test_a_family_this_machine_lacks_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Containers without IPv6 are common; without both there is nothing to listen on."""
    real = listen._bind_one
    lacking = {"::1"}

    def bind_one(family: socket.AddressFamily, host: str, port: int, *, alone: bool):
        if host in lacking:
            raise OSError(errno.EAFNOSUPPORT, "Address family not supported")
        return real(family, host, port, alone=alone)

    monkeypatch.setattr(listen, "_bind_one", bind_one)
    (listener,) = await bind("localhost", 0)
    listener.close()
    lacking.add("127.0.0.1")
    with pytest.raises(OSError, match="not supported"):
        await bind("localhost", 0)


class Counted(asyncio.Protocol):
    """Releases its place when it is lost."""

    acceptor: Acceptor

    def connection_lost(self, exc: Exception | None) -> None:
        self.acceptor.release(self)


@asynccontextmanager
async def accepting(
    listeners: list[socket.socket], tls: ssl.SSLContext | None = None, limit: int = 2
) -> AsyncIterator[Acceptor]:
    """An acceptor of `limit` connections."""
    acceptor = Acceptor(
        listeners,
        Counted,
        max_connections=limit,
        make_room=lambda: False,
        refusal=b"full",
        tls=tls,
        handshake_timeout_s=TIMEOUT_S,
    )
    Counted.acceptor = acceptor
    try:
        yield acceptor
    finally:
        await acceptor.close()


class Faulty(socket.socket):
    """A listening socket whose first accept() fails."""

    def __init__(self, fault: OSError) -> None:
        super().__init__()
        self.faults = [fault]
        self.settimeout(0)
        self.bind(("127.0.0.1", 0))
        self.listen()

    def accept(self):
        if self.faults:
            raise self.faults.pop()
        return super().accept()


@pytest.mark.parametrize(
    ("fault", "warned"),
    [
        (OSError(errno.EMFILE, "Too many open files"), 1),
        (ConnectionAbortedError(errno.ECONNABORTED, "aborted"), 0),
    ],
)
async def test_a_failing_accept_is_tried_again(
    fault: OSError,
    warned: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """After a pause where it would fail for the same reason at once: the loop must not spin."""
    monkeypatch.setattr(listen, "_ACCEPT_PAUSE_S", 0.01)
    listener = Faulty(fault)
    async with accepting([listener]) as acceptor:
        _, writer = await asyncio.open_connection("127.0.0.1", acceptor.ports[0])
        async with asyncio.timeout(TIMEOUT_S):
            while not acceptor._open:
                await asyncio.sleep(0)
        writer.close()
        await writer.wait_closed()
        async with asyncio.timeout(TIMEOUT_S):
            while acceptor._open:
                await asyncio.sleep(0)
    assert caplog.text.count("cannot accept connections") == warned


async def test_an_acceptor_closes_while_it_pauses() -> None:
    """Its timer goes with it."""
    listener = Faulty(OSError(errno.EMFILE, "Too many open files"))
    async with accepting([listener]) as acceptor:
        with socket.create_connection(("127.0.0.1", acceptor.ports[0])):
            async with asyncio.timeout(TIMEOUT_S):
                while not acceptor._pauses:
                    await asyncio.sleep(0)
            await acceptor.close()


@pytest.fixture
def tls(tmp_path: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Contexts of a server and of a client that trusts it."""
    authority = Authority(tmp_path)
    pair = authority.issue("server", "127.0.0.1")
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(pair.certificate, pair.key)
    return server, ssl.create_default_context(cafile=str(authority.certificate))


async def test_connections_count_during_their_handshake(
    tls: tuple[ssl.SSLContext, ssl.SSLContext],
) -> None:
    """Half-open handshakes are the cheapest way to fill a server; refused ones get no bytes."""
    async with accepting(await bind("127.0.0.1", 0), tls[0], limit=1) as acceptor:
        silent = await asyncio.open_connection("127.0.0.1", acceptor.ports[0])
        async with asyncio.timeout(TIMEOUT_S):
            while not acceptor._open:
                await asyncio.sleep(0)
        refused = await asyncio.open_connection("127.0.0.1", acceptor.ports[0])
        assert await refused[0].read() == b""
        silent[1].write(b"GET / HTTP/1.1\r\n\r\n")  # No handshake at all.
        async with asyncio.timeout(TIMEOUT_S):
            while acceptor._open:
                await asyncio.sleep(0)
        for _, writer in (silent, refused):
            writer.transport.abort()
        await asyncio.sleep(0)


async def test_closing_drops_handshakes(tls: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    """They carry no request yet."""
    async with accepting(await bind("127.0.0.1", 0), tls[0]) as acceptor:
        reader, writer = await asyncio.open_connection("127.0.0.1", acceptor.ports[0])
        async with asyncio.timeout(TIMEOUT_S):
            while not acceptor._open:
                await asyncio.sleep(0)
            await acceptor.close()
            assert await reader.read() == b""
            assert not acceptor._open
        writer.close()
        await writer.wait_closed()


async def test_a_tls_server_answers_refuses_and_stops(
    tls: tuple[ssl.SSLContext, ssl.SSLContext],
) -> None:
    """The HTTP server on top: a refusal closes without lingering, which TLS cannot."""

    async def respond(request: Request) -> Response:
        return plain(200, request.path)

    limits = Limits(max_body_bytes=10, max_connections=4)
    server = await serve(respond, host="127.0.0.1", port=0, limits=limits, tls=tls[0])
    for head, status in ((b"", b"200"), (b"Content-Length: 11\r\n", b"413")):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.ports[0], ssl=tls[1])
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n" + head + b"\r\n")
        assert (await reader.readuntil(b"\r\n\r\n")).split()[1] == status
        writer.close()
        await writer.wait_closed()
    await server.close(grace_s=TIMEOUT_S)
