"""`otel-agent check`: what the agent would do here, and what stands in its way.

A line a finding, `ok`, `warn` or `fail`, its subject, what was seen, and the remedy. `warn` is what
the agent can live with; `fail` is what an operator has to act on, also where the agent would start
all the same. Nothing is left behind: no directory made, no telemetry sent (requests are empty).
"""

import asyncio
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from edge_agent.config import Config
from edge_agent.exporter.retry import Client, Delivered, Denied, Outcome, Rejected, Retry
from edge_agent.otlp.signal import Signal
from edge_agent.ring.policy import SLOT
from edge_agent.settings import (
    Address,
    ConfigError,
    Endpoint,
    format_duration,
    format_size,
    one_line,
)
from edge_agent.state import in_use
from edge_agent.transport.listen import bind
from edge_agent.transport.proxy import proxy_for
from edge_agent.transport.server_tls import PemFile, server_context


@dataclass(frozen=True, slots=True)
class Finding:
    """One line: `level` is ok, warn or fail."""

    level: str
    subject: str
    message: str


@dataclass(frozen=True, slots=True)
class Way:
    """What is sent where."""

    destination: str
    signal: Signal
    endpoint: Endpoint


# By destination, collector or adapter; made where the agent makes its own.
Clients = Callable[[Config], Mapping[str, Client]]


def line(level: str, subject: str, message: str) -> str:
    """A finding as it is printed."""
    # A peer's words may be part of it.
    return f"{level:5} {subject:10} {one_line(message)}\n"


async def run(config: Config, clients: Clients, write: Callable[[str], object]) -> bool:
    """Check everything in the order of the data's way; whether nothing failed."""
    passed = True
    here = (*plan(config), *await receivers(config), state_directory(config))
    for finding in (*here, await health_address(config)):
        write(line(finding.level, finding.subject, finding.message))
        passed &= finding.level != "fail"
    for finding in await peers(config, clients(config)):
        write(line(finding.level, finding.subject, finding.message))
        passed &= finding.level != "fail"
    return passed


def ways(config: Config) -> list[Way]:
    """Every queue the agent would have: an enabled signal that somebody is to take."""
    enabled = config.telemetry.signals
    found = [
        Way("collector", signal, endpoint)
        for signal, endpoint in config.collector.endpoints.items()
        if signal in enabled
    ]
    if config.adapter.endpoint is not None and Signal.METRICS in enabled:
        found.append(Way("adapter", Signal.METRICS, config.adapter.endpoint))
    return found


def plan(config: Config) -> Iterator[Finding]:
    """What the settings say, and what is odd about them."""
    who = f"customer {config.identity.customer_id}, node {config.identity.node_id}"
    yield Finding("ok", "config", f"{config.file or 'no file'}: {who}")
    for warning in config.warnings:
        yield Finding("warn", "config", warning)
    if Signal.METRICS not in config.telemetry.signals:
        yield Finding("ok", "host", "not sampled: telemetry.metrics.enabled is false")
        return
    every = format_duration(config.telemetry.interval_s)
    what = f"sampled every {every}, read under {config.host_root}"
    if not any(way.signal is Signal.METRICS for way in ways(config)):
        what += ", for /metrics alone: no endpoint takes metrics"
    yield Finding("ok", "host", what)


# ---- this machine -----------------------------------------------------------------------------


async def receivers(config: Config) -> list[Finding]:
    """What is taken from apps on this machine, and whether it could be listened for."""
    receiver = config.receiver
    signals = {way.signal for way in ways(config)}
    if not receiver.enabled:
        why = f"receiver.enabled is false ({config.sources['receiver.enabled']})"
        return [Finding("ok", "receiver", f"off: {why}")]
    if not signals:
        return [Finding("ok", "receiver", "off: there is nobody to send anything to")]
    try:
        server_context(
            PemFile("receiver.tls.certificate", receiver.certificate),
            PemFile("receiver.tls.key", receiver.key),
            PemFile("receiver.tls.client_ca", receiver.client_ca),
        )
    except ConfigError as error:
        return [Finding("fail", "receiver", str(error))]
    taken = ", ".join(signal for signal in Signal if signal in signals)
    return [
        await _listening(
            "receiver", "receiver.grpc", receiver.grpc, f"gRPC on {receiver.grpc}: {taken}"
        ),
        await _listening(
            "receiver", "receiver.http", receiver.http, f"HTTP on {receiver.http}: {taken}"
        ),
    ]


async def health_address(config: Config) -> Finding:
    """Whether the health endpoint could be served."""
    address = Address(config.health.host, config.health.port)
    url = f"http://{address}{config.health.path}"
    return await _listening("health", "health_check.port", address, url)


async def _listening(subject: str, key: str, address: Address, what: str) -> Finding:
    try:
        sockets = await bind(address.host, address.port)
    except OSError as error:
        reason = error.strerror or str(error)
        return Finding("warn", subject, f"{reason}; unless that is the agent itself, set {key}")
    for listener in sockets:
        listener.close()
    return Finding("ok", subject, what)


def state_directory(config: Config) -> Finding:
    """Whether buffer.path can be used, and is not another agent's."""
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
    if in_use(path):
        # The usual case: the agent runs, and somebody wants to know how it is.
        return Finding(
            "warn",
            "buffer",
            f"{path} is in use by an agent that runs: with these settings a second one ends with"
            " exit code 75; stop that one, or set buffer.path",
        )
    size = format_size(config.buffer.max_slots * SLOT)
    return Finding("ok", "buffer", f"a ring of {size} in {path}")


# ---- peers ------------------------------------------------------------------------------------


async def peers(config: Config, clients: Mapping[str, Client]) -> list[Finding]:
    """Send an empty request for every signal to whom it goes to, all at once."""
    wanted = ways(config)
    try:
        outcomes = await asyncio.gather(
            *(clients[way.destination].export(way.signal, b"") for way in wanted)
        )
    finally:
        for client in clients.values():
            await client.close()
    return [_finding(config, *pair) for pair in zip(wanted, outcomes, strict=True)]


def _finding(config: Config, way: Way, outcome: Outcome) -> Finding:
    where = f"{way.signal} to {way.endpoint}"
    match outcome:
        case Delivered(latency_s=latency_s):
            return Finding("ok", way.destination, f"{where}: {latency_s * 1000:.0f} ms")
        case Retry(reason=reason):
            remedy = _remedy(config, way, reason)
            return Finding("fail", way.destination, f"{where}: {reason}; {remedy}")
        case Denied(code=code, message=message):
            remedy = "correct collector.headers or the client certificate"
            if way.destination == "adapter":
                remedy = "correct adapter.token"
            return Finding("fail", way.destination, f"{where}: {_said(code, message)}; {remedy}")
        case Rejected(code=code, message=message):
            remedy = f"have it take {way.signal}, or set telemetry.{way.signal}.enabled: false"
            return Finding("fail", way.destination, f"{where}: {_said(code, message)}; {remedy}")


# What OpenSSL says of an answer in plain text, by version.
_NO_TLS = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE")
# What asyncio says of a peer that hung up on a greeting it did not know, or did not like.
_HUNG_UP = "closed the connection during the handshake"


def _remedy(config: Config, way: Way, reason: str) -> str:
    """What to do about a peer that could not be asked, by the `reason` that our clients give."""
    own = f"collector.{way.signal}_endpoint"
    of_signal = way.destination == "collector" and config.values[own] is not None
    key = own if of_signal else f"{way.destination}.endpoint"
    setting = f"{key} ({config.sources[key].where})"
    plain = way.endpoint.authority
    no_tls = any(word in reason for word in _NO_TLS)
    if no_tls or _HUNG_UP in reason:
        known = "it speaks no TLS:" if no_tls else "if it speaks no TLS,"
        bare = ", or host:port alone with collector.insecure: true"
        return (
            f"{known} write http://{plain} into {setting}"
            f"{bare if way.destination == 'collector' else ''}"
        )
    grpc = way.destination == "collector" and config.collector.protocol == "grpc"
    if grpc and "broke HTTP/2" in reason:
        return (
            f"it speaks no gRPC: give {setting} its gRPC port (usually 4317, while 4318 is HTTP),"
            " or set collector.protocol: http/protobuf"
        )
    if not grpc and "not an HTTP/1 response" in reason:
        return f"it speaks no HTTP/1: give {setting} its HTTP port (usually 4318, 4317 is gRPC's)"
    proxy = None
    if way.endpoint.scheme != "unix":
        proxy = proxy_for(way.endpoint, config.proxy_environ)
    if proxy is not None and "TLS:" not in reason:
        names = ("HTTPS_PROXY", "https_proxy") if way.endpoint.tls else ("HTTP_PROXY", "http_proxy")
        name = next(name for name in names if name in config.proxy_environ)
        return (
            f"correct {name}, which has us ask the proxy {proxy.endpoint.authority}, name"
            f" {way.endpoint.host} in NO_PROXY, or correct {setting}"
        )
    return f"start it, or correct {setting}"


def _said(code: str, message: str) -> str:
    return f"{code} {message}" if message else code
