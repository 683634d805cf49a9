/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright ovc_plugin contributors */
/*
 * The test guest's only program. Two processes:
 *   PID 1   prints the heartbeat, serves the guest agent channel, and survives;
 *   worker  holds the touched memory and does what it is told, one job after the other.
 * They share one small page (struct shared). The kernel may kill the worker when the guest
 * runs out of memory; PID 1 then says so and starts a new, empty one.
 *
 * Units: bytes and seconds, unless a name says _mb (2^20 bytes), _kib or _pages.
 */
#ifndef OVC_WORKLOAD_H
#define OVC_WORKLOAD_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PAGE 4096UL
#define MB (1024UL * 1024UL)
#define OUTCOMES 256 /* how many of the last jobs guest-exec-status can still answer for */

enum verb { IDLE, TOUCH, CACHE, STORE, REWRITE, READ, FREE, VERIFY, DELAY };
enum kind { UNIQUE, ALIKE, SAME };

/* How a job ended, as guest-exec-status shows it in "exitcode". */
enum code { CODE_OK = 0, CODE_FAILED = 1, CODE_DROPPED = 2, CODE_KILLED = 137 };

/* One command; small enough that a pipe carries it whole or not at all. */
struct job {
    uint64_t number;
    enum verb verb;
    enum kind kind;
    double amount; /* MB, or seconds for DELAY; negative: not given */
    double rate;   /* MB per second; 0: as fast as it goes */
};

struct outcome {
    _Atomic uint64_t number;
    atomic_int done, code;
};

struct shared {
    _Atomic uint64_t touched; /* bytes written and held, from base on */
    _Atomic uint64_t base;    /* address of the touched memory in the worker */
    _Atomic uint64_t work;    /* bytes gone through by all jobs since the start */
    atomic_int state;         /* enum verb of the job that runs */
    struct outcome outcomes[OUTCOMES];
};

/* say.c */
void say(const char *format, ...) __attribute__((format(printf, 1, 2)));
double clock_now(void);
uint64_t meminfo_kib(const char *key);
uint64_t vmstat(const char *key);

/* command.c */
bool command_parse(const char *text, struct job *job, char *why, size_t size);
const char *verb_name(enum verb verb);
const char *state_name(enum verb verb);

/* pages.c: the touched memory */
bool pages_open(uint64_t capacity, uint64_t seed);
uint64_t pages_base(void);
uint64_t pages_count(void);
bool pages_add(enum kind kind);
void pages_rewrite(uint64_t index, enum kind kind);
void pages_read(uint64_t index);
bool pages_check(uint64_t index);
void pages_compose(void *page);
void pages_drop(uint64_t count);

/* worker.c */
void worker_main(struct shared *shared, int commands, uint64_t seed) __attribute__((noreturn));
void outcome_set(struct shared *shared, uint64_t number, enum code code);

/* supervisor.c */
uint64_t supervisor_submit(struct job *job);
struct shared *supervisor_shared(void);

/* agent.c */
int agent_open(void);
bool agent_input(int port);

#endif
