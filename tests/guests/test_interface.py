"""The tables of ``interface.py`` against ``wit/``, which is what guests are built from."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from theater_tcp.guest.interface import ALWAYS_GRANTED, BLOCKING, EXPORTS, GRANTED_BY_NAME, IMPORTS, INIT, PACKAGE
from theater_tcp.guest.wit_types import Enum, List, Option, Record, Result, WitType

WIT = Path(__file__).resolve().parents[2] / "wit"


def table() -> dict[str, str]:
    """Each function of the tables, by its full name, in WIT's words."""
    imported = {function.full_name: str(function) for each in IMPORTS.values() for function in each.values()}
    return imported | {name: str(function) for name, function in EXPORTS.items()}


# -- as the files are written -------------------------------------------------------------------------------------


def spelled_out(text: str, types: dict[str, str]) -> str:
    """A type with the records and enums in it spelled out."""
    return re.sub(r"[a-z][a-z0-9-]*(?![a-z0-9-]*:)", lambda word: types.get(word[0], word[0]), text)


def functions_in(wit: str) -> dict[str, str]:
    """The functions of a WIT file, by full name; as far as the files here make use of WIT."""
    found = {}
    wit = " ".join(re.sub(r"//.*", "", wit).split())
    for name, body in re.findall(r"interface ([\w-]+) \{((?:[^{}]|\{[^{}]*\})*)\}", wit):
        types: dict[str, str] = {}
        declared = {
            kind: (word, inside) for word, kind, inside in re.findall(r"(record|enum) ([\w-]+) \{(.*?)\}", body)
        }
        for _ in declared:  # one may name another that stands below it
            for kind, (word, inside) in declared.items():
                types[kind] = f"{word} {{ {spelled_out(inside.strip().removesuffix(','), types)} }}"
        for function, signature in re.findall(r"([\w-]+): (func\(.*?);", body):
            found[f"{PACKAGE}/{name}#{function}"] = spelled_out(signature, types)
    return found


def test_the_tables_say_what_the_wit_files_say() -> None:
    written: dict[str, str] = {}
    for path in sorted(WIT.glob("*.wit")):
        written |= functions_in(path.read_text(encoding="utf-8"))
    assert written == table()


# -- as wasm-tools reads them -------------------------------------------------------------------------------------


def wasm_tools() -> str | None:
    """The program, beside Python or on the path; None where it isn't installed."""
    return shutil.which("wasm-tools", path=str(Path(sys.executable).parent)) or shutil.which("wasm-tools")


def in_words(kind: Any, types: list[dict[str, Any]]) -> str:
    """A type of ``wasm-tools component wit --json``."""
    if isinstance(kind, int):
        return in_words(types[kind]["kind"], types)
    if isinstance(kind, str):
        return kind
    ((word, inside),) = kind.items()
    match word:
        case "list" | "option":
            return f"{word}<{in_words(inside, types)}>"
        case "result":
            ok, err = (None if each is None else in_words(each, types) for each in (inside["ok"], inside["err"]))
            return f"result<{ok or '_'}, {err}>" if err else f"result<{ok}>" if ok else "result"
        case "enum":
            return f"enum {{ {', '.join(case['name'] for case in inside['cases'])} }}"
        case "record":
            fields = (f"{field['name']}: {in_words(field['type'], types)}" for field in inside["fields"])
            return f"record {{ {', '.join(fields)} }}"
        case "type":
            return in_words(inside, types)
    raise AssertionError(f"a kind of type that is new here: {word}")


def functions_by_wasm_tools(program: str) -> dict[str, str]:
    done = subprocess.run(
        [program, "component", "wit", str(WIT), "--json"], capture_output=True, check=True, timeout=30
    )
    read = json.loads(done.stdout)
    found = {}
    for interface in read["interfaces"]:
        for name, function in interface["functions"].items():
            params = ", ".join(
                f"{param['name']}: {in_words(param['type'], read['types'])}" for param in function["params"]
            )
            result = function.get("result")
            end = "" if result is None else f" -> {in_words(result, read['types'])}"
            found[f"{PACKAGE}/{interface['name']}#{name}"] = f"func({params}){end}"
    return found


def test_the_tables_say_what_wasm_tools_finds_where_it_is_installed() -> None:
    program = wasm_tools()
    assert program is None or functions_by_wasm_tools(program) == table()


# -- the tables themselves ----------------------------------------------------------------------------------------


def test_every_interface_that_can_be_imported_is_granted_always_or_by_a_name() -> None:
    assert set(IMPORTS) == ALWAYS_GRANTED | set(GRANTED_BY_NAME.values())
    assert not ALWAYS_GRANTED & set(GRANTED_BY_NAME.values())


def test_the_names_that_are_picked_out_are_names_of_functions() -> None:
    assert set(table()) >= BLOCKING
    assert INIT in EXPORTS


def parts_of(kind: WitType | None) -> list[WitType]:
    match kind:
        case None:
            return []
        case List():
            inside = parts_of(kind.element)
        case Option():
            inside = parts_of(kind.some)
        case Result():
            inside = parts_of(kind.ok) + parts_of(kind.err)
        case Record():
            inside = [part for _, field in kind.fields for part in parts_of(field)]
        case _:
            inside = []
    return [kind, *inside]


def test_records_and_enums_bear_the_names_that_wit_gives_them() -> None:
    written = "".join(path.read_text(encoding="utf-8") for path in WIT.glob("*.wit"))
    named = {
        (type(part).__name__.lower(), part.name)
        for functions in IMPORTS.values()
        for function in functions.values()
        for kind in (*function.types, function.result)
        for part in parts_of(kind)
        if isinstance(part, Record | Enum)
    }
    assert named == set(re.findall(r"^\s*(record|enum) ([\w-]+) \{", written, re.MULTILINE))
