/* An application that is captured, and the one that it talks to.

   captured serve PORT: each connection begins with two numbers of 32 bits, the sizes of a request
   and of an answer; without a request everything is read, and its end confirmed by a byte.
   captured ask ADDRESS PORT CONNECTIONS REQUEST ANSWER SECONDS
   captured push ADDRESS PORT PIECE SECONDS
   print one line of JSON: done (requests or bytes), seconds, cpu_us (its own), p50_us. */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <err.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { LARGEST = 1 << 20, MOST = 64, SAMPLES = 1 << 21 };
static char bytes[LARGEST];

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static double cpu(void)
{
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return u.ru_utime.tv_sec + u.ru_stime.tv_sec + (u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

static int all(int fd, ssize_t (*step)(int, char *, size_t), char *data, size_t size)
{
    while (size) {
        ssize_t done = step(fd, data, size);
        if (done <= 0)
            return 0;
        size -= done;
    }
    return 1;
}

static ssize_t get(int fd, char *data, size_t size) { return recv(fd, data, size, 0); }
static ssize_t put(int fd, char *data, size_t size) { return send(fd, data, size, MSG_NOSIGNAL); }

static void *answer(void *connection)
{
    int fd = (int)(intptr_t)connection;
    uint32_t sizes[2];
    char *data = malloc(LARGEST);

    if (all(fd, get, (char *)sizes, sizeof sizes) && sizes[0] <= LARGEST && sizes[1] <= LARGEST) {
        if (sizes[0])
            while (all(fd, get, data, sizes[0]) && all(fd, put, data, sizes[1]))
                ;
        else {
            while (recv(fd, data, LARGEST, 0) > 0)
                ;
            put(fd, data, 1);
        }
    }
    free(data);
    close(fd);
    return NULL;
}

static void serve(int port)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(port)};
    int on = 1, listener = socket(AF_INET, SOCK_STREAM, 0);

    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(listener, (struct sockaddr *)&at, sizeof at) || listen(listener, 128))
        err(1, "port %d", port);
    puts("ready");
    fflush(stdout);
    for (;;) {
        pthread_t thread;
        int fd = accept(listener, NULL, NULL);
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        if (fd < 0 || pthread_create(&thread, NULL, answer, (void *)(intptr_t)fd))
            err(1, "a connection");
        pthread_detach(thread);
    }
}

static int dial(const char *address, int port, uint32_t request, uint32_t reply)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)};
    uint32_t sizes[2] = {request, reply};
    int on = 1, fd = socket(AF_INET, SOCK_STREAM, 0);

    inet_aton(address, &to.sin_addr);
    if (connect(fd, (struct sockaddr *)&to, sizeof to))
        err(1, "%s", address);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (!all(fd, put, (char *)sizes, sizeof sizes))
        err(1, "%s", address);
    return fd;
}

static int compare(const void *a, const void *b)
{
    return (*(const float *)a > *(const float *)b) - (*(const float *)a < *(const float *)b);
}

static void tell(uint64_t done, double seconds, double used, double p50)
{
    printf("{\"done\": %llu, \"seconds\": %f, \"cpu_us\": %.0f, \"p50_us\": %.1f}\n",
           (unsigned long long)done, seconds, used * 1e6, p50 * 1e6);
}

static void ask(const char *address, int port, int count, size_t request, size_t reply, double s)
{
    static float waited[SAMPLES];
    struct pollfd polled[MOST];
    double sent[MOST], begun, spent;
    size_t missing[MOST];
    uint64_t done = 0;

    for (int i = 0; i < count; i++) {
        polled[i] = (struct pollfd){.fd = dial(address, port, request, reply), .events = POLLIN};
        missing[i] = 0;
    }
    begun = now(), spent = cpu();
    for (int i = 0; i < count; i++, missing[i - 1] = reply)
        if (sent[i] = now(), !all(polled[i].fd, put, bytes, request))
            err(1, "a request");
    while (now() < begun + s) {
        if (poll(polled, count, 10000) <= 0)
            errx(1, "no answer for 10 s");
        for (int i = 0; i < count; i++) {
            ssize_t got;
            if (!polled[i].revents)
                continue;
            got = recv(polled[i].fd, bytes, missing[i], MSG_DONTWAIT);
            if (got <= 0)
                err(1, "an answer");
            if (missing[i] -= got)
                continue;
            if (done < SAMPLES)
                waited[done] = now() - sent[i];
            done++;
            missing[i] = reply, sent[i] = now();
            if (!all(polled[i].fd, put, bytes, request))
                err(1, "a request");
        }
    }
    double seconds = now() - begun, used = cpu() - spent;
    size_t samples = done < SAMPLES ? done : SAMPLES;
    qsort(waited, samples, sizeof *waited, compare);
    tell(done, seconds, used, samples ? waited[samples / 2] : 0);
}

static void push(const char *address, int port, size_t piece, double s)
{
    int fd = dial(address, port, 0, 0);
    double begun = now(), spent = cpu();
    uint64_t done = 0;

    for (; now() < begun + s; done += piece)
        if (!all(fd, put, bytes, piece))
            err(1, "a piece");
    shutdown(fd, SHUT_WR);
    struct pollfd polled = {.fd = fd, .events = POLLIN};
    if (poll(&polled, 1, 30000) <= 0 || recv(fd, bytes, 1, MSG_DONTWAIT) != 1)
        errx(1, "the end wasn't confirmed");
    tell(done, now() - begun, cpu() - spent, 0);
}

int main(int argc, char **argv)
{
    if (argc == 3 && !strcmp(argv[1], "serve"))
        serve(atoi(argv[2]));
    else if (argc == 8 && !strcmp(argv[1], "ask") && atoi(argv[4]) <= MOST)
        ask(argv[2], atoi(argv[3]), atoi(argv[4]), atoi(argv[5]), atoi(argv[6]), atof(argv[7]));
    else if (argc == 6 && !strcmp(argv[1], "push"))
        push(argv[2], atoi(argv[3]), atoi(argv[4]), atof(argv[5]));
    else
        errx(2, "see the comment at the top");
    return 0;
}
