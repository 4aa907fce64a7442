/* load_plain.c - the transport of the load generator that is the socket itself. */
#include <errno.h>
#include <sys/socket.h>

#include "load.h"

static const struct option no_options[] = {{0}};

static bool no_option(int c, const char *value) { (void)c; (void)value; return false; }

static void nothing_to_start(void) {}

static int is_ready(struct stream *s) { (void)s; return 1; }

static ssize_t answer(ssize_t n) { return n >= 0 ? n : errno == EAGAIN || errno == EINTR ? AGAIN : FAILED; }

static ssize_t read_plain(struct stream *s, void *to, size_t n) { return answer(recv(s->fd, to, n, 0)); }

static ssize_t write_plain(struct stream *s, const void *from, size_t n) {
    return answer(send(s->fd, from, n, MSG_NOSIGNAL));
}

static bool holds_nothing(struct stream *s) { (void)s; return false; }

static void finish_plain(struct stream *s) { shutdown(s->fd, SHUT_WR); }

static void nothing_to_release(struct stream *s) { (void)s; }

static void nothing_to_count(bool begins) { (void)begins; }

static void nothing_to_tell(FILE *to) { (void)to; }

const struct transport plain = {
    "", no_options, no_option, nothing_to_start, is_ready, read_plain, write_plain, holds_nothing, finish_plain,
    nothing_to_release, nothing_to_count, nothing_to_tell,
};
