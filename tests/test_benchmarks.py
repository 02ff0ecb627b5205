"""Each benchmark runs, and what it compares says the same: their `--quick` form, which asserts no
time."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
QUESTIONS = sorted(
    path.stem for path in (ROOT / "benchmarks").glob("*.py") if not path.stem.startswith("_")
)


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_benchmark_runs_and_its_sides_agree(question: str) -> None:
    """So that none is found broken on the day somebody wants a number."""
    run = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{question}", "--quick"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert run.returncode == 0, run.stderr
