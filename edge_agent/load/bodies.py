"""What `otel-agent load` sends: requests of numbered items, for each signal.

The number of an item is `N00000001` where it has a name (of a span, the body of a log record) and
the attribute `load.sequence`. Data points have it as their value: a series for each number would
be more than a store of metrics can bear, so the series are the places in a request.
"""

import os
import uuid
from collections.abc import Callable

from edge_agent.otlp.logs import Severity, log_record, logs_request
from edge_agent.otlp.metrics import Kind, Metric, Reading, Template
from edge_agent.otlp.resource import Attribute
from edge_agent.otlp.resource import resource as encoded_resource
from edge_agent.otlp.signal import Signal
from edge_agent.otlp.spans import (
    SPAN_ID_BYTES,
    TRACE_ID_BYTES,
    root_span,
    span_attributes,
    spans_request,
)
from edge_agent.otlp.spans import Kind as SpanKind

SERVICE_NAME = "otel-agent-load"
SCOPE = "edge_agent.load"
METRIC = Metric("load.sequence", "1", Kind.GAUGE)
# What a span says it took.
_SPAN_NANO = 1_000_000
_IDS_BYTES = TRACE_ID_BYTES + SPAN_ID_BYTES


class Bodies:
    """Encodes requests of `items` items, each of about `item_bytes` where that is more than it has.

    `random` gives that many random bytes.
    """

    def __init__(
        self,
        version: str,
        *,
        items: int,
        item_bytes: int = 0,
        random: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._version = version
        self._items = items
        self._random = random
        self._padding: tuple[Attribute, ...] = ()
        self._resource = encoded_resource(
            [
                ("service.name", SERVICE_NAME),
                ("service.version", version),
                # Two runs are told apart by it.
                ("service.instance.id", str(uuid.UUID(bytes=random(16), version=4))),
            ]
        )
        self._template = Template(self._resource, SCOPE, version)
        # Hexadecimal digits: what gzip makes of a run of one letter is like no telemetry.
        missing = max(0, item_bytes - len(self._span(1, random(_IDS_BYTES), 0)))
        if missing:
            text = random((missing + 1) // 2).hex()[:missing]
            self._padding = (("load.padding", text),)

    def body(self, signal: Signal, first: int, time_unix_nano: int) -> bytes:
        """A request of `signal` whose first item has the number `first`."""
        numbers = range(first, first + self._items)
        match signal:
            case Signal.TRACES:
                ids = self._random(_IDS_BYTES * self._items)
                spans = [
                    self._span(number, ids[at : at + _IDS_BYTES], time_unix_nano)
                    for at, number in zip(range(0, len(ids), _IDS_BYTES), numbers, strict=True)
                ]
                return spans_request(self._resource, SCOPE, self._version, spans)
            case Signal.LOGS:
                records = [(SCOPE, self._record(number, time_unix_nano)) for number in numbers]
                return logs_request(self._resource, self._version, records)
            case Signal.METRICS:
                readings = [
                    Reading(METRIC, (("load.place", at), *self._padding), number)
                    for at, number in enumerate(numbers)
                ]
                return self._template.encode(
                    readings, start_time_unix_nano=0, time_unix_nano=time_unix_nano
                )

    def _span(self, number: int, ids: bytes, end_time_unix_nano: int) -> bytes:
        return root_span(
            _name(number),
            ids=ids,
            kind=SpanKind.SERVER,
            start_time_unix_nano=max(0, end_time_unix_nano - _SPAN_NANO),
            end_time_unix_nano=end_time_unix_nano,
            encoded_attributes=span_attributes((("load.sequence", number), *self._padding)),
        )

    def _record(self, number: int, time_unix_nano: int) -> bytes:
        return log_record(
            _name(number),
            severity=Severity.INFO,
            time_unix_nano=time_unix_nano,
            observed_time_unix_nano=time_unix_nano,
            pairs=(("load.sequence", number), *self._padding),
        )


def _name(number: int) -> str:
    return f"N{number:08d}"
