"""Where the ring may be, and what is said of the place."""

import errno
from pathlib import Path

import pytest

from edge_agent import opener
from edge_agent.opener import FLOORS, NUMBERS, Opener, boot_id, file_system
from edge_agent.ring.record import RingError
from edge_agent.state import open_state

MOUNTS = """\
22 1 8:1 / / rw - ext4 /dev/sda1 rw
23 22 0:5 / /srv rw shared:1 - nfs4 server:/srv rw
24 22 8:2 / /srv/local rw - xfs /dev/sdb1 rw
25 22 0:6 / /mnt/a\\040stick rw - vfat /dev/sdc1 rw
26 22 0:7 / /run rw - ext4 /dev/sda2 rw
27 22 0:8 / /run rw - tmpfs tmpfs rw
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/var/lib/otel-agent", "ext4"),
        ("/srv", "nfs4"),
        ("/srv/agent", "nfs4"),
        ("/srv/local/agent", "xfs"),
        ("/srvother", "ext4"),
        ("/mnt/a stick/agent", "vfat"),
        ("/run/agent", "tmpfs"),
    ],
)
def test_the_mount_that_a_path_is_on_is_found(tmp_path: Path, path: str, kind: str) -> None:
    """The longest, and of several at one place the last, which hides the others."""
    mountinfo = tmp_path / "mountinfo"
    mountinfo.write_text(MOUNTS)
    assert file_system(path, str(mountinfo)) == kind


@pytest.mark.parametrize("text", [None, "", "garbage\n"])
def test_what_cannot_be_known_is_empty(tmp_path: Path, text: str | None) -> None:
    """No /proc, or one that is not as documented: no reason to do without a ring."""
    mountinfo = tmp_path / "mountinfo"
    if text is not None:
        mountinfo.write_text(text)
    assert file_system("/", str(mountinfo)) == ""


@pytest.mark.parametrize("kind", ["nfs", "nfs4", "cifs", "9p", "fuse.sshfs"])
def test_a_remote_file_system_is_refused_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """The agent goes on in RAM alone; nothing is made there."""
    monkeypatch.setattr(opener, "file_system", lambda _path: kind)
    state = open_state(str(tmp_path))
    try:
        with pytest.raises(RingError, match=kind) as refused:
            Opener(state, 2 << 20, strict=False, boot_id=boot_id())()
        assert refused.value.errno == errno.ENOTSUP
        assert "BUFFER_PATH" in refused.value.remedy
        assert not (tmp_path / "data.mdb").exists()
    finally:
        state.close()


@pytest.mark.parametrize(("kind", "said"), [("tmpfs", True), ("vfat", False), ("overlay", False)])
def test_a_place_that_a_reboot_empties_is_used_and_said(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    kind: str,
    said: bool,
) -> None:
    """One warning."""
    monkeypatch.setattr(opener, "file_system", lambda _path: kind)
    state = open_state(str(tmp_path))
    try:
        Opener(state, 2 << 20, strict=False, boot_id=boot_id())().close()
    finally:
        state.close()
    assert caplog.text.count("in memory: a reboot loses") == said


def test_a_state_directory_that_was_mended_is_used(tmp_path: Path) -> None:
    """It is looked at anew each time."""
    place = tmp_path / "file"
    place.write_text("")
    state = open_state(str(place / "state"))
    open_ring = Opener(state, 2 << 20, strict=False, boot_id=boot_id())
    try:
        with pytest.raises(RingError) as refused:
            open_ring()
        assert "BUFFER_PATH" in refused.value.remedy
        place.unlink()
        open_ring().close()
    finally:
        state.close()


def test_the_queues_of_the_ring_keep_their_numbers() -> None:
    """They are on disks in the field; each has its floor, and together they leave room."""
    assert sorted(NUMBERS.values()) == [1, 2, 3, 4] == sorted(FLOORS)
    assert sum(FLOORS.values()) < 1


def test_a_boot_has_one_name() -> None:
    """16 bytes, the same each time."""
    assert len(boot_id()) == 16
    assert boot_id() == boot_id()
