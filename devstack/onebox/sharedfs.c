/* SPDX-License-Identifier: Apache-2.0
 * Copyright ovc_plugin contributors
 *
 * Preloaded into the libvirtd of a pretend host: the directory named by SHAREDFS is reported as
 * NFS. The hosts' libvirtd see the same files there, but on a local file system libvirt cannot
 * know, and refuses to migrate a running guest. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <linux/magic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/vfs.h>

static int below_shared(const char *path)
{
    const char *shared = getenv("SHAREDFS");
    size_t length = shared ? strlen(shared) : 0;

    return length && path && strncmp(path, shared, length) == 0 &&
           (path[length] == '/' || path[length] == '\0');
}

int statfs(const char *path, struct statfs *result)
{
    int (*next)(const char *, struct statfs *) = dlsym(RTLD_NEXT, "statfs");
    int error = next(path, result);

    if (!error && below_shared(path))
        result->f_type = NFS_SUPER_MAGIC;
    return error;
}

int statfs64(const char *path, struct statfs64 *result)
{
    int (*next)(const char *, struct statfs64 *) = dlsym(RTLD_NEXT, "statfs64");
    int error = next(path, result);

    if (!error && below_shared(path))
        result->f_type = NFS_SUPER_MAGIC;
    return error;
}
