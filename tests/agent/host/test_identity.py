"""Who the agent says it is."""

import os
from pathlib import Path

import pytest
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from edge_agent.host.identity import Identity, identify, instance_id, os_release
from edge_agent.host.machine import Machine
from tests.agent.host import recorded
from tests.agent.host.trees import plant


def someone(
    machine: Machine,
    attributes: tuple[tuple[str, str], ...] = (),
    *,
    customer_name: str | None = None,
    architecture: str = "aarch64",
) -> Identity:
    """An agent with as little set as may be."""
    return identify(
        machine,
        customer_id="acme",
        customer_name=customer_name,
        node_id="edge-01",
        node_region=None,
        environment="production",
        instance_id=recorded.INSTANCE,
        version="1.0.0",
        attributes=attributes,
        uname=os.uname_result(("Linux", "pi", "6.6", "#1", architecture)),
    )


@pytest.mark.parametrize("tree", recorded.TREES)
def test_the_encoded_resource_holds_the_attributes_in_order(tree: str) -> None:
    """As opentelemetry-proto reads it."""
    identity = recorded.identity(tree)
    message = Resource.FromString(identity.encoded)
    pairs = [(pair.key, pair.value.string_value) for pair in message.attributes]
    assert pairs == list(identity.attributes)


def test_what_is_not_set_or_not_there_is_absent(tmp_path: Path) -> None:
    """No empty strings: an unset identity key, no machine-id, no os-release, no device tree."""
    identity = someone(plant(tmp_path, {"etc/machine-id": "\n"}))
    assert dict(identity.attributes) == {
        "customer.id": "acme",
        "node.id": "edge-01",
        "deployment.environment.name": "production",
        "collector.name": "otel-agent",
        "collector.type": "edge",
        "collector.instance.id": recorded.INSTANCE,
        "service.name": "otel-agent",
        "service.version": "1.0.0",
        "service.instance.id": recorded.INSTANCE,
        "host.name": "pi",
        "host.arch": "arm64",
        "os.type": "linux",
    }
    assert identity.get("host.id") is None
    assert identity.get("host.arch") == "arm64"


def test_the_users_attributes_win_except_over_identity(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """An unset identity key stays absent, and each that was left out is named."""
    identity = someone(
        plant(tmp_path, {}),
        (
            ("service.name", "till"),
            ("site", "K\u00f6ln"),
            ("customer.id", "mallory"),
            ("customer.name", "Mallory"),
            ("node.rack", "4"),
        ),
    )
    assert identity.get("service.name") == "till"
    assert identity.get("site") == "K\u00f6ln"
    assert identity.get("customer.id") == "acme"
    assert identity.get("customer.name") is None
    assert identity.get("node.rack") is None
    assert [record.fields["attribute"] for record in caplog.records] == [
        "customer.id",
        "customer.name",
        "node.rack",
    ]


@pytest.mark.parametrize(
    ("machine", "expected"),
    [("x86_64", "amd64"), ("armv6l", "arm32"), ("i686", "x86"), ("riscv64", "riscv64")],
)
def test_the_architecture_is_the_conventions_word(
    tmp_path: Path, machine: str, expected: str
) -> None:
    """uname's word where they have none."""
    assert someone(plant(tmp_path, {}), architecture=machine).get("host.arch") == expected


def test_the_running_machine_is_asked_by_default() -> None:
    """uname(2) of here."""
    identity = identify(
        Machine(),
        customer_id="acme",
        customer_name="Acme",
        node_id="n",
        node_region="eu",
        environment=None,
        instance_id=recorded.INSTANCE,
        version="1",
    )
    assert identity.get("host.name") == os.uname().nodename
    assert identity.get("node.region") == "eu"


def test_os_release_is_read_as_a_shell_would() -> None:
    """os-release(5): quotes, escapes, comments, damaged lines."""
    data = b"""# comment
NAME="A \\"B\\" \\$C"
ID=alpine
VERSION_ID='3.21'
broken
EMPTY=
ODD="
LATIN=caf\xe9
"""
    assert os_release(data) == {
        "NAME": 'A "B" $C',
        "ID": "alpine",
        "VERSION_ID": "3.21",
        "EMPTY": "",
        "ODD": '"',
        "LATIN": r"caf\xe9",
    }


def test_the_instance_id_is_kept_in_the_state_directory(tmp_path: Path) -> None:
    """Random, a version 4 UUID, the same after a restart, another in another directory."""
    first = instance_id(str(tmp_path))
    assert (first[14], first[19] in "89ab", len(first)) == ("4", True, 36)
    assert instance_id(str(tmp_path)) == first
    assert (tmp_path / "instance-id").read_text() == first + "\n"
    assert [path.name for path in tmp_path.iterdir()] == ["instance-id"]
    other = tmp_path / "other"
    other.mkdir()
    assert instance_id(str(other)) != first


@pytest.mark.parametrize("content", ["", "not-a-uuid\n", "4BF92F35-77b3-4da6-a3ce-929d0e0e4736"])
def test_a_damaged_instance_id_is_replaced(tmp_path: Path, content: str) -> None:
    """A power cut may have left anything."""
    (tmp_path / "instance-id").write_text(content)
    fresh = instance_id(str(tmp_path))
    assert fresh not in content
    assert instance_id(str(tmp_path)) == fresh


@pytest.mark.parametrize("directory", [None, "missing"])
def test_without_a_place_for_it_the_instance_id_is_this_processs(
    tmp_path: Path, directory: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    """One warning says that it will change."""
    place = None if directory is None else str(tmp_path / directory)
    assert instance_id(place) != instance_id(place)
    assert len(caplog.records) == 2
    assert all("changes with every start" in record.message for record in caplog.records)
