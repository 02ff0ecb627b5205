"""What the grpcio client sets up by itself, where the contract suite cannot look."""

import asyncio
import base64
from pathlib import Path

import pytest

from edge_agent.exporter import grpcio_client
from edge_agent.exporter.retry import Delivered, Retry
from edge_agent.otlp.signal import Signal
from edge_agent.settings import Endpoint
from edge_agent.transport.dial import Proxy, Tls
from tests.agent.exporter.contract import BODY, OpenClient
from tests.fakes.certificates import Authority
from tests.fakes.collector import Answer, FakeCollector, ServerTls


@pytest.mark.parametrize(
    ("authorization", "url"),
    [
        (None, "http://[::1]:3128"),
        (b"edge:secret", "http://edge:secret@[::1]:3128"),
        (b"e dge:p@ss:w/\xc3\xbc", "http://e%20dge:p%40ss%3Aw%2F%C3%BC@[::1]:3128"),
    ],
)
def test_a_proxys_credentials_become_part_of_its_url(authorization: bytes | None, url: str) -> None:
    """grpc-core takes them there alone."""
    basic = None if authorization is None else f"Basic {base64.b64encode(authorization).decode()}"
    assert grpcio_client._proxy_url(Proxy("::1", 3128, basic)) == url


def test_targets_are_written_as_grpc_reads_them() -> None:
    """Names are resolved by DNS, sockets by path."""
    assert grpcio_client._target(Endpoint("http", "::1", 4317)) == "dns:///[::1]:4317"
    assert grpcio_client._target(Endpoint("unix", "", 0, "/run/o.sock")) == "unix:/run/o.sock"


def test_without_any_file_of_roots_grpcio_uses_its_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A machine without CA certificates."""
    monkeypatch.setattr(grpcio_client, "_ROOT_FILES", (str(tmp_path / "none.pem"),))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none.pem"))
    assert grpcio_client._system_roots() is None


async def test_renewed_certificates_do_not_disturb_a_call_in_flight(
    tmp_path: Path, open_client: OpenClient
) -> None:
    """It finishes on its channel; the next one opens another, and close ends both."""
    authority = Authority(tmp_path / "authority")
    tls = ServerTls(authority.issue("collector", "127.0.0.1"), client_ca=authority.certificate)
    mine = authority.issue("device")
    files = Tls(str(authority.certificate), str(mine.certificate), str(mine.key))
    go_on, never = asyncio.Event(), asyncio.Event()
    answers = [Answer(after=go_on), Answer(), Answer(after=never)]
    async with FakeCollector(answers, tls=tls) as collector:
        client = open_client("grpcio", collector.endpoint, tls=files)
        first = asyncio.create_task(client.export(Signal.METRICS, BODY))
        await collector.wait_for(lambda received: received)
        authority.issue("device")
        assert isinstance(await client.export(Signal.METRICS, BODY), Delivered)
        go_on.set()
        assert isinstance(await first, Delivered)
        # Once more, and this time the call ends with the client.
        second = asyncio.create_task(client.export(Signal.METRICS, BODY))
        await collector.wait_for(lambda received: len(received) == 3)
        authority.issue("device")
        assert isinstance(await client.export(Signal.METRICS, BODY), Delivered)
        await client.close()
        assert isinstance(await second, Retry)


async def test_a_refused_header_is_named_once(
    caplog: pytest.LogCaptureFixture, open_client: OpenClient
) -> None:
    """Its name, never its value, which may be a secret."""
    endpoint = Endpoint("http", "127.0.0.1", 9)
    await open_client("grpcio", endpoint, headers=(("te", "secret"),)).close()
    assert "a header that gRPC cannot carry is not sent" in caplog.text
    assert "secret" not in caplog.text
