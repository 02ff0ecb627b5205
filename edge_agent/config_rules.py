"""What settings mean together: requirements, contradictions, and defaults that depend on others.

Works on what config_sources.py read; values that were bad by themselves stand at their default, so
that one start says all that is wrong.
"""

from collections.abc import Mapping

from edge_agent.config_sources import DEFAULT, DEFAULT_FILE, Machine, Reading, Source
from edge_agent.config_table import BY_KEY, FILE, SETTINGS
from edge_agent.otlp.signal import Signal
from edge_agent.settings import Address, ConfigError, environ_text, shown
from edge_agent.transport.loopback import is_loopback
from edge_agent.transport.proxy import proxy_for

SYSTEM_STATE_DIRECTORY = "/var/lib/otel-agent"
_ALL_INTERFACES = ("0.0.0.0", "::")  # noqa: S104 -- recognised here, never bound
_ENDPOINT_KEYS = (
    "collector.endpoint",
    *(f"collector.{signal}_endpoint" for signal in Signal),
)
_NEEDS = (
    ("collector.client_certificate", "collector.client_key"),
    ("collector.client_key", "collector.client_certificate"),
    ("receiver.tls.certificate", "receiver.tls.key"),
    ("receiver.tls.key", "receiver.tls.certificate"),
    ("receiver.tls.client_ca", "receiver.tls.certificate"),
)


class Rules:
    """Checks one Reading, and completes it where a default depends on the machine."""

    def __init__(self, reading: Reading, environ: Mapping[str, str], machine: Machine) -> None:
        self._reading = reading
        self._values = reading.values
        self._environ = environ
        self._machine = machine

    def _about(self, key: str, message: str) -> str:
        value = shown(BY_KEY[key].written(self._values[key]))
        return f"{key}={value} ({self._reading.sources[key].where}): {message}"

    def _fault(self, key: str, message: str) -> None:
        self._reading.problems.append(self._about(key, message))

    def _set(self, key: str) -> bool:
        return self._values[key] is not None or key in self._reading.bad

    def computed_defaults(self) -> None:
        """Defaults that depend on the machine."""
        if not self._set("node.id"):
            # uname(2) of a machine without a name: nothing, or the kernel's word for it.
            name = self._machine.host_name().strip()
            self._values["node.id"] = None if name in ("", "(none)") else name
        if not self._set("buffer.path"):
            path, source = _state_directory(self._environ, self._machine)
            self._values["buffer.path"], self._reading.sources["buffer.path"] = path, source

    def required(self) -> None:
        """CONTRACT: customer.id, and one of collector.endpoint and adapter.endpoint.

        node.id too, where the machine has no name: devices of one name would write one series.
        """
        file = self._reading.file or DEFAULT_FILE
        if not self._set("customer.id"):
            self._reading.problems.append(
                f"customer.id: not set; set CUSTOMER_ID, --customer-id, or customer.id in {file}"
            )
        if not self._set("node.id"):
            self._reading.problems.append(
                "node.id: not set, and this machine has no host name; set NODE_ID, --node-id, or"
                f" node.id in {file}"
            )
        if not any(self._set(key) for key in (*_ENDPOINT_KEYS, "adapter.endpoint")):
            self._reading.problems.append(
                "collector.endpoint: not set, and no adapter.endpoint either; set"
                " OTEL_EXPORTER_OTLP_ENDPOINT, --collector-endpoint, ADAPTER_ENDPOINT, or one of"
                f" both in {file}"
            )

    def pairs(self) -> None:
        """Settings that need another, or exclude it."""
        for key, needed in _NEEDS:
            if self._set(key) and not self._set(needed):
                self._fault(key, f"needs {needed}; set it too")
        values = self._values
        if values["collector.transport"] == "grpcio":
            if values["collector.protocol"] != "grpc":
                self._fault("collector.protocol", "grpcio speaks grpc alone; set one of them")
            if not self._machine.grpcio_installed():
                remedy = "install pulseops-edge[grpcio], or set collector.transport: builtin"
                self._fault("collector.transport", f"grpcio is not installed; {remedy}")
        first, longest = "collector.retry.initial_interval", "collector.retry.max_interval"
        if not self._reading.bad & {first, longest} and values[first] > values[longest]:
            self._fault(first, f"above {longest}; lower it")

    def files(self) -> None:
        """Certificates and keys can be read now; they are read again on every connection."""
        for setting in SETTINGS:
            path = self._values[setting.key]
            if setting.kind is not FILE or path is None:
                continue
            reason = self._machine.unreadable(path)
            if reason is not None:
                self._fault(
                    setting.key, f"cannot be read ({reason}); name a file this user can read"
                )

    def peers(self) -> None:
        """What endpoints mean for TLS and proxies."""
        values = self._values
        keys = [key for key in (*_ENDPOINT_KEYS, "adapter.endpoint") if values[key] is not None]
        for key in keys:
            endpoint = values[key]
            if endpoint.scheme == "unix":
                continue
            try:
                proxy_for(endpoint, self._environ)
            except ConfigError as error:
                if str(error) not in self._reading.problems:
                    self._reading.problems.append(str(error))
        collector = [key for key in keys if key != "adapter.endpoint"]
        self._warn_paths(collector)
        if values["collector.insecure"]:
            self._warn_tls(collector, "collector.insecure", tls=True)
        for key in ("collector.certificate", "collector.client_certificate"):
            if values[key] is not None:
                self._warn_tls(collector, key, tls=False)

    def _warn_paths(self, endpoint_keys: list[str]) -> None:
        if self._values["collector.protocol"] != "grpc":
            return
        for key in endpoint_keys:
            endpoint = self._values[key]
            if endpoint.scheme != "unix" and endpoint.path.strip("/"):
                self._reading.warnings.append(
                    self._about(
                        key,
                        f"gRPC has no paths, {shown(endpoint.path)} is not used; leave it away, or"
                        " set collector.protocol: http/protobuf",
                    )
                )

    def _warn_tls(self, endpoint_keys: list[str], key: str, *, tls: bool) -> None:
        for endpoint_key in endpoint_keys:
            endpoint = self._values[endpoint_key]
            if endpoint.tls is tls:
                self._reading.warnings.append(
                    self._about(key, f"not used for {endpoint_key}={endpoint}: its scheme wins")
                )

    def addresses(self) -> None:
        """Nobody listens where someone else does."""
        values = self._values
        health = Address(values["health_check.host"], values["health_check.port"])
        listeners = {"health_check.port": health}
        if values["receiver.enabled"]:
            self._yield_to_collector()
        if values["receiver.enabled"]:
            listeners |= {key: values[key] for key in ("receiver.grpc", "receiver.http")}
        names = list(listeners)
        for index, key in enumerate(names):
            for other in names[:index]:
                if _clash(listeners[key], listeners[other]):
                    self._fault(key, f"{other} wants that port too; change one of them")

    def _yield_to_collector(self) -> None:
        # CONTRACT: a collector on this machine owns 4317.
        for endpoint_key in (*_ENDPOINT_KEYS, "adapter.endpoint"):
            peer = self._values[endpoint_key]
            # Who sends to all interfaces reaches this machine too: connect(2).
            if peer is None or not (is_loopback(peer.host) or peer.host in _ALL_INTERFACES):
                continue
            for key in ("receiver.grpc", "receiver.http"):
                if _clash(Address(peer.host, peer.port), self._values[key]):
                    self._values["receiver.enabled"] = False
                    self._reading.sources["receiver.enabled"] = Source("because of", endpoint_key)
                    self._reading.warnings.append(
                        f"{endpoint_key}={peer} ({self._reading.sources[endpoint_key].where}):"
                        f" {key} wants that port too; the receiver is off, give it another port"
                        " to have both"
                    )
                    return

    def validation(self) -> None:
        """`receiver.validate: full` without its library works, but slowly."""
        values = self._values
        if not values["receiver.enabled"] or values["receiver.validate"] != "full":
            return
        if not self._machine.protobuf_installed():
            self._reading.warnings.append(
                self._about(
                    "receiver.validate",
                    "opentelemetry-proto is not installed: requests are read in Python, at twenty"
                    " times the cost, and a large one holds up all others for seconds; install"
                    " pulseops-edge[full], or set receiver.validate: structure",
                )
            )

    def not_yet(self) -> None:
        """Settings that this version does not act on, where somebody relies on them."""
        for setting in SETTINGS:
            value = self._values[setting.key]
            default = None if setting.default is None else setting.kind.parse(setting.default)
            if setting.not_yet and value != default:
                self._reading.warnings.append(
                    self._about(setting.key, f"not acted on yet: {setting.not_yet}")
                )

    def unread_variables(self) -> None:
        """OpenTelemetry's per-signal variables, of which the endpoints alone are read."""
        for signal in Signal:
            prefix = f"OTEL_EXPORTER_OTLP_{signal.upper()}_"
            for name in sorted(self._environ):
                rest = name.removeprefix(prefix)
                if rest not in (name, "ENDPOINT") and environ_text(self._environ, name):
                    self._reading.warnings.append(
                        f"{name}: not read; set OTEL_EXPORTER_OTLP_{rest}, which all signals share"
                    )

    def host_root(self) -> str:
        """Where the host's files are, `/` where they are our own."""
        path = environ_text(self._environ, "HOST_ROOT")
        if path is None:
            return "/"
        if not path.startswith("/") or not self._machine.is_directory(path):
            self._reading.problems.append(
                f"HOST_ROOT={shown(path)} (environment): not an absolute directory; mount the"
                " host's / there or unset it"
            )
        return path.rstrip("/") or "/"


def _clash(one: Address, other: Address) -> bool:
    if one.port != other.port or one.port == 0:
        return False
    if one.host == other.host or (is_loopback(one.host) and is_loopback(other.host)):
        return True
    return any(address.host in _ALL_INTERFACES for address in (one, other))


def _state_directory(environ: Mapping[str, str], machine: Machine) -> tuple[str, Source]:
    state = environ_text(environ, "STATE_DIRECTORY")
    if state is not None:
        # systemd.exec(5): several are separated by colons; ours is the first.
        return state.partition(":")[0], Source("environment", "STATE_DIRECTORY")
    if machine.writable_directory(SYSTEM_STATE_DIRECTORY):
        return SYSTEM_STATE_DIRECTORY, DEFAULT
    home = environ_text(environ, "HOME") or machine.home()
    return f"{home.rstrip('/')}/.local/state/otel-agent", DEFAULT
