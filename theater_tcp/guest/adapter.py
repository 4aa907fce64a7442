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

What comes behind the guest, and needs its memory, is in the entrance (:mod:`theater_tcp.guest.entrance`), which puts
its functions into a table of the adapter. Of the stage, which is explained there, the adapter looks at two words.

While ``cabi_realloc`` or a post-return function runs, every import traps: the canonical ABI forbids these calls, and
a guest that made one could take a block for another.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from theater_tcp.guest.stage import DIRECT, READY, STAGE

__all__ = ["DONE", "MODULE", "SLOTS", "STAGED", "WAIT", "Import", "adapter_text"]

MODULE = "theater:host"
"""The module name of what the host defines for the adapter."""

DONE = -1
"""The host's answer: nothing more is needed."""

WAIT = -2
"""The host's answer: it has to wait."""

STAGED = 1 << 62
"""The host's answer: it is data, and on the stage."""

SLOTS = {name: slot for slot, name in enumerate(("arguments", "block", "realloc", "send", "take", "export", "post"))}
"""Which place of the adapter's table is for what. The first is the adapter's own; the next four are filled when there
is an entrance, the last two when an export is entered."""

_TABLE = f'(table $functions (export "functions") {len(SLOTS)} funcref)'


class Import(NamedTuple):
    """A function that a guest imports.

    Args:
        module, name: by which it is imported.
        params: core types as ``("i32", "i32", "i64")``; the last is the address of the result where ``asks``.
        result: the core type of what it returns, if anything.
        asks: whether its result goes into memory, so that the host may need blocks.
        block: the number by which ``block`` knows it, where a call has to wait. Where it ``receives``, the stage says
            whether one has to.
    """

    module: str
    name: str
    params: tuple[str, ...]
    result: str | None
    asks: bool
    block: int | None

    @property
    def receives(self) -> bool:
        """Whether it is asked for data, which may be there already."""
        return self.name == "receive"

    @property
    def sends(self) -> bool:
        """Whether it is passed data for a peer, in the way that the entrance knows."""
        return self.name == "send"

    @property
    def host_name(self) -> str:
        """The name under which the host defines it."""
        return f"{self.module}#{self.name}"


def adapter_text(imports: Iterable[Import]) -> str:
    """The adapter in WebAssembly's text format.

    It exports the import number n as ``n``, and for the entrance its table and the flag ``inside``.
    """
    imports = tuple(imports)
    asked = [
        (number, function) for number, function in enumerate(imports) if function.block is None or function.receives
    ]
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
    result = f"(local.get {len(function.params) - 1})"
    asking = f"(call $host{number} {passed})"
    if function.sends:
        head += (
            f"\n    (if (i32.load offset={DIRECT} (i32.const 0)) (then"
            f"\n      (if (call_indirect $functions (type $send) {passed} {_slot('send')}) (then (return)))))"
        )
    if function.block is None:
        return f"{head}\n    (call $settle {asking} {result}))" if function.asks else f"{head}\n    {asking})"
    filled = " ".join("(i32.const 0)" for _ in range(5 - len(function.params)))
    blocking = (
        f"(call_indirect $functions (type $block) (i32.const {function.block}) {passed} {filled} {_slot('block')})"
    )
    if function.receives:
        blocking = (
            f"(if (result i64) (i32.load offset={READY} (i32.const 0))\n      (then {asking})\n      (else {blocking}))"
        )
    return f"{head}\n    (call $settle {blocking} {result}))"


def _slot(name: str) -> str:
    return f"(i32.const {SLOTS[name]})"


_MIDDLE = f"""\
  (import "{MODULE}" "place" (func $place (param i32) (result i64)))
  (import "{MODULE}" "arguments" (func $arguments (param i32 i32)))
  (import "{MODULE}" "{STAGE.name}" {STAGE.type("$stage")})
  (type $block (func (param i32 i32 i32 i32 i32 i32) (result i64)))
  (type $realloc (func (param i32 i32 i32 i32) (result i32)))
  (type $send (func (param i32 i32 i32 i32 i32) (result i32)))
  (type $take (func (param i32)))
  {_TABLE}
  (elem (table $functions) {_slot("arguments")} func $arguments)
  (global $inside (export "inside") (mut i32) (i32.const 0)) (; whether the guest may not leave now ;)
  (func $a_guest_may_not_call_its_host_from_cabi_realloc_or_post_return unreachable)
  (func $leave
    (if (global.get $inside) (then (call $a_guest_may_not_call_its_host_from_cabi_realloc_or_post_return))))
  (func $allocate (param $size i32) (param $alignment i32) (result i32)
    (local $address i32)
    (global.set $inside (i32.const 1))
    (local.set $address
      (call_indirect $functions (type $realloc)
        (i32.const 0) (i32.const 0) (local.get $alignment) (local.get $size) {_slot("realloc")}))
    (global.set $inside (i32.const 0))
    (local.get $address))
  (func $settle (param $answer i64) (param $result i32) (; size in the low half, alignment in the high one ;)
    (if (i64.eq (local.get $answer) (i64.const {WAIT})) (then
      (local.set $answer
        (call_indirect $functions (type $block)
          (i32.const -1) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) {_slot("block")}))))
    (block $done
      (loop $more
        (br_if $done (i64.lt_s (local.get $answer) (i64.const 0)))
        (if (i64.eq (local.get $answer) (i64.const {STAGED})) (then
          (call_indirect $functions (type $take) (local.get $result) {_slot("take")})
          (return)))
        (local.set $answer
          (call $place
            (call $allocate
              (i32.wrap_i64 (local.get $answer))
              (i32.wrap_i64 (i64.shr_u (local.get $answer) (i64.const 32))))))
        (br $more))))"""
