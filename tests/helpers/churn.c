/* Many short connections: the application behind, and the callers in front.
 *
 *   churn serve                     prints its port; echoes one message per connection, closes
 *   churn call PORT COUNT PARALLEL  so many connections, so many at a time; prints how many failed
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

static const char message[] = "one message, there and back";
static struct sockaddr_in address = {.sin_family = AF_INET};
static atomic_long left, failed;

static int serve(void) {
    socklen_t size = sizeof(address);
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), epoll = epoll_create1(0);
    struct epoll_event event = {.events = EPOLLIN, .data.fd = listener}, events[64];
    if (bind(listener, (struct sockaddr *)&address, size) || listen(listener, 4096) ||
        getsockname(listener, (struct sockaddr *)&address, &size) ||
        epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event)) {
        perror("serve");
        return 1;
    }
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);
    for (;;) {
        int count = epoll_wait(epoll, events, 64, -1);
        for (int at = 0; at < count; at++) {
            int fd = events[at].data.fd;
            if (fd == listener) {
                event.data.fd = accept(listener, NULL, NULL);
                if (event.data.fd >= 0)
                    epoll_ctl(epoll, EPOLL_CTL_ADD, event.data.fd, &event);
            } else {
                char data[sizeof(message)];
                ssize_t heard = recv(fd, data, sizeof(data), 0);
                if (heard > 0)
                    send(fd, data, heard, MSG_NOSIGNAL);
                close(fd);
            }
        }
    }
}

/* 0 when the message came back, and then the end. */
static int call(void) {
    char heard[sizeof(message) + 1];
    size_t have = 0;
    ssize_t more = -1;
    struct timeval patience = {.tv_sec = 20};
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
    if (fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0 &&
        send(fd, message, sizeof(message), MSG_NOSIGNAL) == sizeof(message))
        while ((more = recv(fd, heard + have, sizeof(heard) - have, 0)) > 0)
            have += more;
    close(fd);
    return more == 0 && have == sizeof(message) && !memcmp(heard, message, have) ? 0 : -1;
}

static void *caller(void *unused) {
    while (atomic_fetch_sub(&left, 1) > 0)
        if (call() != 0)
            atomic_fetch_add(&failed, 1);
    return unused;
}

int main(int count, char **words) {
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (count == 2 && !strcmp(words[1], "serve"))
        return serve();
    if (count != 5 || strcmp(words[1], "call"))
        return 2;
    address.sin_port = htons(atoi(words[2]));
    left = atol(words[3]);
    int parallel = atoi(words[4]);
    pthread_t threads[parallel];
    for (int at = 0; at < parallel; at++)
        pthread_create(&threads[at], NULL, caller, NULL);
    for (int at = 0; at < parallel; at++)
        pthread_join(threads[at], NULL);
    printf("%ld\n", atomic_load(&failed));
    return 0;
}
