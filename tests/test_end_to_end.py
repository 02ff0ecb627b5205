"""Both programs as a user runs them, on this machine, over real sockets."""

import itertools
import json
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.fakes.programs import ROOT, Adapter, Agent, eventually, free_port, get, sample


@pytest.fixture
def adapter(tmp_path: Path) -> Iterator[Adapter]:
    """An adapter that answers, and has to stop cleanly after the test."""
    program = Adapter(tmp_path / "adapter")
    eventually(program.health, "the adapter's /health")
    yield program
    assert program.stop() == 0, program.log


@pytest.fixture
def agent(tmp_path: Path, adapter: Adapter) -> Iterator[Agent]:
    """An agent that sends to it, and has to stop cleanly after the test."""
    program = Agent(tmp_path / "agent", ADAPTER_ENDPOINT=adapter.url)
    eventually(program.health, "the agent's /health")
    yield program
    assert program.stop() == 0, program.log


def stored(adapter: Adapter, metric: str) -> list[dict[str, Any]]:
    """The rows that `query --json` prints, newest first."""
    answer = adapter.query("edge-01", metric, "--since", "1h", "--json")
    return [json.loads(line) for line in answer.stdout.splitlines()]


def test_this_machines_metrics_arrive_in_the_store(agent: Agent, adapter: Adapter) -> None:
    """The main job: sampled here, streamed, kept, and read back with the command of the README."""
    rows = eventually(
        lambda: (found := stored(adapter, "system.cpu.percent"))[2:] and found, "three rows"
    )
    assert all(0 <= row["value"] <= 100 for row in rows)
    times = [datetime.fromisoformat(row["time"]) for row in rows]
    assert times == sorted(times, reverse=True)
    assert abs((datetime.now(UTC) - times[0]).total_seconds()) < 60
    limit = stored(adapter, "system.memory.limit")[0]
    assert limit["value"] == psutil.virtual_memory().total
    assert limit["unit"] == "By"
    plain = adapter.query("edge-01", "system.cpu.percent", "--since", "1h").stdout
    assert re.match(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\S*Z\s+[\d.]+", plain.splitlines()[-1]), plain


def test_health_and_metrics_show_this_machine(agent: Agent, adapter: Adapter) -> None:
    """`curl /health` and `curl /metrics` as the README shows them."""

    def seeds() -> str | None:
        text = agent.metrics()
        return text if sample(text, "system_cpu_usage") is not None else None

    text = eventually(seeds, "the second sample")
    labels = {"customer_id": "acme", "node_id": "edge-01"}
    cpu = sample(text, "system_cpu_usage", **labels)
    memory = sample(text, "system_memory_usage_bytes", **labels)
    assert cpu is not None
    assert 0 <= cpu <= 100
    assert memory is not None
    assert 0 < memory < psutil.virtual_memory().total
    assert (sample(text, "system_disk_usage_bytes", mount_point="/") or 0) > 0
    health = agent.health()
    assert health is not None
    assert health["status"] == "healthy"
    assert health["checks"]["collector_connectivity"] == {"status": "disabled"}
    assert sample(text, "agent_collector_reachable") is None


def test_what_the_receiver_turned_away_is_on_metrics(agent: Agent) -> None:
    """A malformed request by its code, a connection that speaks another protocol by its reason."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{agent.http_port}/v1/metrics",
        data=b"\xff",
        headers={"Content-Type": "application/x-protobuf"},
    )
    with pytest.raises(urllib.error.HTTPError, match="400") as refused:
        urllib.request.urlopen(request, timeout=10.0)
    refused.value.close()
    assert agent_answers_http1(agent.grpc_port).startswith(b"HTTP/1.1 400 ")
    text = agent.metrics()
    assert sample(text, "agent_receiver_refused_total", code="INVALID_ARGUMENT") == 1
    closed = sample(
        text, "agent_receiver_connections_closed_total", receiver="grpc", reason="not_http2"
    )
    assert closed == 1


def agent_answers_http1(port: int) -> bytes:
    """What a port says to a client of HTTP/1.1 until it closes."""
    with socket.create_connection(("127.0.0.1", port), timeout=10.0) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        return b"".join(iter(lambda: client.recv(4096), b""))


def test_an_adapter_that_is_away_costs_nothing_that_fits_in_ram(
    agent: Agent, adapter: Adapter, tmp_path: Path
) -> None:
    """Killed and started again on the same store: every accepted point becomes a row, once."""
    eventually(lambda: agent.items("delivered", "adapter"), "a first delivery")
    adapter.kill()
    before = agent.items("accepted", "adapter")
    eventually(lambda: agent.items("accepted", "adapter") > before + 100, "samples meanwhile")
    assert (sample(agent.metrics(), "agent_held_items", destination="adapter") or 0) > 0
    again = Adapter(tmp_path / "adapter", adapter.port)
    try:
        eventually(
            lambda: sample(agent.metrics(), "agent_held_items", destination="adapter") == 0,
            "the backlog to drain",
        )
        assert agent.items("dropped", "adapter") == 0
        uptimes = stored(again, "system.uptime")
        assert len({row["time"] for row in uptimes}) == len(uptimes)
        seconds = sorted(datetime.fromisoformat(row["time"]).timestamp() for row in uptimes)
        gaps = [b - a for a, b in itertools.pairwise(seconds)]
        assert max(gaps) < 1.9, gaps
        adapter.process = again.process
    except BaseException:
        again.kill()
        raise


def test_sigterm_delivers_what_is_held_and_says_so(tmp_path: Path) -> None:
    """An orderly stop drains, within 8 seconds, and its last line counts what became of it."""
    adapter = Adapter(tmp_path / "adapter")
    eventually(adapter.health, "the adapter's /health")
    agent = Agent(tmp_path / "agent", ADAPTER_ENDPOINT=adapter.url)
    eventually(agent.health, "the agent's /health")
    eventually(lambda: agent.items("accepted", "adapter") > 0, "a sample")
    assert agent.stop(signal.SIGTERM, deadline_s=8.0) == 0
    last = agent.log.splitlines()[-1]
    counts = dict(pair.split("=") for pair in re.findall(r"\w+=\d+", last))
    assert "stopped" in last, last
    assert counts["accepted"] == counts["delivered"], last
    assert counts["lost"] == "0", last
    assert adapter.stop() == 0


def test_a_second_agent_in_the_same_state_directory_ends_with_75(
    agent: Agent, tmp_path: Path
) -> None:
    """systemd must not restart it for ever: RestartPreventExitStatus=75 78."""
    second = Agent(tmp_path / "agent", ADAPTER_ENDPOINT="http://127.0.0.1:9")
    assert second.process.wait(30) == 75
    assert "another agent uses this state directory" in second.log


def test_a_bad_setting_ends_with_78_and_names_value_source_and_remedy(tmp_path: Path) -> None:
    """The contract's exit code for bad configuration."""
    agent = Agent(tmp_path / "agent", ADAPTER_ENDPOINT="http://127.0.0.1:9", METRICS_INTERVAL="15")
    assert agent.process.wait(30) == 78
    assert "telemetry.metrics.interval=15 (METRICS_INTERVAL)" in agent.log
    assert "15s" in agent.log


def test_a_taken_health_port_ends_with_a_message_that_names_it(tmp_path: Path) -> None:
    """A port in use is a setting to change, not a traceback."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        agent = Agent(
            tmp_path / "agent",
            ADAPTER_ENDPOINT="http://127.0.0.1:9",
            HEALTH_CHECK_PORT=str(port),
        )
        assert agent.process.wait(30) == 78
    assert f"health_check.port={port} (HEALTH_CHECK_PORT)" in agent.log
    assert "Traceback" not in agent.log


def test_systemd_hears_of_readiness_life_and_the_stop(tmp_path: Path, adapter: Adapter) -> None:
    """sd_notify(3): READY once it runs, WATCHDOG at half of the time, STOPPING before it drains."""
    address = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(address)
        systemd.settimeout(30)
        agent = Agent(
            tmp_path / "agent",
            ADAPTER_ENDPOINT=adapter.url,
            NOTIFY_SOCKET=address,
            WATCHDOG_USEC="400000",
        )
        heard: list[str] = []
        while sum("WATCHDOG=1" in message for message in heard) < 3 or "READY" not in str(heard):
            heard.append(systemd.recv(4096).decode())
        assert agent.stop() == 0, agent.log
        systemd.setblocking(False)
        while "STOPPING=1" not in heard[-1]:
            heard.append(systemd.recv(4096).decode())
    (ready,) = [message for message in heard if "READY=1" in message]
    assert ready == "READY=1\nSTATUS=sending to adapter"


def test_a_peer_that_never_answers_does_not_hold_up_the_stop(tmp_path: Path) -> None:
    """SIGTERM ends the agent within 8 seconds; what was in flight is in the ring, and the next run
    has it."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        agent = Agent(
            tmp_path / "agent",
            OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{silent.getsockname()[1]}",
        )
        eventually(agent.health, "the agent's /health")
        eventually(lambda: agent.items("accepted", "collector") > 100, "two samples")
        assert agent.stop(signal.SIGTERM, deadline_s=8.0) == 0
    counts = dict(pair.split("=") for pair in re.findall(r"\w+=\d+", agent.log.splitlines()[-1]))
    assert counts["accepted"] == counts["held"] != "0"
    assert counts["delivered"] == counts["lost"] == "0"
    again = Agent(
        tmp_path / "agent",
        OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{free_port()}",
        METRICS_INTERVAL="1h",
    )
    eventually(again.health, "the agent's /health")

    def restored() -> float | None:
        # /health answers before the ring is open.
        return sample(again.metrics(), "agent_items_total", outcome="accepted", reason="restored")

    eventually(lambda: restored() == int(counts["held"]), "what was held")
    again.kill()


def test_two_agents_that_send_to_each_other_drop_what_comes_back(tmp_path: Path) -> None:
    """Each of the two knows its own data by its path, though the other put its own name on it."""
    port = free_port()
    one = Agent(tmp_path / "one", OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{port}")
    two = Agent(
        tmp_path / "two",
        OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{one.grpc_port}",
        RECEIVER_GRPC=f"127.0.0.1:{port}",
    )
    try:
        for agent in (one, two):
            eventually(
                lambda agent=agent: (  # type: ignore[misc]
                    agent.health()
                    and sample(
                        agent.metrics(), "agent_items_total", reason="loop", signal="metrics"
                    )
                ),
                "the loop to be counted",
            )
        for agent in (one, two):
            assert agent.stop() == 0
            assert agent.log.count("our own data came back and was dropped") == 1
    finally:
        one.kill()
        two.kill()


def test_without_a_usable_state_directory_it_runs_on_degraded(
    tmp_path: Path, adapter: Adapter
) -> None:
    """A restart is never the cure: RAM only, said in the log and in /health."""
    (tmp_path / "file").write_text("")
    agent = Agent(
        tmp_path / "agent", ADAPTER_ENDPOINT=adapter.url, BUFFER_PATH=str(tmp_path / "file/state")
    )
    eventually(agent.health, "the agent's /health")
    eventually(lambda: agent.items("delivered", "adapter"), "a delivery")
    health = agent.health()
    assert health is not None
    assert (health["status"], health["checks"]["buffer"]["status"]) == ("degraded", "warning")
    assert "keeping data in RAM alone" in agent.log
    assert "BUFFER_PATH" in agent.log
    assert agent.stop() == 0


def test_with_metrics_disabled_it_waits_and_answers(tmp_path: Path, adapter: Adapter) -> None:
    """A disabled signal is not produced; the agent is ready all the same."""
    agent = Agent(tmp_path / "agent", ADAPTER_ENDPOINT=adapter.url, METRICS_ENABLED="false")
    eventually(agent.health, "the agent's /health")
    ready = f"http://127.0.0.1:{agent.port}/health/ready"
    eventually(lambda: get(ready) == (200, "ready\n"), "an agent that is ready")
    assert sample(agent.metrics(), "agent_items_total") is None
    assert agent.stop() == 0


def test_make_run_shows_what_flows_and_drains_at_ctrl_c(tmp_path: Path) -> None:
    """The first command of the README, with both default ports taken."""
    health, port = free_port(), free_port()
    with socket.socket() as first, socket.socket() as second:
        for taken, number in ((first, health), (second, port)):
            taken.bind(("127.0.0.1", number))
            taken.listen()
        run = subprocess.Popen(
            [sys.executable, "-m", "tools.run", "--state", str(tmp_path)],
            cwd=ROOT,
            env={
                "PATH": "/usr/bin:/bin",
                "HEALTH_CHECK_PORT": str(health),
                "PORT": str(port),
                "METRICS_INTERVAL": "1s",
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert run.stdout is not None
        lines = []
        try:
            for line in run.stdout:
                lines.append(line)
                if re.search(r"\+[1-9]\d* rows stored", line):
                    break
            text = "".join(lines)
            assert f"port {health} is taken, using" in text
            url = re.search(
                r"(http://localhost:\d+/health)\n.*(http://localhost:\d+)/metrics", text
            )
            assert url, text
            assert get(url[1])[0] == 200
            assert "system_memory_usage_bytes" in get(url[2] + "/metrics")[1]
            run.send_signal(signal.SIGINT)
            rest, _ = run.communicate(timeout=30)
        finally:
            run.kill()
            run.wait()
    assert run.returncode == 0, text + rest
    assert re.search(r"delivered ([1-9]\d*) of \1 data points, 0 lost; \d+ rows stored", rest), rest
