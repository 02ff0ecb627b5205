"""`otel-agent buffer export`: a copy of what the ring holds, in files that travel."""

import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import BinaryIO

from edge_agent.buffer.files import MAX_LINE_BYTES, framed, lines
from edge_agent.buffer.options import STDOUT, Options, Queue, file_of
from edge_agent.opener import FLOORS, NUMBERS, boot_id
from edge_agent.otlp.signal import Signal
from edge_agent.otlp.walk import MalformedError
from edge_agent.ring.opening import DATA, open_ring
from edge_agent.ring.policy import MAX_BYTES, MIN_BYTES
from edge_agent.ring.record import Ack, Entry, Record, RingError
from edge_agent.ring.view import View
from edge_agent.settings import shown


class ExportError(Exception):
    """An export that was given up; the message names the file and the remedy. No part of it is
    left behind."""


@dataclass(slots=True)
class Exported:
    """One queue's part: what was written to `file`, and what could not be.

    `acks` name exactly what was written. `longest` is the longest line, in bytes.
    """

    file: str
    requests: int = 0
    items: int = 0
    bytes: int = 0
    longest: int = 0
    problems: list[str] = field(default_factory=list)
    acks: list[Ack] = field(default_factory=list)

    @property
    def hint(self) -> str:
        """What whoever reads the file has to know; empty for nothing."""
        if self.longest <= MAX_LINE_BYTES:
            return ""
        return f"its longest line has {self.longest} bytes: raise max_log_size of the receiver"


class _Target:
    """A file that is there whole or not at all: written beside its place, synced and renamed."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._partial = f"{path}.partial"
        self._file: BinaryIO | None = None

    def write(self, data: bytes) -> None:
        if self._file is None:
            # What the ring holds is the customer's: for the eyes of its owner alone.
            descriptor = os.open(
                self._partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600
            )
            self._file = os.fdopen(descriptor, "wb")
        self._file.write(data)

    def sync(self) -> None:
        if self._file is not None:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()

    def publish(self) -> None:
        if self._file is None:
            return
        os.rename(self._partial, self.path)
        self._file = None
        directory = os.open(os.path.dirname(self.path) or ".", os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def discard(self) -> None:
        if self._file is not None:
            # Closing writes what is buffered, which is what has just failed.
            with suppress(OSError):
                self._file.close()
            with suppress(OSError):
                os.unlink(self._partial)


class _Stdout(_Target):
    def write(self, data: bytes) -> None:
        sys.stdout.buffer.write(data)


def export(view: View, asked: Options) -> list[Exported]:
    """Write every queue that was asked for, oldest first, each to its file if it has anything.

    Raises ExportError, RingError.
    """
    queues = asked.queues
    targets = {queue: _target(asked, queue) for queue in queues}
    try:
        done = [_export_queue(view, queue, asked.format, targets[queue]) for queue in queues]
        for target in targets.values():
            target.sync()
        for target in targets.values():
            target.publish()
    except (RingError, BrokenPipeError):
        raise
    except OSError as error:
        reason = error.strerror or str(error)
        where = shown(str(error.filename or asked.file))
        raise ExportError(f"{where}: {reason}; name a file elsewhere, or make room") from None
    finally:
        for target in targets.values():
            target.discard()
    return [part for part in done if part.requests or part.problems]


def _target(asked: Options, queue: Queue) -> _Target:
    if asked.file == STDOUT:
        return _Stdout(STDOUT)
    path = asked.file if len(asked.queues) == 1 else file_of(asked.file, queue)
    if os.path.lexists(path):
        raise ExportError(f"{shown(path)} exists; remove it, or name another file")
    return _Target(path)


def _export_queue(view: View, queue: Queue, form: str, target: _Target) -> Exported:
    part = Exported(target.path)
    number, signal = NUMBERS[queue], queue[1]
    for record in view.records(number):
        if not isinstance(record, Record):
            part.problems.append(f"record {record.position}: {record.problem}; left out")
            continue
        written = set()
        for index, entry in zip(record.indexes, record.entries, strict=True):
            try:
                data = _encoded(signal, entry, form)
            except MalformedError as error:
                part.problems.append(f"record {record.position}: {error}; left out")
                continue
            target.write(data)
            written.add(index)
            part.requests += 1
            part.items += entry.items
            part.bytes += len(data)
            if form == "json":
                part.longest = max(part.longest, *map(len, data.splitlines()))
        part.acks.append(Ack(number, record.position, frozenset(written)))
    return part


def _encoded(signal: Signal, entry: Entry, form: str) -> bytes:
    return framed(entry.body) if form == "proto" else lines(signal, entry.body)


def remove(path: str, parts: list[Exported]) -> None:
    """Acknowledge what was exported. The caller holds the lock, and nobody reads the ring.

    Raises RingError, also where only a part of it is done: what is left can be exported again.
    """
    size = os.stat(os.path.join(path, DATA)).st_size
    ring, _ = open_ring(
        path,
        # As it is: a resize is for the agent's start.
        max_bytes=min(max(size, MIN_BYTES), MAX_BYTES),
        floors=FLOORS,
        boot_id=boot_id(),
    )
    try:
        committed = ring.commit([], [ack for part in parts for ack in part.acks])
    finally:
        ring.close()
    if committed.error is not None:
        raise committed.error


def report(parts: list[Exported]) -> Iterator[str]:
    """A line for each file, and each thing that is wrong."""
    for part in parts:
        if part.requests:
            size = f"{part.bytes} bytes"
            yield f"{part.file}: {part.requests} requests, {part.items} items, {size}"
        if part.hint:
            yield f"{part.file}: {part.hint}"
        for problem in part.problems:
            yield f"{part.file}: {problem}"
