"""What both ends of HTTP/2 share. The connections are in `http2_client` and `http2_connection`:
libnghttp2 (through ngh2) inside asyncio protocols.
"""

import ngh2

from edge_agent.transport.grpc import Headers

MAX_HEADER_LIST_BYTES = 16 << 10
# As over HTTP/1: small fields are many objects in few bytes.
MAX_HEADERS = 100
# More calls than an exporter has in flight on one connection, and than an app has.
MAX_STREAMS = 100


def error_name(code: int) -> str:
    """The name of an HTTP/2 error code, as people look it up."""
    try:
        return ngh2.ErrorCode(code).name
    except ValueError:
        return f"error {code:#x}"


def pairs(headers: tuple[ngh2.Header, ...]) -> Headers:
    """Header fields as plain pairs, whether or not they may be indexed."""
    return tuple((name, value) for name, value in headers)
