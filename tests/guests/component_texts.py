"""Components as text, put together as ``wasm-tools component new`` does it; tests change a piece of them."""

from __future__ import annotations

from functools import cache

import wasmtime

__all__ = ["COMPONENT", "CORE", "binary", "changed"]

CORE = """
  (core module $main
    (import "theater:simple/tcp" "send" (func (param i32 i32 i32 i32 i32)))
    (import "theater:simple/tcp" "receive" (func (param i32 i32 i32 i32)))
    (import "theater:simple/runtime" "shutdown" (func))
    (memory (export "memory") 1)
    (func (export "_initialize"))
    (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) i32.const 1024)
    (func (export "theater:simple/actor#init") (param i32 i32) (result i32) i32.const 64)
    (func (export "theater:simple/tcp-client#on-data") (param i32 i32 i32 i32) (result i32) i32.const 64)
    (func (export "cabi_post_theater:simple/tcp-client#on-data") (param i32))
  )"""
"""The core module of the component, which does all of its work."""

COMPONENT = f"""
(component
  (import "theater:simple/tcp" (instance $tcp
    (type $data (list u8))
    (export "send" (func (param "connection-id" string) (param "data" $data) (result (result u64 (error string)))))
    (export "receive" (func (param "connection-id" string) (param "max-bytes" u32)
      (result (result $data (error string)))))
  ))
  (import "theater:simple/runtime" (instance $runtime (export "shutdown" (func))))
  {CORE}
  (core module $shim
    (type $send (func (param i32 i32 i32 i32 i32)))
    (type $receive (func (param i32 i32 i32 i32)))
    (table (export "$imports") 2 2 funcref)
    (func (export "0") (type $send)
      local.get 0 local.get 1 local.get 2 local.get 3 local.get 4 i32.const 0 call_indirect (type $send))
    (func (export "1") (type $receive)
      local.get 0 local.get 1 local.get 2 local.get 3 i32.const 1 call_indirect (type $receive))
  )
  (core instance $shim (instantiate $shim))
  (alias core export $shim "0" (core func $shim-send))
  (alias core export $shim "1" (core func $shim-receive))
  (core instance $tcp-core (export "send" (func $shim-send)) (export "receive" (func $shim-receive)))
  (alias export $runtime "shutdown" (func $shutdown))
  (core func $shutdown-core (canon lower (func $shutdown)))
  (core instance $runtime-core (export "shutdown" (func $shutdown-core)))
  (core instance $main (instantiate $main
    (with "theater:simple/tcp" (instance $tcp-core))
    (with "theater:simple/runtime" (instance $runtime-core))
  ))
  (alias core export $main "memory" (core memory $memory))
  (alias core export $main "cabi_realloc" (core func $realloc))
  (core module $fixup
    (import "actual" "0" (func $0 (param i32 i32 i32 i32 i32)))
    (import "actual" "1" (func $1 (param i32 i32 i32 i32)))
    (import "main" "_initialize" (func $initialize))
    (import "shim" "$imports" (table 2 2 funcref))
    (start $initialize)
    (elem (i32.const 0) func $0 $1)
  )
  (alias export $tcp "send" (func $send))
  (alias export $tcp "receive" (func $receive))
  (core func $send-core (canon lower (func $send) (memory $memory) (realloc $realloc) string-encoding=utf8))
  (core func $receive-core (canon lower (func $receive) (memory $memory) (realloc $realloc) string-encoding=utf16))
  (core instance $actual (export "0" (func $send-core)) (export "1" (func $receive-core)))
  (core instance $fixup (instantiate $fixup
    (with "actual" (instance $actual))
    (with "main" (instance $main))
    (with "shim" (instance $shim))
  ))
  (type $bytes (list u8))
  (type $done (result (error string)))
  (type $init (func (param "config" $bytes) (result $done)))
  (type $on-data (func (param "connection-id" string) (param "data" $bytes) (result $done)))
  (alias core export $main "theater:simple/actor#init" (core func $init-core))
  (func $init (type $init) (canon lift (core func $init-core) (memory $memory) (realloc $realloc)))
  (instance $actor (export "init" (func $init)))
  (export "theater:simple/actor" (instance $actor))
  (alias core export $main "theater:simple/tcp-client#on-data" (core func $on-data-core))
  (alias core export $main "cabi_post_theater:simple/tcp-client#on-data" (core func $post))
  (func $on-data (type $on-data) (canon lift (core func $on-data-core) (memory $memory) (realloc $realloc)
    string-encoding=latin1+utf16 (post-return $post)))
  (component $client-shim
    (type $bytes (list u8))
    (type $done (result (error string)))
    (type $on-data (func (param "connection-id" string) (param "data" $bytes) (result $done)))
    (import "import-func-on-data" (func $on-data (type $on-data)))
    (export "on-data" (func $on-data))
  )
  (instance $client (instantiate $client-shim (with "import-func-on-data" (func $on-data))))
  (export "theater:simple/tcp-client" (instance $client))
)"""
"""A component of one core module, a shim and a fixup. Each function has texts of another encoding."""


def changed(text: str, *changes: tuple[str, str]) -> str:
    """The text, with each first one replaced by its second one, everywhere."""
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new)
    return text


@cache
def binary(text: str) -> bytes:
    """A module or a component in binary form."""
    return bytes(wasmtime.wat2wasm(text))
