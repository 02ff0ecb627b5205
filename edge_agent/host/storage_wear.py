"""How much of its life an eMMC has left.

JEDEC eMMC 5.0, kernel documentation driver-api/mmc/mmc-dev-attrs: `life_time` is two bytes, for
the two kinds of memory inside, in steps of a tenth used (0x01 is up to 10 %, 0x0b past its life);
`pre_eol_info` is 0x01 normal, 0x02 80 % and 0x03 90 % of the spare blocks used. 0x00: not said.
"""

from collections.abc import Iterator

from edge_agent.host.machine import Machine, listing, read_if_there, text
from edge_agent.host.power import STATUS, status
from edge_agent.otlp.metrics import Attributes, Kind, Metric, Number, Reading

ENDURANCE = Metric("hw.physical_disk.endurance_utilization", "1", Kind.GAUGE, Number.DOUBLE)

_STATES = ("ok", "degraded", "predicted_failure")
_PRE_EOL = {1: "ok", 2: "degraded", 3: "predicted_failure"}


def _remaining(life_time: bytes) -> float | None:
    """The part that is surely left, of the memory that is worse off."""
    steps = [step for step in (int(word, 16) for word in life_time.split()) if 1 <= step <= 0x0B]
    return max(0, 10 - max(steps)) / 10 if steps else None


class StorageWear:
    """SD cards do not tell; eMMCs before 5.0 do not either."""

    name = "storage_wear"
    metrics = (ENDURANCE, STATUS)

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def sample(self) -> Iterator[Reading]:
        """Raises ValueError where a register is no hexadecimal number."""
        directory = self._machine.sys("block")
        for disk in listing(directory):
            device = f"{directory}/{disk}/device"
            if not disk.removeprefix("mmcblk").isdigit():
                continue
            pairs: Attributes = (("hw.id", disk), ("hw.name", disk))
            model = read_if_there(f"{device}/name")
            if model is not None:
                pairs = (*pairs, ("hw.model", text(model)))
            remaining = _remaining(read_if_there(f"{device}/life_time") or b"")
            if remaining is not None:
                state = ("hw.physical_disk.state", "remaining")
                yield Reading(ENDURANCE, (*pairs, state), remaining)
            pre_eol = _PRE_EOL.get(int(read_if_there(f"{device}/pre_eol_info") or b"0", 16))
            if pre_eol is not None:
                yield from status(pairs, "physical_disk", pre_eol, _STATES)
