"""The agents that data has passed on its way here, so that a loop through several is found. Pure.

Each agent puts its own collector.instance.id in place of the one before it. What an agent receives
from another leaves with `collector.path` beside it: the first eight digits of the ids before its
own, oldest first, with commas between. Who finds itself in there sees its own data come back. A
longer path than MAX_AGENTS is a loop too: no data has reason to pass that many, and whatever goes
round with new names each time (an agent that cannot keep its id) comes to its end.
"""

import re

INSTANCE_ID = b"collector.instance.id"
PATH = "collector.path"
MAX_AGENTS = 8
_DIGITS = 8
_UUID = re.compile(rb"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_PATH = re.compile(rb"[0-9a-f]{8}(,[0-9a-f]{8}){0,%d}" % (MAX_AGENTS - 1))


def hop(instance_id: bytes) -> bytes | None:
    """How an agent of this id stands in a path; None for an id that no agent of ours has."""
    return instance_id[:_DIGITS] if _UUID.fullmatch(instance_id) else None


def hops(path: bytes) -> list[bytes]:
    """The agents in a path as one of ours writes it; none in any other."""
    return path.split(b",") if _PATH.fullmatch(path) else []


def path_of(agents: list[bytes]) -> str:
    """The path that says `agents`."""
    return b",".join(agents).decode()
