/* Actors of a Theater in C: the package theater:simple by hand, without a C library.
 *
 *     #include "theater.h"
 *
 *     theater_result actor_handle_connection(theater_bytes connection) {
 *         theater_drop(theater_activate(connection));
 *         return theater_set_active(connection, THEATER_TEXT("active"));
 *     }
 *
 *     theater_result actor_on_data(theater_bytes connection, theater_bytes data) {
 *         return theater_send(connection, data);
 *     }
 *
 * An actor defines those of the actor_... functions that it has something to do in; theater.c brings the others, the
 * exports and the memory. The types below have the layout of the canonical ABI (32-bit memory, UTF-8).
 *
 * Who owns what: parameters of an actor_... function are lent for the call. What a theater_... function gives is the
 * caller's: each theater_result is returned, or goes to theater_drop, or its value goes to theater_free. What is passed
 * to a theater_... function is only lent.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Bytes, or text in UTF-8; no zero at the end. */
typedef struct {
    uint8_t *data;
    size_t size;
} theater_bytes;

/* How a call went. `value` is the error's text where it failed, otherwise what the call gives; no data if that is
 * nothing. */
typedef struct {
    bool failed;
    theater_bytes value;
} theater_result;

#define THEATER_TEXT(literal) ((theater_bytes){(uint8_t *)(literal), sizeof(literal) - 1})

/* ---- What an actor defines */

/* Functions of their own also when optimised, so that the backtrace of a trap has their names. */
#define THEATER_CALLBACK __attribute__((noinline)) theater_result

/* The actor's start. `config` is what its manifest has under `init`: a mapping as JSON, a text as it is. An error, and
 * the actor does not start. Where it is not defined: nothing to do. */
THEATER_CALLBACK actor_init(theater_bytes config);

/* A listener of this actor accepted a connection; it is pending, until it is activated or transferred. Where it is not
 * defined: the connection is closed. */
THEATER_CALLBACK actor_handle_connection(theater_bytes connection);

/* Another actor handed a connection over, or the runtime did that accepted it for this actor; it is open and passive.
 * Where it is not defined: the connection is closed. */
THEATER_CALLBACK actor_handle_connection_transfer(theater_bytes connection);

/* A chunk of a connection whose data is pushed. */
THEATER_CALLBACK actor_on_data(theater_bytes connection, theater_bytes data);

/* The count given to theater_set_active ran out; the connection is passive. */
THEATER_CALLBACK actor_on_passive(theater_bytes connection);

/* The connection ended, and not by this actor's close or abort. The reason is `eof` or the kind of an error, with or
 * without a detail. */
THEATER_CALLBACK actor_on_close(theater_bytes connection, theater_bytes reason);

/* ---- Memory and results */

/* Memory, aligned to 8; where there is no more, the actor traps. Freed blocks are kept for later ones of about their
 * size, so that both calls take the same short time however long the actor runs. */
void *theater_allocate(size_t size);
void *theater_resize(void *old, size_t size);
void theater_free(void *memory); /* NULL is harmless */

theater_bytes theater_copy(theater_bytes bytes);
bool theater_equal(theater_bytes one, theater_bytes other);

static inline theater_result theater_ok(void) {
    return (theater_result){.failed = false};
}

/* An error: `kind` or `kind: detail`. The text is copied. */
theater_result theater_fail(theater_bytes error);

/* The kind of an error, which a program may look at: the text up to the colon. It lies in the result. */
theater_bytes theater_kind(theater_result error);

/* Frees what a result holds; for one that nobody looks at. */
static inline void theater_drop(theater_result result) {
    theater_free(result.value.data);
}

/* ---- Imports as they are. An import that nothing calls is not in the guest. */

#define THEATER_IMPORT(interface, name, function) \
    __attribute__((import_module("theater:simple/" interface), import_name(name))) extern function

#define THEATER_CONNECTION const uint8_t *connection, size_t connection_size

typedef struct {
    bool failed;
    union {
        uint64_t number;
        theater_bytes error;
    };
} theater_number;

typedef struct {
    bool failed;
    union {
        bool flag;
        theater_bytes error;
    };
} theater_flag;

typedef struct {
    bool present;
    theater_bytes text;
} theater_optional_text;

/* A certificate, as its owner's peer sees it. */
typedef struct {
    theater_bytes subject; /* as RFC 4514 writes names */
    theater_bytes issuer;
    struct {
        theater_bytes *items;
        size_t count;
    } names; /* the DNS names and addresses that it is for */
    theater_bytes fingerprint; /* SHA-256, in hexadecimal digits */
} theater_certificate;

/* What the two ends of a TLS connection agreed on. */
typedef struct {
    theater_bytes version; /* TLSv1.3, TLSv1.2 */
    theater_bytes cipher;  /* by OpenSSL's name */
    theater_optional_text alpn;
    theater_optional_text server_name; /* that the client asked for (SNI) */
    bool resumed;
    struct {
        bool present;
        theater_certificate certificate;
    } peer; /* what the peer showed */
} theater_tls_session;

typedef struct {
    bool failed;
    union {
        struct {
            bool encrypted;
            theater_tls_session session; /* if encrypted */
        };
        theater_bytes error;
    };
} theater_tls;

_Static_assert(sizeof(theater_result) == 12, "result<string, string>");
_Static_assert(sizeof(theater_number) == 16, "result<u64, string>");
_Static_assert(sizeof(theater_flag) == 12, "result<bool, string>");
_Static_assert(sizeof(theater_tls) == 88, "result<option<tls-session>, string>");

THEATER_IMPORT("tcp", "connect", void theater_raw_connect)(const uint8_t *address, size_t size, theater_result *);
THEATER_IMPORT("tcp", "listen", void theater_raw_listen)(const uint8_t *address, size_t size, theater_result *);
THEATER_IMPORT("tcp", "accept", void theater_raw_accept)(const uint8_t *listener, size_t size, theater_result *);
THEATER_IMPORT("tcp", "activate", void theater_raw_activate)(THEATER_CONNECTION, theater_result *);
THEATER_IMPORT("tcp", "set-active", void theater_raw_set_active)
(THEATER_CONNECTION, const uint8_t *mode, size_t size, theater_result *);
THEATER_IMPORT("tcp", "transfer", void theater_raw_transfer)
(THEATER_CONNECTION, const uint8_t *target, size_t size, theater_result *);
THEATER_IMPORT("tcp", "peer-address", void theater_raw_peer_address)(THEATER_CONNECTION, theater_result *);
THEATER_IMPORT("tcp", "send", void theater_raw_send)
(THEATER_CONNECTION, const uint8_t *data, size_t size, theater_number *);
THEATER_IMPORT("tcp", "receive", void theater_raw_receive)(THEATER_CONNECTION, uint32_t max_bytes, theater_result *);
THEATER_IMPORT("tcp", "close", void theater_raw_close)(THEATER_CONNECTION, theater_result *);
THEATER_IMPORT("tcp", "close-listener", void theater_raw_close_listener)
(const uint8_t *listener, size_t size, theater_result *);
THEATER_IMPORT("tcp", "upgrade-to-tls-server", void theater_raw_upgrade_to_tls_server)
(THEATER_CONNECTION, theater_result *);
THEATER_IMPORT("tcp", "upgrade-to-tls-client", void theater_raw_upgrade_to_tls_client)
(THEATER_CONNECTION, const uint8_t *server_name, size_t size, theater_result *);

THEATER_IMPORT("tcp-ext", "local-address", void theater_raw_local_address)(THEATER_CONNECTION, theater_result *);
THEATER_IMPORT("tcp-ext", "listener-address", void theater_raw_listener_address)
(const uint8_t *listener, size_t size, theater_result *);
THEATER_IMPORT("tcp-ext", "shutdown-write", void theater_raw_shutdown_write)(THEATER_CONNECTION, theater_result *);
THEATER_IMPORT("tcp-ext", "abort", void theater_raw_abort)(THEATER_CONNECTION, theater_result *);
THEATER_IMPORT("tcp-ext", "set-framing", void theater_raw_set_framing)
(THEATER_CONNECTION, const uint8_t *framing, size_t size, uint32_t max_frame, theater_result *);
THEATER_IMPORT("tcp-ext", "set-option", void theater_raw_set_option)
(THEATER_CONNECTION, const uint8_t *name, size_t name_size, const uint8_t *value, size_t value_size, theater_result *);
THEATER_IMPORT("tcp-ext", "tls-info", void theater_raw_tls_info)(THEATER_CONNECTION, theater_tls *);
THEATER_IMPORT("tcp-ext", "tls-available", void theater_raw_tls_available)(THEATER_CONNECTION, theater_flag *);

THEATER_IMPORT("runtime", "log", void theater_raw_log)(uint32_t level, const uint8_t *message, size_t size);
THEATER_IMPORT("runtime", "self", void theater_raw_self)(theater_bytes *);
THEATER_IMPORT("runtime", "shutdown", void theater_raw_shutdown)(void);

THEATER_IMPORT("clock", "now", uint64_t theater_raw_now)(void);

/* ---- The same for people: theater:simple/tcp */

/* What the host wrote: nothing of no bytes is anybody's to free. */
static inline theater_bytes theater_owned(theater_bytes written) {
    return written.size ? written : (theater_bytes){NULL, 0};
}

/* Calls an import with the area that it writes its result to. */
#define THEATER_CALL(function, ...)               \
    theater_result outcome = {0};                 \
    function(__VA_ARGS__, &outcome);              \
    outcome.value = theater_owned(outcome.value); \
    return outcome
#define THEATER_PASS(bytes) (bytes).data, (bytes).size

/* Connects to host:port, [v6]:port or unix:/path; gives the connection's id. It is open and passive. */
static inline theater_result theater_connect(theater_bytes address) {
    THEATER_CALL(theater_raw_connect, THEATER_PASS(address));
}

/* Listens at host:port, [v6]:port, *:port or unix:/path; gives the listener's id. */
static inline theater_result theater_listen(theater_bytes address) {
    THEATER_CALL(theater_raw_listen, THEATER_PASS(address));
}

/* Waits for the next connection of a listener; gives the id of a pending connection. */
static inline theater_result theater_accept(theater_bytes listener) {
    THEATER_CALL(theater_raw_accept, THEATER_PASS(listener));
}

/* Makes a pending connection open, in passive mode. */
static inline theater_result theater_activate(theater_bytes connection) {
    THEATER_CALL(theater_raw_activate, THEATER_PASS(connection));
}

/* Changes how data arrives: passive, active, once, or a number from 1 to 32767. */
static inline theater_result theater_set_active(theater_bytes connection, theater_bytes mode) {
    THEATER_CALL(theater_raw_set_active, THEATER_PASS(connection), THEATER_PASS(mode));
}

/* Hands a connection to another actor. `no-such-actor` if there is none that takes it; nothing has changed then. */
static inline theater_result theater_transfer(theater_bytes connection, theater_bytes target) {
    THEATER_CALL(theater_raw_transfer, THEATER_PASS(connection), THEATER_PASS(target));
}

/* Gives the peer's address, as theater_connect takes it. */
static inline theater_result theater_peer_address(theater_bytes connection) {
    THEATER_CALL(theater_raw_peer_address, THEATER_PASS(connection));
}

/* Sends all of the data, waiting while the peer is too slow. */
static inline theater_result theater_send(theater_bytes connection, theater_bytes data) {
    theater_number sent;
    theater_raw_send(THEATER_PASS(connection), THEATER_PASS(data), &sent);
    return sent.failed ? (theater_result){true, theater_owned(sent.error)} : theater_ok();
}

/* Waits for 1 to max_bytes bytes of a passive connection; no bytes are the end of the stream. */
static inline theater_result theater_receive(theater_bytes connection, uint32_t max_bytes) {
    THEATER_CALL(theater_raw_receive, THEATER_PASS(connection), max_bytes);
}

/* Sends what is still to be sent, then ends the connection. Returns at once; no callback follows. */
static inline theater_result theater_close(theater_bytes connection) {
    THEATER_CALL(theater_raw_close, THEATER_PASS(connection));
}

/* Stops listening; connections that were accepted go on. */
static inline theater_result theater_close_listener(theater_bytes listener) {
    THEATER_CALL(theater_raw_close_listener, THEATER_PASS(listener));
}

/* Goes on in TLS, as the server (STARTTLS); returns when the handshake is done. */
static inline theater_result theater_upgrade_to_tls_server(theater_bytes connection) {
    THEATER_CALL(theater_raw_upgrade_to_tls_server, THEATER_PASS(connection));
}

/* Goes on in TLS, as the client; server_name is the name that the server's certificate must show. */
static inline theater_result theater_upgrade_to_tls_client(theater_bytes connection, theater_bytes server_name) {
    THEATER_CALL(theater_raw_upgrade_to_tls_client, THEATER_PASS(connection),
                 THEATER_PASS(server_name));
}

/* ---- theater:simple/tcp-ext */

/* Gives the local address of a connection. */
static inline theater_result theater_local_address(theater_bytes connection) {
    THEATER_CALL(theater_raw_local_address, THEATER_PASS(connection));
}

/* Gives the address that a listener is bound to, with the real port. */
static inline theater_result theater_listener_address(theater_bytes listener) {
    THEATER_CALL(theater_raw_listener_address, THEATER_PASS(listener));
}

/* Half-close: what was sent goes out, then the end of the stream; receiving goes on. */
static inline theater_result theater_shutdown_write(theater_bytes connection) {
    THEATER_CALL(theater_raw_shutdown_write, THEATER_PASS(connection));
}

/* Resets the connection at once; what was not sent is lost. No callback follows. */
static inline theater_result theater_abort(theater_bytes connection) {
    THEATER_CALL(theater_raw_abort, THEATER_PASS(connection));
}

/* Cuts the stream into chunks: raw, line, length-1, length-2, length-4. max_frame is the longest line or frame in
 * bytes; 0 is the connection's read_buffer_limit. */
static inline theater_result theater_set_framing(theater_bytes connection, theater_bytes framing, uint32_t max_frame) {
    THEATER_CALL(theater_raw_set_framing, THEATER_PASS(connection), THEATER_PASS(framing), max_frame);
}

/* Changes an option by the name and the units that it has in a manifest: idle_timeout, 5 min. */
static inline theater_result theater_set_option(theater_bytes connection, theater_bytes name, theater_bytes value) {
    THEATER_CALL(theater_raw_set_option, THEATER_PASS(connection), THEATER_PASS(name),
                 THEATER_PASS(value));
}

/* What was agreed on in TLS. For theater_drop_tls afterwards. */
static inline theater_tls theater_tls_info(theater_bytes connection) {
    theater_tls outcome;
    theater_raw_tls_info(THEATER_PASS(connection), &outcome);
    return outcome;
}

/* Frees what theater_tls_info gave. */
void theater_drop_tls(const theater_tls *tls);

/* Whether theater_upgrade_to_tls_server could begin: the connection is plaintext, and a certificate is configured. */
static inline theater_result theater_tls_available(theater_bytes connection, bool *available) {
    theater_flag outcome;
    theater_raw_tls_available(THEATER_PASS(connection), &outcome);
    if (outcome.failed) return (theater_result){true, theater_owned(outcome.error)};
    *available = outcome.flag;
    return theater_ok();
}

/* ---- theater:simple/runtime and clock */

typedef enum { THEATER_DEBUG, THEATER_INFO, THEATER_WARNING, THEATER_ERROR } theater_level;

/* Writes a line into the runtime's log, under the actor's name. */
static inline void theater_log(theater_level level, theater_bytes message) {
    theater_raw_log(level, THEATER_PASS(message));
}

/* The id of this actor: where others transfer connections to. The caller frees its data. */
static inline theater_bytes theater_self(void) {
    theater_bytes id;
    theater_raw_self(&id);
    return id;
}

/* Ends this actor when the call that it is in returns; its connections and listeners are closed. */
static inline void theater_shutdown(void) {
    theater_raw_shutdown();
}

/* Milliseconds since 1970-01-01 00:00 UTC. In the world server-with-clock, for a manifest with `grants: [clock]`. */
static inline uint64_t theater_now(void) {
    return theater_raw_now();
}
