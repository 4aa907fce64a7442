/* load_tls.c - the transport of the load generator that is TLS 1.3 over the socket, with OpenSSL (Debian: libssl-dev).
 *
 *   --starttls line|smtp   begin in plaintext: "STARTTLS" and a reply 220; or SMTP's greeting, EHLO and STARTTLS
 *   --resume               each connection of a slot resumes the session of the one before, by its last ticket
 *   --ca FILE              verify the server's certificate, for the name "localhost"
 *
 * Everything that decides what a handshake costs is fixed here, so no server can choose a cheaper one: version 1.3, the
 * cipher TLS_AES_256_GCM_SHA384, X25519, ECDSA with P-256. What was negotiated stands in the result nevertheless. Of the
 * measured stretch there are the handshakes, how many of them resumed a session, the tickets that came over connections
 * that ended, and how many of these ended without close_notify.
 */
#include <errno.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "load.h"

static const char SUITES[] = "TLS_AES_256_GCM_SHA384", GROUPS[] = "X25519", SIGNATURES[] = "ECDSA+SHA256";
static const char NAME[] = "localhost";
enum { READ_AHEAD = 1 << 16 };

struct session {
    SSL *ssl;                           /* NULL: no handshake was begun */
    SSL_SESSION *ticket;                /* the last that came; it outlives the connection */
    unsigned tickets;                   /* how many came over this connection */
    bool cut;                           /* the stream has ended without close_notify */
};

static SSL_CTX *context;
static const struct exchange *upgrade;  /* the dialogue before the handshake; NULL: none */
static const char *ca;
static bool resume;
static struct counts { uint64_t handshakes, resumed, tickets, truncated; } counted, measured;
static char negotiated[160];

static const struct option tls_options[] = {{"starttls", 1, 0, 'T'}, {"resume", 0, 0, 'R'}, {"ca", 1, 0, 'A'}, {0}};

static bool tls_option(int c, const char *value) {
    if (c == 'R') return resume = true;
    if (c == 'A') return (ca = value);
    upgrade = !strcmp(value, "line") ? upgrade_of_line : !strcmp(value, "smtp") ? upgrade_of_smtp : NULL;
    return upgrade;
}

static int keep_ticket(SSL *ssl, SSL_SESSION *ticket) {
    struct stream *s = SSL_get_app_data(ssl);
    struct session *session = s->session;
    session->tickets++;
    SSL_SESSION_free(session->ticket);
    session->ticket = ticket;
    return 1;                           /* the reference is ours */
}

static void start_tls(void) {
    context = SSL_CTX_new(TLS_client_method());
    SSL_CTX_set_min_proto_version(context, TLS1_3_VERSION);
    SSL_CTX_set_mode(context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    SSL_CTX_set_mode(context, SSL_MODE_RELEASE_BUFFERS);
    SSL_CTX_set_read_ahead(context, 1);
    SSL_CTX_set_default_read_buffer_len(context, READ_AHEAD);
    SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
    SSL_CTX_sess_set_new_cb(context, keep_ticket);
    bool fine = SSL_CTX_set_ciphersuites(context, SUITES) && SSL_CTX_set1_groups_list(context, GROUPS) &&
                SSL_CTX_set1_sigalgs_list(context, SIGNATURES);
    if (!fine) {
        fprintf(stderr, "load: this OpenSSL lacks one of %s, %s, %s\n", SUITES, GROUPS, SIGNATURES);
        exit(1);
    }
    if (!ca) return;
    SSL_CTX_set_verify(context, SSL_VERIFY_PEER, NULL);
    if (!SSL_CTX_load_verify_file(context, ca)) {
        fprintf(stderr, "load: %s has no certificate that can be read\n", ca);
        exit(1);
    }
}

/* What became of a call that did not succeed: AGAIN, 0 for the end, FAILED. */
static int outcome(struct stream *s, int returned) {
    struct session *session = s->session;
    unsigned long error;
    switch (SSL_get_error(session->ssl, returned)) {
    case SSL_ERROR_WANT_READ:
    case SSL_ERROR_WANT_WRITE:
        return AGAIN;
    case SSL_ERROR_ZERO_RETURN:
        return 0;
    case SSL_ERROR_SSL:
        error = ERR_peek_error();
        if (ERR_GET_REASON(error) == SSL_R_UNEXPECTED_EOF_WHILE_READING && SSL_is_init_finished(session->ssl)) {
            session->cut = true;
            counted.truncated++;
            return 0;
        }
        because(ERR_reason_error_string(error) ? ERR_reason_error_string(error) : "TLS failed");
        return FAILED;
    default:
        return FAILED;
    }
}

static int agree(struct stream *s, SSL *ssl) {
    char now[sizeof negotiated];
    snprintf(now, sizeof now, "\"version\": \"%s\", \"cipher\": \"%s\", \"group\": \"%s\"", SSL_get_version(ssl),
             SSL_get_cipher_name(ssl), SSL_group_to_name(ssl, (int)SSL_get_negotiated_group(ssl)));
    if (!*negotiated) memcpy(negotiated, now, sizeof now);
    if (strcmp(negotiated, now)) { because("something else was negotiated than before"); return FAILED; }
    counted.handshakes++;
    counted.resumed += (uint64_t)SSL_session_reused(ssl);
    s->greeted = upgrade == upgrade_of_smtp;
    return 1;
}

static SSL *begin(struct stream *s) {
    struct session *session = s->session;
    SSL *ssl = session->ssl = SSL_new(context);
    SSL_set_app_data(ssl, s);
    SSL_set_fd(ssl, s->fd);
    SSL_set_tlsext_host_name(ssl, NAME);
    if (ca) SSL_set1_host(ssl, NAME);
    if (resume && session->ticket) SSL_set_session(ssl, session->ticket);
    return ssl;
}

static int secure_tls(struct stream *s) {
    struct session *session = s->session;
    if (!session) session = s->session = calloc(1, sizeof *session);
    if (!session->ssl && upgrade) {
        int over = carry_on(s, upgrade, &plain);
        if (over != 1) return over;
    }
    SSL *ssl = session->ssl ? session->ssl : begin(s);
    ERR_clear_error();
    int returned = SSL_connect(ssl);
    if (returned == 1) return agree(s, ssl);
    if (outcome(s, returned) != AGAIN) return FAILED;
    watch(s, SSL_want_write(ssl) ? EPOLLOUT : EPOLLIN);
    return AGAIN;
}

static ssize_t read_tls(struct stream *s, void *to, size_t n) {
    struct session *session = s->session;
    size_t got = 0;
    while (got < n && !session->cut) {
        ERR_clear_error();
        int returned = SSL_read(session->ssl, (char *)to + got, (int)(n - got));
        if (returned <= 0) {
            int what = outcome(s, returned);
            return got ? (ssize_t)got : what;
        }
        got += (size_t)returned;
    }
    return (ssize_t)got;
}

static ssize_t write_tls(struct stream *s, const void *from, size_t n) {
    ERR_clear_error();
    int returned = SSL_write(((struct session *)s->session)->ssl, from, (int)n);
    if (returned > 0) return returned;
    return outcome(s, returned) == AGAIN ? AGAIN : FAILED;
}

static bool holds_tls(struct stream *s) { return SSL_has_pending(((struct session *)s->session)->ssl); }

static void finish_tls(struct stream *s) {
    ERR_clear_error();
    SSL_shutdown(((struct session *)s->session)->ssl);     /* close_notify, and no more */
    shutdown(s->fd, SHUT_WR);
}

static void release_tls(struct stream *s) {
    struct session *session = s->session;
    if (!session) return;
    counted.tickets += session->tickets;
    SSL_free(session->ssl);
    *session = (struct session){.ticket = session->ticket};
}

static void measure_tls(bool begins) {
    if (!begins) measured = counted;
    counted = (struct counts){0};
}

static void tell_tls(FILE *to) {
    fprintf(to, ", \"tls\": {%s%s\"library\": \"%s\", \"handshakes\": %llu, \"resumed\": %llu, \"tickets\": %llu, "
                "\"truncated\": %llu}",
            negotiated, *negotiated ? ", " : "", OpenSSL_version(OPENSSL_VERSION),
            (unsigned long long)measured.handshakes, (unsigned long long)measured.resumed,
            (unsigned long long)measured.tickets, (unsigned long long)measured.truncated);
}

const struct transport tls = {
    " [--starttls line|smtp] [--resume] [--ca FILE]", tls_options, tls_option, start_tls, secure_tls, read_tls,
    write_tls, holds_tls, finish_tls, release_tls, measure_tls, tell_tls,
};
