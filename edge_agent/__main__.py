"""argv -> command. `otel-agent` and `python -m edge_agent` are the same.

Exit codes: 0; 1 where a check failed, a part died, or not all of a load was accepted or of a buffer
exported or imported; 2 for usage; 75 where another agent has the state directory, 78 for bad
settings (EX_TEMPFAIL and EX_CONFIG of sysexits.h, which the unit file's RestartPreventExitStatus
names).
"""

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from edge_agent.stop import StopRequest

if TYPE_CHECKING:
    from edge_agent.command_line import CommandLine

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_CONFIG = 78


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command in `argv`, sys.argv without the program if None; returns the exit code."""
    stop = StopRequest()
    # Before anything slow is imported: systemd may stop us at any time.
    stop.take_signals()
    from edge_agent import command_line

    try:
        asked = command_line.parse(sys.argv[1:] if argv is None else argv)
    except command_line.UsageError as error:
        sys.stderr.write(f"otel-agent: {error}\n")
        return EXIT_USAGE
    if asked.command == "run":
        return _run(asked.flags, stop)
    try:
        code = _load(asked, stop) if asked.command == "load" else _print(asked, stop)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader has seen enough. The interpreter flushes once more on its way out.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return code


def _run(flags: dict[str, str], stop: StopRequest) -> int:
    from edge_agent import config

    try:
        settings = config.load(flags, config.environment())
    except config.InvalidConfigError as error:
        return _invalid(error.problems)
    # The loop, TLS and the wire: most of what the agent imports.
    from edge_agent import agent

    return agent.run(settings, stop)


def _load(asked: "CommandLine", stop: StopRequest) -> int:
    # Here alone: the agent does not pay for it.
    from edge_agent.load import command

    return command.run(asked.flags, stop, as_json=asked.as_json)


def _print(asked: "CommandLine", stop: StopRequest) -> int:
    from edge_agent import __version__

    stop.release_signals()
    match asked.command:
        case "help":
            from edge_agent.command_line import help_text

            sys.stdout.write(help_text(asked.topic))
        case "version":
            sys.stdout.write(f"otel-agent {__version__}\n")
        case "config":
            return _config(asked)
        case "buffer":
            # LMDB with it: the agent imports that where it has a ring.
            from edge_agent.buffer import command

            return command.run(asked.words, asked.flags, as_json=asked.as_json)
        case _:
            return _check(asked)
    return 0


def _config(asked: "CommandLine") -> int:
    from edge_agent import config

    try:
        settings = config.load(asked.flags, config.environment())
    except config.InvalidConfigError as error:
        return _invalid(error.problems)
    for warning in settings.warnings:
        sys.stderr.write(f"otel-agent: warning: {warning}\n")
    if asked.as_json:
        import json

        rows = {
            row.key: {"value": row.plain, "source": str(row.source)}
            for row in config.effective(settings)
        }
        sys.stdout.write(json.dumps(rows, indent=2, ensure_ascii=False) + "\n")
        return 0
    for row in config.effective(settings):
        sys.stdout.write(f"{row.key} = {row.text}  ({row.source})\n")
    return 0


def _check(asked: "CommandLine") -> int:
    from edge_agent import check, config

    try:
        settings = config.load(asked.flags, config.environment())
    except config.InvalidConfigError as error:
        for problem in error.problems:
            sys.stdout.write(check.line("fail", "config", problem))
        return EXIT_CONFIG
    import asyncio

    from edge_agent.clients import clients

    passed = asyncio.run(check.run(settings, clients, sys.stdout.write))
    return 0 if passed else EXIT_FAILED


def _invalid(problems: Sequence[str]) -> int:
    for problem in problems:
        sys.stderr.write(f"otel-agent: {problem}\n")
    return EXIT_CONFIG


if __name__ == "__main__":
    sys.exit(main())
