"""Telling systemd how we are: sd_notify(3), and the beats its watchdog waits for.

A datagram to the socket that NOTIFY_SOCKET names. Nothing here raises: without systemd, or with
one that is gone, the agent runs as well.
"""

import asyncio
import socket
import time
from collections.abc import Callable

from edge_agent.log import Log

_log = Log("systemd")

# /health/live allows 30 s: two beats may be late.
_BEAT_S = 10.0


class Notifier:
    """`address` is the value of NOTIFY_SOCKET, None where there is nobody to tell."""

    def __init__(self, address: str | None) -> None:
        # unix(7): a leading @ stands for the zero byte of an abstract name.
        self._address = f"\0{address[1:]}" if address and address[0] == "@" else address
        self._failed = False

    def ready(self, status: str) -> None:
        """Started; `status` is a line for `systemctl status`."""
        self._send(f"READY=1\nSTATUS={_line(status)}")

    def stopping(self, status: str) -> None:
        """On the way out."""
        self._send(f"STOPPING=1\nSTATUS={_line(status)}")

    def status(self, status: str) -> None:
        """A line for `systemctl status`."""
        self._send(f"STATUS={_line(status)}")

    def watchdog(self) -> None:
        """Still alive."""
        self._send("WATCHDOG=1")

    def _send(self, message: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.settimeout(0)  # systemd's socket may be full; we do not wait for it.
                sender.sendto(message.encode("utf-8", "replace"), self._address)
        except (OSError, ValueError) as error:
            if not self._failed:  # Once an outage, not once a beat.
                _log.warning("cannot tell systemd", cause=error)
            self._failed = True
        else:
            self._failed = False


def _line(text: str) -> str:
    return " ".join(text.split())


class Heartbeat:
    """A beat of the main loop. It tells systemd's watchdog, and /health/live reads its age.

    `watchdog_s` is how long systemd waits for a beat (WATCHDOG_USEC), None where it does not.
    """

    def __init__(
        self,
        notifier: Notifier,
        watchdog_s: float | None,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._notifier = notifier
        self._watchdog = watchdog_s is not None
        # sd_watchdog_enabled(3): at half of the time.
        self.interval_s = _BEAT_S if watchdog_s is None else min(_BEAT_S, watchdog_s / 2)
        self._monotonic = monotonic
        self._last_s = monotonic()

    def age_s(self) -> float:
        """Seconds since the last beat."""
        return self._monotonic() - self._last_s

    def beat(self) -> None:
        """The loop is alive."""
        self._last_s = self._monotonic()
        if self._watchdog:
            self._notifier.watchdog()

    async def run(self) -> None:
        """Beat until cancelled."""
        while True:
            self.beat()
            await asyncio.sleep(self.interval_s)
