"""CPU time and what is made of it."""

from pathlib import Path

import pytest

from edge_agent.host import cpu
from edge_agent.host.counters import Counters
from edge_agent.host.machine import Machine
from tests.agent.host.trees import plant, values

FIRST = "cpu  1000 100 500 8000 200 30 20 150 0 0\ncpu0 1000 100 500 8000 200 30 20 150 0 0\n"


def stat(machine: Machine, text: str) -> None:
    """The next reading of /proc/stat."""
    Path(machine.proc("stat")).write_text(text)


def test_the_first_sample_has_no_utilization(tmp_path: Path) -> None:
    """There is nothing to compare with, and since boot is not now."""
    subject = cpu.Cpu(plant(tmp_path, {"proc/stat": FIRST}))
    readings = list(subject.sample())
    assert not values(readings, cpu.UTILIZATION, "cpu.mode")
    assert not values(readings, cpu.PERCENT)
    assert subject.percent is None


def test_utilization_is_the_share_of_the_time_between_two_samples(tmp_path: Path) -> None:
    """All modes add up to one; idle and waiting are not busy; interrupts are both kinds."""
    machine = plant(tmp_path, {"proc/stat": FIRST})
    subject = cpu.Cpu(machine)
    list(subject.sample())
    stat(
        machine,
        FIRST.replace(
            "cpu  1000 100 500 8000 200 30 20 150", "cpu  1010 105 505 8050 210 35 25 160"
        ),
    )
    readings = list(subject.sample())
    assert values(readings, cpu.UTILIZATION, "cpu.mode") == pytest.approx(
        {
            "user": 0.10,
            "nice": 0.05,
            "system": 0.05,
            "idle": 0.50,
            "iowait": 0.10,
            "interrupt": 0.10,
            "steal": 0.10,
        }
    )
    assert values(readings, cpu.PERCENT) == {(): pytest.approx(40)}
    assert subject.percent == pytest.approx(40)


def reported(machine: Machine, subject: cpu.Cpu, iowait: int, *, user: int) -> float:
    """Seconds of iowait that a sample says, user time beside it."""
    stat(machine, FIRST.replace("cpu  1000 100 500 8000 200", f"cpu  {user} 100 500 8000 {iowait}"))
    return values(subject.sample(), cpu.TIME, "cpu.mode")["iowait"]


def test_iowait_that_steps_back_is_held_until_it_has_passed(tmp_path: Path) -> None:
    """proc(5): it may decrease. A reset it is not: no new start with all the time since boot."""
    machine = plant(tmp_path, {"proc/stat": FIRST})
    subject = cpu.Cpu(machine)
    counters = Counters()
    seconds = []
    for time, iowait in enumerate([200, 190, 195, 201, 150, 202]):
        stat(machine, FIRST.replace("8000 200", f"8000 {iowait}"))
        readings = list(counters.started(subject.sample(), time))
        assert {reading.start_time_unix_nano for reading in readings} == {None}
        seconds.append(values(readings, cpu.TIME, "cpu.mode")["iowait"])
    assert seconds == [2.00, 2.00, 2.00, 2.01, 2.01, 2.02]


def test_a_count_that_began_anew_is_not_held(tmp_path: Path) -> None:
    """As in a container that was moved to another host: all of it fell, so it is a reset."""
    machine = plant(tmp_path, {"proc/stat": FIRST})
    subject = cpu.Cpu(machine)
    assert [reported(machine, subject, iowait, user=1000) for iowait in (200, 150)] == [2.0, 2.0]
    assert [reported(machine, subject, iowait, user=10) for iowait in (3, 2, 4)] == [
        0.03,
        0.03,
        0.04,
    ]


def test_a_mode_that_steps_back_is_no_negative_utilization(tmp_path: Path) -> None:
    """The kernel's iowait is known to; the others share what time there was."""
    machine = plant(tmp_path, {"proc/stat": FIRST})
    subject = cpu.Cpu(machine)
    list(subject.sample())
    stat(machine, FIRST.replace("cpu  1000 100 500 8000 200", "cpu  1010 100 500 8010 190"))
    shares = values(subject.sample(), cpu.UTILIZATION, "cpu.mode")
    assert shares["iowait"] == 0
    assert sum(shares.values()) == pytest.approx(1)


def test_two_samples_within_a_tick_have_no_utilization(tmp_path: Path) -> None:
    """No time passed as far as the kernel counts it: absent, not zero."""
    subject = cpu.Cpu(plant(tmp_path, {"proc/stat": FIRST}))
    list(subject.sample())
    assert not values(subject.sample(), cpu.UTILIZATION, "cpu.mode")
    assert subject.percent is None


def test_frequency_comes_from_cpufreq_and_else_from_cpuinfo(tmp_path: Path) -> None:
    """In numeric order; a CPU that is off has none."""
    machine = plant(
        tmp_path,
        {
            "proc/stat": FIRST,
            "proc/cpuinfo": "processor\t: 0\ncpu MHz\t\t: 2399.998\n\n"
            "processor\t: x\nprocessor\t: 3\ncpu MHz\t: 800.000\n",
        },
    )
    assert values(cpu.Cpu(machine).sample(), cpu.FREQUENCY, "cpu.logical_number") == {
        0: 2399998000,
        3: 800000000,
    }
    plant(
        tmp_path,
        {
            "sys/devices/system/cpu/cpu10/cpufreq/scaling_cur_freq": "1800000\n",
            "sys/devices/system/cpu/cpu2/cpufreq/scaling_cur_freq": "600000\n",
            "sys/devices/system/cpu/cpu3/cpufreq/scaling_cur_freq": "",
            "sys/devices/system/cpu/cpufreq/boost": "1\n",
        },
    )
    found = values(cpu.Cpu(machine).sample(), cpu.FREQUENCY, "cpu.logical_number")
    assert list(found.items()) == [(2, 600000000), (10, 1800000000)]


def test_no_cpu_lines_are_no_cpu_count(tmp_path: Path) -> None:
    """Some container runtimes leave only the first line."""
    machine = plant(tmp_path, {"proc/stat": "cpu  1 0 0 1 0 0 0 0 0 0\n"})
    assert not values(cpu.Cpu(machine).sample(), cpu.LOGICAL_COUNT)
