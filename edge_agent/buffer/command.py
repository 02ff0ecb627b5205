"""`otel-agent buffer show|verify|export|import`: what each does, says and returns.

Exit codes: 0; 1 the ring or a file is not in order, or not all could be done; 2 usage; 75 an agent
has the ring, for what needs it alone; 78 bad settings.
"""

import errno
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import BinaryIO, NoReturn

from edge_agent import config, log
from edge_agent.buffer import exporting, importing, show
from edge_agent.buffer.options import STDOUT, Options, Queue, options, queue_of
from edge_agent.opener import NUMBERS, Opener, boot_id
from edge_agent.ring.layout import LayoutError
from edge_agent.ring.opening import DATA, check_file
from edge_agent.ring.policy import SLOT
from edge_agent.ring.record import Entry, RingError
from edge_agent.ring.view import View, view_ring
from edge_agent.settings import ConfigError, shown
from edge_agent.state import InUseError, StateDirectory, in_use, open_state

EXIT_FAILED, EXIT_USAGE, EXIT_IN_USE, EXIT_CONFIG = 1, 2, 75, 78


class _EndError(Exception):
    """The command ends here: `code` is its exit code, the message is for standard error."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class _Place:
    """The state directory, and what named it."""

    path: str
    source: str

    def __str__(self) -> str:
        return f"buffer.path={shown(self.path)} ({self.source})"


def run(words: Sequence[str], flags: Mapping[str, str], *, as_json: bool) -> int:
    """Run `otel-agent buffer WORDS`; the exit code."""
    try:
        asked = options(words, flags, as_json=as_json)
        match asked.action:
            case "show":
                return _show(asked, _place(asked, flags))
            case "verify":
                return _verify(asked, _place(asked, flags))
            case "export":
                return _export(asked, _place(asked, flags))
            case _:
                return _import(asked, flags)
    except config.InvalidConfigError as error:
        for problem in error.problems:
            _say(problem)
        return EXIT_CONFIG
    except ConfigError as error:
        _say(str(error))
        return EXIT_USAGE
    except exporting.ExportError as error:
        _say(str(error))
        return EXIT_FAILED
    except _EndError as end:
        _say(str(end))
        return end.code


def _say(message: str) -> None:
    sys.stderr.write(f"otel-agent buffer: {message}\n")


# ---- the ring ---------------------------------------------------------------------------------


def _place(asked: Options, flags: Mapping[str, str]) -> _Place:
    if asked.path is not None:
        # Whatever the settings say, and whether or not they are in order.
        return _Place(asked.path, "--path")
    settings, source = config.load_buffer(flags, config.environment())
    return _Place(settings.path, source.where)


def _view(place: _Place, *, ours: bool = False) -> View:
    """The ring; `ours` where we hold the lock on it."""
    try:
        if ours or not in_use(place.path):
            # An agent has looked at what it uses; LMDB must not see what nobody has looked at.
            check_file(os.path.join(place.path, DATA))
        return view_ring(place.path)
    except LayoutError as error:
        raise _EndError(
            EXIT_FAILED,
            f"{place}: the ring cannot be trusted: {error}; the agent's next start moves it aside"
            " and begins another",
        ) from None
    except OSError as error:
        _fail(place, error)


def _fail(place: _Place, error: OSError) -> NoReturn:
    if error.errno == errno.ENOENT:
        remedy = "no ring is there: the agent makes it at its start; --path DIR names another"
        raise _EndError(EXIT_FAILED, f"{place}: {remedy}") from None
    if error.errno in (errno.EACCES, errno.EPERM):
        reason = os.strerror(error.errno)
        raise _EndError(EXIT_FAILED, f"{place}: {reason}; run this as the agent's user") from None
    remedy = error.remedy if isinstance(error, RingError) else ""
    message = f"{place}: {error}" + (f"; {remedy}" if remedy else "")
    raise _EndError(EXIT_FAILED, message) from None


def _lock(place: _Place, what: str) -> StateDirectory:
    """The directory for us alone."""
    try:
        owner = os.stat(place.path).st_uid
    except FileNotFoundError:
        owner = os.geteuid()
    except OSError as error:
        _fail(place, error)
    if owner != os.geteuid():
        # A file of ours in it is one that the agent could not open.
        raise _EndError(
            EXIT_FAILED,
            f"{place}: belongs to user {owner}, and this is user {os.geteuid()};"
            f" run it as that one: sudo -u '#{owner}' otel-agent buffer {what}",
        )
    try:
        state = open_state(place.path)
    except InUseError:
        raise _EndError(
            EXIT_IN_USE,
            f"{place}: an agent uses this ring, and {what} needs it alone; stop the agent"
            " (systemctl stop otel-agent), and start it again afterwards",
        ) from None
    if state.problem:
        state.close()
        raise _EndError(
            EXIT_FAILED, f"{place}: {state.problem}; make it writable, or name another with --path"
        )
    return state


def _clock() -> show.Clock:
    return show.Clock(time.time_ns(), time.clock_gettime_ns(time.CLOCK_BOOTTIME), boot_id())


# ---- the four ---------------------------------------------------------------------------------


def _show(asked: Options, place: _Place) -> int:
    used = in_use(place.path)
    with _view(place) as view:
        try:
            shown_ = show.look(view, place.path, _clock(), in_use=used)
        except RingError as error:
            _fail(place, error)
    sys.stdout.write(show.as_json(shown_) if asked.as_json else show.text(shown_))
    return 0


def _verify(asked: Options, place: _Place) -> int:
    try:
        with _view(place) as view:
            verified = view.verify()
    except RingError as error:
        _fail(place, error)
    if asked.as_json:
        document = {
            "records": verified.records,
            "requests": verified.entries,
            "problems": verified.problems,
        }
        sys.stdout.write(json.dumps(document, indent=2) + "\n")
    else:
        for problem in verified.problems:
            sys.stdout.write(f"{problem}\n")
        verdict = f"{len(verified.problems)} problems" if verified.problems else "in order"
        sys.stdout.write(
            f"{place.path}: {verified.records} records, {verified.entries} requests, {verdict}\n"
        )
    return EXIT_FAILED if verified.problems else 0


def _export(asked: Options, place: _Place) -> int:
    state = _lock(place, "export --remove") if asked.remove else None
    try:
        try:
            with _view(place, ours=state is not None) as view:
                parts = exporting.export(view, asked)
            if asked.remove:
                exporting.remove(place.path, parts)
        except RingError as error:
            _fail(place, error)
    finally:
        if state is not None:
            state.close()
    # Standard output may be the export.
    out = sys.stderr if asked.file == STDOUT else sys.stdout
    for line in exporting.report(parts):
        out.write(f"{line}\n")
    if not parts:
        out.write("nothing to export: these queues are empty\n")
    return EXIT_FAILED if any(part.problems for part in parts) else 0


def _import(asked: Options, flags: Mapping[str, str]) -> int:
    queue = queue_of(asked)
    settings, source = config.load_buffer(flags, config.environment())
    place = _Place(settings.path, source.where)
    if asked.path is not None:
        place = _Place(asked.path, "--path")
    try:
        # Closed below, whatever happens.
        file = open(asked.file, "rb")  # noqa: SIM115
    except OSError as error:
        raise _EndError(
            EXIT_FAILED, f"{shown(asked.file)}: {error.strerror}; name a file that can be read"
        ) from None
    with closing(file):
        found = importing.survey(file, queue[1])
        if found.damage is not None and not asked.partial:
            raise _EndError(
                EXIT_FAILED,
                f"{shown(asked.file)}: {found.damage}; nothing was imported: copy it once more, or"
                f" import the {found.requests} requests before with --partial",
            )
        file.seek(0)
        with closing(_lock(place, "import")) as state:
            opener = Opener(state, settings.max_slots * SLOT, strict=True, boot_id=boot_id())
            try:
                done = _load(opener, file, queue, found)
            except RingError as error:
                _fail(place, error)
    return _tell(asked, place, queue, found, done)


def _load(
    opener: Opener, file: BinaryIO, queue: Queue, found: importing.Found
) -> importing.Imported:
    # What it finds it logs, as when the agent starts.
    log.start("warning", journal=False)
    ring = opener()
    try:
        free = int(ring.capacity_bytes * (1 - ring.usage))
        if found.stored_bytes > free:
            raise _EndError(
                EXIT_FAILED,
                f"{found.items} items need up to {found.stored_bytes} bytes of the ring, which has"
                f" {free} left; nothing was imported: raise buffer.max_size (BUFFER_MAX_SIZE), or"
                " let the agent deliver what it has first",
            )
        return importing.load(ring, file, NUMBERS[queue], queue[1], found, _now)
    finally:
        ring.close()


def _now() -> Entry:
    clock = _clock()
    return Entry(b"", 0, 0, clock.unix_nano, clock.boottime_nano)


def _tell(
    asked: Options, place: _Place, queue: Queue, found: importing.Found, done: importing.Imported
) -> int:
    sys.stdout.write(
        f"{shown(asked.file)}: {done.requests} requests, {done.items} items queued for the"
        f" {queue[0]} ({queue[1]}); the agent's next start delivers them. The same file imported"
        " again would be delivered again.\n"
    )
    if found.damage is not None:
        _say(f"{shown(asked.file)}: {found.damage}; what follows was not imported")
    if done.too_large:
        _say(f"{done.too_large} items are larger than the ring takes, and were left out")
    if done.dropped_items:
        _say(f"the ring was full: {done.dropped_items} items, the oldest, were dropped for these")
    if done.error is not None:
        _say(f"{place}: {done.error}; {done.error.remedy or 'import the rest once it is mended'}")
    return 0 if done.complete and found.damage is None else EXIT_FAILED
