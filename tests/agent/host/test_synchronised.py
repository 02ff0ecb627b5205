"""When a clock is trusted, and by how much one was wrong."""

import ctypes
import struct
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.host import synchronised
from edge_agent.host.machine import Machine
from edge_agent.host.synchronised import (
    EARLIEST_UNIX_NANO,
    STA_UNSYNC,
    Synchronisation,
    correction,
    kernel_status,
)
from tests.agent.host.trees import plant

S = 10**9
NOW = EARLIEST_UNIX_NANO + 86_400 * S
SYNCED, UNSYNCED = 0x2001, 0x2001 | STA_UNSYNC


class Kernel:
    """The wall clock, and adjtimex(2): how often it was asked, and what it says."""

    def __init__(self, now_ns: int, status: int | None) -> None:
        self.now_ns = now_ns
        self.status = status
        self.asked = 0

    def adjtimex(self) -> int | None:
        self.asked += 1
        return self.status

    def clock_of(self, machine: Machine, architecture: str = "aarch64") -> Synchronisation:
        return Synchronisation(
            machine,
            time_ns=lambda: self.now_ns,
            adjtimex=self.adjtimex,
            architecture=architecture,
        )


def rtc(number: int, *, hctosys: str, since_epoch_s: int | None) -> dict[str, str]:
    """The files of an RTC."""
    files = {f"sys/class/rtc/rtc{number}/hctosys": f"{hctosys}\n"}
    if since_epoch_s is not None:
        files[f"sys/class/rtc/rtc{number}/since_epoch"] = f"{since_epoch_s}\n"
    return files


def test_without_a_battery_the_clock_is_trusted_when_the_kernel_says_so(tmp_path: Path) -> None:
    """A Raspberry Pi: the time of its last shutdown looks right and is not, until NTP had its
    say; hours offline, after which the kernel is unsure again, change nothing."""
    kernel = Kernel(NOW, UNSYNCED)
    clock = kernel.clock_of(plant(tmp_path, {}))
    assert not clock.trusted()
    assert not clock.trusted()
    kernel.status = SYNCED
    assert clock.trusted()
    kernel.status = UNSYNCED
    asked = kernel.asked
    assert clock.trusted()
    assert kernel.asked == asked


def test_a_date_before_the_agent_was_made_is_never_trusted(tmp_path: Path) -> None:
    """Whatever the kernel, an RTC or the platform says; the date itself is."""
    for architecture, status in (("x86_64", SYNCED), ("aarch64", SYNCED), ("aarch64", None)):
        kernel = Kernel(EARLIEST_UNIX_NANO - 1, status)
        clock = kernel.clock_of(plant(tmp_path, {}), architecture)
        assert not clock.trusted()
        assert kernel.asked == 0
        kernel.now_ns += 1
        assert clock.trusted()


def test_an_rtc_that_set_the_clock_is_trusted_unasked(tmp_path: Path) -> None:
    """Also where it cannot be read any more; ctypes is not paid for."""
    for since_epoch_s in (NOW // S, EARLIEST_UNIX_NANO // S, None):
        tree = tmp_path / str(since_epoch_s)
        kernel = Kernel(NOW, UNSYNCED)
        machine = plant(tree, rtc(0, hctosys="1", since_epoch_s=since_epoch_s))
        assert kernel.clock_of(machine).trusted()
        assert kernel.asked == 0


@pytest.mark.parametrize("hctosys", ["0", "x"])
def test_an_rtc_that_did_not_set_the_clock_says_nothing(tmp_path: Path, hctosys: str) -> None:
    """It was found late, or could not be read at boot."""
    machine = plant(tmp_path, rtc(0, hctosys=hctosys, since_epoch_s=NOW // S))
    assert not Kernel(NOW, UNSYNCED).clock_of(machine).trusted()


@pytest.mark.parametrize("architecture", ["aarch64", "x86_64"])
def test_an_rtc_without_a_battery_gives_itself_away(tmp_path: Path, architecture: str) -> None:
    """A Raspberry Pi 5 as sold: the RTC set the clock to 1970, and something moved it on since."""
    kernel = Kernel(NOW, UNSYNCED)
    clock = kernel.clock_of(plant(tmp_path, rtc(0, hctosys="1", since_epoch_s=60)), architecture)
    assert not clock.trusted()
    kernel.status = SYNCED
    assert clock.trusted()


def test_only_the_rtc_that_set_the_clock_counts(tmp_path: Path) -> None:
    """Beside it there may be one in a power controller that nobody fed."""
    files = rtc(0, hctosys="0", since_epoch_s=60) | rtc(1, hctosys="1", since_epoch_s=NOW // S)
    assert Kernel(NOW, UNSYNCED).clock_of(plant(tmp_path, files)).trusted()


@pytest.mark.parametrize(
    ("architecture", "trusted"),
    [
        ("x86_64", True),
        ("i386", True),
        ("i686", True),
        ("aarch64", False),
        ("armv7l", False),
        ("riscv64", False),
        ("ia64", False),
        ("", False),
    ],
)
def test_every_x86_has_a_clock(tmp_path: Path, architecture: str, *, trusted: bool) -> None:
    """CMOS or a hypervisor's, with or without a driver in /sys."""
    kernel = Kernel(NOW, UNSYNCED)
    assert kernel.clock_of(plant(tmp_path, {}), architecture).trusted() == trusted
    assert kernel.asked == (not trusted)


def test_where_the_kernel_may_not_be_asked_a_date_is_enough(tmp_path: Path) -> None:
    """Better than to hold all data of a container for ever."""
    assert Kernel(NOW, None).clock_of(plant(tmp_path, {})).trusted()


def test_this_machine_is_looked_at_by_default(tmp_path: Path) -> None:
    """With its clock, its architecture and its kernel."""
    assert isinstance(Synchronisation(Machine()).trusted(), bool)
    assert Synchronisation(plant(tmp_path, {}), adjtimex=lambda: 0).trusted()


# ---- the kernel itself --------------------------------------------------------------------------


class Timex(ctypes.Structure):
    """struct timex of the man page, as a C compiler lays it out here, without its padding."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("constant", ctypes.c_long),
        ("precision", ctypes.c_long),
        ("tolerance", ctypes.c_long),
        ("time", ctypes.c_long * 2),
        ("tick", ctypes.c_long),
        ("ppsfreq", ctypes.c_long),
        ("jitter", ctypes.c_long),
        ("shift", ctypes.c_int),
        ("stabil", ctypes.c_long),
        ("jitcnt", ctypes.c_long),
        ("calcnt", ctypes.c_long),
        ("errcnt", ctypes.c_long),
        ("stbcnt", ctypes.c_long),
        ("tai", ctypes.c_int),
        ("reserved", ctypes.c_int * 11),
    )


def test_the_status_is_read_where_c_has_it() -> None:
    """At the end of the part that is unpacked; and the buffer has room for the whole."""
    head = synchronised._TIMEX_HEAD
    assert head.size - struct.calcsize("i") == Timex.status.offset
    assert Timex.status.offset == (40 if sys.maxsize > 2**32 else 20)
    assert ctypes.sizeof(Timex) == (208 if sys.maxsize > 2**32 else 128)
    assert ctypes.sizeof(Timex) <= synchronised._TIMEX_BYTES


def test_the_kernel_answers_without_privilege() -> None:
    """Its clock state and the bits agree: TIME_ERROR (5) wherever STA_UNSYNC is set."""
    timex = Timex()
    state = ctypes.CDLL(None).adjtimex(ctypes.byref(timex))
    if state < 0:
        assert kernel_status() is None
        return
    assert kernel_status() == timex.status
    if timex.status & STA_UNSYNC:
        assert state == 5


class Library:
    """What the process is linked with, in place of the real one."""


class Forbidding(Library):
    """EPERM from a seccomp filter."""

    @staticmethod
    def adjtimex(timex: object) -> int:
        return -1


class Static:
    """The module in a Python that is linked statically."""

    @property
    def pythonapi(self) -> object:
        raise OSError("Dynamic loading not supported")


@pytest.mark.parametrize("library", [Library(), Forbidding()])
def test_a_kernel_that_may_not_be_asked_says_nothing(
    monkeypatch: pytest.MonkeyPatch, library: Library
) -> None:
    """No such name in the C library, and a call that is forbidden."""
    monkeypatch.setattr(ctypes, "pythonapi", library)
    assert kernel_status() is None


@pytest.mark.parametrize("module", [None, Static()])
def test_a_python_that_cannot_ask_says_nothing(
    monkeypatch: pytest.MonkeyPatch, module: object
) -> None:
    """Built without libffi, or linked statically."""
    monkeypatch.setitem(sys.modules, "ctypes", module)
    assert kernel_status() is None


# ---- the offset ---------------------------------------------------------------------------------


def test_a_time_stamp_is_put_where_it_was() -> None:
    """Ten seconds before a clock that showed 1970 was set, it was ten seconds before now."""
    then = 100 * S
    offset = correction(then, 25 * S, NOW, 35 * S)
    assert then + offset == NOW - 10 * S
    assert correction(NOW, 25 * S, NOW + 10 * S, 35 * S) == 0


@given(*[st.integers(0, 2**63)] * 4, st.integers(0, 2**62))
def test_the_offset_is_the_same_at_every_moment(
    admitted: int, boottime: int, now: int, now_boottime: int, later: int
) -> None:
    """While neither clock is set in between: data of one wrong clock moves together."""
    offset = correction(admitted, boottime, now, now_boottime)
    assert correction(admitted + later, boottime + later, now, now_boottime) == offset
    assert correction(admitted, boottime, now + later, now_boottime + later) == offset
