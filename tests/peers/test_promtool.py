"""/metrics as Prometheus's own linter sees it."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.adapter.build import gauge, point, request, sample_body
from tests.adapter.test_main import post
from tests.agent.health.test_prometheus import text
from tests.fakes.programs import Adapter, eventually, get

pytestmark = pytest.mark.peer

# CONTRACT.md fixes these names, whose units are abbreviated or no base units. Nothing else may be
# complained about.
TOLERATED = {
    "agent_collector_latency_ms metric names should not contain abbreviated units",
    "agent_memory_usage_mb metric names should not contain abbreviated units",
}


@pytest.fixture(scope="module")
def promtool() -> str:
    """The path of promtool; missing skips, or fails with REQUIRE_PEERS=1."""
    script = Path(__file__).with_name("promtool.sh")
    found = subprocess.run([script], capture_output=True, text=True, check=False)
    if found.returncode != 0:
        message = f"no promtool: {found.stderr.strip()[-300:]}"
        if os.environ.get("REQUIRE_PEERS") == "1":
            pytest.fail(message)
        pytest.skip(message)
    return found.stdout.strip()


def test_promtool_complains_about_the_fixed_names_alone(promtool: str) -> None:
    """Of a text with every family in it."""
    checked = subprocess.run(
        [promtool, "check", "metrics"], input=text(), capture_output=True, text=True, check=False
    )
    assert set((checked.stdout + checked.stderr).splitlines()) == TOLERATED


def test_promtool_has_no_complaint_about_a_running_adapter(promtool: str, tmp_path: Path) -> None:
    """Of what it answers after rows stored, points rejected and a request refused."""
    adapter = Adapter(tmp_path / "state")
    try:
        eventually(adapter.health, "the adapter to answer")
        for body in (sample_body(3), request(gauge(point(time_ns=0))).SerializeToString(), b"x"):
            post(adapter.url, body)
        code, scraped = get(f"{adapter.url}/metrics")
        assert adapter.stop() == 0
    finally:
        adapter.kill()
    checked = subprocess.run(
        [promtool, "check", "metrics"], input=scraped, capture_output=True, text=True, check=False
    )
    assert (code, checked.returncode, checked.stdout + checked.stderr) == (200, 0, "")
    assert 'adapter_requests_total{code="400"} 1\n' in scraped
    assert "adapter_rows_total 3\n" in scraped


def test_promtool_refuses_what_is_not_its_format(promtool: str) -> None:
    """Otherwise the test above could not fail."""
    broken = text().replace("# TYPE agent_info gauge\n", "# TYPE agent_info gouge\n")
    checked = subprocess.run(
        [promtool, "check", "metrics"], input=broken, capture_output=True, text=True, check=False
    )
    assert checked.returncode != 0
    assert "gouge" in checked.stdout + checked.stderr
