/* Calls that fail as a test wants them to: preloaded, it stands between a process and libc.
 *
 * What fails is written by the test into a file that both have mapped (faults.py has the same
 * layout), named by UPROXY_FAULTS.  A call is concerned when its socket's own address, or the
 * address that it connects to, has the port.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

enum { ACCEPT, SOCKET, CONNECT, RECV, SEND, EPOLL_CTL, SOCKET6, CALLS };

struct fault {
    int32_t error;  /* 0: none */
    int32_t port;   /* 0: any */
    int32_t left;   /* how many more calls fail; negative: all */
    int32_t failed; /* how many did */
};

static struct fault *faults;

__attribute__((constructor)) static void map_faults(void) {
    const char *path = getenv("UPROXY_FAULTS");
    int fd = path == NULL ? -1 : open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return;
    void *mapped = mmap(NULL, CALLS * sizeof(struct fault), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (mapped != MAP_FAILED)
        faults = mapped;
}

static int port_of(const struct sockaddr *address) {
    if (address->sa_family == AF_INET)
        return ntohs(((const struct sockaddr_in *)address)->sin_port);
    if (address->sa_family == AF_INET6)
        return ntohs(((const struct sockaddr_in6 *)address)->sin6_port);
    return -1;
}

static int own_port(int fd) {
    struct sockaddr_storage address;
    socklen_t size = sizeof(address);
    if (getsockname(fd, (struct sockaddr *)&address, &size) != 0)
        return -1;
    return port_of((struct sockaddr *)&address);
}

/* Whether this call is to fail; sets errno. */
static int fails(int call, int fd, const struct sockaddr *to) {
    if (faults == NULL)
        return 0;
    struct fault *fault = &faults[call];
    int error = __atomic_load_n(&fault->error, __ATOMIC_ACQUIRE);
    if (error == 0)
        return 0;
    if (fault->port != 0 && (to != NULL ? port_of(to) : own_port(fd)) != fault->port)
        return 0;
    int left = __atomic_load_n(&fault->left, __ATOMIC_RELAXED);
    do {
        if (left == 0)
            return 0;
    } while (left > 0 && !__atomic_compare_exchange_n(&fault->left, &left, left - 1, 0,
                                                      __ATOMIC_RELAXED, __ATOMIC_RELAXED));
    __atomic_add_fetch(&fault->failed, 1, __ATOMIC_RELAXED);
    errno = error;
    return 1;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

int accept4(int fd, struct sockaddr *address, socklen_t *size, int flags) {
    return fails(ACCEPT, fd, NULL) ? -1 : REAL(accept4)(fd, address, size, flags);
}

int accept(int fd, struct sockaddr *address, socklen_t *size) {
    return fails(ACCEPT, fd, NULL) ? -1 : REAL(accept)(fd, address, size);
}

/* Names that take UPROXY_SLOW_NAMES_MS milliseconds to look up. */
int getaddrinfo(const char *host, const char *service, const struct addrinfo *hints,
                struct addrinfo **found) {
    const char *milliseconds = getenv("UPROXY_SLOW_NAMES_MS");
    if (milliseconds != NULL)
        usleep(1000 * (useconds_t)atoi(milliseconds));
    return REAL(getaddrinfo)(host, service, hints, found);
}

int socket(int domain, int type, int protocol) {
    int tcp = domain == AF_INET || domain == AF_INET6;
    if (domain == AF_INET6 && fails(SOCKET6, -1, NULL))
        return -1;
    return tcp && fails(SOCKET, -1, NULL) ? -1 : REAL(socket)(domain, type, protocol);
}

int connect(int fd, const struct sockaddr *address, socklen_t size) {
    return fails(CONNECT, fd, address) ? -1 : REAL(connect)(fd, address, size);
}

ssize_t recv(int fd, void *data, size_t size, int flags) {
    return fails(RECV, fd, NULL) ? -1 : REAL(recv)(fd, data, size, flags);
}

ssize_t send(int fd, const void *data, size_t size, int flags) {
    return fails(SEND, fd, NULL) ? -1 : REAL(send)(fd, data, size, flags);
}

int epoll_ctl(int epoll, int what, int fd, struct epoll_event *event) {
    int fatal = what == EPOLL_CTL_ADD && fails(EPOLL_CTL, fd, NULL);
    return fatal ? -1 : REAL(epoll_ctl)(epoll, what, fd, event);
}
