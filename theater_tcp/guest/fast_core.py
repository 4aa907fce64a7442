"""The one core module inside of a component that does all the work, and how it is wired up.

What ``wasm-tools component new`` makes of a core module is a component with three core modules. The first is the
module as it was. A component's functions can't be made core functions before there is a memory to put results into,
and the first module can't be instantiated before it has its imports; so a *shim* of trampolines through a table stands
in for them, and a *fixup* fills the table when all is there, and calls ``_initialize``. ::

    main ── import ──> shim ── call_indirect ──> table ──> canon lower ──> imported function of the component
                                                   ^
    main's memory, cabi_realloc ──> canon lower    fixup fills it

None of that is needed where the host does the canonical ABI itself. So the wiring is followed here, from each import of
the main module to a function of an interface, and from each exported function back to an export of the main module.
The code of shim and fixup is checked, instruction by instruction, to do that and nothing else. Whatever is wired up in
another way is no error; such a component takes the other road.
"""

from __future__ import annotations

from typing import NamedTuple

from theater_tcp.guest.component_parts import (
    CORE_FUNC,
    CORE_TABLE,
    Alias,
    Bundle,
    Component,
    CoreInstance,
    Imported,
    Instance,
    Lifted,
    Lowered,
    Options,
    Other,
)
from theater_tcp.guest.component_types import FUNC, INSTANCE
from theater_tcp.guest.core_module import CoreModule
from theater_tcp.guest.interface import EXPORTS, IMPORTS
from theater_tcp.guest.wasm_reader import Reader, shown

__all__ = ["FastCore", "NotFast", "exported_functions", "find_fast_core"]

CoreFunction = Alias | Lowered | Other

_MAX_STEPS = 1000
"""How often a name may stand for another one."""

_STRANGE_TABLE = "has a table that is filled in a way which is not known here"


class FastCore(NamedTuple):
    """The core module of a component, fit to be run without the component around it.

    Args:
        module: its binary.
        encodings: of the texts of each function that it imports or exports, by full name.
    """

    module: bytes
    encodings: dict[str, str]


class NotFast(Exception):
    """The component is put together in another way; the text says in which, after "it"."""


def find_fast_core(component: Component, functions: dict[str, Lifted]) -> FastCore:
    """The core module that can stand for a component.

    Args:
        functions: what it exports of the interfaces, by full name; see :func:`exported_functions`.

    Raises:
        NotFast: there is none.
        BinaryError: something in it is damaged.
    """
    if component.unknown:
        raise NotFast(f"has {component.unknown}, which is not known here")
    return _Wiring(component).fast_core(functions)


class _Shim:
    """Trampolines: each exported function passes its arguments on to what is in one place of a table."""

    def __init__(self, slots: dict[str, int], table: str) -> None:
        self.slots = slots
        self.table = table
        self.filled: dict[int, CoreFunction] = {}  # what the fixup puts there

    @classmethod
    def of(cls, module: CoreModule) -> _Shim | None:
        """The shim that a module is; None if it is something else."""
        tables = [name for name, export in module.exports.items() if export.kind == "table"]
        if module.imports or module.start is not None or not module.only_calls or module.elements() or len(tables) != 1:
            return None
        slots = [_slot(module, index, body) for index, body in enumerate(module.bodies())]
        exports = {name: slots[export.number] for name, export in module.exports.items()
                   if export.kind == "func" and export.number < len(slots)}  # fmt: skip
        found = {name: slot for name, slot in exports.items() if slot is not None}
        return cls(found, tables[0]) if len(found) == len(exports) else None


def _slot(module: CoreModule, index: int, body: Reader) -> int | None:
    """The place in the table that a trampoline goes through; None if it isn't one."""
    kind = module.function_type(index)
    if body.byte() != 0:  # it has locals
        return None
    for number in range(len(kind.params)):
        if (body.byte(), body.u32()) != (0x20, number):  # local.get
            return None
    if body.byte() != 0x41:  # i32.const
        return None
    slot = body.s33()
    called = (body.byte(), module.type_of(body.u32()), body.byte(), body.byte())
    return slot if called == (0x11, kind, 0, 0x0B) and not body.more else None  # call_indirect, end


class _Wiring:
    """Follows what in a component leads to what."""

    def __init__(self, component: Component) -> None:
        self._component = component
        self._modules: dict[int, CoreModule] = {}
        self._shims: dict[int, _Shim] = {}  # by core instance
        self._started: list[CoreFunction] = []  # what fixups run
        self._main = -1

    def fast_core(self, functions: dict[str, Lifted]) -> FastCore:
        """See :func:`find_fast_core`."""
        working = self._sort_out()
        memories = sum(self._module_of(index).has_memory for index in working)
        if memories != 1 or len(working) != 1:
            raise NotFast(f"has {len(working)} core modules that do its work, {memories} of them with a memory")
        self._main = working[0]
        main = self._module_of(self._main)
        encodings: dict[str, str] = {}
        for wanted in main.imports:
            full_name = f"{wanted.module}#{wanted.name}"
            if wanted.kind != "func" or wanted.name not in IMPORTS.get(wanted.module, ()):
                raise NotFast(f"has a core module that imports {shown(full_name)}")
            if full_name not in encodings:
                encodings[full_name] = self._import_encoding(wanted.module, wanted.name)
        for full_name, lifted in functions.items():
            encodings[full_name] = self._export_encoding(full_name, lifted, main)
        for full_name in EXPORTS:
            if full_name in main.exports and full_name not in functions:
                raise NotFast(f"has a core module with {full_name}, and does not export that")
        self._check_initialize(main)
        content = main.content
        return FastCore(content.data[content.at : content.end], encodings)

    # -- which module is what ---------------------------------------------------------------------------------------

    def _sort_out(self) -> list[int]:
        """Find shims and fixups; the other core instances."""
        component = self._component
        working, later = [], []
        if any(isinstance(instance, Instance) and self._has_core(instance) for instance in component.instances):
            raise NotFast("has a component inside of it that does work of its own")
        for index, instance in enumerate(component.core_instances):
            if isinstance(instance, Bundle):
                continue
            shim = _Shim.of(self._module_of(index))
            if shim is not None:
                self._shims[index] = shim
            elif self._is_fixup(instance):
                later.append(instance)
            else:
                working.append(index)
        for instance in later:
            self._apply_fixup(instance)
        return working

    def _has_core(self, instance: Instance) -> bool:
        inside = self._component.inside(instance.component)
        return inside is None or bool(
            inside.unknown or inside.core_instances or inside.core_modules or inside.components
        )

    def _module_of(self, core_instance: int) -> CoreModule:
        instance = self._component.core_instances[core_instance]
        if not isinstance(instance, CoreInstance):
            raise NotFast("has a core instance without a module")
        if instance.module not in self._modules:
            content = self._component.core_modules[instance.module]
            if isinstance(content, Other):
                raise NotFast("has a core module that comes from outside of it")
            self._modules[instance.module] = CoreModule(content)
        return self._modules[instance.module]

    def _is_fixup(self, instance: CoreInstance) -> bool:
        module = self._modules[instance.module]
        if module.own_functions or not module.only_calls or module.exports:
            return False
        return all(wanted.kind in ("func", "table") for wanted in module.imports)

    def _apply_fixup(self, instance: CoreInstance) -> None:
        module = self._modules[instance.module]
        functions: list[CoreFunction] = []
        shim = None
        for wanted in module.imports:
            found = self._given(instance, wanted.module, wanted.name)
            if wanted.kind == "func":
                functions.append(self._function(found))
            elif shim is None:
                shim = self._shim_of_table(found)
            else:
                raise NotFast("has a module with several tables")
        if module.start is not None:
            self._started.append(functions[module.start])
        for offset, numbers in _elements(module.elements()):
            for slot, number in enumerate(numbers, offset):
                if shim is None or slot in shim.filled or number >= len(functions):
                    raise NotFast(_STRANGE_TABLE)
                shim.filled[slot] = functions[number]

    def _shim_of_table(self, found: tuple[int, int] | Alias) -> _Shim:
        table: Alias | None = None
        if isinstance(found, Alias):
            table = found
        elif found[0] == CORE_TABLE and found[1] < len(self._component.core_tables):
            table = self._component.core_tables[found[1]]
        shim = self._shims.get(table.instance) if table else None
        if shim is None or table is None or shim.table != table.name:
            raise NotFast(_STRANGE_TABLE)
        return shim

    # -- from one thing to the next -----------------------------------------------------------------------------------

    def _given(self, instance: CoreInstance, module: str, name: str) -> tuple[int, int] | Alias:
        """What an import of a core module is: a sort and a number, or an export of another core instance."""
        number = instance.args.get(module)
        if number is not None:
            given = self._component.core_instances[number]
            if isinstance(given, CoreInstance):
                return Alias(number, name)
            if name in given.items:
                return given.items[name]
        raise NotFast(f"has a core module that is not given its import {shown(f'{module}#{name}')}")

    def _function(self, found: tuple[int, int] | Alias) -> CoreFunction:
        """What was given to a core module, as a function."""
        if isinstance(found, Alias):
            return found
        sort, number = found
        if sort != CORE_FUNC or number >= len(self._component.core_funcs):
            raise NotFast("has a core module with an import of another kind than it wants")
        return self._component.core_funcs[number]

    def _behind(self, function: CoreFunction) -> CoreFunction:
        """What a core function is when all trampolines are passed."""
        for _ in range(_MAX_STEPS):
            shim = self._shims.get(function.instance) if isinstance(function, Alias) else None
            if shim is None or not isinstance(function, Alias):
                return function
            slot = shim.slots.get(function.name)
            if slot is None or slot not in shim.filled:
                break
            function = shim.filled[slot]
        raise NotFast("has a trampoline that leads nowhere")

    def _import_encoding(self, module: str, name: str) -> str:
        """How texts are encoded in an import of the main module, which is shown to be what it is named as."""
        instance = self._component.core_instances[self._main]
        assert isinstance(instance, CoreInstance)
        found = self._behind(self._function(self._given(instance, module, name)))
        if isinstance(found, Lowered):
            func = self._component.funcs[found.func]
            source = self._component.instances[func.instance] if isinstance(func, Alias) else None
            if isinstance(func, Alias) and isinstance(source, Imported) and (source.name, func.name) == (module, name):
                self._check_options(found.options)
                return found.options.encoding
        raise NotFast(f"has a core module that is given something else as {module}#{name}")

    def _export_encoding(self, full_name: str, lifted: Lifted, main: CoreModule) -> str:
        options = lifted.options
        self._check_options(options)
        if not self._is_mains(lifted.core_func, full_name):
            raise NotFast(f"has another name in its core module for {full_name}")
        post_return = f"cabi_post_{full_name}"
        if options.post_return is None:
            if post_return in main.exports:
                raise NotFast(f"has {post_return} in its core module, and does not use it")
        elif not self._is_mains(options.post_return, post_return):
            raise NotFast(f"has another name in its core module for {post_return}")
        return options.encoding

    def _check_options(self, options: Options) -> None:
        if not options.plain:
            raise NotFast("has asynchronous functions")
        if options.memory is not None:
            memory = self._component.core_memories[options.memory]
            if memory != Alias(self._main, "memory"):
                raise NotFast("has another memory than its core module's 'memory'")
        if options.realloc is not None and not self._is_mains(options.realloc, "cabi_realloc"):
            raise NotFast("allocates by another function than its core module's 'cabi_realloc'")

    def _is_mains(self, core_func: int, name: str) -> bool:
        return self._component.core_funcs[core_func] == Alias(self._main, name)

    def _check_initialize(self, main: CoreModule) -> None:
        expected = [Alias(self._main, "_initialize")] if "_initialize" in main.exports else []
        if self._started != expected:
            raise NotFast("has a start of its own")


def _elements(section: Reader | None) -> list[tuple[int, list[int]]]:
    """What is put into the only table: offset and functions of each segment."""
    found: list[tuple[int, list[int]]] = []
    if section is None:
        return found
    for _ in range(section.count()):
        if section.u32() != 0 or section.byte() != 0x41:
            raise NotFast(_STRANGE_TABLE)
        offset = section.s33()
        if section.byte() != 0x0B:
            raise NotFast(_STRANGE_TABLE)
        found.append((offset, [section.u32() for _ in range(section.count())]))
    return found


# -- what a component exports ---------------------------------------------------------------------------------------


def exported_functions(component: Component) -> dict[str, Lifted]:
    """The functions of the interfaces that a component exports, by full name, as far as can be told.

    Raises:
        BinaryError: something in it is damaged.
    """
    found = {}
    for full_name in EXPORTS:
        interface, _, name = full_name.partition("#")
        sort, index = component.exports.get(interface, (-1, -1))
        lifted = _follow(component, index, name) if sort == INSTANCE else None
        if lifted is not None:
            found[full_name] = lifted
    return found


class _Scope(NamedTuple):
    """A component, with what the one around it gives to its imports."""

    component: Component
    given: dict[str, tuple[int, int]]
    around: _Scope | None


def _follow(component: Component, index: int, name: str) -> Lifted | None:
    """The function that an instance exports under a name; None if it isn't there, or nobody can tell from here."""
    scope = _Scope(component, {}, None)
    sort, names = INSTANCE, [name]  # the function is reached by these, from the thing of that sort and number
    for _ in range(_MAX_STEPS):
        space = scope.component.instances if sort == INSTANCE else scope.component.funcs
        if sort not in (INSTANCE, FUNC) or index >= len(space) or scope.component.unknown:
            return None
        found = space[index]
        if isinstance(found, Lifted):
            return None if names else found
        if isinstance(found, Imported):
            if scope.around is None or found.name not in scope.given:
                return None
            sort, index = scope.given[found.name]
            scope = scope.around
        elif isinstance(found, Alias):
            sort, index = INSTANCE, found.instance
            names.append(found.name)
        elif isinstance(found, Bundle) and names and names[-1] in found.items:
            sort, index = found.items[names.pop()]
        elif isinstance(found, Instance) and names:
            inside = scope.component.inside(found.component)
            if inside is None or names[-1] not in inside.exports:
                return None
            scope = _Scope(inside, found.args, scope)
            sort, index = inside.exports[names.pop()]
        else:
            return None
    return None
