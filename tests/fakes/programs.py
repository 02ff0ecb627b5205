"""The two programs as a user runs them: child processes, on free loopback ports."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
ROOT = Path(__file__).parent.parent.parent
# A loaded two-core machine starts a program in seconds; this is for telling "slow" from "never".
DEADLINE_S = 60.0
POLL_S = 0.05


def free_port() -> int:
    """A port that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def eventually(condition: Callable[[], T | None], what: str, deadline_s: float = DEADLINE_S) -> T:
    """The first true value of `condition`; fails naming `what` after the deadline."""
    end = time.monotonic() + deadline_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"waited {deadline_s:.0f} s for {what}")
        # Polling another process: there is nothing to wait on.
        time.sleep(POLL_S)


def get(url: str, timeout_s: float = 10.0) -> tuple[int, str]:
    """Status and body, whatever the status."""
    try:
        with urllib.request.urlopen(url, timeout=timeout_s) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def sample(metrics: str, name: str, **labels: str) -> float | None:
    """The sum of the samples of `name` that carry `labels`; None if there is none."""
    found = None
    for line in metrics.splitlines():
        head, _, value = line.rpartition(" ")
        if head.partition("{")[0] == name and all(f'{k}="{v}"' in head for k, v in labels.items()):
            found = (found or 0.0) + float(value)
    return found


class Program:
    """One program; its log goes to a file that the assertion messages show."""

    def __init__(
        self, module: str, environ: Mapping[str, str], log: Path, arguments: Sequence[str] = ()
    ) -> None:
        self.log_path = log
        # Settings of whoever runs the tests are not the test's.
        keep = {k: os.environ[k] for k in ("PATH", "HOME", "LANG") if k in os.environ}
        coverage = {k: v for k, v in os.environ.items() if k.startswith("COVERAGE")}
        with log.open("ab") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-W", "error", "-m", module, *arguments],
                env={**keep, **coverage, **environ},
                cwd=ROOT,
                stderr=out,
                stdout=out,
            )

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def stop(self, number: int = signal.SIGTERM, deadline_s: float = 20.0) -> int:
        """Signal it and return its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
            try:
                self.process.wait(deadline_s)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                raise AssertionError(f"did not stop in {deadline_s} s:\n{self.log}") from None
        return self.process.returncode

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


class Adapter(Program):
    """The adapter with its embedded store in `state`."""

    def __init__(self, state: Path, port: int | None = None, **environ: str) -> None:
        self.port = port or free_port()
        self.state = state
        own = {"PORT": str(self.port), "STATE_DIRECTORY": str(state), "STORE": "sqlite"}
        super().__init__("adapter", own | environ, state.with_suffix(".log"))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def health(self) -> dict[str, Any] | None:
        return health_of(self, self.port)

    def query(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """`cassandra-adapter query …` against this adapter's store."""
        return subprocess.run(
            [sys.executable, "-m", "adapter", "query", *arguments],
            env={"STATE_DIRECTORY": str(self.state), "PATH": os.environ["PATH"]},
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )


class Agent(Program):
    """The agent with its state in `state`, sampling every second unless told otherwise."""

    def __init__(
        self,
        state: Path,
        *,
        module: str = "edge_agent",
        arguments: Sequence[str] = (),
        **environ: str,
    ) -> None:
        self.port, self.grpc_port, self.http_port = free_port(), free_port(), free_port()
        own = {
            "HEALTH_CHECK_PORT": str(self.port),
            "RECEIVER_GRPC": f"127.0.0.1:{self.grpc_port}",
            "RECEIVER_HTTP": f"127.0.0.1:{self.http_port}",
            "BUFFER_PATH": str(state),
            "CUSTOMER_ID": "acme",
            "NODE_ID": "edge-01",
            "METRICS_INTERVAL": "1s",
        }
        super().__init__(module, own | environ, state.with_suffix(".log"), arguments)

    def health(self) -> dict[str, Any] | None:
        return health_of(self, self.port)

    def metrics(self) -> str:
        status, text = get(f"http://127.0.0.1:{self.port}/metrics")
        assert status == 200
        return text

    def items(self, outcome: str, destination: str) -> float:
        """The ledger's count of data points."""
        return (
            sample(
                self.metrics(),
                "agent_items_total",
                outcome=outcome,
                destination=destination,
                signal="metrics",
            )
            or 0.0
        )


def health_of(program: Program, port: int) -> dict[str, Any] | None:
    """/health as parsed JSON, None while nothing answers; fails when the program has ended."""
    code = program.process.poll()
    assert code is None, f"ended with {code}:\n{program.log}"
    try:
        _, text = get(f"http://127.0.0.1:{port}/health")
    except OSError:
        return None
    parsed: dict[str, Any] = json.loads(text)
    return parsed
