"""Parsers from the text of a setting to its value, shared with the adapter. Pure.

A parser takes text that is already trimmed and not blank, and raises ConfigError with the reason
and the remedy alone; whoever knows key and source puts them in front with `in_context`:
`buffer.max_size=16 (BUFFER_MAX_SIZE): below 64 slots of 32 KiB; raise it`.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


class ConfigError(ValueError):
    """A setting that cannot be used. The message names value, source and remedy, never a secret."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a peer is.

    `scheme` is http, https, or unix (grpcio alone): then `path` is that of the socket, and host
    and port are empty. Otherwise `path` is empty or begins with a slash.
    """

    scheme: str
    host: str
    port: int
    path: str = ""

    @property
    def tls(self) -> bool:
        """Whether the peer is spoken to through TLS."""
        return self.scheme == "https"

    @property
    def authority(self) -> str:
        """`host:port`, IPv6 addresses in brackets; `localhost` for a unix socket."""
        if self.scheme == "unix":
            return "localhost"
        return str(Address(self.host, self.port))

    def __str__(self) -> str:
        if self.scheme == "unix":
            return f"unix:{self.path}"
        return f"{self.scheme}://{self.authority}{self.path}"


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen. Port 0 takes a free one."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


# ---- what a message may say -------------------------------------------------------------------

REDACTED = "***"
_MAX_SHOWN = 100


def shown(text: str) -> str:
    """`text` fit for a message: one line, bounded, without the credentials a URL may carry."""
    # Up to the last @ of all: a password that nobody encoded may contain any of `@/?#`.
    text = re.sub(
        r"^((?:[A-Za-z][A-Za-z0-9+.-]*:)?//)?.*@", rf"\1{REDACTED}@", text, flags=re.DOTALL
    )
    text = re.sub(r"\?.*", f"?{REDACTED}", text, flags=re.DOTALL)
    text = one_line(text)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."


def one_line(text: str) -> str:
    """`text` with what cannot be printed escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def in_context(
    parse: Callable[[str], T], text: str, *, key: str, source: str, secret: bool = False
) -> T:
    """`parse(text)`, with `key=text (source): ` in front of what it complains about."""
    try:
        # Bytes of the environment that are not UTF-8 arrive as lone surrogates (PEP 383).
        if any("\ud800" <= c <= "\udfff" for c in text):
            raise ConfigError("not UTF-8; write it in UTF-8")
        return parse(text)
    except ConfigError as error:
        value = REDACTED if secret else shown(text)
        raise ConfigError(f"{key}={value} ({source}): {error}") from None


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The one of `known` that `word` most likely stands for, or None."""
    # Here alone, on the way to an error: the agent otherwise never pays for it.
    import difflib

    return next(iter(difflib.get_close_matches(word.lower(), list(known), n=1, cutoff=0.5)), None)


# ---- where text comes from --------------------------------------------------------------------


def environ_text(environ: Mapping[str, str], name: str) -> str | None:
    """The trimmed value of a variable; None where it is unset, empty or blank."""
    return environ.get(name, "").strip() or None


def secret_text(
    environ: Mapping[str, str], name: str, read: Callable[[str], str]
) -> tuple[str, str] | None:
    """The secret in `name`, or in the file that `name`_FILE names, with the variable it came from.

    `read` returns a file's text or raises OSError. Raises ConfigError when both are set, and when
    the file cannot be read or holds nothing.
    """
    file_name = f"{name}_FILE"
    value, path = environ_text(environ, name), environ_text(environ, file_name)
    if path is None:
        return None if value is None else (value, name)
    where = f"{file_name}={shown(path)}"
    if value is not None:
        raise ConfigError(f"{where}: {name} is set too; unset one of them")
    try:
        text = read(path).strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise ConfigError(
            f"{where}: cannot be read ({reason}); name a file this user can read"
        ) from None
    if not text:
        raise ConfigError(f"{where}: the file is empty; write the secret into it")
    return text, file_name


# ---- numbers ----------------------------------------------------------------------------------


def parse_bool(text: str) -> bool:
    """true/false, 1/0, yes/no, on/off in any case."""
    word = text.lower()
    if word in ("true", "1", "yes", "on"):
        return True
    if word in ("false", "0", "no", "off"):
        return False
    raise ConfigError("not a boolean; write true or false")


def parse_int(text: str, *, least: int = 0, most: int = 2**63 - 1) -> int:
    """ASCII digits, within `least` and `most`."""
    # Twenty digits hold every 64-bit number; int() refuses thousands with an error of its own.
    if re.fullmatch(r"[0-9]{1,20}", text) is None:
        raise ConfigError("not a whole number; write it in digits alone")
    return _bounded(int(text), least, most, str)


def parse_fraction(text: str) -> float:
    """A number from 0 to 1 in decimal notation."""
    if re.fullmatch(r"[0-9]{1,20}(\.[0-9]{0,20})?|\.[0-9]{1,20}", text) is None:
        raise ConfigError("not a number; write one from 0 to 1, as 0.25")
    return _bounded(float(text), 0.0, 1.0, lambda value: f"{value:g}")


_N = TypeVar("_N", int, float)


def _bounded(value: _N, least: _N, most: _N, written: Callable[[_N], str]) -> _N:
    if value < least:
        raise ConfigError(f"below {written(least)}; raise it")
    if value > most:
        raise ConfigError(f"above {written(most)}; lower it")
    return value


_DURATION_UNITS_S = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_DURATION = re.compile(
    "(?=.)"  # Every part is optional, but not all of them at once.
    + "".join(rf"(?:([0-9]{{1,12}}(?:\.[0-9]{{1,9}})?){unit})?" for unit in _DURATION_UNITS_S)
)
MAX_DURATION_S = 366 * 86400.0


def parse_duration_s(text: str, *, least_s: float = 0.0, most_s: float = MAX_DURATION_S) -> float:
    """Seconds in `250ms`, `15s`, `5m`, `1h30m` or `7d`: each unit once, the largest first."""
    if re.fullmatch(r"[0-9.]+", text):
        raise ConfigError(f"has no unit; write {text}s for seconds, {text}ms for milliseconds")
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ConfigError("not a duration; write it as 250ms, 15s, 5m, 1h30m or 7d")
    value_s = sum(
        float(count) * unit_s
        for count, unit_s in zip(match.groups(), _DURATION_UNITS_S.values(), strict=True)
        if count is not None
    )
    return _bounded(value_s, least_s, most_s, format_duration)


def parse_timeout_s(text: str, *, least_s: float = 0.0, most_s: float = MAX_DURATION_S) -> float:
    """Seconds in an OTEL_*_TIMEOUT, whose bare number OpenTelemetry defines as milliseconds."""
    if re.fullmatch(r"[0-9]+", text) is None:
        return parse_duration_s(text, least_s=least_s, most_s=most_s)
    try:
        return parse_duration_s(f"{text}ms", least_s=least_s, most_s=most_s)
    except ConfigError as error:
        seconds = f", write {text}s for seconds" if least_s <= int(text[:20]) <= most_s else ""
        raise ConfigError(f"{error}; a bare number is milliseconds here{seconds}") from None


def format_duration(seconds: float) -> str:
    """`seconds` as parse_duration_s reads it, to the millisecond."""
    left_ms = round(seconds * 1000)
    if left_ms == 0:
        return "0s"
    parts = []
    for unit, unit_s in _DURATION_UNITS_S.items():
        count, left_ms = divmod(left_ms, round(unit_s * 1000))
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts)


_SIZE_UNITS = {"": 1, "B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}


def parse_size_bytes(text: str, *, least: int = 0, most: int = 2**63 - 1) -> int:
    """Bytes in `64MiB`, `512KiB` or a bare number of bytes."""
    match = re.fullmatch(r"([0-9]{1,20}) ?([A-Za-z]*)", text)
    if match is None or match[2] not in _SIZE_UNITS:
        raise ConfigError("not a size; write it as 64MiB, 512KiB or a number of bytes")
    return _bounded(int(match[1]) * _SIZE_UNITS[match[2]], least, most, format_size)


def format_size(size_bytes: int) -> str:
    """`size_bytes` as parse_size_bytes reads it, in the largest unit that divides it."""
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        if size_bytes and size_bytes % _SIZE_UNITS[unit] == 0:
            return f"{size_bytes // _SIZE_UNITS[unit]}{unit}"
    return str(size_bytes)


# ---- words ------------------------------------------------------------------------------------


def parse_choice(
    text: str, choices: Iterable[str], aliases: Mapping[str, str] | None = None
) -> str:
    """The one of `choices` that `text` is, in any case (OpenTelemetry's rule for enum values)."""
    word = text.lower()
    word = (aliases or {}).get(word, word)
    known = list(choices)
    if word in known:
        return word
    guess = nearest(word, known)
    hint = f"the nearest known is {guess}; " if guess else ""
    raise ConfigError(f"not known; {hint}write one of {', '.join(known)}")


MAX_TEXT_BYTES = 1024


def parse_text(text: str) -> str:
    """One line of at most 1 KiB of UTF-8: what the adapter takes for a name or an id."""
    if not text.isprintable():
        raise ConfigError("has a control character in it; remove it")
    if len(text.encode()) > MAX_TEXT_BYTES:
        raise ConfigError(f"longer than {MAX_TEXT_BYTES} bytes; shorten it")
    return text


def parse_path(text: str) -> str:
    """The path of a file or directory."""
    if not text.isprintable():
        raise ConfigError("has a control character in it; remove it")
    return text


def parse_token(text: str) -> str:
    """A bearer token: the visible ASCII that an HTTP header can carry (RFC 6750, 2.1)."""
    if re.fullmatch(r"[!-~]+", text) is None:
        raise ConfigError("has characters a header cannot carry; use visible ASCII alone")
    return text


# ---- where peers are --------------------------------------------------------------------------

_HOST_NAME = re.compile(r"[0-9A-Za-z_-]{1,63}(\.[0-9A-Za-z_-]{1,63})*\.?")
_SCHEME_PORTS = {"http": 80, "https": 443}


def parse_endpoint(
    text: str,
    *,
    bare_scheme: str | None = "https",
    bare_port: int = 4317,
    unix: bool = False,
    exact_path: bool = False,
) -> Endpoint:
    """An endpoint in `http://host:port/path`, `https://...` or `host:port`.

    A URL without a port means its scheme's, 80 or 443 (RFC 9110, 4.2); a bare host without one
    means `bare_port`. Bare text takes `bare_scheme`; None refuses it. A trailing slash is dropped
    unless `exact_path`. `unix:` names a socket, which grpcio alone can use.
    """
    if re.match(r"unix(-abstract)?:", text, re.IGNORECASE):
        return _unix_endpoint(text, supported=unix)
    if re.search(r"[^!-~]", text):
        raise ConfigError("has a blank or a non-ASCII character in it; write the host in punycode")
    scheme, found, rest = text.partition("://")
    if found:
        scheme = scheme.lower()
        if scheme not in _SCHEME_PORTS:
            raise ConfigError(f"scheme {shown(scheme)} is not known; write http:// or https://")
    elif bare_scheme is None:
        raise ConfigError("has no scheme; write http:// or https:// in front")
    else:
        scheme, rest = bare_scheme, text
    if re.search(r"[?#]", rest):
        raise ConfigError("has a query or fragment; remove it, credentials belong into headers")
    authority, slash, path = rest.partition("/")
    if "@" in authority:
        raise ConfigError("has credentials in it; remove them, they belong into headers")
    host, port = _host_port(authority)
    if port is None:
        port = _SCHEME_PORTS[scheme] if found else bare_port
    if port == 0:
        raise ConfigError("port 0 is nobody's; write the port of the peer")
    path = slash + path if exact_path else (slash + path).rstrip("/")
    return Endpoint(scheme, host, port, path)


def _unix_endpoint(text: str, *, supported: bool) -> Endpoint:
    if not supported:
        raise ConfigError(
            "a unix socket; set collector.transport: grpcio, or write http://, https:// or"
            " host:port"
        )
    # gRPC Name Resolution: unix:path, or unix:///absolute_path. Abstract names are not passed on:
    # nothing in the file system protects them.
    path = re.sub(r"^unix:(//(?=/))?", "", text, flags=re.IGNORECASE)
    if path.startswith("/"):
        return Endpoint("unix", "", 0, path)
    raise ConfigError("not an absolute socket path; write it as unix:/run/otel.sock")


def _host_port(text: str) -> tuple[str, int | None]:
    # RFC 6874 zones are written %25eth0 in a URL and %eth0 everywhere else: both are taken.
    bracketed = re.fullmatch(r"\[([0-9A-Fa-f:.]+)(?:%(?:25)?([0-9A-Za-z._-]+))?\](?::(.*))?", text)
    if bracketed is not None:
        address, zone, port_text = bracketed.groups()
        if ":" not in address:
            raise ConfigError("has brackets around what is no IPv6 address; remove them")
        host = f"{address}%{zone}" if zone else address
    elif text.count(":") > 1:
        raise ConfigError("an IPv6 address goes into brackets; write it as [::1]:4317")
    else:
        host, colon, rest = text.partition(":")
        port_text = rest if colon else None
        if not host:
            raise ConfigError("has no host; write it as host:port")
        # RFC 1035, 2.3.4: the resolver refuses longer names with an error that is no OSError.
        if len(host) > 253 or _HOST_NAME.fullmatch(host) is None:
            raise ConfigError(f"{shown(host)} is not a host name; write it as host:port")
    if port_text is None:
        return host, None
    if re.fullmatch(r"[0-9]{1,5}", port_text) is None or int(port_text) > 65535:
        raise ConfigError("the port is not a number up to 65535; write it as host:port")
    return host, int(port_text)


def parse_address(text: str) -> Address:
    """Where to listen, `host:port`; port 0 takes a free one."""
    host, port = _host_port(text)
    if port is None:
        raise ConfigError("has no port; write it as host:port")
    return Address(host, port)


def parse_host(text: str) -> str:
    """A host name or address to listen on, IPv6 with or without brackets."""
    bare_ipv6 = text.count(":") > 1 and not text.startswith("[")
    host, port = _host_port(f"[{text}]" if bare_ipv6 else text)
    if port is not None:
        raise ConfigError("has a port in it; write the host alone")
    return host


# ---- lists ------------------------------------------------------------------------------------


def parse_pairs(text: str) -> tuple[dict[str, str], list[str]]:
    """`key=value,key=value`, percent-decoded, as OTEL_RESOURCE_ATTRIBUTES is written.

    Returns the pairs and what is wrong with each that was skipped, by key or position, never with
    the value. OpenTelemetry SDK specification, "Resource SDK"; a later pair wins.
    """
    pairs: dict[str, str] = {}
    skipped = []
    for position, part in enumerate(text.split(","), 1):
        if not part.strip():
            continue  # A trailing comma is fine.
        raw_key, equals, raw_value = part.partition("=")
        key = _percent_decoded(raw_key.strip())
        if not equals:
            # The whole of it may be a secret: only its position is named.
            skipped.append(f"pair {position} has no '='")
        elif not key or not key.isprintable():
            skipped.append(f"pair {position} has no usable key")
        elif (value := _percent_decoded(raw_value.strip())) is None:
            skipped.append(f"the value of {key} is not percent-encoded UTF-8, write % as %25")
        else:
            pairs[key] = value
    return pairs, skipped


def _percent_decoded(text: str) -> str | None:
    if re.search(r"%(?![0-9A-Fa-f]{2})", text):
        return None
    raw = re.sub(rb"%([0-9A-Fa-f]{2})", lambda m: bytes([int(m[1], 16)]), text.encode())
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return None


# What HTTP or gRPC writes itself.
_OWN_HEADERS = frozenset(
    {
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "host",
        "te",
        "transfer-encoding",
        "user-agent",
    }
)


def usable_headers(pairs: Mapping[str, str]) -> tuple[tuple[tuple[str, str], ...], list[str]]:
    """`pairs` as headers, names in lower case, and what is wrong with each that was skipped.

    RFC 9110, 5.1 and 5.5: a name is a token, a value is visible ASCII and blanks. Anything else
    would break the message, or smuggle a second header into it.
    """
    headers = []
    skipped = []
    for key, value in pairs.items():
        name = key.lower()
        if re.fullmatch(r"[!#$%&'*+.^_`|~0-9a-z-]+", name) is None:
            skipped.append(f"{shown(key)} is not a header name")
        elif name in _OWN_HEADERS or name.startswith("grpc-"):
            skipped.append(f"{name} is the agent's own to set")
        elif re.fullmatch(r"[ -~]*", value) is None:
            skipped.append(f"the value of {name} has characters a header cannot carry")
        else:
            headers.append((name, value))
    return tuple(headers), skipped
