"""Every setting of the adapter once: variable, default, reader, help. CONTRACT, "Adapter".

The only module of the adapter that reads the environment.
"""

import hashlib
import hmac
import os
import ssl
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_agent.settings import (
    ConfigError,
    environ_text,
    in_context,
    parse_bool,
    parse_choice,
    parse_duration_s,
    parse_endpoint,
    parse_host,
    parse_int,
    parse_path,
    parse_text,
    parse_token,
    secret_text,
    shown,
)
from edge_agent.transport.loopback import is_loopback
from edge_agent.transport.server_tls import PemFile, server_context

_INSTALLED_STATE = Path("/var/lib/cassandra-adapter")
_CONSISTENCIES = (
    "any",
    "one",
    "two",
    "three",
    "quorum",
    "all",
    "local_quorum",
    "each_quorum",
    "local_one",
)


@dataclass(frozen=True, slots=True)
class Setting:
    """One row of the table: `parse` reads the trimmed text, `default` is written as a user would.

    A `secret` may also be in a file named by the variable with _FILE behind it.
    """

    name: str
    default: str | None
    parse: Callable[[str], Any]
    help: str
    secret: bool = False


def _parse_port(text: str) -> int:
    return parse_int(text, most=65535)


def _parse_consistency(text: str) -> str:
    return parse_choice(text, _CONSISTENCIES).upper()


SETTINGS = (
    Setting("CASSANDRA_HOST", None, parse_host, "a Cassandra node; none: the embedded store"),
    Setting("CASSANDRA_PORT", "9042", _parse_port, "its port"),
    Setting("CASSANDRA_DC", "dc1", parse_text, "its datacentre"),
    Setting("CASSANDRA_USERNAME", None, parse_text, "who to log in as"),
    Setting("CASSANDRA_PASSWORD", None, str, "the password", secret=True),
    Setting("CASSANDRA_CA", None, parse_path, "PEM file: whom to trust as Cassandra"),
    Setting(
        "STORE",
        None,
        lambda text: parse_choice(text, ("sqlite", "cassandra")),
        "sqlite: the embedded store whatever else is set; cassandra: never the embedded store",
    ),
    Setting("CASSANDRA_CONSISTENCY", "LOCAL_QUORUM", _parse_consistency, "of every write"),
    Setting("LISTEN_HOST", "127.0.0.1", parse_host, "address to listen on"),
    Setting("PORT", "8081", _parse_port, "port to listen on; 0 takes a free one"),
    Setting("TOKENS_FILE", None, parse_path, "lines of: TOKEN customer-id[,customer-id...]"),
    Setting("ALLOW_ANONYMOUS", "false", parse_bool, "off loopback, let anyone write anything"),
    Setting("TLS_CERTIFICATE", None, parse_path, "PEM file: listen with TLS"),
    Setting("TLS_KEY", None, parse_path, "PEM file: its key"),
    Setting("TLS_CLIENT_CA", None, parse_path, "PEM file: clients need a certificate of this one"),
    Setting("STATE_DIRECTORY", None, parse_path, "where the embedded store is"),
    Setting(
        "OTEL_EXPORTER_OTLP_ENDPOINT", None, parse_endpoint, "where spilled traces are replayed to"
    ),
    Setting(
        "REPLAY_INTERVAL", "60s", lambda text: parse_duration_s(text, least_s=1.0), "how often"
    ),
)
"""CONTRACT's table, in its order."""


@dataclass(frozen=True, slots=True)
class Config:
    """The settings, checked one by one and together."""

    listen_host: str
    port: int
    tokens: "Tokens | None"
    tls: ssl.SSLContext | None
    state_directory: Path
    journal: bool
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Tokens:
    """Which customers a bearer token may write for. Holds hashes, never the tokens."""

    customers: Mapping[bytes, frozenset[str]]

    def customers_of(self, token: str) -> frozenset[str] | None:
        """The customer ids of `token`, None if it is not known. Takes as long for any token."""
        sought = _hash(token)
        found = None
        for known, customers in self.customers.items():
            if hmac.compare_digest(known, sought):
                found = customers
        return found


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


def load(environ: Mapping[str, str] | None = None) -> Config:
    """Everything that serving needs; raises ConfigError. None reads the process's environment."""
    given = os.environ if environ is None else environ
    values = parsed(given)
    _refuse_cassandra(values)
    tokens_file = values["TOKENS_FILE"]
    tokens = None if tokens_file is None else read_tokens(tokens_file)
    host, anonymous = values["LISTEN_HOST"], values["ALLOW_ANONYMOUS"]
    if tokens is None and not anonymous and not is_loopback(host):
        raise ConfigError(
            f"LISTEN_HOST={host}: off loopback anyone could write; set TOKENS_FILE, or"
            " ALLOW_ANONYMOUS=true where the network keeps others out"
        )
    warnings = []
    if tokens is not None and anonymous:
        warnings.append("ALLOW_ANONYMOUS has no effect: TOKENS_FILE is set, a token is required")
    return Config(
        listen_host=host,
        port=values["PORT"],
        tokens=tokens,
        tls=_tls(values),
        state_directory=state_directory(given),
        journal=_journal(given),
        warnings=tuple(warnings),
    )


def load_for_query(environ: Mapping[str, str] | None = None) -> Path:
    """The state directory whose store is asked; raises ConfigError."""
    given = os.environ if environ is None else environ
    _refuse_cassandra(parsed(given))
    return state_directory(given)


def parsed(environ: Mapping[str, str]) -> dict[str, Any]:
    """The value of every setting by its name, each checked alone; raises ConfigError."""
    values = {}
    for setting in SETTINGS:
        text, source = environ_text(environ, setting.name), "environment"
        if setting.secret:
            found = secret_text(environ, setting.name, _read)
            text, source = found if found is not None else (None, source)
        if text is None:
            text, source = setting.default, "default"
        values[setting.name] = (
            None
            if text is None
            else in_context(
                setting.parse, text, key=setting.name, source=source, secret=setting.secret
            )
        )
    return values


def _read(path: str) -> str:
    with open(path, encoding="utf-8-sig") as file:
        return file.read(1 << 20)


def _refuse_cassandra(values: Mapping[str, Any]) -> None:
    if values["STORE"] == "sqlite":
        return
    host = values["CASSANDRA_HOST"]
    if values["STORE"] == "cassandra" or host is not None:
        what = f"CASSANDRA_HOST={shown(host)}" if host is not None else "STORE=cassandra"
        raise ConfigError(
            f"{what}: this build stores in SQLite only; set STORE=sqlite to store in"
            " STATE_DIRECTORY, or unset STORE and CASSANDRA_HOST"
        )


def _journal(environ: Mapping[str, str]) -> bool:
    """Whether standard error is the journal's: JOURNAL_STREAM of systemd.exec(5)."""
    try:
        status = os.fstat(2)
    except OSError:
        return False
    return environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def state_directory(environ: Mapping[str, str], installed: Path = _INSTALLED_STATE) -> Path:
    """Where the store is: STATE_DIRECTORY, else `installed` where writable, else in the home."""
    text = environ_text(environ, "STATE_DIRECTORY")
    if text is not None:
        # systemd.exec(5): several directories are separated by colons; the first is ours.
        return Path(text.partition(":")[0]).absolute()
    if os.access(installed, os.W_OK):
        return installed
    home = environ_text(environ, "HOME")
    if home is None:
        raise ConfigError("STATE_DIRECTORY and HOME are not set; set STATE_DIRECTORY")
    return Path(home).absolute() / ".local/state/cassandra-adapter"


# ---- who may write ----------------------------------------------------------------------------


def read_tokens(path: str) -> Tokens:
    """TOKENS_FILE: a line `TOKEN customer-id[,customer-id...]`, comments after `#`.

    Raises ConfigError, which names the line and never a token. A file that others can read or
    write is refused: they would have the tokens already, or could add their own.
    """
    where = f"TOKENS_FILE={shown(path)}"
    try:
        with open(path, encoding="utf-8-sig") as file:
            mode = os.fstat(file.fileno()).st_mode
            lines = file.read(1 << 20).splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise ConfigError(f"{where}: cannot be read ({reason})") from None
    if mode & (stat.S_IROTH | stat.S_IWOTH):
        raise ConfigError(f"{where}: others can read or write it; chmod o-rwx {shown(path)}")
    customers: dict[bytes, frozenset[str]] = {}
    for number, line in enumerate(lines, 1):
        words = line.partition("#")[0].split(maxsplit=1)
        if not words:
            continue
        try:
            token, ids = parse_token(words[0]), _customer_ids(words[1:])
        except ConfigError as error:
            raise ConfigError(f"{where}, line {number}: {error}") from None
        if _hash(token) in customers:
            raise ConfigError(f"{where}, line {number}: the token is there already; join the lines")
        customers[_hash(token)] = ids
    if not customers:
        raise ConfigError(f"{where}: has no token; write lines of: TOKEN customer-id")
    return Tokens(customers)


def _customer_ids(rest: list[str]) -> frozenset[str]:
    ids = frozenset(filter(None, (part.strip() for text in rest for part in text.split(","))))
    if not ids:
        raise ConfigError("no customer id behind the token; write: TOKEN customer-id")
    for customer_id in ids:
        parse_text(customer_id)
        if " " in customer_id:
            raise ConfigError("a blank between customer ids; separate them by commas")
    return ids


# ---- TLS --------------------------------------------------------------------------------------


def _tls(values: Mapping[str, Any]) -> ssl.SSLContext | None:
    names = ("TLS_CERTIFICATE", "TLS_KEY", "TLS_CLIENT_CA")
    certificate, key, client_ca = (PemFile(name, values[name]) for name in names)
    return server_context(certificate, key, client_ca)
