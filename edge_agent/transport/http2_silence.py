"""When a peer that should answer says nothing: PING, then give up."""

import asyncio
from collections.abc import Callable


class SilenceWatch:
    """Watches while answers are due (`expect` to `rest`); an idle connection costs no wake-up.

    `ping` queues a PING, `send` sends what is queued, `dead` ends the connection for a reason.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        silence_s: float,
        idle_probe_s: float,
        ping: Callable[[], None],
        send: Callable[[], None],
        dead: Callable[[str], None],
    ) -> None:
        self._loop = loop
        self._silence_s = silence_s
        self._idle_probe_s = idle_probe_s
        self._ping = ping
        self._send = send
        self._dead = dead
        self._heard_s = self._due_s = loop.time()
        self._pinged_s: float | None = None
        self._expecting = False
        self._timer: asyncio.TimerHandle | None = None

    def heard(self) -> None:
        """The peer has said something."""
        self._heard_s = self._loop.time()
        self._pinged_s = None

    def expect(self) -> None:
        """An answer is due; after a long silence the peer is asked for a sign of life at once."""
        self._expecting = True
        if self._timer is not None:
            return
        self._due_s = self._loop.time()
        if self._due_s - self._heard_s >= self._idle_probe_s:
            self._ping()
            self._pinged_s = self._due_s
        self._timer = self._loop.call_later(self._silence_s, self._expired)

    def rest(self) -> None:
        """No answer is due any more."""
        self._expecting = False
        if self._pinged_s is None:
            self.stop()

    def stop(self) -> None:
        """Watch no longer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _expired(self) -> None:
        self._timer = None
        now_s = self._loop.time()
        since_s = self._pinged_s
        if since_s is None:
            if not self._expecting:
                return
            since_s = max(self._heard_s, self._due_s)
        if now_s >= since_s + self._silence_s:
            if self._pinged_s is not None:
                self._dead(f"no sign of life within {self._silence_s:g} s of a PING")
                return
            self._ping()
            self._pinged_s = since_s = now_s
            self._send()
        self._timer = self._loop.call_at(since_s + self._silence_s, self._expired)
