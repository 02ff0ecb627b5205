"""Write the settings into README.md, between their markers: `python -m tools.settings_table`.

With --check nothing is written and the exit code is 1 where the README is behind.
"""

import argparse
import sys
from pathlib import Path

from edge_agent.config_table import SETTINGS, SURROUNDINGS, Setting

README = Path(__file__).parent.parent / "README.md"
BEGIN = "<!-- settings -->"
END = "<!-- /settings -->"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _default(setting: Setting) -> str:
    if setting.computed is not None:
        return setting.computed
    return "none" if setting.default is None else f"`{setting.default}`"


def _row(setting: Setting) -> str:
    variables = ", ".join(f"`{name}`" for name in setting.variables) or "-"
    flag = f"`{setting.flag}`" if setting.flag else "-"
    cells = (f"`{setting.key}`", variables, flag, _default(setting), setting.help)
    return f"| {' | '.join(_cell(cell) for cell in cells)} |\n"


def table() -> str:
    """The generated part: a row a setting, then what is read from the environment alone."""
    rows = "".join(_row(setting) for setting in SETTINGS)
    around = "".join(f"| `{name}` | {_cell(text)} |\n" for name, text in SURROUNDINGS.items())
    return (
        "\n| in `agent-config.yaml` | environment | flag | default | what |\n"
        f"|---|---|---|---|---|\n{rows}\n"
        "Read from the environment alone:\n\n"
        f"| variable | what |\n|---|---|\n{around}\n"
    )


def refreshed(text: str) -> str:
    """`text` with the table between its markers; ValueError where they are not there once each."""
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise ValueError(f"README.md needs one {BEGIN} and one {END}")
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return f"{head}{BEGIN}\n{table()}{END}{tail}"


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
        print("README.md: the settings table is behind; run `make settings`", file=sys.stderr)
        return 1
    README.write_text(after, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
