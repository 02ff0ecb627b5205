"""One request in a queue, and its pieces where a peer takes no request that large. Pure."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from edge_agent.otlp.batch import service_names
from edge_agent.otlp.signal import Signal
from edge_agent.otlp.split import halves, split
from edge_agent.otlp.walk import MalformedError, TooLargeError
from edge_agent.ring.record import Ref

# Up to here a request is cut by its items, however large the Resource is that each piece repeats.
# Above, that could fill memory: there a Resource must leave room.
_SMALL_BYTES = 256 << 10
_MAX_NAMES = 5
_MAX_NAME_CHARS = 100


# A flag of requests: admitted while the time of day was not known.
UNSYNCHRONISED = 1


@dataclass(frozen=True, slots=True)
class Stamp:
    """When something was admitted, by both clocks, and what is to be known of that."""

    unix_nano: int
    boottime_nano: int
    flags: int


@dataclass(slots=True)
class Request:
    """One encoded Export request as it was admitted, or a piece of one.

    `size` is what the ledger counts: the bytes that were admitted, of which pieces have a share
    each. `order` sorts by admission; it is that of the whole in front of a piece's own number.
    `unix_nano` and `boottime_nano` are those of admission, where they were taken then. `ref` is
    where the ring has it, None where only RAM does; `staged` says that it was read from there.
    """

    body: bytes
    items: int
    size: int
    order: tuple[int, ...]
    admitted_s: float
    unix_nano: int = 0
    boottime_nano: int = 0
    flags: int = 0
    ref: Ref | None = None
    staged: bool = False
    # False for pieces, which the ring's entry does not stand for.
    whole: bool = True
    # Settled, or cut.
    gone: bool = False


def cut(signal: Signal, request: Request) -> list[Request]:
    """`request` in two pieces or a few, in order; alone where it cannot be cut.

    What cannot: a single item, and more than _SMALL_BYTES of which a quarter is Resource and scope.
    """
    body = request.body
    if len(body) > _SMALL_BYTES:
        return _pieces(request, lambda: split(signal, body, len(body) // 2))
    return _pieces(request, lambda: halves(signal, body))


def fitted(signal: Signal, request: Request, max_bytes: int) -> list[Request]:
    """`request` in pieces of at most `max_bytes`, but for those that cannot be cut."""
    if len(request.body) <= max_bytes:
        return [request]
    return _pieces(request, lambda: split(signal, request.body, max_bytes))


def _pieces(request: Request, cut: Callable[[], list[tuple[bytes, int]]]) -> list[Request]:
    try:
        parts = cut()
    except (MalformedError, TooLargeError):
        return [request]
    # The ledger has to balance whatever was said of the items at admission.
    if len(parts) < 2 or sum(items for _, items in parts) != request.items:
        return [request]
    left, total = request.size, sum(len(body) for body, _ in parts)
    pieces = []
    for number, (body, items) in enumerate(parts):
        last = number == len(parts) - 1
        size = left if last else request.size * len(body) // total
        left -= size
        order = (*request.order, number)
        pieces.append(replace(request, body=body, items=items, size=size, order=order, whole=False))
    return pieces


def senders(signal: Signal, request: Request) -> str:
    """The names of the services whose items these are, for a log line; empty without any."""
    try:
        names = service_names(signal, request.body)
    except (MalformedError, TooLargeError):
        return ""
    more = [f"{len(names) - _MAX_NAMES} more"] if len(names) > _MAX_NAMES else []
    return ", ".join([name[:_MAX_NAME_CHARS] for name in names[:_MAX_NAMES]] + more)
