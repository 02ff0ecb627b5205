"""Write what the code says of itself into README.md, between markers: `python -m tools.readme`.

With --check nothing is written and the exit code is 1 where the README is behind.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from adapter.config import SETTINGS as ADAPTER_SETTINGS
from edge_agent.config_table import SETTINGS, SURROUNDINGS, Setting
from edge_agent.host.sampler import SUBJECTS, SUCCESS
from edge_agent.otlp.metrics import Kind, Metric

README = Path(__file__).parent.parent / "README.md"
_INSTRUMENTS = {
    Kind.GAUGE: "gauge",
    Kind.COUNTER: "counter",
    Kind.UP_DOWN_COUNTER: "up-down counter",
}


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _default(setting: Setting) -> str:
    if setting.computed is not None:
        return setting.computed
    return "none" if setting.default is None else f"`{setting.default}`"


def _row(setting: Setting) -> str:
    variables = ", ".join(f"`{name}`" for name in setting.variables) or "-"
    flag = f"`{setting.flag}`" if setting.flag else "-"
    cells = (f"`{setting.key}`", variables, flag, _default(setting), setting.about)
    return f"| {' | '.join(_cell(cell) for cell in cells)} |\n"


def settings() -> str:
    """A row a setting of the agent, then what is read from the environment alone."""
    rows = "".join(_row(setting) for setting in SETTINGS)
    around = "".join(f"| `{name}` | {_cell(text)} |\n" for name, text in SURROUNDINGS.items())
    return (
        "| in `agent-config.yaml` | environment | flag | default | what |\n"
        f"|---|---|---|---|---|\n{rows}\n"
        "Read from the environment alone:\n\n"
        f"| variable | what |\n|---|---|\n{around}"
    )


def adapter_settings() -> str:
    """A row a variable of the adapter."""
    rows = ""
    for row in ADAPTER_SETTINGS:
        name = f"`{row.name}`, `{row.name}_FILE`" if row.secret else f"`{row.name}`"
        default = "none" if row.default is None else f"`{row.default}`"
        rows += f"| {name} | {default} | {_cell(row.help)} |\n"
    return f"| environment | default | what |\n|---|---|---|\n{rows}"


def metrics() -> tuple[Metric, ...]:
    """Every metric of this machine, by name."""
    found = {metric.name: metric for subject in SUBJECTS for metric in subject.metrics}
    return tuple(metric for _, metric in sorted((found | {SUCCESS.name: SUCCESS}).items()))


def host_metrics() -> str:
    """A row a metric of this machine."""
    rows = "".join(
        f"| `{metric.name}` | `{metric.unit}` | {_INSTRUMENTS[metric.kind]} |\n"
        for metric in metrics()
    )
    return f"| metric | unit | instrument |\n|---|---|---|\n{rows}"


BLOCKS: dict[str, Callable[[], str]] = {
    "settings": settings,
    "adapter-settings": adapter_settings,
    "host-metrics": host_metrics,
}


def refreshed(text: str) -> str:
    """`text` with every block between its markers; ValueError where they are not there once."""
    for name, block in BLOCKS.items():
        begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
        if text.count(begin) != 1 or text.count(end) != 1:
            raise ValueError(f"README.md needs one {begin} and one {end}")
        head, _, rest = text.partition(begin)
        _, _, tail = rest.partition(end)
        text = f"{head}{begin}\n\n{block()}\n{end}{tail}"
    return text


def main() -> int:
    """Refresh README.md or, with --check, say whether it is up to date."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing")
    check = parser.parse_args().check
    before = README.read_text(encoding="utf-8")
    after = refreshed(before)
    if before == after:
        return 0
    if check:
        print("README.md: a generated table is behind; run `make readme`", file=sys.stderr)
        return 1
    README.write_text(after, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
