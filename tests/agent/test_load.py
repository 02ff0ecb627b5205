"""otel-agent load: options, bodies, and the open loop on fake time."""

import asyncio
import io
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from edge_agent.exporter.retry import Delivered, Denied, Outcome, Rejected, Retry
from edge_agent.load import command
from edge_agent.load.bodies import Bodies
from edge_agent.load.command import GRACE_S, Load, send, show_progress
from edge_agent.load.options import Options, options
from edge_agent.load.report import Latencies, Report
from edge_agent.otlp.signal import Signal
from edge_agent.settings import ConfigError, Endpoint
from edge_agent.stop import STOP_SIGNALS, StopRequest
from edge_agent.transport.server_tls import PemFile, server_context
from tests.fakes import clock
from tests.fakes.certificates import Authority
from tests.fakes.collector import Answer, FakeCollector, Received, ServerTls
from tests.fakes.http_collector import FakeHttpCollector
from tests.fakes.programs import ROOT, free_port

NOW = 1_767_688_640_510_000_000


@pytest.fixture(autouse=True)
def _signals_stay_as_they_were() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    yield
    for number, action in before.items():
        signal.signal(number, action)


def test_the_agent_does_not_pay_for_it() -> None:
    """Imported by its command alone."""
    script = (
        "import sys, edge_agent.agent; print([m for m in sys.modules if 'edge_agent.load' in m])"
    )
    process = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert process.stdout == "[]\n"


# ---- options ------------------------------------------------------------------------------------


def test_without_flags_it_is_a_hundred_requests_a_second_to_localhost() -> None:
    """No configuration of the agent is needed."""
    assert options({}) == Options(
        endpoint=Endpoint("http", "localhost", 4317),
        protocol="grpc",
        signals=(Signal.TRACES,),
        rate_per_s=100,
        duration_s=60.0,
        items=8,
        item_bytes=0,
        connections=4,
        gzip=False,
    )


def test_flags_change_it() -> None:
    """All of them."""
    asked = options(
        {
            "--endpoint": "https://gateway/otlp/",
            "--protocol": "http/protobuf",
            "--signal": "logs,Traces",
            "--rate": "1000",
            "--duration": "1h30m",
            "--items": "512",
            "--size": "2KiB",
            "--connections": "3",
            "--gzip": "",
            "--certificate": "/ca.pem",
            "--client-certificate": "/app.pem",
            "--client-key": "/app.key",
        }
    )
    assert asked == Options(
        endpoint=Endpoint("https", "gateway", 443, "/otlp"),
        protocol="http/protobuf",
        signals=(Signal.LOGS, Signal.TRACES),
        rate_per_s=1000,
        duration_s=5400.0,
        items=512,
        item_bytes=2048,
        connections=3,
        gzip=True,
        certificate="/ca.pem",
        client_certificate="/app.pem",
        client_key="/app.key",
    )


def test_over_http_it_goes_to_4318_on_more_connections() -> None:
    """HTTP/1.1 has one request in flight on each."""
    asked = options({"--protocol": "http/protobuf"})
    assert asked.endpoint == Endpoint("http", "localhost", 4318)
    assert asked.connections == 16


def test_a_bare_host_is_taken_without_tls() -> None:
    """As one tries things out."""
    assert options({"--endpoint": "gateway"}).endpoint == Endpoint("http", "gateway", 4317)


@pytest.mark.parametrize(
    ("flag", "value", "message"),
    [
        ("--rate", "0", "--rate=0 (command line): below 1; raise it"),
        (
            "--rate",
            "1e3",
            "--rate=1e3 (command line): not a whole number; write it in digits alone",
        ),
        (
            "--duration",
            "60",
            "--duration=60 (command line): has no unit; write 60s for seconds, 60ms for"
            " milliseconds",
        ),
        (
            "--signal",
            "spans",
            "--signal=spans (command line): not known; write one of metrics, traces, logs",
        ),
        (
            "--protocol",
            "http",
            "--protocol=http (command line): not known; write one of grpc, http/protobuf",
        ),
        (
            "--endpoint",
            "ftp://x",
            "--endpoint=ftp://x (command line): scheme ftp is not known; write http:// or https://",
        ),
    ],
)
def test_what_cannot_be_used_is_named(
    flag: str, value: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whole messages, and the exit code of usage."""
    with pytest.raises(ConfigError) as caught:
        options({flag: value})
    assert str(caught.value) == message
    assert command.run({flag: value}, StopRequest(), as_json=False) == 2
    assert capsys.readouterr().err == f"otel-agent load: {message}\n"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            {"--certificate": "/ca.pem", "--endpoint": "http://gateway"},
            "--certificate=/ca.pem (command line): http://gateway:80 has no TLS; write https://"
            " into --endpoint",
        ),
        (
            {"--client-key": "/a.key", "--endpoint": "https://gateway"},
            "--client-key=/a.key (command line): needs --client-certificate; set it too",
        ),
        (
            {"--client-certificate": "/a.pem", "--endpoint": "https://gateway"},
            "--client-certificate=/a.pem (command line): needs --client-key; set it too",
        ),
    ],
)
def test_files_of_tls_go_with_tls_and_with_each_other(flags: dict[str, str], message: str) -> None:
    """Said before anything is sent."""
    with pytest.raises(ConfigError) as caught:
        options(flags)
    assert str(caught.value) == message


# ---- bodies -------------------------------------------------------------------------------------


def of_one_resource(groups: Any) -> Any:
    """The one group; its Resource must be the load's own."""
    (group,) = groups
    attributes = {pair.key: pair.value.string_value for pair in group.resource.attributes}
    assert attributes["service.name"] == "otel-agent-load"
    assert attributes["service.version"] == "1.2.3"
    assert len(attributes["service.instance.id"]) == 36
    return group


def test_spans_are_numbered_and_have_ids_of_their_own() -> None:
    """Names, attributes and valid random ids."""
    bodies = Bodies("1.2.3", items=3)
    spans = []
    for first in (1, 4):
        request = ExportTraceServiceRequest.FromString(bodies.body(Signal.TRACES, first, NOW))
        (scope,) = of_one_resource(request.resource_spans).scope_spans
        spans += scope.spans
    assert [span.name for span in spans] == [f"N{n:08d}" for n in range(1, 7)]
    assert [span.attributes[0].key for span in spans] == ["load.sequence"] * 6
    assert [span.attributes[0].value.int_value for span in spans] == [1, 2, 3, 4, 5, 6]
    assert {(len(span.trace_id), len(span.span_id)) for span in spans} == {(16, 8)}
    assert len({span.trace_id for span in spans}) == len({span.span_id for span in spans}) == 6
    assert {span.end_time_unix_nano for span in spans} == {NOW}
    assert {span.start_time_unix_nano for span in spans} == {NOW - 1_000_000}


def test_log_records_are_numbered() -> None:
    """In their body and an attribute."""
    body = Bodies("1.2.3", items=2).body(Signal.LOGS, 9, NOW)
    request = ExportLogsServiceRequest.FromString(body)
    (scope,) = of_one_resource(request.resource_logs).scope_logs
    assert [record.body.string_value for record in scope.log_records] == ["N00000009", "N00000010"]
    assert [record.attributes[0].value.int_value for record in scope.log_records] == [9, 10]
    assert {record.time_unix_nano for record in scope.log_records} == {NOW}


def test_data_points_have_their_number_as_value() -> None:
    """The series stay as many as a request has items."""
    bodies = Bodies("1.2.3", items=2)
    series = set()
    numbers = []
    for first in (1, 3):
        request = ExportMetricsServiceRequest.FromString(bodies.body(Signal.METRICS, first, NOW))
        (scope,) = of_one_resource(request.resource_metrics).scope_metrics
        (metric,) = scope.metrics
        assert metric.name == "load.sequence"
        for point in metric.gauge.data_points:
            numbers.append(point.as_int)
            series.add(point.attributes[0].value.int_value)
            assert point.time_unix_nano == NOW
    assert numbers == [1, 2, 3, 4]
    assert series == {0, 1}


@pytest.mark.parametrize("kind", Signal)
@pytest.mark.parametrize("size", [500, 501, 20_000])
def test_items_are_padded_to_about_the_size_asked_for(kind: Signal, size: int) -> None:
    """To within the difference of what signals need around it."""
    short = len(Bodies("1", items=10, item_bytes=200).body(kind, 1, NOW))
    long = len(Bodies("1", items=10, item_bytes=size).body(kind, 1, NOW))
    assert (long - short) / 10 == pytest.approx(size - 200, abs=10)
    assert len(Bodies("1", items=1, item_bytes=10).body(kind, 1, NOW)) == len(
        Bodies("1", items=1).body(kind, 1, NOW)
    )


# ---- the open loop ------------------------------------------------------------------------------


class Peer:
    """A client whose calls take `takes_s`, and answer what `answer` says of their number."""

    def __init__(
        self, takes_s: float = 0.001, answer: Callable[[int], Outcome] | None = None
    ) -> None:
        self.takes_s = takes_s
        self.answer = answer or (lambda _: Delivered(0.0))
        self.times: list[float] = []
        self.signals: list[Signal] = []
        self.names: list[str] = []
        self.open = self.most_open = 0
        self.closed = False

    async def export(self, signal: Signal, body: bytes) -> Outcome:
        number = len(self.times)
        self.times.append(asyncio.get_running_loop().time())
        self.signals.append(signal)
        if signal is Signal.TRACES:
            request = ExportTraceServiceRequest.FromString(body)
            self.names += [span.name for span in request.resource_spans[0].scope_spans[0].spans]
        self.open += 1
        self.most_open = max(self.open, self.most_open)
        try:
            await asyncio.sleep(self.takes_s)
        finally:
            self.open -= 1
        return self.answer(number)

    def reconnect(self) -> None:
        pass

    async def close(self) -> None:
        self.closed = True


def load_of(*peers: Peer, **flags: str) -> Load:
    """A load of two spans a request through `peers`."""
    asked = options({"--items": "2"} | {f"--{name}": value for name, value in flags.items()})
    return Load(asked, peers, Bodies("1", items=asked.items))


def test_requests_leave_at_their_times_and_numbers_have_no_gaps() -> None:
    """However long an answer takes."""

    async def main() -> None:
        peer = Peer(takes_s=0.7)
        load = load_of(peer, rate="10", duration="2s")
        start_s = asyncio.get_running_loop().time()
        await load.run()
        assert [round(at - start_s, 6) for at in peer.times] == [n / 10 for n in range(20)]
        assert peer.names == [f"N{n:08d}" for n in range(1, 41)]
        report = load.report
        assert (report.requests, report.sent, report.accepted) == (20, 40, 40)
        assert (report.not_sent, report.all_accepted) == (0, True)
        assert report.elapsed_s == pytest.approx(2.0)
        assert report.rate_per_s == pytest.approx(10.0)
        assert report.latencies.quantile_s(0.99) == pytest.approx(0.7, rel=0.03)

    clock.run(main())


def test_signals_take_turns() -> None:
    """--signal traces,logs."""

    async def main() -> None:
        peer = Peer()
        load = load_of(peer, rate="4", duration="1s", signal="traces,logs")
        await load.run()
        assert peer.signals == [Signal.TRACES, Signal.LOGS] * 2

    clock.run(main())


def test_what_finds_no_room_in_flight_is_not_sent_and_said_so() -> None:
    """Open loop: a slow receiver does not slow the clock, and memory stays bounded."""

    async def main() -> None:
        peer = Peer(takes_s=0.5)
        load = load_of(peer, rate="10", duration="10s", protocol="http/protobuf")
        await load.run()
        report = load.report
        assert peer.most_open == 1
        # One takes half a second: two a second of the ten, and a second's worth that waited.
        assert 18 <= report.requests <= 22
        assert report.not_sent + report.sent == 200
        assert peer.names == [f"N{n:08d}" for n in range(1, report.sent + 1)]
        assert not report.all_accepted
        # From when each was due.
        assert report.latencies.quantile_s(0.99) == pytest.approx(1.5, abs=0.15)

    clock.run(main())


def test_over_grpc_a_connection_has_many_in_flight() -> None:
    """Streams share it; the connections share the load."""

    async def main() -> None:
        peers = [Peer(takes_s=3600), Peer(takes_s=3600)]
        load = load_of(*peers, rate="100", duration="2s")
        await load.run()
        assert [peer.most_open for peer in peers] == [32, 32]
        assert load.report.not_sent == 2 * (200 - 64)

    clock.run(main())


def test_stop_ends_it_early_with_what_is_in_flight_answered() -> None:
    """Ctrl-C: nothing is counted as not sent."""

    async def main() -> None:
        peer = Peer(takes_s=1)
        load = load_of(peer, rate="10", duration="1h")
        asyncio.get_running_loop().call_later(2.05, load.stop)
        await load.run()
        report = load.report
        assert (report.requests, report.accepted, report.not_sent) == (21, 42, 0)
        assert report.all_accepted

    clock.run(main())


def test_what_has_no_answer_by_the_end_failed() -> None:
    """The end does not wait for a receiver that never answers."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        start_s = loop.time()
        load = load_of(Peer(takes_s=10**6), rate="1", duration="3s")
        await load.run()
        assert load.report.failed == {"no answer by the end": 6}
        assert load.report.sent == 6
        assert loop.time() - start_s == pytest.approx(3 + GRACE_S)

    clock.run(main())


def test_a_bug_of_ours_is_loud() -> None:
    """It ends the load with its traceback."""

    async def main() -> None:
        def broken(_number: int) -> Outcome:
            raise ZeroDivisionError

        with pytest.raises(ExceptionGroup):
            await load_of(Peer(answer=broken)).run()

    clock.run(main())


# ---- the report ---------------------------------------------------------------------------------

OUTCOMES: Mapping[Outcome, int] = {
    Delivered(0.1): 1000,
    Delivered(0.1, rejected_items=3, message="too old"): 1,
    Retry("unavailable: come back"): 20,
    Retry("http_503"): 2,
    Rejected("resource_exhausted", "too large", too_large=True): 4,
    Denied("unauthenticated", "who?"): 5,
    Retry("deadline_exceeded: no answer within 10 s"): 6,
    Retry("127.0.0.1:4317: Connection refused\n"): 7,
}


def reported() -> Report:
    """A report of OUTCOMES, 10 items each."""
    report = Report(requests=1045, sent=10450, not_sent=40, elapsed_s=10.45)
    for outcome, times in OUTCOMES.items():
        for _ in range(times):
            report.count(outcome, 10, 0.25)
    return report


def test_every_outcome_is_accepted_refused_or_failed() -> None:
    """sent = accepted + refused + failed; a status is the receiver's word, silence is not."""
    report = reported()
    assert report.accepted == 10007
    assert report.refused == {
        "partial_success": 3,
        "unavailable": 200,
        "http_503": 20,
        "resource_exhausted": 40,
        "unauthenticated": 50,
    }
    assert report.failed == {
        "deadline_exceeded: no answer within 10 s": 60,
        "127.0.0.1:4317: Connection refused\n": 70,
    }
    assert report.sent == report.accepted + report.refused.total() + report.failed.total()


def test_the_text_says_it_all() -> None:
    """Whole output."""
    assert reported().text(options({})) == (
        "sent      10,450 spans in 1,045 requests, 10.4 s\n"
        "accepted  10,007\n"
        "refused   313\n"
        "          200 unavailable\n"
        "          50 unauthenticated\n"
        "          40 resource_exhausted\n"
        "          20 http_503\n"
        "          3 partial_success\n"
        "failed    130\n"
        "          70 127.0.0.1:4317: Connection refused\\n\n"
        "          60 deadline_exceeded: no answer within 10 s\n"
        "not sent  40: too many in flight; raise --connections or lower --rate\n"
        "rate      100.0 requests a second of 100\n"
        "latency   p50 250.0 ms, p99 250.0 ms\n"
    )
    assert Report().text(options({"--signal": "logs,metrics"})) == (
        "sent      0 items in 0 requests, 0.0 s\n"
        "accepted  0\n"
        "refused   0\n"
        "failed    0\n"
        "not sent  0\n"
        "rate      0.0 requests a second of 100\n"
        "latency   none was accepted\n"
    )


def test_the_json_has_the_same_numbers() -> None:
    """--json."""
    values = json.loads(reported().json(options({"--signal": "logs"})))
    assert values == {
        "endpoint": "http://localhost:4317",
        "protocol": "grpc",
        "signals": ["logs"],
        "requests": 1045,
        "sent": 10450,
        "accepted": 10007,
        "refused": dict(reported().refused),
        "failed": dict(reported().failed),
        "not_sent": 40,
        "elapsed_s": 10.45,
        "rate_per_s": 100.0,
        "asked_rate_per_s": 100,
        "latency_ms": {"p50": 250.028, "p99": 250.028},
    }
    assert json.loads(Report().json(options({})))["latency_ms"] == {"p50": None, "p99": None}


def test_many_different_reasons_become_one() -> None:
    """Bounded, whatever a network says."""
    report = Report()
    for n in range(100):
        report.fail(f"reason {n}", 1)
    assert len(report.failed) == 9
    assert report.failed["other reasons"] == 92


def test_quantiles_are_right_to_a_fiftieth() -> None:
    """Over six orders of magnitude."""
    latencies = Latencies()
    for n in range(1, 1001):
        latencies.add(n / 1000)
    for share in (0.01, 0.5, 0.99, 1.0):
        assert latencies.quantile_s(share) == pytest.approx(share, rel=0.021)
    latencies.add(0.0)
    assert latencies.quantile_s(0.0001) == pytest.approx(1e-6, rel=0.03)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_takes_one_line_of_a_terminal_and_one_in_ten_seconds_elsewhere() -> None:
    """How far it is, and the rate since the line before."""

    async def main() -> None:
        report = Report()
        outs = [Terminal(), io.StringIO()]
        tasks = [asyncio.create_task(show_progress(report, out)) for out in outs]
        await asyncio.sleep(0.5)
        for second in range(1, 12):
            report.requests, report.sent, report.elapsed_s = 100 * second, 800 * second, second
            await asyncio.sleep(1)
        rest = "accepted 0  refused 0  failed 0  not sent 0"
        assert outs[0].getvalue() == "".join(
            f"\r{n}s  sent {800 * n:,}  {rest}  100 requests/s\x1b[K" for n in range(1, 12)
        )
        assert outs[1].getvalue() == f"10s  sent 8,000  {rest}  100 requests/s\n"
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    clock.run(main())


# ---- the whole command --------------------------------------------------------------------------


def numbers(received: list[Received]) -> list[int]:
    """The numbers of all spans that arrived, in order of number."""
    return sorted(
        span.attributes[0].value.int_value
        for one in received
        for span in one.request.resource_spans[0].scope_spans[0].spans
    )


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
async def test_a_load_arrives_until_ctrl_c(protocol: str) -> None:
    """Over real sockets: every number once, the refused ones named; the rest of stderr is clean."""
    collector: Any = (
        FakeCollector([Answer(), Answer("UNAVAILABLE", "later")])
        if protocol == "grpc"
        else FakeHttpCollector([200, 503])
    )
    async with collector:
        where = collector.endpoint
        asked = options(
            {
                "--endpoint": f"http://{where.authority}",
                "--protocol": protocol,
                "--rate": "200",
                "--connections": "2",
                "--gzip": "",
            }
        )
        err = Terminal()
        task = asyncio.create_task(send(asked, StopRequest(), err))
        await collector.wait_for(lambda received: len(received) >= 20)
        signal.raise_signal(signal.SIGINT)
        report = await task
        assert numbers(collector.received) == list(range(1, report.sent + 1))
    code = "unavailable" if protocol == "grpc" else "http_503"
    assert report.refused == {code: 8}
    assert report.accepted == report.sent - 8
    assert err.getvalue().endswith("\r\x1b[K")


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
@pytest.mark.parametrize("wrong", ["", "stranger", "untrusted"])
async def test_a_load_goes_over_tls_with_a_client_certificate(
    protocol: str, wrong: str, tmp_path: Path
) -> None:
    """To a receiver that wants one of its own authority, and proves to be of the one we trust."""
    authority, other = Authority(tmp_path / "ca"), Authority(tmp_path / "other", "another")
    server, client = authority.issue("localhost"), authority.issue("app")
    if wrong == "stranger":
        client = other.issue("app")
    if protocol == "grpc":
        collector: Any = FakeCollector(tls=ServerTls(server, authority.certificate))
    else:
        names = ("receiver.tls.certificate", "receiver.tls.key", "receiver.tls.client_ca")
        paths = (server.certificate, server.key, authority.certificate)
        files = [PemFile(name, str(path)) for name, path in zip(names, paths, strict=True)]
        collector = FakeHttpCollector(tls=server_context(*files))
    async with collector:
        asked = options(
            {
                "--endpoint": f"https://localhost:{collector.endpoint.port}",
                "--protocol": protocol,
                "--duration": "1s",
                "--rate": "5",
                "--connections": "1",
                "--certificate": str((other if wrong == "untrusted" else authority).certificate),
                "--client-certificate": str(client.certificate),
                "--client-key": str(client.key),
            }
        )
        report = await send(asked, StopRequest(), io.StringIO())
        assert len(collector.received) == (0 if wrong else report.requests)
    assert report.requests > 0
    assert report.all_accepted is (not wrong)


def test_a_load_to_nobody_fails_with_the_reason(capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 1; asked to stop before it began, it sends one request."""
    stop = StopRequest()
    stop.take_signals()
    signal.raise_signal(signal.SIGINT)
    endpoint = f"127.0.0.1:{free_port()}"
    assert command.run({"--endpoint": endpoint, "--items": "3"}, stop, as_json=True) == 1
    values = json.loads(capsys.readouterr().out)
    assert (values["requests"], values["sent"], values["accepted"]) == (1, 3, 0)
    ((reason, count),) = values["failed"].items()
    assert endpoint in reason
    assert count == 3


@pytest.mark.parametrize(("accepted", "code"), [(8, 0), (7, 1)])
def test_the_exit_code_says_whether_all_was_accepted(
    accepted: int,
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """0 if it was."""

    async def sent(asked: Options, _stop: StopRequest, _err: object) -> Report:
        return Report(requests=1, sent=asked.items, accepted=accepted, elapsed_s=1.0)

    monkeypatch.setattr(command, "send", sent)
    assert command.run({}, StopRequest(), as_json=False) == code
    assert capsys.readouterr().out.splitlines()[1] == f"accepted  {accepted}"
