"""The TLS of a listening socket: PEM files -> ssl.SSLContext."""

import ssl
from dataclasses import dataclass

from edge_agent.settings import ConfigError, shown


@dataclass(frozen=True, slots=True)
class PemFile:
    """A path, and the setting that it was given in, for messages."""

    setting: str
    path: str | None

    def __str__(self) -> str:
        return f"{self.setting}={shown(self.path or '')}"


def server_context(
    certificate: PemFile, key: PemFile, client_ca: PemFile, *, alpn: tuple[str, ...] = ()
) -> ssl.SSLContext | None:
    """What to listen with, None where no file is named; `alpn` are the protocols spoken.

    With a `client_ca`, clients need a certificate that it has signed. Reads the files and raises
    ConfigError, which names the file, its setting and the remedy.
    """
    if certificate.path is None and key.path is None and client_ca.path is None:
        return None
    if certificate.path is None or key.path is None:
        missing = certificate if certificate.path is None else key
        raise ConfigError(f"{missing.setting} is not set, but the rest of TLS is; set it too")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2  # RFC 9113, 9.2
    try:
        # Without the callable OpenSSL would ask for a passphrase on the terminal.
        context.load_cert_chain(certificate.path, key.path, password=_no_passphrase)
    except (OSError, ConfigError) as error:
        raise ConfigError(
            f"{certificate}, {key}: {_reason(error)}; name PEM files of a certificate and its"
            " unencrypted key that this user can read"
        ) from None
    if client_ca.path is not None:
        try:
            context.load_verify_locations(client_ca.path)
        except OSError as error:
            raise ConfigError(
                f"{client_ca}: {_reason(error)}; name a PEM file of certificates that this user"
                " can read"
            ) from None
        context.verify_mode = ssl.CERT_REQUIRED
    if alpn:
        context.set_alpn_protocols(list(alpn))
    return context


def _no_passphrase() -> str:
    raise ConfigError("the key is encrypted")


def _reason(error: OSError | ConfigError) -> str:
    if isinstance(error, ssl.SSLError):
        return (error.reason or "not PEM").lower().replace("_", " ")
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return str(error)
