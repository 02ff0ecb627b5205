"""Which complaints about senders are logged: each now and then, never without bound. Pure."""

# A sender that does it wrong does it with every request, until somebody mends it.
EVERY_S = 300.0
# Senders that are told apart. Who takes a new name each time shares one line with all others.
MAX_SENDERS = 32
_OTHERS = ""


class Complaints:
    """How often each sender was complained of, and when that was last logged.

    `max_senders` are told apart, for all that they are complained of for."""

    def __init__(self, max_senders: int = MAX_SENDERS) -> None:
        self._max_senders = max_senders
        # (what for, sender) -> (when a line is due again, complaints since the last)
        self._said: dict[tuple[str, str], tuple[float, int]] = {}

    def due(self, what: str, sender: str, now_s: float) -> int | None:
        """One more complaint about `sender` for `what`, at `now_s` on a clock that never goes back.

        Returns how many before it were not logged if this one is to be, and None if it is not.
        """
        key = (what, sender)
        if key not in self._said and len(self._said) >= self._max_senders:
            self._said = {k: v for k, v in self._said.items() if now_s < v[0] or k[1] == _OTHERS}
            if len(self._said) >= self._max_senders:
                key = (what, _OTHERS)
        due_s, unsaid = self._said.get(key, (now_s, 0))
        if now_s < due_s:
            self._said[key] = (due_s, unsaid + 1)
            return None
        self._said[key] = (now_s + EVERY_S, 0)
        return unsaid
