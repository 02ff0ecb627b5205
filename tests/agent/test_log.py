"""How we log."""

import io
import re

import pytest

from edge_agent import log


def lines(level: str, *, journal: bool) -> tuple[log.Log, io.StringIO]:
    """A log and where its lines go."""
    out = io.StringIO()
    log.start(level, journal=journal, stream=out)
    return log.Log("part"), out


def test_a_line_is_time_level_part_message_and_pairs() -> None:
    """One line an event; values that need it are quoted and escaped."""
    part, out = lines("info", journal=False)
    part.info("sent", items=3, peer="a b", ratio=1 / 3, path='C:"x"\n', empty="")
    text = out.getvalue()
    assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z info    part: sent ", text)
    assert text.endswith('items=3 peer="a b" ratio=0.333333 path="C:\\"x\\"\\n" empty=""\n')


@pytest.mark.parametrize(
    ("level", "priority"), [("debug", "<7>"), ("info", "<6>"), ("warning", "<4>"), ("error", "<3>")]
)
def test_under_journald_a_line_starts_with_its_priority(level: str, priority: str) -> None:
    """sd-daemon(3): the journal strips the prefix and stores the level."""
    part, out = lines("debug", journal=True)
    getattr(part, level)("event", n=1)
    assert out.getvalue() == f"{priority}part: event n=1\n"


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        ("debug", ["debug", "info", "warning", "error"]),
        ("info", ["info", "warning", "error"]),
        ("warning", ["warning", "error"]),
        ("error", ["error"]),
    ],
)
def test_below_the_level_nothing_is_written(level: str, expected: list[str]) -> None:
    """LOG_LEVEL is a floor."""
    part, out = lines(level, journal=True)
    for name in ("debug", "info", "warning", "error"):
        getattr(part, name)(name)
    assert [line.split(": ")[1] for line in out.getvalue().splitlines()] == expected


def test_an_exception_stays_on_one_line() -> None:
    """A traceback is a value like any other: escaped."""
    part, out = lines("info", journal=False)
    try:
        raise KeyError("x")
    except KeyError as error:
        part.error("failed", exc_info=error, signal="metrics")
    text = out.getvalue()
    assert text.count("\n") == 1
    assert "signal=metrics traceback=" in text
    assert "KeyError" in text


def test_text_stays_readable_and_cannot_forge_a_line() -> None:
    """Letters of any language pass; control characters and lone surrogates are escaped."""
    part, out = lines("info", journal=True)
    part.info("named", name="año \x1b[0m\r\udce9\\")
    assert out.getvalue() == '<6>part: named name="año \\x1b[0m\\r\\udce9\\\\"\n'


def test_a_field_may_be_called_message() -> None:
    """A peer's own words are a field of that name."""
    part, out = lines("info", journal=True)
    part.warning("refused", message="no")
    assert out.getvalue() == "<4>part: refused message=no\n"
