"""`otel-agent check`: every finding, whole."""

import dataclasses
import os
import socket
from pathlib import Path

import pytest

from edge_agent import check
from edge_agent.check import Finding
from edge_agent.config import Config, load
from edge_agent.exporter.retry import Delivered, Denied, Outcome, Rejected, Retry
from edge_agent.otlp.signal import Signal
from tests.fakes.machine import machine

ENVIRON = {
    "CUSTOMER_ID": "demo",
    "HEALTH_CHECK_PORT": "0",
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
    space = os.statvfs(tmp_path)
    free = f"{space.f_bavail * space.f_frsize >> 20}MiB"
    settings = config(tmp_path, BUFFER_MAX_SIZE="64")
    assert await check.run(settings, lambda _: clients, printed.append)
    # Others write to that file system too.
    printed[2] = f"{printed[2].rpartition(', ')[0]}, {free} free\n"
    assert printed == [
        "ok    config     no file: customer demo, node edge-07\n",
        "ok    host       sampled every 15s, read under /\n",
        f"ok    buffer     {tmp_path}/a/b: up to 2MiB, {free} free\n",
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
    settings = load({}, {**ENVIRON, "BUFFER_PATH": "state", "BUFFER_MAX_SIZE": "64"}, machine())
    assert check.state_directory(settings).level == "ok"


def test_a_file_system_smaller_than_the_ring_is_warned_of(tmp_path: Path) -> None:
    """The ring stops growing where the disk ends; that is worth knowing before."""
    settings = config(tmp_path)
    settings = dataclasses.replace(
        settings, buffer=dataclasses.replace(settings.buffer, max_slots=1 << 50)
    )
    finding = check.state_directory(settings)
    assert finding.level == "warn"
    assert finding.message.endswith("MiB free; free some, or lower buffer.max_size")


def test_a_taken_health_port_is_warned_of(tmp_path: Path) -> None:
    """It may be the agent itself that has it."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        finding = check.health_address(config(tmp_path, HEALTH_CHECK_PORT=str(port)))
    assert finding == Finding(
        "warn",
        "health",
        f"127.0.0.1:{port} cannot be taken (Address already in use); unless that is the agent"
        " itself, set health_check.port",
    )


def test_a_health_host_that_is_none_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The resolver's own words."""

    def getaddrinfo(*_args: object, **_options: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    assert check.health_address(config(tmp_path, HEALTH_CHECK_HOST="nowhere")) == Finding(
        "warn",
        "health",
        "nowhere:0 cannot be taken (Name or service not known); unless that is the agent itself,"
        " set health_check.port",
    )
