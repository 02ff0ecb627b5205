"""`make run`: agent and adapter on this machine, with the embedded store, until Ctrl-C.

Settings of both programs are taken from the environment as usual; what is not set gets a value
that works on a desk: CUSTOMER_ID=demo, a sample every 5 s, state under .run/, the next free port
where one is taken. Neither program outlives this one, whatever it dies of.
"""

import argparse
import asyncio
import contextlib
import os
import shlex
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

from edge_agent.config import InvalidConfigError
from edge_agent.otlp.signal import Signal
from edge_agent.settings import Address, Endpoint, format_duration
from edge_agent.transport.dial import Tls
from edge_agent.transport.http1_client import Http1Client
from tools.run_flow import Flow, conclusion, flow, last_word, periodic, stored
from tools.run_program import ROOT, Output, Program, StatusSocket, exit_code
from tools.run_settings import Setup, prepare

LINE_EVERY_S = 5.0
START_S = 30.0
EXIT_FAILED = 1
EXIT_CONFIG = 78


class Desk:
    """Both programs, and what is known of them."""

    def __init__(self, setup: Setup, output: Output) -> None:
        self._setup = setup
        self._output = output
        self._status = StatusSocket()
        self.adapter = Program("adapter", "adapter", setup.adapter_environ, output)
        environ = {**setup.agent_environ, "NOTIFY_SOCKET": self._status.address}
        self.agent = Program("agent", "edge_agent", environ, output)
        self._agent_http = _client(setup.health)
        self._adapter_http = _client(setup.adapter)
        self._flow = Flow()

    async def work(self) -> None:
        """Start both and tell what flows, for ever. Raises TimeoutError where one is not ready."""
        await self.adapter.start()
        await _ready(self._adapter_http, self.adapter)
        await self.agent.start()
        await _ready(self._agent_http, self.agent)
        for line in introduction(self._setup):
            self._output.line(line)
        while True:
            await asyncio.sleep(LINE_EVERY_S)
            try:
                now = flow(await _metrics(self._agent_http), await _metrics(self._adapter_http))
            except OSError:
                continue  # One is on its way out, or too busy to answer: the next line tells.
            self._output.say(periodic(self._flow, now))
            self._flow = now

    async def stop(self) -> list[int]:
        """Sources first: the adapter takes what the agent still holds. Their exit codes."""
        await self._agent_http.close()
        codes = [await self.agent.stop()]
        self._status.close()
        rows = None
        with contextlib.suppress(OSError):
            rows = stored(await _metrics(self._adapter_http))
        await self._adapter_http.close()
        codes.append(await self.adapter.stop())
        destinations = last_word(self._status.last)
        if not destinations and self._flow.destinations:
            self._output.say("the agent did not tell of its end; when it was last asked:")
            destinations = self._flow.destinations
        for line in conclusion(destinations, rows):
            self._output.say(line)
        return codes


async def main(state: Path) -> int:
    """Run both until a signal; the exit code of the first that failed, or 0."""
    stop = asyncio.Event()
    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # As it is under nohup(1).
        numbers.append(signal.SIGHUP)
    for number in numbers:
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    output = Output(gone=stop.set)
    try:
        setup = await prepare(os.environ, state, output.say)
    except InvalidConfigError as error:
        for problem in error.problems:
            print(f"make run: {problem}", file=sys.stderr)
        return EXIT_CONFIG
    desk = Desk(setup, output)
    return await attend(desk, output, stop)


async def attend(desk: Desk, output: Output, stop: asyncio.Event) -> int:
    """Let `desk` work until a stop is asked for or something ends; the exit code."""
    work = asyncio.create_task(desk.work())
    others = [
        asyncio.create_task(event.wait()) for event in (stop, desk.agent.ended, desk.adapter.ended)
    ]
    await asyncio.wait([work, *others], return_when=asyncio.FIRST_COMPLETED)
    codes = []
    for program in (desk.adapter, desk.agent):
        if program.code is not None:
            output.say(f"the {program.name} {program.fate}")
            # Neither ends by itself unless something is wrong.
            codes.append(exit_code(program.code) or EXIT_FAILED)
    for task in (work, *others):
        task.cancel()
    results = await asyncio.gather(work, *others, return_exceptions=True)
    if isinstance(results[0], Exception):
        output.say(str(results[0]))
        codes.append(EXIT_FAILED)
    if desk.adapter.pid is not None:
        output.say("stopping: the agent delivers what it holds, then the adapter closes its store")
    codes += [exit_code(code) for code in await desk.stop()]
    return next((code for code in codes if code), 0)


def _client(address: Address) -> Http1Client:
    endpoint = Endpoint("http", address.host, address.port, "")
    return Http1Client(endpoint, tls=Tls(None, None, None), proxy=None)


async def _metrics(client: Http1Client) -> str:
    """The /metrics text; raises OSError while the program is not there."""
    answer = await client.request("GET", "/metrics", (), b"", timeout_s=5)
    return answer.body.decode()


async def _ready(client: Http1Client, program: Program) -> None:
    """Wait until it answers; raises TimeoutError when it takes too long."""
    loop = asyncio.get_running_loop()
    deadline_s = loop.time() + START_S
    while loop.time() < deadline_s:
        try:
            await client.request("GET", "/metrics", (), b"", timeout_s=2)
        except OSError:
            await asyncio.sleep(0.1)
        else:
            return
    raise TimeoutError(f"the {program.name} did not answer within {START_S:.0f} s")


def introduction(setup: Setup) -> Iterator[str]:
    """What is running and where to look."""
    config = setup.config
    health, adapter = (f"http://{_named(address)}" for address in (setup.health, setup.adapter))
    state = os.path.relpath(setup.adapter_environ["STATE_DIRECTORY"])
    program = os.path.relpath(Path(sys.executable).parent / "cassandra-adapter")
    query = f"STATE_DIRECTORY={shlex.quote(state)} {shlex.quote(program)} query"
    node = shlex.quote(config.identity.node_id)
    collectors = dict.fromkeys(
        f"{endpoint.scheme}://{endpoint.authority}"
        for endpoint in config.collector.endpoints.values()
    )
    yield ""
    what = "does not sample this machine (METRICS_ENABLED is false)"
    if Signal.METRICS in config.telemetry.signals:
        what = f"samples this machine every {format_duration(config.telemetry.interval_s)}"
    yield f"  agent      {what}, as customer {config.identity.customer_id}"
    yield f"             {health}{config.health.path}"
    yield f"             {health}/metrics"
    yield f"  apps       {_apps(setup)}"
    yield f"  adapter    stores in SQLite, {state}"
    yield f"             {adapter}/health"
    yield f"  collector  {', '.join(collectors) or 'none (set OTEL_EXPORTER_OTLP_ENDPOINT)'}"
    yield ""
    yield "  Look at what was stored, newest first:"
    yield f"    {query} {node} system.cpu.percent --since 1h"
    yield "  Ctrl-C stops both, delivering what is held."
    yield ""


def _apps(setup: Setup) -> str:
    receiver = setup.config.receiver
    if not receiver.enabled:
        return (
            f"cannot send: receiver.enabled is false ({setup.config.sources['receiver.enabled']})"
        )
    http = f":{receiver.http.port}"
    if receiver.http.host != receiver.grpc.host:
        http = str(receiver.http)
    return f"send OTLP to {receiver.grpc} (gRPC), {http} (HTTP)"


def _named(address: Address) -> str:
    return f"localhost:{address.port}" if address.host == "127.0.0.1" else str(address)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="make run", description=__doc__)
    parser.add_argument("--state", type=Path, default=ROOT / ".run", help="where both keep state")
    sys.exit(asyncio.run(main(parser.parse_args().state)))
