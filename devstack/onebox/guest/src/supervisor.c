/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright ovc_plugin contributors */
/* PID 1: starts the worker, beats, answers the agent channel, and outlives a guest out of memory. */
#define _GNU_SOURCE
#include "workload.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

static struct shared *shared;
static pid_t worker;
static int commands = -1; /* the pipe to the worker */
static uint64_t seed, jobs, beats, kills;
static double period = 1.0, worst;

struct shared *supervisor_shared(void)
{
    return shared;
}

/* Hands a parsed job to the worker; its number, or 0 where the worker cannot take it. */
uint64_t supervisor_submit(struct job *job)
{
    job->number = ++jobs;
    struct outcome *outcome = &shared->outcomes[job->number % OUTCOMES];
    outcome->number = job->number;
    outcome->done = 0;
    return write(commands, job, sizeof *job) == sizeof *job ? job->number : 0;
}

/* PID 1 must not end: the kernel would panic, and its last words hide ours. */
static void __attribute__((noreturn)) halt(void)
{
    for (;;)
        pause();
}

/* Different in every guest and boot, even where two guests' random generators start alike. */
static uint64_t boot_seed(void)
{
    uint64_t value = 0, hash = 0xcbf29ce484222325ULL;
    int letter;
    FILE *uuid = fopen("/sys/class/dmi/id/product_uuid", "r");

    if (getrandom(&value, sizeof value, 0) != sizeof value)
        say("ovc-warning reason=\"no random numbers: the seed is the machine's uuid alone\"");
    if (uuid != NULL) {
        while ((letter = fgetc(uuid)) != EOF)
            hash = (hash ^ (uint64_t)letter) * 0x100000001b3ULL;
        fclose(uuid);
    }
    return value ^ hash;
}

static void start_worker(void)
{
    int ends[2];

    if (pipe2(ends, O_CLOEXEC) < 0 || (worker = fork()) < 0) {
        say("ovc-fatal reason=\"cannot start the worker: %s\"", strerror(errno));
        halt();
    }
    if (worker == 0) {
        close(ends[1]);
        setpriority(PRIO_PROCESS, 0, 10); /* a busy worker must not look like a stalled host */
        int score = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
        if (score < 0 || write(score, "1000", 4) != 4)
            say("ovc-warning reason=\"oom_score_adj is not set\"");
        close(score);
        worker_main(shared, ends[0], seed);
    }
    close(ends[0]);
    if (commands >= 0)
        close(commands);
    commands = ends[1];
    fcntl(commands, F_SETFL, O_NONBLOCK);
}

/* A worker that ended was killed by the kernel for want of memory, or is broken: both are told. */
static void reap(void)
{
    int status;

    if (waitpid(worker, &status, WNOHANG) != worker)
        return;
    if (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL)
        say("ovc-oom touched_kib=%lu kills=%lu state=%s", shared->touched / 1024, ++kills, state_name(shared->state));
    else
        say("ovc-crash status=%d touched_kib=%lu", status, shared->touched / 1024);
    for (size_t i = 0; i < OUTCOMES; i++)
        if (!shared->outcomes[i].done)
            outcome_set(shared, shared->outcomes[i].number, CODE_KILLED);
    shared->touched = 0;
    shared->state = IDLE;
    start_worker();
}

/* Reads one touched page, another each time: a guest in swap feels it here. Seconds it took. */
static double probe(void)
{
    uint64_t word, pages = shared->touched / PAGE;
    double begin = clock_now();

    if (pages == 0)
        return 0;
    uint64_t page = (beats * 0x9e3779b97f4a7c15ULL >> 16) % pages;
    struct iovec here = {&word, sizeof word};
    struct iovec there = {(void *)(shared->base + page * PAGE), sizeof word};
    if (process_vm_readv(worker, &here, 1, &there, 1, 0) < 0)
        return 0; /* freed or killed meanwhile; the next beat will tell */
    return clock_now() - begin;
}

/* STALL: seconds this beat came later than planned, its look at a touched page included. */
static void beat(double planned)
{
    double took = probe(), now = clock_now(), stall = now > planned ? now - planned : 0;

    if (stall > worst)
        worst = stall;
    say("ovc-beat seq=%lu up=%.1f total_kib=%lu avail_kib=%lu free_kib=%lu cached_kib=%lu touched_kib=%lu "
        "state=%s stall=%.3f worst=%.3f probe=%.6f oom=%lu work_kib=%lu",
        ++beats, now, meminfo_kib("MemTotal"), meminfo_kib("MemAvailable"), meminfo_kib("MemFree"),
        meminfo_kib("Buffers") + meminfo_kib("Cached"), shared->touched / 1024, state_name(shared->state), stall, worst,
        took, vmstat("oom_kill"), shared->work / 1024);
}

/* One word of the kernel command line: "touch=400,rate=20" means "touch 400 rate=20". */
static void start_word(char *word)
{
    char why[128];
    struct job job;
    double value;

    if (sscanf(word, "beat=%lf", &value) == 1 && value >= 0.05 && value <= 3600) {
        period = value;
        return;
    }
    if (strncmp(word, "balloon=", 8) == 0)
        return; /* the init script's */
    for (char *c = word, *first = strchr(word, '='); *c != '\0'; c++)
        if (*c == ',' || c == first)
            *c = ' ';
    if (!command_parse(word, &job, why, sizeof why))
        say("ovc-refused reason=\"kernel command line: %s\"", why);
    else
        say("ovc-told command=%lu %s", supervisor_submit(&job), word);
}

static void start_commands(void)
{
    char line[2048] = "", *rest = NULL;
    FILE *file = fopen("/proc/cmdline", "r");

    if (file == NULL || fgets(line, sizeof line, file) == NULL)
        return;
    fclose(file);
    for (char *word = strtok_r(line, " \n", &rest); word != NULL; word = strtok_r(NULL, " \n", &rest))
        if (strncmp(word, "ovc.", 4) == 0)
            start_word(word + 4);
}

static void on_child(int signal)
{
    (void)signal; /* being there is its use: it ends poll() */
}

/* Beats when due; in between answers the agent. A channel without a client is always "ready", with nothing in it. */
static void serve(int port)
{
    double next = clock_now(); /* the first one at once: it says that the guest is up */

    for (;;) {
        double left = next - clock_now();
        if (left <= 0) {
            beat(next);
            left = period;
            next = clock_now() + period;
        }
        struct pollfd input = {.fd = port, .events = POLLIN};
        int ready = poll(&input, 1, (int)(left * 1000) + 1);
        reap();
        if (ready > 0 && !agent_input(port))
            usleep(left > 0.1 ? 100000 : (useconds_t)(left * 1e6));
    }
}

int main(void)
{
    signal(SIGCHLD, on_child);
    signal(SIGPIPE, SIG_IGN);
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED) {
        say("ovc-fatal reason=\"no memory for one page\"");
        halt();
    }
    /* Held open for good: a block device forgets its page cache at the last close. */
    int disk = open("/dev/vda", O_RDONLY | O_CLOEXEC), port = agent_open();
    seed = boot_seed();
    say("ovc-start version=1 up=%.2f disk_kib=%ld agent=%s balloon=%s", clock_now(),
        disk < 0 ? 0L : (long)(lseek(disk, 0, SEEK_END) / 1024), port < 0 ? "absent" : "open",
        access("/sys/module/virtio_balloon", F_OK) == 0 ? "on" : "off");
    start_worker();
    start_commands();
    serve(port);
}
