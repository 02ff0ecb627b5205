"""`cassandra-adapter`: argv -> serve, or query."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

from edge_agent import __version__
from edge_agent.settings import ConfigError, parse_duration_s, parse_int
from edge_agent.stop import StopRequest

T = TypeVar("T")

EXIT_OK = 0
EXIT_STATE_IN_USE = 75
EXIT_CONFIG = 78

_EPILOG = """\
exit codes: 0; 2 wrong usage; 75 state directory in use; 78 bad configuration.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command in `argv`, sys.argv if None; returns its exit code."""
    arguments = _parser().parse_args(argv)
    try:
        if arguments.command == "query":
            return _query(arguments)
        return _serve()
    except ConfigError as error:
        print(f"cassandra-adapter: {error}", file=sys.stderr)  # noqa: T201 (a command's answer)
        return EXIT_CONFIG


def _serve() -> int:
    stop = StopRequest()
    stop.take_signals()
    # Only now what is slow to import: we may be stopped meanwhile.
    from adapter.config import load

    config = load()
    import asyncio

    from adapter.run import StateInUseError, run
    from edge_agent import log

    log.start("info", journal=config.journal)
    try:
        asyncio.run(run(config, stop))
    except StateInUseError as error:
        print(f"cassandra-adapter: {error}", file=sys.stderr)  # noqa: T201 (a command's answer)
        return EXIT_STATE_IN_USE
    return EXIT_OK


def _query(arguments: argparse.Namespace) -> int:
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cassandra-adapter",
        description="Keeps the metrics that agents send. Without a command it serves.",
        epilog=_EPILOG + "Settings are environment variables: see README.md.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    query = commands.add_parser(
        "query",
        help="show what is stored of one metric of one node",
        description=(
            "Prints one row a line, newest first: time (UTC), value, unit, attributes; a header"
            " on a terminal. Also while the adapter runs. Without rows it says on standard error"
            " what there is instead, and exits 0 too."
        ),
        epilog=_EPILOG,
    )
    query.add_argument("node", metavar="NODE", help="node id, as edge-01")
    query.add_argument("metric", metavar="METRIC", help="metric name, as system.cpu.percent")
    query.add_argument(
        "--since",
        metavar="AGE",
        type=_argument(lambda text: parse_duration_s(text, least_s=0.001)),
        default=3600.0,
        help="how far back: 15m, 1h, 7d (default 1h)",
    )
    query.add_argument(
        "--limit",
        metavar="N",
        type=_argument(lambda text: parse_int(text, least=1)),
        help="at most this many rows (default: all)",
    )
    query.add_argument(
        "--json", action="store_true", help="one JSON object a line, with every column but point"
    )
    return parser


def _argument(parse: Callable[[str], T]) -> Callable[[str], T]:
    """`parse` as argparse calls it: what is wrong is said behind the name of the option."""

    def argument(text: str) -> T:
        try:
            return parse(text)
        except ConfigError as error:
            raise argparse.ArgumentTypeError(f"{text}: {error}") from None

    return argument


if __name__ == "__main__":
    sys.exit(main())
