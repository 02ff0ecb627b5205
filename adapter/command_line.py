"""What may be written behind `cassandra-adapter`."""

import argparse
from collections.abc import Callable
from typing import TypeVar

from edge_agent import __version__
from edge_agent.settings import ConfigError, parse_duration_s, parse_int

T = TypeVar("T")

_EPILOG = """\
exit codes: 0; 2 wrong usage; 75 state directory in use; 78 bad configuration, or a part of the
program that is not installed.
"""


def parser() -> argparse.ArgumentParser:
    """The commands and their options; wrong usage ends the program with code 2."""
    built = argparse.ArgumentParser(
        prog="cassandra-adapter",
        description="Keeps the metrics that agents send. Without a command it serves.",
        epilog=_EPILOG + "Settings are environment variables: see README.md.",
    )
    built.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = built.add_subparsers(dest="command", metavar="COMMAND")
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
    return built


def _argument(parse: Callable[[str], T]) -> Callable[[str], T]:
    """`parse` as argparse calls it: what is wrong is said behind the name of the option."""

    def argument(text: str) -> T:
        try:
            return parse(text)
        except ConfigError as error:
            raise argparse.ArgumentTypeError(f"{text}: {error}") from None

    return argument
