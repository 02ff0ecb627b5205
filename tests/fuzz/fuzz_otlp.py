"""Coverage-guided fuzzing of everything that reads a sender's bytes.

`python -m tests.fuzz.fuzz_otlp CORPUS_DIRECTORY -max_total_time=600`, with atheris and
opentelemetry-proto installed. The first byte chooses what is fuzzed, the rest is its input. A find
is a crash with the input written to a file: it becomes an `@example` in tests/agent/otlp.
"""

import json
import os
import sys
from typing import Any

import atheris  # type: ignore[import-not-found]  # installed where fuzzing is done, alone

with atheris.instrument_imports(include=["edge_agent.otlp"]):
    from edge_agent.otlp.signal import Signal
    from tests.agent.otlp import checks, oracle

SIGNALS = tuple(Signal)


def one_input(data: bytes) -> None:
    """One input; an exception is a find."""
    if not data:
        return
    choice, body = data[0], data[1:]
    signal = SIGNALS[choice % 3]
    match choice // 3 % 4:
        case 0:
            checks.structure(signal, body)
        case 1:
            checks.full(signal, body)
        case 2:
            checks.json_text(signal, body)
        case _:
            checks.sampling(body, 0.5)


def filled(message: Any, depth: int = 0) -> Any:
    """`message` with something in every field, two levels of values deep."""
    for field in message.DESCRIPTOR.fields:
        target = getattr(message, field.name)
        if field.message_type is not None:
            if depth < 10:
                inner = target.add() if field.is_repeated else target
                filled(inner, depth + 1)
        elif field.is_repeated:
            target.append("x" if field.type == field.TYPE_STRING else 1)
        elif field.type == field.TYPE_BYTES:
            setattr(message, field.name, bytes(16 if field.name == "trace_id" else 8))
        else:
            setattr(message, field.name, "x" if field.type == field.TYPE_STRING else 1)
    return message


def seed(directory: str) -> None:
    """Valid requests to begin with."""
    from google.protobuf.json_format import MessageToDict

    os.makedirs(directory, exist_ok=True)
    for number, signal in enumerate(SIGNALS):
        message = filled(oracle.CLASSES[signal]())
        body = message.SerializeToString()
        text = json.dumps(MessageToDict(message)).encode()
        for kind, content in enumerate((body, body, text, body)):
            with open(f"{directory}/seed-{number}-{kind}", "wb") as file:
                file.write(bytes([3 * kind + number]) + content)


def main() -> None:
    """Fuzz until told otherwise."""
    if len(sys.argv) > 1 and not sys.argv[1].startswith("-"):
        seed(sys.argv[1])
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
