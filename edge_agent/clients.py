"""A client for each destination, as the settings ask for it."""

from collections.abc import Callable
from functools import partial
from typing import Any

from edge_agent import __version__
from edge_agent.config import CollectorConfig, Config
from edge_agent.exporter.grpc_client import GrpcClient
from edge_agent.exporter.http_client import HttpClient
from edge_agent.exporter.retry import Client
from edge_agent.otlp.signal import HTTP_PATHS, Signal
from edge_agent.settings import Endpoint
from edge_agent.transport.dial import Tls
from edge_agent.transport.loopback import is_loopback
from edge_agent.transport.proxy import proxy_for

USER_AGENT = f"pulseops-edge/{__version__}"


def clients(config: Config) -> dict[str, Client]:
    """A client for each destination that is configured: `collector`, `adapter`."""
    found: dict[str, Client] = {}
    collector = config.collector
    shared: dict[str, Any] = {
        # What is trusted for the collector is trusted for the adapter, a peer of the same site.
        "tls": Tls(collector.certificate, collector.client_certificate, collector.client_key),
        "timeout_s": collector.timeout_s,
        "max_reconnect_s": collector.retry.max_s,
        "environ_proxy": partial(proxy_for, environ=config.proxy_environ),
        "user_agent": USER_AGENT,
    }
    if collector.endpoints:
        found["collector"] = _collector_class(collector)(
            collector.endpoints,
            headers=collector.headers,
            gzip=collector.gzip,
            **shared,
        )
    if config.adapter.endpoint is not None:
        token = config.adapter.token
        found["adapter"] = HttpClient(
            adapter_endpoints(config.adapter.endpoint),
            headers=() if token is None else (("authorization", f"Bearer {token}"),),
            gzip=not is_loopback(config.adapter.endpoint.host),
            **shared,
        )
    return found


def _collector_class(collector: CollectorConfig) -> Callable[..., Client]:
    if collector.protocol == "http/protobuf":
        return HttpClient
    if collector.transport == "grpcio":
        # grpcio costs 20 MB of RSS: only who chose it pays.
        from edge_agent.exporter.grpcio_client import GrpcioClient

        return GrpcioClient
    return GrpcClient


def adapter_endpoints(base: Endpoint) -> dict[Signal, Endpoint]:
    """Where the adapter at `base` takes metrics, and traces that could not be delivered."""
    return {
        signal: Endpoint(base.scheme, base.host, base.port, base.path + HTTP_PATHS[signal])
        for signal in (Signal.METRICS, Signal.TRACES)
    }
