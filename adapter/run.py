"""The wiring: a lock on the state directory, the store, the server before it; and back again."""

import asyncio
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import edge_agent
from adapter.app import LIMITS, App
from adapter.config import Config
from adapter.row import TTL_S
from adapter.sqlite import SqliteStore, StoreAwayError
from edge_agent.log import Log
from edge_agent.settings import Address, ConfigError
from edge_agent.stop import StopRequest
from edge_agent.transport.http1 import serve

_log = Log("adapter")

# Together below the 8 s in which we have to be gone.
_GRACE_S = 4.0
_CLOSE_S = 3.0
# A sweep rewrites the pages that hold the oldest rows: hourly, they are mostly empty by then.
_EXPIRE_INTERVAL_S = 3600.0
_PROBE_INTERVAL_S = 5.0


class StateInUseError(Exception):
    """Another adapter has this state directory."""


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold `directory`, made where it is missing, against a second adapter.

    The lock is on the directory itself: a full or read-only medium cannot keep us from it, and
    nothing is left behind by a kill. Raises StateInUseError and ConfigError.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        held = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise ConfigError(
            f"STATE_DIRECTORY={directory}: {error.strerror}; name a directory that this user can"
            " make or write"
        ) from None
    try:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StateInUseError(
                f"STATE_DIRECTORY={directory}: another adapter uses it; stop that one, or name"
                " another directory"
            ) from None
        yield
    finally:
        os.close(held)


async def run(config: Config, stop: StopRequest) -> None:
    """Serve until `stop`; raises StateInUseError and ConfigError before anything is served."""
    stopping = asyncio.Event()
    stop.forward(asyncio.get_running_loop(), stopping.set)
    for warning in config.warnings:
        _log.warning(warning)
    with locked(config.state_directory):
        store = SqliteStore(config.state_directory, ttl_s=TTL_S)
        await store.start()
        try:
            await _serve(config, store, stopping)
        finally:
            try:
                async with asyncio.timeout(_CLOSE_S):
                    await store.close()
            except TimeoutError:
                # What was answered is durable; SQLite goes on from its journal.
                _log.warning("store does not end in time, leaving it", path=store.state.path)
    _log.info("stopped", rows=store.state.rows)


async def _serve(config: Config, store: SqliteStore, stopping: asyncio.Event) -> None:
    app = App(store, tokens=config.tokens, version=edge_agent.__version__)
    try:
        server = await serve(
            app.respond,
            host=config.listen_host,
            port=config.port,
            limits=LIMITS,
            tls=config.tls,
            admit=app.admit,
            refuse=app.refuse,
            budget=app.budget,
        )
    except OSError as error:
        raise ConfigError(
            f"LISTEN_HOST={config.listen_host}, PORT={config.port}: {error.strerror or error};"
            " stop what listens there, or set another"
        ) from None
    scheme = "http" if config.tls is None else "https"
    address = Address(config.listen_host, server.ports[0])
    _log.info(
        "listening",
        url=f"{scheme}://{address}",
        store=store.state.path,
        tokens=config.tokens is not None,
    )
    async with asyncio.TaskGroup() as tasks:
        upkeep = [tasks.create_task(_expire(store)), tasks.create_task(_heal(store))]
        try:
            await stopping.wait()
        finally:
            app.stopping = True
            await server.close(_GRACE_S)
            app.close()
            for task in upkeep:
                task.cancel()


async def _expire(store: SqliteStore) -> None:
    while True:
        try:
            deleted = await store.expire()
        except StoreAwayError:
            deleted = 0  # The store has said so; the next hour is soon enough.
        if deleted:
            _log.info("expired rows deleted", rows=deleted)
        await asyncio.sleep(_EXPIRE_INTERVAL_S)


async def _heal(store: SqliteStore) -> None:
    """End an outage without waiting for a request: nobody may send any while we are not ready."""
    while True:
        await store.away.wait()
        await asyncio.sleep(_PROBE_INTERVAL_S)
        try:
            await store.probe()
        except StoreAwayError:
            continue
