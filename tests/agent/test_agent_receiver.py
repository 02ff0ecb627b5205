"""The receiver of the whole agent: `receiver.*` as settings, clients of others at the other end."""

import json
import os
import signal
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest

from edge_agent import agent, config
from edge_agent.otlp.signal import GRPC_PATHS, HTTP_PATHS, Signal
from edge_agent.stop import STOP_SIGNALS, StopRequest
from tests.agent.receiver.servers import post
from tests.fakes.certificates import Authority, Pair
from tests.fakes.programs import eventually, free_port

WAIT_S = 20.0


@pytest.fixture(autouse=True)
def _signals_stay_as_they_were() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    yield
    for number, action in before.items():
        signal.signal(number, action)


class Running:
    """An agent that takes traces and has nobody to send them to, run by `while_running`."""

    def __init__(self, folder: Path, host: str = "127.0.0.1", **tls: object) -> None:
        self.grpc_port, self.http_port = free_port(), free_port()
        file = folder / "agent.yaml"
        settings = {
            "customer": {"id": "acme"},
            "collector": {"endpoint": f"http://127.0.0.1:{free_port()}"},
            "telemetry": {"metrics": {"enabled": False}, "logs": {"enabled": False}},
            "buffer": {"path": str(folder / "state")},
            "health_check": {"port": free_port()},
            "receiver": {
                "grpc": f"{host}:{self.grpc_port}",
                "http": f"{host}:{self.http_port}",
                "tls": {name: str(path) for name, path in tls.items()},
            },
        }
        file.write_text(json.dumps(settings))
        self.config = config.load({"--config": str(file)}, {})

    def while_running(self, ask: Callable[[], None]) -> int:
        """The agent's exit code; meanwhile `ask` is called in a thread, once both ports answer."""
        stop = StopRequest()
        stop.take_signals()
        failed: list[BaseException] = []

        def asking() -> None:
            try:
                for port in (self.grpc_port, self.http_port):
                    eventually(lambda port=port: _listens(port), f"port {port}")  # type: ignore[misc]
                ask()
            except BaseException as error:  # noqa: BLE001 -- the test's own, raised below
                failed.append(error)
            finally:
                os.kill(os.getpid(), signal.SIGTERM)

        thread = threading.Thread(target=asking)
        thread.start()
        try:
            code = agent.run(self.config, stop)
        finally:
            thread.join(WAIT_S)
        if failed:
            raise failed[0]
        return code


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Who issues the certificates."""
    return Authority(tmp_path_factory.mktemp("ca"))


def client_context(authority: Authority, pair: Pair | None, *alpn: str) -> ssl.SSLContext:
    """Python's, with a client certificate or without."""
    context = ssl.create_default_context(cafile=authority.certificate)
    context.set_alpn_protocols(list(alpn))
    if pair is not None:
        context.load_cert_chain(pair.certificate, pair.key)
    return context


def exchange(port: int, context: ssl.SSLContext, data: bytes) -> tuple[str | None, bytes]:
    """The protocol agreed on, and the beginning of the answer to `data`."""
    with ExitStack() as stack:
        plain = stack.enter_context(socket.create_connection(("127.0.0.1", port), WAIT_S))
        wire = stack.enter_context(context.wrap_socket(plain, server_hostname="localhost"))
        wire.sendall(data)
        return wire.selected_alpn_protocol(), wire.recv(4096)


def is_heard(port: int, context: ssl.SSLContext, data: bytes) -> bool:
    """Whether anything is answered. In TLS 1.3 a client learns with its first read that it is not
    wanted: by an alert, by a reset, or by an end."""
    try:
        return exchange(port, context, data)[1] != b""
    except (ssl.SSLError, ConnectionError):
        return False


def call(port: int, authority: Authority, pair: Pair | None) -> Any:
    """What grpcio says of an Export over TLS: None, or its status."""
    files = (None, None) if pair is None else (pair.key.read_bytes(), pair.certificate.read_bytes())
    credentials = grpc.ssl_channel_credentials(authority.certificate.read_bytes(), *files)
    with grpc.secure_channel(f"localhost:{port}", credentials) as channel:
        try:
            channel.unary_unary(GRPC_PATHS[Signal.TRACES])(b"", timeout=WAIT_S)
        except grpc.RpcError as error:
            return error.code()
    return None


PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"
SETTINGS_FRAME = 4


@pytest.mark.parametrize("mutual", [False, True])
def test_receiver_tls_is_what_both_receivers_speak(
    tmp_path: Path, authority: Authority, mutual: bool
) -> None:
    """h2 on one port and http/1.1 on the other, whatever else a client offers; grpcio and Python's
    ssl. With client_ca nobody is heard who has no certificate of these."""
    server, client = authority.issue("localhost"), authority.issue("app")
    stranger = Authority(tmp_path / "other", "another authority").issue("app")
    files: dict[str, object] = {"certificate": server.certificate, "key": server.key}
    if mutual:
        files["client_ca"] = authority.certificate
    running = Running(tmp_path, **files)
    known = client if mutual else None

    def ask() -> None:
        context = client_context(authority, known, "http/1.1", "h2")
        chosen, answer = exchange(running.grpc_port, context, PREFACE)
        assert (chosen, answer[3]) == ("h2", SETTINGS_FRAME)
        context = client_context(authority, known, "h2", "http/1.1")
        request = post(b"", HTTP_PATHS[Signal.TRACES])
        chosen, answer = exchange(running.http_port, context, request)
        assert (chosen, answer[:15]) == ("http/1.1", b"HTTP/1.1 200 OK")
        assert call(running.grpc_port, authority, known) is None
        if not mutual:
            return
        for nobody in (None, stranger):
            assert call(running.grpc_port, authority, nobody) is grpc.StatusCode.UNAVAILABLE
            for port in (running.grpc_port, running.http_port):
                assert not is_heard(port, client_context(authority, nobody), request)

    assert running.while_running(ask) == 0


def test_who_trusts_nobody_here_does_not_connect(tmp_path: Path, authority: Authority) -> None:
    """The certificate is the one of the settings, and no other."""
    server = authority.issue("localhost")
    other = Authority(tmp_path / "other", "another authority")
    running = Running(tmp_path, certificate=server.certificate, key=server.key)

    def ask() -> None:
        for port in (running.grpc_port, running.http_port):
            with pytest.raises(ssl.SSLCertVerificationError):
                exchange(port, client_context(other, None), b"")

    assert running.while_running(ask) == 0


def test_receiving_from_other_machines_without_tls_is_said_once(
    tmp_path: Path, authority: Authority, capsys: pytest.CaptureFixture[str]
) -> None:
    """One warning that names both ports; none with TLS, and none on loopback."""
    server = authority.issue("localhost")
    open_to_all = Running(tmp_path, "0.0.0.0")
    assert open_to_all.while_running(lambda: None) == 0
    (line,) = (line for line in capsys.readouterr().err.splitlines() if "without TLS" in line)
    assert "settings=receiver.grpc,receiver.http" in line
    ports = (open_to_all.grpc_port, open_to_all.http_port)
    assert f"addresses={','.join(f'0.0.0.0:{port}' for port in ports)}" in line
    for quiet in (
        Running(tmp_path, "0.0.0.0", certificate=server.certificate, key=server.key),
        Running(tmp_path, "127.0.0.1"),
        Running(tmp_path, "[::ffff:127.0.0.1]"),
    ):
        assert quiet.while_running(lambda: None) == 0
    assert "without TLS" not in capsys.readouterr().err
