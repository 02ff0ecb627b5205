"""The agent's own log as OTLP: what stderr shows, sent like any other telemetry.

Rules:

- stderr is the log; this is a copy of it with the same words and values, and nothing beside them.
- Never from the export path: a record about sending would have to be sent, and during an outage
  they would pile up because they cannot be. Records of STDERR_ALONE stay on stderr, and so does
  whatever is logged while a batch is handed on.
- At most RATE_PER_S records a second after a burst of BURST. What is over it is counted, and the
  next batch says how many.
- A batch leaves FLUSH_S after its first record; without records there is no timer.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from edge_agent.otlp.logs import Severity, log_record, logs_request
from edge_agent.otlp.resource import Attribute

if TYPE_CHECKING:
    import asyncio

# The first words of these loggers' names. asyncio complains of broken connections.
STDERR_ALONE = frozenset({"exporter", "transport", "asyncio"})
RATE_PER_S = 10.0
BURST = 100
FLUSH_S = 1.0
# The loop may stand still while threads log.
MAX_PENDING = 512
# Of one text: a traceback of a deep recursion says enough in its first and last lines.
_MAX_CHARS = 8192
_SEVERITIES = (
    (logging.CRITICAL, Severity.FATAL),
    (logging.ERROR, Severity.ERROR),
    (logging.WARNING, Severity.WARN),
    (logging.INFO, Severity.INFO),
    (logging.DEBUG, Severity.DEBUG),
)
_traceback = logging.Formatter().formatException


class OwnLogs(logging.Handler):
    """Sends log records on as ExportLogsServiceRequests.

    `resource` is an encoded Resource; `emit` takes an encoded request and its number of records,
    on `loop`. Threads may log. Of one process, between `start` and `close`.
    """

    def __init__(
        self,
        resource: bytes,
        version: str,
        emit: Callable[[bytes, int], None],
        *,
        loop: "asyncio.AbstractEventLoop",
        clock: Callable[[], float] = time.monotonic,
        unix_nano: Callable[[], int] = time.time_ns,
    ) -> None:
        super().__init__()
        self._resource = resource
        self._version = version
        self._give = emit
        self._loop = loop
        self._clock = clock
        self._unix_nano = unix_nano
        self._pending: list[tuple[str, bytes]] = []
        self._suppressed = 0
        self._tokens = float(BURST)
        self._refilled_s = clock()
        self._armed = False
        self._timer: asyncio.TimerHandle | None = None
        # The thread that hands a batch on right now.
        self._giving: int | None = None

    def start(self) -> None:
        """From now on, records of the level that `log.start` was given are sent too."""
        logging.getLogger().addHandler(self)

    def close(self) -> None:
        """Hand on what is pending, and take no more. Call it before the exporters drain."""
        logging.getLogger().removeHandler(self)
        self.flush()
        super().close()

    def emit(self, record: logging.LogRecord) -> None:
        """Note one record; logging calls this, with the handler's lock held."""
        if record.name.partition(".")[0] in STDERR_ALONE or self._giving == threading.get_ident():
            return
        try:
            if self._granted():
                self._pending.append((record.name, _encoded(record, self._unix_nano())))
            else:
                self._suppressed += 1
        except Exception:  # noqa: BLE001 - logging's contract: a record that cannot be written is said on stderr and never raised
            self.handleError(record)
            return
        if not self._armed:
            self._armed = True
            # A loop that is closed sends nothing any more; stderr has the record.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._start_timer)

    def _granted(self) -> bool:
        """Whether one more record may be sent: a bucket of BURST tokens."""
        now = self._clock()
        refill = (now - self._refilled_s) * RATE_PER_S
        self._tokens = min(float(BURST), self._tokens + refill)
        self._refilled_s = now
        if self._tokens < 1.0 or len(self._pending) >= MAX_PENDING:
            return False
        self._tokens -= 1.0
        return True

    def _start_timer(self) -> None:
        if self._armed:
            self._timer = self._loop.call_later(FLUSH_S, self.flush)

    def flush(self) -> None:
        """Hand on what is pending now. Call it on the loop's thread."""
        self.acquire()
        try:
            if self._timer is not None:
                self._timer.cancel()
            self._timer, self._armed = None, False
            records, self._pending = self._pending, []
            suppressed, self._suppressed = self._suppressed, 0
        finally:
            self.release()
        if suppressed:
            records.append(("own_logs", self._summary(suppressed)))
        if not records:
            return
        self._giving = threading.get_ident()
        try:
            self._give(logs_request(self._resource, self._version, records), len(records))
        finally:
            self._giving = None

    def _summary(self, suppressed: int) -> bytes:
        now = self._unix_nano()
        return log_record(
            "log records were not sent, there were too many; the agent's stderr has them",
            severity=Severity.WARN,
            time_unix_nano=now,
            observed_time_unix_nano=now,
            pairs=[("suppressed", suppressed)],
        )


def _encoded(record: logging.LogRecord, observed_time_unix_nano: int) -> bytes:
    severity = next((s for level, s in _SEVERITIES if record.levelno >= level), Severity.TRACE)
    return log_record(
        _bounded(record.getMessage()),
        severity=severity,
        time_unix_nano=int(record.created * 1e9),
        observed_time_unix_nano=observed_time_unix_nano,
        pairs=_attributes(record),
    )


def _attributes(record: logging.LogRecord) -> Iterator[Attribute]:
    """The record's fields, and its exception as the semantic conventions name it."""
    fields: dict[str, object] = getattr(record, "fields", {})
    for key, value in fields.items():
        yield key, value if isinstance(value, bool | int | float) else _bounded(str(value))
    if record.exc_info and record.exc_info[0] is not None:
        kind, error, _ = record.exc_info
        module = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
        yield "exception.type", module + kind.__qualname__
        yield "exception.message", _bounded(str(error))
        yield "exception.stacktrace", _bounded(_traceback(record.exc_info))


def _bounded(text: str) -> str:
    if len(text) <= _MAX_CHARS:
        return text
    half = _MAX_CHARS // 2
    return f"{text[:half]} ... {text[-half:]}"
