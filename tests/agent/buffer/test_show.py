"""show and verify."""

import json
import os
import shutil
import time

import pytest

from edge_agent.opener import FLOORS
from edge_agent.otlp.signal import Signal
from edge_agent.ring.layout import PAGE
from edge_agent.ring.opening import DATA, open_ring
from edge_agent.ring.record import Entry
from edge_agent.state import open_state
from tests.agent.buffer.conftest import COLLECTOR, Buffer, body, fill

TRACES = body(Signal.TRACES, "a", "b")


def test_show_says_what_waits_and_what_would_be_lost_next(ring_path: str, buffer: Buffer) -> None:
    """As a program reads it; nothing of the agent is set but the directory."""
    fill(ring_path, (COLLECTOR[Signal.TRACES], TRACES, 2), age_s=300)
    fill(ring_path, (COLLECTOR[Signal.TRACES], TRACES, 2), age_s=10)
    ran = buffer("show", "--json")
    assert (ran.code, ran.err) == (0, "")
    document = json.loads(ran.out)
    assert document["path"] == ring_path
    assert document["max_bytes"] == 2 << 20
    assert 0 < document["usage_percent"] < 5
    assert (document["in_use"], document["clean"], document["unclean_starts"]) == (False, True, 0)
    queue = document["queues"]["collector traces"]
    assert (queue["records"], queue["requests"], queue["items"]) == (2, 2, 4)
    assert queue["bytes"] == 2 * len(TRACES)
    assert queue["stored_bytes"] > 0
    assert 300 <= queue["oldest_age_seconds"] < 400
    assert 10 <= queue["newest_age_seconds"] < 110
    assert queue["dropped"]["queue_full"] == {"items": 0, "bytes": 0}
    lost = document["lost_next"]
    assert (lost["queue"], lost["items"]) == ("collector traces", 2)
    assert 300 <= lost["age_seconds"] < 400
    assert document["queues"]["adapter metrics"]["oldest_age_seconds"] is None


def test_show_for_a_person(ring_path: str, buffer: Buffer) -> None:
    """A line a queue, all of them, aligned."""
    fill(ring_path, (COLLECTOR[Signal.LOGS], body(Signal.LOGS, "a"), 1), age_s=3600 * 24 * 2)
    text = buffer("show").out
    lines = text.splitlines()
    assert lines[0] == f"ring            {ring_path}, 2MiB, not in use"
    assert lines[1].endswith("at which the oldest is dropped")
    assert lines[2].startswith("lost next       collector logs, 1 items of 2d")
    assert lines[3] == "unclean starts  0"
    (row,) = (line for line in lines if line.startswith("collector logs"))
    assert row.split()[2:5] == ["1", "1", "1"]
    table = lines[5 : lines.index("", 5)]
    assert len({len(line) for line in table}) == 1


def test_an_empty_ring_loses_nothing(ring_path: str, buffer: Buffer) -> None:
    """And says so."""
    fill(ring_path)
    assert "lost next       nothing: the ring is empty" in buffer("show").out


def test_an_age_across_boots_is_by_the_wall_clock(ring_path: str, buffer: Buffer) -> None:
    """Time since the boot says nothing about another; and an unclean end is told."""
    ring, _ = open_ring(ring_path, max_bytes=2 << 20, floors=FLOORS, boot_id=bytes(16))
    ring.commit([(2, [Entry(TRACES, 2, 9, time.time_ns() - 7200 * 10**9, 1)])])
    ring.close(clean=False)
    ran = buffer("show")
    assert "2 items of 2h" in ran.out
    assert "not in use, and the last run did not end in order" in ran.out


def test_what_was_dropped_is_shown(ring_path: str, buffer: Buffer) -> None:
    """Items, by reason."""
    noise = [(COLLECTOR[Signal.TRACES], os.urandom(60_000), 3) for _ in range(60)]
    fill(ring_path, *noise)
    document = json.loads(buffer("show", "--json").out)
    dropped = document["queues"]["collector traces"]["dropped"]["queue_full"]
    assert dropped["items"] > 0
    assert dropped["items"] % 3 == 0
    assert document["usage_percent"] > 80


def test_verify_of_a_good_ring(ring_path: str, buffer: Buffer) -> None:
    """Exit code 0."""
    fill(ring_path, (COLLECTOR[Signal.TRACES], TRACES, 2))
    ran = buffer("verify")
    assert (ran.code, ran.out) == (0, f"{ring_path}: 1 records, 1 requests, in order\n")
    ran = buffer("verify", "--json", "--path", ring_path)
    assert json.loads(ran.out) == {"records": 1, "requests": 1, "problems": []}


def damage_record(path: str) -> None:
    """Flip a byte of the payload of the only record."""
    data = os.path.join(path, DATA)
    with open(data, "r+b") as file:
        content = file.read()
        at = content.index(TRACES[:20])
        while at >= 0:
            file.seek(at + 3)
            file.write(b"\xff")
            at = content.find(TRACES[:20], at + 1)


def test_verify_names_a_damaged_record(ring_path: str, buffer: Buffer) -> None:
    """Exit code 1; show goes on without its age."""
    incompressible = TRACES[:20] + os.urandom(300)
    fill(ring_path, (COLLECTOR[Signal.TRACES], incompressible, 2))
    damage_record(ring_path)
    ran = buffer("verify")
    assert ran.code == 1
    assert ran.out.splitlines() == [
        "queue 2, record 0: payload checksum",
        f"{ring_path}: 1 records, 0 requests, 1 problems",
    ]
    assert json.loads(buffer("show", "--json").out)["lost_next"] is None


@pytest.mark.parametrize("action", ["show", "verify"])
def test_a_ring_that_cannot_be_trusted_is_not_opened(
    ring_path: str, buffer: Buffer, action: str
) -> None:
    """LMDB must not see it."""
    fill(ring_path, (COLLECTOR[Signal.TRACES], TRACES, 2))
    with open(os.path.join(ring_path, DATA), "r+b") as file:
        for page in range(2, 30):
            file.seek(page * PAGE)
            file.write(b"\xff" * PAGE)
    ran = buffer(action)
    assert ran.code == 1
    assert f"buffer.path={ring_path} (BUFFER_PATH): the ring cannot be trusted: " in ran.err
    assert "the agent's next start moves it aside" in ran.err


def test_where_there_is_no_ring_the_remedy_is_said(ring_path: str, buffer: Buffer) -> None:
    """And nothing is made."""
    ran = buffer("show", "--path", f"{ring_path}/x")
    assert ran.code == 1
    assert ran.err == (
        f"otel-agent buffer: buffer.path={ring_path}/x (--path): no ring is there:"
        " the agent makes it at its start; --path DIR names another\n"
    )
    assert not os.path.exists(ring_path)


def test_a_ring_that_may_not_be_read_is_named(
    ring_path: str, buffer: Buffer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By another user than the agent's."""

    def denied(path: str) -> None:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr("edge_agent.buffer.command.check_file", denied)
    ran = buffer("show")
    assert ran.code == 1
    assert ran.err.endswith("Permission denied; run this as the agent's user\n")


def test_settings_that_are_not_the_buffers_do_not_matter(ring_path: str, buffer: Buffer) -> None:
    """Bad ones neither; the buffer's own do."""
    fill(ring_path)
    assert buffer("show", METRICS_INTERVAL="never").code == 0
    ran = buffer("show", BUFFER_MAX_SIZE="16")
    assert (ran.code, ran.out) == (78, "")
    assert ran.err == (
        "otel-agent buffer: buffer.max_size=16 (BUFFER_MAX_SIZE): below 64 slots of 32 KiB;"
        " raise it\n"
    )
    assert buffer("show", "--path", ring_path).code == 0


def test_a_file_that_cannot_be_read_matters(buffer: Buffer) -> None:
    """It may be what names the directory."""
    ran = buffer("show", "--config", "/nowhere.yaml")
    assert ran.code == 78
    assert "/nowhere.yaml: cannot be read" in ran.err


def test_a_ring_in_use_is_told(ring_path: str, buffer: Buffer) -> None:
    """By the lock of the state directory."""
    fill(ring_path)
    state = open_state(ring_path)
    try:
        assert "in use by an agent" in buffer("show").out.splitlines()[0]
    finally:
        state.close()
    assert "not in use" in buffer("show").out.splitlines()[0]


def test_a_copy_of_a_ring_is_as_good(ring_path: str, buffer: Buffer) -> None:
    """On another machine of the same kind."""
    fill(ring_path, (COLLECTOR[Signal.TRACES], TRACES, 2))
    os.mkdir(f"{ring_path}/copy")
    shutil.copy(f"{ring_path}/{DATA}", f"{ring_path}/copy")
    assert buffer("verify", "--path", f"{ring_path}/copy").code == 0
