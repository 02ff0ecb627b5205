"""Which of flag, environment, file and default says what: text by precedence, then values.

Each setting is parsed by its own row alone, endpoints last because how bare text is read depends on
the protocol. What settings mean together is config.py's.
"""

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from edge_agent.config_table import (
    ADAPTER_ENDPOINT,
    BY_KEY,
    COLLECTOR_ENDPOINT,
    HEADERS,
    SETTINGS,
    Setting,
    Shape,
)
from edge_agent.settings import (
    ConfigError,
    environ_text,
    in_context,
    parse_endpoint,
    parse_pairs,
    secret_text,
    shown,
    usable_headers,
)

if TYPE_CHECKING:
    from edge_agent.config_file import Written

DEFAULT_FILE = "/etc/otel-agent/agent-config.yaml"
MAX_FILE_BYTES = 1 << 20
# CONTRACT, "OTLP out": the identity keys are the agent's, set by settings of their own.
IDENTITY_PREFIXES = ("customer.", "node.", "collector.")


@dataclass(frozen=True, slots=True)
class Source:
    """Where a value came from: default, environment, file or flag, and which."""

    kind: str
    name: str = ""

    @property
    def where(self) -> str:
        """How a message names it."""
        return self.name or self.kind

    def __str__(self) -> str:
        return f"{self.kind} {self.name}" if self.name else self.kind


DEFAULT = Source("default")


def _read_text(path: str) -> str:
    with open(path, "rb") as file:
        # One byte more than is taken, so that a file that is too large shows.
        return file.read(MAX_FILE_BYTES + 1).decode("utf-8-sig")


def _unreadable(path: str) -> str | None:
    try:
        with open(path, "rb"):
            return None
    except OSError as error:
        return error.strerror or str(error)


def _stderr_id() -> str:
    try:
        status = os.fstat(2)
    except OSError:
        return ""  # Closed: nothing is logged anywhere.
    return f"{status.st_dev}:{status.st_ino}"


def _grpcio_installed() -> bool:
    from importlib.util import find_spec

    return find_spec("grpc") is not None


def _protobuf_installed() -> bool:
    # Finding it imports the (empty) packages around it: asked only where full validation is wanted.
    from importlib.util import find_spec

    try:
        return find_spec("opentelemetry.proto.collector") is not None and bool(
            find_spec("google.protobuf")
        )
    except ModuleNotFoundError:
        return False


@dataclass(frozen=True, slots=True)
class Machine:
    """What reading the settings asks of the operating system; tests put their own in.

    `read_text` raises OSError or UnicodeDecodeError; `unreadable` gives the reason or None;
    `stderr_id` is `device:inode`, as JOURNAL_STREAM is written.
    """

    read_text: Callable[[str], str] = _read_text
    unreadable: Callable[[str], str | None] = _unreadable
    exists: Callable[[str], bool] = os.path.lexists
    is_directory: Callable[[str], bool] = os.path.isdir
    writable_directory: Callable[[str], bool] = lambda path: (
        os.path.isdir(path) and os.access(path, os.W_OK | os.X_OK)
    )
    host_name: Callable[[], str] = lambda: os.uname().nodename
    home: Callable[[], str] = lambda: os.path.expanduser("~")
    stderr_id: Callable[[], str] = _stderr_id
    grpcio_installed: Callable[[], bool] = _grpcio_installed
    protobuf_installed: Callable[[], bool] = _protobuf_installed
    pid: int = field(default_factory=os.getpid)


Text = str | tuple[str, ...] | Mapping[str, str]


@dataclass(slots=True)
class Reading:
    """What was read so far. `bad` are the keys of which a message was made already."""

    file: str | None = None
    values: dict[str, Any] = field(default_factory=dict)
    sources: dict[str, Source] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    bad: set[str] = field(default_factory=set)

    def skipped(self, source: Source, what: Iterable[str]) -> None:
        """Warn of pairs that were skipped."""
        self.warnings += [f"{source.where}: {pair}; skipped" for pair in what]


def read_settings(
    flags: Mapping[str, str], environ: Mapping[str, str], machine: Machine
) -> Reading:
    """Every setting of the table by precedence: flag, environment, file, default."""
    reading = Reading()
    written = _read_file(reading, flags, machine)
    texts: dict[str, tuple[Text, Source]] = {}
    for setting in SETTINGS:
        try:
            found = _text(setting, flags, environ, written, reading, machine)
        except ConfigError as error:
            reading.problems.append(f"{setting.key}: {error}")
            reading.bad.add(setting.key)
            continue
        if found is not None:
            texts[setting.key] = found
    endpoints = [s for s in SETTINGS if s.kind in (COLLECTOR_ENDPOINT, ADAPTER_ENDPOINT)]
    for setting in (*(s for s in SETTINGS if s not in endpoints), *endpoints):
        if setting.key == "resource":
            _read_resource(reading, environ, written.get(setting.key))
        else:
            _read_setting(reading, setting, texts.get(setting.key))
    return reading


def _read_file(
    reading: Reading, flags: Mapping[str, str], machine: Machine
) -> "Mapping[str, Written]":
    path = flags.get("--config", "").strip()
    if not path:
        if not machine.exists(DEFAULT_FILE):
            return {}
        path = DEFAULT_FILE
    reading.file = path
    try:
        text = machine.read_text(path)
    except OSError as error:
        reason = error.strerror or "no reason given"
        reading.problems.append(
            f"{shown(path)}: cannot be read ({reason}); correct its path or mode"
        )
        return {}
    except UnicodeDecodeError:
        reading.problems.append(f"{shown(path)}: not UTF-8; write it in UTF-8")
        return {}
    if len(text) > MAX_FILE_BYTES:
        reading.problems.append(f"{shown(path)}: larger than 1 MiB; is it the right file?")
        return {}
    # PyYAML takes 1.2 MB of private memory: only where there is a file.
    from edge_agent.config_file import read_yaml

    written, problems = read_yaml(text, path, {s.key: s.kind.shape for s in SETTINGS})
    reading.problems += problems
    return written


def _text(
    setting: Setting,
    flags: Mapping[str, str],
    environ: Mapping[str, str],
    written: "Mapping[str, Written]",
    reading: Reading,
    machine: Machine,
) -> tuple[Text, Source] | None:
    if setting.flag is not None and (text := flags.get(setting.flag, "").strip()):
        return text, Source("flag", setting.flag)
    if setting.env is not None:
        if setting.secret_file:
            secret = secret_text(environ, setting.env, machine.read_text)
            if secret is not None:
                return secret[0], Source("environment", secret[1])
        elif (value := environ_text(environ, setting.env)) is not None:
            return value, Source("environment", setting.env)
    if (entry := written.get(setting.key)) is not None:
        return entry.value, Source("file", f"{reading.file}:{entry.line}")
    return None if setting.default is None else (setting.default, DEFAULT)


def _read_setting(reading: Reading, setting: Setting, found: tuple[Text, Source] | None) -> None:
    empty = () if setting.kind.shape is not Shape.ONE else None
    reading.values[setting.key], reading.sources[setting.key] = empty, DEFAULT
    if found is None:
        return
    text, source = found
    try:
        reading.values[setting.key] = _value(reading, setting, text, source)
        reading.sources[setting.key] = source
    except ConfigError as error:
        reading.problems.append(str(error))
        reading.bad.add(setting.key)
        if setting.default is not None:
            # The rules between settings go on with it, so that all problems are said at once.
            reading.values[setting.key] = setting.kind.parse(setting.default)


def _value(reading: Reading, setting: Setting, text: Text, source: Source) -> object:
    in_this = partial(in_context, key=setting.key, source=source.where, secret=setting.secret)
    if isinstance(text, tuple):
        return tuple(in_this(setting.kind.parse, item) for item in text)
    if setting.kind is HEADERS or not isinstance(text, str):
        pairs, skipped = in_this(parse_pairs, text) if isinstance(text, str) else (text, [])
        headers, unusable = usable_headers(pairs)
        reading.skipped(source, [*skipped, *unusable])
        return headers
    parse = setting.kind.parse
    if source.kind == "environment" and setting.kind.parse_environment is not None:
        parse = setting.kind.parse_environment
    if setting.kind is COLLECTOR_ENDPOINT:
        http = reading.values["collector.protocol"] == "http/protobuf"
        parse = partial(
            parse_endpoint,
            bare_scheme="http" if reading.values["collector.insecure"] else "https",
            bare_port=4318 if http else 4317,
            unix=reading.values["collector.transport"] == "grpcio",
            exact_path=setting.key != "collector.endpoint",
        )
    return in_this(parse, text)


def _read_resource(reading: Reading, environ: Mapping[str, str], entry: "Written | None") -> None:
    """Attribute by attribute: a variable's wins over the file's, OTEL_SERVICE_NAME over both."""
    setting = BY_KEY["resource"]
    attributes: dict[str, tuple[str, Source]] = {"service.name": ("otel-agent", DEFAULT)}

    def take(pairs: Mapping[str, str], source: Source) -> None:
        for name, value in pairs.items():
            if name.startswith(IDENTITY_PREFIXES):
                what = f"{shown(name)} is the agent's own to say, by the setting {shown(name)}"
                reading.skipped(source, [what])
            else:
                attributes[name] = (value, source)

    if entry is not None and isinstance(entry.value, Mapping):
        take(entry.value, Source("file", f"{reading.file}:{entry.line}"))
    for variable in setting.variables:
        text = environ_text(environ, variable)
        if text is None:
            continue
        source = Source("environment", variable)
        try:
            if variable == setting.more_env:
                in_context(str, text, key="resource.service.name", source=variable)
                take({"service.name": text}, source)
            else:
                pairs, skipped = in_context(parse_pairs, text, key="resource", source=variable)
                reading.skipped(source, skipped)
                take(pairs, source)
        except ConfigError as error:
            reading.problems.append(str(error))
            reading.bad.add(setting.key)
    reading.values[setting.key] = {name: value for name, (value, _) in attributes.items()}
    for name, (_, source) in attributes.items():
        reading.sources[f"resource.{name}"] = source
