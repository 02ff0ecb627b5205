"""The telemetry agent of PulseOps edge."""

__version__ = "0.1.0"
