"""OTLP over HTTP beside the oracle's table: room for bodies, sizes, TLS, and the end."""

import asyncio
import json
import ssl
from dataclasses import replace
from pathlib import Path

import pytest

from edge_agent.otlp.signal import HTTP_PATHS, Signal
from edge_agent.otlp.status import Code, decode_status
from edge_agent.receiver.core import MAX_REQUEST_BYTES
from edge_agent.receiver.http_server import LIMITS
from edge_agent.transport.http1_requests import CHUNKED_BYTES
from edge_agent.transport.server_tls import PemFile, server_context
from tests.agent.receiver import requests as r
from tests.agent.receiver.oracle import head
from tests.agent.receiver.servers import (
    BUDGET_BYTES,
    DEADLINE_S,
    Receiving,
    connected,
    post,
    receiving,
)
from tests.fakes.certificates import Authority

JSON = "application/json"
LARGE = r.padded(300_000)
NO_PATIENCE = replace(LIMITS, room_timeout_s=0.0)


async def until(condition) -> None:
    """Let the server go on until `condition`."""
    async with asyncio.timeout(DEADLINE_S):
        while not condition():
            await asyncio.sleep(0)


@pytest.mark.parametrize("signal", list(Signal))
async def test_each_signal_has_its_path_and_both_encodings(signal: Signal) -> None:
    """Answered with the empty message of the encoding that was sent."""
    async with receiving() as receiver, connected(receiver.port) as wire:
        await wire.send(post(b"", HTTP_PATHS[signal]))
        answer = await wire.answer()
        assert (answer.status, answer.body) == (200, b"")
        assert answer.headers["content-type"] == "application/x-protobuf"
        await wire.send(post(b"{}", HTTP_PATHS[signal], JSON))
        answer = await wire.answer()
        assert (answer.status, answer.body) == (200, b"{}")
        assert answer.headers["content-type"] == JSON


async def test_what_is_taken_is_enriched_whatever_it_came_in() -> None:
    """The queues are given protobuf with our identity, from either encoding."""
    async with receiving() as receiver, connected(receiver.port) as wire:
        for data in (
            post(r.ONE),
            post(r.span_json(), kind=JSON),
            post(r.zipped(r.ONE), coding="gzip"),
        ):
            await wire.send(data)
            assert (await wire.answer()).status == 200
        assert len(receiver.queues.taken) == 3
        for signal, body, items in receiver.queues.taken:
            assert (signal, items) == (Signal.TRACES, 1)
            assert b"customer.id" in body


async def test_a_disabled_signal_is_not_found() -> None:
    """CONTRACT: a disabled signal is neither produced nor received."""
    async with receiving(signals=(Signal.LOGS,)) as receiver, connected(receiver.port) as wire:
        await wire.send(post(r.ONE))
        assert (await wire.answer()).status == 404
        await wire.send(post(b"", HTTP_PATHS[Signal.LOGS]))
        assert (await wire.answer()).status == 200
        assert receiver.core.refusals == {Code.NOT_FOUND: 1}


# ---- sizes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["application/x-protobuf", JSON])
@pytest.mark.parametrize("framing", ["length", "chunked", "chunk by chunk"])
async def test_a_body_that_is_too_large_is_told_so_in_its_own_encoding(
    kind: str, framing: str
) -> None:
    """413, also where the server itself refuses; nothing is kept of it."""
    size = MAX_REQUEST_BYTES + 1
    start = head().replace(b"application/x-protobuf", kind.encode())[:-2]
    if framing == "length":
        data = start + b"Content-Length: %d\r\n\r\n" % size
    else:
        chunk = size if framing == "chunked" else 1000
        chunks = (b"%x\r\n" % chunk + bytes(chunk) + b"\r\n") * (size // chunk + 1)
        data = start + b"Transfer-Encoding: chunked\r\n\r\n" + chunks
    async with receiving() as receiver, connected(receiver.port) as wire:
        sending = asyncio.create_task(wire.send(data))
        answer = await wire.answer()
        assert (answer.status, answer.headers["content-type"]) == (413, kind)
        code = json.loads(answer.body)["code"] if kind == JSON else decode_status(answer.body).code
        assert code == Code.RESOURCE_EXHAUSTED
        assert await wire.closed()
        await sending
        assert receiver.budget.in_flight == 0
        assert receiver.queues.taken == []


async def test_a_body_of_the_greatest_size_is_taken() -> None:
    """Announced or chunked: several spans of 4 MiB together, which leave in two pieces."""
    one = r.padded(1 << 20)
    body = one * 4
    assert len(body) == MAX_REQUEST_BYTES
    chunks = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    async with receiving() as receiver, connected(receiver.port) as wire:
        for data in (post(body), head(b"Transfer-Encoding: chunked") + chunks):
            await wire.send(data)
            assert (await wire.answer()).status == 200
        assert receiver.queues.items == 8
        assert all(len(piece) <= MAX_REQUEST_BYTES for _, piece, _ in receiver.queues.taken)


async def test_a_small_body_that_is_refused_costs_no_connection_and_a_large_one_is_not_read() -> (
    None
):
    """It is cheaper to read 64 KiB than to connect again."""
    async with receiving() as receiver:
        async with connected(receiver.port) as wire:
            await wire.send(post(r.padded(60_000), kind="text/plain") + post(r.ONE))
            assert (await wire.answer()).status == 415
            assert (await wire.answer()).status == 200
        async with connected(receiver.port) as wire:
            await wire.send(post(bytes(70_000), kind="text/plain"))
            answer = await wire.answer()
            assert (answer.status, answer.headers["connection"]) == (415, "close")
            assert await wire.closed()


async def test_who_asks_first_is_told_before_it_sends() -> None:
    """Expect: 100-continue with what will be refused anyway, and with what will not."""
    expecting = "Expect: 100-continue\r\n"
    async with receiving() as receiver:
        async with connected(receiver.port) as wire:
            await wire.send(post(b"", kind="text/plain", extra=expecting)[:-5] + b"9\r\n\r\n")
            assert (await wire.answer()).status == 415
            assert await wire.closed()
        async with connected(receiver.port) as wire:
            whole = post(r.ONE, extra=expecting)
            await wire.send(whole[: -len(r.ONE)])
            assert (await wire.answer()).status == 100
            await wire.send(r.ONE)
            assert (await wire.answer()).status == 200


# ---- room -------------------------------------------------------------------------------------


def take_all(receiver: Receiving) -> None:
    """Leave no room for large bodies, or for small ones."""
    assert receiver.budget.grant(BUDGET_BYTES * 3 // 4)
    while receiver.budget.grant(CHUNKED_BYTES):
        pass


async def test_a_body_waits_with_its_sender_until_there_is_room() -> None:
    """Not read, not refused; and where the sender asked, not even asked for."""
    async with receiving() as receiver, connected(receiver.port) as wire:
        take_all(receiver)
        taken = receiver.budget.in_flight
        whole = post(LARGE, extra="Expect: 100-continue\r\n")
        await wire.send(whole[: -len(LARGE)])
        (connection,) = receiver.server._connections
        await until(lambda: connection._reader.wants)
        assert receiver.budget.in_flight == taken
        receiver.budget.release(taken)
        assert receiver.budget.in_flight == len(LARGE)
        assert (await wire.answer()).status == 100
        await wire.send(LARGE)
        assert (await wire.answer()).status == 200
        assert receiver.budget.in_flight == 0


async def test_a_body_that_waits_is_read_on_where_it_stood() -> None:
    """What had come with the head is not lost, nor what comes behind it."""
    async with receiving() as receiver, connected(receiver.port) as wire:
        take_all(receiver)
        taken = receiver.budget.in_flight
        sending = asyncio.create_task(wire.send(post(LARGE) + post(r.ONE)))
        await until(lambda: any(c._reader.wants for c in receiver.server._connections))
        (connection,) = receiver.server._connections
        assert not connection._transport.is_reading()
        receiver.budget.release(taken)
        for _ in range(2):
            assert (await wire.answer()).status == 200
        await sending
        assert receiver.queues.items == 2


@pytest.mark.parametrize("kind", ["application/x-protobuf", JSON])
async def test_who_waits_too_long_is_asked_to_come_back(kind: str) -> None:
    """503 with Retry-After and RetryInfo, in the encoding of the request."""
    async with receiving(limits=NO_PATIENCE) as receiver, connected(receiver.port) as wire:
        take_all(receiver)
        taken = receiver.budget.in_flight
        sending = asyncio.create_task(wire.send(post(LARGE, kind=kind)))
        answer = await wire.answer()
        assert (answer.status, answer.headers["content-type"]) == (503, kind)
        assert int(answer.headers["retry-after"]) > 0
        if kind == JSON:
            assert json.loads(answer.body)["details"][0]["retryDelay"]
        else:
            assert decode_status(answer.body).retry_delay_s
        assert await wire.closed()
        await sending
        assert receiver.budget.in_flight == taken
        receiver.budget.release(taken)


async def test_a_body_that_came_with_its_head_needs_no_room() -> None:
    """It is here already: turning it away would save nothing."""
    async with receiving(limits=NO_PATIENCE) as receiver, connected(receiver.port) as wire:
        take_all(receiver)
        taken = receiver.budget.in_flight
        await wire.send(post(r.ONE))
        assert (await wire.answer()).status == 200
        assert receiver.budget.in_flight == taken
        receiver.budget.release(taken)


async def test_a_chunked_body_takes_little_and_then_as_much_as_it_may_have() -> None:
    """Its length is unknown; most are small."""
    async with receiving() as receiver, connected(receiver.port) as wire:
        start = head(b"Transfer-Encoding: chunked")
        await wire.send(start + b"1\r\nx\r\n")
        await until(lambda: receiver.budget.in_flight)
        assert receiver.budget.in_flight == CHUNKED_BYTES
        await wire.send(b"%x\r\n" % CHUNKED_BYTES + bytes(CHUNKED_BYTES) + b"\r\n")
        await until(lambda: receiver.budget.in_flight != CHUNKED_BYTES)
        assert receiver.budget.in_flight == MAX_REQUEST_BYTES
        await wire.send(b"0\r\n\r\n")
        assert (await wire.answer()).status == 400
        assert receiver.budget.in_flight == 0


async def test_a_chunked_body_that_grows_waits_too() -> None:
    """Holding no more than what it has."""
    async with receiving() as receiver, connected(receiver.port) as wire:
        assert receiver.budget.grant(BUDGET_BYTES * 3 // 4 - CHUNKED_BYTES)
        chunk = b"%x\r\n%b\r\n" % (len(LARGE), LARGE)
        data = head(b"Transfer-Encoding: chunked") + chunk + b"0\r\n\r\n"
        sending = asyncio.create_task(wire.send(data))
        await until(lambda: any(c._reader.wants for c in receiver.server._connections))
        assert receiver.budget.in_flight == BUDGET_BYTES * 3 // 4
        receiver.budget.release(BUDGET_BYTES * 3 // 4 - CHUNKED_BYTES)
        assert (await wire.answer()).status == 200
        await sending


async def test_who_hangs_up_while_it_waits_or_sends_leaves_nothing_behind() -> None:
    """Neither a place in the line nor bytes."""
    async with receiving() as receiver:
        async with connected(receiver.port) as sender:
            await sender.send(post(LARGE)[:-1])
            await until(lambda: receiver.budget.in_flight == len(LARGE))
            sender.writer.transport.abort()
        await until(lambda: not receiver.server._connections)
        assert receiver.budget.in_flight == 0
        take_all(receiver)
        taken = receiver.budget.in_flight
        async with connected(receiver.port) as waiting:
            await waiting.send(post(LARGE)[:-1])
            await until(lambda: any(c._reader.wants for c in receiver.server._connections))
            (connection,) = receiver.server._connections
            connection.abort()
        await until(lambda: not receiver.server._connections)
        receiver.budget.release(taken)
        assert receiver.budget.in_flight == 0


async def test_a_body_of_which_much_is_held_has_to_move_on() -> None:
    """A kilobyte a timeout is enough for a small body, not for one that takes much room."""
    limits = replace(LIMITS, body_timeout_s=0.05)
    body = r.padded(2 << 20)
    async with receiving(limits=limits) as receiver, connected(receiver.port) as wire:
        await wire.send(post(body)[: -len(body) + 2000])
        answer = await wire.answer()
        assert answer.status == 408
        assert decode_status(answer.body).message
        assert receiver.budget.in_flight == 0


async def test_a_sender_of_nonsense_is_named_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """By its User-Agent: no request, or not gzip."""
    async with receiving() as receiver, connected(receiver.port) as wire:
        with caplog.at_level("WARNING"):
            await wire.send(post(b"<html>", extra=f"User-Agent: {'x' * 500}\r\n"))
            assert (await wire.answer()).status == 400
            await wire.send(post(b"<html>", "/v1/logs", coding="gzip"))
            assert (await wire.answer()).status == 400
        said = [record.__dict__["fields"] for record in caplog.records]
        assert [(one["signal"], one["sender"]) for one in said] == [
            ("traces", "http " + "x" * 100),
            ("logs", "http"),
        ]


async def ask_one(port: int, tls: ssl.SSLContext) -> None:
    """Send one request and read its answer."""
    async with connected(port, tls) as wire:
        await wire.send(post(r.ONE))
        await wire.answer()


# ---- the rest ---------------------------------------------------------------------------------


async def test_tls_with_client_certificates(tmp_path: Path) -> None:
    """What a gateway needs: strangers stay out, and large bodies survive the records."""
    authority, stranger = Authority(tmp_path / "ca"), Authority(tmp_path / "other", "stranger")
    pair, known = authority.issue("localhost"), authority.issue("client")
    context = server_context(
        PemFile("certificate", str(pair.certificate)),
        PemFile("key", str(pair.key)),
        PemFile("client_ca", str(authority.certificate)),
        alpn=("http/1.1",),
    )
    async with receiving(tls=context) as receiver:
        client = ssl.create_default_context(cafile=str(authority.certificate))
        client.load_cert_chain(known.certificate, known.key)
        async with connected(receiver.port, client) as wire:
            await wire.send(post(LARGE) + post(r.ONE))
            for _ in range(2):
                assert (await wire.answer()).status == 200
        foreign = stranger.issue("client")
        client = ssl.create_default_context(cafile=str(authority.certificate))
        client.load_cert_chain(foreign.certificate, foreign.key)
        with pytest.raises((ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)):
            await ask_one(receiver.port, client)
        assert receiver.queues.items == 2


async def test_a_fault_of_ours_is_a_500_and_gives_the_room_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The next request is served."""
    async with receiving() as receiver, connected(receiver.port) as wire:

        def broken(signal: Signal, body: bytes, items: int) -> bool:
            raise RuntimeError("boom")

        receiver.core._offer = broken
        await wire.send(post(LARGE))
        assert (await wire.answer()).status == 500
        assert receiver.budget.in_flight == 0
        receiver.core._offer = receiver.queues.offer
        await wire.send(post(r.ONE))
        assert (await wire.answer()).status == 200
    assert "request failed" in caplog.text


async def test_no_request_costs_a_task() -> None:
    """The answer is written in the call that brought the last byte."""
    async with receiving() as receiver, connected(receiver.port) as wire:
        await wire.send(post(r.ONE))
        assert (await wire.answer()).status == 200
        made = []
        loop = asyncio.get_running_loop()

        def counting(loop, coroutine, **more):
            made.append(coroutine)
            return asyncio.Task(coroutine, loop=loop, **more)

        loop.set_task_factory(counting)
        for _ in range(10):
            wire.writer.write(post(r.ONE))
            await wire.reader.readuntil(b"\r\n\r\n")
        loop.set_task_factory(None)
        assert made == []
        assert receiver.queues.items == 11
