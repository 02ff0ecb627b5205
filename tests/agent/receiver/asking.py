"""Puts the oracle's inputs to a receiver, ours or another, and writes down the answer."""

import asyncio
import json
import re
from contextlib import suppress
from typing import Any

import grpc

from edge_agent.otlp.status import Code, decode_status
from tests.agent.receiver.oracle import Grpc, Http, Raw, Row
from tests.agent.receiver.servers import DEADLINE_S, Answer, Wire, connected

_KINDS = {"application/x-protobuf": "pb", "application/json": "json", "text/plain": "text"}
# What a client asks that goes on after raw bytes: answered with 404, where anybody listens still.
_GOING_ON = b"GET /going-on HTTP/1.1\r\nHost: x\r\n\r\n"
_CODINGS = {
    None: grpc.Compression.NoCompression,
    "gzip": grpc.Compression.Gzip,
    "deflate": grpc.Compression.Deflate,
}


async def ask(row: Row, *, http_port: int, grpc_port: int) -> str:
    """The answer, as the oracle writes it, but for the items."""
    match row.send:
        case Http(data, head_only):
            async with connected(http_port) as wire:
                sending = asyncio.create_task(wire.send(data()))
                answer = await wire.answer(head_only=head_only)
                sending.cancel()
            return written(answer)
        case Raw(data, half_close, to_grpc):
            async with connected(grpc_port if to_grpc else http_port) as wire:
                return await _ask_raw(wire, data(), half_close=half_close)
        case Grpc():
            return await asyncio.to_thread(_call, row.send, grpc_port)


def written(answer: Answer) -> str:
    """Status, kind of body, and the code of the Status in it."""
    kind = _KINDS.get(answer.headers.get("content-type", "").partition(";")[0], "none")
    if answer.status < 400 or not answer.body or kind not in ("pb", "json"):
        return f"{answer.status} {kind}"
    code = decode_status(answer.body).code if kind == "pb" else json.loads(answer.body)["code"]
    return f"{answer.status} {kind} {Code(code).name}"


async def _ask_raw(wire: Wire, data: bytes, *, half_close: bool) -> str:
    sending = asyncio.create_task(wire.send(data if half_close else data + _GOING_ON))
    got, ended = b"", False
    with suppress(ConnectionError):
        async with asyncio.timeout(DEADLINE_S):
            if half_close:
                await sending
                wire.writer.write_eof()
            while not ended and not got.count(b"HTTP/1.1 404"):
                piece = await wire.reader.read(65536)
                got += piece
                ended = not piece
    sending.cancel()
    statuses = re.findall(r"HTTP/1\.\d (\d{3})", got.decode("latin-1"))
    if statuses and statuses[-1] == "404":
        return " ".join((*statuses[:-1], "open"))
    return " ".join((*statuses, "closed"))


def _call(call: Grpc, port: int) -> str:
    options: list[tuple[str, Any]] = [("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(f"127.0.0.1:{port}", options, _CODINGS[call.coding]) as channel:
        try:
            channel.unary_unary(call.method)(call.body(), timeout=DEADLINE_S)
        except grpc.RpcError as error:
            return str(error.code().name)
    return "OK"
