"""Where this machine is read: /proc and /sys under a root, and how.

The root is empty on the machine itself, the host's mount in a container (HOST_ROOT), and a
planted tree in the tests. psutil reads /proc where its module global PROCFS_PATH points, and
/sys of the running machine whatever it says: hence psutil for what is in /proc, and direct reads
for /sys and for what psutil cannot be pointed at.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psutil


@dataclass(frozen=True, slots=True)
class Machine:
    """What subjects get to know. `statvfs` may block for as long as a dead server likes."""

    root: str = ""
    statvfs: Callable[[str], os.statvfs_result] = os.statvfs
    exclude_mounts: tuple[str, ...] = ()
    exclude_interfaces: tuple[str, ...] = ()

    def proc(self, path: str) -> str:
        """The name of /proc/`path` under the root."""
        return f"{self.root}/proc/{path}"

    def sys(self, path: str) -> str:
        """The name of /sys/`path` under the root."""
        return f"{self.root}/sys/{path}"

    def of_init(self, path: str) -> str:
        """/proc/1/`path` where we may see it, else /proc/`path` or /proc/self/`path`.

        /proc/net and /proc/mounts are links to the reader's own: in a container they show the
        container, whatever /proc they hang in. Only process 1's are the host's.
        """
        for name in (f"1/{path}", path, f"self/{path}"):
            full = self.proc(name)
            try:
                # Opened, not asked: modes promise what a security module then refuses.
                os.close(os.open(full, os.O_RDONLY))
            except OSError:
                continue
            return full
        return self.proc(path)


@contextmanager
def psutil_at(procfs: str) -> Iterator[None]:
    """psutil reads `procfs` instead of /proc inside the block.

    Only the event loop's thread calls psutil, so that nobody else sees the change.
    """
    before = psutil.PROCFS_PATH
    psutil.PROCFS_PATH = procfs
    try:
        yield
    finally:
        psutil.PROCFS_PATH = before


def read(path: str) -> bytes:
    """All of a file in /proc or /sys; raises OSError."""
    with open(path, "rb", buffering=0) as file:
        return file.read()


def read_if_there(path: str) -> bytes | None:
    """The same stripped; None where there is no such file, it is empty or its driver fails.

    A sensor's read fails with whatever errno its driver likes (EIO, ENODATA, EAGAIN, ENXIO...):
    the machine does not have the reading.
    """
    try:
        return read(path).strip() or None
    except OSError:
        return None


def read_int(path: str) -> int | None:
    """The decimal integer in a file of /sys, None where there is none."""
    data = read_if_there(path)
    try:
        return None if data is None else int(data)
    except ValueError:
        return None


def listing(path: str) -> list[str]:
    """Names in a directory with numbers in numeric order (cpu2 before cpu10); [] without it."""
    try:
        names = os.listdir(path)
    except OSError:
        return []
    return sorted(names, key=lambda name: (name.rstrip("0123456789"), len(name), name))


def text(raw: bytes) -> str:
    r"""A name from the kernel as an attribute: what is not UTF-8 appears as `\xNN`."""
    return raw.decode("utf-8", "backslashreplace")


def unescaped(field: bytes) -> bytes:
    r"""A field of /proc/mounts or /proc/swaps: blanks, newlines and backslashes are `\ooo`."""
    if b"\\" not in field:
        return field
    head, *rest = field.split(b"\\")
    out = bytearray(head)
    for part in rest:
        digits = part[:3]
        if len(digits) == 3 and digits[0] in b"0123" and digits.isdigit() and max(digits) < 0x38:
            out.append(int(digits, 8))
            out += part[3:]
        else:
            out += b"\\" + part
    return bytes(out)
