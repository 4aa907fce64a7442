"""The canonical ABI: values of WIT's types out of a guest's memory.

Source: the Component Model's CanonicalABI.md, "Loading", "Flat Lifting", "Lifting and Lowering Values". For each type
there are two small functions, made once from those of the types inside of it: one takes the value out of bytes, one out
of core values. Nothing is allocated in the guest for that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from theater_tcp.guest.canonical_abi import MAX_DATA, PAIR, AbiError, Memory, check_place, number_format
from theater_tcp.guest.text import ENCODINGS
from theater_tcp.guest.wit_types import (
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

__all__ = ["lift_parameters", "lift_result"]


class _Lifting:
    """One call whose values are lifted."""

    __slots__ = ("decode", "left", "max_data", "memory")

    def __init__(self, memory: Memory, encoding: str, max_data: int) -> None:
        self.memory = memory
        self.decode = ENCODINGS[encoding].decode
        self.left = self.max_data = max_data

    def data(self, what: str, address: int, size: int, alignment: int) -> bytes:
        """What lies at an address, which is a guest's word."""
        check_place(what, address, size, alignment, self.memory.size)
        self.left -= size
        if self.left < 0:
            raise AbiError(f"a call carries more than {self.max_data} bytes")
        return self.memory.read(address, size)

    def text(self, address: int, length: int) -> str:
        """A string, by its address and its length as they were passed."""
        size, alignment, codec = self.decode(length)
        data = self.data("string", address, size, alignment)
        try:
            return str(data, codec)
        except UnicodeDecodeError as error:
            reason = f"is not {codec.removesuffix('-le')}: {error.reason} at byte {error.start}"
            raise AbiError(f"string at {address:#x} of {size} bytes {reason}") from None


_Load = Callable[[_Lifting, bytes, int], Any]
"""A value out of bytes: (the call, bytes that were read, where in these it begins)."""

_Lift = Callable[[_Lifting, Sequence[int], int], Any]
"""A value out of core values: (the call, the core values, the first of its own)."""


@cache
def _loader(kind: WitType) -> _Load:
    match kind:
        case Bool():
            return lambda _, raw, at: raw[at] != 0
        case Integer():
            number = number_format(kind)
            return lambda _, raw, at: number.unpack_from(raw, at)[0]
        case String() | Bytes() | List():
            pair = _pointed(kind)
            return lambda call, raw, at: pair(call, *PAIR.unpack_from(raw, at))
        case Record():
            names = [name for name, _ in kind.fields]
            loads = [(_loader(each), offset) for each, offset in zip(kind.types, kind.offsets, strict=True)]
            return lambda call, raw, at: {
                name: load(call, raw, at + offset) for name, (load, offset) in zip(names, loads, strict=True)
            }
        case Tuple():
            loads = [(_loader(each), offset) for each, offset in zip(kind.types, kind.offsets, strict=True)]
            return lambda call, raw, at: tuple(load(call, raw, at + offset) for load, offset in loads)
        case Enum() | Option() | Result():
            make, cases, behind = _maker(kind), [p and _loader(p) for p in kind.payloads], kind.payload_offset

            def load(call: _Lifting, raw: bytes, at: int) -> Any:
                case = raw[at]
                payload = _payload_of(kind, cases, case)
                return make(case, payload(call, raw, at + behind) if payload else None)

            return load
    raise TypeError(kind)


@cache
def _lifter(kind: WitType) -> _Lift:
    match kind:
        case Bool():
            return lambda _, flat, at: flat[at] & 0xFFFFFFFF != 0
        case Integer():
            mask, sign = (1 << kind.bits) - 1, 1 << (kind.bits - 1)
            if not kind.signed:
                return lambda _, flat, at: flat[at] & mask
            return lambda _, flat, at: ((flat[at] & mask) ^ sign) - sign
        case String() | Bytes() | List():
            pair = _pointed(kind)
            return lambda call, flat, at: pair(call, flat[at] & 0xFFFFFFFF, flat[at + 1] & 0xFFFFFFFF)
        case Record():
            names, lift_fields = [name for name, _ in kind.fields], _several(kind.types)
            return lambda call, flat, at: dict(zip(names, lift_fields(call, flat, at), strict=True))
        case Tuple():
            return _several(kind.types)
        case Enum() | Option() | Result():
            make, cases = _maker(kind), [p and _lifter(p) for p in kind.payloads]

            def lift(call: _Lifting, flat: Sequence[int], at: int) -> Any:
                case = flat[at] & 0xFFFFFFFF
                payload = _payload_of(kind, cases, case)
                return make(case, payload(call, flat, at + 1) if payload else None)

            return lift
    raise TypeError(kind)


@cache
def _several(kinds: tuple[WitType, ...]) -> Callable[[_Lifting, Sequence[int], int], tuple[Any, ...]]:
    """Values one behind the other among core values."""
    lifts, place = [], 0
    for kind in kinds:
        lifts.append((_lifter(kind), place))
        place += len(kind.flat)
    return lambda call, flat, at: tuple([lift(call, flat, at + place) for lift, place in lifts])


def _pointed(kind: String | Bytes | List) -> Callable[[_Lifting, int, int], Any]:
    """What lies behind an address and a length."""
    if isinstance(kind, String):
        return _Lifting.text
    if isinstance(kind, Bytes):
        return lambda call, address, length: call.data("list", address, length, 1)
    load, size, alignment = _loader(kind.element), kind.element.size, kind.element.alignment

    def elements(call: _Lifting, address: int, length: int) -> list[Any]:
        raw = call.data("list", address, length * size, alignment)
        return [load(call, raw, at) for at in range(0, len(raw), size)]

    return elements


def _payload_of(kind: WitType, cases: Sequence[Any], case: int) -> Any:
    if case >= len(cases):
        name = kind.name if isinstance(kind, Enum) else type(kind).__name__.lower()
        raise AbiError(f"{name!r} has no case {case}")
    return cases[case]


def _maker(kind: Enum | Option | Result) -> Callable[[int, Any], Any]:
    if isinstance(kind, Enum):
        names = kind.cases
        return lambda case, _: names[case]
    if isinstance(kind, Option):
        return lambda _, payload: payload
    return lambda case, payload: Err(payload) if case else Ok(payload)


def lift_parameters(
    function: Function, flat: Sequence[int], memory: Memory, encoding: str = "utf8", max_data: int = MAX_DATA
) -> tuple[Any, ...]:
    """The arguments of a call that a guest makes.

    Args:
        function: what it calls.
        flat: the core values that it passes; the address of the result may stand behind them.
        memory: its own.
        encoding: of its texts: ``utf8``, ``utf16`` or ``latin1+utf16``.
        max_data: bytes that the call may carry.

    Raises:
        AbiError: they break a rule.
    """
    call = _Lifting(memory, encoding, max_data)
    if not function.params_in_memory:
        return _several(function.types)(call, flat, 0)
    area = Tuple(function.types)
    raw = call.data("the block of parameters", flat[0] & 0xFFFFFFFF, area.size, area.alignment)
    return _loader(area)(call, raw, 0)  # type: ignore[no-any-return]


def lift_result(
    function: Function, returned: int, memory: Memory, encoding: str = "utf8", max_data: int = MAX_DATA
) -> Any:
    """The result of a call that was made into a guest.

    Args:
        returned: the core value that the guest's function returned; 0 where it returns none.

    Raises:
        AbiError: it breaks a rule.
    """
    call = _Lifting(memory, encoding, max_data)
    kind = function.result
    if kind is None:
        return None
    if not function.asks:
        return _lifter(kind)(call, (returned,), 0)
    raw = call.data("the result", returned & 0xFFFFFFFF, kind.size, kind.alignment)
    return _loader(kind)(call, raw, 0)
