"""`make run`: agent and adapter on this machine, with the embedded store, until Ctrl-C.

Settings of both programs are taken from the environment as usual; what is not set gets a value
that works on a desk: CUSTOMER_ID=demo, a sample every 5 s, state under .run/, the next free port
where one is taken.
"""

import argparse
import asyncio
import contextlib
import os
import re
import signal
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from edge_agent.settings import Endpoint
from edge_agent.transport.dial import Tls
from edge_agent.transport.http1_client import Http1Client

ROOT = Path(__file__).parent.parent
LINE_EVERY_S = 5.0
START_S = 30.0
STOP_S = 15.0
_SAMPLE = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$", re.MULTILINE)


def free_port(wanted: int, taken: set[int]) -> int:
    """`wanted` on the loopback interface, or the next port that nothing listens on."""
    for port in range(wanted, 65536):
        if port in taken:
            continue
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port != wanted:
            say(f"port {wanted} is taken, using {port}")
        taken.add(port)
        return port
    raise SystemExit(f"no free port from {wanted} on")


def say(text: str) -> None:
    """One line of ours, with the local time, at once."""
    print(f"{datetime.now(UTC).astimezone():%H:%M:%S}  {text}", flush=True)


def total(metrics: str, name: str, **labels: str) -> float:
    """The sum of all samples of `name` in a Prometheus text whose labels include `labels`."""
    wanted = [f'{key}="{value}"' for key, value in labels.items()]
    return sum(
        float(value)
        for found, has, value in _SAMPLE.findall(metrics)
        if found == name and all(label in has for label in wanted)
    )


@dataclass
class Flow:
    """What has flowed since the start: data points."""

    sampled: float = 0
    delivered: float = 0
    held: float = 0
    lost: float = 0
    rows: float = 0

    @classmethod
    def read(cls, agent: str, adapter: str) -> "Flow":
        """From both /metrics."""
        name = "agent_items_total"
        return cls(
            sampled=total(agent, name, destination="adapter", outcome="accepted"),
            delivered=total(agent, name, destination="adapter", outcome="delivered"),
            held=total(agent, "agent_held_items"),
            lost=total(agent, name, outcome="dropped") + total(agent, name, outcome="rejected"),
            rows=total(adapter, "adapter_rows_total"),
        )


@dataclass
class Program:
    """One of the two programs as a child process; its log lines pass through."""

    name: str
    module: str
    environ: Mapping[str, str]
    process: asyncio.subprocess.Process | None = None
    log: list[asyncio.Task[None]] = field(default_factory=list)
    last: str = ""

    async def start(self) -> None:
        """Start it in a session of its own: Ctrl-C is for us to pass on, in order."""
        self.process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            self.module,
            env=dict(self.environ),
            cwd=ROOT,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        self.log.append(asyncio.create_task(self._pass_on()))

    async def _pass_on(self) -> None:
        assert self.process is not None
        assert self.process.stderr is not None
        async for line in self.process.stderr:
            self.last = line.decode(errors="replace").rstrip()
            print(f"[{self.name}] {self.last}", flush=True)

    async def stop(self) -> int:
        """SIGTERM, and SIGKILL when that is not enough; its exit code."""
        assert self.process is not None
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                async with asyncio.timeout(STOP_S):
                    await self.process.wait()
            except TimeoutError:
                say(f"the {self.name} did not stop within {STOP_S:.0f} s, killing it")
                self.process.kill()
        code = await self.process.wait()
        await asyncio.gather(*self.log)
        return code


def environment(given: Mapping[str, str], state: Path) -> dict[str, str]:
    """The environment of both programs: what the user set, and the defaults of `make run`."""
    taken: set[int] = set()
    health = free_port(int(given.get("HEALTH_CHECK_PORT") or 8080), taken)
    adapter = free_port(int(given.get("PORT") or 8081), taken)
    defaults = {
        "CUSTOMER_ID": "demo",
        "METRICS_INTERVAL": "5s",
        "BUFFER_PATH": str(state / "agent"),
    }
    fixed = {
        "HEALTH_CHECK_PORT": str(health),
        "ADAPTER_ENDPOINT": f"http://127.0.0.1:{adapter}",
        "PORT": str(adapter),
        "STATE_DIRECTORY": str(state / "adapter"),
        "STORE": "sqlite",
    }
    return {**defaults, **{k: v for k, v in given.items() if v.strip()}, **fixed}


async def metrics_of(client: Http1Client) -> str:
    """The /metrics text; raises OSError while the program is not there."""
    answer = await client.request("GET", "/metrics", (), b"", timeout_s=5)
    return answer.body.decode()


def client_of(port: str) -> Http1Client:
    """An HTTP client for one of our two programs."""
    endpoint = Endpoint("http", "127.0.0.1", int(port), "")
    return Http1Client(endpoint, tls=Tls(None, None, None), proxy=None)


async def follow(agent: Http1Client, adapter: Http1Client) -> Flow:
    """Print a line of what flowed every few seconds, for ever."""
    before = Flow()
    while True:
        await asyncio.sleep(LINE_EVERY_S)
        try:
            now = Flow.read(await metrics_of(agent), await metrics_of(adapter))
        except OSError:
            continue
        say(
            f"+{now.sampled - before.sampled:.0f} data points sampled, "
            f"+{now.rows - before.rows:.0f} rows stored; "
            f"so far {now.delivered:.0f} delivered, {now.held:.0f} waiting, {now.lost:.0f} lost"
        )
        before = now


async def ready(client: Http1Client, program: Program) -> None:
    """Wait until /health answers; SystemExit when the program ends first or is not ready."""
    assert program.process is not None
    deadline = asyncio.get_running_loop().time() + START_S
    while asyncio.get_running_loop().time() < deadline:
        if program.process.returncode is not None:
            raise SystemExit(program.process.returncode)
        try:
            await client.request("GET", "/health", (), b"", timeout_s=2)
        except OSError:
            await asyncio.sleep(0.1)
        else:
            return
    raise SystemExit(f"the {program.name} did not answer within {START_S:.0f} s")


async def main(state: Path) -> int:
    """Run both until a signal; the exit code of the first that failed, or 0."""
    environ = environment(os.environ, state)
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    adapter = Program("adapter", "adapter", environ)
    agent_environ = {k: v for k, v in environ.items() if k not in ("STATE_DIRECTORY", "PORT")}
    agent = Program("agent", "edge_agent", agent_environ)
    health, store = environ["HEALTH_CHECK_PORT"], environ["PORT"]
    agent_client, adapter_client = client_of(health), client_of(store)
    tasks: list[asyncio.Task[object]] = []
    codes: list[int] = []
    rows = 0.0
    try:
        await adapter.start()
        await ready(adapter_client, adapter)
        await agent.start()
        await ready(agent_client, agent)
        introduce(environ)
        assert agent.process is not None
        assert adapter.process is not None
        tasks = [
            asyncio.create_task(follow(agent_client, adapter_client)),
            asyncio.create_task(stop.wait()),
            asyncio.create_task(agent.process.wait()),
            asyncio.create_task(adapter.process.wait()),
        ]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        say("stopping: the agent delivers what it holds, then the adapter closes its store")
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await agent_client.close()
        # Sources first: the adapter takes what the agent still holds.
        if agent.process is not None:
            codes.append(await agent.stop())
        with contextlib.suppress(OSError):
            rows = total(await metrics_of(adapter_client), "adapter_rows_total")
        await adapter_client.close()
        if adapter.process is not None:
            codes.append(await adapter.stop())
    conclude(agent.last, rows)
    return next((code for code in codes if code), 0)


def conclude(last_line: str, rows: float) -> None:
    """What was delivered, from the agent's last log line and the adapter's count of rows."""
    counts = dict(re.findall(r"(\w+)=(\d+)", last_line))
    if "delivered" in counts:
        say(
            f"delivered {counts['delivered']} of {counts['accepted']} data points, "
            f"{counts['lost']} lost; {rows:.0f} rows stored"
        )


def introduce(environ: Mapping[str, str]) -> None:
    """What is running and where to look."""
    health = f"http://localhost:{environ['HEALTH_CHECK_PORT']}"
    upstream = environ.get("OTEL_EXPORTER_OTLP_ENDPOINT", "none (set OTEL_EXPORTER_OTLP_ENDPOINT)")
    interval = environ["METRICS_INTERVAL"]
    program = os.path.relpath(Path(sys.executable).parent / "cassandra-adapter")
    query = f"STATE_DIRECTORY={os.path.relpath(environ['STATE_DIRECTORY'])} {program} query"
    print(
        f"""
  agent      samples this machine every {interval}, as customer {environ["CUSTOMER_ID"]}
             {health}/health
             {health}/metrics
  adapter    stores in SQLite, {os.path.relpath(environ["STATE_DIRECTORY"])}
             http://localhost:{environ["PORT"]}/health
  collector  {upstream}

  Look at what was stored, newest first:
    {query} {node_id(environ)} system.cpu.percent --since 1h
  Ctrl-C stops both, delivering what is held.
""",
        flush=True,
    )


def node_id(environ: Mapping[str, str]) -> str:
    """The agent's node.id as its default is."""
    return environ.get("NODE_ID", socket.gethostname())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="make run", description=__doc__)
    parser.add_argument("--state", type=Path, default=ROOT / ".run", help="where both keep state")
    sys.exit(asyncio.run(main(parser.parse_args().state)))
