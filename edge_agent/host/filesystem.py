"""system.filesystem.*: which file systems count, and how full they are.

Block-device and network file systems, each device once; pseudo file systems not, `/` always. The
mount table is read in the event loop, statvfs(3) is asked in the worker: a dead server never
answers it.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase

from edge_agent.host.machine import Machine, read, text, unescaped
from edge_agent.otlp.metrics import Attributes, Kind, Metric, Number, Reading

USAGE = Metric("system.filesystem.usage", "By", Kind.UP_DOWN_COUNTER)
UTILIZATION = Metric("system.filesystem.utilization", "1", Kind.GAUGE, Number.DOUBLE)
LIMIT = Metric("system.filesystem.limit", "By", Kind.UP_DOWN_COUNTER)

# fmt: off
_NETWORK = frozenset((
    "9p", "afs", "beegfs", "ceph", "cifs", "coda", "fuse.glusterfs",
    "fuse.mount.glusterfs", "fuse.s3fs", "fuse.sshfs", "glusterfs", "lustre", "ncpfs",
    "nfs", "nfs4", "smb3", "smbfs", "virtiofs",
))
# On a disk or on flash, but what they name as the device is a pool, a volume or a number.
_LOCAL = frozenset((
    "bcachefs", "jffs2", "ubifs", "yaffs2", "zfs",
))
# Images and views: nothing can fill up there.
_PSEUDO = frozenset((
    "autofs", "devtmpfs", "erofs", "iso9660", "overlay", "ramfs", "rootfs", "squashfs",
    "tmpfs", "udf",
))
# fmt: on


@dataclass(frozen=True, slots=True)
class Mount:
    """A line of the mount table. `path` is the mount point as the kernel has it, in bytes."""

    device: str
    path: bytes
    type: str
    mode: str

    @property
    def point(self) -> str:
        """The mount point as an attribute."""
        return text(self.path)

    @property
    def remote(self) -> bool:
        """Whether somebody else has to answer for it."""
        return self.type in _NETWORK

    @property
    def counts(self) -> bool:
        """Whether it is somewhere data is kept, or `/`."""
        if self.path == b"/" or self.remote or self.type in _LOCAL:
            return True
        return (
            self.device.startswith("/dev/")
            and self.device != "/dev/fuse"
            and self.type not in _PSEUDO
            and not self.type.startswith("fuse.")
        )

    def attributes(self, state: str = "") -> Attributes:
        """In the order of the conventions, without those that are not known."""
        pairs = (
            ("system.device", self.device),
            ("system.filesystem.state", state),
            ("system.filesystem.type", self.type),
            ("system.filesystem.mode", self.mode),
            ("system.filesystem.mountpoint", self.point),
        )
        return tuple(pair for pair in pairs if pair[1])


# `/` where no mount table names it: unreadable, or seen from within a chroot.
ROOT = Mount(device="", path=b"/", type="", mode="")


def parse_mounts(table: bytes) -> list[Mount]:
    """proc_pid_mounts(5), `device path type options 0 0`: what is visible, in the table's order.

    A later mount on the same point hides the earlier one. An automount point hides what is below
    it, until something is mounted there later: walking through would trigger it.
    """
    visible: dict[bytes, Mount] = {}
    for line in table.splitlines():
        fields = line.split(b" ")
        if len(fields) < 4:
            continue
        device, path = unescaped(fields[0]), unescaped(fields[1])
        kind, options = text(fields[2]), fields[3].split(b",")
        visible.pop(path, None)
        if kind == "autofs":
            below = path.rstrip(b"/") + b"/"
            visible = {at: mount for at, mount in visible.items() if not at.startswith(below)}
        mode = "ro" if b"ro" in options else "rw"
        visible[path] = Mount(text(device), path, kind, mode)
    return list(visible.values())


def select(mounts: list[Mount], exclude: tuple[str, ...]) -> list[Mount]:
    """The mounts to report: each device at its shortest mount point, local ones first.

    `exclude` are globs on mount points. `/` is reported whatever they say.
    """
    chosen: dict[str, Mount] = {}
    for mount in sorted(mounts, key=lambda mount: (len(mount.path), mount.path)):
        root = mount.path == b"/"
        if not mount.counts or (not root and any(fnmatchcase(mount.point, g) for g in exclude)):
            continue
        chosen.setdefault(mount.device, mount)
    return sorted(chosen.values(), key=lambda mount: mount.remote)


@dataclass(frozen=True, slots=True)
class Usage:
    """What statvfs(3) says, in bytes. `identity` tells file systems apart."""

    total: int
    used: int
    free: int
    reserved: int
    identity: tuple[int, int, int, int]


class Filesystem:
    """`used_bytes` by mount point is the last sample's."""

    name = "filesystem"
    metrics = (USAGE, UTILIZATION, LIMIT)

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self.used_bytes: dict[str, int] = {}

    def mounts(self) -> list[Mount]:
        """What to ask for, `/` always among it; raises OSError where no mount table can be read.

        Then there is still ROOT to be asked.
        """
        self.used_bytes = {}
        mounts = parse_mounts(read(self._machine.of_init("mounts")))
        if not any(mount.path == b"/" for mount in mounts):
            mounts.append(ROOT)
        return select(mounts, self._machine.exclude_mounts)

    def usage(self, mount: Mount) -> Usage | None:
        """May block for ever. None where the mount is not to be seen or has no size."""
        path = os.fsencode(self._machine.root) + mount.path
        try:
            answer = self._machine.statvfs(os.fsdecode(path))
        except OSError:
            return None
        size, free, available = answer.f_blocks, answer.f_bfree, answer.f_bavail
        if not 0 <= available <= free <= size or size == 0:
            return None
        unit = answer.f_frsize
        return Usage(
            total=size * unit,
            used=(size - free) * unit,
            free=available * unit,
            reserved=(free - available) * unit,
            identity=(answer.f_fsid, size, unit, answer.f_files),
        )

    def readings(self, usages: list[tuple[Mount, Usage]]) -> Iterator[Reading]:
        """The data points of the mounts that answered.

        Through a root that lacks the host's mounts below it, every path answers as `/`: such an
        answer is somebody else's.
        """
        self.used_bytes = {}
        of_root = {usage.identity for mount, usage in usages if mount.path == b"/"}
        for mount, usage in usages:
            if mount.path != b"/" and usage.identity in of_root:
                continue
            self.used_bytes[mount.point] = usage.used
            for state, size in (
                ("used", usage.used),
                ("free", usage.free),
                ("reserved", usage.reserved),
            ):
                yield Reading(USAGE, mount.attributes(state), size)
            yield Reading(UTILIZATION, mount.attributes("used"), usage.used / usage.total)
            yield Reading(LIMIT, mount.attributes(), usage.total)
