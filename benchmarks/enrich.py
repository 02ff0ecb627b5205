"""What does a request cost that passes: bytes spliced against protobuf's C runtime (upb).

`python -m benchmarks.enrich` prints microseconds for requests of 8, 64 and 512 spans: enriched and
counted as bytes, and parsed, added to and serialised as objects; then what sampling, validation and
JSON cost on top, and what a clock that was wrong costs. `--quick` runs nothing twice and only
asserts that all say the same.
"""

import argparse
import json
import random
import time
from collections.abc import Callable
from functools import partial

from google.protobuf.json_format import MessageToDict
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from edge_agent.otlp.batch import Enricher, count, split
from edge_agent.otlp.json import to_protobuf
from edge_agent.otlp.rebase import mark, rebase
from edge_agent.otlp.signal import Signal
from edge_agent.otlp.validate import full

IDENTITY = (
    ("customer.id", "acme"),
    ("node.id", "edge-01"),
    ("collector.name", "otel-agent"),
    ("collector.type", "edge"),
    ("collector.instance.id", "0b5e55ed-0000-4000-8000-00000000cafe"),
    ("host.name", "edge-01"),
    ("host.arch", "arm64"),
    ("os.type", "linux"),
)
SIZES = (8, 64, 512)
START_UNIX_NANO = 1_767_600_000_000_000_000
DAY_NANO = 86_400 * 10**9
RANDOM = random.Random(1)


def request(spans: int) -> bytes:
    """What an SDK sends: one Resource, one scope, spans of about 300 bytes."""
    built = ExportTraceServiceRequest()
    resource_spans = built.resource_spans.add()
    for key, value in (
        ("service.name", "shop"),
        ("telemetry.sdk.language", "python"),
        ("telemetry.sdk.name", "opentelemetry"),
        ("telemetry.sdk.version", "1.30.0"),
    ):
        resource_spans.resource.attributes.add(key=key).value.string_value = value
    scope = resource_spans.scope_spans.add()
    scope.scope.name = "opentelemetry.instrumentation.wsgi"
    for n in range(spans):
        span = scope.spans.add(
            trace_id=RANDOM.randbytes(16),
            span_id=RANDOM.randbytes(8),
            name="GET /cart",
            kind=2,
            start_time_unix_nano=START_UNIX_NANO + n,
            end_time_unix_nano=START_UNIX_NANO + 5_000_000 + n,
        )
        for key in range(6):
            attribute = span.attributes.add(key=f"http.request.attribute.{key}")
            attribute.value.string_value = "v" * RANDOM.randint(5, 25)
    return built.SerializeToString()


def as_objects(body: bytes) -> tuple[bytes, int]:
    """The same with the library: the rule for an app that sets none of our keys."""
    built = ExportTraceServiceRequest.FromString(body)
    items = 0
    for resource_spans in built.resource_spans:
        for key, value in IDENTITY:
            resource_spans.resource.attributes.add(key=key).value.string_value = value
        items += sum(len(scope.spans) for scope in resource_spans.scope_spans)
    return built.SerializeToString(), items


def us(call: Callable[[], object], rounds: int) -> float:
    """The best of five averages: the machine has other things to do."""
    best = float("inf")
    for _ in range(5):
        begin = time.perf_counter()
        for _ in range(rounds):
            call()
        best = min(best, (time.perf_counter() - begin) / rounds)
    return best * 1e6


def as_json(body: bytes) -> bytes:
    """OTLP/JSON: protobuf's, with ids in hex."""
    document = MessageToDict(ExportTraceServiceRequest.FromString(body))
    for resource_spans in document["resourceSpans"]:
        for scope in resource_spans["scopeSpans"]:
            for span in scope["spans"]:
                span.update(traceId="ab" * 16, spanId="cd" * 8)
    return json.dumps(document).encode()


def as_later(body: bytes) -> bytes:
    """Its time stamps moved by a day."""
    return rebase(
        Signal.TRACES,
        body,
        DAY_NANO,
        not_before=START_UNIX_NANO,
        not_after=START_UNIX_NANO + DAY_NANO,
    )


def main() -> None:
    """Print the table, or check the shape."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    enricher = Enricher(IDENTITY, own_instance_id=IDENTITY[4][1])
    bodies = {spans: request(spans) for spans in SIZES}
    for spans, body in bodies.items():
        expected, items = as_objects(body)
        admitted = enricher.admit(Signal.TRACES, body)
        assert admitted.items == items == count(Signal.TRACES, body) == spans
        assert ExportTraceServiceRequest.FromString(
            admitted.body
        ) == ExportTraceServiceRequest.FromString(expected)
        assert count(Signal.TRACES, to_protobuf(Signal.TRACES, as_json(body))) == spans
        half = enricher.admit(Signal.TRACES, body, sample_rate=0.5)
        assert half.items + half.sampled_out_items == spans
        assert sum(n for _, n in split(Signal.TRACES, body, len(body) // 2)) == spans
        full(Signal.TRACES, body)
        later = ExportTraceServiceRequest.FromString(as_later(mark(Signal.TRACES, body)))
        last = later.resource_spans[0].scope_spans[0].spans[-1]
        assert last.start_time_unix_nano == START_UNIX_NANO + DAY_NANO + spans - 1
        assert later.resource_spans[0].resource.attributes[-1].value.bool_value
    if quick:
        return
    print("us per request of" + "".join(f"{spans:>10}" for spans in SIZES) + " spans")
    rows: dict[str, Callable[[bytes], object]] = {
        "enriched as bytes": lambda body: enricher.admit(Signal.TRACES, body),
        "enriched with upb": as_objects,
        "bytes, sampled 0.5": lambda body: enricher.admit(Signal.TRACES, body, sample_rate=0.5),
        "validate: full": lambda body: full(Signal.TRACES, body),
        "JSON to protobuf": lambda body: to_protobuf(Signal.TRACES, body),
        "clock.synced": lambda body: mark(Signal.TRACES, body),
        "time stamps moved": as_later,
        "count, any valid": lambda body: count(Signal.TRACES, body),
    }
    measured: dict[str, list[float]] = {}
    for name, call in rows.items():
        measured[name] = []
        for spans, body in bodies.items():
            given = as_json(body) if name.startswith("JSON") else body
            rounds = max(20, 8000 // spans)
            measured[name].append(us(partial(call, given), rounds))
    for name, row in measured.items():
        print(f"{name:17}" + "".join(f"{value:10.1f}" for value in row))
    ratios = [
        upb / ours
        for ours, upb in zip(
            measured["enriched as bytes"], measured["enriched with upb"], strict=True
        )
    ]
    print("upb / bytes      " + "".join(f"{ratio:10.1f}" for ratio in ratios))


if __name__ == "__main__":
    main()
