"""A component as its binary has it: what it is put together from, by the numbers in its index spaces.

Source: the Component Model's Binary.md. A component names everything by its place in one of a dozen lists, to which
nearly every section adds. They are gathered here in the order of the file; what they amount to is for
:mod:`theater_tcp.guest.fast_core` to find out. Components inside of it are read when they are asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from theater_tcp.guest.component_types import (
    COMPONENT,
    CORE,
    FUNC,
    INSTANCE,
    TYPE,
    ComponentType,
    Described,
    read_described,
    read_extern_name,
    read_instance_sort,
    read_type,
    type_at,
)
from theater_tcp.guest.core_module import CoreModule
from theater_tcp.guest.wasm_reader import BinaryError, Reader

__all__ = [
    "Alias",
    "Bundle",
    "Component",
    "CoreInstance",
    "Imported",
    "Instance",
    "Lifted",
    "Lowered",
    "Options",
    "Other",
    "Part",
]

CORE_FUNC, CORE_TABLE, CORE_MEMORY, CORE_MODULE, CORE_INSTANCE = 0x00, 0x01, 0x02, 0x11, 0x12

_ENCODINGS = {0: "utf8", 1: "utf16", 2: "latin1+utf16"}
_MAX_DEPTH = 8


class Options(NamedTuple):
    """How a function crosses the border of a core module.

    Args:
        encoding: of texts.
        memory, realloc, post_return: numbers of a core memory and of core functions; None where there is none.
        plain: whether there is nothing else, as ``async``.
    """

    encoding: str = "utf8"
    memory: int | None = None
    realloc: int | None = None
    post_return: int | None = None
    plain: bool = True


class Alias(NamedTuple):
    """An export of an instance (of a core instance, for what is core)."""

    instance: int
    name: str


class Imported(NamedTuple):
    """What the component imports."""

    name: str
    type: ComponentType


class Lifted(NamedTuple):
    """A function made from one of a core module."""

    core_func: int
    options: Options
    type: ComponentType


class Lowered(NamedTuple):
    """A core function made from one of a component."""

    func: int
    options: Options


class Other(NamedTuple):
    """Something that only its kind is told of."""

    what: str


class Bundle(NamedTuple):
    """An instance made of single things: name to sort and number."""

    items: dict[str, tuple[int, int]]


class CoreInstance(NamedTuple):
    """A core module, instantiated: its number, and for each module name of its imports the number of an instance."""

    module: int
    args: dict[str, int]


class Instance(NamedTuple):
    """A component, instantiated: its number, and for each import a sort and a number."""

    component: int
    args: dict[str, tuple[int, int]]


class Part(NamedTuple):
    """A component inside of another one, not read yet."""

    content: Reader


class Component:
    """A component.

    Args:
        content: where it is, with its preamble.
        around: the component that it is inside of.
        depth: inside of how many.

    Raises:
        BinaryError: it isn't in order, or has something that isn't known here.
    """

    def __init__(self, content: Reader, around: Component | None = None, depth: int = 0) -> None:
        self.around = around
        self._depth = depth
        self._inside: dict[int, Component] = {}
        self._memories: int | None = None
        self.core_modules: list[Reader | Other] = []
        self.core_instances: list[CoreInstance | Bundle] = []
        self.core_funcs: list[Alias | Lowered | Other] = []
        self.core_tables: list[Alias] = []
        self.core_memories: list[Alias] = []
        self.funcs: list[Alias | Imported | Lifted | Other] = []
        self.instances: list[Alias | Imported | Instance | Bundle] = []
        self.components: list[Part | Other] = []
        self.types: list[ComponentType] = []
        self.imports: list[tuple[str, Described]] = []
        self.exports: dict[str, tuple[int, int]] = {}
        self.unknown = ""
        """What in it isn't known here, so that some numbers may mean something else; empty if all is known."""
        read = {
            2: self._read_core_instance,
            5: self._read_instance,
            6: self._read_alias,
            7: self._read_type,
            8: self._read_canonical,
            10: self._read_import,
            11: self._read_export,
        }
        for number, section in Reader(content.data, content.at + 8, content.end).sections():
            if number == 1:
                self.core_modules.append(section)
            elif number == 4:
                self.components.append(Part(section))
            elif number in read:
                for _ in range(section.count()):
                    read[number](section)
                    if self.unknown:
                        break
                else:
                    section.expect_end()
            elif number not in (0, 3):  # names and producers; core types, which no function here is made from
                self.unknown = self.unknown or f"a section {number:#x}"

    def inside(self, index: int) -> Component | None:
        """A component inside of this one; None if it is from somewhere else."""
        part = self.components[index]
        if isinstance(part, Other):
            return None
        if index not in self._inside:
            if self._depth == _MAX_DEPTH:
                raise BinaryError(f"has components inside of components, more than {_MAX_DEPTH} deep")
            self._inside[index] = Component(part.content, self, self._depth + 1)
        return self._inside[index]

    def memories(self) -> int:
        """How many memories there are when it has been instantiated."""
        if self._memories is None:
            modules = [self.core_modules[each.module] for each in self.core_instances if isinstance(each, CoreInstance)]
            counts: dict[int, int] = {}
            for content in modules:
                if isinstance(content, Reader) and content.at not in counts:
                    counts[content.at] = CoreModule(content).has_memory
            self._memories = sum(counts[content.at] for content in modules if isinstance(content, Reader))
            for instance in self.instances:
                inside = self.inside(instance.component) if isinstance(instance, Instance) else None
                self._memories += inside.memories() if inside is not None else 0
        return self._memories

    def outer_type(self, count: int, index: int) -> ComponentType:
        """A type of the component so many levels around this one."""
        around: Component | None = self
        for _ in range(min(count, _MAX_DEPTH + 1)):
            around = around and around.around
        if around is None:
            raise BinaryError(f"is damaged: there is nothing {count} levels around")
        return type_at(around, index)

    # -- what is core ---------------------------------------------------------------------------------------------

    def _read_core_instance(self, section: Reader) -> None:
        form = section.byte()
        if form == 0:
            module = _within(section.u32(), self.core_modules, "core module")
            args = {}
            for _ in range(section.count()):
                name = section.name()
                section.byte()  # always an instance
                args[name] = _within(section.u32(), self.core_instances, "core instance")
            self.core_instances.append(CoreInstance(module, args))
        else:
            items = {}
            for _ in range(section.count()):
                name, sort = section.name(), section.byte()
                items[name] = (sort, section.u32())
            self.core_instances.append(Bundle(items))

    def _read_canonical(self, section: Reader) -> None:
        form = section.byte()
        if form == 0:
            section.byte()
            core_func = _within(section.u32(), self.core_funcs, "core function")
            options = self._options(section)
            self.funcs.append(Lifted(core_func, options, type_at(self, section.u32())))
        elif form == 1:
            section.byte()
            func = _within(section.u32(), self.funcs, "function")
            self.core_funcs.append(Lowered(func, self._options(section)))
        elif form in (2, 3, 4):
            section.u32()
            self.core_funcs.append(Other("a function of a resource"))
        else:
            self.unknown = f"a canonical function of the form {form:#x}"

    def _options(self, section: Reader) -> Options:
        options = Options()
        for _ in range(section.count()):
            form = section.byte()
            if form in _ENCODINGS:
                options = options._replace(encoding=_ENCODINGS[form])
            elif form == 3:
                options = options._replace(memory=_within(section.u32(), self.core_memories, "core memory"))
            elif form == 4:
                options = options._replace(realloc=_within(section.u32(), self.core_funcs, "core function"))
            elif form == 5:
                options = options._replace(post_return=_within(section.u32(), self.core_funcs, "core function"))
            else:
                options = options._replace(plain=False)
                if form == 7:  # a callback
                    section.u32()
                elif form != 6:  # async
                    raise BinaryError(f"has an option {form:#x} of a function, which is not known here")
        return options

    # -- what isn't -----------------------------------------------------------------------------------------------

    def _read_instance(self, section: Reader) -> None:
        form = section.byte()
        if form == 0:
            component = _within(section.u32(), self.components, "component")
            args = {}
            for _ in range(section.count()):
                name = section.name()
                args[name] = self._sorted_index(section)
            self.instances.append(Instance(component, args))
        else:
            items = {}
            for _ in range(section.count()):
                name = read_extern_name(section)
                items[name] = self._sorted_index(section)
            self.instances.append(Bundle(items))

    def _sorted_index(self, section: Reader) -> tuple[int, int]:
        sort, core = read_instance_sort(section)
        return (sort if core < 0 else CORE), section.u32()

    def _read_alias(self, section: Reader) -> None:
        sort, core = read_instance_sort(section)
        target = section.byte()
        if target == 2:
            count, index = section.u32(), section.u32()
            if sort == TYPE:
                self.types.append(self.outer_type(count, index))
            elif sort == COMPONENT:
                self.components.append(Other("from outside"))
            elif sort == CORE and core == CORE_MODULE:
                self.core_modules.append(Other("from outside"))
            elif sort != CORE:
                raise BinaryError("is damaged: an alias to something outside that can't be named there")
            return
        alias = Alias(section.u32(), section.name())
        if target == 1:
            _within(alias.instance, self.core_instances, "core instance")
            if core == CORE_FUNC:
                self.core_funcs.append(alias)
            elif core == CORE_TABLE:
                self.core_tables.append(alias)
            elif core == CORE_MEMORY:
                self.core_memories.append(alias)
            return
        _within(alias.instance, self.instances, "instance")
        if sort == FUNC:
            self.funcs.append(alias)
        elif sort == TYPE:
            self.types.append(self._type_of(alias))
        elif sort == INSTANCE:
            self.instances.append(alias)
        elif sort == COMPONENT:
            self.components.append(Other("of an instance"))
        elif sort == CORE and core == CORE_MODULE:
            self.core_modules.append(Other("of an instance"))

    def _type_of(self, alias: Alias) -> ComponentType:
        """A type that an instance exports, where that can be told from the instance's own type."""
        instance = self.instances[alias.instance]
        found = instance.type.exports.get(alias.name) if isinstance(instance, Imported) else None
        return found.type if found is not None else ComponentType("unknown")

    def _read_type(self, section: Reader) -> None:
        self.types.append(read_type(section, self))

    def _read_import(self, section: Reader) -> None:
        name = read_extern_name(section)
        described = read_described(section, self)
        self.imports.append((name, described))
        imported = Imported(name, described.type)
        if described.sort == FUNC:
            self.funcs.append(imported)
        elif described.sort == INSTANCE:
            self.instances.append(imported)
        elif described.sort == TYPE:
            self.types.append(described.type)
        elif described.sort == COMPONENT:
            self.components.append(Other("imported"))
        elif described.sort == CORE:
            self.core_modules.append(Other("imported"))

    def _read_export(self, section: Reader) -> None:
        """An export; it has a place of its own among what it is one of."""
        name = read_extern_name(section)
        sort, index = self._sorted_index(section)
        described = read_described(section, self) if section.byte() else None
        self.exports[name] = (sort, index)
        if sort == FUNC:
            self.funcs.append(self.funcs[_within(index, self.funcs, "function")])
        elif sort == INSTANCE:
            self.instances.append(self.instances[_within(index, self.instances, "instance")])
        elif sort == TYPE:
            self.types.append(described.type if described else type_at(self, index))
        elif sort == COMPONENT:
            self.components.append(self.components[_within(index, self.components, "component")])
        elif sort == CORE:
            self.core_modules.append(self.core_modules[_within(index, self.core_modules, "core module")])


def _within(index: int, space: Sequence[object], what: str) -> int:
    """A number that is one of a list's."""
    if index >= len(space):
        raise BinaryError(f"is damaged: there is no {what} {index}")
    return index
