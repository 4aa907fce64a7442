/* For a program that listens on every interface and has no option against it: whatever it binds to, it gets loopback. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <netinet/in.h>
#include <string.h>

int bind(int fd, const struct sockaddr *address, socklen_t size)
{
    int (*next)(int, const struct sockaddr *, socklen_t) = dlsym(RTLD_NEXT, "bind");
    struct sockaddr_storage loopback;

    memcpy(&loopback, address, size);
    if (loopback.ss_family == AF_INET)
        ((struct sockaddr_in *)&loopback)->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    else if (loopback.ss_family == AF_INET6)
        ((struct sockaddr_in6 *)&loopback)->sin6_addr = in6addr_loopback;
    return next(fd, (struct sockaddr *)&loopback, size);
}
