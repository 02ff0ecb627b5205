"""README.md is tested: a setting, command or metric it does not document fails here."""

from pathlib import Path

import pytest

from adapter.config import SETTINGS as ADAPTER_SETTINGS
from edge_agent.command_line import COMMANDS
from edge_agent.config_table import SETTINGS, SURROUNDINGS, Setting
from edge_agent.otlp.metrics import Metric
from tools.readme import BLOCKS, README, metrics, refreshed, settings

TEXT = README.read_text(encoding="utf-8")
TESTS = Path(__file__).parent


def exposed(golden: Path) -> list[str]:
    """The metric names in a golden Prometheus text."""
    lines = golden.read_text(encoding="utf-8").splitlines()
    return [line.split()[2] for line in lines if line.startswith("# TYPE")]


def test_the_generated_tables_are_as_the_code_is() -> None:
    """`make readme` writes them."""
    assert refreshed(TEXT) == TEXT


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.key)
def test_every_setting_and_variable_has_a_row(setting: Setting) -> None:
    """With all that it is read from."""
    (row,) = (line for line in settings().splitlines() if line.startswith(f"| `{setting.key}` |"))
    for name in (*setting.variables, setting.flag):
        assert name is None or f"`{name}`" in row


@pytest.mark.parametrize("name", [*SURROUNDINGS, *(row.name for row in ADAPTER_SETTINGS)])
def test_every_variable_is_documented(name: str) -> None:
    """Of both programs."""
    assert f"| `{name}`" in TEXT


@pytest.mark.parametrize("metric", metrics(), ids=lambda metric: metric.name)
def test_every_metric_of_the_machine_is_documented(metric: Metric) -> None:
    """With its unit and instrument, which are generated."""
    assert f"| `{metric.name}` | `{metric.unit}` |" in TEXT


@pytest.mark.parametrize(
    "name",
    [
        *exposed(TESTS / "golden/health/metrics.prom"),
        *exposed(TESTS / "adapter/golden_metrics.txt"),
    ],
)
def test_every_metric_on_the_endpoints_is_documented(name: str) -> None:
    """Both programs' /metrics."""
    assert f"`{name}`" in TEXT or f"`{name}{{" in TEXT


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_documented(command: str) -> None:
    """As one types it."""
    assert f"`otel-agent {command}`" in TEXT


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize("damage", ["<!-- {} -->", "<!-- /{} -->"])
def test_a_readme_without_its_markers_is_an_error(name: str, damage: str) -> None:
    """Instead of a table written nowhere."""
    with pytest.raises(ValueError, match=r"README\.md needs one"):
        refreshed(TEXT.replace(damage.format(name), ""))
