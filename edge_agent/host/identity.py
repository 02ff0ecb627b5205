"""Who we are: the attributes of the Resource that leaves with everything.

https://opentelemetry.io/docs/specs/semconv/resource/ for the names that are not ours.
"""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass

from edge_agent.host.machine import Machine, read_if_there, text
from edge_agent.log import Log
from edge_agent.otlp.resource import resource

log = Log("host.identity")

# The agent's alone: nobody else's value for these leaves, and an unset one is absent.
IDENTITY_PREFIXES = ("customer.", "node.", "collector.")

# uname(2)'s machine -> host.arch. Others go as they are.
_ARCHITECTURES = {
    "x86_64": "amd64",
    "aarch64": "arm64",
    "aarch64_be": "arm64",
    "armv6l": "arm32",
    "armv7l": "arm32",
    "armv8l": "arm32",
    "i386": "x86",
    "i486": "x86",
    "i586": "x86",
    "i686": "x86",
    "ppc": "ppc32",
    "ppc64le": "ppc64",
}


@dataclass(frozen=True, slots=True)
class Identity:
    """The attributes in the order in which they leave, and the encoded Resource message."""

    attributes: tuple[tuple[str, str], ...]
    encoded: bytes

    def get(self, key: str) -> str | None:
        """The value of an attribute, None when it is absent."""
        return dict(self.attributes).get(key)


def identify(
    machine: Machine,
    *,
    customer_id: str,
    customer_name: str | None,
    node_id: str,
    node_region: str | None,
    environment: str | None,
    instance_id: str,
    version: str,
    attributes: Iterable[tuple[str, str]] = (),
    uname: os.uname_result | None = None,
) -> Identity:
    """What this agent on this machine is, from settings, uname(2) and files under the root.

    `attributes` are the user's: they win over what is found here, except for identity keys.
    """
    kernel = os.uname() if uname is None else uname
    found: dict[str, str | None] = {
        "customer.id": customer_id,
        "customer.name": customer_name,
        "node.id": node_id,
        "node.region": node_region,
        "deployment.environment.name": environment,
        "collector.name": "otel-agent",
        "collector.type": "edge",
        "collector.instance.id": instance_id,
        "service.name": "otel-agent",
        "service.version": version,
        "service.instance.id": instance_id,
        "host.name": kernel.nodename,
        "host.id": _line(machine, "etc/machine-id"),
        "host.arch": _ARCHITECTURES.get(kernel.machine, kernel.machine),
        "os.type": "linux",
    }
    release = os_release(read_if_there(f"{machine.root}/etc/os-release") or b"")
    found["os.name"] = release.get("NAME")
    found["os.version"] = release.get("VERSION_ID")
    found["os.description"] = release.get("PRETTY_NAME")
    found |= _device(machine)
    for key, value in attributes:
        if key.startswith(IDENTITY_PREFIXES):
            log.warning("resource attribute is the agent's own and was left out", attribute=key)
        else:
            found[key] = value
    pairs = tuple((key, value) for key, value in found.items() if value)
    return Identity(pairs, resource(pairs))


def _line(machine: Machine, path: str) -> str | None:
    data = read_if_there(f"{machine.root}/{path}")
    return None if data is None else text(data)


def _device(machine: Machine) -> dict[str, str | None]:
    """The device tree's names: `model` for people, the first of `compatible` for programs."""
    directory = machine.sys("firmware/devicetree/base")
    strings = {}
    for name in ("model", "compatible"):
        # Devicetree specification, 2.2.4: strings end in a NUL, lists are strings end to end.
        data = read_if_there(f"{directory}/{name}") or b""
        strings[name] = text(data.partition(b"\0")[0])
    return {
        "device.model.name": strings["model"] or None,
        "device.model.identifier": strings["compatible"] or None,
    }


def os_release(data: bytes) -> dict[str, str]:
    """os-release(5): NAME=value lines, quoted as in a shell, `#` comments."""
    values = {}
    for line in text(data).splitlines():
        name, equals, value = line.strip().partition("=")
        if not equals or name.startswith("#"):
            continue
        if len(value) >= 2 and value[0] == value[-1] and value[0] in "\"'":
            quote, value = value[0], value[1:-1]
            if quote == '"':
                value = re.sub(r'\\(["$`\\])', r"\1", value)
        values[name] = value
    return values


def _random_uuid() -> str:
    """RFC 9562, version 4; importing `uuid` would cost more memory than these lines."""
    data = bytearray(os.urandom(16))
    data[6] = data[6] & 0x0F | 0x40
    data[8] = data[8] & 0x3F | 0x80
    digits = data.hex()
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def _is_uuid(value: str) -> bool:
    parts = value.split("-")
    return [len(part) for part in parts] == [8, 4, 4, 4, 12] and all(
        digit in "0123456789abcdef" for part in parts for digit in part
    )


def instance_id(state_directory: str | None) -> str:
    """collector.instance.id: random, kept in the file `instance-id` of the state directory.

    Without a directory that can be written it holds for this process, and one warning says so.
    """
    fresh = _random_uuid()
    if state_directory is None:
        log.warning("no state directory: the instance id changes with every start")
        return fresh
    path = f"{state_directory}/instance-id"
    kept = text(read_if_there(path) or b"")
    if _is_uuid(kept):
        return kept
    if kept:
        log.warning("instance id is no UUID and is replaced", path=path, value=kept[:80])
    draft = f"{path}.new"
    try:
        with open(draft, "w", encoding="ascii") as file:
            file.write(f"{fresh}\n")
            file.flush()
            # Renamed before it is on disk, a power cut would leave an empty file.
            os.fsync(file.fileno())
        os.replace(draft, path)
    except OSError as error:
        log.warning(
            "instance id cannot be kept: it changes with every start", path=path, error=str(error)
        )
    return fresh
