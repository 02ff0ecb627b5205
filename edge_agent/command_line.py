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
    "buffer": "look at what waits in the ring, export and import it: otel-agent buffer --help",
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
# Those of `buffer`, beside --config.
_BUFFER_FLAGS = {
    "--path": ("DIR", "the state directory (buffer.path of the settings)"),
    "--signal": ("SIGNAL", "traces, metrics or logs (all; for import, what the file's name says)"),
    "--destination": ("NAME", "collector or adapter (both; for import, collector)"),
    "--format": ("FORMAT", "of an export: proto or json (proto)"),
}
_BUFFER_SWITCHES = {
    "--remove": "export: acknowledge what was written, so that it is not sent as well",
    "--partial": "import: of a damaged file, what is before the damage",
}
# Commands with flags and help of their own, and what they take.
_OWN = {
    "load": (*_LOAD_FLAGS, *_LOAD_SWITCHES),
    "buffer": ("--config", *_BUFFER_FLAGS, *_BUFFER_SWITCHES),
}
# Every flag that takes a value, and every one that takes none.
_VALUES = _FLAGS | {
    name: metavar for name, (metavar, _) in (*_BUFFER_FLAGS.items(), *_LOAD_FLAGS.items())
}
_BARE = (*_LOAD_SWITCHES, *_BUFFER_SWITCHES)
_JSON = ("config", "load", "buffer")
_SWITCHES = ("--help", "-h", "--version", "--json")


class UsageError(ValueError):
    """argv is none of ours. The message names the word and the remedy."""


@dataclass(frozen=True, slots=True)
class CommandLine:
    """What was asked for: `command` is run, one of COMMANDS, help or version.

    `flags` are those of the command, without a value where they take none. `words` are what stands
    behind `buffer`. `topic` is the command that help is about, where it has help of its own.
    """

    command: str = "run"
    flags: dict[str, str] = field(default_factory=dict)
    as_json: bool = False
    topic: str = ""
    words: tuple[str, ...] = ()


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
        elif word in _BARE:
            flags[word] = ""
        elif name in _VALUES:
            flags[name] = value if equals else _next_value(name, words)
        elif (word in COMMANDS and not commands) or (
            commands[:1] == ["buffer"] and (word == "-" or not word.startswith("-"))
        ):
            commands.append(word)
        else:
            raise UsageError(_complaint(name if word.startswith("-") else word, commands))
    return _checked(commands or ["run"], flags, switches)


def _checked(commands: list[str], flags: dict[str, str], switches: set[str]) -> CommandLine:
    """What was asked for, once everything is known; raises UsageError for what does not fit."""
    command, *words = commands
    if switches & {"--help", "-h"}:
        return CommandLine("help", topic=command if command in _OWN else "")
    if "--version" in switches:
        return CommandLine("version")
    if "--json" in switches and command not in _JSON:
        raise UsageError("--json goes with config, load and buffer; write otel-agent config --json")
    for name in flags:
        if name not in _flags_of(command):
            raise UsageError(_misplaced(name, command))
    return CommandLine(command, flags, "--json" in switches, words=tuple(words))


def _flags_of(command: str) -> list[str]:
    return list(_OWN.get(command, _FLAGS))


def _misplaced(name: str, command: str) -> str:
    """What is wrong with a flag that is another command's."""
    if command in _OWN:
        return _unknown(name, _flags_of(command), f"flag of {command}", _help_of(command))
    if name not in _OWN["load"]:
        return f"{name} goes with buffer; see otel-agent buffer --help"
    example = name if name in _LOAD_SWITCHES else f"{name} {_VALUES[name]}"
    return f"{name} goes with load; write otel-agent load {example}"


def _help_of(command: str) -> str:
    return f"otel-agent {command} --help"


def _next_value(name: str, words: list[str]) -> str:
    if not words or words[0].startswith("--"):
        raise UsageError(f"{name} needs a value; write {name} {_VALUES[name]}")
    return words.pop(0)


def _complaint(word: str, commands: list[str]) -> str:
    if word.startswith("-"):
        command = commands[0] if commands else ""
        if command in _OWN:
            known = [*_flags_of(command), *_SWITCHES]
            return _unknown(shown(word), known, f"flag of {command}", _help_of(command))
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
    if topic in _OWN:
        return _load_help() if topic == "load" else _buffer_help()
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
        "       otel-agent buffer ACTION [FLAGS]    see otel-agent buffer --help\n"
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


def _buffer_help() -> str:
    flags = [(f"{name} {metavar}", text) for name, (metavar, text) in _BUFFER_FLAGS.items()]
    flags += list(_BUFFER_SWITCHES.items())
    flags += [
        ("--config FILE", "the settings, of which buffer.* alone are read"),
        ("--json", "show and verify: print JSON"),
        ("--help, -h", "print this"),
    ]
    return (
        "usage: otel-agent buffer show [--json]\n"
        "       otel-agent buffer verify [--json]\n"
        "       otel-agent buffer export FILE [--signal S] [--destination D] [--format F]"
        " [--remove]\n"
        "       otel-agent buffer import FILE [--signal S] [--destination D] [--partial]\n\n"
        "What waits in the ring for a destination that is away. show, verify and export only\n"
        "read, also while the agent runs, and see what it has saved; import, and export --remove,\n"
        "need it stopped. Run it as the agent's user.\n\n"
        "  show    queues with their ages and sizes, what would be lost next, what ever was\n"
        "  verify  look at every page, count and checksum\n"
        "  export  copy requests to files, oldest first. FILE a.otlp becomes a.metrics.otlp,\n"
        "          a.traces.otlp, a.logs.otlp and a.adapter-metrics.otlp, unless the flags leave\n"
        "          one queue; - is standard output. proto has each request behind its length, 4\n"
        "          bytes big-endian, as the Collector's file exporter writes it; json is a\n"
        "          request a line, which the Collector's otlpjsonfile receiver reads (with\n"
        "          start_at: beginning)\n"
        "  import  append the requests of a file in either format to the ring, unchanged; the\n"
        "          agent's next start delivers them. That a file was imported or delivered before\n"
        "          is not noticed\n\n"
        f"flags:\n{_columns(flags)}\n"
        "exit codes: 0; 1 the ring or the file is not in order, or not all could be done;\n"
        "2 usage; 75 an agent uses the ring; 78 bad settings\n"
    )
