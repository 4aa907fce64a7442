/* echo_epoll.c - a server that sends back what it gets, in C over epoll: the floor that the kernel sets.
 *
 *   cc -O2 -o echo_epoll echo_epoll.c
 *   echo_epoll
 *
 * It binds a free port of 127.0.0.1, prints "READY <port>", and ends when its standard input closes. While bytes of a
 * connection wait to be written nothing is read from it, as with the servers it is compared with.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

enum { EVENTS = 1024, BUFFER = 1 << 18 };

struct link {
    int fd;
    size_t waiting;         /* bytes of `rest` still to be written */
    char *rest;
};

static int poller;
static char buffer[BUFFER] __attribute__((aligned(4096)));

static void control(int operation, struct link *link, unsigned events) {
    epoll_ctl(poller, operation, link->fd, &(struct epoll_event){events, {.ptr = link}});
}

static void end(struct link *link) {
    close(link->fd);
    free(link->rest);
    free(link);
}

static void accept_all(int listener) {
    static const int yes = 1;
    for (int fd; (fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0;) {
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
        struct link *link = calloc(1, sizeof *link);
        link->fd = fd;
        control(EPOLL_CTL_ADD, link, EPOLLIN);
    }
}

static void flush(struct link *link) {
    ssize_t n = send(link->fd, link->rest, link->waiting, MSG_NOSIGNAL);
    if (n < 0) { end(link); return; }
    link->waiting -= (size_t)n;
    memmove(link->rest, link->rest + n, link->waiting);
    if (link->waiting) return;
    free(link->rest);
    link->rest = NULL;
    control(EPOLL_CTL_MOD, link, EPOLLIN);
}

static void echo(struct link *link) {
    ssize_t n = recv(link->fd, buffer, sizeof buffer, 0);
    if (n <= 0) { end(link); return; }
    ssize_t sent = send(link->fd, buffer, (size_t)n, MSG_NOSIGNAL);
    if (sent == n) return;
    if (sent < 0) sent = 0;
    link->waiting = (size_t)(n - sent);
    link->rest = malloc(link->waiting);
    memcpy(link->rest, buffer + sent, link->waiting);
    control(EPOLL_CTL_MOD, link, EPOLLOUT);
}

int main(void) {
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);

    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    socklen_t size = sizeof address;
    struct link listener = {.fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0)}, life = {.fd = STDIN_FILENO};
    if (bind(listener.fd, (struct sockaddr *)&address, size) || listen(listener.fd, 4096)) {
        perror("echo_epoll");
        return 1;
    }
    getsockname(listener.fd, (struct sockaddr *)&address, &size);
    poller = epoll_create1(0);
    control(EPOLL_CTL_ADD, &listener, EPOLLIN);
    control(EPOLL_CTL_ADD, &life, EPOLLIN);
    printf("READY %d\n", ntohs(address.sin_port));
    fflush(stdout);

    static struct epoll_event events[EVENTS];
    for (;;) {
        int n = epoll_wait(poller, events, EVENTS, -1);
        for (int i = 0; i < n; i++) {
            struct link *link = events[i].data.ptr;
            if (link == &life) {
                if (read(STDIN_FILENO, buffer, sizeof buffer) <= 0) return 0;
            } else if (link == &listener) accept_all(listener.fd);
            else if (link->waiting) flush(link);
            else echo(link);
        }
    }
}
