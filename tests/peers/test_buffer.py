"""`buffer export` and `import` beside the real Collector's own files.

The Collector's receiver for files, otlpjsonfile, gives each line to pdata's JSON unmarshaler of the
signal: the one that its OTLP receiver uses for JSON over HTTP, which stands for it here. What reads
length-delimited protobuf in the Collector is nothing; its file exporter writes it.
"""

import asyncio
import functools
import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edge_agent.buffer.files import framed
from edge_agent.opener import FLOORS, NUMBERS, boot_id
from edge_agent.otlp.signal import Signal
from edge_agent.ring.opening import open_ring
from edge_agent.ring.record import Entry
from edge_agent.settings import Endpoint
from edge_agent.transport.dial import Tls
from edge_agent.transport.http1_client import Http1Client
from tests.fakes.collector import REQUESTS
from tests.fakes.programs import ROOT
from tests.peers.conftest import StartCollector
from tests.peers.test_poison import RESOURCES, request

pytestmark = [pytest.mark.peer, pytest.mark.timeout(300)]

ROUNDS = 5


@functools.cache
def bodies(signal: Signal) -> list[bytes]:
    """Requests of one item each, with all that the Collector would add."""
    messages = [request(signal, sender) for sender in range(1, ROUNDS + 1)]
    resources, scopes, _ = RESOURCES[signal]
    for message in messages:
        (scope,) = getattr(getattr(message, resources)[0], scopes)
        scope.scope.name = "peer"
        if signal is Signal.TRACES:
            scope.spans[0].status.message = "said"
    return [message.SerializeToString() for message in messages]


def fill(state: Path) -> None:
    """A ring with requests of every signal for the collector."""
    ring, _ = open_ring(str(state), max_bytes=2 << 20, floors=FLOORS, boot_id=boot_id())
    for signal in Signal:
        entries = [Entry(body, 1, len(body), 1, 1) for body in bodies(signal)]
        ring.commit([(NUMBERS["collector", signal], entries)])
    ring.close()


def buffer(state: Path, *words: str) -> None:
    """`otel-agent buffer ...`; has to succeed."""
    subprocess.run(
        [sys.executable, "-m", "edge_agent", "buffer", *words, "--path", str(state)],
        cwd=ROOT, check=True, timeout=60,
    )  # fmt: skip


def parsed(signal: Signal, content: bytes) -> list[Any]:
    """The decoded requests of a file."""
    messages = []
    with io.BytesIO(content) as file:
        while head := file.read(4):
            message: Any = REQUESTS[signal]()
            message.ParseFromString(file.read(int.from_bytes(head, "big")))
            messages.append(message)
    return messages


async def post(endpoint: Endpoint, body: bytes, content_type: str) -> int:
    """The status of the answer."""
    client = Http1Client(endpoint, tls=Tls(None, None, None), proxy=None)
    try:
        headers = (("content-type", content_type),)
        answer = await client.request("POST", endpoint.path, headers, body, timeout_s=20)
        return answer.status
    finally:
        await client.close()


@pytest.mark.parametrize("signal", Signal)
async def test_the_collector_reads_an_export_in_json(
    collector: StartCollector, tmp_path: Path, signal: Signal
) -> None:
    """Line by line, and understands of each what it understands of the protobuf."""
    state = tmp_path / "state"
    fill(state)
    buffer(state, "export", f"{tmp_path}/a.jsonl", "--format", "json")
    exported = (tmp_path / f"a.{signal}.jsonl").read_bytes().splitlines()
    from_json, from_protobuf = await asyncio.gather(collector(), collector())
    for line, body in zip(exported, bodies(signal), strict=True):
        assert await post(from_json.http(signal), line, "application/json") == 200
        protobuf = await post(from_protobuf.http(signal), body, "application/x-protobuf")
        assert protobuf == 200
    understood = await from_json.wait_for(lambda found: len(found) >= ROUNDS)
    assert understood == await from_protobuf.wait_for(lambda found: len(found) >= ROUNDS)


@pytest.mark.parametrize("signal", Signal)
async def test_an_export_is_what_the_collectors_file_exporter_writes(
    collector: StartCollector, tmp_path: Path, signal: Signal
) -> None:
    """With `format: proto`: the same framing around the same requests; and what it wrote can be
    imported."""
    state = tmp_path / "state"
    fill(state)
    buffer(state, "export", f"{tmp_path}/a.otlp", "--destination", "collector")
    peer = await collector(form="proto")
    for body in bodies(signal):
        assert await post(peer.http(signal), body, "application/x-protobuf") == 200
    expected = sum(len(framed(body)) for body in bodies(signal))
    written = await wait_for_size(peer.received_whole, expected)
    assert parsed(signal, written) == parsed(signal, (tmp_path / f"a.{signal}.otlp").read_bytes())
    theirs = tmp_path / f"theirs.{signal}.bin"
    theirs.write_bytes(written)
    buffer(tmp_path / "other", "import", str(theirs))
    buffer(tmp_path / "other", "export", f"{tmp_path}/b.otlp")
    assert (tmp_path / f"b.{signal}.otlp").read_bytes() == written


@pytest.mark.parametrize("signal", Signal)
async def test_what_the_collector_writes_as_json_can_be_imported(
    collector: StartCollector, tmp_path: Path, signal: Signal
) -> None:
    """The file exporter's default."""
    peer = await collector()
    for body in bodies(signal):
        assert await post(peer.http(signal), body, "application/x-protobuf") == 200
    await peer.wait_for(lambda found: len(found) >= ROUNDS)
    theirs = tmp_path / f"theirs.{signal}.jsonl"
    theirs.write_bytes(peer.received_whole())
    buffer(tmp_path / "state", "import", str(theirs))
    buffer(tmp_path / "state", "export", f"{tmp_path}/b.otlp")
    exported = (tmp_path / f"b.{signal}.otlp").read_bytes()
    assert parsed(signal, exported) == parsed(signal, b"".join(map(framed, bodies(signal))))


async def wait_for_size(read_all: Callable[[], bytes], size: int) -> bytes:
    """What `read_all` gives, once it is as long."""
    async with asyncio.timeout(20):
        while len(found := read_all()) < size:
            await asyncio.sleep(0.05)
    return found
