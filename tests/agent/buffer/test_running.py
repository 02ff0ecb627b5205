"""Beside an agent that runs, whose collector is away; and after it."""

import asyncio
import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_agent.buffer.files import framed
from edge_agent.otlp.signal import Signal
from tests.agent.buffer.conftest import body
from tests.fakes.collector import FakeCollector
from tests.fakes.programs import ROOT, Agent, eventually, free_port

SPANS = 40


def names(first: int) -> list[bytes]:
    """The names of SPANS spans."""
    return [f"span-{number:05}".encode() for number in range(first, first + SPANS)]


def send(agent: Agent, first: int) -> None:
    """SPANS spans in a request, as an app sends them."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{agent.http_port}/v1/traces",
        body(Signal.TRACES, *(name.decode() for name in names(first))),
        {"Content-Type": "application/x-protobuf"},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert answer.status == 200


def buffer(state: Path, *words: str) -> subprocess.CompletedProcess[bytes]:
    """`otel-agent buffer ...` as another process."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "edge_agent", "buffer", *words],
        env={"BUFFER_PATH": str(state), "PATH": os.environ["PATH"]},
        cwd=ROOT,
        capture_output=True,
        check=False,
        timeout=60,
    )


def waiting(state: Path) -> int:
    """The spans that the ring holds."""
    ran = buffer(state, "show", "--json")
    if ran.returncode:
        # Before the agent has made it.
        return 0
    document = json.loads(ran.stdout)
    assert document["in_use"]
    items: int = document["queues"]["collector traces"]["items"]
    return items


@pytest.fixture
def collector_port() -> int:
    """Where nobody listens yet."""
    return free_port()


@pytest.fixture
def agent(tmp_path: Path, collector_port: int) -> Iterator[Agent]:
    """An agent with nothing to say of its own, and nobody to say it to."""
    program = start(tmp_path, collector_port)
    yield program
    program.stop()


def start(tmp_path: Path, port: int) -> Agent:
    """The same one, now or later."""
    program = Agent(
        tmp_path / "state",
        OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{port}",
        METRICS_ENABLED="false",
        LOGS_ENABLED="false",
        BUFFER_MAX_SIZE="128",
    )
    eventually(program.health, "the agent's /health")
    return program


async def test_a_stick_carries_what_the_link_does_not(
    agent: Agent, tmp_path: Path, collector_port: int
) -> None:
    """Looked at, verified and copied while the agent takes more; removed and imported when it has
    stopped; delivered by its next start, once."""
    state = tmp_path / "state"
    send(agent, 0)
    eventually(lambda: waiting(state) == SPANS, "the spans to be saved")
    ran = buffer(state, "verify")
    assert (ran.returncode, ran.stdout[-11:]) == (0, b", in order\n"), ran
    copy = buffer(state, "export", "-", "--signal", "traces")
    assert copy.returncode == 0
    assert [name for name in names(0) if name in copy.stdout] == names(0)
    send(agent, SPANS)
    eventually(lambda: waiting(state) == 2 * SPANS, "more spans to be saved")
    stick = tmp_path / "stick.traces.otlp"
    for words in (["import", str(stick)], ["export", str(stick), "--signal=traces", "--remove"]):
        stick.write_bytes(framed(body(Signal.TRACES, "never")))
        ran = buffer(state, *words)
        assert ran.returncode == 75, ran
        assert b"an agent uses this ring" in ran.stderr
        stick.unlink()
    assert agent.stop() == 0, agent.log
    ran = buffer(state, "export", str(stick), "--signal=traces", "--remove")
    assert ran.returncode == 0, ran
    assert buffer(state, "export", "-", "--signal=traces").stdout == b""
    ran = buffer(state, "import", str(stick))
    assert ran.returncode == 0, ran
    async with FakeCollector(port=collector_port) as collector:
        again = start(tmp_path, collector_port)
        try:
            # A backlog starts at a random moment within half a minute.
            async with asyncio.timeout(90):
                while sum(item.body.count(b"span-") for item in collector.received) < 2 * SPANS:
                    await asyncio.sleep(0.1)
        finally:
            assert again.stop() == 0, again.log
    arrived = b"".join(item.body for item in collector.received if item.signal is Signal.TRACES)
    assert sorted(arrived.count(name) for name in names(0) + names(SPANS)) == [1] * 2 * SPANS
