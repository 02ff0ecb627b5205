"""Which HTTP proxy leads to a peer, by the variables that curl and Go programs read. Pure."""

import base64
import contextlib
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass

from edge_agent.settings import ConfigError, Endpoint, environ_text, in_context, parse_endpoint
from edge_agent.transport.loopback import is_loopback


@dataclass(frozen=True, slots=True)
class Proxy:
    """An HTTP proxy; `authorization` is the value of its Proxy-Authorization header."""

    host: str
    port: int
    authorization: str | None = None

    @property
    def endpoint(self) -> Endpoint:
        """The proxy as a peer to dial."""
        return Endpoint("http", self.host, self.port)


def proxy_for(endpoint: Endpoint, environ: Mapping[str, str]) -> Proxy | None:
    """The proxy that `environ` names for `endpoint`, or None.

    HTTPS_PROXY serves https, HTTP_PROXY http, in upper or lower case. NO_PROXY lists what is
    reached directly: `*`, host names (with all below them), `.suffix`, addresses and CIDR blocks,
    each with an optional port. Loopback always is. Raises ConfigError for a URL that is none.
    """
    names = ("HTTPS_PROXY", "https_proxy") if endpoint.tls else ("HTTP_PROXY", "http_proxy")
    for name in names:
        text = environ_text(environ, name)
        if text is not None:
            no_proxy = environ_text(environ, "NO_PROXY") or environ_text(environ, "no_proxy")
            if _direct(endpoint.host.lower().rstrip("."), endpoint.port, no_proxy or ""):
                return None
            return in_context(_parse_proxy, text, key=name, source="environment")
    return None


def _parse_proxy(text: str) -> Proxy:
    scheme, found, rest = text.partition("://")
    if not found:
        scheme, rest = "http", text
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    # A password may itself contain an @: the last one ends it.
    credentials, given, host = authority.rpartition("@")
    if scheme.lower() != "http":
        raise ConfigError("only HTTP proxies can be used; write it as http://host:port")
    endpoint = parse_endpoint(f"http://{host}")
    if not given:
        return Proxy(endpoint.host, endpoint.port)
    raw = re.sub(rb"%([0-9A-Fa-f]{2})", lambda m: bytes([int(m[1], 16)]), credentials.encode())
    basic = base64.b64encode(raw if b":" in raw else raw + b":").decode()
    return Proxy(endpoint.host, endpoint.port, f"Basic {basic}")


def _direct(host: str, port: int, no_proxy: str) -> bool:
    address = _address_bits(host)
    if is_loopback(host):
        return True
    return any(
        _excepted(host, port, address, entry.lower()) for entry in re.split(r"[,\s]+", no_proxy)
    )


def _excepted(host: str, port: int, address: str | None, entry: str) -> bool:
    if entry == "*":
        return True
    with_port = re.fullmatch(r"(\[.*\]|[^:]*):([0-9]+)", entry)
    if with_port is not None:
        entry = with_port[1]
        if int(with_port[2]) != port:
            return False
    entry = entry.strip("[]").removeprefix("*").rstrip(".")
    if not entry:
        return False
    if address is not None:
        return _in_block(address, entry)
    return host.endswith(entry) if entry.startswith(".") else f".{host}".endswith(f".{entry}")


def _address_bits(text: str) -> str | None:
    """An address as a string of binary digits, 32 or 128; None for a name."""
    text = text.partition("%")[0]
    for family in (socket.AF_INET, socket.AF_INET6):
        with contextlib.suppress(OSError):
            raw = socket.inet_pton(family, text)
            return "".join(f"{byte:08b}" for byte in raw)
    return None


def _in_block(address: str, block: str) -> bool:
    network, slash, length = block.partition("/")
    bits = _address_bits(network)
    if bits is None or len(bits) != len(address) or (slash and not length.isdecimal()):
        return False
    kept = int(length) if slash else len(bits)
    return bits[:kept] == address[:kept]
