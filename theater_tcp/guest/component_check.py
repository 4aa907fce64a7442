"""Whether the component road can be gone: what it needs of wasmtime's inner parts, tried in small.

It is tried when the first component comes that needs that road, and not for every guest.
"""

from __future__ import annotations

import ctypes
import functools
import struct
from ctypes import c_size_t, c_uint8

import wasmtime
import wasmtime.component

from theater_tcp.guest import wasmtime_internals as inner

__all__ = ["component_failure"]

_TESTED_COMPONENT = """
(component
  (import "host" (instance $host (export "later" (func (param "data" (list u8)) (result (list u8))))))
  (core module $memory
    (memory (export "memory") 1)
    (global $top (mut i32) (i32.const 64))
    (func (export "realloc") (param i32 i32 i32 i32) (result i32)
      (global.get $top) (global.set $top (i32.add (global.get $top) (local.get 3)))))
  (core instance $memory (instantiate $memory))
  (alias core export $memory "memory" (core memory $pages))
  (alias core export $memory "realloc" (core func $realloc))
  (alias export $host "later" (func $later))
  (core func $later-core (canon lower (func $later) (memory $pages) (realloc $realloc)))
  (core module $main
    (import "host" "later" (func $later (param i32 i32 i32)))
    (func (export "run") (param i32 i32) (result i32)
      (call $later (local.get 0) (local.get 1) (i32.const 16)) (i32.const 16)))
  (core instance $main (instantiate $main (with "host" (instance (export "later" (func $later-core))))))
  (func (export "run") (param "data" (list u8)) (result (list u8))
    (canon lift (core func $main "run") (memory $pages) (realloc $realloc))))
"""
_LIST_OF_U8 = 13, 2


def _component_test() -> None:
    """Do once, in small, all that the component road does; whatever goes wrong is an exception."""
    config = wasmtime.Config()
    config.epoch_interruption = True
    engine = wasmtime.Engine(config)
    content = bytes(wasmtime.wat2wasm(_TESTED_COMPONENT))
    compiled, linker = wasmtime.component.Component(engine, content), wasmtime.component.Linker(engine)
    memory = ctypes.create_string_buffer(512)
    at = ctypes.addressof(memory)
    error, instance, flag, args, result, function = at, at + 16, at + 32, at + 64, at + 128, at + 192
    data = b"\0\x7f\xff"
    seen = []

    def list_at(value: int) -> bytes:
        size, values = struct.unpack("<QQ", ctypes.string_at(value + inner.OF, 16))
        raw = ctypes.string_at(values, size * inner.COMPONENT_VALUE)
        kinds = {ctypes.string_at(value, 1)[0], *raw[:: inner.COMPONENT_VALUE]}
        return raw[inner.OF :: inner.COMPONENT_VALUE] if kinds == set(_LIST_OF_U8) else b""

    def put_list(value: int) -> None:
        c_uint8.from_address(value).value = _LIST_OF_U8[0]
        inner.list_new(value + inner.OF, len(data))
        raw = b"".join(bytes((_LIST_OF_U8[1],)) + bytes(7) + bytes((each,)) + bytes(23) for each in data)
        ctypes.memmove(c_size_t.from_address(value + inner.OF + 8).value, raw, len(raw))

    def later(*given: int) -> None:
        seen.append((list_at(given[3]), given[4], given[6]))
        memory[flag - at] = b"\0"
        ctypes.memmove(given[8], inner.CONTINUATION.pack(*inner.continuation(flag)), inner.CONTINUATION.size)
        put_list(given[5])

    callback = inner.SUSPENDABLE_OF_COMPONENT(later)
    with linker.root() as root, root.add_instance("host") as host:
        inner.check(inner.component_add_suspendable(inner.address_of(host), b"later", 5, callback, None, None), None)
    store = inner.store_new(inner.address_of(engine), None, None)
    export = inner.component_get_export(inner.address_of(compiled), None, b"run", 3)
    try:
        context = inner.store_context(store)
        inner.set_epoch_deadline(context, 1)
        inner.yield_at_epoch(context, 1)
        future = inner.component_instantiate(
            inner.address_of(linker), context, inner.address_of(compiled), instance, error
        )
        ready = inner.poll(future)
        inner.forget_call(future)
        inner.check(c_size_t.from_address(error).value, None)
        if not (ready and inner.component_get_function(instance, context, export, function)):
            raise RuntimeError("an export of a component is not found")
        put_list(args)
        future = inner.component_call(function, context, args, 1, result, 1, error)
        waited = not inner.poll(future)
        memory[flag - at] = b"\1"
        ended = inner.poll(future)
        inner.forget_call(future)
        inner.check(c_size_t.from_address(error).value, None)
        if not (waited and ended and seen == [(data, 1, 1)] and list_at(result) == data):
            raise RuntimeError("a suspended call of a component does not go on as it should")
        inner.value_delete(args)
        inner.value_delete(result)
    finally:
        inner.component_export_delete(export)
        inner.store_delete(store)


@functools.cache
def component_failure() -> str | None:
    """Why the component road can't be used with a wasmtime where the other fast road can be; None if it can.

    Tested when it is asked for the first time.
    """
    return inner.tested(_component_test)
