"""The wiring, which is the diagram: sampler -> queues -> clients, and health beside them.

Sources start last and stop first. A task that dies takes the process down with its traceback:
systemd starts it again, and nobody has to guess.
"""

import asyncio
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from edge_agent import __version__, log
from edge_agent.config import CollectorConfig, Config
from edge_agent.exporter.grpc_client import GrpcClient
from edge_agent.exporter.http_client import HttpClient
from edge_agent.exporter.jitter import jitter
from edge_agent.exporter.memory import Memory
from edge_agent.exporter.queue import Policy, Queue, Reachability
from edge_agent.exporter.retry import Backoff, Client
from edge_agent.health import report, server
from edge_agent.health.process import Process
from edge_agent.health.prometheus import Seeds, exposition
from edge_agent.health.sdnotify import Heartbeat, Notifier
from edge_agent.host.clock import BootClock
from edge_agent.host.identity import Identity, identify, instance_id
from edge_agent.host.machine import Machine
from edge_agent.host.sampler import Sample, Sampler
from edge_agent.ledger import Ledger
from edge_agent.otlp.signal import HTTP_PATHS, Signal
from edge_agent.settings import Endpoint
from edge_agent.state import InUseError, StateDirectory, open_state
from edge_agent.stop import StopRequest
from edge_agent.transport.dial import Tls
from edge_agent.transport.proxy import proxy_for

EXIT_DIED = 1
EXIT_IN_USE = 75
EXIT_CONFIG = 78
# Container runtimes kill after 10 s, and health and the connections have to close too: what cannot
# be delivered in this time is better counted than cut off.
DRAIN_S = 6.0
CLOSE_S = 1.0
# All bodies in RAM, and what each queue may always hold of it (DESIGN, "Who loses at the cap").
RAM_BYTES = 16 << 20
FLOORS = {Signal.METRICS: 0.25, Signal.TRACES: 0.15, Signal.LOGS: 0.10}
ADAPTER_FLOOR = 0.15
LOOPBACK = ("localhost", "127.0.0.1", "::1")
USER_AGENT = f"pulseops-edge/{__version__}"

_log = log.Log("agent")


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


def clients(config: Config) -> dict[str, Client]:
    """A client for each destination that is configured: `collector`, `adapter`."""
    found: dict[str, Client] = {}
    collector = config.collector
    shared: dict[str, Any] = {
        # What is trusted for the collector is trusted for the adapter, a peer of the same site.
        "tls": Tls(collector.certificate, collector.client_certificate, collector.client_key),
        "timeout_s": collector.timeout_s,
        "max_reconnect_s": collector.retry.max_s,
        "environ_proxy": partial(proxy_for, environ=config.proxy_environ),
        "user_agent": USER_AGENT,
    }
    if collector.endpoints:
        found["collector"] = _collector_class(collector)(
            collector.endpoints,
            headers=collector.headers,
            gzip=collector.gzip,
            **shared,
        )
    if config.adapter.endpoint is not None:
        token = config.adapter.token
        found["adapter"] = HttpClient(
            adapter_endpoints(config.adapter.endpoint),
            headers=() if token is None else (("authorization", f"Bearer {token}"),),
            gzip=config.adapter.endpoint.host not in LOOPBACK,
            **shared,
        )
    return found


def _collector_class(collector: CollectorConfig) -> Callable[..., Client]:
    if collector.protocol == "http/protobuf":
        return HttpClient
    if collector.transport == "grpcio":
        # grpcio costs 20 MB of RSS: only who chose it pays.
        from edge_agent.exporter.grpcio_client import GrpcioClient

        return GrpcioClient
    return GrpcClient


def adapter_endpoints(base: Endpoint) -> dict[Signal, Endpoint]:
    """Where the adapter at `base` takes metrics, and traces that could not be delivered."""
    return {
        signal: Endpoint(base.scheme, base.host, base.port, base.path + HTTP_PATHS[signal])
        for signal in (Signal.METRICS, Signal.TRACES)
    }


class Agent:
    """The parts of one process, made in the order of the data."""

    def __init__(self, config: Config, state: StateDirectory) -> None:
        root = config.host_root.rstrip("/")
        telemetry = config.telemetry
        machine = Machine(
            root=root,
            exclude_mounts=telemetry.exclude_mounts,
            exclude_interfaces=telemetry.exclude_interfaces,
        )
        self._config = config
        self._state = state
        self._started_s = time.monotonic()
        self._process = Process()
        self._seeds = Seeds()
        self.phase = report.Phase.STARTING
        self.ledger = Ledger()
        self.clients = clients(config)
        self._reachability = {name: Reachability() for name in self.clients}
        self.memory = Memory(RAM_BYTES, clock=time.monotonic)
        self.queues = tuple(self._open_queues())
        self.sampler: Sampler | None = None
        if Signal.METRICS in telemetry.signals:
            self.sampler = Sampler(
                resource=_identity(config, machine, state).encoded,
                version=__version__,
                machine=machine,
                clock=BootClock(machine),
                exclude=telemetry.exclude,
            )

    def _open_queues(self) -> Iterator[Queue]:
        """A queue for each destination and signal that something is sent from and to."""
        config = self._config
        wanted = [
            ("collector", signal, config.collector.order[signal] == "newest", FLOORS[signal])
            for signal in config.collector.endpoints
        ]
        if "adapter" in self.clients:
            # The adapter's rows have keys: order does not matter, and the newest is worth most.
            wanted.append(("adapter", Signal.METRICS, True, ADAPTER_FLOOR))
        retry = config.collector.retry
        for destination, signal, newest_first, floor in wanted:
            if signal not in config.telemetry.signals:
                continue
            queue = Queue(
                self.ledger.account(destination, signal),
                self.clients[destination],
                Policy(
                    newest_first=newest_first,
                    lanes=2 if newest_first else 1,
                    batch_items=config.buffer.batch_items,
                    retry=retry.enabled,
                    backoff=Backoff(retry.initial_s, retry.max_s),
                    max_elapsed_s=retry.max_elapsed_s,
                ),
                self._reachability[destination],
                self.memory,
                jitter=jitter,
            )
            self.memory.share(queue, floor)
            yield queue

    def accept(self, signal: Signal, body: bytes, items: int) -> None:
        """Put one encoded request into every queue of `signal`; they share its bytes."""
        for queue in self.queues:
            if queue.account.signal is signal:
                queue.put(body, items)

    def emit(self, sample: Sample) -> None:
        """Give a sample to the queues of metrics, and keep what /metrics shows of it."""
        seed = sample.seed
        self._seeds = Seeds(
            cpu_percent=seed.cpu_percent,
            memory_used_bytes=seed.memory_used_bytes,
            disk_used_bytes=seed.disk_used_bytes,
            network_received_bytes=seed.network_received_bytes,
            network_transmitted_bytes=seed.network_transmitted_bytes,
        )
        if sample.items:
            self.accept(Signal.METRICS, sample.body, sample.items)

    def state(self) -> report.State:
        """What /health tells, now."""
        collector = None
        if "collector" in self.clients:
            reachability = self._reachability["collector"]
            endpoint = next(iter(self._config.collector.endpoints.values()))
            collector = report.Collector(
                endpoint=endpoint.authority,
                error=reachability.error,
                consecutive_failures=reachability.consecutive_failures,
                last_success_unix_nano=reachability.last_success_unix_nano,
                latency_s=reachability.latency_s,
            )
        return report.State(
            phase=self.phase,
            now_unix_nano=time.time_ns(),
            uptime_s=time.monotonic() - self._started_s,
            version=__version__,
            collector=collector,
            buffer=self._buffer(),
            resources=self._process.read(),
        )

    def _buffer(self) -> report.Buffer:
        queues = self.queues
        usage = self.memory.usage
        max_slots = self._config.buffer.max_slots
        return report.Buffer(
            current_slots=report.slots_in_use(usage, max_slots),
            max_slots=max_slots,
            bytes=self.memory.bytes,
            items=sum(queue.items for queue in queues),
            oldest_age_s=max((queue.oldest_age_s() for queue in queues), default=0.0),
            seconds_to_loss=self.memory.seconds_to_loss(),
            durability=self._config.buffer.durability,
            queues=tuple(
                report.QueueState(
                    destination=queue.account.destination,
                    signal=queue.account.signal.value,
                    items=queue.items,
                    bytes=queue.bytes,
                    oldest_age_s=queue.oldest_age_s(),
                    last_error=queue.last_error,
                )
                for queue in queues
            ),
            dropped_spans=self.ledger.lost_items(Signal.TRACES),
            last_drop_age_s=_least(queue.last_drop_age_s() for queue in queues),
            usable=not self._state.problem,
            ram_full=usage >= 1.0,
        )

    def metrics(self) -> str:
        """The text of /metrics, now."""
        return exposition(
            self.state(),
            self.ledger,
            self._seeds,
            customer_id=self._config.identity.customer_id,
            node_id=self._config.identity.node_id,
            sampler_success={} if self.sampler is None else self.sampler.success,
        )

    def totals(self) -> dict[str, int]:
        """Items of the whole run over all destinations: what became of them."""
        return {
            "accepted": sum(account.accepted.items for account in self.ledger),
            "delivered": sum(account.delivered.items for account in self.ledger),
            "lost": sum(account.lost_items() for account in self.ledger),
        }


def _least(values: Iterator[float | None]) -> float | None:
    return min((value for value in values if value is not None), default=None)


def _identity(config: Config, machine: Machine, state: StateDirectory) -> Identity:
    who = config.identity
    return identify(
        machine,
        customer_id=who.customer_id,
        customer_name=who.customer_name,
        node_id=who.node_id,
        node_region=who.node_region,
        environment=who.environment,
        instance_id=instance_id(None if state.problem else state.path),
        version=__version__,
        attributes=config.resource.items(),
    )


async def _serve(config: Config, stop: StopRequest, state: StateDirectory) -> int:
    stopping = asyncio.Event()
    stop.forward(asyncio.get_running_loop(), stopping.set)
    if state.problem:
        _log.error(
            "state directory cannot be used, keeping data in RAM alone",
            problem=state.problem,
            remedy="make it writable for this user, or name another with BUFFER_PATH",
        )
    agent = Agent(config, state)
    notifier = Notifier(config.systemd.notify_socket)
    heartbeat = Heartbeat(notifier, config.systemd.watchdog_s)
    health = config.health
    try:
        listener = await server.serve(
            host=health.host,
            port=health.port,
            path=health.path,
            state=agent.state,
            metrics=agent.metrics,
            heartbeat_age_s=heartbeat.age_s,
        )
    except OSError as error:
        where = f"health_check.port={health.port} ({config.sources['health_check.port'].where})"
        reason = error.strerror or str(error)
        sys.stderr.write(f"otel-agent: {where}: {reason} on {health.host}; choose another\n")
        return EXIT_CONFIG
    pulse = asyncio.create_task(heartbeat.run(), name="heartbeat")
    exporters = [
        asyncio.create_task(queue.run(), name=f"queue {queue.account.destination}")
        for queue in agent.queues
    ]
    sources = []
    if agent.sampler is not None:
        sampling = agent.sampler.run(config.telemetry.interval_s, agent.emit)
        sources.append(asyncio.create_task(sampling, name="sampler"))
    _log.info("started", **_introduction(config))
    agent.phase = report.Phase.RUNNING
    notifier.ready(f"sending to {' and '.join(agent.clients)}")
    # Until somebody asks us to stop, nothing may end.
    waiter = asyncio.create_task(stopping.wait(), name="stop request")
    await asyncio.wait([pulse, *exporters, *sources, waiter], return_when=asyncio.FIRST_COMPLETED)
    agent.phase = report.Phase.DRAINING
    notifier.stopping("delivering what is held")
    died = await _end([waiter, *sources])
    if agent.sampler is not None:
        agent.sampler.close()
    died += await _drain(agent, exporters)
    died += await _end([pulse])
    for client in agent.clients.values():
        await client.close()
    await listener.close(CLOSE_S)
    _log.info("stopped", uptime_s=round(agent.state().uptime_s, 1), **agent.totals())
    return EXIT_DIED if died else 0


def _introduction(config: Config) -> Mapping[str, object]:
    endpoints = {str(e) for e in config.collector.endpoints.values()}
    return {
        "version": __version__,
        "customer_id": config.identity.customer_id,
        "node_id": config.identity.node_id,
        "collector": ",".join(sorted(endpoints)) or "none",
        "adapter": config.adapter.endpoint or "none",
        "interval_s": config.telemetry.interval_s,
        "health": f"http://{config.health.host}:{config.health.port}{config.health.path}",
    }


async def _drain(agent: Agent, exporters: Sequence[asyncio.Task[None]]) -> list[str]:
    """Deliver what is held, for DRAIN_S at most; what is left is counted by its queue."""
    for client in agent.clients.values():
        client.reconnect()
    for queue in agent.queues:
        queue.close()
    if exporters:
        await asyncio.wait(exporters, timeout=DRAIN_S)
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
