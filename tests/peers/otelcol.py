"""The real OpenTelemetry Collector as a process: start, stop, kill, and read what it took."""

import asyncio
import contextlib
import json
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edge_agent.otlp.signal import HTTP_PATHS, Signal
from edge_agent.settings import Endpoint
from tests.fakes.collector import PATIENCE_S, ServerTls

_LOOPBACK = "127.0.0.1"
_POLL_S = 0.02


class Collector:
    """One collector with its own folder and ports, which it keeps over restarts.

    `exporter` is what its pipelines end in: `file` (one JSON line a request, see `lines`) or
    `debug` (everything in its log, see `log`). With `form` proto the file is of `format: proto`, to
    be read by `received_whole`.
    """

    def __init__(
        self,
        binary: Path,
        folder: Path,
        *,
        exporter: str = "file",
        form: str = "json",
        tls: ServerTls | None = None,
    ) -> None:
        self._binary = binary
        self._tls = tls
        self._exporter = exporter
        self._form = form
        self._output = folder / "received.jsonl"
        self._log = folder / "collector.log"
        self._config = folder / "config.yaml"
        self._grpc_port, self._http_port, self._health_port = _free_ports(3)
        self._process: asyncio.subprocess.Process | None = None
        # JSON is YAML.
        self._config.write_text(json.dumps(self._configuration()))

    @property
    def grpc(self) -> Endpoint:
        """Where it takes OTLP over gRPC."""
        return Endpoint("http" if self._tls is None else "https", _LOOPBACK, self._grpc_port)

    def http(self, signal: Signal) -> Endpoint:
        """Where it takes `signal` over HTTP."""
        scheme = "http" if self._tls is None else "https"
        return Endpoint(scheme, _LOOPBACK, self._http_port, HTTP_PATHS[signal])

    async def start(self) -> None:
        """Run it, and wait until it is ready."""
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                self._binary, "--config", self._config, stdout=log, stderr=log
            )
        async with asyncio.timeout(PATIENCE_S):
            while not await self._healthy():
                if self._process.returncode is not None:
                    raise RuntimeError(f"the collector ended:\n{self.log()}")
                await asyncio.sleep(_POLL_S)

    async def stop(self) -> None:
        """SIGTERM: it finishes what it has taken."""
        await self._end(signal.SIGTERM)

    async def kill(self) -> None:
        """SIGKILL: as when the power goes."""
        await self._end(signal.SIGKILL)

    def log(self) -> str:
        """What it has said so far, the debug exporter's output included."""
        return self._log.read_text("utf-8", "replace") if self._log.exists() else ""

    def lines(self) -> list[dict[str, Any]]:
        """The requests it has taken so far, as OTLP/JSON, from the `file` exporter."""
        return [json.loads(line) for line in self.received().splitlines()]

    def received(self) -> bytes:
        """The whole lines of what the `file` exporter wrote, which need not be JSON to Python: the
        Collector passes on what is not UTF-8, and nests as deep as it was sent."""
        return self._output.read_bytes().rpartition(b"\n")[0] if self._output.exists() else b""

    def received_whole(self) -> bytes:
        """All of what the `file` exporter wrote, in whatever form."""
        return self._output.read_bytes() if self._output.exists() else b""

    async def wait_for(self, enough: Callable[[list[dict[str, Any]]], object]) -> list[Any]:
        """The requests it has taken, once they are `enough`; TimeoutError if they never are."""
        return await self._poll(self.lines, enough)

    async def wait_for_received(self, enough: Callable[[bytes], object]) -> bytes:
        """What it has taken, once it is `enough`; TimeoutError if it never is."""
        received: bytes = await self._poll(self.received, enough)
        return received

    async def wait_for_log(self, *words: str) -> str:
        """Its log, once all `words` are in it; TimeoutError if they never are."""
        log: str = await self._poll(self.log, lambda text: all(word in text for word in words))
        return log

    async def _poll(self, read: Callable[[], Any], enough: Callable[[Any], object]) -> Any:
        async with asyncio.timeout(PATIENCE_S):
            while not enough(found := read()):
                await asyncio.sleep(_POLL_S)
        return found

    async def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(how)
        async with asyncio.timeout(PATIENCE_S):
            await process.wait()

    async def _healthy(self) -> bool:
        try:
            reader, writer = await asyncio.open_connection(_LOOPBACK, self._health_port)
        except OSError:
            return False
        try:
            writer.write(b"GET / HTTP/1.0\r\n\r\n")
            return b" 200 " in await reader.readline()
        except OSError:
            return False
        finally:
            writer.transport.abort()

    def _configuration(self) -> dict[str, Any]:
        tls: dict[str, Any] = {}
        if self._tls is not None:
            pair = self._tls.pair
            tls = {"tls": {"cert_file": str(pair.certificate), "key_file": str(pair.key)}}
            if self._tls.client_ca is not None:
                tls["tls"]["client_ca_file"] = str(self._tls.client_ca)
        exporters = {
            "file": {
                "path": str(self._output),
                "format": self._form,
                "flush_interval": "50ms",
                "append": True,
            },
            "debug": {"verbosity": "detailed"},
        }
        pipeline = {"receivers": ["otlp"], "exporters": [self._exporter]}
        protocols = {
            "grpc": {"endpoint": f"{_LOOPBACK}:{self._grpc_port}", **tls},
            "http": {"endpoint": f"{_LOOPBACK}:{self._http_port}", **tls},
        }
        return {
            "receivers": {"otlp": {"protocols": protocols}},
            "exporters": {self._exporter: exporters[self._exporter]},
            "extensions": {"health_check": {"endpoint": f"{_LOOPBACK}:{self._health_port}"}},
            "service": {
                "extensions": ["health_check"],
                "telemetry": {"metrics": {"level": "none"}},
                "pipelines": {str(signal): pipeline for signal in Signal},
            },
        }


def _free_ports(count: int) -> list[int]:
    """Ports that were free a moment ago; the collector cannot say which one it got for 0."""
    sockets = [socket.create_server((_LOOPBACK, 0)) for _ in range(count)]
    try:
        return [listener.getsockname()[1] for listener in sockets]
    finally:
        for listener in sockets:
            listener.close()
