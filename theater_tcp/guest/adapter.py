"""The small module that stands between a guest and its host: the text of it, made for the imports of one guest.

A host function can't call back into the guest that called it: a store whose guests may be suspended refuses that. But
the canonical ABI wants results in memory that the *guest* allocates (``cabi_realloc``). So a guest's imports are
functions of this adapter, which runs in the same store. It asks the host, and where the host's answer is that it needs
a block of memory, has the guest allocate it and tells the host the address, until the host needs no more.

::

    guest ── import ──> adapter ── ask ──> host              answer: DONE, or size and alignment of a block
                           │  cabi_realloc (guest)
                           └── place ──> host                the same again
                           └── block (suspends) ──> host     where the answer is WAIT, or always has to be waited for

    host ── enter ──> adapter                                one call on one fiber for all of:
                           │  post-return of the call before (guest)
                           │  cabi_realloc for each argument (guest)
                           └── arguments ──> host         writes them
                           │  the export (guest)

The post-return function of a call runs when the guest is entered the next time: by then the host has read the result,
and no entry of its own is spent on it.

While ``cabi_realloc`` or a post-return function runs, every import traps: the canonical ABI forbids these calls, and
a guest that made one could take a block for another.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

__all__ = ["ARGUMENTS", "DONE", "MODULE", "WAIT", "Import", "adapter_text"]

MODULE = "theater:host"
"""The module name of what the host defines for the adapter."""

DONE = -1
"""The host's answer: nothing more is needed."""

WAIT = -2
"""The host's answer: it has to wait."""

ARGUMENTS = 11
"""What ``enter`` takes: the functions ``block``, ``cabi_realloc``, the export and its post-return function; the result
of the call before; then size, alignment and length of both arguments, the second's size negative where there is no
second."""


class Import(NamedTuple):
    """A function that a guest imports.

    Args:
        module, name: by which it is imported.
        params: core types as ``("i32", "i32", "i64")``; the last is the address of the result where ``asks``.
        result: the core type of what it returns, if anything.
        asks: whether its result goes into memory, so that the host may need blocks.
        block: the number by which ``block`` knows it, where every call has to wait.
    """

    module: str
    name: str
    params: tuple[str, ...]
    result: str | None
    asks: bool
    block: int | None

    @property
    def host_name(self) -> str:
        """The name under which the host defines it."""
        return f"{self.module}#{self.name}"


def adapter_text(imports: Iterable[Import]) -> str:
    """The adapter in WebAssembly's text format; it exports the import number n as ``n``, and ``enter`` and ``call``."""
    imports = tuple(imports)
    asked = [(number, function) for number, function in enumerate(imports) if function.block is None]
    lines = ["(module $theater"]
    for number, function in asked:
        signature = _signature(function.params, "i64" if function.asks else function.result)
        lines.append(f'  (import "{MODULE}" "{function.host_name}" (func $host{number} {signature}))')
    lines.append(_MIDDLE)
    for number, function in enumerate(imports):
        lines.append(_thunk(number, function))
    lines.append(")")
    return "\n".join(lines)


def _signature(params: tuple[str, ...], result: str | None) -> str:
    taken = f"(param {' '.join(params)})" if params else ""
    return f"{taken} (result {result})" if result else taken


def _thunk(number: int, function: Import) -> str:
    passed = " ".join(f"(local.get {index})" for index in range(len(function.params)))
    head = (
        f'  (func ${function.name}-{number} (export "{number}")'
        f" {_signature(function.params, None if function.asks else function.result)}\n    (call $leave)"
    )
    if function.block is not None:
        filled = " ".join("(i32.const 0)" for _ in range(5 - len(function.params)))
        return (
            f"{head}\n    (call $settle (call_indirect $functions (type $block)"
            f" (i32.const {function.block}) {passed} {filled} (i32.const 0))))"
        )
    call = f"(call $host{number} {passed})"
    return f"{head}\n    (call $settle {call}))" if function.asks else f"{head}\n    {call})"


_MIDDLE = f"""\
  (import "{MODULE}" "place" (func $place (param i32) (result i64)))
  (import "{MODULE}" "arguments" (func $arguments (param i32 i32)))
  (type $block (func (param i32 i32 i32 i32 i32 i32) (result i64)))
  (type $realloc (func (param i32 i32 i32 i32) (result i32)))
  (type $post (func (param i32)))
  (type $export2 (func (param i32 i32) (result i32)))
  (type $export4 (func (param i32 i32 i32 i32) (result i32)))
  (type $plain (func))
  (table $functions 4 funcref) (; block, cabi_realloc, the export, its post-return ;)
  (global $inside (mut i32) (i32.const 0)) (; whether the guest may not leave now ;)
  (func $a_guest_may_not_call_its_host_from_cabi_realloc_or_post_return unreachable)
  (func $leave
    (if (global.get $inside) (then (call $a_guest_may_not_call_its_host_from_cabi_realloc_or_post_return))))
  (func $allocate (param $size i32) (param $alignment i32) (result i32)
    (local $address i32)
    (global.set $inside (i32.const 1))
    (local.set $address
      (call_indirect $functions (type $realloc)
        (i32.const 0) (i32.const 0) (local.get $alignment) (local.get $size) (i32.const 1)))
    (global.set $inside (i32.const 0))
    (local.get $address))
  (func $settle (param $answer i64) (; size in the low half, alignment in the high one ;)
    (if (i64.eq (local.get $answer) (i64.const {WAIT})) (then
      (local.set $answer
        (call_indirect $functions (type $block)
          (i32.const -1) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0)))))
    (block $done
      (loop $more
        (br_if $done (i64.lt_s (local.get $answer) (i64.const 0)))
        (local.set $answer
          (call $place
            (call $allocate
              (i32.wrap_i64 (local.get $answer))
              (i32.wrap_i64 (i64.shr_u (local.get $answer) (i64.const 32))))))
        (br $more))))
  (func $enter (export "enter")
    (param $block funcref) (param $realloc funcref) (param $export funcref) (param $post funcref)
    (param $before i32)
    (param $size i32) (param $alignment i32) (param $length i32)
    (param $size2 i32) (param $alignment2 i32) (param $length2 i32)
    (result i32)
    (local $first i32) (local $second i32)
    (table.set $functions (i32.const 0) (local.get $block))
    (table.set $functions (i32.const 1) (local.get $realloc))
    (table.set $functions (i32.const 2) (local.get $export))
    (if (i32.eqz (ref.is_null (local.get $post))) (then
      (table.set $functions (i32.const 3) (local.get $post))
      (global.set $inside (i32.const 1))
      (call_indirect $functions (type $post) (local.get $before) (i32.const 3))
      (global.set $inside (i32.const 0))))
    (local.set $first (call $allocate (local.get $size) (local.get $alignment)))
    (if (i32.lt_s (local.get $size2) (i32.const 0)) (then
      (call $arguments (local.get $first) (i32.const 0))
      (return
        (call_indirect $functions (type $export2) (local.get $first) (local.get $length) (i32.const 2)))))
    (local.set $second (call $allocate (local.get $size2) (local.get $alignment2)))
    (call $arguments (local.get $first) (local.get $second))
    (call_indirect $functions (type $export4)
      (local.get $first) (local.get $length) (local.get $second) (local.get $length2) (i32.const 2)))
  (func $call (export "call") (param $block funcref) (param $export funcref)
    (table.set $functions (i32.const 0) (local.get $block))
    (table.set $functions (i32.const 2) (local.get $export))
    (call_indirect $functions (type $plain) (i32.const 2)))"""
