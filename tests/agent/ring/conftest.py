"""A directory in memory for rings: their tests sync a lot."""

import os
import shutil
import tempfile
from collections.abc import Iterator

import pytest


@pytest.fixture
def ring_path() -> Iterator[str]:
    """Where a ring may be made; gone afterwards."""
    memory = "/dev/shm"
    path = tempfile.mkdtemp(dir=memory if os.access(memory, os.W_OK) else None)
    yield os.path.join(path, "ring")
    shutil.rmtree(path)
