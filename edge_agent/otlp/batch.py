"""Export requests as bytes: enrich, count and split them without decoding. Pure.

Two paths lead through a request. What encoders write (fields in order, keys of one byte) goes the
fast one, which only adds up lengths; a ResourceX that is anything else goes through `walk`, which
takes any valid protobuf. Both mean the same (tests/agent/otlp/test_batch.py).

The rule (CONTRACT, "OTLP out"): identity keys (`customer.*`, `node.*`, `collector.*`) are the
agent's, whatever an app says; other attributes of ours are added where the app has none of that
key; what a service says of itself (`service.*`, `telemetry.*`) is never invented. A Resource with
our own collector.instance.id, or with us in its path (`relays`), came from us and is dropped alone;
one from another agent leaves with that agent in its path. Every ResourceX leaves with one
Resource, its first field: some decoders written by hand do not merge repeated ones.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from edge_agent.otlp import wire
from edge_agent.otlp.relays import INSTANCE_ID, MAX_AGENTS, PATH, hop, hops, path_of
from edge_agent.otlp.resource import key_value
from edge_agent.otlp.sampling import sample
from edge_agent.otlp.shortcut import UnusualError, resource_x, scope_data_points, scope_items
from edge_agent.otlp.signal import Signal
from edge_agent.otlp.split import split
from edge_agent.otlp.walk import (
    FIRST,
    MAX_FIELDS,
    REQUEST,
    RESOURCE_X,
    SECOND,
    MalformedError,
    TooLargeError,
    Walk,
)

__all__ = [
    "IDENTITY_PREFIXES",
    "MAX_ADDED_BYTES",
    "Admitted",
    "Enricher",
    "MalformedError",
    "TooLargeError",
    "count",
    "resource_attributes",
    "service_names",
    "split",
]

IDENTITY_PREFIXES = ("customer.", "node.", "collector.")
_IDENTITY = tuple(prefix.encode() for prefix in IDENTITY_PREFIXES)
_A_SERVICES_OWN = ("service.", "telemetry.")
_PATH = PATH.encode()
# What enrichment may add to one request: a Resource of six bytes leaves with half a kilobyte.
MAX_ADDED_BYTES = 4 << 20
# A device sees few Resources, again and again. Larger ones are read each time.
_MAX_CACHED_RESOURCE = 4096
_MAX_CACHE_ENTRIES = 128
_MAX_CACHE_BYTES = 256 << 10
_RESOURCE_FIELDS = frozenset({1})
_KEY_VALUE_FIELDS = frozenset({1, 2})
_ANY_VALUE_FIELDS = frozenset(range(1, 9))


class _Resource(NamedTuple):
    """A Resource as it leaves, the whole field; `added` is how many bytes longer it is."""

    field: bytes
    added: int
    looped: bool


@dataclass(slots=True)
class Admitted:
    """What became of a request. Not frozen: one a request, and that would cost 0.6 us."""

    body: bytes
    items: int
    looped_items: int = 0
    looped_bytes: int = 0
    sampled_out_items: int = 0
    sampled_out_bytes: int = 0


class Enricher:
    """Makes every Resource that passes say where it passed.

    `identity` are the attributes of our own Resource, in their order; `own_instance_id` is the
    value of collector.instance.id that tells our own data from that of others.
    """

    def __init__(self, identity: Sequence[tuple[str, str]], *, own_instance_id: str) -> None:
        self._own = [
            (key.encode(), wire.bytes_field(1, key_value(key, value)))
            for key, value in identity
            if not key.startswith(_A_SERVICES_OWN)
        ]
        self._own_instance_id = own_instance_id.encode()
        self._own_hop = hop(self._own_instance_id)
        # Two generations: what is asked for outlives a flood of what is not.
        self._young: dict[bytes, _Resource] = {}
        self._old: dict[bytes, _Resource] = {}
        self._young_bytes = 0

    def admit(self, signal: Signal, body: bytes, *, sample_rate: float = 1.0) -> Admitted:
        """`body` enriched, without what loops and without the traces `sample_rate` leaves out.

        The framing of every message down to span, log record and data point is checked on the way:
        raises MalformedError, and TooLargeError where enrichment would add MAX_ADDED_BYTES or the
        walk takes more steps than sensible requests need. `sample_rate` (0 to 1) concerns traces
        alone. What it costs: benchmarks/enrich.py.
        """
        try:
            admitted = self._enriched(signal, body)
        except (wire.WireError, IndexError) as error:
            raise MalformedError.of(signal, error) from None
        if sample_rate < 1.0 and signal is Signal.TRACES:
            sampled = sample(admitted.body, sample_rate)
            admitted.body = sampled.body
            admitted.items -= sampled.items_out
            admitted.sampled_out_items = sampled.items_out
            admitted.sampled_out_bytes = sampled.bytes_out
        return admitted

    def _enriched(self, signal: Signal, body: bytes) -> Admitted:
        items_in = scope_data_points if signal is Signal.METRICS else scope_items
        parts: list[bytes] = []
        at, end = 0, len(body)
        items = added = looped_items = looped_bytes = 0
        left = MAX_FIELDS
        while at < end:
            try:
                place, rest, after, n, left = resource_x(body, at, items_in, left)
            except (UnusualError, IndexError):
                walk = Walk(body, left)
                key, start, after = walk.field(at, end, 0)
                if key != FIRST:
                    if key >> 3 in REQUEST.known:
                        raise wire.WireError(
                            f"field 1 at byte {at} has wire type {key & 7}"
                        ) from None
                    parts.append(body[at:after])
                    at, left = after, walk.left
                    continue
                encoded, tail, n = _walked(signal, body, walk, start, after)
                resource, left = self._read(encoded, walk.left)
            else:
                encoded = body[place:rest]
                tail = body[rest:after]
                known = self._young.get(encoded)
                resource, left = (known, left) if known else self._resource(encoded, left)
            if resource.looped:
                looped_items += n
                looped_bytes += after - at
            else:
                parts += (
                    b"\x0a" + wire.varint(len(resource.field) + len(tail)), resource.field, tail,
                )  # fmt: skip
                items += n
                added += resource.added
                if added > MAX_ADDED_BYTES:
                    raise TooLargeError(
                        f"enriched it would be more than {MAX_ADDED_BYTES} bytes larger;"
                        " send fewer Resources at once"
                    )
            at = after
        return Admitted(b"".join(parts), items, looped_items, looped_bytes)

    def _resource(self, encoded: bytes, left: int) -> tuple[_Resource, int]:
        """`encoded` enriched, remembered if it is of a common size, and what is left of `left`
        steps."""
        if len(encoded) > _MAX_CACHED_RESOURCE:
            return self._read(encoded, left)
        known = self._old.get(encoded)
        resource, left = self._read(encoded, left) if known is None else (known, left)
        size = len(encoded) + len(resource.field)
        if len(self._young) == _MAX_CACHE_ENTRIES or self._young_bytes + size > _MAX_CACHE_BYTES:
            self._old, self._young, self._young_bytes = self._young, {}, 0
        self._young[encoded] = resource
        self._young_bytes += size
        return resource, left

    def _read(self, encoded: bytes, left: int) -> tuple[_Resource, int]:
        """The Resource message `encoded` enriched in `left` steps at most, and what is left of
        them; raises WireError, IndexError and TooLargeError."""
        walk = Walk(encoded, left)
        kept: list[bytes] = []
        keys: set[bytes] = set()
        looped = False
        passed: list[bytes] = []
        senders: list[bytes] = []
        for key, at, after, name, value in resource_attributes(encoded, walk):
            if key != FIRST:
                kept.append(encoded[at:after])
            elif not name.startswith(_IDENTITY):
                kept.append(encoded[at:after])
                keys.add(name)
            elif value is None:
                continue
            elif name == INSTANCE_ID:
                looped |= value == self._own_instance_id
                if (sender := hop(value)) is not None:
                    senders.append(sender)
            elif name == _PATH:
                passed += hops(value)
        kept += [attribute for name, attribute in self._own if name not in keys]
        if path := passed + senders:
            looped |= self._own_hop in passed or len(path) > MAX_AGENTS
            kept.append(wire.bytes_field(1, key_value(PATH, path_of(path))))
        field = wire.bytes_field(1, b"".join(kept))
        return _Resource(field, len(field) - len(encoded), looped), walk.left


def _walked(signal: Signal, body: bytes, walk: Walk, at: int, end: int) -> tuple[bytes, bytes, int]:
    """Any valid ResourceX in [at, end): (its Resource, merged; all else it has; its items)."""
    resource: list[bytes] = []
    tail: list[bytes] = []
    items = 0
    for key, place, start, after in walk.fields(at, end, 1, RESOURCE_X.known):
        if key == FIRST:
            resource.append(body[start:after])
            continue
        tail.append(body[place:after])
        if key == SECOND:
            items += walk.items(signal, start, after, 2)
    if len(resource) > 1:
        # Protobuf merges a repeated sub-message: its encodings joined are the merged one, if each
        # of them is whole. Halves that only together look like a message are none.
        for part in resource:
            part_walk = Walk(part, walk.left)
            for _ in resource_attributes(part, part_walk):
                pass
            walk.left = part_walk.left
    elif not resource:
        # It gets one, and is to be walked again by others.
        walk.left -= 1
        if walk.left < 0:
            raise TooLargeError.of_fields()
    return b"".join(resource), b"".join(tail), items


# message Resource { repeated KeyValue attributes = 1; ... }
# message KeyValue { string key = 1; AnyValue value = 2; }
# message AnyValue { oneof value { string string_value = 1; ... } }
def resource_attributes(
    encoded: bytes, walk: Walk | None = None
) -> Iterator[tuple[int, int, int, bytes, bytes | None]]:
    """Each field of a Resource: (key, offset, offset after it, and for an attribute its name and
    its value, None unless that is a string), with the steps of `walk`, or of one of its own; raises
    WireError, IndexError and TooLargeError."""
    walk = walk or Walk(encoded)
    for key, at, start, after in walk.fields(0, len(encoded), 2, _RESOURCE_FIELDS):
        name, value = b"", None
        if key == FIRST:
            for part, _, inner, end in walk.fields(start, after, 3, _KEY_VALUE_FIELDS):
                if part == FIRST:
                    name = encoded[inner:end]
                elif part == SECOND:
                    for kind, _, first, last in walk.fields(inner, end, 4, frozenset()):
                        if kind == FIRST:
                            value = encoded[first:last]
                        elif kind >> 3 in _ANY_VALUE_FIELDS:
                            value = None
        yield key, at, after, name, value


def count(signal: Signal, body: bytes) -> int:
    """Spans, log records or data points in `body`; raises MalformedError and TooLargeError."""
    try:
        return Walk(body).items(signal, 0, len(body), 0)
    except (wire.WireError, IndexError) as error:
        raise MalformedError.of(signal, error) from None


def service_names(signal: Signal, body: bytes) -> list[str]:
    """Who sent `body`: each service.name once, in order; raises as `count` does."""
    walk = Walk(body)
    names: dict[str, None] = {}
    try:
        for key, _, start, after in walk.fields(0, len(body), 0, REQUEST.known):
            if key == FIRST:
                resource = _walked(signal, body, walk, start, after)[0]
                for _, _, _, name, value in resource_attributes(resource):
                    if name == b"service.name" and value is not None:
                        names[value.decode("utf-8", "backslashreplace")] = None
    except (wire.WireError, IndexError) as error:
        raise MalformedError.of(signal, error) from None
    return list(names)
