"""What is this machine, by name or number."""

import pytest

from edge_agent.transport.loopback import is_loopback


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST.",
        "db.localhost",
        "127.0.0.1",
        "127.0.0.53",
        "127.255.255.255",
        "127.1",
        "0x7f.0.0.1",
        "::1",
        "::1%lo",
        "0:0:0:0:0:0:0:1",
        "::ffff:127.0.0.1",
        "::FFFF:7f00:1",
        "0:0:0:0:0:ffff:127.9.9.9",
    ],
)
def test_loopback_has_names_and_numbers(host: str) -> None:
    """However they are written."""
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host",
    [
        "",
        "1",
        "1::",
        "::",
        "0.0.0.0",
        "10.0.0.1",
        "128.0.0.1",
        "::ffff:10.0.0.1",
        "::ffff:7f00:0:1",
        "::127.0.0.1",
        "fe80::1%lo",
        "127.example.com",
        "localhost.example.com",
        "notlocalhost",
    ],
)
def test_all_else_is_elsewhere(host: str) -> None:
    """Or may be: no name is looked up."""
    assert not is_loopback(host)
