"""OTLP over gRPC through grpcio, for networks that need its machinery.

For `collector.transport: grpcio`, imported only when chosen: it costs 20 MB and a few threads.
Options bring its behaviour in line with `grpc_client`; what grpc-core makes up for a broken link
is told apart from what a peer answered.
"""

import asyncio
import base64
import os
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio

from edge_agent.exporter.retry import Outcome, Retry, classify_grpc
from edge_agent.log import Log
from edge_agent.otlp.signal import GRPC_PATHS, Signal
from edge_agent.otlp.status import Code
from edge_agent.settings import Endpoint
from edge_agent.transport.dial import Proxy, Tls
from edge_agent.transport.grpc import user_metadata

_MAX_RESPONSE_BYTES = 4 << 20
_FIRST_RECONNECT_S = 1.0
# Where distributions keep all roots in one file; grpcio cannot read a folder of them and would
# trust its own list instead.
_ROOT_FILES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)
# grpc-core reports a link that broke with these words and a code that OTLP does not retry
# (INTERNAL for RST_STREAM). Before 1.70 or so the words in brackets came alone.
_BROKEN_LINK = ("Stream removed", "Received RST_STREAM", "No status received")
_TOO_LARGE = "message larger than max"
_HTTP_TOO_LARGE = "Received http2 header with status: 413"

_log = Log("exporter.grpcio")


@dataclass(slots=True)
class _Channel:
    """One target's channel, its methods, and the state of the files it was made with."""

    channel: Any  # The published stubs know neither raw bytes nor defaults.
    export: dict[Signal, Any]
    files: tuple[tuple[int, int] | None, ...]
    calls: int = 0


class GrpcioClient:
    """The Client for `collector.transport: grpcio`; `unix` endpoints work here alone."""

    def __init__(
        self,
        endpoints: Mapping[Signal, Endpoint],
        *,
        tls: Tls,
        headers: tuple[tuple[str, str], ...],
        gzip: bool,
        timeout_s: float,
        max_reconnect_s: float,
        environ_proxy: Callable[[Endpoint], Proxy | None],
        user_agent: str,
    ) -> None:
        self._endpoints = dict(endpoints)
        self._tls = tls
        self._compression = grpc.Compression.Gzip if gzip else grpc.Compression.NoCompression
        self._timeout_s = timeout_s
        self._max_reconnect_s = max_reconnect_s
        self._environ_proxy = environ_proxy
        self._user_agent = user_agent
        self._metadata, refused = user_metadata(headers)
        for name in refused:
            _log.warning("a header that gRPC cannot carry is not sent", header=name)
        self._channels: dict[str, _Channel] = {}
        # Channels that have been replaced and may still have calls in flight.
        self._retired: list[_Channel] = []
        self._closed = asyncio.Event()

    async def export(self, signal: Signal, body: bytes) -> Outcome:
        """Send `body`; every failure of the peer or the network is an Outcome, never raised."""
        if self._closed.is_set():
            return Retry("closed by us")
        loop = asyncio.get_running_loop()
        endpoint = self._endpoints[signal]
        started_s = loop.time()
        try:
            await self._close_idle()
            channel = self._channel(endpoint)
            channel.calls += 1
            try:
                response = await channel.export[signal](
                    body,
                    timeout=self._timeout_s,
                    metadata=self._metadata,
                    compression=self._compression,
                )
            finally:
                channel.calls -= 1
        except grpc.aio.AioRpcError as error:
            return _failure(error, endpoint)
        except (OSError, grpc.aio.BaseError) as error:
            return Retry(f"{endpoint.authority}: {error}")
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            # Not our caller's wish: grpcio cancels what is in flight on a channel that closes.
            return Retry("closed by us")
        # None stands for an answer that is no message: the peer has the data all the same.
        return classify_grpc(Code.OK, "", body=response or b"", latency_s=loop.time() - started_s)

    def reconnect(self) -> None:
        """Forget the wait after failed connects: the next call tries at once."""
        # grpcio keeps its waits to itself: a new channel has none.
        self._retired += self._channels.values()
        self._channels.clear()

    async def close(self) -> None:
        """Close connections; calls in flight end as Retry."""
        self._closed.set()
        channels = [*self._channels.values(), *self._retired]
        await asyncio.gather(*(c.channel.close() for c in channels))

    # Channels

    def _channel(self, endpoint: Endpoint) -> _Channel:
        """The target's channel, made anew when a certificate file has changed; raises OSError."""
        target = _target(endpoint)
        # Three stat calls, microseconds beside what grpcio costs: it reads no file by itself.
        files = tuple(_state(path) for path in self._files(endpoint))
        known = self._channels.get(target)
        if known is not None and known.files == files:
            return known
        channel = self._open(endpoint, target)
        export = {
            signal: channel.unary_unary(GRPC_PATHS[signal])
            for signal, e in self._endpoints.items()
            if _target(e) == target
        }
        self._channels[target] = _Channel(channel, export, files)
        if known is not None:
            self._retired.append(known)
        return self._channels[target]

    async def _close_idle(self) -> None:
        """Close replaced channels whose calls have ended.

        Not by grpcio's own grace: what closes gracefully there cannot be closed at once any more.
        """
        idle = [channel for channel in self._retired if channel.calls == 0]
        self._retired = [channel for channel in self._retired if channel.calls > 0]
        for channel in idle:
            await channel.channel.close()

    def _files(self, endpoint: Endpoint) -> list[str]:
        if not endpoint.tls:
            return []
        tls = self._tls
        files = (tls.certificate, tls.client_certificate, tls.client_key)
        return [path for path in files if path is not None]

    def _open(self, endpoint: Endpoint, target: str) -> Any:
        options = self._options(endpoint)
        if not endpoint.tls:
            return grpc.aio.insecure_channel(target, options=options)
        tls = self._tls
        credentials = grpc.ssl_channel_credentials(
            _read(tls.certificate) if tls.certificate is not None else _system_roots(),
            _read(tls.client_key or tls.client_certificate),
            _read(tls.client_certificate),
        )
        return grpc.aio.secure_channel(target, credentials, options=options)

    def _options(self, endpoint: Endpoint) -> list[tuple[str, Any]]:
        timeout_ms = max(1, round(self._timeout_s * 1000))
        max_reconnect_ms = max(1, round(self._max_reconnect_s * 1000))
        first_reconnect_ms = min(round(_FIRST_RECONNECT_S * 1000), max_reconnect_ms)
        options: list[tuple[str, Any]] = [
            ("grpc.primary_user_agent", self._user_agent),
            ("grpc.max_receive_message_length", _MAX_RESPONSE_BYTES),
            ("grpc.max_send_message_length", -1),
            # Retrying is the queue's.
            ("grpc.enable_retries", 0),
            ("grpc.service_config_disable_resolution", 1),
            # Else a channel with new certificates would go on with the old one's connection.
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.initial_reconnect_backoff_ms", first_reconnect_ms),
            ("grpc.max_reconnect_backoff_ms", max_reconnect_ms),
            # By its name the shortest backoff, in fact the time a connection may take.
            ("grpc.min_reconnect_backoff_ms", timeout_ms),
            ("grpc.dns_min_time_between_resolutions_ms", first_reconnect_ms),
            ("grpc.keepalive_time_ms", max(1, timeout_ms // 2)),
            ("grpc.keepalive_timeout_ms", max(1, timeout_ms // 2)),
            ("grpc.enable_http_proxy", 0),
        ]
        proxy = self._environ_proxy(endpoint) if endpoint.scheme != "unix" else None
        if proxy is not None:
            options[-1:] = [("grpc.http_proxy", _proxy_url(proxy))]
        return options


def _target(endpoint: Endpoint) -> str:
    if endpoint.scheme == "unix":
        return f"unix:{endpoint.path}"
    return f"dns:///{endpoint.authority}"


def _state(path: str) -> tuple[int, int] | None:
    """What changes when a file is replaced or rewritten; None while there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def _read(path: str | None) -> bytes | None:
    if path is None:
        return None
    with open(path, "rb") as file:
        return file.read()


def _system_roots() -> bytes | None:
    """The system's roots as PEM; None (grpcio's own list) where they are in no single file."""
    # cafile is None where OpenSSL's own place for it is empty.
    for path in (ssl.get_default_verify_paths().cafile or "", *_ROOT_FILES):
        if os.path.isfile(path):
            return _read(path)
    return None


def _proxy_url(proxy: Proxy) -> str:
    """As grpc-core reads it: credentials in front, plain, each `%XX` decoded."""
    credentials = ""
    if proxy.authorization is not None:
        basic = base64.b64decode(proxy.authorization.partition(" ")[2])
        user, _, password = basic.partition(b":")
        credentials = f"{_percent(user)}:{_percent(password)}@"
    return f"http://{credentials}{proxy.endpoint.authority}"


def _percent(data: bytes) -> str:
    return "".join(chr(b) if b < 128 and chr(b).isalnum() else f"%{b:02X}" for b in data)


def _failure(error: grpc.aio.AioRpcError, endpoint: Endpoint) -> Outcome:
    """What a call that failed means: the peer's status, or one that grpc-core made up."""
    number: Any = error.code().value[0]
    code, message = int(number), error.details() or ""
    if message.startswith(_BROKEN_LINK) and _TOO_LARGE not in message:
        return Retry(f"{endpoint.authority}: {message}")
    if message == _HTTP_TOO_LARGE:
        code = Code.RESOURCE_EXHAUSTED
    metadata: Any = error.trailing_metadata()
    return classify_grpc(code, message, metadata.get("grpc-status-details-bin", b""))
