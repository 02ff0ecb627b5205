"""What we answer to each of the oracle's inputs, in both modes of validation."""

import json

import pytest

from edge_agent.otlp.status import decode_status
from tests.agent.receiver.asking import ask
from tests.agent.receiver.oracle import HTTP_ROWS, ROWS, Http, Row
from tests.agent.receiver.servers import connected, receiving


def of_rows(rows: tuple[Row, ...]) -> pytest.MarkDecorator:
    """A test for each row."""
    return pytest.mark.parametrize("row", [pytest.param(row, id=row.name) for row in rows])


def test_every_difference_has_its_reason() -> None:
    """No row differs from the Collector without saying why; no two rows have one name."""
    for row in ROWS:
        differs = {row.expected, row.expected_full} != {row.collector}
        assert differs == bool(row.why), row.name
        assert row.ours != row.collector, row.name
    assert len({row.name for row in ROWS}) == len(ROWS) >= 120


@of_rows(ROWS)
@pytest.mark.parametrize("validate", ["structure", "full"])
async def test_we_answer_as_the_table_says(row: Row, validate: str) -> None:
    """Status, kind of body, code, what goes on, and what becomes of the connection."""
    async with receiving(validate=validate) as receiver:
        receiver.queues.full = row.queues_full
        answer = await ask(row, http_port=receiver.port, grpc_port=receiver.grpc_port)
        if receiver.queues.items:
            answer += f" +{receiver.queues.items}"
    assert answer == (row.expected if validate == "structure" else row.expected_full)


@of_rows(tuple(row for row in HTTP_ROWS if isinstance(row.send, Http)))
async def test_a_refusal_says_what_is_wrong_and_a_success_says_nothing(row: Row) -> None:
    """CONTRACT: success is the empty message; a Status never comes without its message."""
    async with receiving() as receiver, connected(receiver.port) as wire:
        receiver.queues.full = row.queues_full
        assert isinstance(row.send, Http)
        await wire.send(row.send.data())
        answer = await wire.answer(head_only=row.send.head_only)
    kind = answer.headers["content-type"]
    if answer.status == 200:
        assert answer.body == (b"{}" if kind == "application/json" else b"")
    elif kind == "application/json":
        assert json.loads(answer.body)["message"]
    elif kind == "application/x-protobuf" and not row.send.head_only:
        assert decode_status(answer.body).message
    else:
        assert row.send.head_only or answer.body.strip()
    assert (answer.headers.get("retry-after") is not None) == (answer.status == 503)
    assert (answer.headers.get("allow") == "POST") == (answer.status == 405)
