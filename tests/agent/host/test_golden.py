"""The whole output of the machines in tests/golden/host, whose README says what they are."""

import pytest

from tests.agent.host import recorded


@pytest.mark.parametrize("tree", recorded.TREES)
async def test_a_replayed_machine_gives_exactly_its_golden_output(tree: str) -> None:
    """Every name, unit, kind, attribute and value, and nothing that the machine lacks.

    `python -m tests.agent.host.recorded` writes the files anew.
    """
    assert await recorded.output(tree) == recorded.golden(tree).read_text(encoding="utf-8")


async def test_the_summary_of_a_sample_is_what_it_measured() -> None:
    """What /health and /metrics show comes from the sample: used is total - available, the
    network's bytes are without loopback, disks are by mount point."""
    sample = await recorded.sample("raspberry-pi-4")
    seed = sample.seed
    assert seed.cpu_percent is None
    assert seed.memory_total_bytes == 3882424 * 1024
    assert seed.memory_used_bytes == (3882424 - 3290112) * 1024
    assert seed.disk_used_bytes == {
        "/": 9830400000,
        "/boot/firmware": 78848000,
        "/media/pi/log stick": 16384000,
    }
    assert (seed.network_received_bytes, seed.network_transmitted_bytes) == (81203344, 12033441)
    assert sample.items == sum(line.startswith("  ") for line in recorded.listing(sample.body))


async def test_excluded_metrics_do_not_leave() -> None:
    """telemetry.metrics.exclude: globs on names; what stays is what was there before."""
    full = await recorded.sample("laptop")
    less = await recorded.sample(
        "laptop", exclude=("process.*", "system.network.*", "hw.temperature")
    )
    dropped = ("system.network.", "hw.temperature")
    names = [line.split()[0] for line in recorded.listing(full.body) if line[0] != " "]
    left = [line.split()[0] for line in recorded.listing(less.body) if line[0] != " "]
    assert left == [name for name in names if not name.startswith(dropped)]
    assert less.seed.network_received_bytes == full.seed.network_received_bytes
