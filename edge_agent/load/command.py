"""Sending a load, and the command around it.

An open loop: a request is due at its time whether or not those before it have been answered, and
its latency counts from then. What is in flight is bounded; a request that finds no room for LATE_S
is not sent at all, and reported as such.
"""

import asyncio
import contextlib
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import TextIO

from edge_agent import __version__
from edge_agent.exporter.grpc_client import GrpcClient
from edge_agent.exporter.http_client import HttpClient
from edge_agent.exporter.retry import Client
from edge_agent.load.bodies import Bodies
from edge_agent.load.options import Options, options
from edge_agent.load.report import Report
from edge_agent.otlp.signal import HTTP_PATHS, Signal
from edge_agent.settings import ConfigError, Endpoint
from edge_agent.stop import StopRequest
from edge_agent.transport.dial import Tls

EXIT_NOT_ALL = 1
EXIT_USAGE = 2
TIMEOUT_S = 10.0
# How long a request may wait for room before it is given up, and calls in flight at the end.
LATE_S = 1.0
GRACE_S = 5.0
# Requests in flight on a connection of gRPC.
_STREAMS = 32


def clients(asked: Options) -> list[Client]:
    """A client for each connection."""
    path = asked.endpoint.path
    endpoints = {
        signal: Endpoint(
            asked.endpoint.scheme,
            asked.endpoint.host,
            asked.endpoint.port,
            path + HTTP_PATHS[signal],
        )
        for signal in asked.signals
    }
    kind: Callable[..., Client] = GrpcClient if asked.protocol == "grpc" else HttpClient
    return [
        kind(
            endpoints,
            tls=Tls(asked.certificate, asked.client_certificate, asked.client_key),
            headers=(),
            gzip=asked.gzip,
            timeout_s=TIMEOUT_S,
            max_reconnect_s=1.0,
            environ_proxy=lambda _endpoint: None,
            user_agent=f"pulseops-edge-load/{__version__}",
        )
        for _ in range(asked.connections)
    ]


class Load:
    """One load on its way. `clients` hold a connection each."""

    def __init__(self, asked: Options, clients: Sequence[Client], bodies: Bodies) -> None:
        in_flight = _STREAMS if asked.protocol == "grpc" else 1
        self.report = Report()
        self._asked = asked
        self._bodies = bodies
        # A client for each request that may be in flight, the one that waited longest first.
        self._free = deque(list(clients) * in_flight)
        self._calls: set[asyncio.Task[None]] = set()
        self._wake = asyncio.Event()
        self._stopping = False

    def stop(self) -> None:
        """Send nothing more; `run` waits for what is in flight and returns."""
        self._stopping = True
        self._wake.set()

    async def run(self) -> None:
        """Send until the duration is over or `stop` was called."""
        async with asyncio.TaskGroup() as group:
            await self._send(group)
            if self._calls:
                await asyncio.wait(self._calls, timeout=GRACE_S)
            for call in self._calls:
                call.cancel()

    async def _send(self, group: asyncio.TaskGroup) -> None:
        asked, report = self._asked, self.report
        loop = asyncio.get_running_loop()
        start_s = loop.time()
        end_s = start_s + asked.duration_s
        total = max(1, round(asked.rate_per_s * asked.duration_s))
        at = 0
        while not self._stopping and (now_s := loop.time()) < end_s:
            self._wake.clear()
            report.elapsed_s = now_s - start_s
            due_s = start_s + at / asked.rate_per_s
            if due_s < now_s - LATE_S:
                late = max(1, int((now_s - LATE_S - due_s) * asked.rate_per_s))
                late = min(late, total - at)
                report.not_sent += late * asked.items
                at += late
            while self._free and at < total and start_s + at / asked.rate_per_s <= now_s:
                self._launch(group, at, start_s + at / asked.rate_per_s)
                at += 1
            until_s = end_s
            if at < total:
                room_s = now_s + LATE_S
                until_s = start_s + at / asked.rate_per_s if self._free else room_s
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(min(until_s, end_s)):
                    await self._wake.wait()
        if not self._stopping:
            report.not_sent += (total - at) * asked.items
        report.elapsed_s = loop.time() - start_s

    def _launch(self, group: asyncio.TaskGroup, at: int, due_s: float) -> None:
        asked, report = self._asked, self.report
        signal = asked.signals[at % len(asked.signals)]
        # Numbers have no gaps: what was not sent has none.
        body = self._bodies.body(signal, report.sent + 1, time.time_ns())
        report.requests += 1
        report.sent += asked.items
        call = group.create_task(self._call(self._free.popleft(), signal, body, due_s))
        self._calls.add(call)
        call.add_done_callback(self._calls.discard)

    async def _call(self, client: Client, signal: Signal, body: bytes, due_s: float) -> None:
        items = self._asked.items
        try:
            outcome = await client.export(signal, body)
        except asyncio.CancelledError:
            self.report.fail("no answer by the end", items)
            raise
        self.report.count(outcome, items, asyncio.get_running_loop().time() - due_s)
        if not self._free:
            self._wake.set()
        self._free.append(client)


async def show_progress(report: Report, out: TextIO) -> None:
    """Write a line to `out` every second on a terminal, every ten elsewhere, until cancelled."""
    tty = out.isatty()
    every_s = 1.0 if tty else 10.0
    requests = 0
    while True:
        await asyncio.sleep(every_s)
        line = report.progress((report.requests - requests) / every_s)
        requests = report.requests
        # On a terminal each line takes the place of the one before.
        out.write(f"\r{line}\x1b[K" if tty else f"{line}\n")
        out.flush()


async def send(asked: Options, stop: StopRequest, err: TextIO) -> Report:
    """The whole load; `stop` ends it early."""
    peers = clients(asked)
    load = Load(asked, peers, Bodies(__version__, items=asked.items, item_bytes=asked.item_bytes))
    stop.forward(asyncio.get_running_loop(), load.stop)
    progress = asyncio.create_task(show_progress(load.report, err))
    try:
        await load.run()
    finally:
        progress.cancel()
        await asyncio.gather(progress, return_exceptions=True)
        if err.isatty():
            err.write("\r\x1b[K")
        for client in peers:
            await client.close()
    return load.report


def run(flags: Mapping[str, str], stop: StopRequest, *, as_json: bool) -> int:
    """Run `otel-agent load` and print what became of it; the exit code."""
    try:
        asked = options(flags)
    except ConfigError as error:
        sys.stderr.write(f"otel-agent load: {error}\n")
        return EXIT_USAGE
    report = asyncio.run(send(asked, stop, sys.stderr))
    sys.stdout.write(report.json(asked) if as_json else report.text(asked))
    return 0 if report.all_accepted else EXIT_NOT_ALL
