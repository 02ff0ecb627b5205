"""The end of a fake server."""

import asyncio


async def stop_accepting(server: asyncio.Server) -> None:
    """Accept no more, let what was accepted get its transport, and close the listening sockets.

    asyncio before 3.12 asserts that a server is open when the transport of a connection that it
    accepted is made, a few turns of the loop later; if it is not, the socket is leaked.
    """
    loop = asyncio.get_running_loop()
    for listener in server.sockets:
        loop.remove_reader(listener.fileno())
    for _ in range(5):
        await asyncio.sleep(0)
    server.close()
