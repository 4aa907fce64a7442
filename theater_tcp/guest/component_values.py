"""Values on the component road: between Python and the tagged unions of wasmtime's C interface.

There a ``list<u8>`` has 32 bytes for each byte: a tag, and the byte in a union. It is converted by a slice with that
stride, all at once. Strings and lists that go to wasmtime are allocated by it and belong to it from then on; what comes
from it is copied out, and freed by it.

What a component declares was held against ``wit/`` before (:mod:`theater_tcp.guest.binary`), so a value of another kind
can't come; since a wrong one would be a wrong address, the tag is looked at all the same.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from ctypes import addressof, c_size_t, c_uint8, memmove, string_at
from functools import cache
from typing import Any

from theater_tcp.guest import wasmtime_internals as inner
from theater_tcp.guest.outcome import GuestTrap
from theater_tcp.guest.wasmtime_internals import COMPONENT_ENTRY, COMPONENT_VALUE, ENTRY_VALUE, OF
from theater_tcp.guest.wit_types import (
    Bool,
    Bytes,
    Enum,
    Err,
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

__all__ = ["Lift", "Lower", "lifter", "lowerer"]

Lift = Callable[[int, int], Any]
"""From a value's address, and the bytes that the call may carry, to the value in Python."""

Lower = Callable[[int, Any], None]
"""Put a value at an address, where there was none or a plain one."""

_BOOL, _STRING, _LIST, _RECORD, _TUPLE, _ENUM, _OPTION, _RESULT = 0, 12, 13, 14, 15, 17, 18, 19
_U8 = 2
_INTEGERS = {(8, True): (1, "b"), (8, False): (2, "B"), (16, True): (3, "h"), (16, False): (4, "H"),
             (32, True): (5, "i"), (32, False): (6, "I"), (64, True): (7, "q"), (64, False): (8, "Q")}  # fmt: skip

_vector = struct.Struct("<B7xQQ")  # of a string, a list, a record: kind, size, address
_result = struct.Struct("<B7x?7xQ")
_tag = struct.Struct("<B7xQ")
_AT_ONCE = 2048
"""Elements of a list that are converted at once: as many as stay in a processor's cache, at 32 bytes each."""

_tags = bytes((_U8, *bytes(COMPONENT_VALUE - 1))) * _AT_ONCE


# -- from wasmtime --------------------------------------------------------------------------------------------------


@cache
def lifter(kind: WitType) -> Lift:
    """What takes values of a type from wasmtime; it raises :class:`GuestTrap` for one that is too large.

    Raises:
        TypeError: no function of the interface takes that type from a guest.
    """
    match kind:
        case String():
            return lambda address, most: str(string_at(*_content(address, _STRING, most)), "utf-8")
        case Bytes():
            return _list_at
        case Enum():
            return lambda address, most: str(string_at(*_content(address, _ENUM, most)), "utf-8")
        case Integer():
            tag, letter = _INTEGERS[kind.bits, kind.signed]
            number = struct.Struct(f"<B7x{letter}")

            def lift_number(address: int, _: int) -> int:
                found, value = number.unpack(string_at(address, number.size))
                _check_tag(found, tag)
                return value  # type: ignore[no-any-return]

            return lift_number
        case Result():
            payloads = [p and lifter(p) for p in kind.payloads]

            def lift_result(address: int, most: int) -> Ok | Err:
                tag, is_ok, payload = _result.unpack(string_at(address, _result.size))
                _check_tag(tag, _RESULT)
                lift = payloads[not is_ok]
                value = lift(payload, most) if lift else None
                return Ok(value) if is_ok else Err(value)

            return lift_result
    raise TypeError(kind)


def _check_tag(found: int, expected: int) -> None:
    if found != expected:
        raise GuestTrap(f"it passed a value of the kind {found} where one of the kind {expected} belongs")


def _content(address: int, kind: int, most: int) -> tuple[int, int]:
    """The address and the size of a text or a list."""
    tag, size, data = _vector.unpack(string_at(address, _vector.size))
    _check_tag(tag, kind)
    if size > most:
        raise GuestTrap(f"limit: call_data: it passed {size} bytes, and {most} may be")
    return data, size


def _list_at(address: int, most: int) -> bytes:
    data, size = _content(address, _LIST, most)
    return b"".join(
        string_at(data + start * COMPONENT_VALUE, min(size - start, _AT_ONCE) * COMPONENT_VALUE)[OF::COMPONENT_VALUE]
        for start in range(0, size, _AT_ONCE)
    )


# -- to wasmtime ----------------------------------------------------------------------------------------------------


@cache
def lowerer(kind: WitType) -> Lower:
    """What gives values of a type to wasmtime.

    Raises:
        TypeError: no function of the interface gives that type to a guest.
    """
    match kind:
        case String():
            return _put_string
        case Bytes():
            return _put_bytes
        case Bool():
            return lambda address, value: _put(address, _tag.pack(_BOOL, bool(value)))
        case Integer():
            tag, letter = _INTEGERS[kind.bits, kind.signed]
            number = struct.Struct(f"<B7x{letter}")
            return lambda address, value: _put(address, number.pack(tag, value))
        case List():
            element = lowerer(kind.element)
            return lambda address, value: _put_list(address, value, element)
        case Tuple():
            return _tuple_lowerer([lowerer(each) for each in kind.elements])
        case Record():
            return _record_lowerer(kind)
        case Option():
            some = lowerer(kind.some)
            return lambda address, value: _put(address, _tag.pack(_OPTION, 0 if value is None else _boxed(some, value)))
        case Result():
            ok, err = (p and lowerer(p) for p in kind.payloads)

            def put_result(address: int, value: Any) -> None:
                lower = err if isinstance(value, Err) else ok
                payload = _boxed(lower, value.value) if lower else 0
                _put(address, _result.pack(_RESULT, lower is ok and not isinstance(value, Err), payload))

            return put_result
    raise TypeError(kind)


def _put(address: int, data: bytes) -> None:
    memmove(address, data, len(data))


def _put_string(address: int, value: str) -> None:
    data = _utf8(value)
    _put(address, bytes((_STRING,)))
    inner.bytes_new(address + OF, len(data), data)


def _utf8(text: str) -> bytes:
    """A text in UTF-8; lone surrogates, which wasmtime would die of, are replaced."""
    return text.encode("utf-8", "replace")


def _put_bytes(address: int, value: bytes | bytearray | memoryview) -> None:
    size = len(value)
    _put(address, bytes((_LIST,)))
    inner.list_new(address + OF, size)
    raw = bytearray(_tags[: size * COMPONENT_VALUE])
    place = addressof(c_uint8.from_buffer(raw)) if size else 0
    data = _data_of(address)
    for start in range(0, size, _AT_ONCE):
        part = value[start : start + _AT_ONCE]
        raw[OF : len(part) * COMPONENT_VALUE : COMPONENT_VALUE] = part
        memmove(data + start * COMPONENT_VALUE, place, len(part) * COMPONENT_VALUE)


def _data_of(address: int) -> int:
    return c_size_t.from_address(address + OF + 8).value


def _put_list(address: int, value: Any, element: Lower) -> None:
    _put(address, bytes((_LIST,)))
    inner.list_new(address + OF, len(value))
    data = _data_of(address)
    for number, each in enumerate(value):
        element(data + number * COMPONENT_VALUE, each)


def _tuple_lowerer(elements: list[Lower]) -> Lower:
    def put_tuple(address: int, value: Any) -> None:
        _put(address, bytes((_TUPLE,)))
        inner.tuple_new(address + OF, len(elements))
        data = _data_of(address)
        for number, (element, each) in enumerate(zip(elements, value, strict=True)):
            element(data + number * COMPONENT_VALUE, each)

    return put_tuple


def _record_lowerer(kind: Record) -> Lower:
    fields = [(name, name.encode(), lowerer(each)) for name, each in kind.fields]

    def put_record(address: int, value: Any) -> None:
        _put(address, bytes((_RECORD,)))
        inner.record_new(address + OF, len(fields))
        entry = _data_of(address)
        for name, encoded, lower in fields:
            inner.bytes_new(entry, len(encoded), encoded)
            lower(entry + ENTRY_VALUE, value[name])
            entry += COMPONENT_ENTRY

    return put_record


def _boxed(lower: Lower, value: Any) -> int:
    """The address of a value of its own, which belongs to what it is put into."""
    scratch = (c_size_t * (COMPONENT_VALUE // 8))()
    address = addressof(scratch)
    lower(address, value)
    return int(inner.value_new(address))
