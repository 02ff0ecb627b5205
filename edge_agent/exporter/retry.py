"""What an answer means for the data it answers. Pure.

OTLP specification, "Failures": retryable codes are retried with exponential backoff, a hint from
the server wins over it, everything else is never retried.
"""

from dataclasses import dataclass
from typing import Protocol

from edge_agent.otlp.signal import Signal


@dataclass(frozen=True, slots=True)
class Delivered:
    """The peer has it. `rejected_items` of it were refused in a partial success, never retried."""

    latency_s: float
    rejected_items: int = 0
    message: str = ""


@dataclass(frozen=True, slots=True)
class Retry:
    """It may succeed later: send the same again, not before `after_s` where the peer said so."""

    reason: str
    after_s: float | None = None


@dataclass(frozen=True, slots=True)
class Rejected:
    """It will never succeed as it is. `code` is the peer's, in lower snake case."""

    code: str
    message: str
    too_large: bool = False


@dataclass(frozen=True, slots=True)
class Denied:
    """UNAUTHENTICATED, PERMISSION_DENIED, 401, 403: we are refused, the data is good."""

    code: str
    message: str


Outcome = Delivered | Retry | Rejected | Denied


class Client(Protocol):
    """Sends one encoded Export request to one peer."""

    async def export(self, signal: Signal, body: bytes) -> Outcome:
        """Send `body`; every failure of the peer or the network is an Outcome, never raised."""
        ...

    async def close(self) -> None:
        """Close connections; calls in flight end as Retry."""
        ...
