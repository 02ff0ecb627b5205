"""What the ring costs in flash and CPU, beside SQLite: `python -m benchmarks.ring`.

Both take the same 1,000 groups of requests on the file system that --path is on, and delete the
oldest when full. Calls are counted by disk.c of the tests (LD_PRELOAD), in a process of its own:
bytes written for a byte of payload, and flushes a commit, are what wears flash and what takes time
on an SD card. CPU is of the process, without the recorder.
"""

import argparse
import os
import random
import shutil
import sqlite3
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

from edge_agent.ring.opening import open_ring
from edge_agent.ring.record import Ack, Entry

ROOT = Path(__file__).parent.parent
FLOORS = {1: 0.25, 2: 0.15, 3: 0.10, 4: 0.15}
MIB = 1 << 20
_HEAD = struct.Struct("<BIQQ")
_OPEN, _WRITE, _WRITE_SYNC, _SYNC, _UNLINK, _RENAME = 1, 2, 3, 4, 6, 7


def sample(rng: random.Random, number: int) -> bytes:
    """Like a sample of a host: names that repeat, numbers that do not. 6.3 KB."""
    points = [
        b"system.metric.%03d" % n + b"cpu state mount device direction"[: 12 + n % 20]
        for n in range(98)
    ]
    return b"".join(
        name
        + struct.pack("<QQd", number * 15_000_000_000, 0, round(rng.random(), 2 if n % 3 else 9))
        for n, name in enumerate(points)
    )


def groups(kind: str, commits: int) -> list[list[bytes]]:
    """What each commit gets. Only `samples` deflates: SQLite shall not win by that."""
    rng = random.Random(1)
    noise = rng.randbytes(4 * MIB)

    def body(low: int, high: int) -> bytes:
        size = int(low * (high / low) ** rng.random())
        start = rng.randrange(len(noise) - size)
        return noise[start : start + size]

    made: dict[str, Callable[[int], list[bytes]]] = {
        "one sample": lambda n: [sample(rng, n)],
        "20 samples": lambda n: [sample(rng, 20 * n + i) for i in range(20)],
        "1-64 KB x 16": lambda _: [body(1000, 64_000) for _ in range(16)],
        "1 KB x 4": lambda _: [body(800, 1200) for _ in range(4)],
    }
    return [made[kind](number) for number in range(commits)]


def into_ring(path: str, bodies: list[list[bytes]], max_bytes: int, *, strict: bool = True) -> None:
    """The ring; strict is durable when the call returns, else when the next one does."""
    ring, _ = open_ring(path, max_bytes=max_bytes, floors=FLOORS, boot_id=bytes(16), strict=strict)
    for number, group in enumerate(bodies):
        entries = [Entry(body, 1, len(body), number, number) for body in group]
        ring.commit([(1 + number % 4, entries)])
    ring.close()


def into_sqlite(path: str, bodies: list[list[bytes]], max_bytes: int) -> None:
    """SQLite as careful as the ring: WAL, synchronous=FULL, one row a request."""
    os.makedirs(path)
    database = sqlite3.connect(os.path.join(path, "queue.db"), isolation_level=None)
    database.execute("pragma journal_mode=wal")
    database.execute("pragma synchronous=full")
    database.execute("create table queue (number integer primary key, queue, items, body blob)")
    held, first = 0, 1
    for number, group in enumerate(bodies):
        database.execute("begin immediate")
        for body in group:
            database.execute("insert into queue values (null, ?, 1, ?)", (1 + number % 4, body))
            held += len(body)
        while held > max_bytes * 9 // 10:
            ((size,),) = database.execute("select length(body) from queue where number=?", (first,))
            database.execute("delete from queue where number=?", (first,))
            held, first = held - size, first + 1
        database.execute("commit")
    database.close()


STORES = {"strict": into_ring, "flush": partial(into_ring, strict=False), "sqlite": into_sqlite}


def calls(log: str) -> Counter[str]:
    """Bytes written and flushes, as recorded; a synchronous write is both."""
    counted: Counter[str] = Counter()
    with open(log, "rb") as file:
        while head := file.read(_HEAD.size):
            op, _, _, length = _HEAD.unpack(head)
            if op in (_OPEN, _WRITE, _WRITE_SYNC, _UNLINK, _RENAME):
                file.seek(length, os.SEEK_CUR)
            if op in (_WRITE, _WRITE_SYNC):
                counted["bytes"] += length
            counted["flushes"] += op in (_WRITE_SYNC, _SYNC)
    return counted


def measure(store: str, kind: str, commits: int, max_mib: int, directory: str) -> tuple[float, ...]:
    """Bytes a byte of payload, flushes a commit, CPU in us a request, and ms a commit."""
    path = os.path.join(directory, "store")
    log = os.path.join(directory, "log")
    run = [
        sys.executable,
        "-m",
        "benchmarks.ring",
        "--one",
        store,
        kind,
        str(commits),
        str(max_mib),
    ]
    environment = {**os.environ, "DISK_DIR": path, "DISK_LOG": log}
    environment["LD_PRELOAD"] = os.path.join(directory, "disk.so")
    subprocess.run([*run, path], cwd=ROOT, env=environment, capture_output=True, check=True)
    counted = calls(log)
    os.unlink(log)
    shutil.rmtree(path)
    timed = subprocess.run([*run, path], cwd=ROOT, capture_output=True, text=True, check=True)
    shutil.rmtree(path)
    cpu_s, wall_s = map(float, timed.stdout.split())
    bodies = groups(kind, commits)
    payload = sum(len(body) for group in bodies for body in group)
    requests = sum(map(len, bodies))
    return (
        counted["bytes"] / payload,
        counted["flushes"] / commits,
        cpu_s / requests * 1e6,
        wall_s / commits * 1e3,
    )


def reading(path: str) -> tuple[float, float]:
    """CPU in us a request to read and acknowledge a full ring, and to deflate nothing anew."""
    bodies = groups("20 samples", 200)
    into_ring(path, bodies, 16 * MIB)
    ring, _ = open_ring(path, max_bytes=16 * MIB, floors=FLOORS, boot_id=bytes(16))
    requests = sum(totals.entries for totals in ring.totals().values())
    began, acks = time.process_time(), []
    for queue in FLOORS:
        skip: set[int] = set()
        while (record := ring.read(queue, newest=False, skip=skip)) is not None:
            skip.add(record.position)
            acks.append(Ack(queue, record.position, frozenset(record.indexes)))
    read_s = time.process_time() - began
    began = time.process_time()
    ring.commit([], acks)
    acked_s = time.process_time() - began
    assert not any(totals.entries for totals in ring.totals().values())
    ring.close()
    return read_s / requests * 1e6, acked_s / requests * 1e6


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="20 commits, and no number to read")
    parser.add_argument("--path", default=None, help="a directory on the disk to measure")
    parser.add_argument("--one", nargs=5, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        store, kind, commits, max_mib, path = arguments.one
        bodies = groups(kind, int(commits))
        began_s, cpu_s = time.perf_counter(), time.process_time()
        STORES[store](path, bodies, int(max_mib) * MIB)
        print(time.process_time() - cpu_s, time.perf_counter() - began_s)
        return
    if shutil.which("cc") is None:
        print("no C compiler, which the recorder is built with")
        return
    commits = 20 if arguments.quick else 1000
    directory = tempfile.mkdtemp(dir=arguments.path)
    try:
        library = os.path.join(directory, "disk.so")
        source = str(ROOT / "tests/agent/ring/disk.c")
        subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
        print(
            f"{'a commit':14} {'store':8} {'written/payload':>15} {'flushes':>8} {'CPU us':>8} ms"
        )
        for kind in ("one sample", "20 samples", "1-64 KB x 16", "1 KB x 4"):
            for store in STORES:
                ratio, flushes, cpu_us, ms = measure(store, kind, commits, 64, directory)
                print(f"{kind:14} {store:8} {ratio:15.2f} {flushes:8.2f} {cpu_us:8.0f} {ms:.1f}")
        read_us, acked_us = reading(os.path.join(directory, "read"))
        print(f"read {read_us:.1f} us, acknowledge {acked_us:.1f} us CPU a request")
    finally:
        shutil.rmtree(directory)


if __name__ == "__main__":
    main()
