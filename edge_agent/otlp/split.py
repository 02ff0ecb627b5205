"""A request in pieces that are requests themselves: for a peer that takes no more at once. Pure.

Cut at Resource, Scope and item boundaries (data points, in metrics), in order. Each piece repeats
what is around its items, so that together they say what the whole says.
"""

from collections.abc import Iterator

from edge_agent.otlp import wire
from edge_agent.otlp.signal import Signal
from edge_agent.otlp.walk import LEVELS, MalformedError, Walk

# Key and length of what is put around a part: one byte, and four up to 256 MiB.
_FRAMING_BYTES = 5


def split(signal: Signal, body: bytes, max_bytes: int) -> list[tuple[bytes, int]]:
    """(request, its items) of the pieces that together are `body`, in order.

    A piece is larger than `max_bytes` only where it cannot be cut: a single item, or items whose
    Resource and scope take more than half of the room. Raises MalformedError and TooLargeError.
    """
    try:
        return list(_Cut(signal, body).pieces(0, len(body), 0, max_bytes))
    except (wire.WireError, IndexError) as error:
        raise MalformedError.of(signal, error) from None


def halves(signal: Signal, body: bytes) -> list[tuple[bytes, int]]:
    """(request, its items) of the first and the second half of the items in `body`.

    However much is around the items: where that is most of `body`, both halves are as large. One
    item is not cut: it comes back alone. Raises MalformedError and TooLargeError.
    """
    try:
        cut = _Cut(signal, body)
        items = Walk(body).items(signal, 0, len(body), 0)
        if items < 2:
            return [(body, items)]
        middle = items // 2
        return [
            (cut.of_items(0, len(body), 0, 0, middle), middle),
            (cut.of_items(0, len(body), 0, middle, items), items - middle),
        ]
    except (wire.WireError, IndexError) as error:
        raise MalformedError.of(signal, error) from None


class _Cut:
    """The cutting of one request."""

    def __init__(self, signal: Signal, body: bytes) -> None:
        self._signal = signal
        self._levels = LEVELS[signal]
        self._body = body

    def pieces(self, at: int, end: int, depth: int, max_bytes: int) -> Iterator[tuple[bytes, int]]:
        """Messages that together say what the one in [at, end) says, and the items in each."""
        if end - at > max_bytes and depth < len(self._levels):
            around, parts_from = self._around(at, end, depth)
            room = max_bytes - len(around) - _FRAMING_BYTES
            if len(around) <= max_bytes // 2 and room > 0:
                yield from self._filled(around, parts_from, end, depth, room)
                return
        yield self._body[at:end], self._items(at, end, depth)

    def _around(self, at: int, end: int, depth: int) -> tuple[bytes, int]:
        """All fields but the parts, and where the first part that stands is."""
        known, keys = self._levels[depth]
        around = bytearray()
        parts_from, kind = end, 0
        for key, place, _, after in Walk(self._body).fields(at, end, depth, known):
            if key not in keys:
                around += self._body[place:after]
            elif key != kind:
                # A Metric's oneof: what came before another kind of data does not stand.
                parts_from, kind = place, key
        return bytes(around), parts_from

    def _filled(
        self, around: bytes, at: int, end: int, depth: int, room: int
    ) -> Iterator[tuple[bytes, int]]:
        """The parts from `at` on in pieces with `around` before each and `room` for them."""
        known, keys = self._levels[depth]
        piece, items = bytearray(), 0
        for key, place, start, after in Walk(self._body).fields(at, end, depth, known):
            if key not in keys:
                continue
            if piece and len(piece) + after - place > room:
                yield around + piece, items
                piece, items = bytearray(), 0
            if after - place > room:
                for part, part_items in self.pieces(start, after, depth + 1, room):
                    yield around + wire.bytes_field(key >> 3, part), part_items
            else:
                piece += self._body[place:after]
                items += self._items(start, after, depth + 1)
        if piece:
            yield around + piece, items

    def of_items(self, at: int, end: int, depth: int, first: int, last: int) -> bytes:
        """The message in [at, end) with its items from number `first` to before `last` alone."""
        around, parts_from = self._around(at, end, depth)
        known, keys = self._levels[depth]
        piece, number = bytearray(around), 0
        for key, place, start, after in Walk(self._body).fields(parts_from, end, depth, known):
            if key not in keys:
                continue
            items = self._items(start, after, depth + 1)
            if first <= number and number + items <= last:
                piece += self._body[place:after]
            elif number < last and number + items > first:
                part = self.of_items(start, after, depth + 1, first - number, last - number)
                piece += wire.bytes_field(key >> 3, part)
            number += items
        return bytes(piece)

    def _items(self, at: int, end: int, depth: int) -> int:
        if depth == len(self._levels):
            # An item is one: a Walk for each would take as long as all else here.
            return 1
        return Walk(self._body).items(self._signal, at, end, depth)
