/* What stands between the runtime and an actor in C: memory, exports, and the callbacks that an actor leaves out. */
#include "theater.h"

#define EXPORT(name) __attribute__((export_name(name)))

/* ---- Memory
 *
 * A block has its class in front of it. The blocks of a class are 2^n or 1.5 * 2^n bytes long, all of them, and those
 * which are free stand in a list: the actor never holds more than the most it ever had of each class, at one time. */

typedef struct block {
    uint32_t class;
    uint32_t unused; /* what follows is aligned to 8 */
    struct block *next; /* while it is free; the caller's bytes begin here */
} block;

enum { HEADER = offsetof(block, next), SMALLEST = 32, LARGEST = 1 << 30, PAGE = 1 << 16 };

extern uint8_t __heap_base; /* where the linker's data ends */
static block *released[64];
static uintptr_t top; /* what lies above was never used */

/* The class of blocks with this many bytes or a few more, and how many those have. */
static uint32_t class_of(size_t size, size_t *length) {
    uint32_t power = 31 - (uint32_t)__builtin_clz((uint32_t)size - 1); /* 2^power < size <= 2^(power + 1) */
    size_t half_more = ((size_t)3 << power) / 2;
    if (size <= half_more) {
        *length = half_more;
        return 2 * power;
    }
    *length = (size_t)2 << power;
    return 2 * power + 1;
}

static uint32_t class_for(size_t size, size_t *length) {
    if (size > LARGEST - HEADER) __builtin_trap();
    size += HEADER;
    return class_of(size < SMALLEST ? SMALLEST : size, length);
}

static block *of(void *memory) {
    return (block *)((uint8_t *)memory - HEADER);
}

void *theater_allocate(size_t size) {
    size_t length;
    uint32_t class = class_for(size, &length);
    block *found = released[class];
    if (found) {
        released[class] = found->next;
        return &found->next;
    }
    if (!top) top = ((uintptr_t)&__heap_base + 15) & ~(uintptr_t)15;
    uintptr_t room = (uintptr_t)__builtin_wasm_memory_size(0) * PAGE - top;
    if (length > room) {
        size_t pages = (length - room + PAGE - 1) / PAGE;
        if (__builtin_wasm_memory_grow(0, pages) == (size_t)-1) __builtin_trap();
    }
    found = (block *)top;
    top += length;
    found->class = class;
    return &found->next;
}

void theater_free(void *memory) {
    if (!memory) return;
    block *unused = of(memory);
    unused->next = released[unused->class];
    released[unused->class] = unused;
}

void *theater_resize(void *old, size_t size) {
    if (!old) return theater_allocate(size);
    size_t length, old_length;
    uint32_t class = of(old)->class;
    if (class_for(size, &length) == class) return old;
    old_length = (class % 2 ? (size_t)2 << class / 2 : ((size_t)3 << class / 2) / 2) - HEADER;
    void *new = theater_allocate(size);
    __builtin_memcpy(new, old, size < old_length ? size : old_length);
    theater_free(old);
    return new;
}

/* The runtime's way to memory. What it gets is freed by the actor; nothing of no bytes ever is. */
EXPORT("cabi_realloc") void *theater_reallocate(void *old, size_t old_size, size_t alignment, size_t size) {
    if (size == 0) {
        if (old_size) theater_free(old);
        return NULL;
    }
    if (alignment > 8) __builtin_trap();
    return theater_resize(old_size ? old : NULL, size);
}

theater_bytes theater_copy(theater_bytes bytes) {
    theater_bytes copy = {bytes.size ? theater_allocate(bytes.size) : NULL, bytes.size};
    if (bytes.size) __builtin_memcpy(copy.data, bytes.data, bytes.size);
    return copy;
}

bool theater_equal(theater_bytes one, theater_bytes other) {
    if (one.size != other.size) return false;
    for (size_t at = 0; at < one.size; at++)
        if (one.data[at] != other.data[at]) return false;
    return true;
}

theater_result theater_fail(theater_bytes error) {
    return (theater_result){true, theater_copy(error)};
}

theater_bytes theater_kind(theater_result error) {
    theater_bytes kind = {error.value.data, 0};
    while (kind.size < error.value.size && kind.data[kind.size] != ':') kind.size++;
    return kind;
}

/* Frees what the host wrote. */
static void release(theater_bytes written) {
    if (written.size) theater_free(written.data);
}

void theater_drop_tls(const theater_tls *tls) {
    if (tls->failed) {
        release(tls->error);
        return;
    }
    if (!tls->encrypted) return;
    const theater_tls_session *session = &tls->session;
    release(session->version);
    release(session->cipher);
    if (session->alpn.present) release(session->alpn.text);
    if (session->server_name.present) release(session->server_name.text);
    if (!session->peer.present) return;
    const theater_certificate *certificate = &session->peer.certificate;
    release(certificate->subject);
    release(certificate->issuer);
    release(certificate->fingerprint);
    for (size_t at = 0; at < certificate->names.count; at++) release(certificate->names.items[at]);
    if (certificate->names.count) theater_free(certificate->names.items);
}

/* ---- Callbacks that the actor leaves out */

#define DEFAULT __attribute__((weak))

DEFAULT theater_result actor_init(theater_bytes config) {
    (void)config;
    return theater_ok();
}

DEFAULT theater_result actor_handle_connection(theater_bytes connection) {
    return theater_close(connection);
}

DEFAULT theater_result actor_handle_connection_transfer(theater_bytes connection) {
    return theater_close(connection);
}

DEFAULT theater_result actor_on_data(theater_bytes connection, theater_bytes data) {
    (void)connection, (void)data;
    return theater_ok();
}

DEFAULT theater_result actor_on_passive(theater_bytes connection) {
    (void)connection;
    return theater_ok();
}

DEFAULT theater_result actor_on_close(theater_bytes connection, theater_bytes reason) {
    (void)connection, (void)reason;
    return theater_ok();
}

/* ---- Exports: the parameters are ours, and are freed; the result is read by the runtime, which then calls
 * post_return. One area is enough, since no export is entered again before. */

static theater_result returned;

static theater_result *give(theater_result result) {
    if (!result.failed) theater_drop(result); /* a callback has no value */
    returned = result;
    return &returned;
}

static void post_return(const theater_result *result) {
    if (result->failed) theater_drop(*result);
}

#define EXPORTS_OF(name, function, parameters, ...)                                   \
    EXPORT(name) theater_result *theater_export_##function parameters {               \
        theater_result result = actor_##function(__VA_ARGS__);                        \
        const theater_bytes lent[] = {__VA_ARGS__};                                   \
        for (size_t at = 0; at < sizeof lent / sizeof *lent; at++) release(lent[at]); \
        return give(result);                                                          \
    }                                                                                 \
    EXPORT("cabi_post_" name) void theater_post_##function(const theater_result *result) { post_return(result); }

#define ONE uint8_t *one, size_t one_size
#define TWO uint8_t *two, size_t two_size
#define FIRST ((theater_bytes){one, one_size})
#define SECOND ((theater_bytes){two, two_size})

EXPORTS_OF("theater:simple/actor#init", init, (ONE), FIRST)
EXPORTS_OF("theater:simple/tcp-client#handle-connection", handle_connection, (ONE), FIRST)
EXPORTS_OF("theater:simple/tcp-client#handle-connection-transfer", handle_connection_transfer, (ONE), FIRST)
EXPORTS_OF("theater:simple/tcp-client#on-data", on_data, (ONE, TWO), FIRST, SECOND)
EXPORTS_OF("theater:simple/tcp-client#on-passive", on_passive, (ONE), FIRST)
EXPORTS_OF("theater:simple/tcp-client#on-close", on_close, (ONE, TWO), FIRST, SECOND)
