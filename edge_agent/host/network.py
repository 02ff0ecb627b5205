"""system.network.*, and the signal of Wi-Fi."""

import os
from collections.abc import Iterator
from fnmatch import fnmatchcase

import psutil

from edge_agent.host.machine import Machine, psutil_at, read, read_if_there, text
from edge_agent.otlp.metrics import Kind, Metric, Number, Reading

IO = Metric("system.network.io", "By", Kind.COUNTER)
ERRORS = Metric("system.network.errors", "{error}", Kind.COUNTER)
DROPPED = Metric("system.network.packet.dropped", "{packet}", Kind.COUNTER)
PACKETS = Metric("system.network.packet.count", "{packet}", Kind.COUNTER)
CONNECTIONS = Metric("system.network.connection.count", "{connection}", Kind.UP_DOWN_COUNTER)
# The conventions have no name for it yet. UCUM has no decibel over a milliwatt; dBm is what
# everybody writes.
SIGNAL = Metric("hw.network.signal_strength", "dBm", Kind.GAUGE, Number.DOUBLE)

# include/net/tcp_states.h; 0C (NEW_SYN_RECV) never shows in /proc/net/tcp.
_TCP_STATES = {
    b"01": "established",
    b"02": "syn_sent",
    b"03": "syn_received",
    b"04": "fin_wait_1",
    b"05": "fin_wait_2",
    b"06": "time_wait",
    b"07": "closed",
    b"08": "close_wait",
    b"09": "last_ack",
    b"0A": "listen",
    b"0B": "closing",
}


def _wanted(name: str, exclude: tuple[str, ...]) -> bool:
    return not any(fnmatchcase(name, pattern) for pattern in exclude)


class Network:
    """`received_bytes` and `transmitted_bytes` since boot: all interfaces but loopback."""

    name = "network"
    metrics = (IO, ERRORS, DROPPED, PACKETS, SIGNAL)

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self.received_bytes: int | None = None
        self.transmitted_bytes: int | None = None

    def sample(self) -> Iterator[Reading]:
        """Raises OSError without /proc/net/dev."""
        self.received_bytes = self.transmitted_bytes = None
        with psutil_at(self._machine.of_init("net/dev").removesuffix("/net/dev")):
            # Counters that step back are ours to deal with, see counters.py.
            counters = psutil.net_io_counters(pernic=True, nowrap=False)
        outside = [nic for name, nic in counters.items() if name != "lo"]
        self.received_bytes = sum(nic.bytes_recv for nic in outside)
        self.transmitted_bytes = sum(nic.bytes_sent for nic in outside)
        for raw_name, nic in counters.items():
            name = text(os.fsencode(raw_name))
            if not _wanted(name, self._machine.exclude_interfaces):
                continue
            interface = ("network.interface.name", name)
            receive, transmit = (
                ("network.io.direction", "receive"),
                ("network.io.direction", "transmit"),
            )
            yield Reading(IO, (interface, receive), nic.bytes_recv)
            yield Reading(IO, (interface, transmit), nic.bytes_sent)
            yield Reading(ERRORS, (interface, receive), nic.errin)
            yield Reading(ERRORS, (interface, transmit), nic.errout)
            yield Reading(DROPPED, (interface, receive), nic.dropin)
            yield Reading(DROPPED, (interface, transmit), nic.dropout)
            # The one that the conventions give system.device instead of the interface's name.
            device = ("system.device", name)
            yield Reading(PACKETS, (device, receive), nic.packets_recv)
            yield Reading(PACKETS, (device, transmit), nic.packets_sent)
        yield from self._signals()

    def _signals(self) -> Iterator[Reading]:
        """proc_net_wireless: two lines of header, then `wlan0: 0000 70. -40. -256 ...`.

        The third number is the signal level: in dBm, or dBm + 256 from drivers that put it in an
        unsigned byte. -256 is "not measured"; a scale of 0 to 100 is no level.
        """
        path = self._machine.of_init("net/wireless")
        for line in (read_if_there(path) or b"").splitlines()[2:]:
            raw_name, _, rest = line.rpartition(b":")
            fields = rest.split()
            name = text(raw_name.strip())
            if len(fields) < 3 or not _wanted(name, self._machine.exclude_interfaces):
                continue
            level = float(fields[2].rstrip(b"."))
            if 128 <= level < 256:
                level -= 256
            if -128 <= level < 0:
                attributes = (("hw.id", name), ("hw.name", name), ("network.interface.name", name))
                yield Reading(SIGNAL, attributes, level)


class Connections:
    """TCP sockets by state, all addresses of both families together.

    psutil would look into every file descriptor of every process for it.
    """

    name = "connections"
    metrics = (CONNECTIONS,)

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def sample(self) -> Iterator[Reading]:
        """proc_net_tcp: a header, then a line a socket whose fourth word is the state in hex."""
        counts = dict.fromkeys(_TCP_STATES, 0)
        found = False
        for table in ("net/tcp", "net/tcp6"):
            try:
                data = read(self._machine.of_init(table))
            except FileNotFoundError:
                # A kernel without the family, or a container without the file.
                continue
            found = True
            for line in data.splitlines()[1:]:
                state = line.split(None, 4)[3]
                counts[state] = counts.get(state, 0) + 1
        for state, name in _TCP_STATES.items() if found else ():
            attributes = (("network.transport", "tcp"), ("network.connection.state", name))
            yield Reading(CONNECTIONS, attributes, counts[state])
