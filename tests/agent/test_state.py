"""The state directory."""

import fcntl
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from edge_agent.state import InUseError, in_use, open_state


def test_it_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    """0700 and 0600: what an app sent may be confidential."""
    state = open_state(str(tmp_path / "a" / "b"))
    assert state.problem == ""
    assert stat.S_IMODE(os.stat(tmp_path / "a" / "b").st_mode) == 0o700
    assert stat.S_IMODE(os.stat(tmp_path / "a" / "b" / "lock").st_mode) == 0o600
    state.close()
    state.close()


def test_a_second_agent_is_refused_until_the_first_has_gone(tmp_path: Path) -> None:
    """The error names the directory and the remedy."""
    first = open_state(str(tmp_path))
    with pytest.raises(InUseError, match=rf"buffer\.path={tmp_path}: another agent .*BUFFER_PATH"):
        open_state(str(tmp_path))
    first.close()
    open_state(str(tmp_path)).close()


def test_a_killed_agent_leaves_no_lock_behind(tmp_path: Path) -> None:
    """flock ends with the process, however it ends."""
    code = (
        "import os, sys; from edge_agent.state import open_state;"
        "open_state(sys.argv[1]); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    open_state(str(tmp_path)).close()


def test_a_directory_that_cannot_be_made_is_a_problem_not_an_end(tmp_path: Path) -> None:
    """RAM only and degraded, not exit."""
    (tmp_path / "file").write_text("")
    state = open_state(str(tmp_path / "file" / "state"))
    assert state.problem == f"Not a directory: {tmp_path}/file/state"
    state.close()


def test_a_file_system_without_locks_is_a_problem_not_an_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NFS without a lock daemon answers ENOLCK."""

    def no_locks(_fd: int, _operation: int) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr("edge_agent.state.fcntl.flock", no_locks)
    assert open_state(str(tmp_path)).problem == f"cannot lock {tmp_path}: No locks available"


def test_others_see_that_it_is_in_use(tmp_path: Path) -> None:
    """Without a place of their own in it, and where there is nothing at all."""
    assert not in_use(str(tmp_path))
    state = open_state(str(tmp_path))
    assert in_use(str(tmp_path))
    state.close()
    assert not in_use(str(tmp_path))


def test_a_glance_at_the_lock_turns_no_agent_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`in_use` holds it for a moment."""
    open_state(str(tmp_path)).close()
    glance = os.open(tmp_path / "lock", os.O_RDONLY)
    fcntl.flock(glance, fcntl.LOCK_SH)
    monkeypatch.setattr("edge_agent.state.time.sleep", lambda _: os.close(glance))
    state = open_state(str(tmp_path))
    assert state.problem == ""
    state.close()
