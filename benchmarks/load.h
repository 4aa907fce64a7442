/* load.h - what the parts of the load generator share; load.c says what it does and how it measures.
 *
 * The parts, from the bottom: a `transport` moves bytes over a connected socket (load_plain.c, load_tls.c), a `stream`
 * is one connection, a `talk` is where a stream is in a dialogue of lines (load_dialogue.c), a `scenario` decides what
 * a stream does once it is open (load.c).
 */
#ifndef LOAD_H
#define LOAD_H

#include <getopt.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>

enum { AGAIN = -1, FAILED = -2 };       /* what is answered instead of a number of bytes; 0 is the end */

/* One step of a dialogue: wait for a reply with this code (NULL: don't), then send (NULL: nothing). A step with
 * neither ends the dialogue. */
struct exchange {
    const char *expect, *send;
};

struct talk {
    const struct exchange *at;          /* NULL: not begun */
    bool answered;                      /* its reply has come */
    size_t sent;
    size_t column;                      /* in the line that is being read */
    char code[4];                       /* how that line begins */
};

struct stream {
    int fd;                             /* -1: none */
    enum { IDLE, CONNECTING, SECURING, OPEN, FINISHING } phase;
    uint32_t interest;                  /* what epoll watches for */
    bool proven;                        /* its first message has come back */
    bool lived;                         /* a life has ended here */
    uint64_t sent, received;            /* bytes on this connection */
    uint64_t opened_at;
    uint64_t *begun;                    /* when each message on its way was begun: a ring of `window` */
    bool greeted;                       /* the SMTP server has said who it is */
    struct talk talk;
    void *session;                      /* the transport's own */
};

struct transport {
    const char *usage;                  /* its options, in words */
    const struct option *options;       /* the same for getopt_long, ended by {0} */
    bool (*option)(int, const char *);  /* takes one of them; false: its value is wrong */
    void (*start)(void);                /* before the first connect */
    int (*secure)(struct stream *);     /* after the connect: 1 ready, AGAIN, FAILED; sets the interest it needs */
    ssize_t (*read)(struct stream *, void *, size_t);
    ssize_t (*write)(struct stream *, const void *, size_t);
    bool (*holds)(struct stream *);     /* has bytes that epoll does not know of */
    void (*finish)(struct stream *);    /* half-close */
    void (*release)(struct stream *);   /* before the close */
    void (*measure)(bool begins);       /* the measured stretch begins, or has ended: counters are of that */
    void (*summary)(FILE *);            /* its part of the result: JSON, begun by a comma */
};

extern const struct transport plain, tls;

/* Sets what epoll watches for. */
void watch(struct stream *, uint32_t interest);

/* Keeps the reason of a FAILED that errno does not tell. */
void because(const char *why);

/* Carries on a stream's dialogue over a transport: 1 it is over, AGAIN (the interest is set), FAILED. */
int carry_on(struct stream *, const struct exchange *dialogue, const struct transport *);

/* Notes how long an operation took; tells a quantile of what was noted, the longest for 1. */
void note_latency(uint64_t ns);
double latency_us(double quantile);

/* A mail of so many bytes, for the dialogue `mail`. */
void write_mail(size_t size);

extern const struct exchange upgrade_of_line[], upgrade_of_smtp[];     /* STARTTLS, up to the reply that allows it */
extern struct exchange mail[], *const mail_after_greeting;              /* to the reply to QUIT */

#endif
