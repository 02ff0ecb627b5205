"""argv of `otel-agent load` -> what was asked for. Pure."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from edge_agent import settings
from edge_agent.otlp.signal import Signal
from edge_agent.settings import ConfigError, Endpoint

_PORTS = {"grpc": 4317, "http/protobuf": 4318}
# HTTP/1.1 has one request in flight on a connection.
_CONNECTIONS = {"grpc": 4, "http/protobuf": 16}
_CLIENT_PAIR = ("--client-certificate", "--client-key")
_NOUNS = {
    Signal.TRACES: "spans",
    Signal.METRICS: "data points",
    Signal.LOGS: "log records",
}


@dataclass(frozen=True, slots=True)
class Options:
    """One load. `rate_per_s` counts requests; `item_bytes` 0 pads nothing."""

    endpoint: Endpoint
    protocol: str
    signals: tuple[Signal, ...]
    rate_per_s: int
    duration_s: float
    items: int
    item_bytes: int
    connections: int
    gzip: bool
    certificate: str | None = None
    client_certificate: str | None = None
    client_key: str | None = None

    @property
    def noun(self) -> str:
        """What its items are called."""
        return _NOUNS[self.signals[0]] if len(self.signals) == 1 else "items"


def options(flags: Mapping[str, str]) -> Options:
    """The load that `flags` ask for; raises ConfigError naming the flag."""

    def read(flag: str, default: str, parse: Callable[..., Any], **bounds: Any) -> Any:
        text = flags.get(flag, default)
        return settings.in_context(partial(parse, **bounds), text, key=flag, source="command line")

    protocol = read("--protocol", "grpc", settings.parse_choice, choices=_PORTS)
    endpoint = read(
        "--endpoint",
        f"http://localhost:{_PORTS[protocol]}",
        settings.parse_endpoint,
        bare_scheme="http",
        bare_port=_PORTS[protocol],
    )
    count = settings.parse_int
    files = {
        flag: read(flag, "", settings.parse_path) if flag in flags else None
        for flag in ("--certificate", "--client-certificate", "--client-key")
    }
    _check_files(files, endpoint)
    return Options(
        endpoint=endpoint,
        protocol=protocol,
        signals=read("--signal", Signal.TRACES, _parse_signals),
        rate_per_s=read("--rate", "100", count, least=1, most=100_000),
        duration_s=read("--duration", "60s", settings.parse_duration_s, least_s=1.0),
        items=read("--items", "8", count, least=1, most=10_000),
        item_bytes=read("--size", "0", settings.parse_size_bytes, most=16 << 20),
        connections=read("--connections", str(_CONNECTIONS[protocol]), count, least=1, most=1000),
        gzip="--gzip" in flags,
        certificate=files["--certificate"],
        client_certificate=files["--client-certificate"],
        client_key=files["--client-key"],
    )


def _check_files(files: Mapping[str, str | None], endpoint: Endpoint) -> None:
    """Raises ConfigError where files of TLS lack each other, or TLS itself."""
    for flag, path in files.items():
        if path is None:
            continue
        where = f"{flag}={settings.shown(path)} (command line)"
        if not endpoint.tls:
            raise ConfigError(f"{where}: {endpoint} has no TLS; write https:// into --endpoint")
        for one, other in (_CLIENT_PAIR, _CLIENT_PAIR[::-1]):
            if flag == one and files[other] is None:
                raise ConfigError(f"{where}: needs {other}; set it too")


def _parse_signals(text: str) -> tuple[Signal, ...]:
    """One signal, or several with commas between them, which take turns."""
    return tuple(Signal(settings.parse_choice(word, Signal)) for word in text.split(","))
