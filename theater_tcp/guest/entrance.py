"""The small module by which the host enters a guest: the same text for every guest.

It is instantiated behind the guest, so that it can import the guest's memory, which the adapter
(:mod:`theater_tcp.guest.adapter`), of which the guest imports, can't. So here is what copies between the guest and the
stage (:mod:`theater_tcp.guest.stage`)::

    host ── enter ──> entrance                            one call on one fiber for all of:
                         │  cabi_realloc (guest)          for each argument, which comes from the stage
                         │  the export (guest)
                         │     ├── send ──> entrance      little data for the peer that the call is about: to the stage
                         │     └── receive ──> adapter    suspended; then ``take`` brings the data from the stage
                         └── post-return (guest)          where the result is ``ok``

What is staged for a peer goes out when the guest comes out of the call, is suspended, or asks the host for anything
else: so things happen in the order in which the guest asked for them.

The post-return function of a call that returned an error runs when the guest is entered the next time: by then the host
has read the text, and no entry of its own is spent on it.
"""

from __future__ import annotations

from theater_tcp.guest.adapter import SLOTS
from theater_tcp.guest.stage import (
    FIRST,
    ID_SIZE,
    NOTHING,
    OUT,
    OUT_SIZE,
    PENDING,
    SECOND,
    SENT,
    STAGE,
)

__all__ = ["CLEAN", "ENTRANCE", "IMPORTS", "SMALL"]

IMPORTS = ("stage", "memory", "functions", "inside", "realloc", "block")
"""What it imports, in this order: the stage; the guest's memory; the adapter's table and flag; the guest's
``cabi_realloc``; the host's ``block``."""

CLEAN = -1
"""What ``enter`` returns for a call that returned ``ok`` and left nothing to do; else it is the result's address."""

SMALL = 8192
"""Bytes of one ``send`` that are staged at most: more is less work where it lies, for one more call."""

_SIZE, _ALIGNMENT, _LENGTH, _SIZE2, _ALIGNMENT2, _LENGTH2 = range(16, 40, 4)


def _word(at: int) -> str:
    return f"(i32.load $stage offset={at} (i32.const 0))"


def _slot(name: str) -> str:
    return f"(i32.const {SLOTS[name]})"


def _id_differs() -> str:
    """Whether the id that the guest passes is another than that on the stage; both are within bounds."""
    parts = [
        f"(i64.xor (i64.load $guest offset={at} (local.get $id)) (i64.load $stage offset={FIRST + at} (i32.const 0)))"
        for at in (*range(0, ID_SIZE - 8, 8), ID_SIZE - 8)
    ]
    differs = parts[0]
    for part in parts[1:]:
        differs = f"(i64.or {differs}\n      {part})"
    return f"(i64.ne (i64.const 0) {differs})"


def _beyond(address: str, size: str) -> str:
    """Whether a place is outside of the guest's memory."""
    return (
        f"(i64.gt_u (i64.add (i64.extend_i32_u {address}) (i64.extend_i32_u {size}))"
        " (i64.shl (i64.extend_i32_u (memory.size $guest)) (i64.const 16)))"
    )


ENTRANCE = f"""(module $theater
  (import "" "stage" {STAGE.type("$stage")})
  (import "" "memory" (memory $guest 0))
  (import "" "functions" (table $functions {len(SLOTS)} funcref))
  (import "" "inside" (global $inside (mut i32)))
  (import "" "realloc" (func $realloc (param i32 i32 i32 i32) (result i32)))
  (import "" "block" (func $block (param i32 i32 i32 i32 i32 i32) (result i64)))
  (type $arguments (func (param i32 i32)))
  (type $post (func (param i32)))
  (type $export2 (func (param i32 i32) (result i32)))
  (type $export4 (func (param i32 i32 i32 i32) (result i32)))
  (type $plain (func))
  (elem (table $functions) {_slot("block")} func $block $realloc $send $take)
  (global $unread (mut i32) (i32.const -1)) (; the address of a result that is to be cleaned up yet ;)
  (func $what_cabi_realloc_gave_is_not_aligned unreachable)
  (func $what_cabi_realloc_gave_is_outside_of_its_memory unreachable)
  (func $allocate (param $size i32) (param $alignment i32) (result i32)
    (local $address i32)
    (global.set $inside (i32.const 1))
    (local.set $address
      (call $realloc (i32.const 0) (i32.const 0) (local.get $alignment) (local.get $size)))
    (global.set $inside (i32.const 0))
    (if (i32.and (local.get $address) (i32.sub (local.get $alignment) (i32.const 1))) (then
      (call $what_cabi_realloc_gave_is_not_aligned)))
    (if {_beyond("(local.get $address)", "(local.get $size)")} (then
      (call $what_cabi_realloc_gave_is_outside_of_its_memory)))
    (local.get $address))
  (func $clean (param $result i32)
    (global.set $unread (i32.const -1))
    (if (i32.eqz (ref.is_null (table.get $functions {_slot("post")}))) (then
      (global.set $inside (i32.const 1))
      (call_indirect $functions (type $post) (local.get $result) {_slot("post")})
      (global.set $inside (i32.const 0)))))
  (func (export "enter") (param $export funcref) (param $post funcref) (result i64)
    (local $size i32) (local $alignment i32) (local $length i32)
    (local $size2 i32) (local $alignment2 i32) (local $length2 i32)
    (local $staged i32) (local $first i32) (local $second i32) (local $result i32)
    (; before anything of the guest's runs: another guest may be entered while it yields ;)
    (local.set $size {_word(_SIZE)})
    (local.set $alignment {_word(_ALIGNMENT)})
    (local.set $length {_word(_LENGTH)})
    (local.set $size2 {_word(_SIZE2)})
    (local.set $alignment2 {_word(_ALIGNMENT2)})
    (local.set $length2 {_word(_LENGTH2)})
    (local.set $staged {_word(PENDING)})
    (if (i32.ne (global.get $unread) (i32.const -1)) (then (call $clean (global.get $unread))))
    (table.set $functions {_slot("export")} (local.get $export))
    (table.set $functions {_slot("post")} (local.get $post))
    (local.set $first (call $allocate (local.get $size) (local.get $alignment)))
    (if (i32.ne (local.get $size2) (i32.const {NOTHING})) (then
      (local.set $second (call $allocate (local.get $size2) (local.get $alignment2)))))
    (if (local.get $staged)
      (then
        (memory.copy $guest $stage (local.get $first) (i32.const {FIRST}) (local.get $size))
        (if (i32.ne (local.get $size2) (i32.const {NOTHING})) (then
          (memory.copy $guest $stage (local.get $second) (i32.const {SECOND}) (local.get $size2))))
        (i32.store $stage offset={PENDING} (i32.const 0) (i32.const 0)))
      (else
        (call_indirect $functions (type $arguments) (local.get $first) (local.get $second) {_slot("arguments")})))
    (local.set $result
      (if (result i32) (i32.eq (local.get $size2) (i32.const {NOTHING}))
        (then (call_indirect $functions (type $export2) (local.get $first) (local.get $length) {_slot("export")}))
        (else (call_indirect $functions (type $export4)
          (local.get $first) (local.get $length) (local.get $second) (local.get $length2) {_slot("export")}))))
    (if (i32.eqz (i32.or
          (i32.and (local.get $result) (i32.const 3))
          {_beyond("(local.get $result)", "(i32.const 12)")})) (then
      (if (i32.eqz (i32.load8_u $guest (local.get $result))) (then
        (call $clean (local.get $result))
        (return (i64.const {CLEAN}))))
      (global.set $unread (local.get $result))))
    (i64.extend_i32_u (local.get $result)))
  (func (export "begin") (param $export funcref)
    (table.set $functions {_slot("export")} (local.get $export))
    (call_indirect $functions (type $plain) {_slot("export")}))
  (; receive: the data is on the stage ;)
  (func $take (param $result i32)
    (local $address i32) (local $size i32)
    (local.set $size (i32.sub {_word(PENDING)} (i32.const {SECOND})))
    (local.set $address (call $allocate (local.get $size) (i32.const 1)))
    (memory.copy $guest $stage (local.get $address) (i32.const {SECOND}) (local.get $size))
    (i32.store $stage offset={PENDING} (i32.const 0) (i32.const 0))
    (i32.store8 $guest (local.get $result) (i32.const 0))
    (i32.store $guest offset=4 (local.get $result) (local.get $address))
    (i32.store $guest offset=8 (local.get $result) (local.get $size)))
  (; send: whether it is done; else the host is asked, who has the words for what is wrong ;)
  (func $send (param $id i32) (param $id_size i32) (param $data i32) (param $size i32) (param $result i32) (result i32)
    (local $sent i32)
    (local.set $sent {_word(SENT)})
    (if (i32.or
          (i32.ne (local.get $id_size) (i32.const {ID_SIZE}))
          (i32.or
            (i32.gt_u (i32.sub (local.get $size) (i32.const 1)) (i32.const {SMALL - 1}))
            (i32.or
              (i32.gt_u (local.get $size) (i32.sub (i32.const {OUT_SIZE}) (local.get $sent)))
              (i32.and (local.get $result) (i32.const 7))))) (then (return (i32.const 0))))
    (if (i32.or
          {_beyond("(local.get $result)", "(i32.const 16)")}
          (i32.or
            {_beyond("(local.get $data)", "(local.get $size)")}
            {_beyond("(local.get $id)", f"(i32.const {ID_SIZE})")})) (then (return (i32.const 0))))
    (if {_id_differs()} (then (return (i32.const 0))))
    (memory.copy $stage $guest (i32.add (i32.const {OUT}) (local.get $sent)) (local.get $data) (local.get $size))
    (i32.store $stage offset={SENT} (i32.const 0) (i32.add (local.get $sent) (local.get $size)))
    (i32.store8 $guest (local.get $result) (i32.const 0))
    (i64.store $guest offset=8 (local.get $result) (i64.extend_i32_u (local.get $size)))
    (i32.const 1))
)"""
