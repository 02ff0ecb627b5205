"""The environment table of the contract, row by row, and what settings mean together."""

import os
import ssl
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization

from adapter import config
from adapter.config import SETTINGS, load, load_for_query, parsed, read_tokens, state_directory
from edge_agent.settings import ConfigError, Endpoint
from tests.fakes.certificates import Authority

# CONTRACT, "Adapter": variable, default, a value somebody may set, how it is read.
TABLE: list[tuple[str, Any, str, Any]] = [
    ("CASSANDRA_HOST", None, "[fd00::1]", "fd00::1"),
    ("CASSANDRA_PORT", 9042, "9142", 9142),
    ("CASSANDRA_DC", "dc1", "dc2", "dc2"),
    ("CASSANDRA_USERNAME", None, "pulse", "pulse"),
    ("CASSANDRA_PASSWORD", None, "p w!", "p w!"),
    ("CASSANDRA_CA", None, "/etc/ca.pem", "/etc/ca.pem"),
    ("STORE", None, "SQLite", "sqlite"),
    ("CASSANDRA_CONSISTENCY", "LOCAL_QUORUM", "local_one", "LOCAL_ONE"),
    ("LISTEN_HOST", "127.0.0.1", "::1", "::1"),
    ("PORT", 8081, "8080", 8080),
    ("TOKENS_FILE", None, "/run/tokens", "/run/tokens"),
    ("ALLOW_ANONYMOUS", False, "Yes", True),
    ("TLS_CERTIFICATE", None, "/c.pem", "/c.pem"),
    ("TLS_KEY", None, "/k.pem", "/k.pem"),
    ("TLS_CLIENT_CA", None, "/ca.pem", "/ca.pem"),
    ("STATE_DIRECTORY", None, "/srv/a", "/srv/a"),
    (
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        None,
        "http://collector:4317",
        Endpoint("http", "collector", 4317),
    ),
    ("REPLAY_INTERVAL", 60.0, "5m", 300.0),
]
BAD = [
    ("CASSANDRA_HOST", "a:1", "has a port in it"),
    ("CASSANDRA_PORT", "65536", "above 65535"),
    ("CASSANDRA_PORT", "9_042", "not a whole number"),
    ("CASSANDRA_DC", "a\tb", "control character"),
    ("CASSANDRA_USERNAME", "a\tb", "control character"),
    ("CASSANDRA_CA", "a\tb", "control character"),
    ("STORE", "sqlit", "nearest known is sqlite"),
    ("CASSANDRA_CONSISTENCY", "LOCAL_QUORM", "nearest known is local_quorum"),
    ("LISTEN_HOST", "a b", "not a host name"),
    ("PORT", "http", "not a whole number"),
    ("ALLOW_ANONYMOUS", "maybe", "write true or false"),
    ("OTEL_EXPORTER_OTLP_ENDPOINT", "ftp://x", "http:// or https://"),
    ("REPLAY_INTERVAL", "60", "write 60s for seconds"),
    ("REPLAY_INTERVAL", "1ms", "below 1s"),
]
FEW = {"STATE_DIRECTORY": "/srv/a"}


def test_the_table_is_the_contracts():
    """Every row of it, in its order."""
    assert [setting.name for setting in SETTINGS] == [row[0] for row in TABLE]
    assert all(setting.help for setting in SETTINGS)


@pytest.mark.parametrize(("name", "default", "text", "value"), TABLE)
def test_a_setting(name: str, default: Any, text: str, value: Any):
    """Default, a set value, blanks and CR around it, and blank as unset."""
    assert parsed({})[name] == default
    assert parsed({name: text})[name] == value
    assert parsed({name: f"  {text}\r\n"})[name] == value
    assert parsed({name: " \t"})[name] == default


@pytest.mark.parametrize(("name", "text", "remedy"), BAD)
def test_a_bad_value_names_itself_its_source_and_the_remedy(name: str, text: str, remedy: str):
    """The message is all that a person gets."""
    with pytest.raises(ConfigError) as raised:
        parsed({name: text})
    assert str(raised.value).startswith(f"{name}=")
    assert "(environment): " in str(raised.value)
    assert remedy in str(raised.value)


def test_the_password_may_be_in_a_file(tmp_path: Path):
    """CASSANDRA_PASSWORD_FILE, with the line break that editors leave."""
    (tmp_path / "secret").write_text("hunter2\n")
    environ = {"CASSANDRA_PASSWORD_FILE": str(tmp_path / "secret")}
    assert parsed(environ)["CASSANDRA_PASSWORD"] == "hunter2"
    with pytest.raises(ConfigError, match="CASSANDRA_PASSWORD is set too"):
        parsed(environ | {"CASSANDRA_PASSWORD": "x"})


# ---- together ---------------------------------------------------------------------------------


def test_the_defaults_serve_on_loopback_without_anything(tmp_path: Path):
    """`cassandra-adapter` alone, as `make run` starts it."""
    loaded = load({"HOME": str(tmp_path)})
    assert (loaded.listen_host, loaded.port, loaded.tokens, loaded.tls) == (
        "127.0.0.1",
        8081,
        None,
        None,
    )
    assert loaded.warnings == ()


@pytest.mark.parametrize(
    ("environ", "what"),
    [
        ({"CASSANDRA_HOST": "10.0.0.1"}, "CASSANDRA_HOST=10.0.0.1"),
        ({"STORE": "cassandra"}, "STORE=cassandra"),
        ({"STORE": "cassandra", "CASSANDRA_HOST": "c"}, "CASSANDRA_HOST=c"),
    ],
)
def test_cassandra_is_refused_with_the_way_on(environ: dict[str, str], what: str):
    """Never silently another store than the one that was asked for."""
    for read in (load, load_for_query):
        with pytest.raises(ConfigError) as raised:
            read(FEW | environ)
        assert str(raised.value) == (
            f"{what}: this build stores in SQLite only; set STORE=sqlite to store in"
            " STATE_DIRECTORY, or unset STORE and CASSANDRA_HOST"
        )


def test_the_embedded_store_can_be_forced():
    """STORE=sqlite wins over a CASSANDRA_HOST that the environment has for others."""
    environ = FEW | {"STORE": "sqlite", "CASSANDRA_HOST": "10.0.0.1"}
    assert load(environ).state_directory == load_for_query(environ) == Path("/srv/a")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "[::1]", "localhost"])
def test_loopback_needs_no_token(host: str):
    """Whoever is on the machine may write."""
    assert load(FEW | {"LISTEN_HOST": host}).tokens is None


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.1.2.3", "adapter.example.com"])
def test_off_loopback_needs_a_decision(host: str, tmp_path: Path):
    """Tokens, or the word that anyone may write."""
    with pytest.raises(ConfigError, match="set TOKENS_FILE, or ALLOW_ANONYMOUS=true"):
        load(FEW | {"LISTEN_HOST": host})
    assert load(FEW | {"LISTEN_HOST": host, "ALLOW_ANONYMOUS": "true"}).listen_host == host
    tokens = write_tokens(tmp_path, "t acme")
    assert load(FEW | {"LISTEN_HOST": host, "TOKENS_FILE": tokens}).tokens is not None


def test_tokens_win_over_anonymous_with_a_warning(tmp_path: Path):
    """Both set is rather a mistake than a wish for none."""
    tokens = write_tokens(tmp_path, "t acme")
    loaded = load(FEW | {"TOKENS_FILE": tokens, "ALLOW_ANONYMOUS": "true"})
    assert loaded.tokens is not None
    assert "ALLOW_ANONYMOUS has no effect" in loaded.warnings[0]


# ---- tokens -----------------------------------------------------------------------------------


def write_tokens(folder: Path, text: str, mode: int = 0o600) -> str:
    """The path of a tokens file with that text."""
    path = folder / "tokens"
    path.write_bytes(text.encode("utf-8"))
    path.chmod(mode)
    return str(path)


def test_a_token_has_its_customers(tmp_path: Path):
    """Comments, blank lines, blanks around commas, BOM and CRLF are fine."""
    tokens = read_tokens(
        write_tokens(
            tmp_path,
            "\ufeff# who may write what\r\n\r\nabc  acme, globex # both\r\n\tdéf-1\tx\r\n".replace(
                "é", "e"
            ),
            0o640,
        )
    )
    assert tokens.customers_of("abc") == {"acme", "globex"}
    assert tokens.customers_of("def-1") == {"x"}
    assert tokens.customers_of("ab") is None
    assert tokens.customers_of("") is None
    assert tokens.customers_of("\udcff") is None


def test_tokens_are_not_kept_in_the_clear(tmp_path: Path):
    """Neither a dump nor a log of the object shows one."""
    tokens = read_tokens(write_tokens(tmp_path, "very-secret acme"))
    assert "very-secret" not in repr(tokens)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "has no token"),
        ("# nothing\n", "has no token"),
        ("a acme\nsecret\n", "line 2: no customer id"),
        ("secret ,", "line 1: no customer id"),
        ("secret acme globex", "line 1: a blank between customer ids"),
        ("secret acme\nsecret globex", "line 2: the token is there already"),
        ("sécret acme", "line 1: has characters a header cannot carry"),
        (f"secret {'x' * 1025}", "line 1: longer than 1024 bytes"),
    ],
)
def test_a_bad_tokens_file_names_the_line_and_never_a_token(tmp_path: Path, text: str, says: str):
    """Logs are read by more people than the file."""
    with pytest.raises(ConfigError) as raised:
        read_tokens(write_tokens(tmp_path, text))
    assert says in str(raised.value)
    assert "cret" not in str(raised.value)


@pytest.mark.parametrize("mode", [0o604, 0o644, 0o602, 0o666])
def test_a_tokens_file_that_others_can_read_is_refused(tmp_path: Path, mode: int):
    """The message has the command that helps."""
    path = write_tokens(tmp_path, "t acme", mode)
    with pytest.raises(ConfigError, match="others can read or write it; chmod o-rwx"):
        read_tokens(path)


def test_a_tokens_file_that_is_not_there_or_not_text(tmp_path: Path):
    """Named with the reason."""
    with pytest.raises(ConfigError, match=r"cannot be read \(No such file or directory\)"):
        read_tokens(str(tmp_path / "none"))
    (tmp_path / "binary").write_bytes(b"\xff\xff")
    (tmp_path / "binary").chmod(0o600)
    with pytest.raises(ConfigError, match=r"cannot be read \(not UTF-8\)"):
        read_tokens(str(tmp_path / "binary"))


# ---- TLS --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Who issues the certificates."""
    return Authority(tmp_path_factory.mktemp("ca"))


def test_tls_from_files(authority: Authority):
    """With a client CA, clients need a certificate."""
    pair = authority.issue("localhost")
    environ = FEW | {"TLS_CERTIFICATE": str(pair.certificate), "TLS_KEY": str(pair.key)}
    plain = load(environ).tls
    assert plain is not None
    assert plain.verify_mode is ssl.CERT_NONE
    strict = load(environ | {"TLS_CLIENT_CA": str(authority.certificate)}).tls
    assert strict is not None
    assert strict.verify_mode is ssl.CERT_REQUIRED
    assert strict.minimum_version is ssl.TLSVersion.TLSv1_2


def test_tls_that_cannot_work_is_refused_with_the_reason(authority: Authority, tmp_path: Path):
    """Missing halves, files that are not there or not what they should be, encrypted keys."""
    pair = authority.issue("localhost")
    good = {"TLS_CERTIFICATE": str(pair.certificate), "TLS_KEY": str(pair.key)}
    text = tmp_path / "text"
    text.write_text("hello")
    encrypted = tmp_path / "encrypted"
    key = serialization.load_pem_private_key(pair.key.read_bytes(), None)
    encrypted.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"passphrase"),
        )
    )
    other = authority.issue("other")
    for environ, says in [
        ({"TLS_KEY": "/k"}, "TLS_CERTIFICATE is not set"),
        ({"TLS_CERTIFICATE": "/c"}, "TLS_KEY is not set"),
        ({"TLS_CLIENT_CA": "/c"}, "TLS_CERTIFICATE is not set"),
        (good | {"TLS_KEY": "/nowhere"}, "No such file or directory"),
        (good | {"TLS_KEY": str(other.key)}, "key values mismatch"),
        (good | {"TLS_CERTIFICATE": str(text)}, "name PEM files"),
        (good | {"TLS_KEY": str(encrypted)}, "the key is encrypted; name PEM files"),
        (good | {"TLS_CLIENT_CA": "/nowhere"}, "TLS_CLIENT_CA=/nowhere: No such file"),
        (good | {"TLS_CLIENT_CA": str(text)}, "name a PEM file of certificates"),
    ]:
        with pytest.raises(ConfigError, match=says):
            load(FEW | environ)


# ---- where the store is -----------------------------------------------------------------------


def test_the_state_directory(tmp_path: Path):
    """STATE_DIRECTORY (the first, as systemd separates them), installed, in the home."""
    installed = tmp_path / "var"
    home = {"HOME": str(tmp_path)}
    assert state_directory(home, installed) == tmp_path / ".local/state/cassandra-adapter"
    installed.mkdir()
    assert state_directory(home, installed) == installed
    named = home | {"STATE_DIRECTORY": "/srv/a:/srv/b"}
    assert state_directory(named, installed) == Path("/srv/a")
    relative = {"STATE_DIRECTORY": "state"}
    assert state_directory(relative, installed) == Path.cwd() / "state"
    with pytest.raises(ConfigError, match="set STATE_DIRECTORY"):
        state_directory({}, tmp_path / "none")


def test_the_environment_is_read_where_none_is_given(monkeypatch: pytest.MonkeyPatch):
    """As the programs do."""
    for setting in SETTINGS:
        monkeypatch.delenv(setting.name, raising=False)
    monkeypatch.setenv("STATE_DIRECTORY", "/srv/z")
    assert load().state_directory == load_for_query() == Path("/srv/z")


def test_the_journal_is_known_by_its_stream():
    """systemd.exec(5): JOURNAL_STREAM is device and inode of standard error."""
    status = os.fstat(2)
    stream = f"{status.st_dev}:{status.st_ino}"
    assert load(FEW | {"JOURNAL_STREAM": stream}).journal
    assert not load(FEW | {"JOURNAL_STREAM": "1:1"}).journal
    assert not load(FEW).journal


def test_a_closed_standard_error_is_no_journal(monkeypatch: pytest.MonkeyPatch):
    """A daemon may have none."""

    fstat = os.fstat

    def closed(descriptor: int) -> os.stat_result:
        if descriptor == 2:
            raise OSError(9, "Bad file descriptor")
        return fstat(descriptor)

    monkeypatch.setattr(config.os, "fstat", closed)
    assert not load(FEW | {"JOURNAL_STREAM": "1:1"}).journal
