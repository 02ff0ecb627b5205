"""`cassandra-adapter`: argv -> serve, or query."""

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from edge_agent.stop import StopRequest

if TYPE_CHECKING:
    from argparse import Namespace

EXIT_OK = 0
EXIT_STATE_IN_USE = 75
EXIT_CONFIG = 78


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command in `argv`, sys.argv if None; returns its exit code."""
    stop = StopRequest()
    # Before anything slow is imported: systemd may stop us at any time.
    stop.take_signals()
    from adapter.command_line import parser
    from edge_agent.settings import ConfigError

    arguments = parser().parse_args(argv)
    try:
        if arguments.command == "query":
            stop.release_signals()
            return _query(arguments)
        return _serve(stop)
    except ConfigError as error:
        return _failed(error, EXIT_CONFIG)
    except ModuleNotFoundError as error:
        # The console script is installed with the agent, what it needs only where it is wanted.
        if (error.name or "").partition(".")[0] not in ("google", "opentelemetry"):
            raise
        return _failed(
            f"{error.name} is not installed: pip install 'pulseops-edge[adapter]'", EXIT_CONFIG
        )


def _failed(reason: object, code: int) -> int:
    print(f"cassandra-adapter: {reason}", file=sys.stderr)  # noqa: T201 (a command's answer)
    return code


def _serve(stop: StopRequest) -> int:
    from adapter.config import load

    config = load()
    import asyncio

    from adapter.run import StateInUseError, run
    from edge_agent import log

    log.start("info", journal=config.journal)
    try:
        asyncio.run(run(config, stop))
    except StateInUseError as error:
        return _failed(error, EXIT_STATE_IN_USE)
    return EXIT_OK


def _query(arguments: "Namespace") -> int:
    from adapter.config import load_for_query
    from adapter.query import query

    try:
        query(
            load_for_query(),
            arguments.node,
            arguments.metric,
            since_s=arguments.since,
            limit=arguments.limit,
            as_json=arguments.json,
            out=sys.stdout,
            err=sys.stderr,
        )
        sys.stdout.flush()
    except BrokenPipeError:
        # `| head` has seen enough. Python would complain once more when it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(main())
