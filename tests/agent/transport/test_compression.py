"""gzip on the way out, and a bound on what comes in."""

import gzip as reference
import importlib.util
import sys
import zlib
from types import ModuleType

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from edge_agent.transport import compression


def _load(*, isal: bool) -> ModuleType:
    """A copy of the module of its own, with or without ISA-L."""
    spec = importlib.util.find_spec("edge_agent.transport.compression")
    assert spec is not None
    assert spec.loader is not None
    with pytest.MonkeyPatch.context() as patch:
        if not isal:
            patch.setitem(sys.modules, "isal", None)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return module


CODECS = {"isal": _load(isal=True), "zlib": _load(isal=False)}


@pytest.fixture(params=CODECS)
def codec(request: pytest.FixtureRequest) -> ModuleType:
    """The module with each of its two engines."""
    return CODECS[request.param]


def test_each_engine_is_really_the_one_under_test() -> None:
    """Otherwise every test below would test zlib twice."""
    assert CODECS["zlib"]._codec is zlib
    assert CODECS["isal"]._codec.__name__ == "isal.isal_zlib"


@given(st.binary(max_size=4096))
@example(b"")
def test_what_either_engine_writes_the_standard_library_reads(data: bytes) -> None:
    """The format is gzip, not an engine's own."""
    for module in CODECS.values():
        assert reference.decompress(module.gzip(data)) == data


@given(st.binary(max_size=4096))
def test_what_the_standard_library_writes_either_engine_reads(data: bytes) -> None:
    """A bound that is exactly the size is enough."""
    compressed = reference.compress(data)
    for module in CODECS.values():
        assert module.gunzip(compressed, len(data)) == data


@given(st.binary(min_size=1, max_size=4096))
def test_one_byte_over_the_bound_is_too_large(data: bytes) -> None:
    """The bound is exact."""
    compressed = reference.compress(data)
    for module in CODECS.values():
        with pytest.raises(module.TooLargeError):
            module.gunzip(compressed, len(data) - 1)


def test_a_gzip_bomb_stops_at_the_bound(codec: ModuleType) -> None:
    """A thousandfold expansion costs the bound, not its size."""
    bomb = reference.compress(bytes(64 << 20))
    with pytest.raises(codec.TooLargeError, match="more than 4096 bytes"):
        codec.gunzip(bomb, 4096)


def test_members_are_joined_and_share_one_bound(codec: ModuleType) -> None:
    """RFC 1952, 2.2: a file is a series of members."""
    data = codec.gzip(b"a" * 100) + codec.gzip(b"") + codec.gzip(b"b" * 100)
    assert codec.gunzip(data, 200) == b"a" * 100 + b"b" * 100
    with pytest.raises(codec.TooLargeError):
        codec.gunzip(data, 199)


def test_members_beyond_any_sender_are_refused(codec: ModuleType) -> None:
    """Thousands of empty members must not take quadratic time."""
    assert codec.gunzip(codec.gzip(b"") * 64, 10) == b""
    with pytest.raises(codec.CompressionError, match="members"):
        codec.gunzip(codec.gzip(b"") * 65, 10)


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: b"",
        lambda whole: b"not gzip at all",
        lambda whole: whole[:5],
        lambda whole: whole[:-1],
        lambda whole: whole[:-8] + bytes(8),
        lambda whole: whole + b"junk",
        lambda whole: whole + bytes(512),
        lambda whole: zlib.compress(b"zlib, not gzip"),
    ],
    ids=["empty", "text", "header", "cut", "checksum", "junk", "padding", "zlib"],
)
def test_damaged_gzip_is_an_error_of_the_sender(codec: ModuleType, damage) -> None:
    """Whatever is wrong with the bytes is a CompressionError, and not TooLargeError."""
    with pytest.raises(codec.CompressionError) as caught:
        codec.gunzip(damage(codec.gzip(b"telemetry" * 50)), 1 << 20)
    assert not isinstance(caught.value, codec.TooLargeError)


@given(st.binary(max_size=300), st.integers(min_value=0), st.integers(0, 7))
def test_a_flipped_bit_is_found_or_harmless(data: bytes, at: int, bit: int) -> None:
    """Valid gzip with one bit flipped never yields other data, save for its unchecked header."""
    for module in CODECS.values():
        whole = bytearray(module.gzip(data))
        whole[at % len(whole)] ^= 1 << bit
        try:
            result = module.gunzip(bytes(whole), 1 << 16)
        except module.CompressionError:
            continue
        assert result == data


def test_too_large_is_caught_by_who_catches_damage() -> None:
    """Callers that do not care which may catch one error."""
    assert issubclass(compression.TooLargeError, compression.CompressionError)
