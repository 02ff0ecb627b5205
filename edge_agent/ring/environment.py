"""LMDB as the ring opens it, and what its errors mean."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

import lmdb

from edge_agent.ring.chunks import Txn
from edge_agent.ring.layout import STATE_KEY, LayoutError, State, parse_state
from edge_agent.ring.record import RingError

_MAX_READERS = 16


def open_environment(
    path: str, map_bytes: int, *, strict: bool = True, readonly: bool = False
) -> lmdb.Environment:
    """LMDB on the ring in the directory `path`. Raises RingError."""
    try:
        return lmdb.open(
            path,
            map_size=map_bytes,
            subdir=True,
            max_dbs=0,
            max_readers=_MAX_READERS,
            max_spare_txns=0,
            create=False,
            readonly=readonly,
            readahead=False,
            sync=True,
            # With it, a transaction is on disk when it has committed; without, when the next has.
            metasync=strict,
            # A full disk or a torn file would be SIGBUS.
            writemap=False,
            lock=True,
            mode=0o600,
        )
    except lmdb.Error as error:
        raise as_ring_error(error) from None


@contextmanager
def ring_errors() -> Iterator[None]:
    """LMDB's errors, the system's, and a state that cannot be read, as RingError."""
    try:
        yield
    except (lmdb.Error, OSError) as error:
        raise as_ring_error(error) from None
    except LayoutError as error:
        raise RingError(errno.EIO, f"the ring: {error}") from None


def as_ring_error(error: lmdb.Error | OSError) -> RingError:
    """`error` as RingError."""
    if isinstance(error, RingError):
        return error
    # A positive code is the system's; LMDB's own are negative.
    code = error.code if isinstance(error, lmdb.Error) else error.errno or 0
    return RingError(code if code > 0 else errno.EIO, f"the ring: {error}")


def read_state(environment: lmdb.Environment) -> State:
    """The state record, as at the beginning where none was written. Raises LayoutError."""
    with environment.begin(buffers=True) as txn:
        return state_in(txn)


def state_in(txn: Txn) -> State:
    """The state record in a transaction. Raises LayoutError."""
    data = txn.get(STATE_KEY)
    if data is not None:
        return parse_state(bytes(data))
    if txn.stat()["entries"]:
        raise LayoutError("no state record")
    return State(clean=True, unclean_starts=0, queues={})


def live_readers(environment: lmdb.Environment) -> bool:
    """Whether any process has a read transaction open; what killed ones left behind is cleared."""
    environment.reader_check()
    # A header, then a line for each slot: pid, thread, transaction or "-".
    lines = (line.split() for line in environment.readers().splitlines()[1:])
    return any(len(line) >= 3 and line[2] != "-" for line in lines)
