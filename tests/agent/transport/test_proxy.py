"""Which proxy leads where, by the variables that curl and Go read."""

import pytest

from edge_agent.settings import ConfigError, parse_endpoint
from edge_agent.transport.dial import Proxy, proxy_for

PROXY = "http://proxy.example:3128"


def direct(endpoint: str, no_proxy: str) -> bool:
    """Whether NO_PROXY makes `endpoint` reached directly."""
    environ = {"HTTP_PROXY": PROXY, "HTTPS_PROXY": PROXY, "NO_PROXY": no_proxy}
    return proxy_for(parse_endpoint(endpoint), environ) is None


@pytest.mark.parametrize(
    ("endpoint", "environ", "expected"),
    [
        ("https://c:4317", {}, None),
        ("https://c:4317", {"HTTPS_PROXY": PROXY}, Proxy("proxy.example", 3128)),
        ("https://c:4317", {"https_proxy": PROXY}, Proxy("proxy.example", 3128)),
        ("https://c:4317", {"HTTP_PROXY": PROXY}, None),
        ("http://c:4317", {"HTTP_PROXY": PROXY}, Proxy("proxy.example", 3128)),
        ("http://c:4317", {"HTTPS_PROXY": PROXY}, None),
        ("https://c", {"HTTPS_PROXY": " ", "https_proxy": "http://low:1"}, Proxy("low", 1)),
        ("https://c", {"HTTPS_PROXY": "http://up:1", "https_proxy": PROXY}, Proxy("up", 1)),
        ("https://c", {"HTTPS_PROXY": "proxy.example:3128"}, Proxy("proxy.example", 3128)),
        ("https://c", {"HTTPS_PROXY": "http://proxy.example/"}, Proxy("proxy.example", 80)),
        ("https://c", {"HTTPS_PROXY": "http://[2001:db8::1]:3128"}, Proxy("2001:db8::1", 3128)),
    ],
)
def test_the_scheme_of_the_peer_chooses_the_variable(
    endpoint: str, environ: dict[str, str], expected: Proxy | None
) -> None:
    """Upper case wins over lower; blank is unset; a bare host is a proxy too."""
    assert proxy_for(parse_endpoint(endpoint), environ) == expected


@pytest.mark.parametrize(
    ("url", "authorization"),
    [
        ("http://user:secret@p:1", "Basic dXNlcjpzZWNyZXQ="),
        ("user:secret@p:1", "Basic dXNlcjpzZWNyZXQ="),
        ("http://user@p:1", "Basic dXNlcjo="),
        ("http://us%65r:s%40%3acret@p:1", "Basic dXNlcjpzQDpjcmV0"),
        ("http://user:s@cret@p:1", "Basic dXNlcjpzQGNyZXQ="),
    ],
)
def test_credentials_become_basic_authorization(url: str, authorization: str) -> None:
    """RFC 7617; percent-decoded, and an @ in the password does no harm."""
    proxy = proxy_for(parse_endpoint("https://c:1"), {"HTTPS_PROXY": url})
    assert proxy == Proxy("p", 1, authorization)


@pytest.mark.parametrize(
    "url", ["socks5://user:secret@p:1", "https://user:secret@p:1", "http://user:secret@p:0"]
)
def test_a_proxy_that_cannot_be_used_names_its_variable_and_no_secret(url: str) -> None:
    """Found at start, not at the first dial."""
    with pytest.raises(ConfigError, match=r"^HTTPS_PROXY=.*\(environment\)") as caught:
        proxy_for(parse_endpoint("https://c:1"), {"HTTPS_PROXY": url})
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "endpoint",
    [
        "http://localhost:1",
        "http://sub.localhost:1",
        "http://127.0.0.1:1",
        "http://127.9.9.9:1",
        "http://[::1]:1",
        "http://[::ffff:127.0.0.1]:1",
    ],
)
def test_loopback_never_goes_through_a_proxy(endpoint: str) -> None:
    """A proxy's own loopback is another machine's."""
    assert direct(endpoint, "")


@pytest.mark.parametrize(
    ("endpoint", "no_proxy", "expected"),
    [
        ("http://a.example.com:1", "*", True),
        ("http://example.com:1", "example.com", True),
        ("http://a.example.com:1", "example.com", True),
        ("http://A.Example.COM:1", "EXAMPLE.com", True),
        ("http://badexample.com:1", "example.com", False),
        ("http://example.com:1", ".example.com", False),
        ("http://a.example.com:1", ".example.com", True),
        ("http://a.example.com:1", "*.example.com", True),
        ("http://example.com:1", "x, example.com ,y", True),
        ("http://example.com:1", "x example.com", True),
        ("http://example.com:1", ",,", False),
        ("http://example.com:1", "example.com:1", True),
        ("http://example.com:1", "example.com:2", False),
        ("http://example.com.:1", "example.com.", True),
        ("http://10.1.2.3:1", "10.1.2.3", True),
        ("http://10.1.2.3:1", "10.1.2.3:2", False),
        ("http://10.1.2.3:1", "10.0.0.0/8", True),
        ("http://11.1.2.3:1", "10.0.0.0/8", False),
        ("http://10.1.2.3:1", "10.1.2.0/31", False),
        ("http://10.1.2.3:1", "0.0.0.0/0", True),
        ("http://10.1.2.3:1", "10.0.0.0/x", False),
        ("http://10.1.2.3:1", "1.2.3", False),
        ("http://[2001:db8::5]:1", "2001:db8::/32", True),
        ("http://[2001:db8::5]:1", "[2001:db8::5]", True),
        ("http://[2001:db8::5]:1", "[2001:db8::5]:2", False),
        ("http://[2001:db8::5]:1", "10.0.0.0/8", False),
        ("http://[fe80::1%25eth0]:1", "fe80::/10", True),
    ],
)
def test_what_no_proxy_names_is_reached_directly(
    endpoint: str, no_proxy: str, expected: bool
) -> None:
    """Hosts and all below them, suffixes, addresses, blocks, ports."""
    assert direct(endpoint, no_proxy) is expected
