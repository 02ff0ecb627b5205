"""Small trees of /proc and /sys made for one test, and what a subject reads in them."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from edge_agent.host.machine import Machine
from edge_agent.otlp.metrics import Metric, Reading


def plant(root: Path, files: Mapping[str, str | bytes]) -> Machine:
    """A machine with just these files."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return Machine(root=str(root))


def values(readings: Iterable[Reading], metric: Metric, *keys: str) -> dict[object, float]:
    """The values of one metric by the named attributes: one alone, or a tuple of several."""
    found: dict[object, float] = {}
    for reading in readings:
        if reading.metric is metric:
            attributes = dict(reading.attributes)
            key = tuple(attributes[key] for key in keys)
            found[key[0] if len(keys) == 1 else key] = reading.value
    return found
