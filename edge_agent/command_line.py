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
}
_FLAGS = {"--config": "FILE"} | {
    setting.flag: setting.flag.rpartition("-")[2].upper()
    for setting in SETTINGS
    if setting.flag is not None
}
_SWITCHES = ("--help", "-h", "--version", "--json")


class UsageError(ValueError):
    """argv is none of ours. The message names the word and the remedy."""


@dataclass(frozen=True, slots=True)
class CommandLine:
    """What was asked for: `command` is run, config, check, help or version."""

    command: str = "run"
    flags: dict[str, str] = field(default_factory=dict)
    as_json: bool = False


def parse(arguments: Sequence[str]) -> CommandLine:
    """Read `arguments` (without the program's name). The last of a repeated flag wins.

    Raises UsageError.
    """
    commands: list[str] = []
    flags: dict[str, str] = {}
    switches = set()
    words = list(arguments)
    while words:
        word = words.pop(0)
        name, equals, value = word.partition("=")
        if word in _SWITCHES:
            switches.add(word)
        elif name in _FLAGS:
            flags[name] = value if equals else _next_value(name, words)
        elif word in COMMANDS and not commands:
            commands.append(word)
        else:
            raise UsageError(_complaint(name if word.startswith("-") else word, commands))
    if switches & {"--help", "-h"}:
        return CommandLine("help")
    if "--version" in switches:
        return CommandLine("version")
    if "--json" in switches and commands != ["config"]:
        raise UsageError("--json goes with config alone; write otel-agent config --json")
    return CommandLine(commands[0] if commands else "run", flags, "--json" in switches)


def _next_value(name: str, words: list[str]) -> str:
    if not words or words[0].startswith("--"):
        raise UsageError(f"{name} needs a value; write {name} {_FLAGS[name]}")
    return words.pop(0)


def _complaint(word: str, commands: list[str]) -> str:
    if word.startswith("-"):
        return _unknown(shown(word), [*_FLAGS, *_SWITCHES], "flag")
    if commands:
        return f"{shown(word)} is one word too many behind {commands[0]}; see otel-agent --help"
    return _unknown(shown(word), list(COMMANDS), "command")


def _unknown(word: str, known: list[str], what: str) -> str:
    guess = nearest(word, known)
    hint = f"the nearest known is {guess}; " if guess else ""
    return f"{word} is not a {what}; {hint}see otel-agent --help"


def help_text() -> str:
    """What --help prints."""
    commands = "".join(f"  {name:8}{text}\n" for name, text in COMMANDS.items())
    flags = [("--config FILE", "settings in YAML (/etc/otel-agent/agent-config.yaml)")]
    flags += [(f"{s.flag} {_FLAGS[s.flag]}", f"{s.help} ({s.env})") for s in SETTINGS if s.flag]
    flags += [("--version", "print the version"), ("--help, -h", "print this")]
    variables = [
        (name, f"{s.key}: {s.help}" if name == s.env else f"{s.key}: {_second(name)}")
        for s in SETTINGS
        for name in s.variables
    ]
    return (
        "usage: otel-agent [FLAGS]                  run the agent\n"
        "       otel-agent config [--json] [FLAGS]\n"
        "       otel-agent check [FLAGS]\n\n"
        "Samples this machine and sends what it sees to an OpenTelemetry Collector.\n"
        "A flag wins over the environment, that over the file, that over the default.\n\n"
        f"commands:\n{commands}\n"
        f"flags:\n{_columns(flags)}\n"
        f"environment:\n{_columns(variables)}\n"
        f"environment, of the system around:\n{_columns(list(SURROUNDINGS.items()))}\n"
        "Settings that only the file has: see otel-agent config, whose keys are the file's.\n"
        "exit codes: 0; 1 a check failed or a part died; 2 usage; 75 the state directory is in use;"
        " 78 bad settings\n"
    )


def _second(name: str) -> str:
    return "a file with it" if name.endswith("_FILE") else "its service.name, over all others"


def _columns(rows: list[tuple[str, str]]) -> str:
    return "".join(f"  {name:39}{text}\n" for name, text in rows)
