"""The receiver alone, as a program: what it takes is counted and forgotten.

`python -m tests.fakes.receiver` prints the port of each server, and ends with its standard input.
"""

import asyncio
import sys

from edge_agent.otlp.batch import Enricher
from edge_agent.otlp.signal import Signal
from edge_agent.receiver import grpc_server, http_server
from edge_agent.receiver.core import Core
from edge_agent.transport.budget import Budget
from edge_agent.transport.turns import Turns

BUDGET_BYTES = 24 << 20


async def _serve() -> None:
    core = Core(
        enricher=Enricher((("customer.id", "acme"), ("node.id", "edge-01")), own_instance_id="own"),
        signals=frozenset(Signal),
        validate="structure",
        sample_rate=1.0,
        offer=lambda _signal, _pieces: True,
        accounts={},
    )
    budget = Budget(BUDGET_BYTES)
    turns = Turns(asyncio.get_running_loop().call_soon)
    server = await http_server.serve(core, budget, host="127.0.0.1", port=0, turns=turns)
    grpc = await grpc_server.serve(core, budget, host="127.0.0.1", port=0, turns=turns)
    print(*server.ports, *grpc.ports, flush=True)  # noqa: T201  (for whoever started it)
    loop = asyncio.get_running_loop()
    await loop.run_in_executor(None, sys.stdin.read)
    await server.close(0.0)
    await grpc.close(0.0)


if __name__ == "__main__":
    asyncio.run(_serve())
