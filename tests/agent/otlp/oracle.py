"""What opentelemetry-proto and protobuf's C runtime say of a request, to hold ours against.

`Skeleton` messages have OTLP's shape with items, scopes and texts as opaque bytes: what the runtime
refuses of them is refused for its framing.
"""

from collections.abc import Iterator
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from edge_agent.otlp.signal import Signal

CLASSES: dict[Signal, Any] = {
    Signal.METRICS: ExportMetricsServiceRequest,
    Signal.TRACES: ExportTraceServiceRequest,
    Signal.LOGS: ExportLogsServiceRequest,
}
_SUFFIXES = {Signal.METRICS: "metrics", Signal.TRACES: "spans", Signal.LOGS: "logs"}
_ITEMS = {Signal.METRICS: "metrics", Signal.TRACES: "spans", Signal.LOGS: "log_records"}

OWN_ID = "0b5e55ed-0000-4000-8000-00000000cafe"
IDENTITY = (
    ("customer.id", "acme"),
    ("node.id", "edge-01"),
    ("collector.name", "otel-agent"),
    ("collector.instance.id", OWN_ID),
    ("service.name", "otel-agent"),
    ("telemetry.sdk.name", "ours"),
    ("host.name", "edge-01.local"),
    ("os.type", "linux"),
)
_PREFIXES = ("customer.", "node.", "collector.")


def parse(signal: Signal, body: bytes) -> Any:
    """The message; raises DecodeError."""
    return CLASSES[signal].FromString(body)


def bits(message: Any) -> bytes:
    """What messages are compared by: NaN is unequal to itself, its bits are not."""
    encoded: bytes = message.SerializeToString(deterministic=True)
    return encoded


def resources(signal: Signal, request: Any) -> Any:
    """The ResourceX messages."""
    return getattr(request, f"resource_{_SUFFIXES[signal]}")


def scopes(signal: Signal, resource: Any) -> Any:
    """The ScopeX messages."""
    return getattr(resource, f"scope_{_SUFFIXES[signal]}")


def scope_items(signal: Signal, scope: Any) -> int:
    """Spans, log records or data points in a ScopeX."""
    entries = getattr(scope, _ITEMS[signal])
    if signal is not Signal.METRICS:
        return len(entries)
    return sum(
        len(getattr(metric, kind).data_points)
        for metric in entries
        if (kind := metric.WhichOneof("data")) is not None
    )


def resource_items(signal: Signal, resource: Any) -> int:
    """Items in a ResourceX."""
    return sum(scope_items(signal, scope) for scope in scopes(signal, resource))


def count(signal: Signal, request: Any) -> int:
    """Items in a request."""
    return sum(resource_items(signal, resource) for resource in resources(signal, request))


def texts(resource: Any, key: str) -> list[str]:
    """The values of an attribute that are strings, of each time it occurs."""
    return [
        attribute.value.string_value
        for attribute in resource.resource.attributes
        if attribute.key == key and attribute.value.WhichOneof("value") == "string_value"
    ]


def passed(resource: Any) -> list[str]:
    """The agents in the path of a ResourceX."""
    return [
        agent
        for value in texts(resource, "collector.path")
        if len(value) < 8 * 9 and all(len(agent) == 8 for agent in value.split(","))
        if _is_hex(value.replace(",", ""))
        for agent in value.split(",")
    ]


def senders(resource: Any) -> list[str]:
    """The agents that say they sent a ResourceX: one, where it is sane."""
    return [
        value[:8]
        for value in texts(resource, "collector.instance.id")
        if [len(part) for part in value.split("-")] == [8, 4, 4, 4, 12]
        if _is_hex(value.replace("-", ""))
    ]


def _is_hex(text: str) -> bool:
    return set(text) <= set("0123456789abcdef")


def looped(resource: Any) -> bool:
    """Whether a ResourceX came from ourselves, or has passed more agents than there are."""
    return (
        OWN_ID in texts(resource, "collector.instance.id")
        or OWN_ID[:8] in passed(resource)
        or len(passed(resource) + senders(resource)) > 8
    )


def enriched(signal: Signal, request: Any) -> Any:
    """The rule of CONTRACT, "OTLP out", applied to objects."""
    out = type(request)()
    out.CopyFrom(request)
    kept = [r for r in resources(signal, out) if not looped(r)]
    for resource in kept:
        path = ",".join(passed(resource) + senders(resource))
        attributes = resource.resource.attributes
        theirs = [a for a in attributes if not a.key.startswith(_PREFIXES)]
        keys = {a.key for a in theirs}
        # Sub-messages are views into what is deleted: copy them first.
        copies = [type(a).FromString(a.SerializeToString()) for a in theirs]
        del attributes[:]
        resource.resource.SetInParent()
        attributes.extend(copies)
        for key, value in IDENTITY:
            if not key.startswith(("service.", "telemetry.")) and key not in keys:
                attributes.add(key=key).value.string_value = value
        if path:
            attributes.add(key="collector.path").value.string_value = path
    copies = [type(r).FromString(r.SerializeToString()) for r in kept]
    del resources(signal, out)[:]
    resources(signal, out).extend(copies)
    return out


def ids_fit(signal: Signal, request: Any) -> bool:
    """Whether every trace id has no or 16 bytes and every span id none or 8."""
    holders: list[Any] = []
    for resource in resources(signal, request):
        for scope in scopes(signal, resource):
            for entry in getattr(scope, _ITEMS[signal]):
                if signal is Signal.METRICS:
                    kind = entry.WhichOneof("data")
                    if kind not in (None, "summary"):
                        points = getattr(entry, kind).data_points
                        holders += [e for point in points for e in point.exemplars]
                    continue
                holders.append(entry)
                if signal is Signal.TRACES:
                    holders += entry.links
    spans = [holder.span_id for holder in holders]
    spans += [h.parent_span_id for h in holders if hasattr(h, "parent_span_id")]
    return {len(holder.trace_id) for holder in holders} <= {0, 16} and {len(s) for s in spans} <= {
        0,
        8,
    }


def sampled(request: Any, threshold: int) -> Any:
    """Spans by the low 56 bits of their trace id; what that empties goes."""
    out = type(request)()
    out.CopyFrom(request)
    for resource in out.resource_spans:
        for scope in resource.scope_spans:
            stay = [
                type(span).FromString(span.SerializeToString())
                for span in scope.spans
                if threshold < 1 << 56
                and (
                    len(span.trace_id) != 16
                    or int.from_bytes(span.trace_id[-7:], "big") >= threshold
                )
            ]
            if scope.spans and not stay:
                scope.schema_url = "emptied"
            del scope.spans[:]
            scope.spans.extend(stay)
        had = len(resource.scope_spans)
        stay_scopes = [
            type(scope).FromString(scope.SerializeToString())
            for scope in resource.scope_spans
            if scope.schema_url != "emptied"
        ]
        del resource.scope_spans[:]
        resource.scope_spans.extend(stay_scopes)
        if had > len(stay_scopes) and not stay_scopes:
            resource.schema_url = "emptied"
    stay_resources = [
        type(resource).FromString(resource.SerializeToString())
        for resource in out.resource_spans
        if resource.schema_url != "emptied"
    ]
    del out.resource_spans[:]
    out.resource_spans.extend(stay_resources)
    return out


def flat(signal: Signal, request: Any) -> Iterator[tuple[bytes, ...]]:
    """Each item with all that is around it, in order: what a request says, however it is cut."""
    for resource in resources(signal, request):
        around = type(resource)()
        around.CopyFrom(resource)
        around.ClearField(f"scope_{_SUFFIXES[signal]}")
        for scope in scopes(signal, resource):
            inner = type(scope)()
            inner.CopyFrom(scope)
            inner.ClearField(_ITEMS[signal])
            for entry in getattr(scope, _ITEMS[signal]):
                head = (bits(around), bits(inner))
                if signal is not Signal.METRICS:
                    yield (*head, bits(entry))
                elif (kind := entry.WhichOneof("data")) is not None:
                    metric = type(entry)()
                    metric.CopyFrom(entry)
                    del getattr(metric, kind).data_points[:]
                    for point in getattr(entry, kind).data_points:
                        yield (*head, bits(metric), bits(point))


def _skeletons() -> dict[Signal, Any]:
    file = descriptor_pb2.FileDescriptorProto(name="skeleton.proto", syntax="proto3")
    types = descriptor_pb2.FieldDescriptorProto

    def message(name: str, *fields: tuple[int, str, bool]) -> None:
        added = file.message_type.add(name=name)
        for number, target, repeated in fields:
            field = added.field.add(name=f"f{number}", number=number)
            field.label = types.LABEL_REPEATED if repeated else types.LABEL_OPTIONAL
            if target:
                field.type, field.type_name = types.TYPE_MESSAGE, f".skeleton.{target}"
            else:
                field.type = types.TYPE_BYTES

    file.package = "skeleton"
    message("Value", (1, "", False))
    message("Attribute", (1, "", False), (2, "Value", False))
    message("Resource", (1, "Attribute", True))
    message("Data", (1, "", True))
    texts = ((1, "", False), (2, "", False), (3, "", False), (12, "", True))
    data = tuple((number, "Data", False) for number in (5, 7, 9, 10, 11))
    message("Metric", *texts, *data)
    for name, item in (("Metrics", "Metric"), ("Items", "")):
        message(f"Scope{name}", (1, "", False), (2, item, True), (3, "", False))
        message(
            f"Resource{name}", (1, "Resource", False), (2, f"Scope{name}", True), (3, "", False)
        )
        message(f"Request{name}", (1, f"Resource{name}", True))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    found = {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"skeleton.{name}"))
        for name in ("RequestMetrics", "RequestItems")
    }
    return {
        Signal.METRICS: found["RequestMetrics"],
        Signal.TRACES: found["RequestItems"],
        Signal.LOGS: found["RequestItems"],
    }


SKELETONS = _skeletons()


def framed(signal: Signal, body: bytes) -> bool:
    """Whether the framing of `body` is whole down to the items, as the C runtime sees it."""
    try:
        SKELETONS[signal].FromString(body)
    except DecodeError:
        return False
    return True
