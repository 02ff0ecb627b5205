"""Bodies become rows beside the store's thread, in slices, and none keeps the others waiting."""

import asyncio
import gzip
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest

from adapter import decode
from adapter import intake as intake_module
from adapter import slices as slices_module
from adapter.database import Database
from adapter.decode import MAX_PIECE_BYTES, TooLargeError
from adapter.intake import BusyError, Intake
from adapter.row import TTL_S
from adapter.rows import Outcome, Window
from adapter.slices import SLICE_SIZE, slices
from adapter.sqlite import SqliteStore
from edge_agent.otlp import wire
from edge_agent.transport import compression
from tests.adapter.build import NOW_NS, RESOURCE, filled, gauge, point, request, sample_body

DEADLINE_S = 20.0
MAX_BYTES = 20 * 1024 * 1024
WINDOW = Window.at(NOW_NS)
LARGE = request(
    *[gauge(point(time_ns=NOW_NS, attributes={"k": "v" * 400}), name=f"m{n}") for n in range(1000)]
).SerializeToString()


@dataclass
class Running:
    store: SqliteStore
    intake: Intake

    async def take(self, body: bytes, *, is_gzip: bool = False, is_json: bool = False) -> Outcome:
        return await self.intake.take(
            body, is_gzip=is_gzip, is_json=is_json, window=WINDOW, customers=None
        )


@asynccontextmanager
async def running(directory: Path) -> AsyncIterator[Running]:
    """An intake before a started store."""
    store = SqliteStore(directory, ttl_s=TTL_S, now_ns=lambda: NOW_NS)
    await store.start()
    intake = Intake(store, max_bytes=MAX_BYTES)
    try:
        async with asyncio.timeout(DEADLINE_S):
            yield Running(store, intake)
    finally:
        intake.close()
        await store.close()


def sliced(body: bytes, **given: Any) -> list[int]:
    """How many rows each slice has."""
    options = {"is_gzip": False, "is_json": False, "max_bytes": MAX_BYTES, "customers": None}
    found = slices(body, window=WINDOW, outcome=Outcome(), **(options | given))
    return [len(rows) for rows in found]


# ---- slices -----------------------------------------------------------------------------------


def test_a_usual_request_is_one_slice():
    """And one transaction; so is one of nothing."""
    assert sliced(sample_body(100, now_ns=NOW_NS)) == [100]
    assert sliced(b"") == [0]


def test_a_slice_is_bounded_in_rows_and_attributes():
    """However many a single data point makes of them."""

    def fill(metric: Any) -> None:
        data = metric.summary.data_points.add(time_unix_nano=NOW_NS)
        for _ in range(SLICE_SIZE):
            data.quantile_values.add()

    plain = request(filled(fill)).SerializeToString()
    # Each row has `quantile`; the other two are .count and .sum.
    assert sliced(plain) == [SLICE_SIZE // 2 + 1, SLICE_SIZE // 2, 1]
    wide = RESOURCE | {"service.name": "s", "service.namespace": "n", "service.instance.id": "i"}
    assert max(sliced(request(filled(fill), resource=wide).SerializeToString())) <= SLICE_SIZE // 4


def test_a_large_body_has_steps_between_its_pieces():
    """Nothing that is bounded by the body alone happens in one of them."""
    steps = sliced(LARGE)
    assert sum(steps) == 1000
    assert len(steps) >= 2 * len(LARGE) // MAX_PIECE_BYTES


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (LARGE + b"\x0a\xff", decode.MalformedError),
        (LARGE + request(gauge(point(), name="n" * 300_000)).SerializeToString(), TooLargeError),
    ],
)
def test_what_is_refused_is_refused_before_its_first_row(body: bytes, error: type[Exception]):
    """The damage may be at the end."""
    found = slices(
        body,
        is_gzip=False,
        is_json=False,
        max_bytes=MAX_BYTES,
        window=WINDOW,
        customers=None,
        outcome=Outcome(),
    )
    with pytest.raises(error):
        list(takewhile(lambda rows: rows == [], found))


def _around(data: bytes) -> bytes:
    resource = request().resource_metrics[0].resource.SerializeToString()
    scope = wire.bytes_field(2, wire.bytes_field(2, wire.bytes_field(1, b"m") + data))
    return wire.bytes_field(1, wire.bytes_field(1, resource) + scope)


def test_ten_million_empty_resources_are_too_large():
    """20 KB of gzip are not worth a minute's work."""
    packed = gzip.compress(b"\n\x00" * 10_000_000, 9)
    with pytest.raises(TooLargeError, match="more than 1000000 fields"):
        sliced(packed, is_gzip=True)


def test_millions_of_empty_data_points_are_too_large():
    """In one metric."""
    with pytest.raises(TooLargeError, match="fields; send less at once"):
        sliced(_around(wire.bytes_field(5, b"\x0a\x00" * 1_000_000)))


def test_attributes_that_multiply_are_too_large():
    """A hundred quantiles of a thousand attributes are a hundred thousand."""

    def fill(metric: Any) -> None:
        for _ in range(50):
            data = metric.summary.data_points.add(time_unix_nano=NOW_NS)
            for n in range(1000):
                data.attributes.add(key=f"{n}")
            for _ in range(100):
                data.quantile_values.add()

    with pytest.raises(TooLargeError, match="buckets and attributes; send less"):
        sliced(request(filled(fill)).SerializeToString())


def test_what_pieces_repeat_is_bounded(monkeypatch: pytest.MonkeyPatch):
    """A Resource is in each piece of its data."""
    built = request(*[gauge(point())] * 60, resource=RESOURCE | {"k": "v" * 800})
    body = built.SerializeToString()
    assert len(list(decode.from_protobuf(body, 2000))) > 1
    monkeypatch.setattr(decode, "MAX_PIECES_BYTES", len(body))
    with pytest.raises(TooLargeError, match="too much around its data"):
        list(decode.from_protobuf(body, 2000))


# ---- the threads ------------------------------------------------------------------------------


async def test_small_and_large_are_stored(tmp_path: Path):
    """Packed or not, and what is small only while packed."""
    async with running(tmp_path) as adapter:
        assert len(gzip.compress(LARGE)) < MAX_PIECE_BYTES < len(LARGE)
        await adapter.take(sample_body(3, now_ns=NOW_NS))
        await adapter.take(gzip.compress(sample_body(4, now_ns=NOW_NS)), is_gzip=True)
        await adapter.take(LARGE)
        await adapter.take(gzip.compress(LARGE), is_gzip=True)
        assert adapter.store.state.rows == 3 + 4 + 1000 + 1000


async def test_the_outcome_is_of_one_pass(tmp_path: Path):
    """A body that changes lanes is not counted twice."""
    bad = request(*[gauge(point(time_ns=0), name=f"{n:0500}") for n in range(1000)])
    async with running(tmp_path) as adapter:
        packed = gzip.compress(bad.SerializeToString())
        assert (await adapter.take(packed, is_gzip=True)).rejected_points == 1000


async def test_a_body_with_more_inside_than_we_take_is_too_large(tmp_path: Path):
    """Of gzip's own kind."""
    async with running(tmp_path) as adapter:
        with pytest.raises(compression.TooLargeError):
            await adapter.take(gzip.compress(bytes(MAX_BYTES + 1)), is_gzip=True)


async def test_while_a_large_body_is_decoded_small_ones_are_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Neither the other thread nor the store is kept, whatever it takes."""
    begun, go_on = threading.Event(), threading.Event()
    read = decode.from_protobuf

    def slow(body: bytes) -> Any:
        if len(body) > MAX_PIECE_BYTES:
            begun.set()
            go_on.wait(DEADLINE_S)
        return read(body)

    monkeypatch.setattr(slices_module.decode, "from_protobuf", slow)
    async with running(tmp_path) as adapter:
        large = asyncio.ensure_future(adapter.take(LARGE))
        try:
            await asyncio.to_thread(begun.wait, DEADLINE_S)
            await adapter.take(b"")
            await adapter.take(sample_body(5, now_ns=NOW_NS))
            await adapter.store.probe()
            assert adapter.store.state.rows == 5
            assert not large.done()
        finally:
            go_on.set()
        await large
        assert adapter.store.state.rows == 1005


async def test_between_two_slices_of_a_large_body_others_are_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """No transaction holds more than a slice of it."""
    sizes: list[int] = []
    insert = Database.insert

    def noted(database: Database, rows: Any) -> None:
        sizes.append(len(rows))
        insert(database, rows)

    monkeypatch.setattr(Database, "insert", noted)
    points = [point(float(n), time_ns=NOW_NS - n * 10**6) for n in range(20_000)]
    async with running(tmp_path) as adapter:
        before = adapter.store.state.commits
        await adapter.take(request(gauge(*points)).SerializeToString())
        assert sum(sizes) == 20_000
        assert max(sizes) <= SLICE_SIZE
        assert adapter.store.state.commits - before == len(sizes)


async def test_small_requests_share_their_commits(tmp_path: Path):
    """The thread goes on to the next while the last one's fsync is under way."""
    async with running(tmp_path) as adapter:
        release = threading.Event()
        held = asyncio.ensure_future(
            adapter.store._submit(lambda _: (release.wait(DEADLINE_S), 0)[1])
        )
        bodies = [sample_body(2, now_ns=NOW_NS, first=2 * n) for n in range(20)]
        taken = [asyncio.ensure_future(adapter.take(body)) for body in bodies]
        while adapter.store._waiting.qsize() < 20:
            await asyncio.sleep(0)
        before = adapter.store.state.commits
        release.set()
        await asyncio.gather(held, *taken)
        assert adapter.store.state.commits - before == 2


async def test_whoever_waits_too_long_for_a_turn_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The sender has its own patience; nothing of the body was looked at."""
    monkeypatch.setattr(intake_module, "_TURN_TIMEOUT_S", 0.0)
    async with running(tmp_path) as adapter, adapter.intake._large.turn():
        with pytest.raises(BusyError):
            await adapter.take(LARGE)


async def test_a_turn_ends_with_a_request_that_is_no_good(tmp_path: Path):
    """And with one that was given up."""
    async with running(tmp_path) as adapter:
        for _ in range(3):
            with pytest.raises(decode.MalformedError):
                await adapter.take(b"\x0a")
            impatient = asyncio.ensure_future(adapter.take(LARGE))
            await asyncio.sleep(0)
            impatient.cancel()
        await adapter.take(LARGE)
        await adapter.take(sample_body(1, now_ns=NOW_NS))
