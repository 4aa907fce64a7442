"""The types in a component's binary, and how they are put in words.

Source: the Component Model's Binary.md, "Type Definitions". A type names others by their number in an index space; here
it holds them as objects, so it takes no more memory than its bytes did, however often it is named. It becomes text
when an error needs it, and no more of it than an error has room for.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol

from theater_tcp.guest.wasm_reader import BinaryError, Reader, shown

__all__ = [
    "FUNC",
    "INSTANCE",
    "TYPE",
    "ComponentType",
    "Described",
    "Types",
    "in_words",
    "read_described",
    "read_extern_name",
    "read_instance_sort",
    "read_type",
]

MAX_WORDS = 1500
"""Characters of a type in an error."""

CORE, FUNC, VALUE, TYPE, COMPONENT, INSTANCE = range(6)
"""The sorts of things that can be named."""

_SORT_NAMES = ("core module", "func", "value", "type", "component", "instance")

_PLAIN = {
    0x7F: "bool", 0x7E: "s8", 0x7D: "u8", 0x7C: "s16", 0x7B: "u16", 0x7A: "s32", 0x79: "u32", 0x78: "s64",
    0x77: "u64", 0x76: "f32", 0x75: "f64", 0x74: "char", 0x73: "string", 0x64: "error-context",
}  # fmt: skip


class ComponentType:
    """A type.

    Args:
        word: what it is: ``u8``, ``record``, ``func``, ``instance``, …
        names: of its fields, parameters or cases.
        inside: the types that it is made of; None where there is none.
        exports: of an instance.
    """

    __slots__ = ("exports", "inside", "names", "word")

    def __init__(
        self,
        word: str,
        inside: tuple[ComponentType | None, ...] = (),
        names: tuple[str, ...] = (),
        exports: dict[str, Described] | None = None,
    ) -> None:
        self.word = word
        self.inside = inside
        self.names = names
        self.exports = exports or {}


class Described(NamedTuple):
    """Something with a name, by sort and type."""

    sort: int
    type: ComponentType

    @property
    def sort_name(self) -> str:
        """In words."""
        return _SORT_NAMES[self.sort]


class Types(Protocol):
    """The types that can be named where a type stands."""

    types: list[ComponentType]

    def outer_type(self, count: int, index: int) -> ComponentType:
        """A type of the component so many levels around this one."""


PLAIN = {number: ComponentType(word) for number, word in _PLAIN.items()}


# -- in words -------------------------------------------------------------------------------------------------------


def in_words(kind: ComponentType, with_names: bool = True) -> str:
    """A type as WIT says it, records and enums spelled out; cut with ``...`` where it is very long.

    Args:
        with_names: whether the parameters of a function are named.
    """
    text = ""
    for piece in _pieces(kind, with_names, 0):
        text += piece
        if len(text) > MAX_WORDS:
            return f"{text[:MAX_WORDS]}..."
    return text


def _pieces(kind: ComponentType, with_names: bool, depth: int) -> Iterator[str]:
    if depth > 100:
        yield "..."
        return
    word, inside = kind.word, kind.inside
    names = [shown(name) for name in kind.names]

    def joined(named: bool) -> Iterator[str]:
        for number, each in enumerate(inside[: len(names)] if named else inside):
            yield ", " if number else ""
            if named:
                yield names[number] + (": " if each is not None else "")
            if each is not None:
                yield from _pieces(each, with_names, depth + 1)

    if word == "record":
        yield "record { "
        yield from joined(True)
        yield " }"
    elif word == "variant":
        yield "variant { "
        for number, (name, payload) in enumerate(zip(names, inside, strict=True)):
            yield f"{', ' if number else ''}{name}"
            if payload is not None:
                yield "("
                yield from _pieces(payload, with_names, depth + 1)
                yield ")"
        yield " }"
    elif word in ("enum", "flags"):
        yield f"{word} {{ {', '.join(names)} }}"
    elif word in ("func", "async func"):
        *params, result = inside
        yield f"{word}("
        for number, (name, param) in enumerate(zip(names, params, strict=True)):
            yield f"{', ' if number else ''}{name + ': ' if with_names else ''}"
            if param is not None:
                yield from _pieces(param, with_names, depth + 1)
        yield ")"
        if result is not None:
            yield " -> "
            yield from _pieces(result, with_names, depth + 1)
    elif word == "result":
        ok, err = inside
        if ok is None and err is None:
            yield "result"
            return
        yield "result<"
        yield from _pieces(ok, with_names, depth + 1) if ok is not None else "_"
        if err is not None:
            yield ", "
            yield from _pieces(err, with_names, depth + 1)
        yield ">"
    elif inside:
        yield f"{word}<"
        yield from joined(False)
        yield ">"
    else:
        yield word


# -- from the binary ------------------------------------------------------------------------------------------------


class _Inner:
    """The index space of types inside of the type of an instance or a component."""

    def __init__(self, around: Types) -> None:
        self.types: list[ComponentType] = []
        self._around = around

    def outer_type(self, count: int, index: int) -> ComponentType:
        if count == 0:
            return type_at(self, index)
        return self._around.outer_type(count - 1, index)


def type_at(types: Types, index: int) -> ComponentType:
    """A type by its number."""
    if index >= len(types.types):
        raise BinaryError(f"is damaged: there is no type {index}")
    return types.types[index]


def read_type(reader: Reader, types: Types, depth: int = 0) -> ComponentType:
    """A type's definition.

    Args:
        types: what it may name.
        depth: how many types of instances and components are around it.

    Raises:
        BinaryError: it isn't in order, or is of a form that isn't known here.
    """
    form = reader.byte()
    if form in PLAIN:
        return PLAIN[form]
    match form:
        case 0x40 | 0x43:
            return _function(reader, types, "func" if form == 0x40 else "async func")
        case 0x41 | 0x42:
            return _members(reader, types, depth, "component" if form == 0x41 else "instance")
        case 0x3F:
            reader.byte()  # i32
            if reader.byte():
                reader.u32()  # its destructor
            return ComponentType("resource")
        case 0x72:
            fields = _named(reader, types)
            return ComponentType("record", tuple(kind for _, kind in fields), tuple(name for name, _ in fields))
        case 0x71:
            cases = []
            for _ in range(reader.count()):
                cases.append((reader.name(), _optional(reader, types)))
                reader.byte()  # once the case that it refines
            return ComponentType("variant", tuple(kind for _, kind in cases), tuple(name for name, _ in cases))
        case 0x70:
            return ComponentType("list", (_value_type(reader, types),))
        case 0x67:
            return ComponentType("list", (_value_type(reader, types), ComponentType(str(reader.u32()))))
        case 0x6F:
            return ComponentType("tuple", tuple([_value_type(reader, types) for _ in range(reader.count())]))
        case 0x6E | 0x6D:
            names = tuple([reader.name() for _ in range(reader.count())])
            return ComponentType("flags" if form == 0x6E else "enum", (), names)
        case 0x6B:
            return ComponentType("option", (_value_type(reader, types),))
        case 0x6A:
            return ComponentType("result", (_optional(reader, types), _optional(reader, types)))
        case 0x69 | 0x68:
            reader.u32()
            return ComponentType("own<resource>" if form == 0x69 else "borrow<resource>")
        case 0x66 | 0x65:
            carried = _optional(reader, types)
            return ComponentType("stream" if form == 0x66 else "future", (carried,) if carried else ())
    raise BinaryError(f"has a component type of the form {form:#x}, which is not known here")


def read_extern_name(reader: Reader) -> str:
    """The name of an import or an export."""
    form = reader.byte()
    if form > 2:
        raise BinaryError(f"has a name of the form {form:#x}, which is not known here")
    name = reader.name()
    if form == 2:  # with options, as the rest of a version
        for _ in range(reader.count()):
            reader.byte()
            reader.part()
    return name


def read_instance_sort(reader: Reader) -> tuple[int, int]:
    """A sort and, if it is core, which of those (-1 otherwise)."""
    sort = reader.byte()
    if sort > INSTANCE:
        raise BinaryError(f"has a sort {sort:#x}, which is not known here")
    return sort, reader.byte() if sort == CORE else -1


def read_described(reader: Reader, types: Types) -> Described:
    """What an import or an export is (``externdesc``)."""
    sort = reader.byte()
    match sort:
        case 0:  # a core module
            reader.byte()
            reader.u32()
            return Described(CORE, ComponentType("core module"))
        case 1 | 4 | 5:
            return Described({1: FUNC, 4: COMPONENT, 5: INSTANCE}[sort], type_at(types, reader.u32()))
        case 2:
            if reader.byte() == 0:
                reader.u32()
                return Described(VALUE, ComponentType("value"))
            return Described(VALUE, _value_type(reader, types))
        case 3:
            if reader.byte() == 0:
                return Described(TYPE, type_at(types, reader.u32()))
            return Described(TYPE, ComponentType("resource"))
    raise BinaryError(f"has a sort {sort:#x}, which is not known here")


def _function(reader: Reader, types: Types, word: str) -> ComponentType:
    params = _named(reader, types)
    form = reader.byte()
    if form == 0:
        result: ComponentType | None = _value_type(reader, types)
    elif form == 1 and reader.byte() == 0:
        result = None
    else:
        raise BinaryError("has a function with several results, which is not known any more")
    return ComponentType(word, (*(kind for _, kind in params), result), tuple(name for name, _ in params))


def _named(reader: Reader, types: Types) -> list[tuple[str, ComponentType]]:
    return [(reader.name(), _value_type(reader, types)) for _ in range(reader.count())]


def _optional(reader: Reader, types: Types) -> ComponentType | None:
    return _value_type(reader, types) if reader.byte() else None


def _value_type(reader: Reader, types: Types) -> ComponentType:
    number = reader.s33()
    if number >= 0:
        return type_at(types, number)
    if number + 0x80 not in PLAIN:
        raise BinaryError(f"has a component type {number + 0x80:#x}, which is not known here")
    return PLAIN[number + 0x80]


def _members(reader: Reader, around: Types, depth: int, word: str) -> ComponentType:
    """The type of an instance, or of a component."""
    if depth > 20:
        raise BinaryError("has types inside of types, more than 20 deep")
    inner = _Inner(around)
    instances: list[ComponentType] = []
    exports: dict[str, Described] = {}
    for _ in range(reader.count()):
        form = reader.byte()
        if form == 1:
            inner.types.append(read_type(reader, inner, depth + 1))
        elif form == 2:
            _alias(reader, inner, instances)
        elif form == 4 or (form == 3 and word == "component"):
            name = read_extern_name(reader)
            described = read_described(reader, inner)
            if described.sort == TYPE:
                inner.types.append(described.type)
            elif described.sort == INSTANCE:
                instances.append(described.type)
            if form == 4:
                exports[name] = described
        else:
            raise BinaryError(f"has a member of a type of the form {form:#x}, which is not known here")
    return ComponentType(word, exports=exports)


def _alias(reader: Reader, inner: _Inner, instances: list[ComponentType]) -> None:
    sort, _ = read_instance_sort(reader)
    target = reader.byte()
    if target == 0:
        index, name = reader.u32(), reader.name()
        found = instances[index].exports.get(name) if index < len(instances) else None
        kind = found.type if found is not None else ComponentType("unknown")
    elif target == 2:
        count, index = reader.u32(), reader.u32()
        kind = inner.outer_type(count, index) if sort == TYPE else ComponentType("unknown")
    else:
        raise BinaryError(f"has an alias of the form {target:#x}, which is not known here")
    if sort == TYPE:
        inner.types.append(kind)
    elif sort == INSTANCE:
        instances.append(kind)
