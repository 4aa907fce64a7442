"""Guests for tests, as WebAssembly text that is made here: the puppet, and small ones of a few lines.

The puppet is a guest that a test moves from outside. It connects to the address in its config, and from then on

- tells the test of every callback, as a frame ``callback, length of the id, id, data``;
- does what the frames that it gets say: call any import with any core values, read and write its memory, loop, trap,
  return what it is told to return, and hold a callback until the test says that it may return.

How its ``cabi_realloc`` and its post-return functions behave is set by words in its memory, so that the same module is
well-behaved or hostile. Its config is ``c``, the bits of the callbacks to hold, and the address; or ``!`` and frames to
follow in ``init``, see :func:`script`, for a guest that lives no longer than that.
"""

from __future__ import annotations

import functools
import struct
from enum import IntEnum
from typing import TYPE_CHECKING

import wasmtime

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "ACTOR",
    "CALLBACKS",
    "CLIENT",
    "HEAP",
    "HOSTILE_ARGUMENTS",
    "IMPORTS",
    "INTERFACE",
    "MAX_PARAMETERS",
    "OUT_OF_BOUNDS",
    "RESULT",
    "RET",
    "RET_SIZE",
    "TAIL",
    "USER",
    "Post",
    "Realloc",
    "Word",
    "call_frame",
    "guest",
    "puppet",
    "puppet_text",
    "script",
    "wasm",
    "write_frame",
]

INTERFACE = "theater:simple"
ACTOR = f"{INTERFACE}/actor"
CLIENT = f"{INTERFACE}/tcp-client"

CALLBACKS = ("init", "handle-connection", "handle-connection-transfer", "on-data", "on-passive", "on-close")
"""The exports; the number of a callback is its place here."""

TWO_ARGUMENTS = ("on-data", "on-close")

IMPORTS: dict[str, tuple[str, str | None]] = {
    "tcp#connect": ("i32 i32 i32", None),
    "tcp#listen": ("i32 i32 i32", None),
    "tcp#accept": ("i32 i32 i32", None),
    "tcp#activate": ("i32 i32 i32", None),
    "tcp#set-active": ("i32 i32 i32 i32 i32", None),
    "tcp#transfer": ("i32 i32 i32 i32 i32", None),
    "tcp#peer-address": ("i32 i32 i32", None),
    "tcp#send": ("i32 i32 i32 i32 i32", None),
    "tcp#receive": ("i32 i32 i32 i32", None),
    "tcp#close": ("i32 i32 i32", None),
    "tcp#close-listener": ("i32 i32 i32", None),
    "tcp#upgrade-to-tls-server": ("i32 i32 i32", None),
    "tcp#upgrade-to-tls-client": ("i32 i32 i32 i32 i32", None),
    "tcp-ext#local-address": ("i32 i32 i32", None),
    "tcp-ext#listener-address": ("i32 i32 i32", None),
    "tcp-ext#shutdown-write": ("i32 i32 i32", None),
    "tcp-ext#abort": ("i32 i32 i32", None),
    "tcp-ext#set-framing": ("i32 i32 i32 i32 i32 i32", None),
    "tcp-ext#set-option": ("i32 i32 i32 i32 i32 i32 i32", None),
    "tcp-ext#tls-info": ("i32 i32 i32", None),
    "tcp-ext#tls-available": ("i32 i32 i32", None),
    "runtime#log": ("i32 i32 i32", None),
    "runtime#self": ("i32", None),
    "runtime#shutdown": ("", None),
    "clock#now": ("", "i64"),
}
"""What a guest may import: the core types of its parameters and of its result, written down apart from the host's."""

NUMBERS = {name: number for number, name in enumerate(IMPORTS)}
"""By which number a puppet knows its imports."""

MAX_PARAMETERS = 7
TAIL = 3 + 4 * MAX_PARAMETERS

# Where things are in the puppet's memory.
RET = 0x100
"""Where the puppet's imports put their results."""
RET_SIZE = 96
RESULT = 0x180
"""Where the puppet's exports put theirs."""
HOSTILE_ARGUMENTS = 0x280
"""Words that a hostile ``cabi_realloc`` or post-return function calls an import with."""
USER = 0x1000
"""From here on the memory is the test's, up to HEAP."""
HEAP = 0x10000
PAGES = 2

OUT_OF_BOUNDS = 0xFFFF_FFF0
"""An address that no guest here has."""


class Word(IntEnum):
    """Addresses of the words that say how the puppet behaves."""

    REALLOC = 0x40
    REALLOC_VALUE = 0x44
    REALLOC_SKIP = 0x48
    POST = 0x4C
    HOLD = 0x50
    STATE = 0x58


class Realloc(IntEnum):
    """What ``cabi_realloc`` does, after ``REALLOC_SKIP`` calls in which it behaves."""

    ALLOCATE = 0
    GIVE_VALUE = 1
    TRAP = 2
    CALL_IMPORT = 3
    LOOP = 4
    GROW_FIRST = 5
    UNALIGNED = 6
    RECURSE = 7
    BLOCK = 8


class Post(IntEnum):
    """What a post-return function does."""

    FREE = 0
    TRAP = 1
    CALL_IMPORT = 2
    LOOP = 3
    GROW = 4
    RECURSE = 5
    BLOCK = 6


def wasm(text: str) -> bytes:
    """The binary form of a module's text."""
    return bytes(wasmtime.wat2wasm(text))


def guest(
    *,
    imports: Iterable[str] = (),
    exports: str = "",
    init: str = "(i32.const 0x100)",
    allocate: str = "(i32.const 0x400)",
    memory: str = '(memory (export "memory") 1)',
    more: str = "",
) -> bytes:
    """A small guest, whose ``init`` returns ok unless it is told otherwise.

    Args:
        imports: keys of :data:`IMPORTS`; ``tcp#send`` is called as ``$tcp#send``.
        exports: more exports, as text.
        init: the body of ``init``, with the config's address and length as the locals 0 and 1.
        allocate: the body of ``cabi_realloc``.
        memory: its memory.
        more: other parts of the module.
    """
    return wasm(
        "(module\n"
        + "\n".join(map(_import, imports))
        + f"""
  {memory}
  {more}
  (func $init (export "{ACTOR}#init") (param i32 i32) (result i32) {init})
  (func $allocate (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) {allocate})
  {exports})"""
    )


def _import(name: str) -> str:
    interface, _, function = name.partition("#")
    params, result = IMPORTS[name]
    given = f" (result {result})" if result else ""
    taken = f" (param {params})" if params else ""
    return f'  (import "{INTERFACE}/{interface}" "{function}" (func ${name}{taken}{given}))'


def _text(address: int, text: str, unit: int) -> str:
    data = text.encode("utf-16-le" if unit == 2 else "ascii")
    return f'(data (i32.const {address:#x}) "{"".join(f"{chr(92)}{byte:02x}" for byte in data)}")'


def _dispatch(names: list[str]) -> str:
    lines = ["(func $dispatch (param $function i32) (param $at i32) (result i64)"]
    for number, name in enumerate(names):
        params, result = IMPORTS[name]
        given = " ".join(f"(i32.load offset={4 * n} align=1 (local.get $at))" for n in range(len(params.split())))
        call = f"(call ${name} {given})"
        answer = f"(return {call})" if result else f"{call} (return (i64.const 0))"
        lines.append(f"(if (i32.eq (local.get $function) (i32.const {number})) (then {answer}))")
    return "\n    ".join(lines) + "\n    unreachable)"


def _callbacks(without: Iterable[str]) -> str:
    parts = []
    for number, name in enumerate(CALLBACKS[1:], 1):
        if name in without:
            continue
        params, data = ("i32 i32", "(i32.const 0) (i32.const 0)")
        if name in TWO_ARGUMENTS:
            params, data = ("i32 i32 i32 i32", "(local.get 2) (local.get 3)")
        before = ""
        if name.startswith("handle-connection"):
            before = f"""
    (i32.store (i32.const {Word.STATE}) (i32.add (i32.load (i32.const {Word.STATE})) (i32.const 1)))"""
        if name == "on-data":
            before = """
    (if (call $is_control (local.get 0) (local.get 1)) (then (return (call $told (local.get 2) (local.get 3)))))"""
        if name == "on-close":
            before = """
    (if (call $is_control (local.get 0) (local.get 1)) (then (return (call $ok))))"""
        parts.append(f"""
  (func (export "{CLIENT}#{name}") (param {params}) (result i32){before}
    (call $event (i32.const {number}) (local.get 0) (local.get 1) {data}))
  (func (export "cabi_post_{CLIENT}#{name}") (param i32) (call $post))""")
    return "".join(parts)


def puppet_text(names: Iterable[str] | None = None, without: Iterable[str] = (), unit: int = 1) -> str:
    """The puppet.

    Args:
        names: what it imports; by default everything but the clock. ``tcp#connect``, ``tcp#send``, ``tcp#receive``,
            ``tcp#set-active`` and ``tcp-ext#set-framing`` it needs.
        without: callbacks that it does not export.
        unit: bytes of a code unit in its texts, 2 for UTF-16.
    """
    imported = list(names) if names is not None else [name for name in IMPORTS if name != "clock#now"]
    fixed = [(0xA0, "length-4"), (0xB0, "once"), (0xC0, "passive")]
    return f"""(module
{chr(10).join(map(_import, imported))}
  (memory (export "memory") {PAGES})
  (table $table (export "table") 1 funcref)
  (type $nothing (func))
  (global $heap (mut i32) (i32.const {HEAP}))
  (global $out (mut i32) (i32.const 0)) (; what the callback under way is to return ;)
  (global $id_length (mut i32) (i32.const 0)) (; of the control connection's id, which is at 0x200 ;)
  {" ".join(_text(address, text, unit) for address, text in fixed)}

  (func $ok (result i32)
    (i32.store8 (i32.const {RESULT}) (i32.const 0))
    (i32.const {RESULT}))

  (func $loop_forever (loop $again (br $again)))

  (func $recurse (param i32) (result i32)
    (i32.add (call $recurse (i32.add (local.get 0) (i32.const 1))) (i32.const 1)))

  (func $take (param $alignment i32) (param $size i32) (result i32)
    (local $at i32) (local $end i64) (local $pages i64)
    (local.set $at
      (i32.and
        (i32.add (global.get $heap) (i32.sub (local.get $alignment) (i32.const 1)))
        (i32.sub (i32.const 0) (local.get $alignment))))
    (local.set $end (i64.add (i64.extend_i32_u (local.get $at)) (i64.extend_i32_u (local.get $size))))
    (local.set $pages
      (i64.sub
        (i64.shr_u (i64.add (local.get $end) (i64.const 65535)) (i64.const 16))
        (i64.extend_i32_u (memory.size))))
    (if (i64.gt_s (local.get $pages) (i64.const 0)) (then
      (if (i32.eq (memory.grow (i32.wrap_i64 (local.get $pages))) (i32.const -1)) (then unreachable))))
    (global.set $heap (i32.wrap_i64 (local.get $end)))
    (local.get $at))

  (func $allocate (export "cabi_realloc")
    (param $old i32) (param $old_size i32) (param $alignment i32) (param $size i32) (result i32)
    (local $mode i32)
    (if (i32.load (i32.const {Word.REALLOC_SKIP})) (then
      (i32.store (i32.const {Word.REALLOC_SKIP})
        (i32.sub (i32.load (i32.const {Word.REALLOC_SKIP})) (i32.const 1)))
      (return (call $take (local.get $alignment) (local.get $size)))))
    (local.set $mode (i32.load (i32.const {Word.REALLOC})))
    (if (i32.eq (local.get $mode) (i32.const {Realloc.GIVE_VALUE})) (then
      (return (i32.load (i32.const {Word.REALLOC_VALUE})))))
    (if (i32.eq (local.get $mode) (i32.const {Realloc.TRAP})) (then unreachable))
    (if (i32.eq (local.get $mode) (i32.const {Realloc.CALL_IMPORT})) (then
      (drop (call $dispatch (i32.const {imported.index("tcp#send")}) (i32.const {HOSTILE_ARGUMENTS})))))
    (if (i32.eq (local.get $mode) (i32.const {Realloc.BLOCK})) (then
      (drop (call $dispatch (i32.const {imported.index("tcp#connect")}) (i32.const {HOSTILE_ARGUMENTS})))))
    (if (i32.eq (local.get $mode) (i32.const {Realloc.LOOP})) (then (call $loop_forever)))
    (if (i32.eq (local.get $mode) (i32.const {Realloc.GROW_FIRST})) (then
      (drop (memory.grow (i32.load (i32.const {Word.REALLOC_VALUE}))))))
    (if (i32.eq (local.get $mode) (i32.const {Realloc.UNALIGNED})) (then
      (return (i32.add (call $take (i32.const 8) (i32.add (local.get $size) (i32.const 1))) (i32.const 1)))))
    (if (i32.eq (local.get $mode) (i32.const {Realloc.RECURSE})) (then (return (call $recurse (i32.const 0)))))
    (call $take (local.get $alignment) (local.get $size)))

  (func $post
    (local $mode i32)
    (global.set $heap (i32.const {HEAP}))
    (local.set $mode (i32.load (i32.const {Word.POST})))
    (if (i32.eq (local.get $mode) (i32.const {Post.TRAP})) (then unreachable))
    (if (i32.eq (local.get $mode) (i32.const {Post.CALL_IMPORT})) (then
      (drop (call $dispatch (i32.const {imported.index("tcp#send")}) (i32.const {HOSTILE_ARGUMENTS})))))
    (if (i32.eq (local.get $mode) (i32.const {Post.BLOCK})) (then
      (drop (call $dispatch (i32.const {imported.index("tcp#connect")}) (i32.const {HOSTILE_ARGUMENTS})))))
    (if (i32.eq (local.get $mode) (i32.const {Post.LOOP})) (then (call $loop_forever)))
    (if (i32.eq (local.get $mode) (i32.const {Post.GROW})) (then (drop (memory.grow (i32.const 1)))))
    (if (i32.eq (local.get $mode) (i32.const {Post.RECURSE})) (then (drop (call $recurse (i32.const 0))))))

  {_dispatch(imported)}

  (func $is_control (param $id i32) (param $length i32) (result i32)
    (local $n i32)
    (if (i32.eqz (global.get $id_length)) (then (return (i32.const 0))))
    (if (i32.ne (local.get $length) (global.get $id_length)) (then (return (i32.const 0))))
    (local.set $n (i32.mul (local.get $length) (i32.const {unit})))
    (loop $again
      (local.set $n (i32.sub (local.get $n) (i32.const 1)))
      (if (i32.ne
            (i32.load8_u (i32.add (i32.const 0x200) (local.get $n)))
            (i32.load8_u (i32.add (local.get $id) (local.get $n))))
        (then (return (i32.const 0))))
      (br_if $again (local.get $n)))
    (i32.const 1))

  (func $say (param $data i32) (param $length i32)
    (if (global.get $id_length) (then
      (call $tcp#send (i32.const 0x200) (global.get $id_length) (local.get $data) (local.get $length)
        (i32.const {RET})))))

  (func $answer (param $data i32) (param $length i32)
    (local $frame i32)
    (local.set $frame (call $take (i32.const 1) (i32.add (local.get $length) (i32.const 1))))
    (i32.store8 (local.get $frame) (i32.const 0x52))
    (memory.copy (i32.add (local.get $frame) (i32.const 1)) (local.get $data) (local.get $length))
    (call $say (local.get $frame) (i32.add (local.get $length) (i32.const 1))))

  (func $answer_number (param $value i64)
    (i64.store (i32.const 0xF8) (local.get $value))
    (call $answer (i32.const 0xF8) (i32.const {8 + RET_SIZE})))

  (func $mode (param $text i32) (param $length i32)
    (call $tcp#set-active (i32.const 0x200) (global.get $id_length) (local.get $text) (local.get $length)
      (i32.const {RET})))

  (func $event (param $kind i32) (param $id i32) (param $length i32) (param $data i32) (param $size i32) (result i32)
    (local $frame i32) (local $before i32) (local $bytes i32)
    (if (i32.eqz (global.get $id_length)) (then (return (call $ok))))
    (local.set $before (global.get $heap))
    (if (i32.eq (local.get $kind) (i32.const {CALLBACKS.index("on-close")})) (then
      (local.set $size (i32.mul (local.get $size) (i32.const {unit})))))
    (local.set $bytes (i32.mul (local.get $length) (i32.const {unit})))
    (local.set $frame
      (call $take (i32.const 1) (i32.add (i32.const 2) (i32.add (local.get $bytes) (local.get $size)))))
    (i32.store8 (local.get $frame) (i32.add (i32.const 0x30) (local.get $kind)))
    (i32.store8 offset=1 (local.get $frame) (local.get $bytes))
    (memory.copy (i32.add (local.get $frame) (i32.const 2)) (local.get $id) (local.get $bytes))
    (memory.copy
      (i32.add (local.get $frame) (i32.add (i32.const 2) (local.get $bytes))) (local.get $data) (local.get $size))
    (call $say (local.get $frame) (i32.add (i32.const 2) (i32.add (local.get $bytes) (local.get $size))))
    (global.set $heap (local.get $before))
    (if (i32.eqz (i32.and
          (i32.load (i32.const {Word.HOLD})) (i32.shl (i32.const 1) (local.get $kind))))
      (then (return (call $ok))))
    (call $held))

  (func $held (result i32)
    (local $base i32)
    (local.set $base (global.get $heap))
    (call $mode (i32.const 0xC0) (i32.const 7))
    (loop $again
      (global.set $heap (local.get $base))
      (call $tcp#receive (i32.const 0x200) (global.get $id_length) (i32.const -1) (i32.const {RET}))
      (if (i32.or (i32.load8_u (i32.const {RET})) (i32.eqz (i32.load offset=8 (i32.const {RET}))))
        (then (return (call $ok))))
      (br_if $again
        (i32.eqz (call $follow (i32.load offset=4 (i32.const {RET})) (i32.load offset=8 (i32.const {RET}))))))
    (call $mode (i32.const 0xB0) (i32.const 4))
    (global.get $out))

  (func $told (param $frame i32) (param $length i32) (result i32)
    (if (i32.eqz (call $follow (local.get $frame) (local.get $length))) (then (global.set $out (call $ok))))
    (call $mode (i32.const 0xB0) (i32.const 4))
    (global.get $out))

  (; Do what a frame says; whether the callback is to return $out now. ;)
  (func $follow (param $frame i32) (param $length i32) (result i32)
    (local $what i32) (local $first i32) (local $n i32) (local $text i32) (local $count i64)
    (local.set $what (i32.load8_u (local.get $frame)))
    (if (i32.ge_u (local.get $length) (i32.const 5)) (then
      (local.set $first (i32.load offset=1 align=1 (local.get $frame)))))
    (if (i32.eq (local.get $what) (i32.const {ord("C")})) (then (; call: function, mask, 7 words, what they mean ;)
      (loop $each
        (if (i32.and
              (i32.load8_u offset=2 (local.get $frame)) (i32.shl (i32.const 1) (local.get $n)))
          (then
            (i32.store offset=3 align=1
              (i32.add (local.get $frame) (i32.mul (local.get $n) (i32.const 4)))
              (i32.add
                (local.get $frame)
                (i32.load offset=3 align=1
                  (i32.add (local.get $frame) (i32.mul (local.get $n) (i32.const 4))))))))
        (local.set $n (i32.add (local.get $n) (i32.const 1)))
        (br_if $each (i32.lt_u (local.get $n) (i32.const {MAX_PARAMETERS}))))
      (call $answer_number
        (call $dispatch (i32.load8_u offset=1 (local.get $frame)) (i32.add (local.get $frame) (i32.const 3))))
      (return (i32.const 0))))
    (if (i32.eq (local.get $what) (i32.const {ord("W")})) (then (; write: address, bytes ;)
      (memory.copy
        (local.get $first) (i32.add (local.get $frame) (i32.const 5)) (i32.sub (local.get $length) (i32.const 5)))
      (call $answer (i32.const 0) (i32.const 0))
      (return (i32.const 0))))
    (if (i32.eq (local.get $what) (i32.const {ord("R")})) (then (; read: address, length ;)
      (call $answer (local.get $first) (i32.load offset=5 align=1 (local.get $frame)))
      (return (i32.const 0))))
    (if (i32.eq (local.get $what) (i32.const {ord("F")})) (then (; fill: address, byte, length ;)
      (memory.fill
        (local.get $first)
        (i32.load offset=5 align=1 (local.get $frame))
        (i32.load offset=9 align=1 (local.get $frame)))
      (call $answer (i32.const 0) (i32.const 0))
      (return (i32.const 0))))
    (if (i32.eq (local.get $what) (i32.const {ord("G")})) (then (; grow the memory: pages ;)
      (call $answer_number (i64.extend_i32_s (memory.grow (local.get $first))))
      (return (i32.const 0))))
    (if (i32.eq (local.get $what) (i32.const {ord("B")})) (then (; grow the table: elements ;)
      (call $answer_number (i64.extend_i32_s (table.grow $table (ref.null func) (local.get $first))))
      (return (i32.const 0))))
    (if (i32.eq (local.get $what) (i32.const {ord("X")})) (then (; work: rounds ;)
      (local.set $count (i64.load offset=1 align=1 (local.get $frame)))
      (loop $round
        (local.set $count (i64.sub (local.get $count) (i64.const 1)))
        (br_if $round (i64.gt_s (local.get $count) (i64.const 0))))
      (call $answer (i32.const 0) (i32.const 0))
      (return (i32.const 0))))
    (if (i32.eq (local.get $what) (i32.const {ord("H")})) (then (; hold: the calls that follow are of one turn ;)
      (call $answer (i32.const 0) (i32.const 0))
      (global.set $out (call $held))
      (return (i32.const 1))))
    (if (i32.eq (local.get $what) (i32.const {ord("O")})) (then (; return ok ;)
      (global.set $out (call $ok))
      (return (i32.const 1))))
    (if (i32.eq (local.get $what) (i32.const {ord("E")})) (then (; return an error: its length as passed, its bytes ;)
      (i32.store8 (i32.const {RESULT}) (i32.const 1))
      (local.set $text (call $take (i32.const 2) (local.get $length)))
      (memory.copy
        (local.get $text) (i32.add (local.get $frame) (i32.const 5)) (i32.sub (local.get $length) (i32.const 5)))
      (i32.store offset=4 (i32.const {RESULT}) (local.get $text))
      (i32.store offset=8 (i32.const {RESULT}) (local.get $first))
      (global.set $out (i32.const {RESULT}))
      (return (i32.const 1))))
    (if (i32.eq (local.get $what) (i32.const {ord("P")})) (then (; return this address ;)
      (global.set $out (local.get $first))
      (return (i32.const 1))))
    (if (i32.eq (local.get $what) (i32.const {ord("T")})) (then unreachable))
    (if (i32.eq (local.get $what) (i32.const {ord("L")})) (then (call $loop_forever)))
    (if (i32.eq (local.get $what) (i32.const {ord("D")})) (then (drop (call $recurse (i32.const 0)))))
    (if (i32.eq (local.get $what) (i32.const {ord("I")})) (then
      (call_indirect $table (type $nothing) (local.get $first))))
    (if (i32.eq (local.get $what) (i32.const {ord("0")})) (then
      (drop (i32.div_u (i32.const 1) (i32.const 0)))))
    (if (i32.eq (local.get $what) (i32.const {ord("M")})) (then (drop (i32.load (local.get $first)))))
    (i32.const 0))

  (func (export "{ACTOR}#init") (param $config i32) (param $length i32) (result i32)
    (local $kind i32) (local $end i32) (local $size i32)
    (if (local.get $length) (then (local.set $kind (i32.load8_u (local.get $config)))))
    (if (i32.eq (local.get $kind) (i32.const {ord("!")})) (then
      (local.set $end (i32.add (local.get $config) (local.get $length)))
      (local.set $config (i32.add (local.get $config) (i32.const 1)))
      (block $over
        (loop $each
          (br_if $over (i32.ge_u (local.get $config) (local.get $end)))
          (local.set $size (i32.load align=1 (local.get $config)))
          (local.set $config (i32.add (local.get $config) (i32.const 4)))
          (if (call $follow (local.get $config) (local.get $size)) (then (return (global.get $out))))
          (local.set $config (i32.add (local.get $config) (local.get $size)))
          (br $each)))
      (return (call $ok))))
    (if (i32.ne (local.get $kind) (i32.const {ord("c")})) (then (return (call $ok))))
    (i32.store (i32.const {Word.HOLD}) (i32.load8_u offset=1 (local.get $config)))
    (call $tcp#connect
      (i32.add (local.get $config) (i32.const 2))
      (i32.div_u (i32.sub (local.get $length) (i32.const 2)) (i32.const {unit}))
      (i32.const {RET}))
    (if (i32.load8_u (i32.const {RET})) (then (return (i32.const {RET}))))
    (global.set $id_length (i32.load offset=8 (i32.const {RET})))
    (memory.copy (i32.const 0x200)
      (i32.load offset=4 (i32.const {RET})) (i32.mul (global.get $id_length) (i32.const {unit})))
    (call $tcp-ext#set-framing (i32.const 0x200) (global.get $id_length)
      (i32.const 0xA0) (i32.const 8) (i32.const 0) (i32.const {RET}))
    (if (i32.load8_u (i32.const {RET})) (then (return (i32.const {RET}))))
    (call $mode (i32.const 0xB0) (i32.const 4)) (; a puppet without on-data is moved while it is held ;)
    (call $event (i32.const 0) (i32.const 0x200) (global.get $id_length) (i32.const 0) (i32.const 0)))
  (func (export "cabi_post_{ACTOR}#init") (param i32) (call $post))
{_callbacks(without)})"""


def script(*frames: bytes) -> bytes:
    """The config of a puppet that does in ``init`` what frames say, and is moved by nobody."""
    return b"!" + b"".join(struct.pack("<I", len(frame)) + frame for frame in frames)


def call_frame(function: str, *words: int, mask: int = 0, tail: bytes = b"") -> bytes:
    """The frame that lets a puppet call an import.

    Args:
        function: a key of :data:`IMPORTS`.
        words: core values; what is missing is 0.
        mask: bits of the words that are offsets into the frame, whose tail begins at :data:`TAIL`.
        tail: more bytes for the frame.
    """
    padded = [*words, *[0] * (MAX_PARAMETERS - len(words))]
    return struct.pack(f"<cBB{MAX_PARAMETERS}I", b"C", NUMBERS[function], mask, *padded) + tail


def write_frame(address: int, data: bytes) -> bytes:
    """The frame that lets a puppet write into its memory."""
    return struct.pack("<cI", b"W", address) + data


@functools.cache
def puppet(names: tuple[str, ...] | None = None, without: tuple[str, ...] = (), unit: int = 1) -> bytes:
    """The puppet as a core module; see :func:`puppet_text`."""
    return wasm(puppet_text(names, without, unit))
