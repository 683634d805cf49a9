/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright ovc_plugin contributors */
/* Output, the clock, and the kernel's own figures. */
#include "workload.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* One write per line: the terminal layer keeps it whole when two processes print. */
void say(const char *format, ...)
{
    char line[512];
    va_list args;

    va_start(args, format);
    int length = vsnprintf(line, sizeof line - 1, format, args);
    va_end(args);
    if (length < 0)
        return;
    if (length > (int)sizeof line - 2)
        length = sizeof line - 2;
    line[length++] = '\n';
    if (write(STDOUT_FILENO, line, length) < 0)
        return; /* nobody is left to tell */
}

double clock_now(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec + now.tv_nsec / 1e9;
}

/* The number after KEY at the start of a line of a /proc file; 0 where there is none. */
static uint64_t figure(const char *path, const char *key)
{
    char line[128];
    size_t length = strlen(key);
    uint64_t value = 0;
    FILE *file = fopen(path, "r");

    if (file == NULL)
        return 0;
    while (fgets(line, sizeof line, file) != NULL)
        if (strncmp(line, key, length) == 0 && strchr(": ", line[length]) != NULL) {
            value = strtoull(line + length + 1, NULL, 10);
            break;
        }
    fclose(file);
    return value;
}

uint64_t meminfo_kib(const char *key)
{
    return figure("/proc/meminfo", key);
}

uint64_t vmstat(const char *key)
{
    return figure("/proc/vmstat", key);
}
