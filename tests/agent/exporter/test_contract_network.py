"""The way to the collector: TLS, certificates that change, proxies, names that move."""

import base64
import socket
import ssl
from pathlib import Path
from typing import Any

import pytest

from edge_agent.exporter.retry import Delivered, Denied, Retry
from edge_agent.otlp.signal import Signal
from edge_agent.settings import Endpoint
from edge_agent.transport.dial import Proxy, Tls
from tests.agent.exporter.contract import (
    BODY,
    KINDS,
    OpenClient,
    new_collector,
    server_context,
    until_outcome,
)
from tests.fakes.certificates import Authority
from tests.fakes.collector import ServerTls
from tests.fakes.http2_server import Http2Server
from tests.fakes.proxy import FakeProxy

LOOPBACK = ("localhost", "127.0.0.1", "::1")


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """The authority that the collector's certificate is from."""
    return Authority(tmp_path / "authority")


@pytest.mark.parametrize("kind", KINDS)
async def test_a_certificate_from_the_configured_authority_is_trusted(
    kind: str, authority: Authority, open_client: OpenClient
) -> None:
    """OTEL_EXPORTER_OTLP_CERTIFICATE names a CA file."""
    tls = ServerTls(authority.issue("collector", *LOOPBACK))
    async with new_collector(kind, tls=tls) as collector:
        client = open_client(kind, collector.endpoint, tls=Tls(str(authority.certificate)))
        assert isinstance(await client.export(Signal.METRICS, BODY), Delivered)
        assert collector.received[0].body == BODY
        await client.close()


@pytest.mark.parametrize("kind", KINDS)
async def test_without_a_file_the_systems_roots_are_trusted(
    kind: str, authority: Authority, open_client: OpenClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found where OpenSSL finds them, SSL_CERT_FILE included."""
    tls = ServerTls(authority.issue("collector", *LOOPBACK))
    async with new_collector(kind, tls=tls) as collector:
        stranger = open_client(kind, collector.endpoint)
        assert isinstance(await stranger.export(Signal.METRICS, BODY), Retry)
        monkeypatch.setenv("SSL_CERT_FILE", str(authority.certificate))
        client = open_client(kind, collector.endpoint)
        assert isinstance(await client.export(Signal.METRICS, BODY), Delivered)
        await client.close()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fault", ["authority", "expired", "name"])
async def test_a_certificate_that_cannot_be_trusted_costs_a_retry(
    kind: str, fault: str, authority: Authority, tmp_path: Path, open_client: OpenClient
) -> None:
    """No data leaves; the reason says what is wrong, and the queue keeps what it has."""
    names = ("elsewhere.example",) if fault == "name" else LOOPBACK
    pair = authority.issue("collector", *names, expired=fault == "expired")
    trusted = Authority(tmp_path / "other", "other") if fault == "authority" else authority
    async with new_collector(kind, tls=ServerTls(pair)) as collector:
        client = open_client(kind, collector.endpoint, tls=Tls(str(trusted.certificate)))
        outcome = await client.export(Signal.METRICS, BODY)
        assert collector.received == []
    assert isinstance(outcome, Retry)
    if kind != "grpcio":
        assert "certificate" in outcome.reason


@pytest.mark.parametrize("kind", KINDS)
async def test_a_client_certificate_is_shown_where_the_collector_wants_one(
    kind: str, authority: Authority, open_client: OpenClient
) -> None:
    """Mutual TLS; without the certificate it is a retry."""
    tls = ServerTls(authority.issue("collector", *LOOPBACK), client_ca=authority.certificate)
    mine = authority.issue("device")
    async with new_collector(kind, tls=tls) as collector:
        bare = open_client(kind, collector.endpoint, tls=Tls(str(authority.certificate)))
        assert isinstance(await bare.export(Signal.METRICS, BODY), Retry)
        assert collector.received == []
        files = Tls(str(authority.certificate), str(mine.certificate), str(mine.key))
        client = open_client(kind, collector.endpoint, tls=files)
        assert isinstance(await client.export(Signal.METRICS, BODY), Delivered)
        await client.close()


@pytest.mark.parametrize("kind", KINDS)
async def test_renewed_certificates_are_read_without_a_restart(
    kind: str, authority: Authority, tmp_path: Path, open_client: OpenClient
) -> None:
    """Files are read again for every new connection, so that a renewal by another program works."""
    tls = ServerTls(authority.issue("collector", *LOOPBACK), client_ca=authority.certificate)
    mine = Authority(tmp_path / "former", "former").issue("device")
    files = Tls(str(authority.certificate), str(mine.certificate), str(mine.key))
    async with new_collector(kind, tls=tls) as collector:
        client = open_client(kind, collector.endpoint, tls=files)
        assert isinstance(await client.export(Signal.METRICS, BODY), Retry)
        renewed = authority.issue("device")
        # Replaced, as renewal programs do.
        renewed.key.replace(mine.key)
        renewed.certificate.replace(mine.certificate)
        await until_outcome(lambda: client.export(Signal.METRICS, BODY), Delivered)
        await client.close()


@pytest.mark.parametrize("kind", KINDS)
async def test_an_unreadable_certificate_costs_a_retry(
    kind: str, authority: Authority, tmp_path: Path, open_client: OpenClient
) -> None:
    """A file may be missing for the moment in which it is renewed."""
    tls = ServerTls(authority.issue("collector", *LOOPBACK))
    missing = tmp_path / "ca.pem"
    async with new_collector(kind, tls=tls) as collector:
        client = open_client(kind, collector.endpoint, tls=Tls(str(missing)))
        assert isinstance(await client.export(Signal.METRICS, BODY), Retry)
        missing.write_bytes(authority.certificate.read_bytes())
        await until_outcome(lambda: client.export(Signal.METRICS, BODY), Delivered)
        await client.close()


async def test_a_tls_server_without_http2_costs_a_retry(
    authority: Authority, open_client: OpenClient
) -> None:
    """ALPN settles the protocol: a web server on that port is found before data is sent."""
    context: ssl.SSLContext = server_context(ServerTls(authority.issue("c", *LOOPBACK)), "http/1.1")
    async with Http2Server(tls=context) as server:
        client = open_client("builtin", server.endpoint, tls=Tls(str(authority.certificate)))
        outcome = await client.export(Signal.METRICS, BODY)
        assert server.received == []
    assert isinstance(outcome, Retry)
    assert "HTTP/2" in outcome.reason


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("secure", [False, True])
async def test_a_proxy_is_asked_for_a_tunnel(
    kind: str, *, secure: bool, authority: Authority, open_client: OpenClient
) -> None:
    """CONNECT with the collector's host and port, and credentials where the proxy wants them."""
    tls = ServerTls(authority.issue("collector", *LOOPBACK)) if secure else None
    basic = "Basic " + base64.b64encode(b"edge:p@ss word").decode()
    async with (
        FakeProxy(authorization=basic) as proxy,
        new_collector(kind, tls=tls) as collector,
    ):
        settings: dict[str, Any] = {"tls": Tls(str(authority.certificate))}
        through = Proxy(proxy.host, proxy.port, basic)
        client = open_client(
            kind, collector.endpoint, environ_proxy=lambda _endpoint: through, **settings
        )
        assert isinstance(await client.export(Signal.METRICS, BODY), Delivered)
        assert proxy.asked == [collector.endpoint.authority]
        await client.close()


@pytest.mark.parametrize("kind", KINDS)
async def test_a_proxy_that_refuses_never_costs_data(kind: str, open_client: OpenClient) -> None:
    """Wrong credentials, or a destination it does not allow: 407 and 403 are no verdict on data."""
    async with (
        FakeProxy(authorization="Basic eDp5") as strict,
        FakeProxy(refusal="403 Forbidden") as closed,
        new_collector(kind) as collector,
    ):
        for proxy in (strict, closed):
            through = Proxy(proxy.host, proxy.port, None)
            client = open_client(
                kind, collector.endpoint, environ_proxy=lambda _endpoint, p=through: p
            )
            assert isinstance(await client.export(Signal.METRICS, BODY), Retry | Denied)
            assert proxy.asked != []
        assert collector.received == []


@pytest.mark.parametrize("kind", ["builtin", "http"])
async def test_a_name_that_has_moved_is_followed(
    kind: str, open_client: OpenClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names are resolved for every connection. (grpcio resolves in C, where no test reaches.)"""
    address = "127.0.0.1"
    resolve = socket.getaddrinfo

    def moving(host: Any, *args: Any, **options: Any) -> Any:
        if host == "collector.test" and not options.get("flags"):
            host = address
        return resolve(host, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", moving)
    async with new_collector(kind) as before:
        port = before.endpoint.port
        client = open_client(kind, Endpoint("http", "collector.test", port, "/v1/metrics"))
        assert isinstance(await client.export(Signal.METRICS, BODY), Delivered)
        assert len(before.received) == 1
    address = "127.0.0.2"
    async with new_collector(kind, host="127.0.0.2", port=port) as after:
        await until_outcome(lambda: client.export(Signal.METRICS, BODY), Delivered)
        assert len(after.received) == 1


@pytest.mark.parametrize("kind", KINDS)
async def test_a_name_that_does_not_resolve_costs_a_retry(
    kind: str, open_client: OpenClient
) -> None:
    """`.invalid` never does (RFC 2606)."""
    client = open_client(kind, Endpoint("http", "collector.invalid", 4317, "/v1/metrics"))
    outcome = await client.export(Signal.METRICS, BODY)
    assert isinstance(outcome, Retry)
    assert "collector.invalid" in outcome.reason
