"""What the agent costs, read from where the kernel says it."""

import pytest

from edge_agent.health.process import Process, anonymous_bytes

STATUS = "Name:\tpython\nVmRSS:\t   24000 kB\nRssAnon:\t   13000 kB\nRssFile:\t   11000 kB\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (STATUS, 13_000 * 1024),
        ("Name:\tx\nVmRSS:\t   24000 kB\n", 24_000 * 1024),
        ("Name:\tkthreadd\n", 0),
    ],
    ids=["now", "before 4.5", "neither"],
)
def test_memory_is_the_anonymous_part(text: str, expected: int) -> None:
    """proc_pid_status(5)."""
    assert anonymous_bytes(text) == expected


def test_cpu_is_counted_since_the_last_reading() -> None:
    """In percent of one core; readings too close together repeat the last."""
    cpu_s, now_s = [5.0], [100.0]
    process = Process(
        read_status=lambda: STATUS,
        cpu_s=lambda: cpu_s[0],
        monotonic=lambda: now_s[0],
        machine_memory_bytes=1_000_000_000,
    )
    assert process.read().cpu_percent == 0.0
    cpu_s[0], now_s[0] = 5.5, 110.0
    assert process.read().cpu_percent == 5.0
    cpu_s[0], now_s[0] = 5.9, 110.5
    assert process.read().cpu_percent == 5.0
    cpu_s[0], now_s[0] = 6.5, 111.0
    assert process.read().cpu_percent == 100.0


def test_this_process_has_memory_and_a_machine_around_it() -> None:
    """The real sources exist and agree in magnitude."""
    resources = Process().read()
    assert 1_000_000 < resources.memory_bytes < resources.machine_memory_bytes
