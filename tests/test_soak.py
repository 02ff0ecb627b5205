"""Ten minutes of both programs at a 1 s interval: `make soak`."""

import time
from pathlib import Path

import pytest

from tests.fakes.programs import Adapter, Agent, Program, eventually

SOAK_S = 600.0
# Caches, the allocator's arenas and SQLite's page cache fill up first.
SETTLED_AFTER_S = 120.0
EVERY_S = 10.0
FLAT_KB = 1024


def anonymous_kb(program: Program) -> int:
    """RssAnon of a running program (proc_pid_status(5))."""
    status = Path(f"/proc/{program.process.pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon"))


def drift_kb(sizes: list[int]) -> float:
    """How much the last third lies above the first third, on average."""
    third = len(sizes) // 3
    return (sum(sizes[-third:]) - sum(sizes[:third])) / third


@pytest.mark.soak
@pytest.mark.timeout(SOAK_S + 120)
def test_ten_minutes_at_a_second_stay_flat_and_silent(tmp_path: Path) -> None:
    """Memory of both programs is flat after two minutes, nothing is lost and nothing warned of."""
    adapter = Adapter(tmp_path / "adapter")
    eventually(adapter.health, "the adapter's /health")
    agent = Agent(tmp_path / "agent", ADAPTER_ENDPOINT=adapter.url)
    eventually(agent.health, "the agent's /health")
    started = time.monotonic()
    sizes: dict[str, list[int]] = {"agent": [], "adapter": []}
    while time.monotonic() - started < SOAK_S:
        time.sleep(EVERY_S)
        if time.monotonic() - started > SETTLED_AFTER_S:
            sizes["agent"].append(anonymous_kb(agent))
            sizes["adapter"].append(anonymous_kb(adapter))
    accepted = agent.items("accepted", "adapter")
    assert agent.stop() == 0
    assert adapter.stop() == 0
    for name, program in (("agent", agent), ("adapter", adapter)):
        figures = f"{sizes[name][0]} kB -> {sizes[name][-1]} kB, {drift_kb(sizes[name]):+.0f}"
        print(f"{name}: {figures}")  # noqa: T201 - the figures are what one runs this for
        assert drift_kb(sizes[name]) < FLAT_KB, sizes[name]
        assert not [line for line in program.log.splitlines() if "Z info " not in line]
    assert "lost=0" in agent.log.splitlines()[-1]
    assert accepted > SOAK_S * 50
