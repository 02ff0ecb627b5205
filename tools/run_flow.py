"""What `make run` says of the data: how much came in, and where it is. Pure."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

_SAMPLE = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$", re.MULTILINE)
_DESTINATION = re.compile(r'\bdestination="(\w+)"')
# The agent's last word to NOTIFY_SOCKET:
#   STATUS=stopped adapter accepted=9 delivered=9 lost=0, collector accepted=9 delivered=8 lost=1
_LAST_WORD = re.compile(r"(\w+) accepted=(\d+) delivered=(\d+) lost=(\d+)")


@dataclass(frozen=True, slots=True)
class Counts:
    """Items of one destination since the start: data points alone to the adapter."""

    accepted: int = 0
    delivered: int = 0
    lost: int = 0
    held: int = 0


@dataclass(frozen=True, slots=True)
class Flow:
    """The counts by destination, and the rows that the adapter has stored."""

    destinations: Mapping[str, Counts] = field(default_factory=dict)
    rows: int = 0


def total(metrics: str, name: str, **labels: str) -> int:
    """The sum of all samples of `name` in a Prometheus text whose labels include `labels`."""
    wanted = [f'{key}="{value}"' for key, value in labels.items()]
    return round(
        sum(
            float(value)
            for found, has, value in _SAMPLE.findall(metrics)
            if found == name and all(label in has for label in wanted)
        )
    )


def flow(agent: str, adapter: str) -> Flow:
    """What the /metrics of both programs say."""

    def items(destination: str, outcome: str) -> int:
        return total(agent, "agent_items_total", destination=destination, outcome=outcome)

    return Flow(
        {
            name: Counts(
                accepted=items(name, "accepted"),
                delivered=items(name, "delivered"),
                lost=items(name, "dropped") + items(name, "rejected"),
                held=total(agent, "agent_held_items", destination=name),
            )
            for name in sorted(set(_DESTINATION.findall(agent)))
        },
        stored(adapter),
    )


def stored(adapter: str) -> int:
    """Rows, by the adapter's /metrics."""
    return total(adapter, "adapter_rows_total")


def last_word(status: str) -> Mapping[str, Counts]:
    """The agent's own counts by destination at its end; empty where `status` has none."""
    return {
        name: Counts(int(accepted), int(delivered), int(lost))
        for name, accepted, delivered, lost in _LAST_WORD.findall(status)
    }


def periodic(before: Flow, now: Flow) -> str:
    """The line of every few seconds."""
    came = now.destinations.get("adapter", Counts()).accepted
    came -= before.destinations.get("adapter", Counts()).accepted
    head = f"+{came} data points, +{now.rows - before.rows} rows stored"
    alone = len(now.destinations) == 1
    ways = [
        f"{'' if alone else f'to the {name} '}{counts.delivered} delivered,"
        f" {counts.held} waiting, {counts.lost} lost"
        for name, counts in now.destinations.items()
    ]
    return f"{head}; so far {'; '.join(ways)}" if ways else head


def conclusion(destinations: Mapping[str, Counts], rows: int | None) -> Iterator[str]:
    """What became of everything, a line a destination; `rows` is None where nobody knows."""
    for name, counts in destinations.items():
        whose = "" if list(destinations) == ["adapter"] else f"to the {name}: "
        what = "data points" if name == "adapter" else "items"
        line = f"{whose}delivered {counts.delivered} of {counts.accepted} {what}"
        line += f", {counts.lost} lost"
        if name == "adapter" and rows is not None:
            line += f"; {rows} rows stored"
        yield line
