"""A core module as its binary has it: what it imports and exports, with types, and a few things more.

Source: the WebAssembly specification, "Binary Format", with the reference types of garbage collection. Function bodies
are passed over; their bytes can be had one by one (:meth:`CoreModule.bodies`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from theater_tcp.guest.wasm_reader import BinaryError, Reader

__all__ = ["CoreExport", "CoreImport", "CoreModule", "CoreType"]

KINDS = ("func", "table", "memory", "global", "tag")
"""What can be imported and exported, by number."""

_TYPES = {
    0x7F: "i32", 0x7E: "i64", 0x7D: "f32", 0x7C: "f64", 0x7B: "v128",
    0x78: "i8", 0x77: "i16",
    0x75: "nullexnref", 0x74: "nullcontref", 0x73: "nullfuncref", 0x72: "nullexternref", 0x71: "nullref",
    0x70: "funcref", 0x6F: "externref", 0x6E: "anyref", 0x6D: "eqref", 0x6C: "i31ref", 0x6B: "structref",
    0x6A: "arrayref", 0x69: "exnref", 0x68: "contref",
}  # fmt: skip

_TYPE, _IMPORT, _FUNCTION, _TABLE, _MEMORY, _GLOBAL, _EXPORT, _START, _ELEMENT, _CODE, _DATA = range(1, 12)
_FUNC, _STRUCT, _ARRAY = 0x60, 0x5F, 0x5E
_SUB, _FINAL_SUB, _RECURSIVE = 0x50, 0x4F, 0x4E
_REF, _NULLABLE_REF = 0x64, 0x63


class CoreType(NamedTuple):
    """The type of a function."""

    params: tuple[str, ...]
    results: tuple[str, ...]

    def __str__(self) -> str:
        return f"func({', '.join(self.params)})" + (f" -> {', '.join(self.results)}" if self.results else "")


class CoreImport(NamedTuple):
    """An import; ``type`` is None if it isn't a function."""

    module: str
    name: str
    kind: str
    type: CoreType | None


class CoreExport(NamedTuple):
    """An export; ``type`` is None if it isn't a function."""

    kind: str
    number: int
    type: CoreType | None


class CoreModule:
    """A core module.

    Args:
        content: where it is, with its preamble.

    Raises:
        BinaryError: it isn't in order, or has something that isn't known here.
    """

    def __init__(self, content: Reader) -> None:
        self.content = content
        self.imports: list[CoreImport] = []
        self.exports: dict[str, CoreExport] = {}
        self.start: int | None = None
        """The function that runs at instantiation."""
        self.own_functions = 0
        """How many functions are its own, and not imported."""
        self.functions: list[CoreType] = []
        """The types of all of its functions, the imported ones first."""
        self.types: list[CoreType | None] = []
        """None for types that aren't of functions."""
        self.sections: dict[int, Reader] = {}
        """By number; without custom ones."""
        for number, section in Reader(content.data, content.at + 8, content.end).sections():
            if number:
                self.sections[number] = section
        self._read(_TYPE, self._read_types)
        self._read(_IMPORT, self._read_import)
        self._read(_FUNCTION, self._read_function)
        self._read(_MEMORY, self._read_memory)
        self._read(_EXPORT, self._read_export)
        bodies = self._part(_CODE).count() if _CODE in self.sections else 0
        if bodies != self.own_functions:
            raise BinaryError(f"is truncated: it announces {self.own_functions} functions and has {bodies}")
        if _START in self.sections:
            self.start = self._part(_START).u32()
            self.function_type(self.start)

    @property
    def has_memory(self) -> bool:
        """Whether it has a memory of its own."""
        return _MEMORY in self.sections

    @property
    def only_calls(self) -> bool:
        """Whether it has nothing but types, functions, tables, exports and their like: no state of its own."""
        return not self.sections.keys() & {_MEMORY, _GLOBAL, _DATA}

    def function_type(self, index: int) -> CoreType:
        """The type of a function."""
        if index >= len(self.functions):
            raise BinaryError(f"is damaged: there is no function {index}")
        return self.functions[index]

    def bodies(self) -> list[Reader]:
        """The bodies of its own functions."""
        if _CODE not in self.sections:
            return []
        section = self._part(_CODE)
        return [section.part() for _ in range(section.count())]

    def elements(self) -> Reader | None:
        """The element section, if it has one."""
        return self._part(_ELEMENT) if _ELEMENT in self.sections else None

    # -- inside ---------------------------------------------------------------------------------------------------

    def _part(self, number: int) -> Reader:
        section = self.sections[number]
        return Reader(section.data, section.at, section.end)

    def _read(self, number: int, read_item: Callable[[Reader], None]) -> None:
        if number in self.sections:
            section = self._part(number)
            for _ in range(section.count()):
                read_item(section)
            section.expect_end()

    def _read_types(self, section: Reader) -> None:
        if section.peek() == _RECURSIVE:
            section.byte()
            for _ in range(section.count()):
                self._read_type(section)
        else:
            self._read_type(section)

    def _read_type(self, section: Reader) -> None:
        form = section.byte()
        if form in (_SUB, _FINAL_SUB):
            for _ in range(section.count()):
                section.u32()
            form = section.byte()
        if form == _FUNC:
            self.types.append(CoreType(_value_types(section), _value_types(section)))
            return
        if form == _STRUCT:
            for _ in range(section.count()):
                _field(section)
        elif form == _ARRAY:
            _field(section)
        else:
            raise BinaryError(f"has a type of the form {form:#x}, which is not known here")
        self.types.append(None)

    def _read_import(self, section: Reader) -> None:
        module, name, kind = section.name(), section.name(), section.byte()
        kind_name = _kind(kind)
        core_type = None
        if kind == 0:
            core_type = self._function_type_at(section)
            self.functions.append(core_type)
        elif kind == 1:
            _value_type(section)
            _limits(section)
        elif kind == 2:
            _limits(section)
        elif kind == 3:
            _field(section)
        else:
            section.byte()
            section.u32()
        self.imports.append(CoreImport(module, name, kind_name, core_type))

    def _read_function(self, section: Reader) -> None:
        self.functions.append(self._function_type_at(section))
        self.own_functions += 1

    def _read_memory(self, section: Reader) -> None:
        if _limits(section) & 2:
            raise BinaryError("has a shared memory, which no limit bounds")

    def _read_export(self, section: Reader) -> None:
        name, kind, index = section.name(), _kind(section.byte()), section.u32()
        self.exports[name] = CoreExport(kind, index, self.function_type(index) if kind == "func" else None)

    def _function_type_at(self, section: Reader) -> CoreType:
        return self.type_of(section.u32())

    def type_of(self, index: int) -> CoreType:
        """A function's type, by the number of the type."""
        found = self.types[index] if index < len(self.types) else None
        if found is None:
            raise BinaryError(f"is damaged: there is no type {index} of a function")
        return found


def _kind(number: int) -> str:
    if number >= len(KINDS):
        raise BinaryError(f"imports or exports something of the kind {number:#x}, which is not known here")
    return KINDS[number]


def _value_types(section: Reader) -> tuple[str, ...]:
    return tuple([_value_type(section) for _ in range(section.count())])


def _value_type(section: Reader) -> str:
    byte = section.byte()
    if byte in (_REF, _NULLABLE_REF):
        return f"(ref {'null ' if byte == _NULLABLE_REF else ''}{section.s33()})"
    if byte not in _TYPES:
        raise BinaryError(f"has a type {byte:#x}, which is not known here")
    return _TYPES[byte]


def _field(section: Reader) -> None:
    """A type, and whether it can be changed."""
    _value_type(section)
    section.byte()


def _limits(section: Reader) -> int:
    """Limits of a table or a memory: their flags."""
    flags = section.byte()
    section.number(64)
    if flags & 1:
        section.number(64)
    if flags & 8:
        section.u32()
    return flags
