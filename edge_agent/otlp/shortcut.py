"""The walk's short cut: requests as encoders write them, checked by adding up lengths. Pure.

Fields in order, keys of one byte, nothing repeated that protobuf would merge. Anything else, valid
or not, is an UnusualError or an IndexError, and `walk` says which it is: what is counted here,
`walk` counts the same, items and steps (tests/agent/otlp/test_batch.py).

Every function takes `left`, how many fields it may read, and returns what is left of it; it raises
TooLargeError as Walk does. The bound is that of a `for` over a range, which is no slower than none.
"""

from collections.abc import Callable

from edge_agent.otlp.walk import DATA_KEYS, FIRST, SECOND, TooLargeError

_MAX_STEPS = 2048
_THIRD = 0x1A
# Metric's name, description and unit, and metadata; Sum's and Histogram's two small numbers.
_METRIC_TEXTS = frozenset({FIRST, SECOND, _THIRD, 12 << 3 | 2})
_TEMPORALITY = frozenset({0x10, 0x18})


class UnusualError(Exception):
    """Not what encoders write: the walk has to say what it is."""


class _Steps(dict[bytes, int]):
    """The first three bytes of a field (its key, its length if below 16 KiB) -> its whole size.

    One look-up instead of reading the length: 0.06 us a field instead of 0.2. _OTHER for a field
    of another key or size, which is dearer to raise than to return: it is behind most sums.
    """

    def __init__(self, key: int) -> None:
        super().__init__()
        self._key = key

    def __missing__(self, head: bytes) -> int:
        if len(head) < 2 or head[0] != self._key:
            size = _OTHER
        elif head[1] < 0x80:
            size = 2 + head[1]
        elif len(head) == 3 and head[2] < 0x80:
            size = 3 + (head[1] & 0x7F | head[2] << 7)
        else:
            size = _OTHER
        if len(self) >= _MAX_STEPS:
            self.clear()
        self[head] = size
        return size


# Further than any request reaches.
_OTHER = 1 << 40
_ITEM_STEPS = _Steps(SECOND)
_POINT_STEPS = _Steps(FIRST)


def _extent(data: bytes, at: int) -> tuple[int, int]:
    """(offset of the value, offset after it) of the field with a one-byte key at `at`."""
    size, start = data[at + 1], at + 2
    if size > 0x7F:
        size, start = size & 0x7F | data[at + 2] << 7, at + 3
        if size > 0x3FFF:
            size, start = size & 0x3FFF | data[at + 3] << 14, at + 4
            if size > 0x1FFFFF:
                size, start = size & 0x1FFFFF | data[at + 4] << 21, at + 5
                if size > 0xFFFFFFF:
                    raise UnusualError
    return start, start + size


def scope_items(data: bytes, at: int, end: int, left: int) -> tuple[int, int]:
    """Spans or log records in the ScopeX in [at, end), where it is as encoders write it."""
    if at < end and data[at] == FIRST:
        size = data[at + 1]
        at = at + 2 + size if size < 0x80 else _extent(data, at)[1]
        left -= 1
    items = 0
    if at < end:
        for items in range(left):  # noqa: B007 -- read behind the loop
            at += _ITEM_STEPS[data[at : at + 3]]
            if at >= end:
                break
        else:
            raise TooLargeError.of_fields()
        if at >= _OTHER:
            more, left = _other_items(data, at - _OTHER, end, left - items)
            return items + more, left
        items += 1
    if at != end:
        raise UnusualError
    return items, left - items


def _other_items(data: bytes, at: int, end: int, left: int) -> tuple[int, int]:
    """The same for what follows the first field that has no step: a schema_url behind the items, or
    an item of 16 KiB."""
    items = 0
    while at < end:
        key = data[at]
        at = _extent(data, at)[1]
        left -= 1
        if left < 0:
            raise TooLargeError.of_fields()
        if key == SECOND:
            items += 1
        elif key != _THIRD:
            raise UnusualError
    if at != end:
        raise UnusualError
    return items, left


def scope_data_points(data: bytes, at: int, end: int, left: int) -> tuple[int, int]:
    """Data points in the ScopeMetrics in [at, end), where it is as encoders write it."""
    points = 0
    while at < end:
        key = data[at]
        start, at = _extent(data, at)
        if key == SECOND:
            if at > end:
                raise UnusualError
            more, left = _metric_data_points(data, start, at, left)
            points += more
        elif key not in (FIRST, _THIRD):
            raise UnusualError
        left -= 1
        if left < 0:
            raise TooLargeError.of_fields()
    if at != end:
        raise UnusualError
    return points, left


def _metric_data_points(data: bytes, at: int, end: int, left: int) -> tuple[int, int]:
    points, kind = 0, 0
    while at < end:
        key, size = data[at], data[at + 1]
        if size < 0x80:
            # Nearly always: half of what the call takes.
            start = at + 2
            at = start + size
        else:
            start, at = _extent(data, at)
        if key in DATA_KEYS:
            if kind or at > end:
                # Two kinds of data in one metric: which of them stands is for the walk to say.
                raise UnusualError
            kind = key
            points, left = _data_points(data, start, at, left)
        elif key not in _METRIC_TEXTS:
            raise UnusualError
        left -= 1
        if left < 0:
            raise TooLargeError.of_fields()
    if at != end:
        raise UnusualError
    return points, left


def _data_points(data: bytes, at: int, end: int, left: int) -> tuple[int, int]:
    points = 0
    while at < end:
        at += _POINT_STEPS[data[at : at + 3]]
        points += 1
        if points > left:
            raise TooLargeError.of_fields()
    if at != end:
        if at < _OTHER:
            raise UnusualError
        points -= 1
        more, left = _other_data(data, at - _OTHER, end, left - points)
        return points + more, left
    return points, left - points


def _other_data(data: bytes, at: int, end: int, left: int) -> tuple[int, int]:
    """The same for what follows the first field that has no step: temporality, is_monotonic, or a
    point of 16 KiB."""
    points = 0
    while at < end:
        key = data[at]
        if key == FIRST:
            at = _extent(data, at)[1]
            points += 1
        elif key in _TEMPORALITY and data[at + 1] < 0x80:
            at += 2
        else:
            raise UnusualError
        left -= 1
        if left < 0:
            raise TooLargeError.of_fields()
    if at != end:
        raise UnusualError
    return points, left


def resource_x(
    data: bytes,
    at: int,
    items_in: Callable[[bytes, int, int, int], tuple[int, int]],
    left: int,
) -> tuple[int, int, int, int, int]:
    """A ResourceX at `at` as encoders write it: (offset of its Resource, offset after that,
    offset after the whole, items, what is left of `left`); raises UnusualError or IndexError for
    all others, and TooLargeError."""
    if data[at] != FIRST:
        raise UnusualError
    start, end = _extent(data, at)
    if data[start] != FIRST:
        raise UnusualError
    place, rest = _extent(data, start)
    items, scope = 0, rest
    left -= 2
    while scope < end:
        key = data[scope]
        inner, scope = _extent(data, scope)
        left -= 1
        if key == SECOND:
            if scope > end:
                raise UnusualError
            more, left = items_in(data, inner, scope, left)
            items += more
        elif key != _THIRD:
            raise UnusualError
        if left < 0:
            raise TooLargeError.of_fields()
    if scope != end or end > len(data):
        raise UnusualError
    return place, rest, end, items, left
