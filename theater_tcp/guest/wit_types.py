"""The types that WIT gives to values, with what the canonical ABI makes of each in a guest's memory.

Size, alignment and flattened form follow the Component Model's CanonicalABI.md, "Alignment", "Element Size" and
"Flattening", for memories of 32-bit addresses. ``str(type)`` is the type in WIT's own words, with records and enums
spelled out, so that two types are the same if their texts are.

=====================  =====================================================
type                   value in Python
=====================  =====================================================
``Bool``               ``bool``
``Integer``            ``int``
``String``             ``str``
``Bytes`` (list<u8>)   ``bytes`` (``bytearray`` and ``memoryview`` are taken)
``List``               ``list``
``Tuple``              ``tuple``
``Record``             ``dict``, from the names of the fields
``Option``             None, or the value
``Enum``               ``str``, the name of the case
``Result``             :class:`Ok` or :class:`Err`
=====================  =====================================================
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import zip_longest

__all__ = [
    "BOOL",
    "BYTES",
    "MAX_FLAT_PARAMS",
    "MAX_FLAT_RESULTS",
    "S8",
    "S16",
    "S32",
    "S64",
    "STRING",
    "U8",
    "U16",
    "U32",
    "U64",
    "Bool",
    "Bytes",
    "Enum",
    "Err",
    "Function",
    "Integer",
    "List",
    "Ok",
    "Option",
    "Record",
    "Result",
    "String",
    "Tuple",
    "WitType",
    "aligned",
]

MAX_FLAT_PARAMS = 16
"""Parameters of more core values than this are passed in memory."""

MAX_FLAT_RESULTS = 1
"""A result of more core values than this is passed in memory."""


def aligned(offset: int, alignment: int) -> int:
    """The first offset from this one on that is a multiple of the alignment."""
    return -(-offset // alignment) * alignment


@dataclass(frozen=True, slots=True)
class Ok:
    """The value of a ``result`` that is no error; ``value`` is None where the type has none."""

    value: object = None


@dataclass(frozen=True, slots=True)
class Err:
    """The value of a ``result`` that is an error."""

    value: object = None


class WitType:
    """A type."""

    @property
    def size(self) -> int:
        """Bytes in memory."""
        raise NotImplementedError

    @property
    def alignment(self) -> int:
        """In bytes."""
        raise NotImplementedError

    @property
    def flat(self) -> tuple[str, ...]:
        """The core types (``i32``, ``i64``) of the values that it is passed as."""
        raise NotImplementedError


@dataclass(frozen=True)
class Bool(WitType):
    """``bool``: one byte."""

    size, alignment, flat = 1, 1, ("i32",)

    def __str__(self) -> str:
        return "bool"


@dataclass(frozen=True)
class Integer(WitType):
    """``u8`` to ``u64`` and ``s8`` to ``s64``.

    Args:
        bits: 8, 16, 32 or 64.
        signed: whether it may be below zero.
    """

    bits: int
    signed: bool = False

    @cached_property
    def size(self) -> int:
        return self.bits // 8

    @cached_property
    def alignment(self) -> int:
        return self.bits // 8

    @cached_property
    def flat(self) -> tuple[str, ...]:
        return ("i64",) if self.bits > 32 else ("i32",)

    def __str__(self) -> str:
        return f"{'s' if self.signed else 'u'}{self.bits}"


@dataclass(frozen=True)
class String(WitType):
    """``string``: address and length."""

    size, alignment, flat = 8, 4, ("i32", "i32")

    def __str__(self) -> str:
        return "string"


@dataclass(frozen=True)
class Bytes(WitType):
    """``list<u8>``: address and length; bytes in Python, not a list of ints."""

    size, alignment, flat = 8, 4, ("i32", "i32")

    def __str__(self) -> str:
        return "list<u8>"


@dataclass(frozen=True)
class List(WitType):
    """``list<element>``: address and length. Of ``u8`` there is :class:`Bytes`."""

    element: WitType

    size, alignment, flat = 8, 4, ("i32", "i32")

    def __post_init__(self) -> None:
        if self.element == U8:
            raise ValueError("a list of u8 is Bytes")

    def __str__(self) -> str:
        return f"list<{self.element}>"


@dataclass(frozen=True)
class _Fields(WitType):
    """Values one behind the other, each at the next offset that its alignment allows."""

    @property
    def types(self) -> tuple[WitType, ...]:
        """Of the fields, in their order."""
        raise NotImplementedError

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        """Where each field begins, in bytes."""
        found, offset = [], 0
        for kind in self.types:
            offset = aligned(offset, kind.alignment)
            found.append(offset)
            offset += kind.size
        return tuple(found)

    @cached_property
    def alignment(self) -> int:
        return max(kind.alignment for kind in self.types)

    @cached_property
    def size(self) -> int:
        return aligned(self.offsets[-1] + self.types[-1].size, self.alignment)

    @cached_property
    def flat(self) -> tuple[str, ...]:
        return tuple(core for kind in self.types for core in kind.flat)


@dataclass(frozen=True)
class Tuple(_Fields):
    """``tuple<a, b>``; at least one."""

    elements: tuple[WitType, ...]

    def __post_init__(self) -> None:
        if not self.elements:
            raise ValueError("a tuple has at least one element")

    @property
    def types(self) -> tuple[WitType, ...]:
        """Of the elements, in their order."""
        return self.elements

    def __str__(self) -> str:
        return f"tuple<{', '.join(map(str, self.elements))}>"


@dataclass(frozen=True)
class Record(_Fields):
    """A record.

    Args:
        name: as WIT calls it; for errors.
        fields: (name, type) of each; at least one.
    """

    name: str
    fields: tuple[tuple[str, WitType], ...]

    def __post_init__(self) -> None:
        if not self.fields:
            raise ValueError("a record has at least one field")

    @property
    def types(self) -> tuple[WitType, ...]:
        """Of the fields, in their order."""
        return tuple(kind for _, kind in self.fields)

    def __str__(self) -> str:
        return f"record {{ {', '.join(f'{name}: {kind}' for name, kind in self.fields)} }}"


class _Cases(WitType):
    """A discriminant, and behind it the payload of the case, if it has one. Never more than 256 cases here."""

    @property
    def payloads(self) -> tuple[WitType | None, ...]:
        """What each case carries."""
        raise NotImplementedError

    @cached_property
    def payload_offset(self) -> int:
        """Where the payload begins, in bytes."""
        return self.alignment

    @cached_property
    def alignment(self) -> int:
        return max((kind.alignment for kind in self.payloads if kind), default=1)

    @cached_property
    def size(self) -> int:
        largest = max((kind.size for kind in self.payloads if kind), default=0)
        return aligned(self.payload_offset + largest if largest else 1, self.alignment)

    @cached_property
    def flat(self) -> tuple[str, ...]:
        joined: tuple[str, ...] = ()
        for kind in self.payloads:
            pairs = zip_longest(joined, kind.flat if kind else ())
            joined = tuple(a if a == b or not b else b if not a else "i64" for a, b in pairs)
        return ("i32", *joined)


@dataclass(frozen=True)
class Enum(_Cases):
    """One of several names.

    Args:
        name: as WIT calls it; for errors.
        cases: 1 to 256 names, in their order.
    """

    name: str
    cases: tuple[str, ...]

    def __post_init__(self) -> None:
        if not 0 < len(self.cases) <= 256:
            raise ValueError("an enum has 1 to 256 cases")

    @property
    def payloads(self) -> tuple[WitType | None, ...]:
        """None, for each case."""
        return (None,) * len(self.cases)

    def __str__(self) -> str:
        return f"enum {{ {', '.join(self.cases)} }}"


@dataclass(frozen=True)
class Option(_Cases):
    """``option<some>``. An option of an option has no value of its own in Python, so there is none."""

    some: WitType

    def __post_init__(self) -> None:
        if isinstance(self.some, Option):
            raise ValueError("an option of an option")

    @property
    def payloads(self) -> tuple[WitType | None, ...]:
        """Of none and some."""
        return (None, self.some)

    def __str__(self) -> str:
        return f"option<{self.some}>"


@dataclass(frozen=True)
class Result(_Cases):
    """``result<ok, err>``; None where there is no value."""

    ok: WitType | None = None
    err: WitType | None = None

    @property
    def payloads(self) -> tuple[WitType | None, ...]:
        """Of ok and err."""
        return (self.ok, self.err)

    def __str__(self) -> str:
        if self.err is None:
            return f"result<{self.ok}>" if self.ok else "result"
        return f"result<{self.ok or '_'}, {self.err}>"


@dataclass(frozen=True)
class Function:
    """A function of an interface.

    Args:
        interface: its full name, ``theater:simple/tcp``.
        name: ``set-active``.
        params: (name, type) of each.
        result: None if it returns nothing.
    """

    interface: str
    name: str
    params: tuple[tuple[str, WitType], ...] = ()
    result: WitType | None = None

    @property
    def full_name(self) -> str:
        """The name under which a core module exports it: ``theater:simple/tcp-client#on-data``."""
        return f"{self.interface}#{self.name}"

    @cached_property
    def types(self) -> tuple[WitType, ...]:
        """Of the parameters."""
        return tuple(kind for _, kind in self.params)

    @cached_property
    def params_in_memory(self) -> bool:
        """Whether the parameters are too many to be passed as core values; their address is passed instead."""
        return sum(len(kind.flat) for kind in self.types) > MAX_FLAT_PARAMS

    @cached_property
    def flat_params(self) -> tuple[str, ...]:
        """The core types of the parameters, without the address of the result."""
        if self.params_in_memory:
            return ("i32",)
        return tuple(core for kind in self.types for core in kind.flat)

    @cached_property
    def asks(self) -> bool:
        """Whether the result goes through memory: an import is given its address, an export returns it."""
        return self.result is not None and len(self.result.flat) > MAX_FLAT_RESULTS

    @cached_property
    def core_params(self) -> tuple[str, ...]:
        """The core types of its parameters where a guest imports it; the last is the result's address if it asks."""
        return (*self.flat_params, "i32") if self.asks else self.flat_params

    @cached_property
    def core_result(self) -> str | None:
        """The core type of what it returns where a guest imports it."""
        return self.result.flat[0] if self.result and not self.asks else None

    @cached_property
    def core_export_result(self) -> str | None:
        """The core type of what it returns where a guest exports it; its parameters are :attr:`flat_params`."""
        return "i32" if self.asks else self.core_result

    def __str__(self) -> str:
        params = ", ".join(f"{name}: {kind}" for name, kind in self.params)
        return f"func({params}) -> {self.result}" if self.result else f"func({params})"


BOOL = Bool()
U8, U16, U32, U64 = (Integer(bits) for bits in (8, 16, 32, 64))
S8, S16, S32, S64 = (Integer(bits, signed=True) for bits in (8, 16, 32, 64))
STRING = String()
BYTES = Bytes()
