"""The oracle's table against the real Collector: what it says about it is checked, not copied."""

import pytest

from edge_agent.otlp.signal import Signal
from tests.agent.receiver.asking import ask
from tests.agent.receiver.oracle import ROWS
from tests.peers.conftest import StartCollector

pytestmark = [pytest.mark.peer, pytest.mark.timeout(600)]


def spans_in(received: bytes) -> int:
    """How many spans are in the lines of the file exporter, which leaves out an empty id."""
    return received.count(b'"endTimeUnixNano":')


async def test_the_collector_answers_as_the_table_says(collector: StartCollector) -> None:
    """Every row that can be put to it: the answer, and in the end how many spans went on."""
    peer = await collector()
    rows = [row for row in ROWS if not row.not_rerun]
    ports = {"http_port": peer.http(Signal.TRACES).port, "grpc_port": peer.grpc.port}
    answers, expected, items = {}, {}, 0
    for row in rows:
        answers[row.name] = await ask(row, **ports)
        expected[row.name], _, went_on = row.collector.partition(" +")
        items += int(went_on or 0)
    assert {name: answer for name, answer in answers.items() if answer != expected[name]} == {}
    assert (
        spans_in(await peer.wait_for_received(lambda received: spans_in(received) >= items))
        == items
    )
