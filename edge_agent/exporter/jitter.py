"""Randomness for backoff."""

import os


def jitter() -> float:
    """A random number in [0, 1)."""
    # The module `random` costs memory that nothing else here needs.
    return int.from_bytes(os.urandom(4), "big") / 2**32
