"""The start time of the machine's counters."""

from pathlib import Path

from edge_agent.host.clock import BootClock
from edge_agent.host.machine import Machine
from tests.agent.host.trees import plant

S = 10**9
BTIME = 1_767_600_000


class Clocks:
    """A wall clock that can be set, and the time since boot."""

    def __init__(self, now_s: float, uptime_s: float) -> None:
        self.now_ns = round(now_s * S)
        self.boottime_ns = round(uptime_s * S)

    def pass_s(self, seconds: float) -> None:
        self.now_ns += round(seconds * S)
        self.boottime_ns += round(seconds * S)

    def of(self, machine: Machine) -> BootClock:
        return BootClock(machine, time_ns=lambda: self.now_ns, boottime_ns=lambda: self.boottime_ns)


def test_the_boot_time_is_the_kernels_and_never_drifts(tmp_path: Path) -> None:
    """Whole seconds, so that an agent that restarts continues the same series."""
    machine = plant(tmp_path, {"proc/stat": f"cpu 1\nbtime {BTIME}\n"})
    clocks = Clocks(BTIME + 100.7, 100)
    clock = clocks.of(machine)
    assert clock.boot_time_unix_nano == BTIME * S
    clocks.pass_s(86400)
    clocks.now_ns += 3 * S  # A small correction.
    assert clock.now_unix_nano() == clocks.now_ns
    assert clock.boot_time_unix_nano == BTIME * S
    assert clock.uptime_s() == 86500


def test_without_btime_it_is_measured(tmp_path: Path) -> None:
    """Now minus the time since boot."""
    clock = Clocks(5000, 100).of(plant(tmp_path, {"proc/stat": "btime x\n"}))
    assert clock.boot_time_unix_nano == 4900 * S
    assert clock.boot_id == ""


def test_a_btime_that_contradicts_the_clocks_is_not_believed(tmp_path: Path) -> None:
    """More than a minute apart, or in the future: a counter must not start after its value."""
    machine = plant(tmp_path, {"proc/stat": f"btime {BTIME}\n"})
    assert Clocks(BTIME + 200, 100).of(machine).boot_time_unix_nano == (BTIME + 100) * S
    assert Clocks(BTIME - 1, 2).of(machine).boot_time_unix_nano == (BTIME - 3) * S


def test_a_clock_that_is_set_moves_the_boot_with_it(tmp_path: Path) -> None:
    """A device without a clock of its own learns the time late: not 1970 for weeks."""
    clocks = Clocks(30, 20)
    clock = clocks.of(plant(tmp_path, {"proc/stat": "btime 10\n"}))
    assert clock.boot_time_unix_nano == 10 * S
    clocks.now_ns = BTIME * S
    clock.now_unix_nano()
    assert clock.boot_time_unix_nano == (BTIME - 20) * S


def test_a_clock_set_to_before_the_boot_moves_it_too(tmp_path: Path) -> None:
    """However small the step: no point is older than its own start."""
    clocks = Clocks(BTIME + 5, 5)
    clock = clocks.of(plant(tmp_path, {"proc/stat": f"btime {BTIME}\n"}))
    clocks.now_ns -= 10 * S
    assert clock.now_unix_nano() >= clock.boot_time_unix_nano


def test_the_boot_id_is_the_kernels(tmp_path: Path) -> None:
    """What tells one boot from the next when the clock does not."""
    machine = plant(tmp_path, {"proc/sys/kernel/random/boot_id": "2b7f9c52\n"})
    assert Clocks(100, 10).of(machine).boot_id == "2b7f9c52"


def test_the_running_machine_has_booted_before_now() -> None:
    """The real clocks, put together."""
    clock = BootClock(Machine())
    assert 0 < clock.boot_time_unix_nano < clock.now_unix_nano()
    assert len(clock.boot_id) == 36
