"""Disks that are written down, cut off and failed: the Python side of disk.c."""

import os
import random
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
BLOCK, SECTOR = 4096, 512
OPEN, WRITE, WRITE_SYNC, SYNC, LENGTH, UNLINK, RENAME = range(1, 8)
_HEAD = struct.Struct("<BIQQ")
_WITH_BYTES = {OPEN, WRITE, WRITE_SYNC, UNLINK, RENAME}
MODES = ("dropped", "kept", "some", "reordered", "torn")


def build(directory: Path) -> Path:
    """disk.c, built; the test is skipped where no compiler is."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler, which the disk that fails is built with")
    library = directory / "disk.so"
    source = Path(__file__).with_name("disk.c")
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(source), "-ldl"], check=True
    )
    return library


def run(library: Path, directory: str, arguments: list[str], **files: str) -> None:
    """A Python module on such a disk; `files` are the log and the fault of disk.c."""
    environment = {
        **os.environ,
        "LD_PRELOAD": str(library),
        "DISK_DIR": directory,
        **{f"DISK_{name.upper()}": path for name, path in files.items()},
    }
    subprocess.run(
        [sys.executable, "-m", *arguments], cwd=ROOT, env=environment, check=True, timeout=100
    )


@dataclass(frozen=True, slots=True)
class Operation:
    """One call."""

    op: int
    file: int
    offset: int
    data: bytes


def read_log(path: str) -> Iterator[Operation]:
    """What was written down, in order."""
    with open(path, "rb") as log:
        while head := log.read(_HEAD.size):
            op, file, offset, length = _HEAD.unpack(head)
            yield Operation(op, file, offset, log.read(length) if op in _WITH_BYTES else b"")


@dataclass
class Blocks:
    """A file: what is on the disk, what the system shows, and what of that is not on the disk."""

    disk: bytearray = field(default_factory=bytearray)
    shown: bytearray = field(default_factory=bytearray)
    waiting: dict[int, list[bytes]] = field(default_factory=dict)

    def set_length(self, length: int) -> None:
        for content in (self.disk, self.shown):
            del content[length:]
            content.extend(bytes(length - len(content)))
        self.waiting = {n: v for n, v in self.waiting.items() if n * BLOCK < length}

    def write(self, offset: int, data: bytes, *, synchronous: bool) -> None:
        end = offset + len(data)
        if end > len(self.shown):
            self.set_length(end)
        self.shown[offset:end] = data
        for number in range(offset // BLOCK, (end - 1) // BLOCK + 1):
            block = bytes(self.shown[number * BLOCK : (number + 1) * BLOCK])
            self.waiting.setdefault(number, []).append(block)
            if synchronous:
                self.disk[number * BLOCK : number * BLOCK + len(block)] = block
                del self.waiting[number]

    def sync(self) -> None:
        self.disk[:] = self.shown
        self.waiting.clear()

    def cut(self, rng: random.Random, mode: str) -> bytes:
        """What is found after the power was cut now."""
        image = bytearray(self.disk)
        share = rng.choice((0.1, 0.5, 0.9))
        for number, versions in self.waiting.items():
            if mode == "dropped" or (mode != "kept" and rng.random() > share):
                continue
            block = rng.choice(versions) if mode == "reordered" else versions[-1]
            start = number * BLOCK
            if mode == "torn":
                # Some sectors are the new ones, some those before.
                for at in range(0, len(block), SECTOR):
                    if rng.random() < 0.5:
                        image[start + at : start + at + SECTOR] = block[at : at + SECTOR]
            else:
                image[start : start + len(block)] = block
        return bytes(image)


class Disk:
    """The files of a directory, as far as the log has been replayed.

    Names are on the disk at once: a journal keeps their order, and the ring syncs a file before it
    gives it its name.
    """

    def __init__(self) -> None:
        self.names: dict[str, Blocks] = {}
        self.marks: list[bytes] = []
        self._files: dict[int, Blocks] = {}
        self._mark = -1

    def replay(self, operation: Operation) -> None:
        """One operation more. Writes to a file called MARKS are only noted."""
        match operation.op:
            case 1:
                name = operation.data.decode()
                if name.endswith("MARKS"):
                    self._mark = operation.file
                    return
                self._files[operation.file] = self.names.setdefault(name, Blocks())
            case 2 | 3 if operation.file == self._mark:
                self.marks.append(operation.data)
            case 2 | 3:
                self._files[operation.file].write(
                    operation.offset, operation.data, synchronous=operation.op == WRITE_SYNC
                )
            case 4:
                self._files[operation.file].sync()
            case 5:
                self._files[operation.file].set_length(operation.offset)
            case 6:
                self.names.pop(operation.data.decode(), None)
            case 7:
                old, new = operation.data.decode().split("\0")
                if old in self.names:
                    self.names[new] = self.names.pop(old)

    def cut(self, directory: str, rng: random.Random, mode: str) -> None:
        """Leave in `directory` what a power cut now would."""
        shutil.rmtree(directory, ignore_errors=True)
        os.makedirs(directory)
        for name, blocks in self.names.items():
            with open(os.path.join(directory, os.path.basename(name)), "wb") as file:
                file.write(blocks.cut(rng, mode))
