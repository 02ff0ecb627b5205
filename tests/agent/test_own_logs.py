"""The agent's own log as OTLP, on fake time."""

import asyncio
import io
import logging
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord

from edge_agent import log
from edge_agent.otlp import resource
from edge_agent.own_logs import BURST, MAX_PENDING, OwnLogs
from tests.fakes import clock

RESOURCE = resource.resource([("service.name", "otel-agent"), ("node.id", "edge-01")])
NOW_UNIX_NANO = 1_767_688_640_510_000_000


@pytest.fixture(autouse=True)
def _logging_stays_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    before = (root.handlers[:], root.level, logging.getLogger("asyncio").level)
    yield
    root.handlers[:], level, of_asyncio = before
    root.setLevel(level)
    logging.getLogger("asyncio").setLevel(of_asyncio)


class Bench:
    """A started log, and what it handed on."""

    def __init__(self, level: str = "info") -> None:
        self.stderr = io.StringIO()
        log.start(level, journal=True, stream=self.stderr)
        loop = asyncio.get_running_loop()
        self.loop = loop
        self.given: list[tuple[float, bytes, int]] = []
        self.while_giving: Callable[[], None] = lambda: None
        self.own = OwnLogs(
            RESOURCE,
            "1.2.3",
            self.give,
            loop=loop,
            clock=loop.time,
            unix_nano=lambda: NOW_UNIX_NANO,
        )
        self.own.start()

    def give(self, body: bytes, items: int) -> None:
        self.given.append((self.loop.time(), body, items))
        self.while_giving()

    @property
    def records(self) -> list[tuple[str, LogRecord]]:
        """(scope, record) of all that was handed on, in order."""
        return [
            (scope.scope.name, record)
            for _, body, _ in self.given
            for scope in ExportLogsServiceRequest.FromString(body).resource_logs[0].scope_logs
            for record in scope.log_records
        ]

    @property
    def bodies(self) -> list[str]:
        return [record.body.string_value for _, record in self.records]


def on_fake_time(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """The test as pytest calls it, on a loop whose time is fake."""

    def run() -> None:
        clock.run(test())

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    return run


def plain(value: AnyValue) -> str | float:
    """The Python value of an attribute."""
    kind = value.WhichOneof("value")
    assert kind is not None
    found: str | float = getattr(value, kind)
    return found


@on_fake_time
async def test_a_record_leaves_as_what_stderr_shows() -> None:
    """Message, fields with their types, part, severity and times; stderr is not touched."""
    bench = Bench()
    log.Log("host.sampler").warning(
        "subject failed", subject="cpu", items=3, ratio=0.5, on=True, path=None, at=("a", 1)
    )
    await asyncio.sleep(2)
    ((scope, record),) = bench.records
    assert scope == "host.sampler"
    assert record.body.string_value == "subject failed"
    assert (record.severity_number, record.severity_text) == (13, "WARN")
    assert record.observed_time_unix_nano == NOW_UNIX_NANO
    assert record.time_unix_nano > 0
    assert {pair.key: plain(pair.value) for pair in record.attributes} == {
        "subject": "cpu", "items": 3, "ratio": 0.5, "on": True, "path": "None", "at": "('a', 1)",
    }  # fmt: skip
    assert bench.stderr.getvalue() == (
        "<4>host.sampler: subject failed subject=cpu items=3 ratio=0.5 on=True path=None"
        " at=\"('a', 1)\"\n"
    )
    request = ExportLogsServiceRequest.FromString(bench.given[0][1])
    assert request.resource_logs[0].resource.SerializeToString() == RESOURCE
    assert request.resource_logs[0].scope_logs[0].scope.version == "1.2.3"
    bench.own.close()


@pytest.mark.parametrize(
    ("level", "number", "text"),
    [
        (5, 1, "TRACE"),
        (logging.DEBUG, 5, "DEBUG"),
        (logging.INFO, 9, "INFO"),
        (25, 9, "INFO"),
        (logging.WARNING, 13, "WARN"),
        (logging.ERROR, 17, "ERROR"),
        (logging.CRITICAL, 21, "FATAL"),
        (60, 21, "FATAL"),
    ],
)
def test_every_level_has_a_severity(level: int, number: int, text: str) -> None:
    """Python's levels, and numbers between them, in the data model's ranges."""

    async def main() -> None:
        bench = Bench()
        logging.getLogger().setLevel(1)
        logging.getLogger("part").log(level, "said")
        bench.own.close()
        ((_, record),) = bench.records
        assert (record.severity_number, record.severity_text) == (number, text)

    clock.run(main())


@on_fake_time
async def test_below_the_level_nothing_is_sent() -> None:
    """telemetry.logs.level is one floor for both."""
    bench = Bench("warning")
    part = log.Log("part")
    part.info("no")
    part.warning("yes")
    bench.own.close()
    assert bench.bodies == ["yes"]


class OddError(Exception):
    """An exception of a module."""


@on_fake_time
async def test_an_exception_is_named_as_the_semantic_conventions_do() -> None:
    """exception.type, exception.message, exception.stacktrace."""
    bench = Bench()
    part = log.Log("part")
    for kind in (OddError, KeyError):
        try:
            raise kind("x")
        except kind as error:
            part.error("failed", exc_info=error)
    logging.getLogger("part").error("none there", exc_info=True)
    bench.own.close()
    odd, builtin, none = (
        {pair.key: plain(pair.value) for pair in record.attributes} for _, record in bench.records
    )
    assert odd["exception.type"] == f"{__name__}.OddError"
    assert odd["exception.message"] == "x"
    assert 'raise kind("x")' in str(odd["exception.stacktrace"])
    assert (builtin["exception.type"], builtin["exception.message"]) == ("KeyError", "'x'")
    assert none == {}


@on_fake_time
async def test_records_of_one_second_leave_together_and_then_there_is_no_timer() -> None:
    """A batch a second at most; an idle agent is not woken."""
    bench = Bench()
    start_s = bench.loop.time()
    part = log.Log("part")
    part.info("a")
    await asyncio.sleep(0.5)
    part.info("b")
    await asyncio.sleep(10)
    part.info("c")
    await asyncio.sleep(10)
    assert [(at - start_s, items) for at, _, items in bench.given] == [(1.0, 2), (11.5, 1)]
    assert bench.bodies == ["a", "b", "c"]
    assert bench.own._timer is None
    bench.own.close()


@pytest.mark.parametrize(
    "name", ["exporter", "exporter.grpc", "transport", "transport.dial", "asyncio"]
)
def test_the_export_path_stays_on_stderr(name: str) -> None:
    """An outage must not make records that wait because records cannot be delivered."""

    async def main() -> None:
        bench = Bench()
        log.Log(name).warning("the peer takes no data")
        log.Log("exporters").warning("no part of it")
        bench.own.close()
        assert bench.bodies == ["no part of it"]
        assert "the peer takes no data" in bench.stderr.getvalue()

    clock.run(main())


@on_fake_time
async def test_what_is_logged_while_a_batch_is_handed_on_stays_on_stderr() -> None:
    """By that thread alone; otherwise each batch could make the next."""
    bench = Bench()
    part = log.Log("part")

    def complain() -> None:
        part.warning("a consequence")
        other = threading.Thread(target=lambda: part.info("elsewhere"))
        other.start()
        other.join()
        bench.while_giving = lambda: None

    bench.while_giving = complain
    part.info("a")
    await asyncio.sleep(10)
    assert bench.bodies == ["a", "elsewhere"]
    assert "a consequence" in bench.stderr.getvalue()
    bench.own.close()


@on_fake_time
async def test_a_flood_is_cut_to_the_rate_and_what_is_missing_is_said() -> None:
    """A burst of 100, then ten a second; the next batch says how many are on stderr alone."""
    bench = Bench()
    part = log.Log("part")
    for n in range(BURST + 50):
        part.info(f"n{n}")
    await asyncio.sleep(1.5)
    for n in range(30):
        part.info(f"m{n}")
    await asyncio.sleep(60)
    part.info("calm")
    await asyncio.sleep(60)
    summary = "log records were not sent, there were too many; the agent's stderr has them"
    assert bench.bodies == [
        *(f"n{n}" for n in range(BURST)), summary, *(f"m{n}" for n in range(15)), summary, "calm",
    ]  # fmt: skip
    counts = [
        plain(record.attributes[0].value) for scope, record in bench.records if scope == "own_logs"
    ]
    assert counts == [50, 15]
    assert [items for _, _, items in bench.given] == [BURST + 1, 16, 1]
    assert bench.stderr.getvalue().count("\n") == BURST + 50 + 30 + 1
    bench.own.close()


@on_fake_time
async def test_threads_cannot_fill_memory_while_the_loop_stands_still() -> None:
    """MAX_PENDING records wait; the rest is counted."""
    bench = Bench()
    now_s = bench.loop.time()
    times = iter(range(10**6))
    bench.own._clock = lambda: now_s + next(times)
    part = log.Log("part")

    def flood() -> None:
        for _ in range(MAX_PENDING + 7):
            part.info("x")

    other = threading.Thread(target=flood)
    other.start()
    other.join()
    await asyncio.sleep(2)
    assert [items for _, _, items in bench.given] == [MAX_PENDING + 1]
    assert plain(bench.records[-1][1].attributes[0].value) == 7
    bench.own.close()


@on_fake_time
async def test_close_hands_on_what_is_pending_and_takes_no_more() -> None:
    """The word about the stop is sent, before the exporters drain."""
    bench = Bench()
    part = log.Log("part")
    part.info("stopping")
    bench.own.close()
    part.info("too late")
    await asyncio.sleep(10)
    bench.own.flush()
    assert bench.bodies == ["stopping"]


def test_a_loop_that_has_ended_is_no_error() -> None:
    """stderr has the record; logging never raises."""

    async def main() -> Bench:
        return Bench()

    bench = clock.run(main())
    log.Log("part").error("after the end")
    assert bench.stderr.getvalue() == "<3>part: after the end\n"
    bench.own.close()


def test_a_record_that_cannot_be_written_is_said_on_stderr(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A value whose text fails costs its own record."""

    class Broken:
        def __str__(self) -> str:
            raise ZeroDivisionError

    async def main() -> None:
        bench = Bench()
        logging.getLogger().handlers[:] = [bench.own]
        part = log.Log("part")
        part.info("broken", value=Broken())
        part.info("whole")
        bench.own.close()
        assert bench.bodies == ["whole"]

    clock.run(main())
    assert "ZeroDivisionError" in capsys.readouterr().err


@on_fake_time
async def test_a_long_text_keeps_its_beginning_and_end() -> None:
    """No record is large, whatever is logged."""
    bench = Bench()
    log.Log("part").info("long", text="a" * 10_000 + "z" * 10_000)
    bench.own.close()
    text = plain(bench.records[0][1].attributes[0].value)
    assert text == "a" * 4096 + " ... " + "z" * 4096


@given(
    message=st.text(),
    fields=st.dictionaries(
        st.text(min_size=1),
        st.text(st.characters(exclude_categories=["Cs"]))
        | st.integers()
        | st.floats(allow_nan=False)
        | st.booleans()
        | st.none(),
    ),
)
def test_whatever_is_logged_can_be_decoded(message: str, fields: dict[str, Any]) -> None:
    """By the library: lone surrogates, integers over 64 bits, any key."""

    async def main() -> None:
        bench = Bench()
        log.Log("part").info(message, **fields)
        bench.own.close()
        ((_, record),) = bench.records
        assert [plain(pair.value) for pair in record.attributes] == [
            min(max(value, -(2**63)), 2**63 - 1) if isinstance(value, int) else value
            if value is not None else "None"
            for value in fields.values()
        ]  # fmt: skip

    clock.run(main())
