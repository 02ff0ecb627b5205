"""How full everything is, counted against the point at which dropping begins, and until when.

RAM counts as if it were in the ring already, compressed as the ring's content is.
"""

from edge_agent.exporter.memory import Memory
from edge_agent.exporter.spool import Spool


class Room:
    """RAM and the ring together; RAM alone while the ring cannot be used."""

    def __init__(self, memory: Memory, spool: Spool, *, strict: bool) -> None:
        self._strict = strict
        self._memory = memory
        self._spool = spool

    @property
    def usage(self) -> float:
        """0 to 1, where 1 means that something is being dropped."""
        spool = self._spool
        if not spool.usable:
            return self._memory.usage
        waiting = spool.unsaved_bytes * spool.ratio / spool.capacity_bytes
        return min(1.0, spool.usage + waiting)

    def seconds_to_loss(self) -> float | None:
        """Seconds until dropping begins if nothing more were delivered; None without inflow."""
        spool = self._spool
        if not spool.usable:
            return self._memory.seconds_to_loss()
        inflow = self._memory.inflow()
        if inflow is None:
            return None
        return (1.0 - self.usage) * spool.capacity_bytes / (spool.ratio * inflow)

    @property
    def pushing_back(self) -> bool:
        """Whether apps are told to come back."""
        return self._memory.full(0) or (self._strict and not self._spool.usable)
