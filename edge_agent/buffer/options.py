"""argv of `otel-agent buffer` -> what was asked for. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from edge_agent import settings
from edge_agent.opener import NUMBERS
from edge_agent.otlp.signal import Signal
from edge_agent.settings import ConfigError, nearest, shown

ACTIONS = ("show", "verify", "export", "import")
FORMATS = ("proto", "json")
STDOUT = "-"
_DESTINATIONS = tuple(dict.fromkeys(destination for destination, _ in NUMBERS))
# What each takes beside --path and --config.
_TAKES = {
    "show": ("--json",),
    "verify": ("--json",),
    "export": ("--signal", "--destination", "--format", "--remove"),
    "import": ("--signal", "--destination", "--partial"),
}

Queue = tuple[str, Signal]


@dataclass(frozen=True, slots=True)
class Options:
    """One call. `path` is None where the settings name the directory.

    `signal` and `destination` are None where nothing was said of them; `format` is of FORMATS.
    """

    action: str
    file: str = ""
    path: str | None = None
    signal: Signal | None = None
    destination: str | None = None
    format: str = "proto"
    remove: bool = False
    partial: bool = False
    as_json: bool = False

    @property
    def queues(self) -> list[Queue]:
        """Those that were asked for: all, where nothing was said."""
        return [
            (destination, signal)
            for destination, signal in NUMBERS
            if self.signal in (None, signal) and self.destination in (None, destination)
        ]


def options(words: Sequence[str], flags: Mapping[str, str], *, as_json: bool) -> Options:
    """What `words` and `flags` ask for; raises ConfigError naming the word and the remedy."""
    action = _action(words)
    for flag in (*flags, *(("--json",) if as_json else ())):
        if flag not in ("--path", "--config", *_TAKES[action]):
            takers = " and ".join(name for name in ACTIONS if flag in _TAKES[name])
            raise ConfigError(f"{flag} goes with {takers}; see otel-agent buffer --help")

    def choice(flag: str, known: Sequence[str]) -> str | None:
        text = flags.get(flag)
        if text is None:
            return None
        parse = partial(settings.parse_choice, choices=known)
        return settings.in_context(parse, text, key=flag, source="command line")

    path = flags.get("--path")
    if path is not None and not path:
        raise ConfigError("--path is empty; write --path DIR")
    signal = choice("--signal", list(Signal))
    asked = Options(
        action,
        words[1] if len(words) > 1 else "",
        path,
        None if signal is None else Signal(signal),
        choice("--destination", _DESTINATIONS),
        choice("--format", FORMATS) or FORMATS[0],
        "--remove" in flags,
        "--partial" in flags,
        as_json,
    )
    _check(asked)
    return asked


def _action(words: Sequence[str]) -> str:
    if not words:
        raise ConfigError(f"what? write otel-agent buffer {'|'.join(ACTIONS)}")
    action = words[0]
    if action not in ACTIONS:
        guess = nearest(action, ACTIONS)
        hint = f"the nearest known is {guess}; " if guess else ""
        raise ConfigError(
            f"{shown(action)} is not known; {hint}write otel-agent buffer {'|'.join(ACTIONS)}"
        )
    names = 2 if action in ("export", "import") else 1
    if len(words) > names:
        raise ConfigError(
            f"{shown(words[names])} is one word too many; see otel-agent buffer --help"
        )
    if len(words) < names or not words[-1]:
        raise ConfigError(f"{action} needs a file; write otel-agent buffer {action} FILE")
    return action


def _check(asked: Options) -> None:
    if not asked.queues:
        raise ConfigError(_nobody(asked.destination, asked.signal))
    if asked.file != STDOUT:
        return
    if asked.action == "import":
        raise ConfigError("- (standard input) cannot be read twice, as import does; name a file")
    if asked.remove:
        raise ConfigError(
            "--remove needs a file: what became of standard output cannot be known; name one"
        )
    if len(asked.queues) > 1:
        raise ConfigError(
            "- (standard output) takes one queue;"
            " write --signal traces, or --signal metrics --destination collector"
        )


def file_of(file: str, queue: Queue) -> str:
    """The name for the part of an export that is `queue`'s: `a.otlp` becomes `a.traces.otlp`.

    The collector's are named after their signal alone: `adapter-metrics` are the adapter's.
    """
    destination, signal = queue
    name = str(signal) if destination == _DESTINATIONS[0] else f"{destination}-{signal}"
    folder, slash, last = file.rpartition("/")
    stem, dot, suffix = last.rpartition(".")
    last = f"{stem}.{name}.{suffix}" if dot and stem else f"{last}.{name}"
    return folder + slash + last


def queue_of(asked: Options) -> Queue:
    """The queue that an import goes to, by the flags or else by the file's name (`file_of`).

    Raises ConfigError where neither says it.
    """
    parts = asked.file.rpartition("/")[2].split(".")
    named = next((q for q in NUMBERS if file_of("x.y", q).split(".")[1] in parts), None)
    signal = asked.signal or (None if named is None else named[1])
    if signal is None:
        raise ConfigError(
            f"{shown(asked.file)}: its name does not say what is in it;"
            " write --signal metrics, traces or logs"
        )
    by_name = named[0] if named is not None and named[1] is signal else _DESTINATIONS[0]
    queue = (asked.destination or by_name, signal)
    if queue not in NUMBERS:
        raise ConfigError(_nobody(*queue))
    return queue


def _nobody(destination: str | None, signal: Signal | None) -> str:
    return (
        f"--destination={destination} (command line): no {signal} go there;"
        f" write --destination {_DESTINATIONS[0]}"
    )
