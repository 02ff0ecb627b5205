"""The adapter's HTTP side: what is asked, by whom, and what it is answered.

    POST /v1/metrics                  OTLP/HTTP: protobuf or JSON, gzip or not
    GET  /health /health/live /health/ready /metrics

The loop only passes bytes on: a request is unpacked, decoded and turned into rows in other threads
(intake.py), one piece in memory at a time. The answer is 200 after the commit. What speaks against
the data itself (partial success, 400, 413) will be said again however often it is sent, so it is
never a retryable code.

Bodies are counted before they are read: together they never exceed MAX_BYTES_IN_FLIGHT. Whoever
comes beyond that waits, and is asked to come back if that takes long.
"""

import json
import time
from collections.abc import Callable

from adapter import decode
from adapter.config import Tokens
from adapter.health import Counters, health, metrics_text
from adapter.intake import BusyError, Intake
from adapter.rows import Outcome, Window
from adapter.sqlite import SqliteStore, StoreAwayError
from edge_agent.log import Log
from edge_agent.otlp.status import Code, PartialSuccess, Status, encode_response, encode_status
from edge_agent.transport.budget import Budget
from edge_agent.transport.compression import CompressionError, TooLargeError
from edge_agent.transport.http1 import Head, Limits, Request, Response

_log = Log("adapter")

MAX_BODY_BYTES = 20 * 1024 * 1024
# Three quarters of it are for large bodies.
MAX_BYTES_IN_FLIGHT = 2 * MAX_BODY_BYTES
LIMITS = Limits(max_body_bytes=MAX_BODY_BYTES, max_connections=256)
_RETRY_AWAY_S = 5
_RETRY_BUSY_S = 1
_MAX_MESSAGE = 4096

_METRICS_PATH = "/v1/metrics"
_PROTOBUF, _JSON = "application/x-protobuf", "application/json"
_GET_PATHS = ("/health", "/health/live", "/health/ready", "/metrics")


class App:
    """Answers requests; `respond`, `admit` and `refuse` are what an HTTP server calls."""

    def __init__(
        self,
        store: SqliteStore,
        *,
        tokens: Tokens | None,
        version: str,
        now_ns: Callable[[], int] = time.time_ns,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._intake = Intake(store, max_bytes=MAX_BODY_BYTES)
        self._tokens = tokens
        self._version = version
        self._now_ns = now_ns
        self._now_s = now_s
        self._counters = Counters(now_s())
        self.budget = Budget(MAX_BYTES_IN_FLIGHT)
        self._said: set[str] = set()
        self.stopping = False

    # ---- what the server calls ----

    def admit(self, head: Head, content_length: int | None) -> Response | None:
        """Refuse what will be refused before its body is read."""
        refusal = None if content_length == 0 else self._refusal(head)
        return refusal if refusal is None else self._counted(head, refusal)

    def refuse(self, head: Head, status: int, text: str) -> Response:
        """The HTTP server's own refusals, as OTLP says them."""
        if status == 503:
            return self._counted(head, _away(head, text, _RETRY_BUSY_S))
        return self._counted(head, _failed(head, status, Code.INVALID_ARGUMENT, text))

    async def respond(self, request: Request) -> Response:
        """The answer to `request`."""
        response = self._refusal(request)
        if response is None:
            response = await self._answer(request)
        return self._counted(request, response)

    def _counted(self, head: Head | Request, response: Response) -> Response:
        if head.path == _METRICS_PATH:
            self._counters.answered(response.status)
        return response

    def close(self) -> None:
        """End the threads that decode; what is answered later is 500."""
        self._intake.close()

    # ---- answers ----

    def _refusal(self, head: Head | Request) -> Response | None:
        """What path, method, type, coding and token alone speak against."""
        if head.path in _GET_PATHS:
            if head.method not in ("GET", "HEAD"):
                return _failed(head, 405, Code.UNIMPLEMENTED, "GET only", ("allow", "GET, HEAD"))
            return None
        if head.path != _METRICS_PATH:
            return _failed(head, 404, Code.NOT_FOUND, "no such path")
        if head.method != "POST":
            return _failed(head, 405, Code.UNIMPLEMENTED, "POST only", ("allow", "POST"))
        if _media_type(head) not in (_PROTOBUF, _JSON):
            return _failed(
                head, 415, Code.INVALID_ARGUMENT, f"Content-Type must be {_PROTOBUF} or {_JSON}"
            )
        if _coding(head) not in ("", "identity", "gzip"):
            return _failed(head, 415, Code.INVALID_ARGUMENT, "Content-Encoding must be gzip")
        if self._tokens is not None and self._customers(head) is None:
            return _failed(
                head,
                401,
                Code.UNAUTHENTICATED,
                "send Authorization: Bearer TOKEN with a token of the adapter's TOKENS_FILE",
                ("www-authenticate", "Bearer"),
            )
        return None

    def _customers(self, head: Head | Request) -> frozenset[str] | None:
        """The customer ids that the sender may write; None for all where no tokens are set."""
        if self._tokens is None:
            return None
        scheme, _, token = head.headers.get("authorization", "").partition(" ")
        return self._tokens.customers_of(token.strip()) if scheme.lower() == "bearer" else None

    async def _answer(self, request: Request) -> Response:
        match request.path:
            case "/v1/metrics":
                return await self._store_metrics(request)
            case "/metrics":
                text = metrics_text(self._store.state, self._counters)
                kind = "text/plain; version=0.0.4; charset=utf-8"
                return Response(200, text.encode(), (("content-type", kind),))
            case "/health":
                code, document = health(
                    self._store.state,
                    self._counters,
                    now_ns=self._now_ns(),
                    now_s=self._now_s(),
                    version=self._version,
                )
                return _document(code, document)
            case "/health/live":
                alive = self._store.state.alive
                return _document(200 if alive else 503, {"status": "live" if alive else "dead"})
            case _:
                reason = "stopping" if self.stopping else self._store.state.error
                if reason is None:
                    return _document(200, {"status": "ready"})
                return _document(503, {"status": "not ready", "reason": reason})

    async def _store_metrics(self, request: Request) -> Response:
        try:
            outcome = await self._intake.take(
                request.body,
                is_gzip=_coding(request) == "gzip",
                is_json=_media_type(request) == _JSON,
                window=Window.at(self._now_ns()),
                customers=self._customers(request),
            )
        except BusyError as error:
            return _away(request, str(error), _RETRY_BUSY_S)
        except StoreAwayError as error:
            return _away(request, f"not stored: {error}", _RETRY_AWAY_S)
        except (TooLargeError, decode.TooLargeError) as error:
            return _failed(request, 413, Code.INVALID_ARGUMENT, str(error))
        except (CompressionError, decode.MalformedError) as error:
            return _failed(request, 400, Code.INVALID_ARGUMENT, str(error))
        self._counters.settled(outcome)
        self._say_rejections(request, outcome)
        message = outcome.message()
        if len(message) > _MAX_MESSAGE:
            message = f"{message[:_MAX_MESSAGE]}..."
        return _stored(request, PartialSuccess(outcome.rejected_points, message))

    def _say_rejections(self, request: Request, outcome: Outcome) -> None:
        for reason, rejection in outcome.rejected.items():
            # Once a reason: a sender that does it wrong does it with every request.
            say = _log.debug if reason in self._said else _log.warning
            self._said.add(reason)
            say(
                "data points rejected",
                reason=reason,
                points=rejection.points,
                first=rejection.example,
                peer=request.peer,
            )


def _media_type(head: Head | Request) -> str:
    return head.headers.get("content-type", "").partition(";")[0].strip().lower()


def _coding(head: Head | Request) -> str:
    return head.headers.get("content-encoding", "").strip().lower()


def _document(code: int, document: object) -> Response:
    body = json.dumps(document, ensure_ascii=False).encode() + b"\n"
    return Response(code, body, (("content-type", _JSON),))


def _stored(request: Request, partial: PartialSuccess) -> Response:
    if _media_type(request) != _JSON:
        return Response(200, encode_response(partial), (("content-type", _PROTOBUF),))
    if not partial.rejected_items:
        return _document(200, {})
    # Protobuf's JSON mapping writes 64-bit integers as strings.
    said = {"rejectedDataPoints": str(partial.rejected_items), "errorMessage": partial.message}
    return _document(200, {"partialSuccess": said})


def _failed(
    head: Head | Request, status: int, code: Code, message: str, *headers: tuple[str, str]
) -> Response:
    """OTLP/HTTP, "Failures": the body is a google.rpc.Status in the encoding of the request."""
    if _media_type(head) == _PROTOBUF:
        body, kind = encode_status(Status(code, message)), _PROTOBUF
    else:
        body, kind = json.dumps({"code": code, "message": message}).encode(), _JSON
    return Response(status, body, (("content-type", kind), *headers))


def _away(head: Head | Request, message: str, retry_s: int) -> Response:
    return _failed(head, 503, Code.UNAVAILABLE, message, ("retry-after", str(retry_s)))
