/* load.c - a load generator for servers that send back what they get. One thread, one epoll, loopback only.
 *
 *   cc -O2 -o load load.c load_plain.c load_dialogue.c load_latency.c
 *   cc -O2 -DTRANSPORT=tls -o load-tls (the same, and) load_tls.c -lssl -lcrypto
 *   load --port P --scenario echo|churn|hold|meet|mail [--connections N] [--size BYTES] [--window MESSAGES]
 *        [--seconds S] [--warmup S] [--cpu-of PID]... [--verify]
 *
 * echo   N connections, each with WINDOW messages of BYTES bytes on their way. A window of 1 is ping-pong, a larger one
 *        with large messages is bulk. An operation is a message that has come back whole.
 * churn  N slots, each over and over: connect, one message there and back, half-close, wait for the server's end,
 *        close. An operation is such a life.
 * hold   opens N connections, sends one message over each, says so, then keeps them idle until its standard input
 *        closes, and says how many the server dropped meanwhile.
 * meet   churn without the message: what connecting costs, with TLS the handshake.
 * mail   churn where the message is a mail of BYTES bytes, and the server speaks SMTP.
 *
 * How it measures. A run opens its connections, warms up, measures, and ends. It goes on from opening when every
 * connection has echoed a first message, so connecting is never part of an echo figure, or when every slot has seen a
 * life. It measures for the seconds it was told, and until there is an operation. At both ends of the measured
 * stretch the CPU clocks of the processes named by --cpu-of are read (nanoseconds, threads that ended included), and at
 * the same instants the count of operations: server CPU for each operation needs no other bookkeeping. Lives that are
 * under way at the end go on to their own end, uncounted. The answer is one line of JSON; times in it are microseconds
 * unless named otherwise, and `lives` are those that ended well, measured or not.
 *
 * Connections come from many loopback addresses in turn, so that neither TIME_WAIT nor tens of thousands of live
 * connections use up the ports of one. load.h tells the parts; load_tls.c has the options of the TLS program.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "load.h"

#ifndef TRANSPORT
#define TRANSPORT plain
#endif
#ifndef IP_BIND_ADDRESS_NO_PORT
#define IP_BIND_ADDRESS_NO_PORT 24
#endif

enum { EVENTS = 1024, READ_SIZE = 1 << 18, READS_IN_A_TURN = 8 };
enum { MAX_UNPROVEN = 256 };            /* below every server's backlog: a dropped SYN costs a second */
enum { SOURCE_ADDRESSES = 64, MAX_WATCHED = 8, MAX_ERRORS = 1000 };
static const double OPENING_LIMIT_S = 120, PATIENCE_S = 5, ENDING_LIMIT_S = 5;

/* ---------------------------------------------------------------------------------------------- options, counters */

static struct {
    int port, connections, window;
    size_t size;
    double seconds, warmup;
    bool verify;
    pid_t watched[MAX_WATCHED];
    int watched_count;
} options = {.connections = 1, .window = 1, .size = 64, .seconds = 1, .warmup = 0.2};

struct cpu_reading { double own_us, watched_us; };

static struct {
    enum { OPENING, WARMING, MEASURING, ENDING, OVER } stage;
    int launched, unproven, proven, alive, lived;
    uint64_t stage_ends, measured_from, measured_to;
    struct cpu_reading cpu_from, cpu_to;
    uint64_t operations, lives, bytes, errors;
    char reason[120], first_error[160];
} run;

static const struct transport *const transport = &TRANSPORT;

static int poller;
static char *payload;                   /* one message; sent over and over */
static char inbox[READ_SIZE] __attribute__((aligned(4096)));

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static double clock_us(clockid_t clock) {
    struct timespec t;
    return clock_gettime(clock, &t) ? 0 : t.tv_sec * 1e6 + t.tv_nsec / 1e3;
}

static struct cpu_reading read_cpu(void) {
    struct cpu_reading reading = {.own_us = clock_us(CLOCK_PROCESS_CPUTIME_ID)};
    for (int i = 0; i < options.watched_count; i++) {
        clockid_t clock;
        if (clock_getcpuclockid(options.watched[i], &clock) == 0) reading.watched_us += clock_us(clock);
    }
    return reading;
}

/* ------------------------------------------------------------------------------------------------------- streams */

struct scenario {
    const char *name;
    void (*opened)(struct stream *);                                /* it may say something now */
    void (*received)(struct stream *, uint64_t messages_before);    /* bytes came; NULL: it reads for itself */
    bool single;                        /* one message on each connection, whatever the window */
    bool reopens;                       /* a stream that has ended opens again */
    bool holds;                         /* its streams stay open, idle */
};
static const struct scenario *scenario;

void watch(struct stream *s, uint32_t interest) {
    if (s->interest == interest) return;
    s->interest = interest;
    epoll_ctl(poller, EPOLL_CTL_MOD, s->fd, &(struct epoll_event){interest, {.ptr = s}});
}

void because(const char *why) { snprintf(run.reason, sizeof run.reason, "%s", why); }

static void fail(const char *where) {
    const char *why = *run.reason ? run.reason : strerror(errno);
    if (run.errors++ == 0) snprintf(run.first_error, sizeof run.first_error, "%s: %s", where, why);
    *run.reason = 0;
}

static void release(struct stream *s) {
    transport->release(s);
    close(s->fd);
    s->fd = -1;
    s->phase = IDLE;
    run.alive--;
    if (!s->proven) run.unproven--;
}

static bool open_stream(struct stream *s) {
    static unsigned serial;
    static const int yes = 1;
    s->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (s->fd < 0) { fail("socket"); return false; }
    struct sockaddr_in from = {.sin_family = AF_INET, .sin_addr = {htonl(0x7f000002 + serial++ % SOURCE_ADDRESSES)}};
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    to.sin_port = htons(options.port);
    setsockopt(s->fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    setsockopt(s->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &yes, sizeof yes);
    s->opened_at = now_ns();
    if (bind(s->fd, (struct sockaddr *)&from, sizeof from) ||
        (connect(s->fd, (struct sockaddr *)&to, sizeof to) && errno != EINPROGRESS)) {
        fail("connect");
        close(s->fd);
        s->fd = -1;
        return false;
    }
    s->phase = CONNECTING;
    s->proven = s->greeted = false;
    s->sent = s->received = 0;
    s->talk = (struct talk){0};
    s->interest = EPOLLOUT;
    epoll_ctl(poller, EPOLL_CTL_ADD, s->fd, &(struct epoll_event){s->interest, {.ptr = s}});
    run.unproven++;
    run.alive++;
    return true;
}

static void end_stream(struct stream *s, const char *failure) {
    if (failure) fail(failure);
    release(s);
    if (scenario->reopens && run.stage < ENDING && run.errors < MAX_ERRORS) open_stream(s);
}

static void prove(struct stream *s) {
    if (s->proven) return;
    s->proven = true;
    run.unproven--;
    run.proven++;
}

static void finish(struct stream *s) {
    s->phase = FINISHING;
    watch(s, EPOLLIN);
    transport->finish(s);
}

/* Fills the window: what may be out are the messages that came back whole and a window more. While the run opens its
 * connections each sends its first message alone, or those that are open would starve those that want to be. */
static void send_more(struct stream *s) {
    bool single = scenario->single || run.stage == OPENING;
    uint64_t whole = scenario->single ? 0 : s->received / options.size;
    uint64_t limit = (whole + (single ? 1 : (uint64_t)options.window)) * options.size;
    while (s->sent < limit) {
        size_t offset = s->sent % options.size;
        if (offset == 0) s->begun[s->sent / options.size % (uint64_t)options.window] = now_ns();
        ssize_t n = transport->write(s, payload + offset, options.size - offset);
        if (n == AGAIN) { watch(s, EPOLLIN | EPOLLOUT); return; }
        if (n == FAILED) { end_stream(s, "send"); return; }
        s->sent += (uint64_t)n;
    }
    watch(s, EPOLLIN);
}

static void check(const struct stream *s, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (inbox[i] != payload[(s->received + i) % options.size]) {
            fprintf(stderr, "load: byte %llu of a stream came back wrong\n", (unsigned long long)(s->received + i));
            exit(1);
        }
}

static void receive_some(struct stream *s) {
    for (int turn = 0; turn < READS_IN_A_TURN || transport->holds(s); turn++) {
        ssize_t n = transport->read(s, inbox, sizeof inbox);
        if (n == AGAIN) return;
        if (n == 0 && s->phase == FINISHING) {          /* the end of a life */
            if (run.stage == MEASURING) { run.operations++; note_latency(now_ns() - s->opened_at); }
            run.lives++;
            run.lived += !s->lived;
            s->lived = true;
            prove(s);
            end_stream(s, NULL);
            return;
        }
        if (n <= 0) {
            if (n == 0) because("early end of stream");
            end_stream(s, "receive");
            return;
        }
        if (!scenario->received) continue;
        if (options.verify) check(s, (size_t)n);
        uint64_t before = s->received / options.size;
        s->received += (uint64_t)n;
        if (run.stage == MEASURING) run.bytes += (uint64_t)n;
        if (s->received >= options.size) prove(s);
        scenario->received(s, before);
        if (s->fd < 0 || (size_t)n < sizeof inbox) return;  /* what is left, epoll tells */
    }
}

static void on_event(struct stream *s, uint32_t events) {
    if (s->phase == CONNECTING) {
        socklen_t size = sizeof errno;
        getsockopt(s->fd, SOL_SOCKET, SO_ERROR, &errno, &size);
        if (errno) { end_stream(s, "connect"); return; }
        s->phase = SECURING;
    }
    if (s->phase == SECURING) {
        int ready = transport->secure(s);
        if (ready == FAILED) end_stream(s, "handshake");
        if (ready != 1) return;
        s->phase = OPEN;
        scenario->opened(s);
        return;
    }
    if (s->phase == OPEN && (events & EPOLLOUT || !scenario->received)) scenario->opened(s);
    if (s->phase == OPEN && !scenario->received) return;
    if (s->fd >= 0 && events & (EPOLLIN | EPOLLHUP | EPOLLERR)) receive_some(s);
}

/* ----------------------------------------------------------------------------------------------------- scenarios */

static void echo_received(struct stream *s, uint64_t before) {
    uint64_t after = s->received / options.size;
    if (after > before && run.stage == MEASURING) {
        uint64_t t = now_ns();
        for (uint64_t m = before; m < after; m++) note_latency(t - s->begun[m % (uint64_t)options.window]);
        run.operations += after - before;
    }
    if (after > before && run.stage != OPENING) send_more(s);
}

static void churn_received(struct stream *s, uint64_t before) {
    (void)before;
    if (s->received >= options.size && s->phase != FINISHING) finish(s);
}

static void hold_received(struct stream *s, uint64_t before) { (void)s; (void)before; }

static void send_mail(struct stream *s) {
    int over = carry_on(s, s->greeted ? mail_after_greeting : mail, transport);
    if (over == 1) finish(s);
    if (over == FAILED) end_stream(s, "mail");
}

static const struct scenario scenarios[] = {
    {"echo", send_more, echo_received, false, false, false}, {"churn", send_more, churn_received, true, true, false},
    {"hold", send_more, hold_received, true, false, true},   {"meet", finish, NULL, true, true, false},
    {"mail", send_mail, NULL, true, true, false},
};

/* ----------------------------------------------------------------------------------------------------------- run */

static void next_stage(struct stream *streams, uint64_t t) {
    switch (run.stage) {
    case OPENING:
        if (run.launched == options.connections && (scenario->reopens ? run.lived == run.launched : !run.unproven)) {
            run.stage = scenario->holds ? OVER : WARMING;
            run.stage_ends = t + (uint64_t)(options.warmup * 1e9);
            if (!scenario->single)
                for (int i = 0; i < options.connections; i++)
                    if (streams[i].phase == OPEN) send_more(&streams[i]);
        } else if (t > run.stage_ends) {
            errno = ETIMEDOUT;
            fail("opening");
            run.stage = OVER;
        }
        break;
    case WARMING:
        if (t < run.stage_ends) break;
        run.stage = MEASURING;
        transport->measure(true);
        run.cpu_from = read_cpu();
        run.measured_from = now_ns();
        run.stage_ends = run.measured_from + (uint64_t)(options.seconds * 1e9);
        break;
    case MEASURING:
        if (t < run.stage_ends || (run.operations == 0 && t < run.stage_ends + (uint64_t)(PATIENCE_S * 1e9))) break;
        run.cpu_to = read_cpu();
        run.measured_to = now_ns();
        transport->measure(false);
        run.stage = scenario->reopens ? ENDING : OVER;
        run.stage_ends = run.measured_to + (uint64_t)(ENDING_LIMIT_S * 1e9);
        break;
    case ENDING:
        if (t < run.stage_ends) break;
        because("a life that was under way did not end");
        fail("ending");
        run.stage = OVER;
        break;
    case OVER:
        break;
    }
    if (run.stage != OVER && run.launched == options.connections && run.alive == 0) run.stage = OVER;
    if (run.errors >= MAX_ERRORS) run.stage = OVER;
}

static void turn(int timeout_ms) {
    static struct epoll_event events[EVENTS];
    int n = epoll_wait(poller, events, EVENTS, timeout_ms);
    for (int i = 0; i < n; i++) {
        struct stream *s = events[i].data.ptr;
        if (s->fd >= 0) on_event(s, events[i].events);
    }
}

static void print_result(void) {
    double seconds = (double)(run.measured_to - run.measured_from) / 1e9;
    printf("{\"scenario\": \"%s\", \"connections\": %d, \"size\": %zu, \"window\": %d, \"seconds\": %.6f, "
           "\"operations\": %llu, \"bytes\": %llu, \"opened\": %d, \"errors\": %llu, \"first_error\": \"%s\", "
           "\"p50_us\": %.2f, \"p99_us\": %.2f, \"p999_us\": %.2f, \"max_us\": %.2f, "
           "\"client_cpu_us\": %.1f, \"server_cpu_us\": %.1f, \"lives\": %llu",
           scenario->name, options.connections, options.size, options.window, seconds,
           (unsigned long long)run.operations, (unsigned long long)run.bytes, run.proven,
           (unsigned long long)run.errors, run.first_error, latency_us(.5), latency_us(.99), latency_us(.999),
           latency_us(1), run.cpu_to.own_us - run.cpu_from.own_us,
           run.cpu_to.watched_us - run.cpu_from.watched_us, (unsigned long long)run.lives);
    transport->summary(stdout);
    printf("}\n");
    fflush(stdout);
}

static void hold_until_stdin_closes(void) {
    char ignored[64];
    while (read(STDIN_FILENO, ignored, sizeof ignored) > 0) {}
    int before = run.alive;
    for (int i = 0; i < 1 + options.connections / EVENTS; i++) turn(0);   /* an ended stream shows up as readable */
    printf("{\"dropped\": %d}\n", before - run.alive);
    fflush(stdout);
}

static void usage(void) {
    fprintf(stderr, "load: --port P --scenario echo|churn|hold|meet|mail [--connections N] [--size BYTES]\n"
                    "      [--window N] [--seconds S] [--warmup S] [--cpu-of PID]... [--verify]%s\n", transport->usage);
    exit(2);
}

static void parse(int argc, char **argv) {
    struct option names[24] = {
        {"port", 1, 0, 'p'}, {"scenario", 1, 0, 'o'}, {"connections", 1, 0, 'c'}, {"size", 1, 0, 'z'},
        {"window", 1, 0, 'w'}, {"seconds", 1, 0, 's'}, {"warmup", 1, 0, 'u'}, {"cpu-of", 1, 0, 'C'},
        {"verify", 0, 0, 'v'},
    };
    for (int i = 0; transport->options[i].name; i++) names[9 + i] = transport->options[i];
    for (int c; (c = getopt_long(argc, argv, "", names, NULL)) != -1;) switch (c) {
        case 'p': options.port = atoi(optarg); break;
        case 'o':
            for (size_t i = 0; i < sizeof scenarios / sizeof *scenarios; i++)
                if (!strcmp(optarg, scenarios[i].name)) scenario = &scenarios[i];
            break;
        case 'c': options.connections = atoi(optarg); break;
        case 'z': options.size = strtoul(optarg, NULL, 10); break;
        case 'w': options.window = atoi(optarg); break;
        case 's': options.seconds = atof(optarg); break;
        case 'u': options.warmup = atof(optarg); break;
        case 'C':
            if (options.watched_count == MAX_WATCHED) usage();
            options.watched[options.watched_count++] = atoi(optarg);
            break;
        case 'v': options.verify = true; break;
        default: if (!transport->option(c, optarg)) usage();
    }
    if (!scenario || options.port <= 0 || options.connections < 1 || options.window < 1 || !options.size) usage();
}

int main(int argc, char **argv) {
    parse(argc, argv);
    signal(SIGPIPE, SIG_IGN);
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);

    payload = malloc(options.size);
    for (size_t i = 0; i < options.size; i++) payload[i] = (char)('!' + i * 7 % 89);
    struct stream *streams = calloc((size_t)options.connections, sizeof *streams);
    uint64_t *rings = calloc((size_t)options.connections * (size_t)options.window, sizeof *rings);
    for (int i = 0; i < options.connections; i++) {
        streams[i].fd = -1;
        streams[i].begun = rings + (size_t)i * (size_t)options.window;
    }
    write_mail(options.size);
    transport->start();
    poller = epoll_create1(EPOLL_CLOEXEC);

    run.stage_ends = now_ns() + (uint64_t)(OPENING_LIMIT_S * 1e9);
    while (run.stage != OVER) {
        while (run.launched < options.connections && run.unproven < MAX_UNPROVEN) open_stream(&streams[run.launched++]);
        turn(20);
        next_stage(streams, now_ns());
    }
    print_result();
    if (scenario->holds) hold_until_stdin_closes();
    for (int i = 0; i < options.connections; i++)       /* an end that no server takes for a cut line */
        if (streams[i].phase == OPEN) transport->finish(&streams[i]);
    return 0;
}
