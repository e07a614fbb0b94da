/* The time, how long each answer took, and the line of figures: the part of clients.c that
   knows nothing of connections. */
#ifndef LATENCIES_H
#define LATENCIES_H

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static uint32_t *took_us; /* one per answer */
static size_t answers, room;

static void die(const char *what)
{
    fprintf(stderr, "%s: %s\n", what, errno ? strerror(errno) : "not as expected");
    exit(1);
}

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static void record(uint64_t took_ns)
{
    if (answers == room) {
        room = room ? room * 2 : 1 << 16;
        if ((took_us = realloc(took_us, room * sizeof *took_us)) == NULL)
            die("realloc");
    }
    took_us[answers++] = (uint32_t)(took_ns / 1000);
}

static int by_size(const void *one, const void *other)
{
    uint32_t a = *(const uint32_t *)one, b = *(const uint32_t *)other;
    return (a > b) - (a < b);
}

/* The smallest that so many percent of all don't exceed; they are sorted. */
static uint32_t percentile(unsigned percent)
{
    return answers ? took_us[(answers * percent + 99) / 100 - 1] : 0;
}

static void report(uint64_t begun_ns)
{
    uint64_t duration_us = (now_ns() - begun_ns) / 1000;
    qsort(took_us, answers, sizeof *took_us, by_size);
    printf("{\"requests\":%zu,\"duration_us\":%ju,\"p50_us\":%u,\"p99_us\":%u}\n", answers,
           (uintmax_t)duration_us, percentile(50), percentile(99));
    fflush(stdout);
}

#endif
