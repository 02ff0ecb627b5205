"""Processes by state, and the agent itself."""

import os
from pathlib import Path

import psutil
import pytest

from edge_agent.host import process
from edge_agent.host.clock import BootClock
from edge_agent.host.machine import Machine
from edge_agent.otlp.metrics import Kind
from tests.agent.host.trees import plant, values


def stat(name: str | bytes, letter: str) -> bytes:
    """The beginning of /proc/<pid>/stat."""
    raw = name if isinstance(name, bytes) else name.encode()
    return b"7 (" + raw + b") " + letter.encode() + b" 1 1 1 0 -1 0\n"


def test_processes_are_counted_by_state(tmp_path: Path) -> None:
    """Names may hold any byte, parentheses and states included; other entries are no processes."""
    letters = {"1": "S", "2": "I", "3": "D", "4": "R", "5": "T", "6": "t", "7": "Z", "8": "X"}
    files = {f"proc/{pid}/stat": stat(f"p{pid}", letter) for pid, letter in letters.items()}
    files["proc/9/stat"] = stat(b"a) Z (\xff", "P")
    files["proc/meminfo"] = b""
    machine = plant(tmp_path, files)
    (tmp_path / "proc/10").mkdir()  # It ended between the listing and the read.
    counts = values(process.Processes(machine).sample(), process.COUNT, "process.state")
    assert counts == {"running": 1, "sleeping": 4, "stopped": 2, "defunct": 1}


def test_hidden_processes_are_no_count(tmp_path: Path) -> None:
    """hidepid: with only our own in sight the number of processes is not known."""
    machine = plant(tmp_path, {"proc/42/stat": stat("agent", "R")})
    assert list(process.Processes(machine).sample()) == []


def test_the_agent_measures_its_own_process(tmp_path: Path) -> None:
    """Always its own /proc; sums start with the process, utilization is between samples."""
    clock = BootClock(Machine())
    seconds = iter([100.0, 100.0, 102.0])
    subject = process.Process(clock, lambda: next(seconds))
    first = list(subject.sample())
    assert not values(first, process.CPU_UTILIZATION, "cpu.mode")
    assert not values(subject.sample(), process.CPU_UTILIZATION, "cpu.mode")
    readings = list(subject.sample())
    utilization = values(readings, process.CPU_UTILIZATION, "cpu.mode")
    assert set(utilization) == {"user", "system"}
    assert all(0 <= share <= 1 for share in utilization.values())
    assert values(readings, process.MEMORY)[()] == pytest.approx(
        psutil.Process().memory_info().rss, rel=0.2
    )
    assert values(readings, process.THREADS)[()] >= 1
    assert values(readings, process.FILES)[()] >= 3
    assert set(values(readings, process.SWITCHES, "process.context_switch.type")) == {
        "voluntary",
        "involuntary",
    }
    started = psutil.Process(os.getpid()).create_time()
    for reading in readings:
        if reading.metric.kind is not Kind.GAUGE:
            assert reading.start_time_unix_nano is not None
            assert reading.start_time_unix_nano / 1e9 == pytest.approx(started, abs=2)
    uptime = values(readings, process.UPTIME)[()]
    assert 0 < uptime < clock.uptime_s()
