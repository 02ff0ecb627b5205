"""Log records as we write them, held against opentelemetry-proto."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord, SeverityNumber

from edge_agent.otlp import resource
from edge_agent.otlp.logs import Severity, log_record, logs_request
from tests.agent.otlp.test_metrics import ATTRIBUTES, TEXTS, set_value

RESOURCE = resource.resource([("service.name", "otel-agent"), ("node.id", "edge-01")])
TIMES = st.integers(0, 2**64 - 1)


def same(left: LogRecord, right: LogRecord) -> bool:
    """Equal also where an attribute is NaN."""
    return left.SerializeToString(deterministic=True) == right.SerializeToString(deterministic=True)


@given(
    body=st.text(st.characters(exclude_categories=["Cs"])),
    severity=st.sampled_from(Severity),
    time=TIMES,
    observed=TIMES,
    pairs=ATTRIBUTES,
)
def test_a_record_means_what_was_put_in(
    body: str,
    severity: Severity,
    time: int,
    observed: int,
    pairs: tuple[tuple[str, str | float], ...],
) -> None:
    """Parsed by the library, equal to what the library would build."""
    expected = LogRecord(
        time_unix_nano=time,
        observed_time_unix_nano=observed,
        severity_number=SeverityNumber.ValueType(severity),
        severity_text=severity.name,
    )
    expected.body.string_value = body
    for key, value in pairs:
        set_value(expected.attributes.add(key=key).value, value)
    encoded = log_record(
        body,
        severity=severity,
        time_unix_nano=time,
        observed_time_unix_nano=observed,
        pairs=pairs,
    )
    assert same(LogRecord.FromString(encoded), expected)


@given(st.lists(st.tuples(st.sampled_from(["agent", "host.sampler", "receiver"]), TEXTS)))
def test_records_are_grouped_by_scope_in_their_order(entries: list[tuple[str, str]]) -> None:
    """Scopes in the order of their first record; nothing lost, nothing twice."""
    encoded = [
        (
            name,
            log_record(body, severity=Severity.INFO, time_unix_nano=1, observed_time_unix_nano=2),
        )
        for name, body in entries
    ]
    request = ExportLogsServiceRequest.FromString(logs_request(RESOURCE, "1.2.3", encoded))
    (group,) = request.resource_logs
    assert group.resource.SerializeToString() == RESOURCE
    names = list(dict.fromkeys(name for name, _ in entries))
    assert [(s.scope.name, s.scope.version) for s in group.scope_logs] == [
        (name, "1.2.3") for name in names
    ]
    for scope in group.scope_logs:
        bodies = [record.body.string_value for record in scope.log_records]
        assert bodies == [body for name, body in entries if name == scope.scope.name]


@pytest.mark.parametrize("severity", Severity, ids=lambda severity: severity.name)
def test_the_names_of_severities_are_the_data_models(severity: Severity) -> None:
    """Number and short name, as the library has them."""
    assert SeverityNumber.Name(SeverityNumber.ValueType(severity)) == (
        f"SEVERITY_NUMBER_{severity.name}"
    )
