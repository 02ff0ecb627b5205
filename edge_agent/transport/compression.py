"""gzip (RFC 1952) for request and response bodies, bounded on the way in. Pure.

ISA-L writes the same format at a sixth of zlib's cost; where its wheel is missing (`fast` extra
not installed, or a machine it is not built for) zlib does the work.
"""

import zlib
from types import ModuleType

_codec: ModuleType
try:
    from isal import isal_zlib as _codec
except ImportError:
    _codec = zlib

_LEVEL = 1
_GZIP_WBITS = 31
# Each member costs a copy of what follows it: without a limit a request of empty members takes
# quadratic time. Senders that flush or concatenate make a few.
_MAX_MEMBERS = 64


class CompressionError(ValueError):
    """These bytes are not gzip, or are damaged, or stop in the middle."""


class TooLargeError(CompressionError):
    """There is more inside than the caller takes."""


def gzip(data: bytes) -> bytes:
    """`data` as one gzip member, without name or time."""
    compressed: bytes = _codec.compress(data, _LEVEL, wbits=_GZIP_WBITS)
    return compressed


def gunzip(data: bytes, max_bytes: int) -> bytes:
    """What the gzip members in `data` hold, at most `max_bytes` of it.

    Raises TooLargeError as soon as one byte more has come out, however much was announced, and
    CompressionError for anything that is not whole, undamaged gzip to its last byte.
    """
    parts: list[bytes] = []
    left = max_bytes
    for _ in range(_MAX_MEMBERS):
        member = _codec.decompressobj(wbits=_GZIP_WBITS)
        try:
            # A length of 0 would mean no limit, hence the one byte too many.
            part: bytes = member.decompress(data, left + 1)
        except _codec.error as error:
            raise CompressionError(f"gzip: {error}") from None
        left -= len(part)
        if left < 0:
            raise TooLargeError(f"gzip: more than {max_bytes} bytes inside")
        if not member.eof:
            raise CompressionError("gzip: not gzip, or cut short")
        parts.append(part)
        data = member.unused_data
        if not data:
            return parts[0] if len(parts) == 1 else b"".join(parts)
    raise CompressionError(f"gzip: more than {_MAX_MEMBERS} members")
