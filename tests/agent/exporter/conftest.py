"""Clients that are closed when a test is over."""

from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest

from edge_agent.exporter.retry import Client
from edge_agent.otlp.signal import Signal
from edge_agent.settings import Endpoint
from tests.agent.exporter.contract import OpenClient, new_client


@pytest.fixture
async def open_client() -> AsyncIterator[OpenClient]:
    """Opens the client of a kind towards one endpoint, or one a signal."""
    clients: list[Client] = []

    def open_(kind: str, endpoints: Endpoint | Mapping[Signal, Endpoint], **changes: Any) -> Client:
        clients.append(new_client(kind, endpoints, **changes))
        return clients[-1]

    yield open_
    for client in clients:
        await client.close()
