/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright ovc_plugin contributors */
/*
 * The QEMU guest agent's protocol, as far as a client needs it to give us commands.
 *
 * guest-exec with path "ovc-workload" hands over one command; its "pid" is the command's number,
 * for which guest-exec-status tells whether it is done and how.
 */
#include "workload.h"

#include "json.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/reboot.h>
#include <unistd.h>

#define PORT_NAME "org.qemu.guest_agent.0"
#define DELIMITER 0xff /* ends what went before, and marks the answer to guest-sync-delimited */

static char request[8192];
static size_t length;

/* The port device, open without waiting; -1 where the guest has no agent channel. */
int agent_open(void)
{
    char path[512], name[64];
    struct dirent *entry;
    int port = -1;
    DIR *ports = opendir("/sys/class/virtio-ports");

    while (ports != NULL && port < 0 && (entry = readdir(ports)) != NULL) {
        snprintf(path, sizeof path, "/sys/class/virtio-ports/%s/name", entry->d_name);
        FILE *file = fopen(path, "r");
        if (file == NULL)
            continue;
        if (fgets(name, sizeof name, file) != NULL && strncmp(name, PORT_NAME, strlen(PORT_NAME)) == 0) {
            snprintf(path, sizeof path, "/dev/%s", entry->d_name);
            port = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
        }
        fclose(file);
    }
    if (ports != NULL)
        closedir(ports);
    return port;
}

/* Sends all of TEXT, or gives up after a second: the beat must not wait for a client. */
static void send_text(int port, const char *text, size_t size)
{
    struct pollfd output = {.fd = port, .events = POLLOUT};

    for (int tries = 0; size > 0 && tries < 10; tries++) {
        ssize_t sent = write(port, text, size);
        if (sent > 0) {
            text += sent;
            size -= sent;
        } else if (errno != EAGAIN && errno != EINTR) {
            return;
        } else {
            poll(&output, 1, 100);
        }
    }
}

static void __attribute__((format(printf, 2, 3))) answer(int port, const char *format, ...)
{
    char text[2048];
    va_list args;

    va_start(args, format);
    int size = vsnprintf(text, sizeof text - 1, format, args);
    va_end(args);
    if (size < 0 || size > (int)sizeof text - 2)
        return;
    text[size++] = '\n';
    send_text(port, text, size);
}

static void refuse(int port, const char *class, const char *text)
{
    char clean[256];
    size_t used = 0;

    for (; *text != '\0' && used < sizeof clean - 1; text++)
        clean[used++] = *text == '"' || *text == '\\' || *text < ' ' ? '\'' : *text;
    clean[used] = '\0';
    answer(port, "{\"error\":{\"class\":\"%s\",\"desc\":\"%s\"}}", class, clean);
}

static void on_sync(int port, const char *arguments)
{
    const char *id = json_member(arguments, "id");

    answer(port, "{\"return\":%lld}", id == NULL ? 0LL : strtoll(id, NULL, 10));
}

static void on_sync_delimited(int port, const char *arguments)
{
    const char mark = (char)DELIMITER;

    send_text(port, &mark, 1);
    on_sync(port, arguments);
}

static void on_ping(int port, const char *arguments)
{
    (void)arguments;
    answer(port, "{\"return\":{}}");
}

static void on_exec(int port, const char *arguments)
{
    char path[64], text[256] = "", why[256];
    size_t used = 0;
    const char *arg, *args = json_member(arguments, "arg");
    struct job job;

    if (!json_string(json_member(arguments, "path"), path, sizeof path) || strcmp(path, "ovc-workload") != 0)
        return refuse(port, "GenericError", "the only path this guest runs is ovc-workload");
    for (unsigned i = 0; (arg = json_item(args, i)) != NULL; i++) {
        if (!json_string(arg, text + used, sizeof text - used - 1))
            return refuse(port, "GenericError", "arguments must be strings, 254 letters in all");
        used = strlen(text);
        text[used++] = ' ';
        text[used] = '\0';
    }
    if (!command_parse(text, &job, why, sizeof why))
        return refuse(port, "GenericError", why);
    uint64_t number = supervisor_submit(&job);
    if (number == 0)
        return refuse(port, "GenericError", "the worker takes no more commands now; send idle first");
    say("ovc-told command=%lu %s", number, text);
    answer(port, "{\"return\":{\"pid\":%lu}}", number);
}

static void on_exec_status(int port, const char *arguments)
{
    const char *pid = json_member(arguments, "pid");
    uint64_t number = pid == NULL ? 0 : strtoull(pid, NULL, 10);
    struct outcome *outcome = &supervisor_shared()->outcomes[number % OUTCOMES];

    if (number == 0 || outcome->number != number)
        refuse(port, "GenericError", "no command with this pid, or too long ago");
    else if (outcome->done)
        answer(port, "{\"return\":{\"exited\":true,\"exitcode\":%d}}", outcome->code);
    else
        answer(port, "{\"return\":{\"exited\":false}}");
}

/* As the protocol has it, a shutdown that works is not answered. */
static void on_shutdown(int port, const char *arguments)
{
    char mode[16] = "powerdown";

    (void)port;
    json_string(json_member(arguments, "mode"), mode, sizeof mode);
    say("ovc-shutdown mode=%s", mode);
    reboot(strcmp(mode, "reboot") == 0 ? RB_AUTOBOOT : RB_POWER_OFF);
}

static void on_info(int port, const char *arguments);

static const struct {
    const char *name;
    void (*handle)(int port, const char *arguments);
} handlers[] = {
    {"guest-sync", on_sync},
    {"guest-sync-delimited", on_sync_delimited},
    {"guest-ping", on_ping},
    {"guest-info", on_info},
    {"guest-exec", on_exec},
    {"guest-exec-status", on_exec_status},
    {"guest-shutdown", on_shutdown},
};
#define HANDLERS (sizeof handlers / sizeof handlers[0])

static void on_info(int port, const char *arguments)
{
    char list[1024];
    size_t used = 0;

    (void)arguments;
    for (size_t i = 0; i < HANDLERS; i++)
        used += snprintf(list + used, sizeof list - used, "%s{\"enabled\":true,\"name\":\"%s\",\"success-response\":%s}",
                         i == 0 ? "" : ",", handlers[i].name, handlers[i].handle == on_shutdown ? "false" : "true");
    answer(port, "{\"return\":{\"version\":\"ovc-workload 1\",\"supported_commands\":[%s]}}", list);
}

static void dispatch(int port)
{
    char name[64];

    if (!json_string(json_member(request, "execute"), name, sizeof name))
        return refuse(port, "GenericError", "not a request: an object with \"execute\" is needed");
    for (size_t i = 0; i < HANDLERS; i++)
        if (strcmp(handlers[i].name, name) == 0)
            return handlers[i].handle(port, json_member(request, "arguments"));
    refuse(port, "CommandNotFound", "this guest's agent does not know the command");
}

/* Takes what has come in; a request ends with its line. False where nothing came. */
bool agent_input(int port)
{
    char buffer[1024];
    ssize_t got = read(port, buffer, sizeof buffer);

    for (ssize_t i = 0; i < got; i++) {
        if ((unsigned char)buffer[i] == DELIMITER) {
            length = 0;
        } else if (buffer[i] == '\n') {
            request[length] = '\0';
            if (strspn(request, " \t\r") != length)
                dispatch(port);
            length = 0;
        } else if (length < sizeof request - 1) {
            request[length++] = buffer[i];
        } else {
            length = 0; /* longer than any request of ours: its rest will not parse and is refused */
        }
    }
    return got > 0;
}
