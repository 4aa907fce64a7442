"""Puts a component around a core module, as ``wasm-tools component new`` does it: main module, shim and fixup."""

from __future__ import annotations

from functools import cache

import wasmtime

from theater_tcp.guest.core_module import CoreModule, CoreType
from theater_tcp.guest.interface import EXPORTS, IMPORTS
from theater_tcp.guest.wasm_reader import Reader
from theater_tcp.guest.wit_types import Bytes, Enum, Function, List, Option, Record, Result, Tuple, WitType

__all__ = ["SECOND_MODULE", "component_of"]

SECOND_MODULE = '(core module $second (func (export "f"))) (core instance $second (instantiate $second))'
"""A core module that makes a component one of several modules, which the core road can't take."""


@cache
def component_of(core: bytes, encoding: str = "utf8", more: str = "") -> bytes:
    """A component in binary form.

    Args:
        core: the core module; it is a guest by itself.
        encoding: of all texts.
        more: text that stands in the component behind the core module.
    """
    module = CoreModule(Reader(core, 0, len(core)))
    made = bytes(wasmtime.wat2wasm(_text(module, encoding, more)))
    for number, part in Reader(made, 8, len(made)).sections():
        if number == _CORE_MODULE:  # the first of them is the main one's stand-in
            head = part.at - len(_leb(part.end - part.at)) - 1
            return b"".join((made[:head], bytes((_CORE_MODULE,)), _leb(len(core)), core, made[part.end :]))
    raise AssertionError("no core module")


_CORE_MODULE = 1


def _leb(number: int) -> bytes:
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*encoded, number])


def _text(module: CoreModule, encoding: str, more: str) -> str:
    functions = [IMPORTS[each.module][each.name] for each in module.imports]
    exports = [function for name, function in EXPORTS.items() if name in module.exports]
    options = f"(memory $memory) (realloc $realloc) string-encoding={encoding}"
    initialize = "_initialize" in module.exports
    return f"""(component
      {_imports(functions)}
      {_stand_in(module)}
      {more}
      {_shim(functions)}
      (core instance $shim (instantiate $shim))
      {_bundles(functions)}
      (core instance $main (instantiate $main {_with_bundles(functions)}))
      (alias core export $main "memory" (core memory $memory))
      (alias core export $main "cabi_realloc" (core func $realloc))
      {_fixup(functions, initialize)}
      {_lowered(functions, options)}
      (core instance $fixup (instantiate $fixup (with "actual" (instance $actual)) (with "main" (instance $main))
        (with "shim" (instance $shim))))
      {_lifted(exports, options, module)}
    )"""


def _stand_in(module: CoreModule) -> str:
    """A core module with the same imports and exports, and nothing behind them."""
    lines = [f'(import "{each.module}" "{each.name}" (func {_core_type(each.type)}))' for each in module.imports]
    for name, export in module.exports.items():
        if export.kind == "func":
            lines.append(f'(func (export "{name}") {_core_type(export.type)} unreachable)')
    return f'(core module $main {" ".join(lines)} (memory (export "memory") 1))'


def _core_type(kind: CoreType | None) -> str:
    assert kind is not None
    params = f"(param {' '.join(kind.params)})" if kind.params else ""
    return params + (f" (result {' '.join(kind.results)})" if kind.results else "")


def _type(kind: WitType) -> str:
    match kind:
        case Bytes():
            return "(list u8)"
        case List():
            return f"(list {_type(kind.element)})"
        case Option():
            return f"(option {_type(kind.some)})"
        case Tuple():
            return f"(tuple {' '.join(map(_type, kind.elements))})"
        case Result():
            ok = f" {_type(kind.ok)}" if kind.ok else ""
            err = f" (error {_type(kind.err)})" if kind.err else ""
            return f"(result{ok}{err})"
        case Record() | Enum():
            return f"${kind.name}"
    return str(kind)


def _signature(function: Function) -> str:
    params = " ".join(f'(param "{name}" {_type(kind)})' for name, kind in function.params)
    return f"(func {params}{f' (result {_type(function.result)})' if function.result else ''})"


def _named_types(kind: WitType | None, found: dict[str, str]) -> None:
    """The records and enums in a type, which have to be exported, the inner ones first."""
    match kind:
        case List():
            _named_types(kind.element, found)
        case Option():
            _named_types(kind.some, found)
        case Result():
            _named_types(kind.ok, found)
            _named_types(kind.err, found)
        case Record():
            for _, field in kind.fields:
                _named_types(field, found)
            fields = " ".join(f'(field "{name}" {_type(field)})' for name, field in kind.fields)
            found[kind.name] = f"(record {fields})"
        case Enum():
            found[kind.name] = f"(enum {' '.join(f'{chr(34)}{name}{chr(34)}' for name in kind.cases)})"


def _interfaces(functions: list[Function]) -> dict[str, dict[str, Function]]:
    found: dict[str, dict[str, Function]] = {}
    for function in functions:
        found.setdefault(function.interface, {})[function.name] = function
    return found


def _imports(functions: list[Function]) -> str:
    lines = []
    for interface, members in _interfaces(functions).items():
        types: dict[str, str] = {}
        for function in members.values():
            for kind in (*function.types, function.result):
                _named_types(kind, types)
        named = "".join(
            f'(type ${name}-plain {text}) (export "{name}" (type ${name} (eq ${name}-plain)))'
            for name, text in types.items()
        )
        exported = "".join(f'(export "{name}" {_signature(each)})' for name, each in members.items())
        lines.append(f'(import "{interface}" (instance ${interface} {named} {exported}))')
    return "\n".join(lines)


def _core_signature(function: Function) -> str:
    params = f"(param {' '.join(function.core_params)})" if function.core_params else ""
    return params + (f" (result {function.core_result})" if function.core_result else "")


def _shim(functions: list[Function]) -> str:
    lines = []
    for number, function in enumerate(functions):
        passed = " ".join(f"local.get {index}" for index in range(len(function.core_params)))
        lines.append(
            f'(type ${number} (func {_core_signature(function)})) (func (export "{number}") (type ${number})'
            f" {passed} i32.const {number} call_indirect (type ${number}))"
        )
    size = len(functions)
    return f'(core module $shim (table (export "$imports") {size} {size} funcref) {" ".join(lines)})'


def _bundles(functions: list[Function]) -> str:
    lines = [f'(alias core export $shim "{number}" (core func $shim{number}))' for number in range(len(functions))]
    for interface in _interfaces(functions):
        members = " ".join(
            f'(export "{function.name}" (func $shim{number}))'
            for number, function in enumerate(functions)
            if function.interface == interface
        )
        lines.append(f"(core instance ${interface}-core {members})")
    return "\n".join(lines)


def _with_bundles(functions: list[Function]) -> str:
    return " ".join(f'(with "{interface}" (instance ${interface}-core))' for interface in _interfaces(functions))


def _fixup(functions: list[Function], initialize: bool) -> str:
    size = len(functions)
    imports = "".join(
        f'(import "actual" "{number}" (func ${number} {_core_signature(function)}))'
        for number, function in enumerate(functions)
    )
    filled = " ".join(f"${number}" for number in range(size))
    start = '(import "main" "_initialize" (func $initialize))' if initialize else ""
    return f"""(core module $fixup {imports} {start} (import "shim" "$imports" (table {size} {size} funcref))
      {"(start $initialize)" if initialize else ""} (elem (i32.const 0) func {filled}))"""


def _lowered(functions: list[Function], options: str) -> str:
    lines = []
    for number, function in enumerate(functions):
        lines.append(
            f'(alias export ${function.interface} "{function.name}" (func $import{number}))'
            f"(core func $lowered{number} (canon lower (func $import{number}) {options}))"
        )
    items = " ".join(f'(export "{number}" (func $lowered{number}))' for number in range(len(functions)))
    return "\n".join([*lines, f"(core instance $actual {items})"])


def _lifted(exports: list[Function], options: str, module: CoreModule) -> str:
    lines = []
    for number, function in enumerate(exports):
        post = f"cabi_post_{function.full_name}"
        lines.append(f'(alias core export $main "{function.full_name}" (core func $core{number}))')
        clean = ""
        if post in module.exports:
            lines.append(f'(alias core export $main "{post}" (core func $post{number}))')
            clean = f"(post-return $post{number})"
        signature = _signature(function).removeprefix("(func").removesuffix(")")
        lines.append(f"(func $export{number} {signature} (canon lift (core func $core{number}) {options} {clean}))")
    for interface in dict.fromkeys(function.interface for function in exports):
        members = " ".join(
            f'(export "{function.name}" (func $export{number}))'
            for number, function in enumerate(exports)
            if function.interface == interface
        )
        lines.append(f'(instance ${interface}-made {members}) (export "{interface}" (instance ${interface}-made))')
    return "\n".join(lines)
