"""Apps on real SDKs (see sdk/README.md), and what they sent as a collector wrote it down."""

import asyncio
import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.fakes.collector import PATIENCE_S
from tests.peers.conftest import missing

SDKS = Path(__file__).parent / "sdk"
# Language -> the protocols its SDK has exporters for.
PROTOCOLS = {
    "python": ("grpc", "http/protobuf", "http/json"),
    "javascript": ("grpc", "http/protobuf", "http/json"),
    "go": ("grpc", "http/protobuf"),
    "java": ("grpc", "http/protobuf"),
}
LISTS = {
    "resourceSpans": ("scopeSpans", "spans"),
    "resourceMetrics": ("scopeMetrics", "metrics"),
    "resourceLogs": ("scopeLogs", "logRecords"),
}


def command(language: str) -> list[str]:
    """How to run the app of `language`, built on first use; ends the test if that cannot be."""
    try:
        build = SDKS / language / "build.sh"
        done = subprocess.run([build], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        lines = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
        missing(f"the SDK app in {language}", lines[-1] if lines else str(error))
        raise
    built = done.stdout.strip()
    return {
        "python": [built, str(SDKS / "python/app.py")],
        "javascript": ["node", built],
        "go": [built],
        # Half a second of CPU instead of one: the app is over before a second compiler has paid.
        "java": ["java", "-XX:TieredStopAtLevel=1", "-cp", built, "App"],
    }[language]


async def run_app(language: str, *arguments: object, environ: Mapping[str, str]) -> None:
    """Run the app of `language` to its end; fails with what it said unless it exits with 0."""
    # Settings and proxies of whoever runs the tests are not the app's.
    keep = {k: os.environ[k] for k in ("PATH", "HOME", "LANG") if k in os.environ}
    app = await asyncio.create_subprocess_exec(
        *command(language), *map(str, arguments), env={**keep, **environ},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    try:
        async with asyncio.timeout(PATIENCE_S):
            said, _ = await app.communicate()
    finally:
        if app.returncode is None:
            app.kill()
            await app.wait()
    assert app.returncode == 0, said.decode(errors="replace")
    # An SDK only logs that an export failed: silence is part of success.
    assert said == b"", said.decode(errors="replace")


@dataclass(frozen=True, slots=True)
class Item:
    """A span, metric or log record, and what it came in, all as OTLP/JSON."""

    kind: str
    resource: dict[str, Any]
    resource_rest: dict[str, Any]
    scope: dict[str, Any]
    value: dict[str, Any]

    @property
    def service(self) -> Any:
        return self.resource["service.name"]

    def encoded(self) -> str:
        """Everything but the Resource's attributes, which the agent changes on purpose."""
        parts = [self.kind, self.resource_rest, self.scope, self.value]
        return json.dumps(parts, sort_keys=True, ensure_ascii=False)


def items(lines: list[dict[str, Any]]) -> Iterator[Item]:
    """Every item of what a collector wrote, in the order of arrival."""
    for line in lines:
        for kind, resources in line.items():
            scopes_key, items_key = LISTS[kind]
            for resource in resources:
                message = dict(resource["resource"])
                attributes = attributes_of(message.pop("attributes", []))
                rest = {"resource": message, "schemaUrl": resource.get("schemaUrl")}
                for scope in resource[scopes_key]:
                    about = {key: value for key, value in scope.items() if key != items_key}
                    for value in scope[items_key]:
                        yield Item(kind, attributes, rest, about, value)


def attributes_of(pairs: list[dict[str, Any]]) -> dict[str, Any]:
    """KeyValues as a dict of OTLP/JSON values; a key that comes twice fails."""
    found = {pair["key"]: pair.get("value", {}) for pair in pairs}
    assert len(found) == len(pairs), f"a key comes twice: {pairs}"
    return found


def of_run(lines: list[dict[str, Any]], run: str) -> list[Item]:
    """The items of one run of an app."""
    mark = {"stringValue": run}
    return [item for item in items(lines) if item.resource.get("test.run") == mark]
