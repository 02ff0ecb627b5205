"""/metrics: the whole text against a recorded one, and the contract's names one by one."""

import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.health.prometheus import Receivers, Seeds, exposition
from edge_agent.health.report import State
from edge_agent.ledger import Ledger
from edge_agent.otlp.signal import Signal
from tests.agent.health.states import FAILING, HEALTHY, UNTRIED

GOLDEN = Path(__file__).parents[2] / "golden" / "health" / "metrics.prom"

SEEDS = Seeds(
    cpu_percent=12.5,
    memory_used_bytes=1_234_567_890,
    disk_used_bytes={"/": 4_000_000_000, '/mnt/a "b"\\c\nd': 1},
    network_received_bytes=987_654_321,
    network_transmitted_bytes=123_456_789,
)


def ledger() -> Ledger:
    """Some of everything."""
    book = Ledger()
    metrics = book.account("collector", Signal.METRICS)
    metrics.accepted.add(1000, 64_000)
    metrics.delivered.add(900, 57_600)
    metrics.reject("invalid_argument", 5, 320)
    metrics.drop("queue_full", 7, 448)
    metrics.drop("too_large", 1, 64)
    spans = book.account("collector", Signal.TRACES)
    spans.accepted.add(50, 10_000)
    spans.delivered.add(40, 8_000)
    spans.sampled_out.add(2, 400)
    spilled = book.account("adapter", Signal.TRACES)
    spilled.delivered.add(3, 600)
    return book


def text(
    state: State = HEALTHY,
    seeds: Seeds = SEEDS,
    *,
    customer_id: str = "acme",
    node_id: str = "edge-01",
) -> str:
    """/metrics of `state`."""
    return exposition(
        state,
        ledger(),
        seeds,
        customer_id=customer_id,
        node_id=node_id,
        sampler_success={"memory": True, "cpu": False},
        receivers=Receivers(
            refused={"UNAVAILABLE": 3, "INVALID_ARGUMENT": 1},
            closed={("http", "idle"): 2, ("grpc", "rapid_reset"): 1},
        ),
    )


def samples(metrics: str, name: str) -> dict[str, str]:
    """The values of `name` by their label text."""
    found = re.findall(rf"^{name}(\{{.*\}}) (\S+)$", metrics, re.MULTILINE)
    return dict(found)


OWN = 'customer_id="acme",node_id="edge-01"'


def test_the_whole_text_is_as_recorded() -> None:
    """Names, order, HELP, TYPE, labels and values."""
    assert text() == GOLDEN.read_text()


@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [
        ("system_cpu_usage", "untyped", {f"{{{OWN}}}": "12.5"}),
        ("system_memory_usage_bytes", "untyped", {f"{{{OWN}}}": "1234567890"}),
        (
            "system_disk_usage_bytes",
            "untyped",
            {
                f'{{{OWN},mount_point="/"}}': "4000000000",
                f'{{{OWN},mount_point="/mnt/a \\"b\\"\\\\c\\nd"}}': "1",
            },
        ),
        (
            "system_network_io_bytes",
            "untyped",
            {
                f'{{{OWN},direction="tx"}}': "123456789",
                f'{{{OWN},direction="rx"}}': "987654321",
            },
        ),
        ("agent_buffer_size", "gauge", {f"{{{OWN}}}": "512"}),
        ("agent_buffer_usage_percent", "gauge", {f"{{{OWN}}}": "25.0"}),
        ("agent_collector_reachable", "gauge", {f"{{{OWN}}}": "1"}),
        ("agent_collector_latency_ms", "gauge", {f"{{{OWN}}}": "12.04"}),
        ("agent_spans_sent_total", "counter", {f"{{{OWN}}}": "43"}),
        ("agent_spans_dropped_total", "counter", {f"{{{OWN}}}": "0"}),
        ("agent_memory_usage_mb", "gauge", {f"{{{OWN}}}": "87.3"}),
    ],
)
def test_each_name_of_the_contract_has_its_labels_type_and_unit(
    name: str, kind: str, expected: dict[str, str]
) -> None:
    """Exactly these labels: queries in the field aggregate over them."""
    metrics = text()
    assert samples(metrics, name) == expected
    assert f"# TYPE {name} {kind}\n" in metrics
    assert f"# HELP {name} " in metrics


@pytest.mark.parametrize("state", [replace(HEALTHY, collector=UNTRIED)])
def test_before_the_first_attempt_the_collector_is_not_reachable(state: State) -> None:
    """0 at start, and a latency that is not a number."""
    assert samples(text(state), "agent_collector_reachable") == {f"{{{OWN}}}": "0"}
    assert samples(text(state), "agent_collector_latency_ms") == {f"{{{OWN}}}": "NaN"}


def test_a_failing_collector_keeps_its_last_latency() -> None:
    """Reachable says whether the last attempt succeeded."""
    metrics = text(replace(HEALTHY, collector=FAILING))
    assert samples(metrics, "agent_collector_reachable") == {f"{{{OWN}}}": "0"}
    assert samples(metrics, "agent_collector_latency_ms") == {f"{{{OWN}}}": "12.04"}


def test_without_a_collector_there_is_nothing_to_reach() -> None:
    """The alert on `agent_collector_reachable == 0` must not fire."""
    metrics = text(replace(HEALTHY, collector=None))
    assert "agent_collector_reachable" not in metrics


def test_before_the_first_sample_the_machine_is_absent() -> None:
    """Not zero."""
    metrics = text(seeds=Seeds())
    assert "system_" not in metrics
    assert "agent_buffer_size" in metrics


def test_dropped_spans_are_those_of_health() -> None:
    """One number in both places."""
    lossy = replace(HEALTHY, buffer=replace(HEALTHY.buffer, dropped_spans=7))
    assert samples(text(lossy), "agent_spans_dropped_total") == {f"{{{OWN}}}": "7"}


def test_every_row_of_the_ledger_is_shown_in_items_and_bytes() -> None:
    """So that whoever scrapes can check that the ledger balances."""
    metrics = text()
    items = samples(metrics, "agent_items_total")
    row = (
        f'{{{OWN},destination="collector",signal="metrics",outcome="dropped",reason="queue_full"}}'
    )
    assert items[row] == "7"
    assert samples(metrics, "agent_bytes_total")[row] == "448"
    assert len(items) == sum(len(list(account.rows())) for account in ledger())


@pytest.mark.parametrize(
    ("value", "shown"),
    [(math.nan, "NaN"), (math.inf, "+Inf"), (-math.inf, "-Inf"), (0.1, "0.1"), (1e300, "1e+300")],
)
def test_values_are_written_as_prometheus_reads_them(value: float, shown: str) -> None:
    """Go's ParseFloat, and the words for what is not finite."""
    metrics = text(seeds=replace(SEEDS, cpu_percent=value))
    assert samples(metrics, "system_cpu_usage") == {f"{{{OWN}}}": shown}


@given(st.text(max_size=20))
def test_any_label_value_survives(customer_id: str) -> None:
    """Backslash, quote and line feed are escaped, everything else stands for itself."""
    metrics = text(customer_id=customer_id)
    line = next(
        line for line in metrics.split("\n") if line.startswith("agent_buffer_size{customer_id")
    )
    escaped = line[len('agent_buffer_size{customer_id="') : line.rindex('",node_id="edge-01"}')]
    unescaped = re.sub(r"\\(.)", lambda m: "\n" if m[1] == "n" else m[1], escaped, flags=re.DOTALL)
    assert unescaped == customer_id
    assert re.fullmatch(r'(?:[^"\\\n]|\\["\\n])*', escaped)
