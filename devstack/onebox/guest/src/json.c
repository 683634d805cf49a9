/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright ovc_plugin contributors */
/* Just enough JSON to read what a guest agent's client sends. */
#include "json.h"

#include <string.h>

static const char *blank(const char *p)
{
    return p + strspn(p, " \t\r\n");
}

/* P at an opening quote; behind the closing one, or NULL where there is none. */
static const char *skip_string(const char *p)
{
    for (p++; *p != '\0' && *p != '"'; p++)
        if (*p == '\\' && p[1] != '\0')
            p++;
    return *p == '"' ? p + 1 : NULL;
}

/* P at a value; behind it, or NULL where it does not end. */
static const char *skip_value(const char *p)
{
    int depth = 0;

    do {
        p = blank(p);
        if (*p == '"') {
            if ((p = skip_string(p)) == NULL)
                return NULL;
        } else if (*p == '{' || *p == '[') {
            depth++;
            p++;
        } else if (*p == '}' || *p == ']') {
            depth--;
            p++;
        } else if (*p == ',' || *p == ':') {
            p++;
        } else {
            size_t length = strcspn(p, ",:]}\" \t\r\n");
            if (length == 0)
                return NULL;
            p += length;
        }
    } while (depth > 0);
    return depth == 0 ? p : NULL;
}

const char *json_member(const char *object, const char *key)
{
    size_t length = strlen(key);
    const char *p = object == NULL ? NULL : blank(object);

    if (p == NULL || *p != '{')
        return NULL;
    for (p = blank(p + 1); *p == '"'; p = blank(p + 1)) {
        const char *name = p + 1, *end = skip_string(p);
        if (end == NULL || *(p = blank(end)) != ':')
            return NULL;
        const char *value = blank(p + 1);
        if ((size_t)(end - 1 - name) == length && memcmp(name, key, length) == 0)
            return value;
        if ((p = skip_value(value)) == NULL || *(p = blank(p)) != ',')
            return NULL;
    }
    return NULL;
}

const char *json_item(const char *array, unsigned index)
{
    const char *p = array == NULL ? NULL : blank(array);

    if (p == NULL || *p != '[')
        return NULL;
    p = blank(p + 1);
    for (; *p != '\0' && *p != ']'; index--) {
        if (index == 0)
            return p;
        if ((p = skip_value(p)) == NULL || *(p = blank(p)) != ',')
            return NULL;
        p = blank(p + 1);
    }
    return NULL;
}

/* The letter an escape stands for; '?' for what no command of ours can hold. */
static char unescape(char letter)
{
    switch (letter) {
    case 'n':
        return '\n';
    case 't':
        return '\t';
    case '"':
    case '\\':
    case '/':
        return letter;
    default:
        return '?';
    }
}

bool json_string(const char *value, char *out, size_t size)
{
    size_t used = 0;

    if (value == NULL || *value != '"')
        return false;
    for (value++; *value != '\0' && *value != '"'; value++) {
        if (used + 1 >= size)
            return false;
        out[used++] = *value == '\\' && value[1] != '\0' ? unescape(*++value) : *value;
    }
    out[used] = '\0';
    return *value == '"';
}
