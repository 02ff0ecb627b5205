"""Real peers as fixtures. A missing peer skips its tests, or fails them when REQUIRE_PEERS=1."""

import os
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.peers.otelcol import Collector

StartCollector = Callable[..., Awaitable[Collector]]

_BUILD = Path(__file__).parent / "collector" / "build.sh"


def missing(peer: str, why: str) -> None:
    """End the test: `peer` cannot be had on this machine."""
    message = f"{peer}: {why}"
    if os.environ.get("REQUIRE_PEERS") == "1":
        pytest.fail(message)
    pytest.skip(message)


@pytest.fixture(scope="session")
def collector_binary() -> Path:
    """The real Collector, built on first use."""
    try:
        built = subprocess.run([_BUILD], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        lines = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
        missing("OpenTelemetry Collector", lines[-1])
        raise
    return Path(built.stdout.strip())


@pytest.fixture
async def collector(collector_binary: Path, tmp_path: Path) -> AsyncIterator[StartCollector]:
    """Starts real collectors: `await collector(exporter="file", tls=None)`, ready when it returns.

    Each has its own ports, which it keeps over `stop`, `kill` and `start`; all end with the test.
    """
    started: list[Collector] = []

    async def start(**options: Any) -> Collector:
        folder = tmp_path / f"collector-{len(started)}"
        folder.mkdir()
        started.append(Collector(collector_binary, folder, **options))
        await started[-1].start()
        return started[-1]

    yield start
    for running in started:
        await running.stop()
