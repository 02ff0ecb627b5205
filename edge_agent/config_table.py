"""Every setting once: key, variables, flag, default, type and help. Pure.

This table drives the file, the environment, the flags, `--help`, `otel-agent config` and the table
in README.md. Defaults are text, read like any other.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from functools import partial
from typing import Any

from edge_agent.log import LEVELS
from edge_agent.settings import (
    REDACTED,
    ConfigError,
    format_duration,
    format_size,
    parse_address,
    parse_bool,
    parse_choice,
    parse_duration_s,
    parse_endpoint,
    parse_fraction,
    parse_host,
    parse_int,
    parse_path,
    parse_size_bytes,
    parse_text,
    parse_timeout_s,
    parse_token,
)

SLOT_BYTES = 32 << 10
MIN_SLOTS = 64
MAX_SLOTS = 5120


class Shape(Enum):
    """How a setting is written in YAML."""

    ONE = auto()
    LIST = auto()
    MAP = auto()


@dataclass(frozen=True, slots=True)
class Kind:
    """A type of value: `parse` raises ConfigError, `written` is its inverse."""

    name: str
    parse: Callable[[str], Any]
    written: Callable[[Any], str] = str
    parse_environment: Callable[[str], Any] | None = None
    shape: Shape = Shape.ONE


def _parse_slots(text: str) -> int:
    """Slots in a bare number; a size is as many slots as fit into it."""
    if text.isascii() and text.isdigit():
        slots, unit = parse_int(text), "slots of 32 KiB"
    else:
        slots, unit = parse_size_bytes(text) // SLOT_BYTES, "slots of 32 KiB in it"
    if slots < MIN_SLOTS:
        raise ConfigError(f"below {MIN_SLOTS} {unit}; raise it")
    if slots > MAX_SLOTS:
        raise ConfigError(f"above {MAX_SLOTS} {unit}; lower it")
    return slots


def _parse_health_path(text: str) -> str:
    path = parse_path(text).rstrip("/")
    if not path.startswith("/") or any(c in path for c in " ?#%"):
        raise ConfigError("not a plain URL path; write it as /health")
    # `/` is the page for a person, `/metrics` is Prometheus's.
    if path == "/metrics" or path.startswith("/metrics/"):
        raise ConfigError("taken by the agent's own metrics; write it as /health")
    return path


def _written_bool(value: bool) -> str:  # noqa: FBT001 -- called with the value alone
    return "true" if value else "false"


def _choice(*choices: str, **aliases: str) -> Kind:
    return Kind(" or ".join(choices), partial(parse_choice, choices=choices, aliases=aliases))


def _duration(least: str, most: str) -> Kind:
    least_s, most_s = parse_duration_s(least), parse_duration_s(most)
    parse = partial(parse_duration_s, least_s=least_s, most_s=most_s)
    return Kind("duration", parse, format_duration)


def _whole(least: int, most: int) -> Kind:
    return Kind("number", partial(parse_int, least=least, most=most))


BOOLEAN = Kind("boolean", parse_bool, _written_bool)
TEXT = Kind("text", parse_text)
TOKEN = Kind("token", parse_token)
# A file that must be there when the agent starts.
FILE = Kind("file", parse_path)
DIRECTORY = Kind("directory", parse_path)
FRACTION = Kind("fraction", parse_fraction, "{:g}".format)
ADDRESS = Kind("host:port", parse_address)
HOST = Kind("host", parse_host)
SLOTS = Kind("number", _parse_slots)
HEALTH_PATH = Kind("path", _parse_health_path)
SIZE = Kind("size", partial(parse_size_bytes, least=1024), format_size)
GLOBS = Kind("globs", parse_text, shape=Shape.LIST)
HEADERS = Kind("headers", parse_text, shape=Shape.MAP)
ATTRIBUTES = Kind("attributes", parse_text, shape=Shape.MAP)
# How bare text is read depends on other settings: config.py adds those arguments.
COLLECTOR_ENDPOINT = Kind("endpoint", parse_endpoint)
ADAPTER_ENDPOINT = Kind("endpoint", partial(parse_endpoint, bare_scheme=None))
TIMEOUT_LEAST_S = 0.1
TIMEOUT_MOST_S = 600.0
TIMEOUT = Kind(
    "duration",
    partial(parse_duration_s, least_s=TIMEOUT_LEAST_S, most_s=TIMEOUT_MOST_S),
    format_duration,
    partial(parse_timeout_s, least_s=TIMEOUT_LEAST_S, most_s=TIMEOUT_MOST_S),
)
ORDER = _choice("oldest", "newest")
_UNITLESS = ("boolean", "number", "fraction")


@dataclass(frozen=True, slots=True)
class Setting:
    """A row. `default` is text as a user would write it, None where there is none.

    `computed` says in words what a default is that depends on the machine. Where `secret_file`,
    the variable's name with _FILE behind it names a file to read the value from. `not_yet` says
    what this version does instead of acting on it, where it does not.
    """

    key: str
    kind: Kind
    default: str | None
    help: str
    env: str | None = None
    flag: str | None = None
    computed: str | None = None
    secret: bool = False
    secret_file: bool = False
    more_env: str | None = None
    not_yet: str = ""

    @property
    def about(self) -> str:
        """The help, and whether it is acted on."""
        return f"{self.help}; not acted on yet: {self.not_yet}" if self.not_yet else self.help

    @property
    def variables(self) -> tuple[str, ...]:
        """Every variable it is read from."""
        names = (self.env, f"{self.env}_FILE" if self.secret_file else None, self.more_env)
        return tuple(name for name in names if name is not None)

    def written(self, value: Any) -> str:
        """`value` as a person would write it, secrets redacted; `none` where there is none."""
        if value is None or value == ():
            return "none"
        if self.kind is HEADERS:
            return ",".join(f"{name}={REDACTED}" for name, _ in value)
        if self.secret:
            return REDACTED
        if self.kind.shape is Shape.LIST:
            return ",".join(value)
        return self.kind.written(value)

    def plain(self, value: Any) -> object:
        """`value` for JSON, secrets redacted; durations and sizes stay text, with their units."""
        if value is None or self.kind.name in _UNITLESS:
            return value
        if self.kind is HEADERS:
            return {name: REDACTED for name, _ in value}
        if self.kind.shape is Shape.LIST:
            return list(value)
        return self.written(value)


_OTLP = "OTEL_EXPORTER_OTLP_"

SETTINGS = (
    Setting(
        "collector.endpoint", COLLECTOR_ENDPOINT, None,
        "the collector: http://, https:// or a bare host:port",
        env=f"{_OTLP}ENDPOINT", flag="--collector-endpoint",
    ),
    Setting(
        "collector.traces_endpoint", COLLECTOR_ENDPOINT, None,
        "where traces go instead; with http/protobuf its path is used as it is",
        env=f"{_OTLP}TRACES_ENDPOINT",
    ),
    Setting(
        "collector.metrics_endpoint", COLLECTOR_ENDPOINT, None,
        "where metrics go instead",
        env=f"{_OTLP}METRICS_ENDPOINT",
    ),
    Setting(
        "collector.logs_endpoint", COLLECTOR_ENDPOINT, None,
        "where logs go instead",
        env=f"{_OTLP}LOGS_ENDPOINT",
    ),
    Setting(
        "collector.insecure", BOOLEAN, "false",
        "no TLS for a bare host:port; a scheme wins over it",
        env=f"{_OTLP}INSECURE",
    ),
    Setting(
        "collector.protocol", _choice("grpc", "http/protobuf"), "grpc",
        "grpc or http/protobuf",
        env=f"{_OTLP}PROTOCOL",
    ),
    Setting(
        "collector.headers", HEADERS, None,
        "sent with every request: a map, or key=value,key=value percent-encoded",
        env=f"{_OTLP}HEADERS", secret=True, secret_file=True,
    ),
    Setting(
        "collector.compression", _choice("gzip", "none"), "gzip",
        "gzip or none",
        env=f"{_OTLP}COMPRESSION",
    ),
    Setting(
        "collector.timeout", TIMEOUT, "10s",
        "for one request, 100ms to 10m; a bare number in the variable is milliseconds",
        env=f"{_OTLP}TIMEOUT",
    ),
    Setting(
        "collector.certificate", FILE, None,
        "PEM file of the authorities to trust",
        env=f"{_OTLP}CERTIFICATE", computed="the system's roots",
    ),
    Setting(
        "collector.client_certificate", FILE, None,
        "PEM file of our certificate; needs client_key",
        env=f"{_OTLP}CLIENT_CERTIFICATE",
    ),
    Setting(
        "collector.client_key", FILE, None,
        "PEM file of its key",
        env=f"{_OTLP}CLIENT_KEY",
    ),
    Setting("collector.retry.enabled", BOOLEAN, "true", "retry what may succeed later"),
    Setting(
        "collector.retry.initial_interval", _duration("10ms", "1h"), "1s",
        "before the first retry, doubled from there",
    ),
    Setting(
        "collector.retry.max_interval", _duration("10ms", "1d"), "30s",
        "the longest wait between retries and reconnects",
    ),
    Setting(
        "collector.retry.max_elapsed_time", _duration("0s", "366d"), "5m",
        "after this long an outage is probed every max_interval; nothing is dropped for time",
    ),
    Setting(
        "collector.transport", _choice("builtin", "grpcio"), "builtin",
        "builtin or grpcio (needs the extra of that name)",
    ),
    Setting("collector.order.metrics", ORDER, "oldest", "oldest or newest first"),
    Setting("collector.order.traces", ORDER, "newest", "oldest or newest first"),
    Setting("collector.order.logs", ORDER, "newest", "oldest or newest first"),
    Setting(
        "collector.drain_rate", SIZE, "1MiB",
        "how fast a backlog is sent: uncompressed, a second",
    ),
    Setting(
        "collector.max_bytes_per_day", SIZE, None,
        "the most sent in a day",
        not_yet="there is no limit",
    ),
    Setting(
        "adapter.endpoint", ADAPTER_ENDPOINT, None,
        "the adapter: http:// or https://; without it, no adapter",
        env="ADAPTER_ENDPOINT",
    ),
    Setting(
        "adapter.token", TOKEN, None,
        "sent to the adapter as Authorization: Bearer",
        env="ADAPTER_TOKEN", secret=True, secret_file=True,
    ),
    Setting(
        "adapter.spill", _choice("failing", "full", "never"), "failing",
        "when traces go to the adapter: failing, full or never",
        not_yet="the adapter of this version takes none, and they stay in the ring",
    ),
    Setting(
        "customer.id", TEXT, None,
        "whose device this is; required",
        env="CUSTOMER_ID", flag="--customer-id",
    ),
    Setting("customer.name", TEXT, None, "the customer's name", env="CUSTOMER_NAME"),
    Setting(
        "node.id", TEXT, None,
        "which device this is",
        env="NODE_ID", flag="--node-id", computed="the host name",
    ),
    Setting("node.region", TEXT, None, "where it stands", env="NODE_REGION"),
    Setting(
        "node.environment", TEXT, "production",
        "deployment.environment.name",
        env="ENVIRONMENT",
    ),
    Setting(
        "telemetry.metrics.enabled", BOOLEAN, "true",
        "sample this machine and take metrics of local apps",
        env="METRICS_ENABLED",
    ),
    Setting(
        "telemetry.metrics.interval", _duration("1s", "1d"), "15s",
        "between samples of this machine, 1s to 1d",
        env="METRICS_INTERVAL",
    ),
    Setting("telemetry.metrics.exclude", GLOBS, None, "metric names not to send: globs"),
    Setting("telemetry.metrics.exclude_mounts", GLOBS, None, "mount points not to report: globs"),
    Setting(
        "telemetry.metrics.exclude_interfaces", GLOBS, None,
        "network interfaces not to report: globs",
    ),
    Setting(
        "telemetry.traces.enabled", BOOLEAN, "true",
        "make and take spans",
        env="TRACES_ENABLED",
    ),
    Setting(
        "telemetry.traces.sample_rate", FRACTION, "1.0",
        "the share of traces kept, 0 to 1",
        env="TRACES_SAMPLE_RATE",
    ),
    Setting(
        "telemetry.logs.enabled", BOOLEAN, "true",
        "send the agent's own log and take logs of local apps; stderr is not touched",
        env="LOGS_ENABLED",
    ),
    Setting(
        "telemetry.logs.level", _choice(*LEVELS, warn="warning"), "info",
        "of the agent's own log: debug, info, warning or error",
        env="LOG_LEVEL",
    ),
    Setting(
        "buffer.path", DIRECTORY, None,
        "the state directory, which holds the ring",
        env="BUFFER_PATH",
        computed="$STATE_DIRECTORY, else /var/lib/otel-agent where it exists and is writable,"
        " else ~/.local/state/otel-agent",
    ),
    Setting(
        "buffer.max_size", SLOTS, "2048",
        "slots of 32 KiB, or a size: 64 (2MiB) to 5120 (160MiB)",
        env="BUFFER_MAX_SIZE",
    ),
    Setting(
        "buffer.batch_size", _whole(1, 65536), "512",
        "items in a request, a target",
        env="BUFFER_BATCH_SIZE",
    ),
    Setting(
        "buffer.flush_interval", _duration("100ms", "1h"), "5s",
        "the greatest age of data that is in RAM alone",
    ),
    Setting(
        "buffer.durability", _choice("flush", "strict"), "flush",
        "flush or strict (a sender's OK waits for the disk)",
    ),
    Setting("receiver.enabled", BOOLEAN, "true", "take OTLP from apps on this machine"),
    Setting(
        "receiver.grpc", ADDRESS, "localhost:4317",
        "where gRPC is taken; localhost is both loopback families",
        env="RECEIVER_GRPC",
    ),
    Setting("receiver.http", ADDRESS, "localhost:4318", "where HTTP is taken", env="RECEIVER_HTTP"),
    Setting(
        "receiver.validate", _choice("structure", "full"), "structure",
        "structure (the framing, down to the span) or full (UTF-8 and id lengths too; with the"
        " extra of that name)",
    ),
    Setting("receiver.tls.certificate", FILE, None, "PEM file; with it the receiver speaks TLS"),
    Setting("receiver.tls.key", FILE, None, "PEM file of its key"),
    Setting("receiver.tls.client_ca", FILE, None, "PEM file: senders need a certificate of these"),
    Setting(
        "health_check.host", HOST, "127.0.0.1",
        "where /health and /metrics are served",
        env="HEALTH_CHECK_HOST",
    ),
    Setting(
        "health_check.port", _whole(0, 65535), "8080",
        "the port of /health and /metrics",
        env="HEALTH_CHECK_PORT", flag="--health-port",
    ),
    Setting("health_check.path", HEALTH_PATH, "/health", "live and ready hang below it"),
    Setting(
        "resource", ATTRIBUTES, None,
        "attributes of every Resource: a map, or key=value,key=value percent-encoded",
        env="OTEL_RESOURCE_ATTRIBUTES", more_env="OTEL_SERVICE_NAME",
        computed="service.name=otel-agent",
    ),
)  # fmt: skip
BY_KEY = {setting.key: setting for setting in SETTINGS}

# Read from the environment alone: set by the system around us, not by a person configuring us.
SURROUNDINGS = {
    "HOST_ROOT": "where the host's /proc, /sys, /etc/machine-id and /etc/os-release are mounted",
    "HTTPS_PROXY": "proxy to peers with TLS (http://[user:password@]host:port)",
    "HTTP_PROXY": "proxy to peers without TLS",
    "NO_PROXY": "peers reached without a proxy: hosts, .suffixes, CIDR blocks or *",
    "STATE_DIRECTORY": "the state directory systemd made for us",
    "NOTIFY_SOCKET": "where systemd wants to be told of readiness",
    "WATCHDOG_USEC": "how often systemd wants a sign of life",
    "WATCHDOG_PID": "whom that was meant for",
    "JOURNAL_STREAM": "stderr goes to the journal",
}
