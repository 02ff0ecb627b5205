"""The body of a request -> slices of its rows, each a short transaction. Pure.

Twice through the body: first to see that all of it can be stored and is no more than we take, so
that nothing is kept of what is refused; then for the rows. What is decoded is one piece at a time.
"""

from collections.abc import Iterator

from adapter import decode
from adapter.row import Row
from adapter.rows import Outcome, Window, rows_of
from adapter.work import MAX_WORK, work_of
from edge_agent.transport.compression import gunzip

# A row and each of its attributes are one: 2000 rows of three attributes, 30 ms of the store.
SLICE_SIZE = 8000


def slices(
    body: bytes,
    *,
    is_gzip: bool,
    is_json: bool,
    max_bytes: int,
    window: Window,
    customers: frozenset[str] | None,
    outcome: Outcome,
) -> Iterator[list[Row]]:
    """The rows in `body`; many slices are empty: a step between two of them is bounded work.

    What makes no row is counted in `outcome`. Raises CompressionError and MalformedError, and
    TooLargeError of compression or decode; each of them before the first row.
    """
    if is_gzip:
        body = gunzip(body, max_bytes)
    if is_json:
        body = decode.json_to_protobuf(body)
        yield []
    work = 0
    for message in decode.from_protobuf(body):
        if work:
            yield []
        work += work_of(message)
        if work > MAX_WORK:
            raise decode.TooLargeError(
                "too many data points, buckets and attributes; send less at once"
            )
    for message in decode.from_protobuf(body):
        rows = rows_of(message, window=window, customers=customers, outcome=outcome)
        yield from _sliced(rows)


def _sliced(rows: Iterator[Row]) -> Iterator[list[Row]]:
    found: list[Row] = []
    size = 0
    for row in rows:
        found.append(row)
        size += 1 + len(row.attributes)
        if size >= SLICE_SIZE:
            yield found
            found, size = [], 0
    yield found
