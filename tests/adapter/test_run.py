"""The wiring: lock, store, server, upkeep, and the way back."""

import asyncio
import fcntl
import logging
import os
import socket
import stat
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from adapter import run as run_module
from adapter.config import Config, load
from adapter.database import FILE_NAME, Database
from adapter.run import StateInUseError, locked, run
from adapter.sqlite import SqliteStore, StoreAwayError
from edge_agent.settings import ConfigError
from edge_agent.stop import StopRequest
from tests.adapter.test_database import DAY_MS, row

DEADLINE_S = 20.0


class Stop(StopRequest):
    """A stop request that a test makes."""

    def __init__(self) -> None:
        super().__init__()
        self.notify = lambda: None

    def forward(self, loop: asyncio.AbstractEventLoop, notify: object) -> None:
        self.notify = notify  # type: ignore[assignment]


def config(directory: Path, **environ: str) -> Config:
    """Settings for a free port and this directory."""
    return load({"STATE_DIRECTORY": str(directory), "PORT": "0"} | environ)


async def until(condition: object) -> None:
    """Give the loop its turns until `condition()`."""
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # type: ignore[operator]
            await asyncio.sleep(0)


@asynccontextmanager
async def running(
    loaded: Config, caplog: pytest.LogCaptureFixture
) -> AsyncIterator[asyncio.Task[None]]:
    """The whole adapter as a task, from "listening" to the end."""
    caplog.set_level(logging.INFO)
    stop = Stop()
    task = asyncio.ensure_future(run(loaded, stop))
    await until(lambda: task.done() or said(caplog, "listening"))
    yield task
    stop.notify()
    async with asyncio.timeout(DEADLINE_S):
        await task


def said(caplog: pytest.LogCaptureFixture, message: str) -> list[dict[str, object]]:
    """The fields of every log line of that message."""
    return [r.__dict__["fields"] for r in caplog.records if r.getMessage() == message]


async def test_it_serves_until_it_is_asked_to_stop(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    """The log says where; nothing but the file is left."""
    async with running(config(tmp_path / "s"), caplog):
        (fields,) = said(caplog, "listening")
        assert str(fields["url"]).startswith("http://127.0.0.1:")
        assert fields["tokens"] is False
    assert said(caplog, "stopped") == [{"rows": 0}]
    assert [p.name for p in (tmp_path / "s").iterdir()] == [FILE_NAME]


async def test_expired_rows_go_at_the_start(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """And then every hour."""
    database = Database(tmp_path / FILE_NAME)
    database.begin()
    database.insert([row(n)._replace(timestamp_ms=n, time_bucket="1970-01-01") for n in range(7)])
    database.insert([row(-n * DAY_MS) for n in range(3)])
    database.commit()
    database.close()
    async with running(config(tmp_path), caplog):
        await until(lambda: said(caplog, "expired rows deleted"))
    assert said(caplog, "expired rows deleted") == [{"rows": 7}]


async def test_an_outage_ends_without_a_request(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    """A probe finds out; expiry has gone on to the next hour meanwhile."""
    monkeypatch.setattr(run_module, "_PROBE_INTERVAL_S", 0.0)
    probe, probes = SqliteStore.probe, []

    async def counted(store: SqliteStore) -> None:
        probes.append(store)
        await probe(store)

    monkeypatch.setattr(SqliteStore, "probe", counted)
    (tmp_path / FILE_NAME).mkdir()
    async with running(config(tmp_path), caplog):
        await until(lambda: len(probes) > 3)
        assert len(said(caplog, "store is away, senders are told to retry")) == 1
        (tmp_path / FILE_NAME).rmdir()
        await until(lambda: said(caplog, "store is back"))


async def test_without_an_outage_nothing_is_probed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    """An idle adapter sleeps: its next wake-up is the next hour's expiry."""
    monkeypatch.setattr(run_module, "_PROBE_INTERVAL_S", 0.0)
    async with running(config(tmp_path), caplog):
        loop = asyncio.get_running_loop()
        probes: list[None] = []

        async def probe(_: SqliteStore) -> None:
            probes.append(None)

        monkeypatch.setattr(SqliteStore, "probe", probe)
        for _ in range(100):
            await asyncio.sleep(0)
        timers = [timer for timer in loop._scheduled if not timer.cancelled()]  # type: ignore[attr-defined]
        assert probes == []
        assert all(timer.when() - loop.time() > 1000 for timer in timers)


async def test_what_the_settings_warn_about_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    """Once, at the start."""
    tokens = tmp_path / "tokens"
    tokens.write_text("t acme")
    tokens.chmod(0o600)
    loaded = config(tmp_path, TOKENS_FILE=str(tokens), ALLOW_ANONYMOUS="true")
    async with running(loaded, caplog):
        assert said(caplog, loaded.warnings[0]) == [{}]


async def test_a_port_in_use_is_a_matter_of_configuration(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    """The store is closed again and the directory free."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ConfigError, match=f"PORT={port}: .*in use; stop what listens there"):
            await run(config(tmp_path, PORT=str(port)), Stop())
    with locked(tmp_path):
        assert [p.name for p in tmp_path.iterdir()] == [FILE_NAME]


async def test_a_disk_that_hangs_does_not_keep_us(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    """What was answered is durable; the rest is left to SQLite's journal."""
    close = SqliteStore.close
    stores: list[SqliteStore] = []

    async def hang(store: SqliteStore) -> None:
        stores.append(store)
        await asyncio.Event().wait()

    monkeypatch.setattr(SqliteStore, "close", hang)
    monkeypatch.setattr(run_module, "_CLOSE_S", 0.0)
    async with running(config(tmp_path), caplog):
        pass
    assert said(caplog, "store does not end in time, leaving it")
    await close(stores[0])


async def test_the_death_of_upkeep_ends_the_program(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    """A task that dies takes the process down, loudly."""

    async def die(_: SqliteStore) -> int:
        raise RuntimeError("a bug")

    monkeypatch.setattr(SqliteStore, "expire", die)
    with pytest.raises(ExceptionGroup) as raised:
        async with running(config(tmp_path), caplog) as task:
            await until(task.done)
    assert "a bug" in str(raised.value.exceptions)


async def test_an_outage_does_not_end_expiry(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    """It comes round again."""
    calls: list[int] = []

    async def away(_: SqliteStore) -> int:
        calls.append(1)
        raise StoreAwayError("away")

    monkeypatch.setattr(SqliteStore, "expire", away)
    monkeypatch.setattr(run_module, "_EXPIRE_INTERVAL_S", 0.0)
    async with running(config(tmp_path), caplog):
        await until(lambda: len(calls) > 3)
    assert said(caplog, "expired rows deleted") == []


# ---- the lock ---------------------------------------------------------------------------------


def test_a_directory_belongs_to_one_adapter(tmp_path: Path):
    """Made where it is missing, for its owner alone; free again afterwards."""
    directory = tmp_path / "a" / "b"
    with locked(directory):
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        with pytest.raises(StateInUseError, match="another adapter uses it"), locked(directory):
            pass
    with locked(directory):
        assert list(directory.iterdir()) == []


@pytest.fixture
def held(tmp_path: Path) -> Iterator[Path]:
    """A directory that another program has locked."""
    descriptor = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    yield tmp_path
    os.close(descriptor)


def test_a_shared_lock_keeps_us_out_too(held: Path):
    """A backup that wants no writer."""
    with pytest.raises(StateInUseError), locked(held):
        pass


def test_a_directory_that_cannot_be_is_refused(tmp_path: Path):
    """With its name and the reason."""
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="name a directory"), locked(tmp_path / "file"):
        pass
