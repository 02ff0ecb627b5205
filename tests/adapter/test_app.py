"""The adapter over real sockets: every verb, path, type, coding, token and outcome."""

import asyncio
import gzip
import json
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceResponse,
)

from adapter import app as app_module
from adapter import intake as intake_module
from adapter import sqlite
from adapter.app import App
from adapter.config import Tokens, read_tokens
from adapter.database import FILE_NAME
from adapter.reader import open_for_reading
from adapter.row import TTL_S
from adapter.sqlite import SqliteStore
from edge_agent.otlp.status import Code, decode_status
from edge_agent.settings import Endpoint
from edge_agent.transport.dial import Tls
from edge_agent.transport.http1 import Limits, Request, Response, serve
from edge_agent.transport.http1_client import Http1Client
from edge_agent.transport.http1_requests import CHUNKED_BYTES
from tests.adapter.build import NOW_NS, RESOURCE, gauge, point, request, sample_body
from tests.adapter.test_sqlite import FullDatabase

PROTOBUF = "application/x-protobuf"
JSON = "application/json"
GOOD = request(gauge(point(12.5)))
DEADLINE_S = 20.0


@dataclass
class Running:
    """An adapter, and a client of it."""

    app: App
    store: SqliteStore
    client: Http1Client
    port: int
    directory: Path

    async def send(
        self,
        body: bytes,
        kind: str | None = PROTOBUF,
        method: str = "POST",
        path: str = "/v1/metrics",
        headers: Mapping[str, str] | None = None,
    ) -> Response:
        given = dict(headers or {}) | ({} if kind is None else {"content-type": kind})
        return await self.client.request(method, path, tuple(given.items()), body, DEADLINE_S)

    async def get(self, path: str, method: str = "GET") -> Response:
        return await self.send(b"", None, method, path)

    def rows(self) -> list[tuple[Any, ...]]:
        with closing(open_for_reading(self.directory / FILE_NAME)) as reader:
            return reader.execute("SELECT metric_name, value, customer_id FROM metrics").fetchall()


@asynccontextmanager
async def running(
    directory: Path, *, tokens: Tokens | None = None, limits: Limits = app_module.LIMITS
) -> AsyncIterator[Running]:
    """An adapter in this process, on a free port, on a clock that stands."""
    store = SqliteStore(directory, ttl_s=TTL_S, now_ns=lambda: NOW_NS)
    await store.start()
    app = App(store, tokens=tokens, version="1.0", now_ns=lambda: NOW_NS)
    server = await serve(
        app.respond,
        host="127.0.0.1",
        port=0,
        limits=limits,
        admit=app.admit,
        refuse=app.refuse,
        budget=app.budget,
    )
    port = server.ports[0]
    client = Http1Client(Endpoint("http", "127.0.0.1", port), tls=Tls(), max_connections=20)
    try:
        yield Running(app, store, client, port, directory)
    finally:
        await client.close()
        await server.close(DEADLINE_S)
        app.close()
        await store.close()
        assert app.budget.in_flight == 0


# ---- storing ----------------------------------------------------------------------------------


async def test_protobuf_is_stored_and_answered_with_an_empty_message(tmp_path: Path):
    """200 and no bytes: ExportMetricsServiceResponse without partial success."""
    async with running(tmp_path) as adapter:
        answer = await adapter.send(GOOD.SerializeToString())
        assert (answer.status, answer.body, answer.header("content-type")) == (200, b"", PROTOBUF)
        assert adapter.rows() == [("system.cpu.percent", 12.5, "acme")]


async def test_json_is_stored_and_answered_in_json(tmp_path: Path):
    """`{}`; parameters of the media type and its case do not matter."""
    body = json.dumps(MessageToDict(GOOD)).encode()
    async with running(tmp_path) as adapter:
        answer = await adapter.send(body, "Application/JSON; charset=utf-8")
        assert (answer.status, json.loads(answer.body)) == (200, {})
        assert answer.header("content-type") == JSON
        assert len(adapter.rows()) == 1


@pytest.mark.parametrize("coding", ["gzip", "GZIP", " gzip "])
async def test_gzip_is_unpacked(tmp_path: Path, coding: str):
    """Of both encodings."""
    body = gzip.compress(GOOD.SerializeToString())
    async with running(tmp_path) as adapter:
        answer = await adapter.send(body, headers={"content-encoding": coding})
        assert answer.status == 200
        text = gzip.compress(json.dumps(MessageToDict(GOOD)).encode())
        answer = await adapter.send(text, JSON, headers={"content-encoding": coding})
        assert answer.status == 200
        assert len(adapter.rows()) == 1


async def test_an_empty_request_is_a_success(tmp_path: Path):
    """With nothing in it there is nothing to refuse."""
    async with running(tmp_path) as adapter:
        assert (await adapter.send(b"")).status == 200
        assert (await adapter.send(b"{}", JSON)).body.strip() == b"{}"
        answer = await adapter.send(b"", headers={"content-encoding": "identity"})
        assert answer.status == 200


async def test_a_request_sent_again_changes_nothing(tmp_path: Path):
    """The answer may have been lost on the way: the count of rows stays."""
    async with running(tmp_path) as adapter:
        for _ in range(3):
            assert (await adapter.send(sample_body(50, now_ns=NOW_NS))).status == 200
        assert len(adapter.rows()) == 50


async def test_many_at_once_are_all_stored(tmp_path: Path):
    """Each is answered after its own commit."""
    async with running(tmp_path) as adapter:
        bodies = [sample_body(5, now_ns=NOW_NS, first=5 * n) for n in range(40)]
        answers = await asyncio.gather(*map(adapter.send, bodies))
        assert {answer.status for answer in answers} == {200}
        assert len(adapter.rows()) == 200


BAD = request(gauge(point(time_ns=0), point(7.0), point(flags=1, time_ns=NOW_NS - 1)))


async def test_partial_success_counts_data_points_and_names_one(tmp_path: Path):
    """In protobuf as in JSON; what is good is stored, what is skipped is not mentioned."""
    message = "1 rejected: the time stamp is 0: metric system.cpu.percent of node edge-01"
    async with running(tmp_path) as adapter:
        answer = await adapter.send(BAD.SerializeToString())
        partial = ExportMetricsServiceResponse.FromString(answer.body).partial_success
        assert (answer.status, partial.rejected_data_points) == (200, 1)
        assert partial.error_message == message
        answer = await adapter.send(json.dumps(MessageToDict(BAD)).encode(), JSON)
        assert json.loads(answer.body) == {
            "partialSuccess": {"rejectedDataPoints": "1", "errorMessage": message}
        }
        text = (await adapter.get("/metrics")).body.decode()
        assert 'adapter_points_rejected_total{reason="time_zero"} 2\n' in text
        assert 'adapter_points_skipped_total{reason="no_recorded_value"} 2\n' in text


async def test_a_rejection_is_logged_once_a_reason(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    """A sender that does it wrong does it with every request."""
    async with running(tmp_path) as adapter:
        for _ in range(3):
            await adapter.send(BAD.SerializeToString())
    said = [r for r in caplog.records if r.getMessage() == "data points rejected"]
    assert [r.levelname for r in said if r.levelname == "WARNING"] == ["WARNING"]


async def test_a_partial_success_message_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """However many reasons there are."""
    monkeypatch.setattr(app_module, "_MAX_MESSAGE", 10)
    async with running(tmp_path) as adapter:
        answer = await adapter.send(BAD.SerializeToString())
        partial = ExportMetricsServiceResponse.FromString(answer.body).partial_success
        assert partial.error_message == "1 rejected..."


# ---- what is refused --------------------------------------------------------------------------

REFUSED = [
    # method, path, content type, coding, status
    ("GET", "/v1/metrics", PROTOBUF, None, 405),
    ("PUT", "/v1/metrics", PROTOBUF, None, 405),
    ("OPTIONS", "/v1/metrics", PROTOBUF, None, 405),
    ("POST", "/v1/metrics", None, None, 415),
    ("POST", "/v1/metrics", "text/plain", None, 415),
    ("POST", "/v1/metrics", "application/protobuf", None, 415),
    ("POST", "/v1/metrics", PROTOBUF, "deflate", 415),
    ("POST", "/v1/metrics", PROTOBUF, "gzip, gzip", 415),
    ("POST", "/v1/metrics/", PROTOBUF, None, 404),
    ("POST", "/V1/metrics", PROTOBUF, None, 404),
    ("POST", "/v1/traces", PROTOBUF, None, 404),
    ("POST", "/v1/logs", PROTOBUF, None, 404),
    ("GET", "/", None, None, 404),
    ("GET", "/health/", None, None, 404),
    ("GET", "/healthz", None, None, 404),
    ("POST", "/health", PROTOBUF, None, 405),
    ("DELETE", "/metrics", None, None, 405),
]


@pytest.mark.parametrize(("method", "path", "kind", "coding", "status"), REFUSED)
async def test_what_is_not_served_is_refused(
    tmp_path: Path, method: str, path: str, kind: str | None, coding: str | None, status: int
):
    """Whether a body comes or not, and never with a retryable code."""
    headers = {} if coding is None else {"content-encoding": coding}
    async with running(tmp_path) as adapter:
        for body in (b"", GOOD.SerializeToString()):
            answer = await adapter.send(body, kind, method, path, headers)
            assert answer.status == status
            assert (answer.header("allow") is not None) == (status == 405)
            if kind == PROTOBUF:
                assert decode_status(answer.body).message
            else:
                assert json.loads(answer.body)["message"]
        assert adapter.rows() == []


@pytest.mark.parametrize(
    ("kind", "coding", "body", "status"),
    [
        (PROTOBUF, None, b"\x0a\xff", 400),
        (PROTOBUF, None, b"<html>", 400),
        (JSON, None, b"{", 400),
        (JSON, None, b'{"resourceMetrics": 5}', 400),
        (PROTOBUF, "gzip", GOOD.SerializeToString(), 400),
        (PROTOBUF, "gzip", gzip.compress(GOOD.SerializeToString())[:-3], 400),
        (PROTOBUF, "gzip", b"", 400),
        (PROTOBUF, "gzip", gzip.compress(bytes(20 * 1024 * 1024 + 1)), 413),
        (JSON, None, b" " * (4 * 1024 * 1024 + 1), 413),
        (PROTOBUF, None, request(gauge(point(), name="n" * 300_000)).SerializeToString(), 413),
    ],
)
async def test_a_body_that_is_no_good_is_answered_with_a_status_in_its_own_encoding(
    tmp_path: Path, kind: str, coding: str | None, body: bytes, status: int
):
    """google.rpc.Status: INVALID_ARGUMENT with the reason."""
    headers = {} if coding is None else {"content-encoding": coding}
    async with running(tmp_path) as adapter:
        answer = await adapter.send(body, kind, headers=headers)
        assert (answer.status, answer.header("content-type")) == (status, kind)
        assert answer.header("retry-after") is None
        if kind == JSON:
            said = json.loads(answer.body)
            code, message = said["code"], said["message"]
        else:
            decoded = decode_status(answer.body)
            code, message = decoded.code, decoded.message
        assert code == Code.INVALID_ARGUMENT
        assert message
        assert adapter.store.state.error is None
        text = (await adapter.get("/metrics")).body.decode()
        assert f'adapter_requests_total{{code="{status}"}} 1\n' in text


async def test_a_body_over_20_mib_is_refused_before_it_is_sent(tmp_path: Path):
    """By its Content-Length, as google.rpc.Status in the encoding of the request."""
    async with running(tmp_path) as adapter:
        reader, writer = await asyncio.open_connection("127.0.0.1", adapter.port)
        writer.write(
            b"POST /v1/metrics HTTP/1.1\r\nhost: a\r\ncontent-type: application/x-protobuf\r\n"
            b"content-length: 20971521\r\n\r\n"
        )
        async with asyncio.timeout(DEADLINE_S):
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            status = decode_status(await reader.readexactly(length))
        assert head.startswith(b"HTTP/1.1 413 ")
        assert b"content-type: application/x-protobuf\r\n" in head.lower()
        assert status.code == Code.INVALID_ARGUMENT
        assert "20971520" in status.message
        writer.close()
        await writer.wait_closed()


async def test_a_large_body_is_stored_in_pieces(tmp_path: Path):
    """5 MB of data points."""
    points = [point(float(n), time_ns=NOW_NS - n * 10**6) for n in range(30_000)]
    body = request(gauge(*points), gauge(*points, name="b")).SerializeToString()
    async with running(tmp_path) as adapter:
        assert (await adapter.send(body)).status == 200
        assert len(adapter.rows()) == 60_000


# ---- tokens -----------------------------------------------------------------------------------


@pytest.fixture
def tokens(tmp_path: Path) -> Tokens:
    """Two tokens, one of them for two customers."""
    path = tmp_path / "tokens"
    path.write_text("secret acme\nboth acme,globex\n")
    path.chmod(0o600)
    return read_tokens(str(path))


@pytest.mark.parametrize(
    "header", [None, "", "secret", "Bearer", "Bearer wrong", "Bearer secre", "Basic secret"]
)
@pytest.mark.parametrize("body", [b"", b"x"])
async def test_without_a_known_token_nothing_is_read(
    tmp_path: Path, tokens: Tokens, header: str | None, body: bytes
):
    """401, which the agent takes for "the data is good, we are refused"."""
    headers = {} if header is None else {"authorization": header}
    async with running(tmp_path / "state", tokens=tokens) as adapter:
        answer = await adapter.send(body, headers=headers)
        assert (answer.status, answer.header("www-authenticate")) == (401, "Bearer")
        status = decode_status(answer.body)
        assert status.code == Code.UNAUTHENTICATED
        assert "TOKENS_FILE" in status.message
        assert (await adapter.get("/health")).status == 200


@pytest.mark.parametrize(
    ("header", "customers"),
    [
        ("Bearer secret", ["acme"]),
        ("bearer  secret ", ["acme"]),
        ("Bearer both", ["acme", "globex"]),
    ],
)
async def test_a_token_writes_its_own_customers(
    tmp_path: Path, tokens: Tokens, header: str, customers: list[str]
):
    """Others are refused in a partial success that names them."""
    body = b"".join(
        request(gauge(point()), resource=RESOURCE | {"customer.id": c}).SerializeToString()
        for c in ("acme", "globex", "initech")
    )
    async with running(tmp_path / "state", tokens=tokens) as adapter:
        answer = await adapter.send(body, headers={"authorization": header})
        partial = ExportMetricsServiceResponse.FromString(answer.body).partial_success
        assert (answer.status, partial.rejected_data_points) == (200, 3 - len(customers))
        assert "the token does not cover this customer" in partial.error_message
        assert [row[2] for row in sorted(adapter.rows())] == customers


# ---- the store is away ------------------------------------------------------------------------


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[FullDatabase]]:
    """The class whose `pages` makes the medium full."""
    monkeypatch.setattr(sqlite, "Database", FullDatabase)
    yield FullDatabase
    FullDatabase.pages = None


async def test_while_the_store_is_away_senders_come_back_later(
    tmp_path: Path, full: type[FullDatabase]
):
    """503 with Retry-After and UNAVAILABLE; degraded and not ready; then all is well again."""
    async with running(tmp_path) as adapter:
        full.pages = 10
        body = sample_body(500, now_ns=NOW_NS)
        answer = await adapter.send(body)
        assert (answer.status, answer.header("retry-after")) == (503, "5")
        status = decode_status(answer.body)
        assert (status.code, "disk is full" in status.message) == (Code.UNAVAILABLE, True)
        health = json.loads((await adapter.get("/health")).body)
        assert (health["status"], "full" in health["checks"]["store"]["error"]) == (
            "degraded",
            True,
        )
        assert (await adapter.get("/health")).status == 200
        assert (await adapter.get("/health/live")).status == 200
        ready = await adapter.get("/health/ready")
        assert (ready.status, "full" in json.loads(ready.body)["reason"]) == (503, True)
        assert b"adapter_store_up 0\n" in (await adapter.get("/metrics")).body
        full.pages = None
        assert (await adapter.send(body)).status == 200
        assert (await adapter.get("/health/ready")).status == 200
        assert len(adapter.rows()) == 500


async def test_who_waits_too_long_behind_others_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """503, and soon."""
    monkeypatch.setattr(intake_module, "_TURN_TIMEOUT_S", 0.0)
    async with running(tmp_path) as adapter, adapter.app._intake._small.turn():
        answer = await adapter.send(GOOD.SerializeToString())
        assert (answer.status, answer.header("retry-after")) == (503, "1")
        assert decode_status(answer.body).code == Code.UNAVAILABLE


async def test_a_dead_thread_is_unhealthy(tmp_path: Path):
    """The one thing that only a restart cures."""

    def die(_: object) -> int:
        raise SystemExit

    async with running(tmp_path) as adapter:
        with pytest.raises(sqlite.StoreAwayError):
            await adapter.store._submit(die)
        assert (await adapter.get("/health")).status == 503
        assert (await adapter.get("/health/live")).status == 503
        assert (await adapter.send(b"")).status == 503


async def test_while_stopping_we_are_not_ready(tmp_path: Path):
    """A balancer looks elsewhere before the door closes."""
    async with running(tmp_path) as adapter:
        adapter.app.stopping = True
        ready = await adapter.get("/health/ready")
        assert (ready.status, json.loads(ready.body)["reason"]) == (503, "stopping")


# ---- health -----------------------------------------------------------------------------------


async def test_health_is_answered_to_get_and_head(tmp_path: Path):
    """HEAD has the headers of GET and no body; a query does not matter."""
    async with running(tmp_path) as adapter:
        for path in ("/health", "/health/live", "/health/ready", "/metrics"):
            got, head = await adapter.get(path), await adapter.get(path, "HEAD")
            assert (got.status, head.status, head.body) == (200, 200, b"")
            assert got.body
            assert (await adapter.get(f"{path}?x=1")).status == 200
        health = json.loads((await adapter.get("/health")).body)
        assert set(health) == {"status", "timestamp", "uptime_seconds", "version", "checks"}
        kind = (await adapter.get("/metrics")).header("content-type")
        assert kind == "text/plain; version=0.0.4; charset=utf-8"


# ---- memory -----------------------------------------------------------------------------------


async def half_sent(port: int, length: int | None, send: bytes = b"x") -> asyncio.StreamWriter:
    """A request whose body will not come to its end; chunked where `length` is None."""
    framing = b"transfer-encoding: chunked" if length is None else b"content-length: %d" % length
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(
        b"POST /v1/metrics HTTP/1.1\r\nhost: a\r\ncontent-type: application/x-protobuf\r\n"
        + framing
        + b"\r\n\r\n"
        + send
    )
    await writer.drain()
    return writer


async def _until(adapter: Running, bytes_in_flight: int) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while adapter.app.budget.in_flight != bytes_in_flight:
            await asyncio.sleep(0)


async def test_bodies_in_flight_are_bounded_before_they_are_read(tmp_path: Path):
    """One announced body of 20 MiB is what fits; the next is asked to come back, small ones go."""
    size = app_module.MAX_BODY_BYTES
    limits = replace(app_module.LIMITS, room_timeout_s=0.0)
    async with running(tmp_path, limits=limits) as adapter:
        writers = [
            await half_sent(adapter.port, size),
            await half_sent(adapter.port, None, b"1\r\nx\r\n"),
        ]
        await _until(adapter, size + CHUNKED_BYTES)
        answer = await adapter.send(bytes(size))
        assert (answer.status, answer.header("retry-after")) == (503, "1")
        assert decode_status(answer.body).code == Code.UNAVAILABLE
        assert (await adapter.get("/health")).status == 200
        assert (await adapter.send(GOOD.SerializeToString())).status == 200
        for writer in writers:
            writer.close()
            await writer.wait_closed()
        await _until(adapter, 0)
        text = (await adapter.get("/metrics")).body.decode()
        # Bodies that end in the middle are answered too.
        for code, requests in ((200, 1), (503, 1), (400, 2)):
            assert f'adapter_requests_total{{code="{code}"}} {requests}\n' in text


async def test_requests_ahead_of_their_answers_are_counted_one_by_one(tmp_path: Path):
    """Pipelining: each gives back its own share."""
    body = GOOD.SerializeToString()
    head = (
        b"POST /v1/metrics HTTP/1.1\r\nhost: a\r\ncontent-type: application/x-protobuf\r\n"
        b"content-length: %d\r\n\r\n" % len(body)
    )
    async with running(tmp_path) as adapter:
        reader, writer = await asyncio.open_connection("127.0.0.1", adapter.port)
        writer.write((head + body) * 5)
        async with asyncio.timeout(DEADLINE_S):
            for _ in range(5):
                assert b" 200 " in await reader.readuntil(b"\r\n\r\n")
        assert adapter.app.budget.in_flight == 0
        writer.close()
        await writer.wait_closed()


async def test_chunked_bodies_are_stored(tmp_path: Path):
    """A sender may not know the length."""
    body = GOOD.SerializeToString()
    async with running(tmp_path) as adapter:
        chunk = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
        writer = await half_sent(adapter.port, None, chunk)
        async with asyncio.timeout(DEADLINE_S):
            while not adapter.rows():
                await asyncio.sleep(0)
        writer.close()
        await writer.wait_closed()


async def test_a_get_costs_no_budget(tmp_path: Path):
    """Nor is anything admitted for it."""
    async with running(tmp_path) as adapter:
        asked = Request("GET", "/health", "", {}, b"", "1.2.3.4:5")
        assert (await adapter.app.respond(asked)).status == 200
        assert adapter.app.budget.in_flight == 0
