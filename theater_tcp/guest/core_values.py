"""Values on the fast road: out of a guest that calls, and into it as the answer.

What is common in the interface, texts, data and numbers, goes by short ways of its own; the rest by the canonical ABI
in general (:mod:`theater_tcp.guest.lowering`).
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

from theater_tcp.guest.adapter import DONE
from theater_tcp.guest.canonical_abi import NO_BOUND, AbiError
from theater_tcp.guest.lowering import lower_result
from theater_tcp.guest.outcome import GuestTrap
from theater_tcp.guest.stage import ID_SIZE
from theater_tcp.guest.text import ENCODINGS
from theater_tcp.guest.wit_types import BOOL, BYTES, STRING, U32, U64, Enum, Function, Ok, Result

if TYPE_CHECKING:
    from collections.abc import Callable

    from theater_tcp.guest.core_road import CoreInstance

__all__ = ["NARROW", "RESULT_BYTES", "check_result_place", "error_lowerer", "lifter", "lowerer", "too_much"]

RESULT_BYTES = 16
"""What the largest result of the interface takes where the guest wants it, the record of ``tls-info`` aside."""

NARROW = struct.Struct("<B3xII")
"""A ``result`` in memory, whose cases carry an address and a length, or nothing."""

_pair = struct.Struct("<II")
_wide = struct.Struct("<B7xII")  # the same where the other case is 8 bytes wide
_number = struct.Struct("<B7xQ")


def check_result_place(instance: CoreInstance, pointer: int, alignment: int = 4) -> None:
    """See that a guest has room where it wants a result.

    Args:
        instance: the guest.
        pointer: where.
        alignment: of the result, in bytes.

    Raises:
        GuestTrap: it has not.
    """
    if pointer & (alignment - 1):
        raise GuestTrap(f"the place for a result at {pointer:#x} is not aligned")
    instance.memory.check(pointer, RESULT_BYTES, "the place for a result")


# -- out of the guest --------------------------------------------------------------------------------------------------


def lifter(function: Function, encoding: str) -> Callable[[CoreInstance, Any], Any]:
    """From core values to the arguments of a method: (instance, values) to a sequence.

    The function that is returned raises :class:`GuestTrap` for values that break a rule.
    """
    kinds = list(function.types)
    if encoding == "utf8":
        if kinds == [STRING, BYTES]:
            return _lift_id_and_data
        if kinds == [STRING, U32]:
            return _lift_id_and_number
        if kinds == [STRING]:
            return _lift_id
    return _general_lifter(function, ENCODINGS[encoding].decode)


def _general_lifter(function: Function, decode: Any) -> Callable[[CoreInstance, Any], list[Any]]:
    def lift(instance: CoreInstance, values: Any) -> list[Any]:
        lifted: list[Any] = []
        at = 0
        for kind in function.types:
            if kind == STRING:
                lifted.append(instance.text(values[at], values[at + 1], decode))
                at += 2
            elif kind == BYTES:
                lifted.append(instance.data(values[at], values[at + 1]))
                at += 2
            else:
                lifted.append(_case(function, kind, values[at]) if isinstance(kind, Enum) else values[at])
                at += 1
        return lifted

    return lift


def _case(function: Function, kind: Enum, value: int) -> str:
    if value >= len(kind.cases):
        raise GuestTrap(f"{function.name} was passed a {kind.name} of the case {value}, which there is not")
    return kind.cases[value]


def _lift_id_and_data(instance: CoreInstance, values: Any) -> tuple[str, bytes]:
    address, length, data_at, size, *_ = values
    pages = instance.memory.view
    data = pages[data_at : data_at + size].tobytes()
    if len(data) != size or size > instance.limits.call_data:
        data = instance.data(data_at, size)
    return _id(instance, pages, address, length), data


def _lift_id_and_number(instance: CoreInstance, values: Any) -> tuple[str, int]:
    return _id(instance, instance.memory.view, values[0], values[1]), values[2]


def _lift_id(instance: CoreInstance, values: Any) -> tuple[str]:
    return (_id(instance, instance.memory.view, values[0], values[1]),)


def _id(instance: CoreInstance, pages: memoryview, address: int, length: int) -> str:
    if length > ID_SIZE:
        return instance.text(address, length, ENCODINGS["utf8"].decode)
    raw = pages[address : address + length].tobytes()
    if len(raw) != length:
        raw = instance.data(address, length)
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise GuestTrap(f"a text is not utf-8: {error.reason} at byte {error.start}") from None


# -- into the guest ----------------------------------------------------------------------------------------------------


def lowerer(function: Function, encoding: str) -> Callable[[CoreInstance, int, Any], int]:
    """From a value to the answer for the adapter: (instance, address of the result, value) to a number."""
    name, result = function.name, function.result
    encode = ENCODINGS[encoding].encode
    if result == STRING:  # a plain text

        def lower_plain(instance: CoreInstance, pointer: int, value: str) -> int:
            data, alignment, length = encode(value)
            return _lower_block(instance, name, (data, pointer, _pair, None, alignment, length))

        return lower_plain
    if not isinstance(result, Result):
        return lambda _instance, _pointer, _value: DONE
    if result.ok is None:
        return _lower_nothing
    if result.ok == BYTES:

        def lower_data(instance: CoreInstance, pointer: int, value: bytes) -> int:
            size = len(value)
            if size > instance.limits.call_data:
                raise too_much(name, size)
            instance.placing = (value, pointer, NARROW, 0, 1, size)  # an empty list wants its block of no bytes too
            return size | 1 << 32

        return lower_data
    if result.ok == U64:
        return _lower_number
    if result.ok == BOOL:
        return _lower_truth
    if result.ok == STRING:

        def lower_text(instance: CoreInstance, pointer: int, value: str) -> int:
            data, alignment, length = encode(value)
            return _lower_block(instance, name, (data, pointer, NARROW, 0, alignment, length))

        return lower_text

    offset = result.payload_offset

    def lower_generally(instance: CoreInstance, pointer: int, value: Any) -> int:
        if value is None:  # ok(none): both cases are 0, the option's behind the result's
            view = instance.memory.view
            view[pointer] = view[pointer + offset] = 0
            return DONE
        plan = instance.placing = _Plan(function, encoding, pointer, value, instance.limits.call_data)
        return plan.place(instance)

    return lower_generally


def error_lowerer(function: Function, encoding: str) -> Callable[[CoreInstance, int, Exception], int]:
    """The same for an error, which the guest gets as its text."""
    name, result = function.name, function.result
    encode = ENCODINGS[encoding].encode
    header = _wide if isinstance(result, Result) and result.ok is not None and result.ok.alignment == 8 else NARROW

    def lower_error(instance: CoreInstance, pointer: int, error: Exception) -> int:
        data, alignment, length = encode(str(error))
        return _lower_block(instance, name, (data, pointer, header, 1, alignment, length))

    return lower_error


def _lower_nothing(instance: CoreInstance, pointer: int, _value: None) -> int:
    instance.memory.view[pointer] = 0
    return DONE


def _lower_number(instance: CoreInstance, pointer: int, value: int) -> int:
    _number.pack_into(instance.memory.view, pointer, 0, value)
    return DONE


def _lower_truth(instance: CoreInstance, pointer: int, value: bool) -> int:
    instance.memory.view[pointer : pointer + 5] = bytes((0, 0, 0, 0, value))
    return DONE


def _lower_block(instance: CoreInstance, name: str, placing: Any) -> int:
    data, _pointer, _header, _case, alignment, _length = instance.placing = placing
    if len(data) > instance.limits.call_data:
        raise too_much(name, len(data))
    return int(len(data) | alignment << 32)


def too_much(name: str, size: int) -> GuestTrap:
    """What ends a guest that would be given more than one call may carry.

    Args:
        name: of the function.
        size: of its result, in bytes.
    """
    return GuestTrap(f"limit: call_data: {name} would give {size} bytes")


class _Plan:
    """A result with more than one block in it, on its way into the guest."""

    __slots__ = ("_addresses", "_lowered", "_pointer")

    def __init__(self, function: Function, encoding: str, pointer: int, value: Any, max_data: int) -> None:
        self._lowered = lower_result(function, Ok(value), encoding, NO_BOUND)
        needed = sum(size for size, _ in self._lowered.allocations)
        if needed > max_data:
            raise too_much(function.name, needed)
        self._pointer = pointer
        self._addresses: list[int] = []

    def place(self, instance: CoreInstance, address: int | None = None) -> int:
        """The guest has allocated the block that was asked for last: the next one, or all is written."""
        if address is not None:
            self._addresses.append(address)
        wanted = self._lowered.allocations
        if len(self._addresses) < len(wanted):
            size, alignment = wanted[len(self._addresses)]
            return size | alignment << 32
        memory = instance.memory
        try:
            for offset, data in self._lowered.writes(self._addresses, memory.size, self._pointer):
                memory.write(offset, data, "a result")
        except AbiError as error:
            raise GuestTrap(str(error)) from None
        return DONE
