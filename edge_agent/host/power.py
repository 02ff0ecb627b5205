"""hw.status of the power supply and of what suffers from it.

A Raspberry Pi's firmware keeps a word of bits, now and since boot; its undervoltage sensor is an
alarm of a hwmon chip on any kernel. hw.status is 1 for the state that holds and 0 for the others.
"""

from collections.abc import Iterator

from edge_agent.host.hwmon import sensors
from edge_agent.host.machine import Machine, read_if_there
from edge_agent.otlp.metrics import Attributes, Kind, Metric, Reading

STATUS = Metric("hw.status", "1", Kind.UP_DOWN_COUNTER)

# https://www.raspberrypi.com/documentation/computers/os.html#get_throttled: bit 0 to 3 say what
# is, bit 16 to 19 what has been since boot. hw.type is whose state it is.
_THROTTLED = "devices/platform/soc/soc:firmware/get_throttled"
_BITS = (
    (0, "voltage", "undervoltage"),
    (1, "cpu", "frequency_capped"),
    (2, "cpu", "throttled"),
    (3, "temperature", "soft_temperature_limit"),
)


def status(pairs: Attributes, hw_type: str, state: str, states: tuple[str, ...]) -> list[Reading]:
    """One hw.status point for each of `states`, 1 where it is `state`."""
    return [
        Reading(STATUS, (*pairs, ("hw.type", hw_type), ("hw.state", each)), int(each == state))
        for each in states
    ]


class Power:
    """Nothing on machines that do not watch their supply."""

    name = "power"
    metrics = (STATUS,)

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def sample(self) -> Iterator[Reading]:
        """Raises ValueError where the firmware's word is none."""
        word = read_if_there(self._machine.sys(_THROTTLED))
        if word is not None:
            bits = int(word, 16)
            for bit, hw_type, name in _BITS:
                for shift, when in ((0, "now"), (16, "since_boot")):
                    state = "degraded" if bits >> bit + shift & 1 else "ok"
                    pairs = (("hw.id", f"soc:firmware-{name}-{when}"), ("hw.name", name))
                    yield from status(pairs, hw_type, state, ("ok", "degraded"))
        # `lcrit`: below what the machine needs; rpi_volt's is the firmware's bit 16 of the last
        # two seconds.
        for sensor in sensors(self._machine, "in", "lcrit_alarm"):
            alarm = sensor.value("lcrit_alarm")
            if alarm is not None:
                state = "degraded" if alarm else "ok"
                yield from status(sensor.attributes, "voltage", state, ("ok", "degraded"))
