/* The application behind the proxies: `application PORT`, on 127.0.0.1, until it is killed.

   Every request is 64 bytes, and its first byte is what is asked:
     R  1 KiB back              C  1 KiB back, and the application closes
     U  bytes follow, as many as the next 8 bytes say (big-endian); one byte back at the end
     D  as many bytes back
   R and C are answered by one thread with epoll, which costs little next to a proxy.  A
   connection that asks for U or D gets a thread of its own from then on, so that a bulk
   stream delays no small request here, whatever it does in the proxies. */
#define _GNU_SOURCE
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

enum { REQUEST = 64, ANSWER = 1024, BLOCK = 1 << 20, EVENTS = 256, MOST = 1 << 20 };

static struct {
    unsigned char bytes[REQUEST];
    unsigned got;
} *asked; /* by descriptor */
static char answer[ANSWER];
static int poller;

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static int receive_all(int fd, void *block, uint64_t size)
{
    while (size) {
        ssize_t got = recv(fd, block, size < BLOCK ? size : BLOCK, 0);
        if (got <= 0)
            return 0;
        size -= (uint64_t)got;
    }
    return 1;
}

static int send_all(int fd, const char *block, uint64_t size)
{
    while (size) {
        ssize_t sent = send(fd, block, size < BLOCK ? size : BLOCK, MSG_NOSIGNAL);
        if (sent <= 0)
            return 0;
        size -= (uint64_t)sent;
    }
    return 1;
}

struct bulk {
    int fd;
    unsigned char request[REQUEST];
};

static void *serve_bulk(void *given)
{
    struct bulk *bulk = given;
    char *block = calloc(1, BLOCK);
    if (block == NULL)
        die("calloc");
    do {
        uint64_t size;
        memcpy(&size, bulk->request + 1, sizeof size);
        size = be64toh(size);
        int is_up = bulk->request[0] == 'U';
        if (!(is_up ? receive_all(bulk->fd, block, size) : send_all(bulk->fd, block, size)))
            break;
        if (is_up && !send_all(bulk->fd, "!", 1))
            break;
    } while (recv(bulk->fd, bulk->request, REQUEST, MSG_WAITALL) == REQUEST);
    close(bulk->fd);
    free(block);
    free(bulk);
    return NULL;
}

static void hand_over(int fd)
{
    struct bulk *bulk = malloc(sizeof *bulk);
    pthread_t thread;
    if (bulk == NULL)
        die("malloc");
    bulk->fd = fd;
    memcpy(bulk->request, asked[fd].bytes, REQUEST);
    if (epoll_ctl(poller, EPOLL_CTL_DEL, fd, NULL) || fcntl(fd, F_SETFL, 0))
        die("hand over");
    if ((errno = pthread_create(&thread, NULL, serve_bulk, bulk)))
        die("pthread_create");
    pthread_detach(thread);
}

static void serve(int fd)
{
    ssize_t got = recv(fd, asked[fd].bytes + asked[fd].got, REQUEST - asked[fd].got, 0);
    if (got < 0 && errno == EAGAIN)
        return;
    if (got <= 0) {
        close(fd);
        return;
    }
    asked[fd].got += (unsigned)got;
    if (asked[fd].got < REQUEST)
        return;
    asked[fd].got = 0;
    if (asked[fd].bytes[0] == 'U' || asked[fd].bytes[0] == 'D') {
        hand_over(fd);
        return;
    }
    /* one answer at a time fits into any socket's buffer */
    if (send(fd, answer, ANSWER, MSG_NOSIGNAL) != ANSWER || asked[fd].bytes[0] == 'C')
        close(fd);
}

static void welcome(int listener)
{
    int fd, on = 1;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
        if (fd >= MOST || epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event))
            die("accept");
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        asked[fd].got = 0;
    }
    if (errno != EAGAIN && errno != ECONNABORTED)
        die("accept");
}

int main(int argc, char **argv)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    struct epoll_event events[EVENTS], event = {.events = EPOLLIN};
    struct rlimit files;
    int on = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    if (argc != 2)
        return 2;
    address.sin_port = htons((uint16_t)atoi(argv[1]));
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    /* untouched pages cost nothing */
    if ((asked = calloc(MOST, sizeof *asked)) == NULL)
        die("calloc");
    memset(answer, 'x', ANSWER);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 4096))
        die("listen");
    event.data.fd = listener;
    if ((poller = epoll_create1(EPOLL_CLOEXEC)) < 0 ||
        epoll_ctl(poller, EPOLL_CTL_ADD, listener, &event))
        die("epoll");
    for (;;) {
        int count = epoll_wait(poller, events, EVENTS, -1);
        if (count < 0 && errno != EINTR)
            die("epoll_wait");
        for (int each = 0; each < count; each++) {
            if (events[each].data.fd == listener)
                welcome(listener);
            else
                serve(events[each].data.fd);
        }
    }
}
