"""Values into a guest's memory and out of it, and whatever a hostile guest may put there."""

from __future__ import annotations

import struct
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from theater_tcp.guest.canonical_abi import AbiError
from theater_tcp.guest.interface import EXPORTS, IMPORTS, LEVEL, PEER_CERTIFICATE, TLS_SESSION
from theater_tcp.guest.lifting import lift_parameters, lift_result
from theater_tcp.guest.lowering import Lowered, lower_parameters, lower_result
from theater_tcp.guest.wit_types import (
    BOOL,
    BYTES,
    S8,
    S16,
    S32,
    S64,
    STRING,
    U8,
    U16,
    U32,
    U64,
    Bool,
    Bytes,
    Enum,
    Err,
    Function,
    Integer,
    List,
    Ok,
    Option,
    Record,
    Result,
    String,
    Tuple,
    WitType,
)

ENCODINGS = ("utf8", "utf16", "latin1+utf16")
EVERY_ENCODING = pytest.mark.parametrize("encoding", ENCODINGS)
TCP, TCP_EXT = IMPORTS["theater:simple/tcp"], IMPORTS["theater:simple/tcp-ext"]
LOG = IMPORTS["theater:simple/runtime"]["log"]
RESULT_AT = 64


class FakeMemory:
    """A guest's memory, with an allocator that only goes up; it allocates on multiples of 16."""

    def __init__(self, content: bytes = b"", size: int = 1 << 16) -> None:
        self.content = bytearray(content.ljust(size, b"\0"))
        self.top = 1024
        self.allocated: list[tuple[int, int]] = []

    @property
    def size(self) -> int:
        return len(self.content)

    def read(self, offset: int, size: int) -> bytes:
        assert 0 <= offset <= offset + size <= len(self.content)
        return bytes(self.content[offset : offset + size])

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        assert 0 <= offset <= offset + len(data) <= len(self.content)
        self.content[offset : offset + len(data)] = data

    def allocate(self, size: int, alignment: int) -> int:
        self.allocated.append((size, alignment))
        place, self.top = self.top, (self.top + size + 15) & ~15
        return place


def function(*params: WitType, result: WitType | None = None) -> Function:
    return Function("a:b/c", "f", tuple((f"p{n}", kind) for n, kind in enumerate(params)), result)


def through_result(kind: WitType, value: Any, encoding: str = "utf8") -> Any:
    """The value, lowered as a result and lifted again."""
    memory, gives = FakeMemory(), function(result=kind)
    flat = lower_result(gives, value, encoding).into(memory, RESULT_AT)
    return lift_result(gives, RESULT_AT if gives.asks else flat[0], memory, encoding)


def through_parameters(kinds: tuple[WitType, ...], values: tuple[Any, ...], encoding: str = "utf8") -> tuple[Any, ...]:
    memory, takes = FakeMemory(), function(*kinds)
    flat = lower_parameters(takes, values, encoding).into(memory)
    assert len(flat) == len(takes.flat_params)
    assert all(
        0 <= value < 1 << (64 if core == "i64" else 32) for value, core in zip(flat, takes.flat_params, strict=True)
    )
    return lift_parameters(takes, flat, memory, encoding)


def results_at(pointer: int, content: bytes, kind: WitType) -> Any:
    return lift_result(function(result=kind), pointer, FakeMemory(content))


# -- as it lies in memory, worked out by hand -----------------------------------------------------------------------


def test_an_error_is_its_case_an_address_and_a_length() -> None:
    memory = FakeMemory()
    lowered = lower_result(TCP["receive"], Err("eof"))
    assert lowered.allocations == [(3, 1)]
    assert lowered.writes([0x500], memory.size, 0x40) == [
        (0x500, b"eof"),
        (0x40, b"\1\0\0\0" + struct.pack("<II", 0x500, 3)),
    ]


def test_the_payload_of_both_cases_begins_where_the_larger_alignment_has_it() -> None:
    (at, data), = lower_result(TCP["send"], Ok(7)).writes([], 1 << 16, 0x40)  # fmt: skip
    assert (at, bytes(data)) == (0x40, bytes(8) + struct.pack("<Q", 7))
    _, (at, data) = lower_result(TCP["send"], Err("closed")).writes([0x500], 1 << 16, 0x40)
    assert (at, bytes(data)) == (0x40, b"\1" + bytes(7) + struct.pack("<II", 0x500, 6))


def test_arguments_are_core_values_and_blocks() -> None:
    lowered = lower_parameters(EXPORTS["theater:simple/tcp-client#on-data"], ("id", b"data"))
    assert lowered.allocations == [(2, 1), (4, 1)]
    assert lowered.flat([0x500, 0x600]) == [0x500, 2, 0x600, 4]
    assert lowered.writes([0x500, 0x600], 1 << 16) == [(0x500, b"id"), (0x600, b"data")]


def test_large_data_is_written_as_it_is_and_not_copied_before() -> None:
    data = bytes(1 << 16)
    (_, written), _ = lower_result(TCP["receive"], Ok(data)).writes([0], 1 << 20, 0)
    assert written is data


def test_what_is_empty_needs_no_block_and_has_an_address_that_is_not_0() -> None:
    lowered = lower_parameters(function(STRING, BYTES, List(U64)), ("", b"", []))
    assert lowered.allocations == []
    assert lowered.flat([]) == [1, 0, 1, 0, 8, 0]
    assert lower_parameters(function(STRING), ("",), "utf16").flat([]) == [2, 0]


def test_a_list_of_texts_is_allocated_before_the_texts() -> None:
    memory = FakeMemory()
    lower_parameters(function(List(STRING)), (["a", "", "bcd"],)).into(memory)
    assert memory.allocated == [(24, 4), (1, 1), (3, 1)]
    assert memory.read(1024, 24) == struct.pack("<6I", 1056, 1, 1, 0, 1072, 3)


def test_parameters_beyond_sixteen_core_values_are_one_block() -> None:
    takes = function(*[STRING] * 9)
    memory = FakeMemory()
    values = tuple("abcdefghi")
    flat = lower_parameters(takes, values).into(memory)
    assert (flat, memory.allocated[0]) == ([1024], (72, 4))
    assert lift_parameters(takes, flat, memory) == values


@pytest.mark.parametrize(
    ("encoding", "text", "data", "length"),
    [
        ("utf8", "né€😀", "né€😀".encode(), 10),
        ("utf16", "né€😀", "né€😀".encode("utf-16-le"), 5),
        ("latin1+utf16", "né", b"n\xe9", 2),
        ("latin1+utf16", "né€😀", "né€😀".encode("utf-16-le"), 5 | 1 << 31),
    ],
)
def test_a_text_is_encoded_as_the_guest_has_its_texts(encoding: str, text: str, data: bytes, length: int) -> None:
    lowered = lower_parameters(function(STRING), (text,), encoding)
    assert lowered.flat([0x500]) == [0x500, length]
    assert lowered.writes([0x500], 1 << 16) == [(0x500, data)]
    assert lowered.allocations == [(len(data), 1 if encoding == "utf8" else 2)]


# -- there and back -------------------------------------------------------------------------------------------------

PLAIN = [BOOL, U8, U16, U32, U64, S8, S16, S32, S64, STRING, BYTES, LEVEL]
KINDS = st.recursive(
    st.sampled_from(PLAIN),
    lambda inside: st.one_of(
        inside.filter(lambda kind: kind != U8).map(List),
        inside.filter(lambda kind: not isinstance(kind, Option)).map(Option),
        st.builds(Result, st.none() | inside, st.none() | inside),
        st.lists(inside, min_size=1, max_size=4).map(lambda kinds: Tuple(tuple(kinds))),
        st.lists(inside, min_size=1, max_size=4).map(
            lambda kinds: Record("r", tuple((f"field-{n}", kind) for n, kind in enumerate(kinds)))
        ),
    ),
    max_leaves=6,
)


def values_of(kind: WitType | None) -> st.SearchStrategy[Any]:
    match kind:
        case None:
            return st.none()
        case Bool():
            return st.booleans()
        case Integer():
            least = -(1 << kind.bits - 1) if kind.signed else 0
            return st.integers(least, least + (1 << kind.bits) - 1)
        case String():
            return st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
        case Bytes():
            return st.binary(max_size=5)
        case Enum():
            return st.sampled_from(kind.cases)
        case List():
            return st.lists(values_of(kind.element), max_size=3)
        case Tuple():
            return st.tuples(*map(values_of, kind.elements))
        case Record():
            return st.fixed_dictionaries({name: values_of(field) for name, field in kind.fields})
        case Option():
            return st.none() | values_of(kind.some)
        case Result():
            return st.one_of(values_of(kind.ok).map(Ok), values_of(kind.err).map(Err))
    raise AssertionError(kind)


TYPED = KINDS.flatmap(lambda kind: st.tuples(st.just(kind), values_of(kind)))


@settings(max_examples=50)
@given(TYPED, st.sampled_from(ENCODINGS))
def test_a_result_comes_out_as_it_went_in(typed: tuple[WitType, Any], encoding: str) -> None:
    kind, value = typed
    assert through_result(kind, value, encoding) == value


@settings(max_examples=30)
@given(st.lists(TYPED, max_size=5), st.sampled_from(ENCODINGS))
def test_arguments_come_out_as_they_went_in(typed: list[tuple[WitType, Any]], encoding: str) -> None:
    kinds, values = tuple(kind for kind, _ in typed), tuple(value for _, value in typed)
    assert through_parameters(kinds, values, encoding) == values


@EVERY_ENCODING
def test_the_largest_record_of_the_interface_goes_there_and_back(encoding: str) -> None:
    certificate = {"subject": "CN=é", "issuer": "CN=😀", "names": ["a", "b.example"], "fingerprint": "AB:CD"}
    session = {
        "version": "TLSv1.3",
        "cipher": "TLS_AES_128_GCM_SHA256",
        "alpn": None,
        "server-name": "mx.example",
        "resumed": True,
        "peer-certificate": certificate,
    }
    assert through_result(TCP_EXT["tls-info"].result or BOOL, Ok(session), encoding) == Ok(session)


def test_a_record_may_be_an_object_with_attributes() -> None:
    given = SimpleNamespace(subject="a", issuer="b", names=("c",), fingerprint="d")
    assert through_result(PEER_CERTIFICATE, given) == {
        "subject": "a",
        "issuer": "b",
        "names": ["c"],
        "fingerprint": "d",
    }
    assert [name for name, _ in TLS_SESSION.fields if "-" in name] == ["server-name", "peer-certificate"]


def test_core_values_that_are_given_as_signed_numbers_are_read_the_same() -> None:
    content = bytes(8) + b"data"
    assert lift_parameters(function(U32, U64, S32, BYTES), (-1, -1, -1, 8, 4), FakeMemory(content)) == (
        0xFFFFFFFF, (1 << 64) - 1, -1, b"data")  # fmt: skip
    memory = FakeMemory(size=1 << 16)
    with pytest.raises(AbiError, match="list at 0xffffffff of 4 bytes is outside"):
        lift_parameters(function(BYTES), (-1, 4), memory)


def test_a_small_number_is_the_low_bits_of_its_core_value() -> None:
    assert lift_parameters(function(U8, S8, U16, BOOL, BOOL), (0x1FF, 0x80, 0x10001, 2, 0), FakeMemory()) == (
        255, -128, 1, True, False)  # fmt: skip


def test_any_byte_but_0_is_true() -> None:
    assert [results_at(8, bytes(8) + bytes((byte,)), Tuple((BOOL, BOOL)))[0] for byte in (0, 1, 2, 255)] == [
        False, True, True, True]  # fmt: skip


# -- what a guest may not pass --------------------------------------------------------------------------------------

ID = b"urn:uuid:0"


@pytest.mark.parametrize(
    ("takes", "flat", "words"),
    [
        (
            TCP["activate"],
            (0x10, 0xFFFFFFFF),
            "string at 0x10 of 4294967295 bytes is outside of the memory of 65536 bytes",
        ),
        (TCP["activate"], (0xFFFF, 2), "string at 0xffff of 2 bytes is outside of the memory of 65536 bytes"),
        (TCP["activate"], (0x10001, 0), "string at 0x10001 of 0 bytes is outside of the memory of 65536 bytes"),
        (TCP["send"], (0, 10, 0xFFFFFFFF, 1), "list at 0xffffffff of 1 bytes is outside of the memory of 65536 bytes"),
        (TCP["activate"], (16, 4), "string at 0x10 of 4 bytes is not utf-8: invalid start byte at byte 2"),
        (TCP["activate"], (32, 3), "string at 0x20 of 3 bytes is not utf-8: invalid continuation byte at byte 0"),
        (LOG, (4, 0, 0), "'level' has no case 4"),
        (LOG, (-1, 0, 0), "'level' has no case 4294967295"),
        (function(Option(U8)), (2, 0), "'option' has no case 2"),
        (function(Result()), (2,), "'result' has no case 2"),
        (function(List(U32)), (2, 1), "list at 0x2 is not aligned to 4 bytes"),
        (
            function(List(U64)),
            (8, 0x20000000),
            "list at 0x8 of 4294967296 bytes is outside of the memory of 65536 bytes",
        ),
        (function(*[U32] * 17), (2,), "the block of parameters at 0x2 is not aligned to 4 bytes"),
        (
            function(*[U32] * 17),
            (65500,),
            "the block of parameters at 0xffdc of 68 bytes is outside of the memory of 65536 bytes",
        ),
    ],
)
def test_an_argument_that_breaks_a_rule_is_refused(takes: Function, flat: tuple[int, ...], words: str) -> None:
    memory = FakeMemory(ID.ljust(16) + b"ab\xff\xfe".ljust(16) + "\ud800".encode("utf-8", "surrogatepass"))
    with pytest.raises(AbiError) as refused:
        lift_parameters(takes, flat, memory)
    assert str(refused.value) == words


@pytest.mark.parametrize(
    ("encoding", "flat", "words"),
    [
        ("utf16", (1, 1), "string at 0x1 is not aligned to 2 bytes"),
        ("latin1+utf16", (1, 1), "string at 0x1 is not aligned to 2 bytes"),
        ("utf16", (0, 1), "string at 0x0 of 2 bytes is not utf-16: unexpected end of data at byte 0"),
        ("latin1+utf16", (0, 1 | 1 << 31), "string at 0x0 of 2 bytes is not utf-16: unexpected end of data at byte 0"),
        ("utf16", (0, 0xFFFFFFFF), "string at 0x0 of 8589934590 bytes is outside of the memory of 65536 bytes"),
    ],
)
def test_a_text_that_is_none_in_its_encoding_is_refused(encoding: str, flat: tuple[int, ...], words: str) -> None:
    with pytest.raises(AbiError) as refused:
        lift_parameters(TCP["activate"], flat, FakeMemory(b"\x00\xd8"), encoding)
    assert str(refused.value) == words


@pytest.mark.parametrize(
    ("pointer", "content", "words"),
    [
        (0x10000, b"", "the result at 0x10000 of 12 bytes is outside of the memory of 65536 bytes"),
        (0xFFF8, b"", "the result at 0xfff8 of 12 bytes is outside of the memory of 65536 bytes"),
        (0xFFFFFFFC, b"", "the result at 0xfffffffc of 12 bytes is outside of the memory of 65536 bytes"),
        (2, b"", "the result at 0x2 is not aligned to 4 bytes"),
        (0, b"\7", "'result' has no case 7"),
        (0, b"\1\0\0\0" + struct.pack("<II", 4, 1 << 31), "string at 0x4 of 2147483648 bytes is outside of the memory"
         " of 65536 bytes"),
        (0, b"\1\0\0\0" + struct.pack("<II", 12, 1) + b"\xff", "string at 0xc of 1 bytes is not utf-8: invalid start"
         " byte at byte 0"),
    ],
)  # fmt: skip
def test_a_result_that_breaks_a_rule_is_refused(pointer: int, content: bytes, words: str) -> None:
    with pytest.raises(AbiError) as refused:
        results_at(pointer, content, Result(None, STRING))
    assert str(refused.value) == words


def test_a_call_carries_no_more_than_its_limit_in_all() -> None:
    memory, takes = FakeMemory(b"x" * 100), function(BYTES, BYTES)
    assert lift_parameters(takes, (0, 50, 0, 50), memory, max_data=100) == (b"x" * 50, b"x" * 50)
    for call in (
        lambda: lift_parameters(takes, (0, 50, 0, 51), memory, max_data=100),
        lambda: lift_parameters(takes, (0, 101, 0, 0), memory, max_data=100),
        lambda: lower_parameters(takes, (b"x" * 50, b"x" * 51), max_data=100),
        lambda: lower_result(TCP["receive"], Ok(b"x" * 101), max_data=100),
    ):
        with pytest.raises(AbiError, match=r"^a call carries more than 100 bytes$"):
            call()


def test_a_list_of_texts_that_share_one_place_is_counted_as_often_as_it_is_told() -> None:
    entries = struct.pack("<II", 0, 1000) * 100
    with pytest.raises(AbiError, match="carries more than"):
        lift_parameters(function(List(STRING)), (1000, 100), FakeMemory(b"x" * 1000 + entries), max_data=50_000)


@pytest.mark.parametrize(
    ("address", "pointer", "words"),
    [
        (0x10000 - 2, 0x40, "what cabi_realloc gave at 0xfffe of 3 bytes is outside of the memory of 65536 bytes"),
        (0xFFFFFFFF, 0x40, "what cabi_realloc gave at 0xffffffff of 3 bytes is outside of the memory of 65536 bytes"),
        (0x500, 0x42, "the place for a result at 0x42 is not aligned to 4 bytes"),
        (0x500, 0xFFF8, "the place for a result at 0xfff8 of 12 bytes is outside of the memory of 65536 bytes"),
    ],
)
def test_an_address_of_a_guest_is_checked_before_anything_is_written(address: int, pointer: int, words: str) -> None:
    with pytest.raises(AbiError) as refused:
        lower_result(TCP["connect"], Err("eof")).writes([address], 1 << 16, pointer)
    assert str(refused.value) == words


def test_a_block_that_is_not_aligned_is_refused() -> None:
    with pytest.raises(AbiError, match="what cabi_realloc gave at 0x501 is not aligned to 2 bytes"):
        lower_parameters(function(STRING), ("text",), "utf16").writes([0x501], 1 << 16)


@pytest.mark.parametrize(
    ("kind", "value", "words"),
    [
        (LEVEL, "loud", "'level' has no case 'loud'"),
        (U8, 256, "256 is no u8"),
        (U32, -1, "-1 is no u32"),
        (S8, 128, "128 is no s8"),
        (Tuple((U8, U8)), (0, 256), "256 is no u8"),
        (Tuple((S64, U8)), (1 << 63, 0), "9223372036854775808 is no s64"),
    ],
)
def test_a_value_that_is_not_of_its_type_is_refused(kind: WitType, value: Any, words: str) -> None:
    with pytest.raises(AbiError) as as_result:
        lower_result(function(result=kind), value)
    with pytest.raises(AbiError) as as_argument:
        lower_parameters(function(kind), (value,))
    assert (str(as_result.value), str(as_argument.value)) == (words, words)


def test_a_function_without_a_result_has_none() -> None:
    assert lift_result(LOG, 0, FakeMemory()) is None
    lowered = lower_result(LOG, None)
    assert (lowered.allocations, lowered.writes([], 0), lowered.flat([])) == ([], [], [])
    assert Lowered([]).into(FakeMemory()) == []


# -- any memory at all ----------------------------------------------------------------------------------------------

EVERY_FUNCTION = [each for functions in IMPORTS.values() for each in functions.values()] + list(EXPORTS.values())
CORE_VALUE = st.integers(0, 300) | st.integers(-(1 << 31), 1 << 32) | st.sampled_from([0xFFFFFFFF, 1 << 31, 252, 256])


@given(
    st.sampled_from(EVERY_FUNCTION),
    st.lists(CORE_VALUE, min_size=8, max_size=8),
    st.binary(max_size=256),
    st.sampled_from(ENCODINGS),
)
def test_no_memory_and_no_core_values_raise_anything_else(
    called: Function, flat: list[int], content: bytes, encoding: str
) -> None:
    memory = FakeMemory(content, size=256)
    for lift in (
        lambda: lift_parameters(called, flat, memory, encoding, 200),
        lambda: lift_result(called, flat[0], memory, encoding, 200),
    ):
        with suppress(AbiError):
            lift()


@settings(max_examples=60)
@given(KINDS, st.binary(max_size=128), st.integers(0, 160), st.sampled_from(ENCODINGS))
def test_no_bytes_are_read_as_anything_but_a_value_or_an_error(
    kind: WitType, content: bytes, pointer: int, encoding: str
) -> None:
    gives = function(result=Tuple((kind, STRING)))
    try:
        lifted = lift_result(gives, pointer, FakeMemory(content, size=128), encoding, 500)
    except AbiError:
        return
    assert through_result(Tuple((kind, STRING)), lifted, encoding) == lifted
