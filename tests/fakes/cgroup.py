"""A memory cgroup of our own around a process, where this machine lets us make one."""

import contextlib
import os
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")


class MemoryCgroup:
    """At most `max_bytes` and no swap, for the processes put into it; cgroups(7).

    `how` says what was found: cgroup v2, v1, or that there is none and nothing is enforced.
    """

    def __init__(self, name: str, max_bytes: int) -> None:
        self.how = "no memory cgroup can be made here: RssAnon alone is checked"
        self._folder: Path | None = None
        for version, make in (("v2", self._make_v2), ("v1", self._make_v1)):
            try:
                self._folder = make(f"{name}-{os.getpid()}", max_bytes)
            except OSError:
                continue
            self.how = f"memory cgroup {version} of {max_bytes >> 20} MiB without swap"
            return

    @staticmethod
    def _make_v2(name: str, max_bytes: int) -> Path:
        if not (_ROOT / "cgroup.controllers").exists():
            raise FileNotFoundError
        own = Path("/proc/self/cgroup").read_text().rpartition("::/")[2].strip()
        folder = _ROOT / own / name
        folder.mkdir()
        try:
            (folder / "memory.max").write_text(str(max_bytes))
            (folder / "memory.swap.max").write_text("0")
        except OSError:
            folder.rmdir()
            raise
        return folder

    @staticmethod
    def _make_v1(name: str, max_bytes: int) -> Path:
        folder = _ROOT / "memory" / name
        folder.mkdir()
        try:
            (folder / "memory.limit_in_bytes").write_text(str(max_bytes))
            # Without swap accounting in the kernel there is no such file, and mostly no swap.
            with contextlib.suppress(FileNotFoundError):
                (folder / "memory.memsw.limit_in_bytes").write_text(str(max_bytes))
        except OSError:
            folder.rmdir()
            raise
        return folder

    def add(self, pid: int) -> None:
        """Put a process into it."""
        if self._folder is not None:
            (self._folder / "cgroup.procs").write_text(str(pid))

    def remove(self) -> None:
        """Take it away, once its processes have ended."""
        if self._folder is not None:
            self._folder.rmdir()
            self._folder = None
