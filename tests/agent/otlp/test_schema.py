"""OTLP's messages as data are those of opentelemetry-proto."""

from typing import Any

import pytest
from google.protobuf.descriptor import FieldDescriptor

from edge_agent.otlp.schema import ENUMS, MESSAGES, ROOTS, Kind
from edge_agent.otlp.signal import Signal
from tests.agent.otlp.oracle import CLASSES

_TYPES = {
    FieldDescriptor.TYPE_STRING: Kind.STRING,
    FieldDescriptor.TYPE_BYTES: Kind.BYTES,
    FieldDescriptor.TYPE_BOOL: Kind.BOOL,
    FieldDescriptor.TYPE_INT32: Kind.INT32,
    FieldDescriptor.TYPE_UINT32: Kind.UINT32,
    FieldDescriptor.TYPE_SINT32: Kind.SINT32,
    FieldDescriptor.TYPE_INT64: Kind.INT64,
    FieldDescriptor.TYPE_UINT64: Kind.UINT64,
    FieldDescriptor.TYPE_FIXED32: Kind.FIXED32,
    FieldDescriptor.TYPE_FIXED64: Kind.FIXED64,
    FieldDescriptor.TYPE_SFIXED64: Kind.SFIXED64,
    FieldDescriptor.TYPE_DOUBLE: Kind.DOUBLE,
    FieldDescriptor.TYPE_ENUM: Kind.ENUM,
    FieldDescriptor.TYPE_MESSAGE: Kind.MESSAGE,
}


def reachable(descriptor: Any, found: dict[str, Any]) -> dict[str, Any]:
    """Every message below `descriptor`, by its name without package and outer message."""
    if descriptor.name not in found:
        found[descriptor.name] = descriptor
        for field in descriptor.fields:
            if field.message_type is not None:
                reachable(field.message_type, found)
    return found


ALL: dict[str, Any] = {}
for _class in CLASSES.values():
    reachable(_class.DESCRIPTOR, ALL)


def test_every_message_is_there() -> None:
    """And no other; each signal has its root."""
    assert set(MESSAGES) == set(ALL)
    assert {signal: CLASSES[signal].DESCRIPTOR.name for signal in Signal} == ROOTS


@pytest.mark.parametrize("name", MESSAGES)
def test_every_field_is_as_the_descriptor_has_it(name: str) -> None:
    """Number, names, type, and what it refers to. Ids are bytes that end in `_id`."""
    ours = {
        (
            field.number,
            field.name,
            field.json_name,
            Kind.BYTES if field.kind is Kind.ID else field.kind,
            field.repeated,
            field.target,
        )
        for field in MESSAGES[name]
    }
    theirs = {
        (
            field.number,
            field.name,
            field.json_name,
            _TYPES[field.type],
            field.is_repeated,
            getattr(field.message_type or field.enum_type, "name", ""),
        )
        for field in ALL[name].fields
    }
    assert ours == theirs
    for field in MESSAGES[name]:
        assert (field.kind is Kind.ID) == (field.name in ("trace_id", "span_id", "parent_span_id"))


def test_every_enum_is_as_the_descriptor_has_it() -> None:
    """Names and numbers."""
    theirs = {
        field.enum_type.name: {value.name: value.number for value in field.enum_type.values}
        for descriptor in ALL.values()
        for field in descriptor.fields
        if field.enum_type is not None
    }
    assert theirs == ENUMS
