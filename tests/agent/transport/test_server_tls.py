"""PEM files -> what to listen with."""

import ssl
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from edge_agent.settings import ConfigError
from edge_agent.transport.server_tls import PemFile, server_context
from tests.fakes.certificates import Authority

NAMES = ("receiver.tls.certificate", "receiver.tls.key", "receiver.tls.client_ca")


def context(
    certificate: object = None, key: object = None, client_ca: object = None
) -> ssl.SSLContext | None:
    """What the receiver would listen with, given these paths."""
    paths = [None if path is None else str(path) for path in (certificate, key, client_ca)]
    files = [PemFile(name, path) for name, path in zip(NAMES, paths, strict=True)]
    return server_context(*files, alpn=("h2",))


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Who issues the certificates."""
    return Authority(tmp_path_factory.mktemp("ca"))


def test_without_files_there_is_no_tls() -> None:
    """Nothing set, nothing wrong."""
    assert context() is None


def test_a_client_ca_makes_client_certificates_a_duty(authority: Authority) -> None:
    """Without it anyone may connect; never with less than TLS 1.2."""
    pair = authority.issue("localhost")
    anyone = context(pair.certificate, pair.key)
    assert anyone is not None
    assert anyone.verify_mode is ssl.CERT_NONE
    assert anyone.minimum_version is ssl.TLSVersion.TLSv1_2
    known = context(pair.certificate, pair.key, authority.certificate)
    assert known is not None
    assert known.verify_mode is ssl.CERT_REQUIRED


def test_what_cannot_work_names_the_setting_the_reason_and_the_remedy(
    authority: Authority, tmp_path: Path
) -> None:
    """Missing halves, files that are not there or not what they should be, encrypted keys."""
    pair, other = authority.issue("localhost"), authority.issue("other")
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
    for files, says in [
        ((None, "/k", None), "receiver.tls.certificate is not set, but the rest of TLS is"),
        (("/c", None, None), "receiver.tls.key is not set"),
        ((None, None, "/c"), "receiver.tls.certificate is not set"),
        ((pair.certificate, "/nowhere", None), "receiver.tls.key=/nowhere: no such file"),
        ((pair.certificate, other.key, None), "key values mismatch; name PEM files"),
        ((text, pair.key, None), "name PEM files"),
        ((pair.certificate, encrypted, None), "the key is encrypted; name PEM files"),
        ((pair.certificate, pair.key, "/no"), "receiver.tls.client_ca=/no: No such file"),
        ((pair.certificate, pair.key, text), "name a PEM file of certificates"),
    ]:
        with pytest.raises(ConfigError, match=f"(?i){says}"):
            context(*files)
