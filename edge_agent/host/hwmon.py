"""Sensor chips: /sys/class/hwmon, kernel documentation hwmon/sysfs-interface."""

import os
from collections.abc import Iterator
from dataclasses import dataclass

from edge_agent.host.machine import Machine, listing, read_if_there, read_int, text
from edge_agent.otlp.metrics import Attributes


@dataclass(frozen=True, slots=True)
class Sensor:
    """One input of a chip: `temp1`, `fan2`, `in0`."""

    chip_id: str
    chip_name: str
    name: str
    label: str | None
    path: str

    def value(self, item: str = "input") -> int | None:
        """The file `<name>_<item>`: millidegrees, rpm, millivolts, or 0 and 1 of an alarm."""
        return read_int(f"{self.path}_{item}")

    @property
    def attributes(self) -> Attributes:
        """hw.id, hw.name and, where the chip says, hw.sensor_location."""
        pairs: Attributes = (
            ("hw.id", f"{self.chip_id}-{self.name}"),
            ("hw.name", f"{self.chip_name} {self.label or self.name}"),
        )
        return (*pairs, ("hw.sensor_location", self.label)) if self.label else pairs


def chips(machine: Machine) -> Iterator[tuple[str, str, str]]:
    """(id, name, directory) of each chip.

    hwmonN follows the order of discovery, so the id is made of what does not: the chip's name and
    the device it sits on. Twins that even that does not tell apart are numbered.
    """
    seen: dict[str, int] = {}
    directory = machine.sys("class/hwmon")
    for entry in listing(directory):
        path = f"{directory}/{entry}"
        raw_name = read_if_there(f"{path}/name")
        if raw_name is None:
            continue
        name = chip_id = text(raw_name)
        if os.path.islink(f"{path}/device"):
            device = text(os.path.basename(os.path.realpath(os.fsencode(f"{path}/device"))))
            chip_id = device if device.startswith(name) else f"{name}-{device}"
        seen[chip_id] = seen.get(chip_id, 0) + 1
        if seen[chip_id] > 1:
            chip_id = f"{chip_id}-{seen[chip_id]}"
        yield chip_id, name, path


def sensors(machine: Machine, kind: str, item: str = "input") -> Iterator[Sensor]:
    """All sensors of `kind` (temp, fan, in) that have a file `<kind>N_<item>`."""
    for chip_id, name, path in chips(machine):
        for file in listing(path):
            sensor, _, suffix = file.partition("_")
            if suffix == item and sensor.startswith(kind) and sensor[len(kind) :].isdigit():
                label = read_if_there(f"{path}/{sensor}_label")
                yield Sensor(
                    chip_id,
                    name,
                    sensor,
                    None if label is None else text(label),
                    f"{path}/{sensor}",
                )
