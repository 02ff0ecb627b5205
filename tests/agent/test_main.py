"""argv to command, exit codes, and what the commands print."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType

import pytest

import edge_agent
from edge_agent import __main__ as program
from edge_agent import __version__
from edge_agent.command_line import CommandLine, UsageError, help_text, parse
from edge_agent.config import Config
from edge_agent.exporter.retry import Client
from edge_agent.stop import StopRequest

ROOT = Path(__file__).parent.parent.parent
GOLDEN = ROOT / "tests" / "golden" / "config"
ENVIRON = {
    "CUSTOMER_ID": "demo",
    "NODE_ID": "edge-01",
    "HOME": "/home/pulse",
    "OTEL_EXPORTER_OTLP_ENDPOINT": "https://collector.example.com:4317",
    "OTEL_EXPORTER_OTLP_HEADERS": "authorization=Bearer%20s3cret",
    "BUFFER_PATH": "/data",
}


@pytest.fixture(autouse=True)
def _signals_stay_as_they_were() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, action in before.items():
        signal.signal(number, action)


@pytest.fixture
def environ(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The process's environment: ENVIRON and what a test adds."""
    mapping = dict(ENVIRON)
    monkeypatch.setattr(os, "environ", mapping)
    return mapping


class FakeAgent(ModuleType):
    """Stands where edge_agent.agent is: remembers what it was asked for."""

    def __init__(self) -> None:
        super().__init__("edge_agent.agent")
        self.ran: list[tuple[Config, StopRequest]] = []

    def run(self, config: Config, stop: StopRequest) -> int:
        self.ran.append((config, stop))
        return 75

    def clients(self, config: Config) -> Mapping[str, Client]:
        return {}


@pytest.fixture
def agent(monkeypatch: pytest.MonkeyPatch) -> FakeAgent:
    """The agent, not started."""
    fake = FakeAgent()
    monkeypatch.setitem(sys.modules, "edge_agent.agent", fake)
    monkeypatch.setattr(edge_agent, "agent", fake, raising=False)
    return fake


# ---- argv ---------------------------------------------------------------------------------------


def test_flags_go_before_or_behind_the_command() -> None:
    """With a blank or an equals sign; the last of a repeated one wins."""
    flags = {"--customer-id": "b", "--config": "/x"}
    asked = parse(["--customer-id", "a", "config", "--config=/x", "--json", "--customer-id=b"])
    assert asked == CommandLine("config", flags, as_json=True)
    assert parse([]) == CommandLine("run")
    assert parse(["--node-id="]) == CommandLine("run", {"--node-id": ""})


def test_load_has_flags_of_its_own() -> None:
    """Some with a value, some without; before or behind the command."""
    flags = {"--rate": "1000", "--gzip": "", "--signal": "logs"}
    asked = parse(["--rate=1000", "load", "--gzip", "--json", "--signal", "logs"])
    assert asked == CommandLine("load", flags, as_json=True)
    assert parse(["load", "--help"]) == CommandLine("help", topic="load")


def test_buffer_has_words_and_flags_of_its_own() -> None:
    """A word may be `-`, or the name of a command; --config is the agent's."""
    asked = parse(["buffer", "export", "-", "--config", "/x", "--remove", "--signal=logs"])
    flags = {"--config": "/x", "--remove": "", "--signal": "logs"}
    assert asked == CommandLine("buffer", flags, words=("export", "-"))
    assert parse(["buffer", "import", "load"]).words == ("import", "load")
    assert parse(["buffer", "show", "--help"]) == CommandLine("help", topic="buffer")


def test_help_and_version_win_over_the_rest() -> None:
    """Whoever asks for help does not want to run."""
    assert parse(["check", "-h"]) == parse(["--help"]) == CommandLine("help")
    assert parse(["--version", "config"]) == CommandLine("version")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            ["--custmer-id", "x"],
            "--custmer-id is not a flag; the nearest known is --customer-id; see otel-agent --help",
        ),
        (["-q"], "-q is not a flag; the nearest known is -h; see otel-agent --help"),
        (
            ["--custmer-id=s3cret"],
            "--custmer-id is not a flag; the nearest known is --customer-id; see otel-agent --help",
        ),
        (
            ["confg"],
            "confg is not a command; the nearest known is config; see otel-agent --help",
        ),
        (["zzz"], "zzz is not a command; see otel-agent --help"),
        (
            ["config", "check"],
            "check is one word too many behind config; see otel-agent --help",
        ),
        (["--config"], "--config needs a value; write --config FILE"),
        (["--node-id", "--json"], "--node-id needs a value; write --node-id ID"),
        (["--json"], "--json goes with config, load and buffer; write otel-agent config --json"),
        (["--rate", "9"], "--rate goes with load; write otel-agent load --rate N"),
        (["check", "--gzip"], "--gzip goes with load; write otel-agent load --gzip"),
        (
            ["--collector-endpoint", "x", "load"],
            "--collector-endpoint is not a flag of load; the nearest known is --endpoint;"
            " see otel-agent load --help",
        ),
        (
            ["load", "--rat=9"],
            "--rat is not a flag of load; the nearest known is --rate; see otel-agent load --help",
        ),
        (["load", "--size"], "--size needs a value; write --size BYTES"),
        (["load", "100"], "100 is one word too many behind load; see otel-agent --help"),
        (["--remove"], "--remove goes with buffer; see otel-agent buffer --help"),
        (
            ["buffer", "--rate=9"],
            "--rate is not a flag of buffer; the nearest known is --format;"
            " see otel-agent buffer --help",
        ),
        (
            ["buffer", "show", "--pth=/x"],
            "--pth is not a flag of buffer; the nearest known is --path;"
            " see otel-agent buffer --help",
        ),
    ],
)
def test_what_is_not_ours_is_named_with_the_nearest_that_is(argv: list[str], message: str) -> None:
    """Whole messages."""
    with pytest.raises(UsageError) as caught:
        parse(argv)
    assert str(caught.value) == message


# ---- commands -----------------------------------------------------------------------------------


def test_usage_errors_exit_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    """CONTRACT, "Programs"."""
    assert program.main(["--zzz"]) == 2
    assert capsys.readouterr().err == "otel-agent: --zzz is not a flag; see otel-agent --help\n"


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """--version."""
    assert program.main(["--version"]) == 0
    assert capsys.readouterr().out == f"otel-agent {__version__}\n"


def test_help_is_as_recorded(capsys: pytest.CaptureFixture[str]) -> None:
    """Golden: tests/golden/config/help.txt."""
    assert program.main(["--help"]) == 0
    assert capsys.readouterr().out == help_text() == (GOLDEN / "help.txt").read_text("utf-8")


def test_help_of_load_is_as_recorded(capsys: pytest.CaptureFixture[str]) -> None:
    """Golden: tests/golden/config/help-load.txt."""
    assert program.main(["load", "--help"]) == 0
    expected = (GOLDEN / "help-load.txt").read_text("utf-8")
    assert capsys.readouterr().out == help_text("load") == expected


def test_help_of_buffer_is_as_recorded(capsys: pytest.CaptureFixture[str]) -> None:
    """Golden: tests/golden/config/help-buffer.txt."""
    assert program.main(["buffer", "--help"]) == 0
    expected = (GOLDEN / "help-buffer.txt").read_text("utf-8")
    assert capsys.readouterr().out == help_text("buffer") == expected


def test_config_is_as_recorded(environ: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    """Golden: tests/golden/config/config.txt; a flag, variables and defaults; warnings apart."""
    environ["OTEL_RESOURCE_ATTRIBUTES"] = "site=hall-7,s3cret"
    assert program.main(["config", "--health-port", "9090"]) == 0
    printed = capsys.readouterr()
    assert printed.out == (GOLDEN / "config.txt").read_text("utf-8")
    assert printed.err == (
        "otel-agent: warning: OTEL_RESOURCE_ATTRIBUTES: pair 2 has no '='; skipped\n"
    )


@pytest.mark.usefixtures("environ")
def test_config_as_json_has_value_and_source(capsys: pytest.CaptureFixture[str]) -> None:
    """config --json."""
    assert program.main(["config", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert rows["customer.id"] == {"value": "demo", "source": "environment CUSTOMER_ID"}
    assert rows["collector.headers"]["value"] == {"authorization": "***"}
    assert rows["health_check.port"] == {"value": 8080, "source": "default"}


@pytest.mark.parametrize("argv", [[], ["config"]])
def test_bad_settings_exit_with_78_and_a_line_each(
    argv: list[str], environ: dict[str, str], agent: FakeAgent, capsys: pytest.CaptureFixture[str]
) -> None:
    """CONTRACT, "Programs"; nothing runs."""
    environ.pop("CUSTOMER_ID")
    environ["BUFFER_MAX_SIZE"] = "16"
    assert program.main(argv) == 78
    printed = capsys.readouterr()
    assert (printed.out, agent.ran) == ("", [])
    assert printed.err.splitlines() == [
        "otel-agent: buffer.max_size=16 (BUFFER_MAX_SIZE): below 64 slots of 32 KiB; raise it",
        "otel-agent: customer.id: not set; set CUSTOMER_ID, --customer-id, or customer.id in"
        " /etc/otel-agent/agent-config.yaml",
    ]


def test_check_of_bad_settings_exits_with_78_too(
    environ: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Said where check says everything."""
    environ["BUFFER_MAX_SIZE"] = "16"
    assert program.main(["check"]) == 78
    assert capsys.readouterr().out == (
        "fail  config     buffer.max_size=16 (BUFFER_MAX_SIZE):"
        " below 64 slots of 32 KiB; raise it\n"
    )


@pytest.mark.usefixtures("agent")
def test_check_exits_with_0_or_1(
    environ: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """1 where something failed: here a file where the state directory should be."""
    environ |= {"HEALTH_CHECK_PORT": "0", "BUFFER_PATH": str(tmp_path)}
    for signal_name in ("METRICS", "TRACES", "LOGS"):
        environ[f"{signal_name}_ENABLED"] = "false"
    assert program.main(["check"]) == 0
    (tmp_path / "file").touch()
    environ["BUFFER_PATH"] = str(tmp_path / "file" / "state")
    assert program.main(["check"]) == 1
    assert f"fail  buffer     {tmp_path}/file is not a directory" in capsys.readouterr().out


@pytest.mark.usefixtures("environ")
def test_the_bare_call_runs_the_agent_with_signals_taken(agent: FakeAgent) -> None:
    """A signal that arrives while the rest is imported is there when the agent starts."""
    assert program.main(["--node-id", "n"]) == 75
    ((config, stop),) = agent.ran
    assert config.identity.node_id == "n"
    assert stop.requested is None
    signal.raise_signal(signal.SIGTERM)
    assert stop.requested == signal.SIGTERM


@pytest.mark.usefixtures("environ")
def test_a_reader_that_went_away_is_no_error(tmp_path: Path) -> None:
    """otel-agent config | head -1."""
    reading, writing = os.pipe()
    os.close(reading)
    process = subprocess.run(
        [sys.executable, "-m", "edge_agent", "config"],
        stdout=writing,
        stderr=subprocess.PIPE,
        cwd=ROOT,
        env=ENVIRON,
        check=False,
    )
    os.close(writing)
    assert (process.returncode, process.stderr) == (0, b"")


def test_signals_are_taken_before_anything_slow_is_imported() -> None:
    """The issue asks for it: a stop within the first second must drain, not kill."""
    script = (
        "import signal, sys\n"
        "from edge_agent import __main__ as program\n"
        "slow = {'asyncio', 'ssl', 'logging', 'yaml', 'psutil', 'edge_agent.config'}\n"
        "print(sorted(slow & set(sys.modules)))\n"
        "first = {}\n"
        "class Finder:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name in slow or name == 'edge_agent.command_line':\n"
        "            first.setdefault('taken', callable(signal.getsignal(signal.SIGTERM)))\n"
        "sys.meta_path.insert(0, Finder())\n"
        "program.main(['--version'])\n"
        "print(first)\n"
    )
    process = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert process.stdout == f"[]\notel-agent {__version__}\n{{'taken': True}}\n"
