"""What a file is that somebody wants to run as a guest, and whether it may be: before anything of it is compiled.

A core module has to import and export what ``wit/`` says, with the core types that the canonical ABI makes of that. A
component says its types itself; if all of its work is done by one core module, that one is taken out of it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import NamedTuple

from theater_tcp.guest.component_parts import Component
from theater_tcp.guest.component_types import FUNC, INSTANCE, TYPE, ComponentType, in_words
from theater_tcp.guest.core_module import CoreModule, CoreType
from theater_tcp.guest.fast_core import FastCore, NotFast, exported_functions, find_fast_core
from theater_tcp.guest.interface import ALWAYS_GRANTED, EXPORTS, GRANTED_BY_NAME, IMPORTS, INIT, PACKAGE
from theater_tcp.guest.wasm_reader import BinaryError, Reader, shown
from theater_tcp.guest.wit_types import Function

__all__ = ["GRANTS", "WASI", "WASI_MODULE", "BinaryError", "GuestBinary", "kind", "read_guest"]

WASI = "wasi"
"""The grant of what a runtime of a language wants: clocks and randomness."""

GRANTS = frozenset({WASI, *GRANTED_BY_NAME})
"""What a manifest may grant."""

WASI_MODULE = "wasi_snapshot_preview1"
"""The module name of that for core modules."""

_MAGIC = b"\0asm"
_CORE = b"\x01\0\0\0"
_COMPONENT = b"\x0d\0\x01\0"

_OTHERS = {
    b"\x7fELF": "ELF",
    b"PK\x03\x04": "zip",
    b"\x1f\x8b": "gzip",
    b"BC\xc0\xde": "LLVM bitcode",
    b"!<arch>": "an archive of object files",
    b"\xca\xfe\xba\xbe": "Java or Mach-O",
    b"\xcf\xfa\xed\xfe": "Mach-O",
    b"MZ": "a program for Windows",
    b"#!": "a script",
}

_MAX_NAMED = 4

MAX_MEMORIES = 8
"""Memories of one guest; they share what its limits allow."""


class GuestBinary(NamedTuple):
    """A file that can be a guest.

    Args:
        kind: ``core module`` or ``component``.
        core: for the fast road: the core module, and how its texts are encoded; None where that road can't be taken.
        why_not: why it can't, in words after "it"; empty where it can.
        exports: the functions of ``wit/`` that it exports, by full name.
        imports: the interfaces that it imports.
        memories: how many memories it has, where it takes the component road.
    """

    kind: str
    core: FastCore | None
    why_not: str
    exports: frozenset[str]
    imports: frozenset[str]
    memories: int = 1


def kind(content: bytes) -> str:
    """What a file is, by its first bytes.

    Returns:
        ``core module`` or ``component``.

    Raises:
        BinaryError: it is neither; says what it is instead.
    """
    if content[:4] == _MAGIC:
        version = content[4:8]
        if version == _CORE:
            return "core module"
        if version == _COMPONENT:
            return "component"
        if len(version) < 4:
            raise BinaryError(f"is truncated: it ends after {len(content)} bytes")
        number, layer = int.from_bytes(version[:2], "little"), int.from_bytes(version[2:], "little")
        what, known = {0: ("core WebAssembly", 1), 1: ("a component", 13)}.get(
            layer, (f"WebAssembly of layer {layer}", 1)
        )
        raise BinaryError(f"is {what} of version {number}; the one that is known here is {known}")
    if not content:
        raise BinaryError("is no WebAssembly: it is empty")
    text = content[:4096].lstrip()
    if text.startswith((b"(module", b"(component", b";;", b"(;")):
        raise BinaryError("is WebAssembly as text; `wasm-tools parse` makes it binary")
    name = next((f" ({name})" for magic, name in _OTHERS.items() if content.startswith(magic)), "")
    raise BinaryError(f"is no WebAssembly: it begins with {content[:4].hex(' ')}{name}")


def read_guest(content: bytes, grants: Collection[str] = ()) -> GuestBinary:
    """Read a file, and hold it against what a guest may import and has to export.

    Args:
        content: all of it.
        grants: what its manifest grants beyond the usual: ``clock``, ``wasi``.

    Raises:
        BinaryError: it is no guest, or may not be one; one line that says why.
    """
    what = kind(content)
    whole = Reader(content, 0, len(content))
    if what == "core module":
        module = CoreModule(whole)
        exports = _check_core(module, grants)
        imports = frozenset(wanted.module for wanted in module.imports)
        return GuestBinary(what, FastCore(content, {}), "", exports, imports)
    component = Component(whole)
    interfaces = [name for name, described in component.imports if described.sort != TYPE]
    _check_grants(interfaces, grants)
    _check_component_imports(component)
    functions = exported_functions(component)
    for full_name, lifted in functions.items():
        _check_type(f"{full_name} has the type", lifted.type, EXPORTS[full_name])
    if component.exports.get(f"{PACKAGE}/actor", (-1,))[0] != INSTANCE:
        raise BinaryError(f"does not export {PACKAGE}/actor")
    exports, imports = frozenset(functions), frozenset(interfaces)
    try:
        core = find_fast_core(component, functions)
        _check_core(CoreModule(Reader(core.module, 0, len(core.module))), grants)
    except NotFast as reason:
        memories = component.memories()
        if memories > MAX_MEMORIES:
            raise BinaryError(f"has {memories} memories; {MAX_MEMORIES} are the most") from None
        return GuestBinary(what, None, str(reason), exports, imports, memories)
    return GuestBinary(what, core, "", exports, imports)


# -- what it imports ------------------------------------------------------------------------------------------------


def _grant_of(interface: str) -> str | None:
    """The grant that an interface needs; empty if it is always granted, None if nothing grants it."""
    if interface in ALWAYS_GRANTED:
        return ""
    if interface == WASI_MODULE or interface.startswith(f"{WASI}:"):
        return WASI
    return next((grant for grant, granted in GRANTED_BY_NAME.items() if granted == interface), None)


def _check_grants(interfaces: Iterable[str], grants: Collection[str]) -> None:
    """Every interface that is imported is granted; one error names all that aren't."""
    refused = {name: grant for name in interfaces if (grant := _grant_of(name)) != "" and grant not in grants}
    if not refused:
        return
    named = [shown(name) for name in list(refused)[:_MAX_NAMED]]
    if len(refused) > _MAX_NAMED:
        named.append(f"{len(refused) - _MAX_NAMED} more")
    needed = sorted({grant for grant in refused.values() if grant})
    hint = f" (grants: [{', '.join(needed)}])" if needed and None not in refused.values() else ""
    raise BinaryError(f"imports {' and '.join(filter(None, (', '.join(named[:-1]), named[-1])))},"
                      f" which its manifest does not grant{hint}")  # fmt: skip


def _known(interface: str, name: str) -> Function:
    functions = IMPORTS[interface]
    if name not in functions:
        raise BinaryError(f"imports {shown(f'{interface}#{name}')}, which there is not")
    return functions[name]


# -- a core module --------------------------------------------------------------------------------------------------


def _check_core(module: CoreModule, grants: Collection[str]) -> frozenset[str]:
    """Hold a core module against ``wit/``: the functions that it exports."""
    for wanted in module.imports:
        if wanted.kind != "func":
            what = f"{wanted.kind} {wanted.module}.{wanted.name}"
            raise BinaryError(f"imports the {shown(what)}; a guest imports functions only")
    _check_grants(dict.fromkeys(wanted.module for wanted in module.imports), grants)
    for wanted in module.imports:
        if wanted.module in IMPORTS:
            function = _known(wanted.module, wanted.name)
            result = (function.core_result,) if function.core_result else ()
            _check_core_type(f"imports {function.full_name} with", wanted.type, CoreType(function.core_params, result))
    if "memory" not in module.exports or module.exports["memory"].kind != "memory":
        raise BinaryError("exports no memory of the name memory")
    found = set()
    for name, export in module.exports.items():
        expected = _expected(name)
        if expected is not None:
            _check_core_type(f"{name} has", export.type, expected)
            if name in EXPORTS:
                found.add(name)
        elif name.startswith(f"{PACKAGE}/"):
            raise BinaryError(f"exports {shown(name)}, which there is not")
    for name in ("cabi_realloc", INIT):
        if name not in module.exports:
            raise BinaryError(f"does not export {name}")
    return frozenset(found)


def _expected(name: str) -> CoreType | None:
    """The type that an export of a core module has to have; None for one that is its own affair."""
    if name == "cabi_realloc":
        return CoreType(("i32",) * 4, ("i32",))
    if name == "_initialize":
        return CoreType((), ())
    function = EXPORTS.get(name)
    if function is not None:
        return CoreType(function.flat_params, (function.core_export_result,) if function.core_export_result else ())
    function = EXPORTS.get(name.removeprefix("cabi_post_"))
    return CoreType((function.core_export_result or "i32",), ()) if function is not None else None


def _check_core_type(what: str, found: CoreType | None, expected: CoreType) -> None:
    if found != expected:
        raise BinaryError(f"{what} the type {found or 'of something else'} and should have {expected}")


# -- a component ----------------------------------------------------------------------------------------------------


def _check_component_imports(component: Component) -> None:
    for interface, described in component.imports:
        if interface not in IMPORTS:
            continue
        if described.sort != INSTANCE:
            raise BinaryError(f"imports {interface} as a {described.sort_name}; it is an instance")
        for name, member in described.type.exports.items():
            if member.sort == FUNC:
                function = _known(interface, name)
                _check_type(f"imports {function.full_name} with the type", member.type, function)


def _check_type(what: str, found: ComponentType, function: Function) -> None:
    """Hold a function's type against that in ``wit/``; parameters may have other names."""
    words = in_words(found, with_names=False)
    bare = ", ".join(str(kind) for kind in function.types)
    if words != f"func({bare})" + (f" -> {function.result}" if function.result else "") and "unknown" not in words:
        raise BinaryError(f"{what} {in_words(found)} and should have {function}")
