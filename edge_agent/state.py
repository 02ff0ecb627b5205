"""The state directory: ours alone, or not there at all.

Nothing in it is needed to run: where it cannot be made or written the agent goes on in RAM and says
so. What must not happen is two agents in one directory.
"""

import errno
import fcntl
import os
import time
from dataclasses import dataclass

LOCK_FILE = "lock"
_AGAIN_S = 0.05


class InUseError(Exception):
    """Another agent has the state directory."""


@dataclass(slots=True)
class StateDirectory:
    """`problem` says why it cannot be used, empty when it can. `close` gives it up."""

    path: str
    problem: str = ""
    _lock: int = -1

    def retry(self) -> None:
        """Try again what was a problem: whoever mended it need not restart anybody.

        `problem` says how it went; that another process has it now is one, too.
        """
        try:
            again = open_state(self.path)
        except InUseError as error:
            self.problem = str(error)
            return
        self.problem, self._lock = again.problem, again._lock

    def close(self) -> None:
        """Release the lock; the file stays, so that nobody locks one that was just removed."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def in_use(path: str) -> bool:
    """Whether somebody holds the state directory's lock (flock(2)), as far as that can be told."""
    try:
        lock = os.open(os.path.join(path, LOCK_FILE), os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in (errno.EWOULDBLOCK, errno.EACCES)
    finally:
        os.close(lock)
    return False


def open_state(path: str) -> StateDirectory:
    """Create `path` (0700) if need be and lock it with flock(2), which ends with the process.

    Raises InUseError when another process has it. Every other fault is in `problem`.
    """
    state = StateDirectory(path)
    try:
        os.makedirs(path, mode=0o700, exist_ok=True)
        lock = os.open(os.path.join(path, LOCK_FILE), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        state.problem = f"{error.strerror or error}: {error.filename or path}"
        return state
    try:
        _flock(lock)
    except OSError as error:
        os.close(lock)
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            raise InUseError(
                f"buffer.path={path}: another agent uses this state directory;"
                " stop it, or give this one its own with BUFFER_PATH"
            ) from None
        # Some network file systems have no locks.
        state.problem = f"cannot lock {path}: {error.strerror}"
        return state
    state._lock = lock
    return state


def _flock(lock: int) -> None:
    # `in_use` of another process holds it for microseconds: that must not end an agent for good.
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
            raise
        time.sleep(_AGAIN_S)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
