"""The wiring, which is the diagram: sampler -> queues -> clients, and health beside them.

Sources start last and stop first. A task that dies takes the process down with its traceback:
systemd starts it again, and nobody has to guess.
"""

import asyncio
import contextlib
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

from edge_agent import __version__, log
from edge_agent.config import Config
from edge_agent.health import report, server
from edge_agent.health.sdnotify import Heartbeat, Notifier
from edge_agent.otlp.signal import Signal
from edge_agent.own_logs import OwnLogs
from edge_agent.parts import Parts
from edge_agent.receiver import grpc_server, http_server
from edge_agent.settings import ConfigError
from edge_agent.state import InUseError, StateDirectory, open_state
from edge_agent.stop import StopRequest
from edge_agent.transport.loopback import is_loopback
from edge_agent.transport.server_tls import PemFile, server_context
from edge_agent.transport.turns import Turns

EXIT_DIED = 1
EXIT_IN_USE = 75
EXIT_CONFIG = 78
# Container runtimes kill after 10 s, and health and the connections have to close too: what cannot
# be delivered in this time is better counted than cut off.
DRAIN_S = 6.0
CLOSE_S = 1.0
# With a ring, what is not delivered after the first is saved, and after the second left there.
DELIVER_S, LEAVE_S = 1.0, 2.0
# After which a disk that is slow is not waited for again.
SLOW_S = 4.0
OPEN_S = 3.0

_log = log.Log("agent")


class Listener(Protocol):
    """A server that accepts connections, of whatever protocol."""

    # Why connections were ended by us: reason -> how often.
    closed: dict[str, int]

    async def close(self, grace_s: float) -> None:
        """Accept no more, and finish what is in progress within `grace_s`."""
        ...


def run(config: Config, stop: StopRequest) -> int:
    """Run the agent until `stop` is requested; the exit code."""
    log.start(config.telemetry.log_level, journal=config.systemd.journal)
    for warning in config.warnings:
        _log.warning(warning)
    try:
        state = open_state(config.buffer.path)
    except InUseError as error:
        sys.stderr.write(f"otel-agent: {error}\n")
        return EXIT_IN_USE
    try:
        return asyncio.run(_serve(config, stop, state))
    finally:
        state.close()


async def _serve(config: Config, stop: StopRequest, state: StateDirectory) -> int:
    stopping = asyncio.Event()
    stop.forward(asyncio.get_running_loop(), stopping.set)
    parts = Parts(config, state)
    notifier = Notifier(config.systemd.notify_socket)
    heartbeat = Heartbeat(notifier, config.systemd.watchdog_s)
    try:
        listeners = await _listen(config, parts, heartbeat)
    except ConfigError as error:
        sys.stderr.write(f"otel-agent: {error}\n")
        return EXIT_CONFIG
    health, *receivers = listeners.values()
    parts.closed = {
        key.removeprefix("receiver."): listener.closed
        for key, listener in listeners.items()
        if key.startswith("receiver.")
    }
    pulse = asyncio.create_task(heartbeat.run(), name="heartbeat")
    spooling = asyncio.create_task(parts.spool.run(), name="ring")
    exporters = [
        asyncio.create_task(queue.run(), name=f"queue {queue.account.destination}")
        for queue in parts.queues
    ]
    sources = [asyncio.create_task(parts.gate.run(), name="clock")]
    if parts.sampler is not None:
        sampling = parts.sampler.run(config.telemetry.interval_s, parts.emit)
        sources.append(asyncio.create_task(sampling, name="sampler"))
    if (spill := parts.spill()) is not None:
        sources.append(asyncio.create_task(spill.run(), name="spill"))
    own_logs = None
    if ("collector", Signal.LOGS) in parts.destinations:
        own_logs = OwnLogs(
            parts.identity.encoded,
            __version__,
            partial(parts.accept, Signal.LOGS),
            loop=asyncio.get_running_loop(),
        )
        own_logs.start()
    # A large ring that was not closed in order is looked at page by page, which need not hold up
    # anybody for longer than this.
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(OPEN_S):
            await parts.spool.opened.wait()
    _log.info("started", **_introduction(config, receiving=bool(receivers)))
    parts.phase = report.Phase.RUNNING
    notifier.ready(f"sending to {' and '.join(parts.clients)}")
    # Until somebody asks us to stop, nothing may end.
    waiter = asyncio.create_task(stopping.wait(), name="stop request")
    await asyncio.wait(
        [pulse, spooling, *exporters, *sources, waiter], return_when=asyncio.FIRST_COMPLETED
    )
    parts.phase = report.Phase.DRAINING
    notifier.stopping("delivering what is held")
    await asyncio.gather(*(receiver.close(CLOSE_S) for receiver in receivers))
    died = await _end([waiter, *sources])
    if own_logs is not None:
        own_logs.close()
    if parts.sampler is not None:
        parts.sampler.close()
    begun_s = time.monotonic()
    died += await _drain(parts, exporters)
    died += await _end([spooling])
    await parts.spool.close(late=time.monotonic() - begun_s > SLOW_S)
    for queue in parts.queues:
        queue.abandon()
    died += await _end([pulse])
    await asyncio.gather(*(client.close() for client in parts.clients.values()))
    await health.close(CLOSE_S)
    _log.info("stopped", uptime_s=round(parts.state().uptime_s, 1), **parts.totals())
    # Whoever started us reads the totals here, whatever the log level.
    notifier.status(f"stopped {parts.destination_totals()}")
    return EXIT_DIED if died else 0


async def _listen(config: Config, parts: Parts, heartbeat: Heartbeat) -> dict[str, Listener]:
    """Health, then the receivers, by setting; raises ConfigError when one of them cannot listen."""
    health, receiver = config.health, config.receiver
    wanted: list[tuple[str, Callable[[], Awaitable[Listener]]]] = [
        (
            "health_check.port",
            partial(
                server.serve,
                host=health.host,
                port=health.port,
                path=health.path,
                state=parts.state,
                metrics=parts.metrics,
                heartbeat_age_s=heartbeat.age_s,
            ),
        )
    ]
    turns = Turns(asyncio.get_running_loop().call_soon)
    in_the_open: dict[str, str] = {}
    if receiver.enabled and parts.signals:
        for key, address, serve, alpn in (
            ("receiver.grpc", receiver.grpc, grpc_server.serve, "h2"),
            ("receiver.http", receiver.http, http_server.serve, "http/1.1"),
        ):
            tls = server_context(
                PemFile("receiver.tls.certificate", receiver.certificate),
                PemFile("receiver.tls.key", receiver.key),
                PemFile("receiver.tls.client_ca", receiver.client_ca),
                alpn=(alpn,),
            )
            if tls is None and not is_loopback(address.host):
                in_the_open[key] = str(address)
            receive = partial(
                serve,
                parts.core,
                parts.budget,
                host=address.host,
                port=address.port,
                tls=tls,
                turns=turns,
            )
            wanted.append((key, receive))
    if in_the_open:
        _log.warning(
            "receiving without TLS from other machines: who is on the way can read telemetry, and"
            " anybody can forge it",
            settings=",".join(in_the_open),
            addresses=",".join(in_the_open.values()),
            remedy="set receiver.tls, or listen on localhost",
        )
    listeners: dict[str, Listener] = {}
    for key, listen in wanted:
        try:
            listeners[key] = await listen()
        except OSError as error:
            for listener in listeners.values():
                await listener.close(0.0)
            where = f"{key}={config.values[key]} ({config.sources[key].where})"
            reason = error.strerror or str(error)
            raise ConfigError(f"{where}: {reason}; choose another address or port") from None
    return listeners


def _introduction(config: Config, *, receiving: bool) -> Mapping[str, object]:
    endpoints = {str(e) for e in config.collector.endpoints.values()}
    return {
        "version": __version__,
        "customer_id": config.identity.customer_id,
        "node_id": config.identity.node_id,
        "collector": ",".join(sorted(endpoints)) or "none",
        "adapter": config.adapter.endpoint or "none",
        "interval_s": config.telemetry.interval_s,
        "grpc": str(config.receiver.grpc) if receiving else "off",
        "http": str(config.receiver.http) if receiving else "off",
        "health": f"http://{config.health.host}:{config.health.port}{config.health.path}",
    }


async def _drain(parts: Parts, exporters: Sequence[asyncio.Task[None]]) -> list[str]:
    """Deliver what is held in RAM. With a ring a moment is enough, for what is left is saved there;
    without one DRAIN_S is what can be given, and what is left is counted by its queue."""
    for client in parts.clients.values():
        client.reconnect()
    for queue in parts.queues:
        queue.close()
    if exporters:
        await asyncio.wait(exporters, timeout=DELIVER_S)
        begun_s = time.monotonic()
        saved = await parts.spool.commit()
        left_s = (LEAVE_S if saved else DRAIN_S - DELIVER_S) - (time.monotonic() - begun_s)
        await asyncio.wait(exporters, timeout=max(left_s, 0.0))
    return await _end(exporters)


async def _end(tasks: Sequence[asyncio.Task[Any]]) -> list[str]:
    """Cancel what still runs and await all; the names of those that died of an error, logged."""
    for task in tasks:
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    died = []
    for task, result in zip(tasks, results, strict=True):
        if isinstance(result, BaseException) and not isinstance(result, asyncio.CancelledError):
            died.append(task.get_name())
            _log.error("a part of the agent died", part=task.get_name(), exc_info=result)
    return died
