"""The canonical ABI: values of WIT's types into a guest's memory.

Source: the Component Model's CanonicalABI.md, "Storing", "Flat Lowering", "Lifting and Lowering Values". There are two
phases, since addresses come from the guest, and its ``cabi_realloc`` can't always be called from here::

    lowered = lower_result(function, value)                 encodes all of it
    addresses = [... for size, alignment in lowered.allocations]
    for offset, data in lowered.writes(addresses, memory_size, pointer):
        ...

:meth:`Lowered.into` is both at once, where the memory can allocate.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any, NamedTuple

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
    Option,
    Record,
    Result,
    String,
    Tuple,
    WitType,
)

__all__ = ["Lowered", "lower_parameters", "lower_result"]


class _Block(NamedTuple):
    """Bytes that want a place in the guest's memory.

    Args:
        data: what is to be written, but for the addresses in it.
        size: of it, in bytes.
        alignment: in bytes.
        pointers: where the address of which other block belongs: (offset in the data, the other's number).
    """

    data: bytes | bytearray | memoryview
    size: int
    alignment: int
    pointers: list[tuple[int, int]]


class _Lowering:
    """One call whose values are lowered."""

    __slots__ = ("blocks", "encode", "left", "max_data")

    def __init__(self, encoding: str, max_data: int) -> None:
        self.blocks: list[_Block] = []
        self.encode = ENCODINGS[encoding].encode
        self.left = self.max_data = max_data

    def carry(self, data: bytes | bytearray | memoryview, size: int, alignment: int) -> int:
        """A block of its own for these bytes: its number."""
        self.left -= size
        if self.left < 0:
            raise AbiError(f"a call carries more than {self.max_data} bytes")
        self.blocks.append(_Block(data, size, alignment, []))
        return len(self.blocks) - 1


_Store = Callable[[_Lowering, bytearray, list[tuple[int, int]], int, Any], None]
"""A value into bytes: (the call, the bytes, addresses that belong there, where it begins, the value)."""

_Flatten = Callable[[_Lowering, list[int], list[tuple[int, int]], Any], None]
"""A value into core values: (the call, the core values so far, addresses that belong there, the value)."""

_Point = Callable[[_Lowering, Any], tuple[int | None, int, int]]
"""A value into a block of its own: the block's number, or None and an address where it is empty; and its length."""


@cache
def _storer(kind: WitType) -> _Store:
    match kind:
        case Bool() | Integer():
            number = number_format(kind) if isinstance(kind, Integer) else struct.Struct("?")

            def store_number(_: _Lowering, into: bytearray, _p: list[tuple[int, int]], at: int, value: Any) -> None:
                try:
                    number.pack_into(into, at, value)
                except struct.error:
                    raise AbiError(f"{value!r} is no {kind}") from None

            return store_number
        case String() | Bytes() | List():
            point = _pointer(kind)

            def store_pair(
                call: _Lowering, into: bytearray, pointers: list[tuple[int, int]], at: int, value: Any
            ) -> None:
                block, address, length = point(call, value)
                PAIR.pack_into(into, at, address, length)
                if block is not None:
                    pointers.append((at, block))

            return store_pair
        case Record() | Tuple():
            parts = _parter(kind)
            stores = [(_storer(each), offset) for each, offset in zip(kind.types, kind.offsets, strict=True)]

            def store_fields(
                call: _Lowering, into: bytearray, pointers: list[tuple[int, int]], at: int, value: Any
            ) -> None:
                for part, (store, offset) in zip(parts(value), stores, strict=True):
                    store(call, into, pointers, at + offset, part)

            return store_fields
        case Enum() | Option() | Result():
            case_of, cases, behind = _caser(kind), [p and _storer(p) for p in kind.payloads], kind.payload_offset

            def store_case(
                call: _Lowering, into: bytearray, pointers: list[tuple[int, int]], at: int, value: Any
            ) -> None:
                case, payload = case_of(value)
                into[at] = case
                store = cases[case]
                if store:
                    store(call, into, pointers, at + behind, payload)

            return store_case
    raise TypeError(kind)


@cache
def _flattener(kind: WitType) -> _Flatten:
    match kind:
        case Bool():
            return lambda _, flat, _p, value: flat.append(int(value))
        case Integer():
            mask = (1 << max(kind.bits, 32)) - 1
            least, most = (
                (-(1 << kind.bits - 1), (1 << kind.bits - 1) - 1) if kind.signed else (0, (1 << kind.bits) - 1)
            )

            def flatten_number(_: _Lowering, flat: list[int], _p: list[tuple[int, int]], value: Any) -> None:
                if not least <= value <= most:
                    raise AbiError(f"{value!r} is no {kind}")
                flat.append(value & mask)

            return flatten_number
        case String() | Bytes() | List():
            point = _pointer(kind)

            def flatten_pair(call: _Lowering, flat: list[int], pointers: list[tuple[int, int]], value: Any) -> None:
                block, address, length = point(call, value)
                if block is not None:
                    pointers.append((len(flat), block))
                flat += (address, length)

            return flatten_pair
        case Record() | Tuple():
            parts, flattens = _parter(kind), [_flattener(each) for each in kind.types]

            def flatten_fields(call: _Lowering, flat: list[int], pointers: list[tuple[int, int]], value: Any) -> None:
                for part, flatten in zip(parts(value), flattens, strict=True):
                    flatten(call, flat, pointers, part)

            return flatten_fields
        case Enum() | Option() | Result():
            case_of, cases, count = _caser(kind), [p and _flattener(p) for p in kind.payloads], len(kind.flat)

            def flatten_case(call: _Lowering, flat: list[int], pointers: list[tuple[int, int]], value: Any) -> None:
                case, payload = case_of(value)
                end = len(flat) + count
                flat.append(case)
                flatten = cases[case]
                if flatten:
                    flatten(call, flat, pointers, payload)
                flat += [0] * (end - len(flat))

            return flatten_case
    raise TypeError(kind)


@cache
def _pointer(kind: String | Bytes | List) -> _Point:
    if isinstance(kind, String):

        def point_text(call: _Lowering, value: str) -> tuple[int | None, int, int]:
            data, alignment, length = call.encode(value)
            # What is empty needs no block; no guest reads there, but some want an address that isn't 0.
            return (call.carry(data, len(data), alignment), 0, length) if data else (None, alignment, length)

        return point_text
    if isinstance(kind, Bytes):

        def point_bytes(call: _Lowering, value: bytes) -> tuple[int | None, int, int]:
            size = len(value)
            return (call.carry(value, size, 1), 0, size) if size else (None, 1, 0)

        return point_bytes
    store, size, alignment = _storer(kind.element), kind.element.size, kind.element.alignment

    def point_elements(call: _Lowering, value: Sequence[Any]) -> tuple[int | None, int, int]:
        if not value:
            return None, alignment, 0
        length = len(value)
        into = bytearray(length * size)
        number = call.carry(into, length * size, alignment)
        pointers = call.blocks[number].pointers
        for at, element in zip(range(0, length * size, size), value, strict=True):
            store(call, into, pointers, at, element)
        return number, 0, length

    return point_elements


def _parter(kind: Record | Tuple) -> Callable[[Any], Iterable[Any]]:
    """A value's parts in their order; those of a record by name, or as attributes with ``_`` for ``-``."""
    if isinstance(kind, Tuple):
        return lambda value: value
    names = [name for name, _ in kind.fields]
    attributes = [name.replace("-", "_") for name in names]

    def parts(value: Any) -> list[Any]:
        if isinstance(value, dict):
            return [value[name] for name in names]
        return [getattr(value, attribute) for attribute in attributes]

    return parts


def _caser(kind: Enum | Option | Result) -> Callable[[Any], tuple[int, Any]]:
    """The number of a value's case, and what it carries."""
    if isinstance(kind, Option):
        return lambda value: (0, None) if value is None else (1, value)
    if isinstance(kind, Result):
        return lambda value: (1 if isinstance(value, Err) else 0, value.value)
    numbers = {name: (number, None) for number, name in enumerate(kind.cases)}

    def case_of(value: Any) -> tuple[int, Any]:
        if value not in numbers:
            raise AbiError(f"{kind.name!r} has no case {value!r}")
        return numbers[value]

    return case_of


class Lowered:
    """Values that are encoded, and only wait for the addresses of their blocks."""

    __slots__ = ("_blocks", "_flat", "_flat_pointers", "_root")

    def __init__(
        self,
        blocks: list[_Block],
        flat: list[int] | None = None,
        flat_pointers: list[tuple[int, int]] | None = None,
        root: _Block | None = None,
    ) -> None:
        self._blocks = blocks
        self._flat = flat or []
        self._flat_pointers = flat_pointers or []
        self._root = root

    @property
    def allocations(self) -> list[tuple[int, int]]:
        """The blocks that the guest is to allocate, in this order: (size, alignment) of each, in bytes."""
        return [(block.size, block.alignment) for block in self._blocks]

    def flat(self, addresses: Sequence[int]) -> list[int]:
        """The core values to pass.

        Args:
            addresses: of the blocks, in the order of ``allocations``.
        """
        flat = self._flat.copy()
        for place, number in self._flat_pointers:
            flat[place] = addresses[number]
        return flat

    def writes(
        self, addresses: Sequence[int], memory_size: int, pointer: int = 0
    ) -> list[tuple[int, bytes | bytearray | memoryview]]:
        """What is to be written where: (offset, data) of each.

        Args:
            addresses: what the guest allocated, in the order of ``allocations``.
            memory_size: bytes of its memory after that.
            pointer: the address of the result, where it goes through memory.

        Raises:
            AbiError: an address is not aligned, or is outside of the memory.
        """
        for block, address in zip(self._blocks, addresses, strict=True):
            check_place("what cabi_realloc gave", address, block.size, block.alignment, memory_size)
        placed = [(address, _fill(block, addresses)) for block, address in zip(self._blocks, addresses, strict=True)]
        if self._root is not None:
            check_place("the place for a result", pointer, self._root.size, self._root.alignment, memory_size)
            placed.append((pointer, _fill(self._root, addresses)))
        return placed

    def into(self, memory: Memory, pointer: int = 0) -> list[int]:
        """Allocate and write; the core values to pass.

        Raises:
            AbiError: as :meth:`writes`.
        """
        addresses = [memory.allocate(size, alignment) & 0xFFFFFFFF for size, alignment in self.allocations]
        for offset, data in self.writes(addresses, memory.size, pointer):
            memory.write(offset, data)
        return self.flat(addresses)


def _fill(block: _Block, addresses: Sequence[int]) -> bytes | bytearray | memoryview:
    if not block.pointers:
        return block.data
    filled = bytearray(block.data)
    for at, number in block.pointers:
        filled[at : at + 4] = addresses[number].to_bytes(4, "little")
    return filled


def lower_parameters(
    function: Function, values: Sequence[Any], encoding: str = "utf8", max_data: int = MAX_DATA
) -> Lowered:
    """The arguments of a call into a guest.

    Args:
        function: what is called.
        values: one for each parameter.
        encoding: of the guest's texts: ``utf8``, ``utf16`` or ``latin1+utf16``.
        max_data: bytes that the call may carry.

    Raises:
        AbiError: a value isn't of its type, or they are too many bytes.
    """
    call = _Lowering(encoding, max_data)
    flat: list[int] = []
    pointers: list[tuple[int, int]] = []
    if function.params_in_memory:
        area = _pointer(List(Tuple(function.types)))
        area(call, [tuple(values)])
        return Lowered(call.blocks, [0], [(0, 0)])
    for kind, value in zip(function.types, values, strict=True):
        _flattener(kind)(call, flat, pointers, value)
    return Lowered(call.blocks, flat, pointers)


def lower_result(function: Function, value: Any, encoding: str = "utf8", max_data: int = MAX_DATA) -> Lowered:
    """The result of a call that a guest makes.

    Args:
        value: the result.

    Raises:
        AbiError: it isn't of its type, or is too many bytes.
    """
    call = _Lowering(encoding, max_data)
    kind = function.result
    if kind is None:
        return Lowered([])
    pointers: list[tuple[int, int]] = []
    if not function.asks:
        flat: list[int] = []
        _flattener(kind)(call, flat, pointers, value)
        return Lowered(call.blocks, flat)
    into = bytearray(kind.size)
    _storer(kind)(call, into, pointers, 0, value)
    return Lowered(call.blocks, root=_Block(into, kind.size, kind.alignment, pointers))
