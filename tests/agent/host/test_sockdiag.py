"""TCP sockets as the kernel dumps them."""

import socket
import struct
from pathlib import Path

import pytest

from edge_agent.host import network, sockdiag
from edge_agent.host.machine import Machine
from edge_agent.host.network import CONNECTIONS, Connections
from tests.agent.host.trees import plant, values


def message(kind: int, body: bytes) -> bytes:
    """A netlink message with its padding."""
    raw = struct.pack("=IHHII", 16 + len(body), kind, 2, 1, 0) + body
    return raw + bytes(-len(raw) % 4)


def test_states_are_read_up_to_the_end_of_the_dump() -> None:
    """Several messages a datagram, each aligned; what follows the end is not ours."""
    datagram = message(20, bytes([2, 10]) + bytes(71)) + message(20, bytes([10, 1]))
    done = message(3, bytes(4))
    assert list(sockdiag.read_states(datagram)) == [10, 1]
    assert list(sockdiag.read_states(datagram + done + datagram)) == [10, 1, None]
    assert list(sockdiag.read_states(b"")) == []


def test_an_error_of_the_kernel_is_an_oserror() -> None:
    """ENOENT: no inet_diag."""
    with pytest.raises(FileNotFoundError):
        list(sockdiag.read_states(message(2, struct.pack("=i", -2))))


def test_the_request_is_the_kernels_struct() -> None:
    """nlmsghdr and inet_diag_req_v2: 72 bytes, a dump, TCP, all states."""
    data = sockdiag.request(socket.AF_INET6)
    assert len(data) == 72
    assert struct.unpack_from("=IHH", data) == (72, 20, 0x301)
    assert struct.unpack_from("=BBBxI", data, 16) == (socket.AF_INET6, 6, 0, 0xFFFFFFFF)


def test_a_kernel_that_does_not_answer_is_asked_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tables of /proc/net say the same, only slower."""
    asked = []

    def refused() -> dict[int, int]:
        asked.append(1)
        raise PermissionError

    monkeypatch.setattr(network, "tcp_states", refused)
    subject = Connections(Machine())
    for _ in range(2):
        counts = values(subject.sample(), CONNECTIONS, "network.connection.state")
        assert len(counts) == 11
    assert len(asked) == 1


def test_both_sources_see_our_sockets() -> None:
    """A listener and both ends of a connection, in the dump and in the tables."""
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as client,
        server.accept()[0],
    ):
        tables = network._tables(Machine())
        assert tables is not None
        assert tables[10] >= 1
        assert tables[1] >= 2
        try:
            dumped = sockdiag.tcp_states()
        except OSError as error:
            pytest.skip(f"the kernel does not answer: {error}")
        assert dumped[10] >= 1
        assert dumped[1] >= 2
        assert client.fileno() >= 0


def test_another_machines_tables_are_not_taken_from_our_kernel(tmp_path: Path) -> None:
    """A recorded file, and none at all."""
    head = "  sl  local_address rem_address   st\n"
    recorded = plant(tmp_path, {"proc/net/tcp": head + "0: 0:0 0:0 08 0:0\n"})
    counts = values(Connections(recorded).sample(), CONNECTIONS, "network.connection.state")
    assert {state: count for state, count in counts.items() if count} == {"close_wait": 1}
    nothing = plant(tmp_path / "empty", {})
    assert list(Connections(nothing).sample()) == []
