"""Sizes, alignments and flattened forms, against figures that were worked out by hand from CanonicalABI.md."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from theater_tcp.guest.interface import LEVEL, PEER_CERTIFICATE, TLS_SESSION
from theater_tcp.guest.wit_types import (
    BOOL,
    BYTES,
    S8,
    S64,
    STRING,
    U8,
    U16,
    U32,
    U64,
    Enum,
    Function,
    List,
    Option,
    Record,
    Result,
    Tuple,
    WitType,
    aligned,
)

FORMS = [
    (BOOL, 1, 1, "i32"),
    (U8, 1, 1, "i32"),
    (U16, 2, 2, "i32"),
    (U32, 4, 4, "i32"),
    (U64, 8, 8, "i64"),
    (S8, 1, 1, "i32"),
    (S64, 8, 8, "i64"),
    (STRING, 8, 4, "i32 i32"),
    (BYTES, 8, 4, "i32 i32"),
    (List(U64), 8, 4, "i32 i32"),
    (LEVEL, 1, 1, "i32"),
    (Option(BOOL), 2, 1, "i32 i32"),
    (Option(U16), 4, 2, "i32 i32"),
    (Option(STRING), 12, 4, "i32 i32 i32"),
    (Option(U64), 16, 8, "i32 i64"),
    (Result(), 1, 1, "i32"),
    (Result(None, STRING), 12, 4, "i32 i32 i32"),
    (Result(STRING, STRING), 12, 4, "i32 i32 i32"),
    (Result(BOOL, STRING), 12, 4, "i32 i32 i32"),
    (Result(U64, STRING), 16, 8, "i32 i64 i32"),
    (Result(STRING, U64), 16, 8, "i32 i64 i32"),
    (Tuple((U8, U32, U8)), 12, 4, "i32 i32 i32"),
    (Tuple((U8, U64)), 16, 8, "i32 i64"),
    (Tuple((U32, U8)), 8, 4, "i32 i32"),
    (PEER_CERTIFICATE, 32, 4, " ".join(["i32"] * 8)),
    (TLS_SESSION, 80, 4, " ".join(["i32"] * 20)),
    (Option(TLS_SESSION), 84, 4, " ".join(["i32"] * 21)),
]


@pytest.mark.parametrize(("kind", "size", "alignment", "flat"), FORMS, ids=[str(form[0])[:40] for form in FORMS])
def test_a_type_has_its_form_in_memory_and_its_core_values(kind: WitType, size: int, alignment: int, flat: str) -> None:
    assert (kind.size, kind.alignment, " ".join(kind.flat)) == (size, alignment, flat)


def test_fields_begin_where_their_alignment_lets_them() -> None:
    assert Tuple((U8, U64, U8, U16)).offsets == (0, 8, 16, 18)
    assert [aligned(offset, 8) for offset in (0, 1, 8, 9)] == [0, 8, 8, 16]


def test_a_type_says_what_it_is_in_the_words_of_wit() -> None:
    assert str(Result(None, STRING)) == "result<_, string>"
    assert [str(kind) for kind in (Result(), Result(U8), S64)] == ["result", "result<u8>", "s64"]
    assert str(Option(List(Tuple((BOOL, BYTES))))) == "option<list<tuple<bool, list<u8>>>>"
    assert str(Record("pair", (("a-b", U8), ("c", LEVEL)))) == (
        "record { a-b: u8, c: enum { debug, info, warning, error } }"
    )


@pytest.mark.parametrize(
    "make",
    [
        lambda: Record("r", ()),
        lambda: Tuple(()),
        lambda: Enum("e", ()),
        lambda: Enum("e", tuple(map(str, range(257)))),
        lambda: Option(Option(U8)),
        lambda: List(U8),
    ],
)
def test_a_type_that_has_no_values_here_is_refused(make: Callable[[], WitType]) -> None:
    with pytest.raises(ValueError, match=r"one|option|Bytes|256"):
        make()


def function(*params: WitType, result: WitType | None = None) -> Function:
    return Function("a:b/c", "f", tuple((f"p{n}", kind) for n, kind in enumerate(params)), result)


def test_a_result_of_one_core_value_is_returned_and_a_larger_one_goes_through_memory() -> None:
    number, text = function(U64, result=U64), function(STRING, result=STRING)
    assert (number.core_params, number.core_result, number.core_export_result) == (("i64",), "i64", "i64")
    assert (text.core_params, text.core_result, text.core_export_result) == (("i32", "i32", "i32"), None, "i32")
    assert (text.flat_params, text.asks, number.asks, function().asks) == (("i32", "i32"), True, False, False)
    assert (function().core_result, function().core_export_result) == (None, None)


def test_more_than_sixteen_core_values_are_passed_in_memory() -> None:
    assert function(*[U32] * 16).flat_params == ("i32",) * 16
    assert function(*[U32] * 17).flat_params == ("i32",)


def test_a_function_says_its_type_and_its_name() -> None:
    made = function(U8, STRING, result=Result(U8, STRING))
    assert str(made) == "func(p0: u8, p1: string) -> result<u8, string>"
    assert (made.full_name, str(function())) == ("a:b/c#f", "func()")
