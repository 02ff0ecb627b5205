"""The OTLP wire, pure: bytes in, bytes out, no I/O."""
