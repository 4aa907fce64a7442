/* Makes every call of the interface that it is told to, by lines: `send hello` is answered by `ok 5`, or by `error` and
 * the error's text. For the tests of the bindings; `probe.rs` is the same in Rust. */
#include "theater.h"

#define TEXT THEATER_TEXT

/* ---- Text that is put together */

typedef struct {
    uint8_t *data;
    size_t size, room;
} text;

static text heard;

static void put(text *to, theater_bytes part) {
    if (to->size + part.size > to->room) {
        to->room = 2 * (to->size + part.size);
        to->data = theater_resize(to->data, to->room);
    }
    __builtin_memcpy(to->data + to->size, part.data, part.size);
    to->size += part.size;
}

static void put_number(text *to, uint64_t number) {
    uint8_t digits[20];
    size_t at = sizeof digits;
    do digits[--at] = (uint8_t)('0' + number % 10);
    while (number /= 10);
    put(to, (theater_bytes){digits + at, sizeof digits - at});
}

static void hear(theater_bytes what, theater_bytes more) {
    if (heard.size) put(&heard, TEXT(", "));
    put(&heard, what);
    put(&heard, more);
}

static theater_bytes trimmed(theater_bytes bytes) {
    while (bytes.size && bytes.data[bytes.size - 1] <= ' ') bytes.size--;
    return bytes;
}

static uint32_t number_in(theater_bytes digits) {
    uint32_t number = 0;
    for (size_t at = 0; at < digits.size; at++) number = 10 * number + (digits.data[at] - '0');
    return number;
}

/* ---- What it was told */

static theater_bytes words[3];
static size_t count;

static void split(theater_bytes line) {
    size_t at = 0;
    for (count = 0; count < 3; count++) {
        while (at < line.size && line.data[at] <= ' ') at++;
        size_t start = at;
        while (at < line.size && line.data[at] > ' ') at++;
        if (at == start) break;
        words[count] = (theater_bytes){line.data + start, at - start};
    }
}

static bool told(theater_bytes command, size_t arguments) {
    return count == arguments + 1 && theater_equal(words[0], command);
}

/* Sends `ok` and what the result gives, or `error` and its text; frees the result. */
static theater_result answer(theater_bytes connection, theater_result result) {
    text line = {0};
    put(&line, result.failed ? TEXT("error ") : TEXT("ok "));
    if (result.value.data) put(&line, trimmed(result.value));
    put(&line, TEXT("\n"));
    theater_drop(result);
    result = theater_send(connection, (theater_bytes){line.data, line.size});
    theater_free(line.data);
    return result;
}

/* A result whose value is the text. */
static theater_result value(text of) {
    return (theater_result){false, {of.data, of.size}};
}

static void put_optional(text *to, theater_optional_text of) {
    put(to, of.present ? of.text : TEXT("-"));
}

static theater_result told_of_tls(theater_bytes connection) {
    theater_tls tls = theater_tls_info(connection);
    if (tls.failed) return (theater_result){true, theater_owned(tls.error)};
    text line = {0};
    if (!tls.encrypted) {
        put(&line, TEXT("plaintext"));
        return value(line);
    }
    put(&line, tls.session.version);
    put(&line, TEXT("|"));
    put(&line, tls.session.cipher);
    put(&line, TEXT("|"));
    put_optional(&line, tls.session.alpn);
    put(&line, TEXT("|"));
    put_optional(&line, tls.session.server_name);
    put(&line, tls.session.resumed ? TEXT("|true|") : TEXT("|false|"));
    if (tls.session.peer.present) {
        const theater_certificate *certificate = &tls.session.peer.certificate;
        put(&line, certificate->subject);
        put(&line, TEXT("|"));
        put(&line, certificate->issuer);
        put(&line, TEXT("|"));
        for (size_t at = 0; at < certificate->names.count; at++) {
            if (at) put(&line, TEXT(","));
            put(&line, certificate->names.items[at]);
        }
        put(&line, TEXT("|"));
        put(&line, certificate->fingerprint);
    } else {
        put(&line, TEXT("-"));
    }
    theater_drop_tls(&tls);
    return value(line);
}

/* Receives once, and closes; frees the id. */
static theater_result last_words(theater_bytes other) {
    theater_result received = theater_receive(other, 100);
    if (!received.failed) theater_drop(theater_close(other));
    theater_free(other.data);
    return received;
}

static theater_result connect_and_ping(theater_bytes address) {
    theater_result other = theater_connect(address);
    if (other.failed) return other;
    theater_drop(theater_send(other.value, TEXT("ping\n")));
    return last_words(other.value);
}

static theater_result connect_by_tls(theater_bytes address, theater_bytes name) {
    theater_result other = theater_connect(address), result;
    if (other.failed) return other;
    result = theater_upgrade_to_tls_client(other.value, name);
    if (!result.failed) {
        result = told_of_tls(other.value);
        theater_drop(theater_close(other.value));
    }
    theater_drop(other);
    return result;
}

static theater_result accept_one(theater_bytes connection, theater_bytes address) {
    theater_result listener = theater_listen(address), other;
    if (listener.failed) return listener;
    theater_drop(answer(connection, theater_listener_address(listener.value)));
    other = theater_accept(listener.value);
    theater_drop(theater_close_listener(listener.value));
    theater_drop(listener);
    if (other.failed) return other;
    theater_drop(theater_activate(other.value));
    return last_words(other.value);
}

static theater_result upgrade(theater_bytes connection) {
    text line = {0};
    put(&line, TEXT("go on"));
    theater_drop(theater_set_framing(connection, TEXT("raw"), 0));
    theater_drop(answer(connection, value(line)));
    theater_result upgraded = theater_upgrade_to_tls_server(connection);
    return upgraded.failed ? upgraded : theater_set_framing(connection, TEXT("line"), 0);
}

static theater_result obey(theater_bytes connection) {
    text line = {0};
    if (told(TEXT("heard"), 0)) {
        line = heard;
        heard = (text){0};
        return value(line);
    }
    if (told(TEXT("activate"), 0)) return theater_activate(connection);
    if (told(TEXT("mode"), 1)) return theater_set_active(connection, words[1]);
    if (told(TEXT("peer"), 0)) return theater_peer_address(connection);
    if (told(TEXT("local"), 0)) return theater_local_address(connection);
    if (told(TEXT("send"), 1)) {
        theater_result sent = theater_send(connection, words[1]);
        if (sent.failed) return sent;
        put_number(&line, words[1].size);
        return value(line);
    }
    if (told(TEXT("receive"), 1)) return theater_receive(connection, number_in(words[1]));
    if (told(TEXT("shutdown-write"), 0)) return theater_shutdown_write(connection);
    if (told(TEXT("framing"), 2)) return theater_set_framing(connection, words[1], number_in(words[2]));
    if (told(TEXT("option"), 2)) return theater_set_option(connection, words[1], words[2]);
    if (told(TEXT("connect"), 1)) return connect_and_ping(words[1]);
    if (told(TEXT("connect-tls"), 2)) return connect_by_tls(words[1], words[2]);
    if (told(TEXT("accept"), 1)) return accept_one(connection, words[1]);
    if (told(TEXT("tls-available"), 0)) {
        bool available;
        theater_result asked = theater_tls_available(connection, &available);
        if (asked.failed) return asked;
        put(&line, available ? TEXT("true") : TEXT("false"));
        return value(line);
    }
    if (told(TEXT("upgrade"), 0)) return upgrade(connection);
    if (told(TEXT("tls-info"), 0)) return told_of_tls(connection);
    if (told(TEXT("log"), 2)) {
        static const theater_level levels[] = {
            ['d'] = THEATER_DEBUG, ['i'] = THEATER_INFO, ['w'] = THEATER_WARNING, ['e'] = THEATER_ERROR};
        theater_log(levels[words[1].data[0]], words[2]);
        return theater_ok();
    }
    if (told(TEXT("self"), 0)) return (theater_result){false, theater_self()};
    if (told(TEXT("now"), 0)) {
        put_number(&line, theater_now());
        return value(line);
    }
    return theater_fail(TEXT("invalid: no such command"));
}

theater_result actor_init(theater_bytes config) {
    if (theater_equal(config, TEXT("refuse"))) return theater_fail(TEXT("invalid: as it was told"));
    if (theater_equal(config, TEXT("panic"))) __builtin_trap();
    hear(TEXT("init "), TEXT(""));
    put_number(&heard, config.size);
    return theater_ok();
}

theater_result actor_handle_connection(theater_bytes connection) {
    theater_result result = theater_activate(connection);
    if (!result.failed) result = theater_set_framing(connection, TEXT("line"), 0);
    return result.failed ? result : theater_set_active(connection, TEXT("once"));
}

theater_result actor_handle_connection_transfer(theater_bytes connection) {
    hear(TEXT("transfer"), TEXT(""));
    return theater_set_active(connection, TEXT("once"));
}

theater_result actor_on_data(theater_bytes connection, theater_bytes data) {
    theater_result result = theater_ok();
    split(data);
    if (told(TEXT("fail"), 1)) return theater_fail(words[1]);
    if (told(TEXT("panic"), 0)) __builtin_trap();
    if (told(TEXT("close"), 0)) return theater_close(connection);
    if (told(TEXT("abort"), 0)) return theater_abort(connection);
    if (told(TEXT("count"), 1)) return theater_set_active(connection, words[1]);
    if (told(TEXT("counted"), 0)) return theater_ok();
    if (told(TEXT("shutdown"), 0)) {
        theater_shutdown();
    } else if (told(TEXT("transfer"), 1)) {
        theater_result moved = theater_transfer(connection, words[1]);
        if (!moved.failed) return moved;
        result = answer(connection, moved);
    } else {
        result = answer(connection, obey(connection));
    }
    return result.failed ? result : theater_set_active(connection, TEXT("once"));
}

theater_result actor_on_passive(theater_bytes connection) {
    hear(TEXT("passive"), TEXT(""));
    return theater_set_active(connection, TEXT("once"));
}

theater_result actor_on_close(theater_bytes connection, theater_bytes reason) {
    (void)connection;
    hear(TEXT("close "), reason);
    return theater_ok();
}
