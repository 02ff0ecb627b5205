"""Interfaces, Wi-Fi and connections."""

from dataclasses import replace
from pathlib import Path

import pytest

from edge_agent.host import network
from tests.agent.host.trees import plant, values

HEAD = b"Inter-|   Receive\n face |bytes\n"
WIRELESS = "Inter-| sta-|\n face | tus |\n"
DEV = HEAD + b"    lo: 5 1 0 0 0 0 0 0 5 1 0 0 0 0 0 0\n  eth0: 7 1 2 3 0 0 0 0 8 1 4 5 0 0 0 0\n"


def test_the_hosts_interfaces_are_those_of_process_1(tmp_path: Path) -> None:
    """/proc/net links to the reader's own: in a container it shows the container's."""
    machine = plant(tmp_path, {"proc/net/dev": HEAD, "proc/1/net/dev": DEV})
    io = values(
        network.Network(machine).sample(),
        network.IO,
        "network.interface.name",
        "network.io.direction",
    )
    assert io == {
        ("lo", "receive"): 5,
        ("lo", "transmit"): 5,
        ("eth0", "receive"): 7,
        ("eth0", "transmit"): 8,
    }


def test_errors_drops_and_packets_keep_their_directions(tmp_path: Path) -> None:
    """Eight columns each way, of which the conventions name four."""
    readings = list(network.Network(plant(tmp_path, {"proc/net/dev": DEV})).sample())
    eth0 = [reading for reading in readings if "eth0" in dict(reading.attributes).values()]
    direction = "network.io.direction"
    assert values(eth0, network.ERRORS, direction) == {"receive": 2, "transmit": 4}
    assert values(eth0, network.DROPPED, direction) == {"receive": 3, "transmit": 5}
    assert values(eth0, network.PACKETS, "system.device", direction) == {
        ("eth0", "receive"): 1,
        ("eth0", "transmit"): 1,
    }


def test_an_excluded_interface_still_counts_in_the_summary(tmp_path: Path) -> None:
    """exclude_interfaces says what is sent; /metrics shows all interfaces but loopback."""
    machine = plant(
        tmp_path, {"proc/net/dev": DEV, "proc/net/wireless": WIRELESS + "eth0: 0 1. -50. 0\n"}
    )
    subject = network.Network(replace(machine, exclude_interfaces=("eth*", "veth*")))
    readings = list(subject.sample())
    assert set(values(readings, network.IO, "network.interface.name")) == {"lo"}
    assert not values(readings, network.SIGNAL)
    assert (subject.received_bytes, subject.transmitted_bytes) == (7, 8)


def test_a_name_that_is_not_utf8_is_escaped(tmp_path: Path) -> None:
    r"""The kernel takes any byte but a few: `\xNN`."""
    machine = plant(
        tmp_path, {"proc/net/dev": HEAD + b"a\xff:b: 7 1 0 0 0 0 0 0 8 1 0 0 0 0 0 0\n"}
    )
    io = values(network.Network(machine).sample(), network.IO, "network.interface.name")
    assert set(io) == {r"a\xff:b"}


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        ("-52.", -52.0),
        ("204.", -52.0),
        ("-1", -1.0),
        ("-128.", -128.0),
        ("-256.", None),
        ("0.", None),
        ("70.", None),
        ("256.", None),
    ],
)
def test_a_signal_level_is_dbm_or_nothing(
    tmp_path: Path, level: str, expected: float | None
) -> None:
    """Drivers say dBm, dBm + 256, "not measured" (-256), or a quality on their own scale."""
    wireless = f"{WIRELESS} wlan0: 0000   58.  {level}  -256   0 0 0 1 0 0\nnonsense\n"
    machine = plant(tmp_path, {"proc/net/dev": HEAD, "proc/net/wireless": wireless})
    found = values(network.Network(machine).sample(), network.SIGNAL, "hw.id")
    assert found == ({} if expected is None else {"wlan0": expected})


def socket_line(state: str) -> str:
    """A line of /proc/net/tcp."""
    return f"   0: 0100007F:0016 00000000:0000 {state} 00000000:00000000 00:00000000 0 0 0 1\n"


def test_connections_are_counted_by_state_in_both_families(tmp_path: Path) -> None:
    """A state that no socket is in is a true zero."""
    head = "  sl  local_address rem_address   st\n"
    machine = plant(
        tmp_path,
        {
            "proc/net/tcp": head + socket_line("0A") + socket_line("01"),
            "proc/net/tcp6": head + socket_line("01") + socket_line("7F"),
        },
    )
    counts = values(
        network.Connections(machine).sample(), network.CONNECTIONS, "network.connection.state"
    )
    assert len(counts) == 11
    assert {state: count for state, count in counts.items() if count} == {
        "listen": 1,
        "established": 2,
    }


def test_a_kernel_without_tcp_has_no_connections(tmp_path: Path) -> None:
    """Absent, not zero."""
    assert list(network.Connections(plant(tmp_path, {})).sample()) == []
