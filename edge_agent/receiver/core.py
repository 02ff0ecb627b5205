"""What becomes of a request, whichever server took it: (path, type, encoding, bytes) -> Accepted or
Refused. Pure but for the ledger and the queues behind `offer`.

Codes are those of the OTLP specification ("OTLP/gRPC Response", "OTLP/HTTP Response"); where it
leaves a choice, those of the OpenTelemetry Collector (PEERS: the oracle). Differences on purpose:

- undecodable is INVALID_ARGUMENT over gRPC too (the Collector: INTERNAL), too large 413 over HTTP
  (the Collector: 400), overload says when to come back;
- a request is at most MAX_REQUEST_BYTES over HTTP as over gRPC (the Collector: 20 MiB over HTTP):
  more could not leave as one request, and all the bodies in RAM together are 16 MiB.
"""

import json as json_text
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from edge_agent.complaints import Complaints
from edge_agent.ledger import Account
from edge_agent.log import Log
from edge_agent.otlp.batch import Admitted, Enricher, MalformedError, TooLargeError, split
from edge_agent.otlp.signal import GRPC_PATHS, HTTP_PATHS, Signal
from edge_agent.otlp.status import Code, Status, encode_status

# One message, uncompressed: gRPC's default limit, and what every peer takes.
MAX_REQUEST_BYTES = 4 << 20
# How long a sender that was turned away should wait: a queue's next call takes about as long.
RETRY_AFTER_S = 5.0
# Of what a sender says of itself.
MAX_SENDER_CHARS = 100
PROTOBUF, JSON = "application/x-protobuf", "application/json"
# What a body may be packed in. `identity` and nothing are the same.
CODINGS = ("identity", "gzip")

_log = Log("receiver")
_GRPC_SIGNALS = {path: signal for signal, path in GRPC_PATHS.items()}
_HTTP_SIGNALS = {path: signal for signal, path in HTTP_PATHS.items()}
_RETRY_INFO = "type.googleapis.com/google.rpc.RetryInfo"


class Durable(Protocol):
    """A future of whether a request is on disk."""

    def __await__(self) -> Generator[object, None, bool]:
        """Whether it is."""
        ...

    def add_done_callback(self, call: Callable[[Any], object], /) -> None:
        """Call `call` when that is known."""
        ...


@dataclass(frozen=True, slots=True)
class Accepted:
    """The request is in the queues; answer with an empty message. `items` is 0 where nothing was
    in it, or nothing is left. With `durable` it is so only once that comes true: ask
    `Core.when_durable`."""

    signal: Signal
    body: bytes
    items: int
    durable: Durable | None = None


@dataclass(frozen=True, slots=True)
class Refused:
    """The request is refused, for good unless `retry_after_s` says when to try again."""

    code: Code
    http_status: int
    message: str
    retry_after_s: float | None = None


class Core:
    """The rules of the receiver. One for both servers.

    `signals` are the enabled ones. `offer` puts the pieces (request, items) of one request into the
    queues, all or none: whether it has, or a future of that. A piece is at most `max_piece_bytes`,
    and a request with an item larger than that is refused. `accounts` are the ledger's, by signal:
    what is left out here is accepted and settled there at once. `clock` is in seconds and never
    goes back.
    """

    def __init__(
        self,
        *,
        enricher: Enricher,
        signals: frozenset[Signal],
        validate: str,
        sample_rate: float,
        offer: Callable[[Signal, Sequence[tuple[bytes, int]]], bool | Durable],
        max_piece_bytes: int = MAX_REQUEST_BYTES,
        accounts: Mapping[Signal, Sequence[Account]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._enricher = enricher
        self._signals = signals
        self._full = validate == "full"
        self._sample_rate = sample_rate
        self._offer = offer
        self._max_piece_bytes = max_piece_bytes
        self._accounts = accounts
        self._said_loop = False
        self._clock = clock
        self._complaints = Complaints()
        # How many requests were refused, by code: /metrics shows it.
        self.refusals: dict[Code, int] = {}

    def refuse(
        self, code: Code, http_status: int, message: str, retry_after_s: float | None = None
    ) -> Refused:
        """A refusal, counted. Servers use it for what they refuse themselves."""
        self.refusals[code] = self.refusals.get(code, 0) + 1
        return Refused(code, http_status, message, retry_after_s)

    def overloaded(self, message: str = "too much is waiting to be delivered") -> Refused:
        """Nothing more fits for now."""
        return self.refuse(Code.UNAVAILABLE, 503, message, RETRY_AFTER_S)

    def too_large(self, size: int | None = None) -> Refused:
        """Never to be retried; `size` in bytes where it is known."""
        what = "request" if size is None else f"request of {size} bytes"
        return self.refuse(
            Code.RESOURCE_EXHAUSTED, 413, f"{what} is larger than {MAX_REQUEST_BYTES} bytes"
        )

    def grpc_signal(self, path: str) -> Signal | Refused:
        """What is sent to the method at `path`, or UNIMPLEMENTED."""
        signal = _GRPC_SIGNALS.get(path)
        if signal is None:
            return self.refuse(Code.UNIMPLEMENTED, 404, f"unknown method {path[:200]}")
        if signal not in self._signals:
            return self.refuse(Code.UNIMPLEMENTED, 404, f"{signal} are not received here")
        return signal

    def http_signal(
        self, path: str, method: str, content_type: str | None, content_encoding: str | None
    ) -> Signal | Refused:
        """What is sent by a request with this head (`path` without its query), or 404, 405, 415,
        400: the first that applies."""
        signal = _HTTP_SIGNALS.get(path)
        if signal is None:
            return self.refuse(Code.NOT_FOUND, 404, f"no such path: {path[:200]}")
        if signal not in self._signals:
            return self.refuse(Code.NOT_FOUND, 404, f"{signal} are not received here")
        if method != "POST":
            return self.refuse(Code.UNIMPLEMENTED, 405, "POST only")
        if media_type(content_type) not in (PROTOBUF, JSON):
            return self.refuse(
                Code.INVALID_ARGUMENT, 415, f"Content-Type must be {PROTOBUF} or {JSON}"
            )
        if coding(content_encoding) not in CODINGS:
            return self.refuse(
                Code.INVALID_ARGUMENT, 400, f"Content-Encoding must be one of {', '.join(CODINGS)}"
            )
        return signal

    def take(
        self, signal: Signal, body: bytes, *, json: bool = False, sender: str = ""
    ) -> Accepted | Refused:
        """Validate, enrich, sample, count and offer `body`, uncompressed; `sender` is what is known
        of who sent it, for the log."""
        if len(body) > MAX_REQUEST_BYTES:
            return self.too_large(len(body))
        try:
            admitted = self._admit(signal, body, json=json)
            pieces = [(admitted.body, admitted.items)] if admitted.items else []
            if pieces and len(admitted.body) > self._max_piece_bytes:
                pieces = split(signal, admitted.body, self._max_piece_bytes)
        except MalformedError as error:
            return self.malformed(signal, str(error), sender)
        except TooLargeError as error:
            return self.refuse(Code.RESOURCE_EXHAUSTED, 413, str(error))
        largest = max((len(piece) for piece, _ in pieces), default=0)
        if largest > self._max_piece_bytes:
            # Nobody would ever take or keep it: better said now than lost later.
            return self.refuse(
                Code.RESOURCE_EXHAUSTED,
                413,
                f"one item with its Resource takes {largest} bytes, more than"
                f" {self._max_piece_bytes}",
            )
        offered = self._offer(signal, pieces) if pieces else True
        if offered is False:
            return self.overloaded()
        if offered is True:
            self._left_out(signal, admitted)
            return Accepted(signal, admitted.body, admitted.items)

        def known(saved: Any) -> None:
            if saved.result():
                self._left_out(signal, admitted)

        offered.add_done_callback(known)
        return Accepted(signal, admitted.body, admitted.items, offered)

    async def when_durable(self, accepted: Accepted) -> Accepted | Refused:
        """What has become of a request that waited for the disk."""
        if accepted.durable is None or await accepted.durable:
            return accepted
        return self.overloaded("cannot be written to the disk now")

    def _left_out(self, signal: Signal, admitted: Admitted) -> None:
        self._settle(signal, "loop", admitted.looped_items, admitted.looped_bytes)
        self._settle(signal, "", admitted.sampled_out_items, admitted.sampled_out_bytes)

    def _admit(self, signal: Signal, body: bytes, *, json: bool) -> Admitted:
        """`body` read, validated and enriched; raises MalformedError and TooLargeError."""
        # Few ever send JSON, or ask for the full validation: only then is either paid for.
        if json:
            from edge_agent.otlp.json import to_protobuf

            body = to_protobuf(signal, body)
        admitted = self._enricher.admit(signal, body, sample_rate=self._sample_rate)
        if self._full:
            from edge_agent.otlp.validate import full

            # Behind the walk, which bounds how much there is to look at.
            full(signal, body)
        return admitted

    def malformed(self, signal: Signal, message: str, sender: str) -> Refused:
        """Nothing that could be read: logged with what is known of its sender, which alone can mend
        it. Servers use it for what they cannot unpack."""
        about = {"signal": signal.value, "sender": sender or "unknown", "error": message}
        unsaid = self._complaints.due(signal, sender, self._clock())
        if unsaid is None:
            _log.debug("refused a malformed request", **about)
        else:
            more = {"not_logged": unsaid} if unsaid else {}
            _log.warning("refused a malformed request", **about, **more)
        return self.refuse(Code.INVALID_ARGUMENT, 400, message)

    def _settle(self, signal: Signal, dropped_for: str, items: int, size: int) -> None:
        """Count what was accepted and goes no further: dropped for a reason, or sampled out."""
        if not items and not size:
            return
        for account in self._accounts.get(signal, ()):
            account.accepted.add(items, size)
            if dropped_for:
                account.drop(dropped_for, items, size)
            else:
                account.sampled_out.add(items, size)
        if dropped_for and not self._said_loop:
            self._said_loop = True
            _log.error(
                "our own data came back and was dropped: something we send to sends to us",
                signal=signal.value,
                items=items,
                remedy="point collector.endpoint past this machine, or disable the receiver",
            )


def media_type(content_type: str | None) -> str:
    """A Content-Type without parameters, in lower case; empty without one."""
    return (content_type or "").partition(";")[0].strip().lower()


def is_json(content_type: str | None) -> bool:
    """Whether a request of this Content-Type is OTLP/JSON, and wants its answer so."""
    return media_type(content_type) == JSON


def coding(content_encoding: str | None) -> str:
    """A Content-Encoding in lower case, `identity` without one."""
    return (content_encoding or "").strip().lower() or "identity"


def status_of(refused: Refused) -> Status:
    """The google.rpc.Status of a refusal, for `grpc-status-details-bin`."""
    return Status(refused.code, refused.message, refused.retry_after_s)


def http_answer(
    outcome: Accepted | Refused, content_type: str | None
) -> tuple[int, bytes, tuple[tuple[str, str], ...]]:
    """(status, body, headers) of an answer, in the encoding that the request's Content-Type asks
    for; a refusal of a request in neither encoding is a line of text."""
    kind = media_type(content_type)
    if isinstance(outcome, Accepted):
        if kind == JSON:
            return 200, b"{}", (("content-type", JSON),)
        return 200, b"", (("content-type", PROTOBUF),)
    headers: list[tuple[str, str]] = []
    if outcome.http_status == 405:
        headers.append(("allow", "POST"))
    if outcome.retry_after_s is not None:
        # RFC 9110, 10.2.3: whole seconds, and never early.
        headers.append(("retry-after", str(-int(-outcome.retry_after_s // 1))))
    if kind == JSON:
        body = _status_json(outcome)
    elif kind == PROTOBUF:
        body = encode_status(status_of(outcome))
    else:
        kind, body = "text/plain; charset=utf-8", f"{outcome.message}\n".encode()
    return outcome.http_status, body, (("content-type", kind), *headers)


def _status_json(refused: Refused) -> bytes:
    """google.rpc.Status in protobuf's JSON mapping."""
    document: dict[str, object] = {"code": int(refused.code), "message": refused.message}
    if refused.retry_after_s is not None:
        delay = f"{refused.retry_after_s:.9f}".rstrip("0").rstrip(".")
        document["details"] = [{"@type": _RETRY_INFO, "retryDelay": f"{delay}s"}]
    return json_text.dumps(document, separators=(",", ":")).encode()
