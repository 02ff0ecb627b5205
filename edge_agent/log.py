"""How we log: one line an event, `key=value` pairs behind a short message.

On a terminal or pipe a line starts with the time; under journald (JOURNAL_STREAM set by systemd)
with a syslog priority in angle brackets instead, which the journal strips: sd-daemon(3).
"""

import logging
import sys
from datetime import UTC, datetime
from typing import TextIO

LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
_PRIORITIES = {
    logging.DEBUG: "<7>",
    logging.INFO: "<6>",
    logging.WARNING: "<4>",
    logging.ERROR: "<3>",
}
_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.:/%+@,[]")


def _value(value: object) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    if text and _PLAIN.issuperset(text):
        return text
    # Control characters and lone surrogates could forge a line or break the stream.
    escaped = "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode()
        for c in text.replace("\\", "\\\\").replace('"', '\\"')
    )
    return f'"{escaped}"'


class _Lines(logging.Formatter):
    def __init__(self, *, journal: bool) -> None:
        super().__init__()
        self._journal = journal

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, object] = getattr(record, "fields", {})
        pairs = "".join(f" {k}={_value(v)}" for k, v in fields.items())
        if record.exc_info:
            pairs += f" traceback={_value(self.formatException(record.exc_info))}"
        if self._journal:
            head = _PRIORITIES.get(record.levelno, "<5>")
        else:
            time = datetime.fromtimestamp(record.created, UTC)
            head = f"{time:%Y-%m-%dT%H:%M:%S}.{time.microsecond // 1000:03d}Z "
            head += f"{record.levelname.lower():7} "
        return f"{head}{record.name}: {record.getMessage()}{pairs}"


class Log:
    """One part's log: a message of fixed words, and the values beside it as fields."""

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)

    def _emit(
        self,
        level: int,
        message: str,
        fields: dict[str, object],
        exc_info: BaseException | None = None,
    ) -> None:
        if self._logger.isEnabledFor(level):
            self._logger.log(level, "%s", message, extra={"fields": fields}, exc_info=exc_info)

    def debug(self, message: str, /, **fields: object) -> None:
        """What helps to follow one request."""
        self._emit(logging.DEBUG, message, fields)

    def info(self, message: str, /, **fields: object) -> None:
        """A change of state that an operator may want to know."""
        self._emit(logging.INFO, message, fields)

    def warning(self, message: str, /, **fields: object) -> None:
        """Something went wrong and we go on without loss."""
        self._emit(logging.WARNING, message, fields)

    def error(
        self, message: str, /, *, exc_info: BaseException | None = None, **fields: object
    ) -> None:
        """Data was lost, or a person has to act; `exc_info` adds that exception's traceback."""
        self._emit(logging.ERROR, message, fields, exc_info)


def start(level: str, *, journal: bool, stream: TextIO | None = None) -> None:
    """Send all logs of `level` (a key of LEVELS) and above to `stream`, standard error if None."""
    out = logging.StreamHandler(stream if stream is not None else sys.stderr)
    out.setFormatter(_Lines(journal=journal))
    root = logging.getLogger()
    root.handlers[:] = [out]
    root.setLevel(LEVELS[level])
    # asyncio's own debug and info lines are not for the operator of a device.
    logging.getLogger("asyncio").setLevel(logging.WARNING)
