"""The health listener, asked over a real socket."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from edge_agent.health.report import Phase
from edge_agent.health.server import serve
from edge_agent.settings import Endpoint
from edge_agent.transport.dial import Tls
from edge_agent.transport.http1_client import Http1Client, Response
from tests.agent.health.states import HEALTHY, STATES

TIMEOUT_S = 20.0


class Agent:
    """What the server asks."""

    def __init__(self) -> None:
        self.state = HEALTHY
        self.metrics = "metric 1\n"
        self.age_s = 0.0
        self.reports = 0

    def health(self):
        self.reports += 1
        return self.state

    async def ask(self, path: str, method: str = "GET", body: bytes = b"") -> Response:
        """The answer to one request."""
        return await self.client.request(method, path, (), body, TIMEOUT_S)


@asynccontextmanager
async def running(path: str = "/health") -> AsyncIterator[Agent]:
    """A health server and who asks it."""
    agent = Agent()
    server = await serve(
        host="127.0.0.1",
        port=0,
        path=path,
        state=agent.health,
        metrics=lambda: agent.metrics,
        heartbeat_age_s=lambda: agent.age_s,
    )
    agent.ports = server.ports
    agent.client = Http1Client(Endpoint("http", "127.0.0.1", server.ports[0]), tls=Tls())
    try:
        yield agent
    finally:
        await agent.client.close()
        await server.close(grace_s=0)


@pytest.mark.parametrize("name", STATES)
async def test_health_is_the_report_with_its_status(name: str) -> None:
    """503 only where a restart helps."""
    async with running() as agent:
        agent.state = STATES[name]
        response = await agent.ask("/health?verbose")
        document = json.loads(response.body)
        assert response.status == (503 if document["status"] == "unhealthy" else 200)
        assert response.header("content-type") == "application/json"
        assert response.header("cache-control") == "no-store"
        assert document["checks"]["buffer"]["max_size"] == 2048


@pytest.mark.parametrize("path", ["/health", "/health/live", "/health/ready", "/metrics"])
async def test_head_answers_as_get_without_a_body(path: str) -> None:
    """`wget --spider` is the container's health check."""
    async with running() as agent:
        got, head = await agent.ask(path), await agent.ask(path, "HEAD")
        assert (head.status, head.headers, head.body) == (got.status, got.headers, b"")
        assert head.header("content-length") == str(len(got.body))


@pytest.mark.parametrize("age_s", [0.0, 30.0, 30.1, 4000.0])
async def test_live_is_whether_the_main_loop_beats(age_s: float) -> None:
    """Within 30 s, whatever else is wrong."""
    async with running() as agent:
        agent.age_s = age_s
        agent.state = STATES["no_way_out"]
        response = await agent.ask("/health/live")
        assert response.status == (200 if age_s <= 30 else 503)
        assert agent.reports == 0


@pytest.mark.parametrize(
    ("name", "status", "body"),
    [
        ("healthy", 200, b"ready\n"),
        ("failing", 200, b"ready\n"),
        ("starting", 503, b"starting\n"),
        ("draining", 503, b"draining\n"),
    ],
)
async def test_ready_is_whether_new_data_would_be_accepted(
    name: str, status: int, body: bytes
) -> None:
    """Also with the collector down."""
    async with running() as agent:
        agent.state = STATES[name]
        response = await agent.ask("/health/ready")
        assert (response.status, response.body) == (status, body)


async def test_pushing_back_is_not_ready() -> None:
    """Kubernetes then sends its traffic elsewhere."""
    async with running() as agent:
        agent.state = replace(HEALTHY, phase=Phase.RUNNING, pushing_back=True)
        assert (await agent.ask("/health/ready")).status == 503


async def test_metrics_are_prometheus_text() -> None:
    """With the version of the format; a name that is no text does not break it."""
    async with running() as agent:
        agent.metrics = 'm{mount_point="/mnt/\udcff"} 1\n'
        response = await agent.ask("/metrics")
        assert response.status == 200
        assert response.header("content-type") == "text/plain; version=0.0.4; charset=utf-8"
        assert response.body == b'm{mount_point="/mnt/\\udcff"} 1\n'


@pytest.mark.parametrize("path", ["/", "/health/", "/Health", "/health/live/", "/healthz", "*"])
async def test_any_other_path_is_404_and_names_those_there_are(path: str) -> None:
    """So that whoever mistypes one need not look it up."""
    async with running() as agent:
        response = await agent.ask(path)
        assert response.status == 404
        assert response.body == (
            b"not here; there is /health, /health/live, /health/ready, /metrics\n"
        )


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
async def test_other_verbs_are_405_with_allow(method: str) -> None:
    """RFC 9110, 15.5.6."""
    async with running() as agent:
        response = await agent.ask("/health", method)
        assert (response.status, response.header("allow")) == (405, "GET, HEAD")


async def test_a_body_is_refused() -> None:
    """Nobody has anything to send here."""
    async with running() as agent:
        assert (await agent.ask("/health", "POST", b"x")).status == 413


async def test_live_and_ready_hang_below_the_path() -> None:
    """`health_check.path` moves all three."""
    async with running("/internal/status") as agent:
        for path in ("/internal/status", "/internal/status/live", "/internal/status/ready"):
            assert (await agent.ask(path)).status == 200
        assert (await agent.ask("/health")).status == 404


async def test_a_report_is_made_only_when_asked_for() -> None:
    """No cost when nobody asks."""
    async with running() as agent:
        assert agent.reports == 0
        await agent.ask("/health")
        assert agent.reports == 1


async def test_a_fault_in_a_report_is_a_500_and_the_rest_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """One broken number must not take /metrics with it."""
    async with running() as agent:
        agent.state = None
        assert (await agent.ask("/health")).status == 500
        assert (await agent.ask("/metrics")).status == 200
    assert caplog.text.count("request failed") == 1


async def test_idle_clients_make_room_for_the_next() -> None:
    """The listener is bounded by itself, and monitors that leak connections keep no probe out."""
    async with running() as agent:
        clients = []
        for _ in range(33):
            reader, writer = await asyncio.open_connection("127.0.0.1", agent.ports[0])
            writer.write(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n")
            await reader.readuntil(b"alive\n")
            clients.append((reader, writer))
        # The one that has been idle for longest.
        assert await clients[0][0].read() == b""
        for _, writer in clients:
            writer.close()
            await writer.wait_closed()
