"""Bytes to calls: HTTP/1.1, HTTP/2 and gRPC over asyncio."""
