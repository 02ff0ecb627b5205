"""Settings from flags, environment, file and defaults, in that precedence, to one Config.

The only reader of os.environ. Everything that is wrong is collected and said at once. The rows are
in config_table.py, what wins is in config_sources.py, what they mean together in config_rules.py.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from edge_agent.config_rules import Rules
from edge_agent.config_sources import DEFAULT, Machine, Reading, Source, read_settings
from edge_agent.config_table import SETTINGS
from edge_agent.otlp.signal import HTTP_PATHS, Signal
from edge_agent.settings import Address, ConfigError, Endpoint, environ_text, one_line, shown

_PROXY_VARIABLES = (
    "HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "NO_PROXY", "no_proxy",
)  # fmt: skip


class InvalidConfigError(ConfigError):
    """Everything that is wrong with the settings, a message each."""

    def __init__(self, problems: tuple[str, ...]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


# ---- the result -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RetryConfig:
    """collector.retry: delays in seconds."""

    enabled: bool
    initial_s: float
    max_s: float
    max_elapsed_s: float


@dataclass(frozen=True, slots=True)
class CollectorConfig:
    """The collector. `endpoints` lacks the signals that have none; it is empty without one.

    With http/protobuf each endpoint's path is the one to POST to.
    """

    endpoints: Mapping[Signal, Endpoint]
    protocol: str
    transport: str
    headers: tuple[tuple[str, str], ...] = field(repr=False)
    gzip: bool
    timeout_s: float
    certificate: str | None
    client_certificate: str | None
    client_key: str | None
    retry: RetryConfig
    order: Mapping[Signal, str]
    drain_bytes_per_s: int
    max_bytes_per_day: int | None


@dataclass(frozen=True, slots=True)
class AdapterConfig:
    """The adapter; `endpoint` is None without one."""

    endpoint: Endpoint | None
    token: str | None = field(repr=False)
    spill: str


@dataclass(frozen=True, slots=True)
class IdentityConfig:
    """Who this is: customer.* and node.*."""

    customer_id: str
    customer_name: str | None
    node_id: str
    node_region: str | None
    environment: str


@dataclass(frozen=True, slots=True)
class TelemetryConfig:
    """What is produced and taken. `signals` are the enabled ones."""

    signals: frozenset[Signal]
    interval_s: float
    exclude: tuple[str, ...]
    exclude_mounts: tuple[str, ...]
    exclude_interfaces: tuple[str, ...]
    sample_rate: float
    log_level: str


@dataclass(frozen=True, slots=True)
class BufferConfig:
    """The queues' memory and the ring: `max_slots` of 32 KiB, durability flush or strict."""

    path: str
    max_slots: int
    batch_items: int
    flush_interval_s: float
    durability: str


@dataclass(frozen=True, slots=True)
class ReceiverConfig:
    """Where local apps send OTLP."""

    enabled: bool
    grpc: Address
    http: Address
    validate: str
    certificate: str | None
    key: str | None
    client_ca: str | None


@dataclass(frozen=True, slots=True)
class HealthConfig:
    """Where /health and /metrics are served."""

    host: str
    port: int
    path: str


@dataclass(frozen=True, slots=True)
class SystemdConfig:
    """What systemd told us: sd_notify(3), sd_watchdog_enabled(3), JOURNAL_STREAM.

    `watchdog_s` is the longest it waits for a sign of life, None where it does not.
    """

    notify_socket: str | None
    watchdog_s: float | None
    journal: bool


@dataclass(frozen=True, slots=True)
class Config:
    """Every setting, parsed and checked.

    `values` has the same by key (of the table's types), `sources` where each came from; a
    `resource` attribute appears in `sources` as `resource.NAME`. `warnings` are to be logged once.
    """

    collector: CollectorConfig
    adapter: AdapterConfig
    identity: IdentityConfig
    telemetry: TelemetryConfig
    buffer: BufferConfig
    receiver: ReceiverConfig
    health: HealthConfig
    systemd: SystemdConfig
    resource: Mapping[str, str]
    host_root: str
    proxy_environ: Mapping[str, str] = field(repr=False)
    file: str | None
    values: Mapping[str, Any] = field(repr=False)
    sources: Mapping[str, Source] = field(repr=False)
    warnings: tuple[str, ...]


def environment() -> Mapping[str, str]:
    """The process's environment."""
    return os.environ


def load(
    flags: Mapping[str, str], environ: Mapping[str, str], machine: Machine | None = None
) -> Config:
    """Read the settings. `flags` maps a flag (`--customer-id`, `--config`) to its text.

    Raises InvalidConfigError with everything that is wrong.
    """
    machine = Machine() if machine is None else machine
    reading = read_settings(flags, environ, machine)
    rules = Rules(reading, environ, machine)
    rules.computed_defaults()
    rules.required()
    rules.pairs()
    rules.files()
    rules.peers()
    rules.addresses()
    rules.validation()
    rules.not_yet()
    rules.unread_variables()
    host_root = rules.host_root()
    if reading.problems:
        raise InvalidConfigError(tuple(reading.problems))
    return _assembled(reading, environ, machine, host_root)


def load_buffer(
    flags: Mapping[str, str], environ: Mapping[str, str], machine: Machine | None = None
) -> tuple[BufferConfig, Source]:
    """The settings `buffer.*`, and where the path is from, whatever else is missing or wrong.

    Raises InvalidConfigError with what is wrong with them or with the file.
    """
    machine = Machine() if machine is None else machine
    reading = read_settings(flags, environ, machine)
    Rules(reading, environ, machine).computed_defaults()
    others = tuple(s.key for s in SETTINGS if not s.key.startswith("buffer."))
    problems = tuple(p for p in reading.problems if not p.startswith(others))
    if problems:
        raise InvalidConfigError(problems)
    return _buffer(reading.values), reading.sources["buffer.path"]


# ---- assembly ---------------------------------------------------------------------------------


def _endpoints(values: Mapping[str, Any]) -> dict[Signal, Endpoint]:
    """OTLP exporter specification, "Endpoint URLs for OTLP/HTTP": a base endpoint gets the signal's
    path appended, one of a signal's own is used as it is, `/` where it has none.
    """
    http = values["collector.protocol"] == "http/protobuf"
    endpoints = {}
    for signal in Signal:
        own, base = values[f"collector.{signal}_endpoint"], values["collector.endpoint"]
        chosen: Endpoint | None = own or base
        if chosen is None:
            continue
        path = chosen.path
        if http:
            path = (own.path or "/") if own else base.path + HTTP_PATHS[signal]
        endpoints[signal] = Endpoint(chosen.scheme, chosen.host, chosen.port, path)
    return endpoints


def _systemd(environ: Mapping[str, str], machine: Machine) -> SystemdConfig:
    usec = environ_text(environ, "WATCHDOG_USEC") or ""
    pid = environ_text(environ, "WATCHDOG_PID")
    ours = usec.isascii() and usec.isdigit() and pid in (None, str(machine.pid))
    journal = environ_text(environ, "JOURNAL_STREAM")
    return SystemdConfig(
        notify_socket=environ_text(environ, "NOTIFY_SOCKET"),
        watchdog_s=(int(usec) / 1e6 or None) if ours else None,
        # Children of a service inherit the variable: it counts for the very same stream alone.
        journal=journal is not None and journal == machine.stderr_id(),
    )


def _buffer(values: Mapping[str, Any]) -> BufferConfig:
    return BufferConfig(
        path=values["buffer.path"],
        max_slots=values["buffer.max_size"],
        batch_items=values["buffer.batch_size"],
        flush_interval_s=values["buffer.flush_interval"],
        durability=values["buffer.durability"],
    )


def _assembled(
    reading: Reading, environ: Mapping[str, str], machine: Machine, host_root: str
) -> Config:
    v = reading.values
    signals = (s for s in Signal if v[f"telemetry.{s}.enabled"])
    return Config(
        collector=CollectorConfig(
            endpoints=_endpoints(v),
            protocol=v["collector.protocol"],
            transport=v["collector.transport"],
            headers=v["collector.headers"],
            gzip=v["collector.compression"] == "gzip",
            timeout_s=v["collector.timeout"],
            certificate=v["collector.certificate"],
            client_certificate=v["collector.client_certificate"],
            client_key=v["collector.client_key"],
            retry=RetryConfig(
                enabled=v["collector.retry.enabled"],
                initial_s=v["collector.retry.initial_interval"],
                max_s=v["collector.retry.max_interval"],
                max_elapsed_s=v["collector.retry.max_elapsed_time"],
            ),
            order={signal: v[f"collector.order.{signal}"] for signal in Signal},
            drain_bytes_per_s=v["collector.drain_rate"],
            max_bytes_per_day=v["collector.max_bytes_per_day"],
        ),
        adapter=AdapterConfig(
            endpoint=v["adapter.endpoint"], token=v["adapter.token"], spill=v["adapter.spill"]
        ),
        identity=IdentityConfig(
            customer_id=v["customer.id"],
            customer_name=v["customer.name"],
            node_id=v["node.id"],
            node_region=v["node.region"],
            environment=v["node.environment"],
        ),
        telemetry=TelemetryConfig(
            signals=frozenset(signals),
            interval_s=v["telemetry.metrics.interval"],
            exclude=v["telemetry.metrics.exclude"],
            exclude_mounts=v["telemetry.metrics.exclude_mounts"],
            exclude_interfaces=v["telemetry.metrics.exclude_interfaces"],
            sample_rate=v["telemetry.traces.sample_rate"],
            log_level=v["telemetry.logs.level"],
        ),
        buffer=_buffer(v),
        receiver=ReceiverConfig(
            enabled=v["receiver.enabled"],
            grpc=v["receiver.grpc"],
            http=v["receiver.http"],
            validate=v["receiver.validate"],
            certificate=v["receiver.tls.certificate"],
            key=v["receiver.tls.key"],
            client_ca=v["receiver.tls.client_ca"],
        ),
        health=HealthConfig(
            host=v["health_check.host"], port=v["health_check.port"], path=v["health_check.path"]
        ),
        systemd=_systemd(environ, machine),
        resource=v["resource"],
        host_root=host_root,
        proxy_environ={n: t for n in _PROXY_VARIABLES if (t := environ_text(environ, n))},
        file=reading.file,
        values=v,
        sources=reading.sources,
        warnings=tuple(reading.warnings),
    )


@dataclass(frozen=True, slots=True)
class Effective:
    """A setting as it is in force: `text` for a person, `plain` for JSON, secrets redacted."""

    key: str
    text: str
    plain: object
    source: Source


def effective(config: Config) -> Iterator[Effective]:
    """Every row of the table, then what the system around us set."""
    for setting in SETTINGS:
        if setting.key == "resource":
            for name, value in config.resource.items():
                key = f"resource.{name}"
                yield Effective(one_line(key), one_line(value), value, config.sources[key])
        else:
            value = config.values[setting.key]
            source = config.sources[setting.key]
            yield Effective(setting.key, setting.written(value), setting.plain(value), source)
    root = config.host_root
    source = DEFAULT if root == "/" else Source("environment", "HOST_ROOT")
    yield Effective("HOST_ROOT", one_line(root), root, source)
    for name, text in config.proxy_environ.items():
        yield Effective(name, shown(text), shown(text), Source("environment", name))
