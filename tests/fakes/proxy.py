"""An HTTP proxy: CONNECT (RFC 9110, 9.3.6), and requests in absolute form (RFC 9112, 3.2.2)."""

import asyncio
from types import TracebackType
from typing import Self

from tests.fakes.raw_server import RawServer


class FakeProxy:
    """Tunnels to where it is asked, or answers `refusal`; wants `authorization` where given."""

    def __init__(self, *, authorization: str | None = None, refusal: str | None = None) -> None:
        self._server = RawServer(self._talk)
        self._authorization = authorization
        self._refusal = refusal
        self.asked: list[str] = []

    @property
    def host(self) -> str:
        """Where it listens."""
        return self._server.endpoint.host

    @property
    def port(self) -> int:
        """Where it listens."""
        return self._server.endpoint.port

    async def __aenter__(self) -> Self:
        await self._server.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._server.__aexit__(kind, error, traceback)

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, target, _ = head[0].split(" ")
        scheme, _, rest = target.rpartition("://")
        authority, slash, path = rest.partition("/")
        assert (method == "CONNECT") == (scheme == ""), head[0]
        self.asked.append(authority)
        headers = {line.partition(":")[0].lower(): line.partition(":")[2] for line in head[1:]}
        if self._authorization not in (None, headers.get("proxy-authorization", "").strip()):
            writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")
            return
        if self._refusal is not None:
            writer.write(f"HTTP/1.1 {self._refusal}\r\n\r\n".encode())
            return
        host, _, port = authority.rpartition(":")
        up_reader, up_writer = await asyncio.open_connection(host.strip("[]"), int(port))
        if method == "CONNECT":
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        else:
            head[0] = f"{method} {slash}{path} HTTP/1.1"
            up_writer.write("\r\n".join(head).encode("latin-1"))
        copies = [
            asyncio.create_task(_copy(reader, up_writer)),
            asyncio.create_task(_copy(up_reader, writer)),
        ]
        try:
            await asyncio.wait(copies, return_when=asyncio.FIRST_COMPLETED)
        finally:
            up_writer.transport.abort()
            for copy in copies:
                copy.cancel()
            await asyncio.gather(*copies, return_exceptions=True)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
