"""How a ring comes to be: created, checked, moved aside, made larger or smaller.

In the directory (0700):

    data.mdb                the ring (0600), allocated in full when it is made, so that a full disk
                            shows then and not in the middle of the night
    lock.mdb                LMDB's readers and writer
    data.mdb.new, shrunk/   left over from a creation or a resize that was cut off; removed
    corrupt-<UTC time>/     a ring that could not be trusted; never removed by us
"""

import errno
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime

from edge_agent.ring import pages, preflight
from edge_agent.ring.environment import open_environment, read_state, ring_errors
from edge_agent.ring.layout import PAGE, LayoutError, State
from edge_agent.ring.policy import MAX_BYTES, MIN_BYTES, budget
from edge_agent.ring.record import RingError, Totals
from edge_agent.ring.store import Ring

DATA, LOCK = "data.mdb", "lock.mdb"
_NEW, _SHRUNK = "data.mdb.new", "shrunk"
# Left free beside the ring, for what else the agent keeps and for the file system itself.
_SPARE_BYTES = 1 << 20
_ZEROS = 1 << 18


@dataclass(frozen=True, slots=True)
class Opening:
    """What was found, and done about it.

    `created`: there was none, or it was moved aside. `unclean`: the last run did not end in order.
    `moved_aside` is where the old one is, `reason` why, or why the size could not be changed.
    `trimmed` is what was dropped, by queue, because the ring was made smaller. `max_bytes` is what
    it has now.
    """

    max_bytes: int
    created: bool = False
    unclean: bool = False
    moved_aside: str = ""
    reason: str = ""
    trimmed: Mapping[int, Totals] = field(default_factory=dict)


def open_ring(
    path: str, *, max_bytes: int, floors: Mapping[int, float], boot_id: bytes, strict: bool = True
) -> tuple[Ring, Opening]:
    """Open the ring in the directory `path`, or make one, of `max_bytes` (2 MiB to 160 MiB).

    `floors` names the queues (1 to 255) and the share of the ring that each keeps whatever the
    others do; queues that are in the ring and not named stay as they are, without a floor.
    `boot_id` is 16 bytes. For `strict` see Ring. One process may have the ring open: the caller
    sees to that. Raises RingError.
    """
    assert MIN_BYTES <= max_bytes <= MAX_BYTES, max_bytes  # noqa: S101  (our bug)
    assert len(boot_id) == 16, boot_id  # noqa: S101  (our bug)
    with ring_errors():
        os.makedirs(path, mode=0o700, exist_ok=True)
        with suppress(FileNotFoundError):
            os.unlink(os.path.join(path, _NEW))
        _remove_shrunk(path)
        state, reason = _look(path)
        moved_aside = _move_aside(path) if reason else ""
        trimmed: dict[int, Totals] = {}
        created = state is None
        unclean = state is not None and not state.clean
        make = _Maker(path, floors, boot_id, strict)
        if state is None:
            _create(path, max_bytes, moved_aside)
            state = State(clean=True, unclean_starts=0, queues={})
        else:
            try:
                trimmed = _resize(make, state, max_bytes)
                state = read_found_state(path)
            except OSError as error:
                reason = f"keeps its size: {error}"
        size = os.stat(os.path.join(path, DATA)).st_size
        ring = make.ring(min(size, MAX_BYTES), state)
        if unclean:
            ring.count_unclean_start()
    return ring, Opening(size, created, unclean, moved_aside, reason, trimmed)


@dataclass(frozen=True, slots=True)
class _Maker:
    path: str
    floors: Mapping[int, float]
    boot_id: bytes
    strict: bool

    def ring(self, file_bytes: int, state: State) -> Ring:
        return Ring(
            self.path,
            state,
            budget=budget(file_bytes),
            max_bytes=file_bytes,
            floors=self.floors,
            boot_id=self.boot_id,
            strict=self.strict,
        )


def _look(path: str) -> tuple[State | None, str]:
    """The state of the ring that is there, or None; and what is wrong with it, or nothing."""
    try:
        check_file(os.path.join(path, DATA))
        return read_found_state(path), ""
    except FileNotFoundError:
        return None, ""
    except LayoutError as error:
        return None, str(error)
    except RingError:
        raise
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        # A part of the disk is gone. Elsewhere on it there may be room for another.
        return None, f"cannot be read: {error.strerror}"


def check_file(data_path: str) -> None:
    """Look at every page of the file. Raises LayoutError for what LMDB must not see."""
    descriptor = os.open(data_path, os.O_RDONLY | os.O_CLOEXEC)
    try:

        def read(offset: int, length: int) -> bytes:
            return os.pread(descriptor, length, offset)

        meta = preflight.check(read, os.fstat(descriptor).st_size)
        pages.walk(read, meta)
    finally:
        os.close(descriptor)


def read_found_state(path: str) -> State:
    """The state of a file whose pages are good. Raises LayoutError, RingError."""
    size = os.stat(os.path.join(path, DATA)).st_size
    environment = open_environment(path, size // PAGE * PAGE)
    try:
        return read_state(environment)
    finally:
        environment.close()


def _move_aside(path: str) -> str:
    """Put the ring's files where they are in nobody's way; the directory."""
    stamp = datetime.now(UTC).strftime("corrupt-%Y%m%dT%H%M%SZ")
    number, name = 0, stamp
    while os.path.exists(os.path.join(path, name)):
        number += 1
        name = f"{stamp}-{number}"
    aside = os.path.join(path, name)
    os.mkdir(aside, 0o700)
    for file in (DATA, LOCK):
        with suppress(FileNotFoundError):
            os.rename(os.path.join(path, file), os.path.join(aside, file))
    _sync_directory(aside)
    _sync_directory(path)
    return aside


def _create(path: str, max_bytes: int, moved_aside: str) -> None:
    new = os.path.join(path, _NEW)
    try:
        _check_room(path, max_bytes)
        descriptor = os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.pwrite(descriptor, preflight.template(budget(max_bytes).map_bytes), 0)
            _allocate(descriptor, max_bytes)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        _take_over(path, new)
    except OSError as error:
        # A failed allocation leaves the disk full.
        with suppress(OSError):
            os.unlink(new)
        if moved_aside and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise RingError(
                error.errno,
                f"no room for a new ring beside the damaged one in {moved_aside}",
                "keep a copy of that directory elsewhere, and remove it",
            ) from None
        raise


def _check_room(path: str, needed: int) -> None:
    status = os.statvfs(path)
    free = status.f_bavail * status.f_frsize
    if free < needed + _SPARE_BYTES:
        raise RingError(
            errno.ENOSPC,
            f"{path} has {free >> 20} MiB free, and a ring of {needed >> 20} MiB is asked for",
        )


def _take_over(path: str, new: str) -> None:
    # Readers of the old file keep its lock file; the new one must begin with none.
    with suppress(FileNotFoundError):
        os.unlink(os.path.join(path, LOCK))
    os.rename(new, os.path.join(path, DATA))
    _sync_directory(path)


def _resize(make: _Maker, state: State, max_bytes: int) -> dict[int, Totals]:
    """Make the file `max_bytes` long; what was dropped for that, by queue."""
    data = os.path.join(make.path, DATA)
    size = os.stat(data).st_size
    if size < max_bytes:
        _check_room(make.path, max_bytes - size)
        _set_length(data, size, max_bytes)
    if size <= max_bytes:
        return {}
    smaller = budget(max_bytes)
    ring = make.ring(min(size, MAX_BYTES), state)
    try:
        trimmed = ring.trim(smaller)
    finally:
        ring.close(clean=state.clean)
    if _used_bytes(data) <= smaller.map_bytes:
        _set_length(data, size, max_bytes)
        return trimmed
    _check_room(make.path, max_bytes)
    shrunk = os.path.join(make.path, _SHRUNK)
    _remove_shrunk(make.path)
    os.mkdir(shrunk, 0o700)
    environment = open_environment(make.path, size // PAGE * PAGE)
    try:
        environment.copy(shrunk, compact=True)
    finally:
        environment.close()
    new = os.path.join(shrunk, DATA)
    os.chmod(new, 0o600)
    _set_length(new, os.stat(new).st_size, max_bytes)
    _take_over(make.path, new)
    _remove_shrunk(make.path)
    return trimmed


def _remove_shrunk(path: str) -> None:
    # Not shutil, which costs half a megabyte.
    shrunk = os.path.join(path, _SHRUNK)
    with suppress(FileNotFoundError):
        for name in os.listdir(shrunk):
            os.unlink(os.path.join(shrunk, name))
        os.rmdir(shrunk)


def _allocate(descriptor: int, length: int) -> None:
    """Make the file `length` long, with blocks behind every byte."""
    try:
        os.posix_fallocate(descriptor, 0, length)
        return
    except OSError as error:
        # glibc writes zeros itself where a file system cannot do it; others leave that to us.
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
            raise
    at = os.fstat(descriptor).st_size
    while at < length:
        at += os.pwrite(descriptor, bytes(min(length - at, _ZEROS)), at)


def _set_length(data: str, size: int, max_bytes: int) -> None:
    descriptor = os.open(data, os.O_RDWR | os.O_CLOEXEC)
    try:
        try:
            if size < max_bytes:
                _allocate(descriptor, max_bytes)
            else:
                os.ftruncate(descriptor, max_bytes)
        except OSError:
            os.ftruncate(descriptor, size)
            raise
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _used_bytes(data: str) -> int:
    with open(data, "rb", buffering=0) as file:
        descriptor = file.fileno()
        size = os.fstat(descriptor).st_size
        return preflight.check(lambda at, n: os.pread(descriptor, n, at), size).used_bytes


def _sync_directory(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
