"""export and import: a copy, a removal, and the way back."""

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from edge_agent.buffer import files
from edge_agent.opener import FLOORS, NUMBERS, boot_id
from edge_agent.otlp.signal import Signal
from edge_agent.ring.opening import open_ring
from edge_agent.ring.record import Ack, Committed, RingError
from edge_agent.ring.store import Ring
from edge_agent.state import open_state
from tests.agent.buffer.conftest import COLLECTOR, Buffer, Queue, body, fill, held
from tests.agent.buffer.test_show import damage_record

ADAPTER = ("adapter", Signal.METRICS)
QUEUES: list[Queue] = [*COLLECTOR.values(), ADAPTER]


def fill_all(path: str, rounds: int = 3) -> dict[Queue, list[bytes]]:
    """Requests of two items in every queue; the bodies, oldest first."""
    bodies: dict[Queue, list[bytes]] = {queue: [] for queue in QUEUES}
    for number in range(rounds):
        for queue in QUEUES:
            bodies[queue].append(body(queue[1], f"{queue[0]}-{number}", "x"))
    fill(path, *((queue, each, 2) for queue in QUEUES for each in bodies[queue]))
    return bodies


@pytest.mark.parametrize("form", ["proto", "json"])
def test_what_is_exported_is_imported_on_another_device(
    ring_path: str, tmp_path: Path, buffer: Buffer, form: str
) -> None:
    """Byte for byte and in order, every queue to its own; a USB stick is a transport."""
    bodies = fill_all(ring_path)
    ran = buffer("export", f"{tmp_path}/a.otlp", "--format", form)
    assert (ran.code, ran.err) == (0, "")
    names = ["metrics", "traces", "logs", "adapter-metrics"]
    assert sorted(os.listdir(tmp_path)) == sorted(f"a.{name}.otlp" for name in names)
    assert [line.rpartition(",")[0] for line in ran.out.splitlines()] == [
        f"{tmp_path}/a.{name}.otlp: 3 requests, 6 items" for name in names
    ]
    assert held(ring_path) == bodies
    other = f"{ring_path}/other"
    for name, queue in zip(names, QUEUES, strict=True):
        ran = buffer("import", f"{tmp_path}/a.{name}.otlp", "--path", other)
        assert ran.code == 0, ran.err
        assert ran.out == (
            f"{tmp_path}/a.{name}.otlp: 3 requests, 6 items queued for the {queue[0]}"
            f" ({queue[1]}); the agent's next start delivers them. The same file imported again"
            " would be delivered again.\n"
        )
    assert held(other) == bodies


def test_a_file_is_for_its_owner_alone_and_nothing_is_left_beside_it(
    ring_path: str, tmp_path: Path, buffer: Buffer
) -> None:
    """It has what an app sent, which may be confidential."""
    fill_all(ring_path)
    file = tmp_path / "t"
    assert buffer("export", str(file), "--signal", "traces").code == 0
    assert os.listdir(tmp_path) == ["t"]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_an_export_goes_to_standard_output(ring_path: str) -> None:
    """One queue, and what is said goes elsewhere."""
    (one,) = fill_all(ring_path, 1)[COLLECTOR[Signal.LOGS]]
    ran = subprocess.run(
        [sys.executable, "-m", "edge_agent", "buffer", "export", "-", "--signal", "logs"],
        env={"BUFFER_PATH": ring_path, "PATH": os.environ.get("PATH", "")},
        capture_output=True,
        check=True,
    )
    assert ran.stdout == files.framed(one)
    assert ran.stderr.startswith(b"-: 1 requests, 2 items, ")


def test_a_file_that_exists_is_kept(ring_path: str, tmp_path: Path, buffer: Buffer) -> None:
    """Any of them: then none is written."""
    fill_all(ring_path)
    (tmp_path / "a.logs.otlp").write_text("mine")
    ran = buffer("export", f"{tmp_path}/a.otlp")
    assert ran.code == 1
    assert ran.err == (
        f"otel-agent buffer: {tmp_path}/a.logs.otlp exists; remove it, or name another file\n"
    )
    assert os.listdir(tmp_path) == ["a.logs.otlp"]


def test_empty_queues_make_no_files(ring_path: str, tmp_path: Path, buffer: Buffer) -> None:
    """And it is said."""
    fill(ring_path)
    ran = buffer("export", f"{tmp_path}/a.otlp")
    assert (ran.code, ran.out) == (0, "nothing to export: these queues are empty\n")
    assert os.listdir(tmp_path) == []


def test_a_full_stick_leaves_nothing_behind(
    ring_path: str, tmp_path: Path, buffer: Buffer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does the ring lose anything, with --remove."""
    bodies = fill_all(ring_path)

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("edge_agent.buffer.exporting.os.fsync", full)
    ran = buffer("export", f"{tmp_path}/a.otlp", "--remove")
    assert ran.code == 1
    assert ran.err == (
        f"otel-agent buffer: {tmp_path}/a.otlp: No space left on device;"
        " name a file elsewhere, or make room\n"
    )
    assert os.listdir(tmp_path) == []
    monkeypatch.undo()
    assert held(ring_path) == bodies


def test_a_folder_that_is_not_there_is_named(ring_path: str, buffer: Buffer) -> None:
    """By the file that was to be in it."""
    fill_all(ring_path)
    ran = buffer("export", "/nowhere/a.otlp")
    assert ran.code == 1
    assert "/nowhere/a.metrics.otlp.partial: No such file or directory; name a file" in ran.err


def test_what_was_exported_may_be_removed(ring_path: str, tmp_path: Path, buffer: Buffer) -> None:
    """That, and nothing else; the rest of the ring is as it was."""
    bodies = fill_all(ring_path)
    ran = buffer("export", f"{tmp_path}/a.otlp", "--destination", "collector", "--remove")
    assert ran.code == 0, ran.err
    assert held(ring_path) == {ADAPTER: bodies[ADAPTER]}
    ring, opening = open_ring(ring_path, max_bytes=2 << 20, floors=FLOORS, boot_id=boot_id())
    account = ring.account(NUMBERS[COLLECTOR[Signal.TRACES]])
    ring.close()
    assert (account.acked.items, account.live.items) == (6, 0)
    assert not opening.unclean
    assert opening.max_bytes == 2 << 20


def test_what_cannot_be_written_is_neither_exported_nor_removed(
    ring_path: str, tmp_path: Path, buffer: Buffer
) -> None:
    """Bytes inside of an item that JSON has no form for, because they are no fields."""
    bad = body(Signal.TRACES, "abcdefgh").replace(b"\x2a\x08abcdefgh", b"\x2a\x07abcdefg\x0a")
    good = body(Signal.TRACES, "good")
    queue = COLLECTOR[Signal.TRACES]
    fill(ring_path, (queue, good, 1), (queue, bad, 1))
    ran = buffer("export", f"{tmp_path}/t", "--signal", "traces", "--format=json", "--remove")
    assert ran.code == 1
    assert f"{tmp_path}/t: 1 requests, 1 items, " in ran.out
    assert "not an ExportTraceServiceRequest: cut short; left out" in ran.out
    assert held(ring_path) == {queue: [bad]}


def test_a_damaged_record_is_left_out_and_told(
    ring_path: str, tmp_path: Path, buffer: Buffer
) -> None:
    """Exit code 1."""
    content = body(Signal.TRACES, "a", "b")[:20] + os.urandom(300)
    fill(ring_path, (COLLECTOR[Signal.TRACES], content, 2))
    damage_record(ring_path)
    ran = buffer("export", f"{tmp_path}/a.otlp")
    assert ran.code == 1
    assert ran.out == f"{tmp_path}/a.traces.otlp: record 0: payload checksum; left out\n"


def test_a_line_that_is_too_long_for_the_receivers_default_is_told(
    ring_path: str, tmp_path: Path, buffer: Buffer
) -> None:
    """With the receiver's setting."""
    fill(ring_path, (COLLECTOR[Signal.LOGS], body(Signal.LOGS, "x" * 1_000_001), 1))
    ran = buffer("export", f"{tmp_path}/l", "--signal", "logs", "--format", "json")
    assert ran.code == 0
    assert "raise max_log_size of the receiver" in ran.out


@pytest.mark.parametrize("words", [["import"], ["export", "--remove"]])
def test_what_changes_the_ring_needs_it_alone(
    ring_path: str, tmp_path: Path, buffer: Buffer, words: list[str]
) -> None:
    """Exit code 75, with the remedy; nothing is written anywhere."""
    bodies = fill_all(ring_path)
    file = tmp_path / "b.traces"
    if words[0] == "import":
        file.write_bytes(files.framed(body(Signal.TRACES, "a")))
    state = open_state(ring_path)
    ran = buffer(words[0], str(file), "--signal", "traces", *words[1:])
    state.close()
    assert ran.code == 75
    assert ran.err == (
        f"otel-agent buffer: buffer.path={ring_path} (BUFFER_PATH): an agent uses this ring, and"
        f" {' '.join(words)} needs it alone; stop the agent (systemctl stop otel-agent), and start"
        " it again afterwards\n"
    )
    assert held(ring_path) == bodies
    assert file.exists() == (words[0] == "import")


def test_who_is_not_the_agents_user_changes_nothing(
    ring_path: str, tmp_path: Path, buffer: Buffer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file of root's would keep the agent from its ring."""
    fill_all(ring_path)
    (tmp_path / "a.traces").write_bytes(files.framed(body(Signal.TRACES, "a")))
    monkeypatch.setattr("edge_agent.buffer.command.os.geteuid", lambda: 4711)
    ran = buffer("import", f"{tmp_path}/a.traces")
    assert ran.code == 1
    assert f"belongs to user {os.getuid()}, and this is user 4711" in ran.err
    assert f"sudo -u '#{os.getuid()}' otel-agent buffer import" in ran.err


def test_nothing_is_imported_of_a_damaged_file(
    ring_path: str, tmp_path: Path, buffer: Buffer
) -> None:
    """It says where; with --partial, what stands before that."""
    one, two = body(Signal.TRACES, "a"), body(Signal.TRACES, "b", "c")
    file = tmp_path / "t.traces.otlp"
    file.write_bytes(files.framed(one) + files.framed(two) + files.framed(one)[:-1])
    at = 8 + len(one) + len(two)
    ran = buffer("import", str(file))
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.startswith(f"otel-agent buffer: {file}: damaged at byte {at}: ends inside a")
    assert ran.err.endswith(
        "nothing was imported: copy it once more, or import the 2 requests before with --partial\n"
    )
    assert not os.path.exists(ring_path)
    ran = buffer("import", str(file), "--partial")
    assert ran.code == 1
    assert f"{file}: 2 requests, 3 items queued" in ran.out
    assert ran.err.endswith("what follows was not imported\n")
    assert held(ring_path) == {COLLECTOR[Signal.TRACES]: [one, two]}


def test_an_import_queues_behind_what_waits(ring_path: str, tmp_path: Path, buffer: Buffer) -> None:
    """And may be of another signal than the file's name says."""
    before, added = body(Signal.TRACES, "before"), body(Signal.TRACES, "added")
    fill(ring_path, (COLLECTOR[Signal.TRACES], before, 1))
    (tmp_path / "x").write_bytes(files.framed(added))
    ran = buffer("import", f"{tmp_path}/x")
    assert (ran.code, ran.out) == (2, "")
    assert "its name does not say what is in it; write --signal" in ran.err
    assert buffer("import", f"{tmp_path}/x", "--signal", "traces").code == 0
    assert held(ring_path) == {COLLECTOR[Signal.TRACES]: [before, added]}


def test_a_file_that_is_not_there_is_named(tmp_path: Path, buffer: Buffer) -> None:
    """Exit code 1."""
    ran = buffer("import", f"{tmp_path}/a.logs")
    assert ran.code == 1
    assert ran.err.endswith("a.logs: No such file or directory; name a file that can be read\n")


def test_an_import_that_does_not_fit_drops_nothing(
    ring_path: str, tmp_path: Path, buffer: Buffer
) -> None:
    """It is refused before the first request, with what is missing."""
    noise = body(Signal.TRACES, os.urandom(25_000).hex())
    bodies = fill_all(ring_path)
    file = tmp_path / "a.traces"
    file.write_bytes(files.framed(noise) * 80)
    ran = buffer("import", str(file), BUFFER_MAX_SIZE="64")
    assert ran.code == 1
    assert "80 items need up to 2" in ran.err
    assert "nothing was imported: raise buffer.max_size (BUFFER_MAX_SIZE)" in ran.err
    assert held(ring_path) == bodies
    assert buffer("import", str(file), BUFFER_MAX_SIZE="4MiB").code == 0


def test_a_request_that_is_larger_than_a_record_goes_in_pieces(
    ring_path: str, tmp_path: Path, buffer: Buffer
) -> None:
    """A collector's file may have them; one item alone that is too large is told."""
    names = [os.urandom(15_000).hex() for _ in range(8)]
    whole, huge = body(Signal.TRACES, *names), body(Signal.TRACES, os.urandom(100_000).hex())
    file = tmp_path / "a.traces"
    file.write_bytes(files.framed(whole) + files.framed(huge))
    ran = buffer("import", str(file), BUFFER_MAX_SIZE="64")
    assert ran.code == 1
    assert f"{file}: 1 requests, 8 items queued" in ran.out
    assert "1 items are larger than the ring takes, and were left out" in ran.err
    ((queue, pieces),) = held(ring_path).items()
    assert queue == COLLECTOR[Signal.TRACES]
    assert len(pieces) > 1
    joined = b"".join(pieces)
    assert [joined.find(name.encode()) >= 0 for name in names] == [True] * 8


def test_what_gives_way_to_an_import_after_all_is_told(
    ring_path: str, tmp_path: Path, buffer: Buffer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The estimate is above what is needed; should it not be, nobody is left in the dark."""
    fill_all(ring_path)
    file = tmp_path / "a.traces"
    noise = body(Signal.TRACES, os.urandom(25_000).hex())
    file.write_bytes(files.framed(noise) * 80)
    monkeypatch.setattr("edge_agent.buffer.importing.weight", lambda _length: 1)
    ran = buffer("import", str(file), BUFFER_MAX_SIZE="64")
    assert ran.code == 1
    assert "the ring was full: " in ran.err


def test_a_disk_that_fails_in_the_middle_is_told(
    ring_path: str, tmp_path: Path, buffer: Buffer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With how much is in the ring."""
    one = body(Signal.TRACES, os.urandom(300_000).hex())
    file = tmp_path / "a.traces"
    file.write_bytes(files.framed(one) * 4)
    commit = Ring.commit
    calls = []

    def failing(self: Ring, appends: list[object], acks: tuple[Ack, ...] = ()) -> Committed:
        calls.append(appends)
        if len(calls) > 1:
            raise RingError(errno.EIO, "the ring: Input/output error")
        return commit(self, appends, acks)  # type: ignore[arg-type]  # passed on as it came

    monkeypatch.setattr(Ring, "commit", failing)
    ran = buffer("import", str(file))
    assert ran.code == 1
    assert f"{file}: 2 requests, 2 items queued" in ran.out
    assert "the ring: Input/output error; the storage fails: look at dmesg" in ran.err


def test_a_removal_that_fails_is_told(
    ring_path: str, tmp_path: Path, buffer: Buffer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The export is there; what is left in the ring would be sent as well."""
    fill_all(ring_path)
    problem = RingError(errno.EIO, "the ring: Input/output error")
    monkeypatch.setattr(Ring, "commit", lambda *_: Committed((), (), 0, problem))
    ran = buffer("export", f"{tmp_path}/a.otlp", "--remove")
    assert ran.code == 1
    assert "Input/output error; the storage fails" in ran.err
    assert len(os.listdir(tmp_path)) == 4


def test_a_directory_that_cannot_be_used_is_named(
    ring_path: str, tmp_path: Path, buffer: Buffer
) -> None:
    """A file stands where it should be."""
    (tmp_path / "a.traces").write_bytes(files.framed(body(Signal.TRACES, "a")))
    (tmp_path / "file").touch()
    ran = buffer("import", f"{tmp_path}/a.traces", "--path", f"{tmp_path}/file/state")
    assert ran.code == 1
    assert f"buffer.path={tmp_path}/file/state (--path): " in ran.err
    assert "Not a directory" in ran.err
