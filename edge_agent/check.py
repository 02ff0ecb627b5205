"""`otel-agent check`: what the agent would do here, and what stands in its way.

A line a finding, `ok`, `warn` or `fail`, its subject, what was seen, and the remedy. `warn` is what
the agent can live with; `fail` is what an operator has to act on, also where the agent would start
all the same. Nothing is left behind: no directory made, no telemetry sent (requests are empty).
"""

import asyncio
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from edge_agent.config import Config
from edge_agent.config_table import SLOT_BYTES
from edge_agent.exporter.retry import Client, Delivered, Denied, Outcome, Rejected, Retry
from edge_agent.otlp.signal import Signal
from edge_agent.settings import Endpoint, format_duration, format_size, one_line


@dataclass(frozen=True, slots=True)
class Finding:
    """One line: `level` is ok, warn or fail."""

    level: str
    subject: str
    message: str


# By destination, collector or adapter; made where the agent makes its own.
Clients = Callable[[Config], Mapping[str, Client]]


def line(level: str, subject: str, message: str) -> str:
    """A finding as it is printed."""
    # A peer's words may be part of it.
    return f"{level:5} {subject:10} {one_line(message)}\n"


async def run(config: Config, clients: Clients, write: Callable[[str], object]) -> bool:
    """Check everything in the order of the data's way; whether nothing failed."""
    passed = True
    for finding in (*plan(config), state_directory(config), health_address(config)):
        write(line(finding.level, finding.subject, finding.message))
        passed &= finding.level != "fail"
    for finding in await peers(config, clients(config)):
        write(line(finding.level, finding.subject, finding.message))
        passed &= finding.level != "fail"
    return passed


def plan(config: Config) -> Iterator[Finding]:
    """What the settings say, and what is odd about them."""
    who = f"customer {config.identity.customer_id}, node {config.identity.node_id}"
    yield Finding("ok", "config", f"{config.file or 'no file'}: {who}")
    for warning in config.warnings:
        yield Finding("warn", "config", warning)
    if Signal.METRICS in config.telemetry.signals:
        every = format_duration(config.telemetry.interval_s)
        yield Finding("ok", "host", f"sampled every {every}, read under {config.host_root}")
    else:
        yield Finding("ok", "host", "not sampled: telemetry.metrics.enabled is false")


def state_directory(config: Config) -> Finding:
    """Whether the ring can live in buffer.path, and grow to its size."""
    path = config.buffer.path
    remedy = f"make it writable for uid {os.getuid()}, or set buffer.path"
    # It is made at the first start: until then what counts is where.
    existing = path
    while not os.path.lexists(existing):
        existing = os.path.dirname(existing) or "."
    if not os.path.isdir(existing):
        return Finding("fail", "buffer", f"{existing} is not a directory; set buffer.path")
    if not os.access(existing, os.W_OK | os.X_OK):
        return Finding("fail", "buffer", f"{existing} is not writable; {remedy}")
    space = os.statvfs(existing)
    free_bytes, ring_bytes = space.f_bavail * space.f_frsize, config.buffer.max_slots * SLOT_BYTES
    what = f"{path}: up to {format_size(ring_bytes)}, {free_bytes >> 20}MiB free"
    if free_bytes < ring_bytes:
        return Finding("warn", "buffer", f"{what}; free some, or lower buffer.max_size")
    return Finding("ok", "buffer", what)


def health_address(config: Config) -> Finding:
    """Whether the health endpoint could be served."""
    health = config.health
    try:
        found = socket.getaddrinfo(
            health.host, health.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        family, _, _, _, address = found[0]
        socket.create_server(address[:2], family=family).close()
    except OSError as error:
        # create_server adds the address to strerror; resolvers have error numbers of their own.
        named = error.errno is not None and error.errno > 0
        reason = os.strerror(error.errno or 0) if named else error.strerror
        remedy = "unless that is the agent itself, set health_check.port"
        where = f"{health.host}:{health.port}"
        return Finding("warn", "health", f"{where} cannot be taken ({reason}); {remedy}")
    return Finding("ok", "health", f"http://{health.host}:{health.port}{health.path}")


async def peers(config: Config, clients: Mapping[str, Client]) -> list[Finding]:
    """Send an empty request for every enabled signal to whom it goes to, all at once."""
    wanted: list[tuple[str, Signal, Endpoint]] = [
        ("collector", signal, endpoint)
        for signal, endpoint in config.collector.endpoints.items()
        if signal in config.telemetry.signals
    ]
    if config.adapter.endpoint is not None and Signal.METRICS in config.telemetry.signals:
        wanted.append(("adapter", Signal.METRICS, config.adapter.endpoint))
    try:
        outcomes = await asyncio.gather(
            *(clients[destination].export(signal, b"") for destination, signal, _ in wanted)
        )
    finally:
        for client in clients.values():
            await client.close()
    return [
        _finding(config, destination, signal, endpoint, outcome)
        for (destination, signal, endpoint), outcome in zip(wanted, outcomes, strict=True)
    ]


def _finding(
    config: Config, destination: str, signal: Signal, endpoint: Endpoint, outcome: Outcome
) -> Finding:
    where = f"{signal} to {endpoint}"
    own = f"collector.{signal}_endpoint"
    key = own if config.values[own] == endpoint else f"{destination}.endpoint"
    match outcome:
        case Delivered(latency_s=latency_s):
            return Finding("ok", destination, f"{where}: {latency_s * 1000:.0f} ms")
        case Retry(reason=reason):
            remedy = f"start it, or correct {key} ({config.sources[key].where})"
            return Finding("fail", destination, f"{where}: {reason}; {remedy}")
        case Denied(code=code, message=message):
            remedy = "correct collector.headers or the client certificate"
            if destination == "adapter":
                remedy = "correct adapter.token"
            return Finding("fail", destination, f"{where}: {_said(code, message)}; {remedy}")
        case Rejected(code=code, message=message):
            remedy = f"have it take {signal}, or set telemetry.{signal}.enabled: false"
            return Finding("fail", destination, f"{where}: {_said(code, message)}; {remedy}")


def _said(code: str, message: str) -> str:
    return f"{code} {message}" if message else code
