"""A row of the table `metrics`, and how its numbers are written. Pure.

Without protobuf, so that what only reads rows needs none.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

TTL_S = 2_592_000
MAX_AHEAD_S = 600


class Row(NamedTuple):
    """One row, in the order of CONTRACT's columns. A tuple: built a hundred times a request."""

    node_id: str
    metric_name: str
    time_bucket: str
    timestamp_ms: int
    value: float
    customer_id: str
    series_id: bytes
    attributes: Mapping[str, str]
    unit: str
    kind: str
    value_int: int | None
    point: bytes | None


def number_text(number: float) -> str:
    """A bound or value as OpenMetrics writes it: `0.005`, `5.0`, `+Inf`, `-Inf`, `NaN`."""
    if math.isfinite(number):
        return repr(number)
    if math.isnan(number):
        return "NaN"
    return "+Inf" if number > 0 else "-Inf"
