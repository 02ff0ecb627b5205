"""`make run`: what it says, what it starts with, and that nothing it started outlives it."""

import asyncio
import contextlib
import fcntl
import os
import re
import signal
import socket
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from edge_agent.config import InvalidConfigError
from edge_agent.health.sdnotify import Notifier
from edge_agent.settings import Address
from tests.fakes.collector import FakeCollector
from tests.fakes.programs import ROOT, eventually, free_port
from tools.run import Desk, attend, introduction
from tools.run_flow import Counts, Flow, conclusion, flow, last_word, periodic, total
from tools.run_program import Output, Program, StatusSocket, exit_code
from tools.run_settings import Setup, prepare

# ---- what it says -------------------------------------------------------------------------------

AGENT = """\
# TYPE agent_items_total counter
agent_items_total{node_id="n",destination="adapter",signal="metrics",outcome="accepted"} 20
agent_items_total{node_id="n",destination="adapter",signal="metrics",outcome="delivered"} 12
agent_items_total{node_id="n",destination="collector",signal="metrics",outcome="accepted"} 20
agent_items_total{node_id="n",destination="collector",signal="logs",outcome="accepted"} 3
agent_items_total{node_id="n",destination="collector",signal="logs",outcome="delivered"} 1
agent_items_total{node_id="n",destination="collector",signal="logs",outcome="rejected"} 2
agent_items_total{node_id="n",destination="collector",signal="metrics",outcome="dropped"} 4
agent_items_total{node_id="n",destination="collector",signal="metrics",outcome="sampled_out"} 9
agent_held_items{node_id="n",destination="adapter",signal="metrics"} 8
agent_held_items{node_id="n",destination="collector",signal="metrics"} 16
"""
NOW = Flow({"adapter": Counts(20, 12, 0, 8), "collector": Counts(23, 1, 6, 16)}, 12)


def test_what_flows_is_read_from_both_programs() -> None:
    """By destination, over all signals; what was sampled out is not lost."""
    assert flow(AGENT, "adapter_rows_total 12\n") == NOW
    assert flow("", "") == Flow({}, 0)
    assert total(AGENT, "agent_held_items") == 24


def test_the_line_of_every_few_seconds_shows_every_destination() -> None:
    """What came since the last one, and how each stands; the adapter alone needs no name."""
    before = Flow({"adapter": Counts(5)}, 2)
    assert periodic(before, NOW) == (
        "+15 data points, +10 rows stored; so far to the adapter 12 delivered, 8 waiting, 0 lost;"
        " to the collector 1 delivered, 16 waiting, 6 lost"
    )
    alone = Flow({"adapter": Counts(20, 12, 0, 8)}, 12)
    assert periodic(before, alone) == (
        "+15 data points, +10 rows stored; so far 12 delivered, 8 waiting, 0 lost"
    )
    assert periodic(Flow(), Flow()) == "+0 data points, +0 rows stored"


def test_the_end_counts_each_destination_for_itself() -> None:
    """Not one sum of both, which would be twice what there was."""
    word = "stopped adapter accepted=9 delivered=9 lost=0, collector accepted=12 delivered=8 lost=4"
    assert list(conclusion(last_word(word), 9)) == [
        "to the adapter: delivered 9 of 9 data points, 0 lost; 9 rows stored",
        "to the collector: delivered 8 of 12 items, 4 lost",
    ]
    alone = last_word("stopped adapter accepted=9 delivered=8 lost=1")
    assert list(conclusion(alone, 8)) == ["delivered 8 of 9 data points, 1 lost; 8 rows stored"]
    assert list(conclusion(alone, None)) == ["delivered 8 of 9 data points, 1 lost"]
    assert last_word("delivering what is held") == {}


# ---- what it starts with ------------------------------------------------------------------------


async def prepared(state: Path, **environ: str) -> tuple[Setup, list[str]]:
    """The setup, and what was said of it; ports that are free unless given."""
    said: list[str] = []
    own = {"HEALTH_CHECK_PORT": str(free_port()), "PORT": str(free_port()), "HOME": "/nowhere"}
    return await prepare({**own, **environ}, state, said.append), said


@pytest.mark.parametrize(
    ("environ", "problem"),
    [
        (
            {"HEALTH_CHECK_PORT": "abc"},
            "health_check.port=abc (HEALTH_CHECK_PORT): not a whole number; write it in digits"
            " alone",
        ),
        (
            {"HEALTH_CHECK_PORT": "0"},
            "health_check.port=0 (HEALTH_CHECK_PORT): `make run` says where to look; write a port",
        ),
        (
            {"RECEIVER_HTTP": "localhost:0"},
            "receiver.http=localhost:0 (RECEIVER_HTTP): `make run` says where to look; write a"
            " port",
        ),
        ({"PORT": "0"}, "PORT=0 (environment): `make run` says where to look; write a port"),
        (
            {"PORT": "x"},
            "PORT=x (environment): not a whole number; write it in digits alone",
        ),
        (
            {"LISTEN_HOST": "0.0.0.0"},
            "LISTEN_HOST=0.0.0.0: off loopback anyone could write; set TOKENS_FILE, or"
            " ALLOW_ANONYMOUS=true where the network keeps others out",
        ),
        (
            {"HEALTH_CHECK_HOST": "203.0.113.7"},
            "health_check.port: cannot listen on 203.0.113.7:PORT: Cannot assign requested"
            " address; choose another host or port",
        ),
        (
            {"METRICS_INTERVAL": "15"},
            "telemetry.metrics.interval=15 (METRICS_INTERVAL): has no unit; write 15s for seconds,"
            " 15ms for milliseconds",
        ),
    ],
)
async def test_a_bad_setting_is_said_before_anything_starts(
    tmp_path: Path, environ: dict[str, str], problem: str
) -> None:
    """With value, source and remedy, as the programs say it."""
    with pytest.raises(InvalidConfigError) as caught:
        await prepared(tmp_path, **environ)
    assert [re.sub(r":\d{4,5}:", ":PORT:", text) for text in caught.value.problems] == [problem]


async def test_all_that_is_wrong_with_both_is_said_at_once(tmp_path: Path) -> None:
    """So that it is put right in one go."""
    with pytest.raises(InvalidConfigError) as caught:
        await prepared(tmp_path, HEALTH_CHECK_PORT="abc", PORT="abc")
    assert len(caught.value.problems) == 2


async def test_an_adapter_with_tls_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would be asked in plain HTTP, and never be found ready."""
    monkeypatch.setattr("adapter.config._tls", lambda _values: object())
    with pytest.raises(InvalidConfigError) as caught:
        await prepared(tmp_path)
    assert caught.value.problems == (
        "TLS_CERTIFICATE: `make run` asks its adapter in plain HTTP; unset it",
    )


async def test_hosts_are_the_users(tmp_path: Path) -> None:
    """What listens everywhere is reached on loopback."""
    setup, _ = await prepared(
        tmp_path,
        HEALTH_CHECK_HOST="localhost",
        LISTEN_HOST="0.0.0.0",
        ALLOW_ANONYMOUS="true",
    )
    port = int(setup.adapter_environ["PORT"])
    assert setup.adapter == Address("127.0.0.1", port)
    assert setup.agent_environ["ADAPTER_ENDPOINT"] == f"http://127.0.0.1:{port}"
    assert setup.health.host == setup.config.health.host == "localhost"
    assert setup.adapter_environ["LISTEN_HOST"] == "0.0.0.0"


@pytest.fixture
def _default_ports_taken() -> Iterator[None]:
    # By us or, as good, by whoever runs on this machine.
    with contextlib.ExitStack() as stack:
        for port in (4317, 4318):
            with contextlib.suppress(OSError):
                stack.enter_context(socket.create_server(("127.0.0.1", port)))
        yield


@pytest.mark.usefixtures("_default_ports_taken")
async def test_taken_ports_of_the_receiver_are_replaced_and_said(tmp_path: Path) -> None:
    """The next free ones; an app that is set up by hand has to know."""
    setup, said = await prepared(tmp_path)
    grpc, http = setup.config.receiver.grpc.port, setup.config.receiver.http.port
    assert 4318 < grpc < http
    assert said == [f"port 4317 is taken, using {grpc}", f"port 4318 is taken, using {http}"]
    assert f"  apps       send OTLP to localhost:{grpc} (gRPC), :{http} (HTTP)" in list(
        introduction(setup)
    )


async def test_a_collector_on_this_machine_keeps_its_port(tmp_path: Path) -> None:
    """Also before it is started; the receiver moves on, and stays on."""
    setup, _ = await prepared(tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT="http://localhost:4317")
    assert setup.config.receiver.enabled
    assert setup.config.receiver.grpc.port not in (4317, 4318)
    assert "  collector  http://localhost:4317" in list(introduction(setup))


async def test_a_receiver_that_the_user_placed_stays_there(tmp_path: Path) -> None:
    """No other port is looked for, and the other receiver keeps clear of it."""
    port = free_port()
    setup, _ = await prepared(tmp_path, RECEIVER_GRPC=f"127.0.0.1:{port}", RECEIVER_HTTP="[::1]:9")
    receiver = setup.config.receiver
    assert (receiver.grpc, receiver.http) == (Address("127.0.0.1", port), Address("::1", 9))
    assert f"  apps       send OTLP to 127.0.0.1:{port} (gRPC), [::1]:9 (HTTP)" in list(
        introduction(setup)
    )


async def test_what_make_run_decides_itself_is_said(tmp_path: Path) -> None:
    """The adapter is its own; the service manager's socket is not for its children."""
    setup, said = await prepared(
        tmp_path, ADAPTER_ENDPOINT="http://other:1", STORE="sqlite", NOTIFY_SOCKET="/run/x"
    )
    assert [text for text in said if "not used" in text] == [
        "ADAPTER_ENDPOINT=http://other:1 is not used: this is the adapter with its own store"
    ]
    assert "NOTIFY_SOCKET" not in {**setup.agent_environ, **setup.adapter_environ}
    assert "STATE_DIRECTORY" not in setup.agent_environ


async def test_no_port_left_is_an_error(tmp_path: Path) -> None:
    """The last one is taken."""
    with socket.socket() as taken:
        with contextlib.suppress(OSError):
            taken.bind(("127.0.0.1", 65535))
            taken.listen()
        with pytest.raises(InvalidConfigError) as caught:
            await prepared(tmp_path, PORT="65535")
    assert caught.value.problems == ("PORT: no port from 65535 on is free; choose a lower one",)


# ---- children -----------------------------------------------------------------------------------


def script(folder: Path, name: str, text: str) -> dict[str, str]:
    """A module for a Program, and the environment it is found in."""
    (folder / f"{name}.py").write_text(text)
    return {"PYTHONPATH": str(folder)}


async def test_every_line_of_a_program_passes_through(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """However long, on either stream, and without a newline at the end."""
    environ = script(tmp_path, "wordy", "import sys; print('x' * 200000); sys.stderr.write('end')")
    program = Program("p", "wordy", environ, Output(gone=lambda: None))
    await program.start()
    await program.ended.wait()
    assert sorted(capsys.readouterr().out.splitlines(), key=len) == [
        "[p] end",
        f"[p] {'x' * 200000}",
    ]
    assert (program.code, program.fate, await program.stop()) == (0, "ended with exit code 0", 0)


async def test_a_program_that_does_not_stop_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And that is said."""
    text = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    environ = script(tmp_path, "deaf", f"{text}print('deaf', flush=True)\ntime.sleep(600)")
    monkeypatch.setattr("tools.run_program.STOP_S", 0.05)
    deaf = asyncio.Event()

    class Listening(Output):
        def line(self, text: str) -> None:
            super().line(text)
            deaf.set()

    program = Program("p", "deaf", environ, Listening(gone=lambda: None))
    await program.start()
    await deaf.wait()
    assert await program.stop() == -signal.SIGKILL
    assert program.fate == "was ended by signal 9 (Killed)"
    assert "the p did not stop within 0 s, killing it" in capsys.readouterr().out
    assert exit_code(-signal.SIGKILL) == 137


async def test_a_program_that_never_ran_has_nothing_to_stop() -> None:
    """A stop may come before the start."""
    program = Program("p", "x", {}, Output(gone=lambda: None))
    assert (program.pid, await program.stop()) == (None, 0)


async def test_the_last_status_is_kept() -> None:
    """As the agent sends it: sd_notify(3)."""
    heard = StatusSocket()
    notifier = Notifier(heard.address)
    notifier.ready("sending")
    heard.read()
    assert heard.last == "sending"
    notifier.watchdog()
    notifier.status("stopped adapter accepted=1 delivered=1 lost=0")
    heard.close()
    assert heard.last == "stopped adapter accepted=1 delivered=1 lost=0"


async def test_a_stop_while_a_program_starts_is_obeyed_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ctrl-C does not wait for a /health that may never come."""
    setup, _ = await prepared(tmp_path)
    output = Output(gone=lambda: None)
    desk = Desk(setup, output)
    text = "import time; print('started', flush=True); time.sleep(600)"
    desk.adapter.module, desk.adapter.environ = "silent", script(tmp_path, "silent", text)
    stop = asyncio.Event()
    ending = asyncio.create_task(attend(desk, output, stop))
    async with asyncio.timeout(30):
        while desk.adapter.pid is None:
            await asyncio.sleep(0)
        stop.set()
        assert await ending == 0
    assert desk.agent.pid is None
    assert "stopping: " in capsys.readouterr().out


async def test_a_program_that_is_never_ready_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the reason, and both stopped."""
    monkeypatch.setattr("tools.run.START_S", 0.0)
    setup, _ = await prepared(tmp_path)
    output = Output(gone=lambda: None)
    desk = Desk(setup, output)
    desk.adapter.module = "timeit"
    assert await attend(desk, output, asyncio.Event()) == 1
    assert "the adapter did not answer within 0 s" in capsys.readouterr().out


# ---- the whole ----------------------------------------------------------------------------------


class Run:
    """`python -m tools.run` with free ports and a sample every second."""

    def __init__(self, state: Path, *, stdout: int = subprocess.PIPE, **environ: str) -> None:
        ports = [str(free_port()) for _ in range(4)]
        own = {
            "PATH": "/usr/bin:/bin",
            "HEALTH_CHECK_PORT": ports[0],
            "PORT": ports[1],
            "RECEIVER_GRPC": f"127.0.0.1:{ports[2]}",
            "RECEIVER_HTTP": f"127.0.0.1:{ports[3]}",
            "METRICS_INTERVAL": "1s",
        }
        terminal = stdout != subprocess.PIPE

        def take_terminal() -> None:
            # The first of a new session: a terminal that is closed tells it by SIGHUP.
            fcntl.ioctl(1, termios.TIOCSCTTY, 0)

        self.process = subprocess.Popen(
            [sys.executable, "-m", "tools.run", "--state", str(state)],
            cwd=ROOT,
            env={**own, **environ},
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=terminal,
            preexec_fn=take_terminal if terminal else None,
        )
        self.programs: list[psutil.Process] = []

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.programs = psutil.Process(self.process.pid).children()
            self.process.kill()
            self.process.wait()
        for program in self.programs:
            with contextlib.suppress(psutil.NoSuchProcess):
                program.kill()
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()

    def wait_for(self, pattern: str) -> list[str]:
        """Lines up to one that matches; both programs are known from then on."""
        assert self.process.stdout is not None
        lines = []
        for line in self.process.stdout:
            lines.append(line)
            if re.search(pattern, line):
                break
        else:
            raise AssertionError(f"no {pattern} in:\n{''.join(lines)}")
        self.programs = psutil.Process(self.process.pid).children()
        return lines

    def nothing_left(self) -> None:
        """Neither program runs any more."""
        assert len(self.programs) == 2
        eventually(
            lambda: not any(_alive(program) for program in self.programs), "both programs to end"
        )


def _alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize("level", ["info", "error"])
async def test_with_a_collector_each_destination_is_shown_and_counted(
    tmp_path: Path, level: str
) -> None:
    """While it runs and at its end, whatever the agent itself logs."""
    async with FakeCollector() as collector:
        run = Run(
            tmp_path,
            OTEL_EXPORTER_OTLP_ENDPOINT=str(collector.endpoint),
            LOG_LEVEL=level,
        )
        with run:
            pattern = r"to the collector [1-9]\d* delivered, \d+ waiting, 0 lost"
            await asyncio.to_thread(run.wait_for, pattern)
            run.process.send_signal(signal.SIGINT)
            out, err = await asyncio.to_thread(run.process.communicate, None, 60)
    assert (run.process.returncode, err) == (0, "")
    assert re.search(
        r"to the adapter: delivered ([1-9]\d*) of \1 data points, 0 lost; \1 rows stored", out
    ), out
    assert re.search(r"to the collector: delivered ([1-9]\d*) of \1 items, 0 lost", out), out


def test_a_program_that_dies_is_named_with_what_it_died_of(tmp_path: Path) -> None:
    """And the exit code is the one a shell would give."""
    with Run(tmp_path) as run:
        run.wait_for("Ctrl-C stops both")
        (agent,) = [p for p in run.programs if p.cmdline()[-1] == "edge_agent"]
        agent.kill()
        out, err = run.process.communicate(timeout=60)
        run.nothing_left()
    assert (run.process.returncode, err) == (137, "")
    assert "the agent was ended by signal 9 (Killed)" in out


def test_a_program_that_cannot_start_is_named_too(tmp_path: Path) -> None:
    """Here the store's directory is a file."""
    (tmp_path / "adapter").touch()
    with Run(tmp_path) as run:
        out, err = run.process.communicate(timeout=60)
    assert run.process.returncode not in (0, None)
    assert f"the adapter ended with exit code {run.process.returncode}" in out
    assert "Traceback" not in err


def test_a_bad_setting_is_one_line_and_78(tmp_path: Path) -> None:
    """No traceback, nothing started."""
    with Run(tmp_path, HEALTH_CHECK_PORT="abc") as run:
        out, err = run.process.communicate(timeout=60)
    assert (run.process.returncode, out) == (78, "")
    assert err == (
        "make run: health_check.port=abc (HEALTH_CHECK_PORT): not a whole number; write it in"
        " digits alone\n"
    )


def test_a_killed_runner_leaves_nothing_behind(tmp_path: Path) -> None:
    """SIGKILL gives it no chance to clean up: the kernel tells its children (prctl(2))."""
    with Run(tmp_path) as run:
        run.wait_for("Ctrl-C stops both")
        run.process.kill()
        run.process.wait()
        run.nothing_left()


def test_a_reader_that_goes_away_ends_it_in_order(tmp_path: Path) -> None:
    """`python -m tools.run | head -3`."""
    with Run(tmp_path) as run:
        run.wait_for("Ctrl-C stops both")
        assert run.process.stdout is not None
        run.process.stdout.close()
        assert run.process.wait(60) == 0
        run.nothing_left()
        assert run.process.stderr is not None
        assert run.process.stderr.read() == ""


def test_a_terminal_that_is_closed_ends_it_in_order(tmp_path: Path) -> None:
    """SIGHUP, and from then on every word to the terminal fails."""
    ours, theirs = os.openpty()
    with Run(tmp_path, stdout=theirs) as run:
        os.close(theirs)
        shown = b""
        while b"Ctrl-C stops both" not in shown:
            shown += os.read(ours, 4096)
        run.programs = psutil.Process(run.process.pid).children()
        os.close(ours)
        assert run.process.wait(60) == 0
        run.nothing_left()
        assert run.process.stderr is not None
        assert run.process.stderr.read() == ""
