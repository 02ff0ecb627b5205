"""What a server takes from an HTTP/2 peer, and what it calls what it does not take."""

import struct

import ngh2

from edge_agent.transport.http2 import MAX_HEADER_LIST_BYTES, MAX_STREAMS
from edge_agent.transport.http2_streams import INITIAL_WINDOW

# RFC 9113, 3.4.
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_WRONG_PORT = (
    b"This port speaks gRPC, which is HTTP/2. OTLP over HTTP has a port of its own: 4318.\n"
)
NOT_HTTP2 = (
    b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\nconnection: close\r\n"
    b"content-length: %d\r\n\r\n%s" % (len(_WRONG_PORT), _WRONG_PORT)
)
# Frames that ask for nothing but work. gRPC's Go client sends a PING and a WINDOW_UPDATE with each
# answer it gets; keep-alive is far below one a second.
_CONTROL_BURST = 1000
_CONTROL_PER_REQUEST = 4
_CONTROL_PER_S = 10
SETTINGS = {
    ngh2.Setting.MAX_CONCURRENT_STREAMS: MAX_STREAMS,
    ngh2.Setting.INITIAL_WINDOW_SIZE: INITIAL_WINDOW,
    ngh2.Setting.MAX_HEADER_LIST_SIZE: MAX_HEADER_LIST_BYTES,
}
# Windows are opened by hand. Resets (1,000 and 33 a second), CONTINUATION frames (8 a head) and
# glitches are bounded by libnghttp2's own defaults, acknowledgements in one read by ours.
CONFIG = ngh2.Configuration(
    auto_window_update=False,
    max_inbound_header_list_size=MAX_HEADER_LIST_BYTES,
    max_outbound_ack=_CONTROL_BURST,
)


def goaway(last_stream_id: int, code: int, reason: str) -> bytes:
    """A GOAWAY frame (RFC 9113, 6.8). libnghttp2 has none left to send when a peer has flooded."""
    payload = struct.pack(">II", last_stream_id, code) + reason.encode()
    return len(payload).to_bytes(3, "big") + struct.pack(">BBI", 7, 0, 0) + payload


def misdeed(fault: int | ngh2.NGH2Error) -> str:
    """The reason for ending a connection: libnghttp2's error code, or what ngh2 raised."""
    if isinstance(fault, ngh2.DenialOfServiceError):
        # The only place where it says which limit: a CONTINUATION flood or a header list.
        return "header_bomb" if "header" in str(fault).lower() else "flood"
    if fault == ngh2.ErrorCode.ENHANCE_YOUR_CALM:
        return "flood"
    # What libnghttp2 answers to resets beyond its rate, and to nothing else that a peer does.
    if fault == ngh2.ErrorCode.INTERNAL_ERROR:
        return "rapid_reset"
    return "protocol_error"


class ControlFrames:
    """A budget for frames that carry no call: so many at once, so many a second and a call."""

    __slots__ = ("_left", "_requests", "_since_s")

    def __init__(self, now_s: float) -> None:
        self._left: float = _CONTROL_BURST
        self._requests = 0
        self._since_s = now_s

    def flooding(self, now_s: float, requests: int) -> bool:
        """Count one more, `requests` calls having come so far; whether it is too much."""
        self._left += (now_s - self._since_s) * _CONTROL_PER_S
        self._left += (requests - self._requests) * _CONTROL_PER_REQUEST
        self._left = min(self._left, _CONTROL_BURST) - 1
        self._requests, self._since_s = requests, now_s
        return self._left < 0
