"""The settings: CONTRACT's table row by row, precedence, odd cases, and every message whole."""

import os
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.config import Config, InvalidConfigError, effective, environment, load
from edge_agent.config_sources import DEFAULT_FILE, MAX_FILE_BYTES, Machine, Source
from edge_agent.config_table import BY_KEY, SETTINGS
from edge_agent.otlp.signal import Signal
from edge_agent.settings import Address, Endpoint
from tests.fakes.machine import machine
from tests.fakes.programs import ROOT

COLLECTOR = "https://collector.example.com:4317"
ENVIRON = {"CUSTOMER_ID": "demo", "OTEL_EXPORTER_OTLP_ENDPOINT": COLLECTOR}
PEM = dict.fromkeys(("/ca.pem", "/crt.pem", "/key.pem"), "")
FILE = "/x/agent.yaml"


def of_yaml(text: str, environ: dict[str, str] | None = None) -> Config:
    """The Config of a file, with what is required beside it."""
    host = machine({FILE: text, **PEM})
    return load({"--config": FILE}, ENVIRON if environ is None else environ, host)


def problems(
    environ: dict[str, str], yaml: str | None = None, flags: dict[str, str] | None = None
) -> list[str]:
    """What load complains of."""
    files = PEM if yaml is None else {FILE: yaml, **PEM}
    named = {} if yaml is None else {"--config": FILE}
    with pytest.raises(InvalidConfigError) as caught:
        load({**named, **(flags or {})}, environ, machine(files, grpcio=False))
    return list(caught.value.problems)


OTLP = "OTEL_EXPORTER_OTLP_"
H1 = Endpoint("https", "h", 1)
ANY1, ANY2 = Address("0.0.0.0", 1), Address("0.0.0.0", 2)
# CONTRACT, "Agent settings": key, variable, default; then text that YAML takes too, and its value.
ROWS: list[tuple[str, str | None, Any, str, Any]] = [
    ("collector.endpoint", f"{OTLP}ENDPOINT", None, "http://h:1", Endpoint("http", "h", 1)),
    ("collector.traces_endpoint", f"{OTLP}TRACES_ENDPOINT", None, "h:1", H1),
    ("collector.metrics_endpoint", f"{OTLP}METRICS_ENDPOINT", None, "h:1", H1),
    ("collector.logs_endpoint", f"{OTLP}LOGS_ENDPOINT", None, "h", Endpoint("https", "h", 4317)),
    ("collector.insecure", f"{OTLP}INSECURE", False, "true", True),
    ("collector.protocol", f"{OTLP}PROTOCOL", "grpc", "http/protobuf", "http/protobuf"),
    ("collector.headers", f"{OTLP}HEADERS", (), "a=b%20c", (("a", "b c"),)),
    ("collector.compression", f"{OTLP}COMPRESSION", "gzip", "none", "none"),
    ("collector.timeout", f"{OTLP}TIMEOUT", 10.0, "30s", 30.0),
    ("collector.certificate", f"{OTLP}CERTIFICATE", None, "/ca.pem", "/ca.pem"),
    ("collector.client_certificate", f"{OTLP}CLIENT_CERTIFICATE", None, "/crt.pem", "/crt.pem"),
    ("collector.client_key", f"{OTLP}CLIENT_KEY", None, "/key.pem", "/key.pem"),
    ("collector.retry.enabled", None, True, "no", False),
    ("collector.retry.initial_interval", None, 1.0, "250ms", 0.25),
    ("collector.retry.max_interval", None, 30.0, "1m", 60.0),
    ("collector.retry.max_elapsed_time", None, 300.0, "1h30m", 5400.0),
    ("collector.transport", None, "builtin", "grpcio", "grpcio"),
    ("collector.order.metrics", None, "oldest", "newest", "newest"),
    ("collector.order.traces", None, "newest", "oldest", "oldest"),
    ("collector.order.logs", None, "newest", "oldest", "oldest"),
    ("collector.drain_rate", None, 1 << 20, "512KiB", 512 << 10),
    ("collector.max_bytes_per_day", None, None, "100MiB", 100 << 20),
    ("adapter.endpoint", "ADAPTER_ENDPOINT", None, "http://h:8081", Endpoint("http", "h", 8081)),
    ("adapter.token", "ADAPTER_TOKEN", None, "s3cret", "s3cret"),
    ("adapter.spill", None, "failing", "full", "full"),
    ("customer.id", "CUSTOMER_ID", "demo", "007", "007"),
    ("customer.name", "CUSTOMER_NAME", None, "Äpfel AG", "Äpfel AG"),
    ("node.id", "NODE_ID", "edge-07", "on", "on"),
    ("node.region", "NODE_REGION", None, "1_5", "1_5"),
    ("node.environment", "ENVIRONMENT", "production", "staging", "staging"),
    ("telemetry.metrics.enabled", "METRICS_ENABLED", True, "off", False),
    ("telemetry.metrics.interval", "METRICS_INTERVAL", 15.0, "1s", 1.0),
    ("telemetry.metrics.exclude", None, (), "[hw.*, 'a.b']", ("hw.*", "a.b")),
    ("telemetry.metrics.exclude_mounts", None, (), "[/mnt/*]", ("/mnt/*",)),
    ("telemetry.metrics.exclude_interfaces", None, (), "[veth*]", ("veth*",)),
    ("telemetry.traces.enabled", "TRACES_ENABLED", True, "0", False),
    ("telemetry.traces.sample_rate", "TRACES_SAMPLE_RATE", 1.0, "0.25", 0.25),
    ("telemetry.logs.enabled", "LOGS_ENABLED", True, "FALSE", False),
    ("telemetry.logs.level", "LOG_LEVEL", "info", "WARN", "warning"),
    ("buffer.path", "BUFFER_PATH", "/home/pulse/.local/state/otel-agent", "/data", "/data"),
    ("buffer.max_size", "BUFFER_MAX_SIZE", 2048, "16MiB", 512),
    ("buffer.batch_size", "BUFFER_BATCH_SIZE", 512, "100", 100),
    ("buffer.flush_interval", None, 5.0, "30s", 30.0),
    ("buffer.durability", None, "flush", "strict", "strict"),
    ("receiver.enabled", None, True, "false", False),
    ("receiver.grpc", "RECEIVER_GRPC", Address("localhost", 4317), "0.0.0.0:1", ANY1),
    ("receiver.http", "RECEIVER_HTTP", Address("localhost", 4318), "0.0.0.0:2", ANY2),
    ("receiver.validate", None, "structure", "full", "full"),
    ("receiver.tls.certificate", None, None, "/crt.pem", "/crt.pem"),
    ("receiver.tls.key", None, None, "/key.pem", "/key.pem"),
    ("receiver.tls.client_ca", None, None, "/ca.pem", "/ca.pem"),
    ("health_check.host", "HEALTH_CHECK_HOST", "127.0.0.1", "::1", "::1"),
    ("health_check.port", "HEALTH_CHECK_PORT", 8080, "9090", 9090),
    ("health_check.path", None, "/health", "/status/", "/status"),
    (
        "resource",
        "OTEL_RESOURCE_ATTRIBUTES",
        {"service.name": "otel-agent"},
        "a=b,",
        {"service.name": "otel-agent", "a": "b"},
    ),
]  # fmt: skip
FLAGS = {
    "--collector-endpoint": "collector.endpoint",
    "--customer-id": "customer.id",
    "--node-id": "node.id",
    "--health-port": "health_check.port",
}
MAPS = {"collector.headers": '{A: "b c"}', "resource": "{a: b}"}
# What a row needs beside it to be valid.
COMPANY = {
    "collector.client_certificate": "collector.client_key: /key.pem",
    "collector.client_key": "collector.client_certificate: /crt.pem",
    "receiver.tls.certificate": "receiver.tls.key: /key.pem",
    "receiver.tls.key": "receiver.tls.certificate: /crt.pem",
    "receiver.tls.client_ca": "receiver.tls: {certificate: /crt.pem, key: /key.pem}",
}
row = pytest.mark.parametrize(
    ("key", "env", "default", "text", "value"), ROWS, ids=[r[0] for r in ROWS]
)


@row
def test_a_setting_has_the_default_of_the_contract(
    key: str, env: str | None, default: Any, text: str, value: Any
) -> None:
    """What holds where nobody says anything, read as strictly as what somebody says."""
    required = {"customer.id", "collector.endpoint"}
    config = load({}, ENVIRON, machine())
    if key == "collector.endpoint":
        config = load({}, {"CUSTOMER_ID": "demo", "ADAPTER_ENDPOINT": "http://h"}, machine())
    assert config.values[key] == default
    assert key == "resource" or key in required or str(config.sources[key]) == "default"


@row
def test_a_setting_is_read_from_its_variable(
    key: str, env: str | None, default: Any, text: str, value: Any
) -> None:
    """Blanks and CR around the value are trimmed; rows without a variable have none."""
    assert BY_KEY[key].env == env
    if env is not None:
        yaml = COMPANY.get(key, "")
        config = of_yaml(yaml, {**ENVIRON, env: f" {text}\r"})
        assert config.values[key] == value
        source = config.sources["resource.a" if key == "resource" else key]
        assert source == Source("environment", env)


@row
def test_a_setting_is_read_from_the_file(
    key: str, env: str | None, default: Any, text: str, value: Any
) -> None:
    """Scalars are text until the setting's own type reads them, whatever YAML makes of them."""
    environ = {name: value for name, value in ENVIRON.items() if name != env}
    yaml = f"{COMPANY.get(key, '')}\n{key}: {MAPS.get(key, text)}\n"
    config = of_yaml(yaml, environ)
    assert config.values[key] == value
    source = config.sources["resource.a" if key == "resource" else key]
    assert source == Source("file", f"{FILE}:2")


@row
def test_a_setting_is_read_from_nested_sections(
    key: str, env: str | None, default: Any, text: str, value: Any
) -> None:
    """`a: {b: x}` is what `a.b: x` is."""
    environ = {name: value for name, value in ENVIRON.items() if name != env}
    sections = key.split(".")
    yaml = "".join(f"{'  ' * depth}{name}:\n" for depth, name in enumerate(sections))
    yaml = f"{yaml.rstrip()} {MAPS.get(key, text)}\r\n{COMPANY.get(key, '')}\r\n"
    assert of_yaml(f"\ufeff{yaml}", environ).values[key] == value


def test_the_table_has_the_rows_of_the_contract_and_no_more() -> None:
    """A row added here is a row added there."""
    assert [setting.key for setting in SETTINGS] == [key for key, *_ in ROWS]
    assert {s.flag: s.key for s in SETTINGS if s.flag} == FLAGS
    files = [name for s in SETTINGS for name in s.variables if name.endswith("_FILE")]
    assert files == ["OTEL_EXPORTER_OTLP_HEADERS_FILE", "ADAPTER_TOKEN_FILE"]


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda s: s.key)
def test_a_default_is_what_its_own_writing_says(setting: Any) -> None:
    """Defaults are text that the row's parser reads, and what it writes is read back."""
    if setting.default is not None:
        value = setting.kind.parse(setting.default)
        assert setting.kind.parse(setting.written(value)) == value


PRECEDENCE_FLAGS = st.sampled_from(sorted(FLAGS.items()))
SOMEWHERE = st.lists(st.sampled_from(["flag", "environment", "file"]), unique=True)


@given(PRECEDENCE_FLAGS, SOMEWHERE)
def test_a_flag_wins_over_the_environment_over_the_file_over_the_default(
    row: tuple[str, str], said_in: list[str]
) -> None:
    """CONTRACT, "Programs". A blank flag or variable says nothing."""
    flag, key = row
    env = BY_KEY[key].env
    assert env is not None
    texts = {"flag": "1", "environment": "2", "file": "3"}
    if key == "collector.endpoint":
        texts = {where: f"http://h:{text}" for where, text in texts.items()}
    environ = {"CUSTOMER_ID": "demo", "ADAPTER_ENDPOINT": "http://a"}
    environ[env] = texts["environment"] if "environment" in said_in else " "
    flags = {"--config": FILE, flag: texts["flag"] if "flag" in said_in else " "}
    yaml = f"{key}: {texts['file']}" if "file" in said_in else f"{key}:"
    wins = next((where for where in texts if where in said_in), "default")
    if key == "customer.id" and wins == "default":
        return
    config = load(flags, environ, machine({FILE: yaml}))
    assert config.sources[key].kind == wins
    if wins != "default":
        assert BY_KEY[key].written(config.values[key]) == texts[wins]


# ---- messages -----------------------------------------------------------------------------------

GOLDEN = Path(__file__).parent.parent / "golden" / "config"


def bad(name: str) -> list[tuple[str, str]]:
    """Pairs of what is written, with Python's escapes, and the whole message it gets."""
    lines = (GOLDEN / name).read_text(encoding="utf-8").splitlines()
    written = [line.encode().decode("unicode_escape") for line in lines[::2]]
    return list(zip(written, (line.removeprefix("    ") for line in lines[1::2]), strict=True))


def test_golden_messages_are_not_lost() -> None:
    """A golden file cut short would pass silently."""
    assert (len(bad("bad_environment.txt")), len(bad("bad_yaml.txt"))) == (31, 34)


@pytest.mark.parametrize(("assignment", "message"), bad("bad_environment.txt"))
def test_a_bad_variable_is_one_message_with_a_remedy(assignment: str, message: str) -> None:
    """Whole messages: they are what an operator sees."""
    name, _, text = assignment.partition("=")
    assert problems({**ENVIRON, name: text}) == [message]


@pytest.mark.parametrize(("yaml", "message"), bad("bad_yaml.txt"))
def test_a_bad_file_is_one_message_with_file_line_and_remedy(yaml: str, message: str) -> None:
    """Whole messages: they are what an operator sees."""
    assert problems(ENVIRON, yaml) == [message]


def test_a_file_nested_beyond_reason_is_refused() -> None:
    """PyYAML recurses; the process must not."""
    message = f"{FILE}: nested too deeply; write sections and keys alone"
    assert problems(ENVIRON, "a: " + "[" * 5000) == [message]


def test_a_file_larger_than_any_settings_is_refused() -> None:
    """--config /var/log/syslog is a slip, not 300 MB to parse."""
    message = f"{FILE}: larger than 1 MiB; is it the right file?"
    assert problems(ENVIRON, "x" * (MAX_FILE_BYTES + 1)) == [message]


def test_everything_that_is_wrong_is_said_at_once() -> None:
    """Nobody wants to restart a device once for each typo."""
    said = problems({"METRICS_INTERVAL": "15"}, "customer.nam: a\nnode: 5")
    assert [message.partition(" ")[0] for message in said] == [
        f"{FILE}:1:",
        f"{FILE}:2:",
        "telemetry.metrics.interval=15",
        "customer.id:",
        "collector.endpoint:",
    ]


def test_a_file_named_and_not_there_is_an_error() -> None:
    """The default file may be missing, one that somebody named may not."""
    message = "/no: cannot be read (No such file or directory); correct its path or mode"
    assert problems(ENVIRON, flags={"--config": "/no"}) == [message]


def test_a_file_that_is_not_utf_8_is_an_error(tmp_path: Path) -> None:
    """Its bytes are not guessed at."""
    path = tmp_path / "a.yaml"
    path.write_bytes(b"node.id: \xff")
    with pytest.raises(InvalidConfigError) as caught:
        load({"--config": str(path)}, ENVIRON)
    assert caught.value.problems == (f"{path}: not UTF-8; write it in UTF-8",)


def test_the_default_file_is_read_where_it_exists() -> None:
    """CONTRACT, "Programs"."""
    config = load({}, ENVIRON, machine({DEFAULT_FILE: "node.id: from-etc"}))
    assert config.identity.node_id == "from-etc"
    assert config.file == DEFAULT_FILE
    assert load({}, ENVIRON, machine()).file is None


def test_null_and_blank_count_as_not_written() -> None:
    """Also whole sections, lists and maps, and anchors work."""
    config = of_yaml(
        "node: {id: ~, region: '', environment: &e test}\ncustomer:\ncustomer.name: *e\n"
        "telemetry.metrics: {exclude: [~, ''], exclude_mounts: ~}\n"
        "collector.headers: {a: ~, b: ''}\nresource:\n"
    )
    assert (config.identity.node_id, config.identity.node_region) == ("edge-07", None)
    assert config.identity.customer_name == "test"
    assert config.telemetry.exclude == config.telemetry.exclude_mounts == ()
    assert config.collector.headers == ()
    assert of_yaml("").identity.environment == "production"


# ---- what settings mean together ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("environ", "endpoint"),
    [
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "h:1"}, "https://h:1"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "h:1", f"{OTLP}INSECURE": "1"}, "http://h:1"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "https://h:1", f"{OTLP}INSECURE": "1"}, "https://h:1"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://h:1", f"{OTLP}INSECURE": "0"}, "http://h:1"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "h"}, "https://h:4317"),
    ],
)
def test_a_scheme_wins_over_insecure(environ: dict[str, str], endpoint: str) -> None:
    """CONTRACT, collector.insecure."""
    config = load({}, {**ENVIRON, **environ}, machine())
    assert {str(e) for e in config.collector.endpoints.values()} == {endpoint}


def test_http_paths_hang_below_the_base_and_a_signals_own_is_as_it_is() -> None:
    """OTLP exporter, "Endpoint URLs for OTLP/HTTP"; a bare host's port is 4318."""
    environ = {
        **ENVIRON,
        f"{OTLP}PROTOCOL": "http/protobuf",
        f"{OTLP}ENDPOINT": "https://h/otlp/",
        f"{OTLP}TRACES_ENDPOINT": "https://t/x/",
        f"{OTLP}LOGS_ENDPOINT": "l",
    }
    endpoints = load({}, environ, machine()).collector.endpoints
    assert endpoints == {
        Signal.METRICS: Endpoint("https", "h", 443, "/otlp/v1/metrics"),
        Signal.TRACES: Endpoint("https", "t", 443, "/x/"),
        Signal.LOGS: Endpoint("https", "l", 4318, "/"),
    }


def test_a_signal_without_an_endpoint_has_none() -> None:
    """Only what is named is sent."""
    environ = {"CUSTOMER_ID": "demo", f"{OTLP}METRICS_ENDPOINT": "http://h:1/a"}
    endpoints = load({}, environ, machine()).collector.endpoints
    assert endpoints == {Signal.METRICS: Endpoint("http", "h", 1, "/a")}


def test_grpcio_takes_a_unix_socket() -> None:
    """And no proxy is looked for."""
    environ = {**ENVIRON, f"{OTLP}ENDPOINT": "unix:/run/o.sock", "HTTP_PROXY": "http://p:1"}
    config = of_yaml("collector.transport: grpcio", environ)
    assert str(config.collector.endpoints[Signal.LOGS]) == "unix:/run/o.sock"


def test_grpcio_does_not_speak_http() -> None:
    """collector.transport and collector.protocol exclude each other."""
    environ = {**ENVIRON, f"{OTLP}PROTOCOL": "http/protobuf"}
    host = machine({FILE: "collector.transport: grpcio"})
    with pytest.raises(InvalidConfigError) as caught:
        load({"--config": FILE}, environ, host)
    assert caught.value.problems == (
        f"collector.protocol=http/protobuf ({OTLP}PROTOCOL): grpcio speaks grpc alone;"
        " set one of them",
    )


@pytest.mark.parametrize(
    ("environ", "key"),
    [
        ({f"{OTLP}ENDPOINT": "http://localhost:4317"}, "collector.endpoint"),
        ({f"{OTLP}ENDPOINT": "http://127.0.0.1:4318"}, "collector.endpoint"),
        ({f"{OTLP}LOGS_ENDPOINT": "http://[::1]:4317"}, "collector.logs_endpoint"),
        ({"ADAPTER_ENDPOINT": "http://127.8.8.8:4318"}, "adapter.endpoint"),
        (
            {f"{OTLP}ENDPOINT": "http://localhost:7", "RECEIVER_GRPC": "0.0.0.0:7"},
            "collector.endpoint",
        ),
        ({f"{OTLP}ENDPOINT": "http://[::ffff:127.0.0.1]:4317"}, "collector.endpoint"),
        ({f"{OTLP}ENDPOINT": "http://0.0.0.0:4317"}, "collector.endpoint"),
    ],
)
def test_a_peer_on_the_receivers_own_port_turns_the_receiver_off(
    environ: dict[str, str], key: str
) -> None:
    """CONTRACT: a collector on this machine owns 4317; one warning."""
    config = load({}, {**ENVIRON, **environ}, machine())
    assert not config.receiver.enabled
    assert config.sources["receiver.enabled"] == Source("because of", key)
    assert len(config.warnings) == 1
    assert config.warnings[0].startswith(f"{key}=")


@pytest.mark.parametrize(
    "environ",
    [
        {f"{OTLP}ENDPOINT": "http://localhost:9999"},
        {f"{OTLP}ENDPOINT": "http://collector:4317"},
        {f"{OTLP}ENDPOINT": "http://localhost:4317", "RECEIVER_GRPC": "10.0.0.1:4317"},
    ],
)
def test_another_port_or_machine_leaves_the_receiver_on(environ: dict[str, str]) -> None:
    """Nothing to yield to."""
    config = load({}, {**ENVIRON, **environ}, machine())
    assert config.receiver.enabled
    assert config.warnings == ()


def test_a_disabled_receiver_wants_no_port() -> None:
    """So there is nothing to warn of."""
    config = of_yaml("receiver.enabled: false", {**ENVIRON, f"{OTLP}ENDPOINT": "http://[::1]:4317"})
    assert config.warnings == ()


@pytest.mark.parametrize(
    ("yaml", "protobuf", "warned"),
    [
        ("receiver.validate: full", False, True),
        ("receiver.validate: full", True, False),
        ("receiver.validate: structure", False, False),
        ("receiver: {validate: full, enabled: false}", False, False),
    ],
)
def test_full_validation_without_its_library_is_said_at_the_start(
    yaml: str, protobuf: bool, warned: bool
) -> None:
    """It works, at twenty times the cost: nobody should find that out from a slow agent."""
    asked = []

    def installed() -> bool:
        asked.append(True)
        return protobuf

    host = replace(machine({FILE: yaml}), protobuf_installed=installed)
    warnings = load({"--config": FILE}, ENVIRON, host).warnings
    assert warnings == (
        (
            f"receiver.validate=full ({FILE}:1): opentelemetry-proto is not installed: requests are"
            " read in Python, at twenty times the cost, and a large one holds up all others for"
            " seconds; install pulseops-edge[full], or set receiver.validate: structure",
        )
        if warned
        else ()
    )
    # Looking for it imports what is around it.
    assert bool(asked) == (yaml == "receiver.validate: full")


@pytest.mark.parametrize("validate", ["structure", "full"])
def test_protobuf_is_not_imported_to_read_the_settings(validate: str, tmp_path: Path) -> None:
    """And nothing of it where the framing is all that is looked at."""
    file = tmp_path / "agent.yaml"
    file.write_text(f"receiver.validate: {validate}")
    script = (
        "import sys; from edge_agent import config;"
        f"config.load({{'--config': {str(file)!r}}}, {ENVIRON!r}); import edge_agent.agent;"
        "print([m for m in sys.modules if m.startswith(('google.protobuf', 'opentelemetry'))])"
    )
    process = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True
    )
    found = process.stdout.strip()
    assert found == "[]" if validate == "structure" else "_pb2" not in found


def test_port_zero_clashes_with_nobody() -> None:
    """Each takes a free one."""
    environ = {**ENVIRON, "RECEIVER_GRPC": "localhost:0", "RECEIVER_HTTP": "localhost:0"}
    assert load({}, environ, machine()).receiver.grpc == Address("localhost", 0)


@pytest.mark.parametrize(
    ("environ", "path", "source"),
    [
        ({"BUFFER_PATH": "/b", "STATE_DIRECTORY": "/s"}, "/b", "environment BUFFER_PATH"),
        ({"STATE_DIRECTORY": "/s:/t"}, "/s", "environment STATE_DIRECTORY"),
        ({"HOME": "/h/"}, "/h/.local/state/otel-agent", "default"),
        ({}, "/home/pulse/.local/state/otel-agent", "default"),
    ],
)
def test_the_state_directory_is_found_in_this_order(
    environ: dict[str, str], path: str, source: str
) -> None:
    """CONTRACT, buffer.path."""
    config = load({}, {**ENVIRON, **environ}, machine())
    assert (config.buffer.path, str(config.sources["buffer.path"])) == (path, source)


def test_the_systems_state_directory_counts_where_it_can_be_written() -> None:
    """Else a first try as an ordinary user would end in an error."""
    config = load({}, ENVIRON, machine(writable=("/var/lib/otel-agent",)))
    assert config.buffer.path == "/var/lib/otel-agent"


def test_a_resource_is_put_together_attribute_by_attribute() -> None:
    """OTEL_SERVICE_NAME wins over OTEL_RESOURCE_ATTRIBUTES, both over the file."""
    environ = {
        **ENVIRON,
        "OTEL_RESOURCE_ATTRIBUTES": "service.name=b,x=env,customer.id=evil,broken",
        "OTEL_SERVICE_NAME": "c",
    }
    config = of_yaml("resource: {service.name: a, x: file, y: file}", environ)
    assert config.resource == {"service.name": "c", "x": "env", "y": "file"}
    assert str(config.sources["resource.y"]) == f"file {FILE}:1"
    assert config.warnings == (
        "OTEL_RESOURCE_ATTRIBUTES: pair 4 has no '='; skipped",
        "OTEL_RESOURCE_ATTRIBUTES: customer.id is the agent's own to say, by the setting"
        " customer.id; skipped",
    )


def test_headers_of_a_variable_replace_those_of_the_file() -> None:
    """A token for another collector must not travel along."""
    environ = {**ENVIRON, f"{OTLP}HEADERS": "authorization=Basic%20eA==,s3cret"}
    config = of_yaml("collector.headers: {x-key: s3cret}", environ)
    assert config.collector.headers == (("authorization", "Basic eA=="),)
    assert config.warnings == (f"{OTLP}HEADERS: pair 2 has no '='; skipped",)


def test_a_path_where_grpc_has_none_is_warned_of() -> None:
    """Copied from a collector's HTTP address: the agent would talk to something else than meant."""
    environ = {**ENVIRON, f"{OTLP}TRACES_ENDPOINT": "http://h:1/v1/traces"}
    assert load({}, environ, machine()).warnings == (
        f"collector.traces_endpoint=http://h:1/v1/traces ({OTLP}TRACES_ENDPOINT):"
        " gRPC has no paths, /v1/traces is not used; leave it away, or set collector.protocol:"
        " http/protobuf",
    )
    assert load({}, environ | {f"{OTLP}PROTOCOL": "http/protobuf"}, machine()).warnings == ()
    environ[f"{OTLP}TRACES_ENDPOINT"] = "http://h:1/"
    assert load({}, environ, machine()).warnings == ()


@pytest.mark.parametrize("name", ["", "(none)", " "])
def test_a_machine_without_a_name_needs_a_node_id(name: str) -> None:
    """Two such devices would write into one series: better not to start than to mix them up."""
    nameless = replace(machine(), host_name=lambda: name)
    with pytest.raises(InvalidConfigError) as caught:
        load({}, ENVIRON, nameless)
    assert caught.value.problems == (
        "node.id: not set, and this machine has no host name; set NODE_ID, --node-id, or node.id"
        " in /etc/otel-agent/agent-config.yaml",
    )
    assert load({}, {**ENVIRON, "NODE_ID": "n"}, nameless).identity.node_id == "n"


NOT_YET = [setting for setting in SETTINGS if setting.not_yet]
OTHER_VALUES = {key: text for key, _, _, text, _ in ROWS}


@pytest.mark.parametrize("setting", NOT_YET, ids=lambda s: s.key)
def test_a_setting_that_is_not_acted_on_yet_says_so_when_it_is_set(setting: Any) -> None:
    """Its default promises nothing, nor does writing the default down."""
    text = OTHER_VALUES[setting.key]
    config = of_yaml(f"{setting.key}: {text}")
    written = setting.written(config.values[setting.key])
    assert config.warnings == (
        f"{setting.key}={written} ({FILE}:1): not acted on yet: {setting.not_yet}",
    )
    assert of_yaml(f"{setting.key}: {setting.default or ''}").warnings == ()


def test_the_settings_that_are_not_acted_on_yet() -> None:
    """The list shrinks; `--help` and the table in the README mark them."""
    assert [setting.key for setting in NOT_YET] == [
        "collector.max_bytes_per_day",
        "adapter.spill",
    ]


def test_secrets_are_read_from_files() -> None:
    """*_FILE; the source says which."""
    environ = {**ENVIRON, f"{OTLP}HEADERS_FILE": "/h", "ADAPTER_TOKEN_FILE": "/t"}
    config = load({}, environ, machine({"/h": "a=b\n", "/t": "tok\n"}))
    assert (config.collector.headers, config.adapter.token) == ((("a", "b"),), "tok")
    assert str(config.sources["adapter.token"]) == "environment ADAPTER_TOKEN_FILE"


def test_what_does_not_fit_the_endpoint_is_warned_of() -> None:
    """Certificates without TLS, insecure with it; per-signal variables that are not read."""
    environ = {
        **ENVIRON,
        f"{OTLP}TRACES_ENDPOINT": "http://h:1",
        f"{OTLP}INSECURE": "true",
        f"{OTLP}CERTIFICATE": "/ca.pem",
        f"{OTLP}TRACES_TIMEOUT": "5",
        f"{OTLP}LOGS_HEADERS": " ",
    }
    assert load({}, environ, machine(PEM)).warnings == (
        f"collector.insecure=true ({OTLP}INSECURE): not used for"
        f" collector.endpoint={COLLECTOR}: its scheme wins",
        f"collector.certificate=/ca.pem ({OTLP}CERTIFICATE): not used for"
        " collector.traces_endpoint=http://h:1: its scheme wins",
        f"{OTLP}TRACES_TIMEOUT: not read; set {OTLP}TIMEOUT, which all signals share",
    )


def test_a_proxy_that_cannot_be_used_is_said_once_and_without_its_password() -> None:
    """However many endpoints would go through it."""
    environ = {**ENVIRON, f"{OTLP}LOGS_ENDPOINT": "h", "HTTPS_PROXY": "socks5://u:s3cret@p:1"}
    (message,) = problems(environ)
    assert message.startswith("HTTPS_PROXY=socks5://***@p:1 (environment): ")


def test_proxies_and_the_hosts_root_come_along() -> None:
    """Read here alone; parts get them as values."""
    environ = {**ENVIRON, "https_proxy": "http://p:1", "NO_PROXY": " ", "HOST_ROOT": "/host/"}
    config = load({}, environ, machine())
    assert config.proxy_environ == {"https_proxy": "http://p:1"}
    assert config.host_root == "/host"
    assert load({}, {**ENVIRON, "HOST_ROOT": "/"}, machine()).host_root == "/"


@pytest.mark.parametrize(
    ("environ", "watchdog_s"),
    [
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "4711"}, 60.0),
        ({"WATCHDOG_USEC": "60000000"}, 60.0),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({}, None),
    ],
)
def test_the_watchdog_is_ours_alone(environ: dict[str, str], watchdog_s: float | None) -> None:
    """sd_watchdog_enabled(3)."""
    assert load({}, {**ENVIRON, **environ}, machine()).systemd.watchdog_s == watchdog_s


def test_the_journal_is_where_stderr_really_goes() -> None:
    """A shell inside a service inherits JOURNAL_STREAM, and stderr is its terminal."""
    environ = {**ENVIRON, "JOURNAL_STREAM": "8:12", "NOTIFY_SOCKET": "@x"}
    assert load({}, environ, machine()).systemd.journal
    assert load({}, environ, machine()).systemd.notify_socket == "@x"
    assert not load({}, environ, machine(stderr_id="8:13")).systemd.journal
    assert not load({}, ENVIRON, machine(stderr_id="")).systemd.journal


def test_the_parts_get_what_the_rows_say() -> None:
    """Each row's value arrives in the part that needs it."""
    config = of_yaml(
        "collector.retry: {enabled: false, initial_interval: 2s, max_interval: 9s}\n"
        "collector: {compression: none, order.logs: oldest, max_bytes_per_day: 1MiB}\n"
        "adapter: {endpoint: 'http://a:1', token: t, spill: never}\n"
        "telemetry: {traces.enabled: no, metrics.interval: 2s, logs.level: debug}\n"
        "buffer: {max_size: 64, batch_size: 7, flush_interval: 1s, durability: strict}\n"
        "receiver: {validate: full, tls: {certificate: /crt.pem, key: /key.pem}}\n"
        "health_check: {host: 0.0.0.0, port: 1, path: /h}\n"
    )
    retry = config.collector.retry
    assert (retry.enabled, retry.initial_s, retry.max_s, retry.max_elapsed_s) == (False, 2, 9, 300)
    assert (config.collector.gzip, config.collector.max_bytes_per_day) == (False, 1 << 20)
    assert config.collector.order == {
        Signal.METRICS: "oldest",
        Signal.TRACES: "newest",
        Signal.LOGS: "oldest",
    }
    assert (config.adapter.endpoint, config.adapter.spill) == (Endpoint("http", "a", 1), "never")
    assert config.telemetry.signals == {Signal.METRICS, Signal.LOGS}
    assert (config.telemetry.interval_s, config.telemetry.log_level) == (2.0, "debug")
    buffer = config.buffer
    assert (buffer.max_slots, buffer.batch_items, buffer.durability) == (64, 7, "strict")
    assert (config.receiver.certificate, config.receiver.key) == ("/crt.pem", "/key.pem")
    assert (config.health.host, config.health.port, config.health.path) == ("0.0.0.0", 1, "/h")


SECRET = "s3cret"


def test_no_secret_is_in_anything_that_is_printed() -> None:
    """`otel-agent config`, its JSON, warnings, and a Config in a traceback."""
    environ = {
        **ENVIRON,
        f"{OTLP}HEADERS": f"authorization=Bearer%20{SECRET},{SECRET},x={SECRET}%",
        "ADAPTER_ENDPOINT": "http://a:1",
        "ADAPTER_TOKEN": SECRET,
        "HTTPS_PROXY": f"http://user:{SECRET}@proxy:3128",
    }
    config = load({}, environ, machine())
    printed = [*map(str, effective(config)), *config.warnings, repr(config)]
    assert config.adapter.token == SECRET
    assert [line for line in printed if SECRET in line] == []
    texts = {row.key: row.text for row in effective(config)}
    assert texts["collector.headers"] == "authorization=***"
    assert texts["adapter.token"] == "***"
    assert texts["HTTPS_PROXY"] == "http://***@proxy:3128"


def test_json_has_types_where_a_value_has_no_unit() -> None:
    """`otel-agent config --json`."""
    environ = {**ENVIRON, f"{OTLP}HEADERS": "a=b", "ADAPTER_TOKEN": SECRET}
    config = of_yaml("telemetry.metrics.exclude: [a, b]", environ)
    plain = {row.key: row.plain for row in effective(config)}
    assert plain["collector.insecure"] is False
    assert plain["buffer.max_size"] == 2048
    assert plain["telemetry.traces.sample_rate"] == 1.0
    assert plain["collector.timeout"] == "10s"
    assert plain["collector.headers"] == {"a": "***"}
    assert plain["adapter.token"] == "***"
    assert plain["customer.name"] is None
    assert plain["telemetry.metrics.exclude"] == ["a", "b"]
    assert plain["resource.service.name"] == "otel-agent"
    text = {row.key: row.text for row in effective(config)}
    assert text["telemetry.metrics.exclude"] == "a,b"


# ---- the real machine ---------------------------------------------------------------------------


def test_the_real_machine_answers(tmp_path: Path) -> None:
    """Every question that a fake answers above."""
    real = Machine()
    path = tmp_path / "a"
    path.write_bytes(b"\xef\xbb\xbfx")
    assert real.read_text(str(path)) == "x"
    assert real.exists(str(path))
    assert real.unreadable(str(path)) is None
    assert real.unreadable(str(tmp_path / "b")) == "No such file or directory"
    assert real.is_directory(str(tmp_path))
    assert real.writable_directory(str(tmp_path))
    assert not real.writable_directory(str(path))
    assert real.host_name()
    assert real.home().startswith("/")
    status = os.fstat(2)
    assert real.stderr_id() == f"{status.st_dev}:{status.st_ino}"
    assert real.grpcio_installed() is (find_spec("grpc") is not None)
    assert real.protobuf_installed() is (find_spec("opentelemetry") is not None)
    assert environment() is os.environ
