;; A room of the chat: what one member says, the others hear.
;; How the host passes what stands in actors/echo/wat/echo.wat.
(module
  (import "theater:simple/tcp" "set-active"
    (func $set_active (param $id i32) (param $id_len i32) (param $mode i32) (param $mode_len i32) (param $result i32)))
  (import "theater:simple/tcp" "send"
    (func $send (param $id i32) (param $id_len i32) (param $data i32) (param $len i32) (param $result i32)))
  (import "theater:simple/tcp" "close" (func $close (param $id i32) (param $id_len i32) (param $result i32)))
  (import "theater:simple/tcp-ext" "set-framing"
    (func $set_framing (param $id i32) (param $id_len i32) (param $framing i32) (param $framing_len i32)
      (param $max_frame i32) (param $result i32)))
  (import "theater:simple/tcp-ext" "set-option"
    (func $set_option (param $id i32) (param $id_len i32) (param $name i32) (param $name_len i32)
      (param $value i32) (param $value_len i32) (param $result i32)))

  ;;     0  what an export gives
  ;;    16  what an import gave
  ;;    32  texts
  ;;   960  the room's name, at most 64 bytes
  ;;  1024  the message that is put together; the longest is the answer to /who, of 256 * 18 + 2 bytes
  ;;  6144  the members, 256 of 80 bytes, without gaps, in the order in which they came:
  ;;            +0 the length of the id   +4 the length of the nick   +8 the nick, at most 16   +24 the id, at most 56
  ;; 26624  what the host hands over; all of it is free again when the call is over
  (memory (export "memory") 1)
  (data (i32.const 0x020) "line")
  (data (i32.const 0x028) "active")
  (data (i32.const 0x030) "idle_timeout")
  (data (i32.const 0x040) "1 h")
  (data (i32.const 0x048) "guest")
  (data (i32.const 0x050) "* ")
  (data (i32.const 0x058) ", ")
  (data (i32.const 0x060) "<")
  (data (i32.const 0x068) "> ")
  (data (i32.const 0x070) "\n")
  (data (i32.const 0x078) " in ")
  (data (i32.const 0x080) "* you are ")
  (data (i32.const 0x090) " joined\n")
  (data (i32.const 0x0a0) " left\n")
  (data (i32.const 0x0a8) " is now ")
  (data (i32.const 0x0b0) "* bye\n")
  (data (i32.const 0x0b8) "/nick")
  (data (i32.const 0x0c0) "/who")
  (data (i32.const 0x0c8) "/quit")
  (data (i32.const 0x0d0) "! that name is taken\n")
  (data (i32.const 0x0f0) "! a name is 1 to 16 letters, digits, - or _\n")
  (data (i32.const 0x120) "! unknown command; there are /nick, /who and /quit\n")
  (data (i32.const 0x160) "! the room is full\n")
  (data (i32.const 0x180) "invalid: init is to be the name of the room, of 1 to 64 bytes")
  (data (i32.const 0x1c0) "limit: an id of more than 56 bytes")
  (global $name i32 (i32.const 960))
  (global $name_len (mut i32) (i32.const 0))
  (global $message i32 (i32.const 1024))
  (global $message_end (mut i32) (i32.const 1024))
  (global $members i32 (i32.const 6144))
  (global $members_end (mut i32) (i32.const 6144))
  (global $base i32 (i32.const 26624))
  (global $top (mut i32) (i32.const 26624))
  (global $guests (mut i32) (i32.const 0)) ;; how many have been named guest<n>

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

  ;; ---- What is going to be said

  (func $begin (global.set $message_end (global.get $message)))
  (func $put (param $text i32) (param $len i32)
    (memory.copy (global.get $message_end) (local.get $text) (local.get $len))
    (global.set $message_end (i32.add (global.get $message_end) (local.get $len))))
  (func $put_nick (param $member i32)
    (call $put (i32.add (local.get $member) (i32.const 8)) (i32.load offset=4 (local.get $member))))

  ;; A member who is just leaving is no reason to end the one who speaks: the result counts for nothing, and the text
  ;; of an error makes room for the next one.
  (func $tell (param $member i32)
    (local $mark i32)
    (local.set $mark (global.get $top))
    (call $send
      (i32.add (local.get $member) (i32.const 24)) (i32.load (local.get $member))
      (global.get $message) (i32.sub (global.get $message_end) (global.get $message))
      (i32.const 16))
    (global.set $top (local.get $mark)))

  (func $tell_others (param $member i32)
    (local $other i32)
    (local.set $other (global.get $members))
    (loop $next
      (if (i32.lt_u (local.get $other) (global.get $members_end)) (then
        (if (i32.ne (local.get $other) (local.get $member)) (then (call $tell (local.get $other))))
        (local.set $other (i32.add (local.get $other) (i32.const 80)))
        (br $next)))))

  ;; ---- Who is there

  ;; The member whose connection has this id, or 0.
  (func $find (param $id i32) (param $id_len i32) (result i32)
    (local $member i32)
    (local.set $member (global.get $members))
    (loop $next
      (if (i32.lt_u (local.get $member) (global.get $members_end)) (then
        (if (call $equal (local.get $id) (local.get $id_len)
              (i32.add (local.get $member) (i32.const 24)) (i32.load (local.get $member)))
          (then (return (local.get $member))))
        (local.set $member (i32.add (local.get $member) (i32.const 80)))
        (br $next))))
    (i32.const 0))

  (func $is_taken (param $nick i32) (param $len i32) (result i32)
    (local $member i32)
    (local.set $member (global.get $members))
    (loop $next
      (if (i32.lt_u (local.get $member) (global.get $members_end)) (then
        (if (call $equal (local.get $nick) (local.get $len)
              (i32.add (local.get $member) (i32.const 8)) (i32.load offset=4 (local.get $member)))
          (then (return (i32.const 1))))
        (local.set $member (i32.add (local.get $member) (i32.const 80)))
        (br $next))))
    (i32.const 0))

  (func $set_nick (param $member i32) (param $nick i32) (param $len i32)
    (memory.copy (i32.add (local.get $member) (i32.const 8)) (local.get $nick) (local.get $len))
    (i32.store offset=4 (local.get $member) (local.get $len)))

  ;; Names a member guest<n>, with the next n whose name is free. The message's place serves to put it together.
  (func $name_guest (param $member i32)
    (local $number i32) (local $unit i32)
    (loop $taken
      (global.set $guests (i32.add (global.get $guests) (i32.const 1)))
      (call $begin)
      (call $put (i32.const 0x048) (i32.const 5))
      (local.set $number (global.get $guests))
      (local.set $unit (i32.const 1))
      (loop $larger
        (if (i32.ge_u (i32.div_u (local.get $number) (local.get $unit)) (i32.const 10)) (then
          (local.set $unit (i32.mul (local.get $unit) (i32.const 10)))
          (br $larger))))
      (loop $digit
        (i32.store8 (global.get $message_end) (i32.add (i32.const 48)
          (i32.rem_u (i32.div_u (local.get $number) (local.get $unit)) (i32.const 10))))
        (global.set $message_end (i32.add (global.get $message_end) (i32.const 1)))
        (br_if $digit (local.tee $unit (i32.div_u (local.get $unit) (i32.const 10)))))
      (br_if $taken (call $is_taken (global.get $message)
        (i32.sub (global.get $message_end) (global.get $message)))))
    (call $set_nick (local.get $member) (global.get $message)
      (i32.sub (global.get $message_end) (global.get $message))))

  (func $leave (param $member i32)
    (local $behind i32)
    (call $begin)
    (call $put (i32.const 0x050) (i32.const 2))
    (call $put_nick (local.get $member))
    (call $put (i32.const 0x0a0) (i32.const 6))
    (local.set $behind (i32.add (local.get $member) (i32.const 80)))
    (memory.copy (local.get $member) (local.get $behind) (i32.sub (global.get $members_end) (local.get $behind)))
    (global.set $members_end (i32.sub (global.get $members_end) (i32.const 80)))
    (call $tell_others (i32.const 0)))

  ;; ---- What they do

  (func $is_nick (param $nick i32) (param $len i32) (result i32)
    (local $end i32) (local $byte i32)
    (if (i32.gt_u (i32.sub (local.get $len) (i32.const 1)) (i32.const 15)) (then (return (i32.const 0))))
    (local.set $end (i32.add (local.get $nick) (local.get $len)))
    (block $other
      (loop $next
        (if (i32.eq (local.get $nick) (local.get $end)) (then (return (i32.const 1))))
        (local.set $byte (i32.load8_u (local.get $nick)))
        (local.set $nick (i32.add (local.get $nick) (i32.const 1)))
        (br_if $next (i32.lt_u (i32.sub (local.get $byte) (i32.const 48)) (i32.const 10))) ;; digits
        (br_if $next (i32.lt_u ;; letters
          (i32.sub (i32.or (local.get $byte) (i32.const 32)) (i32.const 97)) (i32.const 26)))
        (br_if $next (i32.eq (local.get $byte) (i32.const 45)))
        (br_if $next (i32.eq (local.get $byte) (i32.const 95)))))
    (i32.const 0))

  (func $change_nick (param $member i32) (param $nick i32) (param $len i32)
    (call $begin)
    (if (i32.eqz (call $is_nick (local.get $nick) (local.get $len)))
      (then (call $put (i32.const 0x0f0) (i32.const 44)))
      (else (if (call $is_taken (local.get $nick) (local.get $len))
        (then (call $put (i32.const 0x0d0) (i32.const 21)))
        (else
          (call $put (i32.const 0x050) (i32.const 2))
          (call $put_nick (local.get $member))
          (call $put (i32.const 0x0a8) (i32.const 8))
          (call $put (local.get $nick) (local.get $len))
          (call $put (i32.const 0x070) (i32.const 1))
          (call $set_nick (local.get $member) (local.get $nick) (local.get $len))
          (call $tell_others (local.get $member))))))
    (call $tell (local.get $member)))

  (func $list (param $asking i32)
    (local $member i32)
    (call $begin)
    (call $put (i32.const 0x050) (i32.const 2))
    (local.set $member (global.get $members))
    (loop $next
      (if (i32.ne (local.get $member) (global.get $members)) (then (call $put (i32.const 0x058) (i32.const 2))))
      (call $put_nick (local.get $member))
      (local.set $member (i32.add (local.get $member) (i32.const 80)))
      (br_if $next (i32.lt_u (local.get $member) (global.get $members_end))))
    (call $put (i32.const 0x070) (i32.const 1))
    (call $tell (local.get $asking)))

  ;; The length of a line without its end, after its control characters, which could do something to a terminal, have
  ;; become spaces.
  (func $clean (param $line i32) (param $len i32) (result i32)
    (local $at i32) (local $end i32) (local $byte i32)
    (if (local.get $len) (then
      (if (i32.eq (i32.load8_u (i32.sub (i32.add (local.get $line) (local.get $len)) (i32.const 1))) (i32.const 10))
        (then (local.set $len (i32.sub (local.get $len) (i32.const 1)))))))
    (if (local.get $len) (then
      (if (i32.eq (i32.load8_u (i32.sub (i32.add (local.get $line) (local.get $len)) (i32.const 1))) (i32.const 13))
        (then (local.set $len (i32.sub (local.get $len) (i32.const 1)))))))
    (local.set $at (local.get $line))
    (local.set $end (i32.add (local.get $line) (local.get $len)))
    (loop $next
      (if (i32.lt_u (local.get $at) (local.get $end)) (then
        (local.set $byte (i32.load8_u (local.get $at)))
        (if (i32.or (i32.lt_u (local.get $byte) (i32.const 32)) (i32.eq (local.get $byte) (i32.const 127)))
          (then (i32.store8 (local.get $at) (i32.const 32))))
        (local.set $at (i32.add (local.get $at) (i32.const 1)))
        (br $next))))
    (local.get $len))

  (func $obey (param $member i32) (param $text i32) (param $len i32)
    (local $space i32)
    (loop $next
      (if (i32.lt_u (local.get $space) (local.get $len)) (then
        (if (i32.ne (i32.load8_u (i32.add (local.get $text) (local.get $space))) (i32.const 32)) (then
          (local.set $space (i32.add (local.get $space) (i32.const 1)))
          (br $next))))))
    (if (call $equal (local.get $text) (local.get $space) (i32.const 0x0b8) (i32.const 5)) (then
      (if (i32.lt_u (local.get $space) (local.get $len)) ;; the space itself is not part of the nick
        (then (local.set $space (i32.add (local.get $space) (i32.const 1)))))
      (call $change_nick (local.get $member)
        (i32.add (local.get $text) (local.get $space)) (i32.sub (local.get $len) (local.get $space)))
      (return)))
    (if (call $equal (local.get $text) (local.get $space) (i32.const 0x0c0) (i32.const 4)) (then
      (call $list (local.get $member))
      (return)))
    (call $begin)
    (if (call $equal (local.get $text) (local.get $space) (i32.const 0x0c8) (i32.const 5)) (then
      (call $put (i32.const 0x0b0) (i32.const 6))
      (call $tell (local.get $member))
      (call $close (i32.add (local.get $member) (i32.const 24)) (i32.load (local.get $member)) (i32.const 16))
      (call $leave (local.get $member))
      (return)))
    (call $put (i32.const 0x120) (i32.const 51))
    (call $tell (local.get $member)))

  (func $init (export "theater:simple/actor#init") (param $config i32) (param $config_len i32) (result i32)
    (if (i32.gt_u (i32.sub (local.get $config_len) (i32.const 1)) (i32.const 63))
      (then (return (call $fail (i32.const 0x180) (i32.const 61)))))
    (memory.copy (global.get $name) (local.get $config) (local.get $config_len))
    (global.set $name_len (local.get $config_len))
    (call $ok))

  (func $handle_connection_transfer (export "theater:simple/tcp-client#handle-connection-transfer")
    (param $id i32) (param $id_len i32) (result i32)
    (local $member i32)
    (if (i32.gt_u (local.get $id_len) (i32.const 56)) (then (return (call $fail (i32.const 0x1c0) (i32.const 34)))))
    (local.set $member (global.get $members_end))
    (if (i32.eq (local.get $member) (global.get $base)) (then ;; the table is full
      (call $send (local.get $id) (local.get $id_len) (i32.const 0x160) (i32.const 19) (i32.const 16))
      (if (call $failed) (then (return (call $fail (i32.load (i32.const 24)) (i32.load (i32.const 28))))))
      (call $close (local.get $id) (local.get $id_len) (i32.const 16))
      (return (call $give))))
    (block $over
      (call $set_framing (local.get $id) (local.get $id_len) (i32.const 0x020) (i32.const 4)
        (i32.const 512) (i32.const 16))
      (br_if $over (call $failed))
      (call $set_option (local.get $id) (local.get $id_len) (i32.const 0x030) (i32.const 12)
        (i32.const 0x040) (i32.const 3) (i32.const 16))
      (br_if $over (call $failed))
      (call $set_active (local.get $id) (local.get $id_len) (i32.const 0x028) (i32.const 6) (i32.const 16)))
    (if (call $failed) (then (return (call $give))))

    (call $name_guest (local.get $member))
    (i32.store (local.get $member) (local.get $id_len))
    (memory.copy (i32.add (local.get $member) (i32.const 24)) (local.get $id) (local.get $id_len))
    (global.set $members_end (i32.add (local.get $member) (i32.const 80)))
    (call $begin)
    (call $put (i32.const 0x080) (i32.const 10))
    (call $put_nick (local.get $member))
    (call $put (i32.const 0x078) (i32.const 4))
    (call $put (global.get $name) (global.get $name_len))
    (call $put (i32.const 0x070) (i32.const 1))
    (call $tell (local.get $member))
    (call $begin)
    (call $put (i32.const 0x050) (i32.const 2))
    (call $put_nick (local.get $member))
    (call $put (i32.const 0x090) (i32.const 8))
    (call $tell_others (local.get $member))
    (call $ok))

  (func $on_data (export "theater:simple/tcp-client#on-data")
    (param $id i32) (param $id_len i32) (param $line i32) (param $len i32) (result i32)
    (local $member i32)
    (local.set $member (call $find (local.get $id) (local.get $id_len)))
    (local.set $len (call $clean (local.get $line) (local.get $len)))
    (if (i32.or (i32.eqz (local.get $member)) (i32.eqz (local.get $len))) (then (return (call $ok))))
    (if (i32.eq (i32.load8_u (local.get $line)) (i32.const 47))
      (then (call $obey (local.get $member) (local.get $line) (local.get $len)))
      (else
        (call $begin)
        (call $put (i32.const 0x060) (i32.const 1))
        (call $put_nick (local.get $member))
        (call $put (i32.const 0x068) (i32.const 2))
        (call $put (local.get $line) (local.get $len))
        (call $put (i32.const 0x070) (i32.const 1))
        (call $tell_others (local.get $member))))
    (call $ok))

  (func $on_close (export "theater:simple/tcp-client#on-close")
    (param $id i32) (param $id_len i32) (param $reason i32) (param $reason_len i32) (result i32)
    (local $member i32)
    (local.set $member (call $find (local.get $id) (local.get $id_len)))
    (if (local.get $member) (then (call $leave (local.get $member))))
    (call $ok))

  ;; A room has no listener: what it would accept is closed.
  (func $handle_connection (export "theater:simple/tcp-client#handle-connection")
    (param $id i32) (param $id_len i32) (result i32)
    (call $close (local.get $id) (local.get $id_len) (i32.const 16))
    (call $give))
  (func $on_passive (export "theater:simple/tcp-client#on-passive") (param $id i32) (param $id_len i32) (result i32) (call $ok))

  (export "cabi_post_theater:simple/actor#init" (func $free_all))
  (export "cabi_post_theater:simple/tcp-client#handle-connection" (func $free_all))
  (export "cabi_post_theater:simple/tcp-client#handle-connection-transfer" (func $free_all))
  (export "cabi_post_theater:simple/tcp-client#on-data" (func $free_all))
  (export "cabi_post_theater:simple/tcp-client#on-passive" (func $free_all))
  (export "cabi_post_theater:simple/tcp-client#on-close" (func $free_all)))
