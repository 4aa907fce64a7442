;; The door of the chat: reads `JOIN <room>` from each client, and hands the connection to the actor of that room.
;; How the host passes what stands in actors/echo/wat/echo.wat.
(module
  (import "theater:simple/tcp" "activate" (func $activate (param $id i32) (param $id_len i32) (param $result i32)))
  (import "theater:simple/tcp" "set-active"
    (func $set_active (param $id i32) (param $id_len i32) (param $mode i32) (param $mode_len i32) (param $result i32)))
  (import "theater:simple/tcp" "transfer"
    (func $transfer (param $id i32) (param $id_len i32) (param $to i32) (param $to_len i32) (param $result i32)))
  (import "theater:simple/tcp" "send"
    (func $send (param $id i32) (param $id_len i32) (param $data i32) (param $len i32) (param $result i32)))
  (import "theater:simple/tcp" "close" (func $close (param $id i32) (param $id_len i32) (param $result i32)))
  (import "theater:simple/tcp-ext" "set-framing"
    (func $set_framing (param $id i32) (param $id_len i32) (param $framing i32) (param $framing_len i32)
      (param $max_frame i32) (param $result i32)))
  (import "theater:simple/tcp-ext" "set-option"
    (func $set_option (param $id i32) (param $id_len i32) (param $name i32) (param $name_len i32)
      (param $value i32) (param $value_len i32) (param $result i32)))

  ;; 0: what an export gives; 16: what an import gave; 32: texts; 512: the config; behind it: what the host hands over
  (memory (export "memory") 1)
  (data (i32.const 32) "line")
  (data (i32.const 40) "once")
  (data (i32.const 48) "idle_timeout")
  (data (i32.const 64) "30 s")
  (data (i32.const 72) "JOIN ")
  (data (i32.const 80) "no-such-actor")
  (data (i32.const 96) "! no such room\n")
  (data (i32.const 128) "! the first line is JOIN and a room\n")
  (data (i32.const 192) "invalid: init is to name the rooms, with spaces between them")
  (global $rooms i32 (i32.const 512))
  (global $rooms_end (mut i32) (i32.const 512))
  (global $base (mut i32) (i32.const 512)) ;; where the memory begins that is free after each call
  (global $top (mut i32) (i32.const 512))

  (func $reallocate (export "cabi_realloc")
    (param $old i32) (param $old_size i32) (param $alignment i32) (param $size i32) (result i32)
    (local $new i32) (local $pages i32)
    (local.set $new (i32.and
      (i32.add (global.get $top) (i32.sub (local.get $alignment) (i32.const 1)))
      (i32.sub (i32.const 0) (local.get $alignment))))
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

  (func $free_all (param $result i32) (global.set $top (global.get $base)))

  (func $ok (result i32)
    (i32.store8 (i32.const 0) (i32.const 0))
    (i32.const 0))
  (func $fail (param $text i32) (param $len i32) (result i32)
    (i32.store8 (i32.const 0) (i32.const 1))
    (i32.store (i32.const 4) (local.get $text))
    (i32.store (i32.const 8) (local.get $len))
    (i32.const 0))
  ;; Whether the import failed that gave its result last; and that as the result of an export.
  (func $failed (result i32) (i32.load8_u (i32.const 16)))
  (func $give (result i32)
    (if (call $failed) (then (return (call $fail (i32.load (i32.const 20)) (i32.load (i32.const 24))))))
    (call $ok))

  (func $equal (param $one i32) (param $one_len i32) (param $other i32) (param $other_len i32) (result i32)
    (if (i32.ne (local.get $one_len) (local.get $other_len)) (then (return (i32.const 0))))
    (block $differ
      (loop $next
        (if (i32.eqz (local.get $one_len)) (then (return (i32.const 1))))
        (br_if $differ (i32.ne (i32.load8_u (local.get $one)) (i32.load8_u (local.get $other))))
        (local.set $one (i32.add (local.get $one) (i32.const 1)))
        (local.set $other (i32.add (local.get $other) (i32.const 1)))
        (local.set $one_len (i32.sub (local.get $one_len) (i32.const 1)))
        (br $next)))
    (i32.const 0))

  ;; Where the word ends that begins at $at, at the latest where the rooms end.
  (func $word_end (param $at i32) (result i32)
    (block $found
      (loop $next
        (br_if $found (i32.ge_u (local.get $at) (global.get $rooms_end)))
        (br_if $found (i32.le_u (i32.load8_u (local.get $at)) (i32.const 32)))
        (local.set $at (i32.add (local.get $at) (i32.const 1)))
        (br $next)))
    (local.get $at))

  (func $is_room (param $name i32) (param $len i32) (result i32)
    (local $at i32) (local $end i32)
    (if (i32.eqz (local.get $len)) (then (return (i32.const 0))))
    (local.set $at (global.get $rooms))
    (loop $next
      (local.set $end (call $word_end (local.get $at)))
      (if (call $equal (local.get $name) (local.get $len)
            (local.get $at) (i32.sub (local.get $end) (local.get $at)))
        (then (return (i32.const 1))))
      (local.set $at (i32.add (local.get $end) (i32.const 1)))
      (br_if $next (i32.lt_u (local.get $at) (global.get $rooms_end))))
    (i32.const 0))

  (func $init (export "theater:simple/actor#init") (param $config i32) (param $config_len i32) (result i32)
    (local $at i32)
    ;; the config lies where the memory begins that is free after a call: it stays, and that begins behind it
    (memory.copy (global.get $rooms) (local.get $config) (local.get $config_len))
    (global.set $rooms_end (i32.add (global.get $rooms) (local.get $config_len)))
    (global.set $base (global.get $rooms_end))
    (local.set $at (global.get $rooms))
    (loop $next
      (if (i32.lt_u (local.get $at) (global.get $rooms_end)) (then
        (if (i32.gt_u (i32.load8_u (local.get $at)) (i32.const 32)) (then (return (call $ok))))
        (local.set $at (i32.add (local.get $at) (i32.const 1)))
        (br $next))))
    (call $fail (i32.const 192) (i32.const 60)))

  ;; Nobody waits for the line: what has come of it is kept by the runtime, and the next client has its turn.
  (func $handle_connection (export "theater:simple/tcp-client#handle-connection")
    (param $id i32) (param $id_len i32) (result i32)
    (block $over
      (call $activate (local.get $id) (local.get $id_len) (i32.const 16))
      (br_if $over (call $failed))
      (call $set_framing (local.get $id) (local.get $id_len) (i32.const 32) (i32.const 4)
        (i32.const 512) (i32.const 16))
      (br_if $over (call $failed))
      (call $set_option (local.get $id) (local.get $id_len) (i32.const 48) (i32.const 12)
        (i32.const 64) (i32.const 4) (i32.const 16))
      (br_if $over (call $failed))
      (call $set_active (local.get $id) (local.get $id_len) (i32.const 40) (i32.const 4) (i32.const 16)))
    (call $give))

  ;; Says why not, and ends the connection.
  (func $refuse (param $id i32) (param $id_len i32) (param $reason i32) (param $len i32) (result i32)
    (call $send (local.get $id) (local.get $id_len) (local.get $reason) (local.get $len) (i32.const 16))
    (if (call $failed) (then (return (call $fail (i32.load (i32.const 24)) (i32.load (i32.const 28))))))
    (call $close (local.get $id) (local.get $id_len) (i32.const 16))
    (call $give))

  (func $on_data (export "theater:simple/tcp-client#on-data")
    (param $id i32) (param $id_len i32) (param $line i32) (param $len i32) (result i32)
    (local.set $len (call $without_end (local.get $line) (local.get $len) (i32.const 10)))
    (local.set $len (call $without_end (local.get $line) (local.get $len) (i32.const 13)))
    (if (i32.or
          (i32.lt_u (local.get $len) (i32.const 5))
          (i32.eqz (call $equal (local.get $line) (i32.const 5) (i32.const 72) (i32.const 5))))
      (then (return (call $refuse (local.get $id) (local.get $id_len) (i32.const 128) (i32.const 36)))))
    (local.set $line (i32.add (local.get $line) (i32.const 5)))
    (local.set $len (i32.sub (local.get $len) (i32.const 5)))
    ;; Only rooms: a client can't be handed to any other actor.
    (if (call $is_room (local.get $line) (local.get $len)) (then
      (call $transfer (local.get $id) (local.get $id_len) (local.get $line) (local.get $len) (i32.const 16))
      (if (i32.eqz (call $failed)) (then (return (call $ok))))
      ;; another error than `no-such-actor`, or `no-such-actor: ...`
      (if (i32.or
            (i32.lt_u (i32.load (i32.const 24)) (i32.const 13))
            (i32.eqz (call $equal (i32.load (i32.const 20)) (i32.const 13) (i32.const 80) (i32.const 13))))
        (then (return (call $give))))))
    (call $refuse (local.get $id) (local.get $id_len) (i32.const 96) (i32.const 15)))

  ;; The length without a last byte that is $end.
  (func $without_end (param $line i32) (param $len i32) (param $end i32) (result i32)
    (if (local.get $len) (then
      (if (i32.eq (i32.load8_u (i32.sub (i32.add (local.get $line) (local.get $len)) (i32.const 1))) (local.get $end))
        (then (return (i32.sub (local.get $len) (i32.const 1)))))))
    (local.get $len))

  ;; An acceptor is nobody's target: what is handed to it is closed.
  (func $handle_connection_transfer (export "theater:simple/tcp-client#handle-connection-transfer")
    (param $id i32) (param $id_len i32) (result i32)
    (call $close (local.get $id) (local.get $id_len) (i32.const 16))
    (call $give))
  (func $on_passive (export "theater:simple/tcp-client#on-passive") (param $id i32) (param $id_len i32) (result i32) (call $ok))
  (func $on_close (export "theater:simple/tcp-client#on-close")
    (param $id i32) (param $id_len i32) (param $reason i32) (param $reason_len i32) (result i32)
    (call $ok))

  (export "cabi_post_theater:simple/actor#init" (func $free_all))
  (export "cabi_post_theater:simple/tcp-client#handle-connection" (func $free_all))
  (export "cabi_post_theater:simple/tcp-client#handle-connection-transfer" (func $free_all))
  (export "cabi_post_theater:simple/tcp-client#on-data" (func $free_all))
  (export "cabi_post_theater:simple/tcp-client#on-passive" (func $free_all))
  (export "cabi_post_theater:simple/tcp-client#on-close" (func $free_all)))
