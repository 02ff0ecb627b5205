"""The settings of both programs under `make run`: what the user set, ports that are free, and the
rest so that it works on a desk.
"""

import errno
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from adapter import config as adapter_config
from edge_agent import config as agent_config
from edge_agent.config import Config, InvalidConfigError
from edge_agent.settings import Address, ConfigError, shown
from edge_agent.transport.listen import bind
from edge_agent.transport.loopback import is_loopback

# Of the service manager that started us, if one did: it is us whom it meant.
_NOT_PASSED_ON = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
_RECEIVERS = {"receiver.grpc": "RECEIVER_GRPC", "receiver.http": "RECEIVER_HTTP"}


@dataclass(frozen=True, slots=True)
class Setup:
    """The environments of both, where each is reached, and what the agent makes of its own."""

    agent_environ: Mapping[str, str]
    adapter_environ: Mapping[str, str]
    health: Address
    adapter: Address
    config: Config


async def prepare(environ: Mapping[str, str], state: Path, say: Callable[[str], None]) -> Setup:
    """What both programs are started with; `say` is told of every choice that may surprise.

    Raises InvalidConfigError with everything that is wrong, so that nothing is started then.
    """
    fixed = {"STORE": "sqlite", "STATE_DIRECTORY": str(state / "adapter")}
    given = {k: v for k, v in environ.items() if v.strip() and k not in _NOT_PASSED_ON}
    for name in ("ADAPTER_ENDPOINT", *fixed):
        if name in given and given[name] != fixed.get(name):
            say(f"{name}={shown(given[name])} is not used: this is the adapter with its own store")
    shared = {
        "CUSTOMER_ID": "demo",
        "METRICS_INTERVAL": "5s",
        "BUFFER_PATH": str(state / "agent"),
        **given,
    }
    agent, adapter = _read(shared, {**given, **fixed})
    taken: set[int] = set(_loopback_ports(agent))
    health = await _free("health_check.port", agent.health.host, agent.health.port, taken, say)
    listen = await _free("PORT", adapter.listen_host, adapter.port, taken, say)
    chosen = await _receivers(agent, taken, say)
    listener = Address(_reached(adapter.listen_host), listen)
    agent_environ = {
        **_without_adapter(shared),
        **chosen,
        "HEALTH_CHECK_PORT": str(health),
        "ADAPTER_ENDPOINT": f"http://{listener}",
    }
    return Setup(
        agent_environ=agent_environ,
        adapter_environ={**given, **fixed, "PORT": str(listen)},
        health=Address(_reached(agent.health.host), health),
        adapter=listener,
        config=agent_config.load({}, agent_environ),
    )


def _without_adapter(shared: Mapping[str, str]) -> dict[str, str]:
    """For the agent: what both programs would read as their own is the adapter's."""
    return {k: v for k, v in shared.items() if k not in ("STATE_DIRECTORY", "PORT")}


def _read(
    shared: Mapping[str, str], adapter_environ: Mapping[str, str]
) -> tuple[Config, adapter_config.Config]:
    """What both make of it before ports are chosen; raises InvalidConfigError."""
    problems: list[str] = []
    agent = adapter = None
    try:
        # The adapter's port is not known yet; without any endpoint the agent refuses.
        environ = {**_without_adapter(shared), "ADAPTER_ENDPOINT": "http://127.0.0.1:1"}
        agent = agent_config.load({}, environ)
    except InvalidConfigError as error:
        problems += error.problems
    try:
        adapter = adapter_config.load(adapter_environ)
    except ConfigError as error:
        problems.append(str(error))
    if agent is not None:
        problems += _port_zero(agent)
    if adapter is not None and adapter.port == 0:
        problems.append("PORT=0 (environment): `make run` says where to look; write a port")
    if adapter is not None and adapter.tls is not None:
        problems.append("TLS_CERTIFICATE: `make run` asks its adapter in plain HTTP; unset it")
    if problems or agent is None or adapter is None:
        raise InvalidConfigError(tuple(dict.fromkeys(problems)))
    return agent, adapter


def _port_zero(agent: Config) -> Iterable[str]:
    ports = {"health_check.port": agent.health.port}
    if agent.receiver.enabled:
        ports |= {
            "receiver.grpc": agent.receiver.grpc.port,
            "receiver.http": agent.receiver.http.port,
        }
    for key, port in ports.items():
        if port == 0:
            where = f"{key}={agent.values[key]} ({agent.sources[key].where})"
            yield f"{where}: `make run` says where to look; write a port"


def _loopback_ports(agent: Config) -> Iterable[int]:
    """Those of a collector on this machine, whether or not it runs yet."""
    return (e.port for e in agent.collector.endpoints.values() if is_loopback(e.host))


async def _receivers(
    agent: Config, taken: set[int], say: Callable[[str], None]
) -> Mapping[str, str]:
    """Free addresses for the receivers that the user did not place himself."""
    if agent.sources["receiver.enabled"].kind not in ("default", "because of"):
        return {}
    wanted = {key: agent.values[key] for key in _RECEIVERS}
    placed = {key for key in wanted if agent.sources[key].kind != "default"}
    taken |= {wanted[key].port for key in placed}
    chosen = {}
    for key, variable in _RECEIVERS.items():
        if key in placed:
            continue
        address = wanted[key]
        # gRPC on 4318 would only confuse: that is the other's, also where it is free.
        others = {wanted[other].port for other in wanted if other != key}
        port = await _free(key, address.host, address.port, taken, say, others)
        chosen[variable] = str(Address(address.host, port))
    return chosen


async def _free(
    key: str,
    host: str,
    wanted: int,
    taken: set[int],
    say: Callable[[str], None],
    others: Iterable[int] = (),
) -> int:
    """`wanted`, or the next port on `host` that nothing listens on; noted in `taken`.

    Raises InvalidConfigError where no port of `host` can be listened on.
    """
    for port in range(wanted, 65536):
        if port in taken or port in others:
            continue
        try:
            listeners = await bind(host, port)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                continue
            reason = error.strerror or str(error)
            raise InvalidConfigError((f"{key}: {reason}; choose another host or port",)) from None
        for listener in listeners:
            listener.close()
        if port != wanted:
            say(f"port {wanted} is taken, using {port}")
        taken.add(port)
        return port
    raise InvalidConfigError((f"{key}: no port from {wanted} on is free; choose a lower one",))


def _reached(host: str) -> str:
    """Where what listens on `host` is reached from here."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
