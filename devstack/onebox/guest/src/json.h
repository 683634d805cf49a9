/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright ovc_plugin contributors */
#ifndef OVC_JSON_H
#define OVC_JSON_H

#include <stdbool.h>
#include <stddef.h>

/* The value of KEY in OBJECT, still as text; NULL where OBJECT is none or has no such key. */
const char *json_member(const char *object, const char *key);

/* The INDEX-th item of ARRAY, still as text; NULL behind its end. */
const char *json_item(const char *array, unsigned index);

/* Decodes a string value; false where VALUE is not one or does not fit. */
bool json_string(const char *value, char *out, size_t size);

#endif
