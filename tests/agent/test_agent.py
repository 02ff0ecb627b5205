"""The wiring, in this process. As a child process it is in tests/test_end_to_end.py."""

import json
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from edge_agent import agent, config
from edge_agent.clients import adapter_endpoints, clients
from edge_agent.config import Config
from edge_agent.exporter.grpc_client import GrpcClient
from edge_agent.exporter.grpcio_client import GrpcioClient
from edge_agent.exporter.http_client import HttpClient
from edge_agent.host.sampler import Sampler
from edge_agent.otlp.signal import Signal
from edge_agent.parts import Parts
from edge_agent.settings import Endpoint
from edge_agent.state import open_state
from edge_agent.stop import StopRequest


def configured(tmp_path: Path, **environ: str) -> Config:
    """A configuration from `environ`, with state in `tmp_path` and a free health port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    own = {
        "CUSTOMER_ID": "acme",
        "NODE_ID": "edge-01",
        "BUFFER_PATH": str(tmp_path / "state"),
        "HEALTH_CHECK_PORT": str(port),
        "RECEIVER_GRPC": "127.0.0.1:0",
        "RECEIVER_HTTP": "127.0.0.1:0",
    }
    return config.load({}, own | environ)


@pytest.mark.parametrize(
    ("environ", "collector", "adapter"),
    [
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4317"}, GrpcClient, None),
        (
            {
                "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318",
                "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
                "ADAPTER_ENDPOINT": "http://localhost:8081",
                "ADAPTER_TOKEN": "t",
            },
            HttpClient,
            HttpClient,
        ),
        ({"ADAPTER_ENDPOINT": "http://localhost:8081"}, None, HttpClient),
    ],
)
def test_each_destination_gets_the_client_its_settings_ask_for(
    tmp_path: Path,
    environ: dict[str, str],
    collector: type | None,
    adapter: type | None,
) -> None:
    """gRPC unless said otherwise; the adapter speaks HTTP."""
    found = clients(configured(tmp_path, **environ))
    expected = {"collector": collector, "adapter": adapter}
    assert {name: type(client) for name, client in found.items()} == {
        name: kind for name, kind in expected.items() if kind is not None
    }


async def test_grpcio_is_used_where_the_file_says_so(tmp_path: Path) -> None:
    """collector.transport has no variable: networks that need it are set up in the file."""
    file = tmp_path / "agent.yaml"
    file.write_text("collector: {endpoint: 'http://c:4317', transport: grpcio}\ncustomer: {id: a}")
    client = clients(config.load({"--config": str(file)}, {}))["collector"]
    assert type(client) is GrpcioClient
    await client.close()


@pytest.mark.parametrize(
    ("order", "lanes"),
    [("oldest", 1), ("newest", 2)],
)
async def test_metrics_to_the_collector_keep_their_order_unless_told_otherwise(
    tmp_path: Path, order: str, lanes: int
) -> None:
    """One call at a time where order matters; a queue for each signal of the collector."""
    file = tmp_path / "agent.yaml"
    settings = {
        "collector": {"endpoint": "http://c:4317", "order": {"metrics": order}},
        "adapter": {"endpoint": "http://localhost:8081"},
        "customer": {"id": "acme"},
        "buffer": {"path": str(tmp_path / "state")},
    }
    file.write_text(json.dumps(settings))
    state = open_state(str(tmp_path / "state"))
    parts = Parts(config.load({"--config": str(file)}, {}), state)
    state.close()
    found = {
        (queue.account.destination, queue.account.signal): queue.policy for queue in parts.queues
    }
    assert {key: (policy.lanes, policy.newest_first) for key, policy in found.items()} == {
        ("collector", Signal.METRICS): (lanes, order == "newest"),
        ("collector", Signal.TRACES): (2, True),
        ("collector", Signal.LOGS): (2, True),
        ("adapter", Signal.METRICS): (2, True),
    }
    assert parts.sampler is not None
    parts.sampler.close()


def run_until(stop_when: Callable[[], None], settings: Config) -> int:
    """agent.run in this thread; `stop_when` raises SIGTERM when it has seen enough."""
    stop = StopRequest()
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    stop.take_signals()
    try:
        stop_when()
        return agent.run(settings, stop)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_a_stop_that_came_before_the_loop_ends_the_agent_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """systemd may stop us while we still import; the start is finished and then undone."""
    settings = configured(tmp_path, ADAPTER_ENDPOINT="http://127.0.0.1:9")
    assert run_until(lambda: signal.raise_signal(signal.SIGTERM), settings) == 0
    assert "agent: stopped" in capsys.readouterr().err


def test_a_part_that_dies_takes_the_process_down_with_its_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Loudly, and with an exit code that makes systemd start it again."""

    async def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("of ours")

    monkeypatch.setattr(Sampler, "run", broken)
    settings = configured(tmp_path, ADAPTER_ENDPOINT="http://127.0.0.1:9")
    assert run_until(lambda: None, settings) == agent.EXIT_DIED
    err = capsys.readouterr().err
    assert "a part of the agent died part=sampler traceback=" in err
    assert "ZeroDivisionError: of ours" in err


def test_warnings_of_the_configuration_are_logged_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A malformed pair is skipped, and said."""
    settings = configured(
        tmp_path, ADAPTER_ENDPOINT="http://127.0.0.1:9", OTEL_RESOURCE_ATTRIBUTES="site"
    )
    assert len(settings.warnings) == 1
    run_until(lambda: signal.raise_signal(signal.SIGINT), settings)
    assert capsys.readouterr().err.count(settings.warnings[0].split()[0]) == 1


def test_the_adapter_takes_two_signals_under_its_base_path() -> None:
    """Metrics, and traces that could not be delivered; logs have nowhere to go there."""
    paths = adapter_endpoints(Endpoint("http", "localhost", 8081, "/base"))
    assert {signal: endpoint.path for signal, endpoint in paths.items()} == {
        Signal.METRICS: "/base/v1/metrics",
        Signal.TRACES: "/base/v1/traces",
    }
