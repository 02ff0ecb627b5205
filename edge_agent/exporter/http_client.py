"""OTLP over HTTP with protobuf bodies: to a collector, and to the adapter.

After a failed dial the next one waits, as over gRPC: until then every call ends at once, as Retry
with what went wrong.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from edge_agent.exporter.jitter import jitter
from edge_agent.exporter.retry import Backoff, Outcome, Retry, classify_http
from edge_agent.otlp.signal import Signal
from edge_agent.settings import Endpoint
from edge_agent.transport import compression
from edge_agent.transport.dial import DialError, Proxy, Tls
from edge_agent.transport.http1_client import Http1Client, Response

_FIRST_RECONNECT_S = 1.0
# A queue has at most two calls in flight.
_CONNECTIONS_PER_SIGNAL = 2
_MAX_RESPONSE_BYTES = 4 << 20


@dataclass(slots=True)
class _Peer:
    """One host and port, and why and until when it is left alone."""

    http: Http1Client
    failures: int = 0
    not_before_s: float = 0.0
    error: str = ""


class HttpClient:
    """The Client for `collector.protocol: http/protobuf`. `timeout_s` bounds a call, all in all.

    Requests go to each endpoint's path exactly as it is. Redirects are not followed: they would
    carry the headers, and with them the token, to whoever is named.
    """

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
        jitter: Callable[[], float] = jitter,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._endpoints = dict(endpoints)
        self._peers: dict[tuple[str, str, int], _Peer] = {}
        for endpoint in self._endpoints.values():
            key = (endpoint.scheme, endpoint.host, endpoint.port)
            if key not in self._peers:
                self._peers[key] = _Peer(
                    Http1Client(
                        endpoint,
                        tls=tls,
                        proxy=environ_proxy(endpoint),
                        max_connections=_CONNECTIONS_PER_SIGNAL * len(self._endpoints),
                        max_response_bytes=_MAX_RESPONSE_BYTES,
                    )
                )
        self._headers = (
            ("content-type", "application/x-protobuf"),
            ("user-agent", user_agent),
            *headers,
        )
        self._gzip = gzip
        self._timeout_s = timeout_s
        self._backoff = Backoff(min(_FIRST_RECONNECT_S, max_reconnect_s), max_reconnect_s)
        self._jitter = jitter
        self._monotonic = monotonic

    async def export(self, signal: Signal, body: bytes) -> Outcome:
        """POST `body`; every failure of the peer or the network is an Outcome, never raised."""
        endpoint = self._endpoints[signal]
        peer = self._peers[endpoint.scheme, endpoint.host, endpoint.port]
        started_s = self._monotonic()
        if not peer.http.connected and peer.not_before_s > started_s:
            return Retry(peer.error, peer.not_before_s - started_s)
        headers = self._headers
        if self._gzip:
            packed = compression.gzip(body)
            if len(packed) < len(body):
                body, headers = packed, (*headers, ("content-encoding", "gzip"))
        failures = peer.failures
        try:
            response = await peer.http.request(
                "POST", endpoint.path or "/", headers, body, self._timeout_s
            )
        except DialError as error:
            if peer.failures == failures:  # Calls that failed together are one failure.
                peer.failures += 1
                delay_s = self._backoff.delay_s(peer.failures, self._jitter())
                peer.not_before_s = self._monotonic() + delay_s
                peer.error = str(error)
            return Retry(str(error))
        except TimeoutError:
            return Retry(f"{endpoint.authority}: no answer within {self._timeout_s:g} s")
        except ConnectionError as error:
            return Retry(f"{endpoint.authority}: {error}")
        peer.failures, peer.not_before_s = 0, 0.0
        return classify_http(
            response.status,
            response.header("retry-after"),
            _body(response),
            time.time_ns() / 1e9,
            content_type=response.header("content-type") or "",
            latency_s=self._monotonic() - started_s,
        )

    def reconnect(self) -> None:
        """Forget the wait after failed connects: the next call tries at once."""
        for peer in self._peers.values():
            peer.not_before_s = 0.0

    async def close(self) -> None:
        """Close connections; calls in flight end as Retry."""
        for peer in self._peers.values():
            await peer.http.close()


def _body(response: Response) -> bytes:
    """The body, unpacked. One that is damaged says nothing, and its status all the same."""
    if (response.header("content-encoding") or "identity").lower() not in ("gzip", "x-gzip"):
        return response.body
    try:
        return compression.gunzip(response.body, _MAX_RESPONSE_BYTES)
    except compression.CompressionError:
        return b""
