"""What receiving a small OTLP/gRPC call costs: `python -m benchmarks.receive_grpc`.

CPU time of the server process per call of 8 spans, saturated by grpcio's client with four
connections of one open call each. Ours with a core that does nothing, ours with the real core, and
grpcio's own server with four threads take turns in one run, so that their ratio means something
where the microseconds do not. The median of the turns after the first; memory is what it is then.
"""

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import threading
from concurrent import futures
from pathlib import Path
from typing import Any

from edge_agent.otlp.batch import Enricher
from edge_agent.otlp.signal import GRPC_PATHS, Signal
from edge_agent.otlp.wire import bytes_field
from edge_agent.receiver import grpc_server
from edge_agent.receiver.core import Accepted, Core
from edge_agent.transport.budget import Budget

KINDS = ("ours, no core", "ours", "grpcio")
CONNECTIONS = 4
PATH = GRPC_PATHS[Signal.TRACES]


class NoCore(Core):
    """Takes everything unread."""

    def take(
        self,
        signal: Signal,
        body: bytes,  # noqa: ARG002  (Core's signature)
        *,
        json: bool = False,  # noqa: ARG002  (Core's signature)
        sender: str = "",  # noqa: ARG002  (Core's signature)
    ) -> Accepted:
        """Nothing becomes of it."""
        return Accepted(signal, b"", 0)


def request() -> bytes:
    """8 spans of 300 bytes."""
    text = bytes_field(1, b"name") + bytes_field(2, bytes_field(1, b"x" * 220))
    times = b"\x39" + bytes(8) + b"\x41" + bytes(8)
    span = bytes_field(1, b"t" * 16) + bytes_field(2, b"s" * 8) + bytes_field(5, b"GET") + times
    spans = b"".join(bytes_field(2, span + bytes_field(9, text)) for _ in range(8))
    return bytes_field(1, bytes_field(2, spans))


async def serve_ours(core: type[Core]) -> None:
    """Serve until standard input ends."""
    taking = core(
        enricher=Enricher((("customer.id", "acme"), ("node.id", "edge")), own_instance_id="own"),
        signals=frozenset(Signal),
        validate="structure",
        sample_rate=1.0,
        offer=lambda _signal, _pieces: True,
        accounts={},
    )
    server = await grpc_server.serve(taking, Budget(24 << 20), host="127.0.0.1", port=0)
    print(server.ports[0], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await server.close(0.0)


def serve_grpcio() -> None:
    """Serve until standard input ends."""
    import grpc  # Ours has to do without its memory.

    class Empty(grpc.GenericRpcHandler):
        def service(self, _call: Any) -> Any:
            return grpc.unary_unary_rpc_method_handler(lambda _request, _context: b"")

    server = grpc.server(futures.ThreadPoolExecutor(4), handlers=(Empty(),))
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    server.start()
    sys.stdin.read()
    server.stop(0)


def load(port: int, calls: int) -> None:
    """`calls` calls on each of the connections."""
    import grpc

    body = request()

    def client() -> None:
        options = [("grpc.use_local_subchannel_pool", 1)]
        with grpc.insecure_channel(f"127.0.0.1:{port}", options) as channel:
            call = channel.unary_unary(PATH)
            for _ in range(calls):
                call(body, timeout=10)

    clients = [threading.Thread(target=client) for _ in range(CONNECTIONS)]
    for each in clients:
        each.start()
    for each in clients:
        each.join()


def cpu_s(pid: int) -> float:
    """User and system time of a process (proc_pid_stat(5))."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory_kb(pid: int) -> tuple[int, int]:
    """RSS and anonymous memory (proc_pid_status(5))."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    kb = {line.split(":")[0]: line.split()[1] for line in lines if line.endswith(" kB")}
    return int(kb["VmRSS"]), int(kb["RssAnon"])


def compare(calls: int, turns: int) -> None:
    """Print a row for each server."""
    me = [sys.executable, "-m", "benchmarks.receive_grpc"]
    servers = {
        kind: subprocess.Popen(
            [*me, "--serve", kind], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for kind in KINDS
    }
    ports = {kind: server.stdout.readline().strip() for kind, server in servers.items()}
    spent: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for _ in range(turns):
        for kind, server in servers.items():
            before_s = cpu_s(server.pid)
            subprocess.run([*me, "--load", ports[kind], "--calls", str(calls)], check=True)
            spent[kind].append((cpu_s(server.pid) - before_s) / (calls * CONNECTIONS) * 1e6)
    ours = statistics.median(spent[KINDS[0]][1:])
    print(f"{'server':14} {'us a call':>9} {'x':>5} {'RSS MB':>7} {'anonymous MB':>13}")
    for kind, server in servers.items():
        rss, anonymous = memory_kb(server.pid)
        us = statistics.median(spent[kind][1:])
        row = f"{kind:14} {us:>9.1f} {us / ours:>5.1f} {rss / 1024:>7.1f} {anonymous / 1024:>13.1f}"
        print(row)
        server.communicate("")


def main() -> None:
    """Print the table, or be one of the processes that it takes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few calls, two turns")
    parser.add_argument("--serve", choices=KINDS, help=argparse.SUPPRESS)
    parser.add_argument("--load", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--calls", type=int, default=4000, help="a connection and turn")
    asked = parser.parse_args()
    if asked.serve == "grpcio":
        serve_grpcio()
    elif asked.serve:
        asyncio.run(serve_ours(NoCore if asked.serve == KINDS[0] else Core))
    elif asked.load:
        load(asked.load, asked.calls)
    else:
        compare(200 if asked.quick else asked.calls, 2 if asked.quick else 4)


if __name__ == "__main__":
    main()
