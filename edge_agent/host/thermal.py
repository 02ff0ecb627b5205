"""hw.temperature, hw.fan.speed and hw.voltage: sensor chips and thermal zones."""

from collections.abc import Iterator

from edge_agent.host.hwmon import sensors
from edge_agent.host.machine import Machine, listing, read_if_there, read_int, text
from edge_agent.otlp.metrics import Kind, Metric, Number, Reading

TEMPERATURE = Metric("hw.temperature", "Cel", Kind.GAUGE, Number.DOUBLE)
FAN_SPEED = Metric("hw.fan.speed", "rpm", Kind.GAUGE)
VOLTAGE = Metric("hw.voltage", "V", Kind.GAUGE, Number.DOUBLE)


def _celsius(millidegrees: int | None) -> float | None:
    # Broken and absent sensors say -273, 0xFFFF or worse.
    if millidegrees is None or not -100_000 <= millidegrees <= 300_000:
        return None
    return millidegrees / 1000


class Thermal:
    """A read may wait for a bus or a disk, so it runs in the worker."""

    name = "thermal"
    metrics = (TEMPERATURE, FAN_SPEED, VOLTAGE)

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def sample(self) -> Iterator[Reading]:
        """Sensors outside what the quantity can be are left out, as are those that fail."""
        chips = set()
        for sensor in sensors(self._machine, "temp"):
            celsius = _celsius(sensor.value())
            if celsius is not None:
                chips.add(sensor.chip_name)
                yield Reading(TEMPERATURE, sensor.attributes, celsius)
        yield from self._zones(chips)
        for sensor in sensors(self._machine, "fan"):
            rpm = sensor.value()
            if rpm is not None and 0 <= rpm <= 100_000:
                yield Reading(FAN_SPEED, sensor.attributes, rpm)
        for sensor in sensors(self._machine, "in"):
            millivolts = sensor.value()
            if millivolts is not None and abs(millivolts) <= 1_000_000:
                yield Reading(VOLTAGE, sensor.attributes, millivolts / 1000)

    def _zones(self, chips: set[str]) -> Iterator[Reading]:
        """Thermal zones that are not sensor chips as well.

        drivers/thermal/thermal_hwmon.c: a zone appears as a chip of its type's name, with `_` for
        the `-` that chip names may not have.
        """
        directory = self._machine.sys("class/thermal")
        for zone in listing(directory):
            raw_type = read_if_there(f"{directory}/{zone}/type")
            if not zone.startswith("thermal_zone") or raw_type is None:
                continue
            name = text(raw_type)
            celsius = _celsius(read_int(f"{directory}/{zone}/temp"))
            if celsius is not None and name.replace("-", "_") not in chips:
                attributes = (("hw.id", f"{zone}-{name}"), ("hw.name", name))
                yield Reading(TEMPERATURE, attributes, celsius)
