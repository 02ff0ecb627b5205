"""Turns on the event loop for work that takes long. Pure: time and `call_soon` come in.

One read may bring a hundred requests that take the parser's time, and a hundred connections may
have been read from at once. What all of them do together before the loop looks at anything else,
/health among it, is one share; who finds it used up waits for the next, first come first served.
"""

from collections import deque
from collections.abc import Callable

_SHARE_S = 0.05


class Turns:
    """Says when it is the others' turn. One for all the connections of a server."""

    def __init__(
        self, call_soon: Callable[[Callable[[], None]], object], share_s: float = _SHARE_S
    ) -> None:
        self._call_soon = call_soon
        self._share_s = self._left_s = share_s
        self._waiting: deque[Callable[[], None]] = deque()
        self._called = False

    @property
    def over(self) -> bool:
        """Whether no more work may be begun before the loop has been around."""
        return self._left_s <= 0.0

    def spend(self, seconds: float) -> None:
        """Some work has taken so long."""
        # Never given back between loop turns: one call a share, and not one a loop turn.
        self._left_s -= seconds

    def wait(self, go_on: Callable[[], None]) -> None:
        """Call `go_on` once the loop has been around, and those before have had their turn."""
        self._waiting.append(go_on)
        if not self._called:
            self._called = True
            self._call_soon(self._next)

    def _next(self) -> None:
        self._left_s = self._share_s
        try:
            # Who waits again has its turn behind the others, when the loop has been around again.
            for _ in range(len(self._waiting)):
                if self.over:
                    break
                self._waiting.popleft()()
        finally:
            self._called = bool(self._waiting)
            if self._called:
                self._call_soon(self._next)
