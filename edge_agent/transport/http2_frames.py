"""Where frames begin and end in what an HTTP/2 client sends (RFC 9113, 3.4 and 4.1). Pure.

    24 bytes preface | frame*        frame: 3 length | 1 type | 1 flags | 4 stream | payload

libnghttp2 does not say whether it is in the middle of one, and a read that brings no event may be
half a frame, or one of those that mean nothing to us: PRIORITY, unknown ones, WINDOW_UPDATE for a
stream that is closed.
"""

from edge_agent.transport.http2_limits import PREFACE

_HEAD_BYTES = 9
_DATA, _HEADERS, _CONTINUATION = 0, 1, 9
_END_HEADERS = 4


class Frames:
    """Follows the frames of one client."""

    __slots__ = ("_greeted", "_head", "_kind", "_left", "_open_block")

    def __init__(self) -> None:
        self._left = len(PREFACE)
        self._head = b""
        self._kind = -1
        # HEADERS whose fields go on in CONTINUATION frames.
        self._open_block = False
        self._greeted = False

    @property
    def inside(self) -> bool:
        """Whether something is owed: the preface and the first frame, the rest of a frame, or of
        a head. Not of DATA, whose calls have a patience of their own."""
        return (
            not self._greeted
            or self._open_block
            or self._head != b""
            or (self._left > 0 and self._kind != _DATA)
        )

    def feed(self, data: bytes | memoryview) -> bool:
        """Go on by what has come; returns whether anything whole has ended in it."""
        at, end, ended = 0, len(data), False
        while at < end:
            if self._left:
                step = min(self._left, end - at)
                at += step
                self._left -= step
            else:
                step = min(_HEAD_BYTES - len(self._head), end - at)
                self._head += data[at : at + step]
                at += step
                if len(self._head) < _HEAD_BYTES:
                    break
                self._begin()
            if not self._left and self._kind >= 0:
                self._greeted = True
                ended = ended or not self._open_block
        return ended

    def _begin(self) -> None:
        head, self._head = self._head, b""
        self._left = int.from_bytes(head[:3], "big")
        self._kind = head[3]
        if self._kind in (_HEADERS, _CONTINUATION):
            self._open_block = not head[4] & _END_HEADERS
