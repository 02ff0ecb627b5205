"""Attributes as text, and the hash that tells series apart. Pure.

A hash is fed maps, each sorted by key and with the length in front of each text: order does not
matter, and no two inputs run together.
"""

import base64
import json
import math
from collections.abc import Iterable, Mapping
from hashlib import blake2b
from typing import Any

from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope, KeyValue


def text_map(attributes: Iterable[KeyValue]) -> dict[str, str]:
    """The text of each attribute; of a key that comes twice the last."""
    return {pair.key: _text(pair.value) for pair in attributes}


def _text(value: AnyValue) -> str:
    """OpenTelemetry, "AnyValue representation for non-OTLP protocols"."""
    if value.HasField("string_value"):
        return value.string_value
    plain = _plain(value)
    if plain is None:
        return ""
    if isinstance(plain, str):
        return plain
    return json.dumps(plain, ensure_ascii=False, separators=(",", ":"), sort_keys=True)


def _plain(value: AnyValue) -> Any:
    match value.WhichOneof("value"):
        case "array_value":
            return [_plain(item) for item in value.array_value.values]
        case "kvlist_value":
            return {pair.key: _plain(pair.value) for pair in value.kvlist_value.values}
        case "double_value":
            number = value.double_value
            if math.isfinite(number):
                return number
            return "NaN" if math.isnan(number) else "Infinity" if number > 0 else "-Infinity"
        case "bytes_value":
            return base64.b64encode(value.bytes_value).decode()
        case "string_value" | "bool_value" | "int_value" as kind:
            return getattr(value, kind)
        case _:
            # Nothing, or an index into the string table that only profiles have.
            return None


def packed_map(attributes: Mapping[str, str]) -> tuple[bytes, int]:
    """The bytes that are hashed, and how many bytes of text are in them."""
    parts = [len(attributes).to_bytes(4, "big")]
    size_bytes = 0
    for key in sorted(attributes):
        for text in (key.encode(), attributes[key].encode()):
            size_bytes += len(text)
            parts += (len(text).to_bytes(4, "big"), text)
    return b"".join(parts), size_bytes


def hash_of_resource(customer_id: str, attributes: Mapping[str, str]) -> blake2b:
    """Fed with all of a Resource that makes another series; copy it before feeding more."""
    others = {
        key: text
        for key, text in attributes.items()
        if not key.startswith(("customer.", "node.", "collector."))
        and key not in ("customer_id", "node_id")
    }
    hashed = blake2b(digest_size=16)
    hashed.update(packed_map({"customer.id": customer_id})[0])
    hashed.update(packed_map(others)[0])
    return hashed


def hash_of_scope(resource_hash: blake2b, scope: InstrumentationScope) -> blake2b:
    """A copy of `resource_hash`, fed with the scope; copy it before feeding more."""
    hashed = resource_hash.copy()
    hashed.update(packed_map({"name": scope.name, "version": scope.version})[0])
    hashed.update(packed_map(text_map(scope.attributes))[0])
    return hashed
