"""argv -> command, and `--help`. Pure; flags come from the table of settings.

argparse would do, for 0.5 MB of private memory on every device; this is what the agent needs of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from edge_agent.config_table import SETTINGS, SURROUNDINGS
from edge_agent.settings import nearest, shown

# The commands there are, with what they say of themselves.
COMMANDS = {
    "config": "print every setting with its source, secrets redacted (--json for programs)",
    "check": "say whether the agent could run and reach its peers, and what to do where not",
    "load": "send numbered spans, metrics or logs at a steady rate: otel-agent load --help",
}
_FLAGS = {"--config": "FILE"} | {
    setting.flag: setting.flag.rpartition("-")[2].upper()
    for setting in SETTINGS
    if setting.flag is not None
}
# Those of `load`, which takes none of the agent's: what stands for the value, and the help.
_LOAD_FLAGS = {
    "--endpoint": ("URL", "an OTLP receiver (http://localhost:4317, with http/protobuf :4318)"),
    "--protocol": ("PROTOCOL", "grpc or http/protobuf (grpc)"),
    "--signal": ("SIGNAL", "traces, metrics or logs; several with commas take turns (traces)"),
    "--rate": ("N", "requests a second (100)"),
    "--duration": ("TIME", "how long: 30s, 5m, 1h (60s)"),
    "--items": ("N", "spans, data points or log records in a request (8)"),
    "--size": ("BYTES", "pad every item to about this size: 500, 2KiB (not padded)"),
    "--connections": ("N", "connections (4, with http/protobuf 16)"),
    "--certificate": ("FILE", "PEM file of the authorities to trust (the system's)"),
    "--client-certificate": ("FILE", "PEM file of our certificate; needs --client-key"),
    "--client-key": ("FILE", "PEM file of its key"),
}
_LOAD_SWITCHES = {"--gzip": "compress requests"}
# Every flag that takes a value.
_VALUES = _FLAGS | {name: metavar for name, (metavar, _) in _LOAD_FLAGS.items()}
_JSON = ("config", "load")
_SWITCHES = ("--help", "-h", "--version", "--json")


class UsageError(ValueError):
    """argv is none of ours. The message names the word and the remedy."""


@dataclass(frozen=True, slots=True)
class CommandLine:
    """What was asked for: `command` is run, one of COMMANDS, help or version.

    `flags` are those of the command, without a value where they take none. `topic` is the command
    that help is about, where it has help of its own.
    """

    command: str = "run"
    flags: dict[str, str] = field(default_factory=dict)
    as_json: bool = False
    topic: str = ""


def parse(arguments: Sequence[str]) -> CommandLine:
    """Read `arguments` (without the program's name). The last of a repeated flag wins.

    Raises UsageError.
    """
    commands: list[str] = []
    flags: dict[str, str] = {}
    switches: set[str] = set()
    words = list(arguments)
    while words:
        word = words.pop(0)
        name, equals, value = word.partition("=")
        if word in _SWITCHES:
            switches.add(word)
        elif word in _LOAD_SWITCHES:
            flags[word] = ""
        elif name in _VALUES:
            flags[name] = value if equals else _next_value(name, words)
        elif word in COMMANDS and not commands:
            commands.append(word)
        else:
            raise UsageError(_complaint(name if word.startswith("-") else word, commands))
    return _checked(commands[0] if commands else "run", flags, switches)


def _checked(command: str, flags: dict[str, str], switches: set[str]) -> CommandLine:
    """What was asked for, once everything is known; raises UsageError for what does not fit."""
    if switches & {"--help", "-h"}:
        return CommandLine("help", topic=command if command == "load" else "")
    if "--version" in switches:
        return CommandLine("version")
    if "--json" in switches and command not in _JSON:
        raise UsageError("--json goes with config and load; write otel-agent config --json")
    for name in flags:
        if name not in _flags_of(command):
            raise UsageError(_misplaced(name, command))
    return CommandLine(command, flags, "--json" in switches)


def _flags_of(command: str) -> list[str]:
    return [*_LOAD_FLAGS, *_LOAD_SWITCHES] if command == "load" else list(_FLAGS)


def _misplaced(name: str, command: str) -> str:
    """What is wrong with a flag that is another command's."""
    if command == "load":
        return _unknown(name, _flags_of("load"), "flag of load", "otel-agent load --help")
    example = name if name in _LOAD_SWITCHES else f"{name} {_VALUES[name]}"
    return f"{name} goes with load; write otel-agent load {example}"


def _next_value(name: str, words: list[str]) -> str:
    if not words or words[0].startswith("--"):
        raise UsageError(f"{name} needs a value; write {name} {_VALUES[name]}")
    return words.pop(0)


def _complaint(word: str, commands: list[str]) -> str:
    if word.startswith("-"):
        if commands == ["load"]:
            known = [*_flags_of("load"), *_SWITCHES]
            return _unknown(shown(word), known, "flag of load", "otel-agent load --help")
        return _unknown(shown(word), [*_FLAGS, *_SWITCHES], "flag")
    if commands:
        return f"{shown(word)} is one word too many behind {commands[0]}; see otel-agent --help"
    return _unknown(shown(word), list(COMMANDS), "command")


def _unknown(word: str, known: list[str], what: str, help_: str = "otel-agent --help") -> str:
    guess = nearest(word, known)
    hint = f"the nearest known is {guess}; " if guess else ""
    return f"{word} is not a {what}; {hint}see {help_}"


def help_text(topic: str = "") -> str:
    """What --help prints, about the command `topic` where that is not empty."""
    if topic == "load":
        return _load_help()
    commands = "".join(f"  {name:8}{text}\n" for name, text in COMMANDS.items())
    flags = [("--config FILE", "settings in YAML (/etc/otel-agent/agent-config.yaml)")]
    flags += [(f"{s.flag} {_FLAGS[s.flag]}", f"{s.about} ({s.env})") for s in SETTINGS if s.flag]
    flags += [("--version", "print the version"), ("--help, -h", "print this")]
    variables = [
        (name, f"{s.key}: {s.about}" if name == s.env else f"{s.key}: {_second(name)}")
        for s in SETTINGS
        for name in s.variables
    ]
    return (
        "usage: otel-agent [FLAGS]                  run the agent\n"
        "       otel-agent config [--json] [FLAGS]\n"
        "       otel-agent check [FLAGS]\n"
        "       otel-agent load [FLAGS]             see otel-agent load --help\n\n"
        "Samples this machine and sends what it sees to an OpenTelemetry Collector.\n"
        "A flag wins over the environment, that over the file, that over the default.\n\n"
        f"commands:\n{commands}\n"
        f"flags:\n{_columns(flags)}\n"
        f"environment:\n{_columns(variables)}\n"
        f"environment, of the system around:\n{_columns(list(SURROUNDINGS.items()))}\n"
        "Settings that only the file has: see otel-agent config, whose keys are the file's.\n"
        "exit codes: 0; 1 a check failed, a part died or not all of a load was accepted; 2 usage;"
        " 75 the state\ndirectory is in use; 78 bad settings\n"
    )


def _second(name: str) -> str:
    return "a file with it" if name.endswith("_FILE") else "its service.name, over all others"


def _columns(rows: list[tuple[str, str]]) -> str:
    return "".join(f"  {name:39}{text}\n" for name, text in rows)


def _load_help() -> str:
    flags = [(f"{name} {metavar}", text) for name, (metavar, text) in _LOAD_FLAGS.items()]
    flags += list(_LOAD_SWITCHES.items())
    flags += [("--json", "print the result as JSON"), ("--help, -h", "print this")]
    return (
        "usage: otel-agent load [FLAGS]\n\n"
        "Sends numbered spans, data points or log records to an OTLP receiver at a steady rate,\n"
        "whether or not it keeps up, and says what became of them. It reads no settings of the\n"
        "agent. Items carry service.name otel-agent-load; spans and log records are called\n"
        "N00000001 and so on and carry the number as load.sequence, data points as their value.\n\n"
        f"flags:\n{_columns(flags)}\n"
        "examples:\n"
        "  otel-agent load --rate 1000 --duration 5m\n"
        "  otel-agent load --signal logs --size 2KiB --protocol http/protobuf --gzip\n"
        "  otel-agent load --endpoint http://gateway:4317 --signal traces,metrics,logs --json\n\n"
        "On a terminal a line a second says how far it is, elsewhere one every ten. Ctrl-C ends\n"
        "it early. Then it prints: sent; accepted; refused by the receiver, by code; failed, with\n"
        "no answer; not sent, as too many were in flight; the rate; and the latency of accepted\n"
        "requests, from when each was due.\n"
        "exit codes: 0 all was accepted; 1 not all; 2 usage\n"
    )
