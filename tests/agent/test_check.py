"""`otel-agent check`: every finding, whole."""

import asyncio
import fcntl
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from edge_agent import check
from edge_agent.check import Finding
from edge_agent.clients import clients as real_clients
from edge_agent.config import Config, load
from edge_agent.exporter.retry import Delivered, Denied, Outcome, Rejected, Retry
from edge_agent.otlp.signal import Signal
from edge_agent.parts import Parts
from edge_agent.state import open_state
from edge_agent.transport.http1 import Limits, Request, Response, serve
from tests.fakes.machine import machine
from tests.fakes.proxy import FakeProxy
from tests.fakes.raw_server import RawServer

ENVIRON = {
    "CUSTOMER_ID": "demo",
    "HEALTH_CHECK_PORT": "0",
    "RECEIVER_GRPC": "localhost:0",
    "RECEIVER_HTTP": "127.0.0.1:0",
    "OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4317",
    "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT": "http://logs:4317",
    "ADAPTER_ENDPOINT": "http://adapter:8081",
}


class FakeClient:
    """Answers each signal with its outcome, and remembers what it was asked."""

    def __init__(self, outcomes: dict[Signal, Outcome]) -> None:
        self.outcomes = outcomes
        self.bodies: list[bytes] = []
        self.closed = False

    async def export(self, signal: Signal, body: bytes) -> Outcome:
        """The outcome set for `signal`."""
        self.bodies.append(body)
        return self.outcomes[signal]

    def reconnect(self) -> None:
        """Nothing to forget."""

    async def close(self) -> None:
        """Remembered."""
        self.closed = True


def config(path: Path, **environ: str) -> Config:
    """Settings whose state directory is below `path`."""
    return load({}, {**ENVIRON, "BUFFER_PATH": str(path / "a" / "b"), **environ}, machine())


OK: dict[Signal, Outcome] = dict.fromkeys(Signal, Delivered(0.0124))


async def test_a_check_that_passes_prints_ok_alone(tmp_path: Path) -> None:
    """Nothing is left behind: no directory made, no telemetry sent, clients closed."""
    printed: list[str] = []
    clients = {"collector": FakeClient(OK), "adapter": FakeClient(OK)}
    assert await check.run(config(tmp_path), lambda _: clients, printed.append)
    assert printed == [
        "ok    config     no file: customer demo, node edge-07\n",
        "ok    host       sampled every 15s, read under /\n",
        "ok    receiver   gRPC on localhost:0: metrics, traces, logs\n",
        "ok    receiver   HTTP on 127.0.0.1:0: metrics, traces, logs\n",
        f"ok    buffer     a ring of 64MiB in {tmp_path}/a/b\n",
        "ok    health     http://127.0.0.1:0/health\n",
        "ok    collector  metrics to http://collector:4317: 12 ms\n",
        "ok    collector  traces to http://collector:4317: 12 ms\n",
        "ok    collector  logs to http://logs:4317: 12 ms\n",
        "ok    adapter    metrics to http://adapter:8081: 12 ms\n",
    ]
    assert [client.closed for client in clients.values()] == [True, True]
    assert {body for client in clients.values() for body in client.bodies} == {b""}
    assert list(tmp_path.iterdir()) == []


async def test_every_outcome_of_a_peer_has_its_remedy(tmp_path: Path) -> None:
    """Whole messages; one failure fails the check."""
    collector = FakeClient(
        {
            Signal.METRICS: Retry("collector:4317: connection refused"),
            Signal.TRACES: Denied("unauthenticated", "no\ntoken"),
            Signal.LOGS: Rejected("unimplemented", "unknown service"),
        }
    )
    adapter = FakeClient({Signal.METRICS: Denied("401", "")})
    printed: list[str] = []
    clients = {"collector": collector, "adapter": adapter}
    assert not await check.run(config(tmp_path), lambda _: clients, printed.append)
    assert printed[-4:] == [
        "fail  collector  metrics to http://collector:4317: collector:4317: connection refused;"
        " start it, or correct collector.endpoint (OTEL_EXPORTER_OTLP_ENDPOINT)\n",
        "fail  collector  traces to http://collector:4317: unauthenticated no\\ntoken;"
        " correct collector.headers or the client certificate\n",
        "fail  collector  logs to http://logs:4317: unimplemented unknown service;"
        " have it take logs, or set telemetry.logs.enabled: false\n",
        "fail  adapter    metrics to http://adapter:8081: 401; correct adapter.token\n",
    ]


async def test_a_peer_of_one_signal_is_named_by_its_own_setting(tmp_path: Path) -> None:
    """The remedy points where the value was written."""
    client = FakeClient(dict.fromkeys(Signal, Retry("gone")))
    settings = config(tmp_path, ADAPTER_ENDPOINT="")
    found = await check.peers(settings, {"collector": client})
    assert found[-1].message.endswith(
        "start it, or correct collector.logs_endpoint (OTEL_EXPORTER_OTLP_LOGS_ENDPOINT)"
    )


async def test_disabled_signals_are_not_asked_for(tmp_path: Path) -> None:
    """Nothing would be sent, so nobody has to take it."""
    client = FakeClient(OK)
    settings = config(tmp_path, METRICS_ENABLED="no", TRACES_ENABLED="no")
    found = await check.peers(settings, {"collector": client, "adapter": client})
    assert [finding.message for finding in found] == ["logs to http://logs:4317: 12 ms"]
    assert list(check.plan(settings))[-1] == Finding(
        "ok", "host", "not sampled: telemetry.metrics.enabled is false"
    )


def test_warnings_of_the_settings_are_shown(tmp_path: Path) -> None:
    """As warn: the agent runs."""
    settings = config(tmp_path, OTEL_RESOURCE_ATTRIBUTES="a")
    assert Finding("warn", "config", "OTEL_RESOURCE_ATTRIBUTES: pair 1 has no '='; skipped") in (
        check.plan(settings)
    )


def test_full_validation_without_its_library_is_a_warning(tmp_path: Path) -> None:
    """As at the start of the agent."""
    file = "/x/agent.yaml"
    host = machine({file: "receiver.validate: full"}, protobuf=False)
    environ = {**ENVIRON, "BUFFER_PATH": str(tmp_path)}
    found = list(check.plan(load({"--config": file}, environ, host)))
    assert [finding.level for finding in found] == ["ok", "warn", "ok"]
    assert "install pulseops-edge[full]" in found[1].message


def test_a_state_directory_under_a_file_fails(tmp_path: Path) -> None:
    """It could never be made."""
    (tmp_path / "a").touch()
    finding = check.state_directory(config(tmp_path))
    assert finding == Finding("fail", "buffer", f"{tmp_path}/a is not a directory; set buffer.path")


@pytest.fixture
def _not_writable(monkeypatch: pytest.MonkeyPatch) -> None:
    # The superuser may write everywhere: the answer of the system is put in its place.
    monkeypatch.setattr(os, "access", lambda *_args: False)


@pytest.mark.usefixtures("_not_writable")
def test_a_state_directory_that_cannot_be_written_fails(tmp_path: Path) -> None:
    """The agent would run, and keep data in RAM alone: somebody has to know."""
    assert check.state_directory(config(tmp_path)) == Finding(
        "fail",
        "buffer",
        f"{tmp_path} is not writable; make it writable for uid {os.getuid()}, or set buffer.path",
    )


def test_a_relative_state_directory_is_below_the_current_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As any path."""
    monkeypatch.chdir(tmp_path)
    settings = load({}, {**ENVIRON, "BUFFER_PATH": "state"}, machine())
    assert check.state_directory(settings).level == "ok"


def test_a_state_directory_of_a_running_agent_is_named(tmp_path: Path) -> None:
    """The same settings end with 75; and asking takes the lock from nobody."""
    settings = config(tmp_path)
    path = settings.buffer.path
    state = open_state(path)
    assert check.state_directory(settings) == Finding(
        "warn",
        "buffer",
        f"{path} is in use by an agent that runs: with these settings a second one ends with exit"
        " code 75; stop that one, or set buffer.path",
    )
    state.close()
    assert check.state_directory(settings).level == "ok"
    open_state(path).close()


def test_a_state_directory_that_knows_no_locks_is_nobodys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some network file systems: the agent runs there too, and says so."""

    def flock(*_args: object) -> None:
        raise OSError(38, "Function not implemented")

    settings = config(tmp_path)
    open_state(settings.buffer.path).close()
    monkeypatch.setattr(fcntl, "flock", flock)
    assert check.state_directory(settings).level == "ok"


# ---- what is listened for -----------------------------------------------------------------------


async def test_ports_that_are_taken_are_warned_of(tmp_path: Path) -> None:
    """It may be the agent itself that has them."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        health = await check.health_address(config(tmp_path, HEALTH_CHECK_PORT=port))
        grpc, http = await check.receivers(config(tmp_path, RECEIVER_GRPC=f"localhost:{port}"))
    reason = f"cannot listen on 127.0.0.1:{port}: Address already in use"
    unless = "unless that is the agent itself, set"
    assert health == Finding("warn", "health", f"{reason}; {unless} health_check.port")
    assert grpc == Finding("warn", "receiver", f"{reason}; {unless} receiver.grpc")
    assert http.level == "ok"


async def test_a_health_url_of_ipv6_has_brackets(tmp_path: Path) -> None:
    """So that it can be copied."""
    finding = await check.health_address(config(tmp_path, HEALTH_CHECK_HOST="::1"))
    assert "[::1]:0" in finding.message


async def test_a_host_that_is_none_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The resolver's own words."""

    def getaddrinfo(*_args: object, **_options: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    assert await check.health_address(config(tmp_path, HEALTH_CHECK_HOST="nowhere")) == Finding(
        "warn",
        "health",
        "cannot listen on nowhere: Name or service not known; unless that is the agent itself,"
        " set health_check.port",
    )


@pytest.mark.parametrize(
    ("yaml", "message"),
    [
        ("receiver.enabled: false", "off: receiver.enabled is false (file /x.yaml:1)"),
        (
            "receiver.grpc: localhost:4317\ncollector.endpoint: http://localhost:4317",
            "off: receiver.enabled is false (because of collector.endpoint)",
        ),
        (
            "telemetry: {metrics: {enabled: no}, traces: {enabled: no}, logs: {enabled: no}}",
            "off: there is nobody to send anything to",
        ),
    ],
)
async def test_a_receiver_that_is_off_says_why(tmp_path: Path, yaml: str, message: str) -> None:
    """Nothing is listened for, so no port is asked."""
    environ = {"CUSTOMER_ID": "demo", "BUFFER_PATH": str(tmp_path)}
    if "endpoint" not in yaml:
        environ["ADAPTER_ENDPOINT"] = "http://adapter:8081"
    settings = load({"--config": "/x.yaml"}, environ, machine({"/x.yaml": yaml}))
    assert await check.receivers(settings) == [Finding("ok", "receiver", message)]


async def test_certificates_of_the_receiver_that_are_none_fail(tmp_path: Path) -> None:
    """The agent would not start."""
    (tmp_path / "x.pem").write_text("nonsense")
    path = str(tmp_path / "x.pem")
    yaml = f"receiver.tls: {{certificate: {path}, key: {path}}}"
    settings = load({"--config": "/x.yaml"}, ENVIRON, machine({"/x.yaml": yaml, path: ""}))
    (finding,) = await check.receivers(settings)
    assert (finding.level, finding.subject) == ("fail", "receiver")
    assert "receiver.tls.certificate=" in finding.message


# ---- what is sent -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"METRICS_ENABLED": "no"},
        {"TRACES_ENABLED": "no", "LOGS_ENABLED": "no"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": ""},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "", "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT": ""},
        {"ADAPTER_ENDPOINT": ""},
    ],
)
async def test_what_is_checked_is_what_the_agent_has_queues_for(
    tmp_path: Path, environ: dict[str, str]
) -> None:
    """No more and no less, held against the agent's own parts."""
    settings = config(tmp_path, **environ)
    state = open_state(str(tmp_path / "parts"))
    parts = Parts(settings, state)
    try:
        checked = {(way.destination, way.signal) for way in check.ways(settings)}
        assert checked == set(parts.destinations)
    finally:
        if parts.sampler is not None:
            parts.sampler.close()
        for client in parts.clients.values():
            await client.close()
        state.close()


def test_metrics_that_nobody_takes_are_sampled_for_the_endpoint_alone(tmp_path: Path) -> None:
    """The agent does that, and somebody may wonder where they are."""
    settings = config(tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT="", ADAPTER_ENDPOINT="")
    assert list(check.plan(settings))[-1] == Finding(
        "ok",
        "host",
        "sampled every 15s, read under /, for /metrics alone: no endpoint takes metrics",
    )


@asynccontextmanager
async def http_server() -> AsyncIterator[str]:
    """A server of HTTP/1.1 that has nothing for us; its authority."""

    async def respond(_request: Request) -> Response:
        return Response(404)

    limits = Limits(max_body_bytes=1024, max_connections=8)
    server = await serve(respond, host="127.0.0.1", port=0, limits=limits)
    yield f"127.0.0.1:{server.ports[0]}"
    await server.close(1.0)


async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A peer that listens to the first bytes and goes."""
    await reader.read(4096)
    writer.close()


async def speak_http2(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A gRPC server as far as anybody gets who speaks HTTP/1: an empty SETTINGS frame."""
    await reader.read(4096)
    writer.write(bytes((0, 0, 0, 4, 0, 0, 0, 0, 0)))


async def remedies(path: Path, **environ: str) -> set[str]:
    """What the real clients make of their peers, without what was sent where."""
    settings = config(path, OTEL_EXPORTER_OTLP_LOGS_ENDPOINT="", **environ)
    found = await check.peers(settings, real_clients(settings))
    assert {finding.level for finding in found} == {"fail"}
    return {finding.message.partition("; ")[2] for finding in found}


async def test_a_peer_without_tls_is_given_http(tmp_path: Path) -> None:
    """A bare host:port means TLS; OpenSSL says WRONG_VERSION_NUMBER, which helps nobody."""
    collector = "OTEL_EXPORTER_OTLP_ENDPOINT"
    async with http_server() as authority:
        environ = {collector: authority, "ADAPTER_ENDPOINT": f"https://{authority}"}
        assert await remedies(tmp_path, **environ) == {
            f"it speaks no TLS: write http://{authority} into collector.endpoint ({collector}),"
            " or host:port alone with collector.insecure: true",
            f"it speaks no TLS: write http://{authority} into adapter.endpoint (ADAPTER_ENDPOINT)",
        }


async def test_a_peer_that_hangs_up_on_tls_may_speak_none(tmp_path: Path) -> None:
    """It may also want a certificate of ours: so it is put as a guess."""
    async with RawServer(hang_up) as rude:
        authority = rude.endpoint.authority
        environ = {"ADAPTER_ENDPOINT": f"https://{authority}", "OTEL_EXPORTER_OTLP_ENDPOINT": ""}
        assert await remedies(tmp_path, **environ) == {
            f"if it speaks no TLS, write http://{authority} into adapter.endpoint"
            " (ADAPTER_ENDPOINT)"
        }


async def test_a_port_of_the_other_protocol_is_told(tmp_path: Path) -> None:
    """4317 and 4318 are easily mixed up."""
    collector, protocol = "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_PROTOCOL"
    async with http_server() as authority, RawServer(speak_http2) as grpc:
        environ = {collector: f"http://{authority}", "ADAPTER_ENDPOINT": ""}
        assert await remedies(tmp_path, **environ) == {
            f"it speaks no gRPC: give collector.endpoint ({collector}) its gRPC port (usually 4317,"
            " while 4318 is HTTP), or set collector.protocol: http/protobuf"
        }
        environ = {collector: f"http://{grpc.endpoint.authority}", "ADAPTER_ENDPOINT": ""}
        assert await remedies(tmp_path, **environ, **{protocol: "http/protobuf"}) == {
            f"it speaks no HTTP/1: give collector.endpoint ({collector}) its HTTP port (usually"
            " 4318, 4317 is gRPC's)"
        }


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
async def test_a_proxy_that_leads_nowhere_is_blamed(
    tmp_path: Path, scheme: str, protocol: str
) -> None:
    """Not the peer behind it, which nobody has asked yet."""
    name = f"{scheme.upper()}_PROXY"
    async with FakeProxy(refusal="502 Bad Gateway") as proxy:
        where = f"{proxy.host}:{proxy.port}"
        found = await remedies(
            tmp_path,
            OTEL_EXPORTER_OTLP_ENDPOINT=f"{scheme}://collector.example:4317",
            OTEL_EXPORTER_OTLP_PROTOCOL=protocol,
            ADAPTER_ENDPOINT="",
            **{name: f"http://user:s3cret@{where}"},
        )
    assert found == {
        f"correct {name}, which has us ask the proxy {where}, name collector.example in NO_PROXY,"
        " or correct collector.endpoint (OTEL_EXPORTER_OTLP_ENDPOINT)"
    }
