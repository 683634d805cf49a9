/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright ovc_plugin contributors */
/* Words to jobs: the same words on the kernel command line and from the agent. */
#include "workload.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct word {
    const char *name, *state;
    bool amount_needed, rated;
} words[] = {
    [IDLE] = {"idle", "idle", false, false},
    [TOUCH] = {"touch", "touching", true, true},
    [CACHE] = {"cache", "caching", true, true},
    [STORE] = {"store", "storing", true, true},
    [REWRITE] = {"rewrite", "rewriting", false, true},
    [READ] = {"read", "reading", false, true},
    [FREE] = {"free", "freeing", false, false},
    [VERIFY] = {"verify", "verifying", false, false},
    [DELAY] = {"delay", "delaying", true, false},
};
#define WORDS (sizeof words / sizeof words[0])

const char *verb_name(enum verb verb)
{
    return words[verb].name;
}

const char *state_name(enum verb verb)
{
    return words[verb].state;
}

static bool find_verb(const char *name, enum verb *verb)
{
    for (size_t i = 0; i < WORDS; i++)
        if (strcmp(words[i].name, name) == 0) {
            *verb = i;
            return true;
        }
    return false;
}

/* A plain number from 0 to a million: more is a slip of the pen, not a guest's memory. */
static bool number(const char *text, double *value)
{
    char *end;

    *value = strtod(text, &end);
    return end != text && *end == '\0' && *value >= 0 && *value <= 1e6;
}

static bool find_kind(const char *name, const struct job *job, enum kind *kind)
{
    if (strcmp(name, "unique") == 0)
        *kind = UNIQUE;
    else if (strcmp(name, "alike") == 0 && job->verb == TOUCH)
        *kind = ALIKE;
    else if (strcmp(name, "same") == 0 && job->verb == REWRITE)
        *kind = SAME;
    else
        return false;
    return true;
}

static bool option(const char *word, struct job *job)
{
    if (strncmp(word, "rate=", 5) == 0 && words[job->verb].rated)
        return number(word + 5, &job->rate);
    if (strncmp(word, "kind=", 5) == 0)
        return find_kind(word + 5, job, &job->kind);
    return job->verb != IDLE && job->verb != VERIFY && job->amount < 0 && number(word, &job->amount);
}

/* Turns TEXT, words parted by blanks, into a job; false and WHY where it is none. */
bool command_parse(const char *text, struct job *job, char *why, size_t size)
{
    char copy[256], *rest = NULL;

    *job = (struct job){.amount = -1};
    if (strlen(text) >= sizeof copy) {
        snprintf(why, size, "command longer than %zu characters", sizeof copy - 1);
        return false;
    }
    strcpy(copy, text);
    char *word = strtok_r(copy, " \t", &rest);
    if (word == NULL || !find_verb(word, &job->verb)) {
        snprintf(why, size, "unknown command '%s'; known: touch cache store rewrite read free verify delay idle",
                 word == NULL ? "" : word);
        return false;
    }
    while ((word = strtok_r(NULL, " \t", &rest)) != NULL)
        if (!option(word, job)) {
            snprintf(why, size, "%s does not take '%s'", words[job->verb].name, word);
            return false;
        }
    if (job->amount < 0 && words[job->verb].amount_needed) {
        snprintf(why, size, "%s needs a number", words[job->verb].name);
        return false;
    }
    return true;
}
