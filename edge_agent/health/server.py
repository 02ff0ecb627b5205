"""The listener of /health and /metrics, with limits of its own.

Whatever happens to data, these must answer: nothing here waits, and a report is made when somebody
asks for it and not before.
"""

import json
from collections.abc import Callable

from edge_agent.health.prometheus import CONTENT_TYPE
from edge_agent.health.report import LIVE_WITHIN_S, State, http_status, not_ready, report
from edge_agent.transport.http1 import Limits, Request, Response, Server, plain
from edge_agent.transport.http1 import serve as serve_http

METRICS_PATH = "/metrics"
# Idle connections are closed soon: monitors that leak them must not keep a probe out.
_LIMITS = Limits(
    max_body_bytes=0,
    max_connections=32,
    header_timeout_s=5.0,
    idle_timeout_s=5.0,
    max_header_bytes=8192,
)
_NO_STORE = ("cache-control", "no-store")

Answer = Callable[[], Response]


async def serve(
    *,
    host: str,
    port: int,
    path: str,
    state: Callable[[], State],
    metrics: Callable[[], str],
    heartbeat_age_s: Callable[[], float],
) -> Server:
    """Answer `path` (no trailing slash), `path`/live, `path`/ready and /metrics.

    `metrics` is the text of /metrics, `heartbeat_age_s` how long ago the main loop last beat.
    Raises OSError when it cannot listen on `host` and `port`.
    """
    routes = _routes(path, state, metrics, heartbeat_age_s)

    async def respond(request: Request) -> Response:
        answer = routes.get(request.path)
        if answer is None:
            return plain(404, f"not here; there is {', '.join(routes)}")
        if request.method not in ("GET", "HEAD"):
            return plain(405, "GET and HEAD only", (("allow", "GET, HEAD"),))
        return answer()

    return await serve_http(respond, host=host, port=port, limits=_LIMITS)


def _routes(
    path: str,
    state: Callable[[], State],
    metrics: Callable[[], str],
    heartbeat_age_s: Callable[[], float],
) -> dict[str, Answer]:
    def health() -> Response:
        document = report(state())
        body = json.dumps(document, indent=2).encode() + b"\n"
        return Response(http_status(document), body, (_json(), _NO_STORE))

    def live() -> Response:
        age_s = heartbeat_age_s()
        if age_s <= LIVE_WITHIN_S:
            return plain(200, "alive", (_NO_STORE,))
        return plain(503, f"the main loop has not beaten for {age_s:.0f} s", (_NO_STORE,))

    def ready() -> Response:
        reason = not_ready(state())
        return plain(503 if reason else 200, reason or "ready", (_NO_STORE,))

    def exposition() -> Response:
        # A mount point may have bytes in it that are no text.
        body = metrics().encode("utf-8", "backslashreplace")
        return Response(200, body, (("content-type", CONTENT_TYPE), _NO_STORE))

    return {
        path: health,
        f"{path}/live": live,
        f"{path}/ready": ready,
        METRICS_PATH: exposition,
    }


def _json() -> tuple[str, str]:
    return ("content-type", "application/json")
