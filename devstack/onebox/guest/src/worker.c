/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright ovc_plugin contributors */
/* The process that holds the touched memory and does one job after the other. */
#include "workload.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define DISK "/dev/vda"
#define QUEUE 64
#define CHUNK_PAGES 64 /* work done between two looks at the clock and at new commands: 256 KiB */
#define CHUNK (CHUNK_PAGES * PAGE)

static struct shared *shared;
static int commands;
static struct job queue[QUEUE]; /* waiting jobs, oldest first */
static size_t waiting;
static bool stop; /* "idle" came: leave what is being done */

void outcome_set(struct shared *page, uint64_t number, enum code code)
{
    struct outcome *outcome = &page->outcomes[number % OUTCOMES];

    if (outcome->number == number) {
        outcome->code = code;
        outcome->done = 1;
    }
}

static void enqueue(const struct job *job)
{
    if (job->verb == IDLE) {
        while (waiting > 0)
            outcome_set(shared, queue[--waiting].number, CODE_DROPPED);
        stop = true;
        outcome_set(shared, job->number, CODE_OK);
    } else if (waiting == QUEUE) {
        say("ovc-refused command=%lu reason=\"%d commands wait already; send idle first\"", job->number, QUEUE);
        outcome_set(shared, job->number, CODE_FAILED);
    } else {
        queue[waiting++] = *job;
    }
}

/* Takes in new commands; waits for the first one up to SECONDS (negative: for ever). */
static void take_commands(double seconds)
{
    struct pollfd input = {.fd = commands, .events = POLLIN};
    struct job job;
    int wait = seconds < 0 ? -1 : (int)(seconds * 1000 + 0.5);

    while (poll(&input, 1, wait) > 0) {
        if (read(commands, &job, sizeof job) != sizeof job)
            _exit(0); /* PID 1 is gone, and with it the guest */
        enqueue(&job);
        wait = 0;
    }
}

/* Whether a job may go on. Sleeps until DUE, minding new commands, which end an endless job. */
static bool go_on(double due, bool endless)
{
    do {
        double left = due - clock_now();
        take_commands(left > 0 ? left : 0);
        if (stop || (endless && waiting > 0))
            return false;
    } while (clock_now() < due - 0.0005);
    return true;
}

/* When DONE bytes may have been done by a job that began at BEGIN; the past if unlimited. */
static double due(const struct job *job, double begin, uint64_t done)
{
    return job->rate > 0 ? begin + done / MB / job->rate + (done % MB) / (job->rate * MB) : 0;
}

static enum code run_touch(const struct job *job)
{
    uint64_t wanted = (uint64_t)(job->amount * MB) / PAGE, done = 0;
    double begin = clock_now();

    while (done < wanted) {
        if (!go_on(due(job, begin, done * PAGE), false))
            return CODE_DROPPED;
        for (int i = 0; i < CHUNK_PAGES && done < wanted; i++, done++)
            if (!pages_add(job->kind)) {
                say("ovc-refused command=%lu reason=\"more than twice the guest's memory\"", job->number);
                return CODE_FAILED;
            }
        shared->touched = pages_count() * PAGE;
        shared->work += CHUNK;
    }
    say("ovc-touched %.0f total_kib=%lu kind=%s seconds=%.2f", job->amount, pages_count() * PAGE / 1024,
        job->kind == ALIKE ? "alike" : "unique", clock_now() - begin);
    return CODE_OK;
}

/* Reads the disk's first N MB through the page cache. */
static enum code run_cache(const struct job *job)
{
    static char buffer[CHUNK];
    uint64_t wanted = (uint64_t)(job->amount * MB), done = 0;
    double begin = clock_now();
    ssize_t got = 1;
    int disk = open(DISK, O_RDONLY | O_CLOEXEC);

    if (disk < 0) {
        say("ovc-refused command=%lu reason=\"no disk " DISK " to read\"", job->number);
        return CODE_FAILED;
    }
    while (done < wanted && got > 0 && go_on(due(job, begin, done), false)) {
        got = pread(disk, buffer, wanted - done < CHUNK ? wanted - done : CHUNK, done);
        done += got > 0 ? got : 0;
        shared->work += got > 0 ? got : 0;
    }
    close(disk); /* the last close of a block device would drop its cache: see supervisor.c */
    say("ovc-cached %lu wanted=%.0f seconds=%.2f", done / MB, job->amount, clock_now() - begin);
    return done == wanted ? CODE_OK : stop ? CODE_DROPPED : CODE_FAILED;
}

/* Writes the disk's first N MB with data like no other, and leaves them in the page cache, clean: it can be dropped. */
static enum code run_store(const struct job *job)
{
    static _Alignas(PAGE) char buffer[CHUNK];
    uint64_t wanted = (uint64_t)(job->amount * MB) / CHUNK * CHUNK, done = 0;
    double begin = clock_now();
    bool good = true;
    int disk = open(DISK, O_RDWR | O_CLOEXEC);

    while (disk >= 0 && good && done < wanted && go_on(due(job, begin, done), false)) {
        for (size_t at = 0; at < CHUNK; at += PAGE)
            pages_compose(buffer + at);
        good = pwrite(disk, buffer, CHUNK, done) == CHUNK;
        done += good ? CHUNK : 0;
        shared->work += good ? CHUNK : 0;
        if (done % (16 * MB) == 0)
            good = good && fdatasync(disk) == 0;
    }
    if (disk < 0 || !good || fdatasync(disk) < 0) {
        say("ovc-refused command=%lu reason=\"disk " DISK " cannot be written: %s\"", job->number, strerror(errno));
        if (disk >= 0)
            close(disk);
        return CODE_FAILED;
    }
    close(disk);
    say("ovc-stored %lu wanted=%.0f seconds=%.2f", done / MB, job->amount, clock_now() - begin);
    return done == wanted ? CODE_OK : CODE_DROPPED;
}

/* Goes round the first N MB touched, until the next command. */
static enum code run_rounds(const struct job *job)
{
    uint64_t pages = job->amount < 0 ? pages_count() : (uint64_t)(job->amount * MB) / PAGE;
    uint64_t done = 0, at = 0;
    double begin = clock_now();

    if (pages > pages_count())
        pages = pages_count();
    if (pages == 0) {
        say("ovc-refused command=%lu reason=\"nothing is touched yet\"", job->number);
        return CODE_FAILED;
    }
    while (go_on(due(job, begin, done * PAGE), true)) {
        for (int i = 0; i < CHUNK_PAGES; i++, done++, at = (at + 1) % pages)
            if (job->verb == REWRITE)
                pages_rewrite(at, job->kind);
            else
                pages_read(at);
        shared->work += CHUNK;
    }
    return CODE_OK;
}

static enum code run_free(const struct job *job)
{
    uint64_t pages = job->amount < 0 ? pages_count() : (uint64_t)(job->amount * MB) / PAGE;

    if (pages > pages_count())
        pages = pages_count();
    shared->touched = (pages_count() - pages) * PAGE; /* before they go: the heartbeat reads touched pages */
    pages_drop(pages);
    say("ovc-freed %lu total_kib=%lu", pages * PAGE / MB, pages_count() * PAGE / 1024);
    return CODE_OK;
}

static enum code run_verify(void)
{
    uint64_t bad = 0, first = 0, checked = 0;
    double begin = clock_now();

    for (; checked < pages_count(); checked++) {
        if (checked % CHUNK_PAGES == 0 && !go_on(0, false))
            return CODE_DROPPED;
        if (!pages_check(checked) && bad++ == 0)
            first = checked;
    }
    if (bad > 0)
        say("ovc-verify BAD pages=%lu bad=%lu first=%lu", checked, bad, first);
    else
        say("ovc-verify ok pages=%lu seconds=%.2f", checked, clock_now() - begin);
    return bad > 0 ? CODE_FAILED : CODE_OK;
}

static enum code run(const struct job *job)
{
    switch (job->verb) {
    case TOUCH:
        return run_touch(job);
    case CACHE:
        return run_cache(job);
    case STORE:
        return run_store(job);
    case REWRITE:
    case READ:
        return run_rounds(job);
    case FREE:
        return run_free(job);
    case VERIFY:
        return run_verify();
    case DELAY:
        return go_on(clock_now() + job->amount, false) ? CODE_OK : CODE_DROPPED;
    case IDLE:
        break; /* done when it was taken in */
    }
    return CODE_OK;
}

void worker_main(struct shared *page, int from, uint64_t seed)
{
    shared = page;
    commands = from;
    if (!pages_open(meminfo_kib("MemTotal") * 1024 * 2, seed)) {
        say("ovc-refused reason=\"no address space for the memory to touch\"");
        _exit(1);
    }
    shared->base = pages_base();
    for (;;) {
        shared->state = IDLE;
        while (waiting == 0)
            take_commands(-1);
        struct job job = queue[0];
        for (size_t i = 1; i < waiting; i++)
            queue[i - 1] = queue[i];
        waiting--;
        stop = false;
        shared->state = job.verb;
        outcome_set(shared, job.number, run(&job));
    }
}
