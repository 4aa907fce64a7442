"""What a file is, whether it may be a guest, and what is found inside of a component."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.guests.component_texts import COMPONENT, CORE, binary, changed
from theater_tcp.guest.binary import BinaryError, kind, read_guest
from theater_tcp.guest.core_module import CoreModule
from theater_tcp.guest.wasm_reader import Reader

ROOT = Path(__file__).resolve().parents[2]
BUILT = sorted((ROOT / "actors").glob("*/*/*.wasm"))
MODULE = "(module" + CORE.split("$main", 1)[1]
INIT = "theater:simple/actor#init"
ON_DATA = "theater:simple/tcp-client#on-data"


def refused(content: bytes, *grants: str) -> str:
    """Why a file can't be a guest."""
    with pytest.raises(BinaryError) as error:
        read_guest(content, grants)
    text = str(error.value)
    assert text.isprintable()
    return text


# -- what it is -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is no WebAssembly: it is empty"),
        (b"\x7fELF\2\1\1", "is no WebAssembly: it begins with 7f 45 4c 46 (ELF)"),
        (b"\x1f\x8b\x08", "is no WebAssembly: it begins with 1f 8b 08 (gzip)"),
        (b"#!/bin/sh\n", "is no WebAssembly: it begins with 23 21 2f 62 (a script)"),
        (b"import os\n", "is no WebAssembly: it begins with 69 6d 70 6f"),
        (b"\0as", "is no WebAssembly: it begins with 00 61 73"),
        (b" \n(module)", "is WebAssembly as text; `wasm-tools parse` makes it binary"),
        (b";; mine\n(component)", "is WebAssembly as text; `wasm-tools parse` makes it binary"),
        (b"\0asm\1\0", "is truncated: it ends after 6 bytes"),
        (b"\0asm\2\0\0\0", "is core WebAssembly of version 2; the one that is known here is 1"),
        (b"\0asm\x0c\0\1\0", "is a component of version 12; the one that is known here is 13"),
    ],
)
def test_what_is_no_webassembly_is_told_by_what_it_is(content: bytes, words: str) -> None:
    assert refused(content) == words


def test_a_core_module_and_a_component_are_told_apart_by_their_first_eight_bytes() -> None:
    assert kind(binary("(module)")) == "core module"
    assert kind(binary("(component)")) == "component"


# -- core modules -----------------------------------------------------------------------------------------------------


def test_a_core_module_that_has_what_a_guest_needs_is_taken_as_it_is() -> None:
    content = binary(MODULE)
    found = read_guest(content)
    assert (found.kind, found.core, found.why_not) == ("core module", (content, {}), "")
    assert found.exports == {INIT, ON_DATA}


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('"theater:simple/runtime" "shutdown"', '"theater:simple/clock" "now"',
         "imports theater:simple/clock, which its manifest does not grant (grants: [clock])"),
        ('"theater:simple/runtime" "shutdown"', '"wasi_snapshot_preview1" "fd_write"',
         "imports wasi_snapshot_preview1, which its manifest does not grant (grants: [wasi])"),
        ('"theater:simple/runtime" "shutdown"', '"env" "abort"',
         "imports env, which its manifest does not grant"),
        ('"theater:simple/runtime" "shutdown"', '"a\\nb" "abort"',
         "imports a\\nb, which its manifest does not grant"),
        ('"shutdown"', '"stop"', "imports theater:simple/runtime#stop, which there is not"),
        ('"shutdown" (func)', '"shutdown" (func (result i32))',
         "imports theater:simple/runtime#shutdown with the type func() -> i32 and should have func()"),
        ('"send" (func (param i32 i32', '"send" (func (param i32 i64',
         "imports theater:simple/tcp#send with the type func(i32, i64, i32, i32, i32)"
         " and should have func(i32, i32, i32, i32, i32)"),
        ('"shutdown" (func)', '"shutdown" (memory 1)',
         "imports the memory theater:simple/runtime.shutdown; a guest imports functions only"),
        ('"shutdown" (func)', '"shutdown" (table 1 funcref)',
         "imports the table theater:simple/runtime.shutdown; a guest imports functions only"),
        ('"shutdown" (func)', '"shutdown" (global i32)',
         "imports the global theater:simple/runtime.shutdown; a guest imports functions only"),
        ('(export "memory")', '(export "ram")', "exports no memory of the name memory"),
        ('(export "cabi_realloc") (param i32', '(export "cabi_realloc") (param i64',
         "cabi_realloc has the type func(i64, i32, i32, i32) -> i32 and should have func(i32, i32, i32, i32) -> i32"),
        ('"cabi_realloc"', '"realloc"', "does not export cabi_realloc"),
        ('"_initialize")', '"_initialize") (param f64)',
         "_initialize has the type func(f64) and should have func()"),
        (f'"{INIT}"', '"init"', f"does not export {INIT}"),
        (f'"{ON_DATA}") (param i32 i32 i32', f'"{ON_DATA}") (param i32',
         f"{ON_DATA} has the type func(i32, i32) -> i32 and should have func(i32, i32, i32, i32) -> i32"),
        (f'"cabi_post_{ON_DATA}") (param i32)', f'"cabi_post_{ON_DATA}")',
         f"cabi_post_{ON_DATA} has the type func() and should have func(i32)"),
        (f'(func (export "{ON_DATA}") (param i32 i32 i32 i32) (result i32) i32.const 64)',
         f'(global (export "{ON_DATA}") i32 i32.const 1)',
         f"{ON_DATA} has the type of something else and should have func(i32, i32, i32, i32) -> i32"),
        (f'"{ON_DATA}"', '"theater:simple/tcp-client#on-dta"',
         "exports theater:simple/tcp-client#on-dta, which there is not"),
    ],
)  # fmt: skip
def test_a_core_module_that_can_not_be_a_guest_is_refused_in_words(old: str, new: str, words: str) -> None:
    text = changed(MODULE, (old, new))
    if "memory 1" in new:
        text = changed(text, ('(memory (export "memory") 1)', '(export "memory" (memory 0))'))
    assert refused(binary(text)) == words


def test_all_interfaces_that_are_not_granted_are_named_at_once() -> None:
    imports = "".join(f'(import "{name}" "f" (func))' for name in ("a", "theater:simple/clock", "b", "a", "c", "d"))
    assert refused(binary(f"(module {imports})")) == (
        "imports a, theater:simple/clock, b, c and 1 more, which its manifest does not grant"
    )


def test_what_is_granted_may_be_imported() -> None:
    text = changed(
        MODULE, ('"theater:simple/runtime" "shutdown" (func)', '"theater:simple/clock" "now" (func (result i64))')
    )
    assert read_guest(binary(text), ("clock",)).exports
    text = changed(MODULE, ('"theater:simple/runtime" "shutdown"', '"wasi_snapshot_preview1" "sched_yield"'))
    assert read_guest(binary(text), ("wasi",)).exports


def test_a_module_with_types_of_every_form_is_read() -> None:
    types = """(rec (type $a (sub (struct (field (mut i8)) (field (ref null $b))))) (type $b (array (mut i16))))
        (type (sub final $a (struct (field i8) (field (ref null $b)) (field f32))))
        (type (func (param v128 externref (ref null $a)) (result funcref anyref)))"""
    imports = """(import "m" "t" (table 1 2 funcref)) (import "m" "g" (global (mut i64))) (import "m" "e" (tag))
        (import "m" "n" (memory 1 2))"""
    content = bytes(binary(f'(module {types} {imports} (func (export "f") (param i64)))'))
    module = CoreModule(Reader(content, 0, len(content)))
    assert [each.kind for each in module.imports] == ["table", "global", "tag", "memory"]
    assert str(module.exports["f"].type) == "func(i64)"


# -- the core module inside of a component ----------------------------------------------------------------------------


def test_the_core_module_of_a_component_is_found_with_the_encoding_of_each_function() -> None:
    found = read_guest(binary(COMPONENT))
    assert (found.kind, found.why_not) == ("component", "")
    assert found.exports == {INIT, ON_DATA}
    assert found.core is not None
    assert found.core.encodings == {
        "theater:simple/tcp#send": "utf8",
        "theater:simple/tcp#receive": "utf16",
        "theater:simple/runtime#shutdown": "utf8",
        INIT: "utf8",
        ON_DATA: "latin1+utf16",
    }
    inside = CoreModule(Reader(found.core.module, 0, len(found.core.module)))
    assert set(inside.exports) == {"memory", "_initialize", "cabi_realloc", INIT, ON_DATA, f"cabi_post_{ON_DATA}"}


@pytest.mark.parametrize("path", BUILT, ids=["/".join(path.parts[-3:]) for path in BUILT])
def test_every_guest_of_this_project_can_take_the_fast_road(path: Path) -> None:
    found = read_guest(path.read_bytes(), ("clock",))
    assert (found.why_not, INIT in found.exports) == ("", True)


FIXUP_START = ("(start $initialize)", "")
SECOND = '(core module $second (memory (export "memory") 1)) (core instance $second (instantiate $second))'
STRANGE_TABLE = "has a table that is filled in a way which is not known here"


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ([("(core instance $shim (inst", f"{SECOND} (core instance $shim (inst")],
         "has 2 core modules that do its work, 2 of them with a memory"),
        ([("(core instance $shim (inst", '(core module $n (func (export "f") nop)) (core instance (instantiate $n))'
           " (core instance $shim (inst"), ],
         "has 2 core modules that do its work, 1 of them with a memory"),
        ([FIXUP_START], "has a start of its own"),
        ([('(func (export "_initialize"))', '(func (export "_initialize")) (func (export "_start"))'),
          ('"main" "_initialize"', '"main" "_start"')],
         "has a start of its own"),
        ([("func $0 $1)", "func $0)")], "has a trampoline that leads nowhere"),
        ([("(elem (i32.const 0) func $0 $1)", "(elem (i32.const 0) func $0 $1) (elem (i32.const 1) func $1)")],
         STRANGE_TABLE),
        ([("(elem (i32.const 0) func $0 $1)", "(elem (i32.const 0) funcref (ref.func $0) (ref.func $1))")],
         STRANGE_TABLE),
        ([("(elem (i32.const 0) func $0 $1)", "(elem (i32.const 0) func $1 $0)")],
         "has a core module that is given something else as theater:simple/tcp#send"),
        ([("i32.const 1 call_indirect", "i32.const 0 i32.const 1 i32.add call_indirect")],
         STRANGE_TABLE),
        ([("local.get 3 local.get 4 i32.const 0", "local.get 4 local.get 3 i32.const 0")],
         STRANGE_TABLE),
        ([('(export "receive" (func $shim-receive))', '(export "receive" (func $realloc-2))'),
          ("(core instance $tcp-core", '(core module $helper (func (export "f") (param i32 i32 i32 i32)))'
           ' (core instance $helper (instantiate $helper)) (alias core export $helper "f" (core func $realloc-2))'
           " (core instance $tcp-core")],
         "has 2 core modules that do its work, 1 of them with a memory"),
        ([("canon lower (func $receive)", "canon lower (func $other)"),
          ('(alias export $tcp "send" (func $send))',
           '(alias export $tcp "send" (func $send)) (alias export $tcp "other" (func $other))'),
          ('(export "receive" (func (param "connection-id" string) (param "max-bytes" u32)',
           '(export "other" (func (param "connection-id" string) (param "max-bytes" u32)\n'
           ' (result (result $data (error string)))))\n'
           '(export "receive" (func (param "connection-id" string) (param "max-bytes" u32)')],
         None),
        ([('core export $main "memory"', 'core export $main "memory-2"'),
          ('(memory (export "memory") 1)', '(memory (export "memory") (export "memory-2") 1)')],
         "has another memory than its core module's 'memory'"),
        ([('core export $main "cabi_realloc"', 'core export $main "realloc"'),
          ('"cabi_realloc") (param', '"cabi_realloc") (export "realloc") (param')],
         "allocates by another function than its core module's 'cabi_realloc'"),
        ([('core export $main "theater:simple/actor#init"', 'core export $main "init"'),
          ('(export "theater:simple/actor#init") (param', '(export "init") (param')],
         f"has another name in its core module for {INIT}"),
        ([("\n    string-encoding=latin1+utf16 (post-return $post)", "")],
         f"has cabi_post_{ON_DATA} in its core module, and does not use it"),
        ([(f'core export $main "cabi_post_{ON_DATA}"', 'core export $main "post"'),
          (f'"cabi_post_{ON_DATA}") (param', '"post") (param')],
         f"has another name in its core module for cabi_post_{ON_DATA}"),
        ([('(export "theater:simple/tcp-client" (instance $client))', "")],
         f"has a core module with {ON_DATA}, and does not export that"),
        ([("(type $bytes (list u8))\n  (type $done", f"(component $in {CORE}) (type $bytes (list u8))\n  (type $done")],
         ""),
        ([("(type $bytes (list u8))\n  (type $done", "(component $in (core module)) (instance (instantiate $in))"
           " (type $bytes (list u8))\n  (type $done")],
         "has a component inside of it that does work of its own"),
    ],
)  # fmt: skip
def test_a_component_that_is_put_together_otherwise_takes_the_other_road(
    changes: list[tuple[str, str]], why: str | None
) -> None:
    content = binary(changed(COMPONENT, *changes))
    if why is None:
        assert refused(content) == "imports theater:simple/tcp#other, which there is not"
    else:
        found = read_guest(content)
        assert (found.why_not, found.core is None) == (why, why != "")
        assert INIT in found.exports


# -- components that can't be guests ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ([('"theater:simple/runtime" (instance $runtime', '"wasi:cli/exit@0.2.3" (instance $runtime'),
          ('"theater:simple/runtime" "shutdown" (func))', '"theater:simple/runtime" "shutdown" (func))')],
         "imports wasi:cli/exit@0.2.3, which its manifest does not grant (grants: [wasi])"),
        ([('(import "theater:simple/runtime"', '(import "log" (func)) (import "theater:simple/runtime"')],
         "imports log, which its manifest does not grant"),
        ([('(export "shutdown" (func))', '(export "shutdown" (func)) (export "stop" (func))')],
         "imports theater:simple/runtime#stop, which there is not"),
        ([('(param "max-bytes" u32)', '(param "max-bytes" u64)'),
          ('"receive" (func (param i32 i32 i32 i32))', '"receive" (func (param i32 i32 i64 i32))'),
          ("$receive (func (param i32 i32 i32 i32))", "$receive (func (param i32 i32 i64 i32))"),
          ("(func $1 (param i32 i32 i32 i32))", "(func $1 (param i32 i32 i64 i32))")],
         "imports theater:simple/tcp#receive with the type func(connection-id: string, max-bytes: u64) ->"
         " result<list<u8>, string> and should have func(connection-id: string, max-bytes: u32) ->"
         " result<list<u8>, string>"),
        ([('(param "config" $bytes)', '(param "config" string)')],
         f"{INIT} has the type func(config: string) -> result<_, string> and should have"
         " func(config: list<u8>) -> result<_, string>"),
        ([('(export "theater:simple/actor" (instance $actor))', "")], "does not export theater:simple/actor"),
        ([('(export "theater:simple/actor" (instance $actor))', '(export "theater:simple/actor" (func $init))')],
         "does not export theater:simple/actor"),
    ],
)  # fmt: skip
def test_a_component_that_can_not_be_a_guest_is_refused_in_words(changes: list[tuple[str, str]], words: str) -> None:
    assert refused(binary(changed(COMPONENT, *changes))) == words


def test_an_interface_that_is_imported_as_something_else_is_refused() -> None:
    assert refused(binary('(component (import "theater:simple/tcp" (func)))')) == (
        "imports theater:simple/tcp as a func; it is an instance"
    )


def test_parameters_may_have_other_names() -> None:
    renamed = changed(COMPONENT, ('"config"', '"settings"'), ('"max-bytes"', '"most"'))
    assert read_guest(binary(renamed)).core is not None


EVERY_TYPE = """
  (component
    (import "i" (instance $i
      (type $enum (enum "one" "two"))
      (export "e" (type $e (eq $enum)))
      (type $record (record (field "a" $e) (field "b" (tuple u8 s16 f32))))
      (export "r" (type $r (eq $record)))
      (type $variant (variant (case "none") (case "some" (list char))))
      (export "v" (type $v (eq $variant)))
      (type $flags (flags "x" "y"))
      (export "f" (type $f (eq $flags)))
      (export "thing" (type $thing (sub resource)))
      (export "call" (func (param "r" $r) (param "v" (option $v)) (param "f" $f) (param "t" (own $thing))
        (param "u" (borrow $thing)) (result (result (result s64) (error (result))))))
    ))
    (alias export $i "r" (type $r))
    (type (instance (alias outer 1 $r (type $again)) (export "x" (func (param "r" $again)))))
    (type (component (import "y" (instance (export "z" (func)))) (export "w" (func))))
  )"""


def test_types_are_spelled_out() -> None:
    found = refused(binary(changed(EVERY_TYPE, ('"i"', '"theater:simple/runtime"'), ('"call"', '"log"'))))
    assert found == (
        "imports theater:simple/runtime#log with the type"
        " func(r: record { a: enum { one, two }, b: tuple<u8, s16, f32> },"
        " v: option<variant { none, some(list<char>) }>, f: flags { x, y }, t: own<resource>,"
        " u: borrow<resource>) -> result<result<s64>, result>"
        " and should have func(level: enum { debug, info, warning, error }, message: string)"
    )


# -- hostile bytes ----------------------------------------------------------------------------------------------------

FILES = [binary(COMPONENT), binary(MODULE), binary(EVERY_TYPE)]


def leb(number: int) -> bytes:
    """A number in LEB128 that is the same with and without a sign."""
    encoded = bytearray()
    while number > 0x3F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*encoded, number])


def section(number: int, content: bytes) -> bytes:
    return bytes((number,)) + leb(len(content)) + content


@settings(max_examples=200)
@given(st.sampled_from(FILES), st.data())
def test_a_damaged_file_is_refused_or_read_and_nothing_else(file: bytes, data: st.DataObject) -> None:
    content = bytearray(file)
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(content)))
        length = data.draw(st.integers(0, 4))
        content[place : place + length] = data.draw(st.binary(max_size=6))
    with suppress(BinaryError):
        read_guest(bytes(content), ("clock", "wasi"))


@given(st.sampled_from(FILES), st.binary(max_size=60))
def test_no_bytes_behind_a_preamble_raise_anything_else(file: bytes, content: bytes) -> None:
    with suppress(BinaryError):
        read_guest(file[:8] + content)


@pytest.mark.parametrize("file", FILES, ids=["component", "module", "types"])
def test_a_file_that_ends_too_early_is_never_a_guest(file: bytes) -> None:
    behind_sections = {part.end for _, part in Reader(file, 8, len(file)).sections()} | {8}
    for size in set(range(len(file))) - behind_sections:
        assert "is truncated" in refused(file[:size]) or size < 4


def test_a_module_that_ends_behind_one_of_its_sections_is_no_guest_either() -> None:
    file = binary(MODULE)
    ends = [part.end for _, part in Reader(file, 8, len(file)).sections()]
    assert refused(file[: ends[-2]]) == "is truncated: it announces 5 functions and has 0"
    for size in [8, *ends[:-1]]:
        refused(file[:size])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (section(1, b"\xff\xff\xff\xff\x0f"), "4294967295 items at byte 0xa, in 0 bytes"),
        (section(1, b"\xff\xff\xff\xff\x1f"), "the number at byte 0xa is too large"),
        (section(1, b"\xff\xff\xff\xff\xff\1"), "the number at byte 0xa is too long"),
        (b"\1\x7f", "127 bytes are announced at byte 0x9, and 0 follow"),
        (section(2, b"\1\1\xff\1a\0\0"), "the name at byte 0xb is not UTF-8"),
        (section(2, b"\1\1a\1a\0\5"), "there is no type 5 of a function"),
        (section(2, b"\1\1a\1a\x09\0"), "something of the kind 0x9, which is not known here"),
        (section(1, b"\1\x60\0\0\0"), "there is something too much at byte 0xe"),
        (section(7, b"\1\1a\0\7"), "there is no function 7"),
        (section(1, b"\1\x42"), "a type of the form 0x42, which is not known here"),
    ],
)
def test_what_is_wrong_with_a_module_is_told_with_its_place(content: bytes, words: str) -> None:
    assert words in refused(b"\0asm\1\0\0\0" + content)


COMPONENT_PREAMBLE = binary("(component)")[:8]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (section(6, b"\1\1\0\5\1a"), "there is no instance 5"),
        (section(8, b"\1\0\0\5\0\0"), "there is no core function 5"),
        (section(10, b"\1\0\1a\5\7"), "there is no type 7"),
        (section(7, b"\1\x11"), "a component type of the form 0x11, which is not known here"),
        (section(7, b"\1\x70\x51"), "a component type 0x51, which is not known here"),
        (section(6, b"\1\3\2\x7f\0"), "there is nothing 127 levels around"),
        (section(11, b"\1\0\1a\1\3\0"), "there is no function 3"),
    ],
)
def test_what_is_wrong_with_a_component_is_told(content: bytes, words: str) -> None:
    assert words in refused(COMPONENT_PREAMBLE + content)


def test_types_inside_of_types_and_components_inside_of_components_end_somewhere() -> None:
    types = b"\x42\0"
    for _ in range(50):
        types = b"\x42\1\1" + types
    assert refused(COMPONENT_PREAMBLE + section(7, b"\1" + types)) == "has types inside of types, more than 20 deep"
    inside = "(component)"
    for _ in range(12):
        inside = f"(component $c {inside.replace('$c', '$d')} (instance $i (instantiate 0)))"
    text = changed(
        COMPONENT, ("(type $bytes (list u8))\n  (type $done", f"{inside}\n(type $bytes (list u8))\n  (type $done")
    )
    assert read_guest(binary(text)).core is not None  # nobody instantiates it, so nobody looks


def test_a_type_that_would_be_endless_in_words_is_cut() -> None:
    doubling = b"".join(b"\x6f\2" + leb(number) * 2 for number in range(10_000))
    types = section(7, leb(10_002) + b"\x7d" + doubling + b"\x40\1\1a" + leb(10_000) + b"\1\0")
    instance = section(7, b"\1\x42\2" + b"\2\3\2\1" + leb(10_001) + b"\4\0\3log\1\0")
    imports = section(10, b"\1\0\x16theater:simple/runtime\5" + leb(10_002))
    words = refused(COMPONENT_PREAMBLE + types + instance + imports)
    assert "func(a: tuple<tuple<tuple<" in words
    assert len(words) < 3000


def test_a_component_with_a_part_that_is_not_known_here_takes_the_other_road() -> None:
    assert read_guest(FILES[0] + section(8, b"\1\x3e")).why_not == (
        "has a canonical function of the form 0x3e, which is not known here"
    )
    assert read_guest(FILES[0] + section(12, b"\0")).why_not == "has a section 0xc, which is not known here"


def test_words_for_a_type_have_no_control_characters() -> None:
    text = '(component (import "theater:simple/runtime" (instance (export "self" (func (param "a" u8))))))'
    content = binary(text).replace(b"\1a\x7d", b"\1\n\x7d")
    assert "func(\\n: u8)" in refused(content)
