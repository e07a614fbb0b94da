/* The clients in front of the proxies: `clients PORT SOURCE [TARGET]`, one thread with epoll.

   They go to TARGET:PORT (127.0.0.1 by default) from the address SOURCE and obey lines of standard
   input, each answered by one line of JSON:
     open N                have N connections, each with one request answered
     run BUSY SECONDS RATE requests over the first BUSY of them; RATE a second in all, or 0: each
                           connection asks again when it has been answered
     dial SLOTS SECONDS    a new connection for every request, SLOTS at a time, closed by the
                           application
   With a RATE, requests are due at fixed times, and latency counts from when one was due, not
   from when a connection was free to send it.  With `dial` it counts from before connect(2).
   Whatever goes wrong with any connection ends the program: there are no figures with errors
   in them.  The application's words are in application.c. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "latencies.h"

enum { REQUEST = 64, ANSWER = 1024, EVENTS = 256, MOST = 1 << 16, SILENCE_MS = 10000 };
enum { OPENING_AT_ONCE = 64 };
enum state { DIALING, WAITING, IDLE, ENDING };

static struct connection {
    int fd;
    enum state state;
    unsigned got;      /* of the answer */
    uint64_t begun_ns; /* when its request was due */
} all[MOST];
static unsigned opened, under_way; /* connections that exist; those that aren't idle */

static enum { OPEN, RUN, PACED, DIAL } task;
static unsigned wanted;        /* connections, while opening */
static uint64_t end_ns;        /* no request begins after it */
static uint64_t due_ns, due, period_ns; /* paced: the next request's time; how many are late */
static struct connection *free_[MOST];
static unsigned free_first, free_count; /* paced: connections that may ask, a ring */

static struct sockaddr_in target, source;
static int poller, timer;

static void dial(struct connection *to)
{
    struct epoll_event event = {.events = EPOLLOUT, .data.ptr = to};
    int on = 1;
    to->begun_ns = now_ns();
    to->state = DIALING;
    to->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    setsockopt(to->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    setsockopt(to->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
    if (bind(to->fd, (struct sockaddr *)&source, sizeof source))
        die("bind");
    if (connect(to->fd, (struct sockaddr *)&target, sizeof target) && errno != EINPROGRESS)
        die("connect");
    if (epoll_ctl(poller, EPOLL_CTL_ADD, to->fd, &event))
        die("epoll");
}

static void ask(struct connection *of, uint64_t due_at)
{
    char request[REQUEST];
    memset(request, 'x', REQUEST);
    request[0] = task == DIAL ? 'C' : 'R';
    of->begun_ns = due_at;
    of->got = 0;
    of->state = WAITING;
    if (send(of->fd, request, REQUEST, MSG_NOSIGNAL) != REQUEST)
        die("send");
}

static void ask_what_is_due(void)
{
    while (due && free_count) {
        struct connection *next = free_[free_first];
        free_first = (free_first + 1) % MOST;
        free_count--;
        due--;
        under_way++;
        ask(next, due_ns);
        due_ns += period_ns;
    }
}

static void tick(void)
{
    uint64_t times;
    if (read(timer, &times, sizeof times) != sizeof times)
        return;
    uint64_t left = end_ns > due_ns ? (end_ns - due_ns) / period_ns : 0;
    due = due + times < left ? due + times : left;
    ask_what_is_due();
}

/* A connection has done what it was to do: what now? */
static void on_done(struct connection *of, uint64_t now)
{
    switch (task) {
    case OPEN:
        if (opened < wanted)
            dial(&all[opened++]);
        else
            under_way--;
        break;
    case RUN:
        if (now < end_ns)
            ask(of, now);
        else
            under_way--;
        break;
    case PACED:
        under_way--;
        free_[(free_first + free_count++) % MOST] = of;
        ask_what_is_due();
        break;
    case DIAL:
        close(of->fd);
        if (now < end_ns)
            dial(of);
        else
            under_way--;
    }
}

static void on_connected(struct connection *of)
{
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = of};
    socklen_t size = sizeof errno;
    if (getsockopt(of->fd, SOL_SOCKET, SO_ERROR, &errno, &size) || errno)
        die("connect");
    if (epoll_ctl(poller, EPOLL_CTL_MOD, of->fd, &event))
        die("epoll");
    ask(of, of->begun_ns);
}

static void on_event(struct connection *of)
{
    char answer[ANSWER + 1];
    if (of->state == DIALING) {
        on_connected(of);
        return;
    }
    errno = 0;
    ssize_t got = recv(of->fd, answer, sizeof answer, 0);
    if (got < 0 && errno == EAGAIN)
        return;
    if (got == 0 && of->state == ENDING) {
        on_done(of, now_ns());
        return;
    }
    if (got <= 0 || of->state != WAITING || (of->got += (unsigned)got) > ANSWER)
        die("answer");
    if (of->got < ANSWER)
        return;
    uint64_t now = now_ns();
    record(now - of->begun_ns);
    if (task == DIAL) {
        of->state = ENDING;
        return;
    }
    of->state = IDLE;
    on_done(of, now);
}

static void turn_until_done(void)
{
    struct epoll_event events[EVENTS];
    while (under_way || (task == PACED && due_ns + period_ns <= end_ns)) {
        int count = epoll_wait(poller, events, EVENTS, SILENCE_MS);
        if (count < 0 && errno == EINTR)
            continue;
        if (count == 0)
            errno = ETIMEDOUT;
        if (count <= 0)
            die("waiting");
        for (int each = 0; each < count; each++) {
            if (events[each].data.ptr == NULL)
                tick();
            else
                on_event(events[each].data.ptr);
        }
    }
}

static void set_timer(uint64_t period)
{
    struct timespec every = {(time_t)(period / 1000000000u), (long)(period % 1000000000u)};
    struct itimerspec timing = {.it_interval = every, .it_value = every};
    if (timerfd_settime(timer, 0, &timing, NULL))
        die("timerfd_settime");
}

static void open_(unsigned count)
{
    task = OPEN;
    wanted = count;
    for (under_way = 0; under_way < OPENING_AT_ONCE && opened < wanted; under_way++)
        dial(&all[opened++]);
    turn_until_done();
}

static void run(unsigned busy, uint64_t begun_ns, unsigned rate)
{
    task = rate ? PACED : RUN;
    under_way = free_first = free_count = 0;
    due = 0;
    if (rate) {
        period_ns = 1000000000u / rate;
        due_ns = begun_ns + period_ns;
        set_timer(period_ns);
    }
    for (unsigned each = 0; each < busy; each++) {
        if (rate)
            free_[free_count++] = &all[each];
        else {
            under_way++;
            ask(&all[each], now_ns());
        }
    }
    turn_until_done();
    set_timer(0);
}

static void dial_(unsigned slots)
{
    task = DIAL;
    /* behind those that are open */
    for (under_way = 0; under_way < slots; under_way++)
        dial(&all[opened + under_way]);
    turn_until_done();
}

int main(int argc, char **argv)
{
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
    struct rlimit files;
    char line[128];

    target.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (argc < 3 || argc > 4 || !inet_aton(argv[2], &source.sin_addr) ||
        (argc == 4 && !inet_aton(argv[3], &target.sin_addr)))
        return 2;
    source.sin_family = target.sin_family = AF_INET;
    target.sin_port = htons((uint16_t)atoi(argv[1]));
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    poller = epoll_create1(EPOLL_CLOEXEC);
    timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    if (poller < 0 || timer < 0 || epoll_ctl(poller, EPOLL_CTL_ADD, timer, &event))
        die("epoll");
    while (fgets(line, sizeof line, stdin)) {
        unsigned count, rate;
        double seconds;
        uint64_t begun_ns = now_ns();
        answers = 0;
        errno = 0;
        if (sscanf(line, "open %u", &count) == 1 && count < MOST)
            open_(count);
        else if (sscanf(line, "run %u %lf %u", &count, &seconds, &rate) == 3 && count <= opened) {
            end_ns = begun_ns + (uint64_t)(seconds * 1e9);
            run(count, begun_ns, rate);
        } else if (sscanf(line, "dial %u %lf", &count, &seconds) == 2 && opened + count < MOST) {
            end_ns = begun_ns + (uint64_t)(seconds * 1e9);
            dial_(count);
        } else
            die("command");
        report(begun_ns);
    }
    return 0;
}
