"""Rings with something in them, and the command as one types it."""

import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import pytest

from edge_agent import __main__ as program
from edge_agent.opener import FLOORS, NUMBERS, boot_id
from edge_agent.otlp import wire
from edge_agent.otlp.signal import Signal
from edge_agent.ring.opening import open_ring
from edge_agent.ring.record import Entry
from tests.agent.ring.conftest import ring_path

__all__ = ["ring_path"]

COLLECTOR = {signal: ("collector", signal) for signal in Signal}
Queue = tuple[str, Signal]


def body(signal: Signal, *names: str) -> bytes:
    """An Export request with an item of each name."""
    items = b""
    for name in names:
        if signal is Signal.METRICS:
            point = wire.fixed64_field(3, 10**18) + wire.fixed64_field(6, 7)
            item = wire.string_field(1, name) + nested(5, nested(1, point))
        elif signal is Signal.TRACES:
            item = nested(1, b"\1" * 16) + nested(2, b"\2" * 8) + wire.string_field(5, name)
        else:
            item = wire.fixed64_field(1, 10**18) + nested(5, wire.string_field(1, name))
        items += nested(2, item)
    resource = nested(1, wire.string_field(1, "service.name"))
    return nested(1, nested(1, resource) + nested(2, items))


nested = wire.bytes_field


def fill(
    path: str, *requests: tuple[Queue, bytes, int], age_s: int = 60, max_bytes: int = 2 << 20
) -> None:
    """Append requests (queue, body, items), admitted `age_s` ago; the ring is closed in order."""
    ring, _ = open_ring(path, max_bytes=max_bytes, floors=FLOORS, boot_id=boot_id())
    now = time.time_ns() - age_s * 10**9
    since_boot = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - age_s * 10**9
    for queue, encoded, items in requests:
        entry = Entry(encoded, items, len(encoded), now, since_boot)
        ring.commit([(NUMBERS[queue], [entry])])
    ring.close()


def held(path: str) -> dict[Queue, list[bytes]]:
    """The bodies in each queue that has any, oldest first."""
    ring, _ = open_ring(path, max_bytes=2 << 20, floors=FLOORS, boot_id=boot_id())
    try:
        found: dict[Queue, list[bytes]] = {}
        for queue, number in NUMBERS.items():
            seen: list[int] = []
            while record := ring.read(number, newest=False, skip=seen):
                seen.append(record.position)
                found.setdefault(queue, []).extend(entry.body for entry in record.entries)
        return found
    finally:
        ring.close()


@dataclass
class Ran:
    """What a call said and returned."""

    code: int
    out: str
    err: str


Buffer = Callable[..., Ran]


@pytest.fixture
def buffer(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], ring_path: str
) -> Iterator[Buffer]:
    """`buffer("show", ...)` is `otel-agent buffer show ...` with nothing set but BUFFER_PATH."""
    environ = {"BUFFER_PATH": ring_path, "HOME": "/nobody"}
    monkeypatch.setattr(os, "environ", environ)
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def run(*words: str, **more: str) -> Ran:
        environ.update(more)
        argv: Sequence[str] = ["buffer", *words]
        code = program.main(argv)
        printed = capfd.readouterr()
        return Ran(code, printed.out, printed.err)

    yield run
    for number, action in before.items():
        signal.signal(number, action)
