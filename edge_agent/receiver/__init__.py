"""OTLP in: what apps on this device send, over gRPC and HTTP."""
