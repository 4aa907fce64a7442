;; Echo (RFC 862): what a peer sends comes back, until it has sent its last byte.
;;
;; The host passes bytes as a pointer and a length. What it hands over it puts where cabi_realloc tells it to; a result
;; it writes to the area whose address is the last parameter of an import:
;;
;;     result<_, string>, result<list<u8>, string>     +0 1 if it is an error   +4 pointer   +8 length
;;     result<u64, string>                             +0 the same              +8 pointer  +12 length
;;
;; An export gives the address of its result, and when the host has read that, it calls cabi_post_<export>.
(module
  (import "theater:simple/tcp" "activate" (func $activate (param $id i32) (param $id_len i32) (param $result i32)))
  (import "theater:simple/tcp" "set-active"
    (func $set_active (param $id i32) (param $id_len i32) (param $mode i32) (param $mode_len i32) (param $result i32)))
  (import "theater:simple/tcp" "receive"
    (func $receive (param $id i32) (param $id_len i32) (param $max_bytes i32) (param $result i32)))
  (import "theater:simple/tcp" "send"
    (func $send (param $id i32) (param $id_len i32) (param $data i32) (param $len i32) (param $result i32)))
  (import "theater:simple/tcp" "close" (func $close (param $id i32) (param $id_len i32) (param $result i32)))

  ;; 0: what an export gives; 16: what an import gave; 32: a word; from 64 on: what the host hands over
  (memory (export "memory") 1)
  (data (i32.const 32) "active")
  (global $top (mut i32) (i32.const 64))

  ;; Memory for the host, one piece behind the other. All of it is free again when the call is over.
  (func $reallocate (export "cabi_realloc")
    (param $old i32) (param $old_size i32) (param $alignment i32) (param $size i32) (result i32)
    (local $new i32) (local $pages i32)
    (local.set $new (i32.and
      (i32.add (global.get $top) (i32.sub (local.get $alignment) (i32.const 1)))
      (i32.sub (i32.const 0) (local.get $alignment))))
    ;; a size that leaves the 32 bits
    (if (i32.gt_u (local.get $size) (i32.sub (i32.const 0x7fff0000) (local.get $new))) (then unreachable))
    (global.set $top (i32.add (local.get $new) (local.get $size)))
    (local.set $pages (i32.sub
      (i32.shr_u (i32.add (global.get $top) (i32.const 0xffff)) (i32.const 16))
      (memory.size)))
    (if (i32.gt_s (local.get $pages) (i32.const 0)) (then
      (if (i32.eq (memory.grow (local.get $pages)) (i32.const -1)) (then unreachable))))
    (memory.copy (local.get $new) (local.get $old)
      (select (local.get $old_size) (local.get $size) (i32.lt_u (local.get $old_size) (local.get $size))))
    (local.get $new))

  (func $free_all (param $result i32) (global.set $top (i32.const 64)))

  ;; Gives success, or the error that an import gave whose pointer and length are at $error.
  (func $give (param $error i32) (result i32)
    (i32.store (i32.const 0) (i32.load8_u (i32.const 16)))
    (i64.store align=4 (i32.const 4) (i64.load align=4 (local.get $error)))
    (i32.const 0))

  (func $init (export "theater:simple/actor#init") (param $config i32) (param $config_len i32) (result i32)
    (i32.store8 (i32.const 16) (i32.const 0))
    (call $give (i32.const 20)))

  ;; A connection of this actor's own listener: its data is to come by on-data.
  (func $handle_connection (export "theater:simple/tcp-client#handle-connection")
    (param $id i32) (param $id_len i32) (result i32)
    (call $activate (local.get $id) (local.get $id_len) (i32.const 16))
    (if (i32.eqz (i32.load8_u (i32.const 16))) (then
      (call $set_active (local.get $id) (local.get $id_len) (i32.const 32) (i32.const 6) (i32.const 16))))
    (call $give (i32.const 20)))

  (func $on_data (export "theater:simple/tcp-client#on-data")
    (param $id i32) (param $id_len i32) (param $data i32) (param $len i32) (result i32)
    (call $send (local.get $id) (local.get $id_len) (local.get $data) (local.get $len) (i32.const 16))
    (call $give (i32.const 24)))

  ;; A connection that somebody else accepted: this instance is there for it alone, and may wait.
  (func $handle_connection_transfer (export "theater:simple/tcp-client#handle-connection-transfer")
    (param $id i32) (param $id_len i32) (result i32)
    (local $mark i32) (local $len i32)
    (local.set $mark (global.get $top))
    (loop $next
      (call $receive (local.get $id) (local.get $id_len) (i32.const 262144) (i32.const 16))
      (if (i32.load8_u (i32.const 16)) (then (return (call $give (i32.const 20)))))
      (local.set $len (i32.load (i32.const 24)))
      (if (local.get $len) (then
        (call $send
          (local.get $id) (local.get $id_len) (i32.load (i32.const 20)) (local.get $len) (i32.const 16))
        (if (i32.load8_u (i32.const 16)) (then (return (call $give (i32.const 24)))))
        (global.set $top (local.get $mark)) ;; the data was sent; the next takes its place
        (br $next))))
    (call $close (local.get $id) (local.get $id_len) (i32.const 16))
    (call $give (i32.const 20)))

  ;; Not asked for, but a component of the world `server` has them all.
  (func $on_passive (export "theater:simple/tcp-client#on-passive") (param $id i32) (param $id_len i32) (result i32)
    (i32.store8 (i32.const 16) (i32.const 0))
    (call $give (i32.const 20)))
  (func $on_close (export "theater:simple/tcp-client#on-close")
    (param $id i32) (param $id_len i32) (param $reason i32) (param $reason_len i32) (result i32)
    (i32.store8 (i32.const 16) (i32.const 0))
    (call $give (i32.const 20)))

  (export "cabi_post_theater:simple/actor#init" (func $free_all))
  (export "cabi_post_theater:simple/tcp-client#handle-connection" (func $free_all))
  (export "cabi_post_theater:simple/tcp-client#handle-connection-transfer" (func $free_all))
  (export "cabi_post_theater:simple/tcp-client#on-data" (func $free_all))
  (export "cabi_post_theater:simple/tcp-client#on-passive" (func $free_all))
  (export "cabi_post_theater:simple/tcp-client#on-close" (func $free_all)))
