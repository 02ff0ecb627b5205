"""README.md is tested: a setting it does not document fails here."""

import pytest

from edge_agent.config_table import SETTINGS, SURROUNDINGS, Setting
from tools.settings_table import BEGIN, END, README, refreshed, table


def test_the_readme_has_the_table_as_the_settings_are() -> None:
    """`make settings` writes it."""
    text = README.read_text(encoding="utf-8")
    assert refreshed(text) == text


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.key)
def test_every_setting_and_variable_is_in_the_table(setting: Setting) -> None:
    """A row each, with all it is read from."""
    (row,) = (line for line in table().splitlines() if line.startswith(f"| `{setting.key}` |"))
    for name in (*setting.variables, setting.flag):
        assert name is None or f"`{name}`" in row
    for name in SURROUNDINGS:
        assert f"| `{name}` |" in table()


def test_what_is_around_the_markers_stays() -> None:
    """Only the part between them is generated."""
    assert refreshed(f"a{BEGIN}old{END}b") == f"a{BEGIN}\n{table()}{END}b"


@pytest.mark.parametrize("text", ["", BEGIN, END, BEGIN + BEGIN + END])
def test_a_readme_without_its_markers_is_an_error(text: str) -> None:
    """Instead of a table written nowhere."""
    with pytest.raises(ValueError, match=r"README\.md needs one"):
        refreshed(text)
