"""The parts of one process, made in the order of the data, and what they say of themselves."""

import time
from collections.abc import Iterator, Mapping, Sequence

from edge_agent import __version__
from edge_agent.clients import clients
from edge_agent.config import Config
from edge_agent.exporter.jitter import jitter
from edge_agent.exporter.memory import Memory
from edge_agent.exporter.queue import Policy, Queue, Reachability
from edge_agent.exporter.retry import Backoff
from edge_agent.exporter.room import Room
from edge_agent.exporter.spill import Spill
from edge_agent.exporter.spool import Spool
from edge_agent.gate import Gate
from edge_agent.health import report
from edge_agent.health.process import Process
from edge_agent.health.prometheus import Receivers, Seeds, exposition
from edge_agent.host.clock import BootClock
from edge_agent.host.identity import Identity, identify, instance_id
from edge_agent.host.machine import Machine
from edge_agent.host.sampler import Sample, Sampler
from edge_agent.host.synchronised import Synchronisation, correction
from edge_agent.ledger import Ledger
from edge_agent.opener import FLOORS, NUMBERS, Opener, boot_id
from edge_agent.otlp.batch import Enricher
from edge_agent.otlp.sampling import sample
from edge_agent.otlp.signal import Signal
from edge_agent.otlp.spans import sample_span
from edge_agent.receiver.core import Core, Durable
from edge_agent.ring.policy import SLOT, budget
from edge_agent.state import StateDirectory
from edge_agent.transport.budget import Budget

# All bodies in RAM.
RAM_BYTES = 16 << 20
# A record of the ring has a header and a table beside its entries.
_RECORD_OVERHEAD_BYTES = 1024
# Request bodies on their way in, of all connections together: counted before they are read.
BUDGET_BYTES = 24 << 20


class Parts:
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
        # By receiver: why connections were ended by us.
        self.closed: dict[str, Mapping[str, int]] = {}
        self.ledger = Ledger()
        self.clients = clients(config)
        self._reachability = {name: Reachability() for name in self.clients}
        self._sample_rate = telemetry.sample_rate
        buffer = config.buffer
        self.strict = buffer.durability == "strict"
        booted = boot_id()
        ring_bytes = buffer.max_slots * SLOT
        self.spool = Spool(
            Opener(state, ring_bytes, self.strict, booted),
            flush_s=buffer.flush_interval_s,
            boottime_nano=lambda: time.clock_gettime_ns(time.CLOCK_BOOTTIME),
            boot_id=booted,
        )
        self.gate = Gate(Synchronisation(machine), correction)
        self._max_piece_bytes = budget(ring_bytes).record_bytes - _RECORD_OVERHEAD_BYTES
        self.memory = Memory(RAM_BYTES, clock=time.monotonic, press=self.spool.press)
        self.room = Room(self.memory, self.spool, strict=self.strict)
        self.queues = tuple(self._open_queues())
        self.destinations = frozenset(
            (queue.account.destination, queue.account.signal) for queue in self.queues
        )
        self.gate.opened = self._opened
        self.signals = frozenset(signal for _, signal in self.destinations)
        self.identity = _identity(config, machine, state)
        self.budget = Budget(BUDGET_BYTES)
        self.core = Core(
            enricher=Enricher(
                self.identity.attributes,
                own_instance_id=self.identity.get("collector.instance.id") or "",
            ),
            signals=self.signals,
            validate=config.receiver.validate,
            sample_rate=telemetry.sample_rate,
            offer=self._offer,
            max_piece_bytes=self._max_piece_bytes,
            accounts={
                signal: [q.account for q in self.queues if q.account.signal is signal]
                for signal in self.signals
            },
        )
        self.sampler: Sampler | None = None
        if Signal.METRICS in telemetry.signals:
            self.sampler = Sampler(
                resource=self.identity.encoded,
                version=__version__,
                machine=machine,
                clock=BootClock(machine),
                exclude=telemetry.exclude,
            )

    def _open_queues(self) -> Iterator[Queue]:
        """A queue for each destination and signal that something is sent from and to."""
        config = self._config
        wanted = [
            ("collector", signal, config.collector.order[signal] == "newest")
            for signal in config.collector.endpoints
        ]
        if "adapter" in self.clients:
            # The adapter's rows have keys: order does not matter, and the newest is worth most.
            wanted.append(("adapter", Signal.METRICS, True))
        retry = config.collector.retry
        for destination, signal, newest_first in wanted:
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
                    drain_rate=config.collector.drain_bytes_per_s,
                    max_request_bytes=self._max_piece_bytes,
                ),
                self._reachability[destination],
                self.memory,
                number=NUMBERS[destination, signal],
                spool=self.spool,
                gate=self.gate,
                jitter=jitter,
            )
            self.memory.share(queue, FLOORS[queue.held.queue])
            yield queue

    def spill(self) -> Spill | None:
        """What moves traces to the adapter, where there are both and it is asked for."""
        config = self._config
        number = NUMBERS["collector", Signal.TRACES]
        for queue in self.queues:
            if queue.held.queue == number and "adapter" in self.clients:
                if config.adapter.spill == "never":
                    return None
                retry = config.collector.retry
                return Spill(
                    queue,
                    self.clients["adapter"],
                    mode=config.adapter.spill,
                    backoff=Backoff(retry.initial_s, retry.max_s),
                    drain_rate=config.collector.drain_bytes_per_s,
                    share=lambda: self.spool.share(number, FLOORS[number]),
                    clock=time.monotonic,
                    jitter=jitter,
                )
        return None

    def accept(self, signal: Signal, body: bytes, items: int) -> None:
        """Put one encoded request into every queue of `signal`; they share its bytes."""
        stamp = self.gate.stamp()
        if stamp is not None:
            body = self.gate.mark(signal, body)
        for queue in self.queues:
            if queue.account.signal is signal:
                queue.put(body, items, stamp)

    def _opened(self) -> None:
        for queue in self.queues:
            queue.wake()

    def _offer(self, signal: Signal, pieces: Sequence[tuple[bytes, int]]) -> bool | Durable:
        """Take what an app sends, all of it or nothing."""
        takers = [queue for queue in self.queues if queue.account.signal is signal]
        if self.memory.full(len(takers) * sum(len(body) for body, _ in pieces)):
            self.spool.press()
            return False
        stamp = self.gate.stamp()
        if stamp is not None:
            pieces = [(self.gate.mark(signal, body), items) for body, items in pieces]
        if self.strict:
            return self.spool.admit(
                [
                    (queue, request)
                    for queue in takers
                    for body, items in pieces
                    for request in queue.requests(body, items, stamp)
                ]
            )
        for queue in takers:
            for body, items in pieces:
                queue.put(body, items, stamp)
        return True

    def emit(self, taken: Sample) -> None:
        """Give a sample to the queues of metrics, and keep what /metrics shows of it."""
        seed = taken.seed
        self._seeds = Seeds(
            cpu_percent=seed.cpu_percent,
            memory_used_bytes=seed.memory_used_bytes,
            disk_used_bytes=seed.disk_used_bytes,
            network_received_bytes=seed.network_received_bytes,
            network_transmitted_bytes=seed.network_transmitted_bytes,
        )
        if taken.items:
            self.accept(Signal.METRICS, taken.body, taken.items)
        if Signal.TRACES in self.signals:
            self._emit_span(taken)

    def _emit_span(self, taken: Sample) -> None:
        body = sample_span(
            self.identity.encoded,
            __version__,
            start_time_unix_nano=taken.time_unix_nano,
            end_time_unix_nano=taken.end_time_unix_nano,
            data_points=taken.items,
            failed=[name for name, good in self.sampler.success.items() if not good]
            if self.sampler is not None
            else (),
        )
        kept = sample(body, self._sample_rate)
        if not kept.items_out:
            self.accept(Signal.TRACES, body, 1)
            return
        for queue in self.queues:
            if queue.account.signal is Signal.TRACES:
                queue.account.accepted.add(1, len(body))
                queue.account.sampled_out.add(1, len(body))

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
            pushing_back=self.room.pushing_back,
        )

    def _buffer(self) -> report.Buffer:
        queues = self.queues
        usage = self.room.usage
        max_slots = self._config.buffer.max_slots
        return report.Buffer(
            current_slots=report.slots_in_use(usage, max_slots),
            max_slots=max_slots,
            bytes=sum(queue.bytes for queue in queues),
            items=sum(queue.items for queue in queues),
            oldest_age_s=max((queue.oldest_age_s() for queue in queues), default=0.0),
            seconds_to_loss=self.room.seconds_to_loss(),
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
            usable=self.spool.usable,
            problem=self.spool.problem,
            ram_full=self.memory.usage >= 1.0,
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
            receivers=Receivers(
                refused={code.name: count for code, count in self.core.refusals.items()},
                closed={
                    (receiver, reason): count
                    for receiver, closed in self.closed.items()
                    for reason, count in closed.items()
                },
            ),
        )

    def destination_totals(self) -> str:
        """What became of the items for each destination, all signals summed, in words."""
        words = []
        for name in dict.fromkeys(account.destination for account in self.ledger):
            accounts = [a for a in self.ledger if a.destination == name]
            held = sum(q.items for q in self.queues if q.account.destination == name)
            words.append(
                f"{name} accepted={sum(a.accepted.items + a.restored.items for a in accounts)}"
                f" delivered={sum(a.delivered.items for a in accounts)}"
                f" lost={sum(a.lost_items() for a in accounts)}"
                f" held={held}"
            )
        return ", ".join(words)

    def totals(self) -> dict[str, int]:
        """Items of the whole run over all destinations: what became of them."""
        return {
            "restored": sum(account.restored.items for account in self.ledger),
            "accepted": sum(account.accepted.items for account in self.ledger),
            "delivered": sum(account.delivered.items for account in self.ledger),
            "lost": sum(account.lost_items() for account in self.ledger),
            "held": sum(queue.items for queue in self.queues),
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
