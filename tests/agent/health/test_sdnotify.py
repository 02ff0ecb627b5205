"""sd_notify, received by a socket as systemd has one."""

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_agent.health.sdnotify import Heartbeat, Notifier


class Systemd:
    """The receiving end."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.settimeout(20)
        self.socket.bind(f"\0{address[1:]}" if address.startswith("@") else address)

    def told(self) -> list[str]:
        """The lines of the next message."""
        return self.socket.recv(4096).decode().split("\n")


@pytest.fixture(params=["path", "abstract"])
def systemd(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Systemd]:
    """A socket with a name in the file system, or without."""
    address = str(tmp_path / "notify")
    peer = Systemd(address if request.param == "path" else f"@{address}")
    yield peer
    peer.socket.close()


def test_each_message_is_what_systemd_reads(systemd: Systemd) -> None:
    """sd_notify(3)."""
    notifier = Notifier(systemd.address)
    notifier.ready("sampling every 15s")
    assert systemd.told() == ["READY=1", "STATUS=sampling every 15s"]
    notifier.status("collector unreachable\nWATCHDOG=trigger")
    assert systemd.told() == ["STATUS=collector unreachable WATCHDOG=trigger"]
    notifier.watchdog()
    assert systemd.told() == ["WATCHDOG=1"]
    notifier.stopping("draining")
    assert systemd.told() == ["STOPPING=1", "STATUS=draining"]


@pytest.mark.parametrize("address", [None, ""])
def test_without_systemd_nothing_happens(
    address: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    """Most containers have none."""
    Notifier(address).ready("up")
    assert caplog.text == ""


@pytest.mark.parametrize("address", ["/nowhere/notify", "vsock:2:1234", "@" + "x" * 200, "/a\0b"])
def test_a_socket_that_cannot_be_used_is_said_once(
    address: str, caplog: pytest.LogCaptureFixture
) -> None:
    """And never raised."""
    notifier = Notifier(address)
    for _ in range(3):
        notifier.watchdog()
    assert caplog.text.count("cannot tell systemd") == 1


def test_a_socket_that_comes_back_is_used_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """systemd re-executes; each outage is one line."""
    notifier = Notifier(str(tmp_path / "notify"))
    notifier.watchdog()
    systemd = Systemd(str(tmp_path / "notify"))
    notifier.watchdog()
    assert systemd.told() == ["WATCHDOG=1"]
    systemd.socket.close()
    notifier.watchdog()
    assert caplog.text.count("cannot tell systemd") == 2


def test_a_full_socket_does_not_stop_us(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Nobody reads: the loop must not wait for that."""
    systemd = Systemd(str(tmp_path / "notify"))
    notifier = Notifier(systemd.address)
    for _ in range(10_000):
        notifier.watchdog()
        if caplog.records:
            break
    systemd.socket.close()
    assert caplog.text.count("cannot tell systemd") == 1


@pytest.mark.parametrize(
    ("watchdog_s", "interval_s"), [(None, 10.0), (60.0, 10.0), (3.0, 1.5), (20.0, 10.0)]
)
def test_beats_come_at_half_the_watchdogs_time(watchdog_s: float | None, interval_s: float) -> None:
    """And often enough for /health/live."""
    assert Heartbeat(Notifier(None), watchdog_s).interval_s == interval_s


def test_the_age_of_the_last_beat() -> None:
    """What /health/live compares with 30 s."""
    now_s = [100.0]
    heartbeat = Heartbeat(Notifier(None), None, monotonic=lambda: now_s[0])
    now_s[0] = 131.0
    assert heartbeat.age_s() == 31.0
    heartbeat.beat()
    assert heartbeat.age_s() == 0.0


async def test_a_running_heartbeat_tells_systemd(tmp_path: Path) -> None:
    """From the loop: when it hangs, systemd hears nothing."""
    systemd = Systemd(str(tmp_path / "notify"))
    systemd.socket.settimeout(0)
    beating = asyncio.create_task(Heartbeat(Notifier(systemd.address), 0.01).run())
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(20):
        for _ in range(3):
            assert await loop.sock_recv(systemd.socket, 100) == b"WATCHDOG=1"
    beating.cancel()
    await asyncio.gather(beating, return_exceptions=True)
    systemd.socket.close()


async def test_without_a_watchdog_the_beat_is_ours_alone(tmp_path: Path) -> None:
    """systemd did not ask for it."""
    systemd = Systemd(str(tmp_path / "notify"))
    systemd.socket.settimeout(0)
    Heartbeat(Notifier(systemd.address), None).beat()
    with pytest.raises(BlockingIOError):
        systemd.socket.recv(100)
    systemd.socket.close()
