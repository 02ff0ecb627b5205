"""Opens the ring in the state directory, where that is a place for one."""

import errno
import os
from collections.abc import Mapping
from dataclasses import dataclass

from edge_agent.log import Log
from edge_agent.otlp.signal import Signal
from edge_agent.ring.opening import open_ring
from edge_agent.ring.record import RingError
from edge_agent.ring.store import Ring
from edge_agent.state import StateDirectory

# The queues' numbers in the ring, for good; and what each may always hold, of the ring as of RAM
# (DESIGN, "Who loses at the cap").
NUMBERS: Mapping[tuple[str, Signal], int] = {
    ("collector", Signal.METRICS): 1,
    ("collector", Signal.TRACES): 2,
    ("collector", Signal.LOGS): 3,
    ("adapter", Signal.METRICS): 4,
}
FLOORS: Mapping[int, float] = {1: 0.25, 2: 0.15, 3: 0.10, 4: 0.15}
# LMDB maps its file into memory and keeps locks in another (its documentation, "Caveats": never on
# a remote filesystem). 9p and fuse may be either, and nobody can say.
_REMOTE = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "glusterfs", "ncpfs", "virtiofs"}
)
_VOLATILE = frozenset({"tmpfs", "ramfs"})

_log = Log("ring")


def boot_id() -> bytes:
    """16 bytes that name this boot: random(4), /proc/sys/kernel/random/boot_id."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return bytes.fromhex(file.read().strip().replace("-", "")).ljust(16, b"\0")[:16]
    except (OSError, ValueError):
        # Unknown: no earlier run can have been in this boot.
        return os.urandom(16)


@dataclass(frozen=True, slots=True)
class Opener:
    """Call it to open the ring of `max_bytes`; may be called again after it has failed."""

    state: StateDirectory
    max_bytes: int
    strict: bool
    boot_id: bytes

    def __call__(self) -> Ring:
        """The ring; raises RingError with the remedy."""
        if self.state.problem:
            self.state.retry()
        if self.state.problem:
            raise RingError(
                errno.EACCES,
                self.state.problem,
                "make it writable for this user, or name another with BUFFER_PATH",
            )
        self._check_place()
        ring, opening = open_ring(
            self.state.path,
            max_bytes=self.max_bytes,
            floors=FLOORS,
            boot_id=self.boot_id,
            strict=self.strict,
        )
        if opening.moved_aside:
            _log.error(
                "the ring could not be trusted and was moved aside, a new one is begun",
                reason=opening.reason, moved_to=opening.moved_aside,
            )  # fmt: skip
        elif opening.reason:
            _log.warning("the ring could not be changed", reason=opening.reason)
        if opening.unclean:
            _log.warning(
                "the last run did not end in order: what it had in RAM alone is not accounted for",
                remedy="none; that is at most buffer.flush_interval and a commit",
            )
        for queue, trimmed in opening.trimmed.items():
            _log.warning(
                "the ring was made smaller, the oldest was dropped",
                queue=queue, items=trimmed.items, bytes=trimmed.bytes,
            )  # fmt: skip
        return ring

    def _check_place(self) -> None:
        kind = file_system(self.state.path)
        if kind in _REMOTE or kind.startswith("fuse."):
            raise RingError(
                errno.ENOTSUP,
                f"{self.state.path} is on {kind}, where a memory-mapped ring is not safe",
                "name a directory on a local disk with BUFFER_PATH",
            )
        if kind in _VOLATILE:
            _log.warning(
                "the state directory is in memory: a reboot loses what is in it",
                path=self.state.path, file_system=kind,
            )  # fmt: skip


def file_system(path: str, mountinfo: str = "/proc/self/mountinfo") -> str:
    """The type of the file system that `path` is on, as proc(5) mountinfo has it; empty if unknown.

    The last mount of the longest mount point that leads to `path` is what one sees there.
    """
    real = os.path.realpath(path)
    best, kind = "", ""
    try:
        with open(mountinfo, encoding="utf-8", errors="surrogateescape") as file:
            for line in file:
                fields, _, rest = line.partition(" - ")
                point = fields.split(" ")[4]
                for octal, char in (("\\040", " "), ("\\011", "\t"), ("\\134", "\\")):
                    point = point.replace(octal, char)
                inside = real == point or real.startswith(point.rstrip("/") + "/")
                if inside and len(point) >= len(best):
                    best, kind = point, rest.split(" ", 1)[0]
    except (OSError, IndexError):
        return ""
    return kind
