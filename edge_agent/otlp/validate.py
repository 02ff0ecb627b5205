"""`receiver.validate: full`: what a strict peer would refuse, refused here and named. Pure.

Beyond the framing that every request is checked for: strings that are not UTF-8, messages nested
deeper than protobuf reads, damage inside a span, log record or data point, trace ids that are
neither empty nor 16 bytes and span ids neither empty nor 8 (OTLP, trace.proto: "An ID with all
zeroes or a length other than 16 bytes is considered invalid"; empty ones occur and are taken, and
so are zeroes, as by the Collector).

The C runtime of protobuf looks first, where opentelemetry-proto is installed: imported here and
nowhere else in the agent, with the first request. What it dislikes is looked for again by a walk in
Python, which can say where; without the runtime the walk does it all, at twenty times the cost.
"""

from typing import Any

from edge_agent.otlp import wire
from edge_agent.otlp.schema import MESSAGES, ROOTS, Field, Kind
from edge_agent.otlp.signal import Signal
from edge_agent.otlp.split import split
from edge_agent.otlp.walk import MAX_DEPTH, MalformedError, Walk, varint

# Parsed, a message may take fifty times its bytes: a large request is looked at in pieces.
PIECE_BYTES = 256 << 10
_TRACE_ID_BYTES, _SPAN_ID_BYTES = 16, 8
_FIXED_BYTES = {Kind.FIXED32: 4, Kind.FIXED64: 8, Kind.SFIXED64: 8, Kind.DOUBLE: 8}
_NAMED = frozenset({"Span", "Metric", "Event"})
_FIELDS = {
    message: {field.number: field for field in fields} for message, fields in MESSAGES.items()
}
_DATA = ("gauge", "sum", "histogram", "exponential_histogram")


class _InvalidError(ValueError):
    """Something a strict peer would refuse. `path` leads to it and `within` names the span or
    metric it is in, both innermost first."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.path: list[str] = []
        self.within: list[str] = []


def full(signal: Signal, body: bytes) -> None:
    """Nothing if a strict peer would take `body`.

    Raises MalformedError that names the field and the span or metric it is in, and TooLargeError
    for an item of more than PIECE_BYTES with more fields than `walk` takes.
    """
    pieces = (
        [body] if len(body) <= PIECE_BYTES else [b for b, _ in split(signal, body, PIECE_BYTES)]
    )
    runtime = parser(signal)
    for piece in pieces:
        check(signal, piece, runtime if len(piece) <= PIECE_BYTES else None)


def check(signal: Signal, body: bytes, runtime: Any) -> None:
    """The same for one piece, with the class that `parser` gave or with none."""
    if runtime is not None and _is_valid(signal, body, runtime):
        return
    try:
        _Search(body).message(ROOTS[signal], 0, len(body), 1)
    except _InvalidError as error:
        where = ".".join(reversed(error.path))
        within = "".join(f", in {name}" for name in error.within)
        reason = f"{error}{within}"
        raise MalformedError.of(signal, f"{where}: {reason}" if where else reason) from None


def parser(signal: Signal) -> Any:
    """The generated class for requests of `signal`; None without opentelemetry-proto."""
    try:
        # One import a signal: each brings descriptors of its own.
        if signal is Signal.METRICS:
            from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2 as metrics

            return metrics.ExportMetricsServiceRequest
        if signal is Signal.TRACES:
            from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as traces

            return traces.ExportTraceServiceRequest
        from opentelemetry.proto.collector.logs.v1 import logs_service_pb2 as logs
    except ImportError:
        return None
    return logs.ExportLogsServiceRequest


def _is_valid(signal: Signal, body: bytes, runtime: Any) -> bool:
    from google.protobuf.message import DecodeError

    try:
        request = runtime.FromString(body)
    except DecodeError:
        return False
    match signal:
        case Signal.TRACES:
            return all(
                _ids_fit(span)
                and len(span.parent_span_id) in (0, _SPAN_ID_BYTES)
                and all(map(_ids_fit, span.links))
                for resource in request.resource_spans
                for scope in resource.scope_spans
                for span in scope.spans
            )
        case Signal.LOGS:
            return all(
                _ids_fit(record)
                for resource in request.resource_logs
                for scope in resource.scope_logs
                for record in scope.log_records
            )
        case _:
            return all(
                _ids_fit(exemplar)
                for resource in request.resource_metrics
                for scope in resource.scope_metrics
                for metric in scope.metrics
                if (kind := metric.WhichOneof("data")) in _DATA
                for point in getattr(metric, kind).data_points
                for exemplar in point.exemplars
            )


def _ids_fit(message: Any) -> bool:
    return len(message.trace_id) in (0, _TRACE_ID_BYTES) and len(message.span_id) in (
        0,
        _SPAN_ID_BYTES,
    )


class _Search:
    """The walk over all of a request that says where it is wrong."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._walk = Walk(data)

    def message(self, name: str, at: int, end: int, depth: int) -> None:
        """The message `name` in [at, end), `depth` messages deep with itself."""
        if depth > MAX_DEPTH:
            raise _InvalidError(f"nested deeper than {MAX_DEPTH} messages")
        fields = _FIELDS[name]
        try:
            for key, _, start, after in self._fields(at, end, depth):
                field = fields.get(key >> 3)
                if field is None:
                    continue
                try:
                    self._field(field, key & 7, start, after, depth)
                except _InvalidError as error:
                    error.path.append(field.name)
                    raise
        except _InvalidError as error:
            if name in _NAMED:
                error.within.append(f"{name} {self._name(fields, at, end, depth)!r}")
            raise

    def _fields(self, at: int, end: int, depth: int) -> Any:
        try:
            yield from self._walk.fields(at, end, depth - 1, frozenset())
        except (wire.WireError, IndexError) as error:
            raise _InvalidError(
                "cut short" if isinstance(error, IndexError) else str(error)
            ) from None

    def _field(self, field: Field, wire_type: int, start: int, after: int, depth: int) -> None:
        if wire_type != wire.LENGTH_DELIMITED:
            # Numbers are whole by now; anything of another wire type is an unknown field.
            return
        size = after - start
        match field.kind:
            case Kind.MESSAGE:
                self.message(field.target, start, after, depth + 1)
            case Kind.STRING:
                try:
                    self._data[start:after].decode()
                except UnicodeDecodeError as error:
                    raise _InvalidError(f"no UTF-8 at byte {error.start} of {size}") from None
            case Kind.ID:
                right = _TRACE_ID_BYTES if field.name == "trace_id" else _SPAN_ID_BYTES
                if size not in (0, right):
                    raise _InvalidError(f"{size} bytes, not {right}")
            case _:
                # Numbers in a row; where there should be one it is an unknown field.
                if field.repeated:
                    self._packed(field, start, after)

    def _packed(self, field: Field, at: int, end: int) -> None:
        if (width := _FIXED_BYTES.get(field.kind)) is not None:
            if (end - at) % width:
                raise _InvalidError(f"{end - at} bytes, no multiple of {width}")
            return
        while at < end:
            try:
                at = varint(self._data, at, 10)[1]
            except (wire.WireError, IndexError):
                at = end + 1
        if at > end:
            raise _InvalidError("a number is cut short")

    def _name(self, fields: dict[int, Field], at: int, end: int, depth: int) -> str:
        """The name in the message in [at, end), as far as it can be read."""
        name = b""
        try:
            for key, _, start, after in self._fields(at, end, depth):
                field = fields.get(key >> 3)
                if field is not None and field.name == "name" and key & 7 == wire.LENGTH_DELIMITED:
                    name = self._data[start:after]
        except _InvalidError:
            # What came before the damage.
            pass
        return name[:100].decode("utf-8", "backslashreplace")
