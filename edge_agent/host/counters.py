"""When counting began: the start time of each series of a counter. Pure.

Most counters start at boot. One that goes backwards was set to zero in between (an interface was
torn down, a stick pulled, 32 bits overflowed): OTLP calls that a reset, and the series gets a new
start time, which is the last moment at which the old one was seen.
"""

from collections.abc import Iterable, Iterator

from edge_agent.otlp.metrics import Attributes, Kind, Reading

# Series that have vanished are remembered, so that a stick which returns with a smaller value is
# seen as reset. Containers' interfaces have random names: the oldest are forgotten beyond this.
_MAX_SERIES = 4096


class Counters:
    """The last value of every counter series, and the start of those that were reset."""

    def __init__(self) -> None:
        self._last: dict[tuple[str, Attributes], tuple[float, int | None, int]] = {}

    def started(self, readings: Iterable[Reading], time_unix_nano: int) -> Iterator[Reading]:
        """The readings, those of reset counters with their own start time.

        A reading that brings a start time knows better and is left alone.
        """
        for reading in readings:
            if reading.metric.kind is not Kind.COUNTER or reading.start_time_unix_nano is not None:
                yield reading
                continue
            key = (reading.metric.name, reading.attributes)
            value, start, seen = self._last.pop(key, (reading.value, None, 0))
            if reading.value < value:
                start = seen
            # Popped and put back: the dict's order is from the longest unseen to the latest.
            self._last[key] = (reading.value, start, time_unix_nano)
            yield reading if start is None else reading._replace(start_time_unix_nano=start)
        while len(self._last) > _MAX_SERIES:
            del self._last[next(iter(self._last))]
